"""
What users pass to operations, in the form that goes on the wire.
"""

from __future__ import annotations

import datetime
import difflib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo.collation import Collation

from txmongokit.errors import InvalidName
from txmongokit.filter import QueryFilter

__all__ = [
    "CollationIn",
    "Hint",
    "Keys",
    "Projection",
    "add_options",
    "check_collection_name",
    "check_database_name",
    "check_mapping",
    "collation_document",
    "hint_value",
    "is_operator_update",
    "is_plain_projection",
    "key_document",
    "names_one_document",
    "nearest",
    "projection_document",
]

Keys: TypeAlias = str | Sequence[str | tuple[str, Any]] | Mapping[str, Any] | QueryFilter
"""A field name, several (with their directions), the document itself, or TxMongo's filter."""

Hint: TypeAlias = Keys
"""An index by name, or by its keys."""

Projection: TypeAlias = Mapping[str, Any] | Sequence[str]
"""A projection document or the names of the fields to return."""

CollationIn: TypeAlias = Mapping[str, Any] | Collation


def check_mapping(name: str, value: Any) -> None:
    """
    Refuse a value that is no document.

    @raise TypeError: naming the argument.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")


def key_document(name: str, keys: Keys) -> dict[str, Any]:
    """
    Field names with directions as a document; 1 where no direction is given.

    @param name: the argument's name, for the error.
    @raise TypeError: C{keys} is none of what L{Keys} allows.
    @raise ValueError: there are no keys in it.
    """
    if isinstance(keys, str):
        return {keys: 1}
    if isinstance(keys, QueryFilter):
        keys = keys.only("sort")
    if isinstance(keys, Mapping):
        document = dict(keys)
    elif isinstance(keys, Sequence):
        document = {}
        for item in keys:
            key, direction = (item, 1) if isinstance(item, str) else item
            document[key] = direction
    else:
        raise TypeError(
            f"{name} must be a field name, (name, direction) pairs or a mapping, "
            f"not {type(keys).__name__}"
        )
    if not document:
        raise ValueError(f"{name} must name at least one field")
    for key in document:
        if not isinstance(key, str):
            raise TypeError(f"{name}: field names are strings, not {type(key).__name__}")
    return document


def hint_value(hint: Hint) -> str | dict[str, Any]:
    """
    A hint: an index's name stays as it is, keys become a document.
    """
    if isinstance(hint, QueryFilter):
        hint = hint.only("hint")
    return hint if isinstance(hint, str) else key_document("hint", hint)


def projection_document(projection: Projection) -> dict[str, Any]:
    """
    A projection; no names at all mean C{_id} only, as in PyMongo.

    @raise TypeError: it is neither a mapping nor a sequence of names.
    """
    if isinstance(projection, Mapping):
        return dict(projection) or {"_id": 1}
    if isinstance(projection, (str, bytes)) or not isinstance(projection, Iterable):
        raise TypeError(
            "projection must be a mapping or a sequence of field names, "
            f"not {type(projection).__name__}"
        )
    return dict.fromkeys(projection, 1) or {"_id": 1}


def collation_document(collation: CollationIn) -> Mapping[str, Any]:
    """
    A collation as its document.

    @raise TypeError: it is neither a mapping nor a PyMongo C{Collation}.
    """
    if isinstance(collation, Collation):
        return collation.document
    check_mapping("collation", collation)
    return collation


def is_operator_update(update: Any) -> bool:
    """
    Whether an update consists of operators or is a pipeline, rather than a
    whole document.

    @raise TypeError: it is neither a mapping nor a list.
    @raise ValueError: it is empty.
    """
    if isinstance(update, (list, tuple)):
        if not update:
            raise ValueError("an update pipeline must have at least one stage")
        return True
    if not isinstance(update, Mapping):
        raise TypeError(f"update must be a mapping or a pipeline, not {type(update).__name__}")
    if not update:
        raise ValueError("update must name at least one operator, such as $set")
    return str(next(iter(update))).startswith("$")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """
    A hint at the end of a message: the candidate most like C{name}, or
    nothing.
    """
    found = difflib.get_close_matches(name, list(candidates), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


# Of values that mean equality in a filter; a regular expression, for one,
# does not.
_VALUE_TYPES = frozenset(
    {
        ObjectId,
        int,
        Int64,
        str,
        bytes,
        Binary,
        uuid.UUID,
        float,
        Decimal128,
        datetime.datetime,
        bool,
        type(None),
    }
)


def names_one_document(filter: Any) -> bool:
    """
    Whether a filter is nothing but an C{_id}: then the server needs one look
    into an index, unless the collection is a view.
    """
    return (
        type(filter) is dict
        and len(filter) == 1
        and type(filter.get("_id", filter)) in _VALUE_TYPES
    )


def is_plain_projection(projection: Any) -> bool:
    """
    Whether a projection only names fields: expressions may take their time.
    """
    if isinstance(projection, Mapping):
        return all(value in (0, 1) for value in projection.values())
    return True


def _mapping(name: str) -> Any:
    def checked(value: Any) -> Any:
        check_mapping(name, value)
        return value

    return checked


def _of_type(name: str, kind: type | tuple[type, ...], noun: str) -> Any:
    def checked(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name} must be {noun}, not {type(value).__name__}")
        return value

    return checked


_SHAPES: dict[str, Any] = {
    "arrayFilters": _of_type("array_filters", list, "a list"),
    "let": _mapping("let"),
    "maxTimeMS": _of_type("max_time_ms", (int, float), "a number"),
    "upsert": _of_type("upsert", bool, "True or False"),
    "collation": collation_document,
    "hint": hint_value,
    "projection": projection_document,
    "fields": projection_document,
    "sort": lambda sort: key_document("sort", sort),
    "min": lambda keys: key_document("min", keys),
    "max": lambda keys: key_document("max", keys),
}


def add_options(
    body: dict[str, Any], names: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Write options into a command.  C{None} is left out, everything else is
    sent.

    @param names: the wire's name of each option that there is.
    @param options: by our names or the wire's, as PyMongo takes some.
    @return: C{body}.
    @raise TypeError: an option is not in C{names}, or is of a wrong type.
    """
    for name, value in options.items():
        wire_name = names.get(name)
        if wire_name is None:
            if name not in names.values():
                verb = next(iter(body), "the command")
                raise TypeError(f"{verb} has no option {name!r}{nearest(name, names)}")
            wire_name = name
        if value is None:
            continue
        shape = _SHAPES.get(wire_name)
        body[wire_name] = value if shape is None else shape(value)
    return body


