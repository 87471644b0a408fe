"""
Tests for L{txmongokit._pymongo}: each of PyMongo's private names, and what
happens without it.
"""

from __future__ import annotations

import datetime
import importlib.util
import sys
import types
import uuid
from typing import Any

import bson
import pymongo.hello
import pymongo.saslprep
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions, TypeDecoder, TypeRegistry
from bson.raw_bson import RawBSONDocument
from bson.son import SON
from pymongo import monitoring
from pymongo.errors import PyMongoError
from pymongo.operations import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txmongokit import _pymongo
from txmongokit.errors import (
    ConfigurationError,
    CursorNotFound,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
)


def fresh_copy() -> types.ModuleType:
    """
    The module as it is when imported now, with what PyMongo has now.
    """
    assert _pymongo.__file__ is not None
    spec = importlib.util.spec_from_file_location("tests.fresh_pymongo", _pymongo.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Upper(TypeDecoder):
    """Makes C{bytes} upper case, to see where a type registry applies."""

    bson_type = bytes

    def transform_bson(self, value: bytes) -> bytes:
        """In upper case."""
        return value.upper()


REPLY = {
    "ok": 1,
    "cursor": {
        "id": 5,
        "ns": "d.c",
        "firstBatch": [
            {"_id": 1, "at": datetime.datetime(2020, 1, 2), "in": {"b": b"x"}},  # noqa: DTZ001
            {"_id": Binary.from_uuid(uuid.UUID(int=7)), "l": [{"a": 1}]},
        ],
    },
    "value": {"a": {"b": b"y"}},
    "at": datetime.datetime(2020, 1, 2),  # noqa: DTZ001
    "none": None,
    "raw": b"z",
}
OPTIONS: tuple[CodecOptions[Any], ...] = (
    DEFAULT_CODEC_OPTIONS,
    CodecOptions(),
    CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD),
    CodecOptions(SON),
    CodecOptions(RawBSONDocument),
    CodecOptions(type_registry=TypeRegistry([Upper()])),
)
FIELDS: tuple[dict[str, Any], ...] = (
    {"cursor": {"firstBatch": 1}},
    {"value": 1},
    {"absent": 1, "none": 1},
)


class DecodeTests(SynchronousTestCase):
    """
    L{_pymongo.decode_selective}.
    """

    raw = bson.encode(REPLY)

    def test_users_fields_only(self) -> None:
        """Codec options hold for the given fields and nothing else."""
        options: CodecOptions[Any] = CodecOptions(
            SON, tz_aware=True, type_registry=TypeRegistry([Upper()])
        )
        reply = _pymongo.decode_selective(self.raw, options, {"cursor": {"firstBatch": 1}})
        self.assertIs(type(reply), dict)
        self.assertIs(type(reply["cursor"]), dict)
        self.assertIs(type(reply["value"]), dict)
        self.assertEqual(reply["raw"], b"z")
        first = reply["cursor"]["firstBatch"][0]
        self.assertIs(type(first), SON)
        self.assertEqual(first["in"], {"b": b"X"})
        self.assertIsNotNone(first["at"].tzinfo)

    def test_raw_documents(self) -> None:
        """Raw documents are the user's fields, never the envelope."""
        options: CodecOptions[Any] = CodecOptions(RawBSONDocument)
        reply = _pymongo.decode_selective(self.raw, options, {"cursor": {"firstBatch": 1}})
        self.assertIsInstance(reply["cursor"], dict)
        self.assertIsInstance(reply["cursor"]["firstBatch"][0], RawBSONDocument)

    def test_like_pymongos(self) -> None:
        """The user's fields are what PyMongo's own decoding makes of them."""
        for options in OPTIONS:
            for fields in FIELDS:
                ours = _pymongo.decode_selective(self.raw, options, fields)
                theirs: Any = bson.decode(self.raw, options)
                self.assertEqual(list(ours), list(theirs))
                if "cursor" in fields:
                    ours, theirs = ours["cursor"], theirs["cursor"]
                    self.assertEqual(list(ours), list(theirs))
                for name in fields:
                    if name in ("value", "none", "firstBatch"):
                        self.assertEqual(repr(ours[name]), repr(theirs[name]))

    def test_plain_envelope(self) -> None:
        """The rest is what plain decoding makes of it, lists included."""
        reply = {"ok": 1, "list": [{"a": [{"b": 1}]}, 2], "deep": {"er": {"x": b"x"}}, "user": {}}
        for options in OPTIONS:
            ours = _pymongo.decode_selective(bson.encode(reply), options, {"user": 1})
            ours.pop("user")
            self.assertEqual(repr(ours), repr({k: reply[k] for k in ("ok", "list", "deep")}))


class ModuleTakingTestCase(SynchronousTestCase):
    """
    Takes modules away for one test.
    """

    def take_away(self, name: str) -> None:
        """Importing the module fails until the test ends."""
        self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
        sys.modules[name] = None  # type: ignore[assignment]


