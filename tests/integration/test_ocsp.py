"""
OCSP with a responder that the tests run: real servers, and one that only
speaks TLS, for what C{mongod} would not do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509 import ocsp
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SkipTest, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from tests.socksproxy import SocksProxy
from txmongokit.connection import ConnectionPool
from txmongokit.errors import PyMongoError
from txmongokit.testing import CertificateAuthority, standalone


class Responder(Resource):
    """
    Says of every certificate the same.

    @ivar good: what.
    @ivar silent: whether it says nothing at all.
    @ivar signed_by: who signs what it says in the authority's stead.
    @ivar asked: the serial numbers it was asked for.
    """

    isLeaf = True

    def __init__(self, authority: CertificateAuthority, certificate: Path) -> None:
        super().__init__()
        self.authority = authority
        self.certificate = certificate
        self.good: bool | None = True
        self.silent = False
        self.signed_by: Path | None = None
        self.asked: list[int] = []

    def render(self, request: Any) -> Any:
        """Answer a question that came by POST, or in the path."""
        if request.method == b"POST":
            self.asked.append(ocsp.load_der_ocsp_request(request.content.read()).serial_number)
        if self.silent:
            return NOT_DONE_YET
        request.setHeader("Content-Type", "application/ocsp-response")
        return self.authority.answer(self.certificate, self.good, signed_by=self.signed_by)


class Listener(Protocol):
    """Keeps what it is told, and says nothing."""

    def __init__(self, heard: list[bytes]) -> None:
        self.heard = heard

    def dataReceived(self, data: bytes) -> None:
        """Keep."""
        self.heard.append(data)


@implementer(IOpenSSLContextFactory)
class Stapler:
    """
    The server's side of TLS, with an OCSP answer.

    @ivar staple: which, empty for none.
    @ivar wanted: whether clients ask for one.
    """

    def __init__(self, certificate: Path) -> None:
        self.staple = b""
        self.wanted = 0
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_certificate_file(str(certificate))
        self._context.use_privatekey_file(str(certificate))
        self._context.set_ocsp_server_callback(self._bring)

    def _bring(self, connection: SSL.Connection, data: object) -> bytes:
        self.wanted += 1
        return self.staple

    def getContext(self) -> SSL.Context:
        """As Twisted wants it."""
        return self._context


@implementer(IOpenSSLContextFactory)
class Renewable:
    """The server's side of TLS, with a certificate that changes."""

    def __init__(self, authority: CertificateAuthority, path: Path) -> None:
        self.authority = authority
        self.path = path

    def use(self, host: str) -> None:
        """Have a certificate for a host."""
        self.authority.issue(self.path, hosts=[host])

    def getContext(self) -> SSL.Context:
        """As Twisted wants it."""
        return Stapler(self.path).getContext()


