"""
Tests for L{txmongokit.replicator.ddl}.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from bson.binary import Binary
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.ddl import DDL, UnsupportedDDL, translate, translate_view
from txmongokit.replicator.selection import Selection

ALL = Selection()
RENAMED = Selection(["app"], renames=["app=copy", "app.users=copy.people"])
ID_INDEX = {"v": 2, "key": {"_id": 1}, "name": "_id_", "ns": "app.users"}


def command(ns: str, o: dict[str, Any], selection: Selection = ALL) -> DDL:
    """A translation that there must be."""
    found = translate(ns, o, None, selection)
    assert found is not None
    return found


class CreateTests(SynchronousTestCase):
    """
    New collections and views.
    """

    def test_options(self) -> None:
        """Every option is kept, what the server decides by itself is not."""
        options = {
            "capped": True,
            "size": 4096,
            "validator": {"n": {"$gt": 1}},
            "validationLevel": "moderate",
            "collation": {"locale": "de"},
            "clusteredIndex": {"key": {"_id": 1}, "unique": True},
            "expireAfterSeconds": 10,
            "changeStreamPreAndPostImages": {"enabled": True},
        }
        internal = {"idIndex": ID_INDEX, "temp": True, "autoIndexId": True}
        found = command("app.$cmd", {"create": "users", **internal, **options})
        self.assertEqual(found.database, "app")
        self.assertEqual(found.command, {"create": "users", **options})
        self.assertEqual(found.done_codes, {48})
        self.assertTrue(found.verify_options)

    def test_renamed(self) -> None:
        """It is made under its new name."""
        found = command("app.$cmd", {"create": "users", "idIndex": ID_INDEX}, RENAMED)
        self.assertEqual((found.database, found.command), ("copy", {"create": "people"}))
        self.assertEqual(found.namespaces, ("copy.people",))

    def test_view(self) -> None:
        """A view's collection is renamed, too."""
        found = command("app.$cmd", {"create": "v", "viewOn": "users", "pipeline": []}, RENAMED)
        self.assertEqual(found.command, {"create": "v", "viewOn": "people", "pipeline": []})

    def test_view_torn_from_its_collection(self) -> None:
        """A view and its collection must stay in one database."""
        selection = Selection(renames=["app.users=other.users"])
        o = {"create": "v", "viewOn": "users", "pipeline": []}
        error = self.assertRaises(UnsupportedDDL, translate, "app.$cmd", o, None, selection)
        self.assertIn("rename them alike", str(error))

    def test_time_series(self) -> None:
        """A time series is logged as its buckets, and made as a whole."""
        series = {"timeField": "t", "granularity": "hours"}
        o = {
            "create": "system.buckets.weather",
            "timeseries": {**series, "bucketMaxSpanSeconds": 2592000},
            "validator": {"$jsonSchema": {}},
            "clusteredIndex": True,
            "expireAfterSeconds": 60,
        }
        found = command("app.$cmd", o)
        self.assertEqual(found.namespaces, ("app.weather",))
        self.assertEqual(
            found.command, {"create": "weather", "expireAfterSeconds": 60, "timeseries": series}
        )
        self.assertTrue(found.verify_options)
        o = {"create": "weather", "timeseries": series}
        error = self.assertRaises(UnsupportedDDL, translate, "app.$cmd", o, None, ALL)
        self.assertIn("app.weather", str(error))

    def test_series_changed_and_dropped(self) -> None:
        """What is done to its buckets is done to the time series."""
        selection = Selection(["app.weather"], renames=["app.weather=app.climate"])
        series = {"granularity": "hours", "bucketMaxSpanSeconds": 2592000}
        o = {"collMod": "system.buckets.weather", "timeseries": series}
        found = command("app.$cmd", o, selection)
        self.assertEqual(
            found.command, {"collMod": "climate", "timeseries": {"granularity": "hours"}}
        )
        found = command("app.$cmd", {"drop": "system.buckets.weather"}, selection)
        self.assertEqual(found.command, {"drop": "climate"})

    def test_converted(self) -> None:
        """A collection may become a capped one."""
        found = command("app.$cmd", {"convertToCapped": "users", "size": 4096}, RENAMED)
        self.assertEqual(found.command, {"convertToCapped": "people", "size": 4096})

    def test_made_by_itself(self) -> None:
        """The collection of the views' definitions comes with the first view."""
        self.assertIsNone(translate("app.$cmd", {"create": "system.views"}, None, ALL))


