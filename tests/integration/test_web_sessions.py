"""
Sessions of L{twisted.web}, over real connections and on a real server.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.components import registerAdapter
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Session
from zope.interface import Attribute, Interface, implementer

from tests.deployments import Commands
from tests.websessions import HOSTILE_COOKIES, Browser, SessionTestCase
from txmongokit.web.site import SessionSite
from txmongokit.web.store import MongoSessionStore, SessionConflict

MANY = 200


class ISeen(Interface):
    """What this process remembers."""

    count = Attribute("How often it was asked.")


@implementer(ISeen)
class Seen:
    """An adapter of the session, with the session's data in reach."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.count = 0


registerAdapter(Seen, Session, ISeen)


class Shop(Resource):
    """
    Everything that can be done with a session, by the first part of the path.

    @ivar together: how many requests have to have read before any counts.
    """

    isLeaf = True

    def __init__(self, client: Any) -> None:
        super().__init__()
        self.client = client
        self.ended: list[str] = []
        self.together = 1
        self._read: list[Deferred[None]] = []

    def render_GET(self, request: Any) -> Any:
        """Call what the path names."""
        action = request.postpath[0].decode("ascii") or "show"
        return getattr(self, action)(request)

    def show(self, request: Any) -> bytes:
        """The data."""
        session = request.getSession()
        return json.dumps({"user": session.user, **session.data}, sort_keys=True).encode("utf-8")

    def nothing(self, request: Any) -> bytes:
        """No session is wanted."""
        return b"nothing"

    def add(self, request: Any) -> int:
        """Count, with a wait between reading and writing, until others have read as well."""
        name = (request.args.get(b"name") or [b"n"])[0].decode("ascii")
        data = request.getSession().data
        seen = data.get(name, 0)

        def added(_: None) -> None:
            data[name] = seen + 1
            request.write(b"%d" % data[name])
            request.finish()

        read: Deferred[None] = Deferred()
        read.addCallback(lambda _: self.client.sleep(0.001)).addCallback(added)
        self._read.append(read)
        if len(self._read) == self.together:
            waiting, self._read = self._read, []
            for each in waiting:
                each.callback(None)
        return NOT_DONE_YET

    def login(self, request: Any) -> bytes:
        """Become Ada."""
        request.getSession().log_in("ada")
        return b"in"

    def logout(self, request: Any) -> bytes:
        """Become nobody."""
        session = request.getSession()
        session.notifyOnExpire(lambda: self.ended.append("shop"))
        session.expire()
        return b"out"

    def seen(self, request: Any) -> bytes:
        """What an adapter has in memory, and what it has stored."""
        seen: Any = ISeen(request.getSession())
        seen.count += 1
        seen.session.data["stored"] = seen.session.data.get("stored", 0) + 1
        return b"%d %d" % (seen.count, seen.session.data["stored"])

    def watch(self, request: Any) -> bytes:
        """Be told when the session is over."""
        request.getSession().notifyOnExpire(lambda: self.ended.append("watched"))
        return b"watching"

    def large(self, request: Any) -> bytes:
        """Too much."""
        request.getSession().data["x"] = "y" * 2_000_000
        return b"stored"


