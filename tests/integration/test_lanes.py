"""
Several lanes between real deployments: what is equal with one is equal with
many, whoever is killed.
"""

from __future__ import annotations

import atexit
import signal
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

from bson import Int64
from pymongo import InsertOne
from pymongo.client_session import ClientSession
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.load import Load, checkpoint_gaps, differences, finish
from tests.replicas import Pair, batches, wait_for
from tests.replicator.history import History, catalog_differences
from txmongokit.testing import replica_set, standalone

_OFF = ("--resume-file", "none")


@cache
def shared_pair() -> Pair:
    """Ends with the process."""
    pair = Pair(replica_set(name="from", cache_gb=1), replica_set(name="to", cache_gb=1))
    atexit.register(pair.close)
    return pair


class LaneTests(SynchronousTestCase):
    """
    C{--lanes}, each time of databases of its own.
    """

    databases: tuple[str, ...]

    def setUp(self) -> None:
        """Two replica sets of one member, which all tests share."""
        self.pair = shared_pair()

    def select(self, *databases: str) -> Any:
        """What is replicated from now on; the first database of the source."""
        self.databases = databases
        self.addCleanup(self.slow_down, 0)
        return self.pair.here[databases[0]]

    def start(self, lanes: int, *arguments: str) -> subprocess.Popen[str]:
        """Start it with so many lanes."""
        return self.pair.start(*_OFF, "--ns", *self.databases, "--lanes", str(lanes), *arguments)

    def sync(self, lanes: int, *arguments: str) -> None:
        """Run to the end, which must be a good one."""
        process = self.start(lanes, *arguments)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, output)

    def assert_equal(self) -> None:
        """Source and destination have the same, and no batch came twice or was left out."""
        ours = tuple(f"{name}." for name in self.databases)
        found = differences(self.pair.here, self.pair.there)
        self.assertEqual([each for each in found if each.startswith(ours)], [])
        self.assertEqual(list(checkpoint_gaps(self.pair.there)), [])

    def documents(self) -> dict[str, dict[str, Any]]:
        """The checkpoints: C{main}, and the lanes by their numbers."""
        checkpoints = self.pair.there["txmongokit"]["mongosync"]
        main = checkpoints.find_one({"selection.ns": sorted(self.databases)})
        if main is None:
            return {}
        lanes = {str(each["lane"]): each for each in checkpoints.find({"of": main["_id"]})}
        return {"main": main, **lanes}

    def slow_down(self, milliseconds: int) -> None:
        """Let each command of the replicator's transactions take so long; 0 for no more."""
        self.pair.there["admin"].command(
            {
                "configureFailPoint": "failCommand",
                "mode": "alwaysOn" if milliseconds else "off",
                "data": {
                    "failCommands": ["insert", "update", "delete", "commitTransaction"],
                    "blockConnection": True,
                    "blockTimeMS": milliseconds,
                    "appName": "mongosync",
                },
            }
        )

    def is_ahead(self) -> bool:
        """Whether a lane is ahead of the main checkpoint."""
        found = self.documents()
        main = found.pop("main", None)
        return main is not None and any(each["ts"] > main["ts"] for each in found.values())

    def test_history(self) -> None:
        """A history with every kind of entry arrives as it does in one lane."""
        before = set(self.pair.here.list_database_names())
        History(self.pair.here, 11).write()
        self.select(*sorted(set(self.pair.here.list_database_names()) - before - {"config"}))
        self.sync(4)
        self.assert_equal()
        catalogs = catalog_differences(self.pair.here, self.pair.there)
        self.assertEqual([each for each in catalogs if each.startswith(self.databases)], [])
        found = self.documents()
        self.assertEqual(found["main"]["lanes"]["count"], 4)
        self.assertTrue(all(found[str(number)]["count"] for number in range(4)))

    def test_unique_values(self) -> None:
        """Values of a unique index wander between documents of different lanes."""
        database = self.select("wandering")
        users = database["users"]
        users.create_index("name", unique=True)
        users.insert_many([{"_id": number, "name": str(number)} for number in range(1, 9)])
        for number in range(1, 9, 2):
            for name, each in (("x", number), (str(number), number + 1)):
                users.update_one({"_id": each}, {"$set": {"name": name}})
            users.update_one({"_id": number}, {"$set": {"name": str(number + 1)}})
        for number in range(100):
            users.delete_one({"name": str(number % 8 + 1)})
            users.insert_one({"_id": f"again {number}", "name": str(number % 8 + 1)})
        database["others"].insert_many([{} for _ in range(100)])
        self.sync(4)
        self.assertEqual(self.documents()["main"]["lanes"]["whole"], ["wandering.users"])
        self.assert_equal()
        # Without the index each document goes its own way again.
        users.drop_index("name_1")
        users.update_many({}, {"$set": {"name": "same"}})
        # A source transaction lands in one of the destination, whatever lanes it concerns.

        def body(session: ClientSession) -> None:
            statements = [InsertOne({"n": number}) for number in range(700)]
            database["others"].bulk_write(statements, session=session)

        with self.pair.here.start_session() as session:
            session.with_transaction(body)
        self.sync(8)
        self.assertEqual(self.documents()["main"]["lanes"]["whole"], [])
        sizes = [names.count("wandering.others") for _, names in batches(self.pair.there)]
        self.assertTrue(any(size >= 700 for size in sizes), sizes)
        self.assert_equal()

    def killed(self, lanes: int, moment: Callable[[], bool]) -> None:
        """Start it, and kill it at a moment."""
        process = self.start(lanes)
        wait_for(lambda: process.poll() is not None or moment(), "the moment to kill it")
        process.send_signal(signal.SIGKILL)
        self.assertEqual(process.wait(), -signal.SIGKILL)

    def test_killed(self) -> None:
        """Killed while lanes are ahead, it goes on with any other number of them."""
        self.select("app", "shop")
        Load(6000, seed=8).write(self.pair.here)
        self.slow_down(25)
        self.killed(4, self.is_ahead)
        before = self.documents()["main"]["seq"]
        self.killed(3, lambda: self.documents()["main"]["seq"] > before + 2 and self.is_ahead())
        before = self.documents()["main"]["seq"]
        self.killed(1, lambda: self.documents()["main"]["seq"] > before and not self.is_ahead())
        self.slow_down(0)
        self.sync(3)
        self.assert_equal()
        self.assertEqual(self.documents()["main"]["lanes"]["count"], 3)

    def assert_goes_on(self, process: subprocess.Popen[str]) -> None:
        """One that follows gets to the end, and ends well."""
        end = finish(self.pair.here)
        wait_for(lambda: self.documents()["main"]["ts"] >= end, "the end")
        process.terminate()
        output, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, output)
        self.assert_equal()

    def test_fenced(self) -> None:
        """Of two replicators with lanes, the one that was there first stops, and only it."""
        database = self.select("fenced", "app.finished")
        users = database["users"]
        users.insert_many([{"_id": number} for number in range(100)])
        first = self.start(4, "-f")
        copy = self.pair.there["fenced"]["users"]
        wait_for(lambda: copy.count_documents({}) == 100, "the first documents")
        second = self.start(2, "-f")
        wait_for(lambda: self.documents()["main"]["lanes"]["count"] == 2, "the second one")
        users.insert_many([{"_id": number} for number in range(100, 200)])
        output, _ = first.communicate(timeout=30)
        self.assertEqual(first.returncode, 1, output)
        self.assertIn("another replicator has taken over", output)
        self.assert_goes_on(second)

    def test_together(self) -> None:
        """Of two that start at the same moment exactly one goes on."""
        database = self.select("together", "app.finished")
        database["users"].insert_many([{"_id": number} for number in range(100)])
        self.sync(1)
        both = [self.start(lanes, "-f") for lanes in (4, 8)]

        def one_is_left() -> bool:
            database["users"].insert_one({})
            return sum(each.poll() is None for each in both) == 1

        wait_for(one_is_left, "one of them to stop")
        (last,) = (each for each in both if each.poll() is None)
        for each in both:
            if each is not last:
                output, _ = each.communicate()
                self.assertIn("another replicator has taken over", output)
        self.assert_goes_on(last)

    def test_moved_back(self) -> None:
        """A start that is forced into the past takes nothing from how far lanes were."""
        database = self.select("forced")
        database["a"].insert_many([{"_id": number} for number in range(200)])
        self.sync(4)
        self.pair.there["forced"]["a"].delete_many({})
        # As it is where such a start was killed after its first write.
        oldest = self.pair.here["local"]["oplog.rs"].find().sort("$natural", 1).limit(1).next()
        self.pair.there["txmongokit"]["mongosync"].update_one(
            {"_id": self.documents()["main"]["_id"]},
            {"$set": {"ts": oldest["ts"], "t": Int64(-1), "count": Int64(0), "lanes.stale": True}},
        )
        self.sync(1)
        self.assert_equal()
        main = self.documents()["main"]
        self.assertEqual(main["lanes"]["count"], 0)
        self.assertNotIn("stale", main["lanes"])
        self.assertEqual(main["count"], 201)

    def test_standalone(self) -> None:
        """A destination without transactions is refused."""
        self.select("any")
        with standalone() as other:
            status, output = self.pair.run(*_OFF, "--lanes", "2", "--to", other.uri)
        self.assertEqual(status, 1, output)
        self.assertIn("leave --lanes out", output)
