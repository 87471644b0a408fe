"""
The Python code blocks of the documentation run as they stand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(?m)^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)")
_SECONDS = 120


def _code_blocks(path: Path) -> list[str]:
    """
    The Python code blocks of a document.
    """
    return [textwrap.dedent(block) for block in _BLOCK.findall(path.read_text())]


class CodeBlockTests(SynchronousTestCase):
    """
    C{docs/*.rst}, and README.rst as far as it needs no server.
    """

    def runs(self, name: str, expected: int) -> None:
        """
        Run each code block of a document as a script of its own.
        """
        blocks = _code_blocks(_ROOT / name)
        self.assertEqual(len(blocks), expected)
        for number, block in enumerate(blocks):
            done = subprocess.run(
                [sys.executable, "-c", block],
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            self.assertEqual(done.returncode, 0, f"{name}, block {number + 1}:\n{done.stdout}")

    def test_tutorial(self) -> None:
        """
        The tutorial's programs run against the servers that they start.
        """
        self.runs("docs/tutorial.rst", 2)

    def test_no_other_document_has_untested_code(self) -> None:
        """
        Python code stands in the tutorial alone, and what README.rst shows
        compiles.
        """
        documents = {path.name for path in (_ROOT / "docs").glob("*.rst") if _code_blocks(path)}
        self.assertEqual(documents, {"tutorial.rst"})
        (block,) = _code_blocks(_ROOT / "README.rst")
        compile(block, "README.rst", "exec")
