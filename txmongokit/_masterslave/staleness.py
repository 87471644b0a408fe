"""
How far slaves are behind their master, found out beside the reads.

A slave is as stale as the oldest write of its master that it has not got.
What it has got is told by a position in the master's oplog: that of its last
write, for a member of the master's own set, and that of the replicator's
checkpoint for any other server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.timestamp import Timestamp
from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit._masterslave.servers import preferred_servers
from txmongokit._sansio.commands.base import CommandOptions, RunCommand
from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.types import Address

__all__ = ["Staleness"]

# How long one command of a measurement may take, in seconds.
_PATIENCE = 5.0
_NOT_AUTHORIZED = 13
# Where the replicator keeps its checkpoints, and what it calls the phase of a
# clone that is done.
_CHECKPOINTS = ("txmongokit", "mongosync")
_CLONED = "done"
# More replications of one source into one slave than anybody has.
_MOST_CHECKPOINTS = 1000
# Entries that no slave waits for.
_OWN = re.compile(r"\Aconfig\.")


class _UnknownLag(Exception):
    """
    Nobody can tell how far a slave is behind: one sentence with the cause.
    """


@dataclass(frozen=True, slots=True)
class _Master:
    """
    The master at one moment.

    @ivar newest: the position of its last write.
    @ivar clock: its clock.
    """

    set_name: str
    hosts: frozenset[str]
    newest: Timestamp
    clock: datetime

    def age(self, position: Timestamp) -> float:
        """
        How old a position is, and so at most what comes after it, in seconds.
        """
        written = position.as_datetime().replace(tzinfo=None)
        return max(0.0, (self.clock - written).total_seconds())


class Staleness:
    """
    How far slaves are behind their master.

    While nothing is learnt of a slave, it is taken to get no new writes: so
    what is told here is never less than what is true, but for the time that
    a write is under way.

    @param limit: of seconds that a slave may be behind.
    @param interval: seconds between two measurements.
    """

    _log = Logger()

    def __init__(
        self,
        master: ConnectionPool[Any],
        slaves: Sequence[ConnectionPool[Any]],
        limit: float,
        interval: float,
    ) -> None:
        self._master = master
        self._slaves = slaves
        self._limit = limit
        self._interval = interval
        # The lag of each, and when it was measured.
        self._found: list[tuple[float, float] | None] = [None] * len(slaves)
        self._reasons = ["it has not been measured yet"] * len(slaves)
        self._was_fresh: list[bool | None] = [None] * len(slaves)
        self._running: Deferred[None] | None = None
        self._stopped = False
        # The measurements under way: a slave that is slow holds up no other.
        self._measuring: dict[int, Deferred[None]] = {}
        self._measured = False
        self._waiting: list[Deferred[None]] = []

    def start(self) -> None:
        """
        Measure now and from now on, unless that was stopped.
        """
        if self._running is None and not self._stopped:
            # No limit or session of whoever reads first is the measurements'.
            self._running = Context().run(Deferred.fromCoroutine, self._measure_on())
            self._running.addErrback(self._ended)

    def stop(self) -> None:
        """
        Measure no more, never again.
        """
        self._stopped = True
        if self._running is not None:
            self._running.cancel()
        for measuring in list(self._measuring.values()):
            measuring.cancel()
        self._tell()

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("the staleness of slaves is not measured any more", failure)
        self._tell()

    async def first(self, deadline: float | None) -> None:
        """
        Wait until a slave was found to be fresh, or all have been measured or
        could not be.

        @param deadline: until when at most, in the master's seconds.
        """
        if self._measured:
            return
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        waits = [waiting]
        if deadline is not None and deadline < math.inf:
            waits.append(self._master.sleep(max(0.0, deadline - self._master.seconds())))
        ended: Any = DeferredList(waits, fireOnOneCallback=True, consumeErrors=True)
        try:
            if isinstance(await ended, list):  # Neither has ended as it should.
                raise CancelledError
        finally:
            for each in waits:
                each.cancel()

    def _tell(self) -> None:
        self._measured = True
        while self._waiting:
            self._waiting.pop(0).callback(None)

    def lag(self, number: int) -> float | None:
        """
        How many seconds a slave is behind at most; C{None} where nobody knows.
        """
        found = self._found[number]
        if found is None:
            return None
        lag, at = found
        return lag + self._master.seconds() - at

    def is_fresh(self, number: int) -> bool:
        """
        Whether a slave is within the limit.
        """
        lag = self.lag(number)
        return lag is not None and lag <= self._limit

    def explain(self, number: int) -> str:
        """
        Why a slave is not.
        """
        lag = self.lag(number)
        if lag is None:
            return f"nobody knows how far it is behind: {self._reasons[number]}"
        reason = self._reasons[number]
        told = f"it may be {lag:.1f} s behind, and max_staleness={self._limit:g}"
        return f"{told} ({reason})" if reason else told

    # Measuring.

    async def _measure_on(self) -> None:
        while True:
            await self._measure()
            self._report()
            await self._master.sleep(self._interval)

    async def _measure(self) -> None:
        at = self._master.seconds()
        try:
            master = await self._look_at_master()
        except (PyMongoError, _UnknownLag) as error:
            self._reasons = [f"the master does not tell: {error}"] * len(self._slaves)
            self._tell()
            return
        begun = {
            number: Deferred.fromCoroutine(self._measure_slave(number, at, master))
            for number in range(len(self._slaves))
            if number not in self._measuring
        }
        self._measuring.update(begun)
        for number, measuring in begun.items():
            measuring.addBoth(self._slave_measured, number)

    def _slave_measured(self, result: object, number: int) -> None:
        del self._measuring[number]
        if isinstance(result, Failure) and result.check(CancelledError) is None:
            self._log.failure("the staleness of a slave cannot be measured", result)
        self._report()
        if self.is_fresh(number) or not self._measuring:
            self._tell()

    def _report(self) -> None:
        if self._stopped:
            return  # That slaves are not measured any more is no news of them.
        for number, slave in enumerate(self._slaves):
            if self._found[number] is None and number in self._measuring:
                continue  # Soon.
            fresh, before = self.is_fresh(number), self._was_fresh[number]
            self._was_fresh[number] = fresh
            if fresh and before is False:
                self._log.info("slave {number} ({slave}) is read again", number=number, slave=slave)
            elif not fresh and before is not False:
                self._log.warn(
                    "slave {number} ({slave}) is not read: {reason}",
                    number=number,
                    slave=slave,
                    reason=self.explain(number),
                )

    async def _measure_slave(self, number: int, at: float, master: _Master) -> None:
        try:
            position = await self._position(self._slaves[number], master)
            lag = await self._lag(position, master)
        except (PyMongoError, _UnknownLag) as error:
            self._reasons[number] = str(error)
            return
        self._found[number] = lag, at
        self._reasons[number] = ""

    async def _look_at_master(self) -> _Master:
        reply = await _ask(self._master, "admin", {"hello": 1})
        position = _last_write(reply)
        if position is None or "setName" not in reply:
            raise _UnknownLag("it is no member of a replica set, so it has no oplog")
        return _Master(
            reply["setName"], frozenset(reply.get("hosts", ())), position, reply["localTime"]
        )

    async def _position(self, slave: ConnectionPool[Any], master: _Master) -> Timestamp:
        """How far the one of a slave's servers is that is furthest behind."""
        await _ask(slave, "admin", {"hello": 1}, slave.options.read_preference)
        servers = preferred_servers(slave)
        positions = [await _position_at(slave, each, master) for each in servers]
        if not positions:
            raise _UnknownLag("none of its servers is known just now")
        return min(positions)

    async def _lag(self, position: Timestamp, master: _Master) -> float:
        """How old the oldest write is that comes after a position, in seconds."""
        if position >= master.newest:
            return 0.0
        # Many entries may be no writes: a master that nobody uses has one every ten seconds.
        later = {"ts": {"$gt": position}, "op": {"$ne": "n"}, "ns": {"$not": _OWN}}
        try:
            missing = await self._first_entry(filter=later)
            # Looked at afterwards, as it moves on.
            oldest = await self._first_entry(sort={"$natural": 1})
        except OperationFailure as error:
            if error.code != _NOT_AUTHORIZED:
                raise
            return master.age(position)
        if oldest is None or oldest["ts"] > position:
            # The oplog has been overwritten: there may have been older ones.
            return master.age(position)
        if missing is None:
            return 0.0
        wall = missing.get("wall")
        if not isinstance(wall, datetime):
            return master.age(position)
        return max(0.0, (master.clock - wall).total_seconds())

    async def _first_entry(self, **query: Any) -> Mapping[str, Any] | None:
        """The first one of the master's oplog that a query finds."""
        fields = {"projection": {"ts": 1, "wall": 1}, "limit": 1, "singleBatch": True}
        reply = await _ask(self._master, "local", {"find": "oplog.rs", **query, **fields})
        found: list[Mapping[str, Any]] = reply["cursor"]["firstBatch"]
        return found[0] if found else None


