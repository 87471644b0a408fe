"""
Watching one server.

Follows the server-monitoring specification's polling protocol: C{hello} every
C{heartbeatFrequencyMS} on a connection of its own, sooner when somebody asks,
never more often than C{minHeartbeatFrequencyMS}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bson
from pymongo.server_description import ServerDescription
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from txmongokit._net.connector import Connector
from txmongokit._sansio.sdam import RoundTripTime, server_description, unknown_server
from txmongokit.errors import AutoReconnect, NetworkTimeout
from txmongokit.protocol import MongoProtocol
from txmongokit.types import Address, format_address

__all__ = ["Monitor"]


class Monitor:
    """
    One server's watcher.

    @param report: called with each new L{ServerDescription}.
    @param heartbeat: seconds between checks.
    @param min_heartbeat: seconds between checks at the least.
    @param timeout: seconds that a check may take.
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
        observer: Any = None,
        mode: str = "auto",
        server_api: Any = None,
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._connector = connector
        self._report = report
        self._heartbeat = heartbeat
        self._min_heartbeat = min_heartbeat
        self._timeout = timeout
        self._protocol: MongoProtocol | None = None
        self._round_trip = RoundTripTime()
        self._running: Deferred[None] | None = None
        self._pause: Deferred[None] | None = None
        self._check_requested = False
        self._known = False
        self._measured = False
        self._stopped = False
        self._reporting = False

    def start(self) -> None:
        """
        Begin to watch.  Doing so twice does nothing.
        """
        if self._running is None and not self._stopped:
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._ended)

    def stop(self) -> None:
        """
        Stop watching and close the connection.
        """
        self._stopped = True
        running, self._running = self._running, None
        # From within a report there is nothing to cancel: the loop sees that
        # it is to end.
        if running is not None and not self._reporting:
            running.cancel()
        self._drop(AutoReconnect(f"{format_address(self.address)}: no longer monitored"))

    def request_check(self) -> None:
        """
        Check as soon as the minimum heartbeat allows.
        """
        self._check_requested = True
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.callback(None)

    round_trip_minimum = 0.0

    def cancel_check(self) -> None:
        """
        Give up the check under way.
        """

    def _ended(self, failure: Any) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure(
                "{address}: monitoring stopped", failure, address=format_address(self.address)
            )

    async def _run(self) -> None:
        while not self._stopped:
            started = self._reactor.seconds()
            self._check_requested = False
            description = await self._check()
            self._known = description.is_server_type_known
            if not self._tell(description):
                return
            await self._sleep(self._min_heartbeat - (self._reactor.seconds() - started), False)
            rest = self._heartbeat - (self._reactor.seconds() - started)
            # The first round trip time is worth a second check.
            if not self._check_requested and (self._measured or not self._known):
                await self._sleep(rest, True)

    def _tell(self, description: ServerDescription) -> bool:
        """Report; whether the watch goes on after it."""
        self._reporting = True
        try:
            self._report(description)
        except Exception:
            self._log.failure(
                "{address}: what was seen of it could not be used; monitoring goes on",
                address=format_address(self.address),
            )
        finally:
            self._reporting = False
        return not self._stopped

    async def _sleep(self, seconds: float, interruptible: bool) -> None:
        if seconds <= 0:
            return
        pause: Deferred[None] = Deferred()
        call = self._reactor.callLater(seconds, self._wake, pause)
        if interruptible:
            self._pause = pause
        try:
            await pause
        finally:
            if call.active():
                call.cancel()
            self._pause = None

    def _wake(self, pause: Deferred[None]) -> None:
        self._pause = None
        pause.callback(None)

    async def _check(self) -> ServerDescription:
        try:
            return await self._hello()
        except CancelledError:
            raise
        except Exception as error:
            # Anything at all, for a watcher that ended would leave the server
            # as it is for ever.
            self._drop(error)
            # A connection that idled may be dead though the server is not:
            # a server that was known is asked once more, at once.
            if not self._known or isinstance(error, NetworkTimeout):
                return unknown_server(self.address, error)
        try:
            return await self._hello()
        except CancelledError:
            raise
        except Exception as error:
            self._drop(error)
            return unknown_server(self.address, error)

    async def _hello(self) -> ServerDescription:
        protocol = self._protocol
        started = self._reactor.seconds()
        if protocol is None or protocol.closed:
            protocol = await self._connector.connect(self.address, monitoring=True)
            self._protocol = protocol
            reply = protocol.hello
        else:
            request = protocol.request(_HELLO, compress=False)
            if self._timeout:
                request.addTimeout(self._timeout, self._reactor, onTimeoutCancel=self._silent)
            reply = bson.decode(await request)
            self._round_trip.add(self._reactor.seconds() - started)
            self._measured = True
        return server_description(self.address, reply, self._round_trip.average)

    def _silent(self, result: Any, timeout: float) -> Any:
        raise NetworkTimeout(
            f"{format_address(self.address)}: no answer to hello within {timeout:g} s"
        )

    def _drop(self, error: Exception) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.abort(error)
            self._round_trip.reset()
            self._measured = False


_HELLO = bson.encode({"hello": 1, "helloOk": True, "$db": "admin"})
