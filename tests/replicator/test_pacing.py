"""
Tests for L{txmongokit.replicator.pacing}.
"""

from __future__ import annotations

from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.fakes import fake_pool
from tests.replicator.test_tailer import SECOND, reply
from txmongokit.replicator.entries import parse_entry
from txmongokit.replicator.pacing import Pace, PacedTailer


class PaceTests(SynchronousTestCase):
    """
    Who waits, and for how long.
    """

    def setUp(self) -> None:
        """Time."""
        self.clock = Clock()

    def take(self, pace: Pace, operations: int, size: int = 0) -> Deferred[None]:
        """Ask for room."""
        return Deferred.fromCoroutine(pace.take(operations, size))

    def test_unlimited(self) -> None:
        """Without limits nobody waits."""
        pace = Pace(self.clock)
        self.assertFalse(pace.limited)
        for _ in range(3):
            self.assertIsNone(self.successResultOf(self.take(pace, 10**9, 10**12)))

    def test_limits(self) -> None:
        """Over a minute no more gets through than the lower limit allows, and no less."""
        for operations, size, expected in ((100.0, inf, 6000), (inf, 500.0, 3000)):
            pace = Pace(self.clock, operations, size)
            self.assertTrue(pace.limited)
            began, done = self.clock.seconds(), 0
            for _ in range(2000):
                taking = self.take(pace, 10, 100)
                while not taking.called:
                    self.clock.advance(0.05)
                if self.clock.seconds() - began > 60:
                    break
                done += 10
            self.assertTrue(0.95 * expected <= done <= 1.05 * expected, done)

    def test_changed_in_part(self) -> None:
        """What is not named stays."""
        pace = Pace(self.clock, 5.0, 100.0)
        pace.change(7.0)
        self.assertEqual((pace.operations, pace.size), (7.0, 100.0))
        pace.change(None, inf)
        self.assertEqual((pace.operations, pace.size), (7.0, inf))

    def test_changed(self) -> None:
        """Other limits count at once, also for who waits already."""
        pace = Pace(self.clock, 0.001)
        self.successResultOf(self.take(pace, 1))
        waiting = self.take(pace, 1)
        self.clock.advance(5)
        self.assertNoResult(waiting)
        pace.change(inf, inf)
        self.clock.advance(0.5)
        self.successResultOf(waiting)
        self.successResultOf(self.take(pace, 1))

    def test_cancelled(self) -> None:
        """Who waits can be called off."""
        pace = Pace(self.clock, 1.0)
        self.successResultOf(self.take(pace, 9))
        waiting = self.take(pace, 9)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_share(self) -> None:
        """What is let through together is what a quarter of a second allows, or one document."""
        documents = [b"x" * 10] * 100
        self.assertEqual(Pace(self.clock, 40.0).share(documents), 10)
        self.assertEqual(Pace(self.clock, inf, 800.0).share(documents), 20)
        self.assertEqual(Pace(self.clock, 0.1).share(documents), 1)
        self.assertEqual(Pace(self.clock).share(documents), 100)
        self.assertEqual(Pace(self.clock, 1.0).share([]), 0)


class PacedTailerTests(SynchronousTestCase):
    """
    Reading at a pace.
    """

    def test_parts(self) -> None:
        """One reply is given in parts, each when its time has come; without limits whole."""
        clock = Clock()
        pace = Pace(clock, 8.0)
        pool = fake_pool(reply(1, 2, 3, 4, 5, 6, 7), Deferred())
        tailer = PacedTailer(clock, pool, "local.oplog.rs", pace)
        tailer.start(SECOND | 1, verify=False)
        self.assertFalse(tailer.ready)

        def read() -> Deferred[list[int]]:
            reading = Deferred.fromCoroutine(tailer.next_batch())
            return reading.addCallback(
                lambda found: [parse_entry(raw).ts & 0xFFFFFFFF for raw in found]
            )

        self.assertEqual(self.successResultOf(read()), [1, 2])
        second = read()
        self.assertNoResult(second)
        clock.advance(0.25)
        self.assertEqual(self.successResultOf(second), [3, 4])
        pace.change(inf, inf)
        self.assertTrue(tailer.ready)
        self.assertEqual(self.successResultOf(read()), [5, 6, 7])
        tailer.stop()
