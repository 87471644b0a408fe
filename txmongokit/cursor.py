"""
Cursors: results that arrive in batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pymongo import CursorType
from twisted.internet.defer import CancelledError, Deferred, succeed

from txmongokit._sansio.commands.arguments import CollationIn, Hint, Keys, Projection
from txmongokit._sansio.commands.base import CommandOptions, CursorBatch
from txmongokit._sansio.commands.read import CursorCommand, Find, GetMore, KillCursors
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import InvalidOperation, NetworkTimeout
from txmongokit.interfaces import IOperationRunner
from txmongokit.types import Address

__all__ = ["CommandCursor", "Cursor"]

DocumentT = TypeVar("DocumentT")
ResultT = TypeVar("ResultT")


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

    Reading to the end closes it; C{async with} or L{close} do so earlier.

    It is no L{Deferred}, but L{addCallback} and its kin start it and give the
    one of L{deferred}.  It has C{send} and C{throw}, because Twisted then
    runs it as it runs a coroutine.

    @param runner: what runs its commands.
    @param command: the first command.
    @param session: an explicit session's state; without one, the cursor
        takes an implicit one for as long as it is open.
    @param batch_size: documents in each batch after the first.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        command: CursorCommand,
        session: SessionState | None = None,
        *,
        batch_size: int | None = None,
        comment: Any = None,
        max_await_time_ms: int | None = None,
    ) -> None:
        self._start(runner, lambda: command, command.options, session)
        self._batch_size = batch_size
        self._comment = comment
        self._raw = command.raw
        self._max_await_time_ms = max_await_time_ms

    def _start(
        self,
        runner: IOperationRunner,
        first_command: Callable[[], CursorCommand],
        options: CommandOptions,
        session: SessionState | None,
    ) -> None:
        self._runner = runner
        self._first_command = first_command
        self._options = options
        self._session = session
        self._implicit = session is None
        self._raw = False
        self._tailable = False
        self._limit = 0
        self._retrieved = 0
        self._last: CursorBatch | None = None
        self._ahead: deque[DocumentT] = deque()
        self._started = False
        self._finished = False
        self._fetching = False
        self._fetch: Deferred[list[DocumentT]] | None = None
        self._whole: Deferred[list[DocumentT]] | None = None
        self._coroutine: Generator[Any, Any, list[DocumentT]] | None = None

    # What it is and where it stands.

    def __repr__(self) -> str:
        condition = "finished" if self._finished else "open" if self._started else "not started"
        return f"<{type(self).__name__} {condition}>"

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
    def last_batch(self) -> CursorBatch | None:
        """
        What the latest reply said, such as its post-batch resume token.
        """
        return self._last

    # Batches.

    def next_batch(self) -> Deferred[list[DocumentT]]:
        """
        Fetch the next batch.  One at a time.

        @return: fires with the documents; with an empty list at the end.
            On a tailable cursor an empty list may also mean that there is
            nothing yet: see L{alive}.  Cancelling ends the cursor, and tells
            the server so where it is known to hold it.

        @raise InvalidOperation: another fetch is in flight.
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
        fetch = Deferred.fromCoroutine(self._next())
        if self._fetching:
            self._fetch = fetch
        return fetch

    async def _next(self) -> list[DocumentT]:
        try:
            while True:
                documents = await self._advance()
                if documents or self._finished or self._tailable:
                    return documents
        finally:
            self._fetching = False
            self._fetch = None

    async def _advance(self) -> list[DocumentT]:
        command: CursorCommand
        if self._started:
            command = self._get_more()
        else:
            command = self._first_command()
            self._started = True
            if self._session is None:
                self._session = self._runner.take_session()
        try:
            batch: CursorBatch = await self._runner.run(command, self._session)
        except Exception as error:
            if isinstance(error, (CancelledError, NetworkTimeout)):
                # The server does not know that nobody waits for it any more.
                self._kill()
            else:
                self._finish()
            raise
        self._last = batch
        documents = batch.documents
        self._retrieved += len(documents)
        if not batch.cursor_id:
            self._finish()
        elif self._limit and self._retrieved >= abs(self._limit):
            self._kill()
        return documents

    def _get_more(self) -> GetMore:
        last = self._last
        assert last is not None
        size = self._batch_size
        if self._limit:
            left = abs(self._limit) - self._retrieved
            size = min(size, left) if size else left
        return GetMore(
            last.namespace,
            last.cursor_id,
            last.address,
            self._options,
            batch_size=size,
            max_time_ms=self._max_await_time_ms,
            comment=self._comment,
            raw=self._raw,
        )

    def _finish(self) -> None:
        self._finished = True
        session = self._session
        if self._implicit and session is not None:
            self._session = None
            self._runner.release_session(session)

    def _kill(self) -> Deferred[None]:
        """Finish, and tell the server; fires with None whatever happens."""
        self._finished = True
        last = self._last
        if last is None or not last.cursor_id:
            self._finish()
            return succeed(None)
        self._last = last._replace(cursor_id=0)
        command = KillCursors(last.namespace, [last.cursor_id], last.address, self._options)
        killed: Deferred[Any] = self._runner.run(command, self._session)

        def done(_: object) -> None:
            self._finish()

        return killed.addBoth(done)

    def close(self) -> Deferred[None]:
        """
        Read no more.  A fetch in flight fails with L{CancelledError}.

        @return: fires when the server has been told, or could not be; never
            fails.
        """
        self._ahead.clear()
        if self._fetch is not None:
            self._fetch.cancel()
        if self._finished:
            return succeed(None)
        return self._kill()

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

    def __aiter__(self) -> CommandCursor[DocumentT]:
        return self

    async def __anext__(self) -> DocumentT:
        while not self._ahead:
            if self._finished:
                raise StopAsyncIteration
            batch = await self.next_batch()
            if not batch and self._tailable:
                raise StopAsyncIteration
            self._ahead.extend(batch)
        return self._ahead.popleft()

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
        documents = await self.next_batch()
        while not self._finished and (length is None or len(documents) < length):
            batch = await self.next_batch()
            if not batch:
                break
            documents += batch
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
        self, callback: Callable[..., Any], errback: Callable[..., Any], **kwargs: Any
    ) -> Deferred[Any]:
        """
        L{Deferred.addCallbacks} of L{deferred}.
        """
        return self.deferred().addCallbacks(callback, errback, **kwargs)


