"""
Matching what is with what tests expect.
"""

from __future__ import annotations

import datetime
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from bson.objectid import ObjectId
from twisted.trial.unittest import SynchronousTestCase

from tests.spec.matching import MISSING, Malformed, Matcher, Mismatch, hex_bytes

_LSID = {"id": Binary(bytes(16), 4)}


class MatcherTests(SynchronousTestCase):
    """
    L{Matcher}.
    """

    def setUp(self) -> None:
        """A matcher with an entity and a session."""
        self.matcher = Matcher({"answer": 42}.__getitem__, {"session0": _LSID}.__getitem__)

    def fits(self, expected: Any, actual: Any, root: bool = False) -> None:
        """Both match."""
        self.matcher.match(expected, actual, root=root)

    def differs(self, expected: Any, actual: Any, root: bool = False) -> None:
        """Both do not match."""
        self.assertRaises(Mismatch, self.matcher.match, expected, actual, root=root)

    def test_numbers(self) -> None:
        """Integers and floats of one value match; booleans are no numbers."""
        self.fits(1, 1.0)
        self.fits(Int64(1), 1)
        self.differs(1, 1.5)
        self.differs(1, True)
        self.differs(True, 1)

    def test_extra_keys(self) -> None:
        """Only a root document may have more keys than expected."""
        self.fits({"x": 1}, {"y": 2, "x": 1}, root=True)
        self.differs({"x": 1}, {"y": 2, "x": 1})
        self.differs({"x": {"y": 1}}, {"x": {"y": 1, "z": 1}}, root=True)
        self.differs({"x": 1, "y": 1}, {"x": 1}, root=True)

    def test_arrays(self) -> None:
        """Arrays have as many elements as expected, in their order."""
        self.fits([1, 2], [1, 2])
        self.differs([1, 2], [2, 1])
        self.differs([1, 2], [1, 2, 3])
        self.differs([1], 1)

    def test_rows(self) -> None:
        """The documents of an iterable result are root documents."""
        self.matcher.match_rows([{"x": 1}], [{"x": 1, "y": 2}])
        self.assertRaises(Mismatch, self.matcher.match_rows, [{"x": 1}], [])

    def test_exists(self) -> None:
        """C{$$exists} looks at the key, not at its value."""
        self.fits({"x": {"$$exists": True}}, {"x": None})
        self.fits({"x": {"$$exists": False}}, {})
        self.differs({"x": {"$$exists": True}}, {})
        self.differs({"x": {"$$exists": False}}, {"x": None})

    def test_type(self) -> None:
        """C{$$type} takes one of several names of BSON types."""
        values: dict[str, Any] = {
            "array": [],
            "binData": b"",
            "bool": True,
            "date": datetime.datetime(2020, 1, 1),  # noqa: DTZ001  # as BSON decodes it
            "double": 1.0,
            "int": 1,
            "long": Int64(1),
            "null": None,
            "object": {},
            "objectId": ObjectId(),
            "string": "",
        }
        for name, value in values.items():
            self.fits({"$$type": name}, value)
            self.fits({"$$type": ["minKey", name]}, value)
            self.differs({"$$type": "minKey"}, value)
        self.differs({"$$type": "int"}, MISSING)
        self.assertRaises(Malformed, self.matcher.match, {"$$type": "foo"}, 1)

    def test_unset_or_matches(self) -> None:
        """C{$$unsetOrMatches} does without a value and checks it if it is there."""
        self.fits({"x": {"$$unsetOrMatches": 1}}, {})
        self.fits({"x": {"$$unsetOrMatches": 1}}, {"x": 1})
        self.differs({"x": {"$$unsetOrMatches": 1}}, {"x": 2})
        self.differs({"x": {"$$unsetOrMatches": 1}}, {"x": None})
        self.fits({"$$unsetOrMatches": {"x": 1}}, {"x": 1, "y": 1}, root=True)

    def test_entities(self) -> None:
        """Entities and sessions are looked up by their names."""
        self.fits({"x": {"$$matchesEntity": "answer"}}, {"x": 42})
        self.differs({"x": {"$$matchesEntity": "answer"}}, {"x": 41})
        self.fits({"lsid": {"$$sessionLsid": "session0"}}, {"lsid": _LSID})
        self.differs({"lsid": {"$$sessionLsid": "session0"}}, {})

    def test_less_or_equal(self) -> None:
        """C{$$lte} compares numbers."""
        self.fits({"$$lte": 5}, 5.0)
        self.differs({"$$lte": 5}, 6)
        self.differs({"$$lte": 5}, "5")

    def test_bytes(self) -> None:
        """C{$$matchesHexBytes} compares bytes and refuses what is no hexadecimal."""
        self.fits({"$$matchesHexBytes": "12ab"}, b"\x12\xab")
        self.differs({"$$matchesHexBytes": "12ab"}, b"\x12")
        self.assertRaises(Malformed, hex_bytes, "1")

    def test_extended_json(self) -> None:
        """C{$$matchAsDocument} reads text, C{$$matchAsRoot} allows more keys."""
        text = '{"x": {"$numberLong": "1"}, "y": 2}'
        self.fits({"$$matchAsDocument": {"x": 1, "y": 2}}, text)
        self.differs({"$$matchAsDocument": {"x": 1}}, text)
        self.fits({"$$matchAsDocument": {"$$matchAsRoot": {"x": 1}}}, text)
        self.differs({"$$matchAsDocument": {"x": 1}}, "no JSON")

    def test_unknown_operator(self) -> None:
        """An operator that there is not is the test's fault."""
        self.assertRaises(Malformed, self.matcher.match, {"$$foo": 1}, 1)

    def test_path(self) -> None:
        """The error names the place."""
        error = self.assertRaises(
            Mismatch, self.matcher.match, {"a": [{"b": 1}]}, {"a": [{"b": 2}]}
        )
        self.assertEqual(str(error), "a[0].b: expected 1, not 2")
