"""
Writes to collections that transactions refuse: users, roles and stored
functions.

Each is a command of its own, executed between batches as a change of the
schema is.  All of them may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import OplogEntry
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect, Operation

__all__ = ["is_plain", "translate_write"]

_USERS = ("admin.system.users", "admin.system.roles")
# Users of every database are defined there, whatever is selected.
_COMMON = frozenset({"admin", "$external"})
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions()


def is_plain(namespace: str) -> bool:
    """
    Whether a collection is one of these.
    """
    return namespace in _USERS or namespace.endswith(".system.js")


def translate_write(entry: OplogEntry, selection: Selection) -> DDL | None:
    """
    The command that an insert, update or delete in one of these collections
    is.

    @return: C{None} where it is not selected.
    @raise txmongokit.replicator.entries.UnsupportedEntry: its form is not
        known.
    """
    namespace = selection.destination(entry.ns)
    if namespace is None:
        return None
    if entry.ns in _USERS:
        if not _selects_user(entry, selection):
            return None
        if selection.renames:
            entry = _with_other_databases(entry, selection)
    operation = Operation.from_entry(entry, namespace, Dialect())
    database, _, name = namespace.partition(".")
    verb, field = ("delete", "deletes") if entry.op == "d" else ("update", "updates")
    statement = RawBSONDocument(operation.statement)
    return DDL((namespace,), database, {verb: name, field: [statement]})


def _selects_user(entry: OplogEntry, selection: Selection) -> bool:
    source = entry.o if entry.op != "u" or entry.o2 is None else entry.o2
    database = str(bson.decode(source, _CODEC)["_id"]).partition(".")[0]
    return database in _COMMON or selection.selects_part(database)


def _with_other_databases(entry: OplogEntry, selection: Selection) -> OplogEntry:
    """The entry as it is where databases have their new names."""
    changed = OplogEntry()
    for name in OplogEntry.__slots__:
        setattr(changed, name, getattr(entry, name))
    changed.o = bson.encode(_renamed(bson.decode(entry.o, _CODEC), selection))
    if entry.o2 is not None:
        changed.o2 = bson.encode(_renamed(bson.decode(entry.o2, _CODEC), selection))
    return changed


def _renamed(value: Any, selection: Selection) -> Any:
    if isinstance(value, list):
        return [_renamed(each, selection) for each in value]
    if not isinstance(value, Mapping):
        return value
    renamed = {key: _renamed(each, selection) for key, each in value.items()}
    database = value.get("db")
    if isinstance(database, str) and database:
        renamed["db"] = selection.renamed_database(database)
        collection = value.get("collection")
        if isinstance(collection, str) and collection:
            new = selection.renamed(f"{database}.{collection}")
            renamed["db"], _, renamed["collection"] = new.partition(".")
    if isinstance(value.get("_id"), str):
        database, dot, name = value["_id"].partition(".")
        renamed["_id"] = f"{selection.renamed_database(database)}{dot}{name}"
    return renamed
