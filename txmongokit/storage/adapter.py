"""
The storage: one collection, whose documents are instances of classes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, overload

import bson
from bson.codec_options import CodecOptions
from bson.objectid import ObjectId
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    fail,
    gatherResults,
    succeed,
)

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool, MongoConnection
from txmongokit.database import Database
from txmongokit.errors import DuplicateKeyError, InvalidOperation, OperationFailure
from txmongokit.storage.documents import Conversion, DocumentClass, DocumentClasses
from txmongokit.storage.errors import MissingKey, shown
from txmongokit.storage.lookups import field_path
from txmongokit.storage.query import QueryAdapter
from txmongokit.storage.values import check_key, equal, identity, refuse_patterns

__all__ = ["StorageAdapter"]

T = TypeVar("T")
ResultT = TypeVar("ResultT")

_HOST, _PORT = "127.0.0.1", 27017
# Keys that are asked for in one message, and their bytes: a message has 16 MiB.
_AT_ONCE = 10_000
_BYTES_AT_ONCE = 8 << 20
# Each failure means that another was quicker, whose document is then there.
_ATTEMPTS = 5
_NO_SUCH_TRANSACTION = 251
_GRACE = 5.0


class _Link:
    """
    A connected collection, and what is under way on it.
    """

    def __init__(self, client: Any, database: str | None, collection: str) -> None:
        self.client = client
        place = client.get_default_database() if database is None else client[database]
        if not isinstance(place, Database):
            raise TypeError(f"{type(client).__name__} is no client: it has no databases")
        own = place[collection]
        self.collection: Collection[dict[str, Any]] = own.with_options(
            own.codec_options.with_options(document_class=dict)
        )
        self._active = 0
        self._idle: Deferred[None] | None = None

    def follow(self, operation: Deferred[ResultT]) -> Deferred[ResultT]:
        """Remember an operation until it has ended."""
        self._active += 1
        return operation.addBoth(self._ended)

    def _ended(self, result: ResultT) -> ResultT:
        self._active -= 1
        if not self._active and self._idle is not None:
            self._idle.callback(None)
            self._idle = None
        return result

    async def retire(self, grace: float) -> None:
        """Close the client, when all has ended or the time is over."""
        if self._active and grace > 0:
            self._idle = Deferred()
            waits = [self._idle, self.client.sleep(grace)]
            try:
                ended: Any = await DeferredList(waits, fireOnOneCallback=True, consumeErrors=True)
                if isinstance(ended, list):  # Neither has ended as it should.
                    raise CancelledError
            finally:
                self._idle = None
                waits[1].cancel()
                await self.client.disconnect()
        else:
            await self.client.disconnect()


class _Reconnection:
    """
    A reconnection, for all who ask for one while it is under way.
    """

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []
        self._work: Deferred[None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for it; it was cancelled otherwise."""
        return bool(self._waiting)

    def begin(self, work: Deferred[None]) -> None:
        """Tell everybody how it ends."""
        self._work = work
        work.addBoth(self._tell)

    def join(self) -> Deferred[None]:
        """Wait for it, too.  It is cancelled when the last of all has gone."""
        waiting: Deferred[None] = Deferred(self._leave)
        self._waiting.append(waiting)
        return waiting

    def _leave(self, waiting: Deferred[None]) -> None:
        self._waiting.remove(waiting)
        if not self._waiting and self._work is not None:
            self._work.cancel()

    def _tell(self, result: Any) -> None:
        everybody, self._waiting = self._waiting, []
        for waiting in everybody:
            waiting.callback(result)


