"""
Tests for L{txmongokit.web.extendedjson}.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import bson
from bson.binary import Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.web.extendedjson import BodyError, read_document, show_document

UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
# Those of sessions' data.
OPTIONS: CodecOptions[Any] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
VALUES: dict[str, Any] = {
    "text": "Ä\0",
    "none": None,
    "number": 1,
    "long": Int64(1 << 60),
    "float": 1.5,
    "money": Decimal128("0.10"),
    "id": ObjectId("5f5f5f5f5f5f5f5f5f5f5f5f"),
    "when": datetime(2026, 11, 21, 15, 0, 0, 123000, tzinfo=UTC),
    "bytes": b"\xff",
    "marked": Binary(b"\x00", 128),
    "uuid": Binary.from_uuid(UUID),
    "old uuid": Binary(UUID.bytes_le, 3),
    "reference": DBRef("users", {"a": [1]}, "admin"),
    "code": Code("f", {"a": 1}),
    "list": [True, {"a": {"b": []}}],
}
NAMES = st.sampled_from(
    [
        "$oid",
        "$date",
        "$binary",
        "base64",
        "subType",
        "$numberDecimal",
        "$numberLong",
        "$uuid",
        "$code",
        "$scope",
        "$timestamp",
        "t",
        "i",
        "$regularExpression",
        "pattern",
        "$ref",
        "$id",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
BODIES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner) | st.lists(inner))


class ExtendedJSONTests(SynchronousTestCase):
    """
    L{read_document} and L{show_document}.
    """

    def test_there_and_back(self) -> None:
        """What is shown is read as what it was."""
        shown = show_document(VALUES)
        self.assertEqual(read_document(shown), VALUES)
        self.assertTrue(shown.endswith(b"}\n"))
        self.assertEqual(json.loads(shown)["when"], {"$date": "2026-11-21T15:00:00.123Z"})

    def test_uuids(self) -> None:
        """They are shown as what they are stored as, and read from either form."""
        shown = show_document({"u": UUID})
        self.assertEqual(json.loads(shown)["u"]["$binary"]["subType"], "04")
        for raw in (shown, json.dumps({"u": {"$uuid": str(UUID)}}).encode()):
            self.assertEqual(bson.decode(bson.encode(read_document(raw)), OPTIONS), {"u": UUID})

    def test_refused(self) -> None:
        """What cannot be stored is refused, with a sentence."""
        deep = b'{"a":' * 64 + b"1" + b"}" * 64
        for raw, part in (
            (b"", "extended JSON"),
            (b"{", "extended JSON"),
            (b'{"a": NaN}', "extended JSON"),
            (b'{"a": "\xff"}', "extended JSON"),
            (b'{"a": {"$oid": "x"}}', "extended JSON"),
            (b'{"a": {"$date": []}}', "extended JSON"),
            (b'{"a": {"$numberDecimal": "x"}}', "extended JSON"),
            (b"[]", "JSON object"),
            (b"1", "JSON object"),
            (b'{"$oid": "5f5f5f5f5f5f5f5f5f5f5f5f"}', "JSON object"),
            (b'{"a": 1000000000000000000000}', "BSON cannot have"),
            (b'{"a": "\\ud800"}', "BSON cannot have"),
            (b'{"a\\u0000": 1}', "BSON cannot have"),
            (b'{"a": {"$binary": {"base64": "AA==", "subType": "04"}}}', "BSON cannot have"),
            (b'{"b":' + deep + b"}", "64 deep"),
            (b'{"b": {"$ref": "c", "$id":' + deep + b"}}", "64 deep"),
            (b'{"b": {"$ref": "c", "$id": 1, "d":' + deep + b"}}", "64 deep"),
            (b'{"b": {"$code": "", "$scope":' + deep + b"}}", "64 deep"),
            (b'{"a":' * 5000, "64 deep"),
            (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "64 deep"),
        ):
            error = self.assertRaises(BodyError, read_document, raw)
            self.assertIn(part, str(error))
        self.assertEqual(read_document(deep), json.loads(deep))

    @given(BODIES)
    @settings(max_examples=300, deadline=None, derandomize=True)
    def test_anything(self, body: object) -> None:
        """Any body is read as something that can be stored and shown, or refused."""
        try:
            found = read_document(json.dumps({"a": body}).encode())
        except BodyError:
            return
        show_document(bson.decode(bson.encode(found), OPTIONS))
