"""
Reading from copies: writes go to one deployment, reads to others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from zlib import crc32

from bson.codec_options import CodecOptions
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Primary, ReadPreference
from pymongo.server_type import SERVER_TYPE
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred, DeferredList, fail, gatherResults, maybeDeferred
from zope.interface import implementer

from txmongokit._masterslave.requests import Request, Requests
from txmongokit._masterslave.servers import preferred_servers
from txmongokit._masterslave.sessions import MasterSession, SplitSession
from txmongokit._masterslave.staleness import Staleness
from txmongokit._pymongo import RETRYABLE_CODES
from txmongokit._sansio.commands.admin import ListCollections
from txmongokit._sansio.commands.base import Command, CommandOptions, RunCommand
from txmongokit._sansio.commands.indexes import ListIndexes
from txmongokit._sansio.commands.read import KillCursors
from txmongokit._sansio.transactions import SessionState, bound_session
from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.deployment import Deployment
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    time_exceeded,
)
from txmongokit.interfaces import IOperationRunner
from txmongokit.sessions import ClientSession
from txmongokit.types import Address, ConnectionInfo, format_address

__all__ = ["CursorCloser", "MasterSlaveConnection"]

if TYPE_CHECKING:
    # Only this one has defaults before Python 3.13.
    from typing_extensions import TypeVar

    DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any], default=dict[str, Any])
else:
    from typing import TypeVar

    DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])

# What PyMongo calls the master where it numbers connections: slaves are 0, 1, ...
_MASTER = -1
_LASTERROR_OPTIONS = ("w", "j", "wtimeout", "fsync")
# Commands that change nothing, in lower case; two more depend on their arguments.
_READING = frozenset(
    {
        "buildinfo",
        "collstats",
        "count",
        "datasize",
        "dbhash",
        "dbstats",
        "distinct",
        "explain",
        "find",
        "hello",
        "hostinfo",
        "listcollections",
        "listdatabases",
        "listindexes",
        "ping",
        "serverstatus",
    }
)
# For looking into a command that is not sent yet.
_NOWHERE = ConnectionInfo(("", None), SERVER_TYPE.Unknown)
_LISTINGS = (ListCollections, ListIndexes)
_AUTHENTICATION_FAILED = 18
_OVERLOADED = "SystemOverloadedError"
# Seconds between two measurements of the slaves' staleness.
_LONGEST_INTERVAL = 10.0
# What a measurement may take, nobody can promise less than.
_LEAST_STALENESS = 0.5
_STALE = ("master", "fail")


class _FromSlaves(Primary):
    """
    The read preference of whoever has given none: slaves are read from.  Where
    there are none it is C{PRIMARY}, so that the master takes it as that.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "FromSlaves()"


class CursorCloser:
    """
    Closes cursors that nobody needs: what is done unless
    L{MasterSlaveConnection.set_cursor_manager} says otherwise.

    @param connection: the connection that holds them.
    """

    def __init__(self, connection: ConnectionPool[Any]) -> None:
        self.connection = connection

    def close(self, cursor_id: int) -> Deferred[None]:
        """
        Tell the servers of the connection that a cursor is not needed.

        @return: fires when they were told, or could not be; never fails.

        @raise TypeError: C{cursor_id} is no whole number.
        """
        _check_cursor_id(cursor_id)
        options = self.connection.options
        # Servers tell cursors by their numbers alone.
        commands = [
            KillCursors("admin.$cmd.aggregate", [cursor_id], address, options)
            for address in sorted(self.connection.nodes, key=format_address)
        ]
        # A session that is bound here may be another client's.
        told = [Context().run(self.connection.run, each) for each in commands]
        return DeferredList(told, consumeErrors=True).addCallback(lambda _: None)


