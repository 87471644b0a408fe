"""
Tests for L{txmongokit._sansio.commands.read}.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.read import (
    Aggregate,
    AggregateWrite,
    Count,
    CountDocuments,
    CursorCommand,
    EstimatedCount,
    Find,
    FindOne,
    GetMore,
    KillCursors,
    MapReduce,
    aggregate_command,
)
from txmongokit.errors import ProtocolError, WriteConcernError
from txmongokit.types import ConnectionInfo

INFO = ConnectionInfo(("a", 1), 2, max_wire_version=17)
OPTIONS = CommandOptions()


class FindTests(SynchronousTestCase):
    """
    C{find} and what follows it.
    """

    def test_every_option(self) -> None:
        """Every option that is given is sent, None and no other left out."""
        command = Find(
            "db",
            "c",
            OPTIONS,
            {"a": 1},
            projection=["a"],
            sort=[("a", -1)],
            skip=0,
            hint={"a": 1},
            min={"a": 1},
            max=[("a", 2)],
            collation={"locale": "de"},
            comment="",
            let={"v": 1},
            max_time_ms=0,
            allow_disk_use=False,
            allow_partial_results=True,
            no_cursor_timeout=True,
            return_key=None,
            show_record_id=True,
        )
        body = command.build(INFO).body
        self.assertEqual(
            body,
            {
                "find": "c",
                "filter": {"a": 1},
                "projection": {"a": 1},
                "sort": {"a": -1},
                "skip": 0,
                "hint": {"a": 1},
                "min": {"a": 1},
                "max": {"a": 2},
                "collation": {"locale": "de"},
                "comment": "",
                "let": {"v": 1},
                "maxTimeMS": 0,
                "allowDiskUse": False,
                "allowPartialResults": True,
                "noCursorTimeout": True,
                "showRecordId": True,
            },
        )
        self.assertEqual(command.namespace, "db.c")

    def test_build_is_repeatable(self) -> None:
        """What is written into one request does not reach the next."""
        command = FindOne("db", "c", OPTIONS, {})
        command.build(INFO).body["lsid"] = 1
        self.assertNotIn("lsid", command.build(INFO).body)

    def test_oplog_replay(self) -> None:
        """The flag goes only to servers that need it."""
        command = Find("db", "c", OPTIONS, oplog_replay=True)
        self.assertNotIn("oplogReplay", command.build(INFO).body)
        self.assertIn("oplogReplay", command.build(replace(INFO, max_wire_version=8)).body)

    def test_get_more(self) -> None:
        """A getMore goes to the cursor's server, with a comment where that is known."""
        command = GetMore("db.a.b", 5, ("a", 1), OPTIONS, batch_size=2, comment="why")
        body = command.build(INFO).body
        expected = {"getMore": 5, "collection": "a.b", "batchSize": 2, "comment": "why"}
        self.assertEqual(body, expected)
        self.assertIsInstance(body["getMore"], bson.Int64)
        self.assertEqual(command.address, ("a", 1))
        self.assertNotIn("comment", command.build(replace(INFO, max_wire_version=8)).body)
        kill = KillCursors("db.a.b", [5], ("a", 1), OPTIONS)
        self.assertEqual(kill.build(INFO).body, {"killCursors": "a.b", "cursors": [5]})

    def test_codec(self) -> None:
        """Only user documents are decoded with the user's codec."""
        codec: CodecOptions[Any] = CodecOptions(document_class=OrderedDict)
        command = FindOne("db", "c", replace(OPTIONS, codec_options=codec))
        raw = bson.encode({"cursor": {"firstBatch": [{"a": {}}], "id": 0, "ns": "db.c"}, "ok": 1})
        found = command.parse(command.decode(raw), INFO)
        self.assertIsInstance(found, OrderedDict)
        self.assertIsInstance(found["a"], OrderedDict)


