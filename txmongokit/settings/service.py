"""
A parent service that owns the connections which its children use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txmongokit.database import Database
from txmongokit.settings.handle import MongoHandle
from txmongokit.settings.values import MongoSettings, read_settings

__all__ = ["MongoParent"]


class MongoParent(MultiService):
    """
    Owns an application's C{db} and C{db_conn}: servers are watched before the
    children start, and connections are closed when all children have
    stopped::

        mongo = MongoParent(read_ini("shop.ini"))
        mongo.setServiceParent(application)
        Shop(mongo).setServiceParent(mongo)

    Both can be used before it starts.  A service that is started again has
    new ones: ask for C{mongo.db} at each use.

    @param settings: a mapping as L{txmongokit.settings.from_settings} takes
        it, or what L{read_settings} has made of one.
    @param prefix: what the mapping's keys begin with.
    @param arguments: more of L{ConnectionPool}'s.

    @raise txmongokit.errors.ConfigurationError: see L{read_settings}.
    """

    _log = Logger()

    def __init__(
        self,
        settings: MongoSettings | Mapping[str, Any],
        prefix: str = "mongo.",
        **arguments: Any,
    ) -> None:
        super().__init__()
        self._settings = (
            settings if isinstance(settings, MongoSettings) else read_settings(settings, prefix)
        )
        self._arguments = arguments
        self._handle = MongoHandle(self._settings, **arguments)
        self._closed = False

    @property
    def db(self) -> Database:
        """
        The application's database.
        """
        return self._handle.db

    @property
    def db_conn(self) -> Any:
        """
        The client.
        """
        return self._handle.db_conn

    def startService(self) -> None:
        """
        Begin to watch the servers, without waiting for any, then start the
        children.
        """
        if self._closed:
            self._handle = MongoHandle(self._settings, **self._arguments)
            self._closed = False
        # Each operation fails for the same reason; the log tells it first.
        self.db_conn.aconnect().addErrback(
            lambda failure: self._log.failure("the MongoDB client cannot start", failure)
        )
        super().startService()

    def stopService(self) -> Deferred[None]:
        """
        Stop the children, wait until they have, and close every connection.

        @return: fires with C{None}; never fails.
        """
        # It may be started again before all this has ended.
        self._closed = True
        return Deferred.fromCoroutine(_stopped(super().stopService(), self._handle))


async def _stopped(children: Deferred[Any], handle: MongoHandle) -> None:
    # It waits for all; what one of them fails with is logged by Twisted.
    await children
    await handle.disconnect()
