"""
Tests of the replicator.

Each case of the seed, jaraco.mongodb, has its twin: of C{oplog.js}, basic
operations (C{tests.integration.test_replication}: C{test_mixed_load}), what is
excluded (C{test_selection}) and included (C{test_included_and_renamed}, which
has the renamed index, too), renamed namespaces
(C{tests.integration.test_history}: C{test_renamed_databases_and_collections}),
renameCollection in a renamed database
(C{test_collections_renamed_in_a_renamed_database}), and resuming
(C{test_resume_file}); of C{test_oplog.py}, the index and the C{create} of a
renamed collection (C{test_ddl}: C{test_inline} and C{test_renamed}) and a
deleted index (C{test_history}: C{test_index_deleted}); of its doctests,
repeated options (C{test_arguments}: C{test_several_values}) and renames
(C{test_selection}: C{RenameTests}).  Entries are not printed here, since they
are documents of the source.
"""
