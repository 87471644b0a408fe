"""
Tests for L{txmongokit.replicator.entries}.
"""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import bson
from bson.binary import Binary
from bson.errors import InvalidBSON
from bson.int64 import Int64
from bson.timestamp import Timestamp
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.entries import (
    OplogEntry,
    UnsupportedEntry,
    from_timestamp,
    inner_operations,
    parse_entry,
    timestamp,
)

LSID = {"id": Binary(uuid.UUID(int=7).bytes, 4), "uid": b"u" * 32}


def entry(op: str = "i", o: Any = None, **more: Any) -> bytes:
    """
    An oplog entry's bytes, much as a 6.0 server writes it.
    """
    document: dict[str, Any] = {
        "op": op,
        "ns": "db.c",
        "ui": Binary(uuid.UUID(int=1).bytes, 4),
        "o": {"_id": 1} if o is None else o,
        "ts": Timestamp(100, 3),
        "t": Int64(5),
        "v": Int64(2),
    }
    document.update(more)
    return bson.encode({k: v for k, v in document.items() if v is not None})


def transaction(o: dict[str, Any], previous: Timestamp | None = None, **more: Any) -> OplogEntry:
    """
    An entry of a transaction.
    """
    optime = {"ts": previous or Timestamp(0, 0), "t": Int64(5 if previous else -1)}
    return parse_entry(
        entry("c", o, ns="admin.$cmd", lsid=LSID, txnNumber=Int64(9), prevOpTime=optime, **more)
    )


INNER = [
    {"op": "i", "ns": "db.c", "o": {"_id": 1, "x": "y"}},
    {"op": "u", "ns": "db.d", "o": {"$v": 2, "diff": {"u": {"x": 1}}}, "o2": {"_id": 2}},
]


