"""
Cursors and change streams that a test names and iterates.
"""

from __future__ import annotations

from typing import Any

from pymongo.errors import PyMongoError

from tests.spec.matching import Mismatch

__all__ = ["CursorEntity", "open_change_stream", "open_cursor"]


class CursorEntity:
    """
    A cursor or a change stream.

    @param iterated: it, opened.
    @param documents: its first batch, where it was fetched already.
    """

    def __init__(self, iterated: Any, documents: list[Any] | None = None) -> None:
        self._iterated = iterated
        self._documents = documents or []

    async def next(self) -> Any:
        """
        The next document, however long it takes.
        """
        if self._documents:
            return self._documents.pop(0)
        try:
            return await self._iterated.next()
        except StopAsyncIteration:
            raise Mismatch("the cursor has ended") from None

    async def once(self) -> Any:
        """
        The next document, or C{None} after one empty batch.
        """
        if self._documents:
            return self._documents.pop(0)
        return await self._iterated.try_next()

    async def close(self) -> None:
        """
        Close it, whatever errors that gives.
        """
        try:
            await self._iterated.close()
        except PyMongoError:
            pass


async def open_cursor(cursor: Any) -> CursorEntity:
    """
    Send a cursor's first command and keep its first batch.
    """
    return CursorEntity(cursor, list(await cursor.next_batch()))


async def open_change_stream(stream: Any) -> CursorEntity:
    """
    Send a change stream's first command.
    """
    return CursorEntity(await stream.open())
