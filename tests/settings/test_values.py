"""
Tests for L{txmongokit.settings.values}: hosts, database and options.
"""

from __future__ import annotations

from typing import Any

from bson.son import SON
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool, MongoConnection
from txmongokit.errors import ConfigurationError
from txmongokit.masterslave import MasterSlaveConnection
from txmongokit.settings.values import MongoSettings, read_settings

LOCAL = ("127.0.0.1", 27017)


def settings(**values: Any) -> MongoSettings:
    """
    What is read of keys without their prefix; the database is C{foo}.
    """
    return read_settings(
        {f"mongo.{name}": value for name, value in {"db": "foo", **values}.items()}
    )


class SettingsCase(SynchronousTestCase):
    """
    Refusals.
    """

    def refused(self, **values: Any) -> str:
        """
        The sentence that settings are refused with.
        """
        return str(self.assertRaises(ConfigurationError, settings, **values))


class HostTests(SettingsCase):
    """
    Every host with its port.
    """

    def test_defaults(self) -> None:
        """
        Without any, it is this machine; ports are 27017.
        """
        self.assertEqual(settings().masters, (LOCAL,))
        self.assertEqual(settings(master_port="5").masters, (("127.0.0.1", 5),))
        self.assertEqual(settings(master_host="a").masters, (("a", 27017),))
        found = settings(master_host="a", slave_hosts="b", slave_ports="")
        self.assertEqual(found.slaves, (("b", 27017),))
        self.assertEqual(settings(slave_hosts="", slave_ports="").slaves, ())

    def test_each_with_its_port(self) -> None:
        """
        There is one port for each host, or one for all.
        """
        for ports, expected in [
            ("1, 2,3", (("b", 1), ("c", 2), ("d", 3))),
            ("7", (("b", 7), ("c", 7), ("d", 7))),
            ([1, 2, 3], (("b", 1), ("c", 2), ("d", 3))),
            (7, (("b", 7), ("c", 7), ("d", 7))),
        ]:
            found = settings(master_host="a", slave_hosts="b,c, d", slave_ports=ports)
            self.assertEqual(found.slaves, expected)
        found = settings(master_host=["a", "b"], master_port=[1, 2])
        self.assertEqual(found.masters, (("a", 1), ("b", 2)))

    def test_port_behind_the_host(self) -> None:
        """
        Ports may be written behind the hosts, then in no other place.
        """
        found = settings(master_host="a", slave_hosts="b:5,c,[::1]:6,[::2],::3")
        expected = (("b", 5), ("c", 27017), ("::1", 6), ("::2", 27017), ("::3", 27017))
        self.assertEqual(found.slaves, expected)
        told = self.refused(master_host="a:5", master_port="6")
        self.assertIn("mongo.master_host has ports already: leave mongo.master_port out", told)

    def test_counts(self) -> None:
        """
        A mismatch tells both counts.
        """
        self.assertEqual(
            self.refused(master_host="a", slave_hosts="b,c,d", slave_ports="1,2"),
            "mongo.slave_hosts has 3 hosts and mongo.slave_ports has 2 ports: "
            "give one port for each host, or one for all",
        )
        told = self.refused(master_host="a", master_port="1,2")
        self.assertIn("mongo.master_host has 1 host and mongo.master_port has 2 ports", told)

    def test_no_ports(self) -> None:
        """
        What is no port is told, with what is allowed.
        """
        for port in ("0", "65536", "x", "-1", "1.5"):
            told = self.refused(master_port=port)
            self.assertIn(f"mongo.master_port='{port}' cannot be used: ", told)
            self.assertIn("must be a whole number 1 to 65535", told)
        self.assertIn("slave_hosts='a:x' cannot", self.refused(master_host="a", slave_hosts="a:x"))

    def test_no_hosts(self) -> None:
        """
        What is no host cannot smuggle anything into a connection string.
        """
        for host in ("a/?tls=false", "a b", "[::1", "[a]", "a:b:c", "/tmp/x.sock", "a%2F"):
            told = self.refused(master_host=host)
            self.assertIn(f"mongo.master_host={host!r} cannot be used", told)
        told = self.refused(master_host="mongodb://ada:hidden@a")
        self.assertIn("mongo.master_host cannot be used: what it names must be a host", told)
        self.assertNotIn("hidden", told)
        self.assertIn("has an empty item", self.refused(master_host="a,"))
        self.assertIn("names no host", self.refused(master_host=[]))

    def test_no_secrets(self) -> None:
        """
        A password that was written where none belongs is not shown, in whole
        or in part.
        """
        for text in ("ada:s3cret@db1", "mongodb://ada:s3,cret@db1", "mongodb://ada:s3cret@db1:x"):
            for name in ("master_host", "master_port", "slave_hosts", "slave_ports"):
                host = {} if name == "master_host" else {"master_host": "a"}
                told = self.refused(**{"slave_hosts": "b", **host, name: text})
                self.assertIn(f"mongo.{name} cannot be used: what it names must be a", told)
                self.assertNotIn("s3", told)
                self.assertNotIn("cret", told)

    def test_spellings(self) -> None:
        """
        A key without a host is told in any spelling.
        """
        for key in ("mongo.masterHost", "mongo.MASTER_HOST"):
            error = self.assertRaises(
                ConfigurationError, read_settings, {"mongo.db": "foo", key: []}
            )
            self.assertIn(f"{key}=[] names no host", str(error))

    def test_what_belongs_together(self) -> None:
        """
        Slaves need a master, ports need hosts.
        """
        told = self.refused(slave_hosts="a")
        self.assertIn("mongo.slave_hosts needs mongo.master_host: name the host", told)
        told = self.refused(slave_ports="5")
        self.assertIn("mongo.slave_ports needs mongo.slave_hosts: name the hosts", told)

    def test_connection_string(self) -> None:
        """
        A connection string stands in for the hosts, never beside them.
        """
        found = settings(uri="mongodb://ada:hidden@a,b/?replicaSet=rs0")
        self.assertEqual((found.masters, found.slaves), ((), ()))
        for name in ("master_host", "master_port"):
            told = self.refused(uri="mongodb://ada:hidden@a", **{name: "5"})
            self.assertIn(f"mongo.{name} does not go with mongo.uri, which has the hosts", told)
            self.assertNotIn("hidden", told)
        told = self.refused(uri="mongodb://a", slave_hosts="b")
        self.assertIn("leave one out, and write the master as master_host", told)
        self.assertIn("mongo.uri must be text", self.refused(uri=5))


