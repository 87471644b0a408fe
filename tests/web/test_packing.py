"""
Tests for L{txmongokit.web.packing}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.code import Code
from bson.codec_options import DEFAULT_CODEC_OPTIONS as OPTIONS
from bson.dbref import DBRef
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.web.errors import InvalidSessionData, SessionUnreadable
from txmongokit.web.packing import MAX_DEPTH, pack, unpack

KEYS = st.text(st.sampled_from("a.$%\x002E45é"), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab\u00e9", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def keys_in(value: Any) -> set[str]:
    """Every key of a document."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


class PackingTests(SynchronousTestCase):
    """
    Data to BSON and back.
    """

    @settings(deadline=None)
    @given(st.dictionaries(KEYS, VALUES, max_size=4))
    def test_round_trip(self, data: dict[str, Any]) -> None:
        """Whatever the keys are, they come back, and none is an operator or a path."""
        packed = pack(data, OPTIONS)
        self.assertEqual(unpack(packed, OPTIONS), data)
        for key in keys_in(bson.decode(packed)):
            self.assertFalse(set(key) & set(".$\x00"))

    def test_references_stay_data(self) -> None:
        """What looks like a reference comes back as it was."""
        data = {"x": [{"$ref": "users", "$id": 1, "$db": "admin"}]}
        self.assertEqual(unpack(pack(data, OPTIONS), OPTIONS), data)

    def test_inside_references(self) -> None:
        """What is in a reference, or in the scope of code, has harmless keys as well."""
        hostile: dict[str, Any] = {"a.b": [{"$set": 1}], "$where": "1"}
        data = {
            "reference": DBRef("users", dict(hostile), "admin", **hostile),
            "plain": DBRef("users", 1),
            "code": Code("f", dict(hostile)),
            "bare": Code("f"),
        }
        packed = pack(data, OPTIONS)
        self.assertEqual(unpack(packed, OPTIONS), data)
        stored = bson.decode(packed)
        fields = stored["reference"].as_doc()
        self.assertEqual([*fields], ["$ref", "$id", "$db", "a%2Eb", "%24where"])
        for inside in (fields["$id"], fields["a%2Eb"], stored["code"].scope):
            self.assertFalse(set("".join(keys_in(inside))) & set(".$"))

    def test_data_is_left_alone(self) -> None:
        """Packing changes nothing of what it is given."""
        inner = {"a.b": (1, 2)}
        data = {"$x": inner}
        pack(data, OPTIONS)
        self.assertEqual(data, {"$x": {"a.b": (1, 2)}})
        self.assertIs(data["$x"], inner)

    def test_refusals(self) -> None:
        """What cannot be stored is told without showing it."""
        endless: dict[str, Any] = {}
        endless["self"] = endless
        deep: Any = "secret"
        for _ in range(MAX_DEPTH + 1):
            deep = [deep]
        cases: list[tuple[Any, str]] = [
            ([("secret", 1)], "must be a mapping, not list"),
            ({1: "secret"}, "must be strings, not int"),
            ({"a": {("secret",): 1}}, "must be strings, not tuple"),
            ({"a": {"secret"}}, "has a set that BSON"),
            ({"a": 1 << 70}, "OverflowError"),
            ({"a": "secret\ud800"}, "UnicodeEncodeError"),
            ({"a": deep}, "nested 100 deep"),
            (endless, "nested 100 deep"),
            ({"a": DBRef("c", deep)}, "nested 100 deep"),
            ({"a": DBRef("c", 1, more=deep)}, "nested 100 deep"),
            ({"a": Code("f", {"a": deep})}, "nested 100 deep"),
            ({"a": DBRef("c", {("secret",): 1})}, "must be strings, not tuple"),
        ]
        for data, told in cases:
            error = self.assertRaises(InvalidSessionData, pack, data, OPTIONS)
            self.assertIn(told, str(error))
            self.assertNotIn("secret", str(error))

    def test_what_is_no_bson(self) -> None:
        """Bytes that are something else are unreadable."""
        self.assertRaises(SessionUnreadable, unpack, b"secret", OPTIONS)
