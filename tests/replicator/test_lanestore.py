"""
Tests for L{txmongokit.replicator.lanestore}.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from bson.int64 import Int64
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool
from tests.replicator.test_checkpoint import AT, CURRENT, store, stored
from tests.replicator.test_writers import BEYOND, PLAIN, batch
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import FencedError
from txmongokit.replicator.lanestore import LaneStore
from txmongokit.replicator.partition import Layout
from txmongokit.replicator.patience import Patience

_T = TypeVar("_T")
LAYOUT = Layout(2, frozenset({"app.users"}), 10, 1)
OK = {"ok": 1, "n": 1}


class LaneStoreTests(SynchronousTestCase):
    """
    The documents of lanes.
    """

    def lanes(self, *replies: Any) -> LaneStore:
        """A store over a script."""
        self.pool = fake_pool(*replies)
        self.runner = self.pool.runner
        catalog, patience = Catalog(self.pool), Patience(Clock())
        return LaneStore(self.pool, store(self.pool), catalog, patience)

    def done(self, task: Coroutine[Any, Any, _T]) -> _T:
        """Its result, which is there at once."""
        return self.successResultOf(Deferred.fromCoroutine(task))

    def test_none(self) -> None:
        """A replication without lanes has none to take over."""
        for main in (stored(CURRENT), cursor_reply([])):
            self.assertEqual(self.done(self.lanes(main).take_over()), (Layout(), []))

    def test_take_over(self) -> None:
        """Each lane's former owner is ended, and its sequence moves."""
        owner = {"id": b"1" * 16}
        taken = {"ok": 1, "value": {**CURRENT.fields(), "seq": Int64(5)}}
        lanes = self.lanes(
            stored(CURRENT, lanes=LAYOUT.fields()),
            *(stored(CURRENT, owner=owner), {"ok": 1}, taken),
            *(stored(CURRENT, owner=owner), {"ok": 1}, taken),
        )
        layout, checkpoints = self.done(lanes.take_over())
        self.assertEqual(layout, LAYOUT)
        self.assertEqual([each.seq for each in checkpoints], [5, 5])
        killed = [body["killSessions"] for body in self.runner.bodies if "killSessions" in body]
        self.assertEqual(killed, [[{"id": owner["id"]}]] * 2)
        asked = [body["query"] for body in self.runner.bodies if "query" in body]
        self.assertEqual(asked, [{"_id": "rs all lane 0"}, {"_id": "rs all lane 1"}])

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
        lanes = self.lanes(cursor_reply([]), OK)
        (made,) = self.done(lanes.make([0], CURRENT))
        self.assertEqual((made.position, made.count, made.missing), (AT, 0, 0))
        self.assertEqual(made.window_end, CURRENT.window_end)
        document = self.runner.statements(1)[0]
        self.assertEqual(document["_id"], "rs all lane 0")
        self.assertEqual((document["of"], document["lane"]), ("rs all", 0))

    def test_make_again(self) -> None:
        """One that was there goes on with its sequence, so that nobody else can."""
        left = {**CURRENT.fields(), "seq": Int64(70), "count": Int64(9)}
        lanes = self.lanes(
            stored(CURRENT),
            *(stored(CURRENT), {"ok": 1, "value": left}),
            OK,
        )
        (made,) = self.done(lanes.make([3], CURRENT))
        self.assertEqual((made.seq, made.count), (71, 0))
        statement = self.runner.statements(3)[0]
        self.assertEqual(statement["q"], {"_id": "rs all lane 3", "seq": 70})

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
        lanes = self.lanes(cursor_reply([]), OK, *PLAIN, OK, OK)
        (made,) = self.done(lanes.make([0], CURRENT))
        following = self.done(lanes.writer(0).write(batch("i"), made))
        self.assertEqual((following.position, following.count), (BEYOND, 1))
        self.assertEqual(self.runner.names[4:], ["insert", "update", "commitTransaction"])
        self.assertEqual(self.runner.statements(5)[0]["q"]["_id"], "rs all lane 0")
        owner = self.runner.statements(1)[0]["owner"]
        assert self.runner.sessions[5] is not None
        self.assertEqual(dict(self.runner.sessions[5].session_id), owner)
