"""
Tests for L{txmongokit.cursor}.
"""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import bson
from pymongo import CursorType
from pymongo.server_type import SERVER_TYPE
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.fakes import ADDRESS, INFO, FakeRunner, cursor_reply
from txmongokit._sansio.commands.base import Command, CommandOptions
from txmongokit.collection import Collection
from txmongokit.cursor import Cursor, TimeoutMode
from txmongokit.database import Database
from txmongokit.errors import (
    AutoReconnect,
    CursorNotFound,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
)
from txmongokit.interfaces import IOperationRunner
from txmongokit.sessions import ClientSession

ONE, TWO, THREE = {"_id": 1}, {"_id": 2}, {"_id": 3}


def collection(runner: FakeRunner) -> Collection[dict[str, Any]]:
    """The collection that all tests use."""
    return Database(runner, "db")["things"]


class CursorTests(SynchronousTestCase):
    """
    Fetching, ending and the many ways to read a cursor.
    """

    def two_batches(self) -> FakeRunner:
        """A runner with a cursor of three documents in two batches."""
        return FakeRunner(cursor_reply([ONE, TWO], 7), cursor_reply([THREE], more=True))

    def test_fake(self) -> None:
        """The fake provides what the real client provides."""
        self.assertTrue(verifyObject(IOperationRunner, FakeRunner()))

    def test_lazy(self) -> None:
        """Nothing is sent before the first use, not even by repr."""
        runner = FakeRunner()
        self.assertIn("not started", repr(collection(runner).find()))
        self.assertEqual(runner.commands, [])

    def test_to_list(self) -> None:
        """The list spans batches; getMore goes to the cursor's server in its session."""
        runner = self.two_batches()
        found = self.successResultOf(collection(runner).find().to_list())
        self.assertEqual(found, [ONE, TWO, THREE])
        self.assertEqual(runner.names, ["find", "getMore"])
        self.assertEqual(runner.commands[1].address, ADDRESS)
        self.assertEqual(runner.bodies[1], {"getMore": 7, "collection": "things"})
        self.assertIs(runner.sessions[0], runner.sessions[1])
        self.assertEqual(runner.ended, [runner.sessions[0]])

    def test_let_go(self) -> None:
        """A cursor that nobody holds takes its documents along at once, not some time later."""

        async def read() -> weakref.ref[Any]:
            cursor = collection(self.two_batches()).find_raw_batches()
            while await cursor.next_batch():
                pass
            return weakref.ref(cursor)

        gc.disable()
        self.addCleanup(gc.enable)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(read()))())

    def test_await_and_yield(self) -> None:
        """Awaiting a cursor, yielding it and its Deferred all give the list."""

        async def awaited() -> list[Any]:
            return await collection(self.two_batches()).find()

        @inlineCallbacks
        def yielded() -> Generator[Any, Any, list[Any]]:
            found = yield collection(self.two_batches()).find()
            return found  # type: ignore[no-any-return]

        expected = [ONE, TWO, THREE]
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(awaited())), expected)
        self.assertEqual(self.successResultOf(yielded()), expected)
        cursor = collection(self.two_batches()).find()
        self.assertEqual(self.successResultOf(cursor.addCallback(len)), 3)

    def test_yield_waits_and_fails(self) -> None:
        """A yielded cursor that must wait is waited for, and its error is raised."""
        later: Deferred[dict[str, Any]] = Deferred()

        @inlineCallbacks
        def yielded() -> Generator[Any, Any, str]:
            try:
                yield collection(FakeRunner(later)).find()
            except CursorNotFound:
                return "failed"
            return "worked"

        result = yielded()
        self.assertNoResult(result)
        later.errback(CursorNotFound("gone", 43))
        self.assertEqual(self.successResultOf(result), "failed")

    def test_async_for(self) -> None:
        """Documents come one by one, batches as the server cuts them."""

        async def read() -> tuple[list[Any], list[Any]]:
            documents = [item async for item in collection(self.two_batches()).find()]
            cursor = collection(self.two_batches()).find()
            return documents, [batch async for batch in cursor.batches()]

        documents, batches = self.successResultOf(Deferred.fromCoroutine(read()))
        self.assertEqual(documents, [ONE, TWO, THREE])
        self.assertEqual(batches, [[ONE, TWO], [THREE]])

    def test_aggregate_keeps_session(self) -> None:
        """An aggregate's getMore runs in the explicit session, which stays open."""
        runner = self.two_batches()
        session = ClientSession(runner, runner.take_session(explicit=True))
        found = self.successResultOf(collection(runner).aggregate([], session=session).to_list())
        self.assertEqual(len(found), 3)
        self.assertEqual(runner.sessions, [session.state, session.state])
        self.assertEqual(runner.ended, [])

    def test_limit_over_batches(self) -> None:
        """The last batch is only as large as the limit leaves, then the cursor is killed."""
        runner = FakeRunner(cursor_reply([ONE, TWO], 7), cursor_reply([THREE], 7, more=True))
        cursor = collection(runner).find(limit=3, batch_size=2)
        self.assertEqual(len(self.successResultOf(cursor.to_list())), 3)
        self.assertEqual(runner.bodies[0]["limit"], 3)
        self.assertEqual(runner.bodies[1]["batchSize"], 1)
        self.assertEqual(runner.names, ["find", "getMore", "killCursors"])
        self.assertFalse(cursor.alive)

    def test_negative_limit(self) -> None:
        """A negative limit asks for one batch."""
        runner = FakeRunner(cursor_reply([ONE]))
        self.successResultOf(collection(runner).find(limit=-2).to_list())
        self.assertEqual(runner.bodies[0]["limit"], 2)
        self.assertIs(runner.bodies[0]["singleBatch"], True)

    def test_empty_batches(self) -> None:
        """An empty batch of a living cursor is not the end."""
        runner = FakeRunner(cursor_reply([], 7), cursor_reply([ONE], more=True))
        self.assertEqual(self.successResultOf(collection(runner).find().next_batch()), [ONE])

    def test_tailable_await(self) -> None:
        """A tailable-await cursor waits on the server and reports empty batches."""
        runner = FakeRunner(cursor_reply([ONE], 7), cursor_reply([], 7, more=True))
        cursor = collection(runner).find(
            cursor_type=CursorType.TAILABLE_AWAIT, max_await_time_ms=500
        )
        self.assertEqual(self.successResultOf(cursor.next_batch()), [ONE])
        self.assertEqual(self.successResultOf(cursor.next_batch()), [])
        self.assertTrue(cursor.alive)
        self.assertNotIn("maxTimeMS", runner.bodies[0])
        self.assertIs(runner.bodies[0]["tailable"], True)
        self.assertIs(runner.bodies[0]["awaitData"], True)
        self.assertEqual(runner.bodies[1]["maxTimeMS"], 500)

    def test_one_fetch(self) -> None:
        """A second fetch while one is in flight is refused."""
        cursor = collection(FakeRunner(Deferred())).find()
        cursor.next_batch()
        self.assertRaises(InvalidOperation, cursor.next_batch)

    def test_cancel(self) -> None:
        """Cancelling a fetch kills a cursor that is known, and ends its session."""
        runner = FakeRunner(cursor_reply([ONE], 7), Deferred())
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        fetch = cursor.next_batch()
        fetch.cancel()
        self.failureResultOf(fetch, CancelledError)
        self.assertEqual(runner.bodies[2], {"killCursors": "things", "cursors": [7]})
        self.assertEqual(runner.commands[2].address, ADDRESS)
        self.assertEqual(len(runner.ended), 1)
        self.assertFalse(cursor.alive)

    def test_failed_fetch(self) -> None:
        """A failed getMore ends the cursor and its session."""
        runner = FakeRunner(cursor_reply([ONE], 7), CursorNotFound("gone", 43))
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        self.failureResultOf(cursor.next_batch(), CursorNotFound)
        self.assertEqual(len(runner.ended), 1)
        self.assertEqual(self.successResultOf(cursor.next_batch()), [])

    def test_close(self) -> None:
        """Closing kills once, in the cursor's session, whatever the server says."""
        runner = FakeRunner(cursor_reply([ONE], 7), CursorNotFound("gone", 43))
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        self.assertIsNone(self.successResultOf(cursor.close()))
        self.assertIsNone(self.successResultOf(cursor.close()))
        self.assertEqual(runner.names, ["find", "killCursors"])
        self.assertIs(runner.sessions[0], runner.sessions[1])
        self.assertEqual(len(runner.ended), 1)

    def test_chaining(self) -> None:
        """Options may be set until the cursor starts, and all of them are sent."""
        runner = FakeRunner(cursor_reply([]))
        cursor = collection(runner).find().sort("a", -1).skip(2).limit(4).batch_size(4)
        cursor.hint("a_1").comment("why").max_time_ms(9)
        self.successResultOf(cursor.to_list())
        self.assertEqual(
            runner.bodies[0],
            {
                "find": "things",
                "filter": {},
                "sort": {"a": -1},
                "skip": 2,
                "hint": "a_1",
                "comment": "why",
                "maxTimeMS": 9,
                "limit": 4,
                "batchSize": 5,
            },
        )
        self.assertRaises(InvalidOperation, cursor.skip, 1)

    def test_to_list_length(self) -> None:
        """What a bounded list leaves of a batch comes next."""
        cursor = collection(self.two_batches()).find()
        self.assertEqual(self.successResultOf(cursor.to_list(1)), [ONE])
        self.assertEqual(self.successResultOf(cursor.to_list()), [TWO, THREE])

    def test_raw_batches(self) -> None:
        """Raw batches are each document's bytes, from both kinds of replies."""
        cursor = collection(self.two_batches()).find_raw_batches()
        found = self.successResultOf(cursor.to_list())
        self.assertEqual(found, [bson.encode(item) for item in (ONE, TWO, THREE)])

    def test_next(self) -> None:
        """C{next} gives one document after the other, then says that there is none."""
        cursor = collection(self.two_batches()).find()
        for expected in (ONE, TWO, THREE):
            self.assertEqual(self.successResultOf(cursor.next()), expected)
        self.failureResultOf(cursor.next(), StopAsyncIteration)
        self.assertIsNone(self.successResultOf(cursor.try_next()))
        self.assertEqual(cursor.retrieved, 3)

    def test_tailable_next(self) -> None:
        """On a tailable cursor C{next} waits, C{try_next} asks once."""
        empty = cursor_reply([], 7, more=True)
        runner = FakeRunner(
            cursor_reply([], 7), empty, empty, cursor_reply([ONE], 7, more=True), empty
        )
        cursor = collection(runner).find(cursor_type=CursorType.TAILABLE)
        self.assertIsNone(self.successResultOf(cursor.try_next()))
        self.assertEqual(len(runner.commands), 1)
        self.assertEqual(self.successResultOf(cursor.next()), ONE)
        self.assertEqual(self.successResultOf(cursor.to_list()), [])
        self.assertTrue(cursor.alive)

    def test_gone(self) -> None:
        """What a server has let go of is not killed; a tailable cursor ends quietly."""
        for code in (43, 175, 237):
            error = OperationFailure("gone", code)
            runner = FakeRunner(cursor_reply([ONE], 7), error)
            cursor = collection(runner).find()
            self.successResultOf(cursor.next_batch())
            self.failureResultOf(cursor.next_batch(), OperationFailure)
            tail_runner = FakeRunner(cursor_reply([ONE], 7), error)
            tail = collection(tail_runner).find(cursor_type=CursorType.TAILABLE)
            self.successResultOf(tail.next_batch())
            self.assertEqual(self.successResultOf(tail.next_batch()), [])
            self.assertFalse(tail.alive)
            self.assertEqual(runner.names + tail_runner.names, ["find", "getMore"] * 2)

    def test_refused_tailable(self) -> None:
        """A tailable cursor that never was does not end quietly."""
        runner = FakeRunner(OperationFailure("killed", 237))
        cursor = collection(runner).find(cursor_type=CursorType.TAILABLE)
        self.failureResultOf(cursor.next_batch(), OperationFailure)

    def test_capped_position_lost(self) -> None:
        """That a tailable cursor missed something is never quiet."""
        runner = FakeRunner(cursor_reply([ONE], 7), OperationFailure("lost", 136))
        cursor = collection(runner).find(cursor_type=CursorType.TAILABLE)
        self.successResultOf(cursor.next_batch())
        self.failureResultOf(cursor.next_batch(), OperationFailure)

    def test_killed_after_errors(self) -> None:
        """After other errors the server is told, unless the connection broke."""
        for error, told in (
            (OperationFailure("no", 5), True),
            (ExecutionTimeout("late", 50), True),
            (NetworkTimeout("late"), True),
            (NotPrimaryError("no", {"code": 10107}), True),
            (AutoReconnect("closed"), False),
        ):
            runner = FakeRunner(cursor_reply([ONE], 7), error)
            cursor = collection(runner).find()
            self.successResultOf(cursor.next_batch())
            self.failureResultOf(cursor.next_batch(), type(error))
            self.assertEqual("killCursors" in runner.names, told, error)
            self.assertEqual(cursor.cursor_id, 0)
            self.assertEqual(len(runner.ended), 1)

    def test_close_while_fetching(self) -> None:
        """Closing cancels the fetch, and waits until the server was told."""
        told: Deferred[dict[str, Any]] = Deferred()
        runner = FakeRunner(cursor_reply([ONE], 7), Deferred(), told)
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        fetch = cursor.next_batch()
        closed = cursor.close()
        self.failureResultOf(fetch, CancelledError)
        self.assertNoResult(closed)
        self.assertEqual(runner.ended, [])
        told.callback({"ok": 1.0})
        self.successResultOf(closed)
        self.assertEqual(len(runner.ended), 1)

    def test_cancelled_close(self) -> None:
        """Who cancels waiting for the end does not stop it."""
        told: Deferred[dict[str, Any]] = Deferred()
        runner = FakeRunner(cursor_reply([ONE], 7), told)
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        closed = cursor.close()
        closed.cancel()
        self.failureResultOf(closed, CancelledError)
        told.callback({"ok": 1.0})
        self.assertEqual(len(runner.ended), 1)

    def test_comment(self) -> None:
        """getMore carries the comment where servers know it there."""
        for wire_version, known in ((8, False), (9, True)):
            info = replace(INFO, max_wire_version=wire_version)
            runner = FakeRunner(cursor_reply([ONE], 7), cursor_reply([TWO], more=True), info=info)
            self.successResultOf(collection(runner).find(comment="why").to_list())
            self.assertEqual("comment" in runner.bodies[1], known)

    def test_session(self) -> None:
        """The explicit session is told; an implicit one is nobody's business."""
        runner = FakeRunner()
        session = ClientSession(runner, runner.take_session(explicit=True))
        self.assertIs(collection(runner).find(session=session).session, session)
        self.assertIsNone(collection(runner).find().session)

    def test_clone(self) -> None:
        """A clone sends the same query, and changes to either do not show in the other."""
        runner = FakeRunner(cursor_reply([ONE], 7), cursor_reply([ONE]))
        query = {"a": {"$in": [1]}}
        cursor = collection(runner).find(query, sort="a", batch_size=3, comment="why")
        self.successResultOf(cursor.next_batch())
        clone = cursor.clone()
        query["a"]["$in"].append(2)
        self.successResultOf(clone.limit(9).next_batch())
        self.assertEqual(runner.bodies[1].pop("limit"), 9)
        self.assertEqual(runner.bodies[1].pop("filter"), {"a": {"$in": [1]}})
        del runner.bodies[0]["filter"]
        self.assertEqual(runner.bodies[1], runner.bodies[0])

    def test_clone_tailable(self) -> None:
        """What kind of cursor it is is cloned, too."""
        runner = FakeRunner(cursor_reply([], 7), cursor_reply([], 7, more=True))
        cursor = collection(runner).find(cursor_type=CursorType.TAILABLE_AWAIT, max_await_time_ms=9)
        clone = cursor.clone()
        self.successResultOf(clone.next_batch())
        self.successResultOf(clone.next_batch())
        self.assertIs(runner.bodies[0]["awaitData"], True)
        self.assertEqual(runner.bodies[1]["maxTimeMS"], 9)

    def test_rewind(self) -> None:
        """A rewound cursor closes, then asks again."""
        runner = FakeRunner(cursor_reply([ONE], 7), {"ok": 1.0}, cursor_reply([TWO]))
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        self.assertIs(self.successResultOf(cursor.rewind()), cursor)
        self.assertIsNone(cursor.cursor_id)
        cursor.limit(5)
        self.assertEqual(self.successResultOf(cursor.to_list()), [TWO])
        self.assertEqual(runner.names, ["find", "killCursors", "find"])

    def test_explain(self) -> None:
        """Explaining sends the find within, with the time limit outside."""
        runner = FakeRunner({"ok": 1.0, "queryPlanner": {}})
        cursor = collection(runner).find({"a": 1}, limit=2).max_time_ms(9)
        self.assertIn("queryPlanner", self.successResultOf(cursor.explain()))
        self.assertEqual(
            runner.bodies[0],
            {
                "explain": {"find": "things", "filter": {"a": 1}, "limit": 2},
                "maxTimeMS": 9,
                "verbosity": "allPlansExecution",
            },
        )
        cursor.skip(1)

    def test_distinct(self) -> None:
        """Distinct takes over filter, collation, comment, hint and time limit."""
        runner = FakeRunner({"ok": 1.0, "values": [1]})
        cursor = collection(runner).find({"a": 1}, skip=4).hint("a_1").comment("why")
        self.assertEqual(self.successResultOf(cursor.distinct("b")), [1])
        self.assertEqual(
            runner.bodies[0],
            {
                "distinct": "things",
                "key": "b",
                "query": {"a": 1},
                "comment": "why",
                "hint": "a_1",
            },
        )


