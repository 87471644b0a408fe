"""
Where a bucket's collections are, and what uploads and downloads share.
"""

from __future__ import annotations

import datetime
import io
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from bson.timestamp import Timestamp
from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import Deferred
from zope.interface import implementer

from txmongokit._sansio.commands.base import Command, CommandOptions
from txmongokit._sansio.transactions import SessionState
from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import ConfigurationError, InvalidOperation
from txmongokit.interfaces import IOperationRunner
from txmongokit.scope import changed, options_of
from txmongokit.sessions import ClientSession

__all__ = [
    "DEFAULT_CHUNK_SIZE",
    "FIELDS",
    "Place",
    "Stream",
    "check_chunk_size",
    "check_name",
    "check_session",
    "equal_to",
    "place_of",
]

ResultT = TypeVar("ResultT")

DEFAULT_CHUNK_SIZE = 255 * 1024
"""
Bytes of a file's content in each chunk.
"""

FIELDS = {
    "name": "filename",
    "content_type": "contentType",
    "chunk_size": "chunkSize",
    "upload_date": "uploadDate",
}
"""
Attributes of streams that are fields of the file's document by another name.
"""

_FILES_INDEX = [("filename", 1), ("uploadDate", 1)]
_CHUNKS_INDEX = [("files_id", 1), ("n", 1)]

# What a server compares by value in a query. Documents and regular
# expressions would be taken for operators and patterns.
_COMPARED = (
    ObjectId,
    str,
    bytes,
    int,
    float,
    uuid.UUID,
    datetime.datetime,
    Decimal128,
    Timestamp,
)


def equal_to(value: Any) -> Any:
    """
    A condition that C{value} alone meets, whatever it is.
    """
    return value if isinstance(value, _COMPARED) else {"$eq": value}


def check_name(argument: str, name: object) -> None:
    """
    @raise TypeError: it is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a string, not {type(name).__name__}")


def check_chunk_size(size: object) -> None:
    """
    @raise TypeError: it is no whole number.
    @raise ValueError: it is less than one.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"chunk_size_bytes must be a whole number, not {type(size).__name__}")
    if size < 1:
        raise ValueError(f"chunk_size_bytes must be at least 1, not {size}")


def check_session(session: ClientSession | None) -> None:
    """
    @raise InvalidOperation: it is in a transaction.
    """
    if session is not None and session.in_transaction:
        raise InvalidOperation("GridFS does not support multi-document transactions")


