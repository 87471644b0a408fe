"""
Tests for L{txmongokit.replicator.comparison}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson import Int64
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.comparison import (
    NAMED,
    Difference,
    Observation,
    OrderComparison,
    RangeComparison,
    Report,
    digest,
    id_element,
    index_differences,
    judge,
    option_differences,
    show_id,
)


def documents(*ids: Any, **fields: Any) -> list[bytes]:
    """Documents with these _ids."""
    return [bson.encode({"_id": each, **fields}) for each in ids]


def shown(elements: list[bytes]) -> list[str]:
    """The _ids for people."""
    return [show_id(element) for element in elements]


class RangeTests(SynchronousTestCase):
    """
    The documents of a range.
    """

    def compare(self, here: list[bytes], *batches: list[bytes], most: int = 100) -> Any:
        """Compare, the destination's coming in batches."""
        comparison = RangeComparison(here, most)
        for batch in batches:
            comparison.take(batch)
        return comparison

    def test_equal(self) -> None:
        """Equal documents are equal, however they are cut into batches."""
        here = documents("a", "b", "c", "d")
        self.assertEqual(self.compare(here, here[:1], here[1:3], here[3:]).finish(), [])
        self.assertEqual(self.compare(here, here).finish(), [])
        self.assertEqual(self.compare([], []).finish(), [])

    def test_missing(self) -> None:
        """What only the source has, at the beginning, in the middle, at the end."""
        here = documents("a", "b", "c", "d", "e")
        found = self.compare(here, [here[1], here[3]]).finish()
        self.assertEqual(shown(found), ['"a"', '"c"', '"e"'])
        self.assertEqual(shown(self.compare(here, here[:4]).finish()), ['"e"'])
        self.assertEqual(len(self.compare(here).finish()), 5)

    def test_extra(self) -> None:
        """What only the destination has."""
        here = documents("a", "c")
        found = self.compare(here, documents("a"), documents("b", "c"), documents("d")).finish()
        self.assertEqual(shown(found), ['"b"', '"d"'])

    def test_different(self) -> None:
        """Another byte, another order of fields, another type of number."""
        here = [bson.encode({"_id": each, "x": 1, "y": 2}) for each in range(4)]
        there = [
            here[0],
            bson.encode({"_id": 1, "x": 1, "y": 3}),
            bson.encode({"_id": 2, "y": 2, "x": 1}),
            bson.encode({"_id": Int64(3), "x": 1, "y": 2}),
        ]
        found = self.compare(here, there).finish()
        self.assertEqual(
            shown(found), ['{"$numberInt": "1"}', '{"$numberInt": "2"}', '{"$numberLong": "3"}']
        )

    def test_bound(self) -> None:
        """More than so many suspects are counted, not kept."""
        comparison = self.compare([], documents(*range(30)), most=10)
        self.assertEqual(len(comparison.finish()), 10)
        self.assertEqual(comparison.unnamed, 20)

    @given(
        st.dictionaries(st.integers(0, 30), st.integers(0, 2)),
        st.dictionaries(st.integers(0, 30), st.integers(0, 2)),
        st.integers(1, 10),
    )
    def test_any(self, here: dict[int, int], there: dict[int, int], size: int) -> None:
        """The suspects are exactly the keys that differ."""
        encoded = [
            [bson.encode({"_id": key, "v": side[key]}) for key in sorted(side)]
            for side in (here, there)
        ]
        batches = [encoded[1][at : at + size] for at in range(0, len(encoded[1]), size)]
        found = self.compare(encoded[0], *batches).finish()
        expected = {key for key in {*here, *there} if here.get(key) != there.get(key)}
        self.assertEqual(sorted(found), sorted(map(id_element, documents(*expected))))


