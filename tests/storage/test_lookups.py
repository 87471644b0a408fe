"""
Tests for L{txmongokit.storage.lookups}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson.code import Code
from bson.objectid import ObjectId
from bson.regex import Regex
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit.storage.lookups import LOOKUPS, Names, clauses, field_path, filter_of
from txmongokit.storage.text import LONGEST_PATTERN, LONGEST_TEXT

NAMES = Names()
# What the translation itself writes; whatever else begins with a dollar would come from outside.
OURS = {"$and", "$eq", "$exists", "$expr", "$gt", "$gte", "$lt", "$lte", "$not", "$options", "$or"}
OURS |= {"$regex", "$type"}
LITERAL = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})


def translated(**conditions: Any) -> dict[str, Any]:
    """The filter of conditions."""
    return filter_of(clauses(conditions, NAMES))


class TranslationTests(SynchronousTestCase):
    """
    What each lookup is for the server.
    """

    def test_comparisons(self) -> None:
        """Values are compared, and only compared, whatever is in them."""
        for name in ("a", "a__exact", "a__is", "a__eq", "a__equals"):
            self.assertEqual(translated(**{name: 5}), {"a": 5}, name)
            literal = {"a": {"$eq": {"$gt": 1}}}
            self.assertEqual(translated(**{name: {"$gt": 1}}), literal, name)
            self.assertEqual(translated(**{name: ["x"]}), {"a": {"$eq": ["x"]}}, name)
            self.assertEqual(translated(**{name: None}), {"a": None}, name)
            code = Code("true")
            self.assertEqual(translated(**{name: code}), {"a": {"$eq": code}}, name)
        self.assertEqual(translated(a__ne={"$gt": 1}), {"a": {"$ne": {"$gt": 1}}})
        for lookup in ("gt", "gte", "lt", "lte"):
            self.assertEqual(translated(**{f"a__{lookup}": 5}), {"a": {f"${lookup}": 5}})
        self.assertEqual(translated(a__between=(1, 3)), {"a": {"$gte": 1, "$lte": 3}})
        self.assertEqual(translated(a__exists=False), {"a": {"$exists": False}})

    def test_lists(self) -> None:
        """Membership is asked for by $in, and by equality where $in would take operators."""
        self.assertEqual(translated(a__in=(1, "x")), {"a": {"$in": [1, "x"]}})
        self.assertEqual(translated(a__in=[]), {"a": {"$in": []}})
        self.assertEqual(
            translated(a__in=[1, {"$gt": 1}]),
            {"$or": [{"a": {"$in": [1]}}, {"a": {"$eq": {"$gt": 1}}}]},
        )
        self.assertEqual(translated(a__contains=5), {"a": {"$eq": 5, "$type": "array"}})

    def test_text(self) -> None:
        """Text is escaped, and anchored where it must be."""
        self.assertEqual(translated(a__startswith="x.y"), {"a": {"$regex": r"^x\.y"}})
        self.assertEqual(translated(a__endswith="*"), {"a": {"$regex": r"\*\z"}})
        self.assertEqual(
            translated(a__iexact="A|b"), {"a": {"$regex": r"^A\|b\z", "$options": "i"}}
        )
        self.assertEqual(translated(a__istartswith="A"), {"a": {"$regex": "^A", "$options": "i"}})
        self.assertEqual(
            translated(a__iendswith="\0"), {"a": {"$regex": r"\x{0}\z", "$options": "i"}}
        )
        within = {"a": {"$regex": r"\(", "$not": {"$type": "array"}}}
        self.assertEqual(translated(a__contains="("), {"$or": [{"a": "("}, within]})

    def test_several_texts(self) -> None:
        """A list of texts is for all of them, and C{_any} for one."""
        one, two = translated(a__contains="x"), translated(a__contains="y")
        self.assertEqual(translated(a__contains=["x", "y"]), {"$and": [one, two]})
        self.assertEqual(translated(a__contains_any=["x", "y"]), {"$or": [one, two]})
        one, two = translated(a__like="x"), translated(a__like="y")
        self.assertEqual(translated(a__like=["x", "y"]), {"$and": [one, two]})
        self.assertEqual(translated(a__like_any=["x", "y"]), {"$or": [one, two]})
        self.assertEqual(translated(a__search="x y"), {"$or": [{"$and": [one, two]}]})
        self.assertEqual(
            translated(a__search='"x" || && y'), {"$or": [{"$and": [one]}, {"$and": [two]}]}
        )
        self.assertEqual(translated(a__search="x||y"), {"$or": [{"$and": [one]}, {"$and": [two]}]})

    def test_quotes(self) -> None:
        """Within quotes nothing stands between words or alternatives."""
        for text in ("x || y", "&&", "||", "x && y"):
            phrase = translated(a__like=text)
            self.assertEqual(translated(a__search=f'"{text}"'), {"$or": [{"$and": [phrase]}]})

    def test_patterns(self) -> None:
        """Regular expressions are taken as such by C{matches} alone."""
        for value in ("a.c", re.compile("a.c"), Regex("a.c")):
            self.assertEqual(translated(a__matches=value), {"a": {"$regex": "a.c"}})
            caseless = {"a": {"$regex": "a.c", "$options": "i"}}
            self.assertEqual(translated(a__imatches=value), caseless)
            self.assertEqual(translated(a__matches_caseless=value), caseless)
        flags = re.compile("x", re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE)
        self.assertEqual(translated(a__matches=flags), {"a": {"$regex": "x", "$options": "imsx"}})

    def test_dates(self) -> None:
        """A year is a range, which an index serves; its parts are looked at by the server."""
        self.assertEqual(
            translated(a__year=2020),
            {
                "a": {
                    "$gte": datetime(2020, 1, 1, tzinfo=UTC),
                    "$lt": datetime(2021, 1, 1, tzinfo=UTC),
                }
            },
        )
        last = translated(a__year=9999)["a"]["$lte"]
        self.assertEqual((last.year, last.microsecond), (9999, 999000))
        self.assertIn("'$month': '$$this'", str(translated(a__b__month=3)))
        self.assertIn("'$dayOfMonth': '$$this'", str(translated(a__b__day=3)))
        self.assertIn("{'$isArray': '$a.b'}", str(translated(a__b__day=3)))

    def test_several(self) -> None:
        """Several conditions hold together, on one field, too."""
        self.assertEqual(filter_of([]), {})
        self.assertEqual(
            translated(a__gt=1, a__lt=3, b=2),
            {"$and": [{"a": {"$gt": 1}}, {"a": {"$lt": 3}}, {"b": 2}]},
        )

    def test_conversion(self) -> None:
        """Values become BSON's before they are looked at."""
        found = clauses({"a__in": [1, 2]}, NAMES, lambda value: [str(each) for each in value])
        self.assertEqual(found, [{"a": {"$in": ["1", "2"]}}])


