"""
Deployments that many tests share, and clients of them.

Each is started when a test first asks for it, and ends with the process.
"""

from __future__ import annotations

import atexit
from functools import cache
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent
from pymongo.monitoring import CommandSucceededEvent as Succeeded
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import PyMongoError
from txmongokit.testing import Credentials, Deployment, replica_set, standalone

__all__ = ["Commands", "SharedTestCase", "server_version", "shared_secure", "shared_set"]


@cache
def shared_set() -> Deployment:
    """A replica set of two."""
    deployment = replica_set(2)
    atexit.register(deployment.close)
    return deployment


@cache
def shared_secure() -> Deployment:
    """
    One server that demands TLS and a password, with the users C{old}
    (SCRAM-SHA-1 alone) and C{new} (SCRAM-SHA-256 alone), both with the
    password C{pw}.
    """
    deployment = standalone(auth=Credentials(), tls=True)
    atexit.register(deployment.close)
    with deployment.client() as client:
        for name, mechanism in (("old", "SCRAM-SHA-1"), ("new", "SCRAM-SHA-256")):
            client["admin"].command(
                "createUser", name, pwd="pw", roles=["root"], mechanisms=[mechanism]
            )
    return deployment


def server_version(deployment: Deployment) -> tuple[int, ...]:
    """What the servers of a deployment are, as C{(6, 0, 5, 0)}."""
    with deployment.client() as client:
        return tuple(client.server_info()["versionArray"])


class Commands(CommandListener):
    """
    What a client sent.

    @ivar sent: the commands, in order.
    """

    def __init__(self) -> None:
        self.sent: list[CommandStartedEvent] = []

    def started(self, event: CommandStartedEvent) -> None:
        """A command is sent."""
        self.sent.append(event)

    def succeeded(self, event: Succeeded) -> None:
        """It succeeded."""

    def failed(self, event: CommandFailedEvent) -> None:
        """It failed."""

    def named(self, name: str) -> list[CommandStartedEvent]:
        """The commands of one name."""
        return [event for event in self.sent if event.command_name == name]


class SharedTestCase(TestCase):
    """
    Tests on deployments that they share: each has a database of its own.

    @ivar database: the database's name.
    """

    timeout = 60

    def setUp(self) -> None:
        """Choose the database."""
        self.database = self.id().rpartition(".")[2]

    def client(self, uri: str, *arguments: Any, **options: Any) -> ConnectionPool:
        """A client, disconnected afterwards, that fail points know by the test's name."""
        options.setdefault("appname", self.database)
        pool = ConnectionPool(uri, *arguments, **options)
        self.addCleanup(pool.disconnect)
        return pool

    async def error_of(self, operation: Deferred[Any], *kinds: type[Exception]) -> Any:
        """What an operation fails with, which is of one of these classes."""
        expected: Any = self.assertFailure(operation, *(kinds or (PyMongoError,)))
        return await expected

    def fail_point(self, deployment: Deployment, *commands: str, **data: Any) -> None:
        """Let the next of these commands of this test's clients fail at the primary."""
        primary = deployment.primary()

        def set_to(mode: Any, **data: Any) -> None:
            with primary.client() as client:
                client["admin"].command("configureFailPoint", "failCommand", mode=mode, **data)

        set_to(
            {"times": 1},
            data={"failCommands": list(commands), "appName": self.database, **data},
        )
        self.addCleanup(set_to, "off")
