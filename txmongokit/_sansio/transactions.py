"""
Logical sessions and transactions, as state.

Follows the drivers' sessions, snapshot-sessions, causal-consistency and
transactions specifications.  A L{SessionState} decides whether a command may
run in it, what the command carries (C{lsid}, C{txnNumber},
C{startTransaction}, C{readConcern}, ...) and what each reply or failure does
to the session.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.server_type import SERVER_TYPE
from pymongo.write_concern import WriteConcern

from txmongokit._pymongo import RETRYABLE_CODES, add_error_label, remove_error_label
from txmongokit._sansio.commands.base import Command, RunCommand
from txmongokit.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    NotPrimaryError,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from txmongokit.types import Address, ConnectionInfo

__all__ = [
    "BOUND_SESSION",
    "ServerSession",
    "ServerSessionPool",
    "SessionState",
    "TRANSIENT",
    "Transaction",
    "TransactionState",
    "UNKNOWN_COMMIT",
    "admitted",
    "bound_session",
    "newer_cluster_time",
]

TRANSIENT = "TransientTransactionError"
UNKNOWN_COMMIT = "UnknownTransactionCommitResult"
OVERLOADED = "SystemOverloadedError"

# Codes after which it is known that a commit did not happen or that trying
# again cannot help, so UnknownTransactionCommitResult is not added
# (transactions specification, "UnknownTransactionCommitResult").
_WRITE_CONCERN_DEFINITE = frozenset({79, 100})

# MaxTimeMSExpired and WriteConcernTimeout.
_UNSETTLED_CODES = RETRYABLE_CODES | {50, 64}

# The writes that can wait for a cluster time (causal-consistency specification).
_CAUSAL_WRITES = frozenset(
    {
        "aggregate",
        "bulkWrite",
        "create",
        "createIndexes",
        "delete",
        "drop",
        "dropDatabase",
        "dropIndexes",
        "findAndModify",
        "insert",
        "update",
    }
)
# What goes to an open cursor has no read concern of its own.
_CURSOR_COMMANDS = frozenset({"getMore", "killCursors"})
# From 5.0 on.
_SNAPSHOT_WIRE_VERSION = 13
_TRANSACTIONS_WIRE_VERSION = 7

_ENDING = ("commitTransaction", "abortTransaction")

# What keeps a transaction to itself.
_PINNED_TO = (SERVER_TYPE.Mongos, SERVER_TYPE.LoadBalancer)

# Connection failures after which nothing can be left running in the session.
_NOT_OF_THE_NETWORK = (NotPrimaryError, ServerSelectionTimeoutError, WaitQueueTimeoutError)


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

    @ivar commit_refused: the last commit was turned away by an overloaded
        server, so that it was no attempt.
    @ivar recovery_token: the last that a mongos gave.
    @ivar on_unpinned: called when its session lets go of what is pinned.
    """

    __slots__ = (
        "commit_refused",
        "max_commit_time_ms",
        "on_unpinned",
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
        self.commit_refused = False
        self.on_unpinned: Callable[[], None] | None = None


class SessionState:
    """
    One client session: explicit, or implicit for a single operation or
    cursor.

    An implicit one may take its server session when its first command is
    built, by C{source}: so no more of them are in use than connections.

    @param source: what gives the server session, where C{server_session} is
        C{None}.

    @ivar server_session: C{None} once the session has ended, or before
        C{source} was asked.
    @ivar client: whose session it is; C{None} where anyone may use it.
    @ivar explicit: whether the user started it.
    @ivar causal_consistency: whether reads carry C{afterClusterTime}.
    @ivar snapshot: whether all reads are of one point in time.
    @ivar snapshot_time: that point; C{None} until the first read found it.
    @ivar default_transaction_options: what C{start_transaction} inherits.
    @ivar default_timeout: seconds for committing, aborting, ending and whole
        retried transactions; C{None} for the client's.
    @ivar deadline: when every command in it must have ended, in the runner's
        seconds, or C{None}.
    @ivar pinned_address: the mongos that has its transaction, or the load
        balancer through which one has it.
    @ivar trace: is told of its transactions by C{started()} and, where no
        command ends one, C{ended()}; C{None} where nobody is.
    """

    __slots__ = (
        "causal_consistency",
        "client",
        "cluster_time",
        "deadline",
        "default_timeout",
        "default_transaction_options",
        "explicit",
        "operation_time",
        "pinned_address",
        "server_session",
        "snapshot",
        "snapshot_time",
        "source",
        "trace",
        "transaction",
    )

    def __init__(
        self,
        server_session: ServerSession | None,
        *,
        source: Callable[[], ServerSession] | None = None,
        client: Any = None,
        explicit: bool = False,
        causal_consistency: bool | None = None,
        snapshot: bool = False,
        snapshot_time: Timestamp | None = None,
        default_transaction_options: Any = None,
        default_timeout: float | None = None,
    ) -> None:
        if snapshot and causal_consistency:
            raise ConfigurationError(
                "snapshot and causal_consistency exclude each other: pass one of them"
            )
        if snapshot_time is not None:
            _check_snapshot_time(snapshot, snapshot_time)
        self.server_session = server_session
        self.source = source
        self.client = client
        self.explicit = explicit
        self.causal_consistency = (
            explicit and not snapshot if causal_consistency is None else causal_consistency
        )
        self.snapshot = snapshot
        self.snapshot_time = snapshot_time
        self.default_transaction_options = default_transaction_options
        self.default_timeout = default_timeout
        self.operation_time: Timestamp | None = None
        self.cluster_time: Mapping[str, Any] | None = None
        self.transaction: Transaction | None = None
        self.deadline: float | None = None
        self.pinned_address: Address | None = None
        self.trace: Any = None

    @property
    def ended(self) -> bool:
        """
        Whether the session was given back.
        """
        return self.server_session is None and self.source is None

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
        session = self.server_session
        if session is None:
            if self.source is None:
                raise InvalidOperation("Cannot use ended session: start a new one")
            session = self.server_session = self.source()
        return session

    def unpin(self) -> None:
        """
        Let go of the mongos, or of the connection through a load balancer,
        that has the transaction.
        """
        self.pinned_address = None
        transaction = self.transaction
        if transaction is not None and transaction.on_unpinned is not None:
            on_unpinned, transaction.on_unpinned = transaction.on_unpinned, None
            on_unpinned()

    def end(self) -> ServerSession | None:
        """
        End it, whatever goes on in it.

        @return: the server session to be given back, if it has one.
        """
        session, self.server_session, self.source = self.server_session, None, None
        if self.pinned_address is not None:
            self.unpin()
        return session

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
        @raise ConfigurationError: it has an unacknowledged write concern.
        """
        session = self._require_server_session()
        if self.snapshot:
            raise InvalidOperation(
                "Transactions are not supported in snapshot sessions: start another session"
            )
        if self.in_transaction:
            raise InvalidOperation("Transaction already in progress: commit or abort it first")
        if not transaction.write_concern.acknowledged:
            raise ConfigurationError(
                "transactions do not support unacknowledged write concerns: pass w=1 or "
                "w='majority'"
            )
        session.transaction_number += 1
        self.unpin()
        self.transaction = transaction
        if self.trace is not None:
            self.trace.started()

    def start_commit(self) -> bool:
        """
        Check that a commit makes sense now.

        @return: whether a command must be sent (not for an empty one).
        @raise InvalidOperation: there is nothing to commit.
        """
        self._require_server_session()
        transaction = self.transaction
        if transaction is None:
            raise InvalidOperation("No transaction started: call start_transaction first")
        if transaction.state is TransactionState.ABORTED:
            raise InvalidOperation("Cannot call commitTransaction after calling abortTransaction")
        if transaction.state in (TransactionState.STARTING, TransactionState.COMMITTED_EMPTY):
            transaction.state = TransactionState.COMMITTED_EMPTY
            if self.trace is not None:
                self.trace.ended()
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
            raise InvalidOperation("No transaction started: call start_transaction first")
        if transaction.state is TransactionState.ABORTED:
            raise InvalidOperation("Cannot call abortTransaction twice")
        if not self.in_transaction:
            raise InvalidOperation("Cannot call abortTransaction after calling commitTransaction")
        started = transaction.state is TransactionState.IN_PROGRESS
        transaction.state = TransactionState.ABORTED
        if self.trace is not None and not started:
            self.trace.ended()
        return started

    def admit(self, command: Command[Any], client: Any) -> None:
        """
        Check that a command may run in this session, before a server is
        selected for it.  A transaction that has ended is left behind.

        @param client: who is to run it.

        @raise InvalidOperation: the session has ended or is another
            client's; the read preference of its transaction is not primary;
            the command has a time limit of its own within one for all.
        @raise ConfigurationError: the write is unacknowledged.
        """
        if self.ended:
            self._require_server_session()
        if self.client is not None and self.client is not client:
            raise InvalidOperation(
                "Can only use session with the client that started it: start one there"
            )
        if command.name in _ENDING:
            return
        options = command.options
        if self.deadline is not None and options.timeout_given:
            raise InvalidOperation(
                "with_transaction has a timeout for all its operations: pass none to them"
            )
        transaction = self.transaction
        if transaction is not None and self.in_transaction:
            preference = transaction.read_preference
            if isinstance(command, RunCommand) and options.read_preference.mode:
                preference = options.read_preference  # It has none but its own.
            if preference.mode and (command.is_read or command.follows_read_preference):
                raise InvalidOperation(
                    f"read preference in a transaction must be primary, not {preference}: pass "
                    "read_preference to start_transaction"
                )
            return
        self._leave_transaction()
        if command.is_write and not options.write_concern.acknowledged:
            raise ConfigurationError(
                "Explicit sessions are incompatible with an unacknowledged write concern: pass "
                "no session or w=1"
            )

    def _leave_transaction(self) -> None:
        self.unpin()
        self.transaction = None

    def apply(
        self,
        command: Command[Any],
        body: dict[str, Any],
        now: float,
        info: ConnectionInfo | None = None,
    ) -> None:
        """
        Write into C{body} what this session adds to a command.

        The caller adds the command's own C{readConcern} and
        C{writeConcern} first; inside a transaction they are left out.

        @param info: the connection that it goes to; a mongos that a
            transaction begins on gets all of it.

        @raise InvalidOperation: the session has ended, or the user wrote a
            concern into a command of a transaction.
        @raise ConfigurationError: the server is too old for snapshots.
        """
        session = self._require_server_session()
        session.last_use = now
        body["lsid"] = session.session_id
        transaction = self.transaction
        if transaction is not None:
            if command.name in _ENDING:
                transaction.commit_refused = False
                body["txnNumber"] = Int64(session.transaction_number)
                body["autocommit"] = False
                if transaction.recovery_token is not None:
                    body["recoveryToken"] = transaction.recovery_token
                return
            if self.in_transaction:
                self._apply_transaction(command, session, body, info)
                return
            self._leave_transaction()
        if self.snapshot:
            self._apply_snapshot(command, body, info)
        elif (
            self.causal_consistency
            and self.operation_time is not None
            and (command.is_read or (command.is_write and command.name in _CAUSAL_WRITES))
        ):
            body["readConcern"] = {
                **body.get("readConcern", {}),
                "afterClusterTime": self.operation_time,
            }

    def _apply_snapshot(
        self, command: Command[Any], body: dict[str, Any], info: ConnectionInfo | None
    ) -> None:
        # On every command, so that the server refuses those that have no snapshot.
        if command.name in _CURSOR_COMMANDS:
            return
        if info is not None and info.max_wire_version < _SNAPSHOT_WIRE_VERSION:
            raise ConfigurationError("Snapshot reads require MongoDB 5.0 or later")
        concern: dict[str, Any] = {"level": "snapshot"}
        if self.snapshot_time is not None:
            concern["atClusterTime"] = self.snapshot_time
        body["readConcern"] = concern

    def _apply_transaction(
        self,
        command: Command[Any],
        session: ServerSession,
        body: dict[str, Any],
        info: ConnectionInfo | None,
    ) -> None:
        transaction = self.transaction
        assert transaction is not None
        if info is not None and info.max_wire_version < _TRANSACTIONS_WIRE_VERSION:
            raise ConfigurationError("transactions need MongoDB 4.0: upgrade the server")
        if "readConcern" in body:
            if not command.is_read:
                raise InvalidOperation(
                    "Cannot set read concern after starting a transaction: pass it to "
                    "start_transaction"
                )
            del body["readConcern"]
        if "writeConcern" in body:
            if not command.is_write:
                raise InvalidOperation(
                    "Cannot set write concern after starting a transaction: pass it to "
                    "start_transaction"
                )
            del body["writeConcern"]
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
        if info is not None and info.server_type in _PINNED_TO:
            self.pinned_address = info.address

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
        Label an error as the transactions specification asks, mark the
        session dirty after a network error, and unpin it from a mongos that
        has lost or ended the transaction.
        """
        if isinstance(error, ConnectionFailure) and not isinstance(error, _NOT_OF_THE_NETWORK):
            session = self.server_session
            if session is not None:
                session.dirty = True
        transaction = self.transaction
        if transaction is None:
            return
        if command.name == "commitTransaction":
            transaction.commit_refused = error.has_error_label(OVERLOADED)
            _label_commit(error)
            if error.has_error_label(UNKNOWN_COMMIT):
                self.unpin()
        elif command.name == "abortTransaction":
            self.unpin()
        elif (
            self.in_transaction
            and isinstance(error, ConnectionFailure)
            # That is a reply, which the server labels.
            and not isinstance(error, NotPrimaryError)
        ):
            add_error_label(error, TRANSIENT)
        if error.has_error_label(TRANSIENT):
            self.unpin()


def _label_commit(error: PyMongoError) -> None:
    code = getattr(error, "code", None)
    details = getattr(error, "details", None) or {}
    if isinstance(error, ConnectionFailure):
        remove_error_label(error, TRANSIENT)
        add_error_label(error, UNKNOWN_COMMIT)
    elif (
        code in _UNSETTLED_CODES
        or error.has_error_label("RetryableWriteError")
        or (details.get("writeConcernError") and code not in _WRITE_CONCERN_DEFINITE)
    ):
        add_error_label(error, UNKNOWN_COMMIT)


def _check_snapshot_time(snapshot: bool, snapshot_time: Any) -> None:
    if not isinstance(snapshot_time, Timestamp):
        raise TypeError(
            f"snapshot_time must be a bson Timestamp, not {type(snapshot_time).__name__}"
        )
    if not snapshot:
        raise ConfigurationError("snapshot_time is for snapshot sessions: pass snapshot=True, too")


#: What C{ClientSession.bind} sets for the block that it begins.
BOUND_SESSION: ContextVar[SessionState | None] = ContextVar("BOUND_SESSION", default=None)


def bound_session(client: Any) -> SessionState | None:
    """
    The session that an operation without one belongs to here and now.

    @param client: who is to run the operation.

    @raise InvalidOperation: one of another client is bound.
    """
    state = BOUND_SESSION.get()
    if state is not None and state.client is not client:
        raise InvalidOperation(
            "Only the client that created the bound session can perform operations within its "
            "context block: run this one outside of it"
        )
    return state


def admitted(
    client: Any, command: Command[Any], session: SessionState | None
) -> SessionState | None:
    """
    The session to run a command in: the given or the bound one, which
    permits it.

    @raise PyMongoError: see L{bound_session} and L{SessionState.admit}.
    """
    if session is None:
        session = bound_session(client)
        if session is None:
            return None
    if session.explicit:
        session.admit(command, client)
    return session
