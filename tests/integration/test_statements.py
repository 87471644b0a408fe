"""
Statements against a real server: what they write is what the source has,
byte for byte.
"""

from __future__ import annotations

import datetime
import random
from typing import Any

import bson
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.batch import Batch
from txmongokit.replicator.entries import OplogEntry, parse_entry
from txmongokit.replicator.statements import Dialect, Operation
from txmongokit.testing import Deployment, replica_set

NAMES = ["a", "b", "A", "0", "1", "u", "s", "d", "i", "sa", "l", "z" * 30]


def value(chance: random.Random, depth: int = 0) -> Any:
    """
    A random value, often nested and large enough for the server to log diffs.
    """
    pick = chance.randrange(12 if depth < 3 else 8)
    if pick < 8:
        return [
            chance.randrange(100),
            Int64(chance.randrange(100)),
            chance.random(),
            "$" + "x" * chance.randrange(30),
            None,
            Decimal128("1.50"),
            datetime.datetime(2026, 1, chance.randrange(1, 28), tzinfo=datetime.UTC),
            b"bytes",
        ][pick]
    if pick < 10:
        return [value(chance, depth + 1) for _ in range(chance.randrange(6))]
    return {name: value(chance, depth + 1) for name in chance.sample(NAMES, chance.randrange(6))}


def change(chance: random.Random, old: Any, depth: int = 0) -> Any:
    """
    A value that differs from the old one in few places, at any depth.
    """
    if isinstance(old, dict) and depth < 5:
        new = dict(old)
        for _ in range(chance.randrange(1, 3)):
            name = chance.choice([*new, *NAMES])
            pick = chance.randrange(4)
            if name == "_id":
                continue
            if pick == 0:
                new.pop(name, None)
            elif pick == 1 and name in new:
                new[name] = new.pop(name)
            elif name in new:
                new[name] = change(chance, new[name], depth + 1)
            else:
                new[name] = value(chance, depth + 1)
        return new
    if isinstance(old, list) and depth < 5:
        items = list(old)
        pick = chance.randrange(4)
        if pick == 0:
            del items[chance.randrange(len(items) + 1) :]
        elif pick == 1:
            items += [value(chance, depth + 1) for _ in range(chance.randrange(3))]
        for at in range(len(items)):
            if chance.random() < 0.3:
                items[at] = change(chance, items[at], depth + 1)
        return items
    return value(chance, depth)


