"""
The replicator between two real deployments: what arrives, and that it
arrives exactly once.
"""

from __future__ import annotations

import json
import random
import signal
import time
from typing import Any

from bson import Int64, Timestamp
from pymongo import InsertOne, UpdateOne
from pymongo.client_session import ClientSession
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.load import Load, checkpoint_gaps, differences, finish
from tests.replicas import Pair, batches, wait_for
from txmongokit.testing import Credentials, Member, replica_set, standalone

_OFF = ("--resume-file", "none")


def begin_here(pair: Pair) -> None:
    """The resume file says that the first start goes on after the source's last entry."""
    last = finish(pair.here)
    text = json.dumps({"ts": {"time": last.time, "inc": last.inc}})
    (pair.folder / "mongooplog.ts").write_text(text)


class ReplicationTests(SynchronousTestCase):
    """
    One pass over the source's oplog, by C{python -m txmongokit.oplog}.
    """

    def setUp(self) -> None:
        """Two replica sets of one member."""
        self.pair = Pair()
        self.addCleanup(self.pair.close)

    def sync(self, *arguments: str, **options: Any) -> str:
        """Run to the end, which must be a good one."""
        status, output = self.pair.run(*_OFF, *arguments, **options)
        self.assertEqual(status, 0, output)
        return output

    def assert_equal(self) -> None:
        """Source and destination have the same data and the same schema."""
        self.assertEqual(list(differences(self.pair.here, self.pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(self.pair.there)), [])

    def test_mixed_load(self) -> None:
        """Inserts, updates, deletes, DDL and transactions arrive as they are."""
        Load(4000, seed=7).write(self.pair.here)
        self.sync()
        self.assert_equal()

    def test_again(self) -> None:
        """A second pass begins where the first ended, and applies only what is new."""
        users = self.pair.here["app"]["users"]
        users.insert_many([{"_id": number} for number in range(10)])
        self.sync()
        before = self.pair.checkpoint()
        users.insert_one({"_id": 10})
        self.sync()
        after = self.pair.checkpoint()
        assert before is not None and after is not None
        self.assertEqual(after["count"] - before["count"], 1)
        self.assert_equal()

    def test_nothing_new(self) -> None:
        """A pass with nothing new ends at once, before the source's next entry."""
        self.pair.here["app"]["users"].insert_one({"_id": 1})
        self.sync()
        self.sync(seconds=8)
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        self.assertEqual(checkpoint["count"], 2)
        self.assert_equal()

    def test_killed_before_the_first_batch(self) -> None:
        """A start that got no further than its checkpoint loses nothing when repeated."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 1})
        self.sync()
        # As it is when the process dies right after its checkpoint was made.
        oldest = self.pair.here["local"]["oplog.rs"].find().sort("$natural", 1).limit(1).next()
        self.pair.there.drop_database("app")
        self.pair.there["txmongokit"]["mongosync"].update_one(
            {}, {"$set": {"ts": oldest["ts"], "t": Int64(-1), "count": Int64(0)}}
        )
        self.sync()
        self.assert_equal()

    def test_capped(self) -> None:
        """Capped collections keep their order, and take part in exactly-once."""
        here, there = self.pair.here, self.pair.there
        here["app"].create_collection("log", capped=True, size=100_000)
        here["app"]["log"].insert_many([{"_id": number} for number in range(50)])
        here["app"]["users"].insert_one({"_id": 1})
        self.sync()
        here["app"]["log"].insert_many([{"_id": number} for number in range(50, 60)])
        self.sync()
        ids = [found["_id"] for found in there["app"]["log"].find().sort("$natural", 1)]
        self.assertEqual(ids, list(range(60)))
        self.assert_equal()

    def test_view(self) -> None:
        """A view is made, changed and dropped as in the source."""
        database = self.pair.here["app"]
        database["users"].insert_one({"_id": 1, "n": 1})
        database.create_collection("seen", viewOn="users", pipeline=[{"$match": {"n": 1}}])
        database.create_collection("gone", viewOn="users", pipeline=[])
        database["gone"].drop()
        self.sync()
        self.assertEqual(self.pair.there["app"]["seen"].find_one(), {"_id": 1, "n": 1})
        self.assertEqual(
            sorted(self.pair.there["app"].list_collection_names()),
            ["seen", "system.views", "users"],
        )

    def test_mend_within_the_window(self) -> None:
        """The last entries of the window and the first behind it are told apart."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 1, "n": 1})
        time.sleep(8)
        users.update_one({"_id": 1}, {"$set": {"n": 2}})
        process = self.pair.start(*_OFF, "-f", "--seconds", "6")
        wait_for(lambda: (self.pair.checkpoint() or {}).get("missing") == 1, "the first batch")
        users.insert_one({"_id": 2})
        users.update_one({"_id": 2}, {"$set": {"n": 2}})
        copy = self.pair.there["app"]["users"]
        wait_for(lambda: copy.find_one({"_id": 2, "n": 2}), "what came later")
        process.terminate()
        output, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0, output)

    def test_transaction_lands_whole(self) -> None:
        """A source transaction is part of one destination transaction, also a large one."""
        here = self.pair.here
        here["app"]["a"].insert_one({"_id": -1})
        here["app"]["b"].insert_one({"_id": -1})
        with here.start_session() as session, session.start_transaction():
            here["app"]["a"].insert_many([{"_id": n} for n in range(700)], session=session)
            here["app"]["b"].insert_many([{"_id": n} for n in range(700)], session=session)
        self.sync()
        sizes = [len(namespaces) for _, namespaces in batches(self.pair.there)]
        self.assertTrue(any(size >= 1400 for size in sizes), sizes)
        self.assert_equal()

    def test_transaction_of_several_entries(self) -> None:
        """A transaction of more than 16 MB is a chain of entries, and arrives whole."""
        here = self.pair.here
        here["app"]["a"].insert_one({"_id": -1})

        def body(session: ClientSession) -> None:
            for number in range(20):
                here["app"]["a"].insert_one(
                    {"_id": number, "text": "x" * 1_000_000}, session=session
                )

        with here.start_session() as session:
            session.with_transaction(body)
        here["app"]["a"].update_one({"_id": 3}, {"$set": {"text": "y"}})
        self.sync()
        self.assert_equal()

    def test_collection_made_in_a_transaction(self) -> None:
        """A transaction may create what it writes to."""
        here = self.pair.here
        with here.start_session() as session, session.start_transaction():
            here["app"]["fresh"].insert_one({"_id": 1}, session=session)
        self.sync()
        self.assert_equal()

    def test_selection(self) -> None:
        """What is excluded stays away: exactly that, and nothing that begins alike."""
        for namespace in ("logdb.x", "logdb2.x", "data.transactions", "data.transactions2"):
            database, _, name = namespace.partition(".")
            self.pair.here[database][name].insert_one({"_id": namespace})
        self.sync("--exclude", "logdb", "data.transactions")
        names = {
            f"{database}.{name}"
            for database in ("logdb", "logdb2", "data")
            for name in self.pair.there[database].list_collection_names()
        }
        self.assertEqual(names, {"logdb2.x", "data.transactions2"})

    def test_included_and_renamed(self) -> None:
        """Only what is named arrives, under its new name, indexes and DDL too."""
        here, there = self.pair.here, self.pair.there
        here["app"]["users"].insert_one({"_id": 1, "n": 1})
        here["app"]["other"].insert_one({"_id": 1})
        here["app"]["users"].create_index("n", unique=True)
        here["app"]["users"].update_one({"_id": 1}, {"$set": {"n": 2}})
        self.sync("--ns", "app.users", "--rename", "app.users=copy.people")
        self.assertEqual(there["copy"]["people"].find_one(), {"_id": 1, "n": 2})
        self.assertIn("n_1", there["copy"]["people"].index_information())
        self.assertEqual(there["app"].list_collection_names(), [])

    def test_collections_renamed_in_a_renamed_database(self) -> None:
        """renameCollection is carried out under the new name of the database."""
        here = self.pair.here
        here["old"]["a"].insert_one({"_id": 1})
        here["old"]["a"].rename("b")
        self.sync("--rename", "old=new")
        self.assertEqual(self.pair.there["new"].list_collection_names(), ["b"])

    def test_rename_over_a_collection(self) -> None:
        """A rename that drops its target leaves nothing else behind."""
        here = self.pair.here
        here["app"]["a"].insert_one({"_id": "a"})
        here["app"]["b"].insert_one({"_id": "b"})
        here["app"]["a"].rename("b", dropTarget=True)
        self.sync()
        self.assert_equal()

    def test_unique_values_swapped(self) -> None:
        """Values of a unique index that move between documents do not collide."""
        users = self.pair.here["app"]["users"]
        users.create_index("name", unique=True)
        users.insert_many([{"_id": 1, "name": "a"}, {"_id": 2, "name": "b"}])
        for _ in range(20):
            users.update_one({"_id": 1}, {"$set": {"name": "c"}})
            users.update_one({"_id": 2}, {"$set": {"name": "a"}})
            users.delete_one({"_id": 1})
            users.insert_one({"_id": 1, "name": "b"})
            users.update_one({"_id": 1}, {"$set": {"name": "d"}})
            users.update_one({"_id": 2}, {"$set": {"name": "b"}})
            users.update_one({"_id": 1}, {"$set": {"name": "a"}})
        self.sync()
        self.assert_equal()

    def test_unique_index_of_the_destination(self) -> None:
        """A unique index that only the destination has is respected, too."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 0, "name": "z"})
        self.sync()
        self.pair.there["app"]["users"].create_index("name", unique=True)
        users.bulk_write([InsertOne({"_id": n, "name": str(n)}) for n in range(1, 30)])
        for number in range(1, 30):
            users.delete_one({"_id": number})
            users.insert_one({"_id": 100 + number, "name": str(number)})
        self.sync()
        self.assertEqual(users.count_documents({}), 30)
        self.assertEqual(
            list(users.find().sort("_id")), list(self.pair.there["app"]["users"].find().sort("_id"))
        )

    def test_documents_that_are_there_already(self) -> None:
        """Replaying over a copy that is already ahead converges on the source."""
        users = self.pair.here["app"]["users"]
        for number in range(50):
            users.insert_one({"_id": number, "n": 0})
            users.update_one({"_id": number}, {"$set": {"n": number}})
        self.pair.there["app"]["users"].insert_many(users.find())
        self.sync()
        self.assertEqual(
            list(users.find().sort("_id")), list(self.pair.there["app"]["users"].find().sort("_id"))
        )

    def test_schema_that_is_ahead(self) -> None:
        """A window replayed over a copy that has later changes of the schema converges."""
        here, there = self.pair.here["app"], self.pair.there["app"]
        for database in (here, there):
            database.create_collection("users", validator={"n": {"$exists": True}})
            database["users"].insert_one({"_id": 1, "n": 1})
            database.command("collMod", "users", validator={}, validationLevel="off")
            database["users"].create_index("n")
            database["users"].drop_index("n_1")
        self.sync()
        self.assert_equal()

    def test_schema_that_differs(self) -> None:
        """Behind the window, a collection that is there with other options stops it."""
        self.pair.here["app"]["users"].insert_one({"_id": 1})
        self.sync()
        self.pair.here["app"].create_collection("log", capped=True, size=4096)
        self.pair.there["app"].create_collection("log")
        status, output = self.pair.run(*_OFF)
        self.assertEqual(status, 1, output)
        self.assertIn("app.log", output)
        self.assertIn("capped", output)

    def test_missing_document_within_the_window(self) -> None:
        """An update of a document that predates the window is counted, not applied."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 1, "n": 1})
        begin_here(self.pair)
        users.update_one({"_id": 1}, {"$set": {"n": 2}})
        status, output = self.pair.run()
        self.assertEqual(status, 0, output)
        self.assertIsNone(self.pair.there["app"]["users"].find_one())
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        self.assertEqual(checkpoint["missing"], 1)
        self.assertIn("missing 1", output)

    def test_missing_document_after_the_window(self) -> None:
        """Past the first start's window a missing document stops the replication."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 1, "n": 1})
        self.sync()
        self.pair.there["app"]["users"].delete_one({"_id": 1})
        before = self.pair.checkpoint()
        users.update_one({"_id": 1}, {"$set": {"n": 2}})
        status, output = self.pair.run(*_OFF)
        self.assertEqual(status, 1)
        self.assertIn("app.users", output)
        self.assertIn("not a complete copy", output)
        after = self.pair.checkpoint()
        assert before is not None and after is not None
        self.assertEqual(after["ts"], before["ts"])

    def test_dry_run(self) -> None:
        """A dry run says what would be done and writes nothing."""
        self.pair.here["app"]["users"].insert_many([{"_id": n} for n in range(5)])
        status, output = self.pair.run("--dry-run")
        self.assertEqual(status, 0, output)
        self.assertIn("would apply 5 inserts to app.users", output)
        self.assertEqual(
            [name for name in self.pair.there.list_database_names() if name not in _SYSTEM], []
        )
        self.assertEqual(list(self.pair.folder.iterdir()), [])

    def test_resume_file(self) -> None:
        """The seed's own case: a second run with the file applies one operation."""
        users = self.pair.here["app"]["users"]
        users.insert_many([{"_id": n} for n in range(3)])
        status, output = self.pair.run()
        self.assertEqual(status, 0, output)
        self.assertTrue((self.pair.folder / "mongooplog.ts").exists())
        # Without the checkpoint, the file alone says where to go on.
        self.pair.there.drop_database("txmongokit")
        users.insert_one({"_id": 3})
        status, output = self.pair.run()
        self.assertEqual(status, 0, output)
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        self.assertEqual(checkpoint["count"], 1)
        self.assertEqual(self.pair.there["app"]["users"].count_documents({}), 4)

    def test_what_cannot_be_applied(self) -> None:
        """An entry that is not understood stops it before anything of it is done."""
        here = self.pair.here
        here["app"].create_collection("weather", capped=True, size=4096)
        self.sync()
        before = self.pair.checkpoint()
        # Only servers for tests know this command.
        here["app"].command("emptycapped", "weather")
        for twistd in (False, True):
            status, output = self.pair.run(*_OFF, twistd=twistd)
            self.assertEqual(status, 1, output)
            self.assertIn("emptycapped", output)
            after = self.pair.checkpoint()
            assert before is not None and after is not None
            self.assertEqual(after["ts"], before["ts"])
        self.assertEqual(self.pair.there["app"].list_collection_names(), ["weather"])

    def test_rename_across_the_edge(self) -> None:
        """A rename from what is selected to what is not stops it, half of it undone."""
        here, there = self.pair.here, self.pair.there
        here["app"]["users"].insert_one({"_id": 1})
        self.sync("--ns", "app.users")
        before = self.pair.checkpoint()
        here["app"]["users"].rename("elsewhere")
        for twistd in (False, True):
            status, output = self.pair.run(*_OFF, "--ns", "app.users", twistd=twistd)
            self.assertEqual(status, 1, output)
            self.assertIn("app.elsewhere", output)
        after = self.pair.checkpoint()
        assert before is not None and after is not None
        self.assertEqual(after["ts"], before["ts"])
        self.assertEqual(there["app"].list_collection_names(), ["users"])

    def test_rename_repeated_after_a_crash(self) -> None:
        """DDL that was executed before a crash, but not checked off, is found to be done."""
        here, there = self.pair.here, self.pair.there
        here["app"]["a"].insert_one({"_id": 1})
        self.sync()
        here["app"]["a"].rename("b")
        logged = here["local"]["oplog.rs"].find_one({"o.renameCollection": "app.a"})
        assert logged is not None
        there["app"]["a"].rename("b")
        there["txmongokit"]["mongosync"].update_one({}, {"$set": {"intent": logged["ts"]}})
        self.sync()
        self.assertEqual(list(differences(here, there)), [])

    def test_rename_of_what_is_missing(self) -> None:
        """Without such an intent, the same is a difference that stops it."""
        here, there = self.pair.here, self.pair.there
        here["app"]["a"].insert_one({"_id": 1})
        self.sync()
        here["app"]["a"].rename("b")
        there["app"]["a"].drop()
        status, output = self.pair.run(*_OFF)
        self.assertEqual(status, 1, output)
        self.assertIn("renameCollection", output)


