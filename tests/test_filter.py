"""
Tests for L{txmongokit.filter}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmongokit import filter as qf


class FilterTests(SynchronousTestCase):
    """
    Filters by themselves.
    """

    def test_keys(self) -> None:
        """A field or several get their direction or kind of index, and add up."""
        self.assertEqual(qf.ASCENDING("a") + qf.DESCENDING("b"), (("a", 1), ("b", -1)))
        self.assertEqual(qf.ASCENDING(["a", "b"]), (("a", 1), ("b", 1)))
        kinds = [each("p")[0][1] for each in (qf.GEO2D, qf.GEO2DSPHERE, qf.GEOHAYSTACK, qf.TEXT)]
        self.assertEqual(kinds, ["2d", "2dsphere", "geoHaystack", "text"])
        self.assertRaises(TypeError, qf.ASCENDING, [1])

    def test_sum(self) -> None:
        """Filters add up: keys follow one another, the last comment counts."""
        whole = (
            qf.sort(qf.ASCENDING("x"))
            + qf.comment("a")
            + qf.sort([("y", -1)])
            + qf.hint({"x": 1})
            + qf.hint(qf.DESCENDING("y"))
            + qf.comment("b")
        )
        self.assertEqual(
            whole.options(),
            {
                "sort": (("x", 1), ("y", -1)),
                "comment": "b",
                "hint": (("x", 1), ("y", -1)),
            },
        )
        self.assertEqual((whole + qf.hint("name")).options()["hint"], "name")
        self.assertRaises(TypeError, lambda: qf.explain() + {})
        self.assertEqual(repr(qf.sort("a") + qf.explain()), "<QueryFilter sort, explain>")

    def test_equality(self) -> None:
        """Filters of equal parts are equal."""
        self.assertEqual(qf.sort("a"), qf.sort(qf.ASCENDING("a")))
        self.assertEqual(len({qf.sort("a"), qf.sort(["a"])}), 1)
        self.assertNotEqual(qf.sort("a"), qf.hint("a"))
        self.assertNotEqual(qf.explain(), {"explain": True})

    def test_wrong_keys(self) -> None:
        """What is no list of keys is refused."""
        for keys in (3, [("a", 1, 2)], [(1, "a")], [], [3], qf.hint("a")):
            self.assertRaises(TypeError, qf.sort, keys)

    def test_snapshot(self) -> None:
        """A snapshot is the order of _id, and goes with no other."""
        self.assertEqual(qf.snapshot().options(), {"hint": (("_id", 1),)})
        for other in (qf.sort("a"), qf.hint("a_1")):
            self.assertRaises(ValueError, (qf.snapshot() + other).options)

    def test_only(self) -> None:
        """Where one part counts, others are refused rather than lost."""
        self.assertEqual(qf.sort("a").only("sort"), (("a", 1),))
        error = self.assertRaises(TypeError, (qf.sort("a") + qf.comment("b")).only, "sort")
        self.assertIn("filter.comment() + filter.sort()", str(error))
