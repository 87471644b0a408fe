"""
Tests for L{txmongokit.replicator.window}.
"""

from __future__ import annotations

from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from bson.timestamp import Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.fakes import fake_pool, refused
from tests.replicator.test_checkpoint import AT, CURRENT, store
from tests.replicator.test_entries import entry
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.blueprints import Blueprint
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint
from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import OplogEntry, parse_entry
from txmongokit.replicator.ledger import Ledger
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect, Operation
from txmongokit.replicator.window import Window, WindowWriter
from txmongokit.replicator.writers import ApplyError

OK = {"ok": 1, "n": 1, "nModified": 1}


def uuid_of(letter: str) -> bytes:
    """A collection's identity."""
    return letter.encode() * 16


def listed(letter: str, name: str, kind: str = "collection", **options: Any) -> Blueprint:
    """A collection that the clone found."""
    return Blueprint(uuid_of(letter), f"db.{name}", kind, options)


def command(letter: str, o: dict[str, Any]) -> OplogEntry:
    """A command on the collection of that identity."""
    return parse_entry(entry("c", o, ns="db.$cmd", ui=Binary(uuid_of(letter), 4)))


def insert(letter: str, name: str, position: int = AT) -> OplogEntry:
    """An insert into it, under the name that it had."""
    at = Timestamp(position >> 32, position & 0xFFFFFFFF)
    return parse_entry(entry("i", ns=f"db.{name}", ui=Binary(uuid_of(letter), 4), ts=at))


class WindowCase(SynchronousTestCase):
    """
    A window over some collections.
    """

    def window(self, *made: Blueprint, replies: int = 20) -> Window:
        """A window, with a destination that takes everything."""
        self.pool = fake_pool(*([OK] * replies))
        patience = Patience(Clock(), 10.0)
        selection = Selection(exclude=["other"])
        checkpoints = store(self.pool)
        inner = SchemaWriter(self.pool, checkpoints, Catalog(self.pool), selection, patience)
        ledger = Ledger(self.pool, checkpoints.key, patience)
        return Window(self.pool, inner, selection, checkpoints, ledger, patience, made)

    def planned(self, window: Window, letter: str, o: dict[str, Any]) -> dict[str, Any] | None:
        """The command that is left to execute."""
        change = window.plan(command(letter, o))
        return None if change is None or not change.command else change.command

    def bodies(self) -> list[tuple[str, Any]]:
        """What was sent: the verb and its collection."""
        return [next(iter(body.items())) for body in self.pool.runner.bodies]


class RouteTests(WindowCase):
    """
    Where an operation goes.
    """

    def test_ahead(self) -> None:
        """An operation finds its collection under the name that it got later."""
        window = self.window(listed("a", "later"))
        self.assertEqual(window.route(insert("a", "before")), "db.later")

    def test_gone(self) -> None:
        """One on a collection that was gone when the source was listed is left out."""
        window = self.window(listed("a", "name"))
        self.assertIsNone(window.route(insert("b", "name")))

    def test_made_meanwhile(self) -> None:
        """A collection exists from its creation on, but not under a name that is taken."""
        window = self.window(listed("a", "name"))
        self.assertIsNone(self.planned(window, "b", {"create": "name"}))
        self.assertIsNone(window.route(insert("b", "name")))
        self.assertEqual(self.planned(window, "c", {"create": "new"}), {"create": "new"})
        self.assertEqual(window.route(insert("c", "new")), "db.new")
        self.assertIsNone(self.planned(window, "a", {"create": "first"}))

    def test_capped(self) -> None:
        """Inserts up to the one that was copied last are in the copy of a capped collection."""
        found = listed("a", "log", capped=True, size=4096)
        found.known_end = AT + 5
        window = self.window(found)
        self.assertIsNone(window.route(insert("a", "log", AT + 5)))
        self.assertEqual(window.route(insert("a", "log", AT + 6)), "db.log")

    def test_not_selected(self) -> None:
        """The selection holds."""
        made = Blueprint(uuid_of("a"), "other.x", "collection", {})
        self.assertIsNone(self.window(made).route(insert("a", "x")))


