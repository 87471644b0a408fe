"""
TxMongo's older calls, which newer ones have replaced.

They warn with L{DeprecationWarning} and say what to use.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bson.code import Code
from bson.objectid import ObjectId
from pymongo import CursorType, ReturnDocument
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txmongokit._sansio.commands.arguments import (
    Keys,
    Projection,
    check_mapping,
    is_operator_update,
    nearest,
)
from txmongokit._sansio.commands.read import Count, MapReduce
from txmongokit._sansio.commands.write import raise_write_errors
from txmongokit.cursor import CommandCursor, Cursor
from txmongokit.errors import BulkWriteError
from txmongokit.filter import QueryFilter
from txmongokit.indexes import IndexedScope
from txmongokit.sessions import ClientSession
from txmongokit.types import (
    DELETE_SINGLE_REMOVE,
    INSERT_CONTINUE_ON_ERROR,
    QUERY_AWAIT_DATA,
    QUERY_EXHAUST,
    QUERY_NO_CURSOR_TIMEOUT,
    QUERY_OPLOG_REPLAY,
    QUERY_PARTIAL,
    QUERY_SLAVE_OK,
    QUERY_TAILABLE_CURSOR,
    UPDATE_MULTI,
    UPDATE_UPSERT,
)

__all__ = [
    "LegacyScope",
    "Page",
    "Query",
    "deletion",
    "deprecated",
    "pages",
    "query",
    "query_of",
    "whole_reply",
]

Page = tuple[list[Any], "Deferred[Any] | None"]
"""Documents, and what fires with the next page; at the end C{([], None)}."""

_CONCERN = ("w", "wtimeout", "j", "fsync")


def deprecated(old: str, new: str, stacklevel: int = 3) -> None:
    """
    Warn that something is old, and say what to use.
    """
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=stacklevel)


# Queries.


@dataclass
class Query:
    """
    A find, however it was called.

    @ivar filter: the query document, or what stands for it.
    @ivar arguments: C{find}'s other arguments by their new names.
    @ivar inherited: what C{with_options} is to change first.
    @ivar paged: whether L{pages} are wanted.
    @ivar explained: whether its plan is.
    """

    filter: Any
    arguments: dict[str, Any]
    inherited: dict[str, Any] = field(default_factory=dict)
    paged: bool = False
    explained: bool = False


def query(filter: Any, arguments: dict[str, Any], warns: bool = True) -> Query:
    """
    Read the arguments of C{find} in any of these orders::

        find(filter, projection, skip, limit, no_cursor_timeout, cursor_type, sort)
        find(filter, projection, skip, limit, sort)
        find(spec, skip, limit, fields, filter, cursor)

    A whole number where a projection may be is the oldest's C{skip}; what a
    filter is, is seen from its type.

    @param arguments: those after the first as the first order names them,
        and all keywords; changed.
    @param warns: of older orders, at the caller's caller.

    @raise TypeError: one is given twice.
    """
    old = _old_places(arguments)
    given = [filter]
    for name in ("spec", "filter"):
        if name in arguments:
            value = arguments.pop(name)
            given.append(value)
            old |= name == "spec" or isinstance(value, QueryFilter)
    old |= isinstance(filter, QueryFilter)
    if isinstance(arguments.get("sort"), QueryFilter):
        given.append(arguments.pop("sort"))
    found = Query(None, arguments)
    parts = QueryFilter()
    for value in given:
        if isinstance(value, QueryFilter):
            parts += value
        elif value is not None:
            if found.filter is not None:
                raise TypeError("find takes one query document: there are two")
            found.filter = value
    for name, value in parts.options().items():
        _put(arguments, name, value)
    found.explained = bool(parts.parts.get("explain"))
    if "fields" in arguments:
        old = True
        fields = arguments.pop("fields")
        # No fields at all in a dict were all fields, in a list only _id.
        if fields is not None and fields != {}:
            _put(arguments, "projection", fields)
    if "cursor" in arguments:
        old = True
        found.paged = bool(arguments.pop("cursor"))
    if arguments.get("as_class") is not None:
        found.inherited["document_class"] = arguments["as_class"]
    arguments.pop("as_class", None)
    _read_flags(found, arguments.pop("flags", 0))
    if old and warns:
        deprecated(
            "find(spec, skip, limit, fields, filter, cursor)",
            "find(filter, projection, skip, limit, sort=..., hint=..., comment=...)",
            4,
        )
    return found


def _put(arguments: dict[str, Any], name: str, value: Any) -> None:
    if arguments.get(name) is not None:
        raise TypeError(f"{name} is given twice")
    arguments[name] = value


def _old_places(arguments: dict[str, Any]) -> bool:
    """Put what older orders have elsewhere in its place; whether there was."""
    old = False
    if type(arguments.get("projection")) is int:
        old = True
        skip, limit, fields = (arguments.pop(name, 0) for name in ("projection", "skip", "limit"))
        arguments["skip"] = skip
        if type(fields) is int:
            # It came by its name.
            if limit and fields:
                raise TypeError("limit is given twice")
            limit, fields = limit or fields, None
        arguments["limit"] = limit
        if fields is not None:
            _put(arguments, "fields", fields)
    fifth = arguments.get("no_cursor_timeout")
    if isinstance(fifth, QueryFilter):
        old = True
        del arguments["no_cursor_timeout"]
        _put(arguments, "filter", fifth)
    elif fifth is not None and not isinstance(fifth, bool):
        del arguments["no_cursor_timeout"]
        _put(arguments, "sort", fifth)
    if isinstance(arguments.get("cursor_type"), bool):
        old = True
        _put(arguments, "cursor", arguments.pop("cursor_type"))
    return old


_FLAGS = {
    QUERY_NO_CURSOR_TIMEOUT: "no_cursor_timeout",
    QUERY_OPLOG_REPLAY: "oplog_replay",
    QUERY_PARTIAL: "allow_partial_results",
}


def _read_flags(found: Query, flags: int) -> None:
    if not isinstance(flags, int):
        raise TypeError(f"flags must be a whole number, not {type(flags).__name__}")
    arguments = found.arguments
    for flag, name in _FLAGS.items():
        if flags & flag:
            arguments[name] = True
    if flags & QUERY_SLAVE_OK:
        found.inherited["read_preference"] = ReadPreference.PRIMARY_PREFERRED
    awaits = flags & (QUERY_TAILABLE_CURSOR | QUERY_AWAIT_DATA)
    if awaits == QUERY_AWAIT_DATA:
        raise ValueError("QUERY_AWAIT_DATA needs QUERY_TAILABLE_CURSOR")
    if awaits:
        arguments["cursor_type"] = (
            CursorType.TAILABLE if awaits == QUERY_TAILABLE_CURSOR else CursorType.TAILABLE_AWAIT
        )
    if flags & QUERY_EXHAUST:
        if awaits:
            raise ValueError("QUERY_EXHAUST does not go with QUERY_TAILABLE_CURSOR")
        arguments["cursor_type"] = CursorType.EXHAUST
    known = QUERY_SLAVE_OK | QUERY_TAILABLE_CURSOR | QUERY_AWAIT_DATA | QUERY_EXHAUST | sum(_FLAGS)
    _check_flags(flags, known)


def _check_flags(flags: int, known: int) -> None:
    if flags & ~known:
        raise ValueError(f"flags={flags} has bits that mean nothing here")


class _NextPage(Deferred[Page]):
    """
    A page that is fetched when somebody waits for it: without that, one page
    would fetch the next until all were in memory.
    """

    def __init__(self, cursor: Cursor[Any]) -> None:
        super().__init__(lambda _: self.stop())
        self._cursor = cursor
        self._fetching: Deferred[Any] | None = None

    def addCallbacks(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch it."""
        self.begin()
        return super().addCallbacks(*args, **kwargs)

    def addCallback(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch it."""
        self.begin()
        return super().addCallback(*args, **kwargs)

    def addErrback(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch it."""
        self.begin()
        return super().addErrback(*args, **kwargs)

    def addBoth(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch it."""
        self.begin()
        return super().addBoth(*args, **kwargs)

    def __iter__(self) -> Any:
        self.begin()
        return super().__iter__()

    __await__ = __iter__

    def __getattr__(self, name: str) -> Any:
        # A callback that returns this Deferred waits for it without a callback:
        # Twisted then asks for the result that there is not yet.
        if name == "result":
            self.begin()
            if "result" in self.__dict__:
                return self.__dict__["result"]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def begin(self) -> None:
        """Fetch it, once."""
        if self._fetching is None and not self.called:
            self._fetching = self._cursor.next_batch()
            self._fetching.addCallbacks(self._arrived, self.errback)

    def _arrived(self, documents: list[Any]) -> None:
        going_on = documents or self._cursor.alive
        self.callback((documents, _NextPage(self._cursor)) if going_on else ([], None))

    def stop(self) -> None:
        """Nobody wants it any more."""
        if self._fetching is None:
            self._cursor.close()
        else:
            self._fetching.cancel()


def pages(cursor: Cursor[Any]) -> Deferred[Page]:
    """
    The first page of a cursor's documents; those after it are fetched when
    they are waited for.
    """
    page = _NextPage(cursor)
    page.begin()
    return page


_DELETION = ("collation", "hint", "session", "let", "comment")


def deletion(places: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """
    A deletion's options, some of them in PyMongo's order or the one in
    TxMongo's: a document that has no C{locale} is no collation but C{let}.

    @raise TypeError: there are too many, or one is given twice.
    """
    if not places:
        return options
    names: tuple[str, ...] = _DELETION
    if len(places) == 1 and isinstance(places[0], Mapping) and "locale" not in places[0]:
        names = ("let",)
    if len(places) > len(names):
        raise TypeError(f"delete(filter, {', '.join(names)}) takes no more in order")
    for name, value in zip(names, places, strict=False):
        if value is not None:
            _put(options, name, value)
    return options


def query_of(filter: Any, options: dict[str, Any]) -> Mapping[str, Any] | None:
    """A query document by its name or TxMongo's first one, C{spec}."""
    if "spec" in options:
        if filter is not None:
            raise TypeError("spec is the older name of filter: give one of them")
        filter = options.pop("spec")
    if filter is not None:
        check_mapping("filter", filter)
    found: Mapping[str, Any] | None = filter
    return found


def whole_reply(cursor: CommandCursor[Any]) -> Deferred[dict[str, Any]]:
    """
    TxMongo's C{full_response}: the last reply, with all documents as its
    C{result}.
    """

    def completed(documents: list[Any]) -> dict[str, Any]:
        batch = cursor.last_batch
        return {**({} if batch is None else batch.reply), "result": documents}

    return cursor.to_list().addCallback(completed)


class LegacyScope(IndexedScope):
    """
    The part of L{txmongokit.collection.Collection} that is there for the
    sake of older applications.

    Where a write takes C{safe}, C{False} means that it is not acknowledged
    (C{w=0}); C{w}, C{wtimeout}, C{j} and C{fsync} are more exact.
    """

    @property
    def _whole(self) -> Any:
        """The collection, whose newer methods do the work."""
        return self

    def _concerned(self, method: str, safe: bool | None, options: dict[str, Any]) -> Any:
        """The collection with the write concern that was asked for; nothing else may be left."""
        concern = {name: options.pop(name) for name in _CONCERN if options.get(name) is not None}
        for name in options:
            if name not in _CONCERN:
                raise TypeError(f"{method} has no option {name!r}{nearest(name, _CONCERN)}")
        if concern:
            return self._whole.with_options(write_concern=WriteConcern(**concern))
        if safe is not None and bool(safe) != self.write_concern.acknowledged:
            return self._whole.with_options(write_concern=WriteConcern(w=1 if safe else 0))
        return self._whole

    # Writing.

    def insert(
        self, docs: Any, safe: bool | None = None, flags: int = 0, **options: Any
    ) -> Deferred[Any]:
        """
        Insert a document or several.  Deprecated: use C{insert_one} or
        C{insert_many}.

        @param flags: C{INSERT_CONTINUE_ON_ERROR} of L{txmongokit.types}.
        @return: fires with the C{_id}, or the list of them; fails with
            L{txmongokit.errors.WriteError}.
        """
        deprecated("insert", "insert_one or insert_many")
        _check_flags(flags, INSERT_CONTINUE_ON_ERROR)
        things = self._concerned("insert", safe, options)
        if isinstance(docs, Mapping):
            inserted: Deferred[Any] = things.insert_one(docs)
            return inserted.addCallback(lambda result: result.inserted_id)
        inserted = things.insert_many(docs, ordered=not flags & INSERT_CONTINUE_ON_ERROR)
        return inserted.addCallbacks(lambda result: result.inserted_ids, _first_error)

    def update(
        self,
        spec: Mapping[str, Any],
        document: Any,
        upsert: bool = False,
        multi: bool = False,
        safe: bool | None = None,
        flags: int = 0,
        **options: Any,
    ) -> Deferred[dict[str, Any] | None]:
        """
        Change or replace documents.  Deprecated: use C{update_one},
        C{update_many} or C{replace_one}.

        @param flags: C{UPDATE_UPSERT} and C{UPDATE_MULTI} of
            L{txmongokit.types}.
        @return: fires with a dict of C{n}, C{nModified}, C{updatedExisting}
            and, if so, C{upserted}; with C{None} where it is not
            acknowledged.
        """
        deprecated("update", "update_one, update_many or replace_one")
        return self._old_update(spec, document, upsert, multi, safe, flags, options)

    def _old_update(
        self,
        spec: Mapping[str, Any],
        document: Any,
        upsert: bool,
        multi: bool,
        safe: bool | None,
        flags: int,
        options: dict[str, Any],
    ) -> Deferred[dict[str, Any] | None]:
        _check_flags(flags, UPDATE_UPSERT | UPDATE_MULTI)
        upsert = bool(upsert or flags & UPDATE_UPSERT)
        multi = bool(multi or flags & UPDATE_MULTI)
        things = self._concerned("update", safe, options)
        if document != {} and is_operator_update(document):
            change = things.update_many if multi else things.update_one
        elif multi:
            raise ValueError("multi needs operators such as $set: a whole document replaces one")
        else:
            change = things.replace_one
        changed: Deferred[Any] = change(spec, document, upsert=upsert)
        return changed.addCallback(_update_outcome)

    def save(self, doc: Any, safe: bool | None = None, **options: Any) -> Deferred[Any]:
        """
        Insert a document, or replace the one of its C{_id}.  Deprecated: use
        C{insert_one} or C{replace_one} with C{upsert=True}.

        @return: fires with what L{insert} or L{update} gives.
        """
        deprecated("save", "insert_one, or replace_one with upsert=True")
        check_mapping("doc", doc)
        if doc.get("_id") is not None:
            spec = {"_id": {"$eq": doc["_id"]}}
            return self._old_update(spec, dict(doc), True, False, safe, 0, options)
        inserted: Deferred[Any] = self._concerned("save", safe, options).insert_one(doc)
        return inserted.addCallback(lambda result: result.inserted_id)

    def remove(
        self,
        spec: Any,
        safe: bool | None = None,
        single: bool = False,
        flags: int = 0,
        **options: Any,
    ) -> Deferred[dict[str, Any] | None]:
        """
        Delete documents.  Deprecated: use C{delete_many} or C{delete_one}.

        @param spec: a document, or an C{ObjectId}.
        @param flags: C{DELETE_SINGLE_REMOVE} of L{txmongokit.types}.
        @return: fires with a dict of C{n}; with C{None} where it is not
            acknowledged.
        """
        deprecated("remove", "delete_many or delete_one")
        _check_flags(flags, DELETE_SINGLE_REMOVE)
        if isinstance(spec, ObjectId):
            spec = {"_id": spec}
        things = self._concerned("remove", safe, options)
        single = bool(single or flags & DELETE_SINGLE_REMOVE)
        deleted: Deferred[Any] = (things.delete_one if single else things.delete_many)(spec)
        return deleted.addCallback(
            lambda result: (
                {"n": result.deleted_count, "ok": 1.0, "err": None} if result.acknowledged else None
            )
        )

    def find_and_modify(
        self,
        query: Mapping[str, Any] | None = None,
        update: Any = None,
        upsert: bool = False,
        **options: Any,
    ) -> Deferred[Any]:
        """
        Change one document and get it.  Deprecated: use
        C{find_one_and_update}, C{find_one_and_replace} or
        C{find_one_and_delete}.

        @param options: C{remove}, C{new}, C{sort}, C{fields}, and those of
            the newer methods.
        @return: fires with the document, as it was unless C{new}.

        @raise ValueError: there is neither C{update} nor C{remove}, or both.
        """
        deprecated(
            "find_and_modify", "find_one_and_update, find_one_and_replace or find_one_and_delete"
        )
        things = self._whole
        remove, new = options.pop("remove", False), options.pop("new", False)
        if "fields" in options:
            _put(options, "projection", options.pop("fields"))
        query = {} if query is None else query
        found: Deferred[Any]
        if bool(remove) == (update is not None):
            raise ValueError("find_and_modify takes either update or remove")
        if remove:
            if upsert or new:
                raise ValueError("remove goes with neither upsert nor new")
            found = things.find_one_and_delete(query, **options)
            return found
        operators = update != {} and is_operator_update(update)
        change = things.find_one_and_update if operators else things.find_one_and_replace
        when = ReturnDocument.AFTER if new else ReturnDocument.BEFORE
        found = change(query, update, upsert=bool(upsert), return_document=when, **options)
        return found

    # Reading.

    def find_with_cursor(
        self,
        spec: Any = None,
        /,
        projection: Any = None,
        skip: int = 0,
        limit: Any = 0,
        sort: Any = None,
        batch_size: Any = None,
        **options: Any,
    ) -> Deferred[Page]:
        """
        A page of the documents that match, by the arguments of C{find} in
        TxMongo's older order or its newer one.  Deprecated: use C{find} and
        its cursor's C{batches()}.

        @return: fires with the documents and a L{Deferred} that fires with
            the next such pair, at the end with C{([], None)}.  The next page
            is fetched when it is waited for; cancelling that closes the
            cursor.
        """
        deprecated("find_with_cursor", "find(...).batches()")
        arguments = {"projection": projection, "skip": skip, "limit": limit, **options}
        arguments["no_cursor_timeout"] = sort
        if "no_cursor_timeout" in options:
            arguments["no_cursor_timeout"] = options["no_cursor_timeout"]
            arguments["sort"] = sort
        if batch_size:
            arguments["batch_size"] = batch_size
        wanted = query(spec, arguments, warns=False)
        wanted.paged = True
        paged: Deferred[Page] = self._whole._found(wanted)
        return paged

    def filemd5(self, spec: Any, **options: Any) -> Deferred[str]:
        """
        The MD5 sum that the server works out for a GridFS file: this is the
        collection whose C{.chunks} has it.

        @param spec: the file's C{_id}.
        """
        told: Deferred[Any] = self._whole.database.command(
            "filemd5", spec, root=self._name, **options
        )
        return told.addCallback(lambda reply: reply["md5"])

    def group(
        self,
        keys: Any,
        initial: Mapping[str, Any],
        reduce: Any,
        condition: Mapping[str, Any] | None = None,
        finalize: Any = None,
    ) -> Deferred[dict[str, Any]]:
        """
        Reduce the documents of each group by JavaScript.  Deprecated: use
        C{aggregate}.  Servers know the command no more: this is an
        aggregation with C{$accumulator}, which needs MongoDB 4.4, and as
        before does not run on sharded collections.

        @param keys: names of fields, or a JavaScript function that gives the
            key of a document.
        @param initial: what each group's result begins with, besides its key.
        @param reduce: a function of a document and its group's result, which
            it changes.
        @param finalize: a function of each result, which changes it or
            returns another.
        @return: fires with a dict: the results are C{retval}, C{keys} and
            C{count} say how many groups and documents there were.
        """
        deprecated("group", "aggregate")
        pipeline = _group_pipeline(keys, initial, reduce, condition, finalize)
        grouped: Deferred[list[Any]] = self._whole.aggregate(pipeline).to_list()
        return grouped.addCallback(
            lambda groups: {
                "retval": [group["result"] for group in groups],
                "count": sum(group["count"] for group in groups),
                "keys": len(groups),
                "ok": 1.0,
            }
        )

    def count(
        self,
        filter: Mapping[str, Any] | None = None,
        fields: Projection | None = None,
        *,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[int]:
        """
        How many documents match, by the C{count} command: inexact on shards.
        Deprecated: C{count_documents} and C{estimated_document_count} do
        better.

        @param fields: is sent, and means nothing to servers.
        @param options: C{skip}, C{limit}, C{hint}, C{collation},
            C{comment}, C{max_time_ms}, C{raw_data}; C{spec}, TxMongo's name
            of C{filter}.
        """
        deprecated("count", "count_documents or estimated_document_count")
        filter = query_of(filter, options)
        if fields is not None:
            options["fields"] = fields
        limits = self._limits(options)
        return self._run(Count(self._database_name, self._name, limits, filter, **options), session)

    def map_reduce(
        self,
        map: Any,
        reduce: Any,
        *places: Any,
        out: str | Mapping[str, Any] | None = None,
        full_response: bool = False,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[Any]:
        """
        Run JavaScript over the documents.  Deprecated: use C{aggregate}.

        @param map: JavaScript, as text or C{bson.Code}.
        @param reduce: JavaScript, too.
        @param places: C{out}, C{full_response}, or C{full_response} alone.
        @param out: the collection for the results, or the server's own
            document about it; without one they come back.
        @param full_response: whether the result is the server's reply.
        @param options: C{query}, C{sort}, C{limit}, C{finalize}, C{scope},
            C{js_mode}, C{verbose}, C{bypass_document_validation},
            C{collation}, C{comment}, C{max_time_ms}.
        @return: fires with the results, or with the collection that has them.
        """
        deprecated("map_reduce", "aggregate")
        limits = self._limits(options)
        for place in places:
            if isinstance(place, bool) and not full_response:
                full_response = place
            elif place is not None and out is None:
                out = place
            elif place is not None:
                raise TypeError("map_reduce(map, reduce, out, full_response) takes no more")
        target = {"inline": 1} if out is None else out
        command = MapReduce(self._database_name, self._name, limits, map, reduce, target, **options)
        reduced = self._run(command, session)
        if full_response:
            return reduced

        def results(reply: dict[str, Any]) -> Any:
            if "results" in reply:
                return reply["results"]
            found = reply.get("result")
            if isinstance(found, Mapping):
                return self._whole.database.client[found["db"]][found["collection"]]
            return None if found is None else self._whole.database[found]

        return reduced.addCallback(results)

    def inline_map_reduce(self, map: Any, reduce: Any, **options: Any) -> Deferred[Any]:
        """
        L{map_reduce} whose results come back.  Deprecated, too.
        """
        return self.map_reduce(map, reduce, **options)

    # Indexes.

    def ensure_index(self, sort_fields: Keys, **options: Any) -> Deferred[str]:
        """
        Create an index.  Deprecated: use C{create_index}, which does nothing
        where the index is there.
        """
        deprecated("ensure_index", "create_index")
        return self.create_index(sort_fields, **options)


def _first_error(failure: Failure) -> Failure:
    """What ended an insert of several, as the older calls raised it."""
    error = failure.value
    if isinstance(error, BulkWriteError):
        errors = error.details["writeErrors"][-1:]
        concerns = error.details["writeConcernErrors"]
        raise_write_errors(
            {
                "writeErrors": errors,
                "n": error.details["nInserted"],
                **({"writeConcernError": concerns[0]} if concerns else {}),
            }
        )
    return failure


def _update_outcome(result: Any) -> dict[str, Any] | None:
    if not result.acknowledged:
        return None
    upserted = result.upserted_id is not None
    outcome = {
        "n": result.matched_count + upserted,
        "nModified": result.modified_count,
        "updatedExisting": result.matched_count > 0,
        "ok": 1.0,
        "err": None,
    }
    if upserted:
        outcome["upserted"] = result.upserted_id
    return outcome


_GROUP_INIT = """function(key, initial) {
    var result = {};
    for (var name in key) { result[name] = key[name]; }
    for (var name in initial) { result[name] = initial[name]; }
    return result;
}"""
_GROUP_MERGE = """function(one, other) {
    throw new Error("group runs neither on shards nor on more than fits into memory");
}"""


def _group_pipeline(
    keys: Any,
    initial: Mapping[str, Any],
    reduce: Any,
    condition: Mapping[str, Any] | None,
    finalize: Any,
) -> list[dict[str, Any]]:
    check_mapping("initial", initial)
    if isinstance(keys, str):
        key: Any = {"$function": {"body": _script(keys), "args": ["$$ROOT"], "lang": "js"}}
    else:
        key = {name: {"$ifNull": [f"${name}", None]} for name in _group_names(keys)}
    accumulator = {
        "init": _GROUP_INIT,
        # The whole document there is the group's key.
        "initArgs": ["$$ROOT", {"$literal": dict(initial)}],
        "accumulate": (
            f"function(result, doc) {{ ({_script(reduce)})(doc, result); return result; }}"
        ),
        "accumulateArgs": ["$$ROOT"],
        "merge": _GROUP_MERGE,
        "lang": "js",
    }
    pipeline: list[dict[str, Any]] = []
    if condition:
        pipeline.append({"$match": condition})
    group = {"_id": key, "result": {"$accumulator": accumulator}, "count": {"$sum": 1}}
    pipeline.append({"$group": group})
    if finalize is not None:
        body = (
            f"function(result) {{ var other = ({_script(finalize)})(result); "
            "return other === undefined ? result : other; }"
        )
        function = {"body": body, "args": ["$result"], "lang": "js"}
        pipeline.append({"$set": {"result": {"$function": function}}})
    return pipeline


def _script(code: Any) -> str:
    if isinstance(code, Code) and code.scope:
        raise ValueError("a group's functions cannot have a scope: put its values into the text")
    if not isinstance(code, str):
        raise TypeError(f"JavaScript is text or bson.Code, not {type(code).__name__}")
    return str(code)


def _group_names(keys: Any) -> Iterable[str]:
    names = [] if keys is None else list(keys)
    for name in names:
        if not isinstance(name, str) or "." in name or name.startswith("$"):
            raise ValueError(
                "group's keys are names of fields at the top: for others use a function, "
                "or aggregate"
            )
    return names
