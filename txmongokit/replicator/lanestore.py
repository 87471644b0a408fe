"""
The lanes' checkpoints: documents beside the main one, in the destination.

The main checkpoint's document says in C{lanes} how operations are divided
among how many lanes (L{Layout}); each lane has a document of its own, which
has the form of a checkpoint and whose C{_id} is derived from the main one's.
They are never deleted: a lane that is made anew goes on with the C{seq} of the
one of its number before, so that nobody who remembers that one can pass.

Of several processes the main checkpoint is that one's which was the last to
take it over.  Its C{seq} of then is stored in each lane, so that none of the
others, however late it comes, takes a lane from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

from txmongokit.connection import ConnectionPool
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore, FencedError
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
        self._rank: dict[str, Any] = {}

    async def take_over(self) -> tuple[Layout, list[Checkpoint]]:
        """
        Make this process the only one that can move the lanes' checkpoints;
        comes after the same for the main one, and before L{make}.

        @return: the layout of the run before, and where its lanes are.
        @raise txmongokit.replicator.checkpoint.FencedError: a lane's document
            was deleted, or another process has taken over the main one.
        """
        found = await self._patience.keep_trying(lambda _: self._store.held(), "destination")
        self._rank = {"started": found.get("started"), "seq": found["seq"]}
        layout = Layout.from_document(found.get("lanes") or {})
        lanes = [self._hold(number) for number in range(layout.count)]
        return layout, await _together(map(self._take, lanes))

    async def make(self, numbers: Iterable[int], main: Checkpoint) -> list[Checkpoint]:
        """
        Have lanes that begin at the main checkpoint, whether there are
        documents for them or not.

        @raise txmongokit.replicator.checkpoint.FencedError: another process
            has taken over the main one.
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
        held = self._held.get(number)
        if held is None:
            key = self._store.key
            about = {"of": key, "lane": number, "main": self._rank}
            store = CheckpointStore(self._pool, f"{key} lane {number}", about)
            held = _Held(store, self._pool.start_session(causal_consistency=False))
            self._held[number] = held
        return held

    async def _take(self, held: _Held) -> Checkpoint:
        return await self._patience.keep_trying(
            lambda _: held.store.take_over(held.session, rank=self._rank), "destination"
        )

    async def _make(self, number: int, main: Checkpoint) -> Checkpoint:
        first = replace(main, seq=0, count=0, missing=0, intent=None, part=0)
        held = self._hold(number)

        async def create(again: bool) -> bool:
            if await held.store.load() is not None:
                return False
            try:
                await held.store.create(first, held.session)
            except FencedError:
                # By whom, and which of the two stays, is seen by taking it.
                return False
            return True

        if await self._patience.keep_trying(create, "destination"):
            return first
        taken = await self._take(held)
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
