"""
Tests for L{txmongokit.collection}.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import Any

import bson
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteMany, InsertOne, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne
from pymongo.collation import Collation
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidName,
    InvalidOperation,
    OperationFailure,
    WriteConcernError,
    WriteError,
)
from txmongokit.sessions import ClientSession

DUPLICATE = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}


def collection(runner: FakeRunner, **options: Any) -> Collection[dict[str, Any]]:
    """The collection that all tests use."""
    return Database(runner, "db", **options)["things"]


class NameTests(SynchronousTestCase):
    """
    Names, sub-collections and mistakes.
    """

    def test_sub_collections(self) -> None:
        """Attributes and items name sub-collections."""
        things = collection(FakeRunner())
        self.assertEqual(things.parts.full_name, "db.things.parts")
        self.assertEqual(things["parts"], things.parts)
        self.assertEqual(len({things["parts"], things.parts}), 1)
        self.assertRaises(AttributeError, getattr, things, "_parts")
        self.assertEqual(things["_parts"].name, "things._parts")
        self.assertEqual(repr(things), "<Collection db.things>")

    def test_mistyped_method(self) -> None:
        """Calling what is no method names the nearest one."""
        error = self.assertRaises(TypeError, collection(FakeRunner()).insert_On, {})
        self.assertIn("'insert_one'", str(error))

    def test_truth(self) -> None:
        """A collection has no truth value."""
        self.assertRaises(TypeError, bool, collection(FakeRunner()))

    def test_invalid_names(self) -> None:
        """Names that no server takes are refused."""
        for name in ("", ".a", "a.", "a..b", "a$b", "a\0b"):
            self.assertRaises(InvalidName, Database(FakeRunner(), "db").__getitem__, name)

    def test_unknown_option(self) -> None:
        """An unknown option is an error at once, not dropped."""
        runner = FakeRunner()
        for call in (
            lambda: collection(runner).find({}, colation={}),
            lambda: collection(runner).distinct("a", colation={}),
            lambda: collection(runner).update_one({}, {"$set": {}}, colation={}),
            lambda: collection(runner).find_one({}, colation={}),
        ):
            self.assertIn("'collation'", str(self.assertRaises(TypeError, call)))
        self.assertEqual(runner.commands, [])


class ReadTests(SynchronousTestCase):
    """
    Reading.
    """

    def test_find_one(self) -> None:
        """One document or none, by one command without a session of its own."""
        runner = FakeRunner(cursor_reply([{"_id": 1}]), cursor_reply([]))
        self.assertEqual(self.successResultOf(collection(runner).find_one(1)), {"_id": 1})
        self.assertIsNone(self.successResultOf(collection(runner).find_one({"a": 1})))
        self.assertEqual(
            runner.bodies[0],
            {"find": "things", "filter": {"_id": 1}, "limit": 1, "singleBatch": True},
        )
        self.assertEqual(runner.sessions, [None, None])

    def test_counts(self) -> None:
        """Both counts give numbers; no match counts 0."""
        runner = FakeRunner(cursor_reply([{"_id": 1, "n": 4}]), cursor_reply([]), {"n": 9, "ok": 1})
        things = collection(runner)
        self.assertEqual(self.successResultOf(things.count_documents({}, skip=1, limit=5)), 4)
        self.assertEqual(self.successResultOf(things.count_documents({})), 0)
        self.assertEqual(self.successResultOf(things.estimated_document_count()), 9)
        stages = [next(iter(stage)) for stage in runner.bodies[0]["pipeline"]]
        self.assertEqual(stages, ["$match", "$skip", "$limit", "$group"])

    def test_distinct_options(self) -> None:
        """Distinct sends its collation."""
        runner = FakeRunner({"values": [1, 2], "ok": 1})
        found = collection(runner).distinct("a", {"b": 1}, collation=Collation("de"))
        self.assertEqual(self.successResultOf(found), [1, 2])
        self.assertEqual(runner.bodies[0]["collation"]["locale"], "de")
        self.assertEqual(runner.bodies[0]["query"], {"b": 1})

    def test_aggregate_out(self) -> None:
        """A pipeline that writes is a write."""
        runner = FakeRunner(cursor_reply([]), cursor_reply([]))
        self.successResultOf(collection(runner).aggregate([{"$out": "x"}]).to_list())
        self.successResultOf(collection(runner).aggregate([{"$match": {}}]).to_list())
        kinds = [(command.is_write, command.is_read) for command in runner.commands]
        self.assertEqual(kinds, [(True, False), (False, True)])


class WriteTests(SynchronousTestCase):
    """
    Writing.
    """

    def test_insert_one(self) -> None:
        """The caller's document gets its C{_id}, which the result reports."""
        runner = FakeRunner({"n": 1, "ok": 1})
        document: dict[str, Any] = {"a": 1}
        result = self.successResultOf(collection(runner).insert_one(document, comment="why"))
        self.assertEqual(result.inserted_id, document["_id"])
        self.assertEqual(runner.statements(), [document])
        self.assertEqual(runner.bodies[0], {"insert": "things", "ordered": True, "comment": "why"})

    def test_insert_raw(self) -> None:
        """A raw document goes out as it is."""
        runner = FakeRunner({"n": 1, "ok": 1})
        raw = bson.encode({"_id": 5})
        result = self.successResultOf(collection(runner).insert_one(RawBSONDocument(raw)))
        self.assertEqual(result.inserted_id, 5)
        self.assertEqual(runner.requests[0].sequences, (("documents", (raw,)),))

    def test_insert_duplicate(self) -> None:
        """A duplicate key is its own error."""
        runner = FakeRunner({"n": 0, "writeErrors": [DUPLICATE], "ok": 1})
        error = self.failureResultOf(collection(runner).insert_one({}), DuplicateKeyError).value
        self.assertEqual(error.code, 11000)

    def test_unacknowledged(self) -> None:
        """What asks for no reply says so in its result."""
        runner = FakeRunner()
        things = collection(runner, write_concern=WriteConcern(w=0))
        self.successResultOf(things.update_one({}, {"$set": {"a": 1}}))
        self.assertFalse(runner.commands[0].unacknowledged().acknowledged)

    def test_update_result(self) -> None:
        """Matched, modified and upserted are told apart."""
        upserted = {"n": 1, "nModified": 0, "upserted": [{"index": 0, "_id": 3}], "ok": 1}
        runner = FakeRunner({"n": 1, "nModified": 1, "ok": 1}, upserted)
        things = collection(runner)
        result = self.successResultOf(things.update_one({}, {"$set": {"a": 1}}))
        self.assertEqual((result.matched_count, result.modified_count), (1, 1))
        result = self.successResultOf(things.replace_one({}, {"a": 1}, upsert=True))
        self.assertEqual((result.matched_count, result.upserted_id), (0, 3))

    def test_upserted_types(self) -> None:
        """What was upserted has the user's types, what counts has the server's."""
        identifier = uuid.uuid4()
        standard = UuidRepresentation.STANDARD
        binary = Binary.from_uuid(identifier)
        upserted = {"n": 1, "upserted": [{"index": 0, "_id": binary}], "ok": 1}
        for kind in (dict, OrderedDict, RawBSONDocument):
            codec: CodecOptions[Any] = CodecOptions(kind, uuid_representation=standard)
            runner = FakeRunner(upserted, upserted)
            things = collection(runner, codec_options=codec)
            result = self.successResultOf(things.replace_one({}, {"a": 1}, upsert=True))
            self.assertEqual((result.upserted_id, result.matched_count), (identifier, 0))
            request = ReplaceOne({}, {"a": 1}, upsert=True)
            bulk = self.successResultOf(things.bulk_write([request]))
            self.assertEqual(bulk.upserted_ids, {0: identifier})

    def test_update_options(self) -> None:
        """Every option goes where it belongs; only single updates may be retried."""
        runner = FakeRunner()
        things = collection(runner)
        self.successResultOf(
            things.update_one(
                {"q": 1},
                {"$set": {"a.$[x]": 1}},
                upsert=True,
                collation={"locale": "de"},
                array_filters=[{"x": 1}],
                hint=[("q", 1)],
                sort={"q": -1},
                bypass_document_validation=False,
                let={"v": 1},
            )
        )
        self.assertEqual(
            runner.statements(),
            [
                {
                    "q": {"q": 1},
                    "u": {"$set": {"a.$[x]": 1}},
                    "upsert": True,
                    "collation": {"locale": "de"},
                    "arrayFilters": [{"x": 1}],
                    "hint": {"q": 1},
                    "sort": {"q": -1},
                }
            ],
        )
        self.assertIs(runner.bodies[0]["bypassDocumentValidation"], False)
        self.assertEqual(runner.bodies[0]["let"], {"v": 1})
        self.successResultOf(things.update_many({}, [{"$set": {"a": 1}}]))
        self.successResultOf(things.delete_many({}, hint="a_1"))
        self.assertEqual([command.retryable for command in runner.commands], [True, False, False])
        self.assertEqual(runner.statements(2), [{"q": {}, "limit": 0, "hint": "a_1"}])

    def test_wrong_updates(self) -> None:
        """Operators and whole documents are not taken for each other."""
        things = collection(FakeRunner())
        self.assertRaises(ValueError, things.update_one, {}, {"a": 1})
        self.assertRaises(ValueError, things.update_one, {}, {})
        self.assertRaises(ValueError, things.replace_one, {}, {"$set": {"a": 1}})
        self.assertRaises(TypeError, things.update_one, {}, 5)
        self.assertRaises(TypeError, things.replace_one, {}, {}, array_filters=[{}])
        self.assertRaises(TypeError, things.update_many, {}, {"$set": {}}, sort="a")
        self.assertRaises(TypeError, things.delete_one, None)
        self.assertRaises(TypeError, things.insert_one, [])

    def test_find_one_and_update(self) -> None:
        """It gives the document, and fails where the write concern is not met."""
        concern = {"code": 100, "errmsg": "not enough members"}
        runner = FakeRunner(
            {"value": {"_id": 1}, "ok": 1}, {"value": None, "writeConcernError": concern, "ok": 1}
        )
        things = collection(runner)
        found = things.find_one_and_update(
            {}, {"$set": {"a": 1}}, return_document=ReturnDocument.AFTER, projection=["a"]
        )
        self.assertEqual(self.successResultOf(found), {"_id": 1})
        self.assertIs(runner.bodies[0]["new"], True)
        self.assertEqual(runner.bodies[0]["fields"], {"a": 1})
        self.failureResultOf(things.find_one_and_delete({}), WriteConcernError)
        self.assertIs(runner.bodies[1]["remove"], True)

    def test_too_large(self) -> None:
        """A document over the limit is refused before anything is sent."""
        runner = FakeRunner()
        large = {"a": b"x" * (16 * 1024 * 1024)}
        failed = collection(runner).insert_many([{}, large])
        error = self.failureResultOf(failed, DocumentTooLarge).value
        self.assertIn(str(16 * 1024 * 1024), str(error))
        self.assertEqual(runner.requests, [])

    def test_raw_write(self) -> None:
        """Raw statements go out untouched; the first failure is raised with its labels."""
        failure = {
            "n": 0,
            "writeErrors": [{"index": 0, "code": 112, "errmsg": "conflict"}],
            "errorLabels": ["TransientTransactionError"],
            "ok": 1,
        }
        runner = FakeRunner({"n": 1, "ok": 1}, failure)
        statement = bson.encode({"q": {"_id": 1}, "u": {"$set": {"a": 1}}})
        reply = self.successResultOf(
            collection(runner).raw_write("update", [statement], bypass_document_validation=True)
        )
        self.assertEqual(reply["n"], 1)
        self.assertEqual(runner.requests[0].sequences, (("updates", [statement]),))
        self.assertIs(runner.bodies[0]["bypassDocumentValidation"], True)
        failed = collection(runner).raw_write("update", [statement])
        error = self.failureResultOf(failed, WriteError).value
        self.assertTrue(error.has_error_label("TransientTransactionError"))
        self.assertEqual((error.code, error.details["index"]), (112, 0))
        self.assertRaises(ValueError, collection(runner).raw_write, "upsert", [])


