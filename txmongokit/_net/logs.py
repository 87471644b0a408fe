"""
Structured log messages, as the drivers' logging specification has them.

They go through L{twisted.logger} under the namespaces C{txmongokit.command},
C{txmongokit.topology}, C{txmongokit.serverSelection} and
C{txmongokit.connection}; the fields of each log event, C{message} among them,
have the specification's names.  Nothing is logged that was not asked for, by
the environment (C{MONGODB_LOG_COMMAND=debug} and so on) or by the client's
C{log_levels}.  Where the messages go is the business of Twisted's log
observers, so C{MONGODB_LOG_PATH} is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson import json_util
from bson.binary import UuidRepresentation
from twisted.logger import ILogObserver, Logger, LogLevel

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
_VARIABLE_FOR_ALL = "MONGODB_LOG_ALL"
# The second is how the specification spells it.
_LENGTHS = ("MONGODB_LOG_MAX_DOCUMENT_LENGTH", "MONGOB_LOG_MAX_DOCUMENT_LENGTH")
_USUAL_LENGTH = 1000
# Logging specification, severity levels.
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
_OFF, _INFO, _DEBUG = _SEVERITIES["off"], _SEVERITIES["info"], _SEVERITIES["debug"]
_JSON = json_util.RELAXED_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)


def log_levels(given: Mapping[str, str] | None, environment: Mapping[str, str]) -> dict[str, int]:
    """
    How much of each component is logged.

    @param given: what the client was told, component by component; it
        overrides the environment.
    @param environment: where C{MONGODB_LOG_*} is looked up: the variable of a
        component, or C{MONGODB_LOG_ALL} where that is not set.  A level that
        does not exist counts as none, as the specification has it.

    @raise ConfigurationError: C{given} has a component or a level that does
        not exist.
    """
    levels = {}
    for component, variable in _VARIABLES.items():
        named = (environment.get(each, "").lower() for each in (variable, _VARIABLE_FOR_ALL))
        known = [_SEVERITIES[level] for level in named if level in _SEVERITIES]
        levels[component] = known[0] if known else _OFF
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
    @param environment: for C{MONGODB_LOG_MAX_DOCUMENT_LENGTH}, in characters;
        1000 where it is not set, or no such number.
    @param observer: where messages go instead of to Twisted's global
        publisher.

    @ivar commands: whether the component is logged at all; likewise the others.
    """

    def __init__(
        self,
        levels: Mapping[str, int],
        environment: Mapping[str, str],
        observer: ILogObserver | None = None,
    ) -> None:
        self.commands = levels["command"] >= _DEBUG
        self.topology = levels["topology"] >= _DEBUG
        self.selections = levels["serverSelection"] >= _INFO
        self.connections = levels["connection"] >= _DEBUG
        self._levels = levels
        self._loggers = {
            name: Logger(namespace=f"txmongokit.{name}", observer=observer) for name in COMPONENTS
        }
        self._formats: dict[tuple[str, ...], str] = {}
        lengths = [environment[name] for name in _LENGTHS if environment.get(name, "").isdecimal()]
        self._length = int(lengths[0]) if lengths else _USUAL_LENGTH

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
        if address is not None:
            fields["serverHost"], fields["serverPort"] = address
        known = {name: value for name, value in fields.items() if value is not None}
        level = LogLevel.info if at_info else LogLevel.debug
        self._loggers[component].emit(level, self._format(tuple(known)), message=message, **known)

    def document(self, document: Mapping[str, Any]) -> str:
        """
        A document as text: extended JSON, no longer than allowed.
        """
        try:
            part = _Part(self._length).of(document)
            text = json_util.dumps(part, json_options=_JSON, default=repr, ensure_ascii=False)
        except Exception as error:
            # What users put in documents does what it likes, and no log is
            # worth an operation.
            text = f"<{type(document).__name__} that cannot be shown: {type(error).__name__}>"
        return self._short(text)

    def error(self, error: BaseException) -> str:
        """
        An error as text, no longer than a document may be, for it may quote
        a server's whole reply.
        """
        return self._short(f"{type(error).__name__}: {error}")

    def _short(self, text: str) -> str:
        return text if len(text) <= self._length else f"{text[: self._length]}..."

    def _format(self, names: tuple[str, ...]) -> str:
        text = self._formats.get(names)
        if text is None:
            shown = [f"{name}={{{name}}}" for name in names if not name.startswith("server")]
            if "serverConnectionId" in names:
                shown.append("serverConnectionId={serverConnectionId}")
            if "serverHost" in names:
                port = ":{serverPort}" if "serverPort" in names else ""
                shown.insert(0, f"server={{serverHost}}{port}")
            text = self._formats[names] = ": ".join(["{message}", ", ".join(shown)])
        return text


class _Part:
    """
    The beginning of a document, enough of it to be too long for the log:
    nobody wants a whole batch of inserts made JSON for its first kilobyte.

    Each value that is kept makes at least one character of JSON.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit + 1

    def of(self, value: Any) -> Any:
        """
        A value, or what there is room for of it.
        """
        self._left -= 1
        if isinstance(value, Mapping):
            document = {}
            for name, inner in value.items():
                if self._left <= 0:
                    break
                self._left -= len(name)
                document[name] = self.of(inner)
            return document
        if isinstance(value, (list, tuple)):
            array = []
            for inner in value:
                if self._left <= 0:
                    break
                array.append(self.of(inner))
            return array
        if isinstance(value, (str, bytes)):
            if len(value) > self._left + 1:
                value = value[: max(self._left, 0) + 1]
            self._left -= len(value)
        return value
