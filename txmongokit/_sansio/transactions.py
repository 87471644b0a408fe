"""
Logical sessions and transactions, as state.

Follows the drivers' sessions, causal-consistency and transactions
specifications.  A L{SessionState} decides what each command carries
(C{lsid}, C{txnNumber}, C{startTransaction}, C{readConcern}, ...) and what
each reply or failure does to the session.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from txmongokit._pymongo import add_error_label, remove_error_label
from txmongokit._sansio.commands.base import Command
from txmongokit.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    PyMongoError,
    ServerSelectionTimeoutError,
)

__all__ = [
    "ServerSession",
    "ServerSessionPool",
    "SessionState",
    "Transaction",
    "TransactionState",
    "newer_cluster_time",
]

TRANSIENT = "TransientTransactionError"
UNKNOWN_COMMIT = "UnknownTransactionCommitResult"

# Codes after which it is known that a commit did not happen or that trying
# again cannot help, so UnknownTransactionCommitResult is not added
# (transactions specification, "UnknownTransactionCommitResult").
_WRITE_CONCERN_DEFINITE = frozenset({79, 100})


def newer_cluster_time(
    one: Mapping[str, Any] | None, other: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """
    The later of two C{$clusterTime} documents; C{None} counts as earliest.
    """
    if one is None:
        return other
    if other is None or one["clusterTime"] >= other["clusterTime"]:
        return one
    return other


class ServerSession:
    """
    One session as the server knows it.

    @ivar session_id: the C{lsid} document.
    @ivar transaction_number: of the last transaction or retryable write.
    @ivar last_use: when it was last sent, in the pool's seconds.
    @ivar dirty: a network error happened while it was in use, so it must
        not be used by anyone else.
    """

    __slots__ = ("dirty", "last_use", "session_id", "transaction_number")

    def __init__(self, identifier: bytes, now: float) -> None:
        self.session_id = {"id": Binary(identifier, 4)}
        self.transaction_number = 0
        self.last_use = now
        self.dirty = False

    def expired(self, now: float, timeout_minutes: int | None) -> bool:
        """
        Whether less than a minute is left before the server forgets it.
        """
        if timeout_minutes is None:
            return False
        return now - self.last_use > (timeout_minutes - 1) * 60


class ServerSessionPool:
    """
    Server sessions that nobody uses, last used first.

    @param new_identifier: gives 16 random bytes (a UUID of version 4).
    """

    def __init__(self, new_identifier: Callable[[], bytes]) -> None:
        self._new_identifier = new_identifier
        self._sessions: deque[ServerSession] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, now: float, timeout_minutes: int | None) -> ServerSession:
        """
        The most recently used session that lives long enough, or a new one.
        """
        while self._sessions:
            session = self._sessions.popleft()
            if not session.expired(now, timeout_minutes):
                return session
        return ServerSession(self._new_identifier(), now)

    def give_back(self, session: ServerSession, now: float, timeout_minutes: int | None) -> None:
        """
        Keep a session for the next who asks, unless it is dirty or old.
        """
        while self._sessions and self._sessions[-1].expired(now, timeout_minutes):
            self._sessions.pop()
        if not session.dirty and not session.expired(now, timeout_minutes):
            self._sessions.appendleft(session)

    def drain(self) -> list[dict[str, Any]]:
        """
        Forget all sessions; their C{lsid} documents, for C{endSessions}.
        """
        ids = [session.session_id for session in self._sessions]
        self._sessions.clear()
        return ids


class TransactionState(enum.Enum):
    """
    Where a transaction stands (transactions specification, "states").
    """

    NONE = "no transaction"
    STARTING = "starting"
    IN_PROGRESS = "in progress"
    COMMITTED = "committed"
    COMMITTED_EMPTY = "committed empty"
    ABORTED = "aborted"


class Transaction:
    """
    A transaction's options and state.
    """

    __slots__ = (
        "max_commit_time_ms",
        "read_concern",
        "read_preference",
        "recovery_token",
        "state",
        "write_concern",
    )

    def __init__(
        self,
        read_concern: ReadConcern,
        write_concern: WriteConcern,
        read_preference: Any,
        max_commit_time_ms: int | None,
    ) -> None:
        self.read_concern = read_concern
        self.write_concern = write_concern
        self.read_preference = read_preference
        self.max_commit_time_ms = max_commit_time_ms
        self.state = TransactionState.STARTING
        self.recovery_token: Mapping[str, Any] | None = None


_ENDING = ("commitTransaction", "abortTransaction")


class SessionState:
    """
    One client session: explicit, or implicit for a single operation or
    cursor.

    @ivar server_session: C{None} once the session has ended.
    @ivar explicit: whether the user started it.
    @ivar causal_consistency: whether reads carry C{afterClusterTime}.
    @ivar snapshot: whether all reads are of one point in time.
    @ivar default_transaction_options: what C{start_transaction} inherits.
    @ivar deadline: when every command in it must have ended, in the runner's
        seconds, or C{None}.
    """

    __slots__ = (
        "causal_consistency",
        "cluster_time",
        "deadline",
        "default_transaction_options",
        "explicit",
        "operation_time",
        "server_session",
        "snapshot",
        "snapshot_time",
        "transaction",
    )

    def __init__(
        self,
        server_session: ServerSession,
        *,
        explicit: bool = False,
        causal_consistency: bool | None = None,
        snapshot: bool = False,
        default_transaction_options: Any = None,
    ) -> None:
        if snapshot and causal_consistency:
            raise ConfigurationError(
                "snapshot and causal_consistency exclude each other: pass one of them"
            )
        self.server_session: ServerSession | None = server_session
        self.explicit = explicit
        self.causal_consistency = (
            explicit and not snapshot if causal_consistency is None else causal_consistency
        )
        self.snapshot = snapshot
        self.snapshot_time: Timestamp | None = None
        self.default_transaction_options = default_transaction_options
        self.operation_time: Timestamp | None = None
        self.cluster_time: Mapping[str, Any] | None = None
        self.transaction: Transaction | None = None
        self.deadline: float | None = None

    @property
    def ended(self) -> bool:
        """
        Whether the session was given back.
        """
        return self.server_session is None

    @property
    def session_id(self) -> Mapping[str, Any]:
        """
        The C{lsid} document.

        @raise InvalidOperation: the session has ended.
        """
        return self._require_server_session().session_id

    @property
    def in_transaction(self) -> bool:
        """
        Whether the next command belongs to a transaction.
        """
        transaction = self.transaction
        return transaction is not None and transaction.state in (
            TransactionState.STARTING,
            TransactionState.IN_PROGRESS,
        )

    def _require_server_session(self) -> ServerSession:
        if self.server_session is None:
            raise InvalidOperation("this session has ended: start a new one")
        return self.server_session

    def next_transaction_number(self) -> Int64:
        """
        A fresh C{txnNumber} for a retryable write.
        """
        session = self._require_server_session()
        session.transaction_number += 1
        return Int64(session.transaction_number)

    def start_transaction(self, transaction: Transaction) -> None:
        """
        Begin a transaction with the next command.

        @raise InvalidOperation: one is under way, or the session ended or
            is a snapshot session.
        """
        session = self._require_server_session()
        if self.snapshot:
            raise InvalidOperation("a snapshot session has no transactions")
        if self.in_transaction:
            raise InvalidOperation("a transaction is already in progress: commit or abort it first")
        if not transaction.write_concern.acknowledged:
            raise ConfigurationError(
                "transactions need an acknowledged write concern: pass w=1 or w='majority'"
            )
        session.transaction_number += 1
        self.transaction = transaction

    def start_commit(self) -> bool:
        """
        Check that a commit makes sense now.

        @return: whether a command must be sent (not for an empty one).
        @raise InvalidOperation: there is nothing to commit.
        """
        self._require_server_session()
        transaction = self.transaction
        if transaction is None:
            raise InvalidOperation("no transaction was started")
        if transaction.state is TransactionState.ABORTED:
            raise InvalidOperation("the transaction was aborted and cannot be committed")
        if transaction.state in (TransactionState.STARTING, TransactionState.COMMITTED_EMPTY):
            transaction.state = TransactionState.COMMITTED_EMPTY
            return False
        transaction.state = TransactionState.COMMITTED
        return True

    def start_abort(self) -> bool:
        """
        Check that an abort makes sense now.

        @return: whether a command must be sent.
        @raise InvalidOperation: there is nothing to abort.
        """
        self._require_server_session()
        transaction = self.transaction
        if transaction is None:
            raise InvalidOperation("no transaction was started")
        if transaction.state is TransactionState.ABORTED:
            raise InvalidOperation("the transaction was already aborted")
        if not self.in_transaction:
            raise InvalidOperation("the transaction was committed and cannot be aborted")
        started = transaction.state is TransactionState.IN_PROGRESS
        transaction.state = TransactionState.ABORTED
        return started

    def apply(self, command: Command[Any], body: dict[str, Any], now: float) -> None:
        """
        Write into C{body} what this session adds to a command.

        The caller adds the command's own C{readConcern} and
        C{writeConcern} first; inside a transaction they are replaced.

        @raise InvalidOperation: the session has ended.
        """
        session = self._require_server_session()
        session.last_use = now
        body["lsid"] = session.session_id
        transaction = self.transaction
        if transaction is not None:
            if command.name in _ENDING:
                body["txnNumber"] = Int64(session.transaction_number)
                body["autocommit"] = False
                if transaction.recovery_token is not None:
                    body["recoveryToken"] = transaction.recovery_token
                return
            if self.in_transaction:
                self._apply_transaction(transaction, session, body)
                return
            # The first command after a transaction leaves it behind.
            self.transaction = None
        if not command.is_read:
            return
        if self.snapshot:
            concern: dict[str, Any] = {"level": "snapshot"}
            if self.snapshot_time is not None:
                concern["atClusterTime"] = self.snapshot_time
            body["readConcern"] = concern
        elif self.causal_consistency and self.operation_time is not None:
            body["readConcern"] = {
                **body.get("readConcern", {}),
                "afterClusterTime": self.operation_time,
            }

    def _apply_transaction(
        self, transaction: Transaction, session: ServerSession, body: dict[str, Any]
    ) -> None:
        body.pop("readConcern", None)
        body.pop("writeConcern", None)
        body["txnNumber"] = Int64(session.transaction_number)
        body["autocommit"] = False
        if transaction.state is not TransactionState.STARTING:
            return
        body["startTransaction"] = True
        concern = dict(transaction.read_concern.document)
        if self.causal_consistency and self.operation_time is not None:
            concern["afterClusterTime"] = self.operation_time
        if concern:
            body["readConcern"] = concern

    def sent(self) -> None:
        """
        The first command of a transaction has been built and goes out.
        """
        transaction = self.transaction
        if transaction is not None and transaction.state is TransactionState.STARTING:
            transaction.state = TransactionState.IN_PROGRESS

    def observe(self, reply: Mapping[str, Any]) -> None:
        """
        Learn from a reply, successful or not.
        """
        operation_time = reply.get("operationTime")
        if operation_time is not None:
            self.advance_operation_time(operation_time)
        self.cluster_time = newer_cluster_time(self.cluster_time, reply.get("$clusterTime"))
        if self.snapshot and self.snapshot_time is None:
            cursor = reply.get("cursor")
            source = cursor if isinstance(cursor, Mapping) else reply
            self.snapshot_time = source.get("atClusterTime", reply.get("atClusterTime"))
        transaction = self.transaction
        if transaction is not None and "recoveryToken" in reply:
            transaction.recovery_token = reply["recoveryToken"]

    def advance_operation_time(self, operation_time: Timestamp) -> None:
        """
        Make later reads see at least C{operation_time}.
        """
        if self.operation_time is None or operation_time > self.operation_time:
            self.operation_time = operation_time

    def failed(self, command: Command[Any], error: PyMongoError) -> None:
        """
        Label an error as the transactions specification asks, and mark the
        session dirty after a network error.
        """
        network = isinstance(error, ConnectionFailure) and not isinstance(
            error, ServerSelectionTimeoutError
        )
        if network and self.server_session is not None:
            self.server_session.dirty = True
        transaction = self.transaction
        if transaction is None:
            return
        if command.name == "commitTransaction":
            self._label_commit(error)
        elif self.in_transaction and isinstance(error, ConnectionFailure):
            add_error_label(error, TRANSIENT)

    def _label_commit(self, error: PyMongoError) -> None:
        code = getattr(error, "code", None)
        details = getattr(error, "details", None) or {}
        if isinstance(error, ConnectionFailure):
            remove_error_label(error, TRANSIENT)
            add_error_label(error, UNKNOWN_COMMIT)
        elif (
            code == 50
            or error.has_error_label("RetryableWriteError")
            or (details.get("writeConcernError") and code not in _WRITE_CONCERN_DEFINITE)
        ):
            add_error_label(error, UNKNOWN_COMMIT)