class DroppedTests(SynchronousTestCase):
    """
    Cursors that nobody has any more.
    """

    def test_open(self) -> None:
        """One that is open is killed in a later turn, then its session comes back."""
        runner = FakeRunner(cursor_reply([ONE], 7))
        cursor = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        del cursor
        gc.collect()
        self.assertEqual(runner.names, ["find"])
        runner.clock.advance(0)
        self.assertEqual(runner.bodies[1], {"killCursors": "things", "cursors": [7]})
        self.assertIs(runner.sessions[1], runner.sessions[0])
        self.assertEqual(runner.ended, [runner.sessions[0]])

    def test_in_a_cycle(self) -> None:
        """One that only the collector of garbage finds is killed, too."""
        runner = FakeRunner(cursor_reply([ONE], 7))
        cursor: Any = collection(runner).find()
        self.successResultOf(cursor.next_batch())
        cursor.itself = cursor
        del cursor
        gc.collect()
        runner.clock.advance(0)
        self.assertEqual(runner.names, ["find", "killCursors"])

    def test_explicit_session(self) -> None:
        """An explicit session stays its owner's."""
        runner = FakeRunner(cursor_reply([ONE], 7))
        session = ClientSession(runner, runner.take_session(explicit=True))
        cursor = collection(runner).find(session=session)
        self.successResultOf(cursor.next_batch())
        del cursor
        gc.collect()
        runner.clock.advance(0)
        self.assertEqual(runner.names, ["find", "killCursors"])
        self.assertEqual(runner.ended, [])

    def test_nothing_to_do(self) -> None:
        """One that has not started, has ended or could not be made leaves nothing."""
        runner = FakeRunner(cursor_reply([ONE]))
        collection(runner).find()
        self.successResultOf(collection(runner).find().to_list())
        self.assertRaises(TypeError, collection(runner).find, batch_size="x")
        gc.collect()
        self.assertEqual(runner.clock.getDelayedCalls(), [])

    def test_exhaust(self) -> None:
        """An exhaust cursor's stream is closed, then it is killed."""
        runner = FakeRunner(
            cursor_reply([ONE], 7),
            cursor_reply([TWO], 7, more=True),
            cursor_reply([THREE], 7, more=True),
            cursor_reply([ONE], 7, more=True),
            Deferred(),
        )
        cursor = collection(runner).find(cursor_type=CursorType.EXHAUST)
        self.successResultOf(cursor.next_batch())
        self.successResultOf(cursor.next_batch())
        streaming = len(runner.commands)
        del cursor
        gc.collect()
        runner.clock.advance(0)
        self.assertEqual(runner.names[streaming:], ["killCursors"])


