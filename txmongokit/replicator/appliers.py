"""
Where a replication's operations go: collected into batches, written one after
the other, the checkpoint behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.statements import Operation
from txmongokit.replicator.writers import BatchWriter

__all__ = ["IDLE_ADVANCE", "Applier", "LaneState", "Progress", "SingleApplier"]

IDLE_ADVANCE = 5.0
"""
An entry that changes nothing here moves the checkpoint too, but no more often
than this (seconds).
"""


@dataclass(slots=True)
class Progress:
    """
    What a running replication has done since it started.

    @ivar applied: operations that are in the destination.
    @ivar skipped: entries that the selection leaves out.
    @ivar position: of the checkpoint in the destination.
    @ivar read: of the last entry that was read.
    @ivar size: bytes of the oplog that were read.
    """

    applied: int = 0
    skipped: int = 0
    commands: int = 0
    position: int = 0
    read: int = 0
    missing: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class LaneState:
    """
    How one of several lanes stands.

    @ivar position: up to here it has applied everything that is its.
    @ivar applied: how many operations it has applied since it was made.
    @ivar busy: whether it is writing.
    """

    position: int
    applied: int
    busy: bool


class Applier(Protocol):
    """
    Takes operations in the source's order and brings them to the destination.

    After each entry it must be told the position (L{reach}).  An error of
    what is written in the background is raised by the next call that waits.
    """

    progress: Progress

    @property
    def checkpoint(self) -> Checkpoint:
        """
        The checkpoint as the destination has it.
        """

    @property
    def reached(self) -> int:
        """
        The position up to which everything is applied.
        """

    @property
    def busy(self) -> bool:
        """
        Whether something is being written.
        """

    @property
    def lanes(self) -> Sequence[LaneState]:
        """
        How the lanes stand, where there are several.
        """

    def add(self, operation: Operation, position: int) -> Awaitable[None] | None:
        """
        Take an operation.

        @param position: of its entry.
        @return: what must be waited for before anything else is given to it;
            nearly always C{None}, for nothing.
        """

    def add_all(self, operations: Sequence[Operation], position: int) -> Awaitable[None] | None:
        """
        Take a source transaction's operations, which are to land together.

        @param position: of the entry that ends it.
        @return: see L{add}.
        """

    def reach(self, position: int, term: int) -> bool:
        """
        Everything up to and with this entry was given.

        @return: whether L{submit} should come before more is given.
        """

    async def submit(self) -> None:
        """
        Begin to write what was collected, as soon as there is room for it.
        """

    async def drain(self, *, whole: bool = False) -> None:
        """
        Write all that was collected, and move the checkpoint behind it.

        @param whole: move it also where there was nothing to write.
        """

    async def write(self, batch: Batch) -> None:
        """
        Write a batch by itself; comes after L{drain}.
        """

    def moved(self, checkpoint: Checkpoint) -> None:
        """
        Somebody else has moved the checkpoint; comes after L{drain}.
        """

    def abandon(self) -> None:
        """
        Nothing more will be asked; what is under way may end as it likes.
        """


class SingleApplier:
    """
    One batch is written at a time, while the next one is collected.

    @param saved: called with each checkpoint that the destination has.
    @ivar checkpoint: see L{Applier.checkpoint}.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        writer: BatchWriter,
        checkpoint: Checkpoint,
        saved: Callable[[Checkpoint], None],
    ) -> None:
        self.checkpoint = checkpoint
        self.progress = Progress(position=checkpoint.position)
        self._reactor = reactor
        self._writer = writer
        self._saved = saved
        self._batch = Batch()
        self._writing: Deferred[None] | None = None
        self._last_advance = reactor.seconds()

    @property
    def reached(self) -> int:
        """
        See L{Applier.reached}.  The checkpoint may be behind it, where
        nothing had to be done.
        """
        idle = not self._batch.count and (self._writing is None or self._writing.called)
        return self.progress.read if idle else self.checkpoint.reached

    @property
    def busy(self) -> bool:
        """
        See L{Applier.busy}.
        """
        return self._writing is not None and not self._writing.called

    @property
    def collected(self) -> bool:
        """
        Whether there is anything that is not being written yet, be it a mere
        position.
        """
        return self._batch.position != 0 or self._batch.count != 0

    @property
    def lanes(self) -> Sequence[LaneState]:
        """
        None to tell apart.
        """
        return ()

    def add(self, operation: Operation, position: int) -> None:
        """
        See L{Applier.add}.
        """
        self._batch.add(operation)

    def add_all(self, operations: Sequence[Operation], position: int) -> None:
        """
        See L{Applier.add_all}.
        """
        self._batch.add_all(operations)

    def reach(self, position: int, term: int) -> bool:
        """
        See L{Applier.reach}.
        """
        batch = self._batch
        batch.position = position
        batch.term = term
        self.progress.read = position
        return batch.full

    async def submit(self, *, whole: bool = False) -> None:
        """
        See L{Applier.submit}.

        @param whole: also a mere position.
        """
        batch = self._batch
        if not batch.position:
            if self._writing is not None and self._writing.called:
                # What went wrong is told now, not with the next entry.
                await self._written()
            return
        now = self._reactor.seconds()
        if not batch.count and not whole and now - self._last_advance < IDLE_ADVANCE:
            return
        await self._written()
        self._batch = Batch()
        self._last_advance = now
        self._writing = Deferred.fromCoroutine(self.write(batch))

    async def drain(self, *, whole: bool = False) -> None:
        """
        See L{Applier.drain}.
        """
        await self.submit(whole=whole)
        await self._written()

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def write(self, batch: Batch) -> None:
        """
        See L{Applier.write}.
        """
        checkpoint = await self._writer.write(batch, self.checkpoint)
        self.progress.applied += batch.count
        self.moved(checkpoint)

    def moved(self, checkpoint: Checkpoint) -> None:
        """
        See L{Applier.moved}.
        """
        self.checkpoint = checkpoint
        self.progress.position = checkpoint.position
        self.progress.missing = checkpoint.missing
        self._saved(checkpoint)

    def abandon(self) -> None:
        """
        See L{Applier.abandon}.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.addErrback(lambda failure: None)
