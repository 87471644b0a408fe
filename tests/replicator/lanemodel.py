"""
A model of a destination for replications in lanes: what is written lands
there as a whole or not at all, at a moment that the test chooses, and is
checked as it lands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import bson
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.replicator.test_replication import FakeTailer, at, entry
from txmongokit.replicator.appliers import Applier, SingleApplier
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.entries import OplogEntry
from txmongokit.replicator.partition import Layout
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.replication import Replication
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect
from txmongokit.replicator.succession import Succession
from txmongokit.replicator.tailer import Tailer

__all__ = ["CAPPED", "Destination", "History", "Run", "applied"]

CAPPED = "app.capped"
_UNIQUE = ("app.a", "app.u")


def applied(checkpoint: Checkpoint) -> int:
    """
    The second up to which everything is applied.
    """
    return (checkpoint.position >> 32) - (not checkpoint.applied)


class History:
    """
    Entries of a source, drawn at random; each operation has a number.

    @ivar entries: in order, at the seconds 1, 2 and so on.
    @ivar documents: the numbers that each document gets, in order.
    @ivar together: for each number those of its transaction.
    @ivar until: how many operations there are up to each second.
    """

    def __init__(self, draw: random.Random, length: int) -> None:
        self.entries: list[bytes] = []
        self.documents: dict[tuple[str, int], list[int]] = {}
        self.together: dict[int, frozenset[int]] = {}
        self.until = [0]
        self.commands = 0
        self._draw = draw
        # How much there is that lanes have to wait for.
        self._barriers = draw.choice((0.02, 0.1, 1.0))
        for second in range(1, length + 1):
            self.entries.append(self._entry(second))
            self.until.append(len(self.together))

    def _entry(self, second: int) -> bytes:
        dice = self._draw.random()
        if dice < 0.04 * self._barriers:
            self.commands += 1
            name = self._draw.choice(_UNIQUE).partition(".")[2]
            verb = self._draw.choice(("makeUnique", "makeCommon"))
            return entry(second, "c", "app.$cmd", o={verb: name})
        if dice < 0.1:
            return entry(second, ns="app.log")
        if dice < 0.15 + 0.1 * self._barriers:
            most = 4 if self._draw.random() < self._barriers else 2
            operations = [self._operation() for _ in range(self._draw.randrange(1, most))]
            numbers = frozenset(each["o"]["n"] for each in operations)
            self.together.update(dict.fromkeys(numbers, numbers))
            return entry(second, "c", "admin.$cmd", o={"applyOps": operations})
        operation = self._operation()
        self.together[operation["o"]["n"]] = frozenset([operation["o"]["n"]])
        return entry(second, ns=operation["ns"], o=operation["o"])

    def _operation(self) -> dict[str, Any]:
        draw = self._draw
        namespace = draw.choice(("app.a", "app.a", "app.b", "app.b", "app.u", CAPPED))
        if namespace == CAPPED and draw.random() > self._barriers / 3:
            namespace = "app.b"
        key = draw.randrange(12)
        number = sum(map(len, self.documents.values()))
        self.documents.setdefault((namespace, key), []).append(number)
        return {"op": "i", "ns": namespace, "o": {"_id": key, "n": number}}


class Destination:
    """
    What a server has, of which whole writes are made.

    @param main: where the replication begins.
    @ivar steps: what is under way: what it does when it lands, and whom it
        tells then.
    @ivar owner: the run that may write.
    """

    def __init__(self, history: History, main: Checkpoint) -> None:
        self.history = history
        self.main = main
        self.layout = Layout()
        self.lanes: dict[int, Checkpoint] = {}
        self.documents: dict[tuple[str, int], list[int]] = {}
        self.landed: set[int] = set()
        self.unique: set[str] = set()
        self.steps: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.owner: object = None
        self._newest: dict[str, int] = {}

    async def step(self, run: object, action: Callable[[], None]) -> None:
        """
        Do something when its time comes.

        @raise FencedError: by then another run has taken over.
        """
        done: Deferred[None] = Deferred()

        def land() -> None:
            if run is self.owner:
                action()

        self.steps.append((land, done))
        await done
        if run is not self.owner:
            raise FencedError("another run has taken over")

    def apply(self, batch: Batch) -> None:
        """
        What a batch does to documents.
        """
        numbers: set[int] = set()
        for operation in batch.operations():
            document = bson.decode(operation.document)
            number = int(document["n"])
            known = self.documents.setdefault((operation.namespace, document["_id"]), [])
            if number in self.landed or number in numbers or (known and known[-1] >= number):
                raise AssertionError(f"{number} comes again, or after {known}")
            newest = self._newest.get(operation.namespace, -1)
            ordered = operation.namespace in self.unique or operation.namespace == CAPPED
            if ordered and newest > number:
                raise AssertionError(f"{number} is out of order in {operation.namespace}")
            newest = max(number, newest)
            self._newest[operation.namespace] = newest
            known.append(number)
            numbers.add(number)
        for number in numbers:
            if not self.history.together[number] <= numbers:
                raise AssertionError(f"the transaction of {number} is torn apart")
        self.landed |= numbers

    def move_main(self, current: Checkpoint, following: Checkpoint) -> None:
        """
        The main checkpoint moves: everything before it must be there.
        """
        if self.main.seq != current.seq:
            raise AssertionError("the main checkpoint is not where it was thought to be")
        if following.position < self.main.position:
            raise AssertionError("the main checkpoint goes back")
        self.main = following
        before = self.history.until[applied(following)]
        if not set(range(before)) <= self.landed:
            raise AssertionError("something before the main checkpoint is not there")


class Run:
    """
    One process's life.

    @param lanes: how many it is told to have.
    @ivar running: fires when it has reached the history's end.
    """

    version = 0

    def __init__(self, destination: Destination, draw: random.Random, lanes: int) -> None:
        self._destination = destination
        self._draw = draw
        self._known: dict[str, bool] = {}
        self.clock = Clock()
        self.clock.advance(draw.random() * 10)
        destination.owner = self
        self._succession = Succession(
            self.clock, self, self, Patience(self.clock), self._single, self._replicate
        )
        self.running = Deferred.fromCoroutine(self._run(lanes))
        self.running.addErrback(self._fenced)

    def _fenced(self, failure: Any) -> None:
        failure.trap(FencedError)

    async def _run(self, lanes: int) -> None:
        await self._succession.take_over()
        applier = await self._succession.applier(self._destination.main, lanes)
        assert applier is not None
        await self._replicate(applier, at(len(self._destination.history.entries)))

    async def _replicate(self, applier: Applier, until: int) -> Checkpoint:
        tailer = _Tailer(self, self._destination, self._draw)
        first = applier.checkpoint
        tailer.read_up_to = first.position if first.applied else first.position - 1
        entries = self._destination.history.entries[applied(first) :]
        while entries:
            size = self._draw.randrange(1, 12)
            tailer.put(*entries[:size])
            del entries[:size]
        replication = Replication(
            self.clock,
            cast(Tailer, tailer),
            applier,
            cast(SchemaWriter, self),
            Selection([], ["app.log"]),
            Dialect(),
        )
        await replication.run(until)
        return applier.checkpoint

    def _single(self, main: Checkpoint) -> SingleApplier:
        return SingleApplier(self.clock, _Main(self, self._destination), main, lambda _: None)

    # The documents.

    async def take_over(self) -> tuple[Layout, list[Checkpoint]]:
        """What the run before has left."""
        there = self._destination
        return there.layout, [there.lanes[number] for number in range(there.layout.count)]

    async def make(self, numbers: Iterable[int], main: Checkpoint) -> list[Checkpoint]:
        """Lanes that begin where the main checkpoint is."""
        there, made = self._destination, []
        for number in numbers:
            seq = there.lanes[number].seq + 1 if number in there.lanes else 0
            fresh = replace(main, seq=seq, count=0)
            await there.step(self, partial(there.lanes.update, {number: fresh}))
            made.append(fresh)
        return made

    def writer(self, number: int) -> _Lane:
        """Of a lane's batches."""
        return _Lane(self, self._destination, number)

    async def advance(self, current: Checkpoint, following: Checkpoint, layout: Layout) -> None:
        """Move the main checkpoint."""
        there = self._destination

        def land() -> None:
            there.move_main(current, following)
            there.layout = layout

        await there.step(self, land)

    async def lay_out(self, current: Checkpoint, layout: Layout) -> Checkpoint:
        """Store a layout."""
        following = replace(current, seq=current.seq + 1)
        await self.advance(current, following, layout)
        return following

    # What is known of collections.

    def is_strict(self, namespace: str) -> bool:
        """As it was when it was looked up."""
        return self._known[namespace]

    def is_capped(self, namespace: str) -> bool:
        """One is."""
        return namespace == CAPPED

    async def learn(self, namespaces: Iterable[str]) -> None:
        """Look up."""
        for namespace in namespaces:
            if namespace not in self._known:
                self._known[namespace] = namespace in self._destination.unique

    # Changes of the schema.

    def handles(self, namespace: str) -> bool:
        """None by writes to documents."""
        return False

    def plan(self, entry: OplogEntry) -> Any:
        """Every command is one."""
        return bson.decode(entry.o)

    async def execute(
        self, change: dict[str, str], entry: OplogEntry, current: Checkpoint
    ) -> Checkpoint:
        """Everything before it must be there, and nothing behind it."""
        there = self._destination
        following = current.advanced(entry.ts, entry.term, count=1)
        (verb, name), *_ = change.items()

        def land() -> None:
            if there.landed != set(range(there.history.until[entry.ts >> 32])):
                raise AssertionError("a change of the schema is out of order")
            (there.unique.add if verb == "makeUnique" else there.unique.discard)(f"app.{name}")
            there.move_main(current, following)

        await there.step(self, land)
        self._known.clear()
        self.version += 1
        return following


