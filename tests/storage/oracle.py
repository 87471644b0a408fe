"""
What each lookup means, told in Python: an oracle for the server's answers, and
random documents and conditions to ask both about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any

from bson.decimal128 import Decimal128
from bson.objectid import ObjectId

__all__ = ["meets", "random_documents", "random_value"]

MISSING = object()
WORDS = (
    "Ada",
    "ada",
    "a.b",
    "a*",
    "^x$",
    "Grace",
    "H\xf6pper",
    "H\xd6PPER",
    "x\ny",
    "n\0l",
    "_",
    "%",
)
GAPS = (" ", "  ", "-", ".", "", "\n")


# Random documents and values.


def _text(random: Random) -> str:
    words = random.choices(WORDS, k=random.randint(0, 3))
    return "".join(word + random.choice(GAPS) for word in words)


def _new_year(year: int) -> datetime:
    return datetime.fromisoformat(f"{year}-01-01")


def _date(random: Random) -> datetime:
    hours = random.randrange(3 * 365 * 24)
    return _new_year(2019) + timedelta(hours=hours)


def _scalar(random: Random) -> Any:
    return random.choice(
        [
            None,
            random.random() < 0.5,
            random.randint(-2, 3),
            random.randint(-4, 6) / 2,
            Decimal128(f"{random.randint(-4, 6) / 2}"),
            _text(random),
            random.choice(WORDS),
            _date(random),
            ObjectId(bytes([random.randrange(3)]) * 12),
            bytes([random.randrange(3)]),
        ]
    )


def _field(random: Random) -> Any:
    kind = random.random()
    if kind < 0.6:
        return _scalar(random)
    if kind < 0.9:
        return [_scalar(random) for _ in range(random.randrange(4))]
    return random.choice([{"b": _scalar(random)}, {"$gt": 1}, {"b": 1, "c": 2}])


def random_documents(random: Random, count: int) -> list[dict[str, Any]]:
    """Documents with the fields C{f}, C{sub.f} and C{date}, each of which may be missing."""
    documents = []
    for number in range(count):
        document: dict[str, Any] = {"_id": number}
        if random.random() < 0.85:
            document["f"] = _field(random)
        if random.random() < 0.85:
            document["sub"] = {"f": _field(random)} if random.random() < 0.9 else _scalar(random)
        if random.random() < 0.7:
            some = [_date(random) for _ in range(3)]
            document["date"] = some[0] if random.random() < 0.7 else some
        documents.append(document)
    return documents


def random_value(random: Random, lookup: str) -> Any:
    """A value that a lookup takes."""
    if lookup in ("exact", "is", "eq", "equals", "ne"):
        return _field(random)
    if lookup in ("gt", "gte", "lt", "lte"):
        return _comparable(random)
    if lookup == "between":
        return [_comparable(random), _comparable(random)]
    if lookup == "in":
        return [_field(random) for _ in range(random.randrange(4))]
    if lookup == "exists":
        return random.random() < 0.5
    if lookup in ("contains", "icontains") and random.random() < 0.3:
        return _comparable(random)
    if lookup == "contains_any" or (lookup == "contains" and random.random() < 0.3):
        return [random.choice([_comparable(random), random.choice(WORDS)]) for _ in range(2)]
    if lookup == "like_any" or (lookup == "like" and random.random() < 0.3):
        return random.choices(WORDS[:7], k=2)
    if lookup == "like":
        return " ".join(random.choices(WORDS[:7], k=random.randint(1, 2)))
    if lookup == "search":
        one, two, three = random.choices(WORDS[:7], k=3)
        joined = [f"{one} {two}", f"{one} && {two}", f"{one} {two} || {three}"]
        return random.choice([one, *joined, f'"{one} {two}"', f'"{one} || {two}" || {three}'])
    if lookup in ("matches", "imatches", "matches_caseless"):
        return random.choice(["a", "^a", "a.b", "d[ad]$", "(?:gr|x)\\w", "^$"])
    if lookup in ("year", "month", "day"):
        return random.randint(*{"year": (2018, 2022), "month": (1, 12), "day": (1, 31)}[lookup])
    return random.choice([_text(random), random.choice(WORDS), "", "H", "a"])


def _comparable(random: Random) -> Any:
    while True:
        value = _scalar(random)
        if value is not None:
            return value


# What lookups mean.


def _values(document: Any, path: str) -> list[Any]:
    """What a field is, and its members where it is a list."""
    for part in path.split("."):
        document = document.get(part, MISSING) if isinstance(document, dict) else MISSING
    if document is MISSING:
        return []
    return [document, *document] if isinstance(document, list) else [document]


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    if isinstance(value, int | float | Decimal128):
        return "number"
    return type(value).__name__


def _number(value: Any) -> Any:
    return float(value.to_decimal()) if isinstance(value, Decimal128) else value


def _same(one: Any, two: Any) -> bool:
    if _kind(one) != _kind(two):
        return False
    if isinstance(one, list):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(map(_same, one.values(), two.values()))
    return bool(_number(one) == _number(two))


def _equal(values: list[Any], value: Any) -> bool:
    return any(_same(each, value) for each in values) or (value is None and not values)


def _compared(values: list[Any], bound: Any, test: Callable[[Any, Any], bool]) -> bool:
    return any(
        test(_number(each), _number(bound)) for each in values if _kind(each) == _kind(bound)
    )


def _at_least(values: list[Any], bound: Any) -> bool:
    return _compared(values, bound, lambda one, two: one >= two)


def _at_most(values: list[Any], bound: Any) -> bool:
    return _compared(values, bound, lambda one, two: one <= two)


def _any_text(values: list[Any], test: Callable[[str], bool]) -> bool:
    return any(test(each) for each in values if isinstance(each, str))


def _contains(values: list[Any], part: Any, fold: Callable[[str], str] = str) -> bool:
    """Python's C{in}."""
    if not values:
        return False
    field = values[0]
    if isinstance(field, list):
        if isinstance(part, str):
            return any(isinstance(each, str) and fold(each) == fold(part) for each in field)
        return any(_same(each, part) for each in field)
    return isinstance(field, str) and isinstance(part, str) and fold(part) in fold(field)


