"""
Real servers behind real proxies: SOCKS5, and HTTP by an endpoint factory.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from pymongo.monitoring import CommandListener
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.socksproxy import SocksProxy
from txmongokit.connection import ConnectionPool
from txmongokit.errors import PyMongoError, ServerSelectionTimeoutError
from txmongokit.testing import Deployment, replica_set, standalone


class ProxyTestCase(TestCase):
    """Proxies and clients that are tidied up."""

    timeout = 60

    async def proxy(self, **arguments: Any) -> SocksProxy:
        """A proxy."""
        proxy = SocksProxy(**arguments)
        await proxy.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        return proxy

    async def deployed(self, make: Any, **arguments: Any) -> Deployment:
        """A deployment."""
        deployment: Deployment = await deferToThread(make, **arguments)
        self.addCleanup(deployment.close)
        return deployment

    async def said(self, uri: str, **options: Any) -> Any:
        """What a server answers, or why it does not."""
        pool = ConnectionPool(uri, serverSelectionTimeoutMS=3000, **options)
        try:
            await pool["db"]["things"].insert_one({"text": "x" * 200_000})
            return await pool["db"]["things"].find_one()
        except PyMongoError as error:
            return error
        finally:
            await pool.disconnect()


class _Connect(Protocol):
    """A small HTTP proxy: C{CONNECT} to what it allows, on this machine."""

    def __init__(self, allowed: set[bytes]) -> None:
        self.allowed = allowed
        self.head = b""
        self.outward: Any = None

    def dataReceived(self, data: bytes) -> None:
        """Take the request, and then hand everything on."""
        if self.outward is not None:
            self.outward.transport.write(data)
            return
        self.head += data
        if b"\r\n\r\n" in self.head:
            self.connecting = Deferred.fromCoroutine(self.connect(self.head.split()[1]))

    async def connect(self, target: bytes) -> None:
        """Connect, or not."""
        transport: Any = self.transport
        if target not in self.allowed:
            transport.write(b"HTTP/1.1 403 Not there\r\n\r\n")
            transport.loseConnection()
            return
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", int(target.rpartition(b":")[2]))
        self.outward = await endpoint.connect(Factory.forProtocol(Protocol))
        self.outward.dataReceived = transport.write
        self.outward.connectionLost = lambda reason: transport.loseConnection()
        transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server's ends, too."""
        if self.outward is not None:
            self.outward.transport.loseConnection()


class HTTPProxyTests(ProxyTestCase):
    """The endpoint of the how-to guide."""

    def test_http_proxy(self) -> Deferred[None]:
        """It connects through a proxy, with TLS as well, and tells what that refuses."""
        return Deferred.fromCoroutine(self.http_proxy())

    async def http_proxy(self) -> None:
        """See L{test_http_proxy}."""
        guide = Path(__file__).parents[2] / "docs" / "proxies.rst"
        blocks = guide.read_text().split(".. code-block:: python\n\n")
        (code,) = (each for each in blocks if "class Tunnel(" in each)
        # The block ends where lines are indented no more.
        code = re.split(r"(?m)^(?=\S)", code)[0]
        names: dict[str, Any] = {}
        exec(textwrap.dedent(code), names)
        deployment = await self.deployed(standalone, tls=True)
        port = deployment.members[0].port
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        allowed = {b"localhost:%d" % port}
        listening: Any = await endpoint.listen(Factory.forProtocol(lambda: _Connect(allowed)))
        self.addCleanup(listening.stopListening)
        options: dict[str, Any] = {
            "tlsCAFile": deployment.ca_file,
            "endpoint_factory": names["http_proxy"]("127.0.0.1", listening.getHost().port),
        }
        document = await self.said(f"mongodb://localhost:{port}/", **options)
        self.assertEqual(len(document["text"]), 200_000)
        error = await self.said(f"mongodb://other.invalid:{port}/", **options)
        self.assertIn("the HTTP proxy says HTTP/1.1 403 Not there", str(error))


class Addresses(CommandListener):
    """Notes where commands went."""

    def __init__(self) -> None:
        self.addresses: set[Any] = set()

    def started(self, event: Any) -> None:
        """Note."""
        self.addresses.add(event.connection_id)

    def succeeded(self, event: Any) -> None:
        """Note."""
        self.addresses.add(event.connection_id)

    def failed(self, event: Any) -> None:
        """Note."""
        self.addresses.add(event.connection_id)


