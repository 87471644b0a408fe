"""
Tests for L{txmongokit.replicator.standalone}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import FakePool, refused
from tests.replicator.test_batch import operation
from tests.replicator.test_checkpoint import CURRENT, store, stored
from tests.replicator.test_writers import BEYOND, OK, PLAIN, batch
from txmongokit.errors import AutoReconnect
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.standalone import ApplyOpsWriter, RepeatingWriter
from txmongokit.replicator.writers import ApplyError

MISSING = refused(218, "no document")


class ApplyOpsWriterTests(SynchronousTestCase):
    """
    Batches by C{applyOps}.
    """

    def write(self, what: Batch, *replies: Any) -> Deferred[Checkpoint]:
        """Write after L{CURRENT}."""
        pool: Any = FakePool(*replies)
        self.runner = pool.runner
        self.clock = Clock()
        writer = ApplyOpsWriter(pool, store(pool), Patience(self.clock, 10.0))
        return Deferred.fromCoroutine(writer.write(what, CURRENT))

    def test_command(self) -> None:
        """Operations, condition and the checkpoint's update are one command."""
        following = self.successResultOf(self.write(batch("i", "u", "d"), {"ok": 1}))
        (body,) = self.runner.bodies
        *operations, move = body["applyOps"]
        self.assertEqual([each["op"] for each in operations], ["i", "u", "d"])
        self.assertEqual(dict(operations[1]["o2"]), {"_id": 1})
        self.assertEqual(dict(operations[2]["o"]), {"_id": 2})
        self.assertEqual((move["ns"], move["o2"]), ("txmongokit.mongosync", {"_id": "rs all"}))
        self.assertEqual(move["o"]["$set"]["seq"], CURRENT.seq + 1)
        (condition,) = body["preCondition"]
        self.assertEqual(condition["res"], {"seq": CURRENT.seq})
        self.assertEqual(following, CURRENT.advanced(BEYOND, 6, count=3))

    def test_collection_missing(self) -> None:
        """Collections that are not there are created, and it is tried again."""
        writing = self.write(batch("i"), refused(26), {"ok": 1}, {"ok": 1})
        self.successResultOf(writing)
        self.assertEqual([next(iter(each)) for each in self.runner.bodies][1], "create")
        self.assertEqual(len(self.runner.bodies), 3)

    def test_collection_exists(self) -> None:
        """That somebody else just made one is no error."""
        self.successResultOf(self.write(batch("i"), refused(26), refused(48), {"ok": 1}))

    def test_collection_still_missing(self) -> None:
        """Creating them is tried once."""
        writing = self.write(batch("i"), refused(26), {"ok": 1}, refused(26), stored(CURRENT))
        self.failureResultOf(writing, ApplyError)

    def test_collection_refused(self) -> None:
        """One that cannot be made is the end."""
        self.failureResultOf(self.write(batch("i"), refused(26), refused(13)), ApplyError)

    def test_missing_in_window(self) -> None:
        """Before the window's end, updates without a document are left out and counted."""
        what = Batch()
        for kind, identifier in (("u", 1), ("u", 2), ("i", 3), ("u", 3), ("u", 1)):
            what.add(operation(kind, identifier))
        what.reach(CURRENT.window_end, 6)
        writing = self.write(what, MISSING, cursor_reply([]), cursor_reply([{"_id": 2}]), {"ok": 1})
        following = self.successResultOf(writing)
        self.assertEqual(following.missing, CURRENT.missing + 2)
        self.assertEqual(following.count, CURRENT.count + 5)
        *operations, move = self.runner.bodies[-1]["applyOps"]
        self.assertEqual([each["op"] for each in operations], ["u", "i", "u"])
        self.assertEqual(move["o"]["$set"]["missing"], following.missing)

    def test_missing(self) -> None:
        """Behind it they are the end."""
        error = self.failureResultOf(self.write(batch("u"), MISSING), ApplyError).value
        self.assertIn("copy the data anew", str(error))

    def test_nothing_missing(self) -> None:
        """A server that says so although all are there is not asked for ever."""
        what = batch("u", position=CURRENT.window_end)
        self.failureResultOf(self.write(what, MISSING, cursor_reply([{"_id": 0}])), ApplyError)

    def test_fenced(self) -> None:
        """Where the condition was not met, another one has taken over."""
        moved = stored(CURRENT.advanced(BEYOND, 6))
        failed = refused(2, "preCondition failed")
        self.failureResultOf(self.write(batch("i"), failed, moved), FencedError)

    def test_refused(self) -> None:
        """Otherwise the server refuses an operation."""
        writing = self.write(batch("i"), refused(11000, "dup key: {a: 1}"), stored(CURRENT))
        error = self.failureResultOf(writing, ApplyError).value
        self.assertNotIn("{", str(error))

    def test_settled(self) -> None:
        """After a lost answer the checkpoint tells what became of it."""
        following = CURRENT.advanced(BEYOND, 6, count=1)
        writing = self.write(batch("i"), AutoReconnect("gone"), stored(following))
        self.clock.advance(0.05)
        self.assertEqual(self.successResultOf(writing), following)
        self.assertEqual(self.runner.names[1:], ["find"])

    def test_too_large(self) -> None:
        """What does not fit into one command is refused before it is sent."""
        what = Batch()
        large = operation("i", 1)
        large.document = bytes(8 << 20)
        what.add_all([large, large])
        what.reach(BEYOND, 6)
        error = self.failureResultOf(self.write(what), ApplyError).value
        self.assertIn("--at-least-once", str(error))
        self.assertEqual(self.runner.bodies, [])


class RepeatingWriterTests(SynchronousTestCase):
    """
    Batches at least once.
    """

    def write(self, what: Batch, *replies: Any) -> Deferred[Checkpoint]:
        """Write after L{CURRENT}."""
        pool: Any = FakePool(*PLAIN, *replies)
        self.runner = pool.runner
        self.clock = Clock()
        patience = Patience(self.clock, 10.0)
        writer = RepeatingWriter(pool, store(pool), Catalog(pool), patience)
        return Deferred.fromCoroutine(writer.write(what, CURRENT))

    def test_order(self) -> None:
        """Operations come in the source's order, inserts as upserts, the checkpoint last."""
        writing = self.write(batch("d", "i", "u"), OK, {"ok": 1, "n": 1}, OK)
        following = self.successResultOf(writing)
        self.assertEqual(self.runner.names[2:], ["delete", "update", "update"])
        self.assertEqual(
            [each.get("upsert", False) for each in self.runner.statements(3)], [True, False]
        )
        self.assertEqual(following, CURRENT.advanced(BEYOND, 6, count=3, missing=1))

    def test_again(self) -> None:
        """After a lost answer the whole batch is written again."""
        writing = self.write(batch("d", "i"), OK, AutoReconnect("gone"), OK, OK, OK)
        self.clock.advance(0.05)
        self.successResultOf(writing)
        self.assertEqual(self.runner.names[2:], ["delete", "update", "delete", "update", "update"])

    def test_refused(self) -> None:
        """What the server refuses is the end, with the checkpoint where it was."""
        self.failureResultOf(self.write(batch("i"), refused(13)), ApplyError)
        self.assertEqual(self.runner.names[2:], ["update"])

    def test_pieces(self) -> None:
        """A transaction larger than a message is sent in several."""
        what = batch()
        large = operation("i", 1)
        what.add_all([large] * 100_001)
        many = {"ok": 1, "n": 100_000}
        following = self.successResultOf(self.write(what, many, OK, OK))
        self.assertEqual(self.runner.names[2:], ["update", "update", "update"])
        self.assertEqual(following.missing, CURRENT.missing)
