"""
MongoDB's extended JSON (version 2, relaxed) in the bodies of requests and
answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any, NoReturn

import bson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.dbref import DBRef
from bson.errors import BSONError
from bson.json_util import DatetimeRepresentation, JSONMode, JSONOptions

__all__ = ["BodyError", "read_document", "show_document"]

# UUIDs are read as bytes of their kind, so that those of the older kind stay what they are.
_READ: JSONOptions = JSONOptions(
    json_mode=JSONMode.RELAXED,
    datetime_representation=DatetimeRepresentation.ISO8601,
    tz_aware=True,
    tzinfo=UTC,
)
_SHOWN: JSONOptions = _READ.with_options(uuid_representation=UuidRepresentation.STANDARD)
_STORED: CodecOptions[dict[str, Any]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD
)
# Below what servers take, and far below what the parser does.
_DEEPEST = 64
# What the parser and the encoder raise about values of the wrong kind or size.
_WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, BSONError)


class BodyError(ValueError):
    """
    A body is not what it should be: one sentence.
    """


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def read_document(raw: bytes) -> dict[str, Any]:
    """
    Read a document that can be stored, and read again.

    @raise BodyError: it is no JSON in UTF-8, no object, nested too deeply, or
        has values that BSON cannot have.
    """
    try:
        found = json_util.loads(
            raw.decode("utf-8"), json_options=_READ, parse_constant=_no_constant
        )
    except RecursionError:
        raise _too_deep() from None
    except _WRONG:
        raise BodyError("the body must be MongoDB extended JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise BodyError("the body must be a JSON object")
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            break
    else:
        raise _too_deep()
    try:
        bson.decode(bson.encode(found), _STORED)
    except _WRONG:
        raise BodyError("the body has a name or value that BSON cannot have") from None
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, DBRef):
        value = value.as_doc()
    elif isinstance(value, Code):
        value = [value.scope]
    values = value.values() if isinstance(value, Mapping) else value
    return [each for each in values if isinstance(each, Mapping | list | DBRef | Code)]


def _too_deep() -> BodyError:
    return BodyError(f"the body is nested more than {_DEEPEST} deep")


def show_document(document: Mapping[str, Any]) -> bytes:
    """
    A document as a line of JSON.
    """
    return json_util.dumps(document, json_options=_SHOWN).encode() + b"\n"
