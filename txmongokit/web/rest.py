"""
Sessions over HTTP, for programs in any language: JSON in, JSON out.

The routes, below C{/v1/}::

    POST   sessions                     make one
    GET    sessions/ID                  read it
    PUT    sessions/ID                  save its data; If-Match must have its version
    DELETE sessions/ID                  end it
    POST   sessions/ID/touch            let it last
    POST   sessions/ID/regenerate       give it a new id
    POST   sessions/ID/user             log a user in or out, with a new id
    GET    users/USER/sessions          list a user's, without ids and data
    DELETE users/USER/sessions          end all of a user
    DELETE keys/KEY                     end one of a list

and C{/health} and C{/metrics}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from txmongokit.errors import PyMongoError
from txmongokit.listening import bearer_token, page_refusal
from txmongokit.web.bounded import BoundedSite, Refusal
from txmongokit.web.extendedjson import BodyError, read_document, show_document
from txmongokit.web.sessionmetrics import SessionMetrics
from txmongokit.web.store import (
    InvalidSessionData,
    MongoSessionStore,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionLockTimeout,
    SessionRecord,
    SessionSummary,
    SessionTooLarge,
    SessionUnreadable,
)
from txmongokit.web.tokens import TokenFile

__all__ = ["Limits", "SessionAPI"]

_log = Logger()
_METHODS = frozenset({b"GET", b"HEAD", b"PUT", b"POST", b"DELETE"})
_TOKEN_OPTION = "--token-file"
_NO_SESSION = "there is no such session, or it has ended"
# Until a client that was turned away should come again, in seconds.
_RETRY_AFTER = "1"
# How often a session that others save all the time is given a new id.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one client may ask of everybody's server.

    @ivar body: bytes that a request's body may have.
    @ivar requests: how many requests are served at once.
    @ivar listed: how many sessions a list has at most.
    @ivar seconds: how long a request may take.
    """

    body: int = 4 << 20
    requests: int = 100
    listed: int = 1000
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """
    What is sent back.

    @ivar kind: of the body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    kind: bytes = b"application/json"


class _Refused(Exception):
    """
    A request gets an error.

    @ivar refusal: which one.
    """

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.refusal = Refusal(status, reason, named)

    @property
    def answer(self) -> _Answer:
        """The answer that says so."""
        return _turned_away(self.refusal)


_Work = Callable[[IRequest], Awaitable[_Answer]]
_GONE = 499
_CHALLENGE = {"www_authenticate": "Bearer"}
_WRONG_TOKEN = {"www_authenticate": 'Bearer error="invalid_token"'}


class SessionAPI(Resource):
    """
    The root of a site, see the module.

    Ids are in no line of the log: only a route's kind is.

    @param store: asked at each request for the store.
    @ivar clock: the reactor, for time.
    @param tokens: what requests have to show; C{None} where only this machine
        can come.
    @param metrics: where requests are counted.
    """

    isLeaf = True

    def __init__(
        self,
        store: Callable[[], MongoSessionStore],
        clock: Any,
        *,
        tokens: TokenFile | None = None,
        metrics: SessionMetrics | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self.clock = clock
        self._tokens = tokens
        self._metrics = SessionMetrics() if metrics is None else metrics
        self._limits = Limits() if limits is None else limits
        self._idle: list[Deferred[None]] = []

    def site(self) -> BoundedSite:
        """
        A site with this as its root, which takes no bodies but those that are
        wanted and short enough.
        """
        limits = self._limits
        return BoundedSite(
            self,
            limits.body,
            most=limits.requests,
            admit=self.refusal,
            refused=self.refused,
            reactor=self.clock,
        )

    def idle(self) -> Deferred[None]:
        """
        @return: fires when no request is under way.
        """
        waiting: Deferred[None] = Deferred()
        if self._metrics.under_way:
            self._idle.append(waiting)
        else:
            waiting.callback(None)
        return waiting

    def render(self, request: Any) -> int:
        """
        Answer, sooner or later.
        """
        began = self.clock.seconds()
        route, methods = self._find(request.postpath)
        gone: list[Failure] = []
        self._metrics.under_way += 1
        work = Deferred.fromCoroutine(self._respond(request, methods))
        work.addTimeout(self._limits.seconds, self.clock)
        work.addErrback(_explained, route)

        def leave(failure: Failure) -> None:
            gone.append(failure)
            work.cancel()

        def answered(answer: _Answer) -> None:
            self._metrics.under_way -= 1
            if not gone:
                _send(request, answer)
            seconds = self.clock.seconds() - began
            self._count(request, route, _GONE if gone else answer.status, seconds)
            if not self._metrics.under_way:
                idle, self._idle = self._idle, []
                for waiting in idle:
                    waiting.callback(None)

        request.notifyFinish().addErrback(leave)
        work.addCallback(answered)
        work.addErrback(lambda failure: _log.failure("A request was not answered", failure))
        return NOT_DONE_YET

    def _count(self, request: Any, route: str, status: int, seconds: float) -> None:
        method = request.method.decode() if request.method in _METHODS else "other"
        self._metrics.answered(route, method, status, seconds)
        _log.info(
            "{client} {method} {route} {status} {milliseconds} ms",
            client=getattr(request.getClientAddress(), "host", "-"),
            method=method,
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )

    def _find(self, path: list[bytes]) -> tuple[str, dict[bytes, _Work]]:
        """
        What there is at a path: its kind, and what the methods do.
        """
        match path:
            case [b"health"]:
                return "health", {b"GET": self._health}
            case [b"metrics"]:
                return "metrics", {b"GET": self._show_metrics}
            case [b"v1", b"sessions"]:
                return "sessions", {b"POST": self._create}
            case [b"v1", b"sessions", identifier]:
                return "session", {
                    b"GET": lambda request: self._load(_text(identifier)),
                    b"PUT": lambda request: self._save(request, _text(identifier)),
                    b"DELETE": lambda request: self._delete(request, _text(identifier)),
                }
            case [b"v1", b"sessions", identifier, b"touch"]:
                return "touch", {b"POST": lambda request: self._touch(_text(identifier))}
            case [b"v1", b"sessions", identifier, b"regenerate"]:
                return "regenerate", {b"POST": lambda request: self._regenerate(_text(identifier))}
            case [b"v1", b"sessions", identifier, b"user"]:
                return "user", {b"POST": lambda request: self._bind(request, _text(identifier))}
            case [b"v1", b"users", user, b"sessions"]:
                return "users", {
                    b"GET": lambda request: self._list(request, _text(user)),
                    b"DELETE": lambda request: self._revoke(_text(user)),
                }
            case [b"v1", b"keys", key]:
                return "key", {b"DELETE": lambda request: self._delete_key(_text(key))}
        return "unknown", {}

    async def _respond(self, request: Any, methods: dict[bytes, _Work]) -> _Answer:
        try:
            if self._metrics.under_way > self._limits.requests:
                raise _Refused(503, "too many requests are under way", retry_after=_RETRY_AFTER)
            self._admit(request, unknown=request.postpath == [b"health"])
            if request.refused is not None:
                return _turned_away(request.refused)
            if not methods:
                raise _Refused(404, "there is nothing at this path")
            method = b"GET" if request.method == b"HEAD" else request.method
            if method not in methods:
                allowed = ", ".join(sorted(known.decode() for known in methods))
                raise _Refused(405, f"use one of {allowed} here", allow=allowed)
            return await methods[method](request)
        except _Refused as refused:
            return refused.answer
        except SessionConflict as conflict:
            return self._conflict(conflict.current.version)
        except SessionGone:
            return _Refused(404, _NO_SESSION).answer
        except BodyError as error:
            return _Refused(400, str(error)).answer
        except SessionTooLarge as error:
            return _Refused(413, f"the data has {error.size} bytes, not {error.limit}").answer
        except InvalidSessionData as error:
            return _Refused(422, str(error)).answer
        except SessionLockTimeout:
            return _Refused(503, "others use this session", retry_after=_RETRY_AFTER).answer

    def refusal(self, request: Any) -> Refusal | None:
        """
        Why the body of a request is not wanted, of which the headers have
        come.

        @return: C{None} if it is.
        """
        try:
            self._admit(request)
        except _Refused as refused:
            return refused.refusal
        return None

    def refused(self, request: Any, refusal: Refusal) -> None:
        """
        Count a request that was answered before its body had come.
        """
        self._count(request, "refused", refusal.status, 0.0)

    def _admit(self, request: Any, *, unknown: bool = False) -> None:
        """
        Turn away who may not come in.

        @param unknown: whether those may who show no token.
        """
        if self._tokens is not None:
            shown = bearer_token(request.getHeader(b"authorization"))
            if unknown and shown is None:
                return  # Whoever balances loads has no token, and learns nothing.
            if shown is None:
                raise _Refused(401, "show a token as 'Authorization: Bearer'", **_CHALLENGE)
            if not self._tokens.accepts(shown):
                raise _Refused(401, "this token is not known", **_WRONG_TOKEN)
            return
        reason = page_refusal(
            request.getHeader(b"host"), request.getHeader(b"origin"), _TOKEN_OPTION
        )
        if reason is not None:
            raise _Refused(403, reason)

    def _conflict(self, version: int) -> _Answer:
        self._metrics.conflicts += 1
        return _Refused(
            412, "the session has another version: load it again", etag=_etag(version)
        ).answer

    # Routes.

    async def _health(self, request: IRequest) -> _Answer:
        await self._store().collection.database.command("ping")
        return _told(200, {"status": "ok"})

    async def _show_metrics(self, request: IRequest) -> _Answer:
        counting = self._store().collection.estimated_document_count()
        counting.addTimeout(self._limits.seconds / 2, self.clock)
        counted: int | None
        try:
            counted = await counting
        except (PyMongoError, DeferredTimeout):
            counted = None  # What else there is to tell matters all the more.
        text = self._metrics.text(counted).encode()
        return _Answer(200, body=text, kind=b"text/plain; version=0.0.4; charset=utf-8")

    async def _create(self, request: IRequest) -> _Answer:
        fields = _fields(request, "data", "user", "lifetime", "confidential")
        options = {name: fields[name] for name in fields if name != "data"}
        if not isinstance(fields.get("confidential", False), bool):
            raise _Refused(400, "confidential must be true or false")
        with _Asked():
            record = self._store().new_record(_data(fields.get("data", {})), **options)
        await self._store().save(record)
        return _shown(record, 201, location=f"/v1/sessions/{record.id}")

    async def _record(self, identifier: str) -> SessionRecord:
        record = await self._store().load(identifier)
        if record is None:
            raise _Refused(404, _NO_SESSION)
        return record

    async def _load(self, identifier: str) -> _Answer:
        return _shown(await self._record(identifier))

    async def _save(self, request: IRequest, identifier: str) -> _Answer:
        wanted = _wanted_version(request)
        fields = _fields(request, "data", "lifetime")
        data = _data(fields.get("data"))
        lifetime = _lifetime(fields)

        def change(record: SessionRecord) -> None:
            record.data = data
            if lifetime is not None:
                record.lifetime = lifetime

        if wanted is None:
            with _Asked():
                changed = await self._store().update(identifier, change)
            if changed is None:
                raise _Refused(404, _NO_SESSION)
            return _shown(changed)
        record = await self._record(identifier)
        if record.version != wanted:
            return self._conflict(record.version)
        change(record)
        with _Asked():
            await self._store().save(record)
        return _shown(record)

    async def _delete(self, request: IRequest, identifier: str) -> _Answer:
        if request.getHeader(b"if-match") is not None:
            raise _Refused(400, "If-Match is for PUT: a session is ended whatever its version")
        return _ended(await self._store().delete(identifier))

    async def _touch(self, identifier: str) -> _Answer:
        record = await self._record(identifier)
        if not await self._store().touch(record):
            raise _Refused(404, _NO_SESSION)
        return _told(200, {"expires": record.expires}, {"etag": _etag(record.version)})

    async def _regenerate(self, identifier: str) -> _Answer:
        return await self._renewed(identifier, lambda record: self._store().regenerate(record))

    async def _renewed(
        self, identifier: str, renew: Callable[[SessionRecord], Awaitable[SessionRecord]]
    ) -> _Answer:
        """
        Give a session a new id, whatever its version: the request names none.
        """
        record = await self._record(identifier)
        for attempt in range(_ATTEMPTS):
            try:
                record = await renew(record)
                break
            except SessionConflict as conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                record = conflict.current
        return _shown(record, location=f"/v1/sessions/{record.id}")

    async def _bind(self, request: IRequest, identifier: str) -> _Answer:
        fields = _fields(request, "user")
        if "user" not in fields:
            raise _Refused(400, "the body must have a user, or null to log out")

        async def bind(record: SessionRecord) -> SessionRecord:
            with _Asked():
                return await self._store().bind_user(record, fields["user"])

        return await self._renewed(identifier, bind)

    async def _list(self, request: Any, user: str) -> _Answer:
        given = request.args.get(b"limit", [b"100"])[-1]
        most = self._limits.listed
        if not given.isdigit() or len(given) > 9 or not 0 < int(given) <= most:
            raise _Refused(400, f"limit must be a number from 1 to {most}")
        limit = int(given)
        with _Asked():
            found = await self._store().for_user(user, limit=limit + 1)
        return _told(200, {"sessions": [*map(_summary, found[:limit])], "more": len(found) > limit})

    async def _revoke(self, user: str) -> _Answer:
        with _Asked():
            count = await self._store().revoke_user(user)
        return _told(200, {"revoked": count})

    async def _delete_key(self, key: str) -> _Answer:
        return _ended(await self._store().delete_key(key))


class _Asked:
    """
    Inside, what the store says of its arguments is the client's fault.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TypeError | ValueError) and not isinstance(error, SessionError):
            raise _Refused(400, str(error)) from None