class OrderTests(SynchronousTestCase):
    """
    Capped collections.
    """

    def compare(self, here: list[bytes], there: list[bytes], size: int = 3) -> OrderComparison:
        """Compare batch by batch, in turns."""
        comparison = OrderComparison(most=50)
        for at in range(0, max(len(here), len(there)), size):
            comparison.take(0, here[at : at + size])
            comparison.take(1, there[at : at + size])
        return comparison

    def test_equal(self) -> None:
        """The same in the same order."""
        here = documents(*range(20))
        comparison = self.compare(here, here)
        self.assertEqual((comparison.finish(), comparison.out_of_order), ([], 0))
        self.assertEqual(comparison.documents, [20, 20])

    def test_ends_differ(self) -> None:
        """One side has evicted more, or has more already: suspects, but in order."""
        here, there = documents(*range(3, 20)), documents(*range(15))
        comparison = self.compare(here, there)
        self.assertEqual(comparison.out_of_order, 0)
        found = comparison.finish()
        self.assertEqual(sorted(found), sorted(map(id_element, documents(0, 1, 2, *range(15, 20)))))

    def test_order(self) -> None:
        """One document that stands elsewhere."""
        here = documents(*range(20))
        comparison = self.compare(here, [*here[1:10], here[0], *here[10:]])
        self.assertEqual(comparison.out_of_order, 1)
        self.assertEqual(comparison.finish(), [])

    def test_different(self) -> None:
        """Another content."""
        comparison = self.compare(documents(1, 2), [*documents(1), *documents(2, x=1)])
        self.assertEqual(shown(comparison.finish()), ['{"$numberInt": "2"}'])

    def test_full(self) -> None:
        """Two that have nothing alike are given up."""
        self.assertTrue(self.compare(documents(*range(40)), documents(*range(50, 90))).full)

    def test_without_id(self) -> None:
        """Old capped collections may have documents without _id."""
        here = [bson.encode({"x": number}) for number in range(5)]
        self.assertEqual(self.compare(here, here).finish(), [])
        self.assertEqual(len(self.compare(here, here[:4]).finish()), 1)

    @given(st.permutations(range(12)), st.integers(1, 5))
    def test_any_order(self, there: list[int], size: int) -> None:
        """Every order but the same one is found."""
        comparison = self.compare(documents(*range(12)), documents(*there), size)
        self.assertEqual(bool(comparison.out_of_order), list(there) != list(range(12)))
        self.assertEqual(comparison.finish(), [])


class JudgeTests(SynchronousTestCase):
    """
    What is made of a suspect.
    """

    def test_equal(self) -> None:
        """The destination has what the source had before, or has now."""
        for before, copy, after in (
            (b"a", b"a", b"a"),
            (b"a", b"a", b"b"),
            (b"a", b"b", b"b"),
            (None, None, None),
            (b"a", None, None),
        ):
            self.assertEqual(judge(None, Observation(before, copy, after)), "equal")

    def test_seen_twice(self) -> None:
        """A difference must last."""
        for before, copy, verdict in (
            (b"a", None, "missing"),
            (None, b"a", "extra"),
            (b"a", b"b", "different"),
        ):
            seen = Observation(before, copy, before)
            self.assertEqual(judge(None, seen), "moving")
            self.assertEqual(judge(Observation(before, b"c", before), seen), "moving")
            self.assertEqual(judge(Observation(before, copy, before), seen), verdict)

    def test_moving(self) -> None:
        """What changes in the source between two looks is looked at again."""
        seen = Observation(b"a", b"b", b"c")
        self.assertEqual(judge(seen, Observation(b"a", b"b", b"c")), "moving")


