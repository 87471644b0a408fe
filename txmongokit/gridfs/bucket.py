"""
Buckets: the files of one place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from bson.objectid import ObjectId
from gridfs.errors import NoFile
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.gridfs.download import GridOut, GridOutCursor, download
from txmongokit.gridfs.place import (
    DEFAULT_CHUNK_SIZE,
    Place,
    check_chunk_size,
    check_name,
    check_session,
    equal_to,
)
from txmongokit.gridfs.upload import GridIn, upload
from txmongokit.sessions import ClientSession

__all__ = ["GridFSBucket"]

# How many ids one command names.
_IDS = 1000


class GridFSBucket:
    """
    A bucket of files.

    Operations start at once and return a L{Deferred}, but for L{find} and
    the two that open uploads.  All take C{session} and C{timeout}: seconds
    for the whole of it, with a stream for as long as it lives.  Time that a
    source or a destination takes counts, but is only seen at the next
    command.  Transactions are refused.

    An id may be anything but is always compared as a value: a document is
    never taken for operators, nor a regular expression for a pattern.

    @param db: the L{Database}.
    @param bucket_name: what the names of its collections begin with.
    @param chunk_size_bytes: of new files.
    @param write_concern: instead of the database's.
    @param read_preference: instead of the database's.
    @param read_concern: instead of the database's.
    @param timeout: instead of the database's, in seconds.

    @raise ConfigurationError: the write concern is not acknowledged.
    """

    def __init__(
        self,
        db: Database,
        bucket_name: str = "fs",
        chunk_size_bytes: int = DEFAULT_CHUNK_SIZE,
        write_concern: WriteConcern | None = None,
        read_preference: Any = None,
        timeout: float | None = None,
        read_concern: Any = None,
    ) -> None:
        if not isinstance(db, Database):
            raise TypeError(f"db must be a Database, not {type(db).__name__}")
        check_name("bucket_name", bucket_name)
        check_chunk_size(chunk_size_bytes)
        self._chunk_size_bytes = chunk_size_bytes
        self._place = Place(
            db,
            bucket_name,
            {
                "write_concern": write_concern,
                "read_preference": read_preference,
                "read_concern": read_concern,
                "timeout": timeout,
            },
        )

    def __repr__(self) -> str:
        return f"<GridFSBucket {self._place.database.name}.{self._place.name}>"

    # Uploads.

    def open_upload_stream(
        self,
        filename: str,
        chunk_size_bytes: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> GridIn:
        """
        Begin a file with a new C{_id}.

        @param metadata: a document of the application's own.
        @return: what to write to, and then to close.
        """
        return self.open_upload_stream_with_id(
            ObjectId(), filename, chunk_size_bytes, metadata, session, timeout=timeout
        )

    def open_upload_stream_with_id(
        self,
        file_id: Any,
        filename: str,
        chunk_size_bytes: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> GridIn:
        """
        Begin a file; see L{open_upload_stream}.

        @param file_id: its C{_id}, which no other file may have.
        """
        check_name("filename", filename)
        fields: dict[str, Any] = {
            "_id": file_id,
            "filename": filename,
            "chunkSize": self._chunk_size_bytes if chunk_size_bytes is None else chunk_size_bytes,
        }
        if metadata is not None:
            fields["metadata"] = metadata
        deadline = self._place.deadline(timeout)
        return upload(self._place, session, deadline, fields)

    def upload_from_stream(
        self,
        filename: str,
        source: Any,
        chunk_size_bytes: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[ObjectId]:
        """
        Store a file with a new C{_id}.

        @param source: see L{GridIn.write}; it is not closed.
        @return: fires with the C{_id}.  Cancelling it, or an error of the
            source, aborts the upload.
        """
        stream = self.open_upload_stream(
            filename, chunk_size_bytes, metadata, session, timeout=timeout
        )
        return Deferred.fromCoroutine(_upload(stream, source)).addCallback(lambda _: stream._id)

    def upload_from_stream_with_id(
        self,
        file_id: Any,
        filename: str,
        source: Any,
        chunk_size_bytes: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Store a file; see L{upload_from_stream}.

        @raise FileExists: there is a file with that C{_id}.
        """
        stream = self.open_upload_stream_with_id(
            file_id, filename, chunk_size_bytes, metadata, session, timeout=timeout
        )
        return Deferred.fromCoroutine(_upload(stream, source))

    # Downloads.

    def open_download_stream(
        self,
        file_id: Any,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[GridOut]:
        """
        Open a file by its C{_id}.

        @return: fires with what to read from.
        @raise NoFile: there is none.
        """
        return Deferred.fromCoroutine(self._by_id(file_id, session, timeout))

    async def _by_id(
        self, file_id: Any, session: ClientSession | None, timeout: float | None
    ) -> GridOut:
        deadline = self._place.deadline(timeout)
        stream = download(self._place, file_id, None, session, deadline)
        await stream.open()
        return stream

    def open_download_stream_by_name(
        self,
        filename: str,
        revision: int = -1,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[GridOut]:
        """
        Open a file by its name.

        @param revision: 0 for the oldest file of that name, 1 for the one
            after it; -1 for the newest, -2 for the one before it.
        @return: fires with what to read from.
        @raise NoFile: there is no file of that name, or no such revision.
        """
        check_name("filename", filename)
        if isinstance(revision, bool) or not isinstance(revision, int):
            raise TypeError(f"revision must be a whole number, not {type(revision).__name__}")
        return Deferred.fromCoroutine(self._by_name(filename, revision, session, timeout))

    async def _by_name(
        self, filename: str, revision: int, session: ClientSession | None, timeout: float | None
    ) -> GridOut:
        check_session(session)
        deadline = self._place.deadline(timeout)
        files = self._place.collection("files", deadline)
        skip, way = (revision, 1) if revision >= 0 else (-revision - 1, -1)
        named = {"filename": filename}
        file = await files.find_one(
            named, sort=[("uploadDate", way)], skip=skip or None, session=session
        )
        if file is None:
            if skip and await files.find_one(named, {"_id": 1}, session=session) is not None:
                raise NoFile(f"no version {revision} for filename {filename!r}")
            raise NoFile(f"no file in gridfs collection {files!r} with filename {filename!r}")
        return download(self._place, None, file, session, deadline)

    def download_to_stream(
        self,
        file_id: Any,
        destination: Any,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Read a whole file.

        @param destination: something with C{write}, which gets a chunk at a
            time; where it returns an awaitable, that is waited for.  It is
            not closed.
        @return: fires with C{None} at the end.
        @raise NoFile: there is none.
        """
        return Deferred.fromCoroutine(_copy(self._by_id(file_id, session, timeout), destination))

    def download_to_stream_by_name(
        self,
        filename: str,
        destination: Any,
        revision: int = -1,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Read a whole file; see L{open_download_stream_by_name} and
        L{download_to_stream}.
        """
        opened = self.open_download_stream_by_name(filename, revision, session, timeout=timeout)
        return Deferred.fromCoroutine(_copy(opened, destination))

    # Files as a whole.

    def find(
        self,
        filter: Mapping[str, Any] | None = None,
        skip: int = 0,
        limit: int = 0,
        no_cursor_timeout: bool = False,
        sort: Any = None,
        batch_size: int = 0,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> GridOutCursor:
        """
        The files whose documents match.

        @param filter: a query on the files collection, such as
            C{{"metadata.owner": "me"}}: operators are operators here.
        @param options: as in L{Collection.find_one}.
        @return: a cursor of L{GridOut}.
        """
        arguments = {
            "skip": skip or None,
            "sort": sort,
            "no_cursor_timeout": no_cursor_timeout or None,
            **options,
        }
        return GridOutCursor(
            self._place, filter, session, timeout, arguments, limit=limit, batch_size=batch_size
        )

    def delete(
        self,
        file_id: Any,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Delete a file and its chunks.

        @raise NoFile: there is none; chunks with that id are gone, too.
        """
        return Deferred.fromCoroutine(self._delete(file_id, session, timeout))

    async def _delete(
        self, file_id: Any, session: ClientSession | None, timeout: float | None
    ) -> None:
        files, chunks = self._both(session, timeout)
        identifier = equal_to(file_id)
        deleted = await files.delete_one({"_id": identifier}, session=session)
        await chunks.delete_many({"files_id": identifier}, session=session)
        if not deleted.deleted_count:
            raise NoFile(f"no file could be deleted because none matched {file_id!r}")

    def delete_by_name(
        self,
        filename: str,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Delete all files of a name and their chunks.

        @raise NoFile: there is none.
        """
        check_name("filename", filename)
        return Deferred.fromCoroutine(self._delete_by_name(filename, session, timeout))

    async def _delete_by_name(
        self, filename: str, session: ClientSession | None, timeout: float | None
    ) -> None:
        files, chunks = self._both(session, timeout)
        found = await files.find({"filename": filename}, {"_id": 1}, session=session).to_list()
        identifiers = [file["_id"] for file in found]
        count = 0
        for start in range(0, len(identifiers), _IDS):
            some = {"$in": identifiers[start : start + _IDS]}
            deleted = await files.delete_many({"_id": some}, session=session)
            await chunks.delete_many({"files_id": some}, session=session)
            count += deleted.deleted_count
        if not count:
            raise NoFile(f"no file could be deleted because none matched filename {filename!r}")

    def rename(
        self,
        file_id: Any,
        new_filename: str,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Give a file another name.

        @raise NoFile: there is none.
        """
        check_name("new_filename", new_filename)
        return Deferred.fromCoroutine(self._rename(file_id, new_filename, session, timeout))

    async def _rename(
        self, file_id: Any, name: str, session: ClientSession | None, timeout: float | None
    ) -> None:
        files, _ = self._both(session, timeout)
        change = {"$set": {"filename": name}}
        result = await files.update_one({"_id": equal_to(file_id)}, change, session=session)
        if not result.matched_count:
            raise NoFile(
                f"no files could be renamed {name!r} because none matched file_id {file_id!r}"
            )

    def rename_by_name(
        self,
        filename: str,
        new_filename: str,
        session: ClientSession | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[None]:
        """
        Give all files of a name another one.

        @raise NoFile: there is none.
        """
        check_name("filename", filename)
        check_name("new_filename", new_filename)
        return Deferred.fromCoroutine(
            self._rename_by_name(filename, new_filename, session, timeout)
        )

    async def _rename_by_name(
        self, old: str, new: str, session: ClientSession | None, timeout: float | None
    ) -> None:
        files, _ = self._both(session, timeout)
        change = {"$set": {"filename": new}}
        result = await files.update_many({"filename": old}, change, session=session)
        if not result.matched_count:
            raise NoFile(f"no files could be renamed {new!r} because none matched filename {old!r}")

    def drop(
        self, session: ClientSession | None = None, *, timeout: float | None = None
    ) -> Deferred[None]:
        """
        Drop both collections: all files and indexes.
        """
        return Deferred.fromCoroutine(self._drop(session, timeout))

    async def _drop(self, session: ClientSession | None, timeout: float | None) -> None:
        files, chunks = self._both(session, timeout)
        self._place.indexed = False
        await files.drop(session=session)
        await chunks.drop(session=session)

    def _both(
        self, session: ClientSession | None, timeout: float | None
    ) -> tuple[Collection[Any], Collection[Any]]:
        """Files and chunks, for one operation that begins now."""
        check_session(session)
        deadline = self._place.deadline(timeout)
        return self._place.collection("files", deadline), self._place.collection("chunks", deadline)


async def _upload(stream: GridIn, source: Any) -> None:
    async with stream:
        await stream.write(source)


async def _copy(opened: Awaitable[GridOut], destination: Any) -> None:
    async with await opened as stream:
        while data := await stream.readchunk():
            written = destination.write(data)
            if isinstance(written, Awaitable):
                await written
