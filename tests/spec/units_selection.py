"""
Server selection: which servers suit, how fast they are, which one is chosen.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from bson.objectid import ObjectId
from pymongo import read_preferences
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription

from tests.spec.units_case import Case, expect, load
from tests.spec.units_sdam import parse_address
from txmongokit._sansio.sdam import (
    RoundTripTime,
    initial_description,
    server_description,
    unknown_server,
)
from txmongokit._sansio.selection import choose, select_servers
from txmongokit.errors import AutoReconnect, ConfigurationError
from txmongokit.options import ClientOptions

__all__ = ["REPLIES", "deployment", "in_window", "round_trip_time", "selection", "server"]

REPLIES: Mapping[str, dict[str, Any]] = {
    "RSPrimary": {"isWritablePrimary": True, "setName": "rs"},
    "RSSecondary": {"secondary": True, "setName": "rs"},
    "RSArbiter": {"arbiterOnly": True, "setName": "rs"},
    "RSOther": {"hidden": True, "setName": "rs"},
    "Mongos": {"isWritablePrimary": True, "msg": "isdbgrid"},
    "Standalone": {"isWritablePrimary": True},
    "RSGhost": {"isreplicaset": True},
    "LoadBalancer": {"serviceId": ObjectId()},
}
"""What makes a server one of each type."""

_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - as PyMongo decodes dates
_UNLIMITED = 1e6
_WINDOW = 0.015


def server(case: Mapping[str, Any], names: list[str]) -> ServerDescription:
    """
    A server as a test of the specification describes it.

    @param names: the members of its replica set.
    """
    address = parse_address(case["address"])
    if case["type"] not in REPLIES:
        return unknown_server(address, AutoReconnect("not reached"))
    reply = {
        "ok": 1,
        "hosts": names,
        "tags": case.get("tags", {}),
        "minWireVersion": 0,
        "maxWireVersion": case.get("maxWireVersion", 21),
        **REPLIES[case["type"]],
    }
    if "lastWrite" in case:
        milliseconds = int(case["lastWrite"]["lastWriteDate"])
        date = _EPOCH + datetime.timedelta(milliseconds=milliseconds)
        reply["lastWrite"] = {"lastWriteDate": date}
    seen = server_description(address, reply, case.get("avg_rtt_ms", 0) / 1000.0)
    expect(seen.server_type_name, case["type"], "the type")
    # When a server was seen is the clock's; here it is the test's.
    seen._last_update_time = case.get("lastUpdateTime", 0) / 1000.0
    return seen


def deployment(
    case: Mapping[str, Any], local_threshold: float, heartbeat: float = 10.0
) -> TopologyDescription:
    """
    A deployment as a test of the specification describes it.

    @param local_threshold: in seconds.
    @param heartbeat: in seconds.
    """
    names = [each["address"] for each in case["servers"]]
    servers = {parse_address(each["address"]): server(each, names) for each in case["servers"]}
    options = ClientOptions(
        seeds=tuple(servers) or (("none", 1),),
        local_threshold=local_threshold,
        heartbeat_frequency=heartbeat,
    )
    settings = initial_description(options)._topology_settings
    kind = getattr(TOPOLOGY_TYPE, case["type"])
    name = "rs" if case["type"].startswith("ReplicaSet") else None
    return TopologyDescription(kind, servers, name, None, None, settings)


def _preference(case: Mapping[str, Any]) -> Any:
    mode = case.get("mode", "Primary")
    kind: Any = getattr(read_preferences, mode[0].upper() + mode[1:])
    tags = case.get("tag_sets")
    staleness = case.get("maxStalenessSeconds", -1)
    if kind is read_preferences.Primary:
        if (tags and tags != [{}]) or staleness > 0:
            raise ConfigurationError("primary goes with neither tags nor staleness")
        return kind()
    return kind(tag_sets=tags, max_staleness=staleness)


def _select(case: Mapping[str, Any]) -> None:
    """The servers that suit, and those within the window."""
    heartbeat = case.get("heartbeatFrequencyMS", 10000) / 1000.0
    deprioritized = tuple(
        parse_address(each["address"]) for each in case.get("deprioritized_servers", ())
    )
    for key, threshold in (("suitable_servers", _UNLIMITED), ("in_latency_window", _WINDOW)):
        selected = select_servers(
            deployment(case["topology_description"], threshold, heartbeat),
            writable=case.get("operation") == "write",
            read_preference=_preference(case.get("read_preference", {})),
            local_threshold=threshold,
            deprioritized=deprioritized,
        )
        expect(
            sorted(each.address for each in selected),
            sorted(parse_address(each["address"]) for each in case[key]),
            key,
        )


def _select_or_refuse(case: Mapping[str, Any]) -> None:
    if not case.get("error"):
        _select(case)
        return
    try:
        _select(case)
    except (ConfigurationError, ValueError):
        return
    raise AssertionError("the read preference was taken")


def selection(path: Path) -> Iterator[Case]:
    """
    Server selection and max staleness specifications.
    """
    yield Case(path.stem, partial(_select_or_refuse, load(path)))


def _average(case: Mapping[str, Any]) -> None:
    times = RoundTripTime()
    if case["avg_rtt_ms"] != "NULL":
        times.add(case["avg_rtt_ms"])
    times.add(case["new_rtt_ms"])
    expect(round(times.average, 7), round(case["new_avg_rtt"], 7), "the average")


def round_trip_time(path: Path) -> Iterator[Case]:
    """
    Server selection specification: round trip times.
    """
    yield Case(path.stem, partial(_average, load(path)))


def _choose(case: Mapping[str, Any]) -> None:
    """Servers are chosen as often as they should, with a given seed."""
    counts = {
        parse_address(each["address"]): each["operation_count"]
        for each in case["mocked_topology_state"]
    }
    candidates = select_servers(
        deployment(case["topology_description"], _WINDOW),
        writable=False,
        read_preference=read_preferences.Nearest(),
        local_threshold=_WINDOW,
    )
    random = Random(1)
    chosen = Counter(
        choose(candidates, counts.__getitem__, random).address for _ in range(case["iterations"])
    )
    outcome = case["outcome"]
    for address, wanted in outcome["expected_frequencies"].items():
        frequency = chosen[parse_address(address)] / case["iterations"]
        tolerance = 0 if wanted in (0, 1) else outcome["tolerance"]
        if abs(frequency - wanted) > tolerance:
            raise AssertionError(f"{address} is chosen at {frequency}, not {wanted}")


def in_window(path: Path) -> Iterator[Case]:
    """
    Server selection specification: which one of those that suit.
    """
    case = load(path)
    yield Case(case["description"], partial(_choose, case))
