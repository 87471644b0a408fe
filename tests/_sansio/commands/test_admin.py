"""
Tests for L{txmongokit._sansio.commands.admin}.
"""

from __future__ import annotations

from dataclasses import replace

from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.admin import (
    AbortTransaction,
    CommitTransaction,
    DropDatabase,
    EndSessions,
    KillSessions,
    ListCollections,
    ListDatabases,
)
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.indexes import CreateIndexes, ListIndexes
from txmongokit.errors import WriteConcernError
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
