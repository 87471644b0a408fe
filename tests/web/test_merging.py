"""
Tests for L{txmongokit.web.merging}.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.web.errors import SessionConflict
from txmongokit.web.merging import merge
from txmongokit.web.records import SessionRecord, Snapshot

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOUR = timedelta(hours=1)


def record(data: dict[str, Any], user: str | None = None, version: int = 1) -> SessionRecord:
    """A record that was loaded as nobody's."""
    made = SessionRecord("id", data, user, False, NOW, NOW, NOW + HOUR, HOUR, version)
    made.snapshot = Snapshot(b"", None, HOUR)
    return made


def conflict_of(ours: SessionRecord, base: Any, current: SessionRecord) -> SessionConflict:
    """A conflict of a store without a codec."""
    return SessionConflict(ours, base, current, bson.encode)


class MergeTests(SynchronousTestCase):
    """
    Three sides, key by key.
    """

    def merged(self, base: Any, ours: Any, theirs: Any) -> Any:
        """The data after a merge."""
        conflict = conflict_of(record(ours), base, record(theirs, version=2))
        result = merge(conflict)
        self.assertIs(result, conflict.current)
        return result.data

    def test_merges(self) -> None:
        """Keys that one side has added, changed or deleted."""
        for base, ours, theirs, wanted in (
            ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
            ({"a": 1}, {"a": 2}, {"a": 1, "b": 2}, {"a": 2, "b": 2}),
            ({"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2}),
            ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"b": 1}, {"b": 2}),
            ({"a": None}, {}, {"a": None, "b": 1}, {"b": 1}),
        ):
            self.assertEqual(self.merged(base, ours, theirs), wanted)

    def test_conflicts(self) -> None:
        """Keys that both have changed, be it to the same."""
        for base, ours, theirs in (
            ({}, {"a": 1}, {"a": 2}),
            ({"a": 1}, {"a": 2}, {"a": 2}),
            ({"a": 1}, {}, {"a": 2}),
            ({"a": 1}, {"a": 2}, {}),
        ):
            self.assertRaises(SessionConflict, self.merged, base, ours, theirs)

    def test_equal_and_not_the_same(self) -> None:
        """What Python takes for equal, and the database does not, is a change."""
        for was, mine in ((1, True), (False, 0), (1, 1.0)):
            merged = self.merged({"a": was}, {"a": mine}, {"a": was, "b": 2})
            self.assertEqual((merged["b"], type(merged["a"])), (2, type(mine)))
            self.assertRaises(SessionConflict, self.merged, {"a": was}, {"a": was + 1}, {"a": mine})

    def test_the_same_and_not_equal(self) -> None:
        """What a caller has saved is no change for having other types than what was loaded."""
        when = NOW.replace(microsecond=1234)
        stored = {"a": [1, 2], "b": float("nan"), "c": NOW.replace(tzinfo=None, microsecond=1000)}
        ours = {"a": (1, 2), "b": float("nan"), "c": when, "d": 1}
        theirs = {"a": [3], "b": 1.5, "c": None}
        self.assertEqual(self.merged(stored, ours, theirs), {**theirs, "d": 1})

    def test_nothing_by_halves(self) -> None:
        """Where it cannot be done, the record that is stored now stays as it is."""
        cases: list[tuple[Any, str | None]] = [({"a": 1, "b": 3}, None), ({"b": 1}, "grace")]
        for theirs, user in cases:
            ours, current = record({"a": 2, "b": 2}, "ada"), record(dict(theirs), user)
            conflict = conflict_of(ours, {"a": 1, "b": 1} if user is None else {"b": 1}, current)
            self.assertRaises(SessionConflict, merge, conflict)
            self.assertEqual((current.data, current.user), (theirs, user))

    def test_users(self) -> None:
        """A log-in is brought along, unless somebody else has logged in."""
        ours = record({}, "ada")
        self.assertEqual(merge(conflict_of(ours, {}, record({}))).user, "ada")
        other = conflict_of(ours, {}, record({}, "grace"))
        self.assertRaises(SessionConflict, merge, other)

    def test_lifetime(self) -> None:
        """A lifetime is brought along."""
        ours = replace(record({}), lifetime=2 * HOUR)
        self.assertEqual(merge(conflict_of(ours, {}, record({}))).lifetime, 2 * HOUR)
