"""
The asynchronous API for threads that may wait, such as those of WSGI
applications: each call runs in the reactor's thread, and the caller waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, copy_context
from functools import wraps
from inspect import iscoroutine
from types import TracebackType
from typing import Any

from twisted.internet.defer import Deferred, succeed

from txmongokit.changestream import ChangeStream
from txmongokit.collection import Collection
from txmongokit.cursor import CommandCursor
from txmongokit.database import Database
from txmongokit.deployment import Deployment
from txmongokit.errors import AutoReconnect, InvalidOperation
from txmongokit.reactorthread import ReactorEnded, ReactorThread, reactor_thread
from txmongokit.sessions import BoundSession, ClientSession, TransactionContext
from txmongokit.settings.handle import MongoHandle, from_settings

__all__ = ["Blocking", "BlockingHandle", "blocking_from_settings"]

_WRAPPED = (
    Deployment,
    Database,
    Collection,
    CommandCursor,
    ChangeStream,
    ClientSession,
    BoundSession,
    TransactionContext,
)


class BlockingHandle:
    """
    C{db} and C{db_conn} for threads that may wait.  Their methods are those
    of L{Database} and L{ConnectionPool}, and give results where those give
    Deferreds; cursors are iterated by C{for}, sessions and transactions are
    used by C{with}.

    Where no reactor runs by the first call, as below a WSGI server of another
    make, one is run in a thread of its own.

    @param handle: what the settings gave; it uses the reactor of C{thread}.
    @param thread: the reactor as threads see it.

    @ivar handle: the asynchronous API, for the reactor's thread.
    @ivar db: the database.
    @ivar db_conn: the client.
    """

    def __init__(self, handle: MongoHandle, thread: ReactorThread) -> None:
        self._thread = thread
        self.handle = handle
        self.db: Any = Blocking(thread, handle.db)
        self.db_conn: Any = Blocking(thread, handle.db_conn)

    def run(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """
        Call a function in the reactor's thread, where the asynchronous API
        is, and wait for what it returns, a Deferred or a coroutine gives.

        @param arguments: of the function; what of them is L{Blocking} is
            unwrapped: C{run(transfer, request.db, 5)} gives C{transfer} the
            asynchronous database.

        @raise InvalidOperation: this is the reactor's thread.
        @raise AutoReconnect: the reactor has stopped.
        """
        return _wait_for(self._thread, function, arguments, keywords)

    def attach(self, app_globals: Any) -> None:
        """
        Set C{db} and C{db_conn} of an object, such as Pylons' C{app_globals}.
        """
        app_globals.db = self.db
        app_globals.db_conn = self.db_conn


def blocking_from_settings(
    mapping: Mapping[str, Any], prefix: str = "mongo.", **arguments: Any
) -> BlockingHandle:
    """
    L{from_settings} for applications whose threads may wait, on the process's
    reactor.  The connections are closed before it stops.

    @raise ConfigurationError: see L{from_settings}.
    """
    thread = reactor_thread()
    handle = from_settings(mapping, prefix, reactor=thread.reactor, **arguments)

    def watch() -> None:
        thread.reactor.addSystemEventTrigger("before", "shutdown", handle.disconnect)

    if thread.reactor.running and not thread.is_own_thread():
        thread.reactor.callFromThread(watch)
    else:
        watch()
    return BlockingHandle(handle, thread)


class Blocking:
    """
    One object of the asynchronous API: a client, database, collection,
    cursor, change stream or session.

    Attributes are the object's own, methods are called in the reactor's
    thread, and whoever calls them waits.  A cursor is iterated by batches, once:
    it is closed where the loop is left before its end.

    @raise InvalidOperation: of a call in the reactor's own thread.
    """

    __slots__ = ("_target", "_thread")

    def __init__(self, thread: ReactorThread, target: Any) -> None:
        self._thread = thread
        self._target = target

    def __repr__(self) -> str:
        return f"<Blocking {self._target!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Blocking):
            return bool(self._target == other._target)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._target)

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:
            # Of a copy that is only being made.
            raise AttributeError(f"Blocking has no {name!r} yet")
        return self._waiting(getattr(self._target, name))

    def __getitem__(self, wanted: Any) -> Any:
        return self._waiting(self._target[wanted])

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """
        What only fails, as the object's own does: it names the method that
        was meant.
        """
        return self._target(*arguments, **keywords)

    def _waiting(self, value: Any) -> Any:
        if isinstance(value, _WRAPPED):
            return Blocking(self._thread, value)
        if isinstance(value, list):
            return [self._waiting(each) if isinstance(each, _WRAPPED) else each for each in value]
        if not callable(value) or isinstance(value, type):
            return value

        @wraps(value)
        def call(*arguments: Any, **keywords: Any) -> Any:
            return _wait_for(self._thread, value, arguments, keywords)

        return call

    def __iter__(self) -> Iterator[Any]:
        target = self._target
        if isinstance(target, ChangeStream):
            return self._changes()
        if isinstance(target, CommandCursor):
            return self._documents()
        raise TypeError(f"{target!r} cannot be iterated: iterate a cursor or a change stream")

    def __next__(self) -> Any:
        return self.next()

    def _changes(self) -> Iterator[Any]:
        try:
            while self._target.alive:
                yield self.next()
        except StopIteration:
            return

    def _documents(self) -> Iterator[Any]:
        cursor, ended = self._target, False
        try:
            while documents := _wait_for(self._thread, cursor.fetch, (), {"wait": True}):
                yield from documents
            ended = True
        finally:
            if not ended:
                # Perhaps the garbage collector is here, which is not to wait.
                self._thread.reactor.callFromThread(cursor.close)

    def __enter__(self) -> Any:
        if isinstance(self._target, BoundSession):
            # A coroutine's variables are its own, and cannot be a thread's.
            raise InvalidOperation("bind() is for coroutines: here give session= to each call")
        return _wait_for(self._thread, self._target.__aenter__, (), {})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return _wait_for(self._thread, self._target.__aexit__, (kind, error, traceback), {})


def _wait_for(
    thread: ReactorThread,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> Any:
    if thread.is_own_thread():
        raise InvalidOperation(
            "this would block the reactor: on its own thread use the asynchronous db and db_conn"
        )
    # The function sees this thread's variables, such as pymongo.timeout's.
    context = copy_context()

    def begin() -> Deferred[Any]:
        result = context.run(
            function,
            *map(_unwrapped, arguments),
            **{name: _unwrapped(each) for name, each in keywords.items()},
        )
        if iscoroutine(result):
            return context.run(Deferred.fromCoroutine, result)
        return result if isinstance(result, Deferred) else succeed(result)

    try:
        result = thread.call(None, begin)
    except StopAsyncIteration:
        raise StopIteration from None
    except ReactorEnded:
        raise AutoReconnect("the reactor has stopped: the application is at its end") from None
    finally:
        _keep_changes(context)
    return Blocking(thread, result) if isinstance(result, _WRAPPED) else result


def _unwrapped(value: Any) -> Any:
    if type(value) is list and any(isinstance(each, Blocking) for each in value):
        return [_unwrapped(each) for each in value]
    return value._target if isinstance(value, Blocking) else value


def _keep_changes(context: Context) -> None:
    """What was changed over there is so here, too: start_request() is for its caller."""
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)
