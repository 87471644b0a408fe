"""
The client: a pool of connections to a MongoDB deployment.

This is the only place where the layers are put together.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Self, overload
from urllib.parse import quote

from bson.codec_options import CodecOptions, TypeRegistry
from bson.objectid import ObjectId
from bson.timestamp import Timestamp
from pymongo.client_session import (  # type: ignore[attr-defined]  # documented, not exported
    TransactionOptions,
)
from pymongo.driver_info import DriverInfo
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.server_description import ServerDescription
from pymongo.server_type import SERVER_TYPE
from pymongo.topology_description import TopologyDescription
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from txmongokit._net.connector import Connector, EndpointFactory
from txmongokit._net.executor import Executor
from txmongokit._net.logs import StructuredLog
from txmongokit._net.logs import log_levels as parse_log_levels
from txmongokit._net.observation import Observer
from txmongokit._net.srv import SrvResolver
from txmongokit._net.topology import Topology
from txmongokit._net.tracing import SessionTrace, make_tracing, tracing_options
from txmongokit._sansio.commands.admin import EndSessions
from txmongokit._sansio.commands.base import Command, CommandOptions
from txmongokit._sansio.transactions import ServerSessionPool, SessionState, admitted
from txmongokit.credentials import WITH_PASSWORD
from txmongokit.database import Database
from txmongokit.deployment import Deployment
from txmongokit.errors import ConfigurationError, InvalidOperation, PyMongoError
from txmongokit.interfaces import IOperationRunner
from txmongokit.legacy import deprecated
from txmongokit.options import ClientOptions, parse_options
from txmongokit.protocol import MongoProtocol
from txmongokit.sessions import ClientSession
from txmongokit.types import Address, format_address

__all__ = [
    "AsyncMongoClient",
    "ConnectionPool",
    "MongoClient",
    "MongoConnection",
    "MongoConnectionPool",
    "lazyMongoConnection",
    "lazyMongoConnectionPool",
]

if TYPE_CHECKING:
    # Only this one has defaults before Python 3.13.
    from typing_extensions import TypeVar

    DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any], default=dict[str, Any])
else:
    from typing import TypeVar

    DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])

OtherT = TypeVar("OtherT", bound=Mapping[str, Any])
ResultT = TypeVar("ResultT")

# How long disconnect() lets the server take for forgetting our sessions.
_FAREWELL = 1.0
# Sessions in one endSessions command (sessions specification).
_ENDED_AT_ONCE = 10_000


@implementer(IOperationRunner)
class ConnectionPool(Deployment[DocumentT]):
    """
    A MongoDB client.

    Nothing is connected before the first operation.  Operations wait for a
    suitable server (C{serverSelectionTimeoutMS}), a connection
    (C{connectTimeoutMS}, C{waitQueueTimeoutMS}) and then for the reply, as
    long as C{timeoutMS} or C{socketTimeoutMS} allow and the server is seen
    alive.

    Databases are attributes or items: C{pool.shop}, C{pool["shop"]}.

    @param uri: a connection string, or C{host:port}.
    @param pool_size: the most connections to each server; without it,
        C{maxPoolSize}, which is 100 by default.
    @param ssl_context_factory: replaces the C{tls*} options; it alone then
        decides what is verified.  What C{optionsForClientTLS} returns, an
        object with C{getContext()}, or a callable that is given a host's name
        and returns one of these.
    @param ping_interval: TxMongo's, in seconds: servers are watched every
        C{heartbeatFrequencyMS}.
    @param ping_timeout: TxMongo's, in seconds: they must answer within
        C{connectTimeoutMS}.
    @param reactor: the reactor to use instead of the global one.
    @param endpoint_factory: called with reactor, host and port to give the
        endpoint for each connection (proxies, tunnels, tests).
    @param driver: the library that wraps this client; see L{append_metadata}.
    @param resolver: looks up the names of a C{mongodb+srv} connection string: a
        L{twisted.internet.interfaces.IResolver}, by default one that asks the
        system's name servers.
    @param agent: asks for AWS keys and OIDC tokens over HTTP: an
        L{twisted.web.iweb.IAgent}, by default Twisted's own.
    @param log_levels: what is logged, as C{{"command": "debug"}}; the components
        are C{command}, C{topology}, C{serverSelection} and C{connection}.
        It overrides the environment's C{MONGODB_LOG_COMMAND} and so on.
    @param tracing: whether operations and commands have OpenTelemetry spans:
        C{True}, C{False}, or a dict with C{enabled} and
        C{query_text_max_length}.  It overrides the environment's
        C{OTEL_PYTHON_INSTRUMENTATION_MONGODB_ENABLED} and
        C{OTEL_PYTHON_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH}.
    @param kwargs: any URI option by name, which overrides the URI's.

    @raise txmongokit.errors.ConfigurationError: an option is unknown or
        its value is not allowed.
    @raise txmongokit.errors.InvalidURI: C{uri} cannot be read.
    """

    def __init__(
        self,
        uri: str = "mongodb://127.0.0.1:27017",
        pool_size: int | None = None,
        ssl_context_factory: Any = None,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        *,
        reactor: Any = None,
        endpoint_factory: EndpointFactory | None = None,
        resolver: Any = None,
        agent: Any = None,
        log_levels: Mapping[str, str] | None = None,
        tracing: bool | Mapping[str, Any] | None = None,
        driver: DriverInfo | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = _renamed(kwargs, pool_size, ping_interval, ping_timeout)
        if reactor is None:
            from twisted.internet import reactor
        client_options = parse_options(uri, **kwargs)
        self._uri = uri
        self._lent: Deferred[MongoProtocol] | None = None
        self._lent_ones: list[MongoProtocol] = []
        self._ssl_context_factory = ssl_context_factory
        self._client_options = client_options
        self._reactor = reactor
        self._connector = Connector(
            reactor, client_options, ssl_context_factory, endpoint_factory, agent
        )
        if driver is not None:
            self._connector.append_metadata(driver)
        topology_id = ObjectId()
        levels = parse_log_levels(log_levels, os.environ)
        log = StructuredLog(levels, os.environ)
        self._tracing = make_tracing(tracing_options(tracing, os.environ))
        observer = Observer(client_options.event_listeners, topology_id, log, self._tracing)
        random = Random()
        self._topology = Topology(
            reactor,
            client_options,
            self._connector,
            observer,
            random,
            SrvResolver(reactor, random, resolver),
        )
        self._sessions = ServerSessionPool(lambda: uuid.uuid4().bytes)
        self._executor = Executor(
            reactor, client_options, self._topology, self._sessions, observer, random
        )
        self.options = CommandOptions(
            codec_options=client_options.codec_options,
            read_preference=client_options.read_preference,
            read_concern=client_options.read_concern,
            write_concern=client_options.write_concern,
            timeout=client_options.timeout,
        )

    def __repr__(self) -> str:
        options = self._client_options
        seeds = ", ".join(format_address(seed) for seed in options.seeds)
        if options.srv is not None:
            seeds = f"mongodb+srv://{options.srv.host}"
        return f"<ConnectionPool {seeds}>"

    def __getitem__(self, name: str) -> Database[DocumentT]:
        return Database(self, name)

    def __getattr__(self, name: str) -> Database[DocumentT]:
        if name.startswith("_"):
            raise AttributeError(
                f"ConnectionPool has no attribute {name!r}; for a database of that name "
                f"write pool[{name!r}]"
            )
        return self[name]

    @property
    def uri(self) -> str:
        """
        The connection string as it was given, password included: never log it.
        """
        return self._uri

    @property
    def auth_creds(self) -> dict[str, tuple[str, str | None, str]]:
        """
        Name, password and mechanism of the user, by the database that knows
        him: never log it.
        """
        credentials = self._connector.credentials
        if credentials is None:
            return {}
        user = credentials.username or "", credentials.password, credentials.mechanism
        return {credentials.source: user}

    @property
    def ssl_context_factory(self) -> Any:
        """
        What the client was given to replace the C{tls*} options.
        """
        return self._ssl_context_factory

    @property
    def ping_interval(self) -> float:
        """
        How often servers are looked at, in seconds.
        """
        return self._client_options.heartbeat_frequency

    @property
    def ping_timeout(self) -> float:
        """
        How long they may take to answer, in seconds; 0 for as long as they
        like.
        """
        return self._client_options.connect_timeout or 0.0

    @property
    def cluster_time(self) -> Mapping[str, Any] | None:
        """
        The latest C{$clusterTime} that a server has told.
        """
        return self._topology.cluster_time

    @property
    def client_options(self) -> ClientOptions:
        """
        The connection string and keyword arguments, parsed.
        """
        return self._client_options

    @property
    def topology_description(self) -> TopologyDescription:
        """
        What is known of the deployment just now.
        """
        return self._topology.description

    @property
    def codec_options(self) -> CodecOptions[Any]:
        """
        How documents are decoded, where a database does not say otherwise.
        """
        return self.options.codec_options

    @property
    def read_concern(self) -> ReadConcern:
        """
        The read concern that databases inherit.
        """
        return self.options.read_concern

    @property
    def write_concern(self) -> WriteConcern:
        """
        The write concern that databases inherit.
        """
        return self.options.write_concern

    @property
    def read_preference(self) -> Any:
        """
        The read preference that databases inherit.
        """
        return self.options.read_preference

    @property
    def nodes(self) -> frozenset[Address]:
        """
        The servers that are known to be there just now.
        """
        known = self.topology_description.server_descriptions()
        return frozenset(address for address, each in known.items() if each.is_server_type_known)

    def _of_type(self, server_type: int) -> set[Address]:
        known = self.topology_description.server_descriptions()
        return {address for address, each in known.items() if each.server_type == server_type}

    @property
    def primary(self) -> Address | None:
        """
        The replica set's primary, C{None} where none is known just now.
        """
        return next(iter(self._of_type(SERVER_TYPE.RSPrimary)), None)

    @property
    def secondaries(self) -> set[Address]:
        """
        The replica set's secondaries, as far as they are known just now.
        """
        return self._of_type(SERVER_TYPE.RSSecondary)

    @property
    def arbiters(self) -> set[Address]:
        """
        The replica set's arbiters, as far as they are known just now.
        """
        return self._of_type(SERVER_TYPE.RSArbiter)

    async def _writable(self) -> ServerDescription:
        await self.aconnect()
        limit = self._client_options.server_selection_timeout
        server = await self._topology.select(True, ReadPreference.PRIMARY, limit)
        return self.topology_description.server_descriptions()[server.address]

    @property
    def address(self) -> Deferred[Address]:
        """
        @return: fires with host and port of the server that writes go to; fails
            with L{txmongokit.errors.InvalidOperation} where there are several.
        """

        def only(found: ServerDescription) -> Any:
            if found.server_type == SERVER_TYPE.Mongos and len(self.nodes) > 1:
                raise InvalidOperation("several mongos share the operations: use nodes")
            return found.address

        return Deferred.fromCoroutine(self._writable()).addCallback(only)

    @property
    def is_primary(self) -> Deferred[bool]:
        """
        @return: fires with whether there is a server that writes go to.
        """
        found = Deferred.fromCoroutine(self._writable())
        return found.addCallback(lambda server: bool(server.is_writable))

    @property
    def is_mongos(self) -> Deferred[bool]:
        """
        @return: fires with whether that is a mongos.
        """
        found = Deferred.fromCoroutine(self._writable())
        return found.addCallback(lambda server: server.server_type == SERVER_TYPE.Mongos)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.disconnect()

    @overload
    def get_database(
        self, name: str | None = None, *, codec_options: CodecOptions[OtherT], **options: Any
    ) -> Database[OtherT]: ...

    @overload
    def get_database(
        self, name: str | None = None, *places: Any, **options: Any
    ) -> Database[DocumentT]: ...

    def get_database(self, name: str | None = None, *places: Any, **options: Any) -> Database[Any]:
        """
        A database, with other options than the client's where given.

        @param name: by default the one that the connection string names.
        @param places: C{codec_options}, C{read_preference}, C{write_concern}
            and C{read_concern}, in any order.
        @param options: the same by their names, and C{timeout}.
        """
        if name is None:
            return self.get_default_database(None, *places, **options)
        return Database(self, name, *places, **options)

    @overload
    def get_default_database(
        self, default: str | None = None, *, codec_options: CodecOptions[OtherT], **options: Any
    ) -> Database[OtherT]: ...

    @overload
    def get_default_database(
        self, default: str | None = None, *places: Any, **options: Any
    ) -> Database[DocumentT]: ...

    def get_default_database(
        self, default: str | None = None, *places: Any, **options: Any
    ) -> Database[Any]:
        """
        The database that the connection string names; for the rest see
        L{get_database}.

        @raise ConfigurationError: it names none and C{default} is C{None}.
        """
        name = self._client_options.default_database or default
        if name is None:
            raise ConfigurationError(
                "the connection string names no default database: add /name after the hosts"
            )
        return Database(self, name, *places, **options)

    # IOperationRunner

    def run(self, command: Command[Any], session: SessionState | None = None) -> Deferred[Any]:
        """
        See L{IOperationRunner.run}.
        """
        try:
            session = admitted(self, command, session)
            self._topology.start()
        except PyMongoError:
            return fail()
        if self._tracing is not None:
            return self._tracing.run(self._executor.run, command, session)
        return self._executor.run(command, session)

    def run_in_order(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> Deferred[list[Any]]:
        """
        See L{IOperationRunner.run_in_order}.
        """
        try:
            self._topology.start()
        except PyMongoError:
            return fail()
        if self._tracing is None:
            return self._executor.run_in_order(self._each_admitted(commands, session), session)

        async def one_by_one() -> list[Any]:
            # Each has a span of its own.
            return [await self.run(command, session) for command in commands]

        return Deferred.fromCoroutine(one_by_one())

    def _each_admitted(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> Iterator[Command[Any]]:
        for command in commands:
            admitted(self, command, session)
            yield command

    def stream(
        self,
        command: Command[Any],
        session: SessionState | None,
        on_result: Callable[[Any], Deferred[None] | None],
    ) -> Deferred[None]:
        """
        See L{IOperationRunner.stream}.
        """
        try:
            session = admitted(self, command, session)
            self._topology.start()
        except PyMongoError:
            return fail()
        if self._tracing is None:
            return self._executor.stream(command, session, on_result)

        def stream(command: Command[Any], session: SessionState | None) -> Deferred[None]:
            return self._executor.stream(command, session, on_result)

        return self._tracing.run(stream, command, session)

    def seconds(self) -> float:
        """
        See L{IOperationRunner.seconds}.
        """
        return self._executor.seconds()

    def sleep(self, seconds: float) -> Deferred[None]:
        """
        See L{IOperationRunner.sleep}.
        """
        return self._executor.sleep(seconds)

    def soon(self, function: Callable[[], object]) -> None:
        """
        See L{IOperationRunner.soon}.
        """
        self._reactor.callFromThread(function)

    def deadline(self, options: CommandOptions) -> float | None:
        """
        See L{IOperationRunner.deadline}.
        """
        return self._executor.deadline(options)

    def take_session(self, **options: Any) -> SessionState:
        """
        See L{IOperationRunner.take_session}; users call L{start_session}.
        """
        return self._executor.take_session(**options)

    def release_session(self, session: SessionState) -> None:
        """
        See L{IOperationRunner.release_session}.
        """
        self._executor.release_session(session)

    def start_session(
        self,
        causal_consistency: Any = None,
        default_transaction_options: Any = None,
        snapshot: bool = False,
        *,
        snapshot_time: Timestamp | None = None,
        default_timeout: float | None = None,
    ) -> ClientSession:
        """
        Start an explicit session: for causal consistency, transactions and
        snapshots.  It may fail when it is not used for a minute or longer.

        @param causal_consistency: TxMongo has the default options of
            transactions in this place, and may.  Whether its reads see what it has read and
            written; by default yes, except in a snapshot session.
        @param default_transaction_options: PyMongo's C{TransactionOptions}.
        @param snapshot: whether all its reads are of one point in time: the
            first read's, or C{snapshot_time}.
        @param snapshot_time: another session's C{snapshot_time}.
        @param default_timeout: seconds for each commit, abort, end and
            C{with_transaction}, instead of the client's C{timeoutMS}; 0 for
            no limit.

        @raise ConfigurationError: C{snapshot} and C{causal_consistency}
            exclude one another, or a value is not allowed.
        @raise TypeError: a value is of the wrong type.
        """
        if isinstance(causal_consistency, TransactionOptions):
            # TxMongo has them in the first place.
            causal_consistency, default_transaction_options = None, causal_consistency
        state = self.take_session(
            client=self,
            explicit=True,
            snapshot_time=snapshot_time,
            default_timeout=default_timeout,
            causal_consistency=causal_consistency,
            snapshot=snapshot,
            default_transaction_options=default_transaction_options,
        )
        if self._tracing is not None:
            state.trace = SessionTrace(self._tracing)
        return ClientSession(self, state)

    def command(
        self,
        dbname: str,
        command: str | Mapping[str, Any],
        *,
        write_concern: WriteConcern | None = None,
        **options: Any,
    ) -> Deferred[dict[str, Any]]:
        """
        Run a command in a database, as TxMongo has it; see
        L{txmongokit.database.Database.command} for C{options}.

        @param write_concern: whose C{w=0} once meant that no reply was waited
            for; it is none of the command's own.
        """
        if write_concern is not None and not isinstance(write_concern, WriteConcern):
            raise TypeError(
                f"write_concern must be a WriteConcern, not {type(write_concern).__name__}"
            )
        return self[dbname].command(command, **options)

    def getprotocol(self) -> Deferred[MongoProtocol]:
        """
        A connection to the primary for whoever speaks MongoDB's messages
        himself.  It is logged in, apart from the client's own connections, the
        same at each call while it lasts, and closed with the client.

        @return: fires with a L{txmongokit.protocol.MongoProtocol}; fails as
            operations do.
        """
        lent = self._lent
        if lent is None:
            lent = self._lent = Deferred.fromCoroutine(self._lend())
            lent.addErrback(self._not_lent)
        return shared(lent)

    async def _lend(self) -> MongoProtocol:
        lent = MongoProtocol()
        await self.aconnect()
        limit = self._client_options.server_selection_timeout
        server = await self._topology.select(True, ReadPreference.PRIMARY, limit)
        connection = await self._connector.connect(server.address)
        lent.init_from_hello_response(connection.hello)
        lent.when_lost(self._forget_lent)
        connection.hand_over(lent)
        self._lent_ones.append(lent)
        return lent

    def _forget_lent(self) -> None:
        self._lent = None
        self._lent_ones.clear()

    def _not_lent(self, failure: Failure) -> Failure:
        self._lent = None
        return failure

    def getprotocols(self) -> list[MongoProtocol]:
        """
        The connections that L{getprotocol} has given and that are open.
        """
        return list(self._lent_ones)

    def aconnect(self) -> Deferred[None]:
        """
        Begin to watch the servers, as the first operation otherwise does.

        @return: has fired already, without waiting for any server; failed
            where the client was closed or an option's file cannot be used.
        """
        try:
            self._topology.start()
        except PyMongoError:
            return fail()
        return succeed(None)

    def append_metadata(self, driver_info: DriverInfo) -> None:
        """
        Name a library that wraps this client to servers, on connections
        made from now on.

        @raise ConfigurationError: one of its texts has a C{|}.
        """
        self._connector.append_metadata(driver_info)

    def authenticate(
        self,
        database: str,
        username: str | None,
        password: str | None,
        mechanism: str = "DEFAULT",
        properties: Mapping[str, Any] | None = None,
    ) -> Deferred[None]:
        """
        Log in as another user than the connection string's, on every
        connection: those there are end when their operations do.  Cursors
        that are open belong to the user before, and end in an error.

        @param database: the one that knows the user; whom none knows are
            looked for in C{$external}, whatever is given.
        @param username: C{None} where the mechanism finds out.
        @param properties: the mechanism's own: C{authMechanismProperties}.

        @return: fires with C{None} when a server has accepted the user; fails
            with L{txmongokit.errors.OperationFailure} where it refuses, and
            then, as when it is cancelled, nothing changes.
        """
        given = {
            "username": username,
            "password": password,
            "authsource": database if mechanism in WITH_PASSWORD else "$external",
            "authmechanism": mechanism,
            "authmechanismproperties": properties,
        }
        return Deferred.fromCoroutine(self._authenticate(given))

    async def _authenticate(self, given: Mapping[str, Any]) -> None:
        known = {name: value for name, value in given.items() if value is not None}
        credentials = parse_options("mongodb://localhost", **known).credentials
        if credentials is None:
            raise ConfigurationError("authenticate needs a user name: give one")
        await self.aconnect()
        limit = self._client_options.server_selection_timeout
        server = await self._topology.select(False, ReadPreference.NEAREST, limit)
        await self._connector.verify(server.address, credentials)
        self._connector.credentials = credentials
        self._topology.renew_connections()

    def disconnect(self) -> Deferred[None]:
        """
        End the sessions and close every connection.  Operations under way
        fail with L{txmongokit.errors.AutoReconnect}; the pool cannot be used
        again.

        @return: fires when the last connection is closed; never fails.
        """
        return Deferred.fromCoroutine(self._disconnect())

    close = aclose = disconnect

    async def _disconnect(self) -> None:
        ids = self._sessions.drain()
        options = replace(
            self.options, timeout=_FAREWELL, read_preference=ReadPreference.PRIMARY_PREFERRED
        )
        try:
            if ids and self._topology.has_servers:
                for first in range(0, len(ids), _ENDED_AT_ONCE):
                    some = ids[first : first + _ENDED_AT_ONCE]
                    await self._executor.run(EndSessions(some, options))
        except PyMongoError:
            pass  # The server forgets them by itself after a while.
        finally:
            self._topology.close()
        await self._connector.close()


class MongoConnection(ConnectionPool[DocumentT]):
    """
    A client for one server by host and port.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 27017,
        pool_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        super().__init__(f"mongodb://{shown}:{port}", pool_size, **kwargs)


