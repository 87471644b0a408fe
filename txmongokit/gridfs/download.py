"""
Downloads: files as streams.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from bson.codec_options import DEFAULT_CODEC_OPTIONS
from gridfs.errors import CorruptGridFile, NoFile
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer

from txmongokit.collection import Collection
from txmongokit.cursor import Cursor
from txmongokit.errors import CursorNotFound, InvalidOperation
from txmongokit.gridfs.delivery import Delivery
from txmongokit.gridfs.place import FIELDS, Place, Stream, check_session, equal_to, place_of
from txmongokit.sessions import ClientSession

__all__ = ["GridOut", "GridOutCursor", "GridOutIterator", "download"]

# One batch of chunks, while the one before it is read.
_DOWNLOAD_BYTES = 2 << 20
# The same where one call wants so much or more at once: it is to be held anyway.
_READ_BYTES = 15 << 20
_FEWEST_CHUNKS = 4
_OPTIONAL_FIELDS = frozenset(
    {"filename", "contentType", "chunkSize", "uploadDate", "aliases", "metadata", "md5"}
)
_WHOLE = frozenset({"_id", "length", "chunkSize"})


class _Chunks:
    """
    The chunks of one file, read by one cursor and a batch ahead.

    @param collection: where they are.
    @param file: the file's document.
    @param first: the number of the first chunk to read.
    @param batch: how many at once.
    """

    def __init__(
        self,
        collection: Collection[Any],
        file: Mapping[str, Any],
        first: int,
        batch: int,
        session: ClientSession | None,
    ) -> None:
        self._collection = collection.with_options(codec_options=_plain(collection))
        self._id = file["_id"]
        self._size = int(file["chunkSize"])
        self._length = int(file["length"])
        self._count = -(-self._length // self._size)
        self._batch = batch
        self._session = session
        self._ready: deque[Mapping[str, Any]] = deque()
        self._cursor: Cursor[Any] | None = None
        self._ahead: Deferred[list[Any]] | None = None
        self.number = first

    async def next(self) -> bytes:
        """
        The next chunk's data.

        @raise CorruptGridFile: it is missing or not as long as it must be.
        """
        try:
            chunk = await self._next()
            data = self._checked(chunk)
            self.number += 1
            if self.number == self._count:
                await self._check_end()
        except BaseException:
            self.close()
            raise
        return data

    async def _next(self) -> Mapping[str, Any] | None:
        if not self._ready:
            try:
                self._ready.extend(await self._fetch())
            except CursorNotFound:
                # It stood still for longer than the server keeps one.
                self.close()
                self._ready.extend(await self._fetch())
        return self._ready.popleft() if self._ready else None

    async def _fetch(self) -> list[Any]:
        if self._cursor is None:
            self._cursor = self._find()
        fetch = self._ahead or self._cursor.next_batch()
        self._ahead = None
        documents = await fetch
        # Commands of one session follow one another.
        if self._cursor.alive and self._session is None:
            self._ahead = self._cursor.next_batch()
        return documents

    def _find(self) -> Cursor[Any]:
        condition: dict[str, Any] = {"files_id": equal_to(self._id)}
        if self.number:
            condition["n"] = {"$gte": self.number}
        # One more, or a cursor whose last batch is full would stay open.
        batch = min(self._batch, self._count - self.number + 1)
        return self._collection.find(
            condition, sort=[("n", 1)], batch_size=batch, session=self._session
        )

    def _checked(self, chunk: Mapping[str, Any] | None) -> bytes:
        number = self.number
        if chunk is None:
            raise CorruptGridFile(f"no chunk #{number}")
        if chunk.get("n") != number:
            raise CorruptGridFile(
                f"Missing chunk: expected chunk #{number} but found chunk with n={chunk.get('n')}"
            )
        data = chunk.get("data")
        if not isinstance(data, bytes):
            raise CorruptGridFile(f"chunk #{number} has no binary data")
        expected = min(self._size, self._length - number * self._size)
        if len(data) != expected:
            raise CorruptGridFile(
                f"truncated chunk #{number}: expected chunk length to be {expected} but "
                f"found chunk with length {len(data)}"
            )
        return data

    async def _check_end(self) -> None:
        """After the last chunk; more are ignored if they are empty."""
        while (chunk := await self._next()) is not None:
            if chunk.get("data"):
                raise CorruptGridFile(
                    f"Extra chunk found: expected {self._count} chunks but found "
                    f"chunk with n={chunk.get('n')}"
                )

    def close(self) -> Deferred[None]:
        """
        Read no more.

        @return: fires when the server knows; never fails.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.addErrback(lambda failure: None)
        self._ready.clear()
        cursor, self._cursor = self._cursor, None
        return succeed(None) if cursor is None else cursor.close()


