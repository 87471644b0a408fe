"""
What is written to the log while something runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import capturedLogs, formatEvent

__all__ = ["logged"]


@contextmanager
def logged() -> Iterator[list[str]]:
    """
    The lines that are logged inside, once it is left.
    """
    lines: list[str] = []
    with capturedLogs() as events:
        yield lines
    lines.extend(formatEvent(event) for event in events)
