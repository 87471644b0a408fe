"""
Files that only their owner can read.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_secret"]


def write_secret(path: Path, text: str, mode: int = 0o600) -> str:
    """
    Write one.

    @return: the path.
    """
    path.write_text(text)
    path.chmod(mode)
    return str(path)
