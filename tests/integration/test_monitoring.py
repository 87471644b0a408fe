"""
How soon a client sees what happens to a real set of three: it must follow the
set's own knowledge by no more than moments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

from pymongo import MongoClient, WriteConcern, monitoring
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.testing import Member, replica_set
from txmongokit.types import Address

# Seconds; what is measured is a hundredth of it, but the machine may be busy.
PROMPT = 1.0


class Watcher(monitoring.TopologyListener):
    """
    Notes when a client sees which primary.

    @ivar primaries: the address and the time of each change.
    """

    def __init__(self) -> None:
        self.primaries: list[tuple[Address | None, float]] = [(None, 0.0)]
        self._hoped: list[tuple[Callable[[Address | None], bool], Deferred[float]]] = []

    def opened(self, event: Any) -> None:
        """Nothing is known yet."""

    closed = opened

    def description_changed(self, event: Any) -> None:
        """Note the primary, if it is another one."""
        servers = event.new_description.server_descriptions().values()
        found = [each.address for each in servers if each.server_type_name == "RSPrimary"]
        primary = found[0] if found else None
        if primary == self.primaries[-1][0]:
            return
        now = time.monotonic()
        self.primaries.append((primary, now))
        for hope in list(self._hoped):
            if hope[0](primary):
                self._hoped.remove(hope)
                hope[1].callback(now)

    def until(self, condition: Callable[[Address | None], bool]) -> Deferred[float]:
        """
        When the primary next becomes one that C{condition} accepts.
        """
        hoped: Deferred[float] = Deferred()
        self._hoped.append((condition, hoped))
        return hoped


def elected(members: Sequence[Member], seconds: float = 20.0) -> Deferred[float]:
    """
    Ask members again and again, each by itself, until one is primary: when
    that was.
    """
    over = Event()
    times: list[float] = []

    def ask(member: Member) -> None:
        end = time.monotonic() + seconds
        uri = f"mongodb://127.0.0.1:{member.port}/?directConnection=true"
        client: MongoClient[dict[str, Any]]
        with MongoClient(uri, serverMonitoringMode="poll") as client:
            while not over.is_set() and time.monotonic() < end:
                if client.admin.command("hello").get("isWritablePrimary"):
                    times.append(time.monotonic())
                    over.set()
                time.sleep(0.005)

    asked = gatherResults([deferToThread(ask, member) for member in members])
    return asked.addCallback(lambda _: min(times))


class PrimaryTests(TestCase):
    """A set whose primary is taken away."""

    timeout = 90

    def setUp(self) -> None:
        """A set and a client of it."""
        self.set = replica_set(members=3)
        self.addCleanup(self.set.close)
        self.watcher = Watcher()
        self.pool = ConnectionPool(self.set.uri, event_listeners=[self.watcher])
        self.addCleanup(self.pool.disconnect)
        # That a majority has it takes longer than that one does.
        concern = WriteConcern(w=1)
        self.things = self.pool["test"].get_collection("things", write_concern=concern)

    async def seen(self, fault: Callable[[Member], Any]) -> Member:
        """
        Let something happen to the primary.  The client must see the new one
        as soon as it is one, and write to it; L{pending} is a write that was
        begun in between.

        @return: the old primary.
        """
        await self.things.insert_one({"_id": 0})
        old = await deferToThread(self.set.primary)
        others = [member for member in self.set.members if member is not old]
        another = self.watcher.until(lambda address: address not in (None, old.address))
        election = elected(others)
        done = deferToThread(fault, old)
        await deferLater(reactor, 0.05)
        self.pending = self.things.insert_one({"_id": 1})
        seen = await another
        await self.things.insert_one({"_id": 2})
        written = time.monotonic()
        await done
        there = await election
        self.assertLess(seen - there, PROMPT)
        self.assertLess(written - there, 2 * PROMPT)
        return old

    def test_step_down(self) -> Deferred[None]:
        """A primary steps down; the old one is known to be none at once."""

        async def scenario() -> None:
            began = time.monotonic()
            gone = self.watcher.until(lambda address: address is None)
            await self.seen(lambda member: self.set.step_down())
            await self.pending
            self.assertLess(await gone - began, 2 * PROMPT)

        return Deferred.fromCoroutine(scenario())

    def test_kill(self) -> Deferred[None]:
        """A primary is killed; that it is gone is known at once."""

        async def scenario() -> None:
            began = time.monotonic()
            gone = self.watcher.until(lambda address: address is None)
            await self.seen(Member.kill)
            await self.pending
            self.assertLess(await gone - began, 2 * PROMPT)

        return Deferred.fromCoroutine(scenario())

    def test_freeze(self) -> Deferred[None]:
        """
        A primary freezes: nothing tells so but the new one.  What was sent to
        it is done when it thaws.
        """

        def freeze(member: Member) -> None:
            assert member.pid is not None
            os.kill(member.pid, signal.SIGSTOP)

        def thaw(member: Member) -> None:
            if member.pid is not None:
                os.kill(member.pid, signal.SIGCONT)

        async def scenario() -> None:
            frozen = await deferToThread(self.set.primary)
            self.addCleanup(thaw, frozen)
            old = await self.seen(freeze)
            self.assertIs(old, frozen)
            thaw(old)
            began = time.monotonic()
            await self.pending
            self.assertLess(time.monotonic() - began, 5 * PROMPT)
            self.assertNotEqual(self.watcher.primaries[-1][0], old.address)

        return Deferred.fromCoroutine(scenario())

    def test_restart(self) -> Deferred[None]:
        """A deployment that was gone for a while is found again by whoever waits for it."""

        def stop() -> None:
            for member in self.set.members:
                # Or a server of 4.4 may find nothing of its set when it is
                # back; later ones refuse so soon after their start.
                with member.client() as client, contextlib.suppress(OperationFailure):
                    client.admin.command("fsync")
            for member in self.set.members:
                member.kill()

        def start() -> None:
            for member in self.set.members:
                member.start()

        async def scenario() -> None:
            await self.things.insert_one({"_id": 0})
            await deferToThread(stop)
            write = self.things.insert_one({"_id": 1})
            # Long enough for every monitor to have gone to rest.
            await deferLater(reactor, 3.0)
            another = self.watcher.until(lambda address: address is not None)
            await deferToThread(start)
            election = elected(self.set.members)
            seen = await another
            await write
            there = await election
            self.assertLess(seen - there, PROMPT)

        return Deferred.fromCoroutine(scenario())


class Heartbeats(monitoring.ServerHeartbeatListener):
    """
    Counts the heartbeats that succeeded.

    @ivar awaited: of each, whether it was waited for.
    """

    def __init__(self) -> None:
        self.awaited: list[bool] = []

    def started(self, event: Any) -> None:
        """What counts is how it ends."""

    failed = started

    def succeeded(self, event: Any) -> None:
        """Count it."""
        self.awaited.append(event.awaited)


class HeartbeatTests(TestCase):
    """One server that a client looks at (the specification's prose tests)."""

    timeout = 60

    def setUp(self) -> None:
        """A server that streams."""
        self.server = replica_set()
        self.addCleanup(self.server.close)
        self.heartbeats = Heartbeats()

    def client(self, **options: Any) -> ConnectionPool:
        """A client whose heartbeats are counted."""
        pool = ConnectionPool(self.server.uri, event_listeners=[self.heartbeats], **options)
        self.addCleanup(pool.disconnect)
        return pool

    def slow_down(self, application: str, milliseconds: int) -> None:
        """Have each hello of an application take its time from now on."""
        point = {
            "configureFailPoint": "failCommand",
            "mode": "alwaysOn",
            "data": {
                "failCommands": ["hello", "isMaster"],
                "blockConnection": True,
                "blockTimeMS": milliseconds,
                "appName": application,
            },
        }
        with self.server.client() as client:
            client.admin.command(point)

    def test_frequency(self) -> Deferred[None]:
        """A server that streams is heard as often as the heartbeat says, whatever its mode."""

        async def scenario() -> None:
            for mode in ("stream", "poll"):
                awaited = self.heartbeats.awaited = []
                pool = self.client(heartbeatFrequencyMS=500, serverMonitoringMode=mode)
                await pool["test"].command("ping")
                await deferLater(reactor, 3.2)
                self.assertGreater(len(awaited), 4)
                self.assertLess(len(awaited), 10)
                self.assertEqual(set(awaited[1:]), {mode == "stream"})
                await pool.disconnect()

        return Deferred.fromCoroutine(scenario())

    def test_round_trip_time(self) -> Deferred[None]:
        """Round trips of a server that streams are measured, and replies kept back are none."""

        def round_trip_time(pool: ConnectionPool) -> float:
            (server,) = pool._topology.description.server_descriptions().values()
            assert server.round_trip_time is not None
            return server.round_trip_time

        async def scenario() -> None:
            pool = self.client(heartbeatFrequencyMS=500, appName="streamingRttTest")
            await pool["test"].command("ping")
            await deferLater(reactor, 2.0)
            (server,) = pool._topology._servers.values()
            self.assertLess(server.monitor.round_trip_minimum, 0.1)
            self.assertLess(round_trip_time(pool), 0.1)
            await deferToThread(self.slow_down, "streamingRttTest", 500)
            for _ in range(100):
                if round_trip_time(pool) > 0.25:
                    break
                await deferLater(reactor, 0.1)
            self.assertGreater(round_trip_time(pool), 0.25)

        return Deferred.fromCoroutine(scenario())
