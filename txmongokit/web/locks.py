"""
Who may use a session now: lines within this process, leases between processes.

A lease is a document with its holder's token and an end.  The server's clock
decides when a lease has ended, so that the hosts' own need not agree.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger

from txmongokit.collection import Collection
from txmongokit.errors import DuplicateKeyError, PyMongoError
from txmongokit.web.errors import SessionLockTimeout

__all__ = ["Leases", "Lines", "SessionLock", "backoff"]

_T = TypeVar("_T")
_log = Logger()
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25
_chance = secrets.SystemRandom()


def backoff(attempt: int) -> float:
    """
    How many seconds to wait after an attempt (the first is 0), by chance, so
    that those who wait do not all come back together.
    """
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt, 10))
    return _chance.uniform(longest / 2, longest)


class Lines:
    """
    A line for each key, first come, first served, within this process.

    @param sleep: what makes a L{Deferred} that fires after as many seconds.
    """

    def __init__(self, sleep: Callable[[float], Deferred[None]]) -> None:
        self._sleep = sleep
        self._lines: dict[bytes, DeferredLock] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def is_busy(self, key: bytes) -> bool:
        """
        Whether one would have to wait.
        """
        return key in self._lines

    async def enter(self, key: bytes, seconds: float) -> None:
        """
        Wait for one's turn; L{leave} must follow.

        @raise SessionLockTimeout: that takes longer than C{seconds}.
        """
        line = self._lines.setdefault(key, DeferredLock())
        turn = line.acquire()
        if turn.called:
            await turn
            return
        late: list[None] = []
        limit = self._sleep(seconds).addCallback(late.append)
        limit.addCallbacks(lambda _: turn.cancel(), _cancelled)
        try:
            await turn
        except CancelledError:
            if late:
                raise SessionLockTimeout(
                    f"other requests of this process have used the session for {seconds:g} s: "
                    "make them shorter, or wait longer"
                ) from None
            raise
        finally:
            limit.cancel()

    def leave(self, key: bytes) -> None:
        """
        Let the next one in.
        """
        line = self._lines[key]
        if not line.waiting:
            del self._lines[key]
        line.release()

    async def run(self, key: bytes, seconds: float, work: Callable[[], Awaitable[_T]]) -> _T:
        """
        Do something in one's turn.
        """
        await self.enter(key, seconds)
        try:
            return await work()
        finally:
            self.leave(key)


def _cancelled(failure: Any) -> None:
    failure.trap(CancelledError)


class SessionLock:
    """
    A lease that this process holds and renews; C{async with} releases it.

    What a holder writes is safe even where the lease is lost (the process was
    stopped for longer than it, or the database could not be reached): the
    store's versions see to that.

    @param renewed: when the lease was asked for, or earlier.
    """

    def __init__(self, leases: Leases, key: bytes, owner: bytes, renewed: float) -> None:
        self._leases = leases
        self._key = key
        self._owner = owner
        self._renewed = renewed
        self._released = False
        self._lost = False
        self._renewal = Deferred.fromCoroutine(self._renew())
        self._renewal.addErrback(_cancelled)

    @property
    def lost(self) -> bool:
        """
        Whether the lease has ended although nobody has released it: somebody
        else has it, or its time is over, as far as this process knows.
        """
        if self._released:
            return self._lost
        return self._lost or self._leases.seconds() - self._renewed >= self._leases.lease

    async def _renew(self) -> None:
        leases = self._leases
        while not self.lost:
            await leases.sleep(leases.lease / 3)
            began = leases.seconds()
            try:
                if await leases.extend(self._key, self._owner):
                    self._renewed = began
                else:
                    self._lost = True
            except PyMongoError as error:
                _log.warn("a session's lock was not renewed: {error!r}", error=type(error).__name__)

    def release(self) -> Deferred[bool]:
        """
        Give the lock up.  Doing so twice does nothing.

        @return: fires with whether it was still held.  Fails with one of
            L{txmongokit.errors} where the database cannot be told; the lease
            then ends by itself, as after cancelling.
        """
        return Deferred.fromCoroutine(self._release())

    async def _release(self) -> bool:
        if self._released:
            return False
        self._lost = self.lost
        self._released = True
        self._renewal.cancel()
        try:
            return await self._leases.give_up(self._key, self._owner)
        finally:
            self._leases.lines.leave(self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.release()
        except PyMongoError as failed:
            # The work that was done is done, and its error is the one that matters.
            _ends_by_itself(failed)


class Leases:
    """
    The leases of a store.

    @param collection: where they are.
    @param lease: how many seconds one lasts unless it is renewed.
    """

    def __init__(self, collection: Collection[Any], lease: float) -> None:
        self._collection = collection
        client = collection.database.client
        self.sleep: Callable[[float], Deferred[None]] = client.sleep
        self.seconds: Callable[[], float] = client.seconds
        self.lease = lease
        self.lines = Lines(self.sleep)

    @property
    def _end(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", round(self.lease * 1000)]}

    async def take(self, key: bytes, wait: float) -> SessionLock:
        """
        Wait for a lease, in line with others of this process and asking again
        and again on behalf of the first of them.

        @raise SessionLockTimeout: nobody gave it up for C{wait} seconds.
        """
        deadline = self.seconds() + wait
        await self.lines.enter(key, wait)
        owner = secrets.token_bytes(16)
        try:
            attempt = 0
            while True:
                began = self.seconds()
                if await self._try(key, owner):
                    return SessionLock(self, key, owner, began)
                left = deadline - self.seconds()
                if left <= 0:
                    raise SessionLockTimeout(
                        f"another process has held the session's lock for {wait:g} s: make its "
                        "requests shorter, or wait longer"
                    )
                await self.sleep(min(backoff(attempt), left))
                attempt += 1
        except BaseException:
            self.lines.leave(key)
            raise

    async def _try(self, key: bytes, owner: bytes) -> bool:
        """
        Take the lease if it is free: one command, so that of two who try, one
        does.
        """
        free = {"$not": [{"$gt": ["$until", "$$NOW"]}]}
        taken = {
            "owner": {"$cond": [free, owner, "$owner"]},
            "until": {"$cond": [free, self._end, "$until"]},
        }
        asked = self._collection.find_one_and_update(
            {"_id": key}, [{"$set": taken}], upsert=True, return_document=True
        )
        try:
            found = await asked
        except DuplicateKeyError:
            return False  # Both would have been the first.
        except BaseException:
            # It may have been granted: nobody else should wait for its end.
            self.give_up(key, owner).addErrback(_unanswered)
            raise
        return found is not None and bool(found["owner"] == owner)

    def extend(self, key: bytes, owner: bytes) -> Deferred[bool]:
        """
        Renew a lease.

        @return: fires with whether its owner had it.
        """
        extended = self._collection.update_one(
            {"_id": key, "owner": owner}, [{"$set": {"until": self._end}}]
        )
        return extended.addCallback(lambda result: result.matched_count == 1)

    def give_up(self, key: bytes, owner: bytes) -> Deferred[bool]:
        """
        End a lease.

        @return: fires with whether its owner had it.
        """
        deleted = self._collection.delete_one({"_id": key, "owner": owner})
        return deleted.addCallback(lambda result: result.deleted_count == 1)


def _unanswered(failure: Any) -> None:
    failure.trap(PyMongoError, CancelledError)
    _ends_by_itself(failure.value)


def _ends_by_itself(error: BaseException) -> None:
    _log.info("a session's lock ends by itself: {kind}", kind=type(error).__name__)
