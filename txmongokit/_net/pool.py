"""
The connections to one server.

Follows the connection-monitoring-and-pooling specification: a check-out is
exclusive, a pool is paused until its server was seen, clearing it makes every
older connection useless.  One deviation from it is ours: point commands may
share a connection, so that many of them need few sockets and few system
calls (see L{Pool.try_check_out}).

The pool is the only owner of its state; it asks the connector for
connections and never looks into them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from pymongo.monitoring import ConnectionCheckOutFailedReason, ConnectionClosedReason
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from txmongokit._net.observation import Observer
from txmongokit._net.queue import WaitQueue
from txmongokit._pymongo import discreet
from txmongokit.errors import AutoReconnect, OperationFailure, PyMongoError, WaitQueueTimeoutError
from txmongokit.types import Address, format_address
from txmongokit.wire import MongoProtocol

__all__ = ["USUAL_DEPTH", "Origin", "Pool", "PoolLimits", "PoolStatistics", "PooledConnection"]

USUAL_DEPTH = 16
"""How many point commands share a connection where nobody says otherwise."""

# Nobody joins a shared connection on which nothing came for as long (seconds):
# what is at its head is not as short as it should be.
_STALLED = 0.25

# How long (seconds) a connection that nobody uses waits for its late replies.
_LINGERING = 30.0


class PoolLimits(NamedTuple):
    """
    How large a pool may get.

    @ivar max_size: the most connections, established and pending together;
        0 for no limit.
    @ivar min_size: how many are kept.
    @ivar max_idle_time: seconds after which an unused one is closed, or
        C{None}.
    @ivar max_connecting: how many are established at the same time.
    @ivar depth: how many point commands share a connection; 1 for none.
    @ivar queue: how many may wait for a connection, C{None} for any number.
    """

    max_size: int = 100
    min_size: int = 0
    max_idle_time: float | None = None
    max_connecting: int = 2
    depth: int = 1
    queue: int | None = None


class PoolStatistics(NamedTuple):
    """
    How a pool stands.

    @ivar idle: connections that wait for work.
    @ivar in_use: connections that are checked out.
    @ivar pending: connections being established.
    @ivar waiting: check-outs in the queue.
    """

    idle: int
    in_use: int
    pending: int
    waiting: int


class PooledConnection:
    """
    A connection and what the pool knows of it.

    @ivar number: 1 for the pool's first, 2 for the second.
    @ivar load: how many have checked it out.
    @ivar shared: whether it was checked out for sharing.
    @ivar tainted: a reply is to come that nobody waits for, so nobody new
        joins.
    @ivar heard: when it was last checked out or in.
    """

    __slots__ = (
        "generation",
        "heard",
        "info",
        "joinable",
        "load",
        "number",
        "protocol",
        "shared",
        "tainted",
    )

    def __init__(self, protocol: MongoProtocol, generation: int, number: int) -> None:
        assert protocol.info is not None
        self.protocol = protocol
        self.info = protocol.info
        self.generation = generation
        self.number = number
        self.heard = 0.0
        self.load = 0
        self.shared = False
        self.tainted = False
        self.joinable = False


class Origin:
    """
    Where a connection comes from that is being established.

    @ivar generation: of the pool, or of the service, that it belongs to.
    @ivar service_id: of the service behind a load balancer, once it is known.
    """

    __slots__ = ("generation", "service_id")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.service_id: Any = None


class Pool:
    """
    One server's connections.

    @param connect: makes a connection that is ready for commands.
    @param failed: told of each failure to establish one, with where it came
        from.
    @param observer: told of whatever happens.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: Address,
        connect: Callable[[Origin], Deferred[MongoProtocol]],
        failed: Callable[[Exception, Origin], None],
        observer: Observer,
        limits: PoolLimits,
    ) -> None:
        self.address = address
        self.generation = 0
        self.operation_count = 0
        self._reactor = reactor
        self._connect = connect
        self._failed = failed
        self._observer = observer
        self._observed = observer.pools
        self._limits = limits
        self._idle: list[PooledConnection] = []
        self._in_use: set[PooledConnection] = set()
        # Shared ones that have room, next to be joined first.
        self._joinable: deque[PooledConnection] = deque()
        self._pending: dict[Deferred[Any], int] = {}
        self._waiters: WaitQueue[PooledConnection] = WaitQueue(reactor)
        self._last_number = 0
        self._serving = False
        self._filling = False
        self._paused_by: Exception | None = AutoReconnect(
            f"{format_address(address)}: not connected yet"
        )
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "paused" if self._paused_by else "ready"
        counts = self.statistics()
        return (
            f"<Pool {format_address(self.address)} {state} generation={self.generation} "
            f"idle={counts.idle} in_use={counts.in_use} pending={counts.pending} "
            f"waiting={counts.waiting}>"
        )

    def statistics(self) -> PoolStatistics:
        """
        Counts of connections and waiters.
        """
        return PoolStatistics(
            len(self._idle), len(self._in_use), len(self._pending), len(self._waiters)
        )

    # Checking out and in.

    def try_check_out(self, shareable: bool = False) -> PooledConnection | None:
        """
        A connection at once, or C{None}: then L{check_out} waits.

        @param shareable: whether what is to be sent is so short that it may
            queue up behind others of its kind: then, where no connection is
            idle, one that others of its kind use will do.
        """
        if self._paused_by is not None:
            return None
        if self._waiters and not (shareable and len(self._waiters) <= len(self._pending)):
            # First come, first served, unless each who waits has a connection coming.
            return None
        connection = self._take(shareable)
        if connection is not None and self._observed:
            self._observer.check_out_started(self.address)
            self._observer.checked_out(self.address, connection.number, 0.0)
        return connection

    def check_out(self, timeout: float | None, shareable: bool = False) -> Deferred[Any]:
        """
        A connection for the caller alone, or as L{try_check_out} says; to be
        given back by L{check_in}.

        @param timeout: seconds to wait at the most.

        @return: fires with the connection; fails with
            L{WaitQueueTimeoutError} when the time is over or the queue is
            full, with
            L{AutoReconnect} while the pool is paused or when it is cleared,
            and with what a connection could not be established for.
            Cancelling leaves the queue; a connection that is being
            established still enters the pool.
        """
        started = self._reactor.seconds()
        if self._observed:
            self._observer.check_out_started(self.address)
        if self._paused_by is not None:
            waiting: Deferred[Any] = fail(self._refusal())
        else:
            connection = None if self._waiters else self._take(shareable)
            if connection is not None:
                waiting = succeed(connection)
            elif self._limits.queue is not None and len(self._waiters) >= self._limits.queue:
                waiting = fail(self._no_room())
            else:
                waiting = self._waiters.join(timeout, lambda: self._too_late(timeout), shareable)
                self._fill()
        if self._observed:
            waiting.addCallbacks(
                self._report_checked_out,
                self._report_failure,
                callbackArgs=(started,),
                errbackArgs=(started,),
            )
        return waiting

    def check_in(self, connection: PooledConnection) -> None:
        """
        Give a connection back.  One that is closed, stale or not idle is
        closed when nobody uses it any more.
        """
        if self._observed:
            self._observer.checked_in(self.address, connection.number)
        connection.load -= 1
        connection.heard = self._reactor.seconds()
        if connection.load:
            self._offer_room(connection)
            return
        if connection.tainted and self._valid(connection):
            return  # Until its late replies have come: see _drained.
        self._put_back(connection)

    # What monitoring tells.

    def open(self, options: dict[str, Any]) -> None:
        """
        Say that there is a pool.

        @param options: the C{maxPoolSize} and so on that are not the
            specification's defaults.
        """
        self._observer.pool_created(self.address, options)

    @property
    def ready(self) -> bool:
        """
        Whether connections may be checked out.
        """
        return self._paused_by is None

    def resume(self) -> None:
        """
        The server was seen: connections may be established.
        """
        if self._closed or self._paused_by is None:
            return
        self._paused_by = None
        self._observer.pool_ready(self.address)
        self.maintain()

    def clear(self, cause: Exception, *, interrupt_in_use: bool = False) -> None:
        """
        Every connection made so far is useless; pause until L{resume}.

        @param cause: why; the waiting check-outs fail with its text.
        @param interrupt_in_use: also abort what is checked out, for
            servers that do not answer any more.
        """
        if self._closed:
            return
        self.generation += 1
        paused_already = self._paused_by is not None
        self._paused_by = cause
        if not paused_already:
            self._observer.pool_cleared(self.address, interrupt_in_use, cause=cause)
        if interrupt_in_use:
            for pending in list(self._pending):
                pending.cancel()
        self._waiters.fail_all(self._refusal)
        idle, self._idle = self._idle, []
        for connection in idle:
            self._discard(connection, ConnectionClosedReason.STALE)
        if interrupt_in_use:
            for connection in list(self._in_use):
                connection.protocol.abort(self._refusal())

    def renew(self) -> None:
        """
        Replace every connection as soon as nobody uses it; whoever waits
        waits on.
        """
        self.generation += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            self._discard(connection, ConnectionClosedReason.STALE)
        self._fill()

    def close(self, *, interrupt_in_use: bool = False) -> None:
        """
        Close all connections; waiting check-outs fail.

        @param interrupt_in_use: also abort what is checked out, which is
            otherwise closed when it is checked in.
        """
        if self._closed:
            return
        self._closed = True
        self._paused_by = AutoReconnect(
            f"{format_address(self.address)}: the pool of connections was closed"
        )
        self._waiters.fail_all(self._refusal)
        for pending in list(self._pending):
            pending.cancel()
        idle, self._idle = self._idle, []
        for connection in idle:
            self._discard(connection, ConnectionClosedReason.POOL_CLOSED)
        for connection in list(self._in_use):
            if interrupt_in_use or not connection.load:
                connection.protocol.abort(self._refusal())
        self._observer.pool_closed(self.address)

    def maintain(self) -> None:
        """
        Close what idled too long, and establish up to the minimum size.
        """
        if self._paused_by is not None:
            return
        fresh = []
        for connection in self._idle:
            if self._usable(connection):
                fresh.append(connection)
            else:
                self._discard(connection)
        self._idle = fresh
        too_long_ago = self._reactor.seconds() - _LINGERING
        for connection in list(self._in_use):
            if not connection.load and connection.heard < too_long_ago:
                self._in_use.discard(connection)
                self._discard(connection, ConnectionClosedReason.ERROR)
        self._fill()

    # Inner workings.

    def _total(self) -> int:
        return len(self._idle) + len(self._in_use) + len(self._pending)

    def generation_of(self, service_id: Any) -> int:
        """
        The generation of what is established now, to one of the services.
        """
        return self.generation

    def _valid(self, connection: PooledConnection) -> bool:
        return connection.generation == self.generation and not (
            self._closed or connection.protocol.closed
        )

    def _usable(self, connection: PooledConnection) -> bool:
        if connection.generation != self.generation or not connection.protocol.idle:
            return False
        limit = self._limits.max_idle_time
        return limit is None or self._reactor.seconds() - connection.heard <= limit

    def _take(self, shareable: bool) -> PooledConnection | None:
        """An idle connection, or one with room."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if self._usable(connection):
                self._hand_out(connection, shareable)
                return connection
            self._discard(connection)
        if shareable and self._joinable:
            return self._join()
        return None

    def _hand_out(self, connection: PooledConnection, shareable: bool) -> None:
        self._in_use.add(connection)
        connection.load = 1
        connection.shared = shareable and self._limits.depth > 1
        if connection.shared:
            connection.heard = self._reactor.seconds()
            self._offer_room(connection)

    def _offer_room(self, connection: PooledConnection) -> None:
        """Let others join, those who wait first."""
        if (
            connection.joinable
            or not connection.shared
            or connection.tainted
            or not self._valid(connection)
        ):
            return
        connection.joinable = True
        self._joinable.append(connection)
        if self._waiters:
            self._serve()

    def _join(self) -> PooledConnection | None:
        """One of the shared connections that have room, each in its turn."""
        joinable = self._joinable
        depth = self._limits.depth
        stalled = self._reactor.seconds() - _STALLED
        while joinable:
            connection = joinable[0]
            if (
                0 < connection.load < depth
                and connection.heard >= stalled
                and connection.shared
                and not connection.tainted
                and self._valid(connection)
            ):
                connection.load += 1
                joinable.rotate(-1)
                return connection
            connection.joinable = False
            joinable.popleft()
        return None

    def abandoned(self, connection: PooledConnection) -> None:
        """
        Whoever gives this shared connection back next no longer waits for
        the reply: until it has come, nobody new joins.
        """
        connection.tainted = True

    def _drained(self, connection: PooledConnection) -> None:
        """Its late replies have come."""
        if not connection.tainted:
            return
        connection.tainted = False
        if connection.load:
            self._offer_room(connection)
        else:
            self._put_back(connection)

    def _put_back(self, connection: PooledConnection) -> None:
        self._in_use.discard(connection)
        if not self._usable(connection) or self._closed:
            self._discard(connection)
            self._fill()
            return
        self._idle.append(connection)
        if self._waiters:
            self._serve()

    def _discard(self, connection: PooledConnection, reason: str | None = None) -> None:
        """Close what is nobody's any more."""
        protocol = connection.protocol
        if reason is None:
            reason = self._why_useless(connection)
        connection.tainted = False
        if self._observed:
            self._observer.connection_closed(self.address, connection.number, reason)
        if not protocol.closed:
            # Aborted rather than closed: a late reply may keep it busy for ever.
            protocol.abort(
                AutoReconnect(f"{format_address(self.address)}: connection left the pool")
            )

    def _why_useless(self, connection: PooledConnection) -> str:
        if self._closed:
            return ConnectionClosedReason.POOL_CLOSED
        if connection.protocol.closed or not connection.protocol.idle:
            return ConnectionClosedReason.ERROR
        if connection.generation != self.generation_of(connection.info.service_id):
            return ConnectionClosedReason.STALE
        return ConnectionClosedReason.IDLE

    def _refusal(self) -> PyMongoError:
        cause = self._paused_by
        text = str(cause)
        if isinstance(cause, OperationFailure):
            # A refused log-in is one for everybody who waits for it.
            return discreet(OperationFailure(text, cause.code, cause.details), text)
        where = format_address(self.address)
        return AutoReconnect(text if text.startswith(where) else f"{where}: {text}")

    def _serve(self) -> None:
        """Give connections to those who wait, in their order."""
        if self._serving:
            return  # What was given may have come back at once.
        self._serving = True
        try:
            while (first := self._waiters.peek()) is not None and self._paused_by is None:
                connection = self._take(first.wants)
                if connection is None:
                    break
                self._waiters.leave(first)
                first.deferred.callback(connection)
        finally:
            self._serving = False
        self._fill()

    def _wanted(self) -> int:
        """How many more connections those who wait could use, 2 at the most."""
        limit = self._limits.max_connecting
        depth = self._limits.depth
        alone = together = 0
        for shareable in self._waiters.wishes():
            if shareable:
                together += 1
            else:
                alone += 1
            if alone + -(-together // depth) >= limit:
                return limit
        return alone + -(-together // depth)

    def _fill(self) -> None:
        """Establish as many connections as are needed and limits allow."""
        if self._filling:
            return  # An attempt ended at once.
        self._filling = True
        try:
            while self._may_establish():
                self._establish()
        finally:
            self._filling = False

    def _may_establish(self) -> bool:
        limits = self._limits
        if self._paused_by is not None or len(self._pending) >= limits.max_connecting:
            return False
        total = self._total()
        if limits.max_size and total >= limits.max_size:
            return False
        return total < limits.min_size or len(self._pending) < self._wanted()

    def _establish(self) -> None:
        origin = Origin(self.generation)
        self._last_number = number = self._last_number + 1
        started = self._reactor.seconds()
        self._observer.connection_created(self.address, number)
        attempt = self._connect(origin)
        self._pending[attempt] = number

        def made(protocol: MongoProtocol) -> None:
            del self._pending[attempt]
            connection = PooledConnection(protocol, origin.generation, number)
            connection.heard = now = self._reactor.seconds()
            tell_connector = protocol.on_lost

            def lost(reason: Exception) -> None:
                if tell_connector is not None:
                    tell_connector(reason)
                self._lost(connection)

            protocol.on_lost = lost
            protocol.on_drained = lambda: self._drained(connection)
            if not self._valid(connection):
                self._discard(connection)
            else:
                self._observer.connection_ready(self.address, number, now - started)
                self._idle.append(connection)
            self._serve()

        def failed(failure: Failure) -> None:
            del self._pending[attempt]
            error: Any = failure.value
            if self._closed:
                reason = ConnectionClosedReason.POOL_CLOSED
            elif origin.generation != self.generation_of(origin.service_id):
                reason = ConnectionClosedReason.STALE
            else:
                reason = ConnectionClosedReason.ERROR
            if self._closed or isinstance(error, CancelledError):
                self._observer.connection_closed(self.address, number, reason, error)
                self._fill()
                return
            # The one that has waited longest learns the reason; the others
            # are failed by clear() or tried again.
            waiting = self._waiters.first()
            # Told after the topology, for it may try again at once.
            self._failed(error, origin)
            self._observer.connection_closed(self.address, number, reason, error)
            if waiting is not None:
                waiting.errback(failure)
                self._fill()

        attempt.addCallbacks(made, failed)

    def _lost(self, connection: PooledConnection) -> None:
        if connection.load:
            return  # Whoever has it learns from its request, then checks it in.
        if connection in self._in_use:
            self._put_back(connection)
        elif connection in self._idle:
            self._idle.remove(connection)
            self._discard(connection, ConnectionClosedReason.ERROR)
            self._fill()

    def _report_checked_out(self, connection: PooledConnection, started: float) -> PooledConnection:
        elapsed = self._reactor.seconds() - started
        self._observer.checked_out(self.address, connection.number, elapsed)
        return connection

    def _report_failure(self, failure: Failure, started: float) -> Failure:
        if self._closed:
            reason = ConnectionCheckOutFailedReason.POOL_CLOSED
        elif failure.check(WaitQueueTimeoutError, CancelledError) is not None:
            reason = ConnectionCheckOutFailedReason.TIMEOUT
        else:
            reason = ConnectionCheckOutFailedReason.CONN_ERROR
        elapsed = self._reactor.seconds() - started
        self._observer.check_out_failed(self.address, reason, elapsed, failure.value)
        return failure

    def _no_room(self) -> WaitQueueTimeoutError:
        return WaitQueueTimeoutError(
            f"{format_address(self.address)}: {len(self._waiters)} wait for a connection already: "
            "raise waitQueueSize or maxPoolSize"
        )

    def _too_late(self, timeout: float | None) -> WaitQueueTimeoutError:
        counts = self.statistics()
        return WaitQueueTimeoutError(
            f"{format_address(self.address)}: no connection was free within {timeout:g} s "
            f"({counts.in_use} in use, {counts.pending} being made, limit "
            f"{self._limits.max_size or 'none'}): raise maxPoolSize or waitQueueTimeoutMS"
        )
