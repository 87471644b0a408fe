"""
Tests for L{txmongokit.transactions}, by way of C{with_transaction}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, Script
from txmongokit._pymongo import add_error_label
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.transactions import TransactionState
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)
from txmongokit.sessions import ClientSession

TRANSIENT = "TransientTransactionError"
UNKNOWN = "UnknownTransactionCommitResult"


def labelled(error: PyMongoError, label: str) -> PyMongoError:
    """The error, with a label."""
    add_error_label(error, label)
    return error


class RetriedTransactionTests(SynchronousTestCase):
    """
    What is tried again, how often and for how long.
    """

    def session(
        self, *replies: Script, jitter: Callable[[], float] = lambda: 1.0, **options: Any
    ) -> ClientSession:
        """A session whose commits and aborts are answered from a script."""
        self.runner = FakeRunner(*replies)
        self.calls = 0
        return ClientSession(
            self.runner, self.runner.take_session(explicit=True, **options), jitter
        )

    def callback(self, *results: Any) -> Callable[[ClientSession], Any]:
        """A callback that uses the session and has these results, one a call."""
        script: Iterator[Any] = iter(results)

        def call(session: ClientSession) -> Any:
            self.calls += 1
            session.state.sent()
            result = next(script)
            return fail(result) if isinstance(result, Exception) else result

        return call

    def test_results(self) -> None:
        """A value, a Deferred's and a coroutine's come back after the commit."""

        async def later() -> str:
            return "coroutine"

        for given, expected in ((7, 7), (succeed("d"), "d"), (later(), "coroutine")):
            session = self.session()
            waiting = session.with_transaction(self.callback(given))
            self.assertEqual(self.successResultOf(waiting), expected)
            self.assertEqual(self.runner.names, ["commitTransaction"])

    def test_options(self) -> None:
        """Its arguments are those of the transaction."""
        session = self.session()
        waiting = session.with_transaction(
            self.callback(None), write_concern=WriteConcern("majority"), max_commit_time_ms=70
        )
        self.successResultOf(waiting)
        self.assertEqual(self.runner.bodies, [{"commitTransaction": 1, "maxTimeMS": 70}])
        self.assertEqual(self.runner.commands[0].options.write_concern.document, {"w": "majority"})

    def test_callback_fails(self) -> None:
        """An error that nothing is known about aborts and comes out."""
        session = self.session()
        waiting = session.with_transaction(self.callback(KeyError("mine")))
        self.failureResultOf(waiting, KeyError)
        self.assertEqual((self.calls, self.runner.names), (1, ["abortTransaction"]))

    def test_callback_raises(self) -> None:
        """A callback that raises without a Deferred is no different."""
        session = self.session()

        def raises(session: ClientSession) -> None:
            raise ZeroDivisionError

        self.failureResultOf(session.with_transaction(raises), ZeroDivisionError)
        self.assertEqual(self.runner.names, [])
        self.assertFalse(session.in_transaction)

    def test_callback_ends_it(self) -> None:
        """A callback that commits or aborts by itself has the last word."""
        for end in ("commit_transaction", "abort_transaction"):
            session = self.session()

            def call(session: ClientSession, end: str = end) -> Any:
                session.state.sent()
                return getattr(session, end)().addCallback(lambda _: "done")

            self.assertEqual(self.successResultOf(session.with_transaction(call)), "done")
            self.assertEqual(len(self.runner.names), 1)

    def test_backoff(self) -> None:
        """Transient errors call back again, after pauses that grow by half up to half a second."""
        session = self.session()
        script = [labelled(AutoReconnect("gone"), TRANSIENT) for _ in range(14)]
        waiting = session.with_transaction(self.callback(*script, "done"))
        pauses = []
        while not waiting.called:
            (pending,) = self.runner.clock.getDelayedCalls()
            pause = pending.getTime() - self.runner.clock.seconds()
            pauses.append(round(pause, 9))
            self.runner.clock.advance(pause + 1e-12)
        self.assertEqual(pauses, [round(min(0.005 * 1.5**n, 0.5), 9) for n in range(14)])
        self.assertEqual(self.successResultOf(waiting), "done")
        self.assertEqual(self.runner.names, ["abortTransaction"] * 14 + ["commitTransaction"])

    def test_jitter(self) -> None:
        """What chance takes off a pause, it takes off."""
        session = self.session(jitter=lambda: 0.5)
        error = labelled(AutoReconnect("gone"), TRANSIENT)
        waiting = session.with_transaction(self.callback(error, "done"))
        self.runner.clock.advance(0.0024)
        self.assertNoResult(waiting)
        self.runner.clock.advance(0.0002)
        self.successResultOf(waiting)

    def test_gathered(self) -> None:
        """The error inside of gatherResults' own counts."""
        session = self.session()
        error = labelled(AutoReconnect("gone"), TRANSIENT)
        script = [gatherResults([fail(error)], consumeErrors=True), "done"]
        waiting = session.with_transaction(self.callback(*script))
        self.runner.clock.advance(1)
        self.assertEqual(self.successResultOf(waiting), "done")

    def test_commit_again(self) -> None:
        """While nobody knows whether it is committed, the commit alone is repeated."""
        session = self.session(labelled(AutoReconnect("gone"), UNKNOWN), {"ok": 1})
        waiting = session.with_transaction(self.callback("done"))
        self.assertEqual(self.successResultOf(waiting), "done")
        self.assertEqual((self.calls, self.runner.names), (1, ["commitTransaction"] * 2))
        self.assertEqual(
            self.runner.commands[1].options.write_concern.document,
            {"w": "majority", "wtimeout": 10000},
        )

    def test_commit_transient(self) -> None:
        """A commit that was refused for now begins all over."""
        session = self.session(labelled(OperationFailure("busy", 251), TRANSIENT))
        waiting = session.with_transaction(self.callback("first", "second"))
        self.runner.clock.advance(1)
        self.assertEqual(self.successResultOf(waiting), "second")

    def test_commit_fails(self) -> None:
        """A commit that failed for good, or for lack of maxTimeMS, is not repeated."""
        for error in (
            OperationFailure("no", 20),
            labelled(ExecutionTimeout("late", 50), UNKNOWN),
            labelled(OperationFailure("late", 64, {"writeConcernError": {"code": 50}}), UNKNOWN),
        ):
            session = self.session(error)
            failure = self.failureResultOf(session.with_transaction(self.callback("done")))
            self.assertIs(failure.value, error)
            self.assertEqual(self.runner.names, ["commitTransaction"])

    def test_two_minutes(self) -> None:
        """After two minutes no further try begins; the error is a timeout with the last within."""
        session = self.session()
        error = labelled(AutoReconnect("gone"), TRANSIENT)

        def call(session: ClientSession) -> Any:
            session.state.sent()
            return self.runner.sleep(70).addCallback(lambda _: fail(error))

        waiting = session.with_transaction(call)
        for _ in range(3):
            self.runner.clock.advance(70)
        late = self.failureResultOf(waiting, NetworkTimeout).value
        self.assertIs(late.__cause__, error)
        self.assertIn("gone", str(late))
        self.assertTrue(late.has_error_label(TRANSIENT))
        self.assertTrue(late.timeout)
        self.assertEqual(self.runner.names, ["abortTransaction"] * 2)

    def test_two_minutes_of_commits(self) -> None:
        """Nor is a commit repeated after two minutes."""
        slow: Deferred[dict[str, Any]] = Deferred()
        session = self.session(slow)
        waiting = session.with_transaction(self.callback("done"))
        self.runner.clock.advance(121)
        slow.errback(labelled(AutoReconnect("gone"), UNKNOWN))
        late = self.failureResultOf(waiting, NetworkTimeout).value
        self.assertTrue(late.has_error_label(UNKNOWN))

    def test_timeout(self) -> None:
        """A timeout sets one deadline for all, and the abort's time is its own."""
        session = self.session()
        state = session.state
        error = labelled(NetworkTimeout("late"), TRANSIENT)

        def call(session: ClientSession) -> Any:
            self.assertEqual(state.deadline, 5.0)
            session.state.sent()
            return self.runner.sleep(6).addCallback(lambda _: fail(error))

        waiting = session.with_transaction(call, timeout=5)
        aborted: Deferred[dict[str, Any]] = Deferred()
        self.runner.replies.append(aborted)
        self.runner.clock.advance(6)
        self.assertIsNone(state.deadline)
        self.assertEqual(self.runner.commands[0].options.timeout, 5)
        aborted.callback({"ok": 1})
        late = self.failureResultOf(waiting, ExecutionTimeout).value
        self.assertIs(late.__cause__, error)
        self.assertTrue(late.timeout)
        self.assertTrue(late.has_error_label(TRANSIENT))
        self.assertIsNone(state.deadline)

    def test_inherited_timeout(self) -> None:
        """The session's timeout counts before the client's; 0 is no limit."""
        seen = []

        def call(session: ClientSession) -> None:
            seen.append(session.state.deadline)

        for default in (None, 3.0, 0):
            session = self.session(default_timeout=default)
            self.runner.options = CommandOptions(timeout=9.0)
            self.successResultOf(session.with_transaction(call))
        self.assertEqual(seen, [9.0, 3.0, float("inf")])

    def test_own_timeouts(self) -> None:
        """Within a timeout for all, a commit of the callback's own may not have another."""
        session = self.session()
        waiting = session.with_transaction(
            lambda session: session.commit_transaction(timeout=1), timeout=5
        )
        self.failureResultOf(waiting, InvalidOperation)

    def test_wrong_timeout(self) -> None:
        """Timeouts are checked before anything begins."""
        session = self.session()
        call = self.callback("never")
        self.failureResultOf(session.with_transaction(call, timeout=-1), ConfigurationError)
        wrong: Any = "1"
        self.failureResultOf(session.with_transaction(call, timeout=wrong), TypeError)
        self.assertFalse(session.in_transaction)

    def test_cancel(self) -> None:
        """Cancelling cancels the callback's Deferred, aborts and then fires."""
        aborted: Deferred[dict[str, Any]] = Deferred()
        session = self.session(aborted)
        inner: Deferred[None] = Deferred()
        waiting = session.with_transaction(self.callback(inner))
        waiting.cancel()
        self.assertEqual(self.runner.names, ["abortTransaction"])
        self.assertNoResult(waiting)
        aborted.callback({"ok": 1})
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.calls, 1)

    def test_cancel_commit(self) -> None:
        """Cancelling the commit aborts nothing: the outcome is unknown."""
        session = self.session(Deferred())
        waiting = session.with_transaction(self.callback("done"))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.runner.names, ["commitTransaction"])
        transaction = session.state.transaction
        assert transaction is not None
        self.assertIs(transaction.state, TransactionState.COMMITTED)

    def test_cancel_pause(self) -> None:
        """Cancelling between two tries ends it."""
        session = self.session()
        error = labelled(AutoReconnect("gone"), TRANSIENT)
        waiting = session.with_transaction(self.callback(error))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.runner.clock.getDelayedCalls(), [])

    def test_nested(self) -> None:
        """A transaction within a transaction is refused and the outer aborted."""
        session = self.session()

        def call(session: ClientSession) -> Any:
            session.state.sent()
            return session.with_transaction(self.callback("inner"))

        self.failureResultOf(session.with_transaction(call), InvalidOperation)
        self.assertEqual(self.runner.names, ["abortTransaction"])
