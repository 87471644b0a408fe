"""
Tests for L{txmongokit.replicator.capped}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson import Int64, Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.fakes import fake_pool, refused
from txmongokit.errors import OperationFailure
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.capped import CappedAppender
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore
from txmongokit.replicator.entries import parse_entry
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.statements import Dialect, Operation

OK = {"ok": 1, "n": 1}
BEGUN = Checkpoint(5, 100, 1)


def operation(kind: str, number: int, ns: str = "db.log") -> Operation:
    """A write to one document."""
    o: dict[str, Any] = {"_id": number}
    fields: dict[str, Any] = {"op": kind, "ns": ns, "ts": Timestamp(9, 1), "t": Int64(1)}
    if kind == "u":
        fields["o2"] = o
        o = {"$v": 1, "$set": {"x": 1}}
    entry = parse_entry(bson.encode({**fields, "o": o, "v": Int64(2)}))
    return Operation.from_entry(entry, ns, Dialect())


def newest(number: int | None) -> dict[str, Any]:
    """What the destination says its newest document is."""
    documents = [] if number is None else [{"_id": number}]
    return {"ok": 1, "cursor": {"id": Int64(0), "ns": "db.log", "firstBatch": documents}}


class CappedAppenderTests(SynchronousTestCase):
    """
    What is sent, first and again.
    """

    def append(self, current: Checkpoint, what: str, *replies: Any) -> Deferred[Checkpoint]:
        """Append operations such as C{"i1 i2 d1"}."""
        self.pool = fake_pool(*replies)
        batch = Batch()
        for word in what.split():
            batch.add(operation(word[0], int(word[1:])))
        batch.add(operation("i", 1, "db.other"))
        batch.reach(200, 1)
        appender = CappedAppender(
            self.pool, CheckpointStore(self.pool, "key", {}), Patience(Clock(), 10.0)
        )
        return Deferred.fromCoroutine(appender.append(batch, ["db.log"], current))

    def test_first(self) -> None:
        """Alike operations go together, in their order, behind an intent."""
        done = self.successResultOf(self.append(BEGUN, "i1 i2 u1 u2 i3 d1", *[OK] * 5))
        self.assertEqual((done.seq, done.position, done.intent), (6, 100, 200))
        self.assertEqual(self.pool.runner.names, ["update", "insert", "update", "insert", "delete"])

    def test_again(self) -> None:
        """Up to the newest document that is there, inserts are left out; the rest is repeated."""
        begun = BEGUN.intending(200)
        done = self.successResultOf(self.append(begun, "i1 i2 d1 i3", newest(2), OK, OK))
        self.assertEqual(done, begun)
        self.assertEqual(self.pool.runner.names, ["find", "delete", "insert"])

    def test_again_further(self) -> None:
        """An earlier intent, of a smaller batch, is replaced by the new one."""
        replies = [OK, newest(None), OK, refused(11000), OK]
        done = self.successResultOf(self.append(BEGUN.intending(150), "i1 i2 i3", *replies))
        self.assertEqual(done.intent, 200)
        self.assertEqual(self.pool.runner.names, ["update", "find", "insert", "insert", "insert"])

    def test_deletion_refused(self) -> None:
        """Older servers refuse to delete what they evict themselves."""
        self.successResultOf(self.append(BEGUN, "d1 d2", OK, refused(20)))
        self.assertEqual(self.pool.runner.names, ["update", "delete"])

    def test_refused(self) -> None:
        """Anything else is an error."""
        self.failureResultOf(self.append(BEGUN, "i1", OK, refused(11000)), OperationFailure)
        self.failureResultOf(self.append(BEGUN, "u1", OK, refused(20)), OperationFailure)

    def test_intent_outlives_batches_before_it(self) -> None:
        """A batch that ends before the intent leaves it."""
        self.assertEqual(BEGUN.intending(200).advanced(150, 1).intent, 200)
        self.assertIsNone(BEGUN.intending(200).advanced(200, 1).intent)
