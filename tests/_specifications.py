"""
Where the driver specifications' test data is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bson import json_util
from twisted.trial.unittest import SkipTest

__all__ = ["cases"]

_CHECKOUT = Path(__file__).resolve().parents[1]


def cases(folder: str, pattern: str = "*.json") -> Iterator[tuple[str, Any]]:
    """
    The names and contents of a folder's files, extended JSON decoded.

    @param folder: below C{$TXMONGOKIT_SPECS}, or else below a
        C{shared/specifications} next to the checkout.

    @raise SkipTest: the data is not there.
    """
    root = Path(os.environ.get("TXMONGOKIT_SPECS") or _CHECKOUT.parent / "shared/specifications")
    files = sorted((root / folder).rglob(pattern))
    if not files:
        raise SkipTest(
            f"no specification tests in {root / folder}: set TXMONGOKIT_SPECS to the source "
            "folder of a checkout of mongodb/specifications"
        )
    for file in files:
        yield file.stem, json_util.loads(file.read_text(encoding="utf-8"))