class EqualityTests(SynchronousTestCase):
    """
    Replaying a source's oplog into another database gives equal documents.
    """

    deployment: Deployment
    client: MongoClient[dict[str, Any]]

    def setUp(self) -> None:
        """
        Start a set of one member.
        """
        self.deployment = replica_set(members=1)
        self.addCleanup(self.deployment.close)
        self.client = MongoClient(self.deployment.uri)
        self.addCleanup(self.client.close)

    def workload(self, seed: int, rounds: int) -> list[OplogEntry]:
        """
        Write to the source, and read what its oplog has of it.
        """
        chance = random.Random(seed)
        source = self.client["source"]["c"]
        source.drop()
        oplog: Any = self.client["local"].get_collection(
            "oplog.rs", bson.CodecOptions(document_class=RawBSONDocument)
        )
        (newest,) = oplog.find({}, {"ts": 1}).sort("$natural", -1).limit(1)
        documents = {}
        for number in range(20):
            documents[number] = {"_id": number, "pad": "p" * 400} | {
                name: value(chance) for name in NAMES
            }
            source.insert_one(documents[number])
        for _ in range(rounds):
            number = chance.randrange(20)
            new = change(chance, documents[number])
            pick = chance.randrange(20)
            if pick == 0:
                source.delete_one({"_id": number})
                source.insert_one(new)
            elif pick == 1:
                source.replace_one({"_id": number}, new)
            else:
                source.update_one({"_id": number}, [{"$replaceWith": {"$literal": new}}])
            documents[number] = new
        source.update_one({"_id": 0}, {"$set": {"b": [1, 2], "n.m": {"k": 1}}, "$unset": {"a": 1}})
        source.update_one({"_id": 0}, {"$push": {"b": 3}, "$inc": {"n.m.k": 1}})
        source.update_one({"_id": 0}, {"$set": {"b.7": "far"}})
        # Names that an ordinary path cannot reach.
        awkward = {"": 1, "$b": {"$c": 1, "d.e": 1, "keep": 1}, "f.g": {"h": [1, 2, {"$i": 1}]}}
        # Before 5.0 none of these can be written.
        for _ in range(30 if self.dialects()[0].dollar_names else 0):
            source.update_one(
                {"_id": 1}, [{"$set": {"awkward": {"$literal": awkward | {"pad": "q" * 300}}}}]
            )
            awkward["$b"]["d.e"] = chance.random()  # type: ignore[index]
            awkward["f.g"]["h"][2]["$i"] = chance.random()  # type: ignore[index]
            awkward[chance.choice(["", "x.y", "$z"])] = chance.random()
            awkward.pop(chance.choice(["x.y", "$z", "none"]), None)
        found = oplog.find({"ts": {"$gt": newest["ts"]}, "ns": "source.c", "op": {"$in": [*"iud"]}})
        return [parse_entry(each.raw) for each in found]

    def replay(
        self, entries: list[OplogEntry], dialect: Dialect, strict: bool, **options: Any
    ) -> None:
        """
        Apply entries in batches, and compare with the source.
        """
        database = self.client["destination"]
        database["c"].drop()
        database.create_collection("c", **options)
        for start in range(0, len(entries), 40):
            batch = Batch()
            for entry in entries[start : start + 40]:
                batch.add(Operation.from_entry(entry, "destination.c", dialect))
            for group in batch.groups(lambda namespace: strict):
                statements = [RawBSONDocument(each) for each in group.statements]
                field = "updates" if group.kind == "update" else "deletes"
                reply = database.command({group.kind: "c", field: statements})
                self.assertNotIn("writeErrors", reply)
                if group.kind == "update":
                    self.assertEqual(reply["n"], len(statements))
        raw: Any = bson.CodecOptions(document_class=RawBSONDocument)
        client: MongoClient[Any] = self.client
        one, other = (
            {each["_id"]: each.raw for each in client[name].get_collection("c", raw).find()}
            for name in ("source", "destination")
        )
        self.assertEqual(len(one), 20)
        for key in one:
            self.assertEqual(one[key], other.get(key), f"_id {key}")

    def dialects(self) -> list[Dialect]:
        """
        The dialects that the server understands.
        """
        version = tuple(self.client.server_info()["versionArray"])
        dialects = [Dialect(False, version >= (5, 0))]
        if version >= (6, 0):
            dialects.append(Dialect(True, True))
        return dialects

    def test_equal(self) -> None:
        """
        Random changes arrive equal in every dialect, regrouped or strict.
        """
        for seed in (1, 2, 3):
            entries = self.workload(seed, 400)
            diffs = sum(b"\x03diff\0" in each.o[:30] for each in entries)
            if self.client.server_info()["versionArray"][0] >= 5:
                self.assertGreater(diffs, 100)
            for dialect in self.dialects():
                self.replay(entries, dialect, strict=seed == 3)

    def test_collation(self) -> None:
        """
        Names are told apart by their bytes, whatever the collection's collation.
        """
        entries = self.workload(4, 300)
        self.replay(entries, self.dialects()[0], False, collation={"locale": "en", "strength": 1})

    def test_other_shape(self) -> None:
        """
        A diff for a value of another shape leaves null, and raises nothing.
        """
        entries = [
            each for each in self.workload(5, 200) if each.op == "u" and b"diff\0" in each.o[:30]
        ]
        target = self.client["destination"]["c"]
        for entry in entries:
            for shape in (7, [1], {"q": 1}):
                target.drop()
                made = Operation.from_entry(entry, "destination.c", self.dialects()[0])
                identifier = bson.decode(entry.o2 or b"")["_id"]
                target.insert_one({"_id": identifier} | dict.fromkeys(NAMES, shape))
                reply = self.client["destination"].command(
                    {"update": "c", "updates": [RawBSONDocument(made.statement)]}
                )
                self.assertNotIn("writeErrors", reply)
        # Before 5.0 no oplog has diffs.
        if self.dialects()[0].dollar_names:
            self.assertGreater(len(entries), 50)

    def test_dollar_name_first(self) -> None:
        """
        A document whose first name begins with a dollar sign arrives as it is.
        """
        if not self.dialects()[0].dollar_names:
            raise self.skipTest("the server refuses such names")
        target = self.client["destination"]["c"]
        target.drop()
        entry = OplogEntry()
        entry.op, entry.o, entry.ns, entry.o2, entry.ts = (
            "i",
            bson.encode({"$x": 1, "_id": 5}),
            "source.c",
            None,
            0,
        )
        made = Operation.from_entry(entry, "destination.c", Dialect())
        try:
            self.client["destination"].command(
                {"update": "c", "updates": [RawBSONDocument(made.statement)]}
            )
        except OperationFailure as error:
            self.fail(str(error.code))
        self.assertEqual(target.find_one(), {"_id": 5, "$x": 1})
