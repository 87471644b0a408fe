"""
Command entries of the oplog as ordinary commands.

Nothing is executed here: L{translate} says which command has the same effect,
and which errors mean that it has been executed already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from txmongokit.replicator.pipelines import renamed_pipeline
from txmongokit.replicator.selection import Selection

__all__ = ["DDL", "UnsupportedDDL", "translate", "translate_view"]

_NAMESPACE_NOT_FOUND = 26
_INDEX_NOT_FOUND = 27
_NAMESPACE_EXISTS = 48
_NONE: frozenset[int] = frozenset()

# What the server logs but does not take, or decides by itself.
_CREATE_INTERNAL = frozenset({"create", "temp", "recordIdsReplicated", "autoIndexId", "idIndex"})
_COLLMOD_INTERNAL = frozenset({"collMod", "recordIdsReplicated", "isTimeseriesNamespace"})
_RENAME_INTERNAL = frozenset({"renameCollection", "to", "dropTarget", "stayTemp"})
_IGNORED = frozenset(
    {
        "abortIndexBuild",  # the index never came to be
        "startIndexBuild",  # commitIndexBuild has it whole
        "dbCheck",
        "dropIdent",
        "setMultikeyMetadata",
    }
)
_VIEW_FIELDS = frozenset({"_id", "viewOn", "pipeline", "collation"})
_BUCKETS = "system.buckets."
# Of how a time series was made, what its creation takes: the rest follows.
_SERIES = frozenset({"create", "timeseries", "expireAfterSeconds", "collation", "storageEngine"})


class UnsupportedDDL(Exception):
    """
    A change of the schema cannot be replicated.

    The message names the command and the namespace, and shows no document.
    """


@dataclass(frozen=True, slots=True)
class DDL:
    """
    A change of the schema as the destination is to execute it.

    @ivar namespaces: the destination's names that it touches.
    @ivar database: where the command goes.
    @ivar done_codes: errors that mean that it is so already.
    @ivar done_codes_repeated: errors that mean so where it may have been
        executed before a crash.
    @ivar verify_options: whether what exists must be compared with what
        would have been created.
    """

    namespaces: tuple[str, ...]
    database: str
    command: dict[str, Any]
    done_codes: frozenset[int] = _NONE
    done_codes_repeated: frozenset[int] = _NONE
    verify_options: bool = False


def translate(
    ns: str, o: Mapping[str, Any], o2: Mapping[str, Any] | None, selection: Selection
) -> DDL | None:
    """
    What a command entry is for the destination.

    @param ns: the entry's namespace, C{database.$cmd}.
    @param o: the command as logged.
    @param o2: what the entry says besides; not needed for any command here.

    @return: C{None} where there is nothing to do: what it changes is not
        selected, or it changes nothing that a replica must have.
    @raise UnsupportedDDL: it is unknown, or cannot be replicated.
    """
    database = ns.partition(".")[0]
    verb = next(iter(o), "")
    if verb in _IGNORED:
        return None
    if verb != "renameCollection" and not selection.selects_part(database):
        return None
    if database == "admin":
        # Users' collections, and their indexes, are made by the server.
        return None if verb != "renameCollection" else _rename(database, o, selection)
    function = _TRANSLATIONS.get(verb)
    if function is None:
        raise UnsupportedDDL(
            f"the source executed {verb!r} on {database}, which this version cannot replicate: "
            "use a release that knows it, or copy the data anew"
        )
    return function(database, o, selection)


def _split(namespace: str) -> tuple[str, str]:
    database, _, name = namespace.partition(".")
    return database, name


def _target(database: str, name: Any, selection: Selection) -> tuple[str, str, str] | None:
    """Full name, database and collection in the destination; None if not selected."""
    namespace = selection.destination(f"{database}.{name}")
    return None if namespace is None else (namespace, *_split(namespace))


def _create(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    name = str(o["create"])
    if name == "system.views":
        return None  # made by itself with the first view
    target = _target(database, name, selection)
    if target is None:
        return None
    if "timeseries" in o:
        return _create_series(database, name, o, target)
    namespace, to_database, to_name = target
    options = {key: value for key, value in o.items() if key not in _CREATE_INTERNAL}
    _view_options(options, database, to_database, selection)
    return DDL(
        (namespace,),
        to_database,
        {"create": to_name, **options},
        done_codes=frozenset({_NAMESPACE_EXISTS}),
        verify_options=True,
    )


def _create_series(
    database: str, name: str, o: Mapping[str, Any], target: tuple[str, str, str]
) -> DDL:
    """Logged as the making of its buckets; its view follows, as the server makes it."""
    if not name.startswith(_BUCKETS):
        raise UnsupportedDDL(
            f"{database}.{name} is a time series without buckets of its own, which this version "
            "does not replicate: exclude it with -x"
        )
    namespace, to_database, to_name = target
    options = {key: value for key, value in o.items() if key in _SERIES and key != "create"}
    return DDL(
        (namespace.replace(_BUCKETS, "", 1),),
        to_database,
        {
            "create": to_name.removeprefix(_BUCKETS),
            **options,
            "timeseries": _series_options(o["timeseries"]),
        },
        done_codes=frozenset({_NAMESPACE_EXISTS}),
        verify_options=True,
    )


def _series_options(options: Mapping[str, Any]) -> dict[str, Any]:
    # The span follows from the granularity, and newer servers take only one of them.
    derived = {"bucketMaxSpanSeconds", "bucketRoundingSeconds"} if "granularity" in options else ()
    return {key: value for key, value in options.items() if key not in derived}


def _view_options(
    options: dict[str, Any], database: str, to_database: str, selection: Selection
) -> None:
    """Give the collections that a view reads their names in the destination."""
    if "viewOn" in options:
        options["viewOn"] = _viewed(database, options["viewOn"], to_database, selection)
    if "pipeline" in options:
        options["pipeline"] = renamed_pipeline(
            options["pipeline"],
            lambda name: _viewed(database, name, to_database, selection),
            selection.renamed,
        )


def _viewed(database: str, name: Any, to_database: str, selection: Selection) -> str:
    found_database, found = _split(selection.renamed(f"{database}.{name}"))
    if found_database != to_database:
        raise UnsupportedDDL(
            f"a view in {database} and its collection {name} are renamed into different "
            "databases: rename them alike"
        )
    return found


def _drop(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    target = _target(database, o["drop"], selection)
    if target is None or str(o["drop"]) == "system.views":
        return None
    namespace, to_database, name = target
    # Of a time series the view is dropped before its buckets.
    name = name.removeprefix(_BUCKETS)
    return DDL((namespace,), to_database, {"drop": name}, frozenset({_NAMESPACE_NOT_FOUND}))


def _drop_database(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    # Its collections were dropped one by one before.
    if not selection.selects_database(database):
        return None
    renamed = selection.renamed_database(database)
    # Collections that others were renamed into may live there, too.
    if selection.may_share(renamed):
        return None
    return DDL((renamed,), renamed, {"dropDatabase": 1})


def _rename(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    old, new = str(o["renameCollection"]), str(o["to"])
    chosen = selection.destination(old) is not None, selection.destination(new) is not None
    if chosen == (False, False):
        return None
    if chosen == (True, False) and selection.is_temporary(old):
        # It was followed in case it would become something that is selected.
        return _drop(old.partition(".")[0], {"drop": old.partition(".")[2]}, selection)
    if chosen[0] != chosen[1]:
        inside, outside = (old, new) if chosen[0] else (new, old)
        raise UnsupportedDDL(
            f"the source renamed {old} to {new}, but {outside} is not selected and {inside} is: "
            "select both or neither, and copy the data anew"
        )
    _refuse_unknown(o, _RENAME_INTERNAL, "renameCollection", old)
    source, target = selection.renamed(old), selection.renamed(new)
    if source == target:
        return None
    command = {
        "renameCollection": source,
        "to": target,
        # Logged as the identity of what is dropped in the source.
        "dropTarget": bool(o.get("dropTarget", False)),
    }
    return DDL(
        (source, target),
        "admin",
        command,
        done_codes_repeated=frozenset({_NAMESPACE_NOT_FOUND}),
    )


def _refuse_unknown(o: Mapping[str, Any], known: frozenset[str], verb: str, namespace: str) -> None:
    for option in o:
        if option not in known:
            raise UnsupportedDDL(
                f"{verb} of {namespace} has the option {option!r}, which is not known: use a "
                "release that knows it"
            )


def _coll_mod(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    target = _target(database, o["collMod"], selection)
    if target is None:
        return None
    namespace, to_database, name = target
    options = {key: value for key, value in o.items() if key not in _COLLMOD_INTERNAL}
    _view_options(options, database, to_database, selection)
    if "timeseries" in options:
        options["timeseries"] = _series_options(options["timeseries"])
    return DDL(
        (namespace,),
        to_database,
        {"collMod": name.removeprefix(_BUCKETS), **options},
        done_codes_repeated=frozenset({_NAMESPACE_NOT_FOUND}),
    )


def _create_indexes(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    specification = {key: value for key, value in o.items() if key != "createIndexes"}
    return _indexes(database, o["createIndexes"], [specification], selection)


def _commit_index_build(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    return _indexes(database, o["commitIndexBuild"], list(o["indexes"]), selection)


def _indexes(
    database: str, name: Any, specifications: list[Any], selection: Selection
) -> DDL | None:
    target = _target(database, name, selection)
    if target is None:
        return None
    namespace, to_database, to_name = target
    indexes = [
        {key: value for key, value in specification.items() if key != "ns"}
        for specification in specifications
    ]
    for index in indexes:
        if index.get("v", 2) >= 2:
            # Otherwise the collection's own collation would be taken.
            index.setdefault("collation", {"locale": "simple"})
    return DDL((namespace,), to_database, {"createIndexes": to_name, "indexes": indexes})


def _drop_indexes(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    verb = next(iter(o))
    target = _target(database, o[verb], selection)
    if target is None:
        return None
    namespace, to_database, name = target
    return DDL(
        (namespace,),
        to_database,
        {"dropIndexes": name, "index": o["index"]},
        frozenset({_NAMESPACE_NOT_FOUND, _INDEX_NOT_FOUND}),
    )


def _convert_to_capped(database: str, o: Mapping[str, Any], selection: Selection) -> DDL | None:
    target = _target(database, o["convertToCapped"], selection)
    if target is None:
        return None
    namespace, to_database, name = target
    return DDL((namespace,), to_database, {"convertToCapped": name, "size": o["size"]})


_TRANSLATIONS: Mapping[str, Callable[[str, Mapping[str, Any], Selection], DDL | None]] = {
    "create": _create,
    "drop": _drop,
    "dropDatabase": _drop_database,
    "renameCollection": _rename,
    "collMod": _coll_mod,
    "createIndexes": _create_indexes,
    "commitIndexBuild": _commit_index_build,
    "dropIndexes": _drop_indexes,
    "deleteIndexes": _drop_indexes,
    "dropIndex": _drop_indexes,
    "deleteIndex": _drop_indexes,
    "convertToCapped": _convert_to_capped,
}


def translate_view(
    op: str,
    ns: str,
    o: Mapping[str, Any],
    o2: Mapping[str, Any] | None,
    selection: Selection,
) -> DDL | None:
    """
    What a write to C{database.system.views} is for the destination.

    @param op: C{i}, C{u} or C{d}.
    @param o: the view's definition, or what changed of it.
    @param o2: which view an update changes.

    @return: C{None} where the view is not selected.
    @raise UnsupportedDDL: it is a time series, or the change is of a form
        that is not known.
    """
    identifier = str((o2 if op == "u" and o2 is not None else o).get("_id", ""))
    database, name = _split(identifier)
    target = _target(database, name, selection)
    if target is None:
        return None
    namespace, to_database, to_name = target
    if _mentions(o, _OF_SERIES) or str(o.get("viewOn", "")).startswith(_BUCKETS):
        # The server makes and changes this view with the buckets.
        return None
    if op == "d":
        return DDL((namespace,), to_database, {"drop": to_name}, frozenset({_NAMESPACE_NOT_FOUND}))
    definition = o if op == "i" else _changed(identifier, o)
    _refuse_unknown(definition, _VIEW_FIELDS, "the definition", identifier)
    options = {key: value for key, value in definition.items() if key != "_id"}
    _view_options(options, database, to_database, selection)
    if op == "i":
        return DDL(
            (namespace,),
            to_database,
            {"create": to_name, **options},
            done_codes=frozenset({_NAMESPACE_EXISTS}),
            verify_options=True,
        )
    options.pop("collation", None)
    if set(options) != {"viewOn", "pipeline"}:
        raise UnsupportedDDL(
            f"the change of the view {identifier} is logged in a form that is not known: drop and "
            "create the view in the source, or exclude it with -x"
        )
    return DDL((namespace,), to_database, {"collMod": to_name, **options})


def _changed(identifier: str, o: Mapping[str, Any]) -> Mapping[str, Any]:
    """A changed view's definition, where the entry has it whole."""
    if "_id" in o:
        return o
    found: Any = o.get("$set")
    if o.get("$v") == 2 and set(o.get("diff", {})) == {"u"}:
        found = o["diff"]["u"]
    return found or {}


_OF_SERIES = frozenset({"$_internalUnpackBucket", "bucketMaxSpanSeconds", "timeseries"})


def _mentions(value: Any, names: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return any(key in names or _mentions(each, names) for key, each in value.items())
    return isinstance(value, list) and any(_mentions(each, names) for each in value)