def _phrase(values: list[Any], phrase: str) -> bool:
    within = r"\s+".join(re.escape(word) for word in phrase.split())
    pattern = re.compile(rf"(?<!\w){within}(?!\w)", re.IGNORECASE)
    return _any_text(values, lambda text: bool(pattern.search(text)))


def _search(values: list[Any], expression: str) -> bool:
    alternatives: list[list[str]] = [[]]
    for number, part in enumerate(expression.split('"')):
        if number % 2:
            alternatives[-1].append(part)
            continue
        more, *others = part.split("||")
        alternatives[-1].extend(more.split())
        alternatives.extend(other.split() for other in others)
    return any(
        all(_phrase(values, term) for term in terms if term != "&&") for terms in alternatives
    )


def _date_part(name: str) -> Callable[[list[Any], Any], bool]:
    return lambda values, number: any(
        getattr(each, name) == number for each in values if isinstance(each, datetime)
    )


def _matches(flags: int) -> Callable[[list[Any], Any], bool]:
    # In PCRE \w is ASCII's, unless it is told otherwise.
    return lambda values, pattern: _any_text(
        values, lambda text: bool(re.search(pattern.replace(r"\w", "[0-9A-Za-z_]"), text, flags))
    )


def _text_test(test: Callable[[str, str], bool]) -> Callable[[list[Any], Any], bool]:
    return lambda values, text: _any_text(values, lambda each: test(each, text))


def _years(values: list[Any], year: int) -> bool:
    first, after = _new_year(year), _new_year(year + 1)
    return _at_least(values, first) and _compared(values, after, lambda one, two: one < two)


_MEANINGS: dict[str, Callable[[list[Any], Any], bool]] = {
    **dict.fromkeys(("exact", "is", "eq", "equals"), _equal),
    "ne": lambda values, value: not _equal(values, value),
    "gt": lambda values, bound: _compared(values, bound, lambda one, two: one > two),
    "gte": _at_least,
    "lt": lambda values, bound: _compared(values, bound, lambda one, two: one < two),
    "lte": _at_most,
    "between": lambda values, two: _at_least(values, two[0]) and _at_most(values, two[1]),
    "in": lambda values, some: any(_equal(values, value) for value in some),
    "exists": lambda values, there: bool(values) is there,
    "startswith": _text_test(str.startswith),
    "istartswith": _text_test(lambda each, text: each.lower().startswith(text.lower())),
    "endswith": _text_test(str.endswith),
    "iendswith": _text_test(lambda each, text: each.lower().endswith(text.lower())),
    "iexact": _text_test(lambda each, text: each.lower() == text.lower()),
    "contains": lambda values, part: all(
        _contains(values, each) for each in (part if isinstance(part, list) else [part])
    ),
    "icontains": lambda values, part: _contains(values, part, str.lower),
    "contains_any": lambda values, some: any(_contains(values, each) for each in some),
    "like": lambda values, part: all(
        _phrase(values, each) for each in (part if isinstance(part, list) else [part])
    ),
    "like_any": lambda values, some: any(_phrase(values, each) for each in some),
    "search": _search,
    "matches": _matches(0),
    **dict.fromkeys(("imatches", "matches_caseless"), _matches(re.IGNORECASE)),
    "year": _years,
    "month": _date_part("month"),
    "day": _date_part("day"),
}


def meets(document: dict[str, Any], path: str, lookup: str, value: Any) -> bool:
    """Whether a document meets a condition."""
    return _MEANINGS[lookup](_values(document, path), value)
