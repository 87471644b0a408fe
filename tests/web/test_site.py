"""
Tests for L{txmongokit.web.site} and L{txmongokit.web.visit}, over connections
in memory and with a server that is a script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.fakes import FakeRunner, Script, cursor_reply
from tests.web.grants import granted
from tests.web.logs import logged
from tests.web.test_files import Served
from tests.web.test_store import ID, MATCHED, MISSED, NOW, stored
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect
from txmongokit.web.errors import SessionConflict, SessionError
from txmongokit.web.site import SessionCookies, Sessions, SessionSite
from txmongokit.web.store import MongoSessionStore

COOKIE = b"session=" + ID.encode("ascii")
OTHER = b"B" * 43


class Page(Resource):
    """
    Does what a test says with each request; keeps the requests.
    """

    isLeaf = True

    def __init__(self, action: Callable[[Any], Any]) -> None:
        super().__init__()
        self.action = action
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> Any:
        """Do it."""
        self.requests.append(request)
        return self.action(request)


def change(request: Any) -> bytes:
    """Change the session."""
    request.getSession().data["x"] = 1
    return b"changed"


def read(request: Any) -> bytes:
    """Read it."""
    return str(request.getSession().data).encode("ascii")


class SiteTestCase(SynchronousTestCase):
    """
    One page, one connection, one script.
    """

    def serve(self, action: Callable[[Any], Any], *replies: Script, **options: Any) -> Served:
        """A page below a store at noon, not exclusive unless that is asked for."""
        self.runner = FakeRunner(*replies)
        self.store = MongoSessionStore(Database(self.runner, "db"), clock=lambda: NOW, timeout=100)
        self.page = Page(action)
        options.setdefault("exclusive", False)
        return Served(Sessions(self.page, self.store, **options))

    def told(self, served: Served) -> tuple[int, bytes]:
        """Status and body."""
        status, _, body = served.answer()
        return status, body


class SavingTests(SiteTestCase):
    """
    When a session is saved, and what the client sees then.
    """

    def test_before_the_first_byte(self) -> None:
        """Nothing of the response goes out before the session is stored."""
        saved: Deferred[Any] = Deferred()
        served = self.serve(change, stored({}), saved)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertEqual(self.runner.names, ["find", "update"])
        self.assertEqual(served.transport.value(), b"")
        saved.callback(MATCHED)
        self.assertEqual(self.told(served), (200, b"changed"))

    def test_unchanged(self) -> None:
        """A session that was only read is not saved, and its cookie not set again."""
        served = self.serve(read, stored({"a": 1}))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertEqual(self.runner.names, ["find"])
        status, headers, body = served.answer()
        self.assertEqual((status, body), (200, b"{'a': 1}"))
        self.assertNotIn(b"set-cookie", headers)

    def test_no_session(self) -> None:
        """Who wants none gets none, at no cost."""
        served = self.serve(lambda request: b"page")
        served.send(b"GET", b"/x")
        self.assertEqual(self.told(served), (200, b"page"))
        self.assertEqual(self.runner.requests, [])

    def test_before_the_last_byte(self) -> None:
        """What changes after the response has begun is stored before it ends."""
        saved: Deferred[Any] = Deferred()

        def slowly(request: Any) -> int:
            request.setHeader(b"content-length", b"6")
            request.write(b"abc")
            return NOT_DONE_YET

        served = self.serve(slowly, stored({}), saved)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertTrue(served.transport.value().endswith(b"abc"))
        (request,) = self.page.requests
        request.getSession().data["x"] = 1
        request.write(b"d")
        self.assertTrue(served.transport.value().endswith(b"abcd"))
        request.write(b"ef")
        request.finish()
        self.assertTrue(served.transport.value().endswith(b"abcd"))
        saved.callback(MATCHED)
        self.assertTrue(served.transport.value().endswith(b"abcdef"))

    def test_changed_while_saving(self) -> None:
        """What changes while the session is saved is saved before the last byte, too."""
        first, second = Deferred[Any](), Deferred[Any]()

        def quickly(request: Any) -> int:
            request.setHeader(b"content-length", b"6")
            request.getSession().data["x"] = 1
            request.write(b"abc")
            return NOT_DONE_YET

        served = self.serve(quickly, stored({}), first, second)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        (request,) = self.page.requests
        request.getSession().data["x"] = 2
        request.write(b"def")
        request.finish()
        first.callback(MATCHED)
        self.assertEqual(self.runner.names, ["find", "update", "update"])
        self.assertEqual(served.transport.value(), b"")
        second.callback(MATCHED)
        self.assertTrue(served.transport.value().endswith(b"\r\n\r\nabcdef"))

    def test_chunked(self) -> None:
        """Without a length, the last chunk waits for the change."""
        saved: Deferred[Any] = Deferred()

        def slowly(request: Any) -> int:
            request.write(b"abc")
            request.getSession().data["x"] = 1
            request.write(b"def")
            request.finish()
            return NOT_DONE_YET

        served = self.serve(slowly, stored({}), saved)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertTrue(served.transport.value().endswith(b"def\r\n"))
        saved.callback(MATCHED)
        self.assertTrue(served.transport.value().endswith(b"def\r\n0\r\n\r\n"))

    def test_head(self) -> None:
        """The answer to HEAD waits as well."""
        saved: Deferred[Any] = Deferred()
        served = self.serve(change, stored({}), saved)
        served.send(b"HEAD", b"/x", Cookie=COOKIE)
        self.assertEqual(served.transport.value(), b"")
        saved.callback(MATCHED)
        self.assertEqual(self.told(served), (200, b""))

    def test_no_body(self) -> None:
        """Where an answer has no body, what was written while it waited is none either."""
        for method, code in ((b"HEAD", 200), (b"GET", 204), (b"GET", 304)):
            saved: Deferred[Any] = Deferred()

            def twice(request: Any, code: int = code) -> int:
                change(request)
                request.setResponseCode(code)
                request.write(b"abc")
                request.write(b"def")
                request.finish()
                return NOT_DONE_YET

            served = self.serve(twice, stored({}), saved)
            served.send(method, b"/x", Cookie=COOKIE)
            saved.callback(MATCHED)
            self.assertEqual(self.told(served), (code, b""))

    def test_producer(self) -> None:
        """A producer that comes while the session is saved begins after that."""
        saved: Deferred[Any] = Deferred()
        stopped: list[object] = []

        class Producer:
            """Notes its end."""

            def resumeProducing(self) -> None:
                """Nothing comes yet."""

            def stopProducing(self) -> None:
                """Ended."""
                stopped.append(self)

        def produce(request: Any) -> int:
            request.getSession().data["x"] = 1
            request.write(b"head")
            request.registerProducer(Producer(), False)
            return NOT_DONE_YET

        served = self.serve(produce, stored({}), saved)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        (request,) = self.page.requests
        self.assertIsNone(request.producer)
        saved.callback(MATCHED)
        self.assertIn(b"head", served.transport.value())
        self.assertIsNotNone(request.producer)
        request.unregisterProducer()
        request.finish()
        served = self.serve(produce, stored({}), MISSED, AutoReconnect("gone"))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertEqual(self.told(served)[0], 503)
        self.assertEqual(len(stopped), 1)
        self.assertEqual(len(self.flushLoggedErrors(AutoReconnect)), 1)

    def test_new_session(self) -> None:
        """A session begins with a cookie that scripts and other sites do not get."""
        served = self.serve(change, MATCHED)
        served.send(b"GET", b"/x", Cookie=b"session=" + b"\xff" * 43)
        self.assertEqual(self.runner.names, ["insert"])
        _, headers, _ = served.answer()
        _, *flags = headers[b"set-cookie"].split(b"; ")
        self.assertEqual(sorted(flags), [b"HttpOnly", b"Path=/", b"SameSite=lax"])
        self.assertEqual(headers[b"cache-control"], b'no-cache="set-cookie"')

    def test_ended_meanwhile(self) -> None:
        """A session that others have ended is not brought back: its cookie goes."""
        served = self.serve(change, stored({}), MISSED, cursor_reply([]))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        status, headers, body = served.answer()
        self.assertEqual((status, body), (200, b"changed"))
        self.assertIn(b"session=;", headers[b"set-cookie"])
        self.assertIn(b"Max-Age=0", headers[b"set-cookie"])

    def test_merged(self) -> None:
        """Somebody else's change to another key is kept."""
        theirs = stored({"y": 2}, version=4)
        served = self.serve(change, stored({}), MISSED, theirs, MATCHED)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertEqual(self.told(served), (200, b"changed"))
        (statement,) = self.runner.statements(3)
        self.assertEqual(statement["u"]["$set"]["data"], {"y": 2, "x": 1})
        self.assertEqual(statement["q"]["version"], 4)


