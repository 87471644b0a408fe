"""
Tests for L{txmongokit._net.srv}, with a resolver that has its records, and
with name servers in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSQueryRefusedError, DNSServerError
from twisted.trial.unittest import SynchronousTestCase

from tests.spec.units_srv import RecordedResolver
from txmongokit._net.srv import SrvPoller, SrvRecords, SrvResolver, StubResolver, name_servers
from txmongokit.errors import AutoReconnect, ConfigurationError, NetworkTimeout
from txmongokit.options import ClientOptions, SrvOptions, parse_options
from txmongokit.types import Address

NAME = "_mongodb._tcp.c.a.example"
URI = "mongodb+srv://c.a.example/"
A, B, C, D = ((f"{each}.a.example", 27017) for each in "abcd")


class FailingResolver:
    """Answers everything with what it is told."""

    def __init__(self, answer: Callable[[], Deferred[Any]]) -> None:
        self._answer = answer

    def lookupService(self, name: str) -> Deferred[Any]:
        """Look up SRV records."""
        return self._answer()

    lookupText = lookupService


class ResolveTests(SynchronousTestCase):
    """
    L{SrvResolver}.
    """

    def setUp(self) -> None:
        """A clock, and two hosts in DNS."""
        self.clock = Clock()
        self.records = RecordedResolver({NAME: [A, B]}, {}, 300)

    def resolve(self, uri: str, resolver: Any = None) -> Deferred[ClientOptions]:
        """Resolve a connection string."""
        asking = SrvResolver(self.clock, Random(1), resolver or self.records)
        return asking.resolve(parse_options(uri))

    def error(self, answer: Callable[[], Deferred[Any]], kind: type[Exception]) -> str:
        """What is said where lookups fail."""
        resolving = self.resolve(URI, FailingResolver(answer))
        return str(self.failureResultOf(resolving, kind).value)

    def test_nothing_to_resolve(self) -> None:
        """Hosts that were given are left as they are, and DNS is not asked."""
        options = self.successResultOf(self.resolve("mongodb://h"))
        self.assertEqual(options, parse_options("mongodb://h"))
        self.assertEqual(self.records.asked, [])

    def test_hosts_and_text(self) -> None:
        """SRV and TXT records complete the options."""
        self.records.texts = {"c.a.example": [(b"replicaSet=", b"rs")]}
        options = self.successResultOf(self.resolve(URI))
        self.assertEqual((options.seeds, options.replica_set), ((A, B), "rs"))
        self.assertEqual(self.records.asked, [NAME, "c.a.example"])

    def test_lazily(self) -> None:
        """Making one asks nothing."""
        SrvResolver(self.clock, Random(1), self.records)
        self.assertEqual(self.records.asked, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_international_name(self) -> None:
        """DNS is asked for a name in its own letters, and its hosts compared with it."""
        host = ("h.xn--bcher-kva.example", 1)
        self.records.services = {"_mongodb._tcp.xn--bcher-kva.example": [host]}
        options = self.successResultOf(self.resolve("mongodb+srv://B\u00fccher.example/"))
        self.assertEqual(options.seeds, (host,))
        text = 70 * "\u00fc"
        self.assertRaises(ConfigurationError, parse_options, f"mongodb+srv://{text}.example/")

    def test_no_service(self) -> None:
        """A service that is declared not to be there has no hosts (RFC 2782)."""
        self.records.services = {NAME: [("", 0)]}
        error = self.failureResultOf(self.resolve(URI), ConfigurationError).value
        self.assertIn("no SRV records", str(error))

    def test_other_records(self) -> None:
        """What else comes with an answer, as a CNAME, is left out."""

        def answer() -> Deferred[Any]:
            record = dns.Record_SRV(0, 0, 1, "h.a.example", ttl=70)
            alias = dns.RRHeader(NAME, dns.CNAME, dns.IN, 1, dns.Record_CNAME("x.example", 1))
            header = dns.RRHeader(NAME, dns.SRV, dns.IN, 70, record)
            return defer.succeed(([alias, header], [], []))

        resolver = SrvResolver(self.clock, Random(1), FailingResolver(answer))
        records = self.successResultOf(resolver.look_up(parse_options(URI)))
        self.assertEqual(records, SrvRecords((("h.a.example", 1),), 70.0))
        self.assertEqual(resolver.ttl, 70.0)

    def test_missing(self) -> None:
        """A name that DNS does not know is a mistake in the connection string."""
        text = self.error(lambda: fail(DNSNameError("?")), ConfigurationError)
        self.assertIn("c.a.example has no SRV records", text)

    def test_unavailable(self) -> None:
        """Name servers that give no answer may do so later: that is no mistake."""
        refusals = (DNSServerError("?"), DNSQueryRefusedError("?"), OSError("unreachable"))
        for refused in refusals:
            text = self.error(partial(fail, refused), AutoReconnect)
            self.assertIn(NAME, text)
            self.assertIn("check the name servers", text)
        for late in (dns.DNSQueryTimeoutError(1), defer.TimeoutError("?")):
            self.error(partial(fail, late), NetworkTimeout)

    def test_time_limit(self) -> None:
        """No lookup takes longer than a connection may."""
        for uri, limit in (
            (f"{URI}?connectTimeoutMS=3000", 3.0),
            (f"{URI}?connectTimeoutMS=0", 20),
        ):
            resolving = self.resolve(uri, FailingResolver(Deferred))
            self.clock.advance(limit - 0.1)
            self.assertNoResult(resolving)
            self.clock.advance(0.2)
            error = self.failureResultOf(resolving, NetworkTimeout).value
            self.assertIn(f"within {limit:g} s", str(error))

    def test_cancel(self) -> None:
        """Cancelling gives the lookup up."""
        given_up: list[Any] = []
        resolving = self.resolve(URI, FailingResolver(lambda: Deferred(given_up.append)))
        resolving.cancel()
        self.failureResultOf(resolving, CancelledError)
        self.assertEqual(len(given_up), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_choose(self) -> None:
        """Hosts that are in use stay; others fill up what srvMaxHosts leaves."""
        resolver = SrvResolver(self.clock, Random(1), self.records)
        for limit, current, found, kept, size in (
            (0, {A}, [A, B, C], {A}, 3),
            (0, {A, D}, [B, C], set(), 2),
            (2, {A}, [A, B, C], {A}, 2),
            (2, {A, B}, [A, B, C], {A, B}, 2),
            (2, {D}, [A, A], set(), 1),
        ):
            srv = SrvOptions("c.a.example", max_hosts=limit)
            chosen = resolver.choose(srv, current, found)
            self.assertEqual(len(chosen), size)
            self.assertEqual(len(set(chosen)), size)
            self.assertLessEqual(kept, set(chosen))
            self.assertLessEqual(set(chosen), set(found))


class PollerTests(SynchronousTestCase):
    """
    L{SrvPoller}.
    """

    def setUp(self) -> None:
        """A deployment of two hosts that may be a sharded cluster."""
        self.clock = Clock()
        self.records = RecordedResolver({NAME: [A, B]}, {}, 10)
        self.current: Collection[Address] | None = {A, B}
        self.found: list[list[Address]] = []

    def poller(self, uri: str = URI, resolver: Any = None) -> SrvPoller:
        """A poller that was started."""
        poller = SrvPoller(
            self.clock,
            SrvResolver(self.clock, Random(1), resolver or self.records),
            parse_options(uri),
            lambda: self.current,
            self.found.append,
        )
        poller.start()
        poller.start()
        self.addCleanup(poller.stop)
        return poller

    def test_interval(self) -> None:
        """The hosts are told after each interval, which is a minute where records last less."""
        self.poller()
        self.clock.advance(59.9)
        self.assertEqual(self.records.asked, [])
        self.clock.advance(0.2)
        self.assertEqual(self.found, [[A, B]])
        self.records.services = {NAME: [B, C]}
        self.clock.advance(60)
        self.assertEqual(self.found[1:], [[B, C]])

    def test_time_to_live(self) -> None:
        """Records that last longer are asked for later, the first time, too."""
        self.records.ttl = 90
        resolver = SrvResolver(self.clock, Random(1), self.records)
        self.successResultOf(resolver.resolve(parse_options(URI)))
        poller = SrvPoller(
            self.clock, resolver, parse_options(URI), lambda: self.current, self.found.append
        )
        poller.start()
        self.addCleanup(poller.stop)
        for count in (1, 2):
            self.clock.advance(89)
            self.assertEqual(len(self.found), count - 1)
            self.clock.advance(1)
            self.assertEqual(len(self.found), count)

    def test_not_wanted(self) -> None:
        """DNS is not asked while it is a replica set, or a single server."""
        self.current = None
        self.poller()
        self.clock.advance(60)
        self.clock.advance(60)
        self.assertEqual(self.records.asked, [])
        self.current = {A}
        self.clock.advance(60)
        self.assertEqual(self.found, [[A, B]])

    def test_not_wanted_any_more(self) -> None:
        """What DNS says is not told where it has become a replica set meanwhile."""
        answer: Deferred[Any] = Deferred()
        self.poller(resolver=FailingResolver(lambda: answer))
        self.clock.advance(60)
        self.current = None
        answer.callback(self.successResultOf(self.records.lookupService(NAME)))
        self.assertEqual(self.found, [])

    def test_failure(self) -> None:
        """Where DNS fails nothing changes, and it is asked at every heartbeat until it answers."""
        services, self.records.services = self.records.services, {}
        self.poller()
        self.clock.advance(60)
        self.clock.advance(10)
        self.clock.advance(10)
        self.assertEqual((len(self.records.asked), self.found), (3, []))
        self.records.services = services
        self.clock.advance(10)
        self.assertEqual(self.found, [[A, B]])
        self.clock.advance(59)
        self.assertEqual(len(self.records.asked), 4)

    def test_unavailable(self) -> None:
        """Where nobody answers, DNS is asked again at the next heartbeat."""
        asked: list[float] = []

        def refuse() -> Deferred[Any]:
            asked.append(self.clock.seconds())
            return fail(DNSServerError(0))

        self.poller(resolver=FailingResolver(refuse))
        self.clock.advance(60)
        self.clock.advance(10)
        self.assertEqual(asked, [60.0, 70.0])
        self.assertEqual(self.found, [])

    def test_foreign_hosts(self) -> None:
        """Hosts of another domain are left out; where there are no others, nothing changes."""
        self.records.services = {NAME: [("evil.example", 1), C]}
        self.poller()
        self.clock.advance(60)
        self.assertEqual(self.found, [[C]])
        self.records.services = {NAME: [("evil.example", 1)]}
        self.clock.advance(60)
        self.assertEqual(self.found, [[C]])
        self.clock.advance(10)
        self.assertEqual(len(self.records.asked), 3)

    def test_max_hosts(self) -> None:
        """C{srvMaxHosts} holds, and hosts in use stay."""
        self.current = {B}
        self.records.services = {NAME: [A, B, C]}
        self.poller(f"{URI}?srvMaxHosts=2")
        self.clock.advance(60)
        ((one, other),) = self.found
        self.assertEqual(one, B)
        self.assertIn(other, (A, C))

    def test_stop(self) -> None:
        """Nothing is left behind, neither a timer nor a lookup, and nothing is logged."""
        poller = self.poller(resolver=FailingResolver(Deferred))
        poller.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        poller.start()
        self.clock.advance(60)
        poller.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        poller.stop()

    def test_trouble(self) -> None:
        """Hosts that cannot be used are logged; the polling goes on."""
        resolver = SrvResolver(self.clock, Random(1), self.records)
        seen: list[int] = []

        def found(hosts: list[Address]) -> None:
            seen.append(len(hosts))
            raise ZeroDivisionError

        poller = SrvPoller(self.clock, resolver, parse_options(URI), lambda: {A}, found)
        poller.start()
        self.addCleanup(poller.stop)
        self.clock.advance(60)
        self.clock.advance(60)
        self.assertEqual(seen, [2, 2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_no_srv(self) -> None:
        """Hosts that were given are never looked up."""
        self.poller("mongodb://h")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Port:
    """A UDP port in memory."""

    def __init__(self, protocol: Any) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.open = True
        self.protocol = protocol
        protocol.makeConnection(self)

    def write(self, data: bytes, address: Any) -> None:
        """Send a datagram."""
        self.sent.append((data, address))

    def stopListening(self) -> None:
        """Close it."""
        self.open = False
        self.protocol.doStop()


class UDPReactor(MemoryReactorClock):
    """
    A reactor with UDP.

    @ivar ports: those that were opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []

    def listenUDP(self, number: int, protocol: Any, interface: str = "", size: int = 8192) -> Port:
        """Open a port."""
        protocol.startProtocol()
        port = Port(protocol)
        self.ports.append(port)
        return port


