"""
Tests for L{txmongokit.deployment} and the bulk writes of clients.
"""

from __future__ import annotations

from typing import Any

from bson.int64 import Int64
from pymongo import InsertOne
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import INFO, FakeRunner, cursor_reply
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit.changestream import ChangeStream
from txmongokit.deployment import Deployment
from txmongokit.errors import (
    AutoReconnect,
    ClientBulkWriteException,
    InvalidOperation,
    OperationFailure,
)
from txmongokit.sessions import ClientSession
from txmongokit.types import ConnectionInfo

NEW = ConnectionInfo(INFO.address, 2, max_wire_version=25)
RESULTS = "admin.$cmd.bulkWrite"
DONE = {"ok": 1, "idx": 0, "n": 1}


class FakeClient(Deployment[dict[str, Any]], FakeRunner):
    """A client without a network."""

    def __init__(self, *replies: Any, info: ConnectionInfo = NEW) -> None:
        FakeRunner.__init__(self, *replies, info=info)


def results(documents: list[Any], cursor_id: int = 0, **fields: Any) -> dict[str, Any]:
    """A reply to C{bulkWrite}."""
    return {**cursor_reply(documents, cursor_id, namespace=RESULTS), "nErrors": 0, **fields}


def fetched(documents: list[Any], cursor_id: int = 0) -> dict[str, Any]:
    """A reply to a getMore for results."""
    return cursor_reply(documents, cursor_id, more=True, namespace=RESULTS)


def inserts(count: int) -> list[Any]:
    """Write operations."""
    return [InsertOne({"_id": number}, namespace="db.things") for number in range(count)]


class DeploymentTests(SynchronousTestCase):
    """
    Databases and servers.
    """

    def test_databases(self) -> None:
        """They are listed, with all options, and named."""
        databases = [{"name": "a", "sizeOnDisk": 1}, {"name": "b", "sizeOnDisk": 2}]
        client = FakeClient(*[{"databases": databases, "ok": 1}] * 2)
        listed = client.list_databases(filter={"name": "a"}, comment="why")
        self.assertEqual(self.successResultOf(listed.to_list()), databases)
        self.assertEqual(self.successResultOf(client.list_database_names()), ["a", "b"])
        self.assertEqual(
            client.bodies,
            [
                {"listDatabases": 1, "filter": {"name": "a"}, "comment": "why"},
                {"listDatabases": 1, "nameOnly": True},
            ],
        )
        self.assertRaises(TypeError, client.list_databases, name_onyl=True)

    def test_drop_database(self) -> None:
        """By its name."""
        client = FakeClient()
        self.assertIsNone(self.successResultOf(client.drop_database("shop", comment="over")))
        self.assertEqual(client.bodies, [{"dropDatabase": 1, "comment": "over"}])
        self.assertEqual(client.commands[0].database, "shop")
        self.assertRaises(TypeError, client.drop_database, 5)

    def test_server_info(self) -> None:
        """The server's own words."""
        client = FakeClient({"version": "8.0.1", "ok": 1})
        self.assertEqual(self.successResultOf(client.server_info(timeout=2))["version"], "8.0.1")
        self.assertEqual(client.commands[0].options.timeout, 2)

    def test_watch(self) -> None:
        """A stream of the whole deployment, which opens when it is used."""
        client = FakeClient()
        self.assertIsInstance(client.watch(full_document="updateLookup"), ChangeStream)
        self.assertEqual(client.commands, [])


