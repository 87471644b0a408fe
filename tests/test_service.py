"""
Tests for L{txmongokit.service}, in memory.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Application, IService, IServiceCollection, MultiService
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool
from txmongokit.errors import AutoReconnect, ConfigurationError, InvalidOperation, InvalidURI
from txmongokit.service import MongoService


class MongoServiceTests(SynchronousTestCase):
    """Starting and stopping."""

    def setUp(self) -> None:
        """One server."""
        self.network = FakeNetwork()
        self.server = self.network.add()

    def service(self, uri: str = "mongodb://a", **options: Any) -> MongoService:
        """A service for the network."""
        return MongoService(
            uri, reactor=self.network.clock, endpoint_factory=self.network.endpoint, **options
        )

    def clean(self) -> None:
        """Nothing is left: no connection and no timer."""
        self.network.flush()
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_interface(self) -> None:
        """It is a service, which does nothing before it starts."""
        service = self.service(appName="shop")
        verifyObject(IService, service)
        self.network.advance(20.0)
        self.assertEqual(self.server.attempts, 0)
        self.assertEqual(service.client.client_options.app_name, "shop")

    def test_in_an_application(self) -> None:
        """It starts and stops with its parent, which waits until all is closed."""
        application = Application("shop")
        service = self.service()
        service.setName("mongo")
        service.setServiceParent(application)
        parent = IService(application)
        self.assertIs(IServiceCollection(application).getServiceNamed("mongo"), service)
        parent.privilegedStartService()
        self.assertEqual(self.server.attempts, 0)
        parent.startService()
        self.network.flush()
        # Only a monitor, for nobody has asked for anything yet.
        self.assertEqual(len(self.server.connections), 1)
        self.assertTrue(service.running)
        found = service.client["shop"].command("ping")
        self.network.flush()
        self.successResultOf(found)
        stopped = parent.stopService()
        self.assertNoResult(stopped)
        self.network.flush()
        self.successResultOf(stopped)
        self.assertFalse(service.running)
        self.clean()

    def test_never_started(self) -> None:
        """Stopping what never ran is no error."""
        service = self.service()
        self.assertIsNone(self.successResultOf(service.stopService()))
        self.clean()

    def test_restart(self) -> None:
        """A service that starts again has another client."""
        parent = MultiService()
        service = self.service()
        service.setServiceParent(parent)
        first = service.client
        for _ in range(2):
            parent.startService()
            found = service.client["shop"].command("ping")
            self.network.flush()
            self.successResultOf(found)
            stopped = parent.stopService()
            self.network.flush()
            self.successResultOf(stopped)
            self.clean()
        self.assertIsNot(service.client, first)
        self.failureResultOf(first["shop"].command("ping"), InvalidOperation)

    def test_given_client(self) -> None:
        """A client that was given is started and closed, and is never replaced."""
        client = ConnectionPool(
            "mongodb://a", reactor=self.network.clock, endpoint_factory=self.network.endpoint
        )
        service = MongoService(client)
        self.assertIs(service.client, client)
        service.startService()
        self.network.flush()
        self.assertEqual(len(self.server.connections), 1)
        stopped = service.stopService()
        self.network.flush()
        self.successResultOf(stopped)
        self.clean()
        service.startService()
        self.assertIs(service.client, client)
        self.assertEqual(len(self.flushLoggedErrors(InvalidOperation)), 1)
        self.assertRaises(TypeError, MongoService, client, maxPoolSize=3)

    def test_mistakes(self) -> None:
        """A wrong connection string or option is an error at once, not in the log."""
        self.assertRaises(InvalidURI, MongoService, "http://a")
        self.assertRaises(ConfigurationError, MongoService, "mongodb://a", maxPoolSize="many")

    def test_unusable_file(self) -> None:
        """A file that cannot be used is logged, and is each operation's error."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("nothing")
        service = self.service(tls=True, tlsCAFile=path)
        service.startService()
        (logged,) = self.flushLoggedErrors(ConfigurationError)
        self.assertIn("tlsCAFile", str(logged.value))
        error = self.failureResultOf(service.client["shop"].command("ping"), ConfigurationError)
        self.assertIn("tlsCAFile", str(error.value))
        self.successResultOf(service.stopService())
        self.clean()

    def test_stopped_in_every_phase(self) -> None:
        """
        Whatever an operation waits for, stopping ends it: a server, a
        connection, a log-in, a free connection, a reply.
        """

        def lost(service: MongoService, waiting: list[Deferred[Any]]) -> None:
            stopped = service.stopService()
            self.network.advance(2.0)
            self.successResultOf(stopped)
            for each in waiting:
                self.failureResultOf(each, AutoReconnect)
            self.clean()

        def begun(service: MongoService) -> list[Deferred[Any]]:
            service.startService()
            waiting = [service.client["shop"].command("ping") for _ in range(5)]
            self.network.flush()
            for each in waiting:
                self.assertNoResult(each)
            return waiting

        self.server.refuses = Deferred()
        service = self.service()
        lost(service, begun(service))

        self.server.refuses = None
        self.server.on_hello = lambda body: None
        service = self.service()
        lost(service, begun(service))

        self.server.on_hello = None
        self.server.on_command = lambda body: None
        service = self.service(maxPoolSize=2)
        lost(service, begun(service))

        service = self.service("mongodb://u:p@a")
        lost(service, begun(service))
        self.assertIn("saslStart", self.server.names())
