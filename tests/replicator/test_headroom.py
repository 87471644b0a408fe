"""
Tests for L{txmongokit.replicator.headroom}.
"""

from __future__ import annotations

from typing import Any, cast

from bson import Timestamp
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.fakes import fake_pool, refused
from txmongokit.replicator.headroom import Headroom, headroom_seconds

_FIRST = {"cursor": {"id": 0, "ns": "local.oplog.rs", "firstBatch": [{"ts": Timestamp(100, 1)}]}}


def at(second: int) -> int:
    """A position."""
    return second << 32 | 1


class EstimateTests(SynchronousTestCase):
    """
    The seconds, from what is measured.
    """

    def seconds(self, size: int | None, limit: int | None, position: int = 400) -> float:
        """An oplog of the seconds 100 to 500."""
        return headroom_seconds(
            oldest=at(100), newest=at(500), position=at(position), size=size, limit=limit
        )

    def test_full(self) -> None:
        """In a full oplog what counts is how much older the oldest entry is."""
        self.assertEqual(self.seconds(1000, 1000), 300)
        self.assertEqual(self.seconds(1200, 1000), 300)
        self.assertEqual(self.seconds(1000, 1000, position=100), 0)
        self.assertEqual(self.seconds(1000, 1000, position=90), -10)

    def test_filling(self) -> None:
        """In one that is half full, the other half comes first."""
        self.assertEqual(self.seconds(500, 1000), 700)

    def test_young(self) -> None:
        """A first burst is not taken for what goes on for ever."""
        seconds = headroom_seconds(
            oldest=at(100), newest=at(102), position=at(101), size=50, limit=1000
        )
        self.assertEqual(seconds, 1 + 60 * 19)

    def test_sizes_unknown(self) -> None:
        """Without sizes it is taken to be full."""
        self.assertEqual(self.seconds(None, None), 300)


class HeadroomTests(SynchronousTestCase):
    """
    Measuring and warning.
    """

    def setUp(self) -> None:
        """The log."""
        self.events: list[Any] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def headroom(
        self, *replies: Any, position: int = 400, ahead: int = 0
    ) -> tuple[Headroom, Clock]:
        """Over a script of replies, with a threshold of a minute."""
        clock = Clock()
        self.measured: list[float | None] = []
        headroom = Headroom(
            clock,
            fake_pool(*replies),
            "local.oplog.rs",
            lambda: at(position),
            lambda: at(position + ahead),
            60.0,
            lambda: self.measured.append(headroom.seconds),
        )
        return headroom, clock

    def levels(self, about: str = "headroom") -> list[LogLevel]:
        """What was logged."""
        return [
            event["log_level"]
            for event in self.events
            if about in str(event.get("log_format")) and event["log_level"] is not LogLevel.debug
        ]

    def test_measure(self) -> None:
        """It asks for both ends of the oplog and its sizes, every five seconds."""
        replies = (
            _FIRST,
            {"lastWrite": {"opTime": {"ts": Timestamp(500, 1), "t": 1}}},
            {"size": 500, "maxSize": 1000},
        )
        headroom, clock = self.headroom(*replies, *replies)
        headroom.start()
        self.assertEqual((headroom.seconds, headroom.lag), (700, 100))
        clock.advance(5)
        self.assertEqual(self.measured, [700, 700])
        headroom.stop()
        clock.advance(60)
        self.assertEqual(len(self.measured), 2)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_source_away(self) -> None:
        """While the source is away it is not measured, and goes on later."""
        headroom, clock = self.headroom(
            refused(10107),
            _FIRST,
            {"lastWrite": {"opTime": {"ts": Timestamp(500, 1), "t": 1}}},
            refused(13),
        )
        headroom.start()
        self.assertIsNone(headroom.seconds)
        clock.advance(5)
        self.assertEqual(headroom.seconds, 300)
        headroom.stop()

    def test_warning(self) -> None:
        """Below the threshold it warns at once, and once a minute; then it says that it is over."""
        headroom, clock = self.headroom()
        for seconds, oldest, count in ((0, 100, 0), (5, 350, 1), (30, 360, 1), (30, 370, 2)):
            clock.advance(seconds)
            headroom.judge(at(oldest), at(500), at(400), 1000, 1000)
            self.assertEqual(len(self.levels()), count)
        headroom.judge(at(335), at(500), at(400), 1000, 1000)
        self.assertEqual(self.levels(), [LogLevel.warn] * 2)
        headroom.judge(at(300), at(500), at(400), 1000, 1000)
        self.assertEqual(self.levels(), [LogLevel.warn, LogLevel.warn, LogLevel.info])

    def test_young_oplog(self) -> None:
        """An oplog of which nothing was overwritten yet is no reason to warn."""
        headroom, _ = self.headroom()
        headroom.judge(at(395), at(400), at(400), 1000, 1_000_000)
        headroom.judge(at(395), at(400), at(400), None, None)
        self.assertEqual(self.levels(), [])
        headroom.judge(at(396), at(400), at(400), None, None)
        self.assertEqual(self.levels(), [LogLevel.warn])

    def test_majority_measured(self) -> None:
        """The source says what a majority has."""
        last = {
            "opTime": {"ts": Timestamp(500, 1), "t": 1},
            "majorityOpTime": {"ts": Timestamp(450, 1), "t": 1},
        }
        replies = [_FIRST, {"lastWrite": last}, refused(13)] * 4
        headroom, clock = self.headroom(*replies)
        headroom.start()
        clock.pump([5.0] * 3)
        self.assertEqual(self.levels("majority"), [LogLevel.warn])
        headroom.stop()

    def test_lag(self) -> None:
        """At the newest entry, or past what was measured, there is none."""
        headroom, _ = self.headroom(position=390, ahead=10)
        for newest, lag in ((400, 0), (399, 0), (460, 60)):
            headroom.judge(at(100), at(newest), at(390), 1000, 1000)
            self.assertEqual(headroom.lag, lag)
            self.assertEqual(headroom.seconds, 290)
