"""
Tests for L{txmongokit.cursor}.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bson
from pymongo import CursorType
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.fakes import ADDRESS, FakeRunner, cursor_reply
from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import CursorNotFound, InvalidOperation
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
