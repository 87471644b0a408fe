"""
Tests for L{txmongokit.reactorthread}: with a reactor of its own in a
thread, and with trial's, which runs.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitEnded
from functools import partial
from threading import Event, Thread, current_thread
from typing import Any

from twisted.internet import reactor as running
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txmongokit.reactorthread import NoAnswer, ReactorEnded, ReactorThread, reactor_thread


class EndingReactor(SelectReactor):
    """
    A reactor that can end just before something is called in its thread.

    @ivar ends: whether it does so at the next call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends = False
        self.ended = Event()

    def mainLoop(self) -> None:
        """Say when it is over."""
        try:
            super().mainLoop()
        finally:
            self.ended.set()

    def callFromThread(self, f: Any, *args: object, **kwargs: object) -> None:
        """End first, if asked to."""
        if self.ends:
            self.ends = False
            super().callFromThread(self.stop)
            self.ended.wait(5)
        super().callFromThread(f, *args, **kwargs)


class OwnReactorTests(SynchronousTestCase):
    """
    L{ReactorThread} with a reactor that nobody runs.
    """

    def setUp(self) -> None:
        """A reactor, and a promise to leave none behind."""
        # Who runs a reactor says that its thread is the one for I/O.
        self.patch(threadable, "ioThread", threadable.ioThread)
        self.reactor = EndingReactor()
        self.thread = ReactorThread(self.reactor)
        self.addCleanup(self.thread.stop)

    def test_on_demand(self) -> None:
        """The thread starts with the first call, serves all others, and ends when it is told."""
        self.assertFalse(self.reactor.running)
        names = {self.thread.call(5, lambda: succeed(current_thread().name)) for _ in range(3)}
        self.assertEqual(names, {"txmongokit reactor"})
        self.assertIs(self.thread.reactor, self.reactor)
        self.thread.stop()
        self.assertFalse(self.reactor.running)
        self.thread.stop()
        error = self.assertRaises(ReactorEnded, self.thread.call, 5, lambda: succeed(None))
        self.assertIn("does not start twice", str(error))

    def test_failure(self) -> None:
        """What the function fails with is raised, a timeout of its own included."""
        for error in (ValueError("no"), TimeoutError("own")):
            caught = self.assertRaises(type(error), self.thread.call, 5, partial(fail, error))
            self.assertIs(caught, error)

    def test_too_long(self) -> None:
        """What takes too long is cancelled, and that is said."""
        cancelled = Event()
        waiting: Deferred[None] = Deferred(lambda _: cancelled.set())
        error = self.assertRaises(NoAnswer, self.thread.call, 0.01, lambda: waiting)
        self.assertIn("0.01 s", str(error))
        self.assertTrue(cancelled.is_set())

    def test_late(self) -> None:
        """A result that comes just when it is cancelled is not lost."""
        waiting: Deferred[str] = Deferred(lambda waiting: waiting.callback("late"))
        self.assertEqual(self.thread.call(0.01, lambda: waiting), "late")

    def test_just_now(self) -> None:
        """A result that comes when the wait for it has just ended is not lost."""
        wait = Future.result
        ended: list[float | None] = []

        def late(answer: Future[Any], seconds: float | None = None) -> Any:
            found = wait(answer, 5)
            if not ended:
                ended.append(seconds)
                raise WaitEnded
            return found

        self.patch(Future, "result", late)
        self.assertEqual(self.thread.call(0.01, partial(succeed, "just now")), "just now")
        self.assertEqual(ended, [0.01])

    def waiter(self, function: Any) -> tuple[Thread, list[Exception]]:
        """A thread that waits for a function without limit, and what that ends with."""
        found: list[Exception] = []

        def wait() -> None:
            try:
                self.thread.call(None, function)
            except ReactorEnded as error:
                found.append(error)

        waiter = Thread(target=wait, daemon=True)
        waiter.start()
        return waiter, found

    def test_stopped_meanwhile(self) -> None:
        """Nobody waits for a reactor that stops."""
        begun = Event()

        def never() -> Deferred[None]:
            begun.set()
            return Deferred()

        waiter, found = self.waiter(never)
        self.assertTrue(begun.wait(5))
        self.thread.stop()
        waiter.join(5)
        self.assertEqual(len(found), 1)

    def test_ended_before(self) -> None:
        """Nobody waits for a reactor that ends before it comes to what it is asked for."""
        self.thread.call(5, partial(succeed, None))
        self.reactor.ends = True
        waiter, found = self.waiter(Deferred)
        waiter.join(5)
        self.assertEqual(len(found), 1)

    def test_ended_by_others(self) -> None:
        """A reactor that has run and stopped before the first call is known for it at once."""
        self.reactor.callWhenRunning(self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        error = self.assertRaises(ReactorEnded, self.thread.call, 5, partial(succeed, None))
        self.assertIn("does not start twice", str(error))

    def test_forked(self) -> None:
        """A process that was forked has no reactor, and is told so at once."""
        self.thread.call(5, partial(succeed, None))
        here = os.getpid()
        self.patch(os, "getpid", lambda: here + 1)
        error = self.assertRaises(RuntimeError, self.thread.call, 5, partial(succeed, None))
        self.assertIn(f"runs in process {here}, from which this one was forked", str(error))


class RunningReactorTests(TestCase):
    """
    L{ReactorThread} with a reactor that runs.
    """

    timeout = 20

    def test_used(self) -> Deferred[None]:
        """It is used as it is, and goes on when the thread is stopped."""
        return Deferred.fromCoroutine(self.used())

    async def used(self) -> None:
        """See L{test_used}."""
        thread = ReactorThread(running)
        here = current_thread()
        found = await deferToThread(
            thread.call, 5.0, lambda: deferLater(running, 0, current_thread)
        )
        self.assertIs(found, here)
        thread.stop()
        self.assertTrue(running.running)

    def test_own_thread(self) -> Deferred[None]:
        """The reactor's own thread is told that it must not wait."""
        return deferLater(running, 0, self.own_thread)

    def own_thread(self) -> None:
        """See L{test_own_thread}."""
        thread = ReactorThread(running)
        self.assertTrue(thread.is_own_thread())
        error = self.assertRaises(RuntimeError, thread.call, 5, lambda: succeed(None))
        self.assertIn("cannot wait for itself", str(error))

    def test_one(self) -> None:
        """A process has one, of the reactor that is installed."""
        self.assertIs(reactor_thread(), reactor_thread())
        self.assertIs(reactor_thread().reactor, running)
