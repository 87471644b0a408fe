"""
Writing one batch and the checkpoint after it, so that both happen or neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from txmongokit.collection import Collection, RawWriteCommand
from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.replicator.batch import Batch, WriteGroup
from txmongokit.replicator.capped import CappedAppender
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore
from txmongokit.replicator.patience import Patience, is_passing
from txmongokit.sessions import ClientSession

__all__ = [
    "ApplyError",
    "BatchWriter",
    "CountingWriter",
    "TransactionWriter",
    "pieces",
    "refusal",
    "without_documents",
]

_DUPLICATE_KEY = 11000
_WHERE = "destination"
# A batch below this fits into a document, with what surrounds it.
_ATOMIC = 12 * 1024 * 1024
# Where one document was there already, the next ones probably are, too.
_UPSERTING_BATCHES = 50
# A message may have 48 MB; statements are sent in pieces well below that.
_PIECE = 32 * 1024 * 1024
# maxWriteBatchSize of every server since 3.6.
_PIECE_STATEMENTS = 100_000


class ApplyError(Exception):
    """
    The destination did not take what must be written: the replication
    stops, with the checkpoint where it was.
    """


class BatchWriter(Protocol):
    """
    How batches reach the destination.
    """

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """
        Write a batch and move the checkpoint to the batch's end.

        @return: the checkpoint as it now stands.
        """


def pieces(statements: list[bytes]) -> list[list[bytes]]:
    """
    Statements in their order, in as many lists as a server needs to take
    each in one message.
    """
    if sum(map(len, statements)) <= _PIECE and len(statements) <= _PIECE_STATEMENTS:
        return [statements]
    found: list[list[bytes]] = [[]]
    size = 0
    for statement in statements:
        full = size + len(statement) > _PIECE or len(found[-1]) >= _PIECE_STATEMENTS
        if full and found[-1]:
            found.append([])
            size = 0
        found[-1].append(statement)
        size += len(statement)
    return found


class TransactionWriter:
    """
    Writes to a replica set: operations and checkpoint in one transaction.

    @param capped: writes batches with capped collections atomically, which
        transactions refuse; C{None} where the destination has no way to do
        that.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        session: ClientSession,
        store: CheckpointStore,
        catalog: Catalog,
        patience: Patience,
        capped: BatchWriter | None = None,
    ) -> None:
        self._pool = pool
        self._session = session
        self._store = store
        self._catalog = catalog
        self._patience = patience
        self._capped = capped
        self._appender = CappedAppender(pool, store, patience)
        self._collections: dict[str, Collection[dict[str, object]]] = {}
        # Batches still to be written with upserts, after a document was found
        # to be there already.
        self._upserting = 0

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """
        See L{BatchWriter.write}.

        @raise ApplyError: the destination refuses a write, or lacks a
            document that it should have.
        @raise FencedError: another replicator has taken over.
        """
        self._upserting = max(0, self._upserting - 1)
        await self._patience.keep_trying(lambda _: self._catalog.learn(batch.namespaces), _WHERE)
        capped = [name for name in batch.namespaces if self._catalog.is_capped(name)]
        if capped:
            return await self._write_with_capped(batch, capped, current)
        return await self._patience.keep_trying(
            lambda again: self._write(batch, current, again, ()), _WHERE
        )

    async def _write_with_capped(
        self, batch: Batch, capped: list[str], current: Checkpoint
    ) -> Checkpoint:
        # What is applied atomically is one document, with its checkpoint.
        if self._capped is not None and batch.bytes < _ATOMIC and current.intent is None:
            return await self._capped.write(batch, current)
        try:
            intending = await self._appender.append(batch, capped, current)
        except OperationFailure as error:
            if is_passing(error):
                raise
            raise ApplyError(refusal(error)) from error
        return await self._patience.keep_trying(
            lambda again: self._write(batch, intending, again, capped), _WHERE
        )

    async def _write(
        self, batch: Batch, current: Checkpoint, again: bool, written: Container[str]
    ) -> Checkpoint:
        """
        Write in one transaction.

        @param written: namespaces that are written already.
        """
        if again:
            # Only the checkpoint knows what became of a commit without an answer.
            settled = await self._store.settled(current, batch.position)
            if settled is not None:
                return settled
        await self._catalog.learn(batch.namespaces)
        strict = self._catalog.is_strict
        while True:
            plain = not self._upserting
            each_group = batch.each_group(strict, plain_inserts=plain)
            groups = (group for group in each_group if group.namespace not in written)
            try:
                return await self._transaction(batch, groups, current)
            except OperationFailure as error:
                if error.code == _DUPLICATE_KEY and plain:
                    self._upserting = _UPSERTING_BATCHES
                elif error.code == _DUPLICATE_KEY and strict is not _always:
                    # Somebody has a unique index that we did not know of.
                    self._catalog.forget()
                    strict = _always
                elif is_passing(error):
                    raise
                else:
                    raise ApplyError(refusal(error)) from error

    async def _transaction(
        self, batch: Batch, groups: Iterable[WriteGroup], current: Checkpoint
    ) -> Checkpoint:
        session = self._session
        session.start_transaction(
            read_concern=ReadConcern("local"), write_concern=WriteConcern("majority")
        )
        following = current.advanced(batch.position, batch.term, count=batch.count, part=batch.part)
        row = _Row(self._collection)
        try:
            move = self._store.move_command(current, following)
            *replies, moved = await session.run_in_order(chain(row.commands(groups), (move,)))
            self._store.check(moved)
            missing = row.missing(replies)
            if batch.position > current.window_end:
                _refuse_missing(missing)
            elif missing.total():
                # Known only now, and seldom anything.
                before = following
                following = replace(before, missing=before.missing + missing.total())
                await self._store.move(before, following, session)
        except BaseException:
            await session.abort_transaction()
            raise
        await session.commit_transaction()
        return following

    def _collection(self, namespace: str) -> Collection[dict[str, object]]:
        collection = self._collections.get(namespace)
        if collection is None:
            database, _, name = namespace.partition(".")
            collection = self._collections[namespace] = self._pool[database][name]
            if len(self._collections) > 10_000:
                self._collections = {namespace: collection}
        return collection


