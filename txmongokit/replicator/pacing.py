"""
No faster than an operator allows, so that the servers have time for others.
"""

from __future__ import annotations

import math
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from txmongokit.connection import ConnectionPool
from txmongokit.replicator.patience import LIMIT
from txmongokit.replicator.tailer import Tailer

__all__ = ["Pace", "PacedTailer"]

# What is let through at once is what this many seconds allow.
_SHARE = 0.25
# A wait is looked at again so often, for the limits may have been changed.
_LOOK = 0.5


class Pace:
    """
    How fast it may go: of two limits the lower one counts.

    @ivar operations: at most so many a second; infinity for any number.
    @ivar size: at most so many bytes a second; infinity for any number.
    """

    def __init__(
        self, reactor: IReactorTime, operations: float = math.inf, size: float = math.inf
    ) -> None:
        self.operations = operations
        self.size = size
        self._reactor = reactor
        self._free = -math.inf
        self._changes = 0

    @property
    def limited(self) -> bool:
        """
        Whether there is a limit at all.
        """
        return math.inf not in (self.operations, self.size) or self.operations != self.size

    def change(self, operations: float | None = None, size: float | None = None) -> None:
        """
        Set other limits, which count at once; C{None} leaves one as it is.
        """
        if operations is not None:
            self.operations = operations
        if size is not None:
            self.size = size
        self._free = -math.inf
        self._changes += 1

    def share(self, documents: list[bytes]) -> int:
        """
        How many of the first documents to let through together: at least one.
        """
        most, room = self.operations * _SHARE, self.size * _SHARE
        count = 0
        for document in documents:
            room -= len(document)
            if count and (count >= most or room < 0):
                break
            count += 1
        return count

    async def take(self, operations: int, size: int) -> None:
        """
        Wait until there is room for so much.  Who waits goes in the order of
        asking.
        """
        if not self.limited:
            return
        changes = self._changes
        begin = max(self._reactor.seconds(), self._free)
        self._free = begin + max(operations / self.operations, size / self.size)
        while changes == self._changes:
            left = begin - self._reactor.seconds()
            if left <= 0:
                break
            await deferLater(self._reactor, min(left, _LOOK), lambda: None)


class PacedTailer(Tailer):
    """
    Reads an oplog no faster than a pace allows.

    @param pace: how fast that is.
    """

    def __init__(
        self,
        reactor: Any,
        pool: ConnectionPool,
        namespace: str,
        pace: Pace,
        *,
        patience: float = LIMIT,
    ) -> None:
        super().__init__(reactor, pool, namespace, patience=patience)
        self._pace = pace
        self._left: list[bytes] = []

    @property
    def ready(self) -> bool:
        """
        See L{Tailer.ready}; what may have to wait is not.
        """
        return not self._pace.limited and (bool(self._left) or super().ready)

    async def next_batch(self) -> list[bytes]:
        """
        See L{Tailer.next_batch}; a part of it, where all would be too much at
        once.
        """
        documents, self._left = self._left, []
        if not documents:
            documents = await super().next_batch()
        if not self._pace.limited:
            return documents
        count = self._pace.share(documents)
        self._left = documents[count:]
        del documents[count:]
        await self._pace.take(len(documents), sum(map(len, documents)))
        return documents

    def stop(self) -> None:
        """
        See L{Tailer.stop}.
        """
        self._left = []
        super().stop()
