"""
Tests for L{txmongokit.replicator.cutover}.
"""

from __future__ import annotations

from typing import Any

from bson import Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.fakes import fake_pool
from tests.replicator.test_status import FakeReplication
from txmongokit.replicator.comparison import Difference, Report
from txmongokit.replicator.cutover import (
    Controls,
    CutOver,
    IllegalTransition,
    NotEqual,
    State,
    WritesGoOn,
)
from txmongokit.replicator.verification import Follower


class ControlsTests(SynchronousTestCase):
    """
    What may be asked for in which state.
    """

    def controls(self, *, ends: bool = False) -> Controls:
        """One that follows."""
        self.replication = FakeReplication()
        controls = Controls()
        commit = None if ends else lambda: self.replication.told.append("commit")
        controls.following(self.replication, commit)
        return controls

    def test_every_state(self) -> None:
        """Each order is carried out in its states, and refused in all others."""
        legal = {
            "pause": {State.FOLLOWING},
            "resume": {State.PAUSED},
            "commit": {State.FOLLOWING},
            "reverse": {State.COMMITTING, State.VERIFYING},
        }
        for verb, states in legal.items():
            options: dict[str, Any] = {"writes_blocked": True} if verb == "commit" else {}
            for state in State:
                controls = self.controls()
                controls.enter(state)
                order = getattr(controls, verb)
                if state in states:
                    order(**options)
                    continue
                error = self.assertRaises(IllegalTransition, order, **options)
                self.assertIn(state.value, str(error))
                self.assertEqual((controls.state, self.replication.told), (state, []))

    def test_effects(self) -> None:
        """What is ordered is done."""
        controls = self.controls()
        controls.pause()
        controls.resume()
        controls.commit(writes_blocked=True)
        controls.reverse()
        self.assertEqual(self.replication.told, ["pause", "resume", "commit"])
        self.assertEqual(controls.state, State.COMMITTING)
        self.assertTrue(controls.reversing)

    def test_commit_without_the_word(self) -> None:
        """Nobody has said that writes are blocked."""
        controls = self.controls()
        self.assertRaises(IllegalTransition, controls.commit, writes_blocked=False)
        self.assertEqual(controls.state, State.FOLLOWING)

    def test_commit_of_one_pass(self) -> None:
        """One pass ends by itself."""
        controls = self.controls(ends=True)
        error = self.assertRaises(IllegalTransition, controls.commit, writes_blocked=True)
        self.assertIn("--follow", str(error))


class CutOverTests(SynchronousTestCase):
    """
    From following to the end.
    """

    def setUp(self) -> None:
        """A source at second 10, and a replication that is there."""
        self.clock = Clock()
        self.log: list[str] = []
        self.applied = 5
        self.reached = 10 << 32
        self.report = Report()
        self.controls = Controls()

    def run_it(self, replies: int = 2) -> Deferred[Report]:
        """Begin the cut-over."""

        async def position() -> int | None:
            return self.reached

        async def verify() -> Report:
            self.log.append(f"verify while {self.controls.state.value}")
            return self.report

        hello = {"lastWrite": {"opTime": {"ts": Timestamp(10, 0), "t": 1}}}
        cutover = CutOver(
            self.clock,
            fake_pool(*[hello] * replies),
            Follower(self.clock, position, 5.0),
            lambda: self.applied,
            self.controls,
            verify,
        )
        return Deferred.fromCoroutine(cutover.run())

    def test_quiet(self) -> None:
        """When nothing comes for three seconds, it is verified."""
        running = self.run_it()
        self.clock.advance(2.9)
        self.assertEqual(self.log, [])
        self.clock.advance(0.2)
        self.assertIs(self.successResultOf(running), self.report)
        self.assertEqual(self.log, ["verify while verifying"])

    def test_behind(self) -> None:
        """It waits for the replication to reach the end first."""
        self.reached = 9 << 32
        running = self.run_it()
        self.clock.pump([0.3] * 10)
        self.assertNoResult(running)
        self.reached = 10 << 32
        self.clock.pump([0.3] * 20)
        self.successResultOf(running)

    def test_writes_go_on(self) -> None:
        """While something comes it waits, and gives up in the end, with nothing done."""
        running = self.run_it(60)
        for _ in range(19):
            self.applied += 1
            self.clock.advance(3.1)
        self.assertNoResult(running)
        self.applied += 1
        self.clock.advance(3.1)
        self.failureResultOf(running, WritesGoOn)
        self.assertEqual(self.log, [])

    def test_last_writes(self) -> None:
        """Writes that come at first only delay it."""
        running = self.run_it(8)
        self.applied += 1
        self.clock.advance(3.1)
        self.assertNoResult(running)
        self.clock.advance(3.1)
        self.successResultOf(running)

    def test_stands_still(self) -> None:
        """A replication that does not get there."""
        self.reached = 9 << 32
        running = self.run_it()
        self.clock.pump([0.3] * 30)
        self.failureResultOf(running, WritesGoOn)

    def test_not_equal(self) -> None:
        """A difference ends it."""
        self.report.add(Difference("missing", "a.b", "1"))
        running = self.run_it()
        self.clock.advance(3.1)
        error = self.failureResultOf(running, NotEqual).value
        self.assertIs(error.report, self.report)
