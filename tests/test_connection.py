"""
Tests for L{txmongokit.connection}, in memory.
"""

from __future__ import annotations

import sys
from typing import Any

from pymongo.driver_info import DriverInfo
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool, MongoClient, MongoConnection
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from txmongokit.interfaces import IOperationRunner


class ConnectionPoolTests(SynchronousTestCase):
    """A client from its first operation to its end."""

    def setUp(self) -> None:
        """A client of a standalone server."""
        self.network = FakeNetwork()
        self.server = self.network.add()
        self.client = ConnectionPool(
            "mongodb://a", reactor=self.network.clock, endpoint_factory=self.network.endpoint
        )
        self.addCleanup(self.network.end, self.client)

    def ping(self) -> None:
        """Do something."""
        pinged = self.client["db"].command("ping")
        self.network.flush()
        self.successResultOf(pinged)

    def test_lazy(self) -> None:
        """Nothing is connected or scheduled before the first operation."""
        self.assertTrue(IOperationRunner.providedBy(self.client))
        self.assertEqual((self.server.attempts, self.network.clock.getDelayedCalls()), (0, []))
        self.ping()
        self.assertEqual(self.server.attempts, 2)

    def test_disconnect(self) -> None:
        """Sessions are ended, and the end is told when every socket is closed."""
        self.ping()
        ended = self.client.disconnect()
        again = self.client.disconnect()
        while self.server.connections:
            self.assertNoResult(ended)
            self.network._queue.popleft()()
        self.successResultOf(ended)
        self.successResultOf(again)
        self.assertEqual(self.server.names(), ["ping", "endSessions"])
        self.assertEqual(self.server.commands[1]["endSessions"], [self.server.commands[0]["lsid"]])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_silent_farewell(self) -> None:
        """A server that does not answer holds nobody up for more than a second."""
        self.ping()
        self.server.on_command = lambda body: None
        ended = self.client.disconnect()
        self.network.advance(0.875)
        self.assertNoResult(ended)
        self.network.advance(0.25)
        self.successResultOf(ended)

    def test_disconnect_unused(self) -> None:
        """A client that did nothing, and one that waits for a server, end at once."""
        self.successResultOf(self.client.disconnect())

    def test_disconnect_with_operations(self) -> None:
        """What is under way fails, retryable or not; so does what comes later."""
        self.ping()
        self.server.on_command = lambda body: None
        things = self.client["db"]["things"]
        operations = [things.find_one(1), things.insert_one({})]
        self.network.flush()
        ended = self.client.disconnect()
        self.network.advance(1.25)
        self.successResultOf(ended)
        for operation in operations:
            self.failureResultOf(operation, AutoReconnect)
        late = self.client["db"]["things"].insert_one({})
        self.assertIn("closed", str(self.failureResultOf(late, InvalidOperation).value))
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_disconnect_while_selecting(self) -> None:
        """Who waits for a server is told that the client was closed."""
        self.server.on_hello = lambda body: None
        waiting = self.client["db"]["things"].find_one(1)
        ended = self.client.disconnect()
        self.network.flush()
        self.successResultOf(ended)
        self.assertIn("closed", str(self.failureResultOf(waiting, AutoReconnect).value))

    def test_frames(self) -> None:
        """A find_one reaches the transport through six of our frames or fewer."""
        self.ping()
        counts: list[int] = []

        def count() -> None:
            frame: Any = sys._getframe()
            names = []
            while frame is not None:
                names.append(frame.f_globals.get("__name__", ""))
                frame = frame.f_back
            counts.append(sum(name.startswith("txmongokit") for name in names))

        self.network.on_write = count
        self.client["db"]["things"].find_one(1).addErrback(lambda failure: None)
        (frames,) = counts
        self.assertGreaterEqual(frames, 3)
        self.assertLessEqual(frames, 6)

    def test_databases(self) -> None:
        """Databases are attributes and items; the default one comes from the URI."""
        self.assertEqual(self.client.shop.name, self.client["shop"].name)
        with self.assertRaises(AttributeError):
            getattr(self.client, "_shop")  # noqa: B009  # the very thing tested
        with self.assertRaises(ConfigurationError):
            self.client.get_default_database()
        self.assertEqual(self.client.get_default_database("x").name, "x")

    def test_pool_size(self) -> None:
        """A pool size is a whole number of at least one."""
        for wrong in (0, -1, True, "7", 1.5):
            with self.assertRaises(ConfigurationError):
                ConnectionPool("mongodb://a", wrong)  # type: ignore[arg-type]
        sized = ConnectionPool("mongodb://a", 7, reactor=self.network.clock)
        self.assertEqual(sized.client_options.max_pool_size, 7)

    def test_plain_needs_tls(self) -> None:
        """A password is not sent in clear text."""
        uri = "mongodb://u:p@a/?authMechanism=PLAIN"
        with self.assertRaises(ConfigurationError) as refused:
            ConnectionPool(uri, reactor=self.network.clock)
        self.assertIn("tls=true", str(refused.exception))
        ConnectionPool(f"{uri}&tls=true", reactor=self.network.clock)

    def test_mongo_connection(self) -> None:
        """A client by host and port, IPv6 too."""
        client = MongoConnection("::1", 27018, reactor=self.network.clock)
        self.assertEqual(client.uri, "mongodb://[::1]:27018")
        self.assertEqual(client.client_options.seeds, (("::1", 27018),))


