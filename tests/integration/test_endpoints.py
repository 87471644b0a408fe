"""
Every way to a server: names, IPv4, IPv6, Unix sockets, endpoints of the user's.
"""

from __future__ import annotations

import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote_plus

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.protocols.portforward import ProxyFactory
from twisted.trial.unittest import SkipTest, TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.testing import standalone


class EndpointTests(TestCase):
    """One server, and forwarders to it where it does not listen itself."""

    timeout = 60

    def setUp(self) -> None:
        """Start the server."""
        deployment = standalone()
        self.addCleanup(deployment.close)
        self.port = deployment.members[0].port

    async def forward(self, endpoint: IStreamServerEndpoint) -> Any:
        """Listen, and hand everything on to the server."""
        listening = await endpoint.listen(ProxyFactory("127.0.0.1", self.port))
        self.addCleanup(listening.stopListening)
        return listening

    async def ping(self, uri: str, **options: Any) -> Any:
        """The client, when it has reached the server."""
        pool = ConnectionPool(uri, serverSelectionTimeoutMS=5000, **options)
        try:
            await pool["admin"].command("ping")
        finally:
            await pool.disconnect()

    def test_names(self) -> Deferred[None]:
        """
        A name with several addresses, at most one of which is listened on:
        C{localhost} is often C{::1}, too.
        """
        return Deferred.fromCoroutine(self.ping(f"mongodb://localhost:{self.port}"))

    def test_ipv6(self) -> Deferred[None]:
        """A literal IPv6 address."""
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError as error:
            raise SkipTest(f"this machine has no IPv6: {error}") from error
        return Deferred.fromCoroutine(self.ipv6())

    async def ipv6(self) -> None:
        """See L{test_ipv6}."""
        listening = await self.forward(TCP6ServerEndpoint(reactor, 0, interface="::1"))
        await self.ping(f"mongodb://[::1]:{listening.getHost().port}/?directConnection=true")

    def test_unix_socket(self) -> Deferred[None]:
        """The path of a Unix socket, escaped."""
        return Deferred.fromCoroutine(self.unix_socket())

    async def unix_socket(self) -> None:
        """See L{test_unix_socket}."""
        # Trial's own folders may be too deep for a socket's name.
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "mongodb-27017.sock"
        await self.forward(UNIXServerEndpoint(reactor, str(path)))
        await self.ping(f"mongodb://{quote_plus(str(path))}/?directConnection=true")

    def test_endpoint_factory(self) -> Deferred[None]:
        """A user's endpoint is asked for each connection, by host and port."""
        return Deferred.fromCoroutine(self.endpoint_factory())

    async def endpoint_factory(self) -> None:
        """See L{test_endpoint_factory}."""
        asked: set[tuple[str, int | None]] = set()

        def endpoint(reactor: Any, host: str, port: int | None) -> TCP4ClientEndpoint:
            asked.add((host, port))
            return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)

        await self.ping("mongodb://db.example:1", endpoint_factory=endpoint)
        self.assertEqual(asked, {("db.example", 1)})
