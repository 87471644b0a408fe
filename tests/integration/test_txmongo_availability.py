"""
What TxMongo 26.0.0 was seen to do wrong where servers, connections and time
are concerned, and that txmongokit does not.  The other half, and the whole
list, is in L{tests.integration.test_txmongo_defects}.

 13. Operations wait for ever: L{WaitingTests.test_13_no_server},
     L{WaitingTests.test_13_queue}, L{WaitingTests.test_13_disconnect}.
 14. One dead connection stops others: L{ConnectionTests.test_14_dead_connection}.
 15. A slow query stops others: L{ConnectionTests.test_15_slow_query}.
 16. Fail-over is dumb: L{FailoverTests.test_16_not_primary},
     L{FailoverTests.test_16_discovery}; elections under load are in
     L{tests.integration.test_faults}.
 17. Unsuitable servers are dialled again and again:
     L{StormTests.test_17_wrong_set}, L{StormTests.test_17_refused},
     L{StormTests.test_17_wrong_password}.
 18. Large replies cost the square of their length: L{LargeTests.test_18_linear},
     L{LargeTests.test_18_limit}, L{ConnectionTests.test_18_large}.
 19. Cancelling and C{timeout} do not reach the server:
     L{WaitingTests.test_19_cancel}, L{WaitingTests.test_19_timeout}.
 20. A server's silence goes unnoticed: L{SilenceTests.test_20_frozen},
     L{ConnectionTests.test_20_keep_alive}.
 21. Nothing is tried again, errors have no labels:
     L{FailoverTests.test_21_retries}, L{FailoverTests.test_21_labels}.
 22. The constructor asks DNS, and blocks: L{NameTests.test_22_constructor}.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from tests._sansio.test_framing import CountingBuffer, CountingBytes, CountingReader, frame
from tests.deployments import Commands, SharedTestCase, shared_secure, shared_set
from txmongokit._sansio.framing import FrameReader
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

reactor: Any = installed_reactor

MB = 1 << 20


def slowly(milliseconds: int) -> dict[str, Any]:
    """A filter that matches the first document after a while."""
    return {"$where": f"sleep({milliseconds}) || true"}


class Wire(ProtocolWrapper):
    """
    One connection.

    @ivar sent: what the client wrote.
    """

    def __init__(self, factory: Any, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self.sent = bytearray()

    def write(self, data: bytes) -> None:
        """Note it."""
        self.sent += data
        super().write(data)

    def writeSequence(self, data: Sequence[bytes]) -> None:
        """Note it."""
        self.write(b"".join(data))


class _WireFactory(WrappingFactory):
    protocol = Wire
    noisy = False


class Wires:
    """
    The connections of one client, as an C{endpoint_factory}.

    @ivar dialled: how many were begun.
    @ivar wires: those that were made.
    @ivar down: whether no further one gets through, nor is refused.
    """

    def __init__(self) -> None:
        self.dialled = 0
        self.wires: list[Wire] = []
        self.down = False

    def endpoint(self, reactor: Any, host: str, port: int | None) -> IStreamClientEndpoint:
        """Dial, and keep what comes of it."""
        return _Endpoint(self, HostnameEndpoint(reactor, host, port or 0))

    def carrying(self, word: bytes) -> list[Wire]:
        """Those on which something was sent."""
        return [wire for wire in self.wires if word in wire.sent]


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, wires: Wires, endpoint: IStreamClientEndpoint) -> None:
        self._wires = wires
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See L{IStreamClientEndpoint}."""
        self._wires.dialled += 1
        if self._wires.down:
            return Deferred()
        connecting: Deferred[Any] = self._endpoint.connect(_WireFactory(protocolFactory))
        return connecting.addCallback(self._connected)

    def _connected(self, wire: Wire) -> Any:
        self._wires.wires.append(wire)
        return wire.wrappedProtocol


def running(comment: str) -> int:
    """How many operations with this comment the primary works on."""
    with shared_set().primary().client() as client:
        found = client["admin"].aggregate(
            [{"$currentOp": {}}, {"$match": {"command.comment": comment, "op": {"$ne": "none"}}}]
        )
        return len([each for each in found if "aggregate" not in each["command"]])


async def until_running(comment: str, count: int, seconds: float = 10.0) -> None:
    """Wait until the primary works on so many."""
    end = time.monotonic() + seconds
    while (found := await deferToThread(running, comment)) != count:
        assert time.monotonic() < end, f"{found} operations still run, not {count}"
        await deferLater(reactor, 0.05)


