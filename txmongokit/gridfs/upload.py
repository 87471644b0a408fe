"""
Uploads: streams that become files.
"""

from __future__ import annotations

import datetime
import hashlib
import io
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, NoReturn, Self

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId
from gridfs.errors import FileExists
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer, IProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from txmongokit.collection import Collection
from txmongokit.errors import ConnectionFailure, DuplicateKeyError, InvalidOperation, PyMongoError
from txmongokit.gridfs.place import (
    DEFAULT_CHUNK_SIZE,
    FIELDS,
    Place,
    Stream,
    check_chunk_size,
    check_session,
    equal_to,
    place_of,
)
from txmongokit.sessions import ClientSession

__all__ = ["GridIn", "upload"]

# One insert carries as much, and one more is gathered while it is under way.
_UPLOAD_BYTES = 4 << 20
_UPLOAD_CHUNKS = 1000
# How long removing what a failed upload has left may take.
_REMOVAL_SECONDS = 10.0
_SET_BY_US = frozenset({"_id", "chunkSize", "length", "uploadDate", "md5", "closed"})


@implementer(IConsumer)
class GridIn(Stream):
    """
    An upload.  Made by L{GridFSBucket.open_upload_stream}.

    The file becomes visible when L{close} has fired, whole or not at all: an
    upload that fails or is cancelled is over, and its chunks are removed;
    only where the server cannot be reached any more they stay behind.

    Attributes that begin with no underscore are fields of the file's
    document (C{filename}, C{metadata}, ...) and can be set until it is
    closed; C{length}, C{chunk_size} and C{upload_date} cannot.

    C{async with} closes it, or aborts it after an exception.

    It is an L{IConsumer}, too: while a producer is registered, what
    L{write} is given waits its turn, and the producer pauses while no more
    can be taken.  An error then stops the producer, and L{close} fails with it.

    @param root_collection: the collection named as the bucket is.
    @param session: for all of its commands; they then follow one another.
    @param fields: of the file's document: C{_id}, C{filename},
        C{chunk_size}, C{metadata}, ...; C{encoding} is what L{write} encodes
        strings with; C{md5=True} asks for the sum of the content, which is
        computed here and is C{md5} once the file is closed.
    """

    def __init__(
        self,
        root_collection: Collection[Any],
        session: ClientSession | None = None,
        **fields: Any,
    ) -> None:
        self._open(place_of(root_collection), session, None, fields)

    def _open(
        self,
        place: Place,
        session: ClientSession | None,
        deadline: float | None,
        fields: dict[str, Any],
    ) -> Self:
        check_session(session)
        file = {"_id": fields.pop("_id", None)}
        if file["_id"] is None:
            file["_id"] = ObjectId()
        file.update({FIELDS.get(name, name): value for name, value in fields.items()})
        check_chunk_size(file.setdefault("chunkSize", DEFAULT_CHUNK_SIZE))
        md5 = file.pop("md5", False)
        if not isinstance(md5, bool):
            raise TypeError(f"md5 must be True or False, not {type(md5).__name__}")
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._place = place
        self._session = session
        self._deadline = deadline
        self._file = file
        self._files = place.for_writing("files", deadline)
        self._chunks = place.for_writing("chunks", deadline)
        self._closed = False
        self._partial = bytearray()  # Less than a chunk.
        self._batch: list[bytes] = []  # Encoded chunks that are not sent yet,
        self._batch_ids: list[ObjectId] = []  # and their ids.
        self._batch_size = 0
        self._number = 0  # Of the next chunk.
        self._kept = 0  # How many chunks the server has acknowledged,
        self._unsure: list[ObjectId] = []  # and those that it may have besides.
        self._position = 0  # Bytes in whole chunks.
        self._inserting = False
        self._failure: BaseException | None = None
        self._waiter: Deferred[None] | None = None
        self._published = False  # Whether the file's document may be there.
        self._producer: Any = None
        self._streaming = False
        self._paused = False  # The producer.
        self._queue: deque[Any] = deque()  # What it has written,
        self._draining: Deferred[None] | None = None  # and what takes that.
        self._work: Deferred[None] | None = None
        self._stopping = False
        self._broken: BaseException | None = None  # Why no more is taken.
        return self

    def __repr__(self) -> str:
        condition = "closed" if self._closed else "open"
        return f"<GridIn {self._file['_id']!r} {condition}>"

    # Fields of the file's document.

    @property
    def _id(self) -> Any:
        return self._file["_id"]

    @property
    def closed(self) -> bool:
        """
        Whether nothing more can be written.
        """
        return self._closed

    def __getattr__(self, name: str) -> Any:
        file = self.__dict__.get("_file", {})
        field = FIELDS.get(name, name)
        if field in file:
            return file[field]
        if field in ("filename", "contentType", "metadata"):
            return None
        if field == "md5" and self._closed:
            return None
        if field in ("length", "uploadDate", "md5"):
            raise AttributeError(f"the file's {name} is known when it has been closed")
        raise AttributeError(f"GridIn object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        field = FIELDS.get(name, name)
        if field in _SET_BY_US:
            raise AttributeError(f"a file's {name} cannot be set")
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif self._closed:
            raise InvalidOperation("this file is closed: use set() to change its document")
        else:
            self._file[field] = value

    def set(self, name: str, value: Any) -> Deferred[None]:
        """
        Set a field of the file's document; after L{close}, in the
        collection.

        @return: fires with C{None} when that is done.
        """
        if not self._closed:
            setattr(self, name, value)
            return succeed(None)
        field = FIELDS.get(name, name)
        if field in _SET_BY_US:
            raise AttributeError(f"a file's {name} cannot be set")
        self._file[field] = value
        updated = self._place.for_writing("files", None).update_one(
            {"_id": equal_to(self._id)}, {"$set": {field: value}}, session=self._session
        )
        return updated.addCallback(lambda result: None)

    # Writing.

    def readable(self) -> bool:
        """
        No.
        """
        return False

    def seekable(self) -> bool:
        """
        No.
        """
        return False

    def writeable(self) -> bool:
        """
        Yes.
        """
        return True

    writable = writeable

    def tell(self) -> int:
        """
        How many bytes have been written.
        """
        return self._position + len(self._partial)

    def write(  # type: ignore[override]  # producers may ignore what it returns
        self, data: Any
    ) -> Deferred[None]:
        """
        Write bytes, or what is left of something with C{read}.  One call at
        a time.

        @param data: bytes; a string where the file has an C{encoding}; or a
            source whose C{read} gives as many bytes as it is asked for, or
            an awaitable of them, and none at the end.
        @return: fires when it can take more: at most one insert is then
            under way and another gathered.  Cancelling it aborts the upload.

        @raise ValueError: the file is closed.
        @raise TypeError: it is neither.
        """
        if self._broken is not None:
            return succeed(None)  # The producer was told to stop; close() says why.
        if self._closed:
            raise ValueError("cannot write to a closed file")
        if self._producer is not None or self._draining is not None:
            return self._take(data)
        read = getattr(data, "read", None)
        if read is not None:
            return self.alone(self._guarded, self._write_from, read)
        return self.alone(self._guarded, self._write, self._bytes(data))

    def _bytes(self, data: Any) -> bytes | bytearray | memoryview:
        if isinstance(data, str):
            encoding = self._file.get("encoding")
            if encoding is None:
                raise TypeError("must specify an encoding for file in order to write str")
            return data.encode(encoding)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"can only write bytes or file-like objects, not {type(data).__name__}")
        return data

    def digest(self) -> str | None:
        """
        The sum of what has been written, or C{None} where none was asked for.
        """
        if self._md5 is None:
            return None
        summed = self._md5.copy()
        summed.update(self._partial)
        return summed.hexdigest()

    def writelines(self, sequence: Iterable[Any]) -> Deferred[None]:
        """
        Write several things; see L{write}.
        """
        return Deferred.fromCoroutine(self._write_all(sequence))

    async def _write_all(self, sequence: Iterable[Any]) -> None:
        for data in sequence:
            await self.write(data)

    def read(self, size: int = -1) -> NoReturn:
        """
        @raise UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("an upload cannot be read: open a download")

    # As a consumer.

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        Take what a producer writes, until L{unregisterProducer}.

        @raise RuntimeError: there is another one.
        """
        if self._producer is not None:
            raise RuntimeError("the file has a producer already: unregister that first")
        if self._closed:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._paused = False
        if not streaming:
            self._start_draining()

    def unregisterProducer(self) -> None:
        """
        The producer has written all it has; L{close} is still to be called.
        """
        self._producer = None
        self._paused = False

    def _take(self, data: Any) -> Deferred[None]:
        self._queue.append(self._bytes(data))
        if self._draining is None:
            self._start_draining()
        pausing = self._draining is not None and self._streaming and not self._paused
        if pausing and self._producer is not None:
            self._paused = True
            self._producer.pauseProducing()
        return succeed(None)

    def _start_draining(self) -> None:
        # Set before the work begins, so that what is written by then waits.
        done: Deferred[None] = Deferred(lambda _: self._stop_draining())
        self._draining = done
        self._work = self.alone(self._drain)
        self._work.addBoth(self._drained, done)

    async def _drain(self) -> None:
        try:
            while True:
                while self._queue:
                    await self._guarded(self._write, self._queue.popleft())
                if self._stopping:
                    await self._give_up(CancelledError())
                if self._stopping or not self._wake():
                    return
        except BaseException as error:
            self._broken = error
            self._queue.clear()
            producer, self._producer = self._producer, None
            if producer is not None:
                producer.stopProducing()

    def _wake(self) -> bool:
        """
        Have the producer go on.

        @return: whether it has written something at once.
        """
        if self._producer is None or (self._streaming and not self._paused):
            return False
        self._paused = False
        self._producer.resumeProducing()
        return bool(self._queue)

    def _drained(self, result: Any, done: Deferred[None]) -> None:
        self._draining = self._work = None
        if not done.called:
            done.callback(None)

    def _stop_draining(self) -> None:
        self._stopping = True
        self._queue.clear()
        if self._work is not None:
            self._work.cancel()

    async def _after_draining(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        if self._draining is not None:
            await self._draining
        if self._broken is not None:
            error, self._broken = self._broken, None
            raise error
        if not self._closed:
            await self.alone(work, *arguments)

    async def _guarded(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Do what must succeed for the upload to go on."""
        try:
            await work(*arguments)
        except BaseException as error:
            await self._give_up(error)
            raise

    async def _write_from(self, read: Callable[[int], Any]) -> None:
        size = self._file["chunkSize"]
        while True:
            data = read(size - len(self._partial))
            if isinstance(data, Awaitable):
                data = await data
            if not data:
                return
            await self._write(data)

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        size = self._file["chunkSize"]
        if not self._partial and len(data) == size:
            await self._add(bytes(data))
            return
        with memoryview(data).cast("B") as view:
            start = 0
            if self._partial:
                start = size - len(self._partial)
                self._partial += view[:start]
                if len(self._partial) < size:
                    return
                whole = bytes(self._partial)
                self._partial.clear()
                await self._add(whole)
            while len(view) - start >= size:
                await self._add(bytes(view[start : start + size]))
                start += size
            self._partial += view[start:]

    async def _add(self, data: bytes) -> None:
        """One more chunk."""
        chunk = {"_id": ObjectId(), "files_id": self._id, "n": self._number, "data": data}
        encoded = bson.encode(chunk, False, self._chunks.codec_options)
        self._batch.append(encoded)
        self._batch_ids.append(chunk["_id"])
        self._batch_size += len(encoded)
        self._number += 1
        self._position += len(data)
        if self._md5 is not None:
            self._md5.update(data)
        if self._batch_size >= _UPLOAD_BYTES or len(self._batch) >= _UPLOAD_CHUNKS:
            await self._send()

    async def _send(self) -> None:
        """Insert what has been gathered, when the insert before is done."""
        await self._place.ensure_indexes(self._deadline, self._session)
        await self._settled()
        if not self._batch:
            return
        batch, self._batch, self._batch_size = self._batch, [], 0
        self._unsure, self._batch_ids = self._batch_ids, []
        self._inserting = True
        inserted = self._chunks.raw_write("insert", batch, retryable=True, session=self._session)
        inserted.addBoth(self._inserted, self._number)
        if self._session is not None:
            await self._settled()

    def _inserted(self, outcome: object, number: int) -> None:
        self._inserting = False
        if not isinstance(outcome, Failure):
            self._kept = number
            self._unsure = []
        elif isinstance(outcome.value, DuplicateKeyError):
            self._failure = self._exists()
        else:
            self._failure = outcome.value
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    async def _settled(self) -> None:
        """Wait for the insert under way, without cancelling it."""
        if self._inserting:
            waiter: Deferred[None] = Deferred()
            self._waiter = waiter
            await waiter
        if self._failure is not None:
            raise self._failure

    def _exists(self) -> FileExists:
        return FileExists(f"file with _id {self._id!r} already exists")

    # Its end.

    def close(self) -> Deferred[None]:
        """
        Write what is left and make the file visible.  Doing so twice, or
        after it failed or was aborted, does nothing.

        @return: fires with C{None}.  Cancelling it aborts the upload.
        @raise FileExists: there is a file with that C{_id}.
        """
        if self._draining is not None or self._broken is not None:
            return Deferred.fromCoroutine(self._after_draining(self._guarded, self._close))
        if self._closed:
            return succeed(None)
        return self.alone(self._guarded, self._close)

    async def _close(self) -> None:
        if self._partial:
            data = bytes(self._partial)
            self._partial.clear()
            await self._add(data)
        await self._send()
        await self._settled()
        file = self._file
        file["length"] = Int64(self._position)
        file["uploadDate"] = datetime.datetime.now(tz=datetime.UTC)
        if self._md5 is not None:
            file["md5"] = self._md5.hexdigest()
        self._published = True
        try:
            await self._files.insert_one(file, session=self._session)
        except DuplicateKeyError:
            self._published = False
            raise self._exists() from None
        self._closed = True

    def abort(self) -> Deferred[None]:
        """
        Write no more and remove the chunks.  The C{timeout} of the upload
        does not count.  Doing so twice, or after L{close}, does nothing.

        @return: fires with C{None} when they are removed.
        """
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self._draining is not None:
            # Its end removes what was written.
            draining = self._draining
            self._stop_draining()
            return Deferred.fromCoroutine(self._after_abort(draining))
        self._broken = None
        if self._closed:
            return succeed(None)
        return self.alone(self._abort)

    async def _after_abort(self, draining: Deferred[None]) -> None:
        await draining
        self._broken = None
        if not self._closed:
            await self._abort()

    async def _abort(self) -> None:
        self._closed = True
        await self._remove(None)

    async def _give_up(self, error: BaseException) -> None:
        self._closed = True
        self._batch.clear()
        self._partial.clear()
        if isinstance(error, ConnectionFailure):
            # Trying would only delay the bad news.
            return
        try:
            await self._remove(_REMOVAL_SECONDS)
        except (PyMongoError, CancelledError):
            pass  # The first error says more.

    async def _remove(self, timeout: float | None) -> None:
        """
        Remove what was sent. That another file with the same C{_id} keeps
        its chunks needs care.
        """
        try:
            await self._settled()
        except PyMongoError:
            pass
        identifier = equal_to(self._id)
        files = self._place.for_writing("files", None)
        chunks = self._place.for_writing("chunks", None)
        session = self._session
        if self._published:
            written = {name: self._file[name] for name in ("uploadDate", "length")}
            await files.delete_one({"_id": identifier, **written}, session=session, timeout=timeout)
        if self._kept:
            ours = {"files_id": identifier, "n": {"$lt": self._kept}}
            await chunks.delete_many(ours, session=session, timeout=timeout)
        if self._unsure:
            await chunks.delete_many(
                {"_id": {"$in": self._unsure}}, session=session, timeout=timeout
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        elif self._draining is not None or self._producer is not None:
            await self.abort()
        elif not self._closed:
            await self.alone(self._give_up, error)


def upload(
    place: Place, session: ClientSession | None, deadline: float | None, fields: dict[str, Any]
) -> GridIn:
    """
    An upload to a bucket.

    @param deadline: of all of its commands.
    @param fields: see L{GridIn}.
    """
    return GridIn.__new__(GridIn)._open(place, session, deadline, fields)