class ExhaustTests(SynchronousTestCase):
    """
    Cursors that the server streams.
    """

    def test_stream(self) -> None:
        """One getMore, without any more, gives all that follows."""
        runner = FakeRunner(
            cursor_reply([ONE], 7),
            cursor_reply([TWO], 7, more=True),
            cursor_reply([THREE], 0, more=True),
        )
        cursor = collection(runner).find(cursor_type=CursorType.EXHAUST, batch_size=1)
        self.assertEqual(self.successResultOf(cursor.to_list()), [ONE, TWO, THREE])
        self.assertIs(runner.commands[1], runner.commands[2])
        self.assertEqual(runner.commands[1].address, ADDRESS)
        self.assertEqual(len(runner.ended), 1)

    def test_old_server(self) -> None:
        """A server before 4.4 is asked for each batch."""
        runner = FakeRunner(
            cursor_reply([ONE], 7),
            cursor_reply([TWO], 7, more=True),
            cursor_reply([THREE], more=True),
            info=replace(INFO, max_wire_version=8),
        )
        cursor = collection(runner).find(cursor_type=CursorType.EXHAUST)
        self.assertEqual(self.successResultOf(cursor.to_list()), [ONE, TWO, THREE])
        self.assertIsNot(runner.commands[1], runner.commands[2])

    def test_mongos(self) -> None:
        """A mongos is not asked."""
        runner = FakeRunner(info=replace(INFO, server_type=SERVER_TYPE.Mongos))
        cursor = collection(runner).find(cursor_type=CursorType.EXHAUST)
        self.failureResultOf(cursor.to_list(), InvalidOperation)
        self.assertEqual(runner.requests, [])
        self.assertEqual(len(runner.ended), 1)

    def test_limit(self) -> None:
        """A limit excludes it, in either order, and so does a timeout by iteration."""
        things = collection(FakeRunner())
        kind = CursorType.EXHAUST
        self.assertRaises(InvalidOperation, things.find, cursor_type=kind, limit=3)
        self.assertRaises(InvalidOperation, things.find(cursor_type=kind).limit, 3)
        self.assertRaises(
            ValueError, things.find, cursor_type=kind, timeout=3, timeout_mode="iteration"
        )

    def test_close(self) -> None:
        """Closing in the middle closes the connection and kills the cursor."""
        runner = FakeRunner(cursor_reply([ONE], 7), cursor_reply([TWO], 7, more=True), Deferred())
        cursor = collection(runner).find(cursor_type=CursorType.EXHAUST)
        self.successResultOf(cursor.next_batch())
        self.successResultOf(cursor.next_batch())
        self.successResultOf(cursor.close())
        self.assertEqual(runner.names[-1], "killCursors")

    def test_failure(self) -> None:
        """What came before a failure is read first."""
        runner = FakeRunner(
            cursor_reply([ONE], 7),
            cursor_reply([TWO], 7, more=True),
            OperationFailure("no", 5),
        )
        cursor = collection(runner).find(cursor_type=CursorType.EXHAUST)
        for expected in (ONE, TWO):
            self.assertEqual(self.successResultOf(cursor.next()), expected)
        self.failureResultOf(cursor.next(), OperationFailure)
        self.assertEqual(runner.names[-1], "killCursors")


