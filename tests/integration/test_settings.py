"""
L{txmongokit.settings} on real servers: the seed's own, and threads that wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymongo
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.deployments import Commands, shared_secure, shared_set
from tests.reactorthreads import renew_reactor_thread
from txmongokit.errors import (
    DuplicateKeyError,
    InvalidOperation,
    PyMongoError,
)
from txmongokit.masterslave import MasterSlaveConnection
from txmongokit.reactorthread import ReactorThread
from txmongokit.settings import (
    MongoHandle,
    from_environment,
    from_ini,
    from_settings,
    from_toml,
)
from txmongokit.settings.blocking import Blocking, BlockingHandle, blocking_from_settings


def settings(**more: Any) -> dict[str, Any]:
    """Those of an application with the shared set."""
    return {"mongo.uri": shared_set().uri, "mongo.db": "settings", **more}


class SettingsCase(TestCase):
    """
    With the shared set.
    """

    timeout = 60

    def setUp(self) -> None:
        """An empty database."""
        self.database = shared_set().client()["settings"]
        self.addCleanup(self.database.client.close)
        self.database.client.drop_database("settings")

    def in_thread(self, function: Callable[[], None]) -> Deferred[None]:
        """A test that may wait."""
        return deferToThread(function)

    def blocking(self, **more: Any) -> BlockingHandle:
        """What a thread has."""
        handle = from_settings(settings(**more))
        self.addCleanup(handle.disconnect)
        return BlockingHandle(handle, ReactorThread(reactor))


class SplitTests(SettingsCase):
    """
    The seed's settings: writes on the master, reads on slaves.
    """

    def split(self) -> dict[str, Any]:
        """The seed's settings, for the members of the shared set."""
        master, slave = shared_set().addresses
        with shared_set().client() as client:
            if client.admin.command("hello")["primary"] != f"{master[0]}:{master[1]}":
                master, slave = slave, master
        return {
            "mongo.master_host": master[0],
            "mongo.master_port": str(master[1]),
            "mongo.slave_hosts": slave[0],
            "mongo.slave_ports": str(slave[1]),
            "mongo.db": "settings",
        }

    def test_reads_and_writes(self) -> Deferred[None]:
        """C{find_one} asks the slave, writes go to the master."""
        return Deferred.fromCoroutine(self.reads_and_writes())

    async def reads_and_writes(self) -> None:
        """See L{test_reads_and_writes}."""
        configuration, commands = self.split(), Commands()
        app_globals = SimpleNamespace()
        handle = from_settings(configuration, event_listeners=[commands], w=2)
        self.addCleanup(handle.disconnect)
        handle.attach(app_globals)
        db, db_conn = app_globals.db, app_globals.db_conn
        self.assertIsInstance(db_conn, MasterSlaveConnection)
        await db.fooCollection.insert_one({"_id": 1})
        self.assertEqual(await db.fooCollection.find_one(), {"_id": 1})
        with db_conn.start_request():
            await db.fooCollection.find_one()
        db_conn.end_request()
        ports = [str(each.connection_id[1]) for each in commands.named("find")]
        master, slave = configuration["mongo.master_port"], configuration["mongo.slave_ports"]
        self.assertEqual(ports, [slave, master])
        self.assertEqual(str(commands.named("insert")[0].connection_id[1]), master)

    def test_requests_of_threads(self) -> Deferred[None]:
        """A thread's C{start_request} is its own, until C{end_request}."""
        commands = Commands()
        configuration = self.split()
        handle = from_settings(configuration, event_listeners=[commands])
        self.addCleanup(handle.disconnect)
        waiting = BlockingHandle(handle, ReactorThread(reactor))

        def use() -> None:
            waiting.db_conn.start_request()
            waiting.db.things.find_one()
            self.assertTrue(waiting.db_conn.in_request())
            waiting.db_conn.end_request()
            with waiting.db_conn.start_request():
                waiting.db.things.find_one()
            self.assertFalse(waiting.db_conn.in_request())
            waiting.db.things.find_one()

        def look(_: None) -> None:
            ports = [str(each.connection_id[1]) for each in commands.named("find")]
            master, slave = configuration["mongo.master_port"], configuration["mongo.slave_ports"]
            self.assertEqual(ports, [master, master, slave])

        return self.in_thread(use).addCallback(look)


