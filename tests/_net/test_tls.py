"""
Tests for L{txmongokit._net.tls}: what is refused before any connection.
"""

from __future__ import annotations

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._net.tls import connection_creator
from txmongokit.errors import ConfigurationError
from txmongokit.options import TLSOptions


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
