"""
Cursors and change streams on real servers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from pymongo import CursorType
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import CursorNotFound, InvalidOperation, OperationFailure, PyMongoError
from txmongokit.testing import Deployment, replica_set

SIZE = 200


class CursorCase(TestCase):
    """A replica set of one member that takes fail points, and a client."""

    timeout = 90

    def setUp(self) -> None:
        """Start them."""
        self.deployment: Deployment = replica_set(1, parameters={"enableTestCommands": "1"})
        self.addCleanup(self.deployment.close)
        with self.deployment.client() as client:
            client["db"].create_collection("things")
        self.pool = self.client()
        self.things = self.pool["db"]["things"]

    def client(self, **options: Any) -> ConnectionPool:
        """A client that is disconnected afterwards."""
        pool = ConnectionPool(self.deployment.uri, **options)
        self.addCleanup(pool.disconnect)
        return pool

    async def fill(self) -> None:
        """As many documents as C{SIZE}."""
        await self.things.insert_many([{"_id": n, "a": n % 5} for n in range(SIZE)])

    async def open_cursors(self) -> int:
        """How many the server holds."""
        status = await self.pool["admin"].command("serverStatus")
        return int(status["metrics"]["cursor"]["open"]["total"])

    async def no_open_cursors(self) -> None:
        """Wait until the server holds none."""
        for _ in range(100):
            if not await self.open_cursors():
                return
            await deferLater(reactor, 0.05)
        self.fail("the server still holds cursors")

    async def kill_idle_cursors(self) -> None:
        """Have the server lose them all."""
        admin = self.pool["admin"]
        for found in await admin.aggregate([{"$currentOp": {"idleCursors": True}}]):
            if found["type"] == "idleCursor":
                identifier = found["cursor"]["cursorId"]
                await self.pool["db"].command("killCursors", "things", cursors=[identifier])

    async def fail_point(self, *commands: str, times: int = 1, **data: Any) -> None:
        """Have commands fail."""
        await self.pool["admin"].command(
            "configureFailPoint",
            "failCommand",
            mode={"times": times},
            data={"failCommands": list(commands), **data},
        )


def live(method: Callable[[Any], Any]) -> Callable[[Any], Deferred[None]]:
    """A test that is a coroutine."""

    def test(self: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(method(self))

    test.__doc__ = method.__doc__
    return test


class CursorTests(CursorCase):
    """
    Cursors.
    """

    @live
    async def test_dropped(self) -> None:
        """A cursor that is dropped open is killed, and its session comes back."""
        await self.fill()
        cursor = self.things.find(batch_size=5)
        await cursor.next()
        self.assertEqual(await self.open_cursors(), 1)
        del cursor
        gc.collect()
        await self.no_open_cursors()

    @live
    async def test_broken_off(self) -> None:
        """So is one whose loop is left early, and one of an exhaust stream."""
        await self.fill()
        for kind in (CursorType.NON_TAILABLE, CursorType.EXHAUST):
            async for document in self.things.find(batch_size=5, cursor_type=kind):
                if document["_id"] == 7:
                    break
            gc.collect()
            await self.no_open_cursors()

    @live
    async def test_exhaust(self) -> None:
        """The server streams all batches on one request, in order, also to slow readers."""
        await self.fill()
        before = await self.pool["admin"].command("serverStatus")
        seen = []
        async for document in self.things.find(
            batch_size=20, sort=[("_id", 1)], cursor_type=CursorType.EXHAUST
        ):
            seen.append(document["_id"])
            if len(seen) % 50 == 0:
                await deferLater(reactor, 0.02)
        self.assertEqual(seen, list(range(SIZE)))
        await self.no_open_cursors()
        after = await self.pool["admin"].command("serverStatus")
        streamed = (
            after["metrics"]["commands"]["getMore"]["total"]
            - before["metrics"]["commands"]["getMore"]["total"]
        )
        self.assertGreaterEqual(streamed, SIZE // 20 - 1)

    @live
    async def test_exhaust_closed(self) -> None:
        """Closing an exhaust cursor in the middle leaves nothing behind."""
        await self.fill()
        cursor = self.things.find(batch_size=2, cursor_type=CursorType.EXHAUST)
        for _ in range(7):
            await cursor.next()
        await cursor.close()
        await self.no_open_cursors()
        self.assertEqual(await self.things.count_documents({}), SIZE)

    @live
    async def test_cancelled(self) -> None:
        """A cancelled fetch ends the cursor on the server, too."""
        await self.pool["db"].create_collection("log", capped=True, size=100_000)
        log = self.pool["db"]["log"]
        await log.insert_one({"_id": 1})
        cursor = log.find(cursor_type=CursorType.TAILABLE_AWAIT, max_await_time_ms=1_500)
        await cursor.next()
        waiting = cursor.next()
        await deferLater(reactor, 0.2)
        waiting.cancel()
        waiting.addErrback(lambda failure: None)
        await self.no_open_cursors()
        self.assertFalse(cursor.alive)

    @live
    async def test_tailable_killed(self) -> None:
        """A tailable cursor that the server lost ends quietly; another one in an error."""
        await self.pool["db"].create_collection("log", capped=True, size=100_000)
        await self.pool["db"]["log"].insert_one({"_id": 1})
        await self.fill()
        tail = self.pool["db"]["log"].find(cursor_type=CursorType.TAILABLE)
        self.assertEqual(await tail.next_batch(), [{"_id": 1}])
        plain = self.things.find(batch_size=2)
        await plain.next_batch()
        await self.pool["db"].command("killCursors", "log", cursors=[tail.cursor_id])
        await self.pool["db"].command("killCursors", "things", cursors=[plain.cursor_id])
        self.assertEqual(await tail.next_batch(), [])
        self.assertFalse(tail.alive)
        with self.assertRaises(CursorNotFound):
            await plain.next_batch()

    @live
    async def test_lifetime(self) -> None:
        """The timeout is that of the whole cursor, or of each iteration."""
        await self.fill()
        pool = self.client(timeoutms=400)
        things = pool["db"]["things"]
        await things.find_one()
        blocked = {"blockConnection": True, "blockTimeMS": 250}
        await self.fail_point("find", "getMore", times=2, **blocked)
        with self.assertRaises(PyMongoError) as caught:
            await things.find(batch_size=150)
        self.assertTrue(caught.exception.timeout)
        await self.fail_point("find", "getMore", times=2, **blocked)
        found = await things.find(batch_size=150, timeout_mode="iteration")
        self.assertEqual(len(found), SIZE)
        await self.no_open_cursors()

    @live
    async def test_tailable_timeout(self) -> None:
        """C{next} on a tailable cursor waits over many getMores, until its one deadline."""
        await self.pool["db"].create_collection("log", capped=True, size=100_000)
        log = self.pool["db"]["log"]
        await log.insert_one({"_id": 1})
        cursor = log.find(cursor_type=CursorType.TAILABLE_AWAIT, max_await_time_ms=100, timeout=0.5)
        self.assertEqual(await cursor.next(), {"_id": 1})
        began = time.monotonic()
        with self.assertRaises(PyMongoError) as caught:
            await cursor.next()
        self.assertTrue(caught.exception.timeout)
        self.assertTrue(0.4 < time.monotonic() - began < 1.5)
        await self.no_open_cursors()

    @live
    async def test_query(self) -> None:
        """Explaining, distinct, cloning and rewinding of one query."""
        await self.fill()
        cursor = self.things.find({"a": 3}, limit=10, max_time_ms=5000)
        plan = await cursor.explain()
        self.assertEqual(plan["executionStats"]["nReturned"], 10)
        self.assertEqual(await cursor.distinct("a"), [3])
        first = await cursor.to_list()
        self.assertEqual(await cursor.clone().to_list(), first)
        self.assertIs(await cursor.rewind(), cursor)
        self.assertEqual(await cursor.to_list(), first)
        self.assertEqual(len(first), 10)


class ChangeStreamTests(CursorCase):
    """
    Change streams.
    """

    @live
    async def test_changes(self) -> None:
        """Changes come in order, from collection, database and deployment."""
        for watched in (self.things, self.pool["db"], self.pool):
            async with watched.watch([{"$match": {"ns.coll": "things"}}]) as stream:
                waiting = stream.next()
                await self.things.insert_one({"_id": 1})
                await self.things.delete_one({"_id": 1})
                self.assertEqual((await waiting)["operationType"], "insert")
                self.assertEqual((await stream.next())["operationType"], "delete")
                self.assertIsNone(await stream.try_next())
                self.assertTrue(stream.alive)
        await self.no_open_cursors()

    @live
    async def test_resume_after(self) -> None:
        """A token goes on after its change, and moves on while nothing happens."""
        stream = await self.things.watch(max_await_time_ms=50)
        await self.things.insert_many([{"_id": n} for n in range(5)])
        first = await stream.next()
        token = stream.resume_token
        self.assertEqual(token, first["_id"])
        await stream.close()
        async with self.things.watch(resume_after=token, max_await_time_ms=50) as again:
            seen = [(await again.next())["documentKey"]["_id"] for _ in range(4)]
            self.assertEqual(seen, [1, 2, 3, 4])
            before = again.resume_token
            await self.pool["db"]["other"].insert_one({})
            # Before 5.0 it does not move with the first empty batch.
            for _ in range(100):
                await again.try_next()
                if again.resume_token != before:
                    break
            self.assertNotEqual(again.resume_token, before)

    @live
    async def test_resumes(self) -> None:
        """No change is lost or comes twice over lost cursors, connections and elections."""
        stream = await self.things.watch(max_await_time_ms=100)
        await self.things.insert_one({"_id": 0})
        self.assertEqual((await stream.next())["documentKey"]["_id"], 0)
        label = {"errorLabels": ["ResumableChangeStreamError"]}
        for number, failure in enumerate(
            ({"errorCode": 280, **label}, None, {"closeConnection": True}), 1
        ):
            if failure is not None:
                await self.fail_point("getMore", **failure)
            else:
                await self.kill_idle_cursors()
            await self.things.insert_one({"_id": number})
            self.assertEqual((await stream.next())["documentKey"]["_id"], number)
        await self.fail_point("getMore", times=3, errorCode=280, **label)
        await self.things.insert_one({"_id": 9})
        self.assertEqual((await stream.next())["documentKey"]["_id"], 9)
        await stream.close()
        await self.no_open_cursors()

    @live
    async def test_fatal(self) -> None:
        """Any other error closes the stream."""
        stream = await self.things.watch()
        await self.fail_point("getMore", errorCode=5)
        with self.assertRaises(OperationFailure):
            await stream.next()
        self.assertFalse(stream.alive)
        with self.assertRaises(StopAsyncIteration):
            await stream.next()
        await self.no_open_cursors()

    @live
    async def test_cancelled(self) -> None:
        """A cancelled C{next} loses nothing."""
        stream = await self.things.watch()
        waiting = stream.next()
        await deferLater(reactor, 0.1)
        waiting.cancel()
        waiting.addErrback(lambda failure: None)
        await self.things.insert_one({"_id": 1})
        self.assertEqual((await stream.next())["documentKey"]["_id"], 1)
        await stream.close()

    @live
    async def test_timeout(self) -> None:
        """After a timeout the next call resumes."""
        await self.pool["db"].command("ping")
        stream = await self.things.watch(timeout=1.0)
        with self.assertRaises(PyMongoError) as caught:
            await stream.next()
        self.assertTrue(caught.exception.timeout)
        self.assertTrue(stream.alive)
        await self.things.insert_one({"_id": 1})
        self.assertEqual((await stream.next())["documentKey"]["_id"], 1)
        await stream.close()
        await self.no_open_cursors()

    @live
    async def test_invalidated(self) -> None:
        """Dropping the collection ends the stream after its last events."""
        await self.things.insert_one({})
        async with self.things.watch() as stream:
            await self.things.drop()
            seen = [change["operationType"] async for change in stream]
            self.assertEqual(seen, ["drop", "invalidate"])
            self.assertFalse(stream.alive)
            after = stream.resume_token
        async with self.things.watch(start_after=after) as again:
            await self.things.insert_one({"_id": 1})
            self.assertEqual((await again.next())["operationType"], "insert")

    @live
    async def test_without_token(self) -> None:
        """A pipeline that removes _id is an error, and closes the stream."""
        stream = await self.things.watch([{"$replaceRoot": {"newRoot": {"x": 1}}}])
        await self.things.insert_one({})
        with self.assertRaises((InvalidOperation, OperationFailure)):
            await stream.next()
        self.assertFalse(stream.alive)
        await self.no_open_cursors()

    @live
    async def test_dropped(self) -> None:
        """A stream that is dropped open leaves no cursor behind."""
        stream = await self.things.watch()
        self.assertEqual(await self.open_cursors(), 1)
        del stream
        gc.collect()
        await self.no_open_cursors()
