"""
Tests for L{txmongokit.connection}, in memory.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool, MongoConnection
from txmongokit.errors import AutoReconnect, ConfigurationError, InvalidOperation
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
