"""
The servers that the tests run on, started when the first test wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from tests.spec.requirements import Facts, parse_version, unmet
from txmongokit.testing import Credentials, Deployment, replica_set, standalone
from txmongokit.types import Address

__all__ = ["Fleet", "Ground"]

_INTERRUPTED = 11601
_TRIES = 5


class Ground:
    """
    A running deployment and the internal client (PyMongo's, which is not
    under test) that sets tests up on it.  Its methods block.

    @ivar client: the internal client.
    """

    def __init__(self, deployment: Deployment, topology: str, auth: bool) -> None:
        self.deployment = deployment
        self.client: MongoClient[dict[str, Any]] = deployment.client(
            w="majority", heartbeatFrequencyMS=1000
        )
        parameters = self.client.admin.command("getParameter", "*")
        version = parse_version(self.client.server_info()["version"])
        self.facts = Facts(version, topology, auth, parameters)
        self._fail_points: list[tuple[Address, str]] = []
        # With a connection each that is open before a fail point is set.
        self._directs = {
            member.address: member.client(heartbeatFrequencyMS=60_000)
            for member in deployment.members
        }
        for direct in self._directs.values():
            direct.admin.command("ping")

    def primary(self) -> Address:
        """
        The server that takes writes.
        """
        if self.facts.topology == "single":
            return self.deployment.members[0].address
        self.client.admin.command("ping")
        address = self.client.primary
        assert address is not None
        return (address[0], int(address[1] or 0))

    def set_fail_point(self, command: Mapping[str, Any], address: Address) -> None:
        """
        Switch a fail point of one server on.
        """
        self._directs[address].admin.command(command)
        self.note_fail_point(command["configureFailPoint"], address)

    def note_fail_point(self, name: str, address: Address) -> None:
        """
        Remember a fail point, for L{clear_fail_points}.
        """
        self._fail_points.append((address, name))

    def clear_fail_points(self) -> None:
        """
        Switch off what was switched on.
        """
        fail_points, self._fail_points = self._fail_points, []
        for address, name in dict.fromkeys(fail_points):
            command = {"configureFailPoint": name, "mode": "off"}
            for attempt in range(_TRIES):
                try:
                    self._directs[address].admin.command(command)
                    break
                except AutoReconnect:
                    # It may close this connection, too, until it is off.
                    if attempt + 1 == _TRIES:
                        raise

    def kill_sessions(self) -> None:
        """
        End every session, and with it every transaction that was left open.
        """
        try:
            self.client.admin.command("killAllSessions", [])
        except OperationFailure as error:
            if error.code != _INTERRUPTED:
                raise

    def insert(self, data: Sequence[Mapping[str, Any]]) -> None:
        """
        Make collections that hold exactly a test's C{initialData}.
        """
        for item in data:
            database = self.client[item["databaseName"]]
            name = item["collectionName"]
            options = item.get("createOptions")
            database.drop_collection(name)
            if options or not item["documents"]:
                database.command({"create": name, **(options or {}), **self._majority()})
            if item["documents"]:
                database[name].insert_many([dict(each) for each in item["documents"]])

    def _majority(self) -> dict[str, Any]:
        if self.facts.topology == "single":
            return {}
        return {"writeConcern": {"w": "majority"}}

    def documents(self, database: str, collection: str) -> list[dict[str, Any]]:
        """
        All documents of a collection by C{_id}, from the primary.
        """
        return list(self.client[database][collection].find().sort("_id", 1))

    def close(self) -> None:
        """
        End the internal client and the servers.
        """
        for client in (self.client, *self._directs.values()):
            client.close()
        self.deployment.close()


@dataclass(frozen=True)
class _Kind:
    """
    A deployment that can be started.
    """

    topology: str
    auth: bool
    start: Callable[[str | None], Deployment]


def _set_of_three(binary: str | None) -> Deployment:
    return replica_set(3, binary=binary, parameters=_PARAMETERS, cache_gb=0.25)


def _alone(binary: str | None) -> Deployment:
    return standalone(binary=binary, parameters=_PARAMETERS, cache_gb=0.25)


def _secured_set(binary: str | None) -> Deployment:
    return replica_set(binary=binary, parameters=_PARAMETERS, auth=Credentials(), cache_gb=0.25)


_PARAMETERS: dict[str, object] = {"acceptApiVersion2": True}

_KINDS = (
    _Kind("replicaset", False, _set_of_three),
    _Kind("single", False, _alone),
    _Kind("replicaset", True, _secured_set),
)


class Fleet:
    """
    The deployments, each started when it is first needed.

    @param binary: the C{mongod} to run; L{txmongokit.testing.find_mongod}'s
        by default.
    """

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary
        self._grounds: dict[_Kind, Ground] = {}
        self._known: Facts | None = None

    def place(self, *requirements: Sequence[Mapping[str, Any]] | None) -> Ground | str:
        """
        The first deployment that satisfies all lists of requirements.

        @return: it, or why there is none.  Blocks while it starts.
        """
        reasons = []
        for kind in _KINDS:
            facts = self._facts(kind)
            lacking = [reason for each in requirements if (reason := unmet(each, facts))]
            if not lacking:
                return self._ground(kind)
            reasons.append(max(lacking, key=len))
        return min(reasons, key=len)

    def _facts(self, kind: _Kind) -> Facts:
        """
        What a deployment is, or would be: all run the same program.
        """
        if kind in self._grounds:
            return self._grounds[kind].facts
        if self._known is None:
            self._known = self._ground(_KINDS[0]).facts
        return Facts(self._known.version, kind.topology, kind.auth, self._known.parameters)

    def _ground(self, kind: _Kind) -> Ground:
        ground = self._grounds.get(kind)
        if ground is None:
            ground = Ground(kind.start(self._binary), kind.topology, kind.auth)
            self._grounds[kind] = ground
            self._known = self._known or ground.facts
        return ground

    def close(self) -> None:
        """
        End them all.
        """
        grounds, self._grounds = self._grounds, {}
        for ground in grounds.values():
            try:
                ground.close()
            except PyMongoError:
                ground.deployment.close()
