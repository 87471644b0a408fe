"""
OP_QUERY and its kin on a real server.  The newest that understands them is
5.0, which knows OP_MSG too, so that it is taken for an older one.
"""

from __future__ import annotations

from typing import Any

from pymongo import CursorType, InsertOne, UpdateOne
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.deployments import server_version
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
)
from txmongokit.testing import Credentials, Deployment, replica_set, standalone

# 3.0 has messages for cursors, 3.4 has commands for everything.
LIMITS = (3, 4, 5)


class OldServerCase(TestCase):
    """A server, and clients that take it for an older one."""

    timeout = 120

    async def deploy(self, deploy: Any, **options: Any) -> Deployment:
        """Start servers, unless they are too new."""
        deployment: Deployment = await deferToThread(deploy, **options)
        self.addCleanup(deployment.close)
        version = await deferToThread(server_version, deployment)
        if version >= (5, 1):
            raise SkipTest(
                f"MongoDB {version[0]}.{version[1]} understands no OP_QUERY: set MONGOD to 4.4 or "
                "5.0"
            )
        return deployment

    def client(self, uri: str, limit: int, **options: Any) -> ConnectionPool:
        """A client."""
        pool = ConnectionPool(uri, serverSelectionTimeoutMS=10000, **options)
        pool._connector.wire_version_limit = limit
        self.addCleanup(pool.disconnect)
        return pool


