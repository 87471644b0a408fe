"""
The mixed load of the main job and of the replication benchmark, written with
PyMongo, and the comparison of two deployments.

The load is drawn from a seed: about 60 % inserts, 30 % updates and 10 %
deletes over ten namespaces, with a transaction now and then and some DDL at
each tenth of the way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from bson import Int64, Timestamp
from pymongo import DeleteOne, IndexModel, InsertOne, MongoClient, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

__all__ = ["Load", "checkpoint_gaps", "described_index", "differences", "finish", "user_databases"]

Client: TypeAlias = MongoClient[dict[str, Any]]
Statement: TypeAlias = InsertOne[dict[str, Any]] | UpdateOne | DeleteOne

_NAMESPACES = tuple(f"{database}.{name}" for database in ("app", "shop") for name in "abcde")
_BATCH = 500
_KINDS = (InsertOne, UpdateOne, DeleteOne)
_TRANSACTION = 20
_FINISHED = ("app", "finished")
_CHECKPOINTS = "txmongokit.mongosync"
_OURS = {"admin", "config", "local", "txmongokit"}
_WORDS = ["alder", "birch", "cedar", "elm", "hazel", "larch", "maple", "oak", "pine", "rowan"]


@dataclass
class _Namespace:
    """
    What one collection holds so far: the C{_id}s of its documents.
    """

    name: str
    alive: list[int]
    following: int = 0


class Load:
    """
    A reproducible load on one deployment.

    @param operations: how many inserts, updates and deletes.
    @param seed: the same seed writes the same load.
    @param ddl: whether to change collections and indexes, too.
    @param namespaces: into how many collections to write; all ten where there
        is DDL.
    @param batch: how many operations to write at a time.
    @param grouped: whether a batch's inserts, updates and deletes come
        together: the one thread that writes manages far more of them then.
    @param transactions: which part of the batches are transactions, of fewer
        operations.
    """

    def __init__(
        self,
        operations: int,
        seed: int = 2,
        ddl: bool = True,
        namespaces: int = 10,
        batch: int = _BATCH,
        grouped: bool = False,
        transactions: float = 0.1,
    ) -> None:
        self.operations = operations
        self.ddl = ddl
        self.done = 0
        self._batch = batch
        self._grouped = grouped
        self._transactions = transactions
        self._random = random.Random(seed)
        self._namespaces = [_Namespace(name, []) for name in _NAMESPACES[:namespaces]]

    def write(self, client: Client, pace: Callable[[], None] = lambda: None) -> None:
        """
        Write the whole load.

        @param pace: called after each batch; it may wait or raise.
        """
        tenth = max(1, self.operations // 10)
        stage = 0
        while self.done < self.operations:
            while self.done >= stage * tenth:
                self._change_schema(client, stage)
                stage += 1
            count = min(self._batch, tenth, self.operations - self.done)
            namespace = self._random.choice(self._namespaces)
            collection = self._collection(client, namespace)
            if self._random.random() < self._transactions:
                count = min(_TRANSACTION, count)
                self._write_transaction(client, count)
            else:
                statements = [self._statement(namespace) for _ in range(count)]
                if self._grouped:
                    # No _id comes again: this changes no document's history.
                    statements.sort(key=lambda each: _KINDS.index(type(each)))
                collection.bulk_write(statements, ordered=True)
            self.done += count
            pace()
        self._change_schema(client, -1)

    def _collection(self, client: Client, namespace: _Namespace) -> Collection[dict[str, Any]]:
        database, _, name = namespace.name.partition(".")
        return client[database][name]

    def _write_transaction(self, client: Client, count: int) -> None:
        """
        One transaction over several namespaces, both databases among them.
        """
        chosen = [(self._random.choice(self._namespaces)) for _ in range(count)]
        statements = [(namespace, self._statement(namespace)) for namespace in chosen]

        def body(session: ClientSession) -> None:
            for namespace, statement in statements:
                self._collection(client, namespace).bulk_write([statement], session=session)

        with client.start_session() as session:
            session.with_transaction(body)

    def _statement(self, namespace: _Namespace) -> Statement:
        draw = self._random.random()
        alive = namespace.alive
        if draw < 0.6 or not alive:
            number = namespace.following
            namespace.following += 1
            alive.append(number)
            return InsertOne(self._document(number))
        place = self._random.randrange(len(alive))
        if draw < 0.9:
            return UpdateOne({"_id": alive[place]}, self._change())
        alive[place], alive[-1] = alive[-1], alive[place]
        return DeleteOne({"_id": alive.pop()})

    def _document(self, number: int) -> dict[str, Any]:
        draw = self._random
        return {
            "_id": number,
            "name": draw.choice(_WORDS),
            "n": draw.randrange(1000),
            "big": Int64(draw.getrandbits(60)),
            "nested": {
                "x": draw.random(),
                "deep": {"list": [1, 2, 3], "word": draw.choice(_WORDS)},
            },
            "tags": draw.sample(_WORDS, 3),
            "rows": [{"k": row, "v": draw.randrange(100)} for row in range(3)],
            "text": draw.randbytes(draw.randrange(20, 120)).hex(),
        }

    def _change(self) -> dict[str, Any]:
        """
        One update out of those that a server logs in different ways.
        """
        draw = self._random
        changes: list[dict[str, Any]] = [
            {"$inc": {"n": 1, "nested.count": 2}},
            {"$set": {"nested.deep.word": draw.choice(_WORDS), "nested.new": draw.random()}},
            {"$set": {f"f{draw.randrange(20)}": draw.choice(_WORDS), "a_first": 1}},
            {"$unset": {"nested.x": "", f"f{draw.randrange(20)}": ""}},
            {"$push": {"tags": {"$each": [draw.choice(_WORDS)], "$slice": -8}}},
            {"$push": {"nested.deep.list": {"$each": [draw.randrange(9)], "$position": 0}}},
            {"$pull": {"tags": draw.choice(_WORDS)}},
            {"$set": {"rows.1.v": draw.randrange(100), "rows.0": {"k": 0, "v": -1}}},
            {"$pop": {"nested.deep.list": 1}},
            {"$rename": {"text": "renamed"}},
            {"$mul": {"n": 2}, "$max": {"big": Int64(draw.getrandbits(60))}},
        ]
        return draw.choice(changes)

    def _change_schema(self, client: Client, stage: int) -> None:
        """
        The DDL of one tenth of the way; C{-1} is the end.
        """
        if not self.ddl:
            return
        app, shop = client["app"], client["shop"]
        if stage == 0:
            app.create_collection("a", validator={"n": {"$type": "number"}}, validationLevel="off")
            shop.create_collection("names", collation={"locale": "de", "strength": 2})
            shop["names"].insert_many(
                [{"_id": number, "w": _WORDS[number]} for number in range(10)]
            )
            app.create_collection("doomed").insert_one({"_id": 1})
        elif stage == 1:
            app["b"].create_indexes([IndexModel([("name", 1), ("n", -1)], name="by_name")])
            shop["names"].create_index("w", unique=True)
        elif stage == 2:
            app.command(
                "collMod", "a", validator={"big": {"$exists": True}}, validationAction="warn"
            )
            app.drop_collection("doomed")
        elif stage == 3:
            self._rename(client, "app.c", "app.c_renamed")
            app["d"].create_index("nested.deep.word", sparse=True)
        elif stage == 4:
            app["scratch"].insert_many([{"_id": number} for number in range(50)])
            app["scratch"].rename("kept")
        elif stage == 5:
            app["b"].drop_index("by_name")
            app["b"].create_index([("n", 1)], partialFilterExpression={"n": {"$gt": 10}})
        elif stage == 6:
            shop["again"].insert_one({"_id": 1})
            shop["names"].rename("again", dropTarget=True)
        elif stage == -1:
            client["passing"]["x"].insert_one({"_id": 1})
            client.drop_database("passing")

    def _rename(self, client: Client, old: str, new: str) -> None:
        for namespace in self._namespaces:
            if namespace.name == old and namespace.following:
                self._collection(client, namespace).rename(new.partition(".")[2])
                namespace.name = new


def finish(client: Client) -> Timestamp:
    """
    Write the last document of all and return its place in the oplog.
    """
    database, name = _FINISHED
    number = client[database][name].insert_one({}).inserted_id
    entries = client["local"]["oplog.rs"].find({"ns": f"{database}.{name}", "o._id": number})
    entry = entries.sort("$natural", -1).limit(1).next()
    timestamp: Timestamp = entry["ts"]
    return timestamp


def checkpoint_gaps(destination: Client) -> Iterator[str]:
    """
    Where the destination's own oplog shows that a checkpoint's C{seq} did not
    move by exactly one: a batch applied twice, or one left out.
    """
    last: dict[str, int] = {}
    moves = 0
    wanted = {"$or": [{"ns": _CHECKPOINTS}, {"o.applyOps.ns": _CHECKPOINTS}]}
    for entry in destination["local"]["oplog.rs"].find(wanted).sort("$natural", 1):
        for operation in entry["o"].get("applyOps", [entry]):
            # Servers before 6.0 log the image of a findAndModify as a no-op beside it.
            wrote = operation["ns"] == _CHECKPOINTS and operation["op"] != "n"
            seq = _seq(operation) if wrote else None
            if seq is None:
                continue
            key = repr(operation.get("o2", operation["o"]).get("_id"))
            if key in last and seq != last[key] + 1:
                yield f"checkpoint {key}: seq went from {last[key]} to {seq} at {entry['ts']}"
            last[key] = seq
            moves += 1
    if not moves:
        yield "the destination's oplog has no checkpoint at all"


def _seq(operation: dict[str, Any]) -> int | None:
    """
    The C{seq} that a logged insert, replacement or update writes.
    """
    written = operation["o"]
    for path in ((), ("diff", "u"), ("diff", "i"), ("$set",)):
        part = written
        for step in path:
            part = part.get(step, {})
        if "seq" in part:
            return int(part["seq"])
    return None


def user_databases(client: Client) -> list[str]:
    """
    The names of the databases that are neither the server's nor ours.
    """
    return sorted(set(client.list_database_names()) - _OURS)


def differences(source: Client, destination: Client) -> Iterator[str]:
    """
    In what the user databases of two deployments differ: one sentence each.
    C{dbHash} covers every document byte for byte; options and indexes are
    compared besides. Here is the source, there the destination.
    """
    ours, theirs = user_databases(source), user_databases(destination)
    if ours != theirs:
        yield f"databases: {ours} here, {theirs} there"
    for name in sorted({*ours, *theirs}):
        hashes = [client[name].command("dbHash")["collections"] for client in (source, destination)]
        for collection in sorted({*hashes[0], *hashes[1]}):
            pair = [known.get(collection, "absent") for known in hashes]
            if pair[0] != pair[1]:
                yield f"{name}.{collection}: hash {pair[0]} here, {pair[1]} there"
        described = [_description(client, name) for client in (source, destination)]
        for collection in sorted({*described[0], *described[1]}):
            if described[0].get(collection) != described[1].get(collection):
                here, there = (known.get(collection) for known in described)
                yield f"{name}.{collection}: {here} here, {there} there"


def described_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """
    An index's specification, where 5.0 gives a part in an order of chance.
    """
    described = dict(index)
    if "wildcardProjection" in described:
        described["wildcardProjection"] = dict(described["wildcardProjection"])
    return described


def _description(client: Client, database: str) -> dict[str, Any]:
    """
    Options and indexes of every collection of a database.
    """
    return {
        found["name"]: (
            found.get("options"),
            sorted(
                map(described_index, client[database][found["name"]].list_indexes()),
                key=lambda index: str(index["name"]),
            ),
        )
        for found in client[database].list_collections()
        if found["type"] == "collection"
    }
