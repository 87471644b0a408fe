"""
Operations of every kind on a real server.
"""

from __future__ import annotations

import warnings
from typing import Any

from bson.dbref import DBRef
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteMany, InsertOne, UpdateOne
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.deployments import server_version
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    BulkWriteError,
    CollectionInvalid,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)
from txmongokit.testing import replica_set


class OperationTests(TestCase):
    """
    One replica set, every operation.
    """

    timeout = 60

    def setUp(self) -> None:
        """Start a set and a client."""
        deployment = replica_set(1)
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        self.version = server_version(deployment)
        self.pool = ConnectionPool(deployment.uri)
        self.addCleanup(self.pool.disconnect)
        self.things = self.pool["db"]["things"]

    def run_it(self, coroutine: Any) -> Deferred[None]:
        """A coroutine as trial wants it."""
        return Deferred.fromCoroutine(coroutine)

    def test_reading(self) -> Deferred[None]:
        """Counts, distinct values, mapReduce, pipelines that write."""
        return self.run_it(self.reading())

    async def reading(self) -> None:
        """See L{test_reading}."""
        things = self.things
        await things.insert_many([{"_id": number, "a": number % 3} for number in range(30)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.assertEqual(await things.count({"a": 1}, hint="_id_", skip=1), 9)
            summed = await things.map_reduce(
                "function () { emit(this.a, 1); }",
                "function (key, values) { return Array.sum(values); }",
            )
        self.assertEqual(sorted(each["value"] for each in summed), [10, 10, 10])
        # Count knows comments of any type since 5.0.
        comment = {"why": 1} if self.version >= (5, 0) else None
        self.assertEqual(await things.estimated_document_count(comment=comment), 30)
        self.assertEqual(await things.count_documents({}, limit=7, raw_data=True), 7)
        self.assertEqual(sorted(await things.distinct("a", {"a": {"$gt": 0}})), [1, 2])
        nearby = things.with_options(read_preference=ReadPreference.NEAREST)
        self.assertEqual(await nearby.aggregate([{"$match": {"a": 1}}, {"$out": "ones"}]), [])
        self.assertEqual(await self.pool["db"]["ones"].count_documents({}), 10)
        reference = DBRef("things", 4)
        self.assertEqual(await self.pool["db"].dereference(reference), {"_id": 4, "a": 1})

    def test_definitions(self) -> Deferred[None]:
        """Collections, views, time series and indexes come, change and go."""
        return self.run_it(self.definitions())

    async def definitions(self) -> None:
        """See L{test_definitions}."""
        db = self.pool["db"]
        await db.create_collection("log", capped=True, size=4096, max=3)
        with self.assertRaises(CollectionInvalid):
            await db.create_collection("log", check_exists=True)
        await db.create_collection("view", viewOn="log", pipeline=[{"$project": {"a": 1}}])
        newer: dict[tuple[int, int], dict[str, dict[str, Any]]] = {
            (5, 0): {"weather": {"timeseries": {"timeField": "t"}, "expireAfterSeconds": 90}},
            (6, 0): {
                "clustered": {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
                "images": {"changeStreamPreAndPostImages": {"enabled": True}},
            },
        }
        made = {"log", "view"}
        for since, collections in newer.items():
            for name, options in collections.items():
                if self.version >= since:
                    await db.create_collection(name, **options)
                    made.add(name)
                else:
                    # An option that the server does not know reaches it.
                    with self.assertRaises(OperationFailure):
                        await db.create_collection(name, **options)
        self.assertLessEqual(made, set(await db.list_collection_names()))
        self.assertIs((await db.log.options())["capped"], True)
        if "weather" in made:
            await db.modify_collection("weather", expireAfterSeconds=60)
        self.assertTrue((await db.validate_collection("log"))["valid"])
        self.assertEqual(await db["nothing"].list_indexes(), [])
        names = await self.things.create_index("a", unique=True, commit_quorum=1, maxTimeMS=5000)
        self.assertEqual(names, "a_1")
        self.assertIs((await self.things.index_information())["a_1"]["unique"], True)
        await self.things.drop_index("a_1")
        with self.assertRaises(OperationFailure):
            await self.things.drop_index("a_1")
        await self.things.rename("others", dropTarget=True)
        self.assertIn("db", await self.pool.list_database_names())
        self.assertEqual(len(await self.pool.list_databases(filter={"name": "db"})), 1)
        await self.pool.drop_database("db")
        self.assertNotIn("db", await self.pool.list_database_names())
        self.assertIn("version", await self.pool.server_info())

    def test_writing(self) -> Deferred[None]:
        """Writes with all options, acknowledged or not, up to a deadline."""
        return self.run_it(self.writing())

    async def writing(self) -> None:
        """See L{test_writing}."""
        things = self.things
        await things.insert_one(RawBSONDocument(bytes.fromhex("0e000000105f6964000100000000")))
        newer: dict[str, Any] = {"let": {"x": 5}} if self.version >= (5, 0) else {}
        await things.update_one(
            {"_id": 1},
            [{"$set": {"a": "$$x" if newer else 5}}],
            hint="_id_",
            comment=["any", "type"],
            bypass_document_validation=True,
            **newer,
        )
        after = await things.find_one_and_update(
            {"_id": 1}, {"$inc": {"a": 1}}, ["a"], return_document=True, max_time_ms=5000
        )
        self.assertEqual(after, {"_id": 1, "a": 6})
        quiet = things.with_options(write_concern=WriteConcern(w=0))
        results = [
            await quiet.insert_one({"_id": 2}),
            await quiet.insert_many([{"_id": 3}]),
            await quiet.bulk_write([InsertOne({"_id": 4}), DeleteMany({"_id": 9})]),
            await quiet.update_one({"_id": 1}, {"$set": {"b": 1}}, hint="_id_"),
        ]
        self.assertEqual([result.acknowledged for result in results], [False] * 4)
        while await things.count_documents({}) < 4:
            pass
        with self.assertRaises(BulkWriteError) as caught:
            await things.bulk_write([UpdateOne({}, {"$set": {"c": 1}}), InsertOne({"_id": 1})])
        self.assertEqual(caught.exception.details["nModified"], 1)
        with self.assertRaises(InvalidOperation):
            await self.pool.bulk_write([InsertOne({}, namespace="db.things")])
        now = self.pool.seconds()
        for late in (
            things.find_one({"$where": "sleep(2000) || true"}, deadline=now + 0.3),
            things.insert_many([{}], deadline=now),
        ):
            with self.assertRaises(PyMongoError) as timed_out:
                await late
            self.assertTrue(timed_out.exception.timeout)
        self.assertIsNotNone(await things.find_one(1, deadline=self.pool.seconds() + 10))
