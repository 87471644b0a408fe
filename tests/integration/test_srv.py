"""
C{mongodb+srv} over real sockets, with a name server of our own.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, maybeDeferred, succeed
from twisted.names import dns
from twisted.names.common import ResolverBase
from twisted.names.server import DNSServerFactory
from twisted.trial.unittest import TestCase

from txmongokit._net.srv import SrvResolver, StubResolver
from txmongokit.errors import ConfigurationError, NetworkTimeout
from txmongokit.options import parse_options

reactor: Any = installed_reactor
URI = "mongodb+srv://c.a.example/?connectTimeoutMS=2000"


class Records(ResolverBase):
    """
    What the name server knows: three hosts, and the set's name.
    """

    def _lookup(self, name: bytes, cls: int, kind: int, timeout: Any) -> Any:
        records: list[Any] = []
        if name == b"_mongodb._tcp.c.a.example" and kind == dns.SRV:
            records = [dns.Record_SRV(0, 0, port, b"h.a.example", ttl=77) for port in (1, 2, 3)]
        if name == b"c.a.example" and kind == dns.TXT:
            records = [dns.Record_TXT(b"replica", b"Set=rs")]
        return succeed(
            ([dns.RRHeader(name, each.TYPE, dns.IN, 77, each) for each in records], [], [])
        )


class NameServerTests(TestCase):
    """
    L{SrvResolver} with L{StubResolver}.
    """

    def resolver(self, port: int) -> SrvResolver:
        """One that asks the name server at a port of this host."""
        stub = StubResolver([("127.0.0.1", port)], 2.0, reactor)
        return SrvResolver(reactor, Random(1), stub)

    def serve(self, client: Any = None) -> int:
        """Start the name server; its port."""
        factory = DNSServerFactory(clients=[client or Records()])
        port = reactor.listenUDP(
            0, dns.DNSDatagramProtocol(factory), interface="127.0.0.1", maxPacketSize=512
        )
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def test_resolve(self) -> None:
        """Hosts and options come from DNS."""
        resolver = self.resolver(self.serve())
        options = await resolver.resolve(parse_options(URI))
        self.assertEqual(sorted(options.seeds), [("h.a.example", port) for port in (1, 2, 3)])
        self.assertEqual((options.replica_set, resolver.ttl), ("rs", 77.0))

    async def test_unknown(self) -> None:
        """A name without records is a mistake in the connection string."""
        resolver = self.resolver(self.serve())
        resolving = resolver.resolve(parse_options("mongodb+srv://other.a.example/"))
        await self.assertFailure(resolving, ConfigurationError)

    async def test_silence(self) -> None:
        """A name server that says nothing is given up in time, and nothing is left behind."""
        port = reactor.listenUDP(0, dns.DNSDatagramProtocol(None), interface="127.0.0.1")
        number = port.getHost().port
        await maybeDeferred(port.stopListening)
        resolving = self.resolver(number).resolve(
            parse_options("mongodb+srv://c.a.example/?connectTimeoutMS=300")
        )
        await self.assertFailure(resolving, NetworkTimeout)

    async def test_cancel(self) -> None:
        """Nor is anything where the lookup is cancelled."""
        resolving = self.resolver(self.serve()).resolve(parse_options(URI))
        resolving.cancel()
        await self.assertFailure(resolving, CancelledError)
