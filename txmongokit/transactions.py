"""
C{with_transaction}: a transaction that is tried again.

Follows the drivers' transactions-convenient-api specification and, for its
time limit, client-side-operations-timeout.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, FirstError

from txmongokit._sansio.transactions import TRANSIENT, UNKNOWN_COMMIT, SessionState
from txmongokit.errors import ExecutionTimeout, NetworkTimeout, PyMongoError
from txmongokit.interfaces import IOperationRunner

__all__ = ["RetriedTransaction", "TransactionSession"]

SessionT = TypeVar("SessionT", bound="TransactionSession")
ResultT = TypeVar("ResultT")

_RETRY_LIMIT = 120.0
_FIRST_BACKOFF = 0.005
_BACKOFF_GROWTH = 1.5
_LONGEST_BACKOFF = 0.5
_MAX_TIME_MS_EXPIRED = 50


class TransactionSession(Protocol):
    """
    What a transaction is tried in.
    """

    state: SessionState

    @property
    def in_transaction(self) -> bool:
        """
        Whether there is something to commit or abort.
        """

    def start_transaction(self, *arguments: Any) -> object:
        """
        Begin.
        """

    def commit_transaction(self) -> Deferred[None]:
        """
        End it for good.
        """

    def abort_transaction(self, *, timeout: float | None = None) -> Deferred[None]:
        """
        Undo it.
        """


class RetriedTransaction(Generic[SessionT, ResultT]):
    """
    One call of C{with_transaction}.

    @param runner: the session's, for its time.
    @param session: what the transaction is tried in.
    @param callback: called with the session, once for each try.
    @param arguments: what C{start_transaction} gets each time.
    @param timeout: seconds for all of it, 0 for no limit, C{None} for two
        minutes in which further tries may begin.
    @param jitter: gives a random number from 0 up to 1.
    """

    def __init__(
        self,
        runner: IOperationRunner,
        session: SessionT,
        callback: Callable[[SessionT], Awaitable[ResultT] | ResultT],
        arguments: tuple[Any, ...],
        timeout: float | None,
        jitter: Callable[[], float],
    ) -> None:
        self._runner = runner
        self._session = session
        self._callback = callback
        self._arguments = arguments
        self._timeout = timeout
        self._jitter = jitter

    async def run(self) -> ResultT:
        """
        Try until it is committed, fails for good or takes too long.

        @return: what the callback returned when its transaction was
            committed, or ended by itself.
        """
        runner, state = self._runner, self._session.state
        deadline = runner.deadline(replace(runner.options, timeout=self._timeout))
        self._limited = deadline is not None
        self._end = runner.seconds() + _RETRY_LIMIT if deadline is None else deadline
        outer, state.deadline = state.deadline, deadline
        try:
            return await self._try_until_settled()
        finally:
            state.deadline = outer

    async def _try_until_settled(self) -> ResultT:
        backoff = _FIRST_BACKOFF
        failed: BaseException
        while True:
            self._session.start_transaction(*self._arguments)
            try:
                result = await self._call()
                if not self._session.in_transaction:
                    return result
                await self._commit()
                return result
            except GeneratorExit:
                raise  # Nothing can be waited for any more.
            except BaseException as error:
                if self._session.in_transaction:
                    await self._abort()
                if not _has_label(error, TRANSIENT):
                    raise
                failed = error
            delay = self._jitter() * min(backoff, _LONGEST_BACKOFF)
            backoff *= _BACKOFF_GROWTH
            if self._runner.seconds() + delay >= self._end:
                raise self._too_late(failed) from failed
            await self._runner.sleep(delay)

    async def _call(self) -> ResultT:
        result: Any = self._callback(self._session)
        if isinstance(result, Deferred) or inspect.iscoroutine(result):
            result = await result
        answer: ResultT = result
        return answer

    async def _commit(self) -> None:
        while True:
            try:
                await self._session.commit_transaction()
                return
            except PyMongoError as error:
                if not error.has_error_label(UNKNOWN_COMMIT) or _server_gave_up(error):
                    raise
                if self._runner.seconds() >= self._end:
                    raise self._too_late(error) from error

    async def _abort(self) -> None:
        # The time that was for the callback is not the abort's.
        state = self._session.state
        deadline, state.deadline = state.deadline, None
        try:
            await self._session.abort_transaction(timeout=self._timeout)
        finally:
            state.deadline = deadline

    def _too_late(self, error: BaseException) -> PyMongoError:
        cause = _cause(error)
        text = f"with_transaction ran out of time: the last attempt failed with {cause}"
        late: PyMongoError
        details = {"ok": 0, "errmsg": text, "code": _MAX_TIME_MS_EXPIRED}
        labels = [label for label in (TRANSIENT, UNKNOWN_COMMIT) if _has_label(error, label)]
        if self._limited:
            late = ExecutionTimeout(text, _MAX_TIME_MS_EXPIRED, {**details, "errorLabels": labels})
        else:
            late = NetworkTimeout(text, {"errorLabels": labels})
        return late


def _cause(error: BaseException) -> BaseException:
    """What made a C{gatherResults} fail."""
    while isinstance(error, FirstError) and error.subFailure.value is not None:
        error = error.subFailure.value
    return error


def _has_label(error: BaseException, label: str) -> bool:
    cause = _cause(error)
    return isinstance(cause, PyMongoError) and cause.has_error_label(label)


def _server_gave_up(error: PyMongoError) -> bool:
    """C{maxTimeMS} is over: the user asked for no longer."""
    details = getattr(error, "details", None)
    unmet = details.get("writeConcernError") if isinstance(details, dict) else None
    return _MAX_TIME_MS_EXPIRED in (getattr(error, "code", None), (unmet or {}).get("code"))
