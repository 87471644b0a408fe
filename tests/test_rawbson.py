"""
Tests for L{txmongokit.rawbson}.
"""

from __future__ import annotations

import datetime
from typing import Any

import bson
from bson.decimal128 import Decimal128
from bson.errors import InvalidBSON
from bson.int64 import Int64
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.rawbson import (
    array_documents,
    cursor_batch,
    elements,
    find_element,
    rename_element,
    split_documents,
    values_equal_key,
    wrap,
)

# Two characters, as bson.encode moves a name "_id" to the front.
NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=2)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.binary(max_size=6),
    st.builds(bson.ObjectId, st.binary(min_size=12, max_size=12)),
    st.builds(bson.Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.just(bson.MinKey()),
    st.just(bson.MaxKey()),
    st.just(bson.Regex("a.b", "i")),
    st.just(bson.Code("f()")),
    st.just(bson.Code("f()", {"x": 1})),
    st.just(Decimal128("1.5")),
    st.just(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)


def key(value: Any) -> Any:
    """
    The key of a Python value.
    """
    raw = bson.encode({"": value})
    kind, _, _, start, end = next(elements(raw))
    return values_equal_key(kind, raw[start:end])


class WalkTests(SynchronousTestCase):
    """
    Walking, splitting and joining agree with C{bson}.
    """

    @settings(max_examples=100, deadline=None)
    @given(DOCUMENTS)
    def test_elements(self, document: dict[str, Any]) -> None:
        """
        Each element holds the bytes that C{bson} has for its name and value.
        """
        raw = bson.encode(document)
        found = list(elements(raw))
        self.assertEqual([each[1].decode() for each in found], list(document))
        for (_, name, start, _, end), value in zip(found, document.values(), strict=True):
            self.assertEqual(wrap(raw[start:end]), bson.encode({name.decode(): value}))
        self.assertEqual(wrap(*(raw[each[2] : each[4]] for each in found)), raw)

    @settings(max_examples=100, deadline=None)
    @given(DOCUMENTS, st.data())
    def test_damage(self, document: dict[str, Any], data: st.DataObject) -> None:
        """
        Damaged bytes are walked or refused as InvalidBSON, never otherwise.
        """
        raw = bytearray(bson.encode(document))
        where = data.draw(st.integers(0, len(raw) - 1))
        raw[where] = data.draw(st.integers(0, 255))
        for damaged in (bytes(raw), bytes(raw[:where])):
            try:
                for kind, _, _, start, end in elements(damaged):
                    values_equal_key(kind, damaged[start:end])
                split_documents(damaged)
            except InvalidBSON:
                pass
        self.assertRaises(InvalidBSON, list, elements(bson.encode(document)[:-1]))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(DOCUMENTS, max_size=4))
    def test_batches(self, documents: list[dict[str, Any]]) -> None:
        """
        Concatenations, arrays and cursor replies give back their documents.
        """
        raw = [bson.encode(each) for each in documents]
        self.assertEqual(split_documents(b"".join(raw)), raw)
        for batch in ("firstBatch", "nextBatch"):
            cursor = {"id": Int64(7), "ns": "a.b", batch: documents}
            reply = bson.encode({"ok": 1.0, "cursor": cursor})
            self.assertEqual(cursor_batch(reply), (7, "a.b", raw))

    def test_find(self) -> None:
        """
        An element is found by its whole name or not at all.
        """
        raw = bson.encode({"ab": 1, "a": "x"})
        found = find_element(raw, b"a")
        assert found is not None
        self.assertEqual(bson.decode(wrap(raw[found[2] : found[4]])), {"a": "x"})
        self.assertIsNone(find_element(raw, b"b"))

    def test_rename(self) -> None:
        """
        A renamed element keeps its value; a name with a zero byte is refused.
        """
        element = bson.encode({"old": [1, {"x": 2}]})[4:-1]
        self.assertEqual(wrap(rename_element(element, b"n")), bson.encode({"n": [1, {"x": 2}]}))
        self.assertRaises(ValueError, rename_element, element, b"a\0b")

    def test_no_cursor(self) -> None:
        """
        Replies without a cursor or a batch, and arrays of scalars, are refused.
        """
        self.assertRaises(InvalidBSON, cursor_batch, bson.encode({"ok": 1}))
        self.assertRaises(InvalidBSON, cursor_batch, bson.encode({"cursor": {"id": Int64(1)}}))
        self.assertRaises(InvalidBSON, array_documents, bson.encode({"0": 1}))
        whole = bson.encode({"0": {"a": 1}, "1": {}})
        self.assertEqual(array_documents(whole), [bson.encode({"a": 1}), bson.encode({})])
        # A length that is too small, one past the array's end, and one past the data's.
        for size in (4, len(whole) - 7, 1000):
            broken = whole[:7] + size.to_bytes(4, "little") + whole[11:]
            self.assertRaises(InvalidBSON, array_documents, broken)


class EqualityTests(SynchronousTestCase):
    """
    Keys are equal where MongoDB's values are.
    """

    def test_equal(self) -> None:
        """
        Numbers compare by value, symbols as strings, nested ones likewise.
        """
        for group in (
            [1, Int64(1), 1.0, Decimal128("1"), Decimal128("1.000")],
            [0, Int64(0), -0.0, Decimal128("-0E+3")],
            [float("nan"), Decimal128("NaN"), Decimal128("-NaN")],
            [float("inf"), Decimal128("Infinity")],
            [float("-inf"), Decimal128("-Infinity")],
            [Decimal128("1E+6000"), Decimal128("10E+5999")],
            [{"a": 1, "b": [2]}, {"a": 1.0, "b": [Decimal128("2")]}],
        ):
            self.assertEqual(len({key(each) for each in group}), 1, group)
        self.assertEqual(values_equal_key(0x0E, b"\2\0\0\0a\0"), key("a"))

    def test_different(self) -> None:
        """
        Types, precision and the order of names all tell values apart.
        """
        values: list[Any] = [1, True, 0, False, None, "", "1", b"1", 2**53, 2**53 + 1]
        values += [0.1, Decimal128("0.1"), "nan", float("nan"), Decimal128("1E+6000")]
        values += [{"a": 1, "b": 1}, {"b": 1, "a": 1}, {"0": 1}, [1], [True], [], {}]
        values += [float("inf"), bson.MinKey(), bson.MaxKey(), bson.Timestamp(1, 1)]
        self.assertEqual(len({key(each) for each in values}), len(values))