class WaitingTests(SharedTestCase):
    """Nothing waits for ever, and what is not waited for ends."""

    async def test_13_no_server(self) -> None:
        """13: TxMongo waits for ever where there is no server."""
        options = ConnectionPool("mongodb://127.0.0.1:1").client_options
        self.assertEqual((options.server_selection_timeout, options.wait_queue_timeout), (30, 30))
        pool = self.client("mongodb://127.0.0.1:1", serverselectiontimeoutms=300)
        begun = time.monotonic()
        waiting = [pool["db"]["things"].find_one({"_id": n}) for n in range(5)]
        for each in waiting:
            error = await self.error_of(each, ServerSelectionTimeoutError)
            self.assertIn("refused", str(error))
        self.assertLess(time.monotonic() - begun, 3.0)

    async def test_13_queue(self) -> None:
        """13: TxMongo queues operations without limit, of number or of time."""
        pool = self.client(shared_set().uri, 1, waitqueuetimeoutms=300, waitqueuesize=1)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        slow = things.find_one(slowly(1500))
        second = things.find_one({"_id": 2})
        third = things.find_one({"_id": 3})
        begun = time.monotonic()
        await self.error_of(third, WaitQueueTimeoutError)
        self.assertNoResult(second)
        await self.error_of(second, WaitQueueTimeoutError)
        self.assertLess(time.monotonic() - begun, 1.2)
        self.assertEqual(await slow, {"_id": 1})

    async def test_13_disconnect(self) -> None:
        """13: TxMongo's C{disconnect} leaves what waits waiting for ever."""
        pool = self.client(shared_set().uri, 1)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        in_flight = things.find_one(slowly(20_000))
        queued = things.find_one({"_id": 1})
        gone = self.client("mongodb://127.0.0.1:1")
        selecting = gone["db"]["things"].find_one()
        await deferLater(reactor, 0.1)
        for each in (in_flight, queued, selecting):
            self.assertNoResult(each)
        begun = time.monotonic()
        closing = gatherResults([pool.disconnect(), gone.disconnect()])
        for each in (in_flight, queued, selecting):
            await self.error_of(each)
        await closing
        self.assertLess(time.monotonic() - begun, 3.0)

    async def test_19_cancel(self) -> None:
        """19: TxMongo's cancelled operations go on at the server, and keep their connection."""
        pool = self.client(shared_set().uri, 1)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        slow = things.find_one(slowly(30_000), comment=self.database)
        await until_running(self.database, 1)
        slow.cancel()
        slow.addErrback(lambda failure: None)
        begun = time.monotonic()
        self.assertEqual(await things.find_one({"_id": 1}), {"_id": 1})
        self.assertLess(time.monotonic() - begun, 5.0)
        await until_running(self.database, 0)

    async def test_19_timeout(self) -> None:
        """19: TxMongo does not tell the server of C{timeout}, which works on."""
        commands = Commands()
        pool = self.client(shared_set().uri, event_listeners=[commands])
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        begun = time.monotonic()
        slow = things.find_one(slowly(30_000), comment=self.database, timeout=0.4)
        self.assertTrue((await self.error_of(slow)).timeout)
        self.assertLess(time.monotonic() - begun, 3.0)
        (event,) = commands.named("find")
        self.assertTrue(0 < event.command["maxTimeMS"] <= 400)
        await until_running(self.database, 0)


class ConnectionTests(SharedTestCase):
    """Connections do not stand in one another's way."""

    async def test_14_dead_connection(self) -> None:
        """14: TxMongo gives every second operation to the one of two connections that is down."""
        wires = Wires()
        pool = self.client(shared_set().uri, 2, endpoint_factory=wires.endpoint)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        await gatherResults([things.find_one(slowly(100)) for _ in range(2)])
        dead, _ = wires.carrying(b"$where")
        wires.down = True
        transport: Any = dead.transport
        transport.abortConnection()
        await deferLater(reactor, 0.05)
        begun = time.monotonic()
        for _ in range(2):
            found = await gatherResults([things.find_one({"_id": 1}) for _ in range(6)])
            self.assertEqual(found, [{"_id": 1}] * 6)
        self.assertLess(time.monotonic() - begun, 2.0)

    async def test_15_slow_query(self) -> None:
        """15: TxMongo answers a ping beside a query of one second after that second."""
        pool = self.client(shared_set().uri)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        slow = things.find_one(slowly(1500))
        begun = time.monotonic()
        for _ in range(3):
            await pool[self.database].command("ping")
            await things.find_one({"_id": 1})
        self.assertLess(time.monotonic() - begun, 0.75)
        self.assertNoResult(slow)
        self.assertEqual(await slow, {"_id": 1})

    async def test_18_large(self) -> None:
        """18: TxMongo blocks the reactor for the square of a reply's length: these have 48 MB."""
        pool = self.client(shared_set().uri)
        things = pool[self.database]["things"]
        for n in range(6):
            await things.insert_one({"_id": n, "data": bytes(8 * MB)})
        cursor = things.find().sort("_id", 1)
        self.assertEqual(sum([len(each["data"]) async for each in cursor]), 48 * MB)

    async def test_20_keep_alive(self) -> None:
        """20: TxMongo's connections are not kept alive, and are dropped unnoticed while idle."""
        wires = Wires()
        pool = self.client(shared_set().uri, endpoint_factory=wires.endpoint)
        await pool[self.database]["things"].find_one()
        self.assertGreater(len(wires.wires), 1)
        for wire in wires.wires:
            transport: Any = wire.transport
            self.assertTrue(transport.getTcpKeepAlive())


