"""
How far the replication has come: one document in the destination.

It is written in the transaction that writes the operations, with a filter on
the C{seq} before it.  So a batch that is repeated, one that is left out, or
a second replicator on the same destination finds another C{seq} there and
cannot pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS
from bson.int64 import Int64
from pymongo import ReturnDocument
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from txmongokit.collection import Collection, RawWriteCommand
from txmongokit.connection import ConnectionPool
from txmongokit.errors import DuplicateKeyError, OperationFailure
from txmongokit.replicator.entries import from_timestamp, timestamp
from txmongokit.replicator.patience import Patience
from txmongokit.sessions import ClientSession

__all__ = ["Checkpoint", "CheckpointStore", "FencedError", "ForeignCheckpointError"]

DATABASE = "txmongokit"
COLLECTION = "mongosync"
_NOT_A_REPLICA_SET = 123
_TAKEN_OVER = (
    "the checkpoint in {namespace} has moved: another replicator has taken over this destination, "
    "and this one stops"
)
_DELETED = "the checkpoint in {namespace} was deleted while starting"
# How long the members may take to agree on where it is.
_SETTLING_MS = 10_000


class FencedError(Exception):
    """
    The checkpoint is not where this replicator left it: another one has
    taken over.
    """


class ForeignCheckpointError(Exception):
    """
    The checkpoint was left by the replication of another source.
    """


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """
    A position, and what it took to get there.

    @ivar seq: counts the writes of the checkpoint itself.
    @ivar position: of the last entry that is fully applied (seconds in the
        upper, increment in the lower 32 bits).
    @ivar term: the source's election term of that entry; -1 where nothing
        was applied yet, and C{position} is where to begin.
    @ivar count: operations applied since the first start.
    @ivar missing: updates whose document the destination did not have.
    @ivar window_end: entries up to here may update documents that are
        missing, because the first start began in the past.
    @ivar intent: entries up to here may have taken effect although the
        checkpoint is still before them: DDL, and capped collections.
    @ivar part: how many parts of the source transaction behind C{position}
        are applied, where that is split.
    """

    seq: int
    position: int
    term: int
    count: int = 0
    missing: int = 0
    window_end: int = 0
    intent: int | None = None
    part: int = 0

    def advanced(
        self, position: int, term: int, *, count: int = 0, missing: int = 0, part: int = 0
    ) -> Checkpoint:
        """
        The checkpoint after the entries up to C{position}.
        """
        # An intent is kept until it is passed.
        kept = self.intent is not None and position < self.intent
        return replace(
            self,
            seq=self.seq + 1,
            position=position,
            term=term,
            count=self.count + count,
            missing=self.missing + missing,
            intent=self.intent if kept else None,
            part=part,
        )

    @property
    def applied(self) -> bool:
        """
        Whether the entry at C{position} is in the destination.
        """
        return self.term != -1

    @property
    def reached(self) -> int:
        """
        The position up to which entries are in the destination.
        """
        return self.position if self.applied else self.position - 1

    def intending(self, position: int) -> Checkpoint:
        """
        The checkpoint before a DDL entry is executed.
        """
        return replace(self, seq=self.seq + 1, intent=position)

    def fields(self) -> dict[str, Any]:
        """
        As stored.
        """
        return {
            "seq": Int64(self.seq),
            "ts": timestamp(self.position),
            "t": Int64(self.term),
            "count": Int64(self.count),
            "missing": Int64(self.missing),
            "window_end": timestamp(self.window_end),
            "intent": None if self.intent is None else timestamp(self.intent),
            "part": Int64(self.part),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Checkpoint:
        """
        From what is stored.
        """
        intent = document.get("intent")
        return cls(
            seq=int(document["seq"]),
            position=from_timestamp(document["ts"]),
            term=int(document["t"]),
            count=int(document["count"]),
            missing=int(document["missing"]),
            window_end=from_timestamp(document["window_end"]),
            intent=None if intent is None else from_timestamp(intent),
            part=int(document.get("part", 0)),
        )


class CheckpointStore:
    """
    The checkpoint document of one replication.

    @param key: its C{_id}: the source, the selection and the renames.
    @param about: what the key stands for, stored for people to read.
    """

    def __init__(self, pool: ConnectionPool, key: str, about: Mapping[str, Any]) -> None:
        self.key = key
        self._about = dict(about)
        self._has_majority = True
        self._owner: dict[str, Any] | None = None
        self._pool = pool
        # The owner is compared, so it must come back as it went, whatever the URI says of UUIDs.
        self._collection: Collection[dict[str, Any]] = pool.get_database(
            DATABASE, write_concern=WriteConcern("majority"), codec_options=DEFAULT_CODEC_OPTIONS
        )[COLLECTION]

    @property
    def namespace(self) -> str:
        """
        Where the document is.
        """
        return f"{DATABASE}.{COLLECTION}"

    async def load(self) -> Checkpoint | None:
        """
        What an earlier run has left, or C{None}.

        @raise ForeignCheckpointError: it is of another replica set, which
            has the same name.
        """
        document = await self._collection.find_one({"_id": self.key})
        if document is None:
            return None
        theirs = document.get("source", {}).get("id")
        ours = self._about.get("source", {}).get("id")
        # Not every user may read it.
        if theirs is not None and ours is not None and theirs != ours:
            raise ForeignCheckpointError(
                f"the checkpoint {self.key!r} in {self.namespace} is of another replica set of "
                "that name: name the right source, or remove the checkpoint and copy the data anew"
            )
        return Checkpoint.from_document(document)

    async def create(self, checkpoint: Checkpoint, session: ClientSession) -> None:
        """
        Store the first checkpoint of a replication.

        @raise FencedError: somebody else just did.
        """
        # In an inserted document servers take Timestamp(0, 0) for the present time.
        fields = {**checkpoint.fields(), "window_end": timestamp(checkpoint.window_end or 1)}
        try:
            await self._collection.insert_one(
                {
                    "_id": self.key,
                    **self._about,
                    **fields,
                    "owner": dict(session.session_id),
                    "started": datetime.now(UTC),
                }
            )
        except DuplicateKeyError as error:
            raise FencedError(
                "another replicator started on this destination at the same moment: "
                "keep one of them"
            ) from error
        self._owner = dict(session.session_id)

    async def take_over(
        self,
        session: ClientSession,
        position: Checkpoint | None = None,
        *,
        rank: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """
        Make this process the only one that can move the checkpoint.

        What an earlier one has left in an open transaction is aborted, what
        it is committing is waited for.

        @param position: move there instead of going on where it stands.
        @param rank: of a checkpoint beside the main one, that one's C{started} and
            C{seq}.  Who took the main one over later keeps this one, too.
        @raise FencedError: it was deleted, or somebody of a higher rank has it.
        """
        wanted: dict[str, Any] = {"_id": self.key}
        if rank is not None:
            higher = {"main.started": rank["started"], "main.seq": {"$gt": rank["seq"]}}
            wanted["$nor"] = [higher]
        document = await self._collection.find_one(wanted)
        if document is not None and document.get("owner") is not None:
            await self._abort_transactions_of(document["owner"])
        change: dict[str, Any] = {
            "$inc": {"seq": Int64(1)},
            "$set": {"owner": dict(session.session_id), "taken": datetime.now(UTC)},
        }
        if position is not None:
            fields = position.fields()
            del fields["seq"]
            change["$set"].update(fields)
            # Where lanes are counts from the position that is given up.
            change["$set"]["lanes.stale"] = True
        if rank is not None:
            change["$set"]["main"] = rank
        taken = await self._collection.find_one_and_update(
            wanted, change, return_document=ReturnDocument.AFTER
        )
        if taken is None:
            text = _DELETED if rank is None else _TAKEN_OVER
            raise FencedError(text.format(namespace=self.namespace))
        self._owner = dict(session.session_id)
        return Checkpoint.from_document(taken)

    async def held(self) -> dict[str, Any]:
        """
        The document, while it is this process's.

        @raise FencedError: it was deleted, or another replicator has taken
            over.
        """
        document = await self._load_settled()
        if document is None:
            raise FencedError(_DELETED.format(namespace=self.namespace))
        self._check_owner(document)
        return document

    def _check_owner(self, document: Mapping[str, Any]) -> None:
        owner = document.get("owner")
        if None not in (owner, self._owner) and owner != self._owner:
            raise FencedError(_TAKEN_OVER.format(namespace=self.namespace))

    async def _abort_transactions_of(self, owner: Mapping[str, Any]) -> None:
        try:
            await self._pool["admin"].command({"killSessions": [{"id": owner["id"]}]})
        except OperationFailure:
            # Without the privilege, the server ends them after
            # transactionLifetimeLimitSeconds.
            pass

    def statement(
        self, current: Checkpoint, following: Checkpoint, more: Mapping[str, Any] | None = None
    ) -> bytes:
        """
        The update statement that moves the checkpoint, if it is where
        C{current} says.

        @param more: other fields of the document to set.
        """
        fields = following.fields()
        if more is not None:
            fields.update(more)
        return bson.encode(
            {"q": {"_id": self.key, "seq": Int64(current.seq)}, "u": {"$set": fields}}
        )

    async def move(
        self,
        current: Checkpoint,
        following: Checkpoint,
        session: ClientSession | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Move the checkpoint, within the session's transaction where there is
        one.

        @param more: other fields of the document to set.
        @raise FencedError: it is not where C{current} says.
        """
        reply = await self._collection.raw_write(
            "update",
            [self.statement(current, following, more)],
            session=session,
            retryable=session is None,
        )
        self.check(reply)

    def move_command(self, current: Checkpoint, following: Checkpoint) -> RawWriteCommand:
        """
        L{move} as a transaction's command, whose reply is for L{check}.
        """
        return self._collection.raw_write_command("update", [self.statement(current, following)])

    def check(self, reply: Mapping[str, Any]) -> None:
        """
        See that a move took place.

        @raise FencedError: it did not.
        """
        if reply["n"] != 1:
            raise FencedError(_TAKEN_OVER.format(namespace=self.namespace))

    async def advance(
        self,
        current: Checkpoint,
        following: Checkpoint,
        patience: Patience,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Move the checkpoint by itself, however long that takes.

        @param more: other fields of the document to set.
        @raise FencedError: it is not where C{current} says.
        """

        async def attempt(again: bool) -> None:
            if again and await self.settled(current, following.position) is not None:
                return
            await self.move(current, following, more=more)

        await patience.keep_trying(attempt, "destination")

    async def settled(self, current: Checkpoint, position: int) -> Checkpoint | None:
        """
        The checkpoint, if a move of unknown outcome did take place.

        @param current: where it was before.
        @param position: where it was to go.

        What a new primary has may not be what it keeps, so the answer is one
        that a majority stands behind.

        @raise FencedError: another replicator has taken over.  That moves the
            sequence, too, and not always the position.
        """
        document = await self._load_settled()
        if document is None:
            return None
        self._check_owner(document)
        stored = Checkpoint.from_document(document)
        if stored.seq != current.seq + 1 or stored.position != position:
            return None
        return stored

    async def _load_settled(self) -> dict[str, Any] | None:
        collection = self._collection
        if self._has_majority:
            collection = collection.with_options(read_concern=ReadConcern("linearizable"))
        try:
            document = await collection.find_one({"_id": self.key}, max_time_ms=_SETTLING_MS)
        except OperationFailure as error:
            if error.code != _NOT_A_REPLICA_SET or not self._has_majority:
                raise
            self._has_majority = False
            return await self._load_settled()
        return document