_SYSTEM = {"admin", "config", "local"}


class FollowTests(SynchronousTestCase):
    """
    C{twistd -n mongosync -f}: it goes on, is killed, and is fenced.
    """

    def setUp(self) -> None:
        """Two replica sets of one member."""
        self.pair = Pair()
        self.addCleanup(self.pair.close)

    def has_reached(self, position: Any) -> bool:
        """Whether the destination's checkpoint is at a position or past it."""
        checkpoint = self.pair.checkpoint()
        return checkpoint is not None and checkpoint["ts"] >= position

    def test_follows_and_stops(self) -> None:
        """What is written later arrives soon, and SIGTERM ends it well."""
        process = self.pair.start(*_OFF, "-f", twistd=True)
        self.pair.here["app"]["users"].insert_one({"_id": 1})
        copy = self.pair.there["app"]["users"]
        wait_for(lambda: copy.find_one({"_id": 1}), "the first document")
        self.pair.here["app"]["users"].insert_one({"_id": 2})
        wait_for(lambda: copy.find_one({"_id": 2}), "the second document", 5)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        self.assertIn(process.returncode, (0, -signal.SIGTERM), output)

    def test_three_kills(self) -> None:
        """
        Killed three times at random, it loses nothing and applies nothing
        twice: the destination's own oplog shows each batch once.
        """
        draw = random.Random(11)
        load = Load(9000, seed=11)
        kills = sorted(draw.sample(range(1500, 8000), 3))
        self.process = self.pair.start(*_OFF, "-f", twistd=True)
        killed = []

        def pace() -> None:
            if kills and load.done >= kills[0]:
                kills.pop(0)
                time.sleep(draw.random() * 0.2)
                self.process.kill()
                killed.append(self.process.wait())
                self.process = self.pair.start(*_OFF, "-f", twistd=True)

        load.write(self.pair.here, pace)
        end = finish(self.pair.here)
        wait_for(lambda: self.has_reached(end), "the end of the load", 90)
        self.process.terminate()
        self.process.communicate(timeout=20)
        self.assertEqual(killed, [-signal.SIGKILL] * 3)
        self.assertEqual(list(differences(self.pair.here, self.pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(self.pair.there)), [])
        seqs = [seq for seq, _ in batches(self.pair.there)]
        self.assertEqual(seqs, sorted(set(seqs)))
        self.assertGreater(len(seqs), 4)

    def test_servers_killed(self) -> None:
        """Either server may be killed and come back: nothing is lost or doubled."""
        process = self.pair.start(*_OFF, "-f", twistd=True)
        load = Load(6000, seed=13)
        kills = [(3000, self.pair.source), (1500, self.pair.destination)]

        def pace() -> None:
            if kills and load.done >= kills[-1][0]:
                (member,) = kills.pop()[1].members
                member.kill()
                member.restart()

        load.write(self.pair.here, pace)
        end = finish(self.pair.here)
        wait_for(
            lambda: process.poll() is not None or self.has_reached(end), "the end of the load", 90
        )
        process.terminate()
        output, _ = process.communicate(timeout=20)
        self.assertIn(process.returncode, (0, -signal.SIGTERM), output)
        self.assertEqual(list(differences(self.pair.here, self.pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(self.pair.there)), [])

    def test_one_of_two_stops(self) -> None:
        """A second replicator on the same destination makes the first one stop."""
        first = self.pair.start(*_OFF, "-f")
        self.pair.here["app"]["users"].insert_one({"_id": 1})
        wait_for(lambda: self.pair.there["app"]["users"].find_one({"_id": 1}), "the first")
        second = self.pair.start(*_OFF, "-f")
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        wait_for(
            lambda: (self.pair.checkpoint() or {}).get("owner") != checkpoint["owner"],
            "the second taking over",
        )
        self.pair.here["app"]["users"].insert_one({"_id": 2})
        output, _ = first.communicate(timeout=30)
        self.assertEqual(first.returncode, 1, output)
        self.assertIn("another replicator", output)
        wait_for(lambda: self.pair.there["app"]["users"].find_one({"_id": 2}), "the second")
        self.assertIsNone(second.poll())
        self.assertEqual(list(checkpoint_gaps(self.pair.there)), [])


class ElectionTests(SynchronousTestCase):
    """
    Sets of three that change their primary.
    """

    def test_both_step_down(self) -> None:
        """Elections on both sides neither stop it nor cost or double an operation."""
        pair = Pair(replica_set(3, name="from"), replica_set(3, name="to"))
        self.addCleanup(pair.close)
        process = pair.start(*_OFF, "-f")
        load = Load(6000, seed=5)
        elections = [(4500, pair.destination), (2000, pair.source), (1000, pair.destination)]

        def pace() -> None:
            if elections and load.done >= elections[-1][0]:
                elections.pop()[1].step_down()

        load.write(pair.here, pace)
        end = finish(pair.here)
        wait_for(
            lambda: (
                process.poll() is not None
                or (pair.checkpoint() or {"ts": Timestamp(0, 0)})["ts"] >= end
            ),
            "the end of the load",
            90,
        )
        process.terminate()
        output, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0, output)
        self.assertEqual(list(differences(pair.here, pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(pair.there)), [])


class StandaloneTests(SynchronousTestCase):
    """
    A destination without transactions.
    """

    def setUp(self) -> None:
        """A replica set, and a server that is none."""
        self.pair = Pair(destination=standalone())
        self.addCleanup(self.pair.close)

    def run_load(self, *arguments: str) -> None:
        """Replicate a load, and compare."""
        Load(1500, seed=3).write(self.pair.here)
        status, output = self.pair.run(*_OFF, *arguments)
        self.assertEqual(status, 0, output)
        self.assertEqual(list(differences(self.pair.here, self.pair.there)), [])

    def test_apply_ops(self) -> None:
        """Batches and checkpoint land together by atomic applyOps."""
        self.run_load()
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        self.assertGreaterEqual(checkpoint["count"], 1500)

    def test_at_least_once(self) -> None:
        """On request, by ordinary writes."""
        self.run_load("--at-least-once")

    def test_fenced(self) -> None:
        """A checkpoint that moved under it stops it."""
        self.pair.here["app"]["users"].insert_one({"_id": 1})
        process = self.pair.start(*_OFF, "-f")
        wait_for(lambda: self.pair.there["app"]["users"].find_one({"_id": 1}), "the first")
        self.pair.there["txmongokit"]["mongosync"].update_one({}, {"$inc": {"seq": 1}})
        self.pair.here["app"]["users"].insert_one({"_id": 2})
        output, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("another replicator", output)
        self.assertIsNone(self.pair.there["app"]["users"].find_one({"_id": 2}))

    def test_missing_documents(self) -> None:
        """Updates of documents that predate the window are left out and counted."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 1, "n": 1})
        begin_here(self.pair)
        users.bulk_write([UpdateOne({"_id": 1}, {"$set": {"n": 2}}), InsertOne({"_id": 2})])
        status, output = self.pair.run()
        self.assertEqual(status, 0, output)
        self.assertEqual(list(self.pair.there["app"]["users"].find()), [{"_id": 2}])
        self.assertIn("missing 1", output)


class BadInputTests(SynchronousTestCase):
    """
    What is wrong ends with a sentence and a status, before anything is
    written.
    """

    def setUp(self) -> None:
        """Two replica sets, and something to replicate."""
        self.pair = Pair()
        self.addCleanup(self.pair.close)
        self.pair.here["app"]["users"].insert_one({"_id": 1})

    def assert_refused(self, *arguments: str, saying: str, there: Any = None) -> None:
        """Both commands refuse, and have written nothing."""
        for twistd in (False, True):
            status, output = self.pair.run(*arguments, twistd=twistd)
            self.assertNotEqual(status, 0, output)
            self.assertIn(saying, output)
            self.assertNotIn("Traceback", output)
        client = self.pair.there if there is None else there
        left = [name for name in client.list_database_names() if name not in _SYSTEM]
        self.assertEqual(left, [])

    def test_wrong_uri(self) -> None:
        """A URI that cannot be read."""
        self.assert_refused("--from", "mongodb://", saying="mongodb://")
        self.assert_refused("--from", "mongodb://host/?tlss=true", saying="tlss")

    def test_no_server(self) -> None:
        """Nobody listens there."""
        self.assert_refused(
            "--from",
            "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=700",
            saying="127.0.0.1:1",
        )

    def test_standalone_source(self) -> None:
        """A standalone server has no oplog."""
        with standalone() as alone:
            self.assert_refused("--from", alone.uri, saying="--replSet")

    def test_shard(self) -> None:
        """One shard of a cluster is no source and no destination."""
        with replica_set(name="shard", arguments=("--shardsvr",)) as shard:
            self.assert_refused("--from", shard.uri, saying="is a shard")
            self.assert_refused("--to", shard.uri, saying="only its mongos")

    def test_older_destination(self) -> None:
        """A destination that is not allowed what the source is does not know all it writes."""
        version = self.pair.here.server_info()["versionArray"]
        before = {4: "4.2", 5: "4.4", 6: "5.0"}[version[0]]
        self.pair.there["admin"].command("setFeatureCompatibilityVersion", before)
        self.assert_refused(saying=f"featureCompatibilityVersion {before}")

    def test_same_deployment(self) -> None:
        """Source and destination are the same."""
        self.assert_refused("--to", self.pair.source.uri, saying="--rename", there=self.pair.there)
        self.assertNotIn("txmongokit", self.pair.here.list_database_names())

    def test_same_deployment_renamed(self) -> None:
        """They may be, if everything is renamed."""
        status, output = self.pair.run(
            "--to", self.pair.source.uri, "--ns", "app", "--rename", "app=copy", *_OFF
        )
        self.assertEqual(status, 0, output)
        self.assertEqual(self.pair.here["copy"]["users"].find_one(), {"_id": 1})

    def test_unreadable_resume_file(self) -> None:
        """A resume file that is none."""
        (self.pair.folder / "mongooplog.ts").write_text("not a position")
        self.assert_refused(saying="mongooplog.ts")

    def test_resume_point_older_than_the_oplog(self) -> None:
        """What was to be resumed after is gone."""
        (self.pair.folder / "mongooplog.ts").write_text('{"ts": {"time": 1000000000, "inc": 1}}')
        self.assert_refused(saying="oplog")

    def test_explicit_start_older_than_the_oplog(self) -> None:
        """An explicit window that the oplog does not reach."""
        self.assert_refused("--window", "3 days", saying="oplog")

    def test_unknown_option(self) -> None:
        """An option that does not exist."""
        self.assert_refused("--fromm", "x", saying="--fromm")

    def test_window_beside_a_checkpoint(self) -> None:
        """An explicit window contradicts the checkpoint, unless it is forced."""
        began = time.monotonic()
        self.assertEqual(self.pair.run(*_OFF)[0], 0)
        status, output = self.pair.run(*_OFF, "-s", "6")
        self.assertEqual(status, 1, output)
        self.assertIn("--force-start", output)
        self.pair.here["app"]["users"].insert_one({"_id": 2})
        # Within the oplog, and before the insert: it starts sooner than it started twice.
        seconds = f"{time.monotonic() - began:.1f}"
        status, output = self.pair.run(*_OFF, "-s", seconds, "--force-start")
        self.assertEqual(status, 0, output)
        self.assertIsNotNone(self.pair.there["app"]["users"].find_one({"_id": 2}))


def traffic(member: Member) -> tuple[int, int]:
    """The bytes that a server has sent in zlib's format, and those that have come to it so."""
    with member.client() as client:
        packed = client["admin"].command("serverStatus")["network"]["compression"]["zlib"]
    return packed["compressor"]["bytesIn"], packed["decompressor"]["bytesOut"]


class TransportTests(SynchronousTestCase):
    """
    Other ways to the servers.
    """

    def test_encrypted_compressed_from_a_secondary(self) -> None:
        """Over TLS, compressed, read from a secondary: a copy, and what comes after it."""
        pair = Pair(replica_set(2, name="from", tls=True), replica_set(name="to", tls=True))
        self.addCleanup(pair.close)
        more = "&compressors=zlib&readPreference=secondary"
        ends = ("--from", pair.source.uri + more, "--to", pair.destination.uri + more)
        Load(500, seed=6).write(pair.here)
        primary = pair.source.primary()
        (secondary,) = [each for each in pair.source.members if each is not primary]
        before, _ = traffic(secondary)
        status, output = pair.run(*_OFF, *ends, "--clone")
        self.assertEqual(status, 0, output)

        def body(session: ClientSession) -> None:
            for number in range(18):
                large.insert_one({"_id": number, "text": "x" * 1_000_000}, session=session)

        large = pair.here["app"]["large"]
        large.insert_one({"_id": -1})
        process = pair.start(*_OFF, *ends, "-f")
        with pair.here.start_session() as session:
            session.with_transaction(body)
        copy = pair.there["app"]["large"]
        wait_for(lambda: copy.count_documents({}) == 19, "the transaction")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0, output)
        self.assertEqual(list(differences(pair.here, pair.there)), [])
        # All of it has come this way; the servers take nothing that is not encrypted.
        sent, _ = traffic(secondary)
        self.assertGreater(sent - before, 18_000_000)
        _, received = traffic(pair.destination.primary())
        self.assertGreater(received, 18_000_000)


class AuthenticationTests(SynchronousTestCase):
    """
    Servers with authentication.
    """

    def test_least_privileges(self) -> None:
        """The privileges that the documentation names are enough."""
        pair = Pair(
            replica_set(name="from", auth=Credentials()), replica_set(name="to", auth=Credentials())
        )
        self.addCleanup(pair.close)
        everywhere = ["readWriteAnyDatabase", "dbAdminAnyDatabase"]
        for client, roles in (
            (pair.here, [{"role": "read", "db": "local"}]),
            (pair.there, [{"role": role, "db": "admin"} for role in everywhere]),
        ):
            client["admin"].command("createUser", "sync", pwd="pw", roles=roles)
        Load(1000, seed=4).write(pair.here)
        status, output = pair.run(
            *_OFF,
            *("--from", pair.source.uri.replace("root:secret@", "sync:pw@")),
            *("--to", pair.destination.uri.replace("root:secret@", "sync:pw@")),
        )
        self.assertEqual(status, 0, output)
        self.assertEqual(list(differences(pair.here, pair.there)), [])
        # Another user, who may read more of the source, goes on where this one stopped.
        pair.here["app"]["more"].insert_one({"_id": 1})
        status, output = pair.run(*_OFF)
        self.assertEqual(status, 0, output)
        self.assertEqual(pair.there["txmongokit"]["mongosync"].count_documents({}), 1)

    def test_another_source_of_the_same_name(self) -> None:
        """A checkpoint of another set is not taken for this one's."""
        pair = Pair()
        self.addCleanup(pair.close)
        pair.here["app"]["users"].insert_one({"_id": 1})
        self.assertEqual(pair.run(*_OFF)[0], 0)
        with replica_set(name="from") as other:
            status, output = pair.run(*_OFF, "--from", other.uri)
        self.assertEqual(status, 1, output)
        self.assertIn("another replica set", output)

    def test_wrong_password(self) -> None:
        """A refused log-in is named, the password is not."""
        pair = Pair(destination=replica_set(auth=Credentials()))
        self.addCleanup(pair.close)
        pair.here["app"]["users"].insert_one({"_id": 1})
        wrong = pair.destination.uri.replace(":secret@", ":wr0ngpass@")
        self.assertNotEqual(wrong, pair.destination.uri)
        for twistd in (False, True):
            status, output = pair.run(*_OFF, "--to", wrong, twistd=twistd)
            self.assertEqual(status, 1, output)
            self.assertIn("could not log in", output)
            self.assertNotIn("wr0ngpass", output)
        self.assertNotIn("txmongokit", pair.there.list_database_names())
        status, output = pair.run(*_OFF)
        self.assertEqual(status, 0, output)
        self.assertEqual(pair.there["app"]["users"].find_one(), {"_id": 1})
