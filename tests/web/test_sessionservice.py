"""
Tests for L{txmongokit.web.sessionservice}, with a scripted server.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.fakes import FakeRunner, Script
from tests.fakeserver import FakeNetwork
from tests.web.logs import logged
from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect, ConfigurationError
from txmongokit.web.rest import SessionAPI
from txmongokit.web.sessionmetrics import SessionMetrics
from txmongokit.web.sessionservice import SessionServer, SessionStoreService
from txmongokit.web.store import MongoSessionStore

INDEXES: tuple[Script, ...] = (
    *({"cursor": {"firstBatch": [], "id": 0, "ns": "db.x"}, "ok": 1.0}, {"ok": 1.0}) * 2,
    {"ok": 1.0},
    {"n": 0, "nModified": 0, "ok": 1.0},
)


class ServiceTests(SynchronousTestCase):
    """
    L{SessionStoreService}.
    """

    def service(self, *replies: Script, **options: Any) -> SessionStoreService:
        """A service whose server is a script."""
        self.runner = FakeRunner(*replies)
        service = SessionStoreService(Database(self.runner, "db"), **options)
        self.addCleanup(service.stopService)
        return service

    def test_interface(self) -> None:
        """It is a service, with a store from the start."""
        service = self.service(name="visits", timeout=5)
        verifyObject(IService, service)
        self.assertIsInstance(service.store, MongoSessionStore)
        self.assertEqual(service.store.collection.full_name, "db.visits")
        self.assertEqual(self.runner.requests, [])

    def test_prepares_and_reaps(self) -> None:
        """Indexes come first; then, again and again, what has ended goes."""
        service = self.service(
            *INDEXES, {"n": 3, "ok": 1.0}, AutoReconnect("gone"), {"n": 4, "ok": 1.0}, reap_every=10
        )
        service.startService()
        self.successResultOf(service.prepared)
        self.assertIn("createIndexes", self.runner.names)
        asked = len(self.runner.names)
        self.runner.clock.advance(9.9)
        self.assertEqual(len(self.runner.names), asked)
        with logged() as lines:
            self.runner.clock.pump([0.1, 10, 10])
        self.assertEqual(self.runner.names[asked:], ["delete"] * 3)
        self.assertEqual((service.metrics.reaped, service.metrics.reap_failures), (7, 1))
        self.assertEqual(len(lines), 1)
        self.assertIn("AutoReconnect", lines[0])

    def test_keeps(self) -> None:
        """Once an hour the indexes are looked after."""
        service = self.service(*INDEXES, {"n": 0, "ok": 1.0}, *INDEXES, reap_every=3600)
        service.startService()
        before = list(self.runner.names)
        self.runner.clock.advance(3600)
        self.assertEqual(self.runner.names, [*before, "delete", *before])

    def test_database_comes_later(self) -> None:
        """A database that is not there yet is tried again, less and less often."""
        service = self.service(AutoReconnect("a"), AutoReconnect("b"), *INDEXES)
        with logged() as lines:
            service.startService()
            self.assertNoResult(service.prepared)
            self.runner.clock.advance(1)
            self.assertEqual(len(self.runner.names), 2)
            self.runner.clock.advance(1.9)
            self.assertEqual(len(self.runner.names), 2)
            self.runner.clock.advance(0.1)
        self.successResultOf(service.prepared)
        self.assertEqual(len(lines), 2)
        self.assertIn("next try in 2 s", lines[1])

    def test_stop(self) -> None:
        """Nothing goes on behind a stop, whenever it comes."""
        for replies in ((), (Deferred(),), INDEXES, (AutoReconnect("gone"),)):
            service = self.service(*replies, AutoReconnect("gone"))
            if replies:
                service.startService()
            self.successResultOf(service.stopService())
            self.successResultOf(service.prepared)
            self.assertEqual(self.runner.clock.getDelayedCalls(), [])
            self.assertFalse(service.running)

    def test_start_again(self) -> None:
        """A service that starts again keeps the store again."""
        service = self.service(*INDEXES, *INDEXES)
        for _ in range(2):
            service.startService()
            self.successResultOf(service.prepared)
            self.successResultOf(service.stopService())
        self.assertEqual(len(self.runner.replies), 0)

    def test_own_client(self) -> None:
        """A client of its own is closed, and another comes with the next start."""
        network = FakeNetwork()
        options = {"reactor": network.clock, "endpoint_factory": network.endpoint}
        service = SessionStoreService("mongodb://a/web", client_options=options)
        first = service.store.collection.database
        self.assertEqual(first.name, "web")
        assert isinstance(first.client, ConnectionPool)
        self.successResultOf(service.stopService())
        service.startService()
        self.assertIsNot(service.store.collection.database.client, first.client)
        self.successResultOf(service.stopService())

    def test_refused(self) -> None:
        """What cannot be is refused at once."""
        for options in ({"reap_every": 0}, {"reap_every": 1e9}, {"timeout": 0}):
            self.assertRaises(ValueError, self.service, **options)
        self.assertRaises(TypeError, self.service, client_options={"maxPoolSize": 3})
        self.assertRaises(ConfigurationError, SessionStoreService, "mongodb://a")
        self.assertRaises(TypeError, SessionStoreService, 5)


class Listening(Service):
    """
    What listens, or has other things to end.

    @ivar stopped: fires when it has stopped.
    """

    def __init__(self) -> None:
        self.stopped: Deferred[None] = Deferred()

    def stopService(self) -> Deferred[None]:
        """Not at once."""
        super().stopService()
        return self.stopped


class ServerTests(SynchronousTestCase):
    """
    L{SessionServer}.
    """

    def setUp(self) -> None:
        """A server whose database is a script."""
        runner = FakeRunner(*INDEXES)
        self.metrics = SessionMetrics()
        self.sessions = SessionStoreService(Database(runner, "db"), metrics=self.metrics)
        self.listening = Listening()
        self.clock = Clock()
        self.api = SessionAPI(lambda: self.sessions.store, self.clock, metrics=self.metrics)
        self.server = SessionServer(self.sessions, self.listening, self.api)
        self.server.startService()

    def test_order(self) -> None:
        """It stops to listen, then waits for requests, then stops the store; but not for ever."""
        self.assertTrue(self.listening.running and self.sessions.running)
        self.metrics.under_way = 1
        stopped = self.server.stopService()
        self.assertFalse(self.listening.running)
        self.listening.stopped.callback(None)
        self.clock.advance(4.9)
        self.assertTrue(self.sessions.running)
        self.clock.advance(0.1)
        self.assertFalse(self.sessions.running)
        self.successResultOf(stopped)

    def test_others(self) -> None:
        """What else is in it is stopped before the store."""
        other = Listening()
        other.setServiceParent(self.server)
        self.assertTrue(other.running)
        stopped = self.server.stopService()
        self.listening.stopped.callback(None)
        self.assertEqual((other.running, self.sessions.running), (False, True))
        other.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertFalse(self.sessions.running)

    def test_idle(self) -> None:
        """Without requests it does not wait."""
        stopped = self.server.stopService()
        self.listening.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertFalse(self.sessions.running or self.server.running)