class AuthenticateTests(SynchronousTestCase):
    """Logging in at run time, by certificate, which is the shortest conversation."""

    def setUp(self) -> None:
        """A client of a server that knows one user, and has seen who asked for what."""
        self.network = FakeNetwork()
        self.server = self.network.add()
        self.server.on_command = self.answer
        self.client = ConnectionPool(
            "mongodb://a", reactor=self.network.clock, endpoint_factory=self.network.endpoint
        )
        self.addCleanup(self.network.end, self.client)

    def answer(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Let one user in; leave some finds without an answer."""
        if body.get("authenticate") and body.get("user") != "CN=known":
            return {"ok": 0, "code": 18, "errmsg": "Authentication failed."}
        return None if "find" in body else {"ok": 1}

    def log_in(self, user: str) -> Deferred[None]:
        """Begin to log in."""
        return self.client.authenticate("db", user, None, "MONGODB-X509")

    def ping(self) -> None:
        """Do something."""
        pinged = self.client["db"].command("ping")
        self.network.flush()
        self.successResultOf(pinged)

    def test_success(self) -> None:
        """From then on every connection is that user's; it is verified on one of its own."""
        self.ping()
        busy = self.client["db"]["things"].find_one({"x": 1})
        self.network.flush()
        before = set(self.server.connections)
        done = self.log_in("CN=known")
        self.network.flush()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.server.names(), ["ping", "find", "authenticate"])
        self.ping()
        self.assertEqual(self.server.names()[3:], ["authenticate", "ping"])
        # The operation under way keeps its connection until its end.
        self.assertNoResult(busy)
        (kept,) = before & set(self.server.connections) - {self.monitored()}
        kept.reply(
            self.request_id(kept), {"ok": 1, "cursor": {"firstBatch": [], "id": 0, "ns": ""}}
        )
        self.network.flush()
        self.assertIsNone(self.successResultOf(busy))
        self.network.flush()
        self.assertNotIn(kept, self.server.connections)

    def monitored(self) -> Any:
        """The monitor's connection, which is the first."""
        return self.server.connections[0]

    def request_id(self, transport: Any) -> int:
        """The request that waits on a connection."""
        (waiting,) = transport.protocol._waiting
        return int(waiting)

    def test_refused(self) -> None:
        """A refusal changes nothing, nor does a mechanism that is not supported."""
        self.ping()
        attempts = self.server.attempts
        for done, kind in (
            (self.log_in("CN=stranger"), OperationFailure),
            (self.client.authenticate("db", "u", "p", "MONGODB-OIDC"), ConfigurationError),
            (self.client.authenticate("db", "u", "p", "PLAIN"), ConfigurationError),
            (self.client["db"].authenticate("u", None), ConfigurationError),
        ):
            self.network.flush()
            self.failureResultOf(done, kind)
        self.ping()
        self.assertEqual(self.server.names(), ["ping", "authenticate", "ping"])
        self.assertEqual(self.server.attempts, attempts + 1)

    def test_no_server(self) -> None:
        """Without a server it fails as an operation does."""
        self.server.refuses = Deferred()
        done = self.log_in("CN=known")
        self.network.advance(31)
        self.failureResultOf(done, ServerSelectionTimeoutError)

    def test_cancelled(self) -> None:
        """Giving up changes nothing, and leaves no connection behind."""
        self.ping()
        count = len(self.server.connections)
        self.server.on_command = lambda body: None if "authenticate" in body else {"ok": 1}
        done = self.log_in("CN=known")
        self.network.flush()
        self.assertEqual(len(self.server.connections), count + 1)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.network.flush()
        self.assertEqual(len(self.server.connections), count)
        self.ping()
        self.assertEqual(self.server.names(), ["ping", "authenticate", "ping"])

    def test_after_the_end(self) -> None:
        """A closed client logs nobody in, and does not start."""
        self.network.end(self.client)
        self.failureResultOf(self.log_in("CN=known"), InvalidOperation)
        self.failureResultOf(self.client.aconnect(), InvalidOperation)

    def test_start(self) -> None:
        """A client can watch its servers before anybody asks for anything."""
        self.assertIsNone(self.successResultOf(self.client.aconnect()))
        self.network.flush()
        self.assertEqual(len(self.server.connections), 1)

    def test_append_metadata(self) -> None:
        """Naming a library that wraps us makes no connection and ends none."""
        self.ping()
        attempts = self.server.attempts
        self.client.append_metadata(DriverInfo("framework", "2.0", "Framework Platform"))
        self.ping()
        self.assertEqual(self.server.attempts, attempts)
        self.assertEqual(self.server.names(), ["ping", "ping"])

    def test_driver(self) -> None:
        """A library that wraps us can say so from the beginning."""
        seen: list[dict[str, Any]] = []
        self.server.on_hello = seen.append
        client = ConnectionPool(
            "mongodb://a",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            driver=DriverInfo("framework"),
        )
        self.addCleanup(self.network.end, client)
        client.aconnect()
        self.network.flush()
        self.assertEqual(seen[0]["client"]["driver"]["name"], "txmongokit|PyMongo|framework")


