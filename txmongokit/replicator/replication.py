"""
The replication itself: entries in, batches out, in the source's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txmongokit.replicator.appliers import Applier
from txmongokit.replicator.batch import Batch, LargeBatch
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import OplogEntry, UnsupportedEntry, parse_entry
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect, Operation
from txmongokit.replicator.tailer import Tailer
from txmongokit.replicator.transactions import SpilledTransaction, source_transaction

__all__ = ["LARGEST_TRANSACTION", "Replication"]

LARGEST_TRANSACTION = 256 * 1024 * 1024
"""How many bytes one destination transaction has at most, where nothing else is said."""

# How many entries are prepared before answers from the destination are seen
# to.
_SLICE = 128


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
    Reads from a tailer, and gives what it has read to an applier, which
    writes while more is read.

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
        applier: Applier,
        schema: SchemaChanges,
        selection: Selection,
        dialect: Dialect,
        *,
        route: Callable[[OplogEntry], str | None] | None = None,
        largest: int = LARGEST_TRANSACTION,
        split: bool = False,
    ) -> None:
        self.applier = applier
        self._route = route or (lambda entry: selection.destination(entry.ns))
        self.running = False
        self.progress = applier.progress
        self.progress.read = tailer.read_up_to
        self._reactor = reactor
        self._tailer = tailer
        self._schema = schema
        self._largest = largest
        self._split = split
        self._dialect = dialect
        # Until an entry is behind it.
        self._window_end = applier.checkpoint.window_end
        self._reading: Deferred[list[bytes]] | None = None
        self._stopping = False
        self._paused: Deferred[None] | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """
        The checkpoint as the destination has it.
        """
        return self.applier.checkpoint

    @property
    def reached(self) -> int:
        """
        The position up to which everything is applied that is to be.  The
        checkpoint may be behind it.
        """
        return self.applier.reached

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
                    await self.applier.drain(whole=True)
                    await self._paused
                if not self._tailer.ready:
                    await self.applier.submit()
            await self.applier.drain(whole=True)
        finally:
            self.running = False
            self._tailer.stop()
            self.applier.abandon()

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
        """Give entries to the applier; whether the end was reached."""
        applier = self.applier
        self.progress.size += sum(map(len, documents))
        for number, raw in enumerate(documents, 1):
            if not number % _SLICE and applier.busy:
                # What is under way takes several commands: the next of them
                # is not to wait until this is prepared.
                await self._turn()
            entry = parse_entry(raw)
            if until is not None and entry.ts > until:
                return True
            if self._stopping:
                return True
            if self._window_end and entry.ts > self._window_end:
                # What a batch tolerates depends on the side that it is on.
                self._window_end = 0
                await applier.drain(whole=True)
            if entry.op in "iud":
                destination = self._route(entry)
                if destination is None:
                    self.progress.skipped += 1
                elif ".system." in entry.ns and self._schema.handles(entry.ns):
                    await self._change_schema(entry)
                else:
                    operation = Operation.from_entry(entry, destination, self._dialect)
                    waiting = applier.add(operation, entry.ts)
                    if waiting is not None:
                        await waiting
            elif entry.op == "c":
                await self._take_command(entry)
            if applier.reach(entry.ts, entry.term):
                await applier.submit()
                await self._send()
        return False

    async def _send(self) -> None:
        """
        Have what was begun sent before more is prepared, or the destination
        waits for that: the reactor makes the calls that are due first, and
        sees to its connections then.
        """
        for _ in range(2):
            if self.applier.busy:
                await self._turn()

    def _turn(self) -> Deferred[None]:
        """Let the reactor do what there is to do."""
        return deferLater(self._reactor, 0.0, lambda: None)

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
            waiting = self.applier.add_all(selected, entry.ts)
            if waiting is not None:
                await waiting

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
        await self.applier.drain(whole=True)
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
            await self.applier.write(whole)
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
                await self.applier.write(batch)
        end = Batch()
        end.reach(entry.ts, entry.term)
        await self.applier.write(end)

    def _is_schema(self, entry: OplogEntry) -> bool:
        return ".system." in entry.ns and self._schema.handles(entry.ns)

    async def _change_schema(self, entry: OplogEntry) -> None:
        """Everything before it is written, then it is executed."""
        change = self._schema.plan(entry)
        if change is None:
            return
        await self.applier.drain()
        self.applier.moved(await self._schema.execute(change, entry, self.checkpoint))
        self.progress.commands += 1

    async def _prepare_schema(self, entry: OplogEntry) -> None:
        change = self._schema.plan(entry)
        if change is not None:
            await self.applier.drain()
            await self._schema.prepare(change, entry, self.checkpoint)
