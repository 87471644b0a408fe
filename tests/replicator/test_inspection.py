"""
Tests for L{txmongokit.replicator.inspection}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import FakePool, refused
from txmongokit.errors import OperationFailure
from txmongokit.replicator.inspection import Deployment, inspect, same_deployment

BUILD = {"versionArray": [6, 0, 5, 0], "ok": 1}
MEMBER = {
    "setName": "rs",
    "hosts": ["a:1", "b:1"],
    "topologyVersion": {"processId": "p", "counter": 1},
    "ok": 1,
}
SET = Deployment("rs", "id", "p", frozenset({"a:1", "b:1"}), (6, 0, 5), False)


class InspectTests(SynchronousTestCase):
    """
    What a deployment says of itself.
    """

    def inspect(self, *replies: Any) -> Deferred[Deployment]:
        """Ask a deployment with these answers."""
        pool: Any = FakePool(*replies)
        self.runner = pool.runner
        return Deferred.fromCoroutine(inspect(pool))

    def test_replica_set(self) -> None:
        """A set has a name, members and an identity."""
        configuration = cursor_reply([{"settings": {"replicaSetId": "id"}}])
        found = self.successResultOf(self.inspect(MEMBER, BUILD, configuration))
        self.assertEqual(found, SET)
        self.assertEqual(found.identity, {"set": "rs", "id": "id"})

    def test_standalone(self) -> None:
        """A standalone server has none of them, and is not asked."""
        found = self.successResultOf(self.inspect({"ok": 1}, BUILD))
        self.assertEqual((found.set_name, found.set_id, found.hosts), (None, None, frozenset()))
        self.assertEqual(len(self.runner.commands), 2)

    def test_mongos(self) -> None:
        """A router is told by what it calls itself."""
        found = self.successResultOf(self.inspect({"msg": "isdbgrid", "ok": 1}, BUILD))
        self.assertTrue(found.is_mongos)

    def test_identity_not_allowed(self) -> None:
        """Who may not read the identity goes without; other errors count."""
        found = self.successResultOf(self.inspect(MEMBER, BUILD, refused(13)))
        self.assertIsNone(found.set_id)
        self.failureResultOf(self.inspect(MEMBER, BUILD, refused(8)), OperationFailure)


class SameDeploymentTests(SynchronousTestCase):
    """
    Whether two are one.
    """

    def test_same(self) -> None:
        """The process, the identity, or name and a member tell."""
        other = Deployment(None, None, None, frozenset(), (6, 0, 5), False)
        self.assertTrue(same_deployment(SET, replace(other, process="p")))
        self.assertTrue(same_deployment(SET, replace(other, set_id="id")))
        self.assertTrue(
            same_deployment(SET, replace(other, set_name="rs", hosts=frozenset({"b:1"})))
        )

    def test_different(self) -> None:
        """What neither knows tells nothing, nor does a name or a member alone."""
        other = Deployment(None, None, None, frozenset(), (6, 0, 5), False)
        self.assertFalse(same_deployment(other, other))
        self.assertFalse(same_deployment(SET, replace(other, set_name="rs")))
        self.assertFalse(same_deployment(SET, replace(other, hosts=frozenset({"a:1"}))))
