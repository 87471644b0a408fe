"""
The session store as Twisted services.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import PyMongoError
from txmongokit.web.rest import SessionAPI
from txmongokit.web.sessionmetrics import SessionMetrics
from txmongokit.web.store import MongoSessionStore

__all__ = ["SessionServer", "SessionStoreService"]

_log = Logger()
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
# How often the indexes are looked after, in seconds: somebody may have dropped one.
_PREPARE_EVERY = 3600.0
# How long requests under way may take when the server stops, in seconds.
_GRACE = 5.0


class SessionStoreService(Service):
    """
    A session store that is there while the application runs: makes and keeps
    the indexes, removes what has ended, and closes its client::

        sessions = SessionStoreService("mongodb://db.example/shop", timeout=3600)
        sessions.setServiceParent(application)

    Others reach the store by C{sessions.store}.  A database that does not
    answer yet is tried again until it does.

    @param place: a connection string with the name of a database, whose
        client is then this service's; or a L{Database}, whose client is not.
    @param reap_every: how often what has ended is removed, in seconds.  The
        server does so, too, about once a minute.
    @param metrics: where that is counted.
    @param client_options: arguments of L{ConnectionPool}, with a connection
        string.
    @param store_options: arguments of L{MongoSessionStore}.
    @ivar prepared: fires, at the latest when the service stops, once the
        indexes are right.

    @raise txmongokit.errors.ConfigurationError: an option of the client is
        wrong, or the connection string has no name of a database.
    @raise txmongokit.errors.InvalidURI: the string cannot be read.
    @raise TypeError: C{place} is neither, or an option is of the wrong type.
    @raise ValueError: an option is out of range.
    """

    name = "sessions"

    def __init__(
        self,
        place: str | Database[Any],
        *,
        reap_every: float = 60.0,
        metrics: SessionMetrics | None = None,
        client_options: dict[str, Any] | None = None,
        **store_options: Any,
    ) -> None:
        if not 0.1 <= reap_every <= 86_400:
            raise ValueError(f"reap_every must be from 0.1 to 86400 seconds, not {reap_every}")
        self._place = place
        self._reap_every = reap_every
        self._client_options = {} if client_options is None else client_options
        self._store_options = store_options
        self._stopped = False
        self._running: Deferred[None] | None = None
        self.metrics = SessionMetrics() if metrics is None else metrics
        self.prepared: Deferred[None] = Deferred()
        self._client: ConnectionPool | None = None
        self._store = self._open()

    def _open(self) -> MongoSessionStore:
        place = self._place
        if isinstance(place, str):
            self._client = ConnectionPool(place, **self._client_options)
            place = self._client.get_default_database()
        elif self._client_options:
            raise TypeError("a database has a client already, which takes no more options")
        return MongoSessionStore(place, **self._store_options)

    @property
    def store(self) -> MongoSessionStore:
        """
        The store.  Ask for it at each use: a restart changes it.
        """
        return self._store

    def startService(self) -> None:
        """
        Begin to prepare, without waiting for it.
        """
        if self._stopped:
            self._stopped = False
            self.prepared = Deferred()
            self._store = self._open()
        super().startService()
        self._running = Deferred.fromCoroutine(self._keep(self._store))
        self._running.addErrback(_ended)

    def stopService(self) -> Deferred[None]:
        """
        Stop keeping, and close the client if it is this service's.

        @return: fires when that is done; never fails.
        """
        super().stopService()
        self._stopped = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await self._running
        self._tell_prepared()
        if self._client is not None:
            await self._client.disconnect()

    def _tell_prepared(self) -> None:
        if not self.prepared.called:
            self.prepared.callback(None)

    async def _keep(self, store: MongoSessionStore) -> None:
        client = store.collection.database.client
        while True:
            await self._prepare(store, client)
            self._tell_prepared()
            prepared = client.seconds()
            while client.seconds() - prepared < _PREPARE_EVERY:
                await client.sleep(self._reap_every)
                await self._reap(store)

    async def _reap(self, store: MongoSessionStore) -> None:
        try:
            self.metrics.reaped += await store.expire()
        except PyMongoError as error:
            self.metrics.reap_failures += 1
            _log.warn("ended sessions stay for now: {kind}", kind=type(error).__name__)

    async def _prepare(self, store: MongoSessionStore, client: Any) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await store.prepare()
            except PyMongoError as error:
                _log.error(
                    "the sessions' indexes are not made yet, next try in {pause:g} s: {error}",
                    pause=pause,
                    error=str(error),
                )
                await client.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return


def _ended(failure: Failure) -> None:
    if failure.check(CancelledError) is None:
        _log.failure("the sessions are no longer kept", failure)


class SessionServer(MultiService):
    """
    A store and what answers for it over HTTP: stopped in the order that lets
    requests under way have their answers.

    @param sessions: the store.
    @param listening: what listens.
    @param api: what it serves.
    """

    name = "mongosessions"

    def __init__(self, sessions: SessionStoreService, listening: IService, api: SessionAPI) -> None:
        super().__init__()
        self._listening = listening
        self._api = api
        sessions.setServiceParent(self)
        listening.setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        """
        Take no more requests, answer those under way, for five seconds at
        most, and stop whatever else is here; the store last.

        @return: fires when that is done.
        """
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await maybeDeferred(self._listening.stopService)
        idle = self._api.idle()
        idle.addTimeout(_GRACE, self._api.clock, onTimeoutCancel=lambda result, _: None)
        await idle
        for each in reversed(self.services):
            if each is not self._listening:
                await maybeDeferred(each.stopService)
