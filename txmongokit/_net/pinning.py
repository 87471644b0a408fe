"""
Which connections are kept, where a load balancer chooses the server.

Follows the load balancers and transactions specifications: all commands of a
cursor, and all of a transaction, use one connection.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from txmongokit._net.balancedpool import BalancedPool, Pin
from txmongokit._net.pool import PooledConnection
from txmongokit._net.topology import Server, Topology
from txmongokit._sansio.commands.base import Command
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import AutoReconnect, PyMongoError
from txmongokit.types import format_address

__all__ = ["Pinning"]

# CursorNotFound, QueryPlanKilled, CursorKilled.
_CURSOR_GONE = frozenset({43, 175, 237})


class Pinning:
    """
    The rules by which an executor pins and unpins.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def kept(
        self, command: Command[Any], session: SessionState | None
    ) -> tuple[Server, PooledConnection] | None:
        """
        The connection that a command must use, checked out once more;
        C{None} where any will do.

        @raise AutoReconnect: it was closed.
        """
        if session is None:
            return None
        if command.cursor_ids:
            address = command.address
            pin = Pin(session.session_id["id"], command.cursor_ids[0])
        else:
            address, pin = session.pinned_address, Pin(session.session_id["id"])
        if address is None:
            return None
        server = self._topology.server(address)
        connection = _pool(server).pinned(pin)
        if connection is None:
            what = "transaction" if pin.cursor is None else "cursor"
            raise AutoReconnect(
                f"{format_address(address)}: the connection that the {what} was bound to is "
                "closed: begin anew"
            )
        if command.name == "killCursors":
            self._unpin_cursors(server, command, session)  # Whatever comes of it.
        return server, connection

    def begun(self, server: Server, connection: PooledConnection, session: SessionState) -> None:
        """
        A transaction begins on a connection: keep it until the session lets
        go of it.
        """
        assert session.transaction is not None
        pool, pin = _pool(server), Pin(session.session_id["id"])
        pool.pin(pin, connection)
        session.transaction.on_unpinned = partial(pool.unpin, pin)

    def replied(
        self,
        server: Server,
        connection: PooledConnection,
        command: Command[Any],
        session: SessionState | None,
        cursor_id: int,
    ) -> None:
        """
        A batch has come: keep the connection for as long as there is more to
        fetch.
        """
        if session is None:
            return
        if cursor_id:
            _pool(server).pin(Pin(session.session_id["id"], cursor_id), connection)
        else:
            self._unpin_cursors(server, command, session)

    def failed(
        self,
        server: Server,
        connection: PooledConnection,
        command: Command[Any],
        session: SessionState | None,
        error: PyMongoError,
    ) -> None:
        """
        A command failed: keep no connection for a cursor that is gone.

        One whose connection was lost keeps it until the cursor is closed (load
        balancers specification), which gives an implicit session back; an
        explicit one would keep it for longer.
        """
        if session is None:
            return
        gone = getattr(error, "code", None) in _CURSOR_GONE
        if gone or (session.explicit and connection.protocol.closed):
            self._unpin_cursors(server, command, session)

    def ended(self, session_id: bytes) -> None:
        """
        A session is given back: nothing is kept for it any longer.
        """
        for server in self._topology.servers():
            _pool(server).unpin_all(session_id)

    def _unpin_cursors(self, server: Server, command: Command[Any], session: SessionState) -> None:
        for cursor_id in command.cursor_ids:
            _pool(server).unpin(Pin(session.session_id["id"], cursor_id))


def _pool(server: Server) -> BalancedPool:
    assert isinstance(server.pool, BalancedPool)
    return server.pool
