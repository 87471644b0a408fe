"""
A client on real servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import bson
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.cursor import CursorType
from pymongo.write_concern import WriteConcern
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.deployments import server_version
from txmongokit.connection import ConnectionPool
from txmongokit.errors import BulkWriteError, ServerSelectionTimeoutError
from txmongokit.testing import Deployment, replica_set, standalone


class ClientTestCase(TestCase):
    """A deployment and clients of it."""

    timeout = 90
    start: Callable[[], Deployment]

    def setUp(self) -> None:
        """Start the deployment."""
        self.deployment = type(self).start()
        self.addCleanup(self.deployment.close)
        self.pool = self.client()

    def client(self, **options: Any) -> ConnectionPool:
        """A client that is disconnected afterwards."""
        pool = ConnectionPool(self.deployment.uri, **options)
        self.addCleanup(pool.disconnect)
        return pool


class StandaloneTests(ClientTestCase):
    """What one server is enough for."""

    start = staticmethod(standalone)

    def test_documents(self) -> Deferred[None]:
        """Documents are written, read in every way, counted and deleted."""
        return Deferred.fromCoroutine(self.documents())

    async def documents(self) -> None:
        """See L{test_documents}."""
        things = self.pool["db"]["things"]
        self.assertEqual((await things.insert_one({"_id": 0, "a": 0})).inserted_id, 0)
        await things.insert_many([{"_id": n, "a": n % 5} for n in range(1, 500)])
        self.assertEqual(await things.find_one({"_id": 7}), {"_id": 7, "a": 2})
        seen = [document["_id"] async for document in things.find().sort("_id", 1).batch_size(70)]
        self.assertEqual(seen, list(range(500)))
        self.assertEqual(len(await things.find({"a": 1})), 100)
        self.assertEqual(await self.generated(), 100)
        raw = b"".join(await things.find_raw_batches({"a": 3}, batch_size=30))
        self.assertEqual(bson.decode_all(raw), await things.find({"a": 3}))
        groups = await things.aggregate(
            [{"$group": {"_id": "$a", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}]
        )
        self.assertEqual(groups, [{"_id": a, "n": 100} for a in range(5)])
        self.assertEqual(sorted(await things.distinct("a")), [0, 1, 2, 3, 4])
        self.assertEqual(await things.count_documents({"a": {"$lt": 2}}), 200)
        self.assertEqual(await things.estimated_document_count(), 500)
        result = await things.bulk_write(
            [InsertOne({"_id": "x"}), UpdateOne({"_id": 1}, {"$inc": {"a": 1}}), DeleteOne({})]
        )
        self.assertEqual(
            (result.inserted_count, result.modified_count, result.deleted_count), (1, 1, 1)
        )
        with self.assertRaises(BulkWriteError):
            await things.insert_many([{"_id": "x"}, {"_id": "y"}])
        self.assertEqual((await things.update_many({}, {"$set": {"b": 1}})).modified_count, 500)
        await things.create_index("b", name="by_b")
        self.assertIn("by_b", await things.index_information())
        self.assertEqual((await things.delete_many({"b": 1})).deleted_count, 500)

    @inlineCallbacks
    def generated(self) -> Any:
        """How many documents a generator of Deferreds finds."""
        documents = yield self.pool["db"]["things"].find({"a": 4}).deferred()
        return len(documents)

    def test_tailing(self) -> Deferred[None]:
        """A cursor that waits on a capped collection sees what comes later."""
        return Deferred.fromCoroutine(self.tailing())

    async def tailing(self) -> None:
        """See L{test_tailing}."""
        await self.pool["db"].create_collection("log", capped=True, size=100_000)
        log = self.pool["db"]["log"]
        await log.insert_one({"_id": 1})
        cursor = log.find(cursor_type=CursorType.TAILABLE_AWAIT, max_await_time_ms=5000)
        self.assertEqual(await cursor.next_batch(), [{"_id": 1}])
        waiting = cursor.next_batch()
        await log.insert_one({"_id": 2})
        self.assertEqual(await waiting, [{"_id": 2}])
        self.assertTrue(cursor.alive)
        await cursor.close()

    def test_compressors(self) -> Deferred[None]:
        """Each compressor carries large and small messages both ways."""
        return Deferred.fromCoroutine(self.compressors())

    async def compressors(self) -> None:
        """See L{test_compressors}."""
        for name in ("snappy", "zlib", "zstd"):
            things = self.client(compressors=name)["db"][name]
            await things.insert_many([{"_id": n, "text": "again " * 2000} for n in range(50)])
            self.assertEqual(len(await things.find()), 50)
            self.assertEqual(await things.find_one({"_id": 9}, {"text": 0}), {"_id": 9})
        with self.deployment.client() as client:
            traffic = client["admin"].command("serverStatus")["network"]["compression"]
        for name in ("snappy", "zlib", "zstd"):
            # What arrives compressed is smaller than what it stands for.
            counts = traffic[name]["decompressor"]
            self.assertLess(0, counts["bytesIn"])
            self.assertLess(counts["bytesIn"], counts["bytesOut"])

    def test_refused(self) -> Deferred[None]:
        """A port where nobody listens is an error within the time for selection."""
        return Deferred.fromCoroutine(self.refused())

    async def refused(self) -> None:
        """See L{test_refused}."""
        self.deployment.members[0].kill()
        begun = time.monotonic()
        with self.assertRaises(ServerSelectionTimeoutError) as caught:
            await self.client(serverSelectionTimeoutMS=300)["db"]["things"].find_one()
        self.assertLess(time.monotonic() - begun, 3.0)
        self.assertIn("refused", str(caught.exception))
        self.assertIn(str(self.deployment.members[0].port), str(caught.exception))

    def test_together(self) -> Deferred[None]:
        """Many operations at once share the pool, and disconnecting ends those under way."""
        return Deferred.fromCoroutine(self.together())

    async def together(self) -> None:
        """See L{test_together}."""
        pool = ConnectionPool(self.deployment.uri, 3)
        things = pool["db"]["many"]
        await gatherResults([things.insert_one({"_id": n}) for n in range(200)])
        found = await gatherResults([things.find_one({"_id": n}) for n in range(200)])
        self.assertEqual([document and document["_id"] for document in found], list(range(200)))
        slow = pool["db"]["many"].find_one({"$where": "sleep(60000) || true"})
        slow.addErrback(lambda failure: type(failure.value).__name__)
        await deferLater(reactor, 0.05)
        await pool.disconnect()
        self.assertEqual(await slow, "AutoReconnect")


class FailoverTests(ClientTestCase):
    """A set of three that loses its primary."""

    start = staticmethod(lambda: replica_set(3))

    def test_failover(self) -> Deferred[None]:
        """
        A step-down and a crash of the primary under load reach no caller,
        and every write is there exactly once.
        """
        return Deferred.fromCoroutine(self.failover())

    async def failover(self) -> None:
        """See L{test_failover}."""
        # What one member alone has is gone with it; 4.4 asks for no more by itself.
        things = self.pool["db"].get_collection("things", write_concern=WriteConcern("majority"))
        await things.insert_one({"_id": "first"})
        self.going = True
        # A primary of 4.4 that steps down says for a moment that it still is one: both tries of
        # an operation may meet it.  With a time limit there are as many as it takes.
        old = server_version(self.deployment) < (5,)
        self.options: dict[str, Any] = {"timeout": 30.0} if old else {}
        workers = [Deferred.fromCoroutine(self.work(things, n)) for n in range(4)]
        await deferLater(reactor, 0.3)
        await deferToThread(self.deployment.step_down)
        # An operation has two tries: the next fault waits for those of the first.
        await things.insert_one({"_id": "second"})
        await deferLater(reactor, 1.0)
        primary = await deferToThread(self.deployment.primary)
        await deferToThread(primary.kill)
        await deferToThread(self.deployment.primary)
        await deferLater(reactor, 0.5)
        self.going = False
        written = sum(await gatherResults(workers, consumeErrors=True))
        self.assertGreater(written, 20)
        self.assertEqual(await things.count_documents({}), written + 2)

    async def work(self, things: Any, worker: int) -> int:
        """Write and read until told to stop; how much was written."""
        count = 0
        while self.going:
            await things.insert_one({"_id": f"{worker}-{count}"}, **self.options)
            count += 1
            assert await things.find_one("first", **self.options) is not None
        return count


class TransactionTests(ClientTestCase):
    """Transactions on a set of one."""

    start = staticmethod(lambda: replica_set(1))

    def test_transactions(self) -> Deferred[None]:
        """What is committed stays, what is aborted goes, and reads follow writes."""
        return Deferred.fromCoroutine(self.transactions())

    async def transactions(self) -> None:
        """See L{test_transactions}."""
        things = self.pool["db"]["things"]
        await things.insert_one({"_id": "before"})
        async with self.pool.start_session() as session:
            session.start_transaction()
            await things.insert_one({"_id": "kept"}, session=session)
            self.assertIsNone(await things.find_one("kept"))
            self.assertIsNotNone(await things.find_one("kept", session=session))
            await session.commit_transaction()
            session.start_transaction()
            await things.insert_one({"_id": "gone"}, session=session)
            await session.abort_transaction()

            async def failing() -> None:
                async with session.start_transaction():
                    await things.insert_one({"_id": "gone"}, session=session)
                    raise ZeroDivisionError

            await self.assertFailure(Deferred.fromCoroutine(failing()), ZeroDivisionError)
            ids = [document["_id"] for document in await things.find(session=session)]
            self.assertEqual(ids, ["before", "kept"])
            self.assertIsNotNone(session.operation_time)
