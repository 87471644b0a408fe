"""
Tests for L{txmongokit._sansio.selection}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

from pymongo import read_preferences
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TopologyDescription
from twisted.trial.unittest import SynchronousTestCase

from tests.spec.units_selection import REPLIES, deployment, server
from txmongokit._sansio.sdam import (
    initial_description,
    server_description,
    unknown_server,
    updated_description,
)
from txmongokit._sansio.selection import choose, select_servers, selection_error
from txmongokit.errors import AutoReconnect, ConfigurationError, OperationFailure
from txmongokit.options import parse_options
from txmongokit.types import Address

SET: Mapping[str, Any] = {
    "type": "ReplicaSetWithPrimary",
    "servers": [
        {"address": "a:1", "type": "RSPrimary", "avg_rtt_ms": 5},
        {"address": "b:1", "type": "RSSecondary", "avg_rtt_ms": 10},
        {"address": "c:1", "type": "RSSecondary", "avg_rtt_ms": 40},
    ],
}


class SelectTests(SynchronousTestCase):
    """
    L{select_servers}.
    """

    def selected(self, *, writable: bool = False, mode: Any = None, **options: Any) -> list[str]:
        """The hosts that are selected."""
        servers = select_servers(
            deployment(SET, 0.015),
            writable=writable,
            read_preference=mode,
            **{"local_threshold": 0.015, **options},
        )
        return sorted(each.address[0] for each in servers)

    def test_writes(self) -> None:
        """Writes go to the primary, whatever the read preference."""
        self.assertEqual(self.selected(writable=True, mode=read_preferences.Secondary()), ["a"])

    def test_reads(self) -> None:
        """Reads go where the preference says, within the latency window."""
        self.assertEqual(self.selected(mode=read_preferences.Secondary()), ["b"])
        self.assertEqual(self.selected(mode=read_preferences.Nearest()), ["a", "b"])

    def test_threshold(self) -> None:
        """The window may be narrower than the client's."""
        nearest = read_preferences.Nearest()
        self.assertEqual(self.selected(mode=nearest, local_threshold=0.0), ["a"])

    def test_unknown_avoided(self) -> None:
        """A server that is gone may be avoided, too."""
        avoided: tuple[Address, ...] = (("z", 1), ("b", 1))
        nearest = read_preferences.Nearest()
        self.assertEqual(self.selected(mode=nearest, deprioritized=avoided), ["a"])

    def test_too_old(self) -> None:
        """A server whose version is not supported is an error, not a candidate."""
        old = {"address": "a:1", "type": "RSPrimary", "maxWireVersion": 2}
        case = {"type": "ReplicaSetWithPrimary", "servers": [old]}
        self.assertRaises(
            ConfigurationError,
            select_servers,
            deployment(case, 0.015),
            writable=True,
            read_preference=None,
            local_threshold=0.015,
        )


class ChooseTests(SynchronousTestCase):
    """
    L{choose}.
    """

    servers = tuple(server({"address": f"{host}:1", "type": "Mongos"}, []) for host in "abc")

    def test_only_one(self) -> None:
        """One candidate is taken without a look at its load."""
        counts: dict[Address, int] = {}
        self.assertIs(choose(self.servers[:1], counts.__getitem__, Random(1)), self.servers[0])

    def test_less_busy(self) -> None:
        """Of two, the one with less to do."""
        a, b = self.servers[:2]
        for busy, other in ((a, b), (b, a)):
            counts = {busy.address: 1, other.address: 0}
            for seed in range(10):
                self.assertIs(choose((a, b), counts.__getitem__, Random(seed)), other)

    def test_even(self) -> None:
        """With equal loads each gets its share."""
        random = Random(7)
        counts = Counter(choose(self.servers, lambda _: 0, random).address for _ in range(3000))
        self.assertEqual(len(counts), 3)
        self.assertGreater(min(counts.values()), 900)


class SelectionErrorTests(SynchronousTestCase):
    """
    L{selection_error}.
    """

    def description(self, uri: str, *seen: ServerDescription) -> TopologyDescription:
        """A deployment of which something was seen."""
        description = initial_description(parse_options(uri))
        for each in seen:
            description = updated_description(description, each)
        return description

    def test_errors(self) -> None:
        """Every server's own error is told, its address once."""
        text = selection_error(
            self.description(
                "a,b",
                unknown_server(("a", 27017), AutoReconnect("a:27017: Connection refused")),
                unknown_server(("b", 27017), OperationFailure("Authentication failed", 18)),
            ),
            "a primary",
        )
        self.assertEqual(text.count("a:27017"), 1)
        self.assertIn("Connection refused", text)
        self.assertIn("b:27017: Authentication failed", text)
        self.assertIn("firewall", text)

    def test_not_reached(self) -> None:
        """A server that was not asked yet is said to be so."""
        self.assertIn("a:27017: not reached yet", selection_error(self.description("a"), "x"))

    def test_other_set(self) -> None:
        """The wrong replica set is named."""
        reply = {"ok": 1, "hosts": ["a:27017"], "maxWireVersion": 17, **REPLIES["RSPrimary"]}
        seen = server_description(("a", 27017), reply, 0.01)
        text = selection_error(self.description("a/?replicaSet=other", seen), "a primary")
        self.assertIn("'other'", text)
        self.assertIn("replicaSet", text)

    def test_other_set_directly(self) -> None:
        """So it is where the connection is direct, with the set's real name."""
        reply = {"ok": 1, "hosts": ["a:27017"], "maxWireVersion": 17, **REPLIES["RSPrimary"]}
        seen = server_description(("a", 27017), reply, 0.01)
        uri = "a/?replicaSet=other&directConnection=true"
        text = selection_error(self.description(uri, seen), "a primary")
        self.assertIn("other", text)
        self.assertIn("rs", text)

    def test_no_primary(self) -> None:
        """A set without a primary may elect one."""
        case = {"type": "ReplicaSetNoPrimary", "servers": SET["servers"][1:]}
        text = selection_error(deployment(case, 0.015), "a primary")
        self.assertIn("b:1 is RSSecondary", text)
        self.assertIn("election", text)

    def test_nothing_suits(self) -> None:
        """Where every server was seen, it is the preference that asks too much."""
        case = {"type": "ReplicaSetWithPrimary", "servers": SET["servers"][:1]}
        text = selection_error(deployment(case, 0.015), "a secondary")
        self.assertIn("a:1 is RSPrimary", text)
        self.assertIn("none is a secondary", text)
        self.assertNotIn("firewall", text)
