"""
OpenTelemetry spans of operations on a real replica set.
"""

from __future__ import annotations

from typing import Any

from pymongo.operations import DeleteOne, InsertOne
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from txmongokit.testing import replica_set

try:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
except ImportError:
    skip = "there is no OpenTelemetry SDK"


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
                "db.system": "mongodb",
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
                "db.system": "mongodb",
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
        self.assertIn("E11000", event.attributes["exception.message"])
        self.assertIn("Traceback", event.attributes["exception.stacktrace"])

        with self.assertRaises(OperationFailure):
            await self.client["shop"].command("nonsense")
        operation, command = self.spans()
        self.assertEqual((operation.name, command.name), ("runCommand shop", "nonsense"))
        self.assertEqual(command.attributes["db.response.status_code"], "59")
        (event,) = command.events
        self.assertEqual(event.attributes["exception.type"], "OperationFailure")

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
        await shop["things"].find_one_and_delete({"_id": 7})
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
                "createView shop.view",
                "estimatedDocumentCount shop.things",
                "findAndModify shop.things",
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

    def test_bulk_writes(self) -> Deferred[None]:
        """A bulk write is one operation, of as many commands as it takes."""
        return Deferred.fromCoroutine(self.bulk_writes())

    async def bulk_writes(self) -> None:
        """See L{test_bulk_writes}."""
        things = self.client["shop"]["things"]
        writes = [InsertOne({"_id": 1}), DeleteOne({"_id": 1}), InsertOne({"_id": 2})]
        await things.bulk_write(writes)
        whole = "bulkWrite shop.things"
        self.assertEqual(
            self.tree(self.spans()),
            [(whole, None), ("insert", whole), ("delete", whole), ("insert", whole)],
        )
        with self.assertRaises(BulkWriteError):
            await things.bulk_write([InsertOne({"_id": 2})])
        spans = self.spans()
        self.assertEqual(spans[0].status.status_code, trace.StatusCode.ERROR)
        self.assertEqual(len(spans), 2)
        await things.insert_many([{"_id": 3}, {"_id": 4}])
        whole = "insert shop.things"
        self.assertEqual(self.tree(self.spans()), [(whole, None), ("insert", whole)])

    def test_cursors(self) -> Deferred[None]:
        """A cursor's number is told by the command that opens it, and by those that go on."""
        return Deferred.fromCoroutine(self.cursors())

    async def cursors(self) -> None:
        """See L{test_cursors}."""
        things = self.client["shop"]["things"]
        await things.insert_many([{"_id": number} for number in range(4)])
        self.spans()
        self.assertEqual(len(await things.find({}, batch_size=2)), 4)
        commands = [span for span in self.spans() if "db.command.name" in span.attributes]
        self.assertEqual({span.name for span in commands}, {"find", "getMore"})
        numbers = {span.attributes["db.mongodb.cursor_id"] for span in commands}
        self.assertEqual(len(numbers), 1)
        self.assertNotIn(0, numbers)
        for span in commands:
            self.assertEqual(span.attributes["db.collection.name"], "things")

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
            self.assertEqual(dict(spans[0].attributes), {"db.system": "mongodb"})

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

            await session.with_transaction(insert)
            self.assertEqual(
                self.tree(self.spans()),
                [
                    ("withTransaction admin", None),
                    ("transaction", "withTransaction admin"),
                    ("insert shop.things", "transaction"),
                    ("insert", "insert shop.things"),
                    ("commitTransaction admin", "transaction"),
                    ("commitTransaction", "commitTransaction admin"),
                ],
            )

            async def fails(session: Any) -> None:
                raise KeyError("none")

            with self.assertRaises(KeyError):
                await session.with_transaction(fails)
            whole, transaction = self.spans()
            self.assertEqual(whole.status.status_code, trace.StatusCode.ERROR)
            self.assertEqual(transaction.name, "transaction")
        await things.find_one()
        self.assertEqual(self.tree(self.spans())[0], ("find shop.things", None))
