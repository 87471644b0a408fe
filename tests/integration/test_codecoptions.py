"""
Codec options on a real server.
"""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import bson
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import (
    CodecOptions,
    DatetimeConversion,
    TypeCodec,
    TypeRegistry,
)
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from bson.son import SON
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateOne
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool, MongoClient
from txmongokit.errors import DuplicateKeyError, OperationFailure
from txmongokit.testing import replica_set

REPRESENTATIONS = {
    UuidRepresentation.STANDARD: 4,
    UuidRepresentation.PYTHON_LEGACY: 3,
    UuidRepresentation.JAVA_LEGACY: 3,
    UuidRepresentation.CSHARP_LEGACY: 3,
}
PLAIN: CodecOptions[dict[str, Any]] = CodecOptions()
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
# What no datetime can be: the year 12000.
FAR = 316_516_032_000_000
LAST_DATE = datetime.datetime(9999, 12, 31, 23, 59, 59, 999000, datetime.UTC).replace(tzinfo=None)


class DecimalCodec(TypeCodec):
    """Python's own decimals."""

    python_type: Any = Decimal
    bson_type: Any = Decimal128

    def transform_python(self, value: Any) -> Any:
        """To the server."""
        return Decimal128(value)

    def transform_bson(self, value: Any) -> Any:
        """From the server."""
        return value.to_decimal()


DECIMALS: CodecOptions[dict[str, Any]] = CodecOptions(type_registry=TypeRegistry([DecimalCodec()]))


