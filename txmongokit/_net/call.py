"""
What an L{txmongokit._net.executor.Executor} knows of the operations under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import bson
from bson.int64 import Int64
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txmongokit._net.observation import CommandEvent
from txmongokit._net.pool import PooledConnection
from txmongokit._net.topology import Server
from txmongokit._sansio.commands.base import Command, Request
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import AutoReconnect, PyMongoError
from txmongokit.types import Address

__all__ = ["Call", "Row"]

# How much of a transaction is sent ahead.
_IN_A_ROW = 32
_BYTES_IN_A_ROW = 16 * 1024 * 1024


class Call:
    """
    One operation on its way: what its attempts share.

    @ivar attempts: how many have failed.
    @ivar limit: how many may fail and be tried again, once a server has said
        that it is overloaded; C{None} until then.
    @ivar number: the transaction number of a retryable write.
    @ivar implicit: the session that is given back at the end.
    @ivar kept: whether the connection is kept: for the next of a row, or to
        be logged in on anew; C{renewed} once it was.
    """

    __slots__ = (
        "attempts",
        "command",
        "connection",
        "deadline",
        "deprioritized",
        "event",
        "first_error",
        "implicit",
        "kept",
        "limit",
        "number",
        "opened_transaction",
        "operation_id",
        "preference",
        "renewed",
        "sent",
        "server",
        "session",
        "shareable",
        "unacknowledged",
        "writable",
    )

    def __init__(self, command: Command[Any], session: SessionState | None) -> None:
        in_transaction = session is not None and session.in_transaction
        self.command = command
        self.session = session
        self.implicit: SessionState | None = None
        self.deadline: float | None = None
        self.number: Int64 | None = None
        self.server: Server | None = None
        self.connection: PooledConnection | None = None
        self.first_error: PyMongoError | None = None
        self.deprioritized: tuple[Address, ...] = ()
        self.preference: Any = None
        self.writable = True
        self.attempts = 0
        self.limit: float | None = None
        self.opened_transaction = False
        self.kept = False
        self.renewed = False
        self.event: CommandEvent | None = None
        self.sent = 0.0
        self.operation_id = 0
        # A command in a transaction may wait for a lock.
        self.shareable = command.shareable and not in_transaction
        self.unacknowledged = (
            command.is_write
            and not command.options.write_concern.acknowledged
            and not in_transaction
        )

    def as_event(self, request: Request) -> CommandEvent:
        """
        What is told of it when the request was sent.
        """
        connection = self.connection
        assert connection is not None
        protocol = connection.protocol
        body = {**request.body}
        for name, documents in request.sequences:
            body[name] = [bson.decode(each) for each in documents]
        return CommandEvent(
            name=next(iter(request.body)),
            database=self.command.database,
            body=body,
            request_id=protocol.exchange.last_id,
            operation_id=self.operation_id,
            address=protocol.address,
            server_connection_id=connection.info.connection_id,
            driver_connection_id=connection.number,
            command=self.command,
            service_id=connection.info.service_id,
        )

    def waits_for_nobody(self) -> bool:
        """
        Whether a point command is short on a replica set, too.
        """
        command, session = self.command, self.session
        options = command.options
        if command.is_write:
            # What the set asks for by default may be a majority.
            return not options.write_concern.is_server_default
        # A secondary may have to catch up with what the session has seen.
        return session is None or session.operation_time is None or not options.read_preference.mode


class Row:
    """
    Commands on their way, one behind the other on one connection.

    @ivar call: the command that is made, or was last looked after.
    @ivar sent: how many were sent.
    """

    def __init__(self) -> None:
        self.server: Server | None = None
        self.connection: PooledConnection | None = None
        self.call: Call | None = None
        self.waiting: deque[tuple[Call, Deferred[bytes]]] = deque()
        self.results: list[Any] = []
        self.sent = 0
        self._size = 0

    @property
    def full(self) -> bool:
        """Whether the next is better made when one of these is answered."""
        return len(self.waiting) >= _IN_A_ROW or self._size >= _BYTES_IN_A_ROW

    def put(self, call: Call, waiting: Deferred[bytes]) -> None:
        """One more was sent."""
        self.sent += 1
        self._size += call.command.size
        self.waiting.append((call, waiting))

    def take(self) -> tuple[Call, Deferred[bytes]]:
        """The first of those that are not answered."""
        self.call, waiting = self.waiting.popleft()
        self._size -= self.call.command.size
        return self.call, waiting

    def end(self, lost: Callable[[Call, BaseException], None]) -> None:
        """
        Give the connection back; closed where replies would still come.

        @param lost: told of each of those.
        """
        server, connection = self.server, self.connection
        if server is None or connection is None:
            return
        if self.waiting and not connection.protocol.closed:
            connection.protocol.abort(AutoReconnect("nobody waits for the replies any more"))
        while self.waiting:
            call, waiting = self.take()
            waiting.addErrback(_tell, lost, call)
        server.pool.operation_count -= self.sent
        server.pool.check_in(connection)


def _tell(failure: Failure, lost: Callable[[Call, BaseException], None], call: Call) -> None:
    assert failure.value is not None
    lost(call, failure.value)
