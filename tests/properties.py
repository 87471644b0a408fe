"""
How Hypothesis tests what is promised of any value.
"""

from __future__ import annotations

from hypothesis import settings

__all__ = ["reproducible"]


def reproducible(examples: int) -> settings:
    """
    The same examples each time, so many of them, however long each takes.
    """
    return settings(derandomize=True, deadline=None, max_examples=examples, database=None)
