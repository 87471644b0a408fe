"""
The exceptions that txmongokit raises: PyMongo's own classes, because those
are what users catch.
"""

from __future__ import annotations

from typing import TypeVar

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ClientBulkWriteException,
    CollectionInvalid,
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidName,
    InvalidOperation,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WriteError,
    WTimeoutError,
)

__all__ = [
    "AutoReconnect",
    "BulkWriteError",
    "ClientBulkWriteException",
    "CollectionInvalid",
    "ConfigurationError",
    "ConnectionFailure",
    "CursorNotFound",
    "DocumentTooLarge",
    "DuplicateKeyError",
    "ExecutionTimeout",
    "InvalidName",
    "InvalidOperation",
    "InvalidURI",
    "MongoAuthenticationError",
    "NetworkTimeout",
    "NotPrimaryError",
    "OperationFailure",
    "ProtocolError",
    "PyMongoError",
    "ServerSelectionTimeoutError",
    "TimeExceeded",
    "WTimeoutError",
    "WaitQueueTimeoutError",
    "WriteConcernError",
    "WriteError",
    "time_exceeded",
]

ErrorT = TypeVar("ErrorT", bound=BaseException)


class MongoAuthenticationError(OperationFailure):
    """
    A log-in has failed: TxMongo's name for it, of PyMongo's class.
    """


class TimeExceeded(Exception):
    """
    An operation's time is over: TxMongo's name for what is one of PyMongo's
    timeouts, too.
    """


class _LateExecution(ExecutionTimeout, TimeExceeded):
    pass


class _LateNetwork(NetworkTimeout, TimeExceeded):
    pass


class _LateSelection(ServerSelectionTimeoutError, TimeExceeded):
    pass


class _LateQueue(WaitQueueTimeoutError, TimeExceeded):
    pass


_LATE: dict[type[BaseException], type[BaseException]] = {
    ExecutionTimeout: _LateExecution,
    NetworkTimeout: _LateNetwork,
    ServerSelectionTimeoutError: _LateSelection,
    WaitQueueTimeoutError: _LateQueue,
}


def time_exceeded(error: ErrorT) -> ErrorT:
    """
    Make one of PyMongo's timeouts a L{TimeExceeded}, too: the operation's whole
    time is over, and not only that of one of its steps.

    @return: the same error.
    """
    late = _LATE.get(type(error))
    if late is not None:
        error.__class__ = late  # type: ignore[assignment]  # it is one of theirs, too
    return error
