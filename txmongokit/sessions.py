"""
Client sessions: causal consistency and transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from txmongokit._sansio.commands.admin import AbortTransaction, CommitTransaction
from txmongokit._sansio.transactions import (
    SessionState,
    Transaction,
    TransactionState,
    newer_cluster_time,
)
from txmongokit.errors import PyMongoError
from txmongokit.interfaces import IOperationRunner

__all__ = ["ClientSession", "TransactionContext", "session_state"]


class ClientSession:
    """
    A session that the user started, to pass to operations as C{session}.

    Also an asynchronous context manager, which ends it.  One operation at a
    time may use a session.

    @param runner: what runs its commands.
    @param state: taken from the runner's C{take_session}.

    @ivar state: what the runner gets with each command.
    """

    def __init__(self, runner: IOperationRunner, state: SessionState) -> None:
        self._runner = runner
        self.state = state

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
            after an exception; it need not be used.

        @raise txmongokit.errors.InvalidOperation: a transaction is in
            progress, or the session has ended.
        @raise txmongokit.errors.ConfigurationError: the write concern asks
            for no acknowledgement.
        """
        defaults = self.state.default_transaction_options
        options = self._runner.options

        def chosen(given: Any, name: str, otherwise: Any) -> Any:
            if given is None and defaults is not None:
                given = getattr(defaults, name)
            return otherwise if given is None else given

        self.state.start_transaction(
            Transaction(
                chosen(read_concern, "read_concern", options.read_concern),
                chosen(write_concern, "write_concern", options.write_concern),
                chosen(read_preference, "read_preference", options.read_preference),
                chosen(max_commit_time_ms, "max_commit_time_ms", None),
            )
        )
        return TransactionContext(self)

    def commit_transaction(self) -> Deferred[None]:
        """
        Commit.  May be called again when the outcome is unknown: an error
        with the label C{UnknownTransactionCommitResult}.

        @return: fires when the write concern is met.  Cancelling it leaves
            the outcome unknown.
        """
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> None:
        state = self.state
        transaction = state.transaction
        again = transaction is not None and transaction.state is TransactionState.COMMITTED
        if not state.start_commit():
            return
        assert transaction is not None
        command = CommitTransaction(
            self._ending_options(transaction), max_time_ms=transaction.max_commit_time_ms
        )
        if again:
            command.retrying()
        await self._runner.run(command, state)

    def abort_transaction(self) -> Deferred[None]:
        """
        Abort.  That the server cannot be told is no error: it ends the
        transaction by itself.

        @return: fires when the server has answered or could not be reached;
            fails with L{txmongokit.errors.InvalidOperation} where there is
            nothing to abort.
        """
        return Deferred.fromCoroutine(self._abort())

    async def _abort(self) -> None:
        state = self.state
        transaction = state.transaction
        if not state.start_abort():
            return
        assert transaction is not None
        try:
            await self._runner.run(AbortTransaction(self._ending_options(transaction)), state)
        except PyMongoError:
            pass

    def _ending_options(self, transaction: Transaction) -> Any:
        return replace(
            self._runner.options,
            write_concern=transaction.write_concern,
            read_preference=ReadPreference.PRIMARY,
        )

    def end_session(self) -> Deferred[None]:
        """
        Give the session back, after aborting its transaction if one is in
        progress.  Doing so twice does nothing.

        @return: fires when done; never fails with a server's error.
        """
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        try:
            if self.state.in_transaction and not self.state.ended:
                await self._abort()
        finally:
            self._runner.release_session(self.state)


class TransactionContext:
    """
    What L{ClientSession.start_transaction} gives: C{async with} ends the
    transaction with the block.
    """

    def __init__(self, session: ClientSession) -> None:
        self._session = session

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
