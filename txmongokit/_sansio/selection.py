"""
Which servers suit an operation, and why none does.

Follows the drivers' server-selection specification; the selectors are
PyMongo's read preferences themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from pymongo.server_description import ServerDescription
from pymongo.server_selectors import writable_server_selector
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription

from txmongokit._sansio.wireversions import check_compatible
from txmongokit.types import Address, format_address

__all__ = ["choose", "select_servers", "selection_error"]


def select_servers(
    description: TopologyDescription,
    *,
    writable: bool,
    read_preference: Any,
    local_threshold: float,
    deprioritized: Sequence[Address] = (),
    custom: Callable[[list[ServerDescription]], list[ServerDescription]] | None = None,
) -> list[ServerDescription]:
    """
    The servers that an operation may go to, within the latency window.

    @param writable: whether the operation writes; C{read_preference} then
        does not matter.
    @param local_threshold: width of the window in seconds.
    @param deprioritized: servers to avoid where others will do.
    @param custom: what the application leaves of the suitable servers.

    @raise ConfigurationError: a server's version is not supported.
    """
    check_compatible(description)
    selector = writable_server_selector if writable else read_preference
    known = description.server_descriptions()
    avoided = [known[address] for address in deprioritized if address in known]
    candidates = description.apply_selector(
        selector, custom_selector=custom, deprioritized_servers=avoided or None
    )
    if len(candidates) < 2:
        return candidates
    times = [server.round_trip_time or 0.0 for server in candidates]
    limit = min(times) + local_threshold
    return [server for server, time in zip(candidates, times, strict=True) if time <= limit]


def choose(
    candidates: Sequence[ServerDescription],
    operation_count: Callable[[Address], int],
    random: Random,
) -> ServerDescription:
    """
    One of several suitable servers: of two drawn at random, the one with
    fewer operations under way.
    """
    if len(candidates) == 1:
        return candidates[0]
    one, other = random.sample(candidates, 2)
    return one if operation_count(one.address) <= operation_count(other.address) else other


def selection_error(description: TopologyDescription, what: str) -> str:
    """
    Why no server suits, in one sentence that says how to mend it.

    @param what: what was looked for.
    """
    servers = list(description.server_descriptions().values())
    if not servers:
        if description.replica_set_name is not None:
            return (
                f"none of the hosts is a member of replica set {description.replica_set_name!r}: "
                "check replicaSet and the hosts in the connection string"
            )
        return "no host is left: check the hosts in the connection string"
    reasons = []
    for server in servers:
        where = format_address(server.address)
        if server.error is not None:
            text = str(server.error)
            reasons.append(text if text.startswith(where) else f"{where}: {text}")
        elif not server.is_server_type_known:
            reasons.append(f"{where}: not reached yet")
        else:
            reasons.append(f"{where} is {server.server_type_name}")
    if any(server.error is not None or not server.is_server_type_known for server in servers):
        advice = "check that the servers run and that hosts, ports and firewall are right"
    elif description.topology_type == TOPOLOGY_TYPE.ReplicaSetNoPrimary:
        advice = "wait for an election, or check that a majority of the set is running"
    else:
        advice = f"none is {what}: check the read preference, its tags and maximum staleness"
    return f"{'; '.join(reasons)}: {advice}"
