"""
Where to begin: the rules, as one decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["StartError", "StartPoint", "decide", "show_position"]

DEFAULT_SECONDS = 86_400.0
"""How far back the first start goes when nothing says otherwise."""


class StartError(Exception):
    """
    There is no right place to begin: one sentence with the cause and the
    mend.
    """


@dataclass(frozen=True, slots=True)
class StartPoint:
    """
    Where to begin.

    @ivar position: seconds in the upper, increment in the lower 32 bits.
    @ivar verify: whether the entry at C{position} was applied already, and
        must be found first.
    @ivar origin: what said so, for people to read.
    @ivar window_end: updates up to here may find no document; 0 for what
        the checkpoint has stored.
    @ivar from_checkpoint: whether the destination's checkpoint says so.
    """

    position: int
    verify: bool
    origin: str
    window_end: int
    warnings: tuple[str, ...] = ()
    from_checkpoint: bool = False


def show_position(position: int) -> str:
    """
    A position for people to read.
    """
    seconds, increment = position >> 32, position & 0xFFFFFFFF
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ} ({seconds}, {increment})"


def decide(
    *,
    seconds_back: float | None,
    option: str | None,
    force_start: bool,
    checkpoint: int | None,
    applied: bool = True,
    resume_position: int | None,
    resume_file: Path | None,
    oldest: int,
    newest: int,
    now: float,
) -> StartPoint:
    """
    Decide where to begin.

    The destination's checkpoint wins over the file, because it moves with
    the data; an explicit start contradicts it and must be forced.  An
    explicit start wins over the file.  Without any of them the start is 24
    hours back, or the oldest entry where the oplog is shorter.

    @param seconds_back: what C{option} asks for, if it was given.
    @param option: the option that gave C{seconds_back}, for messages.
    @param force_start: whether an explicit start wins over the checkpoint.
    @param checkpoint: the position in the destination.
    @param applied: whether the entry at that position was applied; C{False}
        where an earlier start ended before its first batch.
    @param resume_position: the position in C{resume_file}.
    @param resume_file: where C{resume_position} was read, for messages.
    @param oldest: the position of the oldest entry of the source's oplog.
    @param newest: the position of the newest entry of the source's oplog.
    @param now: seconds since the epoch.

    @return: where to begin.  What starts at a time has a window up to
        C{newest}, and so has what resumes by a file, which does not prove
        that the destination is a whole copy.

    @raise StartError: what was asked for cannot be had, or contradicts the
        checkpoint.
    """
    if seconds_back is not None:
        if checkpoint is not None and not force_start:
            raise StartError(
                f"{option} contradicts the destination's checkpoint, which is at "
                f"{show_position(checkpoint)}: leave {option} out to go on from there, or add "
                "--force-start to begin anew"
            )
        position = _ago(now, seconds_back)
        if position < oldest:
            raise StartError(
                f"{option} asks for {show_position(position)}, but the source's oplog begins at "
                f"{show_position(oldest)}: choose a later start, or copy the data anew and give "
                "the source a larger oplog"
            )
        return StartPoint(position, False, f"{option}", newest)
    if checkpoint is not None:
        origin = "the destination's checkpoint"
        _check(checkpoint, origin, oldest, newest if applied else max(newest, checkpoint))
        return StartPoint(checkpoint, applied, origin, 0, from_checkpoint=True)
    if resume_position is not None:
        origin = f"the resume file {str(resume_file)!r}"
        _check(resume_position, origin, oldest, newest)
        return StartPoint(resume_position, True, origin, newest)
    return _first(now, oldest, newest)


def _first(now: float, oldest: int, newest: int) -> StartPoint:
    position = _ago(now, DEFAULT_SECONDS)
    if position >= oldest:
        return StartPoint(position, False, "24 hours back", newest)
    warning = (
        f"the source's oplog does not reach back 24 hours: starting at its oldest entry, "
        f"{show_position(oldest)}"
    )
    return StartPoint(oldest, False, "the oldest entry of the oplog", newest, (warning,))


def _ago(now: float, seconds: float) -> int:
    return max(0, int(now - seconds)) << 32


def _check(position: int, origin: str, oldest: int, newest: int) -> None:
    if position < oldest:
        raise StartError(
            f"{origin} is at {show_position(position)}, but the source's oplog begins at "
            f"{show_position(oldest)}: what lies between is lost, so copy the data anew and give "
            "the source a larger oplog, or do without it by a later start (--seconds or --window, "
            "and --force-start where there is a checkpoint)"
        )
    if position > newest:
        raise StartError(
            f"{origin} is at {show_position(position)}, but the source's oplog ends at "
            f"{show_position(newest)}: it is of another source, or the source was rolled back; "
            "copy the data anew"
        )
