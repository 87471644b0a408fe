"""
Tests for L{txmongokit.replicator.ledger}.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.binary import Binary
from bson.int64 import Int64
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool
from tests.replicator.test_checkpoint import AT, CURRENT
from txmongokit.errors import AutoReconnect
from txmongokit.replicator.blueprints import Blueprint
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.ledger import CATCH_UP, COPY, Ledger, Piece
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.segments import Segment

FOUND = {"ok": 1, "n": 1, "nModified": 1}
NOT_FOUND = {"ok": 1, "n": 0, "nModified": 0}


def made(namespace: str = "db.c") -> Blueprint:
    """A collection that was listed."""
    return Blueprint(b"u" * 16, namespace, "collection", {})


class LedgerTests(SynchronousTestCase):
    """
    Progress that is kept in the destination.
    """

    def ledger(self, *replies: Any) -> Ledger:
        """A ledger over a script."""
        self.clock = Clock()
        self.pool = fake_pool(*replies)
        ledger = Ledger(self.pool, "rs all", Patience(self.clock, 10.0))
        ledger.owner = 7
        return ledger

    def sent(self, number: int = 0) -> dict[str, Any]:
        """The statement of an update that was sent."""
        found: dict[str, Any] = self.pool.runner.statements(number)[0]
        return found

    def enter(self, ledger: Ledger) -> Deferred[Checkpoint]:
        """Go to the catch-up."""
        return Deferred.fromCoroutine(ledger.enter(CURRENT, CATCH_UP, window_end=AT + 50))

    def test_phase(self) -> None:
        """The checkpoint says in which phase the clone is, or that there is none."""
        at = {"clone": {"phase": COPY, "planned": True}}
        for document, phase in (({"_id": "rs all", **at}, (COPY, True)), ({"_id": "rs all"}, None)):
            ledger = self.ledger(cursor_reply([document]))
            found = self.successResultOf(Deferred.fromCoroutine(ledger.phase()))
            self.assertEqual(found, phase)

    def test_enter(self) -> None:
        """A phase is entered with the next C{seq}, from the one before it only."""
        ledger = self.ledger(FOUND)
        following = self.successResultOf(self.enter(ledger))
        self.assertEqual((following.seq, following.window_end), (CURRENT.seq + 1, AT + 50))
        self.assertEqual(self.sent()["q"], {"_id": "rs all", "seq": Int64(CURRENT.seq)})
        self.assertEqual(self.sent()["u"]["$set"]["clone"]["phase"], CATCH_UP)

    def test_enter_fenced(self) -> None:
        """Nobody enters a phase of another process's clone."""
        self.failureResultOf(self.enter(self.ledger(NOT_FOUND)), FencedError)

    def test_enter_without_an_answer(self) -> None:
        """An update whose answer was lost is found to have been made."""
        ledger = self.ledger(
            AutoReconnect("gone"), AutoReconnect("gone"), NOT_FOUND, cursor_reply([{"_id": 1}])
        )
        entering = self.enter(ledger)
        self.clock.pump([1.0] * 5)
        self.assertEqual(self.successResultOf(entering).seq, CURRENT.seq + 1)

    def test_check(self) -> None:
        """A process is the owner as long as the C{seq} is its own."""
        ledger = self.ledger(cursor_reply([{"_id": "rs all", "seq": Int64(7)}]))
        self.successResultOf(Deferred.fromCoroutine(ledger.check()))
        ledger = self.ledger(cursor_reply([{"_id": "rs all", "seq": Int64(8)}]))
        self.failureResultOf(Deferred.fromCoroutine(ledger.check()), FencedError)

    def test_piece(self) -> None:
        """A piece's progress is stored by its owner only."""
        piece = Piece(b"u" * 16, Segment(3, None, None), after=b"raw", documents=5)
        ledger = self.ledger(FOUND)
        self.successResultOf(Deferred.fromCoroutine(ledger.save_piece(piece)))
        self.assertEqual(self.sent()["q"]["owner"], 7)
        self.assertEqual(self.sent()["u"]["$set"]["documents"], 5)
        saving = Deferred.fromCoroutine(self.ledger(NOT_FOUND).save_piece(piece))
        self.failureResultOf(saving, FencedError)

    def load(self, position: int, document: dict[str, Any]) -> list[Blueprint]:
        """The blueprints found when the checkpoint is at a position."""
        stored = bson.decode(bson.encode(document))
        ledger = self.ledger(cursor_reply([stored]), cursor_reply([]))
        found, _ = self.successResultOf(Deferred.fromCoroutine(ledger.load(position)))
        return found

    def test_change(self) -> None:
        """A change counts only once the checkpoint has come to it."""
        document = {**made().pack(), "at": Int64(AT), "next": made("db.later").pack()}
        self.assertEqual(self.load(AT - 1, document), [made()])
        self.assertEqual(self.load(AT, document), [made("db.later")])
        created = {"at": Int64(AT), "next": made().pack()}
        self.assertEqual(self.load(AT - 1, created), [])
        self.assertEqual(self.load(AT, created), [made()])

    def test_change_after_a_change(self) -> None:
        """What is stored beside a change is what was before it."""
        ledger = self.ledger(FOUND, FOUND)
        blueprint = made()
        for position, name in ((AT, "db.one"), (AT + 1, "db.two")):
            blueprint.namespace = name
            self.successResultOf(Deferred.fromCoroutine(ledger.save_change(blueprint, position)))
        stored = self.sent(1)["u"]
        self.assertEqual((stored["ns"], stored["next"]["ns"]), ("db.one", "db.two"))
        self.assertEqual(stored["at"], AT + 1)

    def test_ranges(self) -> None:
        """Ranges are read as they were stored, and are resumed."""
        stored = {
            "uuid": Binary(b"u" * 16, 4), "number": 2, "lower": Binary(b"low"), "upper": None,
            "after": Binary(b"mid"), "done": False, "documents": Int64(4), "size": Int64(9),
        }  # fmt: skip
        ledger = self.ledger(cursor_reply([]), cursor_reply([stored]))
        _, (piece,) = self.successResultOf(Deferred.fromCoroutine(ledger.load(AT)))
        self.assertEqual(
            piece,
            Piece(b"u" * 16, Segment(2, b"low", None), b"mid", False, 4, 9, resumed=True),
        )
