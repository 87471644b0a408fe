"""
Tests for L{txmongokit._net.pool}, without a network.
"""

from __future__ import annotations

from collections.abc import Callable

from bson.objectid import ObjectId
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._net.observation import Observer
from txmongokit._net.pool import Origin, Pool, PooledConnection, PoolLimits
from txmongokit.errors import AutoReconnect, OperationFailure, WaitQueueTimeoutError
from txmongokit.types import ConnectionInfo

ADDRESS = ("db.example", 27017)


class FakeProtocol:
    """What the pool looks at of a protocol."""

    def __init__(self) -> None:
        self.info = ConnectionInfo(ADDRESS, 0)
        self.closed = False
        self.idle = True
        self.on_drained: Callable[[], None] | None = None
        self.on_lost: Callable[[Exception], None] | None = None

    def close(self, reason: Exception | None = None) -> None:
        """Close as if the transport went at once."""
        self.closed = True
        self.idle = False
        if self.on_lost is not None:
            on_lost, self.on_lost = self.on_lost, None
            on_lost(reason or AutoReconnect("closed"))

    abort = close


class PoolTestCase(SynchronousTestCase):
    """
    Pools of fake connections.
    """

    def setUp(self) -> None:
        """A pool whose connections are made by hand."""
        self.clock = Clock()
        self.attempts: list[Deferred[FakeProtocol]] = []
        self.failures: list[tuple[Exception, int]] = []
        self.failed: Callable[[Exception, int], None] = lambda *told: self.failures.append(told)

    def pool(self, **options: object) -> Pool:
        """A pool that is ready."""

        def connect(origin: Origin) -> Deferred[FakeProtocol]:
            attempt: Deferred[FakeProtocol] = Deferred()
            self.attempts.append(attempt)
            return attempt

        pool = Pool(
            self.clock,
            ADDRESS,
            connect,  # type: ignore[arg-type]  # a fake protocol stands in
            self.tell_failure,
            Observer((), ObjectId()),
            PoolLimits(**options),  # type: ignore[arg-type]
        )
        pool.resume()
        return pool

    def tell_failure(self, error: Exception, origin: Origin) -> None:
        """What the pool calls when an attempt failed."""
        self.failed(error, origin.generation)

    def checked_out(self, pool: Pool) -> PooledConnection:
        """A connection, established if need be."""
        waiting = pool.check_out(10)
        if not waiting.called:
            self.attempts.pop(0).callback(FakeProtocol())
        connection: PooledConnection = self.successResultOf(waiting)
        return connection


