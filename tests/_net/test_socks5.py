"""
Tests for L{txmongokit._net.socks5} and the connector's use of it, in memory.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._net.connector import Connector
from txmongokit._net.socks5 import Socks5Endpoint
from txmongokit._sansio.socks5 import Socks5Error
from txmongokit.errors import AutoReconnect, ConfigurationError, NetworkTimeout
from txmongokit.options import parse_options

CONNECTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x30\x39"


class Recorder(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep."""
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Keep."""
        self.lost = reason


class Transport(StringTransport):
    """Counts aborts."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abortConnection(self) -> None:
        """Note."""
        self.aborted = True


class Dialled:
    """An endpoint whose connection the test makes."""

    def __init__(self) -> None:
        self.result: Deferred[Any] = Deferred()
        self.transport = Transport()

    def connect(self, factory: Any) -> Deferred[Any]:
        """Wait for the test."""
        factory.doStart()
        self.factory = factory
        return self.result

    def made(self) -> Any:
        """Make the connection."""
        protocol = self.factory.buildProtocol(None)
        protocol.makeConnection(self.transport)
        self.result.callback(protocol)
        return protocol


class EndpointTests(SynchronousTestCase):
    """The endpoint over a transport in memory."""

    def setUp(self) -> None:
        """A proxy."""
        self.proxy = Dialled()
        self.endpoint = Socks5Endpoint(self.proxy, "proxy:1080", "db", 27017)  # type: ignore[arg-type]  # as much of one as is used
        self.recorder = Recorder()
        self.factory = Factory.forProtocol(lambda: self.recorder)
        self.attempt = self.endpoint.connect(self.factory)

    def test_connected(self) -> None:
        """The real protocol begins when the proxy has connected, and hears all that follows."""
        negotiation = self.proxy.made()
        self.assertEqual(self.proxy.transport.value(), b"\x05\x01\x00")
        negotiation.dataReceived(b"\x05\x00")
        self.assertNoResult(self.attempt)
        self.assertFalse(self.recorder.connected)
        negotiation.dataReceived(CONNECTED + b"fir")
        self.assertIs(self.successResultOf(self.attempt), self.recorder)
        self.assertIs(self.recorder.transport, self.proxy.transport)
        negotiation.dataReceived(b"st")
        self.assertEqual(self.recorder.data, b"first")
        negotiation.connectionLost(Failure(ConnectionDone()))
        assert self.recorder.lost is not None
        self.recorder.lost.trap(ConnectionDone)
        self.proxy.factory.doStop()
        self.assertEqual(self.factory.numPorts, 0)

    def refused(self) -> str:
        """Why the attempt failed."""
        error = self.failureResultOf(self.attempt, Socks5Error).value
        self.assertTrue(str(error).startswith("the proxy proxy:1080 "), error)
        return str(error)

    def test_refused(self) -> None:
        """A refusal closes the connection, and the proxy's further words change nothing."""
        negotiation = self.proxy.made()
        negotiation.dataReceived(b"\x05\xff")
        self.assertIn("proxyUsername", self.refused())
        self.assertTrue(self.proxy.transport.aborted)
        negotiation.dataReceived(CONNECTED)
        negotiation.connectionLost(Failure(ConnectionLost()))
        self.assertFalse(self.recorder.connected)

    def test_hangs_up(self) -> None:
        """A proxy that hangs up is named."""
        negotiation = self.proxy.made()
        negotiation.dataReceived(b"\x05\x00")
        negotiation.connectionLost(Failure(ConnectionLost()))
        self.assertIn("closed the connection", self.refused())

    def test_unreachable(self) -> None:
        """So is one that is not there."""
        self.proxy.result.errback(NobodyListens())
        self.assertIn("cannot be reached: Connection was refused", self.refused())

    def test_no_protocol(self) -> None:
        """A factory that wants no connection gets none."""
        self.factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]  # as any factory may
        negotiation = self.proxy.made()
        negotiation.dataReceived(b"\x05\x00" + CONNECTED)
        self.failureResultOf(self.attempt)
        self.assertTrue(self.proxy.transport.aborted)

    def test_cancel(self) -> None:
        """Cancelling ends dialling, or closes what was open."""
        self.attempt.cancel()
        self.failureResultOf(self.attempt, CancelledError)
        self.setUp()
        negotiation = self.proxy.made()
        self.attempt.cancel()
        self.failureResultOf(self.attempt, CancelledError)
        self.assertTrue(self.proxy.transport.aborted)
        negotiation.dataReceived(b"\x05\x00" + CONNECTED)
        negotiation.connectionLost(Failure(ConnectionLost()))
        self.assertFalse(self.recorder.connected)

    def test_impossible_name(self) -> None:
        """A host that the proxy cannot be told of is nowhere to connect to."""
        endpoint = Socks5Endpoint(Dialled(), "proxy:1080", "x" * 256, 1)  # type: ignore[arg-type]  # as above
        error = self.failureResultOf(endpoint.connect(self.factory), Socks5Error).value
        self.assertIn("the host name", str(error))