class NameTests(SynchronousTestCase):
    """
    Fields and lookups by name.
    """

    def test_nested(self) -> None:
        """Two underscores go into a document, until a lookup ends the name."""
        self.assertEqual(translated(a__b__gt=1), {"a.b": {"$gt": 1}})
        self.assertEqual(translated(a__b=1), {"a.b": 1})
        self.assertEqual(translated(a__day__exact=1), {"a.day": 1})
        self.assertEqual(translated(**{"a.day": 1}), {"a.day": 1})
        self.assertEqual(translated(gt=1), {"gt": 1})
        self.assertEqual(translated(_id__b__gt=1), {"_id.b": {"$gt": 1}})

    def test_key(self) -> None:
        """The key's field, and C{_id}, are C{_id}, at the front of a path only."""
        names = Names("pk", frozenset({"pk", "a"}))
        self.assertEqual(clauses({"pk__gt": 1}, names), [{"_id": {"$gt": 1}}])
        self.assertEqual(clauses({"_id": 1}, names), [{"_id": 1}])
        self.assertEqual(clauses({"a__pk": 1}, names), [{"a.pk": 1}])

    def test_unknown_field(self) -> None:
        """Where a class tells its fields, another name is an error that names the nearest."""
        names = Names("pk", frozenset({"pk", "surname"}))
        error = self.assertRaises(TypeError, clauses, {"surnmae__gt": 1}, names)
        self.assertEqual(str(error), "there is no field 'surnmae'; did you mean 'surname'?")

    def test_unknown_lookup(self) -> None:
        """What looks like a lookup mistyped is an error that names the nearest."""
        for wrong, right in {
            "contians": "contains",
            "startwith": "startswith",
            "gtt": "gt",
            "years": "year",
        }.items():
            error = self.assertRaises(TypeError, translated, **{f"a__{wrong}": 1})
            self.assertIn(f"there is no lookup {wrong!r}; did you mean {right!r}?", str(error))
            self.assertEqual(translated(**{f"a__{wrong}__exact": 1}), {f"a.{wrong}": 1})

    def test_refused(self) -> None:
        """Names that could be operators, or none, are refused."""
        for name in ("$where", "a__$gt", "a$b", "", "__a", "a__", "a__gt__", "a\0b", "a..b", "a."):
            error = self.assertRaises(ValueError, translated, **{name: 1})
            self.assertIn("names no field", str(error))

    def test_paths(self) -> None:
        """Where no lookup can stand, a name that ends with one says what to write."""
        self.assertEqual(field_path("a__b", NAMES), "a.b")
        error = self.assertRaises(ValueError, field_path, "date__year", NAMES)
        self.assertIn("write 'date.year'", str(error))
        self.assertEqual(field_path("date.year", NAMES), "date.year")
        self.assertRaises(TypeError, field_path, 5, NAMES)


