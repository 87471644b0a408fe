"""
The initial sync: the source's collections, copied while they are written to.

The copy is of no one moment.  It becomes right by replaying the oplog from a
position before the first read up to one behind the last: see
L{txmongokit.replicator.window}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import bson
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect, OperationFailure
from txmongokit.replicator.blueprints import CODEC, Blueprint, blueprints, requested, view_order
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.copying import Copier
from txmongokit.replicator.ddl import translate
from txmongokit.replicator.entries import timestamp
from txmongokit.replicator.ledger import CATCH_UP, COPY, Ledger, Piece
from txmongokit.replicator.pacing import Pace
from txmongokit.replicator.patience import Patience, is_passing
from txmongokit.replicator.segments import DEFAULT_TASKS, Segment, how_many, segments
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.tailer import OPLOG, OplogGap, Tailer, last_written
from txmongokit.replicator.writers import ApplyError, refusal

__all__ = [
    "CloneError",
    "CloneProgress",
    "InitialSync",
    "end_of_window",
    "run_command",
    "writes_ended",
]

_NAMESPACE_EXISTS = 48
_ADMIN = "admin"
# The second is what $collStats says.
_NOT_THERE = frozenset({26, 40280})
_NOT_AUTHORIZED = 13
# Drawn for each segment, so that segments come out about equally large.
_DRAWN = 20
# How long the newest entry that a majority has may be behind what was read.
_SETTLING = 15


class CloneError(Exception):
    """
    There is no cloning from here to there: one sentence with the cause and
    the mend.
    """


@dataclass(slots=True)
class CloneProgress:
    """
    How far a clone is.

    @ivar documents: copied, of about C{all_documents}.
    @ivar size: bytes copied, of about C{all_bytes}.
    @ivar fresh: documents copied since this process began.
    @ivar began: when that was, in the reactor's seconds.
    """

    all_documents: int = 0
    all_bytes: int = 0
    documents: int = 0
    size: int = 0
    fresh: int = 0
    fresh_size: int = 0
    began: float = 0.0

    def describe(self, now: float) -> str:
        """
        For people to read.
        """
        seconds = max(now - self.began, 0.001)
        share = min(1.0, self.size / self.all_bytes) if self.all_bytes else 1.0
        left = max(0, self.all_bytes - self.size) * seconds / max(1, self.fresh_size)
        return (
            f"cloned {100 * share:.1f} %: {self.documents} of about {self.all_documents} documents "
            f"({self.fresh / seconds:.0f}/s, {self.fresh_size / seconds / 1e6:.1f} MB/s), about "
            f"{left:.0f} s to go"
        )


class InitialSync:
    """
    One clone, begun or gone on with.

    @param tasks: how many pieces are copied at once.
    @param drop: whether what is in the way in the destination is dropped.
    @param pace: how fast it may go.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        source: ConnectionPool,
        destination: ConnectionPool,
        selection: Selection,
        ledger: Ledger,
        patience: Patience,
        *,
        tasks: int = DEFAULT_TASKS,
        drop: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.progress = CloneProgress()
        self._reactor = reactor
        self._source = source
        self._destination = destination
        self._selection = selection
        self._ledger = ledger
        self._patience = patience
        self._tasks = tasks
        self._drop = drop
        self._pace = pace or Pace(reactor)

    async def first_position(self, oldest: int, newest: int) -> int:
        """
        Where the replay is to begin: before every read that follows, and
        before the transactions that are under way.

        @param oldest: the position of the oplog's oldest entry.
        @param newest: that of the newest one that a majority has.
        """
        try:
            found = (
                await self._source["config"]["transactions"]
                .find(
                    {"state": {"$in": ["prepared", "inProgress"]}, "startOpTime": {"$exists": 1}},
                    {"startOpTime": 1},
                )
                .to_list()
            )
        except OperationFailure as error:
            if error.code != _NOT_AUTHORIZED:
                raise
            # The parts of a transaction are looked up when it ends: that does, too.
            return newest
        positions = [
            (each["startOpTime"]["ts"].time << 32) | each["startOpTime"]["ts"].inc for each in found
        ]
        # What began before the oplog does is not under way any more.
        return min([position for position in positions if position >= oldest], default=newest)

    async def survey(self) -> list[Blueprint]:
        """
        What there is to clone, with estimates.
        """
        found: list[Blueprint] = []
        names = (await self._source["admin"].command({"listDatabases": 1, "nameOnly": True}))[
            "databases"
        ]
        for name in sorted(each["name"] for each in names):
            if self._selection.selects_part(name):
                found.extend(await self._survey_database(name))
        return found

    async def _survey_database(self, name: str) -> list[Blueprint]:
        database: Database[Any] = self._source.get_database(name, codec_options=CODEC)
        chosen = [
            each
            for each in blueprints(name, await database.list_collections().to_list())
            if each.kind == "views" or self._selection.selects(each.namespace)
        ]
        for each in chosen:
            if not each.has_data:
                continue
            try:
                listed = await database.cursor_command(
                    {"listIndexes": each.visible_name}, codec_options=CODEC
                ).to_list()
                if name != _ADMIN:
                    # Users and roles are where every server has indexed them.
                    each.add_indexes(listed)
                stats = (
                    await database[each.name]
                    .aggregate([{"$collStats": {"storageStats": {}}}])
                    .to_list()
                )
            except OperationFailure as error:
                if error.code not in _NOT_THERE:
                    raise
                continue  # dropped or renamed just now
            storage = stats[0]["storageStats"] if stats else {}
            each.documents = int(storage.get("count", 0))
            each.size = int(storage.get("size", 0))
        return chosen

    async def run(self, current: Checkpoint, *, planned: bool) -> Checkpoint:
        """
        Copy everything and build what need not wait.

        @param planned: whether an earlier process got as far as having a
            plan.

        @return: the checkpoint, with the phase after this one entered.
        @raise CloneError: the destination is not empty.
        """
        if planned:
            made, pieces = await self._ledger.load(current.position)
            await self._ledger.take_over(current.seq)
            self._log.info(
                "going on with the clone: {done} of {all} pieces are done",
                done=sum(piece.done for piece in pieces),
                all=len(pieces),
            )
        else:
            ask = self._patience.ask
            made = await ask("source", self.survey)
            await ask("destination", partial(self._make_room, made))
            pieces = await ask("source", partial(self._cut, made))
            await self._ledger.write_plan(made, pieces, current.seq + 1)
            current = await self._ledger.enter(current, COPY)
        self._count(made, pieces)
        await self._create(made)
        copier = Copier(
            self._reactor,
            self._source,
            self._destination,
            self._selection,
            self._ledger,
            self._patience,
            current.position,
            copied=self._advance,
            pace=self._pace,
        )
        await self._copy(copier, made, pieces)
        targets = {copier.target(each).full_name for each in made if each.has_data}
        await writes_ended(self._destination, self._patience, targets)
        await self._create_views(made)
        window_end = await end_of_window(
            self._reactor, self._source, self._patience, current.position, copier.latest
        )
        for each in made:
            if each.has_data and each.is_capped:
                end = partial(self._find_end, copier, each, current.position, window_end)
                await self._patience.ask("source or destination", end)
        self._log.info(
            "the copy is complete: {count} documents; catching up from {at}",
            count=self.progress.documents,
            at=timestamp(current.position),
        )
        return await self._ledger.enter(current, CATCH_UP, window_end=window_end)

    # Before.

    async def _make_room(self, made: Sequence[Blueprint]) -> None:
        """See to it that nothing is where something will be put."""
        wanted = {
            self._selection.renamed(f"{each.database}.{each.visible_name}")
            for each in made
            if each.kind != "views"
        }
        databases = {name.partition(".")[0] for name in wanted}
        if not self._selection.renames:
            listed = await self._destination["admin"].command(
                {"listDatabases": 1, "nameOnly": True}
            )
            databases |= {
                each["name"]
                for each in listed["databases"]
                if self._selection.selects_part(each["name"])
            }
        for name in sorted(databases):
            database = self._destination.get_database(name, write_concern=WriteConcern("majority"))
            for found in sorted(
                each["name"] for each in await database.list_collections().to_list()
            ):
                namespace = f"{name}.{found}"
                in_the_way = namespace in wanted or (
                    not self._selection.renames and self._selection.selects(namespace)
                )
                if not in_the_way or found.startswith("system."):
                    continue
                if not self._drop:
                    raise CloneError(
                        f"the destination has {namespace} already: clone to an empty destination, "
                        "or give --drop to have dropped what is in the way"
                    )
                self._log.info("dropping {namespace} in the destination", namespace=namespace)
                await database.drop_collection(found)

    async def _cut(self, made: Sequence[Blueprint]) -> list[Piece]:
        """Decide which parts are copied."""
        pieces: list[Piece] = []
        for each in made:
            if not each.has_data:
                continue
            count = how_many(each.size, each.documents) if each.by_id else 1
            cuts = [Segment(0, None, None)]
            if count > 1:
                cuts = segments(await self._sample(each, count * _DRAWN), count)
            # A user of that name may be there already, and becomes the source's.
            there = each.database == _ADMIN
            pieces.extend(Piece(each.uuid, segment, resumed=there) for segment in cuts)
        return pieces

    async def _sample(self, blueprint: Blueprint, count: int) -> list[bytes]:
        collection = self._source.get_database(
            blueprint.database, read_concern=ReadConcern("local")
        )[blueprint.name]
        found: list[bytes] = await collection.aggregate_raw_batches(
            [{"$sample": {"size": count}}, {"$project": {"_id": 1}}, {"$sort": {"_id": 1}}],
            allow_disk_use=True,
        ).to_list()
        return found

    def _count(self, made: Sequence[Blueprint], pieces: Sequence[Piece]) -> None:
        progress = self.progress
        progress.began = self._reactor.seconds()
        progress.all_documents = sum(each.documents for each in made)
        progress.all_bytes = sum(each.size for each in made)
        progress.documents = sum(piece.documents for piece in pieces)
        progress.size = sum(piece.size for piece in pieces)

    def _advance(self, documents: int, size: int) -> None:
        progress = self.progress
        progress.documents += documents
        progress.size += size
        progress.fresh += documents
        progress.fresh_size += size

    async def _create(self, made: Sequence[Blueprint]) -> None:
        """Make the collections, as far as they are not there."""
        for each in made:
            if each.has_data and each.database != _ADMIN:
                database, _, name = self._selection.renamed(each.namespace).partition(".")
                if each.kind == "buckets":
                    name = name.removeprefix("system.buckets.")
                command = {"create": name, **each.options}
                await self._command(database, command, _NAMESPACE_EXISTS)

    async def _create_views(self, made: Sequence[Blueprint]) -> None:
        for each in view_order([each for each in made if each.kind == "view"]):
            change = translate(
                f"{each.database}.$cmd",
                {"create": each.name, **each.options},
                None,
                self._selection,
            )
            if change is not None:
                await self._command(change.database, change.command, _NAMESPACE_EXISTS)

    async def _command(self, database: str, command: dict[str, Any], *done: int) -> None:
        await run_command(self._destination, self._patience, database, command, *done)

    # The data.

    async def _copy(
        self, copier: Copier, made: Sequence[Blueprint], pieces: Sequence[Piece]
    ) -> None:
        """Copy the pieces, the largest collections first, and build indexes."""
        by_uuid = {each.uuid: each for each in made if each.has_data}
        left = dict.fromkeys(by_uuid, 0)
        for piece in pieces:
            left[piece.uuid] += not piece.done
        waiting = sorted(
            (piece for piece in pieces if not piece.done),
            key=lambda piece: (-by_uuid[piece.uuid].size, piece.uuid, piece.segment.number),
        )
        unfinished = [uuid for uuid, count in left.items() if not count]

        async def work() -> None:
            while waiting or unfinished:
                if unfinished:
                    await self._build(copier, by_uuid[unfinished.pop()])
                    continue
                piece = waiting.pop(0)
                blueprint = by_uuid[piece.uuid]
                await copier.copy(blueprint, piece)
                left[piece.uuid] -= 1
                if not left[piece.uuid]:
                    await self._build(copier, blueprint)

        await _together([work] * self._tasks)

    async def _build(self, copier: Copier, blueprint: Blueprint) -> None:
        """Build the indexes that need not wait."""
        if not blueprint.indexes:
            return
        target = copier.target(blueprint)
        name = target.name.removeprefix("system.buckets.")
        self._log.info(
            "building {count} indexes of {namespace}",
            count=len(blueprint.indexes),
            namespace=target.full_name,
        )
        command = {"createIndexes": name, "indexes": requested(blueprint.indexes)}
        await self._command(target.database.name, command)

    # After.

    async def _find_end(
        self, copier: Copier, blueprint: Blueprint, position: int, window_end: int
    ) -> None:
        """
        For a capped collection, the entry of its newest document: inserts up
        to there are in the copy, or are gone from it as they should be.
        """
        newest: list[bytes] = (
            await copier.target(blueprint)
            .find_raw_batches({}, {"_id": 1}, sort=[("$natural", -1)], limit=1)
            .to_list()
        )
        blueprint.known_end = position
        if newest:
            identifier = bson.decode(newest[0], CODEC)["_id"]
            found = (
                await copier.source_collection("local", "oplog.rs")
                .find(
                    {
                        "ts": {"$gte": timestamp(position), "$lte": timestamp(window_end)},
                        "op": "i",
                        "ui": bson.Binary(blueprint.uuid, 4),
                        "o._id": {"$eq": identifier},
                    },
                    {"ts": 1},
                )
                .sort("$natural", -1)
                .limit(1)
                .to_list()
            )
            if found:
                blueprint.known_end = (found[0]["ts"].time << 32) | found[0]["ts"].inc
        await self._ledger.save(blueprint)


