"""
Exhaust cursors: batches that the server sends without being asked for each.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txmongokit._sansio.commands.base import CursorBatch
from txmongokit._sansio.commands.read import GetMore
from txmongokit._sansio.transactions import SessionState
from txmongokit.interfaces import IOperationRunner

__all__ = ["ExhaustStream"]

# Batches that are held before the server has to wait.
_DEPTH = 2


class ExhaustStream:
    """
    What a server streams to an exhaust cursor, a few batches ahead of its
    reader.
    """

    def __init__(self) -> None:
        self._batches: deque[CursorBatch] = deque()
        self._reader: Deferred[None] | None = None
        self._paused: Deferred[None] | None = None
        self._failure: Failure | None = None
        self._ended = False
        self._stopped = False
        self._streaming: Deferred[None] | None = None

    def start(
        self, runner: IOperationRunner, command: GetMore, session: SessionState | None
    ) -> None:
        """Let the server begin."""
        streaming: Deferred[None] = runner.stream(command, session, self._arrived)
        self._streaming = streaming
        streaming.addCallbacks(self._end, self._fail)

    def _arrived(self, batch: CursorBatch) -> Deferred[None] | None:
        if self._stopped:
            return None
        self._batches.append(batch)
        self._wake()
        if len(self._batches) < _DEPTH:
            return None
        self._paused = Deferred()
        return self._paused

    def _end(self, _: object) -> None:
        self._ended = True
        self._wake()

    def _fail(self, failure: Failure) -> None:
        if not self._stopped:
            self._failure = failure
        self._end(None)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(None)

    async def next(self) -> CursorBatch | None:
        """The next batch; C{None} if the server has ended the stream."""
        while not self._batches:
            if self._failure is not None:
                self._failure.raiseException()
            if self._ended:
                return None
            self._reader = Deferred()
            try:
                await self._reader
            finally:
                self._reader = None
        batch = self._batches.popleft()
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)
        return batch

    def stop(self) -> None:
        """Close the connection, unless the server has ended the stream."""
        self._stopped = True
        self._batches.clear()
        if self._streaming is not None and not self._ended:
            self._streaming.cancel()
