"""
Whether a value is what a test expects: the unified test format's "Evaluating
Matches", with its special operators.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bson import json_util
from bson.binary import Binary
from bson.code import Code
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

__all__ = ["MISSING", "Malformed", "Matcher", "Mismatch", "hex_bytes", "operator"]


class Mismatch(AssertionError):
    """
    Something is not what the test expects: the case has failed.
    """


class Malformed(Exception):
    """
    The test itself cannot be understood: an unknown operation or entity, an
    operator of the wrong shape.
    """


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()

_INT32 = 1 << 31


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, (bool, Int64))
        and -_INT32 <= value < _INT32
    )


def _is_long(value: Any) -> bool:
    return isinstance(value, Int64) or (isinstance(value, int) and not isinstance(value, bool))


_TYPES: dict[str, Callable[[Any], bool]] = {
    "double": lambda value: isinstance(value, float),
    "string": lambda value: isinstance(value, str) and not isinstance(value, Code),
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, (list, tuple)),
    "binData": lambda value: isinstance(value, bytes),
    "objectId": lambda value: isinstance(value, ObjectId),
    "bool": lambda value: isinstance(value, bool),
    "date": lambda value: isinstance(value, datetime.datetime),
    "null": lambda value: value is None,
    "regex": lambda value: isinstance(value, Regex),
    "javascript": lambda value: isinstance(value, Code) and value.scope is None,
    "javascriptWithScope": lambda value: isinstance(value, Code) and value.scope is not None,
    "int": _is_int,
    "timestamp": lambda value: isinstance(value, Timestamp),
    "long": _is_long,
    "decimal": lambda value: isinstance(value, Decimal128),
    "number": lambda value: _is_number(value) or isinstance(value, Decimal128),
    "minKey": lambda value: isinstance(value, MinKey),
    "maxKey": lambda value: isinstance(value, MaxKey),
}


def operator(value: Any) -> str | None:
    """
    The special operator that a value consists of, such as C{$$exists}.
    """
    if isinstance(value, Mapping) and len(value) == 1:
        (name,) = value
        if isinstance(name, str) and name.startswith("$$"):
            return name
    return None


def hex_bytes(digits: Any) -> bytes:
    """
    The bytes that an even number of hexadecimal digits stand for.

    @raise Malformed: it is something else.
    """
    try:
        return bytes.fromhex(digits)
    except (TypeError, ValueError):
        raise Malformed(f"not hexadecimal: {digits!r}") from None


class Matcher:
    """
    Compares what is with what is expected.

    @param entity: gives the value of a BSON entity by its name.
    @param lsid: gives the logical session id of a session entity.
    """

    def __init__(self, entity: Callable[[str], Any], lsid: Callable[[str], Any]) -> None:
        self._entity = entity
        self._lsid = lsid
        self._operators: dict[str, Callable[[Any, Any, str], None]] = {
            "$$exists": self._exists,
            "$$lte": self._lte,
            "$$matchAsDocument": self._match_as_document,
            "$$matchAsRoot": self._match_as_root,
            "$$matchesHexBytes": self._matches_hex_bytes,
            "$$sessionLsid": self._session_lsid,
            "$$type": self._type,
        }

    def match(self, expected: Any, actual: Any, path: str = "", root: bool = False) -> None:
        """
        @param actual: the value, or L{MISSING}.
        @param path: where it is, for the error.
        @param root: whether documents may have more keys than expected.

        @raise Mismatch: they do not match.
        @raise Malformed: C{expected} makes no sense.
        """
        name = operator(expected)
        if name is not None:
            self._apply(name, expected[name], actual, path, root)
        elif isinstance(expected, Mapping):
            self._match_document(expected, actual, path, root)
        elif isinstance(expected, list):
            self._match_array(expected, actual, path)
        else:
            _match_scalar(expected, actual, path)

    def match_rows(self, expected: Any, actual: Any, path: str = "") -> None:
        """
        Match the documents of an iterable result: each is a root document.
        """
        if not isinstance(expected, list) or not isinstance(actual, list):
            self.match(expected, actual, path, root=True)
            return
        _same_length(expected, actual, path)
        for index, (wanted, value) in enumerate(zip(expected, actual, strict=True)):
            self.match(wanted, value, f"{path}[{index}]", root=True)

    def _match_document(
        self, expected: Mapping[str, Any], actual: Any, path: str, root: bool
    ) -> None:
        if not isinstance(actual, Mapping):
            raise Mismatch(f"{path or 'value'}: expected a document, not {_shown(actual)}")
        for key, wanted in expected.items():
            self.match(wanted, actual.get(key, MISSING), f"{path}.{key}" if path else key)
        if not root:
            extra = [key for key in actual if key not in expected]
            if extra:
                raise Mismatch(f"{path or 'document'}: unexpected keys {', '.join(extra)}")

    def _match_array(self, expected: Sequence[Any], actual: Any, path: str) -> None:
        if not isinstance(actual, (list, tuple)):
            raise Mismatch(f"{path or 'value'}: expected an array, not {_shown(actual)}")
        _same_length(expected, actual, path)
        for index, (wanted, value) in enumerate(zip(expected, actual, strict=True)):
            self.match(wanted, value, f"{path}[{index}]")

    def _apply(self, name: str, argument: Any, actual: Any, path: str, root: bool) -> None:
        if name == "$$unsetOrMatches":
            if actual is not MISSING:
                self.match(argument, actual, path, root)
        elif name == "$$matchesEntity":
            self.match(self._entity(argument), actual, path, root)
        elif name in self._operators:
            self._operators[name](argument, actual, path)
        else:
            raise Malformed(f"{path}: unknown operator {name}")

    def _exists(self, argument: Any, actual: Any, path: str) -> None:
        if not isinstance(argument, bool):
            raise Malformed(f"{path}: $$exists takes a boolean, not {argument!r}")
        if argument == (actual is MISSING):
            raise Mismatch(f"{path}: expected {'a value' if argument else 'nothing'}")

    def _type(self, argument: Any, actual: Any, path: str) -> None:
        names = [argument] if isinstance(argument, str) else argument
        unknown = [name for name in names if name not in _TYPES]
        if unknown:
            raise Malformed(f"{path}: unknown types {unknown}")
        if actual is MISSING or not any(_TYPES[name](actual) for name in names):
            raise Mismatch(f"{path}: expected {' or '.join(names)}, not {_shown(actual)}")

    def _lte(self, argument: Any, actual: Any, path: str) -> None:
        if not _is_number(argument):
            raise Malformed(f"{path}: $$lte takes a number, not {argument!r}")
        if not _is_number(actual) or actual > argument:
            raise Mismatch(f"{path}: expected at most {argument}, not {_shown(actual)}")

    def _match_as_document(self, argument: Any, actual: Any, path: str) -> None:
        try:
            document = json_util.loads(actual)
        except (TypeError, ValueError):
            raise Mismatch(f"{path}: expected extended JSON, not {_shown(actual)}") from None
        self.match(argument, document, path)

    def _match_as_root(self, argument: Any, actual: Any, path: str) -> None:
        self.match(argument, actual, path, root=True)

    def _matches_hex_bytes(self, argument: Any, actual: Any, path: str) -> None:
        wanted = hex_bytes(argument)
        if not isinstance(actual, bytes) or bytes(actual) != wanted:
            raise Mismatch(f"{path or 'value'}: expected bytes {argument}, not {_shown(actual)}")

    def _session_lsid(self, argument: Any, actual: Any, path: str) -> None:
        wanted = self._lsid(argument)
        if actual is MISSING or dict(actual) != dict(wanted):
            raise Mismatch(f"{path}: not the lsid of {argument}: {_shown(actual)}")


def _same_length(expected: Sequence[Any], actual: Sequence[Any], path: str) -> None:
    if len(expected) != len(actual):
        raise Mismatch(
            f"{path or 'array'}: expected {len(expected)} elements, not {len(actual)}: "
            f"{_shown(actual)}"
        )


def _match_scalar(expected: Any, actual: Any, path: str) -> None:
    if _is_number(expected) and _is_number(actual):
        equal = expected == actual
    elif isinstance(expected, Binary) or isinstance(actual, Binary):
        # Subtype 0 is decoded as plain bytes.
        equal = (
            isinstance(actual, bytes)
            and isinstance(expected, bytes)
            and getattr(expected, "subtype", 0) == getattr(actual, "subtype", 0)
            and bytes(expected) == bytes(actual)
        )
    else:
        equal = type(expected) is type(actual) and expected == actual
        if isinstance(expected, str) and isinstance(actual, str):
            equal = expected == actual
    if not equal:
        raise Mismatch(f"{path or 'value'}: expected {_shown(expected)}, not {_shown(actual)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
