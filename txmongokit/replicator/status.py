"""
What the replication is doing, over HTTP: a page for people, JSON and
Prometheus for programs, and the orders that may be given.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from txmongokit.listening import bearer_token, page_refusal
from txmongokit.replicator.appliers import LaneState
from txmongokit.replicator.cutover import BadOrder, Controls, IllegalTransition, State
from txmongokit.replicator.start import show_position

__all__ = ["Snapshot", "StatusSite"]

_MOST_BODY = 10_000
_TOKEN_OPTION = "--status-token-file"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    How the replication stands.

    @ivar lag: seconds behind the source; C{None} while not measured.
    @ivar headroom: seconds until what is to be read next is overwritten.
    @ivar rate: operations per second, lately.
    @ivar size: bytes read from the oplog.
    @ivar lanes: how each lane stands, where there are several.
    @ivar limits: operations and bytes a second that it is allowed.
    @ivar clone: how far a clone is, where there is one.
    @ivar verification: what a verification has found so far.
    """

    state: State
    message: str = ""
    position: int = 0
    applied: int = 0
    commands: int = 0
    skipped: int = 0
    missing: int = 0
    size: int = 0
    rate: float = 0.0
    limits: tuple[float, float] = (inf, inf)
    lag: float | None = None
    headroom: float | None = None
    lanes: Sequence[LaneState] = ()
    clone: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    orders: tuple[str, ...] = field(default=())

    def fields(self) -> dict[str, Any]:
        """
        For C{/api/v1/progress}.
        """
        return {
            "state": self.state.value,
            "message": self.message,
            "lag_seconds": self.lag,
            "position": {
                "time": self.position >> 32,
                "increment": self.position & 0xFFFFFFFF,
                "shown": show_position(self.position),
            },
            "applied": self.applied,
            "commands": self.commands,
            "rate": round(self.rate, 1),
            "skipped": self.skipped,
            "missing": self.missing,
            "bytes": self.size,
            "limits": {
                name: None if limit == inf else limit
                for name, limit in zip(("operations", "bytes"), self.limits, strict=True)
            },
            "headroom_seconds": None if self.headroom is None else round(self.headroom, 1),
            "lanes": [_lane_fields(lane) for lane in self.lanes] or None,
            "clone": None if self.clone is None else dict(self.clone),
            "verification": None if self.verification is None else dict(self.verification),
        }

    def metrics(self) -> str:
        """
        For C{/metrics}, in Prometheus' text format.
        """
        lines: list[str] = []

        def add(name: str, kind: str, about: str, value: float | None) -> None:
            if value is not None:
                full = f"mongosync_{name}"
                lines.extend(
                    (f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {_number(value)}")
                )

        add("applied_operations_total", "counter", "Operations applied.", self.applied)
        add("commands_total", "counter", "Changes of the schema applied.", self.commands)
        add("skipped_entries_total", "counter", "Entries that are not selected.", self.skipped)
        add("missing_documents_total", "counter", "Updates that found none.", self.missing)
        add("oplog_bytes_total", "counter", "Bytes of the oplog read.", self.size)
        add("applied_position_seconds", "gauge", "Time of the position.", self.position >> 32)
        add("lag_seconds", "gauge", "Seconds behind the source.", self.lag)
        add(
            "oplog_headroom_seconds",
            "gauge",
            "Seconds until the source overwrites what is to be read next.",
            self.headroom,
        )
        lines += ["# HELP mongosync_state 1 for the present state.", "# TYPE mongosync_state gauge"]
        lines += [
            f'mongosync_state{{state="{state.value}"}} {int(state is self.state)}'
            for state in State
        ]
        lines += self._lane_metrics()
        for name, value in (self.clone or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                add(f"clone_{name}", "gauge", "See the clone's progress.", value)
        return "\n".join(lines) + "\n"

    def _lane_metrics(self) -> list[str]:
        if not self.lanes:
            return []
        full = "mongosync_lane_position_seconds"
        return [
            f"# HELP {full} Time up to which a lane has applied what is its.",
            f"# TYPE {full} gauge",
            *(
                f'{full}{{lane="{number}"}} {lane.position >> 32}'
                for number, lane in enumerate(self.lanes)
            ),
        ]

    def page(self) -> str:
        """
        For C{/}: HTML without a script.
        """
        rows: list[tuple[str, str]] = []
        for name, value in self.fields().items():
            if isinstance(value, dict):
                shown = value.get("shown")
                inner = (f"{key}: {each}" for key, each in value.items())
                rows.append((name, str(shown) if shown else "; ".join(inner)))
            elif isinstance(value, list):
                rows.extend(
                    (f"lane {number}", f"{each['shown']}; applied: {each['applied']}")
                    for number, each in enumerate(value)
                )
            elif value not in (None, ""):
                rows.append((name, str(value)))
        table = "\n".join(
            f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(text)}</td></tr>"
            for name, text in rows
        )
        return (
            "<!DOCTYPE html>\n"
            '<html lang="en"><head><meta charset="utf-8"><title>mongosync</title>\n'
            '<meta http-equiv="refresh" content="5">\n'
            "<style>body{font-family:sans-serif;margin:2em}th{text-align:left;padding-right:2em;"
            "vertical-align:top}</style></head><body>\n"
            f"<h1>mongosync: {escape(self.state.value)}</h1>\n<table>\n{table}\n</table>\n"
            '<p><a href="/api/v1/progress">JSON</a>, <a href="/metrics">metrics</a>. '
            "POST /api/v1/pause, resume, limit, commit and reverse give orders.</p>\n"
            "</body></html>\n"
        )


def _lane_fields(lane: LaneState) -> dict[str, Any]:
    return {
        "time": lane.position >> 32,
        "increment": lane.position & 0xFFFFFFFF,
        "shown": show_position(lane.position),
        "applied": lane.applied,
        "busy": lane.busy,
    }


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


class StatusSite:
    """
    The pages, and who may see them.

    @param snapshot: asks how the replication stands.
    @param token: what requests have to show as C{Authorization: Bearer};
        C{None} where only this machine can come.
    """

    _log = Logger()

    def __init__(
        self, snapshot: Callable[[], Snapshot], controls: Controls, token: str | None = None
    ) -> None:
        self.snapshot = snapshot
        self._controls = controls
        self._token = token
        api = Resource()
        version = Resource()
        api.putChild(b"v1", version)
        version.putChild(b"progress", _Page(self, _progress))
        for verb in ("pause", "resume", "limit", "commit", "reverse"):
            version.putChild(verb.encode(), _Order(self, verb))
        self.root = Resource()
        self.root.putChild(b"", _Page(self, _people))
        self.root.putChild(b"metrics", _Page(self, _metrics))
        self.root.putChild(b"api", api)

    def listen(self, reactor: Any, place: str) -> Deferred[IListeningPort]:
        """
        Begin to answer.

        @param place: from L{txmongokit.listening.listening_place}.
        @return: fires with the port, which is to be closed.
        """
        site = _QuietSite(self.root, reactor=reactor)
        listening: Deferred[IListeningPort] = serverFromString(reactor, place).listen(site)
        return listening

    def refusal(self, request: IRequest) -> tuple[int, str] | None:
        """
        Why a request is not answered; C{None} where it is.
        """
        if self._token is not None:
            shown = bearer_token(request.getHeader(b"authorization"))
            if shown is None or not hmac.compare_digest(shown, self._token.encode()):
                return 401, f"show the token of {_TOKEN_OPTION} as 'Authorization: Bearer'"
            return None
        refusal = page_refusal(
            request.getHeader(b"host"), request.getHeader(b"origin"), _TOKEN_OPTION
        )
        return None if refusal is None else (403, refusal)

    def order(self, verb: str, body: Mapping[str, Any]) -> None:
        """
        Do what is asked.

        @raise IllegalTransition: it cannot be done now.
        @raise BadOrder: it cannot be done ever.
        """
        self._log.info("{verb} was asked for over HTTP", verb=verb)
        if verb == "commit":
            self._controls.commit(writes_blocked=body.get("writes_blocked") is True)
        elif verb == "pause":
            self._controls.pause()
        elif verb == "resume":
            self._controls.resume()
        elif verb == "limit":
            self._controls.limit(body)
        else:
            self._controls.reverse()


class _QuietSite(Site):
    """Nobody needs a line in the log for each time that the metrics are read."""

    noisy = False

    def log(self, request: Any) -> None:
        """Nothing."""


def _progress(snapshot: Snapshot) -> tuple[str, str]:
    return "application/json", json.dumps(snapshot.fields()) + "\n"


def _people(snapshot: Snapshot) -> tuple[str, str]:
    return "text/html; charset=utf-8", snapshot.page()


def _metrics(snapshot: Snapshot) -> tuple[str, str]:
    return "text/plain; version=0.0.4; charset=utf-8", snapshot.metrics()


def _answer(request: IRequest, status: int, fields: Mapping[str, Any]) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    if status == 401:
        request.setHeader(b"www-authenticate", b"Bearer")
    return json.dumps(fields).encode() + b"\n"


class _Page(Resource):
    """Something to look at."""

    isLeaf = True

    def __init__(self, site: StatusSite, render: Callable[[Snapshot], tuple[str, str]]) -> None:
        super().__init__()
        self._site = site
        self._render = render

    def render_GET(self, request: IRequest) -> bytes:
        """The present state."""
        refusal = self._site.refusal(request)
        if refusal is not None:
            return _answer(request, refusal[0], {"error": refusal[1]})
        kind, text = self._render(self._site.snapshot())
        request.setHeader(b"content-type", kind.encode())
        request.setHeader(b"cache-control", b"no-store")
        return text.encode()


class _Order(Resource):
    """Something to do."""

    isLeaf = True

    def __init__(self, site: StatusSite, verb: str) -> None:
        super().__init__()
        self._site = site
        self._verb = verb

    def render_POST(self, request: Any) -> bytes:
        """Do it, and tell the state."""
        refusal = self._site.refusal(request)
        if refusal is not None:
            return _answer(request, refusal[0], {"error": refusal[1]})
        raw = request.content.read(_MOST_BODY)
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _answer(request, 400, {"error": "the body must be a JSON object, or empty"})
        try:
            self._site.order(self._verb, body)
        except IllegalTransition as error:
            state = self._site.snapshot().state.value
            return _answer(request, 409, {"error": str(error), "state": state})
        except BadOrder as error:
            return _answer(request, 400, {"error": str(error)})
        return _answer(request, 202, {"state": self._site.snapshot().state.value})