class SchemaTests(WindowCase):
    """
    What is left to do of changes of the schema.
    """

    def test_rename(self) -> None:
        """A rename that led to the copy's name has happened; one after it is carried out."""
        window = self.window(listed("a", "two"))
        first = {"renameCollection": "db.one", "to": "db.two", "stayTemp": False}
        self.assertIsNone(self.planned(window, "a", first))
        second = {"renameCollection": "db.two", "to": "db.three", "stayTemp": False}
        self.assertEqual(
            self.planned(window, "a", second),
            {"renameCollection": "db.two", "to": "db.three", "dropTarget": False},
        )
        self.assertEqual(window.route(insert("a", "two")), "db.three")

    def test_rename_over_another(self) -> None:
        """What the source drops with a rename is dropped here, wherever it is."""
        rename = {
            "renameCollection": "db.one",
            "to": "db.two",
            "dropTarget": Binary(uuid_of("b"), 4),
        }
        window = self.window(listed("a", "one"), listed("b", "two"))
        found = self.planned(window, "a", rename)
        assert found is not None
        self.assertIs(found["dropTarget"], True)
        self.assertIsNone(window.route(insert("b", "two")))
        ahead = self.window(listed("a", "two"), listed("b", "elsewhere"))
        self.assertEqual(self.planned(ahead, "a", rename), {"drop": "elsewhere"})

    def test_rename_to_a_name_that_is_taken(self) -> None:
        """What had a name before the copy's owner of it never gets it."""
        rename = {"renameCollection": "db.new", "to": "db.two", "stayTemp": False}
        window = self.window(listed("b", "two"))
        self.planned(window, "c", {"create": "new"})
        self.assertEqual(self.planned(window, "c", rename), {"drop": "new"})
        self.assertIsNone(window.route(insert("c", "new")))
        window = self.window(listed("a", "new"), listed("b", "two"))
        self.assertIsNone(self.planned(window, "a", rename))
        self.assertEqual(window.route(insert("a", "new")), "db.new")

    def test_drop(self) -> None:
        """A collection is dropped under the name that it has here, an unknown one is not."""
        window = self.window(listed("a", "later"))
        self.assertIsNone(self.planned(window, "b", {"drop": "later"}))
        self.assertEqual(self.planned(window, "a", {"drop": "before"}), {"drop": "later"})
        self.assertIsNone(window.route(insert("a", "later")))

    def test_indexes(self) -> None:
        """Unique and expiring indexes wait, whatever is changed of them meanwhile."""
        found = listed("a", "c")
        window = self.window(found)
        both = [
            {"v": 2, "key": {"n": 1}, "name": "n_1"},
            {"v": 2, "key": {"u": 1}, "name": "u_1", "unique": True},
            {"v": 2, "key": {"t": 1}, "name": "t_1", "expireAfterSeconds": 5},
        ]
        self.assertEqual(
            self.planned(window, "a", {"commitIndexBuild": "old", "indexes": both}),
            {
                "createIndexes": "c",
                "indexes": [{**both[0], "collation": {"locale": "simple"}}],
            },
        )
        single = {"createIndexes": "c", "v": 2, "key": {"x": 1}, "name": "x_1", "unique": True}
        self.assertIsNone(self.planned(window, "a", single))
        self.planned(window, "a", {"dropIndexes": "c", "index": "x_1"})
        change = {"name": "t_1", "expireAfterSeconds": 7}
        self.assertIsNone(self.planned(window, "a", {"collMod": "c", "index": change}))
        self.assertEqual([each["name"] for each in found.indexes], ["n_1"])
        self.assertEqual(
            {each["name"]: each.get("expireAfterSeconds") for each in found.deferred},
            {"u_1": None, "t_1": 7},
        )

    def test_index_that_begins_to_expire(self) -> None:
        """An index that is made to expire is built anew when its time has come."""
        found = listed("a", "c")
        found.add_indexes([{"key": {"n": 1}, "name": "n_1"}])
        window = self.window(found)
        change = {"name": "n_1", "expireAfterSeconds": 7}
        self.assertEqual(
            self.planned(window, "a", {"collMod": "c", "index": change}),
            {"dropIndexes": "c", "index": "n_1"},
        )
        self.assertEqual(found.deferred[0]["expireAfterSeconds"], 7)

    def test_build_given_up(self) -> None:
        """An index that was listed while it was built goes when its build is given up."""
        found = listed("a", "c")
        found.add_indexes([{"key": {"n": 1}, "name": "n_1"}])
        window = self.window(found)
        abort = {"abortIndexBuild": "c", "indexes": [{"key": {"n": 1}, "name": "n_1"}]}
        self.assertEqual(self.planned(window, "a", abort), {"dropIndexes": "c", "index": "n_1"})
        self.assertIsNone(self.planned(window, "a", abort))

    def test_expiry(self) -> None:
        """The expiry of a whole collection waits, too."""
        found = listed("a", "c")
        window = self.window(found)
        self.assertIsNone(self.planned(window, "a", {"collMod": "c", "expireAfterSeconds": 9}))
        self.assertEqual(found.expire, 9)
        self.planned(window, "a", {"collMod": "c", "expireAfterSeconds": "off"})
        self.assertIsNone(found.expire)

    def test_views(self) -> None:
        """A view that had a collection's name before it is nothing; another one is made."""
        window = self.window(listed("v", "system.views", "views"), listed("a", "taken"))

        def view(name: str) -> DDL | None:
            o = {"_id": f"db.{name}", "viewOn": "x", "pipeline": []}
            return window.plan(
                parse_entry(entry("i", o, ns="db.system.views", ui=Binary(uuid_of("v"), 4)))
            )

        self.assertIsNone(view("taken"))
        made = view("new")
        assert made is not None
        self.assertEqual(made.command["create"], "new")

    def test_database(self) -> None:
        """A database is dropped with what is left of it, unless it was made again."""
        window = self.window(listed("a", "name"))
        drop = parse_entry(entry("c", {"dropDatabase": 1}, ns="db.$cmd"))
        self.planned(window, "v", {"create": "system.views"})
        self.planned(window, "v", {"drop": "system.views"})
        self.assertIsNone(window.plan(drop))
        self.planned(window, "a", {"drop": "name"})
        change = window.plan(drop)
        assert change is not None
        self.assertEqual((change.database, change.command), ("db", {"dropDatabase": 1}))
        self.planned(window, "w", {"create": "system.views"})
        self.assertIsNone(window.plan(drop))

    def test_remembered(self) -> None:
        """What is only remembered is stored before the checkpoint moves past it."""
        window = self.window(listed("a", "c"))
        single = {"createIndexes": "c", "v": 2, "key": {"x": 1}, "name": "x_1", "unique": True}
        at = command("a", single)
        change = window.plan(at)
        assert change is not None
        done = Deferred.fromCoroutine(window.execute(change, at, CURRENT))
        following = self.successResultOf(done)
        self.assertEqual((following.seq, following.position), (CURRENT.seq + 1, at.ts))
        self.assertEqual(
            self.bodies(), [("update", "mongosync.collections"), ("update", "mongosync")]
        )

    def test_stored_before_it_is_made(self) -> None:
        """What a blueprint becomes is stored before the command, to count only after it."""
        window = self.window(listed("a", "c"))
        at = command("a", {"drop": "c"})
        change = window.plan(at)
        assert change is not None
        self.successResultOf(Deferred.fromCoroutine(window.execute(change, at, CURRENT)))
        self.assertEqual(
            [verb for verb, _ in self.bodies()], ["update", "update", "drop", "update"]
        )

    def test_finish(self) -> None:
        """At the end all indexes are asked for, and expiry is set."""
        found = listed("a", "c")
        found.add_indexes([{"key": {"n": 1}, "name": "n_1", "unique": True}])
        found.expire = Int64(60)
        gone = listed("b", "gone")
        gone.alive = False
        window = self.window(found, gone)
        self.successResultOf(Deferred.fromCoroutine(window.finish()))
        self.assertEqual(self.bodies(), [("createIndexes", "c"), ("collMod", "c")])


