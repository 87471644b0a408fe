"""
Blueprints: how a collection of the source is to be made in the destination.

Everything here is about documents of the source's catalog, and pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion

__all__ = ["CODEC", "Blueprint", "blueprints", "is_deferred", "requested", "view_order"]

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""How what is stored and listed is read: dates beyond Python's do no harm."""

BUCKETS = "system.buckets."
_VIEWS = "system.views"
# What the server has decided by itself, and takes from nobody.
_INTERNAL = frozenset({"temp", "recordIdsReplicated", "autoIndexId", "uuid"})


@dataclass(slots=True)
class Blueprint:
    """
    A collection as it was found in the source.

    @ivar uuid: the source's identity for it; empty for a view.
    @ivar namespace: its name in the source, which moves with renames that
        are replayed.
    @ivar kind: C{"collection"}, C{"buckets"} (of a time series), C{"views"}
        (the collection of a database's views), or C{"view"}.
    @ivar options: for C{create}.
    @ivar indexes: to be built when the data is there.
    @ivar deferred: to be built when the destination has caught up: unique
        ones, which replayed operations may contradict for a while, and those
        that delete documents.
    @ivar expire: C{expireAfterSeconds} of the collection itself, deferred
        for the same reason.
    @ivar listed: whether it was there when the source was listed; otherwise
        it was created while the clone was made.
    @ivar alive: whether it is in the destination.
    @ivar documents: about how many it has.
    @ivar size: about how many bytes they have.
    @ivar known_end: for a capped collection, the position of the oplog up to
        which its inserts are in the copy.
    """

    uuid: bytes
    namespace: str
    kind: str
    options: dict[str, Any]
    indexes: list[dict[str, Any]] = field(default_factory=list)
    deferred: list[dict[str, Any]] = field(default_factory=list)
    expire: Any = None
    listed: bool = True
    alive: bool = True
    documents: int = 0
    size: int = 0
    known_end: int = 0

    @property
    def database(self) -> str:
        """
        The database of its name.
        """
        return self.namespace.partition(".")[0]

    @property
    def name(self) -> str:
        """
        The collection of its name.
        """
        return self.namespace.partition(".")[2]

    @property
    def visible_name(self) -> str:
        """
        The name that it is made and indexed by.
        """
        return self.name.removeprefix(BUCKETS) if self.kind == "buckets" else self.name

    @property
    def has_data(self) -> bool:
        """
        Whether it has documents to copy.
        """
        return self.kind in ("collection", "buckets")

    @property
    def is_capped(self) -> bool:
        """
        Whether it is a capped collection.
        """
        return bool(self.options.get("capped"))

    @property
    def by_id(self) -> bool:
        """
        Whether it can be read in the order of its C{_id}s.
        """
        simple = self.options.get("collation", {}).get("locale", "simple") == "simple"
        return (
            simple
            and self.kind == "collection"
            and not self.is_capped
            and "clusteredIndex" not in self.options
        )

    def add_indexes(self, specifications: Iterable[Mapping[str, Any]]) -> None:
        """
        Take the indexes that the source has.
        """
        for specification in specifications:
            if specification.get("name") == "_id_" or specification.get("clustered"):
                continue
            index = {
                key: value
                for key, value in specification.items()
                if key not in ("ns", "background", "buildUUID", "indexBuildInfo")
            }
            (self.deferred if is_deferred(index) else self.indexes).append(index)

    def pack(self) -> dict[str, Any]:
        """
        As stored: servers do not take every name that a catalog has.
        """
        return {
            "ns": self.namespace,
            "kind": self.kind,
            "alive": self.alive,
            "blueprint": Binary(
                bson.encode(
                    {
                        "uuid": Binary(self.uuid, 4) if self.uuid else None,
                        "options": self.options,
                        "indexes": self.indexes,
                        "deferred": self.deferred,
                        "expire": self.expire,
                        "listed": self.listed,
                        "documents": self.documents,
                        "size": self.size,
                        "known_end": self.known_end,
                    }
                )
            ),
        }

    @classmethod
    def unpack(cls, stored: Mapping[str, Any]) -> Blueprint:
        """
        From what is stored.
        """
        found = bson.decode(stored["blueprint"], CODEC)
        uuid = found.pop("uuid")
        return cls(
            uuid=bytes(uuid or b""),
            namespace=stored["ns"],
            kind=stored["kind"],
            alive=stored["alive"],
            **found,
        )


def requested(indexes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Indexes for C{createIndexes}: one without a collation is not to get the
    collection's.
    """
    simple = {"collation": {"locale": "simple"}}
    # The first version of indexes has none.
    return [{**(simple if index.get("v", 2) > 1 else {}), **index} for index in indexes]


def is_deferred(index: Mapping[str, Any]) -> bool:
    """
    Whether an index must wait until the destination has caught up.
    """
    unique = index.get("unique") or index.get("prepareUnique")
    return bool(unique) or "expireAfterSeconds" in index


def blueprints(database: str, listed: Sequence[Mapping[str, Any]]) -> list[Blueprint]:
    """
    The collections and views of a database, without their indexes.

    @param listed: the reply of C{listCollections}.
    """
    series = {found["name"]: found for found in listed if found["type"] == "timeseries"}
    made = []
    for found in listed:
        name, kind = str(found["name"]), str(found["type"])
        if kind == "timeseries":
            continue
        options = found.get("options", {})
        if kind == "collection" and name == _VIEWS:
            kind = "views"
        elif kind == "collection" and name.removeprefix(BUCKETS) in series:
            kind = "buckets"
            options = series[name.removeprefix(BUCKETS)].get("options", {})
        options = {key: value for key, value in options.items() if key not in _INTERNAL}
        expire = options.pop("expireAfterSeconds", None)
        uuid = bytes(found.get("info", {}).get("uuid") or b"")
        made.append(Blueprint(uuid, f"{database}.{name}", kind, options, expire=expire))
    return made


def view_order(views: Sequence[Blueprint]) -> list[Blueprint]:
    """
    Views so that each comes after those that it is a view on.
    """
    waiting = {view.namespace: view for view in views}
    ordered: list[Blueprint] = []

    def place(view: Blueprint) -> None:
        # Views cannot be on one another in a circle: servers refuse that.
        if waiting.pop(view.namespace, None) is not None:
            below = waiting.get(f"{view.database}.{view.options.get('viewOn')}")
            if below is not None:
                place(below)
            ordered.append(view)

    for view in views:
        place(view)
    return ordered