@implementer(IOperationRunner)
class _Limited:
    """
    A runner whose commands all belong to one operation with one deadline.
    """

    def __init__(self, runner: IOperationRunner, at: float) -> None:
        self._runner = runner
        self._at = at
        self.options = runner.options

    def _limit(self, command: Command[Any]) -> None:
        # A cursor that ran out of time is killed all the same.
        if command.deadline is None and command.name != "killCursors":
            command.deadline = self._at

    def run(self, command: Command[Any], session: SessionState | None = None) -> Deferred[Any]:
        """With the deadline."""
        self._limit(command)
        result: Deferred[Any] = self._runner.run(command, session)
        return result

    def run_in_order(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> Deferred[list[Any]]:
        """With the deadline."""

        def limited() -> Iterator[Command[Any]]:
            for command in commands:
                self._limit(command)
                yield command

        result: Deferred[list[Any]] = self._runner.run_in_order(limited(), session)
        return result

    def stream(
        self,
        command: Command[Any],
        session: SessionState | None,
        on_result: Callable[[Any], Deferred[None] | None],
    ) -> Deferred[None]:
        """With the deadline."""
        self._limit(command)
        result: Deferred[None] = self._runner.stream(command, session, on_result)
        return result

    def seconds(self) -> float:
        """The runner's."""
        return float(self._runner.seconds())

    def sleep(self, seconds: float) -> Deferred[None]:
        """The runner's."""
        result: Deferred[None] = self._runner.sleep(seconds)
        return result

    def soon(self, function: Callable[[], object]) -> None:
        """The runner's."""
        self._runner.soon(function)

    def deadline(self, options: CommandOptions) -> float | None:
        """That of the whole."""
        return self._at

    def take_session(self, **options: Any) -> SessionState:
        """The runner's."""
        state: SessionState = self._runner.take_session(**options)
        return state

    def release_session(self, session: SessionState) -> None:
        """The runner's."""
        self._runner.release_session(session)


class Place:
    """
    Where a bucket's two collections are, and how they are used.

    @param database: the database.
    @param name: the bucket's.
    @param options: what is not to be inherited from the database.
    @ivar indexed: whether the indexes have been seen to.

    @raise ConfigurationError: writes would not be acknowledged.
    """

    def __init__(self, database: Database, name: str, options: dict[str, Any]) -> None:
        inherited = changed(options_of(database), options)
        if not inherited.write_concern.acknowledged:
            raise ConfigurationError(
                "GridFS needs an acknowledged write concern: give another write_concern than w=0"
            )
        # Types that the user registered do not belong into GridFS's own fields.
        codec = inherited.codec_options.with_options(type_registry=None)
        self.options = replace(inherited, codec_options=codec)
        self.database = database
        self.name = name
        self.indexed = False
        self._runner: IOperationRunner = database.client

    def deadline(self, timeout: float | None) -> float | None:
        """
        When an operation that begins now must have ended; see
        L{IOperationRunner.deadline}.
        """
        at: float | None = self._runner.deadline(self.limited(timeout))
        return at

    def limited(self, timeout: float | None) -> CommandOptions:
        """The options, with another limit where one is given."""
        return self.options if timeout is None else replace(self.options, timeout=timeout)

    def collection(
        self, part: str, deadline: float | None = None, **options: Any
    ) -> Collection[Any]:
        """
        One of the two collections.

        @param part: C{"files"} or C{"chunks"}.
        @param deadline: of the operation that its commands belong to.
        """
        runner = self._runner if deadline is None else _Limited(self._runner, deadline)
        return Collection.within(
            runner, self.database, f"{self.name}.{part}", changed(self.options, options)
        )

    def for_writing(self, part: str, deadline: float | None) -> Collection[Any]:
        """
        One of the two collections, read on the primary.
        """
        return self.collection(part, deadline, read_preference=ReadPreference.PRIMARY)

    async def ensure_indexes(self, deadline: float | None, session: ClientSession | None) -> None:
        """
        Before the first write: where there are no files yet, make sure that
        there are indexes.
        """
        if self.indexed:
            return
        files = self.for_writing("files", deadline)
        if await files.find_one({}, {"_id": 1}, session=session) is None:
            await self._ensure_index(files, _FILES_INDEX, False, session)
            chunks = self.for_writing("chunks", deadline)
            await self._ensure_index(chunks, _CHUNKS_INDEX, True, session)
        self.indexed = True

    async def _ensure_index(
        self,
        collection: Collection[Any],
        keys: list[tuple[str, int]],
        unique: bool,
        session: ClientSession | None,
    ) -> None:
        known = await collection.index_information(session=session)
        if not any(index["key"] == keys for index in known.values()):
            options = {"unique": True} if unique else {}
            await collection.create_index(keys, session=session, **options)


def place_of(root_collection: Collection[Any]) -> Place:
    """
    The bucket that is named as a collection, used as that is.
    """
    if not isinstance(root_collection, Collection):
        raise TypeError(
            f"root_collection must be a Collection, not {type(root_collection).__name__}"
        )
    options = options_of(root_collection)
    return Place(
        root_collection.database,
        root_collection.name,
        {name: getattr(options, name) for name in CommandOptions.__slots__},
    )


class Stream:
    """
    What upload and download streams have in common: one call at a time, and
    what files have and these have not.
    """

    _busy = False

    def isatty(self) -> bool:
        """
        No.
        """
        return False

    def fileno(self) -> NoReturn:
        """
        @raise UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("a file in GridFS has no descriptor")

    def alone(
        self, work: Callable[..., Coroutine[Any, Any, ResultT]], *arguments: Any
    ) -> Deferred[ResultT]:
        """
        Start work that nothing else of this file may overlap.

        @raise InvalidOperation: something is under way.
        """
        if self._busy:
            raise InvalidOperation("another call on this file is under way: wait for it first")
        return Deferred.fromCoroutine(self._run(work(*arguments)))

    async def _run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        self._busy = True
        try:
            return await work
        finally:
            self._busy = False