class SchemaTests(SynchronousTestCase):
    """
    Options and indexes.
    """

    def differ(self, here: dict[str, Any], there: dict[str, Any]) -> list[str]:
        """Names of the options that differ."""
        return list(option_differences(here, there))

    def test_same_options(self) -> None:
        """What says the same in another way is no difference."""
        for here, there in (
            ({"capped": False}, {}),
            ({"size": 1000}, {"size": Int64(1024)}),
            ({"uuid": 1}, {"uuid": 2}),
            ({"expireAfterSeconds": 3}, {"expireAfterSeconds": 3.0}),
            (
                {"collation": {"locale": "de", "version": "57.1"}},
                {"collation": {"locale": "de", "version": "58"}},
            ),
            ({"changeStreamPreAndPostImages": {"enabled": False}}, {}),
            ({"weights": {"a": 1, "b": 2}}, {"weights": {"b": 2, "a": 1}}),
        ):
            self.assertEqual(self.differ(here, there), [])

    def test_other_options(self) -> None:
        """Each other value is named."""
        for here, there in (
            ({"capped": True, "max": 3}, {"capped": True}),
            ({"size": 1000}, {"size": 2000}),
            ({"validator": {"a": 1, "b": 1}}, {"validator": {"b": 1, "a": 1}}),
            ({"validator": {"a": True}}, {"validator": {"a": 1}}),
            ({"pipeline": [{"$match": {}}]}, {"pipeline": []}),
            ({"collation": {"locale": "de"}}, {"collation": {"locale": "en"}}),
            ({"changeStreamPreAndPostImages": {"enabled": True}}, {}),
        ):
            self.assertEqual(len(self.differ(here, there)), 1)

    def test_indexes(self) -> None:
        """Missing, too many, other options, other keys."""
        here: list[dict[str, Any]] = [
            {"name": "_id_", "key": {"_id": 1}, "v": 2},
            {"name": "a", "key": {"x": 1, "y": 1}, "unique": True},
            {"name": "b", "key": {"b": 1}, "background": True},
            {"name": "c", "key": {"c": 1}},
        ]
        there: list[dict[str, Any]] = [
            {"name": "_id_", "key": {"_id": 1}, "v": 1, "ns": "a.b"},
            {"name": "a", "key": {"y": 1, "x": 1}, "unique": False},
            {"name": "b", "key": {"b": 1.0}},
            {"name": "d", "key": {"d": 1}},
        ]
        self.assertEqual(
            list(index_differences(here, there)),
            [
                "the index 'a' has another 'key' in the destination",
                "the index 'a' has another 'unique' in the destination",
                "the index 'c' is missing in the destination",
                "the destination has an index 'd' that the source has not",
            ],
        )


class ReportTests(SynchronousTestCase):
    """
    What is told.
    """

    def test_equal(self) -> None:
        """One line where nothing differs."""
        report = Report(collections=2, documents=100, size=5000, seconds=2.0)
        self.assertTrue(report.equal)
        text = "compared 2 collections, 100 documents, 5000 bytes in 2.0 s (50 documents/s), "
        self.assertEqual(list(report.lines()), [f"{text}looked again at 0: equal"])

    def test_differences(self) -> None:
        """A hundred are named, all are counted."""
        report = Report(behind=True)
        for number in range(NAMED + 5):
            report.add(Difference("missing", "a.b", str(number)))
        report.count("unexamined", 7)
        self.assertFalse(report.equal)
        lines = list(report.lines())
        self.assertEqual(lines[0], "a.b: the document with _id 0 is missing in the destination")
        self.assertEqual(lines[NAMED], "and 12 more")
        self.assertIn("on its way", lines[NAMED + 1])
        self.assertIn("105 documents missing, 7 documents that may differ", lines[-1])
        self.assertEqual(report.fields()["differences"], {"missing": 105, "unexamined": 7})

    def test_long_id(self) -> None:
        """A very long _id is cut off."""
        text = show_id(id_element(bson.encode({"_id": "x" * 5000})))
        self.assertLess(len(text), 400)
        self.assertIn("5002 characters", text)

    def test_digest(self) -> None:
        """Fields in another order have another digest; nothing has none."""
        self.assertNotEqual(
            digest(bson.encode({"a": 1, "b": 1})), digest(bson.encode({"b": 1, "a": 1}))
        )
        self.assertIsNone(digest(None))
