"""
Tests for L{txmongokit._net.executor}, through a client in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork, refusal
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    DocumentTooLarge,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)


def found(*documents: Any) -> dict[str, Any]:
    """A reply to find."""
    return {"ok": 1.0, "cursor": {"id": 0, "ns": "db.things", "firstBatch": list(documents)}}


class ExecutorTestCase(SynchronousTestCase):
    """A client of a set of one member, warmed up."""

    def setUp(self) -> None:
        """Connect."""
        self.network = FakeNetwork()
        (self.server,) = self.network.replica_set("a")
        self.client = self.new_client()
        self.things = self.client["db"]["things"]
        self.do(self.client["db"].command("ping"))
        self.network.advance(1.0)
        del self.server.commands[:]

    def new_client(self, **options: Any) -> ConnectionPool:
        """A client of the set."""
        client = ConnectionPool(
            "mongodb://a/?replicaSet=rs",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            **options,
        )
        self.addCleanup(self.network.end, client)
        return client

    def do(self, operation: Deferred[Any]) -> Any:
        """The result of an operation."""
        self.network.flush()
        return self.successResultOf(operation)

    def fails(self, operation: Deferred[Any], *kinds: type[Exception]) -> Any:
        """The error of an operation."""
        self.network.flush()
        return self.failureResultOf(operation, *kinds).value

    def answers(self, *answers: Any) -> None:
        """Answer one command after the other; the rest succeed."""
        script = list(answers)

        def answer(body: dict[str, Any]) -> Any:
            return script.pop(0) if script else {"ok": 1.0, "n": 1}

        self.server.on_command = answer


class BodyTests(ExecutorTestCase):
    """What a command carries besides its own fields."""

    def test_read(self) -> None:
        """A read has its database, a session, and no concern unless asked for."""
        self.answers(found({"_id": 1}))
        self.assertEqual(self.do(self.things.find_one(1)), {"_id": 1})
        (body,) = self.server.commands
        self.assertEqual(body["$db"], "db")
        self.assertEqual(len(body["lsid"]["id"]), 16)
        for absent in ("txnNumber", "readConcern", "writeConcern", "$readPreference", "maxTimeMS"):
            self.assertNotIn(absent, body)

    def test_concerns(self) -> None:
        """Reads carry the read concern and preference, writes the write concern."""
        things = self.things.with_options(
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w=2),
            read_preference=ReadPreference.SECONDARY_PREFERRED,
        )
        self.answers(found())
        self.do(things.find_one(1))
        self.do(things.insert_one({"_id": 1}))
        read, write = self.server.commands
        self.assertEqual(read["readConcern"], {"level": "majority"})
        self.assertEqual(read["$readPreference"], {"mode": "secondaryPreferred"})
        self.assertNotIn("writeConcern", read)
        self.assertEqual(write["writeConcern"], {"w": 2})
        self.assertNotIn("readConcern", write)
        self.assertNotIn("$readPreference", write)

    def test_cluster_time(self) -> None:
        """The latest cluster time of any reply goes with every later command."""
        times = [{"clusterTime": Timestamp(second, 1)} for second in (5, 9, 7)]
        self.answers(*({**found(), "$clusterTime": time} for time in times), found())
        for _ in range(4):
            self.do(self.things.find_one(1))
        self.assertEqual(
            [body.get("$clusterTime") for body in self.server.commands],
            [None, times[0], times[1], times[1]],
        )

    def test_sessions_are_used_again(self) -> None:
        """Operations one after the other share a session, those at once do not."""
        for _ in range(2):
            self.do(self.things.insert_one({}))
        things = self.things.with_options(write_concern=WriteConcern(1))
        together = [things.insert_one({}) for _ in range(2)]
        for each in together:
            self.do(each)
        ids = [body["lsid"]["id"] for body in self.server.commands]
        self.assertEqual(ids[0], ids[1])
        self.assertEqual(len(set(ids)), 2)
        numbers = [body["txnNumber"] for body in self.server.commands]
        self.assertEqual(numbers[0] + 1, numbers[1])

    def test_transaction(self) -> None:
        """The first command carries the read concern, the end the write concern."""
        things = self.things.with_options(read_concern=ReadConcern("local"))
        self.answers({"ok": 1.0, "n": 1}, found())
        session = self.client.start_session()
        session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority"))
        self.do(things.insert_one({"_id": 1}, session=session))
        self.do(things.find_one(1, session=session))
        self.do(session.commit_transaction())
        first, second, last = self.server.commands
        self.assertEqual(first["startTransaction"], True)
        self.assertEqual(first["readConcern"], {"level": "snapshot"})
        for body in (second, last):
            self.assertNotIn("startTransaction", body)
            self.assertNotIn("readConcern", body)
        for body in (first, second):
            self.assertNotIn("writeConcern", body)
        self.assertEqual(last["writeConcern"], {"w": "majority"})
        self.assertEqual({body["txnNumber"] for body in self.server.commands}, {1})
        self.assertEqual({body["autocommit"] for body in self.server.commands}, {False})

    def test_standalone(self) -> None:
        """A standalone server gets no transaction number."""
        server = self.network.add("alone")
        client = ConnectionPool(
            "mongodb://alone",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
        )
        self.do(client["db"]["things"].insert_one({}))
        self.assertNotIn("txnNumber", server.commands[0])

    def test_unacknowledged(self) -> None:
        """A write without acknowledgement fires at once and has no session."""
        things = self.things.with_options(write_concern=WriteConcern(w=0))
        result = self.successResultOf(things.insert_one({"_id": 1}))
        self.assertFalse(result.acknowledged)
        self.network.flush()
        (body,) = self.server.commands
        self.assertEqual(body["writeConcern"], {"w": 0})
        self.assertNotIn("lsid", body)
        self.assertNotIn("txnNumber", body)

    def test_too_large(self) -> None:
        """A document that is too large is refused, and the client works on."""
        self.fails(self.things.insert_one({"a": "x" * (17 << 20)}), DocumentTooLarge)
        self.do(self.things.insert_one({}))
        self.assertEqual(self.server.names(), ["insert"])


class SharingTests(ExecutorTestCase):
    """Who shares a connection with others."""

    def connections(self, *operations: Callable[[], Deferred[Any]]) -> int:
        """How many connections operations at one time take."""
        client = self.new_client()
        before = len(self.server.connections)
        things = client["db"]["things"]
        self.things = things
        self.do(client["db"].command("ping"))
        pending = [operation() for operation in operations]
        self.network.flush()
        for each in pending:
            self.successResultOf(each)
        # One is the monitor's, another its stopwatch's.
        return len(self.server.connections) - before - 1

    def test_point_commands(self) -> None:
        """Point commands share one, others have their own."""
        self.server.on_command = lambda body: found() if "find" in body else {"ok": 1.0, "n": 1}
        short = [lambda: self.things.find_one({"_id": 1})] * 3
        self.assertEqual(self.connections(*short), 1)
        acknowledged_by_one = [
            lambda: self.things.with_options(write_concern=WriteConcern(1)).insert_one({})
        ] * 3
        self.assertEqual(self.connections(*acknowledged_by_one), 1)
        self.assertEqual(self.connections(*[lambda: self.things.find_one({"a": 1})] * 3), 3)

    def test_waiting_for_others(self) -> None:
        """
        What waits for other members of a set does not share: a write by the
        set's own default, which may be a majority, and a read after it on a
        secondary.
        """
        self.assertEqual(self.connections(*[lambda: self.things.insert_one({})] * 3), 3)


class RetryTests(ExecutorTestCase):
    """What is tried a second time."""

    def test_read(self) -> None:
        """A read whose connection is lost is sent again once the server was seen."""
        self.answers(ConnectionError("reset"), found({"_id": 1}))
        operation = self.things.find_one(1)
        self.network.advance(1.5)
        self.assertEqual(self.do(operation), {"_id": 1})
        self.assertEqual(self.server.names(), ["find", "find"])

    def test_read_once(self) -> None:
        """The second failure is final."""
        self.answers(ConnectionError("one"), ConnectionError("two"), found())
        operation = self.things.find_one(1)
        self.network.advance(3.0)
        self.assertIn("two", str(self.fails(operation, AutoReconnect)))
        self.assertEqual(len(self.server.commands), 2)

    def test_write(self) -> None:
        """A write is sent again under the same number, in the same session."""
        self.answers(ConnectionError("reset"))
        operation = self.things.insert_one({"_id": 1})
        self.network.advance(1.5)
        self.do(operation)
        one, two = self.server.commands
        for field in ("txnNumber", "lsid", "documents"):
            self.assertEqual(one[field], two[field])

    def test_dirty_session(self) -> None:
        """A session that met a network error is not used again."""
        self.answers(ConnectionError("reset"))
        operation = self.things.insert_one({"_id": 1})
        self.network.advance(1.5)
        self.do(operation)
        self.do(self.things.insert_one({"_id": 2}))
        self.assertNotEqual(self.server.commands[1]["lsid"], self.server.commands[2]["lsid"])

    def test_codes(self) -> None:
        """Reads are tried again after some codes, writes after the server's label."""
        self.answers({"ok": 0, "code": 189, "errmsg": "later"}, found())
        operation = self.things.find_one(1)
        self.network.advance(1.5)
        self.do(operation)
        labelled = {"ok": 0, "code": 7, "errmsg": "no", "errorLabels": ["RetryableWriteError"]}
        self.answers(labelled)
        self.do(self.things.insert_one({}))
        self.assertEqual(self.server.names(), ["find"] * 2 + ["insert"] * 2)
        self.answers({"ok": 0, "code": 7, "errmsg": "no"})
        self.fails(self.things.insert_one({}), OperationFailure)
        self.answers({"ok": 0, "code": 2, "errmsg": "bad value"})
        self.fails(self.things.find_one(1), OperationFailure)

    def test_never(self) -> None:
        """
        Many-document writes, transactions and clients that turned it off
        are not tried again.
        """
        quiet = self.new_client(retryWrites=False, retryReads=False)["db"]["things"]
        self.do(quiet.insert_one({}))
        session = self.client.start_session()
        session.start_transaction()
        operations: list[Callable[[], Deferred[Any]]] = [
            lambda: self.things.update_many({}, {"$set": {"a": 1}}),
            lambda: self.things.insert_one({}, session=session),
            lambda: quiet.insert_one({}),
            lambda: quiet.find_one(1),
        ]
        for operation in operations:
            del self.server.commands[:]
            self.answers(ConnectionError("reset"))
            error = self.fails(operation(), AutoReconnect)
            self.network.advance(1.5)
            self.assertEqual(len(self.server.commands), 1)
            self.assertEqual(
                error.has_error_label("TransientTransactionError"), operation is operations[1]
            )
        self.assertNotIn("txnNumber", self.server.commands[0])

    def test_commit(self) -> None:
        """A commit is sent again with a majority; its unknown outcome is labelled."""
        session = self.client.start_session()
        session.start_transaction()
        self.do(self.things.insert_one({}, session=session))
        self.answers(*(ConnectionError("reset") for _ in range(2)))
        committing = session.commit_transaction()
        self.network.advance(3.0)
        error = self.fails(committing, AutoReconnect)
        self.assertTrue(error.has_error_label("UnknownTransactionCommitResult"))
        self.assertEqual(self.server.commands[-1]["writeConcern"]["w"], "majority")
        self.assertEqual(self.server.names(), ["insert", "commitTransaction", "commitTransaction"])

    def test_no_server_for_second_try(self) -> None:
        """Where the second try finds no server, the first error is what is raised."""
        client = self.new_client(serverSelectionTimeoutMS=2000)
        self.do(client["db"]["things"].insert_one({}))
        self.answers(ConnectionError("the first error"))
        operation = client["db"]["things"].insert_one({})
        self.server.refuses = refusal()
        self.network.flush()
        self.server.lose_all()
        self.network.advance(4.0)
        error = self.fails(operation, AutoReconnect)
        self.assertIn("the first error", str(error))
        self.assertTrue(error.has_error_label("RetryableWriteError"))

    def test_connection_refused(self) -> None:
        """Where there is no connection, nothing was sent; a second try waits for a server."""
        client = self.new_client()
        self.do(client["db"]["things"].insert_one({}))
        held = client["db"]["things"].insert_one({})
        self.server.refuses = refusal()
        operation = client["db"]["things"].insert_one({"_id": 7})
        self.server.refuses = None
        self.network.advance(1.5)
        self.do(held)
        self.do(operation)
        self.assertEqual([b["documents"][0]["_id"] for b in self.server.commands].count(7), 1)

    def test_not_primary(self) -> None:
        """A member that stepped down is left for the new primary."""
        other = self.network.add("b")
        self.network.elect("a")
        self.network.advance(11.0)

        def stepped_down(body: dict[str, Any]) -> dict[str, Any]:
            self.network.elect("b")
            return {
                "ok": 0,
                "code": 10107,
                "errmsg": "not primary",
                "errorLabels": ["RetryableWriteError"],
            }

        self.server.on_command = stepped_down
        operation = self.things.insert_one({"_id": 1})
        self.network.advance(1.5)
        self.do(operation)
        self.assertEqual(other.names(), ["insert"])
        self.server.on_command = other.on_command = lambda body: {
            "ok": 0,
            "code": 10107,
            "errmsg": "not primary",
        }
        self.fails(self.things.insert_one({}), NotPrimaryError)

    def test_no_writes_performed(self) -> None:
        """Where the second try did nothing, the first error tells more."""
        first = {"ok": 0, "code": 91, "errmsg": "one", "errorLabels": ["RetryableWriteError"]}
        labels = ["RetryableWriteError", "NoWritesPerformed"]
        self.answers(first, {"ok": 0, "code": 10107, "errmsg": "two", "errorLabels": labels})
        operation = self.things.insert_one({})
        self.network.advance(1.5)
        self.assertIn("one", str(self.fails(operation, PyMongoError)))