def _explained(failure: Failure, route: str) -> _Answer:
    """
    The answer for what went wrong here.
    """
    if failure.check(DeferredTimeout, CancelledError):
        return _Refused(503, "the database takes too long", retry_after=_RETRY_AFTER).answer
    if failure.check(SessionUnreadable):
        return _Refused(
            500, "the session was stored with a codec or key that this service has not"
        ).answer
    if failure.check(PyMongoError):
        # Its message may quote documents.
        _log.error("{route} has failed: {kind}", route=route, kind=type(failure.value).__name__)
        return _Refused(503, "the database cannot be asked now", retry_after=_RETRY_AFTER).answer
    _log.failure("{route} has failed", failure, route=route)
    return _Refused(500, "this has failed here: see the log").answer


def _told(
    status: int, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> _Answer:
    return _Answer(status, headers or {}, show_document(fields))


def _turned_away(refusal: Refusal) -> _Answer:
    return _told(refusal.status, {"error": refusal.reason}, refusal.headers)


def _send(request: Any, answer: _Answer) -> None:
    request.setResponseCode(answer.status)
    if answer.body:
        request.setHeader(b"content-type", answer.kind)
    if answer.status != http.NO_CONTENT:
        request.setHeader(b"content-length", b"%d" % len(answer.body))
    request.setHeader(b"cache-control", b"no-store")
    for name, value in answer.headers.items():
        request.setHeader(name.encode(), value.encode())
    request.write(answer.body)
    request.finish()


def _text(part: bytes) -> str:
    """
    A part of a path; empty, which nothing is called, where it is no UTF-8.
    """
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _etag(version: int) -> str:
    return f'"{version}"'


def _wanted_version(request: IRequest) -> int | None:
    """
    What a request's C{If-Match} says; C{None} for any version.
    """
    given = (request.getHeader(b"if-match") or b"").strip()
    if given == b"*":
        return None
    number = given[1:-1]
    if not given:
        raise _Refused(428, "send If-Match with the session's ETag, or with * for any version")
    if given != b'"%b"' % number or not number.isdigit() or len(number) > 18:
        raise _Refused(412, "If-Match must be the ETag that the session was loaded with, or *")
    return int(number)


def _fields(request: Any, *known: str) -> dict[str, Any]:
    """
    A request's body.
    """
    kind = (request.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise _Refused(415, "send application/json")
    request.content.seek(0)
    found = read_document(request.content.read())
    unknown = sorted(set(found).difference(known))
    if unknown:
        raise _Refused(400, f"the body may have {', '.join(known)} and nothing else")
    return found


def _data(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Refused(400, "data must be an object")
    return value


def _lifetime(fields: Mapping[str, Any]) -> timedelta | None:
    seconds = fields.get("lifetime")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise _Refused(400, "lifetime must be a number of seconds")
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise _Refused(400, "lifetime is too long, or no number") from None


def _shown(record: SessionRecord, status: int = 200, **headers: str) -> _Answer:
    fields = {
        "id": record.id,
        "data": record.data,
        "user": record.user,
        "confidential": record.confidential,
        "created": record.created,
        "used": record.used,
        "expires": record.expires,
        "lifetime": record.lifetime.total_seconds(),
        "version": record.version,
    }
    try:
        return _told(status, fields, {"etag": _etag(record.version), **headers})
    except (TypeError, ValueError, ArithmeticError):
        # These quote the data, which is not for the log.
        raise _Refused(500, "the session has data that JSON cannot have") from None


def _summary(summary: SessionSummary) -> dict[str, Any]:
    return {
        "key": summary.key,
        "user": summary.user,
        "confidential": summary.confidential,
        "created": summary.created,
        "used": summary.used,
        "expires": summary.expires,
    }


def _ended(found: bool) -> _Answer:
    if not found:
        raise _Refused(404, _NO_SESSION)
    return _Answer(204)
