"""
What TxMongo's cursors can do besides: those calls of theirs that are not
PyMongo's, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from pymongo import CursorType
from twisted.internet.defer import Deferred

from txmongokit.types import (
    QUERY_AWAIT_DATA,
    QUERY_EXHAUST,
    QUERY_NO_CURSOR_TIMEOUT,
    QUERY_OPLOG_REPLAY,
    QUERY_PARTIAL,
    QUERY_TAILABLE_CURSOR,
)

__all__ = ["CursorCalls"]

_FLAGS = {
    QUERY_TAILABLE_CURSOR: "tailable",
    QUERY_OPLOG_REPLAY: "oplog_replay",
    QUERY_NO_CURSOR_TIMEOUT: "no_cursor_timeout",
    QUERY_AWAIT_DATA: "await_data",
    QUERY_PARTIAL: "allow_partial_results",
}


class CursorCalls:
    """
    A part of L{txmongokit.cursor.Cursor}.
    """

    _origin: Any = None

    @property
    def _whole_cursor(self) -> Any:
        """The cursor that this is a part of."""
        return self

    def made_by(self, collection: Any) -> Self:
        """
        Keep whose cursor it is, for L{collection}.
        """
        self._origin = collection
        return self

    @property
    def collection(self) -> Any:
        """
        The collection whose documents these are; C{None} for a cursor that
        was made by hand.
        """
        return self._origin

    @property
    def exhausted(self) -> bool:
        """
        Whether the last document has been handed out: what is not C{alive}.
        """
        return not self._whole_cursor.alive

    def allow_partial_results(self, allow_partial_results: bool = True) -> Self:
        """
        Whether shards that are down only make the result shorter.

        @raise InvalidOperation: it has started.
        """
        cursor: Self = self._whole_cursor._set("allow_partial_results", bool(allow_partial_results))
        return cursor

    def timeout(self, timeout: float | None) -> Self:
        """
        How long all of it may take, in seconds; 0 for as long as it likes,
        C{None} for as long as was said before.

        @raise InvalidOperation: it has started.
        @raise TypeError: it is no number.
        """
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, (int, float))
        ):
            raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout={timeout!r} must not be negative: 0 lifts the limit")
        cursor = self._whole_cursor
        cursor._check_not_started()
        if timeout is not None:
            cursor._options = replace(cursor._options, timeout=timeout, timeout_given=True)
        return self

    # As a Deferred of the whole list.

    def addTimeout(
        self, timeout: float, clock: Any, onTimeoutCancel: Any = None
    ) -> Deferred[list[Any]]:
        """
        L{Deferred.addTimeout} of C{deferred()}.
        """
        whole: Deferred[list[Any]] = self._whole_cursor.deferred()
        return whole.addTimeout(timeout, clock, onTimeoutCancel)

    def asFuture(self, loop: Any) -> Any:
        """
        L{Deferred.asFuture} of C{deferred()}.
        """
        return self._whole_cursor.deferred().asFuture(loop)

    def chainDeferred(self, d: Deferred[Any]) -> Deferred[Any]:
        """
        L{Deferred.chainDeferred} of C{deferred()}.
        """
        chained: Deferred[Any] = self._whole_cursor.deferred().chainDeferred(d)
        return chained

    def cancel(self) -> None:
        """
        L{Deferred.cancel} of C{deferred()}: fetch no more.
        """
        self._whole_cursor.deferred().cancel()

    def add_option(self, mask: int) -> Self:
        """
        Set options by the flags of older messages
        (C{txmongokit.types.QUERY_TAILABLE_CURSOR} and so on).
        """
        return self._switch(mask, True)

    def remove_option(self, mask: int) -> Self:
        """
        Unset options by the flags of older messages.
        """
        return self._switch(mask, False)

    def _switch(self, mask: int, on: bool) -> Self:
        cursor = self._whole_cursor
        if isinstance(mask, bool) or not isinstance(mask, int):
            raise TypeError(f"mask must be a whole number, not {type(mask).__name__}")
        cursor._check_not_started()
        for flag, name in _FLAGS.items():
            if mask & flag:
                cursor._set(name, on or None)
        exhaust = on if mask & QUERY_EXHAUST else cursor._exhaust
        kind = CursorType.EXHAUST if exhaust else CursorType.NON_TAILABLE
        if cursor._arguments.get("tailable"):
            awaits = cursor._arguments.get("await_data")
            kind = CursorType.TAILABLE_AWAIT if awaits else CursorType.TAILABLE
        cursor._set_type(kind, cursor._max_await_time_ms)
        return self

    def __getitem__(self, wanted: slice) -> Self:
        """
        Skip and limit as a slice: C{cursor[5:10]}.

        @raise TypeError: a single document is asked for: await C{next()}.
        """
        if not isinstance(wanted, slice):
            raise TypeError("a cursor has slices only: skip(n) and await next() give one document")
        start = wanted.start or 0
        if (
            wanted.step is not None
            or start < 0
            or (wanted.stop is not None and wanted.stop <= start)
        ):
            raise IndexError(
                "a slice of a cursor begins at 0 or later, is not empty and has no step"
            )
        cursor = self._whole_cursor.skip(start)
        cursor.limit(0 if wanted.stop is None else wanted.stop - start)
        return self

    def __copy__(self) -> Self:
        made: Self = self._whole_cursor.clone()
        return made

    def __deepcopy__(self, memo: object) -> Self:
        made: Self = self._whole_cursor.clone()
        return made