class _Tailer(FakeTailer):
    """Never sure whether there is more, and how long it takes to come."""

    def __init__(self, run: Run, destination: Destination, draw: random.Random) -> None:
        super().__init__()
        self._run = run
        self._destination = destination
        self._draw = draw

    @property
    def ready(self) -> bool:
        """Perhaps."""
        return self._draw.random() < 0.7

    async def next_batch(self) -> list[bytes]:
        """The next ones, often after something else."""
        if self._draw.random() < 0.6:
            await self._destination.step(self._run, lambda: None)
        return await super().next_batch()


class _Main:
    """Writes with the main checkpoint."""

    def __init__(self, run: Run, destination: Destination) -> None:
        self._run = run
        self._destination = destination

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """All of it, in one step."""
        following = current.advanced(batch.position, batch.term, count=batch.count)

        def land() -> None:
            self._destination.apply(batch)
            self._destination.move_main(current, following)

        await self._destination.step(self._run, land)
        return following


class _Lane:
    """Writes with a lane's checkpoint."""

    def __init__(self, run: Run, destination: Destination, number: int) -> None:
        self._run = run
        self._destination = destination
        self._number = number

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """All of it, in one step."""
        following = current.advanced(batch.position, batch.term, count=batch.count)
        there, number = self._destination, self._number

        def land() -> None:
            known = there.lanes[number]
            if known.seq != current.seq or known.position > following.position:
                raise AssertionError("a lane is not where it was thought to be")
            there.apply(batch)
            there.lanes[number] = following

        await there.step(self._run, land)
        return following
