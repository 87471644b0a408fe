"""
The replicator as a Twisted service.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from txmongokit.listening import EndpointError
from txmongokit.replicator.appliers import Applier, SingleApplier
from txmongokit.replicator.arguments import Arguments, redacted
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import (
    Checkpoint,
    CheckpointStore,
    FencedError,
    ForeignCheckpointError,
)
from txmongokit.replicator.cloning import CloneError
from txmongokit.replicator.cutover import NotEqual
from txmongokit.replicator.ddl import UnsupportedDDL
from txmongokit.replicator.entries import (
    OplogEntry,
    UnsupportedEntry,
    parse_entry,
    timestamp,
)
from txmongokit.replicator.initial import CloneRun
from txmongokit.replicator.inspection import (
    Deployment,
    DeploymentError,
    check_destination,
    check_source,
    check_versions,
    inspect,
)
from txmongokit.replicator.lanes import LaneError
from txmongokit.replicator.lanestore import LaneStore
from txmongokit.replicator.ledger import COPY
from txmongokit.replicator.pacing import PacedTailer
from txmongokit.replicator.patience import Patience, is_passing
from txmongokit.replicator.replication import LARGEST_TRANSACTION, Replication
from txmongokit.replicator.resumefile import (
    ResumeFileError,
    check_writable,
    read_position,
    write_position,
)
from txmongokit.replicator.reversal import ReversalError, refuse_committed
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.selection import SelectionError
from txmongokit.replicator.standalone import ApplyOpsWriter, RepeatingWriter
from txmongokit.replicator.start import StartError, StartPoint, decide
from txmongokit.replicator.statements import Dialect
from txmongokit.replicator.succession import Succession
from txmongokit.replicator.supervision import Supervision
from txmongokit.replicator.tailer import OplogGap, Tailer
from txmongokit.replicator.window import Window, WindowWriter
from txmongokit.replicator.writers import (
    ApplyError,
    BatchWriter,
    CountingWriter,
    TransactionWriter,
    without_documents,
)
from txmongokit.sessions import ClientSession

__all__ = [
    "MongosyncService",
    "ReplicationFailed",
    "checkpoint_key",
    "connect",
    "look_for_cycles_seldom",
]

_EXPLAINED = (
    ApplyError,
    CloneError,
    DeploymentError,
    EndpointError,
    FencedError,
    ForeignCheckpointError,
    LaneError,
    NotEqual,
    OplogGap,
    ResumeFileError,
    ReversalError,
    SelectionError,
    StartError,
    UnsupportedDDL,
    UnsupportedEntry,
)
# How often progress is logged and the resume file written, in seconds.
_REPORT_EVERY = 10.0
_SAVE_EVERY = 1.0
_NOT_AUTHORIZED = 13
# How long stopping may take, in seconds.
_GRACE = 10.0
# Two batches' objects: Python's own 700 has each of them looked at many times.
_OBJECTS_BETWEEN_LOOKS = 20_000
# How long a source may take to know again what a majority has, in seconds.
_PATIENCE = 10


def look_for_cycles_seldom() -> None:
    """
    Set Python's garbage collector to a process that does nothing but
    replicate: what it handles is freed without it, and it took a fifth of the
    time of an operation.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS, *gc.get_threshold()[1:])


class ReplicationFailed(Exception):
    """
    The replication cannot start or go on: one sentence with the cause.
    """