class TimeoutTests(SynchronousTestCase):
    """
    Client-side operation timeouts of cursors.
    """

    def read(self, runner: FakeRunner, **options: Any) -> list[Command[Any]]:
        """The commands of a cursor with two seconds between its batches."""
        cursor = collection(runner).find(**options)
        while cursor.alive:
            self.successResultOf(cursor.next_batch())
            runner.clock.advance(2)
        return runner.commands

    def replies(self) -> FakeRunner:
        """A runner with a cursor of three batches."""
        return FakeRunner(
            cursor_reply([ONE], 7),
            cursor_reply([TWO], 7, more=True),
            cursor_reply([THREE], more=True),
        )

    def test_lifetime(self) -> None:
        """A plain cursor's commands share one deadline, and only the first tells the server."""
        for mode in (None, "cursorLifetime", TimeoutMode.CURSOR_LIFETIME):
            commands = self.read(self.replies(), timeout=9, timeout_mode=mode)
            self.assertEqual([command.deadline for command in commands], [9, 9, 9])
            told = [command.sends_max_time for command in commands]
            self.assertEqual(told, [True, False, False])

    def test_iteration(self) -> None:
        """By iteration each has its own, and none tells the server."""
        commands = self.read(self.replies(), timeout=9, timeout_mode="iteration")
        self.assertEqual([command.deadline for command in commands], [9, 11, 13])
        self.assertEqual([command.sends_max_time for command in commands], [False] * 3)

    def test_no_timeout(self) -> None:
        """Without a timeout there is no deadline."""
        commands = self.read(self.replies())
        self.assertEqual([command.deadline for command in commands], [None] * 3)

    def test_tailable(self) -> None:
        """A tailable cursor's is by iteration; the server is told where it waits for data."""
        for kind, told in ((CursorType.TAILABLE, False), (CursorType.TAILABLE_AWAIT, True)):
            commands = self.read(self.replies(), timeout=9, cursor_type=kind)
            self.assertEqual([command.deadline for command in commands], [9, 11, 13])
            self.assertEqual([command.sends_max_time for command in commands], [told, False, False])

    def test_await_time(self) -> None:
        """The server waits no longer than there is time."""
        runner = FakeRunner(
            cursor_reply([ONE], 7),
            cursor_reply([], 7, more=True),
            Deferred(),
        )
        things = collection(runner)
        cursor = things.find(
            cursor_type=CursorType.TAILABLE_AWAIT, timeout=1, max_await_time_ms=700
        )
        self.successResultOf(cursor.next_batch())
        later: Deferred[dict[str, Any]] = Deferred()
        runner.replies.appendleft(later)
        cursor.next()
        runner.clock.advance(0.6)
        later.callback(cursor_reply([], 7, more=True))
        limits = [body.get("maxTimeMS") for body in runner.bodies]
        self.assertEqual(limits[:3], [None, 700, 400])

    def test_close(self) -> None:
        """Telling the server that it ends has the whole time again, or its own."""
        for given, expected in ((None, 9), (3, 3)):
            runner = FakeRunner(cursor_reply([ONE], 7))
            cursor = collection(runner).find(timeout=9)
            self.successResultOf(cursor.next_batch())
            self.successResultOf(cursor.close(timeout=given))
            self.assertIsNone(runner.commands[1].deadline)
            self.assertEqual(runner.commands[1].options.timeout, expected)

    def test_refused(self) -> None:
        """Modes and waits that do not suit the timeout are errors before anything is sent."""
        runner = FakeRunner()
        things = collection(runner)
        tail: dict[str, Any] = {"cursor_type": CursorType.TAILABLE_AWAIT}
        for options in (
            {"timeout_mode": "iteration"},
            {"timeout_mode": "forever", "timeout": 1},
            {"timeout_mode": "cursorLifetime", "timeout": 1, **tail},
            {"max_await_time_ms": 1000, "timeout": 1, **tail},
            {"max_await_time_ms": -1, **tail},
        ):
            self.assertRaises(ValueError, things.find, **options)
        self.assertRaises(TypeError, things.find, max_await_time_ms="1", **tail)
        for options in (
            {"timeout_mode": "iteration", "timeout": 1},
            {"max_await_time_ms": 1000, "timeout": 1},
        ):
            self.assertRaises(ValueError, things.aggregate, [{"$out": "x"}], **options)
        cursor = things.find(timeout=1, **tail)
        self.assertRaises(ValueError, cursor.max_await_time_ms, 1000)
        self.assertEqual(runner.commands, [])

    def test_unlimited(self) -> None:
        """A timeout of 0 lifts the limit, and allows any wait and mode."""
        runner = FakeRunner(cursor_reply([ONE], 7), cursor_reply([], more=True))
        cursor = collection(runner).find(
            cursor_type=CursorType.TAILABLE_AWAIT,
            timeout=0,
            max_await_time_ms=1000,
            timeout_mode="iteration",
        )
        self.successResultOf(cursor.next_batch())
        self.successResultOf(cursor.next_batch())
        self.assertEqual(runner.bodies[1]["maxTimeMS"], 1000)
        self.assertEqual(runner.commands[1].deadline, math.inf)


