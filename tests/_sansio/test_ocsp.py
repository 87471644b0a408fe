"""
Tests for L{txmongokit._sansio.ocsp}: what an answer is worth.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.ocsp import (
    Answer,
    AnswerCache,
    InvalidAnswer,
    certificate_id,
    judge,
    make_request,
    must_staple,
    responders,
)
from txmongokit.testing import CertificateAuthority

NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def loaded(pem: bytes) -> x509.Certificate:
    """A certificate."""
    return x509.load_pem_x509_certificate(pem)


class AnswerTests(SynchronousTestCase):
    """One authority, and a certificate of it."""

    def setUp(self) -> None:
        """Issue it."""
        self.authority = CertificateAuthority()
        self.issuer = loaded(self.authority.pem)
        self.path = Path(self.mktemp())
        self.authority.issue(self.path, responder="http://r.example/ocsp")
        self.certificate = loaded(self.path.read_bytes())

    def judged(self, raw: bytes, now: datetime.datetime = NOW) -> Answer:
        """What an answer says."""
        return judge(raw, self.certificate, self.issuer, now)

    def refused(self, raw: bytes, now: datetime.datetime = NOW) -> str:
        """Why an answer is worth nothing."""
        error = self.assertRaises(InvalidAnswer, judge, raw, self.certificate, self.issuer, now)
        return str(error)

    def test_states(self) -> None:
        """Good, revoked and unknown, with the times from and until which it is so."""
        for good in (True, False, None):
            answer = self.judged(self.authority.answer(self.path, good))
            self.assertEqual(answer.good, good)
            assert answer.until is not None
            self.assertEqual(answer.until - answer.since, 2 * HOUR)

    def test_times(self) -> None:
        """It counts from its time on, and before the time of the next."""
        raw = self.authority.answer(self.path)
        answer = self.judged(raw)
        assert answer.until is not None
        self.judged(raw, answer.since)
        self.assertIn("future", self.refused(raw, answer.since - HOUR / 3600))
        self.assertIn("out of date", self.refused(raw, answer.until))

    def test_another_certificate(self) -> None:
        """An answer about another certificate is none."""
        other = Path(self.mktemp())
        self.authority.issue(other)
        self.assertIn("another certificate", self.refused(self.authority.answer(other)))

    def test_another_authority(self) -> None:
        """Nobody else can answer: neither for their own certificates nor for ours."""
        stranger = CertificateAuthority()
        delegate = Path(self.mktemp())
        stranger.issue(delegate, "responder", answers=True)
        raw = stranger.answer(self.path)
        self.assertIn("another certificate", self.refused(raw))
        raw = self.authority.answer(self.path, signed_by=delegate)
        self.assertIn("another authority", self.refused(raw))

    def test_changed_delegate(self) -> None:
        """A delegate's certificate, too, must be as the issuer signed it."""
        delegate = Path(self.mktemp())
        self.authority.issue(delegate, "responder", answers=True)
        raw = self.authority.answer(self.path, signed_by=delegate)
        encoded = loaded(delegate.read_bytes()).public_bytes(Encoding.DER)
        changed = raw.replace(encoded, encoded[:-1] + bytes((encoded[-1] ^ 1,)))
        self.assertNotEqual(changed, raw)
        self.assertIn("another authority", self.refused(changed))

    def test_unknown_signer(self) -> None:
        """An answer that does not bring the certificate of who signed it is not the issuer's."""
        key, stranger = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
        issuer, certificate = _issued(key)
        raw = _answer(stranger, _issued(stranger)[0], certificate, issuer)
        error = self.assertRaises(InvalidAnswer, judge, raw, certificate, issuer, NOW)
        self.assertIn("not signed by", str(error))

    def test_wrong_signature(self) -> None:
        """What was changed on its way is refused."""
        raw = bytearray(self.authority.answer(self.path))
        raw[-1] ^= 1
        self.assertIn("signature is wrong", self.refused(bytes(raw)))

    def test_delegate(self) -> None:
        """The issuer may name who answers, by a certificate for just that."""
        delegate = Path(self.mktemp())
        self.authority.issue(delegate, "responder", answers=True)
        answer = self.judged(self.authority.answer(self.path, False, signed_by=delegate))
        self.assertIs(answer.good, False)
        for days, answers, reason in ((2, False, "nobody allows"), (-1, True, "out of date")):
            path = Path(self.mktemp())
            self.authority.issue(path, "responder", days=days, answers=answers)
            raw = self.authority.answer(self.path, signed_by=path)
            self.assertIn(reason, self.refused(raw))

    def test_no_answer(self) -> None:
        """A responder may answer that it does not."""
        raw = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
        self.assertIn("try later", self.refused(raw.public_bytes(Encoding.DER)))

    def test_nonsense(self) -> None:
        """What is no answer is refused, whatever it is."""
        raw = self.authority.answer(self.path)
        for nonsense in (b"", b"<html>", raw[:-5], raw[5:]):
            self.assertIn("cannot be read", self.refused(nonsense))

    def test_kinds_of_keys(self) -> None:
        """Authorities sign with keys of all kinds."""
        for key in (
            rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate(),
            dsa.generate_private_key(2048),
        ):
            issuer, certificate = _issued(key)
            raw = _answer(key, issuer, certificate)
            self.assertIs(judge(raw, certificate, issuer, NOW).good, True)
            wrong = raw[:-1] + bytes((raw[-1] ^ 1,))
            self.assertRaises(InvalidAnswer, judge, wrong, certificate, issuer, NOW)

    def test_request(self) -> None:
        """The question names the certificate, by SHA-1 as all responders know it."""
        request = ocsp.load_der_ocsp_request(make_request(self.certificate, self.issuer))
        self.assertIsInstance(request.hash_algorithm, hashes.SHA1)
        self.assertEqual(request.serial_number, self.certificate.serial_number)
        self.assertEqual(
            certificate_id(self.certificate, self.issuer),
            (request.issuer_name_hash, request.issuer_key_hash, request.serial_number),
        )

    def test_certificate(self) -> None:
        """A certificate says where to ask, and whether its server must bring an answer."""
        self.assertEqual(responders(self.certificate), ["http://r.example/ocsp"])
        self.assertFalse(must_staple(self.certificate))
        for responder in (None, "ldap://r.example", "https://r.example"):
            path = Path(self.mktemp())
            self.authority.issue(path, responder=responder, must_staple=True)
            certificate = loaded(path.read_bytes())
            self.assertEqual(responders(certificate), [])
            self.assertTrue(must_staple(certificate))


