"""
Change streams: what happens to collections, as it happens.

Follows the change-streams and client-side-operations-timeout specifications.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import bson
from bson.timestamp import Timestamp
from twisted.internet.defer import CancelledError, Deferred, succeed

from txmongokit import rawbson
from txmongokit._sansio.commands.arguments import CollationIn
from txmongokit._sansio.commands.base import CommandOptions, Request
from txmongokit._sansio.commands.read import Aggregate
from txmongokit.cursor import CommandCursor, check_await_time
from txmongokit.errors import (
    ConnectionFailure,
    CursorNotFound,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from txmongokit.interfaces import IOperationRunner
from txmongokit.sessions import ClientSession
from txmongokit.types import ConnectionInfo

__all__ = ["WATCHED", "ChangeStream"]

DocumentT = TypeVar("DocumentT")

_RESUMABLE = "ResumableChangeStreamError"
_LABEL_WIRE_VERSION = 9
# What servers without labels mean by it (change-streams specification).
_RESUMABLE_CODES = frozenset(
    {6, 7, 63, 89, 91, 133, 150, 189, 234, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436}
)
_START_TIME_WIRE_VERSION = 7
# Seconds between resumptions that brought nothing: none before the first.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


WATCHED = (
    "full_document",
    "resume_after",
    "max_await_time_ms",
    "batch_size",
    "collation",
    "start_at_operation_time",
    "session",
    "start_after",
    "comment",
    "full_document_before_change",
    "show_expanded_events",
)
"""What C{watch} takes after its pipeline, in PyMongo's order."""


