"""
A client under load while its deployment fails: no operation may notice, and
no acknowledged write may be lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from bson.objectid import ObjectId
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.partitions import Partition
from txmongokit.connection import ConnectionPool
from txmongokit.testing import Member, replica_set

WRITERS = READERS = 25


class FaultTests(TestCase):
    """Fifty at once on a set of three."""

    timeout = 120

    def setUp(self) -> None:
        """Start the set."""
        self.set = replica_set(members=3)
        self.addCleanup(self.set.close)
        self.network = Partition()
        # A write that a majority has not got may be rolled back; before 5.0
        # that must be asked for.
        self.pool = ConnectionPool(
            self.set.uri, endpoint_factory=self.network.endpoint, w="majority"
        )
        self.addCleanup(self.pool.disconnect)
        self.acknowledged: list[ObjectId] = []
        self.reads = 0
        self.errors: list[str] = []
        self.over = False

    async def write(self, number: int) -> None:
        """Insert and update until the end."""
        things = self.pool["faults"]["things"]
        while not self.over:
            identifier = ObjectId()
            try:
                await things.insert_one({"_id": identifier, "writer": number})
                self.acknowledged.append(identifier)
                await things.update_one({"_id": f"counter {number}"}, {"$inc": {"n": 1}})
            except Exception as error:
                self.errors.append(f"write: {type(error).__name__}: {error}")
                await deferLater(reactor, 0.1)

    async def read(self) -> None:
        """Find, one and many, until the end."""
        things = self.pool["faults"]["things"]
        while not self.over:
            try:
                await things.find_one({"_id": "counter 1"})
                await things.find({"writer": 1}, limit=20)
                self.reads += 2
            except Exception as error:
                self.errors.append(f"read: {type(error).__name__}: {error}")
                await deferLater(reactor, 0.1)

    async def under_load(self, fault: Callable[[], Awaitable[Any]]) -> None:
        """Let something fail among fifty workers; nobody may notice."""
        things = self.pool["faults"]["things"]
        for number in range(WRITERS):
            await things.insert_one({"_id": f"counter {number}", "n": 0})
        workers = [Deferred.fromCoroutine(self.write(number)) for number in range(WRITERS)]
        workers += [Deferred.fromCoroutine(self.read()) for _ in range(READERS)]
        await deferLater(reactor, 1.0)
        before = len(self.acknowledged)
        await fault()
        after = len(self.acknowledged)
        await deferLater(reactor, 1.5)
        self.over = True
        await gatherResults(workers)
        self.assertEqual(self.errors, [])
        self.assertGreater(before, 0)
        self.assertGreater(len(self.acknowledged), after, "no write after the fault")
        found, counted = await deferToThread(self.state)
        self.assertEqual(set(self.acknowledged) - found, set())
        # Each insert is followed by one increment, exactly once each.
        self.assertEqual(counted, len(found))

    def state(self) -> tuple[set[Any], int]:
        """What the set has, by another client."""
        with self.set.client() as client:
            things = client["faults"]["things"]
            found = {d["_id"] for d in things.find({"writer": {"$exists": True}}, {"_id": 1})}
            counted = sum(d["n"] for d in things.find({"n": {"$exists": True}}))
            return found, counted

    def test_step_down(self) -> Deferred[None]:
        """The primary steps down."""
        return Deferred.fromCoroutine(self.under_load(lambda: deferToThread(self.set.step_down)))

    def test_kill(self) -> Deferred[None]:
        """The primary is killed, and comes back later."""

        def kill() -> Member:
            primary = self.set.primary()
            primary.kill()
            self.set.primary()
            return primary

        async def fault() -> None:
            killed = await deferToThread(kill)
            await deferLater(reactor, 1.0)
            await deferToThread(killed.restart)

        return Deferred.fromCoroutine(self.under_load(fault))

    def test_partition(self) -> Deferred[None]:
        """Nothing gets through for five seconds."""

        async def fault() -> None:
            self.network.cut = True
            await deferLater(reactor, 5.0)
            self.network.mend()

        return Deferred.fromCoroutine(self.under_load(fault))
