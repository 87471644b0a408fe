"""
Tests for L{txmongokit.web.ranges}.
"""

from __future__ import annotations

import datetime

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.web.ranges import (
    RangeNotSatisfiable,
    byte_ranges,
    http_date,
    is_current,
    same_file,
)

DATE = b"Sat, 21 Nov 2026 10:00:00 GMT"


class RangeTests(SynchronousTestCase):
    """
    L{byte_ranges}.
    """

    def test_ranges(self) -> None:
        """From, to, both, and the last ones; cut where the file ends."""
        for header, expected in (
            (b"bytes=0-0", [(0, 1)]),
            (b"bytes=2-5", [(2, 6)]),
            (b"bytes=5-", [(5, 10)]),
            (b"bytes=-3", [(7, 10)]),
            (b"bytes=-30", [(0, 10)]),
            (b"bytes=8-99", [(8, 10)]),
            (b"Bytes = 0-1 , 4-5", [(0, 2), (4, 6)]),
            (b"bytes=0-1,50-60", [(0, 2)]),
        ):
            self.assertEqual(byte_ranges(header, 10), expected, header)

    def test_ignored(self) -> None:
        """What is malformed, and more work than the whole."""
        for header in (
            b"lines=0-1",
            b"bytes",
            b"bytes=",
            b"bytes=-",
            b"bytes=a-b",
            b"bytes=5-2",
            b"bytes=+1-2",
            b"bytes=1-2-3",
            b"bytes=0-,0-",
            b"bytes=" + b",".join(b"0-0" for _ in range(40)),
            b"bytes=" + b"9" * 30 + b"-",
        ):
            self.assertIsNone(byte_ranges(header, 1000), header)

    def test_not_satisfiable(self) -> None:
        """Nothing within the file."""
        for header in (b"bytes=10-", b"bytes=-0", b"bytes=10-20,30-40"):
            self.assertRaises(RangeNotSatisfiable, byte_ranges, header, 10)
        self.assertRaises(RangeNotSatisfiable, byte_ranges, b"bytes=0-", 0)


class ConditionTests(SynchronousTestCase):
    """
    L{is_current}, L{same_file} and L{http_date}.
    """

    def test_tags(self) -> None:
        """Tags count alone; weak ones and lists match."""
        for header, current in (
            (b'"a"', True),
            (b'W/"a"', True),
            (b'"b", "a"', True),
            (b"*", True),
            (b'"b"', False),
        ):
            self.assertIs(is_current(b'"a"', DATE, header, DATE), current)

    def test_dates(self) -> None:
        """Later and equal dates do; nonsense is ignored."""
        for header, current in (
            (DATE, True),
            (b"Sat, 21 Nov 2026 10:00:01 GMT", True),
            (b"Sat, 21 Nov 2026 09:59:59 GMT", False),
            (b"yesterday", False),
            (b"\xff", False),
            (None, False),
        ):
            self.assertIs(is_current(b'"a"', DATE, None, header), current, header)
        self.assertFalse(is_current(b'"a"', None, None, DATE))

    def test_same_file(self) -> None:
        """Ranges go with the file's tag or its date."""
        self.assertTrue(same_file(b'"a"', DATE, None))
        self.assertTrue(same_file(b'"a"', DATE, b'"a"'))
        self.assertTrue(same_file(b'"a"', DATE, DATE))
        self.assertFalse(same_file(b'"a"', DATE, b'"b"'))

    def test_http_date(self) -> None:
        """Naive dates are UTC's; others are converted."""
        naive = datetime.datetime(2026, 11, 21, 10, 0, 0, 999, tzinfo=datetime.UTC)
        naive = naive.replace(tzinfo=None)
        self.assertEqual(http_date(naive), DATE)
        east = datetime.timezone(datetime.timedelta(hours=2))
        self.assertEqual(http_date(naive.replace(hour=12, tzinfo=east)), DATE)
