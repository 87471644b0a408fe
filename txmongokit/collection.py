"""
Collections: reading and writing documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import CursorType, ReturnDocument
from pymongo.operations import IndexModel
from pymongo.results import (
    BulkWriteResult,
    DeleteResult,
    InsertManyResult,
    InsertOneResult,
    UpdateResult,
)
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txmongokit._sansio.commands.admin import Drop, ListCollections, RenameCollection
from txmongokit._sansio.commands.arguments import (
    Keys,
    Projection,
    check_collection_name,
    check_mapping,
    key_document,
    nearest,
)
from txmongokit._sansio.commands.base import CommandOptions, CursorBatch
from txmongokit._sansio.commands.bulk import BulkWrite, check_replacement, check_update, ensure_id
from txmongokit._sansio.commands.indexes import CreateIndexes, DropIndexes, ListIndexes
from txmongokit._sansio.commands.read import (
    CountDocuments,
    Distinct,
    EstimatedCount,
    FindOne,
    aggregate_command,
)
from txmongokit._sansio.commands.write import (
    DeleteStatement,
    FindAndModify,
    InsertStatement,
    UpdateStatement,
    delete_statement,
    raw_write_command,
    update_statement,
)
from txmongokit._sansio.transactions import SessionState
from txmongokit.changestream import ChangeStream
from txmongokit.cursor import CommandCursor, Cursor, TimeoutMode
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.interfaces import IOperationRunner
from txmongokit.scope import Scope, changed
from txmongokit.sessions import ClientSession, session_state

__all__ = ["Collection"]

DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])
ResultT = TypeVar("ResultT")

_NAMESPACE_NOT_FOUND = 26


class Collection(Scope, Generic[DocumentT]):
    """
    One collection.

    Sub-collections are attributes or items: C{coll.sub}, C{coll["sub"]};
    names that begin with an underscore only items.

    Every operation returns a L{Deferred} and starts at once, except those
    that return a cursor.  Each takes C{session}, a
    L{txmongokit.sessions.ClientSession}, and C{timeout}, in seconds, for all
    of it.  Cancelling stops the wait, not what the server does.  Wrong
    arguments raise L{TypeError} or L{ValueError} at once; what goes wrong
    later is one of L{txmongokit.errors}.  Other keyword arguments are the
    command's options by PyMongo's names; an unknown one is a L{TypeError}.

    @param database: the L{txmongokit.database.Database} that it is in.
    @param options: what it inherits.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        database: Any,
        name: str,
        options: CommandOptions,
    ) -> None:
        check_collection_name(name)
        super().__init__(runner, options)
        self._database = database
        self._database_name: str = database.name
        self._name = name

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
        return Collection(self._runner, self._database, f"{self._name}.{name}", self._options)

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

    def with_options(self, **options: Any) -> Collection[DocumentT]:
        """
        The same collection with other C{codec_options}, C{read_preference},
        C{write_concern}, C{read_concern} or C{timeout}.
        """
        return Collection(self._runner, self._database, self._name, changed(self._options, options))

    # Reading.

    def find_one(
        self,
        filter: Any = None,
        projection: Projection | None = None,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        The first document that matches.

        @param filter: a document; anything else is an C{_id}.
        @param options: C{sort}, C{skip}, C{hint}, C{collation}, C{comment},
            C{let}, C{min}, C{max}, C{max_time_ms}, C{allow_disk_use},
            C{allow_partial_results}, C{return_key}, C{show_record_id}.
        @return: fires with the document, or C{None}.
        """
        query = (
            {"_id": filter} if filter is not None and not isinstance(filter, Mapping) else filter
        )
        if projection is not None:
            options["projection"] = projection
        limits = self._options if timeout is None else self._limited(timeout)
        result: Deferred[DocumentT | None] = self._runner.run(
            FindOne(self._database_name, self._name, limits, query, options),
            None if session is None else session_state(session),
        )
        return result

    def find(
        self,
        filter: Mapping[str, Any] | None = None,
        projection: Projection | None = None,
        skip: int = 0,
        limit: int = 0,
        no_cursor_timeout: bool | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        sort: Keys | None = None,
        *,
        batch_size: int | None = None,
        max_await_time_ms: int | None = None,
        timeout_mode: TimeoutMode | str | None = None,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Cursor[DocumentT]:
        """
        The documents that match.

        @param limit: the most documents; 0 for all, negative for one batch.
        @param max_await_time_ms: on a tailable-await cursor, how long the
            server waits for new documents.
        @param timeout: seconds for the cursor's lifetime, or, on a tailable
            cursor and as C{timeout_mode} says, for each iteration.
        @param timeout_mode: see L{txmongokit.cursor.TimeoutMode}.
        @param options: as in L{find_one}, and C{oplog_replay}, which servers
            from 4.4 on do without.
        @return: a cursor, which starts on its first use.
        """
        return self._find(
            filter,
            {
                "projection": projection,
                "skip": skip or None,
                "sort": sort,
                "no_cursor_timeout": no_cursor_timeout,
                **options,
            },
            session,
            timeout,
            limit=limit,
            batch_size=batch_size,
            cursor_type=cursor_type,
            max_await_time_ms=max_await_time_ms,
            timeout_mode=timeout_mode,
        )

    def find_raw_batches(
        self,
        filter: Mapping[str, Any] | None = None,
        projection: Projection | None = None,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
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
        return self._find(
            filter,
            {"projection": projection, **options},
            session,
            timeout,
            limit=limit,
            batch_size=batch_size,
            cursor_type=cursor_type,
            max_await_time_ms=max_await_time_ms,
            timeout_mode=timeout_mode,
            raw=True,
        )

    def _find(
        self,
        filter: Mapping[str, Any] | None,
        arguments: dict[str, Any],
        session: ClientSession | None,
        timeout: float | None,
        **options: Any,
    ) -> Cursor[Any]:
        if filter is not None:
            check_mapping("filter", filter)
        return Cursor(
            self._runner,
            self._database_name,
            self._name,
            self._limited(timeout),
            filter,
            arguments,
            session,
            **options,
        )

    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> CommandCursor[dict[str, Any]]:
        """
        Run a pipeline.  One that ends in C{$out} or C{$merge} runs when the
        cursor is used, too: await it.

        @param options: C{allow_disk_use}, C{bypass_document_validation},
            C{collation}, C{comment}, C{hint}, C{let}, C{max_time_ms};
            C{timeout_mode} (L{txmongokit.cursor.TimeoutMode}), and
            C{max_await_time_ms} where the pipeline's first stage makes a
            tailable-await cursor.
        @return: a cursor, which starts on its first use.
        """
        return self._aggregate(pipeline, session, timeout, batch_size, options)

    def aggregate_raw_batches(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> CommandCursor[bytes]:
        """
        As L{aggregate}, with each document as BSON: batches are lists of
        bytes.
        """
        return self._aggregate(pipeline, session, timeout, batch_size, {**options, "raw": True})

    def _aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        session: ClientSession | None,
        timeout: float | None,
        batch_size: int | None,
        options: dict[str, Any],
    ) -> CommandCursor[Any]:
        iteration = _take(options, "timeout_mode", "max_await_time_ms")
        command = aggregate_command(
            self._database_name,
            self._name,
            self._limited(timeout),
            pipeline,
            batch_size=batch_size,
            **options,
        )
        return CommandCursor(
            self._runner,
            command,
            session,
            batch_size=batch_size,
            comment=options.get("comment"),
            **iteration,
        )

    def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]] | None = None,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> ChangeStream[dict[str, Any]]:
        """
        The changes to the collection, from now on or from where C{options}
        say: those of L{ChangeStream}, by PyMongo's names.
        """
        place = self._database_name, self._name, self._limited(timeout)
        return ChangeStream(self._runner, *place, pipeline, session, **options)

    def count_documents(
        self,
        filter: Mapping[str, Any],
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[int]:
        """
        How many documents match, exactly.

        @param options: C{skip}, C{limit}, C{hint}, C{collation},
            C{comment}, C{max_time_ms}.
        """
        check_mapping("filter", filter)
        return self._run(
            CountDocuments(
                self._database_name, self._name, self._limited(timeout), filter, **options
            ),
            session,
        )

    def estimated_document_count(
        self, *, timeout: float | None = None, session: ClientSession | None = None, **options: Any
    ) -> Deferred[int]:
        """
        How many documents there are by the collection's metadata: fast, and
        inexact after an unclean shutdown or on shards.

        @param options: C{comment}, C{max_time_ms}.
        """
        return self._run(
            EstimatedCount(self._database_name, self._name, self._limited(timeout), **options),
            session,
        )

    def distinct(
        self,
        key: str,
        filter: Mapping[str, Any] | None = None,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[list[Any]]:
        """
        The different values of a field.

        @param options: C{collation}, C{comment}, C{hint}, C{max_time_ms}.
        """
        if not isinstance(key, str):
            raise TypeError(f"key must be a field's name, not {type(key).__name__}")
        if filter is not None:
            check_mapping("filter", filter)
        return self._run(
            Distinct(
                self._database_name, self._name, self._limited(timeout), key, filter, **options
            ),
            session,
        )

    # Writing.

    def insert_one(
        self,
        document: MutableMapping[str, Any] | RawBSONDocument,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[InsertOneResult]:
        """
        Insert a document.  One without an C{_id} is given one.

        @param options: C{bypass_document_validation}, C{comment}.
        @return: fires with the result; fails with
            L{txmongokit.errors.DuplicateKeyError} where a unique index
            forbids it.
        """
        identifier = ensure_id(document)
        limits = self._limited(timeout)
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
        documents: Iterable[MutableMapping[str, Any] | RawBSONDocument],
        *,
        ordered: bool = True,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[InsertManyResult]:
        """
        Insert documents, in as few messages as the server's limits allow.

        @param ordered: stop at the first that fails.
        @param options: C{bypass_document_validation}, C{comment}.
        @return: fires with the result; fails with
            L{txmongokit.errors.BulkWriteError}, which tells what was done.
        """
        if isinstance(documents, Mapping) or not isinstance(documents, Iterable):
            raise TypeError(f"documents must be a list of them, not {type(documents).__name__}")
        bulk = self._bulk(ordered, timeout, options)
        identifiers = [bulk.add_insert(document) for document in documents]
        return Deferred.fromCoroutine(self._insert_many(bulk, identifiers, session_state(session)))

    async def _insert_many(
        self, bulk: BulkWrite, identifiers: list[Any], state: SessionState | None
    ) -> InsertManyResult:
        await self._run_bulk(bulk, state)
        return InsertManyResult(identifiers, self._options.write_concern.acknowledged)

    def bulk_write(
        self,
        requests: Sequence[Any],
        *,
        ordered: bool = True,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[BulkWriteResult]:
        """
        Run many writes: PyMongo's C{InsertOne}, C{UpdateOne},
        C{UpdateMany}, C{ReplaceOne}, C{DeleteOne}, C{DeleteMany}.

        @param ordered: run them in their order and stop at the first that
            fails; otherwise all are tried, grouped by kind.
        @param options: C{bypass_document_validation}, C{comment}, C{let}.
        @return: fires with the result; fails with
            L{txmongokit.errors.BulkWriteError}, which tells what was done.
        """
        bulk = self._bulk(ordered, timeout, options)
        for request in requests:
            bulk.add(request)
        return Deferred.fromCoroutine(self._run_bulk(bulk, session_state(session)))

    async def _run_bulk(self, bulk: BulkWrite, state: SessionState | None) -> BulkWriteResult:
        for command in bulk.commands():
            try:
                reply = await self._runner.run(command, state)
            except PyMongoError:
                if command.unsettled is None:
                    raise
                # It was not tried again, so the first reply is what there is.
                reply = command.unsettled
            bulk.settle(command, reply)
        return bulk.finish()

    def _bulk(self, ordered: bool, timeout: float | None, options: dict[str, Any]) -> BulkWrite:
        return BulkWrite(
            self._database_name, self._name, self._limited(timeout), ordered=ordered, **options
        )

    def replace_one(
        self,
        filter: Mapping[str, Any],
        replacement: Mapping[str, Any],
        upsert: bool | None = None,
        **options: Any,
    ) -> Deferred[UpdateResult]:
        """
        Replace one document.

        @param options: as in L{update_one}, without C{array_filters}.
        """
        check_replacement(replacement)
        return self._update(filter, replacement, False, {"upsert": upsert, **options})

    def update_one(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        upsert: bool | None = None,
        **options: Any,
    ) -> Deferred[UpdateResult]:
        """
        Change one document.

        @param update: operators or a pipeline.
        @param options: C{collation}, C{array_filters}, C{hint}, C{sort},
            C{bypass_document_validation}, C{comment}, C{let}, C{session},
            C{timeout}.
        """
        check_update(update)
        return self._update(filter, update, False, {"upsert": upsert, **options})

    def update_many(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        upsert: bool | None = None,
        **options: Any,
    ) -> Deferred[UpdateResult]:
        """
        Change all documents that match.  Never tried twice.

        @param options: as in L{update_one}, without C{sort}.
        """
        check_update(update)
        if options.get("sort") is not None:
            raise TypeError("update_many has no option 'sort': all that match are changed")
        return self._update(filter, update, True, {"upsert": upsert, **options})

    def _update(
        self, filter: Mapping[str, Any], update: Any, multi: bool, options: dict[str, Any]
    ) -> Deferred[UpdateResult]:
        check_mapping("filter", filter)
        session = options.pop("session", None)
        limits = self._limited(options.pop("timeout", None))
        shared = _take(options, "bypass_document_validation", "comment", "let")
        statement = update_statement(limits.codec_options, filter, update, multi=multi, **options)
        command = UpdateStatement(
            self._database_name,
            self._name,
            (statement,),
            limits,
            retryable=not multi,
            **shared,
        )
        return self._run(command, session)

    def delete_one(self, filter: Mapping[str, Any], **options: Any) -> Deferred[DeleteResult]:
        """
        Delete one document.

        @param options: C{collation}, C{hint}, C{comment}, C{let},
            C{session}, C{timeout}.
        """
        return self._delete(filter, False, options)

    def delete_many(self, filter: Mapping[str, Any], **options: Any) -> Deferred[DeleteResult]:
        """
        Delete all documents that match.  Never tried twice.

        @param options: as in L{delete_one}.
        """
        return self._delete(filter, True, options)

    def _delete(
        self, filter: Mapping[str, Any], multi: bool, options: dict[str, Any]
    ) -> Deferred[DeleteResult]:
        check_mapping("filter", filter)
        session = options.pop("session", None)
        limits = self._limited(options.pop("timeout", None))
        shared = _take(options, "comment", "let")
        statement = delete_statement(limits.codec_options, filter, multi=multi, **options)
        command = DeleteStatement(
            self._database_name,
            self._name,
            (statement,),
            limits,
            retryable=not multi,
            **shared,
        )
        return self._run(command, session)

    def raw_write(
        self,
        kind: str,
        statements: Sequence[bytes],
        *,
        ordered: bool = True,
        session: ClientSession | None = None,
        timeout: float | None = None,
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
        command = raw_write_command(
            self._database_name,
            self._name,
            kind,
            statements,
            self._limited(timeout),
            ordered=ordered,
            **options,
        )
        return self._run(command, session)

    # Changing and getting one document.

    def find_one_and_update(
        self,
        filter: Mapping[str, Any],
        update: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        return_document: bool = ReturnDocument.BEFORE,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        Change one document and get it, as it was or as it is after.

        @param options: C{projection}, C{sort}, C{upsert}, C{array_filters},
            C{bypass_document_validation}, C{collation}, C{comment},
            C{hint}, C{let}, C{max_time_ms}, C{session}, C{timeout}.
        """
        check_update(update)
        return self._modify(filter, update, {"new": return_document or None, **options})

    def find_one_and_replace(
        self,
        filter: Mapping[str, Any],
        replacement: Mapping[str, Any],
        *,
        return_document: bool = ReturnDocument.BEFORE,
        **options: Any,
    ) -> Deferred[DocumentT | None]:
        """
        Replace one document and get it, as it was or as it is after.

        @param options: as in L{find_one_and_update}, without
            C{array_filters}.
        """
        check_replacement(replacement)
        return self._modify(filter, replacement, {"new": return_document or None, **options})

    def find_one_and_delete(
        self, filter: Mapping[str, Any], **options: Any
    ) -> Deferred[DocumentT | None]:
        """
        Delete one document and get it.

        @param options: C{projection}, C{sort}, C{collation}, C{comment},
            C{hint}, C{let}, C{max_time_ms}, C{session}, C{timeout}.
        """
        return self._modify(filter, None, options)

    def _modify(
        self, filter: Mapping[str, Any], update: Any, options: dict[str, Any]
    ) -> Deferred[DocumentT | None]:
        check_mapping("filter", filter)
        session = options.pop("session", None)
        limits = self._limited(options.pop("timeout", None))
        command = FindAndModify(self._database_name, self._name, limits, filter, update, **options)
        return self._run(command, session)

    # The collection itself and its indexes.

    def drop(
        self,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        comment: Any = None,
    ) -> Deferred[None]:
        """
        Drop the collection.  That there is none is no error.
        """
        command = Drop(self._database_name, self._name, self._limited(timeout), comment=comment)
        dropped = self._run(command, session)
        return dropped.addCallbacks(lambda reply: None, _ignore_missing)

    def rename(
        self,
        new_name: str,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]:
        """
        Rename the collection within its database.

        @param options: C{drop_target} (C{dropTarget} does, too), C{comment}.
        """
        check_collection_name(new_name)
        if "dropTarget" in options:
            options["drop_target"] = options.pop("dropTarget")
        command = RenameCollection(
            self.full_name,
            f"{self._database_name}.{new_name}",
            self._limited(timeout),
            **options,
        )
        return self._run(command, session)

    def options(
        self, *, session: ClientSession | None = None, timeout: float | None = None
    ) -> Deferred[dict[str, Any]]:
        """
        What the collection was created with; empty where there is none.
        """
        command = ListCollections(
            self._database_name, self._limited(timeout), filter={"name": self._name}
        )

        def first(batch: CursorBatch) -> dict[str, Any]:
            return dict(batch.documents[0].get("options", {})) if batch.documents else {}

        found = self._run(command, session)
        return found.addCallback(first)

    def create_index(
        self,
        keys: Keys,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        comment: Any = None,
        **options: Any,
    ) -> Deferred[str]:
        """
        Create an index.

        @param options: those of PyMongo's C{IndexModel} (C{unique},
            C{name}, C{sparse}, C{expireAfterSeconds}, ...).
        @return: fires with its name.
        """
        model = IndexModel(list(key_document("keys", keys).items()), **options)
        created = self.create_indexes([model], session=session, timeout=timeout, comment=comment)
        return created.addCallback(lambda names: names[0])

    def create_indexes(
        self,
        indexes: Sequence[IndexModel],
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[list[str]]:
        """
        Create indexes.

        @param options: C{commit_quorum}, C{comment}, C{max_time_ms}.
        @return: fires with their names.
        """
        for index in indexes:
            if not isinstance(index, IndexModel):
                raise TypeError(f"indexes must be IndexModels, not {type(index).__name__}")
        documents = [index.document for index in indexes]
        command = CreateIndexes(
            self._database_name, self._name, self._limited(timeout), documents, **options
        )
        created = self._run(command, session)
        return created.addCallback(lambda reply: [document["name"] for document in documents])

    def list_indexes(
        self,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        comment: Any = None,
        timeout_mode: TimeoutMode | str | None = None,
    ) -> CommandCursor[dict[str, Any]]:
        """
        The indexes, one document for each.

        @return: a cursor; it fails with code 26 where there is no
            collection.
        """
        command = ListIndexes(
            self._database_name, self._name, self._limited(timeout), comment=comment
        )
        return CommandCursor(
            self._runner, command, session, comment=comment, timeout_mode=timeout_mode
        )

    def index_information(
        self, *, session: ClientSession | None = None, timeout: float | None = None
    ) -> Deferred[dict[str, Any]]:
        """
        The indexes by name: for each the C{key} pairs and its options.  No
        collection has no indexes.
        """

        def by_name(indexes: list[dict[str, Any]]) -> dict[str, Any]:
            found = {}
            for index in indexes:
                index["key"] = list(index["key"].items())
                found[index.pop("name")] = index
            return found

        listed = self.list_indexes(session=session, timeout=timeout).to_list()
        return listed.addErrback(_ignore_missing).addCallback(lambda found: by_name(found or []))

    def drop_index(
        self,
        index_or_name: Keys,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[None]:
        """
        Drop one index, by its name or keys.

        @param options: C{comment}, C{max_time_ms}.
        """
        index: Any = index_or_name
        if not isinstance(index, str):
            index = "_".join(f"{key}_{way}" for key, way in key_document("keys", index).items())
        command = DropIndexes(
            self._database_name, self._name, self._limited(timeout), index, **options
        )
        dropped = self._run(command, session)
        return dropped.addCallback(lambda reply: None)

    def drop_indexes(
        self,
        *,
        session: ClientSession | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Deferred[None]:
        """
        Drop all indexes but the one on C{_id}.  That there is no collection
        is no error.
        """
        dropped = self.drop_index("*", session=session, timeout=timeout, **options)
        return dropped.addErrback(_ignore_missing)


def _take(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}


def _ignore_missing(failure: Failure) -> None:
    error = failure.value
    if not isinstance(error, OperationFailure) or error.code != _NAMESPACE_NOT_FOUND:
        failure.raiseException()
