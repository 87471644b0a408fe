"""
Which connections are kept, where a load balancer chooses the server.

Follows the load balancers and transactions specifications: all commands of a
cursor, and all of a transaction, use one connection.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from txmongokit._net.balancedpool import BalancedPool, Pin
from txmongokit._net.pool import PooledConnection
from txmongokit._net.topology import Server, Topology
from txmongokit._sansio.commands.base import Command, CursorBatch
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import AutoReconnect, PyMongoError
from txmongokit.types import format_address

__all__ = ["Pinning"]

# CursorNotFound, QueryPlanKilled, CursorKilled.
_CURSOR_GONE = frozenset({43, 175, 237})


class Running(Protocol):
    """
    An operation on its way, as an executor has it.
    """

    command: Command[Any]
    session: SessionState | None
    server: Server | None
    connection: PooledConnection | None


class Pinning:
    """
    The rules by which an executor pins and unpins.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def kept(self, call: Running) -> tuple[Server, PooledConnection] | None:
        """
        The connection that a command must use, checked out once more;
        C{None} where any will do.

        @raise AutoReconnect: it was closed.
        """
        command, session = call.command, call.session
        if session is None:
            return None
        if command.cursor_ids:
            address = command.address
            pin = Pin(session.session_id["id"], command.cursor_ids[0])
        else:
            address, pin = session.pinned_address, Pin(session.session_id["id"])
        if address is None:
            return None
        call.server = server = self._topology.server(address)
        connection = _pool(call).pinned(pin)
        if connection is None:
            what = "transaction" if pin.cursor is None else "cursor"
            raise AutoReconnect(
                f"{format_address(address)}: the connection that the {what} was bound to is "
                "closed: begin anew"
            )
        if command.name == "killCursors":
            _unpin_cursors(call)  # Whatever comes of it.
        return server, connection

    def begun(self, call: Running) -> None:
        """
        A transaction begins: keep its connection until the session lets go of
        it.
        """
        session, connection = call.session, call.connection
        assert session is not None
        assert session.transaction is not None
        assert connection is not None
        pool, pin = _pool(call), Pin(session.session_id["id"])
        pool.pin(pin, connection)
        session.transaction.on_unpinned = partial(pool.unpin, pin)

    def replied(self, call: Running, result: Any) -> Any:
        """
        A reply has come: keep its cursor's connection for as long as there is
        more to fetch.

        @return: the result, which tells of that.
        """
        session, connection = call.session, call.connection
        if not isinstance(result, CursorBatch) or session is None:
            return result
        if not result.cursor_id:
            _unpin_cursors(call)
            return result
        assert connection is not None
        _pool(call).pin(Pin(session.session_id["id"], result.cursor_id), connection)
        return result._replace(pinned=True)

    def failed(self, call: Running, error: PyMongoError) -> None:
        """
        A command failed: keep no connection for a cursor that is gone.

        One whose connection was lost keeps it until the cursor is closed (load
        balancers specification), which gives an implicit session back; an
        explicit one would keep it for longer.
        """
        session, connection = call.session, call.connection
        if session is None:
            return
        assert connection is not None
        gone = getattr(error, "code", None) in _CURSOR_GONE
        if gone or (session.explicit and connection.protocol.closed):
            _unpin_cursors(call)

    def ended(self, session_id: bytes) -> None:
        """
        A session is given back: nothing is kept for it any longer.
        """
        for server in self._topology.servers():
            assert isinstance(server.pool, BalancedPool)
            server.pool.unpin_all(session_id)


def _pool(call: Running) -> BalancedPool:
    assert call.server is not None
    assert isinstance(call.server.pool, BalancedPool)
    return call.server.pool


def _unpin_cursors(call: Running) -> None:
    assert call.session is not None
    for cursor_id in call.command.cursor_ids:
        _pool(call).unpin(Pin(call.session.session_id["id"], cursor_id))
