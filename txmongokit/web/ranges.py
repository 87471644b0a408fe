"""
Which bytes of a file a request wants, and whether it wants any: RFC 9110's
ranges and conditions, as functions of header values.
"""

from __future__ import annotations

import calendar
import datetime
import re
from email.utils import parsedate_to_datetime

from twisted.web.http import datetimeToString

__all__ = [
    "RangeNotSatisfiable",
    "byte_ranges",
    "http_date",
    "is_another",
    "is_current",
    "same_file",
]

_MOST_RANGES = 32
_RANGE = re.compile(rb"(\d{0,18})-(\d{0,18})")


class RangeNotSatisfiable(Exception):
    """
    None of the ranges is within the file.
    """


def byte_ranges(header: bytes, length: int) -> list[tuple[int, int]] | None:
    """
    The ranges that a C{Range} header names.

    @param length: the file's, in bytes.
    @return: where each begins and the byte after its last one, in the
        header's order; C{None} where the header is to be ignored: it is in
        another unit or malformed, or asks for a file in so many pieces, or
        in such that overlap, that sending all of it is less work.
    @raise RangeNotSatisfiable: none is within the file.
    """
    unit, equals, listed = header.strip().partition(b"=")
    if unit.strip().lower() != b"bytes" or not equals:
        return None
    parts = [part.strip() for part in listed.split(b",") if part.strip()]
    if not parts or len(parts) > _MOST_RANGES:
        return None
    ranges = []
    for part in parts:
        found = _RANGE.fullmatch(part)
        if found is None or part == b"-":
            return None
        first, last = found.groups()
        if not first:
            start, stop = max(length - int(last), 0), length
        else:
            start, stop = int(first), length
            if last:
                if int(last) < start:
                    return None
                stop = min(int(last) + 1, length)
        if start < stop:
            ranges.append((start, stop))
    if not ranges:
        raise RangeNotSatisfiable
    if len(ranges) > 1 and sum(stop - start for start, stop in ranges) > length:
        return None
    return ranges


def http_date(when: datetime.datetime) -> bytes:
    """
    A moment as HTTP writes it; without a time zone it is in UTC.
    """
    text: bytes = datetimeToString(calendar.timegm(when.utctimetuple()))
    return text


def _moment(header: bytes) -> datetime.datetime | None:
    try:
        when = parsedate_to_datetime(header.decode("ascii"))
    except (ValueError, TypeError, IndexError):
        return None
    return when.replace(tzinfo=datetime.UTC) if when.tzinfo is None else when


def is_current(
    tag: bytes,
    changed: bytes | None,
    if_none_match: bytes | None,
    if_modified_since: bytes | None,
) -> bool:
    """
    Whether what the client has is what there is, so that the answer is 304.

    @param tag: the file's C{ETag}.
    @param changed: its C{Last-Modified}.
    @param if_none_match: counts alone, where it is given.
    """
    if if_none_match is not None:
        tags = [one.strip().removeprefix(b"W/") for one in if_none_match.split(b",")]
        return b"*" in tags or tag in tags
    if if_modified_since is None or changed is None:
        return False
    since, last = _moment(if_modified_since), _moment(changed)
    return since is not None and last is not None and last <= since


def is_another(
    tag: bytes,
    changed: bytes | None,
    if_match: bytes | None,
    if_unmodified_since: bytes | None,
) -> bool:
    """
    Whether the client means another file than there is, so that the answer is
    412.

    @param tag: the file's C{ETag}.
    @param changed: its C{Last-Modified}.
    @param if_match: counts alone, where it is given.
    """
    if if_match is not None:
        tags = [one.strip() for one in if_match.split(b",")]
        return b"*" not in tags and tag not in tags
    if if_unmodified_since is None or changed is None:
        return False
    since, last = _moment(if_unmodified_since), _moment(changed)
    return since is not None and last is not None and last > since


def same_file(tag: bytes, changed: bytes | None, if_range: bytes | None) -> bool:
    """
    Whether ranges are of the file that the client has parts of.

    @param if_range: the header of that name.
    """
    return if_range is None or if_range.strip() in (tag, changed)
