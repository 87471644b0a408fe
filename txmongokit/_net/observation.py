"""
What happens in a client, told to whoever wants to know.

L{Observer} is the one place that turns happenings into PyMongo's monitoring
events and into structured logs, as the specifications have them:
command-logging-and-monitoring, connection-monitoring-and-pooling,
server-discovery-and-monitoring, server-selection and logging.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from bson.objectid import ObjectId
from pymongo import monitoring
from pymongo.monitoring import ConnectionCheckOutFailedReason, ConnectionClosedReason
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TopologyDescription
from twisted.logger import Logger

from txmongokit._net.logs import StructuredLog
from txmongokit._pymongo import Hello, registered_listeners
from txmongokit._sansio.commands.base import CREDENTIAL_COMMANDS, GREETINGS
from txmongokit.types import Address

__all__ = ["CommandEvent", "Observer"]

_NOT_REDACTED = ("code", "codeName", "errorLabels")

# What the specification has logs say.
_CLOSED_REASONS = {
    ConnectionClosedReason.STALE: "Connection became stale because the pool was cleared",
    ConnectionClosedReason.IDLE: (
        "Connection has been available but unused for longer than the configured max idle time"
    ),
    ConnectionClosedReason.ERROR: "An error occurred while using the connection",
    ConnectionClosedReason.POOL_CLOSED: "Connection pool was closed",
}
_FAILED_REASONS = {
    ConnectionCheckOutFailedReason.TIMEOUT: (
        "Wait queue timeout elapsed without a connection becoming available"
    ),
    ConnectionCheckOutFailedReason.CONN_ERROR: (
        "An error occurred while trying to establish a new connection"
    ),
    ConnectionCheckOutFailedReason.POOL_CLOSED: "Connection pool was closed",
}


class CommandEvent:
    """
    One command that was sent.

    @ivar body: the whole document, document sequences as lists.
    @ivar server_connection_id: the server's number for the connection.
    @ivar driver_connection_id: the pool's number for it.
    @ivar command: what it came of.
    @ivar service_id: of the service behind a load balancer.
    @ivar span: how it is traced, C{None} where it is not.
    """

    __slots__ = (
        "address",
        "body",
        "command",
        "database",
        "driver_connection_id",
        "name",
        "operation_id",
        "request_id",
        "server_connection_id",
        "service_id",
        "span",
    )

    def __init__(
        self,
        name: str,
        database: str,
        body: dict[str, Any],
        request_id: int,
        operation_id: int | None,
        address: Address,
        server_connection_id: int | None,
        driver_connection_id: int,
        command: Any = None,
        service_id: ObjectId | None = None,
    ) -> None:
        self.command = command
        self.service_id = service_id
        self.span: Any = None
        self.name = name
        self.database = database
        self.body = body
        self.request_id = request_id
        self.operation_id = operation_id
        self.address = address
        self.server_connection_id = server_connection_id
        self.driver_connection_id = driver_connection_id

    @property
    def sensitive(self) -> bool:
        """
        Whether the command or its reply may hold credentials.
        """
        name = self.name.lower()
        return name in CREDENTIAL_COMMANDS or (
            name in GREETINGS and "speculativeAuthenticate" in self.body
        )


class Observer:
    """
    Tells listeners and logs what happens.  A listener that raises is logged,
    and disturbs nothing else.

    Whatever is told to nobody costs a look at an attribute; the attributes
    are for those who would have to prepare something.

    @param listeners: instances of L{pymongo.monitoring}'s listener classes,
        besides those that C{pymongo.monitoring.register} knows by now.
    @param topology_id: what the events of one client have in common.
    @param log: where what happens is logged; C{None} for nowhere.
    @param tracing: has commands traced, as L{txmongokit._net.tracing} does.

    @ivar commands: whether anybody is told of commands.
    @ivar pools: of pools and their connections.
    @ivar servers: of servers that come, change and go.
    @ivar heartbeats: of the checks of servers.
    @ivar topologies: of the deployment as a whole.
    @ivar selections: of the selection of servers.
    """

    __slots__ = (
        "_command_listeners",
        "_command_log",
        "_heartbeat_listeners",
        "_pool_listeners",
        "_pool_log",
        "_selection_log",
        "_server_listeners",
        "_topology_id",
        "_topology_listeners",
        "_topology_log",
        "_tracing",
        "commands",
        "heartbeats",
        "pools",
        "selections",
        "servers",
        "topologies",
    )

    _log = Logger()

    def __init__(
        self,
        listeners: Sequence[Any],
        topology_id: ObjectId,
        log: StructuredLog | None = None,
        tracing: Any = None,
    ) -> None:
        # One that is registered and given is told once.
        everyone = {id(each): each for each in (*registered_listeners(), *listeners)}.values()

        def of(kind: type) -> tuple[Any, ...]:
            return tuple(each for each in everyone if isinstance(each, kind))

        self._topology_id = topology_id
        self._command_listeners = of(monitoring.CommandListener)
        self._pool_listeners = of(monitoring.ConnectionPoolListener)
        self._server_listeners = of(monitoring.ServerListener)
        self._heartbeat_listeners = of(monitoring.ServerHeartbeatListener)
        self._topology_listeners = of(monitoring.TopologyListener)
        # One for each component, or None.
        self._command_log = log if log is not None and log.commands else None
        self._pool_log = log if log is not None and log.connections else None
        self._topology_log = log if log is not None and log.topology else None
        self._selection_log = log if log is not None and log.selections else None
        self._tracing = tracing
        self.commands = bool(self._command_listeners or self._command_log or tracing)
        self.pools = bool(self._pool_listeners or self._pool_log)
        self.servers = bool(self._server_listeners or self._topology_log)
        self.heartbeats = bool(self._heartbeat_listeners or self._topology_log)
        self.topologies = bool(self._topology_listeners or self._topology_log)
        self.selections = self._selection_log is not None

    # Commands.

    def command_started(self, call: CommandEvent) -> None:
        """
        A command was sent.
        """
        if not self.commands:
            return
        if self._tracing is not None:
            self._tracing.command_started(call)
        # Of a sensitive one nothing but its name gets any further, and the
        # field by which PyMongo knows that it is to show nothing.
        hidden: dict[str, Any] = {call.name: 1, "speculativeAuthenticate": {}}
        body = hidden if call.sensitive else call.body
        if self._command_listeners:
            event = monitoring.CommandStartedEvent(
                body,
                call.database,
                call.request_id,
                call.address,
                call.operation_id,
                service_id=call.service_id,
                server_connection_id=call.server_connection_id,
            )
            self._tell(self._command_listeners, "started", event)
        if self._command_log:
            self._write_command(
                "Command started",
                call,
                command="{}" if call.sensitive else self._command_log.document(body),
            )

    def command_succeeded(self, call: CommandEvent, reply: dict[str, Any], duration: float) -> None:
        """
        A command was answered with C{ok: 1}.

        @param duration: seconds since it was sent.
        """
        if not self.commands:
            return
        if self._tracing is not None:
            self._tracing.command_succeeded(call, reply)
        if call.sensitive:
            reply = {}
        if self._command_listeners:
            event = monitoring.CommandSucceededEvent(
                datetime.timedelta(seconds=duration),
                reply,
                call.name,
                call.request_id,
                call.address,
                call.operation_id,
                database_name=call.database,
                service_id=call.service_id,
                server_connection_id=call.server_connection_id,
            )
            self._tell(self._command_listeners, "succeeded", event)
        if self._command_log:
            self._write_command(
                "Command succeeded",
                call,
                durationMS=_milliseconds(duration),
                reply=self._command_log.document(reply),
            )

    def command_failed(self, call: CommandEvent, failure: dict[str, Any], duration: float) -> None:
        """
        A command was answered with C{ok: 0}, or not at all.

        @param failure: the reply; or, without C{ok}, a description of the
            error that came instead.
        @param duration: seconds since it was sent.
        """
        if not self.commands:
            return
        if self._tracing is not None:
            self._tracing.command_failed(call, failure)
        if call.sensitive and "ok" in failure:
            failure = {name: failure[name] for name in _NOT_REDACTED if name in failure}
        if self._command_listeners:
            event = monitoring.CommandFailedEvent(
                datetime.timedelta(seconds=duration),
                failure,
                call.name,
                call.request_id,
                call.address,
                call.operation_id,
                database_name=call.database,
                service_id=call.service_id,
                server_connection_id=call.server_connection_id,
            )
            self._tell(self._command_listeners, "failed", event)
        if self._command_log:
            self._write_command(
                "Command failed",
                call,
                durationMS=_milliseconds(duration),
                failure=self._command_log.document(failure),
            )

    # Pools.

    def pool_created(self, address: Address, options: Mapping[str, Any]) -> None:
        """
        A pool was made.

        @param options: those that are not as usual, by their URI names.
        """
        self._tell_pool("pool_created", monitoring.PoolCreatedEvent, address, dict(options))
        self._write_pool("Connection pool created", address, **options)

    def pool_ready(self, address: Address) -> None:
        """
        A pool makes connections from now on.
        """
        self._tell_pool("pool_ready", monitoring.PoolReadyEvent, address)
        self._write_pool("Connection pool ready", address)

    def pool_cleared(
        self,
        address: Address,
        interrupt_in_use: bool = False,
        service_id: ObjectId | None = None,
        cause: Exception | None = None,
    ) -> None:
        """
        A pool's connections are useless, and it makes no new ones for now.

        @param interrupt_in_use: those in use are closed at once.
        @param cause: the error that led to it, for the log.
        """
        self._tell_pool(
            "pool_cleared",
            monitoring.PoolClearedEvent,
            address,
            service_id=service_id,
            interrupt_connections=interrupt_in_use,
        )
        if self._pool_log:
            self._write_pool(
                "Connection pool cleared",
                address,
                serviceId=None if service_id is None else str(service_id),
                interruptInUseConnections=interrupt_in_use or None,
                error=None if cause is None else self._pool_log.error(cause),
            )

    def pool_closed(self, address: Address) -> None:
        """
        A pool was closed.
        """
        self._tell_pool("pool_closed", monitoring.PoolClosedEvent, address)
        self._write_pool("Connection pool closed", address)

    def connection_created(self, address: Address, number: int) -> None:
        """
        A connection is to be established.

        @param number: the pool's own for it.
        """
        self._tell_pool("connection_created", monitoring.ConnectionCreatedEvent, address, number)
        self._write_pool("Connection created", address, driverConnectionId=number)

    def connection_ready(self, address: Address, number: int, duration: float) -> None:
        """
        A connection was established.

        @param duration: seconds that it took.
        """
        self._tell_pool(
            "connection_ready", monitoring.ConnectionReadyEvent, address, number, duration
        )
        self._write_pool(
            "Connection ready",
            address,
            driverConnectionId=number,
            durationMS=_milliseconds(duration),
        )

    def connection_closed(
        self, address: Address, number: int, reason: str, error: Exception | None = None
    ) -> None:
        """
        A connection was closed, or could not be established.

        @param reason: one of C{pymongo.monitoring.ConnectionClosedReason}'s.
        @param error: that of a connection that broke, for the log.
        """
        self._tell_pool(
            "connection_closed", monitoring.ConnectionClosedEvent, address, number, reason
        )
        if self._pool_log:
            shown = None
            if reason == ConnectionClosedReason.ERROR:
                shown = reason if error is None else self._pool_log.error(error)
            self._write_pool(
                "Connection closed",
                address,
                driverConnectionId=number,
                reason=_CLOSED_REASONS.get(reason, reason),
                error=shown,
            )

    def check_out_started(self, address: Address) -> None:
        """
        A connection is wanted.
        """
        self._tell_pool(
            "connection_check_out_started", monitoring.ConnectionCheckOutStartedEvent, address
        )
        self._write_pool("Connection checkout started", address)

    def check_out_failed(
        self, address: Address, reason: str, duration: float, error: BaseException | None = None
    ) -> None:
        """
        No connection was to be had.

        @param reason: one of
            C{pymongo.monitoring.ConnectionCheckOutFailedReason}'s.
        @param duration: seconds since it was wanted.
        """
        self._tell_pool(
            "connection_check_out_failed",
            monitoring.ConnectionCheckOutFailedEvent,
            address,
            reason,
            duration,
        )
        if self._pool_log:
            shown = None
            if reason == ConnectionCheckOutFailedReason.CONN_ERROR:
                shown = reason if error is None else self._pool_log.error(error)
            self._write_pool(
                "Connection checkout failed",
                address,
                reason=_FAILED_REASONS.get(reason, reason),
                error=shown,
                durationMS=_milliseconds(duration),
            )

    def checked_out(self, address: Address, number: int, duration: float) -> None:
        """
        A connection was given out.

        @param duration: seconds since it was wanted.
        """
        self._tell_pool(
            "connection_checked_out",
            monitoring.ConnectionCheckedOutEvent,
            address,
            number,
            duration,
        )
        self._write_pool(
            "Connection checked out",
            address,
            driverConnectionId=number,
            durationMS=_milliseconds(duration),
        )

    def checked_in(self, address: Address, number: int) -> None:
        """
        A connection was given back.
        """
        self._tell_pool(
            "connection_checked_in", monitoring.ConnectionCheckedInEvent, address, number
        )
        self._write_pool("Connection checked in", address, driverConnectionId=number)

    # Servers and the deployment.

    def server_opening(self, address: Address) -> None:
        """
        A server is watched from now on.
        """
        if self._server_listeners:
            event = monitoring.ServerOpeningEvent(address, self._topology_id)
            self._tell(self._server_listeners, "opened", event)
        self._write_topology("Starting server monitoring", address)

    def server_closed(self, address: Address) -> None:
        """
        A server is watched no more.
        """
        if self._server_listeners:
            event = monitoring.ServerClosedEvent(address, self._topology_id)
            self._tell(self._server_listeners, "closed", event)
        self._write_topology("Stopped server monitoring", address)

    def server_changed(self, previous: ServerDescription, new: ServerDescription) -> None:
        """
        A server is not what it was.  Of this there is an event and no log.
        """
        if self._server_listeners:
            event = monitoring.ServerDescriptionChangedEvent(
                previous, new, new.address, self._topology_id
            )
            self._tell(self._server_listeners, "description_changed", event)

    def topology_opened(self) -> None:
        """
        The client begins to watch its servers.
        """
        if self._topology_listeners:
            event = monitoring.TopologyOpenedEvent(self._topology_id)
            self._tell(self._topology_listeners, "opened", event)
        self._write_topology("Starting topology monitoring")

    def topology_changed(self, previous: TopologyDescription, new: TopologyDescription) -> None:
        """
        The deployment is not what it was.
        """
        if self._topology_listeners:
            event = monitoring.TopologyDescriptionChangedEvent(previous, new, self._topology_id)
            self._tell(self._topology_listeners, "description_changed", event)
        if self._topology_log:
            self._write_topology(
                "Topology description changed",
                previousDescription=repr(previous),
                newDescription=repr(new),
            )

    def topology_closed(self) -> None:
        """
        The client has stopped watching.
        """
        if self._topology_listeners:
            event = monitoring.TopologyClosedEvent(self._topology_id)
            self._tell(self._topology_listeners, "closed", event)
        self._write_topology("Stopped topology monitoring")

    # Heartbeats.

    def heartbeat_started(
        self,
        address: Address,
        awaited: bool,
        *,
        driver_connection_id: int | None = None,
        server_connection_id: int | None = None,
    ) -> None:
        """
        A server is asked how it is.

        @param awaited: it answers when something changes.
        @param driver_connection_id: the monitor's number for its connection.
        @param server_connection_id: the server's, where it is known.
        """
        if self._heartbeat_listeners:
            event = monitoring.ServerHeartbeatStartedEvent(address, awaited)
            self._tell(self._heartbeat_listeners, "started", event)
        self._write_topology(
            "Server heartbeat started",
            address,
            awaited=awaited,
            driverConnectionId=driver_connection_id,
            serverConnectionId=server_connection_id,
        )

    def heartbeat_succeeded(
        self,
        address: Address,
        duration: float,
        reply: Mapping[str, Any],
        awaited: bool,
        *,
        driver_connection_id: int | None = None,
        server_connection_id: int | None = None,
    ) -> None:
        """
        A server has told how it is.

        @param duration: seconds that it took.
        @param reply: its reply to C{hello}.
        """
        if self._heartbeat_listeners:
            event = monitoring.ServerHeartbeatSucceededEvent(
                duration, Hello(dict(reply), awaited), address, awaited
            )
            self._tell(self._heartbeat_listeners, "succeeded", event)
        if self._topology_log:
            self._write_topology(
                "Server heartbeat succeeded",
                address,
                awaited=awaited,
                driverConnectionId=driver_connection_id,
                serverConnectionId=server_connection_id,
                durationMS=_milliseconds(duration),
                reply=self._topology_log.document(reply),
            )

    def heartbeat_failed(
        self,
        address: Address,
        duration: float,
        error: Exception,
        awaited: bool,
        *,
        driver_connection_id: int | None = None,
        server_connection_id: int | None = None,
    ) -> None:
        """
        A server has not told how it is.

        @param duration: seconds until that was known.
        """
        if self._heartbeat_listeners:
            event = monitoring.ServerHeartbeatFailedEvent(duration, error, address, awaited)
            self._tell(self._heartbeat_listeners, "failed", event)
        if self._topology_log:
            self._write_topology(
                "Server heartbeat failed",
                address,
                awaited=awaited,
                driverConnectionId=driver_connection_id,
                serverConnectionId=server_connection_id,
                durationMS=_milliseconds(duration),
                failure=self._topology_log.error(error),
            )

    # Selection.

    def selection_started(
        self,
        operation: str,
        selector: str,
        operation_id: int | None,
        description: TopologyDescription,
    ) -> None:
        """
        A server is wanted.

        @param operation: the command's name.
        @param selector: the read preference, as people read it.
        """
        told = (operation, selector, operation_id, description)
        self._write_selection("Server selection started", *told)

    def selection_waiting(
        self,
        operation: str,
        selector: str,
        operation_id: int | None,
        description: TopologyDescription,
        remaining: float,
    ) -> None:
        """
        No server will do just now.

        @param remaining: seconds that are left.
        """
        self._write_selection(
            "Waiting for suitable server to become available",
            *(operation, selector, operation_id, description),
            at_info=True,
            remainingTimeMS=int(remaining * 1000),
        )

    def selection_succeeded(
        self,
        operation: str,
        selector: str,
        operation_id: int | None,
        description: TopologyDescription,
        address: Address,
    ) -> None:
        """
        A server was found.
        """
        told = (operation, selector, operation_id, description)
        self._write_selection("Server selection succeeded", *told, address=address)

    def selection_failed(
        self,
        operation: str,
        selector: str,
        operation_id: int | None,
        description: TopologyDescription,
        failure: Exception,
    ) -> None:
        """
        No server was found in time.
        """
        if self._selection_log:
            told = (operation, selector, operation_id, description)
            reason = self._selection_log.error(failure)
            self._write_selection("Server selection failed", *told, failure=reason)

    # Inner workings.

    def _tell(self, listeners: Sequence[Any], method: str, event: Any) -> None:
        for listener in listeners:
            try:
                getattr(listener, method)(event)
            except Exception:
                self._log.failure(
                    "the listener {listener} failed in {method}(); the client goes on",
                    listener=type(listener).__qualname__,
                    method=method,
                )

    def _tell_pool(
        self, method: str, kind: Any, address: Address, *details: Any, **options: Any
    ) -> None:
        if self._pool_listeners:
            self._tell(self._pool_listeners, method, kind(address, *details, **options))

    def _write_command(self, message: str, call: CommandEvent, **fields: Any) -> None:
        assert self._command_log is not None
        self._command_log.tell(
            "command",
            message,
            call.address,
            commandName=call.name,
            databaseName=call.database,
            requestId=call.request_id,
            operationId=call.operation_id,
            driverConnectionId=call.driver_connection_id,
            serverConnectionId=call.server_connection_id,
            serviceId=None if call.service_id is None else str(call.service_id),
            **fields,
        )

    def _write_pool(self, message: str, address: Address, **fields: Any) -> None:
        if self._pool_log:
            self._pool_log.tell("connection", message, address, **fields)

    def _write_topology(self, message: str, address: Address | None = None, **fields: Any) -> None:
        if self._topology_log:
            topology_id = str(self._topology_id)
            self._topology_log.tell("topology", message, address, topologyId=topology_id, **fields)

    def _write_selection(
        self,
        message: str,
        operation: str,
        selector: str,
        operation_id: int | None,
        description: TopologyDescription,
        address: Address | None = None,
        **fields: Any,
    ) -> None:
        if self._selection_log:
            self._selection_log.tell(
                "serverSelection",
                message,
                address,
                operation=operation,
                operationId=operation_id,
                selector=selector,
                topologyDescription=repr(description),
                **fields,
            )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
