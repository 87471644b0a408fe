"""
Codec options are for users' documents, and for nothing that the server says
around them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, MutableMapping
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, TypeDecoder, TypeEncoder, TypeRegistry
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import InsertOne, UpdateOne
from pymongo.errors import DuplicateKeyError, OperationFailure
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool, MongoClient
from txmongokit.database import Database

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


class Wrapped:
    """What no number or text is equal to, and nobody can send again."""

    def __init__(self, value: Any) -> None:
        self.value = value


class IntDecoder(TypeDecoder):
    """Wraps each number."""

    bson_type: Any = int

    def transform_bson(self, value: Any) -> Any:
        """Nothing that counts as a number."""
        return Wrapped(value)


class Int64Decoder(IntDecoder):
    """Likewise, of 64 bits."""

    bson_type = bson.Int64


class FloatDecoder(IntDecoder):
    """Likewise, of floating point."""

    bson_type = float


class TimestampDecoder(IntDecoder):
    """Likewise, of cluster times."""

    bson_type = Timestamp


class TextDecoder(TypeDecoder):
    """Knows users' texts only."""

    bson_type = str

    def transform_bson(self, value: Any) -> Any:
        """
        @raise ValueError: the server wrote it.
        """
        if not value.startswith("my "):
            raise ValueError(f"{value!r} is none of mine")
        return Wrapped(value)


