"""
One case of the drivers' tests without a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bson import json_util

__all__ = ["Case", "Format", "Skipped", "expect", "load"]


class Skipped(Exception):
    """
    A case cannot be run, and why.
    """


@dataclass(frozen=True)
class Case:
    """
    One case.

    @ivar name: its description.
    @ivar check: runs it; raises where it fails.
    """

    name: str
    check: Callable[[], None]


Format: TypeAlias = Callable[[Path], Iterator[Case]]
"""What makes cases of a file."""


def load(path: Path) -> Any:
    """
    A file's content, extended JSON decoded.
    """
    return json_util.loads(path.read_text(encoding="utf-8"))


def expect(actual: Any, wanted: Any, what: str) -> None:
    """
    Demand a value.

    @raise AssertionError: it is another one.
    """
    if actual != wanted:
        raise AssertionError(f"{what} is {actual!r}, not {wanted!r}")
