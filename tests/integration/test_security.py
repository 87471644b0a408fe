"""
Logging in and TLS on real servers.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from pymongo import MongoClient
from pymongo.driver_info import DriverInfo
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    ClientContextFactory,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.task import LoopingCall
from twisted.python.filepath import FilePath
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from txmongokit.testing import CertificateAuthority, Credentials, standalone


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
            except OperationFailure as error:
                self.assertEqual(error.code, 18)
                self.assertIn("uthentication failed", str(error))
            else:
                self.fail("logged in")
        self.assertLess(time.monotonic() - begun, 10.0)

    def test_run_time(self) -> Deferred[None]:
        """
        C{authenticate} changes who all connections belong to; a refusal, or a
        name that cannot be, changes nothing.
        """
        return Deferred.fromCoroutine(self.run_time())

    async def run_time(self) -> None:
        """See L{test_run_time}."""
        pool = self.client(f"mongodb://clerk:pw@127.0.0.1:{self.port}/shop")
        await pool["shop"]["things"].insert_one({"_id": 1})
        self.assertEqual(await self.who(pool), ["clerk"])
        for password, mechanism in (("wrong", "DEFAULT"), ("pw", "SCRAM-SHA-1")):
            with self.assertRaises(OperationFailure) as caught:
                await pool.authenticate("admin", "new", password, mechanism)
            self.assertIn(caught.exception.code, (18, 334))
        with self.assertRaisesRegex(OperationFailure, "dropped MONGODB-CR"):
            await pool.authenticate("admin", "new", "pw", "MONGODB-CR")
        with self.assertRaisesRegex(ConfigurationError, "tls=true"):
            await pool.authenticate("$external", "new", "pw", "PLAIN")
        await pool["shop"]["things"].find_one()
        self.assertEqual(await self.who(pool), ["clerk"])

        await pool.authenticate("admin", "new", "pw")
        self.assertEqual(await self.who(pool), ["new"])
        await pool["shop"].authenticate("clerk", "pw", mechanism="SCRAM-SHA-256")
        users = await gatherResults([self.who(pool) for _ in range(10)])
        self.assertEqual(users, [["clerk"]] * 10)

    def test_no_user_yet(self) -> Deferred[None]:
        """A client without a user, or with a wrong one, can still be given the right one."""
        return Deferred.fromCoroutine(self.no_user_yet())

    async def no_user_yet(self) -> None:
        """See L{test_no_user_yet}."""
        for user in ("", "new:wrong@"):
            pool = self.client(f"mongodb://{user}127.0.0.1:{self.port}")
            with self.assertRaises(OperationFailure):
                await pool["db"]["things"].find_one()
            await pool["admin"].authenticate("new", "pw")
            await pool["db"]["things"].find_one()

    def who(self, pool: ConnectionPool) -> Deferred[list[str]]:
        """The users that a connection belongs to."""
        status = pool["shop"].command("connectionStatus")
        return status.addCallback(
            lambda reply: [user["user"] for user in reply["authInfo"]["authenticatedUsers"]]
        )

    def test_many_iterations(self) -> Deferred[None]:
        """Where a password is long in the deriving, the reactor goes on meanwhile."""
        return Deferred.fromCoroutine(self.many_iterations())

    async def many_iterations(self) -> None:
        """See L{test_many_iterations}."""
        client: MongoClient[dict[str, Any]]
        with MongoClient(self.uri) as client:
            client.admin.command("setParameter", 1, scramSHA256IterationCount=600_000)
            client.admin.command(
                "createUser", "slow", pwd="pw", roles=["root"], mechanisms=["SCRAM-SHA-256"]
            )
        longest = 0.0
        last = time.monotonic()

        def turn() -> None:
            nonlocal longest, last
            now = time.monotonic()
            longest, last = max(longest, now - last), now

        turning = LoopingCall(turn)
        turning.start(0.001)
        begun = time.monotonic()
        try:
            await self.ping(f"mongodb://slow:pw@127.0.0.1:{self.port}")
        finally:
            turning.stop()
        took = time.monotonic() - begun
        self.assertLess(longest, took / 2, "the reactor stood still")

    def test_metadata(self) -> Deferred[None]:
        """A server knows who we are, and who wraps us from now on."""
        return Deferred.fromCoroutine(self.metadata())

    async def metadata(self) -> None:
        """See L{test_metadata}."""
        pool = self.client(self.uri, appName="shop")
        await pool["admin"].command("ping")
        pool.append_metadata(DriverInfo("framework", "2.0", "Framework Platform"))
        with self.assertRaises(ConfigurationError):
            # Older releases of PyMongo let such a name pass.
            pool.append_metadata(tuple.__new__(DriverInfo, ("a|b", None, None)))
        names = await self.drivers(pool)
        self.assertEqual(names, {"txmongokit|PyMongo"})
        await gatherResults([pool["admin"].command("hello") for _ in range(5)])
        await pool.authenticate("admin", "new", "pw")
        names = await self.drivers(pool)
        self.assertIn("txmongokit|PyMongo|framework", names)

    async def drivers(self, pool: ConnectionPool) -> set[str]:
        """The drivers' names on the connections of the application C{shop}."""
        found = (
            await pool["admin"]
            .aggregate([{"$currentOp": {"allUsers": True, "idleConnections": True}}])
            .to_list()
        )
        return {
            each["clientMetadata"]["driver"]["name"]
            for each in found
            if each.get("appName") == "shop"
        }


