"""
TxMongo's query filters: how a query is sorted, and what goes with it.

Filters add up::

    sort(ASCENDING("name") + DESCENDING("age")) + hint("by_name") + comment("list")

They are for C{filter=} or C{sort=} of C{find}, C{find_one} and
C{find_with_cursor}; one that only sorts tells C{create_index} its keys.
"""

# ruff: noqa: N801 - the names are TxMongo's.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

__all__ = [
    "ASCENDING",
    "DESCENDING",
    "GEO2D",
    "GEO2DSPHERE",
    "GEOHAYSTACK",
    "TEXT",
    "AllowedDirectionType",
    "QueryFilter",
    "SortArgument",
    "SortKeys",
    "comment",
    "explain",
    "hint",
    "snapshot",
    "sort",
]

AllowedDirectionType: TypeAlias = Literal[1, -1, "2d", "2dsphere", "geoHaystack", "text"]
"""The directions of a sort, and the kinds of an index, that there are functions for."""

SortKeys: TypeAlias = tuple[tuple[str, Any], ...]
"""Fields, each with its direction or the kind of its index."""

SortArgument: TypeAlias = (
    Mapping[str, Any] | list[tuple[str, Any]] | tuple[tuple[str, Any], ...] | tuple[str, Any]
)
"""What L{sort} takes."""


def _directed(keys: str | Iterable[str], direction: Any) -> SortKeys:
    names = (keys,) if isinstance(keys, str) else tuple(keys)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"field names are strings, not {type(name).__name__}")
    return tuple((name, direction) for name in names)


def ASCENDING(keys: str | Iterable[str]) -> SortKeys:
    """
    A field, or several, in ascending order.
    """
    return _directed(keys, 1)


def DESCENDING(keys: str | Iterable[str]) -> SortKeys:
    """
    A field, or several, in descending order.
    """
    return _directed(keys, -1)


def GEO2D(keys: str | Iterable[str]) -> SortKeys:
    """
    A field for an index of points in a plane.
    """
    return _directed(keys, "2d")


def GEO2DSPHERE(keys: str | Iterable[str]) -> SortKeys:
    """
    A field for an index of shapes on a sphere.
    """
    return _directed(keys, "2dsphere")


def GEOHAYSTACK(keys: str | Iterable[str]) -> SortKeys:
    """
    A field for an index of points in buckets, which servers up to 4.4 have.
    """
    return _directed(keys, "geoHaystack")


def TEXT(keys: str | Iterable[str]) -> SortKeys:
    """
    A field for an index of words.
    """
    return _directed(keys, "text")


def _pairs(name: str, keys: Any) -> SortKeys:
    """Keys in any form as pairs."""
    if isinstance(keys, QueryFilter):
        keys = keys.only(name)
    if isinstance(keys, str):
        return ((keys, 1),)
    if isinstance(keys, Mapping):
        keys = keys.items()
    try:
        pairs = tuple((key, 1) if isinstance(key, str) else tuple(key) for key in keys)
    except TypeError:
        pairs = ()
    if not pairs or not all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise TypeError(
            f"{name} takes what ASCENDING(), DESCENDING() and their kin return, "
            "or (name, direction) pairs"
        )
    return pairs


class QueryFilter:
    """
    What goes with a query.  Never changed: adding two makes a third, in which
    keys follow one another and anything else is what was added last.

    It is no mapping, so that it cannot be taken for a document.

    @ivar parts: the options of C{find} that it stands for: C{sort}, C{hint},
        C{comment}, C{explain}, C{snapshot}.
    @cvar ALLOWED_DIRECTIONS: what this module's functions give; servers may
        know more.
    """

    ALLOWED_DIRECTIONS: ClassVar[frozenset[Any]] = frozenset(get_args(AllowedDirectionType))

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    def __add__(self, other: object) -> QueryFilter:
        if not isinstance(other, QueryFilter):
            return NotImplemented
        parts = {**self.parts, **other.parts}
        for name in ("sort", "hint"):
            first, second = self.parts.get(name), other.parts.get(name)
            if isinstance(first, tuple) and isinstance(second, tuple):
                parts[name] = first + second
        return QueryFilter(**parts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, QueryFilter):
            return self.parts == other.parts
        return NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self.parts))

    def __repr__(self) -> str:
        return f"<QueryFilter {', '.join(self.parts)}>"

    def only(self, name: str) -> Any:
        """
        The one part that counts here.

        @raise TypeError: there are others, which would be lost, or not that
            one.
        """
        if set(self.parts) != {name}:
            raise TypeError(
                f"only filter.{name}() can stand here, not filter."
                f"{'() + filter.'.join(sorted(self.parts))}()"
            )
        return self.parts[name]

    def options(self) -> dict[str, Any]:
        """
        It as options of C{find}, without C{explain}.  Servers know no
        snapshots of this kind any more: the order of the index on C{_id}, in
        which no document comes twice, is what they were.

        @raise ValueError: C{snapshot} comes with C{sort} or C{hint}.
        """
        options = {name: value for name, value in self.parts.items() if name != "explain"}
        if options.pop("snapshot", False):
            if "sort" in options or "hint" in options:
                raise ValueError("snapshot() goes with neither sort() nor hint()")
            options["hint"] = (("_id", 1),)
        return options


class sort(QueryFilter):
    """
    The order of the results, or the keys of an index.

    @param key_list: what L{ASCENDING}, L{DESCENDING} and their kin return,
        added up, or pairs.
    """

    def __init__(self, key_list: Any) -> None:
        super().__init__(sort=_pairs("sort", key_list))


class hint(QueryFilter):
    """
    The index to use.

    @param index_list_or_name: its keys as for L{sort}, or its name.
    """

    def __init__(self, index_list_or_name: Any) -> None:
        if not isinstance(index_list_or_name, str):
            index_list_or_name = _pairs("hint", index_list_or_name)
        super().__init__(hint=index_list_or_name)


class comment(QueryFilter):
    """
    A note for the server's logs and profiler.
    """

    def __init__(self, comment: Any) -> None:
        super().__init__(comment=comment)


class explain(QueryFilter):
    """
    The plan of the query instead of its results.
    """

    def __init__(self) -> None:
        super().__init__(explain=True)


class snapshot(QueryFilter):
    """
    No document twice, though others write.
    """

    def __init__(self) -> None:
        super().__init__(snapshot=True)