class DropTests(SynchronousTestCase):
    """
    What is removed.
    """

    def test_collection(self) -> None:
        """A collection, by its new name; that it is gone already is fine."""
        found = command("app.$cmd", {"drop": "users"}, RENAMED)
        self.assertEqual((found.database, found.command), ("copy", {"drop": "people"}))
        self.assertEqual(found.done_codes, {26})

    def test_database(self) -> None:
        """A whole database only where all of it is selected."""
        found = command("app.$cmd", {"dropDatabase": 1})
        self.assertEqual((found.database, found.command), ("app", {"dropDatabase": 1}))
        for selection in (Selection(["app.x"]), Selection([], ["app.x"]), RENAMED):
            self.assertIsNone(translate("app.$cmd", {"dropDatabase": 1}, None, selection))

    def test_indexes(self) -> None:
        """Indexes by name, under each name that the command has had."""
        for verb in ("dropIndexes", "deleteIndexes"):
            found = command("app.$cmd", {verb: "users", "index": "a_1"}, RENAMED)
            self.assertEqual(found.command, {"dropIndexes": "people", "index": "a_1"})
            self.assertEqual(found.done_codes, {26, 27})


class RenameTests(SynchronousTestCase):
    """
    Collections that get another name in the source.
    """

    def test_drop_target(self) -> None:
        """What was dropped is logged as an identity, and meant as a flag."""
        for logged, meant in ((Binary(uuid4().bytes, 4), True), (False, False), (True, True)):
            o = {
                "renameCollection": "app.a",
                "to": "app.b",
                "stayTemp": False,
                "dropTarget": logged,
            }
            found = command("app.$cmd", o)
            self.assertEqual(found.database, "admin")
            self.assertEqual(
                found.command,
                {"renameCollection": "app.a", "to": "app.b", "dropTarget": meant},
            )
            self.assertEqual((found.done_codes, found.done_codes_repeated), (set(), {26}))

    def test_renamed(self) -> None:
        """Both names are the destination's."""
        o = {"renameCollection": "app.users", "to": "app.old"}
        self.assertEqual(
            command("app.$cmd", o, RENAMED).command,
            {"renameCollection": "copy.people", "to": "copy.old", "dropTarget": False},
        )

    def test_edge(self) -> None:
        """A rename from or to what is not selected is refused, by both names."""
        selection = Selection(["app.a"])
        for old, new in (("app.a", "app.b"), ("app.b", "app.a")):
            o = {"renameCollection": old, "to": new}
            error = self.assertRaises(UnsupportedDDL, translate, "app.$cmd", o, None, selection)
            self.assertIn("app.a", str(error))
            self.assertIn("app.b", str(error))
        outside = {"renameCollection": "app.b", "to": "app.c"}
        self.assertIsNone(translate("app.$cmd", outside, None, selection))

    def test_temporary(self) -> None:
        """What a temporary collection becomes decides whether it is kept."""
        selection = Selection(["app.a"])
        old = "app.tmp.agg_out.1-2"
        o = {"renameCollection": old, "to": "app.a", "dropTarget": True}
        found = command("app.$cmd", o, selection)
        self.assertEqual(found.command["to"], "app.a")
        found = command("app.$cmd", {**o, "to": "app.b"}, selection)
        self.assertEqual(found.command, {"drop": "tmp.agg_out.1-2"})

    def test_unknown_option(self) -> None:
        """An option that is not known may change what it means."""
        o = {"renameCollection": "app.a", "to": "app.b", "sideways": True}
        error = self.assertRaises(UnsupportedDDL, translate, "app.$cmd", o, None, ALL)
        self.assertIn("sideways", str(error))


class IndexTests(SynchronousTestCase):
    """
    Indexes that are built.
    """

    SPECIFICATION = {  # noqa: RUF012 (never changed)
        "v": 2,
        "key": {"a": 1, "b": -1},
        "name": "a_1_b_-1",
        "unique": True,
        "partialFilterExpression": {"a": {"$gt": 1}},
        "expireAfterSeconds": 60,
        "collation": {"locale": "de"},
        "hidden": True,
    }

    def test_inline(self) -> None:
        """On an empty collection the specification is in the command itself."""
        found = command(
            "app.$cmd", {"createIndexes": "users", **self.SPECIFICATION, "ns": "app.users"}, RENAMED
        )
        self.assertEqual(
            found.command, {"createIndexes": "people", "indexes": [self.SPECIFICATION]}
        )

    def test_collation(self) -> None:
        """An index without a collation does not get its collection's."""
        for version, expected in ((2, {"locale": "simple"}), (1, None)):
            index = {"v": version, "key": {"a": 1}, "name": "a"}
            found = command("app.$cmd", {"createIndexes": "users", **index})
            self.assertEqual(found.command["indexes"][0].get("collation"), expected)

    def test_inline_again(self) -> None:
        """It may be repeated, too."""
        found = command("app.$cmd", {"createIndexes": "users", **self.SPECIFICATION})
        self.assertEqual(found.done_codes, set())

    def test_build(self) -> None:
        """Elsewhere the end of the build counts, and nothing before it."""
        o = {
            "commitIndexBuild": "users",
            "indexBuildUUID": Binary(uuid4().bytes, 4),
            "indexes": [self.SPECIFICATION, {"v": 2, "key": {"c": 1}, "name": "c_1"}],
        }
        found = command("app.$cmd", o)
        self.assertEqual([index["name"] for index in found.command["indexes"]], ["a_1_b_-1", "c_1"])
        self.assertEqual(found.command["indexes"][0], self.SPECIFICATION)
        for verb in ("startIndexBuild", "abortIndexBuild"):
            self.assertIsNone(translate("app.$cmd", {verb: "users", "indexes": []}, None, ALL))


