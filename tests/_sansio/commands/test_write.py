"""
Tests for L{txmongokit._sansio.commands.write} and the bulk writes on top.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bson
from bson.objectid import ObjectId
from pymongo.server_description import ServerDescription
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.admin import CommitTransaction
from txmongokit._sansio.commands.base import Command, CommandOptions
from txmongokit._sansio.commands.write import (
    BulkOutcome,
    Delete,
    DeleteStatement,
    FindAndModify,
    Insert,
    InsertStatement,
    Update,
    UpdateStatement,
    is_small_change,
    raise_write_concern_error,
    raw_write_command,
)
from txmongokit._sansio.sdam import error_effect
from txmongokit.errors import (
    ConfigurationError,
    DocumentTooLarge,
    WriteConcernError,
    WTimeoutError,
)
from txmongokit.types import ConnectionInfo

INFO = ConnectionInfo(("a", 1), 2, max_wire_version=17)
OPTIONS = CommandOptions()


class StatementsTests(SynchronousTestCase):
    """
    How many statements one command takes.
    """

    def sizes(self, command: Insert, info: ConnectionInfo) -> list[int]:
        """How many statements each command takes until all are sent."""
        taken = []
        while not command.done:
            taken.append(len(command.build(info).sequences[0][1]))
            command.settle()
        return taken

    def test_count_limit(self) -> None:
        """No command has more statements than the server's limit."""
        command = Insert("db", "c", [b"12345"] * 7, OPTIONS)
        self.assertEqual(self.sizes(command, replace(INFO, max_write_batch_size=3)), [3, 3, 1])

    def test_size_limit(self) -> None:
        """No message is larger than the server's limit, room for the command included."""
        command = Insert("db", "c", [bytes(1000)] * 5, OPTIONS)
        info = replace(INFO, max_message_size=16 * 1024 + 2500)
        self.assertEqual(self.sizes(command, info), [2, 2, 1])

    def test_room_for_options(self) -> None:
        """Large options leave less room for statements."""
        command = Insert("db", "c", [bytes(1000)] * 2, OPTIONS, comment="x" * 1000)
        info = replace(INFO, max_message_size=16 * 1024 + 2500)
        self.assertEqual(self.sizes(command, info), [1, 1])

    def test_retry_is_the_same(self) -> None:
        """Built again without a reply, the request is the same, whatever the limits."""
        command = Insert("db", "c", [bytes(10)] * 4, OPTIONS)
        first = command.build(replace(INFO, max_write_batch_size=2))
        command.retrying()
        self.assertEqual(command.build(INFO), first)

    def test_too_large(self) -> None:
        """A statement over the limit is refused with both sizes, wherever it is."""
        command = Insert("db", "c", [bytes(10), bytes(101)], OPTIONS)
        info = replace(INFO, max_bson_size=100, max_write_batch_size=1)
        error = self.assertRaises(DocumentTooLarge, command.build, info)
        self.assertIn("101", str(error))
        self.assertIn("100", str(error))

    def test_retryable_concern_error(self) -> None:
        """
        A write concern error that may be retried, or is a server's that shuts
        down, is raised, and the reply kept in case that it is not retried.
        """
        reply = {
            "ok": 1,
            "n": 1,
            "errorLabels": ["RetryableWriteError"],
            "writeConcernError": {"code": 91, "errmsg": "shutting down"},
        }
        command = Insert("db", "c", [bytes(10)], OPTIONS)
        command.build(INFO)
        error = self.assertRaises(WriteConcernError, command.parse, reply, INFO)
        self.assertTrue(error.has_error_label("RetryableWriteError"))
        self.assertEqual(command.unsettled, reply)
        command.retrying()
        self.assertIsNone(command.unsettled)
        del reply["errorLabels"]
        self.assertRaises(WriteConcernError, command.parse, reply, INFO)
        reply["writeConcernError"] = {"code": 100, "errmsg": "not enough members"}
        self.assertEqual(command.parse(reply, INFO), reply)

    def test_raw_write_is_one_message(self) -> None:
        """Raw statements that do not fit into one message are refused."""
        command = raw_write_command("db", "c", "delete", [bytes(10)] * 3, OPTIONS)
        info = replace(INFO, max_write_batch_size=2)
        self.assertRaises(DocumentTooLarge, command.build, info)
        self.assertEqual(command.build(INFO).sequences[0][0], "deletes")


