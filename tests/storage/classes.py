"""
Classes of documents, of each kind that there is.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar

import attrs
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

__all__ = [
    "Address",
    "Book",
    "Box",
    "Colour",
    "Count",
    "Email",
    "Entry",
    "Everything",
    "Film",
    "Keyed",
    "Note",
    "Person",
    "Point",
    "Ratio",
    "Size",
    "Ticket",
    "Token",
    "everything",
    "keyed",
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


class Email(str):
    """Text of a class of its own."""

    __slots__ = ()


class Count(int):
    """A number of a class of its own."""


class Ratio(float):
    """Another."""


class Token(bytes):
    """Bytes of a class of their own."""


class Size(IntEnum):
    """An enumeration of numbers."""

    SMALL = 1
    LARGE = 2


@dataclass
class Keyed:
    """Mappings with keys of each type, and values of classes of one's own."""

    numbers: dict[int, str]
    owners: dict[ObjectId, date]
    tags: Mapping[uuid.UUID, Point]
    colours: dict[Colour, int]
    sizes: dict[Size, int]
    days: dict[date, int]
    moments: dict[datetime, int]
    prices: dict[Decimal, int]
    blobs: dict[bytes, int]
    ratios: dict[float, int]
    truths: dict[bool, int]
    emails: dict[Email, int]
    some: dict[Literal[1, 2], int]
    words: Counter[str]
    lists: defaultdict[int, list[int]]
    note: Note
    data: Binary
    email: Email
    count: Count
    ratio: Ratio
    token: Token
    children: dict[int, Keyed] = field(default_factory=dict)
    maybe: dict[int, int] | None = None
    pk: int | None = None


def keyed() -> Keyed:
    """One with something in each mapping."""
    return Keyed(
        numbers={5: "five", -1: "less"},
        owners={ObjectId("a" * 24): date(2020, 1, 2)},
        tags={uuid.UUID(int=5): Point(1.0)},
        colours={Colour.RED: 1, Colour.BLUE: 2},
        sizes={Size.LARGE: 1},
        days={date(2020, 1, 2): 1},
        moments={datetime(2020, 1, 2, 3, 4, 5, 678901, UTC): 1},
        prices={Decimal("1.50"): 1},
        blobs={b"$\0.": 1, b"": 2},
        ratios={0.5: 1, -1e99: 2},
        truths={True: 1, False: 2},
        emails={Email("ada@example.com"): 1},
        some={2: 1},
        words=Counter("abba"),
        lists=defaultdict(list, {3: [1, 2]}),
        note=Note(text="One\nTwo"),
        data=Binary(b"x"),
        email=Email("ada@example.com"),
        count=Count(5),
        ratio=Ratio(0.5),
        token=Token(b"x"),
        maybe={1: 2},
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
