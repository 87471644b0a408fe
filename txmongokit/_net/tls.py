"""
TLS for one server: by default the chain and the host name are verified.

Built on Twisted's C{CertificateOptions} and C{optionsForClientTLS}, so
pyOpenSSL and service-identity do the work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import directlyProvides, implementer, providedBy

from txmongokit._sansio.ocsp import Peer
from txmongokit.errors import ConfigurationError
from txmongokit.options import TLSOptions

__all__ = ["HostTLS", "adapted_creator", "connection_creator"]

_Connect = Callable[[Any], SSL.Connection]

_END_OF_CERTIFICATE = b"-----END CERTIFICATE-----"
_REVOCATION_LIST = b"-----BEGIN X509 CRL-----"

# OpenSSL's numbers of what may be wrong with a certificate, and what helps.
_NO_REVOCATION_LIST = (3, 8)
_OUT_OF_TIME = (9, 10)
_REVOCATION_LIST_OUT_OF_TIME = (11, 12)
_REVOKED = 23


class _Staples:
    """
    The OCSP answers that servers bring along in their handshakes.
    """

    def __init__(self) -> None:
        self._brought: WeakKeyDictionary[SSL.Connection, bytes] = WeakKeyDictionary()

    def keep(self, connection: SSL.Connection, answer: bytes, data: object) -> bool:
        """Keep one: it is judged when the handshake is over, for that may take questions."""
        self._brought[connection] = answer
        return True

    def brought(self, connection: SSL.Connection) -> bytes:
        """What was brought, empty for nothing."""
        return self._brought.get(connection, b"")


class _StaplingTrust:
    """
    Trusts whom another trust root trusts, and has answers kept.

    A context cannot be changed once it has made a connection, and this is
    the one place where C{optionsForClientTLS} shows it before.
    """

    def __init__(self, trust_root: Any, staples: _Staples) -> None:
        directlyProvides(self, providedBy(trust_root))
        self._trust_root = trust_root
        self._staples = staples

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        self._trust_root._addCACertsToContext(context)
        context.set_ocsp_client_callback(self._staples.keep)


@implementer(IOpenSSLClientConnectionCreator)
class HostTLS:
    """
    TLS with one host: starts it, and tells why it failed.

    @param host: for messages.
    @param connect: makes a connection for one of Twisted's TLS protocols.
    @param check: is shown each connection before it is used.
    @param staples: keeps the OCSP answers that servers bring, where
        certificates are to be checked by them.
    """

    def __init__(
        self,
        host: str,
        connect: _Connect,
        check: Callable[[SSL.Connection], None],
        staples: _Staples | None = None,
    ) -> None:
        self._host = host
        self._staples = staples
        self._connect = connect
        self._check = check
        self._connections: WeakKeyDictionary[Any, SSL.Connection] = WeakKeyDictionary()

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """
        Make the connection object that Twisted drives.
        """
        connection = self._connect(tlsProtocol)
        self._check(connection)
        if self._staples is not None:
            connection.request_ocsp()
        self._connections[tlsProtocol] = connection
        return connection

    @property
    def by_ocsp(self) -> bool:
        """
        Whether servers' certificates are to be checked by OCSP.
        """
        return self._staples is not None

    def peer(self, transport: Any) -> Peer | None:
        """
        What is to be checked by OCSP once the handshake is over: C{None}
        where nothing is.

        @param transport: Twisted's TLS protocol.
        """
        connection = self._connections.get(transport)
        if self._staples is None or connection is None:
            return None
        chain = connection.get_verified_chain()
        if not chain:
            return None
        certificates = tuple(each.to_cryptography() for each in chain)
        return Peer(certificates, self._staples.brought(connection))

    def refusal(self, cause: BaseException | None, transport: Any) -> str | None:
        """
        What made a handshake fail and how to mend it, or C{None} where it is
        nothing that has to do with TLS: the network's or the server's doing.

        @param cause: of which the connection was lost.
        @param transport: Twisted's TLS protocol.
        """
        if isinstance(cause, VerificationError):
            return (
                f"TLS: the server's certificate is not for host name {self._host!r}: connect by "
                "a name that it has, or set tlsAllowInvalidHostnames"
            )
        if not isinstance(cause, SSL.Error) or isinstance(cause, SSL.SysCallError):
            return None
        reason = _reason(cause)
        if "unexpected eof" in reason:
            return None
        if "certificate verify failed" in reason:
            return f"TLS: {reason}: {self._complaint(transport)}"
        if "alert" in reason:
            return (
                f"TLS: {reason}: the server refuses us; it may demand a certificate that it "
                "trusts (tlsCertificateKeyFile)"
            )
        return f"TLS: {reason}: check that this port speaks TLS"

    def _complaint(self, transport: Any) -> str:
        """
        What is wrong with the certificate that a server sent: OpenSSL's
        verification, which does not say so, done once more.
        """
        trust = "name the authority that signed the server's in tlsCAFile"
        connection = None
        if isinstance(transport, TLSMemoryBIOProtocol):
            connection = self._connections.get(transport)
        chain = None if connection is None else connection.get_peer_cert_chain()
        store = None if connection is None else connection.get_context().get_cert_store()
        if not chain or store is None:
            return trust
        try:
            crypto.X509StoreContext(store, chain[0], chain[1:]).verify_certificate()
        except crypto.X509StoreContextError as error:
            number = error.errors[0] if error.errors else 0
            return f"{error}: {_remedy(number) or trust}"
        return "it cannot serve as a server's certificate: renew it"


def _reason(error: SSL.Error) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(entry[-1] for entry in entries if entry[-1]) or "handshake failed"


def _remedy(number: int) -> str | None:
    if number in _OUT_OF_TIME:
        return "renew it, and check this machine's clock"
    if number == _REVOKED:
        return "its authority says so in tlsCRLFile: replace it"
    if number in _NO_REVOCATION_LIST:
        return "tlsCRLFile must hold a list of the authority that signed the server's"
    if number in _REVOCATION_LIST_OUT_OF_TIME:
        return "renew the list in tlsCRLFile"
    return None


# From the options.


def connection_creator(options: TLSOptions, host: str) -> HostTLS:
    """
    What C{wrapClientTLS} needs to talk to one host.

    @param host: a name, a literal address or the path of a Unix socket,
        which has no name that could be verified.
    @raise ConfigurationError: a file that an option names cannot be used.
    """
    arguments = _own_certificate(options)
    if not options.allow_invalid_certificates:
        arguments["trustRoot"] = _trust_root(options)
    staples = None
    if not (options.allow_invalid_certificates or options.disable_certificate_revocation_check):
        staples = _Staples()
        arguments["trustRoot"] = _StaplingTrust(arguments["trustRoot"], staples)
    names_checked = not (
        options.allow_invalid_certificates
        or options.allow_invalid_hostnames
        or host.startswith("/")
    )
    try:
        if names_checked:
            creator = optionsForClientTLS(
                host,
                trustRoot=arguments.pop("trustRoot"),
                extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2, **arguments},
            )
            connect: _Connect = creator.clientConnectionForTLS
        else:
            unnamed = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2, **arguments)
            connect = partial(_connection, unnamed.getContext, host)
    except UnicodeError as error:
        raise ConfigurationError(f"host name {host!r} cannot be used with TLS: {error}") from error
    return HostTLS(host, connect, _revocation_check(options), staples)


def _connection(get_context: Callable[[], SSL.Context], host: str, tls: Any) -> SSL.Connection:
    """A connection that sends the host name but does not verify it."""
    connection = SSL.Connection(get_context(), None)
    connection.set_app_data(tls)
    _send_name(connection, host)
    return connection


def _send_name(connection: SSL.Connection, host: str) -> None:
    # RFC 6066 allows no literal addresses.
    if not (isIPAddress(host) or isIPv6Address(host) or host.startswith("/")):
        connection.set_tlsext_host_name(host.encode("idna"))


def _read(path: str, option: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(
            f"{option}={path!r} cannot be read: {error.strerror}; name a PEM file"
        ) from error


def _certificates(pem: bytes) -> list[Certificate]:
    parts = pem.split(_END_OF_CERTIFICATE)[:-1]
    return [Certificate.loadPEM(part + _END_OF_CERTIFICATE) for part in parts]


def _trust_root(options: TLSOptions) -> Any:
    if options.ca_file is None:
        return platformTrust()
    pem = _read(options.ca_file, "tlsCAFile")
    try:
        certificates = _certificates(pem)
    except (crypto.Error, ValueError) as error:
        raise ConfigurationError(f"tlsCAFile={options.ca_file!r} is no PEM certificate") from error
    if not certificates:
        raise ConfigurationError(f"tlsCAFile={options.ca_file!r} holds no certificate")
    return trustRootFromCertificates(certificates)


def _own_certificate(options: TLSOptions) -> dict[str, Any]:
    """The client's certificate, with its chain, as C{CertificateOptions} wants it."""
    if options.certificate_key_file is None:
        return {}
    pem = _read(options.certificate_key_file, "tlsCertificateKeyFile")
    password = options.certificate_key_file_password
    try:
        certificate, *chain = _certificates(pem)
        key = crypto.load_privatekey(
            crypto.FILETYPE_PEM, pem, password.encode() if password is not None else b""
        )
    except (crypto.Error, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"tlsCertificateKeyFile={options.certificate_key_file!r} must hold a PEM "
            "certificate and its private key, readable with tlsCertificateKeyFilePassword"
        ) from error
    try:
        # Twisted would notice only at the first connection.
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(certificate.original)
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error as error:
        raise ConfigurationError(
            f"tlsCertificateKeyFile={options.certificate_key_file!r}: certificate and private key "
            "do not belong together"
        ) from error
    arguments: dict[str, Any] = {"privateKey": key, "certificate": certificate.original}
    if chain:
        arguments["extraCertChain"] = [each.original for each in chain]
    return arguments


