"""
Running commands: the only place where one is sent, judged and retried.

Follows the retryable-reads, retryable-writes, sessions and server-selection
specifications.
"""

from __future__ import annotations

from typing import Any, TypeVar

import bson
from bson.int64 import Int64
from pymongo.server_type import SERVER_TYPE
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred

from txmongokit._net.pool import PooledConnection
from txmongokit._net.topology import Server, Topology
from txmongokit._pymongo import (
    RETRYABLE_CODES,
    add_error_label,
    raise_command_error,
)
from txmongokit._sansio.commands.base import Command, RunCommand
from txmongokit._sansio.transactions import (
    ServerSessionPool,
    SessionState,
    newer_cluster_time,
)
from txmongokit.errors import (
    AutoReconnect,
    ConnectionFailure,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from txmongokit.options import ClientOptions
from txmongokit.types import Address, format_address

__all__ = ["Executor"]

ResultT = TypeVar("ResultT")

_DEFAULT_WRITE_CONCERN = WriteConcern()
_SESSION_ENDING = frozenset({"endSessions", "killSessions"})
_TRANSACTION_ENDING = frozenset({"commitTransaction", "abortTransaction"})


class Executor:
    """
    Runs commands on a topology.

    @param sessions: where implicit sessions come from.
    """

    def __init__(
        self, reactor: Any, options: ClientOptions, topology: Topology, sessions: ServerSessionPool
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._topology = topology
        self._sessions = sessions

    def run(
        self, command: Command[ResultT], session: SessionState | None = None
    ) -> Deferred[ResultT]:
        """
        See L{txmongokit.interfaces.IOperationRunner.run}.
        """
        return Deferred.fromCoroutine(self._run(command, session))

    def take_session(self, **options: Any) -> SessionState:
        """
        See L{txmongokit.interfaces.IOperationRunner.take_session}.
        """
        server_session = self._sessions.take(self._reactor.seconds(), self._session_timeout())
        return SessionState(server_session, **options)

    def release_session(self, session: SessionState) -> None:
        """
        See L{txmongokit.interfaces.IOperationRunner.release_session}.
        """
        server_session, session.server_session = session.server_session, None
        if server_session is not None:
            self._sessions.give_back(
                server_session, self._reactor.seconds(), self._session_timeout()
            )

    def _session_timeout(self) -> int | None:
        return self._topology.description.logical_session_timeout_minutes

    async def _run(self, command: Command[ResultT], session: SessionState | None) -> ResultT:
        call = _Call(command, session)
        timeout = command.options.timeout
        if timeout is None:
            timeout = self._options.timeout
        if timeout is not None:
            call.deadline = self._reactor.seconds() + timeout
        implicit = None
        if session is None and command.name not in _SESSION_ENDING:
            call.session = implicit = self.take_session()
        try:
            while True:
                try:
                    result: ResultT = await self._attempt(call)
                    return result
                except PyMongoError as error:
                    self._failed(call, error)
        except CancelledError:
            # What was sent may still run, and nobody else may be in its session.
            state = call.session
            if call.connection is not None and state is not None and state.server_session:
                state.server_session.dirty = True
            raise
        finally:
            if implicit is not None:
                self.release_session(implicit)

    def _failed(self, call: _Call, error: PyMongoError) -> None:
        """Judge a failure: return to try again, raise to give up."""
        server, connection = call.server, call.connection
        if server is not None and connection is not None:
            self._topology.operation_failed(server, error, connection.generation)
        if call.number is not None:
            _label_retryable_write(error)
        if call.session is not None:
            call.session.failed(call.command, error)
        first = call.first_error
        if first is not None:
            if isinstance(
                error, (ServerSelectionTimeoutError, NoConnectionError)
            ) or error.has_error_label("NoWritesPerformed"):
                # That no second try was possible is not what went wrong.
                raise first from error
            raise error
        if not self._may_retry(call) or not _worth_retrying(call.command, error):
            raise error
        if call.deadline is not None and self._reactor.seconds() >= call.deadline:
            raise error
        call.first_error = error
        if server is not None:
            call.deprioritized = (server.address,)
        call.command.retrying()

    def _may_retry(self, call: _Call) -> bool:
        command, session = call.command, call.session
        if not command.retryable:
            return False
        if command.name in _TRANSACTION_ENDING:
            return True
        if session is None or session.in_transaction:
            return False
        if not command.is_write:
            return self._options.retry_reads
        connection = call.connection
        # A standalone server has no transaction numbers.  Whoever else was no
        # primary when the connection was made may have become one.
        return self._options.retry_writes and (
            connection is None or connection.info.server_type != SERVER_TYPE.Standalone
        )

    # A server and a connection.

    def _remaining(self, deadline: float | None, otherwise: float) -> float:
        if deadline is None:
            return otherwise
        left: float = deadline - self._reactor.seconds()
        return max(0.0, min(otherwise, left))

    def _select_now(self, call: _Call) -> Server | None:
        command, session = call.command, call.session
        if command.address is not None:
            return self._topology.server(command.address)
        call.preference = command.options.read_preference
        call.writable = not (command.is_read or command.follows_read_preference)
        if session is not None and session.in_transaction and session.transaction is not None:
            call.preference = session.transaction.read_preference
        return self._topology.select_now(call.writable, call.preference, call.deprioritized)

    async def _acquire(self, call: _Call) -> PooledConnection:
        """Wait for a server, then for one of its connections."""
        server = call.server
        if server is None:
            server = call.server = await self._topology.select(
                call.writable,
                call.preference,
                self._remaining(call.deadline, self._options.server_selection_timeout),
            )
        try:
            return await server.pool.check_out(
                self._remaining(call.deadline, self._options.wait_queue_timeout)
            )
        except AutoReconnect as error:
            raise NoConnectionError(str(error)) from error

    # One request and its reply.

    def _body(self, call: _Call, body: dict[str, Any]) -> bytes:
        """The encoded command with everything that it carries besides its own fields."""
        command, session = call.command, call.session
        options = command.options
        body["$db"] = command.database
        if command.is_read and options.read_concern.level is not None:
            body["readConcern"] = options.read_concern.document
        if command.is_write and options.write_concern != _DEFAULT_WRITE_CONCERN:
            body["writeConcern"] = options.write_concern.document
        if call.deadline is not None:
            self._add_time_limit(call, body)
        cluster_time = self._topology.cluster_time
        if session is not None and not call.unacknowledged:
            session.apply(command, body, self._reactor.seconds())
            if command.is_write and command.name not in _TRANSACTION_ENDING:
                if call.number is None and self._may_retry(call):
                    call.number = session.next_transaction_number()
                if call.number is not None:
                    body["txnNumber"] = call.number
            cluster_time = newer_cluster_time(cluster_time, session.cluster_time)
        if cluster_time is not None:
            body["$clusterTime"] = cluster_time
        if command.is_read or command.follows_read_preference:
            self._add_read_preference(body, call.preference)
        if self._options.server_api is not None:
            _add_server_api(body, self._options.server_api)
        encoded = bson.encode(body, False, options.codec_options)
        if session is not None:
            session.sent()
        return encoded

    def _add_time_limit(self, call: _Call, body: dict[str, Any]) -> None:
        assert call.deadline is not None
        left = call.deadline - self._reactor.seconds()
        if left <= 0:
            raise NetworkTimeout(f"no time was left to send {call.command.name or 'the command'}")
        if call.command.name != "getMore" and "maxTimeMS" not in body:
            body["maxTimeMS"] = max(1, int(left * 1000))

    def _add_read_preference(self, body: dict[str, Any], preference: Any) -> None:
        if preference is not None and preference.mode:
            body["$readPreference"] = preference.document
        elif self._topology.single_secondary:
            # A direct connection to a secondary must be told that reading
            # there is meant (server-selection specification, topology Single).
            body["$readPreference"] = {"mode": "primaryPreferred"}

    async def _attempt(self, call: _Call) -> Any:
        """Send the command once; what its reply means."""
        command = call.command
        call.connection = None
        server = call.server = self._select_now(call)
        connection = server.pool.try_check_out() if server is not None else None
        if connection is None:
            connection = await self._acquire(call)
            server = call.server
        assert server is not None
        call.connection = connection
        pool = server.pool
        pool.operation_count += 1
        try:
            request = command.build(connection.info)
            encoded = self._body(call, request.body)
            if call.unacknowledged:
                connection.protocol.send(encoded, request.sequences)
                return command.unacknowledged()
            waiting = connection.protocol.request(encoded, request.sequences)
            if call.deadline is not None or self._options.socket_timeout:
                self._limit(call, waiting)
            try:
                raw = await waiting
            except (CancelledError, NetworkTimeout):
                # Closing tells the server that nobody waits for the reply.
                connection.protocol.abort(AutoReconnect("nobody waits for the reply any more"))
                raise
        finally:
            pool.operation_count -= 1
            pool.check_in(connection)
        return self._result(call, command.decode(raw), connection)

    def _result(self, call: _Call, reply: dict[str, Any], connection: PooledConnection) -> Any:
        command, session = call.command, call.session
        cluster_time = reply.get("$clusterTime")
        if cluster_time is not None:
            self._topology.gossip(cluster_time)
        if session is not None:
            session.observe(reply)
        info = connection.info
        if not reply.get("ok") and not (
            isinstance(command, RunCommand) and command.tolerates(reply)
        ):
            raise_command_error(reply, info.max_wire_version)
        return command.parse(reply, info)

    def _limit(self, call: _Call, waiting: Deferred[bytes]) -> None:
        limit = self._options.socket_timeout or float("inf")
        if call.deadline is not None:
            limit = self._remaining(call.deadline, limit)
        connection = call.connection
        assert connection is not None
        where = format_address(connection.protocol.address)

        def too_late(result: Any, timeout: float) -> Any:
            raise NetworkTimeout(f"{where}: no reply within {timeout:g} s")

        waiting.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)


class _Call:
    """One operation on its way: what its attempts share."""

    __slots__ = (
        "command",
        "connection",
        "deadline",
        "deprioritized",
        "first_error",
        "number",
        "preference",
        "server",
        "session",
        "writable",
    )

    def __init__(self, command: Command[Any], session: SessionState | None) -> None:
        self.command = command
        self.session = session
        self.deadline: float | None = None
        self.number: Int64 | None = None
        self.server: Server | None = None
        self.connection: PooledConnection | None = None
        self.first_error: PyMongoError | None = None
        self.deprioritized: tuple[Address, ...] = ()
        self.preference: Any = None
        self.writable = True

    @property
    def unacknowledged(self) -> bool:
        """Whether the server is not to reply."""
        command, session = self.command, self.session
        if not command.is_write or command.options.write_concern.acknowledged:
            return False
        return session is None or not session.in_transaction


def _worth_retrying(command: Command[Any], error: PyMongoError) -> bool:
    if isinstance(error, (ServerSelectionTimeoutError, WaitQueueTimeoutError)):
        return False
    if isinstance(error, NoConnectionError):
        return True
    if command.is_write or command.name in _TRANSACTION_ENDING:
        return error.has_error_label("RetryableWriteError") or (
            command.name in _TRANSACTION_ENDING and isinstance(error, ConnectionFailure)
        )
    if isinstance(error, ConnectionFailure):
        return True
    return isinstance(error, OperationFailure) and error.code in RETRYABLE_CODES


class NoConnectionError(AutoReconnect):
    """
    The pool had no connection to give: nothing was sent.
    """


def _label_retryable_write(error: PyMongoError) -> None:
    network = isinstance(error, ConnectionFailure) and not isinstance(
        error, (ServerSelectionTimeoutError, WaitQueueTimeoutError, NotPrimaryError)
    )
    if network and not error.has_error_label("RetryableWriteError"):
        add_error_label(error, "RetryableWriteError")


def _add_server_api(body: dict[str, Any], server_api: Any) -> None:
    body["apiVersion"] = server_api.version
    if server_api.strict is not None:
        body["apiStrict"] = server_api.strict
    if server_api.deprecation_errors is not None:
        body["apiDeprecationErrors"] = server_api.deprecation_errors
