"""
Cursors: results that arrive in batches.

Follows the find/getMore/killCursors and client-side-operations-timeout
specifications.
"""

from __future__ import annotations

import copy
import enum
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pymongo import CursorType
from twisted.internet.defer import Deferred, succeed

from txmongokit._sansio.commands.arguments import CollationIn, Hint, Keys, Projection
from txmongokit._sansio.commands.base import CommandOptions, CursorBatch
from txmongokit._sansio.commands.explain import Explain
from txmongokit._sansio.commands.read import (
    AggregateWrite,
    CursorCommand,
    Distinct,
    Find,
    GetMore,
    KillCursors,
)
from txmongokit._sansio.commands.whole import WholeOperation
from txmongokit._sansio.transactions import SessionState, bound_session
from txmongokit.cursorcalls import CursorCalls
from txmongokit.errors import (
    AutoReconnect,
    CursorNotFound,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
)
from txmongokit.exhaust import ExhaustStream
from txmongokit.interfaces import IOperationRunner
from txmongokit.sessions import ClientSession, session_state
from txmongokit.types import Address

__all__ = ["CommandCursor", "Cursor", "TimeoutMode", "check_await_time"]

DocumentT = TypeVar("DocumentT")
ResultT = TypeVar("ResultT")

# CursorNotFound, QueryPlanKilled, CursorKilled: the server has let it go.
_GONE = frozenset({43, 175, 237})
_EXHAUST_WIRE_VERSION = 9
_EXHAUST_LIMIT = "an exhaust cursor cannot have a limit: leave one of the two out"


class TimeoutMode(enum.StrEnum):
    """
    What a cursor's C{timeout} limits (client-side-operations-timeout
    specification): everything from its first command to its last, or each
    call that fetches.
    """

    CURSOR_LIFETIME = "cursorLifetime"
    ITERATION = "iteration"


def check_await_time(options: CommandOptions, max_await_time_ms: int | None) -> None:
    """
    Refuse to have the server wait for as long as the operation may take.

    @raise ValueError: C{max_await_time_ms} is not less than the timeout, or
        negative.
    @raise TypeError: it is no whole number.
    """
    if max_await_time_ms is None:
        return
    if isinstance(max_await_time_ms, bool) or not isinstance(max_await_time_ms, int):
        raise TypeError(
            f"max_await_time_ms must be a whole number, not {type(max_await_time_ms).__name__}"
        )
    if max_await_time_ms < 0:
        raise ValueError("max_await_time_ms must not be negative")
    timeout = options.timeout
    if timeout and max_await_time_ms >= timeout * 1000:
        raise ValueError(
            f"max_await_time_ms={max_await_time_ms} must be less than the timeout of {timeout:g} s"
        )


def _kill(
    runner: IOperationRunner,
    last: CursorBatch | None,
    options: CommandOptions,
    session: SessionState | None,
) -> Deferred[None]:
    """Tell the server that a cursor is not needed; never fails."""
    if last is None or not last.cursor_id:
        return succeed(None)
    command = KillCursors(last.namespace, [last.cursor_id], last.address, options)
    killed: Deferred[Any] = runner.run(command, session)
    return killed.addBoth(lambda _: None)


def _abandon(
    runner: IOperationRunner,
    last: CursorBatch | None,
    options: CommandOptions,
    session: SessionState | None,
    implicit: bool,
    stream: ExhaustStream | None,
) -> None:
    """Clean up after a cursor that nobody has any more."""
    if stream is not None:
        stream.stop()
    killed = _kill(runner, last, options, session)
    if implicit and session is not None:
        held = session
        killed.addCallback(lambda _: runner.release_session(held))


