"""
A history with every kind of entry that a server's oplog can have, written
with PyMongo, and what tells afterwards that each of them is there.

Every kind is a method of L{History}.  They are independent of one another and
written in an order drawn from the seed, so that each meets the others.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import DatetimeConversion
from bson.son import SON
from pymongo import DeleteOne, IndexModel, InsertOne, MongoClient, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from benchmarks.load import described_index

__all__ = ["History", "catalog_differences", "kinds_of", "wanted_kinds"]

Client: TypeAlias = MongoClient[dict[str, Any]]
Version: TypeAlias = tuple[int, ...]

_NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
_MAJORITY = WriteConcern("majority")


class History:
    """
    What one server is told to do.

    @param client: of the source.
    @param seed: the same seed writes the same history.
    @ivar version: of the server.
    """

    def __init__(self, client: Client, seed: int = 1) -> None:
        self.client = client
        self.version: Version = tuple(client.server_info()["versionArray"])
        self.random = random.Random(seed)

    def write(self, *names: str) -> None:
        """
        Write all of it, or the named parts alone.
        """
        chosen = list(names or self.parts())
        self.random.shuffle(chosen)
        for name in chosen:
            getattr(self, f"write_{name}")()

    def parts(self) -> list[str]:
        """
        The parts that this server's version can write.
        """
        found = [name[6:] for name in vars(History) if name.startswith("write_")]
        needs = {"time_series": (5,), "dollar_names": (5,), "clustered": (5, 3), "images": (6,)}
        return [name for name in found if self.version >= needs.get(name, ())]

    def _in_transaction(self, body: Callable[[ClientSession], Any]) -> None:
        with self.client.start_session() as session:
            session.with_transaction(body)

    # Documents.

    def write_documents(self) -> None:
        """Inserts of every BSON type, also as C{_id}; deletes."""
        things = self.client["docs"]["things"]
        values: list[Any] = [
            1.5,
            float("nan"),
            float("inf"),
            -0.0,
            "text",
            "",
            {"a": {"b": 1}, "": 2},
            {},
            b"bytes",
            Binary(uuid.UUID(int=7).bytes, 4),
            ObjectId("0123456789abcdef01234567"),
            True,
            _NOW,
            None,
            Code("return 1"),
            Code("return x", {"x": 1}),
            7,
            Timestamp(5, 6),
            Int64(1 << 60),
            Decimal128("1.10"),
            Decimal128("1E+30"),
            MinKey(),
            MaxKey(),
            DBRef("other", 1),
        ]
        things.insert_many([{"_id": value, "v": value} for value in values])
        things.insert_many(
            {"_id": f"more{number}", "v": [value, [value]], "r": Regex("^a", "i")}
            for number, value in enumerate(values)
        )
        for value in self.random.sample(values, 12):
            things.update_one({"_id": {"$eq": value}}, {"$set": {"seen": value, "v2": 1}})
        for value in self.random.sample(values, 6):
            things.delete_one({"_id": {"$eq": value}})
        things.delete_many({"_id": {"$gte": "more20", "$lt": "more24"}})
        things.insert_one({"_id": "largest", "v": "x" * (16 * 1024 * 1024 - 40)})
        things.delete_one({"_id": "largest"})
        things.insert_one({"v": "last", "_id": "not first in what is sent"})
        # A server stamps these where they are inserted, and not where they are made otherwise.
        never = {"at": Timestamp(0, 0), "in": {"it": Timestamp(0, 0)}}
        things.insert_one({"_id": "stamped", **never})
        things.update_one({"_id": "not stamped"}, {"$set": never}, upsert=True)
        things.update_one({"_id": "stamped"}, {"$set": {"later": Timestamp(0, 0)}})
        replacement = {"$replaceWith": {"$literal": {"_id": "replaced", **never}}}
        things.insert_one({"_id": "replaced"})
        things.update_one({"_id": "replaced"}, [replacement])

    def write_updates(self) -> None:
        """Updates that a server logs in different ways."""
        things = self.client["docs"]["updated"]
        for number in range(12):
            things.insert_one(
                {
                    "_id": number,
                    "z": 1,
                    "n": {"x": {"y": {"list": [1, 2, {"k": 1, "rest": "x" * 40}, 4, 5]}}},
                    "tags": ["a", "b", "c", "d"],
                    "rows": [{"k": row, "v": [row] * 3, "t": "y" * 30} for row in range(4)],
                    "0": {"0": "zero", "1": "one", "pad": "p" * 60},
                    "pad": "x" * 200,
                }
            )
        changes: list[Any] = [
            {"$inc": {"n.count": 2, "z": 1}},
            {"$set": {"b": 1, "a": 2, "n.x.y.new": 3}},
            {"$set": {"n.x.y.list.2.k": 9, "rows.1.v.2": 7, "rows.3.t": "t"}},
            {"$unset": {"n.x.y.list": "", "z": ""}},
            {"$push": {"tags": {"$each": ["e"], "$slice": -3}}},
            {"$push": {"rows": {"$each": [{"k": -1}], "$position": 0, "$slice": 3}}},
            {"$pull": {"tags": "b"}},
            {"$pop": {"tags": 1, "rows": -1}},
            {"$rename": {"pad": "renamed"}},
            {"$set": {"0.0": "changed", "0.2": "two"}},
            {"$set": {"rows.6": "beyond the end"}},
            {"$addToSet": {"tags": "z"}, "$mul": {"z": 3}, "$currentDate": {"now": True}},
            {"$set": {"z": {"z": 1}}, "$unset": {"n": ""}},
            [{"$set": {"both": {"$concat": ["$pad", "!"]}, "a0": 1}}, {"$unset": ["tags"]}],
            [{"$set": {"rows": {"$slice": ["$rows", 2]}, "n.x.y.list": [1]}}],
            [{"$replaceWith": {"$mergeObjects": [{"first": 1}, "$$ROOT", {"last": 1}]}}],
            [{"$set": {"n": {"x": {"y": {"list": [1, 2, {"k": 2, "rest": "x" * 40}]}}}}}],
        ]
        for _ in range(3):
            for change in self.random.sample(changes, len(changes)):
                number = self.random.randrange(12)
                try:
                    things.update_one({"_id": number}, change)
                except OperationFailure:
                    # An array that an earlier change made something else.
                    continue
        things.replace_one({"_id": 3}, {"b": 1, "a": 2})
        things.replace_one({"_id": 100}, {"c": 1}, upsert=True)
        things.update_one({"_id": 101}, {"$set": {"x.y": 1}}, upsert=True)
        things.insert_one({"_id": 102, "a": 1})
        things.update_one({"_id": 102}, {"$set": {"a": 2}})
        things.update_many({"_id": {"$lt": 9}}, {"$set": {"many": 1}})
        things.bulk_write(
            [
                InsertOne({"_id": 200}),
                UpdateOne({"_id": 200}, {"$set": {"x": 1}}),
                DeleteOne({"_id": 200}),
            ]
        )

    def write_dollar_names(self) -> None:
        """Names with dots, dollars and nothing in them."""
        things = self.client["docs"]["names"]
        pad = "x" * 100
        for number in range(4):
            things.insert_one({"_id": number, "a.b": {"c.d": 1, "$e": 2, "p": pad}, "pad": pad})
        things.insert_one({"$first": 1, "_id": 10, "pad": pad})
        for field, value in (("a.b", {"c.d": 2, "$e": 2, "p": pad}), ("$new", 1), ("", "none")):
            things.update_many(
                {}, [{"$replaceWith": {"$setField": _set_field(field, {"$literal": value})}}]
            )
        things.update_one({"_id": 1}, [{"$replaceWith": {"$unsetField": _unset_field("a.b")}}])
        # PyMongo itself would refuse it.
        replacement = {"$x": 1, "y.z": {"$w": [{"$v": 1}]}}
        things.update_one({"_id": 2}, [{"$replaceWith": {"$literal": {"_id": 2, **replacement}}}])

    def write_retried(self) -> None:
        """findAndModify as a retryable write; a no-op by hand."""
        things = self.client["docs"]["retried"]
        things.insert_many([{"_id": number, "n": 0} for number in range(5)])
        things.find_one_and_update({"_id": 1}, {"$inc": {"n": 1}})
        things.find_one_and_update({"_id": 2}, {"$inc": {"n": 1}}, return_document=True)
        things.find_one_and_replace({"_id": 3}, {"n": 5})
        things.find_one_and_delete({"_id": 4})
        self.client["admin"].command("appendOplogNote", 1, data={"said": "something"})

    def write_functions(self) -> None:
        """Functions that are stored in the server."""
        functions = self.client["docs"]["system.js"]
        functions.insert_many([{"_id": "one", "value": Code("x => x")}, {"_id": "two"}])
        functions.update_one({"_id": "one"}, {"$set": {"value": Code("x => x + 1")}})
        functions.delete_one({"_id": "two"})

    def write_unique(self) -> None:
        """Values of a unique index that move between documents."""
        things = self.client["docs"]["unique"]
        things.create_index("name", unique=True)
        things.insert_many([{"_id": number, "name": str(number)} for number in range(6)])
        for number in range(20):
            one, other = self.random.sample(range(6), 2)
            names = {found["_id"]: found["name"] for found in things.find()}
            things.update_one({"_id": one}, {"$set": {"name": f"free{number}"}})
            things.update_one({"_id": other}, {"$set": {"name": names[one]}})
            things.delete_one({"_id": one})
            things.insert_one({"_id": one, "name": names[other]})

    # Collections.

    def write_collections(self) -> None:
        """Collections made with options, changed and dropped."""
        database = self.client["made"]
        database.create_collection("plain")
        database.create_collection(
            "german", collation={"locale": "de", "strength": 2, "numericOrdering": True}
        )
        database["german"].insert_many([{"_id": "a"}, {"_id": "b", "w": "B"}])
        database["german"].create_index("w")
        database["german"].create_index("w", name="simple", collation={"locale": "simple"})
        database.create_collection(
            "checked",
            validator={"n": {"$type": "number"}},
            validationLevel="moderate",
            validationAction="error",
        )
        database["checked"].insert_one({"_id": 1, "n": 1})
        database.command("collMod", "checked", validator={"m": {"$exists": True}})
        database["checked"].insert_one({"_id": 2, "m": 1})
        database["checked"].update_one({"_id": 1}, {"$set": {"n": "no number"}})
        database["checked"].insert_one(
            {"_id": 3, "says": "past the validator"}, bypass_document_validation=True
        )
        database.command("collMod", "checked", validationLevel="off", validationAction="warn")
        database.create_collection(
            "stored",
            storageEngine={"wiredTiger": {"configString": "block_compressor=zlib"}},
            indexOptionDefaults={"storageEngine": {"wiredTiger": {}}},
        )
        database.create_collection("gone").insert_one({"_id": 1})
        database["gone"].drop()
        database.create_collection("gone").insert_one({"_id": 2})
        passing = self.client["passing"]
        passing["x"].insert_one({"_id": 1})
        passing["y"].create_index("n")
        self.client.drop_database("passing")

    def write_clustered(self) -> None:
        """Collections that are stored by their C{_id}."""
        database = self.client["made"]
        database.create_collection(
            "clustered", clusteredIndex={"key": {"_id": 1}, "unique": True, "name": "by id"}
        )
        database["clustered"].insert_many([{"_id": number} for number in range(20)])
        database["clustered"].update_one({"_id": 3}, {"$set": {"x": 1}})
        database["clustered"].delete_many({"_id": {"$gt": 15}})
        database["clustered"].create_index("x")
        database.create_collection(
            "expiring",
            clusteredIndex={"key": {"_id": 1}, "unique": True},
            expireAfterSeconds=100_000_000,
        )
        database["expiring"].insert_one({"_id": _NOW})
        database.command("collMod", "expiring", expireAfterSeconds=200_000_000)

    def write_images(self) -> None:
        """Images of changed documents, and what else C{collMod} can since 6.0."""
        database = self.client["made"]
        database.create_collection("imaged", changeStreamPreAndPostImages={"enabled": True})
        database["imaged"].insert_one({"_id": 1})
        database["imaged"].update_one({"_id": 1}, {"$set": {"x": 1}})
        database.create_collection("later")
        database.command("collMod", "later", changeStreamPreAndPostImages={"enabled": True})
        database["soon"].insert_many([{"_id": number, "n": number} for number in range(4)])
        database["soon"].create_index("n")
        database.command("collMod", "soon", index={"name": "n_1", "prepareUnique": True})
        database["preparing"].create_index("n", prepareUnique=True)
        database["preparing"].insert_one({"_id": 1, "n": 1})
        database["changed"].insert_one({"_id": 1, "n": 1})
        database["changed"].create_index("n")
        database.command("collMod", "changed", index={"name": "n_1", "prepareUnique": True})
        database.command("collMod", "changed", index={"name": "n_1", "unique": True})
        database["changed"].insert_one({"_id": 2, "n": 2})
        database.create_collection("growing", capped=True, size=4096)
        database.command("collMod", "growing", cappedSize=65536, cappedMax=100)
        database["growing"].insert_many([{"_id": number} for number in range(50)])

    def write_capped(self) -> None:
        """Capped collections, past their limits; updates in them."""
        database = self.client["made"]
        database.create_collection("few", capped=True, size=100_000, max=10)
        for start in range(0, 30, 5):
            database["few"].insert_many([{"_id": start + n, "n": 0} for n in range(5)])
        database["few"].update_one({"_id": 25}, {"$set": {"n": 1}})
        database.create_collection("small", capped=True, size=4096)
        for number in range(60):
            database["small"].insert_one({"_id": number, "pad": "x" * 100})
        if self.version >= (5, 3):
            database["small"].delete_one({"_id": 59})
        for number in range(10):
            database["tocap"].insert_one({"_id": number, "pad": "y" * 100})
        database["tocap"].create_index("pad")
        database.command("convertToCapped", "tocap", size=8192)
        database["tocap"].insert_one({"_id": 10})
        database.command("cloneCollectionAsCapped", "tocap", toCollection="capped2", size=4096)

    def write_renames(self) -> None:
        """Renames within and across databases, over others and in a ring."""
        database, other = self.client["ring"], self.client["otherdb"]
        for name in "abcd":
            database[name].insert_many([{"_id": f"{name}{number}"} for number in range(3)])
        database["a"].create_index("x")
        database["a"].rename("free")
        database["c"].rename("a")
        database["b"].rename("c")
        database["free"].rename("b")
        database["b"].insert_one({"_id": "after"})
        database["d"].rename("c", dropTarget=True)
        for number in range(5):
            other["moving"].insert_one({"_id": number, "n": number})
        other["moving"].create_index([("n", -1)], name="by n")
        admin = self.client["admin"]
        admin.command("renameCollection", "otherdb.moving", to="ring.moved")
        database["moved"].insert_one({"_id": "later"})
        other["second"].insert_one({"_id": "second"})
        admin.command("renameCollection", "otherdb.second", to="ring.moved", dropTarget=True)

    def write_out(self) -> None:
        """C{$out}, new and over another, here and elsewhere; C{$merge}."""
        database = self.client["out"]
        database["input"].insert_many([{"_id": number, "n": number % 3} for number in range(9)])
        database["result"].insert_one({"_id": "before"})
        database["result"].create_index("n")
        for target in ("fresh", "result", {"db": "out2", "coll": "abroad"}):
            database["input"].aggregate([{"$match": {"n": 1}}, {"$out": target}])
        database["result"].insert_one({"_id": "behind"})
        database["input"].aggregate(
            [{"$group": {"_id": "$n", "c": {"$sum": 1}}}, {"$merge": {"into": "merged"}}]
        )

    def write_indexes(self) -> None:
        """Indexes of all kinds, on an empty collection and on one with documents."""
        models = [
            IndexModel("a", name="up"),
            IndexModel([("a", 1), ("b.c", -1)]),
            IndexModel("u", unique=True, sparse=True),
            IndexModel("t", expireAfterSeconds=1_000_000_000),
            IndexModel("h", hidden=True),
            IndexModel("p", partialFilterExpression={"p": {"$gt": 3}}),
            IndexModel(
                [("s", "text"), ("s2", "text")], weights={"s": 5}, default_language="german"
            ),
            IndexModel([("g", "2dsphere")]),
            IndexModel([("g2", "2d")], min=-10, max=10, bits=20),
            IndexModel([("x", "hashed")]),
            IndexModel([("w.$**", 1)]),
            IndexModel([("$**", 1)], wildcardProjection={"q": 1, "r": 1}),
            IndexModel("c", collation={"locale": "fr", "strength": 1}),
        ]
        database = self.client["indexed"]
        database.create_collection("empty")
        database["empty"].create_indexes(models)
        database["full"].insert_many(
            [{"_id": number, "a": number, "u": number} for number in range(20)]
        )
        database["full"].create_indexes(models)
        for name in ("full", "empty"):
            database[name].insert_one({"_id": "later", "a": 1, "u": "later", "s": "Wort"})
        database["full"].drop_index("up")
        database["full"].create_index("a", name="up")
        database["twice"].insert_many([{"_id": 1, "n": 1}, {"_id": 2, "n": 1}])
        _refused(lambda: database["twice"].create_index("n", unique=True))
        for name, count in (("all", 0), ("many", 3)):
            if count:
                database[name].insert_many([{"_id": number} for number in range(count)])
            database[name].create_indexes([IndexModel("a"), IndexModel("b"), IndexModel("c")])
            database[name].drop_indexes()
        database["several"].create_indexes([IndexModel("a"), IndexModel("b"), IndexModel("c")])
        database.command("dropIndexes", "several", index=["a_1", "b_1"])
        database["mod"].insert_one({"_id": 1})
        database["mod"].create_index("t", expireAfterSeconds=1_000_000)
        database["mod"].create_index("h")
        database.command("collMod", "mod", index={"name": "t_1", "expireAfterSeconds": 2_000_000})
        database.command("collMod", "mod", index={"keyPattern": {"h": 1}, "hidden": True})

    # What is kept in collections of its own.

    def write_views(self) -> None:
        """Views made, changed and dropped; views of views."""
        database = self.client["seen"]
        database["base"].insert_many([{"_id": number, "n": number % 2} for number in range(6)])
        database["side"].insert_one({"_id": 1, "extra": True})
        lookup = {"from": "side", "localField": "n", "foreignField": "_id", "as": "sides"}
        database.create_collection("odd", viewOn="base", pipeline=[{"$match": {"n": 1}}])
        database.create_collection("joined", viewOn="odd", pipeline=[{"$lookup": lookup}])
        database.create_collection(
            "german", viewOn="base", pipeline=[], collation={"locale": "de", "strength": 1}
        )
        database.create_collection("dropped", viewOn="base", pipeline=[])
        database["dropped"].drop()
        database.command("collMod", "odd", viewOn="base", pipeline=[{"$match": {"n": {"$gt": 0}}}])
        database.command(
            "collMod", "odd", viewOn="base", pipeline=[{"$match": {"n": 1}}, {"$limit": 5}]
        )
        database.command("collMod", "joined", viewOn="side", pipeline=[])
        lone = self.client["lone"]
        lone.create_collection("view", viewOn="nothing", pipeline=[])
        lone["view"].drop()

    def write_time_series(self) -> None:
        """Time series: measured, grown, changed, indexed, dropped."""
        database = self.client["measured"]
        database.create_collection(
            "weather",
            timeseries={"timeField": "at", "metaField": "place", "granularity": "minutes"},
            expireAfterSeconds=500_000_000,
        )
        for place in ("here", "there"):
            database["weather"].insert_many(
                [
                    {"at": _NOW + timedelta(minutes=number), "place": place, "t": number / 2}
                    for number in range(20)
                ]
            )
        for number in range(20, 30):
            database["weather"].insert_one(
                {"at": _NOW + timedelta(minutes=number), "place": "here", "wet": True}
            )
        database["weather"].create_index([("place", 1), ("at", 1)])
        database.command("collMod", "weather", expireAfterSeconds=600_000_000)
        database.command("collMod", "weather", timeseries={"granularity": "hours"})
        if self.version >= (6,):
            database["weather"].delete_many({"place": "there"})
        database["weather"].insert_one({"at": _NOW + timedelta(days=2), "place": "here"})
        database.create_collection("bare", timeseries={"timeField": "at"})
        database["bare"].insert_many(
            [{"at": _NOW + timedelta(seconds=number), "v": number} for number in range(1500)]
        )
        database.create_collection("ended", timeseries={"timeField": "at"})
        database["ended"].insert_one({"at": _NOW})
        database["ended"].drop()

    def write_users(self) -> None:
        """Users and roles, made, changed and dropped."""
        database = self.client["docs"]
        privilege = {"resource": {"db": "docs", "collection": ""}, "actions": ["find"]}
        database.command("createRole", "reader", privileges=[privilege], roles=[])
        database.command("createRole", "passing", privileges=[], roles=["reader"])
        for name in ("ann", "bob"):
            database.command("createUser", name, pwd="pw", roles=["reader", "passing", "readWrite"])
        database.command("updateUser", "ann", pwd="other", customData={"n": 1})
        database.command("grantRolesToUser", "ann", roles=[{"role": "read", "db": "made"}])
        database.command("revokePrivilegesFromRole", "reader", privileges=[privilege])
        database.command("dropRole", "passing")
        database.command("dropUser", "bob")

    # Transactions.

    def write_transactions(self) -> None:
        """Small ones, over several namespaces; one that is given up."""
        database = self.client["trans"]
        for name in "ab":
            database[name].insert_many([{"_id": number, "n": 0} for number in range(5)])

        def body(session: ClientSession) -> None:
            database["a"].insert_one({"_id": 5}, session=session)
            database["b"].update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
            database["b"].update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
            database["a"].delete_one({"_id": 5}, session=session)
            self.client["docs"]["things"].replace_one(
                {"_id": "in a transaction"}, {"x": 1}, upsert=True, session=session
            )

        self._in_transaction(body)
        with self.client.start_session() as session:
            session.start_transaction()
            database["a"].insert_one({"_id": "never"}, session=session)
            session.abort_transaction()

    def write_made_in_transactions(self) -> None:
        """Collections and indexes that a transaction makes."""
        database = self.client["trans"]

        def body(session: ClientSession) -> None:
            database.create_collection("inner", session=session)
            database["inner"].create_index("n", unique=True, session=session)
            database["inner"].insert_one({"_id": 1, "n": 1}, session=session)
            database["implicit"].insert_one({"_id": 1}, session=session)

        self._in_transaction(body)

    def write_large_transactions(self) -> None:
        """Two transactions of more than 16 MB whose entries are mixed."""
        database = self.client["trans"]
        for attempt in range(20):
            try:
                self._write_large_transactions()
                break
            except PyMongoError as error:
                # 4.4 gives them up now and then.
                if not error.has_error_label("TransientTransactionError") or attempt == 19:
                    raise
            for name in ("large", "large2"):
                database[name].drop()
        database["large"].update_one({"_id": 4}, {"$set": {"data": 2}})

    def _write_large_transactions(self) -> None:
        database = self.client["trans"]
        for name in ("large", "large2"):
            # A transaction must not begin before its collection is there.
            database.get_collection(name, write_concern=_MAJORITY).insert_one({"_id": -1})
        draw = self.random.randbytes
        with self.client.start_session() as one, self.client.start_session() as other:
            one.start_transaction()
            other.start_transaction()
            # 4.4 has no room for two of them.
            together = self.version >= (5,)
            for number in range(20):
                for name, session in (("large", one), ("large2", other)):
                    if together or name == "large":
                        database[name].insert_one(
                            {"_id": number, "data": draw(1_000_000)}, session=session
                        )
            database["large"].update_one({"_id": 3}, {"$set": {"data": 1}}, session=one)
            if together:
                database["large"].insert_one({"_id": 1000})
                other.commit_transaction()
                database["large"].insert_one({"_id": 1001})
            one.commit_transaction()

    def write_prepared(self) -> None:
        """Prepared transactions, kept and given up, with others in between."""
        database, admin = self.client["trans"], self.client["admin"]
        things = database["prepared"]
        things.insert_many([{"_id": number, "n": 0} for number in range(5)])
        sessions = [self.client.start_session() for _ in range(4)]
        times = []
        for number, session in enumerate(sessions):
            session.start_transaction(write_concern=_MAJORITY)
            if number < 3:
                things.update_one({"_id": number}, {"$inc": {"n": 1}}, session=session)
                things.insert_one({"_id": f"p{number}"}, session=session)
                if number == 2:
                    for more in range(20):
                        things.insert_one(
                            {"_id": f"large{more}", "data": "x" * 1_000_000}, session=session
                        )
            else:
                things.find_one({"_id": 4}, session=session)
            reply = admin.command(
                "prepareTransaction", session=session, writeConcern={"w": "majority"}
            )
            times.append(reply["prepareTimestamp"])
            things.update_one({"_id": 4}, {"$inc": {"n": 1}})
        for number in (2, 0, 3):
            things.update_one({"_id": 3}, {"$inc": {"n": 1}})
            admin.command(
                "commitTransaction",
                commitTimestamp=times[number],
                session=sessions[number],
            )
        sessions[1].abort_transaction()
        things.update_one({"_id": 1}, {"$set": {"n": 5}})
        for session in sessions:
            session.end_session()

    def write_applied(self) -> None:
        """Operations that somebody applied by hand, atomically."""
        things = self.client["docs"]["applied"]
        things.insert_one({"_id": 1})
        operations = [
            {"op": "i", "ns": "docs.applied", "o": {"_id": 2, "x": 1}},
            {"op": "u", "ns": "docs.applied", "o2": {"_id": 1}, "o": {"_id": 1, "y": 1}},
            {"op": "d", "ns": "docs.applied", "o": {"_id": 2}},
        ]
        self.client["admin"].command("applyOps", operations)


def _set_field(name: str, value: Any) -> dict[str, Any]:
    return {"field": {"$literal": name}, "input": "$$ROOT", "value": value}


def _unset_field(name: str) -> dict[str, Any]:
    return {"field": {"$literal": name}, "input": "$$ROOT"}


def _refused(attempt: Callable[[], Any]) -> None:
    try:
        attempt()
    except OperationFailure:
        return
    raise AssertionError("the server took what it must refuse")


# What is in an oplog.


def kinds_of(client: Client) -> set[str]:
    """
    The kinds of entries that a deployment's oplog has, by names of this
    module's own.
    """
    options = client["local"]["oplog.rs"].codec_options.with_options(
        document_class=SON, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    found: set[str] = set()
    oplog = client["local"].get_collection("oplog.rs", codec_options=options)
    for entry in oplog.find({}, sort=[("$natural", 1)]):
        found.update(_kinds(entry))
    return found


def _kinds(entry: Any) -> Iterator[str]:
    op, ns, o = entry["op"], entry["ns"], entry["o"]
    if entry.get("fromMigrate"):
        yield "fromMigrate"
    if "needsRetryImage" in entry or (op == "n" and ns):
        yield "retry image"
    if op != "c":
        yield f"{op}{_place(ns)}"
        if op == "u":
            yield f"u {_form(o)}"
        return
    command = next(iter(o))
    yield command
    if command == "applyOps":
        yield from _kinds_of_transaction(entry)
    elif command == "create":
        yield from (f"create {option}" for option in o if option not in ("create", "idIndex"))
        if o["create"].startswith("system.buckets."):
            yield "create buckets"
    elif command == "collMod":
        yield from (f"collMod {option}" for option in o if option != "collMod")
        yield from (f"collMod index {option}" for option in o.get("index", {}))
    elif command == "renameCollection":
        if not isinstance(o.get("dropTarget", False), bool):
            yield "renameCollection dropTarget"
        old = o["renameCollection"]
        yield from (f"rename {what}" for what in ("agg_out", "convertToCapped") if what in old)
    elif command == "commitIndexBuild" and len(o["indexes"]) > 1:
        yield "commitIndexBuild of several"


def _kinds_of_transaction(entry: Any) -> Iterator[str]:
    o = entry["o"]
    if o.get("prepare"):
        yield "prepare"
    if o.get("partialTxn"):
        yield "partialTxn"
    if not o["applyOps"]:
        yield "empty applyOps"
    if "lsid" not in entry:
        yield "applyOps without a session"
    elif "count" in o:
        yield "end of a chain"
    for each in o["applyOps"]:
        if each["op"] == "c":
            yield f"transaction {next(iter(each['o']))}"


def _place(ns: str) -> str:
    for part in ("system.views", "system.buckets", "system.users", "system.roles"):
        if f".{part}" in ns:
            return f" {part}"
    return ""


def _form(o: Any) -> str:
    if "$v" in o:
        return f"$v:{o['$v']}"
    return "operators" if next(iter(o), "").startswith("$") else "replacement"


def wanted_kinds(version: Version) -> set[str]:
    """
    What L{kinds_of} must find after a whole L{History} on a server of that
    version.
    """
    wanted = {
        *("i", "u", "d", "n", "u replacement", "retry image"),
        *("create", "create collation", "create validator", "create capped", "create temp"),
        *("create storageEngine", "create indexOptionDefaults", "drop", "dropDatabase"),
        *("renameCollection", "renameCollection dropTarget", "rename agg_out"),
        *("rename convertToCapped", "collMod", "collMod validator", "collMod index"),
        *("createIndexes", "startIndexBuild", "commitIndexBuild", "commitIndexBuild of several"),
        *("abortIndexBuild", "dropIndexes", "i system.views", "u system.views", "d system.views"),
        *("i system.users", "u system.users", "d system.users", "i system.roles"),
        *("u system.roles", "applyOps", "applyOps without a session", "partialTxn"),
        *("end of a chain", "prepare", "commitTransaction", "abortTransaction", "empty applyOps"),
        *("transaction create", "transaction createIndexes", "fromMigrate"),
    }
    if version < (5,):
        return wanted | {"u $v:1"}
    wanted |= {"u $v:2", "create buckets", "create timeseries", "i system.buckets"}
    wanted |= {"u system.buckets", "collMod timeseries", "collMod expireAfterSeconds"}
    if version >= (6,):
        wanted |= {"create clusteredIndex", "create changeStreamPreAndPostImages"}
        wanted |= {"create expireAfterSeconds", "collMod changeStreamPreAndPostImages"}
        wanted |= {"collMod cappedSize", "d system.buckets"}
    return wanted


# What must be equal afterwards.

_OURS = {"admin", "config", "local", "txmongokit"}
_LEFT_OVER = re.compile(r"tmp[\w.]*\.(rename|create|convertToCapped|agg_out)|tmp\.agg_out")


def catalog_differences(source: Client, destination: Client) -> Iterator[str]:
    """
    In what the user databases of two deployments differ, besides in what
    C{dbHash} covers: one sentence each.

    Options of collections and views, specifications of indexes, the order of
    capped collections, and temporary collections left over.
    """
    described = [_catalog(client) for client in (source, destination)]
    for name in sorted({*described[0], *described[1]}):
        here, there = (found.get(name, "absent") for found in described)
        if here != there:
            yield f"{name}: {here} here, {there} there"
    for name in described[1]:
        if _LEFT_OVER.search(name):
            yield f"{name} was left over"


def _catalog(client: Client) -> dict[str, Any]:
    catalog = {}
    for database in sorted(set(client.list_database_names()) - _OURS):
        for found in client[database].list_collections():
            collection = client[database][found["name"]]
            indexes = [] if found["type"] == "view" else list(collection.list_indexes())
            options = dict(found.get("options", {}))
            described = {
                "type": found["type"],
                "options": options,
                "indexes": {index["name"]: described_index(index) for index in indexes},
            }
            if options.get("capped"):
                cursor = collection.find({}, {"_id": 1}, sort=[("$natural", 1)])
                described["order"] = [document["_id"] for document in cursor]
            catalog[f"{database}.{found['name']}"] = described
    return catalog