class RawTests(SynchronousTestCase):
    """
    Batches that stay bytes.
    """

    def batch(self, reply: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
        """The documents and the whole reply, as a raw find sees them."""
        command = Find("db", "c", OPTIONS, raw=True)
        decoded = command.decode(bson.encode(reply))
        return command.parse(decoded, INFO).documents, decoded

    def test_layouts(self) -> None:
        """Documents and everything around them come out, in whatever order."""
        documents: list[dict[str, Any]] = [{"_id": 1, "x": "y"}, {"_id": 2}]
        raws = [bson.encode(document) for document in documents]
        rest = {"ok": 1.0, "operationTime": Timestamp(3, 4), "$clusterTime": {"x": 1}}
        for name in ("firstBatch", "nextBatch"):
            for cursor in (
                {name: documents, "postBatchResumeToken": {"t": 1}, "id": 7, "ns": "db.c"},
                {"id": 7, "ns": "db.c", name: documents, "postBatchResumeToken": {"t": 1}},
            ):
                replies: list[dict[str, Any]] = [
                    {"cursor": cursor, **rest},
                    {**rest, "cursor": cursor},
                ]
                for reply in replies:
                    found, decoded = self.batch(reply)
                    self.assertEqual(found, raws)
                    self.assertEqual(decoded["operationTime"], Timestamp(3, 4))
                    self.assertEqual(decoded["$clusterTime"]["x"], 1)
                    self.assertEqual(decoded["cursor"]["id"], 7)
                    self.assertEqual(decoded["cursor"]["postBatchResumeToken"]["t"], 1)

    def test_empty(self) -> None:
        """An empty batch is an empty list."""
        found, _ = self.batch({"cursor": {"firstBatch": [], "id": 0, "ns": "db.c"}, "ok": 1})
        self.assertEqual(found, [])

    def test_error(self) -> None:
        """An error reply decodes as any other."""
        command = Find("db", "c", OPTIONS, raw=True)
        reply = {"ok": 0.0, "errmsg": "no", "code": 136, "errorLabels": ["x"]}
        self.assertEqual(dict(command.decode(bson.encode(reply))), reply)


class AggregateTests(SynchronousTestCase):
    """
    C{aggregate}.
    """

    def test_kinds(self) -> None:
        """$out and $merge at the end make a write that is never tried twice."""
        for stage, kind in (
            ("$out", AggregateWrite),
            ("$merge", AggregateWrite),
            ("$sort", Aggregate),
        ):
            command = aggregate_command("db", "c", OPTIONS, [{stage: "x"}])
            self.assertIs(type(command), kind)
            self.assertEqual(command.retryable, kind is Aggregate)
        self.assertRaises(TypeError, aggregate_command, "db", "c", OPTIONS, {"$match": {}})

    def test_write_body(self) -> None:
        """A writing pipeline has its read concern and no empty first batch."""
        options = replace(OPTIONS, read_concern=ReadConcern("majority"))
        command = aggregate_command("db", "c", options, [{"$out": "x"}], batch_size=0)
        body = command.build(INFO).body
        self.assertEqual(body["readConcern"], {"level": "majority"})
        self.assertEqual(body["cursor"], {})


class PointQueryTests(SynchronousTestCase):
    """
    Which queries may share a connection.
    """

    def test_find_one(self) -> None:
        """Those of an C{_id} without options that could take time."""
        for filter, arguments, shareable in (
            ({"_id": 1}, {}, True),
            ({"_id": 1}, {"projection": ["a"], "comment": "x", "sort": None}, True),
            ({"_id": 1}, {"projection": {"a": {"$add": [1, 2]}}}, False),
            ({"_id": 1}, {"sort": "a"}, False),
            ({"_id": 1}, {"collation": {"locale": "de"}}, False),
            ({"a": 1}, {}, False),
            (None, {}, False),
        ):
            command = FindOne("db", "c", OPTIONS, filter, arguments)
            self.assertIs(command.shareable, shareable, (filter, arguments))

    def test_find(self) -> None:
        """A cursor's, if it asks for one document."""
        for limit, shareable in ((1, True), (-1, True), (0, False), (2, False)):
            command = Find("db", "c", OPTIONS, {"_id": 1}, limit=limit)
            self.assertIs(command.shareable, shareable)

    def test_linearizable(self) -> None:
        """Reading what a majority confirms first is not quick."""
        options = replace(OPTIONS, read_concern=ReadConcern("linearizable"))
        self.assertFalse(FindOne("db", "c", options, {"_id": 1}).shareable)


class WritingPipelineTests(SynchronousTestCase):
    """
    Where pipelines that write go.
    """

    def command(self, preference: Any) -> AggregateWrite:
        """One that ends in C{$out}."""
        options = replace(OPTIONS, read_preference=preference)
        command = aggregate_command("db", "c", options, [{"$out": "x"}])
        assert isinstance(command, AggregateWrite)
        return command

    def test_primary(self) -> None:
        """To the primary by default."""
        command = self.command(ReadPreference.PRIMARY)
        self.assertFalse(command.follows_read_preference)
        self.assertFalse(command.retryable)

    def test_versions(self) -> None:
        """Where the preference says, if the servers can, as the selection shows."""

        class Selection:
            """Servers of one version."""

            def __init__(self, version: int | None) -> None:
                self.common_wire_version = version
                self.server_descriptions: list[Any] = []
                self.primary = None
                self.primary_selection = self

            def secondary_with_tags(self, *_: Any) -> Selection:
                """What a preference does with it does not matter here."""
                return self

        command = self.command(ReadPreference.SECONDARY_PREFERRED)
        self.assertTrue(command.follows_read_preference)
        preference = command.options.read_preference
        self.assertEqual(preference.document, {"mode": "secondaryPreferred"})
        for version, mode in ((12, "primary"), (13, "secondaryPreferred"), (9, "primary")):
            preference.settle(version)
            self.assertEqual(preference.document["mode"], mode)
        preference(Selection(9))
        self.assertEqual(preference.mode, 0)
        command.build(INFO)
        self.assertEqual(preference.document["mode"], "secondaryPreferred")


class CountTests(SynchronousTestCase):
    """
    Counts and mapReduce.
    """

    def test_count(self) -> None:
        """The C{count} command, with or without a filter."""
        command = Count("db", "c", OPTIONS, {"a": 1}, skip=1, limit=2, raw_data=True)
        body = {"count": "c", "query": {"a": 1}, "skip": 1, "limit": 2}
        self.assertEqual(command.build(INFO).body, body)
        self.assertTrue(command.retryable)
        self.assertEqual(command.parse({"n": 3.0}, INFO), 3)
        self.assertEqual(EstimatedCount("db", "c", OPTIONS).build(INFO).body, {"count": "c"})
        self.assertRaises(TypeError, EstimatedCount, "db", "c", OPTIONS, hint="a_1")
        self.assertRaises(TypeError, CountDocuments, "db", "c", OPTIONS, {}, allow_disk_use=True)

    def test_map_reduce(self) -> None:
        """Inline it is a read, otherwise a write; it is never tried twice."""
        inline = MapReduce("db", "c", OPTIONS, "m", "r", {"inline": 1}, js_mode=True)
        self.assertEqual(
            inline.build(INFO).body,
            {"mapReduce": "c", "map": "m", "reduce": "r", "out": {"inline": 1}, "jsMode": True},
        )
        other = MapReduce("db", "c", OPTIONS, "m", "r", "target")
        kinds = [(each.is_read, each.is_write, each.retryable) for each in (inline, other)]
        self.assertEqual(kinds, [(True, False, False), (False, True, False)])
        unmet = {"ok": 1, "writeConcernError": {"code": 100, "errmsg": "x"}}
        self.assertRaises(WriteConcernError, other.parse, unmet, INFO)

    def test_no_batch(self) -> None:
        """A reply without a batch names the command that it came to."""
        command = CursorCommand("db", None, OPTIONS, {"listThings": 1})
        for reply in ({"ok": 1}, {"ok": 1, "cursor": {}}, {"ok": 1, "cursor": 5}):
            error = self.assertRaises(ProtocolError, command.parse, reply, INFO)
            self.assertIn("listThings", str(error))
