"""
Tests for L{txmongokit._net.topology}, in memory.
"""

from __future__ import annotations

from random import Random
from typing import Any

from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.names import dns
from twisted.names.error import DNSNameError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork, refusal
from txmongokit._net.connector import Connector
from txmongokit._net.observation import Observer
from txmongokit._net.topology import Server, Topology
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    ServerSelectionTimeoutError,
)
from txmongokit.options import parse_options


class TopologyTestCase(SynchronousTestCase):
    """A network and topologies in it."""

    def setUp(self) -> None:
        """A network."""
        self.network = FakeNetwork()

    def topology(self, uri: str, **options: Any) -> Topology:
        """A topology that watches its seeds."""
        parsed = parse_options(uri, **options)
        connector = Connector(self.network.clock, parsed, endpoint_factory=self.network.endpoint)
        topology = Topology(
            self.network.clock, parsed, connector, Observer((), ObjectId()), Random(7)
        )
        topology.start()
        self.addCleanup(topology.close)
        return topology

    def primary(self, topology: Topology, timeout: float = 5.0) -> Deferred[Server]:
        """Ask for a primary."""
        return topology.select(True, ReadPreference.PRIMARY, timeout)


class TopologyTests(TopologyTestCase):
    """What is known of a deployment, and who is chosen."""

    def test_one_seed(self) -> None:
        """From one secondary the whole set is found, and its primary."""
        self.network.replica_set("a", "b", "c", primary="c")
        topology = self.topology("mongodb://a/?replicaSet=rs")
        waiting = self.primary(topology)
        self.assertNoResult(waiting)
        self.network.flush()
        self.assertEqual(self.successResultOf(waiting).address, ("c", 27017))
        secondary = topology.select_now(False, ReadPreference.SECONDARY)
        assert secondary is not None
        self.assertIn(secondary.address, [("a", 27017), ("b", 27017)])
        self.assertTrue(topology.has_servers)

    def test_step_down(self) -> None:
        """After a NotPrimary error the next primary is looked for at once."""
        self.network.replica_set("a", "b")
        topology = self.topology("mongodb://a,b/?replicaSet=rs")
        self.network.advance(2.0)
        server = self.successResultOf(self.primary(topology))
        self.network.elect("b")
        error = NotPrimaryError("stepped down", {"code": 10107})
        topology.operation_failed(server, error, server.pool.generation)
        waiting = self.primary(topology)
        self.assertNoResult(waiting)
        self.network.advance(0.5)
        self.assertEqual(self.successResultOf(waiting).address, ("b", 27017))
        self.assertEqual(server.pool.generation, 0)

    def test_set_name(self) -> None:
        """A set of another name is said to be none of ours."""
        self.network.replica_set("a")
        topology = self.topology("mongodb://a/?replicaSet=other")
        waiting = self.primary(topology)
        self.network.advance(5.0)
        error = self.failureResultOf(waiting, ServerSelectionTimeoutError).value
        self.assertIn("replica set 'other'", str(error))
        self.assertIn("check replicaSet", str(error))

    def test_selection_timeout(self) -> None:
        """A selection that takes too long says what is known of each server."""
        topology = self.topology("mongodb://a,b")
        waiting = self.primary(topology, 3.0)
        self.network.advance(3.0)
        text = str(self.failureResultOf(waiting, ServerSelectionTimeoutError).value)
        for part in ("a primary within 3 s", "a:27017: Connection was refused", "b:27017"):
            self.assertIn(part, text)

    def test_cancel(self) -> None:
        """Who does not want to wait any more leaves nothing behind."""
        topology = self.topology("mongodb://a")
        timers = len(self.network.clock.getDelayedCalls())
        waiting = self.primary(topology)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.network.clock.getDelayedCalls()), timers)

    def test_removed_member(self) -> None:
        """A member that left the set is closed and no longer watched."""
        servers = self.network.replica_set("a", "b")
        topology = self.topology("mongodb://a,b/?replicaSet=rs")
        self.network.advance(1.0)
        gone = topology.server(("b", 27017))
        self.assertEqual(len(servers[1].connections), 1)
        servers[0].hello["hosts"] = ["a:27017"]
        self.network.advance(11.0)
        self.assertEqual(servers[1].connections, [])
        self.assertFalse(gone.pool.ready)
        with self.assertRaises(AutoReconnect):
            topology.server(("b", 27017))

    def test_unsupported(self) -> None:
        """A server that is too old fails whoever waits, at once, and is watched on."""
        server = self.network.add()
        server.hello = {"maxWireVersion": 2}
        topology = self.topology("mongodb://a")
        waiting = self.primary(topology)
        self.network.flush()
        failure = self.failureResultOf(waiting, ConfigurationError)
        self.assertIn("a:27017 has wire version 2", str(failure.value))
        address = topology.select_at(("a", 27017), 5.0)
        self.failureResultOf(address, ConfigurationError)
        self.assertFalse(topology.server(("a", 27017)).pool.ready)
        server.hello = {}
        self.network.advance(11.0)
        self.successResultOf(self.primary(topology))

    def test_future_server(self) -> None:
        """So does one that is too new, which only the deployment's check tells."""
        server = self.network.add()
        server.hello = {"minWireVersion": 900, "maxWireVersion": 999}
        waiting = self.primary(self.topology("mongodb://a"), 1.0)
        self.network.flush()
        self.failureResultOf(waiting, ConfigurationError)

    def test_network_error(self) -> None:
        """A lost connection empties the pool and is looked into at once; an old one is not."""
        self.network.add()
        topology = self.topology("mongodb://a")
        self.network.advance(2.0)
        server = self.successResultOf(self.primary(topology))
        topology.operation_failed(server, AutoReconnect("reset"), 0)
        self.assertEqual((server.pool.generation, server.pool.ready), (1, False))
        self.assertFalse(topology.has_servers)
        self.network.advance(0.5)
        self.assertTrue(server.pool.ready)
        topology.operation_failed(server, AutoReconnect("reset"), 0)
        self.assertEqual(server.pool.generation, 1)
        topology.operation_failed(server, NetworkTimeout("slow"), 1)
        self.assertTrue(server.pool.ready)

    def test_silence_interrupts(self) -> None:
        """A server that stopped answering its monitor ends what waits on it without limit."""
        fake = self.network.add()
        topology = self.topology("mongodb://a", connectTimeoutMS=2000)
        self.network.advance(2.0)
        server = self.successResultOf(self.primary(topology))
        check_out = server.pool.check_out(1.0)
        self.network.flush()
        connection = self.successResultOf(check_out)
        fake.on_command = fake.on_hello = lambda body: None
        waiting = connection.protocol.request(b"\x05\x00\x00\x00\x00")
        waiting.addErrback(lambda failure: failure.value)
        self.network.clock.advance(20.0)
        self.network.clock.advance(3.0)
        self.assertIsInstance(self.successResultOf(waiting), AutoReconnect)

    def test_close(self) -> None:
        """Closing fails who waits, ends every watch and cannot be undone."""
        self.network.replica_set("a", "b")
        topology = self.topology("mongodb://a,b/?replicaSet=rs")
        self.network.elect(None)
        waiting = self.primary(topology)
        self.network.advance(1.0)
        known = topology.description.server_descriptions()[("a", 27017)]
        topology.close()
        self.assertIn("closed", str(self.failureResultOf(waiting, AutoReconnect).value))
        self.network.flush()
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.assertEqual([server.connections for server in self.network.servers.values()], [[], []])
        with self.assertRaises(InvalidOperation):
            topology.start()
        with self.assertRaises(AutoReconnect):
            topology.select_now(False, ReadPreference.SECONDARY)
        topology.report(known)

    def test_connecting_fails(self) -> None:
        """Who waits for a connection learns why there is none, after the topology did."""
        fake = self.network.add()
        topology = self.topology("mongodb://a")
        self.network.advance(1.0)
        server = self.successResultOf(self.primary(topology))
        fake.refuses = refusal()
        known: list[bool] = []
        waiting = server.pool.check_out(1.0)

        def note(failure: Failure) -> Failure:
            known.append(topology.has_servers)
            return failure

        waiting.addErrback(note)
        self.assertIn("refused", str(self.failureResultOf(waiting, AutoReconnect).value))
        self.assertEqual(known, [False])

    def test_single_secondary(self) -> None:
        """A direct connection to a secondary is known as such."""
        self.network.replica_set("a", "b", primary="b")
        direct = self.topology("mongodb://a/?directConnection=true")
        whole = self.topology("mongodb://a/?replicaSet=rs")
        self.network.flush()
        self.assertEqual((direct.single_secondary, whole.single_secondary), (True, False))

    def test_at_an_address(self) -> None:
        """One server is waited for where nobody else will do."""
        self.network.replica_set("a", "b")
        topology = self.topology("mongodb://a,b/?replicaSet=rs")
        server = topology.select_at(("b", 27017), 5.0)
        self.assertNoResult(server)
        self.network.advance(1.0)
        found = self.successResultOf(server)
        self.assertEqual(found.address, ("b", 27017))
        self.assertIs(self.successResultOf(topology.select_at(("b", 27017), 5.0)), found)
        self.failureResultOf(topology.select_at(("c", 27017), 5.0), AutoReconnect)

    def test_nobody_at_an_address(self) -> None:
        """It is waited for as long as one wants to, and the error names it."""
        self.network.replica_set("a", "b")
        self.network.servers["b", 27017].refuses = refusal()
        topology = self.topology("mongodb://a,b/?replicaSet=rs")
        server = topology.select_at(("b", 27017), 3.0)
        self.network.advance(4.0)
        error = self.failureResultOf(server, ServerSelectionTimeoutError).value
        self.assertIn("no answer from b:27017 within 3 s", str(error))


