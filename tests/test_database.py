"""
Tests for L{txmongokit.database}.
"""

from __future__ import annotations

from pymongo.read_concern import ReadConcern
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from txmongokit.database import Database
from txmongokit.errors import InvalidName


class DatabaseTests(SynchronousTestCase):
    """
    Commands, collections and names.
    """

    def test_command(self) -> None:
        """A name with arguments becomes a document."""
        runner = FakeRunner({"ok": 1, "x": 2})
        reply = self.successResultOf(Database(runner, "db").command("collMod", "a", x=1))
        self.assertEqual(reply["x"], 2)
        self.assertEqual(runner.bodies, [{"collMod": "a", "x": 1}])

    def test_command_document(self) -> None:
        """The caller's document is left alone, whatever is written into what is sent."""
        runner = FakeRunner()
        document = {"ping": 1}
        self.successResultOf(Database(runner, "db").command(document, comment="why"))
        runner.bodies[0]["$db"] = "db"
        self.assertEqual(document, {"ping": 1})
        self.assertRaises(TypeError, Database(runner, "db").command, 5)
        self.assertRaises(ValueError, Database(runner, "db").command, {})

    def test_cursor_command(self) -> None:
        """A command's cursor is read to its end."""
        runner = FakeRunner(
            cursor_reply([{"a": 1}], 5, namespace="db.$cmd.x"),
            cursor_reply([{"a": 2}], more=True),
        )
        cursor = Database(runner, "db").cursor_command("listThings", batch_size=3)
        self.assertEqual(self.successResultOf(cursor.to_list()), [{"a": 1}, {"a": 2}])
        self.assertEqual(runner.bodies[1], {"getMore": 5, "collection": "$cmd.x", "batchSize": 3})

    def test_aggregate(self) -> None:
        """A pipeline on the database itself names no collection."""
        runner = FakeRunner(cursor_reply([]))
        self.successResultOf(Database(runner, "admin").aggregate([{"$currentOp": {}}]).to_list())
        self.assertEqual(runner.bodies[0]["aggregate"], 1)

    def test_collections(self) -> None:
        """Attributes, items and get_collection name collections."""
        db = Database(FakeRunner(), "db")
        self.assertEqual(db.things, db["things"])
        changed = db.get_collection("things", read_concern=ReadConcern("majority"))
        self.assertEqual(changed.read_concern.level, "majority")
        self.assertIsNone(db.things.read_concern.level)
        self.assertEqual(db.with_options(read_concern=ReadConcern("local")), db)

    def test_list_collection_names(self) -> None:
        """Names are asked for alone unless the filter looks at more."""
        runner = FakeRunner(cursor_reply([{"name": "a"}]), cursor_reply([]))
        db = Database(runner, "db")
        self.assertEqual(self.successResultOf(db.list_collection_names()), ["a"])
        self.successResultOf(db.list_collection_names(filter={"type": "view"}))
        self.assertIs(runner.bodies[0]["nameOnly"], True)
        self.assertNotIn("nameOnly", runner.bodies[1])

    def test_create_collection(self) -> None:
        """The server's own options are sent as they are."""
        runner = FakeRunner()
        created = Database(runner, "db").create_collection("log", capped=True, size=4096)
        self.assertEqual(self.successResultOf(created).full_name, "db.log")
        self.assertEqual(runner.bodies[0], {"create": "log", "capped": True, "size": 4096})

    def test_names(self) -> None:
        """Names that no server takes are refused; calling a database is an error."""
        for name in ("", "a.b", "a b", "$a"):
            self.assertRaises(InvalidName, Database, FakeRunner(), name)
        self.assertRaises(TypeError, Database(FakeRunner(), "run_command"))
        self.assertRaises(AttributeError, getattr, Database(FakeRunner(), "db"), "_x")