class StorageAdapter:
    """
    Documents in one collection, by their primary keys or by queries.

    Nothing is connected before the first use.  Methods return a L{Deferred}
    and start at once; wrong arguments raise L{TypeError} or L{ValueError} at
    once, and what goes wrong later is one of L{txmongokit.errors}, or
    L{Misfit} for a document that does not fit its class.  Cancelling stops the
    wait, not what the server does.  Within C{async with session.bind():} all is
    part of that session.

    The classes of documents are C{dict} and its subclasses, dataclasses, attrs
    classes and pydantic's models.  A document's C{_id} is its primary key: the
    field C{_id} or C{pk} of a class, whichever it has; a class without one
    does not see it.

    @param host: the server's name or address.
    @param port: its port.
    @param database: the database's name; may be left out where C{uri} has it.
    @param collection: the collection's name.
    @param uri: a connection string, instead of C{host} and C{port}.
    @param client: a client that is there already, instead; it is never closed.
    @param key_field: the name of the field that is the key, if it is neither
        C{_id} nor C{pk}.
    @param converter: C{structure(document, cls)} and C{unstructure(object)}
        for classes other than C{dict}'s and pydantic's; a converter of
        C{cattrs} by default.
    @param options: arguments of L{txmongokit.connection.ConnectionPool}.

    @raise TypeError: a name is missing, or arguments exclude one another.
    @raise txmongokit.errors.ConfigurationError: an option's value is not
        allowed, or C{database} is nowhere.
    """

    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        database: str | None = None,
        collection: str | None = None,
        uri: str | None = None,
        client: Any = None,
        key_field: str | None = None,
        converter: Conversion | None = None,
        **options: Any,
    ) -> None:
        if collection is None or (database is None and uri is None and client is None):
            raise TypeError("a storage needs the names of its database and its collection")
        ways = [host is not None or port is not None, uri is not None, client is not None]
        if sum(ways) > 1:
            raise TypeError("a storage takes host and port, or uri, or client: only one of these")
        if client is not None and options:
            raise TypeError(f"a client already has its options: {', '.join(sorted(options))}")
        self._borrowed = client is not None
        self._classes = DocumentClasses(key_field, converter)

        def link() -> _Link:
            own: ConnectionPool[Any]
            if client is not None:
                return _Link(client, database, collection)
            if uri is not None:
                own = ConnectionPool(uri, **options)
            else:
                own = MongoConnection(host or _HOST, _PORT if port is None else port, **options)
            return _Link(own, database, collection)

        self._connect = link
        self._link = link()
        self._retiring: set[_Link] = set()
        self._reconnection: _Reconnection | None = None

    def __repr__(self) -> str:
        return f"<StorageAdapter {self.collection.full_name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.close()

    @property
    def collection(self) -> Collection[dict[str, Any]]:
        """
        The collection, for indexes and for what else it can do.  Ask for it
        at each use: L{reconnect} changes it.
        """
        return self._link.collection

    def during(
        self, operation: Callable[[Collection[dict[str, Any]]], Awaitable[ResultT]]
    ) -> Deferred[ResultT]:
        """
        Run an operation on the collection, which L{reconnect} then waits for.
        """
        link = self._link

        async def run() -> ResultT:
            return await operation(link.collection)

        return link.follow(Deferred.fromCoroutine(run()))

    # The connection.

    def reconnect(self, grace: float = _GRACE) -> Deferred[None]:
        """
        Close the connections and connect again.  What begins from now on uses
        the new ones; what is under way may end first, but for C{async for}
        loops, which fail with their next batch.  While one reconnection is
        under way, others wait for the same.

        @param grace: how long to wait for what is under way, in seconds;
            after that it fails with L{txmongokit.errors.AutoReconnect}.
        @return: fires with C{None} when a server has been found; fails with
            L{txmongokit.errors.ServerSelectionTimeoutError} where there is
            none, L{InvalidOperation} where the client was given, or one of
            L{InvalidOperation} and L{txmongokit.errors.AutoReconnect} where
            the storage is closed meanwhile.  Cancelling ends the wait: with
            that of the last who waits, the old connections are closed at once.
        """
        if self._borrowed:
            return fail(InvalidOperation("the client was given: whoever made it reconnects it"))
        if self._reconnection is not None and self._reconnection.is_awaited:
            return self._reconnection.join()
        old, self._link = self._link, self._connect()
        self._retiring.add(old)
        self._reconnection = reconnection = _Reconnection()
        waiting = reconnection.join()
        reconnection.begin(Deferred.fromCoroutine(self._change(reconnection, old, grace)))
        return waiting

    async def _change(self, reconnection: _Reconnection, old: _Link, grace: float) -> None:
        new = self._link
        try:
            await old.retire(grace)
            await new.client["admin"].command("ping")
        finally:
            self._retiring.discard(old)
            if self._reconnection is reconnection:
                self._reconnection = None

    def close(self) -> Deferred[None]:
        """
        Close the connections, unless the client was given, and those that
        L{reconnect} has still left open.  Operations under way fail with
        L{txmongokit.errors.AutoReconnect}.

        @return: fires with C{None} when they are closed.
        """
        if self._borrowed:
            return succeed(None)
        self._reconnection = None
        links = [self._link, *self._retiring]
        closed = gatherResults([Deferred.fromCoroutine(link.retire(0)) for link in links])
        return closed.addCallback(lambda _: None)

    # By keys.

    def get(self, model: type[T], primary_key: Any) -> Deferred[T]:
        """
        The document with a key.

        @return: fires with an instance of C{model}; fails with L{MissingKey},
            a L{KeyError}, where there is none.
        """
        kind = self._classes.of(model)
        wanted = equal("_id", check_key(primary_key))

        async def get(collection: Collection[dict[str, Any]]) -> T:
            document = await collection.find_one(wanted)
            if document is None:
                raise MissingKey(collection.full_name, [primary_key])
            return kind.decode(document, collection.full_name)

        return self.during(get)

    def get_many(self, doc_class: type[T], primary_keys: Iterable[Any]) -> Deferred[list[T]]:
        """
        The documents with some keys, in the order of these, and as often.

        @return: fires with instances of C{doc_class}; fails with
            L{MissingKey}, a L{KeyError}, which names each key that there is no
            document with.
        """
        kind = self._classes.of(doc_class)
        if isinstance(primary_keys, str | bytes | Mapping):
            raise TypeError(f"primary_keys is a list, not {type(primary_keys).__name__}")
        keys = [check_key(key) for key in primary_keys]

        async def get_many(collection: Collection[dict[str, Any]]) -> list[T]:
            found: dict[Any, dict[str, Any]] = {}
            asked = list({identity(key): key for key in keys}.values())
            for some in _portions(asked, collection.codec_options):
                async for document in collection.find({"_id": {"$in": some}}):
                    found[identity(document["_id"])] = document
            missing = [key for key in keys if identity(key) not in found]
            if missing:
                raise MissingKey(collection.full_name, missing)
            return [kind.decode(found[identity(key)], collection.full_name) for key in keys]

        return self.during(get_many)

    def save(self, data: Any, primary_key: Any = None) -> Deferred[Any]:
        """
        Save a document: in place of the one with its key, or as a new one,
        with this key or with one that is made.

        C{data} itself does not change: a key that was made is only returned,
        and without it the next C{save} makes a copy.

        @param data: an instance of a class of documents, or any mapping.
        @param primary_key: the key; without it, what C{data} has in the field
            for the key.
        @return: fires with the key.
        @raise ValueError: C{data} has another key.
        """
        document = self._classes.of(type(data)).encode(data)
        key = document.get("_id")
        if primary_key is not None:
            check_key(primary_key)
            if key is not None and identity(key) != identity(primary_key):
                raise ValueError(
                    f"the document has the key {shown(key)}, not {shown(primary_key)}: for a "
                    "copy, save it without its own"
                )
            key = primary_key
        # The server's own _id stays: it may be of another type, as 1 and 1.0 are one key.
        fields = {name: value for name, value in document.items() if name != "_id"}

        async def save(collection: Collection[dict[str, Any]]) -> Any:
            if key is None:
                return (await collection.insert_one(fields)).inserted_id
            await collection.replace_one(equal("_id", key), fields, upsert=True)
            return key

        return self.during(save)

    def delete(self, primary_key: Any) -> Deferred[bool]:
        """
        Delete the document with a key, permanently.

        @return: fires with whether there was one.
        """
        wanted = equal("_id", check_key(primary_key))

        async def delete(collection: Collection[dict[str, Any]]) -> bool:
            return (await collection.delete_one(wanted)).deleted_count > 0

        return self.during(delete)

    def clear(self) -> Deferred[int]:
        """
        Delete all documents.  The collection and its indexes stay.

        @return: fires with how many there were.
        """

        async def clear(collection: Collection[dict[str, Any]]) -> int:
            return (await collection.delete_many({})).deleted_count

        return self.during(clear)

    # By conditions.

    @overload
    def find(self, /, doc_class: type[T], **conditions: Any) -> QueryAdapter[T]: ...

    @overload
    def find(self, /, **conditions: Any) -> QueryAdapter[dict[str, Any]]: ...

    def find(self, /, doc_class: Any = dict, **conditions: Any) -> QueryAdapter[Any]:
        """
        The documents that meet some conditions, or all, as instances of a
        class.  Nothing is sent before the query is used.

        @param conditions: see L{QueryAdapter.where}.
        """
        query = QueryAdapter(self, self._classes.of(doc_class))
        return query.where(**conditions) if conditions else query

    def get_or_create(
        self, /, doc_class: type[T], *, defaults: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Deferred[tuple[T, bool]]:
        """
        A document with some values, the first that is found; where there is
        none, one is created, in the same operation of the server.

        Any number of these at once, for the same values, create one document
        if there is a unique index on the fields, or the key is one of them.
        Without, two that find nothing at the same moment may both create one.

        @param defaults: other fields of a document that is created.
        @param kwargs: fields with their values, without lookups.
        @return: fires with the document and whether it was created; fails
            with L{txmongokit.errors.DuplicateKeyError} where a new document
            would collide with one that has other values.
        @raise TypeError: there are no fields, or the class has none of that
            name.
        @raise ValueError: the values make no instance of the class.
        """
        kind = self._classes.of(doc_class)
        wanted, document = _wanted_and_new(kind, kwargs, defaults or {})

        async def get_or_create(collection: Collection[dict[str, Any]]) -> tuple[T, bool]:
            attempt = 1
            duplicate: DuplicateKeyError | None = None
            while True:
                try:
                    found = await collection.find_one_and_update(
                        wanted, {"$setOnInsert": document}, upsert=True
                    )
                except DuplicateKeyError as error:
                    if attempt == _ATTEMPTS:
                        raise
                    attempt += 1
                    duplicate = error
                    continue
                except OperationFailure as error:
                    if duplicate is not None and error.code == _NO_SUCH_TRANSACTION:
                        # It has ended with the duplicate, which would be so in any other.
                        raise duplicate from None
                    raise
                # A new one as it is read later: with dates to the millisecond, for one.
                codec = collection.codec_options
                stored = found or bson.decode(bson.encode(document, False, codec), codec)
                return kind.decode(stored, collection.full_name), found is None

        return self.during(get_or_create)


def _portions(keys: Iterable[Any], codec: CodecOptions[Any]) -> Iterator[list[Any]]:
    """What of some keys has room in one message."""
    some: list[Any] = []
    size = 0
    for key in keys:
        length = len(bson.encode({"": key}, False, codec))
        if some and (len(some) == _AT_ONCE or size + length > _BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(key)
        size += length
    if some:
        yield some


def _wanted_and_new(
    kind: DocumentClass[Any], fields: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The filter for a document with some values, and a new such document.
    """
    if not fields:
        raise TypeError("get_or_create needs a field to find documents by")
    values: dict[str, Any] = {}
    for name, value in (*fields.items(), *defaults.items()):
        path = field_path(name, kind.names)
        if "." in path:
            raise ValueError(f"{name!r}: get_or_create takes no fields within fields")
        if path in values:
            raise ValueError(f"{name!r} is given twice")
        values[path] = kind.plain(value)
    document = _new(kind, values)
    wanted: dict[str, Any] = {}
    for name in fields:
        path = field_path(name, kind.names)
        if path not in document:
            raise ValueError(f"a new {kind.name} has no field {name!r}")
        refuse_patterns(name, document[path])
        wanted.update(equal(path, document[path]))
    return wanted, document


def _new(kind: DocumentClass[Any], values: dict[str, Any]) -> dict[str, Any]:
    """A document of a class, with some values and the class's defaults."""
    has_key = "_id" in values
    key = check_key(values.pop("_id")) if has_key else ObjectId()
    if has_key and kind.names.key:
        values = {kind.names.key: key, **values}
    try:
        made = kind.structure(values)
    except Exception as error:
        # As with documents that are read.
        raise ValueError(f"these fields make no {kind.name}: {kind.explain(error)}") from None
    document = {"_id": key, **kind.encode(made)}
    for name in document:
        if "." in name:
            raise ValueError(f"{name!r} cannot be the name of a field here")
    return document
