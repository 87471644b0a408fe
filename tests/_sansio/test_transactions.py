"""
Tests for L{txmongokit._sansio.transactions}.
"""

from __future__ import annotations

from typing import Any

from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.server_type import SERVER_TYPE
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._pymongo import add_error_label
from txmongokit._sansio.commands.admin import AbortTransaction, CommitTransaction
from txmongokit._sansio.commands.base import CommandOptions, RunCommand
from txmongokit._sansio.commands.read import FindOne, GetMore
from txmongokit._sansio.commands.write import Insert
from txmongokit._sansio.transactions import (
    BOUND_SESSION,
    ServerSession,
    ServerSessionPool,
    SessionState,
    Transaction,
    admitted,
    bound_session,
    newer_cluster_time,
)
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from txmongokit.types import ConnectionInfo

FIND = FindOne("db", "c", CommandOptions())
INSERT = Insert("db", "c", [], CommandOptions())
PING = RunCommand("db", {"ping": 1}, CommandOptions())
COMMIT = CommitTransaction(CommandOptions())
ABORT = AbortTransaction(CommandOptions())
CLIENT = object()
MONGOS = ConnectionInfo(("router", 27017), SERVER_TYPE.Mongos, max_wire_version=17)
BALANCED = ConnectionInfo(("lb", 27017), SERVER_TYPE.LoadBalancer, max_wire_version=17)
OLD = ConnectionInfo(("old", 27017), SERVER_TYPE.RSPrimary, max_wire_version=9)


def pool() -> ServerSessionPool:
    """A pool whose sessions are numbered."""
    numbers = iter(range(256))
    return ServerSessionPool(lambda: bytes([next(numbers)]) * 16)