class FailureTests(SiteTestCase):
    """
    What the client is told when something goes wrong.
    """

    def test_not_loaded(self) -> None:
        """Without the database a request that has a session is asked to come again."""
        served = self.serve(read, AutoReconnect("gone"))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        status, headers, body = served.answer()
        self.assertEqual((status, headers[b"retry-after"]), (503, b"5"))
        self.assertEqual(headers[b"cache-control"], b"no-store")
        self.assertEqual(body, b"Sessions are not available at the moment.\n")
        self.assertEqual(self.page.requests, [])
        self.assertEqual(len(self.flushLoggedErrors(AutoReconnect)), 1)

    def test_not_saved(self) -> None:
        """What was not saved is no success, and sets no cookie."""
        served = self.serve(change, AutoReconnect("gone"))
        served.send(b"GET", b"/x")
        status, headers, body = served.answer()
        self.assertEqual((status, body), (503, b"The session could not be saved.\n"))
        self.assertNotIn(b"set-cookie", headers)
        self.assertEqual(len(self.flushLoggedErrors(AutoReconnect)), 1)

    def test_headers_of_the_page(self) -> None:
        """What the page has said of itself is not said of the sentence in its place."""

        def published(request: Any) -> bytes:
            change(request)
            request.setHeader(b"cache-control", b"public, max-age=3600")
            request.setHeader(b"expires", b"Sat, 21 Nov 2026 13:00:00 GMT")
            request.setLastModified(1)
            request.setETag(b'"page"')
            request.redirect(b"/y")
            return b"page"

        served = self.serve(published, AutoReconnect("gone"))
        served.send(b"GET", b"/x")
        status, headers, _ = served.answer()
        self.assertEqual((status, headers[b"cache-control"]), (503, b"no-store"))
        self.assertTrue(
            headers.keys().isdisjoint({b"expires", b"last-modified", b"etag", b"location"})
        )
        self.assertEqual(len(self.flushLoggedErrors(AutoReconnect)), 1)

    def test_conflict(self) -> None:
        """Of two who change the same key, the later is told with 409."""
        served = self.serve(change, stored({}), MISSED, stored({"x": 1}, version=4))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertEqual(self.told(served)[0], 409)
        self.assertEqual(len(self.flushLoggedErrors(SessionConflict)), 1)

    def test_not_saved_in_the_end(self) -> None:
        """A response that has begun is cut off."""

        def slowly(request: Any) -> int:
            request.write(b"abc")
            request.getSession().data["x"] = 1
            request.finish()
            return NOT_DONE_YET

        served = self.serve(slowly, stored({}), AutoReconnect("gone"))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertTrue(served.transport.disconnecting)
        self.assertFalse(served.transport.value().endswith(b"0\r\n\r\n"))
        self.assertEqual(len(self.flushLoggedErrors(AutoReconnect)), 1)

    def test_not_storable(self) -> None:
        """Data that cannot be stored is an error of the page, once."""

        def store_set(request: Any) -> bytes:
            request.getSession().data["x"] = {"secret"}
            return b"stored"

        served = self.serve(store_set)
        served.send(b"GET", b"/x")
        self.assertEqual(self.told(served)[0], 500)
        (error,) = self.flushLoggedErrors(SessionError)
        self.assertNotIn("secret", str(error.value))

    def test_page_fails(self) -> None:
        """A page that raises is a 500, and what it changed is stored all the same."""

        def fail(request: Any) -> bytes:
            change(request)
            raise KeyError("page")

        served = self.serve(fail, stored({}), MATCHED)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertEqual(self.told(served)[0], 500)
        self.assertEqual(self.runner.names, ["find", "update"])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_too_late(self) -> None:
        """After the first byte no session can begin, and none can get a new id."""
        refused: list[str] = []

        def late(request: Any) -> int:
            request.write(b"abc")
            try:
                request.getSession()
            except SessionError as error:
                refused.append(str(error))
            request.finish()
            return NOT_DONE_YET

        self.serve(late).send(b"GET", b"/x")
        self.assertEqual(len(refused), 1)
        self.assertIn("call getSession() before", refused[0])

        def late_log_in(request: Any) -> int:
            request.write(b"abc")
            request.getSession().log_in("ada")
            request.finish()
            return NOT_DONE_YET

        served = self.serve(late_log_in, stored({}))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertTrue(served.transport.disconnecting)
        self.assertEqual(self.runner.names, ["find"])
        self.assertEqual(len(self.flushLoggedErrors(SessionError)), 1)

    def test_client_goes(self) -> None:
        """Nothing is saved for a client that has gone; a load is given up."""
        served = self.serve(lambda request: NOT_DONE_YET, stored({}))
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.page.requests[0].getSession().data["x"] = 1
        served.channel.connectionLost(Failure(ConnectionLost()))
        self.page.requests[0].write(b"for nobody")
        self.assertEqual(self.runner.names, ["find"])
        given_up: list[object] = []
        loading: Deferred[Any] = Deferred(given_up.append)
        served = self.serve(read, loading)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        served.channel.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(given_up), 1)
        self.assertEqual(self.page.requests, [])