class Own(MutableMapping[str, Any]):
    """A class of documents that has nothing but what it must have."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.fields[name] = value

    def __delitem__(self, name: str) -> None:
        del self.fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def get(self, *args: Any) -> Any:
        """
        @raise AssertionError: always.
        """
        raise AssertionError("only users look into users' documents")

    items = keys = values = get


DECODERS = (IntDecoder(), Int64Decoder(), FloatDecoder(), TimestampDecoder(), TextDecoder())
HOSTILE: CodecOptions[Any] = CodecOptions(document_class=Own, type_registry=TypeRegistry(DECODERS))
MINE = {"_id": 1, "a": "my text", "b": {"c": [1.5, {"d": 2}]}}


class ReplyTests(SynchronousTestCase):
    """
    Replies, by codec options that would spoil everything that is not a user's.
    """

    def collection(self, *replies: Any, options: CodecOptions[Any] = HOSTILE) -> Any:
        """A collection of users who have such options."""
        self.runner = FakeRunner(*replies)
        return Database(self.runner, "db").with_options(options)["things"]

    def is_mine(self, document: Any) -> None:
        """A document went through all of it."""
        self.assertIs(type(document), Own)
        self.assertEqual(document["_id"].value, 1)
        self.assertEqual(document["a"].value, "my text")
        nested = document["b"]["c"]
        self.assertEqual((nested[0].value, nested[1]["d"].value), (1.5, 2))
        self.assertIs(type(nested[1]), Own)

    def test_cursors(self) -> None:
        """Batches of cursors of every kind, and the getMores after them."""
        more = cursor_reply([MINE], more=True)
        for call in (
            lambda things: things.find({}),
            lambda things: things.aggregate([]),
            lambda things: things.database.aggregate([]),
            lambda things: things.database.cursor_command("find", "things"),
        ):
            things = self.collection(cursor_reply([MINE], 9), more)
            for document in self.successResultOf(call(things).to_list()):
                self.is_mine(document)
            self.assertEqual(self.runner.bodies[1]["getMore"], 9)
            self.assertEqual(self.runner.bodies[1]["collection"], "things")
        things = self.collection(cursor_reply([MINE]))
        self.is_mine(self.successResultOf(things.find_one({})))

    def test_values(self) -> None:
        """Documents and single values of users within other replies."""
        things = self.collection(
            {"values": [MINE, 1, "my text"], "ok": 1.0},
            {"value": MINE, "lastErrorObject": {"n": 1, "updatedExisting": True}, "ok": 1.0},
            {"value": None, "ok": 1.0},
            {"results": [MINE], "ok": 1.0},
        )
        document, number, text = self.successResultOf(things.distinct("a"))
        self.is_mine(document)
        self.assertEqual((number.value, text.value), (1, "my text"))
        self.is_mine(self.successResultOf(things.find_one_and_delete({})))
        self.assertIsNone(self.successResultOf(things.find_one_and_delete({})))
        self.is_mine(self.successResultOf(things.inline_map_reduce("f", "g"))[0])

    def test_upserted(self) -> None:
        """What was upserted is the user's; where, and how often, is not."""
        upserted = {"n": 1, "nModified": 0, "upserted": [{"index": 0, "_id": MINE}], "ok": 1.0}
        things = self.collection(upserted, upserted)
        result = self.successResultOf(things.replace_one({}, {"z": 1}, upsert=True))
        self.is_mine(result.upserted_id)
        self.assertEqual((result.matched_count, result.modified_count), (0, 0))
        writes = [UpdateOne({}, {"$set": {"z": 1}}, upsert=True)]
        result = self.successResultOf(things.bulk_write(writes))
        self.assertEqual((result.upserted_count, result.matched_count), (1, 0))
        self.is_mine(result.upserted_ids[0])

    def test_counts(self) -> None:
        """Numbers of the server are numbers."""
        things = self.collection(
            cursor_reply([{"n": 3}]),
            {"n": 4, "ok": 1.0},
            {"n": 5, "ok": 1.0},
            {"n": 1, "nModified": 1, "ok": 1.0},
            {"n": 2, "ok": 1.0},
        )
        self.assertEqual(self.successResultOf(things.count_documents({})), 3)
        self.assertEqual(self.successResultOf(things.estimated_document_count()), 4)
        self.assertEqual(self.successResultOf(things.delete_many({})).deleted_count, 5)
        update = things.update_one({}, {"$set": {"z": 1}})
        self.assertEqual(self.successResultOf(update).modified_count, 1)
        result = self.successResultOf(things.bulk_write([InsertOne({}), InsertOne({})]))
        self.assertEqual(result.inserted_count, 2)

    def test_descriptions(self) -> None:
        """Collections, indexes and databases are told of in dicts."""
        for options in (HOSTILE, RAW):
            listed = {"name": "things", "type": "collection", "options": {"size": 5}}
            index = {"v": 2, "key": {"a": 1}, "name": "a_1"}
            things = self.collection(
                cursor_reply([listed]),
                cursor_reply([listed]),
                cursor_reply([listed]),
                cursor_reply([index]),
                cursor_reply([index], 9),
                cursor_reply([index], more=True),
                cursor_reply([listed]),
                {"ok": 1.0, "valid": True},
                {"ok": 1.0},
                options=options,
            )
            db = things.database
            self.assertEqual(self.successResultOf(db.list_collections().to_list()), [listed])
            self.assertEqual(self.successResultOf(db.list_collection_names()), ["things"])
            self.assertEqual(self.successResultOf(things.options()), {"size": 5})
            information = self.successResultOf(things.index_information())
            self.assertEqual(information, {"a_1": {"v": 2, "key": [("a", 1)]}})
            indexes = self.successResultOf(things.list_indexes().to_list())
            self.assertEqual(indexes, [index, index])
            searched = self.successResultOf(things.list_search_indexes().to_list())
            self.assertEqual(searched, [listed])
            self.assertIs(self.successResultOf(db.validate_collection("things"))["valid"], True)
            self.assertEqual(self.successResultOf(things.create_index("a")), "a_1")

    def test_errors(self) -> None:
        """Errors are found, and told of in dicts."""
        duplicate = {"index": 0, "code": 11000, "errmsg": "E11000", "keyValue": {"a": 1}}
        refused = {"ok": 0.0, "code": 59, "codeName": "CommandNotFound", "errmsg": "no such"}
        for call in (
            lambda things: things.find({}).to_list(),
            lambda things: things.find_one_and_delete({}),
            lambda things: things.distinct("a"),
            lambda things: things.database.command("nothing"),
            lambda things: things.database.cursor_command("nothing").to_list(),
            lambda things: things.find({}).explain(),
        ):
            things = self.collection(refused)
            error = self.failureResultOf(call(things), OperationFailure).value
            self.assertEqual((error.code, error.details), (59, refused))
        things = self.collection({"n": 0, "writeErrors": [duplicate], "ok": 1.0})
        error = self.failureResultOf(things.insert_one({}), DuplicateKeyError).value
        self.assertEqual((error.code, error.details["keyValue"]), (11000, {"a": 1}))

    def test_whole(self) -> None:
        """The reply to a command that users write is theirs, all of it."""
        whole = {"a": "my text", "ok": 1.0}
        own: CodecOptions[Any] = CodecOptions(document_class=Own)
        things = self.collection(whole, whole, whole, options=own)
        for options in (HOSTILE, RAW):
            reply = self.successResultOf(things.database.command("x", codec_options=options))
            self.assertIs(type(reply), options.document_class)
        self.assertIs(type(self.successResultOf(things.find({}).explain())), Own)

    def test_changes(self) -> None:
        """Changes are the users', and resuming is ours."""
        token = {"_data": "82"}
        change = {"_id": token, "operationType": "insert", "fullDocument": MINE}
        decoders = [IntDecoder(), FloatDecoder()]
        options: CodecOptions[Any] = CodecOptions(
            document_class=Own, type_registry=TypeRegistry(decoders)
        )
        things = self.collection(
            cursor_reply([change], 9), cursor_reply([], more=True), options=options
        )
        stream = things.watch()
        found = self.successResultOf(stream.next())
        self.assertEqual(found["fullDocument"]["b"]["c"][1]["d"].value, 2)
        self.assertEqual(stream.resume_token, token)
        things = self.collection(cursor_reply([change], 9), options=RAW)
        stream = things.watch()
        found = self.successResultOf(stream.next())
        self.assertEqual(found.raw, bson.encode(change))
        self.assertEqual(stream.resume_token, token)

    def test_inherited(self) -> None:
        """They come down from database to collection, and each may have its own."""
        runner = FakeRunner(*[cursor_reply([MINE])] * 4)
        db = Database(runner, "db")
        raw = db.with_options(codec_options=RAW)
        for collection, kind in (
            (db["things"], dict),
            (raw["things"]["more"], RawBSONDocument),
            (raw.get_collection("things", HOSTILE), Own),
            (raw["things"].with_options(CodecOptions()), dict),
        ):
            found: Any = collection.find_one({})
            self.assertIs(type(self.successResultOf(found)), kind)


