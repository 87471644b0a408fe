"""
The end of a cut-over, as the destination remembers it, and the way back: the
destination's oplog, from the end of the cut-over on, replicated to what was
the source.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.replicator.arguments import Arguments, redacted
from txmongokit.replicator.checkpoint import (
    COLLECTION,
    DATABASE,
    Checkpoint,
    CheckpointStore,
    FencedError,
)
from txmongokit.replicator.entries import from_timestamp, timestamp
from txmongokit.replicator.inspection import DeploymentError, check_versions, inspect
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.start import show_position

__all__ = [
    "Committed",
    "ReversalError",
    "prepare_reversal",
    "read_committed",
    "record_committed",
    "refuse_committed",
    "reversed_selection",
]


class ReversalError(Exception):
    """
    The other direction cannot be prepared: one sentence with the cause and
    the mend.
    """


@dataclass(frozen=True, slots=True)
class Committed:
    """
    A cut-over that is done, and after which the replication did not go on.

    @ivar position: where the destination's oplog ended then; 0 where it has
        none.
    @ivar term: of that entry.
    @ivar at: when that was.
    """

    position: int
    term: int
    at: datetime


def _checkpoints(pool: ConnectionPool) -> Collection[dict[str, Any]]:
    return pool.get_database(DATABASE, write_concern=WriteConcern("majority"))[COLLECTION]


async def record_committed(pool: ConnectionPool, key: str, checkpoint: Checkpoint) -> Committed:
    """
    Note in the destination, beside the checkpoint, that the cut-over is done.

    @param key: the checkpoint's C{_id}.
    @param checkpoint: the last one.
    @raise FencedError: another replicator has moved it.
    """
    newest = await _newest(pool)
    position, term = (0, -1) if newest is None else newest
    committed = Committed(position, term, datetime.now(UTC))
    done = await _checkpoints(pool).update_one(
        {"_id": key, "seq": Int64(checkpoint.seq)},
        {
            "$set": {
                "committed": {
                    "seq": Int64(checkpoint.seq),
                    "ts": timestamp(position),
                    "t": Int64(term),
                    "at": committed.at,
                }
            }
        },
    )
    if done.matched_count != 1:
        raise FencedError("another replicator has moved the checkpoint during the cut-over")
    return committed


async def read_committed(pool: ConnectionPool, key: str) -> Committed | None:
    """
    The cut-over that is noted there, if nothing was replicated after it.

    @param pool: the destination.
    """
    document: Mapping[str, Any] | None = await _checkpoints(pool).find_one({"_id": key})
    noted = None if document is None else document.get("committed")
    if document is None or noted is None or noted["seq"] != document["seq"]:
        return None
    return Committed(from_timestamp(noted["ts"]), int(noted["t"]), noted["at"])


async def refuse_committed(pool: ConnectionPool, key: str) -> None:
    """
    Do not go on with a replication whose cut-over is done.

    @param pool: the destination.
    @raise ReversalError: it is.
    """
    committed = await read_committed(pool, key)
    if committed is not None:
        raise ReversalError(
            f"the cut-over of this replication was done at {committed.at:%Y-%m-%dT%H:%M:%SZ}, and "
            "the destination may have been written to since: prepare the other direction with "
            "'python -m txmongokit.oplog reverse', or go on with this one by --force-start"
        )


async def _newest(pool: ConnectionPool) -> tuple[int, int] | None:
    """Position and term of the newest entry of an oplog that a majority has."""
    oplog = pool.get_database("local", read_concern=ReadConcern("majority"))["oplog.rs"]
    try:
        entry = await oplog.find_one({}, {"ts": 1, "t": 1}, sort=[("$natural", -1)])
    except OperationFailure as error:
        if error.code == 13:  # Not every user may read it; then there is no way back.
            return None
        raise
    return None if entry is None else (from_timestamp(entry["ts"]), int(entry.get("t", -1)))


def reversed_selection(selection: Selection) -> Selection:
    """
    What selects in the destination what was replicated there, and renames it
    back.

    @raise ReversalError: names were changed by a pattern.
    """
    names = (*selection.include, *selection.exclude)
    if selection.renames and any(
        "*" in name or name.startswith("/") for name in (*names, *selection.renames)
    ):
        raise ReversalError(
            "names that were changed by a pattern, or selected by one while others were changed, "
            "cannot be reversed: start the other direction with options of your own"
        )
    pairs = [text.partition("=") for text in selection.renames]

    def renamed(name: str) -> str:
        return selection.renamed(name) if "." in name else selection.renamed_database(name)

    return Selection(
        [renamed(name) for name in selection.include],
        [renamed(name) for name in selection.exclude],
        [f"{new}={old}" for old, _, new in pairs],
        selection.users,
    )


async def prepare_reversal(
    source: ConnectionPool, destination: ConnectionPool, key: str, arguments: Arguments
) -> str:
    """
    Store in what was the source where a replication of the other direction
    begins.

    @param source: of the forward direction.
    @param destination: of the forward direction.
    @param key: the forward checkpoint's C{_id}.
    @return: sentences that say what to start, for people.
    @raise ReversalError: the forward direction was not committed, or has run
        since; or there is nothing to begin with.
    """
    committed = await read_committed(destination, key)
    if committed is None:
        raise ReversalError(
            "a forward run is active, or was not ended by a cut-over: commit it first "
            "(POST /api/v1/commit)"
        )
    if not committed.position:
        raise ReversalError(
            "the destination has no oplog that may be read, so there is no way back: it must be "
            "a replica set"
        )
    selection = reversed_selection(arguments.selection)
    there = await inspect(destination)
    try:
        check_versions(there, await inspect(source), "the former source")
    except DeploymentError as error:
        raise ReversalError(str(error)) from error
    store = CheckpointStore(
        source,
        f"{there.set_name} {selection.fingerprint()}",
        {"source": there.identity, "selection": selection.describe()},
    )
    if await store.load() is None:
        session = source.start_session(causal_consistency=False)
        first = Checkpoint(seq=0, position=committed.position, term=committed.term)
        await store.create(first, session)
        what = "the start of the other direction is stored"
    else:
        what = "the other direction has a checkpoint already, which stays"
    command = shlex.join(
        [
            *("mongosync", "--from", redacted(arguments.destination)),
            *("--to", redacted(arguments.source), "-f"),
            *(("--ns", *selection.include) if selection.include else ()),
            *(("--exclude", *selection.exclude) if selection.exclude else ()),
            *(("--rename", *selection.renames) if selection.renames else ()),
            *(("--users",) if selection.users else ()),
        ]
    )
    return (
        f"{what}: {show_position(committed.position)} in the oplog of {there.set_name}\n"
        f"allow writes to the former source again, and run: twistd {command}"
    )
