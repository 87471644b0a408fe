"""
Tests for L{txmongokit._net.connector}, in memory.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import DNSLookupError
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit._net.connector import Connector
from txmongokit.errors import AutoReconnect, ConfigurationError, NetworkTimeout, OperationFailure
from txmongokit.options import parse_options


class ConnectorTests(SynchronousTestCase):
    """Connecting, shaking hands, giving up, closing."""

    def setUp(self) -> None:
        """One server."""
        self.network = FakeNetwork()
        self.server = self.network.add()

    def connector(self, uri: str = "mongodb://a", **options: Any) -> Connector:
        """A connector for the network."""
        return Connector(
            self.network.clock,
            parse_options(uri, **options),
            endpoint_factory=self.network.endpoint,
        )

    def test_connect(self) -> None:
        """A connection knows its server, and leaves no timer behind."""
        attempt = self.connector().connect(("a", 27017))
        self.assertNoResult(attempt)
        self.network.flush()
        protocol = self.successResultOf(attempt)
        assert protocol.info is not None
        self.assertEqual((protocol.address, protocol.info.max_wire_version), (("a", 27017), 17))
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """A refused connection names the address and the reason."""
        attempt = self.connector().connect(("elsewhere", 1))
        error = self.failureResultOf(attempt, AutoReconnect).value
        self.assertIn("elsewhere:1: Connection was refused", str(error))

    def test_endpoint_fails(self) -> None:
        """Whatever an endpoint fails with is no connection."""
        for cause in (DNSLookupError("no such host"), ValueError("bad proxy"), RuntimeError()):
            self.server.refuses = cause
            error = self.failureResultOf(
                self.connector().connect(("a", 27017)), AutoReconnect
            ).value
            self.assertIs(error.__cause__, cause)
            self.assertTrue(str(error).removeprefix("a:27017:").strip())

    def test_timeout(self) -> None:
        """Connecting and shaking hands together have C{connectTimeoutMS}."""
        connector = self.connector(connectTimeoutMS=3000)
        self.server.refuses = Deferred()
        dialling = connector.connect(("a", 27017))
        self.server.refuses = None
        self.server.on_hello = lambda body: None
        silent = connector.connect(("a", 27017))
        self.network.advance(3.1)
        for attempt in (dialling, silent):
            error = self.failureResultOf(attempt, NetworkTimeout).value
            self.assertIn("connectTimeoutMS", str(error))
        self.assertEqual(self.server.connections, [])

    def test_handshake_fails(self) -> None:
        """A refused or impossible hello is the error, and the connection is closed."""
        refusals: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"ok": 0, "errmsg": "go away", "code": 13}, OperationFailure),
            ({"ok": 1, "maxWireVersion": 6}, ConfigurationError),
        ]
        for reply, kind in refusals:
            self.server.on_hello = lambda body, reply=reply: reply
            attempt = self.connector().connect(("a", 27017))
            self.network.flush()
            self.failureResultOf(attempt, kind)
            self.assertEqual(self.server.connections, [])

    def test_lost_in_handshake(self) -> None:
        """A connection that is lost while shaking hands is a failed attempt."""
        self.server.on_hello = lambda body: ConnectionError("reset")
        attempt = self.connector().connect(("a", 27017))
        self.network.flush()
        self.assertIn("reset", str(self.failureResultOf(attempt, AutoReconnect).value))

    def test_cancel(self) -> None:
        """Cancelling closes what was open."""
        self.server.on_hello = lambda body: None
        attempt = self.connector().connect(("a", 27017))
        self.network.flush()
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)
        self.network.flush()
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_monitoring_does_not_log_in(self) -> None:
        """A monitor's connection sends no credentials and no compressors."""
        seen: list[dict[str, Any]] = []
        self.server.on_hello = seen.append
        connector = self.connector("mongodb://u:p@a", compressors="zlib")
        for monitoring in (True, False):
            attempt = connector.connect(("a", 27017), monitoring=monitoring)
            self.network.flush()
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)
        secret = {"speculativeAuthenticate", "compression", "saslSupportedMechs"}
        self.assertEqual(secret & set(seen[0]), set())
        self.assertEqual(secret & set(seen[1]), secret)

    def test_compressor(self) -> None:
        """The first compressor that the server knows is used."""
        self.server.hello = {"compression": ["zlib"]}
        attempt = self.connector(compressors="zstd,zlib").connect(("a", 27017))
        self.network.flush()
        self.assertIsNotNone(self.successResultOf(attempt).exchange.compressor)

    def test_close(self) -> None:
        """Closing ends every connection; each who asked hears when all are gone."""
        connector = self.connector()
        attempt = connector.connect(("a", 27017))
        self.network.flush()
        protocol = self.successResultOf(attempt)
        closing = [connector.close(), connector.close()]
        self.assertTrue(protocol.closed)
        for each in closing:
            self.assertNoResult(each)
        self.network.flush()
        for each in closing:
            self.successResultOf(each)
        self.successResultOf(connector.close())
