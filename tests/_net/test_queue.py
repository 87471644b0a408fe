"""
Tests for L{txmongokit._net.queue}.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._net.queue import WaitQueue


class TooLateError(Exception):
    """It took too long."""


class WaitQueueTests(SynchronousTestCase):
    """
    Joining, being served, and leaving.
    """

    def setUp(self) -> None:
        """An empty queue."""
        self.clock = Clock()
        self.queue: WaitQueue[str] = WaitQueue(self.clock)

    def join(self, timeout: float | None = 5.0, wants: str = "") -> Deferred[str]:
        """One more who waits."""
        return self.queue.join(timeout, TooLateError, wants)

    def test_order(self) -> None:
        """The first to come is the first to be taken out."""
        waiting = [self.join(), self.join(None), self.join()]
        self.assertEqual([self.queue.first() for _ in range(4)], [*waiting, None])
        self.assertEqual(len(self.queue), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_late(self) -> None:
        """Each has a time of its own, and is out of the queue when it fails."""
        early, late = self.join(1.0), self.join(3.0)
        self.clock.advance(1.0)
        self.failureResultOf(early, TooLateError)
        self.assertNoResult(late)
        self.assertEqual(len(self.queue), 1)

    def test_cancelled(self) -> None:
        """Cancelling leaves the queue."""
        waiting = self.join()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual((len(self.queue), self.clock.getDelayedCalls()), (0, []))

    def test_leave(self) -> None:
        """Somebody in the middle may be served; once."""
        self.join(wants="a")
        chosen = self.join(wants="b")
        for waiting in self.queue:
            if waiting.wants == "b":
                self.assertTrue(self.queue.leave(waiting))
                self.assertFalse(self.queue.leave(waiting))
                waiting.deferred.callback("served")
        self.assertEqual(self.successResultOf(chosen), "served")
        self.assertEqual(len(self.queue), 1)

    def test_fail_all(self) -> None:
        """All who are there fail; who comes because of that does not."""
        again: list[Deferred[str]] = []

        def retry(_: object) -> None:
            again.append(self.join())

        for _ in range(2):
            self.join().addErrback(retry)
        self.queue.fail_all(lambda: ValueError("closed"))
        self.assertEqual(len(self.queue), 2)
        for waiting in again:
            self.assertNoResult(waiting)
