"""
Conditions such as C{name__startswith="A"}, translated to the server's own
operators.

A value never becomes an operator: it is compared (C{$eq} and its kin take
any value literally), or it is text whose every character is escaped.  Names
that hold a C{$} are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeAlias

from txmongokit.storage.text import (
    LONGEST_TEXT,
    MOST_TEXTS,
    escaped,
    pattern_and_options,
    phrase,
    some_words,
)
from txmongokit.storage.values import equal, is_list, refuse_patterns

__all__ = ["LOOKUPS", "Clause", "Names", "clauses", "field_path", "filter_of", "nearest_of"]

Clause: TypeAlias = dict[str, Any]
"""A filter for the server."""

# How like a lookup the end of a name must be to be taken for a mistake.
_LIKENESS = 0.8
_YEARS = (1, 9999)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)


@dataclass(frozen=True)
class Condition:
    """
    One condition.

    @ivar name: as it was written.
    @ivar path: the field for the server.
    @ivar value: what was given, as BSON has it.
    @ivar ordered: whether it was no set.
    """

    name: str
    path: str
    value: Any
    ordered: bool = True


@dataclass(frozen=True)
class Names:
    """
    What the fields of a class of documents are called.

    @ivar key: the field that is C{_id} in the collection; empty for none.
    @ivar fields: all of them, where the class declares them.
    """

    key: str = "_id"
    fields: frozenset[str] | None = None


Lookup: TypeAlias = Callable[[Condition], Clause]


def nearest_of(name: str, candidates: Iterable[str], likeness: float = 0.6) -> str:
    """
    A hint at the end of a message: the candidate most like a name, or nothing.
    """
    found = difflib.get_close_matches(name, sorted(candidates), 1, likeness)
    return f"; did you mean {found[0]!r}?" if found else ""


# What values may be.


def _scalar(condition: Condition) -> Any:
    value = condition.value
    refuse_patterns(condition.name, value)
    if value is None or is_list(value) or isinstance(value, Mapping):
        raise TypeError(
            f"{condition.name} takes one value to compare with, not {type(value).__name__}"
        )
    return value


def _several(condition: Condition, least: int = 1) -> list[Any]:
    if not is_list(condition.value):
        raise TypeError(f"{condition.name} takes a list, not {type(condition.value).__name__}")
    values = list(condition.value)
    if len(values) < least:
        raise ValueError(f"{condition.name} takes a list with something in it")
    return values


def _text(condition: Condition) -> str:
    value = condition.value
    refuse_patterns(condition.name, value)
    if not isinstance(value, str):
        raise TypeError(f"{condition.name} takes text, not {type(value).__name__}")
    if len(value) > LONGEST_TEXT:
        raise ValueError(
            f"{condition.name} takes at most {LONGEST_TEXT} characters, not {len(value)}"
        )
    return value


def _number(condition: Condition, least: int, most: int) -> int:
    value = condition.value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{condition.name} takes a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{condition.name} takes {least} to {most}, not {value}")
    return value


# Lookups.


def _exact(condition: Condition) -> Clause:
    refuse_patterns(condition.name, condition.value)
    return equal(condition.path, condition.value)


def _ne(condition: Condition) -> Clause:
    refuse_patterns(condition.name, condition.value)
    return {condition.path: {"$ne": condition.value}}


def _comparison(operator: str) -> Lookup:
    return lambda condition: {condition.path: {operator: _scalar(condition)}}


def _between(condition: Condition) -> Clause:
    bounds = _several(condition)
    if len(bounds) != 2 or not condition.ordered:
        raise ValueError(f"{condition.name} takes a list of two: the least and the greatest value")
    least, most = (_scalar(Condition(condition.name, "", bound)) for bound in bounds)
    return {condition.path: {"$gte": least, "$lte": most}}


def _in(condition: Condition) -> Clause:
    values = _several(condition, 0)
    refuse_patterns(condition.name, values)
    # In a list for $in, documents with a $ would be taken for operators.
    documents = [value for value in values if isinstance(value, Mapping)]
    others = [value for value in values if not isinstance(value, Mapping)]
    clause: Clause = {condition.path: {"$in": others}}
    if not documents:
        return clause
    return {"$or": [clause, *(equal(condition.path, document) for document in documents)]}


def _exists(condition: Condition) -> Clause:
    if not isinstance(condition.value, bool):
        raise TypeError(
            f"{condition.name} takes True or False, not {type(condition.value).__name__}"
        )
    return {condition.path: {"$exists": condition.value}}


def _regex(path: str, pattern: str, options: str = "") -> Clause:
    return {path: {"$regex": pattern, "$options": options} if options else {"$regex": pattern}}


def _searching(before: str, after: str, options: str = "") -> Lookup:
    return lambda condition: _regex(
        condition.path, f"{before}{escaped(_text(condition))}{after}", options
    )


def _part(condition: Condition, options: str = "") -> Clause:
    """That a text has a part, or a list a member."""
    value, path = condition.value, condition.path
    if not isinstance(value, str):
        _scalar(condition)
        return {path: {"$eq": value, "$type": "array"}}
    pattern = escaped(_text(condition))
    within = _regex(path, pattern, options)
    within[path]["$not"] = {"$type": "array"}
    if not options:
        return {"$or": [equal(path, value), within]}
    whole = _regex(path, rf"^{pattern}\z", options)
    whole[path]["$type"] = "array"
    return {"$or": [whole, within]}


def _each(condition: Condition, lookup: Lookup) -> list[Clause]:
    values = _several(condition)
    _check_count(condition, len(values))
    return [lookup(Condition(condition.name, condition.path, value)) for value in values]


def _check_count(condition: Condition, count: int) -> None:
    if count > MOST_TEXTS:
        raise ValueError(f"{condition.name} takes at most {MOST_TEXTS} values, not {count}")


def _all_or_one(lookup: Lookup) -> Lookup:
    """One value, or each of several."""

    def translated(condition: Condition) -> Clause:
        if is_list(condition.value):
            return {"$and": _each(condition, lookup)}
        return lookup(condition)

    return translated


def _any_of(lookup: Lookup) -> Lookup:
    return lambda condition: {"$or": _each(condition, lookup)}


def _phrase(condition: Condition) -> Clause:
    try:
        return _regex(condition.path, phrase(_text(condition)), "i")
    except ValueError as error:
        raise ValueError(f"{condition.name}: {error}") from None


def _search(condition: Condition) -> Clause:
    try:
        alternatives = some_words(_text(condition))
    except ValueError as error:
        raise ValueError(f"{condition.name}: {error}") from None
    _check_count(condition, sum(map(len, alternatives)))
    return {
        "$or": [
            {"$and": [_regex(condition.path, pattern, "i") for pattern in patterns]}
            for patterns in alternatives
        ]
    }


def _matches(condition: Condition) -> Clause:
    return _regex(condition.path, *pattern_and_options(condition.name, condition.value))


def _matches_caseless(condition: Condition) -> Clause:
    pattern, options = pattern_and_options(condition.name, condition.value)
    return _regex(condition.path, pattern, "i" + options.replace("i", ""))


def _year(condition: Condition) -> Clause:
    year = _number(condition, *_YEARS)
    first = datetime(year, 1, 1, tzinfo=UTC)
    if year == _YEARS[1]:
        return {condition.path: {"$gte": first, "$lte": _LAST}}
    return {condition.path: {"$gte": first, "$lt": first.replace(year=year + 1)}}


def _part_of_date(operator: str, most: int) -> Lookup:
    """A part of a date that no range of dates has: the server looks at each."""

    def translated(condition: Condition) -> Clause:
        number = _number(condition, 1, most)
        if any(part.isdigit() for part in condition.path.split(".")):
            raise ValueError(f"{condition.name}: places in lists have no {operator[1:]}")
        field = f"${condition.path}"
        is_it = {"$eq": [{operator: "$$this"}, number]}
        # The server would fail on what is no date.
        is_date = {"$eq": [{"$type": "$$this"}, "date"]}
        dates = {
            "$filter": {
                "input": {"$cond": [{"$isArray": field}, field, [field]]},
                "cond": {"$cond": [is_date, is_it, False]},
            }
        }
        return {"$expr": {"$gt": [{"$size": dates}, 0]}}

    return translated


LOOKUPS: Mapping[str, Lookup] = MappingProxyType(
    {
        "exact": _exact,
        "is": _exact,
        "eq": _exact,
        "equals": _exact,
        "ne": _ne,
        "gt": _comparison("$gt"),
        "gte": _comparison("$gte"),
        "lt": _comparison("$lt"),
        "lte": _comparison("$lte"),
        "between": _between,
        "in": _in,
        "exists": _exists,
        "startswith": _searching("^", ""),
        "istartswith": _searching("^", "", "i"),
        "endswith": _searching("", r"\z"),
        "iendswith": _searching("", r"\z", "i"),
        "iexact": _searching("^", r"\z", "i"),
        "contains": _all_or_one(_part),
        "icontains": _all_or_one(lambda condition: _part(condition, "i")),
        "contains_any": _any_of(_part),
        "like": _all_or_one(_phrase),
        "like_any": _any_of(_phrase),
        "search": _search,
        "matches": _matches,
        "imatches": _matches_caseless,
        "matches_caseless": _matches_caseless,
        "year": _year,
        "month": _part_of_date("$month", 12),
        "day": _part_of_date("$dayOfMonth", 31),
    }
)
"""
Each lookup by what follows the last C{__} of a condition's name.
"""


# Names.


def field_path(given: str, names: Names, parts: list[str] | None = None) -> str:
    """
    The path of a field for the server: C{a__b} and C{a.b} are C{"a.b"}, and
    the key is C{_id}.

    @param given: the name as it was written.
    @param parts: what is left of it without a lookup.
    @raise TypeError: it is no string, or no field of the class.
    @raise ValueError: it is no name of a field, or ends with a lookup.
    """
    if not isinstance(given, str):
        raise TypeError(f"a field's name is a string, not {type(given).__name__}")
    if parts is None:
        parts = given.split("__")
        if len(parts) > 1 and parts[-1] in LOOKUPS:
            path = ".".join(parts)
            raise ValueError(
                f"{given!r} ends with a lookup, and none can stand here; for a field of that "
                f"name write {path!r}"
            )
    parts = ".".join(parts).split(".")
    for part in parts:
        if not part or "$" in part or "\x00" in part:
            raise ValueError(
                f"{given!r} names no field: names are not empty, and hold no '$' and no null "
                "character"
            )
    first = parts[0]
    if first in ("_id", names.key):
        parts[0] = "_id"
    elif names.fields is not None and first not in names.fields:
        raise TypeError(f"there is no field {first!r}{nearest_of(first, names.fields)}")
    return ".".join(parts)


def _lookup_of(given: str, names: Names) -> tuple[str, Lookup]:
    parts = given.split("__")
    if len(parts) > 1 and parts[-1] in LOOKUPS:
        return field_path(given, names, parts[:-1]), LOOKUPS[parts[-1]]
    path = field_path(given, names, parts)
    near = nearest_of(parts[-1], LOOKUPS, _LIKENESS) if len(parts) > 1 else ""
    if near:
        raise TypeError(
            f"there is no lookup {parts[-1]!r}{near} (For a field of that name write "
            f"{given + '__exact'!r})"
        )
    return path, _exact


def clauses(
    conditions: Mapping[str, Any], names: Names, plain: Callable[[Any], Any] | None = None
) -> list[Clause]:
    """
    Conditions as filters for the server, one each.

    @param plain: makes a value of an application's classes one of BSON's.
    @raise TypeError: a name or a value is not of a kind that it can be.
    @raise ValueError: a name or a value cannot be what it is.
    """
    found = []
    for given, value in conditions.items():
        path, lookup = _lookup_of(given, names)
        of_bson = value if plain is None else plain(value)
        found.append(lookup(Condition(given, path, of_bson, not isinstance(value, AbstractSet))))
    return found


def filter_of(found: Iterable[Clause]) -> Clause:
    """
    The filter that all of some clauses make.
    """
    all_of_them = list(found)
    if len(all_of_them) == 1:
        return all_of_them[0]
    return {"$and": all_of_them} if all_of_them else {}