class MongosyncService(Service):
    """
    Replicates from the time it starts until it is stopped, has reached the
    end (without C{--follow}), or fails.

    @param reactor: for time and connections.
    @ivar done: fires with C{None} at the end, fails with
        L{ReplicationFailed}.
    """

    name = "mongosync"
    _log = Logger()

    def __init__(self, reactor: Any, arguments: Arguments) -> None:
        self.done: Deferred[None] = Deferred()
        self._reactor = reactor
        self._arguments = arguments
        self._patience = Patience(reactor, arguments.patience)
        self._source: ConnectionPool | None = None
        self._destination: ConnectionPool | None = None
        self._replication: Replication | None = None
        self._supervision = Supervision(reactor, arguments)
        self._running: Deferred[None] | None = None
        self._reporter: LoopingCall | None = None
        self._counting: CountingWriter | None = None
        self._counted: Mapping[tuple[str, str], int] = {}
        self._reported = (0.0, 0)
        self._saved_at = float("-inf")
        self._saved_position = 0
        self._key = ""

    def startService(self) -> None:
        """
        Begin to replicate.
        """
        super().startService()
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addBoth(self._ended)

    def stopService(self) -> Deferred[None]:
        """
        Finish the batch under way, store the position, close everything.

        What takes longer than ten seconds is given up: the next start finds
        out from the checkpoint what became of it.

        @return: fires when that is done; never fails.
        """
        super().stopService()
        running = self._running
        if running is None or running.called:
            finished: Deferred[None] = Deferred()
            finished.callback(None)
            return finished
        if self._replication is not None:
            limit = self._reactor.callLater(_GRACE, running.cancel)
            self.done.addBoth(_call_off, limit)
            self._replication.stop()
        else:
            running.cancel()
        ended: Deferred[None] = Deferred()
        self.done.addBoth(_tell, ended)
        return ended

    def _ended(self, result: Any) -> None:
        if isinstance(result, Failure) and result.check(CancelledError) is None:
            if result.check(ReplicationFailed) is None:
                self._log.failure("the replication ended unexpectedly", result)
            self.done.errback(result)
        else:
            self.done.callback(None)

    async def _run(self) -> None:
        try:
            try:
                await self._replicate()
            finally:
                await self._close()
        except (ReplicationFailed, CancelledError):
            raise
        except _EXPLAINED as error:
            raise ReplicationFailed(str(error)) from error
        except OperationFailure as error:
            hint = ""
            if error.code == _NOT_AUTHORIZED:
                hint = ": give the users the roles that 'Privileges' in the documentation lists"
            raise ReplicationFailed(
                f"a server refused (code {error.code}): {without_documents(error)}{hint}"
            ) from error
        except PyMongoError as error:
            raise ReplicationFailed(str(error)) from error

    async def _close(self) -> None:
        if self._reporter is not None and self._reporter.running:
            self._reporter.stop()
        replication = self._replication
        try:
            if replication is not None:
                self._report()
                if replication.checkpoint.applied:
                    self._save(replication.checkpoint.position, at_once=True)
        finally:
            await self._supervision.close()
            for pool in (self._source, self._destination):
                if pool is not None:
                    await pool.disconnect()

    # Starting.

    async def _inspect(self, pool: ConnectionPool, uri: str, what: str) -> Deployment:
        def failed(error: PyMongoError) -> ReplicationFailed:
            text = str(error)
            if isinstance(error, OperationFailure):
                text = without_documents(error)
            return ReplicationFailed(f"{what} {redacted(uri)}: {text}")

        async def attempt(again: bool) -> Deployment:
            try:
                return await inspect(pool)
            except ServerSelectionTimeoutError as error:
                # Nobody was found: it may be the wrong address.
                raise failed(error) from error

        try:
            return await self._patience.keep_trying(attempt, what)
        except PyMongoError as error:
            raise failed(error) from error

    async def _replicate(self) -> None:
        arguments, ask = self._arguments, self._patience.ask
        # What can be wrong without asking anybody comes first.
        resume_file = None if arguments.dry_run else arguments.resume_file
        from_file = None if arguments.resume_file is None else read_position(arguments.resume_file)
        if resume_file is not None:
            check_writable(resume_file)
        await self._supervision.open()
        self._source = connect(self._reactor, arguments.source, "source")
        self._destination = connect(self._reactor, arguments.destination, "destination")
        source = await self._inspect(self._source, arguments.source, "source")
        tailer = self._tailer(self._source)
        check_source(source, f"source {redacted(arguments.source)}")
        bounds = await ask("source", tailer.bounds)
        if bounds is None:
            raise DeploymentError(
                f"source {redacted(arguments.source)} has no entries in "
                f"{arguments.oplog_namespace}: name a member of a replica set"
            )
        destination = await self._inspect(self._destination, arguments.destination, "destination")
        shown = f"destination {redacted(arguments.destination)}"
        check_destination(source, destination, shown, renamed=arguments.selection.covers_renames())
        check_versions(source, destination, shown)
        self._check_standalone(destination, shown)
        store = CheckpointStore(
            self._destination, checkpoint_key(source, arguments), _about(source, arguments)
        )
        stored = await ask("destination", store.load)
        if not arguments.dry_run and not arguments.force_start:
            await ask("destination", partial(refuse_committed, self._destination, store.key))
        if stored is not None and stored.applied:
            bounds = await self._caught_up(tailer, bounds, stored.position)
        clone = CloneRun(
            self._reactor,
            self._source,
            self._destination,
            arguments,
            store.key,
            self._supervision.pace,
        )
        start = await ask("source or destination", partial(clone.start, stored, *bounds))
        if start is not None and arguments.dry_run:
            await clone.describe()
            return
        start = start or decide(
            seconds_back=arguments.seconds_back,
            option=arguments.seconds_option,
            force_start=arguments.force_start,
            checkpoint=None if stored is None else stored.position,
            applied=stored is None or stored.applied,
            resume_position=from_file,
            resume_file=arguments.resume_file,
            oldest=bounds[0],
            newest=bounds[1],
            now=self._reactor.seconds(),
        )
        for warning in start.warnings:
            self._log.warn("{warning}", warning=warning)
        first = _first(start, await self._verify_start(tailer, start))
        newest = await ask("source", partial(tailer.last_written, bounds[1]))
        await self._go(tailer, store, stored, start, first, destination, newest, clone)

    def _tailer(self, source: ConnectionPool) -> Tailer:
        arguments = self._arguments
        return PacedTailer(
            self._reactor,
            source,
            arguments.oplog_namespace,
            self._supervision.pace,
            patience=arguments.patience,
        )

    async def _caught_up(
        self, tailer: Tailer, bounds: tuple[int, int], position: int
    ) -> tuple[int, int]:
        """The oplog's bounds; soon after a restart a majority may lag behind the position."""
        for _ in range(_PATIENCE):
            if position <= bounds[1]:
                break
            await deferLater(self._reactor, 1.0, lambda: None)
            found = await self._patience.ask("source", tailer.bounds)
            bounds = found or bounds
        return bounds

    def _check_standalone(self, destination: Deployment, shown: str) -> None:
        standalone = destination.set_name is None
        lanes = self._arguments.lanes
        if standalone and lanes > 1:
            raise DeploymentError(
                f"{shown} is a standalone server, which has no transactions for --lanes {lanes} "
                "to write in: leave --lanes out, or use a replica set"
            )
        if standalone and destination.version >= (6, 2) and not self._arguments.at_least_once:
            raise DeploymentError(
                f"{shown} is a standalone server of a version without atomic applyOps: use a "
                "replica set, or give --at-least-once"
            )

    async def _verify_start(self, tailer: Tailer, start: StartPoint) -> int:
        """Before anything is written: the entry to resume after must be there. Its term."""
        if not start.verify:
            return -1
        raw = await tailer.entry_at(start.position)
        if raw is None:
            at = timestamp(start.position)
            raise OplogGap(
                f"the source's oplog has no entry at ({at.time}, {at.inc}), where {start.origin} "
                "says to resume: it was overwritten or rolled back, or this is another source; "
                "copy the data anew"
            )
        return parse_entry(raw).term

    async def _go(
        self,
        tailer: Tailer,
        store: CheckpointStore,
        stored: Checkpoint | None,
        start: StartPoint,
        first: Checkpoint,
        destination: Deployment,
        newest: int,
        clone: CloneRun,
    ) -> None:
        arguments = self._arguments
        assert self._destination is not None
        pool = self._destination
        catalog = Catalog(pool)
        patience = self._patience
        writer: BatchWriter
        if arguments.dry_run:
            checkpoint = stored if stored is not None and start.from_checkpoint else first
            writer = self._counting = CountingWriter()
            schema = SchemaWriter(pool, None, catalog, arguments.selection, patience)
            self._counted = schema.counts
        else:
            session = pool.start_session(causal_consistency=False)
            claim = _Claim(store, stored, start, first, session)
            checkpoint = await patience.keep_trying(claim.attempt, "destination")
            writer = self._writer(session, store, catalog, destination, patience)
            schema = SchemaWriter(pool, store, catalog, arguments.selection, patience)
        self._log.info(
            "starting at {at}, because of {origin}",
            at=timestamp(checkpoint.position),
            origin=start.origin,
        )
        if not arguments.selection.users:
            self._log.info("users and roles are not replicated (with --users they are)")
        probed = destination.version >= (6, 0) and await self._patience.ask(
            "destination", self._probe
        )
        dialect = Dialect.for_server(destination.version, probed=probed)
        lanes: Succession | None = None
        if destination.set_name is not None and not arguments.dry_run:
            lane_store = LaneStore(pool, store, catalog, patience)
            lanes = self._succession(lane_store, catalog, writer, schema, dialect)
            await lanes.take_over()

        async def replay(checkpoint: Checkpoint, window: Window) -> Checkpoint:
            applier = self._single(WindowWriter(writer), checkpoint)
            run = self._replication_by(applier, window, dialect, window.route)
            return await self._until(run, checkpoint.window_end)

        if not arguments.dry_run:
            self._watch(checkpoint, clone)
            checkpoint = await clone.run(checkpoint, store, schema, replay)
        if self.running:
            self._key = store.key
            await self._follow(checkpoint, writer, schema, dialect, lanes, newest)

    def _succession(
        self,
        lane_store: LaneStore,
        catalog: Catalog,
        writer: BatchWriter,
        schema: SchemaWriter,
        dialect: Dialect,
    ) -> Succession:
        return Succession(
            self._reactor,
            lane_store,
            catalog,
            self._patience,
            lambda now: self._single(writer, now),
            lambda applier, end: self._until(self._replication_by(applier, schema, dialect), end),
        )

    async def _follow(
        self,
        checkpoint: Checkpoint,
        writer: BatchWriter,
        schema: SchemaWriter,
        dialect: Dialect,
        lanes: Succession | None,
        newest: int,
    ) -> None:
        """The ordinary replication, in as many lanes as are asked for."""
        arguments = self._arguments
        until = None if arguments.follow else newest
        applier: Applier | None = self._single(writer, checkpoint)
        if lanes is not None:
            applier = await lanes.applier(checkpoint, arguments.lanes)
        if applier is None or not self.running:
            return
        replication = self._replication_by(applier, schema, dialect)
        if arguments.dry_run:
            await self._until(replication, until)
            return
        assert self._source is not None and self._destination is not None
        await self._supervision.follow(
            replication, self._source, self._destination, self._key, until
        )

    def _watch(self, checkpoint: Checkpoint, clone: CloneRun) -> None:
        assert self._source is not None
        assert self._destination is not None

        def position() -> int:
            replication = self._replication
            return checkpoint.position if replication is None else replication.progress.position

        self._supervision.cloning(lambda: clone.progress)
        self._supervision.watch(self._source, self._destination, position)

    def _single(self, writer: BatchWriter, checkpoint: Checkpoint) -> SingleApplier:
        return SingleApplier(
            self._reactor, writer, checkpoint, lambda checkpoint: self._save(checkpoint.position)
        )

    def _replication_by(
        self,
        applier: Applier,
        schema: SchemaWriter | Window,
        dialect: Dialect,
        route: Callable[[OplogEntry], str | None] | None = None,
    ) -> Replication:
        """A replication from an applier's checkpoint on; the one that is reported of."""
        arguments = self._arguments
        assert self._source is not None
        checkpoint = applier.checkpoint
        tailer = self._tailer(self._source)
        tailer.start(checkpoint.position, verify=checkpoint.applied, term=checkpoint.term)
        self._replication = Replication(
            self._reactor,
            tailer,
            applier,
            schema,
            arguments.selection,
            dialect,
            route=route,
            largest=arguments.split_bytes or LARGEST_TRANSACTION,
            split=arguments.split_bytes is not None,
        )
        if self._reporter is None:
            self._reporter = LoopingCall(self._report)
            self._reporter.clock = self._reactor
            self._reporter.start(_REPORT_EVERY, now=False)
        self._reported = (self._reactor.seconds(), 0)
        return self._replication

    async def _until(self, replication: Replication, until: int | None) -> Checkpoint:
        await replication.run(until)
        return replication.checkpoint

    def _writer(
        self,
        session: ClientSession,
        store: CheckpointStore,
        catalog: Catalog,
        destination: Deployment,
        patience: Patience,
    ) -> BatchWriter:
        assert self._destination is not None
        pool = self._destination
        atomic = None
        if destination.version < (6, 2):
            atomic = ApplyOpsWriter(pool, store, patience)
        if destination.set_name is not None:
            # 4.4 evicts nothing from a capped collection that applyOps writes to.
            capped = atomic if destination.version >= (5, 0) else None
            return TransactionWriter(pool, session, store, catalog, patience, capped)
        if atomic is not None and not self._arguments.at_least_once:
            return atomic
        return RepeatingWriter(pool, store, catalog, patience)

    async def _probe(self) -> bool:
        """Whether the destination takes $_internalApplyOplogUpdate; changes nothing."""
        assert self._destination is not None
        stage = {"$_internalApplyOplogUpdate": {"oplogUpdate": {"$v": 2, "diff": {}}}}
        try:
            await self._destination["txmongokit"].command(
                {
                    "explain": {
                        "update": "mongosync",
                        "updates": [{"q": {"_id": {"$in": []}}, "u": [stage]}],
                    },
                    "verbosity": "queryPlanner",
                }
            )
        except OperationFailure as error:
            if is_passing(error):
                raise
            return False
        return True

    # While it runs.

    def _save(self, position: int, *, at_once: bool = False) -> None:
        path = self._arguments.resume_file
        if path is None or self._arguments.dry_run or position == self._saved_position:
            return
        now = self._reactor.seconds()
        if at_once or now - self._saved_at >= _SAVE_EVERY:
            write_position(Path(path), position)
            self._saved_at, self._saved_position = now, position

    def _report(self) -> None:
        replication = self._replication
        if replication is None:
            return
        progress = replication.progress
        now = self._reactor.seconds()
        since, before = self._reported
        rate = (progress.applied - before) / max(now - since, 0.001)
        self._reported = (now, progress.applied)
        self._log.info(
            "applied {applied} operations and {commands} commands ({rate:.0f}/s), skipped "
            "{skipped}, missing {missing}, at {at}",
            applied=progress.applied,
            commands=progress.commands,
            rate=rate,
            skipped=progress.skipped,
            missing=progress.missing,
            at=timestamp(progress.position),
        )
        if self._counting is not None and not replication.running:
            for (namespace, kind), count in sorted(self._counting.counts.items()):
                self._log.info(
                    "would apply {count} {kind} to {namespace}",
                    count=count,
                    kind={"i": "inserts", "u": "updates", "d": "deletes"}[kind],
                    namespace=namespace,
                )
            for (namespace, verb), count in sorted(self._counted.items()):
                self._log.info(
                    "would execute {count} {verb} on {namespace}",
                    count=count,
                    verb=verb,
                    namespace=namespace,
                )