class ParseTests(SynchronousTestCase):
    """
    Fields of single entries.
    """

    def test_fields(self) -> None:
        """
        Every field that is looked at has its value, documents stay raw.
        """
        raw = entry("u", {"a": [1, {"b": 2}]}, o2={"_id": "x"})
        parsed = parse_entry(raw)
        self.assertEqual((parsed.op, parsed.ns, parsed.term), ("u", "db.c", 5))
        self.assertEqual((parsed.ts, parsed.version), (100 << 32 | 3, 2))
        self.assertEqual(parsed.o, bson.encode({"a": [1, {"b": 2}]}))
        self.assertEqual(parsed.o2, bson.encode({"_id": "x"}))
        self.assertIs(parsed.raw, raw)

    def test_absent(self) -> None:
        """
        Fields that an entry lacks have their empty values.
        """
        parsed = parse_entry(entry())
        self.assertIsNone(parsed.o2)
        self.assertIsNone(parsed.prev_optime)
        self.assertEqual((parsed.multi_op_type, parsed.command), (0, ""))

    def test_ignored(self) -> None:
        """
        Entries that change nothing are read, also without a document.
        """
        for op in ("n", "km", "cd", "ci", "cu"):
            self.assertEqual(parse_entry(entry(op)).op, op)
        self.assertEqual(bson.decode(parse_entry(entry("km", o=7)).o), {})

    def test_any_order(self) -> None:
        """
        The usual form and any other order of fields are read alike.
        """
        previous = {"ts": Timestamp(9, 2), "t": Int64(4)}
        for more in (
            {},
            {"wall": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
            {"stmtId": 0, "prevOpTime": previous},
            {"stmtId": 0, "prevOpTime": {"ts": Timestamp(0, 0), "t": Int64(-1)}},
        ):
            for first in ({}, {"lsid": LSID, "txnNumber": Int64(3)}):
                for second in ({}, {"o2": {"_id": 4}}):
                    usual = bson.decode(entry("u", {"_id": 4, "x": [1]}))
                    tail = {name: usual.pop(name) for name in ("ts", "t", "v")}
                    document = first | usual | second | tail | more
                    other = dict(reversed(document.items()))
                    one, two = (parse_entry(bson.encode(each)) for each in (document, other))
                    for name in OplogEntry.__slots__:
                        if name not in ("raw", "prev_optime"):
                            self.assertEqual(getattr(one, name), getattr(two, name), name)
                    self.assertEqual(one.prev_optime, two.prev_optime)

    def test_timestamp(self) -> None:
        """
        Positions and timestamps turn into one another, also past 2038.
        """
        value = Timestamp(2**32 - 1, 2**32 - 1)
        self.assertEqual(timestamp(from_timestamp(value)), value)
        self.assertEqual(parse_entry(entry(ts=value)).ts, from_timestamp(value))

    def test_unsupported(self) -> None:
        """
        Unknown versions and types are refused by place, without the document.
        """
        for raw, words in (
            (entry(o={"secret": 1}, v=Int64(1)), "version 1"),
            (entry(o={"secret": 1}, v=None), "version none"),
            (entry("zz", {"secret": 1}), "'zz'"),
            (entry(o={"secret": 1}, ts=None), "no timestamp"),
            (entry(o="secret"), "no document"),
        ):
            error = self.assertRaises(UnsupportedEntry, parse_entry, raw)
            self.assertIn(words, str(error))
            self.assertNotIn("secret", str(error))
            if "no timestamp" not in words:
                self.assertIn("100.3", str(error))

    def test_truncated(self) -> None:
        """
        An entry cut anywhere is InvalidBSON.
        """
        raw = entry()
        for end in range(len(raw)):
            self.assertRaises(InvalidBSON, parse_entry, raw[:end])


class TransactionTests(SynchronousTestCase):
    """
    The forms of transactions.
    """

    def test_single(self) -> None:
        """
        A transaction of one entry gives its operations, at its position.
        """
        parsed = transaction({"applyOps": INNER})
        self.assertTrue(parsed.is_apply_ops)
        self.assertFalse(parsed.is_partial_transaction or parsed.is_prepare or parsed.ends_chain)
        self.assertIsNone(parsed.prev_optime)
        operations = inner_operations(parsed)
        self.assertEqual(
            [(each.op, each.ns) for each in operations], [("i", "db.c"), ("u", "db.d")]
        )
        self.assertEqual({(each.ts, each.term) for each in operations}, {(parsed.ts, 5)})
        self.assertEqual(operations[0].o, bson.encode(INNER[0]["o"]))  # type: ignore[arg-type]
        self.assertEqual(operations[1].o2, bson.encode({"_id": 2}))

    def test_chain(self) -> None:
        """
        Parts of a chain, and its end, are told apart and point back.
        """
        part = transaction({"applyOps": INNER, "partialTxn": True}, Timestamp(99, 1))
        self.assertTrue(part.is_partial_transaction)
        self.assertFalse(part.ends_chain)
        self.assertEqual(part.prev_optime, (99 << 32 | 1, 5))
        last = transaction({"applyOps": INNER, "count": Int64(4)}, Timestamp(99, 1))
        self.assertTrue(last.ends_chain)
        self.assertFalse(last.is_partial_transaction)

    def test_prepared(self) -> None:
        """
        Prepare, commit and abort are recognised.
        """
        prepared = transaction({"applyOps": INNER, "prepare": True}, Timestamp(99, 1))
        self.assertTrue(prepared.is_prepare)
        self.assertFalse(prepared.ends_chain)
        commit = transaction({"commitTransaction": 1}, Timestamp(99, 1))
        self.assertTrue(commit.is_commit_transaction)
        self.assertFalse(commit.is_abort_transaction or commit.is_apply_ops)
        self.assertTrue(transaction({"abortTransaction": 1}).is_abort_transaction)

    def test_vectored(self) -> None:
        """
        A chained batch of inserts that is no transaction ends no chain.
        """
        batch = transaction({"applyOps": INNER}, Timestamp(99, 1), multiOpType=1)
        self.assertFalse(batch.ends_chain)

    def test_nested(self) -> None:
        """
        Nested operations come in their place, and unknown ones are refused.
        """
        nested = {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": INNER}}
        parsed = transaction({"applyOps": [nested, INNER[0]]})
        self.assertEqual([each.op for each in inner_operations(parsed)], ["i", "u", "i"])
        unknown = transaction({"applyOps": [{"op": "x", "ns": "a.b", "o": {}}]})
        self.assertRaises(UnsupportedEntry, inner_operations, unknown)
        self.assertRaises(UnsupportedEntry, inner_operations, transaction({"applyOps": 1}))