class FailoverTests(SharedTestCase):
    """Members fail, and others serve."""

    def setUp(self) -> None:
        """Make a client of the set."""
        super().setUp()
        self.commands = Commands()

    async def things(self, *arguments: Any, **options: Any) -> Any:
        """A collection with one document."""
        pool = self.client(shared_set().uri, *arguments, event_listeners=[self.commands], **options)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 0})
        return things

    async def test_16_not_primary(self) -> None:
        """16: One NotPrimary reply makes TxMongo fail all that is under way on the connection."""
        things = await self.things(maxpoolsize=2, connection_sharing=30)
        del self.commands.sent[:]
        self.fail_point(shared_set(), "insert", errorCode=10107)
        slow = things.find_one(slowly(300))
        before = [things.find_one({"_id": 0}) for _ in range(10)]
        inserting = things.insert_one({"_id": 1})
        after = [things.find_one({"_id": 0}) for _ in range(10)]
        found = await gatherResults([slow, *before, *after])
        self.assertEqual(found, [{"_id": 0}] * 21)
        self.assertEqual((await inserting).inserted_id, 1)
        self.assertEqual(len(self.commands.named("find")), 21)
        self.assertEqual(len(self.commands.named("insert")), 2)

    async def test_16_discovery(self) -> None:
        """16: TxMongo does not learn of members, nor which of them is primary, from the others."""
        primary = shared_set().primary().address
        (other,) = set(shared_set().addresses) - {primary}
        pool = self.client(
            f"mongodb://127.0.0.1:{other[1]}/?replicaSet=rs0", event_listeners=[self.commands]
        )
        await pool[self.database]["things"].insert_one({"_id": 1})
        (event,) = self.commands.named("insert")
        self.assertEqual(event.connection_id, primary)

    async def test_21_retries(self) -> None:
        """21: TxMongo tries nothing again."""
        things = await self.things()
        for name, call in (
            ("insert", lambda: things.insert_one({"_id": 2})),
            ("find", lambda: things.find_one({"_id": 2})),
        ):
            for fault in ({"closeConnection": True}, {"errorCode": 11602}):
                await things.delete_one({"_id": 2})
                self.fail_point(shared_set(), name, **fault)
                del self.commands.sent[:]
                await call()
                self.assertEqual(len(self.commands.named(name)), 2, fault)

    async def test_21_labels(self) -> None:
        """21: TxMongo's network errors do not say that a transaction may be tried again."""
        things = await self.things()
        pool = things.database.client
        async with pool.start_session() as session:
            session.start_transaction()
            await things.insert_one({"_id": 3}, session=session)
            self.fail_point(shared_set(), "find", closeConnection=True)
            error = await self.error_of(things.find_one(session=session), AutoReconnect)
            self.assertTrue(error.has_error_label("TransientTransactionError"))

        async def transfer(session: Any) -> None:
            await things.insert_one({"_id": 4}, session=session)
            await things.find_one(session=session)

        self.fail_point(shared_set(), "find", closeConnection=True)
        async with pool.start_session() as session:
            await session.with_transaction(transfer)
        self.assertEqual(await things.count_documents({"_id": {"$gte": 3}}), 1)


