"""
Tests for L{txmongokit._sansio.ocsp}: what an answer is worth.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
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
        # Clocks may be five minutes apart.
        self.judged(raw, answer.since - HOUR / 12)
        self.assertIn("future", self.refused(raw, answer.since - HOUR / 11))
        self.assertIn("out of date", self.refused(raw, answer.until))

    def test_no_end(self) -> None:
        """An answer that does not say when there will be a newer one counts ten days."""
        key = ed25519.Ed25519PrivateKey.generate()
        issuer, certificate = issued(key)
        raw = answer(key, issuer, certificate, until=None)
        day = 24 * HOUR
        self.assertIsNone(judge(raw, certificate, issuer, NOW + 9 * day).until)
        error = self.assertRaises(InvalidAnswer, judge, raw, certificate, issuer, NOW + 10 * day)
        self.assertIn("out of date", str(error))

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
        issuer, certificate = issued(key)
        raw = answer(stranger, issued(stranger)[0], certificate, issuer)
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
        self.assertEqual(answer.delegate, loaded(delegate.read_bytes()))
        self.authority.issue(delegate, "responder", answers=True, unchecked=True)
        answer = self.judged(self.authority.answer(self.path, signed_by=delegate))
        # One that says that it is not revoked need not be looked up.
        self.assertIsNone(answer.delegate)
        self.assertIsNone(self.judged(self.authority.answer(self.path)).delegate)
        for days, answers, reason in ((2, False, "nobody allows"), (-1, True, "out of date")):
            path = Path(self.mktemp())
            self.authority.issue(path, "responder", days=days, answers=answers)
            raw = self.authority.answer(self.path, signed_by=path)
            self.assertIn(reason, self.refused(raw))

    def test_purpose_of_key(self) -> None:
        """A delegate's key must be for signatures, where its certificate says what it is for."""
        key = ed25519.Ed25519PrivateKey.generate()
        issuer, certificate = issued(key)
        for signs in (True, False):
            usage = dict.fromkeys(
                (
                    "content_commitment",
                    "data_encipherment",
                    "key_agreement",
                    "key_cert_sign",
                    "crl_sign",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            delegate = (
                x509.CertificateBuilder()
                .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "delegate")]))
                .issuer_name(issuer.subject)
                .public_key(key.public_key())
                .serial_number(3)
                .not_valid_before(NOW - HOUR)
                .not_valid_after(NOW + HOUR)
                .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
                .add_extension(
                    x509.KeyUsage(digital_signature=signs, key_encipherment=not signs, **usage),
                    True,
                )
                .sign(key, None)
            )
            raw = (
                ocsp.OCSPResponseBuilder()
                .add_response(
                    certificate,
                    issuer,
                    hashes.SHA1(),
                    ocsp.OCSPCertStatus.GOOD,
                    NOW - HOUR,
                    NOW + HOUR,
                    None,
                    None,
                )
                .responder_id(ocsp.OCSPResponderEncoding.NAME, delegate)
                .certificates([delegate])
                .sign(key, None)
                .public_bytes(Encoding.DER)
            )
            if signs:
                self.assertEqual(judge(raw, certificate, issuer, NOW).delegate, delegate)
                continue
            error = self.assertRaises(InvalidAnswer, judge, raw, certificate, issuer, NOW)
            self.assertIn("not for signatures", str(error))

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
        rsa_key = rsa.generate_private_key(65537, 2048)
        sha256 = hashes.SHA256()
        for key, algorithm in (
            (rsa_key, sha256),
            (rsa_key, hashes.SHA384()),
            (rsa_key, hashes.SHA512()),
            (ed25519.Ed25519PrivateKey.generate(), None),
            (dsa.generate_private_key(2048), sha256),
            (ec.generate_private_key(ec.SECP256R1()), hashes.SHA224()),
            (ec.generate_private_key(ec.SECP256R1()), sha256),
            (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
            (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
        ):
            issuer, certificate = issued(key)
            raw = answer(key, issuer, certificate, algorithm=algorithm)
            self.assertIs(judge(raw, certificate, issuer, NOW).good, True)
            wrong = raw[:-1] + bytes((raw[-1] ^ 1,))
            self.assertRaises(InvalidAnswer, judge, wrong, certificate, issuer, NOW)

    def test_probabilistic_signatures(self) -> None:
        """RSA-PSS, with each hash that is in use, and with no key of another kind."""
        key = rsa.generate_private_key(65537, 2048)
        issuer, certificate = issued(key)
        raw = answer(key, issuer, certificate)
        for algorithm in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
            signed = _signed_again(raw, key, algorithm)
            self.assertIs(judge(signed, certificate, issuer, NOW).good, True)
            wrong = signed[:-1] + bytes((signed[-1] ^ 1,))
            error = self.assertRaises(InvalidAnswer, judge, wrong, certificate, issuer, NOW)
            self.assertIn("signature is wrong", str(error))
        other = ec.generate_private_key(ec.SECP256R1())
        issuer, certificate = issued(other)
        signed = _signed_again(answer(other, issuer, certificate), key, hashes.SHA256())
        error = self.assertRaises(InvalidAnswer, judge, signed, certificate, issuer, NOW)
        self.assertIn("signature is wrong", str(error))

    def test_broken_hash(self) -> None:
        """A signature of an MD5 hash is none."""
        key = rsa.generate_private_key(65537, 2048)
        issuer, certificate = issued(key)
        raw = _signed_again(answer(key, issuer, certificate), key, hashes.MD5())
        error = self.assertRaises(InvalidAnswer, judge, raw, certificate, issuer, NOW)
        self.assertIn("signature is wrong", str(error))

    def test_answers_for_several(self) -> None:
        """An answer may be about several certificates."""
        key = rsa.generate_private_key(65537, 2048)
        issuer, certificate = issued(key)
        raw = joined(answer(key, issuer, issuer, good=False), answer(key, issuer, certificate), key)
        self.assertIs(judge(raw, certificate, issuer, NOW).good, True)
        self.assertIs(judge(raw, issuer, issuer, NOW).good, False)

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
        secure = Path(self.mktemp())
        self.authority.issue(secure, responder="https://r.example")
        self.assertEqual(responders(loaded(secure.read_bytes())), ["https://r.example"])
        for responder in (None, "ldap://r.example", "file:///r.example"):
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


def issued(key: Any) -> tuple[x509.Certificate, x509.Certificate]:
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


def answer(
    key: Any,
    signer: x509.Certificate,
    certificate: x509.Certificate,
    issuer: x509.Certificate | None = None,
    *,
    algorithm: Any = None,
    until: datetime.datetime | None = NOW + HOUR,
    good: bool = True,
) -> bytes:
    if algorithm is None and not isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = hashes.SHA256()
    status = ocsp.OCSPCertStatus
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate,
        issuer or signer,
        hashes.SHA1(),
        status.GOOD if good else status.REVOKED,
        NOW - HOUR,
        until,
        None if good else NOW - HOUR,
        None,
    )
    encoding = ocsp.OCSPResponderEncoding
    builder = builder.responder_id(encoding.HASH if issuer else encoding.NAME, signer)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


# What cryptography does not build is put together from what it does (X.690).

_PSS = bytes.fromhex("06092a864886f70d01010a")
_MD5_WITH_RSA = bytes.fromhex("06092a864886f70d0101040500")


def _parts(der: bytes) -> list[bytes]:
    """The elements of a constructed one."""
    found = []
    _, body = _opened(der)
    while body:
        start, inner = _opened(body)
        end = start + len(inner)
        found.append(body[:end])
        body = body[end:]
    return found


def _opened(der: bytes) -> tuple[int, bytes]:
    """How long an element's head is, and what is in it."""
    length, start = der[1], 2
    if length >= 0x80:
        start += length - 0x80
        length = int.from_bytes(der[2:start], "big")
    return start, der[start : start + length]


def _element(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        length = bytes((len(body),))
    else:
        size = (len(body).bit_length() + 7) // 8
        length = bytes((0x80 + size,)) + len(body).to_bytes(size, "big")
    return bytes((tag,)) + length + body


def _basic(raw: bytes) -> list[bytes]:
    """The parts of an answer: what is signed, how, and the signature."""
    _, wrapped = _parts(raw)
    _, octets = _parts(_parts(wrapped)[0])
    return _parts(_opened(octets)[1])


def _whole(*basic: bytes) -> bytes:
    kind = bytes.fromhex("06092b0601050507300101")
    octets = _element(0x04, _element(0x30, *basic))
    return _element(0x30, b"\x0a\x01\x00", _element(0xA0, _element(0x30, kind, octets)))


def _signed_again(raw: bytes, key: rsa.RSAPrivateKey, algorithm: Any) -> bytes:
    """The same answer, signed by RSA-PSS, or as it was long ago."""
    signed = _basic(raw)[0]
    if isinstance(algorithm, hashes.MD5):
        name, scheme = _MD5_WITH_RSA, padding.PKCS1v15()
        signature = key.sign(signed, scheme, algorithm)
    else:
        name = _PSS
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        signature = key.sign(signed, pss, algorithm)
    return _whole(signed, _element(0x30, name), _element(0x03, b"\0", signature))


def joined(one: bytes, other: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """One answer that says what two say."""
    signed, algorithm, _ = _basic(one)
    responder, produced, said = _parts(signed)
    more = _parts(_parts(_basic(other)[0])[2])
    signed = _element(0x30, responder, produced, _element(0x30, *_parts(said), *more))
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return _whole(signed, algorithm, _element(0x03, b"\0", signature))