class _Slave:
    """
    One of the connections that are read from.

    @param bounded: whether those of its servers are measured, and no others,
        that C{pool} reads from by itself.
    """

    def __init__(self, number: int, pool: ConnectionPool[Any], bounded: bool) -> None:
        options = pool.client_options
        seeds = ", ".join(format_address(seed) for seed in options.seeds)
        self.number = number
        self.pool = pool
        self._bounded = bounded
        self.name = f"slave {number} ({seeds if options.srv is None else options.srv.host})"
        # For which description of the deployment and which preference what was found.
        self._found: tuple[Any, Any, bool] = (None, None, False)

    def suit(self, asked: CommandOptions, inherited: CommandOptions) -> CommandOptions:
        """
        What a command is run with here: what it has inherited gives way to
        what this connection was made with, and so does its own read preference
        where that may lead to servers that are not measured.
        """
        own = self.pool.options
        preference, concern = asked.read_preference, asked.read_concern
        if self._bounded or not preference.mode:
            preference = own.read_preference
        if concern is inherited.read_concern:
            concern = own.read_concern
        return replace(asked, read_preference=preference, read_concern=concern)

    def is_ready(self, options: CommandOptions) -> bool:
        """Whether a server is known to be there for it."""
        description, preference = self.pool.topology_description, options.read_preference
        if self._found[0] is not description or self._found[1] is not preference:
            found = description.has_readable_server(preference)
            self._found = description, preference, found
        return self._found[2]


