"""
GridFS as TxMongo and PyMongo have had it: files by id, and their versions by
name.  L{GridFSBucket} is the specification's way to the same files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from twisted.internet.defer import Deferred

from txmongokit.database import Database
from txmongokit.gridfs.bucket import GridFSBucket
from txmongokit.gridfs.download import GridOut, GridOutCursor, download
from txmongokit.gridfs.errors import NoFile, UnsupportedAPI
from txmongokit.gridfs.place import Place, check_name, check_session, equal_to
from txmongokit.gridfs.upload import GridIn, upload
from txmongokit.sessions import ClientSession

__all__ = ["GridFS"]

_MD5 = "md5"
# What L{GridFSBucket.find} takes besides the query, in order.
_FIND_ARGUMENTS = ("skip", "limit", "no_cursor_timeout", "sort", "batch_size")


class GridFS:
    """
    The files below one collection of a database.

    Making one does no I/O: indexes are made before the first file is
    written, or by L{indexes_created}.  Every method but L{new_file} and
    L{find} returns a L{Deferred}.  An id may be anything, and is compared as
    a value.

    @param database: the L{Database}.
    @param collection: what the names of its collections begin with.
    @param md5: whether files that it writes have the field C{md5}, which is
        computed here.

    @raise TypeError: C{database} is no L{Database}.
    @raise ConfigurationError: its write concern is not acknowledged.
    """

    def __init__(self, database: Database, collection: str = "fs", *, md5: bool = False) -> None:
        self._bucket = GridFSBucket(database, collection)
        self._place = Place(database, collection, {})
        self._md5 = md5

    def __repr__(self) -> str:
        return f"<GridFS {self._place.database.name}.{self._place.name}>"

    def indexes_created(self) -> Deferred[None]:
        """
        Make the indexes now, where there are no files yet.

        @return: fires with C{None} when they are there.
        """
        return Deferred.fromCoroutine(
            self._place.ensure_indexes(self._place.deadline(None), session=None)
        )

    # Writing.

    def new_file(self, *, session: ClientSession | None = None, **kwargs: Any) -> GridIn:
        """
        Begin a file.

        @param kwargs: see L{GridIn}.
        @return: what to write to, and then to close.
        """
        if self._md5:
            kwargs.setdefault(_MD5, True)
        return upload(self._place, session, self._place.deadline(None), kwargs)

    def put(
        self, data: Any, *, session: ClientSession | None = None, **kwargs: Any
    ) -> Deferred[Any]:
        """
        Store a file.

        @param data: see L{GridIn.write}.
        @param kwargs: see L{GridIn}.
        @return: fires with its C{_id}.  Cancelling it, or an error, leaves
            nothing of the file.
        @raise FileExists: there is a file with that C{_id}.
        """
        return Deferred.fromCoroutine(self._put(self.new_file(session=session, **kwargs), data))

    async def _put(self, stream: GridIn, data: Any) -> Any:
        async with stream:
            await stream.write(data)
        return stream._id

    # Reading.

    def get(self, file_id: Any, session: ClientSession | None = None) -> Deferred[GridOut]:
        """
        A file by its C{_id}.

        @raise NoFile: there is none.
        """
        return self._bucket.open_download_stream(file_id, session)

    def get_version(
        self,
        filename: str | None = None,
        version: int = -1,
        session: ClientSession | None = None,
        **kwargs: Any,
    ) -> Deferred[GridOut]:
        """
        A file by its name, and which of those it is by the date of upload.

        @param filename: C{None} for files of any name.
        @param version: 0 for the oldest, 1 for the one after it; -1 for the
            newest, -2 for the one before it.
        @param kwargs: values that other fields of the file's document have.
        @raise NoFile: there is no such file.
        """
        if filename is not None:
            check_name("filename", filename)
        if isinstance(version, bool) or not isinstance(version, int):
            raise TypeError(f"version must be a whole number, not {type(version).__name__}")
        query = _values(kwargs) if filename is None else {"filename": filename, **_values(kwargs)}
        return Deferred.fromCoroutine(self._get_version(query, version, session))

    async def _get_version(
        self, query: dict[str, Any], version: int, session: ClientSession | None
    ) -> GridOut:
        check_session(session)
        deadline = self._place.deadline(None)
        files = self._place.collection("files", deadline)
        skip, way = (version, 1) if version >= 0 else (-version - 1, -1)
        file = await files.find_one(
            query, sort=[("uploadDate", way)], skip=skip or None, session=session
        )
        if file is None:
            raise NoFile(f"no version {version} for filename {query.get('filename')!r}")
        return download(self._place, None, file, session, deadline)

    def get_last_version(
        self, filename: str | None = None, session: ClientSession | None = None, **kwargs: Any
    ) -> Deferred[GridOut]:
        """
        The newest file of a name; see L{get_version}.
        """
        return self.get_version(filename, -1, session, **kwargs)

    def find(self, *args: Any, **kwargs: Any) -> GridOutCursor:
        """
        The files whose documents match; see L{GridFSBucket.find}.
        """
        return self._bucket.find(*args, **kwargs)

    def find_one(
        self, filter: Any = None, session: ClientSession | None = None, *args: Any, **kwargs: Any
    ) -> Deferred[GridOut | None]:
        """
        The first file whose document matches.

        @param filter: a query, or an C{_id}.
        @param args: see L{GridFSBucket.find}, from C{skip} on.
        @return: fires with the file, or C{None}.
        """
        if filter is not None and not isinstance(filter, Mapping):
            filter = {"_id": equal_to(filter)}
        # As in PyMongo a limit means nothing here.
        options = {**dict(zip(_FIND_ARGUMENTS, args, strict=False)), **kwargs}
        options.pop("limit", None)
        return Deferred.fromCoroutine(self._find_one(filter, session, options))

    async def _find_one(
        self, query: Any, session: ClientSession | None, options: dict[str, Any]
    ) -> GridOut | None:
        found = await self._bucket.find(query, limit=-1, session=session, **options).to_list()
        return found[0] if found else None

    def list(self, session: ClientSession | None = None) -> Deferred[list[str]]:
        """
        The names of all files, each once.
        """
        return Deferred.fromCoroutine(self._list(session))

    async def _list(self, session: ClientSession | None) -> Any:
        files = self._place.collection("files", self._place.deadline(None))
        # A file without a name has none to list.
        names = await files.distinct("filename", session=session)
        return [name for name in names if name is not None]

    def exists(
        self, file_id: Any = None, session: ClientSession | None = None, **kwargs: Any
    ) -> Deferred[bool]:
        """
        Whether there is a file with that C{_id}, or with those values.

        @param kwargs: values of fields of the file's document.
        @raise TypeError: C{file_id} is a document, which might be meant as a
            query: use C{exists(_id=...)} for an id, and L{find} for a query.
        """
        if isinstance(file_id, Mapping):
            raise TypeError("exists() takes no query: use exists(_id=...), or find(...)")
        query = _values(kwargs)
        if file_id is not None:
            query["_id"] = equal_to(file_id)
        return Deferred.fromCoroutine(self._exists(query, session))

    async def _exists(self, query: dict[str, Any], session: ClientSession | None) -> bool:
        check_session(session)
        files = self._place.collection("files", self._place.deadline(None))
        return await files.find_one(query, {"_id": 1}, session=session) is not None

    def count(self, filename: str, session: ClientSession | None = None) -> Deferred[int]:
        """
        How many versions there are of a file.

        @param filename: its name.
        """
        check_name("filename", filename)
        check_session(session)
        files = self._place.collection("files", self._place.deadline(None))
        counted: Deferred[int] = files.count_documents({"filename": filename}, session=session)
        return counted

    def delete(self, file_id: Any, session: ClientSession | None = None) -> Deferred[None]:
        """
        Delete a file and its chunks; that there is none is no error.
        """
        return self._bucket.delete(file_id, session).addErrback(
            lambda failure: failure.trap(NoFile) and None
        )

    def open(self, *args: Any, **kwargs: Any) -> NoReturn:
        """
        How files were opened before PyMongo 1.6.

        @raise UnsupportedAPI: always.
        """
        raise UnsupportedAPI("GridFS.open is no more: write by new_file or put, read by get")


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A query for equal values, whatever they are."""
    return {name: equal_to(value) for name, value in fields.items()}
