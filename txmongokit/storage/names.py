"""
Keys of mappings as names of fields: those are text.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

from bson.objectid import ObjectId

__all__ = ["KeyCodec", "any_key", "codec_of", "dumped_key", "text_key"]


@dataclass(frozen=True)
class KeyCodec:
    """
    How the keys of a mapping are written, and read again.

    @ivar kinds: the classes that keys are of.
    @ivar as_text: writes one.
    @ivar of_text: reads one.
    """

    kinds: tuple[type[Any], ...]
    as_text: Callable[[Any], str]
    of_text: Callable[[str], Any]

    def write(self, key: Any) -> str:
        """
        A key as text.

        @raise TypeError: it is of another class.
        @raise ValueError: it would be read as another.
        """
        if not isinstance(key, self.kinds):
            names = " or ".join(each.__name__ for each in self.kinds)
            raise TypeError(
                f"keys of this mapping are {names}, not {type(key).__name__}: convert them, or "
                "declare what they are"
            )
        text = self.as_text(key)
        if self.of_text(text) != key:
            raise ValueError(f"a key of type {type(key).__name__} would be read as another")
        return text

    def read(self, text: str) -> Any:
        """
        A key, of text.

        @raise ValueError: no key is written so.
        """
        key = self.of_text(text)
        if self.as_text(key) != text:
            raise ValueError("no key is written so")
        return key


def _truth(text: str) -> bool:
    return text == "True"


# Each reads what it writes; what else it reads is refused as nothing that it writes.
_CODECS: Mapping[Any, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    # Whatever a subclass makes of it.
    str: (str.__str__, str),
    bool: (bool.__repr__, _truth),
    int: (int.__repr__, int),
    float: (lambda key: repr(float(key)), float),
    Decimal: (Decimal.__str__, Decimal),
    bytes: (bytes.hex, bytes.fromhex),
    uuid.UUID: (uuid.UUID.__str__, uuid.UUID),
    ObjectId: (ObjectId.__str__, ObjectId),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
}


def codec_of(kind: Any) -> KeyCodec:
    """
    The codec of keys of a type.

    @param kind: as it is annotated; C{Any} is for text alone.
    @raise TypeError: no text can stand for such keys.
    """
    if kind is Any or kind is object:
        return codec_of(str)
    origin = get_origin(kind)
    if origin is Annotated:
        return codec_of(get_args(kind)[0])
    if origin is Literal:
        return _of_some(kind, get_args(kind), _one_of(get_args(kind)))
    if hasattr(kind, "__supertype__"):  # NewType's.
        return codec_of(kind.__supertype__)
    if isinstance(kind, type) and issubclass(kind, Enum):
        values = _of_some(kind, [each.value for each in kind], kind)
        return KeyCodec((kind,), lambda key: values.as_text(key.value), values.of_text)
    stored = next((each for each in getattr(kind, "__mro__", ()) if each in _CODECS), None)
    if stored is None:
        raise _refused(kind)
    as_text, of_text = _CODECS[stored]
    if kind is stored:
        return KeyCodec((int, float) if kind is float else (kind,), as_text, of_text)
    return KeyCodec((kind,), as_text, lambda text: kind(of_text(text)))


def _of_some(kind: Any, values: Any, found: Callable[[Any], Any]) -> KeyCodec:
    """Of keys that are one of some values, which are all of one class."""
    classes = {type(value) for value in values}
    if len(classes) != 1:
        raise _refused(kind)
    codec = codec_of(classes.pop())
    return KeyCodec(codec.kinds, codec.as_text, lambda text: found(codec.of_text(text)))


def _one_of(values: Any) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if value not in values:
            raise ValueError("none of the values")
        return value

    return checked


def _refused(kind: Any) -> TypeError:
    return TypeError(
        f"keys of type {getattr(kind, '__name__', kind)} cannot be the names of fields, which are "
        "text: those that can are str, int, float, bool, Decimal, bytes, UUID, ObjectId, date, "
        "datetime, and enumerations of one of these"
    )


def text_key(key: Any) -> str:
    """
    A key that nothing is declared of, as it is to be read again.

    @raise TypeError: it is no text.
    """
    return codec_of(str).write(key)


def any_key(key: Any) -> str:
    """
    A key of a condition's value, as its class is written.

    @raise TypeError: no text can stand for it.
    """
    return codec_of(type(key)).write(key)


def dumped_key(key: Any) -> str:
    """
    A key that one of pydantic's models has dumped, as text that it reads.

    @raise TypeError: it reads no text as such a key.
    """
    if isinstance(key, bytes | ObjectId):
        raise TypeError(
            f"keys of type {type(key).__name__} cannot be the names of fields, which are text: "
            "give the model a serializer and a validator for them"
        )
    return any_key(key)
