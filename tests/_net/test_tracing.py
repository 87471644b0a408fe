"""
Tests for L{txmongokit._net.tracing}: what is traced, and when nothing is.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit._net.tracing import TracingOptions, make_tracing, tracing_options
from txmongokit.connection import ConnectionPool
from txmongokit.errors import ConfigurationError

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
