"""
An asynchronous MongoDB driver, replicator and tool box for Twisted.

The names below are loaded when first asked for, so that C{import txmongokit}
costs nothing to those who want one module only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymongo import ASCENDING as ASCENDING
    from pymongo import DESCENDING as DESCENDING
    from pymongo import GEO2D as GEO2D
    from pymongo import GEOSPHERE as GEOSPHERE
    from pymongo import HASHED as HASHED
    from pymongo import TEXT as TEXT
    from pymongo import CursorType as CursorType
    from pymongo import ReadPreference as ReadPreference
    from pymongo import ReturnDocument as ReturnDocument
    from pymongo import WriteConcern as WriteConcern
    from pymongo import timeout as timeout
    from pymongo.operations import DeleteMany as DeleteMany
    from pymongo.operations import DeleteOne as DeleteOne
    from pymongo.operations import IndexModel as IndexModel
    from pymongo.operations import InsertOne as InsertOne
    from pymongo.operations import ReplaceOne as ReplaceOne
    from pymongo.operations import SearchIndexModel as SearchIndexModel
    from pymongo.operations import UpdateMany as UpdateMany
    from pymongo.operations import UpdateOne as UpdateOne
    from pymongo.results import BulkWriteResult as BulkWriteResult
    from pymongo.results import ClientBulkWriteResult as ClientBulkWriteResult
    from pymongo.results import DeleteResult as DeleteResult
    from pymongo.results import InsertManyResult as InsertManyResult
    from pymongo.results import InsertOneResult as InsertOneResult
    from pymongo.results import UpdateResult as UpdateResult

    from txmongokit.connection import AsyncMongoClient as AsyncMongoClient
    from txmongokit.connection import ConnectionPool as ConnectionPool
    from txmongokit.connection import MongoClient as MongoClient
    from txmongokit.connection import MongoConnection as MongoConnection
    from txmongokit.connection import MongoConnectionPool as MongoConnectionPool
    from txmongokit.connection import lazyMongoConnection as lazyMongoConnection
    from txmongokit.connection import lazyMongoConnectionPool as lazyMongoConnectionPool
    from txmongokit.database import Database as Database
    from txmongokit.protocol import MongoProtocol as MongoProtocol
    from txmongokit.protocol import Query as Query

__all__ = [
    "ASCENDING",
    "AsyncMongoClient",
    "BulkWriteResult",
    "ClientBulkWriteResult",
    "ConnectionPool",
    "CursorType",
    "DESCENDING",
    "Database",
    "DeleteMany",
    "DeleteOne",
    "DeleteResult",
    "GEO2D",
    "GEOSPHERE",
    "HASHED",
    "IndexModel",
    "InsertManyResult",
    "InsertOne",
    "InsertOneResult",
    "MongoClient",
    "MongoConnection",
    "MongoConnectionPool",
    "MongoProtocol",
    "Query",
    "ReadPreference",
    "ReplaceOne",
    "ReturnDocument",
    "SearchIndexModel",
    "TEXT",
    "UpdateMany",
    "UpdateOne",
    "UpdateResult",
    "WriteConcern",
    "__version__",
    "lazyMongoConnection",
    "lazyMongoConnectionPool",
    "timeout",
]

__version__ = "0.1.0"

_CLIENTS = ("AsyncMongoClient", "ConnectionPool", "MongoClient", "MongoConnection")
_OLDER_CLIENTS = ("MongoConnectionPool", "lazyMongoConnection", "lazyMongoConnectionPool")
_HOMES = {
    **{name: "pymongo" for name in __all__ if name != "__version__"},
    **dict.fromkeys((*_CLIENTS, *_OLDER_CLIENTS), "txmongokit.connection"),
    **{name: "pymongo.results" for name in __all__ if name.endswith("Result")},
    **dict.fromkeys(("MongoProtocol", "Query"), "txmongokit.protocol"),
    "Database": "txmongokit.database",
    "SearchIndexModel": "pymongo.operations",
}


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
