"""
Several lanes: batches written side by side, each lane with a checkpoint of
its own, which moves in the lane's transactions.

An operation's lane follows from its C{_id} (L{txmongokit.replicator.partition}),
so one document's operations keep their order, and lanes need not wait for one
another.  What must not be taken apart, or in another order, waits until all
lanes have written everything before it (a barrier) and is then written alone:
transactions of the source that have operations for several lanes, changes of
the schema, capped collections.

The main checkpoint follows behind the slowest lane.  What a lane is ahead of
it is skipped in that lane when a later run reads it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from txmongokit.replicator.appliers import IDLE_ADVANCE, LaneState, SingleApplier
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.partition import Layout, key_hash
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.statements import Operation
from txmongokit.replicator.writers import BatchWriter

__all__ = ["Collections", "Lane", "LaneApplier", "LaneError", "MainCheckpoint"]

# How often the main checkpoint moves while lanes write, in seconds.
_ADVANCE = 1.0
# The bytes of statements that all lanes hold together, and those of a batch.
_MOST_BYTES = 16 * 1024 * 1024
_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_OPERATIONS = 1000
# A lane that is idle begins with so many, or with its share of a whole batch.
_FEWEST_OPERATIONS = 100
# Where a namespace's operations go, besides the number of a lane.
_BY_KEY, _ALONE = -1, -2
# Names that have a lane as a whole are forgotten beyond so many.
_MOST_WHOLE = 1000


class LaneError(Exception):
    """
    What earlier lanes have left does not go with what is read: one sentence
    with the mend.
    """


class Collections(Protocol):
    """
    What a L{txmongokit.replicator.catalog.Catalog} knows.
    """

    version: int

    def is_strict(self, namespace: str) -> bool:
        """
        Whether the order of its operations counts among all documents.
        """

    def is_capped(self, namespace: str) -> bool:
        """
        Whether it is capped.
        """

    async def learn(self, namespaces: Iterable[str]) -> None:
        """
        Look up those that are not known.
        """


class MainCheckpoint(Protocol):
    """
    The main checkpoint's document, with the layout of the lanes.
    """

    async def advance(self, current: Checkpoint, following: Checkpoint, layout: Layout) -> None:
        """
        Move it, and the layout's figures with it.
        """

    async def lay_out(self, current: Checkpoint, layout: Layout) -> Checkpoint:
        """
        Store a layout.

        @return: the checkpoint as it now stands, at the same position.
        """


@dataclass(slots=True, eq=False)
class Lane:
    """
    One lane.

    @ivar checkpoint: the lane's own.
    @ivar batch: what is collected.
    @ivar floor: the position (and its term) before the first entry of what is
        collected.
    @ivar flight: the same for what is being written; C{None} for nothing.
    @ivar due: whether what is collected is to be written as soon as what is
        being written is done.
    @ivar skip: entries up to here are in the destination already.
    """

    writer: BatchWriter
    checkpoint: Checkpoint
    skip: int = 0
    batch: Batch = field(default_factory=Batch)
    floor: tuple[int, int] = (0, -1)
    flight: tuple[int, int] | None = None
    due: bool = False


class LaneApplier:
    """
    Divides operations among lanes, and writes behind barriers by itself.

    @param single: writes what goes with the main checkpoint.
    @param collections: the destination's; C{None} to divide by the layout
        alone, as the run that has left it did.
    @ivar layout: how operations are divided; there are as many lanes.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        single: SingleApplier,
        lanes: Sequence[Lane],
        layout: Layout,
        main: MainCheckpoint,
        patience: Patience,
        collections: Collections | None,
    ) -> None:
        self.progress = single.progress
        self._reactor = reactor
        self._single = single
        self._lanes = list(lanes)
        self.layout = layout
        self._main = main
        self._patience = patience
        self._collections = collections
        self._version = 0 if collections is None else collections.version
        self._routes: dict[str, int] = {}
        self._batch_bytes = min(_BATCH_BYTES, _MOST_BYTES // (2 * len(self._lanes)))
        self._enough = max(_FEWEST_OPERATIONS, _BATCH_OPERATIONS // len(self._lanes))
        for lane in self._lanes:
            lane.batch = self._new_batch()
        self._bytes = 0
        self._flying = 0
        self._full: Lane | None = None
        self._reached = (single.checkpoint.position, single.checkpoint.term)
        # Whether everything goes to the single applier, and how much that had
        # to be written alone it was given since it last began a batch.
        self._alone = False
        self._barriers = 0
        self._advancing = False
        self._last_advance = reactor.seconds()
        self._waiting: list[Deferred[None]] = []
        self._failure: Failure | None = None
        self._closed = False

    def _new_batch(self) -> Batch:
        return Batch(_BATCH_OPERATIONS, self._batch_bytes)

    # How it stands.

    @property
    def checkpoint(self) -> Checkpoint:
        """
        See L{txmongokit.replicator.appliers.Applier.checkpoint}.
        """
        return self._single.checkpoint

    @property
    def busy(self) -> bool:
        """
        See L{txmongokit.replicator.appliers.Applier.busy}.
        """
        return self._flying != 0 or self._single.busy

    @property
    def reached(self) -> int:
        """
        See L{txmongokit.replicator.appliers.Applier.reached}.
        """
        if self._alone or self._single.busy:
            return self._single.reached
        if not self._flying and not self._bytes:
            return self.progress.read
        return max(self.checkpoint.reached, self._complete()[0])

    @property
    def lanes(self) -> Sequence[LaneState]:
        """
        See L{txmongokit.replicator.appliers.Applier.lanes}.
        """
        main = self.progress.position
        return [
            LaneState(
                max(main, self._complete_in(lane)[0]),
                lane.checkpoint.count,
                lane.flight is not None,
            )
            for lane in self._lanes
        ]

    def _complete_in(self, lane: Lane) -> tuple[int, int]:
        """Up to where a lane has applied what is its; the term of the entry there."""
        if lane.flight is not None:
            return lane.flight
        return lane.floor if lane.batch.count else self._reached

    def _complete(self) -> tuple[int, int]:
        return min(self._complete_in(lane) for lane in self._lanes)

    # Taking operations.

    def add(self, operation: Operation, position: int) -> Awaitable[None] | None:
        """
        See L{txmongokit.replicator.appliers.Applier.add}.
        """
        route = self._routes.get(operation.namespace)
        if self._alone:
            self._barriers += route == _ALONE
            self._single.add(operation, position)
            return None
        if (
            route is None
            or route == _ALONE
            or (self._collections is not None and self._collections.version != self._version)
        ):
            return self._place([operation], position)
        if route == _BY_KEY:
            route = key_hash(operation.key) % len(self._lanes)
        self._put(self._lanes[route], operation, position)
        return None

    def add_all(self, operations: Sequence[Operation], position: int) -> Awaitable[None] | None:
        """
        See L{txmongokit.replicator.appliers.Applier.add_all}.
        """
        if not operations:
            return None
        if self._alone:
            self._barriers += len(operations) > 1
            self._single.add_all(operations, position)
            return None
        return self._place(operations, position)

    async def _place(self, operations: Sequence[Operation], position: int) -> None:
        """Find out where operations belong that are to stay together, and put them there."""
        await self._learn(operations)
        numbers = {self._number(each) for each in operations}
        number = numbers.pop()
        if not numbers and number != _ALONE:
            for each in operations:
                self._put(self._lanes[number], each, position)
            return
        if self._collections is None:
            raise LaneError(
                f"the transaction at {position >> 32} has operations for several lanes, and some "
                "of it may have been applied by the run before, which divided them otherwise: go "
                "on with the release of txmongokit that ran then, or copy the data anew"
            )
        # The main checkpoint passes what lanes have applied with the batch itself.
        await self._land()
        self._alone = True
        self._barriers = 1
        self._single.add_all(operations, position)

    def _number(self, operation: Operation) -> int:
        route = self._routes[operation.namespace]
        return key_hash(operation.key) % len(self._lanes) if route == _BY_KEY else route

    async def _learn(self, operations: Sequence[Operation]) -> None:
        """Make all their namespaces' routes known, and stored where a later run needs them."""
        collections = self._collections
        if collections is None:
            for each in operations:
                self._routes[each.namespace] = self._route_by_layout(each.namespace)
            return
        namespaces = list(dict.fromkeys(each.namespace for each in operations))
        while True:
            if collections.version != self._version:
                self._version = collections.version
                self._routes.clear()
            unknown = [name for name in namespaces if name not in self._routes]
            if not unknown:
                return
            await self._study(unknown, collections)

    async def _study(self, unknown: Sequence[str], collections: Collections) -> None:
        """Look at collections, unless what is known of them changes meanwhile."""
        await self._patience.keep_trying(lambda _: collections.learn(unknown), "destination")
        if collections.version != self._version:
            return
        capped = {name for name in unknown if collections.is_capped(name)}
        strict = {name for name in unknown if collections.is_strict(name)} - capped
        if strict != self.layout.whole.intersection(unknown):
            await self._divide_otherwise(strict, set(unknown) - strict)
        for name in unknown:
            self._routes[name] = _ALONE if name in capped else self._route_by_layout(name)

    def _route_by_layout(self, namespace: str) -> int:
        if namespace in self.layout.whole:
            return self.layout.lane(namespace, None)
        return _BY_KEY

    async def _divide_otherwise(self, whole: set[str], others: set[str]) -> None:
        """Change which namespaces have a lane as a whole: a barrier."""
        await self._drain_lanes(whole=False)
        kept = self.layout.whole - others
        if len(kept) > _MOST_WHOLE:
            # Of collections that are gone, among others.
            kept = frozenset(name for name in kept if name in self._routes)
        layout = replace(self.layout, whole=kept | whole)
        checkpoint = await self._main.lay_out(self._single.checkpoint, layout)
        self.layout = layout
        self._single.moved(checkpoint)

    def _put(self, lane: Lane, operation: Operation, position: int) -> None:
        if position <= lane.skip:
            return
        batch = lane.batch
        if not batch.count:
            lane.floor = self._reached
        batch.add(operation)
        self._bytes += operation.size
        if batch.full or (lane.flight is None and batch.count >= self._enough):
            self._full = lane

    def reach(self, position: int, term: int) -> bool:
        """
        See L{txmongokit.replicator.appliers.Applier.reach}.
        """
        self._reached = (position, term)
        if self._alone:
            return self._single.reach(position, term)
        self.progress.read = position
        return self._full is not None or self._bytes >= _MOST_BYTES

    # Writing.

    async def submit(self) -> None:
        """
        See L{txmongokit.replicator.appliers.Applier.submit}.
        """
        self._check()
        if self._alone:
            await self._single.submit()
            # Where barriers are less than a batch apart, lanes would only wait.
            self._alone = self._barriers > 1 or self._single.collected
            self._barriers = 0
            return
        await self._single.drain()
        full, self._full = self._full, None
        if full is not None and full.flight is None and self._bytes < _MOST_BYTES:
            self._start(full)
        else:
            # While one lane is waited for, the others need not be.
            self._start_all()
        while self._bytes >= _MOST_BYTES or (full is not None and full.batch.full):
            await self._something()
        self._advance_if_due()

    def _start_all(self) -> None:
        for lane in self._lanes:
            if lane.batch.count:
                if lane.flight is None:
                    self._start(lane)
                else:
                    lane.due = True

    def _start(self, lane: Lane) -> None:
        batch, lane.batch = lane.batch, self._new_batch()
        batch.reach(*self._reached)
        lane.flight = lane.floor
        lane.due = False
        self._flying += 1
        writing = Deferred.fromCoroutine(lane.writer.write(batch, lane.checkpoint))
        writing.addCallback(self._landed, lane, batch)
        writing.addErrback(self._failed)

    def _landed(self, checkpoint: Checkpoint, lane: Lane, batch: Batch) -> None:
        lane.checkpoint = checkpoint
        lane.flight = None
        self._flying -= 1
        self._bytes -= batch.bytes
        self.progress.applied += batch.count
        if self._closed or self._failure is not None:
            return
        if lane.due or lane.batch.full or lane.batch.count >= self._enough:
            self._start(lane)
        self._advance_if_due()
        self._tell()

    def _failed(self, failure: Failure) -> None:
        if self._failure is None:
            self._failure = failure
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def _check(self) -> None:
        if self._failure is not None:
            self._failure.raiseException()

    async def _something(self) -> None:
        """Wait until anything that is under way is done."""
        self._check()
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        await waiting
        self._check()

    async def drain(self, *, whole: bool = False) -> None:
        """
        See L{txmongokit.replicator.appliers.Applier.drain}.
        """
        self._check()
        await self._single.drain(whole=whole)
        if self._alone and not self._single.collected:
            self._alone = False
            self._barriers = 0
        if not self._alone:
            await self._drain_lanes(whole=whole)

    async def _land(self) -> None:
        """All lanes write what they have."""
        await self._single.drain()
        self._full = None
        self._start_all()
        while self._flying or self._bytes or self._advancing:
            await self._something()
        self._check()

    async def _drain_lanes(self, *, whole: bool) -> None:
        """All lanes write what they have, then the main checkpoint moves."""
        await self._land()
        main = self.checkpoint
        before = (main.position, main.term)
        position, term = max(self._reached, before)
        if self._figures() != self.layout or (whole and (position, term) > before):
            await self._advance(position, term)

    def _figures(self) -> Layout:
        """The layout with what the lanes have counted so far."""
        return replace(
            self.layout,
            applied=sum(lane.checkpoint.count for lane in self._lanes),
            missing=sum(lane.checkpoint.missing for lane in self._lanes),
        )

    def _advance_if_due(self) -> None:
        """Let the main checkpoint follow, in the background."""
        if self._advancing or self._closed or self._failure is not None:
            return
        main = self.checkpoint
        position, term = max(self._complete(), (main.position, main.term))
        idle = not self._flying and not self._bytes
        changed = self._figures() != self.layout
        if position == main.position and not (idle and changed):
            return
        waited = self._reactor.seconds() - self._last_advance
        if waited < (_ADVANCE if changed else IDLE_ADVANCE):
            return
        self._advancing = True
        moving = Deferred.fromCoroutine(self._advance(position, term))
        moving.addCallbacks(lambda _: self._tell(), self._failed)

    async def _advance(self, position: int, term: int) -> None:
        self._advancing = True
        self._last_advance = self._reactor.seconds()
        current, layout = self.checkpoint, self._figures()
        following = current.advanced(
            position,
            term,
            count=layout.applied - self.layout.applied,
            missing=layout.missing - self.layout.missing,
        )
        await self._main.advance(current, following, layout)
        self.layout = layout
        self._advancing = False
        self._single.moved(following)

    async def write(self, batch: Batch) -> None:
        """
        See L{txmongokit.replicator.appliers.Applier.write}.
        """
        await self._single.write(batch)

    def moved(self, checkpoint: Checkpoint) -> None:
        """
        See L{txmongokit.replicator.appliers.Applier.moved}.
        """
        self._single.moved(checkpoint)

    def abandon(self) -> None:
        """
        See L{txmongokit.replicator.appliers.Applier.abandon}.
        """
        self._closed = True
        self._single.abandon()
