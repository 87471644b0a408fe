"""
Tests for L{txmongokit._sansio.sdam}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bson.objectid import ObjectId
from pymongo.server_description import ServerDescription
from pymongo.server_type import SERVER_TYPE
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription
from twisted.trial.unittest import SynchronousTestCase

from tests._specifications import cases
from txmongokit._pymongo import add_error_label, raise_command_error
from txmongokit._sansio.sdam import (
    ErrorEffect,
    RoundTripTime,
    error_effect,
    initial_description,
    is_stale,
    server_description,
    unknown_server,
    updated_description,
)
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from txmongokit.options import parse_options
from txmongokit.types import Address

FOLDER = "server-discovery-and-monitoring/tests"
A = ("a", 27017)
EVERYTHING = ErrorEffect(mark_unknown=True, clear_pool=True, request_check=True)
DOUBTFUL = replace(EVERYTHING, cancel_check=True)
NOTHING = ErrorEffect()


def parse_address(text: str) -> Address:
    """C{host:port} as a pair."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Deployment:
    """
    What the client's topology does with the pure functions, without the
    rest: the picture, and a generation for each pool.
    """

    def __init__(self, uri: str) -> None:
        self.description: TopologyDescription = initial_description(parse_options(uri))
        self.generations: dict[Address, int] = {}

    def server(self, address: Address) -> ServerDescription | None:
        """What is known of one server."""
        return self.description.server_descriptions().get(address)

    def clear(self, address: Address) -> None:
        """Clear one pool."""
        self.generations[address] = self.generations.get(address, 0) + 1

    def answer(self, address: Address, reply: Mapping[str, Any]) -> None:
        """A monitor's C{hello} was answered; by nothing, where it failed."""
        if reply:
            seen = server_description(address, reply, 0.01)
        else:
            seen = unknown_server(address, AutoReconnect("connection closed"))
        current = self.server(address)
        if current is None or is_stale(current, seen):
            return
        self.description = updated_description(self.description, seen)
        if not reply:
            self.clear(address)

    def fail(self, case: Mapping[str, Any]) -> None:
        """An operation failed, as a test of the specification says."""
        address = parse_address(case["address"])
        current = self.server(address)
        if current is None:
            return
        if case.get("generation", self.generations.get(address, 0)) != self.generations.get(
            address, 0
        ):
            return
        error = application_error(case)
        if error is None:
            return
        handshaken = case["when"] == "afterHandshakeCompletes"
        effect = error_effect(error, server_description=current, handshaken=handshaken)
        if effect.mark_unknown:
            unknown = unknown_server(address, error)
            self.description = updated_description(self.description, unknown)
        if effect.clear_pool:
            self.clear(address)


def application_error(case: Mapping[str, Any]) -> Exception | None:
    """What an operation raises, C{None} where it succeeds."""
    if case["type"] == "network":
        return AutoReconnect("connection closed")
    if case["type"] == "timeout":
        return NetworkTimeout("too late")
    if case["response"]["ok"]:
        return None
    try:
        raise_command_error(case["response"], case["maxWireVersion"])
    except (OperationFailure, NotPrimaryError) as error:
        return error


# Deliberate exceptions, and why.
SKIPPED = {
    "discover_single_loadbalanced": "load balancers are not supported",
    "pre-42": "the oldest server that is supported is 4.4",
}


def scenarios(*folders: str) -> Iterator[tuple[str, Any]]:
    """The specification's scenarios that apply."""
    for folder in folders:
        for name, scenario in cases(f"{FOLDER}/{folder}"):
            if not any(name.startswith(each) for each in SKIPPED):
                yield f"{folder}/{name}", scenario