class SecureTests(TestCase):
    """
    A server that demands TLS and a password, from each source.
    """

    timeout = 60

    def setUp(self) -> None:
        """A folder with the password in a file."""
        deployment = shared_secure()
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        (self.folder / "password").write_text("pw\n")
        self.values = {
            "master_host": "localhost",
            "master_port": str(deployment.addresses[0][1]),
            "db": "settings",
            "tls": "true",
            "tlsCAFile": str(deployment.ca_file),
            "username": "new",
            "authMechanism": "SCRAM-SHA-256",
            "max_pool_size": "2",
        }

    async def logs_in(self, handle: MongoHandle) -> None:
        """It is the user of the settings."""
        self.addCleanup(handle.disconnect)
        status = await handle.db.command("connectionStatus")
        users = status["authInfo"]["authenticatedUsers"]
        self.assertEqual([each["user"] for each in users], ["new"])

    def test_ini(self) -> Deferred[None]:
        """An C{.ini} file, with the password beside it."""
        lines = "\n".join(f"mongo.{name} = {value}" for name, value in self.values.items())
        path = self.folder / "shop.ini"
        path.write_text(f"[app:main]\n{lines}\nmongo.password_file = %(here)s/password\n")
        return Deferred.fromCoroutine(self.logs_in(from_ini(path)))

    def test_toml(self) -> Deferred[None]:
        """TOML, with its own types."""
        given = {**self.values, "password_file": str(self.folder / "password")}
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
        path = self.folder / "shop.toml"
        text = lines.replace('tls = "true"', "tls = true").replace('size = "2"', "size = 2")
        path.write_text(f"[mongo]\n{text}\n")
        handle = from_toml(path)
        self.assertEqual(handle.db_conn.client_options.max_pool_size, 2)
        return Deferred.fromCoroutine(self.logs_in(handle))

    def test_environment(self) -> Deferred[None]:
        """The environment."""
        environ = {f"MONGO_{name.upper()}": value for name, value in self.values.items()}
        environ["MONGO_PASSWORD_FILE"] = str(self.folder / "password")
        return Deferred.fromCoroutine(self.logs_in(from_environment(environ)))

    def test_connection_string(self) -> Deferred[None]:
        """A connection string in a file, with its password apart."""
        host = f"localhost:{self.values['master_port']}"
        (self.folder / "uri").write_text(f"mongodb://new@{host}/settings?tls=true&authSource=admin")
        names = {f"mongo.{name}_file": str(self.folder / name) for name in ("uri", "password")}
        handle = from_settings({**names, "mongo.tls_ca_file": self.values["tlsCAFile"]})
        self.assertEqual(handle.db.name, "settings")
        return Deferred.fromCoroutine(self.logs_in(handle))


