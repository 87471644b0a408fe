"""
Running commands: the only place where one is sent, judged and retried.

Follows the retryable-reads, retryable-writes, client-backpressure, sessions,
server-selection and client-side-operations-timeout specifications.

The first attempt of a command for which a server is known and a connection is
free is plain calls and callbacks; whatever waits or fails goes on as a
coroutine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NoReturn, TypeVar

import bson
from pymongo.server_type import SERVER_TYPE
from pymongo.topology_description import TOPOLOGY_TYPE
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txmongokit._net.call import Call, Row
from txmongokit._net.observation import Observer
from txmongokit._net.pinning import Pinning
from txmongokit._net.pool import PooledConnection
from txmongokit._net.topology import Server, Topology
from txmongokit._pymongo import add_error_label, raise_command_error, timeout_context
from txmongokit._sansio.commands.base import (
    CREDENTIAL_COMMANDS,
    GREETINGS,
    Command,
    CommandOptions,
    Request,
    RunCommand,
)
from txmongokit._sansio.handshake import api_declaration
from txmongokit._sansio.retries import (
    TRANSACTION_ENDING,
    backoff,
    is_overload,
    is_worth_retrying,
    label_retryable_write,
)
from txmongokit._sansio.transactions import (
    TRANSIENT,
    ServerSession,
    ServerSessionPool,
    SessionState,
    TransactionState,
    newer_cluster_time,
)
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    time_exceeded,
)
from txmongokit.options import ClientOptions
from txmongokit.types import format_address

__all__ = ["Executor"]

ResultT = TypeVar("ResultT")

_DEFAULT_WRITE_CONCERN = WriteConcern()
# A session's deadline overrides what its commands inherit.
_ANY_TIME = CommandOptions()
_SESSION_ENDING = frozenset({"endSessions", "killSessions"})
_NEVER_COMPRESSED = CREDENTIAL_COMMANDS | GREETINGS
_MAX_TIME_MS_EXPIRED = 50
_REAUTHENTICATION_REQUIRED = 391


class Executor:
    """
    Runs commands on a topology.

    @param sessions: where implicit sessions come from.
    @param observer: told of each command, its reply and its failure.
    """

    def __init__(
        self,
        reactor: Any,
        options: ClientOptions,
        topology: Topology,
        sessions: ServerSessionPool,
        observer: Observer,
        random: Random,
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._topology = topology
        self._sessions = sessions
        self._observer = observer
        self._random = random
        self._last_operation = 0
        # Both are otherwise where a load balancer chooses the server: see balance.
        self._pinning: Pinning | None = None
        self._result: Callable[[Call, bytes], Any] = self._read
        topology.on_balanced = self.balance

    def balance(self) -> None:
        """
        Have cursors and transactions keep their connections from now on: a
        load balancer stands before the deployment.
        """
        self._pinning = Pinning(self._topology)
        self._result = self._read_and_pin

    # IOperationRunner.

    def run(
        self, command: Command[ResultT], session: SessionState | None = None
    ) -> Deferred[ResultT]:
        """
        See L{txmongokit.interfaces.IOperationRunner.run}.
        """
        call = Call(command, session)
        call.deadline = self._deadline(command, session)
        if session is None and command.name not in _SESSION_ENDING:
            call.session = call.implicit = self.take_session()
        if call.shareable and not self._topology.standalone:
            call.shareable = call.waits_for_nobody()
        try:
            server = None if self._observer.selections else self._select_now(call)
            if server is not None:
                connection = server.pool.try_check_out(call.shareable)
                if connection is not None:
                    waiting = self._send(call, server, connection)
                    return waiting.addCallbacks(
                        self._replied, self._broken, callbackArgs=(call,), errbackArgs=(call,)
                    )
        except PyMongoError as error:
            return self._go_on(call, error)
        except Exception:
            self._release(call)
            return fail()
        return self._go_on(call, None)

    def run_in_order(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> Deferred[list[Any]]:
        """
        See L{txmongokit.interfaces.IOperationRunner.run_in_order}.
        """
        if self._pinning is not None:
            # A balancer's connection has an owner that counts its commands.
            return Deferred.fromCoroutine(self._run_one_by_one(commands, session))
        return Deferred.fromCoroutine(self._run_in_order(commands, session))

    def stream(
        self,
        command: Command[ResultT],
        session: SessionState | None,
        on_result: Callable[[ResultT], Deferred[None] | None],
    ) -> Deferred[None]:
        """
        See L{txmongokit.interfaces.IOperationRunner.stream}.
        """
        return Deferred.fromCoroutine(self._stream(command, session, on_result))

    def seconds(self) -> float:
        """
        See L{txmongokit.interfaces.IOperationRunner.seconds}.
        """
        now: float = self._reactor.seconds()
        return now

    def sleep(self, seconds: float) -> Deferred[None]:
        """
        See L{txmongokit.interfaces.IOperationRunner.sleep}.
        """
        return deferLater(self._reactor, seconds)

    def deadline(self, options: CommandOptions) -> float | None:
        """
        See L{txmongokit.interfaces.IOperationRunner.deadline}.
        """
        timeout = options.timeout
        context = timeout_context()
        if context is None:
            return self._ends(timeout)
        limit, remaining = context
        if timeout is None or timeout == self._options.timeout:
            # What the client has by default gives way.
            return math.inf if not limit else self.seconds() + remaining
        mine = self._ends(timeout)
        assert mine is not None
        return min(mine, self.seconds() + remaining)

    def take_session(self, **options: Any) -> SessionState:
        """
        See L{txmongokit.interfaces.IOperationRunner.take_session}.
        """

        def take() -> ServerSession:
            return self._sessions.take(self._reactor.seconds(), self._session_timeout())

        if options.get("explicit"):
            return SessionState(take(), **options)
        # Taken with the first command's connection: no more are used than there are of these.
        return SessionState(None, source=take, **options)

    def release_session(self, session: SessionState) -> None:
        """
        See L{txmongokit.interfaces.IOperationRunner.release_session}.
        """
        server_session = session.end()
        if server_session is not None:
            if self._pinning is not None:
                self._pinning.ended(server_session.session_id["id"])
            self._sessions.give_back(
                server_session, self._reactor.seconds(), self._session_timeout()
            )

    def _session_timeout(self) -> int | None:
        return self._topology.description.logical_session_timeout_minutes

    # Time.

    def _ends(self, timeout: float | None) -> float | None:
        if timeout is None:
            return None
        return self.seconds() + timeout if timeout else math.inf

    def _deadline(self, command: Command[Any], session: SessionState | None) -> float | None:
        deadline = command.deadline
        limited = session is not None and session.deadline is not None
        if deadline is None:
            deadline = self.deadline(_ANY_TIME if limited else command.options)
        if session is not None and session.deadline is not None:
            return session.deadline if deadline is None else min(deadline, session.deadline)
        return deadline

    def _remaining(self, call: Call, otherwise: float | None) -> float | None:
        """What is left of an operation's time, or another limit where it has none."""
        if call.deadline is None or call.deadline == math.inf:
            return otherwise
        left: float = max(0.0, call.deadline - self._reactor.seconds())
        return left

    def _time_is_up(self, call: Call, error: PyMongoError | None) -> PyMongoError:
        """What to fail with when an operation's time is over."""
        if error is not None and error.timeout:
            return time_exceeded(error)
        text = f"{call.command.name or 'the command'} did not end in time: raise timeout"
        if error is not None:
            text += f" (the last attempt failed: {error})"
        late = ExecutionTimeout(text, _MAX_TIME_MS_EXPIRED)
        late.__cause__ = error
        return time_exceeded(late)

    def _limit(self, call: Call, waiting: Deferred[Any]) -> None:
        """Have a reply waited for only as long as there is time."""
        limit = self._options.socket_timeout or None
        if call.deadline is not None:
            limit = self._remaining(call, None)
        if limit is None:
            return
        assert call.connection is not None
        where = format_address(call.connection.protocol.address)

        def too_late(result: Any, timeout: float) -> Any:
            raise NetworkTimeout(f"{where}: no reply within {timeout:.3g} s")

        waiting.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)

    # The first attempt: callbacks.

    def _replied(self, raw: bytes, call: Call) -> Any:
        try:
            return self._taken(call, raw)
        except PyMongoError as error:
            return self._go_on(call, error)
        except BaseException:
            self._release(call)
            raise

    def _broken(self, failure: Failure, call: Call) -> Any:
        error: Any = failure.value
        self._lost(call, error)
        self._give_back(call)
        if isinstance(error, PyMongoError):
            return self._go_on(call, error)
        self._release(call)
        return failure

    def _go_on(self, call: Call, error: PyMongoError | None) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._rest(call, error))

    # All further ones: the only loop that retries.

    async def _rest(self, call: Call, error: PyMongoError | None) -> Any:
        try:
            while True:
                if error is not None and not call.kept:
                    delay = self._judge(call, error)
                    if delay:
                        await self.sleep(delay)
                error = None
                try:
                    return await self._attempt(call)
                except PyMongoError as failed:
                    error = failed
        finally:
            self._release(call)

    async def _attempt(self, call: Call) -> Any:
        """Send the command once; what its reply means."""
        if call.kept:
            server, connection = await self._logged_in_anew(call)
        else:
            call.connection = None
            server, connection = await self._acquire(call)
        waiting = self._send(call, server, connection)
        try:
            raw = await waiting
        except BaseException as error:
            self._lost(call, error)
            self._give_back(call)
            raise
        return self._taken(call, raw)

    def _taken(self, call: Call, raw: bytes) -> Any:
        """What a reply means; the connection is given back in any case."""
        try:
            result = self._result(call, raw)
            # First, so that who waits for the connection goes on with this session.
            self._release(call)
            return result
        except OperationFailure as error:
            # Kept for the new log-in, which there is one of.
            call.kept = error.code == _REAUTHENTICATION_REQUIRED and not call.renewed
            raise
        finally:
            if not call.kept:
                self._give_back(call)

    async def _logged_in_anew(self, call: Call) -> tuple[Server, PooledConnection]:
        """
        The connection that a command was refused on for want of a log-in,
        with a new one (authentication specification, "Reauthentication").
        """
        server, connection, session = call.server, call.connection, call.session
        assert server is not None
        assert connection is not None
        call.kept, call.renewed = False, True
        try:
            await self._renew_log_in(call, connection)
        except BaseException:
            self._give_back(call)
            raise
        if call.opened_transaction and session is not None and session.transaction is not None:
            # It was turned away, so there is no transaction yet.
            session.transaction.state = TransactionState.STARTING
        # It is counted once more when the command is sent.
        server.pool.operation_count -= 1
        return server, connection

    async def _renew_log_in(self, call: Call, connection: PooledConnection) -> None:
        renewing = self._topology.reauthenticate(connection.protocol)
        left = self._remaining(call, None)
        if left is not None:
            renewing.addTimeout(
                left, self._reactor, lambda result, timeout: self._give_up_log_in(call)
            )
        await renewing

    def _give_up_log_in(self, call: Call) -> None:
        raise self._time_is_up(call, None)

    def _judge(self, call: Call, error: PyMongoError) -> float:
        """
        Judge a failure.

        @return: how long to wait before the next attempt.
        @raise PyMongoError: there is to be none.
        """
        server, connection = call.server, call.connection
        if server is not None and connection is not None:
            self._tell_failure(call, error)
        command, session = call.command, call.session
        eligible = self._may_retry(call)
        if eligible and command.is_write:
            label_retryable_write(error)
        if session is not None:
            session.failed(command, error)
        worth = is_worth_retrying(command, error, self._options, eligible=eligible)
        overload = is_overload(error)
        call.attempts += 1
        if overload:
            call.limit = self._options.max_adaptive_retries
        limit = call.limit
        if limit is None:
            limit = 1 if call.deadline is None else math.inf
        if not worth or call.attempts > limit:
            self._give_up(call, error)
        if call.deadline is not None and self._reactor.seconds() >= call.deadline:
            raise self._time_is_up(call, error)
        if call.first_error is None or not error.has_error_label("NoWritesPerformed"):
            call.first_error = error
        self._avoid(call, overload)
        if not overload:
            command.retrying()
            return 0.0
        if call.opened_transaction and session is not None and session.transaction is not None:
            # It was turned away, so there is no transaction yet.
            session.transaction.state = TransactionState.STARTING
        delay = backoff(error, call.attempts, self._random.random())
        if call.deadline is not None and self._reactor.seconds() + delay > call.deadline:
            self._give_up(call, error)
        return delay

    def _tell_failure(self, call: Call, error: PyMongoError) -> None:
        server, connection = call.server, call.connection
        assert server is not None
        assert connection is not None
        service_id = connection.info.service_id
        self._topology.operation_failed(server, error, connection.generation, service_id=service_id)
        if self._pinning is not None:
            self._pinning.failed(call, error)

    def _give_up(self, call: Call, error: PyMongoError) -> None:
        first = call.first_error
        if first is not None and (
            isinstance(error, ServerSelectionTimeoutError)
            or (call.connection is None and isinstance(error, AutoReconnect))
            or error.has_error_label("NoWritesPerformed")
        ):
            # That no second try was possible is not what went wrong.
            raise first from error
        raise error if call.deadline is None else time_exceeded(error)

    def _avoid(self, call: Call, overload: bool) -> None:
        """Prefer another server from now on, where there is a choice."""
        server = call.server
        if server is not None and (
            self._topology.description.topology_type == TOPOLOGY_TYPE.Sharded
            or (overload and self._options.enable_overload_retargeting)
        ):
            call.deprioritized = (*call.deprioritized, server.address)

    def _may_retry(self, call: Call) -> bool:
        """Whether this is a retryable read or write, here and now."""
        command, session = call.command, call.session
        if not command.retryable:
            return False
        if command.name in TRANSACTION_ENDING:
            return True
        if session is None or session.in_transaction:
            return False
        if not command.is_write:
            return self._options.retry_reads
        connection = call.connection
        # A standalone server has no transaction numbers, nor has one before
        # 3.6.  Whoever else was no primary when the connection was made may
        # have become one.
        return (
            self._options.retry_writes
            and not call.unacknowledged
            and (
                connection is None
                or (
                    connection.info.server_type != SERVER_TYPE.Standalone
                    and connection.info.logical_session_timeout_minutes is not None
                )
            )
        )

    # A server and a connection.

    def _select_now(self, call: Call) -> Server | None:
        command, session = call.command, call.session
        call.connection = None
        address = command.address
        if session is not None and session.pinned_address is not None:
            address = session.pinned_address
        if address is not None:
            if self._pinning is not None:
                return None  # Everybody's address: _acquire knows the connection.
            call.server = self._topology.server(address)
            return call.server
        call.preference = command.options.read_preference
        call.writable = not (command.is_read or command.follows_read_preference)
        if session is not None and session.in_transaction and session.transaction is not None:
            call.preference = session.transaction.read_preference
        call.server = self._topology.select_now(call.writable, call.preference, call.deprioritized)
        return call.server

    async def _acquire(self, call: Call) -> tuple[Server, PooledConnection]:
        """Wait for a server, then for one of its connections."""
        if self._pinning is not None:
            kept = self._pinning.kept(call)
            if kept is not None:
                return kept
        call.server = server = await self._selected(call)
        session = call.session
        if session is not None and session.pinned_address and not server.pool.ready:
            # Its mongos has the transaction, and may soon be known again.
            await self._topology.select_at(server.address, self._selection_limit(call))
        connection = server.pool.try_check_out(call.shareable)
        if connection is None:
            limit = self._remaining(call, self._options.wait_queue_timeout)
            connection = await server.pool.check_out(limit, call.shareable)
        assert connection is not None
        return server, connection

    def _selection_limit(self, call: Call) -> float:
        limit = self._options.server_selection_timeout
        return min(limit, self._remaining(call, limit) or 0.0)

    async def _selected(self, call: Call) -> Server:
        observer = self._observer
        limit = self._selection_limit(call)
        if not observer.selections:
            server = self._select_now(call)
            if server is not None:
                return server
            return await self._topology.select(
                call.writable, call.preference, limit, call.deprioritized
            )
        self._number(call)
        operation = call.command.operation or call.command.name
        told = (operation, str(call.preference), call.operation_id)
        observer.selection_started(*told, self._topology.description)
        try:
            server = self._select_now(call)
            if server is None:
                observer.selection_waiting(*told, self._topology.description, limit)
                server = await self._topology.select(
                    call.writable, call.preference, limit, call.deprioritized
                )
        except PyMongoError as error:
            observer.selection_failed(*told, self._topology.description, error)
            raise
        observer.selection_succeeded(*told, self._topology.description, server.address)
        return server

    def _give_back(self, call: Call) -> None:
        """The connection is needed no longer, though C{call} still tells which it was."""
        server, connection = call.server, call.connection
        assert server is not None
        assert connection is not None
        server.pool.operation_count -= 1
        server.pool.check_in(connection)

    def _release(self, call: Call) -> None:
        implicit, call.implicit = call.implicit, None
        if implicit is not None:
            self.release_session(implicit)

    def _lost(self, call: Call, error: BaseException) -> None:
        """A request was sent and its reply did not come, or was not waited for."""
        connection, session = call.connection, call.session
        if session is not None and session.server_session is not None:
            # What was sent may still run, and nobody else may be in its session.
            session.server_session.dirty = True
        if call.event is not None:
            elapsed = self._reactor.seconds() - call.sent
            self._observer.command_failed(call.event, _failure_document(error), elapsed)
            call.event = None
        if connection is None or connection.protocol.closed:
            return
        if isinstance(error, (CancelledError, NetworkTimeout)):
            if connection.shared and call.server is not None:
                call.server.pool.abandoned(connection)
                return
            # Closing tells the server that nobody waits for the reply.
            connection.protocol.abort(AutoReconnect("nobody waits for the reply any more"))

    # One request and its reply.

    def _send(self, call: Call, server: Server, connection: PooledConnection) -> Deferred[bytes]:
        """
        Send the command.

        @return: fires with the reply; with C{b""} where there is none.
        """
        command = call.command
        call.connection = connection
        server.pool.operation_count += 1
        protocol = connection.protocol
        try:
            request = command.build(connection.info)
            encoded = self._encode(call, request.body, server)
            compress = protocol.exchange.compressor is None or (
                next(iter(request.body)).lower() not in _NEVER_COMPRESSED
            )
            if call.unacknowledged:
                protocol.send(encoded, request.sequences, compress=compress)
                if self._observer.commands:
                    self._tell_started(call, request)
                return succeed(b"")
            waiting = protocol.request(encoded, request.sequences, compress=compress)
        except BaseException:
            if call.kept:
                server.pool.operation_count -= 1
            else:
                self._give_back(call)
            raise
        if call.session is not None:
            call.session.sent()
        if self._observer.commands and not protocol.closed:
            self._tell_started(call, request)
        if not call.kept:
            self._limit(call, waiting)
        return waiting

    def _encode(self, call: Call, body: dict[str, Any], server: Server) -> bytes:
        """The command with everything that it carries besides its own fields."""
        command, session = call.command, call.session
        options = command.options
        assert call.connection is not None
        info = call.connection.info
        body["$db"] = command.database
        if command.is_read and options.read_concern.level is not None:
            body["readConcern"] = options.read_concern.document
        if command.is_write and options.write_concern is not _DEFAULT_WRITE_CONCERN:
            self._add_write_concern(call, body)
        if call.deadline is not None:
            self._add_time_limit(call, body, server)
        cluster_time = self._topology.cluster_time
        if session is not None and not call.unacknowledged:
            if info.logical_session_timeout_minutes is not None:
                self._add_session(call, session, body)
            elif session.explicit:
                raise ConfigurationError("this server has no sessions: pass none")
            cluster_time = newer_cluster_time(cluster_time, session.cluster_time)
        if cluster_time is not None and info.server_type != SERVER_TYPE.Standalone:
            body["$clusterTime"] = cluster_time
        preference = call.preference
        if (preference is not None and preference.mode) or self._topology.single_secondary:
            self._add_read_preference(call, body, info.server_type)
        if self._options.server_api is not None:
            body.update(api_declaration(self._options.server_api))
        return bson.encode(body, False, options.codec_options)

    def _add_write_concern(self, call: Call, body: dict[str, Any]) -> None:
        concern = call.command.options.write_concern.document
        if call.deadline is not None:
            concern = {name: value for name, value in concern.items() if name != "wtimeout"}
        if concern:
            body["writeConcern"] = concern

    def _add_session(self, call: Call, session: SessionState, body: dict[str, Any]) -> None:
        command = call.command
        assert call.connection is not None
        session.apply(command, body, self._reactor.seconds(), call.connection.info)
        if "startTransaction" in body:
            call.opened_transaction = True
            if self._pinning is not None:
                self._pinning.begun(call)
        if command.is_write and command.retryable and command.name not in TRANSACTION_ENDING:
            if call.number is None and self._may_retry(call):
                call.number = session.next_transaction_number()
            if call.number is not None:
                body["txnNumber"] = call.number

    def _add_time_limit(self, call: Call, body: dict[str, Any], server: Server) -> None:
        assert call.deadline is not None
        if call.deadline == math.inf:
            return
        left = call.deadline - self._reactor.seconds() - server.monitor.round_trip_minimum
        if left <= 0:
            raise self._time_is_up(call, call.first_error)
        command = call.command
        if command.sends_max_time and not (isinstance(command, RunCommand) and "maxTimeMS" in body):
            body["maxTimeMS"] = max(1, int(left * 1000))
        elif not command.sends_max_time and command.name != "getMore":
            body.pop("maxTimeMS", None)

    def _add_read_preference(self, call: Call, body: dict[str, Any], server_type: int) -> None:
        command, preference, session = call.command, call.preference, call.session
        if not (command.is_read or command.follows_read_preference):
            return
        if server_type == SERVER_TYPE.Standalone:
            return
        if preference is not None and preference.mode:
            body["$readPreference"] = preference.document
        elif session is None or not session.in_transaction:
            # A direct connection to a secondary must be told that reading
            # there is meant (server-selection specification, topology Single).
            body["$readPreference"] = {"mode": "primaryPreferred"}

    def _read(self, call: Call, raw: bytes) -> Any:
        """What a reply means."""
        command, session, connection = call.command, call.session, call.connection
        assert connection is not None
        if not raw:
            return command.unacknowledged()
        reply = command.decode(raw)
        if call.event is not None:
            self._tell_reply(call, raw)
        cluster_time = reply.get("$clusterTime")
        if cluster_time is not None:
            self._topology.gossip(cluster_time)
        if session is not None:
            session.observe(reply)
        info = connection.info
        if not reply.get("ok") and not command.tolerates(reply):
            raise_command_error(reply, info.max_wire_version)
        return command.parse(reply, info)

    def _read_and_pin(self, call: Call, raw: bytes) -> Any:
        """What a reply means; its cursor's connection is kept."""
        assert self._pinning is not None
        try:
            result = self._read(call, raw)
        except PyMongoError as error:
            # Before the connection is given back, which its service's end may close.
            self._tell_failure(call, error)
            # A reply that has an error may leave a cursor of results.
            self._pinning.replied(call, getattr(call.command, "unsettled", None))
            raise
        return self._pinning.replied(call, result)

    # Many commands.

    async def _run_one_by_one(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> list[Any]:
        return [await self.run(command, session) for command in commands]

    async def _run_in_order(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> list[Any]:
        row = Row()
        try:
            for command in commands:
                call = row.call = Call(command, session)
                call.kept = True
                call.deadline = self._deadline(command, session)
                if row.connection is None:
                    row.server, row.connection = await self._acquire(call)
                assert row.server is not None
                call.server = row.server
                row.put(call, self._send(call, row.server, row.connection))
                while row.full:
                    await self._next_of(row)
            while row.waiting:
                await self._next_of(row)
        except PyMongoError as error:
            failed = row.call
            if failed is None:
                raise
            try:
                await self._end_of_row(row, failed, error)
            except PyMongoError as last:
                self._judge(failed, last)
                raise
        finally:
            row.end(self._lost)
        return row.results

    async def _end_of_row(self, row: Row, failed: Call, error: PyMongoError) -> NoReturn:
        """Leave the connection as its next user needs it; raises what went wrong."""
        connection = row.connection
        if isinstance(error, OperationFailure) and connection is not None:
            # The others are answered with the end of the transaction.
            await self._drain(row)
            if error.code == _REAUTHENTICATION_REQUIRED:
                if not connection.protocol.closed:
                    await self._renew_log_in(failed, connection)
                # What was sent is gone: whoever made it has to begin anew.
                add_error_label(error, TRANSIENT)
        raise error

    async def _next_of(self, row: Row) -> None:
        call, waiting = row.take()
        # Its time begins when those before it have had theirs.
        call.deadline = self._deadline(call.command, call.session)
        self._limit(call, waiting)
        try:
            raw = await waiting
        except BaseException as error:
            self._lost(call, error)
            raise
        row.results.append(self._result(call, raw))

    async def _drain(self, row: Row) -> None:
        while row.waiting:
            try:
                await self._next_of(row)
            except PyMongoError:
                pass

    # Many replies.

    async def _stream(
        self,
        command: Command[Any],
        session: SessionState | None,
        on_result: Callable[[Any], Deferred[None] | None],
    ) -> None:
        call = Call(command, session)
        call.shareable = False
        call.deadline = self._deadline(command, session)
        server, connection = await self._acquire(call)
        call.connection = connection
        server.pool.operation_count += 1
        protocol = connection.protocol

        def replied(raw: bytes) -> None:
            waiting = on_result(self._result(call, raw))
            if waiting is not None and not waiting.called:
                protocol.pause()
                waiting.addBoth(resume)

        def resume(result: Any) -> Any:
            protocol.resume()
            return result

        async def streamed() -> None:
            request = command.build(connection.info)
            encoded = self._encode(call, request.body, server)
            waiting = protocol.stream(encoded, replied)
            self._limit(call, waiting)
            if self._observer.commands:
                self._tell_started(call, request)
            await waiting

        try:
            try:
                await streamed()
            except OperationFailure as error:
                if error.code != _REAUTHENTICATION_REQUIRED or protocol.closed:
                    raise
                await self._topology.reauthenticate(protocol)
                await streamed()
        except PyMongoError as error:
            self._lost(call, error)
            self._tell_failure(call, error)
            if session is not None:
                session.failed(command, error)
            raise
        finally:
            self._give_back(call)

    # What observers are told.

    def _number(self, call: Call) -> None:
        if not call.operation_id:
            self._last_operation = call.operation_id = self._last_operation + 1

    def _tell_started(self, call: Call, request: Request) -> None:
        self._number(call)
        event = call.as_event(request)
        call.sent = self._reactor.seconds()
        self._observer.command_started(event)
        if call.unacknowledged:
            self._observer.command_succeeded(event, {"ok": 1}, 0.0)
        else:
            call.event = event

    def _tell_reply(self, call: Call, raw: bytes) -> None:
        event, call.event = call.event, None
        assert event is not None
        elapsed = self._reactor.seconds() - call.sent
        reply = bson.decode(raw)
        if reply.get("ok"):
            self._observer.command_succeeded(event, reply, elapsed)
        else:
            self._observer.command_failed(event, reply, elapsed)


def _failure_document(error: BaseException) -> dict[str, Any]:
    """What command listeners are told of a failure that is no reply."""
    return {"errmsg": str(error), "errtype": type(error).__name__}
