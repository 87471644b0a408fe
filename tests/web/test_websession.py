"""
Tests for L{txmongokit.web.websession}.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from twisted.internet.task import Clock
from twisted.python.components import Componentized
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import Interface

from tests.fakes import Script, cursor_reply
from tests.web.test_store import ID, NOW, StoreTestCase, stored
from txmongokit.errors import AutoReconnect
from txmongokit.web.websession import KeptSessions, StoredSession


class IThing(Interface):
    """A component."""


class KeptTests(StoreTestCase):
    """
    What a process remembers of sessions.
    """

    def keep(self, *replies: Script) -> StoredSession:
        """A session of 100 s that waits for its end, kept."""
        record = self.loaded(*replies)
        self.clock = Clock()
        self.kept = KeptSessions(self.sessions)
        self.ended: list[str] = []
        site: Any = Site(Resource(), reactor=self.clock)
        session = self.kept.session_of(record, site)
        session.notifyOnExpire(lambda: self.ended.append("ended"))
        self.kept.keep(session)
        return session

    def test_the_same(self) -> None:
        """The next request has the same session, with the record that was loaded for it."""
        session = self.keep()
        record = self.sessions.new_record({"b": 2})
        record.id = ID
        self.assertIs(self.kept.session_of(record, session.site), session)
        self.assertEqual(session.data, {"b": 2})

    def test_nothing_to_keep(self) -> None:
        """A session that has neither components nor callbacks is not kept."""
        session = self.keep()
        session.expireCallbacks.clear()
        self.kept.keep(session)
        self.assertEqual((len(self.kept), self.clock.getDelayedCalls()), (0, []))
        session.setComponent(IThing, object())
        self.kept.keep(session)
        self.assertEqual(len(self.kept), 1)

    def test_adapters(self) -> None:
        """Looking in vain for a component keeps nothing."""
        session = self.keep()
        self.assertIsInstance(session, Componentized)
        session.expireCallbacks.clear()
        self.assertIsNone(session.getComponent(IThing))
        self.assertIsNone(IThing(session, None))
        self.kept.keep(session)
        self.assertEqual(len(self.kept), 0)

    def test_end(self) -> None:
        """When its time is over, the database is asked; then the callbacks are called."""
        self.keep(cursor_reply([]))
        self.clock.advance(100)
        self.assertEqual(self.ended, [])
        self.clock.advance(1)
        self.assertEqual((self.ended, len(self.kept)), (["ended"], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_used_elsewhere(self) -> None:
        """A session that lives on is asked about again when it should end."""
        later = stored({}, expires=NOW + timedelta(seconds=150))
        self.keep(later, cursor_reply([]))
        self.clock.advance(101)
        self.assertEqual(self.ended, [])
        self.clock.advance(151)
        self.assertEqual(self.ended, ["ended"])

    def test_database_away(self) -> None:
        """Without the database it is asked later."""
        self.keep(AutoReconnect("gone"), cursor_reply([]))
        self.clock.advance(101)
        self.assertEqual((self.ended, len(self.kept)), ([], 1))
        self.clock.advance(101)
        self.assertEqual(self.ended, ["ended"])

    def test_unreadable(self) -> None:
        """A session that nobody can read has ended."""
        self.keep(stored(b"sealed"))
        self.clock.advance(101)
        self.assertEqual(self.ended, ["ended"])

    def test_callback_fails(self) -> None:
        """A callback that raises is logged."""
        session = self.keep(cursor_reply([]))
        session.notifyOnExpire(lambda: self.ended.remove("nothing"))
        self.clock.advance(101)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_expired(self) -> None:
        """A session that has been ended by a request is not kept."""
        session = self.keep()
        session.expire()
        self.kept.keep(session)
        self.assertEqual((self.ended, len(self.kept)), (["ended"], 0))

    def test_clear(self) -> None:
        """When the site stops, nothing is left in the reactor, and nobody is called."""
        self.keep()
        self.kept.clear()
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), ([], []))

    def test_limit(self) -> None:
        """Beyond the limit, those go that were used longest ago."""
        session = self.keep()
        kept = KeptSessions(self.sessions, most=3)
        self.kept.clear()
        kept.keep(session)
        for _ in range(5):
            record = self.sessions.new_record()
            another = kept.session_of(record, session.site)
            another.setComponent(IThing, object())
            kept.keep(another)
        self.assertEqual(len(kept), 3)
        self.assertEqual(len(self.clock.getDelayedCalls()), 3)
        self.assertIsNone(kept.forget(ID))

    def test_touch(self) -> None:
        """The time of the last use is the reactor's."""
        session = self.keep()
        self.clock.advance(5)
        session.touch()
        self.assertEqual(session.lastModified, 5)
        self.assertEqual(session.sessionTimeout, 100)
        session.startCheckingExpiration()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_repr(self) -> None:
        """It shows neither id nor data."""
        self.assertEqual(repr(self.keep()), "<StoredSession of None>")

    def test_users(self) -> None:
        """Logging in and out ask for a new id; what is no user is refused."""
        session = self.keep()
        for change, user in (
            (lambda: session.log_in("ada"), "ada"),
            (session.regenerate, "ada"),
            (session.log_out, None),
        ):
            session.renewed = False
            change()
            self.assertEqual((session.user, session.renewed), (user, True))
        hostile: Any = {"$ne": 1}
        self.assertRaises(TypeError, session.log_in, hostile)
        self.assertEqual(session.created, NOW)
        session.data = {"x": 1}
        self.assertEqual(session.record.data, {"x": 1})