class SiteTests(SessionTestCase):
    """
    L{SessionSite}.
    """

    def site(self, store: MongoSessionStore | None = None, **options: Any) -> Browser:
        """A browser at a shop of its own, as another process would have one."""
        self.shop = Shop(self.pool)
        return self.serve(SessionSite(self.shop, store or self.store, **options))

    def test_data_is_shared(self) -> Deferred[None]:
        """What one process stores, another reads."""
        return Deferred.fromCoroutine(self.data_is_shared())

    async def data_is_shared(self) -> None:
        """See L{test_data_is_shared}."""
        first, second = self.site(), self.site(self.another_store())
        await first.send("/add")
        self.assertEqual(set(first.jar), {b"session"})
        second.jar = first.jar
        await second.send("/add")
        answer = await first.send("/show")
        self.assertEqual(json.loads(answer.body), {"n": 2, "user": None})
        self.assertEqual(answer.cookies, {})

    def test_what_is_sent(self) -> Deferred[None]:
        """Without a cookie and without getSession() nothing is; unchanged data is not written."""
        return Deferred.fromCoroutine(self.what_is_sent())

    async def what_is_sent(self) -> None:
        """See L{test_what_is_sent}."""
        commands = Commands()
        pool = self.client(self.deployment.uri, event_listeners=[commands])
        browser = self.site(self.another_store(pool))
        self.assertEqual((await browser.send("/nothing")).cookies, {})
        self.assertEqual(commands.sent, [])
        await browser.send("/add")
        commands.sent.clear()
        await browser.send("/show")
        names = [event.command_name for event in commands.sent]
        self.assertEqual(names, ["findAndModify", "find", "delete"])

    def test_no_update_is_lost(self) -> Deferred[None]:
        """200 requests of one session at once, of two sites, are all counted."""
        return Deferred.fromCoroutine(self.no_update_is_lost())

    async def no_update_is_lost(self) -> None:
        """See L{test_no_update_is_lost}."""
        first = self.site()
        second = self.site(self.another_store(self.client(self.deployment.uri)))
        await first.send("/show")
        second.jar = first.jar
        sending = [
            Deferred.fromCoroutine((first, second)[number % 2].send("/add"))
            for number in range(MANY)
        ]
        answers = await gatherResults(sending, consumeErrors=True)
        self.assertEqual({answer.code for answer in answers}, {200})
        self.assertEqual(sorted(int(answer.body) for answer in answers), [*range(1, MANY + 1)])
        self.assertEqual(json.loads((await first.send("/show")).body)["n"], MANY)

    def test_requests_that_overlap(self) -> Deferred[None]:
        """Changes to different keys are merged; of many to one key, all but one are 409."""
        return Deferred.fromCoroutine(self.requests_that_overlap())

    async def requests_that_overlap(self) -> None:
        """See L{test_requests_that_overlap}."""
        browser = self.site(exclusive=False)
        await browser.send("/show")
        self.shop.together = 8
        sending = [Deferred.fromCoroutine(browser.send(f"/add?name={name}")) for name in "abababab"]
        answers = await gatherResults(sending, consumeErrors=True)
        self.assertEqual(sorted(answer.code for answer in answers), [200] * 2 + [409] * 6)
        data = json.loads((await browser.send("/show")).body)
        self.assertEqual(data, {"a": 1, "b": 1, "user": None})
        self.assertEqual(len(self.flushLoggedErrors(SessionConflict)), 6)

    def test_hostile_cookies(self) -> Deferred[None]:
        """Whatever a cookie has in it, the request gets a new session and a page."""
        return Deferred.fromCoroutine(self.hostile_cookies())

    async def hostile_cookies(self) -> None:
        """See L{test_hostile_cookies}."""
        browser = self.site()
        old = await self.store.create({"secret": 1}, lifetime=0.001)
        other = await self.store.create({"secret": 1}, confidential=True)
        for value in (*HOSTILE_COOKIES, old.id.encode(), other.id.encode()):
            browser.jar = {b"session": value}
            answer = await browser.send("/show")
            self.assertEqual((answer.code, json.loads(answer.body)), (200, {"user": None}), value)
            fresh = browser.jar[b"session"].decode("ascii")
            self.assertNotEqual(fresh.encode("ascii"), value)
            self.assertTrue(await self.store.exists(fresh))
            browser.jar = {b"session": value}
            self.assertEqual((await browser.send("/nothing")).body, b"nothing")

    def test_log_in(self) -> Deferred[None]:
        """Logging in changes the id, and the one from before is worth nothing."""
        return Deferred.fromCoroutine(self.log_in())

    async def log_in(self) -> None:
        """See L{test_log_in}."""
        browser = self.site()
        await browser.send("/add")
        planted = dict(browser.jar)
        self.assertEqual((await browser.send("/login")).code, 200)
        self.assertNotEqual(browser.jar, planted)
        shown = json.loads((await browser.send("/show")).body)
        self.assertEqual(shown, {"user": "ada", "n": 1})
        thief = self.same_site(browser)
        thief.jar = planted
        self.assertEqual(json.loads((await thief.send("/show")).body), {"user": None})
        (summary,) = await self.store.for_user("ada")
        self.assertEqual(summary.user, "ada")
        self.assertEqual(await self.store.revoke_user("ada"), 1)
        self.assertEqual(json.loads((await browser.send("/show")).body), {"user": None})

    def test_expire(self) -> Deferred[None]:
        """expire() calls back, deletes the session, and takes the cookie away."""
        return Deferred.fromCoroutine(self.expires())

    async def expires(self) -> None:
        """See L{test_expire}."""
        browser = self.site()
        await browser.send("/add")
        identifier = browser.jar[b"session"].decode("ascii")
        await browser.send("/logout")
        self.assertEqual(browser.jar, {})
        self.assertEqual(self.shop.ended, ["shop"])
        self.assertFalse(await self.store.exists(identifier))
        await browser.send("/logout")
        self.assertEqual(await self.store.collection.count_documents({}), 0)

    def test_components(self) -> Deferred[None]:
        """Adapters keep what they have in memory in one process, and data in all."""
        return Deferred.fromCoroutine(self.components())

    async def components(self) -> None:
        """See L{test_components}."""
        first = self.site()
        second = self.site(self.another_store())
        self.assertEqual((await first.send("/seen")).body, b"1 1")
        self.assertEqual((await first.send("/seen")).body, b"2 2")
        second.jar = first.jar
        self.assertEqual((await second.send("/seen")).body, b"1 3")
        await first.send("/login")
        self.assertEqual((await first.send("/seen")).body, b"3 4")

    def test_end_elsewhere(self) -> Deferred[None]:
        """Who waits for the end hears of it when the session is not found any more."""
        return Deferred.fromCoroutine(self.end_elsewhere())

    async def end_elsewhere(self) -> None:
        """See L{test_end_elsewhere}."""
        browser = self.site()
        await browser.send("/watch")
        await browser.send("/nothing")
        self.assertEqual(self.shop.ended, [])
        await self.store.delete(browser.jar[b"session"].decode("ascii"))
        await browser.send("/nothing")
        self.assertEqual(self.shop.ended, ["watched"])

    def test_too_large(self) -> Deferred[None]:
        """What cannot be saved is no success."""
        return Deferred.fromCoroutine(self.too_large())

    async def too_large(self) -> None:
        """See L{test_too_large}."""
        browser = self.site()
        answer = await browser.send("/large")
        self.assertEqual((answer.code, answer.cookies), (500, {}))
        self.assertEqual(answer.body, b"The session could not be saved.\n")
        (error,) = self.flushLoggedErrors()
        self.assertNotIn("yyy", str(error))

    def test_encrypted_connections(self) -> Deferred[None]:
        """Behind TLS the cookie is bound to it; one that comes in clear ends the session."""
        return Deferred.fromCoroutine(self.encrypted_connections())

    async def encrypted_connections(self) -> None:
        """See L{test_encrypted_connections}."""
        secure, plain = self.site(secure=True), self.site()
        answer = await secure.send("/add")
        (line,) = answer.cookies.values()
        name, *flags = (part.strip().lower() for part in line.split(b";"))
        self.assertTrue(name.startswith(b"__host-session="))
        self.assertEqual(sorted(flags), [b"httponly", b"path=/", b"samesite=lax", b"secure"])
        plain.jar = dict(secure.jar)
        self.assertEqual(json.loads((await plain.send("/show")).body), {"user": None})
        self.assertEqual(json.loads((await secure.send("/show")).body), {"user": None})
