"""
Tests for L{txmongokit._sansio.commands.admin}.
"""

from __future__ import annotations

from dataclasses import replace

from pymongo.collation import Collation
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.admin import (
    AbortTransaction,
    CommitTransaction,
    CreateCollection,
    Drop,
    DropDatabase,
    EndSessions,
    KillSessions,
    ListCollections,
    ListDatabases,
    ModifyCollection,
    ServerInformation,
    ValidateCollection,
)
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.indexes import CreateIndexes, ListIndexes
from txmongokit.errors import CollectionInvalid, ConfigurationError, WriteConcernError
from txmongokit.types import ConnectionInfo

INFO = ConnectionInfo(("a", 1), 2, max_wire_version=17)
OPTIONS = CommandOptions()


class AdminTests(SynchronousTestCase):
    """
    What each command sends.
    """

    def test_commit_retry(self) -> None:
        """A repeated commit wants a majority; a given wtimeout stays."""
        options = replace(OPTIONS, write_concern=WriteConcern(w=1, j=True, wtimeout=5))
        command = CommitTransaction(options)
        command.retrying()
        expected = {"w": "majority", "j": True, "wtimeout": 5}
        self.assertEqual(command.options.write_concern.document, expected)
        self.assertEqual(command.build(INFO).body, {"commitTransaction": 1})
        self.assertEqual(command.database, "admin")
        self.assertEqual(AbortTransaction(OPTIONS).build(INFO).body, {"abortTransaction": 1})

    def test_sessions(self) -> None:
        """Sessions are ended and killed by their documents."""
        self.assertEqual(
            EndSessions([{"id": 1}], OPTIONS).build(INFO).body["endSessions"], [{"id": 1}]
        )
        self.assertIn("killSessions", KillSessions([], OPTIONS).build(INFO).body)

    def test_listings(self) -> None:
        """Definitions are read from the primary, and may be read twice."""
        options = replace(OPTIONS, read_preference=ReadPreference.SECONDARY)
        for command in (
            ListCollections("db", options, filter={"name": "a"}),
            ListIndexes("db", "c", options),
            ListDatabases(options, name_only=True),
        ):
            self.assertEqual(command.options.read_preference, ReadPreference.PRIMARY)
            self.assertTrue(command.retryable)

    def test_write_concern_error(self) -> None:
        """A definition whose write concern is not met fails."""
        reply = {"ok": 1, "writeConcernError": {"code": 100, "errmsg": "x"}}
        for command in (
            DropDatabase("db", OPTIONS),
            CreateIndexes("db", "c", OPTIONS, [{"key": {"a": 1}, "name": "a_1"}]),
        ):
            self.assertRaises(WriteConcernError, command.parse, reply, INFO)
            self.assertFalse(command.retryable)

    def test_listed_databases(self) -> None:
        """The databases come as one batch."""
        command = ListDatabases(OPTIONS, filter={"name": "a"}, nameOnly=True)
        body = {"listDatabases": 1, "filter": {"name": "a"}, "nameOnly": True}
        self.assertEqual(command.build(INFO).body, body)
        batch = command.parse({"databases": [{"name": "a"}], "ok": 1}, INFO)
        self.assertEqual((batch.documents, batch.cursor_id), ([{"name": "a"}], 0))

    def test_definitions(self) -> None:
        """The server's options are sent as they are, C{None} left out; encryption is refused."""
        collation = Collation("de")
        created = CreateCollection("db", "c", OPTIONS, capped=True, size=None, collation=collation)
        expected = {"create": "c", "capped": True, "collation": collation.document}
        self.assertEqual(created.build(INFO).body, expected)
        changed = ModifyCollection("db", "c", OPTIONS, expireAfterSeconds=5)
        self.assertEqual(changed.build(INFO).body, {"collMod": "c", "expireAfterSeconds": 5})
        self.assertRaises(
            ConfigurationError, CreateCollection, "db", "c", OPTIONS, encryptedFields={}
        )
        self.assertEqual(ServerInformation(OPTIONS).build(INFO).body, {"buildInfo": 1})

    def test_missing(self) -> None:
        """That there is nothing to drop is no error, that there is nothing to change is one."""
        missing = {"ok": 0, "code": 26, "errmsg": "ns not found"}
        self.assertTrue(Drop("db", "c", OPTIONS).tolerates(missing))
        self.assertFalse(ModifyCollection("db", "c", OPTIONS).tolerates(missing))

    def test_validation(self) -> None:
        """Damage is an error, on any shard."""
        command = ValidateCollection("db", "c", OPTIONS, full=True)
        self.assertEqual(command.build(INFO).body, {"validate": "c", "full": True})
        fine = {"valid": True, "ok": 1}
        self.assertEqual(command.parse(fine, INFO), fine)
        for reply in (
            {"valid": False, "errors": ["hole"], "ok": 1},
            {"raw": {"s1": fine, "s2": {"valid": False}}, "ok": 1},
            {"result": "an exception: corrupt", "ok": 1},
        ):
            error = self.assertRaises(CollectionInvalid, command.parse, reply, INFO)
            self.assertIn("db.c", str(error))
