"""
Finding out whether a server's certificate was revoked, before anything is
sent to it.

Follows the drivers' OCSP support specification.  What a server brings along
counts first, then what is remembered, then what the certificate's responders
say.  Where nobody says anything the connection is made nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.x509 import Certificate
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from txmongokit._net.tls import connection_creator
from txmongokit._sansio.ocsp import (
    Answer,
    AnswerCache,
    InvalidAnswer,
    Peer,
    certificate_id,
    judge,
    make_request,
    must_staple,
    responders,
)
from txmongokit.options import TLSOptions

if TYPE_CHECKING:
    from twisted.web.client import URI

__all__ = ["CertificateRefused", "Connect", "RevocationCheck"]

Connect = Callable[[str, int], IStreamClientEndpoint]
"""
Called with host and port; gives the endpoint to reach a responder by.
"""

# OCSP support specification: for one request.
_SECONDS = 5.0
# How long a responder is left alone that gave no answer.
_PAUSE = 60.0
_LARGEST = 1 << 16
_OK = 200


class CertificateRefused(Exception):
    """
    A certificate that was revoked, or cannot show that it was not.
    """


class RevocationCheck:
    """
    Checks the certificates of one client's servers.

    @param limit: seconds for making a connection, C{None} for any number: at
        most half of them go into asking.
    @param connect: how responders are reached.
    @param now: the time of day, with its zone.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        options: TLSOptions,
        limit: float | None,
        connect: Connect,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._reactor = reactor
        # A list of revoked certificates has been looked at by OpenSSL.
        self._asks = not options.disable_ocsp_endpoint_check and options.crl_file is None
        self._seconds = _SECONDS if limit is None else min(_SECONDS, limit / 2)
        self._endpoints = _Endpoints(connect, options)
        self._now = now
        self._cache = AnswerCache()
        self._paused: dict[str, float] = {}

    async def check(self, peer: Peer) -> None:
        """
        Check a server's certificate.  Cancelling ends what is asked.

        @raise CertificateRefused: it was revoked, or the certificate of an
            authority between it and the trusted one; or the server brings
            an answer that cannot be used, or none where the certificate
            demands one.
        """
        certificate, issuer = peer.links[0]
        identity = certificate_id(certificate, issuer)
        now = self._now()
        known = self._cache.get(identity, now)
        brought = await self._brought(peer, now)
        if brought is not None and brought.good is not None:
            self._cache.put(identity, brought, now)
            if known is None or known.since <= brought.since:
                known = brought
        if known is None and self._asks:
            known = await self._asked(certificate, issuer)
            if known is not None:
                self._cache.put(identity, known, self._now())
        if known is not None and not known.good:
            raise CertificateRefused(
                "the server's certificate was revoked, as its authority tells (OCSP): replace it"
            )
        self._check_authorities(peer, now)

    def _check_authorities(self, peer: Peer, now: datetime) -> None:
        """What is known of the others of a chain, for which nobody is asked."""
        for certificate, issuer in peer.links[1:]:
            identity = certificate_id(certificate, issuer)
            answer = self._cache.get(identity, now)
            if peer.staple:
                with suppress(InvalidAnswer):
                    answer = judge(peer.staple, certificate, issuer, now)
                    self._cache.put(identity, answer, now)
            if answer is not None and answer.good is False:
                raise CertificateRefused(
                    "the certificate of an authority that signed the server's was revoked "
                    "(OCSP): have the server's certificate signed by another"
                )

    async def _brought(self, peer: Peer, now: datetime) -> Answer | None:
        certificate, issuer = peer.links[0]
        if peer.staple:
            try:
                answer = judge(peer.staple, certificate, issuer, now)
                await self._check_delegate(answer, issuer)
            except InvalidAnswer as error:
                raise CertificateRefused(
                    f"the OCSP answer that the server brings cannot be used: {error}"
                ) from None
            return answer
        if must_staple(certificate):
            raise CertificateRefused(
                "the server's certificate demands that the server bring an OCSP answer, and it "
                "brings none: check that it reaches its responder"
            )
        return None

    async def _check_delegate(self, answer: Answer, issuer: Certificate) -> None:
        """
        Whether who signed an answer was revoked, where that may be
        (RFC 6960, 4.2.2.2.1).
        """
        delegate = answer.delegate
        if delegate is None:
            return
        identity = certificate_id(delegate, issuer)
        known = self._cache.get(identity, self._now())
        if known is None and self._asks:
            known = await self._asked(delegate, issuer, of_delegate=True)
            if known is not None:
                self._cache.put(identity, known, self._now())
        if known is not None and known.good is False:
            raise InvalidAnswer("it is signed with a certificate that was revoked")

    async def _asked(
        self, certificate: Certificate, issuer: Certificate, *, of_delegate: bool = False
    ) -> Answer | None:
        """What the responders say, all asked at once; the first who knows counts."""
        begun = self._reactor.seconds()
        places = [each for each in responders(certificate) if self._paused.get(each, 0.0) <= begun]
        if not places:
            return None
        asking = [self._limited(place, certificate, issuer, of_delegate) for place in places]
        # Who wants the connection may cancel, which the list would take for silence.
        first: Deferred[Any] = Deferred()
        DeferredList(asking, fireOnOneCallback=True, consumeErrors=True).addCallback(first.callback)
        try:
            found = await first
        finally:
            for each in asking:
                each.cancel()
        if isinstance(found, tuple):
            answer: Answer = found[0]
            return answer
        for place, (_, failure) in zip(places, found, strict=True):
            self._paused[place] = begun + _PAUSE
            self._log.warn(
                "the OCSP responder {place} does not say whether a server's certificate was "
                "revoked, which is now used unchecked: {reason}",
                place=place,
                reason=failure.getErrorMessage(),
            )
        return None

    def _limited(
        self, place: str, certificate: Certificate, issuer: Certificate, of_delegate: bool
    ) -> Deferred[Answer]:
        def too_late(result: Any, timeout: float) -> Any:
            raise InvalidAnswer(f"no answer within {timeout:g} s")

        asking = Deferred.fromCoroutine(self._ask(place, certificate, issuer, of_delegate))
        return asking.addTimeout(self._seconds, self._reactor, onTimeoutCancel=too_late)

    async def _ask(
        self, place: str, certificate: Certificate, issuer: Certificate, of_delegate: bool
    ) -> Answer:
        # Few certificates name a responder, and twisted.web takes its time to load.
        from twisted.web.client import Agent
        from twisted.web.http_headers import Headers

        agent = Agent.usingEndpointFactory(self._reactor, self._endpoints)
        headers = Headers({b"Content-Type": [b"application/ocsp-request"]})
        question = _Question(make_request(certificate, issuer))
        response: Any = await agent.request(b"POST", place.encode("ascii"), headers, question)
        collector = _Collector()
        response.deliverBody(collector)
        if response.code != _OK:
            collector.stop(InvalidAnswer(f"HTTP status {response.code}"))
        raw = await collector.finished
        if response.code != _OK:
            raise InvalidAnswer(f"HTTP status {response.code}")
        answer = judge(raw, certificate, issuer, self._now())
        if answer.good is None:
            raise InvalidAnswer("it does not know the certificate")
        if not of_delegate:
            await self._check_delegate(answer, issuer)
        elif answer.delegate is not None:
            # Who vouches for one that could be revoked must not be such a one.
            raise InvalidAnswer("it is about a delegate, and signed by another one")
        return answer


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """How C{twisted.web}'s agent reaches responders."""

    def __init__(self, connect: Connect, options: TLSOptions) -> None:
        self._connect = connect
        # They show who they are as servers do, and learn nothing of us; asking
        # whether their certificates were revoked might never end.
        self._tls = TLSOptions(ca_file=options.ca_file, disable_certificate_revocation_check=True)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        The endpoint for an address.
        """
        host = uri.host.decode("ascii")
        endpoint = self._connect(host, uri.port)
        if uri.scheme == b"http":
            return endpoint
        return wrapClientTLS(connection_creator(self._tls, host), endpoint)


@implementer(IBodyProducer)
class _Question:
    """A request's body that is there as a whole."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """
        Write all.
        """
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """
        There is nothing left to pause.
        """

    def resumeProducing(self) -> None:
        """
        There is nothing left.
        """

    def stopProducing(self) -> None:
        """
        There is nothing left to stop.
        """


class _Collector(Protocol):
    """
    Takes an answer's body, as long as it is of a sensible size.

    @ivar finished: fires with it.
    """

    def __init__(self) -> None:
        self._body = bytearray()
        self.finished: Deferred[bytes] = Deferred(lambda _: self._hang_up())

    def stop(self, reason: Exception) -> None:
        """
        Take nothing more.
        """
        if not self.finished.called:
            self.finished.errback(reason)
        self._hang_up()

    def dataReceived(self, data: bytes) -> None:
        """
        Keep a piece.
        """
        self._body += data
        if len(self._body) > _LARGEST:
            self.stop(InvalidAnswer("it is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        It was all.
        """
        from twisted.web.client import ResponseDone
        from twisted.web.http import PotentialDataLoss

        if self.finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.finished.callback(bytes(self._body))
        else:
            self.finished.errback(reason)

    def _hang_up(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()