class HelloTests(ModuleTakingTestCase):
    """
    PyMongo's C{Hello}.
    """

    def test_contract(self) -> None:
        """It has what is read of it."""
        hello = _pymongo.Hello({"ok": 1, "isWritablePrimary": True, "maxWireVersion": 21})
        for name in (
            "server_type",
            "min_wire_version",
            "max_wire_version",
            "max_bson_size",
            "max_message_size",
            "max_write_batch_size",
            "logical_session_timeout_minutes",
            "connection_id",
        ):
            self.assertTrue(hasattr(hello, name), name)
        self.assertEqual(hello.max_wire_version, 21)

    def test_moved(self) -> None:
        """Where its module has gone, it is found where it is used."""
        self.take_away("pymongo.hello")
        self.assertIs(fresh_copy().Hello, pymongo.hello.Hello)


class RegisteredListenersTests(SynchronousTestCase):
    """
    L{_pymongo.registered_listeners}.
    """

    def test_registered(self) -> None:
        """It has what C{pymongo.monitoring.register} was given."""

        class Listener(monitoring.CommandListener):
            """One that is never told anything."""

        listener = Listener()
        kept = monitoring._LISTENERS.command_listeners
        self.addCleanup(kept.__delitem__, slice(len(kept), None))
        monitoring.register(listener)
        self.assertIn(listener, _pymongo.registered_listeners())

    def test_hidden(self) -> None:
        """Where PyMongo hides them, nobody is registered."""
        hidden = monitoring._LISTENERS
        self.addCleanup(setattr, monitoring, "_LISTENERS", hidden)
        del monitoring._LISTENERS
        self.assertEqual(fresh_copy().registered_listeners(), [])


class SaslprepTests(ModuleTakingTestCase):
    """
    L{_pymongo.saslprep}, by the examples of RFC 4013.
    """

    def test_examples(self) -> None:
        """Characters are mapped and normalised."""
        for text, prepared in (
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
        ):
            self.assertEqual(_pymongo.saslprep(text), prepared)

    def test_prohibited(self) -> None:
        """What is prohibited is refused, without showing it."""
        for text in ("\u0007", "\u0627\u0031"):
            error = self.assertRaises(ConfigurationError, _pymongo.saslprep, text)
            self.assertNotIn(text, str(error))

    def test_without_pymongos(self) -> None:
        """ASCII needs nothing; the rest says what is missing."""
        self.take_away("pymongo.saslprep")
        other = fresh_copy()
        self.assertEqual(other.saslprep("pencil =,"), "pencil =,")
        error = self.assertRaises(ConfigurationError, other.saslprep, "p\u00e4\u00df")
        self.assertIn("saslprep", str(error))
        self.assertNotIn("p\u00e4", str(error))


class _Bulk:
    """Remembers what visits it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("add_"):
            raise AttributeError(name)
        return lambda *_, **__: self.calls.append(name)


class BulkTests(SynchronousTestCase):
    """
    L{_pymongo.add_to_bulk}.
    """

    def test_contract(self) -> None:
        """Each of PyMongo's operations calls its method."""
        bulk = _Bulk()
        operations: tuple[Any, ...] = (
            InsertOne({}),
            UpdateOne({}, {"$set": {"a": 1}}),
            UpdateMany({}, {"$set": {"a": 1}}),
            ReplaceOne({}, {"a": 1}),
            DeleteOne({}),
            DeleteMany({}),
        )
        for operation in operations:
            _pymongo.add_to_bulk(operation, bulk)
        self.assertEqual(
            bulk.calls,
            ["add_insert", "add_update", "add_update", "add_replace", "add_delete", "add_delete"],
        )

    def test_client_bulk(self) -> None:
        """For a client's bulk write each operation tells its namespace."""
        bulk = _Bulk()
        _pymongo.add_to_client_bulk(DeleteOne({}, namespace="db.things"), bulk)
        self.assertEqual(bulk.calls, ["add_delete"])
        self.assertRaises(InvalidOperation, _pymongo.add_to_client_bulk, DeleteOne({}), bulk)
        self.assertRaises(TypeError, _pymongo.add_to_client_bulk, {}, bulk)

    def test_other_objects(self) -> None:
        """What is no operation is refused by its type, not shown."""
        error = self.assertRaises(TypeError, _pymongo.add_to_bulk, {"secret": 1}, _Bulk())
        self.assertIn("dict", str(error))
        self.assertNotIn("secret", str(error))


