"""
Where txmongokit has what another driver calls something else.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from tests.exports.introspection import attributes
from tests.exports.stand import examples

__all__ = ["MISSING", "find", "load", "place"]

HERE = Path(__file__).resolve().parent
MISSING = object()

_PYMONGO = {
    "pymongo.asynchronous.mongo_client.AsyncMongoClient": "txmongokit.connection.MongoClient",
    "pymongo.asynchronous.database.AsyncDatabase": "txmongokit.database.Database",
    "pymongo.asynchronous.collection.AsyncCollection": "txmongokit.collection.Collection",
    "pymongo.asynchronous.collection.ReturnDocument": "txmongokit.ReturnDocument",
    "pymongo.asynchronous.cursor.AsyncCursor": "txmongokit.cursor.Cursor",
    "pymongo.asynchronous.cursor.AsyncRawBatchCursor": "txmongokit.cursor.Cursor",
    "pymongo.asynchronous.command_cursor.AsyncCommandCursor": "txmongokit.cursor.CommandCursor",
    "pymongo.asynchronous.command_cursor.AsyncRawBatchCommandCursor": (
        "txmongokit.cursor.CommandCursor"
    ),
    "pymongo.asynchronous.change_stream.AsyncChangeStream": (
        "txmongokit.changestream.ChangeStream"
    ),
    "pymongo.asynchronous.change_stream.AsyncCollectionChangeStream": (
        "txmongokit.changestream.ChangeStream"
    ),
    "pymongo.asynchronous.change_stream.AsyncDatabaseChangeStream": (
        "txmongokit.changestream.ChangeStream"
    ),
    "pymongo.asynchronous.change_stream.AsyncClusterChangeStream": (
        "txmongokit.changestream.ChangeStream"
    ),
    "pymongo.asynchronous.client_session.AsyncClientSession": "txmongokit.sessions.ClientSession",
    "pymongo.asynchronous.client_session.SessionOptions": "txmongokit.sessions.SessionOptions",
    "pymongo.asynchronous.client_session.TransactionOptions": (
        "txmongokit.sessions.TransactionOptions"
    ),
    "gridfs.asynchronous.grid_file.AsyncGridFS": "txmongokit.gridfs.GridFS",
    "gridfs.asynchronous.grid_file.AsyncGridFSBucket": "txmongokit.gridfs.GridFSBucket",
    "gridfs.asynchronous.grid_file.AsyncGridIn": "txmongokit.gridfs.GridIn",
    "gridfs.asynchronous.grid_file.AsyncGridOut": "txmongokit.gridfs.GridOut",
    "gridfs.asynchronous.grid_file.AsyncGridOutCursor": "txmongokit.gridfs.GridOutCursor",
    "gridfs.asynchronous.grid_file.AsyncGridOutIterator": "txmongokit.gridfs.GridOutIterator",
}
# What the package itself has, by the names that PyMongo's packages give it.
_PACKAGES = {
    "pymongo": "txmongokit",
    "pymongo.operations": "txmongokit",
    "pymongo.results": "txmongokit",
    "gridfs.asynchronous": "txmongokit.gridfs",
    "gridfs.asynchronous.grid_file": "txmongokit.gridfs",
}


_EXAMPLES = examples()


def load(surface: str) -> dict[str, Any]:
    """
    The names of one list, C{txmongo-15.2.1} and so on.
    """
    names: dict[str, Any] = json.loads((HERE / f"{surface}.json").read_text("utf-8"))["names"]
    return names


def place(name: str) -> str:
    """
    What another driver's name is called here.
    """
    for theirs, ours in _PYMONGO.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    if name.startswith("txmongo."):
        return "txmongokit." + name.removeprefix("txmongo.")
    for theirs in sorted(_PACKAGES, key=len, reverse=True):
        if name.startswith(f"{theirs}."):
            return _PACKAGES[theirs] + name.removeprefix(theirs)
    return name


def _member(owner: Any, name: str) -> Any:
    """A name in a module or a class, without what C{__getattr__} makes of any."""
    if inspect.ismodule(owner):
        try:
            return getattr(owner, name)
        except AttributeError:
            pass
        try:
            return importlib.import_module(f"{owner.__name__}.{name}")
        except ImportError:
            return MISSING
    try:
        return inspect.getattr_static(owner, name)
    except AttributeError:
        pass
    if owner in _EXAMPLES and hasattr(_EXAMPLES[owner], name):
        return property()
    for base in inspect.getmro(owner):
        if name in getattr(base, "__annotations__", {}) or name in attributes(base):
            return property()
    return MISSING


def find(path: str) -> Any:
    """
    What stands at a dotted path of ours; L{MISSING} where nothing does.
    """
    first, *rest = path.split(".")
    found: Any = importlib.import_module(first)
    for name in rest:
        found = _member(found, name)
        if found is MISSING:
            break
    return found
