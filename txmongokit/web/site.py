"""
Sessions in MongoDB for L{twisted.web}: C{request.getSession()} as ever, and
C{session.data} that is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Site

from txmongokit.errors import PyMongoError
from txmongokit.web.cookies import SessionCookies
from txmongokit.web.errors import SessionLockTimeout
from txmongokit.web.store import MongoSessionStore
from txmongokit.web.visit import Visit, begin_notice
from txmongokit.web.websession import KeptSessions, StoredSession

__all__ = ["SessionCookies", "SessionSite", "Sessions", "StoredSession"]

_log = Logger()


class Sessions(Resource):
    """
    A resource, and all below it, with sessions in MongoDB.

    The session of a request that brings one is loaded before the request is
    rendered, and saved, if it has changed, before the response is sent; a
    request that brings none costs nothing until it calls
    C{request.getSession()}.  Ids that are unknown, malformed or over lead to
    a new session with another id.

    By default, requests of one session come one after the other, in this
    process and among all others: what a request has loaded stays true until it
    is over.  With C{exclusive=False} they overlap, and changes to different
    keys of the data are merged; where two have changed the same key, the later
    request fails with 409.  Then components last for one request.

    @param resource: what is to be rendered.
    @param store: where the sessions are.
    @param cookies: their names and flags.
    @param exclusive: whether requests of one session come one after the
        other, or a function that is given the request and says so.  Pages that
        stay open for long should not be exclusive.
    @param secure: whether connections are encrypted; by default what
        C{request.isSecure()} says.  C{True} where a proxy speaks TLS.
    """

    isLeaf = True

    def __init__(
        self,
        resource: IResource,
        store: MongoSessionStore,
        *,
        cookies: SessionCookies | None = None,
        exclusive: bool | Callable[[IRequest], bool] = True,
        secure: bool | None = None,
    ) -> None:
        super().__init__()
        self._resource = resource
        self._store = store
        self._cookies = SessionCookies() if cookies is None else cookies
        self._exclusive = exclusive
        self._secure = secure
        self._kept = KeptSessions(store)

    def render(self, request: Any) -> Any:
        """
        Load, render, save.
        """
        exclusive = self._exclusive
        visit = Visit(
            request,
            self._store,
            self._kept,
            self._cookies,
            exclusive=exclusive(request) if callable(exclusive) else exclusive,
            confidential=bool(request.isSecure() if self._secure is None else self._secure),
        )
        loading = visit.begin()
        gone = request.notifyFinish()
        if loading is None:
            gone.addErrback(lambda _: visit.disconnected())
            return self._render(request, visit)
        waiting = loading

        def disconnected(_: Failure) -> None:
            visit.disconnected()
            waiting.cancel()

        gone.addErrback(disconnected)
        loading.addCallbacks(
            lambda _: self._render(request, visit),
            self._not_loaded,
            errbackArgs=(request, visit),
        )
        loading.addErrback(lambda failure: _log.failure("a request went wrong", failure))
        return NOT_DONE_YET

    def _render(self, request: Any, visit: Visit) -> Any:
        visit.take_over()
        try:
            request.render(getChildForRequest(self._resource, request))
        except Exception:
            # As twisted.web does it with what its own resources raise.
            request.processingFailed(Failure())
        return NOT_DONE_YET

    def _not_loaded(self, failure: Failure, request: Any, visit: Visit) -> None:
        """
        Without its session no request is rendered.
        """
        visit.leave()
        if failure.check(CancelledError):
            return
        if not failure.check(PyMongoError, SessionLockTimeout):
            request.processingFailed(failure)
            return
        _log.failure("a session was not loaded, so its request fails", failure)
        body = b"Sessions are not available at the moment.\n"
        begin_notice(request, http.SERVICE_UNAVAILABLE, body)
        request.setHeader(b"retry-after", b"5")
        if request.method != b"HEAD":
            request.write(body)
        request.finish()

    def close(self) -> None:
        """
        Forget the components of this process.
        """
        self._kept.clear()


class SessionSite(Site):
    """
    A site all of whose resources have sessions in MongoDB: see L{Sessions}
    for the arguments.

    @param options: more of them, and those of L{Site}.
    """

    def __init__(
        self,
        resource: IResource,
        store: MongoSessionStore,
        *,
        cookies: SessionCookies | None = None,
        exclusive: bool | Callable[[IRequest], bool] = True,
        secure: bool | None = None,
        **options: Any,
    ) -> None:
        self._sessions = Sessions(
            resource, store, cookies=cookies, exclusive=exclusive, secure=secure
        )
        super().__init__(self._sessions, **options)

    def stopFactory(self) -> None:
        """
        Forget the components of this process.
        """
        self._sessions.close()
        super().stopFactory()
