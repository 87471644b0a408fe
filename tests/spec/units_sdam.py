"""
Server discovery and monitoring: a topology is told what its monitors would
have seen, and the errors of operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from bson.objectid import ObjectId
from pymongo import monitoring as events
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TopologyDescription
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.spec.units_case import Case, expect, load
from txmongokit._net.observation import Observer
from txmongokit._net.topology import Topology
from txmongokit._pymongo import raise_command_error
from txmongokit._sansio.sdam import server_description, unknown_server
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
)
from txmongokit.options import read_client_options
from txmongokit.types import Address

__all__ = ["monitoring", "parse_address", "scenario"]


def parse_address(text: str) -> Address:
    """
    C{host:port} as a pair.
    """
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class _Nowhere:
    """A connector whose attempts never come to an end."""

    def prepare(self) -> None:
        """Nothing is needed."""

    def connect(self, address: Address, **options: Any) -> Deferred[Any]:
        """Connect for ever."""
        return Deferred()


class _Recorder(events.ServerListener, events.TopologyListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _keep(self, event: Any) -> None:
        self.seen.append(event)

    opened = description_changed = closed = _keep


class _Deployment:
    """A topology, told by hand what monitors see."""

    def __init__(self, uri: str, listeners: Sequence[Any] = ()) -> None:
        options = read_client_options(uri)
        observer = Observer(listeners, ObjectId())
        connector: Any = _Nowhere()
        self.topology = Topology(Clock(), options, connector, observer, Random(1))
        self.topology.start()

    @property
    def description(self) -> TopologyDescription:
        """What is known."""
        return self.topology.description

    def answer(self, address: Address, reply: Mapping[str, Any]) -> None:
        """A monitor's C{hello} was answered; by nothing, where it failed."""
        seen = unknown_server(address, AutoReconnect("connection closed"))
        if reply:
            seen = server_description(address, reply, 0.01)
        self.topology.report(seen)

    def fail(self, case: Mapping[str, Any]) -> None:
        """An operation failed."""
        try:
            server = self.topology.server(parse_address(case["address"]))
        except AutoReconnect:
            return
        error = _application_error(case)
        if error is not None:
            self.topology.operation_failed(
                server,
                error,
                case.get("generation", server.pool.generation),
                handshaken=case["when"] == "afterHandshakeCompletes",
            )


def _application_error(case: Mapping[str, Any]) -> Exception | None:
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


def _play(case: Mapping[str, Any]) -> None:
    deployment = _Deployment(case["uri"])
    try:
        for number, phase in enumerate(case["phases"]):
            for address, reply in phase.get("responses", ()):
                deployment.answer(parse_address(address), reply)
            for error in phase.get("applicationErrors", ()):
                deployment.fail(error)
            _check_outcome(deployment, phase["outcome"], f"phase {number}")
    finally:
        deployment.topology.close()


def _check_outcome(deployment: _Deployment, outcome: Mapping[str, Any], where: str) -> None:
    description = deployment.description
    for name, actual in (
        ("topologyType", description.topology_type_name),
        ("setName", description.replica_set_name),
        ("logicalSessionTimeoutMinutes", description.logical_session_timeout_minutes),
        ("maxSetVersion", description.max_set_version),
        ("maxElectionId", description.max_election_id),
    ):
        if name in outcome:
            expect(actual, outcome[name], f"{where}: {name}")
    if "compatible" in outcome:
        compatible = True
        try:
            description.check_compatible()
        except ConfigurationError:
            compatible = False
        expect(compatible, outcome["compatible"], f"{where}: compatible")
    servers = {parse_address(each): wanted for each, wanted in outcome["servers"].items()}
    known = description.server_descriptions()
    expect(set(known), set(servers), f"{where}: the servers")
    for address, wanted in servers.items():
        _check_server(deployment, known[address], wanted, f"{where}: {address}")


def _check_server(
    deployment: _Deployment, server: ServerDescription, wanted: Mapping[str, Any], where: str
) -> None:
    # Single-threaded drivers alone know a PossiblePrimary.
    kind = wanted["type"].replace("PossiblePrimary", "Unknown")
    expect(server.server_type_name, kind, f"{where}: type")
    for name, actual in (
        ("setName", server.replica_set_name),
        ("setVersion", server.set_version),
        ("electionId", server.election_id),
        ("topologyVersion", server.topology_version),
        ("logicalSessionTimeoutMinutes", server.logical_session_timeout_minutes),
        ("minWireVersion", server.min_wire_version),
        ("maxWireVersion", server.max_wire_version),
    ):
        if name in wanted:
            expect(actual, wanted[name], f"{where}: {name}")
    if "pool" in wanted:
        generation = deployment.topology.server(server.address).pool.generation
        expect(generation, wanted["pool"]["generation"], f"{where}: generation")