class OCSPTestCase(TestCase):
    """An authority, a responder, and a certificate that names it."""

    timeout = 60

    async def issue(self, kind: str = "ec", scheme: str = "http", **options: Any) -> None:
        """Run the responder, and issue the certificate."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = CertificateAuthority(kind)
        (self.folder / "ca.pem").write_bytes(self.authority.pem)
        self.certificate = self.folder / "server.pem"
        self.responder = Responder(self.authority, self.certificate)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        site: Any = Site(self.responder)
        if scheme == "https":
            self.web = Renewable(self.authority, self.folder / "web.pem")
            self.web.use("127.0.0.1")
            site = TLSMemoryBIOFactory(self.web, False, site)
        listening: Any = await endpoint.listen(site)
        self.stop_responder = listening.stopListening
        self.addCleanup(listening.stopListening)
        self.responder_port = listening.getHost().port
        url = f"{scheme}://127.0.0.1:{self.responder_port}/"
        self.authority.issue(self.certificate, responder=url, **options)
        pem = self.certificate.read_bytes()
        self.serial = x509.load_pem_x509_certificate(pem).serial_number

    async def outcome(self, port: int, **options: Any) -> str:
        """Whether a client gets through: C{ok} or the error."""
        pool = ConnectionPool(
            f"mongodb://localhost:{port}/",
            **{
                "tlsCAFile": str(self.folder / "ca.pem"),
                "serverSelectionTimeoutMS": 2000,
                "directConnection": True,
                **options,
            },
        )
        try:
            await pool["admin"].command("ping")
        except PyMongoError as error:
            return str(error)
        finally:
            await pool.disconnect()
        return "ok"


class ResponderTests(OCSPTestCase):
    """A real server, whose certificate names a responder."""

    async def server(self, staples: bool) -> int:
        """Start it; its port."""
        deployment = await deferToThread(
            standalone,
            # TLS for those who want it: what starts the server does not.
            arguments=(
                *("--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates"),
                *("--tlsCertificateKeyFile", str(self.certificate.absolute())),
                *("--tlsCAFile", str(self.folder.absolute() / "ca.pem")),
            ),
            parameters={"ocspEnabled": staples},
        )
        self.addCleanup(deployment.close)
        return deployment.members[0].port

    def test_responder(self) -> Deferred[None]:
        """A client asks the responder, once, and believes it; where it is silent, goes on."""
        return Deferred.fromCoroutine(self.asks())

    async def asks(self) -> None:
        """See L{test_responder}."""
        await self.issue()
        port = await self.server(False)
        self.assertEqual(await self.outcome(port), "ok")
        self.assertIn(self.serial, self.responder.asked)

        proxy = SocksProxy({"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1"})
        await proxy.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        through = {"proxyHost": "127.0.0.1", "proxyPort": proxy.port}
        self.assertEqual(await self.outcome(port, **through), "ok")
        self.assertIn(("127.0.0.1", self.responder_port), proxy.asked)

        self.responder.good = False
        self.assertIn("was revoked", await self.outcome(port))
        for options in (
            {"tlsDisableOCSPEndpointCheck": True},
            {"tlsDisableCertificateRevocationCheck": True},
            {"tlsAllowInvalidCertificates": True},
            {"tlsInsecure": True},
        ):
            del self.responder.asked[:]
            self.assertEqual(await self.outcome(port, **options), "ok")
            self.assertEqual(self.responder.asked, [])
        # Host names are another matter.
        options = {"tlsAllowInvalidHostnames": True}
        self.assertIn("was revoked", await self.outcome(port, **options))

        self.responder.good = None
        self.assertEqual(await self.outcome(port), "ok")
        self.responder.good, self.responder.silent = False, True
        outcome = await self.outcome(port, connectTimeoutMS=1000, serverSelectionTimeoutMS=9000)
        self.assertEqual(outcome, "ok")

    def test_secured_responder(self) -> Deferred[None]:
        """A responder behind TLS is asked where it shows who it is, and else left alone."""
        return Deferred.fromCoroutine(self.secured())

    async def secured(self) -> None:
        """See L{test_secured_responder}."""
        await self.issue(scheme="https")
        port = await self.server(False)
        self.responder.good = False
        self.assertIn("was revoked", await self.outcome(port))
        self.web.use("elsewhere.example")
        self.assertEqual(await self.outcome(port), "ok")

    def test_mongod_staples(self) -> Deferred[None]:
        """C{mongod} itself brings its responder's answer, which is enough."""
        return Deferred.fromCoroutine(self.staples())

    async def staples(self) -> None:
        """See L{test_mongod_staples}."""
        await self.issue(must_staple=True)
        port = await self.server(True)
        options = {"tlsDisableOCSPEndpointCheck": True}
        for attempt in range(50):
            outcome = await self.outcome(port, **options)
            if outcome == "ok":
                break
            self.assertIn("demands", outcome)
            if attempt == 4 and not self.responder.asked:
                raise SkipTest("this mongod does not ask its responder (5.0.4 does not)")
            await deferLater(reactor, 0.1)
        self.assertEqual(outcome, "ok")


