"""
Capped collections where nothing can write them atomically: in their order,
before the transaction with everything else, so that repeating is safe.

The checkpoint notes first that this is about to happen.  After a crash the
newest document says how far it came: it is never evicted before older ones,
so that what was inserted up to it is there, or was there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.rawbson import find_element, values_equal_key
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.statements import Operation

__all__ = ["CAPPED_DELETE", "CappedAppender"]

CAPPED_DELETE = 20
"""
What servers before 5.3 answer to a deletion in a capped collection.  Their
own evictions are what the source's oplog has as such.
"""

_DUPLICATE_KEY = 11000


class CappedAppender:
    """
    Writes a batch's operations on capped collections.
    """

    def __init__(self, pool: ConnectionPool, store: CheckpointStore, patience: Patience) -> None:
        self._pool = pool
        self._store = store
        self._patience = patience

    async def append(self, batch: Batch, capped: Sequence[str], current: Checkpoint) -> Checkpoint:
        """
        Write what a batch has for these collections.

        @return: the checkpoint with the intent, to go on from.
        @raise OperationFailure: the destination refuses an operation.
        @raise txmongokit.replicator.checkpoint.FencedError: another
            replicator has taken over.
        """
        # Within the window, and up to an earlier intent, it may be there already.
        repeated = current.intent is not None or batch.position <= current.window_end
        if current.intent is None or current.intent < batch.position:
            intending = current.intending(batch.position)
            await self._store.advance(current, intending, self._patience)
            current = intending
        for namespace in capped:
            operations = [each for each in batch.operations() if each.namespace == namespace]
            await self._append(namespace, operations, repeated)
        return current

    async def _append(
        self, namespace: str, operations: Sequence[Operation], repeated: bool
    ) -> None:
        database, _, name = namespace.partition(".")
        collection = self._pool[database][name]

        async def attempt(again: bool) -> None:
            if repeated or again:
                await _write_again(collection, operations)
            else:
                await _write(collection, operations)

        await self._patience.keep_trying(attempt, "destination")


async def _write(
    collection: Collection[dict[str, object]], operations: Sequence[Operation]
) -> None:
    at = 0
    while at < len(operations):
        form, end = operations[at].form, at + 1
        size = operations[at].size
        while end < len(operations) and operations[end].form == form and size < _PIECE:
            size += operations[end].size
            end += 1
        await _write_alike(collection, operations[at:end])
        at = end


# A message may have 48 MB, and the last operation 16 of them.
_PIECE = 16 * 1024 * 1024
_COMMANDS = {"i": "insert", "u": "update", "d": "delete"}


async def _write_alike(
    collection: Collection[dict[str, object]], operations: Sequence[Operation]
) -> None:
    kind = operations[0].form
    statements = [each.document if kind == "i" else each.statement for each in operations]
    try:
        await collection.raw_write(
            _COMMANDS[kind],
            statements,
            ordered=True,
            bypass_document_validation=None if kind == "d" else True,
        )
    except OperationFailure as error:
        if kind != "d" or error.code != CAPPED_DELETE:
            raise


async def _write_again(
    collection: Collection[dict[str, object]], operations: Sequence[Operation]
) -> None:
    """Write what may be there in part, one by one."""
    newest = await _newest_key(collection)
    keys = [each.key if each.kind == "i" else None for each in operations]
    done = keys.index(newest) + 1 if newest is not None and newest in keys else 0
    for number, operation in enumerate(operations):
        if operation.kind == "i" and number < done:
            continue
        try:
            await _write_alike(collection, [operation])
        except OperationFailure as error:
            if operation.kind != "i" or error.code != _DUPLICATE_KEY:
                raise


async def _newest_key(collection: Collection[dict[str, object]]) -> Hashable | None:
    cursor = collection.find_raw_batches({}, {"_id": 1}, sort=[("$natural", -1)], limit=-1)
    documents = await cursor.next_batch()
    found = find_element(documents[0], b"_id") if documents else None
    if found is None:
        return None
    return values_equal_key(found[0], documents[0][found[3] : found[4]])