class DatabaseTests(SettingsCase):
    """
    The database.
    """

    def test_named(self) -> None:
        """
        C{db} names it, or else the connection string.
        """
        self.assertEqual(settings().database, "foo")
        self.assertEqual(settings(uri="mongodb://a/bar", db=None).database, "bar")
        self.assertEqual(settings(uri="mongodb://a/bar").database, "foo")

    def test_missing(self) -> None:
        """
        Without a name there is none.
        """
        told = "mongo.db is missing: name the application's database"
        self.assertEqual(self.refused(db=None), told)
        self.assertEqual(self.refused(db=None, uri="mongodb://a"), told)
        self.assertEqual(self.refused(db=5), "mongo.db=5 must be the name of a database")

    def test_connection_string_cannot_be_read(self) -> None:
        """
        The key is told, and nothing of the password.
        """
        told = self.refused(db=None, uri="mongodb://ada:hid/den@a/bar")
        self.assertIn("mongo.uri: the connection string cannot be used: escape user name", told)
        self.assertNotIn("den", told.replace("hidden", ""))


class ConnectionTests(SettingsCase):
    """
    What is made of them.
    """

    def setUp(self) -> None:
        """
        A reactor.
        """
        self.clock = Clock()

    def test_kinds(self) -> None:
        """
        One host is a C{MongoConnection}; several, or a connection string, a
        C{ConnectionPool}.
        """
        for found, kind, seeds in [
            (settings(), MongoConnection, (LOCAL,)),
            (settings(master_host="::1"), MongoConnection, (("::1", 27017),)),
            (settings(master_host="a,::2"), ConnectionPool, (("a", 27017), ("::2", 27017))),
            (settings(uri="mongodb://a:5"), ConnectionPool, (("a", 5),)),
        ]:
            connection = found.connection(reactor=self.clock)
            assert isinstance(connection, ConnectionPool)
            self.assertIs(type(connection), kind)
            self.assertEqual(connection.client_options.seeds, seeds)

    def test_slaves(self) -> None:
        """
        With slaves it is a C{MasterSlaveConnection}: the options are
        everybody's, but what is true of the master's replica set alone.
        """
        found = settings(
            master_host="a,b",
            slave_hosts="c,d",
            slave_ports="5,6",
            replicaSet="rs0",
            tz_aware="true",
            document_class="bson.son:SON",
            max_pool_size="3",
            max_staleness="5",
            when_stale="fail",
        )
        connection = found.connection(reactor=self.clock)
        assert isinstance(connection, MasterSlaveConnection)
        options = connection.master.client_options
        self.assertEqual((options.replica_set, options.direct_connection), ("rs0", False))
        self.assertEqual(options.seeds, (("a", 27017), ("b", 27017)))
        for slave, seed in zip(connection.slaves, (("c", 5), ("d", 6)), strict=True):
            options = slave.client_options
            self.assertEqual((options.replica_set, options.direct_connection), (None, True))
            self.assertEqual((options.seeds, options.max_pool_size), ((seed,), 3))
        self.assertTrue(connection.tz_aware)
        self.assertIs(connection.document_class, SON)
        self.assertEqual(connection.lags, [None, None])

    def test_splitting(self) -> None:
        """
        How reads are split is only for those who have slaves, and must be
        right.
        """
        error = self.assertRaises(ConfigurationError, settings(max_staleness="5").connection)
        self.assertIn("mongo.max_staleness is for slaves: name them by mongo.slave", str(error))
        for name, value in [("max_staleness", "0.1"), ("when_stale", "maybe")]:
            found = settings(master_host="a", slave_hosts="b", **{name: value})
            error = self.assertRaises(ConfigurationError, found.connection, reactor=self.clock)
            self.assertIn(f"the settings mongo.* cannot be used: {name}=", str(error))

    def test_options(self) -> None:
        """
        Options arrive as the client's own, over the connection string's.
        """
        for place in ({"uri": "mongodb://ada@a/?maxPoolSize=9"}, {"username": "ada"}):
            found = settings(
                **place,
                max_pool_size="3",
                connectTimeoutMS="1500",
                tls="true",
                password="hidden",
                authSource="people",
                read_preference_tags="dc:east\ndc:west",
                readPreference="nearest",
                connection_sharing="4",
            )
            self.assertNotIn("hidden", repr(found))
            connection = found.connection(reactor=self.clock)
            assert isinstance(connection, ConnectionPool)
            options = connection.client_options
            self.assertEqual((options.max_pool_size, options.connect_timeout), (3, 1.5))
            self.assertEqual(options.connection_sharing, 4)
            assert options.tls is not None and options.credentials is not None
            credentials = options.credentials
            self.assertEqual((credentials.username, credentials.password), ("ada", "hidden"))
            self.assertEqual(credentials.source, "people")
            tags = options.read_preference.tag_sets
            self.assertEqual(tags, [{"dc": "east"}, {"dc": "west"}])

    def test_what_contradicts(self) -> None:
        """
        What is wrong with several options together is an error that says
        whose they are.
        """
        found = settings(minPoolSize="5", maxPoolSize="3")
        error = self.assertRaises(ConfigurationError, found.connection, reactor=self.clock)
        self.assertIn("the settings mongo.* cannot be used: minPoolSize=5 is larger", str(error))
        found = settings(event_listeners=["x"])
        error = self.assertRaises(ConfigurationError, found.connection, reactor=self.clock)
        self.assertIn("is no event listener", str(error))

    def test_arguments(self) -> None:
        """
        Arguments add to the settings, and do not override them.
        """
        found = settings(max_pool_size="3")
        connection = found.connection(reactor=self.clock, appName="shop")
        assert isinstance(connection, ConnectionPool)
        self.assertEqual(connection.client_options.app_name, "shop")
        error = self.assertRaises(ConfigurationError, found.connection, max_poolsize=4)
        self.assertIn("mongo.maxPoolSize is also an argument, max_poolsize: give one", str(error))

    def test_nothing_connects(self) -> None:
        """
        Nobody is called before the first operation.
        """
        network = FakeNetwork()
        server = network.add("a")
        connection = settings(master_host="a").connection(
            reactor=network.clock, endpoint_factory=network.endpoint
        )
        assert isinstance(connection, ConnectionPool)
        network.advance(20.0)
        self.assertEqual(server.attempts, 0)
        found = connection["foo"].command("ping")
        network.flush()
        self.successResultOf(found)
        network.end(connection)