class CertificateLoginTests(SecurityTestCase):
    """One server with access control and TLS, and a user for our certificate."""

    SUBJECT = "CN=client,O=txmongokit client"

    def setUp(self) -> None:
        """Start the server and create the user."""
        self.deployment = standalone(tls=True, auth=Credentials())
        self.addCleanup(self.deployment.close)
        with self.deployment.client() as client:
            client["$external"].command(
                "createUser", self.SUBJECT, roles=[{"role": "root", "db": "admin"}]
            )

    def uri(self, user: str = "", **options: str) -> str:
        """A connection string that logs in with a certificate."""
        assert self.deployment.ca_file is not None
        query = {
            "tls": "true",
            "tlsCAFile": self.deployment.ca_file,
            "authMechanism": "MONGODB-X509",
            "serverSelectionTimeoutMS": "3000",
            **options,
        }
        if not query["authMechanism"]:
            del query["authMechanism"]
        texts = "&".join(f"{name}={value}" for name, value in query.items())
        at = f"{quote_plus(user)}@" if user else ""
        return f"mongodb://{at}127.0.0.1:{self.deployment.members[0].port}/?{texts}"

    def test_certificate(self) -> Deferred[None]:
        """The certificate is the user, named or not; without one, or as another, it is refused."""
        return Deferred.fromCoroutine(self.certificate())

    async def certificate(self) -> None:
        """See L{test_certificate}."""
        key = self.deployment.client_certificate_file
        assert key is not None
        assert self.deployment.authority is not None
        await self.ping(self.uri(tlsCertificateKeyFile=key))
        await self.ping(self.uri(self.SUBJECT, tlsCertificateKeyFile=key))
        stranger = self.deployment.folder / "stranger.pem"
        self.deployment.authority.issue(stranger, "stranger")
        for uri in (
            self.uri(),
            self.uri("CN=somebody", tlsCertificateKeyFile=key),
            self.uri(tlsCertificateKeyFile=str(stranger)),
        ):
            error = await self.refusal(uri)
            self.assertIsInstance(error, OperationFailure, uri)
            assert isinstance(error, OperationFailure)
            # A certificate that is no user's has a code of its own.
            self.assertIn(error.code, (11, 18))

    def test_run_time(self) -> Deferred[None]:
        """A client that has the certificate can log in with it later."""
        return Deferred.fromCoroutine(self.run_time())

    async def run_time(self) -> None:
        """See L{test_run_time}."""
        key = self.deployment.client_certificate_file
        assert key is not None
        pool = self.client(self.uri(authMechanism="", tlsCertificateKeyFile=key))
        with self.assertRaises(OperationFailure):
            await pool["db"]["things"].find_one()
        await pool.authenticate("$external", self.SUBJECT, None, "MONGODB-X509")
        await pool["db"]["things"].find_one()

    def test_encrypted_key(self) -> Deferred[None]:
        """An encrypted key is read with its password, and not without."""
        return Deferred.fromCoroutine(self.encrypted_key())

    async def encrypted_key(self) -> None:
        """See L{test_encrypted_key}."""
        path = self.deployment.folder / "locked.pem"
        assert self.deployment.authority is not None
        self.deployment.authority.issue(path, "client", password=b"sesame")
        uri = self.uri(tlsCertificateKeyFile=str(path))
        await self.ping(uri, tlsCertificateKeyFilePassword="sesame")
        error = await self.refusal(uri, tlsCertificateKeyFilePassword="abracadabra")
        self.assertIn("tlsCertificateKeyFilePassword", str(error))
        self.assertNotIn("abracadabra", str(error))


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
        plain = f"mongodb://127.0.0.1:{self.port}/?serverSelectionTimeoutMS=2000"
        assert self.deployment.ca_file is not None
        with open(self.deployment.ca_file, "rb") as file:
            root = trustRootFromCertificates([Certificate.loadPEM(file.read())])
        creator = optionsForClientTLS("localhost", trustRoot=root)
        await self.ping(plain, None, creator)
        # Asked for each host's, which it then verifies.
        await self.ping(
            plain, ssl_context_factory=lambda host: optionsForClientTLS(host, trustRoot=root)
        )
        self.assertEqual(self.flushWarnings(), [])
        for loose in (CertificateOptions(), ClientContextFactory(), ClientContextFactory):
            await self.ping(plain, ssl_context_factory=loose)
            warned = [each["message"] for each in self.flushWarnings()]
            self.assertEqual(len(warned), 1, warned)
            self.assertIn("does not verify", warned[0])
        error = await self.refusal(plain, ssl_context_factory=object())
        self.assertIn("ssl_context_factory must be", str(error))

    def test_revoked(self) -> Deferred[None]:
        """A list of revoked certificates is heeded, and must be its authority's."""
        return Deferred.fromCoroutine(self.revoked())

    async def revoked(self) -> None:
        """See L{test_revoked}."""
        folder, ca, authority = (
            self.deployment.folder,
            self.deployment.ca_file,
            self.deployment.authority,
        )
        assert ca is not None
        assert authority is not None
        path = folder / "crl.pem"
        uri = self.uri(tlsCAFile=ca, tlsCRLFile=str(path))
        authority.revoke(path)
        await self.ping(uri)
        authority.revoke(path, folder / "server.pem")
        self.assertIn("revoked", str(await self.refusal(uri)))
        loose = self.uri("elsewhere", tlsCAFile=ca, tlsCRLFile=str(path))
        error = await self.refusal(
            f"{loose}&tlsAllowInvalidHostnames=true", endpoint_factory=_local
        )
        self.assertIn("revoked", str(error))
        CertificateAuthority().revoke(path)
        self.assertIn("tlsCRLFile", str(await self.refusal(uri)))

    def test_address(self) -> Deferred[None]:
        """A literal address is verified like a name."""
        return Deferred.fromCoroutine(self.address())

    async def address(self) -> None:
        """See L{test_address}."""
        ca = self.deployment.ca_file
        assert ca is not None
        for host in ("127.0.0.2", "[::1]"):
            error = await self.refusal(self.uri(host, tlsCAFile=ca), endpoint_factory=_local)
            self.assertIn(f"not for host name {host.strip('[]')!r}", str(error))


