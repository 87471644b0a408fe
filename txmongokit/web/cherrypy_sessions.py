"""
Sessions for CherryPy (extra C{txmongokit[cherrypy]})::

    from txmongokit.web.cherrypy_sessions import Session

    config = {
        "/": {
            "tools.sessions.on": True,
            "tools.sessions.storage_class": Session,
            "tools.sessions.uri": "mongodb://db.example/shop",
        }
    }

CherryPy's pages run in threads, and wait there for what the store does on
Twisted's reactor: on the one that runs already, as below
L{twisted.web.wsgi}, or else on one in a thread of its own, which begins with
the first session and ends with CherryPy's engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import cherrypy
from cherrypy.lib import sessions as cherrypy_sessions
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.reactorthread import NoAnswer, ReactorEnded, reactor_thread
from txmongokit.web.merging import merge
from txmongokit.web.store import (
    MongoSessionStore,
    SessionConflict,
    SessionGone,
    SessionLock,
    SessionLockTimeout,
    SessionRecord,
    SessionUnreadable,
)

__all__ = ["LockTimeout", "LostUpdate", "Session", "SessionsUnavailable", "close_clients"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = Logger()
# How often a session that others change all the time is merged and saved again.
_ATTEMPTS = 20
_LONGEST_LOCK = 3600.0
# Behind the servers, whose last requests still need their sessions.
_BEHIND_SERVERS = 90
_CLOSING = 10.0
_FOREVER = datetime.max.replace(tzinfo=UTC)


class LockTimeout(cherrypy.HTTPError, RuntimeError):  # type: ignore[misc]  # CherryPy has no types
    """
    Others have held the session's lock for too long: answered with 503.
    """

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


class SessionsUnavailable(cherrypy.HTTPError):  # type: ignore[misc]  # CherryPy has no types
    """
    The database does not answer: answered with 503.
    """

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


class LostUpdate(cherrypy.HTTPError):  # type: ignore[misc]  # CherryPy has no types
    """
    Two requests without a lock have changed the same thing in a session, and
    this is the second: answered with 409.
    """

    def __init__(self) -> None:
        super().__init__(409, "another request has changed the same in this session: try again")


@dataclass
class _Opened:
    """
    A store, and what it is known by, so that nothing else gets the same id.
    """

    store: MongoSessionStore
    known_by: tuple[Any, ...]
    prepared: bool = False


class _Stores:
    """
    The stores that were opened for the options of requests, and the clients
    that they need.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._opened: dict[Any, _Opened] = {}
        self._clients: list[ConnectionPool] = []
        self._subscribed = False

    def get(self, session: Session) -> MongoSessionStore:
        """The store of a session's options: opened once, and prepared before it is used."""
        place = next(
            (each for each in (session.store, session.database) if each is not None), session.uri
        )
        known_by = (place, session.codec)
        key = (
            place if isinstance(place, str) else id(place),
            id(session.codec),
            session.collection_name,
            session.lock_lease,
        )
        with self._lock:
            opened = self._opened.get(key)
            if opened is None:
                opened = self._opened[key] = _Opened(self._open(session), known_by)
                self._subscribe()
        if not opened.prepared:
            # By each request until one has done it, for none should wait for another's failure.
            session.wait_for(opened.store.prepare)
            opened.prepared = True
        return opened.store

    def _open(self, session: Session) -> MongoSessionStore:
        if session.store is not None:
            if not isinstance(session.store, MongoSessionStore):
                raise TypeError(
                    "tools.sessions.store must be a txmongokit.web.store.MongoSessionStore, not "
                    f"a {type(session.store).__name__}"
                )
            return session.store
        database = session.database
        client = None
        if database is None:
            if session.uri is None:
                raise TypeError(
                    "sessions need a place: set tools.sessions.uri to a connection string with "
                    "the name of a database, or tools.sessions.database to a Database"
                )
            client = ConnectionPool(session.uri, reactor=reactor_thread().reactor)
            database = client.get_default_database()
        elif not isinstance(database, Database):
            raise TypeError(
                "tools.sessions.database must be a Database of txmongokit's client, not a "
                f"{type(database).__module__}.{type(database).__name__}: make one with "
                "txmongokit.ConnectionPool(uri)[name], or set tools.sessions.uri instead"
            )
        store = MongoSessionStore(
            database, name=session.collection_name, codec=session.codec, lease=session.lock_lease
        )
        if client is not None:
            self._clients.append(client)
        return store

    def _subscribe(self) -> None:
        if not self._subscribed:
            self._subscribed = True
            cherrypy.engine.subscribe("stop", self.close, _BEHIND_SERVERS)
            cherrypy.engine.subscribe("exit", reactor_thread().stop, _BEHIND_SERVERS)

    def close(self) -> None:
        """Close what was opened here; an engine that starts again opens it again."""
        with self._lock:
            self._opened.clear()
            clients, self._clients = self._clients, []
        thread = reactor_thread()
        for client in clients:
            if thread.is_own_thread():
                client.disconnect()  # It never fails, and the reactor does not wait for itself.
                continue
            try:
                thread.call(_CLOSING, client.disconnect)
            except (NoAnswer, ReactorEnded) as error:
                _log.warn("a client was not closed: {error}", error=str(error))


