"""
Tests for L{txmongokit.replicator.tailer}.
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
from tests.replicator.fakes import fake_pool, refused
from tests.replicator.test_entries import entry
from txmongokit.errors import AutoReconnect, OperationFailure
from txmongokit.replicator.entries import parse_entry
from txmongokit.replicator.tailer import OplogGap, Tailer, last_written

SECOND = 100 << 32


def reply(*increments: int, more: bool = False, cursor_id: int = 7, term: int = 5) -> Any:
    """A cursor's reply with inserts at these increments."""
    documents = [
        bson.decode(entry("i", {"_id": each}, ts=Timestamp(100, each), t=Int64(term)))
        for each in increments
    ]
    return cursor_reply(documents, cursor_id, more=more, namespace="local.oplog.rs")


class TailerTests(SynchronousTestCase):
    """
    Reading on.
    """

    def tailer(self, *replies: Any, verify: bool = True, term: int = 5) -> Tailer:
        """A tailer that starts at increment 1."""
        self.pool = fake_pool(*replies)
        self.runner = self.pool.runner
        self.clock = Clock()
        tailer = Tailer(self.clock, self.pool, "local.oplog.rs", patience=10.0)
        tailer.start(SECOND | 1, verify=verify, term=term)
        return tailer

    def read(self, tailer: Tailer) -> Deferred[list[bytes]]:
        """The next batch."""
        return Deferred.fromCoroutine(tailer.next_batch())

    def increments(self, tailer: Tailer) -> list[int]:
        """The next batch's increments."""
        return [parse_entry(raw).ts & 0xFFFFFFFF for raw in self.successResultOf(self.read(tailer))]

    def test_resumed(self) -> None:
        """The entry that was applied is verified and left out."""
        ahead: Deferred[Any] = Deferred()
        tailer = self.tailer(reply(1, 2, 3), ahead)
        self.assertEqual(tailer.read_up_to, SECOND | 1)
        self.assertEqual(self.increments(tailer), [2, 3])
        self.assertEqual(tailer.read_up_to, SECOND | 3)
        find = self.runner.bodies[0]
        self.assertEqual(find["filter"], {"ts": {"$gte": Timestamp(100, 1)}})
        self.assertTrue(find["tailable"] and find["awaitData"])

    def test_from_the_start(self) -> None:
        """Where nothing was applied, the first entry counts."""
        tailer = self.tailer(reply(1, 2), Deferred(), verify=False, term=-1)
        self.assertEqual(tailer.read_up_to, SECOND)
        self.assertEqual(self.increments(tailer), [1, 2])

    def test_overwritten(self) -> None:
        """Another first entry means that something was lost."""
        error = self.failureResultOf(self.read(self.tailer(reply(2, 3))), OplogGap).value
        self.assertIn("(100, 1), and goes on at 1970-01-01T00:01:40Z (100, 2)", str(error))

    def test_rolled_back(self) -> None:
        """So does one of another term; an unknown term is no evidence."""
        reading = self.read(self.tailer(reply(1, 2, term=6)))
        self.assertIn("rolled back", str(self.failureResultOf(reading, OplogGap).value))
        tailer = self.tailer(reply(1, 2, term=6), Deferred(), term=-1)
        self.assertEqual(self.increments(tailer), [2])

    def test_ready(self) -> None:
        """One batch is fetched ahead, and only one."""
        ahead: Deferred[Any] = Deferred()
        tailer = self.tailer(reply(1, 2), ahead, Deferred())
        self.assertFalse(tailer.ready)
        self.assertEqual(self.increments(tailer), [2])
        self.assertEqual(self.runner.names, ["find", "getMore"])
        self.assertFalse(tailer.ready)
        ahead.callback(reply(3, more=True))
        self.assertTrue(tailer.ready)
        self.assertEqual(self.runner.names, ["find", "getMore"])
        self.assertEqual(self.increments(tailer), [3])
        self.assertEqual(self.runner.names, ["find", "getMore", "getMore"])

    def test_empty(self) -> None:
        """A wait for nothing gives nothing, and the position stays."""
        tailer = self.tailer(reply(1), reply(more=True), reply(2, more=True), Deferred())
        self.assertEqual(self.increments(tailer), [])
        self.assertEqual(tailer.read_up_to, SECOND | 1)
        self.assertEqual(self.increments(tailer), [])
        self.assertEqual(self.increments(tailer), [2])

    def test_dead_cursor(self) -> None:
        """A cursor that ended is opened again, at what was read last."""
        tailer = self.tailer(reply(1, 2, cursor_id=0), reply(2, 3), Deferred())
        self.assertEqual(self.increments(tailer), [2])
        self.assertEqual(self.increments(tailer), [3])
        self.assertEqual(self.runner.bodies[1]["filter"], {"ts": {"$gte": Timestamp(100, 2)}})

    def test_reconnected(self) -> None:
        """After a failure it goes on from what it has given out."""
        ahead: Deferred[Any] = Deferred()
        tailer = self.tailer(reply(1, 2), ahead)
        self.assertEqual(self.increments(tailer), [2])
        ahead.errback(AutoReconnect("gone"))
        self.runner.replies.extend([reply(2, 3), Deferred()])
        reading = self.read(tailer)
        self.assertNoResult(reading)
        self.clock.advance(0.1)
        self.assertEqual(
            [parse_entry(raw).ts for raw in self.successResultOf(reading)], [SECOND | 3]
        )
        finds = [body for body in self.runner.bodies if "find" in body]
        self.assertEqual(finds[1]["filter"], {"ts": {"$gte": Timestamp(100, 2)}})

    def test_reconnected_elsewhere(self) -> None:
        """What was read last must still be there then."""
        tailer = self.tailer(reply(1, 2, cursor_id=0), AutoReconnect("gone"), reply(3))
        self.assertEqual(self.increments(tailer), [2])
        reading = self.read(tailer)
        self.clock.advance(0.1)
        self.failureResultOf(reading, OplogGap)

    def test_reopened(self) -> None:
        """A cursor that the server ended is no reason to stop."""
        for code in (43, 237, 175):
            tailer = self.tailer(refused(code), reply(1, 2), Deferred())
            reading = self.read(tailer)
            self.clock.advance(0.1)
            self.assertEqual(len(self.successResultOf(reading)), 1)

    def test_source_changes(self) -> None:
        """Nor is a source that just started, or that changes its role."""
        for code in (134, 189, 11600):
            tailer = self.tailer(refused(code), reply(1, 2), Deferred())
            reading = self.read(tailer)
            self.clock.advance(0.1)
            self.assertEqual(len(self.successResultOf(reading)), 1)

    def test_lost(self) -> None:
        """Nor is one that it lost later, which is not taken for having read everything."""
        tailer = self.tailer(reply(1, 2), refused(43), reply(2, 3), Deferred())
        self.assertEqual(self.increments(tailer), [2])
        reading = self.read(tailer)
        self.assertNoResult(reading)
        self.clock.advance(0.1)
        found = [parse_entry(raw).ts for raw in self.successResultOf(reading)]
        self.assertEqual(found, [SECOND | 3])

    def test_patience(self) -> None:
        """It gives up when the source stays away."""
        tailer = self.tailer(*[AutoReconnect("gone") for _ in range(50)])
        reading = self.read(tailer)
        self.clock.pump([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
        self.assertNoResult(reading)
        self.clock.advance(5.0)
        self.failureResultOf(reading, AutoReconnect)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_overrun(self) -> None:
        """A position that the server has lost is a gap."""
        for code in (136, 286):
            ends = [cursor_reply([{"ts": Timestamp(second, 7)}]) for second in (103, 109)]
            reading = self.read(self.tailer(refused(code), *ends))
            error = self.failureResultOf(reading, OplogGap).value
            self.assertIn("(100, 1), and goes on at 1970-01-01T00:01:43Z (103, 7)", str(error))

    def test_overrun_of_a_source_that_goes_away(self) -> None:
        """Where the oplog begins now may not be found out any more."""
        reading = self.read(self.tailer(refused(136), refused(10107)))
        self.failureResultOf(reading, OplogGap)

    def test_refused(self) -> None:
        """What the server refuses is told at once."""
        error = self.failureResultOf(self.read(self.tailer(refused(13))), OperationFailure).value
        self.assertEqual(error.code, 13)

    def test_stop(self) -> None:
        """A stop lets go of what is fetched ahead."""
        ahead: Deferred[Any] = Deferred()
        tailer = self.tailer(reply(1, 2), ahead)
        self.increments(tailer)
        tailer.stop()
        tailer.stop()
        self.assertFalse(tailer.ready)
        self.assertTrue(ahead.called)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LookupTests(SynchronousTestCase):
    """
    Single entries.
    """

    def test_bounds(self) -> None:
        """The oldest and the newest position."""
        pool = fake_pool(reply(2, cursor_id=0), reply(9, cursor_id=0))
        tailer = Tailer(Clock(), pool, "local.oplog.rs")
        bounds = self.successResultOf(Deferred.fromCoroutine(tailer.bounds()))
        self.assertEqual(bounds, (SECOND | 2, SECOND | 9))
        self.assertEqual(
            [body["sort"] for body in pool.runner.bodies], [{"$natural": 1}, {"$natural": -1}]
        )
        self.assertEqual(
            [each.options.read_concern.level for each in pool.runner.commands], ["majority"] * 2
        )

    def test_bounds_of_nothing(self) -> None:
        """An empty oplog has none."""
        pool = fake_pool(reply(cursor_id=0))
        tailer = Tailer(Clock(), pool, "local.oplog.rs")
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(tailer.bounds())))

    def test_entry_after_an_election(self) -> None:
        """It is asked for again while the source is away."""
        pool = fake_pool(AutoReconnect("gone"), reply(2, cursor_id=0))
        clock = Clock()
        tailer = Tailer(clock, pool, "local.oplog.rs")
        finding = Deferred.fromCoroutine(tailer.entry_at(SECOND | 2))
        self.assertNoResult(finding)
        clock.advance(0.05)
        self.assertIsNotNone(self.successResultOf(finding))

    def test_entry_at(self) -> None:
        """One entry at a position, if it is there."""
        pool = fake_pool(reply(2, cursor_id=0), reply(cursor_id=0))
        tailer = Tailer(Clock(), pool, "local.oplog.rs")
        at = tailer.entry_at
        found = self.successResultOf(Deferred.fromCoroutine(at(SECOND | 2)))
        assert found is not None
        self.assertEqual(parse_entry(found).ts, SECOND | 2)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(at(SECOND | 3))))
        here = Timestamp(100, 2)
        self.assertEqual(pool.runner.bodies[0]["filter"], {"ts": {"$gte": here, "$lte": here}})

    def test_entry_at_another_member(self) -> None:
        """Who has not come as far as what was read before answers later, not otherwise."""
        pool = fake_pool(reply(1, 5), Deferred(), reply(3, cursor_id=0))
        tailer = Tailer(Clock(), pool, "local.oplog.rs")
        tailer.start(SECOND | 1, verify=False)
        self.successResultOf(Deferred.fromCoroutine(tailer.next_batch()))
        finding = Deferred.fromCoroutine(tailer.entry_at(SECOND | 3))
        self.assertIsNotNone(self.successResultOf(finding))
        session = pool.runner.sessions[-1]
        self.assertEqual(session.operation_time, Timestamp(100, 5))
        self.assertTrue(session.causal_consistency)

    def test_last_written(self) -> None:
        """Where the source's oplog ends."""
        hello = {"lastWrite": {"opTime": {"ts": Timestamp(10, 3), "t": 1}}}
        found = self.successResultOf(Deferred.fromCoroutine(last_written(fake_pool(hello))))
        self.assertEqual(found, 10 << 32 | 3)
        # A majority may not have it yet; a copy of an oplog has an end of its own.
        for namespace, newest, expected in (
            ("local.oplog.rs", 10 << 32 | 2, 10 << 32 | 3),
            ("local.oplog.rs", 10 << 32 | 4, 10 << 32 | 4),
            ("copies.oplog", 10 << 32 | 2, 10 << 32 | 2),
        ):
            tailer = Tailer(Clock(), fake_pool(hello), namespace)
            ending = Deferred.fromCoroutine(tailer.last_written(newest))
            self.assertEqual(self.successResultOf(ending), expected)
