"""
The soak's kills, ten of them: the replicator, the source's primary and the
destination's, under load, with sets of three.
"""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.soak import DESTINATION, REPLICATOR, SOURCE, Soak, plan
from txmongokit.testing import replica_set

_KILLS = 10
_SEED = 7


class SoakTests(SynchronousTestCase):
    """
    C{python -m benchmarks.soak}, in small.
    """

    def test_plan(self) -> None:
        """A seed gives the same kills again, another one others, and everybody has his turn."""
        kills = plan(9, 1)
        self.assertEqual(kills, plan(9, 1))
        self.assertNotEqual(kills, plan(9, 2))
        self.assertEqual(
            Counter(victim for victim, _ in kills), {REPLICATOR: 3, SOURCE: 3, DESTINATION: 3}
        )

    def test_ten_kills(self) -> None:
        """Ten kills lose nothing, double nothing, and leave no batch out."""
        source, destination = replica_set(3, name="from"), replica_set(3, name="to")
        self.addCleanup(source.close)
        self.addCleanup(destination.close)
        soak = Soak(source, destination, _SEED)
        self.addCleanup(soak.close)
        soak.run(plan(_KILLS, _SEED), 60)
        self.assertEqual(list(soak.differences()), [])
        self.assertTrue(all(soak.churn.done[name] for name in ("write", "append", "transact")))
