"""
Tests for L{txmongokit.storage.documents} and L{txmongokit.storage.conversion}.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from pydantic import BaseModel, ConfigDict, computed_field, field_validator
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.classes import (
    Address,
    Book,
    Box,
    Colour,
    Email,
    Entry,
    Everything,
    Film,
    Keyed,
    Note,
    Person,
    Point,
    Size,
    Ticket,
    everything,
    keyed,
)
from txmongokit.storage.documents import DocumentClasses
from txmongokit.storage.errors import Misfit

KEY = ObjectId("0123456789abcdef01234567")
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


def stored(instance: Any, classes: DocumentClasses | None = None) -> dict[str, Any]:
    """What the collection would have of an instance."""
    document = (classes or DocumentClasses()).of(type(instance)).encode(instance)
    return bson.decode(bson.encode(document, False, CODEC), CODEC)


def read(doc_class: type[Any], document: dict[str, Any], **options: Any) -> Any:
    """An instance, as of a document of the collection."""
    return DocumentClasses(**options).of(doc_class).decode(document, "db.things")


class Unit(StrEnum):
    """An enumeration of texts."""

    METRE = "m"


@dataclass
class Thing:
    """What is of some size."""

    size: Size
    unit: Unit
    sizes: list[Size]


@dataclass
class Pairs:
    """What has keys that no text can stand for."""

    pairs: dict[tuple[int, int], str]


@dataclass
class Measured:
    """What has a field that it makes itself."""

    name: str
    length: int = field(init=False, default=0)


class Square(BaseModel):
    """A model that computes some of its fields."""

    side: int

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no properties with decorators
    @property
    def area(self) -> int:
        """By its own name."""
        return self.side**2

    @computed_field(alias="around")  # type: ignore[prop-decorator]  # the same
    @property
    def perimeter(self) -> int:
        """By another name."""
        return self.side * 4


class Card(BaseModel):
    """A model that tells values in its errors."""

    number: str = ""
    scores: dict[str, int] = {}
    inner: list[Square] = []
    dates: dict[date, int] = {}
    sizes: dict[Size, int] = {}
    colours: dict[Colour, int] = {}
    prices: dict[Decimal, int] = {}
    truths: dict[bool, int] = {}

    @field_validator("number")
    @classmethod
    def no_secret(cls, value: str) -> str:
        """Refuse some."""
        if "secret" in value:
            raise ValueError(f"{value} is no card")
        return value


class Owned(BaseModel):
    """A model with keys that it does not read of text."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    owners: dict[ObjectId, int]


class Loose(BaseModel):
    """A model that takes any field."""

    model_config = ConfigDict(extra="allow")


class DictTests(SynchronousTestCase):
    """
    Mappings are documents as they are.
    """

    def test_as_it_is(self) -> None:
        """A C{dict} is kept and given as it is, the key first."""
        self.assertEqual(list(stored({"a": 1, "_id": 5}).items()), [("_id", 5), ("a", 1)])
        self.assertEqual(read(dict, {"_id": 5, "a": 1}), {"_id": 5, "a": 1})
        self.assertEqual(stored(MappingProxyType({"a": 1})), {"a": 1})
        self.assertEqual(stored({"_id": None, "a": 1}), {"a": 1})

    def test_subclasses(self) -> None:
        """Subclasses of C{dict} are made of the document."""
        note = read(Note, {"_id": 5, "text": "One\nTwo"})
        self.assertIsInstance(note, Note)
        self.assertEqual(note.title, "One")
        self.assertIsInstance(read(OrderedDict, {"_id": 5}), OrderedDict)
        self.assertEqual(read(Entry, {"_id": 5, "title": "x"}), {"_id": 5, "title": "x"})
        self.assertEqual(read(dict, {"title": "x"}), {"title": "x"})
        with_types: Any = dict[str, Any]
        self.assertEqual(read(with_types, {"_id": 5, "title": "x"}), {"_id": 5, "title": "x"})

    def test_key_field(self) -> None:
        """The key may have another name."""
        classes = DocumentClasses("number")
        self.assertEqual(stored({"number": 5}, classes), {"_id": 5})
        self.assertEqual(read(dict, {"_id": 5}, key_field="number"), {"number": 5})
        error = self.assertRaises(ValueError, stored, {"number": 5, "_id": 5}, classes)
        self.assertIn("there cannot be '_id', too", str(error))
        error = self.assertRaises(Misfit, read, dict, {"_id": 5, "number": 6}, key_field="number")
        self.assertIn("it has a field 'number' besides its key", str(error))
        for name in ("", "a.b", "$a"):
            self.assertRaises(ValueError, DocumentClasses, name)

    def test_refused(self) -> None:
        """Names that could be operators, and keys that cannot be, are refused."""
        for document in ({"$set": {"a": 1}}, {"a": 1, "$where": "x"}, {"a\0": 1}):
            self.assertRaises(ValueError, stored, document)
        self.assertRaises(TypeError, stored, {1: 2})
        self.assertRaises(TypeError, stored, {"_id": [1]})

    def test_no_class(self) -> None:
        """What is no class of documents is refused by name."""
        classes = DocumentClasses()
        error = self.assertRaises(TypeError, classes.of, "Person")
        self.assertIn("not str", str(error))
        error = self.assertRaises(TypeError, classes.of, int)
        self.assertIn("int is no class of documents", str(error))

    def test_without_cattrs(self) -> None:
        """Without cattrs the error names the extra; mappings need none."""
        modules: dict[str, Any] = sys.modules
        name = "txmongokit.storage.conversion"
        if name in modules:
            self.addCleanup(modules.__setitem__, name, modules[name])
        else:
            self.addCleanup(modules.pop, name, None)
        modules[name] = None
        error = self.assertRaises(ImportError, DocumentClasses().of, Person)
        self.assertIn("pip install 'txmongokit[storage]'", str(error))
        self.assertEqual(stored({"a": 1}), {"a": 1})


