"""
Tests for L{txmongokit.oplog}.
"""

from __future__ import annotations

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.oplog import main


class MainTests(SynchronousTestCase):
    """
    The command.
    """

    def test_wrong_arguments(self) -> None:
        """Wrong arguments are told in one line, and the status is 2."""
        for argv in ([], ["--from", "a.example", "--no-such-option"]):
            said = io.StringIO()
            self.patch(sys, "stderr", said)
            self.assertEqual(main(argv), 2)
            self.assertTrue(said.getvalue().startswith("txmongokit.oplog: "))
            self.assertEqual(said.getvalue().count("\n"), 1)

    def test_help(self) -> None:
        """Help is printed, and is no error."""
        said = io.StringIO()
        self.patch(sys, "stdout", said)
        ended = self.assertRaises(SystemExit, main, ["--help"])
        self.assertIn(ended.code, (None, 0))
        self.assertIn("--from", said.getvalue())
