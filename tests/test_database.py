"""
Tests for L{txmongokit.database}.
"""

from __future__ import annotations

from bson.dbref import DBRef
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from txmongokit.database import Database
from txmongokit.errors import (
    CollectionInvalid,
    ConfigurationError,
    InvalidName,
    InvalidOperation,
    OperationFailure,
)


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

    def test_bare_commands(self) -> None:
        """A command inherits codec and time limit, but no concern and no preference."""
        runner = FakeRunner()
        db = Database(
            runner,
            "db",
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.SECONDARY,
            timeout=4,
        )
        self.successResultOf(db.command("ping"))
        self.successResultOf(db.command("ping", read_preference=ReadPreference.NEAREST, timeout=2))
        first, second = (command.options for command in runner.commands)
        self.assertIsNone(first.read_concern.level)
        self.assertTrue(first.write_concern.is_server_default)
        self.assertEqual((first.read_preference, first.timeout), (ReadPreference.PRIMARY, 4))
        self.assertEqual((second.read_preference, second.timeout), (ReadPreference.NEAREST, 2))

    def test_no_cursor(self) -> None:
        """A command that answers without a cursor is none for cursor_command."""
        cursor = Database(FakeRunner({"ok": 1}), "db").cursor_command("ping")
        error = self.failureResultOf(cursor.to_list(), InvalidOperation).value
        self.assertIn("ping", str(error))

    def test_check_exists(self) -> None:
        """PyMongo's error for a collection that is there, if asked for."""
        runner = FakeRunner(cursor_reply([{"name": "log"}]), cursor_reply([]), {"ok": 1})
        db = Database(runner, "db")
        self.failureResultOf(db.create_collection("log", check_exists=True), CollectionInvalid)
        created = db.create_collection("log", check_exists=True, timeout=3)
        self.assertEqual(self.successResultOf(created), db.log)
        self.assertEqual(runner.names, ["listCollections", "listCollections", "create"])
        self.assertEqual([command.deadline for command in runner.commands[1:]], [3.0, 3.0])

    def test_created_with_options(self) -> None:
        """The collection has the options that it was made with; no encryption."""
        runner = FakeRunner()
        db = Database(runner, "db")
        concern = WriteConcern("majority")
        created = self.successResultOf(
            db.create_collection("v", write_concern=concern, viewOn="log", pipeline=[])
        )
        self.assertEqual(created.write_concern, concern)
        self.assertEqual(runner.commands[0].options.write_concern, concern)
        self.assertEqual(runner.bodies, [{"create": "v", "viewOn": "log", "pipeline": []}])
        self.assertRaises(ConfigurationError, db.create_collection, "e", encryptedFields={})

    def test_modify(self) -> None:
        """collMod with the server's own options."""
        runner = FakeRunner({"ok": 1, "was": 2})
        db = Database(runner, "db")
        reply = self.successResultOf(db.modify_collection(db.log, expireAfterSeconds=5))
        self.assertEqual(reply["was"], 2)
        self.assertEqual(runner.bodies, [{"collMod": "log", "expireAfterSeconds": 5}])

    def test_validate(self) -> None:
        """Validation gives the reply, or fails."""
        runner = FakeRunner({"ok": 1, "valid": True}, {"ok": 1, "valid": False})
        db = Database(runner, "db")
        reply = self.successResultOf(db.validate_collection("log", full=True))
        self.assertTrue(reply["valid"])
        self.assertEqual(runner.bodies[0], {"validate": "log", "scandata": False, "full": True})
        self.failureResultOf(db.validate_collection(db.log), CollectionInvalid)
        self.assertRaises(TypeError, db.validate_collection, 5)

    def test_dereference(self) -> None:
        """A reference is followed within its database."""
        runner = FakeRunner(cursor_reply([{"_id": 1}]))
        db = Database(runner, "db")
        self.assertEqual(self.successResultOf(db.dereference(DBRef("a", 1))), {"_id": 1})
        self.assertEqual(runner.bodies[0]["find"], "a")
        self.assertRaises(ValueError, db.dereference, DBRef("a", 1, "other"))
        self.assertRaises(TypeError, db.dereference, {"$ref": "a"})

    def test_drop(self) -> None:
        """Databases and collections go by name; a missing collection is gone."""
        missing = {"ok": 0, "code": 26, "errmsg": "ns not found"}
        runner = FakeRunner({"ok": 1}, missing, {"ok": 0, "code": 13, "errmsg": "no"})
        db = Database(runner, "db")
        self.assertIsNone(self.successResultOf(db.drop(comment="why")))
        self.assertIsNone(self.successResultOf(db.drop_collection(db.log)))
        self.failureResultOf(db.drop_collection("log"), OperationFailure)
        self.assertEqual(runner.bodies[0], {"dropDatabase": 1, "comment": "why"})
