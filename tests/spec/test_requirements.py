"""
Which deployment does for a test.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.spec.requirements import Facts, parse_version, unmet

_SET = Facts(
    (6, 0, 5), "replicaset", parameters={"authenticationMechanisms": ["SCRAM-SHA-1"], "x": True}
)


class RequirementsTests(SynchronousTestCase):
    """
    L{unmet} and L{parse_version}.
    """

    def check(self, reason: str | None, *requirements: dict[str, Any]) -> None:
        """What is unmet on a replica set is C{reason}."""
        self.assertEqual(unmet(requirements, _SET), reason)

    def test_none(self) -> None:
        """No requirement is always met."""
        self.check(None)
        self.assertIsNone(unmet(None, _SET))

    def test_versions(self) -> None:
        """Versions are compared number by number, both ends included."""
        self.check(None, {"minServerVersion": "6.0.5", "maxServerVersion": "6.0.5"})
        self.check(None, {"minServerVersion": "4.9"})
        self.check("needs server >= 6.0.10", {"minServerVersion": "6.0.10"})
        self.check("needs server <= 5.99", {"maxServerVersion": "5.99"})

    def test_topologies(self) -> None:
        """The topology must be one of those named."""
        self.check(None, {"topologies": ["single", "replicaset"]})
        self.check("needs mongos", {"topologies": ["sharded", "sharded-replicaset"]})
        self.check("needs a load balancer", {"topologies": ["load-balanced"]})

    def test_routers(self) -> None:
        """A cluster whose shards are sets is one of either kind."""
        sharded = Facts((6, 0, 5), "sharded")
        for named in ("sharded", "sharded-replicaset"):
            self.assertIsNone(unmet([{"topologies": ["single", named]}], sharded))
        self.assertEqual(unmet([{"topologies": ["replicaset"]}], sharded), "needs a replica set")

    def test_authentication(self) -> None:
        """Access control and mechanisms are looked at."""
        self.check(None, {"auth": False})
        self.check("needs a server with authentication", {"auth": True})
        self.check(None, {"authMechanism": "scram-sha-1"})
        self.check("needs the mechanism MONGODB-OIDC", {"authMechanism": "MONGODB-OIDC"})

    def test_parameters(self) -> None:
        """Server parameters must have the value; unknown ones have none."""
        self.check(None, {"serverParameters": {"x": True}})
        self.check("needs the server parameter x=False", {"serverParameters": {"x": False}})
        self.check("needs the server parameter y=1", {"serverParameters": {"y": 1}})

    def test_any(self) -> None:
        """One requirement of several suffices, each must be met as a whole."""
        self.check(None, {"csfle": True}, {"topologies": ["replicaset"]})
        self.check(
            "needs mongos and server >= 7.0",
            {"minServerVersion": "7.0", "topologies": ["sharded"]},
        )

    def test_parse_version(self) -> None:
        """What follows three numbers does not count."""
        self.assertEqual(parse_version("4.9.0-alpha4-271-g7d5cf02"), (4, 9, 0))
        self.assertEqual(parse_version("1.4"), (1, 4, 0))
        self.assertRaises(ValueError, parse_version, "foo")
