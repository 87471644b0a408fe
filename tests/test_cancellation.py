"""
What cancelling does, layer by layer (the cursor's and the protocol's rows are
with their own tests).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool


class CancellationTests(SynchronousTestCase):
    """Cancelling an operation ends the stage that it is in."""

    def setUp(self) -> None:
        """A client that has not connected."""
        self.network = FakeNetwork()
        (self.server,) = self.network.replica_set("a")
        self.client = ConnectionPool(
            "mongodb://a/?replicaSet=rs&maxPoolSize=1",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
        )
        self.addCleanup(self.network.end, self.client)
        self.things = self.client["db"]["things"]

    def warm_up(self) -> None:
        """Connect, and let the monitor settle."""
        ping = self.client["db"].command("ping")
        self.network.advance(1.0)
        self.successResultOf(ping)
        del self.server.commands[:]

    def cancelled(self, operation: Deferred[Any]) -> None:
        """Cancel an operation."""
        self.assertNoResult(operation)
        operation.cancel()
        self.failureResultOf(operation, CancelledError)
        self.network.flush()

    def works(self) -> None:
        """The client works on."""
        self.server.on_command = lambda body: {"ok": 1.0, "n": 1}
        operation = self.things.insert_one({"last": True})
        self.network.flush()
        self.successResultOf(operation)

    def test_selecting(self) -> None:
        """While no server is known: the queue is left, nothing is sent."""
        self.server.on_hello = lambda body: None
        operation = self.things.insert_one({})
        timers = len(self.network.clock.getDelayedCalls())
        self.cancelled(operation)
        self.assertEqual(len(self.network.clock.getDelayedCalls()), timers - 1)
        self.assertEqual(self.server.commands, [])

    def test_connecting(self) -> None:
        """While a connection is made: it still enters the pool."""
        operation = self.things.insert_one({})
        while len(self.server.connections) < 2:
            self.network._queue.popleft()()
        self.cancelled(operation)
        self.assertEqual(self.server.commands, [])
        attempts = self.server.attempts
        self.works()
        self.assertEqual(self.server.attempts, attempts)

    def test_queueing(self) -> None:
        """While another has the only connection: the queue is left."""
        self.warm_up()
        self.server.on_command = lambda body: None
        first, second = self.things.find_one(1), self.things.find_one(2)
        self.network.flush()
        self.cancelled(second)
        self.cancelled(first)
        self.assertEqual(self.server.names(), ["find"])
        self.works()

    def test_in_flight(self) -> None:
        """While the server works: never sent again, its connection closed, its session dropped."""
        self.warm_up()
        self.server.on_command = lambda body: None
        operation = self.things.insert_one({})
        self.network.flush()
        connections = list(self.server.connections)
        self.cancelled(operation)
        self.assertEqual(len(self.server.connections), len(connections) - 1)
        self.network.advance(1.0)
        self.assertEqual(self.server.names(), ["insert"])
        self.works()
        one, other = self.server.commands
        self.assertNotEqual(one["lsid"], other["lsid"])

    def test_between_tries(self) -> None:
        """Between the first try and the second: there is no second."""
        self.warm_up()
        self.server.on_command = lambda body: ConnectionError("reset")
        self.server.on_hello = lambda body: None
        operation = self.things.insert_one({})
        self.network.flush()
        self.cancelled(operation)
        self.server.on_hello = None
        self.server.lose_all()
        self.network.advance(1.0)
        self.assertEqual(self.server.names(), ["insert"])
        self.works()

    def test_disconnecting(self) -> None:
        """While the server is told: everything is closed all the same."""
        self.warm_up()
        self.server.on_command = lambda body: None
        self.cancelled(self.client.disconnect())
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
