"""
Classes of documents, of each kind that there is.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import attrs
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

__all__ = [
    "Address",
    "Book",
    "Box",
    "Colour",
    "Entry",
    "Everything",
    "Film",
    "Note",
    "Person",
    "Point",
    "Ticket",
    "everything",
]

T = TypeVar("T")


class Note(dict[str, Any]):
    """A subclass of C{dict}."""

    @property
    def title(self) -> str:
        """The first line."""
        return str(self["text"]).partition("\n")[0]


class Colour(Enum):
    """An enumeration, which BSON has not."""

    RED = "r"
    BLUE = "b"


@dataclass
class Address:
    """A document within another."""

    city: str
    lines: list[str] = field(default_factory=list)


@dataclass
class Person:
    """A dataclass with its key in C{pk}."""

    name: str
    age: int = 0
    address: Address | None = None
    born: date | None = None
    colour: Colour = Colour.RED
    pk: ObjectId | str | None = None


@dataclass
class Point:
    """A dataclass that does not know its key."""

    x: float
    y: float = 0.0


@attrs.define
class Book:
    """An attrs class with its key in C{_id}."""

    title: str
    pages: int = 1
    _id: int | None = None


@dataclass
class Everything:
    """What BSON has a type for, and some of what it has not."""

    pk: uuid.UUID
    number: Decimal128
    price: Decimal
    content: bytes
    when: datetime
    owner: ObjectId
    ratio: float
    yes: bool
    tags: frozenset[str]
    books: dict[str, Book]
    pair: tuple[int, str]
    anything: Any = None


def everything() -> Everything:
    """One with a value in each field."""
    return Everything(
        uuid.uuid4(),
        Decimal128("1.50"),
        Decimal("2.50"),
        b"\0x",
        datetime.fromisoformat("2020-01-02T03:04:05.678"),
        ObjectId(),
        0.5,
        True,
        frozenset({"a"}),
        {"one": Book("M")},
        (1, "x"),
        {"b": Decimal128("3")},
    )


@dataclass
class Box(Generic[T]):
    """A generic class."""

    content: T
    pk: int | None = None


class Entry(TypedDict):
    """What documents have in them, for mypy."""

    title: str


Money = Annotated[
    Decimal,
    PlainSerializer(Decimal128, return_type=Any),
    BeforeValidator(lambda value: value.to_decimal() if isinstance(value, Decimal128) else value),
]


class Ticket(BaseModel):
    """A model within another."""

    row: int
    price: Money = Decimal("9.50")


class Film(BaseModel):
    """One of pydantic's models, with its key behind an alias."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: ObjectId | None = Field(default=None, alias="_id")
    title: str
    year: int = Field(default=1900, ge=1888)
    shown: date | None = None
    colour: Colour = Colour.BLUE
    tickets: list[Ticket] = []
