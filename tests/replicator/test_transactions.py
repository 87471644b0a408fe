"""
Tests for L{txmongokit.replicator.transactions}.
"""

from __future__ import annotations

from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.test_entries import LSID, entry
from txmongokit.replicator.entries import UnsupportedEntry, parse_entry
from txmongokit.replicator.transactions import SpilledTransaction, source_transaction


def part(at: int, o: dict[str, Any], previous: int | None = None, **more: Any) -> bytes:
    """A command entry at increment C{at}, in a chain unless C{previous} is C{None}."""
    if previous is not None:
        before = {
            "ts": Timestamp(100, previous) if previous else Timestamp(0, 0),
            "t": Int64(5 if previous else -1),
        }
        more = {"lsid": LSID, "txnNumber": Int64(9), "prevOpTime": before, **more}
    return entry("c", o, ns="admin.$cmd", ts=Timestamp(100, at), **more)


def inserts(*identifiers: int) -> list[dict[str, Any]]:
    """Operations of an applyOps."""
    return [{"op": "i", "ns": "db.c", "o": {"_id": each}} for each in identifiers]


class Stored(dict[int, bytes]):
    """An oplog to walk back in; remembers what was asked for."""

    def __init__(self, *raws: bytes) -> None:
        super().__init__({parse_entry(raw).ts: raw for raw in raws})
        self.asked: list[int] = []

    async def entry_at(self, position: int) -> bytes | None:
        """One entry."""
        self.asked.append(position & 0xFFFFFFFF)
        return self.get(position)


