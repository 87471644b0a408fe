"""
TxMongo's older calls on a real server.
"""

from __future__ import annotations

from typing import Any

from bson.code import Code
from bson.codec_options import CodecOptions
from OpenSSL import SSL
from pymongo.write_concern import WriteConcern
from twisted.internet import ssl
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from tests.deployments import server_version, shared_secure
from txmongokit import filter as qf
from txmongokit import types
from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import DuplicateKeyError, OperationFailure, PyMongoError, TimeExceeded
from txmongokit.testing import standalone


class LegacyTests(TestCase):
    """
    One server, one collection.
    """

    timeout = 60

    def setUp(self) -> None:
        """Start a server and a client."""
        deployment = standalone()
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        self.pool = ConnectionPool(deployment.uri)
        self.addCleanup(self.pool.disconnect)

    @inlineCallbacks
    def test_txmongo_application(self) -> Any:
        """What a TxMongo application of old does still works, with warnings."""
        things = self.pool.db.things
        yield things.insert([{"_id": number, "a": number % 3, "b": 1} for number in range(250)])
        with self.assertRaises(DuplicateKeyError):
            yield things.insert({"_id": 1}, safe=True)
        with self.assertRaises(DuplicateKeyError):
            yield things.insert(
                [{"_id": 1}, {"_id": 250, "a": 0}], flags=types.INSERT_CONTINUE_ON_ERROR
            )
        self.assertEqual((yield things.count({"a": 1}, fields={"a": 1})), 83)
        yield things.create_index(qf.sort(qf.ASCENDING("a") + qf.DESCENDING("b")))
        order = qf.sort(qf.DESCENDING("_id")) + qf.hint("_id_") + qf.comment("list")
        found = yield things.find({"a": 1}, 1, 2, ["_id"], order)
        self.assertEqual(found, [{"_id": 244}, {"_id": 241}])
        self.assertEqual((yield things.find_one({"a": 1}, filter=order))["_id"], 247)
        (plan,) = yield things.find({"a": 1}, filter=qf.explain())
        self.assertIn("queryPlanner", plan)
        snapshot = yield things.find(limit=2, filter=qf.snapshot())
        self.assertEqual([each["_id"] for each in snapshot], [0, 1])
        seen = 0
        documents, following = yield things.find_with_cursor({})
        while documents:
            seen += len(documents)
            documents, following = yield following
        self.assertEqual(seen, 251)
        outcome = yield things.update({"a": 1}, {"$set": {"b": 2}}, multi=True)
        self.assertEqual((outcome["n"], outcome["updatedExisting"]), (83, True))
        self.assertEqual((yield things.save({"_id": "s", "a": 5}))["upserted"], "s")
        changed = yield things.find_and_modify({"_id": "s"}, {"$inc": {"a": 1}}, new=True)
        self.assertEqual(changed, {"_id": "s", "a": 6})
        self.assertEqual((yield things.remove({"a": 6}))["n"], 1)
        self.assertIsNone((yield things.remove({"a": 7}, safe=False)))
        reply = yield things.map_reduce(
            Code("function() { emit(this.a, 1); }"),
            Code("function(key, values) { return Array.sum(values); }"),
            True,
        )
        self.assertEqual({each["_id"]: each["value"] for each in reply["results"]}[1], 83)
        self.assertIsNone((yield self.pool.db.nothing.drop_index("a_1")))
        self.flushWarnings()

    def test_group(self) -> Deferred[None]:
        """Documents are grouped by fields or by a function, with results finished."""
        return Deferred.fromCoroutine(self.group())

    async def group(self) -> None:
        """See L{test_group}."""
        things = self.pool.db.things
        await things.insert_many([{"a": number % 2, "n": number} for number in range(6)])
        await things.insert_one({"n": 10})
        reduce = Code("function(doc, result) { result.sum += doc.n; }")
        grouped = await things.group(["a"], {"sum": 0}, reduce)
        self.assertEqual((grouped["keys"], grouped["count"]), (3, 7))
        sums = {each["a"]: each["sum"] for each in grouped["retval"]}
        self.assertEqual(sums, {0: 6, 1: 9, None: 10})
        grouped = await things.group(
            "function(doc) { return {odd: doc.n % 2 == 1}; }",
            {"sum": 0},
            reduce,
            {"n": {"$lt": 5}},
            "function(result) { result.twice = result.sum * 2; }",
        )
        self.assertEqual(
            sorted((each["odd"], each["sum"], each["twice"]) for each in grouped["retval"]),
            [(False, 6, 12), (True, 4, 8)],
        )
        grouped = await things.group(
            None, {"sum": 0}, reduce, finalize="function(result) { return result.sum; }"
        )
        self.assertEqual(grouped["retval"], [25])
        self.flushWarnings()

    def test_filemd5(self) -> Deferred[None]:
        """The server works out a file's sum."""
        return Deferred.fromCoroutine(self.filemd5())

    async def filemd5(self) -> None:
        """See L{test_filemd5}."""
        chunk = {"files_id": 1, "n": 0, "data": b"abc"}
        await self.pool.db.fs.chunks.insert_one(chunk)
        await self.pool.db.fs.chunks.create_index([("files_id", 1), ("n", 1)])
        self.assertEqual(await self.pool.db.fs.filemd5(1), "900150983cd24fb0d6963f7d28e17f72")


