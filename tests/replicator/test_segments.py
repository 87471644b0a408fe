"""
Tests for L{txmongokit.replicator.segments}.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import bson
from bson.max_key import MaxKey
from bson.min_key import MinKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.segments import ends_at_greatest, how_many, segments


def sampled(*values: Any) -> list[bytes]:
    """A sample with these C{_id}s."""
    return [bson.encode({"_id": value}) for value in values]


class SegmentTests(SynchronousTestCase):
    """
    Where a collection is cut.
    """

    def test_number(self) -> None:
        """There are about as many as the bytes ask for, and never more than documents."""
        self.assertEqual(how_many(0, 0), 1)
        self.assertEqual(how_many(99, 1000, each=100), 1)
        self.assertEqual(how_many(1000, 1000, each=100), 10)
        self.assertEqual(how_many(1000, 6, each=100), 3)
        self.assertEqual(how_many(10**15, 10**9), 1024)

    def test_cut(self) -> None:
        """Cuts are spread evenly over the sample."""
        found = segments(sampled(*range(8)), 4)
        self.assertEqual(
            [(each.number, each.lower, each.upper) for each in found],
            [
                (0, None, *sampled(2)),
                (1, *sampled(2, 4)),
                (2, *sampled(4, 6)),
                (3, *sampled(6), None),
            ],
        )

    def test_equal_numbers(self) -> None:
        """Numbers that are equal are one, whatever their type, and C{NaN} is one."""
        nan = float("nan")
        found = segments(sampled(nan, bson.Decimal128("NaN"), 1, 1.0, bson.Int64(1)), 5)
        self.assertEqual([each.lower for each in found], [None, *sampled(nan), *sampled(1)])

    def test_extremes(self) -> None:
        """There is never a cut before the least or behind the greatest."""
        found = segments(sampled(MinKey(), "a", MaxKey()), 3)
        self.assertEqual([each.lower for each in found], [None, *sampled("a")])
        self.assertTrue(ends_at_greatest(*sampled(MaxKey())))
        self.assertFalse(ends_at_greatest(*sampled(MinKey())))

    def test_no_id(self) -> None:
        """A sample without C{_id}s is a mistake."""
        self.assertRaises(ValueError, segments, [bson.encode({"x": 1})], 2)

    @given(st.lists(st.integers(0, 50)), st.integers(1, 20))
    def test_whole(self, drawn: list[int], count: int) -> None:
        """Segments are adjacent, in order, not empty, and cover everything."""
        found = segments(sampled(*sorted(drawn)), count)
        self.assertLessEqual(len(found), count)
        self.assertEqual([each.number for each in found], list(range(len(found))))
        self.assertIsNone(found[0].lower)
        self.assertIsNone(found[-1].upper)
        for one, other in pairwise(found):
            self.assertEqual(one.upper, other.lower)
        cuts = [bson.decode(each.lower)["_id"] for each in found if each.lower is not None]
        self.assertEqual(cuts, sorted(set(cuts)))
