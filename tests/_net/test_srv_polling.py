"""
The prose tests of the specification of SRV polling, on whole clients in
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bson.objectid import ObjectId
from twisted.internet.defer import Deferred, fail
from twisted.names.error import DNSNameError, DNSQueryTimeoutError
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from tests.spec.units_srv import RecordedResolver
from txmongokit.connection import ConnectionPool

TEST1 = "test1.test.build.10gen.cc"
TEST3 = "test3.test.build.10gen.cc"
TEST22 = "test22.test.build.10gen.cc"
TARGET = "localhost.test.build.10gen.cc"


class ChangingResolver(RecordedResolver):
    """
    Its records change.

    @ivar instead: what service look-ups give in their place.
    """

    instead: Callable[[], Deferred[Any]] | None = None

    def lookupService(self, name: str, timeout: Any = None) -> Deferred[Any]:
        """Look up SRV records."""
        if self.instead is not None:
            self.asked.append(name)
            return self.instead()
        return super().lookupService(name, timeout)


class ProseTests(SynchronousTestCase):
    """Four mongos."""

    def setUp(self) -> None:
        """Start them."""
        self.network = FakeNetwork()
        for port in range(27017, 27021):
            server = self.network.add(TARGET, port)
            server.hello = {"msg": "isdbgrid"}

    def connected(
        self, name: str, *ports: int, service: str = "mongodb", options: str = ""
    ) -> ConnectionPool:
        """A client that has found the servers."""
        self.service = f"_{service}._tcp.{name}"
        self.names = ChangingResolver({}, {}, 60)
        self.change(*ports)
        client = ConnectionPool(
            f"mongodb+srv://{name}/?tls=false{options}",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            resolver=self.names,
        )
        self.addCleanup(self.network.end, client)
        ping = client["db"].command("ping")
        self.network.advance(2.0)
        self.successResultOf(ping)
        return client

    def change(self, *ports: int) -> None:
        """Have DNS name these."""
        self.names.services = {self.service: [(TARGET, port) for port in ports]}

    def ports(self, client: ConnectionPool) -> set[int | None]:
        """Those that the client knows of after two intervals."""
        self.network.advance(120.0, 5.0)
        described = client.topology_description.server_descriptions()
        self.assertEqual({host for host, _ in described}, {TARGET})
        return {port for _, port in described}

    def test_changes(self) -> None:
        """1 to 5: records that come, go and take others' places."""
        for now in (
            (27017, 27018, 27019),
            (27017,),
            (27017, 27019),
            (27019,),
            (27019, 27020),
        ):
            client = self.connected(TEST1, 27017, 27018)
            self.change(*now)
            self.assertEqual(self.ports(client), set(now))

    def test_errors(self) -> None:
        """6 to 8: no answer in time, no such name, no records: nothing changes."""
        answers: list[Callable[[], Deferred[Any]]] = [
            lambda: fail(DNSQueryTimeoutError(0)),
            Deferred,
            lambda: fail(DNSNameError()),
        ]
        for answer in answers:
            client = self.connected(TEST1, 27017, 27018)
            asked = len(self.names.asked)
            self.names.instead = answer
            self.assertEqual(self.ports(client), {27017, 27018})
            self.assertGreater(len(self.names.asked), asked)
        client = self.connected(TEST1, 27017, 27018)
        self.change()
        self.assertEqual(self.ports(client), {27017, 27018})

    def test_load_balanced(self) -> None:
        """9: DNS is not asked again about a load balancer."""
        for server in self.network.servers.values():
            server.hello["serviceId"] = ObjectId()
        client = self.connected(TEST3, 27017, options="&loadBalanced=true")
        self.change(27017, 27018)
        self.assertEqual(self.ports(client), {27017})

    def test_all_hosts(self) -> None:
        """10 and 11: all of them, without a limit or where there are no more."""
        client = self.connected(TEST1, 27017, 27018, options="&srvMaxHosts=0")
        self.change(27017, 27019, 27020)
        self.assertEqual(self.ports(client), {27017, 27019, 27020})
        client = self.connected(TEST1, 27017, 27018, options="&srvMaxHosts=2")
        self.change(27019, 27020)
        self.assertEqual(self.ports(client), {27019, 27020})

    def test_some_hosts(self) -> None:
        """12: those in use stay, and others are chosen up to the limit."""
        client = self.connected(TEST1, 27017, 27018, options="&srvMaxHosts=2")
        self.change(27017, 27019, 27020)
        ports = self.ports(client)
        self.assertEqual(len(ports), 2)
        self.assertIn(27017, ports)

    def test_service_name(self) -> None:
        """13: the service may have a name of its own."""
        client = self.connected(
            TEST22, 27017, service="customname", options="&srvServiceName=customname"
        )
        self.change(27019, 27020)
        self.assertEqual(self.ports(client), {27019, 27020})
        self.assertEqual(set(self.names.asked) - {TEST22}, {self.service})