def check_database_name(name: str) -> None:
    """
    Refuse what no server accepts as a database's name.

    @raise TypeError: it is no string.
    @raise InvalidName: it is empty or holds a forbidden character.
    """
    if not isinstance(name, str):
        raise TypeError(f"a database's name is a string, not {type(name).__name__}")
    if not name:
        raise InvalidName("a database's name must not be empty")
    if name == "$external":
        return
    for character in ' .$/\\\x00"':
        if character in name:
            raise InvalidName(f"the database name {name!r} must not contain {character!r}")


def check_collection_name(name: str) -> None:
    """
    Refuse what no server accepts as a collection's name.

    @raise TypeError: it is no string.
    @raise InvalidName: it is empty, or has dots or dollars in wrong places.
    """
    if not isinstance(name, str):
        raise TypeError(f"a collection's name is a string, not {type(name).__name__}")
    if not name or ".." in name:
        raise InvalidName("a collection's name must not be empty or contain '..'")
    if name[0] == "." or name[-1] == ".":
        raise InvalidName(f"the collection name {name!r} must not start or end with '.'")
    if "\x00" in name:
        raise InvalidName("a collection's name must not contain the null character")
    if "$" in name and not name.startswith(("oplog.$main", "$cmd")):
        raise InvalidName(f"the collection name {name!r} must not contain '$'")
