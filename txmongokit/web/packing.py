"""
What becomes of a session's data on the way to the database and back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import bson
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.dbref import DBRef
from bson.errors import BSONError

from txmongokit.web.errors import InvalidSessionData, SessionUnreadable

__all__ = ["MAX_DEPTH", "pack", "unpack"]

MAX_DEPTH = 100
"""How deep a session's data may be nested; servers stop at 180 or so."""

_SPECIAL = re.compile(r"[%.$\x00]")
_ESCAPED = re.compile(r"%(25|2E|24|00)")
_OF_TYPE = re.compile(r"of type: <class '([^']+)'>")


def _escape_key(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidSessionData(
            f"a session's keys must be strings, not {type(key).__name__}: make it one, or use "
            "a list of pairs"
        )
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", key)


def _escaped(value: Any, depth: int = 0) -> Any:
    """
    The same with keys that no server takes for operators or paths, and no
    decoder for references; itself where it has none.
    """
    if depth > MAX_DEPTH:
        raise InvalidSessionData(
            f"a session's data may be nested {MAX_DEPTH} deep: keep references instead"
        )
    if isinstance(value, Mapping):
        pairs = [(key, _escape_key(key), each) for key, each in value.items()]
        escaped = {new: _escaped(each, depth + 1) for _, new, each in pairs}
        same = all(old is new and escaped[new] is each for old, new, each in pairs)
        return value if same else escaped
    if isinstance(value, (list, tuple)):
        items = [_escaped(each, depth + 1) for each in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else items
    if isinstance(value, (DBRef, Code)):
        return _with_inside(value, lambda inner: _escaped(inner, depth + 1))
    return value


def _with_inside(value: DBRef | Code, change: Callable[[Any], Any]) -> DBRef | Code:
    """
    A reference, or code, with what is in it changed; itself where nothing is.
    """
    if isinstance(value, Code):
        scope = change(value.scope)
        return value if scope is value.scope else Code(str(value), scope)
    # Its document is what is stored, whatever its attributes are.
    rest = value.as_doc()
    collection, identifier = rest.pop("$ref"), rest.pop("$id")
    database = rest.pop("$db", None)
    pointed, more = change(identifier), change(rest)
    if pointed is identifier and more is rest:
        return value
    return DBRef(collection, pointed, database, more)


def _unescaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _ESCAPED.sub(lambda found: chr(int(found[1], 16)), key): _unescaped(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_unescaped(each) for each in value]
    if isinstance(value, (DBRef, Code)):
        return _with_inside(value, _unescaped)
    return value


def pack(document: object, codec_options: CodecOptions[Any]) -> bytes:
    """
    The BSON of what a codec has made, with harmless keys.

    @raise InvalidSessionData: it cannot be encoded; the message has a class's
        name, never a value.
    """
    if not isinstance(document, Mapping):
        raise InvalidSessionData(
            f"a session's data must be a mapping, not {type(document).__name__}"
        )
    try:
        return bson.encode(_escaped(document), False, codec_options)
    except (BSONError, OverflowError, UnicodeError, TypeError, ValueError) as error:
        if isinstance(error, InvalidSessionData):
            raise
        kind = _OF_TYPE.search(str(error))
        what = f"a {kind[1]}" if kind else "something"
        # Not chained: BSON's own message has the value.
        raise InvalidSessionData(
            f"the session's data has {what} that BSON cannot encode "
            f"({type(error).__name__}): convert it, or use a codec"
        ) from None


def unpack(packed: bytes, codec_options: CodecOptions[Any]) -> dict[str, Any]:
    """
    The document that L{pack} was given.

    @raise SessionUnreadable: this is no BSON.
    """
    try:
        document: dict[str, Any] = bson.decode(packed, codec_options)
    except BSONError as error:
        raise SessionUnreadable(f"a session's data is no BSON ({type(error).__name__})") from None
    return _unescaped(document) if b"%" in packed else document
