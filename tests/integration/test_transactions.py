"""
Sessions and transactions on a replica set of three.
"""

from __future__ import annotations

from typing import Any

import bson
from pymongo.client_session import TransactionOptions  # type: ignore[attr-defined]  # documented
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.deployments import server_version
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)
from txmongokit.sessions import ClientSession
from txmongokit.testing import replica_set

MAJORITY = WriteConcern("majority")
COMMITTED = ReadConcern("majority")


class TransactionTests(TestCase):
    """One set for all that is tried; each part has a collection of its own."""

    timeout = 120

    def setUp(self) -> None:
        """Start the set."""
        self.deployment = replica_set(3, parameters={"enableTestCommands": 1})
        self.addCleanup(self.deployment.close)
        self.pool = self.client()

    def client(self, **options: Any) -> ConnectionPool:
        """A client that is disconnected afterwards."""
        pool = ConnectionPool(self.deployment.uri, **options)
        self.addCleanup(pool.disconnect)
        return pool

    async def things(self, name: str) -> Any:
        """A collection of one document."""
        things = self.pool["db"].get_collection(name, write_concern=MAJORITY)
        await things.insert_one({"_id": 0, "n": 0})
        return things

    def test_transactions(self) -> Deferred[None]:
        """Commit, abort, isolation, refusals, contexts, causal and snapshot reads, binding."""
        return Deferred.fromCoroutine(self.transactions())

    async def transactions(self) -> None:
        """See L{test_transactions}."""
        await self.committed()
        await self.aborted()
        await self.in_order()
        await self.refused()
        await self.contexts()
        await self.causal()
        if await deferToThread(server_version, self.deployment) >= (5, 0):
            await self.snapshots()
        await self.bound()

    async def committed(self) -> None:
        """What is committed is there; nobody else sees it before."""
        things = await self.things("committed")
        options = TransactionOptions(ReadConcern("snapshot"), MAJORITY, max_commit_time_ms=20000)
        async with self.pool.start_session(default_transaction_options=options) as session:
            session.start_transaction()
            await things.insert_one({"_id": 1}, session=session)
            self.assertEqual(await things.count_documents({}, session=session), 2)
            self.assertEqual(await things.count_documents({}), 1)
            self.assertIsNone(await things.find_one({"_id": 1}))
            await session.commit_transaction()
            await session.commit_transaction()
            self.assertFalse(session.in_transaction)
            self.assertEqual(await things.count_documents({}, session=session), 2)

    async def aborted(self) -> None:
        """What is aborted, or left open at the session's end, never was."""
        things = await self.things("aborted")
        async with self.pool.start_session() as session:
            session.start_transaction()
            await things.insert_one({"_id": 1}, session=session)
            await session.abort_transaction()
            session.start_transaction()
            await things.update_one({"_id": 0}, {"$set": {"n": 7}}, session=session)
        self.assertEqual(await things.find().to_list(), [{"_id": 0, "n": 0}])
        # The open one would have kept its lock: this waited for it.
        await things.update_one({"_id": 0}, {"$set": {"n": 1}})

    async def in_order(self) -> None:
        """Writes that are sent one behind the other are one transaction; so is its failure."""
        things = await self.things("in_order")
        others = await self.things("in_order_too")

        def inserting(*numbers: int) -> list[Any]:
            documents = [[bson.encode({"_id": number})] for number in numbers]
            places = (things, others)
            return [
                places[n % 2].raw_write_command("insert", raw) for n, raw in enumerate(documents)
            ]

        async with self.pool.start_session() as session:
            session.start_transaction()
            replies = await session.run_in_order(inserting(*range(1, 101)))
            self.assertEqual([reply["n"] for reply in replies], [1] * 100)
            self.assertEqual(await things.count_documents({}), 1)
            await session.commit_transaction()
            self.assertEqual(await things.count_documents({}), 51)
            session.start_transaction()
            with self.assertRaises(DuplicateKeyError):
                await session.run_in_order(inserting(201, 2, 203, 204))
            await session.abort_transaction()
        self.assertIsNone(await things.find_one(201))
        self.assertEqual(await others.count_documents({}), 51)

    async def refused(self) -> None:
        """Sessions of others, ended ones and secondaries are refused before anything is sent."""
        things = await self.things("refused")
        other = self.client()
        session = other.start_session()
        with self.assertRaises(InvalidOperation):
            await things.find_one(session=session)
        await session.end_session()
        with self.assertRaises(InvalidOperation):
            await other["db"]["refused"].find_one(session=session)
        async with self.pool.start_session() as session:
            session.start_transaction(read_preference=ReadPreference.SECONDARY)
            await things.insert_one({"_id": 1}, session=session)
            with self.assertRaises(InvalidOperation):
                await things.find_one(session=session)
            self.assertTrue(session.in_transaction)

    async def contexts(self) -> None:
        """The block commits; an error in it, also a server's, aborts."""
        things = await self.things("contexts")
        async with self.pool.start_session() as session:
            async with session.start_transaction():
                await things.insert_one({"_id": 1}, session=session)
            with self.assertRaises(DuplicateKeyError):
                async with session.start_transaction():
                    await things.insert_one({"_id": 2}, session=session)
                    await things.insert_one({"_id": 1}, session=session)
        self.assertEqual(await things.count_documents({}), 2)

    async def causal(self) -> None:
        """A secondary is read only when it has what the session wrote."""
        things = await self.things("causal")
        secondaries = self.pool["db"].get_collection(
            "causal", read_preference=ReadPreference.SECONDARY, read_concern=COMMITTED
        )
        async with self.pool.start_session(causal_consistency=True) as session:
            for number in range(20):
                await things.update_one({"_id": 0}, {"$set": {"n": number}}, session=session)
                seen = await secondaries.find_one({"_id": 0}, session=session)
                self.assertEqual(seen, {"_id": 0, "n": number})
            time, cluster_time = session.operation_time, session.cluster_time
        assert time is not None
        assert cluster_time is not None
        async with self.pool.start_session() as session:
            session.advance_cluster_time(cluster_time)
            session.advance_operation_time(time)
            seen = await secondaries.find_one({"_id": 0}, session=session)
            self.assertEqual(seen, {"_id": 0, "n": 19})

    async def snapshots(self) -> None:
        """All reads are of the first one's time, and those of a session that is given it."""
        things = await self.things("snapshots")
        async with self.pool.start_session(snapshot=True) as session:
            self.assertIsNone(session.snapshot_time)
            self.assertEqual(await things.count_documents({}, session=session), 1)
            await things.insert_one({"_id": 1})
            self.assertEqual(await things.count_documents({}, session=session), 1)
            self.assertEqual(await things.distinct("_id", session=session), [0])
            with self.assertRaises(OperationFailure):
                await things.insert_one({"_id": 2}, session=session)
            time = session.snapshot_time
        async with self.pool.start_session(snapshot=True, snapshot_time=time) as session:
            self.assertEqual(await things.find(session=session).to_list(), [{"_id": 0, "n": 0}])
            self.assertEqual(session.snapshot_time, time)

    async def bound(self) -> None:
        """In a bound session's block operations need not name it: cursors, bulk writes, too."""
        things = await self.things("bound")
        async with self.pool.start_session() as session, session.bind(end_session=False):
            session.start_transaction()
            await things.insert_many([{"_id": n} for n in range(1, 10)])
            found = await things.find(batch_size=3).to_list()
            self.assertEqual(len(found), 10)
            with self.assertRaises(InvalidOperation):
                await self.client()["db"]["bound"].find_one()
            await session.abort_transaction()
        self.assertEqual(await things.count_documents({}), 1)

    def test_retried(self) -> Deferred[None]:
        """C{with_transaction} commits once whatever happens, in time or not at all."""
        return Deferred.fromCoroutine(self.retried())

    async def retried(self) -> None:
        """See L{test_retried}."""
        things = await self.things("retried")
        await self.conflicting(things)
        await self.interrupted(things)
        await self.late(things)
        await self.cancelled(things)

    async def conflicting(self, things: Any) -> None:
        """Five transactions at a time that read and write the same document lose nothing."""

        async def add(session: ClientSession) -> None:
            found = await things.find_one({"_id": 0}, session=session)
            await things.update_one({"_id": 0}, {"$set": {"n": found["n"] + 1}}, session=session)

        async def worker() -> None:
            async with self.pool.start_session() as session:
                for _ in range(4):
                    await session.with_transaction(add)

        for worker_ in [Deferred.fromCoroutine(worker()) for _ in range(5)]:
            await worker_
        self.assertEqual(await things.find_one({"_id": 0}), {"_id": 0, "n": 20})

    async def interrupted(self, things: Any) -> None:
        """Connections that close under operations and commits do no harm."""
        calls = []

        async def insert(session: ClientSession) -> str:
            calls.append(session)
            await things.insert_one({"_id": "interrupted"}, session=session)
            return "done"

        async with self.pool.start_session() as session:
            await self.fail_command(2, ["commitTransaction"], closeConnection=True)
            self.assertEqual(await session.with_transaction(insert), "done")
            self.assertEqual(len(calls), 1)
            await things.delete_one({"_id": "interrupted"})
            await self.fail_command(2, ["insert"], closeConnection=True)
            self.assertEqual(await session.with_transaction(insert), "done")
            self.assertEqual(len(calls), 4)
        self.assertEqual(await things.count_documents({"_id": "interrupted"}), 1)

    async def late(self, things: Any) -> None:
        """A timeout ends it, with an error that says so, and nothing is written."""

        async def insert(session: ClientSession) -> None:
            await things.insert_one({"_id": "late"}, session=session)

        async with self.pool.start_session(default_timeout=0.5) as session:
            await self.fail_command(1, ["insert"], blockConnection=True, blockTimeMS=700)
            with self.assertRaises(PyMongoError) as caught:
                await session.with_transaction(insert)
            self.assertTrue(caught.exception.timeout)
            await self.fail_command(
                "alwaysOn", ["insert"], errorCode=112, errorLabels=["TransientTransactionError"]
            )
            with self.assertRaises(ExecutionTimeout):
                await session.with_transaction(insert)
            await self.fail_command("off")
        self.assertIsNone(await things.find_one({"_id": "late"}))

    async def cancelled(self, things: Any) -> None:
        """Cancelling aborts: nothing stays locked or written."""
        gate: Deferred[None] = Deferred()
        inserted: Deferred[None] = Deferred()

        async def wait(session: ClientSession) -> None:
            await things.update_one({"_id": 0}, {"$set": {"n": -1}}, session=session)
            inserted.callback(None)
            await gate

        async with self.pool.start_session() as session:
            waiting = session.with_transaction(wait)
            await inserted
            await self.pool.sleep(0)  # until the callback waits again
            waiting.cancel()
            with self.assertRaises(CancelledError):
                await waiting
            self.assertFalse(session.in_transaction)
            await things.update_one({"_id": 0}, {"$set": {"n": 1}})

    async def fail_command(self, times: int | str, commands: Any = (), **data: Any) -> None:
        """Have the primary fail as many of these commands."""
        mode: Any = {"times": times} if isinstance(times, int) else times
        document = {"configureFailPoint": "failCommand", "mode": mode}
        if mode != "off":
            document["data"] = {"failCommands": commands, **data}

        def configure() -> None:
            with self.deployment.client() as client:
                client.admin.command(document)

        await deferToThread(configure)
