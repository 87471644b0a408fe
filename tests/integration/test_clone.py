"""
Cloning between two real deployments: an equal copy, of everything, whatever
happens meanwhile.
"""

from __future__ import annotations

import datetime
import random
import signal
import subprocess
import threading
import time
import uuid
from functools import partial
from typing import Any

from bson import (
    Binary,
    Code,
    DatetimeMS,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Timestamp,
)
from pymongo import IndexModel
from pymongo.collation import Collation
from pymongo.errors import PyMongoError
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.load import checkpoint_gaps, differences
from tests.deployments import SharedTestCase, shared_set
from tests.replicas import Client, Pair, wait_for
from txmongokit.connection import ConnectionPool
from txmongokit.replicator.cloning import writes_ended
from txmongokit.replicator.patience import Patience
from txmongokit.testing import Credentials, Deployment, replica_set, standalone

_NOW = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_CLONE = ("--resume-file", "none", "--clone")


def documents(count: int, start: int = 0, size: int = 100) -> list[dict[str, Any]]:
    """Documents with numbers from C{start} on."""
    return [{"_id": n, "n": n, "text": "x" * size} for n in range(start, start + count)]


def described(client: Client, database: str) -> dict[str, Any]:
    """Views and time series of a database, which the load's comparison leaves out."""
    return {
        found["name"]: (found["type"], found.get("options"))
        for found in client[database].list_collections()
        if found["type"] != "collection"
    }


class CloneCase(SynchronousTestCase):
    """
    A source and a destination, both sets of one.
    """

    def setUp(self) -> None:
        """Two replica sets of one member."""
        self.pair = Pair()
        self.addCleanup(self.pair.close)
        self.here, self.there = self.pair.here, self.pair.there
        self.version = tuple(self.here.server_info()["versionArray"])

    def clone(self, *arguments: str, **options: Any) -> str:
        """Clone to the end, which must be a good one."""
        status, output = self.pair.run(*_CLONE, *arguments, **options)
        self.assertEqual(status, 0, output)
        return output

    def refused(self, *arguments: str) -> str:
        """Run to an end that is a bad one."""
        status, output = self.pair.run(*arguments)
        self.assertEqual(status, 1, output)
        return output

    def assert_equal(self, output: str = "") -> None:
        """Source and destination have the same data and the same catalog."""
        self.assertEqual(list(differences(self.here, self.there)), [], output)
        self.assertEqual(list(checkpoint_gaps(self.there)), [])
        for name in self.here.list_database_names():
            if name not in ("admin", "config", "local"):
                self.assertEqual(described(self.here, name), described(self.there, name))

    def has_more_than(self, count: int) -> bool:
        """Whether the destination has more documents than that."""
        there: int = self.there["app"]["a"].estimated_document_count()
        return there > count

    def phase(self) -> Any:
        """In which phase the clone is."""
        return ((self.pair.checkpoint() or {}).get("clone") or {}).get("phase")


