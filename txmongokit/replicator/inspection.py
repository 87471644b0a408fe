"""
What the two deployments are, found out before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.replicator.patience import is_passing

__all__ = [
    "Deployment",
    "DeploymentError",
    "check_destination",
    "check_source",
    "check_versions",
    "inspect",
    "same_deployment",
]

_SHARD_IDENTITY, _COMPATIBILITY = "shardIdentity", "featureCompatibilityVersion"
# What a server was started as, and what to call it.
_CLUSTER_ROLES = {"shardsvr": "a shard", "configsvr": "the config servers"}


class DeploymentError(Exception):
    """
    A deployment cannot be what it was named as: one sentence with the cause
    and the mend.
    """


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    A deployment as its primary describes it.

    @ivar set_name: C{None} for a standalone server.
    @ivar set_id: the replica set's identity, where it may be read.
    @ivar process: identifies the very server process that answered.
    @ivar hosts: the members, as the set names them.
    @ivar version: of the server, C{(6, 0, 5)}.
    @ivar is_mongos: whether it is a router of a sharded cluster.
    @ivar compatible: the feature compatibility version, C{(6, 0)}; C{None}
        where it may not be read.
    @ivar part: what part of a sharded cluster it is, for messages; C{None}
        for none, or where that may not be read.
    """

    set_name: str | None
    set_id: Any
    process: Any
    hosts: frozenset[str]
    version: tuple[int, ...]
    is_mongos: bool
    compatible: tuple[int, ...] | None = None
    part: str | None = None

    @property
    def level(self) -> tuple[int, ...]:
        """
        The release whose features it may use, C{(6, 0)}.
        """
        return self.version[:2] if self.compatible is None else self.compatible

    @property
    def identity(self) -> dict[str, Any]:
        """
        What tells this deployment from others, for the checkpoint.
        """
        return {"set": self.set_name, "id": self.set_id}


async def inspect(pool: ConnectionPool) -> Deployment:
    """
    Ask a deployment what it is.
    """
    admin = pool["admin"]
    hello: Mapping[str, Any] = await admin.command("hello")
    build: Mapping[str, Any] = await admin.command("buildInfo")
    set_name = hello.get("setName")
    is_mongos = hello.get("msg") == "isdbgrid"
    settings = {} if is_mongos else await _settings(pool)
    part = None if is_mongos else await _part(pool, hello, settings)
    return Deployment(
        set_name=set_name,
        set_id=await _set_id(pool) if set_name is not None else None,
        process=hello.get("topologyVersion", {}).get("processId"),
        hosts=frozenset(hello.get("hosts", ())),
        version=tuple(build["versionArray"][:3]),
        is_mongos=is_mongos,
        compatible=_release(settings.get(_COMPATIBILITY)),
        part=part,
    )


async def _settings(pool: ConnectionPool) -> dict[str, Mapping[str, Any]]:
    """What a server has stored of its own version and of its cluster."""
    wanted = {"_id": {"$in": [_SHARD_IDENTITY, _COMPATIBILITY]}}
    try:
        found = await pool["admin"]["system.version"].find(wanted).to_list()
    except OperationFailure as error:
        _check_unknown(error)
        return {}
    return {each["_id"]: each for each in found}


async def _part(
    pool: ConnectionPool, hello: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> str | None:
    if _SHARD_IDENTITY in settings:
        cluster = settings[_SHARD_IDENTITY].get("configsvrConnectionString", "unknown")
        return f"a shard (of the cluster with the config servers {cluster})"
    if "configsvr" in hello:
        return _CLUSTER_ROLES["configsvr"]
    try:
        options: Mapping[str, Any] = await pool["admin"].command("getCmdLineOpts")
    except OperationFailure as error:
        _check_unknown(error)
        return None
    role = options.get("parsed", {}).get("sharding", {}).get("clusterRole")
    return _CLUSTER_ROLES.get(role)


def _release(setting: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    text = "" if setting is None else str(setting.get("version", ""))
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+\.\d+", text) else None


async def _set_id(pool: ConnectionPool) -> Any:
    try:
        configuration = await pool["local"]["system.replset"].find_one({})
    except OperationFailure as error:
        _check_unknown(error)
        # The name alone then has to identify the set.
        return None
    return (configuration or {}).get("settings", {}).get("replicaSetId")


def _check_unknown(error: OperationFailure) -> None:
    """
    What a server does not tell stays unknown: not all users may ask, and hosts
    of servers refuse in ways of their own.  Not what another try may tell.
    """
    if is_passing(error):
        raise error


def same_deployment(one: Deployment, other: Deployment) -> bool:
    """
    Whether two descriptions are of the same servers.
    """
    if one.process is not None and one.process == other.process:
        return True
    if one.set_id is not None and one.set_id == other.set_id:
        return True
    return (
        one.set_name is not None
        and one.set_name == other.set_name
        and bool(one.hosts & other.hosts)
    )


def check_source(source: Deployment, shown: str) -> None:
    """
    Whether something can be replicated from there.

    @param shown: what to call it: C{source} and its address.
    @raise DeploymentError: it has no oplog, or only a part of the data.
    """
    if source.is_mongos:
        raise DeploymentError(
            f"{shown} is a mongos, and this version does not replicate sharded clusters: name a "
            "replica set that is not part of one"
        )
    if source.part is not None:
        raise DeploymentError(
            f"{shown} is {source.part}, and this version does not replicate sharded clusters, "
            "whose shards exchange documents: name a replica set that is not part of one"
        )
    if source.set_name is None:
        raise DeploymentError(
            f"{shown} is a standalone server, which has no oplog: restart it with --replSet and "
            "run rs.initiate()"
        )


def check_destination(
    source: Deployment, destination: Deployment, shown: str, *, renamed: bool
) -> None:
    """
    Whether something of that source can be replicated to there.

    @param shown: what to call it: C{destination} and its address.
    @param renamed: whether everything that is replicated gets another name.
    @raise DeploymentError: it cannot.
    """
    if destination.is_mongos:
        raise DeploymentError(
            f"{shown} is a mongos, which this version does not write to: name a replica set that "
            "is not part of a sharded cluster"
        )
    if destination.part is not None:
        raise DeploymentError(
            f"{shown} is {destination.part}, which only its mongos may write to: name a replica "
            "set that is not part of a sharded cluster"
        )
    if same_deployment(source, destination) and not renamed:
        raise DeploymentError(
            f"source and {shown} are the same deployment: name another destination, or give --ns "
            "and a --rename for each of its namespaces"
        )


def check_versions(source: Deployment, destination: Deployment, shown: str) -> None:
    """
    Whether the destination knows all that the source may write.

    @param shown: what to call the destination.
    @raise DeploymentError: it does not.
    """
    if destination.level < source.level:
        raise DeploymentError(
            f"{shown} is of version {_shown(destination)}, which is older than the source's "
            f"{_shown(source)} and does not know all that the source may write: upgrade the "
            "destination, and its featureCompatibilityVersion, first"
        )


def _shown(deployment: Deployment) -> str:
    version = ".".join(map(str, deployment.version))
    if deployment.level == deployment.version[:2]:
        return version
    level = ".".join(map(str, deployment.level))
    return f"{version} (featureCompatibilityVersion {level})"
