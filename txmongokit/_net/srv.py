"""
Hosts from DNS: what a C{mongodb+srv} connection string leads to.

L{SrvResolver} asks once, before the first connection (initial DNS seedlist
discovery specification); L{SrvPoller} asks again while the deployment may be
a sharded cluster (polling SRV records for mongos discovery specification).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as LookupTimeout
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.names import dns
from twisted.names.client import Resolver
from twisted.names.error import DNSNameError, DomainError, ResolverError

from txmongokit.errors import AutoReconnect, ConfigurationError, NetworkTimeout
from txmongokit.options import ClientOptions, SrvOptions, apply_srv, check_srv_host
from txmongokit.types import Address

__all__ = ["SrvPoller", "SrvRecords", "SrvResolver", "StubResolver", "name_servers"]

_RESOLV_CONF = "/etc/resolv.conf"
# PyMongo's, where connectTimeoutMS is 0.
_TIME_LIMIT = 20.0
# Polling SRV records specification.
_SHORTEST_INTERVAL = 60.0


def name_servers(path: str = _RESOLV_CONF) -> list[tuple[str, int]]:
    """
    The name servers of a C{resolv.conf}; this host where there are none.
    """
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    found.append((words[1], dns.PORT))
    except OSError:
        pass
    return found or [("127.0.0.1", dns.PORT)]


class StubResolver(Resolver):
    """
    Twisted's resolver, but cancelling a lookup leaves nothing behind in the
    reactor, and it watches no file.

    @param servers: addresses and ports to ask, in order.
    """

    # Shares of the time limit that the attempts get.
    _ATTEMPTS = (0.125, 0.25, 0.625)

    def __init__(self, servers: Sequence[tuple[str, int]], time_limit: float, reactor: Any) -> None:
        self._timeouts = [share * time_limit / len(servers) for share in self._ATTEMPTS]
        super().__init__(servers=list(servers), timeout=self._timeouts, reactor=reactor)

    def queryUDP(self, queries: Any, timeout: Any = None) -> Deferred[Any]:
        """
        See L{Resolver.queryUDP}.
        """
        return Deferred.fromCoroutine(self._ask_all(queries, timeout or self._timeouts))

    def queryTCP(self, queries: Any, timeout: float | None = None) -> Deferred[Any]:
        """
        See L{Resolver.queryTCP}: for answers that are too long for UDP.
        """
        limit = self._timeouts[-1] if timeout is None else timeout
        return Deferred.fromCoroutine(self._ask_by_tcp(self.servers[0], queries, limit))

    async def _ask_all(self, queries: Any, timeouts: Sequence[float]) -> Any:
        failed: Exception = dns.DNSQueryTimeoutError(0)
        for timeout in timeouts:
            for server in self.servers:
                try:
                    return await self._ask_by_udp(server, queries, timeout)
                except (dns.DNSQueryTimeoutError, OSError) as error:
                    failed = error
        raise failed

    async def _ask_by_udp(self, server: tuple[str, int], queries: Any, timeout: float) -> Any:
        protocol = dns.DNSDatagramProtocol(self, reactor=self._reactor)
        interface = "::" if ":" in server[0] else ""
        port = self._reactor.listenUDP(0, protocol, interface=interface)
        try:
            return await protocol.query(server, queries, timeout)
        finally:
            _forget_queries(protocol)
            await maybeDeferred(port.stopListening)

    async def _ask_by_tcp(self, server: tuple[str, int], queries: Any, timeout: float) -> Any:
        kind = TCP6ClientEndpoint if ":" in server[0] else TCP4ClientEndpoint
        endpoint = kind(self._reactor, *server, timeout=timeout)
        factory = Factory.forProtocol(lambda: dns.DNSProtocol(self, reactor=self._reactor))
        factory.noisy = False
        protocol: Any = await endpoint.connect(factory)
        try:
            return await protocol.query(queries, timeout)
        finally:
            _forget_queries(protocol)
            protocol.transport.abortConnection()


def _forget_queries(protocol: Any) -> None:
    for _, timer in protocol.liveMessages.values():
        if timer.active():
            timer.cancel()


@dataclass(frozen=True, slots=True)
class SrvRecords:
    """
    What the SRV records of a name say.

    @ivar hosts: names in lower case and ports, in the records' order.
    @ivar ttl: the shortest time, in seconds, that one of them is good for.
    """

    hosts: tuple[Address, ...]
    ttl: float


class SrvResolver:
    """
    Asks DNS what a C{mongodb+srv} connection string stands for.

    @param rng: chooses C{srvMaxHosts} of the hosts.
    @param resolver: any L{twisted.internet.interfaces.IResolver}; by default,
        on each lookup, one that asks the name servers of
        C{/etc/resolv.conf}.
    """

    def __init__(self, reactor: Any, rng: Random, resolver: Any = None) -> None:
        self._reactor = reactor
        self._rng = rng
        self._resolver = resolver
        self.ttl = 0.0
        """How long what was last looked up is good for, in seconds."""

    def resolve(self, options: ClientOptions) -> Deferred[ClientOptions]:
        """
        Look everything up that a connection string asks for.  Options without
        C{srv} are left as they are.

        @return: fires with the options completed by L{apply_srv}; fails with
            L{ConfigurationError} where the records are missing or not as
            they should be, with L{NetworkTimeout} after C{connectTimeoutMS},
            and with L{AutoReconnect} where no name server gives an answer.
            Cancelling gives the lookups up.
        """
        return Deferred.fromCoroutine(self._resolve(options))

    def look_up(self, options: ClientOptions) -> Deferred[SrvRecords]:
        """
        Look the SRV records up, only.

        @return: fires with the records, unchecked; fails and is cancelled as
            L{resolve} is.
        """
        return Deferred.fromCoroutine(self._look_up(options))

    def choose(
        self, srv: SrvOptions, current: Collection[Address], found: Sequence[Address]
    ) -> list[Address]:
        """
        The hosts to use from now on: those in use that are still named, and
        new ones, chosen at random where C{srvMaxHosts} does not allow all.
        """
        kept = [each for each in found if each in current]
        new = [each for each in dict.fromkeys(found) if each not in current]
        if srv.max_hosts:
            room = max(0, srv.max_hosts - len(kept))
            new = self._rng.sample(new, min(room, len(new)))
        return [*dict.fromkeys(kept), *new]

    async def _resolve(self, options: ClientOptions) -> ClientOptions:
        srv = options.srv
        if srv is None:
            return options
        records = await self._look_up(options)
        answers = await self._ask(options, "lookupText", srv.host)
        texts = [
            b"".join(answer.payload.data).decode("utf-8", "replace")
            for answer in answers
            if isinstance(answer.payload, dns.Record_TXT)
        ]
        return apply_srv(options, records.hosts, texts, self._rng)

    async def _look_up(self, options: ClientOptions) -> SrvRecords:
        srv = options.srv
        if srv is None:
            raise ConfigurationError("only a mongodb+srv:// connection string is resolved by DNS")
        name = f"_{srv.service_name}._tcp.{srv.host}"
        answers = await self._ask(options, "lookupService", name)
        hosts, ttls = [], []
        for answer in answers:
            if not isinstance(answer.payload, dns.Record_SRV):
                continue
            target = answer.payload.target.name.decode("ascii", "replace").rstrip(".").lower()
            # The root alone says that there is no such service (RFC 2782).
            if target:
                hosts.append((target, answer.payload.port))
                ttls.append(float(answer.ttl or 0))
        self.ttl = min(ttls, default=0.0)
        return SrvRecords(tuple(hosts), self.ttl)

    async def _ask(self, options: ClientOptions, method: str, name: str) -> Sequence[Any]:
        """The answers of one lookup, none where there is no such name."""
        limit = options.connect_timeout or _TIME_LIMIT
        resolver = self._resolver
        if resolver is None:
            resolver = StubResolver(name_servers(), limit, self._reactor)

        def too_late(result: Any, timeout: float) -> Any:
            raise NetworkTimeout(
                f"{name}: no answer from DNS within {timeout:g} s (connectTimeoutMS): check the "
                "name servers"
            )

        lookup = maybeDeferred(getattr(resolver, method), name)
        lookup.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)
        try:
            answers, _, _ = await lookup
        except DNSNameError:
            return ()
        except (dns.DNSQueryTimeoutError, LookupTimeout, TimeoutError) as error:
            raise NetworkTimeout(f"{name}: no answer from DNS: check the name servers") from error
        except (DomainError, ResolverError, ConnectError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise AutoReconnect(
                f"{name}: DNS could not be asked ({reason}): check the name servers"
            ) from error
        return answers  # type: ignore[no-any-return]


class SrvPoller:
    """
    Asks DNS for the hosts again and again, from one interval after L{start}
    until L{stop}.

    @param current: called before each lookup: the topology's hosts, C{None}
        while it is neither of unknown type nor sharded, for then nothing is
        to be looked up.
    @param found: called with the hosts to use, those of C{current} that stay
        among them, after each lookup that gave any.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        resolver: SrvResolver,
        options: ClientOptions,
        current: Callable[[], Collection[Address] | None],
        found: Callable[[list[Address]], None],
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._options = options
        self._current = current
        self._found = found
        self._timer: Any = None
        self._lookup: Deferred[None] | None = None
        self._running = False

    def start(self) -> None:
        """
        Begin; doing so twice does nothing.
        """
        if not self._running and self._options.srv is not None:
            self._running = True
            self._wait(max(_SHORTEST_INTERVAL, self._resolver.ttl))

    def stop(self) -> None:
        """
        End at once: no timer and no lookup stays behind.
        """
        self._running = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        lookup, self._lookup = self._lookup, None
        if lookup is not None:
            lookup.cancel()

    def _wait(self, interval: float) -> None:
        if self._running:
            self._timer = self._reactor.callLater(interval, self._poll)

    def _poll(self) -> None:
        self._timer = None
        lookup = Deferred.fromCoroutine(self._rescan())
        lookup.addErrback(self._failed)
        if not lookup.called:
            self._lookup = lookup

    def _failed(self, failure: Any) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("the hosts of mongodb+srv:// are no longer looked up", failure)

    async def _rescan(self) -> None:
        interval = _SHORTEST_INTERVAL
        if self._current() is not None:
            interval = await self._look_up()
        self._lookup = None
        self._wait(interval)

    async def _look_up(self) -> float:
        """Tell of new hosts; after how long to look again."""
        options, srv = self._options, self._options.srv
        assert srv is not None
        try:
            records = await self._resolver.look_up(options)
        except Exception as error:
            self._log.warn(
                "{host}: the SRV records could not be looked up: {error}",
                host=srv.host,
                error=error,
            )
            return options.heartbeat_frequency
        hosts = [each for each in records.hosts if self._is_allowed(srv, each[0])]
        # It may have become a replica set while DNS was asked.
        current = self._current()
        if not hosts:
            self._log.warn("{host}: there are no SRV records that can be used", host=srv.host)
            return options.heartbeat_frequency
        if current is not None:
            try:
                self._found(self._resolver.choose(srv, current, hosts))
            except Exception:
                self._log.failure("{host}: its new hosts could not be used", host=srv.host)
        return max(_SHORTEST_INTERVAL, records.ttl)

    def _is_allowed(self, srv: SrvOptions, host: str) -> bool:
        try:
            check_srv_host(srv, host)
        except ConfigurationError as error:
            self._log.warn("a host is not used: {error}", error=error)
            return False
        return True
