"""
Tests for L{txmongokit.replicator.checkpoint}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.int64 import Int64
from bson.timestamp import Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import FakePool, refused
from txmongokit.errors import AutoReconnect, OperationFailure
from txmongokit.replicator.checkpoint import (
    Checkpoint,
    CheckpointStore,
    FencedError,
    ForeignCheckpointError,
)
from txmongokit.replicator.patience import Patience

AT = 100 << 32 | 3
CURRENT = Checkpoint(seq=4, position=AT, term=5, count=10, missing=2, window_end=AT + 9)
SOURCE = {"source": {"set": "rs", "id": 1}}


def stored(checkpoint: Checkpoint, **more: Any) -> dict[str, Any]:
    """A reply with the checkpoint's document."""
    return cursor_reply([{"_id": "rs all", **SOURCE, **checkpoint.fields(), **more}])


def store(pool: Any) -> CheckpointStore:
    """The store that all tests use."""
    return CheckpointStore(pool, "rs all", SOURCE)


class CheckpointTests(SynchronousTestCase):
    """
    The value.
    """

    def test_round_trip(self) -> None:
        """What is stored gives the same checkpoint, with an intent or without."""
        for checkpoint in (CURRENT, CURRENT.intending(AT + 1)):
            document = bson.decode(bson.encode(checkpoint.fields()))
            self.assertEqual(Checkpoint.from_document(document), checkpoint)

    def test_advanced(self) -> None:
        """Counts add up, the intent is done with, and the sequence goes on."""
        following = CURRENT.intending(AT + 1).advanced(AT + 1, 6, count=3, missing=1)
        self.assertEqual(
            following,
            Checkpoint(6, AT + 1, 6, count=13, missing=3, window_end=AT + 9, intent=None),
        )

    def test_applied(self) -> None:
        """Without a term, nothing was applied."""
        self.assertTrue(CURRENT.applied)
        self.assertFalse(Checkpoint(0, AT, -1).applied)
        self.assertEqual(CURRENT.reached, CURRENT.position)
        self.assertEqual(Checkpoint(0, AT, -1).reached, AT - 1)


