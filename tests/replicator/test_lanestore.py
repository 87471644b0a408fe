"""
Tests for L{txmongokit.replicator.lanestore}.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from bson.int64 import Int64
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool
from tests.replicator.test_checkpoint import AT, CURRENT, store, stored
from tests.replicator.test_writers import BEYOND, PLAIN, batch
from txmongokit.errors import AutoReconnect
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import FencedError
from txmongokit.replicator.lanestore import LaneStore
from txmongokit.replicator.partition import Layout
from txmongokit.replicator.patience import Patience

_T = TypeVar("_T")
LAYOUT = Layout(2, frozenset({"app.users"}), 10, 1)
OK = {"ok": 1, "n": 1}
DUPLICATE = {"ok": 1, "n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000"}]}
STARTED = 1_767_225_600
RANK = {"started": STARTED, "seq": CURRENT.seq}
HIGHER = {"main.started": STARTED, "main.seq": {"$gt": CURRENT.seq}}


class LaneStoreTests(SynchronousTestCase):
    """
    The documents of lanes.
    """

    def lanes(self, *replies: Any) -> LaneStore:
        """A store over a script."""
        self.pool = fake_pool(*replies)
        self.runner = self.pool.runner
        self.clock = Clock()
        catalog, patience = Catalog(self.pool), Patience(self.clock)
        return LaneStore(self.pool, store(self.pool), catalog, patience)

    def none_left(self, *replies: Any) -> LaneStore:
        """A store that has found no lanes of the run before."""
        lanes = self.lanes(stored(CURRENT, started=STARTED), *replies)
        self.done(lanes.take_over())
        return lanes

    def done(self, task: Coroutine[Any, Any, _T]) -> _T:
        """Its result, which is there at once."""
        return self.successResultOf(Deferred.fromCoroutine(task))

    def test_none(self) -> None:
        """A replication without lanes has none to take over."""
        self.assertEqual(self.done(self.lanes(stored(CURRENT)).take_over()), (Layout(), []))

    def test_main_deleted(self) -> None:
        """Without the main checkpoint nobody knows what there is."""
        taking = Deferred.fromCoroutine(self.lanes(cursor_reply([])).take_over())
        self.assertIn("deleted", str(self.failureResultOf(taking, FencedError).value))

    def test_take_over(self) -> None:
        """Each lane's former owner is ended, and its sequence moves."""
        owner = {"id": b"1" * 16}
        taken = {"ok": 1, "value": {**CURRENT.fields(), "seq": Int64(5)}}
        lanes = self.lanes(
            stored(CURRENT, lanes=LAYOUT.fields(), started=STARTED),
            *(stored(CURRENT, owner=owner), {"ok": 1}, taken),
            *(stored(CURRENT, owner=owner), {"ok": 1}, taken),
        )
        layout, checkpoints = self.done(lanes.take_over())
        self.assertEqual(layout, LAYOUT)
        self.assertEqual([each.seq for each in checkpoints], [5, 5])
        killed = [body["killSessions"] for body in self.runner.bodies if "killSessions" in body]
        self.assertEqual(killed, [[{"id": owner["id"]}]] * 2)
        changes = [body for body in self.runner.bodies if "query" in body]
        ids = ["rs all lane 0", "rs all lane 1"]
        self.assertEqual(
            [body["query"] for body in changes], [{"_id": each, "$nor": [HIGHER]} for each in ids]
        )
        self.assertEqual([body["update"]["$set"]["main"] for body in changes], [RANK] * 2)

    def test_too_late(self) -> None:
        """Who took the main checkpoint over later keeps its lanes, and is not disturbed."""
        lanes = self.lanes(
            stored(CURRENT, lanes={**LAYOUT.fields(), "count": 1}),
            *(cursor_reply([]), {"ok": 1, "value": None}),
        )
        taking = Deferred.fromCoroutine(lanes.take_over())
        error = self.failureResultOf(taking, FencedError).value
        self.assertIn("another replicator", str(error))
        self.assertNotIn("killSessions", self.runner.names)

    def test_deleted(self) -> None:
        """Without a lane's document nobody knows how far that is."""
        lanes = self.lanes(
            stored(CURRENT, lanes={**LAYOUT.fields(), "count": 1}),
            *(cursor_reply([]), {"ok": 1, "value": None}),
        )
        taking = Deferred.fromCoroutine(lanes.take_over())
        self.failureResultOf(taking, FencedError)

    def test_make(self) -> None:
        """A new lane begins at the main checkpoint, having applied nothing."""
        lanes = self.none_left(cursor_reply([]), OK)
        (made,) = self.done(lanes.make([0], CURRENT))
        self.assertEqual((made.position, made.count, made.missing), (AT, 0, 0))
        self.assertEqual(made.window_end, CURRENT.window_end)
        document = self.runner.statements(2)[0]
        self.assertEqual((document["_id"], document["main"]), ("rs all lane 0", RANK))
        self.assertEqual((document["of"], document["lane"]), ("rs all", 0))

    def test_make_again(self) -> None:
        """One that was there goes on with its sequence, so that nobody else can."""
        left = {**CURRENT.fields(), "seq": Int64(70), "count": Int64(9)}
        lanes = self.none_left(
            stored(CURRENT),
            *(stored(CURRENT), {"ok": 1, "value": left}),
            OK,
        )
        (made,) = self.done(lanes.make([3], CURRENT))
        self.assertEqual((made.seq, made.count), (71, 0))
        statement = self.runner.statements(4)[0]
        self.assertEqual(statement["q"], {"_id": "rs all lane 3", "seq": 70})

    def test_made_by_two(self) -> None:
        """A lane that somebody else makes at the same moment is taken: one of the two goes on."""
        taken = {"ok": 1, "value": {**CURRENT.fields(), "seq": Int64(1)}}
        lanes = self.none_left(cursor_reply([]), DUPLICATE, stored(CURRENT), taken, OK)
        (made,) = self.done(lanes.make([0], CURRENT))
        self.assertEqual(made.seq, 2)
        lanes = self.none_left(
            cursor_reply([]), DUPLICATE, cursor_reply([]), {"ok": 1, "value": None}
        )
        making = Deferred.fromCoroutine(lanes.make([0], CURRENT))
        self.failureResultOf(making, FencedError)

    def test_made_without_an_answer(self) -> None:
        """After a lost answer it is looked at again, and taken if it is there."""
        taken = {"ok": 1, "value": {**CURRENT.fields(), "seq": Int64(1)}}
        lanes = self.none_left(
            cursor_reply([]), AutoReconnect("cut"), stored(CURRENT), stored(CURRENT), taken, OK
        )
        making = Deferred.fromCoroutine(lanes.make([0], CURRENT))
        self.assertNoResult(making)
        self.clock.advance(0.05)
        (made,) = self.successResultOf(making)
        self.assertEqual(made.seq, 2)

    def test_taken_meanwhile(self) -> None:
        """A move whose answer is lost is not taken for that of somebody else."""
        taken = {"ok": 1, "value": {**CURRENT.fields(), "seq": Int64(70)}}
        theirs = stored(replace(CURRENT, seq=71), owner={"id": b"2" * 16})
        lanes = self.none_left(
            stored(CURRENT), stored(CURRENT), taken, AutoReconnect("cut"), theirs
        )
        making = Deferred.fromCoroutine(lanes.make([0], CURRENT))
        self.clock.advance(0.05)
        self.failureResultOf(making, FencedError)

    def test_advance(self) -> None:
        """The main checkpoint moves with what of the lanes' figures it has."""
        following = CURRENT.advanced(AT + 1, 5, count=3)
        self.done(self.lanes(OK).advance(CURRENT, following, LAYOUT))
        change = self.runner.statements()[0]["u"]["$set"]
        self.assertEqual((change["lanes.applied"], change["lanes.missing"]), (10, 1))
        self.assertEqual(change["count"], CURRENT.count + 3)
        self.assertNotIn("lanes", change)

    def test_lay_out(self) -> None:
        """A layout is stored whole, and moves nothing but the sequence."""
        following = self.done(self.lanes(OK).lay_out(CURRENT, LAYOUT))
        self.assertEqual((following.seq, following.position), (CURRENT.seq + 1, AT))
        change = self.runner.statements()[0]["u"]["$set"]
        self.assertEqual(change["lanes"], LAYOUT.fields())

    def test_writer(self) -> None:
        """A lane's batches move the lane's own document, in the lane's session."""
        lanes = self.none_left(cursor_reply([]), OK, *PLAIN, OK, OK)
        (made,) = self.done(lanes.make([0], CURRENT))
        following = self.done(lanes.writer(0).write(batch("i"), made))
        self.assertEqual((following.position, following.count), (BEYOND, 1))
        self.assertEqual(self.runner.names[5:], ["insert", "update", "commitTransaction"])
        self.assertEqual(self.runner.statements(6)[0]["q"]["_id"], "rs all lane 0")
        owner = self.runner.statements(2)[0]["owner"]
        assert self.runner.sessions[6] is not None
        self.assertEqual(dict(self.runner.sessions[6].session_id), owner)