class CacheTests(SynchronousTestCase):
    """Answers that are remembered."""

    def test_cache(self) -> None:
        """An answer counts until it is out of date; one that lasts longer takes its place."""
        cache = AnswerCache()
        one, other = (b"n", b"k", 1), (b"n", b"k", 2)
        short = Answer(True, NOW, NOW + HOUR)
        long = Answer(False, NOW, NOW + 2 * HOUR)
        self.assertIsNone(cache.get(one, NOW))
        cache.put(one, short, NOW)
        self.assertIs(cache.get(one, NOW), short)
        self.assertIsNone(cache.get(other, NOW))
        self.assertIsNone(cache.get(one, NOW + HOUR))
        self.assertIsNone(cache.get(one, NOW - HOUR))
        cache.put(one, long, NOW)
        cache.put(one, short, NOW)
        self.assertIs(cache.get(one, NOW + HOUR), long)

    def test_not_kept(self) -> None:
        """What leaves the state open, or may be renewed at any time, is not kept."""
        cache = AnswerCache()
        name = (b"n", b"k", 1)
        cache.put(name, Answer(None, NOW, NOW + HOUR), NOW)
        cache.put(name, Answer(True, NOW, None), NOW)
        self.assertIsNone(cache.get(name, NOW))


def _issued(key: Any) -> tuple[x509.Certificate, x509.Certificate]:
    """An authority with this key, and a certificate of it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = []
    for number in (1, 2):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(number)
            .not_valid_before(NOW - HOUR)
            .not_valid_after(NOW + HOUR)
        )
        made.append(builder.sign(key, algorithm))
    return made[0], made[1]


def _answer(
    key: Any,
    signer: x509.Certificate,
    certificate: x509.Certificate,
    issuer: x509.Certificate | None = None,
) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate,
        issuer or signer,
        hashes.SHA1(),
        ocsp.OCSPCertStatus.GOOD,
        NOW - HOUR,
        NOW + HOUR,
        None,
        None,
    )
    encoding = ocsp.OCSPResponderEncoding
    builder = builder.responder_id(encoding.HASH if issuer else encoding.NAME, signer)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)
