"""
Structured log messages, as the drivers' logging specification has them.

They go through L{twisted.logger}, at level debug, under the namespaces
C{txmongokit.command}, C{txmongokit.topology}, C{txmongokit.serverSelection}
and C{txmongokit.connection}; the fields of each log event have the
specification's names.  Nothing is logged that was not asked for, by the
environment (C{MONGODB_LOG_COMMAND=debug} and so on) or by the client's
C{log_levels}.  Where the messages go is the business of Twisted's log
observers, so C{MONGODB_LOG_PATH} is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson import json_util
from bson.binary import UuidRepresentation
from twisted.logger import Logger, LogLevel

from txmongokit.errors import ConfigurationError
from txmongokit.types import Address

__all__ = ["COMPONENTS", "StructuredLog", "log_levels"]

COMPONENTS = ("command", "topology", "serverSelection", "connection")
"""What can be logged, each at a level of its own."""

_VARIABLES = {
    "command": "MONGODB_LOG_COMMAND",
    "topology": "MONGODB_LOG_TOPOLOGY",
    "serverSelection": "MONGODB_LOG_SERVER_SELECTION",
    "connection": "MONGODB_LOG_CONNECTION",
}
_LENGTH = "MONGODB_LOG_MAX_DOCUMENT_LENGTH"
_USUAL_LENGTH = 1000
# Logging specification, severity levels, and what Twisted's levels make of them.
_SEVERITIES = {
    "off": -1,
    "emergency": 0,
    "alert": 1,
    "critical": 2,
    "error": 3,
    "warn": 4,
    "notice": 5,
    "info": 6,
    "debug": 7,
    "trace": 8,
}
_INFO, _DEBUG = _SEVERITIES["info"], _SEVERITIES["debug"]
_JSON = json_util.RELAXED_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)


def log_levels(given: Mapping[str, str] | None, environment: Mapping[str, str]) -> dict[str, int]:
    """
    How much of each component is logged.

    @param given: what the client was told, component by component; it
        overrides the environment.
    @param environment: where C{MONGODB_LOG_*} is looked up; a level there
        that does not exist counts as C{off}, as the specification has it.

    @raise ConfigurationError: C{given} has a component or a level that does
        not exist.
    """
    everything = environment.get("MONGODB_LOG_ALL", "")
    levels = {
        component: max(
            _SEVERITIES.get(environment.get(variable, "").lower(), -1),
            _SEVERITIES.get(everything.lower(), -1),
        )
        for component, variable in _VARIABLES.items()
    }
    for component, level in (given or {}).items():
        if component not in levels:
            raise ConfigurationError(
                f"log_levels has no component {component!r}: use {', '.join(COMPONENTS)}"
            )
        if level not in _SEVERITIES:
            raise ConfigurationError(
                f"log_levels: {level!r} is no level: use {', '.join(_SEVERITIES)}"
            )
        levels[component] = _SEVERITIES[level]
    return levels


class StructuredLog:
    """
    The log messages of one client.

    @param levels: of L{log_levels}.
    @param environment: for C{MONGODB_LOG_MAX_DOCUMENT_LENGTH}.

    @ivar commands: whether the component is logged at all; likewise the others.
    """

    def __init__(self, levels: Mapping[str, int], environment: Mapping[str, str]) -> None:
        self.commands = levels["command"] >= _DEBUG
        self.topology = levels["topology"] >= _DEBUG
        self.selections = levels["serverSelection"] >= _INFO
        self.connections = levels["connection"] >= _DEBUG
        self._levels = levels
        self._loggers = {name: Logger(namespace=f"txmongokit.{name}") for name in COMPONENTS}
        self._formats: dict[tuple[str, ...], str] = {}
        try:
            length = int(environment.get(_LENGTH, _USUAL_LENGTH))
        except ValueError:
            length = _USUAL_LENGTH
        self._length = length if length >= 0 else _USUAL_LENGTH

    def tell(
        self,
        component: str,
        message: str,
        address: Address | None = None,
        *,
        at_info: bool = False,
        **fields: Any,
    ) -> None:
        """
        Log one message.

        @param address: becomes C{serverHost} and C{serverPort}.
        @param at_info: not only at level debug.
        @param fields: those that are C{None} are left out.
        """
        if self._levels[component] < (_INFO if at_info else _DEBUG):
            return
        event = {"message": message}
        if address is not None:
            fields["serverHost"], fields["serverPort"] = address
        event.update((name, value) for name, value in fields.items() if value is not None)
        names = tuple(event)
        template = self._formats.get(names)
        if template is None:
            shown = " ".join(f"{name}={{{name}}}" for name in names if name != "message")
            template = self._formats[names] = f"{{message}} {shown}".rstrip()
        level = LogLevel.info if at_info else LogLevel.debug
        self._loggers[component].emit(level, template, **event)

    def document(self, document: Mapping[str, Any]) -> str:
        """
        A document as text: extended JSON, no longer than allowed.
        """
        text = json_util.dumps(document, json_options=_JSON, default=repr)
        return text if len(text) <= self._length else f"{text[: self._length]}..."