def scenario(path: Path) -> Iterator[Case]:
    """
    Server discovery and monitoring specification: what becomes known.
    """
    case = load(path)
    yield Case(case["description"], partial(_play, case))


# Monitoring: the events.


def _told_server(server: ServerDescription) -> dict[str, Any]:
    host, port = server.address
    told: dict[str, Any] = {
        "address": f"{host}:{port}",
        "hosts": sorted(f"{name}:{number}" for name, number in server.all_hosts),
        "type": server.server_type_name,
    }
    if server.primary:
        told["primary"] = f"{server.primary[0]}:{server.primary[1]}"
    if server.replica_set_name:
        told["setName"] = server.replica_set_name
    return told


def _told_topology(description: TopologyDescription) -> dict[str, Any]:
    servers = [_told_server(each) for each in description.server_descriptions().values()]
    told: dict[str, Any] = {
        "topologyType": description.topology_type_name,
        "servers": sorted(servers, key=lambda each: each["address"]),
    }
    if description.replica_set_name:
        told["setName"] = description.replica_set_name
    return told


def _told(event: Any) -> dict[str, Any]:
    """An event as the specification writes it, without the topology's id."""
    if isinstance(event, events.ServerDescriptionChangedEvent):
        host, port = event.server_address
        return {
            "server_description_changed_event": {
                "address": f"{host}:{port}",
                "previousDescription": _told_server(event.previous_description),
                "newDescription": _told_server(event.new_description),
            }
        }
    if isinstance(event, events.TopologyDescriptionChangedEvent):
        return {
            "topology_description_changed_event": {
                "previousDescription": _told_topology(event.previous_description),
                "newDescription": _told_topology(event.new_description),
            }
        }
    name = {
        events.ServerOpeningEvent: "server_opening_event",
        events.ServerClosedEvent: "server_closed_event",
        events.TopologyOpenedEvent: "topology_opening_event",
        events.TopologyClosedEvent: "topology_closed_event",
    }[type(event)]
    if not hasattr(event, "server_address"):
        return {name: {}}
    host, port = event.server_address
    return {name: {"address": f"{host}:{port}"}}


def _comparable(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """
    What L{_told} can tell of an event: PyMongo's description of a server has
    its arbiters and passive members among the hosts.
    """
    ((name, content),) = wanted.items()
    content = {key: value for key, value in content.items() if key != "topologyId"}
    for key in ("previousDescription", "newDescription"):
        if key in content:
            content[key] = _comparable_description(content[key])
    return {name: content}


def _comparable_description(wanted: Mapping[str, Any]) -> dict[str, Any]:
    if "servers" in wanted:
        servers = [_comparable_description(each) for each in wanted["servers"]]
        return {**wanted, "servers": sorted(servers, key=lambda each: str(each["address"]))}
    described = {key: wanted[key] for key in wanted if key not in ("arbiters", "passives")}
    # Single-threaded drivers alone know a PossiblePrimary.
    described["type"] = wanted["type"].replace("PossiblePrimary", "Unknown")
    described["hosts"] = sorted([*wanted["arbiters"], *wanted["hosts"], *wanted["passives"]])
    return described


def _watch(case: Mapping[str, Any]) -> None:
    recorder = _Recorder()
    deployment = _Deployment(case["uri"], [recorder])
    try:
        for number, phase in enumerate(case["phases"]):
            for address, reply in phase.get("responses", ()):
                deployment.answer(parse_address(address), reply)
            told, recorder.seen = [_told(each) for each in recorder.seen], []
            wanted = [_comparable(each) for each in phase["outcome"]["events"]]
            for position, pair in enumerate(zip(told, wanted, strict=False)):
                expect(*pair, f"phase {number}: event {position}")
            expect(len(told), len(wanted), f"phase {number}: the number of events")
    finally:
        deployment.topology.close()


def monitoring(path: Path) -> Iterator[Case]:
    """
    Server discovery and monitoring specification: what listeners are told.
    """
    case = load(path)
    yield Case(case["description"], partial(_watch, case))
