"""
What is looked at every few seconds while a replication runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.errors import PyMongoError
from txmongokit.replicator.entries import from_timestamp

__all__ = ["Majority", "Repeatedly", "watch_majority"]

_EVERY = 5.0
_REPEAT = 60.0
# Seconds that a majority may be behind before it is a reason to warn.
_MINORITY = 15


class Repeatedly:
    """
    Measures something now and every five seconds; a server that does not
    answer is asked again the next time.

    @param what: is measured, for the log.
    """

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, what: str, measure: Callable[[], Awaitable[None]]
    ) -> None:
        self._what = what
        self._measure = measure
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._measuring: Deferred[None] | None = None

    def start(self) -> None:
        """
        Measure now and from now on.
        """
        self._loop.start(_EVERY).addErrback(
            lambda failure: self._log.failure("{what} is not known", failure, what=self._what)
        )

    def stop(self) -> None:
        """
        Measure no more.
        """
        if self._loop.running:
            self._loop.stop()
        measuring, self._measuring = self._measuring, None
        if measuring is not None:
            measuring.cancel()

    def _tick(self) -> Deferred[None]:
        self._measuring = Deferred.fromCoroutine(self._measure_or_wait())
        return self._measuring

    async def _measure_or_wait(self) -> None:
        try:
            await self._measure()
        except CancelledError:
            return
        except PyMongoError as error:
            # While a server is away, whoever needs it says so.
            self._log.debug("{what}: {error}", what=self._what, error=str(error)[:200])


class Majority:
    """
    Warns, at once and then every minute, while what is written to a replica
    set has not reached a majority of its members for 15 seconds.

    @param where: which of the two it is, for the log.
    @param consequence: what that means, likewise.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, where: str, consequence: str) -> None:
        self._reactor = reactor
        self._where = where
        self._consequence = consequence
        self._told: float | None = None
        # A position that the majority does not have, and since when it is waited for.
        self._awaited: tuple[int, float] | None = None

    def judge(self, hello: Mapping[str, Any]) -> None:
        """
        Take what its primary says of itself; a standalone server has no
        majority.
        """
        last = hello.get("lastWrite", {})
        if "majorityOpTime" not in last:
            return
        newest, majority = (
            from_timestamp(last[name]["ts"]) for name in ("opTime", "majorityOpTime")
        )
        now = self._reactor.seconds()
        if self._awaited is not None and majority < self._awaited[0]:
            self._wait(now, now - self._awaited[1])
            return
        if self._awaited is None or now - self._awaited[1] < _MINORITY:
            self._told = None
        self._awaited = (newest, now) if newest > majority else None

    def _wait(self, now: float, seconds: float) -> None:
        if seconds >= _MINORITY and (self._told is None or now - self._told >= _REPEAT):
            self._told = now
            self._log.warn(
                "majority: what was written to the {where} {seconds:.0f} s ago has not reached a "
                "majority of its members, {consequence}: see to the members that are down or "
                "behind",
                where=self._where,
                seconds=seconds,
                consequence=self._consequence,
            )


def watch_majority(
    reactor: IReactorTime, pool: ConnectionPool, where: str, consequence: str
) -> Repeatedly:
    """
    Have a L{Majority} judge a deployment; begins with C{start}.
    """
    majority = Majority(reactor, where, consequence)

    async def measure() -> None:
        majority.judge(await pool["admin"].command("hello"))

    return Repeatedly(reactor, f"the {where}'s majority", measure)
