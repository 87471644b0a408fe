"""
Requests: stretches of one logical flow in which order matters.

A flow is what Python's C{contextvars} call a context: Twisted gives each
coroutine that L{twisted.internet.defer.Deferred.fromCoroutine} runs, and each
generator under C{inlineCallbacks}, a copy of its starter's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from itertools import count
from types import MappingProxyType, TracebackType
from typing import Self

__all__ = ["Request", "Requests"]

_NONE: Mapping[int, int] = MappingProxyType({})
# How many requests are open here, by the number of their connection. The
# mappings are never changed, so that what a flow does is its own.
_OPEN: ContextVar[Mapping[int, int]] = ContextVar("_OPEN", default=_NONE)
_numbers = count()


class Requests:
    """
    The requests of one connection.
    """

    def __init__(self) -> None:
        self._number = next(_numbers)

    @property
    def depth(self) -> int:
        """
        How many are open in this flow.
        """
        return _OPEN.get().get(self._number, 0)

    def change(self, by: int) -> None:
        """
        Open one or end one; there are never less than none.
        """
        depth = max(0, self.depth + by)
        others = {number: each for number, each in _OPEN.get().items() if number != self._number}
        _OPEN.set({**others, self._number: depth} if depth else others)


class Request:
    """
    What C{start_request} gives: C{with} ends the request with the block.

    @param end: ends it.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._ended = False

    def end(self) -> None:
        """
        End the request.  Doing so twice does nothing.
        """
        if not self._ended:
            self._ended = True
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
