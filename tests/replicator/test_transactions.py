"""
Tests for L{txmongokit.replicator.transactions}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson import Int64, Timestamp
from bson.binary import Binary
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.entries import UnsupportedEntry, parse_entry
from txmongokit.replicator.transactions import source_transaction

NONE = {"ts": Timestamp(0, 0), "t": Int64(-1)}


def optime(second: int) -> dict[str, Any]:
    """Where the entry at a second is."""
    return {"ts": Timestamp(second, 1), "t": Int64(1)}


class Oplog:
    """Entries by their positions."""

    def __init__(self) -> None:
        self.entries: dict[int, bytes] = {}
        self.asked: list[int] = []

    def add(self, second: int, o: dict[str, Any], previous: Any = NONE, **fields: Any) -> bytes:
        """Put in one entry of the session's transaction."""
        raw = bson.encode(
            {
                "lsid": {"id": Binary(b"s" * 16, 4), "uid": b"u" * 32},
                "txnNumber": Int64(7),
                "op": "c",
                "ns": "admin.$cmd",
                "o": o,
                "ts": Timestamp(second, 1),
                "t": Int64(1),
                "v": Int64(2),
                "prevOpTime": previous,
                **fields,
            }
        )
        self.entries[second << 32 | 1] = raw
        return raw

    async def at(self, position: int) -> bytes | None:
        """What is asked for."""
        self.asked.append(position >> 32)
        return self.entries.get(position)


def inserts(*numbers: int) -> list[dict[str, Any]]:
    """Operations within an applyOps."""
    return [{"op": "i", "ns": "app.users", "o": {"_id": number}} for number in numbers]


class SourceTransactionTests(SynchronousTestCase):
    """
    What becomes visible with an entry.
    """

    def setUp(self) -> None:
        """An empty oplog."""
        self.oplog = Oplog()

    def visible(self, raw: bytes) -> list[int] | None:
        """The C{_id}s of the operations, or C{None}."""
        found = self.successResultOf(
            Deferred.fromCoroutine(source_transaction(parse_entry(raw), self.oplog.at))
        )
        if found is None:
            return None
        return [bson.decode(operation.o)["_id"] for operation in found]

    def test_one_entry(self) -> None:
        """A small transaction is one entry."""
        self.assertEqual(self.visible(self.oplog.add(1, {"applyOps": inserts(1, 2)})), [1, 2])
        self.assertEqual(self.oplog.asked, [])

    def test_chain(self) -> None:
        """A large one is visible with its last entry, in the order of its parts."""
        first = self.oplog.add(1, {"applyOps": inserts(1, 2), "partialTxn": True})
        second = self.oplog.add(2, {"applyOps": inserts(3), "partialTxn": True}, optime(1))
        last = self.oplog.add(4, {"applyOps": inserts(4), "count": Int64(4)}, optime(2))
        self.assertEqual(self.visible(first), [])
        self.assertEqual(self.visible(second), [])
        self.assertEqual(self.visible(last), [1, 2, 3, 4])

    def test_prepared(self) -> None:
        """A prepared one is visible with its commit."""
        self.oplog.add(1, {"applyOps": inserts(1), "partialTxn": True})
        prepared = self.oplog.add(2, {"applyOps": inserts(2), "prepare": True}, optime(1))
        commit = self.oplog.add(
            5, {"commitTransaction": 1, "commitTimestamp": Timestamp(4, 1)}, optime(2)
        )
        self.assertEqual(self.visible(prepared), [])
        self.assertEqual(self.visible(commit), [1, 2])

    def test_given_up(self) -> None:
        """One that is aborted never is."""
        self.oplog.add(1, {"applyOps": inserts(1), "prepare": True})
        self.assertEqual(self.visible(self.oplog.add(2, {"abortTransaction": 1}, optime(1))), [])

    def test_no_transaction(self) -> None:
        """A batch that is none (8.0) does not reach back to what came before it."""
        self.oplog.add(1, {"applyOps": inserts(1)})
        batch = self.oplog.add(2, {"applyOps": inserts(2)}, optime(1), multiOpType=1)
        self.assertEqual(self.visible(batch), [2])

    def test_other_commands(self) -> None:
        """Other commands are left to others."""
        self.assertIsNone(self.visible(self.oplog.add(1, {"drop": "users"})))

    def test_gap(self) -> None:
        """A part that is overwritten cannot be left out."""
        last = self.oplog.add(4, {"applyOps": inserts(4), "count": Int64(4)}, optime(2))
        error = self.failureResultOf(
            Deferred.fromCoroutine(source_transaction(parse_entry(last), self.oplog.at)),
            UnsupportedEntry,
        ).value
        self.assertIn("larger oplog", str(error))
