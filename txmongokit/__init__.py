"""
An asynchronous MongoDB driver, replicator and tool box for Twisted.

The names below are loaded when first asked for, so that C{import txmongokit}
costs nothing to those who want one module only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txmongokit.connection import ConnectionPool as ConnectionPool
    from txmongokit.connection import MongoConnection as MongoConnection
    from txmongokit.connection import MongoConnectionPool as MongoConnectionPool
    from txmongokit.connection import lazyMongoConnection as lazyMongoConnection
    from txmongokit.connection import lazyMongoConnectionPool as lazyMongoConnectionPool

__all__ = [
    "ConnectionPool",
    "MongoConnection",
    "MongoConnectionPool",
    "__version__",
    "lazyMongoConnection",
    "lazyMongoConnectionPool",
]

__version__ = "0.1.0"

_HOMES = {name: "txmongokit.connection" for name in __all__ if name != "__version__"}


def __getattr__(name: str) -> object:
    """
    Load a public name from the module that defines it (PEP 562).
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """
    What C{dir()} shows: the public names, loaded or not.
    """
    return sorted(__all__)
