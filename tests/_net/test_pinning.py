"""
Tests for L{txmongokit._net.pinning} and what a client says to a load balancer:
the whole conversation, through a client in memory with a scripted server.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.errors import InvalidDocument
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo.monitoring import CommandListener, ConnectionPoolListener
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork, FakeServer, MemoryTransport
from txmongokit._sansio import messages as m
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    CursorNotFound,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)

SHUTTING_DOWN = {"ok": 0.0, "code": 91, "codeName": "ShutdownInProgress", "errmsg": "bye"}


class Balancer(FakeServer):
    """
    A scripted load balancer: connections go to its services in turn.

    @ivar services: their C{serviceId}s; none for something else.
    @ivar heard: each command with the number of its connection, from 0.
    """

    def __init__(self, network: FakeNetwork) -> None:
        super().__init__(network, ("lb", 27017))
        self.services: list[ObjectId | None] = [ObjectId()]
        self.heard: list[tuple[int, dict[str, Any]]] = []
        self._numbers: dict[MemoryTransport, int] = {}

    def answer(self, transport: MemoryTransport, body: dict[str, Any]) -> Any:
        """What a mongos would say."""
        number = self._numbers.setdefault(transport, len(self._numbers))
        self.heard.append((number, body))
        reply = super().answer(transport, body)
        service = self.services[number % len(self.services)]
        if next(iter(body)) == "hello" and service is not None and reply.get("ok"):
            return {**reply, "msg": "isdbgrid", "serviceId": service}
        return reply

    def said(self) -> list[tuple[int, str]]:
        """The names of the commands that came, each with its connection."""
        return [(number, next(iter(body))) for number, body in self.heard]


def batch(cursor_id: int, *documents: Any, field: str = "firstBatch") -> dict[str, Any]:
    """A reply with a cursor."""
    cursor = {"id": Int64(cursor_id), "ns": "db.things", field: list(documents)}
    return {"ok": 1.0, "cursor": cursor}


class Events(CommandListener, ConnectionPoolListener):
    """What happens, by the names of the listeners' methods."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("pool_", "connection_", "started", "succeeded", "failed")):
            seen = self.seen
            return lambda event: seen.append((name, event))
        return super().__getattribute__(name)

    def of(self, *names: str) -> list[Any]:
        """The events of these names."""
        return [event for name, event in self.seen if name in names]

    def checked_out(self) -> int:
        """How many connections are."""
        return len(self.of("connection_checked_out")) - len(self.of("connection_checked_in"))


class BalancedTestCase(SynchronousTestCase):
    """A client of a load balancer."""

    def setUp(self) -> None:
        """Nothing is connected before the first operation."""
        self.network = FakeNetwork()
        self.server = Balancer(self.network)
        self.network.servers[self.server.address] = self.server
        self.events = Events()
        self.client = self.new_client()
        self.things = self.client["db"]["things"]

    def new_client(self, **options: Any) -> ConnectionPool:
        """A client of it."""
        client = ConnectionPool(
            "mongodb://lb/?loadBalanced=true",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            event_listeners=[self.events],
            **options,
        )
        self.addCleanup(self.network.end, client)
        return client

    def do(self, operation: Any) -> Any:
        """The result of an operation."""
        deferred = (
            operation if isinstance(operation, Deferred) else Deferred.fromCoroutine(operation)
        )
        self.network.flush()
        return self.successResultOf(deferred)

    def fails(self, operation: Any, *kinds: type[Exception]) -> Any:
        """The error of an operation."""
        deferred = (
            operation if isinstance(operation, Deferred) else Deferred.fromCoroutine(operation)
        )
        self.network.flush()
        return self.failureResultOf(deferred, *kinds).value

    def answers(self, **answers: Any) -> None:
        """Answer commands by their names, the last answer again and again; others succeed."""
        scripts = {
            name: list(given) if isinstance(given, list) else [given]
            for name, given in answers.items()
        }

        def answer(body: dict[str, Any]) -> Any:
            replies = scripts.get(next(iter(body)), [{"ok": 1.0, "n": 1}])
            return replies.pop(0) if len(replies) > 1 else replies[0]

        self.server.on_command = answer


