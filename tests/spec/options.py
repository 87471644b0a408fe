"""
Options as the tests write them, turned into what PyMongo's API takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.client_session import (  # type: ignore[attr-defined]  # documented, not exported
    TransactionOptions,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import make_read_preference, read_pref_mode_from_name
from pymongo.write_concern import WriteConcern

from tests.spec.matching import Malformed

__all__ = [
    "database_options",
    "read_concern",
    "read_preference",
    "snake",
    "transaction_options",
    "write_concern",
    "write_models",
]

_MODES = {
    "primary": "PRIMARY",
    "primarypreferred": "PRIMARY_PREFERRED",
    "secondary": "SECONDARY",
    "secondarypreferred": "SECONDARY_PREFERRED",
    "nearest": "NEAREST",
}
_MODELS = {
    "insertOne": InsertOne,
    "updateOne": UpdateOne,
    "updateMany": UpdateMany,
    "replaceOne": ReplaceOne,
    "deleteOne": DeleteOne,
    "deleteMany": DeleteMany,
}


def snake(name: str) -> str:
    """
    C{max_time_ms} for C{maxTimeMS}.
    """
    return re.sub("([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def read_concern(document: Mapping[str, Any]) -> ReadConcern:
    """A read concern."""
    return ReadConcern(document.get("level"))


def write_concern(document: Mapping[str, Any]) -> WriteConcern:
    """A write concern."""
    return WriteConcern(
        w=document.get("w"), wtimeout=document.get("wtimeoutMS"), j=document.get("journal")
    )


def read_preference(document: Mapping[str, Any]) -> Any:
    """
    A read preference.

    @raise Malformed: it has an unknown mode.
    """
    mode = _MODES.get(document["mode"].lower())
    if mode is None:
        raise Malformed(f"unknown read preference {document['mode']!r}")
    camel = document["mode"][0].lower() + document["mode"][1:]
    return make_read_preference(
        read_pref_mode_from_name(camel),
        document.get("tagSets"),
        document.get("maxStalenessSeconds", -1),
    )


_CONVERSIONS = {
    "readConcern": ("read_concern", read_concern),
    "readPreference": ("read_preference", read_preference),
    "writeConcern": ("write_concern", write_concern),
    "timeoutMS": ("timeout", lambda value: value / 1000),
}


def database_options(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    The options of a database, a collection or an operation: concerns,
    preference and time limit as objects, everything else in snake case.
    """
    options = {}
    for name, value in (document or {}).items():
        if name in _CONVERSIONS:
            renamed, convert = _CONVERSIONS[name]
            options[renamed] = convert(value)
        else:
            options[snake(name)] = value
    return options


def transaction_options(document: Mapping[str, Any]) -> TransactionOptions:
    """A transaction's options."""
    options = database_options(document)
    return TransactionOptions(
        read_concern=options.get("read_concern"),
        write_concern=options.get("write_concern"),
        read_preference=options.get("read_preference"),
        max_commit_time_ms=options.get("max_commit_time_ms"),
    )


def write_models(requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """
    The models of a bulk write, of a collection or of the client.

    @raise Malformed: one is of no known kind.
    """
    models = []
    for request in requests:
        ((kind, arguments),) = request.items()
        if kind not in _MODELS:
            raise Malformed(f"unknown write model {kind!r}")
        options = {snake(name): value for name, value in arguments.items()}
        if isinstance(options.get("sort"), Mapping):
            options["sort"] = dict(options["sort"])
        models.append(_MODELS[kind](**options))
    return models