class BulkTests(SynchronousTestCase):
    """
    Bulk writes.
    """

    def test_ordered(self) -> None:
        """Runs of one kind share a command, and no option is lost."""
        runner = FakeRunner(
            {"n": 2, "ok": 1},
            {"n": 2, "nModified": 1, "upserted": [{"index": 1, "_id": 9}], "ok": 1},
            {"n": 3, "ok": 1},
        )
        result = self.successResultOf(
            collection(runner).bulk_write(
                [
                    InsertOne({"_id": 1}),
                    InsertOne({"_id": 2}),
                    UpdateOne({}, {"$set": {"a": 1}}, hint="a_1", sort={"a": 1}),
                    ReplaceOne({}, {"a": 1}, upsert=True),
                    DeleteMany({}, collation=Collation("de")),
                ]
            )
        )
        self.assertEqual(runner.names, ["insert", "update", "delete"])
        self.assertEqual(runner.statements(1)[0]["sort"], {"a": 1})
        self.assertEqual(runner.statements(2)[0]["collation"]["locale"], "de")
        self.assertEqual(result.inserted_count, 2)
        self.assertEqual(result.matched_count, 1)
        self.assertEqual(result.deleted_count, 3)
        self.assertEqual(result.upserted_ids, {3: 9})
        self.assertEqual([command.retryable for command in runner.commands], [True, True, False])

    def test_ordered_failure(self) -> None:
        """An ordered bulk write ends with its first failure, by its own index."""
        runner = FakeRunner({"n": 1, "ok": 1}, {"n": 0, "writeErrors": [DUPLICATE], "ok": 1})
        requests: list[Any] = [
            InsertOne({"secret": 1}),
            UpdateMany({}, {"$set": {"secret": 2}}),
            InsertOne({}),
        ]
        error = self.failureResultOf(collection(runner).bulk_write(requests), BulkWriteError).value
        self.assertEqual(len(runner.commands), 2)
        self.assertEqual(error.details["nInserted"], 1)
        self.assertEqual(error.details["writeErrors"][0]["index"], 1)
        self.assertIn("op", error.details["writeErrors"][0])
        self.assertNotIn("secret", str(error))

    def test_unordered(self) -> None:
        """An unordered one groups by kind and tries everything."""
        failed = {"n": 1, "writeErrors": [{**DUPLICATE, "index": 1}], "ok": 1}
        runner = FakeRunner(failed, {"n": 1, "ok": 1})
        requests: list[Any] = [InsertOne({}), DeleteMany({}), InsertOne({})]
        attempt = collection(runner).bulk_write(requests, ordered=False)
        error = self.failureResultOf(attempt, BulkWriteError).value
        self.assertEqual(runner.names, ["insert", "delete"])
        self.assertEqual(error.details["writeErrors"][0]["index"], 2)
        self.assertEqual(error.details["nRemoved"], 1)

    def test_insert_many(self) -> None:
        """Many documents give many ids; none at all is an error."""
        runner = FakeRunner({"n": 2, "ok": 1})
        things = collection(runner)
        result = self.successResultOf(things.insert_many([{"_id": 4}, {"_id": 5}]))
        self.assertEqual(result.inserted_ids, [4, 5])
        self.assertRaises(TypeError, things.insert_many, [])
        self.assertRaises(InvalidOperation, things.bulk_write, [])
        self.assertRaises(TypeError, things.bulk_write, [{"_id": 1}])


