"""
What L{txmongokit._net.executor} does with sessions, through a client in memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bson.timestamp import Timestamp
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from tests._net.test_executor import ExecutorTestCase, found
from tests.fakeserver import FakeServer, refusal
from txmongokit.connection import ConnectionPool
from txmongokit.errors import ConfigurationError, InvalidOperation, WriteConcernError
from txmongokit.sessions import ClientSession


class ExecutorSessionTests(ExecutorTestCase):
    """Which session a command is run in, and what that does to it."""

    def test_waiting_takes_none(self) -> None:
        """Operations that wait for a connection hold no server session: they share one."""
        client = self.new_client(maxPoolSize=1)
        self.do(client["db"].command("ping"))
        del self.server.commands[:]
        self.answers(*[found({"_id": n}) for n in range(4)])
        things = client["db"]["things"]
        operations: list[Deferred[Any]] = [things.find_one({"a": n}) for n in range(3)]
        operations.append(things.find().to_list())
        for operation in operations:
            self.do(operation)
        self.assertEqual(len({bytes(body["lsid"]["id"]) for body in self.server.commands}), 1)
        self.assertEqual(len(self.server.commands), 4)

    def test_unknown_mongos(self) -> None:
        """A transaction waits for its mongos, and goes to no other, while it is not known."""
        routers = [self.network.add(host) for host in ("r", "s")]
        client = ConnectionPool(
            "mongodb://r,s/",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            serverSelectionTimeoutMS=10_000,
        )
        self.addCleanup(self.network.end, client)

        def shut_down(router: FakeServer, body: dict[str, Any]) -> dict[str, Any]:
            router.on_hello = lambda body: refusal()
            unsettled = {"code": 91, "errmsg": "shutting down"}
            return {"ok": 1.0, "n": 1, "writeConcernError": unsettled}

        for router in routers:
            router.hello = {"msg": "isdbgrid"}
            router.on_command = partial(shut_down, router)
        session = client.start_session()
        session.start_transaction()
        insert = client["db"]["things"].insert_one({}, session=session)
        self.network.advance(1.0)
        self.failureResultOf(insert, WriteConcernError)
        (pinned,) = [router for router in routers if router.names() == ["insert"]]
        pinned.on_command = lambda body: {"ok": 1.0}
        abort = session.abort_transaction()
        self.network.advance(2.0)
        self.assertNoResult(abort)
        pinned.on_hello = None
        self.network.advance(2.0)
        self.successResultOf(abort)
        self.assertEqual(pinned.names(), ["insert", "abortTransaction"])
        self.assertEqual(sum(len(router.commands) for router in routers), 2)

    def test_bound(self) -> None:
        """Single commands, cursors and bulk writes take the bound session."""
        self.answers({"ok": 1.0, "n": 1}, found({"_id": 1}), {"ok": 1.0, "n": 2})
        session = self.client.start_session()

        async def work() -> None:
            async with session.bind(end_session=False):
                await self.things.insert_one({})
                await self.things.find().to_list()
                await self.things.insert_many([{}, {}])
            await self.things.insert_one({})

        self.do(Deferred.fromCoroutine(work()))
        *inside, outside = [body["lsid"] for body in self.server.commands]
        self.assertEqual(inside, [session.session_id] * 3)
        self.assertNotEqual(outside, session.session_id)

    def test_refused(self) -> None:
        """Sessions of others, ended ones and unacknowledged writes send nothing."""
        other = self.new_client()
        session = other.start_session()
        self.fails(self.things.find_one(session=session), InvalidOperation)
        self.do(session.end_session())
        self.fails(other["db"]["things"].find_one(session=session), InvalidOperation)
        unacknowledged = self.things.with_options(write_concern=WriteConcern(w=0))
        session = self.client.start_session()
        self.fails(unacknowledged.insert_one({}, session=session), ConfigurationError)
        self.assertEqual(self.server.commands, [])

    def test_snapshot_time(self) -> None:
        """The snapshot's time is read from one session's reply and given to another's reads."""
        time = Timestamp(7, 1)
        reply = found({"_id": 1})
        reply["cursor"]["atClusterTime"] = time
        self.answers(reply, found(), found())
        session = self.client.start_session(snapshot=True)
        self.do(self.things.find_one(session=session))
        self.do(self.things.find_one(session=session))
        later = self.client.start_session(snapshot=True, snapshot_time=session.snapshot_time)
        self.do(self.things.find_one(session=later))
        concerns = [body["readConcern"] for body in self.server.commands]
        expected = {"level": "snapshot", "atClusterTime": time}
        self.assertEqual(concerns, [{"level": "snapshot"}, expected, expected])

    def test_one_deadline(self) -> None:
        """with_transaction's timeout overrides inherited ones and refuses operations' own."""
        patient = self.client.get_database("db", timeout=60)["things"]
        hasty = self.client.get_database("db", timeout=0.001)["things"]

        async def work(session: ClientSession) -> None:
            await patient.insert_one({}, session=session)
            await hasty.insert_one({}, session=session)
            with self.assertRaises(InvalidOperation):
                await patient.insert_one({}, session=session, timeout=1)

        session = self.client.start_session()
        self.do(session.with_transaction(work, timeout=5))
        limits = [body["maxTimeMS"] for body in self.server.commands]
        self.assertEqual(self.server.names(), ["insert", "insert", "commitTransaction"])
        self.assertTrue(all(4000 < limit <= 5000 for limit in limits), limits)

    def test_end_sessions(self) -> None:
        """Ten thousand sessions are ended at once, no more."""
        sessions = [self.client.start_session() for _ in range(10_001)]
        for session in sessions:
            self.successResultOf(session.end_session())
        ended = self.client.disconnect()
        self.network.flush()
        self.successResultOf(ended)
        batches: list[Any] = [body["endSessions"] for body in self.server.commands]
        self.assertEqual([len(batch) for batch in batches], [10_000, 1])