class HandshakeTests(BalancedTestCase):
    """What is said first, and what must be answered."""

    def test_hello(self) -> None:
        """Each connection says loadBalanced in an OP_MSG; there is no monitor."""
        self.do(self.client["db"].command("ping"))
        self.network.advance(60.0, 5.0)
        self.assertEqual(self.server.said(), [(0, "hello"), (0, "ping")])
        hello, ping = self.server.messages
        assert isinstance(hello, m.OpMsg)
        assert isinstance(ping, m.OpMsg)
        metadata = self.server.heard[0][1]["client"]
        self.assertEqual(
            hello.body,
            bson.encode(
                {
                    "hello": 1,
                    "helloOk": True,
                    "backpressure": True,
                    "client": metadata,
                    "loadBalanced": True,
                    "$db": "admin",
                }
            ),
        )
        self.assertEqual((hello.flags, hello.sequences), (0, ()))
        lsid = self.server.heard[1][1]["lsid"]
        self.assertEqual(ping.body, bson.encode({"ping": 1, "$db": "db", "lsid": lsid}))

    def test_no_service(self) -> None:
        """What names no service is no service behind a load balancer."""
        self.server.services = [None]
        error = self.fails(self.client["db"].command("ping"), ConfigurationError)
        self.assertEqual(
            str(error),
            "Driver attempted to initialize in load balancing mode, but the server does not "
            "support this mode.",
        )
        self.assertEqual(self.client.topology_description.topology_type_name, "LoadBalanced")
        self.assertEqual(self.events.of("pool_cleared"), [])

    def test_sessions(self) -> None:
        """There are sessions, whatever hello says of them, and they do not expire."""
        self.server.hello = {"logicalSessionTimeoutMinutes": None}
        self.do(self.client["db"].command("ping"))
        self.network.advance(36_000.0, 3_000.0)
        self.do(self.client["db"].command("ping"))
        (_, first), (_, second) = [each for each in self.server.heard if "ping" in each[1]]
        self.assertEqual(first["lsid"], second["lsid"])

    def test_read_preference(self) -> None:
        """A load balancer is told of the read preference, as a mongos is."""
        client = self.new_client(readPreference="secondaryPreferred")
        self.answers(find=batch(0))
        self.do(client["db"]["things"].find_one({"a": 1}))
        found = self.server.heard[-1][1]
        self.assertEqual(found["$readPreference"], {"mode": "secondaryPreferred"})

    def test_two_hosts(self) -> None:
        """One load balancer, no set, no direct connection."""
        for uri in (
            "mongodb://a,b/?loadBalanced=true",
            "mongodb://a/?loadBalanced=true&replicaSet=rs",
            "mongodb://a/?loadBalanced=true&directConnection=true",
        ):
            with self.assertRaises(ConfigurationError):
                ConnectionPool(uri, reactor=self.network.clock)


