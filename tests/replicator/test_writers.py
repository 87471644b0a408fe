"""
Tests for L{txmongokit.replicator.writers}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool, refused
from tests.replicator.test_batch import operation
from tests.replicator.test_checkpoint import AT, CURRENT, store, stored
from txmongokit.errors import AutoReconnect
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.writers import (
    ApplyError,
    CountingWriter,
    TransactionWriter,
    pieces,
    refusal,
)

OK = {"ok": 1, "n": 1}
DUPLICATE = {
    "ok": 1,
    "n": 0,
    "writeErrors": [
        {
            "index": 0,
            "code": 11000,
            "errmsg": 'E11000 duplicate key error collection: db.c index: x_1 dup key: { x: "s" }',
        }
    ],
}
# What a catalog asks for, of a collection without anything special.
PLAIN = (cursor_reply([{"name": "c", "type": "collection", "options": {}}]), cursor_reply([]))
CAPPED = (cursor_reply([{"name": "c", "options": {"capped": True}}]), cursor_reply([]))
BEYOND = AT + 100


def batch(*kinds: str, position: int = BEYOND) -> Batch:
    """Operations of these kinds, each on its own document."""
    made = Batch()
    for number, kind in enumerate(kinds):
        made.add(operation(kind, number))
    made.reach(position, 6)
    return made


class CappedWriter:
    """Remembers what is given to it."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """Done at once."""
        self.batches.append(batch)
        return current.advanced(batch.position, batch.term)


class TransactionWriterTests(SynchronousTestCase):
    """
    Batches in transactions.
    """

    def writer(self, *replies: Any, capped: CappedWriter | None = None) -> TransactionWriter:
        """A writer over a script."""
        self.pool = fake_pool(*replies)
        self.runner = self.pool.runner
        self.clock = Clock()
        return TransactionWriter(
            self.pool,
            self.pool.start_session(),
            store(self.pool),
            Catalog(self.pool),
            Patience(self.clock, 10.0),
            capped,
        )

    def write(self, writer: TransactionWriter, what: Batch) -> Deferred[Checkpoint]:
        """Write after L{CURRENT}."""
        return Deferred.fromCoroutine(writer.write(what, CURRENT))

    def commands(self, start: int = 2) -> list[str]:
        """Names of what was sent, without what the catalog asks for."""
        return list(self.runner.names[start:])

    def test_order(self) -> None:
        """Plain inserts, updates and deletes, the checkpoint last, all in one transaction."""
        writer = self.writer(*PLAIN)
        for _ in range(4):
            self.runner.replies.append(OK)
        following = self.successResultOf(self.write(writer, batch("d", "u", "i")))
        self.assertEqual(
            self.commands(), ["insert", "update", "delete", "update", "commitTransaction"]
        )
        self.assertEqual(len(set(map(id, self.runner.sessions[2:]))), 1)
        self.assertIsNotNone(self.runner.sessions[2])
        self.assertEqual(self.runner.statements(2), [{"_id": 2, "mark": 0}])
        self.assertEqual(following, CURRENT.advanced(BEYOND, 6, count=3))
        self.assertEqual(self.runner.statements(5)[0]["q"]["seq"], CURRENT.seq)

    def test_upserts_after_duplicates(self) -> None:
        """A duplicate makes inserts upserts, for fifty batches."""
        writer = self.writer(*PLAIN, DUPLICATE, {"ok": 1}, OK, OK)
        self.successResultOf(self.write(writer, batch("i")))
        self.assertEqual(
            self.commands(),
            ["insert", "abortTransaction", "update", "update", "commitTransaction"],
        )
        self.assertTrue(self.runner.statements(4)[0]["upsert"])
        for _ in range(50):
            before = len(self.runner.names)
            self.runner.replies.extend([OK, OK])
            self.successResultOf(self.write(writer, batch("i")))
            kind = self.runner.names[before]
        self.assertEqual(kind, "insert")
        self.assertEqual(self.runner.names.count("insert"), 2)

    def test_strict_after_duplicates(self) -> None:
        """Another duplicate makes it keep the order, and a third is the end."""
        writer = self.writer(
            *PLAIN, DUPLICATE, {"ok": 1}, DUPLICATE, {"ok": 1}, DUPLICATE, {"ok": 1}
        )
        error = self.failureResultOf(self.write(writer, batch("d", "i")), ApplyError).value
        self.assertEqual(
            self.commands(),
            [
                *("insert", "abortTransaction"),
                *("update", "abortTransaction"),
                *("delete", "abortTransaction"),
            ],
        )
        self.assertIn("code 11000", str(error))
        self.assertIn("x_1", str(error))
        self.assertNotIn('"s"', str(error))

    def test_transient(self) -> None:
        """What passes is tried again from the start of the transaction."""
        conflict = refused(112, "conflict", "TransientTransactionError")
        writer = self.writer(*PLAIN, conflict, {"ok": 1}, stored(CURRENT), OK, OK)
        writing = self.write(writer, batch("i"))
        self.assertNoResult(writing)
        self.clock.advance(0.05)
        self.assertEqual(self.successResultOf(writing).position, BEYOND)
        self.assertEqual(
            self.commands(),
            ["insert", "abortTransaction", "find", "insert", "update", "commitTransaction"],
        )

    def test_patience_ends(self) -> None:
        """In the end the error is told."""
        writer = self.writer(*PLAIN)
        for _ in range(100):
            self.runner.replies.extend([AutoReconnect("gone"), {"ok": 1}, stored(CURRENT)])
        writing = self.write(writer, batch("i"))
        self.clock.pump([2.0] * 7)
        self.failureResultOf(writing, AutoReconnect)

    def test_commit_unknown(self) -> None:
        """A commit without an answer is settled by the checkpoint, nothing is written again."""
        unknown = refused(91, "shutdown", "UnknownTransactionCommitResult")
        following = CURRENT.advanced(BEYOND, 6, count=1)
        writer = self.writer(*PLAIN, OK, OK, unknown, stored(following))
        writing = self.write(writer, batch("i"))
        self.clock.advance(0.05)
        self.assertEqual(self.successResultOf(writing), following)
        self.assertEqual(self.commands(), ["insert", "update", "commitTransaction", "find"])

    def test_no_such_transaction(self) -> None:
        """So is one that the server does not know any more; it was not made, here."""
        gone = refused(251, "no such transaction", "TransientTransactionError")
        writer = self.writer(*PLAIN, OK, OK, gone, stored(CURRENT), OK, OK)
        writing = self.write(writer, batch("i"))
        self.clock.advance(0.05)
        self.assertEqual(self.successResultOf(writing).position, BEYOND)
        self.assertEqual(
            self.commands(),
            [
                *("insert", "update", "commitTransaction", "find"),
                *("insert", "update", "commitTransaction"),
            ],
        )

    def test_missing_in_window(self) -> None:
        """Before the window's end, updates without a document are counted."""
        writer = self.writer(*PLAIN, {"ok": 1, "n": 1}, OK, OK, OK)
        what = batch("u", "u", "u", position=CURRENT.window_end)
        following = self.successResultOf(self.write(writer, what))
        self.assertEqual(following.missing, CURRENT.missing + 2)
        self.assertEqual(self.commands(), ["update", "update", "update", "commitTransaction"])
        stored = self.runner.statements(4)[0]
        self.assertEqual(stored["q"]["seq"], following.seq)
        self.assertEqual(stored["u"]["$set"]["missing"], following.missing)

    def test_nothing_missing_in_window(self) -> None:
        """Where all are found the checkpoint moves with them, and is not waited for."""
        writer = self.writer(*PLAIN, {"ok": 1, "n": 3}, OK, OK)
        what = batch("u", "u", "u", position=CURRENT.window_end)
        following = self.successResultOf(self.write(writer, what))
        self.assertEqual(following.missing, CURRENT.missing)
        self.assertEqual(self.commands(), ["update", "update", "commitTransaction"])

    def test_missing(self) -> None:
        """Behind it they are the end, and nothing is committed."""
        writer = self.writer(*PLAIN, {"ok": 1, "n": 1}, OK)
        what = batch("u", "u", position=CURRENT.window_end + 1)
        error = self.failureResultOf(self.write(writer, what), ApplyError).value
        self.assertIn("1 update(s) to db.c", str(error))
        self.assertEqual(self.commands(), ["update", "update", "abortTransaction"])

    def test_fenced(self) -> None:
        """Where the checkpoint has moved, the transaction is aborted."""
        writer = self.writer(*PLAIN, OK, {"ok": 1, "n": 0})
        self.failureResultOf(self.write(writer, batch("i")), FencedError)
        self.assertEqual(self.commands(), ["insert", "update", "abortTransaction"])

    def test_refused(self) -> None:
        """What would fail again is not tried again."""
        writer = self.writer(*PLAIN, refused(13, "not allowed"), {"ok": 1})
        error = self.failureResultOf(self.write(writer, batch("i")), ApplyError).value
        self.assertIn("code 13", str(error))

    def test_capped(self) -> None:
        """Capped collections go to the writer for them."""
        capped = CappedWriter()
        what = batch("i")
        self.successResultOf(self.write(self.writer(*CAPPED, capped=capped), what))
        self.assertEqual(capped.batches, [what])
        self.assertEqual(self.commands(), [])

    def test_capped_in_order(self) -> None:
        """Without one they are written before the transaction, after an intent."""
        writer = self.writer(*CAPPED, OK, OK, OK, OK)
        following = self.successResultOf(self.write(writer, batch("i")))
        self.assertEqual(self.commands(), ["update", "insert", "update", "commitTransaction"])
        self.assertEqual((following.intent, following.seq), (None, CURRENT.seq + 2))

    def test_only_position(self) -> None:
        """A batch of nothing moves the checkpoint."""
        self.successResultOf(self.write(self.writer(OK), batch()))
        self.assertEqual(self.commands(0), ["update", "commitTransaction"])