class SourceTransactionTests(SynchronousTestCase):
    """
    What becomes visible with an entry.
    """

    def of(self, raw: bytes, stored: Stored | None = None) -> Deferred[Any]:
        """The operations that end with an entry."""
        oplog = Stored() if stored is None else stored
        return Deferred.fromCoroutine(source_transaction(parse_entry(raw), oplog.entry_at))

    def identifiers(self, raw: bytes, stored: Stored | None = None) -> list[Any]:
        """What the operations insert, in their order."""
        operations = self.successResultOf(self.of(raw, stored))
        assert operations is not None
        return [each.o[9] for each in operations]

    def test_other_command(self) -> None:
        """A command that is no applyOps is no transaction."""
        self.assertIsNone(self.successResultOf(self.of(part(1, {"create": "c"}))))

    def test_single(self) -> None:
        """One applyOps is a whole transaction, for which nothing is fetched."""
        stored = Stored()
        self.assertEqual(self.identifiers(part(1, {"applyOps": inserts(1, 2)}, 0), stored), [1, 2])
        self.assertEqual(self.identifiers(part(1, {"applyOps": inserts(3)}), stored), [3])
        self.assertEqual(stored.asked, [])

    def test_chain(self) -> None:
        """Parts wait for the last, which gives all of them in their order."""
        first = part(1, {"applyOps": inserts(1, 2), "partialTxn": True}, 0)
        second = part(2, {"applyOps": inserts(3), "partialTxn": True}, 1)
        last = part(3, {"applyOps": inserts(4), "count": Int64(4)}, 2)
        stored = Stored(first, second)
        self.assertEqual(self.identifiers(first, stored), [])
        self.assertEqual(self.identifiers(second, stored), [])
        self.assertEqual(stored.asked, [])
        self.assertEqual(self.identifiers(last, stored), [1, 2, 3, 4])
        self.assertEqual(stored.asked, [2, 1])

    def test_prepared(self) -> None:
        """What was prepared becomes visible with the commit, not before."""
        first = part(1, {"applyOps": inserts(1), "partialTxn": True}, 0)
        prepare = part(2, {"applyOps": inserts(2), "prepare": True}, 1)
        stored = Stored(first, prepare)
        self.assertEqual(self.identifiers(prepare, stored), [])
        commit = part(4, {"commitTransaction": 1, "commitTimestamp": Timestamp(100, 3)}, 2)
        self.assertEqual(self.identifiers(commit, stored), [1, 2])

    def test_commit_of_nothing(self) -> None:
        """A commit that does not say what it commits is an error, not an empty transaction."""
        commit = part(4, {"commitTransaction": 1, "commitTimestamp": Timestamp(100, 3)}, 0)
        error = self.failureResultOf(self.of(commit), UnsupportedEntry).value
        self.assertIn("commitTransaction", str(error))

    def test_abort(self) -> None:
        """An abort makes nothing visible, and fetches nothing."""
        stored = Stored(part(1, {"applyOps": inserts(1), "prepare": True}, 0))
        self.assertEqual(self.identifiers(part(2, {"abortTransaction": 1}, 1), stored), [])
        self.assertEqual(stored.asked, [])

    def test_separate_operations(self) -> None:
        """A batch of retryable inserts stands for itself, whatever came before it."""
        stored = Stored(part(1, {"applyOps": inserts(1)}, 0, multiOpType=1))
        last = part(2, {"applyOps": inserts(2)}, 1, multiOpType=1)
        self.assertEqual(self.identifiers(last, stored), [2])
        self.assertEqual(stored.asked, [])

    def test_part_missing(self) -> None:
        """A part that was overwritten is an error that says what to do."""
        last = part(3, {"applyOps": inserts(4)}, 2)
        error = self.failureResultOf(self.of(last), UnsupportedEntry).value
        self.assertIn("copy the data anew", str(error))

    def test_large(self) -> None:
        """A chain above a limit is kept in a file, and read from there as often as asked."""
        stored = Stored(
            part(1, {"applyOps": inserts(1, 2), "partialTxn": True}, 0),
            part(2, {"applyOps": inserts(3), "partialTxn": True}, 1),
        )
        last = parse_entry(part(3, {"applyOps": inserts(4), "count": 4}, 2))
        for limit in (1, 400):
            waiting = Deferred.fromCoroutine(source_transaction(last, stored.entry_at, limit))
            found: Any = self.successResultOf(waiting)
            self.assertIsInstance(found, SpilledTransaction)
            for _ in range(2):
                parts = [[each.o[9] for each in part] for part in found.parts()]
                self.assertEqual(parts, [[1, 2], [3], [4]])
            self.assertEqual(found.size, sum(map(len, stored.values())) + len(last.raw))
            found.close()

    def test_large_part_missing(self) -> None:
        """Also of such a one, a part may be gone."""
        stored = Stored(part(2, {"applyOps": inserts(3), "partialTxn": True}, 1))
        last = parse_entry(part(3, {"applyOps": inserts(4), "count": 4}, 2))
        waiting = Deferred.fromCoroutine(source_transaction(last, stored.entry_at, 1))
        self.failureResultOf(waiting, UnsupportedEntry)

    def test_large_prepared(self) -> None:
        """The commit of a prepared one is no part of it."""
        stored = Stored(
            part(1, {"applyOps": inserts(1), "partialTxn": True}, 0),
            part(2, {"applyOps": inserts(2), "prepare": True}, 1),
        )
        last = parse_entry(part(3, {"commitTransaction": 1}, 2))
        found: Any = self.successResultOf(
            Deferred.fromCoroutine(source_transaction(last, stored.entry_at, 1))
        )
        self.assertEqual([[each.o[9] for each in part] for part in found.parts()], [[1], [2]])
        found.close()

    def test_without_a_session(self) -> None:
        """Large deletions of servers from 6.1 on are chains without a session."""
        before = {"ts": Timestamp(100, 1), "t": Int64(5)}
        stored = Stored(part(1, {"applyOps": inserts(1), "partialTxn": True}))
        last = part(2, {"applyOps": inserts(2), "count": 2}, prevOpTime=before)
        self.assertEqual(self.identifiers(last, stored), [1, 2])
