"""
TLS for one server: by default the chain and the host name are verified.

Built on Twisted's C{CertificateOptions} and C{optionsForClientTLS}, so
pyOpenSSL and service-identity do the work.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from zope.interface import implementer

from txmongokit.errors import ConfigurationError
from txmongokit.options import TLSOptions

__all__ = ["connection_creator", "failed_verification"]


def _read(path: str, option: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(
            f"{option}={path!r} cannot be read: {error.strerror}; name a PEM file"
        ) from error


def _split_certificates(pem: bytes) -> list[bytes]:
    marker = b"-----END CERTIFICATE-----"
    return [part + marker for part in pem.split(marker)[:-1]]


def _trust_root(options: TLSOptions) -> Any:
    if options.ca_file is None:
        return platformTrust()
    pem = _read(options.ca_file, "tlsCAFile")
    try:
        certificates = [Certificate.loadPEM(part) for part in _split_certificates(pem)]
    except (crypto.Error, ValueError) as error:
        raise ConfigurationError(f"tlsCAFile={options.ca_file!r} is no PEM certificate") from error
    if not certificates:
        raise ConfigurationError(f"tlsCAFile={options.ca_file!r} holds no certificate")
    return trustRootFromCertificates(certificates)


def _client_certificate(options: TLSOptions) -> PrivateCertificate | None:
    if options.certificate_key_file is None:
        return None
    pem = _read(options.certificate_key_file, "tlsCertificateKeyFile")
    password = options.certificate_key_file_password
    try:
        certificate = Certificate.loadPEM(pem)
        key = crypto.load_privatekey(
            crypto.FILETYPE_PEM, pem, password.encode() if password is not None else b""
        )
        identity: PrivateCertificate = PrivateCertificate.fromCertificateAndKeyPair(
            certificate, KeyPair(key)
        )
    except (crypto.Error, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"tlsCertificateKeyFile={options.certificate_key_file!r} must hold a PEM "
            "certificate and its private key, readable with tlsCertificateKeyFilePassword"
        ) from error
    return identity


@implementer(IOpenSSLClientConnectionCreator)
class _HostNameUnchecked:
    """
    Sends the host name but does not compare it with the certificate's: for
    C{tlsAllowInvalidHostnames} and C{tlsAllowInvalidCertificates}.
    """

    def __init__(self, host: str, context: SSL.Context) -> None:
        self._host = host
        self._context = context

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the connection object that Twisted drives."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection


def connection_creator(options: TLSOptions, host: str) -> Any:
    """
    What C{wrapClientTLS} needs to talk to one host.

    @return: an L{IOpenSSLClientConnectionCreator}.
    @raise ConfigurationError: a file that an option names cannot be used.
    """
    certificate = _client_certificate(options)
    if options.allow_invalid_certificates:
        unverified = CertificateOptions(**_identity(certificate))
        return _HostNameUnchecked(host, unverified.getContext())
    trust_root = _trust_root(options)
    if options.allow_invalid_hostnames:
        chain_only = CertificateOptions(trustRoot=trust_root, **_identity(certificate))
        return _HostNameUnchecked(host, chain_only.getContext())
    return optionsForClientTLS(host, trustRoot=trust_root, clientCertificate=certificate)


def failed_verification(cause: BaseException | None, host: str) -> str | None:
    """
    What is wrong with a server's certificate and how to mend it, or C{None}
    where C{cause}, of which a connection was lost, is no refusal of TLS.
    """
    if isinstance(cause, VerificationError):
        return (
            f"TLS: the server's certificate is not for host name {host!r}: connect by a name "
            "that it has, or set tlsAllowInvalidHostnames"
        )
    if not isinstance(cause, SSL.Error):
        return None
    entries = cause.args[0] if cause.args and isinstance(cause.args[0], list) else []
    reason = "; ".join(entry[-1] for entry in entries if entry[-1]) or "handshake failed"
    if "certificate verify failed" in reason:
        return f"TLS: {reason}: name the authority that signed the server's in tlsCAFile"
    return f"TLS: {reason}: check that the server speaks TLS and what it asks of clients"


def _identity(certificate: PrivateCertificate | None) -> dict[str, Any]:
    if certificate is None:
        return {}
    return {"privateKey": certificate.privateKey.original, "certificate": certificate.original}
