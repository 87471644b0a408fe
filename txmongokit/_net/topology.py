"""
The deployment as the monitors see it, and choosing a server in it.

The topology is the only owner of the L{TopologyDescription}; every change to
it comes from a monitor's report or from an operation's error, and passes
through the pure functions of L{txmongokit._sansio.sdam}.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from random import Random
from typing import Any, NamedTuple

from pymongo.read_preferences import ReadPreference
from pymongo.server_description import ServerDescription
from pymongo.server_type import SERVER_TYPE
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit._net.balancedpool import BalancedPool
from txmongokit._net.connector import Connector
from txmongokit._net.monitor import Monitor
from txmongokit._net.observation import Observer
from txmongokit._net.pool import USUAL_DEPTH, Origin, Pool, PoolLimits
from txmongokit._net.queue import WaitQueue
from txmongokit._net.srv import SrvPoller, SrvResolver
from txmongokit._sansio.sdam import (
    error_effect,
    initial_description,
    is_stale,
    load_balancer,
    nothing_known,
    unknown_server,
    updated_description,
    with_hosts,
)
from txmongokit._sansio.selection import choose, select_servers, selection_error
from txmongokit._sansio.transactions import newer_cluster_time
from txmongokit._sansio.wireversions import check_compatible, is_compatible
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    NetworkTimeout,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from txmongokit.options import ClientOptions
from txmongokit.types import Address, format_address
from txmongokit.wire import MongoProtocol

__all__ = ["Server", "Topology"]

_PRIMARY = ReadPreference.PRIMARY


class Server:
    """
    One server: its pool and its monitor.
    """

    __slots__ = ("address", "monitor", "pool")

    def __init__(self, address: Address, pool: Pool, monitor: Monitor) -> None:
        self.address = address
        self.pool = pool
        self.monitor = monitor


class _Wish(NamedTuple):
    """What a server is to be selected for."""

    writable: bool
    read_preference: Any
    deprioritized: tuple[Address, ...]
    address: Address | None = None


class Topology:
    """
    All servers of one deployment.

    @ivar description: the current L{TopologyDescription}.
    @ivar cluster_time: the latest C{$clusterTime} that any reply carried.
    @ivar standalone: whether it is a single server without replication.
    @ivar balanced: whether a load balancer stands before it, known from the
        start on.
    @ivar on_balanced: called as soon as that is known.

    @param observer: told of whatever changes.
    @param resolver: asks DNS about a C{mongodb+srv} connection string.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        options: ClientOptions,
        connector: Connector,
        observer: Observer,
        random: Random,
        resolver: SrvResolver | None = None,
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._connector = connector
        self._observer = observer
        self._random = random
        self._resolver = resolver or SrvResolver(reactor, random)
        self._resolving: Deferred[None] | None = None
        self._unresolved: Exception | None = None
        self._poller: SrvPoller | None = None
        self._servers: dict[Address, Server] = {}
        self._waiters: WaitQueue[Server] = WaitQueue(reactor)
        self._primary: Server | None = None
        self._single_secondary = False
        self._upkeep: LoopingCall | None = None
        self._closed = False
        self.cluster_time: Mapping[str, Any] | None = None
        self.standalone = False
        self.balanced = False
        self.on_balanced: Callable[[], None] | None = None
        self.description: TopologyDescription = initial_description(options)

    def start(self) -> None:
        """
        Begin to watch the seeds.  Doing so twice does nothing.

        @raise InvalidOperation: the client was closed.
        @raise ConfigurationError: a file that the C{tls*} options name cannot
            be used.
        @raise PyMongoError: it is known at once that DNS has no answer.
        """
        if self._closed:
            raise InvalidOperation("this client was closed: make a new one")
        if self._upkeep is not None or self._resolving is not None:
            return
        if self._options.srv is None:
            self._begin()
            return
        self._unresolved = None
        resolving = self._resolver.resolve(self._options)
        self._resolving = told = resolving.addCallback(self._resolved)
        told.addErrback(self._not_resolved)
        if told.called:
            self._resolving = None
            if self._unresolved is not None:
                raise self._unresolved

    def _resolved(self, options: ClientOptions) -> None:
        self._resolving = None
        self._options = options
        self._connector.resolved(options)
        self.description = initial_description(options)
        self._begin()
        if options.load_balanced:
            return  # Its one host is for ever.
        self._poller = SrvPoller(
            self._reactor, self._resolver, options, self._polled_hosts, self._found_hosts
        )
        self._poller.start()

    def _not_resolved(self, failure: Failure) -> None:
        self._resolving = None
        error = failure.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, PyMongoError):
            self._log.failure("DNS could not be asked", failure)
            error = AutoReconnect(f"DNS could not be asked: {error}")
        kind, text = type(error), str(error)
        self._unresolved = error
        self._waiters.fail_all(lambda: kind(text))

    def _polled_hosts(self) -> Collection[Address] | None:
        """The hosts, where DNS may name others."""
        if self.description.topology_type in (TOPOLOGY_TYPE.Unknown, TOPOLOGY_TYPE.Sharded):
            return list(self.description.server_descriptions())
        return None

    def _found_hosts(self, hosts: list[Address]) -> None:
        before = self.description
        if set(hosts) == set(before.server_descriptions()):
            return
        self.description = with_hosts(before, hosts, self._options)
        self._match_servers()
        self._observer.topology_changed(before, self.description)
        self._serve()

    def _begin(self) -> None:
        self._connector.prepare()
        self._observer.topology_opened()
        self._observer.topology_changed(nothing_known(self._options), self.description)
        self._upkeep = upkeep = LoopingCall(self._maintain)
        upkeep.clock = self._reactor
        upkeep.start(self._options.heartbeat_frequency, now=False).addErrback(
            lambda failure: self._log.failure("upkeep of the pools stopped", failure)
        )
        self.balanced = self._options.load_balanced
        if self.balanced and self.on_balanced is not None:
            self.on_balanced()
        self._match_servers()
        if self.balanced:
            for server in self.servers():
                self._update(load_balancer(server.address))
                server.pool.resume()

    def close(self) -> None:
        """
        Stop watching, close every connection; whoever waits fails.
        """
        if self._closed:
            return
        self._closed = True
        self._waiters.fail_all(lambda: AutoReconnect("the client was closed"))
        if self._resolving is not None:
            self._resolving.cancel()
        if self._poller is not None:
            self._poller.stop()
        if self._upkeep is None:
            return
        if self._upkeep.running:
            self._upkeep.stop()
        servers, self._servers = self._servers, {}
        self._primary = None
        for server in servers.values():
            server.monitor.stop()
            server.pool.close(interrupt_in_use=True)
            self._observer.server_closed(server.address)
        before, self.description = self.description, nothing_known(self._options)
        self._observer.topology_changed(before, self.description)
        self._observer.topology_closed()

    @property
    def has_servers(self) -> bool:
        """
        Whether any server is known to be there.
        """
        return not self._closed and self.description.has_known_servers

    # Selection.

    def server(self, address: Address) -> Server:
        """
        The server at an address, for what must go there and nowhere else.

        @raise AutoReconnect: it is not part of the deployment any more.
        """
        try:
            return self._servers[address]
        except KeyError:
            raise AutoReconnect(
                f"{format_address(address)} is no longer part of the deployment"
            ) from None

    def select_now(
        self, writable: bool, read_preference: Any, deprioritized: tuple[Address, ...] = ()
    ) -> Server | None:
        """
        A suitable server, or C{None} where none is known yet.

        @raise AutoReconnect: the client was closed.
        @raise ConfigurationError: a server's version is not supported.
        """
        if self._primary is not None and (
            writable or read_preference is _PRIMARY or read_preference == _PRIMARY
        ):
            return self._primary
        if self._closed:
            raise AutoReconnect("the client was closed")
        candidates = select_servers(
            self.description,
            writable=writable,
            read_preference=read_preference,
            local_threshold=self._options.local_threshold,
            deprioritized=deprioritized,
            custom=self._options.server_selector,
        )
        if not candidates:
            return None
        chosen = choose(candidates, self._operation_count, self._random)
        return self._servers[chosen.address]

    def select(
        self,
        writable: bool,
        read_preference: Any,
        timeout: float,
        deprioritized: tuple[Address, ...] = (),
    ) -> Deferred[Server]:
        """
        A suitable server, as soon as one is known.

        @param timeout: seconds to wait at the most.
        @param deprioritized: servers to avoid where others will do.

        @return: fails with L{ServerSelectionTimeoutError}, which says what
            is known of each server, and at once with L{ConfigurationError}
            where one's version is not supported.  Cancelling leaves the queue.
        """
        try:
            server = self.select_now(writable, read_preference, deprioritized)
        except PyMongoError:
            return fail()
        if server is not None:
            return succeed(server)
        return self._wait(_Wish(writable, read_preference, deprioritized), timeout)

    def select_at(self, address: Address, timeout: float) -> Deferred[Server]:
        """
        The server at an address, as soon as it is known.

        @param timeout: seconds to wait at the most.

        @return: fails as L{select} does, and with L{AutoReconnect} where it is
            not part of the deployment any more.  Cancelling leaves the queue.
        """
        try:
            server = self._known(address)
        except PyMongoError:
            return fail()
        if server is not None:
            return succeed(server)
        return self._wait(_Wish(True, _PRIMARY, (), address), timeout)

    def _known(self, address: Address) -> Server | None:
        server = self.server(address)
        if server.pool.ready:
            return server
        check_compatible(self.description)
        return None

    def _wait(self, wish: _Wish, timeout: float) -> Deferred[Server]:
        waiting = self._waiters.join(timeout, partial(self._too_late, wish, timeout), wish)
        for each in self._servers.values():
            each.monitor.request_check()
        return waiting

    @property
    def single_secondary(self) -> bool:
        """
        Whether this is a direct connection to a member that is no primary.
        """
        return self._single_secondary

    def renew_connections(self) -> None:
        """
        Have every connection made anew, as with other credentials.
        """
        for server in self.servers():
            server.pool.renew()

    def servers(self) -> list[Server]:
        """
        All servers.
        """
        return list(self._servers.values())

    def _operation_count(self, address: Address) -> int:
        return self._servers[address].pool.operation_count

    def _too_late(self, wish: _Wish, timeout: float) -> ServerSelectionTimeoutError:
        what = f"a server for {wish.read_preference}"
        if wish.writable or wish.read_preference == _PRIMARY:
            what = "a primary" if wish.address is None else format_address(wish.address)
        return ServerSelectionTimeoutError(
            f"no answer from {what} within {timeout:g} s: {selection_error(self.description, what)}"
        )

    # What monitors and operations tell.

    def gossip(self, cluster_time: Mapping[str, Any]) -> None:
        """
        Keep the latest C{$clusterTime}.
        """
        self.cluster_time = newer_cluster_time(self.cluster_time, cluster_time)

    def report(self, description: ServerDescription) -> None:
        """
        A monitor has seen a server, or failed to.
        """
        server = self._servers.get(description.address)
        if self._closed or server is None:
            return
        previous = self.description.server_descriptions().get(description.address)
        if previous is not None and is_stale(previous, description):
            return
        if is_compatible(description) and (
            description.is_readable
            or (
                description.is_server_type_known
                and self.description.topology_type == TOPOLOGY_TYPE.Single
            )
        ):
            server.pool.resume()
        self._update(description)
        if description.error is not None:
            server.pool.clear(
                description.error,
                interrupt_in_use=isinstance(description.error, NetworkTimeout),
            )

    def reauthenticate(self, protocol: MongoProtocol) -> Deferred[None]:
        """
        See L{Connector.reauthenticate}.
        """
        return self._connector.reauthenticate(protocol)

    def operation_failed(
        self,
        server: Server,
        error: Exception,
        generation: int,
        *,
        handshaken: bool = True,
        service_id: Any = None,
    ) -> None:
        """
        An operation, or a connection's establishment, failed.

        @param generation: of the connection that it used; errors of an
            older one tell nothing new.
        @param service_id: of the service that it led to, where a load
            balancer chose one and it is known.
        """
        pool = server.pool
        if self._closed or generation != pool.generation_of(service_id):
            return
        description = self.description.server_descriptions().get(server.address)
        if description is None:
            return
        effect = error_effect(error, server_description=description, handshaken=handshaken)
        if isinstance(pool, BalancedPool):
            # Nothing is ever said of the load balancer itself.
            if effect.clear_pool and service_id is not None:
                pool.clear_service(service_id, error)
            return
        if effect.mark_unknown:
            self._update(unknown_server(server.address, error))
        if effect.clear_pool:
            server.pool.clear(error)
        if effect.cancel_check:
            server.monitor.cancel_check()
        if effect.request_check:
            server.monitor.request_check()

    def _update(self, description: ServerDescription) -> None:
        before = self.description
        known = before.server_descriptions().get(description.address)
        self.description = updated_description(before, description)
        self._tell_changes(before, known, description)
        self._match_servers()
        self._serve()

    def _tell_changes(
        self,
        before: TopologyDescription,
        known: ServerDescription | None,
        description: ServerDescription,
    ) -> None:
        if known is None or known == description:
            return
        self._observer.server_changed(known, description)
        # The servers that this adds and removes are told of first.
        self._match_servers()
        after = self.description
        self._observer.topology_changed(before, after)
        if before.topology_type_name != after.topology_type_name:
            self._log.debug(
                "deployment is {after} (was {before})",
                before=before.topology_type_name,
                after=after.topology_type_name,
            )

    def _find_primary(self) -> None:
        self._primary = None
        self._single_secondary = self.description.topology_type == TOPOLOGY_TYPE.Single and any(
            server.server_type in (SERVER_TYPE.RSSecondary, SERVER_TYPE.RSOther)
            for server in self.description.server_descriptions().values()
        )
        self.standalone = any(
            server.server_type == SERVER_TYPE.Standalone
            for server in self.description.server_descriptions().values()
        )
        try:
            candidates = select_servers(
                self.description,
                writable=True,
                read_preference=_PRIMARY,
                local_threshold=self._options.local_threshold,
                custom=self._options.server_selector,
            )
        except ConfigurationError:
            return  # Selecting raises it again, where somebody hears it.
        # Several writable servers (mongos) are chosen from at each use.
        self._primary = self._servers.get(candidates[0].address) if len(candidates) == 1 else None

    def _serve(self) -> None:
        for waiting in self._waiters:
            wish = waiting.wants
            try:
                if wish.address is None:
                    server = self.select_now(*wish[:3])
                else:
                    server = self._known(wish.address)
            except PyMongoError:
                if self._waiters.leave(waiting):
                    waiting.deferred.errback()
                continue
            if server is not None and self._waiters.leave(waiting):
                waiting.deferred.callback(server)
        if self._waiters:
            # They go on asking (server-selection specification).
            for each in list(self._servers.values()):
                each.monitor.request_check()

    def _match_servers(self) -> None:
        """Have exactly one L{Server} for each address in the description."""
        wanted = self.description.server_descriptions()
        gone = [self._servers.pop(each) for each in list(self._servers) if each not in wanted]
        new = [address for address in wanted if address not in self._servers]
        self._servers.update((address, self._new_server(address)) for address in new)
        self._find_primary()
        # Only now, for those whose operations this ends may try again at once.
        for server in gone:
            self._observer.server_closed(server.address)
            server.monitor.stop()
            server.pool.close()
        for address in new:
            # Starting one may already have changed what is wanted.
            added = self._servers.get(address)
            if added is not None:
                self._observer.server_opening(address)
                added.pool.open(_pool_options(self._options))
                if not self.balanced:
                    added.monitor.start()

    def _new_server(self, address: Address) -> Server:
        options = self._options
        pool = self._new_pool(address)
        monitor = Monitor(
            self._reactor,
            address,
            self._connector,
            self.report,
            heartbeat=options.heartbeat_frequency,
            min_heartbeat=options.min_heartbeat,
            timeout=options.connect_timeout,
            observer=self._observer,
            mode=options.server_monitoring_mode,
            server_api=options.server_api,
        )
        return Server(address, pool, monitor)

    def _new_pool(self, address: Address) -> Pool:
        options = self._options
        depth = 1 if self.balanced else options.connection_sharing or USUAL_DEPTH
        limits = PoolLimits(
            options.max_pool_size,
            options.min_pool_size,
            options.max_idle_time,
            options.max_connecting,
            depth,
            _queue_size(options),
        )
        failed = self._establishment_failed(address)
        if not self.balanced:
            return Pool(
                self._reactor,
                address,
                lambda origin: self._connector.connect(address),
                failed,
                self._observer,
                limits,
            )

        def connect(origin: Origin) -> Deferred[MongoProtocol]:
            found = partial(pool.found_service, origin)
            return self._connector.connect(address, on_service=found)

        pool = BalancedPool(self._reactor, address, connect, failed, self._observer, limits)
        return pool

    def _establishment_failed(self, address: Address) -> Callable[[Exception, Origin], None]:
        def failed(error: Exception, origin: Origin) -> None:
            server = self._servers.get(address)
            if server is not None:
                self.operation_failed(
                    server,
                    error,
                    origin.generation,
                    handshaken=False,
                    service_id=origin.service_id,
                )

        return failed

    def _maintain(self) -> None:
        for server in list(self._servers.values()):
            server.pool.maintain()


def _queue_size(options: ClientOptions) -> int | None:
    """The shorter of the two queues that the options may allow."""
    sizes = []
    if options.wait_queue_size is not None:
        sizes.append(options.wait_queue_size)
    if options.wait_queue_multiple is not None and options.max_pool_size:
        sizes.append(options.wait_queue_multiple * options.max_pool_size)
    return min(sizes, default=None)


def _pool_options(options: ClientOptions) -> dict[str, Any]:
    """What of a pool is not as the specification has it by default."""
    usual = ClientOptions(())
    given: dict[str, Any] = {}
    for name, unit, key in _POOL_OPTIONS:
        value = getattr(options, name)
        if value != getattr(usual, name) and value is not None:
            given[key] = int(value * unit)
    return given


_POOL_OPTIONS = (
    ("max_pool_size", 1, "maxPoolSize"),
    ("min_pool_size", 1, "minPoolSize"),
    ("max_idle_time", 1000, "maxIdleTimeMS"),
    ("wait_queue_timeout", 1000, "waitQueueTimeoutMS"),
    ("wait_queue_size", 1, "waitQueueSize"),
    ("wait_queue_multiple", 1, "waitQueueMultiple"),
    ("max_connecting", 1, "maxConnecting"),
)
