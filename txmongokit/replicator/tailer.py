"""
Reading the source's oplog, as raw bytes, from a position on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo import ASCENDING, DESCENDING, CursorType
from pymongo.read_concern import ReadConcern
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.cursor import Cursor
from txmongokit.errors import CursorNotFound, PyMongoError
from txmongokit.replicator.entries import from_timestamp, parse_entry, timestamp
from txmongokit.replicator.patience import LIMIT, Patience, is_passing

__all__ = ["OPLOG", "OplogGap", "Tailer", "last_written"]

OPLOG = "local.oplog.rs"
"""The oplog of every member of a replica set."""

# CappedPositionLost and the change-stream form of the same thing: what was to
# be read next has been overwritten.
_OVERRUN = frozenset({136, 286})
# Entries at a time: what is prepared is a small part of what would fit into a
# message, so that the destination is not kept waiting while it is taken apart.
_BATCH = 4096
# A cursor that the server killed, or that lost its server: open a new one.
_REOPEN = frozenset({43, 237, 175})
# How long a member may take to know what another one knew (milliseconds).
_CATCHING_UP_MS = 10_000


class OplogGap(Exception):
    """
    The entry to resume from is not in the source's oplog.
    """


class Tailer:
    """
    Reads an oplog in order.

    One batch is fetched ahead while the one before it is applied, no more:
    memory is bounded by two batches.

    @param namespace: the oplog, usually C{local.oplog.rs}.
    @param patience: seconds to keep trying when the source is away.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        pool: ConnectionPool,
        namespace: str,
        *,
        patience: float = LIMIT,
    ) -> None:
        database, _, name = namespace.partition(".")
        self.namespace = namespace
        self._reactor = reactor
        self._pool = pool
        self._patience = patience
        self._oplog: Collection[dict[str, Any]] = pool.get_database(
            database, read_concern=ReadConcern("majority")
        )[name]
        self._cursor: Cursor[Any] | None = None
        self._ahead: Deferred[Any] | None = None
        self._position = 0
        self._verify = False
        self._term = -1
        self._expected: int | None = None

    async def bounds(self) -> tuple[int, int] | None:
        """
        Positions of the oldest and the newest entry; C{None} for an empty
        oplog.
        """
        positions = []
        for direction in (ASCENDING, DESCENDING):
            entry = await self._oplog.find_one({}, {"ts": 1}, sort=[("$natural", direction)])
            if entry is None:
                return None
            positions.append(from_timestamp(entry["ts"]))
        return positions[0], positions[1]

    async def last_written(self, newest: int) -> int:
        """
        Where one pass ends: at what was written before it, though no majority
        may have that yet.

        @param newest: the newest entry that a majority has, which must do
            where this is not the server's own oplog.
        """
        return max(newest, await last_written(self._pool)) if self.namespace == OPLOG else newest

    async def entry_at(self, position: int) -> bytes | None:
        """
        The one entry at a position, for walking back through the parts of a
        transaction.

        The member that is asked may be another one than that which was read
        from: it answers when it is as far.
        """
        at = timestamp(position)
        session = self._pool.start_session(causal_consistency=True)
        session.advance_operation_time(timestamp(max(position, self._position)))

        async def attempt(again: bool) -> bytes | None:
            cursor = self._oplog.find_raw_batches(
                {"ts": {"$gte": at, "$lte": at}},
                limit=-1,
                session=session,
                max_time_ms=_CATCHING_UP_MS,
            )
            documents = await cursor.next_batch()
            return documents[0] if documents else None

        try:
            return await Patience(self._reactor, self._patience).keep_trying(attempt, "source")
        finally:
            await session.end_session()

    @property
    def ready(self) -> bool:
        """
        Whether L{next_batch} would give entries at once.
        """
        return self._ahead is not None and self._ahead.called

    @property
    def read_up_to(self) -> int:
        """
        The position up to which everything is read.
        """
        return self._position if self._verify else self._position - 1

    def start(self, position: int, *, verify: bool, term: int = -1) -> None:
        """
        Read from here on.

        @param verify: the entry at C{position} was applied already: it must
            be the first one read, and is left out.
        @param term: that entry's election term, where it is known: another
            one there means that it was rolled back.
        """
        self._position = position
        self._verify = verify
        self._term = term

    async def next_batch(self) -> list[bytes]:
        """
        The next entries, or none after about a second in which there were
        none.

        @raise OplogGap: the oplog no longer holds the position to go on
            from.
        @raise txmongokit.errors.PyMongoError: the source stayed away for
            longer than the patience.
        """
        deadline = None
        pause = 0.1
        while True:
            try:
                return await self._read()
            except PyMongoError as error:
                self._give_up_cursor()
                code = getattr(error, "code", None)
                if code in _OVERRUN:
                    raise OplogGap(_overrun(self._position, await self._oldest())) from error
                if not is_passing(error) and code not in _REOPEN:
                    raise
                now = self._reactor.seconds()
                deadline = now + self._patience if deadline is None else deadline
                if now >= deadline:
                    raise
                self._log.warn("source: {error}; trying again", error=str(error))
                await deferLater(self._reactor, pause, lambda: None)
                pause = min(2 * pause, 5.0)

    async def _read(self) -> list[bytes]:
        if self._cursor is None:
            self._open()
        assert self._cursor is not None
        ahead, self._ahead = self._ahead, None
        waiting = self._cursor.next_batch() if ahead is None else ahead
        documents = await waiting
        if not documents:
            if not self._cursor.alive:
                if self._cursor.retrieved:
                    # A tailable cursor that is lost ends without an error.
                    raise CursorNotFound("the cursor on the oplog was lost", 43)
                self._give_up_cursor()
            return documents
        expected, self._expected = self._expected, None
        if expected is not None:
            first = parse_entry(documents[0])
            if first.ts != expected:
                raise OplogGap(_overrun(expected, first.ts))
            if self._term not in (-1, first.term):
                raise OplogGap(
                    f"the source's oplog has another entry at {_shown(expected)} than the one that "
                    "was applied: the source was rolled back, or this is another source; copy the "
                    "data anew"
                )
            del documents[0]
        if documents:
            last = parse_entry(documents[-1])
            self._position, self._term = last.ts, last.term
            self._verify = True
        if self._cursor.alive:
            self._ahead = self._cursor.next_batch()
        else:
            self._cursor = None
        return documents

    def _open(self) -> None:
        self._cursor = self._oplog.find_raw_batches(
            {"ts": {"$gte": timestamp(self._position)}},
            cursor_type=CursorType.TAILABLE_AWAIT,
            max_await_time_ms=1000,
            batch_size=_BATCH,
        )
        # The entry to resume after comes first on a new cursor, or is lost.
        self._expected = self._position if self._verify else None

    def _give_up_cursor(self) -> None:
        cursor, self._cursor = self._cursor, None
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.addErrback(lambda failure: None)
            ahead.cancel()
        if cursor is not None:
            cursor.close().addErrback(lambda failure: None)

    async def _oldest(self) -> int | None:
        """The position of the oldest entry, for a message."""
        try:
            bounds = await self.bounds()
        except PyMongoError:
            return None
        return None if bounds is None else bounds[0]

    def stop(self) -> None:
        """
        Close the cursor.
        """
        self._give_up_cursor()


async def last_written(pool: ConnectionPool) -> int:
    """
    The position of the last entry in a replica set's oplog; a majority may
    not have it yet.
    """
    hello: Mapping[str, Any] = await pool["admin"].command("hello")
    return from_timestamp(hello["lastWrite"]["opTime"]["ts"])


def _overrun(position: int, found: int | None) -> str:
    holds = "" if found is None else f", and goes on at {_shown(found)}"
    return (
        f"the source's oplog no longer holds {_shown(position)}{holds}: it was overwritten before "
        "it was read, or this is another source; copy the data anew and start with a larger oplog "
        "(replSetResizeOplog)"
    )


def _shown(position: int) -> str:
    at = timestamp(position)
    return f"{at.as_datetime():%Y-%m-%dT%H:%M:%SZ} ({at.time}, {at.inc})"