def _plain(collection: Collection[Any]) -> Any:
    # Only for what the file's _id may need; chunks are read as they are.
    representation = collection.codec_options.uuid_representation
    return DEFAULT_CODEC_OPTIONS.with_options(uuid_representation=representation)


class GridOut(Stream):
    """
    A download.  Made by L{GridFSBucket.open_download_stream} and its kin.

    The fields of the file's document are attributes: C{_id}, C{filename},
    C{length}, C{chunk_size}, C{upload_date}, C{metadata}, C{content_type},
    C{aliases}, C{md5} and whatever else is there.

    Reading asks for chunks a batch ahead.  One call at a time; each returns
    a L{Deferred}, and cancelling it ends no more than this call.  C{async
    for} gives lines.  Close it, or use C{async with}.

    @param root_collection: the collection named as the bucket is.
    @param file_id: the file's C{_id}, or, as in TxMongo, its document: what
        has C{_id}, C{length} and C{chunkSize} is one.
    @param file_document: its document.
    @param session: for all of its commands.
    """

    closed = False

    def __init__(
        self,
        root_collection: Collection[Any],
        file_id: Any = None,
        file_document: Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> None:
        if file_document is None and isinstance(file_id, Mapping) and file_id.keys() >= _WHOLE:
            file_id, file_document = None, file_id
        self._start(place_of(root_collection), file_id, file_document, session, None)

    def _start(
        self,
        place: Place,
        file_id: Any,
        file: Mapping[str, Any] | None,
        session: ClientSession | None,
        deadline: float | None,
    ) -> Self:
        check_session(session)
        self._place = place
        self._file_id = file_id
        self._file = file
        self._session = session
        self._deadline = deadline
        self._chunks: _Chunks | None = None
        self._position = 0
        self._buffer = b""  # One chunk,
        self._start_of_buffer = 0  # and where in the file it begins.
        return self

    def __repr__(self) -> str:
        identifier = self._file_id if self._file is None else self._file["_id"]
        return f"<GridOut {identifier!r}{' closed' if self.closed else ''}>"

    # Fields of the file's document.

    @property
    def _id(self) -> Any:
        return self._document["_id"]

    @property
    def _document(self) -> Mapping[str, Any]:
        if self._file is None:
            raise InvalidOperation("this file has not been opened: wait for open() first")
        return self._file

    @property
    def document(self) -> Mapping[str, Any]:
        """
        The file's document.

        @raise InvalidOperation: the file has not been opened.
        """
        return self._document

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_file" not in self.__dict__:
            raise AttributeError(name)
        file = self._document
        field = FIELDS.get(name, name)
        if field in file:
            return file[field]
        if field == "length":
            return 0
        if field in _OPTIONAL_FIELDS:
            return None
        raise AttributeError(f"GridOut object has no attribute {name!r}")

    def open(self) -> Deferred[None]:
        """
        Fetch the file's document, where that has not been done.

        @raise NoFile: there is none.
        """
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        if self._file is not None:
            return
        check_session(self._session)
        files = self._place.collection("files", self._deadline)
        self._file = await files.find_one({"_id": equal_to(self._file_id)}, session=self._session)
        if self._file is None:
            raise NoFile(f"no file in gridfs collection {files!r} with _id {self._file_id!r}")

    # Reading.

    def readable(self) -> bool:
        """
        Yes.
        """
        return True

    def seekable(self) -> bool:
        """
        Yes.
        """
        return True

    def writable(self) -> bool:
        """
        No.
        """
        return False

    def tell(self) -> int:
        """
        The position in the file.
        """
        return self._position

    def seek(self, pos: int, whence: int = os.SEEK_SET) -> Deferred[int]:
        """
        Go to a position, which may be behind the end.

        @param whence: one of C{os}'s C{SEEK_} constants.
        @return: fires with the position.

        @raise OSError: the position is negative, or C{whence} unknown.
        """
        if whence == os.SEEK_CUR:
            pos += self._position
        elif whence == os.SEEK_END:
            pos += int(self.length)
        elif whence != os.SEEK_SET:
            raise OSError(22, "Invalid value for `whence`")
        if pos < 0:
            raise OSError(22, "Invalid value for `pos` - must be positive")
        self._position = pos
        return succeed(pos)

    def read(self, size: int = -1) -> Deferred[bytes]:
        """
        The next C{size} bytes, or as many as there are; all of them if it is
        negative.

        @raise CorruptGridFile: a chunk is missing, has the wrong length or
            is one too many.
        """
        return self.alone(self._read, size)

    def readline(self, size: int = -1) -> Deferred[bytes]:
        """
        One line with its end, but no more than C{size} bytes.
        """
        return self.alone(self._read, size, True)

    def readlines(self, size: int = -1) -> Deferred[list[bytes]]:
        """
        The lines that are left, or as many as make up C{size} bytes.
        """
        return self.alone(self._lines, size)

    async def _lines(self, size: int) -> list[bytes]:
        lines: list[bytes] = []
        total = 0
        while line := await self._read(-1, line=True):
            lines.append(line)
            total += len(line)
            if 0 < size <= total:
                break
        return lines

    def to_list(self) -> Deferred[list[bytes]]:
        """
        The lines that are left.
        """
        return self.readlines()

    def flush(self) -> None:
        """
        Nothing.
        """

    def write(self, data: Any) -> NoReturn:
        """
        @raise UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("a download cannot be written: open an upload")

    def writelines(self, lines: Any) -> NoReturn:
        """
        See L{write}.
        """
        self.write(lines)

    def truncate(self, size: int | None = None) -> NoReturn:
        """
        See L{write}.
        """
        self.write(size)

    def readchunk(self) -> Deferred[bytes]:
        """
        What is left of the chunk at the position: no copy of whole ones.
        Nothing at the end.
        """
        return self.alone(self._read_chunk)

    async def _read_chunk(self) -> bytes:
        await self._fill(-1)
        data = self._buffer[self._position - self._start_of_buffer :]
        self._position += len(data)
        return data

    async def _read(self, size: int, line: bool = False) -> bytes:
        pieces = []
        left = size
        while left:
            await self._fill(self._rest() if left < 0 and not line else left)
            start = self._position - self._start_of_buffer
            end = len(self._buffer) if left < 0 else min(len(self._buffer), start + left)
            if line and (found := self._buffer.find(b"\n", start, end)) >= 0:
                end = found + 1
                left = end - start
            if start >= end:
                break
            pieces.append(self._buffer[start:end])
            self._position += end - start
            if left > 0:
                left -= end - start
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _rest(self) -> int:
        """How much there is to read, where that is known."""
        return -1 if self._file is None else self.extent()[0] - self._position

    async def _fill(self, wanted: int) -> None:
        """
        Make the chunk at the position the buffer; an empty one at the end.

        @param wanted: bytes that are to be held anyway, or -1.
        """
        if self.closed:
            raise ValueError("cannot read from a closed file")
        position = self._position
        if self._start_of_buffer <= position < self._start_of_buffer + len(self._buffer):
            return
        if self._file is None:
            await self._open()
        length, size = self.extent()
        self._buffer, self._start_of_buffer = b"", position
        if position >= length:
            return
        number = position // size
        chunks = self._chunks
        if chunks is None or chunks.number != number:
            if chunks is not None:
                await chunks.close()
            batch = max(_DOWNLOAD_BYTES // size, 1)
            if wanted > 0:
                needed = max((position % size + wanted) // size + 1, _FEWEST_CHUNKS)
                batch = min(needed, max(_READ_BYTES // size, 1))
            collection = self._place.collection("chunks", self._deadline)
            chunks = _Chunks(collection, self._document, number, batch, self._session)
            self._chunks = chunks
        self._buffer = await chunks.next()
        self._start_of_buffer = number * size

    def again(self) -> GridOut:
        """
        The same file, which has been opened, from its beginning.
        """
        return download(self._place, None, self._document, self._session, self._deadline)

    def extent(self) -> tuple[int, int]:
        """
        The file's length and that of its chunks, in bytes.

        @raise CorruptGridFile: its document does not say, or nonsense.
        """
        try:
            length, size = int(self.length), int(self.chunk_size)
        except (TypeError, ValueError, AttributeError):
            length, size = -1, 0
        if length < 0 or (length and size < 1):
            raise CorruptGridFile(
                f"the document of file {self._id!r} has no usable length and chunkSize"
            )
        return length, size

    def deliver_to(self, consumer: IConsumer, size: int = -1) -> Deferred[int]:
        """
        Push what is left to a consumer, which may have it pause: then one
        chunk is held and a batch asked for, no more.

        @param consumer: it gets a L{Delivery} registered, and that is
            unregistered at the end; nothing closes it.
        @param size: how many bytes at the most; all of them if it is negative.
        @return: fires with how many bytes it got.  Cancelling it ends the
            delivery.
        @raise CancelledError: the consumer wanted no more.
        @raise CorruptGridFile: see L{read}.
        """
        return Delivery(self, consumer, size).registered()

    def __iter__(self) -> Iterator[Deferred[bytes]]:
        return GridOutIterator(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def close(self) -> Deferred[None]:
        """
        Read no more.  A call under way fails with L{CancelledError}.

        @return: fires when the server knows; never fails.
        """
        self.closed = True
        chunks, self._chunks = self._chunks, None
        self._buffer = b""
        return succeed(None) if chunks is None else chunks.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class GridOutIterator(Iterator[Deferred[bytes]]):
    """
    The chunks of a file from its beginning, each as a L{Deferred}: wait for
    one before asking for the next.  Where the file has been read to does not
    matter, and is left alone.

    @param grid_out: the file, which has been opened.
    @param chunks: TxMongo's collection of chunks; the file knows its own.
    @param session: PyMongo's; the file knows its own, too.
    """

    def __init__(
        self,
        grid_out: GridOut,
        chunks: Collection[Any] | None = None,
        session: ClientSession | None = None,
    ) -> None:
        self._stream = grid_out.again()
        length, size = self._stream.extent()
        self._left = -(-length // size) if length else 0

    def __next__(self) -> Deferred[bytes]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._stream.readchunk()

    next = __next__

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return await next(self)


class GridOutCursor(Cursor[GridOut]):
    """
    The files that match, each as a L{GridOut}.  Made by
    L{GridFSBucket.find}.
    """

    def __init__(
        self,
        place: Place,
        filter: Mapping[str, Any] | None,
        session: ClientSession | None,
        timeout: float | None,
        arguments: dict[str, Any],
        **options: Any,
    ) -> None:
        check_session(session)
        self._place = place
        self._owner = session
        super().__init__(
            place.database.client,
            place.database.name,
            f"{place.name}.files",
            place.limited(timeout),
            filter,
            arguments,
            session,
            **options,
        )

    def clone(self) -> Self:
        """
        See L{Cursor.clone}.
        """
        copied = super().clone()
        copied._place, copied._owner = self._place, self._owner
        return copied

    def fetch(
        self, deadline: float | None = None, *, wait: bool = False
    ) -> Deferred[list[GridOut]]:
        """
        See L{Cursor.fetch}.
        """
        return super().fetch(deadline, wait=wait).addCallback(self._files)

    def _files(self, documents: list[Any]) -> list[GridOut]:
        return [
            document if isinstance(document, GridOut) else self._file(document)
            for document in documents
        ]

    def _file(self, document: Mapping[str, Any]) -> GridOut:
        return download(self._place, None, document, self._owner, None)


def download(
    place: Place,
    file_id: Any,
    file: Mapping[str, Any] | None,
    session: ClientSession | None,
    deadline: float | None,
) -> GridOut:
    """
    A download from a bucket.

    @param file: its document, if that is known.
    @param deadline: of all of its commands.
    """
    return GridOut.__new__(GridOut)._start(place, file_id, file, session, deadline)
