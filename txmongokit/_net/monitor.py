"""
Watching one server.

Follows the server-monitoring specification: a server that can, tells of its
own accord whenever it changes (streaming protocol); the others are asked every
C{heartbeatFrequencyMS}, sooner when somebody wants to know (polling
protocol).  Round trip times of a server that streams are measured on a
connection of their own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo.server_description import ServerDescription
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit._net.connector import Connector
from txmongokit._net.observation import Observer
from txmongokit._pymongo import raise_command_error
from txmongokit._sansio.handshake import api_declaration, function_as_a_service
from txmongokit._sansio.sdam import RoundTripTime, server_description, unknown_server
from txmongokit.errors import AutoReconnect, ConnectionFailure, NetworkTimeout, NotPrimaryError
from txmongokit.types import Address, Document, format_address
from txmongokit.wire import MongoProtocol

__all__ = ["Monitor"]


class Monitor:
    """
    One server's watcher.

    @param report: called with each new L{ServerDescription}.
    @param heartbeat: seconds between checks, and for which a server that
        streams may keep still.
    @param min_heartbeat: seconds between checks at the least.
    @param timeout: seconds that connecting and a check may take, C{None} for
        no limit; one that the server keeps back for C{heartbeat} seconds
        may take as much longer.
    @param observer: told of each check.
    @param mode: C{"stream"} where servers can, C{"poll"}, or C{"auto"}: poll
        where a cloud service runs us for one call, and stream elsewhere.
    @param server_api: the stable API that is declared, if any.
    @param environ: where such a service is recognised.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        address: Address,
        connector: Connector,
        report: Callable[[ServerDescription], None],
        *,
        heartbeat: float,
        min_heartbeat: float,
        timeout: float | None,
        observer: Observer | None = None,
        mode: str = "auto",
        server_api: Any = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._report = report
        self._heartbeat = heartbeat
        self._min_heartbeat = min_heartbeat
        self._observer = Observer((), ObjectId()) if observer is None else observer
        self._may_stream = mode == "stream" or (
            mode == "auto" and function_as_a_service(environ) is None
        )
        self._times = RoundTripTime()

        def new_line() -> _Line:
            return _Line(reactor, address, connector, self._times, timeout, heartbeat, server_api)

        self._line = new_line()
        self._stopwatch = _Stopwatch(reactor, new_line(), heartbeat)
        self._waiting = _Waiting()
        self._pause: Deferred[None] | None = None
        self._check_requested = False
        # What the latest check found.
        self._known = False
        self._version: Mapping[str, Any] | None = None
        self._checking = False
        self._given_up = False
        self._started = False
        self._stopped = False

    @property
    def round_trip_minimum(self) -> float:
        """
        The shortest of the latest round trips, in seconds; 0 until there are
        two.
        """
        return self._times.minimum

    def start(self) -> None:
        """
        Begin to watch.  Doing so twice does nothing.
        """
        if not self._started and not self._stopped:
            self._started = True
            Deferred.fromCoroutine(self._run()).addErrback(self._ended)

    def stop(self) -> None:
        """
        Stop watching and close the connections.
        """
        self._stopped = True
        error = AutoReconnect(f"{format_address(self.address)}: no longer monitored")
        self._stopwatch.stop(error)
        self._waiting.cancel()
        self._line.close(error)

    def request_check(self) -> None:
        """
        Check as soon as the minimum heartbeat allows.  While a check is under
        way this is remembered until the next rest, which it cuts short.
        """
        self._check_requested = True
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.cancel()

    def cancel_check(self) -> None:
        """
        Give up the check under way and the connection that it uses, for
        another one to the same server has broken, and the server is unknown
        by that.  Nothing is reported; the next check comes after a rest.
        """
        self._given_up = True
        self._forget()
        if self._checking:
            self._waiting.cancel()
        self._line.close(self._no_more())

    # Inner workings.

    def _no_more(self) -> AutoReconnect:
        return AutoReconnect(f"{format_address(self.address)}: the check was given up")

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None or not self._stopped:
            self._log.failure(
                "{address}: monitoring stopped", failure, address=format_address(self.address)
            )

    async def _run(self) -> None:
        while not self._stopped:
            was_known = self._known
            self._given_up = False
            description = await self._check()
            if description is not None:
                self._known = description.is_server_type_known
                self._version = description.topology_version if self._known else None
                self._tell(description)
            if self._is_over():
                return
            if self._streams():
                self._stopwatch.start()
            elif not self._just_lost(was_known, description):
                await self._rest()

    def _is_over(self) -> bool:
        return self._stopped

    def _streams(self) -> bool:
        """Whether the server is to tell by itself how it is."""
        return (
            self._may_stream
            and self._line.is_open
            and (self._version is not None or self._line.is_streaming)
        )

    def _just_lost(self, was_known: bool, description: ServerDescription | None) -> bool:
        """
        Whether the server should be asked once more at once: a connection may
        be dead though its server is not.
        """
        error = None if description is None or self._given_up else description.error
        return (
            was_known
            and isinstance(error, ConnectionFailure)
            and not isinstance(error, NotPrimaryError)
        )

    def _tell(self, description: ServerDescription) -> None:
        try:
            self._report(description)
        except Exception:
            self._log.failure(
                "{address}: what was seen of it could not be used; monitoring goes on",
                address=format_address(self.address),
            )

    async def _rest(self) -> None:
        began = self._reactor.seconds()
        if not self._check_requested:
            pause: Deferred[None] = deferLater(self._reactor, self._heartbeat)
            self._pause = pause
            try:
                await self._waiting.on(pause)
            except CancelledError:
                if self._stopped:
                    raise
            finally:
                self._pause = None
        self._check_requested = False
        left = self._min_heartbeat - (self._reactor.seconds() - began)
        if left > 0:
            await self._waiting.on(deferLater(self._reactor, left))

    def _forget(self) -> None:
        self._known = False
        self._version = None
        self._times.reset()

    # One check.

    async def _check(self) -> ServerDescription | None:
        """
        @return: what was seen of the server; C{None} where that was given up.
        """
        line, address, observer = self._line, self.address, self._observer
        awaited = self._streams()
        numbers: dict[str, int | None] = {
            "driver_connection_id": line.number if line.is_open else line.number + 1,
            "server_connection_id": line.server_number,
        }
        began = self._reactor.seconds()
        self._checking = True
        observer.heartbeat_started(address, awaited, **numbers)
        try:
            # Whoever was told may have had enough.
            self._go_on()
            reply = await self._waiting.on(self._question(awaited))
            self._go_on()
            description = server_description(address, reply, self._times.average)
        except Exception as error:
            # Anything at all, for a watcher that ended would leave the server
            # as it is for ever.
            given_up = self._stopped or self._given_up
            reason = self._no_more() if isinstance(error, CancelledError) else error
            line.close(reason)
            self._forget()
            elapsed = self._reactor.seconds() - began
            observer.heartbeat_failed(address, elapsed, reason, awaited, **numbers)
            return None if given_up else unknown_server(address, reason)
        finally:
            self._checking = False
        elapsed = self._reactor.seconds() - began if awaited else line.latest
        numbers["server_connection_id"] = line.server_number
        observer.heartbeat_succeeded(address, elapsed, reply, awaited, **numbers)
        return description

    def _go_on(self) -> None:
        if self._stopped or self._given_up:
            raise CancelledError

    def _question(self, awaited: bool) -> Deferred[Document]:
        if not self._line.is_open:
            return self._line.connect()
        return self._line.next_reply(self._version) if awaited else self._line.ask()