async def end_of_window(
    reactor: IReactorTime, source: ConnectionPool, patience: Patience, begin: int, latest: int
) -> int:
    """
    A position behind everything that a clone has read; an entry's, if there
    is one soon.

    @param begin: where the clone's window begins.
    @param latest: a position that is not before anything that this process has
        read.
    @raise OplogGap: the oplog does not reach back to C{begin} any more.
    """
    # What a process before this one has read, of a primary before this one, is not in C{latest},
    # and may be behind what a majority is known to have; but not behind the end.
    written = await patience.keep_trying(lambda again: last_written(source), "source")
    latest = max(latest, written)
    tailer = Tailer(reactor, source, OPLOG)
    for _ in range(_SETTLING):
        bounds = await patience.keep_trying(lambda again: tailer.bounds(), "source")
        if bounds is not None and bounds[0] > begin:
            at = timestamp(begin)
            raise OplogGap(
                f"the source's oplog no longer holds ({at.time}, {at.inc}), where the clone "
                "began: give it a larger oplog, delete the clone's document from "
                "txmongokit.mongosync in the destination, and begin anew with --drop"
            )
        if bounds is not None and bounds[1] >= latest:
            return bounds[1]
        await deferLater(reactor, 1.0, lambda: None)
    return latest


class _UnderWay(AutoReconnect):
    """
    What there is to wait for goes on.
    """