class ExclusiveTests(SiteTestCase):
    """
    Requests one after the other.
    """

    def locked(
        self, cookie: bytes, action: Callable[[Any], Any], *replies: Script, **options: Any
    ) -> Served:
        """A request whose first lock is granted; the replies follow."""
        answer: Deferred[Any] = Deferred()
        served = self.serve(action, answer, *replies, exclusive=True, **options)
        served.send(b"GET", b"/x", Cookie=cookie)
        answer.callback(granted(self.runner))
        return served

    def test_commands(self) -> None:
        """A lock is taken before the session is loaded, and given up after it is saved."""
        served = self.locked(COOKIE, change, stored({}), MATCHED, MATCHED)
        self.assertEqual(self.runner.names, ["findAndModify", "find", "update", "delete"])
        self.assertEqual(self.told(served), (200, b"changed"))

    def test_unknown_id(self) -> None:
        """An id that is nobody's keeps no lock."""
        served = self.locked(COOKIE, lambda request: b"page", cursor_reply([]), MATCHED)
        self.assertEqual(self.runner.names, ["findAndModify", "find", "delete"])
        self.assertEqual(self.told(served), (200, b"page"))

    def test_gone_at_the_release(self) -> None:
        """A client that goes while a lock is given up is served no page, and gets no other lock."""
        both = b"__Host-" + COOKIE + b"; session=" + OTHER
        for cookie, secure in ((COOKIE, False), (both, True)):
            served = self.locked(cookie, change, cursor_reply([]), Deferred(), secure=secure)
            served.lose()
            self.assertEqual(self.page.requests, [])
            self.assertEqual(self.runner.names, ["findAndModify", "find", "delete"])
            self.assertEqual(self.runner.clock.getDelayedCalls(), [])

    def test_one_id_twice(self) -> None:
        """An id in both cookies is locked and loaded once."""
        cookie = b"__Host-" + COOKIE + b"; " + COOKIE
        secret = stored({"a": 1}, confidential=True)
        served = self.locked(cookie, read, secret, MATCHED, secure=True)
        self.assertEqual(self.told(served), (200, b"{'a': 1}"))
        self.assertEqual(self.runner.names, ["findAndModify", "find", "delete"])

    def test_busy(self) -> None:
        """Who waits too long is told to come again."""
        taken = {"value": {"_id": b"", "owner": b"another"}, "ok": 1.0}
        served = self.serve(read, *[taken] * 1000, exclusive=lambda request: True)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.runner.clock.pump([0.25] * 200)
        self.assertEqual(self.told(served)[0], 503)
        self.assertEqual(len(self.flushLoggedErrors(SessionError)), 1)
        self.assertEqual(self.runner.clock.getDelayedCalls(), [])