class SpecificationTests(SynchronousTestCase):
    """
    The specification's scenarios.
    """

    def play(self, *folders: str) -> None:
        """Every phase has its outcome."""
        for name, scenario in scenarios(*folders):
            deployment = Deployment(scenario["uri"])
            for phase in scenario["phases"]:
                for address, reply in phase.get("responses", ()):
                    deployment.answer(parse_address(address), reply)
                for case in phase.get("applicationErrors", ()):
                    deployment.fail(case)
                self.check(deployment, phase["outcome"], f"{name}: {phase.get('description')}")

    def check(self, deployment: Deployment, outcome: Mapping[str, Any], where: str) -> None:
        """The picture is the scenario's."""
        description = deployment.description
        self.assertEqual(description.topology_type_name, outcome["topologyType"], where)
        self.assertEqual(description.replica_set_name, outcome.get("setName"), where)
        if "logicalSessionTimeoutMinutes" in outcome:
            self.assertEqual(
                description.logical_session_timeout_minutes,
                outcome["logicalSessionTimeoutMinutes"],
                where,
            )
        for name, ours in (
            ("maxSetVersion", description.max_set_version),
            ("maxElectionId", description.max_election_id),
        ):
            if name in outcome:
                self.assertEqual(ours, outcome[name], where)
        if "compatible" in outcome:
            compatible = True
            try:
                description.check_compatible()
            except ConfigurationError:
                compatible = False
            self.assertEqual(compatible, outcome["compatible"], where)
        servers = {parse_address(each): wanted for each, wanted in outcome["servers"].items()}
        self.assertEqual(set(description.server_descriptions()), set(servers), where)
        for address, wanted in servers.items():
            self.check_server(deployment, address, wanted, f"{where}: {address}")

    def check_server(
        self, deployment: Deployment, address: Address, wanted: Mapping[str, Any], where: str
    ) -> None:
        """One server is the scenario's."""
        server = deployment.server(address)
        assert server is not None
        # What is no primary any more, PossiblePrimary, is known to single-threaded drivers only.
        kind = "Unknown" if wanted["type"] == "PossiblePrimary" else wanted["type"]
        self.assertEqual(server.server_type_name, kind, where)
        for name, ours in (
            ("setName", server.replica_set_name),
            ("setVersion", server.set_version),
            ("electionId", server.election_id),
            ("topologyVersion", server.topology_version),
            ("logicalSessionTimeoutMinutes", server.logical_session_timeout_minutes),
            ("minWireVersion", server.min_wire_version),
            ("maxWireVersion", server.max_wire_version),
        ):
            if name in wanted:
                self.assertEqual(ours, wanted[name], f"{where}: {name}")
        if "pool" in wanted:
            generation = deployment.generations.get(address, 0)
            self.assertEqual(generation, wanted["pool"]["generation"], where)

    def test_replica_sets(self) -> None:
        """Replica sets."""
        self.play("rs")

    def test_single(self) -> None:
        """Direct connections and standalone servers."""
        self.play("single")

    def test_sharded(self) -> None:
        """Sharded clusters."""
        self.play("sharded")

    def test_errors(self) -> None:
        """What operations' errors do."""
        self.play("errors")


PRIMARY: Mapping[str, Any] = {
    "ok": 1,
    "isWritablePrimary": True,
    "setName": "rs",
    "hosts": ["a:27017"],
    "minWireVersion": 0,
    "maxWireVersion": 17,
}


class ErrorEffectTests(SynchronousTestCase):
    """
    L{error_effect}.
    """

    server = server_description(A, PRIMARY, 0.01)

    def effect(self, error: Exception, *, handshaken: bool = True) -> ErrorEffect:
        """What one error does."""
        return error_effect(error, server_description=self.server, handshaken=handshaken)

    def test_network(self) -> None:
        """A lost connection says that the server may be gone."""
        self.assertEqual(self.effect(AutoReconnect("gone")), DOUBTFUL)
        self.assertEqual(self.effect(AutoReconnect("gone"), handshaken=False), DOUBTFUL)

    def test_timeout(self) -> None:
        """A slow operation says nothing, a connection that cannot be made does."""
        self.assertEqual(self.effect(NetworkTimeout("late")), NOTHING)
        self.assertEqual(self.effect(NetworkTimeout("late"), handshaken=False), DOUBTFUL)

    def test_overload(self) -> None:
        """A server with too much to do for newcomers is asked, and its connections are kept."""
        error = AutoReconnect("closed")
        add_error_label(error, "SystemOverloadedError")
        self.assertEqual(self.effect(error, handshaken=False), ErrorEffect(request_check=True))
        self.assertEqual(self.effect(error), DOUBTFUL)

    def test_no_room(self) -> None:
        """A queue that is too long says nothing of the server."""
        self.assertEqual(self.effect(WaitQueueTimeoutError("full"), handshaken=False), NOTHING)

    def test_write_concern(self) -> None:
        """A state change counts, too, where only the write concern tells of it."""
        details = {"writeConcernError": {"code": 91}}
        error = WriteConcernError("shutting down", 91, details)
        self.assertEqual(self.effect(error), EVERYTHING)

    def test_log_in(self) -> None:
        """A refused log-in makes the server unknown until it is seen again."""
        error = OperationFailure("no", 18)
        self.assertEqual(self.effect(error, handshaken=False), EVERYTHING)

    def test_command(self) -> None:
        """A command's own failure says nothing of the server."""
        self.assertEqual(self.effect(OperationFailure("no", 11000)), NOTHING)

    def test_state_change(self) -> None:
        """A server that is no primary is looked at again; its connections stay good."""
        for code in (10107, 13435, 10058, 11602, 13436, 189):
            effect = self.effect(NotPrimaryError("no", {"code": code}))
            self.assertEqual(effect, ErrorEffect(mark_unknown=True, request_check=True), code)

    def test_shutdown(self) -> None:
        """Those of a server that shuts down do not."""
        for code in (11600, 91):
            self.assertEqual(self.effect(NotPrimaryError("no", {"code": code})), EVERYTHING)

    def test_stale_state_change(self) -> None:
        """An error that is no newer than what is known is ignored."""
        process = ObjectId()
        known = {"processId": process, "counter": 5}
        self.server = server_description(A, {**PRIMARY, "topologyVersion": known}, 0.01)
        for counter, ignored in ((4, True), (5, True), (6, False)):
            version = {"processId": process, "counter": counter}
            effect = self.effect(NotPrimaryError("no", {"code": 189, "topologyVersion": version}))
            self.assertEqual(effect == NOTHING, ignored, counter)
        version = {"processId": ObjectId(), "counter": 1}
        effect = self.effect(NotPrimaryError("no", {"code": 189, "topologyVersion": version}))
        self.assertTrue(effect.mark_unknown)