class CursorTests(BalancedTestCase):
    """A cursor keeps its connection."""

    def setUp(self) -> None:
        """Two documents, then two."""
        super().setUp()
        self.answers(
            find=batch(7, {"_id": 1}, {"_id": 2}),
            getMore=batch(0, {"_id": 3}, {"_id": 4}, field="nextBatch"),
        )

    def test_drained(self) -> None:
        """The next batch comes through the same connection, which is given back with the last."""
        cursor = self.things.find(batch_size=2)
        self.assertEqual(self.do(cursor.next()), {"_id": 1})
        self.assertEqual(self.events.checked_out(), 1)
        self.do(self.client["db"].command("ping"))
        self.assertEqual(len(self.do(cursor.to_list())), 3)
        self.assertEqual(
            self.server.said(),
            [(0, "hello"), (0, "find"), (1, "hello"), (1, "ping"), (0, "getMore")],
        )
        self.assertEqual(self.events.checked_out(), 0)
        self.assertEqual(len(self.events.of("connection_checked_out")), 2)

    def test_closed(self) -> None:
        """killCursors goes through it, too, and it is given back whatever comes of that."""
        for reply in ({"ok": 1.0}, {"ok": 0.0, "code": 13, "errmsg": "no"}, AutoReconnect("lost")):
            self.answers(find=batch(7, {"_id": 1}), killCursors=reply)
            del self.server.heard[:]
            cursor = self.things.find(batch_size=1)
            self.do(cursor.next())
            self.assertEqual(self.events.checked_out(), 1)
            self.do(cursor.close())
            (found, _), (killed, body) = [
                each for each in self.server.heard if next(iter(each[1])) != "hello"
            ]
            self.assertEqual(found, killed)
            self.assertEqual(body["cursors"], [7])
            self.assertEqual(self.events.checked_out(), 0)

    def test_lost(self) -> None:
        """A connection that is lost stays checked out until the cursor is closed, and nothing is
        killed elsewhere."""
        self.answers(find=batch(7, {"_id": 1}), getMore=AutoReconnect("lost"))
        cursor = self.things.find(batch_size=1)
        self.do(cursor.next())
        self.fails(cursor.next(), AutoReconnect)
        self.assertEqual(self.events.checked_out(), 1)
        self.do(cursor.close())
        self.assertEqual(self.events.checked_out(), 0)
        self.assertNotIn("killCursors", self.server.names())

    def test_lost_in_session(self) -> None:
        """An explicit session, which may last, does not keep what was lost."""
        self.answers(find=batch(7, {"_id": 1}), getMore=AutoReconnect("lost"))
        session = self.client.start_session()
        cursor = self.things.find(batch_size=1, session=session)
        self.do(cursor.next())
        self.fails(cursor.next(), AutoReconnect)
        self.assertEqual(self.events.checked_out(), 0)

    def test_lost_between(self) -> None:
        """One that was lost while nobody used it is an error of the next batch, not a fetch from
        another service."""
        cursor = self.things.find(batch_size=2)
        self.do(cursor.next())
        self.do(cursor.next())
        self.server.lose_all()
        error = self.fails(cursor.next(), AutoReconnect)
        self.assertIn("the cursor was bound to", str(error))
        self.assertNotIn("getMore", self.server.names())
        self.do(cursor.close())
        self.assertEqual(self.events.checked_out(), 0)

    def test_gone(self) -> None:
        """A cursor that the server does not know any more keeps nothing."""
        unknown = {"ok": 0.0, "code": 43, "codeName": "CursorNotFound", "errmsg": "gone"}
        self.answers(find=batch(7, {"_id": 1}), getMore=unknown)
        session = self.client.start_session()
        cursor = self.things.find(batch_size=1, session=session)
        self.do(cursor.next())
        self.fails(cursor.next(), CursorNotFound)
        self.assertEqual(self.events.checked_out(), 0)

    def test_two(self) -> None:
        """Two cursors of one session have two connections."""
        self.answers(find=[batch(7, {"_id": 1}), batch(8, {"_id": 1})])
        session = self.client.start_session()
        one = self.things.find(batch_size=1, session=session)
        two = self.things.find(batch_size=1, session=session)
        self.do(one.next())
        self.do(two.next())
        self.assertEqual(self.events.checked_out(), 2)
        self.do(one.close())
        self.do(two.close())
        killed = [(n, body["cursors"]) for n, body in self.server.heard if "killCursors" in body]
        self.assertEqual(killed, [(0, [7]), (1, [8])])

    def test_raw_command(self) -> None:
        """A command by hand keeps nothing, though its reply has a cursor."""
        session = self.client.start_session()
        self.do(self.client["db"].command("find", "things", session=session))
        self.assertEqual(self.events.checked_out(), 0)

    def test_wait_queue(self) -> None:
        """Who waits in vain learns that a cursor has the connection."""
        client = self.new_client(maxPoolSize=1, waitQueueTimeoutMS=100)
        cursor = client["db"]["things"].find(batch_size=2)
        self.do(cursor.next())
        waiting = client["db"].command("ping")
        self.network.advance(1.0)
        error = self.failureResultOf(waiting, WaitQueueTimeoutError).value
        self.assertIn("in use by cursors: 1, connections in use by transactions: 0", str(error))
        self.do(cursor.close())


