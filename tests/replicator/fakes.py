"""
A fake of a deployment's client, for what the replicator does with one.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tests.fakes import FakeRunner
from txmongokit._sansio.commands.base import Command
from txmongokit._sansio.transactions import SessionState
from txmongokit.database import Database
from txmongokit.errors import OperationFailure
from txmongokit.sessions import ClientSession


class SessionRunner(FakeRunner):
    """A runner that begins transactions, as an executor does."""

    def run(self, command: Command[Any], session: SessionState | None = None) -> Deferred[Any]:
        """Tell the session that a command of its transaction is on its way."""
        if session is not None and session.in_transaction:
            session.sent()
        return super().run(command, session)


class FakePool:
    """Databases and sessions over a script of replies."""

    def __init__(self, *replies: Any) -> None:
        self.runner = SessionRunner(*replies)

    def __getitem__(self, name: str) -> Database:
        return Database(self.runner, name)

    def get_database(self, name: str, **options: Any) -> Database:
        """A database with options."""
        return Database(self.runner, name, **options)

    def start_session(self, **options: Any) -> ClientSession:
        """An explicit session."""
        return ClientSession(self.runner, self.runner.take_session(explicit=True))


def refused(code: int, message: str = "no", *labels: str) -> OperationFailure:
    """What a server answers to a command that it does not take."""
    return OperationFailure(message, code, {"code": code, "errorLabels": list(labels)})


def fake_pool(*replies: Any) -> Any:
    """
    A L{FakePool}, for what wants a client.
    """
    return FakePool(*replies)
