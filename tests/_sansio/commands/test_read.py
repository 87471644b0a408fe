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
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.read import (
    Aggregate,
    AggregateWrite,
    Find,
    FindOne,
    GetMore,
    KillCursors,
    aggregate_command,
)
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
