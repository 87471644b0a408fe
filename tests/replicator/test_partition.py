"""
Tests for L{txmongokit.replicator.partition}.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import bson
from bson import Binary, Decimal128, Int64, ObjectId
from bson.son import SON
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit.rawbson import find_element, values_equal_key
from txmongokit.replicator.partition import Layout, key_hash, namespace_hash


def hashed(identifier: Any) -> int:
    """The hash of an C{_id} as BSON has it."""
    raw = bson.encode({"_id": identifier})
    found = find_element(raw, b"_id")
    assert found is not None
    return key_hash(values_equal_key(found[0], raw[found[3] : found[4]]))


class HashTests(SynchronousTestCase):
    """
    From an C{_id} to a number.
    """

    def test_stable(self) -> None:
        """The numbers are the same for ever: what is stored depends on them."""
        self.assertEqual(hashed(ObjectId("0123456789abcdef01234567")), 423771830)
        self.assertEqual(hashed("text"), 2473835843)
        self.assertEqual(hashed(7), 4119446436)
        self.assertEqual(hashed({"a": [1, "b"]}), 1585343570)
        self.assertEqual(namespace_hash("app.users"), 36632128)

    def test_equal_numbers(self) -> None:
        """Numbers that are equal are hashed alike, also deep within."""
        for same in (
            (1, 1.0, Int64(1), Decimal128("1"), Decimal128("1.00")),
            (0, 0.0, -0.0, Decimal128("-0"), Decimal128("0E+3")),
            (0.5, Decimal128("0.5")),
            (float("nan"), Decimal128("NaN")),
            (float("inf"), Decimal128("Infinity")),
            (1 << 60, Decimal128(str(1 << 60)), float(1 << 60)),
        ):
            numbers = [Int64(each) if isinstance(each, int) else each for each in same]
            self.assertEqual(len({hashed(each) for each in numbers}), 1, same)
            self.assertEqual(len({hashed({"a": [each]}) for each in numbers}), 1, same)

    def test_large_numbers(self) -> None:
        """A number beyond every double has a hash, too."""
        self.assertIsInstance(hashed(Decimal128("1E+6000")), int)

    def test_different(self) -> None:
        """What is not equal is nearly always told apart."""
        values = [
            1,
            "1",
            b"1",
            True,
            None,
            Binary(b"1", 4),
            {"a": 1},
            {"b": 1},
            {"a": {"a": 1}},
            SON([("a", 1), ("b", 2)]),
            SON([("b", 2), ("a", 1)]),
            {},
        ]
        self.assertEqual(len({hashed(each) for each in values}), len(values))

    @reproducible(100)
    @given(st.integers(-(1 << 53), 1 << 53))
    def test_integers(self, number: int) -> None:
        """Any integer that a double can have is hashed as that double."""
        self.assertEqual(hashed(Int64(number)), hashed(float(number)))

    def test_spread(self) -> None:
        """Every lane gets its share of the usual keys."""
        kinds: list[list[Any]] = [
            list(range(4000)),
            [f"user{number}" for number in range(4000)],
            [ObjectId(f"6740a0000000000000{number:06x}") for number in range(4000)],
            [{"shop": number % 7, "number": number} for number in range(4000)],
        ]
        for values in kinds:
            hashes = [hashed(value) for value in values]
            for count in (2, 3, 4, 8, 64):
                shares = Counter(each % count for each in hashes)
                self.assertEqual(len(shares), count)
                self.assertLess(max(shares.values()), 2 * len(values) / count, values[0])


class LayoutTests(SynchronousTestCase):
    """
    How operations are divided.
    """

    def test_lane(self) -> None:
        """By key, or for a whole namespace the same."""
        layout = Layout(4, frozenset({"app.users"}))
        keys = range(100)
        self.assertEqual(len({layout.lane("app.users", key) for key in keys}), 1)
        self.assertEqual({layout.lane("app.others", key) for key in keys}, {0, 1, 2, 3})

    def test_round_trip(self) -> None:
        """What is stored gives the same layout; nothing stored means no lanes."""
        layout = Layout(4, frozenset({"app.users", "app.b"}), 7, 2)
        document = bson.decode(bson.encode(layout.fields()))
        self.assertEqual(document["whole"], ["app.b", "app.users"])
        self.assertEqual(Layout.from_document(document), layout)
        self.assertTrue(Layout.from_document({**document, "stale": True}).stale)
        self.assertEqual(Layout.from_document({}), Layout())
