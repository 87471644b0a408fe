"""
Looking after buckets: which files are damaged, and moving files elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from txmongokit.database import Database
from txmongokit.gridfs.download import GridOut
from txmongokit.gridfs.errors import CorruptGridFile
from txmongokit.gridfs.place import equal_to
from txmongokit.gridfs.upload import GridIn

__all__ = ["copy", "damage", "damaged"]

_FROM_CONTENT = frozenset({"length", "uploadDate", "md5"})


async def damage(
    stream: GridOut, on_bytes: Callable[[int], object] | None = None
) -> CorruptGridFile | None:
    """
    Read a file to its end.

    @param on_bytes: told how many bytes were read.
    @return: what is wrong with it, or C{None}.
    """
    try:
        async with stream:
            while data := await stream.readchunk():
                if on_bytes is not None:
                    on_bytes(len(data))
    except CorruptGridFile as error:
        return error
    return None


async def damaged(
    files: AsyncIterator[GridOut], on_bytes: Callable[[int], object] | None = None
) -> AsyncIterator[tuple[GridOut, CorruptGridFile]]:
    """
    Those of some files that have chunks missing, too many or of a wrong size.

    @param files: such as L{GridFSBucket.find} gives.
    @param on_bytes: see L{damage}.
    """
    async for stream in files:
        error = await damage(stream, on_bytes)
        if error is not None:
            yield stream, error


async def copy(
    stream: GridOut,
    database: Database,
    bucket: str,
    on_bytes: Callable[[int], object] | None = None,
) -> None:
    """
    Copy a file with all fields of its document, C{_id} and date included.

    @param stream: the file, which has been opened; it is closed.
    @param database: where to.
    @param bucket: the bucket's name there.
    @param on_bytes: told how many bytes were written.

    @raise FileExists: there is a file with that C{_id}.
    @raise CorruptGridFile: it is damaged, or its sum is not what its
        document says; nothing of it is there then.
    """
    document = stream.document
    fields = {name: value for name, value in document.items() if name not in _FROM_CONTENT}
    summed = isinstance(document.get("md5"), str)
    async with stream, GridIn(database[bucket], md5=summed, **fields) as target:
        while data := await stream.readchunk():
            await target.write(data)
            if on_bytes is not None:
                on_bytes(len(data))
        if summed and target.digest() != document["md5"]:
            raise CorruptGridFile(f"the md5 of file {stream._id!r} is not that of its content")
    await database[f"{bucket}.files"].update_one(
        {"_id": equal_to(stream._id)}, {"$set": {"uploadDate": document.get("uploadDate")}}
    )
