"""
Tests for the arithmetic of L{benchmarks.replication}.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.replication import Measured, lags, percentile, written

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment."""
    return START + timedelta(seconds=seconds)


class ArithmeticTests(SynchronousTestCase):
    """
    What is read from oplogs.
    """

    def test_written(self) -> None:
        """Operations on user databases count, within transactions and by themselves."""
        insert: dict[str, Any] = {"op": "i", "ns": "app.a", "o": {}}
        entries = [
            {"op": "i", "ns": "txmongokit.mongosync", "o": {}, "wall": at(0)},
            {
                "op": "c",
                "ns": "admin.$cmd",
                "o": {"applyOps": [insert, insert, {**insert, "ns": "txmongokit.mongosync"}]},
                "wall": at(1),
            },
            {"op": "c", "ns": "app.$cmd", "o": {"create": "a"}, "wall": at(2)},
            {**insert, "wall": at(3)},
        ]
        self.assertEqual(written(iter(entries)), [(at(1), 2), (at(3), 1)])

    def test_lags(self) -> None:
        """An entry has arrived with the first checkpoint that is not before it."""
        source = [(1, at(0)), (2, at(1)), (3, at(2)), (9, at(3))]
        moves = [(2, at(1.5)), (4, at(2.25))]
        self.assertEqual(lags(source, moves), [1.5, 0.5, 0.25])

    def test_percentile(self) -> None:
        """The last value is the hundredth percentile, the middle one the fiftieth."""
        values = [float(number) for number in range(100, 0, -1)]
        self.assertEqual(percentile(values, 1.0), 100.0)
        self.assertEqual(percentile(values, 0.5), 51.0)
        self.assertEqual(percentile([7.0], 0.99), 7.0)

    def test_report(self) -> None:
        """Differences and a bad end are shown, and are no good."""
        fine = Measured("ours", 0, 1000.0, 2.0, 1.0, 90.0, ())
        self.assertTrue(fine.good)
        self.assertIn("dbHash equal", fine.report(1000))
        bad = Measured("ours", 1, 1000.0, 2.0, 1.0, 90.0, ("app.a: absent",), "it broke")
        self.assertFalse(bad.good)
        for text in ("1 DIFFERENCES", "it broke", "app.a: absent", "status 1"):
            self.assertIn(text, bad.report(1000))
