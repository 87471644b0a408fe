"""
Tests for L{txmongokit.masterslave}, on servers in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.son import SON
from bson.timestamp import Timestamp
from pymongo import timeout
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Nearest, ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred, fail, inlineCallbacks, succeed
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.fakes import cursor_reply
from tests.fakeserver import FakeNetwork, FakeServer, refusal
from txmongokit.connection import ConnectionPool, MongoClient, MongoConnection
from txmongokit.database import Database
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from txmongokit.gridfs import GridFSBucket
from txmongokit.masterslave import CursorCloser, MasterSlaveConnection


def answers(server: FakeServer) -> Callable[[dict[str, Any]], Any]:
    """What a server says to each command: its own name, where there is room for it."""

    def answer(body: dict[str, Any]) -> Any:
        name = next(iter(body))
        if name in ("find", "aggregate", "listCollections", "listIndexes"):
            return cursor_reply([{"_id": 1, "name": server.address[0], "n": 1, "key": {"_id": 1}}])
        if name == "listDatabases":
            return {"ok": 1.0, "databases": [{"name": "app"}]}
        if name == "distinct":
            return {"ok": 1.0, "values": [server.address[0]]}
        if name == "count":
            return {"ok": 1.0, "n": 1}
        if name == "findAndModify":
            return {"ok": 1.0, "value": None}
        return {"ok": 1.0, "n": 1}

    return answer


def _same(reply: dict[str, Any], body: dict[str, Any]) -> Any:
    """Whatever is asked, one reply."""
    return reply


class ClockPool(ConnectionPool):
    """A connection in the time of a C{Clock}, which knows no threads."""

    def soon(self, function: Callable[[], object]) -> None:
        """When the clock is advanced."""
        self._reactor.callLater(0, function)


class SplitTestCase(SynchronousTestCase):
    """
    A master C{m} and two slaves, C{a} and C{b}.

    @ivar hosts: the servers by their names.
    """

    def setUp(self) -> None:
        """Make the servers, and the connections to them."""
        self.network = FakeNetwork()
        self.hosts = {host: self.network.add(host) for host in "mab"}
        for server in self.hosts.values():
            server.on_command = answers(server)
        self.master = self.pool("m")
        self.slaves = [self.pool("a"), self.pool("b")]

    def pool(self, host: str, **options: Any) -> ConnectionPool:
        """A connection to one server."""
        options.setdefault("serverSelectionTimeoutMS", 2000)
        pool = ClockPool(
            f"mongodb://{host}",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            **options,
        )
        self.addCleanup(self.network.end, pool)
        return pool

    def split(self, **options: Any) -> MasterSlaveConnection:
        """The connection under test, to all of them."""
        return MasterSlaveConnection(self.master, self.slaves, **options)

    def result(self, waiting: Any, seconds: float = 1.0) -> Any:
        """What an operation gives within some time."""
        done = waiting if isinstance(waiting, Deferred) else Deferred.fromCoroutine(waiting)
        self.network.advance(seconds)
        return self.successResultOf(done)

    def failure(self, waiting: Deferred[Any], kind: type[Exception], seconds: float = 1.0) -> Any:
        """What an operation fails with within some time."""
        self.network.advance(seconds)
        return self.failureResultOf(waiting, kind).value

    def reached(self, operation: Deferred[Any]) -> list[str]:
        """The names of the hosts that an operation has sent something to."""
        self.forget()
        self.result(operation)
        return self.asked()

    def asked(self) -> list[str]:
        """The names of the hosts that anything has come to, but for pings."""
        return [name for name, server in self.hosts.items() if set(server.names()) - {"ping"}]

    def forget(self) -> None:
        """Start to listen anew."""
        for server in self.hosts.values():
            server.commands.clear()


class RoutingTests(SplitTestCase):
    """
    What goes where.
    """

    def test_writes(self) -> None:
        """Whatever changes something goes to the master."""
        things = self.split().app.things
        writes = (
            lambda: things.insert_one({}),
            lambda: things.insert_many([{}]),
            lambda: things.update_one({}, {"$set": {"a": 1}}),
            lambda: things.replace_one({}, {"a": 1}),
            lambda: things.delete_many({}),
            lambda: things.find_one_and_delete({}),
            lambda: things.create_index("a"),
            things.drop,
            lambda: things.aggregate([{"$out": "others"}]).to_list(),
            lambda: things.aggregate([{"$merge": "others"}]).to_list(),
        )
        for write in writes:
            self.assertEqual(self.reached(write()), ["m"])

    def test_reads(self) -> None:
        """Whatever only looks goes to a slave."""
        database = self.split().app
        things = database.things
        reads = (
            lambda: things.find().to_list(),
            things.find_one,
            lambda: things.count_documents({}),
            things.estimated_document_count,
            lambda: things.distinct("a"),
            lambda: things.aggregate([{"$match": {}}]).to_list(),
            things.index_information,
            lambda: things.find().explain(),
            database.list_collection_names,
        )
        for read in reads:
            self.assertIn(self.reached(read()), (["a"], ["b"]))

    def test_commands(self) -> None:
        """
        A command goes to the master, but to a slave where its read preference
        says that others than the primary will do, and it only reads.
        """
        database = self.split().app
        self.assertEqual(self.reached(database.command("dbStats")), ["m"])
        secondary: dict[str, Any] = {"read_preference": ReadPreference.SECONDARY}
        out: dict[str, Any] = {"aggregate": "a", "cursor": {}, "pipeline": [{"$out": "b"}]}
        writing: list[dict[str, Any]] = [
            {"insert": "a", "documents": [{}]},
            out,
            {"mapReduce": "a", "out": "b"},
            {"getMore": Int64(5), "collection": "a"},
        ]
        for document in writing:
            self.assertEqual(self.reached(database.command(document, **secondary)), ["m"])
        inline = {"mapReduce": "a", "out": {"inline": 1}}
        odd = {**out, "pipeline": [1]}
        reading: list[dict[str, Any]] = [{"dbStats": 1}, {**out, "pipeline": []}, odd, inline]
        for document in reading:
            self.assertIn(self.reached(database.command(document, **secondary)), (["a"], ["b"]))
        cursor = database.cursor_command("find", "a", **secondary)
        self.assertIn(self.reached(cursor.to_list()), (["a"], ["b"]))

    def test_whole(self) -> None:
        """The databases are the master's."""
        connection = self.split()
        self.assertEqual(self.reached(connection.database_names()), ["m"])
        self.assertEqual(self.result(connection.database_names()), ["app"])
        self.assertEqual(self.reached(connection.drop_database("app")), ["m"])
        self.assertEqual(self.reached(connection.drop_database(connection.app)), ["m"])
        with self.assertRaisesRegex(TypeError, "not int"):
            connection.drop_database(5)  # type: ignore[arg-type]  # on purpose

    def test_asked_for_the_latest(self) -> None:
        """A read that is to see the latest goes to the master."""
        things = self.split().app.things
        for options in (
            {"read_preference": ReadPreference.PRIMARY},
            {"read_concern": ReadConcern("linearizable")},
        ):
            self.assertEqual(self.reached(things.with_options(**options).find_one()), ["m"])

    def test_sessions(self) -> None:
        """What belongs to an explicit session goes to the master, as do its transactions."""
        connection = self.split()
        things = connection.app.things
        self.hosts["m"].member("rs", ["m:27017"], "m:27017")
        session = connection.start_session()
        self.assertIs(session.client, connection)
        self.assertEqual(self.reached(things.find_one(session=session)), ["m"])
        cursor = things.with_options(read_preference=Nearest()).find(session=session)
        self.assertEqual(self.reached(cursor.to_list()), ["m"])
        session.start_transaction()
        self.assertEqual(self.reached(things.insert_one({}, session=session)), ["m"])
        self.assertTrue(self.hosts["m"].commands[0]["startTransaction"])
        self.assertEqual(self.reached(session.commit_transaction()), ["m"])
        used = session.session_id
        self.result(session.end_session())
        self.assertEqual(connection.start_session().session_id, used)

    def test_bound_session(self) -> None:
        """A session that is bound counts as given."""
        connection = self.split()

        async def bound() -> list[str]:
            async with connection.start_session() as session, session.bind():
                await connection.app.things.find_one()
                await connection.app.things.find().to_list()
            return self.asked()

        self.assertEqual(self.result(bound()), ["m"])

    def test_foreign_session(self) -> None:
        """A slave's session is refused; the master's own will do."""
        things = self.split().app.things
        self.assertEqual(self.reached(things.find_one(session=self.master.start_session())), ["m"])
        foreign = things.find_one(session=self.slaves[0].start_session())
        self.assertIn("client that started it", str(self.failure(foreign, InvalidOperation)))

    def test_change_stream(self) -> None:
        """Changes are the master's, as no token holds anywhere else."""
        stream = self.split().app.things.watch()
        self.assertEqual(self.reached(stream.open()), ["m"])

    def test_turns(self) -> None:
        """The slaves take turns."""
        things = self.split().app.things
        self.result(things.find_one())
        self.forget()
        for _ in range(10):
            self.result(things.find_one(), 0.0)
        counts = [self.hosts[host].names().count("find") for host in "ab"]
        self.assertEqual(counts, [5, 5])

    def test_first_turn(self) -> None:
        """Clients that start do not all begin with the same slave."""
        first = {self.split()._turn for _ in range(64)}
        self.assertEqual(first, {0, 1})

    def test_bucket(self) -> None:
        """All of a GridFS bucket is read from one slave, while that works."""
        connection = self.split()
        bucket = GridFSBucket(connection.app)
        self.result(connection.app.things.find_one())
        self.forget()
        for _ in range(4):
            self.result(bucket.find({}).to_list(), 0.0)
            self.result(connection.app["fs.chunks"].find_one({"files_id": 1}), 0.0)
        self.assertEqual(len(self.asked()), 1)
        self.assertNotIn("m", self.asked())
        for name in ("files", "chunks"):
            self.forget()
            for _ in range(2):
                self.result(connection.app[name].find_one(), 0.0)
            self.assertEqual(self.asked(), ["a", "b"], name)

    def test_preference(self) -> None:
        """A slave reads as it was made to, unless the read says otherwise."""
        for host in "ab":
            self.hosts[host].hello.update(setName="rs", secondary=True, isWritablePrimary=False)
        self.slaves = [
            self.pool(
                host,
                directConnection=True,
                read_preference=ReadPreference.SECONDARY,
                read_concern=ReadConcern("majority"),
            )
            for host in "ab"
        ]
        things = self.split().app.things
        self.reached(things.find_one())
        (sent,) = [each for host in "ab" for each in self.hosts[host].commands if "find" in each]
        self.assertEqual(sent["$readPreference"], {"mode": "secondary"})
        self.assertEqual(sent["readConcern"], {"level": "majority"})
        local = things.with_options(
            read_preference=Nearest(tag_sets=[{}]), read_concern=ReadConcern("local")
        )
        self.reached(local.find_one())
        (sent,) = [each for host in "ab" for each in self.hosts[host].commands if "find" in each]
        self.assertEqual(sent["$readPreference"]["mode"], "nearest")
        self.assertEqual(sent["readConcern"], {"level": "local"})

    def test_preference_at_the_master(self) -> None:
        """What a request sends to the master is for its primary, whatever was preferred."""
        self.network.elect("m")
        self.slaves = [self.pool(host, directConnection=True) for host in "ab"]
        connection = self.split()
        things = connection.app.things.with_options(read_preference=ReadPreference.SECONDARY)

        async def ask() -> None:
            with connection.start_request():
                await things.find_one()
                await things.aggregate([{"$out": "others"}]).to_list()

        self.result(ask())
        self.assertEqual(self.hosts["m"].names(), ["find", "aggregate"])
        for sent in self.hosts["m"].commands:
            self.assertNotIn("$readPreference", sent)


