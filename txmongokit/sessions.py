"""
Client sessions: causal consistency, snapshots and transactions.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextvars import Token
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from bson.timestamp import Timestamp
from pymongo.client_session import (  # type: ignore[attr-defined]  # documented, not exported
    TransactionOptions,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred, fail

from txmongokit._sansio.commands.admin import AbortTransaction, CommitTransaction
from txmongokit._sansio.commands.base import Command
from txmongokit._sansio.transactions import (
    BOUND_SESSION,
    SessionState,
    Transaction,
    TransactionState,
    newer_cluster_time,
)
from txmongokit.errors import ConfigurationError, InvalidOperation, PyMongoError
from txmongokit.interfaces import IOperationRunner
from txmongokit.transactions import RetriedTransaction

__all__ = [
    "BoundSession",
    "ClientSession",
    "SessionOptions",
    "TransactionContext",
    "session_state",
]

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """
    What C{start_session} was given, defaults filled in.

    @ivar default_timeout: in seconds.
    """

    causal_consistency: bool = True
    default_transaction_options: TransactionOptions | None = None
    snapshot: bool = False
    snapshot_time: Timestamp | None = None
    default_timeout: float | None = None


class ClientSession:
    """
    A session that the user started, to pass to operations as C{session}.

    Also an asynchronous context manager, which ends it.

    One operation at a time may use a session: wait for each before you begin
    the next.  It is not checked, as no driver may check it; in a transaction
    the server answers a second one with an error.

    Whatever goes wrong in a transaction may have ended it on the server, so
    let errors out of C{with_transaction}'s callback, or abort.

    @param runner: what runs its commands.
    @param state: taken from the runner's C{take_session}.
    @param jitter: gives a random number from 0 up to 1, for the pauses of
        L{with_transaction}.

    @ivar state: what the runner gets with each command.

    @raise TypeError: C{default_transaction_options} are no
        C{TransactionOptions}.
    @raise ConfigurationError: C{default_timeout} is negative.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        state: SessionState,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        defaults = state.default_transaction_options
        if defaults is not None and not isinstance(defaults, TransactionOptions):
            raise TypeError(
                "default_transaction_options must be pymongo.client_session.TransactionOptions, "
                f"not {type(defaults).__name__}"
            )
        _check_timeout("default_timeout", state.default_timeout)
        self._runner = runner
        self.state = state
        self._jitter = jitter
        self._options = SessionOptions(
            state.causal_consistency,
            defaults,
            state.snapshot,
            state.snapshot_time,
            state.default_timeout,
        )

    def __repr__(self) -> str:
        condition = "ended" if self.has_ended else "open"
        return f"<ClientSession {condition}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.end_session()

    @property
    def client(self) -> Any:
        """
        The client that started it.
        """
        return self._runner

    @property
    def connection(self) -> Any:
        """
        The client that started it: TxMongo's name for it.
        """
        return self._runner

    @property
    def implicit(self) -> bool:
        """
        Whether nobody has asked for it: no user ever sees such a session.
        """
        return not self.state.explicit

    @property
    def is_ended(self) -> bool:
        """
        Whether L{end_session} was called: TxMongo's name for C{has_ended}.
        """
        return self.state.ended

    @property
    def options(self) -> SessionOptions:
        """
        What it was started with.
        """
        return self._options

    @property
    def session_id(self) -> Mapping[str, Any]:
        """
        The C{lsid} document.

        @raise txmongokit.errors.InvalidOperation: the session has ended.
        """
        return self.state.session_id

    @property
    def has_ended(self) -> bool:
        """
        Whether L{end_session} was called.
        """
        return self.state.ended

    @property
    def in_transaction(self) -> bool:
        """
        Whether the next operation belongs to a transaction.
        """
        return self.state.in_transaction

    @property
    def operation_time(self) -> Timestamp | None:
        """
        The time of the latest operation in this session.
        """
        return self.state.operation_time

    @property
    def cluster_time(self) -> Mapping[str, Any] | None:
        """
        The latest C{$clusterTime} document seen in this session.
        """
        return self.state.cluster_time

    @property
    def snapshot_time(self) -> Timestamp | None:
        """
        The point in time that a snapshot session reads at, for
        C{start_session(snapshot=True, snapshot_time=...)}; C{None} before its
        first read.

        @raise txmongokit.errors.InvalidOperation: it is no snapshot session.
        """
        if not self.state.snapshot:
            raise InvalidOperation(
                "only snapshot sessions have a snapshot_time: use start_session(snapshot=True)"
            )
        return self.state.snapshot_time

    def advance_operation_time(self, operation_time: Timestamp) -> None:
        """
        Make later reads see at least C{operation_time}.

        @raise TypeError: it is no BSON timestamp.
        """
        if not isinstance(operation_time, Timestamp):
            raise TypeError(
                f"operation_time must be a bson Timestamp, not {type(operation_time).__name__}"
            )
        self.state.advance_operation_time(operation_time)

    def advance_cluster_time(self, cluster_time: Mapping[str, Any]) -> None:
        """
        Take over another session's C{$clusterTime}, if it is later.

        @raise TypeError: it is no mapping.
        @raise ValueError: it holds no timestamp.
        """
        if not isinstance(cluster_time, Mapping):
            raise TypeError(f"cluster_time must be a mapping, not {type(cluster_time).__name__}")
        if not isinstance(cluster_time.get("clusterTime"), Timestamp):
            raise ValueError("cluster_time must have a Timestamp under 'clusterTime'")
        self.state.cluster_time = newer_cluster_time(self.state.cluster_time, cluster_time)

    def start_transaction(
        self,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: Any = None,
        max_commit_time_ms: int | None = None,
    ) -> TransactionContext:
        """
        Begin a transaction with the next operation.

        What is not given comes from the session's
        C{default_transaction_options}, then from the client.

        @param max_commit_time_ms: how long the server may take to commit.
        @return: an asynchronous context manager that commits, or aborts
            after an exception; it need not be used, and may be awaited first
            as in PyMongo.

        @raise txmongokit.errors.InvalidOperation: a transaction is in
            progress, or the session has ended or is a snapshot session.
        @raise txmongokit.errors.ConfigurationError: the write concern asks
            for no acknowledgement.
        @raise TypeError: an argument is of the wrong type.
        """
        given = TransactionOptions(read_concern, write_concern, read_preference, max_commit_time_ms)
        defaults = self.state.default_transaction_options
        options = self._runner.options

        def chosen(name: str, otherwise: Any) -> Any:
            value = getattr(given, name)
            if value is None and defaults is not None:
                value = getattr(defaults, name)
            return otherwise if value is None else value

        self.state.start_transaction(
            Transaction(
                chosen("read_concern", options.read_concern),
                chosen("write_concern", options.write_concern),
                chosen("read_preference", options.read_preference),
                chosen("max_commit_time_ms", None),
            )
        )
        return TransactionContext(self)

    @overload
    def with_transaction(
        self,
        callback: Callable[[ClientSession], Awaitable[ResultT]],
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: Any = None,
        max_commit_time_ms: int | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[ResultT]: ...

    @overload
    def with_transaction(
        self,
        callback: Callable[[ClientSession], ResultT],
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: Any = None,
        max_commit_time_ms: int | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[ResultT]: ...

    def with_transaction(
        self,
        callback: Callable[[ClientSession], Any],
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: Any = None,
        max_commit_time_ms: int | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[Any]:
        """
        Call a function inside of a transaction and commit; try again, all or
        the commit alone, when the error says that this may help.

        B{The callback may be called several times}: what it does besides the
        operations of this session must bear that.  It must not swallow the
        errors of operations: they may have ended the transaction on the
        server, which then refuses every commit.  If it commits or aborts by
        itself, that is all.

        @param callback: gets the session; may return a Deferred or a
            coroutine.
        @param timeout: seconds for all tries, callbacks and commits together
            (C{default_timeout} of the session, or C{timeoutMS} of the
            client, otherwise); 0 for no limit.  Operations of this session
            must not have one of their own then; operations outside of it are
            not limited.  Where there is none, no further try begins after two
            minutes.

        @return: fires with what the callback returned.  Fails with what it
            raised or the commit failed with, or, when time has run out, with
            L{txmongokit.errors.ExecutionTimeout} (with a C{timeout}) or
            L{txmongokit.errors.NetworkTimeout}, whose C{__cause__} is the last
            error.  Cancelling it cancels what the callback waits for and
            aborts the transaction; during the commit it leaves the outcome
            unknown.
        """
        try:
            limit = self._limit(timeout)
        except Exception:
            return fail()
        arguments = (read_concern, write_concern, read_preference, max_commit_time_ms)
        run = RetriedTransaction(self._runner, self, callback, arguments, limit, self._jitter)
        return Deferred.fromCoroutine(run.run())

    def run_in_order(self, commands: Iterable[Command[Any]]) -> Deferred[list[Any]]:
        """
        Send the commands of a transaction one behind the other, without
        waiting for each reply: a server that is far away is waited for once.
        After one that fails the server refuses the others, as the transaction
        has ended; after an error that it found before it looked at the
        transaction (a missing privilege) it may carry them out in it.

        @param commands: such as
            L{txmongokit.collection.Collection.raw_write_command} makes; the
            next is asked for when there is room on the way.

        @return: fires with what each returns by itself; fails with
            L{txmongokit.errors.InvalidOperation} where no transaction was
            started, or with the first error.  Cancelling it closes the
            connection.  After either, abort the transaction.
        """
        if not self.state.in_transaction:
            return fail(InvalidOperation("only a transaction's commands are sent ahead: start one"))
        result: Deferred[list[Any]] = self._runner.run_in_order(commands, self.state)
        return result

    def commit_transaction(self, *, timeout: float | None = None) -> Deferred[None]:
        """
        Commit.  May be called again when the outcome is unknown: after an
        error with the label C{UnknownTransactionCommitResult}, or after
        cancelling.

        @param timeout: seconds it may take, retries included; 0 for no limit.

        @return: fires when the write concern is met; fails with
            L{txmongokit.errors.InvalidOperation} where there is nothing to
            commit.  Cancelling it leaves the outcome unknown.
        """
        return Deferred.fromCoroutine(self._commit(timeout))

    async def _commit(self, timeout: float | None) -> None:
        state = self.state
        options = self._ending_options(timeout)
        transaction = state.transaction
        again = (
            transaction is not None
            and transaction.state is TransactionState.COMMITTED
            and not transaction.commit_refused
        )
        if not state.start_commit():
            return
        assert transaction is not None
        command = CommitTransaction(options, max_time_ms=transaction.max_commit_time_ms)
        if again:
            command.retrying()
        await self._runner.run(command, state)

    def abort_transaction(self, *, timeout: float | None = None) -> Deferred[None]:
        """
        Abort.  That the server cannot be told is no error: it ends the
        transaction by itself.

        @param timeout: seconds it may take, retries included; 0 for no limit.

        @return: fires when the server has answered or could not be reached;
            fails with L{txmongokit.errors.InvalidOperation} where there is
            nothing to abort.
        """
        return Deferred.fromCoroutine(self._abort(timeout))

    async def _abort(self, timeout: float | None = None) -> None:
        state = self.state
        options = self._ending_options(timeout)
        if not state.start_abort():
            state.unpin()  # Its first command may not have gone out.
            return
        try:
            await self._runner.run(AbortTransaction(options), state)
        except PyMongoError:
            pass
        finally:
            state.unpin()

    def _ending_options(self, timeout: float | None) -> Any:
        limit = self._limit(timeout)
        transaction = self.state.transaction
        concern = WriteConcern() if transaction is None else transaction.write_concern
        return replace(
            self._runner.options,
            write_concern=concern,
            read_preference=ReadPreference.PRIMARY,
            timeout=limit,
        )

    def _limit(self, timeout: float | None) -> float | None:
        """Seconds for what this session does by itself."""
        _check_timeout("timeout", timeout)
        if timeout is not None:
            if self.state.deadline is not None:
                raise InvalidOperation(
                    "with_transaction has a timeout for all its operations: pass none to them"
                )
            return timeout
        if self.state.default_timeout is not None:
            return self.state.default_timeout
        inherited: float | None = self._runner.options.timeout
        return inherited

    def end_session(self, *, timeout: float | None = None) -> Deferred[None]:
        """
        Give the session back, after aborting its transaction if one is in
        progress.  Doing so twice does nothing.

        @param timeout: seconds that aborting may take; 0 for no limit.

        @return: fires when done; never fails with a server's error.
        """
        return Deferred.fromCoroutine(self._end_session(timeout))

    async def _end_session(self, timeout: float | None) -> None:
        try:
            if self.state.in_transaction and not self.state.ended:
                await self._abort(timeout)
        finally:
            self._runner.release_session(self.state)

    def bind(self, end_session: bool = True) -> BoundSession:
        """
        Have operations use this session without being told::

            async with client.start_session() as session, session.bind():
                await client.shop.orders.insert_one({})

        It is bound to the block and what is called from there, not to other
        coroutines that run meanwhile.  Only this client's operations may run
        in the block.

        @param end_session: whether the session ends with the block.
        @return: an asynchronous context manager.
        """
        return BoundSession(self, end_session)


class BoundSession:
    """
    What L{ClientSession.bind} gives.
    """

    def __init__(self, session: ClientSession, end_session: bool) -> None:
        self._session = session
        self._end_session = end_session
        self._token: Token[SessionState | None] | None = None

    async def __aenter__(self) -> ClientSession:
        self._token = BOUND_SESSION.set(self._session.state)
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            BOUND_SESSION.reset(token)
        if self._end_session:
            await self._session.end_session()


class TransactionContext:
    """
    What L{ClientSession.start_transaction} gives: C{async with} ends the
    transaction with the block.
    """

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._session.in_transaction:
            return
        if kind is None:
            await self._session.commit_transaction()
        else:
            await self._session.abort_transaction()


def session_state(session: ClientSession | None) -> SessionState | None:
    """
    What a runner gets for a C{session} argument.

    @raise TypeError: it is no session.
    """
    if session is None:
        return None
    if not isinstance(session, ClientSession):
        raise TypeError(f"session must be a ClientSession, not {type(session).__name__}")
    return session.state


def _check_timeout(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if value < 0:
        raise ConfigurationError(f"{name}={value!r} must not be negative: 0 lifts the limit")
