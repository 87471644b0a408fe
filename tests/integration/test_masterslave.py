"""
L{MasterSlaveConnection} between real servers: a master's set, a set that the
replicator keeps up to date, and reads of that.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Coroutine
from functools import cache
from typing import Any

from pymongo import CursorType
from pymongo.read_preferences import ReadPreference
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from tests.deployments import SharedTestCase
from tests.replicas import Pair
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    CursorNotFound,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)
from txmongokit.gridfs import GridFSBucket
from txmongokit.masterslave import MasterSlaveConnection
from txmongokit.testing import Member, replica_set

_FAST = {"serverSelectionTimeoutMS": 1500, "heartbeatFrequencyMS": 500}


@cache
def _replicated() -> tuple[Pair, subprocess.Popen[str]]:
    """A master, a slave set of two members, and the replicator between them."""
    pair = Pair(destination=replica_set(2, name="to"))
    atexit.register(pair.close)
    return pair, pair.start("--follow", "--resume-file", "none", "--log-level", "warn")


class MasterSlaveTests(SharedTestCase):
    """
    One replication for all tests; each has a database of its own.
    """

    def setUp(self) -> None:
        """The connection: its slaves are the members of the slave set, each by itself."""
        super().setUp()
        self.pair, self.replicator = _replicated()
        self.master = self.client(self.pair.source.uri)
        self.members = self.pair.destination.members
        self.slaves = [self.direct(member) for member in self.members]

    def direct(self, member: Member, **options: Any) -> ConnectionPool:
        """A connection to one member alone."""
        host, port = member.address
        return self.client(f"mongodb://{host}:{port}/?directConnection=true", **_FAST, **options)

    def split(self, **options: Any) -> MasterSlaveConnection:
        """The connection under test."""
        return self.joined(self.master, self.slaves, **options)

    def joined(
        self, master: ConnectionPool, slaves: list[ConnectionPool], **options: Any
    ) -> MasterSlaveConnection:
        """A connection that is closed afterwards."""
        connection = MasterSlaveConnection(master, slaves, **options)
        self.addCleanup(connection.disconnect)
        return connection

    async def arrived(self, name: str, count: int) -> None:
        """Wait until all members of the slave set have as many documents."""

        async def everywhere() -> bool:
            counts = [await slave[self.database][name].count_documents({}) for slave in self.slaves]
            return counts == [count] * len(counts)

        await self.until(everywhere, "the documents' arrival")

    async def pause(self, seconds: float) -> None:
        """Let time go by."""
        await deferLater(reactor, seconds)

    async def until(self, condition: Any, what: str, seconds: float = 20.0) -> None:
        """Ask until the answer is true."""
        deadline = time.monotonic() + seconds
        while not await condition():
            self.assertLess(time.monotonic(), deadline, what)
            await self.pause(0.05)

    def profiles(self, on: bool) -> None:
        """Have every server note what it is asked, or no more."""
        for member in (*self.pair.source.members, *self.members):
            with member.client() as client:
                client[self.database].command("profile", 2 if on else 0)

    def noted(self, member: Member) -> list[str]:
        """The names of the commands that a server was asked for by this test's clients."""
        with member.client() as client:
            found = client[self.database]["system.profile"].find(
                {"appName": self.database, "ns": f"{self.database}.things"}
            )
            return [
                next(iter(each["command"])) if each["op"] == "command" else each["op"]
                for each in found
            ]

    def revive(self) -> None:
        """Have all members of the slave set up, and one of them primary."""
        for member in self.members:
            if member.pid is None:
                member.start()
        self.pair.destination.primary()

    async def step_up(self) -> bool:
        """Have the slave set elect a primary at once."""
        stepped: bool = await deferToThread(self.stepped_up)
        return stepped

    def stepped_up(self) -> bool:
        """See L{step_up}; this waits."""
        with self.members[0].client() as client:
            try:
                client["admin"].command("replSetStepUp")
            except PyMongoError:
                return False  # It has not heard of the other one yet.
        return True

    def run_test(self, test: Coroutine[Any, Any, None]) -> Deferred[None]:
        """As a Deferred."""
        return Deferred.fromCoroutine(test)

    def test_split(self) -> Deferred[None]:
        """Writes are the master's, reads the slaves', as each server's own profiler says."""
        return self.run_test(self.splits())

    async def splits(self) -> None:
        """See L{test_split}."""
        connection = self.split()
        things = connection[self.database].things
        await things.insert_many([{"_id": number} for number in range(20)])
        await self.arrived("things", 20)
        self.profiles(True)
        self.addCleanup(self.profiles, False)
        for number in range(10):
            found = await things.find_one({"_id": number})
            self.assertEqual(found, {"_id": number})
        self.assertEqual(len(await things.find({}, batch_size=7).to_list()), 20)
        self.assertEqual(await things.count_documents({}), 20)
        await things.update_one({"_id": 1}, {"$set": {"n": 1}})
        await things.find_one_and_update({"_id": 2}, {"$set": {"n": 2}})
        with connection.start_request():
            self.assertEqual(await things.find_one({"_id": 1}), {"_id": 1, "n": 1})
        with self.assertRaises(DuplicateKeyError):
            await things.insert_one({"_id": 1})
        (master,) = self.pair.source.members
        self.assertEqual(self.noted(master), ["update", "findAndModify", "query", "insert"])
        noted = [self.noted(member) for member in self.members]
        for names in noted:
            self.assertGreaterEqual(names.count("query"), 5, noted)
        together = sorted(name for names in noted for name in names)
        self.assertEqual(together, ["aggregate", *["getmore"] * 2, *["query"] * 11])

    def test_cursors(self) -> Deferred[None]:
        """A cursor is read and closed where it was opened."""
        return self.run_test(self.cursors())

    async def cursors(self) -> None:
        """See L{test_cursors}."""
        connection = self.split()
        things = connection[self.database].things
        await things.insert_many([{"_id": number} for number in range(20)])
        await self.arrived("things", 20)
        seen = set()
        for _ in range(4):
            cursor = things.find({}, batch_size=2)
            self.assertEqual(len(await cursor.next_batch()), 2)
            number = connection.connection_id(cursor.address)
            self.assertEqual(cursor.address, self.members[number].address)
            self.assertEqual(len(await cursor.next_batch()), 2)
            assert cursor.cursor_id is not None
            await connection.close_cursor(cursor.cursor_id, number)
            with self.assertRaises(CursorNotFound):
                await cursor.next_batch()
            seen.add(number)
        self.assertEqual(seen, {0, 1})
        streamed = things.find({}, cursor_type=CursorType.EXHAUST, batch_size=3)
        self.assertEqual(len(await streamed.to_list()), 20)

    def test_writes(self) -> Deferred[None]:
        """Write concerns are kept, sessions and transactions are the master's."""
        return self.run_test(self.writes())

    async def writes(self) -> None:
        """See L{test_writes}."""
        connection = self.split()
        things = connection[self.database].things
        await things.insert_one({"_id": 1})
        connection.safe = False
        quiet = await connection[self.database].things.insert_one({"_id": 1})
        self.assertFalse(quiet.acknowledged)
        connection.set_lasterror_options(w=3, wtimeout=50)
        with self.assertRaises(OperationFailure):
            await connection[self.database].things.insert_one({"_id": 2})
        connection.unset_lasterror_options()
        for options in ({"w": 1, "j": True}, {"w": "majority"}, {"w": 1, "fsync": True}):
            connection.unset_lasterror_options()
            connection.set_lasterror_options(**options)
            written = await connection[self.database].things.insert_one({})
            self.assertTrue(written.acknowledged)

        async def transfer(session: Any) -> Any:
            await things.update_one({"_id": 1}, {"$set": {"n": 1}}, session=session)
            return await things.find_one({"_id": 1}, session=session)

        async with connection.start_session() as session:
            self.assertEqual(await session.with_transaction(transfer), {"_id": 1, "n": 1})
            async with session.bind(end_session=False):
                self.assertEqual(await things.find_one({"_id": 1}), {"_id": 1, "n": 1})
        async with await things.watch() as stream:
            await things.insert_one({"_id": 7})
            self.assertEqual((await stream.next())["documentKey"], {"_id": 7})
        self.assertIn(self.database, await connection.database_names())
        await connection.drop_database(self.database)
        self.assertNotIn(self.database, await connection.database_names())

    def test_files(self) -> Deferred[None]:
        """GridFS writes to the master, and reads from a slave."""
        return self.run_test(self.files())

    async def files(self) -> None:
        """See L{test_files}."""
        bucket = GridFSBucket(self.split()[self.database], chunk_size_bytes=1000)
        content = bytes(range(256)) * 20
        file_id = await bucket.upload_from_stream("a", content)
        await self.arrived("fs.files", 1)
        stream = await bucket.open_download_stream(file_id)
        self.assertEqual(await stream.read(), content)

    def test_slave_killed(self) -> Deferred[None]:
        """
        A slave that is killed is no error for reads; when all are, each is
        named; one that comes back is read again.
        """
        return self.run_test(self.slave_killed())

    async def slave_killed(self) -> None:
        """See L{test_slave_killed}."""
        connection = self.split()
        things = connection[self.database].things
        await things.insert_one({"_id": 1})
        await self.arrived("things", 1)
        errors: list[BaseException | None] = []
        reads = 0
        stop = False

        async def keep_reading() -> None:
            nonlocal reads
            while not stop:
                self.assertEqual(await things.find_one({"_id": 1}), {"_id": 1})
                self.assertEqual(await things.find().to_list(), [{"_id": 1}])
                reads += 1

        def note(failure: Failure) -> None:
            errors.append(failure.value)

        readers = [Deferred.fromCoroutine(keep_reading()) for _ in range(8)]
        for reader in readers:
            reader.addErrback(note)
        await self.pause(0.2)
        before = reads
        primary = self.pair.destination.primary()
        # The set is all tests'.
        self.addCleanup(self.revive)
        killed = [primary, *(each for each in self.members if each is not primary)]
        killed[0].kill()
        await self.pause(0.5)
        stop = True
        for reader in readers:
            await reader
        self.assertEqual(errors, [])
        self.assertGreater(reads, before)
        killed[1].kill()
        error = await self.error_of(things.find_one({"_id": 1}), AutoReconnect)
        for number, member in enumerate(self.members):
            self.assertRegex(str(error), rf"slave {number} \(127.0.0.1:{member.port}\): \S")
        await things.insert_one({"_id": 2})
        for member in self.members:
            member.start()
        await self.until(self.step_up, "a primary", 40.0)

        async def is_back() -> bool:
            return await things.with_options(timeout=5.0).find_one({"_id": 2}) is not None

        await self.until(is_back, "the slaves' return")

    def test_staleness(self) -> Deferred[None]:
        """
        While the replicator stands still its slaves are left out, and the
        master or an error takes their place; afterwards they are read again.
        """
        return self.run_test(self.staleness())

    async def staleness(self) -> None:
        """See L{test_staleness}."""
        connection = self.split(max_staleness=1.5, staleness_interval=0.2)
        strict = self.split(max_staleness=1.5, staleness_interval=0.2, when_stale="fail")
        things = connection[self.database].things
        await things.insert_one({"_id": 0})
        await self.arrived("things", 1)

        async def fresh() -> bool:
            await things.find_one()
            return all(lag is not None and lag <= 1.5 for lag in connection.lags)

        await self.until(fresh, "the slaves' freshness")
        os.kill(self.replicator.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.replicator.pid, signal.SIGCONT)
        # A master that nobody writes to is not ahead of anyone.
        await self.pause(1.7)
        self.assertTrue(await fresh(), connection.lags)
        await things.insert_one({"_id": 1})
        self.assertIsNone(await things.find_one({"_id": 1}))

        async def at_the_master() -> bool:
            return await things.find_one({"_id": 1}) is not None

        await self.until(at_the_master, "the slaves' being left out")
        self.assertGreater(min(lag or 0.0 for lag in connection.lags), 1.4)
        error = await self.error_of(strict[self.database].things.find_one(), AutoReconnect)
        self.assertRegex(str(error), r"slave 0 .* s behind, and max_staleness=1.5; slave 1 .* s b")
        os.kill(self.replicator.pid, signal.SIGCONT)
        await self.until(fresh, "the slaves' return")
        cursor = things.find({"_id": 1})
        self.assertEqual(await cursor.to_list(), [{"_id": 1}])
        self.assertIn(cursor.address, [member.address for member in self.members])

    def test_member(self) -> Deferred[None]:
        """A member of the master's own set tells how far it is by itself."""
        return self.run_test(self.member())

    async def member(self) -> None:
        """See L{test_member}."""
        primary = self.pair.destination.primary()
        master = self.client(self.pair.destination.uri)
        (other,) = [each for each in self.members if each is not primary]
        slave = self.client(
            self.pair.destination.uri, read_preference=ReadPreference.SECONDARY, **_FAST
        )
        bounded: dict[str, Any] = {"max_staleness": 2.0, "when_stale": "fail"}
        for options in ({}, bounded):
            connection = self.joined(master, [slave], **options)
            cursor = connection[self.database].things.find()
            await cursor.to_list()
            self.assertEqual(cursor.address, other.address)
        lag = connection.lags[0]
        assert lag is not None
        self.assertLess(lag, 2.0)
