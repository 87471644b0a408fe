"""
Tests for L{txmongokit._net.ocsp}, in memory.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests._sansio.test_ocsp import answer, issued, joined
from txmongokit._net import ocsp as module
from txmongokit._net.ocsp import CertificateRefused, RevocationCheck
from txmongokit._sansio.ocsp import Peer
from txmongokit.options import TLSOptions
from txmongokit.testing import CertificateAuthority

URL = "http://one.example:8080/ocsp"


class Transport(StringTransport):
    """A transport that can be aborted."""

    aborted = False

    def abortConnection(self) -> None:
        """Note."""
        self.aborted = True
        self.disconnecting = True

    def loseConnection(self) -> None:
        """Note."""
        self.disconnecting = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As TLS wants it."""


class Responder:
    """What is on the other side of one connection."""

    def __init__(self, factory: Any) -> None:
        self.protocol = factory.buildProtocol(None)
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)

    @property
    def request(self) -> tuple[bytes, bytes]:
        """Head and body of what it was asked."""
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        return head, body

    def answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        """Answer, and close."""
        self.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def write(self, data: bytes) -> None:
        """Say something."""
        self.protocol.dataReceived(data)


class CheckTests(SynchronousTestCase):
    """One certificate, and responders that the test plays."""

    def setUp(self) -> None:
        """Issue it."""
        self.authority = CertificateAuthority()
        self.clock = Clock()
        self.now = datetime.datetime.now(datetime.UTC)
        self.dialled: list[tuple[str, int]] = []
        self.responders: list[Responder] = []
        self.refuses: Exception | None = None
        self.above: list[bytes] = []
        self.issue()

    def issue(self, **options: Any) -> None:
        """Issue another."""
        self.path = Path(self.mktemp())
        self.authority.issue(self.path, **{"responder": URL, **options})

    def endpoint_connected(self, factory: Any) -> Any:
        """A connection."""
        self.responders.append(Responder(factory))
        return self.responders[-1].protocol

    def check(self, staple: bytes = b"", **options: Any) -> Deferred[None]:
        """Check the certificate."""
        return self.checking(self.checker(**options), staple)

    def checker(self, limit: float | None = 20.0, **options: Any) -> RevocationCheck:
        """What checks."""
        test = self

        class Endpoint:
            """An endpoint that connects at once, or not at all."""

            def connect(self, factory: Any) -> Deferred[Any]:
                """Connect."""
                made: Deferred[Any] = Deferred()
                if test.refuses is not None:
                    made.errback(test.refuses)
                else:
                    made.callback(test.endpoint_connected(factory))
                return made

        def connect(host: str, port: int) -> Any:
            test.dialled.append((host, port))
            return Endpoint()

        return RevocationCheck(self.clock, TLSOptions(**options), limit, connect, lambda: self.now)

    def checking(self, checker: RevocationCheck, staple: bytes = b"") -> Deferred[None]:
        """Check the certificate with this one."""
        chain = tuple(
            x509.load_pem_x509_certificate(pem)
            for pem in (self.path.read_bytes(), self.authority.pem, *self.above)
        )
        peer = Peer(chain, staple)
        return Deferred.fromCoroutine(checker.check(peer))

    def refused(self, waiting: Deferred[None]) -> str:
        """Why a certificate is refused."""
        return str(self.failureResultOf(waiting, CertificateRefused).value)

    # What the server brings.

    def test_staple(self) -> None:
        """A good answer that the server brings is enough, a bad one ends it; nobody is asked."""
        self.successResultOf(self.check(self.authority.answer(self.path)))
        self.assertIn("revoked", self.refused(self.check(self.authority.answer(self.path, False))))
        self.assertEqual(self.dialled, [])

    def test_useless_staple(self) -> None:
        """An answer that is worth nothing ends it."""
        for raw in (b"nonsense", self.authority.answer(self.path, hours=-0.5)):
            self.assertIn("cannot be used", self.refused(self.check(raw)))

    def test_must_staple(self) -> None:
        """A certificate that demands an answer counts only with one."""
        self.issue(must_staple=True)
        self.assertIn("demands", self.refused(self.check()))
        self.assertEqual(self.dialled, [])
        self.successResultOf(self.check(self.authority.answer(self.path)))

    def test_open_staple(self) -> None:
        """An answer that leaves it open leaves it to the responders."""
        waiting = self.check(self.authority.answer(self.path, None))
        self.responders[0].answer(self.authority.answer(self.path, False))
        self.assertIn("revoked", self.refused(waiting))

    def test_older_staple(self) -> None:
        """An answer from before it was revoked does not make it good again."""
        checker = self.checker()
        waiting = self.checking(checker)
        self.responders[0].answer(self.authority.answer(self.path, False, hours=3, age=0.5))
        self.refused(waiting)
        self.refused(self.checking(checker, self.authority.answer(self.path, age=2)))
        self.successResultOf(self.checking(checker, self.authority.answer(self.path, age=0.1)))

    # Who answers in the authority's stead.

    def delegate(self, **options: Any) -> Path:
        """Somebody whom the authority lets answer."""
        path = Path(self.mktemp())
        self.authority.issue(path, "responder", answers=True, **options)
        return path

    def test_delegate(self) -> None:
        """Whether who answers was revoked is asked, too, where a certificate says whom."""
        delegate = self.delegate(responder="http://two.example/")
        for good in (True, False, None):
            waiting = self.check()
            self.responders.pop().answer(self.authority.answer(self.path, signed_by=delegate))
            self.assertNoResult(waiting)
            self.assertEqual(self.dialled.pop(), ("two.example", 80))
            responder = self.responders.pop()
            question = ocsp.load_der_ocsp_request(responder.request[1])
            certificate = x509.load_pem_x509_certificate(delegate.read_bytes())
            self.assertEqual(question.serial_number, certificate.serial_number)
            responder.answer(self.authority.answer(delegate, good))
            # An answer that counts for nothing leaves all open.
            self.successResultOf(waiting)

    def test_revoked_delegate(self) -> None:
        """What somebody answers who was revoked counts for nothing."""
        delegate = self.delegate(responder="http://two.example/")
        checker = self.checker()
        staple = self.authority.answer(self.path, signed_by=delegate)
        waiting = self.checking(checker, staple)
        self.assertEqual(self.dialled, [("two.example", 80)])
        self.responders.pop().answer(self.authority.answer(delegate, False))
        self.assertIn("that was revoked", self.refused(waiting))
        # That is remembered.
        self.assertIn("that was revoked", self.refused(self.checking(checker, staple)))
        self.assertEqual(self.responders, [])
        waiting = self.checking(checker)
        revoked = self.authority.answer(self.path, False, signed_by=delegate)
        self.responders.pop().answer(revoked)
        self.successResultOf(waiting)

    def test_unchecked_delegate(self) -> None:
        """Nobody is asked about one who says that it is not revoked, or whom nobody knows."""
        for options in (
            {"responder": "http://two.example/", "unchecked": True},
            {"responder": None},
        ):
            delegate = self.delegate(**options)
            staple = self.authority.answer(self.path, signed_by=delegate)
            self.successResultOf(self.check(staple))
        delegate = self.delegate(responder="http://two.example/")
        staple = self.authority.answer(self.path, signed_by=delegate)
        self.successResultOf(self.check(staple, disable_ocsp_endpoint_check=True))
        self.assertEqual(self.dialled, [])

    def test_delegates_delegate(self) -> None:
        """That ends with the second: who says so must not be one whom to ask about."""
        delegate, other = (self.delegate(responder="http://two.example/") for _ in range(2))
        waiting = self.check(self.authority.answer(self.path, signed_by=delegate))
        answer = self.authority.answer(delegate, False, signed_by=other)
        self.responders.pop().answer(answer)
        self.successResultOf(waiting)
        self.assertEqual(self.responders, [])
        unchecked = self.delegate(unchecked=True)
        waiting = self.check(self.authority.answer(self.path, signed_by=delegate))
        answer = self.authority.answer(delegate, False, signed_by=unchecked)
        self.responders.pop().answer(answer)
        self.assertIn("that was revoked", self.refused(waiting))

    # The other certificates of its chain.

    def test_authorities(self) -> None:
        """What is brought, or known, about an authority counts; nobody is asked about it."""
        key = rsa.generate_private_key(65537, 2048)
        issuer, certificate = issued(key)
        good, other = answer(key, issuer, certificate), answer(key, issuer, issuer)
        revoked = answer(key, issuer, issuer, good=False)
        checker = self.checker()

        def check(staple: bytes) -> Deferred[None]:
            chain = (certificate, issuer, issuer)
            return Deferred.fromCoroutine(checker.check(Peer(chain, staple)))

        self.successResultOf(check(good))
        self.successResultOf(check(joined(other, good, key)))
        checker = self.checker()
        refused = self.refused(check(joined(revoked, good, key)))
        self.assertIn("an authority that signed", refused)
        self.assertIn("an authority that signed", self.refused(check(good)))
        self.assertEqual(self.dialled, [])

    # What responders say.

    def test_asks(self) -> None:
        """The responder that the certificate names is asked, by POST."""
        waiting = self.check()
        self.assertNoResult(waiting)
        self.assertEqual(self.dialled, [("one.example", 8080)])
        head, body = self.responders[0].request
        self.assertTrue(head.startswith(b"POST /ocsp HTTP/1.1\r\n"), head)
        self.assertIn(b"Content-Type: application/ocsp-request", head)
        certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
        self.assertEqual(ocsp.load_der_ocsp_request(body).serial_number, certificate.serial_number)
        self.responders[0].answer(self.authority.answer(self.path))
        self.successResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_revoked(self) -> None:
        """A certificate that was revoked is refused."""
        waiting = self.check()
        self.responders[0].answer(self.authority.answer(self.path, False))
        self.assertIn("revoked", self.refused(waiting))

    def test_remembers(self) -> None:
        """What is known is not asked again until it is out of date."""
        for good in (True, False):
            checker = self.checker()
            waiting = self.checking(checker)
            self.responders.pop().answer(self.authority.answer(self.path, good))
            (self.successResultOf if good else self.refused)(waiting)
            (self.successResultOf if good else self.refused)(self.checking(checker))
            self.assertEqual(self.responders, [])
            self.now += datetime.timedelta(hours=1, seconds=1)
            self.checking(checker)
            self.responders.pop().answer(b"")
            self.now -= datetime.timedelta(hours=1, seconds=1)

    def test_remembers_what_servers_bring(self) -> None:
        """That goes for what a server brought, too."""
        checker = self.checker()
        self.successResultOf(self.checking(checker, self.authority.answer(self.path)))
        self.successResultOf(self.checking(checker))
        self.assertEqual(self.dialled, [])

    def test_fails_softly(self) -> None:
        """Where no responder says anything it is good enough; each is left alone a while."""
        checker = self.checker()
        wrong: list[tuple[bytes, bytes]] = [
            (b"", b"200 OK"),
            (b"", b"500 No"),
            (self.authority.answer(self.path, False), b"302 Found\r\nLocation: http://x.example/"),
            (self.authority.answer(self.path, None), b"200 OK"),
            (b"x" * 70_000, b"200 OK"),
        ]
        for body, status in wrong:
            waiting = self.checking(checker)
            responder = self.responders.pop()
            responder.write(
                b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body
            )
            responder.protocol.connectionLost(Failure(ConnectionDone()))
            self.successResultOf(waiting)
            self.successResultOf(self.checking(checker))
            self.assertEqual(self.responders, [])
            self.clock.advance(61)
        self.refuses = NobodyListens()
        self.successResultOf(self.checking(checker))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_endless_answer(self) -> None:
        """An answer without an end is given up."""
        waiting = self.check()
        self.responders[0].write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.responders[0].write(b"x" * 70_000)
        self.successResultOf(waiting)
        self.assertTrue(self.responders[0].transport.disconnecting)

    def test_silence(self) -> None:
        """A responder has five seconds, or half of what there is for connecting."""
        for limit, seconds in ((None, 5.0), (20.0, 5.0), (4.0, 2.0)):
            waiting = self.check(limit=limit)
            responder = self.responders.pop()
            responder.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            self.clock.advance(seconds - 0.1)
            self.assertNoResult(waiting)
            self.clock.advance(0.2)
            self.successResultOf(waiting)
            self.assertTrue(responder.transport.disconnecting)

    def test_secured(self) -> None:
        """A responder may want TLS, and must show who it is."""
        self.issue(responder="https://one.example/ocsp")
        waiting = self.check()
        self.assertEqual(self.dialled, [("one.example", 443)])
        hello = self.responders[0].transport.value()
        self.assertEqual(hello[:1], b"\x16")
        self.assertIn(b"one.example", hello)
        self.responders[0].protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(waiting)

    def test_several(self) -> None:
        """All responders are asked at once; the first who knows counts."""
        places = ["http://one.example/", "http://two.example:81/"]
        self.patch(module, "responders", lambda certificate: places)
        waiting = self.check()
        self.assertEqual(self.dialled, [("one.example", 80), ("two.example", 81)])
        self.responders[0].answer(b"nonsense")
        self.assertNoResult(waiting)
        self.responders[1].answer(self.authority.answer(self.path, False))
        self.assertIn("revoked", self.refused(waiting))

        del self.responders[:]
        waiting = self.check()
        self.responders[1].answer(self.authority.answer(self.path))
        self.successResultOf(waiting)
        self.assertTrue(self.responders[0].transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """Cancelling ends what is asked."""
        waiting = self.check()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(self.responders[0].transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_to_ask(self) -> None:
        """Nothing is contacted where none is named, or where options say so."""
        self.successResultOf(self.check(disable_ocsp_endpoint_check=True))
        # OpenSSL has looked it up in the list.
        self.successResultOf(self.check(crl_file="/crl.pem"))
        self.issue(responder=None)
        self.successResultOf(self.check())
        self.assertEqual(self.dialled, [])