class StaleTests(SynchronousTestCase):
    """
    L{is_stale}.
    """

    def test_hello(self) -> None:
        """A C{hello} that is older than what is known; the same again is not."""
        process = ObjectId()
        one, two = (
            server_description(
                A, {**PRIMARY, "topologyVersion": {"processId": process, "counter": counter}}, 0.01
            )
            for counter in (1, 2)
        )
        self.assertTrue(is_stale(two, one))
        self.assertFalse(is_stale(one, two))
        self.assertFalse(is_stale(one, one))

    def test_unreadable_version(self) -> None:
        """What cannot be compared is no version, and no reason to stop looking."""
        process = ObjectId()
        good = {"processId": process, "counter": 5}
        for bad in ({}, {"processId": process}, {"processId": process, "counter": "x"}, 3):
            known, seen = (
                server_description(A, {**PRIMARY, "topologyVersion": version}, 0.01)
                for version in (good, bad)
            )
            self.assertFalse(is_stale(known, seen))
            self.assertFalse(is_stale(seen, known))
            self.assertFalse(is_stale(seen, seen))
            error = NotPrimaryError("no", {"code": 189, "topologyVersion": bad})
            effect = error_effect(error, server_description=known, handshaken=True)
            self.assertTrue(effect.mark_unknown)

    def test_without_version(self) -> None:
        """Where either has no version, what comes later is newer."""
        plain = server_description(A, PRIMARY, 0.01)
        version = {"processId": ObjectId(), "counter": 1}
        known = server_description(A, {**PRIMARY, "topologyVersion": version}, 0.01)
        lost = unknown_server(A, AutoReconnect("gone"))
        for current in (plain, known, lost):
            for seen in (plain, lost):
                self.assertFalse(is_stale(current, seen))


class DescriptionTests(SynchronousTestCase):
    """
    Beginnings, and single servers.
    """

    def test_beginning(self) -> None:
        """What is asked for decides what to expect."""
        for uri, kind in (
            ("a,b", TOPOLOGY_TYPE.Unknown),
            ("a", TOPOLOGY_TYPE.Unknown),
            ("a/?replicaSet=rs", TOPOLOGY_TYPE.ReplicaSetNoPrimary),
            ("a/?directConnection=true", TOPOLOGY_TYPE.Single),
            ("a/?directConnection=true&replicaSet=rs", TOPOLOGY_TYPE.Single),
        ):
            options = parse_options(uri)
            description = initial_description(options)
            self.assertEqual(description.topology_type, kind, uri)
            self.assertEqual(set(description.server_descriptions()), set(options.seeds))
            self.assertEqual(description.replica_set_name, options.replica_set)
            self.assertIn("TopologyDescription", repr(description))

    def test_unknown(self) -> None:
        """An unknown server keeps why, and the error's topology version."""
        version = {"processId": ObjectId(), "counter": 1}
        error = NotPrimaryError("no", {"code": 91, "topologyVersion": version})
        server = unknown_server(A, error)
        self.assertEqual(server.server_type, SERVER_TYPE.Unknown)
        self.assertIs(server.error, error)
        self.assertEqual(server.topology_version, version)

    def test_round_trip(self) -> None:
        """The round trip time is the monitor's."""
        self.assertEqual(server_description(A, PRIMARY, 0.25).round_trip_time, 0.25)


class RoundTripTimeTests(SynchronousTestCase):
    """
    L{RoundTripTime}.
    """

    def test_specification(self) -> None:
        """The server-selection specification's examples."""
        for name, case in cases("server-selection/tests/rtt"):
            times = RoundTripTime()
            if case["avg_rtt_ms"] != "NULL":
                times.add(case["avg_rtt_ms"])
            times.add(case["new_rtt_ms"])
            self.assertAlmostEqual(times.average, case["new_avg_rtt"], msg=name)

    def test_reset(self) -> None:
        """After a reset the next sample counts alone."""
        times = RoundTripTime()
        self.assertEqual(times.average, 0.0)
        times.add(5.0)
        times.reset()
        self.assertEqual(times.average, 0.0)
        times.add(2.0)
        self.assertEqual(times.average, 2.0)