class CollModTests(SynchronousTestCase):
    """
    Collections that change.
    """

    def test_options(self) -> None:
        """Everything that changes, in the renamed collection."""
        changes = {
            "validator": {},
            "validationLevel": "off",
            "index": {"name": "a_1", "hidden": True},
        }
        found = command("app.$cmd", {"collMod": "users", **changes}, RENAMED)
        self.assertEqual(found.command, {"collMod": "people", **changes})
        self.assertEqual((found.done_codes, found.done_codes_repeated), (set(), {26}))


class OtherTests(SynchronousTestCase):
    """
    What is left out, and what cannot be.
    """

    def test_not_selected(self) -> None:
        """What is not selected is not looked at."""
        selection = Selection(["app"])
        for o in (
            {"create": "x"},
            {"drop": "x"},
            {"collMod": "x"},
            {"createIndexes": "x", "key": {"a": 1}, "name": "a_1"},
            {"dropIndexes": "x", "index": "a_1"},
            {"dropDatabase": 1},
            {"notKnown": "x"},
        ):
            self.assertIsNone(translate("other.$cmd", o, None, selection), o)

    def test_ignored(self) -> None:
        """Commands that change nothing which a replica must have."""
        for verb in ("setMultikeyMetadata", "dropIdent", "dbCheck"):
            self.assertIsNone(translate("app.$cmd", {verb: "x"}, None, ALL))

    def test_unknown(self) -> None:
        """Any other stops the replication, by its name and without its contents."""
        o = {"shiftCollection": "users", "secret": "do not show"}
        error = self.assertRaises(UnsupportedDDL, translate, "app.$cmd", o, None, ALL)
        self.assertIn("shiftCollection", str(error))
        self.assertIn("app", str(error))
        self.assertNotIn("do not show", str(error))


class ViewTests(SynchronousTestCase):
    """
    Writes to a database's definitions of views.
    """

    NS = "app.system.views"

    def test_made(self) -> None:
        """A definition is a view to create."""
        o = {"_id": "app.v", "viewOn": "users", "pipeline": [{"$match": {}}]}
        found = translate_view("i", self.NS, o, None, RENAMED)
        assert found is not None
        self.assertEqual(found.database, "copy")
        self.assertEqual(
            found.command, {"create": "v", "viewOn": "people", "pipeline": [{"$match": {}}]}
        )

    def test_changed(self) -> None:
        """A changed definition is a collMod, where it is known whole."""
        whole = {"viewOn": "users", "pipeline": []}
        for o in (
            {"_id": "app.v", **whole},
            {"$v": 2, "diff": {"u": whole}},
            {"$v": 1, "$set": whole},
        ):
            found = translate_view("u", self.NS, o, {"_id": "app.v"}, ALL)
            assert found is not None
            self.assertEqual(found.command, {"collMod": "v", **whole})

    def test_changed_in_part(self) -> None:
        """Otherwise it is refused."""
        o = {"$v": 2, "diff": {"spipeline": {"a": True, "l": 1}}}
        self.assertRaises(UnsupportedDDL, translate_view, "u", self.NS, o, {"_id": "app.v"}, ALL)

    def test_dropped(self) -> None:
        """A definition that goes is a view to drop."""
        found = translate_view("d", self.NS, {"_id": "app.v"}, None, RENAMED)
        assert found is not None
        self.assertEqual((found.database, found.command), ("copy", {"drop": "v"}))

    def test_not_selected(self) -> None:
        """Each view is selected by its own name."""
        o = {"_id": "app.v", "viewOn": "users", "pipeline": []}
        self.assertIsNone(translate_view("i", self.NS, o, None, Selection(["app.w"])))

    def test_time_series(self) -> None:
        """The view of a time series is left to the server."""
        unpack = {"$_internalUnpackBucket": {"timeField": "t"}}
        o: dict[str, Any] = {"_id": "app.w", "viewOn": "system.buckets.w", "pipeline": [unpack]}
        self.assertIsNone(translate_view("i", self.NS, o, None, ALL))
        o = {"$v": 2, "diff": {"spipeline": {"a": True, "s0": {"u": unpack}}}}
        self.assertIsNone(translate_view("u", self.NS, o, {"_id": "app.w"}, ALL))

    def test_pipeline(self) -> None:
        """What a pipeline reads has its names in the destination, however deep it is."""
        union = {"$unionWith": "users"}
        o = {
            "_id": "app.v",
            "viewOn": "users",
            "pipeline": [{"$lookup": {"from": "users", "as": "x", "pipeline": [union]}}],
        }
        found = translate_view("i", self.NS, o, None, RENAMED)
        assert found is not None
        lookup = found.command["pipeline"][0]["$lookup"]
        self.assertEqual(lookup["from"], "people")
        self.assertEqual(lookup["pipeline"], [{"$unionWith": "people"}])
