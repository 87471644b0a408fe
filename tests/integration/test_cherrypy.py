"""
A real CherryPy application with sessions, under CherryPy's server and under
Twisted's: the same tests.
"""

from __future__ import annotations

import atexit
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from fractions import Fraction
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from tests.deployments import SharedTestCase, shared_set
from tests.integration.visitors import Served, Visitor, free_port
from tests.reactorthreads import renew_reactor_thread
from txmongokit.errors import ServerSelectionTimeoutError
from txmongokit.web.records import digest_of

COOKIE = "session_id"
EXPLICIT = "/explicit"


def application(server: str) -> Served:
    """The application under a server, in a process of its own."""
    port = free_port()
    uri = shared_set().uri.replace("/?", "/web?")
    arguments = ("-m", "tests.integration.cherrypyapp", server, str(port), uri, server)
    return Served(*arguments, port=port)


_shared: dict[str, Served] = {}


def shared_application(server: str) -> Served:
    """One for all tests, until a test ends it."""
    served = _shared.get(server)
    if served is None or not served.is_alive():
        served = _shared[server] = application(server).__enter__()
        atexit.register(served.end)
    return served


class ThreadTestCase(SharedTestCase):
    """
    Sessions in a thread, without any server.
    """

    def setUp(self) -> None:
        """A view of the reactor of this test's own."""
        super().setUp()
        renew_reactor_thread(self)

    def in_thread(self, function: Callable[[Any], None]) -> Deferred[None]:
        """Do something with a database."""
        return deferToThread(function, self.client(shared_set().uri)[self.database])


class SessionTests(ThreadTestCase):
    """
    What is not seen from outside.
    """

    def test_away(self) -> Deferred[None]:
        """A database that does not answer: a sentence for people, not a traceback."""
        return Deferred.fromCoroutine(self.away())

    async def away(self) -> None:
        """See L{test_away}."""
        from txmongokit.web.cherrypy_sessions import Session, SessionsUnavailable, close_clients

        uri = "mongodb://127.0.0.1:1/web?serverSelectionTimeoutMS=100"
        error = await self.assertFailure(deferToThread(Session, None, uri=uri), SessionsUnavailable)
        self.assertEqual(error.status, 503)
        self.assertIsInstance(error.__cause__, ServerSelectionTimeoutError)
        await deferToThread(close_clients)

    def test_late_lock(self) -> Deferred[None]:
        """
        A lock that is asked for after the session was read: the session is
        read again, whatever its lifetime here, and no lock stays with what
        cannot be stored.
        """
        return self.in_thread(self.late_lock)

    def late_lock(self, database: Any) -> None:
        """See L{test_late_lock}."""
        from txmongokit.web.cherrypy_sessions import Session
        from txmongokit.web.store import InvalidSessionData

        options = {"database": database, "clean_freq": 0, "lock_timeout": 1}
        first = Session(None, **options)
        first["count"] = 1
        first.save()
        early = Session(first.id, **options, timeout=5)
        self.assertEqual(early["count"], 1)

        strange = Session(first.id, **options)
        strange["x"] = object()
        self.assertRaises(InvalidSessionData, strange.acquire_lock)
        self.assertFalse(strange.locked)

        second = Session(first.id, **options)
        second.acquire_lock()
        second["count"] += 1
        second.save()
        second.release_lock()

        early.acquire_lock()
        early["count"] += 1
        early.save()
        early.release_lock()
        self.assertEqual(Session(first.id, **options)["count"], 3)


class SwappedTests(ThreadTestCase):
    """
    The options of C{jaraco.mongodb.sessions.Session}, on this class.
    """

    def test_swapped(self) -> Deferred[None]:
        """A database's handle, a codec for objects, and the rest of the dictionary's ways."""
        return self.in_thread(self.swapped)

    def swapped(self, database: Any) -> None:
        """See L{test_swapped}."""
        from jaraco import modb

        from txmongokit.web.cherrypy_sessions import LockTimeout, Session

        options = {
            "database": database,
            "collection_name": "visits",
            "codec": modb,
            "lock_timeout": timedelta(seconds=0.1),
            "clean_freq": 0,
        }
        session = Session(None, **options)
        self.assertTrue(session)
        self.assertEqual((len(session), session.locked), (0, False))
        session.acquire_lock()
        session["deadline"] = timedelta(days=1)
        session["amounts"] = {Fraction(1, 3)}
        session.save()
        again = Session(session.id, **options)
        again.acquire_lock()
        self.assertEqual(dict(again.items()), dict(session.items()))
        self.assertEqual(again.user, None)
        self.assertRaises(LockTimeout, Session(session.id, **options).acquire_lock)
        again.bind_user("ann")
        self.assertTrue(again.locked)
        again.release_lock()
        third = Session(again.id, **{**options, "lock_timeout": None})
        self.assertEqual((third.user, third["deadline"]), ("ann", timedelta(days=1)))
        third.clean_up()
        self.assertEqual(len(third), 1)
        third.delete()
        third["flash"] = "bye"
        third.save()
        self.assertNotEqual(third.id, again.id)
        self.assertEqual(dict(Session(third.id, **options).items()), {"flash": "bye"})
        self.assertTrue(Session(again.id, **options).missing)


