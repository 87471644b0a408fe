"""
The states of a replication, what may be asked of it in each, and the way from
following to the end: the cut-over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from math import inf
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.replicator.comparison import Report
from txmongokit.replicator.tailer import last_written
from txmongokit.replicator.verification import Follower

__all__ = [
    "BadOrder",
    "Controls",
    "CutOver",
    "IllegalTransition",
    "NotEqual",
    "Pausable",
    "State",
    "WritesGoOn",
]

# Nothing may come for so long, and how often that is tried (seconds).
_QUIET = 3.0
_TRIES = 20
_LIMITS = (
    'limit takes "operations" or "bytes", or both, and numbers of at least 0, as in '
    '{"operations": 5000, "bytes": 0}'
)


class State(Enum):
    """
    What a replication is doing.
    """

    STARTING = "starting"
    CLONING = "cloning"
    FOLLOWING = "following"
    PAUSED = "paused"
    COMMITTING = "committing"
    VERIFYING = "verifying"
    COMMITTED = "committed"
    FAILED = "failed"
    ENDED = "ended"


class IllegalTransition(Exception):
    """
    What was asked for cannot be done now: one sentence with what can.
    """


class BadOrder(Exception):
    """
    What was asked for makes no sense in any state: one sentence with what
    does.
    """


class WritesGoOn(Exception):
    """
    The source is still written to, so there is no moment for a cut-over.
    """


class NotEqual(Exception):
    """
    The verification has found differences.

    @ivar report: what they are.
    """

    def __init__(self, report: Report) -> None:
        super().__init__("the destination is not a copy of the source")
        self.report = report


class Pausable(Protocol):
    """
    A replication that can stand still.
    """

    def pause(self) -> None:
        """
        Finish the batch under way, and wait.
        """

    def resume(self) -> None:
        """
        Go on.
        """


class Controls:
    """
    The state, and who may change it.

    @param limit: called with how many operations, and bytes, a second there
        may be from now on; C{None} for as many as before.
    @ivar state: the present one.
    @ivar message: what an operator should know of it.
    @ivar reversing: whether the other direction is to be prepared at the end
        of the cut-over.
    """

    def __init__(
        self, limit: Callable[[float | None, float | None], object] = lambda *_: None
    ) -> None:
        self.state = State.STARTING
        self.message = ""
        self.reversing = False
        self._replication: Pausable | None = None
        self._commit: Callable[[], object] | None = None
        self._limit = limit

    def following(self, replication: Pausable, commit: Callable[[], object] | None) -> None:
        """
        The replication follows the oplog from now on.

        @param commit: begins the cut-over; C{None} where there is none,
            because the replication ends by itself.
        """
        self._replication = replication
        self._commit = commit
        self.enter(State.FOLLOWING)

    def enter(self, state: State, message: str = "") -> None:
        """
        Note a state that was reached.
        """
        self.state = state
        self.message = message

    def pause(self) -> None:
        """
        Stand still after the batch under way.

        @raise IllegalTransition: it is not following.
        """
        self._require("pause", State.FOLLOWING)
        assert self._replication is not None
        self._replication.pause()
        self.enter(State.PAUSED)

    def resume(self) -> None:
        """
        Go on after a pause.

        @raise IllegalTransition: it is not paused.
        """
        self._require("resume", State.PAUSED)
        assert self._replication is not None
        self._replication.resume()
        self.enter(State.FOLLOWING)

    def limit(self, wanted: Mapping[str, object]) -> None:
        """
        Go no faster from now on.

        @param wanted: how many C{operations} and C{bytes} a second; 0 for any
            number.  What is not named stays as it is.
        @raise BadOrder: it names something else, or nothing, or these are no
            such numbers.
        """
        limits = {name: _checked_limit(given) for name, given in wanted.items()}
        if not limits or not limits.keys() <= {"operations", "bytes"}:
            raise BadOrder(_LIMITS)
        self._limit(limits.get("operations"), limits.get("bytes"))

    def commit(self, *, writes_blocked: bool) -> None:
        """
        Begin the cut-over.

        @param writes_blocked: the operator's word that nobody writes to the
            source any more.
        @raise IllegalTransition: it is not following, or the word is missing.
        """
        self._require("commit", State.FOLLOWING)
        if self._commit is None:
            raise IllegalTransition(
                "this replication ends by itself: start it with --follow for a cut-over"
            )
        if not writes_blocked:
            raise IllegalTransition(
                "block the writes to the source first (setUserWriteBlockMode from 6.0 on, or stop "
                'what writes), then commit with the body {"writes_blocked": true}'
            )
        self.enter(State.COMMITTING, "waiting for the last writes to arrive")
        self._commit()

    def reverse(self) -> None:
        """
        Prepare the other direction when the cut-over is done.

        @raise IllegalTransition: a forward run is active.
        """
        if self.state not in (State.COMMITTING, State.VERIFYING):
            raise IllegalTransition(
                f"reverse is not possible while the replication is {self.state.value}: commit "
                "first, then reverse before it has ended, or afterwards with "
                "'python -m txmongokit.oplog reverse'"
            )
        self.reversing = True

    def _require(self, verb: str, state: State) -> None:
        if self.state is not state:
            raise IllegalTransition(
                f"{verb} is not possible while the replication is {self.state.value}, only while "
                f"it is {state.value}"
            )


def _checked_limit(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise BadOrder(_LIMITS)
    try:
        limit = float(given)
    except OverflowError:
        limit = inf
    if not 0 <= limit < inf:
        raise BadOrder(_LIMITS)
    return limit or inf


class CutOver:
    """
    From following to a copy that is whole: wait until nothing comes any more,
    then verify.  What a clone deferred has been built by then: only with that
    does following begin.

    @param changes: asks how many operations have been applied.
    @param verify: compares source and destination.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        source: ConnectionPool,
        follower: Follower,
        changes: Callable[[], int],
        controls: Controls,
        verify: Callable[[], Awaitable[Report]],
        *,
        quiet: float = _QUIET,
    ) -> None:
        self._reactor = reactor
        self._source = source
        self._follower = follower
        self._changes = changes
        self._controls = controls
        self._verify = verify
        self._quiet = quiet

    async def run(self) -> Report:
        """
        Get there.

        @return: what the verification has found: no difference.
        @raise WritesGoOn: the source is still written to; nothing has been
            done, and the replication may go on.
        @raise NotEqual: the verification has found differences.
        """
        await self._drain()
        self._controls.enter(State.VERIFYING)
        report = await self._verify()
        if not report.equal:
            raise NotEqual(report)
        return report

    async def _drain(self) -> None:
        for _ in range(_TRIES):
            await self._pass()
            before = self._changes()
            await deferLater(self._reactor, self._quiet, lambda: None)
            await self._pass()
            if self._changes() == before:
                return
            self._log.warn("the source is still written to: waiting")
        raise WritesGoOn(
            "the source is still written to: block the writes, and commit again; the replication "
            "goes on"
        )

    async def _pass(self) -> None:
        if not await self._follower.passed(await last_written(self._source)):
            raise WritesGoOn(
                "the replication stands still and cannot reach the end of the source's oplog: "
                "see its log, and commit again"
            )
