"""
Log-ins that expire, on a real server: its fail point says so, and SCRAM
stands for MONGODB-OIDC, which this server does not have.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.testing import Credentials, standalone


class ExpiryTests(TestCase):
    """One server with access control."""

    timeout = 60

    def setUp(self) -> None:
        """Start it."""
        self.deployment = standalone(
            auth=Credentials("root", "pw"), parameters={"enableTestCommands": 1}
        )
        self.addCleanup(self.deployment.close)

    def client(self, **options: object) -> ConnectionPool:
        """A client."""
        pool = ConnectionPool(self.deployment.uri, **options)  # type: ignore[arg-type]  # a test's
        self.addCleanup(pool.disconnect)
        return pool

    def expire(self, times: int, *commands: str, code: int = 391) -> None:
        """Have commands fail."""
        with self.deployment.client() as client:
            client["admin"].command(
                "configureFailPoint",
                "failCommand",
                mode={"times": times},
                data={"failCommands": list(commands), "errorCode": code, "appName": "expiring"},
            )

    def test_logs_in_anew(self) -> Deferred[None]:
        """A refused command is sent again after a new log-in, once, whatever it is."""
        return Deferred.fromCoroutine(self.logs_in_anew())

    async def logs_in_anew(self) -> None:
        """See L{test_logs_in_anew}."""
        things = self.client(appName="expiring", retryWrites=False, retryReads=False)["db"][
            "things"
        ]
        await things.insert_one({"_id": 0})
        self.expire(1, "insert")
        await things.insert_one({"_id": 1})
        self.expire(1, "find")
        self.assertEqual(len(await things.find()), 2)
        self.expire(1, "getMore")
        self.assertEqual(len(await things.find(batch_size=1)), 2)
        self.expire(2, "insert")
        error = await self.failing(things.insert_one({"_id": 2}))
        self.assertEqual(error.code, 391)
        await things.insert_one({"_id": 3})
        self.expire(8, "find")
        answers = await gatherResults([things.find_one({"_id": 1}) for _ in range(8)])
        self.assertEqual(answers, [{"_id": 1}] * 8)

    def test_no_log_in(self) -> Deferred[None]:
        """A log-in that is refused is the operation's error, and the next one logs in."""
        return Deferred.fromCoroutine(self.no_log_in())

    async def no_log_in(self) -> None:
        """See L{test_no_log_in}."""
        things = self.client(appName="expiring", retryWrites=False)["db"]["things"]
        await things.insert_one({"_id": 0})
        self.expire(2, "insert", "saslContinue")
        self.assertEqual((await self.failing(things.insert_one({"_id": 1}))).code, 391)
        await things.insert_one({"_id": 2})

    def test_challenge_response(self) -> Deferred[None]:
        """MONGODB-CR is refused in words that help."""
        return Deferred.fromCoroutine(self.challenge_response())

    async def challenge_response(self) -> None:
        """See L{test_challenge_response}."""
        things = self.client(authMechanism="MONGODB-CR")["db"]["things"]
        error = await self.failing(things.find_one())
        self.assertIn("MongoDB 4.0 has dropped", str(error))

    async def failing(self, operation: Deferred[Any]) -> OperationFailure:
        """How an operation fails."""
        try:
            await operation
        except OperationFailure as error:
            return error
        raise AssertionError("it did not fail")
