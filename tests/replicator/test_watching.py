"""
Tests for L{txmongokit.replicator.watching}.
"""

from __future__ import annotations

from typing import Any, cast

from bson import Timestamp
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.fakes import fake_pool, refused
from txmongokit.replicator.watching import Majority, watch_majority


def said(newest: int, majority: int) -> dict[str, Any]:
    """What a primary says of itself."""
    return {
        "lastWrite": {
            "opTime": {"ts": Timestamp(newest, 1), "t": 1},
            "majorityOpTime": {"ts": Timestamp(majority, 1), "t": 1},
        }
    }


class MajorityTests(SynchronousTestCase):
    """
    Deployments whose members are behind.
    """

    def setUp(self) -> None:
        """The log."""
        self.clock = Clock()
        self.events: list[Any] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def warnings(self) -> list[str]:
        """What was warned of."""
        return [
            each["log_format"].format(**each)
            for each in self.events
            if each["log_level"] is LogLevel.warn
        ]

    def test_told(self) -> None:
        """A majority that is behind is a reason to warn, at once and every minute."""
        majority = Majority(self.clock, "source", "and is replicated only when it has")
        for seconds, newest, place, count in (
            (0, 400, 390, 0),
            (10, 400, 390, 0),
            (5, 410, 395, 1),
            (30, 450, 399, 1),
            (30, 470, 399, 2),
            (5, 470, 470, 2),
            (5, 480, 470, 2),
            (16, 490, 479, 3),
        ):
            self.clock.advance(seconds)
            majority.judge(said(newest, place))
            self.assertEqual(len(self.warnings()), count, seconds)
        self.assertIn("to the source 15 s ago", self.warnings()[0])
        self.assertIn("replicated only when it has", self.warnings()[0])

    def test_slow(self) -> None:
        """One that is always late is told of once a minute, not with each write it reaches."""
        majority = Majority(self.clock, "source", "")
        for second in range(0, 120, 5):
            majority.judge(said(1000 + second, 980 + second))
            self.clock.advance(5)
        self.assertEqual(len(self.warnings()), 2)

    def test_standalone(self) -> None:
        """A server without a set has none that could be behind."""
        Majority(self.clock, "destination", "").judge({"isWritablePrimary": True})
        self.assertEqual(self.warnings(), [])

    def test_watched(self) -> None:
        """It is asked every five seconds, also after one without an answer."""
        pool = fake_pool(said(420, 400), refused(10107), said(420, 400), said(420, 400))
        watching = watch_majority(self.clock, pool, "destination", "and no batch is complete")
        watching.start()
        self.clock.pump([5.0, 5.0])
        self.assertEqual(self.warnings(), [])
        self.clock.pump([5.0])
        self.assertIn("to the destination 15 s ago", self.warnings()[0])
        watching.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
