"""
The runner's command, on a small selection and without any specifications.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.spec.__main__ import specifications_folder
from txmongokit.testing import ServerNotFound, find_mongod

_FILES = "*/tests/**/*.json"
_ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.spec", *arguments],
        cwd=_ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


class CommandTests(SynchronousTestCase):
    """
    C{python -m tests.spec}.
    """

    def test_without_specifications(self) -> None:
        """Without the specifications there is one skip, which says how to get them."""
        with tempfile.TemporaryDirectory() as folder:
            ended = _run(TXMONGOKIT_SPECS=str(Path(folder) / "none"))
        self.assertEqual(ended.returncode, 0, ended.stdout)
        lines = ended.stdout.splitlines()
        self.assertIn("github.com/mongodb/specifications", ended.stdout)
        self.assertEqual(lines[-1], "0 passed, 0 failed, 1 skipped")

    def test_smoke(self) -> None:
        """The small selection passes and has a file of every directory."""
        root = specifications_folder()
        if root is None:
            raise SkipTest("no specifications: set TXMONGOKIT_SPECS to a checkout's folder source")
        try:
            find_mongod()
        except ServerNotFound as error:
            raise SkipTest(str(error)) from None
        ended = _run("--smoke", "--specs", str(root))
        self.assertEqual(ended.returncode, 0, ended.stdout)
        folders = {path.parent.relative_to(root).as_posix() for path in root.glob(_FILES)}
        shown = {line.partition(": ")[0] for line in ended.stdout.splitlines()}
        self.assertEqual(folders - shown, set())
