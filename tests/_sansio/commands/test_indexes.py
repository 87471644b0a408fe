"""
Tests for L{txmongokit._sansio.commands.indexes}.
"""

from __future__ import annotations

from dataclasses import replace

from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.indexes import (
    CreateIndexes,
    CreateSearchIndexes,
    DropIndexes,
    DropSearchIndex,
    ListIndexes,
    UpdateSearchIndex,
)
from txmongokit.errors import ConfigurationError
from txmongokit.types import ConnectionInfo

INFO = ConnectionInfo(("a", 1), 2, max_wire_version=17)
OPTIONS = CommandOptions(
    read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority")
)
MISSING = {"ok": 0, "code": 26, "errmsg": "ns not found"}


class IndexTests(SynchronousTestCase):
    """
    What each command sends and puts up with.
    """

    def test_commit_quorum(self) -> None:
        """It needs MongoDB 4.4."""
        index = {"key": {"a": 1}, "name": "a_1"}
        command = CreateIndexes("db", "c", OPTIONS, [index], commit_quorum="majority")
        self.assertEqual(command.build(INFO).body["commitQuorum"], "majority")
        self.assertRaises(ConfigurationError, command.build, replace(INFO, max_wire_version=8))

    def test_missing_collection(self) -> None:
        """There are no indexes then, and none need to be dropped; other errors count."""
        listing = ListIndexes("db", "c", OPTIONS)
        for command in (
            listing,
            DropIndexes("db", "c", OPTIONS, "*"),
            DropSearchIndex("db", "c", OPTIONS, "x"),
        ):
            self.assertTrue(command.tolerates(MISSING))
            self.assertFalse(command.tolerates({"ok": 0, "code": 27, "errmsg": "index not found"}))
        batch = listing.parse(MISSING, INFO)
        self.assertEqual((batch.documents, batch.cursor_id), ([], 0))

    def test_search_indexes(self) -> None:
        """Commands about search indexes take no concerns."""
        definition = {"mappings": {"dynamic": True}}
        create = CreateSearchIndexes("db", "c", OPTIONS, [{"definition": definition}])
        update = UpdateSearchIndex("db", "c", OPTIONS, "x", definition, comment="why")
        drop = DropSearchIndex("db", "c", OPTIONS, "x")
        for command in (create, update, drop):
            self.assertFalse(command.is_write or command.is_read)
            self.assertIsNone(command.options.read_concern.level)
            self.assertTrue(command.options.write_concern.is_server_default)
        self.assertEqual(
            update.build(INFO).body,
            {"updateSearchIndex": "c", "name": "x", "definition": definition, "comment": "why"},
        )
        self.assertEqual(drop.build(INFO).body, {"dropSearchIndex": "c", "name": "x"})
