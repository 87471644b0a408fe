"""
The lanes' checkpoints: documents beside the main one, in the destination.

The main checkpoint's document says in C{lanes} how operations are divided
among how many lanes (L{Layout}); each lane has a document of its own, which
has the form of a checkpoint and whose C{_id} is derived from the main one's.
They are never deleted: a lane that is made anew goes on with the C{seq} of the
one of its number before, so that nobody who remembers that one can pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred, FirstError, gatherResults

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import COLLECTION, DATABASE, Checkpoint, CheckpointStore
from txmongokit.replicator.partition import Layout
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.writers import BatchWriter, TransactionWriter
from txmongokit.sessions import ClientSession

__all__ = ["LaneStore"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Held:
    """A lane's document that is this process's, and the session that says so."""

    store: CheckpointStore
    session: ClientSession


class LaneStore:
    """
    What one replication has of lanes in its destination.

    @param store: the main checkpoint's, which this process has taken over.
    @param catalog: for the lanes' writers.
    """

    def __init__(
        self, pool: ConnectionPool, store: CheckpointStore, catalog: Catalog, patience: Patience
    ) -> None:
        self._pool = pool
        self._store = store
        self._catalog = catalog
        self._patience = patience
        self._held: dict[int, _Held] = {}
        self._documents: Collection[dict[str, Any]] = pool.get_database(
            DATABASE, write_concern=WriteConcern("majority")
        )[COLLECTION]

    async def take_over(self) -> tuple[Layout, list[Checkpoint]]:
        """
        Make this process the only one that can move the lanes' checkpoints;
        comes after the same for the main one.

        @return: the layout of the run before, and where its lanes are.
        @raise txmongokit.replicator.checkpoint.FencedError: a lane's document
            was deleted.
        """
        found = await self._patience.keep_trying(
            lambda _: self._documents.find_one({"_id": self._store.key}, {"lanes": 1}),
            "destination",
        )
        layout = Layout.from_document((found or {}).get("lanes") or {})
        return layout, await _together(self._take(number) for number in range(layout.count))

    async def make(self, numbers: Iterable[int], main: Checkpoint) -> list[Checkpoint]:
        """
        Have lanes that begin at the main checkpoint, whether there are
        documents for them or not.
        """
        return await _together(self._make(number, main) for number in numbers)

    def writer(self, number: int) -> BatchWriter:
        """
        What writes a lane's batches.
        """
        held = self._held[number]
        return TransactionWriter(
            self._pool, held.session, held.store, self._catalog, self._patience
        )

    def _hold(self, number: int) -> _Held:
        key = self._store.key
        about = {"of": key, "lane": number}
        store = CheckpointStore(self._pool, f"{key} lane {number}", about)
        held = _Held(store, self._pool.start_session(causal_consistency=False))
        self._held[number] = held
        return held

    async def _take(self, number: int) -> Checkpoint:
        held = self._hold(number)
        return await self._patience.keep_trying(
            lambda _: held.store.take_over(held.session), "destination"
        )

    async def _make(self, number: int, main: Checkpoint) -> Checkpoint:
        first = replace(main, seq=0, count=0, missing=0, intent=None, part=0)
        held = self._hold(number)
        found = await self._patience.keep_trying(lambda _: held.store.load(), "destination")
        if found is None:
            await held.store.create(first, held.session)
            return first
        taken = await self._take(number)
        first = replace(first, seq=taken.seq + 1)
        await held.store.advance(taken, first, self._patience)
        return first

    async def advance(self, current: Checkpoint, following: Checkpoint, layout: Layout) -> None:
        """
        See L{txmongokit.replicator.lanes.MainCheckpoint.advance}.

        @raise txmongokit.replicator.checkpoint.FencedError: another
            replicator has taken over.
        """
        fields = layout.fields()
        figures = {f"lanes.{name}": fields[name] for name in ("applied", "missing")}
        await self._store.advance(current, following, self._patience, figures)

    async def lay_out(self, current: Checkpoint, layout: Layout) -> Checkpoint:
        """
        See L{txmongokit.replicator.lanes.MainCheckpoint.lay_out}.

        @raise txmongokit.replicator.checkpoint.FencedError: another
            replicator has taken over.
        """
        following = replace(current, seq=current.seq + 1)
        more = {"lanes": layout.fields()}
        await self._store.advance(current, following, self._patience, more)
        return following


async def _together(tasks: Iterable[Awaitable[_T]]) -> list[_T]:
    """The results of all, which are under way at the same time."""

    async def run(task: Awaitable[_T]) -> _T:
        return await task

    try:
        return list(
            await gatherResults([Deferred.fromCoroutine(run(task)) for task in tasks], True)
        )
    except FirstError as error:
        error.subFailure.raiseException()
        raise
