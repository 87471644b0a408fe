"""
Tests for L{txmongokit._sansio.transactions}.
"""

from __future__ import annotations

from typing import Any

from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.admin import CommitTransaction
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.read import FindOne
from txmongokit._sansio.transactions import (
    ServerSessionPool,
    SessionState,
    Transaction,
    newer_cluster_time,
)
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    OperationFailure,
    ServerSelectionTimeoutError,
)

FIND = FindOne("db", "c", CommandOptions())
COMMIT = CommitTransaction(CommandOptions())


def pool() -> ServerSessionPool:
    """A pool whose sessions are numbered."""
    numbers = iter(range(256))
    return ServerSessionPool(lambda: bytes([next(numbers)]) * 16)


def transaction(**options: Any) -> Transaction:
    """A transaction's options."""
    read = options.get("read_concern", ReadConcern())
    write = options.get("write_concern", WriteConcern())
    return Transaction(read, write, ReadPreference.PRIMARY, None)


class PoolTests(SynchronousTestCase):
    """
    Server sessions that wait for use.
    """

    def test_last_in_first_out(self) -> None:
        """The session that was used last is used next."""
        sessions = pool()
        first, second = sessions.take(0, 30), sessions.take(0, 30)
        sessions.give_back(first, 0, 30)
        sessions.give_back(second, 0, 30)
        self.assertIs(sessions.take(0, 30), second)

    def test_expired_and_dirty(self) -> None:
        """Sessions about to expire and dirty ones are dropped."""
        sessions = pool()
        old, dirty = sessions.take(0, 30), sessions.take(0, 30)
        dirty.dirty = True
        sessions.give_back(dirty, 0, 30)
        self.assertEqual(len(sessions), 0)
        sessions.give_back(old, 0, 30)
        self.assertIsNot(sessions.take(29 * 60 + 1, 30), old)


class StateTests(SynchronousTestCase):
    """
    What commands carry, and what errors are labelled.
    """

    def state(self, **options: Any) -> SessionState:
        """An explicit session."""
        return SessionState(pool().take(0, 30), explicit=True, **options)

    def applied(self, state: SessionState, command: Any = FIND) -> dict[str, Any]:
        """What the session adds to a command."""
        body: dict[str, Any] = {}
        state.apply(command, body, 1.0)
        state.sent()
        del body["lsid"]
        return body

    def test_causal(self) -> None:
        """Reads follow what the session has seen."""
        state = self.state()
        self.assertEqual(self.applied(state), {})
        state.observe({"operationTime": Timestamp(4, 2)})
        expected = {"readConcern": {"afterClusterTime": Timestamp(4, 2)}}
        self.assertEqual(self.applied(state), expected)

    def test_snapshot(self) -> None:
        """All reads of a snapshot session are of the first one's time."""
        state = self.state(snapshot=True)
        self.assertEqual(self.applied(state), {"readConcern": {"level": "snapshot"}})
        state.observe({"cursor": {"atClusterTime": Timestamp(4, 2)}})
        concern = {"level": "snapshot", "atClusterTime": Timestamp(4, 2)}
        self.assertEqual(self.applied(state), {"readConcern": concern})
        self.assertRaises(InvalidOperation, state.start_transaction, transaction())

    def test_transaction(self) -> None:
        """Only a transaction's first command starts it, with its read concern."""
        state = self.state()
        state.start_transaction(transaction(read_concern=ReadConcern("snapshot")))
        first, second = self.applied(state), self.applied(state)
        self.assertEqual(first.pop("readConcern"), {"level": "snapshot"})
        self.assertIs(first.pop("startTransaction"), True)
        self.assertEqual(first, {"txnNumber": 1, "autocommit": False})
        self.assertEqual(second, first)
        self.assertTrue(state.start_commit())
        self.assertEqual(self.applied(state, COMMIT), first)
        self.assertEqual(self.applied(state), {})

    def test_refusals(self) -> None:
        """Ends without a beginning, and second beginnings, are refused."""
        state = self.state()
        self.assertRaises(InvalidOperation, state.start_commit)
        self.assertRaises(InvalidOperation, state.start_abort)
        concern = WriteConcern(w=0)
        unacknowledged = transaction(write_concern=concern)
        self.assertRaises(ConfigurationError, state.start_transaction, unacknowledged)
        state.start_transaction(transaction())
        self.assertRaises(InvalidOperation, state.start_transaction, transaction())
        self.assertFalse(state.start_abort())
        self.assertRaises(InvalidOperation, state.start_commit)

    def test_labels(self) -> None:
        """A network error is transient within, unknown at the end, and makes a dirty session."""
        state = self.state()
        state.start_transaction(transaction())
        self.applied(state)
        error = AutoReconnect("gone")
        state.failed(FIND, error)
        self.assertTrue(error.has_error_label("TransientTransactionError"))
        assert state.server_session is not None
        self.assertTrue(state.server_session.dirty)
        state.start_commit()
        for unknown, expected in (
            (AutoReconnect("gone"), True),
            (ServerSelectionTimeoutError("none"), True),
            (OperationFailure("late", 50), True),
            (OperationFailure("no", 20), False),
            (OperationFailure("w", 64, {"writeConcernError": {"code": 64}}), True),
            (OperationFailure("w", 100, {"writeConcernError": {"code": 100}}), False),
        ):
            state.failed(COMMIT, unknown)
            labelled = unknown.has_error_label("UnknownTransactionCommitResult")
            self.assertIs(labelled, expected)

    def test_cluster_time(self) -> None:
        """The later cluster time wins; none is earliest."""
        early, late = {"clusterTime": Timestamp(1, 1)}, {"clusterTime": Timestamp(2, 1)}
        self.assertIs(newer_cluster_time(early, late), late)
        self.assertIs(newer_cluster_time(late, early), late)
        self.assertIs(newer_cluster_time(None, early), early)
        self.assertIs(newer_cluster_time(early, None), early)
