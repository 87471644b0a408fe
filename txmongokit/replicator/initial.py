"""
Whether, and how far, a replication begins with a clone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.replicator.arguments import Arguments
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore
from txmongokit.replicator.cloning import CloneError, CloneProgress, InitialSync
from txmongokit.replicator.ledger import CATCH_UP, COPY, DONE, Ledger
from txmongokit.replicator.pacing import Pace
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.start import StartPoint
from txmongokit.replicator.window import Window

__all__ = ["CloneRun"]

_REPORT_EVERY = 10.0

CatchUp = Callable[[Checkpoint, Window], Awaitable[Checkpoint]]
"""Replays from a checkpoint up to its C{window_end}, or until stopped."""


class CloneRun:
    """
    The part of a replication that comes before the ordinary one: nothing, a
    clone, or what is left of one.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        source: ConnectionPool,
        destination: ConnectionPool,
        arguments: Arguments,
        key: str,
        pace: Pace,
    ) -> None:
        self._reactor = reactor
        self._arguments = arguments
        self._destination = destination
        self._patience = Patience(reactor, arguments.patience)
        self._ledger = Ledger(destination, key, self._patience)
        self._sync = InitialSync(
            reactor,
            source,
            destination,
            arguments.selection,
            self._ledger,
            self._patience,
            tasks=arguments.clone_tasks,
            drop=arguments.drop,
            pace=pace,
        )
        self._phase: str | None = None
        self._planned = False

    @property
    def progress(self) -> CloneProgress | None:
        """
        How far the clone is; C{None} where there is none to be made.
        """
        return self._sync.progress if self._phase in (COPY, CATCH_UP) else None

    async def start(self, stored: Checkpoint | None, oldest: int, newest: int) -> StartPoint | None:
        """
        Where a new clone is to begin; C{None} where there is none to begin.

        @param stored: the destination's checkpoint.
        @param oldest: the position of the oldest entry of the source's oplog.
        @param newest: that of the newest.

        @raise CloneError: what the options ask for does not go with what the
            destination has.
        """
        arguments = self._arguments
        if stored is None:
            if not arguments.clone:
                return None
            self._phase = COPY
            position = await self._sync.first_position(oldest, newest)
            return StartPoint(position, True, "the beginning of the clone", 0)
        found = await self._ledger.phase()
        if found is None:
            if arguments.clone:
                raise CloneError(
                    "the destination has the checkpoint of a replication that did not begin with "
                    "--clone: leave --clone out to go on with it, or delete it from "
                    "txmongokit.mongosync and clone with --drop"
                )
            return None
        self._phase, self._planned = found
        if self._phase == COPY and not arguments.clone:
            raise CloneError(
                "the clone in the destination is not complete: start with --clone to go on with it"
            )
        if self._phase != DONE and arguments.seconds_back is not None:
            raise CloneError(
                f"the clone in the destination is not complete: start without "
                f"{arguments.seconds_option} to go on with it"
            )
        return None

    async def describe(self) -> None:
        """
        Log what would be cloned (C{--dry-run}).
        """
        selection = self._arguments.selection
        documents = size = 0
        for each in await self._sync.survey():
            namespace = selection.destination(each.namespace)
            if namespace is None or each.kind == "views":
                continue
            documents += each.documents
            size += each.size
            self._log.info(
                "would clone {kind} {source} to {destination}: about {documents} documents, "
                "{size} bytes, {indexes} indexes",
                kind="view" if each.kind == "view" else "collection",
                source=each.namespace,
                destination=namespace,
                documents=each.documents,
                size=each.size,
                indexes=len(each.indexes) + len(each.deferred),
            )
        self._log.info(
            "would clone about {documents} documents of {size} bytes",
            documents=documents,
            size=size,
        )

    async def run(
        self,
        checkpoint: Checkpoint,
        store: CheckpointStore,
        schema: SchemaWriter,
        catch_up: CatchUp,
    ) -> Checkpoint:
        """
        Do what there is to do before the ordinary replication.

        @return: the checkpoint to go on from; before its C{window_end} only
            if it was stopped.
        """
        if self._phase == COPY:
            checkpoint = await self._copy(checkpoint)
            self._phase = CATCH_UP
        elif self._phase == CATCH_UP:
            await self._ledger.take_over(checkpoint.seq)
        if self._phase != CATCH_UP:
            return checkpoint
        made, _ = await self._ledger.load(checkpoint.position)
        window = Window(
            self._destination,
            schema,
            self._arguments.selection,
            store,
            self._ledger,
            self._patience,
            made,
        )
        if checkpoint.position < checkpoint.window_end:
            checkpoint = await catch_up(checkpoint, window)
        if checkpoint.position < checkpoint.window_end:
            return checkpoint
        await window.finish()
        checkpoint = await self._ledger.enter(checkpoint, DONE)
        await self._ledger.clear()
        self._log.info("the clone is complete")
        return checkpoint

    async def _copy(self, checkpoint: Checkpoint) -> Checkpoint:
        reporter = LoopingCall(self._report)
        reporter.clock = self._reactor
        reporter.start(_REPORT_EVERY, now=False)
        try:
            return await self._sync.run(checkpoint, planned=self._planned)
        finally:
            reporter.stop()

    def _report(self) -> None:
        self._log.info("{progress}", progress=self._sync.progress.describe(self._reactor.seconds()))
