"""
Tests for L{txmongokit.web.klein}: what is sent, by a server that is a script.
L{tests.integration.test_klein_sessions} has the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein.interfaces import NoSuchSession, SessionMechanism, TooLateForCookies
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, Script, cursor_reply
from tests.web.test_cookies import request
from tests.web.test_store import ID, MATCHED, MISSED, NOW, stored
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect
from txmongokit.web.cookies import SessionCookies
from txmongokit.web.errors import SessionConflict
from txmongokit.web.klein import KleinSessionProcurer, KleinSessionStore
from txmongokit.web.store import MongoSessionStore


class KleinTestCase(SynchronousTestCase):
    """
    A store at noon.
    """

    def kept(self, *replies: Script) -> Any:
        """A store of Klein's kind."""
        self.runner = FakeRunner(*replies)
        sessions = MongoSessionStore(Database(self.runner, "db"), clock=lambda: NOW, timeout=100)
        return KleinSessionStore(sessions)

    def load(self, kept: Any, confidential: bool = False) -> Deferred[Any]:
        """Load the session."""
        loaded: Deferred[Any] = kept.loadSession(ID, confidential, SessionMechanism.Cookie)
        return loaded


class ExposedTests(KleinTestCase):
    """
    Ids that come in clear, as L{klein.SessionProcurer} tells of each.
    """

    def test_one_question(self) -> None:
        """Whether an id is confidential, and its session, are one query."""
        reply: Deferred[Any] = Deferred()
        kept = self.kept(reply)
        kept.sentInsecurely([ID, ID.encode("ascii"), "x"])
        loading = self.load(kept)
        self.assertNoResult(loading)
        self.assertNoResult(kept.settled())
        reply.callback(stored({"a": 1}))
        self.assertEqual(self.successResultOf(loading).data, {"a": 1})
        self.assertEqual(self.runner.names, ["find"])

    def test_not_shared(self) -> None:
        """Two requests at once have a record each."""
        reply: Deferred[Any] = Deferred()
        kept = self.kept(reply, stored({"a": 1}))
        kept.sentInsecurely([ID])
        first, second = self.load(kept), self.load(kept)
        reply.callback(stored({"a": 1}))
        records = [self.successResultOf(loading).record for loading in (first, second)]
        self.assertIsNot(records[0], records[1])

    def test_confidential(self) -> None:
        """One that is confidential ends before anybody can load it again."""
        reply: Deferred[Any] = Deferred()
        kept = self.kept(reply, MATCHED, cursor_reply([]), cursor_reply([]))
        kept.sentInsecurely([ID])
        plain, secret = self.load(kept), self.load(kept, confidential=True)
        reply.callback(stored({}, confidential=True))
        self.failureResultOf(plain, NoSuchSession)
        self.failureResultOf(secret, NoSuchSession)
        self.assertEqual(self.runner.names, ["find", "delete", "find", "find"])

    def test_cancelled(self) -> None:
        """A client that goes away keeps no session from being ended."""
        reply: Deferred[Any] = Deferred()
        kept = self.kept(reply, MATCHED)
        kept.sentInsecurely([ID])
        loading = self.load(kept)
        loading.cancel()
        self.failureResultOf(loading)
        reply.callback(stored({}, confidential=True))
        self.assertEqual(self.runner.names, ["find", "delete"])

    def test_database_away(self) -> None:
        """What could not be seen to is logged, and its session not had."""
        reply: Deferred[Any] = Deferred()
        kept = self.kept(reply, AutoReconnect("gone"))
        kept.sentInsecurely([ID])
        loading = self.load(kept)
        reply.errback(AutoReconnect("gone"))
        self.failureResultOf(loading, AutoReconnect)
        self.assertEqual(len(self.flushLoggedErrors(AutoReconnect)), 1)
        self.successResultOf(kept.settled())

    def test_hostile(self) -> None:
        """What is no id is not asked for, and of many ids few are."""
        kept = self.kept()
        kept.sentInsecurely(["x", b"\xff" * 43, "A" * 44])
        self.assertEqual(self.runner.requests, [])
        kept = self.kept(*[cursor_reply([]), MISSED] * 21)
        kept.sentInsecurely([ID] * 10)
        self.assertEqual(self.runner.names, ["find", "delete"])
        kept.sentInsecurely([f"{number:043d}" for number in range(1000)])
        self.assertEqual(self.runner.names[2:], ["find", "delete"] * 20)