class ChangeStream(Generic[DocumentT]):
    """
    The changes to a collection, a database or a whole deployment.

    Made by C{watch} of those.  Nothing is sent before the first use::

        async with collection.watch() as stream:      # opens it
            async for change in stream: ...

        stream = await collection.watch()             # opens it, too
        change = yield stream.next()                  # as do these
        change = await stream.try_next()

    Changes that happen before it is open are not seen unless an option says
    where to begin.  The replica set's read concern must be C{majority} or
    left out.

    When its server, its connection or its cursor goes, the stream goes on
    elsewhere from where it was: no change is left out or comes twice.  Prefer
    it to an aggregation with C{$changeStream}, which does not.  Other errors
    close it; so do an C{invalidate} event and a change without its C{_id}.

    To keep L{resume_token} up to date while nothing happens, use L{try_next}
    and look at it after each call.

    A C{timeout} limits the opening and each call of L{next} or L{try_next},
    with all that a resumption needs.  After a timeout either call again,
    which resumes, or close the stream and open another with more time: do so
    if no change came before the timeout, as the server then does not get
    through its backlog in the time there is.

    Fragments of C{$changeStreamSplitLargeEvent} are handed out one by one.

    @param runner: what runs its commands.
    @param collection: C{None} for the whole database.
    @param options: what the commands inherit; its read preference is that of
        resumptions, too.
    @param pipeline: stages that follow C{$changeStream}.
    @param session: an explicit session; otherwise it has one of its own for
        as long as it is open.
    @param full_document: C{"updateLookup"}, C{"whenAvailable"},
        C{"required"}, ...
    @param resume_after: a token to go on after.
    @param max_await_time_ms: how long the server waits for changes before
        it says that there are none.
    @param start_after: a token to go on after, even if it is an
        C{invalidate} event's.
    @param full_document_before_change: C{"whenAvailable"}, C{"required"} or
        C{"off"}.
    @param whole_deployment: all databases; C{database} is then C{"admin"}.

    @raise ValueError: C{max_await_time_ms} is not less than the timeout.
    @raise TypeError: an argument is of a wrong type.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        database: str,
        collection: str | None,
        options: CommandOptions,
        pipeline: Sequence[Mapping[str, Any]] | None = None,
        session: ClientSession | None = None,
        *,
        full_document: str | None = None,
        resume_after: Mapping[str, Any] | None = None,
        max_await_time_ms: int | None = None,
        batch_size: int | None = None,
        collation: CollationIn | None = None,
        start_at_operation_time: Timestamp | None = None,
        start_after: Mapping[str, Any] | None = None,
        comment: Any = None,
        full_document_before_change: str | None = None,
        show_expanded_events: bool | None = None,
        whole_deployment: bool = False,
    ) -> None:
        if pipeline is None:
            pipeline = ()
        if isinstance(pipeline, (str, bytes, Mapping)) or not isinstance(pipeline, Sequence):
            raise TypeError(f"pipeline must be a list of stages, not {type(pipeline).__name__}")
        check_await_time(options, max_await_time_ms)
        self._runner = runner
        self._place = database, collection
        self._options = options
        self._pipeline = list(pipeline)
        self._session = session
        self._stage = _given(
            fullDocument=full_document,
            fullDocumentBeforeChange=full_document_before_change,
            showExpandedEvents=show_expanded_events,
            allChangesForCluster=whole_deployment or None,
        )
        self._start = _given(
            startAfter=start_after,
            resumeAfter=resume_after,
            startAtOperationTime=start_at_operation_time,
        )
        self._arguments = {"batch_size": batch_size, "collation": collation, "comment": comment}
        self._max_await_time_ms = max_await_time_ms
        self._token: Any = start_after if start_after is not None else resume_after
        self._operation_time = start_at_operation_time
        self._delivered = False
        self._wire_version = 0
        self._cursor: CommandCursor[bytes] | None = None
        self._established = False
        self._broken = False
        self._fruitless = 0
        self._changes: deque[bytes] = deque()
        self._batch_token: Any = None
        self._closed = False
        self._call: Deferred[Any] | None = None
        self._busy = False
        self._coroutine: Generator[Any, Any, Any] | None = None
        self._watch()  # Wrong arguments are errors at once.

    def __repr__(self) -> str:
        condition = "closed" if self._closed else "open" if self._cursor else "not open"
        return f"<ChangeStream {condition}>"

    @property
    def alive(self) -> bool:
        """
        Whether there may be more changes.
        """
        return not self._closed

    @property
    def resume_token(self) -> Mapping[str, Any] | None:
        """
        The token that a resumption now would begin after: of the latest
        change that was handed out, or later where the server said that
        nothing came since.
        """
        token = self._token
        if isinstance(token, bytes):
            token = bson.decode(token)["_id"]
        elif token is not None:
            token = bson.decode(bson.encode({"_id": token}))["_id"]
        return token  # type: ignore[no-any-return]  # whatever the server made it

    # Opening and closing.

    def open(self) -> Deferred[Self]:
        """
        Begin to watch, unless that has happened.

        @return: fires with the stream.  Cancelling leaves it unopened.
        @raise InvalidOperation: it is closed, or another call is under way.
        """
        if self._closed:
            raise InvalidOperation("this change stream is closed: make another one")
        return self._calling(self._opened())

    async def _opened(self) -> Self:
        if self._cursor is None:
            await self._establish(self._runner.deadline(self._options))
        return self

    def close(self, timeout: float | None = None) -> Deferred[None]:
        """
        Watch no more.  A call under way fails with L{CancelledError}.

        @param timeout: seconds for telling the server.
        @return: fires when the server has been told, or could not be; never
            fails.
        """
        self._closed = True
        if self._call is not None:
            self._call.cancel()
        return self._shut(timeout)

    def _shut(self, timeout: float | None = None) -> Deferred[None]:
        self._closed = True
        self._changes.clear()
        return succeed(None) if self._cursor is None else self._cursor.close(timeout)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.open().__await__()

    def send(self, value: Any) -> Any:
        """
        See C{collections.abc.Coroutine}: this is how Twisted runs
        C{yield stream} and C{Deferred.fromCoroutine(stream)}.
        """
        if self._coroutine is None:
            self._coroutine = self.open().__await__()
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """
        See C{collections.abc.Coroutine}.
        """
        if self._coroutine is None:
            self._coroutine = self.open().__await__()
        return self._coroutine.throw(*error)

    # Changes.

    def next(self) -> Deferred[DocumentT]:
        """
        The next change, however long it takes.

        @return: fires with it; fails with L{StopAsyncIteration} when the
            stream is closed.  Cancelling loses no change: the next call
            goes on where this one was.
        @raise InvalidOperation: another call is under way.
        """
        return self._calling(self._next())

    async def _next(self) -> DocumentT:
        change = await self._advance(wait=True)
        if change is None:
            raise StopAsyncIteration
        return change

    def try_next(self) -> Deferred[DocumentT | None]:
        """
        The next change if the server has one, or has one within
        C{max_await_time_ms}.

        @return: fires with it, or with C{None}.  Cancelling loses no change.
        @raise InvalidOperation: another call is under way.
        """
        return self._calling(self._advance(wait=False))

    def __aiter__(self) -> ChangeStream[DocumentT]:
        return self

    async def __anext__(self) -> DocumentT:
        if self._changes and not self._busy:
            return self._hand_out()
        return await self.next()

    def _calling(self, coroutine: Any) -> Deferred[Any]:
        if self._busy:
            coroutine.close()
            raise InvalidOperation("another call of this change stream is under way: wait for it")
        self._busy = True
        call: Deferred[Any] = Deferred.fromCoroutine(self._alone(coroutine))
        if self._busy:
            self._call = call
        return call

    async def _alone(self, coroutine: Any) -> Any:
        try:
            return await coroutine
        finally:
            self._busy = False
            self._call = None

    async def _advance(self, wait: bool) -> DocumentT | None:
        deadline: float | None = None
        if not self._changes:
            deadline = self._runner.deadline(self._options)
        while not self._changes:
            if self._closed:
                return None
            await self._fetch(deadline)
            if not wait:
                break
        return self._hand_out() if self._changes else None

    def _hand_out(self) -> DocumentT:
        raw = self._changes.popleft()
        token = rawbson.find_element(raw, b"_id")
        if token is None:
            self._shut()
            raise InvalidOperation(
                "a change has no _id, without which the stream cannot resume: "
                "do not remove it in the pipeline"
            )
        change: DocumentT = bson.decode(raw, self._options.codec_options)
        if self._changes or self._batch_token is None:
            self._token = rawbson.wrap(raw[token[2] : token[4]])
        else:
            self._token = self._batch_token
        self._delivered = True
        self._operation_time = None
        if not self._changes:
            self._see_whether_over()
        return change

    def _see_whether_over(self) -> None:
        if self._cursor is not None and not self._cursor.alive:
            self._shut()

    # One getMore, and what it takes to have one.

    async def _fetch(self, deadline: float | None) -> None:
        if self._cursor is None or self._broken:
            await self._establish(deadline)
            if self._changes or self._closed:
                return
        assert self._cursor is not None
        try:
            changes = await self._cursor.fetch(deadline)
        except CancelledError:
            self._broken = True
            raise
        except PyMongoError as error:
            self._broken = True
            if error.timeout and deadline is not None and deadline != math.inf:
                raise
            if not self._resumable(error):
                self._shut()
                raise
            await self._establish(deadline)
            return
        self._fruitless = 0
        self._received(changes)

    def _resumable(self, error: PyMongoError) -> bool:
        """Whether to go on after a getMore's error."""
        if isinstance(error, CursorNotFound):
            return True
        if not isinstance(error, (OperationFailure, NotPrimaryError)):
            return isinstance(error, ConnectionFailure)
        if self._wire_version >= _LABEL_WIRE_VERSION:
            return error.has_error_label(_RESUMABLE)
        details = error.details
        code = details.get("code") if isinstance(details, Mapping) else None
        return code in _RESUMABLE_CODES

    async def _establish(self, deadline: float | None) -> None:
        """Open a cursor: the first one, or one that goes on where another was."""
        await self._pause(deadline)
        self._fruitless += 1
        command = self._watch()
        if self._cursor is None:
            cursor: CommandCursor[bytes] = CommandCursor(
                self._runner,
                command,
                self._session,
                batch_size=self._arguments["batch_size"],
                comment=self._arguments["comment"],
                max_await_time_ms=self._max_await_time_ms,
                tailable=True,
                keeps_session=True,
            )
        else:
            cursor = self._cursor.resumed(command)
        self._cursor = cursor
        self._broken = True
        try:
            changes = await cursor.fetch(deadline)
        except (CancelledError, PyMongoError) as error:
            if not self._established:
                # There is nothing to go on from: the next call opens anew.
                self._cursor = None
                cursor.close()
            elif not isinstance(error, (CancelledError, ConnectionFailure)) and not error.timeout:
                self._shut()
            raise
        self._broken = False
        self._wire_version = command.wire_version
        self._keep_operation_time(changes)
        self._established = True
        self._received(changes)

    async def _pause(self, deadline: float | None) -> None:
        """Let a server be that makes every cursor fail."""
        if self._fruitless < 2:
            return
        pause = min(_FIRST_PAUSE * 2 ** min(self._fruitless - 2, 10), _LONGEST_PAUSE)
        if deadline is not None:
            pause = min(pause, max(0.0, deadline - self._runner.seconds()))
        await self._runner.sleep(pause)

    def _watch(self) -> _Watch:
        database, collection = self._place
        stage = {"$changeStream": self._stage}
        command = _Watch(
            database,
            collection,
            self._options,
            [stage, *self._pipeline],
            raw=True,
            **self._arguments,
        )
        if not self._established:
            command.start = self._start
        elif self._token is not None:
            again = "startAfter" in self._start and not self._delivered
            command.start = {"startAfter" if again else "resumeAfter": self.resume_token}
        elif self._operation_time is not None:
            command.start = {"startAtOperationTime": self._operation_time}
            command.since = _START_TIME_WIRE_VERSION
        return command

    def _keep_operation_time(self, changes: list[bytes]) -> None:
        if self._established or self._start or changes or self._token_of_batch() is not None:
            return
        if self._wire_version >= _START_TIME_WIRE_VERSION:
            self._operation_time = self._reply().get("operationTime")

    def _reply(self) -> Mapping[str, Any]:
        batch = None if self._cursor is None else self._cursor.last_batch
        return {} if batch is None else batch.reply

    def _token_of_batch(self) -> Any:
        return self._reply().get("cursor", {}).get("postBatchResumeToken")

    def _received(self, changes: list[bytes]) -> None:
        token = self._batch_token = self._token_of_batch()
        if changes:
            self._fruitless = 0
            self._changes.extend(changes)
            return
        if token is not None:
            self._token = token
            self._operation_time = None
        self._see_whether_over()


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


class _Watch(Aggregate):
    """
    An aggregate that begins with C{$changeStream}.

    @ivar start: where to begin: what the stage says about that.
    @ivar since: the first wire version that knows what C{start} says.
    @ivar wire_version: of the server that it was sent to.
    """

    operation = "watch"
    start: Mapping[str, Any] = {}
    since = 0
    wire_version = 0

    def build(self, info: ConnectionInfo) -> Request:
        """The document, with where to begin."""
        self.wire_version = info.max_wire_version
        body = super().build(info).body
        stage, *others = body["pipeline"]
        if info.max_wire_version >= self.since:
            stage = {"$changeStream": {**stage["$changeStream"], **self.start}}
        body["pipeline"] = [stage, *others]
        return Request(body)