class SocksTests(ProxyTestCase):
    """Names that only the proxy knows."""

    def test_proxy(self) -> Deferred[None]:
        """Everything goes through the proxy, with and without a password."""
        return Deferred.fromCoroutine(self.through())

    async def through(self) -> None:
        """See L{test_proxy}."""
        deployment = await self.deployed(standalone)
        port = deployment.members[0].port
        names = {"db.invalid": "127.0.0.1"}
        anybody = await self.proxy(names=names)
        known = await self.proxy(names=names, users={"ann": "hunter2"})
        uri = f"mongodb://db.invalid:{port}/"
        document = await self.said(uri, proxyHost="127.0.0.1", proxyPort=anybody.port)
        self.assertEqual(len(document["text"]), 200_000)
        # A monitor and operations.
        self.assertGreaterEqual(len(anybody.asked), 2)
        self.assertEqual(set(anybody.asked), {("db.invalid", port)})
        self.assertEqual(set(anybody.methods), {b"\x00"})

        login = f"proxyHost=localhost&proxyPort={known.port}&proxyUsername=ann&proxyPassword="
        document = await self.said(f"{uri}?{login}hunter2")
        self.assertEqual(len(document["text"]), 200_000)
        self.assertEqual(set(known.methods), {b"\x00\x02"})

        for options, reason in (
            (f"{login}hunter3", "refuses our user name and password"),
            (f"proxyHost=localhost&proxyPort={known.port}", "give proxyUsername"),
            (f"proxyHost=127.0.0.1&proxyPort={port}", "host, port, proxy and firewall"),
        ):
            error = await self.said(f"{uri}?{options}&connectTimeoutMS=1000")
            self.assertIsInstance(error, ServerSelectionTimeoutError)
            self.assertIn(reason, str(error))
            self.assertNotIn("hunter", str(error))
        error = await self.said(
            f"mongodb://other.invalid:{port}/?proxyHost=localhost&proxyPort={anybody.port}"
        )
        self.assertIn("other.invalid", str(error))
        self.assertIn("the host cannot be reached from there", str(error))

    def test_tls(self) -> Deferred[None]:
        """TLS goes through, too, and it is the server's name that is verified."""
        return Deferred.fromCoroutine(self.tls())

    async def tls(self) -> None:
        """See L{test_tls}."""
        deployment = await self.deployed(standalone, tls=True)
        port = deployment.members[0].port
        proxy = await self.proxy(names={"localhost": "127.0.0.1", "other.invalid": "127.0.0.1"})
        options: dict[str, Any] = {
            "tlsCAFile": deployment.ca_file,
            "proxyHost": "127.0.0.1",
            "proxyPort": proxy.port,
        }
        document = await self.said(f"mongodb://localhost:{port}/", **options)
        self.assertEqual(len(document["text"]), 200_000)
        error = await self.said(f"mongodb://other.invalid:{port}/", **options)
        self.assertIn("not for host name 'other.invalid'", str(error))

    def test_prose(self) -> Deferred[None]:
        """The specification's connection strings, in plain; options as keywords, too."""
        return Deferred.fromCoroutine(self.prose(False))

    def test_prose_with_tls(self) -> Deferred[None]:
        """The same with TLS."""
        return Deferred.fromCoroutine(self.prose(True))

    async def prose(self, tls: bool) -> None:
        """See L{test_prose}."""
        if tls:
            deployment = await self.deployed(standalone, tls=True)
            more: dict[str, Any] = {"tlsCAFile": deployment.ca_file}
        else:
            deployment = await self.deployed(replica_set)
            more = {}
        port = deployment.members[0].port
        names = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1"}
        guarded = await self.proxy(names=names, users={"username": "p4ssw0rd"})
        anybody = await self.proxy(names=names)
        known = {"proxyUsername": "username", "proxyPassword": "p4ssw0rd"}
        unknown = {"proxyUsername": "nonexistentuser", "proxyPassword": "badauth"}
        for proxy, login, passes in (
            (guarded, {}, False),
            (anybody, {}, True),
            (guarded, unknown, False),
            (anybody, unknown, True),
            (guarded, known, True),
        ):
            for mapped in (True, False):
                host = f"localhost:{port}" if mapped else deployment.uri.split("/")[2]
                given = {"proxyHost": "localhost", "proxyPort": proxy.port, **login}
                if mapped:
                    given["directConnection"] = "true"
                text = "&".join(f"{name}={value}" for name, value in given.items())
                for uri, options in (
                    (f"mongodb://{host}/?{text}", more),
                    (f"mongodb://{host}/", {**given, **more}),
                ):
                    seen = Addresses()
                    limit = 5000 if passes else 200
                    pool = ConnectionPool(
                        uri,
                        **options,
                        event_listeners=[seen],
                        serverSelectionTimeoutMS=limit,
                    )
                    try:
                        await pool["admin"].command("hello")
                    except ServerSelectionTimeoutError:
                        self.assertFalse(passes, uri)
                    else:
                        self.assertTrue(passes, uri)
                        # Events tell of the server, not of the proxy.
                        self.assertEqual({each[1] for each in seen.addresses}, {port})
                    finally:
                        await pool.disconnect()

    def test_replica_set(self) -> Deferred[None]:
        """Discovered members are reached by the proxy as well, and one that dies is noticed."""
        return Deferred.fromCoroutine(self.discovered())

    async def discovered(self) -> None:
        """See L{test_replica_set}."""
        deployment = await self.deployed(replica_set)
        port = deployment.members[0].port
        proxy = await self.proxy(names={"seed.invalid": "127.0.0.1", "127.0.0.1": "127.0.0.1"})
        uri = f"mongodb://seed.invalid:{port}/?replicaSet=rs0&proxyHost=127.0.0.1"
        (name,) = [part for part in deployment.uri.split("?")[1].split("&") if "replicaSet" in part]
        uri = uri.replace("replicaSet=rs0", name)
        document = await self.said(f"{uri}&proxyPort={proxy.port}")
        self.assertEqual(len(document["text"]), 200_000)
        self.assertEqual(set(proxy.asked), {("seed.invalid", port), ("127.0.0.1", port)})
