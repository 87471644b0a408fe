"""
What goes wrong with documents, besides what L{txmongokit.errors} has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Misfit", "MissingKey", "shown"]

_SHOWN = 5
_LONGEST = 200


def shown(key: Any) -> str:
    """
    A key for an error: keys may be as long as documents.
    """
    text = repr(key)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class MissingKey(KeyError):
    """
    A collection has no document with a key that was asked for.

    @ivar keys: the keys that are missing, in the order in which they were
        asked for.
    @ivar key: the first of them.
    """

    def __init__(self, place: str, keys: Sequence[Any]) -> None:
        self.keys = tuple(keys)
        self.key = self.keys[0]
        first = ", ".join(map(shown, self.keys[:_SHOWN]))
        more = len(self.keys) - _SHOWN
        end = f" and {more} more" if more > 0 else ""
        super().__init__(f"{place} has no document with the key {first}{end}")

    def __str__(self) -> str:
        # A KeyError alone would show its sentence in quotes.
        return str(self.args[0])


class Misfit(ValueError):
    """
    A stored document does not fit the class that it was asked for as.

    @ivar key: the document's C{_id}.
    @ivar reason: the exception of the class or its converter.  It is not the
        C{__cause__}, because it may show the document in logs.
    """

    def __init__(self, place: str, key: Any, doc_class: str, why: str, reason: Exception) -> None:
        super().__init__(f"the document {shown(key)} of {place} is no {doc_class}: {why}")
        self.key = key
        self.reason = reason
