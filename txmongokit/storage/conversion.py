"""
The converter between dataclasses or attrs classes and what BSON has: the only
module that needs C{cattrs}.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import partial
from inspect import isabstract
from typing import Any, TypeVar, get_args, get_origin

from bson.binary import Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from cattrs import (
    ClassValidationError,
    Converter,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.cols import is_mapping
from cattrs.preconf.bson import make_converter as make_bson_converter
from cattrs.strategies import configure_union_passthrough

from txmongokit.storage.names import codec_of, dumped_key, text_key

__all__ = ["explain", "is_model", "make_converter", "refuse_unreadable"]

_UNTOUCHED = frozenset(
    {
        ObjectId,
        datetime,
        Decimal128,
        bytes,
        Binary,
        uuid.UUID,
        Int64,
        Timestamp,
        Regex,
        Code,
        DBRef,
        str,
        int,
        bool,
    }
)


def is_model(doc_class: Any) -> bool:
    """
    Whether a class converts itself, by pydantic's methods.
    """
    return callable(getattr(doc_class, "model_dump", None)) and callable(
        getattr(doc_class, "model_validate", None)
    )


def explain(error: Exception) -> str:
    """
    What is wrong with a document, without its values, and without the keys of
    its mappings.
    """
    return "; ".join(_problems(error, "$", None))


def _problems(error: Exception, path: str, kind: Any) -> Iterator[str]:
    if isinstance(error, ClassValidationError):
        fields, others = error.group_exceptions()
        for each, field in fields:
            yield from _problems(each, f"{path}.{field.name}", field.type)
    elif isinstance(error, IterableValidationError):
        members, others = error.group_exceptions()
        for each, member in members:
            place = member.index if isinstance(member.index, int) else "..."
            yield from _problems(each, f"{path}[{place}]", member.type)
    else:
        yield f"{_told(error, kind)} @ {path}"
        return
    for each in others:
        yield from _problems(each, path, None)


def _told(error: Exception, kind: Any) -> str:
    if isinstance(error, KeyError):
        return "a field that it needs is missing"
    return f"this is no {getattr(kind, '__name__', kind)}" if kind else "this does not fit"


def refuse_unreadable(converter: Converter, doc_class: Any) -> None:
    """
    Refuse a class whose documents could not be read again.

    @raise TypeError: a mapping in it has keys that no text can stand for.
    """
    converter.get_unstructure_hook(doc_class)


def make_converter(*, decimals: bool = True, untyped: Callable[[Any], str] = text_key) -> Converter:
    """
    C{cattrs}' converter for BSON, with these differences: values that BSON has
    a type for must be of that type and stay what they are, dates without a
    time are kept as midnight in UTC, the keys of mappings are text that is
    read as what they were, and instances of pydantic's models convert
    themselves.

    @param decimals: whether Python's C{Decimal} becomes C{Decimal128}, and
        back.
    @param untyped: writes the keys of mappings that do not declare theirs.
    """
    converter = make_bson_converter()
    configure_union_passthrough(
        str
        | bool
        | int
        | float
        | None
        | bytes
        | datetime
        | ObjectId
        | Int64
        | Decimal128
        | Binary
        | uuid.UUID
        | Timestamp,
        converter,
    )
    for kind in _UNTOUCHED:
        converter.register_structure_hook(kind, _untouched)
    converter.register_structure_hook(float, _number)
    converter.register_unstructure_hook(date, _midnight)
    converter.register_structure_hook(date, _day)
    converter.register_unstructure_hook(datetime, lambda moment: moment)
    if decimals:
        converter.register_unstructure_hook(Decimal, Decimal128)
        converter.register_structure_hook(Decimal, _decimal)
    converter.register_unstructure_hook_factory(
        is_mapping, lambda kind: _mapping_writer(kind, converter, untyped)
    )
    converter.register_structure_hook_factory(
        is_mapping, lambda kind: _mapping_reader(kind, converter)
    )
    # What models read they convert themselves.
    dumps = make_converter(decimals=False, untyped=dumped_key) if decimals else converter
    converter.register_unstructure_hook_func(
        is_model, lambda model: dumps.unstructure(model.model_dump(by_alias=True))
    )
    converter.register_structure_hook_func(is_model, lambda value, cls: cls.model_validate(value))
    return converter


def _mapping_writer(
    kind: Any, converter: Converter, untyped: Callable[[Any], str]
) -> Callable[[Any], dict[str, Any]]:
    keys, values = _types_in(kind)
    write = untyped if keys is Any else codec_of(keys).write
    try:
        unstructure = converter.get_unstructure_hook(values, cache_result=False)
    except RecursionError:
        # Of a class that has mappings of itself.
        unstructure = converter.unstructure
    return lambda mapping: {write(key): unstructure(value) for key, value in mapping.items()}


def _mapping_reader(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    keys, values = _types_in(kind)
    codec, made = codec_of(keys), _made_as(kind, values)
    structure = converter.get_structure_hook(values, cache_result=False)

    def read(mapping: Any, _: Any) -> Any:
        found, problems = {}, []
        for text, value in mapping.items():
            expected = keys
            try:
                key = codec.read(text)
                expected = values
                found[key] = structure(value, values)
            except Exception as error:
                # As cattrs tells it.
                error.add_note(IterableValidationNote("a mapping", text, expected))
                problems.append(error)
        if problems:
            raise IterableValidationError("a mapping", problems, kind)
        return made(found)

    return read


def _types_in(kind: Any) -> tuple[Any, Any]:
    """Of a mapping's keys and values."""
    types = [Any if isinstance(each, TypeVar) else each for each in get_args(kind)]
    if len(types) == 1 and issubclass(get_origin(kind) or kind, Counter):
        types.append(int)
    return (types[0], types[1]) if len(types) == 2 else (Any, Any)


def _made_as(kind: Any, values: Any) -> Callable[[dict[Any, Any]], Any]:
    """What a mapping is made by."""
    made = get_origin(kind) or kind
    if issubclass(made, defaultdict):
        return partial(made, None if values is Any else get_origin(values) or values)
    return dict if isabstract(made) else made


def _untouched(value: Any, kind: Any) -> Any:
    if issubclass(kind, Enum):  # They come here as what else they are.
        return kind(value)
    stored = next(each for each in kind.__mro__ if each in _UNTOUCHED)
    # Binary data without a subtype is read as bytes.
    expected = bytes if stored is Binary else stored
    if not isinstance(value, expected) or (stored is int and isinstance(value, bool)):
        raise TypeError(f"not of type {kind.__name__}")
    return value if isinstance(value, kind) else kind(value)


def _number(value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return kind(value)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())


def _day(value: Any, kind: Any) -> Any:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        if moment.time() == time():
            return kind(moment.year, moment.month, moment.day)
    raise TypeError("not a date alone")


def _decimal(value: Any, kind: Any) -> Any:
    if not isinstance(value, Decimal128):
        raise TypeError("not of type Decimal128")
    return kind(value.to_decimal())
