"""
Tests for L{txmongokit._sansio.commands.clientbulk}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bson
from pymongo import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.clientbulk import BulkWriteCommand, ClientBulkWrite
from txmongokit.errors import (
    AutoReconnect,
    ClientBulkWriteException,
    ConfigurationError,
    DocumentTooLarge,
    InvalidName,
    InvalidOperation,
    ServerSelectionTimeoutError,
    WriteConcernError,
)
from txmongokit.types import ConnectionInfo

INFO = ConnectionInfo(("a", 1), 2, max_wire_version=25)
OPTIONS = CommandOptions()
UNACKNOWLEDGED = replace(OPTIONS, write_concern=WriteConcern(w=0))


def reply_of(documents: list[dict[str, Any]], **counts: Any) -> dict[str, Any]:
    """A server's reply."""
    cursor = {"id": 0, "ns": "admin.$cmd.bulkWrite", "firstBatch": documents}
    return {"ok": 1, "cursor": cursor, "nErrors": 0, **counts}


def bulk_of(*operations: Any, options: CommandOptions = OPTIONS, **arguments: Any) -> Any:
    """A bulk write."""
    bulk = ClientBulkWrite(options, **arguments)
    for operation in operations:
        bulk.add(operation)
    return bulk


def inserts(count: int, size: int = 10) -> list[Any]:
    """Insertions, in turn into two collections."""
    return [
        InsertOne({"_id": number, "x": "x" * size}, namespace=f"db.c{number % 2}")
        for number in range(count)
    ]


