"""
Tests for L{txmongokit._net.tls}: what is refused before any connection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._net.tls import HostTLS, adapted_creator, connection_creator
from txmongokit.errors import ConfigurationError
from txmongokit.options import TLSOptions
from txmongokit.testing import CertificateAuthority


def client_hello(creator: HostTLS) -> bytes:
    """What a client says first."""
    factory = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(Protocol))
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    hello: bytes = transport.value()
    return hello


def extension(hello: bytes, number: int) -> bytes | None:
    """One extension of a ClientHello (RFC 8446, 4.1.2)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    at += 2
    while at < len(hello):
        kind, size = (int.from_bytes(hello[at + i : at + i + 2], "big") for i in (0, 2))
        if kind == number:
            return hello[at + 4 : at + 4 + size]
        at += 4 + size
    return None


class ConnectionCreatorTests(SynchronousTestCase):
    """Options and the files that they name."""

    def refused(self, **options: object) -> str:
        """Why options are refused."""
        error = self.assertRaises(
            ConfigurationError,
            connection_creator,
            TLSOptions(**options),  # type: ignore[arg-type]
            "db.example",
        )
        return str(error)

    def written(self, text: str) -> str:
        """A file with some text."""
        path: str = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_creators(self) -> None:
        """Each way of verifying gives something that makes connections."""
        for options in (
            TLSOptions(),
            TLSOptions(allow_invalid_hostnames=True),
            TLSOptions(allow_invalid_certificates=True),
        ):
            creator = connection_creator(options, "db.example")
            self.assertTrue(IOpenSSLClientConnectionCreator.providedBy(creator))
            hello = client_hello(creator)
            # The server's name is sent, so that it can choose a certificate.
            self.assertEqual(extension(hello, 0), b"\0\x0d\0\0\x0adb.example")
            # TLS 1.3 and 1.2, nothing older.
            self.assertEqual(extension(hello, 43), b"\x04\x03\x04\x03\x03")

    def test_addresses(self) -> None:
        """Literal addresses and paths are no names to be sent (RFC 6066)."""
        for host in ("127.0.0.1", "::1", "/tmp/mongodb-27017.sock"):
            for options in (TLSOptions(), TLSOptions(allow_invalid_certificates=True)):
                creator = connection_creator(options, host)
                self.assertIsNone(extension(client_hello(creator), 0), host)

    def test_impossible_name(self) -> None:
        """A host that can have no certificate is refused by name."""
        error = self.assertRaises(
            ConfigurationError, connection_creator, TLSOptions(), "a" * 64 + ".example"
        )
        self.assertIn("cannot be used with TLS", str(error))

    def test_key_of_another(self) -> None:
        """A key must be its certificate's."""
        authority = CertificateAuthority()
        parts = []
        for name in ("a", "b"):
            path = Path(self.mktemp())
            authority.issue(path, name)
            parts.append(path.read_text())
        end = parts[0].index("-----BEGIN PRIVATE")
        key = parts[1][parts[1].index("-----BEGIN PRIVATE") :]
        mixed = self.written(parts[0][:end] + key)
        self.assertIn("do not belong together", self.refused(certificate_key_file=mixed))

    def test_encrypted_key(self) -> None:
        """An encrypted key needs its password, and nobody is asked for it."""
        path = Path(self.mktemp())
        CertificateAuthority().issue(path, "client", password=b"sesame")
        reason = self.refused(certificate_key_file=str(path))
        self.assertIn("tlsCertificateKeyFilePassword", reason)
        reason = self.refused(
            certificate_key_file=str(path), certificate_key_file_password="abracadabra"
        )
        self.assertNotIn("abracadabra", reason)
        connection_creator(
            TLSOptions(certificate_key_file=str(path), certificate_key_file_password="sesame"), "h"
        )

    def test_revocation_list(self) -> None:
        """A file of revoked certificates must be one, unless nobody looks at it."""
        self.assertIn(
            "tlsCRLFile='/no/crl.pem' cannot be read", self.refused(crl_file="/no/crl.pem")
        )
        nothing = self.written("nothing")
        self.assertIn("revocation list", self.refused(crl_file=nothing))
        broken = self.written("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
        self.assertIn("tlsCRLFile", self.refused(crl_file=broken))
        connection_creator(
            TLSOptions(crl_file=nothing, disable_certificate_revocation_check=True), "h"
        )

    def test_missing_file(self) -> None:
        """A file that is not there is named with its option."""
        self.assertIn("tlsCAFile='/no/ca.pem' cannot be read", self.refused(ca_file="/no/ca.pem"))
        reason = self.refused(certificate_key_file="/no/c.pem", allow_invalid_certificates=True)
        self.assertIn("tlsCertificateKeyFile='/no/c.pem' cannot be read", reason)

    def test_no_certificate(self) -> None:
        """A file without a certificate is refused."""
        self.assertIn("holds no certificate", self.refused(ca_file=self.written("nothing")))
        broken = self.written("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        self.assertIn("is no PEM certificate", self.refused(ca_file=broken))
        self.assertIn("private key", self.refused(certificate_key_file=broken))
        self.assertIn("private key", self.refused(certificate_key_file=self.written("nothing")))


class AdaptedCreatorTests(SynchronousTestCase):
    """What users pass as C{ssl_context_factory}."""

    def setUp(self) -> None:
        """Count the warnings."""
        self.warnings = 0

    def warn(self) -> None:
        """Nobody is verified."""
        self.warnings += 1

    def test_accepted(self) -> None:
        """Creators, contexts' factories, classes of these, and functions that make one."""

        class Loose:
            def getContext(self) -> SSL.Context:
                return SSL.Context(SSL.TLS_METHOD)

        strict = connection_creator(TLSOptions(), "db.example")
        for factory, warnings in (
            (strict, 0),
            (lambda host: connection_creator(TLSOptions(), host), 0),
            (CertificateOptions(), 1),
            (Loose(), 1),
            (Loose, 1),
            (lambda host: Loose(), 1),
        ):
            self.warnings = 0
            hello = client_hello(adapted_creator(factory, "db.example", self.warn))
            self.assertIn(b"db.example", hello)
            self.assertEqual(self.warnings, warnings, factory)

    def test_refused(self) -> None:
        """Anything else is refused, saying what would do."""
        for factory in (object(), 3, lambda host: None):
            error = self.assertRaises(ConfigurationError, adapted_creator, factory, "h", self.warn)
            self.assertIn("optionsForClientTLS", str(error))


class RefusalTests(SynchronousTestCase):
    """What OpenSSL's errors mean."""

    def refusal(self, error: Any) -> str | None:
        """What is said of an error."""
        return connection_creator(TLSOptions(), "h").refusal(error, object())

    def test_reasons(self) -> None:
        """Each names the reason and what may help; what is the network's doing is none."""
        for reason, hint in (
            ("certificate verify failed", "tlsCAFile"),
            ("tlsv13 alert certificate required", "tlsCertificateKeyFile"),
            ("wrong version number", "speaks TLS"),
        ):
            text = self.refusal(SSL.Error([("SSL routines", "", reason)]))
            assert text is not None
            self.assertIn(reason, text)
            self.assertIn(hint, text)
        self.assertIn("handshake failed", str(self.refusal(SSL.Error())))
        for error in (
            None,
            ConnectionError("reset"),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.Error([("SSL routines", "", "unexpected eof while reading")]),
        ):
            self.assertIsNone(self.refusal(error))