class ConvertedTests(SynchronousTestCase):
    """
    Dataclasses, attrs classes and pydantic's models.
    """

    def round_trip(self, instance: Any, **options: Any) -> dict[str, Any]:
        """What is stored of an instance, which is then what is read."""
        document = stored(instance, DocumentClasses(**options))
        self.assertEqual(read(type(instance), document, **options), instance)
        return document

    def test_dataclass(self) -> None:
        """A dataclass may have dataclasses and enumerations in it, and its key in C{pk}."""
        address = Address("London", ["12 St James's Square"])
        person = Person("Ada", 36, address, date(1815, 12, 10), Colour.BLUE, KEY)
        self.assertEqual(
            self.round_trip(person),
            {
                "_id": KEY,
                "name": "Ada",
                "age": 36,
                "address": {"city": "London", "lines": ["12 St James's Square"]},
                "born": datetime.fromisoformat("1815-12-10"),
                "colour": "b",
            },
        )
        self.assertNotIn("_id", stored(Person("Ada")))

    def test_no_key(self) -> None:
        """A class without a field for the key does not see it."""
        self.assertEqual(stored(Point(1.0)), {"x": 1.0, "y": 0.0})
        self.assertEqual(read(Point, {"_id": 5, "x": 1, "y": 2.5}), Point(1.0, 2.5))
        self.assertEqual(read(Point, {"x": 1}), Point(1.0))

    def test_generic(self) -> None:
        """A generic class may come with the type that it is of."""
        self.assertEqual(stored(Box(Point(1.0), 5)), {"_id": 5, "content": {"x": 1.0, "y": 0.0}})
        of_points: Any = Box[Point]
        found = read(of_points, {"_id": 5, "content": {"x": 1.0}})
        self.assertEqual(found, Box(Point(1.0), 5))
        error = self.assertRaises(Misfit, read, of_points, {"_id": 5, "content": 1})
        self.assertIn("is no Box", str(error))

    def test_time_zone(self) -> None:
        """A date alone is that of UTC, whatever the time zone that dates are read in."""
        moment = datetime(1815, 12, 9, 22, tzinfo=timezone(timedelta(hours=-2)))
        ada = read(Person, {"_id": KEY, "name": "Ada", "born": moment})
        self.assertEqual(ada.born, date(1815, 12, 10))

    def test_attrs(self) -> None:
        """An attrs class may have its key in C{_id}."""
        self.assertEqual(self.round_trip(Book("M", 3, 7)), {"_id": 7, "title": "M", "pages": 3})

    def test_pydantic(self) -> None:
        """A model goes by its own aliases, serializers and validators."""
        tickets = [Ticket(row=3), Ticket(row=4, price=Decimal("12.00"))]
        film = Film(_id=KEY, title="M", year=1931, shown=date(1931, 5, 11), tickets=tickets)
        document = self.round_trip(film)
        self.assertEqual(document["_id"], KEY)
        self.assertEqual(document["tickets"][0], {"row": 3, "price": Decimal128("9.50")})
        self.assertEqual(document["colour"], "b")

    def test_types(self) -> None:
        """What BSON has a type for is not touched; the rest comes back as it was."""
        thing = everything()
        document = self.round_trip(thing)
        self.assertEqual(document["_id"], thing.pk)
        self.assertEqual(document["price"], Decimal128("2.50"))
        self.assertEqual(document["books"], {"one": {"_id": None, "title": "M", "pages": 1}})

    def test_enumerations(self) -> None:
        """Enumerations of numbers and texts are stored as these."""
        thing = Thing(Size.SMALL, Unit.METRE, [Size.SMALL])
        self.assertEqual(self.round_trip(thing), {"size": 1, "unit": "m", "sizes": [1]})
        self.assertIsInstance(read(Thing, stored(thing)).sizes[0], Size)
        self.assertRaises(Misfit, read, Thing, {"size": 3, "unit": "m", "sizes": []})

    def test_keys_of_mappings(self) -> None:
        """Keys of mappings are names of fields, and come back as what they are declared as."""
        thing = keyed()
        thing.children = {7: keyed()}
        document = self.round_trip(thing)
        self.assertEqual(document["numbers"], {"5": "five", "-1": "less"})
        self.assertEqual(document["colours"], {"r": 1, "b": 2})
        self.assertEqual(document["sizes"], {"2": 1})
        self.assertEqual(document["days"], {"2020-01-02": 1})
        again = read(Keyed, document)
        for name in ("note", "email", "count", "ratio", "token", "words", "lists"):
            self.assertIs(type(getattr(again, name)), type(getattr(thing, name)), name)
        self.assertEqual(again.lists[9], [])
        self.assertEqual({type(key) for key in again.emails}, {Email})
        plain = DocumentClasses().of(Keyed).plain
        self.assertEqual(plain({Colour.RED: {5: date(2020, 1, 2)}})["r"].keys(), {"5"})

    def test_keys_of_models(self) -> None:
        """Keys of models' mappings are text that the models read."""
        card = Card(
            scores={"a": 1},
            dates={date(2020, 1, 2): 1},
            sizes={Size.LARGE: 1},
            colours={Colour.RED: 1},
            prices={Decimal("1.50"): 1},
            truths={True: 1, False: 2},
        )
        document = self.round_trip(card)
        self.assertEqual((document["dates"], document["sizes"]), ({"2020-01-02": 1}, {"2": 1}))
        self.assertEqual(document["colours"], {"r": 1})
        of_cards: Any = Box[Card]
        self.assertEqual(stored(Box(card, 5)), {"_id": 5, "content": document})
        self.assertEqual(read(of_cards, {"_id": 5, "content": document}), Box(card, 5))
        error = self.assertRaises(TypeError, stored, Owned(owners={KEY: 1}))
        self.assertIn("give the model a serializer", str(error))

    def test_keys_that_would_not_come_back(self) -> None:
        """Keys that no text can stand for, and those that are not declared, are refused."""
        error = self.assertRaises(TypeError, DocumentClasses().of, Pairs)
        self.assertIn("cannot be the names of fields", str(error))
        thing = everything()
        thing.anything = {5: "x"}
        error = self.assertRaises(TypeError, stored, thing)
        self.assertIn("are str, not int: convert them, or declare what they are", str(error))
        for wrong in ({"5": "x"}, {5.0: "x"}, {Colour.RED: "x"}):
            keys: Any = wrong
            self.assertRaises(TypeError, stored, replace(keyed(), numbers=keys))
        days: Any = {datetime(2020, 1, 2, 3, tzinfo=UTC): 1}
        self.assertRaises(ValueError, stored, replace(keyed(), days=days))

    def test_other_text(self) -> None:
        """A name that would be written otherwise is no key: two would become one."""
        for name, wrong in (
            ("numbers", "05"),
            ("numbers", " 5"),
            ("days", "20200102"),
            ("truths", "true"),
            ("blobs", "00 24"),
            ("some", "3"),
            ("colours", "g"),
            ("owners", "x"),
        ):
            document = {**stored(keyed()), name: {wrong: 1}}
            error = self.assertRaises(Misfit, read, Keyed, document)
            self.assertIn(f"@ $.{name}[...]", str(error))

    def test_fields_that_are_not_stored(self) -> None:
        """A field that is no argument is not stored, what a model computes is."""
        classes = DocumentClasses()
        self.assertEqual(stored(Measured("x")), {"name": "x"})
        self.assertEqual(classes.of(Measured).names.fields, {"name"})
        self.assertEqual(stored(Square(side=3)), {"side": 3, "area": 9, "around": 12})
        self.assertEqual(classes.of(Square).names.fields, {"side", "area", "around"})

    def test_key_field(self) -> None:
        """Another field may be the key."""
        self.assertEqual(self.round_trip(Point(1.0, 2.0), key_field="x"), {"_id": 1.0, "y": 2.0})

    def test_misfit(self) -> None:
        """What does not fit is told by key, class and field, without the document's values."""
        cases: list[tuple[Any, dict[str, Any], str]] = [
            (Person, {"age": 5}, "a field that it needs is missing @ $.name"),
            (Person, {"name": "secret", "age": "5"}, "this is no int @ $.age"),
            (Person, {"name": "x", "address": {"city": ObjectId()}}, "str @ $.address.city"),
            (Person, {"name": "x", "age": True}, "this is no int @ $.age"),
            (Point, {"x": "secret"}, "this is no float @ $.x"),
            (Everything, {"price": 5}, "this is no Decimal @ $.price"),
            (Person, {"name": "x", "born": "secret"}, "born"),
            (Person, {"name": "x", "born": datetime.fromtimestamp(5, UTC)}, "born"),
            (Film, {"title": "x", "year": 1700}, "greater than or equal to 1888 @ $.year"),
            (Film, {"title": ["secret"]}, "Input should be a valid string @ $.title"),
            (Keyed, {"numbers": {"secret": "x"}}, "this is no int @ $.numbers[...]"),
            (Keyed, {"words": {"secret": "x"}}, "this is no int @ $.words[...]"),
            (Keyed, {"lists": {"3": [1, "x"]}}, "this is no int @ $.lists[...][1]"),
            (Card, {"number": "secret"}, "value_error @ $.number"),
            (Card, {"scores": {"secret": "x"}}, "as an integer @ $.scores[...]"),
            (Card, {"inner": [{"side": 1}, {"side": "x"}]}, "as an integer @ $.inner[1].side"),
        ]
        for doc_class, document, why in cases:
            error = self.assertRaises(Misfit, read, doc_class, {"_id": 5, **document})
            start = f"the document 5 of db.things is no {doc_class.__name__}: "
            self.assertTrue(str(error).startswith(start), str(error))
            self.assertIn(why, str(error))
            self.assertNotIn("secret", str(error))
            self.assertIsNone(error.__cause__)
            self.assertIsInstance(error.reason, Exception)

    def test_long_key(self) -> None:
        """Of a key that is long the beginning is told."""
        error = self.assertRaises(Misfit, read, Person, {"_id": "x" * 10_000})
        self.assertIn("the document 'xxx", str(error))
        self.assertLess(len(str(error)), 400)

    def test_values(self) -> None:
        """Values for conditions become BSON's, too."""
        plain = DocumentClasses().of(Person).plain
        self.assertEqual(plain(Address("x")), {"city": "x", "lines": []})
        self.assertEqual(plain([Colour.RED, date(2020, 1, 2)])[0], "r")
        self.assertEqual(plain(Decimal("1.5")), Decimal128("1.5"))
        self.assertEqual(plain(Ticket(row=1))["row"], 1)
        self.assertEqual(plain("$gt"), "$gt")

    def test_names(self) -> None:
        """What a class's fields are called, where it tells."""
        classes = DocumentClasses()
        self.assertEqual(classes.of(Point).names.fields, {"x", "y"})
        self.assertEqual(classes.of(Point).names.key, "")
        self.assertEqual(classes.of(Book).names.key, "_id")
        self.assertIn("_id", classes.of(Film).names.fields or ())
        self.assertIsNone(classes.of(dict).names.fields)
        self.assertIsNone(classes.of(Loose).names.fields)


