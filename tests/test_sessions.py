"""
Tests for L{txmongokit.sessions}.
"""

from __future__ import annotations

from typing import Any

from bson.timestamp import Timestamp
from pymongo.client_session import TransactionOptions  # type: ignore[attr-defined]  # documented
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner
from txmongokit._pymongo import add_error_label
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.transactions import bound_session
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    OperationFailure,
    WriteConcernError,
)
from txmongokit.sessions import ClientSession, SessionOptions


class SessionTests(SynchronousTestCase):
    """
    Sessions and their transactions.
    """

    def session(self, runner: FakeRunner, **options: Any) -> ClientSession:
        """An explicit session."""
        return ClientSession(runner, runner.take_session(explicit=True, client=runner, **options))

    def test_options(self) -> None:
        """What a session was started with can be asked, but not changed."""
        runner = FakeRunner()
        session = self.session(runner)
        self.assertIs(session.client, runner)
        self.assertEqual(session.options, SessionOptions(causal_consistency=True))
        time = Timestamp(5, 1)
        session = self.session(runner, snapshot=True, snapshot_time=time, default_timeout=3)
        self.assertEqual(session.options, SessionOptions(False, None, True, time, 3))
        wrong: Any = session.options
        self.assertRaises(AttributeError, setattr, wrong, "snapshot", False)

    def test_wrong_options(self) -> None:
        """Options of the wrong type or value are refused."""
        runner = FakeRunner()
        for kind, options in (
            (TypeError, {"default_transaction_options": {}}),
            (TypeError, {"default_timeout": "1"}),
            (TypeError, {"default_timeout": True}),
            (ConfigurationError, {"default_timeout": -1}),
        ):
            self.assertRaises(kind, self.session, runner, **options)

    def test_snapshot_time(self) -> None:
        """A snapshot session tells its time, once a read has found it; others have none."""
        runner = FakeRunner()
        session = self.session(runner, snapshot=True)
        self.assertIsNone(session.snapshot_time)
        session.state.observe({"cursor": {"atClusterTime": Timestamp(4, 2)}})
        self.assertEqual(session.snapshot_time, Timestamp(4, 2))
        other = self.session(runner)
        self.assertRaises(InvalidOperation, lambda: other.snapshot_time)

    def test_inheritance(self) -> None:
        """A transaction's options are its own, the session's, the client's, in this order."""
        runner = FakeRunner()
        runner.options = CommandOptions(
            read_concern=ReadConcern("local"),
            write_concern=WriteConcern(3),
            read_preference=ReadPreference.NEAREST,
        )
        defaults = TransactionOptions(
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(2),
            max_commit_time_ms=60,
        )
        session = self.session(runner, default_transaction_options=defaults)
        session.start_transaction(write_concern=WriteConcern(1))
        transaction = session.state.transaction
        assert transaction is not None
        self.assertEqual(transaction.read_concern, ReadConcern("majority"))
        self.assertEqual(transaction.write_concern, WriteConcern(1))
        self.assertEqual(transaction.read_preference, ReadPreference.NEAREST)
        self.assertEqual(transaction.max_commit_time_ms, 60)

    def test_wrong_transaction_options(self) -> None:
        """A transaction's options are checked, the client's too, before it begins."""
        runner = FakeRunner()
        session = self.session(runner)
        self.assertRaises(TypeError, session.start_transaction, {"level": "local"})
        unacknowledged = WriteConcern(w=0)
        self.assertRaises(ConfigurationError, session.start_transaction, None, unacknowledged)
        runner.options = CommandOptions(write_concern=unacknowledged)
        self.assertRaises(ConfigurationError, session.start_transaction)
        self.assertFalse(session.in_transaction)

    def test_commit_turned_away(self) -> None:
        """A commit after one that an overloaded server refused asks for no majority."""
        busy = OperationFailure("busy", 462)
        add_error_label(busy, "SystemOverloadedError")
        runner = FakeRunner(busy, AutoReconnect("gone"))
        session = self.session(runner)
        session.start_transaction()
        session.state.sent()
        for error in (OperationFailure, AutoReconnect, None):
            waiting = session.commit_transaction()
            if error is None:
                self.successResultOf(waiting)
            else:
                session.state.failed(
                    runner.commands[-1], self.failureResultOf(waiting, error).value
                )
        concerns = [command.options.write_concern.document for command in runner.commands]
        self.assertEqual(concerns, [{}, {}, {"w": "majority", "wtimeout": 10000}])

    def test_timeouts(self) -> None:
        """Commits, aborts and ends have their own, the session's or the client's timeout."""

        def limits(runner: FakeRunner, session: ClientSession) -> list[float | None]:
            for timeout in (4, None):
                session.start_transaction()
                session.state.sent()
                self.successResultOf(session.commit_transaction(timeout=timeout))
                session.start_transaction()
                session.state.sent()
                self.successResultOf(session.abort_transaction(timeout=timeout))
            session.start_transaction()
            session.state.sent()
            self.successResultOf(session.end_session())
            return [command.options.timeout for command in runner.commands]

        runner = FakeRunner()
        session = self.session(runner, default_timeout=2)
        runner.options = CommandOptions(timeout=9)
        self.assertEqual(limits(runner, session), [4, 4, 2, 2, 2])
        runner = FakeRunner()
        runner.options = CommandOptions(timeout=9)
        self.assertEqual(limits(runner, self.session(runner)), [4, 4, 9, 9, 9])

    def test_end_with_timeout(self) -> None:
        """The abort at a session's end takes its timeout."""
        runner = FakeRunner()
        session = self.session(runner)
        session.start_transaction()
        session.state.sent()
        self.successResultOf(session.end_session(timeout=7))
        self.assertEqual(runner.commands[0].options.timeout, 7)

    def test_awaited_start(self) -> None:
        """C{await session.start_transaction()}, as in PyMongo, is the same."""
        session = self.session(FakeRunner())

        async def work() -> None:
            async with await session.start_transaction():
                self.assertTrue(session.in_transaction)

        self.successResultOf(Deferred.fromCoroutine(work()))
        self.assertFalse(session.in_transaction)

    def test_bind(self) -> None:
        """A bound session is the block's, and what runs meanwhile does not see it."""
        runner = FakeRunner()
        session = self.session(runner)
        gate: Deferred[None] = Deferred()

        async def work() -> None:
            async with session.bind() as bound:
                self.assertIs(bound, session)
                self.assertIs(bound_session(runner), session.state)
                await gate
                self.assertIs(bound_session(runner), session.state)
            self.assertIsNone(bound_session(runner))

        waiting = Deferred.fromCoroutine(work())
        self.assertIsNone(bound_session(runner))
        gate.callback(None)
        self.successResultOf(waiting)
        self.assertTrue(session.has_ended)

    def test_bind_inside(self) -> None:
        """The innermost binding counts; a session may outlive its block."""
        runner = FakeRunner()
        outer, inner = self.session(runner), self.session(runner)

        async def work() -> None:
            async with outer.bind(end_session=False):
                async with inner.bind():
                    self.assertIs(bound_session(runner), inner.state)
                self.assertIs(bound_session(runner), outer.state)

        self.successResultOf(Deferred.fromCoroutine(work()))
        self.assertTrue(inner.has_ended)
        self.assertFalse(outer.has_ended)

    def test_empty_commit(self) -> None:
        """A transaction in which nothing happened sends nothing."""
        runner = FakeRunner()
        session = self.session(runner)
        session.start_transaction()
        self.successResultOf(session.commit_transaction())
        self.assertEqual(runner.commands, [])
        self.assertFalse(session.in_transaction)

    def test_commit_again(self) -> None:
        """A repeated commit asks for a majority within ten seconds."""
        runner = FakeRunner()
        session = self.session(runner)
        session.start_transaction(write_concern=WriteConcern(w=1), max_commit_time_ms=70)
        session.state.sent()
        self.successResultOf(session.commit_transaction())
        self.successResultOf(session.commit_transaction())
        concerns = [command.options.write_concern.document for command in runner.commands]
        self.assertEqual(concerns, [{"w": 1}, {"w": "majority", "wtimeout": 10000}])
        self.assertEqual(runner.bodies[0], {"commitTransaction": 1, "maxTimeMS": 70})
        self.assertEqual(runner.sessions[0], session.state)

    def test_commit_concern_not_met(self) -> None:
        """An unmet write concern fails the commit with what the server said."""
        reply = {"ok": 1, "writeConcernError": {"code": 100, "errmsg": "too few"}}
        session = self.session(FakeRunner(reply))
        session.start_transaction()
        session.state.sent()
        error = self.failureResultOf(session.commit_transaction(), WriteConcernError).value
        self.assertEqual(error.code, 100)

    def test_abort_ignores_errors(self) -> None:
        """That an abort could not be told to the server is no error."""
        runner = FakeRunner(AutoReconnect("gone"))
        session = self.session(runner)
        session.start_transaction()
        session.state.sent()
        self.successResultOf(session.abort_transaction())
        self.assertEqual(runner.names, ["abortTransaction"])
        self.failureResultOf(session.abort_transaction(), InvalidOperation)

    def test_context(self) -> None:
        """The block's end commits, an exception aborts, and the session ends."""
        runner = FakeRunner()

        async def work(fails: bool) -> None:
            async with self.session(runner) as session, session.start_transaction():
                session.state.sent()
                if fails:
                    raise KeyError("fails")

        self.successResultOf(Deferred.fromCoroutine(work(False)))
        self.failureResultOf(Deferred.fromCoroutine(work(True)), KeyError)
        self.assertEqual(runner.names, ["commitTransaction", "abortTransaction"])
        self.assertEqual(len(runner.ended), 2)

    def test_end_aborts(self) -> None:
        """Ending a session aborts its transaction; ending twice does nothing."""
        runner = FakeRunner()
        session = self.session(runner)
        session.start_transaction()
        session.state.sent()
        self.successResultOf(session.end_session())
        self.successResultOf(session.end_session())
        self.assertEqual(runner.names, ["abortTransaction"])
        self.assertTrue(session.has_ended)
        self.assertRaises(InvalidOperation, session.start_transaction)

    def test_times(self) -> None:
        """Operation and cluster time only move forward."""
        session = self.session(FakeRunner())
        session.advance_operation_time(Timestamp(5, 1))
        session.advance_operation_time(Timestamp(4, 1))
        self.assertEqual(session.operation_time, Timestamp(5, 1))
        session.advance_cluster_time({"clusterTime": Timestamp(5, 1)})
        session.advance_cluster_time({"clusterTime": Timestamp(4, 1)})
        self.assertEqual(session.cluster_time, {"clusterTime": Timestamp(5, 1)})
        self.assertRaises(ValueError, session.advance_cluster_time, {})
        self.assertRaises(TypeError, session.advance_operation_time, 5)
