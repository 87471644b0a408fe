"""
Tests for L{txmongokit.replicator.succession}: whatever lands when, and whoever
dies when, every operation arrives once and in its order.
"""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.lanemodel import Destination, History, Run, applied
from tests.replicator.test_replication import at
from txmongokit.replicator.checkpoint import Checkpoint

_HISTORIES = 100
# No history takes nearly as many.
_MOST_STEPS = 20_000
# Before the first entry, or at it with nothing applied yet.
_BEGINNINGS = (Checkpoint(0, 0, 1), Checkpoint(0, at(1), -1))


def live(destination: Destination, draw: random.Random, lanes: int, steps: int) -> bool:
    """
    Run until the end, or die after so many steps: of what is then under way
    some lands, and nobody hears of it.

    @return: whether it came to its end.
    """
    run = Run(destination, draw, lanes)
    while not run.running.called and steps:
        run.clock.advance(draw.choice((0.0, 0.0, 0.01, 1.1)))
        if destination.steps and draw.random() < 0.8:
            land, done = destination.steps.pop(draw.randrange(len(destination.steps)))
            land()
            done.callback(None)
        steps -= 1
    for land, _ in destination.steps:
        if draw.random() < 0.5:
            land()
    destination.steps.clear()
    destination.owner = None
    return run.running.called


def is_ahead(destination: Destination) -> bool:
    """
    Whether a lane is ahead of the main checkpoint.
    """
    lanes = [destination.lanes[each] for each in range(destination.layout.count)]
    return any(applied(each) > applied(destination.main) for each in lanes)


class SuccessionTests(SynchronousTestCase):
    """
    Many lives of a replication of the same history.
    """

    def check(self, destination: Destination, draw: random.Random, seed: int) -> None:
        """Live to the end, at which everything must have arrived."""
        self.assertTrue(live(destination, draw, draw.choice((1, 4)), _MOST_STEPS), seed)
        history = destination.history
        self.assertEqual(destination.documents, history.documents, seed)
        operations = sum(map(len, history.documents.values()))
        self.assertEqual(destination.main.count, operations + history.commands, seed)
        self.assertEqual(destination.main.position >> 32, len(history.entries), seed)

    def test_first_entry(self) -> None:
        """Who dies early leaves the entry to begin with in one lane, in none, or in all."""
        ahead = 0
        for seed in range(_HISTORIES):
            draw = random.Random(seed)
            destination = Destination(History(draw, 20), Checkpoint(0, at(1), -1))
            live(destination, draw, draw.choice((2, 3, 5)), draw.randrange(5, 12))
            ahead += is_ahead(destination)
            self.check(destination, draw, seed)
        self.assertGreater(ahead, _HISTORIES // 5)

    def test_random(self) -> None:
        """Any interleaving, any deaths and any numbers of lanes end as one lane does."""
        ahead = 0
        for seed in range(_HISTORIES):
            draw = random.Random(seed)
            history = History(draw, draw.randrange(20, 400))
            destination = Destination(history, draw.choice(_BEGINNINGS))
            for _ in range(draw.randrange(0, 7)):
                live(destination, draw, draw.choice((1, 2, 3, 5, 64)), draw.randrange(3, 150))
                ahead += is_ahead(destination)
            self.check(destination, draw, seed)
        self.assertGreater(ahead, _HISTORIES // 5)
