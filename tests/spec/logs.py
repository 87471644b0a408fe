"""
The log messages of the clients under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from tests.spec.matching import Matcher, Mismatch

__all__ = ["LogBook", "level_name", "match_messages"]

_PREFIX = "txmongokit."
_SEVERITIES = (
    "emergency",
    "alert",
    "critical",
    "error",
    "warn",
    "notice",
    "info",
    "debug",
    "trace",
)


def level_name(severity: str) -> str:
    """
    Twisted's name of one of the format's severities.
    """
    return "warn" if severity == "warning" else severity


@implementer(ILogObserver)
class LogBook:
    """
    The messages of one client, from its making until L{stop}.

    @param components: the least severity of each component that counts.
    """

    def __init__(self, components: Mapping[str, str]) -> None:
        self._components = components
        self.messages: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: dict[str, Any]) -> None:
        """
        A log event: keep it, if it is the client's.
        """
        namespace = event.get("log_namespace") or ""
        if not namespace.startswith(_PREFIX) or "message" not in event:
            return
        component = namespace[len(_PREFIX) :]
        least = self._components.get(component)
        level = event.get("log_level") or LogLevel.debug
        if least is None or _SEVERITIES.index(level.name) > _SEVERITIES.index(least):
            return
        data = {name: value for name, value in event.items() if not name.startswith("log_")}
        self.messages.append({"component": component, "level": level.name, "data": data})

    def stop(self) -> None:
        """
        Take no more messages.
        """
        globalLogPublisher.removeObserver(self)


def _match_message(matcher: Matcher, expected: Mapping[str, Any], actual: dict[str, Any]) -> None:
    for name, wanted in (
        ("component", expected["component"]),
        ("level", level_name(expected["level"])),
    ):
        if wanted != actual[name]:
            raise Mismatch(f"{name} is {actual[name]}, not {wanted}")
    data = actual["data"]
    matcher.match(expected["data"], data, "data", root=True)
    redacted = expected.get("failureIsRedacted")
    if redacted is not None:
        if "failure" not in data:
            raise Mismatch("there is no failure")
        if redacted == ("errmsg" in str(data["failure"])):
            raise Mismatch(
                f"the failure is {'not ' if redacted else ''}redacted: {data['failure']}"
            )


def match_messages(
    matcher: Matcher, expected: Mapping[str, Any], actual: Sequence[dict[str, Any]]
) -> None:
    """
    @param expected: C{messages}, C{ignoreMessages}, C{ignoreExtraMessages}.
    @raise Mismatch: the messages are not the expected ones.
    """

    def matches(wanted: Mapping[str, Any], message: dict[str, Any]) -> bool:
        try:
            _match_message(matcher, wanted, message)
        except Mismatch:
            return False
        return True

    ignored = expected.get("ignoreMessages", ())
    left = [each for each in actual if not any(matches(wanted, each) for wanted in ignored)]
    shown = [each["data"].get("message") for each in left]
    for index, wanted in enumerate(expected["messages"]):
        if index >= len(left):
            raise Mismatch(
                f"message {index}: expected {wanted['data'].get('message')}, saw {shown}"
            )
        try:
            _match_message(matcher, wanted, left[index])
        except Mismatch as error:
            raise Mismatch(f"message {index} ({shown[index]}): {error}") from None
    if len(left) > len(expected["messages"]) and not expected.get("ignoreExtraMessages"):
        raise Mismatch(f"unexpected messages: {shown[len(expected['messages']) :]}")