class RequestTests(SynchronousTestCase):
    """
    What is sent.
    """

    def sent(self, command: BulkWriteCommand, info: ConnectionInfo = INFO) -> dict[str, Any]:
        """A command with its sequences as lists."""
        request = command.build(info)
        lists = {name: [bson.decode(raw) for raw in raws] for name, raws in request.sequences}
        return {**request.body, **lists}

    def test_document(self) -> None:
        """Every operation with its options, every namespace once."""
        bulk = bulk_of(
            InsertOne({"x": 1, "_id": 1}, namespace="db.a"),
            UpdateOne({"_id": 1}, {"$set": {"x": 2}}, hint="_id_", namespace="db.b"),
            UpdateMany({}, [{"$set": {"x": 3}}], array_filters=[{}], namespace="db.a"),
            ReplaceOne({}, {"x": 4}, upsert=True, sort={"x": 1}, namespace="db.b"),
            DeleteOne({}, collation={"locale": "de"}, namespace="db.a"),
            DeleteMany({"x": 5}, namespace="db.a"),
            comment="why",
            let={"v": 1},
            bypass_document_validation=False,
            raw_data=True,
        )
        command = next(bulk.commands())
        self.assertEqual(
            self.sent(command),
            {
                "bulkWrite": 1,
                "errorsOnly": True,
                "ordered": True,
                "comment": "why",
                "let": {"v": 1},
                "bypassDocumentValidation": False,
                "ops": [
                    {"insert": 0, "document": {"_id": 1, "x": 1}},
                    {
                        "update": 1,
                        "filter": {"_id": 1},
                        "updateMods": {"$set": {"x": 2}},
                        "multi": False,
                        "hint": "_id_",
                    },
                    {
                        "update": 0,
                        "filter": {},
                        "updateMods": [{"$set": {"x": 3}}],
                        "multi": True,
                        "arrayFilters": [{}],
                    },
                    {
                        "update": 1,
                        "filter": {},
                        "updateMods": {"x": 4},
                        "multi": False,
                        "upsert": True,
                        "sort": {"x": 1},
                    },
                    {
                        "delete": 0,
                        "filter": {},
                        "multi": False,
                        "collation": {"locale": "de"},
                    },
                    {"delete": 0, "filter": {"x": 5}, "multi": True},
                ],
                "nsInfo": [{"ns": "db.a"}, {"ns": "db.b"}],
            },
        )
        self.assertFalse(command.retryable)
        self.assertEqual(command.database, "admin")

    def test_identifiers(self) -> None:
        """A document without C{_id} is given one, which goes first."""
        document = {"x": 1}
        bulk = bulk_of(InsertOne(document, namespace="db.a"))
        command = next(bulk.commands())
        sent = self.sent(command)["ops"][0]["document"]
        self.assertEqual(list(sent), ["_id", "x"])
        self.assertEqual(sent, document)

    def batches(self, bulk: ClientBulkWrite, info: ConnectionInfo) -> list[tuple[int, list[str]]]:
        """How many operations and which namespaces each command has."""
        taken = []
        for command in bulk.commands():
            sent = self.sent(command, info)
            names = [each["ns"] for each in sent["nsInfo"]]
            for operation in sent["ops"]:
                number = operation["document"]["_id"]
                self.assertEqual(names[operation["insert"]], f"db.c{number % 2}")
            taken.append((len(sent["ops"]), names))
            bulk.settle(command.parse(reply_of([], nInserted=len(sent["ops"])), info))
        return taken

    def test_count_limit(self) -> None:
        """No command has more operations than allowed; namespaces are its own."""
        info = replace(INFO, max_write_batch_size=3)
        self.assertEqual(
            self.batches(bulk_of(*inserts(7)), info),
            [(3, ["db.c0", "db.c1"]), (3, ["db.c1", "db.c0"]), (1, ["db.c0"])],
        )

    def test_size_limit(self) -> None:
        """No message exceeds the server's limit, by the specification's count."""
        operation = len(bson.encode({"insert": 0, "document": {"_id": 0, "x": "x" * 1000}}))
        namespace = len(bson.encode({"ns": "db.c0"}))
        command = len(bson.encode({"bulkWrite": 1, "errorsOnly": True, "ordered": True}))
        room = 1000 + command + 3 * operation + 2 * namespace
        for size, expected in ((room, [3, 3, 1]), (room - 1, [2, 2, 2, 1])):
            info = replace(INFO, max_message_size=size)
            taken = self.batches(bulk_of(*inserts(7, 1000)), info)
            self.assertEqual([count for count, _ in taken], expected)

    def test_no_room(self) -> None:
        """An operation that no message can carry is refused."""
        command = next(bulk_of(*inserts(1, 5000)).commands())
        self.assertRaises(InvalidOperation, command.build, replace(INFO, max_message_size=4000))

    def test_retry_is_the_same(self) -> None:
        """Built again without a reply, the request is the same, whatever the limits."""
        command = next(bulk_of(*inserts(4)).commands())
        first = command.build(replace(INFO, max_write_batch_size=2))
        command.retrying()
        self.assertEqual(command.build(INFO), first)
        self.assertTrue(command.retryable)

    def test_old_server(self) -> None:
        """Servers before 8.0 are refused in words."""
        command = next(bulk_of(*inserts(1)).commands())
        error = self.assertRaises(
            InvalidOperation, command.build, replace(INFO, max_wire_version=21)
        )
        self.assertIn("MongoDB 8.0", str(error))

    def test_unacknowledged(self) -> None:
        """What nobody would learn of is refused before it is sent."""
        large = bulk_of(*inserts(1, 200), options=UNACKNOWLEDGED, ordered=False)
        command = next(large.commands())
        self.assertRaises(DocumentTooLarge, command.build, replace(INFO, max_bson_size=100))
        command.build(INFO)
        large.settle(command.unacknowledged())
        self.assertFalse(large.finish().acknowledged)
        collated = DeleteOne({}, collation={"locale": "de"}, namespace="db.a")
        command = next(bulk_of(collated, options=UNACKNOWLEDGED, ordered=False).commands())
        self.assertRaises(ConfigurationError, command.build, INFO)

    def test_wrong_operations(self) -> None:
        """Each has a namespace and what its kind wants."""
        for error, operation in (
            (InvalidOperation, InsertOne({})),
            (InvalidName, InsertOne({}, namespace="db")),
            (TypeError, {"insert": 1}),
            (ValueError, UpdateOne({}, {"x": 1}, namespace="db.a")),
            (ValueError, ReplaceOne({}, {"$set": {}}, namespace="db.a")),
        ):
            self.assertRaises(error, bulk_of, operation)
        self.assertRaises(InvalidOperation, bulk_of().check)


