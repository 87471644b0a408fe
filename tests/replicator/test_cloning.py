"""
Tests for L{txmongokit.replicator.cloning}.  Clones between real servers are in
L{tests.integration.test_clone}.
"""

from __future__ import annotations

from typing import Any

from bson.timestamp import Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool, refused
from tests.replicator.test_tailer import SECOND, reply
from txmongokit.errors import AutoReconnect
from txmongokit.replicator.cloning import end_of_window, writes_ended
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.tailer import OplogGap


def written(increment: int) -> dict[str, Any]:
    """What a primary says of its last write."""
    return {"lastWrite": {"opTime": {"ts": Timestamp(100, increment), "t": 5}}, "ok": 1}


def bounds(oldest: int, newest: int) -> list[Any]:
    """The replies with both ends of an oplog."""
    return [reply(oldest, cursor_id=0), reply(newest, cursor_id=0)]


class EndOfWindowTests(SynchronousTestCase):
    """
    Up to where a clone is replayed.
    """

    def setUp(self) -> None:
        """Time."""
        self.clock = Clock()

    def end(self, *replies: Any, latest: int = 3) -> Deferred[int]:
        """The end, for a clone that began at 2."""
        source, patience = fake_pool(*replies), Patience(self.clock)
        return Deferred.fromCoroutine(
            end_of_window(self.clock, source, patience, SECOND | 2, SECOND | latest)
        )

    def test_at_once(self) -> None:
        """The newest entry, if that is behind everything."""
        self.assertEqual(self.successResultOf(self.end(written(7), *bounds(1, 8))), SECOND | 8)

    def test_majority_behind(self) -> None:
        """
        Soon after an election a majority is known to have less than what an
        earlier process has read: the end of what was written is waited for.
        """
        waiting = self.end(refused(10107), written(7), *bounds(1, 5), *bounds(1, 9))
        self.clock.advance(0.05)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(waiting), SECOND | 9)

    def test_no_majority(self) -> None:
        """It is not waited for for ever."""
        waiting = self.end(written(4), *bounds(1, 5) * 15, latest=7)
        self.clock.pump([1.0] * 15)
        self.assertEqual(self.successResultOf(waiting), SECOND | 7)

    def test_overwritten(self) -> None:
        """An oplog that does not reach back to the beginning is an error."""
        error = self.failureResultOf(self.end(written(7), *bounds(3, 9)), OplogGap).value
        self.assertIn("--drop", str(error))


class WritesEndedTests(SynchronousTestCase):
    """
    Writes that go on in the destination though nobody waits for them.
    """

    def setUp(self) -> None:
        """Time."""
        self.clock = Clock()

    def ended(self, *replies: Any) -> Deferred[None]:
        """Wait for the writes to one collection."""
        destination, patience = fake_pool(*replies), Patience(self.clock, 1.0)
        return Deferred.fromCoroutine(writes_ended(destination, patience, {"app.a"}))

    def under_way(self, *names: str) -> Any:
        """The reply with the collections that are being written to."""
        return cursor_reply([{"ns": name} for name in names])

    def test_none(self) -> None:
        """What is written elsewhere is nobody's matter."""
        self.successResultOf(self.ended(self.under_way("app.b", "txmongokit.mongosync")))

    def test_waits(self) -> None:
        """Until the last one has ended, an election in between included."""
        waiting = self.ended(
            self.under_way("app.a", "app.a"),
            refused(10107),
            self.under_way("app.a"),
            self.under_way(),
        )
        self.clock.pump([0.05, 0.1])
        self.assertNoResult(waiting)
        self.clock.pump([0.2])
        self.successResultOf(waiting)

    def test_for_too_long(self) -> None:
        """One that does not end is an error."""
        waiting = self.ended(*[self.under_way("app.a")] * 6)
        self.clock.pump([0.05, 0.1, 0.2, 0.4, 0.8])
        self.assertIn("1 write(s)", str(self.failureResultOf(waiting, AutoReconnect).value))

    def test_not_told(self) -> None:
        """A server that does not tell is not waited for."""
        self.successResultOf(self.ended(refused(13)))