class CloneTests(CloneCase):
    """
    C{--clone} of a source that stays as it is.
    """

    def test_every_id(self) -> None:
        """C{_id}s of every type arrive, also where a collection is cut among them."""
        values: list[Any] = [
            MinKey(), MaxKey(), None, 1, 2.5, float("nan"), -0.0, float("inf"), Decimal128("7.10"),
            Decimal128("-Infinity"), Int64(2**40), "s", "", "\u00e9", {"a": 1}, {},
            Binary(b"x"), Binary(b"", 2), uuid.UUID(int=1).bytes, ObjectId(), True, False,
            _NOW, DatetimeMS(-(2**60)), Timestamp(1, 1), Code("f"),
            Code("f", {"a": 1}),
        ]  # fmt: skip
        rows = [{"_id": value, "n": n} for n, value in enumerate(values)]
        self.here["app"]["few"].insert_many(rows)
        self.here["app"]["many"].insert_many(rows)
        # Large enough for several segments.
        text = "y" * 100_000
        for n in range(14):
            self.here["app"]["many"].insert_many(
                {"_id": kind(n * 100 + m), "t": text}
                for m in range(50)
                for kind in (str, lambda number: number + 10, lambda number: {"k": number})
            )
        self.clone()
        self.assert_equal()
        self.assertEqual(self.phase(), "done")
        self.assertEqual(self.there["txmongokit"]["mongosync.ranges"].count_documents({}), 0)
        self.here["app"]["few"].insert_one({"_id": "later"})
        self.clone()
        self.assert_equal()

    def test_catalog(self) -> None:
        """Collections with all options, views on views, and indexes of every kind."""
        app = self.here["app"]
        app.create_collection("collated", collation=Collation("de", strength=1))
        app["collated"].insert_many([{"_id": name} for name in ("a", "\u00e4b", "Z", 1, None)])
        app["collated"].create_index("name")
        app["collated"].create_index("plain", collation=Collation("simple"))
        app.create_collection(
            "checked", validator={"a.b": {"$gt": 1}}, validationAction="error", check_exists=False
        )
        app["checked"].insert_one({"_id": 1}, bypass_document_validation=True)
        app.create_collection("log", capped=True, size=8192, max=20)
        for n in range(60):
            app["log"].insert_one({"_id": 1000 - n, "text": "z" * 100})
        app.create_collection("empty")
        app.create_collection("zview", viewOn="indexed", pipeline=[{"$match": {"n": {"$gt": 3}}}])
        app.create_collection("aview", viewOn="zview", pipeline=[{"$project": {"n": 1}}])
        app["indexed"].insert_many(
            {"_id": n, "n": n, "u": n, "t": f"w{n}", "p": [n, n], "d": _NOW} for n in range(100)
        )
        app["indexed"].create_indexes(
            [
                IndexModel([("n", 1), ("t", -1)], name="compound"),
                IndexModel("u", unique=True, sparse=True),
                IndexModel("d", expireAfterSeconds=100_000),
                IndexModel([("t", "text")], weights={"t": 3}, default_language="german"),
                IndexModel([("p", "2d")], bits=20),
                IndexModel([("g", "2dsphere")]),
                IndexModel([("h", "hashed")]),
                IndexModel([("w.$**", 1)]),
                IndexModel("f", partialFilterExpression={"f": {"$gt": 5}}),
                IndexModel("c", collation=Collation("fr")),
                IndexModel("x", hidden=True),
            ]
        )
        if self.version >= (6,):
            app.create_collection(
                "clustered", clusteredIndex={"key": {"_id": 1}, "unique": True, "name": "ci"},
                expireAfterSeconds=1_000_000, changeStreamPreAndPostImages={"enabled": True},
            )  # fmt: skip
            app["clustered"].insert_many(documents(100))
        self.here["other"]["system.js"].insert_one({"_id": "f", "value": Code("function() {}")})
        output = self.clone()
        self.assert_equal(output)
        ids = [[found["_id"] for found in client["app"]["log"].find()] for client in
               (self.here, self.there)]  # fmt: skip
        self.assertEqual(ids[0], ids[1])

    def test_unstamped(self) -> None:
        """Times that a server puts in itself, in inserted documents, are left as they are."""
        app = self.here["app"]
        app.create_collection("log", capped=True, size=1 << 20)
        for name in ("a", "log"):
            app[name].insert_many(documents(5))
            app[name].update_one({"_id": 7}, {"$set": {"at": Timestamp(0, 0)}}, upsert=True)
            app[name].insert_many(documents(5, 10))
        self.assert_equal(self.clone())
        self.assertEqual(
            [found["_id"] for found in self.there["app"]["log"].find()],
            [*range(5), 7, *range(10, 15)],
        )

    def test_time_series(self) -> None:
        """Time series are copied bucket by bucket."""
        if self.version < (5,):
            raise SkipTest("time series came with 5.0")
        app = self.here["app"]
        app.create_collection(
            "ts", timeseries={"timeField": "t", "metaField": "m", "granularity": "minutes"},
            expireAfterSeconds=100_000,
        )  # fmt: skip
        app["ts"].create_index([("m", 1), ("t", -1)])
        app["ts"].insert_many([{"t": _NOW, "m": n % 7, "v": n} for n in range(500)])
        self.clone()
        self.assert_equal()
        self.assertEqual(self.there["app"]["ts"].count_documents({}), 500)

    def test_selected_and_renamed(self) -> None:
        """The selection and the renames hold for the copy, and for views on it."""
        for database in ("app", "left"):
            for name in ("users", "other"):
                self.here[database][name].insert_many(documents(10))
        self.here["app"].create_collection("seen", viewOn="users", pipeline=[])
        self.clone("--ns", "app", "--exclude", "app.other", "--rename", "app=copy")
        self.assertEqual(
            sorted(self.there["copy"].list_collection_names()), ["seen", "system.views", "users"]
        )
        self.assertEqual(self.there["copy"]["seen"].count_documents({}), 10)
        self.assertNotIn("left", self.there.list_database_names())

    def test_not_empty(self) -> None:
        """What is in the way is named, and dropped only where that is asked for."""
        self.here["app"]["users"].insert_many(documents(10))
        self.there["app"]["users"].insert_one({"_id": "theirs"})
        self.assertIn("app.users", self.refused(*_CLONE))
        self.assertEqual(self.there["app"]["users"].count_documents({}), 1)
        self.clone("--drop")
        self.assert_equal()

    def test_dry_run(self) -> None:
        """A dry run says how much there is, and writes nothing."""
        self.here["app"]["users"].insert_many(documents(10))
        output = self.clone("--dry-run")
        self.assertIn("app.users", output)
        self.assertIn("10 documents", output)
        self.assertEqual(set(self.there.list_database_names()) & {"app", "txmongokit"}, set())

    def test_mixed_up_options(self) -> None:
        """An unfinished clone is not gone on with as if it were complete, nor the other way."""
        self.here["app"]["users"].insert_many(documents(10))
        status, output = self.pair.run("--resume-file", "none")
        self.assertEqual(status, 0, output)
        self.assertIn("did not begin with --clone", self.refused(*_CLONE))
        self.there.drop_database("txmongokit")
        self.clone("--drop")
        self.there["txmongokit"]["mongosync"].update_one({}, {"$set": {"clone.phase": "copy"}})
        self.assertIn("not complete", self.refused("--resume-file", "none"))

    def test_users(self) -> None:
        """Users and roles are cloned where that is asked for, over those of the same name."""
        self.here["app"]["users"].insert_one({"_id": 1})
        self.here["admin"].command(
            "createRole", "reader", privileges=[], roles=[{"role": "read", "db": "app"}]
        )
        self.here["admin"].command("createUser", "ann", pwd="a", roles=["reader"])
        self.here["app"].command("createUser", "bob", pwd="b", roles=["read"])
        self.there["app"].command("createUser", "bob", pwd="other", roles=[])
        self.clone("--users")
        users = [
            sorted(client["admin"]["system.users"].find(), key=lambda user: str(user["_id"]))
            for client in (self.here, self.there)
        ]
        self.assertEqual(users[0], users[1])
        self.assertEqual(len(users[1]), 2)
        self.assertEqual(self.there["admin"]["system.roles"].count_documents({}), 1)
        self.assert_equal()

    def test_large_documents(self) -> None:
        """Documents as large as they can be are copied one by one."""
        for n in range(6):
            self.here["app"]["big"].insert_one({"_id": n, "b": b"x" * (16 * 1024 * 1024 - 40)})
        self.clone()
        self.assert_equal()


