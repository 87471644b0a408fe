"""
Tests for L{txmongokit.replicator.succession}: whatever lands when, and whoever
dies when, every operation arrives once and in its order.
"""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.lanemodel import Destination, History, Run

_HISTORIES = 100


def live(destination: Destination, draw: random.Random, lanes: int, steps: int | None) -> None:
    """
    Run until the end, or die after so many steps: of what is then under way
    some lands, and nobody hears of it.
    """
    run = Run(destination, draw, lanes)
    while not run.running.called and steps != 0:
        run.clock.advance(draw.choice((0.0, 0.0, 0.01, 1.1)))
        if destination.steps and draw.random() < 0.8:
            land, done = destination.steps.pop(draw.randrange(len(destination.steps)))
            land()
            done.callback(None)
        steps = None if steps is None else steps - 1
    for land, _ in destination.steps:
        if draw.random() < 0.5:
            land()
    destination.steps.clear()
    destination.owner = None


class SuccessionTests(SynchronousTestCase):
    """
    Many lives of a replication of the same history.
    """

    def test_random(self) -> None:
        """Any interleaving, any deaths and any numbers of lanes end as one lane does."""
        ahead = 0
        for seed in range(_HISTORIES):
            draw = random.Random(seed)
            history = History(draw, draw.randrange(20, 400))
            destination = Destination(history)
            for _ in range(draw.randrange(0, 7)):
                live(destination, draw, draw.choice((1, 2, 3, 5, 64)), draw.randrange(3, 150))
                lanes = [destination.lanes[each] for each in range(destination.layout.count)]
                ahead += any(each.position > destination.main.position for each in lanes)
            live(destination, draw, draw.choice((1, 4)), None)
            self.assertEqual(destination.documents, history.documents, seed)
            operations = sum(map(len, history.documents.values()))
            self.assertEqual(destination.main.count, operations + history.commands, seed)
            self.assertEqual(destination.main.position >> 32, len(history.entries), seed)
        self.assertGreater(ahead, _HISTORIES // 5)