class ServersTests(SynchronousTestCase):
    """
    What a client by PyMongo's name tells of its servers.
    """

    def client(self, network: FakeNetwork, **options: Any) -> MongoClient[dict[str, Any]]:
        """A client of fake servers."""
        client: MongoClient[dict[str, Any]] = MongoClient(
            "a:27017", reactor=network.clock, endpoint_factory=network.endpoint, **options
        )
        self.addCleanup(network.end, client)
        return client

    def test_members(self) -> None:
        """The members of a set by what they are, and who takes writes."""
        network = FakeNetwork()
        network.replica_set("a", "b", "c")
        client = self.client(network, replicaSet="rs")
        self.assertEqual(client.nodes, frozenset())
        self.assertIsNone(client.primary)
        address, writable, mongos = client.address, client.is_primary, client.is_mongos
        self.assertNoResult(address)
        network.advance(1.0)
        self.assertEqual(self.successResultOf(address), ("a", 27017))
        self.assertIs(self.successResultOf(writable), True)
        self.assertIs(self.successResultOf(mongos), False)
        self.assertEqual(client.nodes, {("a", 27017), ("b", 27017), ("c", 27017)})
        self.assertEqual(client.primary, ("a", 27017))
        self.assertEqual(client.secondaries, {("b", 27017), ("c", 27017)})
        self.assertEqual(client.arbiters, set())
        self.assertEqual(client.read_preference.mode, 0)

    def test_mongos(self) -> None:
        """A mongos is known as one."""
        network = FakeNetwork()
        network.add().hello = {"msg": "isdbgrid"}
        mongos = self.client(network).is_mongos
        network.advance(1.0)
        self.assertIs(self.successResultOf(mongos), True)

    def test_context(self) -> None:
        """Leaving the context closes the client."""
        network = FakeNetwork()
        network.add()

        async def within() -> MongoClient[dict[str, Any]]:
            async with self.client(network) as client:
                return client

        done = Deferred.fromCoroutine(within())
        network.advance(2.0)
        client = self.successResultOf(done)
        self.failureResultOf(client["db"].command("ping"), PyMongoError)
