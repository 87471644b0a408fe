"""
Writing to a destination that has no transactions.

Up to server 6.1, C{applyOps} applies a list of operations atomically, the
checkpoint's update among them, if the checkpoint is where it should be.
Elsewhere each operation takes effect at least once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import bson
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.errors import CollectionInvalid, OperationFailure
from txmongokit.rawbson import wrap
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.capped import CAPPED_DELETE
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore, FencedError
from txmongokit.replicator.patience import Patience, is_passing
from txmongokit.replicator.statements import Operation
from txmongokit.replicator.writers import ApplyError, pieces, refusal

__all__ = ["ApplyOpsWriter", "RepeatingWriter"]

_NAMESPACE_NOT_FOUND = 26
_NAMESPACE_EXISTS = 48
_DOCUMENT_MISSING = 218
# applyOps is one document: its operations must fit in 16 MiB.
_LARGEST = 15 * 1024 * 1024


class ApplyOpsWriter:
    """
    Writes atomically by C{applyOps}.
    """

    _log = Logger()

    def __init__(self, pool: ConnectionPool, store: CheckpointStore, patience: Patience) -> None:
        self._pool = pool
        self._store = store
        self._patience = patience

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """
        See L{txmongokit.replicator.writers.BatchWriter.write}.

        @raise ApplyError: the destination refuses an operation, or lacks a
            document that it should have.
        @raise FencedError: another replicator has taken over.
        """
        return await self._patience.keep_trying(
            lambda again: self._write(batch, current, again), "destination"
        )

    async def _write(self, batch: Batch, current: Checkpoint, again: bool) -> Checkpoint:
        if again:
            settled = await self._store.settled(current, batch.position)
            if settled is not None:
                return settled
        _check_size(batch.bytes)
        operations = list(batch.operations())
        count = len(operations)
        missing = 0
        made = False
        while True:
            following = current.advanced(
                batch.position, batch.term, count=count, missing=missing, part=batch.part
            )
            try:
                await self._apply(operations, current, following)
                return following
            except OperationFailure as error:
                if error.code == _NAMESPACE_NOT_FOUND and not made:
                    made = True
                    await self._make_collections(batch.namespaces)
                elif error.code == _DOCUMENT_MISSING:
                    if batch.position > current.window_end:
                        raise ApplyError(
                            "an update found no document in the destination: it is not a "
                            "complete copy of the source; copy the data anew"
                        ) from error
                    kept = await self._without_missing(operations)
                    if len(kept) == len(operations):
                        raise ApplyError(refusal(error)) from error
                    missing += len(operations) - len(kept)
                    operations = kept
                elif error.code == CAPPED_DELETE and any(each.kind == "d" for each in operations):
                    operations = await self._without_evictions(operations)
                else:
                    await self._explain(error, current)

    async def _apply(
        self, operations: Sequence[Operation], current: Checkpoint, following: Checkpoint
    ) -> None:
        documents = [_apply_ops_document(operation) for operation in operations]
        _check_size(sum(len(document.raw) for document in documents))
        fields = following.fields()
        move = {
            "op": "u",
            "ns": self._store.namespace,
            "o2": {"_id": self._store.key},
            # The one form of an update that all these versions take.
            "o": {"$v": 1, "$set": fields},
        }
        await self._pool["admin"].command(
            {
                "applyOps": [*documents, move],
                "preCondition": [
                    {
                        "ns": self._store.namespace,
                        "q": {"_id": self._store.key},
                        "res": {"seq": Int64(current.seq)},
                    }
                ],
                "alwaysUpsert": False,
                "bypassDocumentValidation": True,
                "writeConcern": {"w": "majority"},
            }
        )

    async def _make_collections(self, namespaces: Sequence[str]) -> None:
        for namespace in namespaces:
            database, _, name = namespace.partition(".")
            try:
                await self._pool[database].command({"create": name})
            except CollectionInvalid:
                pass
            except OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS:
                    raise ApplyError(refusal(error)) from error

    async def _without_evictions(self, operations: Sequence[Operation]) -> list[Operation]:
        """Leave out deletions in capped collections, which evict by themselves."""
        catalog = Catalog(self._pool)
        await catalog.learn({each.namespace for each in operations})
        kept = [
            each for each in operations if each.kind != "d" or not catalog.is_capped(each.namespace)
        ]
        if len(kept) == len(operations):
            raise ApplyError("the destination refused a deletion (code 20)")
        return kept

    async def _without_missing(self, operations: Sequence[Operation]) -> list[Operation]:
        """Leave out updates of documents that are neither there nor inserted before."""
        known: dict[tuple[str, Hashable], bool] = {}
        kept = []
        for operation in operations:
            key = (operation.namespace, operation.key)
            if operation.kind == "u":
                if key not in known:
                    known[key] = await self._exists(operation)
                if not known[key]:
                    continue
            else:
                known[key] = operation.kind == "i"
            kept.append(operation)
        return kept

    async def _exists(self, operation: Operation) -> bool:
        database, _, name = operation.namespace.partition(".")
        identifier = bson.decode(wrap(operation.id_element))["_id"]
        found = await self._pool[database][name].find_one({"_id": {"$eq": identifier}}, {"_id": 1})
        return found is not None

    async def _explain(self, error: OperationFailure, current: Checkpoint) -> None:
        if is_passing(error):
            raise error
        stored = await self._store.load()
        if stored is None or stored.seq != current.seq:
            raise FencedError(
                f"the checkpoint in {self._store.namespace} has moved: another replicator has "
                "taken over this destination, and this one stops"
            ) from error
        raise ApplyError(refusal(error)) from error


def _check_size(size: int) -> None:
    if size > _LARGEST:
        raise ApplyError(
            f"{size} bytes of operations belong together, and a standalone server applies at "
            f"most {_LARGEST} atomically: use a replica set as the destination, or "
            "--at-least-once"
        )


def _apply_ops_document(operation: Operation) -> RawBSONDocument:
    head: dict[str, Any] = {"op": operation.kind, "ns": operation.namespace}
    elements = bson.encode(head)[4:-1]
    if operation.kind == "u":
        elements += b"\x03o2\0" + wrap(operation.id_element)
    document = wrap(operation.id_element) if operation.kind == "d" else operation.document
    return RawBSONDocument(wrap(elements + b"\x03o\0" + document))


class RepeatingWriter:
    """
    Writes batch and checkpoint one after the other: after a crash the last
    batch is written again.  Operations are such that this gives the same
    result, but for what other writers did in between.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        store: CheckpointStore,
        catalog: Catalog,
        patience: Patience,
    ) -> None:
        self._pool = pool
        self._store = store
        self._catalog = catalog
        self._patience = patience

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """
        See L{txmongokit.replicator.writers.BatchWriter.write}.

        @raise ApplyError: the destination refuses a write, or lacks a
            document that it should have.
        @raise FencedError: another replicator has taken over.
        """
        missing = await self._patience.keep_trying(lambda again: self._write(batch), "destination")
        # A repeated batch may update what its own deletes have removed, so
        # missing documents tell nothing here.
        following = current.advanced(
            batch.position, batch.term, count=batch.count, missing=missing, part=batch.part
        )
        await self._store.advance(current, following, self._patience)
        return following

    async def _write(self, batch: Batch) -> int:
        """Write everything; how many updates found no document."""
        await self._catalog.learn(batch.namespaces)
        missing = 0
        try:
            for group in batch.each_group(lambda namespace: True):
                database, _, name = group.namespace.partition(".")
                collection = self._pool[database][name]
                for piece in pieces(group.statements):
                    reply = await collection.raw_write(
                        group.kind,
                        piece,
                        ordered=True,
                        bypass_document_validation=True if group.kind == "update" else None,
                    )
                    if group.kind == "update":
                        missing += len(piece) - int(reply["n"])
        except OperationFailure as error:
            if is_passing(error):
                raise
            raise ApplyError(refusal(error)) from error
        return missing
