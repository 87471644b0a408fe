"""
Threads that wait for what is done on Twisted's reactor: on the one that runs
already, or else on one that is given a thread of its own.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitEnded
from functools import cache
from threading import Event, Lock, Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.python.threadable import isInIOThread

__all__ = ["NoAnswer", "ReactorEnded", "ReactorThread", "reactor_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
# How long the reactor may take to start, and to stop, in seconds.
_CHANGE = 10.0
# How long what was cancelled may take to end, in seconds.
_GRACE = 1.0


class NoAnswer(RuntimeError):
    """
    What was waited for has taken too long.
    """


class ReactorEnded(RuntimeError):
    """
    The reactor has stopped; it does not start twice in a process.
    """


class ReactorThread:
    """
    A reactor as threads see it.

    Nothing starts before the first L{call}.  A reactor that runs by then, in
    whatever thread, is used as it is; otherwise it is run in a daemon thread
    until L{stop}.

    @param reactor: the process's.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._lock = Lock()
        self._thread: Thread | None = None
        self._watched = False
        self._ended = False
        self._waiting: set[Future[Any]] = set()

    @property
    def reactor(self) -> Any:
        """
        The reactor.
        """
        return self._reactor

    def is_own_thread(self) -> bool:
        """
        Whether the caller is on the reactor's thread, where nothing may wait.
        """
        return bool(self._reactor.running) and isInIOThread()

    def call(
        self,
        seconds: float | None,
        function: Callable[_P, Deferred[_T]],
        *arguments: _P.args,
        **keywords: _P.kwargs,
    ) -> _T:
        """
        Call a function on the reactor's thread and wait for its result.

        @param seconds: how long at most; then it is cancelled.  C{None} for
            as long as the reactor runs.

        @raise NoAnswer: it has taken too long.
        @raise ReactorEnded: the reactor has stopped, or stops meanwhile.
        @raise RuntimeError: this is the reactor's own thread.
        @raise Exception: what the function failed with.
        """
        if self.is_own_thread():
            raise RuntimeError("the reactor's thread cannot wait for itself: use Deferreds there")
        self._start()
        answer: Future[_T] = Future()
        begun: list[Deferred[None]] = []

        def begin() -> None:
            self._watch()
            if self._ended:
                answer.set_exception(_ended())
                return
            self._waiting.add(answer)
            working = maybeDeferred(function, *arguments, **keywords)
            begun.append(working.addCallbacks(answer.set_result, _fail, errbackArgs=(answer,)))
            begun[0].addBoth(lambda _: self._waiting.discard(answer))

        def cancel() -> None:
            for working in begun:
                working.cancel()

        self._reactor.callFromThread(begin)
        try:
            return answer.result(seconds)
        except WaitEnded:
            if answer.done():
                raise  # The function's own.
        self._reactor.callFromThread(cancel)
        try:
            # It may have come to its end all the same, with something that is not to be lost.
            return answer.result(_GRACE)
        except (WaitEnded, CancelledError):
            raise NoAnswer(f"there was no answer from the database in {seconds:g} s") from None

    def _start(self) -> None:
        with self._lock:
            if self._ended:
                raise _ended()
            if self._reactor.running:
                return
            started = Event()
            self._reactor.callWhenRunning(started.set)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="txmongokit reactor", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
            if not started.wait(_CHANGE):
                raise NoAnswer(f"the reactor has not started in {_CHANGE:g} s")

    def _run(self) -> None:
        try:
            # Signals belong to whoever has the main thread.
            self._reactor.run(installSignalHandlers=False)
        finally:
            self._ended = True

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._reactor.addSystemEventTrigger("before", "shutdown", self._end)

    def _end(self) -> None:
        """Let nobody wait for a reactor that stops."""
        self._ended = True
        waiting, self._waiting = self._waiting, set()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(_ended())

    def stop(self) -> None:
        """
        Stop the reactor, if this has started it, and wait for its thread.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            atexit.unregister(self.stop)
            if self._reactor.running:
                self._reactor.callFromThread(self._reactor.stop)
        thread.join(_CHANGE)


def _fail(failure: Failure, answer: Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(failure.value)


def _ended() -> ReactorEnded:
    return ReactorEnded(
        "the reactor has stopped, and does not start twice: nothing can be asked for any more"
    )


@cache
def reactor_thread() -> ReactorThread:
    """
    The process's reactor, for threads.
    """
    from twisted.internet import reactor

    return ReactorThread(reactor)