async def _ask(
    pool: ConnectionPool[Any],
    database: str,
    document: Mapping[str, Any],
    preference: Any = ReadPreference.PRIMARY,
    address: Address | None = None,
) -> dict[str, Any]:
    options = CommandOptions(read_preference=preference, timeout=_PATIENCE, timeout_given=True)
    command = RunCommand(database, document, options)
    command.address = address
    reply: dict[str, Any] = await pool.run(command)
    return reply


def _last_write(hello: Mapping[str, Any]) -> Timestamp | None:
    found = hello.get("lastWrite", {}).get("opTime", {}).get("ts")
    return found if isinstance(found, Timestamp) else None


async def _position_at(slave: ConnectionPool[Any], address: Address, master: _Master) -> Timestamp:
    hello = await _ask(slave, "admin", {"hello": 1}, address=address)
    if hello.get("setName") == master.set_name and master.hosts.intersection(
        hello.get("hosts", ())
    ):
        position = _last_write(hello)
        if position is None:
            raise _UnknownLag("it does not tell its last write")
        return position
    database, collection = _CHECKPOINTS
    query = {
        "find": collection,
        "filter": {"source.set": master.set_name},
        "projection": {"ts": 1, "source": 1, "clone": 1, "committed": 1},
        "limit": _MOST_CHECKPOINTS,
        "singleBatch": True,
        "batchSize": _MOST_CHECKPOINTS,
        "$readPreference": {"mode": "secondaryPreferred"},
    }
    reply = await _ask(slave, database, query, address=address)
    return _position_of(reply["cursor"]["firstBatch"], master)


def _position_of(checkpoints: Sequence[Mapping[str, Any]], master: _Master) -> Timestamp:
    """The position up to which everything is applied, by the replicators' checkpoints."""
    if not checkpoints:
        raise _UnknownLag(
            "it is no member of the master's set, and has no checkpoint of a replicator from "
            f"the set {master.set_name!r}: replicate with twistd mongosync"
        )
    positions: list[Timestamp] = []
    sources = set()
    for each in checkpoints:
        source, position, clone = each.get("source"), each.get("ts"), each.get("clone") or {}
        if not (
            isinstance(source, Mapping)
            and isinstance(position, Timestamp)
            and isinstance(clone, Mapping)
        ):
            raise _UnknownLag(f"a checkpoint in {'.'.join(_CHECKPOINTS)} is none of the replicator")
        if clone and clone.get("phase") != _CLONED:
            raise _UnknownLag("it is still being copied")
        if each.get("committed") is not None:
            raise _UnknownLag("its replication has ended with a cut-over")
        sources.add(str(source.get("id")))
        positions.append(position)
    if len(sources) > 1:
        raise _UnknownLag(
            f"it has checkpoints of several sets that are named {master.set_name!r}: remove those "
            "of the others"
        )
    return min(positions)