class SessionTests(SynchronousTestCase):
    """
    What a client keeps of replies goes to servers again.
    """

    def test_gossip(self) -> None:
        """Cluster times are told of in the next command, whoever got them."""
        network = FakeNetwork()
        (server,) = network.replica_set("a")
        stamp = {
            "clusterTime": Timestamp(9, 1),
            "signature": {"hash": bytes(20), "keyId": bson.Int64(7)},
        }
        server.on_command = lambda body: {
            "$clusterTime": stamp,
            "operationTime": Timestamp(9, 1),
            "a": "my text",
            "ok": 1.0,
        }
        registry = TypeRegistry([Int64Decoder(), TimestampDecoder(), FloatDecoder()])
        pool = ConnectionPool(
            "a:27017/?replicaSet=rs",
            reactor=network.clock,
            endpoint_factory=network.endpoint,
            type_registry=registry,
            document_class=Own,
        )
        self.addCleanup(network.end, pool)

        def done(waiting: Deferred[Any]) -> Any:
            network.advance(1.0)
            result: Any = self.successResultOf(waiting)
            return result

        session = pool.start_session()
        reply = done(pool["db"].command("mine", session=session))
        self.assertIsInstance(reply["operationTime"], Wrapped)
        self.assertEqual(session.operation_time, Timestamp(9, 1))
        self.assertEqual(pool.cluster_time, stamp)
        done(pool["db"].command("mine", session=session))
        self.assertEqual(server.commands[-1]["$clusterTime"], stamp)


class DefaultTests(SynchronousTestCase):
    """
    Clients that nobody has told anything.
    """

    def test_uuids(self) -> None:
        """As TxMongo's and as PyMongo's; what is said counts in both."""
        clock = FakeNetwork().clock
        for kind, default in (
            (ConnectionPool, UuidRepresentation.STANDARD),
            (MongoClient, UuidRepresentation.UNSPECIFIED),
        ):
            pool: Any = kind(reactor=clock)
            self.assertEqual(pool.codec_options.uuid_representation, default)
            for told in (
                kind("mongodb://a/?uuidRepresentation=javaLegacy", reactor=clock),
                kind("mongodb://a", uuidRepresentation="javaLegacy", reactor=clock),
            ):
                found = told.codec_options.uuid_representation
                self.assertEqual(found, UuidRepresentation.JAVA_LEGACY)
        client: Any = MongoClient(reactor=clock, document_class=Own, tz_aware=True)
        self.assertIs(client.codec_options.document_class, Own)
        self.assertIs(client.codec_options.tz_aware, True)


class Money:
    """A type of the user's own."""

    def __init__(self, cents: int) -> None:
        self.cents = cents