class Writer:
    """
    Changes to a source in a thread of its own, drawn from a seed.

    @ivar done: how many of each kind succeeded.
    """

    def __init__(self, client: Client, seed: int, kinds: str) -> None:
        self.done: dict[str, int] = {}
        self._client = client
        self._random = random.Random(seed)
        self._kinds = kinds.split()
        self._fresh = 10_000_000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            kind = self._random.choice(self._kinds)
            try:
                getattr(self, kind)()
            except PyMongoError:
                # There may be nothing of that name just now.
                continue
            self.done[kind] = self.done.get(kind, 0) + 1
            time.sleep(0.001)

    def _collection(self) -> Any:
        return self._client["app"][self._random.choice("abcdef")]

    def insert(self) -> None:
        """Documents that are new."""
        self._fresh += 10
        self._collection().insert_many(documents(10, self._fresh))

    def update(self) -> None:
        """Fields that are changed, added and removed."""
        some = {"n": {"$gte": self._random.randrange(40_000)}}
        at = self._random.randrange(5)
        self._collection().update_one(some, {"$inc": {f"c{at}.k": 1}, "$unset": {f"c{at + 1}": 1}})

    def shape(self) -> None:
        """A field that is a document at one time, and none at another."""
        some = {"n": {"$gte": self._random.randrange(40_000)}}
        self._collection().update_one(some, {"$set": {f"c{self._random.randrange(5)}": 5}})

    def delete(self) -> None:
        """A document that goes, perhaps to come back with another content."""
        found = self._collection()
        gone = found.find_one_and_delete({"n": {"$gte": self._random.randrange(40_000)}})
        if gone is not None and self._random.random() < 0.5:
            found.insert_one({"_id": gone["_id"], "n": 1, "back": True})

    def together(self) -> None:
        """A transaction over two collections."""
        with self._client.start_session() as session, session.start_transaction():
            self._fresh += 10
            for _ in range(2):
                self._collection().insert_one({"_id": self._fresh, "in": 1}, session=session)
                self._fresh += 1

    def rename(self) -> None:
        """Another name, sometimes that of another collection."""
        self._collection().rename(
            self._random.choice("abcdef"), dropTarget=self._random.random() < 0.3
        )

    def drop(self) -> None:
        """A collection less, or anew under the name."""
        found = self._collection()
        found.drop()
        found.insert_many(documents(20, self._random.randrange(40_000)))

    def index(self) -> None:
        """An index more."""
        name = self._random.choice(("n", "text", "u", "d"))
        options: dict[str, Any] = {}
        if name == "u":
            options = {"unique": True, "sparse": True}
        elif name == "d":
            options = {"expireAfterSeconds": self._random.choice((100_000, 200_000))}
        self._collection().create_index(name, name=f"{name}_", **options)

    def unindex(self) -> None:
        """An index less."""
        self._collection().drop_index(self._random.choice(("n_", "text_", "u_", "d_")))

    def modify(self) -> None:
        """Options of a collection and of an index."""
        name = self._random.choice("abcdef")
        if self._random.random() < 0.5:
            number = self._random.randrange(9)
            rule = {"never": {"$ne": number}}
            self._client["app"].command(
                {"collMod": name, "validator": rule, "validationAction": "warn"}
            )
        else:
            change = {"name": "d_", "expireAfterSeconds": self._random.choice((300_000, 400_000))}
            self._client["app"].command({"collMod": name, "index": change})

    def view(self) -> None:
        """A view made anew."""
        name = self._random.choice(("v", "w"))
        self._client["app"].drop_collection(name)
        self._client["app"].create_collection(name, viewOn=self._random.choice("abcv"), pipeline=[])

    def database(self) -> None:
        """A whole database that comes and goes."""
        self._client["brief"]["a"].insert_many(documents(3))
        self._client["brief"].create_collection("v", viewOn="a", pipeline=[])
        if self._random.random() < 0.7:
            self._client.drop_database("brief")

    def series(self) -> None:
        """A time series that is written to, or made anew."""
        app = self._client["app"]
        if self._random.random() < 0.2:
            app.drop_collection("ts")
            options = {"timeField": "t", "metaField": "m"}
            app.create_collection("ts", timeseries=options, expireAfterSeconds=10**9)
        elif app.list_collection_names(filter={"name": "ts"}):
            app["ts"].insert_many([{"t": _NOW, "m": n, "n": n} for n in range(5)])

    def log(self) -> None:
        """Documents at the end of a capped collection."""
        self._fresh += 3
        self._client["other"]["log"].insert_many(documents(3, self._fresh))


