"""
Collections, cursors and transactions on a real server.
"""

from __future__ import annotations

from pymongo import InsertOne, UpdateOne
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import DuplicateKeyError
from txmongokit.testing import replica_set


class CollectionTests(TestCase):
    """
    One replica set, one collection.
    """

    timeout = 60

    def setUp(self) -> None:
        """Start a set and a client."""
        deployment = replica_set(1)
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        self.pool = ConnectionPool(deployment.uri)
        self.addCleanup(self.pool.disconnect)

    def test_life(self) -> Deferred[None]:
        """Documents are written, read in batches, changed within a transaction, dropped."""
        return Deferred.fromCoroutine(self.life())

    async def life(self) -> None:
        """See L{test_life}."""
        things = self.pool["db"]["things"]
        await things.insert_many([{"_id": number, "a": number % 3} for number in range(250)])
        self.assertEqual(len(await things.find().batch_size(100)), 250)
        self.assertEqual(len(await things.find_raw_batches(batch_size=60)), 250)
        self.assertEqual(await things.count_documents({"a": 1}), 83)
        with self.assertRaises(DuplicateKeyError):
            await things.insert_one({"_id": 1})
        change = UpdateOne({"_id": 1}, {"$set": {"a": 9}}, hint="_id_")
        result = await things.bulk_write([InsertOne({"x": 1}), change])
        self.assertEqual((result.inserted_count, result.modified_count), (1, 1))
        async with self.pool.start_session() as session:
            async with session.start_transaction():
                await things.insert_one({"_id": "t"}, session=session)
                self.assertIsNone(await things.find_one("t"))
            self.assertEqual(await things.find_one("t"), {"_id": "t"})
        await things.create_index("a")
        self.assertEqual(set(await things.index_information()), {"_id_", "a_1"})
        await things.drop()
        self.assertEqual(await self.pool["db"].list_collection_names(), [])
