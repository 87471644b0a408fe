"""
How what is seen of servers becomes a picture of the deployment.

PyMongo's C{TopologyDescription} and C{ServerDescription} are the picture;
the rules for errors are the server-discovery-and-monitoring specification's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bson.objectid import ObjectId
from pymongo.server_description import ServerDescription
from pymongo.topology_description import (
    TOPOLOGY_TYPE,
    TopologyDescription,
    updated_topology_description,
)

from txmongokit._pymongo import (
    NODE_RECOVERING_CODES,
    NOT_PRIMARY_CODES,
    SHUTTING_DOWN_CODES,
    Hello,
)
from txmongokit.errors import (
    ConnectionFailure,
    NetworkTimeout,
    NotPrimaryError,
    WaitQueueTimeoutError,
)
from txmongokit.options import ClientOptions
from txmongokit.types import Address

__all__ = [
    "ErrorEffect",
    "RoundTripTime",
    "error_effect",
    "initial_description",
    "is_stale",
    "load_balancer",
    "nothing_known",
    "server_description",
    "unknown_server",
    "updated_description",
    "with_hosts",
]


STATE_CHANGE_CODES = NOT_PRIMARY_CODES | NODE_RECOVERING_CODES
"""Of errors that say that a server is no primary, recovers or shuts down."""


# 5.0, the oldest server that may be behind a load balancer.
_BALANCED_WIRE_VERSION = 13


class _Settings:
    """What a L{TopologyDescription} asks of its settings."""

    def __init__(self, options: ClientOptions) -> None:
        self.seeds = options.seeds
        self.heartbeat_frequency = options.heartbeat_frequency
        self.local_threshold_ms = options.local_threshold * 1000
        self._srv_max_hosts = 0
        self._topology_id = ObjectId()


def initial_description(options: ClientOptions) -> TopologyDescription:
    """
    The deployment before anything was seen of it.
    """
    if options.load_balanced:
        kind = TOPOLOGY_TYPE.LoadBalanced
    elif options.direct_connection:
        kind = TOPOLOGY_TYPE.Single
    elif options.replica_set is not None:
        kind = TOPOLOGY_TYPE.ReplicaSetNoPrimary
    else:
        kind = TOPOLOGY_TYPE.Unknown
    servers = {address: ServerDescription(address) for address in options.seeds}
    return TopologyDescription(kind, servers, options.replica_set, None, None, _Settings(options))


def nothing_known(options: ClientOptions) -> TopologyDescription:
    """
    A deployment without any server: what a topology begins and ends as.
    """
    return TopologyDescription(TOPOLOGY_TYPE.Unknown, {}, None, None, None, _Settings(options))


def updated_description(
    description: TopologyDescription, server: ServerDescription
) -> TopologyDescription:
    """
    The deployment after one of its servers was seen, or was not.
    """
    return updated_topology_description(description, server)


def with_hosts(
    description: TopologyDescription, hosts: Collection[Address], options: ClientOptions
) -> TopologyDescription:
    """
    A deployment of which DNS now names other hosts: what is known of those
    that stay is kept.
    """
    known = description.server_descriptions()
    servers = {host: known.get(host) or ServerDescription(host) for host in hosts}
    return TopologyDescription(
        description.topology_type,
        servers,
        description.replica_set_name,
        description.max_set_version,
        description.max_election_id,
        _Settings(options),
    )


def server_description(
    address: Address, reply: Mapping[str, Any], round_trip_time: float
) -> ServerDescription:
    """
    A server as its reply to C{hello} describes it.
    """
    return ServerDescription(address, Hello(dict(reply)), round_trip_time)


def unknown_server(address: Address, error: Exception) -> ServerDescription:
    """
    A server that could not be asked, or must not be used.
    """
    return ServerDescription(address, error=error)


def load_balancer(address: Address) -> ServerDescription:
    """
    A load balancer, which nobody ever asks how it is.
    """
    reply = {"ok": 1, "serviceId": ObjectId(), "maxWireVersion": _BALANCED_WIRE_VERSION}
    return ServerDescription(address, Hello(reply))


def is_stale(current: ServerDescription, seen: ServerDescription) -> bool:
    """
    Whether what was seen is older than what is known.
    """
    return _is_older(_topology_version(seen), current.topology_version, strictly=True)


def _topology_version(server: ServerDescription) -> Mapping[str, Any] | None:
    if server.topology_version is not None:
        return server.topology_version
    details = getattr(server.error, "details", None)
    return details.get("topologyVersion") if isinstance(details, Mapping) else None


def _is_older(
    one: Mapping[str, Any] | None, current: Mapping[str, Any] | None, *, strictly: bool
) -> bool:
    if one is None or current is None:
        return False
    try:
        if one["processId"] != current["processId"]:
            return False
        difference = one["counter"] - current["counter"]
    except (KeyError, TypeError):
        # What cannot be compared is no version.
        return False
    return bool(difference < 0 if strictly else difference <= 0)


@dataclass(frozen=True, slots=True)
class ErrorEffect:
    """
    What an operation's error does to the server it came from.

    @ivar cancel_check: the check under way is given up, for its connection
        is as doubtful as the one that failed.
    """

    mark_unknown: bool = False
    clear_pool: bool = False
    request_check: bool = False
    cancel_check: bool = False


_NO_EFFECT = ErrorEffect()


def error_effect(
    error: Exception, *, server_description: ServerDescription, handshaken: bool
) -> ErrorEffect:
    """
    Judge an operation's error.

    @param handshaken: whether the connection had been established.
    """
    details = getattr(error, "details", None)
    if isinstance(details, Mapping):
        code = details.get("code")
        if code is None:
            nested = details.get("writeConcernError")
            code = nested.get("code") if isinstance(nested, Mapping) else None
        if isinstance(error, NotPrimaryError) or code in STATE_CHANGE_CODES:
            effect = _state_change(details, code, server_description)
            if effect is not None:
                return effect
    if not isinstance(error, ConnectionFailure):
        if handshaken:
            return _NO_EFFECT
        # New connections, as after a refused log-in, cannot be had.  The check
        # is what lets the pool go on before the next heartbeat.
        return ErrorEffect(mark_unknown=True, clear_pool=True, request_check=True)
    if isinstance(error, WaitQueueTimeoutError):
        return _NO_EFFECT
    if handshaken:
        # One slow operation says nothing of the server.
        return _NO_EFFECT if isinstance(error, NetworkTimeout) else _NETWORK_ERROR
    if error.has_error_label("SystemOverloadedError"):
        # It may be there and too busy for newcomers: what is connected stays.
        return ErrorEffect(request_check=True)
    return _NETWORK_ERROR


_NETWORK_ERROR = ErrorEffect(
    mark_unknown=True, clear_pool=True, request_check=True, cancel_check=True
)


def _state_change(
    details: Mapping[str, Any], code: Any, server: ServerDescription
) -> ErrorEffect | None:
    if _is_older(details.get("topologyVersion"), server.topology_version, strictly=False):
        return _NO_EFFECT
    if code is not None and code not in STATE_CHANGE_CODES:
        return None
    return ErrorEffect(
        mark_unknown=True, clear_pool=code in SHUTTING_DOWN_CODES, request_check=True
    )


class RoundTripTime:
    """
    The weighted average of a server's round trip times (server-selection
    specification).
    """

    _WEIGHT = 0.2

    def __init__(self) -> None:
        self._average: float | None = None
        self._recent: deque[float] = deque(maxlen=10)

    @property
    def minimum(self) -> float:
        """
        Of the last ten samples, in seconds; 0 before there are two.
        """
        return min(self._recent) if len(self._recent) > 1 else 0.0

    @property
    def average(self) -> float:
        """
        In seconds; 0 before the first sample.
        """
        return self._average or 0.0

    def add(self, sample: float) -> None:
        """
        Take one more sample into account.
        """
        self._recent.append(sample)
        old = self._average
        self._average = sample if old is None else self._WEIGHT * sample + (1 - self._WEIGHT) * old

    def reset(self) -> None:
        """
        Forget all samples, after the connection was lost.
        """
        self._average = None
        self._recent.clear()