class BlockingTests(SettingsCase):
    """
    L{Blocking}, as threads have it.
    """

    def setUp(self) -> None:
        """For threads that wait."""
        super().setUp()
        renew_reactor_thread(self)

    def test_cursors(self) -> Deferred[None]:
        """Cursors are built up, sliced, iterated and closed."""
        waiting = self.blocking()

        def use() -> None:
            things = waiting.db["things"]
            self.assertEqual(things, waiting.db.things)
            self.assertEqual(len({things, waiting.db.things}), 1)
            self.assertNotEqual(things, waiting.db.others)
            things.insert_many([{"_id": number} for number in range(250)])
            found = [each["_id"] for each in things.find({}, batch_size=100).sort("_id", -1)]
            self.assertEqual(found, list(reversed(range(250))))
            self.assertEqual(things.find()[5:8].to_list(), [{"_id": n} for n in (5, 6, 7)])
            first = things.find().sort("_id").limit(2)
            self.assertEqual([first.next(), next(first)], [{"_id": 0}, {"_id": 1}])
            self.assertRaises(StopIteration, next, first)
            left = things.find({}, batch_size=2)
            for each in left:
                self.assertEqual(each, {"_id": 0})
                break
            waiting.db.command("ping")
            self.assertFalse(left.alive)
            grouped = things.aggregate([{"$group": {"_id": None, "n": {"$sum": 1}}}])
            self.assertEqual(list(grouped), [{"_id": None, "n": 250}])
            with things.find() as cursor:
                self.assertTrue(cursor.alive)
            self.assertFalse(cursor.alive)

        return self.in_thread(use)

    def test_sessions(self) -> Deferred[None]:
        """Transactions are blocks; what fails in one is undone."""
        waiting = self.blocking()

        def twice(things: Any, session: Any) -> None:
            with session.start_transaction():
                things.insert_one({"_id": 2}, session=session)
                things.insert_one({"_id": 1}, session=session)

        def use() -> None:
            things = waiting.db.create_collection("things")
            with waiting.db_conn.start_session() as session:
                with session.start_transaction():
                    things.insert_one({"_id": 1}, session=session)
                self.assertRaises(DuplicateKeyError, twice, things, session)
            self.assertEqual([each["_id"] for each in things.find()], [1])
            bound = waiting.db_conn.start_session().bind()
            error = self.assertRaises(InvalidOperation, bound.__enter__)
            self.assertIn("give session= to each call", str(error))

        return self.in_thread(use)

    def test_transaction_on_the_reactor(self) -> Deferred[None]:
        """C{with_transaction} takes what runs on the reactor's side."""
        waiting = self.blocking()

        async def pay(session: Any) -> str:
            await session.client.settings.things.insert_one({"_id": 1}, session=session)
            return "paid"

        def wrong(session: Any) -> None:
            waiting.db.things.insert_one({"_id": 2})

        def use() -> None:
            with waiting.db_conn.start_session() as session:
                self.assertEqual(session.with_transaction(pay), "paid")
                error = self.assertRaises(InvalidOperation, session.with_transaction, wrong)
                self.assertIn("this would block the reactor", str(error))
            self.assertEqual(waiting.db.things.count_documents({}), 1)

        return self.in_thread(use)

    def test_change_streams(self) -> Deferred[None]:
        """Change streams are iterated."""
        waiting = self.blocking()

        def use() -> None:
            with waiting.db.watch() as changes:
                waiting.db.things.insert_many([{"_id": 1}, {"_id": 2}])
                for number, change in enumerate(changes, 1):
                    self.assertEqual(change["documentKey"], {"_id": number})
                    if number == 2:
                        break
            with waiting.db.things.watch() as changes:
                waiting.db.things.drop()
                kinds = [change["operationType"] for change in changes]
                self.assertEqual(kinds, ["drop", "invalidate"])
                self.assertRaises(StopIteration, next, changes)

        return self.in_thread(use)

    def test_errors(self) -> Deferred[None]:
        """Errors are raised in the thread, and time limits are its own."""
        waiting = self.blocking()

        def use() -> None:
            things = waiting.db.things
            things.insert_one({"_id": 1})
            self.assertRaises(DuplicateKeyError, things.insert_one, {"_id": 1})
            with pymongo.timeout(0.05), self.assertRaises(PyMongoError) as caught:
                things.find_one({"$where": "sleep(2000)"})
            self.assertTrue(caught.exception.timeout)
            error = self.assertRaises(TypeError, things.find_on, {})
            self.assertIn("find_one", str(error))
            self.assertRaises(TypeError, iter, things)
            self.assertRaises(AttributeError, getattr, things, "_nothing")

        return self.in_thread(use)

    def test_plain_attributes(self) -> None:
        """What is no call needs no thread."""
        waiting = self.blocking()
        self.assertEqual((waiting.db.name, waiting.db.things.name), ("settings", "things"))
        self.assertIsInstance(waiting.db.client, Blocking)
        self.assertEqual(repr(waiting.db), "<Blocking <Database settings>>")
        self.assertNotEqual(waiting.db, "settings")

    def test_own_thread(self) -> Deferred[None]:
        """The reactor's own thread never waits."""
        waiting = self.blocking()

        def use() -> None:
            error = self.assertRaises(InvalidOperation, waiting.db.things.find_one)
            self.assertIn("on its own thread use the asynchronous db and db_conn", str(error))

        return deferLater(reactor, 0, use)

    def test_made_in_a_thread(self) -> Deferred[None]:
        """An application may be made in any thread, as long as it is closed."""

        def use() -> None:
            waiting = blocking_from_settings(settings(), appName="shop")
            self.assertEqual(waiting.db.command("ping")["ok"], 1)
            waiting.db_conn.disconnect()

        return self.in_thread(use)

    def test_pylons(self) -> Deferred[None]:
        """Pylons' C{app_globals} has both, as controllers use them."""
        app_globals = SimpleNamespace()
        self.blocking().attach(app_globals)

        def control() -> None:
            db = app_globals.db
            self.assertIsNone(db.fooCollection.find_one())
            self.assertEqual(app_globals.db_conn.server_info()["ok"], 1)

        return self.in_thread(control)

    def test_closed(self) -> Deferred[None]:
        """Who waits when the client is closed, is told."""
        waiting = self.blocking()

        async def close(db: Any) -> None:
            await db.client.disconnect()

        def use() -> None:
            waiting.db.command("ping")
            waiting.run(close, waiting.db)
            self.assertRaises(InvalidOperation, waiting.db.command, "ping")

        return self.in_thread(use)