class CommandCursor(Generic[DocumentT]):
    """
    The results of a command that answers with a cursor.

    Nothing is sent before the first use.  Use it in one of these ways::

        documents = await cursor                 # a list
        documents = yield cursor                 # under inlineCallbacks
        cursor.addCallback(print)                # a Deferred of the list
        async for document in cursor: ...
        async for batch in cursor.batches(): ...
        batch = await cursor.next_batch()
        document = await cursor.next()

    Reading to the end closes it; C{async with} or L{close} do so earlier.
    One that is dropped open is killed soon after it is garbage.

    On a tailable cursor C{async for}, L{batches}, L{to_list} and
    L{next_batch} stop where there is nothing for now, and may be used again
    as long as it is L{alive}; L{next} waits.

    Any error ends it.  The server is told, unless it or the connection has
    gone.

    It is no L{Deferred}, but L{addCallback} and its kin start it and give the
    one of L{deferred}.  It has C{send} and C{throw}, because Twisted then
    runs it as it runs a coroutine.

    @param runner: what runs its commands.
    @param command: the first command.
    @param session: an explicit session; without one, the cursor takes an
        implicit one for as long as it is open.
    @param batch_size: documents in each batch after the first.
    @param max_await_time_ms: how long the server waits for new documents;
        makes the cursor a tailable one.
    @param tailable: whether an empty batch is not the end.
    @param timeout_mode: see L{TimeoutMode}; what a tailable cursor's timeout
        limits is each iteration, what another one's is its lifetime, unless
        said otherwise.
    @param keeps_session: after an error, leave it to L{resumed} or L{close}
        to give an implicit session back.

    @raise ValueError: C{timeout_mode} or C{max_await_time_ms} do not suit
        the timeout or the command.
    """

    # For those whose making failed.
    _started = False

    def __init__(
        self,
        runner: IOperationRunner,
        command: CursorCommand,
        session: ClientSession | None = None,
        *,
        batch_size: int | None = None,
        comment: Any = None,
        max_await_time_ms: int | None = None,
        tailable: bool = False,
        timeout_mode: TimeoutMode | str | None = None,
        keeps_session: bool = False,
    ) -> None:
        self._command = command
        self._prepare(runner, command.options, session)
        self._batch_size = batch_size
        self._comment = comment
        self._raw = command.raw
        self._tailable = tailable or max_await_time_ms is not None
        self._max_await_time_ms = max_await_time_ms
        self._keeps_session = keeps_session
        if timeout_mode == TimeoutMode.ITERATION and isinstance(command, AggregateWrite):
            raise ValueError(
                "a pipeline with $out or $merge has nothing to iterate: leave timeout_mode out"
            )
        check_await_time(self._options, max_await_time_ms)
        self._set_timeout_mode(timeout_mode)

    def _prepare(
        self,
        runner: IOperationRunner,
        options: CommandOptions,
        session: ClientSession | None,
    ) -> None:
        self._runner = runner
        self._options = options
        self._given_session = session
        self._session = bound_session(runner) if session is None else session_state(session)
        self._implicit = self._session is None
        self._keeps_session = False
        self._raw = False
        self._exhaust = False
        self._awaits = True
        self._stream: ExhaustStream | None = None
        self._limit = 0
        self._ends: float | None = None
        self._whole: Deferred[list[DocumentT]] | None = None
        self._coroutine: Generator[Any, Any, list[DocumentT]] | None = None
        self._reset()

    def _reset(self) -> None:
        self._retrieved = 0
        self._last: CursorBatch | None = None
        self._ahead: deque[DocumentT] = deque()
        self._started = False
        self._finished = False
        self._fetching = False
        self._fetch: Deferred[list[DocumentT]] | None = None
        self._killing: Deferred[None] | None = None
        # Batches that are fetched for one call are one operation.
        self._together: WholeOperation | None = None
        # What stays on a server that could not be told yet.
        self._left: CursorBatch | None = None

    def _set_timeout_mode(self, mode: TimeoutMode | str | None) -> None:
        self._by_iteration = self._tailable
        # What the specification lets a server know of the time that is left.
        self._tells_time = not self._tailable or self._awaits
        if mode is None:
            return
        mode = TimeoutMode(mode)
        if self._runner.deadline(self._options) is None:
            raise ValueError("timeout_mode needs a timeout: give one")
        if self._tailable and mode is TimeoutMode.CURSOR_LIFETIME:
            raise ValueError("a tailable cursor has no timeout for its lifetime: leave it out")
        if self._exhaust and mode is TimeoutMode.ITERATION:
            raise ValueError("an exhaust cursor's timeout is for its lifetime: leave it out")
        self._by_iteration = mode is TimeoutMode.ITERATION
        self._tells_time = self._tells_time and (self._tailable or not self._by_iteration)

    def batch_size(self, batch_size: int) -> Self:
        """
        The documents in each batch from the next one on; 0 for the server's
        choice.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(f"batch_size must be a whole number, not {type(batch_size).__name__}")
        if batch_size < 0:
            raise ValueError("batch_size must not be negative")
        self._batch_size = batch_size or None
        return self

    # What it is and where it stands.

    def __repr__(self) -> str:
        condition = "finished" if self._finished else "open" if self._started else "not started"
        return f"<{type(self).__name__} {condition}>"

    def __del__(self) -> None:
        # Runs in any thread and at any time, so that it may only leave word.
        if not self._started or sys.is_finalizing():
            return
        if not self._finished or (self._implicit and self._session is not None):
            self._runner.soon(
                partial(
                    _abandon,
                    self._runner,
                    self._last,
                    self._options,
                    self._session,
                    self._implicit,
                    self._stream,
                )
            )

    @property
    def alive(self) -> bool:
        """
        Whether there may be more documents.
        """
        return bool(self._ahead) or not self._finished

    @property
    def cursor_id(self) -> int | None:
        """
        The server's number for it; C{None} before the first batch, 0 when
        it is exhausted.
        """
        return None if self._last is None else self._last.cursor_id

    @property
    def address(self) -> Address | None:
        """
        The server that holds it; C{None} before the first batch.
        """
        return None if self._last is None else self._last.address

    @property
    def session(self) -> ClientSession | None:
        """
        The explicit session that it was made with.
        """
        return self._given_session

    @property
    def retrieved(self) -> int:
        """
        How many documents the server has sent.
        """
        return self._retrieved

    @property
    def last_batch(self) -> CursorBatch | None:
        """
        What the latest reply said, such as its post-batch resume token.
        """
        return self._last

    # Batches.

    def next_batch(
        self, *, timeout: float | None = None, deadline: float | None = None
    ) -> Deferred[list[DocumentT]]:
        """
        Fetch the next batch.  One at a time.

        @param timeout: seconds that it may take.
        @param deadline: when it must have ended, as L{time.time} tells it.

        @return: fires with the documents; with an empty list at the end.
            On a tailable cursor an empty list may also mean that there is
            nothing yet: see L{alive}.  Cancelling ends the cursor, and tells
            the server so where it is known to hold it.

        @raise InvalidOperation: another fetch is in flight.
        """
        if timeout is not None:
            end = self._runner.seconds() + timeout
            deadline = end if deadline is None else min(deadline, end)
        return self.fetch(deadline, wait=not self._tailable)

    def fetch(
        self, deadline: float | None = None, *, wait: bool = False
    ) -> Deferred[list[DocumentT]]:
        """
        L{next_batch} for those who have more to do within one time limit.

        @param deadline: when to have ended, in the runner's seconds, instead
            of what the timeout says.
        @param wait: go on until there are documents or the cursor ends.
        """
        if self._fetching:
            raise InvalidOperation("a batch of this cursor is being fetched: wait for it first")
        if self._ahead:
            documents = list(self._ahead)
            self._ahead.clear()
            return succeed(documents)
        if self._finished:
            return succeed([])
        self._fetching = True
        fetch = Deferred.fromCoroutine(self._next(deadline, wait))
        if self._fetching:
            self._fetch = fetch
        return fetch

    async def _next(self, deadline: float | None, wait: bool) -> list[DocumentT]:
        try:
            if deadline is None:
                deadline = self._deadline()
            while True:
                documents = await self._advance(deadline)
                if documents or self._finished or not wait:
                    return documents
        finally:
            self._fetching = False
            self._fetch = None

    def _deadline(self) -> float | None:
        if self._by_iteration or self._options.timeout is None:
            deadline: float | None = self._runner.deadline(self._options)
            return deadline
        if not self._started:
            self._ends = self._runner.deadline(self._options)
        return self._ends

    def _first_command(self) -> CursorCommand:
        return self._command

    async def _advance(self, deadline: float | None) -> list[DocumentT]:
        try:
            if not self._started:
                command = self._first_command()
                command.sends_max_time = self._tells_time
                self._started = True
                if self._session is None:
                    self._session = self._runner.take_session()
                command.deadline = deadline
                command.whole = self._together
                batch = await self._runner.run(command, self._session)
            elif self._exhaust and self._streams():
                batch = await self._streamed(deadline)
            else:
                batch = await self._runner.run(self._get_more(deadline), self._session)
        except Exception as error:
            if self._failed(error):
                return []
            raise
        self._last = batch
        if self._left is not None:
            _kill(self._runner, self._left, self._options, self._session)
            self._left = None
        documents: list[DocumentT] = batch.documents
        self._retrieved += len(documents)
        if not batch.cursor_id:
            self._finish()
        elif self._limit and self._retrieved >= abs(self._limit):
            self._end()
        return documents

    def _streams(self) -> bool:
        return False

    async def _streamed(self, deadline: float | None) -> CursorBatch:
        while True:
            if self._stream is None:
                self._stream = ExhaustStream()
                self._stream.start(self._runner, self._get_more(deadline), self._session)
            batch = await self._stream.next()
            if batch is not None:
                return batch
            # The server may end a stream before the cursor ends.
            self._stream = None

    def _get_more(self, deadline: float | None) -> GetMore:
        last = self._last
        assert last is not None
        size = self._batch_size
        if self._limit:
            left = abs(self._limit) - self._retrieved
            size = min(size, left) if size else left
        await_time = self._max_await_time_ms
        if await_time is not None and deadline is not None and deadline != math.inf:
            left_ms = int((deadline - self._runner.seconds()) * 1000)
            await_time = min(await_time, max(1, left_ms))
        command = GetMore(
            last.namespace,
            last.cursor_id,
            last.address,
            self._options,
            batch_size=size,
            max_time_ms=await_time,
            comment=self._comment,
            raw=self._raw,
        )
        command.deadline, command.whole = deadline, self._together
        return command

    # Its end.

    def _failed(self, error: Exception) -> bool:
        """End after an error; whether it means no more than that."""
        gone = isinstance(error, CursorNotFound) or (
            isinstance(error, OperationFailure) and error.code in _GONE
        )
        broken = isinstance(error, AutoReconnect) and not isinstance(
            error, (NetworkTimeout, NotPrimaryError)
        )
        if broken and self._keeps_session:
            self._left = self._last
        if gone or broken:
            if broken and self._last is not None and self._last.pinned:
                # The lost connection is given back at close (load balancers specification).
                self._keeps_session = True
            self._finish()
        else:
            # The server does not know that nobody waits for it any more.
            self._end()
        return gone and self._ends_quietly()

    def _ends_quietly(self) -> bool:
        return False

    def _finish(self) -> None:
        self._finished = True
        self._stream = None
        if self._last is not None:
            self._last = self._last._replace(cursor_id=0)
        if not self._keeps_session:
            self._give_back_session()

    def _give_back_session(self) -> None:
        session = self._session
        if self._implicit and session is not None:
            self._session = None
            self._runner.release_session(session)

    def _end(self, timeout: float | None = None) -> None:
        """Finish, and have the server told."""
        self._finished = True
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()
        last = self._last
        if last is not None:
            self._last = last._replace(cursor_id=0)
        options = self._options if timeout is None else replace(self._options, timeout=timeout)
        killing = self._killing = _kill(self._runner, last, options, self._session)

        def done(_: object) -> None:
            self._killing = None
            self._finish()

        killing.addCallback(done)

    def close(self, timeout: float | None = None) -> Deferred[None]:
        """
        Read no more.  A fetch in flight fails with L{CancelledError}.

        @param timeout: seconds for telling the server, instead of those that
            the cursor has; in any case counted from now.

        @return: fires when the server has been told, or could not be; never
            fails.
        """
        self._keeps_session = False
        self._ahead.clear()
        if self._fetch is not None:
            self._fetch.cancel()
        if not self._finished:
            self._end(timeout)
        if self._killing is None:
            self._give_back_session()
            return succeed(None)
        closed: Deferred[None] = Deferred()

        def told(_: object) -> None:
            if not closed.called:
                closed.callback(None)

        self._killing.addCallback(told)
        return closed

    def resumed(self, command: CursorCommand) -> CommandCursor[DocumentT]:
        """
        Another cursor in this one's place and session, with its options.

        This one must have been made with C{keeps_session}, and be finished.

        @param command: the new one's first command.
        """
        other: CommandCursor[DocumentT] = CommandCursor(
            self._runner,
            command,
            self._given_session,
            batch_size=self._batch_size,
            comment=self._comment,
            max_await_time_ms=self._max_await_time_ms,
            tailable=self._tailable,
            keeps_session=True,
        )
        other._session, self._session = self._session, None
        other._left, self._left = self._left, None
        return other

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Document by document, batch by batch.

    def next(self) -> Deferred[DocumentT]:
        """
        The next document, however long it takes.

        @return: fires with it; fails with L{StopAsyncIteration} when there
            will be none.  Cancelling ends the cursor.
        @raise InvalidOperation: a batch is being fetched.
        """
        if self._ahead:
            return succeed(self._ahead.popleft())
        return Deferred.fromCoroutine(self._one(self.fetch(wait=True)))

    async def _one(self, fetched: Deferred[list[DocumentT]]) -> DocumentT:
        documents = await fetched
        if not documents:
            raise StopAsyncIteration
        self._ahead.extend(documents)
        return self._ahead.popleft()

    def try_next(self) -> Deferred[DocumentT | None]:
        """
        The next document, after one command at most.

        @return: fires with it, or with C{None} where there is none for now
            or at all: see L{alive}.  Cancelling ends the cursor.
        @raise InvalidOperation: a batch is being fetched.
        """
        if self._ahead:
            return succeed(self._ahead.popleft())

        def first(documents: list[DocumentT]) -> DocumentT | None:
            self._ahead.extend(documents)
            return self._ahead.popleft() if self._ahead else None

        return self.fetch().addCallback(first)

    def __aiter__(self) -> CommandCursor[DocumentT]:
        return self

    async def __anext__(self) -> DocumentT:
        if self._ahead:
            return self._ahead.popleft()
        return await self._one(self.next_batch())

    async def batches(self) -> AsyncIterator[list[DocumentT]]:
        """
        The batches as they come, until there is an empty one.
        """
        while batch := await self.next_batch():
            yield batch

    # The whole.

    def to_list(self, length: int | None = None) -> Deferred[list[DocumentT]]:
        """
        What is left of the cursor, or the next C{length} documents.

        On a tailable cursor: what there is now.

        @return: fires with the list.  Cancelling ends the cursor.
        @raise ValueError: C{length} is less than one.
        """
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, not {length}")
        return Deferred.fromCoroutine(self._collect(length))

    async def _collect(self, length: int | None = None) -> list[DocumentT]:
        if self._started:
            return await self._gathered(length)
        with WholeOperation() as self._together:
            try:
                return await self._gathered(length)
            finally:
                self._together = None

    async def _gathered(self, length: int | None) -> list[DocumentT]:
        documents: list[DocumentT] = []
        while length is None or len(documents) < length:
            batch = await self.next_batch()
            documents += batch
            if not batch or self._finished:
                break
        if length is not None and len(documents) > length:
            self._ahead.extend(documents[length:])
            del documents[length:]
        return documents

    def __await__(self) -> Generator[Any, Any, list[DocumentT]]:
        return self.to_list().__await__()

    def send(self, value: Any) -> Any:
        """
        See C{collections.abc.Coroutine}: this is how Twisted runs
        C{yield cursor} and C{Deferred.fromCoroutine(cursor)}.
        """
        if self._coroutine is None:
            self._coroutine = self._collect().__await__()
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """
        See C{collections.abc.Coroutine}.
        """
        if self._coroutine is None:
            self._coroutine = self._collect().__await__()
        return self._coroutine.throw(*error)

    def deferred(self) -> Deferred[list[DocumentT]]:
        """
        The Deferred of the whole list: the same one each time.
        """
        if self._whole is None:
            self._whole = self.to_list()
        return self._whole

    def addCallback(
        self, callback: Callable[..., ResultT], *args: Any, **kwargs: Any
    ) -> Deferred[ResultT]:
        """
        L{Deferred.addCallback} of L{deferred}.
        """
        return self.deferred().addCallback(callback, *args, **kwargs)

    def addErrback(self, errback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """
        L{Deferred.addErrback} of L{deferred}.
        """
        return self.deferred().addErrback(errback, *args, **kwargs)

    def addBoth(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """
        L{Deferred.addBoth} of L{deferred}.
        """
        return self.deferred().addBoth(callback, *args, **kwargs)

    def addCallbacks(
        self,
        callback: Callable[..., Any],
        errback: Callable[..., Any] | None = None,
        callbackArgs: tuple[Any, ...] = (),
        callbackKeywords: Mapping[str, Any] | None = None,
        errbackArgs: tuple[Any, ...] = (),
        errbackKeywords: Mapping[str, Any] | None = None,
    ) -> Deferred[Any]:
        """
        L{Deferred.addCallbacks} of L{deferred}.
        """
        keywords = callbackKeywords or {}, errbackKeywords or {}
        return self.deferred().addCallbacks(
            callback, errback, callbackArgs, keywords[0], errbackArgs, keywords[1]
        )


class Cursor(CursorCalls, CommandCursor[DocumentT]):
    """
    The results of C{Collection.find}: a L{CommandCursor} whose options can be
    set until it starts.

    @param arguments: as L{Find} takes them, besides C{limit} and
        C{batch_size}.
    @param cursor_type: one of PyMongo's C{CursorType}.  With C{EXHAUST},
        which a mongos refuses, the server sends one batch after the other
        over a connection of the cursor's own, and waits while the reader is
        slow; before MongoDB 4.4 it is asked for each.
    @param max_await_time_ms: how long the server waits for new documents
        on a tailable-await cursor.

    @raise InvalidOperation: an exhaust cursor is given a limit.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any] | None,
        arguments: dict[str, Any],
        session: ClientSession | None = None,
        *,
        limit: int = 0,
        batch_size: int | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        max_await_time_ms: int | None = None,
        timeout_mode: TimeoutMode | str | None = None,
        raw: bool = False,
    ) -> None:
        self._prepare(runner, options, session)
        self._database = database
        self._collection = collection
        self._filter = filter
        self._arguments = arguments
        self._comment: Any = None
        self._max_await_time_ms: int | None = None
        self._raw = raw
        self._set_limit(limit)
        self._set_batch_size(batch_size)
        self._set_type(cursor_type, max_await_time_ms)
        self._set_timeout_mode(timeout_mode)
        self._timeout_mode = timeout_mode
        self._find()  # Wrong arguments are errors at once.

    def _first_command(self) -> CursorCommand:
        return self._find()

    def _find(self) -> Find:
        command = Find(
            self._database,
            self._collection,
            self._options,
            self._filter,
            limit=self._limit,
            batch_size=self._batch_size,
            raw=self._raw,
            **self._arguments,
        )
        command.exhaust = self._exhaust
        self._comment = self._arguments.get("comment")
        self._found = command
        return command

    def _streams(self) -> bool:
        return self._found.wire_version >= _EXHAUST_WIRE_VERSION

    def _ends_quietly(self) -> bool:
        # A capped collection has gone over what the cursor had not read yet.
        return self._tailable and self._last is not None

    def _set_type(self, cursor_type: int, max_await_time_ms: int | None) -> None:
        if cursor_type not in (
            CursorType.NON_TAILABLE,
            CursorType.TAILABLE,
            CursorType.TAILABLE_AWAIT,
            CursorType.EXHAUST,
        ):
            raise ValueError("cursor_type must be one of pymongo.CursorType's values")
        self._cursor_type = cursor_type
        self._exhaust = cursor_type == CursorType.EXHAUST
        if self._exhaust and self._limit:
            raise InvalidOperation(_EXHAUST_LIMIT)
        self._tailable = cursor_type in (CursorType.TAILABLE, CursorType.TAILABLE_AWAIT)
        self._awaits = cursor_type == CursorType.TAILABLE_AWAIT
        if self._tailable:
            self._arguments["tailable"] = True
        if self._awaits:
            self._arguments["await_data"] = True
            check_await_time(self._options, max_await_time_ms)
            self._max_await_time_ms = max_await_time_ms

    def _set_limit(self, limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be a whole number, not {type(limit).__name__}")
        self._limit = limit

    def _set_batch_size(self, batch_size: int | None) -> None:
        if batch_size is not None:
            if isinstance(batch_size, bool) or not isinstance(batch_size, int):
                raise TypeError(
                    f"batch_size must be a whole number, not {type(batch_size).__name__}"
                )
            if batch_size < 0:
                raise ValueError("batch_size must not be negative")
        # 0 leaves the choice to the server, as in PyMongo.
        self._batch_size = batch_size or None

    def _check_not_started(self) -> None:
        if self._started or self._finished:
            raise InvalidOperation("this cursor has started: set its options before its first use")

    def _set(self, name: str, value: Any) -> Self:
        self._check_not_started()
        before = self._arguments
        self._arguments = {**before, name: value}
        try:
            self._find()
        except (TypeError, ValueError):
            self._arguments = before
            raise
        return self

    def sort(
        self, key_or_list: Keys | None = None, direction: Any = None, *, sort: Keys | None = None
    ) -> Self:
        """
        The order of the documents: a field name and its direction, or
        several of them.

        @param sort: TxMongo's name of C{key_or_list}.
        """
        keys = sort if key_or_list is None else key_or_list
        if isinstance(keys, str) and direction is not None:
            keys = {keys: direction}
        return self._set("sort", keys)

    def limit(self, limit: int) -> Self:
        """
        The most documents; 0 for all, negative for a single batch.
        """
        self._check_not_started()
        if limit and self._exhaust:
            raise InvalidOperation(_EXHAUST_LIMIT)
        self._set_limit(limit)
        return self

    def skip(self, skip: int) -> Self:
        """
        Leave out as many documents first.
        """
        if isinstance(skip, bool) or not isinstance(skip, int):
            raise TypeError(f"skip must be a whole number, not {type(skip).__name__}")
        if skip < 0:
            raise ValueError("skip must not be negative")
        return self._set("skip", skip)

    def batch_size(self, batch_size: int) -> Self:
        """
        The documents in each batch; 0 for the server's choice.
        """
        self._check_not_started()
        self._set_batch_size(batch_size)
        return self

    def projection(self, projection: Projection) -> Self:
        """
        Which fields to return.
        """
        return self._set("projection", projection)

    def hint(self, index: Hint | None = None, *, hint: Hint | None = None) -> Self:
        """
        The index to use, by name or keys.

        @param hint: TxMongo's name of C{index}.
        """
        return self._set("hint", hint if index is None else index)

    def comment(self, comment: Any) -> Self:
        """
        A note for the server's logs and profiler.
        """
        return self._set("comment", comment)

    def collation(self, collation: CollationIn | None) -> Self:
        """
        How strings are compared.
        """
        return self._set("collation", collation)

    def max_time_ms(self, max_time_ms: int | None) -> Self:
        """
        How long the server may work on it.
        """
        return self._set("max_time_ms", max_time_ms)

    def max_scan(self, max_scan: int | None) -> Self:
        """
        How many documents or keys the server may look at.  Servers know it up
        to MongoDB 4.0, and later ones refuse it: use L{max_time_ms} there.
        """
        return self._set("max_scan", max_scan)

    def max_await_time_ms(self, max_await_time_ms: int | None) -> Self:
        """
        How long the server waits for new documents on a tailable-await
        cursor.
        """
        self._check_not_started()
        if self._awaits:
            check_await_time(self._options, max_await_time_ms)
            self._max_await_time_ms = max_await_time_ms
        return self

    def allow_disk_use(self, allow_disk_use: bool) -> Self:
        """
        Whether the server may sort on disk.
        """
        return self._set("allow_disk_use", allow_disk_use)

    def min(self, spec: Sequence[tuple[str, Any]] | Mapping[str, Any]) -> Self:
        """
        Inclusive lower bound of the hinted index.
        """
        return self._set("min", spec)

    def max(self, spec: Sequence[tuple[str, Any]] | Mapping[str, Any]) -> Self:
        """
        Exclusive upper bound of the hinted index.
        """
        return self._set("max", spec)

    def where(self, code: Any) -> Self:
        """
        A JavaScript condition besides the filter.
        """
        self._check_not_started()
        self._filter = {**(self._filter or {}), "$where": code}
        return self

    # The whole query.

    def clone(self) -> Self:
        """
        A cursor that has not started, with the same options and explicit
        session.
        """
        arguments = {
            name: value
            for name, value in self._arguments.items()
            if name not in ("tailable", "await_data")
        }
        copied = object.__new__(type(self))
        Cursor.__init__(
            copied,
            self._runner,
            self._database,
            self._collection,
            self._options,
            copy.deepcopy(self._filter),
            copy.deepcopy(arguments),
            self._given_session,
            limit=self._limit,
            batch_size=self._batch_size,
            cursor_type=self._cursor_type,
            max_await_time_ms=self._max_await_time_ms,
            timeout_mode=self._timeout_mode,
            raw=self._raw,
        )
        return copied

    def rewind(self) -> Deferred[Self]:
        """
        Close it and go back to before its start: the next use sends the
        query again.

        @return: fires with the cursor; never fails.
        """
        return self.close().addCallback(self._start_over)

    def _start_over(self, _: None) -> Self:
        self._whole = None
        self._coroutine = None
        self._reset()
        return self

    def explain(self) -> Deferred[dict[str, Any]]:
        """
        How the server would run it and did, at the most verbose.

        @return: fires with the server's reply.  The cursor is not started.
        """
        explained: Deferred[dict[str, Any]] = self._runner.run(
            Explain(self._database, self._options, self._find()), self._session
        )
        return explained

    def distinct(self, key: str) -> Deferred[list[Any]]:
        """
        The different values of a field among what the filter matches: limit
        and skip do not count.

        @return: fires with the values.  The cursor is not started.
        """
        options = {
            name: value
            for name, value in self._arguments.items()
            if name in ("collation", "comment", "hint", "max_time_ms")
        }
        found: Deferred[list[Any]] = self._runner.run(
            Distinct(self._database, self._collection, self._options, key, self._filter, **options),
            self._session,
        )
        return found