class _Row:
    """
    A transaction's writes, sent one behind the other.

    @param collection: gives the collection of a namespace.
    """

    def __init__(self, collection: Callable[[str], Collection[dict[str, object]]]) -> None:
        self._collection = collection
        # Each one's updates, and where they go.
        self._updates: list[tuple[str, int]] = []

    def commands(self, groups: Iterable[WriteGroup]) -> Iterator[RawWriteCommand]:
        """
        The commands, as they are asked for.
        """
        for group in groups:
            kind = group.kind
            collection = self._collection(group.namespace)
            for piece in pieces(group.statements):
                self._updates.append((group.namespace, len(piece) if kind == "update" else 0))
                yield collection.raw_write_command(
                    kind,
                    piece,
                    ordered=True,
                    bypass_document_validation=None if kind == "delete" else True,
                )

    def missing(self, replies: Iterable[Mapping[str, Any]]) -> Counter[str]:
        """
        How many updates of each namespace found no document.
        """
        missing: Counter[str] = Counter()
        for (namespace, updates), reply in zip(self._updates, replies, strict=True):
            if updates:
                missing[namespace] += updates - int(reply["n"])
        return missing


def _refuse_missing(missing: Counter[str]) -> None:
    for namespace, count in missing.items():
        if count:
            raise ApplyError(
                f"{count} update(s) to {namespace} found no document in the destination: "
                "it is not a complete copy of the source; copy the data anew"
            )


def _always(namespace: str) -> bool:
    return True


def without_documents(error: OperationFailure) -> str:
    """
    An error's text without what it shows of keys and documents.
    """
    text = str(error)
    # "in element {...}", "changed from {...}": a brace begins a document
    # wherever it stands.
    for marker in (", full error", " dup key", "{"):
        text = text.split(marker, maxsplit=1)[0]
    return text.rstrip(" :(")[:300]


def refusal(error: OperationFailure) -> str:
    """
    What to say of a write that the destination refused.
    """
    return f"the destination refused a write (code {error.code}): {without_documents(error)}"


class CountingWriter:
    """
    Writes nothing: counts what would be written, for C{--dry-run}.

    @ivar counts: operations by namespace and kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """
        See L{BatchWriter.write}.
        """
        for operation in batch.operations():
            self.counts[operation.namespace, operation.kind] += 1
        return current.advanced(batch.position, batch.term, count=batch.count, part=batch.part)
