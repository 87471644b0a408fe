"""
Changes to collections and indexes: executed between batches.

They cannot be part of a transaction.  So the intent is stored first, then
the change is made in a way that may be repeated, then the checkpoint moves
past it: after a crash in between it is made again, and finds itself done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import bson
from bson.codec_options import CodecOptions
from pymongo.write_concern import WriteConcern
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore
from txmongokit.replicator.ddl import DDL, translate, translate_view
from txmongokit.replicator.entries import OplogEntry
from txmongokit.replicator.patience import Patience, is_passing
from txmongokit.replicator.plainwrites import is_plain, translate_write
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.writers import ApplyError, refusal, without_documents

__all__ = ["SchemaWriter"]

_NAMESPACE_EXISTS = 48
# Within the first start's window the destination may be ahead: an index may
# have changed (85, 86), or be gone (27).
_LATER = {"createIndexes": (85, 86), "collMod": (27,)}
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions()


class SchemaWriter:
    """
    Executes DDL entries in the destination.

    @param store: C{None} where nothing is to be written (C{--dry-run}).
    @ivar counts: what would be executed then, by names and command.
    """

    _log = Logger()

    def __init__(
        self,
        pool: ConnectionPool,
        store: CheckpointStore | None,
        catalog: Catalog,
        selection: Selection,
        patience: Patience,
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._pool = pool
        self._store = store
        self._catalog = catalog
        self._selection = selection
        self._patience = patience

    def handles(self, namespace: str) -> bool:
        """
        Whether writes to a system collection are changes of the schema.
        """
        return namespace.endswith(".system.views") or is_plain(namespace)

    def plan(self, entry: OplogEntry) -> DDL | None:
        """
        What an entry changes; C{None} for nothing.

        @raise txmongokit.replicator.ddl.UnsupportedDDL: it cannot be
            replicated.
        """
        if is_plain(entry.ns):
            return translate_write(entry, self._selection)
        o = bson.decode(entry.o, _CODEC)
        o2 = None if entry.o2 is None else bson.decode(entry.o2, _CODEC)
        if entry.op == "c":
            return translate(entry.ns, o, o2, self._selection)
        return translate_view(entry.op, entry.ns, o, o2, self._selection)

    async def execute(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> Checkpoint:
        """
        Make a change and move the checkpoint past it.

        @raise ApplyError: the destination refuses it.
        @raise txmongokit.replicator.checkpoint.FencedError: another
            replicator has taken over.
        """
        self._announce(change)
        if self._store is None:
            return current.advanced(entry.ts, entry.term, count=1)
        repeated = current.intent == entry.ts
        if not repeated:
            intending = current.intending(entry.ts)
            await self._store.advance(current, intending, self._patience)
            current = intending
        await self._run(change, repeated=repeated, replayed=entry.ts <= current.window_end)
        following = current.advanced(entry.ts, entry.term, count=1)
        await self._store.advance(current, following, self._patience)
        return following

    async def prepare(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> None:
        """
        Make a change that belongs to a source transaction, before the
        transaction is written.

        Only collections and indexes can be made there.  The checkpoint stays
        where it is: after a crash the transaction is read again, and what
        was made is found to be there.
        """
        self._announce(change)
        if self._store is not None:
            await self._run(change, repeated=True, replayed=entry.ts <= current.window_end)

    def _announce(self, change: DDL) -> None:
        verb = next(iter(change.command))
        if self._store is None:
            self.counts[", ".join(change.namespaces), verb] += 1
        self._log.info("{verb} on {names}", verb=verb, names=", ".join(change.namespaces))

    async def _run(self, change: DDL, *, repeated: bool, replayed: bool) -> None:
        """
        Execute a change.

        @param repeated: a crash may have come between it and its checkpoint.
        @param replayed: it is of the time before the first start, so what
            followed it may be in the destination already.
        """
        await self._patience.keep_trying(
            lambda again: self._execute(change, repeated or again, replayed), "destination"
        )

    async def _execute(self, change: DDL, repeated: bool, replayed: bool) -> None:
        # Whatever comes of it, what is known of the collections may be wrong.
        self._catalog.forget()
        database = self._pool.get_database(change.database, write_concern=WriteConcern("majority"))
        try:
            reply = await database.command({**change.command, "writeConcern": {"w": "majority"}})
            _check_writes(reply)
        except OperationFailure as error:
            if error.code in change.done_codes or (
                (repeated or replayed) and error.code in change.done_codes_repeated
            ):
                if change.verify_options and error.code == _NAMESPACE_EXISTS:
                    await self._compare_options(change, replayed)
                return
            if is_passing(error):
                raise
            verb = next(iter(change.command))
            if replayed and error.code in _LATER.get(verb, ()):
                # What is still to come has made it so, and comes again.
                self._log.warn("{verb}: {error}", verb=verb, error=without_documents(error))
                return
            if replayed and verb == "renameCollection" and error.code == _NAMESPACE_EXISTS:
                # So has it the target, all of which is written again.
                command = {**change.command, "dropTarget": True}
                await self._execute(replace(change, command=command), repeated, False)
                return
            raise ApplyError(
                f"{verb} on {', '.join(change.namespaces)} failed: {refusal(error)}"
            ) from error

    async def _compare_options(self, change: DDL, replayed: bool) -> None:
        """What exists already must be what would have been created."""
        name = change.command["create"]
        wanted = {k: v for k, v in change.command.items() if k != "create"}
        found = await self._pool[change.database].list_collections(filter={"name": name})
        existing = dict(found[0].get("options", {})) if found else {}
        existing.pop("uuid", None)
        for option in sorted(set(wanted) | set(existing)):
            if _equal(option, wanted.get(option), existing.get(option)):
                continue
            difference = (
                f"{change.database}.{name} exists in the destination with another {option!r} "
                "than in the source"
            )
            if not replayed:
                raise ApplyError(f"{difference}: drop it there, or make it equal")
            # A collMod that is still to come may have made it so.
            self._log.warn("{difference}", difference=difference)


def _equal(option: str, wanted: Any, existing: Any) -> bool:
    if (
        option in ("collation", "timeseries")
        and isinstance(wanted, dict)
        and isinstance(existing, dict)
    ):
        return all(existing.get(name) == value for name, value in wanted.items())
    if option == "size" and wanted is not None and existing is not None:
        # Older servers round the size of a capped collection up.
        return bool(existing >= wanted)
    if wanted in (None, False) and existing in (None, False):
        return True
    return bool(wanted == existing)


def _check_writes(reply: Mapping[str, Any]) -> None:
    """A write command's reply is a good one even where nothing was written."""
    for error in reply.get("writeErrors", ()):
        raise OperationFailure(str(error.get("errmsg")), error.get("code"), dict(reply))