class FlagTests(SynchronousTestCase):
    """
    Options as the flags of older messages, and slices.
    """

    def cursor(self) -> Cursor[dict[str, Any]]:
        """One that has not started."""
        self.runner = FakeRunner(cursor_reply([]))
        return Cursor(self.runner, "db", "things", CommandOptions(), {}, {})

    def sent(self, cursor: Cursor[dict[str, Any]]) -> dict[str, Any]:
        """What it sends."""
        self.successResultOf(cursor.next_batch())
        return self.runner.bodies[0]

    def test_flags(self) -> None:
        """Each flag is an option of the command; unset again, it is none."""
        cursor = self.cursor().add_option(2 | 8 | 16 | 32 | 128)
        body = self.sent(cursor)
        for name in ("tailable", "awaitData", "noCursorTimeout", "allowPartialResults"):
            self.assertIs(body[name], True)
        cursor = self.cursor().add_option(16 | 64).remove_option(16 | 64)
        self.assertEqual(self.sent(cursor), {"find": "things", "filter": {}})
        with self.assertRaises(TypeError):
            self.cursor().add_option("2")  # type: ignore[arg-type]
        with self.assertRaises(InvalidOperation):
            cursor.add_option(2)

    def test_slices(self) -> None:
        """A slice is skip and limit; one document must be awaited."""
        body = self.sent(self.cursor()[5:8])
        self.assertEqual((body["skip"], body["limit"]), (5, 3))
        self.assertNotIn("limit", self.sent(self.cursor()[5:]))
        for wrong in (slice(-1, 2), slice(3, 3), slice(0, 9, 2)):
            with self.assertRaises(IndexError):
                self.cursor()[wrong]
        with self.assertRaises(TypeError):
            self.cursor()[5]  # type: ignore[index]

    def test_copies(self) -> None:
        """C{copy} gives what C{clone} does."""
        cursor = self.cursor().limit(3)
        self.sent(cursor)
        for copied in (copy.copy(cursor), copy.deepcopy(cursor)):
            self.assertIsNone(copied.cursor_id)
            self.assertEqual(copied._limit, 3)

    def test_command_batch_size(self) -> None:
        """A command's cursor takes a batch size for what is still to come."""
        runner = FakeRunner(cursor_reply([{}], 5), cursor_reply([{}], more=True))
        cursor = Database(runner, "db")["things"].aggregate([])
        self.successResultOf(cursor.next_batch())
        self.assertIs(cursor.batch_size(7), cursor)
        self.successResultOf(cursor.next_batch())
        self.assertEqual(runner.bodies[1]["batchSize"], 7)
        with self.assertRaises(TypeError):
            cursor.batch_size("7")  # type: ignore[arg-type]
        with self.assertRaises(ValueError):
            cursor.batch_size(-1)
