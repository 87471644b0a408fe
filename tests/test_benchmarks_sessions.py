"""
Tests for the arithmetic of L{benchmarks.sessions}, and for what it measures.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.sessions import MEMORY, OURS, TASKS, Figure, SessionServer, report


class ReportTests(SynchronousTestCase):
    """
    The table.
    """

    def test_medians(self) -> None:
        """Figures are medians, and ratios are taken within each round."""
        turns = {
            MEMORY: [Figure(1000.0, 100e-6), Figure(10.0, 900e-6), Figure(2000.0, 50e-6)],
            OURS: [Figure(500.0, 300e-6), Figure(4.0, 1800e-6), Figure(1000.0, 200e-6)],
        }
        figures = {(task, store): turns[store] for task in TASKS for store in turns}
        _, *lines = report(figures).splitlines()
        columns = [line.split()[-4:] for line in lines]
        wanted = [["1000", "100", "1.00", "1.00"], ["500", "300", "2.00", "3.00"]]
        self.assertEqual(columns, wanted * len(TASKS))


class ServerTests(SynchronousTestCase):
    """
    The process that is asked.
    """

    def test_ended(self) -> None:
        """One that does not come up is named, with how it has ended."""
        error = self.assertRaises(RuntimeError, SessionServer, "nonsense://")
        self.assertIn("has ended with status 1 at its start", str(error))