class FailoverTests(SplitTestCase):
    """
    Slaves that do not answer.
    """

    def both(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        """Have both slaves answer alike."""
        for host in "ab":
            self.hosts[host].on_command = answer

    def test_lost(self) -> None:
        """A slave that is lost with a read leaves it to the next."""
        things = self.split().app.things
        self.result(things.find_one())
        self.hosts["a"].on_command = lambda body: OSError("gone")
        for _ in range(4):
            found = self.result(things.find_one())
            self.assertEqual(found["name"], "b")

    def test_away(self) -> None:
        """A slave that is not there has no turn, and costs no time."""
        self.hosts["a"].refuses = refusal()
        things = self.split().app.things
        for _ in range(4):
            self.assertEqual(self.result(things.find_one(), 0.25)["name"], "b")

    def test_back(self) -> None:
        """A slave that comes back has its turns again."""
        self.hosts["a"].refuses = refusal()
        things = self.split().app.things
        self.result(things.find_one())
        self.hosts["a"].refuses = None
        self.network.advance(20.0)
        self.assertEqual(
            {self.result(things.find_one())["name"] for _ in range(2)},
            {"a", "b"},
        )

    def test_all_away(self) -> None:
        """When all slaves have failed, each is named with its reason."""
        for host in "ab":
            self.hosts[host].refuses = refusal()
        things = self.split().app.things
        error = self.failure(things.find_one(), ServerSelectionTimeoutError, 3.0)
        self.assertRegex(str(error), r"slave 0 \(a:27017\): .*; slave 1 \(b:27017\): ")
        self.assertEqual(len(error.errors), 2)
        self.assertEqual(self.asked(), [])

    def test_all_lost(self) -> None:
        """The same when they fail one by one: the master is not asked."""
        things = self.split().app.things
        self.result(things.find_one())
        self.both(lambda body: OSError("gone"))
        self.forget()
        error = self.failure(things.find_one(), AutoReconnect, 5.0)
        self.assertRegex(str(error), r"slave 0 \(a:27017\): .*; slave 1 \(b:27017\): ")
        self.assertEqual(self.asked(), ["a", "b"])

    def test_one_slave(self) -> None:
        """A read is tried again on the only slave that there is, as on any connection."""
        self.slaves = self.slaves[:1]
        things = self.split().app.things
        self.result(things.find_one())
        server = self.hosts["a"]
        well = server.on_command
        replies = [OSError("gone")]
        server.on_command = lambda body: replies.pop() if replies else well(body)
        self.assertEqual(self.result(things.find_one(), 3.0)["name"], "a")

    def test_callers_fault(self) -> None:
        """What another slave would say, too, is not asked of it."""
        things = self.split().app.things
        self.result(things.find_one())
        for code in (2, 13, 50):
            refused = {"ok": 0.0, "code": code, "errmsg": "no"}
            self.both(partial(_same, refused))
            self.forget()
            error = self.failure(things.find_one({"$bad": 1}), OperationFailure)
            self.assertEqual(error.code, code)
            self.assertEqual(len(self.asked()), 1)

    def test_servers_fault(self) -> None:
        """A slave that shuts down, recovers or is overloaded leaves it to the next."""
        things = self.split().app.things
        self.result(things.find_one())
        for reply in (
            {"ok": 0.0, "code": 91, "errmsg": "shutting down"},
            {"ok": 0.0, "code": 13436, "errmsg": "recovering"},
            {"ok": 0.0, "code": 462, "errmsg": "busy", "errorLabels": ["SystemOverloadedError"]},
        ):
            self.hosts["a"].on_command = partial(_same, reply)
            for _ in range(2):
                self.assertEqual(self.result(things.find_one(), 3.0)["name"], "b")
            self.network.advance(20.0)

    def test_deadline(self) -> None:
        """All attempts have one time limit together, and the error says so."""
        self.both(lambda body: None if "find" in body else {"ok": 1.0})
        connection = self.split()
        self.result(connection.app.command("ping", read_preference=ReadPreference.NEAREST))
        begun = self.network.clock.seconds()
        waiting: Deferred[Any] = connection.app.things.find_one(timeout=1.0)
        ended: list[float] = []

        def note(result: Any) -> Any:
            ended.append(self.network.clock.seconds())
            return result

        waiting.addBoth(note)
        error = self.failure(waiting, Exception, 5.0)
        self.assertTrue(error.timeout)
        self.assertLess(ended[0] - begun, 1.3)

    def test_cancel(self) -> None:
        """A read that is cancelled while it waits for a slave leaves nothing behind."""
        for host in "ab":
            self.hosts[host].refuses = refusal()
        waiting = self.split().app.things.find_one()
        self.network.advance(0.5)
        waiting.cancel()
        self.network.advance(5.0)
        self.assertEqual(type(self.failureResultOf(waiting).value).__name__, "CancelledError")

    def test_closed_slave(self) -> None:
        """A slave that was closed by itself is left out."""
        things = self.split().app.things
        self.result(self.slaves[0].disconnect())
        for _ in range(2):
            self.assertEqual(self.result(things.find_one())["name"], "b")

    def test_no_log_in(self) -> None:
        """A slave that refuses the log-in leaves it to the next."""
        reply = {"ok": 0.0, "code": 18, "errmsg": "Authentication failed."}
        things = self.split().app.things
        self.hosts["a"].on_command = lambda body: reply
        for _ in range(2):
            self.assertEqual(self.result(things.find_one())["name"], "b")


class CursorTests(SplitTestCase):
    """
    Cursors stay where they were opened.
    """

    def setUp(self) -> None:
        """All servers keep cursors open."""
        super().setUp()
        for server in self.hosts.values():
            server.on_command = self.cursors(server)

    def cursors(self, server: FakeServer) -> Callable[[dict[str, Any]], Any]:
        """A server with endless cursors."""
        well = answers(server)

        def answer(body: dict[str, Any]) -> Any:
            if "getMore" in body:
                return cursor_reply([{"name": server.address[0]}], 7, more=True)
            if "find" in body:
                return cursor_reply([{"name": server.address[0]}], 7)
            return well(body)

        return answer

    def test_get_more(self) -> None:
        """All batches come from one server, and it is told of the end; in requests, too."""
        connection = self.split()
        for _ in range(3):
            self.forget()
            cursor = connection.app.things.find(batch_size=1)
            self.result(cursor.next_batch())
            with connection.start_request():
                self.result(cursor.next_batch())
            self.result(connection.app.others.find_one(), 0.0)
            self.result(cursor.next_batch())
            (held,) = [host for host in "ab" if "getMore" in self.hosts[host].names()]
            self.forget()
            self.result(cursor.close())
            self.assertEqual(self.asked(), [held])
            self.assertEqual(self.hosts[held].commands[0]["killCursors"], "things")

    def test_sessions(self) -> None:
        """A cursor's session is one of the server that has it."""
        connection = self.split()
        cursor = connection.app.things.find(batch_size=1)
        self.hosts["a"].on_command = lambda body: OSError("gone")
        self.result(cursor.next_batch(), 3.0)
        self.result(cursor.next_batch())
        sent = [each for each in self.hosts["b"].commands if "ping" not in each]
        self.assertEqual([next(iter(each)) for each in sent], ["find", "getMore"])
        self.assertEqual(sent[0]["lsid"], sent[1]["lsid"])
        self.result(cursor.close())
        self.result(connection.app.things.find_one())
        self.assertEqual(self.hosts["b"].commands[-1]["lsid"], sent[0]["lsid"])

    def test_dropped(self) -> None:
        """A cursor that nobody has any more is killed where it is."""
        cursor = self.split().app.things.find(batch_size=1)
        self.result(cursor.next_batch())
        (held,) = self.asked()
        del cursor
        gc.collect()
        self.network.advance(1.0)
        self.assertIn("killCursors", self.hosts[held].names())

    def test_close_cursor(self) -> None:
        """A cursor is closed by its number, on the connection that has it."""
        connection = self.split()
        self.result(connection.app.things.find_one())
        for number, host in ((-1, "m"), (0, "a"), (1, "b")):
            self.result(connection.master.app.command("ping"))
            self.result(self.slaves[max(0, number)].app.command("ping"))
            self.forget()
            self.result(connection.close_cursor(Int64(7), number))
            self.assertEqual(self.asked(), [host])
            self.assertEqual(self.hosts[host].commands[0]["cursors"], [7])

    def test_close_cursor_within_a_session(self) -> None:
        """A session that is bound has nothing to do with it."""
        connection = self.split()
        self.result(self.slaves[1].app.command("ping"))

        async def close() -> None:
            async with connection.start_session() as session, session.bind():
                await connection.close_cursor(7, 1)

        self.result(close())
        self.assertIn("killCursors", self.hosts["b"].names())

    def test_close_cursor_refuses(self) -> None:
        """What is no number is refused, and so is a connection that there is not."""
        connection = self.split()
        for wrong in ("7", 7.0, None, True):
            with self.assertRaisesRegex(TypeError, "cursor_id must be a whole number"):
                connection.close_cursor(wrong, 0)  # type: ignore[arg-type]  # on purpose
            with self.assertRaisesRegex(TypeError, "connection_id must be a whole number"):
                connection.close_cursor(7, wrong)  # type: ignore[arg-type]  # on purpose
        for number in (-2, 2):
            with self.assertRaisesRegex(ValueError, f"no connection {number}.* 0 to 1"):
                connection.close_cursor(7, number)

    def test_connection_id(self) -> None:
        """A cursor's address tells where it is."""
        connection = self.split()
        self.result(connection.app.things.insert_one({}))
        cursor = connection.app.things.find(batch_size=1)
        with self.assertRaisesRegex(ValueError, "None is the address of no server"):
            connection.connection_id(cursor.address)
        self.result(cursor.next_batch())
        (held,) = [host for host in "ab" if "find" in self.hosts[host].names()]
        self.assertEqual(connection.connection_id(cursor.address), "ab".index(held))
        self.assertEqual(connection.connection_id(("m", 27017)), -1)

    def known(self, connection: MasterSlaveConnection) -> dict[str, int]:
        """Which connection reaches which host, when all are known."""
        for pool in (connection.master, *connection.slaves):
            self.result(pool.app.command("ping", read_preference=Nearest()), 11.0)
        return {host: connection.connection_id((host, 27017)) for host in self.hosts}

    def test_connection_id_in_one_set(self) -> None:
        """The primary is the master's, though slaves of its set know it, too."""
        self.network.elect("m")
        self.slaves = [self.pool("a", read_preference=ReadPreference.SECONDARY)]
        self.assertEqual(self.known(self.split()), {"m": -1, "a": 0, "b": 0})

    def test_connection_id_of_any_member(self) -> None:
        """All servers of a slave are its own, also those that it reads from on request only."""
        for host in "ab":
            self.hosts[host].member("copies", ["a:27017", "b:27017"], "a:27017")
        self.slaves = self.slaves[:1]
        self.assertEqual(self.known(self.split()), {"m": -1, "a": 0, "b": 0})

    def test_manager(self) -> None:
        """Each connection has a cursor manager, which closes its cursors."""
        connection = self.split()
        closed: list[tuple[Any, int]] = []

        class Remembers:
            def __init__(self, of: ConnectionPool) -> None:
                self.of = of

            def close(self, cursor_id: int) -> None:
                closed.append((self.of, cursor_id))

        connection.set_cursor_manager(Remembers)
        cursor = connection.app.things.find(batch_size=1)
        self.result(cursor.next_batch())
        (held,) = self.asked()
        self.forget()
        self.result(cursor.close())
        self.assertEqual(closed.pop(), (self.slaves["ab".index(held)], 7))
        self.result(connection.close_cursor(8, -1))
        self.assertEqual(closed, [(self.master, 8)])
        self.assertEqual(self.asked(), [])

    def test_manager_inherits(self) -> None:
        """One that adds to what is done otherwise."""
        connection = self.split()
        connection.set_cursor_manager(CursorCloser)
        cursor = connection.app.things.find(batch_size=1)
        self.result(cursor.next_batch())
        (held,) = self.asked()
        self.result(cursor.close())
        self.assertEqual(self.hosts[held].commands[-1]["cursors"], [7])
        with self.assertRaisesRegex(TypeError, "cursor_id must be a whole number"):
            CursorCloser(self.master).close("7")  # type: ignore[arg-type]  # on purpose

    def test_manager_refused(self) -> None:
        """What cannot close cursors is none."""
        connection = self.split()
        with self.assertRaisesRegex(TypeError, "must be a class .*, not str: inherit"):
            connection.set_cursor_manager("no")  # type: ignore[arg-type]  # on purpose
        with self.assertRaisesRegex(TypeError, r"list has no method close\(cursor_id\): inherit"):
            connection.set_cursor_manager(lambda connection: [])


class RequestTests(SplitTestCase):
    """
    Within a request everything goes to the master.
    """

    def test_request(self) -> None:
        """From start to end, and nested ones count."""
        connection = self.split()
        things = connection.app.things

        async def ask() -> list[list[str]]:
            seen = []

            async def read() -> None:
                self.forget()
                await things.find_one()
                seen.append(self.asked())

            connection.start_request()
            await read()
            with connection.start_request():
                await read()
            await read()
            connection.end_request()
            self.assertFalse(connection.in_request())
            await read()
            connection.end_request()
            connection.start_request()
            await read()
            return seen

        inside = ["m"]
        *before, after, last = self.result(ask())
        self.assertEqual(before, [inside] * 3)
        self.assertIn(after, (["a"], ["b"]))
        self.assertEqual(last, inside)
        self.assertFalse(connection.in_request())

    def test_flows(self) -> None:
        """Flows that run at the same time do not disturb one another."""
        connection = self.split()
        things = connection.app.things
        other: Deferred[None] = Deferred()
        found: list[tuple[str, str]] = []

        async def read(flow: str) -> None:
            document = await things.find_one()
            found.append((flow, "" if document is None else document["name"]))

        async def careful() -> None:
            with connection.start_request():
                await read("careful")
                await other
                await read("careful")

        async def quick() -> None:
            await read("quick")
            other.callback(None)
            await read("quick")

        for flow in (careful, quick):
            done = Deferred.fromCoroutine(flow())
            done.addErrback(self.fail)
        self.network.advance(1.0)
        self.assertEqual(len(found), 4)
        for flow_name, host in found:
            self.assertEqual(host == "m", flow_name == "careful", found)

    def test_inline_callbacks(self) -> None:
        """The same under inlineCallbacks, with a flow that is started within."""
        connection = self.split()
        things = connection.app.things

        @inlineCallbacks
        def inner() -> Any:
            found = yield things.find_one()
            return found["name"]

        @inlineCallbacks
        def flow() -> Any:
            connection.start_request()
            within = yield inner()
            connection.end_request()
            after = yield inner()
            return within, after

        within, after = self.result(flow())
        self.assertEqual(within, "m")
        self.assertIn(after, "ab")
        self.assertFalse(connection.in_request())

    def test_two_connections(self) -> None:
        """A request of one connection is none of another's."""
        one, other = self.split(), self.split()

        async def ask() -> tuple[bool, bool]:
            with one.start_request() as request:
                seen = one.in_request(), other.in_request()
                request.end()
                request.end()
                self.assertFalse(one.in_request())
            return seen

        self.assertEqual(self.result(ask()), (True, False))


class OptionsTests(SplitTestCase):
    """
    What databases inherit.
    """

    def sent(self, connection: MasterSlaveConnection) -> Any:
        """The write concern that a write is sent with."""
        self.forget()
        written = connection.app.things.insert_one({})
        self.result(written)
        (body,) = self.hosts["m"].commands
        return body.get("writeConcern")

    def test_safe(self) -> None:
        """Without it nobody waits for writes, and the other options are kept."""
        connection = self.split()
        self.assertTrue(connection.safe)
        self.assertIsNone(self.sent(connection))
        connection.set_lasterror_options(j=True)
        connection.safe = False
        self.assertFalse(connection.safe)
        self.assertEqual(self.sent(connection), {"w": 0})
        self.assertEqual(connection.get_lasterror_options(), {"j": True})
        connection.safe = True
        self.assertEqual(self.sent(connection), {"j": True})
        with self.assertRaisesRegex(TypeError, "safe must be True or False, not int"):
            connection.safe = 1  # type: ignore[assignment]  # on purpose

    def test_lasterror_options(self) -> None:
        """They are a write concern, imply C{safe}, and can be unset."""
        connection = self.split()
        connection.safe = False
        connection.set_lasterror_options(w=2, wtimeout=100, j=True)
        self.assertTrue(connection.safe)
        self.assertEqual(self.sent(connection), {"w": 2, "wtimeout": 100, "j": True})
        connection.unset_lasterror_options("j", "fsync")
        self.assertEqual(connection.get_lasterror_options(), {"w": 2, "wtimeout": 100})
        connection.set_lasterror_options(fsync=True)
        self.assertEqual(connection.write_concern, WriteConcern(2, 100, fsync=True))
        connection.unset_lasterror_options()
        self.assertEqual(connection.get_lasterror_options(), {})
        self.assertTrue(connection.safe)
        connection.safe = False
        connection.unset_lasterror_options()
        self.assertFalse(connection.safe)
        connection.get_lasterror_options()["w"] = 3
        self.assertEqual(connection.get_lasterror_options(), {})

    def test_lasterror_options_refused(self) -> None:
        """Wrong ones are refused, and change nothing."""
        connection = self.split()
        for wrong, kind, said in (
            ({"word": 1}, ConfigurationError, "no option 'word' of writes: use w, j"),
            ({"w": 0}, ConfigurationError, "safe = False"),
            ({"w": 1.5}, TypeError, "w must be"),
            ({"wtimeout": "1"}, TypeError, "wtimeout must be"),
            ({"j": True, "fsync": True}, ConfigurationError, "j and fsync"),
        ):
            with self.assertRaisesRegex(kind, said):
                connection.set_lasterror_options(**wrong)
        with self.assertRaisesRegex(ConfigurationError, "no option 'x'"):
            connection.unset_lasterror_options("x")
        self.assertEqual(connection.get_lasterror_options(), {})

    def test_inherited(self) -> None:
        """They are the master's to begin with."""
        self.master = self.pool("m", w=1, journal=True)
        connection = self.split()
        self.assertEqual(connection.get_lasterror_options(), {"w": 1, "j": True})
        self.assertEqual(self.sent(connection), {"w": 1, "j": True})
        self.master = self.pool("m", w=0, wtimeoutMS=5)
        connection = self.split()
        self.assertFalse(connection.safe)
        self.assertEqual(connection.get_lasterror_options(), {"wtimeout": 5})

    def test_document_class(self) -> None:
        """Documents of all servers are decoded to it; it may be changed."""
        connection = self.split(document_class=SON)
        self.assertIs(connection.document_class, SON)
        for _ in range(2):
            self.assertIsInstance(self.result(connection.app.things.find_one()), SON)
        connection.document_class = dict
        self.assertIs(type(self.result(connection.app.things.find_one())), dict)
        with self.assertRaises(TypeError):
            connection.document_class = int

    def test_tz_aware(self) -> None:
        """Dates are naive unless it says otherwise, whatever the master has."""
        self.master = self.pool("m", tz_aware=True)
        self.assertFalse(self.split().tz_aware)
        self.assertTrue(self.split(tz_aware=True).codec_options.tz_aware)
        with self.assertRaises(TypeError):
            self.split(tz_aware="yes")

    def test_databases(self) -> None:
        """They are attributes, items and more; what is no name is an error."""
        connection = self.split()
        self.assertEqual(connection.app, Database(connection, "app"))
        self.assertEqual(connection["app"], connection.get_database("app"))
        options = connection.get_database("app", codec_options=CodecOptions(SON)).codec_options
        self.assertIs(options.document_class, SON)
        self.assertRaises(AttributeError, getattr, connection, "_app")
        self.assertRaises(ConfigurationError, connection.get_database)
        self.assertEqual(connection.get_default_database("other").name, "other")
        with self.assertRaisesRegex(TypeError, "no method 'databse_names'.*database_names"):
            connection.databse_names()
        self.assertEqual(repr(connection.read_preference), "FromSlaves()")
        self.assertEqual(connection.read_concern, ReadConcern())


def moment(seconds: float) -> datetime:
    """The time that positions count from, and so many seconds more."""
    return datetime.fromtimestamp(seconds, UTC)


class StalenessTests(SplitTestCase):
    """
    Slaves that are too far behind are left out.
    """

    def setUp(self) -> None:
        """
        The master's set is C{rs}; C{a} is fed by a replicator, C{b} is a member.
        """
        super().setUp()
        self.hosts["m"].member("rs", ["m:27017", "b:27017"], "m:27017")
        self.hosts["b"].member("rs", ["m:27017", "b:27017"], "m:27017")
        self.slaves[1] = self.pool("b", directConnection=True)
        self.written(10)
        self.position = Timestamp(10, 1)
        self.checkpoints: list[dict[str, Any]] = [{"source": {"set": "rs", "id": 1}}]
        self.oldest = Timestamp(1, 1)
        self.missing: dict[str, Any] | None = None
        self.hosts["a"].on_command = self.checkpoint
        self.hosts["m"].on_command = self.oplog
        self.hosts["m"].on_hello = None

    def written(self, seconds: int, member: int | None = None) -> None:
        """The master's last write was just then, that of C{b} then or at another time."""
        for host, at in (("m", seconds), ("b", seconds if member is None else member)):
            self.hosts[host].change(
                lastWrite={"opTime": {"ts": Timestamp(at, 1), "t": 1}}, localTime=moment(seconds)
            )

    def checkpoint(self, body: dict[str, Any]) -> Any:
        """What C{a} says: where its replicator is, and its name."""
        if body.get("find") == "mongosync":
            self.assertEqual(body["filter"], {"source.set": "rs"})
            return cursor_reply([{"ts": self.position, **each} for each in self.checkpoints])
        return answers(self.hosts["a"])(body)

    def oplog(self, body: dict[str, Any]) -> Any:
        """What C{m} says: the first write after a position or of all, and its name."""
        if body.get("find") != "oplog.rs":
            return answers(self.hosts["m"])(body)
        if self.missing is not None and "code" in self.missing:
            return self.missing
        if "sort" in body:
            return cursor_reply([{"ts": self.oldest}])
        return cursor_reply([] if self.missing is None else [self.missing])

    def behind(self, seconds: float) -> None:
        """There is a write that C{a} has not got, and it is so old."""
        self.written(100)
        self.missing = {"wall": moment(100 - seconds)}

    def read(self, connection: MasterSlaveConnection) -> set[str]:
        """The hosts that are read from, once it is known what there is."""
        self.result(connection.app.things.find_one(), 0.25)
        reads = [connection.app.things.find_one() for _ in range(4)]
        return {self.result(each, 0.25)["name"] for each in reads}

    def test_caught_up(self) -> None:
        """Slaves that have the last write are read."""
        connection = self.split(max_staleness=5)
        self.assertEqual(connection.lags, [None, None])
        self.assertEqual(self.read(connection), {"a", "b"})
        for lag in connection.lags:
            assert lag is not None
            self.assertLess(lag, 2.0)

    def test_unlimited(self) -> None:
        """Without a limit nothing is measured, and no slave is left out."""
        self.behind(1000)
        connection = self.split()
        self.read(connection)
        self.assertEqual(self.read(connection), {"a", "b"})
        self.assertEqual(connection.lags, [None, None])
        self.assertFalse(
            [each for each in self.hosts["a"].commands if "mongosync" in each.values()]
        )

    def test_idle(self) -> None:
        """A master with nothing but entries that are no writes is not ahead of a slave."""
        self.written(10_000)
        connection = self.split(max_staleness=5)
        self.assertEqual(self.read(connection), {"a", "b"})
        (asked, *_) = [each for each in self.hosts["m"].commands if "oplog.rs" in each.values()]
        self.assertEqual(asked["filter"]["op"], {"$ne": "n"})
        self.assertEqual(asked["filter"]["ts"], {"$gt": Timestamp(10, 1)})

    def test_behind(self) -> None:
        """A slave is left out while its oldest missing write is older than the limit."""
        connection = self.split(max_staleness=5)
        self.behind(2)
        self.assertEqual(self.read(connection), {"a", "b"})
        self.behind(60)
        self.network.advance(2.0)
        self.assertEqual(self.read(connection), {"b"})
        lag = connection.lags[0]
        assert lag is not None
        self.assertTrue(60 <= lag < 62, lag)
        self.position = Timestamp(100, 1)
        self.network.advance(2.0)
        self.assertEqual(self.read(connection), {"a", "b"})

    def test_member(self) -> None:
        """A member of the master's set is as far as its last write."""
        self.behind(60)
        self.position = Timestamp(100, 1)
        connection = self.split(max_staleness=5)
        self.assertEqual(self.read(connection), {"a", "b"})
        self.written(100, member=40)
        self.network.advance(2.0)
        self.assertEqual(self.read(connection), {"a"})

    def test_unauthorised(self) -> None:
        """Without the privilege to read the oplog, positions alone tell."""
        self.behind(0)
        self.missing = {"ok": 0.0, "code": 13, "errmsg": "not authorized"}
        connection = self.split(max_staleness=80)
        self.assertEqual(self.read(connection), {"b"})
        lag = connection.lags[0]
        assert lag is not None
        self.assertTrue(90 <= lag < 92, lag)

    def test_overwritten(self) -> None:
        """A slave whose position the oplog has left is as far behind as that position."""
        self.written(1000)
        self.oldest = Timestamp(400, 1)
        connection = self.split(max_staleness=700)
        for missing in ({"wall": moment(400)}, None):
            self.missing = missing
            self.network.advance(10.0)
            self.assertEqual(self.read(connection), {"b"})
            lag = connection.lags[0]
            assert lag is not None
            self.assertTrue(990 <= lag < 1000, lag)

    def copies(self, behind: str, **options: Any) -> ConnectionPool:
        """
        A connection to a set of its own that a replicator feeds, with C{c} for
        its primary; these of its members, C{c}, C{d} and C{e}, are behind.
        """
        names = [f"{host}:27017" for host in "cde"]

        def fed(server: FakeServer, body: dict[str, Any]) -> Any:
            if body.get("find") != "mongosync":
                return answers(server)(body)
            position = Timestamp(10 if server.address[0] in behind else 100, 1)
            return cursor_reply([{"ts": position, "source": {"set": "rs", "id": 1}}])

        for host in "cde":
            server = self.network.add(host)
            server.member("copies", names, names[0])
            server.on_command = partial(fed, server)
        return self.pool("c", replicaSet="copies", **options)

    def test_distance(self) -> None:
        """Servers count that are too far away to be read from just now, too."""
        self.slaves = [self.copies("e", read_preference=ReadPreference.SECONDARY)]
        self.network.servers["e", 27017].delay = 0.1
        self.behind(60)
        connection = self.split(max_staleness=5)
        self.read(connection)
        self.network.advance(2.0)
        self.assertEqual(self.read(connection), {"m"})
        lag = connection.lags[0]
        assert lag is not None
        self.assertGreaterEqual(lag, 60.0)

    def test_foreign_preference(self) -> None:
        """With a limit, no server of a slave is read that was not measured."""
        self.slaves = [self.copies("de")]
        self.behind(60)
        preference: dict[str, Any] = {"read_preference": ReadPreference.SECONDARY}
        for options, wanted in (({}, {"d", "e"}), ({"max_staleness": 5}, {"c"})):
            things = self.split(**options).app.things.with_options(**preference)
            self.network.advance(11.0)
            found = {self.result(things.find_one())["name"] for _ in range(20)}
            self.assertLessEqual(found, wanted)

    def test_least(self) -> None:
        """Of several checkpoints the one that is furthest behind counts."""
        self.behind(60)
        self.checkpoints.append({"ts": Timestamp(100, 1), "source": {"set": "rs", "id": 1}})
        self.assertEqual(self.read(self.split(max_staleness=5)), {"b"})

    def test_unknown(self) -> None:
        """A slave of which nobody knows is not read, and it is said why."""
        source = {"set": "rs", "id": 1}
        for checkpoints, said in (
            ([], "no checkpoint of a replicator from the set 'rs'"),
            ([{"source": source, "clone": {"phase": "copy"}}], "still being copied"),
            ([{"source": source, "committed": {"at": 1}}], "ended with a cut-over"),
            ([{"source": source}, {"source": {"set": "rs", "id": 2}}], "several sets"),
            ([{"source": [source]}], "is none of the replicator"),
            ([{"source": source, "ts": 5}], "is none of the replicator"),
        ):
            self.checkpoints = checkpoints
            self.slaves = [self.pool("a")]
            connection = self.split(max_staleness=5, when_stale="fail")
            error = self.failure(connection.app.things.find_one(), AutoReconnect)
            self.assertIn(said, str(error))
            self.assertIn("slave 0 (a:27017)", str(error))
            self.result(connection.disconnect())
            self.master = self.pool("m")

    def test_cloned(self) -> None:
        """A clone that is done is a slave as any."""
        self.checkpoints[0]["clone"] = {"phase": "done"}
        self.assertEqual(self.read(self.split(max_staleness=5)), {"a", "b"})

    def test_no_set(self) -> None:
        """A master without an oplog tells nothing."""
        self.hosts["m"].hello.clear()
        connection = self.split(max_staleness=5, when_stale="fail")
        error = self.failure(connection.app.things.find_one(), AutoReconnect)
        self.assertIn("no member of a replica set, so it has no oplog", str(error))

    def test_all_stale(self) -> None:
        """When all slaves are too far behind, the master is read, or the read fails."""
        self.behind(60)
        self.written(100, member=40)
        self.assertEqual(self.read(self.split(max_staleness=5)), {"m"})
        connection = self.split(max_staleness=5, when_stale="fail")
        error = self.failure(connection.app.things.find_one(), AutoReconnect)
        self.assertRegex(
            str(error),
            r"slave 0 \(a:27017\): it may be 6\d\.\d s behind, and max_staleness=5; "
            r"slave 1 \(b:27017\): it may be",
        )

    def test_away(self) -> None:
        """What is not heard of gets staler by the second."""
        connection = self.split(max_staleness=5)
        self.read(connection)
        for host in "mab":
            self.hosts[host].on_hello = lambda body: None
        self.network.advance(3.0)
        for lag in connection.lags:
            assert lag is not None
            self.assertTrue(3.0 <= lag < 5.0, lag)
        self.network.advance(3.0)
        for lag in connection.lags:
            assert lag is not None
            self.assertGreater(lag, 5.0)

    def test_slow_slave(self) -> None:
        """A slave that does not answer neither holds up the first read nor makes others stale."""
        self.hosts["b"].on_hello = lambda body: None
        connection = self.split(max_staleness=2)
        self.assertEqual(self.read(connection), {"a"})
        for _ in range(10):
            self.network.advance(1.0)
            self.assertEqual(self.read(connection), {"a"})
        self.assertIsNone(connection.lags[1])

    def told(self) -> list[str]:
        """What is logged from now on."""
        told: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("log_namespace") == "txmongokit._masterslave.staleness.Staleness":
                told.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return told

    def test_told(self) -> None:
        """That a slave is left out, and read again, is logged, once each."""
        told = self.told()
        connection = self.split(max_staleness=5)
        self.read(connection)
        self.assertEqual(told, [])
        self.behind(60)
        self.network.advance(10.0)
        self.position = Timestamp(100, 1)
        self.network.advance(10.0)
        self.assertEqual(len(told), 2, told)
        self.assertRegex(told[0], r"slave 0 \(<ConnectionPool a:27017>\) is not read: it may be 6")
        self.assertRegex(told[1], r"slave 0 \(.*\) is read again")

    def test_failed_and_stale(self) -> None:
        """Where the only fresh slave fails, the master takes the read as well."""
        self.behind(60)
        connection = self.split(max_staleness=5)
        self.position = Timestamp(10, 1)
        self.written(100)
        self.assertEqual(self.read(connection), {"b"})
        self.hosts["b"].on_command = lambda body: OSError("gone")
        self.assertEqual(self.result(connection.app.things.find_one(), 6.0)["name"], "m")

    def test_never_per_read(self) -> None:
        """Reads cost nothing more; measurements come at their interval."""
        connection = self.split(max_staleness=8)
        self.read(connection)
        self.forget()
        for _ in range(50):
            self.result(connection.app.things.find_one(), 0.0)
        self.assertEqual(self.hosts["a"].names().count("find"), 25)
        self.forget()
        self.network.advance(8.0)
        self.assertIn(self.hosts["a"].names().count("find"), (3, 4))

    def test_stops(self) -> None:
        """Nothing is measured after the end, and nobody waits for it."""
        connection = self.split(max_staleness=5)
        self.hosts["m"].on_hello = lambda body: None
        waiting = connection.app.things.find_one()
        self.network.advance(0.5)
        self.assertNoResult(waiting)
        self.result(connection.disconnect())
        self.failure(waiting, AutoReconnect)
        self.network.advance(30.0)
        self.assertEqual(len(self.hosts["a"].connections), 0)

    def test_stops_quietly(self) -> None:
        """That slaves are not measured any more is no news of them."""
        told = self.told()
        for host in "ab":
            self.hosts[host].on_hello = lambda body: None
        connection = self.split(max_staleness=5)
        waiting = connection.app.things.find_one()
        waiting.addErrback(lambda failure: failure.trap(PyMongoError))
        self.network.advance(0.5)
        self.result(connection.disconnect())
        self.assertEqual(told, [])

    def test_stops_at_once(self) -> None:
        """After an end that comes before the first read nothing begins."""
        connection = self.split(max_staleness=5)
        self.result(connection.disconnect())
        self.failure(connection.app.things.find_one(), InvalidOperation)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """The time limit of a read is for the first measurement, too."""
        self.hosts["m"].on_hello = lambda body: None
        for when_stale in ("master", "fail"):
            connection = self.split(max_staleness=5, when_stale=when_stale)
            waiting: Deferred[Any] = connection.app.things.find_one(timeout=1.0)
            error = self.failure(waiting, PyMongoError, 1.125)
            self.assertTrue(error.timeout, when_stale)

    def test_cancel(self) -> None:
        """A read that waits for the first measurement can be cancelled."""
        self.hosts["m"].on_hello = lambda body: None
        waiting = self.split(max_staleness=5).app.things.find_one()
        self.network.advance(0.5)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_own_context(self) -> None:
        """Measurements have neither the time limit nor the session of the first read."""
        connection = self.split(max_staleness=5)

        async def read() -> None:
            async with connection.start_session() as session, session.bind():
                with timeout(3.0):
                    await connection.app.things.find_one()

        self.result(read())
        (asked, *_) = [each for each in self.hosts["a"].commands if "mongosync" in each.values()]
        self.assertGreater(asked["maxTimeMS"], 3000)
        self.network.advance(10.0)
        self.assertEqual(self.read(connection), {"a", "b"})

    def test_options(self) -> None:
        """Wrong limits are refused."""
        for options, kind, said in (
            ({"max_staleness": "5"}, TypeError, "max_staleness must be a number of seconds"),
            ({"max_staleness": True}, TypeError, "max_staleness must be a number of seconds"),
            ({"max_staleness": 0}, ConfigurationError, "more than 0"),
            ({"max_staleness": float("inf")}, ConfigurationError, "finite"),
            ({"max_staleness": 0.1}, ConfigurationError, "at least 0.5"),
            ({"staleness_interval": 1}, ConfigurationError, "of no use without max_staleness"),
            ({"max_staleness": 1, "staleness_interval": 1}, ConfigurationError, "less than"),
            ({"when_stale": "slave"}, ConfigurationError, "must be 'master' or 'fail'"),
        ):
            with self.assertRaisesRegex(kind, said):
                self.split(**options)


class ConnectionTests(SplitTestCase):
    """
    Making it and closing it.
    """

    def test_refused(self) -> None:
        """Wrong masters and slaves are refused in a sentence that says what to pass."""
        wrong: list[tuple[Any, Any, str]] = [
            ("m", self.slaves, "master must be a ConnectionPool, .* not str: make one with"),
            (None, self.slaves, "master must be .* not NoneType"),
            (self.master, [], "at least one ConnectionPool, and is empty: .* use the master"),
            (self.master, self.slaves[0], "slaves must be a list .* not ClockPool: pass "),
            (self.master, "mongodb://a", "slaves must be a list .* not str"),
            (self.master, [self.slaves[0], "b"], r"slaves\[1\] must be .* not str: make one"),
            (self.split(), self.slaves, "master must be .* not MasterSlaveConnection"),
        ]
        for master, slaves, said in wrong:
            with self.assertRaisesRegex(TypeError, said):
                MasterSlaveConnection(master, slaves)
        with self.assertRaisesRegex(TypeError, "at least one"):
            MasterSlaveConnection(self.master)

    def test_kinds(self) -> None:
        """Every kind of connection will do."""
        connection = MasterSlaveConnection(
            MongoClient("m", reactor=self.network.clock),
            (MongoConnection("a", reactor=self.network.clock),),
        )
        self.assertEqual(
            repr(connection),
            "<MasterSlaveConnection <ConnectionPool m:27017>, slaves <ConnectionPool a:27017>>",
        )
        self.assertEqual([type(each) for each in connection.slaves], [MongoConnection])
        self.assertIsInstance(connection.master, MongoClient)

    def test_quiet(self) -> None:
        """Nothing is connected before the first operation, but at once on demand."""
        connection = self.split()
        self.network.advance(1.0)
        self.assertEqual([each.attempts for each in self.hosts.values()], [0, 0, 0])
        self.result(connection.aconnect())
        self.assertNotIn(0, [each.attempts for each in self.hosts.values()])

    def test_authenticate(self) -> None:
        """Another user is logged in everywhere, until one connection refuses him."""
        users: list[tuple[str, tuple[Any, ...]]] = []

        class Doors(ClockPool):
            def authenticate(self, *given: Any) -> Deferred[None]:
                users.append((self.uri, given))
                if self.uri == "mongodb://b":
                    return fail(OperationFailure("no", 18))
                return succeed(None)

        master, *slaves = [
            Doors(f"mongodb://{host}", reactor=self.network.clock) for host in "mabc"
        ]
        connection = MasterSlaveConnection(master, slaves)
        self.failure(connection.app.authenticate("ada", "secret"), OperationFailure)
        given = ("app", "ada", "secret", "DEFAULT", None)
        self.assertEqual(users, [(f"mongodb://{host}", given) for host in "mab"])

    def test_disconnect(self) -> None:
        """All connections are closed, once."""
        connection = self.split()

        async def use() -> None:
            async with connection:
                await connection.app.things.insert_one({})
                await connection.app.things.find_one()

        self.result(use(), 5.0)
        self.assertEqual([len(each.connections) for each in self.hosts.values()], [0, 0, 0])
        self.failure(connection.app.things.insert_one({}), InvalidOperation)
        self.failure(connection.app.things.find_one(), AutoReconnect)
        self.failure(connection.aconnect(), InvalidOperation)
        self.result(connection.disconnect(), 5.0)
