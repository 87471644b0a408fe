"""
Looking after buckets: what is damaged, what belongs to no file, and moving
files elsewhere.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import bson
from bson.objectid import ObjectId
from pymongo.read_preferences import ReadPreference

from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.gridfs.download import GridOut
from txmongokit.gridfs.errors import CorruptGridFile
from txmongokit.gridfs.place import equal_to
from txmongokit.gridfs.upload import GridIn

__all__ = ["Orphan", "copy", "damage", "damaged", "orphans", "remove_orphan", "save"]

_FROM_CONTENT = frozenset({"length", "uploadDate", "md5"})
# How many ids one query names.
_IDS = 1000


async def damage(
    stream: GridOut, on_bytes: Callable[[int], object] | None = None, depth: int = -1
) -> CorruptGridFile | None:
    """
    Read a file to its end, and compare its sum where its document has one.

    @param on_bytes: told how many bytes were read.
    @param depth: how many bytes are enough; all of them if it is negative.
    @return: what is wrong with it, or C{None}.
    """
    stored = stream.document.get("md5")
    summed = hashlib.md5(usedforsecurity=False)
    try:
        async with stream:
            while depth < 0 or stream.tell() < depth:
                data = await stream.readchunk()
                if not data:
                    if isinstance(stored, str) and summed.hexdigest() != stored:
                        return _other_sum(stream)
                    break
                if stored is not None:
                    summed.update(data)
                if on_bytes is not None:
                    on_bytes(len(data))
    except CorruptGridFile as error:
        return error
    return None


def _other_sum(stream: GridOut) -> CorruptGridFile:
    return CorruptGridFile(f"the md5 of file {stream._id!r} is not that of its content")


async def damaged(
    database: Database,
    bucket: str,
    files: AsyncIterator[GridOut],
    on_bytes: Callable[[int], object] | None = None,
    depth: int = -1,
) -> AsyncIterator[tuple[GridOut, CorruptGridFile]]:
    """
    Those of some files that have chunks missing, too many or of a wrong size,
    or another sum than their documents have.

    @param bucket: the name of the bucket that they are in.
    @param files: such as L{GridFSBucket.find} gives.
    @param on_bytes: see L{damage}.
    @param depth: see L{damage}.
    """
    documents = _primary(database, f"{bucket}.files")
    async for stream in files:
        error = await damage(stream, on_bytes, depth)
        # One that was deleted meanwhile is not damaged.
        if error is not None and await documents.find_one({"_id": equal_to(stream._id)}):
            yield stream, error


def _primary(database: Database, name: str) -> Collection[Any]:
    return database.get_collection(name, read_preference=ReadPreference.PRIMARY)


@dataclass(frozen=True)
class Orphan:
    """
    Chunks whose file is not there.

    @ivar file_id: the C{_id} that it would have.
    @ivar chunks: how many.
    @ivar newest: when the newest was made, as its C{_id} has it; C{None}
        where one has an C{_id} that does not say.
    """

    file_id: Any
    chunks: int
    newest: datetime.datetime | None

    def older_than(self, age: datetime.timedelta) -> bool:
        """
        Whether all of them are.  A file that is being uploaded has no document
        before all of its chunks are there; where nothing is being uploaded no
        age is the right one.
        """
        if not age:
            return True
        return self.newest is not None and self.newest < _now() - age


def _now() -> datetime.datetime:
    return datetime.datetime.now(tz=datetime.UTC)


async def orphans(database: Database, bucket: str) -> AsyncIterator[Orphan]:
    """
    The chunks of a bucket that belong to no file, by the files that they
    would belong to.
    """
    chunks = _primary(database, f"{bucket}.chunks")
    pipeline: list[dict[str, Any]] = [{"$sort": {"files_id": 1}}, {"$group": {"_id": "$files_id"}}]
    batch: list[Any] = []
    async for group in chunks.aggregate(pipeline, allow_disk_use=True):
        batch.append(group["_id"])
        if len(batch) == _IDS:
            async for orphan in _orphans_of(database, bucket, batch):
                yield orphan
            batch.clear()
    async for orphan in _orphans_of(database, bucket, batch):
        yield orphan


async def _orphans_of(
    database: Database, bucket: str, identifiers: list[Any]
) -> AsyncIterator[Orphan]:
    files = _primary(database, f"{bucket}.files")
    chunks = _primary(database, f"{bucket}.chunks")

    def key(identifier: Any) -> bytes:
        return bson.encode({"": identifier}, codec_options=files.codec_options)

    # Documents and patterns mean something else in a list.
    plain = [identifier for identifier in identifiers if equal_to(identifier) is identifier]
    known = {key(file["_id"]) async for file in files.find({"_id": {"$in": plain}}, {"_id": 1})}
    for identifier in identifiers:
        same = equal_to(identifier)
        # Asked one by one where it seems to be none: the server knows what is equal.
        if key(identifier) in known or await files.find_one({"_id": same}, {"_id": 1}):
            continue
        made = [chunk["_id"] async for chunk in chunks.find({"files_id": same}, {"_id": 1})]
        told = all(isinstance(one, ObjectId) for one in made)
        newest = max(one.generation_time for one in made) if told and made else None
        if made:
            yield Orphan(identifier, len(made), newest)


async def remove_orphan(database: Database, bucket: str, orphan: Orphan) -> int:
    """
    Remove chunks that belong to no file, but none that came since.

    @return: how many.
    """
    condition: dict[str, Any] = {"files_id": equal_to(orphan.file_id)}
    if orphan.newest is not None:
        after = orphan.newest + datetime.timedelta(seconds=1)
        condition["_id"] = {"$lt": ObjectId.from_datetime(after)}
    deleted = await database[f"{bucket}.chunks"].delete_many(condition)
    return int(deleted.deleted_count)


async def save(database: Database, bucket: str, file_id: Any, target: str) -> None:
    """
    Copy what there is of a file to another bucket, as it is.

    @param target: the name of that bucket in the same database.
    """
    for part, field in (("files", "_id"), ("chunks", "files_id")):
        pipeline: list[dict[str, Any]] = [
            {"$match": {field: equal_to(file_id)}},
            {"$merge": {"into": f"{target}.{part}", "whenMatched": "replace"}},
        ]
        await _primary(database, f"{bucket}.{part}").aggregate(pipeline)


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
            raise _other_sum(stream)
    await database[f"{bucket}.files"].update_one(
        {"_id": equal_to(stream._id)}, {"$set": {"uploadDate": document.get("uploadDate")}}
    )
