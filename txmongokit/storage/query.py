"""
Queries: what to find, in which order, from where to where.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar, overload

from twisted.internet.defer import Deferred, succeed

from txmongokit.collection import Collection
from txmongokit.cursor import CommandCursor
from txmongokit.errors import OperationFailure
from txmongokit.storage.documents import DocumentClass
from txmongokit.storage.lookups import Clause, clauses, field_path, filter_of

__all__ = ["Documents", "QueryAdapter", "Source"]

T = TypeVar("T")
ResultT = TypeVar("ResultT")

_DISTINCT_TOO_BIG = 17217


class Source(Protocol):
    """
    Where documents come from.
    """

    @property
    def collection(self) -> Collection[dict[str, Any]]:
        """The collection as it is connected now."""

    def during(
        self, operation: Callable[[Collection[dict[str, Any]]], Awaitable[ResultT]]
    ) -> Deferred[ResultT]:
        """Run an operation on it, which a reconnection waits for."""


class Documents(Generic[T]):
    """
    A run through the documents that a query finds, for C{async for}.

    One that is dropped before its end has its cursor closed soon after it is
    garbage; L{close} does so at once.
    """

    def __init__(
        self, cursor: CommandCursor[dict[str, Any]] | None, kind: DocumentClass[T], place: str
    ) -> None:
        self._cursor = cursor
        self._kind = kind
        self._place = place

    def __aiter__(self) -> Documents[T]:
        return self

    async def __anext__(self) -> T:
        if self._cursor is None:
            raise StopAsyncIteration
        return self._kind.decode(await self._cursor.__anext__(), self._place)

    def close(self) -> Deferred[None]:
        """
        End it.

        @return: fires with C{None} when the server has been told.
        """
        return succeed(None) if self._cursor is None else self._cursor.close()


@dataclass(frozen=True)
class _Range:
    """Which of the documents found: C{limit} is C{None} for all."""

    skip: int = 0
    limit: int | None = None

    def within(self, start: int | None, stop: int | None) -> _Range:
        """A part of it."""
        first = start or 0
        ends = [end for end in (stop, self.limit) if end is not None]
        limit = max(0, min(ends) - first) if ends else None
        return _Range(self.skip + first, limit)

    @property
    def options(self) -> dict[str, Any]:
        """It as options of C{find} and its kin."""
        options: dict[str, Any] = {"skip": self.skip} if self.skip else {}
        return options if self.limit is None else {**options, "limit": self.limit}

    @property
    def stages(self) -> list[dict[str, Any]]:
        """It as stages of a pipeline."""
        return [{f"${name}": number} for name, number in self.options.items()]


class QueryAdapter(Generic[T]):
    """
    A query.  It never changes: every method that says more returns another.

    Nothing is sent before it is used, in one of these ways, each of which asks
    the server anew::

        documents = await query                # a list
        documents = yield query.to_list()      # under inlineCallbacks
        async for document in query: ...
        fifth = await query[4]
        some = await query[5:10]

    Methods that ask the server return a L{Deferred} and start at once; it
    fails with one of L{txmongokit.errors}, or with L{Misfit} for a document
    that does not fit the class.  Cancelling one stops the wait.
    """

    def __init__(
        self,
        source: Source,
        kind: DocumentClass[T],
        found: tuple[Clause, ...] = (),
        order: tuple[tuple[str, int], ...] = (),
        part: _Range | None = None,
    ) -> None:
        self._source = source
        self._kind = kind
        self._found = found
        self._order = order
        self._part = part or _Range()

    def _other(self, **changes: Any) -> QueryAdapter[T]:
        has = {"found": self._found, "order": self._order, "part": self._part}
        return QueryAdapter(self._source, self._kind, **{**has, **changes})

    def __repr__(self) -> str:
        return f"<QueryAdapter of {self._kind.name} in {self._source.collection.full_name}>"

    def __bool__(self) -> NoReturn:
        raise TypeError("a query is neither true nor false: await its count() or first()")

    # Without these Python would go through the indices, without an end.
    __iter__ = None
    __contains__ = None

    @property
    def filter(self) -> dict[str, Any]:
        """
        The server's filter that the conditions make, for what else the
        collection can do.
        """
        return dict(filter_of(self._found))

    # Saying more.

    def where(self, /, **conditions: Any) -> QueryAdapter[T]:
        """
        Those documents that meet every condition, too.

        @param conditions: fields with their values, or with a lookup of
            L{LOOKUPS} behind C{__}: C{age__gt=5}; C{a__b} is the field C{b}
            of the document C{a}.
        @raise TypeError: there is no such field or lookup, or it takes values
            of another type.
        @raise ValueError: a value is out of what the lookup takes.
        """
        return self._narrowed(self._clauses(conditions))

    def where_not(self, /, **conditions: Any) -> QueryAdapter[T]:
        """
        Those documents that meet none of the conditions; among them are those
        without the field.

        @param conditions: as in L{where}.
        """
        found = self._clauses(conditions)
        return self._narrowed([{"$nor": found}] if found else [])

    def _clauses(self, conditions: dict[str, Any]) -> list[Clause]:
        return clauses(conditions, self._kind.names, self._kind.plain)

    def _narrowed(self, more: list[Clause]) -> QueryAdapter[T]:
        self._refuse_part("the conditions come before it")
        return self._other(found=(*self._found, *more))

    def order_by(self, *names: str | Sequence[str], reverse: bool = False) -> QueryAdapter[T]:
        """
        The documents in an order, instead of any that was given before.

        @param names: fields, or lists of them, the most important first; a
            C{-} before a name is for descending order.  No names are for no
            order.
        @param reverse: the other way round, each of them.
        @raise TypeError: there is no such field.
        """
        self._refuse_part("the order comes before it")
        order: dict[str, int] = {}
        for given in names:
            for name in [given] if isinstance(given, str) else given:
                descends = name.startswith("-")
                path = field_path(name[1:] if descends else name, self._kind.names)
                if path in order:
                    raise ValueError(f"{path!r} is in the order twice")
                order[path] = -1 if descends is not reverse else 1
        return self._other(order=tuple(order.items()))

    @overload
    def __getitem__(self, index: int) -> Deferred[T]: ...

    @overload
    def __getitem__(self, index: slice) -> QueryAdapter[T]: ...

    def __getitem__(self, index: int | slice) -> Deferred[T] | QueryAdapter[T]:
        """
        One of the documents, by its place; or a part of them, as a query.

        Without L{order_by} their order is the server's, and may change from
        one use to the next.

        @return: for a number, fires with the document; fails with
            L{IndexError} where there are not as many.
        @raise ValueError: a number is negative, or a slice has a step.
        """
        if isinstance(index, slice):
            if index.step not in (None, 1):
                raise ValueError("a query has no slices with a step")
            for bound in (index.start, index.stop):
                if bound is not None:
                    _check_place(bound)
            return self._other(part=self._part.within(index.start, index.stop))
        _check_place(index)
        one = self._other(part=self._part.within(index, index + 1))

        def only(documents: list[T]) -> T:
            if not documents:
                raise IndexError(f"the query finds no document number {index}")
            return documents[0]

        return one.to_list().addCallback(only)

    def _refuse_part(self, what: str) -> None:
        if self._part != _Range():
            raise TypeError(f"the query is a slice: {what}")

    # Asking the server.

    def _cursor(
        self, collection: Collection[dict[str, Any]]
    ) -> CommandCursor[dict[str, Any]] | None:
        if self._part.limit == 0:
            return None  # To the server it would be all of them.
        order = list(self._order) or None
        return collection.find(self.filter, sort=order, **self._part.options)

    def __aiter__(self) -> Documents[T]:
        collection = self._source.collection
        return Documents(self._cursor(collection), self._kind, collection.full_name)

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self.to_list().__await__()

    def to_list(self) -> Deferred[list[T]]:
        """
        All the documents.
        """
        return self._source.during(self._all)

    async def _all(self, collection: Collection[dict[str, Any]]) -> list[T]:
        cursor = self._cursor(collection)
        documents = [] if cursor is None else await cursor
        return [self._kind.decode(document, collection.full_name) for document in documents]

    def first(self) -> Deferred[T | None]:
        """
        The first of the documents.

        @return: fires with it, or with C{None} where there is none.
        """
        first = self._other(part=self._part.within(0, 1)).to_list()
        return first.addCallback(lambda documents: documents[0] if documents else None)

    def count(self) -> Deferred[int]:
        """
        How many documents there are: the server counts.
        """
        if self._part.limit == 0:
            return succeed(0)
        return self._source.during(
            lambda collection: collection.count_documents(self.filter, **self._part.options)
        )

    def values(self, name: str) -> Deferred[list[Any]]:
        """
        The different values of a field in the documents: the server finds
        them, with C{distinct} or, for a slice or for more than the 16 MB of
        that, with a pipeline.  Of lists, it is their members.

        @param name: a field; C{a__b} is the field C{b} of the document C{a}.
        @return: fires with the values as they are stored, in no order.
        @raise TypeError: there is no such field.
        @raise ValueError: it cannot be a field's name.
        """
        path = field_path(name, self._kind.names)
        if self._part != _Range() and _has_place(path):
            raise ValueError(f"{name!r}: of a slice there are no values at a place in lists")
        if self._part.limit == 0:
            return succeed([])
        return self._source.during(lambda collection: self._values(collection, path))

    async def _values(self, collection: Collection[dict[str, Any]], path: str) -> list[Any]:
        whole = self._part == _Range()
        if whole:
            try:
                return await collection.distinct(path, self.filter)
            except OperationFailure as error:
                if error.code != _DISTINCT_TOO_BIG or _has_place(path):
                    raise
        stages: list[dict[str, Any]] = [{"$match": self.filter}]
        if not whole:
            stages += [{"$sort": dict(self._order)}] if self._order else []
            stages += self._part.stages
        stages += [*_members(path), {"$group": {"_id": "$value"}}]
        return [each["_id"] async for each in collection.aggregate(stages, allow_disk_use=True)]

    def delete(self) -> Deferred[int]:
        """
        Delete the documents, permanently.

        @return: fires with how many there were.
        @raise TypeError: the query is a slice, which servers cannot delete.
        """
        self._refuse_part("delete() is for all that its conditions find")
        return self._source.during(self._delete)

    async def _delete(self, collection: Collection[dict[str, Any]]) -> int:
        return (await collection.delete_many(self.filter)).deleted_count


def _check_place(place: object) -> None:
    if isinstance(place, bool) or not isinstance(place, int):
        raise TypeError(f"places are whole numbers, not {type(place).__name__}")
    if place < 0:
        raise ValueError(f"places are counted from the beginning: {place} is none")


def _has_place(path: str) -> bool:
    return any(part.isdigit() for part in path.split("."))


def _members(path: str) -> list[dict[str, Any]]:
    """Stages that give the values of a field as C{distinct} sees them."""
    parts = path.split(".")
    stages: list[dict[str, Any]] = []
    for count in range(1, len(parts)):
        outer = ".".join(parts[:count])
        # Of lists within lists it does not see the members' fields.
        stages += [{"$unwind": f"${outer}"}, {"$match": {outer: {"$not": {"$type": "array"}}}}]
    field = f"${path}"
    alone = {"$cond": [{"$eq": [{"$type": field}, "missing"]}, [], [field]]}
    members = {"$cond": [{"$isArray": field}, field, alone]}
    return [*stages, {"$project": {"_id": 0, "value": members}}, {"$unwind": "$value"}]