def _revocation_check(options: TLSOptions) -> Callable[[SSL.Connection], None]:
    """
    Has the store of trusted authorities look for the server's certificate in
    the list of revoked ones.
    """
    path = options.crl_file
    if options.allow_invalid_certificates or options.disable_certificate_revocation_check:
        path = None
    if path is None:
        return lambda connection: None
    if _REVOCATION_LIST not in _read(path, "tlsCRLFile"):
        raise ConfigurationError(f"tlsCRLFile={path!r} holds no PEM certificate revocation list")
    try:
        _add_revocation_list(crypto.X509Store(), path)
    except crypto.Error as error:
        raise ConfigurationError(f"tlsCRLFile={path!r} cannot be read: {error}") from error
    done: set[SSL.Context] = set()

    def check(connection: SSL.Connection) -> None:
        context = connection.get_context()
        if context not in done:
            store = context.get_cert_store()
            assert store is not None
            _add_revocation_list(store, path)
            done.add(context)

    return check


def _add_revocation_list(store: crypto.X509Store, path: str) -> None:
    # The server's own certificate, as PyMongo does it: authorities seldom
    # publish a list of authorities.
    store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    store.load_locations(path)


# From what a user passes in.


def adapted_creator(factory: Any, host: str, unverified: Callable[[], None]) -> HostTLS:
    """
    The same for a user's own C{ssl_context_factory}.

    @param factory: an L{IOpenSSLClientConnectionCreator} as
        C{optionsForClientTLS} gives; a C{CertificateOptions} or another object
        (or class) with C{getContext()}; or a callable that is given the host
        name and returns one of these.
    @param unverified: called for each connection whose server is not
        verified.
    @raise ConfigurationError: it is none of these.
    """

    def check(connection: SSL.Connection) -> None:
        if not connection.get_verify_mode() & SSL.VERIFY_PEER:
            unverified()

    connect = _connect_with(factory, host)
    if connect is None and callable(factory):
        # A class is made into its instance, a function asked for this host's.
        arguments = () if isinstance(factory, type) else (host,)
        connect = _connect_with(factory(*arguments), host)
    if connect is None:
        raise ConfigurationError(
            f"ssl_context_factory must be what optionsForClientTLS() returns, or have "
            f"getContext(), not a {type(factory).__name__}"
        )
    return HostTLS(host, connect, check)


def _connect_with(factory: Any, host: str) -> _Connect | None:
    if isinstance(factory, type):
        return None
    if isinstance(factory, CertificateOptions) or hasattr(factory, "getContext"):
        return partial(_connection, factory.getContext, host)
    if IOpenSSLClientConnectionCreator.providedBy(factory):
        return factory.clientConnectionForTLS
    return None