class StormTests(SharedTestCase):
    """Who cannot be used is left alone."""

    async def storm(self, uri: str, **options: Any) -> tuple[Wires, list[Any]]:
        """Begin twenty operations at once; the connections made, and the errors."""
        wires = Wires()
        pool = self.client(uri, 20, endpoint_factory=wires.endpoint, **options)
        waiting = [pool["db"]["things"].insert_one({"_id": n}) for n in range(20)]
        return wires, [await self.error_of(each) for each in waiting]

    async def test_17_wrong_set(self) -> None:
        """17: TxMongo dials a member of another set about once a second for each connection."""
        uri = shared_set().uri.replace("rs0", "other")
        wires, errors = await self.storm(uri, serverselectiontimeoutms=2500)
        for error in errors:
            self.assertIsInstance(error, ServerSelectionTimeoutError)
        # Each member's monitor, and again where the set is known no more.
        self.assertLessEqual(wires.dialled, 6)

    async def test_17_refused(self) -> None:
        """17: TxMongo does the same where connections are refused; ours waits between tries."""
        wires, errors = await self.storm("mongodb://127.0.0.1:1", serverselectiontimeoutms=2500)
        for error in errors:
            self.assertIsInstance(error, ServerSelectionTimeoutError)
        self.assertLessEqual(wires.dialled, 8)

    async def test_17_wrong_password(self) -> None:
        """17: TxMongo does the same with a wrong password; ours tries when there is work alone."""
        uri = shared_secure().uri.replace(":secret@", ":wrong@")
        wires, errors = await self.storm(uri)
        for error in errors:
            self.assertIsInstance(error, OperationFailure)
        dialled = wires.dialled
        self.assertLessEqual(dialled, 8)
        await deferLater(reactor, 1.5)
        # The monitor may have begun to measure round trips meanwhile.
        self.assertLessEqual(wires.dialled, dialled + 1)


class LargeTests(SynchronousTestCase):
    """Large messages."""

    def test_18_linear(self) -> None:
        """18: TxMongo copies all of a message that has come with each piece: 7.2 s for 48 MB."""
        for size in (12 * MB, 24 * MB, 45 * MB):
            CountingBuffer.appends = CountingBuffer.copied = CountingBytes.copied = 0
            reader = CountingReader()
            view = memoryview(frame(size))
            found: list[Any] = []
            for start in range(0, size, 65536):
                reader.feed(CountingBytes(view[start : start + 65536]))
                found.extend(iter(reader.next_frame, None))
            self.assertEqual([sum(map(len, each)) for each in found], [size])
            # The first piece is moved, and all are put together once, at the end.
            self.assertLessEqual(CountingBuffer.appends, 2)
            self.assertEqual(CountingBuffer.copied, 65536)
            self.assertEqual(CountingBytes.copied, 0)

    def test_18_limit(self) -> None:
        """18: TxMongo believes any length that a server announces."""
        reader = FrameReader()
        with self.assertRaises(ProtocolError):
            reader.feed(b"\xff\xff\xff\x7f" + bytes(12))
            reader.next_frame()


class SilenceTests(SharedTestCase):
    """A server that is there, and says nothing."""

    async def test_20_frozen(self) -> None:
        """20: TxMongo notices within 20 s, or never: ours when the monitor's patience ends."""
        (member,) = shared_secure().members
        pid = member.pid
        assert pid is not None
        pool = self.client(
            shared_secure().uri,
            heartbeatfrequencyms=500,
            connecttimeoutms=500,
            serverselectiontimeoutms=300,
        )
        await pool["db"]["things"].find_one()
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        await self.error_of(pool["db"]["things"].find_one(), AutoReconnect)
        self.assertLess(time.monotonic() - begun, 8.0)
        os.kill(pid, signal.SIGCONT)
        await deferLater(reactor, 1.0)
        await pool["db"]["things"].find_one()


class Names:
    """
    A name server that never answers.

    @ivar asked: how often it was asked.
    """

    def __init__(self) -> None:
        self.asked = 0

    def lookupService(self, name: str) -> Deferred[Any]:
        """Nothing."""
        self.asked += 1
        return Deferred()

    lookupText = lookupService


class NameTests(TestCase):
    """Names are looked up when they are needed, without blocking."""

    async def test_22_constructor(self) -> None:
        """22: TxMongo looks C{mongodb+srv} up in the constructor, and blocks the reactor."""

        def refuse(*arguments: Any, **options: Any) -> Any:
            raise AssertionError("a name is looked up, and everybody waits")

        for name in ("getaddrinfo", "gethostbyname", "socket", "create_connection"):
            self.patch(socket, name, refuse)
        names = Names()
        pool = ConnectionPool("mongodb+srv://service.example.test/db?tls=false", resolver=names)
        other = ConnectionPool("mongodb://service.example.test")
        self.assertEqual(names.asked, 0)
        self.assertIn("service.example.test", f"{pool!r} {other!r}")
        waiting = pool["db"]["things"].find_one()
        self.assertGreater(names.asked, 0)
        self.assertNoResult(waiting)
        await pool.disconnect()
        await self.assertFailure(waiting, PyMongoError)
