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
from txmongokit.replicator.inspection import (
    Deployment,
    DeploymentError,
    check_destination,
    check_source,
    check_versions,
    inspect,
    same_deployment,
)

BUILD = {"versionArray": [6, 0, 5, 0], "ok": 1}
MEMBER = {
    "setName": "rs",
    "hosts": ["a:1", "b:1"],
    "topologyVersion": {"processId": "p", "counter": 1},
    "ok": 1,
}
SET = Deployment("rs", "id", "p", frozenset({"a:1", "b:1"}), (6, 0, 5), False, (6, 0))
COMPATIBLE = {"_id": "featureCompatibilityVersion", "version": "6.0"}
SETTINGS = cursor_reply([COMPATIBLE])
OPTIONS = {"parsed": {"replication": {"replSet": "rs"}}, "ok": 1}
CONFIGURATION = cursor_reply([{"settings": {"replicaSetId": "id"}}])


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
        """A set has a name, members, an identity and a compatibility version."""
        found = self.successResultOf(self.inspect(MEMBER, BUILD, SETTINGS, OPTIONS, CONFIGURATION))
        self.assertEqual(found, SET)
        self.assertEqual(found.identity, {"set": "rs", "id": "id"})
        self.assertEqual(found.level, (6, 0))

    def test_standalone(self) -> None:
        """A standalone server has no set's identity, and is not asked for it."""
        found = self.successResultOf(self.inspect({"ok": 1}, BUILD, SETTINGS, OPTIONS))
        self.assertEqual((found.set_name, found.set_id, found.hosts), (None, None, frozenset()))
        self.assertEqual(len(self.runner.commands), 4)

    def test_mongos(self) -> None:
        """A router is told by what it calls itself, and is asked no more."""
        found = self.successResultOf(self.inspect({"msg": "isdbgrid", "ok": 1}, BUILD))
        self.assertTrue(found.is_mongos)

    def test_not_allowed(self) -> None:
        """Who may not read all of that goes without, in whatever way that is said."""
        for code in (13, 59, 8000):
            no = refused(code)
            found = self.successResultOf(self.inspect(MEMBER, BUILD, no, no, no))
            self.assertEqual((found.set_id, found.compatible, found.part), (None, None, None))
            self.assertEqual(found.level, (6, 0))

    def test_not_now(self) -> None:
        """What another try may tell does not count as unknown."""
        good = [MEMBER, BUILD, SETTINGS, OPTIONS]
        for place in (2, 3, 4):
            replies = [*good[:place], refused(11602)]
            self.failureResultOf(self.inspect(*replies), OperationFailure)

    def test_shard(self) -> None:
        """A shard's set has the cluster's identity stored, or its servers were started as one."""
        identity = {"_id": "shardIdentity", "configsvrConnectionString": "cfg/c:1"}
        stored = cursor_reply([COMPATIBLE, identity])
        found = self.successResultOf(self.inspect(MEMBER, BUILD, stored, CONFIGURATION))
        self.assertIn("cfg/c:1", found.part or "")
        for role, word in (("shardsvr", "shard"), ("configsvr", "config servers")):
            options = {"parsed": {"sharding": {"clusterRole": role}}, "ok": 1}
            replies = (MEMBER, BUILD, SETTINGS, options, CONFIGURATION)
            found = self.successResultOf(self.inspect(*replies))
            self.assertIn(word, found.part or "")
        member = {**MEMBER, "configsvr": 2}
        found = self.successResultOf(self.inspect(member, BUILD, SETTINGS, CONFIGURATION))
        self.assertIn("config servers", found.part or "")

    def test_compatibility(self) -> None:
        """A server that is not allowed its own version's features counts as the older one."""
        for text, expected in (("5.0", (5, 0)), ("nonsense", (6, 0)), (None, (6, 0))):
            settings = cursor_reply([{**COMPATIBLE, "version": text}])
            replies = (MEMBER, BUILD, settings, OPTIONS, CONFIGURATION)
            self.assertEqual(self.successResultOf(self.inspect(*replies)).level, expected)


class CheckTests(SynchronousTestCase):
    """
    What is refused before anything is written.
    """

    def test_source(self) -> None:
        """A router, a part of a cluster and a standalone server are no source."""
        check_source(SET, "source a")
        for wrong, word in (
            (replace(SET, is_mongos=True), "mongos"),
            (replace(SET, part="a shard"), "is a shard"),
            (replace(SET, set_name=None), "--replSet"),
        ):
            error = self.assertRaises(DeploymentError, check_source, wrong, "source a")
            self.assertTrue(str(error).startswith("source a is"))
            self.assertIn(word, str(error))

    def test_destination(self) -> None:
        """A router, a part of a cluster and the source are no destination."""
        other = replace(SET, set_id="other", process="q", hosts=frozenset())
        check_destination(SET, other, "destination b", renamed=False)
        check_destination(SET, SET, "destination b", renamed=True)
        for wrong, word in (
            (replace(other, is_mongos=True), "mongos"),
            (replace(other, part="the config servers"), "is the config servers"),
            (SET, "--rename"),
        ):
            error = self.assertRaises(
                DeploymentError, check_destination, SET, wrong, "destination b", renamed=False
            )
            self.assertIn("destination b", str(error))
            self.assertIn(word, str(error))

    def test_versions(self) -> None:
        """The destination must not be older, in what it is or in what it is allowed to be."""
        for fine in (SET, replace(SET, version=(7, 0, 1), compatible=None)):
            check_versions(SET, fine, "destination b")
        check_versions(
            replace(SET, compatible=(5, 0)),
            replace(SET, version=(5, 0, 4), compatible=None),
            "destination b",
        )
        for version, compatible, words in (
            ((5, 0, 4), (5, 0), ("5.0.4", "6.0.5")),
            ((4, 4, 2), None, ("4.4.2",)),
            ((6, 0, 5), (5, 0), ("6.0.5 (featureCompatibilityVersion 5.0)",)),
        ):
            older = replace(SET, version=version, compatible=compatible)
            error = self.assertRaises(DeploymentError, check_versions, SET, older, "destination b")
            for word in words:
                self.assertIn(word, str(error))


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