class _Fussy:
    """A writer that refuses some documents' updates."""

    def __init__(self, *refuses: int) -> None:
        self.refuses = refuses
        self.written: list[int] = []

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """All or nothing."""
        keys = [each.key for each in batch.operations()]
        if any(key in self.refuses for key in keys):
            raise ApplyError("no") from refused(28)
        self.written.extend(int(str(key)) for key in keys)
        return current.advanced(batch.position, batch.term, count=batch.count)


class WindowWriterTests(SynchronousTestCase):
    """
    Updates that come too late.
    """

    def batch(self) -> Batch:
        """Ten updates."""
        batch = Batch()
        for n in range(10):
            raw = entry("u", {"$v": 1, "$set": {"a.b": 1}}, o2={"_id": n})
            batch.add(Operation.from_entry(parse_entry(raw), "db.c", Dialect()))
        batch.reach(AT + 1, 5)
        return batch

    def test_left_out(self) -> None:
        """What does not fit is left out; everything else is written, and the end reached."""
        inner = _Fussy(3, 7)
        done = Deferred.fromCoroutine(WindowWriter(inner).write(self.batch(), CURRENT))
        following = self.successResultOf(done)
        self.assertEqual(inner.written, [0, 1, 2, 4, 5, 6, 8, 9])
        self.assertEqual((following.position, following.count), (AT + 1, CURRENT.count + 8))

    def test_at_once(self) -> None:
        """Where all fits, it is one batch."""
        inner = _Fussy()
        done = Deferred.fromCoroutine(WindowWriter(inner).write(self.batch(), CURRENT))
        self.assertEqual(self.successResultOf(done).seq, CURRENT.seq + 1)

    def test_other_refusals(self) -> None:
        """Any other refusal is one."""

        class Refusing:
            """Refuses everything."""

            async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
                """No."""
                raise ApplyError("no") from refused(121)

        done = Deferred.fromCoroutine(WindowWriter(Refusing()).write(self.batch(), CURRENT))
        self.failureResultOf(done, ApplyError)