class Cursor(CommandCursor[DocumentT]):
    """
    The results of C{Collection.find}: a L{CommandCursor} whose options can be
    set until it starts.

    @param arguments: as L{Find} takes them, besides C{limit} and
        C{batch_size}.
    @param cursor_type: one of PyMongo's C{CursorType}.
    @param max_await_time_ms: how long the server waits for new documents
        on a tailable-await cursor.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any] | None,
        arguments: dict[str, Any],
        session: SessionState | None = None,
        *,
        limit: int = 0,
        batch_size: int | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        max_await_time_ms: int | None = None,
        raw: bool = False,
    ) -> None:
        self._start(runner, self._find, options, session)
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
        self._find()  # Wrong arguments are errors at once.

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
        self._comment = self._arguments.get("comment")
        return command

    def _set_type(self, cursor_type: int, max_await_time_ms: int | None) -> None:
        if cursor_type == CursorType.EXHAUST:
            raise ValueError("exhaust cursors are not supported: leave cursor_type out")
        if cursor_type not in (
            CursorType.NON_TAILABLE,
            CursorType.TAILABLE,
            CursorType.TAILABLE_AWAIT,
        ):
            raise ValueError("cursor_type must be one of pymongo.CursorType's values")
        self._tailable = cursor_type != CursorType.NON_TAILABLE
        if self._tailable:
            self._arguments["tailable"] = True
        if cursor_type == CursorType.TAILABLE_AWAIT:
            self._arguments["await_data"] = True
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

    def sort(self, keys: Keys, direction: Any = None) -> Self:
        """
        The order of the documents: a field name and its direction, or
        several of them.
        """
        if isinstance(keys, str) and direction is not None:
            keys = {keys: direction}
        return self._set("sort", keys)

    def limit(self, limit: int) -> Self:
        """
        The most documents; 0 for all, negative for a single batch.
        """
        self._check_not_started()
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

    def hint(self, index: Hint | None) -> Self:
        """
        The index to use, by name or keys.
        """
        return self._set("hint", index)

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

    def max_time_ms(self, milliseconds: int | None) -> Self:
        """
        How long the server may work on it.
        """
        return self._set("max_time_ms", milliseconds)

    def max_await_time_ms(self, milliseconds: int | None) -> Self:
        """
        How long the server waits for new documents on a tailable-await
        cursor.
        """
        self._check_not_started()
        if "await_data" in self._arguments:
            self._max_await_time_ms = milliseconds
        return self

    def allow_disk_use(self, allow: bool) -> Self:
        """
        Whether the server may sort on disk.
        """
        return self._set("allow_disk_use", allow)

    def min(self, bound: Sequence[tuple[str, Any]] | Mapping[str, Any]) -> Self:
        """
        Inclusive lower bound of the hinted index.
        """
        return self._set("min", bound)

    def max(self, bound: Sequence[tuple[str, Any]] | Mapping[str, Any]) -> Self:
        """
        Exclusive upper bound of the hinted index.
        """
        return self._set("max", bound)

    def where(self, code: Any) -> Self:
        """
        A JavaScript condition besides the filter.
        """
        self._check_not_started()
        self._filter = {**(self._filter or {}), "$where": code}
        return self