class ErrorTests(SynchronousTestCase):
    """
    What replies report.
    """

    def test_write_concern_errors(self) -> None:
        """Each kind of unmet write concern has its class."""
        for document, expected in (
            ({"code": 64, "errmsg": "x", "errInfo": {"wtimeout": True}}, WTimeoutError),
            ({"code": 100, "errmsg": "x"}, WriteConcernError),
            ({"code": 189, "errmsg": "x"}, WriteConcernError),
        ):
            reply = {"writeConcernError": document}
            self.assertRaises(expected, raise_write_concern_error, reply)
        raise_write_concern_error({"ok": 1})

    def test_outcome(self) -> None:
        """Counts add up, and indexes are those of the whole."""
        outcome = BulkOutcome()
        outcome.merge("insert", {"n": 2}, [0, 2])
        reply = {"n": 3, "nModified": 1, "upserted": [{"index": 1, "_id": 8}]}
        outcome.merge("update", reply, [1, 5])
        outcome.merge("delete", {"n": 4}, [3])
        outcome.check([])
        counts = {key: outcome.result[key] for key in ("nInserted", "nMatched", "nRemoved")}
        self.assertEqual(counts, {"nInserted": 2, "nMatched": 2, "nRemoved": 4})
        self.assertEqual(outcome.result["upserted"], [{"index": 5, "_id": 8}])

    def test_unmet_concern_of_every_command(self) -> None:
        """
        A server that shuts down while others wait for it is known as such to
        whoever watches servers, and the write is labelled for another try.
        """
        reply: dict[str, Any] = {
            "ok": 1,
            "n": 1,
            "errorLabels": ["RetryableWriteError"],
            "topologyVersion": {"processId": ObjectId(), "counter": 1},
            "writeConcernError": {"code": 91, "errmsg": "shutting down"},
        }
        document = bson.encode({"_id": 1})
        commands: list[Command[Any]] = [
            InsertStatement("db", "c", document, OPTIONS),
            UpdateStatement("db", "c", (document,), OPTIONS),
            DeleteStatement("db", "c", (document,), OPTIONS),
            FindAndModify("db", "c", OPTIONS, {}),
            Insert("db", "c", (document,), OPTIONS),
            CommitTransaction(OPTIONS),
        ]
        server = ServerDescription(("a", 1))
        for command in commands:
            error = self.assertRaises(WriteConcernError, command.parse, reply, INFO)
            self.assertTrue(error.has_error_label("RetryableWriteError"))
            self.assertEqual(error.details["topologyVersion"], reply["topologyVersion"])
            effect = error_effect(error, server_description=server, handshaken=True)
            self.assertTrue(effect.mark_unknown and effect.clear_pool, command.name)


class UnacknowledgedTests(SynchronousTestCase):
    """
    What nobody would learn of is refused.
    """

    options = replace(OPTIONS, write_concern=WriteConcern(w=0))

    def test_versions(self) -> None:
        """Hints and sorts go to servers that do not ignore them."""
        for kind, demand, least in (
            (Update, "hint", 8),
            (Delete, "hint", 9),
            (Update, "sort", 25),
        ):
            command = kind("db", "c", [b"12345"], self.options, demands=[demand])
            command.build(replace(INFO, max_wire_version=least))
            old = replace(INFO, max_wire_version=least - 1)
            self.assertRaises(ConfigurationError, command.build, old)
            kind("db", "c", [b"12345"], OPTIONS, demands=[demand]).build(old)

    def test_never(self) -> None:
        """Collations and array filters need an answer, as PyMongo has it."""
        for demand in ("collation", "array_filters"):
            command = Update("db", "c", [b"12345"], self.options, demands=[demand])
            error = self.assertRaises(ConfigurationError, command.build, INFO)
            self.assertIn(demand, str(error))

    def test_find_and_modify(self) -> None:
        """It knows its own options."""
        command = FindAndModify("db", "c", self.options, {}, hint="a_1")
        command.build(INFO)
        self.assertRaises(ConfigurationError, command.build, replace(INFO, max_wire_version=8))


class SharingTests(SynchronousTestCase):
    """
    Which writes may share a connection.
    """

    def test_inserts(self) -> None:
        """A small document, unless others must have it first."""
        for size, concern, shareable in (
            (100, {}, True),
            (100, {"w": 1}, True),
            (100, {"w": 0}, True),
            (100_000, {}, False),
            (100, {"w": "majority"}, False),
            (100, {"j": True}, False),
        ):
            options = replace(OPTIONS, write_concern=WriteConcern(**concern))
            command = InsertStatement("db", "c", bytes(size), options)
            self.assertIs(command.shareable, shareable, (size, concern))

    def test_changes(self) -> None:
        """One document by its C{_id}, without pipelines and the like."""
        for filter, update, arguments, small in (
            ({"_id": 1}, {"$set": {}}, {"upsert": True}, True),
            ({"_id": 1}, None, {}, True),
            ({"_id": 1}, [{"$set": {}}], {}, False),
            ({"_id": 1}, None, {"collation": {"locale": "de"}}, False),
            ({"a": 1}, {"$set": {}}, {}, False),
        ):
            self.assertIs(is_small_change(filter, update, OPTIONS, **arguments), small)
