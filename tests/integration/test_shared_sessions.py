"""
One login, made through Klein, in everything else that has sessions.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.integration.visitors import Visitor
from tests.reactorthreads import renew_reactor_thread
from tests.websessions import Browser, SessionTestCase
from txmongokit.web.accounts import MongoAccountStore
from txmongokit.web.rest import SessionAPI
from txmongokit.web.site import SessionSite


class Cart(Resource):
    """
    A page of L{twisted.web}.
    """

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """One more in the cart, and the cart."""
        data = request.getSession().data
        data["cart"] = [*data.get("cart", ()), "web"]
        return json.dumps(data).encode()


def in_cherrypy(database: Any, session_id: str) -> tuple[str, str | None, list[str]]:
    """
    What a request to CherryPy finds, and changes.

    @return: the id, the user and the cart.
    """
    from txmongokit.web.cherrypy_sessions import Session

    session = Session(session_id, database=database, clean_freq=0)
    session.acquire_lock()
    session["cart"] = [*session.get("cart", ()), "cherrypy"]
    session.save()
    return session.id, session.user, session["cart"]


class EverywhereTests(SessionTestCase):
    """
    Klein, L{twisted.web}, CherryPy and REST with one collection.
    """

    async def logged_in(self) -> tuple[str, str]:
        """The ids of an account and of its session, which Klein has made."""
        from klein import Authorization, Klein, Requirer
        from klein.interfaces import ISession, ISimpleAccountBinding

        from txmongokit.web.klein import KleinSessionProcurer, KleinSessionStore

        accounts = MongoAccountStore(self.pool[self.database], reactor, cost=1 << 10)
        procurer = KleinSessionProcurer(KleinSessionStore(self.store, accounts=accounts))
        app, requirer = Klein(), Requirer()
        requirer.prerequisite([ISession])(procurer.procureSession)

        @requirer.require(app.route("/"), binding=Authorization(ISimpleAccountBinding))
        async def login(binding: Any) -> str:
            return str((await binding.bindIfCredentialsMatch("ada", "word")).accountID)

        account = await accounts.create("ada", "a@b", "word")
        browser = self.serve(Site(app.resource()))
        self.assertEqual((await browser.send()).body.decode(), account.id)
        return account.id, browser.jar[b"session"].decode()

    def site_of(self, browser: Browser) -> Visitor:
        """Somebody without cookies at the same site."""
        return Visitor(int(browser.url.rpartition(":")[2]))

    def test_one_login(self) -> Deferred[None]:
        """All of them read, change and end the same session."""
        return Deferred.fromCoroutine(self.one_login())

    async def one_login(self) -> None:
        """See L{test_one_login}."""
        renew_reactor_thread(self)
        user, session_id = await self.logged_in()
        pages = self.serve(SessionSite(Cart(), self.another_store()))
        pages.jar = {b"session": session_id.encode()}
        self.assertEqual(json.loads((await pages.send()).body), {"cart": ["web"]})

        found = await deferToThread(in_cherrypy, self.pool[self.database], session_id)
        self.assertEqual(found, (session_id, user, ["web", "cherrypy"]))

        api = SessionAPI(self.another_store, reactor)
        rest = self.site_of(self.serve(api.site()))
        path = f"/v1/sessions/{session_id}"
        status, text = await deferToThread(rest.get, path)
        self.assertEqual(status, 200)
        self.assertEqual(json.loads(text)["user"], user)
        self.assertEqual(json.loads(text)["data"]["cart"], ["web", "cherrypy"])
        changed = json.dumps({"data": {"cart": ["rest"]}}).encode()
        headers = {"If_Match": str(rest.headers["etag"]), "Content_Type": "application/json"}
        status, _ = await deferToThread(rest.ask, "PUT", path, changed, **headers)
        self.assertEqual(status, 200)
        self.assertEqual(json.loads((await pages.send()).body), {"cart": ["rest", "web"]})

        status, text = await deferToThread(rest.ask, "DELETE", f"/v1/users/{user}/sessions")
        self.assertEqual((status, json.loads(text)), (200, {"revoked": 1}))
        self.assertEqual(json.loads((await pages.send()).body), {"cart": ["web"]})
        self.assertNotEqual(pages.jar[b"session"].decode(), session_id)
        found = await deferToThread(in_cherrypy, self.pool[self.database], session_id)
        self.assertNotEqual(found[0], session_id)
        self.assertEqual(found[1:], (None, ["cherrypy"]))
