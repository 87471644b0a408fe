"""
One request's use of its sessions: loaded before it is rendered, saved before
its response is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

from txmongokit.connection import shared
from txmongokit.errors import PyMongoError
from txmongokit.web.cookies import SessionCookies, cookie_value
from txmongokit.web.errors import (
    SessionConflict,
    SessionError,
    SessionGone,
    SessionUnreadable,
)
from txmongokit.web.locks import SessionLock
from txmongokit.web.merging import merge
from txmongokit.web.records import SessionRecord
from txmongokit.web.store import MongoSessionStore
from txmongokit.web.websession import KeptSessions, StoredSession

__all__ = ["Visit", "begin_notice"]

_log = Logger()
_MERGES = 10
# Headers that are about a page, and untrue of a sentence in its place.
_OF_PAGES = (b"cache-control", b"expires", b"etag", b"last-modified", b"location")


@dataclass
class _Slot:
    """
    A request's session of one kind.

    @ivar session: what the request uses; C{None} before it asks for one.
    @ivar lock: what keeps others out.
    @ivar offered: the id that the client has now.
    """

    session: StoredSession | None = None
    lock: SessionLock | None = None
    offered: str | None = None


def begin_notice(request: Any, code: int, text: bytes) -> None:
    """
    Status and headers of a response that is nothing but a sentence, whatever
    the page has said of its own.
    """
    request.setResponseCode(code)
    for name in _OF_PAGES:
        request.responseHeaders.removeHeader(name)
    request.etag = request.lastModified = None
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    request.setHeader(b"content-length", b"%d" % len(text))


class Visit:
    """
    A request on its way through a site with stored sessions.

    The session is saved before the first byte of the response, so that
    whoever follows a redirect finds it, and again before the last one if it
    has changed since: a client that has the whole response finds what was
    done.  While it is saved what is written waits.

    @param exclusive: whether others have to wait until this request is over.
    @param confidential: whether the connection is encrypted.
    """

    def __init__(
        self,
        request: Any,
        store: MongoSessionStore,
        kept: KeptSessions,
        cookies: SessionCookies,
        *,
        exclusive: bool,
        confidential: bool,
    ) -> None:
        self._request = request
        self._store = store
        self._kept = kept
        self._cookies = cookies
        self._exclusive = exclusive
        self._confidential = confidential
        self._slots: dict[bool, _Slot] = {}
        self._former: list[SessionRecord] = []
        self._held: list[bytes] | None = None
        self._producer: tuple[Any, bool] | None = None
        self._finishing = False
        self._begun = False
        self._over = False
        self._lost = False
        self._failed = False
        self._sent = 0
        self._write = request.write
        self._finish = request.finish
        self._register = request.registerProducer
        self._unregister = request.unregisterProducer

    # Before.

    def begin(self) -> Deferred[None] | None:
        """
        Load what the request brings.

        @return: C{None} if it brings nothing; otherwise fires with C{None}, or
            fails with L{SessionLockTimeout} or one of L{txmongokit.errors};
            then L{leave} must follow.
        """
        offers = [
            (confidential, value)
            for confidential in ((True, False) if self._confidential else (False,))
            if self._store.is_well_formed(
                value := cookie_value(self._request, self._cookies.named(confidential))
            )
        ]
        exposed = None
        if not self._confidential:
            exposed = cookie_value(self._request, self._cookies.secure_name)
        if not offers and exposed is None:
            return None
        return Deferred.fromCoroutine(self._load(offers, exposed))

    async def _load(self, offers: list[tuple[bool, Any]], exposed: str | None) -> None:
        if exposed is not None:
            # Whoever goes away keeps no session from being ended.
            await shared(Deferred.fromCoroutine(self._end_exposed(exposed)))
        for confidential, identifier in offers:
            if any(slot.offered == identifier for slot in self._slots.values()):
                continue  # It is of the other kind, and locked already.
            slot = self._slots[confidential] = _Slot()
            if self._exclusive:
                slot.lock = await self._store.lock(identifier)
            try:
                record = await self._store.load(identifier, confidential=confidential)
            except SessionUnreadable as error:
                _log.error("a session is begun anew: {error}", error=str(error))
                record = None
            if record is not None and await self._store.touch(record):
                slot.offered = identifier
                if self._exclusive:
                    slot.session = self._kept.session_of(record, self._request.site)
                else:
                    slot.session = StoredSession(self._request.site, record)
                continue
            self._kept.lost(identifier)
            await self._release(slot)
            if self._over:
                raise CancelledError  # The client left while the lock was given up.

    async def _end_exposed(self, identifier: str) -> None:
        try:
            count = await self._store.revoke_exposed([identifier])
        except PyMongoError as error:
            _log.error(
                "a session whose id came in clear may not have ended: {kind}",
                kind=type(error).__name__,
            )
            raise
        if count:
            _log.warn("a confidential session's id came in clear: the session was ended")

    def take_over(self) -> None:
        """
        Stand between the request and its connection.
        """
        request = self._request
        request.write, request.finish = self.write, self.finish
        request.registerProducer = self.registerProducer
        request.unregisterProducer = self.unregisterProducer
        request.getSession = self.getSession

    # While it is rendered.

    def getSession(self, sessionInterface: Any = None, forceNotSecure: bool = False) -> Any:
        """
        The request's session, or a new one: see L{Request.getSession
        <twisted.web.server.Request.getSession>}.

        @raise SessionError: the response has begun, so that no cookie can
            carry a new session's id.
        """
        confidential = self._confidential and not forceNotSecure
        slot = self._slots.setdefault(confidential, _Slot())
        session = slot.session
        if session is None or session.ended:
            if self._begun:
                raise SessionError(
                    "the response has begun, so no cookie can be set: call getSession() before "
                    "the first write"
                )
            if session is not None:
                self._former.append(session.record)
                self._kept.forget(session.record.id)
            record = self._store.new_record(confidential=confidential)
            session = slot.session = StoredSession(self._request.site, record)
        session.touch()
        return session if sessionInterface is None else session.getComponent(sessionInterface)

    def write(self, data: bytes) -> None:
        """
        See L{IRequest.write<twisted.web.iweb.IRequest.write>}.
        """
        if self._failed:
            return
        if self._over:
            self._write(data)
        elif self._held is not None:
            self._held.append(data)
        elif self._is_edge(data) and self._is_due():
            self._settle([data])
        else:
            self._send(data)

    def finish(self) -> None:
        """
        See L{IRequest.finish<twisted.web.iweb.IRequest.finish>}.
        """
        if self._failed:
            return
        if self._over:
            self._finish()
        elif self._held is not None:
            self._finishing = True
        elif self._is_due():
            self._finishing = True
            self._settle([])
        else:
            self._close()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        See L{IConsumer.registerProducer
        <twisted.internet.interfaces.IConsumer.registerProducer>}.
        """
        if self._failed:
            producer.stopProducing()
        elif self._held is not None:
            self._producer = producer, streaming
        else:
            self._register(producer, streaming)

    def unregisterProducer(self) -> None:
        """
        See L{IConsumer.unregisterProducer
        <twisted.internet.interfaces.IConsumer.unregisterProducer>}.
        """
        if self._producer is not None:
            self._producer = None
        elif not self._failed:
            self._unregister()

    # Its edges.

    def _is_edge(self, data: bytes) -> bool:
        """
        Whether this is the first of the response, or the last.
        """
        if not self._begun:
            return True
        (length,) = self._request.responseHeaders.getRawHeaders(b"content-length", [b""])[:1]
        return length.isdigit() and self._sent + len(data) >= int(length)

    def _is_due(self) -> bool:
        """
        Whether there is something to be saved.
        """
        if self._former:
            return True
        for slot in self._slots.values():
            session = slot.session
            if session is None or (session.ended and session.record.version == 0):
                continue
            if session.ended or session.renewed or session.record.version == 0:
                return True
            try:
                if self._store.is_changed(session.record):
                    return True
            except (SessionError, TypeError, ValueError):
                return True  # Saving it tells why not.
        return False

    def _settle(self, held: list[bytes]) -> None:
        self._held = held
        work = Deferred.fromCoroutine(self._save_all())
        work.addCallbacks(self._saved, self._unsaved)
        work.addErrback(lambda failure: _log.failure("a response went wrong", failure))

    async def _save_all(self) -> None:
        while self._former:
            await self._store.delete(self._former[-1].id)
            self._former.pop()
        for confidential, slot in self._slots.items():
            session = slot.session
            if session is None:
                continue
            try:
                await self._save(session)
            except SessionGone:
                _log.info("a session had been ended by others when its request was over")
                session.ended = True
            if session.ended and not self._begun and slot.offered is not None:
                self._cookies.clear(self._request, confidential)
                slot.offered = None

    async def _save(self, session: StoredSession) -> None:
        """
        Bring one session to the database.
        """
        record = session.record
        if session.ended:
            if record.version:
                await self._store.delete(record.id)
                record.version = 0
            return
        if session.renewed and self._begun:
            raise SessionError(
                "the response has begun, so no cookie can carry a new id: log in before the "
                "first write"
            )
        for attempt in range(_MERGES):
            try:
                if session.renewed and record.version:
                    await self._store.regenerate(record)
                else:
                    await self._store.save(record)
            except SessionConflict as conflict:
                if attempt == _MERGES - 1:
                    raise
                record = session.record = merge(conflict)
            else:
                break
        session.renewed = False

    def _saved(self, _: None) -> None:
        held, self._held = self._held or [], None
        if self._over:
            return
        for data in held:
            self.write(data)  # Meanwhile the session may have changed again.
        if self._producer is not None and self._held is None:
            producer, self._producer = self._producer, None
            self._register(*producer)
        if self._finishing and self._held is None:
            self._finishing = False
            self.finish()

    def _unsaved(self, failure: Failure) -> None:
        """
        Nobody is told that something was done that was not.
        """
        _log.failure("a session was not saved, so its request fails", failure)
        self._held = None
        if self._over:
            return
        self._failed = True
        request = self._request
        for slot in self._slots.values():
            slot.session = None
        if self._begun:
            if request.channel is not None:
                request.channel.loseConnection()
            return
        if self._producer is not None:
            self._producer[0].stopProducing()
            self._producer = None
        if failure.check(PyMongoError):
            code = http.SERVICE_UNAVAILABLE
        elif failure.check(SessionConflict):
            code = http.CONFLICT
        else:
            code = http.INTERNAL_SERVER_ERROR
        body = b"The session could not be saved.\n"
        request.cookies[:] = []
        begin_notice(request, code, body)
        self._send(body)
        self._close()

    def _send(self, data: bytes) -> None:
        if not self._begun:
            self._set_cookies()
            self._begun = True
        self._sent += len(data)
        self._write(data)
        if self._request.write != self.write:
            # To HEAD, and with 204 and 304, twisted.web writes no body from here on.
            self._write = self._request.write

    def _set_cookies(self) -> None:
        for confidential, slot in self._slots.items():
            session = slot.session
            if session is None or session.ended:
                continue
            record = session.record
            if record.id != slot.offered or self._cookies.persistent:
                seconds = record.lifetime.total_seconds()
                self._cookies.set(self._request, record.id, confidential, seconds)
                slot.offered = record.id
                # What carries an id is for one client.
                if not self._request.responseHeaders.hasHeader(b"cache-control"):
                    self._request.setHeader(b"cache-control", b'no-cache="set-cookie"')

    # After.

    def _close(self) -> None:
        """
        The response is whole.
        """
        if not self._begun:
            self._send(b"")
        left = self.leave()
        if left is None:
            self._finish()
            return
        self._held = []
        left.addCallback(lambda _: None if self._lost else self._finish())
        left.addErrback(lambda failure: _log.failure("a response went wrong", failure))

    def disconnected(self) -> None:
        """
        The client has gone: what was not saved is not, and others may have the
        session.
        """
        self._lost = True
        self.leave()

    def leave(self) -> Deferred[None] | None:
        """
        Give up the locks, and keep what is to be kept in memory.

        @return: C{None} if there are none; otherwise fires with C{None}, and
            never fails.
        """
        if self._over:
            return None
        self._over = True
        slots = [*self._slots.values()]
        if self._exclusive:
            for slot in slots:
                if slot.session is not None:
                    self._kept.keep(slot.session)
        if all(slot.lock is None for slot in slots):
            return None

        async def release() -> None:
            for slot in slots:
                await self._release(slot)

        return Deferred.fromCoroutine(release())

    async def _release(self, slot: _Slot) -> None:
        lock, slot.lock = slot.lock, None
        if lock is None:
            return
        try:
            await lock.release()
        except (PyMongoError, CancelledError) as error:
            _log.warn("a lock ends by itself: {kind}", kind=type(error).__name__)
