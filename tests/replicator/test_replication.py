"""
Tests for L{txmongokit.replicator.replication}, with everything around it made
up: what is read, what is written, in which order.
"""

from __future__ import annotations

from typing import Any, cast

import bson
from bson import Binary, Int64, Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.appliers import SingleApplier
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.entries import OplogEntry, UnsupportedEntry
from txmongokit.replicator.replication import Replication
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect
from txmongokit.replicator.tailer import OplogGap, Tailer
from txmongokit.replicator.writers import ApplyError


def entry(second: int, op: str = "i", ns: str = "app.users", **fields: Any) -> bytes:
    """An oplog entry at a second."""
    o = fields.pop("o", {"_id": second})
    return bson.encode(
        {"op": op, "ns": ns, "o": o, "ts": Timestamp(second, 1), "t": Int64(1), "v": Int64(2)}
        | fields
    )


def at(second: int) -> int:
    """The position of the entry at a second."""
    return second << 32 | 1


class FakeTailer:
    """Entries as they are put in."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.waiting: Deferred[None] | None = None
        self.read_up_to = 0
        self.stopped = False
        self.known: dict[int, bytes] = {}

    @property
    def ready(self) -> bool:
        """Whether there is more."""
        return bool(self.batches)

    async def next_batch(self) -> list[bytes]:
        """The next ones, when they are there."""
        if not self.batches:
            self.waiting = Deferred()
            await self.waiting
        return self.batches.pop(0)

    def put(self, *entries: bytes) -> None:
        """Let some come in."""
        self.batches.append(list(entries))
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def entry_at(self, position: int) -> bytes | None:
        """One entry."""
        return self.known.get(position)

    def stop(self) -> None:
        """Told that nothing more is wanted."""
        self.stopped = True


class FakeWriter:
    """What is written, and when it is done."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.hold: list[Deferred[None]] = []
        self.holding = False

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """Note a batch, and wait where that is asked for."""
        self.log.append(("batch", batch.count, batch.position >> 32))
        if self.holding:
            self.hold.append(Deferred())
            await self.hold[-1]
        return current.advanced(batch.position, batch.term, count=batch.count)


class FakeSchema:
    """Changes of the schema, noted."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def handles(self, namespace: str) -> bool:
        """Only views."""
        return namespace.endswith(".system.views")

    def plan(self, entry: OplogEntry) -> str | None:
        """The command's name, or nothing for one called so."""
        return None if entry.command == "nothing" else entry.command or "view"

    async def execute(self, change: str, entry: OplogEntry, current: Checkpoint) -> Checkpoint:
        """Note it."""
        self.log.append((change, entry.ts >> 32, current.position >> 32))
        return current.advanced(entry.ts, entry.term, count=1)

    async def prepare(self, change: str, entry: OplogEntry, current: Checkpoint) -> None:
        """Note it."""
        self.log.append(("prepare", change))


