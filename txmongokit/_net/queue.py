"""
Those who wait for something, in their order and each for a limited time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["WaitQueue", "Waiting"]

T = TypeVar("T")


class Waiting(Generic[T]):
    """
    One who waits.

    @ivar deferred: what it holds.
    @ivar wants: what it waits for, where that differs.
    """

    __slots__ = ("deferred", "timer", "wants")

    def __init__(self, deferred: Deferred[T], wants: Any) -> None:
        self.deferred = deferred
        self.wants = wants
        self.timer: IDelayedCall | None = None


class WaitQueue(Generic[T]):
    """
    A queue that its owner serves.

    Whoever is taken out of it is out before its Deferred fires, so that what
    that leads to may come back.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        # In order, and left in constant time.
        self._waiting: dict[Waiting[T], None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting[T]]:
        return iter(list(self._waiting))

    def join(
        self, timeout: float | None, too_late: Callable[[], Exception], wants: Any = None
    ) -> Deferred[T]:
        """
        Wait at the end of the queue.

        @param timeout: seconds to wait at the most.
        @param too_late: makes the error for when they are over.

        @return: cancelling it leaves the queue.
        """

        def cancelled(_: Deferred[T]) -> None:
            self.leave(waiting)

        waiting: Waiting[T] = Waiting(Deferred(cancelled), wants)
        self._waiting[waiting] = None
        if timeout is not None:

            def give_up() -> None:
                self.leave(waiting)
                waiting.deferred.errback(too_late())

            waiting.timer = self._reactor.callLater(max(0.0, timeout), give_up)
        return waiting.deferred

    def leave(self, waiting: Waiting[T]) -> bool:
        """
        Take one out.

        @return: whether it was still there.
        """
        if waiting not in self._waiting:
            return False
        del self._waiting[waiting]
        timer, waiting.timer = waiting.timer, None
        if timer is not None and timer.active():
            timer.cancel()
        return True

    def peek(self) -> Waiting[T] | None:
        """
        The one that has waited longest, left where it is.
        """
        return next(iter(self._waiting), None)

    def wishes(self) -> Iterator[Any]:
        """
        What each waits for, in their order.  Nobody may come or go meanwhile.
        """
        return (waiting.wants for waiting in self._waiting)

    def first(self) -> Deferred[T] | None:
        """
        Take out the one that has waited longest.
        """
        for waiting in self._waiting:
            self.leave(waiting)
            return waiting.deferred
        return None

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """
        Fail everybody who is here now.
        """
        for waiting in self:
            if self.leave(waiting):
                waiting.deferred.errback(error())
