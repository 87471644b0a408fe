"""
OpenTelemetry spans of operations on a real replica set.
"""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pymongo.operations import DeleteMany, DeleteOne, InsertOne
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from txmongokit.testing import replica_set


class TracingTests(TestCase):
    """A client whose spans are kept."""

    timeout = 60

    def setUp(self) -> None:
        """Start the set, and a provider of the test's own."""
        deployment = replica_set()
        self.addCleanup(deployment.close)
        self.port = deployment.members[0].port
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.patch(trace, "get_tracer", provider.get_tracer)
        self.client = ConnectionPool(
            deployment.uri, tracing={"enabled": True, "query_text_max_length": 200}
        )
        self.addCleanup(self.client.disconnect)

    def spans(self) -> list[Any]:
        """Those that have ended since this was asked last, by when they began."""
        found = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        self.exporter.clear()
        return found

    def tree(self, spans: list[Any]) -> list[tuple[str, str | None]]:
        """Each name with its parent's."""
        names = {span.context.span_id: span.name for span in spans}
        return [
            (span.name, None if span.parent is None else names.get(span.parent.span_id))
            for span in spans
        ]

    def test_operation(self) -> Deferred[None]:
        """An operation has a span within the application's, and its command one within that."""
        return Deferred.fromCoroutine(self.operation())

    async def operation(self) -> None:
        """See L{test_operation}."""
        things = self.client["shop"]["things"]
        with self.tracer.start_as_current_span("request"):
            inserting = things.insert_one({"_id": 1, "secret": "x" * 500})
        await inserting
        spans = self.spans()
        self.assertEqual(
            self.tree(spans),
            [
                ("request", None),
                ("insert shop.things", "request"),
                ("insert", "insert shop.things"),
            ],
        )
        _, operation, command = spans
        self.assertEqual(
            dict(operation.attributes),
            {
                "db.system.name": "mongodb",
                "db.namespace": "shop",
                "db.collection.name": "things",
                "db.operation.name": "insert",
                "db.operation.summary": "insert shop.things",
            },
        )
        attributes = dict(command.attributes)
        text = attributes.pop("db.query.text")
        self.assertTrue(text.startswith('{"insert": "things"'), text)
        self.assertEqual(len(text), 203)
        for name in ("lsid", "$clusterTime", "$db"):
            self.assertNotIn(name, text)
        for name in ("driver_connection_id", "server_connection_id", "txn_number"):
            self.assertGreater(attributes.pop(f"db.mongodb.{name}"), 0)
        self.assertEqual(len(attributes.pop("db.mongodb.lsid")), 36)
        self.assertEqual(
            attributes,
            {
                "db.system.name": "mongodb",
                "db.namespace": "shop",
                "db.collection.name": "things",
                "db.command.name": "insert",
                "db.query.summary": "insert shop.things",
                "server.address": "127.0.0.1",
                "server.port": self.port,
                "network.transport": "tcp",
            },
        )
        self.assertEqual({span.kind for span in spans[1:]}, {trace.SpanKind.CLIENT})

    def test_failures(self) -> Deferred[None]:
        """What fails is told by both spans, and each retry has a span of its own."""
        return Deferred.fromCoroutine(self.failures())

    async def failures(self) -> None:
        """See L{test_failures}."""
        things = self.client["shop"]["things"]
        await things.insert_one({"_id": 1})
        self.spans()
        with self.assertRaises(DuplicateKeyError):
            await things.insert_one({"_id": 1})
        # The server says ok, and which documents it did not insert.
        operation, command = self.spans()
        self.assertEqual(operation.status.status_code, trace.StatusCode.ERROR)
        (event,) = operation.events
        self.assertEqual(event.name, "exception")
        self.assertTrue(event.attributes["exception.type"].endswith("DuplicateKeyError"))
        self.assertEqual(operation.attributes["error.type"], event.attributes["exception.type"])
        self.assertNotIn("error.type", command.attributes)
        self.assertIn("E11000", event.attributes["exception.message"])
        self.assertIn("Traceback", event.attributes["exception.stacktrace"])

        with self.assertRaises(OperationFailure):
            await self.client["shop"].command("nonsense")
        operation, command = self.spans()
        self.assertEqual((operation.name, command.name), ("runCommand shop", "nonsense"))
        self.assertEqual(command.attributes["db.response.status_code"], "59")
        self.assertEqual(command.attributes["error.type"], "59")
        (event,) = command.events
        self.assertEqual(event.attributes["exception.type"], "pymongo.errors.OperationFailure")
        (event,) = operation.events
        self.assertEqual(event.attributes["exception.type"], operation.attributes["error.type"])
        self.assertTrue(operation.attributes["error.type"].endswith("OperationFailure"))

        fail_once = {"failCommands": ["find"], "errorCode": 11600}
        await self.client["admin"].command(
            {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": fail_once}
        )
        self.spans()
        await things.find_one()
        spans = self.spans()
        self.assertEqual(
            self.tree(spans),
            [
                ("find shop.things", None),
                ("find", "find shop.things"),
                ("find", "find shop.things"),
            ],
        )
        self.assertEqual(spans[1].attributes["db.response.status_code"], "11600")
        self.assertEqual(spans[1].attributes["error.type"], "11600")
        for span in (spans[0], spans[2]):
            self.assertNotIn("error.type", span.attributes)
        self.assertEqual(spans[0].status.status_code, trace.StatusCode.UNSET)

    def test_names(self) -> Deferred[None]:
        """Operations are called as the specification has it; credentials are not traced."""
        return Deferred.fromCoroutine(self.names())

    async def names(self) -> None:
        """See L{test_names}."""
        shop = self.client["shop"]
        await shop.create_collection("things")
        await shop.create_collection("view", viewOn="things", pipeline=[])
        await shop["things"].estimated_document_count()
        await shop["things"].count_documents({})
        await shop["things"].find_one_and_delete({"_id": 7})
        await shop["things"].rename("others")
        await shop.cursor_command("find", "others")
        await shop.cursor_command({"listCollections": 1, "nameOnly": True})
        await self.client["admin"].command("ping")
        await shop.drop_collection("view")
        await shop.command("createUser", "ann", pwd="hunter2", roles=[])
        await shop.command("dropUser", "ann")
        spans = self.spans()
        operations = [name for name, parent in self.tree(spans) if parent is None]
        self.assertEqual(
            [name for name in operations if not name.startswith("listCollections")],
            [
                "createCollection shop.things",
                "createCollection shop.view",
                "count shop.things",
                "countDocuments shop.things",
                "findAndModify shop.things",
                "renameCollection shop.things",
                "runCommand shop.others",
                "runCommand shop",
                "runCommand admin",
                "dropCollection shop.view",
                "runCommand shop",
                "runCommand shop",
            ],
        )
        commands = {span.name: span for span in spans if "db.command.name" in span.attributes}
        self.assertNotIn("createUser", commands)
        self.assertNotIn("hunter2", "".join(span.to_json() for span in spans))
        self.assertEqual(commands["ping"].attributes["db.query.summary"], "ping admin")
        self.assertNotIn("db.collection.name", commands["dropUser"].attributes)
        renaming = commands["renameCollection"].attributes
        self.assertEqual(renaming["db.query.summary"], "renameCollection admin")
        self.assertEqual(renaming["db.namespace"], "admin")
        self.assertNotIn("db.collection.name", renaming)
        (found,) = [span for span in spans if span.name == "runCommand shop.others"]
        self.assertEqual(found.attributes["db.operation.summary"], found.name)
        self.assertEqual(found.attributes["db.collection.name"], "others")
        self.assertEqual(found.attributes["db.operation.name"], "runCommand")

    def test_bulk_writes(self) -> Deferred[None]:
        """A bulk write is one operation, of as many commands as it takes."""
        return Deferred.fromCoroutine(self.bulk_writes())

    async def bulk_writes(self) -> None:
        """See L{test_bulk_writes}."""
        things = self.client["shop"]["things"]
        writes: list[Any] = [InsertOne({"_id": 1}), DeleteOne({"_id": 1}), InsertOne({"_id": 2})]
        await things.bulk_write(writes)
        whole = "bulkWrite shop.things"
        self.assertEqual(
            self.tree(self.spans()),
            [(whole, None), ("insert", whole), ("delete", whole), ("insert", whole)],
        )
        whole = "delete shop.things"
        await things.bulk_write([DeleteOne({"_id": 1}), DeleteMany({"_id": 1})])
        self.assertEqual(self.tree(self.spans()), [(whole, None), ("delete", whole)])
        with self.assertRaises(BulkWriteError):
            await things.bulk_write([InsertOne({"_id": 2})])
        spans = self.spans()
        self.assertEqual(spans[0].name, "insert shop.things")
        self.assertEqual(spans[0].status.status_code, trace.StatusCode.ERROR)
        self.assertEqual(len(spans), 2)
        await things.insert_many([{"_id": 3}, {"_id": 4}])
        whole = "insert shop.things"
        self.assertEqual(self.tree(self.spans()), [(whole, None), ("insert", whole)])

    def test_whole_cursors(self) -> Deferred[None]:
        """A cursor that is read as a whole is one operation, which tells its number."""
        return Deferred.fromCoroutine(self.whole_cursors())

    async def whole_cursors(self) -> None:
        """See L{test_whole_cursors}."""
        things = self.client["shop"]["things"]
        await things.insert_many([{"_id": number} for number in range(5)])
        self.spans()
        self.assertEqual(len(await things.find({}, batch_size=2)), 5)
        spans = self.spans()
        whole = "find shop.things"
        self.assertEqual(
            self.tree(spans),
            [(whole, None), ("find", whole), ("getMore", whole), ("getMore", whole)],
        )
        numbers = {span.attributes["db.mongodb.cursor_id"] for span in spans}
        self.assertEqual(len(numbers), 1)
        self.assertNotIn(0, numbers)
        for span in spans:
            self.assertEqual(span.attributes["db.collection.name"], "things")

        await things.find({}).to_list()
        for span in self.spans():
            self.assertNotIn("db.mongodb.cursor_id", span.attributes)

        with self.assertRaises(OperationFailure):
            await things.find({"$nonsense": 1}).to_list()
        operation, _ = self.spans()
        self.assertEqual(operation.status.status_code, trace.StatusCode.ERROR)
        self.assertTrue(operation.attributes["error.type"].endswith("OperationFailure"))

    def test_cursors(self) -> Deferred[None]:
        """
        Each batch that the user asks for is an operation beside the one that
        made the cursor, with the number that was sent; closing it is none.
        """
        return Deferred.fromCoroutine(self.cursors())

    async def cursors(self) -> None:
        """See L{test_cursors}."""
        things = self.client["shop"]["things"]
        await things.insert_many([{"_id": number} for number in range(3)])
        self.spans()
        cursor = things.find({}, batch_size=2)
        with self.tracer.start_as_current_span("first"):
            first = cursor.next_batch()
        await first
        number = cursor.cursor_id
        with self.tracer.start_as_current_span("second"):
            second = cursor.next_batch()
        await second
        self.assertEqual(cursor.cursor_id, 0)
        spans = self.spans()
        find, more = "find shop.things", "getMore shop.things"
        self.assertEqual(
            self.tree(spans),
            [
                ("first", None),
                (find, "first"),
                ("find", find),
                ("second", None),
                (more, "second"),
                ("getMore", more),
            ],
        )
        for span in spans:
            if span.name not in ("first", "second"):
                self.assertEqual(span.attributes["db.mongodb.cursor_id"], number)

        cursor = things.find({}, batch_size=2)
        await cursor.next()
        self.spans()
        with self.tracer.start_as_current_span("request"):
            closing = cursor.close()
        await closing
        spans = self.spans()
        self.assertEqual(self.tree(spans), [("request", None), ("killCursors", "request")])
        self.assertNotIn("db.mongodb.cursor_id", spans[1].attributes)
        names = self.client["shop"].cursor_command(
            {"listCollections": 1, "cursor": {"batchSize": 0}}
        )
        await names.next_batch()
        spans = self.spans()
        self.assertEqual([span.name for span in spans][2:], ["getMore shop", "getMore"])
        self.assertEqual(spans[3].attributes["db.query.summary"], "getMore shop")

    def test_change_streams(self) -> Deferred[None]:
        """Watching is an operation, each batch another; going on after an error is new ones."""
        return Deferred.fromCoroutine(self.change_streams())

    async def change_streams(self) -> None:
        """See L{test_change_streams}."""
        things = self.client["shop"]["things"]
        await things.insert_one({"_id": 0})
        self.spans()
        async with things.watch(max_await_time_ms=10) as stream:
            await stream.try_next()
            watch, more = "watch shop.things", "getMore shop.things"
            whole = [(watch, None), ("aggregate", watch), (more, None), ("getMore", more)]
            self.assertEqual(self.tree(self.spans()), whole)
            fail_once = {
                "failCommands": ["getMore"],
                "errorCode": 280,
                "errorLabels": ["ResumableChangeStreamError"],
            }
            await self.client["admin"].command(
                {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": fail_once}
            )
            self.spans()
            await stream.try_next()
            spans = self.spans()
            self.assertEqual(
                self.tree(spans),
                [
                    (more, None),
                    ("getMore", more),
                    ("killCursors", None),
                    (watch, None),
                    ("aggregate", watch),
                ],
            )
            self.assertEqual(spans[0].status.status_code, trace.StatusCode.ERROR)
            self.assertEqual(spans[1].attributes["error.type"], "280")

    def test_transactions(self) -> Deferred[None]:
        """A transaction is a span around its operations, and ends with it, empty ones too."""
        return Deferred.fromCoroutine(self.transactions())

    async def transactions(self) -> None:
        """See L{test_transactions}."""
        things = self.client["shop"]["things"]
        await things.insert_one({"_id": 0})
        self.spans()
        async with self.client.start_session() as session:
            session.start_transaction()
            await things.insert_one({"_id": 1}, session=session)
            await session.commit_transaction()
            spans = self.spans()
            self.assertEqual(
                self.tree(spans),
                [
                    ("transaction", None),
                    ("insert shop.things", "transaction"),
                    ("insert", "insert shop.things"),
                    ("commitTransaction admin", "transaction"),
                    ("commitTransaction", "commitTransaction admin"),
                ],
            )
            self.assertEqual(dict(spans[0].attributes), {"db.system.name": "mongodb"})

            session.start_transaction()
            await things.insert_one({"_id": 2}, session=session)
            await session.abort_transaction()
            names = [span.name for span in self.spans()]
            self.assertEqual(names[0], "transaction")
            self.assertEqual(names[-1], "abortTransaction")

            for ends in (session.commit_transaction, session.abort_transaction):
                session.start_transaction()
                await ends()
                self.assertEqual([span.name for span in self.spans()], ["transaction"])

            async def insert(session: Any) -> None:
                await things.insert_one({"_id": 3}, session=session)
                cursor = things.find({}, batch_size=2, session=session)
                while cursor.alive:
                    await cursor.next()

            await session.with_transaction(insert)
            self.assertEqual(
                self.tree(self.spans()),
                [
                    ("transaction", None),
                    ("insert shop.things", "transaction"),
                    ("insert", "insert shop.things"),
                    ("find shop.things", "transaction"),
                    ("find", "find shop.things"),
                    ("getMore shop.things", "transaction"),
                    ("getMore", "getMore shop.things"),
                    ("commitTransaction admin", "transaction"),
                    ("commitTransaction", "commitTransaction admin"),
                ],
            )

            async def fails(session: Any) -> None:
                raise KeyError("none")

            with self.assertRaises(KeyError):
                await session.with_transaction(fails)
            self.assertEqual([span.name for span in self.spans()], ["transaction"])
        await things.find_one()
        self.assertEqual(self.tree(self.spans())[0], ("find shop.things", None))
