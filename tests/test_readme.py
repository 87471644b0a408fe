"""
The README's first screen: one line that runs the main job, one that runs the
tests.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_ROOT = Path(__file__).resolve().parents[1]
_FIRST_SCREEN = 24


def _literal_blocks(text: str) -> list[list[str]]:
    """
    The lines of each literal block of a reStructuredText document: what is
    indented below a C{::} or a C{code-block}.
    """
    blocks: list[list[str]] = []
    is_open = False
    for line in text.splitlines():
        if re.search(r"::$|^\.\. code-block::", line):
            blocks.append([])
            is_open = True
        elif is_open and line.startswith("    "):
            blocks[-1].append(line.strip())
        elif line:
            is_open = False
    return blocks


class ReadmeTests(SynchronousTestCase):
    """
    README.rst.
    """

    def setUp(self) -> None:
        """
        Read it.
        """
        self.text = (_ROOT / "README.rst").read_text()
        self.main_job, self.tests = _literal_blocks(self.text)[:2]

    def test_two_commands(self) -> None:
        """
        The first two literal blocks are one line each, on the first screen:
        the main job, and the tests.
        """
        self.assertEqual([len(self.main_job), len(self.tests)], [1, 1])
        screen = "\n".join(self.text.splitlines()[:_FIRST_SCREEN])
        self.assertIn(self.main_job[0], screen)
        self.assertIn(self.tests[0], screen)
        self.assertIn("benchmarks/main_job.py", self.main_job[0])
        self.assertTrue(self.tests[0].endswith("-m twisted.trial -j2 tests"))

    def test_own_environment(self) -> None:
        """
        Both make their own virtual environment and use nothing else, so that
        they work where the system's Python may not be installed into.
        """
        for (line,) in (self.main_job, self.tests):
            steps = [shlex.split(step) for step in line.split("&&")]
            self.assertEqual(steps[0], ["python3", "-m", "venv", ".venv"])
            for step in steps[1:]:
                self.assertTrue(step[0].startswith(".venv/bin/"), step)

    def test_what_they_name_is_there(self) -> None:
        """
        The files and the extras that the two lines name exist, and the Debian
        packages are named.
        """
        setup = (_ROOT / "setup.cfg").read_text()
        for (line,) in (self.main_job, self.tests):
            for name in re.findall(r"'\.\[(\w+)\]'", line):
                self.assertRegex(setup, rf"(?m)^{name} =$")
            for path in re.findall(r"\S+\.py", line):
                self.assertTrue((_ROOT / path).is_file(), path)
        self.assertIn("``python3-venv``", self.text)

    def test_continuous_integration_runs_the_same(self) -> None:
        """
        C{.ci/run} takes its test command from the README.
        """
        script = (_ROOT / ".ci" / "run").read_text()
        self.assertIn("README.rst", script)
        self.assertNotIn("twisted.trial", script)
