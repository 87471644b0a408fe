"""
The connections through a load balancer.

Follows the load balancers specification.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pymongo.monitoring import ConnectionClosedReason

from txmongokit._net.pool import Origin, Pool, PooledConnection
from txmongokit.errors import WaitQueueTimeoutError

__all__ = ["BalancedPool", "Pin"]


class Pin(NamedTuple):
    """
    What keeps a connection: a session's transaction, or its cursor of that
    number.
    """

    session: bytes
    cursor: int | None = None


class BalancedPool(Pool):
    """
    The connections through a load balancer, each to a service of its choice.

    It is never paused; a service's connections become useless without the
    others'; cursors and transactions keep their connection.  Nothing is
    shared: two point commands would find that no other service is used.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # How often connections to a service have become useless.
        self._cleared: dict[Any, int] = {}
        self._kept: dict[Pin, PooledConnection] = {}
        # The pins of a connection count together as one who has it checked out.
        self._pins: dict[PooledConnection, set[Pin]] = {}

    # Generations.

    def generation_of(self, service_id: Any) -> int:
        """
        See L{Pool.generation_of}.
        """
        return self.generation + self._cleared.get(service_id, 0)

    def found_service(self, origin: Origin, service_id: Any) -> None:
        """
        C{hello} has told which service a new connection leads to.
        """
        origin.service_id = service_id
        origin.generation = self.generation_of(service_id)

    def clear_service(self, service_id: Any, cause: Exception) -> None:
        """
        Every connection made so far to one service is useless.

        @param cause: why, for the log.
        """
        if self._closed:
            return
        self._cleared[service_id] = self._cleared.get(service_id, 0) + 1
        self._observer.pool_cleared(self.address, service_id=service_id, cause=cause)
        useless = [each for each in self._idle if each.info.service_id == service_id]
        self._idle = [each for each in self._idle if each.info.service_id != service_id]
        for connection in useless:
            self._discard(connection, ConnectionClosedReason.STALE)
        self._fill()

    def _valid(self, connection: PooledConnection) -> bool:
        return connection.generation == self.generation_of(connection.info.service_id) and not (
            self._closed or connection.protocol.closed
        )

    def _usable(self, connection: PooledConnection) -> bool:
        if not (self._valid(connection) and connection.protocol.idle):
            return False
        limit = self._limits.max_idle_time
        return limit is None or self._reactor.seconds() - connection.heard <= limit

    # Pins.

    def pin(self, pin: Pin, connection: PooledConnection) -> None:
        """
        Keep a connection, which is checked out, beyond its check-in.
        """
        if pin in self._kept or connection.protocol.closed:
            return
        pins = self._pins.setdefault(connection, set())
        if not pins:
            connection.load += 1
        pins.add(pin)
        self._kept[pin] = connection

    def pinned(self, pin: Pin) -> PooledConnection | None:
        """
        Have a kept connection once more, to be given back by L{check_in}.

        @return: C{None} where it was closed, or never was there.
        """
        connection = self._kept.get(pin)
        if connection is None:
            return None
        if connection.protocol.closed:
            self.unpin(pin)
            return None
        connection.load += 1
        return connection

    def unpin(self, pin: Pin) -> None:
        """
        Keep a connection no longer on this account.
        """
        connection = self._kept.pop(pin, None)
        if connection is None:
            return
        pins = self._pins[connection]
        pins.discard(pin)
        if not pins:
            del self._pins[connection]
            self.check_in(connection)

    def unpin_all(self, session: bytes) -> None:
        """
        Keep no connection any longer on a session's account.
        """
        for pin in [each for each in self._kept if each.session == session]:
            self.unpin(pin)

    def check_in(self, connection: PooledConnection) -> None:
        """
        Give a connection back, or leave it to whoever else has it: only the
        last who does so is told of.
        """
        if connection.load > 1:
            connection.load -= 1
            connection.heard = self._reactor.seconds()
            return
        super().check_in(connection)

    def close(self, *, interrupt_in_use: bool = False) -> None:
        """
        See L{Pool.close}.  What only pins keep is closed, too.
        """
        super().close(interrupt_in_use=interrupt_in_use)
        for pin in list(self._kept):
            self.unpin(pin)

    def _too_late(self, timeout: float | None) -> WaitQueueTimeoutError:
        transactions = sum(any(pin.cursor is None for pin in pins) for pins in self._pins.values())
        cursors = len(self._pins) - transactions
        others = len(self._in_use) - len(self._pins)
        # The specification's own words.
        return WaitQueueTimeoutError(
            "Timeout waiting for connection from the connection pool. maxPoolSize: "
            f"{self._limits.max_size}, connections in use by cursors: {cursors}, connections "
            f"in use by transactions: {transactions}, connections in use by other "
            f"operations: {others}"
        )