class StoreTests(SynchronousTestCase):
    """
    The document.
    """

    def test_statement(self) -> None:
        """The update finds the checkpoint only with the sequence before it."""
        following = CURRENT.advanced(AT + 1, 5)
        statement = bson.decode(store(FakePool()).statement(CURRENT, following))
        self.assertEqual(statement["q"], {"_id": "rs all", "seq": 4})
        self.assertEqual(statement["u"]["$set"]["seq"], 5)
        self.assertEqual(statement["u"]["$set"]["ts"], Timestamp(100, 4))
        self.assertNotIn("upsert", statement)

    def test_load(self) -> None:
        """A checkpoint is loaded by its key; there may be none."""
        pool = FakePool(stored(CURRENT), cursor_reply([]))
        load = store(pool).load
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(load())), CURRENT)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(load())))
        self.assertEqual(pool.runner.bodies[0]["filter"], {"_id": "rs all"})

    def test_foreign(self) -> None:
        """That of another set is refused, that of an unknown one is not."""
        pool = FakePool(
            stored(CURRENT, source={"set": "rs", "id": 2}),
            stored(CURRENT, source={"set": "rs", "id": None}),
        )
        load = store(pool).load
        self.failureResultOf(Deferred.fromCoroutine(load()), ForeignCheckpointError)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(load())), CURRENT)

    def test_create(self) -> None:
        """The first one is stored for a majority, with its owner's session."""
        pool = FakePool({"ok": 1, "n": 1})
        session = pool.start_session()
        self.successResultOf(Deferred.fromCoroutine(store(pool).create(CURRENT, session)))
        document = pool.runner.statements()[0]
        self.assertEqual(document["owner"], session.session_id)
        self.assertEqual(document["source"], SOURCE["source"])
        self.assertEqual(Checkpoint.from_document(document), CURRENT)
        concern = pool.runner.commands[0].options.write_concern.document
        self.assertEqual(concern, {"w": "majority"})

    def test_create_without_window(self) -> None:
        """No window is not stored as what servers take for the present time."""
        pool = FakePool({"ok": 1, "n": 1})
        first = Checkpoint(seq=0, position=AT, term=5)
        creating = store(pool).create(first, pool.start_session())
        self.successResultOf(Deferred.fromCoroutine(creating))
        self.assertEqual(pool.runner.statements()[0]["window_end"], Timestamp(0, 1))

    def test_create_too_late(self) -> None:
        """Where another one was first, this one gives up."""
        error = {"index": 0, "code": 11000, "errmsg": "E11000"}
        pool = FakePool({"ok": 1, "n": 0, "writeErrors": [error]})
        creating = store(pool).create(CURRENT, pool.start_session())
        self.failureResultOf(Deferred.fromCoroutine(creating), FencedError)

    def test_take_over(self) -> None:
        """The former owner's transactions end before the sequence moves."""
        owner = {"id": b"1" * 16}
        taken = {**CURRENT.fields(), "seq": Int64(5)}
        pool = FakePool(stored(CURRENT, owner=owner), {"ok": 1}, {"ok": 1, "value": taken})
        session = pool.start_session()
        taking = Deferred.fromCoroutine(store(pool).take_over(session))
        self.assertEqual(self.successResultOf(taking).seq, 5)
        _, kill, change = pool.runner.bodies
        self.assertEqual(kill["killSessions"], [{"id": owner["id"]}])
        self.assertEqual(change["update"]["$inc"], {"seq": 1})
        self.assertEqual(change["update"]["$set"]["owner"], session.session_id)
        self.assertNotIn("ts", change["update"]["$set"])
        self.assertNotIn("lanes.stale", change["update"]["$set"])

    def test_take_over_elsewhere(self) -> None:
        """It may go to another position; not being allowed to kill is no error."""
        pool = FakePool(
            stored(CURRENT, owner={"id": b"1" * 16}),
            refused(13),
            {"ok": 1, "value": CURRENT.fields()},
        )
        first = Checkpoint(seq=0, position=AT - 1, term=-1)
        taking = store(pool).take_over(pool.start_session(), first)
        self.successResultOf(Deferred.fromCoroutine(taking))
        change = pool.runner.bodies[2]["update"]["$set"]
        self.assertEqual((change["ts"], change["t"]), (Timestamp(100, 2), -1))
        self.assertNotIn("seq", change)
        # How far lanes are was meant from where it stood.
        self.assertTrue(change["lanes.stale"])

    def test_take_over_nothing(self) -> None:
        """A checkpoint that was deleted meanwhile cannot be taken over."""
        pool = FakePool(cursor_reply([]), {"ok": 1, "value": None})
        taking = store(pool).take_over(pool.start_session())
        self.failureResultOf(Deferred.fromCoroutine(taking), FencedError)

    def test_fenced(self) -> None:
        """A move that finds nothing means that another one has taken over."""
        pool = FakePool({"ok": 1, "n": 1}, {"ok": 1, "n": 0})
        following = CURRENT.advanced(AT + 1, 5)
        move = store(pool).move
        self.successResultOf(Deferred.fromCoroutine(move(CURRENT, following)))
        self.failureResultOf(Deferred.fromCoroutine(move(CURRENT, following)), FencedError)

    def test_advance_settled(self) -> None:
        """After a lost answer the checkpoint is read, and not moved twice."""
        following = CURRENT.advanced(AT + 1, 5)
        pool = FakePool(AutoReconnect("gone"), stored(following))
        clock = Clock()
        advancing = Deferred.fromCoroutine(store(pool).advance(CURRENT, following, Patience(clock)))
        self.assertNoResult(advancing)
        clock.advance(0.05)
        self.successResultOf(advancing)
        self.assertEqual(pool.runner.names, ["update", "find"])

    def test_advance_with_more(self) -> None:
        """Other fields of the document move along."""
        pool = FakePool({"ok": 1, "n": 1})
        following = CURRENT.advanced(AT + 1, 5)
        patience = Patience(Clock())
        advancing = store(pool).advance(CURRENT, following, patience, {"lanes.applied": 3})
        self.successResultOf(Deferred.fromCoroutine(advancing))
        change = pool.runner.statements()[0]["u"]["$set"]
        self.assertEqual((change["lanes.applied"], change["seq"]), (3, 5))

    def test_settled(self) -> None:
        """Only the very next sequence at that position is the move's."""
        following = CURRENT.advanced(AT + 1, 5)
        for found, expected in (
            (following, following),
            (CURRENT, None),
            (CURRENT.advanced(AT + 2, 5), None),
            (following.advanced(AT + 1, 5), None),
        ):
            settling = store(FakePool(stored(found))).settled(CURRENT, AT + 1)
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(settling)), expected)

    def test_settled_by_another(self) -> None:
        """Who takes over moves the sequence, too: that is no move of this one."""
        taken = {**CURRENT.fields(), "seq": Int64(5)}
        pool = FakePool(
            cursor_reply([]), {"ok": 1, "value": taken}, stored(CURRENT, owner={"id": b"2" * 16})
        )
        tried = store(pool)
        self.successResultOf(Deferred.fromCoroutine(tried.take_over(pool.start_session())))
        settling = Deferred.fromCoroutine(tried.settled(CURRENT, AT))
        error = self.failureResultOf(settling, FencedError).value
        self.assertIn("another replicator", str(error))

    def test_settled_for_good(self) -> None:
        """What a new primary has must be what it keeps; a standalone server has only one."""
        following = CURRENT.advanced(AT + 1, 5)
        replies = (stored(CURRENT), refused(123), stored(following), stored(following))
        pool = FakePool(*replies)
        tried = store(pool)
        for expected in (None, following, following):
            settling = tried.settled(CURRENT, AT + 1)
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(settling)), expected)
        levels = [each.options.read_concern.level for each in pool.runner.commands]
        self.assertEqual(levels, ["linearizable", "linearizable", None, None])

    def test_settled_refused(self) -> None:
        """Any other error is told."""
        settling = store(FakePool(refused(13))).settled(CURRENT, AT + 1)
        self.failureResultOf(Deferred.fromCoroutine(settling), OperationFailure)