_stores = _Stores()


def close_clients() -> None:
    """
    Close the clients of C{tools.sessions.uri}, as the engine does when it
    stops; the next session opens them again.
    """
    _stores.close()


class Session(cherrypy_sessions.Session):  # type: ignore[misc]  # CherryPy has no types
    """
    A request's session, kept in MongoDB by a L{MongoSessionStore}.

    Takes these options, each behind C{tools.sessions.}, beside CherryPy's own:

    @ivar database: a L{Database}; its client works on the process's reactor.
    @ivar uri: a connection string with the name of a database, instead.
    @ivar store: a L{MongoSessionStore} with everything, instead: for a cipher,
        say.
    @ivar collection_name: where in the database.
    @ivar codec: something with C{encode} and C{decode}; by default what BSON
        can encode is stored.
    @ivar lock_timeout: how long to wait for others who have the session's
        lock: seconds, or a C{timedelta}; C{None} for an hour.
    @ivar lock_lease: after how many seconds the lock of a process that has
        died is free.
    @ivar answer_timeout: how long to wait for the database, in seconds.

    An id that is not one of the store's own, or of a session that has ended,
    gets a fresh session.  A session that is ended while a request has it stays
    ended.  Without a lock (C{tools.sessions.locking = 'explicit'}) the changes
    of two requests are merged by their keys; where both have changed the same,
    the second fails with L{LostUpdate}.
    """

    database: Database[Any] | None = None
    uri: str | None = None
    store: MongoSessionStore | None = None
    collection_name = "sessions"
    codec: Any = None
    lock_timeout: Any = 30.0
    lock_lease = 30.0
    answer_timeout = 30.0

    def __init__(self, session_id: str | None = None, **options: Any) -> None:
        self.locked: bool = False
        self._data: dict[str, Any] = {}
        self._record: SessionRecord | None = None
        self._lock: SessionLock | None = None
        lock_timeout = options.setdefault("lock_timeout", self.lock_timeout)
        if isinstance(lock_timeout, timedelta):
            options["lock_timeout"] = lock_timeout.total_seconds()
        elif lock_timeout is None:
            options["lock_timeout"] = _LONGEST_LOCK
        elif isinstance(lock_timeout, bool) or not isinstance(lock_timeout, int | float):
            raise TypeError(
                "tools.sessions.lock_timeout must be seconds or a timedelta, not "
                f"a {type(lock_timeout).__name__}"
            )
        for name, value in options.items():
            setattr(self, name, value)
        self._opened = _stores.get(self)
        super().__init__(session_id, **options)

    @classmethod
    def install(cls) -> None:
        """
        Let the deprecated option C{tools.sessions.storage_type = 'MongoDB'}
        mean this class, as with C{jaraco.mongodb}.
        """
        cherrypy_sessions.MongodbSession = cls

    def wait_for(
        self, function: Callable[_P, Deferred[_T]], *arguments: _P.args, **keywords: _P.kwargs
    ) -> _T:
        """
        Wait, in this thread, for something to be done on the reactor's.

        @raise SessionsUnavailable: the database does not answer.
        """
        return self._wait(self.answer_timeout, function, *arguments, **keywords)

    def _wait(
        self,
        seconds: float,
        function: Callable[_P, Deferred[_T]],
        *arguments: _P.args,
        **keywords: _P.kwargs,
    ) -> _T:
        try:
            return reactor_thread().call(seconds, function, *arguments, **keywords)
        except (PyMongoError, NoAnswer, ReactorEnded) as error:
            # A server's own message may quote documents.
            told = "" if isinstance(error, OperationFailure) else f": {error}"
            _log.error("sessions: {kind}{told}", kind=type(error).__name__, told=told)
            raise SessionsUnavailable("the sessions cannot be reached now") from error

    # Ids.

    def now(self) -> datetime:
        """
        The time, aware.
        """
        return datetime.now(UTC)

    def generate_id(self) -> str:
        """
        An id of the store's own, which every framework takes that uses it.
        """
        self._record = self._opened.new_record()
        return self._record.id

    def _is_fresh(self) -> bool:
        """Whether nobody else can know of it."""
        return self._record is not None and self._record.version == 0

    def _exists(self) -> bool:
        return not self._is_fresh() and self.wait_for(self._opened.exists, self.id)

    def _move(self, fresh_id: str) -> None:
        """Go on by an id that nobody else knows, so that its lock can be had without asking."""
        locked = self.locked
        if locked:
            self.release_lock()
        self.id = fresh_id
        self.locked = locked

    def _begin_anew(self) -> None:
        """The session has ended: whatever comes belongs to another."""
        self._move(self.generate_id())
        self._data = {}
        self.loaded = True

    # What is stored.

    def _load(self) -> tuple[dict[str, Any], datetime] | None:
        if self._is_fresh():
            return None
        try:
            record = self.wait_for(self._opened.load, self.id)
        except SessionUnreadable as error:
            _log.warn("a session was given up: {error}", error=str(error))
            record = None
        if record is None:
            # It has ended since its id was looked for.
            self.missing = True
            self._begin_anew()
            return None
        self._record = record
        # The store has looked at its end.
        return record.data, _FOREVER

    def _loaded(self) -> SessionRecord:
        """The record, with this request's changes."""
        if not self.loaded:
            self.load()
        record = self._record
        assert record is not None
        record.data = self._data
        return record

    def _save(self, expiration_time: datetime) -> None:
        record = self._loaded()
        if record.version == 0 and not record.data:
            return
        try:
            self._record = self._merging(self._opened.save, record)
        except SessionGone:
            _log.info("a session has ended while a request had it; its changes are dropped")
            self._begin_anew()

    def _merging(
        self, write: Callable[[SessionRecord], Deferred[Any]], record: SessionRecord
    ) -> SessionRecord:
        """Write a record; together with what others have written meanwhile."""
        record.lifetime = timedelta(minutes=self.timeout)
        for _ in range(_ATTEMPTS):
            try:
                self.wait_for(write, record)
            except SessionConflict as conflict:
                try:
                    record = merge(conflict)
                except SessionConflict as error:
                    raise LostUpdate from error
                self._data = record.data
            else:
                return record
        raise LostUpdate

    def _delete(self) -> None:
        if not self._is_fresh():
            self.wait_for(self._opened.delete, self.id)

    def delete(self) -> None:
        """
        End the session.  What is put into it afterwards goes into a fresh one.
        """
        super().delete()
        self._begin_anew()

    def regenerate(self) -> None:
        """
        Give the session a new id; it keeps its data.  The old id is worth
        nothing from then on.
        """
        self.regenerated = True
        self._renew(self._opened.regenerate)

    @property
    def user(self) -> str | None:
        """
        Whose session it is.
        """
        return self._loaded().user

    def bind_user(self, user: str | None) -> None:
        """
        Log a user in, or out with C{None}: with a new id, as L{regenerate}
        gives one.

        @raise TypeError: it is no C{str}.
        @raise ValueError: it is empty or too long.
        """
        self.regenerated = True
        self._renew(lambda record: self._opened.bind_user(record, user))

    def _renew(self, write: Callable[[SessionRecord], Deferred[Any]]) -> None:
        record = self._loaded()
        try:
            record = self._merging(write, record)
        except SessionGone:
            # Somebody has ended it just now.
            self._begin_anew()
            record = self._merging(write, self._loaded())
        self._record = record
        self._move(record.id)

    # Locks.

    def acquire_lock(self) -> None:
        """
        Have the session to oneself.

        @raise LockTimeout: others have it for longer than C{lock_timeout}.
        @raise txmongokit.web.store.InvalidSessionData: the data cannot be
            encoded.
        @raise txmongokit.web.store.SessionTooLarge: there is too much of it.
        """
        if self.locked:
            return
        if not self._is_fresh():
            unchanged = self.loaded and not self._opened.is_changed(self._loaded())
            try:
                self._lock = self._wait(
                    self.lock_timeout + self.answer_timeout,
                    self._opened.lock,
                    self.id,
                    wait=self.lock_timeout,
                )
            except SessionLockTimeout as error:
                raise LockTimeout(
                    "other requests use this session for too long: try again"
                ) from error
            if unchanged:
                # Others may have changed it since.
                self.loaded = False
        self.locked = True

    def release_lock(self) -> None:
        """
        Let others have the session.
        """
        lock, self._lock = self._lock, None
        self.locked = False
        if lock is not None:
            try:
                self.wait_for(lock.release)
            except SessionsUnavailable:
                _log.info("a session's lock ends by itself")

    # All sessions.

    def clean_up(self) -> None:
        """
        Remove the sessions that have ended, as the server does, too.
        """
        try:
            store = _stores.get(self)
            self.wait_for(store.expire)
        except SessionsUnavailable:
            _log.info("sessions that have ended are removed later")

    def __len__(self) -> int:
        query = {"expires": {"$gt": self._opened.now()}}
        return self.wait_for(self._opened.collection.count_documents, query)

    def __bool__(self) -> bool:
        return True
