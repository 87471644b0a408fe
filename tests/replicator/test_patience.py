"""
Tests for L{txmongokit.replicator.patience}.
"""

from __future__ import annotations

from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.errors import AutoReconnect, OperationFailure, PyMongoError
from txmongokit.replicator.patience import Patience


class PatienceTests(SynchronousTestCase):
    """
    What is tried again, and for how long.
    """

    def setUp(self) -> None:
        """A minute of patience."""
        self.clock = Clock()
        self.seconds = 60.0
        self.tries: list[bool] = []

    def trying(self, *outcomes: PyMongoError | str) -> Deferred[str]:
        """Attempts that come to these outcomes, the last one for ever."""
        script = list(outcomes)

        async def attempt(again: bool) -> str:
            self.tries.append(again)
            outcome = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(outcome, PyMongoError):
                raise outcome
            return outcome

        patience = Patience(self.clock, self.seconds)
        return Deferred.fromCoroutine(patience.keep_trying(attempt, "there"))

    def test_success(self) -> None:
        """What succeeds is done once."""
        self.assertEqual(self.successResultOf(self.trying("done")), "done")
        self.assertEqual(self.tries, [False])

    def test_again(self) -> None:
        """A lost connection is a reason to try again, told to the attempt."""
        waiting = self.trying(AutoReconnect("gone"), AutoReconnect("gone"), "done")
        self.assertNoResult(waiting)
        self.clock.pump([0.05, 0.1])
        self.assertEqual(self.successResultOf(waiting), "done")
        self.assertEqual(self.tries, [False, True, True])

    def test_ask(self) -> None:
        """What changes nothing needs not know that it was tried."""
        outcomes = iter([AutoReconnect("gone"), "done"])

        async def question() -> str:
            outcome = next(outcomes)
            if isinstance(outcome, PyMongoError):
                raise outcome
            return str(outcome)

        waiting = Deferred.fromCoroutine(Patience(self.clock).ask("there", question))
        self.clock.pump([0.05])
        self.assertEqual(self.successResultOf(waiting), "done")

    def test_labels(self) -> None:
        """So is what the server labels as passing."""
        for labels in (
            ["TransientTransactionError"],
            ["SystemOverloadedError", "RetryableError"],
        ):
            waiting = self.trying(OperationFailure("no", 1, {"errorLabels": labels}), "done")
            self.clock.advance(0.05)
            self.assertEqual(self.successResultOf(waiting), "done")

    def test_codes(self) -> None:
        """So are a server that starts, one that waits in vain and a full disk."""
        for code in (91, 134, 11602, 50, 64, 117, 14031):
            waiting = self.trying(OperationFailure("not now", code), "done")
            self.clock.advance(0.05)
            self.assertEqual(self.successResultOf(waiting), "done")

    def test_final(self) -> None:
        """Anything else is not."""
        self.failureResultOf(self.trying(OperationFailure("no", 13)), OperationFailure)
        self.assertEqual(self.tries, [False])

    def test_end(self) -> None:
        """After its time the last error is the result; pauses grow no longer than two seconds."""
        waiting = self.trying(AutoReconnect("gone"))
        for _ in range(59):
            self.clock.advance(1.0)
        self.assertNoResult(waiting)
        self.clock.advance(3.0)
        self.failureResultOf(waiting, AutoReconnect)
        self.assertGreater(len(self.tries), 25)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_for_ever(self) -> None:
        """Patience without an end outlasts a night."""
        self.seconds = inf
        waiting = self.trying(AutoReconnect("gone"))
        self.clock.pump([2.0] * 4 * 3600)
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_cancelled(self) -> None:
        """Cancelling ends the waiting."""
        waiting = self.trying(AutoReconnect("gone"))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
