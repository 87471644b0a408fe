"""
From the lanes that one run has left to those of the next.

How many lanes there are may change between two runs, and a run that was killed
leaves lanes ahead of the main checkpoint.  What they have applied beyond it is
divided as it was then, until the last of them is passed; only then another
layout is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from txmongokit.replicator.appliers import Applier, SingleApplier
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.lanes import Collections, Lane, LaneApplier, MainCheckpoint
from txmongokit.replicator.partition import Layout
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.writers import BatchWriter

__all__ = ["LaneDocuments", "Succession"]


class LaneDocuments(MainCheckpoint, Protocol):
    """
    What a L{txmongokit.replicator.lanestore.LaneStore} does.
    """

    async def take_over(self) -> tuple[Layout, list[Checkpoint]]:
        """
        Keep others from moving lanes; how they were divided, and where they are.
        """

    async def make(self, numbers: Iterable[int], main: Checkpoint) -> list[Checkpoint]:
        """
        Have lanes of these numbers that begin at the main checkpoint.
        """

    def writer(self, number: int) -> BatchWriter:
        """
        What writes a lane's batches.
        """


class Succession:
    """
    The lanes of one replication, from its start on.

    @param single: makes what writes with the main checkpoint.
    @param catch_up: replicates by an applier up to a position, and tells the
        main checkpoint; before that position only if it was stopped.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        documents: LaneDocuments,
        collections: Collections,
        patience: Patience,
        single: Callable[[Checkpoint], SingleApplier],
        catch_up: Callable[[Applier, int], Awaitable[Checkpoint]],
    ) -> None:
        self._reactor = reactor
        self._documents = documents
        self._collections = collections
        self._patience = patience
        self._single = single
        self._catch_up = catch_up
        self._layout = Layout()
        self._checkpoints: list[Checkpoint] = []

    async def take_over(self) -> None:
        """
        Keep an earlier process from moving lanes; comes after the same for
        the main checkpoint.
        """
        self._layout, self._checkpoints = await self._documents.take_over()

    async def applier(self, main: Checkpoint, count: int) -> Applier | None:
        """
        What writes in as many lanes, once nothing is left of others.

        @param main: the main checkpoint.
        @param count: how many lanes there are to be.

        @return: C{None} where the replication was stopped on the way.
        """
        end = max((each.reached for each in self._checkpoints), default=0)
        if end > main.reached and not self._layout.stale:
            self._log.info(
                "lanes of the last run are ahead of its checkpoint: going on with {count} lanes "
                "until all are there",
                count=self._layout.count,
            )
            lanes = self._lanes(main, skipping=True)
            replay = self._in_lanes(main, lanes, None)
            main = await self._catch_up(replay, end)
            if main.reached < end:
                return None
            self._layout = replay.layout
            self._checkpoints = [lane.checkpoint for lane in lanes]
        main = await self._divide(main, count if count > 1 else 0)
        if count == 1:
            return self._single(main)
        return self._in_lanes(main, self._lanes(main), self._collections)

    def _lanes(self, main: Checkpoint, *, skipping: bool = False) -> list[Lane]:
        return [
            Lane(
                self._documents.writer(number),
                replace(checkpoint, window_end=main.window_end),
                skip=checkpoint.reached if skipping else 0,
            )
            for number, checkpoint in enumerate(self._checkpoints)
        ]

    def _in_lanes(
        self, main: Checkpoint, lanes: list[Lane], collections: Collections | None
    ) -> LaneApplier:
        return LaneApplier(
            self._reactor,
            self._single(main),
            lanes,
            self._layout,
            self._documents,
            self._patience,
            collections,
        )

    async def _divide(self, main: Checkpoint, count: int) -> Checkpoint:
        """Have that many lanes, none of which is ahead of the main checkpoint."""
        before = self._layout
        kept = [] if before.stale else self._checkpoints[:count]
        applied, missing = _figures(self._checkpoints)
        made = await self._documents.make(range(len(kept), count), main)
        self._checkpoints = [*kept, *made]
        whole = before.whole if kept else frozenset()
        self._layout = layout = Layout(count, whole, *_figures(self._checkpoints))
        if layout == before or not (count or before.count):
            return main
        if not before.stale:
            main = replace(
                main,
                count=main.count + applied - before.applied,
                missing=main.missing + missing - before.missing,
            )
        return await self._documents.lay_out(main, layout)


def _figures(checkpoints: Sequence[Checkpoint]) -> tuple[int, int]:
    """How many operations were applied, and how many documents were missing."""
    return sum(each.count for each in checkpoints), sum(each.missing for each in checkpoints)