class OtherTLSTests(SecurityTestCase):
    """Servers that do not fit what the client wants."""

    def test_misunderstandings(self) -> Deferred[None]:
        """Each side's surprise at the other is told, with what may help."""
        return Deferred.fromCoroutine(self.misunderstandings())

    async def misunderstandings(self) -> None:
        """See L{test_misunderstandings}."""
        with standalone(tls=True, client_certificates=True) as strict, standalone() as plain:
            ca, key = strict.ca_file, strict.client_certificate_file
            assert ca is not None
            assert key is not None
            patience = "serverSelectionTimeoutMS=1500"
            at = f"mongodb://127.0.0.1:{strict.members[0].port}/?{patience}"
            await self.ping(f"{at}&tls=true&tlsCAFile={ca}&tlsCertificateKeyFile={key}")
            error = await self.refusal(at)
            self.assertIn("the server may require TLS", str(error))
            error = await self.refusal(f"{at}&tls=true&tlsCAFile={ca}")
            self.assertIn("tlsCertificateKeyFile", str(error))
            other = strict.folder / "other.pem"
            CertificateAuthority().issue(other, "client")
            error = await self.refusal(
                f"{at}&tls=true&tlsCAFile={ca}&tlsCertificateKeyFile={other}"
            )
            self.assertIn("tlsCertificateKeyFile", str(error))

            at = f"mongodb://127.0.0.1:{plain.members[0].port}/?{patience}"
            error = await self.refusal(f"{at}&tls=true&tlsCAFile={ca}")
            self.assertIn("may speak no TLS", str(error))

    def test_expired(self) -> Deferred[None]:
        """
        A certificate that has expired is refused by that name.  No C{mongod}
        starts with one: a bare TLS server has it.
        """
        return Deferred.fromCoroutine(self.expired())

    async def expired(self) -> None:
        """See L{test_expired}."""
        folder = FilePath(self.mktemp())
        folder.makedirs()
        authority = CertificateAuthority()
        folder.child("ca.pem").setContent(authority.pem)
        path = folder.child("server.pem")
        authority.issue(Path(path.path), days=-1)
        server = PrivateCertificate.loadPEM(path.getContent()).options()
        endpoint = SSL4ServerEndpoint(reactor, 0, server, interface="127.0.0.1")
        port = await endpoint.listen(Factory.forProtocol(Protocol))
        try:
            number, ca = port.getHost().port, folder.child("ca.pem").path
            error = await self.refusal(
                f"mongodb://127.0.0.1:{number}/?tls=true&tlsCAFile={ca}"
                "&serverSelectionTimeoutMS=1000"
            )
            self.assertIn("certificate has expired", str(error))
        finally:
            await port.stopListening()


def _local(reactor: Any, host: str, port: int | None) -> Any:
    return TCP4ClientEndpoint(reactor, "127.0.0.1", port or 0)
