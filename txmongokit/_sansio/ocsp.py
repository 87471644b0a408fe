"""
Whether a certificate has been revoked, as its authority tells by OCSP (RFC
6960, RFC 5019): requests, answers, and what they are worth.

Follows the drivers' OCSP support specification.  Reads no clock and knows no
network.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import (
    AuthorityInformationAccess,
    Certificate,
    ExtendedKeyUsage,
    ExtensionNotFound,
    KeyUsage,
    OCSPNoCheck,
    SubjectKeyIdentifier,
    TLSFeature,
    TLSFeatureType,
)
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPRequestBuilder,
    OCSPResponse,
    OCSPResponseStatus,
    load_der_ocsp_response,
)
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    SignatureAlgorithmOID,
)

__all__ = [
    "Answer",
    "AnswerCache",
    "CertificateID",
    "InvalidAnswer",
    "Peer",
    "certificate_id",
    "judge",
    "make_request",
    "must_staple",
    "responders",
]

CertificateID = tuple[bytes, bytes, int]
"""
What identifies a certificate (RFC 6960, 4.1.1), by SHA-1: its issuer's name
and key, and its number.
"""

# How far clocks may be apart; how old an answer may be that does not say when
# there will be a newer one (RFC 6960, 3.2, leaves both open).
_SKEW = timedelta(minutes=5)
_OLDEST = timedelta(days=10)
# An answer's algorithm does not show with which of these RSA-PSS was done.
_PSS_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_BROKEN_HASHES = (hashes.MD5,)


class InvalidAnswer(Exception):
    """
    An OCSP answer that is worth nothing; says why.
    """


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A valid answer.

    @ivar good: whether the certificate is; C{None} where its authority does
        not know it.
    @ivar until: when there will be a newer one, C{None} for at any time.
    @ivar delegate: who signed it in the authority's stead, where that could
        have been revoked itself (RFC 6960, 4.2.2.2.1); C{None} otherwise.
    """

    good: bool | None
    since: datetime
    until: datetime | None
    delegate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """
    The other side of a TLS connection.

    @ivar chain: its certificate, each followed by who signed it; the last
        one is trusted.
    @ivar staple: the OCSP answer that it brought, empty for none.
    """

    chain: tuple[Certificate, ...]
    staple: bytes

    @property
    def links(self) -> list[tuple[Certificate, Certificate]]:
        """
        Each certificate with its issuer's, the server's own first.
        """
        # One that is trusted by itself has signed itself.
        issuers = self.chain[1:] or self.chain
        return list(zip(self.chain, issuers, strict=False))


def make_request(certificate: Certificate, issuer: Certificate) -> bytes:
    """
    The question to a responder.
    """
    # RFC 5019: what all of them understand.
    encoded: bytes = _request(certificate, issuer, hashes.SHA1()).public_bytes(Encoding.DER)
    return encoded


def certificate_id(certificate: Certificate, issuer: Certificate) -> CertificateID:
    """
    What identifies a certificate in a cache.
    """
    request = _request(certificate, issuer, hashes.SHA1())
    return request.issuer_name_hash, request.issuer_key_hash, request.serial_number


def _request(certificate: Certificate, issuer: Certificate, algorithm: Any) -> Any:
    return OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm).build()


def must_staple(certificate: Certificate) -> bool:
    """
    Whether it is worth nothing without an answer that its server brings (RFC
    7633).
    """
    features = _extension(certificate, TLSFeature)
    return features is not None and TLSFeatureType.status_request in features


def responders(certificate: Certificate) -> list[str]:
    """
    Where to ask for a certificate: web addresses that it names.
    """
    access = _extension(certificate, AuthorityInformationAccess)
    found = []
    for description in () if access is None else access:
        if description.access_method == AuthorityInformationAccessOID.OCSP:
            address = getattr(description.access_location, "value", None)
            if isinstance(address, str) and urlsplit(address).scheme in ("http", "https"):
                found.append(address)
    return found


def _extension(certificate: Certificate, kind: Any) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except ExtensionNotFound:
        return None


