"""
Documents of your own classes in a collection, in the shape of doqu's MongoDB
extension, on Deferreds.
"""

from __future__ import annotations

from txmongokit.storage.adapter import StorageAdapter
from txmongokit.storage.errors import Misfit, MissingKey
from txmongokit.storage.lookups import LOOKUPS
from txmongokit.storage.query import QueryAdapter
from txmongokit.storage.text import LONGEST_PATTERN, LONGEST_TEXT, MOST_TEXTS

__all__ = [
    "LONGEST_PATTERN",
    "LONGEST_TEXT",
    "LOOKUPS",
    "MOST_TEXTS",
    "Misfit",
    "MissingKey",
    "QueryAdapter",
    "StorageAdapter",
]
