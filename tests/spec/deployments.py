"""
The servers that the tests run on, started when the first test wants them.

No C{mongos} and no load balancer can be had: instead of them there are
scripted routers before a real replica set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from bson.objectid import ObjectId
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, WriteConcernError
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from tests.routers import ScriptedRouter
from tests.spec.requirements import Facts, parse_version, unmet
from txmongokit.testing import Credentials, Deployment, ServerFailed, replica_set, standalone
from txmongokit.types import Address

__all__ = ["Fleet", "Ground", "RoutedGround"]

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

    def uri(self, *, direct: bool = False, multiple: bool = False) -> str:
        """
        The connection string for a client under test.

        @param direct: of one server, and no set.
        @param multiple: of several C{mongos}, or of a load balancer before
            several, where there are any.
        """
        if not direct:
            return self.deployment.uri
        return self._uri_of([self.client.primary or self.deployment.members[0].address])

    def _uri_of(self, addresses: Sequence[Any], **options: str) -> str:
        start, _, rest = self.deployment.uri.partition("://")
        user, at, _ = rest.rpartition("@")
        if at:
            options["authSource"] = "admin"
        hosts = ",".join(f"{host}:{port}" for host, port in addresses)
        return f"{start}://{user}{at}{hosts}/?{urlencode(options)}"

    def servers(self, multiple: bool) -> int:
        """
        How many servers a client under test has pools for.
        """
        return len(self.deployment.members)

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

    def term(self) -> int:
        """
        Which election the primary is from.
        """
        if self.facts.topology == "single":
            return 0
        return int(self.client.admin.command("replSetGetStatus")["term"])

    def set_fail_point(self, command: Mapping[str, Any], address: Address) -> None:
        """
        Switch a fail point of one server on.
        """
        self._directs[address].admin.command(dict(command))
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
            for attempt in range(_TRIES):
                try:
                    self._fill(item)
                    break
                except (AutoReconnect, WriteConcernError):
                    # A busy machine may make a set elect anew.
                    if attempt + 1 == _TRIES:
                        raise

    def _fill(self, item: Mapping[str, Any]) -> None:
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
        self._close_clients()
        self.deployment.close()

    def _close_clients(self) -> None:
        for client in (self.client, *self._directs.values()):
            client.close()


class RoutedGround(Ground):
    """
    Scripted routers before a replica set that belongs to another ground.

    @param topology: C{"sharded"} or C{"load-balanced"}.
    """

    def __init__(self, deployment: Deployment, topology: str, auth: bool) -> None:
        super().__init__(deployment, topology, auth)
        from twisted.internet import reactor

        self._reactor: Any = reactor
        self._last = self.primary()
        services = [ObjectId(), ObjectId()]
        balanced = topology == "load-balanced"
        # The second is that of clients that may use several mongos: a load
        # balancer before two of them, or the other mongos.
        self._routers = [
            ScriptedRouter(self._backend, services[:count] if balanced else (), reactor)
            for count in (1, 2)
        ]
        for router in self._routers:
            self._wait_for(router.start)

    def _wait_for(self, start: Callable[[], Any]) -> None:
        blockingCallFromThread(self._reactor, lambda: Deferred.fromCoroutine(start()))

    def _backend(self) -> Address:
        """The primary, as far as anybody knows."""
        found = self.client.primary
        if found is not None:
            self._last = (found[0], int(found[1] or 0))
        return self._last

    def uri(self, *, direct: bool = False, multiple: bool = False) -> str:
        """
        See L{Ground.uri}.
        """
        addresses = [router.address for router in self._routers]
        if self.facts.topology == "load-balanced":
            return self._uri_of([addresses[multiple]], loadBalanced="true")
        return self._uri_of(addresses if multiple and not direct else addresses[:1])

    def servers(self, multiple: bool) -> int:
        """
        See L{Ground.servers}.
        """
        return 2 if multiple and self.facts.topology == "sharded" else 1

    def set_fail_point(self, command: Mapping[str, Any], address: Address) -> None:
        """
        Switch a fail point on: whatever router is meant, it is the server's.
        """
        super().set_fail_point(command, self.primary())

    def close(self) -> None:
        """
        End the routers and the internal clients.
        """
        for router in self._routers:
            self._wait_for(router.stop)
        self._close_clients()


_PARAMETERS: dict[str, object] = {"acceptApiVersion2": True}


@dataclass(frozen=True)
class _Kind:
    """
    A deployment that can be started.

    @ivar make: starts it.
    @ivar before: of a scripted one, what it stands before.
    """

    topology: str
    auth: bool
    make: Callable[..., Deployment]
    before: _Kind | None = None

    def start(self, binary: str | None) -> Deployment:
        """
        Start it, with the parameters that some tests want where the server
        knows them.
        """
        auth = Credentials() if self.auth else None
        try:
            return self.make(binary=binary, auth=auth, cache_gb=0.25, parameters=_PARAMETERS)
        except ServerFailed:
            return self.make(binary=binary, auth=auth, cache_gb=0.25)


_SET = _Kind("replicaset", False, partial(replica_set, 3))
_SECURE_SET = _Kind("replicaset", True, replica_set)
_SINGLE = _Kind("single", False, standalone)
_KINDS = (
    _SET,
    _SINGLE,
    _SECURE_SET,
    _Kind("single", True, standalone),
    *(
        _Kind(topology, each.auth, each.make, each)
        for each in (_SET, _SECURE_SET)
        for topology in ("sharded", "load-balanced")
    ),
)


class Fleet:
    """
    The deployments, each started when it is first needed.

    @param binaries: the C{mongod}s to run; a case runs on the first that
        satisfies it.  L{txmongokit.testing.find_mongod}'s by default.
    @param topology: the only one to have, as requirements call it.
    """

    def __init__(self, binaries: Sequence[str] = (), topology: str | None = None) -> None:
        self._kinds = [each for each in _KINDS if topology in (None, each.topology)]
        self._binaries: Sequence[str | None] = binaries or (None,)
        self._grounds: dict[tuple[str | None, _Kind], Ground] = {}
        self._known: dict[str | None, Facts] = {}

    def place(self, *requirements: Sequence[Mapping[str, Any]] | None) -> Ground | str:
        """
        The first deployment that satisfies all lists of requirements.

        @return: it, or what the first server lacks.  Blocks while it starts.
        """
        missing = ""
        for binary in self._binaries:
            reasons = []
            for kind in self._kinds:
                facts = self._facts(binary, kind)
                lacking = [reason for each in requirements if (reason := unmet(each, facts))]
                if not lacking:
                    return self._ground(binary, kind)
                reasons.append(max(lacking, key=len))
            missing = missing or min(reasons, key=len)
        return missing

    def _facts(self, binary: str | None, kind: _Kind) -> Facts:
        """
        What a deployment is, or would be.
        """
        if (binary, kind) in self._grounds:
            return self._grounds[binary, kind].facts
        if binary not in self._known:
            # The cheapest to start tells the version.
            self._known[binary] = self._ground(binary, _SINGLE).facts
        known = self._known[binary]
        return Facts(known.version, kind.topology, kind.auth, known.parameters)

    def _ground(self, binary: str | None, kind: _Kind) -> Ground:
        ground = self._grounds.get((binary, kind))
        if ground is None:
            if kind.before is not None:
                deployment = self._ground(binary, kind.before).deployment
                ground = RoutedGround(deployment, kind.topology, kind.auth)
            else:
                ground = Ground(kind.start(binary), kind.topology, kind.auth)
            self._grounds[binary, kind] = ground
        return ground

    def close(self) -> None:
        """
        End them all.
        """
        grounds, self._grounds = self._grounds, {}
        # Those that stand before others end first.
        for ground in reversed(grounds.values()):
            try:
                ground.close()
            except PyMongoError:
                ground.deployment.close()