class PiecesTests(SynchronousTestCase):
    """
    What fits into one message.
    """

    def test_size(self) -> None:
        """A piece has at most 32 MiB, and at least one statement."""
        large = bytes(20 << 20)
        huge = bytes(33 << 20)
        self.assertEqual(
            [len(piece) for piece in pieces([large, b"x", large, huge, b"x"])], [2, 1, 1, 1]
        )

    def test_number(self) -> None:
        """A piece has at most as many statements as a server takes."""
        self.assertEqual([len(each) for each in pieces([b"x"] * 200_001)], [100_000, 100_000, 1])


class RefusalTests(SynchronousTestCase):
    """
    What is said of an error.
    """

    def test_no_documents(self) -> None:
        """Nothing of a document is shown, wherever the server put it."""
        for text in (
            'E11000 duplicate key error collection: db.c index: x_1 dup key: { x: "secret" }',
            'Cannot create field "b" in element {a: "secret"}',
            'the element ({a: "secret"}) cannot be traversed',
            'no, full error: {"errmsg": "secret"}',
        ):
            said = refusal(refused(7, text))
            self.assertNotIn("secret", said)
            self.assertIn("code 7", said)
            self.assertIn(text[:2], said)


class CountingTests(SynchronousTestCase):
    """
    The writer of a dry run.
    """

    def test_counts(self) -> None:
        """Operations are counted by collection and kind; the checkpoint moves."""
        writer = CountingWriter()
        writing = Deferred.fromCoroutine(writer.write(batch("i", "u", "u"), CURRENT))
        self.assertEqual(self.successResultOf(writing), CURRENT.advanced(BEYOND, 6, count=3))
        self.assertEqual(writer.counts, {("db.c", "i"): 1, ("db.c", "u"): 2})
