"""
Tests for L{txmongokit._sansio.retries}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txmongokit._pymongo import add_error_label
from txmongokit._sansio.commands.admin import DropDatabase
from txmongokit._sansio.commands.base import Command, CommandOptions, RunCommand
from txmongokit._sansio.commands.read import FindOne
from txmongokit._sansio.retries import backoff, is_worth_retrying, label_retryable_write
from txmongokit.errors import (
    AutoReconnect,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from txmongokit.options import parse_options

READ = FindOne("db", "things", CommandOptions(), {})
WRITE = DropDatabase("db", CommandOptions())
ANY = RunCommand("db", {"ping": 1}, CommandOptions())


def labelled(error: PyMongoError, *labels: str) -> PyMongoError:
    """An error with labels."""
    for label in labels:
        add_error_label(error, label)
    return error


def overload(**details: Any) -> PyMongoError:
    """What a server that has too much to do says."""
    labels = ["SystemOverloadedError", "RetryableError"]
    return OperationFailure("too much", 462, {"errorLabels": labels, **details})


class WorthTests(SynchronousTestCase):
    """What is tried again."""

    def worth(
        self, command: Command[Any], error: PyMongoError, eligible: bool = True, **options: Any
    ) -> bool:
        """Whether it is."""
        parsed = parse_options("mongodb://a", **options)
        return is_worth_retrying(command, error, parsed, eligible=eligible)

    def test_reads(self) -> None:
        """Reads: after network errors and some codes."""
        for error in (AutoReconnect(""), NetworkTimeout(""), NotPrimaryError("", {"code": 1})):
            self.assertTrue(self.worth(READ, error))
            self.assertFalse(self.worth(READ, error, eligible=False))
        self.assertTrue(self.worth(READ, OperationFailure("", 134)))
        self.assertFalse(self.worth(READ, OperationFailure("", 2)))

    def test_writes(self) -> None:
        """Writes: after an error with the label, which network errors get here."""
        self.assertFalse(self.worth(WRITE, AutoReconnect("")))
        error = AutoReconnect("")
        label_retryable_write(error)
        self.assertTrue(self.worth(WRITE, error))
        self.assertFalse(self.worth(WRITE, OperationFailure("", 134)))
        for never in (
            NotPrimaryError(""),
            ServerSelectionTimeoutError(""),
            WaitQueueTimeoutError(),
        ):
            label_retryable_write(never)
            self.assertFalse(never.has_error_label("RetryableWriteError"))

    def test_no_server(self) -> None:
        """Nothing is tried again for want of a server or a connection."""
        for error in (ServerSelectionTimeoutError(""), WaitQueueTimeoutError("")):
            self.assertFalse(self.worth(READ, error))

    def test_overload(self) -> None:
        """Everything is tried again that a server turned away, unless told not to."""
        for command in (READ, WRITE, ANY):
            self.assertTrue(self.worth(command, overload(), eligible=False))
        self.assertFalse(self.worth(READ, overload(), retryReads=False))
        self.assertFalse(self.worth(WRITE, overload(), retryWrites=False))
        self.assertFalse(self.worth(ANY, overload(), retryWrites=False))
        half = labelled(OperationFailure("", 462), "SystemOverloadedError")
        self.assertFalse(self.worth(WRITE, half))

    def test_backoff(self) -> None:
        """Waits double up to ten seconds, from the server's own start where it names one."""
        waits = [backoff(overload(), attempt, 1.0) for attempt in (1, 2, 3, 9)]
        self.assertEqual(waits, [0.1, 0.2, 0.4, 10.0])
        self.assertEqual(backoff(overload(baseBackoffMS=30), 2, 0.5), 0.03)
        self.assertEqual(backoff(overload(baseBackoffMS=-1), 1, 1.0), 0.1)
        self.assertEqual(backoff(AutoReconnect(""), 1, 1.0), 0.1)
