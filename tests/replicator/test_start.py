"""
Tests for L{txmongokit.replicator.start}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.start import StartError, StartPoint, decide, show_position

NOW = 1_700_000_000
"""2023-11-14T22:13:20Z."""
DAY = 86_400


def position(seconds: int, increment: int = 1) -> int:
    """
    A position as integers have it.
    """
    return seconds << 32 | increment


OLDEST = position(NOW - 3 * DAY)
NEWEST = position(NOW - 5, 7)


def start(**given_: Any) -> StartPoint:
    """
    Decide about an oplog of three days, where nothing is said otherwise.
    """
    known: dict[str, Any] = {
        "seconds_back": None,
        "option": None,
        "force_start": False,
        "checkpoint": None,
        "resume_position": None,
        "resume_file": None,
        "oldest": OLDEST,
        "newest": NEWEST,
        "now": float(NOW),
    }
    return decide(**(known | given_))


class ShowPositionTests(SynchronousTestCase):
    """
    Positions in messages.
    """

    def test_time_and_numbers(self) -> None:
        """
        A position is shown as UTC time, and as the two numbers of the oplog.
        """
        self.assertEqual(show_position(position(NOW, 7)), "2023-11-14T22:13:20Z (1700000000, 7)")

    def test_last_second(self) -> None:
        """
        The greatest timestamp can be shown.
        """
        self.assertEqual(show_position(2**64 - 1), "2106-02-07T06:28:15Z (4294967295, 4294967295)")


class DecideTests(SynchronousTestCase):
    """
    The rules of starting.
    """

    def refused(self, **given_: Any) -> str:
        """
        The one sentence that a refused start ends with.
        """
        message = str(self.assertRaises(StartError, start, **given_))
        self.assertNotIn("\n", message)
        return message

    # Nothing says where.

    def test_implicit_day(self) -> None:
        """
        The first start goes 24 hours back, verifies nothing, and its window
        ends with the newest entry.
        """
        self.assertEqual(
            start(), StartPoint((NOW - DAY) << 32, False, "24 hours back", NEWEST, (), False)
        )

    def test_implicit_day_of_a_shorter_oplog(self) -> None:
        """
        Where the oplog is shorter the oldest entry is the start, and a
        warning says so.
        """
        oldest = position(NOW - 3_600, 4)
        found = start(oldest=oldest)
        self.assertEqual((found.position, found.verify, found.window_end), (oldest, False, NEWEST))
        self.assertFalse(found.from_checkpoint)
        self.assertEqual(
            " / ".join(found.warnings),
            "the source's oplog does not reach back 24 hours: starting at its oldest entry, "
            "2023-11-14T21:13:20Z (1699996400, 4)",
        )

    def test_implicit_day_at_the_edge(self) -> None:
        """
        An oplog that begins exactly 24 hours ago is long enough; one entry
        later it is not.
        """
        edge = (NOW - DAY) << 32
        self.assertEqual(start(oldest=edge).warnings, ())
        self.assertEqual(len(start(oldest=edge + 1).warnings), 1)

    def test_implicit_day_of_an_idle_source(self) -> None:
        """
        A source that has written nothing for days is waited for from 24
        hours ago.
        """
        newest = position(NOW - 2 * DAY)
        found = start(newest=newest)
        self.assertEqual((found.position, found.window_end), ((NOW - DAY) << 32, newest))

    # An explicit time.

    def test_explicit(self) -> None:
        """
        An explicit time starts with the first entry of its second.
        """
        self.assertEqual(
            start(seconds_back=600.0, option="--seconds"),
            StartPoint((NOW - 600) << 32, False, "--seconds", NEWEST, (), False),
        )

    def test_explicit_fraction(self) -> None:
        """
        A part of a second is rounded to the earlier start.
        """
        found = start(seconds_back=0.5, option="--window")
        self.assertEqual(found.position, (NOW - 1) << 32)

    def test_explicit_over_the_file(self) -> None:
        """
        An explicit time wins over the resume file, even over a useless one.
        """
        for useless in (position(NOW - 60), OLDEST - 1, NEWEST + 1):
            found = start(
                seconds_back=600.0,
                option="--seconds",
                resume_position=useless,
                resume_file=Path("mongooplog.ts"),
            )
            self.assertEqual(found.position, (NOW - 600) << 32)
            self.assertFalse(found.verify)

    def test_explicit_older_than_the_oplog(self) -> None:
        """
        An explicit time before the oldest entry stops, with both times and
        the mend.
        """
        self.assertEqual(
            self.refused(seconds_back=4.0 * DAY, option="--window"),
            "--window asks for 2023-11-10T22:13:20Z (1699654400, 0), but the source's oplog "
            "begins at 2023-11-11T22:13:20Z (1699740800, 1): choose a later start, or copy the "
            "data anew and give the source a larger oplog",
        )

    def test_explicit_at_the_edge(self) -> None:
        """
        An entry of the asked second that is gone is one too many.
        """
        back = {"seconds_back": 3.0 * DAY, "option": "--seconds"}
        self.assertEqual(start(**back, oldest=(NOW - 3 * DAY) << 32).warnings, ())
        self.refused(**back, oldest=position(NOW - 3 * DAY, 1))

    def test_explicit_before_the_epoch(self) -> None:
        """
        More seconds than there are since 1970 are older than the oplog.
        """
        message = self.refused(seconds_back=9e9, option="--seconds")
        self.assertIn("--seconds asks for 1970-01-01T00:00:00Z (0, 0)", message)

    # The destination's checkpoint.

    def test_checkpoint(self) -> None:
        """
        A checkpoint must be found first, and keeps the window that it has
        stored.
        """
        stored = position(NOW - 60, 3)
        self.assertEqual(
            start(checkpoint=stored),
            StartPoint(stored, True, "the destination's checkpoint", 0, (), True),
        )

    def test_checkpoint_wins_over_the_file(self) -> None:
        """
        The checkpoint moves with the data and wins over the file, whatever
        that says.
        """
        stored = position(NOW - 60, 3)
        for other in (position(NOW - 90), position(NOW - 30), OLDEST - 1, NEWEST + 1):
            found = start(
                checkpoint=stored, resume_position=other, resume_file=Path("mongooplog.ts")
            )
            self.assertEqual(found.position, stored)
            self.assertTrue(found.from_checkpoint)

    def test_checkpoint_contradicted(self) -> None:
        """
        An explicit time beside a checkpoint is refused, by the option that
        gave it.
        """
        for option in ("--seconds", "--window"):
            self.assertEqual(
                self.refused(seconds_back=60.0, option=option, checkpoint=position(NOW - 60, 3)),
                f"{option} contradicts the destination's checkpoint, which is at "
                f"2023-11-14T22:12:20Z (1699999940, 3): leave {option} out to go on from there, "
                "or add --force-start to begin anew",
            )

    def test_checkpoint_overruled(self) -> None:
        """
        With --force-start the explicit time wins, with a window of its own,
        even over a checkpoint that the oplog does not hold.
        """
        for stored in (position(NOW - 60), OLDEST - 1, NEWEST + 1):
            self.assertEqual(
                start(seconds_back=600.0, option="--seconds", force_start=True, checkpoint=stored),
                StartPoint((NOW - 600) << 32, False, "--seconds", NEWEST, (), False),
            )

    def test_forced_and_older_than_the_oplog(self) -> None:
        """
        What the oplog does not hold cannot be forced.
        """
        message = self.refused(
            seconds_back=4.0 * DAY, option="--window", force_start=True, checkpoint=NEWEST
        )
        self.assertIn("--window asks for", message)

    def test_force_start_alone(self) -> None:
        """
        Without an explicit time there is nothing to force: the checkpoint
        stands.
        """
        self.assertTrue(start(force_start=True, checkpoint=NEWEST).from_checkpoint)

    def test_checkpoint_older_than_the_oplog(self) -> None:
        """
        A checkpoint before the oldest entry stops, with both times and the
        mend.
        """
        self.assertEqual(
            self.refused(checkpoint=position(NOW - 4 * DAY, 2)),
            "the destination's checkpoint is at 2023-11-10T22:13:20Z (1699654400, 2), but the "
            "source's oplog begins at 2023-11-11T22:13:20Z (1699740800, 1): what lies between is "
            "lost, so copy the data anew and give the source a larger oplog, or do without it by "
            "a later start (--seconds or --window, and --force-start where there is a "
            "checkpoint)",
        )

    def test_checkpoint_newer_than_the_oplog(self) -> None:
        """
        A checkpoint behind the newest entry is of another source, or was
        rolled back.
        """
        self.assertEqual(
            self.refused(checkpoint=position(NOW, 2)),
            "the destination's checkpoint is at 2023-11-14T22:13:20Z (1700000000, 2), but the "
            "source's oplog ends at 2023-11-14T22:13:15Z (1699999995, 7): it is of another "
            "source, or the source was rolled back; copy the data anew",
        )

    def test_checkpoint_before_the_first_batch(self) -> None:
        """
        Where a start ended before its first batch there is no applied entry
        to find, and the source may not have come as far yet; the oplog must
        reach back to it all the same.
        """
        for stored in (position(NOW - 60, 0), NEWEST + 1):
            self.assertEqual(
                start(checkpoint=stored, applied=False),
                StartPoint(stored, False, "the destination's checkpoint", 0, (), True),
            )
        message = self.refused(checkpoint=OLDEST - 1, applied=False)
        self.assertIn("the destination's checkpoint is at 2023-11-11T22:13:20Z", message)
        self.assertIn("copy the data anew", message)

    # The resume file.

    def test_file(self) -> None:
        """
        A file's entry must be found first; it does not prove that the
        destination is a whole copy, so a window opens up to the newest entry.
        """
        saved = position(NOW - 60, 3)
        self.assertEqual(
            start(resume_position=saved, resume_file=Path("a/b.ts")),
            StartPoint(saved, True, "the resume file 'a/b.ts'", NEWEST, (), False),
        )

    def test_file_outside_the_oplog(self) -> None:
        """
        A file's position that the oplog cannot hold stops by the file's
        name.
        """
        older = self.refused(resume_position=OLDEST - 1, resume_file=Path("a/b.ts"))
        newer = self.refused(resume_position=NEWEST + 1, resume_file=Path("a/b.ts"))
        self.assertIn("the resume file 'a/b.ts' is at 2023-11-11T22:13:20Z", older)
        self.assertIn("begins at 2023-11-11T22:13:20Z (1699740800, 1): what lies between", older)
        self.assertIn("the resume file 'a/b.ts' is at 2023-11-14T22:13:15Z (1699999995, 8)", newer)
        self.assertIn("ends at 2023-11-14T22:13:15Z (1699999995, 7): it is of another", newer)

    def test_edges_of_the_oplog(self) -> None:
        """
        The oldest and the newest entry can both be resumed after.
        """
        for edge in (OLDEST, NEWEST):
            self.assertEqual(start(checkpoint=edge).position, edge)
            self.assertEqual(start(resume_position=edge, resume_file=Path("f")).position, edge)

    # All of them.

    @given(
        back=st.none() | st.floats(min_value=0.001, max_value=9e9),
        force=st.booleans(),
        checkpoint=st.none() | st.integers(0, 2**64 - 1) | st.integers(OLDEST, NEWEST),
        saved=st.none() | st.integers(0, 2**64 - 1) | st.integers(OLDEST, NEWEST),
    )
    def test_never_before_the_oplog(
        self, back: float | None, force: bool, checkpoint: int | None, saved: int | None
    ) -> None:
        """
        Whatever is asked for, a start is never before the oldest entry, and
        one that must be verified is never behind the newest.
        """
        try:
            found = start(
                seconds_back=back,
                option=None if back is None else "--seconds",
                force_start=force,
                checkpoint=checkpoint,
                resume_position=saved,
                resume_file=Path("mongooplog.ts"),
            )
        except StartError:
            return
        self.assertGreaterEqual(found.position, OLDEST)
        self.assertEqual(found.verify, found.position in (checkpoint, saved) and back is None)
        if found.verify:
            self.assertLessEqual(found.position, NEWEST)
        self.assertEqual(found.from_checkpoint, checkpoint is not None and back is None)
        self.assertEqual(found.window_end, 0 if found.from_checkpoint else NEWEST)
