"""
Threads that wait for what is done on Twisted's reactor: on the one that runs
already, or else on one that is given a thread of its own.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitEnded
from functools import cache, partial
from threading import Event, Lock, Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRestartable
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
    until L{stop}.  Processes are forked before that: threads stay behind.

    @param reactor: the process's.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._lock = Lock()
        self._thread: Thread | None = None
        self._process: int | None = None
        # Whether the end of the reactor will be noticed.
        self._watched = Event()
        # Whoever changes these two: callers and the reactor.
        self._guard = Lock()
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
        @raise RuntimeError: this is the reactor's own thread, or the process
            was forked after the first call.
        @raise Exception: what the function failed with.
        """
        if self.is_own_thread():
            raise RuntimeError("the reactor's thread cannot wait for itself: use Deferreds there")
        self._start()
        answer: Future[_T] = Future()
        begun: list[Deferred[None]] = []
        self._admit(answer)

        def begin() -> None:
            if answer.done():
                return  # The reactor is about to stop.
            working = maybeDeferred(function, *arguments, **keywords)
            begun.append(working.addCallbacks(partial(_succeed, answer), partial(_fail, answer)))
            begun[0].addBoth(lambda _: self._dismiss(answer))

        def cancel() -> None:
            for working in begun:
                working.cancel()

        self._reactor.callFromThread(begin)
        try:
            return answer.result(seconds)
        except WaitEnded:
            if answer.done():
                # It came just now, or this was the function's own timeout.
                return answer.result()
        self._reactor.callFromThread(cancel)
        try:
            # It may have come to its end all the same, with something that is not to be lost.
            return answer.result(_GRACE)
        except (WaitEnded, CancelledError):
            raise NoAnswer(f"there was no answer from the database in {seconds:g} s") from None

    def _start(self) -> None:
        process = os.getpid()
        if self._process not in (None, process):
            raise RuntimeError(
                f"the reactor runs in process {self._process}, from which this one was forked: "
                "ask for nothing before the fork"
            )
        with self._lock:
            self._process = process
            if self._reactor.running:
                if self._watched.is_set():
                    return
                self._reactor.callFromThread(self._watch)
            elif self._thread is None and not self._ended:
                self._reactor.callWhenRunning(self._watch)
                self._thread = Thread(target=self._run, name="txmongokit reactor", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
        if not self._watched.wait(_CHANGE):
            raise NoAnswer(f"the reactor has not started in {_CHANGE:g} s")

    def _run(self) -> None:
        try:
            # Signals belong to whoever has the main thread.
            self._reactor.run(installSignalHandlers=False)
        except ReactorNotRestartable:
            pass  # Whoever waits is told.
        finally:
            self._end()
            self._watched.set()

    def _watch(self) -> None:
        if not self._watched.is_set():
            self._reactor.addSystemEventTrigger("before", "shutdown", self._end)
            self._watched.set()

    def _admit(self, answer: Future[Any]) -> None:
        with self._guard:
            if self._ended:
                raise _ended()
            self._waiting.add(answer)

    def _dismiss(self, answer: Future[Any]) -> None:
        with self._guard:
            self._waiting.discard(answer)

    def _end(self) -> None:
        """Let nobody wait for a reactor that stops."""
        with self._guard:
            self._ended = True
            waiting, self._waiting = self._waiting, set()
        for answer in waiting:
            _fail(answer, Failure(_ended()))

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


def _succeed(answer: Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: Future[Any], failure: Failure) -> None:
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