class _Waiting:
    """
    The one thing that a coroutine waits for; cancelling the coroutine itself
    would not do while it runs.
    """

    def __init__(self) -> None:
        self._deferred: Deferred[Any] | None = None

    async def on(self, deferred: Deferred[Any]) -> Any:
        """
        Wait for a Deferred.

        @raise CancelledError: after L{cancel}.
        """
        self._deferred = deferred
        try:
            return await deferred
        finally:
            self._deferred = None

    def cancel(self) -> None:
        """
        Wait no more.
        """
        deferred, self._deferred = self._deferred, None
        if deferred is not None:
            deferred.cancel()


class _Stopwatch:
    """
    Measures round trips of a server that streams: every C{heartbeat} seconds,
    whatever comes of it.  The line knows where times go.
    """

    def __init__(self, reactor: IReactorTime, line: _Line, heartbeat: float) -> None:
        self._reactor = reactor
        self._line = line
        self._heartbeat = heartbeat
        self._waiting = _Waiting()
        self._started = False
        self._stopped = False

    def start(self) -> None:
        """
        Begin to measure.  Doing so twice does nothing.
        """
        if not self._started and not self._stopped:
            self._started = True
            # It ends by being cancelled, and by nothing else.
            Deferred.fromCoroutine(self._run()).addErrback(lambda failure: None)

    def stop(self, error: Exception) -> None:
        """
        Stop measuring and close the connection.
        """
        self._stopped = True
        self._waiting.cancel()
        self._line.close(error)

    async def _run(self) -> None:
        line = self._line
        while not self._stopped:
            try:
                # The first is still the monitor's own.
                await self._waiting.on(line.ask() if line.is_open else line.connect(timed=False))
            except Exception as error:
                # That the server is gone is for the monitor to find out.
                line.close(AutoReconnect(str(error)))
            if not self._stopped:
                await self._waiting.on(deferLater(self._reactor, self._heartbeat))