class StubResolverTests(SynchronousTestCase):
    """
    L{StubResolver} and L{name_servers}.
    """

    def setUp(self) -> None:
        """Two name servers."""
        self.reactor: Any = UDPReactor()
        self.resolver = StubResolver([("10.0.0.1", 53), ("10.0.0.2", 53)], 16.0, self.reactor)
        self.addCleanup(self.check_clean)

    def check_clean(self) -> None:
        """Nothing is left in the reactor."""
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual([port.open for port in self.reactor.ports if port.open], [])

    def asked(self) -> Sequence[Any]:
        """The name servers that were asked, in order."""
        return [address[0] for port in self.reactor.ports for _, address in port.sent]

    def reply(self, query: bytes, *records: Any, truncated: bool = False) -> bytes:
        """A name server's answer."""
        asked = dns.Message()
        asked.fromStr(query)
        message = dns.Message(asked.id, answer=1, trunc=int(truncated))
        message.queries = asked.queries
        for record in records:
            message.answers.append(dns.RRHeader(NAME, record.TYPE, dns.IN, 60, record))
        return message.toStr()

    def answer(self, *records: Any, truncated: bool = False) -> None:
        """Answer what was last asked."""
        port = self.reactor.ports[-1]
        data, address = port.sent[-1]
        port.protocol.datagramReceived(self.reply(data, *records, truncated=truncated), address)

    def test_answer(self) -> None:
        """The first name server's answer is taken."""
        lookup = self.resolver.lookupService(NAME)
        self.answer(dns.Record_SRV(0, 0, 1, "h.a.example"))
        answers, _, _ = self.successResultOf(lookup)
        self.assertEqual([each.payload.port for each in answers], [1])
        self.assertEqual(self.asked(), ["10.0.0.1"])

    def test_retries(self) -> None:
        """Servers are asked in turn, longer each time, all within the limit."""
        lookup = self.resolver.lookupService(NAME)
        for _ in range(31):
            self.assertNoResult(lookup)
            self.reactor.advance(0.5)
        self.assertNoResult(lookup)
        self.reactor.advance(0.5)
        self.failureResultOf(lookup, dns.DNSQueryTimeoutError)
        self.assertEqual(self.asked(), 3 * ["10.0.0.1", "10.0.0.2"])

    def test_late_server(self) -> None:
        """Where the first does not answer the second may."""
        lookup = self.resolver.lookupService(NAME)
        self.reactor.advance(1.0)
        self.answer(dns.Record_SRV(0, 0, 1, "h.a.example"))
        self.successResultOf(lookup)
        self.assertEqual(self.asked(), ["10.0.0.1", "10.0.0.2"])

    def test_cancel(self) -> None:
        """Cancelling closes the port and forgets the timers."""
        lookup = self.resolver.lookupService(NAME)
        lookup.cancel()
        self.failureResultOf(lookup, CancelledError)
        self.assertEqual(len(self.asked()), 1)

    def test_truncated(self) -> None:
        """What is too long for a datagram is asked for by TCP, and the connection closed."""
        lookup = self.resolver.lookupService(NAME)
        self.answer(truncated=True)
        ((host, port, factory, _, _),) = self.reactor.tcpClients
        self.assertEqual((host, port), ("10.0.0.1", 53))
        protocol = factory.buildProtocol(None)
        transport = self.transport(protocol)
        answer = self.reply(transport.value()[2:], dns.Record_SRV(0, 0, 1, "h.a.example"))
        protocol.dataReceived(len(answer).to_bytes(2, "big") + answer)
        answers, _, _ = self.successResultOf(lookup)
        self.assertEqual(len(answers), 1)
        self.assertTrue(transport.disconnecting or transport.disconnected)

    def test_cancel_truncated(self) -> None:
        """Cancelling closes that connection, too."""
        lookup = self.resolver.lookupService(NAME)
        self.answer(truncated=True)
        ((_, _, factory, _, _),) = self.reactor.tcpClients
        transport = self.transport(factory.buildProtocol(None))
        lookup.cancel()
        self.failureResultOf(lookup, CancelledError)
        self.assertTrue(transport.disconnecting or transport.disconnected)

    def transport(self, protocol: Any) -> Any:
        """A connection in memory."""
        transport = StringTransportWithDisconnection()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def test_name_servers(self) -> None:
        """The system's name servers, this host where it has none."""
        path = Path(self.mktemp())
        here = [("127.0.0.1", 53)]
        self.assertEqual(name_servers(str(path)), here)
        path.write_text("# nameserver 1.1.1.1\nsearch x\nnameserver\nnameserver ::1 \n")
        self.assertEqual(name_servers(str(path)), [("::1", 53)])
        path.write_text("search x\n")
        self.assertEqual(name_servers(str(path)), here)

    def test_used(self) -> None:
        """It is what asks where nobody passes a resolver, and only then."""
        resolver = SrvResolver(self.reactor, Random(1))
        self.assertEqual(self.reactor.ports, [])
        resolving = resolver.resolve(parse_options(URI))
        self.assertEqual(len(self.reactor.ports), 1)
        resolving.cancel()
        self.failureResultOf(resolving, CancelledError)