def transaction(**options: Any) -> Transaction:
    """A transaction's options."""
    read = options.get("read_concern", ReadConcern())
    write = options.get("write_concern", WriteConcern())
    preference = options.get("read_preference", ReadPreference.PRIMARY)
    return Transaction(read, write, preference, None)


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

    def applied(
        self, state: SessionState, command: Any = FIND, info: ConnectionInfo | None = None
    ) -> dict[str, Any]:
        """What the session adds to a command."""
        body: dict[str, Any] = {}
        state.apply(command, body, 1.0, info)
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
        self.assertEqual(self.applied(state, INSERT), expected)
        self.assertEqual(self.applied(state, PING), {})
        body: dict[str, Any] = {"readConcern": {"level": "majority"}}
        state.apply(FIND, body, 1.0)
        concern = {"level": "majority", "afterClusterTime": Timestamp(4, 2)}
        self.assertEqual(body["readConcern"], concern)

    def test_not_causal(self) -> None:
        """Sessions that are not to be, and implicit ones, are not causally consistent."""
        for state in (
            self.state(causal_consistency=False),
            SessionState(pool().take(0, 30)),
        ):
            state.observe({"operationTime": Timestamp(4, 2)})
            self.assertEqual(self.applied(state), {})

    def test_snapshot(self) -> None:
        """All reads of a snapshot session are of the first one's time."""
        state = self.state(snapshot=True)
        self.assertEqual(self.applied(state), {"readConcern": {"level": "snapshot"}})
        state.observe({"cursor": {"atClusterTime": Timestamp(4, 2)}})
        concern = {"level": "snapshot", "atClusterTime": Timestamp(4, 2)}
        self.assertEqual(self.applied(state), {"readConcern": concern})
        self.assertRaises(InvalidOperation, state.start_transaction, transaction())

    def test_snapshot_of_distinct(self) -> None:
        """C{distinct} tells its time beside its values."""
        state = self.state(snapshot=True)
        state.observe({"values": [], "atClusterTime": Timestamp(4, 2)})
        self.assertEqual(state.snapshot_time, Timestamp(4, 2))

    def test_snapshot_time(self) -> None:
        """A session can begin at another one's snapshot; later replies do not move it."""
        state = self.state(snapshot=True, snapshot_time=Timestamp(3, 1))
        concern = {"level": "snapshot", "atClusterTime": Timestamp(3, 1)}
        self.assertEqual(self.applied(state), {"readConcern": concern})
        state.observe({"cursor": {"atClusterTime": Timestamp(4, 2)}})
        self.assertEqual(self.applied(state), {"readConcern": concern})

    def test_snapshot_everywhere(self) -> None:
        """Every command carries the snapshot, so that servers refuse writes; getMore does not."""
        state = self.state(snapshot=True)
        for command in (INSERT, PING):
            self.assertEqual(self.applied(state, command), {"readConcern": {"level": "snapshot"}})
        more = GetMore("db.c", 7, ("a", 1), CommandOptions())
        self.assertEqual(self.applied(state, more), {})

    def test_snapshot_too_old(self) -> None:
        """A server before 5.0 is not asked for a snapshot."""
        state = self.state(snapshot=True)
        error = self.assertRaises(ConfigurationError, self.applied, state, FIND, OLD)
        self.assertIn("Snapshot reads require MongoDB 5.0 or later", str(error))

    def test_snapshot_options(self) -> None:
        """What makes no sense with or without a snapshot is refused."""
        self.assertRaises(ConfigurationError, self.state, snapshot=True, causal_consistency=True)
        self.assertRaises(ConfigurationError, self.state, snapshot_time=Timestamp(1, 1))
        self.assertRaises(TypeError, self.state, snapshot=True, snapshot_time=5)

    def test_lazy(self) -> None:
        """An implicit session takes its server session with its first command."""
        taken: list[ServerSession] = []

        def source() -> ServerSession:
            taken.append(pool().take(0, 30))
            return taken[-1]

        state = SessionState(None, source=source)
        self.assertFalse(state.ended)
        self.assertEqual(taken, [])
        self.applied(state)
        self.applied(state)
        self.assertEqual(len(taken), 1)
        self.assertIs(state.end(), taken[0])
        self.assertTrue(state.ended)
        self.assertIsNone(state.end())
        unused = SessionState(None, source=source)
        self.assertIsNone(unused.end())
        self.assertRaises(InvalidOperation, self.applied, unused)

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

    def test_causal_transaction(self) -> None:
        """A transaction's first command follows what was seen, even if it writes."""
        state = self.state()
        state.observe({"operationTime": Timestamp(4, 2)})
        state.start_transaction(transaction())
        concern = self.applied(state, INSERT)["readConcern"]
        self.assertEqual(concern, {"afterClusterTime": Timestamp(4, 2)})
        self.assertNotIn("readConcern", self.applied(state, INSERT))

    def test_concerns(self) -> None:
        """Inherited concerns are left out of a transaction; written ones are refused."""
        state = self.state()
        state.start_transaction(transaction())
        for command, name in ((FIND, "readConcern"), (INSERT, "writeConcern")):
            body: dict[str, Any] = {name: {}}
            state.apply(command, body, 1.0)
            self.assertNotIn(name, body)
            error = self.assertRaises(InvalidOperation, state.apply, PING, {name: {}}, 1.0)
            self.assertRegex(str(error), "^Cannot set (read|write) concern after starting a trans")

    def test_refusals(self) -> None:
        """Ends without a beginning, and second beginnings, are refused."""
        state = self.state()

        def refused(text: str, kind: type[Exception], function: Any, *arguments: Any) -> None:
            error = self.assertRaises(kind, function, *arguments)
            self.assertTrue(str(error).startswith(text), str(error))

        refused("No transaction started", InvalidOperation, state.start_commit)
        refused("No transaction started", InvalidOperation, state.start_abort)
        unacknowledged = transaction(write_concern=WriteConcern(w=0))
        refused(
            "transactions do not support unacknowledged write concerns",
            ConfigurationError,
            state.start_transaction,
            unacknowledged,
        )
        state.start_transaction(transaction())
        refused(
            "Transaction already in progress",
            InvalidOperation,
            state.start_transaction,
            transaction(),
        )
        self.assertFalse(state.start_abort())
        text = "Cannot call commitTransaction after calling abortTransaction"
        refused(text, InvalidOperation, state.start_commit)
        refused("Cannot call abortTransaction twice", InvalidOperation, state.start_abort)
        state.start_transaction(transaction())
        self.assertFalse(state.start_commit())
        text = "Cannot call abortTransaction after calling commitTransaction"
        refused(text, InvalidOperation, state.start_abort)
        state.end()
        for method in (state.start_commit, state.start_abort):
            refused("Cannot use ended session", InvalidOperation, method)

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

    def test_replies_are_labelled_by_the_server(self) -> None:
        """That a server is no primary is a reply: no label is added, no session dirty."""
        state = self.state()
        state.start_transaction(transaction())
        self.applied(state)
        error = NotPrimaryError("no", {"code": 10107})
        state.failed(FIND, error)
        self.assertFalse(error.has_error_label("TransientTransactionError"))
        assert state.server_session is not None
        self.assertFalse(state.server_session.dirty)

    def test_never_sent(self) -> None:
        """What never had a connection leaves the session clean, and may be tried again."""
        state = self.state()
        state.start_transaction(transaction())
        self.applied(state)
        for error in (ServerSelectionTimeoutError("none"), WaitQueueTimeoutError("full")):
            state.failed(FIND, error)
            self.assertTrue(error.has_error_label("TransientTransactionError"))
        assert state.server_session is not None
        self.assertFalse(state.server_session.dirty)

    def test_refused_commit(self) -> None:
        """A commit that an overloaded server turned away was no attempt."""
        state = self.state()
        state.start_transaction(transaction())
        self.applied(state)
        state.start_commit()
        error = OperationFailure("busy", 462)
        add_error_label(error, "SystemOverloadedError")
        state.failed(COMMIT, error)
        assert state.transaction is not None
        self.assertTrue(state.transaction.commit_refused)
        self.applied(state, COMMIT)
        self.assertFalse(state.transaction.commit_refused)

    def test_recovery_token(self) -> None:
        """The last recovery token goes with the end, and with no other transaction's."""
        state = self.state()
        state.start_transaction(transaction())
        self.applied(state)
        state.observe({"recoveryToken": {"shard": 1}})
        state.observe({"recoveryToken": {"shard": 2}})
        state.start_abort()
        self.assertEqual(self.applied(state, ABORT)["recoveryToken"], {"shard": 2})
        state.start_transaction(transaction())
        self.applied(state)
        state.start_commit()
        self.assertNotIn("recoveryToken", self.applied(state, COMMIT))

    def test_pinning(self) -> None:
        """A transaction stays with its mongos, also to be committed again."""
        state = self.state()
        self.applied(state, FIND, MONGOS)
        self.assertIsNone(state.pinned_address)
        state.start_transaction(transaction())
        self.applied(state, FIND, MONGOS)
        self.assertEqual(state.pinned_address, MONGOS.address)
        state.start_commit()
        self.applied(state, COMMIT, MONGOS)
        self.assertEqual(state.pinned_address, MONGOS.address)
        state.admit(FIND, None)
        self.assertIsNone(state.pinned_address)

    def test_told_of_unpinning(self) -> None:
        """Who keeps something for a transaction learns of its end, once."""
        for end in ("abandoned", "next", "ended"):
            told: list[str] = []
            state = self.state()
            state.start_transaction(transaction())
            self.applied(state, FIND, BALANCED)
            self.assertEqual(state.pinned_address, BALANCED.address)
            assert state.transaction is not None
            state.transaction.on_unpinned = lambda told=told: told.append("told")
            state.start_commit()
            self.applied(state, COMMIT, BALANCED)
            self.assertEqual(told, [])
            if end == "abandoned":
                state.admit(FIND, None)
            elif end == "next":
                state.start_transaction(transaction())
            else:
                state.end()
            state.unpin()
            self.assertEqual((told, state.pinned_address), (["told"], None))

    def test_unpinning(self) -> None:
        """Errors after which its mongos knows the transaction no more unpin it."""

        def pinned_after(command: Any, error: Exception) -> bool:
            state = self.state()
            state.start_transaction(transaction())
            self.applied(state, FIND, MONGOS)
            if command is COMMIT:
                state.start_commit()
            elif command is ABORT:
                state.start_abort()
            state.failed(command, error)  # type: ignore[arg-type]
            return state.pinned_address is not None

        self.assertFalse(pinned_after(FIND, AutoReconnect("gone")))
        self.assertTrue(pinned_after(FIND, OperationFailure("duplicate", 11000)))
        self.assertFalse(pinned_after(COMMIT, AutoReconnect("gone")))
        self.assertTrue(pinned_after(COMMIT, OperationFailure("no", 20)))
        self.assertFalse(pinned_after(ABORT, OperationFailure("no", 20)))

    def test_cluster_time(self) -> None:
        """The later cluster time wins; none is earliest."""
        early, late = {"clusterTime": Timestamp(1, 1)}, {"clusterTime": Timestamp(2, 1)}
        self.assertIs(newer_cluster_time(early, late), late)
        self.assertIs(newer_cluster_time(late, early), late)
        self.assertIs(newer_cluster_time(None, early), early)
        self.assertIs(newer_cluster_time(early, None), early)


