"""
Tests for L{txmongokit.web.locks}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, Script
from tests.web.grants import asked_owner, granted
from tests.web.test_store import MATCHED, MISSED
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect, DuplicateKeyError
from txmongokit.web.errors import SessionLockTimeout
from txmongokit.web.locks import Leases, Lines, SessionLock, backoff

KEY = b"k" * 32


class LinesTests(SynchronousTestCase):
    """
    Turns within a process.
    """

    def setUp(self) -> None:
        """Lines by a clock."""
        self.runner = FakeRunner()
        self.lines = Lines(self.runner.sleep)

    def enter(self, key: bytes = KEY, seconds: float = 10) -> Deferred[None]:
        """Ask for a turn."""
        return Deferred.fromCoroutine(self.lines.enter(key, seconds))

    def test_order(self) -> None:
        """First come, first served; other keys' lines are others; nothing is left."""
        self.successResultOf(self.enter())
        self.successResultOf(self.enter(b"other"))
        second, third = self.enter(), self.enter()
        self.assertTrue(self.lines.is_busy(KEY))
        self.assertNoResult(second)
        self.lines.leave(KEY)
        self.successResultOf(second)
        self.assertNoResult(third)
        self.lines.leave(KEY)
        self.successResultOf(third)
        self.lines.leave(KEY)
        self.lines.leave(b"other")
        self.assertEqual((len(self.lines), self.runner.clock.getDelayedCalls()), (0, []))

    def test_late(self) -> None:
        """Who waits too long leaves, and those behind move up."""
        self.successResultOf(self.enter())
        second, third = self.enter(seconds=1), self.enter()
        self.runner.clock.advance(1)
        self.failureResultOf(second, SessionLockTimeout)
        self.lines.leave(KEY)
        self.successResultOf(third)
        self.lines.leave(KEY)
        self.assertEqual((len(self.lines), self.runner.clock.getDelayedCalls()), (0, []))

    def test_cancelled(self) -> None:
        """Who does not want to wait any more leaves at once."""
        self.successResultOf(self.enter())
        second = self.enter()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.lines.leave(KEY)
        self.assertEqual((len(self.lines), self.runner.clock.getDelayedCalls()), (0, []))

    def test_run(self) -> None:
        """Work that fails ends its turn."""

        async def fail() -> None:
            raise KeyError("work")

        done = Deferred.fromCoroutine(self.lines.run(KEY, 1, fail))
        self.failureResultOf(done, KeyError)
        self.assertFalse(self.lines.is_busy(KEY))

    def test_backoff(self) -> None:
        """Pauses grow, and stay below a quarter of a second."""
        self.assertTrue(all(0.005 <= backoff(0) <= 0.01 for _ in range(50)))
        self.assertTrue(all(0.125 <= backoff(n) <= 0.25 for n in range(6, 50)))


