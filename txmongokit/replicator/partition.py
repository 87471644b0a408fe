"""
Which lane an operation belongs to.

The answer is stored by its outcome (how far each lane is), so it must be the
same in every process and on every machine: nothing here may depend on
Python's own, seeded hashes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any
from zlib import crc32

from bson.int64 import Int64

__all__ = ["MOST_LANES", "Layout", "key_hash", "namespace_hash"]

MOST_LANES = 64
"""How many lanes there are at most."""

_pack = Struct("<d").pack


def key_hash(key: Hashable) -> int:
    """
    A hash of an C{_id}.

    @param key: from L{txmongokit.rawbson.values_equal_key}: what MongoDB
        regards as equal has equal keys, and so the same hash.
    @return: from 0 to 2**32 - 1, the same in every process.
    """
    if isinstance(key, tuple):
        kind, value = key
        if isinstance(value, bytes):
            return crc32(value, kind)
    return _continued(key, 0)


def _continued(key: Any, hashed: int) -> int:
    """The hash of what was hashed already with a key behind it."""
    if isinstance(key, bytes):
        # With its length, so that what follows is told apart from it.
        return crc32(key, crc32(b"%d:" % len(key), hashed))
    if isinstance(key, tuple):
        hashed = crc32(b"(%d" % len(key), hashed)
        for each in key:
            hashed = _continued(each, hashed)
        return hashed
    if isinstance(key, str):  # "nan"
        return crc32(key.encode(), hashed)
    # Numbers that are equal have the same nearest double, whatever their type;
    # adding zero makes one of the two zeros.
    return crc32(_pack(float(key) + 0.0), hashed)


def namespace_hash(namespace: str) -> int:
    """
    A hash of a namespace, for one that has a lane as a whole.
    """
    return crc32(namespace.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Layout:
    """
    How operations are divided among lanes, as it is stored beside the main
    checkpoint.

    @ivar count: how many lanes there are; 0 for none.
    @ivar whole: the namespaces whose operations are all in one lane, because
        their order among all documents counts.
    @ivar applied: how many operations of those that the lanes have counted
        are in the main checkpoint's C{count}, too.
    @ivar missing: the same for its C{missing}.
    @ivar stale: whether the main checkpoint was put somewhere else since, so
        that how far the lanes are means nothing.
    """

    count: int = 0
    whole: frozenset[str] = frozenset()
    applied: int = 0
    missing: int = 0
    stale: bool = False

    def lane(self, namespace: str, key: Hashable) -> int:
        """
        The number of the lane that an operation belongs to.

        @param namespace: in the destination.
        @param key: the C{_id}'s, see L{key_hash}.
        """
        if namespace in self.whole:
            return namespace_hash(namespace) % self.count
        return key_hash(key) % self.count

    def fields(self) -> dict[str, Any]:
        """
        As stored.
        """
        return {
            "count": self.count,
            "whole": sorted(self.whole),
            "applied": Int64(self.applied),
            "missing": Int64(self.missing),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Layout:
        """
        From what is stored.
        """
        return cls(
            count=int(document.get("count", 0)),
            whole=frozenset(document.get("whole", ())),
            applied=int(document.get("applied", 0)),
            missing=int(document.get("missing", 0)),
            stale=bool(document.get("stale", False)),
        )