class TransactionTests(BalancedTestCase):
    """A transaction keeps its connection."""

    def setUp(self) -> None:
        """A session."""
        super().setUp()
        self.session = self.client.start_session()

    def connections(self, *names: str) -> list[int]:
        """Which connections commands went through."""
        return [number for number, name in self.server.said() if name in names]

    def begin(self) -> None:
        """Insert something in a new transaction."""
        self.session.start_transaction()
        self.do(self.things.insert_one({}, session=self.session))

    def test_commit(self) -> None:
        """All of it goes through one connection, a second commit as well, until the session does
        something else."""
        self.begin()
        self.do(self.client["db"].command("ping"))
        self.do(self.things.insert_one({}, session=self.session))
        self.do(self.session.commit_transaction())
        self.do(self.session.commit_transaction())
        self.assertEqual(self.connections("insert", "commitTransaction"), [0, 0, 0, 0])
        self.assertEqual(self.connections("ping"), [1])
        self.assertEqual(self.events.checked_out(), 1)
        self.do(self.things.insert_one({}, session=self.session))
        self.assertEqual(self.events.checked_out(), 0)

    def test_abort(self) -> None:
        """It is given back when the transaction was aborted, or could not be."""
        for reply in ({"ok": 1.0}, {"ok": 0.0, "code": 251, "errmsg": "no such transaction"}):
            self.answers(abortTransaction=reply)
            self.begin()
            self.assertEqual(self.events.checked_out(), 1)
            self.do(self.session.abort_transaction())
            self.assertEqual(self.events.checked_out(), 0)

    def test_session_ends(self) -> None:
        """It is given back when the session ends, which aborts."""
        self.begin()
        self.do(self.session.end_session())
        self.assertEqual(self.connections("abortTransaction"), [0])
        self.assertEqual(self.events.checked_out(), 0)

    def test_error(self) -> None:
        """An error that ends nothing keeps it; a transient one does not."""
        self.begin()
        self.answers(insert={"ok": 0.0, "code": 8, "errmsg": "no"})
        self.fails(self.things.insert_one({}, session=self.session), OperationFailure)
        self.assertEqual(self.events.checked_out(), 1)
        transient = ["TransientTransactionError"]
        self.answers(insert={"ok": 0.0, "code": 112, "errmsg": "no", "errorLabels": transient})
        self.fails(self.things.insert_one({}, session=self.session), OperationFailure)
        self.assertEqual(self.events.checked_out(), 0)

    def test_first_error(self) -> None:
        """The first command's error, too, leaves a transaction that is to be aborted there."""
        self.answers(insert={"ok": 0.0, "code": 8, "errmsg": "no"})
        self.session.start_transaction()
        self.fails(self.things.insert_one({}, session=self.session), OperationFailure)
        self.do(self.client["db"].command("ping"))
        self.do(self.session.abort_transaction())
        self.assertEqual(self.connections("insert", "abortTransaction"), [0, 0])
        self.assertEqual(self.events.checked_out(), 0)

    def test_not_sent(self) -> None:
        """What could not be sent leaves nothing to abort, and nothing kept."""
        self.session.start_transaction()
        wrong = self.things.find_one({"a": object()}, session=self.session)
        self.fails(wrong, InvalidDocument)
        self.assertEqual(self.events.checked_out(), 1)
        self.do(self.session.abort_transaction())
        self.assertEqual(self.events.checked_out(), 0)
        self.assertEqual(self.connections("abortTransaction"), [])

    def test_lost(self) -> None:
        """A lost connection unpins; the commit's second try goes elsewhere."""
        self.begin()
        self.answers(commitTransaction=[AutoReconnect("lost"), {"ok": 1.0}])
        self.do(self.session.commit_transaction())
        self.assertEqual(self.connections("insert", "commitTransaction"), [0, 0, 1])
        self.assertEqual(self.events.checked_out(), 0)

    def test_lost_between(self) -> None:
        """One that is lost unseen is a transient error of the next command."""
        self.begin()
        self.server.lose_all()
        error = self.fails(self.things.insert_one({}, session=self.session), AutoReconnect)
        self.assertTrue(error.has_error_label("TransientTransactionError"))
        self.assertEqual(self.connections("insert"), [0])
        self.assertEqual(self.events.checked_out(), 0)

    def test_cursor(self) -> None:
        """A transaction's cursor is on its connection, which both of them keep."""
        self.answers(find=batch(7, {"_id": 1}))
        self.begin()
        cursor = self.things.find(batch_size=1, session=self.session)
        self.do(cursor.next())
        self.do(self.session.abort_transaction())
        self.assertEqual(self.events.checked_out(), 1)
        self.do(cursor.close())
        self.assertEqual(self.connections("insert", "find", "abortTransaction"), [0, 0, 0])
        self.assertEqual(self.connections("killCursors"), [0])
        self.assertEqual(self.events.checked_out(), 0)
        self.assertEqual(len(self.events.of("connection_checked_out")), 1)

    def test_two(self) -> None:
        """Two transactions never share a connection."""
        other = self.client.start_session()
        self.begin()
        other.start_transaction()
        self.do(self.things.insert_one({}, session=other))
        self.do(self.things.insert_one({}, session=self.session))
        self.assertEqual(self.connections("insert"), [0, 1, 0])
        self.do(other.abort_transaction())
        self.do(self.session.abort_transaction())
        self.assertEqual(self.connections("abortTransaction"), [1, 0])