@implementer(IOperationRunner)
class MasterSlaveConnection(Deployment[DocumentT]):
    """
    Performs all writes on a master, and distributes reads among slaves.

    Databases are attributes or items, as those of a
    L{txmongokit.connection.ConnectionPool} are, and everything that is got
    from them is used in the same way::

        connection = MasterSlaveConnection(
            ConnectionPool("mongodb://main/?replicaSet=rs0"),
            [ConnectionPool("mongodb://copy1"), ConnectionPool("mongodb://copy2")],
        )
        await connection.shop.orders.insert_one({"_id": 1})    # the master
        await connection.shop.orders.find_one({"_id": 1})      # a slave

    The slaves take turns.  One that cannot be reached, or is overloaded,
    leaves a read to the next; where all have failed, the read fails with
    L{txmongokit.errors.AutoReconnect}, which names each with its reason.  What
    a server says of the read itself (a wrong query, a missing privilege, its
    time limit) is an answer, and nobody else is asked.

    To the master go writes, pipelines with C{$out} or C{$merge}, commands,
    change streams, whatever belongs to a session or transaction, reads with
    the read preference C{PRIMARY} or the read concern C{linearizable}, lists
    of databases, and everything within a request: see L{start_request}.  To
    slaves go all other reads, lists of collections and indexes, and commands
    with a read preference other than C{PRIMARY}.  A cursor stays where it was
    opened.  The files of one GridFS bucket are all read from the same slave
    while that works, for no two slaves are equally far.

    Slaves may be members of the master's replica set (make them with
    C{read_preference=ReadPreference.SECONDARY}, or C{directConnection=True}),
    delayed members of it, or deployments of their own that C{twistd mongosync}
    keeps up to date.

    @param master: the connection for writes.
    @param slaves: those for reads, at least one.
    @param document_class: what documents are decoded to.
    @param tz_aware: whether dates have a time zone.
    @param max_staleness: how many seconds a slave may be behind the master; one
        that may be further behind, or of which nobody knows, is not read.
        C{None} for any number.  It is measured beside the reads: see
        L{lags}.  At least 0.5.  With it slaves are read by their own read
        preference only, whatever a read says: it is their servers that are
        measured.
    @param staleness_interval: seconds between two measurements; by default a
        quarter of C{max_staleness}, at most 10.
    @param when_stale: what becomes of reads when no slave is fresh enough:
        C{"master"} has them go to the master, C{"fail"} has them fail.

    @ivar options: what databases inherit from now on.

    @raise TypeError: C{master} is no L{ConnectionPool} or C{slaves} is no list
        of at least one.
    @raise ConfigurationError: an option's value is not allowed.
    """

    def __init__(
        self,
        master: ConnectionPool[Any],
        slaves: Sequence[ConnectionPool[Any]] = (),
        document_class: type[DocumentT] = dict,  # type: ignore[assignment]  # PyMongo's default
        tz_aware: bool = False,
        *,
        max_staleness: float | None = None,
        staleness_interval: float | None = None,
        when_stale: str = "master",
    ) -> None:
        _check_connections(master, slaves)
        self._master = master
        bounded = max_staleness is not None
        self._slaves = tuple(_Slave(number, pool, bounded) for number, pool in enumerate(slaves))
        self._requests = Requests()
        # Not every client that starts is to read from the same slave first.
        self._turn = random.randrange(len(self._slaves))
        self._closers: dict[ConnectionPool[Any], Any] | None = None
        self._stale_reads = _checked_choice("when_stale", when_stale, _STALE)
        self._staleness = _staleness(master, slaves, max_staleness, staleness_interval)
        inherited = master.options
        self._lasterror = dict(inherited.write_concern.document)
        self._safe = self._lasterror.get("w") != 0
        if not self._safe:
            del self._lasterror["w"]
        zone = inherited.codec_options.tzinfo if tz_aware else None
        self.options = replace(
            inherited,
            read_preference=_FromSlaves(),
            codec_options=inherited.codec_options.with_options(
                document_class=document_class, tz_aware=tz_aware, tzinfo=zone
            ),
        )

    def __repr__(self) -> str:
        slaves = ", ".join(repr(each.pool) for each in self._slaves)
        return f"<MasterSlaveConnection {self._master!r}, slaves {slaves}>"

    def __getitem__(self, name: str) -> Database[DocumentT]:
        return Database(self, name)

    def __getattr__(self, name: str) -> Database[DocumentT]:
        if name.startswith("_"):
            raise AttributeError(
                f"MasterSlaveConnection has no attribute {name!r}; for a database of that name "
                f"write connection[{name!r}]"
            )
        return self[name]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.disconnect()

    @property
    def master(self) -> ConnectionPool[Any]:
        """
        The connection for writes.
        """
        return self._master

    @property
    def slaves(self) -> list[ConnectionPool[Any]]:
        """
        The connections for reads.
        """
        return [each.pool for each in self._slaves]

    # What databases inherit.

    @property
    def document_class(self) -> type[Any]:
        """
        What documents are decoded to, by databases that are asked for from now
        on.  It may be set.
        """
        found: type[Any] = self.options.codec_options.document_class
        return found

    @document_class.setter
    def document_class(self, document_class: type[Any]) -> None:
        codec = self.options.codec_options.with_options(document_class=document_class)
        self.options = replace(self.options, codec_options=codec)

    @property
    def tz_aware(self) -> bool:
        """
        Whether dates have a time zone.
        """
        return self.options.codec_options.tz_aware

    @property
    def codec_options(self) -> CodecOptions[Any]:
        """
        How documents are decoded, where a database does not say otherwise.
        """
        return self.options.codec_options

    @property
    def read_preference(self) -> Any:
        """
        The read preference that databases inherit: it has slaves read from.
        """
        return self.options.read_preference

    @property
    def read_concern(self) -> ReadConcern:
        """
        The read concern of the master's reads; slaves have their own.
        """
        return self.options.read_concern

    @property
    def write_concern(self) -> WriteConcern:
        """
        The write concern that databases inherit: what L{safe} and
        L{set_lasterror_options} make of the master's.
        """
        return self.options.write_concern

    def get_database(
        self, name: str | None = None, *places: Any, **options: Any
    ) -> Database[DocumentT]:
        """
        A database, with other options than the connection's where given; see
        L{ConnectionPool.get_database}.
        """
        if name is None:
            return self.get_default_database(None, *places, **options)
        return Database(self, name, *places, **options)

    def get_default_database(
        self, default: str | None = None, *places: Any, **options: Any
    ) -> Database[DocumentT]:
        """
        The database that the master's connection string names; see
        L{ConnectionPool.get_default_database}.

        @raise ConfigurationError: it names none and C{default} is C{None}.
        """
        name = self._master.get_default_database(default).name
        return Database(self, name, *places, **options)

    # Writes: whether and how they are acknowledged.

    @property
    def safe(self) -> bool:
        """
        Whether writes are acknowledged.  It may be set; without it, whatever
        L{set_lasterror_options} was told, the write concern is C{w=0}, by which
        nobody hears of a write that fails.  It is for databases that are asked
        for from now on.
        """
        return self._safe

    @safe.setter
    def safe(self, safe: bool) -> None:
        if not isinstance(safe, bool):
            raise TypeError(f"safe must be True or False, not {type(safe).__name__}")
        self._acknowledge(safe, self._lasterror)

    def get_lasterror_options(self) -> dict[str, Any]:
        """
        What was set by L{set_lasterror_options}, or inherited from the master.
        """
        return dict(self._lasterror)

    def set_lasterror_options(self, **options: Any) -> None:
        """
        Say when a write counts as done, and have writes acknowledged.

        @param options: C{w}, a number of servers, C{"majority"} or a tag;
            C{j}, whether the journal must have it; C{wtimeout}, in
            milliseconds; C{fsync}.

        @raise ConfigurationError: there is no such option, or the options
            contradict one another.
        @raise TypeError: a value is of the wrong type.
        """
        _check_lasterror_options(options)
        if options.get("w") == 0:
            raise ConfigurationError(
                "with w=0 no write is acknowledged: set safe = False to have that"
            )
        self._acknowledge(True, {**self._lasterror, **options})

    def unset_lasterror_options(self, *options: str) -> None:
        """
        Forget what was set: these options, or all if none is named.  Writes
        are acknowledged as before.

        @raise ConfigurationError: there is no such option.
        """
        _check_lasterror_options(options)
        gone = options or _LASTERROR_OPTIONS
        left = {name: value for name, value in self._lasterror.items() if name not in gone}
        self._acknowledge(self._safe, left)

    def _acknowledge(self, safe: bool, lasterror: dict[str, Any]) -> None:
        concern = WriteConcern(**lasterror) if lasterror else WriteConcern()
        self.options = replace(self.options, write_concern=concern if safe else WriteConcern(w=0))
        self._safe, self._lasterror = safe, lasterror

    # Requests.

    def start_request(self) -> Request:
        """
        Begin a sequence of operations in which order matters: all of them go
        to the master, until L{end_request}.  Or for a block::

            with connection.start_request():
                await connection.shop.orders.insert_one({"_id": 1})
                await connection.shop.orders.find_one({"_id": 1})

        It is for this flow (a coroutine under C{Deferred.fromCoroutine}, a
        generator under C{inlineCallbacks}) and those that it starts meanwhile,
        not for others that run at the same time.  Requests may be nested; the
        last end counts.

        @return: a context manager; it need not be used.
        """
        self._requests.change(1)
        return Request(self.end_request)

    def end_request(self) -> None:
        """
        End what L{start_request} has begun.  Where there is no request,
        nothing happens.
        """
        self._requests.change(-1)

    def in_request(self) -> bool:
        """
        Whether this flow is in a request.
        """
        return self._requests.depth > 0

    # The whole.

    def database_names(self) -> Deferred[list[str]]:
        """
        The names of the master's databases.
        """
        return self.list_database_names()

    @property
    def lags(self) -> list[float | None]:
        """
        How many seconds each slave may be behind the master: C{None} where
        nobody knows, as without C{max_staleness}.
        """
        staleness = self._staleness
        return [None if staleness is None else staleness.lag(each.number) for each in self._slaves]

    def start_session(self, *arguments: Any, **options: Any) -> ClientSession:
        """
        Start an explicit session, in which everything goes to the master; see
        L{ConnectionPool.start_session}.
        """
        begun = self._master.start_session(*arguments, **options)
        return ClientSession(self, MasterSession(begun.state, self))

    def aconnect(self) -> Deferred[None]:
        """
        Begin to watch the servers, as the first operation otherwise does.

        @return: has fired already, without waiting for any server; failed
            where a connection was closed or an option's file cannot be used.
        """
        self._watch_slaves()
        watched = [pool.aconnect() for pool in (self._master, *self.slaves)]
        return gatherResults(watched, consumeErrors=True).addCallbacks(
            lambda _: None, lambda failure: failure.value.subFailure
        )

    def authenticate(
        self,
        database: str,
        username: str | None,
        password: str | None,
        mechanism: str = "DEFAULT",
        properties: Mapping[str, Any] | None = None,
    ) -> Deferred[None]:
        """
        Log in as another user at the master and then at each slave; see
        L{ConnectionPool.authenticate}.

        @return: fires with C{None} when all have accepted the user; fails as
            the first does that does not, and those after it stay as they are.
        """

        async def log_in() -> None:
            for pool in (self._master, *self.slaves):
                await pool.authenticate(database, username, password, mechanism, properties)

        return Deferred.fromCoroutine(log_in())

    def disconnect(self) -> Deferred[None]:
        """
        Close the master and all slaves; see L{ConnectionPool.disconnect}.

        @return: fires when the last connection is closed; never fails.
        """
        if self._staleness is not None:
            self._staleness.stop()
        closed = [pool.disconnect() for pool in {self._master, *self.slaves}]
        return DeferredList(closed, consumeErrors=True).addCallback(lambda _: None)

    close = aclose = disconnect

    # Cursors.

    def set_cursor_manager(self, manager_class: Callable[[ConnectionPool[Any]], Any]) -> None:
        """
        Say how cursors are closed that were not read to their end.

        @param manager_class: called with each connection, the master's and each
            slave's.  The C{close(cursor_id)} of what it gives is called for each
            cursor of that connection, and may return a Deferred.  Those that
            want to do it as it is done otherwise inherit L{CursorCloser}.

        @raise TypeError: it is no class, or its instances have no C{close}.
        """
        if not callable(manager_class):
            raise TypeError(
                "manager_class must be a class that is made with a connection, not "
                f"{type(manager_class).__name__}: inherit txmongokit.masterslave.CursorCloser"
            )
        closers = {pool: manager_class(pool) for pool in (self._master, *self.slaves)}
        for closer in closers.values():
            if not callable(getattr(closer, "close", None)):
                raise TypeError(
                    f"manager_class: {type(closer).__name__} has no method close(cursor_id): "
                    "inherit txmongokit.masterslave.CursorCloser"
                )
        self._closers = closers

    def connection_id(self, address: Address | None) -> int:
        """
        Which connection reaches a server: -1 for the master, 0, 1, ... for the
        slaves in their order.

        @param address: such as C{cursor.address}.

        @raise ValueError: none does, just now.
        """
        # A slave of the master's own set knows the primary, too, without reading from it; a
        # read's own preference may lead to a server of a slave that is not read otherwise.
        for each in self._slaves:
            if address in preferred_servers(each.pool):
                return each.number
        if address in self._master.nodes:
            return _MASTER
        for each in self._slaves:
            if address in each.pool.nodes:
                return each.number
        raise ValueError(f"{address!r} is the address of no server of these connections")

    def close_cursor(self, cursor_id: int, connection_id: int) -> Deferred[None]:
        """
        Close a single cursor.  What that means is for the cursor manager to
        say; by default the server is told.

        @param cursor_id: the server's number for it: C{cursor.cursor_id}.
        @param connection_id: of the connection where it was opened: see
            L{connection_id}.

        @return: fires when the cursor manager is done.

        @raise TypeError: one of them is no whole number.
        @raise ValueError: there is no such connection.
        """
        _check_cursor_id(cursor_id)
        if isinstance(connection_id, bool) or not isinstance(connection_id, int):
            raise TypeError(
                f"connection_id must be a whole number, not {type(connection_id).__name__}: "
                "connection_id(cursor.address) gives it"
            )
        if not _MASTER <= connection_id < len(self._slaves):
            raise ValueError(
                f"there is no connection {connection_id}: the master is -1, the slaves are 0 to "
                f"{len(self._slaves) - 1}"
            )
        at_master = connection_id == _MASTER
        pool = self._master if at_master else self._slaves[connection_id].pool
        closer = CursorCloser(pool) if self._closers is None else self._closers[pool]
        return maybeDeferred(closer.close, cursor_id).addCallback(lambda _: None)

    # IOperationRunner

    def run(self, command: Command[Any], session: SessionState | None = None) -> Deferred[Any]:
        """
        See L{IOperationRunner.run}.
        """
        try:
            if session is None:
                session = bound_session(self)
            self._watch_slaves()
            if not self._is_for_slaves(command, session):
                return self._run_at(self._holder(command, session), command, session)
        except PyMongoError:
            return fail()
        return Deferred.fromCoroutine(self._read(command, session))

    def run_in_order(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> Deferred[list[Any]]:
        """
        See L{IOperationRunner.run_in_order}.
        """
        return self._master.run_in_order(commands, session)

    def stream(
        self,
        command: Command[Any],
        session: SessionState | None,
        on_result: Callable[[Any], Deferred[None] | None],
    ) -> Deferred[None]:
        """
        See L{IOperationRunner.stream}.
        """
        pool = self._holder(command, session)
        return pool.stream(command, _session_at(pool, session), on_result)

    def seconds(self) -> float:
        """
        See L{IOperationRunner.seconds}.
        """
        return self._master.seconds()

    def sleep(self, seconds: float) -> Deferred[None]:
        """
        See L{IOperationRunner.sleep}.
        """
        return self._master.sleep(seconds)

    def soon(self, function: Callable[[], object]) -> None:
        """
        See L{IOperationRunner.soon}.
        """
        self._master.soon(function)

    def deadline(self, options: CommandOptions) -> float | None:
        """
        See L{IOperationRunner.deadline}.
        """
        return self._master.deadline(options)

    def take_session(self, **options: Any) -> SessionState:
        """
        See L{IOperationRunner.take_session}; users call L{start_session}.
        """
        if not options.get("explicit"):
            return SplitSession()
        return MasterSession(self._master.take_session(**{**options, "client": self._master}), self)

    def release_session(self, session: SessionState) -> None:
        """
        See L{IOperationRunner.release_session}.
        """
        if isinstance(session, SplitSession):
            session.release()
        else:
            self._master.release_session(session)

    # Where to.

    def _watch_slaves(self) -> None:
        if self._staleness is not None:
            self._staleness.start()

    def _is_for_slaves(self, command: Command[Any], session: SessionState | None) -> bool:
        if session is not None and not isinstance(session, SplitSession):
            return False
        if command.address is not None or command.is_write or self._requests.depth:
            return False
        if isinstance(command, _LISTINGS):
            return True
        if not (command.is_read or command.follows_read_preference) or command.operation == "watch":
            return False
        if not command.name and not _only_reads(command.build(_NOWHERE).body):
            return False
        preference = command.options.read_preference
        if not preference.mode and not isinstance(preference, _FromSlaves):
            return False
        return command.options.read_concern.level != "linearizable"

    def _holder(self, command: Command[Any], session: SessionState | None) -> ConnectionPool[Any]:
        """The connection of what is not for any slave: the master's, or its cursor's."""
        if command.address is None or (session is not None and session.explicit):
            return self._master
        if isinstance(session, SplitSession) and session.home is not None:
            return session.home
        try:
            number = self.connection_id(command.address)
        except ValueError:
            number = _MASTER
        return self._master if number == _MASTER else self._slaves[number].pool

    def _run_at(
        self, pool: ConnectionPool[Any], command: Command[Any], session: SessionState | None
    ) -> Deferred[Any]:
        if self._closers is not None and isinstance(command, KillCursors):
            closer = self._closers[pool]
            closed = [maybeDeferred(closer.close, each) for each in command.cursor_ids]
            return gatherResults(closed, consumeErrors=True).addCallback(lambda _: {"ok": 1.0})
        if pool is self._master and command.options.read_preference.mode:
            # Whatever reaches the master is to see the latest.
            command.options = replace(command.options, read_preference=ReadPreference.PRIMARY)
            if command.is_write:
                command.follows_read_preference = False
        return pool.run(command, _session_at(pool, session))

    # Reads.

    async def _read(self, command: Command[Any], session: SessionState | None) -> Any:
        """Try a read on the slaves, each in its turn."""
        asked, retryable = command.options, command.retryable
        if command.deadline is None:
            command.deadline = self._master.deadline(asked)
        if self._staleness is not None:
            await self._staleness.first(command.deadline)
        untried = self._in_turn(command)
        reasons: dict[_Slave, PyMongoError] = {}
        while untried:
            ready = [each for each in untried if each.is_ready(each.suit(asked, self.options))]
            if ready:
                slave = ready[0]
            else:
                found = await self._first_to_answer(untried, asked, command.deadline, reasons)
                if found is None:
                    break
                slave = found
            untried.remove(slave)
            command.options = slave.suit(asked, self.options)
            # Another one is there sooner than the same again.
            command.retryable = retryable and not ready[1:]
            try:
                return await self._run_at(slave.pool, command, session)
            except PyMongoError as error:
                if not _is_of_server(error) or self._is_late(command):
                    raise
                reasons[slave] = error
        command.options, command.retryable = asked, retryable
        if len(reasons) < len(self._slaves) and self._stale_reads == "master":
            return await self._run_at(self._master, command, session)
        late = self._is_late(command)
        failed = self._all_failed(reasons, late)
        raise time_exceeded(failed) if late else failed

    def _is_late(self, command: Command[Any]) -> bool:
        return command.deadline is not None and self.seconds() >= command.deadline

    def _in_turn(self, command: Command[Any]) -> list[_Slave]:
        """The slaves that may be read from, in the order in which they are tried."""
        staleness = self._staleness
        slaves = [
            each for each in self._slaves if staleness is None or staleness.is_fresh(each.number)
        ]
        if not slaves:
            return []
        bucket, _, part = command.namespace.rpartition(".")
        if part in ("files", "chunks") and "." in bucket:
            # A file's chunks may not have arrived where its description comes from elsewhere.
            first = crc32(bucket.encode()) % len(self._slaves)
            first = next((at for at, each in enumerate(slaves) if each.number >= first), 0)
        else:
            self._turn += 1
            # Those that are away have no turn: the one after them would have two.
            options = command.options
            known = [each for each in slaves if each.is_ready(each.suit(options, self.options))]
            turns = known or slaves
            first = slaves.index(turns[self._turn % len(turns)])
        return slaves[first:] + slaves[:first]

    async def _first_to_answer(
        self,
        slaves: Sequence[_Slave],
        asked: CommandOptions,
        deadline: float | None,
        reasons: dict[_Slave, PyMongoError],
    ) -> _Slave | None:
        """Wait for a slave to be there; C{None} when all have failed."""
        pings = []
        for each in slaves:
            preference = each.suit(asked, self.options).read_preference
            ping = RunCommand("admin", {"ping": 1}, CommandOptions(read_preference=preference))
            ping.deadline = deadline
            pings.append(each.pool.run(ping))
        waiting: Any = DeferredList(pings, fireOnOneCallback=True, consumeErrors=True)
        found = await waiting
        if isinstance(found, tuple):
            for answer in pings:
                answer.cancel()
            return slaves[found[1]]
        for slave, (_, failure) in zip(slaves, found, strict=True):
            if not isinstance(failure.value, PyMongoError):
                failure.raiseException()
            reasons[slave] = failure.value
        return None

    def _all_failed(self, reasons: dict[_Slave, PyMongoError], late: bool) -> AutoReconnect:
        staleness = self._staleness
        told = []
        for each in self._slaves:
            reason: object = reasons.get(each)
            if reason is None and staleness is not None:
                reason = staleness.explain(each.number)
            told.append(f"{each.name}: {reason}")
        errors = list(reasons.values())
        # Where the time was over before any was asked, none was found in time.
        away = all(isinstance(e, ServerSelectionTimeoutError) for e in errors) if errors else late
        kind = ServerSelectionTimeoutError if away else AutoReconnect
        return kind(f"no slave can be read: {'; '.join(told)}", errors)


def _only_reads(document: Mapping[str, Any]) -> bool:
    """Whether a command as its user wrote it may be run on a copy."""
    name = next(iter(document)).lower()
    if name == "aggregate":
        pipeline = document.get("pipeline")
        last = pipeline[-1] if isinstance(pipeline, (list, tuple)) and pipeline else {}
        # What is no stage is refused by whoever gets it.
        return not isinstance(last, Mapping) or not last.keys() & {"$out", "$merge"}
    if name == "mapreduce":
        out = document.get("out")
        return isinstance(out, Mapping) and "inline" in out
    return name in _READING


def _session_at(pool: ConnectionPool[Any], session: SessionState | None) -> SessionState | None:
    return session.at(pool) if isinstance(session, SplitSession) else session


def _is_of_server(error: PyMongoError) -> bool:
    """Whether another server may do what this one did not."""
    if isinstance(error, ConnectionFailure) or error.has_error_label(_OVERLOADED):
        return True
    if not isinstance(error, OperationFailure):
        return False
    # A log-in that is refused is no answer: the read has not been sent.
    return error.code in RETRYABLE_CODES or error.code == _AUTHENTICATION_FAILED


def _check_connections(master: Any, slaves: Any) -> None:
    if not isinstance(master, ConnectionPool):
        raise TypeError(
            "master must be a ConnectionPool, MongoConnection or MongoClient of txmongokit, not "
            f"{type(master).__name__}: make one with txmongokit.ConnectionPool(uri)"
        )
    if not isinstance(slaves, (list, tuple)):
        raise TypeError(
            "slaves must be a list of at least one ConnectionPool, not "
            f"{type(slaves).__name__}: pass [txmongokit.ConnectionPool(uri)]"
        )
    if not slaves:
        raise TypeError(
            "slaves must be a list of at least one ConnectionPool, and is empty: without slaves "
            "use the master itself"
        )
    for number, slave in enumerate(slaves):
        if not isinstance(slave, ConnectionPool):
            raise TypeError(
                f"slaves[{number}] must be a ConnectionPool, MongoConnection or MongoClient of "
                f"txmongokit, not {type(slave).__name__}: make one with "
                "txmongokit.ConnectionPool(uri)"
            )


def _check_cursor_id(cursor_id: Any) -> None:
    if isinstance(cursor_id, bool) or not isinstance(cursor_id, int):
        raise TypeError(
            f"cursor_id must be a whole number, not {type(cursor_id).__name__}: pass "
            "cursor.cursor_id"
        )


def _check_lasterror_options(names: Any) -> None:
    for name in names:
        if name not in _LASTERROR_OPTIONS:
            raise ConfigurationError(
                f"there is no option {name!r} of writes: use {', '.join(_LASTERROR_OPTIONS)}"
            )


def _checked_choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        choices = " or ".join(repr(each) for each in allowed)
        raise ConfigurationError(f"{name}={value!r} must be {choices}")
    return str(value)


def _staleness(
    master: ConnectionPool[Any],
    slaves: Sequence[ConnectionPool[Any]],
    limit: float | None,
    interval: float | None,
) -> Staleness | None:
    for name, value in (("max_staleness", limit), ("staleness_interval", interval)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
        if not 0 < value < math.inf:
            raise ConfigurationError(f"{name}={value!r} must be more than 0 seconds, and finite")
    if limit is None:
        if interval is not None:
            raise ConfigurationError("staleness_interval is of no use without max_staleness")
        return None
    if limit < _LEAST_STALENESS:
        raise ConfigurationError(
            f"max_staleness={limit!r} must be at least {_LEAST_STALENESS:g} seconds, as measuring "
            "takes time"
        )
    if interval is None:
        interval = min(limit / 4, _LONGEST_INTERVAL)
    if interval >= limit:
        raise ConfigurationError(
            f"staleness_interval={interval:g} must be less than max_staleness={limit:g}, as a "
            "slave is taken to fall behind between two measurements"
        )
    return Staleness(master, slaves, limit, interval)
