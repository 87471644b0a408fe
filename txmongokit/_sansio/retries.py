"""
Whether a failed command is worth another attempt, and after how long.

Follows the retryable-reads, retryable-writes and client-backpressure
specifications.
"""

from __future__ import annotations

from typing import Any

from txmongokit._pymongo import RETRYABLE_CODES, add_error_label
from txmongokit._sansio.commands.base import Command, RunCommand
from txmongokit.errors import (
    ConnectionFailure,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from txmongokit.options import ClientOptions

__all__ = [
    "TRANSACTION_ENDING",
    "backoff",
    "is_overload",
    "is_worth_retrying",
    "label_retryable_write",
]

TRANSACTION_ENDING = frozenset({"commitTransaction", "abortTransaction"})
"""Commands that are tried twice whatever C{retryWrites} says."""

_OVERLOADED = "SystemOverloadedError"
_RETRYABLE = "RetryableError"
_RETRYABLE_WRITE = "RetryableWriteError"

# Seconds (client-backpressure specification).
_BASE_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0


def is_overload(error: PyMongoError) -> bool:
    """
    Whether a server said that it has too much to do.
    """
    return error.has_error_label(_OVERLOADED)


def backoff(error: PyMongoError, attempt: int, jitter: float) -> float:
    """
    The seconds to wait after an overload.

    @param error: it may carry the server's own C{baseBackoffMS}.
    @param attempt: 1 for the first repetition.
    @param jitter: random, from 0 to 1.
    """
    details = getattr(error, "details", None)
    base: Any = details.get("baseBackoffMS") if isinstance(details, dict) else None
    seconds = base / 1000 if isinstance(base, (int, float)) and base >= 0 else _BASE_BACKOFF
    return jitter * min(seconds * 2.0 ** (attempt - 1), _LONGEST_BACKOFF)


def label_retryable_write(error: PyMongoError) -> None:
    """
    Label a network error of a retryable write: servers label only what they
    themselves report.
    """
    network = isinstance(error, ConnectionFailure) and not isinstance(
        error, (ServerSelectionTimeoutError, WaitQueueTimeoutError, NotPrimaryError)
    )
    if network and not error.has_error_label(_RETRYABLE_WRITE):
        add_error_label(error, _RETRYABLE_WRITE)


def is_worth_retrying(
    command: Command[Any], error: PyMongoError, options: ClientOptions, *, eligible: bool
) -> bool:
    """
    Whether a command may be sent again after an error.

    @param eligible: whether it is a retryable read or write where it is run.
    """
    if isinstance(error, (ServerSelectionTimeoutError, WaitQueueTimeoutError)):
        return False
    ending = command.name in TRANSACTION_ENDING
    if not ending and not _allowed(command, options):
        return False
    if is_overload(error) and error.has_error_label(_RETRYABLE):
        # Nothing was done, whatever it was.
        return True
    if not eligible:
        return False
    if command.is_write:
        return error.has_error_label(_RETRYABLE_WRITE)
    if isinstance(error, ConnectionFailure):
        return True
    return isinstance(error, OperationFailure) and error.code in RETRYABLE_CODES


def _allowed(command: Command[Any], options: ClientOptions) -> bool:
    if isinstance(command, RunCommand):
        # It may be either.
        return options.retry_reads and options.retry_writes
    return options.retry_writes if command.is_write else options.retry_reads
