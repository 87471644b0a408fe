"""
Tests for L{txmongokit._net.connector}, in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pymongo.driver_info import DriverInfo
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    DNSLookupError,
    UnknownHostError,
)
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit._net import connector as module
from txmongokit._net.connector import Connector
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)
from txmongokit.options import Credentials, parse_options

OVERLOAD = {"SystemOverloadedError", "RetryableError"}


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
            ({"ok": 1, "maxWireVersion": 2}, ConfigurationError),
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

    def labels(self, error: BaseException) -> set[str]:
        """Those of the labels that mean overload."""
        assert isinstance(error, PyMongoError)
        return {label for label in OVERLOAD if error.has_error_label(label)}

    def test_overload_labels(self) -> None:
        """What an overloaded server may cause until hello is answered is labelled so."""
        for cause, labels in (
            (TimedOut(), OVERLOAD),
            (ConnectError(), OVERLOAD),
            (NobodyListens(), set()),
            (DNSLookupError("no such host"), set()),
            (UnknownHostError(), set()),
            (ValueError("bad proxy"), set()),
        ):
            self.server.refuses = cause
            for monitoring, wanted in ((False, labels), (True, set())):
                attempt = self.connector().connect(("a", 27017), monitoring=monitoring)
                error = self.failureResultOf(attempt, AutoReconnect).value
                self.assertEqual(self.labels(error), wanted, cause)
        self.server.refuses = None
        for answer, kind in (
            (lambda body: ConnectionError("reset"), AutoReconnect),
            (lambda body: None, NetworkTimeout),
        ):
            self.server.on_hello = answer
            for monitoring, wanted in ((False, OVERLOAD), (True, set())):
                attempt = self.connector(connectTimeoutMS=1000).connect(
                    ("a", 27017), monitoring=monitoring
                )
                self.network.advance(1.1)
                error = self.failureResultOf(attempt, kind).value
                self.assertEqual(self.labels(error), wanted)

    def test_no_overload_in_log_in(self) -> None:
        """What goes wrong once hello was answered is no sign of overload."""
        for answer in (lambda body: ConnectionError("reset"), lambda body: None):
            self.server.on_command = answer
            attempt = self.connector("mongodb://u:p@a", connectTimeoutMS=1000).connect(("a", 27017))
            self.network.advance(1.1)
            error = self.failureResultOf(attempt, AutoReconnect).value
            self.assertEqual(self.labels(error), set())
            self.assertNotIn("may require TLS", str(error))

    def test_hint_of_tls(self) -> None:
        """A server that hangs up on hello may want TLS; one that is closed by us does not."""
        self.server.on_hello = lambda body: ConnectionError("reset")
        attempt = self.connector().connect(("a", 27017))
        self.network.flush()
        error = self.failureResultOf(attempt, AutoReconnect).value
        self.assertIn("the server may require TLS", str(error))
        self.server.on_hello = lambda body: None
        connector = self.connector()
        attempt = connector.connect(("a", 27017))
        self.network.flush()
        connector.close()
        self.network.flush()
        error = self.failureResultOf(attempt, AutoReconnect).value
        self.assertNotIn("TLS", str(error))


class CredentialTests(SynchronousTestCase):
    """Who logs in, and how long that takes."""

    def setUp(self) -> None:
        """A server, and a nonce that anything continues."""
        self.patch(module, "_nonce", bytes)
        self.network = FakeNetwork()
        self.server = self.network.add()

    def connector(self, uri: str = "mongodb://a", reactor: Any = None) -> Connector:
        """A connector for the network."""
        return Connector(
            reactor or self.network.clock,
            parse_options(uri),
            endpoint_factory=self.network.endpoint,
        )

    def test_plain_needs_tls(self) -> None:
        """A password is never sent as it is without TLS."""
        connector = self.connector()
        who = Credentials("u", "secret", "$external", "PLAIN")
        failed = self.failureResultOf(connector.verify(("a", 27017), who), ConfigurationError).value
        self.assertIn("tls=true", str(failed))
        self.assertEqual(self.server.attempts, 0)

    def test_plain(self) -> None:
        """With TLS it is, in one command."""
        connector = self.connector()
        self.patch(Connector, "encrypts", True)
        self.patch(connector, "_tls", lambda host: None)
        connector.credentials = Credentials("u", "secret", "$external", "PLAIN")
        self.server.on_command = lambda body: {"ok": 1, "done": True, "payload": b""}
        attempt = connector.connect(("a", 27017))
        self.network.flush()
        self.successResultOf(attempt)
        (command,) = self.server.commands
        self.assertEqual(command["mechanism"], "PLAIN")
        self.assertEqual(command["payload"], b"\0u\0secret")
        self.assertEqual(command["$db"], "$external")

    def test_verify(self) -> None:
        """Credentials are tried on a connection of their own, which is then closed."""
        connector = self.connector()
        who = Credentials("CN=u", None, "$external", "MONGODB-X509")
        attempt = connector.verify(("a", 27017), who)
        self.network.flush()
        self.assertIsNone(self.successResultOf(attempt))
        self.assertEqual(self.server.names(), ["authenticate"])
        self.assertEqual(self.server.connections, [])
        self.assertIsNone(connector.credentials)
        self.server.on_command = lambda body: {"ok": 0, "code": 18, "errmsg": "no"}
        attempt = connector.verify(("a", 27017), who)
        self.network.flush()
        error: Any = self.failureResultOf(attempt, OperationFailure).value
        self.assertEqual(error.code, 18)
        self.assertEqual(self.server.connections, [])

    def test_long_derivation(self) -> None:
        """A key that is long in the making is made in a thread of the reactor's pool."""
        threads = ThreadReactor()
        connector = self.connector("mongodb://user:pencil@a/?authMechanism=SCRAM-SHA-256", threads)
        server_first = b"r=x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=600000"
        self.server.hello = {
            "speculativeAuthenticate": {
                "conversationId": 1,
                "done": False,
                "payload": server_first,
            }
        }
        self.server.on_command = lambda body: {
            "ok": 0,
            "code": 18,
            "errmsg": "Authentication failed.",
        }
        attempt = connector.connect(("a", 27017))
        self.network.flush()
        self.assertNoResult(attempt)
        self.assertEqual(self.server.names(), [])
        threads.work()
        self.network.flush()
        self.failureResultOf(attempt, OperationFailure)
        self.assertEqual(self.server.names(), ["saslContinue"])
        self.assertNotIn(threading.get_ident(), threads.idents)

    def test_cancelled_derivation(self) -> None:
        """Giving up does not wait for the thread."""
        threads = ThreadReactor()
        connector = self.connector("mongodb://user:pencil@a/?authMechanism=SCRAM-SHA-256", threads)
        self.server.hello = {
            "speculativeAuthenticate": {
                "conversationId": 1,
                "done": False,
                "payload": b"r=x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=30000",
            }
        }
        attempt = connector.connect(("a", 27017))
        self.network.flush()
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)
        threads.work()
        self.network.flush()
        self.assertEqual(self.server.connections, [])