class MongoClient(ConnectionPool[DocumentT]):
    """
    A client by the arguments of PyMongo's C{AsyncMongoClient}, and with its
    defaults: without C{uuidRepresentation} UUIDs are read as C{Binary}, and not
    written.

    @param host: a connection string, a host with or without port, or a list of
        hosts.
    @param port: of hosts without one.
    @param document_class: what documents are decoded to.
    @param tz_aware: whether dates have a time zone.
    @param connect: whether to begin to watch the servers at once, and not at
        the first operation.
    @param type_registry: bson's C{TypeRegistry}.
    @param kwargs: as L{ConnectionPool} has them.
    """

    HOST = "localhost"
    PORT = 27017

    def __init__(
        self,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        document_class: type[DocumentT] | None = None,
        tz_aware: bool | None = None,
        connect: bool | None = None,
        type_registry: TypeRegistry | None = None,
        **kwargs: Any,
    ) -> None:
        given = {
            "document_class": document_class,
            "tz_aware": tz_aware,
            "type_registry": type_registry,
        }
        kwargs.update({name: value for name, value in given.items() if value is not None})
        # TxMongo's clients write UUIDs as the standard has them; PyMongo's want to be told.
        kwargs.setdefault("codec_options", CodecOptions())
        super().__init__(
            _seed_list(self.HOST if host is None else host, self.PORT if port is None else port),
            **kwargs,
        )
        if connect:
            self._topology.start()

    def aclose(self) -> Deferred[None]:
        """
        L{disconnect} by another of PyMongo's names.
        """
        return self.disconnect()


