"""
The named things of a test: clients, databases, collections, sessions, saved
results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.server_api import ServerApi
from twisted.internet.defer import Deferred, succeed

from tests.spec.cursors import CursorEntity
from tests.spec.deployments import Ground
from tests.spec.events import Recorder
from tests.spec.logs import LogBook, level_name
from tests.spec.matching import Malformed, operator
from tests.spec.options import database_options, transaction_options
from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.gridfs import GridFSBucket

__all__ = ["ClientEntity", "Entities", "SessionEntity", "Thread", "Unavailable"]


# The least that there is.
_HASTE = 500


class Unavailable(Exception):
    """
    The case needs something that cannot be had here; it is skipped.
    """


@dataclass
class ClientEntity:
    """
    A client under test and what watches it.
    """

    pool: ConnectionPool
    recorder: Recorder
    logs: LogBook | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """
        The log messages so far.
        """
        return [] if self.logs is None else self.logs.messages


@dataclass
class SessionEntity:
    """
    An explicit session.  Its C{lsid} is remembered beyond its end.
    """

    session: Any
    lsid: Mapping[str, Any]
    server_session: Any


class Thread:
    """
    Operations that run one after the other, beside the test's own.
    """

    def __init__(self) -> None:
        self._tail: Deferred[Any] = succeed(None)

    def run(self, operation: Callable[[], Deferred[Any]]) -> None:
        """
        Run an operation when those before it are done.
        """
        self._tail.addCallback(lambda _: operation())

    def join(self) -> Deferred[Any]:
        """
        @return: fires when all are done; fails as the first that failed.
        """
        tail, self._tail = self._tail, succeed(None)
        return tail


class Entities:
    """
    The entity map of one case.

    @param ground: where the clients connect to.
    @param hasty: whether clients look at their servers often, unless the test
        says how often; allowed for tests with fail points.
    """

    def __init__(self, ground: Ground, hasty: bool = False) -> None:
        self._ground = ground
        self._hasty = hasty
        self._entities: dict[str, tuple[str, Any]] = {}
        self._makers: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "client": self._client,
            "database": self._database,
            "collection": self._collection,
            "session": self._session,
            "bucket": self._bucket,
            "thread": lambda spec: Thread(),
        }

    def add(self, name: str, kind: str, value: Any) -> None:
        """
        Name something.

        @raise Malformed: the name is taken.
        """
        if name in self._entities:
            raise Malformed(f"there is an entity {name!r} already")
        self._entities[name] = (kind, value)

    def kind(self, name: str) -> str:
        """
        What a name stands for.

        @raise Malformed: for nothing.
        """
        if name not in self._entities:
            raise Malformed(f"there is no entity {name!r}")
        return self._entities[name][0]

    def get(self, name: str, kind: str) -> Any:
        """
        What has a name.

        @raise Malformed: nothing has, or something of another kind.
        """
        actual = self.kind(name)
        if actual != kind:
            raise Malformed(f"the entity {name!r} is a {actual}, not a {kind}")
        return self._entities[name][1]

    def of_kind(self, kind: str) -> list[Any]:
        """
        All entities of a kind.
        """
        return [value for each, value in self._entities.values() if each == kind]

    def value(self, name: str) -> Any:
        """A BSON entity's value."""
        return self.get(name, "value")

    def lsid(self, name: str) -> Mapping[str, Any]:
        """A session entity's C{lsid}."""
        lsid: Mapping[str, Any] = self.get(name, "session").lsid
        return lsid

    def save(self, name: str, result: Any) -> None:
        """
        Name an operation's result.
        """
        kind = "value"
        if isinstance(result, CursorEntity):
            kind = "cursor"
        elif isinstance(result, Collection):
            kind = "collection"
        self.add(name, kind, result)

    def create(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """
        Make entities as C{createEntities} says.

        @raise Malformed: it cannot be understood.
        @raise Unavailable: it needs client-side encryption or tracing.
        """
        for item in specs:
            ((kind, spec),) = item.items()
            if kind == "clientEncryption" or "autoEncryptOpts" in spec:
                raise Unavailable("needs CSFLE")
            maker = self._makers.get(kind)
            if maker is None:
                raise Malformed(f"unknown kind of entity: {kind}")
            self.add(spec["id"], kind, maker(spec))

    def _client(self, spec: Mapping[str, Any]) -> ClientEntity:
        if "observeTracingMessages" in spec:
            raise Unavailable("needs OpenTelemetry, which the client has not")
        options = dict(spec.get("uriOptions", {}))
        if self._hasty:
            options.setdefault("heartbeatFrequencyMS", _HASTE)
        if any(operator(value) for value in options.values()):
            raise Unavailable("needs credentials of a cloud provider")
        stored = defaultdict(list)
        for item in spec.get("storeEventsAsEntities", ()):
            self.add(item["id"], "value", [])
            for name in item["events"]:
                stored[name[0].lower() + name[1:]].append(self.value(item["id"]))
        recorder = Recorder(
            spec.get("observeEvents", ()),
            spec.get("ignoreCommandMonitoringEvents", ()),
            spec.get("observeSensitiveCommands", False),
            stored,
        )
        if "serverApi" in spec:
            options["server_api"] = _server_api(spec["serverApi"])
        components = spec.get("observeLogMessages")
        logs = None
        if components is not None:
            levels = {name: level_name(level) for name, level in components.items()}
            logs = LogBook(levels)
            options["log_levels"] = levels
        options["log_levels"] = components
        try:
            pool = ConnectionPool(
                self._ground.uri(
                    direct=bool(options.get("directConnection")),
                    multiple=bool(spec.get("useMultipleMongoses")),
                ),
                event_listeners=[recorder],
                **options,
            )
        except BaseException:
            if logs is not None:
                logs.stop()
            raise
        # Tests take it that a client begins to watch its servers when it is made.
        pool.aconnect().addErrback(lambda failure: None)
        return ClientEntity(pool, recorder, logs)

    def _database(self, spec: Mapping[str, Any]) -> Any:
        client = self.get(spec["client"], "client")
        return client.pool.get_database(
            spec["databaseName"], **database_options(spec.get("databaseOptions"))
        )

    def _collection(self, spec: Mapping[str, Any]) -> Any:
        database = self.get(spec["database"], "database")
        return database.get_collection(
            spec["collectionName"], **database_options(spec.get("collectionOptions"))
        )

    def _session(self, spec: Mapping[str, Any]) -> SessionEntity:
        client = self.get(spec["client"], "client")
        options = database_options(spec.get("sessionOptions"))
        if "default_transaction_options" in options:
            options["default_transaction_options"] = transaction_options(
                options["default_transaction_options"]
            )
        if "default_timeout_ms" in options:
            options["default_timeout"] = options.pop("default_timeout_ms") / 1000
        if "snapshot_time" in options:
            options["snapshot_time"] = self.value(options["snapshot_time"])
        session = client.pool.start_session(**options)
        return SessionEntity(session, session.session_id, session.state.server_session)

    def _bucket(self, spec: Mapping[str, Any]) -> Any:
        options = database_options(spec.get("bucketOptions"))
        return GridFSBucket(self.get(spec["database"], "database"), **options)

    def stop_watching(self) -> None:
        """
        Record no more events and log messages.
        """
        for client in self.of_kind("client"):
            client.recorder.stop()
            if client.logs is not None:
                client.logs.stop()

    async def close(self) -> None:
        """
        Close cursors, end sessions, close clients.
        """
        self.stop_watching()
        for cursor in self.of_kind("cursor"):
            await cursor.close()
        for entity in self.of_kind("session"):
            await entity.session.end_session()
        for client in self.of_kind("client"):
            await client.pool.close()


def _server_api(spec: Mapping[str, Any]) -> ServerApi:
    try:
        return ServerApi(
            spec["version"],
            strict=spec.get("strict"),
            deprecation_errors=spec.get("deprecationErrors"),
        )
    except ValueError as error:
        raise Malformed(str(error)) from None