class SecurityTests(SiteTestCase):
    """
    Two kinds of sessions.
    """

    def test_both_kinds(self) -> None:
        """An encrypted request has its own session, and can ask for the other one."""
        found: list[Any] = []

        def both(request: Any) -> bytes:
            found.append(request.getSession().data)
            found.append(request.getSession(forceNotSecure=True).data)
            return b"both"

        secret = stored({"kind": "secret"}, confidential=True)
        served = self.serve(both, secret, stored({"kind": "plain"}), secure=True)
        served.send(b"GET", b"/x", Cookie=b"__Host-" + COOKIE + b"; session=" + OTHER)
        self.assertEqual(found, [{"kind": "secret"}, {"kind": "plain"}])
        self.assertEqual(self.runner.names, ["find", "find"])
        served = self.serve(both, stored({}), secret, secure=True)
        found.clear()
        served.send(b"GET", b"/x", Cookie=b"__Host-" + COOKIE + b"; session=" + OTHER)
        self.assertEqual(found, [{}, {}])

    def test_in_clear(self) -> None:
        """A confidential id that comes in clear is ended, and loads nothing."""
        served = self.serve(lambda request: b"page", MATCHED)
        served.send(b"GET", b"/x", Cookie=b"__Host-" + COOKIE)
        self.assertEqual(self.runner.names, ["delete"])
        self.assertEqual(self.told(served), (200, b"page"))

    def test_in_clear_by_a_client_that_goes(self) -> None:
        """It is ended all the same; that it may not have been is told."""
        for result, part in ((MATCHED, "was ended"), (AutoReconnect("gone"), "may not have ended")):
            ending: Deferred[Any] = Deferred()
            served = self.serve(read, ending)
            served.send(b"GET", b"/x", Cookie=b"__Host-" + COOKIE)
            served.lose()
            with logged() as lines:
                if isinstance(result, Exception):
                    ending.errback(result)
                else:
                    ending.callback(result)
            self.assertEqual([part in line for line in lines], [True])
            self.assertEqual(self.page.requests, [])

    def test_persistent(self) -> None:
        """A cookie that outlives the browser is sent again with each response."""
        cookies = SessionCookies(persistent=True)
        served = self.serve(read, stored({}), cookies=cookies)
        served.send(b"GET", b"/x", Cookie=COOKIE)
        self.assertIn(b"Max-Age=100", served.answer()[1][b"set-cookie"])

    def test_site(self) -> None:
        """A site is its resource below L{Sessions}."""
        store = MongoSessionStore(Database(FakeRunner(), "db"))
        site = SessionSite(Page(read), store, exclusive=False)
        self.assertIsInstance(site.resource, Sessions)
        site.doStart()
        site.doStop()
