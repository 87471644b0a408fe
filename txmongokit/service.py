"""
A client as a Twisted service: started and stopped with the application.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool

__all__ = ["MongoService"]


class MongoService(Service):
    """
    Watches the servers while the application runs, and closes every
    connection before it ends::

        service = MongoService("mongodb://db.example/?replicaSet=rs0")
        service.setName("mongo")
        service.setServiceParent(application)

    Others reach the client by C{service.client}.  It can be used before the
    service starts, for it connects when it must; a service that is stopped
    and started again has a new client, unless it was given one.

    @param uri_or_client: a connection string, or a client, which is then the
        service's to close.
    @param options: arguments of L{ConnectionPool}, with a connection string.

    @raise txmongokit.errors.ConfigurationError: an option is unknown or its
        value is not allowed.
    @raise txmongokit.errors.InvalidURI: the string cannot be read.
    @raise TypeError: a client already has its options.
    """

    _log = Logger()

    def __init__(
        self,
        uri_or_client: str | ConnectionPool = "mongodb://127.0.0.1:27017",
        **options: Any,
    ) -> None:
        self._uri: str | None = None
        self._options = options
        self._stopped = False
        if isinstance(uri_or_client, ConnectionPool):
            if options:
                raise TypeError(f"a client takes no more options: {', '.join(sorted(options))}")
            self._client = uri_or_client
        else:
            self._uri = uri_or_client
            self._client = ConnectionPool(uri_or_client, **options)

    @property
    def client(self) -> ConnectionPool:
        """
        The client.  Ask for it at each use: a restart changes it.
        """
        return self._client

    def startService(self) -> None:
        """
        Begin to watch the servers, without waiting for any.
        """
        if self._stopped and self._uri is not None:
            self._client = ConnectionPool(self._uri, **self._options)
        self._stopped = False
        super().startService()
        # Each operation fails for the same reason; the log tells it first.
        self._client.aconnect().addErrback(
            lambda failure: self._log.failure("the MongoDB client cannot start", failure)
        )

    def stopService(self) -> Deferred[None]:
        """
        Close the client.  Operations under way fail with
        L{txmongokit.errors.AutoReconnect}.

        @return: fires with C{None} when every connection is closed; never
            fails.
        """
        self._stopped = True
        super().stopService()
        return self._client.disconnect()
