"""
What is promised of every method: nothing that a caller gives is changed,
options go to the server, unknown ones are errors, and errors tell no secrets.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st
from pymongo import DeleteOne, IndexModel, InsertOne, ReplaceOne, UpdateMany
from pymongo.operations import SearchIndexModel
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from tests.properties import reproducible
from txmongokit.collection import Collection
from txmongokit.cursor import CommandCursor
from txmongokit.database import Database
from txmongokit.errors import PyMongoError

names = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(names, values, min_size=1, max_size=4)

Things = Collection[dict[str, Any]]

# Each is called with a collection and documents of the user's.
CALLS: dict[str, Callable[[Things, dict[str, Any], dict[str, Any]], Any]] = {
    "find": lambda c, one, two: c.find(one, two, sort=two, hint=two, comment=two, let=two),
    "find bounds": lambda c, one, two: c.find(one, min=two, max=two, hint=two, collation=two),
    "find_one": lambda c, one, two: c.find_one(one, two, sort=two, collation=two),
    "aggregate": lambda c, one, two: c.aggregate([{"$match": one}, two], let=two, hint=two),
    "aggregate out": lambda c, one, two: c.aggregate([{"$match": one}, {"$out": "x"}]),
    "count_documents": lambda c, one, two: c.count_documents(one, hint=two, collation=two),
    "distinct": lambda c, one, two: c.distinct("a", one, collation=two, comment=two),
    "replace_one": lambda c, one, two: c.replace_one(one, two, let=two, hint=two),
    "update_one": lambda c, one, two: c.update_one(one, {"$set": two}, array_filters=[two]),
    "update_many": lambda c, one, two: c.update_many(one, [{"$set": two}], collation=two),
    "delete_one": lambda c, one, two: c.delete_one(one, hint=two, let=two),
    "delete_many": lambda c, one, two: c.delete_many(one, collation=two, comment=two),
    "find_one_and_update": lambda c, one, two: c.find_one_and_update(
        one, {"$set": two}, projection=two, sort=two, array_filters=[one], let=two
    ),
    "find_one_and_replace": lambda c, one, two: c.find_one_and_replace(one, two, hint=two),
    "find_one_and_delete": lambda c, one, two: c.find_one_and_delete(one, sort=two, let=two),
    "bulk_write": lambda c, one, two: c.bulk_write(
        [ReplaceOne(one, two), UpdateMany(one, {"$set": two}), DeleteOne(two)], let=one
    ),
    "create_index": lambda c, one, two: c.create_index("a", partialFilterExpression=one),
    "create_indexes": lambda c, one, two: c.create_indexes(
        [IndexModel("a", partialFilterExpression=one)], comment=two
    ),
    "create_search_index": lambda c, one, two: c.create_search_index(SearchIndexModel(one, "s")),
    "drop_index": lambda c, one, two: c.drop_index("a", comment=one),
    "watch": lambda c, one, two: c.watch([one, {"$match": two}]).next(),
    "rename": lambda c, one, two: c.rename("new", comment=two),
    "command": lambda c, one, two: c.database.command({"ping": 1, **one}, comment=two),
    "create_collection": lambda c, one, two: c.database.create_collection(
        "new", collation=one, comment=two
    ),
    "list_collections": lambda c, one, two: c.database.list_collections(filter=one),
}

INSERTS: dict[str, Callable[[Things, dict[str, Any], dict[str, Any]], Any]] = {
    "insert_one": lambda c, one, two: c.insert_one(one, comment=two),
    "insert_many": lambda c, one, two: c.insert_many([one], comment=two),
    "bulk_write": lambda c, one, two: c.bulk_write([InsertOne(one)]),
}


def collection(*replies: Any, **options: Any) -> tuple[FakeRunner, Things]:
    """A collection, and what runs its commands."""
    runner = FakeRunner(*replies)
    database: Database[dict[str, Any]] = Database(runner, "db")
    return runner, database["things"].with_options(**options)


def begun(call: Callable[..., Any], *arguments: Any) -> None:
    """Make a call, and have it send what it has to send, whatever comes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = call(*arguments)
        except (TypeError, ValueError, PyMongoError):
            return  # Many documents are no arguments.
    if isinstance(made, CommandCursor):
        made = made.next_batch()
    if isinstance(made, Deferred):
        made.addErrback(lambda failure: None)


class CallerTests(SynchronousTestCase):
    """What a caller has given."""

    @reproducible(25)
    @given(documents, documents)
    def test_unchanged(self, one: dict[str, Any], two: dict[str, Any]) -> None:
        """No method changes what it is given."""
        for name, call in CALLS.items():
            before = copy.deepcopy((one, two))
            _, things = collection(cursor_reply([]))
            begun(call, things, one, two)
            self.assertEqual((one, two), before, name)
            self.assertEqual(
                [list(each) for each in (one, two)], [list(each) for each in before], name
            )

    @reproducible(25)
    @given(documents, documents)
    def test_inserted(self, one: dict[str, Any], two: dict[str, Any]) -> None:
        """An insertion adds an C{_id}, and nothing else; none where there is one."""
        for name, call in INSERTS.items():
            mine, other = copy.deepcopy((one, two))
            runner, things = collection()
            begun(call, things, mine, other)
            self.assertEqual(len(runner.requests), 1, name)
            self.assertEqual(other, two)
            self.assertIn("_id", mine)
            identifier = mine["_id"]
            self.assertEqual(mine, {**one, "_id": identifier})
            begun(call, things, mine, other)
            self.assertEqual(mine, {**one, "_id": identifier}, name)

    def test_all_send(self) -> None:
        """With documents that make sense every call above sends a command."""
        second: list[dict[str, Any]] = [{"a": 1}, {"locale": "de"}, {"$match": {}}]
        for name, call in {**CALLS, **INSERTS}.items():
            sent = False
            # What makes sense as keys makes none as a collation.
            for two in second:
                runner, things = collection(cursor_reply([]))
                begun(call, things, {"locale": "de"}, two)
                sent = sent or bool(runner.requests)
            self.assertTrue(sent, name)


