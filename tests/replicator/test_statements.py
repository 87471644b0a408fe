"""
Tests for L{txmongokit.replicator.statements}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.int64 import Int64
from bson.timestamp import Timestamp
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.test_entries import entry
from txmongokit.replicator.entries import UnsupportedEntry, parse_entry
from txmongokit.replicator.statements import Dialect, Operation

OLD = Dialect(apply_oplog_update=False, dollar_names=False)
NEW = Dialect(apply_oplog_update=True)


def operation(op: str, o: Any, o2: Any = None, dialect: Dialect = NEW) -> Operation:
    """
    The operation of an entry.
    """
    return Operation.from_entry(parse_entry(entry(op, o, o2=o2)), "to.c", dialect)


def statement(op: str, o: Any, o2: Any = None, dialect: Dialect = NEW) -> dict[str, Any]:
    """
    The decoded statement of an entry.
    """
    return bson.decode(operation(op, o, o2, dialect).statement)


class StatementTests(SynchronousTestCase):
    """
    Entries of each form.
    """

    def test_insert(self) -> None:
        """
        An insert replaces or makes the document; _id may be anywhere.
        """
        made = operation("i", {"x": 1, "_id": "k"})
        self.assertEqual(
            made.statement,
            bson.encode({"q": {"_id": "k"}, "u": {"x": 1, "_id": "k"}, "upsert": True}),
        )
        self.assertEqual((made.kind, made.namespace), ("i", "to.c"))
        self.assertEqual(made.size, len(made.statement))
        self.assertEqual(made.id_element, bson.encode({"_id": "k"})[4:-1])

    def test_replacement(self) -> None:
        """
        A replacement takes the _id alone from o2 and never upserts.
        """
        made = operation("u", {"_id": 1, "y": 2}, {"_id": 1, "shard": 3})
        self.assertEqual(made.statement, bson.encode({"q": {"_id": 1}, "u": {"_id": 1, "y": 2}}))

    def test_delete(self) -> None:
        """
        A delete is limited to one document.
        """
        self.assertEqual(statement("d", {"_id": 1, "s": 2}), {"q": {"_id": 1}, "limit": 1})

    def test_operators(self) -> None:
        """
        The operators of old versions go without their version.
        """
        for more in ({"$v": 1}, {"$v": Int64(1)}, {}):
            o = {**more, "$set": {"a": 1}, "$unset": {"b": True}}
            made = statement("u", o, {"_id": 1})
            self.assertEqual(made["u"], {"$set": {"a": 1}, "$unset": {"b": True}})

    def test_internal_stage(self) -> None:
        """
        A diff goes as it is where the destination applies it.
        """
        o = {"$v": 2, "diff": {"u": {"a": 1}}}
        made = statement("u", o, {"_id": 1})
        self.assertEqual(
            made,
            {"q": {"_id": 1}, "u": [{"$_internalApplyOplogUpdate": {"oplogUpdate": o}}]},
        )

    def test_pipeline(self) -> None:
        """
        Elsewhere it becomes an ordinary pipeline of one stage.
        """
        o = {"$v": 2, "diff": {"u": {"a": 1}}}
        (stage,) = statement("u", o, {"_id": 1}, OLD)["u"]
        self.assertEqual(list(stage), ["$replaceWith"])

    def test_dollar_names(self) -> None:
        """
        A document that would be read as operators is a literal, or refused.
        """
        document = {"$x": 1, "_id": 1}
        made = statement("i", document)
        self.assertEqual(made["u"], [{"$replaceWith": {"$literal": document}}])
        self.assertRaises(UnsupportedEntry, statement, "i", {"_id": 1, "$x": 1}, None, OLD)
        self.assertEqual(statement("i", {"_id": 1, "x": "$"}, None, OLD)["u"]["x"], "$")

    def test_dollar_names_anywhere(self) -> None:
        """
        Such a name may come later in the document, too.
        """
        document = {"_id": 1, "$x": {"$y": 1}}
        for made in (statement("i", document), statement("u", document, {"_id": 1})):
            self.assertEqual(made["u"], [{"$replaceWith": {"$literal": document}}])
        self.assertEqual(statement("i", {"_id": 1, "x": {"$y": 1}})["u"]["x"], {"$y": 1})

    def test_unstamped(self) -> None:
        """Where a server would put in the present time, a pipeline makes the document."""
        document = {"_id": 1, "zero": 0.0, "at": Timestamp(0, 0)}
        for op in "iu":
            made = operation(op, document, {"_id": 1} if op == "u" else None)
            self.assertEqual(
                bson.decode(made.statement)["u"], [{"$replaceWith": {"$literal": document}}]
            )
            self.assertEqual((made.kind, made.form), (op, "u"))
        for fine in (
            {"_id": 1, "at": Timestamp(0, 1)},
            {"_id": 1, "in": {"at": Timestamp(0, 0)}},
            {"_id": 1, "text": "\x11x\0" + "\0" * 9},
        ):
            self.assertEqual(operation("i", fine).form, "i")

    def test_operator_like_id(self) -> None:
        """
        An _id that would be read as a condition is compared as a value.
        """
        made = statement("d", {"_id": {"$gt": 1}})
        self.assertEqual(made["q"], {"_id": {"$eq": {"$gt": 1}}})

    def test_unsupported(self) -> None:
        """
        What is not understood is refused without showing the document.
        """
        for op, o, o2 in (
            ("i", {"secret": 1}, None),
            ("d", {"secret": 1}, None),
            ("u", {"secret": 1}, None),
            ("u", {"secret": 1}, {"x": 1}),
            ("u", {"$v": 3, "secret": {}}, {"_id": 1}),
            ("u", {"$v": 2, "secret": {}}, {"_id": 1}),
            ("u", {"$v": 2, "diff": {"secret": {}, "b": {}}}, {"_id": 1}),
            ("u", {"$v": 2, "diff": {"ssecret": {"a": True, "z1": 1}}}, {"_id": 1}),
            ("u", {"$v": 1, "$secret": {}}, {"_id": 1}),
            ("n", {"_id": 1, "secret": 1}, None),
        ):
            error = self.assertRaises(UnsupportedEntry, operation, op, o, o2, OLD)
            self.assertNotIn("secret", str(error))

    def test_dialect(self) -> None:
        """
        The internal stage needs both the version and the probe.
        """
        self.assertEqual(Dialect.for_server((6, 0, 5), probed=True), Dialect(True, True))
        self.assertEqual(Dialect.for_server((6, 0, 5), probed=False), Dialect(False, True))
        self.assertEqual(Dialect.for_server((5, 0, 4), probed=True), Dialect(False, True))
        self.assertEqual(Dialect.for_server((4, 4, 2), probed=True), Dialect(False, False))