class BulkWriteTests(SynchronousTestCase):
    """
    Bulk writes over collections.
    """

    def test_cursor(self) -> None:
        """Results are fetched to their end, in one session and one deadline."""
        client = FakeClient(
            results([DONE], 5, nInserted=3),
            fetched([{**DONE, "idx": 1}], 5),
            fetched([{**DONE, "idx": 2}]),
        )
        written = client.bulk_write(inserts(3), verbose_results=True, comment="why", timeout=5)
        result = self.successResultOf(written)
        self.assertEqual(result.inserted_count, 3)
        self.assertEqual(list(result.insert_results), [0, 1, 2])
        self.assertEqual(client.names, ["bulkWrite", "getMore", "getMore"])
        more = {"getMore": Int64(5), "collection": "$cmd.bulkWrite", "comment": "why"}
        self.assertEqual(client.bodies[1], more)
        self.assertEqual(len(set(map(id, client.sessions))), 1)
        self.assertEqual(client.ended, client.sessions[:1])
        self.assertEqual({command.deadline for command in client.commands}, {5.0})

    def test_failure_ends_ordered(self) -> None:
        """An ordered one stops at its first failure and kills the cursor."""
        failure = {"ok": 0, "idx": 1, "code": 11000, "errmsg": "duplicate"}
        client = FakeClient(results([DONE, failure], 5, nInserted=1, nErrors=1))
        failed = self.failureResultOf(client.bulk_write(inserts(3)), ClientBulkWriteException)
        self.assertEqual(failed.value.partial_result.inserted_count, 1)
        self.assertEqual(client.names, ["bulkWrite", "killCursors"])

    def test_lost_results(self) -> None:
        """An error of a getMore ends it all, with what is known."""
        client = FakeClient(results([DONE], 5, nInserted=2), OperationFailure("no", 8))
        failed = self.failureResultOf(client.bulk_write(inserts(2)), ClientBulkWriteException)
        self.assertEqual(failed.value.error.code, 8)
        self.assertEqual(failed.value.partial_result.inserted_count, 2)
        self.assertEqual(client.names, ["bulkWrite", "getMore", "killCursors"])
        self.assertEqual(len(client.ended), 1)

    def test_cancelled(self) -> None:
        """Cancelling kills the cursor and gives the session back."""
        client = FakeClient(results([DONE], 5, nInserted=2), Deferred())
        written = client.bulk_write(inserts(2))
        written.cancel()
        self.failureResultOf(written, CancelledError)
        self.assertEqual(client.names[-1], "killCursors")
        self.assertEqual(len(client.ended), 1)

    def test_network(self) -> None:
        """An error of the network is within the error."""
        client = FakeClient(AutoReconnect("lost"))
        failed = self.failureResultOf(client.bulk_write(inserts(1)), ClientBulkWriteException)
        self.assertIsInstance(failed.value.error, AutoReconnect)

    def test_retryable_concern_error(self) -> None:
        """An unmet write concern that was not tried again is one of the results."""
        unmet = {"code": 91, "errmsg": "shutting down"}
        client = FakeClient(results([], nInserted=1, writeConcernError=unmet))
        failed = self.failureResultOf(client.bulk_write(inserts(1)), ClientBulkWriteException)
        self.assertEqual(failed.value.write_concern_errors, [unmet])

    def test_old_server(self) -> None:
        """A server before 8.0 is refused as such."""
        client = FakeClient(info=INFO)
        self.failureResultOf(client.bulk_write(inserts(1)), InvalidOperation)

    def test_unacknowledged(self) -> None:
        """It has no results and no order, and then no session."""
        client = FakeClient()
        none = WriteConcern(w=0)
        for wrong in ({}, {"ordered": False, "verbose_results": True}):
            self.assertRaises(
                InvalidOperation, client.bulk_write, inserts(1), write_concern=none, **wrong
            )
        self.assertRaises(InvalidOperation, client.bulk_write, [])
        self.assertRaises(TypeError, client.bulk_write, 5)

    def test_transaction(self) -> None:
        """In a transaction its write concern counts, and no other may be given."""
        client = FakeClient(results([], nInserted=1))
        client.options = CommandOptions(write_concern=WriteConcern(w=0))
        session = ClientSession(client, client.take_session(explicit=True))
        session.start_transaction(write_concern=WriteConcern(w=1))
        self.assertRaises(
            InvalidOperation, client.bulk_write, inserts(1), session, write_concern=WriteConcern(1)
        )
        result = self.successResultOf(client.bulk_write(inserts(1), session))
        self.assertTrue(result.acknowledged)
        self.assertEqual(client.sessions, [session.state])
        self.assertEqual(client.ended, [])