class Reversing:
    """A converter that is the application's own."""

    def structure(self, obj: Any, cl: Any, /) -> Any:
        """Text back to front."""
        return cl(obj["text"][::-1])

    def unstructure(self, obj: Any, /) -> Any:
        """Any value that is no word stays."""
        return {"text": obj.text[::-1]} if isinstance(obj, Word) else obj


class Word:
    """A class that nothing else knows to convert."""

    def __init__(self, text: str) -> None:
        self.text = text


class ConverterTests(SynchronousTestCase):
    """
    Converters of the application.
    """

    def test_given(self) -> None:
        """A converter that is given converts any class."""
        converter = Reversing()
        document = stored(Word("abc"), DocumentClasses(converter=converter))
        self.assertEqual(document, {"text": "cba"})
        self.assertEqual(read(Word, {"_id": 1, **document}, converter=converter).text, "abc")

    def test_misfit(self) -> None:
        """Its errors are told by their class alone."""
        error = self.assertRaises(Misfit, read, Word, {"_id": 1}, converter=Reversing())
        self.assertEqual(str(error), "the document 1 of db.things is no Word: KeyError")

    def test_no_document(self) -> None:
        """What it makes must be a document."""
        classes = DocumentClasses(converter=Reversing())
        self.assertRaises(TypeError, classes.of(int).encode, 5)
