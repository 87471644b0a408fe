"""
Tests for L{txmongokit.reactorthread}: with a reactor of its own in a
thread, and with trial's, which runs.
"""

from __future__ import annotations

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


class OwnReactorTests(SynchronousTestCase):
    """
    L{ReactorThread} with a reactor that nobody runs.
    """

    def setUp(self) -> None:
        """A reactor, and a promise to leave none behind."""
        # Who runs a reactor says that its thread is the one for I/O.
        self.patch(threadable, "ioThread", threadable.ioThread)
        self.reactor = SelectReactor()
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

    def test_stopped_meanwhile(self) -> None:
        """Nobody waits for a reactor that stops."""
        begun = Event()
        found: list[Any] = []

        def never() -> Deferred[None]:
            begun.set()
            return Deferred()

        def wait() -> None:
            try:
                self.thread.call(None, never)
            except ReactorEnded as error:
                found.append(error)

        waiter = Thread(target=wait)
        waiter.start()
        self.assertTrue(begun.wait(5))
        self.thread.stop()
        waiter.join(5)
        self.assertEqual(len(found), 1)


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