class _Line:
    """
    A connection on which a server is asked how it is.  It is closed by its
    owner, after any failure.

    @ivar number: how many connections there have been.
    @ivar latest: the latest round trip time, in seconds.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: Address,
        connector: Connector,
        times: RoundTripTime,
        timeout: float | None,
        heartbeat: float,
        server_api: Any,
    ) -> None:
        self.number = 0
        self.latest = 0.0
        self._reactor = reactor
        self._address = address
        self._connector = connector
        self._times = times
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._declaration = api_declaration(server_api)
        self._protocol: MongoProtocol | None = None
        self._replies: _Replies | None = None
        self._command = "hello"

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._protocol is not None and not self._protocol.closed

    @property
    def is_streaming(self) -> bool:
        """Whether the server may answer without being asked again."""
        return self._replies is not None and not self._replies.ended

    @property
    def server_number(self) -> int | None:
        """The server's number for the connection, where there is one."""
        info = None if self._protocol is None else self._protocol.info
        return None if info is None else info.connection_id

    def connect(self, *, timed: bool = True) -> Deferred[Document]:
        """
        Connect.

        @param timed: whether the handshake counts as a round trip.

        @return: fires with the handshake's reply.
        """
        self.close(AutoReconnect("another connection takes its place"))
        self.number += 1
        connecting = self._connector.connect(self._address, monitoring=True)
        return connecting.addCallback(self._connected, timed)

    def ask(self) -> Deferred[Document]:
        """
        Ask, to be answered at once.
        """
        assert self._protocol is not None
        began = self._reactor.seconds()

        def measured(raw: bytes) -> bytes:
            self._measured(self._reactor.seconds() - began)
            return raw

        request = self._protocol.request(self._question({}), compress=False)
        answer = request.addCallback(measured).addCallback(self._understood)
        return self._limited(answer, self._timeout)

    def next_reply(self, version: Mapping[str, Any] | None) -> Deferred[Document]:
        """
        What the server says next, when it has changed or after
        C{heartbeat} seconds.

        @param version: the state that is known of it.
        """
        limit = self._timeout + self._heartbeat if self._timeout else None
        return self._limited(self._next(version), limit)

    def close(self, error: Exception) -> None:
        """
        Close the connection; whoever waits is told why.
        """
        protocol, self._protocol = self._protocol, None
        self._replies = None
        if protocol is not None:
            protocol.abort(error)

    def _connected(self, protocol: MongoProtocol, timed: bool) -> Document:
        self._protocol = protocol
        reply = protocol.hello
        # Whoever declares an API has a server that knows the new name.
        knows_hello = bool(
            reply.get("helloOk") or "isWritablePrimary" in reply or self._declaration
        )
        self._command = "hello" if knows_hello else "isMaster"
        if timed:
            self._measured(protocol.greeting_time)
        return reply

    def _measured(self, elapsed: float) -> None:
        self.latest = elapsed
        self._times.add(elapsed)

    def _question(self, more: Mapping[str, Any]) -> bytes:
        question = {self._command: 1, "helloOk": True, **more, **self._declaration}
        return bson.encode({**question, "$db": "admin"})

    def _next(self, version: Mapping[str, Any] | None) -> Deferred[Document]:
        assert self._protocol is not None
        if self._replies is None or self._replies.ended:
            if version is None:
                return self.ask()
            waits = {
                "topologyVersion": version,
                "maxAwaitTimeMS": Int64(self._heartbeat * 1000),
            }
            self._replies = _Replies(self._protocol, self._question(waits))

        def came(raw: bytes | None) -> Any:
            # The reply before was the last one: ask again.
            return self._next(version) if raw is None else self._understood(raw)

        return self._replies.next().addCallback(came)

    def _understood(self, raw: bytes) -> Document:
        reply = bson.decode(raw)
        if not reply.get("ok"):
            raise_command_error(reply, None)
        if reply.get("helloOk"):
            self._command = "hello"
        return reply

    def _limited(self, answer: Deferred[Document], limit: float | None) -> Deferred[Document]:
        def too_late(result: Any, timeout: float) -> Any:
            raise NetworkTimeout(
                f"{format_address(self._address)}: no answer to hello within {timeout:g} s"
            )

        if limit:
            answer.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)
        return answer


class _Replies:
    """
    The replies to one C{hello} that a server may answer many times.

    @ivar ended: whether no more come.
    """

    def __init__(self, protocol: MongoProtocol, question: bytes) -> None:
        self.ended = False
        self._came: deque[bytes] = deque()
        self._error: Exception | None = None
        self._waiting: Deferred[bytes | None] | None = None
        stream = protocol.stream(question, self._one, compress=False)
        stream.addCallbacks(self._no_more, self._broken)

    def next(self) -> Deferred[bytes | None]:
        """
        @return: fires with the next reply; with C{None} where the one before
            was the last.  Cancelling waits no more, and changes nothing.
        """
        if self._came:
            return succeed(self._came.popleft())
        if self._error is not None:
            return fail(self._error)
        if self.ended:
            return succeed(None)
        waiting: Deferred[bytes | None] = Deferred(self._forget)
        self._waiting = waiting
        return waiting

    def _forget(self, waiting: Deferred[bytes | None]) -> None:
        self._waiting = None

    def _one(self, raw: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._came.append(raw)
        else:
            waiting.callback(raw)

    def _no_more(self, result: None) -> None:
        self.ended = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _broken(self, failure: Failure) -> None:
        self.ended = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(failure)
        else:
            error = failure.value
            assert isinstance(error, Exception)
            self._error = error
