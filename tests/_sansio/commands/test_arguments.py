"""
Tests for L{txmongokit._sansio.commands.arguments}.
"""

from __future__ import annotations

import re
from typing import Any

from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.arguments import (
    add_options,
    is_plain_projection,
    names_one_document,
)

NAMES = {"max_time_ms": "maxTimeMS", "let": "let", "upsert": "upsert", "hint": "hint"}


class OptionTests(SynchronousTestCase):
    """
    L{add_options}.
    """

    def test_names(self) -> None:
        """Our names and the server's do; C{None} is left out, C{False} is not."""
        given: dict[str, Any] = {"maxTimeMS": 5, "let": None, "upsert": False}
        self.assertEqual(
            add_options({"find": "c"}, NAMES, given),
            {"find": "c", "maxTimeMS": 5, "upsert": False},
        )
        self.assertEqual(add_options({}, NAMES, {"max_time_ms": 6}), {"maxTimeMS": 6})

    def test_unknown(self) -> None:
        """What is no option is refused, and the nearest one named."""
        error = self.assertRaises(TypeError, add_options, {"find": "c"}, NAMES, {"max_time": 1})
        self.assertIn("find has no option 'max_time'; did you mean 'max_time_ms'?", str(error))

    def test_types(self) -> None:
        """Values of wrong types are errors at once."""
        wrong_ones: list[dict[str, Any]] = [
            {"max_time_ms": "5"},
            {"max_time_ms": True},
            {"let": []},
            {"upsert": 1},
            {"hint": 5},
        ]
        for wrong in wrong_ones:
            self.assertRaises(TypeError, add_options, {}, NAMES, wrong)
        names = {"array_filters": "arrayFilters"}
        self.assertRaises(TypeError, add_options, {}, names, {"array_filters": {}})


class PointTests(SynchronousTestCase):
    """
    What takes one look into an index.
    """

    def test_filters(self) -> None:
        """Equality of C{_id} alone, and nothing that could be more."""
        for value in (1, "a", ObjectId(), None, 2.5, b"x"):
            self.assertTrue(names_one_document({"_id": value}))
        for other in (
            None,
            {},
            {"a": 1},
            {"_id": {"$gt": 1}},
            {"_id": 1, "a": 2},
            {"_id": 1, "$where": "sleep(1000)"},
            {"_id": re.compile("a")},
            {"_id": Regex("a")},
            RawBSONDocument(b"\x05\x00\x00\x00\x00"),
        ):
            self.assertFalse(names_one_document(other), other)

    def test_projections(self) -> None:
        """Names are quick, expressions may not be."""
        for plain in (None, ["a"], {"a": 1}, {"a": False, "_id": 0}):
            self.assertTrue(is_plain_projection(plain))
        self.assertFalse(is_plain_projection({"a": {"$function": {}}}))