class LabelTests(SynchronousTestCase):
    """
    L{_pymongo.add_error_label} and L{_pymongo.remove_error_label}.
    """

    def check(self) -> None:
        """Labels come and go."""
        error = OperationFailure("no", 1, {"errorLabels": ["A"]})
        _pymongo.add_error_label(error, "B")
        self.assertTrue(error.has_error_label("A"))
        self.assertTrue(error.has_error_label("B"))
        _pymongo.remove_error_label(error, "A")
        self.assertFalse(error.has_error_label("A"))
        _pymongo.remove_error_label(error, "never there")
        self.assertTrue(error.has_error_label("B"))

    def test_with_pymongos(self) -> None:
        """By PyMongo's methods."""
        self.check()

    def test_without_adding(self) -> None:
        """Without PyMongo's method that adds."""
        self.patch(PyMongoError, "_add_error_label", None)
        self.check()

    def test_without_removing(self) -> None:
        """Without PyMongo's method that removes."""
        self.patch(PyMongoError, "_remove_error_label", None)
        self.check()


class CommandErrorTests(SynchronousTestCase):
    """
    L{_pymongo.raise_command_error}.
    """

    def raised(self, reply: dict[str, Any]) -> PyMongoError:
        """What a reply raises."""
        error = self.assertRaises(PyMongoError, _pymongo.raise_command_error, reply, 17)
        assert isinstance(error, PyMongoError)
        return error

    def test_classes(self) -> None:
        """The code decides upon the class."""
        wanted: dict[int, type[PyMongoError]] = {
            11000: DuplicateKeyError,
            11001: DuplicateKeyError,
            12582: DuplicateKeyError,
            50: ExecutionTimeout,
            43: CursorNotFound,
            13: OperationFailure,
        }
        for code in _pymongo.NOT_PRIMARY_CODES | _pymongo.NODE_RECOVERING_CODES:
            wanted[code] = NotPrimaryError
        for code, kind in wanted.items():
            error = self.raised({"ok": 0, "errmsg": "no", "code": code})
            self.assertIs(type(error), kind, code)
            assert isinstance(error, (OperationFailure, NotPrimaryError))
            assert isinstance(error.details, dict)
            self.assertEqual(error.details["code"], code)

    def test_labels(self) -> None:
        """Labels are kept, whatever the class."""
        for code in (189, 11000, 112):
            error = self.raised({"ok": 0, "code": code, "errorLabels": ["X"]})
            self.assertTrue(error.has_error_label("X"))

    def test_message_only_without_code(self) -> None:
        """A code is believed before a message."""
        message = "not master and slaveOk=false"
        self.assertIsInstance(self.raised({"ok": 0, "errmsg": message}), NotPrimaryError)
        message = "node is recovering"
        self.assertIsInstance(self.raised({"ok": 0, "errmsg": message}), NotPrimaryError)
        other = self.raised({"ok": 0, "errmsg": message, "code": 1})
        self.assertIs(type(other), OperationFailure)

    def test_wire_version(self) -> None:
        """The server's version is kept, as PyMongo's timeouts need it."""
        error = self.raised({"ok": 0, "errmsg": "no", "code": 50})
        assert isinstance(error, OperationFailure)
        self.assertTrue(error.timeout)
        self.assertEqual(error._max_wire_version, 17)

    def test_no_reason(self) -> None:
        """A server that gives no reason is said to give none."""
        self.assertIn("no reason", str(self.raised({"ok": 0})))

    def test_codes_agree(self) -> None:
        """The codes are PyMongo's, where it has them."""
        try:
            from pymongo import helpers_shared
        except ImportError:
            self.skipTest("PyMongo has no helpers_shared any more")
        states = _pymongo.NOT_PRIMARY_CODES | _pymongo.NODE_RECOVERING_CODES
        self.assertEqual(states, helpers_shared._NOT_PRIMARY_CODES)
        self.assertEqual(_pymongo.SHUTTING_DOWN_CODES, helpers_shared._SHUTDOWN_CODES)
        # PyMongo has one set for reads and writes; ours is the reads'.
        self.assertLessEqual(_pymongo.RETRYABLE_CODES, helpers_shared._RETRYABLE_ERROR_CODES)


class PublicSuffixTests(ModuleTakingTestCase):
    """
    PyMongo's list of domains that are everybody's.
    """

    def test_list(self) -> None:
        """Domains below which anybody may register names, and others."""
        if importlib.util.find_spec("pymongo._psl") is None:
            raise SkipTest("this PyMongo has no list of public suffixes")
        for domain, public in (("com", True), ("co.uk", True), ("example.com", False)):
            self.assertEqual(_pymongo.is_public_suffix(domain), public, domain)

    def test_without_list(self) -> None:
        """Without the list only top-level domains are known."""
        # Absent from an older PyMongo, where it is as if it were taken away.
        if "pymongo._psl" in sys.modules:
            self.take_away("pymongo._psl")
        other = fresh_copy()
        self.assertTrue(other.is_public_suffix("com"))
        self.assertFalse(other.is_public_suffix("co.uk"))
