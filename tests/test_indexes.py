"""
Tests for L{txmongokit.indexes}.
"""

from __future__ import annotations

from typing import Any

from pymongo.operations import IndexModel, SearchIndexModel
from pymongo.read_concern import ReadConcern
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import OperationFailure

MISSING = {"ok": 0, "code": 26, "errmsg": "ns not found"}
DEFINITION = {"mappings": {"dynamic": True}}


def collection(runner: FakeRunner, **options: Any) -> Collection[dict[str, Any]]:
    """The collection that all tests use."""
    return Database(runner, "db", **options)["things"]


class IndexTests(SynchronousTestCase):
    """
    Indexes.
    """

    def test_indexes(self) -> None:
        """Indexes are created with their options and listed by name."""
        listed = [{"v": 2, "key": {"a": 1}, "name": "a_1", "unique": True}]
        runner = FakeRunner({"ok": 1}, cursor_reply(listed), {"ok": 1})
        things = collection(runner)
        self.assertEqual(self.successResultOf(things.create_index("a", unique=True)), "a_1")
        index = {"name": "a_1", "key": {"a": 1}, "unique": True}
        self.assertEqual(dict(runner.bodies[0]["indexes"][0]), index)
        information = self.successResultOf(things.index_information())
        self.assertEqual(information, {"a_1": {"v": 2, "key": [("a", 1)], "unique": True}})
        self.successResultOf(things.drop_index([("a", 1)]))
        self.assertEqual(runner.bodies[2], {"dropIndexes": "things", "index": "a_1"})

    def test_options(self) -> None:
        """What is the command's is told from what is the index's."""
        runner = FakeRunner()
        created = collection(runner).create_index(
            [("a", 1), ("b", -1)],
            sparse=True,
            comment="why",
            maxTimeMS=5,
            commit_quorum=2,
            timeout=3,
        )
        self.assertEqual(self.successResultOf(created), "a_1_b_-1")
        (body,) = runner.bodies
        index = {"sparse": True, "name": "a_1_b_-1", "key": {"a": 1, "b": -1}}
        self.assertEqual(
            body,
            {
                "createIndexes": "things",
                "indexes": [index],
                "comment": "why",
                "maxTimeMS": 5,
                "commitQuorum": 2,
            },
        )
        self.assertEqual(runner.commands[0].options.timeout, 3)

    def test_many(self) -> None:
        """Several at once, as PyMongo's models."""
        runner = FakeRunner()
        models = [IndexModel("a"), IndexModel([("b", -1)], name="x")]
        created = collection(runner).create_indexes(models)
        self.assertEqual(self.successResultOf(created), ["a_1", "x"])
        self.assertRaises(TypeError, collection(runner).create_indexes, IndexModel("a"))
        self.assertRaises(TypeError, collection(runner).create_indexes, [{"a": 1}])

    def test_missing_collection(self) -> None:
        """It has no indexes, and dropping them is no error."""
        runner = FakeRunner(MISSING, MISSING, MISSING, {"ok": 0, "code": 27})
        things = collection(runner)
        self.assertEqual(self.successResultOf(things.list_indexes().to_list()), [])
        self.assertEqual(self.successResultOf(things.index_information()), {})
        self.assertIsNone(self.successResultOf(things.drop_indexes()))
        self.failureResultOf(things.drop_index("x"), OperationFailure)


class SearchIndexTests(SynchronousTestCase):
    """
    Search indexes, which only Atlas has.
    """

    def test_create(self) -> None:
        """Models and their arguments will do; names come from the server."""
        runner = FakeRunner(
            {"indexesCreated": [{"id": "1", "name": "default"}], "ok": 1},
            {"indexesCreated": [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}], "ok": 1},
        )
        things = collection(runner)
        created = things.create_search_index({"definition": DEFINITION})
        self.assertEqual(self.successResultOf(created), "default")
        models = [SearchIndexModel(DEFINITION, "a", "vectorSearch"), SearchIndexModel({}, "b")]
        created_many = things.create_search_indexes(models, comment="why")
        self.assertEqual(self.successResultOf(created_many), ["a", "b"])
        expected = {
            "createSearchIndexes": "things",
            "indexes": [
                {"name": "a", "definition": DEFINITION, "type": "vectorSearch"},
                {"name": "b", "definition": {}},
            ],
            "comment": "why",
        }
        self.assertEqual(runner.bodies[1], expected)
        self.assertRaises(TypeError, things.create_search_index, "a")

    def test_list(self) -> None:
        """They are listed by an aggregation without a read concern."""
        runner = FakeRunner(cursor_reply([{"name": "a"}]), cursor_reply([]))
        things = collection(runner, read_concern=ReadConcern("majority"))
        listed = things.list_search_indexes("a", batch_size=10)
        self.assertEqual(self.successResultOf(listed.to_list()), [{"name": "a"}])
        self.assertEqual(
            runner.bodies[0],
            {
                "aggregate": "things",
                "pipeline": [{"$listSearchIndexes": {"name": "a"}}],
                "cursor": {"batchSize": 10},
            },
        )
        self.assertIsNone(runner.commands[0].options.read_concern.level)
        self.successResultOf(things.list_search_indexes().to_list())
        self.assertEqual(runner.bodies[1]["pipeline"], [{"$listSearchIndexes": {}}])

    def test_change(self) -> None:
        """They are updated and dropped by name."""
        runner = FakeRunner({"ok": 1}, MISSING)
        things = collection(runner)
        self.assertIsNone(self.successResultOf(things.update_search_index("a", DEFINITION)))
        self.assertIsNone(self.successResultOf(things.drop_search_index("a")))
        self.assertEqual(
            runner.bodies,
            [
                {"updateSearchIndex": "things", "name": "a", "definition": DEFINITION},
                {"dropSearchIndex": "things", "name": "a"},
            ],
        )