async def writes_ended(
    destination: ConnectionPool, patience: Patience, namespaces: Container[str]
) -> None:
    """
    Wait until the destination carries out no write of this user's to these
    collections any more.

    What a process sent that was killed, or sent over a connection that was
    lost, goes on in the server: an insert that ended behind the replay of its
    document's deletion would bring that back.

    @raise PyMongoError: one goes on for longer than the patience.
    """
    pipeline: list[dict[str, Any]] = [
        {"$currentOp": {"allUsers": False}},
        {"$match": {"op": {"$in": ["insert", "update"]}}},
        {"$project": {"ns": 1}},
    ]

    async def attempt(again: bool) -> None:
        try:
            found = await destination["admin"].aggregate(pipeline).to_list()
        except OperationFailure as error:
            if is_passing(error):
                raise
            # A service that keeps this to itself: it is a matter of moments in any case.
            return
        count = sum(each.get("ns") in namespaces for each in found)
        if count:
            raise _UnderWay(f"it still carries out {count} write(s) of the copy")

    await patience.keep_trying(attempt, "destination")


async def run_command(
    pool: ConnectionPool, patience: Patience, database: str, command: dict[str, Any], *done: int
) -> None:
    """
    Run a command in the destination.

    @param done: codes of errors that mean that it is so already.

    @raise ApplyError: it is refused.
    """

    async def attempt(again: bool) -> None:
        try:
            await pool[database].command({**command, "writeConcern": {"w": "majority"}})
        except OperationFailure as error:
            if error.code in done:
                return
            if is_passing(error):
                raise
            verb, name = next(iter(command.items()))
            raise ApplyError(f"{verb} of {database}.{name} failed: {refusal(error)}") from error

    await patience.keep_trying(attempt, "destination")


async def _together(tasks: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run tasks at the same time; the first failure ends them all."""
    running = [Deferred.fromCoroutine(_coroutine(task)) for task in tasks]
    both = DeferredList(running, fireOnOneErrback=True, consumeErrors=True)
    try:
        await both
    except BaseException as error:
        for each in running:
            each.cancel()
        await DeferredList(running, consumeErrors=True)
        first = getattr(error, "subFailure", None)
        if isinstance(first, Failure):
            first.raiseException()
        raise


async def _coroutine(task: Callable[[], Awaitable[None]]) -> None:
    await task()