class ServiceTests(BalancedTestCase):
    """Errors say something of a service, never of the load balancer."""

    def setUp(self) -> None:
        """Two services, a connection each."""
        super().setUp()
        self.one, self.two = ObjectId(), ObjectId()
        self.server.services = [self.one, self.two]
        cursors = [self.things.find(batch_size=1) for _ in range(2)]
        self.answers(find=[batch(7, {"_id": 1}), batch(8, {"_id": 1})])
        for cursor in cursors:
            self.do(cursor.next())
        for cursor in cursors:
            self.do(cursor.close())
        del self.server.heard[:]

    def test_shutdown(self) -> None:
        """A service that shuts down loses its connections; the other's is used on."""
        self.answers(insert=SHUTTING_DOWN)
        command = self.client["db"].command("insert", "things", documents=[{}])
        self.fails(command, NotPrimaryError)
        (cleared,) = self.events.of("pool_cleared")
        self.assertEqual(cleared.service_id, self.two)
        (closed,) = self.events.of("connection_closed")
        self.assertEqual(closed.reason, "stale")
        last = [name for name, _ in self.events.seen][-3:]
        self.assertEqual(last, ["pool_cleared", "connection_checked_in", "connection_closed"])
        self.do(self.client["db"].command("ping"))
        self.assertEqual(self.server.said()[-1], (0, "ping"))
        (server,) = self.client.topology_description.server_descriptions().values()
        self.assertEqual(server.server_type_name, "LoadBalancer")

    def test_events(self) -> None:
        """Commands' events name the service."""
        del self.events.seen[:]
        self.do(self.client["db"].command("ping"))
        self.answers(ping={"ok": 0.0, "code": 8, "errmsg": "no"})
        self.fails(self.client["db"].command("ping"), OperationFailure)
        told = self.events.of("started", "succeeded", "failed")
        self.assertEqual([each.service_id for each in told], [self.two] * 4)

    def test_hello_fails(self) -> None:
        """That a connection cannot be had clears nothing; the next attempt is made."""
        self.server.lose_all()
        self.server.on_hello = lambda body: {"ok": 0.0, "code": 11600, "errmsg": "bye"}
        self.fails(self.things.insert_one({}), PyMongoError)
        self.server.on_hello = None
        self.do(self.things.insert_one({}))
        self.assertEqual(self.events.of("pool_cleared"), [])
