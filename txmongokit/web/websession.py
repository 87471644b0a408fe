"""
Sessions as L{twisted.web} knows them, with data that is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Session

from txmongokit.errors import PyMongoError
from txmongokit.web.errors import SessionUnreadable
from txmongokit.web.records import SessionRecord, check_user
from txmongokit.web.store import MongoSessionStore

__all__ = ["KeptSessions", "StoredSession"]

_log = Logger()


class StoredSession(Session):
    """
    What C{request.getSession()} returns.

    C{session.data} is a dictionary that is stored: change it, or set another,
    and it is saved before the response is sent.  Components
    (C{session.getComponent}, C{IThing(session)} with C{registerAdapter}) work as
    they do elsewhere; what they hold is in this process's memory only, and
    other processes have components of their own.  What is to last belongs into
    C{data}; an adapter finds it there as C{session.data}.

    @ivar uid: the id, as bytes; another one after L{log_in}, as soon as the
        response is sent.
    """

    def __init__(self, site: Any, record: SessionRecord) -> None:
        self.record = record
        self.ended = False
        self.renewed = False
        self.adapted = False
        super().__init__(site, record.id.encode("ascii"))
        self.sessionTimeout = round(record.lifetime.total_seconds())

    def __repr__(self) -> str:
        return f"<StoredSession of {self.record.user!r}>"

    @property
    def data(self) -> dict[str, Any]:
        """
        The application's own, which is stored.
        """
        return self.record.data

    @data.setter
    def data(self, data: dict[str, Any]) -> None:
        self.record.data = data

    @property
    def user(self) -> str | None:
        """
        Who is logged in.
        """
        return self.record.user

    @property
    def created(self) -> datetime:
        """
        When the session began.
        """
        return self.record.created

    def log_in(self, user: str) -> None:
        """
        The session is a user's from now on, and gets a new id with this
        response: whoever knew the one before (and may have planted it) is left
        with nothing.

        @raise TypeError: the user is no C{str}.
        @raise ValueError: the user is empty, or huge.
        """
        self.record.user = check_user(user)
        self.renewed = True

    def log_out(self) -> None:
        """
        The session is nobody's from now on, and gets a new id.  Its data
        stays: L{expire} ends all of it.
        """
        self.record.user = None
        self.renewed = True

    def regenerate(self) -> None:
        """
        Give the session a new id with this response: where its rights grow.
        """
        self.renewed = True

    def touch(self) -> None:
        """
        Let the session last for another lifetime from now on.  Every request
        that brings the session does.
        """
        self.lastModified = self._now()

    def _now(self) -> float:
        reactor: IReactorTime = self.site.reactor
        return reactor.seconds()

    def startCheckingExpiration(self) -> None:
        """
        Nothing: the database ends sessions.
        """

    def expire(self) -> None:
        """
        End the session: its callbacks are called now, it is deleted before
        this response is sent, and the cookie goes away with it.
        """
        self.ended = True
        self.over()

    def over(self) -> None:
        """
        Call what waits for the end.
        """
        callbacks, self.expireCallbacks = self.expireCallbacks, []
        for callback in callbacks:
            callback()

    def getComponent(self, interface: Any, default: Any = None) -> Any:
        """
        The session's component for an interface, made by its adapter if there
        is none yet.
        """
        found = super().getComponent(interface, default)
        self.adapted = self.adapted or found is not default
        return found

    def __conform__(self, interface: Any) -> Any:
        return self.getComponent(interface)

    def setComponent(self, interfaceClass: Any, component: Any) -> None:
        """
        Add a component.
        """
        self.adapted = True
        super().setComponent(interfaceClass, component)


@dataclass
class _Kept:
    session: StoredSession
    timer: IDelayedCall


class KeptSessions:
    """
    The sessions of this process that have something in memory: components,
    or callbacks for their end.

    @param most: how many; then those that were used longest ago lose what they
        have.
    """

    def __init__(self, store: MongoSessionStore, most: int = 10_000) -> None:
        self._store = store
        self._most = most
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def session_of(self, record: SessionRecord, site: Any) -> StoredSession:
        """
        The session of a record that was just loaded.
        """
        kept = self._kept.get(record.id)
        if kept is None:
            return StoredSession(site, record)
        kept.session.record = record
        return kept.session

    def keep(self, session: StoredSession) -> None:
        """
        A request has ended: remember its session, if that is of any use.
        """
        self.forget(session.uid.decode("ascii"))
        session.uid = session.record.id.encode("ascii")
        if session.ended or not (session.adapted or session.expireCallbacks):
            return
        while len(self._kept) >= self._most:
            self.forget(next(iter(self._kept)))
        self._watch(session)

    def forget(self, identifier: str) -> StoredSession | None:
        """
        A session is not there any more, by this id.
        """
        kept = self._kept.pop(identifier, None)
        if kept is None:
            return None
        if kept.timer.active():
            kept.timer.cancel()
        return kept.session

    def lost(self, identifier: str) -> None:
        """
        A session was not found, so it has ended.
        """
        session = self.forget(identifier)
        if session is not None:
            session.over()

    def clear(self) -> None:
        """
        Forget all of them, without calling anything.
        """
        for identifier in list(self._kept):
            self.forget(identifier)

    def _watch(self, session: StoredSession) -> None:
        record = session.record
        later: Callable[..., IDelayedCall] = session.site.reactor.callLater
        seconds = max(1.0, (record.expires - self._store.now()).total_seconds() + 1.0)
        self._kept[record.id] = _Kept(session, later(seconds, self._ask, session))

    def _ask(self, session: StoredSession) -> None:
        """
        Its time is over, unless it was used elsewhere.
        """
        identifier = session.record.id
        asked = self._store.load(identifier)
        asked.addErrback(self._unanswered, session)
        asked.addCallback(self._asked, session, identifier)
        asked.addErrback(lambda failure: _log.failure("a session's end went wrong", failure))

    def _asked(self, record: SessionRecord | None, session: StoredSession, identifier: str) -> None:
        if identifier not in self._kept:
            return
        if record is None:
            self.lost(identifier)
        else:
            session.record.expires = record.expires
            self._watch(session)

    def _unanswered(self, failure: Failure, session: StoredSession) -> SessionRecord | None:
        """
        Ask again later where the database cannot be reached.
        """
        if failure.check(SessionUnreadable):
            return None
        failure.trap(PyMongoError)
        _log.info(
            "whether a session has ended is asked later: {kind}", kind=type(failure.value).__name__
        )
        return replace(session.record, expires=self._store.now() + session.record.lifetime)
