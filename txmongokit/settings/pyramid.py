"""
Pyramid: C{config.include("txmongokit.settings")}.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any, Protocol

from txmongokit.masterslave import MasterSlaveConnection
from txmongokit.settings.blocking import blocking_from_settings

__all__ = ["includeme"]


class _Configurator(Protocol):
    """What is used of Pyramid's own."""

    registry: Any
    add_request_method: Callable[..., None]
    add_subscriber: Callable[..., None]


def includeme(config: _Configurator) -> None:
    """
    Read the settings with the prefix C{mongo.}, and give each request

      - C{request.db} and C{request.db_conn}, for its thread, which waits: see
        L{txmongokit.settings.blocking.BlockingHandle};
      - C{request.run_mongo(function, *arguments)}, which calls a function in
        the reactor's thread: see L{txmongokit.settings.blocking.BlockingHandle.run}.

    C{config.registry["mongo"]} is the
    L{txmongokit.settings.handle.MongoHandle}, whose C{db} and
    C{db_conn} are asynchronous.  The connections are closed when the reactor
    stops, and what C{start_request} of a L{MasterSlaveConnection} began ends
    with Pyramid's request.

    @raise txmongokit.errors.ConfigurationError: see
        L{txmongokit.settings.from_settings}.
    """
    waiting = blocking_from_settings(config.registry.settings)
    handle = config.registry["mongo"] = waiting.handle
    config.add_request_method(lambda request: waiting.db, "db", property=True)
    config.add_request_method(lambda request: waiting.db_conn, "db_conn", property=True)
    config.add_request_method(
        lambda request, function, *arguments, **keywords: waiting.run(
            function, *arguments, **keywords
        ),
        "run_mongo",
    )
    if isinstance(handle.db_conn, MasterSlaveConnection):
        config.add_subscriber(_Ends(handle.db_conn).watch, "pyramid.events.NewRequest")


class _Ends:
    """
    Ends what start_request() began, which is not for the thread's next request.
    """

    def __init__(self, connection: MasterSlaveConnection) -> None:
        self._connection = connection
        self._thread = local()

    def watch(self, event: Any) -> None:
        """A request begins; one within a request ends with that."""
        if not getattr(self._thread, "serves", False):
            self._thread.serves = True
            event.request.add_finished_callback(self._end)

    def _end(self, request: Any) -> None:
        self._thread.serves = False
        while self._connection.in_request():
            self._connection.end_request()
