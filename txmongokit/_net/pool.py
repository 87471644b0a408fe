"""
The connections to one server.

Follows the connection-monitoring-and-pooling specification: a check-out is
exclusive, a pool is paused until its server was seen, clearing it makes every
older connection useless.  The pool is the only owner of its state; it asks
the connector for connections and never looks into them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from txmongokit._net.queue import WaitQueue
from txmongokit.errors import AutoReconnect, WaitQueueTimeoutError
from txmongokit.protocol import MongoProtocol
from txmongokit.types import Address, format_address

__all__ = ["Pool", "PoolStatistics", "PooledConnection"]


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
    """

    __slots__ = ("generation", "idle_since", "info", "protocol")

    def __init__(self, protocol: MongoProtocol, generation: int) -> None:
        assert protocol.info is not None
        self.protocol = protocol
        self.info = protocol.info
        self.generation = generation
        self.idle_since = 0.0


class Pool:
    """
    One server's connections.

    @param connect: makes a connection that is ready for commands.
    @param failed: told of each failure to establish one, with the
        generation it belonged to.
    @param max_size: the most connections, established and pending together;
        0 for no limit.
    @param min_size: how many L{maintain} keeps.
    @param max_idle_time: seconds after which an unused one is closed, or
        C{None}.
    @param max_connecting: how many are established at the same time.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: Address,
        connect: Callable[[], Deferred[MongoProtocol]],
        failed: Callable[[Exception, int], None],
        *,
        max_size: int = 100,
        min_size: int = 0,
        max_idle_time: float | None = None,
        max_connecting: int = 2,
    ) -> None:
        self.address = address
        self.generation = 0
        self.operation_count = 0
        self._reactor = reactor
        self._connect = connect
        self._failed = failed
        self._max_size = max_size
        self._min_size = min_size
        self._max_idle_time = max_idle_time
        self._max_connecting = max_connecting
        self._idle: list[PooledConnection] = []
        self._in_use: set[PooledConnection] = set()
        self._pending: set[Deferred[Any]] = set()
        self._waiters: WaitQueue[PooledConnection] = WaitQueue(reactor)
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

    def try_check_out(self) -> PooledConnection | None:
        """
        An idle connection at once, or C{None}: then L{check_out} waits.
        """
        if self._paused_by is not None or self._waiters:
            return None
        idle = self._idle
        while idle:
            connection = idle.pop()
            if self._usable(connection):
                self._in_use.add(connection)
                return connection
            self._discard(connection)
        return None

    def check_out(self, timeout: float | None) -> Deferred[PooledConnection]:
        """
        A connection for the caller alone, to be given back by L{check_in}.

        @param timeout: seconds to wait at the most.

        @return: fires with the connection; fails with
            L{WaitQueueTimeoutError} when the time is over, and with
            L{AutoReconnect} while the pool is paused or when it is cleared.
            Cancelling leaves the queue; a connection that is being
            established still enters the pool.
        """
        connection = self.try_check_out()
        if connection is not None:
            return succeed(connection)
        if self._paused_by is not None:
            return fail(self._refusal())
        waiting = self._waiters.join(timeout, partial(self._too_late, timeout))
        self._fill()
        return waiting

    def check_in(self, connection: PooledConnection) -> None:
        """
        Give a connection back.  One that is closed, stale or not idle is
        closed instead.
        """
        self._in_use.discard(connection)
        if not self._usable(connection):
            self._discard(connection)
            self._fill()
            return
        connection.idle_since = self._reactor.seconds()
        self._offer(connection)

    # What monitoring tells.

    @property
    def ready(self) -> bool:
        """
        Whether connections may be checked out.
        """
        return self._paused_by is None and not self._closed

    def resume(self) -> None:
        """
        The server was seen: connections may be established.
        """
        if self._closed:
            return
        self._paused_by = None
        self._fill()

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
        self._paused_by = cause
        self._waiters.fail_all(self._refusal)
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.protocol.close()
        if interrupt_in_use:
            for connection in list(self._in_use):
                connection.protocol.abort(self._refusal())

    def close(self) -> None:
        """
        Close all connections; what is checked out is aborted, waiting
        check-outs fail.
        """
        self._closed = True
        self._paused_by = AutoReconnect(f"{format_address(self.address)}: the client was closed")
        self._waiters.fail_all(self._refusal)
        for pending in list(self._pending):
            pending.cancel()
        for connection in (*self._idle, *self._in_use):
            connection.protocol.abort(self._refusal())
        self._idle.clear()
        self._in_use.clear()

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
        while self._total() < self._min_size and len(self._pending) < self._max_connecting:
            self._establish()

    # Inner workings.

    def _total(self) -> int:
        return len(self._idle) + len(self._in_use) + len(self._pending)

    def _usable(self, connection: PooledConnection) -> bool:
        protocol = connection.protocol
        if protocol.closed or not protocol.idle or connection.generation != self.generation:
            return False
        limit = self._max_idle_time
        return (
            limit is None
            or not connection.idle_since
            or self._reactor.seconds() - connection.idle_since <= limit
        )

    def _discard(self, connection: PooledConnection) -> None:
        # Aborted rather than closed: a late reply may keep it busy for ever.
        if not connection.protocol.closed:
            connection.protocol.abort(
                AutoReconnect(f"{format_address(self.address)}: connection left the pool")
            )

    def _refusal(self) -> AutoReconnect:
        where = format_address(self.address)
        text = str(self._paused_by)
        return AutoReconnect(text if text.startswith(where) else f"{where}: {text}")

    def _offer(self, connection: PooledConnection) -> None:
        waiting = self._waiters.first()
        if waiting is None:
            self._idle.append(connection)
        else:
            self._in_use.add(connection)
            waiting.callback(connection)

    def _fill(self) -> None:
        """Establish as many connections as the waiters need and limits allow."""
        while (
            self._paused_by is None
            and len(self._pending) < min(self._max_connecting, len(self._waiters))
            and (not self._max_size or self._total() < self._max_size)
        ):
            self._establish()

    def _establish(self) -> None:
        generation = self.generation
        attempt = self._connect()
        self._pending.add(attempt)

        def made(protocol: MongoProtocol) -> None:
            self._pending.discard(attempt)
            connection = PooledConnection(protocol, generation)
            tell_connector = protocol.on_lost

            def lost(reason: Exception) -> None:
                if tell_connector is not None:
                    tell_connector(reason)
                self._lost(connection)

            protocol.on_lost = lost
            if self._closed or protocol.closed or generation != self.generation:
                self._discard(connection)
            else:
                self._offer(connection)
            self._fill()

        def failed(failure: Failure) -> None:
            self._pending.discard(attempt)
            error: Any = failure.value
            if self._closed or isinstance(error, CancelledError):
                return
            # The one that has waited longest learns the reason; the others
            # are failed by clear() or tried again.
            waiting = self._waiters.first()
            # Told after the topology, for it may try again at once.
            self._failed(error, generation)
            if waiting is not None:
                waiting.errback(failure)
            self._fill()

        attempt.addCallbacks(made, failed)

    def _lost(self, connection: PooledConnection) -> None:
        if connection in self._in_use:
            return  # Whoever has it learns from its request, then checks it in.
        try:
            self._idle.remove(connection)
        except ValueError:
            return
        self._fill()

    def _too_late(self, timeout: float | None) -> WaitQueueTimeoutError:
        counts = self.statistics()
        return WaitQueueTimeoutError(
            f"{format_address(self.address)}: no connection was free within {timeout:g} s "
            f"({counts.in_use} in use, {counts.pending} being made, limit "
            f"{self._max_size or 'none'}): raise maxPoolSize or waitQueueTimeoutMS"
        )
