"""
What the runner prints, and when it has succeeded.
"""

from __future__ import annotations

import io

from twisted.trial.unittest import SynchronousTestCase

from tests.spec.outcomes import Outcome
from tests.spec.report import Report


class ReportTests(SynchronousTestCase):
    """
    L{Report}.
    """

    def test_counts(self) -> None:
        """Each directory has its counts and reasons, the last line the totals."""
        output = io.StringIO()
        report = Report(output)
        report.add(Outcome("a/tests", "f.json", "one", "passed"))
        report.add(Outcome("a/tests", "f.json", "two", "skipped", "needs mongos"))
        report.add(Outcome("b/tests", "f.json", "three", "skipped", "needs mongos"))
        self.assertTrue(report.succeeded)
        report.finish()
        self.assertEqual(
            output.getvalue().splitlines(),
            [
                "a/tests: 1 passed, 0 failed, 1 skipped",
                "    skipped 1: needs mongos",
                "b/tests: 0 passed, 0 failed, 1 skipped",
                "    skipped 1: needs mongos",
                "1 passed, 0 failed, 2 skipped",
            ],
        )

    def test_failure(self) -> None:
        """A failure is named with its reason and makes the run fail."""
        output = io.StringIO()
        report = Report(output)
        report.add(Outcome("a/tests", "f.json", "one", "failed", "no such thing"))
        self.assertFalse(report.succeeded)
        self.assertEqual(output.getvalue(), "FAILED a/tests/f.json: one: no such thing\n")