class DeprecatedTests(SynchronousTestCase):
    """
    What PyMongo had once, and TxMongo has.
    """

    def test_count(self) -> None:
        """It counts, and says what to use."""
        runner = FakeRunner({"n": 4, "ok": 1})
        counted = collection(runner).count({"a": 1}, limit=5)
        self.assertEqual(self.successResultOf(counted), 4)
        self.assertEqual(runner.bodies, [{"count": "things", "query": {"a": 1}, "limit": 5}])
        (warning,) = self.flushWarnings()
        self.assertEqual(warning["category"], DeprecationWarning)

    def test_map_reduce(self) -> None:
        """Results come back, or the collection that has them, or the reply."""
        inline = {"results": [{"_id": 1, "value": 2}], "ok": 1}
        runner = FakeRunner(inline, {"result": "out", "ok": 1}, inline)
        things = collection(runner)
        self.assertEqual(
            self.successResultOf(things.inline_map_reduce("m", "r", query={"a": 1})),
            inline["results"],
        )
        self.assertEqual(runner.bodies[0]["out"], {"inline": 1})
        self.assertEqual(
            self.successResultOf(things.map_reduce("m", "r", "out")).full_name, "db.out"
        )
        self.assertEqual(
            self.successResultOf(things.map_reduce("m", "r", full_response=True)), inline
        )
        self.assertEqual(len(self.flushWarnings()), 3)


