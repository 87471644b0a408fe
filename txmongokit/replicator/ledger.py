"""
How far a clone has come: documents beside the checkpoint, in the destination.

The checkpoint document itself says in C{clone} in which phase the whole is;
C{txmongokit.mongosync.collections} has a L{Blueprint} of each collection and
C{txmongokit.mongosync.ranges} how much of each range of it is copied.  All of
them name their owner: the C{seq} with which a process took the checkpoint
over.  One that finds another there has been replaced, and stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from pymongo.write_concern import WriteConcern

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.replicator.blueprints import CODEC, Blueprint
from txmongokit.replicator.checkpoint import COLLECTION, DATABASE, Checkpoint, FencedError
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.segments import Segment

__all__ = ["CATCH_UP", "COPY", "DONE", "Ledger", "Piece"]

COPY, CATCH_UP, DONE = "copy", "catch-up", "done"
"""The phases of a clone."""

_PLAN_DOCUMENTS = 500
_WHERE = "destination"


@dataclass(slots=True)
class Piece:
    """
    A segment, and how much of it is copied.

    @ivar uuid: the collection's.
    @ivar after: C{{_id: value}}, raw, of the last document copied.
    @ivar done: whether all of it is.
    @ivar documents: how many were copied.
    @ivar size: their bytes.
    @ivar resumed: whether documents of it may be in the destination that it
        does not count.
    """

    uuid: bytes
    segment: Segment
    after: bytes | None = None
    done: bool = False
    documents: int = 0
    size: int = 0
    resumed: bool = False

    def restart(self) -> None:
        """
        Nothing of it is copied.
        """
        self.after, self.documents, self.size, self.resumed = None, 0, 0, True


class Ledger:
    """
    Where the progress of one clone is kept.

    @param key: the checkpoint's C{_id}.
    @ivar owner: the C{seq} that this process took over with.
    """

    def __init__(self, pool: ConnectionPool, key: str, patience: Patience) -> None:
        self.key = key
        self.owner = 0
        self._patience = patience
        # What the destination has of each collection's blueprint.
        self._stored: dict[bytes, dict[str, Any]] = {}
        database = pool.get_database(
            DATABASE, codec_options=CODEC, write_concern=WriteConcern("majority")
        )
        self._checkpoints: Collection[dict[str, Any]] = database[COLLECTION]
        self._collections: Collection[dict[str, Any]] = database[f"{COLLECTION}.collections"]
        self._ranges: Collection[dict[str, Any]] = database[f"{COLLECTION}.ranges"]

    async def phase(self) -> tuple[str, bool] | None:
        """
        In which phase the clone is, and whether it is planned; C{None} where
        the checkpoint is of a replication without a clone, or absent.
        """
        find = partial(self._checkpoints.find_one, {"_id": self.key}, {"clone": 1})
        found = await self._patience.ask(_WHERE, find)
        clone = (found or {}).get("clone")
        return None if clone is None else (str(clone["phase"]), bool(clone["planned"]))

    async def enter(
        self, current: Checkpoint, phase: str, *, window_end: int | None = None
    ) -> Checkpoint:
        """
        Go to a phase.

        @param window_end: the checkpoint's new C{window_end}.

        @return: the checkpoint as it now stands.
        @raise FencedError: another process has taken over.
        """
        following = replace(
            current,
            seq=current.seq + 1,
            window_end=current.window_end if window_end is None else window_end,
        )
        change = {"$set": {**following.fields(), "clone": {"phase": phase, "planned": True}}}

        async def attempt(again: bool) -> None:
            result = await self._checkpoints.update_one(
                {"_id": self.key, "seq": Int64(current.seq)}, change
            )
            if result.matched_count:
                return
            if again and await self._checkpoints.find_one(
                {"_id": self.key, "seq": Int64(following.seq), "clone.phase": phase}
            ):
                return
            raise FencedError(_TAKEN)

        await self._patience.keep_trying(attempt, _WHERE)
        return following

    async def write_plan(
        self, made: Sequence[Blueprint], pieces: Sequence[Piece], owner: int
    ) -> None:
        """
        Store what is to be copied, in place of what an earlier start planned.

        @param owner: the C{seq} that the checkpoint will have next.
        """
        self.owner = owner
        await self._patience.ask(_WHERE, partial(self._write_plan, made, pieces))

    async def _write_plan(self, made: Sequence[Blueprint], pieces: Sequence[Piece]) -> None:
        owner = self.owner
        await self.clear()
        mine = {"key": self.key, "owner": Int64(owner)}
        await _insert(
            self._collections,
            ({"_id": self._name(each), **mine, **each.pack()} for each in made),
        )
        await _insert(
            self._ranges,
            (
                {
                    "_id": self._range_name(each),
                    **mine,
                    "uuid": Binary(each.uuid, 4),
                    "number": each.segment.number,
                    "lower": _binary(each.segment.lower),
                    "upper": _binary(each.segment.upper),
                    **_progress(each),
                }
                for each in pieces
            ),
        )

    async def load(self, position: int) -> tuple[list[Blueprint], list[Piece]]:
        """
        What is planned, and how far it is.

        @param position: the checkpoint's.
        """
        ask, mine = self._patience.ask, {"key": self.key}
        stored = await ask(_WHERE, lambda: self._collections.find(mine).to_list())
        made = []
        for found in stored:
            packed = found["next"] if "at" in found and found["at"] <= position else found
            if "blueprint" in packed:
                blueprint = Blueprint.unpack(packed)
                made.append(blueprint)
                self._stored[blueprint.uuid] = blueprint.pack()
        pieces = []
        ranges = await ask(_WHERE, lambda: self._ranges.find(mine).sort("_id", 1).to_list())
        for found in ranges:
            lower, upper, after = (_bytes(found[name]) for name in ("lower", "upper", "after"))
            pieces.append(
                Piece(
                    uuid=bytes(found["uuid"]),
                    segment=Segment(found["number"], lower, upper),
                    after=after,
                    done=found["done"],
                    documents=int(found["documents"]),
                    size=int(found["size"]),
                    resumed=True,
                )
            )
        return made, pieces

    async def take_over(self, owner: int) -> None:
        """
        Make all documents this process's.
        """
        self.owner = owner
        change = {"$set": {"owner": Int64(owner)}}
        for collection in (self._collections, self._ranges):
            update = partial(collection.update_many, {"key": self.key}, change)
            await self._patience.ask(_WHERE, update)

    async def check(self) -> None:
        """
        Make sure that this process still owns the checkpoint.

        @raise FencedError: it does not.
        """
        found = await self._checkpoints.find_one({"_id": self.key}, {"seq": 1})
        if found is None or found["seq"] != self.owner:
            raise FencedError(_TAKEN)

    async def save_piece(self, piece: Piece) -> None:
        """
        Store how far a piece is.

        @raise FencedError: another process has taken over.
        """
        await self._set(self._ranges, self._range_name(piece), _progress(piece))

    async def save(self, blueprint: Blueprint) -> None:
        """
        Store a blueprint that is planned.

        @raise FencedError: another process has taken over.
        """
        await self._set(self._collections, self._name(blueprint), blueprint.pack())
        self._stored[blueprint.uuid] = blueprint.pack()

    async def save_change(self, blueprint: Blueprint, position: int) -> None:
        """
        Store what a blueprint becomes once the checkpoint is at a position.
        """
        packed = blueprint.pack()
        document = {
            "key": self.key,
            "owner": Int64(self.owner),
            **self._stored.get(blueprint.uuid, {}),
            "at": Int64(position),
            "next": packed,
        }
        await self._patience.keep_trying(
            lambda again: self._collections.replace_one(
                {"_id": self._name(blueprint)}, document, upsert=True
            ),
            _WHERE,
        )
        self._stored[blueprint.uuid] = packed

    async def _set(
        self, collection: Collection[dict[str, Any]], name: str, change: dict[str, Any]
    ) -> None:
        result = await self._patience.keep_trying(
            lambda again: collection.update_one(
                {"_id": name, "owner": Int64(self.owner)}, {"$set": change}
            ),
            _WHERE,
        )
        if not result.matched_count:
            raise FencedError(_TAKEN)

    async def clear(self) -> None:
        """
        Remove what is not needed once the clone is done.
        """
        for collection in (self._ranges, self._collections):
            delete = partial(collection.delete_many, {"key": self.key})
            await self._patience.ask(_WHERE, delete)

    def _name(self, blueprint: Blueprint) -> str:
        return f"{self.key} {blueprint.uuid.hex() or blueprint.namespace}"

    def _range_name(self, piece: Piece) -> str:
        return f"{self.key} {piece.uuid.hex()} {piece.segment.number:06d}"


_TAKEN = (
    "the clone has moved on without this process: another replicator has taken over this "
    "destination, and this one stops"
)


def _progress(piece: Piece) -> dict[str, Any]:
    return {
        "after": _binary(piece.after),
        "done": piece.done,
        "documents": Int64(piece.documents),
        "size": Int64(piece.size),
    }


def _binary(raw: bytes | None) -> Binary | None:
    return None if raw is None else Binary(raw)


def _bytes(stored: Any) -> bytes | None:
    return None if stored is None else bytes(stored)


async def _insert(
    collection: Collection[dict[str, Any]], documents: Iterable[dict[str, Any]]
) -> None:
    waiting = []
    for document in documents:
        waiting.append(document)
        if len(waiting) == _PLAN_DOCUMENTS:
            await collection.insert_many(waiting)
            waiting = []
    if waiting:
        await collection.insert_many(waiting)