_WRITES = "insert update update shape delete together log"
_EVERYTHING = f"{_WRITES} rename drop index index unindex modify view database"


class MeanwhileTests(CloneCase):
    """
    The source does not stay as it is, nor does the replicator.
    """

    def fill(self) -> None:
        """What there is before."""
        for name in "abcd":
            for start in range(0, 40_000, 5_000):
                self.here["app"][name].insert_many(documents(5_000, start, 200))
        self.here["app"]["b"].create_index("n", name="n_")
        self.here["app"]["b"].create_index("u", name="u_", unique=True, sparse=True)
        self.here["app"]["c"].create_index("d", name="d_", expireAfterSeconds=100_000)
        self.here["app"].create_collection("v", viewOn="a", pipeline=[])
        self.here["other"].create_collection("log", capped=True, size=1 << 20, max=2_000)
        self.here["other"]["log"].insert_many(documents(1_990, -5_000))

    def everything(self) -> str:
        """All kinds of changes that the source knows."""
        return f"{_EVERYTHING} series series" if self.version >= (5,) else _EVERYTHING

    def writer(self, kinds: str, seed: int = 1) -> Writer:
        """One that writes already."""
        writer = Writer(self.here, seed, kinds)
        writer.start()
        self.addCleanup(writer.stop)
        return writer

    def finish(self, writer: Writer) -> None:
        """No more writes, what is left of them is replicated, and all is equal."""
        writer.stop()
        output = self.clone()
        self.assert_equal(output)
        logs = [
            [found["_id"] for found in client["other"]["log"].find()]
            for client in (self.here, self.there)
        ]
        self.assertEqual(logs[0], logs[1])

    def test_writes(self) -> None:
        """Documents that come, change and go while they are copied."""
        self.fill()
        writer = self.writer(_WRITES)
        self.clone()
        self.finish(writer)

    def test_schema(self) -> None:
        """Collections that are made, renamed and dropped, and their indexes and views."""
        self.fill()
        writer = self.writer(self.everything(), 2)
        self.clone()
        self.finish(writer)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """The replicator, once it has taken its first step in the destination."""
        before = (self.pair.checkpoint() or {"seq": -1})["seq"]
        process = self.pair.start(*arguments)

        def moved() -> bool:
            found = self.pair.checkpoint() or {"seq": -1}
            return process.poll() is not None or found["seq"] != before

        wait_for(moved, "its first step")
        return process

    def test_killed(self) -> None:
        """It is killed again and again, at random moments; what is copied stays copied."""
        self.fill()
        writer = self.writer(self.everything(), 3)
        draw = random.Random(4)
        for _ in range(4):
            process = self.started(*_CLONE, "--clone-tasks", "3")
            time.sleep(draw.uniform(0.0, 0.8))  # A kill at a random moment is the test.
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
            self.assertEqual(process.returncode, -signal.SIGKILL, output)
        self.finish(writer)

    def test_finished_ranges_stay(self) -> None:
        """What was copied whole before a kill is not copied again."""
        for name, count in (("first", 60_000), ("second", 50_000)):
            for start in range(0, count, 5_000):
                self.here["app"][name].insert_many(documents(5_000, start, 1_000))
        ranges = self.there["txmongokit"]["mongosync.ranges"]
        process = self.pair.start(*_CLONE, "--clone-tasks", "1")
        wait_for(lambda: ranges.find_one({"done": True}), "the first collection", 30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertEqual(self.phase(), "copy")
        self.assertEqual(ranges.count_documents({"done": True}), 1)
        # Were it copied again, this would be mended.
        self.there["app"]["first"].delete_one({"_id": 17})
        self.assertIn("1 of 2 pieces", self.clone())
        self.assertEqual(self.there["app"]["first"].count_documents({}), 59_999)
        self.there["app"]["first"].insert_many(self.here["app"]["first"].find({"_id": 17}))
        self.assertEqual(list(differences(self.here, self.there)), [])

    def test_two_at_once(self) -> None:
        """Of two on one destination the first stops, and the second's copy is right."""
        for start in range(0, 100_000, 5_000):
            self.here["app"]["a"].insert_many(documents(5_000, start, 1_000))
        first = self.pair.start(*_CLONE)
        wait_for(self.there["app"]["a"].find_one, "its first documents")
        first.send_signal(signal.SIGSTOP)
        self.assertEqual(self.phase(), "copy")
        output = self.clone()
        first.send_signal(signal.SIGCONT)
        text, _ = first.communicate(timeout=60)
        self.assertEqual(first.returncode, 1, text)
        self.assertIn("taken over", text)
        self.assert_equal(output)


class DeploymentTests(CloneCase):
    """
    C{--clone} from and to other deployments than two sets of one.
    """

    def setUp(self) -> None:
        """They are started by each test."""

    def use(self, source: Deployment, destination: Deployment) -> None:
        """Clone from one to the other."""
        self.pair = Pair(source, destination)
        self.addCleanup(self.pair.close)
        self.here, self.there = self.pair.here, self.pair.there
        self.version = tuple(self.here.server_info()["versionArray"])

    def fill(self, count: int = 3_000) -> None:
        """Something of every kind that is treated in its own way."""
        app = self.here["app"]
        for start in range(0, count, 10_000):
            app["a"].insert_many(documents(min(10_000, count - start), start, 500))
        app["a"].create_index("n", unique=True)
        app["b"].insert_many([{"_id": number, "at": _NOW} for number in range(10)])
        app["b"].create_index("at", expireAfterSeconds=10**9)
        app.create_collection("log", capped=True, size=1 << 20)
        app["log"].insert_many(documents(100))
        app.create_collection("v", viewOn="a", pipeline=[{"$match": {"n": 1}}])
        if self.version >= (5,):
            app.create_collection("ts", timeseries={"timeField": "t"})
            app["ts"].insert_many([{"t": _NOW, "n": number} for number in range(10)])

    def test_least_privileges(self) -> None:
        """The privileges that the documentation names are enough to clone and to follow."""
        self.use(
            replica_set(name="from", auth=Credentials()), replica_set(name="to", auth=Credentials())
        )
        self.fill()
        for client, roles in (
            (self.here, [{"role": "read", "db": "local"}, "readAnyDatabase"]),
            (self.there, ["readWriteAnyDatabase", "dbAdminAnyDatabase"]),
        ):
            client["admin"].command("createUser", "sync", pwd="pw", roles=roles)
        # Another user's, who may do nothing, says what is missing.
        self.there["admin"].command("createUser", "idle", pwd="pw", roles=[])
        idle = self.pair.destination.uri.replace("root:secret@", "idle:pw@")
        self.assertIn("'Privileges'", self.refused(*_CLONE, "--to", idle))
        uris = [
            each.uri.replace("root:secret@", "sync:pw@")
            for each in (self.pair.source, self.pair.destination)
        ]
        output = self.clone("--from", uris[0], "--to", uris[1])
        self.assert_equal(output)
        self.here["app"]["log"].insert_many(documents(5, 200))
        self.here["app"]["a"].create_index("text")
        self.here["app"]["b"].rename("c")
        self.assert_equal(self.clone("--from", uris[0], "--to", uris[1], "--verify"))

    def test_elections(self) -> None:
        """Either side has another primary while it is copied."""
        self.use(replica_set(3, name="from"), replica_set(3, name="to"))
        self.fill(40_000)
        # So slow that there is time for both.
        process = self.pair.start(*_CLONE, "--clone-tasks", "2", "--limit", "8000")
        for deployment in (self.pair.destination, self.pair.source):
            before = self.there["app"]["a"].estimated_document_count()
            wait_for(partial(self.has_more_than, before), "some documents")
            self.assertEqual(self.phase(), "copy")
            deployment.step_down()
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, output)
        self.assert_equal(output)

    def test_standalone(self) -> None:
        """A standalone server, which has no transactions, is a destination for a clone."""
        self.use(replica_set(name="from"), standalone())
        self.fill()
        self.clone()
        self.here["app"]["a"].update_one({"_id": 5}, {"$set": {"n": -5}})
        output = self.clone("--verify")
        self.assertIn(": equal", output)
        self.assertEqual(list(differences(self.here, self.there)), [])