class RefusalTests(SynchronousTestCase):
    """
    Values that a lookup cannot take.
    """

    def refused(self, name: str, value: Any, why: str, kind: type[Exception] = TypeError) -> None:
        """Expect an error that names the condition."""
        error = self.assertRaises(kind, translated, **{name: value})
        self.assertIn(name, str(error))
        self.assertIn(why, str(error))

    def test_patterns(self) -> None:
        """Regular expressions are no values, at any depth."""
        for pattern in (re.compile("x"), Regex("x")):
            for lookup in sorted(set(LOOKUPS) - {"matches", "imatches", "matches_caseless"}):
                for value in (pattern, [pattern], {"b": [pattern]}):
                    with self.assertRaises((TypeError, ValueError)):
                        translated(**{f"a__{lookup}": value})
            self.refused("a", pattern, "the lookup 'matches' does")
            self.refused("a__in", [{"b": (pattern,)}], "the lookup 'matches' does")

    def test_one_value(self) -> None:
        """Comparisons take one value: no list, no document, no C{None}."""
        for lookup in ("gt", "gte", "lt", "lte"):
            for value in ([1], {"$gt": 1}, None, {1}):
                self.refused(f"a__{lookup}", value, "takes one value to compare with")
        self.refused("a__between", [1, [2]], "takes one value to compare with")
        self.refused("a__contains", {"$gt": 1}, "takes one value to compare with")

    def test_lists(self) -> None:
        """Lists are lists, with something in them, and two bounds."""
        for lookup in ("in", "between", "contains_any", "like_any"):
            for value in ("xy", 5, {"a": 1}, b"xy"):
                self.refused(f"a__{lookup}", value, "takes a list")
        for lookup in ("between", "contains", "contains_any", "like", "like_any"):
            self.refused(f"a__{lookup}", [], "something in it", ValueError)
        for bounds in ([1], [1, 2, 3], {1, 2}):
            self.refused("a__between", bounds, "a list of two", ValueError)
        for pair in ({1, 2}, frozenset({1, 2})):
            # Classes' converters make lists of sets.
            error = self.assertRaises(ValueError, clauses, {"a__between": pair}, NAMES, list)
            self.assertIn("a list of two", str(error))

    def test_text(self) -> None:
        """Text is text, and not without end."""
        for lookup in ("startswith", "endswith", "iexact", "istartswith", "iendswith", "like"):
            self.refused(f"a__{lookup}", 5, "takes text, not int")
            long = "x" * (LONGEST_TEXT + 1)
            self.refused(f"a__{lookup}", long, "at most 4096 characters", ValueError)
        self.refused("a__contains_any", ["x"] * 101, "at most 100 values, not 101", ValueError)
        self.refused("a__like", ["x"] * 101, "at most 100 values, not 101", ValueError)
        self.refused("a__search", "x " * 51 + "||" + "y " * 50, "not 101", ValueError)
        self.refused("a__like", " ", "a phrase needs a word", ValueError)
        for text in ("x ||", "|| x", "&&", "", '""', 'x || ""'):
            self.refused("a__search", text, "a phrase needs a word", ValueError)

    def test_matches(self) -> None:
        """Patterns are text, short, and have the server's flags."""
        self.refused("a__matches", 5, "as text, not int")
        self.refused("a__matches", re.compile(b"x"), "as text, not bytes")
        self.refused("a__matches", "x" * (LONGEST_PATTERN + 1), "at most 1000", ValueError)
        self.refused("a__matches", "x\0", "no null character", ValueError)
        self.refused("a__matches", re.compile("x", re.ASCII), "re.ASCII", ValueError)

    def test_kinds(self) -> None:
        """Whether something exists is a truth value; dates have parts within bounds."""
        self.refused("a__exists", 1, "takes True or False")
        for lookup, value in (("year", 0), ("year", 10000), ("month", 13), ("day", 0)):
            self.refused(f"a__{lookup}", value, f"not {value}", ValueError)
        for other in ("2020", True, 1.0, None):
            self.refused("a__year", other, "a whole number")
        self.refused("a__0__month", 3, "places in lists", ValueError)


