"""
Tests for L{txmongokit.replicator.replication}.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import bson
from bson.timestamp import Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.test_entries import entry
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import OplogEntry, UnsupportedEntry
from txmongokit.replicator.replication import Replication
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect
from txmongokit.replicator.writers import ApplyError

SECOND = 100 << 32


def insert(at: int, ns: str = "db.c") -> bytes:
    """An insert at an increment, which is its C{_id} as well."""
    return entry("i", {"_id": at}, ns=ns, ts=Timestamp(100, at))


def command(at: int, o: dict[str, Any], ns: str = "db.$cmd") -> bytes:
    """A command at an increment."""
    return entry("c", o, ns=ns, ts=Timestamp(100, at))


class FakeTailer:
    """
    Gives batches from a list, then waits until L{more} is called.

    @ivar ready: whether there are more at once.
    """

    def __init__(self, *batches: list[bytes]) -> None:
        self.batches = deque(batches)
        self.read_up_to = SECOND
        self.stopped = False
        self.reads = 0
        self.waiting: Deferred[list[bytes]] | None = None

    @property
    def ready(self) -> bool:
        """Whether there are entries at once."""
        return bool(self.batches)

    async def next_batch(self) -> list[bytes]:
        """The next list."""
        self.reads += 1
        if self.batches:
            return self.batches.popleft()
        self.waiting = Deferred()
        return await self.waiting

    def more(self, *documents: bytes) -> None:
        """What L{next_batch} is waiting for."""
        waiting, self.waiting = self.waiting, None
        assert waiting is not None
        waiting.callback(list(documents))

    async def entry_at(self, position: int) -> bytes | None:
        """Nothing is there."""
        return None

    def stop(self) -> None:
        """Remembered."""
        self.stopped = True


class Log:
    """
    A writer and a schema in one, so that the order of what they do is seen.

    @ivar done: what was done: increments of a batch's inserts, or C{ddl}.
    @ivar gate: what writes wait for.
    """

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.positions: list[int] = []
        self.gate: Deferred[None] | None = None
        self.writing = 0

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """Remember a batch."""
        assert not self.writing, "two batches at a time"
        self.writing += 1
        if self.gate is not None:
            await self.gate
        self.writing -= 1
        self.done.append([bson.decode(each.document)["_id"] for each in batch.operations()])
        self.positions.append(batch.position & 0xFFFFFFFF)
        return current.advanced(batch.position, batch.term, count=batch.count)

    def handles(self, namespace: str) -> bool:
        """Views."""
        return namespace.endswith(".system.views")

    def plan(self, entry: OplogEntry) -> DDL | None:
        """Every command but one is a change."""
        if entry.op == "c" and "ignored" in bson.decode(entry.o):
            return None
        return DDL(("db.c",), "db", {"create": "c"})

    async def execute(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> Checkpoint:
        """Remember a change."""
        self.done.append(("execute", entry.ts & 0xFFFFFFFF))
        return current.advanced(entry.ts, entry.term, count=1)

    async def prepare(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> None:
        """Remember a change that is part of a transaction."""
        self.done.append(("prepare", entry.ts & 0xFFFFFFFF))


class ReplicationTests(SynchronousTestCase):
    """
    What is written, in which batches and when.
    """

    def replication(self, *batches: list[bytes], window_end: int = 0) -> Replication:
        """A replication of these entries, from increment 0."""
        self.clock = Clock()
        self.tailer: Any = FakeTailer(*batches)
        self.log: Any = Log()
        self.saved: list[int] = []
        return Replication(
            self.clock,
            self.tailer,
            self.log,
            self.log,
            Selection(exclude=["other"]),
            Dialect(),
            Checkpoint(seq=1, position=SECOND, term=5, window_end=window_end),
            saved=lambda checkpoint: self.saved.append(checkpoint.position & 0xFFFFFFFF),
        )

    def run_until(self, replication: Replication, until: int | None) -> Deferred[None]:
        """Run to an increment."""
        end = None if until is None else SECOND | until
        return Deferred.fromCoroutine(replication.run(end))

    def test_all_at_once(self) -> None:
        """While more is there, it goes into the same batch."""
        replication = self.replication([insert(1)], [insert(2), insert(3)])
        self.successResultOf(self.run_until(replication, 3))
        self.assertEqual(self.log.done, [[1, 2, 3]])
        self.assertEqual(self.saved, [3])
        self.assertEqual(replication.progress.applied, 3)
        self.assertEqual(replication.progress.position, SECOND | 3)
        self.assertTrue(self.tailer.stopped)
        self.assertFalse(replication.running)

    def test_until(self) -> None:
        """What comes after the end is not written."""
        replication = self.replication([insert(1), insert(2), insert(4)])
        self.successResultOf(self.run_until(replication, 3))
        self.assertEqual(self.log.done, [[1, 2]])
        self.assertEqual(replication.checkpoint.position, SECOND | 2)

    def test_nothing_left(self) -> None:
        """Where the end was reached before, nothing is read."""
        self.successResultOf(self.run_until(self.replication([insert(1)]), 0))
        self.assertEqual((self.tailer.reads, self.log.done), (0, []))

    def test_window(self) -> None:
        """A batch lies on one side of the window's end."""
        replication = self.replication(
            [insert(1), insert(2), insert(3), insert(4)], window_end=SECOND | 2
        )
        self.successResultOf(self.run_until(replication, 4))
        self.assertEqual(self.log.done, [[1, 2], [3, 4]])

    def test_change(self) -> None:
        """All before a change is written before it, all after it later."""
        replication = self.replication([insert(1), command(2, {"create": "c"}), insert(3)])
        self.successResultOf(self.run_until(replication, 3))
        self.assertEqual(self.log.done, [[1], ("execute", 2), [3]])
        self.assertEqual(self.saved, [1, 2, 3])
        self.assertEqual(replication.progress.commands, 1)
        self.assertEqual(replication.checkpoint.seq, 4)

    def test_change_waits(self) -> None:
        """A change waits for the batch that is being written."""
        replication = self.replication([insert(1), command(2, {"create": "c"})])
        self.log.gate = Deferred()
        running = self.run_until(replication, 2)
        self.assertEqual(self.log.done, [])
        self.log.gate.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.log.done[:2], [[1], ("execute", 2)])

    def test_no_change(self) -> None:
        """A command without effect here does not end a batch."""
        replication = self.replication([insert(1), command(2, {"ignored": 1}), insert(3)])
        self.successResultOf(self.run_until(replication, 3))
        self.assertEqual(self.log.done, [[1, 3]])

    def test_view(self) -> None:
        """A write to C{system.views} is a change of the schema."""
        replication = self.replication([insert(1, "db.system.views")])
        self.successResultOf(self.run_until(replication, 1))
        self.assertEqual(self.log.done[0], ("execute", 1))

    def test_transaction(self) -> None:
        """A transaction is in one batch, whatever its size; collections come before it."""
        operations: list[dict[str, Any]] = [
            {"op": "i", "ns": "db.c", "o": {"_id": each}} for each in range(2500)
        ]
        operations.insert(7, {"op": "c", "ns": "db.$cmd", "o": {"create": "c"}})
        operations.append({"op": "i", "ns": "other.c", "o": {"_id": 1}})
        replication = self.replication(
            [insert(1), command(2, {"applyOps": operations}, "admin.$cmd"), insert(3)]
        )
        self.successResultOf(self.run_until(replication, 3))
        self.assertEqual(self.log.done, [[1], ("prepare", 2), list(range(2500)), [3]])
        self.assertEqual(replication.progress.skipped, 1)

    def test_time_series(self) -> None:
        """Buckets are refused, by themselves and within a transaction."""
        inner = [{"op": "i", "ns": "db.system.buckets.c", "o": {"_id": 1}}]
        for raw in (
            insert(1, "db.system.buckets.c"),
            command(1, {"applyOps": inner}, "admin.$cmd"),
        ):
            running = self.run_until(self.replication([raw]), 1)
            error = self.failureResultOf(running, UnsupportedEntry).value
            self.assertIn("time-series", str(error))

    def test_full(self) -> None:
        """At most two batches are in memory: one written, one collected."""
        batches = [[insert(1000 * many + each) for each in range(1, 1001)] for many in range(4)]
        replication = self.replication(*batches)
        self.log.gate = Deferred()
        running = self.run_until(replication, 4000)
        self.assertEqual((self.log.writing, self.tailer.reads), (1, 2))
        self.log.gate.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.log.positions, [1000, 2000, 3000, 4000])

    def test_skipped(self) -> None:
        """What is not selected moves the position every five seconds, and at the end."""
        replication = self.replication([insert(1, "other.c")])
        running = self.run_until(replication, None)
        self.assertEqual(self.log.positions, [])
        self.clock.advance(4.9)
        self.tailer.more(entry("n", {}, ts=Timestamp(100, 2)))
        self.assertEqual(self.log.positions, [])
        self.clock.advance(0.1)
        self.tailer.more(insert(3, "other.c"))
        self.assertEqual(self.log.positions, [3])
        self.tailer.more(insert(4, "other.c"))
        self.assertEqual(self.log.positions, [3])
        replication.stop()
        self.tailer.more()
        self.successResultOf(running)
        self.assertEqual(self.log.positions, [3, 4])
        self.assertEqual(self.log.done, [[], []])
        self.assertEqual((replication.progress.skipped, replication.progress.applied), (3, 0))

    def test_stop(self) -> None:
        """What was read is written, what comes after the stop is not."""
        replication = self.replication([insert(1)])
        self.log.gate = Deferred()
        running = self.run_until(replication, None)
        replication.stop()
        self.tailer.more(insert(2))
        self.assertNoResult(running)
        self.log.gate.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.log.done, [[1]])

    def test_write_fails(self) -> None:
        """A failed write ends it, with the checkpoint where it was."""
        replication = self.replication([insert(1)])
        self.log.gate = Deferred()
        running = self.run_until(replication, None)
        self.log.gate.errback(ApplyError("no"))
        self.assertNoResult(running)
        self.tailer.more()
        self.failureResultOf(running, ApplyError)
        self.assertEqual(replication.checkpoint.position, SECOND)
        self.assertEqual((self.saved, replication.progress.applied), ([], 0))
        self.assertTrue(self.tailer.stopped)

    def test_read_fails(self) -> None:
        """A failed read ends it; that a write fails later is not left unhandled."""
        replication = self.replication([insert(1)])
        self.log.gate = Deferred()
        running = self.run_until(replication, None)
        self.tailer.waiting.errback(UnsupportedEntry("no"))
        self.failureResultOf(running, UnsupportedEntry)
        self.log.gate.errback(ApplyError("no"))
        self.assertEqual(self.flushLoggedErrors(), [])