class WritesEndedTests(SharedTestCase):
    """
    What a process that was killed has sent goes on in the server.
    """

    def test_waits(self) -> Deferred[None]:
        """The copy is complete when that has ended, whatever became of who sent it."""
        return Deferred.fromCoroutine(self.waits())

    async def waits(self) -> None:
        """See L{test_waits}."""
        uri = shared_set().uri
        pool, gone = self.client(uri), self.client(uri)
        target = pool[self.database]["copied"]
        await target.insert_one({"_id": 0})
        session = pool.start_session()
        session.start_transaction()
        await target.insert_one({"_id": 1}, session=session)
        # It tries again until the transaction ends.
        gone[self.database]["copied"].insert_one({"_id": 1}).addErrback(lambda failure: None)
        while not await _inserting(pool, target.full_name):
            await deferLater(reactor, 0.01, lambda: None)
        await gone.disconnect()
        patience = Patience(reactor, 30.0)
        await writes_ended(pool, patience, {f"{self.database}.other"})
        waiting = Deferred.fromCoroutine(writes_ended(pool, patience, {target.full_name}))
        await deferLater(reactor, 0.1, lambda: None)
        self.assertFalse(waiting.called)
        await session.abort_transaction()
        await waiting
        self.assertEqual(await target.count_documents({}), 2)
        await session.end_session()


async def _inserting(pool: ConnectionPool, namespace: str) -> bool:
    found = pool["admin"].aggregate(
        [{"$currentOp": {}}, {"$match": {"ns": namespace, "op": "insert"}}]
    )
    return bool(await found.to_list())