class MoneyEncoder(TypeEncoder):
    """Sends it as a document."""

    python_type = Money

    def transform_python(self, value: Any) -> Any:
        """Its one field."""
        return {"cents": value.cents}


class SendingTests(SynchronousTestCase):
    """
    The user's own types in whatever is sent.
    """

    def test_everywhere(self) -> None:
        """Documents, filters, updates, pipelines, bulk writes, options and commands."""
        options: CodecOptions[Any] = CodecOptions(
            type_registry=TypeRegistry([MoneyEncoder()]),
            uuid_representation=UuidRepresentation.STANDARD,
        )
        for value, sent in (
            (Money(5), {"cents": 5}),
            (uuid.UUID(int=3), bson.Binary(bytes(15) + b"\x03", 4)),
        ):
            for name, call in _sending(value).items():
                runner = FakeRunner(cursor_reply([]))
                waiting = call(Database(runner, "db").with_options(options)["things"])
                waiting.addErrback(lambda failure: None)  # Not every reply is of a cursor.
                request = runner.requests[0]
                encoded = bson.encode(request.body, False, options)
                encoded += b"".join(
                    raw for _, statements in request.sequences for raw in statements
                )
                self.assertIn(bson.encode({"v": sent})[4:-1], encoded, name)

    def test_unchanged(self) -> None:
        """A raw document is sent byte by byte, with no _id of ours."""
        strange = bson.encode({"b": 1, "a": bson.Int64(2), "_id": 3})
        for raw in (strange, bson.encode({"x": {"y": [1]}})):
            for name, call in _inserting(RawBSONDocument(raw)).items():
                runner = FakeRunner({"n": 1, "ok": 1.0})
                call(Database(runner, "db")["things"])
                self.assertEqual(list(runner.requests[0].sequences[0][1]), [raw], name)
        nested = RawBSONDocument(strange)
        runner = FakeRunner({"n": 1, "ok": 1.0}, cursor_reply([]))
        things = Database(runner, "db")["things"]
        self.successResultOf(things.insert_one({"_id": 1, "nested": nested}))
        self.assertIn(strange, runner.requests[0].sequences[0][1][0])
        self.assertIsNone(self.successResultOf(things.find_one(nested)))
        self.assertEqual(runner.bodies[1]["filter"], nested)


def _sending(value: Any) -> dict[str, Any]:
    found = {"v": value}
    setting = {"$set": found}
    return {
        "insert_one": lambda things: things.insert_one({**found}),
        "insert_many": lambda things: things.insert_many([{**found}]),
        "bulk_write": lambda things: things.bulk_write([UpdateOne(found, {"$set": {"z": 1}})]),
        "bulk insert": lambda things: things.bulk_write([InsertOne({**found})]),
        "replace_one": lambda things: things.replace_one({}, found),
        "update filter": lambda things: things.update_many(found, {"$set": {"z": 1}}),
        "update_one": lambda things: things.update_one({}, setting),
        "array_filters": lambda things: things.update_one(
            {}, {"$set": {"a.$[x]": 1}}, array_filters=[found]
        ),
        "update pipeline": lambda things: things.update_one({}, [setting]),
        "delete_one": lambda things: things.delete_one(found),
        "find": lambda things: things.find(found).to_list(),
        "find let": lambda things: things.find({}, let=found).to_list(),
        "min": lambda things: things.find({}, min=found, hint="v_1").to_list(),
        "find_one": lambda things: things.find_one(found),
        "aggregate": lambda things: things.aggregate([{"$match": found}]).to_list(),
        "count_documents": lambda things: things.count_documents(found),
        "distinct": lambda things: things.distinct("a", found),
        "find_one_and_delete": lambda things: things.find_one_and_delete(found),
        "find_one_and_update": lambda things: things.find_one_and_update({}, setting),
        "find_one_and_replace": lambda things: things.find_one_and_replace({}, found),
        "watch": lambda things: things.watch([{"$match": found}]).try_next(),
        "command": lambda things: things.database.command("x", filter=found),
        "comment": lambda things: things.find({}, comment=found).to_list(),
        "partial index": lambda things: things.create_index("a", partialFilterExpression=found),
        "validator": lambda things: things.database.create_collection("new", validator=found),
    }


def _inserting(document: RawBSONDocument) -> dict[str, Any]:
    return {
        "insert_one": lambda things: things.insert_one(document),
        "insert_many": lambda things: things.insert_many([document]),
        "bulk_write": lambda things: things.bulk_write([InsertOne(document)]),
    }