class CodecTests(SynchronousTestCase):
    """Codec options are for what users wrote, not for what the server says besides."""

    def test_only_documents(self) -> None:
        """Raw documents in and out, and plain numbers and names around them."""
        raw = RawBSONDocument(bytes.fromhex("0e000000105f6964000100000000"))
        options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
        runner, things = collection(
            cursor_reply([{"_id": 1}]),
            {"n": 1, "ok": 1.0},
            {"value": {"_id": 1}, "ok": 1.0},
            {"values": [{"_id": 1}], "ok": 1.0},
            {"n": 1, "upserted": [{"index": 0, "_id": {"_id": 1}}], "ok": 1.0},
            codec_options=options,
        )
        self.assertEqual(self.successResultOf(things.find_one(raw)), raw)
        self.assertEqual(self.successResultOf(things.insert_one(raw)).inserted_id, 1)
        self.assertEqual(self.successResultOf(things.find_one_and_delete(raw)), raw)
        self.assertEqual(self.successResultOf(things.distinct("a")), [raw])
        result = self.successResultOf(things.replace_one({}, raw, upsert=True))
        self.assertEqual(result.upserted_id, raw)
        self.assertEqual(result.matched_count, 0)
        self.assertEqual(runner.statements(1), [{"_id": 1}])


class UnknownOptionTests(SynchronousTestCase):
    """Options that do not exist."""

    def test_refused(self) -> None:
        """Each is a TypeError at once, and nothing is sent."""
        wrong: dict[str, Any] = {"no_such_option": 1}
        runner, things = collection()
        calls: dict[str, Callable[[], Any]] = {
            "find": lambda: things.find({}, **wrong),
            "find_one": lambda: things.find_one({}, **wrong),
            "find_raw_batches": lambda: things.find_raw_batches({}, **wrong),
            "aggregate": lambda: things.aggregate([], **wrong),
            "count_documents": lambda: things.count_documents({}, **wrong),
            "estimated_document_count": lambda: things.estimated_document_count(**wrong),
            "distinct": lambda: things.distinct("a", **wrong),
            "insert_one": lambda: things.insert_one({}, **wrong),
            "insert_many": lambda: things.insert_many([{}], **wrong),
            "bulk_write": lambda: things.bulk_write([InsertOne({})], **wrong),
            "replace_one": lambda: things.replace_one({}, {}, **wrong),
            "update_one": lambda: things.update_one({}, {"$set": {}}, **wrong),
            "update_many": lambda: things.update_many({}, {"$set": {}}, **wrong),
            "delete_one": lambda: things.delete_one({}, **wrong),
            "delete_many": lambda: things.delete_many({}, **wrong),
            "find_one_and_update": lambda: things.find_one_and_update({}, {"$set": {}}, **wrong),
            "find_one_and_replace": lambda: things.find_one_and_replace({}, {}, **wrong),
            "find_one_and_delete": lambda: things.find_one_and_delete({}, **wrong),
            "watch": lambda: things.watch([], **wrong),
            "with_options": lambda: things.with_options(**wrong),
        }
        for name, call in calls.items():
            with self.assertRaises(TypeError, msg=name):
                call()
        self.assertEqual(runner.requests, [])


class SecretTests(SynchronousTestCase):
    """What errors tell."""

    SECRET = "hunter2-4711"

    def test_wrong_arguments(self) -> None:
        """An error about arguments does not hold what documents hold."""
        secret = {"password": self.SECRET}
        for things in (
            collection()[1],
            collection(write_concern=WriteConcern(w=0))[1],
        ):
            calls: tuple[Callable[[Any], Any], ...] = (
                lambda it: it.update_one({}, secret),
                lambda it: it.replace_one({}, {"$set": secret}),
                lambda it: it.insert_many([secret, self.SECRET]),
                lambda it: it.insert_one({**secret, "x": object()}),
                lambda it: it.insert_one([self.SECRET]),
                lambda it: it.find(self.SECRET + " "),
                lambda it: it.find({}, sort=[secret]),
                lambda it: it.bulk_write([secret]),
                lambda it: it.aggregate(secret),
                lambda it: it.find_one_and_replace({}, {"$set": secret}),
                lambda it: it.update_one({}, {"$set": {**secret, "x": object()}}),
                lambda it: it.delete_one(self.SECRET),
            )
            for call in calls:
                try:
                    made = call(things)
                except Exception as error:
                    self.assertNotIn(self.SECRET, str(error))
                    continue
                if isinstance(made, CommandCursor):
                    made = made.next_batch()
                if isinstance(made, Deferred):
                    found: list[str] = []
                    made.addErrback(lambda failure, to: to.append(str(failure.value)), found)
                    self.assertNotIn(self.SECRET, "".join(found))
