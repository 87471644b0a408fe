"""
Sessions of Klein, over real connections and on a real server.
"""

from __future__ import annotations

import json
from typing import Any

from klein import Authorization, Klein, Requirer, SessionProcurer
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
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import Interface, implementer
from zope.interface.verify import verifyObject

from tests.websessions import HOSTILE_COOKIES, Browser, SessionTestCase
from txmongokit.web.accounts import MongoAccountStore
from txmongokit.web.klein import IStoredSession, KleinSessionProcurer, KleinSessionStore
from txmongokit.web.site import SessionSite


class IAdministrator(Interface):
    """A right that nobody but the user of that name has."""


@implementer(IAdministrator)
class Administrator:
    """The right."""


class Profile(Resource):
    """A page of L{twisted.web}."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """Who is logged in, and the data."""
        session = request.getSession()
        return json.dumps({"user": session.user, **session.data}, sort_keys=True).encode("utf-8")


class Late(Resource):
    """
    Procures sessions when it is too late, or where none is to be made.
    """

    isLeaf = True

    def __init__(self, store: Any, outcomes: list[Any]) -> None:
        super().__init__()
        self.store = store
        self.outcomes = outcomes

    def render_GET(self, request: Any) -> int:
        """C{late} or C{none}."""
        late = request.path == b"/late"
        if late:
            request.write(b"begun")
        procured = KleinSessionProcurer(self.store, create=late).procureSession(request)
        procured.addErrback(lambda failure: self.outcomes.append(failure.value))
        procured.addBoth(lambda _: request.finish())
        return NOT_DONE_YET


class KleinTests(SessionTestCase):
    """
    L{txmongokit.web.klein}.
    """

    def setUp(self) -> None:
        """Make an application with accounts."""
        super().setUp()
        self.accounts = MongoAccountStore(self.pool[self.database], reactor, cost=1 << 10)
        self.kept = KleinSessionStore(
            self.store,
            accounts=self.accounts,
            authorizers={IAdministrator: self.administrator},
        )

    async def administrator(self, session: Any) -> Any:
        """A right that has to be looked up."""
        bound = (await session.authorize([ISimpleAccount])).get(ISimpleAccount)
        return Administrator() if bound is not None and bound.username == "root" else None

    def application(self, procurer: Any) -> Browser:
        """A browser at a Klein application."""
        app, requirer = Klein(), Requirer()

        @requirer.prerequisite([ISession])
        def sessionize(request: Any) -> Any:
            return procurer.procureSession(request)

        @requirer.require(app.route("/show"), session=Authorization(IStoredSession))
        def show(session: Any) -> Any:
            return json.dumps({"user": session.user, **session.data}, sort_keys=True)

        @requirer.require(app.route("/add"), session=Authorization(IStoredSession))
        async def add(session: Any) -> str:
            def one_more(data: dict[str, Any]) -> None:
                data["n"] = data.get("n", 0) + 1

            return str((await session.update(one_more))["n"])

        @requirer.require(
            app.route("/login/<name>/<password>"), binding=Authorization(ISimpleAccountBinding)
        )
        async def login(binding: Any, name: str, password: str) -> str:
            account = await binding.bindIfCredentialsMatch(name, password)
            return "no" if account is None else account.username

        @requirer.require(app.route("/logout"), binding=Authorization(ISimpleAccountBinding))
        async def logout(binding: Any) -> str:
            await binding.unbindThisSession()
            return "out"

        @requirer.require(app.route("/admin"), right=Authorization(IAdministrator))
        def admin(right: Any) -> str:
            return "right"

        return self.serve(Site(app.resource()))

    def test_interfaces(self) -> Deferred[None]:
        """Everything is what Klein asks for."""
        return Deferred.fromCoroutine(self.interfaces())

    async def interfaces(self) -> None:
        """See L{test_interfaces}."""
        session = await self.kept.newSession(True, SessionMechanism.Cookie)
        wanted = [IStoredSession, ISimpleAccountBinding, ISimpleAccount, Interface]
        found = await session.authorize(wanted)
        self.assertEqual(set(found), {IStoredSession, ISimpleAccountBinding})
        account = await found[ISimpleAccountBinding].createAccount("ada", "a@b", "word")
        for interface, provider in (
            (ISession, session),
            (IStoredSession, session),
            (ISessionStore, self.kept),
            (ISessionProcurer, KleinSessionProcurer(self.kept)),
            (ISimpleAccountBinding, found[ISimpleAccountBinding]),
            (ISimpleAccount, account),
        ):
            self.assertTrue(verifyObject(interface, provider))
        self.assertIsInstance(session.identifier, str)
        self.assertNotIn(session.identifier, repr(session))

    def test_store(self) -> Deferred[None]:
        """Sessions are found by id and kind; what came in clear ends."""
        return Deferred.fromCoroutine(self.sessions())

    async def sessions(self) -> None:
        """See L{test_store}."""
        cookie = SessionMechanism.Cookie
        secret = await self.kept.newSession(True, cookie)
        plain = await self.kept.newSession(False, cookie)
        for session, confidential in ((secret, True), (plain, False)):
            found = await self.kept.loadSession(session.identifier, confidential, cookie)
            self.assertEqual(found.identifier, session.identifier)
            self.assertEqual((found.isConfidential, found.authenticatedBy), (confidential, cookie))
            other = self.kept.loadSession(session.identifier, not confidential, cookie)
            await self.error_of(other, NoSuchSession)
        hostile: Any = [secret.identifier, plain.identifier.encode(), {"$ne": 1}, "x", b"\xff"]
        self.kept.sentInsecurely(hostile)
        await self.error_of(self.kept.loadSession(secret.identifier, True, cookie), NoSuchSession)
        self.assertTrue(await self.store.exists(plain.identifier))
        await self.kept.settled()

    def test_accounts(self) -> Deferred[None]:
        """Accounts are made, bound, found, given other passwords, and unbound."""
        return Deferred.fromCoroutine(self.use_accounts())

    async def use_accounts(self) -> None:
        """See L{test_accounts}."""
        await self.accounts.prepare()
        cookie = SessionMechanism.Cookie
        session, other = [await self.kept.newSession(True, cookie) for _ in range(2)]
        binding = (await session.authorize([ISimpleAccountBinding]))[ISimpleAccountBinding]
        account = await binding.createAccount("ada", "a@b", "word")
        self.assertIsNone(await binding.createAccount("ada", "a@b", "word"))
        self.assertEqual(await binding.boundAccounts(), [])
        for name, password in (("ada", "wrong"), ("nobody", "word"), ("", ""), ({"$ne": 1}, "x")):
            self.assertIsNone(await binding.bindIfCredentialsMatch(name, password))
        found = await binding.bindIfCredentialsMatch("ada", "word")
        self.assertEqual(found.accountID, account.accountID)
        (bound,) = await binding.boundAccounts()
        self.assertEqual((bound.username, bound.email), ("ada", "a@b"))
        await bound.bindSession(other)
        self.assertEqual(len(await self.store.for_user(account.accountID)), 2)
        await bound.changePassword("new")
        self.assertEqual(len(await self.store.for_user(account.accountID)), 1)
        self.assertIsNone(await self.accounts.authenticate("ada", "word"))
        self.assertIsNotNone(await self.accounts.authenticate("ada", "new"))
        await binding.unbindThisSession()
        self.assertEqual(await binding.boundAccounts(), [])

    def test_one_login(self) -> Deferred[None]:
        """A login made through Klein is read through twisted.web, by the same cookie."""
        return Deferred.fromCoroutine(self.one_login())

    async def one_login(self) -> None:
        """See L{test_one_login}."""
        account = await self.accounts.create("ada", "a@b", "word")
        browser = self.application(KleinSessionProcurer(self.kept))
        await browser.send("/add")
        planted = dict(browser.jar)
        self.assertEqual((await browser.send("/login/ada/wrong")).body, b"no")
        self.assertEqual(browser.jar, planted)
        self.assertEqual((await browser.send("/login/ada/word")).body, b"ada")
        self.assertNotEqual(browser.jar, planted)
        pages = self.serve(SessionSite(Profile(), self.another_store()))
        pages.jar = browser.jar
        self.assertEqual(json.loads((await pages.send()).body), {"user": account.id, "n": 1})
        pages.jar = planted
        self.assertEqual(json.loads((await pages.send()).body), {"user": None})
        logged_in = dict(browser.jar)
        await browser.send("/logout")
        pages.jar = logged_in
        self.assertEqual(json.loads((await pages.send()).body), {"user": None})

    def test_authorization(self) -> Deferred[None]:
        """Klein's Authorization asks our authorizers."""
        return Deferred.fromCoroutine(self.authorization())

    async def authorization(self) -> None:
        """See L{test_authorization}."""
        browser = self.application(KleinSessionProcurer(self.kept))
        for name in ("ada", "root"):
            await self.accounts.create(name, "a@b", "word")
        await browser.send("/login/ada/word")
        self.assertEqual((await browser.send("/admin")).code, 401)
        await browser.send("/login/root/word")
        self.assertEqual((await browser.send("/admin")).body, b"right")

    def test_hostile_cookies(self) -> Deferred[None]:
        """Whatever a cookie has in it, the request gets a new session and a page."""
        return Deferred.fromCoroutine(self.hostile_cookies())

    async def hostile_cookies(self) -> None:
        """See L{test_hostile_cookies}."""
        browser = self.application(KleinSessionProcurer(self.kept))
        old = await self.store.create({"secret": 1}, lifetime=0.001)
        for value in (*HOSTILE_COOKIES, old.id.encode()):
            for method in (b"GET", b"POST"):
                browser.jar = {b"session": value}
                answer = await browser.send("/show", method)
                self.assertEqual((answer.code, json.loads(answer.body)), (200, {"user": None}))
                self.assertTrue(await self.store.exists(browser.jar[b"session"].decode()))

    def test_no_update_is_lost(self) -> Deferred[None]:
        """60 requests at once, to Klein and its store, are all counted."""
        return Deferred.fromCoroutine(self.no_update_is_lost())

    async def no_update_is_lost(self) -> None:
        """See L{test_no_update_is_lost}."""
        browser = self.application(KleinSessionProcurer(self.kept))
        await browser.send("/show")
        sending = [Deferred.fromCoroutine(browser.send("/add")) for _ in range(60)]
        answers = await gatherResults(sending, consumeErrors=True)
        self.assertEqual(sorted(int(answer.body) for answer in answers), [*range(1, 61)])

    def test_kleins_own_procurer(self) -> Deferred[None]:
        """L{klein.SessionProcurer} works with the store, cookies and tokens alike."""
        return Deferred.fromCoroutine(self.kleins_own_procurer())

    async def kleins_own_procurer(self) -> None:
        """See L{test_kleins_own_procurer}."""
        account = await self.accounts.create("ada", "a@b", "word")
        browser = self.application(SessionProcurer(self.kept))
        await browser.send("/add")
        (name,) = browser.jar
        self.assertEqual(name, b"Klein-INSECURE-Session")
        await browser.send("/login/ada/word")
        shown = json.loads((await browser.send("/show")).body)
        self.assertEqual(shown, {"user": account.id, "n": 1})
        token = browser.jar.pop(name)
        answer = await browser.send("/add", headers={b"X-INSECURE-Auth-Token": token})
        self.assertEqual((answer.body, answer.cookies), (b"2", {}))
        browser.jar = {name: b"A" * 43}
        self.assertEqual(json.loads((await browser.send("/show")).body), {"user": None})
        secret = await self.kept.newSession(True, SessionMechanism.Cookie)
        browser.jar[b"Klein-Secure-Session"] = secret.identifier.encode()
        await browser.send("/show")
        await self.kept.settled()
        self.assertFalse(await self.store.exists(secret.identifier))

    def test_tokens(self) -> Deferred[None]:
        """A program's header is a session, or an error; it gets no cookie."""
        return Deferred.fromCoroutine(self.tokens())

    async def tokens(self) -> None:
        """See L{test_tokens}."""
        browser = self.application(KleinSessionProcurer(self.kept, secure=True))
        session = await self.kept.newSession(True, SessionMechanism.Header)
        headers = {b"X-Auth-Token": session.identifier.encode()}
        answer = await browser.send("/add", headers=headers)
        self.assertEqual((answer.body, answer.cookies), (b"1", {}))
        await browser.send("/show")
        (line,) = [cookie for name, cookie in (await self.fresh(browser)).items()]
        for flag in (b"Secure", b"HttpOnly", b"SameSite=lax", b"Path=/"):
            self.assertIn(flag.lower(), line.lower())
        self.assertTrue(line.startswith(b"__Host-session="))
        clear = self.application(KleinSessionProcurer(self.kept))
        await clear.send("/show", headers=headers)
        await self.kept.settled()
        self.assertFalse(await self.store.exists(session.identifier))

    async def fresh(self, browser: Browser) -> dict[bytes, bytes]:
        """The cookies of a client's first request."""
        return (await self.same_site(browser).send("/show")).cookies

    def test_refusals(self) -> Deferred[None]:
        """Without a session, where none is to be made or none can be told, there is none."""
        return Deferred.fromCoroutine(self.refusals())

    async def refusals(self) -> None:
        """See L{test_refusals}."""
        outcomes: list[Any] = []
        late = Late(self.kept, outcomes)
        browser = self.serve(Site(late))
        await browser.send("/late")
        await browser.send("/none")
        self.assertIsInstance(outcomes[0], TooLateForCookies)
        self.assertIsInstance(outcomes[1], NoSuchSession)
        self.assertEqual(await self.store.collection.count_documents({}), 0)
