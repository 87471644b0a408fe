"""
The values that keys and conditions may have, and when two keys are the same.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Collection, Hashable, Mapping
from datetime import UTC, datetime
from typing import Any

from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

__all__ = ["check_key", "equal", "identity", "is_list", "refuse_patterns"]

# In a filter these stand for themselves, and a filter that is no more than a
# key of such a type may share a connection.
_PLAIN = frozenset(
    {
        ObjectId,
        str,
        int,
        Int64,
        float,
        bool,
        Decimal128,
        bytes,
        Binary,
        uuid.UUID,
        datetime,
        type(None),
    }
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def equal(path: str, value: Any) -> dict[str, Any]:
    """
    The clause that a field is a value, whatever is in that.
    """
    return {path: value if type(value) in _PLAIN else {"$eq": value}}


def is_list(value: object) -> bool:
    """
    Whether a value stands for several: a list, a tuple, a set, but neither
    text nor bytes nor a document.
    """
    return isinstance(value, Collection) and not isinstance(
        value, str | bytes | bytearray | memoryview | Mapping
    )


def refuse_patterns(name: str, value: Any) -> None:
    """
    Refuse regular expressions, at any depth: they would match, not compare.

    @param name: the condition, for the error.
    @raise TypeError: there is one.
    """
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, re.Pattern | Regex):
            raise TypeError(f"{name} takes no regular expression: the lookup 'matches' does")
        if isinstance(one, Mapping):
            left.extend(one.values())
        elif is_list(one):
            left.extend(one)


def check_key(key: Any) -> Any:
    """
    Refuse what no server accepts as an C{_id}.

    @return: the key.
    @raise TypeError: it is of a type that keys cannot have.
    @raise ValueError: it is a document with a C{$} before a name.
    """
    if key is None or is_list(key) or isinstance(key, re.Pattern | Regex):
        raise TypeError(f"a primary key cannot be of type {type(key).__name__}")
    if isinstance(key, Mapping) and any(str(name).startswith("$") for name in key):
        raise ValueError("the names in a primary key must not begin with '$'")
    return key


def identity(key: Any) -> Hashable:
    """
    What two keys have in common when they are the same for a server: numbers
    by their value whatever their type, dates to the millisecond in UTC.
    """
    if isinstance(key, Mapping):
        return ("document", *((name, identity(value)) for name, value in key.items()))
    if is_list(key):
        return ("list", *(identity(each) for each in key))
    if isinstance(key, bool):
        return ("bool", bool(key))
    if isinstance(key, Decimal128):
        number = key.to_decimal()
        return ("number", "nan" if number.is_nan() else number)
    if isinstance(key, int | float):
        return ("number", "nan" if math.isnan(key) else key)
    if isinstance(key, uuid.UUID):
        return ("binary", 4, key.bytes)
    if isinstance(key, bytes):
        return ("binary", key.subtype if isinstance(key, Binary) else 0, bytes(key))
    if isinstance(key, datetime):
        moment = key if key.tzinfo is not None else key.replace(tzinfo=UTC)
        since = moment - _EPOCH
        return ("date", (since.days * 86400 + since.seconds) * 1000 + since.microseconds // 1000)
    if isinstance(key, DatetimeMS):
        return ("date", int(key))
    if isinstance(key, str):
        return ("text", str(key))
    return key if isinstance(key, Hashable) else ("other", repr(key))
