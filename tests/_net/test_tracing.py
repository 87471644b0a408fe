"""
Tests for L{txmongokit._net.tracing}: what is traced, and when nothing is.
"""

from __future__ import annotations

import sys
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pymongo.operations import InsertOne
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit._net.tracing import TracingOptions, make_tracing, tracing_options
from txmongokit.connection import ConnectionPool
from txmongokit.errors import AutoReconnect, ConfigurationError

ENABLED = "OTEL_PYTHON_INSTRUMENTATION_MONGODB_ENABLED"
LENGTH = "OTEL_PYTHON_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH"


class OptionsTests(SynchronousTestCase):
    """Arguments and environment."""

    def test_off(self) -> None:
        """Nothing is traced unless somebody says so, and a client's no overrides a yes."""
        for given, environment in (
            (None, {}),
            (None, {ENABLED: "false"}),
            (None, {LENGTH: "100"}),
            ({}, {}),
            ({"query_text_max_length": 5}, {}),
            (False, {ENABLED: "true"}),
            ({"enabled": False}, {ENABLED: "true"}),
        ):
            self.assertIsNone(tracing_options(given, environment))

    def test_on(self) -> None:
        """The client's word, then the environment's."""
        for given, environment, options in (
            (True, {}, TracingOptions(True, 0)),
            ({"enabled": True}, {LENGTH: "100"}, TracingOptions(True, 100)),
            (None, {ENABLED: "true"}, TracingOptions(False, 0)),
            (None, {ENABLED: "1", LENGTH: "none"}, TracingOptions(False, 0)),
            ({"query_text_max_length": 7}, {ENABLED: "TRUE"}, TracingOptions(False, 7)),
            (
                {"enabled": True, "query_text_max_length": 0},
                {LENGTH: "100"},
                TracingOptions(True, 0),
            ),
        ):
            self.assertEqual(tracing_options(given, environment), options)

    def test_wrong(self) -> None:
        """What cannot be meant is refused by name."""
        for given, name in (
            ("yes", "tracing"),
            ({"enable": True}, "enabled"),
            ({"enabled": "yes"}, "enabled='yes'"),
            ({"enabled": True, "query_text_max_length": -1}, "query_text_max_length=-1"),
            ({"enabled": True, "query_text_max_length": True}, "query_text_max_length=True"),
        ):
            error = self.assertRaises(ConfigurationError, tracing_options, given, {})
            self.assertIn(name, str(error))


class AbsenceTests(SynchronousTestCase):
    """Without OpenTelemetry."""

    def setUp(self) -> None:
        """Take it away."""
        modules: dict[str, Any] = sys.modules
        if "opentelemetry" in modules:
            self.addCleanup(modules.__setitem__, "opentelemetry", modules["opentelemetry"])
        else:
            self.addCleanup(modules.pop, "opentelemetry")
        modules["opentelemetry"] = None

    def test_demanded(self) -> None:
        """A client that is to trace says what is missing."""
        error = self.assertRaises(ConfigurationError, make_tracing, TracingOptions(True, 0))
        self.assertIn("txmongokit[otel]", str(error))

    def test_by_environment(self) -> None:
        """The environment may speak to others: there is only no tracing."""
        self.assertIsNone(make_tracing(TracingOptions(False, 0)))

    def test_client(self) -> None:
        """A client that is not to trace works, and its commands are told to nobody."""
        network = FakeNetwork()
        network.add()
        client = ConnectionPool(
            "mongodb://a", reactor=network.clock, endpoint_factory=network.endpoint
        )
        self.addCleanup(network.end, client)
        found = client["db"].command("ping")
        network.flush()
        self.successResultOf(found)
        self.assertRaises(
            ConfigurationError, ConnectionPool, "mongodb://a", reactor=network.clock, tracing=True
        )


class ScriptedTests(SynchronousTestCase):
    """What no server that can be had does, or does on demand."""

    def setUp(self) -> None:
        """A server, and a client whose spans are kept."""
        self.network = FakeNetwork()
        self.server = self.network.add()
        self.server.hello = {"maxWireVersion": 25}
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.patch(trace, "get_tracer", provider.get_tracer)
        self.client = ConnectionPool(
            "mongodb://a",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            tracing=True,
        )
        self.addCleanup(self.network.end, self.client)

    def spans(self) -> list[Any]:
        """Those that have ended, by when they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def test_client_bulk_write(self) -> None:
        """A client's bulk write is one operation on C{admin}, its results' batches included."""
        cursor = {
            "id": 7,
            "ns": "admin.$cmd.bulkWrite",
            "firstBatch": [{"ok": 1, "idx": 0, "n": 1}],
        }
        more = {"id": 0, "ns": "admin.$cmd.bulkWrite", "nextBatch": [{"ok": 1, "idx": 1, "n": 1}]}
        counts = dict.fromkeys(("nErrors", "nMatched", "nModified", "nUpserted", "nDeleted"), 0)

        def answer(body: dict[str, Any]) -> dict[str, Any]:
            if "bulkWrite" in body:
                return {"ok": 1, "cursor": cursor, "nInserted": 2, **counts}
            return {"ok": 1, "cursor": more}

        self.server.on_command = answer
        writes = [InsertOne({"_id": number}, namespace="shop.things") for number in range(2)]
        written = self.client.bulk_write(writes)
        self.network.flush()
        self.assertEqual(self.successResultOf(written).inserted_count, 2)
        whole, *commands = self.spans()
        self.assertEqual(whole.name, "bulkWrite admin")
        self.assertEqual(whole.attributes["db.mongodb.cursor_id"], 7)
        self.assertNotIn("db.collection.name", whole.attributes)
        self.assertEqual([span.name for span in commands], ["bulkWrite", "getMore"])
        for span in commands:
            self.assertEqual(span.parent.span_id, whole.context.span_id)
            self.assertEqual(span.attributes["db.mongodb.cursor_id"], 7)
            self.assertNotIn("db.query.text", span.attributes)

    def test_lost_and_cancelled(self) -> None:
        """A connection that breaks, and an operation that nobody waits for, end their spans."""
        self.server.on_command = lambda body: ConnectionError("reset")
        failed = self.client["shop"].command("ping")
        self.network.flush()
        self.failureResultOf(failed, AutoReconnect)
        operation, command = self.spans()
        (event,) = command.events
        self.assertEqual(event.attributes["exception.type"], "pymongo.errors.AutoReconnect")
        self.assertEqual(command.attributes["error.type"], "pymongo.errors.AutoReconnect")
        self.assertNotIn("db.response.status_code", command.attributes)
        self.assertEqual(operation.attributes["error.type"], "pymongo.errors.AutoReconnect")
        self.assertEqual(operation.status.status_code, trace.StatusCode.ERROR)

        self.exporter.clear()
        self.server.on_command = lambda body: None
        waiting = self.client["shop"].command("ping")
        self.network.advance(1.0)
        self.assertEqual(self.spans(), [])
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual([span.name for span in self.spans()], ["runCommand shop", "ping"])