class CodecTests(TestCase):
    """
    One replica set, documents of every kind.
    """

    timeout = 60

    def setUp(self) -> None:
        """Start a set and a client."""
        deployment = replica_set(1)
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        self.uri = deployment.uri
        self.pool = self.client()
        self.things = self.pool["db"]["things"]

    def client(self, **options: Any) -> ConnectionPool:
        """A client of the set."""
        pool = ConnectionPool(self.uri, **options)
        self.addCleanup(pool.disconnect)
        return pool

    def run_it(self, coroutine: Any) -> Deferred[None]:
        """A coroutine as trial wants it."""
        return Deferred.fromCoroutine(coroutine)

    def test_types(self) -> Deferred[None]:
        """A type of the user's own goes in by every way, and comes out by every way."""
        return self.run_it(self.types())

    async def types(self) -> None:
        """See L{test_types}."""
        one, two, three = Decimal("1.10"), Decimal("2.20"), Decimal("3.30")
        things = self.things.with_options(DECIMALS)
        await things.insert_one({"_id": 1, "v": one})
        await things.insert_many([{"_id": 2, "v": two}, {"_id": 3, "v": [{"x": three}]}])
        self.assertEqual(await self.things.find_one(1), {"_id": 1, "v": Decimal128("1.10")})
        self.assertEqual(await things.find_one({"v": two}), {"_id": 2, "v": two})
        self.assertEqual(await things.find_one({"v.x": three}), {"_id": 3, "v": [{"x": three}]})
        self.assertEqual(await things.distinct("v", {"v": {"$lt": two}}), [one])
        self.assertEqual(await things.count_documents({"v": {"$gte": one}}), 2)
        await things.update_one({"v": one}, {"$set": {"v": three}})
        await things.update_one({"v": three}, [{"$set": {"w": two}}])
        self.assertEqual(await things.find_one(1), {"_id": 1, "v": three, "w": two})
        await things.update_many({"_id": 1}, {"$inc": {"v": one}})
        pipeline: list[Any] = [
            {"$match": {"v": {"$gt": three}}},
            {"$project": {"s": {"$add": ["$v", one]}}},
        ]
        self.assertEqual(await things.aggregate(pipeline), [{"_id": 1, "s": Decimal("5.50")}])
        await things.bulk_write(
            [
                InsertOne({"_id": 4, "v": one}),
                UpdateOne({"v": one}, {"$set": {"v": two}}),
                ReplaceOne({"_id": 9}, {"v": three}, upsert=True),
                DeleteOne({"_id": 2, "v": two}),
            ]
        )
        self.assertEqual(
            await things.find({"_id": {"$gt": 3}}).sort("_id"),
            [
                {"_id": 4, "v": two},
                {"_id": 9, "v": three},
            ],
        )
        upserted = await things.update_one({"_id": one}, {"$set": {"a": 1}}, upsert=True)
        self.assertEqual(upserted.upserted_id, one)
        self.assertEqual(upserted.matched_count, 0)
        before = await things.find_one_and_update({"v": two}, {"$set": {"v": one}})
        self.assertEqual(before, {"_id": 4, "v": two})
        replaced = await things.find_one_and_replace({"v": one}, {"v": two}, return_document=True)
        self.assertEqual(replaced, {"_id": 4, "v": two})
        self.assertEqual(await things.find_one_and_delete({"v": two}), {"_id": 4, "v": two})
        with self.assertRaises(DuplicateKeyError):
            await things.insert_one({"_id": one})
        with self.assertRaises(bson.InvalidDocument):
            self.things.insert_one({"v": one})
        reply = await things.database.command(
            "find", "things", filter={"v": three}, codec_options=DECIMALS
        )
        self.assertEqual(reply["cursor"]["firstBatch"], [{"_id": 9, "v": three}])
        await things.insert_many([{"_id": n + 100, "v": one} for n in range(5)])
        found = await things.find({"_id": {"$gte": 100}}, {"_id": 0}, batch_size=2)
        self.assertEqual(found, [{"v": one}] * 5)
        batches = await things.find_raw_batches({"_id": 100})
        self.assertEqual(bson.decode(batches[0]), {"_id": 100, "v": Decimal128("1.10")})

    def test_uuids(self) -> Deferred[None]:
        """Each representation in values and in C{_id}."""
        return self.run_it(self.uuids())

    async def uuids(self) -> None:
        """See L{test_uuids}."""
        one = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
        for representation, subtype in REPRESENTATIONS.items():
            await self.things.drop()
            options: CodecOptions[Any] = CodecOptions(uuid_representation=representation)
            things = self.things.with_options(options)
            inserted = await things.insert_one({"_id": one, "v": [one]})
            self.assertEqual(inserted.inserted_id, one)
            self.assertEqual(await things.find_one(one), {"_id": one, "v": [one]})
            self.assertEqual(await things.distinct("v"), [one])
            self.assertEqual(
                await things.aggregate([{"$match": {"v": one}}]), [{"_id": one, "v": [one]}]
            )
            stored = await self.things.with_options(PLAIN).find_one({})
            assert stored is not None
            self.assertEqual(stored["_id"], Binary.from_uuid(one, representation))
            self.assertEqual(stored["_id"].subtype, subtype)
            await things.update_one({"_id": one}, {"$push": {"v": one}})
            self.assertEqual((await things.find_one(one) or {})["v"], [one, one])
            bulk = await things.bulk_write([ReplaceOne({"_id": one}, {"w": one})])
            self.assertEqual(bulk.modified_count, 1)
            self.assertEqual(await things.find_one_and_delete({"_id": one}), {"_id": one, "w": one})
        with self.assertRaises(ValueError):
            self.things.with_options(PLAIN).insert_one({"_id": one})
        # A client's are the standard ones, unless it is told otherwise.
        for named, subtype in (({}, 4), ({"uuidRepresentation": "pythonLegacy"}, 3)):
            things = self.client(**named)["db"]["things"]
            await things.insert_one({"_id": one})
            self.assertEqual(await things.find_one(one), {"_id": one})
            stored = await self.things.with_options(PLAIN).find_one_and_delete({})
            assert stored is not None
            self.assertEqual(stored["_id"].subtype, subtype)

    def test_dates(self) -> Deferred[None]:
        """With a time zone and without, and those that no datetime can be."""
        return self.run_it(self.dates())

    async def dates(self) -> None:
        """See L{test_dates}."""
        tokyo = datetime.timezone(datetime.timedelta(hours=9))
        await self.things.insert_many([{"_id": 1, "t": NOON}, {"_id": 2, "t": DatetimeMS(FAR)}])
        self.assertEqual(await self.things.find_one(1), {"_id": 1, "t": NOON.replace(tzinfo=None)})
        for options, wanted in (
            (CodecOptions(tz_aware=True), NOON),
            (CodecOptions(tz_aware=True, tzinfo=tokyo), NOON.astimezone(tokyo)),
            (
                CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS),
                DatetimeMS(int(NOON.timestamp() * 1000)),
            ),
        ):
            things: Any = self.things.with_options(options)
            for found in (
                await things.find_one({"t": NOON}),
                (await things.find({"_id": 1}))[0],
                (await things.aggregate([{"$match": {"_id": 1}}]))[0],
                {"t": (await things.distinct("t", {"_id": 1}))[0]},
                await things.find_one_and_update({"_id": 1}, {"$set": {"x": 1}}),
                (
                    await things.database.command(
                        "find", "things", filter={"_id": 1}, codec_options=options
                    )
                )["cursor"]["firstBatch"][0],
            ):
                self.assertEqual(found["t"], wanted)
                offset = getattr(found["t"], "utcoffset", lambda: None)
                self.assertEqual(offset(), getattr(wanted, "utcoffset", lambda: None)())
        with self.assertRaises(bson.InvalidBSON):
            await self.things.find_one(2)
        for conversion, far in (
            (DatetimeConversion.DATETIME_MS, DatetimeMS(FAR)),
            (DatetimeConversion.DATETIME_AUTO, DatetimeMS(FAR)),
            (DatetimeConversion.DATETIME_CLAMP, LAST_DATE),
        ):
            other: CodecOptions[Any] = CodecOptions(datetime_conversion=conversion)
            found = await self.things.with_options(other).find_one(2)
            self.assertEqual(found, {"_id": 2, "t": far})
        aware = self.client(tz_aware=True)
        self.assertEqual((await aware["db"]["things"].find_one(1) or {})["t"], NOON)

    def test_broken_text(self) -> Deferred[None]:
        """Text that is no UTF-8 is written, and read as an error or as one wants."""
        return self.run_it(self.broken_text())

    async def broken_text(self) -> None:
        """See L{test_broken_text}."""
        raw = bson.encode({"_id": 1, "s": "abcd"}).replace(b"abcd", b"ab\xffd")
        await self.things.insert_one(RawBSONDocument(raw))
        with self.assertRaises(bson.InvalidBSON):
            await self.things.find_one(1)
        for handler, wanted in (("replace", "ab\ufffdd"), ("ignore", "abd")):
            options: CodecOptions[Any] = CodecOptions(unicode_decode_error_handler=handler)
            things = self.things.with_options(options)
            self.assertEqual(await things.find_one(1), {"_id": 1, "s": wanted})
            self.assertEqual(await things.find({}), [{"_id": 1, "s": wanted}])
            self.assertEqual(await things.distinct("s"), [wanted])
        lenient = self.client(unicode_decode_error_handler="ignore")
        found = await lenient["db"]["things"].find_one_and_delete({})
        self.assertEqual(found, {"_id": 1, "s": "abd"})

    def test_raw(self) -> Deferred[None]:
        """Raw documents in and out, byte by byte, at any depth."""
        return self.run_it(self.raw())

    async def raw(self) -> None:
        """See L{test_raw}."""
        written = bson.encode(SON([("_id", 1), ("z", {"b": bson.Int64(1), "a": [{"x": 1}]})]))
        things = self.things.with_options(RAW)
        await things.insert_one(RawBSONDocument(written))
        found = await things.find_one()
        assert found is not None
        self.assertEqual(found.raw, written)
        self.assertIsInstance(found["z"], RawBSONDocument)
        self.assertIsInstance(found["z"]["a"][0], RawBSONDocument)
        self.assertEqual(await things.find(found), [found])
        await things.replace_one({"_id": 1}, RawBSONDocument(written))
        await things.update_one(found, {"$set": {"copy": found["z"]}})
        await things.insert_many([RawBSONDocument(bson.encode({"_id": n})) for n in range(2, 9)])
        copies = await things.find({"_id": {"$gt": 1}}, batch_size=3).sort("_id")
        self.assertEqual(
            [each.raw for each in copies], [bson.encode({"_id": n}) for n in range(2, 9)]
        )
        (piped,) = await things.aggregate([{"$match": {"_id": 1}}, {"$unset": "copy"}])
        self.assertEqual(piped.raw, written)
        (value,) = await things.distinct("z")
        self.assertEqual(value.raw, found["z"].raw)
        deleted = await things.find_one_and_delete({"_id": 1}, {"copy": 0})
        assert deleted is not None
        self.assertEqual(deleted.raw, written)
        db = self.pool["db"].with_options(RAW)
        self.assertEqual(await db.list_collection_names(), ["things"])
        self.assertIn("_id_", await db["things"].index_information())
        await db["things"].drop()

    def test_changes(self) -> Deferred[None]:
        """Change streams follow the options, and resume by their own."""
        return self.run_it(self.changes())

    async def changes(self) -> None:
        """See L{test_changes}."""
        for options, seen in (
            (DECIMALS, lambda change: change["fullDocument"]["v"] == Decimal("1.10")),
            (RAW, lambda change: type(change["fullDocument"]) is RawBSONDocument),
            (CodecOptions(document_class=SON), lambda change: type(change) is SON),
        ):
            things: Any = self.things.with_options(options)
            async with things.watch([{"$match": {"operationType": "insert"}}]) as stream:
                await self.things.insert_one({"v": Decimal128("1.10")})
                self.assertTrue(seen(await stream.next()))
                token = stream.resume_token
            await self.things.insert_one({"v": Decimal128("1.10")})
            async with things.watch(resume_after=token) as stream:
                self.assertTrue(seen(await stream.next()))

    def test_classes(self) -> Deferred[None]:
        """A client's class of documents is everybody's, but errors and descriptions are dicts."""
        return self.run_it(self.classes())

    async def classes(self) -> None:
        """See L{test_classes}."""
        client: Any = MongoClient(self.uri, document_class=SON)
        self.addCleanup(client.disconnect)
        things = client["db"]["things"]
        await things.insert_one(SON([("_id", 1), ("b", SON([("y", 1), ("x", 2)]))]))
        found = await things.find_one()
        self.assertIs(type(found), SON)
        self.assertIs(type(found["b"]), SON)
        plain = things.with_options(PLAIN)
        self.assertIs(type(await plain.find_one()), dict)
        self.assertIs(type(await things.find_one_and_update({}, {"$set": {"a": 1}})), SON)
        self.assertIs(type(await client["db"].command("ping")), SON)
        self.assertIs(type((await client["db"].list_collections())[0]), dict)
        self.assertIs(type((await client.list_databases())[0]), dict)
        with self.assertRaises(OperationFailure) as caught:
            await client["db"].command("nonsense")
        self.assertIs(type(caught.exception.details), dict)
        self.assertEqual(caught.exception.code, 59)
