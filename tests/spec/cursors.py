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
    What C{createFindCursor} and its kin make.
    """

    async def next(self) -> Any:
        """
        The next document, however long it takes.
        """
        raise Mismatch("nothing to iterate")

    async def once(self) -> Any:
        """
        The next document, or C{None} after one empty batch.
        """
        return await self.next()

    async def close(self) -> None:
        """
        Close it, whatever errors that gives.
        """


class _BatchCursor(CursorEntity):
    """
    A cursor, read batch by batch.
    """

    def __init__(self, cursor: Any, documents: list[Any]) -> None:
        self._cursor = cursor
        self._documents = documents

    async def next(self) -> Any:
        while (document := await self.once()) is None:
            if not self._cursor.alive:
                raise Mismatch("the cursor has ended")
        return document

    async def once(self) -> Any:
        if not self._documents:
            self._documents = list(await self._cursor.next_batch())
        return self._documents.pop(0) if self._documents else None

    async def close(self) -> None:
        try:
            await self._cursor.close()
        except PyMongoError:
            pass


class _ChangeStream(CursorEntity):
    """
    A change stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def next(self) -> Any:
        return await self._stream.next()

    async def once(self) -> Any:
        return await self._stream.try_next()

    async def close(self) -> None:
        try:
            await self._stream.close()
        except PyMongoError:
            pass


async def open_cursor(cursor: Any) -> CursorEntity:
    """
    Send a cursor's first command and keep its first batch.
    """
    return _BatchCursor(cursor, list(await cursor.next_batch()))


async def open_change_stream(stream: Any) -> CursorEntity:
    """
    Send a change stream's first command.
    """
    await stream.open()
    return _ChangeStream(stream)