class FakeNames:
    """Name servers that know one service."""

    def __init__(self, *hosts: str, text: bytes = b"") -> None:
        self.hosts = hosts
        self.text = text
        self.asked = 0

    def lookupService(self, name: str) -> Deferred[Any]:
        """Its hosts."""
        self.asked += 1
        records = [dns.Record_SRV(0, 0, 27017, f"{host}.example.test") for host in self.hosts]
        return succeed(([dns.RRHeader(name, dns.SRV, ttl=60, payload=r) for r in records], [], []))

    def lookupText(self, name: str) -> Deferred[Any]:
        """Its options."""
        if not self.text:
            return fail(DNSNameError())
        record = dns.Record_TXT(self.text)
        return succeed(([dns.RRHeader(name, dns.TXT, payload=record)], [], []))


class SrvTests(TopologyTestCase):
    """A deployment that DNS names."""

    def client(self, names: FakeNames) -> ConnectionPool:
        """A client by the service's name."""
        client = ConnectionPool(
            "mongodb+srv://cluster.example.test/?tls=false",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            resolver=names,
        )
        self.addCleanup(self.network.end, client)
        return client

    def test_hosts(self) -> None:
        """The hosts come from DNS, and so does the name of the set."""
        servers = self.network.replica_set("a.example.test", "b.example.test")
        client = self.client(FakeNames("b", text=b"replicaSet=rs"))
        inserted = client["db"]["things"].insert_one({})
        self.network.flush()
        self.successResultOf(inserted)
        self.assertEqual(servers[0].names(), ["insert"])

    def test_nothing_there(self) -> None:
        """A name without hosts is the first operation's error; the next asks again."""
        names = FakeNames()
        client = self.client(names)
        for asked in (1, 2):
            ping = client["db"].command("ping")
            error = self.failureResultOf(ping, ConfigurationError).value
            self.assertIn("_mongodb._tcp", str(error))
            self.assertEqual(names.asked, asked)

    def test_load_balancer(self) -> None:
        """DNS may tell of a load balancer, and is not asked again."""
        server = self.network.add("a.example.test")
        server.hello = {"msg": "isdbgrid", "serviceId": ObjectId()}
        names = FakeNames("a", text=b"loadBalanced=true")
        client = self.client(names)
        ping = client["db"].command("ping")
        self.network.flush()
        self.assertEqual(self.successResultOf(ping)["ok"], 1.0)
        self.assertEqual(client.topology_description.topology_type_name, "LoadBalanced")
        self.assertEqual(names.asked, 1)
        self.network.advance(300.0, 10.0)
        self.assertEqual(names.asked, 1)
        self.assertEqual(len(server.hellos), 1)
        batch = {"id": Int64(7), "ns": "db.things", "firstBatch": [{}]}
        server.on_command = lambda body: {"ok": 1.0, "cursor": batch}
        cursor = client["db"]["things"].find(batch_size=1)
        first = cursor.next()
        self.network.flush()
        self.assertEqual(self.successResultOf(first), {})
        (balancer,) = client._topology.servers()
        self.assertEqual(balancer.pool.statistics().in_use, 1)
        cursor.close()
        self.network.flush()
        self.assertEqual(balancer.pool.statistics().in_use, 0)

    def test_load_balancers(self) -> None:
        """One host only may be behind a TXT record's load balancer."""
        ping = self.client(FakeNames("a", "b", text=b"loadBalanced=true"))["db"].command("ping")
        self.assertIn("one host", str(self.failureResultOf(ping, ConfigurationError).value))

    def test_new_hosts(self) -> None:
        """A cluster's new mongos is used, and one that is gone is not."""
        for host in ("a", "b", "c"):
            self.network.add(f"{host}.example.test").hello = {"msg": "isdbgrid"}
        names = FakeNames("a", "b")
        client = self.client(names)
        client["db"].command("ping")
        self.network.advance(2.0)
        names.hosts = ("b", "c")
        self.network.advance(60.0)
        hosts = client._topology.description.server_descriptions()
        self.assertEqual({host for host, _ in hosts}, {"b.example.test", "c.example.test"})
