"""
Tests for L{txmongokit.replicator.lanes}, step by step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.test_batch import operation
from txmongokit.replicator.appliers import SingleApplier
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.lanes import Lane, LaneApplier, LaneError
from txmongokit.replicator.partition import Layout, key_hash
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.writers import ApplyError

_MAIN = Checkpoint(1, 0, 1)


class HeldWriter:
    """Writes when it is told to."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name = name
        self.log = log
        self.held: list[Deferred[None]] = []

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """Note what is to be written, and wait."""
        self.log.append((self.name, [each.key for each in batch.operations()], batch.position))
        self.held.append(Deferred())
        await self.held[-1]
        return current.advanced(batch.position, batch.term, count=batch.count)

    def land(self) -> None:
        """The oldest that waits is done."""
        self.held.pop(0).callback(None)


class LaneApplierTests(SynchronousTestCase):
    """
    What is written when.
    """

    version = 0

    def setUp(self) -> None:
        """Three lanes."""
        self.clock = Clock()
        self.log: list[Any] = []
        self.capped: set[str] = set()
        self.strict: set[str] = set()
        self.moves: list[int] = []
        self.position = 0
        self.lost = False
        self.lanes = [HeldWriter(str(number), self.log) for number in range(3)]
        self.alone = HeldWriter("alone", self.log)
        self.applier = self.new()
        # Two keys of each lane.
        self.keys: list[list[int]] = [[], [], []]
        for number in range(100):
            self.keys[key_hash(number) % 3].append(number)

    def new(
        self, *skips: int, layout: Layout | None = None, main: Checkpoint = _MAIN
    ) -> LaneApplier:
        """An applier; with places up to which lanes skip, one that replays."""
        self.saved: list[int] = []
        single = SingleApplier(
            self.clock, self.alone, main, lambda now: self.saved.append(now.position)
        )
        lanes = [
            Lane(writer, Checkpoint(10, 0, 1), skip=skip)
            for writer, skip in zip(self.lanes, skips or (0, 0, 0), strict=True)
        ]
        return LaneApplier(
            self.clock,
            single,
            lanes,
            layout or Layout(3),
            self,
            Patience(self.clock),
            None if skips else self,
        )

    # What the applier asks.

    def is_strict(self, namespace: str) -> bool:
        """As the test says."""
        return namespace in self.strict

    def is_capped(self, namespace: str) -> bool:
        """As the test says."""
        return namespace in self.capped

    async def learn(self, namespaces: Iterable[str]) -> None:
        """Nothing to look up."""

    async def advance(self, current: Checkpoint, following: Checkpoint, layout: Layout) -> None:
        """Done at once."""
        if self.lost:
            raise FencedError("taken")
        self.moves.append(following.position)

    async def lay_out(self, current: Checkpoint, layout: Layout) -> Checkpoint:
        """Done at once."""
        self.log.append(sorted(layout.whole))
        return current.advanced(current.position, current.term)

    # What the test does.

    def give(self, *keys: int, namespace: str = "db.c") -> Deferred[None]:
        """An entry; of several operations it is a transaction."""
        return Deferred.fromCoroutine(self._give(keys, namespace))

    async def _give(self, keys: tuple[int, ...], namespace: str) -> None:
        self.position += 1
        operations = [operation("i", key, namespace=namespace) for key in keys]
        if len(keys) == 1:
            waiting = self.applier.add(operations[0], self.position)
        else:
            waiting = self.applier.add_all(operations, self.position)
        if waiting is not None:
            await waiting
        if self.applier.reach(self.position, 1):
            await self.applier.submit()

    def submit(self) -> Deferred[None]:
        """The reader has nothing more."""
        return Deferred.fromCoroutine(self.applier.submit())

    def drain(self, *, whole: bool = False) -> Deferred[None]:
        """Everything is to be written."""
        return Deferred.fromCoroutine(self.applier.drain(whole=whole))

    def test_side_by_side(self) -> None:
        """Lanes write at the same time; one of them is no reason for another to wait."""
        (a, b), (c, _), _ = (keys[:2] for keys in self.keys)
        for key in (a, c, b):
            self.successResultOf(self.give(key))
        self.assertEqual(self.log, [])
        self.successResultOf(self.submit())
        self.assertEqual(self.log, [("0", [a, b], 3), ("1", [c], 3)])
        self.lanes[1].land()
        self.successResultOf(self.give(c))
        self.successResultOf(self.submit())
        self.assertEqual(self.log[2:], [("1", [c], 4)])
        self.assertTrue(self.applier.busy)

    def test_order_within_a_document(self) -> None:
        """A lane's next batch waits for the one before, and then goes by itself."""
        (a, *_), _, _ = self.keys
        self.successResultOf(self.give(a))
        self.successResultOf(self.submit())
        self.successResultOf(self.give(a))
        self.successResultOf(self.submit())
        self.assertEqual(self.log, [("0", [a], 1)])
        self.lanes[0].land()
        self.assertEqual(self.log[1:], [("0", [a], 2)])

    def test_main_checkpoint(self) -> None:
        """It follows behind the slowest lane, about once a second, and at the end to the end."""
        (a, *_), (b, *_), _ = self.keys
        self.successResultOf(self.give(b))
        self.successResultOf(self.give(a))
        self.successResultOf(self.submit())
        self.successResultOf(self.give(a))
        self.clock.advance(1.1)
        self.lanes[0].land()
        # The first entry is not written yet.
        self.assertEqual(self.moves, [])
        self.assertEqual(self.applier.reached, 0)
        self.lanes[1].land()
        self.assertEqual(self.moves, [2])
        self.assertEqual(self.applier.checkpoint.count, 2)
        self.assertEqual([each.position for each in self.applier.lanes], [2, 3, 3])
        self.assertEqual(self.applier.reached, 2)
        draining = self.drain()
        self.lanes[0].land()
        self.successResultOf(draining)
        self.assertEqual((self.moves, self.saved), ([2, 3], [2, 3]))
        self.assertEqual(self.applier.checkpoint.count, 3)

    def test_idle(self) -> None:
        """Entries that concern nobody move it every five seconds, or on request."""
        for _ in range(7):
            self.position += 1
            self.applier.reach(self.position, 1)
            self.clock.advance(1.0)
            self.successResultOf(self.submit())
        self.assertEqual(self.moves, [5])
        self.successResultOf(self.drain())
        self.assertEqual(self.moves, [5])
        self.successResultOf(self.drain(whole=True))
        self.assertEqual(self.moves, [5, 7])

    def test_back_pressure(self) -> None:
        """The reader waits where a lane is full and busy; others may then begin."""
        (a, *_), (b, *_), _ = self.keys
        # It begins with its share of a batch; a batch is full with a thousand.
        for _ in range(333 + 999):
            self.successResultOf(self.give(a))
        self.assertEqual([(name, len(keys)) for name, keys, _ in self.log], [("0", 333)])
        self.successResultOf(self.give(b))
        waiting = self.give(a)
        self.assertNoResult(waiting)
        self.assertEqual(self.log[1:], [("1", [b], 1334)])
        self.lanes[0].land()
        self.successResultOf(waiting)
        self.assertEqual(len(self.log[2][1]), 1000)

    def test_memory(self) -> None:
        """Whatever the number of lanes, together they hold a bounded number of bytes."""
        (a, *_), (b, *_), _ = self.keys
        for key in (a, b):
            self.successResultOf(self.give(key))
        for key in (a, b):
            large = operation("i", key)
            large.size = 9 << 20
            self.assertIsNone(self.applier.add(large, 3))
        self.assertTrue(self.applier.reach(3, 1))
        waiting = self.submit()
        self.assertNoResult(waiting)
        self.assertEqual([name for name, _, _ in self.log], ["0", "1"])
        self.lanes[1].land()
        self.successResultOf(waiting)
        self.assertFalse(self.applier.reach(4, 1))

    def test_transaction_of_one_lane(self) -> None:
        """It goes there as a whole."""
        (a, b), *_ = (keys[:2] for keys in self.keys)
        self.successResultOf(self.give(a, b))
        self.successResultOf(self.submit())
        self.assertEqual(self.log, [("0", [a, b], 1)])

    def test_transaction_of_several_lanes(self) -> None:
        """It waits for all lanes, and all lanes for it."""
        (a, *_), (b, *_), (c, *_) = self.keys
        self.successResultOf(self.give(c))
        waiting = self.give(a, b)
        self.assertNoResult(waiting)
        self.assertEqual(self.log, [("2", [c], 1)])
        self.lanes[2].land()
        self.successResultOf(waiting)
        # What comes behind it may go with it.
        self.successResultOf(self.give(c))
        self.successResultOf(self.submit())
        self.assertEqual(self.log[1:], [("alone", [a, b, c], 3)])
        self.successResultOf(self.give(c))
        waiting = self.submit()
        self.assertNoResult(waiting)
        self.alone.land()
        self.successResultOf(waiting)
        self.assertEqual(self.log[2:], [("2", [c], 4)])
        self.assertEqual(self.applier.checkpoint.position, 3)
        self.assertEqual((self.applier.checkpoint.count, self.moves), (3, []))
        draining = self.drain()
        self.lanes[2].land()
        self.successResultOf(draining)
        self.assertEqual((self.applier.checkpoint.count, self.moves), (5, [4]))

    def test_count(self) -> None:
        """What lanes have applied is counted even if the last batch is another one's."""
        (a, *_), (b, *_), _ = self.keys
        self.successResultOf(self.give(a))
        waiting = self.give(a, b)
        self.lanes[0].land()
        self.successResultOf(waiting)
        draining = self.drain()
        self.alone.land()
        self.successResultOf(draining)
        self.assertEqual((self.applier.checkpoint.count, self.moves), (3, [2]))

    def test_first_entry(self) -> None:
        """That the very entry to begin with is behind moves the main checkpoint, too."""
        self.applier = self.new(main=Checkpoint(1, 5, -1))
        self.successResultOf(self.drain(whole=True))
        self.assertEqual(self.moves, [])
        self.applier.reach(5, 1)
        self.successResultOf(self.drain(whole=True))
        self.assertEqual(self.moves, [5])
        self.assertTrue(self.applier.checkpoint.applied)

    def test_count_while_idle(self) -> None:
        """So it is where nothing more comes."""
        (a, *_), (b, *_), _ = self.keys
        self.successResultOf(self.give(a))
        waiting = self.give(a, b)
        self.lanes[0].land()
        self.successResultOf(waiting)
        self.successResultOf(self.submit())
        self.alone.land()
        self.assertEqual(self.applier.checkpoint.count, 2)
        self.clock.advance(1.1)
        for _ in range(2):
            self.successResultOf(self.submit())
        self.assertEqual((self.applier.checkpoint.count, self.moves), (3, [2]))

    def test_many_transactions(self) -> None:
        """Where they are close together, lanes are not tried between them."""
        (a, *_), (b, *_), _ = self.keys
        for _ in range(3):
            self.successResultOf(self.give(a, b))
        self.successResultOf(self.submit())
        self.successResultOf(self.give(a))
        self.alone.land()
        self.successResultOf(self.submit())
        self.assertEqual([name for name, _, _ in self.log], ["alone", "alone"])
        self.alone.land()
        self.successResultOf(self.give(a))
        self.successResultOf(self.submit())
        self.assertEqual(self.log[2:], [("0", [a], 5)])

    def test_capped(self) -> None:
        """A capped collection keeps its order: it is written alone."""
        (a, *_), (b, *_), _ = self.keys
        self.capped.add("db.log")
        self.successResultOf(self.give(a))
        waiting = self.give(b, namespace="db.log")
        self.assertNoResult(waiting)
        self.lanes[0].land()
        self.successResultOf(waiting)
        self.successResultOf(self.give(a, namespace="db.log"))
        self.successResultOf(self.submit())
        self.assertEqual(self.log[1:], [("alone", [b, a], 3)])

    def test_whole(self) -> None:
        """A collection with a unique index has one lane, which is stored first."""
        self.successResultOf(self.give(self.keys[0][0]))
        self.strict.add("db.users")
        waiting = self.give(self.keys[0][1], namespace="db.users")
        self.assertNoResult(waiting)
        self.lanes[0].land()
        self.successResultOf(waiting)
        self.assertEqual(self.moves, [1])
        self.assertEqual(self.log[1:], [["db.users"]])
        for keys in self.keys:
            self.successResultOf(self.give(keys[0], namespace="db.users"))
        self.successResultOf(self.submit())
        self.assertEqual(len(self.log), 3)
        self.assertEqual(len(self.log[2][1]), 4)
        for writer in self.lanes:
            while writer.held:
                writer.land()
        # The index is gone.
        self.strict.clear()
        self.version += 1
        for keys in self.keys:
            self.successResultOf(self.give(keys[0], namespace="db.users"))
        self.assertEqual(self.log[3:], [[]])
        self.successResultOf(self.submit())
        self.assertEqual([name for name, _, _ in self.log[4:]], ["0", "1", "2"])

    def test_known_whole(self) -> None:
        """What is stored already needs no barrier."""
        self.strict.add("db.c")
        self.applier = self.new(layout=Layout(3, frozenset({"db.c"})))
        for keys in self.keys:
            self.successResultOf(self.give(keys[0]))
        self.successResultOf(self.submit())
        self.assertEqual(len(self.log), 1)

    def test_schema(self) -> None:
        """All is written before a change of the schema, and the checkpoint there."""
        for keys in self.keys:
            self.successResultOf(self.give(keys[0]))
        draining = self.drain()
        for writer in self.lanes:
            self.assertNoResult(draining)
            writer.land()
        self.successResultOf(draining)
        self.assertEqual(self.moves, [3])
        self.applier.moved(self.applier.checkpoint.advanced(4, 1))
        self.assertEqual(self.saved, [3, 4])

    def test_replay(self) -> None:
        """What lanes have applied is skipped there; the layout alone says what is whose."""
        self.applier = self.new(2, 1, 4, layout=Layout(3, frozenset({"db.u"})))
        (a, *_), (b, *_), (c, *_) = self.keys
        self.strict.add("db.c")
        for key in (a, b, a, c, b):
            self.successResultOf(self.give(key))
        self.successResultOf(self.submit())
        self.assertEqual(self.log, [("0", [a], 5), ("1", [b, b], 5)])

    def test_replay_of_what_cannot_be(self) -> None:
        """A transaction of several lanes would have been behind the main checkpoint."""
        self.applier = self.new(2, 2, 2)
        (a, *_), (b, *_), _ = self.keys
        error = self.failureResultOf(self.give(a, b), LaneError).value
        self.assertIn("several lanes", str(error))

    def test_error(self) -> None:
        """What one lane raises ends it; others may finish, and begin nothing."""
        (a, *_), (b, *_), _ = self.keys
        self.successResultOf(self.give(a))
        self.successResultOf(self.give(b))
        self.successResultOf(self.submit())
        self.successResultOf(self.give(b))
        draining = self.drain()
        self.lanes[0].held.pop().errback(ApplyError("no"))
        self.failureResultOf(draining, ApplyError)
        self.failureResultOf(self.submit(), ApplyError)
        self.applier.abandon()
        self.lanes[1].land()
        self.assertEqual([name for name, _, _ in self.log], ["0", "1"])
        self.assertEqual(self.moves, [])
        self.assertEqual(self.applier.progress.applied, 1)

    def test_main_checkpoint_taken(self) -> None:
        """So does losing the main checkpoint while lanes write."""

        self.lost = True
        (a, *_), _, _ = self.keys
        self.successResultOf(self.give(a))
        self.successResultOf(self.submit())
        self.clock.advance(1.1)
        self.lanes[0].land()
        self.failureResultOf(self.submit(), FencedError)

    def test_large(self) -> None:
        """What is too large for memory is written by itself."""
        batch = Batch()
        batch.reach(7, 1)
        writing = Deferred.fromCoroutine(self.applier.write(batch))
        self.alone.land()
        self.successResultOf(writing)
        self.assertEqual(self.applier.checkpoint.position, 7)
