"""
What became of one case of the drivers' tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """
    What became of one case.

    @ivar directory: the case's directory below the specifications' root, such as
        C{crud/tests/unified}.
    @ivar file: the file's name.
    @ivar case: the case's description.
    @ivar status: C{"passed"}, C{"failed"} or C{"skipped"}.
    @ivar reason: why it failed or was skipped, in one line.
    @ivar seconds: how long it took.
    """

    directory: str
    file: str
    case: str
    status: Status
    reason: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """
        The case's full name, C{directory/file: description}.

        @return: the name by which known failures are listed and patterns match.
        """
        return f"{self.directory}/{self.file}: {self.case}"
