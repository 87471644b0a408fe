"""
Verification between two real replica sets: every kind of difference is
reported, and what is only on its way is none.
"""

from __future__ import annotations

import atexit
import datetime
import time
from functools import cache
from pathlib import Path
from typing import Any

from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.load import Load, finish, user_databases
from tests.replicas import Client, Pair, wait_for

_OFF = ("--resume-file", "none")
_MOMENT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_IDS: list[Any] = [
    *(1, 2.5, Int64(2**40), Decimal128("7.5"), float("nan"), -0.0, "a", "Z", "b", None, True),
    *(
        {"b": 1, "a": 2},
        ObjectId(),
        b"bytes",
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        MinKey(),
        MaxKey(),
    ),
]


@cache
def shared_pair() -> Pair:
    """Two sets for all the tests that need no replication between them."""
    pair = Pair()
    atexit.register(pair.close)
    return pair


def verify(pair: Pair, *arguments: str) -> tuple[int, str]:
    """Run the command; its exit status and what it printed."""
    process = pair.start("-l", "warn", *arguments, subcommand=("verify",))
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


class DifferenceTests(SynchronousTestCase):
    """
    Differences that were planted into two equal deployments.
    """

    def setUp(self) -> None:
        """Two replica sets that are equal, without a replication between them."""
        self.pair = shared_pair()
        for client in (self.pair.here, self.pair.there):
            for name in user_databases(client):
                client.drop_database(name)
            self.fill(client)

    def fill(self, client: Client) -> None:
        """The same on both sides."""
        users = client["app"]["users"]
        users.insert_many([{"_id": number, "n": number, "text": "x"} for number in range(3000)])
        users.create_index([("n", 1), ("text", -1)], unique=True)
        client["app"]["kinds"].insert_many([{"_id": each} for each in _IDS])
        client["app"].create_collection("log", capped=True, size=1_000_000)
        client["app"]["log"].insert_many([{"_id": number} for number in range(500)])
        client["app"].create_collection("seen", viewOn="users", pipeline=[{"$match": {"n": 1}}])
        client["app"].create_collection(
            "words", collation={"locale": "de", "strength": 2}, validator={"n": {"$type": "int"}}
        ).insert_many([{"_id": word, "n": 1} for word in ("alpha", "Beta", "gamma")])
        client["app"].create_collection(
            "clustered", clusteredIndex={"key": {"_id": 1}, "unique": True}
        ).insert_many([{"_id": each} for each in _IDS])
        client["app"].create_collection("series", timeseries={"timeField": "at"})

    def verify(self, *arguments: str) -> tuple[int, str]:
        """Run the command."""
        return verify(self.pair, *arguments)

    def assert_found(self, *sentences: str) -> None:
        """Just these are reported."""
        status, output = self.verify()
        for sentence in sentences:
            self.assertIn(sentence, output)
        self.assertEqual(status, 1, output)
        self.assertEqual(len(output.splitlines()), len(sentences) + 1, output)

    def test_equal(self) -> None:
        """Equal deployments are equal, and the report says what was compared."""
        status, output = self.verify()
        self.assertEqual(status, 0, output)
        self.assertIn("3537 documents", output)
        self.assertIn("equal", output)

    def test_single_byte(self) -> None:
        """One byte of one document is found; the document is not shown."""
        self.pair.there["app"]["users"].update_one({"_id": 1234}, {"$set": {"text": "y"}})
        self.assert_found('app.users: the document with _id {"$numberInt": "1234"} is different')

    def test_missing(self) -> None:
        """A document that is missing, also one with the least or the greatest _id."""
        for number in (0, 2000, 2999):
            self.pair.there["app"]["users"].delete_one({"_id": number})
        for name in ("kinds", "clustered"):
            self.pair.there["app"][name].delete_one({"_id": MaxKey()})
            self.pair.there["app"][name].delete_one({"_id": MinKey()})
        self.assert_found(
            *(
                f'app.users: the document with _id {{"$numberInt": "{number}"}} is missing'
                for number in (0, 2000, 2999)
            ),
            *(
                f'app.{name}: the document with _id {{"${key}": 1}} is missing'
                for name in ("kinds", "clustered")
                for key in ("maxKey", "minKey")
            ),
        )

    def test_extra(self) -> None:
        """A document too many, before, among and behind the others."""
        there = self.pair.there["app"]
        there["users"].insert_many([{"_id": -1}, {"_id": 1.5, "n": "x"}, {"_id": "z", "n": 2.5}])
        self.assert_found(
            'the destination has a document with _id {"$numberInt": "-1"}',
            'the destination has a document with _id {"$numberDouble": "1.5"}',
            'the destination has a document with _id "z"',
        )

    def test_type_of_the_id(self) -> None:
        """The same number of another type is another document, though not a second one."""
        users = self.pair.there["app"]["users"]
        users.delete_one({"_id": 5})
        users.insert_one({"_id": 5.0, "n": 5, "text": "x"})
        self.assert_found('the document with _id {"$numberDouble": "5.0"} is different')

    def test_order_of_fields(self) -> None:
        """Fields in another order are a difference."""
        self.pair.there["app"]["users"].replace_one({"_id": 7}, {"text": "x", "n": 7})
        self.assert_found('the document with _id {"$numberInt": "7"} is different')

    def test_case_of_the_id(self) -> None:
        """A collation does not hide another spelling of an _id."""
        words = self.pair.there["app"]["words"]
        words.delete_one({"_id": "Beta"})
        words.insert_one({"_id": "beta", "n": 1})
        self.assert_found('with _id "Beta" is missing', 'a document with _id "beta"')

    def test_indexes(self) -> None:
        """A missing index, one too many, and another option."""
        there = self.pair.there["app"]
        there["users"].drop_index("n_1_text_-1")
        there["users"].create_index([("n", 1), ("text", -1)])
        there["kinds"].create_index("x", expireAfterSeconds=10)
        self.pair.here["app"]["words"].create_index("n", sparse=True)
        self.assert_found(
            "app.users: the index 'n_1_text_-1' has another 'unique'",
            "app.kinds: the destination has an index 'x_1'",
            "app.words: the index 'n_1' is missing",
        )

    def test_options(self) -> None:
        """Collections and views with other options, missing ones, and ones too many."""
        there = self.pair.there["app"]
        there.command("collMod", "words", validator={"n": {"$type": "long"}})
        there.command("collMod", "seen", viewOn="kinds", pipeline=[])
        there.drop_collection("log")
        there.create_collection("more")
        self.assert_found(
            "app.words: the option 'validator'",
            "app.words: the option 'validationAction'",
            "app.words: the option 'validationLevel'",
            "app.seen: the option 'viewOn'",
            "app.seen: the option 'pipeline'",
            "app.log: the collection is missing",
            "app.more: the destination has a collection",
        )

    def test_order_of_a_capped_collection(self) -> None:
        """A capped collection with the same documents in another order."""
        there = self.pair.there["app"]
        there.drop_collection("log")
        there.create_collection("log", capped=True, size=1_000_000)
        there["log"].insert_many([{"_id": number} for number in reversed(range(500))])
        self.assert_found("app.log: 499 documents stand in another order")

    def test_capped_documents(self) -> None:
        """Missing and different documents of a capped collection."""
        self.pair.here["app"]["log"].insert_one({"_id": "late"})
        self.pair.there["app"]["log"].insert_one({"_id": "other"})
        self.assert_found('with _id "late" is missing', 'a document with _id "other"')

    def test_time_series(self) -> None:
        """The buckets of a time series are compared, too."""
        self.pair.here["app"]["series"].insert_one({"at": _MOMENT, "n": 1})
        self.assert_found("app.system.buckets.series: the document with _id")

    def test_memory(self) -> None:
        """Large documents are in memory one after the other."""
        large = b"x" * 15_000_000
        for client in (self.pair.here, self.pair.there):
            for number in range(14):
                client["app"]["large"].insert_one({"_id": number, "data": large})
        process = self.pair.start("-l", "warn", subcommand=("verify",))
        status, most = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            lines = status.read_text(encoding="ascii").splitlines()
            most = max([most, *(int(line.split()[1]) for line in lines if "VmHWM" in line)])
            time.sleep(0.02)  # Memory can only be sampled while it runs.
        output, _ = process.communicate()
        self.assertEqual(process.returncode, 0, output)
        self.assertGreater(most, 15 * 1024)
        self.assertLess(most, 200 * 1024)

    def test_many(self) -> None:
        """A hundred are named, all are counted."""
        self.pair.there["app"]["users"].delete_many({"_id": {"$lt": 1500}})
        status, output = self.verify()
        self.assertEqual(status, 1)
        self.assertEqual(len(output.splitlines()), 102, output)
        self.assertIn("and 1400 more", output)
        self.assertIn("1500 documents missing", output)

    def test_selected_and_renamed(self) -> None:
        """Only what is selected is compared, under its new name."""
        for each in self.pair.here["app"]["users"].find():
            self.pair.there["copy"]["people"].insert_one(each)
        self.pair.there["copy"]["people"].create_index([("n", 1), ("text", -1)], unique=True)
        self.pair.there["copy"]["other"].insert_one({"_id": 1})
        self.pair.there["app"]["kinds"].drop()
        only = ("--ns", "app.users", "--rename", "app.users=copy.people")
        status, output = self.verify(*only)
        self.assertEqual(status, 0, output)
        self.pair.there["copy"]["people"].delete_one({"_id": 3})
        status, output = self.verify(*only)
        self.assertEqual(status, 1, output)
        self.assertIn("copy.people: the document with _id", output)

    def test_wrong_arguments(self) -> None:
        """Options that do not belong to it, or make no sense."""
        for arguments in (("--follow",), ("--generations", "1"), ("--settle", "soon")):
            status, output = self.verify(*arguments)
            self.assertEqual(status, 2, output)
            self.assertIn(arguments[0], output)

    def test_no_server(self) -> None:
        """A destination that is not there is named."""
        status, output = self.verify("--to", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=500")
        self.assertEqual(status, 1, output)
        self.assertIn("127.0.0.1:1", output)
        self.assertNotIn("Traceback", output)


class MovingTests(SynchronousTestCase):
    """
    Verification while both sides move.
    """

    def test_under_load(self) -> None:
        """What is only on its way is no difference; what was planted is one."""
        pair = Pair()
        self.addCleanup(pair.close)
        process = pair.start(*_OFF, "-f")
        checking: list[Any] = []
        load = Load(6000, seed=11)

        def pace() -> None:
            if load.done >= 2000 and not checking:
                checking.append(pair.start("-l", "warn", subcommand=("verify",)))

        load.write(pair.here, pace)
        end = finish(pair.here)
        output, _ = checking[0].communicate(timeout=90)
        self.assertEqual(checking[0].returncode, 0, output)
        wait_for(lambda: (pair.checkpoint() or {})["ts"] >= end, "the end of the load")
        self.assertEqual(verify(pair)[0], 0)
        pair.there["app"]["finished"].delete_many({})
        status, output = verify(pair)
        self.assertEqual(status, 1, output)
        self.assertIn("app.finished: the document with _id", output)
        process.terminate()
        process.communicate(timeout=20)

    def test_replication_that_stands_still(self) -> None:
        """Where the replication does not go on, the report says so."""
        pair = Pair()
        self.addCleanup(pair.close)
        pair.here["app"]["users"].insert_one({"_id": 1})
        self.assertEqual(pair.run(*_OFF)[0], 0)
        pair.here["app"]["users"].insert_one({"_id": 2})
        status, output = verify(pair, "--settle", "1")
        self.assertEqual(status, 1, output)
        self.assertIn('with _id {"$numberInt": "2"} is missing', output)
        self.assertIn("has not come as far as the source", output)
