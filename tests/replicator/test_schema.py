"""
Tests for L{txmongokit.replicator.schema}.
"""

from __future__ import annotations

from typing import Any

from bson.timestamp import Timestamp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool, refused
from tests.replicator.test_checkpoint import AT, CURRENT, store
from tests.replicator.test_entries import entry
from txmongokit.errors import AutoReconnect
from txmongokit.replicator.catalog import Catalog
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.entries import OplogEntry, parse_entry
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.writers import ApplyError

OK = {"ok": 1, "n": 1}
AFTER = CURRENT.window_end + 1


def command(o: dict[str, Any], position: int = AFTER) -> OplogEntry:
    """A command in C{db}, after the window unless told."""
    at = Timestamp(position >> 32, position & 0xFFFFFFFF)
    return parse_entry(entry("c", o, ns="db.$cmd", ts=at))


CREATE = {"create": "c", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"}}
RENAME = {"renameCollection": "db.c", "to": "db.d", "stayTemp": False}


class SchemaWriterTests(SynchronousTestCase):
    """
    Changes between batches.
    """

    def writer(self, *replies: Any, dry: bool = False) -> SchemaWriter:
        """A writer over a script."""
        self.pool = fake_pool(*replies)
        self.runner = self.pool.runner
        self.clock = Clock()
        return SchemaWriter(
            self.pool,
            None if dry else store(self.pool),
            Catalog(self.pool),
            Selection(exclude=["other"]),
            Patience(self.clock, 10.0),
        )

    def execute(
        self, writer: SchemaWriter, entry: OplogEntry, current: Checkpoint = CURRENT
    ) -> Deferred[Checkpoint]:
        """Plan and execute."""
        change = writer.plan(entry)
        assert change is not None
        return Deferred.fromCoroutine(writer.execute(change, entry, current))

    def verbs(self) -> list[str]:
        """What was sent."""
        return [next(iter(body)) for body in self.runner.bodies]

    def test_plan(self) -> None:
        """Commands and writes to views are changes, what is not selected is none."""
        writer = self.writer()
        self.assertTrue(writer.handles("db.system.views"))
        self.assertFalse(writer.handles("db.c"))
        other = parse_entry(entry("c", {"create": "c"}, ns="other.$cmd"))
        self.assertIsNone(writer.plan(other))
        view = {"_id": "db.v", "viewOn": "c", "pipeline": []}
        planned = writer.plan(parse_entry(entry("i", view, ns="db.system.views")))
        assert planned is not None
        self.assertEqual(planned.command["create"], "v")

    def test_order(self) -> None:
        """Intent, command, checkpoint, in that order."""
        writer = self.writer(OK, {"ok": 1}, OK)
        following = self.successResultOf(self.execute(writer, command(CREATE)))
        self.assertEqual(self.verbs(), ["update", "create", "update"])
        self.assertEqual(self.runner.bodies[1]["writeConcern"], {"w": "majority"})
        intent = self.runner.statements(0)[0]
        self.assertEqual(intent["u"]["$set"]["intent"], Timestamp(AFTER >> 32, AFTER & 0xFFFFFFFF))
        self.assertEqual(intent["u"]["$set"]["ts"], Timestamp(100, AT & 0xFFFFFFFF))
        self.assertEqual(self.runner.statements(2)[0]["q"]["seq"], CURRENT.seq + 1)
        self.assertEqual(following, CURRENT.intending(AFTER).advanced(AFTER, 5, count=1))

    def test_repeated(self) -> None:
        """After a crash the intent is there, and what is done already is no error."""
        current = CURRENT.intending(AFTER)
        writer = self.writer(refused(26), OK)
        following = self.successResultOf(self.execute(writer, command(RENAME), current))
        self.assertEqual(self.verbs(), ["renameCollection", "update"])
        self.assertEqual(following.seq, current.seq + 1)

    def test_first_time(self) -> None:
        """Without the intent, it is an error; so is another entry's intent."""
        for current in (CURRENT, CURRENT.intending(AFTER - 1)):
            writer = self.writer(OK, refused(26))
            executing = self.execute(writer, command(RENAME), current)
            error = self.failureResultOf(executing, ApplyError).value
            self.assertIn("renameCollection on db.c, db.d failed", str(error))

    def test_replayed(self) -> None:
        """In the window, what followed a change may have undone it already."""
        writer = self.writer(OK, refused(26), OK)
        self.successResultOf(self.execute(writer, command(RENAME, CURRENT.window_end)))

    def test_lost_answer(self) -> None:
        """A change without an answer is made again, and may find itself done."""
        writer = self.writer(OK, AutoReconnect("gone"), refused(26), OK)
        executing = self.execute(writer, command(RENAME))
        self.assertNoResult(executing)
        self.clock.advance(0.05)
        self.successResultOf(executing)
        self.assertEqual(self.verbs(), ["update", "renameCollection", "renameCollection", "update"])

    def test_fenced(self) -> None:
        """Where the intent cannot be stored, nothing is changed."""
        writer = self.writer({"ok": 1, "n": 0})
        self.failureResultOf(self.execute(writer, command(CREATE)), FencedError)
        self.assertEqual(self.verbs(), ["update"])

    def test_exists(self) -> None:
        """A collection that is there already, with the same options, is done."""
        same = cursor_reply([{"name": "c", "options": {"uuid": 1}}])
        writer = self.writer(OK, refused(48), same, OK)
        self.successResultOf(self.execute(writer, command(CREATE)))

    def test_exists_differently(self) -> None:
        """With other options it is refused."""
        other = cursor_reply([{"name": "c", "options": {"capped": True, "size": 4096}}])
        writer = self.writer(OK, refused(48), other)
        executing = self.execute(writer, command(CREATE))
        error = self.failureResultOf(executing, ApplyError).value
        self.assertIn("'capped'", str(error))

    def test_exists_differently_in_window(self) -> None:
        """In the window a later change may have made it so."""
        other = cursor_reply([{"name": "c", "options": {"capped": True, "size": 4096}}])
        writer = self.writer(OK, refused(48), other, OK)
        self.successResultOf(self.execute(writer, command(CREATE, CURRENT.window_end)))

    def test_rename_in_window(self) -> None:
        """In the window a target that is there already is written anew."""
        writer = self.writer(OK, refused(48), {"ok": 1}, OK)
        self.successResultOf(self.execute(writer, command(RENAME, CURRENT.window_end)))
        self.assertEqual(self.verbs()[1:3], ["renameCollection", "renameCollection"])
        writer = self.writer(OK, refused(48))
        self.failureResultOf(self.execute(writer, command(RENAME)), ApplyError)

    def test_index_in_window(self) -> None:
        """So is an index that was changed later."""
        made = command({"createIndexes": "c", "v": 2, "key": {"a": 1}, "name": "a"}, AFTER)
        within = command(
            {"createIndexes": "c", "v": 2, "key": {"a": 1}, "name": "a"}, CURRENT.window_end
        )
        self.successResultOf(self.execute(self.writer(OK, refused(85), OK), within))
        self.failureResultOf(self.execute(self.writer(OK, refused(85)), made), ApplyError)

    def test_plain_write(self) -> None:
        """A stored function is a write of its own, and a refused one an error."""
        at = Timestamp(AFTER >> 32, AFTER & 0xFFFFFFFF)
        insert = parse_entry(entry("i", {"_id": "f"}, ns="db.system.js", ts=at))
        writer = self.writer(OK, OK, OK)
        self.assertTrue(writer.handles("db.system.js"))
        self.successResultOf(self.execute(writer, insert))
        self.assertEqual(self.verbs(), ["update", "update", "update"])
        bad = {"ok": 1, "n": 0, "writeErrors": [{"index": 0, "code": 121, "errmsg": "no"}]}
        self.failureResultOf(self.execute(self.writer(OK, bad), insert), ApplyError)

    def test_dry_run(self) -> None:
        """A dry run sends nothing, and goes on."""
        writer = self.writer(dry=True)
        following = self.successResultOf(self.execute(writer, command(CREATE)))
        self.assertEqual((following.position, self.verbs()), (AFTER, []))
        change = writer.plan(command(CREATE))
        assert change is not None
        preparing = writer.prepare(change, command(CREATE), CURRENT)
        self.successResultOf(Deferred.fromCoroutine(preparing))
        self.assertEqual(self.verbs(), [])
        self.assertEqual(writer.counts, {("db.c", "create"): 2})

    def test_prepare(self) -> None:
        """What belongs to a transaction is made without moving the checkpoint."""
        writer = self.writer({"ok": 1})
        change = writer.plan(command(CREATE))
        assert change is not None
        preparing = writer.prepare(change, command(CREATE), CURRENT)
        self.successResultOf(Deferred.fromCoroutine(preparing))
        self.assertEqual(self.verbs(), ["create"])
