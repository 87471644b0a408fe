"""
Sessions in MongoDB for Klein (extra C{txmongokit[klein]}).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from zope.interface import Attribute, Interface, implementer

from txmongokit.web.accounts import Account, AccountExists, MongoAccountStore
from txmongokit.web.cookies import SessionCookies, cookie_value
from txmongokit.web.errors import SessionConflict, SessionGone, SessionUnreadable
from txmongokit.web.merging import merge
from txmongokit.web.records import SessionRecord
from txmongokit.web.store import MongoSessionStore

try:
    from klein.interfaces import (
        ISession,
        ISessionProcurer,
        ISessionStore,
        ISimpleAccount,
        ISimpleAccountBinding,
        NoSuchSession,
        SessionMechanism,
        TooLateForCookies,
    )
except ImportError as error:
    raise ImportError("these sessions need Klein: pip install 'txmongokit[klein]'") from error

__all__ = [
    "IStoredSession",
    "KleinAccount",
    "KleinAccountBinding",
    "KleinSession",
    "KleinSessionProcurer",
    "KleinSessionStore",
]

_log = Logger()
_MOST_TOKENS = 20
_MERGES = 10
_ENDED = "there is no such session, or it has ended"


class IStoredSession(Interface):
    """
    A session's data, which is stored.  Require it with
    C{Authorization(IStoredSession)}.
    """

    data = Attribute("The application's own: a C{dict}.")
    user = Attribute("The id of the account that is logged in, or C{None}.")

    def update(function):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Change the data so that no change is lost, neither this nor others'.

        What has been changed in C{data} before is saved as well.

        @param function: called with the data, changes it; again if somebody
            else came in between.
        @return: a L{Deferred} that fires with the data as it was saved; fails
            with L{NoSuchSession} if the session has ended, with
            L{txmongokit.web.errors.SessionConflict} if somebody else has
            changed the same key of C{data} as this request did before.
        """

    def save():  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Save what has been changed in C{data}.

        @return: a L{Deferred}; fails with
            L{txmongokit.web.errors.SessionConflict} if somebody else has saved
            the session since this request began, with L{NoSuchSession} if it
            has ended.
        """

    def expire():  # type: ignore[no-untyped-def]  # an interface has no self
        """
        End the session.

        @return: a L{Deferred}.
        """


class _Carrier:
    """
    What carries a session's id to the client: a request's cookie.
    """

    def __init__(self, request: Any, cookies: SessionCookies) -> None:
        self._request = request
        self._cookies = cookies

    def check(self) -> None:
        """
        @raise TooLateForCookies: the response has begun.
        """
        if self._request.startedWriting:
            raise TooLateForCookies(
                "the response has begun, so no cookie can be set: procure sessions, log in and "
                "log out before that"
            )

    def tell(self, session: KleinSession) -> None:
        """
        Set the cookie.
        """
        self.check()
        seconds = session.record.lifetime.total_seconds()
        self._cookies.set(self._request, session.identifier, session.isConfidential, seconds)


class _Question:
    """
    Which session an id that came in clear is of.

    @param asked: fires with its record, or C{None}.
    """

    def __init__(self, asked: Deferred[SessionRecord | None]) -> None:
        self._asked = asked
        self._is_taken = False

    def answer(self) -> Deferred[SessionRecord | None]:
        """
        Wait for it.  Cancelling that leaves others who wait alone.

        @return: fires with the record, for the first who asks; it is not to be
            shared, so that others are given C{None}.
        """
        done: Deferred[SessionRecord | None] = Deferred()
        is_first, self._is_taken = not self._is_taken, True

        def answered(record: SessionRecord | None) -> SessionRecord | None:
            if not done.called:
                done.callback(record if is_first else None)
            return record

        self._asked.addCallback(answered)
        return done


@implementer(ISession, IStoredSession)
class KleinSession:
    """
    A session as Klein knows it.

    @ivar record: what is stored.
    @ivar isConfidential: whether its id goes over encrypted connections only.
    @ivar authenticatedBy: by cookie or by header.
    @ivar carrier: what can tell the client a new id; only
        L{KleinSessionProcurer} has one.
    """

    def __init__(
        self, store: KleinSessionStore, record: SessionRecord, mechanism: SessionMechanism
    ) -> None:
        self._store = store
        self.record = record
        self.isConfidential = record.confidential
        self.authenticatedBy = mechanism
        self.carrier: _Carrier | None = None

    def __repr__(self) -> str:
        return f"<KleinSession of {self.record.user!r}>"

    @property
    def identifier(self) -> str:
        """
        The id.
        """
        return self.record.id

    @property
    def data(self) -> dict[str, Any]:
        """
        The application's own.
        """
        return self.record.data

    @property
    def user(self) -> str | None:
        """
        The id of the account that is logged in.
        """
        return self.record.user

    def authorize(self, interfaces: Iterable[Any]) -> Deferred[dict[Any, Any]]:
        """
        What the store's authorizers give for some interfaces.
        """
        return Deferred.fromCoroutine(self._authorize(interfaces))

    async def _authorize(self, interfaces: Iterable[Any]) -> dict[Any, Any]:
        found = {}
        for interface in interfaces:
            provider = self._store.provider(interface, self)
            if isinstance(provider, Awaitable):
                provider = await provider
            if provider is not None:
                found[interface] = provider
        return found

    def update(self, function: Callable[[dict[str, Any]], object]) -> Deferred[dict[str, Any]]:
        """
        See L{IStoredSession}.
        """
        return Deferred.fromCoroutine(self._update(function)).addErrback(_told)

    async def _update(self, function: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        sessions = self._store.sessions
        if sessions.is_changed(self.record):
            await self._merging(sessions.save)
        record = await sessions.update(self.record, lambda record: function(record.data))
        if record is None:
            raise NoSuchSession(_ENDED)
        self.record = record
        return record.data

    def save(self) -> Deferred[bool]:
        """
        See L{IStoredSession}.
        """
        return self._store.sessions.save(self.record).addErrback(_told)

    def expire(self) -> Deferred[bool]:
        """
        See L{IStoredSession}.
        """
        return self._store.sessions.delete(self.record.id)

    def bind(self, user: str | None) -> Deferred[None]:
        """
        The session is a user's from now on, or nobody's, with a new id if the
        client can be told.

        @return: fails with L{NoSuchSession} if the session has ended.
        """
        return Deferred.fromCoroutine(self._bind(user)).addErrback(_told)

    async def _bind(self, user: str | None) -> None:
        sessions, carrier = self._store.sessions, self.carrier
        if carrier is not None:
            carrier.check()
            await self._merging(lambda record: sessions.bind_user(record, user))
            carrier.tell(self)
            return

        def save(record: SessionRecord) -> Deferred[bool]:
            record.user = user
            return sessions.save(record)

        await self._merging(save)

    async def _merging(self, write: Callable[[SessionRecord], Deferred[Any]]) -> None:
        """
        Write the record, together with what others have written meanwhile.
        """
        for attempt in range(_MERGES):
            try:
                await write(self.record)
            except SessionConflict as conflict:
                if attempt == _MERGES - 1:
                    raise
                self.record = merge(conflict)
            else:
                break


def _told(failure: Failure) -> NoReturn:
    """
    What Klein knows by a name of its own.
    """
    failure.trap(SessionGone)
    raise NoSuchSession(_ENDED) from failure.value


Authorizer = Callable[[KleinSession], Any]


@implementer(ISessionStore)
class KleinSessionStore:
    """
    What L{klein.SessionProcurer} and L{KleinSessionProcurer} take as their
    store.

    Sessions can be authorized for L{IStoredSession}; with accounts, for
    C{ISimpleAccountBinding}, and when they are logged in for
    C{ISimpleAccount}; and for whatever else there are authorizers.

    @param sessions: where the sessions are.
    @param accounts: where the accounts are.
    @param authorizers: by interface, functions that are given a
        L{KleinSession} and return a provider, C{None} if it has no right to
        one, or an awaitable of either.
    """

    def __init__(
        self,
        sessions: MongoSessionStore,
        *,
        accounts: MongoAccountStore | None = None,
        authorizers: Mapping[Any, Authorizer] | None = None,
    ) -> None:
        self.sessions = sessions
        self._authorizers: dict[Any, Authorizer] = {IStoredSession: lambda session: session}
        if accounts is not None:
            known = accounts
            self._authorizers[ISimpleAccountBinding] = lambda session: KleinAccountBinding(
                session, sessions, known
            )
            self._authorizers[ISimpleAccount] = lambda session: _logged_in(session, sessions, known)
        self._authorizers.update(authorizers or {})
        self._asked: dict[str, _Question] = {}

    def provider(self, interface: Any, session: KleinSession) -> Any:
        """
        What a session has a right to, or an awaitable of that.
        """
        authorizer = self._authorizers.get(interface)
        return None if authorizer is None else authorizer(session)

    def newSession(
        self, isConfidential: bool, authenticatedBy: SessionMechanism
    ) -> Deferred[KleinSession]:
        """
        Store a new session.
        """
        created = self.sessions.create(confidential=isConfidential)
        return created.addCallback(lambda record: KleinSession(self, record, authenticatedBy))

    def loadSession(
        self, identifier: str, isConfidential: bool, authenticatedBy: SessionMechanism
    ) -> Deferred[KleinSession]:
        """
        The session of an id.

        @return: fires with it; fails with L{NoSuchSession} if there is none, or
            none of that kind, and with one of L{txmongokit.errors}.
        """
        return Deferred.fromCoroutine(self._load(identifier, isConfidential, authenticatedBy))

    async def _load(
        self, identifier: str, confidential: bool, mechanism: SessionMechanism
    ) -> KleinSession:
        asked = self._asked.get(identifier)
        try:
            record = None if asked is None else await asked.answer()
            if record is None or record.confidential != confidential:
                record = await self.sessions.load(identifier, confidential=confidential)
        except SessionUnreadable as error:
            _log.error("a session is begun anew: {error}", error=str(error))
            record = None
        if record is None or not await self.sessions.touch(record):
            raise NoSuchSession(_ENDED)
        return KleinSession(self, record, mechanism)

    def sentInsecurely(self, identifiers: Iterable[str | bytes]) -> None:
        """
        End those of these sessions that are confidential: somebody may have
        read their ids.  L{loadSession} waits for it, and has what was found
        on the way.
        """
        texts = (
            each.decode("ascii", "replace") if isinstance(each, bytes) else each
            for each in list(identifiers)[:_MOST_TOKENS]
        )
        for text in dict.fromkeys(filter(self.sessions.is_well_formed, texts)):
            self._ask(text)

    def _ask(self, identifier: str) -> None:
        asked = Deferred.fromCoroutine(self._check_exposed(identifier))
        asked.addErrback(
            lambda failure: _log.failure("an exposed session may not have ended", failure)
        )
        if asked.called:
            return
        question = self._asked[identifier] = _Question(asked)

        def forget(record: Any) -> Any:
            if self._asked.get(identifier) is question:
                del self._asked[identifier]
            return record

        asked.addCallback(forget)

    async def _check_exposed(self, identifier: str) -> SessionRecord | None:
        """
        The session of an id that came in clear, if that is no harm.
        """
        try:
            record = await self.sessions.load(identifier)
        except SessionUnreadable:
            record = None
        if record is not None and not record.confidential:
            return record
        await self.sessions.revoke_exposed([identifier])
        return None

    def settled(self) -> Deferred[None]:
        """
        Wait until what L{sentInsecurely} began is done.
        """
        waiting = DeferredList([question.answer() for question in self._asked.values()])
        return waiting.addCallback(lambda _: None)


async def _logged_in(
    session: KleinSession, sessions: MongoSessionStore, accounts: MongoAccountStore
) -> KleinAccount | None:
    if session.user is None:
        return None
    account = await accounts.find(session.user)
    return None if account is None else KleinAccount(account, sessions, accounts, session)


@implementer(ISimpleAccount)
class KleinAccount:
    """
    An account as Klein knows it.

    @param session: the session that uses it.
    """

    def __init__(
        self,
        account: Account,
        sessions: MongoSessionStore,
        accounts: MongoAccountStore,
        session: KleinSession,
    ) -> None:
        self.username = account.username
        self.email = account.email
        self.accountID = account.id
        self._sessions = sessions
        self._accounts = accounts
        self._session = session

    def __repr__(self) -> str:
        return f"<KleinAccount {self.username}>"

    # Klein's interfaces say that these return None, and mean Deferreds.

    def bindSession(self, session: Any) -> Any:
        """
        Log a session in to this account.

        @param session: a L{KleinSession}.
        @return: a L{Deferred} that fires with C{None}.
        """
        return session.bind(self.accountID)

    def changePassword(self, newPassword: str) -> Any:
        """
        Set the password, and end all other sessions of this account.

        @return: a L{Deferred} that fires with C{None}; fails with
            L{txmongokit.web.accounts.AccountsBusy}, and with C{ValueError} if
            the password is empty, or huge.
        """

        async def change() -> None:
            await self._accounts.change_password(self.accountID, newPassword)
            await self._sessions.revoke_user(self.accountID, but=self._session.identifier)

        return Deferred.fromCoroutine(change())


@implementer(ISimpleAccountBinding)
class KleinAccountBinding:
    """
    Logs a session in and out.
    """

    def __init__(
        self, session: KleinSession, sessions: MongoSessionStore, accounts: MongoAccountStore
    ) -> None:
        self._session = session
        self._sessions = sessions
        self._accounts = accounts

    def _known(self, account: Account) -> KleinAccount:
        return KleinAccount(account, self._sessions, self._accounts, self._session)

    def bindIfCredentialsMatch(self, username: str, password: str) -> Any:
        """
        Log the session in.  It gets a new id, if L{KleinSessionProcurer} has
        procured it.

        @return: a L{Deferred} that fires with the account, or C{None} if the name or the password
            is wrong.
        """

        async def bind() -> KleinAccount | None:
            account = await self._accounts.authenticate(username, password)
            if account is None:
                return None
            await self._session.bind(account.id)
            return self._known(account)

        return Deferred.fromCoroutine(bind())

    def boundAccounts(self) -> Deferred[list[KleinAccount]]:
        """
        The account that the session is logged in to.

        @return: fires with a list of one, or none.
        """

        async def bound() -> list[KleinAccount]:
            account = await _logged_in(self._session, self._sessions, self._accounts)
            return [] if account is None else [account]

        return Deferred.fromCoroutine(bound())

    def unbindThisSession(self) -> Any:
        """
        Log the session out.

        @return: a L{Deferred} that fires with C{None}.
        """
        return self._session.bind(None)

    def createAccount(self, username: str, email: str, password: str) -> Any:
        """
        Add an account, without logging in to it.

        @return: a L{Deferred} that fires with it, or C{None} if there is another of that name.
        """

        async def create() -> KleinAccount | None:
            try:
                return self._known(await self._accounts.create(username, email, password))
            except AccountExists:
                return None

        return Deferred.fromCoroutine(create())


@implementer(ISessionProcurer)
class KleinSessionProcurer:
    """
    Sessions of requests, by the same cookies as L{txmongokit.web.site} has.

    Beyond what L{klein.SessionProcurer} does: cookies have C{SameSite} and names
    that no other host can set; whatever else is in a cookie leads to a new
    session; and who logs in gets a new id.

    @param store: of the sessions.
    @param cookies: their names and flags.
    @param token: the header that programs send instead of a cookie, over
        encrypted connections.
    @param insecure_token: that over others.
    @param secure: whether connections are encrypted; by default what
        C{request.isSecure()} says.  C{True} where a proxy speaks TLS.
    @param create: whether requests without a session get one.
    """

    def __init__(
        self,
        store: KleinSessionStore,
        *,
        cookies: SessionCookies | None = None,
        token: str = "X-Auth-Token",
        insecure_token: str = "X-INSECURE-Auth-Token",
        secure: bool | None = None,
        create: bool = True,
    ) -> None:
        self._store = store
        self._cookies = SessionCookies() if cookies is None else cookies
        self._token = token
        self._insecure_token = insecure_token
        self._secure = secure
        self._create = create

    def procureSession(
        self, request: IRequest, forceInsecure: bool = False
    ) -> Deferred[KleinSession]:
        """
        The request's session, or a new one.

        @return: fires with it.  Fails with L{NoSuchSession} if a token is
            nobody's, or there is no session and none is to be created; with
            L{TooLateForCookies} if the response has begun.
        """
        asked: Any = request
        encrypted = bool(asked.isSecure() if self._secure is None else self._secure)
        procured = asked.getComponent(ISession)
        if procured is not None and not (forceInsecure and encrypted):
            return succeed(procured)
        work = self._procure(asked, encrypted, encrypted and not forceInsecure)
        return Deferred.fromCoroutine(work)

    async def _procure(self, request: Any, encrypted: bool, confidential: bool) -> KleinSession:
        if not encrypted:
            self._note_exposed(request)
        header = request.getHeader(self._token if confidential else self._insecure_token)
        if header:
            session = await self._store.loadSession(header, confidential, SessionMechanism.Header)
        else:
            session = await self._by_cookie(request, confidential)
        if confidential or not encrypted:
            request.setComponent(ISession, session)
        return session

    def _note_exposed(self, request: Any) -> None:
        sent = [
            *request.requestHeaders.getRawHeaders(self._token, []),
            cookie_value(request, self._cookies.secure_name),
        ]
        exposed = [each for each in sent if each]
        if exposed:
            self._store.sentInsecurely(exposed)

    async def _by_cookie(self, request: Any, confidential: bool) -> KleinSession:
        mechanism = SessionMechanism.Cookie
        offered = cookie_value(request, self._cookies.named(confidential))
        session, carrier = None, _Carrier(request, self._cookies)
        if offered is not None:
            try:
                session = await self._store.loadSession(offered, confidential, mechanism)
            except NoSuchSession:
                session = None
        if session is None:
            carrier.check()
            if not self._create:
                raise NoSuchSession("the request has no session, and gets none")
            session = await self._store.newSession(confidential, mechanism)
            carrier.tell(session)
        elif self._cookies.persistent and not request.startedWriting:
            carrier.tell(session)
        session.carrier = carrier
        return session
