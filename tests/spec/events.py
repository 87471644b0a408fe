"""
What a client under test tells its listeners, and whether it is what a test
expects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pymongo import monitoring

from tests.spec.matching import Matcher, Mismatch

__all__ = ["COMMAND", "Recorder", "event_family", "event_name", "match_event", "match_events"]

COMMAND = "command"
_SENSITIVE = frozenset(
    {
        "authenticate",
        "saslstart",
        "saslcontinue",
        "getnonce",
        "createuser",
        "updateuser",
        "copydbgetnonce",
        "copydbsaslstart",
        "copydb",
    }
)
_HELLOS = frozenset({"hello", "ismaster"})


def event_name(event: Any) -> str:
    """
    The format's name of an event, such as C{commandStartedEvent}.
    """
    name = type(event).__name__
    if name == "TopologyOpenedEvent":
        return "topologyOpeningEvent"
    return name[0].lower() + name[1:]


def event_family(name: str) -> str:
    """
    C{"command"}, C{"cmap"} or C{"sdam"}, by the name of an event.
    """
    if name.startswith("command"):
        return COMMAND
    return "cmap" if name.startswith(("pool", "connection")) else "sdam"


class Recorder(
    monitoring.CommandListener,
    monitoring.ConnectionPoolListener,
    monitoring.ServerHeartbeatListener,
    monitoring.ServerListener,
    monitoring.TopologyListener,
):
    """
    Keeps the events of one client.

    @param observed: the names of the events that count.
    @param ignored: the names of commands whose events do not.
    @param sensitive: whether those with credentials count.
    @param stored: lists that get a document for each event whose name they
        are under.

    @ivar events: those that count, in order.
    @ivar checked_out: connections in use just now.
    @ivar ready: how many connections were established.
    """

    def __init__(
        self,
        observed: Sequence[str] = (),
        ignored: Sequence[str] = (),
        sensitive: bool = False,
        stored: Mapping[str, list[list[dict[str, Any]]]] | None = None,
    ) -> None:
        self.events: list[Any] = []
        self.checked_out = self.ready = 0
        self._observed = frozenset(observed)
        self._ignored = {name.lower() for name in ignored} | {"configurefailpoint"}
        self._sensitive = sensitive
        self._stored = stored or {}
        self._open = True

    def stop(self) -> None:
        """
        Record no more.
        """
        self._open = False

    def of(self, family: str) -> list[Any]:
        """
        The recorded events of one family.
        """
        return [each for each in self.events if event_family(event_name(each)) == family]

    def _add(self, event: Any) -> None:
        name = event_name(event)
        if name == "connectionCheckedOutEvent":
            self.checked_out += 1
        elif name == "connectionCheckedInEvent":
            self.checked_out -= 1
        elif name == "connectionReadyEvent":
            self.ready += 1
        for stored in self._stored.get(name, ()):
            stored.append(
                {"name": type(event).__name__, "observedAt": time.time(), "event": repr(event)}
            )
        if self._open and name in self._observed and not self._is_ignored(name, event):
            self.events.append(event)

    def _is_ignored(self, name: str, event: Any) -> bool:
        if event_family(name) != COMMAND:
            return False
        command = event.command_name.lower()
        if command in self._ignored:
            return True
        if self._sensitive:
            return False
        if command in _HELLOS:
            # Sensitive only with speculative authentication, and then empty.
            return not getattr(event, "command", True) or not getattr(event, "reply", True)
        return command in _SENSITIVE

    def started(self, event: Any) -> None:
        """A command or a heartbeat begins."""
        self._add(event)

    succeeded = failed = started
    opened = closed = description_changed = started
    pool_created = pool_ready = pool_cleared = pool_closed = started
    connection_created = connection_ready = connection_closed = started
    connection_check_out_started = connection_check_out_failed = started
    connection_checked_out = connection_checked_in = started


def _match_fields(matcher: Matcher, wanted: Mapping[str, Any], event: Any) -> None:
    for key, value in wanted.items():
        _CHECKS[key](matcher, value, event)


def _attribute(name: str, root: bool = False) -> Callable[[Matcher, Any, Any], None]:
    def check(matcher: Matcher, wanted: Any, event: Any) -> None:
        matcher.match(wanted, getattr(event, name), name, root=root)

    return check


def _presence(name: str) -> Callable[[Matcher, Any, Any], None]:
    def check(matcher: Matcher, wanted: Any, event: Any) -> None:
        if bool(getattr(event, name, None)) != wanted:
            raise Mismatch(f"{name} is {'not ' if wanted else ''}set")

    return check


def _description(name: str) -> Callable[[Matcher, Any, Any], None]:
    def check(matcher: Matcher, wanted: Any, event: Any) -> None:
        description = getattr(event, name)
        kind = getattr(description, "server_type_name", None) or description.topology_type_name
        matcher.match(wanted.get("type", kind), kind, f"{name}.type")

    return check


_CHECKS: dict[str, Callable[[Matcher, Any, Any], None]] = {
    "awaited": _attribute("awaited"),
    "command": _attribute("command", root=True),
    "commandName": _attribute("command_name"),
    "databaseName": _attribute("database_name"),
    "hasServerConnectionId": _presence("server_connection_id"),
    "hasServiceId": _presence("service_id"),
    "interruptInUseConnections": _attribute("interrupt_connections"),
    "newDescription": _description("new_description"),
    "previousDescription": _description("previous_description"),
    "reason": _attribute("reason"),
    "reply": _attribute("reply", root=True),
}


def match_event(matcher: Matcher, expected: Mapping[str, Any], event: Any) -> None:
    """
    @raise Mismatch: the event is not the expected one.
    """
    ((name, wanted),) = expected.items()
    if event_name(event) != name:
        raise Mismatch(f"expected {name}, not {_shown(event)}")
    try:
        _match_fields(matcher, wanted, event)
    except Mismatch as error:
        raise Mismatch(f"{name}: {error} (of {_shown(event)})") from None


def _shown(event: Any) -> str:
    command = getattr(event, "command_name", None)
    return event_name(event) if command is None else f"{event_name(event)} {command}"


def match_events(
    matcher: Matcher, expected: Sequence[Mapping[str, Any]], actual: Sequence[Any], extra: bool
) -> None:
    """
    Match a whole sequence.

    @param extra: whether more may follow.
    @raise Mismatch: the sequences differ.
    """
    for index, wanted in enumerate(expected):
        if index >= len(actual):
            (name,) = wanted
            seen = ", ".join(_shown(each) for each in actual) or "none"
            raise Mismatch(f"event {index}: expected {name}, saw only {seen}")
        try:
            match_event(matcher, wanted, actual[index])
        except Mismatch as error:
            raise Mismatch(f"event {index}: {error}") from None
    if len(actual) > len(expected) and not extra:
        more = ", ".join(_shown(each) for each in actual[len(expected) :])
        raise Mismatch(f"unexpected events: {more}")
