"""
Trying again while a deployment is away: during an election, a restart, or a
fault of the network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txmongokit.errors import AutoReconnect, OperationFailure, PyMongoError

__all__ = ["LIMIT", "Patience", "is_passing"]

LIMIT = 600.0
"""How long to keep trying, in seconds, where nothing else is said."""

ResultT = TypeVar("ResultT")

_SHORTEST, _LONGEST = 0.05, 2.0
_LABELS = (
    "TransientTransactionError",
    "RetryableWriteError",
    "UnknownTransactionCommitResult",
    # With SystemOverloadedError: the server has turned a command away.
    "RetryableError",
)
# What a server answers while it starts, ends or changes its role (the errors
# after which a read may be repeated), ...
_CHANGING = frozenset({6, 7, 89, 91, 134, 189, 262, 9001, 10058, 10107, 11600, 11602, 13435, 13436})
# ... while it is overloaded or waits in vain (50, 64, 365, 202), is interrupted
# (11601), another operation is in the way (24, 46, 112, 117, 12586, 12587), or
# the disk is full (14031), until somebody makes room.
_WAITING = frozenset({24, 46, 50, 64, 112, 117, 202, 365, 11601, 12586, 12587, 14031})
_PASSING = _CHANGING | _WAITING


class Patience:
    """
    How long to keep trying.

    @param seconds: from the first failure to the last attempt; infinity
        for ever.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, seconds: float = LIMIT) -> None:
        self._reactor = reactor
        self._seconds = seconds

    async def keep_trying(
        self, attempt: Callable[[bool], Awaitable[ResultT]], where: str
    ) -> ResultT:
        """
        Do something until it succeeds, or fails for good.

        @param attempt: called with whether it was tried before; then it must
            find out for itself what of the earlier try took effect.
        @param where: what is away, for the log.

        @raise PyMongoError: the last error, when the time is over, or one
            that trying again would not mend.
        """
        deadline = None
        pause = _SHORTEST
        again = False
        while True:
            try:
                return await attempt(again)
            except PyMongoError as error:
                now = self._reactor.seconds()
                deadline = now + self._seconds if deadline is None else deadline
                if not is_passing(error) or now >= deadline:
                    raise
                self._log.warn(
                    "{where}: {error}; trying again", where=where, error=str(error)[:200]
                )
            await deferLater(self._reactor, pause, lambda: None)
            pause = min(2 * pause, _LONGEST)
            again = True

    async def ask(self, where: str, question: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """
        The same for what may be done any number of times.
        """
        return await self.keep_trying(lambda again: question(), where)


def is_passing(error: PyMongoError) -> bool:
    """
    Whether trying again may mend it.
    """
    if isinstance(error, OperationFailure) and error.code in _PASSING:
        return True
    return isinstance(error, AutoReconnect) or any(map(error.has_error_label, _LABELS))