class NamesTests(TestCase):
    """
    What TxMongo's documentation shows, and its less common calls.
    """

    timeout = 60

    @inlineCallbacks
    def test_tls_example(self) -> Any:
        """
        The documentation's example: a server's context factory, which verifies
        nobody, is taken with a warning.
        """
        deployment = shared_secure()
        own = deployment.client_certificate_file
        assert own is not None

        class ServerTLSContext(ssl.DefaultOpenSSLContextFactory):
            def __init__(self, *args: Any, **kw: Any) -> None:
                kw["sslmethod"] = SSL.TLS_METHOD
                ssl.DefaultOpenSSLContextFactory.__init__(self, *args, **kw)

        tls_ctx = ServerTLSContext(privateKeyFileName=own, certificateFileName=own)
        mongodb_uri = deployment.uri.partition("?")[0] + "?authSource=admin"
        mongo = yield ConnectionPool(mongodb_uri, ssl_context_factory=tls_ctx)
        self.addCleanup(mongo.disconnect)
        self.assertIs(mongo.ssl_context_factory, tls_ctx)
        foo = mongo.foo  # `foo` database
        test = foo.test  # `test` collection
        docs = yield test.find(limit=10)
        self.assertEqual(list(docs), [])
        (warned,) = self.flushWarnings()
        self.assertIn("does not verify", warned["message"])

    @inlineCallbacks
    def test_names(self) -> Any:
        """Constructors, databases and collections take what either generation gave them."""
        deployment = standalone()
        self.addCleanup(deployment.close)
        host = deployment.uri.partition("://")[2].partition("/")[0]
        pool = ConnectionPool(host, 2, None, 1.0, 5.0)
        self.addCleanup(pool.disconnect)
        self.assertEqual((pool.ping_interval, pool.ping_timeout), (1.0, 5.0))
        database = Database(pool, "db", WriteConcern(w=1), CodecOptions(tz_aware=True))
        self.assertEqual((database.write_concern.document, database.connection), ({"w": 1}, pool))
        things: Collection[Any] = Collection(database, "things", WriteConcern(j=True))
        self.assertEqual(things.write_concern.document, {"j": True})
        self.assertTrue(things.codec_options.tz_aware)
        self.assertIs(things.connection, pool)
        capped = yield database.create_collection("log", {"capped": True, "size": 4096})
        self.assertTrue((yield capped.options())["capped"])
        yield things.insert_many([{"_id": number} for number in range(5)])
        names = yield database.collection_names()
        self.assertEqual(sorted(names), ["log", "things"])
        pipeline = [{"$match": {"_id": {"$gt": 1}}}]
        self.assertEqual(len((yield things.aggregate(pipeline))), 3)
        reply = yield things.aggregate(pipeline, True, 2)
        self.assertEqual([each["_id"] for each in reply["result"]], [2, 3, 4])
        self.assertEqual(reply["ok"], 1)
        least: tuple[Any, ...] = ({"$expr": {"$gte": ["$_id", "$$least"]}}, {"least": 3})
        if server_version(deployment) < (5, 0):  # It has no variables here.
            least = ({"_id": {"$gte": 3}},)
        yield things.delete_many(*least)
        self.assertEqual((yield things.count_documents({})), 3)
        self.assertEqual((yield pool.command("db", {"count": "things"}))["n"], 3)
        cursor = things.find().sort(sort=qf.sort(qf.DESCENDING("_id"))).timeout(20)
        self.assertEqual((yield cursor.next_batch(timeout=10))[0], {"_id": 2})
        self.assertIs(cursor.collection, things)
        self.assertTrue(cursor.exhausted)
        with self.assertRaises(OperationFailure):
            yield things.drop_index("nothing_1")
        self.flushWarnings()

    @inlineCallbacks
    def test_time_exceeded(self) -> Any:
        """Who catches TxMongo's error of time gets it, and it is PyMongo's, too."""
        deployment = standalone()
        self.addCleanup(deployment.close)
        pool = ConnectionPool(deployment.uri)
        self.addCleanup(pool.disconnect)
        things = pool.db.things
        yield things.insert_one({"_id": 1})
        slow = {"$where": "sleep(3000) || true"}
        with self.assertRaises(TimeExceeded) as caught:
            yield things.find_one(slow, timeout=0.3)
        self.assertIsInstance(caught.exception, PyMongoError)
        self.assertTrue(caught.exception.timeout)
