"""
Tests for L{txmongokit.web.merging}.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

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


class MergeTests(SynchronousTestCase):
    """
    Three sides, key by key.
    """

    def merged(self, base: Any, ours: Any, theirs: Any) -> Any:
        """The data after a merge."""
        conflict = SessionConflict(record(ours), base, record(theirs, version=2))
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

    def test_users(self) -> None:
        """A log-in is brought along, unless somebody else has logged in."""
        ours = record({}, "ada")
        self.assertEqual(merge(SessionConflict(ours, {}, record({}))).user, "ada")
        other = SessionConflict(ours, {}, record({}, "grace"))
        self.assertRaises(SessionConflict, merge, other)

    def test_lifetime(self) -> None:
        """A lifetime is brought along."""
        ours = replace(record({}), lifetime=2 * HOUR)
        self.assertEqual(merge(SessionConflict(ours, {}, record({}))).lifetime, 2 * HOUR)