class LimitTests(SynchronousTestCase):
    """
    How long operations may take.
    """

    def test_timeout(self) -> None:
        """Each operation takes one; 0 lifts what is inherited."""
        runner = FakeRunner()
        things = collection(runner, timeout=9)
        self.successResultOf(things.update_one({}, {"$set": {"a": 1}}, timeout=2))
        self.successResultOf(things.delete_one({}, timeout=0))
        self.successResultOf(things.find_one_and_delete({}))
        found = [
            (command.options.timeout, command.options.timeout_given) for command in runner.commands
        ]
        self.assertEqual(found, [(2, True), (0, True), (9, False)])

    def test_deadline(self) -> None:
        """A point in time, of which the earlier limit counts; one that is over is no lifting."""
        runner = FakeRunner()
        runner.clock.advance(100.0)
        things = collection(runner)
        self.successResultOf(things.insert_one({}, deadline=103.0))
        self.successResultOf(things.insert_one({}, deadline=103.0, timeout=1))
        self.successResultOf(things.insert_one({}, deadline=103.0, timeout=0))
        self.successResultOf(things.insert_one({}, deadline=50.0))
        timeouts = [command.options.timeout for command in runner.commands]
        self.assertEqual(timeouts[:3], [3.0, 1, 3.0])
        assert timeouts[3] is not None
        self.assertTrue(0 < timeouts[3] < 0.001)

    def test_wrong_limits(self) -> None:
        """They are errors at once."""
        things = collection(FakeRunner())
        self.assertRaises(ValueError, things.find_one, {}, timeout=-1)
        self.assertRaises(TypeError, things.find_one, {}, timeout="1")
        self.assertRaises(ValueError, things.with_options, timeout=-1)

    def test_one_deadline(self) -> None:
        """The commands of a bulk write share one."""
        runner = FakeRunner({"n": 1, "ok": 1}, {"n": 1, "ok": 1})
        requests: list[Any] = [InsertOne({}), DeleteMany({})]
        self.successResultOf(collection(runner).bulk_write(requests, timeout=5))
        self.assertEqual([command.deadline for command in runner.commands], [5.0, 5.0])