class ConnectorTests(SynchronousTestCase):
    """C{proxyHost} as the connector takes it."""

    def setUp(self) -> None:
        """A reactor without a network."""
        self.reactor = MemoryReactorClock()

    def connector(self, options: str) -> Connector:
        """A connector with options."""
        return Connector(self.reactor, parse_options(f"mongodb://db.example/?{options}"))

    def test_goes_to_the_proxy(self) -> None:
        """The proxy is dialled, 1080 by default, and is told the name; monitors go there, too."""
        for monitoring in (True, False):
            connector = self.connector("proxyHost=10.0.0.1")
            attempt = connector.connect(("db.example", 27017), monitoring=monitoring)
            host, port, factory, *_ = self.reactor.tcpClients.pop()
            self.assertEqual((host, port), ("10.0.0.1", 1080))
            protocol: Any = factory.buildProtocol(None)
            transport = Transport()
            protocol.makeConnection(transport)
            protocol.dataReceived(b"\x05\x00")
            self.assertIn(b"db.example", transport.value())
            transport.clear()
            protocol.dataReceived(CONNECTED)
            self.assertIn(b"hello", transport.value())
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)

    def test_errors(self) -> None:
        """What a proxy refuses is no connection, with its reason and without overload's labels."""
        connector = self.connector("proxyHost=10.0.0.1&proxyUsername=u&proxyPassword=hunter2")
        attempt = connector.connect(("db.example", 27017))
        factory = self.reactor.tcpClients[0][2]
        protocol: Any = factory.buildProtocol(None)
        protocol.makeConnection(Transport())
        protocol.dataReceived(b"\x05\x02\x01\x01")
        error: Any = self.failureResultOf(attempt, AutoReconnect).value
        self.assertIn("db.example:27017: the proxy 10.0.0.1:1080 refuses our user", str(error))
        self.assertNotIn("hunter2", str(error))
        self.assertFalse(error.has_error_label("SystemOverloadedError"))

    def test_silent(self) -> None:
        """A proxy that says nothing has C{connectTimeoutMS}."""
        connector = self.connector("proxyHost=10.0.0.1&connectTimeoutMS=1000")
        attempt = connector.connect(("db.example", 27017))
        protocol: Any = self.reactor.tcpClients[0][2].buildProtocol(None)
        transport = Transport()
        protocol.makeConnection(transport)
        self.reactor.advance(1.1)
        error = self.failureResultOf(attempt, NetworkTimeout).value
        self.assertIn("proxy", str(error))
        self.assertTrue(transport.aborted)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unix_sockets_need_none(self) -> None:
        """A Unix socket is of this machine."""
        connector = self.connector("proxyHost=10.0.0.1")
        attempt = connector.connect(("/tmp/mongodb-27017.sock", None))
        self.assertEqual(self.reactor.unixClients[0][0], "/tmp/mongodb-27017.sock")
        self.assertEqual(self.reactor.tcpClients, [])
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)

    def test_two_ways(self) -> None:
        """A proxy and an endpoint factory contradict one another."""
        error = self.assertRaises(
            ConfigurationError,
            Connector,
            self.reactor,
            parse_options("mongodb://h/?proxyHost=p"),
            endpoint_factory=lambda reactor, host, port: None,
        )
        self.assertIn("endpoint_factory", str(error))
