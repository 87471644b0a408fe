"""
Collections: reading and writing documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar, overload

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import CursorType, ReturnDocument
from pymongo.read_concern import ReadConcern
from pymongo.results import (
    BulkWriteResult,
    DeleteResult,
    InsertManyResult,
    InsertOneResult,
    UpdateResult,
)
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from txmongokit import orders
from txmongokit._sansio.commands.admin import Drop, ListCollections, RenameCollection
from txmongokit._sansio.commands.arguments import (
    Keys,
    Projection,
    check_collection_name,
    check_mapping,
    nearest,
)
from txmongokit._sansio.commands.base import Command, CommandOptions, CursorBatch
from txmongokit._sansio.commands.bulk import (
    BulkWrite,
    check_replacement,
    check_update,
    demands_of,
    ensure_id,
)
from txmongokit._sansio.commands.read import (
    CountDocuments,
    Distinct,
    EstimatedCount,
    FindOne,
)
from txmongokit._sansio.commands.write import (
    DeleteStatement,
    FindAndModify,
    InsertStatement,
    UpdateStatement,
    delete_statement,
    is_small_change,
    raw_write_command,
    update_statement,
)
from txmongokit._sansio.transactions import bound_session
from txmongokit.aggregation import aggregation
from txmongokit.bulkwrite import WriteModel, run_bulk
from txmongokit.changestream import WATCHED, ChangeStream
from txmongokit.cursor import CommandCursor, Cursor, TimeoutMode
from txmongokit.filter import QueryFilter
from txmongokit.interfaces import IOperationRunner
from txmongokit.legacy import LegacyScope, Query, deletion, pages, query, query_of, whole_reply
from txmongokit.scope import (
    INHERITED,
    by_kind,
    changed,
    in_order,
    options_of,
    put_in_order,
    written_in,
)
from txmongokit.sessions import ClientSession, session_state

__all__ = ["Collection", "RawWriteCommand"]

DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])
OtherT = TypeVar("OtherT", bound=Mapping[str, Any])

RawWriteCommand: TypeAlias = Command[dict[str, Any]]
"""What L{Collection.raw_write_command} makes."""


class Collection(LegacyScope, Generic[DocumentT]):
    """
    One collection.

    Sub-collections are attributes or items: C{coll.sub}, C{coll["sub"]};
    names that begin with an underscore only items.

    Every operation returns a L{Deferred} and starts at once, except those
    that return a cursor.  Each takes C{session}, a
    L{txmongokit.sessions.ClientSession}; C{timeout}, in seconds, for all of
    it, 0 for without limit; and C{deadline}, a time as L{time.time} tells it
    by which all of it must have ended.  Cancelling stops the wait, not what
    the server does.  Wrong arguments raise L{TypeError} or L{ValueError} at
    once; what goes wrong later is one of L{txmongokit.errors}.  Other keyword
    arguments are the command's options by PyMongo's names or the server's; an
    unknown one is a L{TypeError}.  C{raw_data}, for time series, is sent to
    servers that know it, from 8.2 on.

    @param database: the L{txmongokit.database.Database} that it is in.
    @param places: C{codec_options}, C{read_preference}, C{write_concern} and
        C{read_concern} in any order, that is in TxMongo's or PyMongo's.
    @param options: the same by their names, and C{timeout}, where they are not
        to be inherited.
    """

    def __init__(self, database: Any, name: str, *places: Any, **options: Any) -> None:
        if places and isinstance(places[0], bool):
            options["create"], *rest = places
            places = tuple(rest)
        if options.pop("create", False) or options.get("session") is not None:
            raise ValueError("a collection is created by Database.create_collection()")
        options.pop("session", None)
        check_collection_name(name)
        limits = changed(options_of(database), {**by_kind(*places), **options})
        super().__init__(database.client, limits, database.name, name)
        self._database = database

    @classmethod
    def within(
        cls, runner: IOperationRunner, database: Any, name: str, options: CommandOptions
    ) -> Collection[DocumentT]:
        """
        A collection whose commands something else than the database runs.

        @param options: what it inherits.
        """
        check_collection_name(name)
        made = cls.__new__(cls)
        super(Collection, made).__init__(runner, options, database.name, name)
        made._database = database
        return made

    # What it is.

    def __repr__(self) -> str:
        return f"<Collection {self.full_name}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Collection):
            return self._database == other._database and self._name == other._name
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._database, self._name))

    def __bool__(self) -> NoReturn:
        raise TypeError("a collection is neither true nor false: compare it with None")

    def __getitem__(self, name: str) -> Collection[DocumentT]:
        return self.within(self._runner, self._database, f"{self._name}.{name}", self._options)

    def __getattr__(self, name: str) -> Collection[DocumentT]:
        if name.startswith("_"):
            raise AttributeError(
                f"Collection has no attribute {name!r}; for a collection of that name "
                f"write collection[{name!r}]"
            )
        return self[name]

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """
        A collection that is called is a method's name mistyped.

        @raise TypeError: always; it names the nearest method.
        """
        name = self._name.rpartition(".")[2]
        methods = [item for item in dir(type(self)) if not item.startswith("_")]
        raise TypeError(
            f"there is no method {name!r}, and a collection cannot be called"
            f"{nearest(name, methods)}"
        )

    @property
    def name(self) -> str:
        """
        Its name within the database.
        """
        return self._name

    @property
    def full_name(self) -> str:
        """
        C{database.collection}.
        """
        return f"{self._database_name}.{self._name}"

    @property
    def database(self) -> Any:
        """
        The L{txmongokit.database.Database} that it is in.
        """
        return self._database

    @property
    def connection(self) -> Any:
        """
        The client: TxMongo's name for it.
        """
        return self._database.client

    @overload
    def with_options(
        self,
        codec_options: None = None,
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Collection[DocumentT]: ...

    @overload
    def with_options(
        self,
        codec_options: CodecOptions[OtherT],
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Collection[OtherT]: ...

    def with_options(
        self,
        codec_options: CodecOptions[Any] | None = None,
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Collection[Any]:
        """
        The same collection with other options.

        @param timeout: in seconds, of each operation; 0 for without limit.
        """
        given = (codec_options, read_preference, write_concern, read_concern, timeout)
        options = changed(self._options, dict(zip(INHERITED, given, strict=True)))
        return self.within(self._runner, self._database, self._name, options)

    # Reading.

    def find_one(
        self,
        filter: Any = None,
        /,
        projection: Projection | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        The first document that matches.

        @param filter: a document; anything else is an C{_id}.
        @param places: TxMongo's C{skip} and C{sort}.
        @param options: C{sort}, C{skip}, C{hint}, C{collation}, C{comment},
            C{let}, C{min}, C{max}, C{max_scan} (up to MongoDB 4.0),
            C{max_time_ms}, C{snapshot} (a hint to C{_id}'s index),
            C{allow_disk_use}, C{allow_partial_results}, C{return_key},
            C{show_record_id}, C{raw_data}; C{filter}, C{spec}, C{fields} as in L{find}.
        @return: fires with the document, or C{None}.
        """
        if projection is not None:
            options["projection"] = projection
        if places or options or isinstance(filter, QueryFilter):
            # TxMongo's third is the sort, PyMongo's a limit.
            names: tuple[str, ...] = ("skip", "sort")
            if type(places[1] if len(places) > 1 else None) is int:
                names = orders.FIND_ONE
            session = in_order(names, places, options, session)
            if len(names) > 2:
                options.pop("no_cursor_timeout", None)
            # PyMongo takes these, and they mean nothing for one document.
            _take(options, "limit", "batch_size", "cursor_type")
            wanted = query(filter, options)
            if wanted.inherited or wanted.explained:
                return self._special(wanted, session)
            filter = wanted.filter
        if filter is not None and not isinstance(filter, Mapping):
            filter = {"_id": filter}
        limits = self._limits(options) if options else self._options
        result: Deferred[DocumentT | None] = self._runner.run(
            FindOne(self._database_name, self._name, limits, filter, options),
            None if session is None else session_state(session),
        )
        return result

    def _special(self, wanted: Query, session: ClientSession | None) -> Deferred[DocumentT | None]:
        """One document by what only L{find} reads."""
        if wanted.filter is not None and not isinstance(wanted.filter, Mapping):
            wanted.filter = {"_id": wanted.filter}
        wanted.arguments.update(limit=-1, session=session)
        found = self._found(wanted)
        documents = found if isinstance(found, Deferred) else found.deferred()
        return documents.addCallback(lambda documents: documents[0] if documents else None)

    def find(
        self,
        filter: Mapping[str, Any] | QueryFilter | None = None,
        /,
        projection: Projection | int | None = None,
        skip: int = 0,
        limit: Any = 0,
        no_cursor_timeout: Any = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        sort: Keys | None = None,
        *places: Any,
        batch_size: int | None = None,
        max_await_time_ms: int | None = None,
        timeout_mode: TimeoutMode | str | None = None,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Cursor[DocumentT]:
        """
        The documents that match.

        TxMongo's orders are understood, too: C{find(filter, projection,
        skip, limit, sort)}, and, with a warning, C{find(spec, skip, limit,
        fields, filter, cursor)}, where C{filter} is one of
        L{txmongokit.filter} and C{cursor} asks for L{find_with_cursor}'s
        pages.  A filter with C{explain()} makes it a L{Deferred} of a list
        of the plan.

        @param limit: the most documents; 0 for all, negative for one batch.
        @param max_await_time_ms: on a tailable-await cursor, how long the
            server waits for new documents.
        @param timeout_mode: see L{txmongokit.cursor.TimeoutMode}: whether
            C{timeout} is for the cursor's lifetime or, as on a tailable
            cursor, for each iteration.
        @param options: as in L{find_one}, and C{oplog_replay}, which servers
            from 4.4 on do without; TxMongo's C{flags}, of
            L{txmongokit.types}, and C{as_class}.
        @return: a cursor, which starts on its first use.
        """
        arguments = {
            "projection": projection,
            "skip": skip,
            "limit": limit,
            "no_cursor_timeout": no_cursor_timeout,
            "cursor_type": cursor_type,
            "sort": sort,
            "batch_size": batch_size,
            "max_await_time_ms": max_await_time_ms,
            "timeout_mode": timeout_mode,
            "session": session,
            **options,
        }
        if places:
            put_in_order(orders.FIND, places, arguments)
        found: Cursor[DocumentT] = self._found(query(filter, arguments))
        return found

    def _found(self, wanted: Query) -> Any:
        arguments = wanted.arguments
        if wanted.inherited:
            changes = dict(wanted.inherited)
            document_class = changes.pop("document_class", None)
            if document_class is not None:
                changes["codec_options"] = self.codec_options.with_options(
                    document_class=document_class
                )
            wanted.inherited = {}
            return self.with_options(**changes)._found(wanted)
        arguments["skip"] = arguments.get("skip") or None
        of_cursor = {name: arguments.pop(name) for name in _OF_CURSOR if name in arguments}
        session = arguments.pop("session", None)
        cursor: Cursor[Any] = self._find(wanted.filter, arguments, session, **of_cursor)
        cursor.made_by(self)
        if wanted.explained:
            return cursor.explain().addCallback(lambda plan: [plan])
        return pages(cursor) if wanted.paged else cursor

    def find_raw_batches(
        self,
        filter: Mapping[str, Any] | None = None,
        projection: Projection | None = None,
        *places: Any,
        session: ClientSession | None = None,
        limit: int = 0,
        batch_size: int | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        max_await_time_ms: int | None = None,
        timeout_mode: TimeoutMode | str | None = None,
        **options: Any,
    ) -> Cursor[bytes]:
        """
        As L{find}, with each document as BSON: batches are lists of bytes.
        """
        of_cursor: dict[str, Any] = {
            "limit": limit,
            "batch_size": batch_size,
            "cursor_type": cursor_type,
            "max_await_time_ms": max_await_time_ms,
            "timeout_mode": timeout_mode,
        }
        if places:
            session = in_order(orders.FIND_ONE, places, options, session)
            given = _take(options, *of_cursor)
            of_cursor.update({name: value for name, value in given.items() if value})
        arguments = {"projection": projection, **options}
        return self._find(filter, arguments, session, raw=True, **of_cursor)

    def _find(
        self,
        filter: Mapping[str, Any] | None,
        arguments: dict[str, Any],
        session: ClientSession | None,
        **options: Any,
    ) -> Cursor[Any]:
        if filter is not None:
            check_mapping("filter", filter)
        limits = self._limits(arguments)
        return Cursor(
            self._runner,
            self._database_name,
            self._name,
            limits,
            filter,
            arguments,
            session,
            **options,
        )

    @overload
    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        session: ClientSession | Literal[False] | None = None,
        let: Mapping[str, Any] | int | None = None,
        comment: Any = None,
        *,
        full_response: Literal[False] = False,
        initial_batch_size: int | None = None,
        **options: Any,
    ) -> CommandCursor[DocumentT]: ...

    @overload
    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        session: ClientSession | None = None,
        let: Mapping[str, Any] | int | None = None,
        comment: Any = None,
        *,
        full_response: Literal[True],
        initial_batch_size: int | None = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]: ...

    @overload
    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        session: Literal[True],
        let: int | None = None,
        *,
        initial_batch_size: int | None = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]: ...

    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        session: Any = None,
        let: Any = None,
        comment: Any = None,
        *,
        full_response: bool = False,
        initial_batch_size: int | None = None,
        **options: Any,
    ) -> CommandCursor[DocumentT] | Deferred[dict[str, Any]]:
        """
        Run a pipeline.  One that ends in C{$out} or C{$merge} runs when the
        cursor is used, too: await it.

        @param options: C{allow_disk_use}, C{batch_size},
            C{bypass_document_validation}, C{collation}, C{comment},
            C{hint}, C{let}, C{max_time_ms}, C{raw_data}; C{timeout_mode}
            (L{txmongokit.cursor.TimeoutMode}), and C{max_await_time_ms} where
            the pipeline's first stage makes a tailable-await cursor.
        @param full_response: TxMongo's, and after the pipeline its first
            place: whether the last reply is wanted, with all documents as its
            C{result}.
        @param initial_batch_size: TxMongo's, and its second place, for
            C{batch_size}.
        @return: a L{CommandCursor}, which starts on its first use; a
            L{Deferred} of the reply where C{full_response} asks for it.
        """
        if isinstance(session, bool):
            full_response, session = session, None
        if type(let) is int:
            initial_batch_size, let = let, None
        if initial_batch_size is not None:
            options.setdefault("batch_size", initial_batch_size)
        if let is not None:
            options["let"] = let
        if comment is not None:
            options["comment"] = comment
        cursor = self._aggregate(pipeline, session, options)
        return whole_reply(cursor) if full_response else cursor

    def aggregate_raw_batches(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> CommandCursor[bytes]:
        """
        As L{aggregate}, with each document as BSON: batches are lists of
        bytes.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        return self._aggregate(pipeline, session, {**options, "raw": True})

    def _aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        session: ClientSession | None,
        options: dict[str, Any],
    ) -> CommandCursor[Any]:
        return aggregation(
            self._runner,
            self._database_name,
            self._name,
            self._limits(options),
            pipeline,
            session,
            options,
        )

    def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]] | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> ChangeStream[DocumentT]:
        """
        The changes to the collection, from now on or from where C{options}
        say: those of L{ChangeStream}, by PyMongo's names.
        """
        if places:
            session = in_order(WATCHED, places, options, session)
        place = self._database_name, self._name, self._limits(options)
        return ChangeStream(self._runner, *place, pipeline, session, **options)

    def count_documents(
        self,
        filter: Mapping[str, Any],
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[int]:
        """
        How many documents match, exactly.

        @param options: C{skip}, C{limit}, C{hint}, C{collation},
            C{comment}, C{let}, C{max_time_ms}, C{raw_data}.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        check_mapping("filter", filter)
        limits = self._limits(options)
        return self._run(
            CountDocuments(self._database_name, self._name, limits, filter, **options), session
        )

    def estimated_document_count(
        self, *places: Any, session: ClientSession | None = None, **options: Any
    ) -> Deferred[int]:
        """
        How many documents there are by the collection's metadata: fast, and
        inexact after an unclean shutdown or on shards.

        @param options: C{comment}, C{max_time_ms}, C{raw_data}.
        """
        if places:
            session = in_order(("comment",), places, options, session)
        limits = self._limits(options)
        return self._run(
            EstimatedCount(self._database_name, self._name, limits, **options), session
        )

    def distinct(
        self,
        key: str,
        filter: Mapping[str, Any] | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[list[Any]]:
        """
        The different values of a field.

        @param options: C{collation}, C{comment}, C{hint}, C{max_time_ms},
            C{raw_data}; C{spec}, TxMongo's name of C{filter}.
        """
        if places:
            session = in_order(("session", "comment", "hint"), places, options, session)
        if not isinstance(key, str):
            raise TypeError(f"key must be a field's name, not {type(key).__name__}")
        filter = query_of(filter, options)
        limits = self._limits(options)
        return self._run(
            Distinct(self._database_name, self._name, limits, key, filter, **options), session
        )

    # Writing.

    def insert_one(
        self,
        document: DocumentT | RawBSONDocument,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[InsertOneResult]:
        """
        Insert a document.  One without an C{_id} is given one.

        @param options: C{bypass_document_validation}, C{comment},
            C{raw_data}.
        @return: fires with the result; fails with
            L{txmongokit.errors.DuplicateKeyError} where a unique index
            forbids it.
        """
        if places:
            session = in_order(orders.INSERT, places, options, session)
        identifier = ensure_id(document)
        limits = self._limits(options) if options else self._options
        command = InsertStatement(
            self._database_name,
            self._name,
            bson.encode(document, False, limits.codec_options),
            limits,
            inserted_id=identifier,
            **options,
        )
        return self._run(command, session)

    def insert_many(
        self,
        documents: Iterable[DocumentT | RawBSONDocument],
        ordered: bool = True,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[InsertManyResult]:
        """
        Insert documents, in as few messages as the server's limits allow.

        @param ordered: stop at the first that fails.
        @param options: C{bypass_document_validation}, C{comment},
            C{raw_data}.
        @return: fires with the result; fails with
            L{txmongokit.errors.BulkWriteError}, which tells what was done.
        """
        if places:
            session = in_order(orders.INSERT, places, options, session)
        if isinstance(documents, Mapping) or not isinstance(documents, Iterable):
            raise TypeError(f"documents must be a list of them, not {type(documents).__name__}")
        bulk = self._bulk(ordered, session, options)
        identifiers = [bulk.add_insert(document) for document in documents]
        if not identifiers:
            raise TypeError("documents must not be empty")
        inserted = run_bulk(self._runner, bulk, session_state(session))
        return inserted.addCallback(
            lambda result: InsertManyResult(identifiers, result.acknowledged)
        )

    def bulk_write(
        self,
        requests: Sequence[WriteModel[DocumentT]],
        ordered: bool = True,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[BulkWriteResult]:
        """
        Run many writes: PyMongo's C{InsertOne}, C{UpdateOne},
        C{UpdateMany}, C{ReplaceOne}, C{DeleteOne}, C{DeleteMany}.

        @param ordered: run them in their order and stop at the first that
            fails; otherwise all are tried, grouped by kind.
        @param options: C{bypass_document_validation}, C{comment}, C{let},
            C{raw_data}.
        @return: fires with the result; fails with
            L{txmongokit.errors.BulkWriteError}, which tells what was done.
        """
        if places:
            session = in_order(
                ("bypass_document_validation", "session", "comment", "let"),
                places,
                options,
                session,
            )
        if isinstance(requests, (str, Mapping)) or not isinstance(requests, Iterable):
            raise TypeError(f"requests must be a list of operations, not {type(requests).__name__}")
        bulk = self._bulk(ordered, session, options)
        for request in requests:
            bulk.add(request)
        bulk.check()
        return run_bulk(self._runner, bulk, session_state(session))

    def _bulk(
        self, ordered: bool, session: ClientSession | None, options: dict[str, Any]
    ) -> BulkWrite:
        state = bound_session(self._runner) if session is None else session_state(session)
        limits = self._limits(options)
        if state is not None:
            limits = written_in(state, limits)
        return BulkWrite(self._database_name, self._name, limits, ordered=ordered, **options)

    def replace_one(
        self,
        filter: Mapping[str, Any],
        replacement: Mapping[str, Any],
        upsert: bool | None = None,
        *places: Any,
        **options: Any,
    ) -> Deferred[UpdateResult]:
        """
        Replace one document.

        @param options: as in L{update_one}, without C{array_filters}.
        """
        if places:
            put_in_order(orders.REPLACE_ONE, places, options)
        check_replacement(replacement)
        if options.get("array_filters") is not None:
            raise TypeError("replace_one has no option 'array_filters': use update_one")
        return self._update(filter, replacement, False, {"upsert": upsert, **options})

    def update_one(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        upsert: bool | None = None,
        *places: Any,
        **options: Any,
    ) -> Deferred[UpdateResult]:
        """
        Change one document.

        @param update: operators or a pipeline.
        @param options: C{collation}, C{array_filters}, C{hint}, C{sort},
            C{bypass_document_validation}, C{comment}, C{let},
            C{raw_data}, C{session}.
        """
        if places:
            put_in_order(orders.UPDATE_ONE, places, options)
        check_update(update)
        return self._update(filter, update, False, {"upsert": upsert, **options})

    def update_many(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        upsert: bool | None = None,
        *places: Any,
        **options: Any,
    ) -> Deferred[UpdateResult]:
        """
        Change all documents that match.  Never tried twice.

        @param options: as in L{update_one}, without C{sort}.
        """
        if places:
            put_in_order(orders.UPDATE_MANY, places, options)
        check_update(update)
        if options.get("sort") is not None:
            raise TypeError("update_many has no option 'sort': all that match are changed")
        return self._update(filter, update, True, {"upsert": upsert, **options})

    def _update(
        self, filter: Mapping[str, Any], update: Any, multi: bool, options: dict[str, Any]
    ) -> Deferred[UpdateResult]:
        check_mapping("filter", filter)
        session = options.pop("session", None)
        limits = self._limits(options)
        shared = _take(options, "bypass_document_validation", "comment", "let", "raw_data")
        statement = update_statement(limits.codec_options, filter, update, multi=multi, **options)
        command = UpdateStatement(
            self._database_name,
            self._name,
            (statement,),
            limits,
            retryable=not multi,
            demands=demands_of(options),
            **shared,
        )
        command.shareable = not multi and is_small_change(filter, update, limits, **options)
        return self._run(command, session)

    def delete_one(
        self, filter: Mapping[str, Any], *places: Any, **options: Any
    ) -> Deferred[DeleteResult]:
        """
        Delete one document.

        @param places: C{collation}, C{hint}, C{session}, C{let} and
            C{comment}; or TxMongo's one C{let}.
        @param options: C{collation}, C{hint}, C{comment}, C{let},
            C{raw_data}, C{session}.
        """
        return self._delete(filter, False, deletion(places, options))

    def delete_many(
        self, filter: Mapping[str, Any], *places: Any, **options: Any
    ) -> Deferred[DeleteResult]:
        """
        Delete all documents that match.  Never tried twice.

        @param options: as in L{delete_one}.
        """
        return self._delete(filter, True, deletion(places, options))

    def _delete(
        self, filter: Mapping[str, Any], multi: bool, options: dict[str, Any]
    ) -> Deferred[DeleteResult]:
        check_mapping("filter", filter)
        session = options.pop("session", None)
        limits = self._limits(options)
        shared = _take(options, "comment", "let", "raw_data")
        statement = delete_statement(limits.codec_options, filter, multi=multi, **options)
        command = DeleteStatement(
            self._database_name,
            self._name,
            (statement,),
            limits,
            retryable=not multi,
            demands=demands_of(options),
            **shared,
        )
        command.shareable = not multi and is_small_change(filter, None, limits, **options)
        return self._run(command, session)

    def raw_write(
        self,
        kind: str,
        statements: Sequence[bytes],
        *,
        ordered: bool = True,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]:
        """
        Send encoded statements in exactly one message.

        @param kind: C{"insert"} (documents), C{"update"} (C{q}, C{u}, ...)
            or C{"delete"} (C{q}, C{limit}).
        @param options: C{bypass_document_validation}, C{comment}, C{let},
            and C{retryable}: that none of them touches several documents.
        @return: fires with the server's reply; fails with
            L{txmongokit.errors.WriteError} for the first statement that
            failed, or L{txmongokit.errors.DocumentTooLarge} where they do
            not fit.
        """
        command = self.raw_write_command(kind, statements, ordered=ordered, **options)
        return self._run(command, session)

    def raw_write_command(
        self, kind: str, statements: Sequence[bytes], *, ordered: bool = True, **options: Any
    ) -> RawWriteCommand:
        """
        What L{raw_write} sends, for
        L{txmongokit.sessions.ClientSession.run_in_order}.
        """
        return raw_write_command(
            self._database_name,
            self._name,
            kind,
            statements,
            self._limits(options),
            ordered=ordered,
            **options,
        )

    # Changing and getting one document.

    def find_one_and_update(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        projection: Projection | None = None,
        sort: Keys | None = None,
        upsert: bool | None = None,
        return_document: bool = ReturnDocument.BEFORE,
        *places: Any,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        Change one document and get it, as it was or as it is after.

        @param options: C{array_filters}, C{bypass_document_validation},
            C{collation}, C{comment}, C{hint}, C{let}, C{max_time_ms},
            C{raw_data}, C{session}.
        """
        if places:
            put_in_order(orders.FIND_ONE_AND_UPDATE, places, options)
        check_update(update)
        options.update(projection=projection, sort=sort, upsert=upsert)
        return self._modify(filter, update, options, return_document)

    def find_one_and_replace(
        self,
        filter: Mapping[str, Any],
        replacement: Mapping[str, Any],
        projection: Projection | None = None,
        sort: Keys | None = None,
        upsert: bool | None = None,
        return_document: bool = ReturnDocument.BEFORE,
        *places: Any,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        Replace one document and get it, as it was or as it is after.

        @param options: as in L{find_one_and_update}, without
            C{array_filters}.
        """
        if places:
            put_in_order(orders.FIND_ONE_AND, places, options)
        check_replacement(replacement)
        options.update(projection=projection, sort=sort, upsert=upsert)
        return self._modify(filter, replacement, options, return_document)

    def find_one_and_delete(
        self,
        filter: Mapping[str, Any],
        projection: Projection | None = None,
        sort: Keys | None = None,
        *places: Any,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        Delete one document and get it.

        @param options: C{collation}, C{comment}, C{hint}, C{let},
            C{max_time_ms}, C{raw_data}, C{session}.
        """
        if places:
            put_in_order(orders.FIND_ONE_AND, places, options)
        options.update(projection=projection, sort=sort)
        return self._modify(filter, None, options)

    def _modify(
        self,
        filter: Mapping[str, Any],
        update: Any,
        options: dict[str, Any],
        return_document: bool = ReturnDocument.BEFORE,
    ) -> Deferred[DocumentT | None]:
        check_mapping("filter", filter)
        if not isinstance(return_document, bool):
            raise ValueError(
                "return_document must be ReturnDocument.BEFORE or ReturnDocument.AFTER"
            )
        if return_document:
            options["new"] = True
        session = options.pop("session", None)
        limits = self._limits(options)
        command = FindAndModify(self._database_name, self._name, limits, filter, update, **options)
        return self._run(command, session)

    # The collection itself.

    def drop(
        self, session: ClientSession | None = None, comment: Any = None, **options: Any
    ) -> Deferred[None]:
        """
        Drop the collection.  That there is none is no error.

        @raise ConfigurationError: PyMongo's C{encrypted_fields} is given.
        """
        limits = self._limits(options)
        command = Drop(self._database_name, self._name, limits, comment=comment, **options)
        return self._run(command, session).addCallback(lambda reply: None)

    def rename(
        self, new_name: str, *places: Any, session: ClientSession | None = None, **options: Any
    ) -> Deferred[dict[str, Any]]:
        """
        Rename the collection within its database.

        @param options: C{drop_target}, C{comment}.
        @return: fires with the server's reply.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        check_collection_name(new_name)
        limits = self._limits(options)
        command = RenameCollection(
            self.full_name, f"{self._database_name}.{new_name}", limits, **options
        )
        return self._run(command, session)

    def options(
        self, session: ClientSession | None = None, comment: Any = None, **options: Any
    ) -> Deferred[dict[str, Any]]:
        """
        What the collection was created with; empty where there is none.
        """
        limits = self._limits(options)
        command = ListCollections(
            self._database_name, limits, filter={"name": self._name}, comment=comment, **options
        )

        def first(batch: CursorBatch) -> dict[str, Any]:
            return dict(batch.documents[0].get("options", {})) if batch.documents else {}

        return self._run(command, session).addCallback(first)


# What of a find's arguments is the cursor's.
_OF_CURSOR = ("limit", "batch_size", "cursor_type", "max_await_time_ms", "timeout_mode")


def _take(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}
