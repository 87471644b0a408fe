"""
What TxMongo's cursors can do besides: those calls of theirs that are not
PyMongo's, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from twisted.internet.defer import Deferred

__all__ = ["CursorCalls"]


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