class DocumentationTests(SynchronousTestCase):
    """
    C{docs/storage.rst} beside the lookups.
    """

    def test_table(self) -> None:
        """Each lookup is in the table, and nothing else is."""
        page = Path(__file__).resolve().parents[2] / "docs" / "storage.rst"
        table = page.read_text().partition("   * - Lookup\n")[2]
        rows = re.findall(r"(?m)^   \* - (.*)$", table.partition("\n\n")[0])
        told = [name for row in rows for name in re.findall("``(.*?)``", row)]
        self.assertEqual(sorted(told), sorted(LOOKUPS))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-9, 13)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.datetimes()
    | st.builds(ObjectId)
    | st.sampled_from(["$gt", "$where", ".*", "^$", "a"])
)
NAMED = st.sampled_from(["$gt", "$where", "$regex", "$expr", "$in", "$or", "a", "b.c"]) | st.text(
    max_size=3
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMED, inner, max_size=3),
    max_leaves=8,
)


def operators(clause: Any, path: str) -> Iterator[str]:
    """The operators of a clause, but for what is compared literally."""
    if isinstance(clause, dict):
        for name, value in clause.items():
            if name != path:
                yield name
            if name not in LITERAL:
                yield from operators(value, path)
    elif isinstance(clause, list):
        for each in clause:
            yield from operators(each, path)


class OutsideTests(SynchronousTestCase):
    """
    Values from outside never become operators.
    """

    @reproducible(200)
    @given(st.sampled_from(sorted(LOOKUPS)), ANYTHING)
    def test_values(self, lookup: str, value: Any) -> None:
        """Of any value at all comes a comparison, escaped text, or a refusal."""
        try:
            (clause,) = clauses({f"f__{lookup}": value}, NAMES)
        except (TypeError, ValueError):
            return
        if lookup in ("exact", "is", "eq", "equals", "ne"):
            ((path, compared),) = clause.items()
            self.assertEqual(path, "f")
            if isinstance(compared, dict):
                self.assertEqual(len(compared), 1)
                ((operator, operand),) = compared.items()
                self.assertIn(operator, ("$eq", "$ne"))
                self.assertIs(operand, value)
            else:
                self.assertNotIsInstance(value, list)
                self.assertIs(compared, value)
            return
        if lookup == "in":
            parts = clause.get("$or", [clause])
            listed = parts[0]["f"]["$in"]
            self.assertFalse([each for each in listed if isinstance(each, dict)])
            others = [part["f"]["$eq"] for part in parts[1:]]
            self.assertEqual(len(listed) + len(others), len(value))
            return
        self.assertLessEqual(set(operators(clause, "f")), OURS)

    @reproducible(100)
    @given(st.text(max_size=30))
    @example("\\z")
    @example("\\x{0}\\\0")
    def test_text(self, text: str) -> None:
        """Escaped text matches itself, and nothing that is longer or shorter."""
        pattern = translated(a__iexact=text)["a"]["$regex"]
        # What PCRE writes otherwise.
        ours = pattern.removesuffix(r"\z").replace(r"\x{0}", r"\x00") + r"\Z"
        self.assertTrue(re.search(ours, text))
        self.assertFalse(re.search(ours, text + "x"))
        self.assertFalse(re.search(ours, "x" + text))
        if text:
            self.assertFalse(re.search(ours, text[:-1]))
            self.assertFalse(re.search(ours, text[1:]))

    @reproducible(100)
    @given(NAMED, SCALARS)
    def test_names(self, name: str, value: Any) -> None:
        """A name with a dollar or a null character is refused, whatever comes with it."""
        for given_name in (name, f"a__{name}", f"{name}__gt", f"a__{name}__in"):
            try:
                clauses({given_name: value}, NAMES)
            except (TypeError, ValueError):
                continue
            self.assertFalse({"$", "\0"} & set(given_name), given_name)