def judge(raw: bytes, certificate: Certificate, issuer: Certificate, now: datetime) -> Answer:
    """
    Read an answer and verify it (RFC 6960, 3.2): that it is about this
    certificate, signed by its issuer or by whom that has named, and of today.

    @param now: with a time zone.
    @raise InvalidAnswer: it is none of these.
    """
    try:
        response = load_der_ocsp_response(raw)
        if response.response_status != OCSPResponseStatus.SUCCESSFUL:
            name = response.response_status.name.lower().replace("_", " ")
            raise InvalidAnswer(f"the responder gives none: {name}")
        single = _about(response, certificate, issuer)
        signer = _signer(response, issuer, now)
        _verify_signature(response, signer)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidAnswer(f"it cannot be read: {error}") from error
    since, until = single.this_update_utc, single.next_update_utc
    if now < since - _SKEW:
        raise InvalidAnswer("it is of the future: check this machine's clock")
    if now >= (since + _OLDEST if until is None else until):
        raise InvalidAnswer("it is out of date")
    status = single.certificate_status
    good = None if status == OCSPCertStatus.UNKNOWN else status == OCSPCertStatus.GOOD
    revocable = signer is not issuer and _extension(signer, OCSPNoCheck) is None
    return Answer(good, since, until, signer if revocable else None)


def _about(response: OCSPResponse, certificate: Certificate, issuer: Certificate) -> Any:
    """What is said about one certificate."""
    for single in response.responses:
        request = _request(certificate, issuer, single.hash_algorithm)
        if (single.serial_number, single.issuer_name_hash, single.issuer_key_hash) == (
            request.serial_number,
            request.issuer_name_hash,
            request.issuer_key_hash,
        ):
            return single
    raise InvalidAnswer("it is about another certificate")


def _verify_signature(response: OCSPResponse, signer: Certificate) -> None:
    try:
        _check(signer.public_key(), response)
    except InvalidSignature:
        raise InvalidAnswer("its signature is wrong") from None


def _signer(response: OCSPResponse, issuer: Certificate, now: datetime) -> Certificate:
    """The issuer itself, or whom it lets answer for it."""
    if _is_responder(issuer, response):
        return issuer
    for delegate in response.certificates:
        if not _is_responder(delegate, response):
            continue
        try:
            delegate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise InvalidAnswer("it is signed by whom another authority has named") from None
        purposes = _extension(delegate, ExtendedKeyUsage)
        if purposes is None or ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
            raise InvalidAnswer("it is signed by whom nobody allows to")
        usage = _extension(delegate, KeyUsage)
        if usage is not None and not usage.digital_signature:
            raise InvalidAnswer("it is signed with a key that is not for signatures")
        if not delegate.not_valid_before_utc <= now <= delegate.not_valid_after_utc:
            raise InvalidAnswer("it is signed with a certificate that is out of date")
        return delegate
    raise InvalidAnswer("it is not signed by the certificate's issuer")


def _is_responder(certificate: Certificate, response: OCSPResponse) -> bool:
    if response.responder_name is not None:
        return certificate.subject == response.responder_name
    key = SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return key.digest == response.responder_key_hash


def _check(key: Any, response: OCSPResponse) -> None:
    signature, signed = response.signature, response.tbs_response_bytes
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        key.verify(signature, signed)
        return
    if response.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
        _check_pss(key, signature, signed)
        return
    algorithm = response.signature_hash_algorithm
    if algorithm is None or isinstance(algorithm, _BROKEN_HASHES):
        raise InvalidSignature
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed, ec.ECDSA(algorithm))
    elif isinstance(key, dsa.DSAPublicKey):
        key.verify(signature, signed, algorithm)
    else:
        raise InvalidAnswer("it is signed with a key of an unknown kind")


def _check_pss(key: Any, signature: bytes, signed: bytes) -> None:
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidSignature
    for algorithm in _PSS_HASHES:
        with suppress(InvalidSignature):
            scheme = padding.PSS(padding.MGF1(algorithm()), padding.PSS.AUTO)
            key.verify(signature, signed, scheme, algorithm())
            return
    raise InvalidSignature


class AnswerCache:
    """
    Answers, as long as they are of today.  Those that leave a certificate's
    state open are not kept, nor are those that may be renewed at any time.
    """

    def __init__(self) -> None:
        self._answers: dict[CertificateID, Answer] = {}

    def get(self, identity: CertificateID, now: datetime) -> Answer | None:
        """
        What is known of a certificate.
        """
        answer = self._answers.get(identity)
        if answer is None or not _current(answer, now):
            return None
        return answer

    def put(self, identity: CertificateID, answer: Answer, now: datetime) -> None:
        """
        Keep an answer, unless a newer one is there.
        """
        if answer.good is None or answer.until is None:
            return
        kept = self._answers.get(identity)
        if kept is None or _end(kept) < answer.until:
            self._answers = dict(self._still_current(now))
            self._answers[identity] = answer

    def _still_current(self, now: datetime) -> Iterable[tuple[CertificateID, Answer]]:
        return ((name, each) for name, each in self._answers.items() if _current(each, now))


def _end(answer: Answer) -> datetime:
    assert answer.until is not None
    return answer.until


def _current(answer: Answer, now: datetime) -> bool:
    return answer.since <= now < _end(answer)
