"""
Logging in and TLS on real servers.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError
from txmongokit.testing import Credentials, standalone


class SecurityTestCase(TestCase):
    """Clients that are disconnected afterwards."""

    timeout = 60

    def client(self, uri: str, *arguments: Any, **options: Any) -> ConnectionPool:
        """A client."""
        pool = ConnectionPool(uri, *arguments, **options)
        self.addCleanup(pool.disconnect)
        return pool

    async def ping(self, uri: str, *arguments: Any, **options: Any) -> None:
        """Do something that needs to be logged in."""
        await self.client(uri, *arguments, **options)["db"]["things"].find_one()

    async def refusal(self, uri: str, *arguments: Any, **options: Any) -> PyMongoError:
        """Why an operation fails."""
        try:
            await self.ping(uri, *arguments, **options)
        except PyMongoError as error:
            return error
        raise self.failureException("nothing was refused")


class AuthenticationTests(SecurityTestCase):
    """One server with access control, and a user for each mechanism."""

    def setUp(self) -> None:
        """Start the server and create the users."""
        deployment = standalone(auth=Credentials("root", "p@ss:w/rd"))
        self.addCleanup(deployment.close)
        self.port = deployment.members[0].port
        self.uri = deployment.uri
        with deployment.client() as client:
            for name, mechanism in (("old", "SCRAM-SHA-1"), ("new", "SCRAM-SHA-256")):
                client["admin"].command(
                    "createUser", name, pwd="pw", roles=["root"], mechanisms=[mechanism]
                )
            client["shop"].command("createUser", "clerk", pwd="pw", roles=["readWrite"])

    def test_mechanisms(self) -> Deferred[None]:
        """
        Each mechanism works and is negotiated; a wrong password fails at
        once, with the server's reason.
        """
        return Deferred.fromCoroutine(self.mechanisms())

    async def mechanisms(self) -> None:
        """See L{test_mechanisms}."""
        at = f"127.0.0.1:{self.port}"
        await self.ping(self.uri)
        await self.ping(f"mongodb://old:pw@{at}/?authMechanism=SCRAM-SHA-1")
        await self.ping(f"mongodb://new:pw@{at}/?authMechanism=SCRAM-SHA-256")
        for name in ("old", "new"):
            # Without a database users are those of admin.
            await self.ping(f"mongodb://{name}:pw@{at}")
        shop = self.client(f"mongodb://clerk:pw@{at}/shop")
        await shop["shop"]["things"].insert_one({"_id": 1})
        begun = time.monotonic()
        for uri in (
            f"mongodb://old:wrong@{at}",
            f"mongodb://new:wrong@{at}",
            f"mongodb://new:pw@{at}/?authMechanism=SCRAM-SHA-1",
            f"mongodb://nobody:pw@{at}",
        ):
            error = await self.refusal(uri)
            self.assertIsInstance(error, OperationFailure)
            self.assertIn("uthentication failed", str(error))
            self.assertNotIn("wrong", str(error))
        self.assertLess(time.monotonic() - begun, 10.0)
        error = await self.refusal(f"mongodb://{at}")
        self.assertIn("requires authentication", str(error))

    def test_many_refused(self) -> Deferred[None]:
        """Many operations at once with a wrong password end soon, each with the reason."""
        return Deferred.fromCoroutine(self.many_refused())

    async def many_refused(self) -> None:
        """See L{test_many_refused}."""
        things = self.client(f"mongodb://new:wrong@127.0.0.1:{self.port}")["db"]["things"]
        begun = time.monotonic()
        for waiting in [things.find_one() for _ in range(20)]:
            try:
                await waiting
            except PyMongoError as error:
                self.assertIn("uthentication failed", str(error))
            else:
                self.fail("logged in")
        self.assertLess(time.monotonic() - begun, 10.0)


class TLSTests(SecurityTestCase):
    """One server that demands TLS."""

    def setUp(self) -> None:
        """Start the server."""
        self.deployment = standalone(tls=True)
        self.addCleanup(self.deployment.close)
        self.port = self.deployment.members[0].port

    def uri(self, host: str = "127.0.0.1", **options: str) -> str:
        """A connection string with these options, and little patience."""
        query = {"tls": "true", "serverSelectionTimeoutMS": "700", **options}
        texts = "&".join(f"{name}={value}" for name, value in query.items())
        return f"mongodb://{host}:{self.port}/?{texts}"

    def test_verification(self) -> Deferred[None]:
        """
        The chain and the name are verified unless that is given up by name;
        the reason of a refusal reaches the operation.
        """
        return Deferred.fromCoroutine(self.verification())

    async def verification(self) -> None:
        """See L{test_verification}."""
        ca = self.deployment.ca_file
        assert ca is not None
        await self.ping(self.deployment.uri)
        await self.ping(self.uri(tlsCAFile=ca))
        await self.ping(self.uri("localhost", tlsCAFile=ca))
        key = self.deployment.client_certificate_file
        assert key is not None
        await self.ping(self.uri(tlsCAFile=ca, tlsCertificateKeyFile=key))

        error = await self.refusal(self.uri())
        self.assertIsInstance(error, ServerSelectionTimeoutError)
        self.assertIn("certificate verify failed", str(error))
        self.assertIn("tlsCAFile", str(error))
        # A name for 127.0.0.1 that the certificate does not have.
        error = await self.refusal(
            self.uri("elsewhere.example", tlsCAFile=ca), endpoint_factory=_local
        )
        self.assertIn("elsewhere.example", str(error))
        self.assertIn("host name", str(error))
        error = await self.refusal(self.uri(tls="false"))
        self.assertIsInstance(error, ServerSelectionTimeoutError)

        loose = self.uri("elsewhere.example", tlsCAFile=ca, tlsAllowInvalidHostnames="true")
        await self.ping(loose, endpoint_factory=_local)
        await self.ping(self.uri(tlsAllowInvalidCertificates="true"))
        error = await self.refusal(self.uri(tlsAllowInvalidHostnames="true"))
        self.assertIn("certificate verify failed", str(error))

    def test_own_context(self) -> Deferred[None]:
        """A context factory of the user's replaces the options."""
        return Deferred.fromCoroutine(self.own_context())

    async def own_context(self) -> None:
        """See L{test_own_context}."""
        assert self.deployment.ca_file is not None
        with open(self.deployment.ca_file, "rb") as file:
            root = trustRootFromCertificates([Certificate.loadPEM(file.read())])
        creator = optionsForClientTLS("localhost", trustRoot=root)
        plain = f"mongodb://127.0.0.1:{self.port}/?serverSelectionTimeoutMS=2000"
        await self.ping(plain, None, creator)
        await self.ping(plain, ssl_context_factory=CertificateOptions())


def _local(reactor: Any, host: str, port: int | None) -> Any:
    return TCP4ClientEndpoint(reactor, "127.0.0.1", port or 0)