class MatrixTests(OCSPTestCase):
    """
    The specification's permutations: a real server behind one that speaks
    TLS, which staples or does not as the test wants, whatever its
    certificate says.
    """

    def test_with_rsa(self) -> Deferred[None]:
        """Certificates and answers by RSA."""
        return Deferred.fromCoroutine(self.matrix("rsa"))

    def test_with_ecdsa(self) -> Deferred[None]:
        """Certificates and answers by ECDSA."""
        return Deferred.fromCoroutine(self.matrix("ec"))

    async def matrix(self, kind: str) -> None:
        """All permutations, answered by the authority and by a delegate."""
        deployment = await deferToThread(standalone)
        self.addCleanup(deployment.close)
        self.backend = deployment.members[0].port
        for delegated in (False, True):
            await self.columns(kind, delegated)

    async def columns(self, kind: str, delegated: bool) -> None:
        """Whether the server staples, is good, must staple, and its responder is there."""
        for staples, good, must_staple, responds, passes in (
            (True, True, True, True, True),
            (True, False, True, True, False),
            (False, True, False, True, True),
            (False, False, False, True, False),
            (False, True, False, False, True),
            (False, False, True, True, False),
            (False, True, True, False, False),
        ):
            await self.issue(kind, must_staple=must_staple)
            signer = None
            if delegated:
                signer = self.responder.signed_by = self.folder / "responder.pem"
                self.authority.issue(signer, "responder", answers=True)
            self.responder.good = good
            if not responds:
                await self.stop_responder()
            stapler = Stapler(self.certificate)
            if staples:
                stapler.staple = self.authority.answer(self.certificate, good, signed_by=signer)
            factory = ProxyFactory("127.0.0.1", self.backend)
            endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            listening: Any = await endpoint.listen(TLSMemoryBIOFactory(stapler, False, factory))
            self.addCleanup(listening.stopListening)
            port = listening.getHost().port
            for options in ({}, {"tlsInsecure": True}, {"tlsAllowInvalidCertificates": True}):
                wanted = passes or bool(options)
                limit = 9000 if wanted else 300
                outcome = await self.outcome(port, serverSelectionTimeoutMS=limit, **options)
                self.assertEqual(outcome == "ok", wanted, (staples, good, must_staple, outcome))
            self.assertEqual(stapler.wanted > 0, True)


class StaplingTests(OCSPTestCase):
    """A server that speaks TLS only, and brings what the test says."""

    def test_staples(self) -> Deferred[None]:
        """What a server brings decides before it is told anything."""
        return Deferred.fromCoroutine(self.brings())

    async def brings(self) -> None:
        """See L{test_staples}."""
        await self.issue(must_staple=True)
        stapler = Stapler(self.certificate)
        heard: list[bytes] = []
        factory = Factory.forProtocol(lambda: Listener(heard))
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        listening: Any = await endpoint.listen(TLSMemoryBIOFactory(stapler, False, factory))
        self.addCleanup(listening.stopListening)
        port = listening.getHost().port
        # OpenSSL's server side brings no answer about another certificate.
        for staple, reason in (
            (b"", "demands"),
            (self.authority.answer(self.certificate, hours=-0.5), "out of date"),
            (self.authority.answer(self.certificate, False), "was revoked"),
        ):
            stapler.staple = staple
            self.assertIn(reason, await self.outcome(port, serverSelectionTimeoutMS=800))
            self.assertEqual(heard, [])
        self.assertGreater(stapler.wanted, 0)
        stapler.staple = self.authority.answer(self.certificate)
        await self.outcome(port, serverSelectionTimeoutMS=800)
        self.assertIn(b"hello", b"".join(heard))
        self.assertEqual(self.responder.asked, [])
        # Who checks nothing asks for nothing.
        stapler.staple, stapler.wanted = b"", 0
        del heard[:]
        options = {"tlsDisableCertificateRevocationCheck": True}
        await self.outcome(port, serverSelectionTimeoutMS=800, **options)
        self.assertIn(b"hello", b"".join(heard))
        self.assertEqual(stapler.wanted, 0)