class ReplicationTests(SynchronousTestCase):
    """
    From entries to batches.
    """

    def setUp(self) -> None:
        """A replication that follows."""
        self.clock = Clock()
        self.log: list[Any] = []
        self.saved: list[int] = []
        self.tailer = FakeTailer()
        self.writer = FakeWriter(self.log)
        self.replication = self.new()

    def new(
        self, window_end: int = 0, checkpoint: tuple[int, int] = (0, 0), **options: Any
    ) -> Replication:
        """One that starts at the beginning, unless a position and a part are given."""
        return Replication(
            self.clock,
            cast(Tailer, self.tailer),
            SingleApplier(
                self.clock,
                self.writer,
                Checkpoint(0, checkpoint[0], 1, window_end=window_end, part=checkpoint[1]),
                lambda checkpoint: self.saved.append(checkpoint.position >> 32),
            ),
            cast(SchemaWriter, FakeSchema(self.log)),
            Selection([], ["app.log"]),
            Dialect(),
            **options,
        )

    def run_until(self, second: int | None = None) -> Deferred[None]:
        """Start it."""
        until = None if second is None else at(second)
        return Deferred.fromCoroutine(self.replication.run(until))

    def test_batches(self) -> None:
        """What comes together is written together, and the position moves with it."""
        running = self.run_until()
        self.tailer.put(entry(1), entry(2), entry(3))
        self.assertEqual(self.log, [("batch", 3, 3)])
        self.tailer.put(entry(4))
        self.assertEqual(self.log[1:], [("batch", 1, 4)])
        self.assertEqual(self.saved, [3, 4])
        self.assertEqual(self.replication.progress.applied, 4)
        self.assertNoResult(running)

    def test_end(self) -> None:
        """One pass ends at its last entry, whatever comes behind it."""
        running = self.run_until(2)
        self.tailer.put(entry(1), entry(2), entry(3))
        self.successResultOf(running)
        self.assertEqual(self.log, [("batch", 2, 2)])
        self.assertTrue(self.tailer.stopped)

    def test_nothing_to_do(self) -> None:
        """One pass over what was read already ends before reading."""
        self.tailer.read_up_to = at(2)
        self.replication = self.new()
        self.successResultOf(self.run_until(2))
        self.assertEqual(self.log, [])

    def test_skipped(self) -> None:
        """What is not selected is left out, and the position passes it."""
        running = self.run_until(3)
        self.tailer.put(entry(1), entry(2, ns="app.log"), entry(3, "n", "", o={}))
        self.successResultOf(running)
        self.assertEqual(self.log, [("batch", 1, 3)])
        self.assertEqual(self.replication.progress.skipped, 1)

    def test_idle(self) -> None:
        """With nothing to write the position still moves, every five seconds."""
        self.run_until()
        for second in range(1, 14):
            self.clock.advance(1.0)
            self.tailer.put(entry(second, "n", "", o={}))
        self.assertEqual(self.log, [("batch", 0, 5), ("batch", 0, 10)])

    def test_schema(self) -> None:
        """DDL waits for what is before it, and what is behind it waits for the DDL."""
        self.run_until()
        self.tailer.put(
            entry(1), entry(2, "c", "app.$cmd", o={"drop": "users"}), entry(3), entry(4)
        )
        self.assertEqual(self.log, [("batch", 1, 1), ("drop", 2, 1), ("batch", 2, 4)])

    def test_schema_waits(self) -> None:
        """Also where the batch before it takes its time."""
        self.writer.holding = True
        self.run_until()
        self.tailer.put(entry(1), entry(2, "c", "app.$cmd", o={"drop": "users"}))
        self.assertEqual(self.log, [("batch", 1, 1)])
        self.writer.hold[0].callback(None)
        self.assertEqual(self.log, [("batch", 1, 1), ("drop", 2, 1)])

    def test_view(self) -> None:
        """A write to the definitions of views is DDL."""
        self.run_until()
        self.tailer.put(entry(1, ns="app.system.views", o={"_id": "app.v"}))
        self.assertEqual(self.log, [("view", 1, 0)])

    def test_time_series(self) -> None:
        """Buckets of a time series are documents as any."""
        self.run_until()
        self.tailer.put(entry(1, ns="app.system.buckets.x"))
        self.assertEqual(self.log, [("batch", 1, 1)])

    def test_users_in_a_transaction(self) -> None:
        """What a transaction cannot write is written before it."""
        operations = [
            {"op": "d", "ns": "app.system.views", "o": {"_id": "app.v"}},
            {"op": "i", "ns": "app.x", "o": {"_id": 1}},
        ]
        self.run_until()
        self.tailer.put(entry(1, "c", "admin.$cmd", o={"applyOps": operations}))
        self.assertEqual(self.log, [("prepare", "view"), ("batch", 1, 1)])

    def test_no_change(self) -> None:
        """A command that changes nothing does not interrupt a batch."""
        self.run_until()
        self.tailer.put(entry(1), entry(2, "c", "app.$cmd", o={"nothing": 1}), entry(3))
        self.assertEqual(self.log, [("batch", 2, 3)])

    def test_transaction(self) -> None:
        """A source transaction is one batch's, made collections first."""
        operations = [
            {"op": "c", "ns": "app.$cmd", "o": {"create": "fresh"}},
            {"op": "i", "ns": "app.fresh", "o": {"_id": 1}},
            {"op": "i", "ns": "app.log", "o": {"_id": 1}},
            {"op": "d", "ns": "app.users", "o": {"_id": 1}},
        ]
        self.run_until()
        self.tailer.put(entry(1), entry(2, "c", "admin.$cmd", o={"applyOps": operations}))
        self.assertEqual(self.log, [("batch", 1, 1), ("prepare", "create"), ("batch", 2, 2)])

    def chain(self) -> list[bytes]:
        """The entries of a large transaction, of three parts and 16 MiB each."""
        lsid = {"id": Binary(bytes(16), 4), "uid": bytes(32)}
        entries = []
        for number in range(1, 4):
            operations = [
                {"op": "i", "ns": "app.x", "o": {"_id": number, "text": "x" * (15 << 20)}},
                {"op": "i", "ns": "app.log", "o": {"_id": number}},
            ]
            if number == 1:
                operations.insert(0, {"op": "c", "ns": "app.$cmd", "o": {"create": "x"}})
            more: dict[str, Any] = {"count": 7} if number == 3 else {"partialTxn": True}
            before = {"ts": Timestamp(number - 1, int(number > 1)), "t": Int64(1)}
            raw = entry(
                number,
                "c",
                "admin.$cmd",
                o={"applyOps": operations, **more},
                lsid=lsid,
                txnNumber=Int64(1),
                prevOpTime=before,
            )
            self.tailer.known[at(number)] = raw
            entries.append(raw)
        return entries

    def test_large_transaction(self) -> None:
        """A transaction that is not kept in memory is one batch all the same."""
        self.run_until()
        self.tailer.put(*self.chain(), entry(4))
        self.assertEqual(
            self.log, [("batch", 0, 2), ("prepare", "create"), ("batch", 3, 3), ("batch", 1, 4)]
        )

    def test_too_large_transaction(self) -> None:
        """One that is too large for a destination transaction stops it."""
        self.replication = self.new(largest=40 << 20)
        running = self.run_until()
        self.tailer.put(*self.chain())
        error = self.failureResultOf(running, UnsupportedEntry).value
        self.assertIn("--split-large-transactions", str(error))
        self.assertEqual(self.replication.checkpoint.position, at(2))

    def test_split_transaction(self) -> None:
        """On request it is applied in parts, and the position passes it with the last."""
        self.replication = self.new(largest=40 << 20, split=True)
        self.run_until()
        self.tailer.put(*self.chain())
        self.assertEqual(
            self.log[2:], [("batch", 1, 2), ("batch", 1, 2), ("batch", 1, 2), ("batch", 0, 3)]
        )
        self.assertEqual(self.replication.checkpoint.part, 0)

    def test_split_transaction_again(self) -> None:
        """Parts that are applied are left out."""
        self.chain()
        self.replication = self.new(largest=40 << 20, split=True, checkpoint=(at(2), 2))
        self.run_until()
        self.tailer.put(self.tailer.known[at(3)])
        self.assertEqual(self.log, [("prepare", "create"), ("batch", 1, 2), ("batch", 0, 3)])

    def test_window(self) -> None:
        """No batch is on both sides of the window's end."""
        self.replication = self.new(window_end=at(2))
        self.run_until()
        self.tailer.put(entry(1), entry(2), entry(3), entry(4))
        self.assertEqual(self.log, [("batch", 2, 2), ("batch", 2, 4)])

    def test_full(self) -> None:
        """A batch that is full is written before more is read from the same reply."""
        self.run_until()
        self.tailer.put(*(entry(second) for second in range(1, 2502)))
        self.assertEqual(
            self.log, [("batch", 1000, 1000), ("batch", 1000, 2000), ("batch", 501, 2501)]
        )

    def test_sent_first(self) -> None:
        """Nothing is prepared before the reactor has seen to its connections."""
        self.writer.holding = True
        self.run_until()
        self.tailer.put(*(entry(second) for second in range(1, 1101)))
        self.assertEqual(self.replication.progress.read, at(1000))
        # The reactor makes the first of these calls before it sends anything.
        for more in (False, True):
            call = self.clock.calls.pop(0)
            call.func(*call.args, **call.kw)
            self.assertEqual(self.replication.progress.read > at(1000), more)

    def test_back_pressure(self) -> None:
        """While one batch is written one more is collected, and no third."""
        self.writer.holding = True
        self.run_until()
        self.tailer.put(*(entry(second) for second in range(1, 3501)))
        self.assertEqual(self.log, [("batch", 1000, 1000)])
        # In slices, so that the answers to the first batch are seen to.
        self.assertLess(self.replication.progress.read, at(1100))
        self.clock.pump([0.0] * 50)
        self.assertEqual(self.replication.progress.read, at(2000))
        self.writer.hold[0].callback(None)
        self.clock.pump([0.0] * 50)
        self.assertEqual(self.log[1:], [("batch", 1000, 2000)])
        self.assertEqual(self.replication.progress.read, at(3000))

    def test_refused(self) -> None:
        """What the writer raises ends it, with the checkpoint where it was."""
        self.writer.holding = True
        running = self.run_until()
        self.tailer.put(entry(1))
        self.tailer.put(entry(2))
        self.writer.hold[0].errback(ApplyError("no"))
        self.failureResultOf(running, ApplyError)
        self.assertEqual(self.replication.checkpoint.position, 0)
        self.assertEqual(self.saved, [])

    def test_refused_while_idle(self) -> None:
        """It is told with the next empty reply, not with the next entry."""
        self.writer.holding = True
        running = self.run_until()
        self.tailer.put(entry(1))
        self.writer.hold[0].errback(ApplyError("no"))
        self.assertNoResult(running)
        self.tailer.put()
        self.failureResultOf(running, ApplyError)

    def test_unreadable(self) -> None:
        """What the tailer raises ends it, too."""
        running = self.run_until()
        assert self.tailer.waiting is not None
        self.tailer.waiting.errback(OplogGap("gone"))
        self.failureResultOf(running, OplogGap)
        self.assertTrue(self.tailer.stopped)

    def test_stop_while_waiting(self) -> None:
        """Stopping does not wait for the source."""
        running = self.run_until()
        self.tailer.put(entry(1))
        self.assertNoResult(running)
        self.replication.stop()
        self.successResultOf(running)
        self.assertEqual(self.saved, [1])

    def test_stop_while_writing(self) -> None:
        """Stopping waits for what is being written, and takes nothing more."""
        self.writer.holding = True
        running = self.run_until()
        self.tailer.put(entry(1))
        self.replication.stop()
        self.assertNoResult(running)
        self.writer.hold[0].callback(None)
        self.successResultOf(running)
        self.assertEqual(self.saved, [1])
