"""
Tests for L{txmongokit.storage.values}.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.storage.values import check_key, equal, identity, is_list


class KeyTests(SynchronousTestCase):
    """
    What can be a primary key, and when two are the same.
    """

    def test_allowed(self) -> None:
        """Whatever a server takes as an C{_id} is a key."""
        for key in (ObjectId(), 5, "x", "", 0, b"x", {"a": 1}, True, uuid.uuid4(), 1.5):
            self.assertIs(check_key(key), key)

    def test_refused(self) -> None:
        """What no server takes is refused."""
        for key in (None, [1], (1,), {1}, re.compile("x"), Regex("x")):
            error = self.assertRaises(TypeError, check_key, key)
            self.assertIn(type(key).__name__, str(error))
        error = self.assertRaises(ValueError, check_key, {"$gt": 1})
        self.assertIn("must not begin with '$'", str(error))

    def test_same(self) -> None:
        """Keys that a server takes for one another are the same."""
        moment = datetime(2020, 1, 2, 3, 4, 5, 678999, UTC)
        summer = moment.astimezone(timezone(timedelta(hours=2)))
        one = uuid.uuid4()
        groups: list[list[Any]] = [
            [1, 1.0, Int64(1), Decimal128("1"), Decimal128("1.0")],
            [True],
            [float("nan"), Decimal128("NaN")],
            [
                moment,
                summer,
                moment.replace(tzinfo=None),
                moment.replace(microsecond=678000),
                DatetimeMS(moment),
            ],
            [DatetimeMS(1 << 60)],
            [b"x", Binary(b"x", 0)],
            [Binary(b"x", 5)],
            [one, Binary(one.bytes, 4)],
            ["x"],
            [{"a": 1, "b": [1]}, {"a": 1.0, "b": [Int64(1)]}],
            [{"b": [1], "a": 1}],
            [ObjectId("a" * 24), ObjectId("a" * 24)],
            [Timestamp(1, 2), Timestamp(1, 2)],
        ]
        found = [{identity(key) for key in group} for group in groups]
        self.assertEqual([len(identities) for identities in found], [1] * len(groups))
        self.assertEqual(len(set.union(*found)), len(groups))


class ValueTests(SynchronousTestCase):
    """
    Values of conditions.
    """

    def test_equality(self) -> None:
        """What could be taken for anything else is compared by $eq."""
        for value in (5, "x", None, True, b"x", ObjectId(), 1.5, Decimal128("1")):
            self.assertEqual(equal("a", value), {"a": value})
        for other in ({"$gt": 1}, {}, [1], Timestamp(1, 2), Regex("x")):
            self.assertEqual(equal("a", other), {"a": {"$eq": other}})

    def test_lists(self) -> None:
        """Lists, tuples, sets and ranges are lists; text, bytes and documents are not."""
        everything: list[Any] = [[], (1,), {1}, frozenset({1}), range(2), {"a": 1}.keys()]
        for several in everything:
            self.assertTrue(is_list(several))
        for one in ("x", b"x", bytearray(b"x"), {"a": 1}, 5, None, Binary(b"x")):
            self.assertFalse(is_list(one))
