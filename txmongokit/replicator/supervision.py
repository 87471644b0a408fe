"""
What goes on beside a replication: its status over HTTP, the oplog's headroom,
a verification at the end, and the cut-over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit.connection import ConnectionPool
from txmongokit.listening import EndpointError
from txmongokit.replicator.appliers import Progress
from txmongokit.replicator.arguments import Arguments
from txmongokit.replicator.cloning import CloneProgress
from txmongokit.replicator.comparison import Report
from txmongokit.replicator.cutover import Controls, CutOver, NotEqual, State, WritesGoOn
from txmongokit.replicator.headroom import Headroom
from txmongokit.replicator.pacing import Pace
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.replication import Replication
from txmongokit.replicator.reversal import ReversalError, prepare_reversal, record_committed
from txmongokit.replicator.status import Snapshot, StatusSite
from txmongokit.replicator.verification import Follower, Verification
from txmongokit.replicator.watching import Repeatedly, watch_majority

__all__ = ["Supervision"]

# The rate is that of the last measurements, which come every five seconds.
_SAMPLES = 4
# How long the replication may stand still before a verification goes on (seconds).
_PATIENCE = 120.0


class Supervision:
    """
    Of one replication, in one process.

    @ivar pace: how fast it may go.
    @ivar controls: its state.
    """

    _log = Logger()

    def __init__(self, reactor: Any, arguments: Arguments) -> None:
        self.pace = Pace(reactor, arguments.limit, arguments.limit_bytes)
        self.controls = Controls(self.pace.change)
        self._reactor = reactor
        self._arguments = arguments
        self._patience = Patience(reactor, arguments.patience)
        self._port: IListeningPort | None = None
        self._headroom: Headroom | None = None
        self._majority: Repeatedly | None = None
        self._replication: Replication | None = None
        self._clone: Callable[[], CloneProgress | None] = lambda: None
        self._verification: Verification | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._task: Deferred[None] | None = None
        self._failure: Failure | None = None
        self._cut_over: Callable[[], Awaitable[Report]] | None = None
        self._committed = False

    # The status page.

    async def open(self) -> None:
        """
        Begin to answer, if that was asked for.

        @raise EndpointError: it cannot listen there, or there is no token.
        """
        place, token_file = self._arguments.status, self._arguments.status_token_file
        if place is None:
            return
        token = None
        if token_file is not None:
            try:
                token = token_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise EndpointError(
                    f"--status-token-file {str(token_file)!r} cannot be read: {error}"
                ) from error
            if not token:
                raise EndpointError(
                    f"--status-token-file {str(token_file)!r} is empty: put a secret into it"
                )
        site = StatusSite(self.snapshot, self.controls, token)
        try:
            self._port = await site.listen(self._reactor, place)
        except CancelledError:
            raise
        except Exception as error:  # Whatever a kind of endpoint, or pyOpenSSL, has against it.
            reason = str(error) or type(error).__name__
            raise EndpointError(f"--status {place!r}: {reason}") from error
        self._log.info("status: {address}", address=self._port.getHost())

    async def close(self) -> None:
        """
        Answer and measure no more.
        """
        for watching in (self._headroom, self._majority):
            if watching is not None:
                watching.stop()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    def snapshot(self) -> Snapshot:
        """
        How it stands.
        """
        progress = Progress() if self._replication is None else self._replication.progress
        clone, headroom = self._clone(), self._headroom
        return Snapshot(
            state=self.controls.state,
            message=self.controls.message,
            position=progress.position,
            applied=progress.applied,
            commands=progress.commands,
            skipped=progress.skipped,
            missing=progress.missing,
            size=progress.size,
            rate=self._rate(progress.applied),
            lag=None if headroom is None else headroom.lag,
            headroom=None if headroom is None else headroom.seconds,
            lanes=() if self._replication is None else self._replication.applier.lanes,
            limits=(self.pace.operations, self.pace.size),
            clone=None if clone is None else _clone_fields(clone),
            verification=None if self._verification is None else self._verified_fields(),
        )

    def _verified_fields(self) -> dict[str, Any]:
        assert self._verification is not None
        return {"at": self._verification.namespace, **self._verification.report.fields()}

    def _rate(self, applied: int) -> float:
        if not self._samples:
            return 0.0
        since, before = self._samples[0]
        seconds: float = self._reactor.seconds() - since
        return max(0, applied - before) / max(seconds, 0.001)

    # Beside the replication.

    def watch(
        self,
        source: ConnectionPool,
        destination: ConnectionPool,
        position: Callable[[], int],
    ) -> None:
        """
        Measure the oplog's headroom from now on, and whether writes reach the
        destination's members.

        @param position: asks what is the oldest entry still to be read.
        """
        arguments = self._arguments
        self._headroom = Headroom(
            self._reactor,
            source,
            arguments.oplog_namespace,
            position,
            lambda: position() if self._replication is None else self._replication.reached,
            arguments.headroom_warning,
            self._sample,
        )
        self._headroom.start()
        self._majority = watch_majority(
            self._reactor, destination, "destination", "and no batch is complete before it has"
        )
        self._majority.start()

    def _sample(self) -> None:
        replication = self._replication
        applied = 0 if replication is None else replication.progress.applied
        self._samples.append((self._reactor.seconds(), applied))

    def cloning(self, progress: Callable[[], CloneProgress | None]) -> None:
        """
        A clone may come first.

        @param progress: asks how far it is; C{None} where there is none.
        """
        self._clone = progress
        if progress() is not None:
            self.controls.enter(State.CLONING)

    async def follow(
        self,
        replication: Replication,
        source: ConnectionPool,
        destination: ConnectionPool,
        key: str,
        until: int | None,
    ) -> None:
        """
        Run the replication to its end, to a verification's or to a cut-over's.

        @param key: the checkpoint's C{_id}.
        @param until: the position to end at; C{None} to follow for ever.

        @raise NotEqual: the verification has found differences.
        """
        self._replication = replication
        self._samples.clear()
        self._sample()

        async def position() -> int:
            return replication.progress.position

        follower = Follower(self._reactor, position, _PATIENCE)

        async def verify() -> Report:
            return await self._verify(source, destination, follower)

        self.controls.following(replication, None if until is not None else self._begin_cut_over)
        self._cut_over = CutOver(
            self._reactor,
            source,
            follower,
            lambda: replication.progress.applied + replication.progress.commands,
            self.controls,
            verify,
        ).run
        if until is not None and self._arguments.verify:
            # It goes on replicating while it is verified.
            self._begin(self._verify_the_end(follower, until, verify))
            until = None
        try:
            await replication.run(until)
        finally:
            task, self._task = self._task, None
            if task is not None and not task.called:
                task.cancel()
        if self._failure is not None:
            self._failure.raiseException()
        if self._committed:
            await self._finish(replication, source, destination, key)
        else:
            self.controls.enter(State.ENDED)

    def _begin(self, what: Coroutine[Deferred[Any], Any, None]) -> None:
        """Something that ends the replication when it is done."""
        self._task = Deferred.fromCoroutine(what)
        self._task.addCallbacks(self._done, self._failed)

    def _done(self, result: None) -> None:
        if self._replication is not None:
            self._replication.stop()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is not None:
            return
        if failure.check(WritesGoOn) is not None:
            self._log.warn("{reason}", reason=failure.getErrorMessage())
            self.controls.enter(State.FOLLOWING, failure.getErrorMessage())
            self.controls.reversing = False
            return
        self._failure = failure
        self.controls.enter(State.FAILED, failure.getErrorMessage())
        self._done(None)

    async def _verify(
        self, source: ConnectionPool, destination: ConnectionPool, follower: Follower
    ) -> Report:
        self._verification = Verification(
            self._reactor,
            source,
            destination,
            self._arguments.selection,
            follower,
            patience=self._patience,
        )
        self._log.info("verifying")
        report = await self._verification.run()
        for line in report.lines():
            if report.equal:
                self._log.info("{line}", line=line)
            else:
                self._log.error("{line}", line=line)
        return report

    async def _verify_the_end(
        self, follower: Follower, until: int, verify: Callable[[], Awaitable[Report]]
    ) -> None:
        await follower.passed(until)
        self.controls.enter(State.VERIFYING)
        report = await verify()
        if not report.equal:
            raise NotEqual(report)

    def _begin_cut_over(self) -> None:
        assert self._cut_over is not None
        self._begin(self._commit(self._cut_over))

    async def _commit(self, cut_over: Callable[[], Awaitable[Report]]) -> None:
        await cut_over()
        self._committed = True

    async def _finish(
        self,
        replication: Replication,
        source: ConnectionPool,
        destination: ConnectionPool,
        key: str,
    ) -> None:
        record = partial(record_committed, destination, key, replication.checkpoint)
        await self._patience.ask("destination", record)
        self.controls.enter(State.COMMITTED)
        self._log.info("the cut-over is done: let the applications use the destination")
        if self.controls.reversing:
            try:
                text = await prepare_reversal(source, destination, key, self._arguments)
            except ReversalError as error:
                self._log.error("reverse: {error}", error=str(error))
            else:
                self._log.info("reverse: {text}", text=text)


def _clone_fields(clone: CloneProgress) -> dict[str, Any]:
    return {
        "documents": clone.documents,
        "all_documents": clone.all_documents,
        "bytes": clone.size,
        "all_bytes": clone.all_bytes,
    }
