"""
How far the replication is behind the source, and how long it may be before
what it has to read next is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pymongo import ASCENDING
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.errors import PyMongoError
from txmongokit.replicator.entries import from_timestamp
from txmongokit.replicator.watching import Majority, Repeatedly

__all__ = ["Headroom", "headroom_seconds"]

_REPEAT = 60.0
_LEAST_WINDOW = 60.0


def headroom_seconds(
    *, oldest: int, newest: int, position: int, size: int | None, limit: int | None
) -> float:
    """
    Seconds until the entry at a position is overwritten, if the source goes
    on writing as it did.

    That is how much older the oldest entry is; and while the oplog is not
    full, also the time that filling it takes.

    @param oldest: the position of the oldest entry.
    @param newest: that of the newest.
    @param size: the bytes of the oplog; C{None} where that may not be read.
    @param limit: how many it may have.
    """
    seconds = float((position >> 32) - (oldest >> 32))
    if size and limit and size < limit:
        # What was written in a few seconds says nothing of the hours to come.
        window = max(_LEAST_WINDOW, float((newest >> 32) - (oldest >> 32)))
        seconds += window * (limit - size) / size
    return seconds


class Headroom:
    """
    Measures it every five seconds, and warns in the log below a threshold;
    also where the source has no majority, for then nothing is to be read.

    @param namespace: the source's oplog.
    @param position: asks where the replication would go on after a restart.
    @param reached: asks how far it is; that may be further.
    @param threshold: seconds below which to warn.
    @param measured: called after each measurement.
    @ivar seconds: the headroom; C{None} before the first measurement.
    @ivar lag: how many seconds the replication is behind.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        pool: ConnectionPool,
        namespace: str,
        position: Callable[[], int],
        reached: Callable[[], int],
        threshold: float,
        measured: Callable[[], object],
    ) -> None:
        self.seconds: float | None = None
        self.lag: float | None = None
        self._reactor = reactor
        self._pool = pool
        self._namespace = namespace
        self._position = position
        self._reached = reached
        self._threshold = threshold
        self._measured = measured
        self._warned: float | None = None
        self._first: int | None = None
        self._majority = Majority(reactor, "source", "and is replicated only when it has")
        self._repeatedly = Repeatedly(reactor, "headroom", self.measure)

    def start(self) -> None:
        """
        Measure now and from now on.
        """
        self._repeatedly.start()

    def stop(self) -> None:
        """
        Measure no more.
        """
        self._repeatedly.stop()

    async def measure(self) -> None:
        """
        Measure once.

        @raise PyMongoError: the source is away, or refuses.
        """
        database, _, name = self._namespace.partition(".")
        oplog = self._pool[database]
        first = await oplog[name].find_one({}, {"ts": 1}, sort=[("$natural", ASCENDING)])
        hello: Mapping[str, Any] = await self._pool["admin"].command("hello")
        if first is None:
            return
        size, limit = await self._sizes(database, name)
        newest = from_timestamp(hello["lastWrite"]["opTime"]["ts"])
        self._majority.judge(hello)
        self.judge(from_timestamp(first["ts"]), newest, self._position(), size, limit)
        self._measured()

    async def _sizes(self, database: str, name: str) -> tuple[int | None, int | None]:
        try:
            stats: Mapping[str, Any] = await self._pool[database].command("collStats", name)
        except PyMongoError:
            # Not every user may ask for it.
            return None, None
        return stats.get("size"), stats.get("maxSize")

    def judge(
        self, oldest: int, newest: int, position: int, size: int | None, limit: int | None
    ) -> None:
        """
        Take a measurement, and warn where it is due: at once when it falls
        below the threshold, and again every minute.
        """
        self.lag = float(max(0, (newest >> 32) - (self._reached() >> 32)))
        self.seconds = headroom_seconds(
            oldest=oldest, newest=newest, position=position, size=size, limit=limit
        )
        first = self._first = oldest if self._first is None else self._first
        # Without sizes, an oplog whose oldest entry stays is not full yet.
        overwriting = (size is not None and limit is not None) or oldest > first
        now = self._reactor.seconds()
        if self.seconds >= self._threshold or not overwriting:
            if self._warned is not None and self.seconds > 1.1 * self._threshold:
                self._warned = None
                self._log.info("oplog headroom: {seconds:.0f} s again", seconds=self.seconds)
        elif self._warned is None or now - self._warned >= _REPEAT:
            self._warned = now
            self._log.warn(
                "oplog headroom: in about {seconds:.0f} s the source overwrites what is to be "
                "read next (the replication is {lag:.0f} s behind): make the source's oplog larger "
                "(replSetResizeOplog), or the replication faster",
                seconds=max(0.0, self.seconds),
                lag=self.lag,
            )