class ResultTests(SynchronousTestCase):
    """
    What replies say.
    """

    def test_verbose(self) -> None:
        """Each operation's result under its own index, over several commands."""
        bulk = bulk_of(
            InsertOne({"_id": 7}, namespace="db.a"),
            UpdateOne({}, {"$set": {"x": 2}}, upsert=True, namespace="db.a"),
            DeleteMany({}, namespace="db.a"),
            verbose=True,
        )
        replies = [
            reply_of(
                [
                    {"ok": 1, "idx": 0, "n": 1},
                    {"ok": 1, "idx": 1, "n": 1, "nModified": 0, "upserted": {"_id": None}},
                ],
                nInserted=1,
                nUpserted=1,
            ),
            reply_of([{"ok": 1, "idx": 0, "n": 4}], nDeleted=4),
        ]
        info = replace(INFO, max_write_batch_size=2)
        for command, reply in zip(bulk.commands(), replies, strict=True):
            command.build(info)
            bulk.settle(command.parse(reply, info))
        result = bulk.finish()
        self.assertEqual(result.inserted_count, 1)
        self.assertEqual(result.deleted_count, 4)
        self.assertEqual(result.insert_results[0].inserted_id, 7)
        self.assertTrue(result.update_results[1].did_upsert)
        self.assertEqual(result.delete_results[2].deleted_count, 4)

    def failed(self, reply: dict[str, Any], *, count: int = 2, **arguments: Any) -> Any:
        """The error after one command."""
        bulk = bulk_of(*inserts(count), **arguments)
        for command in bulk.commands():
            command.build(INFO)
            bulk.settle(command.parse(reply, INFO))
        return self.assertRaises(ClientBulkWriteException, bulk.finish)

    def test_failures(self) -> None:
        """A partial result there is where something was written."""
        failure = {"ok": 0, "idx": 0, "code": 11000, "errmsg": "duplicate"}
        first = self.failed(reply_of([failure], nErrors=1))
        self.assertIsNone(first.partial_result)
        self.assertEqual(first.write_errors[0]["idx"], 0)
        second = self.failed(reply_of([{**failure, "idx": 1}], nErrors=1, nInserted=1))
        self.assertEqual(second.partial_result.inserted_count, 1)
        unordered = self.failed(reply_of([failure], nErrors=1, nInserted=1), ordered=False)
        self.assertEqual(unordered.partial_result.inserted_count, 1)
        self.assertNotIn("xxxx", str(unordered))
        self.assertEqual(unordered.write_errors[0]["op"]["document"]["_id"], 0)

    def test_concern_errors(self) -> None:
        """They are gathered and raised at the end."""
        unmet = {"code": 64, "errmsg": "timed out"}
        error = self.failed(reply_of([], nInserted=2, writeConcernError=unmet))
        self.assertEqual(error.write_concern_errors, [unmet])
        self.assertEqual(error.partial_result.inserted_count, 2)

    def test_retryable_concern_error(self) -> None:
        """One after which to try again is raised, and the reply kept in case."""
        command = next(bulk_of(*inserts(1)).commands())
        command.build(INFO)
        unmet = {"code": 91, "errmsg": "shutting down"}
        reply = reply_of([], writeConcernError=unmet, errorLabels=["RetryableWriteError"])
        error = self.assertRaises(WriteConcernError, command.parse, reply, INFO)
        self.assertTrue(error.has_error_label("RetryableWriteError"))
        assert command.unsettled is not None
        self.assertEqual(command.unsettled.reply, reply)

    def test_errors_of_the_network(self) -> None:
        """They come with what was done before; where nothing was sent, as they are."""
        bulk = bulk_of(*inserts(1))
        unreachable = ServerSelectionTimeoutError("none")
        self.assertIs(bulk.failure(unreachable), unreachable)
        lost = AutoReconnect("lost", {"errorLabels": ["RetryableWriteError"]})
        failure = bulk.failure(lost)
        self.assertIsInstance(failure, ClientBulkWriteException)
        self.assertIs(failure.error, lost)
        self.assertIsNone(failure.partial_result)
        self.assertTrue(failure.has_error_label("RetryableWriteError"))