AsyncMongoClient = MongoClient


def shared(one: Deferred[ResultT]) -> Deferred[ResultT]:
    """
    One of several that wait for the same; cancelling one ends its wait only.
    """
    other: Deferred[ResultT] = Deferred()

    def tell(result: Any) -> Any:
        if not other.called:
            other.callback(result)
        return None if isinstance(result, Failure) else result

    one.addBoth(tell)
    return other


def _renamed(
    kwargs: dict[str, Any], pool_size: int | None, interval: float | None, timeout: float | None
) -> dict[str, Any]:
    """TxMongo's options of its connections by the names that they have now."""
    if pool_size is not None:
        if type(pool_size) is not int or pool_size < 1:
            raise ConfigurationError(
                f"pool_size={pool_size!r} must be a whole number of at least 1"
            )
        kwargs["maxpoolsize"] = pool_size
    given = {
        "ping_interval": (interval, "heartbeatFrequencyMS", 1000),
        "ping_timeout": (timeout, "connectTimeoutMS", 1000),
        "retry_delay": (kwargs.pop("retry_delay", None), "", 0),
        "max_delay": (kwargs.pop("max_delay", None), "", 0),
    }
    for name, (value, option, factor) in given.items():
        if value is None:
            continue
        if not isinstance(value, (int, float)) or value < 0:
            raise ConfigurationError(f"{name}={value!r} must be a number of seconds")
        new = option or "heartbeatFrequencyMS, after which a lost server is tried again"
        deprecated(name, new, 4)
        if option:
            kwargs.setdefault(option.lower(), max(500, int(value * factor)))
    return kwargs


def _seed_list(host: str | Sequence[str], port: int) -> str:
    """Hosts and a port as a connection string."""
    if type(port) is not int:
        raise TypeError(f"port must be a whole number, not {type(port).__name__}")
    hosts = [host] if isinstance(host, str) else list(host)
    if len(hosts) == 1 and "://" in hosts[0]:
        return hosts[0]
    return "mongodb://" + ",".join(_with_port(each, port) for each in hosts)


def _with_port(host: str, port: int) -> str:
    if host.endswith(".sock") or re.search(r":\d+\Z", host.rpartition("]")[2] or host):
        return quote(host, safe=":[]@%") if host.endswith(".sock") else host
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port}"


MongoConnectionPool = MongoConnection
lazyMongoConnection = MongoConnection
lazyMongoConnectionPool = MongoConnection