class LimitTests(ExecutorTestCase):
    """Nothing waits for ever."""

    def test_timeout(self) -> None:
        """A time limit is told to the server, and ends the wait and the connection."""
        self.answers(None)
        operation = self.things.find_one({"a": 1}, timeout=2.0)
        self.network.advance(1.0)
        self.assertNoResult(operation)
        connections = len(self.server.connections)
        self.network.advance(1.0)
        error = self.fails(operation, NetworkTimeout)
        self.assertIn("a:27017: no reply within 2 s", str(error))
        self.assertEqual(self.server.commands[0]["maxTimeMS"], 2000)
        self.assertEqual(len(self.server.connections), connections - 1)
        self.assertEqual(self.server.names(), ["find"])

    def test_socket_timeout(self) -> None:
        """C{socketTimeoutMS} ends one try; a read has a second."""
        client = self.new_client(socketTimeoutMS=1000)
        self.do(client["db"].command("ping"))
        self.answers(None, found({"_id": 1}))
        operation = client["db"]["things"].find_one(1)
        self.network.advance(1.5)
        self.assertEqual(self.do(operation), {"_id": 1})

    def test_wait_queue(self) -> None:
        """A queue that is too long is an error, without a second wait."""
        client = self.new_client(maxPoolSize=1, waitQueueTimeoutMS=1000)
        self.do(client["db"].command("ping"))
        self.answers(None)
        blocked = client["db"]["things"].find_one(1)
        operation = client["db"]["things"].find_one(2)
        self.network.advance(1.0)
        self.fails(operation, WaitQueueTimeoutError)
        blocked.cancel()
        self.failureResultOf(blocked)

    def test_silent_server(self) -> None:
        """An operation without limit ends when its server stops answering the monitor."""
        self.answers(*[None] * 9)
        self.server.on_hello = lambda body: None
        operation = self.things.insert_one({})
        things = self.things.update_many({}, {"$set": {"a": 1}})
        self.network.advance(31.0)
        self.assertNoResult(operation)  # It tries again, as long as selection takes.
        self.fails(things, AutoReconnect)
        self.network.advance(31.0)
        self.fails(operation, AutoReconnect)
