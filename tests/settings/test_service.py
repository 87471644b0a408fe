"""
Tests for L{txmongokit.settings.service}: the parent of what uses a database.
"""

from __future__ import annotations

import gc
from typing import Any

from twisted.application.service import Application, IService, Service
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.fakeserver import FakeNetwork
from txmongokit.errors import ConfigurationError, InvalidOperation
from txmongokit.settings import MongoParent, read_settings


class Child(Service):
    """
    Pings when it starts, and once more when it stops.
    """

    def __init__(self, mongo: MongoParent) -> None:
        self.mongo = mongo
        self.pings: list[Deferred[Any]] = []
        self.ends = True

    def startService(self) -> None:
        """Use the database."""
        super().startService()
        self.pings.append(self.mongo.db.command("ping"))

    def stopService(self) -> Deferred[Any]:
        """Use it for the last time."""
        super().stopService()
        if not self.ends:
            raise ValueError("does not end well")
        last = self.mongo.db.command("ping")
        self.pings.append(last)
        return last.addCallback(lambda _: None)


class MongoParentTests(SynchronousTestCase):
    """
    Starting and stopping.
    """

    def setUp(self) -> None:
        """
        One server, and a parent with a child.
        """
        self.network = FakeNetwork()
        self.server = self.network.add("a")
        self.parent = self.make({"mongo.db": "foo", "mongo.master_host": "a"})
        self.child = Child(self.parent)
        self.child.setServiceParent(self.parent)

    def make(self, settings: Any) -> MongoParent:
        """
        A parent.
        """
        return MongoParent(
            settings, reactor=self.network.clock, endpoint_factory=self.network.endpoint
        )

    def stop(self) -> None:
        """
        Stop, and see that nothing is left.
        """
        stopped = self.parent.stopService()
        self.network.flush()
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_interface(self) -> None:
        """
        It is a service, which does nothing before it starts.
        """
        verifyObject(IService, self.parent)
        self.network.advance(20.0)
        self.assertEqual(self.server.attempts, 0)

    def test_children(self) -> None:
        """
        Children can use the database from their start to their end.
        """
        application = Application("shop")
        self.parent.setServiceParent(application)
        IService(application).startService()
        self.network.flush()
        self.assertTrue(self.child.running)
        self.stop()
        for ping in self.child.pings:
            self.successResultOf(ping)
        self.assertEqual(len(self.child.pings), 2)

    def test_child_that_does_not_end_well(self) -> None:
        """
        The connections are closed all the same.
        """
        self.child.ends = False
        self.parent.startService()
        self.network.flush()
        stopped = self.parent.stopService()
        self.network.flush()
        self.successResultOf(stopped)
        self.assertEqual(self.server.connections, [])
        del stopped
        gc.collect()
        (logged,) = self.flushLoggedErrors(ValueError)
        self.assertEqual(str(logged.value), "does not end well")

    def test_restart(self) -> None:
        """
        When it starts again, it has another client of the same settings.
        """
        first = self.parent.db_conn
        for _ in range(2):
            self.parent.startService()
            self.network.flush()
            self.stop()
        self.assertIsNot(self.parent.db_conn, first)
        for ping in self.child.pings:
            self.successResultOf(ping)
        self.assertEqual(len(self.child.pings), 4)

    def test_restart_before_the_end(self) -> None:
        """
        When it starts again before it has stopped, only the old client is closed.
        """
        self.parent.startService()
        self.network.flush()
        old = self.parent.db_conn
        stopped = self.parent.stopService()
        self.assertNoResult(stopped)
        self.parent.startService()
        self.assertIsNot(self.parent.db_conn, old)
        self.network.flush()
        self.successResultOf(stopped)
        ping = self.parent.db.command("ping")
        self.network.flush()
        self.assertEqual(self.successResultOf(ping)["ok"], 1)
        self.failureResultOf(old["foo"].command("ping"), InvalidOperation)
        self.stop()
        for ping in self.child.pings:
            self.successResultOf(ping)

    def test_mistakes(self) -> None:
        """
        What is wrong with the settings is an error at once.
        """
        self.assertRaises(ConfigurationError, self.make, {"mongo.db": "foo", "mongo.dbs": "bar"})

    def test_settings_that_were_read(self) -> None:
        """
        Settings may have been read before.
        """
        parent = self.make(read_settings({"mongo.db": "foo", "mongo.master_host": "a"}))
        self.assertEqual(parent.db.name, "foo")

    def test_unusable_file(self) -> None:
        """
        What only shows when it connects is logged.
        """
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("nothing")
        self.parent = self.make(
            {"mongo.db": "foo", "mongo.master_host": "a", "mongo.tlsCAFile": path}
        )
        self.parent.startService()
        (logged,) = self.flushLoggedErrors(ConfigurationError)
        self.assertIn("tlsCAFile", str(logged.value))
        self.successResultOf(self.parent.stopService())