def connect(reactor: Any, uri: str, what: str) -> ConnectionPool:
    """
    A client of a deployment.

    @param what: C{source} or C{destination}.
    @raise ReplicationFailed: the connection string cannot be used.
    """
    # The server's log then says who it is, unless the user has a name for it.
    options: dict[str, Any] = {} if "appname=" in uri.lower() else {"appname": "mongosync"}
    if what == "destination":
        # How far it is must not be asked of a member that is behind.
        options["readPreference"] = "primary"
    try:
        return ConnectionPool(uri, reactor=reactor, **options)
    except (InvalidURI, ConfigurationError) as error:
        raise ReplicationFailed(f"{what} {redacted(uri)}: {error}") from error


def _call_off(result: Any, call: IDelayedCall) -> Any:
    if call.active():
        call.cancel()
    return result


def _tell(result: Any, waiting: Deferred[None]) -> Any:
    waiting.callback(None)
    return result


def _first(start: StartPoint, term: int) -> Checkpoint:
    return Checkpoint(seq=0, position=start.position, term=term, window_end=start.window_end)


@dataclass(frozen=True)
class _Claim:
    """
    Being the one who moves the checkpoint.

    @ivar stored: as it was found.
    @ivar first: where it is to be, unless the start is from the stored one.
    """

    store: CheckpointStore
    stored: Checkpoint | None
    start: StartPoint
    first: Checkpoint
    session: ClientSession

    async def attempt(self, again: bool) -> Checkpoint:
        """
        Take it; also where an earlier attempt did, and nobody was told.
        """
        there = await self.store.load() if again else self.stored
        if there is None:
            await self.store.create(self.first, self.session)
            return self.first
        return await self.store.take_over(
            self.session, None if self.start.from_checkpoint else self.first
        )


def checkpoint_key(source: Deployment, arguments: Arguments) -> str:
    """
    The C{_id} of a replication's checkpoint.
    """
    return f"{source.set_name} {arguments.selection.fingerprint()}"


def _about(source: Deployment, arguments: Arguments) -> dict[str, Any]:
    about = {"source": source.identity, "selection": arguments.selection.describe()}
    if arguments.clone:
        about["clone"] = {"phase": COPY, "planned": False}
    return about
