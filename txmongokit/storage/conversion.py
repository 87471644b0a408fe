"""
The converter between dataclasses or attrs classes and what BSON has: the only
module that needs C{cattrs}.
"""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any

from bson.binary import Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from cattrs import Converter, transform_error
from cattrs.preconf.bson import make_converter as make_bson_converter
from cattrs.strategies import configure_union_passthrough

__all__ = ["explain", "is_model", "make_converter"]

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
    What is wrong with a document, without its values.
    """
    return "; ".join(transform_error(error, format_exception=_told))


def _told(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return "a field that it needs is missing"
    return f"this is no {getattr(kind, '__name__', kind)}" if kind else "this does not fit"


def make_converter(*, decimals: bool = True) -> Converter:
    """
    C{cattrs}' converter for BSON, with these differences: values that BSON has
    a type for must be of that type and stay what they are, dates without a
    time are kept as midnight in UTC, and instances of pydantic's models
    convert themselves.

    @param decimals: whether Python's C{Decimal} becomes C{Decimal128}, and
        back.
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
    converter.register_unstructure_hook_func(
        is_model, lambda model: converter.unstructure(model.model_dump(by_alias=True))
    )
    converter.register_structure_hook_func(is_model, lambda value, cls: cls.model_validate(value))
    return converter


def _untouched(value: Any, kind: Any) -> Any:
    if issubclass(kind, Enum):  # They come here as what else they are.
        return kind(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"not of type {kind.__name__}")
    return value


def _number(value: Any, kind: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())


def _day(value: Any, kind: Any) -> date:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        if moment.time() == time():
            return moment.date()
    raise TypeError("not a date alone")


def _decimal(value: Any, kind: Any) -> Decimal:
    if not isinstance(value, Decimal128):
        raise TypeError("not of type Decimal128")
    return value.to_decimal()