class OptionTests(SynchronousTestCase):
    """
    Options by all their names, and what may be inherited.
    """

    def test_names_of_pymongo(self) -> None:
        """PyMongo takes some options by the server's names."""
        runner = FakeRunner(cursor_reply([]), cursor_reply([]), {"values": [], "ok": 1})
        things = collection(runner)
        cursor = things.aggregate([], batchSize=7, allowDiskUse=True, raw_data=True)
        self.successResultOf(cursor.to_list())
        self.successResultOf(things.count_documents({}, maxTimeMS=5))
        self.successResultOf(things.distinct("a", maxTimeMS=6))
        self.assertEqual(runner.bodies[0]["cursor"], {"batchSize": 7})
        self.assertIs(runner.bodies[0]["allowDiskUse"], True)
        self.assertEqual([body.get("maxTimeMS") for body in runner.bodies], [None, 5, 6])

    def test_with_options(self) -> None:
        """What is inherited is of the right type, and named as PyMongo does."""
        things = collection(FakeRunner())
        self.assertEqual(things.with_options(timeout=3), things)
        for wrong in (
            {"codec_options": 5},
            {"read_preference": "primary"},
            {"write_concern": 1},
            {"read_concern": "local"},
            {"timeout": "1"},
            {"read_concerns": None},
        ):
            self.assertRaises(TypeError, things.with_options, **wrong)

    def test_shared(self) -> None:
        """Operations on one document by its C{_id} may share connections."""
        runner = FakeRunner()
        things = collection(runner)
        self.successResultOf(things.insert_one({}))
        self.successResultOf(things.update_one({"_id": 1}, {"$set": {"a": 1}}, upsert=True))
        self.successResultOf(things.replace_one({"_id": 1}, {}))
        self.successResultOf(things.delete_one({"_id": 1}))
        self.successResultOf(things.delete_many({"_id": 1}))
        self.successResultOf(things.update_one({"_id": 1}, {"$set": {}}, hint="_id_"))
        shareable = [command.shareable for command in runner.commands]
        self.assertEqual(shareable, [True] * 4 + [False] * 2)

    def test_unacknowledged_demands(self) -> None:
        """A write without an answer has nothing that a server may ignore."""
        runner = FakeRunner()
        things = collection(runner, write_concern=WriteConcern(w=0))
        update = {"$set": {"a": 1}}
        for failing in (
            things.update_one({}, update, sort={"a": 1}),
            things.delete_one({}, collation={"locale": "de"}),
            things.bulk_write([UpdateOne({}, update, array_filters=[])]),
            things.find_one_and_delete({}, collation={"locale": "de"}),
        ):
            self.failureResultOf(failing, ConfigurationError)
        self.successResultOf(things.update_one({}, update, hint="a_1"))

    def test_transaction(self) -> None:
        """In a transaction every write is acknowledged."""
        runner = FakeRunner({"n": 1, "ok": 1}, {"n": 1, "ok": 1})
        things = collection(runner, write_concern=WriteConcern(w=0))
        session = ClientSession(runner, runner.take_session(explicit=True))
        session.start_transaction(write_concern=WriteConcern(w=1))
        result = self.successResultOf(things.insert_many([{}], session=session))
        self.assertTrue(result.acknowledged)
        self.successResultOf(things.insert_one({}, session=session))
        for command in runner.commands:
            self.assertTrue(command.options.write_concern.acknowledged)

    def test_return_document(self) -> None:
        """Which version is wanted is told by PyMongo's constants."""
        things = collection(FakeRunner())
        self.assertRaises(ValueError, things.find_one_and_replace, {}, {}, return_document="after")