class AdmissionTests(SynchronousTestCase):
    """
    What may run in a session, before a server is chosen.
    """

    def state(self, **options: Any) -> SessionState:
        """An explicit session of L{CLIENT}."""
        return SessionState(pool().take(0, 30), explicit=True, client=CLIENT, **options)

    def test_none(self) -> None:
        """Without any session there is none."""
        self.assertIsNone(admitted(CLIENT, FIND, None))

    def test_implicit(self) -> None:
        """An implicit session permits everything."""
        state = SessionState(pool().take(0, 30))
        unacknowledged = Insert("d", "c", [], CommandOptions(write_concern=WriteConcern(w=0)))
        self.assertIs(admitted(CLIENT, unacknowledged, state), state)

    def test_strangers(self) -> None:
        """A session is its own client's."""
        state = self.state()
        self.assertIs(admitted(CLIENT, FIND, state), state)
        self.assertRaises(InvalidOperation, admitted, object(), FIND, state)

    def test_ended(self) -> None:
        """An ended session permits nothing."""
        state = self.state()
        state.end()
        self.assertRaises(InvalidOperation, admitted, CLIENT, FIND, state)

    def test_unacknowledged(self) -> None:
        """Unacknowledged writes have no session, but in a transaction are acknowledged."""
        state = self.state()
        command = Insert("d", "c", [], CommandOptions(write_concern=WriteConcern(w=0)))
        self.assertRaises(ConfigurationError, state.admit, command, CLIENT)
        state.start_transaction(transaction())
        state.admit(command, CLIENT)

    def test_read_preference(self) -> None:
        """Reads in a transaction whose preference is not primary are refused, writes are not."""
        state = self.state()
        state.start_transaction(transaction(read_preference=ReadPreference.NEAREST))
        state.admit(INSERT, CLIENT)
        for command in (FIND, PING):
            error = self.assertRaises(InvalidOperation, state.admit, command, CLIENT)
            self.assertIn("read preference in a transaction must be primary", str(error))
        state.start_commit()
        state.admit(FIND, CLIENT)

    def test_own_read_preference(self) -> None:
        """A collection's preference gives way to the transaction's; runCommand's own does not."""
        state = self.state()
        state.start_transaction(transaction())
        options = CommandOptions(read_preference=ReadPreference.SECONDARY)
        state.admit(FindOne("d", "c", options), CLIENT)
        command = RunCommand("d", {"find": "c"}, options)
        self.assertRaises(InvalidOperation, state.admit, command, CLIENT)

    def test_own_timeout(self) -> None:
        """Where there is a deadline for all, an operation has no timeout of its own."""
        state = self.state()
        command = FindOne("d", "c", CommandOptions(timeout=1, timeout_given=True))
        state.admit(command, CLIENT)
        state.deadline = 5.0
        self.assertRaises(InvalidOperation, state.admit, command, CLIENT)
        state.admit(FindOne("d", "c", CommandOptions(timeout=1)), CLIENT)

    def test_leaves_transaction(self) -> None:
        """The next operation leaves an ended transaction behind; its end does not."""
        state = self.state()
        state.start_transaction(transaction())
        state.start_abort()
        state.admit(ABORT, CLIENT)
        self.assertIsNotNone(state.transaction)
        state.admit(FIND, CLIENT)
        self.assertIsNone(state.transaction)

    def test_bound(self) -> None:
        """A bound session is taken where none is given, by its client only."""
        state, other = self.state(), self.state()
        token = BOUND_SESSION.set(state)
        self.addCleanup(BOUND_SESSION.reset, token)
        self.assertIs(bound_session(CLIENT), state)
        self.assertIs(admitted(CLIENT, FIND, None), state)
        self.assertIs(admitted(CLIENT, FIND, other), other)
        self.assertRaises(InvalidOperation, admitted, object(), FIND, None)
