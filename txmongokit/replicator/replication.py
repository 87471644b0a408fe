"""
The replication itself: entries in, batches out, in the source's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txmongokit.replicator.batch import Batch, LargeBatch
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import OplogEntry, UnsupportedEntry, parse_entry
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect, Operation
from txmongokit.replicator.tailer import Tailer
from txmongokit.replicator.transactions import SpilledTransaction, source_transaction
from txmongokit.replicator.writers import BatchWriter

__all__ = ["LARGEST_TRANSACTION", "Progress", "Replication"]

LARGEST_TRANSACTION = 256 * 1024 * 1024
"""How many bytes one destination transaction has at most, where nothing else is said."""

# An entry that changes nothing here moves the checkpoint too, but no more
# often than this (seconds).
_IDLE_ADVANCE = 5.0
# How many entries are prepared before answers from the destination are seen
# to.
_SLICE = 32


@dataclass(slots=True)
class Progress:
    """
    What a running replication has done since it started.

    @ivar applied: operations that are in the destination.
    @ivar skipped: entries that the selection leaves out.
    @ivar position: of the last entry that is applied.
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


class SchemaChanges(Protocol):
    """
    What a L{txmongokit.replicator.schema.SchemaWriter} does for a replication.
    """

    def handles(self, namespace: str) -> bool:
        """
        Whether writes to a system collection are changes of the schema.
        """

    def plan(self, entry: OplogEntry) -> DDL | None:
        """
        What an entry changes; C{None} for nothing.
        """

    async def execute(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> Checkpoint:
        """
        Make a change and move the checkpoint past it.
        """

    async def prepare(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> None:
        """
        Make a change that belongs to a source transaction, before that is
        written.
        """


class Replication:
    """
    Reads from a tailer, writes to a writer, one batch at a time while the
    next is prepared.

    @param saved: called with each checkpoint that the destination has.
    @param route: where an operation's collection is in the destination,
        C{None} to leave it out; C{None} itself for what the selection says.
    @param largest: how many bytes one destination transaction may have.
    @param split: whether a larger source transaction is split.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        tailer: Tailer,
        writer: BatchWriter,
        schema: SchemaChanges,
        selection: Selection,
        dialect: Dialect,
        checkpoint: Checkpoint,
        *,
        saved: Callable[[Checkpoint], None],
        route: Callable[[OplogEntry], str | None] | None = None,
        largest: int = LARGEST_TRANSACTION,
        split: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self._route = route or (lambda entry: selection.destination(entry.ns))
        self.running = False
        self.progress = Progress(position=checkpoint.position, read=tailer.read_up_to)
        self._reactor = reactor
        self._tailer = tailer
        self._writer = writer
        self._schema = schema
        self._largest = largest
        self._split = split
        self._dialect = dialect
        self._saved = saved
        self._batch = Batch()
        self._writing: Deferred[None] | None = None
        self._last_advance = reactor.seconds()
        self._reading: Deferred[list[bytes]] | None = None
        self._stopping = False
        self._paused: Deferred[None] | None = None

    @property
    def reached(self) -> int:
        """
        The position up to which everything is applied that is to be.  The
        checkpoint may be behind it, where nothing had to be done.
        """
        idle = not self._batch.count and (self._writing is None or self._writing.called)
        return self.progress.read if idle else self.progress.position

    def pause(self) -> None:
        """
        Write what was read, move the checkpoint there, and wait.
        """
        if self._paused is None:
            self._paused = Deferred()

    def resume(self) -> None:
        """
        Go on after a pause.
        """
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stop(self) -> None:
        """
        Finish what was read, move the checkpoint there, and end.
        """
        self._stopping = True
        self.resume()
        if self._reading is not None:
            self._reading.cancel()

    async def run(self, until: int | None) -> None:
        """
        Replicate.

        @param until: the position to end at; C{None} to follow for ever.
        """
        self.running = True
        try:
            while not self._stopping and (until is None or self.progress.read < until):
                if await self._take(await self._read(), until):
                    break
                if self._paused is not None:
                    await self._submit(whole=True)
                    await self._written()
                    await self._paused
                if not self._tailer.ready:
                    await self._submit()
            await self._submit(whole=True)
            await self._written()
        finally:
            self.running = False
            self._tailer.stop()
            writing, self._writing = self._writing, None
            if writing is not None:
                writing.addErrback(lambda failure: None)

    async def _read(self) -> list[bytes]:
        """The next entries; none where it is to stop."""
        self._reading = reading = Deferred.fromCoroutine(self._tailer.next_batch())
        try:
            return await reading
        except CancelledError:
            if self._stopping:
                return []
            raise
        finally:
            self._reading = None

    async def _take(self, documents: list[bytes], until: int | None) -> bool:
        """Put entries into batches; whether the end was reached."""
        self.progress.size += sum(map(len, documents))
        for number, raw in enumerate(documents, 1):
            if not number % _SLICE and self._writing is not None and not self._writing.called:
                # The batch under way takes several commands: the next of them
                # is not to wait until this one is prepared.
                await deferLater(self._reactor, 0.0, lambda: None)
            entry = parse_entry(raw)
            if until is not None and entry.ts > until:
                return True
            if self._stopping:
                return True
            if self._batch.position <= self.checkpoint.window_end < entry.ts:
                # What a batch tolerates depends on the side that it is on.
                await self._submit(whole=True)
            if entry.op in "iud":
                if not self._collected(entry):
                    await self._change_schema(entry)
            elif entry.op == "c":
                await self._take_command(entry)
            self._batch.reach(entry.ts, entry.term)
            self.progress.read = entry.ts
            if self._batch.full:
                await self._submit()
        return False

    def _collected(self, entry: OplogEntry) -> bool:
        """Put a write into the batch, unless it changes the schema."""
        destination = self._route(entry)
        if destination is None:
            self.progress.skipped += 1
        elif ".system." in entry.ns and self._schema.handles(entry.ns):
            return False
        else:
            self._batch.add(Operation.from_entry(entry, destination, self._dialect))
        return True

    async def _take_command(self, entry: OplogEntry) -> None:
        operations = await source_transaction(entry, self._tailer.entry_at)
        if operations is None:
            await self._change_schema(entry)
        elif isinstance(operations, SpilledTransaction):
            try:
                await self._take_large(entry, operations)
            finally:
                operations.close()
        else:
            # What is made for it on the way begins another batch.
            selected = await self._selected(entry, operations)
            self._batch.add_all(selected)

    async def _selected(
        self, entry: OplogEntry, operations: Iterable[OplogEntry]
    ) -> list[Operation]:
        """What a transaction's operations are here; its changes of the schema are made."""
        selected = []
        for each in operations:
            if each.op == "c" or self._is_schema(each):
                # A collection made inside a transaction: made before it, so
                # that the writes still land together.
                await self._prepare_schema(each)
                continue
            if each.op not in "iud":
                raise UnsupportedEntry(
                    f"the transaction at {entry.ts >> 32} has an operation of type {each.op!r}"
                )
            destination = self._route(each)
            if destination is None:
                self.progress.skipped += 1
            else:
                selected.append(Operation.from_entry(each, destination, self._dialect))
        return selected

    async def _take_large(self, entry: OplogEntry, transaction: SpilledTransaction) -> None:
        """Write a transaction that is not in memory, as one or in parts."""
        await self._submit(whole=True)
        await self._written()
        namespaces: dict[str, None] = {}
        count = size = 0
        for operations in transaction.parts():
            for each in await self._selected(entry, operations):
                namespaces[each.namespace] = None
                count += 1
                size += each.size

        def batches() -> Iterator[Batch]:
            for operations in transaction.parts():
                batch = Batch()
                for each in operations:
                    destination = None if each.op == "c" else self._route(each)
                    if destination is not None and not self._is_schema(each):
                        batch.add(Operation.from_entry(each, destination, self._dialect))
                yield batch

        if size <= self._largest:
            whole = LargeBatch(batches, list(namespaces), count, size)
            whole.reach(entry.ts, entry.term)
            await self._write(whole)
        elif self._split:
            await self._write_parts(entry, batches)
        else:
            raise UnsupportedEntry(
                f"the transaction of the source that ends at {entry.ts >> 32} has {size >> 20} "
                f"MiB, and one of the destination should have no more than {self._largest >> 20}: "
                "--split-large-transactions applies it in parts"
            )

    async def _write_parts(self, entry: OplogEntry, batches: Callable[[], Iterator[Batch]]) -> None:
        """One destination transaction for each part; the position passes it with the last."""
        done = self.checkpoint.part
        for number, batch in enumerate(batches(), 1):
            if number > done:
                batch.part = number
                batch.reach(self.checkpoint.position, self.checkpoint.term)
                await self._write(batch)
        end = Batch()
        end.reach(entry.ts, entry.term)
        await self._write(end)

    def _is_schema(self, entry: OplogEntry) -> bool:
        return ".system." in entry.ns and self._schema.handles(entry.ns)

    async def _change_schema(self, entry: OplogEntry) -> None:
        """Everything before it is written, then it is executed."""
        change = self._schema.plan(entry)
        if change is None:
            return
        await self._submit()
        await self._written()
        self.checkpoint = await self._schema.execute(change, entry, self.checkpoint)
        self.progress.commands += 1
        self._advanced()

    async def _prepare_schema(self, entry: OplogEntry) -> None:
        change = self._schema.plan(entry)
        if change is not None:
            await self._submit()
            await self._written()
            await self._schema.prepare(change, entry, self.checkpoint)

    async def _submit(self, *, whole: bool = False) -> None:
        """
        Begin to write what was collected, once the batch before it is
        written; also a mere position if C{whole}.
        """
        batch = self._batch
        if not batch.position:
            if self._writing is not None and self._writing.called:
                # What went wrong is told now, not with the next entry.
                await self._written()
            return
        now = self._reactor.seconds()
        if not batch.count and not whole and now - self._last_advance < _IDLE_ADVANCE:
            return
        await self._written()
        self._batch = Batch()
        self._last_advance = now
        self._writing = Deferred.fromCoroutine(self._write(batch))

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write(self, batch: Batch) -> None:
        self.checkpoint = await self._writer.write(batch, self.checkpoint)
        self.progress.applied += batch.count
        self._advanced()

    def _advanced(self) -> None:
        self.progress.position = self.checkpoint.position
        self.progress.missing = self.checkpoint.missing
        self._saved(self.checkpoint)
