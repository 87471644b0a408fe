"""
What the two deployments are, found out before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure

__all__ = ["Deployment", "DeploymentError", "inspect", "same_deployment"]

_NOT_AUTHORIZED = 13


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
    """

    set_name: str | None
    set_id: Any
    process: Any
    hosts: frozenset[str]
    version: tuple[int, ...]
    is_mongos: bool

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
    return Deployment(
        set_name=set_name,
        set_id=await _set_id(pool) if set_name is not None else None,
        process=hello.get("topologyVersion", {}).get("processId"),
        hosts=frozenset(hello.get("hosts", ())),
        version=tuple(build["versionArray"][:3]),
        is_mongos=hello.get("msg") == "isdbgrid",
    )


async def _set_id(pool: ConnectionPool) -> Any:
    try:
        configuration = await pool["local"]["system.replset"].find_one({})
    except OperationFailure as error:
        if error.code != _NOT_AUTHORIZED:
            raise
        # The name alone then has to identify the set.
        return None
    return (configuration or {}).get("settings", {}).get("replicaSetId")


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
