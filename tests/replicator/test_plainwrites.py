"""
Tests for L{txmongokit.replicator.plainwrites}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson import Int64, Timestamp
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import parse_entry
from txmongokit.replicator.plainwrites import is_plain, translate_write
from txmongokit.replicator.selection import Selection

USERS = "admin.system.users"


def written(selection: Selection, op: str, ns: str, o: Any, o2: Any = None) -> DDL | None:
    """What an entry becomes."""
    fields = {"op": op, "ns": ns, "o": o, "ts": Timestamp(1, 1), "t": Int64(1), "v": Int64(2)}
    if o2 is not None:
        fields["o2"] = o2
    return translate_write(parse_entry(bson.encode(fields)), selection)


def statement(found: DDL | None) -> Any:
    """The one statement of a command, decoded."""
    assert found is not None
    (raw,) = found.command.get("updates") or found.command["deletes"]
    return bson.decode(raw.raw)


class PlainWriteTests(SynchronousTestCase):
    """
    Users, roles and functions.
    """

    def test_which(self) -> None:
        """These collections, and none that is called alike."""
        found = [
            name
            for name in (USERS, "admin.system.roles", "app.system.js", "app.system_js", "x.users")
            if is_plain(name)
        ]
        self.assertEqual(found, [USERS, "admin.system.roles", "app.system.js"])

    def test_functions(self) -> None:
        """Each operation is a command of its own."""
        selection = Selection(renames=["app=copy"])
        found = written(selection, "i", "app.system.js", {"_id": "f", "value": 1})
        assert found is not None
        self.assertEqual((found.database, found.namespaces), ("copy", ("copy.system.js",)))
        self.assertEqual(
            statement(found), {"q": {"_id": "f"}, "u": {"_id": "f", "value": 1}, "upsert": True}
        )
        found = written(selection, "d", "app.system.js", {"_id": "f"})
        assert found is not None
        self.assertEqual(found.command["delete"], "system.js")
        self.assertEqual(statement(found), {"q": {"_id": "f"}, "limit": 1})

    def test_users_on_request(self) -> None:
        """Users are left alone unless they are asked for."""
        user = {"_id": "app.ann", "user": "ann", "db": "app", "roles": []}
        self.assertIsNone(written(Selection(), "i", USERS, user))
        self.assertIsNotNone(written(Selection(users=True), "i", USERS, user))

    def test_users_of_selected_databases(self) -> None:
        """Of the databases that are selected, and those of all databases."""
        selection = Selection(["app.x"], users=True)
        chosen = [
            name
            for name in ("app.ann", "other.ann", "admin.ann", "$external.CN=ann,DC=a.b")
            if written(selection, "d", USERS, {"_id": name}) is not None
        ]
        self.assertEqual(chosen, ["app.ann", "admin.ann", "$external.CN=ann,DC=a.b"])

    def test_renamed(self) -> None:
        """Databases have their new names wherever a user or a role names them."""
        selection = Selection(renames=["app=copy", "app.x=other.y"], users=True)
        role = {
            "_id": "app.reader",
            "role": "reader",
            "db": "app",
            "privileges": [
                {"resource": {"db": "app", "collection": "x"}, "actions": ["find"]},
                {"resource": {"db": "app", "collection": ""}, "actions": ["find"]},
            ],
            "roles": [{"role": "read", "db": "app"}, {"role": "read", "db": "more"}],
        }
        found = statement(written(selection, "i", "admin.system.roles", role))
        self.assertEqual(found["q"], {"_id": "copy.reader"})
        self.assertEqual(found["u"]["db"], "copy")
        resources = [each["resource"] for each in found["u"]["privileges"]]
        self.assertEqual(resources[0], {"db": "other", "collection": "y"})
        self.assertEqual(resources[1], {"db": "copy", "collection": ""})
        self.assertEqual([each["db"] for each in found["u"]["roles"]], ["copy", "more"])
        diff = {"$v": 2, "diff": {"u": {"roles": [{"role": "read", "db": "app"}]}}}
        changed = written(selection, "u", USERS, diff, {"_id": "app.ann"})
        self.assertEqual(statement(changed)["q"], {"_id": "copy.ann"})
        self.assertIn("'db': 'copy'", repr(statement(changed)["u"]))