class BrokenBulkTests(SynchronousTestCase):
    """
    Bulk writes that break off.
    """

    def test_partial_result(self) -> None:
        """The error tells what had been acknowledged."""
        runner = FakeRunner({"n": 1, "ok": 1}, AutoReconnect("lost"))
        failed = collection(runner).bulk_write([InsertOne({}), DeleteMany({})])
        error = self.failureResultOf(failed, AutoReconnect).value
        self.assertEqual(error.partial_result.inserted_count, 1)

    def test_unsettled(self) -> None:
        """A write concern error that was not tried again is one of the results."""
        unmet = {"code": 91, "errmsg": "shutting down"}
        labels = ["RetryableWriteError"]
        reply = {"n": 1, "ok": 1, "writeConcernError": unmet, "errorLabels": labels}
        runner = FakeRunner(reply)
        failed = collection(runner).insert_many([{}])
        error = self.failureResultOf(failed, BulkWriteError).value
        self.assertEqual(error.details["nInserted"], 1)
        self.assertEqual(error.details["writeConcernErrors"], [unmet])
        self.assertTrue(error.has_error_label("RetryableWriteError"))


class DefinitionTests(SynchronousTestCase):
    """
    The collection itself and its indexes.
    """

    def test_drop_missing(self) -> None:
        """Dropping what is not there is no error; other failures are."""
        runner = FakeRunner({"ok": 0, "code": 26, "errmsg": "ns"}, {"ok": 0, "code": 13})
        self.assertIsNone(self.successResultOf(collection(runner).drop()))
        self.failureResultOf(collection(runner).drop(), OperationFailure)

    def test_rename(self) -> None:
        """Renaming is the admin database's command."""
        runner = FakeRunner()
        self.successResultOf(collection(runner).rename("other", drop_target=True))
        self.assertEqual(runner.commands[0].database, "admin")
        expected = {"renameCollection": "db.things", "to": "db.other", "dropTarget": True}
        self.assertEqual(runner.bodies[0], expected)
