"""
Tests for L{txmongokit.replicator.verification}: what needs no server.  The
rest is in L{tests.integration.test_verification}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.selection import Selection
from txmongokit.replicator.verification import Follower, in_scope


class FollowerTests(SynchronousTestCase):
    """
    Waiting for the replication.
    """

    def setUp(self) -> None:
        """A replication at 5."""
        self.clock = Clock()
        self.position: int | None = 5

    def wait_for(self, wanted: int) -> Deferred[bool]:
        """Wait, with a patience of ten seconds."""

        async def position() -> int | None:
            return self.position

        return Deferred.fromCoroutine(Follower(self.clock, position, 10.0).passed(wanted))

    def test_there(self) -> None:
        """It is there, or further."""
        self.assertIs(self.successResultOf(self.wait_for(5)), True)
        self.assertIs(self.successResultOf(self.wait_for(4)), True)

    def test_later(self) -> None:
        """It gets there, in more than the patience, but never standing still so long."""
        waiting = self.wait_for(8)
        for position in (6, 7):
            self.clock.pump([0.5] * 15)
            self.position = position
        self.clock.pump([0.5] * 15)
        self.assertNoResult(waiting)
        self.position = 9
        self.clock.pump([0.5])
        self.assertIs(self.successResultOf(waiting), True)

    def test_stands_still(self) -> None:
        """It does not get there."""
        waiting = self.wait_for(8)
        self.clock.pump([0.5] * 25)
        self.assertIs(self.successResultOf(waiting), False)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_none(self) -> None:
        """Where nothing replicates, a moment must do."""
        self.position = None
        waiting = self.wait_for(8)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.assertIs(self.successResultOf(waiting), True)


class ScopeTests(SynchronousTestCase):
    """
    What in the destination has a source.
    """

    def scope(self, *namespaces: str, **options: Any) -> list[str]:
        """Those that are in scope."""
        selection = Selection(
            options.get("ns", ()), options.get("exclude", ()), options.get("rename", ())
        )
        return [each for each in namespaces if in_scope(selection, each)]

    def test_everything(self) -> None:
        """Without a selection, all but what is the server's own and ours."""
        self.assertEqual(
            self.scope(
                *("app.users", "admin.x", "config.x", "local.x", "txmongokit.mongosync"),
                *("app.system.views", "app.system.profile", "app.system.buckets.ts"),
            ),
            ["app.users", "app.system.buckets.ts"],
        )

    def test_selected(self) -> None:
        """Only what is selected."""
        self.assertEqual(self.scope("app.a", "app.b", "c.d", ns=["app.a", "c"]), ["app.a", "c.d"])
        self.assertEqual(self.scope("app.a", "app.b", exclude=["app.a"]), ["app.b"])

    def test_renamed(self) -> None:
        """Under the new name, and no longer under the old one."""
        names = ("app.users", "copy.users", "copy.people", "app.other")
        self.assertEqual(self.scope(*names, rename=["app=copy"]), ["copy.users", "copy.people"])
        self.assertEqual(
            self.scope(*names, ns=["app.users"], rename=["app.users=copy.people"]), ["copy.people"]
        )

    def test_asking_changes_nothing(self) -> None:
        """The selection, which the replication uses too, does not remember the question."""
        selection = Selection((), (), ["app.users=copy.people"])
        in_scope(selection, "copy.people")
        self.assertEqual(selection.destination("app.users"), "copy.people")
