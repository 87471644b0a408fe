"""
Tests for L{txmongokit.replicator.blueprints}.
"""

from __future__ import annotations

from typing import Any

from bson.binary import Binary
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.blueprints import (
    Blueprint,
    blueprints,
    is_deferred,
    requested,
    view_order,
)


def listed(name: str, kind: str = "collection", **options: Any) -> dict[str, Any]:
    """A document of C{listCollections}."""
    return {
        "name": name,
        "type": kind,
        "options": options,
        "info": {"readOnly": False} | ({"uuid": Binary(name.ljust(16).encode()[:16], 4)}),
    }


def view(name: str, on: str) -> Blueprint:
    """A view."""
    return Blueprint(b"", f"db.{name}", "view", {"viewOn": on, "pipeline": []})


class BlueprintTests(SynchronousTestCase):
    """
    What is made of the source's catalog.
    """

    def test_collections(self) -> None:
        """Options are kept, but what the server decides itself, and expiry, which waits."""
        (found,) = blueprints(
            "db", [listed("c", capped=True, size=4096, temp=True, expireAfterSeconds=5)]
        )
        self.assertEqual(found.namespace, "db.c")
        self.assertEqual(found.options, {"capped": True, "size": 4096})
        self.assertEqual(found.expire, 5)
        self.assertTrue(found.is_capped)
        self.assertFalse(found.by_id)
        self.assertEqual(found.uuid, b"c" + b" " * 15)

    def test_kinds(self) -> None:
        """Views have no data, and a time series has it in its buckets."""
        found = blueprints(
            "db",
            [
                listed("v", "view", viewOn="c"),
                listed("system.views"),
                listed("ts", "timeseries", timeseries={"timeField": "t"}),
                listed("system.buckets.ts", validator={}),
            ],
        )
        self.assertEqual([each.kind for each in found], ["view", "views", "buckets"])
        self.assertEqual([each.has_data for each in found], [False, False, True])
        self.assertEqual(found[2].options, {"timeseries": {"timeField": "t"}})
        self.assertEqual(found[2].visible_name, "ts")

    def test_by_id(self) -> None:
        """A collation, as clustering, makes another order of C{_id}s than the usual one."""
        made = blueprints(
            "db",
            [
                listed("a"),
                listed("b", collation={"locale": "de"}),
                listed("c", collation={"locale": "simple"}),
                listed("d", clusteredIndex={"key": {"_id": 1}}),
            ],
        )
        self.assertEqual([each.by_id for each in made], [True, False, True, False])

    def test_indexes(self) -> None:
        """Unique indexes and those that delete wait; the one on C{_id} is there already."""
        made = Blueprint(b"u", "db.c", "collection", {})
        made.add_indexes(
            [
                {"v": 2, "key": {"_id": 1}, "name": "_id_"},
                {"v": 2, "key": {"_id": 1}, "name": "ci", "clustered": True},
                {"v": 2, "key": {"a": 1}, "name": "a_1", "ns": "db.c", "background": True},
                {"v": 2, "key": {"b": 1}, "name": "b_1", "unique": True},
                {"v": 2, "key": {"c": 1}, "name": "c_1", "expireAfterSeconds": 0},
            ]
        )
        self.assertEqual(made.indexes, [{"v": 2, "key": {"a": 1}, "name": "a_1"}])
        self.assertEqual([each["name"] for each in made.deferred], ["b_1", "c_1"])
        self.assertTrue(is_deferred({"prepareUnique": True}))

    def test_requested(self) -> None:
        """An index has its own collation or none, never by default the collection's."""
        found = requested([{"name": "a"}, {"name": "b", "collation": {"locale": "fr"}}])
        self.assertEqual([each["collation"]["locale"] for each in found], ["simple", "fr"])

    def test_stored(self) -> None:
        """What is stored is what is read, whatever the names in it."""
        made = Blueprint(b"u" * 16, "db.c", "collection", {"validator": {"a.b": {"$gt": 1}}})
        made.add_indexes([{"key": {"$**": 1}, "name": "w"}])
        made.alive, made.documents, made.known_end = False, 5, 1 << 40
        self.assertEqual(Blueprint.unpack(made.pack()), made)

    def test_views_on_views(self) -> None:
        """A view comes after the one that it is on."""
        views = [view("a", "c"), view("b", "coll"), view("c", "b"), view("d", "a")]
        self.assertEqual([each.name for each in view_order(views)], ["b", "c", "a", "d"])
