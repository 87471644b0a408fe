"""
Tests for L{txmongokit._net.balancedpool}, without a network.
"""

from __future__ import annotations

from typing import Any

from bson.objectid import ObjectId
from pymongo.monitoring import ConnectionPoolListener
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests._net.test_pool import ADDRESS, FakeProtocol
from txmongokit._net.balancedpool import BalancedPool, Pin
from txmongokit._net.observation import Observer
from txmongokit._net.pool import Origin, PooledConnection, PoolLimits
from txmongokit.errors import AutoReconnect, WaitQueueTimeoutError
from txmongokit.types import ConnectionInfo

ONE, TWO = ObjectId(), ObjectId()
CURSOR, OTHER, TRANSACTION = Pin(b"s", 7), Pin(b"s", 8), Pin(b"s")


class _Events(ConnectionPoolListener):
    """What happens to connections, by the names of the methods."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("pool_", "connection_")):
            events = self.events
            return lambda event: events.append((name, event))
        return super().__getattribute__(name)

    def count(self, name: str) -> int:
        """How often something happened."""
        return sum(each == name for each, _ in self.events)


class BalancedPoolTests(SynchronousTestCase):
    """
    Services, their generations, and what is pinned.
    """

    def setUp(self) -> None:
        """A pool whose connections are made by hand."""
        self.clock = Clock()
        self.attempts: list[tuple[Origin, Deferred[Any]]] = []
        self.failures: list[tuple[Exception, Origin]] = []
        self.events = _Events()
        self.pool = self.new_pool(max_size=2)

    def new_pool(self, **limits: Any) -> BalancedPool:
        """A pool that may be used at once."""

        def connect(origin: Origin) -> Deferred[Any]:
            attempt: Deferred[Any] = Deferred()
            self.attempts.append((origin, attempt))
            return attempt

        pool = BalancedPool(
            self.clock,
            ADDRESS,
            connect,
            lambda *told: self.failures.append(told),
            Observer((self.events,), ObjectId()),
            PoolLimits(**limits),
        )
        pool.resume()
        return pool

    def establish(self, service: ObjectId) -> None:
        """Let an attempt succeed."""
        origin, attempt = self.attempts.pop(0)
        self.pool.found_service(origin, service)
        protocol = FakeProtocol()
        protocol.info = ConnectionInfo(ADDRESS, 0, service_id=service)
        attempt.callback(protocol)

    def checked_out(self, service: ObjectId = ONE) -> PooledConnection:
        """A connection, established if need be."""
        waiting = self.pool.check_out(1.0)
        if not waiting.called:
            self.establish(service)
        connection: PooledConnection = self.successResultOf(waiting)
        return connection

    def test_services(self) -> None:
        """Clearing a service closes what is idle of it, and the rest when it comes back."""
        one, two = self.checked_out(ONE), self.checked_out(TWO)
        self.pool.check_in(two)
        self.pool.clear_service(ONE, AutoReconnect("gone"))
        self.assertFalse(two.protocol.closed)
        self.pool.check_in(one)
        self.assertTrue(one.protocol.closed)
        self.assertEqual(self.pool.statistics(), (1, 0, 0, 0))
        self.assertEqual(self.pool.generation_of(ONE), 1)
        self.assertEqual(self.pool.generation_of(TWO), 0)
        self.assertTrue(self.pool.ready)
        ((_, cleared),) = [each for each in self.events.events if each[0] == "pool_cleared"]
        self.assertEqual(cleared.service_id, ONE)

    def test_idle_service(self) -> None:
        """What is idle when its service is cleared goes at once; a new one belongs to the next
        generation."""
        one = self.checked_out(ONE)
        self.pool.check_in(one)
        self.pool.clear_service(ONE, AutoReconnect("gone"))
        self.assertTrue(one.protocol.closed)
        again = self.checked_out(ONE)
        self.assertEqual(again.generation, 1)
        self.pool.check_in(again)
        self.assertFalse(again.protocol.closed)

    def test_cleared_while_establishing(self) -> None:
        """An attempt whose service is cleared after hello fails as a stale one."""
        waiting = self.pool.check_out(1.0)
        origin, attempt = self.attempts.pop(0)
        self.pool.found_service(origin, ONE)
        self.pool.clear_service(ONE, AutoReconnect("gone"))
        attempt.errback(AutoReconnect("log-in failed"))
        self.failureResultOf(waiting, AutoReconnect)
        ((_, failed),) = self.failures
        self.assertEqual((failed.generation, failed.service_id), (0, ONE))
        (closed,) = [event for name, event in self.events.events if name == "connection_closed"]
        self.assertEqual(closed.reason, "stale")

    def test_cursor(self) -> None:
        """A pinned connection is one check-out, however often it is used."""
        connection = self.checked_out()
        self.pool.pin(CURSOR, connection)
        self.pool.check_in(connection)
        self.assertIsNone(self.pool.try_check_out())
        for _ in range(3):
            self.assertIs(self.pool.pinned(CURSOR), connection)
            self.pool.check_in(connection)
        self.assertEqual(self.events.count("connection_checked_in"), 0)
        self.pool.unpin(CURSOR)
        self.assertEqual(self.events.count("connection_checked_out"), 1)
        self.assertEqual(self.events.count("connection_checked_in"), 1)
        self.assertIs(self.pool.try_check_out(), connection)
        self.assertIsNone(self.pool.pinned(CURSOR))

    def test_both(self) -> None:
        """A transaction's cursors are on its connection, which the last of them gives back."""
        connection = self.checked_out()
        self.pool.pin(TRANSACTION, connection)
        self.pool.pin(CURSOR, connection)
        self.pool.pin(OTHER, connection)
        self.pool.check_in(connection)
        self.pool.unpin(TRANSACTION)
        self.pool.unpin(CURSOR)
        self.pool.unpin(CURSOR)
        self.assertEqual(self.events.count("connection_checked_in"), 0)
        self.pool.unpin_all(b"another session")
        self.assertEqual(self.events.count("connection_checked_in"), 0)
        self.pool.unpin_all(b"s")
        self.assertEqual(self.events.count("connection_checked_in"), 1)
        self.assertEqual(self.pool.statistics(), (1, 0, 0, 0))

    def test_unpinned_while_in_use(self) -> None:
        """What is unpinned during a command goes back with the command's end."""
        connection = self.checked_out()
        self.pool.pin(CURSOR, connection)
        self.pool.unpin(CURSOR)
        self.assertEqual(self.pool.statistics(), (0, 1, 0, 0))
        self.pool.check_in(connection)
        self.assertEqual(self.pool.statistics(), (1, 0, 0, 0))

    def test_lost(self) -> None:
        """A pinned connection that was lost stays checked out until somebody asks for it."""
        connection = self.checked_out()
        self.pool.pin(CURSOR, connection)
        self.pool.check_in(connection)
        protocol: Any = connection.protocol
        protocol.close()
        self.assertEqual(self.pool.statistics(), (0, 1, 0, 0))
        self.assertIsNone(self.pool.pinned(CURSOR))
        self.assertEqual(self.pool.statistics(), (0, 0, 0, 0))
        self.pool.pin(OTHER, connection)
        self.assertIsNone(self.pool.pinned(OTHER))

    def test_too_late(self) -> None:
        """Who waits in vain learns what the connections are used for."""
        self.pool.pin(CURSOR, self.checked_out())
        self.pool.pin(TRANSACTION, self.checked_out())
        waiting = self.pool.check_out(1.0)
        self.clock.advance(1.0)
        error = self.failureResultOf(waiting, WaitQueueTimeoutError).value
        self.assertIn(
            "maxPoolSize: 2, connections in use by cursors: 1, connections in use by "
            "transactions: 1, connections in use by other operations: 0",
            str(error),
        )

    def test_close(self) -> None:
        """Closing takes what only pins keep."""
        kept, busy = self.checked_out(), self.checked_out()
        self.pool.pin(CURSOR, kept)
        self.pool.check_in(kept)
        self.pool.close()
        self.assertTrue(kept.protocol.closed)
        self.assertFalse(busy.protocol.closed)
        self.pool.clear_service(ONE, AutoReconnect("late"))
        self.pool.check_in(busy)
        self.assertTrue(busy.protocol.closed)
        self.assertEqual(self.events.count("pool_cleared"), 0)

    def test_idle_time(self) -> None:
        """One that idled too long is not taken."""
        self.pool = self.new_pool(max_idle_time=5.0)
        connection = self.checked_out()
        self.pool.check_in(connection)
        self.clock.advance(6.0)
        self.assertIsNone(self.pool.try_check_out())
        self.assertTrue(connection.protocol.closed)