class PoolTests(PoolTestCase):
    """
    Checking out and in, limits, clearing and closing.
    """

    def test_reuse(self) -> None:
        """A connection that was given back is the next one taken."""
        pool = self.pool()
        first = self.checked_out(pool)
        pool.check_in(first)
        self.assertIs(pool.try_check_out(), first)
        self.assertEqual(pool.statistics(), (0, 1, 0, 0))

    def test_exclusive(self) -> None:
        """Two check-outs at a time get two connections."""
        pool = self.pool()
        self.assertIsNot(self.checked_out(pool), self.checked_out(pool))

    def test_limit(self) -> None:
        """At the limit a check-out waits for the next check-in."""
        pool = self.pool(max_size=1)
        first = self.checked_out(pool)
        waiting = pool.check_out(10)
        self.assertEqual(self.attempts, [])
        self.assertNoResult(waiting)
        pool.check_in(first)
        self.assertIs(self.successResultOf(waiting), first)

    def test_wait_queue_timeout(self) -> None:
        """Who waits too long is told so, and by what it can be mended."""
        pool = self.pool(max_size=1)
        self.checked_out(pool)
        waiting = pool.check_out(2.5)
        self.clock.advance(2.5)
        error = self.failureResultOf(waiting, WaitQueueTimeoutError).value
        self.assertIn("maxPoolSize", str(error))
        self.assertEqual(pool.statistics().waiting, 0)

    def test_queue_size(self) -> None:
        """No more wait than may; the others fail at once."""
        pool = self.pool(max_size=1, queue=2)
        self.checked_out(pool)
        waiting = [pool.check_out(10) for _ in range(3)]
        error = self.failureResultOf(waiting.pop(), WaitQueueTimeoutError).value
        self.assertIn("waitQueueSize", str(error))
        for each in waiting:
            self.assertNoResult(each)

    def test_first_come_first_served(self) -> None:
        """Waiters are served in the order in which they came."""
        pool = self.pool(max_size=1)
        first = self.checked_out(pool)
        waiters = [pool.check_out(10) for _ in range(3)]
        pool.check_in(first)
        self.assertEqual([waiter.called for waiter in waiters], [True, False, False])

    def test_max_connecting(self) -> None:
        """No more than C{max_connecting} are established at a time."""
        pool = self.pool(max_connecting=2)
        for _ in range(5):
            pool.check_out(10)
        self.assertEqual(len(self.attempts), 2)
        self.attempts[0].callback(FakeProtocol())
        self.assertEqual(len(self.attempts), 3)

    def test_cancelled_waiter(self) -> None:
        """Cancelling leaves the queue; the connection enters the pool."""
        pool = self.pool()
        waiting = pool.check_out(10)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.attempts[0].callback(FakeProtocol())
        self.assertEqual(pool.statistics(), (1, 0, 0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed_connection_is_not_kept(self) -> None:
        """A connection that was lost while in use is not given out again."""
        pool = self.pool()
        first = self.checked_out(pool)
        first.protocol.close()
        pool.check_in(first)
        self.assertEqual(pool.statistics(), (0, 0, 0, 0))

    def test_busy_connection_is_not_kept(self) -> None:
        """A connection that owes a reply is closed at check-in."""
        pool = self.pool()
        first = self.checked_out(pool)
        first.protocol.idle = False  # type: ignore[misc]  # a fake protocol
        pool.check_in(first)
        self.assertTrue(first.protocol.closed)
        self.assertIsNone(pool.try_check_out())

    def test_lost_while_idle(self) -> None:
        """A connection that the server closes leaves the pool by itself."""
        pool = self.pool()
        first = self.checked_out(pool)
        pool.check_in(first)
        first.protocol.close()
        self.assertEqual(pool.statistics(), (0, 0, 0, 0))

    def test_idle_too_long(self) -> None:
        """A connection that idled longer than allowed is not given out."""
        pool = self.pool(max_idle_time=60)
        self.clock.advance(1)
        first = self.checked_out(pool)
        pool.check_in(first)
        self.clock.advance(61)
        self.assertIsNone(pool.try_check_out())
        self.assertTrue(first.protocol.closed)

    def test_clear(self) -> None:
        """
        Clearing closes what is idle, fails who waits, pauses, and makes what
        is in use useless.
        """
        pool = self.pool(max_size=2)
        idle, used = self.checked_out(pool), self.checked_out(pool)
        pool.check_in(idle)
        pool.check_in(used)
        used_again = self.checked_out(pool)
        other = idle if used_again is used else used
        pool.clear(AutoReconnect("the server went away"))
        self.assertTrue(other.protocol.closed)
        self.assertFalse(used_again.protocol.closed)
        refused = self.failureResultOf(pool.check_out(10), AutoReconnect).value
        self.assertIn("the server went away", str(refused))
        pool.check_in(used_again)
        self.assertTrue(used_again.protocol.closed)
        self.assertEqual(pool.generation, 1)

    def test_clear_fails_waiters(self) -> None:
        """Who waits when the pool is cleared learns why."""
        pool = self.pool(max_size=1)
        self.checked_out(pool)
        waiting = pool.check_out(10)
        pool.clear(AutoReconnect("gone"))
        self.assertIn("gone", str(self.failureResultOf(waiting, AutoReconnect).value))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_clear_interrupts(self) -> None:
        """On request also what is in use is aborted."""
        pool = self.pool()
        used = self.checked_out(pool)
        pool.clear(AutoReconnect("no heartbeat"), interrupt_in_use=True)
        self.assertTrue(used.protocol.closed)

    def test_resume(self) -> None:
        """A cleared pool works again once its server was seen."""
        pool = self.pool()
        pool.clear(AutoReconnect("gone"))
        pool.resume()
        self.assertEqual(self.checked_out(pool).generation, 1)

    def test_stale_attempt(self) -> None:
        """A connection that was begun before a clear is not used."""
        pool = self.pool()
        waiting = pool.check_out(10)
        attempt = self.attempts.pop()
        pool.clear(AutoReconnect("gone"))
        self.failureResultOf(waiting, AutoReconnect)
        protocol = FakeProtocol()
        attempt.callback(protocol)
        self.assertTrue(protocol.closed)
        self.assertEqual(pool.statistics(), (0, 0, 0, 0))

    def test_establishment_fails(self) -> None:
        """The one who waits gets the reason, and it is reported."""
        pool = self.pool()
        waiting = pool.check_out(10)
        error = AutoReconnect("refused")
        self.attempts[0].errback(error)
        self.assertIs(self.failureResultOf(waiting, AutoReconnect).value, error)
        self.assertEqual(self.failures, [(error, 0)])

    def test_close(self) -> None:
        """Closing ends everything, and nothing can be taken afterwards."""
        pool = self.pool()
        used = self.checked_out(pool)
        waiting = pool.check_out(10)
        self.attempts[0].addErrback(lambda failure: failure.trap(CancelledError))
        pool.close(interrupt_in_use=True)
        self.assertTrue(used.protocol.closed)
        self.failureResultOf(waiting, AutoReconnect)
        self.failureResultOf(pool.check_out(10), AutoReconnect)
        pool.check_in(used)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_gently(self) -> None:
        """What is in use when a pool is closed is closed when it is given back."""
        pool = self.pool()
        used = self.checked_out(pool)
        pool.close()
        self.assertFalse(used.protocol.closed)
        pool.check_in(used)
        self.assertTrue(used.protocol.closed)

    def test_renew(self) -> None:
        """Renewed connections are replaced, and nobody is turned away."""
        pool = self.pool(max_size=2)
        idle, used = self.checked_out(pool), self.checked_out(pool)
        pool.check_in(idle)
        pool.renew()
        self.assertTrue(idle.protocol.closed)
        waiting = pool.check_out(10)
        self.attempts.pop().callback(FakeProtocol())
        self.assertEqual(self.successResultOf(waiting).generation, 1)
        pool.check_in(used)
        self.assertTrue(used.protocol.closed)

    def test_refused_log_in(self) -> None:
        """A refused log-in is one for everybody who waits, and keeps its code."""
        pool = self.pool(max_connecting=1)
        waiting = [pool.check_out(10) for _ in range(2)]
        error = OperationFailure("wrong password", 18)
        self.failed = lambda _, __: pool.clear(error)
        self.attempts[0].errback(error)
        for each in waiting:
            self.assertEqual(self.failureResultOf(each, OperationFailure).value.code, 18)

    def test_attempts_that_fail_at_once(self) -> None:
        """However many wait, attempts that fail without a wait do not pile up."""
        pool = self.pool()
        pool._connect = lambda origin: fail(AutoReconnect("no route"))
        waiting = [pool.check_out(10) for _ in range(2000)]
        for each in waiting:
            self.failureResultOf(each, AutoReconnect)

    def test_minimum(self) -> None:
        """Upkeep establishes up to the minimum."""
        pool = self.pool(min_size=1)
        pool.maintain()
        self.attempts[0].callback(FakeProtocol())
        pool.maintain()
        self.assertEqual(pool.statistics(), (1, 0, 0, 0))
        self.assertEqual(len(self.attempts), 1)

    def test_repr(self) -> None:
        """The pool shows its state, for debugging."""
        pool = self.pool()
        self.checked_out(pool)
        self.assertEqual(
            repr(pool),
            "<Pool db.example:27017 ready generation=0 idle=0 in_use=1 pending=0 waiting=0>",
        )


class SharingTests(PoolTestCase):
    """
    Point commands on one connection.
    """

    def setUp(self) -> None:
        """A pool with one connection, which a point command uses."""
        super().setUp()
        self.shared = self.pool(depth=3, max_size=2)
        waiting = self.shared.check_out(10, shareable=True)
        self.attempts.pop(0).callback(FakeProtocol())
        self.first: PooledConnection = self.successResultOf(waiting)

    def test_join(self) -> None:
        """As many as the depth allows share a connection, the next opens another."""
        for _ in range(2):
            self.assertIs(self.shared.try_check_out(shareable=True), self.first)
        self.assertIsNone(self.shared.try_check_out(shareable=True))
        waiting = self.shared.check_out(10, shareable=True)
        self.assertEqual(len(self.attempts), 1)
        self.attempts.pop().callback(FakeProtocol())
        self.assertIsNot(self.successResultOf(waiting), self.first)

    def test_alone(self) -> None:
        """What is no point command never shares, in either order."""
        self.assertIsNone(self.shared.try_check_out())
        waiting = self.shared.check_out(10)
        self.attempts.pop().callback(FakeProtocol())
        alone = self.successResultOf(waiting)
        self.assertIs(self.shared.try_check_out(shareable=True), self.first)
        self.assertEqual((alone.load, self.first.load), (1, 2))

    def test_given_back(self) -> None:
        """A connection is idle again when the last has given it back."""
        self.shared.try_check_out(shareable=True)
        self.shared.check_in(self.first)
        self.assertEqual(self.shared.statistics().idle, 0)
        self.shared.check_in(self.first)
        self.assertEqual(self.shared.statistics().idle, 1)
        self.assertIs(self.shared.try_check_out(), self.first)
        self.assertIsNone(self.shared.try_check_out(shareable=True))

    def test_one_connection_serves_many_waiters(self) -> None:
        """Those who wait for the first connection share it, as far as it goes."""
        pool = self.pool(depth=3)
        waiting = [pool.check_out(10, shareable=True) for _ in range(5)]
        self.assertEqual(len(self.attempts), 2)
        self.attempts.pop(0).callback(FakeProtocol())
        self.assertEqual([each.called for each in waiting], [True] * 3 + [False] * 2)

    def test_stalled(self) -> None:
        """Nobody joins where nothing came for a while."""
        self.clock.advance(0.3)
        self.assertIsNone(self.shared.try_check_out(shareable=True))

    def test_fairness(self) -> None:
        """At the limit nobody passes one who waits for a connection alone."""
        waiting = self.shared.check_out(10)
        self.attempts.pop().callback(FakeProtocol())
        self.successResultOf(waiting)
        waiting = self.shared.check_out(10)
        self.assertIsNone(self.shared.try_check_out(shareable=True))
        self.shared.check_in(self.first)
        self.assertIs(self.successResultOf(waiting), self.first)

    def test_passing(self) -> None:
        """While a connection is on its way to one who waits, point commands go on."""
        self.shared.check_out(10)
        self.assertIs(self.shared.try_check_out(shareable=True), self.first)

    def test_late_reply(self) -> None:
        """
        A connection with a reply that nobody waits for is joined by nobody and
        is idle only after that reply.
        """
        self.shared.abandoned(self.first)
        self.first.protocol.idle = False  # type: ignore[misc]  # a fake protocol
        self.assertIsNone(self.shared.try_check_out(shareable=True))
        self.shared.check_in(self.first)
        self.assertFalse(self.first.protocol.closed)
        self.assertIsNone(self.shared.try_check_out())
        self.first.protocol.idle = True  # type: ignore[misc]  # a fake protocol
        drained = self.first.protocol.on_drained
        assert drained is not None
        drained()
        self.assertIs(self.shared.try_check_out(), self.first)

    def test_reply_that_never_comes(self) -> None:
        """A connection that waits for late replies too long is closed."""
        self.shared.abandoned(self.first)
        self.first.protocol.idle = False  # type: ignore[misc]  # a fake protocol
        self.shared.check_in(self.first)
        self.shared.maintain()
        self.assertFalse(self.first.protocol.closed)
        self.clock.advance(31)
        self.shared.maintain()
        self.assertTrue(self.first.protocol.closed)
        self.assertEqual(self.shared.statistics(), (0, 0, 0, 0))

    def test_lost_while_shared(self) -> None:
        """A lost connection leaves the pool when the last has given it back."""
        self.shared.try_check_out(shareable=True)
        self.first.protocol.close()
        self.assertIsNone(self.shared.try_check_out(shareable=True))
        self.shared.check_in(self.first)
        self.shared.check_in(self.first)
        self.assertEqual(self.shared.statistics(), (0, 0, 0, 0))