class BindingTests(KleinTestCase):
    """
    Log-ins.
    """

    def session(self, *replies: Script) -> Any:
        """A session that was loaded."""
        session = self.successResultOf(self.load(self.kept(stored({"a": 1}), *replies)))
        self.runner.requests.clear()
        return session

    def test_without_cookie(self) -> None:
        """Where the client cannot be told, the id stays."""
        session = self.session(MATCHED)
        self.successResultOf(session.bind("ada"))
        self.assertEqual((session.identifier, session.user), (ID, "ada"))
        self.assertEqual(len(self.runner.requests), 1)

    def test_merged(self) -> None:
        """A change that others have made meanwhile is kept."""
        session = self.session(MISSED, stored({"a": 1, "b": 2}, version=4), MATCHED)
        self.successResultOf(session.bind("ada"))
        self.assertEqual((session.data, session.user), ({"a": 1, "b": 2}, "ada"))

    def test_another_log_in(self) -> None:
        """Of two who log in as different users, the later fails."""
        session = self.session(MISSED, stored({"a": 1}, version=4, user="grace"))
        self.failureResultOf(session.bind("ada"), SessionConflict)

    def test_too_late(self) -> None:
        """After the first byte nobody is logged in, and the old id stays good."""
        asked = request()
        asked.received_cookies = {b"session": ID.encode("ascii")}
        kept = self.kept(stored({}))
        session = self.successResultOf(KleinSessionProcurer(kept).procureSession(asked))
        asked.startedWriting = True
        self.failureResultOf(session.bind("ada"), TooLateForCookies)
        self.assertEqual((session.identifier, len(self.runner.requests)), (ID, 1))

    def test_ended(self) -> None:
        """A session that has ended cannot be changed, in whatever way."""

        def update(session: Any) -> Any:
            return session.update(lambda data: data.update(c=1))

        ways: tuple[tuple[Callable[[Any], Any], dict[str, int]], ...] = (
            (update, {}),
            (update, {"b": 1}),
            (lambda session: session.save(), {"b": 1}),
            (lambda session: session.bind("ada"), {}),
        )
        for way, changes in ways:
            session = self.session(MISSED, cursor_reply([]))
            session.data.update(changes)
            self.failureResultOf(way(session), NoSuchSession)
            self.assertEqual(len(self.runner.replies), 0)

    def test_update(self) -> None:
        """An update saves what was changed before it, together with what others have changed."""
        for replies, others in (
            ((MATCHED, MATCHED), {}),
            ((MISSED, stored({"a": 1, "z": 1}, version=4), MATCHED, MATCHED), {"z": 1}),
        ):
            session = self.session(*replies)
            session.data["b"] = 1
            updated = self.successResultOf(session.update(lambda data: data.update(c=1)))
            self.assertEqual(updated, {"a": 1, "b": 1, "c": 1, **others})
            self.assertEqual(session.data, updated)
            (statement,) = self.runner.statements(-1)
            self.assertEqual(statement["u"]["$set"]["data"], updated)
            self.assertEqual(len(self.runner.replies), 0)

    def test_update_conflict(self) -> None:
        """Of two who have changed the same key the later is told, even if it updates then."""
        session = self.session(MISSED, stored({"a": 3}, version=4))
        session.data["a"] = 2
        self.failureResultOf(session.update(lambda data: data.update(c=1)), SessionConflict)

    def test_persistent(self) -> None:
        """A cookie that outlives the browser is told again with each request, until it is late."""
        for late, expected in ((False, 1), (True, 0)):
            asked = request()
            asked.received_cookies = {b"session": ID.encode("ascii")}
            asked.startedWriting = late
            cookies = SessionCookies(persistent=True)
            procurer = KleinSessionProcurer(self.kept(stored({})), cookies=cookies)
            session = self.successResultOf(procurer.procureSession(asked))
            self.assertEqual((session.identifier, len(asked.cookies)), (ID, expected))
            self.assertEqual([b"Max-Age=100" in line for line in asked.cookies], [True] * expected)

    def test_once(self) -> None:
        """A session is procured once for a request."""
        asked = request()
        asked.received_cookies = {b"session": ID.encode("ascii")}
        procurer = KleinSessionProcurer(self.kept(stored({})))
        first = self.successResultOf(procurer.procureSession(asked))
        self.assertIs(self.successResultOf(procurer.procureSession(asked)), first)
        self.assertEqual((len(self.runner.requests), asked.cookies), (1, []))
