"""
The small selection of C{--smoke}: at least one file of each directory.
"""

from __future__ import annotations

__all__ = ["SMOKE"]

SMOKE: frozenset[str] = frozenset()