class ThreadReactor(Clock):
    """A clock with a pool of threads, which work when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.idents: set[int] = set()
        self._tasks: list[Callable[[], None]] = []
        self._results: list[Callable[[], None]] = []

    def getThreadPool(self) -> ThreadReactor:
        """The pool."""
        return self

    def callInThreadWithCallback(
        self, on_result: Callable[[bool, Any], None], task: Callable[..., Any], *arguments: Any
    ) -> None:
        """Queue a task."""

        def work() -> None:
            self.idents.add(threading.get_ident())
            on_result(True, task(*arguments))

        self._tasks.append(work)

    def callFromThread(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Queue a result."""
        self._results.append(lambda: action(*arguments))

    def work(self) -> None:
        """Run what is queued, in threads, and hand over the results."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            thread = threading.Thread(target=task)
            thread.start()
            thread.join()
        results, self._results = self._results, []
        for result in results:
            result()


class IntroductionTests(SynchronousTestCase):
    """What connections say of us."""

    def test_append_metadata(self) -> None:
        """New connections name what wraps us, each once."""
        network = FakeNetwork()
        server = network.add()
        seen: list[dict[str, Any]] = []
        server.on_hello = seen.append
        connector = Connector(
            network.clock, parse_options("mongodb://a"), endpoint_factory=network.endpoint
        )

        def name() -> str:
            attempt = connector.connect(("a", 27017))
            network.flush()
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)
            driver: str = seen[-1]["client"]["driver"]["name"]
            return driver

        self.assertEqual(name(), "txmongokit|PyMongo")
        for platform in (None, ""):
            connector.append_metadata(DriverInfo("framework", "2.0", platform))
            self.assertEqual(name(), "txmongokit|PyMongo|framework")
        unchecked = tuple.__new__(DriverInfo, ("a|b", None, None))
        self.assertRaises(ConfigurationError, connector.append_metadata, unchecked)
        self.assertRaises(TypeError, connector.append_metadata, "framework")
        self.assertEqual(name(), "txmongokit|PyMongo|framework")
        self.assertIs(seen[0]["backpressure"], True)


class EndpointTests(SynchronousTestCase):
    """How an address is dialled."""

    def setUp(self) -> None:
        """A reactor that notes what is dialled."""
        self.reactor = MemoryReactorClock()

    def connect(self, address: tuple[str, int | None], **options: Any) -> Deferred[Any]:
        """Begin."""
        return Connector(self.reactor, parse_options("mongodb://a", **options)).connect(address)

    def test_literal_addresses(self) -> None:
        """IPv4 and IPv6 are dialled as they are, without asking anybody."""
        for address in (("127.0.0.1", 1), ("::1", 2)):
            self.connect(address)
        self.assertEqual(
            [each[:2] for each in self.reactor.tcpClients], [("127.0.0.1", 1), ("::1", 2)]
        )

    def test_unix_socket(self) -> None:
        """An address without a port is a path."""
        self.connect(("/tmp/mongodb-27017.sock", None))
        self.assertEqual(
            [each[0] for each in self.reactor.unixClients], ["/tmp/mongodb-27017.sock"]
        )

    def test_names(self) -> None:
        """Names are resolved by the reactor, and their addresses tried in turn."""
        self.assertIs(module._kind("db.example"), HostnameEndpoint)

    def test_tls_name(self) -> None:
        """Each host has its own verification; a user's context is asked for each host's."""
        asked: list[str] = []

        def context(host: str) -> CertificateOptions:
            asked.append(host)
            return CertificateOptions()

        connector = Connector(self.reactor, parse_options("mongodb://a"), context)
        for host in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
            connector.connect((host, 1))
        self.assertEqual(asked, ["10.0.0.1", "10.0.0.2"])

    def test_prepare(self) -> None:
        """Files that cannot be read are found before anything is dialled."""
        connector = Connector(self.reactor, parse_options("mongodb://a"))
        connector.prepare()
        self.assertFalse(connector.encrypts)
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("nothing")
        connector = Connector(
            self.reactor, parse_options("mongodb://a,b", tls=True, tlsCAFile=path)
        )
        self.assertTrue(connector.encrypts)
        error = self.assertRaises(ConfigurationError, connector.prepare)
        self.assertIn("tlsCAFile", str(error))
        self.assertEqual(self.reactor.tcpClients, [])