class LeasesTests(SynchronousTestCase):
    """
    Turns between processes: the server is a script.
    """

    def leases(self, *replies: Script) -> Leases:
        """Leases of 3 s."""
        self.runner = FakeRunner(*replies)
        return Leases(Database(self.runner, "db")["locks"], 3.0)

    def taken(self, *replies: Script) -> SessionLock:
        """A lock that was granted; the replies follow."""
        answer: Deferred[Any] = Deferred()
        self.of = self.leases(answer, *replies)
        taking = Deferred.fromCoroutine(self.of.take(KEY, 5))
        answer.callback(granted(self.runner))
        return self.successResultOf(taking)

    def test_renewed(self) -> None:
        """A lease is renewed three times in its time, by its owner, until it is released."""
        lock = self.taken(MATCHED, MATCHED, MATCHED)
        self.runner.clock.pump([1.0, 1.0])
        self.assertEqual(self.runner.names, ["findAndModify", "update", "update"])
        (statement,) = self.runner.statements(2)
        self.assertEqual(statement["q"], {"_id": KEY, "owner": asked_owner(self.runner)})
        self.assertTrue(self.successResultOf(lock.release()))
        self.assertFalse(self.successResultOf(lock.release()))
        self.assertEqual(self.runner.names[3:], ["delete"])
        self.assertEqual((len(self.of.lines), self.runner.clock.getDelayedCalls()), (0, []))

    def test_taken_away(self) -> None:
        """A lease that has another owner is lost, and its release takes nothing."""
        lock = self.taken(MISSED, MISSED)
        self.runner.clock.advance(1)
        self.assertTrue(lock.lost)
        self.assertFalse(self.successResultOf(lock.release()))
        self.assertEqual(self.runner.clock.getDelayedCalls(), [])

    def test_database_away(self) -> None:
        """A lease that cannot be renewed is tried again, and lost when its time is over."""
        away = AutoReconnect("gone")
        lock = self.taken(away, MATCHED, *[away] * 4)
        self.runner.clock.pump([1.0] * 4)
        self.assertFalse(lock.lost)
        self.runner.clock.advance(1.0)
        self.assertTrue(lock.lost)
        self.failureResultOf(lock.release(), AutoReconnect)
        self.assertEqual(len(self.of.lines), 0)

    def test_no_answer(self) -> None:
        """A lease whose time is over is lost, whatever the database is about to say."""
        extending: Deferred[Any] = Deferred()
        lock = self.taken(extending, MATCHED)
        self.runner.clock.pump([1.0, 1.5])
        self.assertFalse(lock.lost)
        self.runner.clock.advance(0.5)
        self.assertTrue(lock.lost)
        extending.callback(MATCHED)  # Asked 2 s ago: it was held all the time, and is for 1 s.
        self.assertFalse(lock.lost)
        self.successResultOf(lock.release())
        self.runner.clock.advance(3)
        self.assertFalse(lock.lost)

    def test_slow_grant(self) -> None:
        """Its time begins when it is asked for."""
        answer: Deferred[Any] = Deferred()
        leases = self.leases(answer, *[AutoReconnect("gone")] * 3)
        taking = Deferred.fromCoroutine(leases.take(KEY, 5))
        self.runner.clock.advance(2)
        answer.callback(granted(self.runner))
        lock = self.successResultOf(taking)
        self.assertFalse(lock.lost)
        self.runner.clock.advance(1)
        self.assertTrue(lock.lost)
        self.assertEqual(self.runner.clock.getDelayedCalls(), [])
        self.failureResultOf(lock.release(), AutoReconnect)

    def test_context(self) -> None:
        """A lease that cannot be given up is no error of the work, and hides none."""

        async def work(lock: SessionLock, result: str | Exception) -> str:
            async with lock:
                if isinstance(result, Exception):
                    raise result
                return result

        lock = self.taken(AutoReconnect("gone"))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(work(lock, "done"))), "done")
        self.assertEqual(len(self.of.lines), 0)
        lock = self.taken(AutoReconnect("gone"))
        self.failureResultOf(Deferred.fromCoroutine(work(lock, KeyError("x"))), KeyError)
        self.assertEqual(len(self.of.lines), 0)

    def test_both_the_first(self) -> None:
        """Of two who make the document, the later asks again."""
        busy = {"value": {"_id": KEY, "owner": b"another"}, "ok": 1.0}
        leases = self.leases(DuplicateKeyError("both"), busy)
        taking = Deferred.fromCoroutine(leases.take(KEY, 0.02))
        self.runner.clock.pump([0.01, 0.02])
        self.failureResultOf(taking, SessionLockTimeout)
        self.assertGreaterEqual(len(self.runner.requests), 2)
        self.assertEqual((len(leases.lines), self.runner.clock.getDelayedCalls()), (0, []))

    def test_given_up(self) -> None:
        """A lease that may have been granted to somebody who went is given up."""
        leases = self.leases(Deferred(), AutoReconnect("gone"))
        taking = Deferred.fromCoroutine(leases.take(KEY, 5))
        taking.cancel()
        self.failureResultOf(taking, CancelledError)
        self.assertEqual(self.runner.names, ["findAndModify", "delete"])
        (statement,) = self.runner.statements(1)
        self.assertEqual(statement["q"], {"_id": KEY, "owner": asked_owner(self.runner)})
        self.assertEqual(len(leases.lines), 0)
