"""
Databases: their collections and commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, overload

from bson.codec_options import CodecOptions
from bson.dbref import DBRef
from pymongo import CursorType
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from txmongokit._sansio.commands.admin import (
    CreateCollection,
    DropDatabase,
    ListCollections,
    ModifyCollection,
    ValidateCollection,
    on_primary,
)
from txmongokit._sansio.commands.arguments import check_database_name, nearest
from txmongokit._sansio.commands.base import CommandOptions, CursorBatch, RunCommand
from txmongokit._sansio.commands.read import CursorCommand
from txmongokit.aggregation import aggregation
from txmongokit.changestream import WATCHED, ChangeStream
from txmongokit.collection import Collection
from txmongokit.cursor import CommandCursor, TimeoutMode
from txmongokit.errors import CollectionInvalid, InvalidOperation
from txmongokit.legacy import deprecated
from txmongokit.scope import Scope, by_kind, changed, in_order, put_in_order
from txmongokit.sessions import ClientSession
from txmongokit.types import ConnectionInfo

if TYPE_CHECKING:
    # Only this one has defaults before Python 3.13.
    from typing_extensions import TypeVar

    DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any], default=dict[str, Any])
else:
    from typing import TypeVar

    DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])

__all__ = ["Database"]

OtherT = TypeVar("OtherT", bound=Mapping[str, Any])


class Database(Scope, Generic[DocumentT]):
    """
    One database.

    Collections are attributes or items: C{db.things}, C{db["things"]};
    names that begin with an underscore only items.

    Every operation returns a L{Deferred} and starts at once, except those
    that return a cursor; see L{Collection}.

    @param client: what runs its commands, an
        L{txmongokit.interfaces.IOperationRunner}: usually the client.
        C{factory} in TxMongo.
    @param name: C{database_name} in TxMongo.
    @param places: C{codec_options}, C{read_preference}, C{write_concern} and
        C{read_concern} in any order, that is in TxMongo's or PyMongo's.
    @param options: the same by their names, and C{timeout} in seconds, where
        they are not to be inherited.

    @raise txmongokit.errors.InvalidName: no database can have that name.
    """

    def __init__(self, client: Any = None, name: Any = None, *places: Any, **options: Any) -> None:
        client = options.pop("factory", client)
        name = options.pop("database_name", name)
        if client is None or name is None:
            raise TypeError("a database needs its client and its name")
        check_database_name(name)
        given = {**by_kind(*places), **options} if places else options
        super().__init__(client, changed(client.options, given))
        self._name: str = name

    def __repr__(self) -> str:
        return f"<Database {self._name}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Database):
            return self._runner is other._runner and self._name == other._name
        return NotImplemented

    def __hash__(self) -> int:
        return hash((id(self._runner), self._name))

    def __bool__(self) -> NoReturn:
        raise TypeError("a database is neither true nor false: compare it with None")

    def __getitem__(self, name: str) -> Collection[DocumentT]:
        return Collection.within(self._runner, self, name, self._options)

    def __getattr__(self, name: str) -> Collection[DocumentT]:
        if name.startswith("_"):
            raise AttributeError(
                f"Database has no attribute {name!r}; for a collection of that name "
                f"write database[{name!r}]"
            )
        return self[name]

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """
        A database that is called is a method's name mistyped.

        @raise TypeError: always; it names the client's nearest method.
        """
        methods = [item for item in dir(type(self._runner)) if not item.startswith("_")]
        raise TypeError(
            f"there is no method {self._name!r}, and a database cannot be called"
            f"{nearest(self._name, methods)}"
        )

    @property
    def name(self) -> str:
        """
        Its name.
        """
        return self._name

    @property
    def client(self) -> Any:
        """
        What runs its commands.
        """
        return self._runner

    @property
    def connection(self) -> Any:
        """
        What runs its commands: TxMongo's name for it.
        """
        return self._runner

    @overload
    def with_options(
        self,
        codec_options: None = None,
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Database[DocumentT]: ...

    @overload
    def with_options(
        self,
        codec_options: CodecOptions[OtherT],
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Database[OtherT]: ...

    def with_options(
        self,
        codec_options: CodecOptions[Any] | None = None,
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Database[Any]:
        """
        The same database with other options; see the class.
        """
        other: Database[Any] = Database(self._runner, self._name)
        other._options = changed(
            self._options,
            {
                "codec_options": codec_options,
                "read_preference": read_preference,
                "write_concern": write_concern,
                "read_concern": read_concern,
                "timeout": timeout,
            },
        )
        return other

    @overload
    def get_collection(
        self,
        name: str,
        codec_options: None = None,
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Collection[DocumentT]: ...

    @overload
    def get_collection(
        self,
        name: str,
        codec_options: CodecOptions[OtherT],
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Collection[OtherT]: ...

    def get_collection(
        self,
        name: str,
        codec_options: CodecOptions[Any] | None = None,
        read_preference: Any = None,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        timeout: float | None = None,
    ) -> Collection[Any]:
        """
        A collection, with other options than the database's where given.
        """
        return self[name].with_options(
            codec_options, read_preference, write_concern, read_concern, timeout
        )

    def authenticate(
        self,
        name: str | None,
        password: str | None,
        mechanism: str = "DEFAULT",
        properties: Mapping[str, Any] | None = None,
    ) -> Deferred[None]:
        """
        Log in as a user of this database, on every connection of the client;
        see L{txmongokit.connection.ConnectionPool.authenticate}.
        """
        logged_in: Deferred[None] = self.client.authenticate(
            self._name, name, password, mechanism, properties
        )
        return logged_in

    # Commands.

    @overload
    def command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        check: bool = True,
        allowable_errors: Sequence[str | int] | None = None,
        read_preference: Any = None,
        codec_options: None = None,
        session: ClientSession | None = None,
        comment: Any = None,
        **arguments: Any,
    ) -> Deferred[dict[str, Any]]: ...

    @overload
    def command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        check: bool = True,
        allowable_errors: Sequence[str | int] | None = None,
        read_preference: Any = None,
        codec_options: CodecOptions[OtherT] = ...,
        session: ClientSession | None = None,
        comment: Any = None,
        **arguments: Any,
    ) -> Deferred[OtherT]: ...

    def command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        check: bool = True,
        allowable_errors: Sequence[str | int] | None = None,
        read_preference: Any = None,
        codec_options: CodecOptions[Any] | None = None,
        session: ClientSession | None = None,
        comment: Any = None,
        **arguments: Any,
    ) -> Deferred[Any]:
        """
        Run any command.  It goes to the primary unless C{read_preference}
        says otherwise, takes no concerns but its own and is tried once,
        but for servers that are overloaded.

        @param command: its name, or the whole document, which is copied.
        @param value: of the command's own field, where a name is given.
        @param check: whether C{ok: 0} is an error.
        @param allowable_errors: messages or codes that are no error.
        @param read_preference: TxMongo has C{codec_options} in this place:
            either is understood in either.
        @param comment: a note for the server's logs and profiler.
        @param codec_options: what the reply is decoded to, instead of the
            database's; errors are plain dicts.
        @param arguments: more fields of the document.
        @return: fires with the reply.
        """
        places = by_kind(read_preference, codec_options)
        codec_options = places.get("codec_options")
        limits = self._bare(arguments, codec_options, places.get("read_preference"))
        if comment is not None:
            arguments["comment"] = comment
        return self._run(
            RunCommand(
                self._name,
                _command_document(command, value, arguments),
                limits,
                check=check,
                allowable_errors=allowable_errors or (),
            ),
            session,
        )

    @overload
    def cursor_command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        read_preference: Any = None,
        codec_options: None = None,
        session: ClientSession | None = None,
        comment: Any = None,
        max_await_time_ms: int | None = None,
        *,
        batch_size: int | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        timeout_mode: TimeoutMode | str | None = None,
        **arguments: Any,
    ) -> CommandCursor[DocumentT]: ...

    @overload
    def cursor_command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        read_preference: Any = None,
        codec_options: CodecOptions[OtherT] = ...,
        session: ClientSession | None = None,
        comment: Any = None,
        max_await_time_ms: int | None = None,
        *,
        batch_size: int | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        timeout_mode: TimeoutMode | str | None = None,
        **arguments: Any,
    ) -> CommandCursor[OtherT]: ...

    def cursor_command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        read_preference: Any = None,
        codec_options: CodecOptions[Any] | None = None,
        session: ClientSession | None = None,
        comment: Any = None,
        max_await_time_ms: int | None = None,
        *,
        batch_size: int | None = None,
        cursor_type: int = CursorType.NON_TAILABLE,
        timeout_mode: TimeoutMode | str | None = None,
        **arguments: Any,
    ) -> CommandCursor[Any]:
        """
        Run any command that answers with a cursor.

        @param batch_size: documents in each batch after the first.
        @param comment: for the batches after the first.
        @param max_await_time_ms: how long the server waits for new
            documents, where the command makes a tailable-await cursor.
        @param cursor_type: what the command makes, of PyMongo's
            C{CursorType}: it is not sent.
        @param timeout_mode: see L{txmongokit.cursor.TimeoutMode}.
        @return: a cursor, which starts on its first use.
        """
        limits = self._bare(arguments, codec_options, read_preference)
        document = _command_document(command, value, arguments)
        return CommandCursor(
            self._runner,
            _CursorCommand(self._name, None, limits, document),
            session,
            batch_size=batch_size,
            comment=comment,
            max_await_time_ms=max_await_time_ms,
            tailable=cursor_type in (CursorType.TAILABLE, CursorType.TAILABLE_AWAIT),
            timeout_mode=timeout_mode,
        )

    def _bare(
        self,
        arguments: dict[str, Any],
        codec_options: CodecOptions[Any] | None,
        read_preference: Any,
    ) -> CommandOptions:
        """Options of a command that inherits no concerns and no preference."""
        limits = self._limits(arguments)
        bare = CommandOptions(
            codec_options=codec_options or limits.codec_options,
            timeout=limits.timeout,
            timeout_given=limits.timeout_given,
        )
        return changed(bare, {"read_preference": read_preference})

    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> CommandCursor[DocumentT]:
        """
        Run a pipeline that belongs to no collection (C{$currentOp},
        C{$documents}, ...); see L{Collection.aggregate}.
        """
        if places:
            session = in_order(("session",), places, options, session)
        limits = self._limits(options)
        return aggregation(self._runner, self._name, None, limits, pipeline, session, options)

    def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]] | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> ChangeStream[DocumentT]:
        """
        The changes to all collections; see L{Collection.watch}.
        """
        if places:
            session = in_order(WATCHED, places, options, session)
        limits = self._limits(options)
        return ChangeStream(self._runner, self._name, None, limits, pipeline, session, **options)

    def dereference(
        self, dbref: DBRef, *places: Any, session: ClientSession | None = None, **options: Any
    ) -> Deferred[DocumentT | None]:
        """
        The document that a reference points to.

        @param options: as in L{Collection.find_one}.
        @return: fires with the document, or C{None}.

        @raise TypeError: it is no C{DBRef}.
        @raise ValueError: it points into another database.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        if not isinstance(dbref, DBRef):
            raise TypeError(f"dbref must be a bson DBRef, not {type(dbref).__name__}")
        if dbref.database is not None and dbref.database != self._name:
            raise ValueError(
                f"the reference points into the database {dbref.database!r}, not into "
                f"{self._name!r}: dereference it there"
            )
        return self[dbref.collection].find_one({"_id": dbref.id}, session=session, **options)

    # Collections.

    @overload
    def create_collection(
        self,
        name: str,
        codec_options: Mapping[str, Any] | None = None,
        read_preference: Any = None,
        write_concern: Any = None,
        read_concern: Any = None,
        session: ClientSession | None = None,
        check_exists: bool = False,
        **options: Any,
    ) -> Deferred[Collection[DocumentT]]: ...

    @overload
    def create_collection(
        self,
        name: str,
        codec_options: CodecOptions[OtherT],
        read_preference: Any = None,
        write_concern: Any = None,
        read_concern: Any = None,
        session: ClientSession | None = None,
        check_exists: bool = False,
        **options: Any,
    ) -> Deferred[Collection[OtherT]]: ...

    def create_collection(
        self,
        name: str,
        codec_options: Any = None,
        read_preference: Any = None,
        write_concern: Any = None,
        read_concern: Any = None,
        session: ClientSession | None = None,
        check_exists: bool = False,
        **options: Any,
    ) -> Deferred[Collection[Any]]:
        """
        Create a collection, view or time series.  TxMongo's order is
        understood, too: C{create_collection(name, options, write_concern,
        codec_options)}, where C{options} is a dict.

        @param check_exists: look first whether there is one, for the sake of
            PyMongo's L{CollectionInvalid}.
        @param options: the server's own by its names (C{capped}, C{size},
            C{max}, C{validator}, C{viewOn}, C{pipeline}, C{timeseries},
            C{clusteredIndex}, C{collation}, C{comment}, ...).
        @return: fires with the collection; fails with code 48 where there
            is one already.

        @raise ConfigurationError: C{encryptedFields} is given.
        """
        more = options.pop("options", None)
        if isinstance(codec_options, dict):
            more, codec_options = codec_options, None
        if more is not None:
            options = {**more, **options}
        limits = self._limits(options)
        places = by_kind(codec_options, read_preference, write_concern, read_concern)
        collection = self[name].with_options(**places)
        limits = changed(limits, {"write_concern": places.get("write_concern")})
        command = CreateCollection(self._name, name, limits, **options)
        if check_exists:
            return Deferred.fromCoroutine(self._create_new(command, session, collection))
        return self._run(command, session).addCallback(lambda reply: collection)

    async def _create_new(
        self,
        command: CreateCollection,
        session: ClientSession | None,
        collection: Collection[Any],
    ) -> Collection[Any]:
        deadline = self._runner.deadline(command.options)
        listing = ListCollections(
            self._name, command.options, filter={"name": collection.name}, name_only=True
        )
        for each in (listing, command):
            each.deadline = deadline
        found = await self._run(listing, session)
        if found.documents:
            raise CollectionInvalid(f"collection {collection.name} already exists")
        await self._run(command, session)
        return collection

    def modify_collection(
        self,
        name_or_collection: str | Collection[Any],
        *,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]:
        """
        Change a collection's or a view's options (C{collMod}).

        @param options: the server's own by its names (C{index},
            C{validator}, C{expireAfterSeconds},
            C{changeStreamPreAndPostImages}, ...).
        @return: fires with the server's reply.
        """
        limits = self._limits(options)
        name = _collection_name(name_or_collection)
        return self._run(ModifyCollection(self._name, name, limits, **options), session)

    def validate_collection(
        self,
        name_or_collection: str | Collection[Any],
        scandata: bool = False,
        full: bool = False,
        session: ClientSession | None = None,
        background: bool | None = None,
        comment: Any = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]:
        """
        Look for damage in a collection.

        @param background: without stopping its users.
        @return: fires with the server's reply; fails with
            L{txmongokit.errors.CollectionInvalid} where there is damage.
        """
        limits = on_primary(self._limits(options))
        command = ValidateCollection(
            self._name,
            _collection_name(name_or_collection),
            limits,
            scandata=scandata,
            full=full,
            background=background,
            comment=comment,
            **options,
        )
        return self._run(command, session)

    def drop_collection(
        self, name_or_collection: str | Collection[Any], *places: Any, **options: Any
    ) -> Deferred[None]:
        """
        Drop a collection; see L{Collection.drop}.
        """
        if places:
            put_in_order(("session", "comment", "encrypted_fields"), places, options)
        return self[_collection_name(name_or_collection)].drop(**options)

    def drop(
        self, *, session: ClientSession | None = None, comment: Any = None, **options: Any
    ) -> Deferred[None]:
        """
        Drop the database itself.
        """
        limits = self._limits(options)
        command = DropDatabase(self._name, limits, comment=comment, **options)
        return self._run(command, session).addCallback(lambda reply: None)

    def list_collections(
        self,
        *places: Any,
        session: ClientSession | None = None,
        timeout_mode: TimeoutMode | str | None = None,
        **options: Any,
    ) -> CommandCursor[dict[str, Any]]:
        """
        The collections and views, one document for each.

        @param options: C{filter}, C{name_only}, C{authorized_collections},
            C{batch_size}, C{comment}, C{raw_data}.
        @return: a cursor, which starts on its first use.
        """
        if places:
            session = in_order(("session", "filter", "comment"), places, options, session)
        limits = self._limits(options)
        batch_size = options.pop("batchSize", options.pop("batch_size", None))
        command = ListCollections(self._name, limits, batch_size=batch_size, **options)
        return CommandCursor(
            self._runner,
            command,
            session,
            batch_size=batch_size,
            comment=options.get("comment"),
            timeout_mode=timeout_mode,
        )

    def list_collection_names(
        self, *places: Any, filter: Mapping[str, Any] | None = None, **options: Any
    ) -> Deferred[list[str]]:
        """
        The names of the collections and views.

        @param options: as in L{list_collections}.
        """
        if places:
            options["filter"] = filter
            put_in_order(("session", "filter", "comment"), places, options)
            filter = options.pop("filter")
        # Names alone need no lock on each collection, but allow no other filter.
        name_only = None if filter and set(filter) != {"name"} else True
        listed = self.list_collections(
            **{"filter": filter, "name_only": name_only, **options}
        ).to_list()
        return listed.addCallback(lambda found: [item["name"] for item in found])

    def collection_names(self, *, batch_size: int = 0, **options: Any) -> Deferred[list[str]]:
        """
        L{list_collection_names}, as TxMongo calls it.  Deprecated.
        """
        deprecated("collection_names", "list_collection_names")
        return self.list_collection_names(batch_size=batch_size or None, **options)


def _collection_name(name_or_collection: str | Collection[Any]) -> str:
    if isinstance(name_or_collection, Collection):
        return name_or_collection.name
    if not isinstance(name_or_collection, str):
        raise TypeError(
            "a collection is named by a string or the collection itself, "
            f"not {type(name_or_collection).__name__}"
        )
    return name_or_collection


class _CursorCommand(CursorCommand):
    """A command document as the user wrote it, answered by a cursor."""

    operation = "runCommand"
    follows_read_preference = True

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> CursorBatch:
        """
        The batch.

        @raise InvalidOperation: the command does not answer with a cursor.
        """
        if "cursor" not in reply:
            raise InvalidOperation(
                f"{next(iter(self._body))} does not answer with a cursor: use command()"
            )
        return super().parse(reply, info)


def _command_document(
    command: str | Mapping[str, Any], value: Any, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    if isinstance(command, str):
        return {command: value, **arguments}
    if not isinstance(command, Mapping):
        raise TypeError(f"command must be a name or a mapping, not {type(command).__name__}")
    if not command:
        raise ValueError("the command document is empty")
    return {**command, **arguments}
