"""
Tests for L{txmongokit.replicator.reversal}.  The way back between real sets is
in L{tests.integration.test_cutover}.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bson import Int64, Timestamp
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool, refused
from txmongokit.replicator.arguments import parse
from txmongokit.replicator.checkpoint import Checkpoint, FencedError
from txmongokit.replicator.reversal import (
    ReversalError,
    prepare_reversal,
    read_committed,
    record_committed,
    refuse_committed,
    reversed_selection,
)
from txmongokit.replicator.selection import Selection

_AT = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
_COMMITTED = {"seq": Int64(7), "ts": Timestamp(100, 2), "t": Int64(3), "at": _AT}


class SelectionTests(SynchronousTestCase):
    """
    The selection of the other direction.
    """

    def turned(
        self, include: list[str], exclude: list[str], renames: list[str]
    ) -> tuple[tuple[str, ...], ...]:
        """What comes out."""
        selection = reversed_selection(Selection(include, exclude, renames))
        return selection.include, selection.exclude, selection.renames

    def test_names(self) -> None:
        """Names are selected as they are in the destination, and changed back."""
        self.assertEqual(
            self.turned(["app", "x.y", "z"], ["app.log"], ["app=copy", "x.y=a.b"]),
            (("copy", "a.b", "z"), ("copy.log",), ("copy=app", "a.b=x.y")),
        )

    def test_twice(self) -> None:
        """Turned twice, it selects as at first."""
        first = Selection(["app"], ["app.log"], ["app=copy"])
        again = reversed_selection(reversed_selection(first))
        self.assertEqual(again.describe(), first.describe())
        self.assertEqual(again.fingerprint(), first.fingerprint())

    def test_patterns(self) -> None:
        """Patterns stay where no name is changed, and cannot be turned where one is."""
        self.assertEqual(self.turned(["app_*"], ["/log/"], []), (("app_*",), ("/log/",), ()))
        self.assertRaises(ReversalError, self.turned, ["app_*"], [], ["app_1=copy"])
        self.assertRaises(ReversalError, self.turned, [], [], ["app_*=copy_*"])


class CommittedTests(SynchronousTestCase):
    """
    What the destination remembers of a cut-over.
    """

    def read(self, document: dict[str, Any] | None) -> Any:
        """Read it."""
        found = [] if document is None else [document]
        return self.successResultOf(
            Deferred.fromCoroutine(read_committed(fake_pool(cursor_reply(found)), "k"))
        )

    def test_read(self) -> None:
        """It counts as long as the checkpoint has not moved."""
        found = self.read({"_id": "k", "seq": Int64(7), "committed": _COMMITTED})
        self.assertEqual((found.position, found.term), (100 << 32 | 2, 3))
        self.assertIsNone(self.read({"_id": "k", "seq": Int64(8), "committed": _COMMITTED}))
        self.assertIsNone(self.read({"_id": "k", "seq": Int64(8)}))
        self.assertIsNone(self.read(None))

    def record(self, *replies: Any) -> tuple[Deferred[Any], Any]:
        """Note a cut-over at the checkpoint's seq of 7."""
        pool = fake_pool(*replies)
        checkpoint = Checkpoint(7, 50 << 32, 1)
        return Deferred.fromCoroutine(record_committed(pool, "k", checkpoint)), pool.runner

    def test_record(self) -> None:
        """The end of the destination's oplog is noted, if the checkpoint has not moved."""
        newest = cursor_reply([{"ts": Timestamp(100, 2), "t": Int64(3)}])
        recording, runner = self.record(newest, {"n": 1, "nModified": 1})
        self.assertEqual(self.successResultOf(recording).position, 100 << 32 | 2)
        statement = runner.statements(1)[0]
        self.assertEqual(statement["q"], {"_id": "k", "seq": 7})
        self.assertEqual(statement["u"]["$set"]["committed"]["ts"], Timestamp(100, 2))
        recording, _ = self.record(newest, {"n": 0, "nModified": 0})
        self.failureResultOf(recording, FencedError)

    def test_no_oplog(self) -> None:
        """A destination whose oplog may not be read can be committed to, but not reversed."""
        for first in (refused(13), cursor_reply([])):
            recording, _ = self.record(first, {"n": 1, "nModified": 1})
            self.assertEqual(self.successResultOf(recording).position, 0)

    def test_refuse(self) -> None:
        """A replication does not go on after its cut-over."""
        document = {"_id": "k", "seq": Int64(7), "committed": _COMMITTED}
        refusing = Deferred.fromCoroutine(
            refuse_committed(fake_pool(cursor_reply([document])), "k")
        )
        error = self.failureResultOf(refusing, ReversalError).value
        self.assertIn("2026-11-21T12:00:00Z", str(error))
        self.assertIn("--force-start", str(error))
        going = Deferred.fromCoroutine(refuse_committed(fake_pool(cursor_reply([])), "k"))
        self.assertIsNone(self.successResultOf(going))

    def test_prepare_too_early(self) -> None:
        """Nothing is prepared while the forward direction may run, or without an oplog."""
        arguments = parse(["--from", "a", "--to", "b"])
        lost = {**_COMMITTED, "ts": Timestamp(0, 0)}
        for document, word in (
            ({"_id": "k", "seq": Int64(8), "committed": _COMMITTED}, "forward run is active"),
            ({"_id": "k", "seq": Int64(7), "committed": lost}, "no oplog"),
        ):
            source, destination = fake_pool(), fake_pool(cursor_reply([document]))
            preparing = prepare_reversal(source, destination, "k", arguments)
            error = self.failureResultOf(Deferred.fromCoroutine(preparing), ReversalError).value
            self.assertIn(word, str(error))
            self.assertEqual(source.runner.commands, [])

    def test_prepare_downwards(self) -> None:
        """There is no way back to a server that is older."""
        document = {"_id": "k", "seq": Int64(7), "committed": _COMMITTED}

        def described(version: list[int]) -> list[Any]:
            return [
                {"setName": "rs", "ok": 1},
                {"versionArray": version, "ok": 1},
                *[refused(13)] * 3,
            ]

        source = fake_pool(*described([5, 0, 4]))
        destination = fake_pool(cursor_reply([document]), *described([6, 0, 5]))
        preparing = prepare_reversal(source, destination, "k", parse(["--from", "a", "--to", "b"]))
        error = self.failureResultOf(Deferred.fromCoroutine(preparing), ReversalError).value
        self.assertIn("the former source is of version 5.0.4", str(error))
