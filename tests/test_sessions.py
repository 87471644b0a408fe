"""
Tests for L{txmongokit.sessions}.
"""

from __future__ import annotations

from bson.timestamp import Timestamp
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner
from txmongokit.errors import AutoReconnect, InvalidOperation, WriteConcernError
from txmongokit.sessions import ClientSession


class SessionTests(SynchronousTestCase):
    """
    Sessions and their transactions.
    """

    def session(self, runner: FakeRunner) -> ClientSession:
        """An explicit session."""
        return ClientSession(runner, runner.take_session(explicit=True))

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