class StandaloneTests(OldServerCase):
    """One server that demands a log-in."""

    def test_everything(self) -> Deferred[None]:
        """Operations of all kinds."""
        return Deferred.fromCoroutine(self.everything())

    async def everything(self) -> None:
        """See L{test_everything}."""
        deployment = await self.deploy(standalone, auth=Credentials())
        wrong = deployment.uri.replace("secret", "wrong")
        for limit in LIMITS:
            pool = self.client(deployment.uri, limit)
            things = pool[f"db{limit}"]["things"]
            await self.writing(things)
            await self.reading(things)
            await self.cursors(pool, things)
            await self.definitions(things)
            await self.errors(pool, things)
            with self.assertRaises(OperationFailure) as refused:
                await self.client(wrong, limit)["db"]["things"].find_one()
            self.assertEqual(refused.exception.code, 18)
            # Nothing of all this went by OP_MSG.
            self.assertEqual(await self.op_msg_connections(pool), 0)

    async def op_msg_connections(self, pool: ConnectionPool) -> int:
        """How many of the client's connections go by OP_MSG."""
        (server,) = pool._topology._servers.values()
        idle = server.pool._idle
        self.assertTrue(idle)
        return sum(not hasattr(each.protocol.exchange, "wire_version") for each in idle)

    async def writing(self, things: Any) -> None:
        """Inserts, updates, deletions, in bulk and without an answer."""
        await things.insert_many([{"_id": n, "a": n % 7, "pad": "x" * 200} for n in range(3000)])
        self.assertEqual(
            (await things.update_many({"a": 3}, {"$set": {"b": 1}})).matched_count, 429
        )
        self.assertEqual((await things.delete_many({"a": 4})).deleted_count, 428)
        result = await things.update_one({"_id": "new"}, {"$set": {"c": 1}}, upsert=True)
        self.assertEqual(result.upserted_id, "new")
        after = await things.find_one_and_update(
            {"_id": "new"}, {"$inc": {"c": 1}}, return_document=True
        )
        self.assertEqual(after["c"], 2)
        await things.delete_one({"_id": "new"})
        bulk = await things.bulk_write([InsertOne({"_id": -1}), UpdateOne({}, {"$set": {"d": 1}})])
        self.assertEqual((bulk.inserted_count, bulk.modified_count), (1, 1))
        await things.delete_one({"_id": -1})
        quiet = things.with_options(write_concern=WriteConcern(w=0))
        for number in range(20):
            await quiet.insert_one({"_id": 10_000 + number})
        while await things.count_documents({"_id": {"$gte": 10_000}}) < 20:
            pass
        await quiet.delete_many({"_id": {"$gte": 10_000}})
        big = [{"_id": f"big {number}", "x": "y" * 6_000_000} for number in range(4)]
        self.assertEqual(len((await things.insert_many(big)).inserted_ids), 4)
        self.assertEqual(len(await things.find({"_id": {"$regex": "^big"}})), 4)
        await things.delete_many({"_id": {"$regex": "^big"}})

    async def reading(self, things: Any) -> None:
        """Finds with their options, aggregation, counts."""
        self.assertEqual(await things.count_documents({}), 2572)
        self.assertEqual(await things.estimated_document_count(), 2572)
        self.assertEqual(
            sorted(await things.distinct("a", {"_id": {"$gte": 0}})), [0, 1, 2, 3, 5, 6]
        )
        one = await things.find_one({"a": 3}, ["b"], sort=[("_id", -1)])
        self.assertEqual(one, {"_id": 2999, "b": 1})
        self.assertIsNone(await things.find_one({"query": 1}))
        found = await things.find(
            {"_id": {"$lt": 50}},
            {"_id": 1},
            skip=2,
            limit=3,
            sort=[("_id", 1)],
            hint="_id_",
            comment="why",
            max_time_ms=5000,
        )
        self.assertEqual([each["_id"] for each in found], [2, 3, 5])
        bounds = things.find({}, {"_id": 1}, hint="_id_").min([("_id", 10)]).max([("_id", 13)])
        self.assertEqual([each["_id"] for each in await bounds], [10, 12])
        groups = await things.aggregate([{"$group": {"_id": "$a", "n": {"$sum": 1}}}])
        self.assertEqual(sum(each["n"] for each in groups), 2572)
        plan = await things.find({"_id": 1}, max_time_ms=5000).explain()
        self.assertIn("winningPlan", plan["queryPlanner"])

    async def cursors(self, pool: ConnectionPool, things: Any) -> None:
        """Many batches, limits, tailing, exhaust, and cursors that are given up."""
        self.assertEqual(len(await things.find({}, batch_size=100)), 2572)
        for limit, size in (
            (1, 0),
            (2, 1),
            (3, 1),
            (7, 7),
            (7, 3),
            (0, 1),
            (5, 5),
            (-5, 0),
            (-1, 3),
        ):
            found = await things.find({"_id": {"$lt": 20}}, limit=limit, batch_size=size)
            self.assertEqual(len(found), min(abs(limit) or 17, 17), (limit, size))
        self.assertEqual(len(await things.find({}, cursor_type=CursorType.EXHAUST)), 2572)
        everything = things.aggregate([{"$match": {}}], batchSize=10)
        self.assertEqual(len(await everything.next_batch()), 10)
        self.assertEqual(len(await everything), 2562)
        opened = things.find({}, batch_size=10)
        before = await self.open_cursors(pool)
        await opened.next()
        self.assertEqual(await self.open_cursors(pool), before + 1)
        await opened.close()
        self.assertEqual(await self.open_cursors(pool), before)
        log = await pool[things.database.name].create_collection("log", capped=True, size=100_000)
        await log.insert_many([{"_id": number} for number in range(3)])
        tail = log.find({}, cursor_type=CursorType.TAILABLE_AWAIT)
        self.assertEqual(len(await tail.next_batch()), 3)
        waiting = tail.next()
        await log.insert_one({"_id": 3})
        self.assertEqual((await waiting)["_id"], 3)
        await tail.close()

    async def open_cursors(self, pool: ConnectionPool) -> int:
        """How many the server has."""
        status = await pool["admin"].command("serverStatus")
        count: int = status["metrics"]["cursor"]["open"]["total"]
        return count

    async def definitions(self, things: Any) -> None:
        """Collections and indexes."""
        self.assertEqual(await things.create_index([("a", 1), ("b", -1)], unique=False), "a_1_b_-1")
        self.assertEqual(set(await things.index_information()), {"_id_", "a_1_b_-1"})
        await things.drop_index("a_1_b_-1")
        names = await things.database.list_collection_names()
        self.assertEqual(set(names), {"things", "log"})
        await things.database["log"].drop()

    async def errors(self, pool: ConnectionPool, things: Any) -> None:
        """What goes wrong is told as ever."""
        with self.assertRaises(OperationFailure):
            await things.find_one({"$bad": 1})
        with self.assertRaises(DuplicateKeyError):
            await things.insert_one({"_id": 0})
        with self.assertRaises(BulkWriteError) as bulk:
            await things.insert_many([{"_id": "fresh"}, {"_id": 0}], ordered=False)
        self.assertEqual(bulk.exception.details["nInserted"], 1)
        with self.assertRaises(ExecutionTimeout):
            await things.find_one({"$where": "sleep(200) || true"}, max_time_ms=20)
        for refused in (
            things.update_one({}, {"$set": {"x.$[y]": 1}}, array_filters=[{"y": 1}]),
            things.watch().next(),
            things.find_one({}, session=pool.start_session()),
        ):
            with self.assertRaises(ConfigurationError):
                await refused


class ReplicaSetTests(OldServerCase):
    """A set, where reading from secondaries must be meant."""

    def test_set(self) -> Deferred[None]:
        """Secondaries are read from, elections are noticed."""
        return Deferred.fromCoroutine(self.members())

    async def members(self) -> None:
        """See L{test_set}."""
        deployment = await self.deploy(replica_set, members=2)
        for limit in LIMITS:
            pool = self.client(deployment.uri, limit, w=2)
            things = pool["db"][f"things{limit}"]
            await things.insert_many([{"_id": number} for number in range(300)])
            secondary = things.with_options(read_preference=ReadPreference.SECONDARY)
            cursor = secondary.find({}, batch_size=100)
            self.assertEqual(len(await cursor), 300)
            primary = (await deferToThread(deployment.primary)).port
            assert cursor.address is not None
            self.assertNotEqual(cursor.address[1], primary)
            self.assertEqual(await secondary.count_documents({}), 300)
            (other,) = (each.port for each in deployment.members if each.port != primary)
            direct = self.client(f"127.0.0.1:{other}", limit, directConnection=True)
            self.assertEqual(len(await direct["db"][f"things{limit}"].find({})), 300)
            with self.assertRaises(ConfigurationError):
                async with pool.start_session() as session, session.start_transaction():
                    await things.insert_one({}, session=session)
