"""
What an application has of its settings: C{db} and C{db_conn}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from txmongokit.database import Database
from txmongokit.errors import InvalidName
from txmongokit.settings.keys import Setting
from txmongokit.settings.sources import read_environment, read_ini, read_toml
from txmongokit.settings.values import MongoSettings, read_settings

__all__ = ["MongoHandle", "from_environment", "from_ini", "from_settings", "from_toml"]


class MongoHandle:
    """
    An application's database and the client that it is reached by.  It
    connects when it must.

    @param settings: what was read.
    @param arguments: more of L{ConnectionPool}'s.

    @ivar settings: what was read.
    @ivar db_conn: the client; with slaves a
        L{txmongokit.masterslave.MasterSlaveConnection}.
    @ivar db: the L{Database} that C{mongo.db} names.

    @raise ConfigurationError: settings contradict one another.
    """

    def __init__(self, settings: MongoSettings, **arguments: Any) -> None:
        self.settings = settings
        self.db_conn: Any = settings.connection(**arguments)
        try:
            self.db: Database = self.db_conn[settings.database]
        except InvalidName:
            raise Setting(f"{settings.prefix}db", settings.database).refused(
                'is no name of a database: it may not be empty or have any of / \\ . $ " and blanks'
            ) from None

    def __repr__(self) -> str:
        return f"<MongoHandle {self.settings.database} of {self.db_conn!r}>"

    def attach(self, app_globals: Any) -> None:
        """
        Set C{db} and C{db_conn} of an object, such as Pylons' C{app_globals}.
        """
        app_globals.db = self.db
        app_globals.db_conn = self.db_conn

    def disconnect(self) -> Deferred[None]:
        """
        Close every connection; see L{ConnectionPool.disconnect}.
        """
        closed: Deferred[None] = self.db_conn.disconnect()
        return closed


def from_settings(
    mapping: Mapping[str, Any], prefix: str = "mongo.", **arguments: Any
) -> MongoHandle:
    """
    An application's C{db} and C{db_conn} from its settings.  Nothing is
    connected before the first operation.

    @param mapping: Pyramid's or Pylons' settings, or any other mapping; see
        L{read_settings} for the keys.
    @param prefix: what the keys begin with.
    @param arguments: more of L{ConnectionPool}'s, such as C{reactor} or
        C{event_listeners}.

    @raise ConfigurationError: a key is not known, a value is not allowed, or
        keys contradict one another; the error names them.
    """
    return MongoHandle(read_settings(mapping, prefix), **arguments)


def from_ini(
    path: str | os.PathLike[str],
    section: str | None = None,
    prefix: str = "mongo.",
    **arguments: Any,
) -> MongoHandle:
    """
    L{from_settings} of an C{.ini} file; see L{read_ini}.
    """
    return from_settings(read_ini(path, section, prefix), prefix, **arguments)


def from_toml(
    path: str | os.PathLike[str], prefix: str = "mongo.", **arguments: Any
) -> MongoHandle:
    """
    L{from_settings} of a TOML file; see L{read_toml}.
    """
    return from_settings(read_toml(path), prefix, **arguments)


def from_environment(
    environ: Mapping[str, str] | None = None, prefix: str = "MONGO_", **arguments: Any
) -> MongoHandle:
    """
    L{from_settings} of environment variables; see L{read_environment}.
    """
    return from_settings(read_environment(environ, prefix), prefix, **arguments)