class CherryPyTests(SynchronousTestCase):
    """
    Under CherryPy's own server.
    """

    server = "cherrypy"

    def setUp(self) -> None:
        """No sessions."""
        client = self.enterContext(shared_set().client())
        self.collection = client["web"][self.server]
        self.served = shared_application(self.server)
        self.collection.delete_many({})

    def visitor(self, **cookies: str) -> Visitor:
        """Somebody new."""
        return Visitor(self.served.port, cookies)

    def seen(self, visitor: Visitor) -> dict[str, Any]:
        """What the session has."""
        status, text = visitor.get("/")
        self.assertEqual(status, 200)
        found: dict[str, Any] = json.loads(text)
        self.assertEqual(found["id"], visitor.cookies[COOKIE])
        return found

    @contextmanager
    def held(self, visitor: Visitor) -> Iterator[Future[tuple[int, str]]]:
        """A request that has the lock of a visitor's session until the block is left."""
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(Visitor(visitor.port, visitor.cookies).get, "/add?held=1")
            try:
                while self.collection["locks"].count_documents({}) == 0:
                    self.assertFalse(slow.done())
                    time.sleep(0.02)  # Nobody tells when another process has a lock.
                yield slow
            finally:
                self.visitor().get("/let")

    def test_pages(self) -> None:
        """Data stays from request to request; a session is one document."""
        visitor = self.visitor()
        self.assertEqual(self.seen(visitor)["data"], {})
        self.assertEqual(self.collection.count_documents({}), 0)
        visitor.get("/put?a=1&b=2")
        cookie = visitor.headers["set-cookie"]
        self.assertIn("HttpOnly", cookie)
        first = visitor.cookies[COOKIE]
        for item in ("x", "y"):
            visitor.get(f"/append?item={item}")
        self.assertEqual(visitor.get("/stream"), (200, "onetwo"))
        expected = {"a": "1", "b": "2", "items": ["x", "y"], "streamed": True}
        self.assertEqual(self.seen(visitor)["data"], expected)
        self.assertEqual(visitor.cookies[COOKIE], first)
        document = self.collection.find_one({})
        assert document is not None
        self.assertEqual((document["data"], document["version"]), (expected, 4))
        self.assertEqual(visitor.get("/clean"), (200, "1"))
        self.assertEqual(visitor.get("/quiet"), (200, "done"))

    def test_ids(self) -> None:
        """An id gets another at a login; the old one is worth nothing, nor is a forgotten one."""
        visitor = self.visitor()
        visitor.get("/put?a=1")
        for path, user in (("/regenerate", None), ("/login?user=bob", "bob")):
            old = visitor.cookies[COOKIE]
            visitor.get(path)
            self.assertNotEqual(visitor.cookies[COOKIE], old)
            self.assertEqual(self.seen(visitor)["data"], {"a": "1", "user": "ann"})
            stranger = self.visitor(session_id=old)
            found = self.seen(stranger)
            self.assertEqual((found["data"], found["missing"]), ({}, True))
            self.assertNotEqual(found["id"], old)
            document = self.collection.find_one({})
            assert document is not None
            self.assertEqual(document.get("user"), user)
        old = visitor.cookies[COOKIE]
        visitor.get("/forget")
        self.assertIn("expires=", visitor.headers["set-cookie"])
        self.assertEqual(self.seen(self.visitor(session_id=old))["data"], {})
        self.assertEqual(self.collection.count_documents({}), 0)

    def test_strange_ids(self) -> None:
        """Ids that are tampered with, of another form, ended or chosen get a fresh session."""
        visitor = self.visitor()
        visitor.get("/put?a=1")
        known = visitor.cookies[COOKIE]
        other = known[:-1] + ("A" if known[-1] != "A" else "B")
        strange = (
            *(other, known + "A", known[:-1], "A" * 43, "0" * 40, '"{\\"$ne\\": 1}"'),
            *("$ne", "../../etc/passwd", '""', "a.b", "x" * 3000, '"\\000"', "\\u00e9"),
        )
        for each in strange:
            stranger = self.visitor(session_id=each)
            found = self.seen(stranger)
            self.assertEqual(found["data"], {}, each)
            self.assertNotEqual(found["id"], each)
        self.collection.update_one({}, [{"$set": {"expires": {"$subtract": ["$$NOW", 1]}}}])
        found = self.seen(visitor)
        self.assertEqual((found["data"], found["missing"]), ({}, True))
        self.assertNotEqual(found["id"], known)
        # Nor is a session error that nobody can read.
        visitor.get("/put?a=1")
        self.collection.update_one({"version": 1}, {"$set": {"data": b"sealed", "key": "lost"}})
        self.collection.delete_many({"key": {"$exists": False}})
        found = self.seen(visitor)
        self.assertEqual((found["data"], found["missing"]), ({}, True))

    def test_revoked_meanwhile(self) -> None:
        """A session that is ended while a request has it stays ended."""
        visitor = self.visitor()
        visitor.get("/put?a=1")
        known = visitor.cookies[COOKIE]
        with self.held(visitor) as slow:
            self.collection.delete_many({})
        self.assertEqual(slow.result()[0], 200)
        self.assertIsNone(self.collection.find_one({"_id": digest_of(known)}))
        self.assertEqual(self.seen(self.visitor(session_id=known))["data"], {})

    def count(self, paths: list[str], *ports: int) -> tuple[list[int], dict[str, Any]]:
        """What requests at once on one session are answered, and what it has then."""
        visitor = self.visitor()
        visitor.get("/put?a=1")
        cookies = dict(visitor.cookies)
        all_ports = [self.served.port, *ports]

        def one(number: int, path: str) -> int:
            return Visitor(all_ports[number % len(all_ports)], cookies).get(path)[0]

        with ThreadPoolExecutor(len(paths)) as threads:
            states = [*threads.map(one, range(len(paths)), paths)]
        return states, self.seen(visitor)["data"]

    def test_fifty_threads(self) -> None:
        """Fifty threads count to fifty on one session, whenever it is locked."""
        states, data = self.count(["/add"] * 25 + ["/early/add"] * 25)
        self.assertEqual((set(states), data["count"]), ({200}, 50))
        self.assertEqual(self.collection["locks"].count_documents({}), 0)

    def test_busy(self) -> None:
        """Who waits too long for others is told to come again, and nothing is changed."""
        visitor = self.visitor()
        visitor.get("/add")
        with self.held(visitor) as slow:
            self.assertEqual(visitor.get("/impatient/add")[0], 503)
        self.assertEqual(slow.result(), (200, "2"))
        self.assertEqual(visitor.get("/impatient/add"), (200, "3"))

    def test_own_locks(self) -> None:
        """With locks of the application's own, too; without, none that was told is lost."""
        states, data = self.count([f"{EXPLICIT}/locked"] * 20)
        self.assertEqual((set(states), data["count"]), ({200}, 20))
        states, data = self.count([f"{EXPLICIT}/add?pause=0.05"] * 20)
        self.assertEqual(states.count(200), data["count"])
        self.assertEqual(states.count(409), 20 - data["count"])
        self.assertLess(data["count"], 20)

    def test_without_locks(self) -> None:
        """Changes of different things are all kept."""
        names = [f"n{number}" for number in range(20)]
        states, data = self.count([f"{EXPLICIT}/add?name={name}&pause=0.05" for name in names])
        self.assertEqual(set(states), {200})
        self.assertEqual(data, {"a": "1", **dict.fromkeys(names, 1)})

    def test_without_the_other(self) -> None:
        """
        Two processes count as one does.  One dies with a lock: the session is
        as it was, and the lock frees itself.  The other ends in order, and has
        no id in its log.
        """
        with application(self.server) as other:
            states, data = self.count(["/add"] * 30, other.port)
            self.assertEqual((set(states), data["count"]), ({200}, 30))
            visitor = self.visitor()
            visitor.get("/put?a=1")
            with self.assertRaises(OSError):
                visitor.get("/crash")
            self.assertEqual(self.collection["locks"].count_documents({}), 1)
            visitor.port = other.port
            self.assertEqual(visitor.get("/add"), (200, "1"))
            self.assertEqual(self.seen(visitor)["data"], {"a": "1", "count": 1})
            self.assertEqual(other.end(), 0)
        self.assertIn("ended", other.output)
        self.assertNotIn("Traceback", other.output)
        self.assertNotIn(visitor.cookies[COOKIE], other.output)


class TwistedTests(CherryPyTests):
    """
    Below C{twisted.web.wsgi}.
    """

    server = "twisted"
