"""
From an address to a connection that is ready for commands.

A connection counts as made only when TCP, TLS, C{hello} and authentication
have all succeeded; failing any of them is a failed attempt, with the reason.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from secrets import token_bytes
from typing import Any
from weakref import WeakKeyDictionary

import bson
from pymongo.driver_info import DriverInfo
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectingCancelledError,
    NoRouteError,
    ServiceNameUnknownError,
    UnknownHostError,
)
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from txmongokit._net.authenticator import Authenticator
from txmongokit._net.ocsp import CertificateRefused, RevocationCheck
from txmongokit._net.socks5 import Socks5Endpoint
from txmongokit._net.tls import HostTLS, adapted_creator, connection_creator
from txmongokit._pymongo import add_error_label
from txmongokit._sansio.auth import authenticate
from txmongokit._sansio.compression import Compressor, make_compressor
from txmongokit._sansio.conversation import Step
from txmongokit._sansio.handshake import (
    HandshakeResult,
    api_declaration,
    client_metadata,
    declaring,
    handshake,
)
from txmongokit._sansio.opquery import QueryExchange
from txmongokit.credentials import HUMAN_SECONDS, Credentials
from txmongokit.errors import AutoReconnect, ConfigurationError, ConnectionFailure, NetworkTimeout
from txmongokit.options import ClientOptions
from txmongokit.types import Address, format_address
from txmongokit.wire import MongoProtocol

__all__ = ["Connector", "EndpointFactory"]

_NO_LIMIT = 86_400.0
_DOCKER = "/.dockerenv"
_HELLO_NAMES = ("hello", "isMaster")
# What an overloaded server never causes (CMAP and client backpressure): where
# nobody listens, a server is down.
_NEVER_OVERLOAD = (
    ConnectBindError,
    NobodyListens,
    NoRouteError,
    ServiceNameUnknownError,
    UnknownHostError,
)
_OVERLOAD_LABELS = ("SystemOverloadedError", "RetryableError")

EndpointFactory = Callable[[Any, str, "int | None"], IStreamClientEndpoint]
"""
Called with the reactor, host and port; gives the endpoint to connect with.
"""


class _Attempt:
    """
    One attempt to connect.

    @ivar greeted: whether the server has answered C{hello}.
    @ivar on_service: told of the service behind a load balancer.
    """

    def __init__(
        self,
        address: Address,
        monitoring: bool,
        credentials: Credentials | None,
        on_service: Callable[[Any], None] | None = None,
    ) -> None:
        self.address = address
        self.where = format_address(address)
        self.monitoring = monitoring
        self.credentials = credentials
        self.on_service = on_service
        self.greeted = False

    def labelled(self, error: AutoReconnect) -> AutoReconnect:
        """
        The error, labelled where it may mean that the server is overloaded:
        until C{hello} is answered, and not on a monitor's connection.
        """
        if not self.greeted and not self.monitoring:
            for label in _OVERLOAD_LABELS:
                add_error_label(error, label)
        return error


class Connector:
    """
    Makes connections for one client.  The only owner of what they say of
    us: credentials and metadata.

    @param reactor: for endpoints, time and threads.
    @param ssl_context_factory: used instead of the URI's C{tls*} options;
        see L{adapted_creator}.
    @param endpoint_factory: how to reach a server, for proxies and tests.
    @param agent: what asks for credentials over HTTP; C{None} for Twisted's
        own.
    @ivar credentials: who logs in on new connections; C{None} for nobody.
    @ivar wire_version_limit: for tests: take servers for ones that have no
        OP_MSG; see L{QueryExchange}.

    @raise ConfigurationError: a password would be sent as it is, the
        application's name is too long, or there are two ways to a server.
    """

    def __init__(
        self,
        reactor: Any,
        options: ClientOptions,
        ssl_context_factory: Any = None,
        endpoint_factory: EndpointFactory | None = None,
        agent: Any = None,
    ) -> None:
        self.credentials = options.credentials
        self.wire_version_limit: int | None = None
        self._reactor = reactor
        self._options = options
        self._ssl_context_factory = ssl_context_factory
        self._endpoint_factory = endpoint_factory
        self._authenticator = Authenticator(reactor, agent, options.connect_timeout)
        # Who logged in on a connection, by which OIDC token; and who waits
        # for that to be done again.
        self._logins: WeakKeyDictionary[MongoProtocol, tuple[Credentials, str | None]]
        self._logins = WeakKeyDictionary()
        self._renewals: dict[MongoProtocol, list[Deferred[None]]] = {}
        self._open: set[MongoProtocol] = set()
        self._closing: list[Deferred[None]] = []
        self._creators: dict[str, HostTLS] = {}
        self._revocation: RevocationCheck | None = None
        if options.tls is not None and ssl_context_factory is None:
            self._revocation = RevocationCheck(
                reactor, options.tls, options.connect_timeout, self._tcp
            )
        self._warned = False
        self._drivers: list[DriverInfo] = []
        self._metadata = self._introduction()
        self._check_secrecy(options.credentials)
        if endpoint_factory is not None and options.proxy is not None:
            raise ConfigurationError(
                "proxyHost and endpoint_factory contradict one another: leave one out"
            )

    @property
    def encrypts(self) -> bool:
        """
        Whether connections are made with TLS.
        """
        return self._ssl_context_factory is not None or self._options.tls is not None

    @property
    def _detour(self) -> str:
        return "" if self._options.proxy is None else ", proxy"

    def prepare(self) -> None:
        """
        Read the files of the C{tls*} options, so that a mistake in them is
        the first operation's error, not every monitor's.

        @raise ConfigurationError: one of them cannot be used.
        """
        for host, _ in self._options.seeds:
            self._tls(host)

    def resolved(self, options: ClientOptions) -> None:
        """
        Go by these options from now on, which are the old ones with what DNS
        said.
        """
        if self.credentials is self._options.credentials:
            self.credentials = options.credentials
        self._options = options

    def append_metadata(self, driver: DriverInfo) -> None:
        """
        Add a library that wraps this client to how new connections introduce
        themselves; adding it once more does nothing.

        @raise ConfigurationError: one of its texts has a C{|}, which
            separates them.
        """
        if not isinstance(driver, DriverInfo):
            raise TypeError(f"driver_info must be a DriverInfo, not a {type(driver).__name__}")
        if any("|" in text for text in driver if text):
            raise ConfigurationError(f"{driver!r} may not contain '|': leave it out")
        # Nothing said in two ways is the same thing twice.
        driver = DriverInfo(driver.name or "", driver.version or "", driver.platform or "")
        if driver not in self._drivers:
            self._drivers.append(driver)
            self._metadata = self._introduction()

    def connect(
        self,
        address: Address,
        *,
        monitoring: bool = False,
        on_service: Callable[[Any], None] | None = None,
    ) -> Deferred[MongoProtocol]:
        """
        Connect, shake hands and authenticate.

        @param monitoring: leave authentication out, as monitors must.
        @param on_service: told of the C{serviceId} as soon as C{hello} is
            answered, where there is one.

        @return: fires with a protocol whose C{info} and C{hello} are set;
            fails with L{NetworkTimeout} after C{connectTimeoutMS},
            L{AutoReconnect} where there is no connection (both labelled
            C{SystemOverloadedError} and C{RetryableError} where the server
            may have too much to do), and
            L{txmongokit.errors.OperationFailure} where authentication is
            refused.  Cancelling gives the attempt up and closes what was
            open.
        """
        credentials = None if monitoring else self.credentials
        return self._limited(_Attempt(address, monitoring, credentials, on_service))

    def verify(self, address: Address, credentials: Credentials) -> Deferred[None]:
        """
        Log in on a connection of its own, which is closed again.

        @return: fires with C{None} when the server has accepted the
            credentials; fails as L{connect} does.
        """
        attempt = self._limited(_Attempt(address, False, credentials))
        return attempt.addCallback(lambda protocol: protocol.close())

    def reauthenticate(self, protocol: MongoProtocol) -> Deferred[None]:
        """
        Log in once more on a connection that has lost its log-in.

        @return: fires when that is done; fails as L{connect} does, at once
            where nobody has logged in on it.  Cancelling ends the wait, for
            others may wait for the same.
        """
        waiting: Deferred[None] = Deferred()
        renewals = self._renewals.get(protocol)
        if renewals is not None:
            renewals.append(waiting)
            return waiting
        self._renewals[protocol] = [waiting]

        def tell(result: Any) -> None:
            for each in self._renewals.pop(protocol):
                if not each.called:
                    each.callback(result)

        where = format_address(protocol.address)
        renewing = Deferred.fromCoroutine(self._renew(protocol))
        login = self._logins.get(protocol)
        limit = self._patience(None if login is None else login[0])
        if limit:

            def too_late(result: Any, timeout: float) -> Any:
                raise NetworkTimeout(f"{where}: no new log-in within {timeout:g} s")

            renewing.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)
        renewing.addBoth(tell)
        return waiting

    async def _renew(self, protocol: MongoProtocol) -> None:
        where = format_address(protocol.address)
        login = self._logins.get(protocol)
        if login is None:
            raise ConfigurationError(
                f"{where} demands a new log-in, and nobody has logged in: give user and password"
            )
        credentials, token = login
        memory = self._authenticator.memory
        memory.tokens.invalidate(token)
        conversation = authenticate(
            credentials,
            mechanisms=protocol.hello.get("saslSupportedMechs"),
            nonce=_nonce,
            memory=memory,
            host=protocol.address[0],
        )
        token = await self._authenticator.converse(
            declaring(conversation, api_declaration(self._options.server_api)),
            lambda step: self._asked(protocol, step),
        )
        self._logins[protocol] = (credentials, token)

    def close(self) -> Deferred[None]:
        """
        Close every connection that was made, those too whose owners have
        begun to, for a TLS farewell may wait for a peer that is gone.

        @return: fires when all are closed.  May be called again.
        """
        all_closed: Deferred[None] = Deferred()
        self._closing.append(all_closed)
        for protocol in list(self._open):
            protocol.abort(AutoReconnect("the client was closed"))
        self._tell_closed()
        return all_closed

    def _lost(self, protocol: MongoProtocol) -> None:
        self._open.discard(protocol)
        self._tell_closed()

    def _tell_closed(self) -> None:
        if self._open:
            return
        closing, self._closing = self._closing, []
        for waiting in closing:
            if not waiting.called:
                waiting.callback(None)

    def _check_secrecy(self, credentials: Credentials | None) -> None:
        if credentials is not None and credentials.mechanism == "PLAIN" and not self.encrypts:
            raise ConfigurationError(
                "authMechanism=PLAIN sends the password as it is: add tls=true"
            )

    def _introduction(self) -> dict[str, Any]:
        return client_metadata(
            self._options.app_name,
            drivers=self._drivers,
            environ=os.environ,
            in_docker=os.path.exists(_DOCKER),
        )

    # Endpoints.

    def _endpoint(self, address: Address) -> IStreamClientEndpoint:
        host, port = address
        endpoint: IStreamClientEndpoint
        if self._endpoint_factory is not None:
            endpoint = self._endpoint_factory(self._reactor, host, port)
        elif port is None:
            endpoint = UNIXClientEndpoint(self._reactor, host)
        else:
            endpoint = self._tcp(host, port)
        creator = self._tls(host)
        return endpoint if creator is None else wrapClientTLS(creator, endpoint)

    def _tcp(self, host: str, port: int) -> IStreamClientEndpoint:
        proxy = self._options.proxy
        if proxy is None:
            return self._directly(host, port)
        return Socks5Endpoint(
            self._directly(proxy.host, proxy.port),
            format_address((proxy.host, proxy.port)),
            host,
            port,
            proxy.username,
            proxy.password,
        )

    def _directly(self, host: str, port: int) -> IStreamClientEndpoint:
        # The limit is ours, and ends the whole attempt with its own sentence.
        endpoint: IStreamClientEndpoint = _kind(host)(self._reactor, host, port, timeout=_NO_LIMIT)
        return endpoint

    def _tls(self, host: str) -> HostTLS | None:
        """What makes TLS with one host; certificate files are read once."""
        if not self.encrypts:
            return None
        creator = self._creators.get(host)
        if creator is None:
            if self._ssl_context_factory is not None:
                creator = adapted_creator(self._ssl_context_factory, host, self._unverified)
            else:
                assert self._options.tls is not None
                creator = connection_creator(self._options.tls, host)
            self._creators[host] = creator
        return creator

    def _unverified(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "ssl_context_factory does not verify servers, so anybody may pose as one: use "
                "tls=true and tlsCAFile, or twisted.internet.ssl.optionsForClientTLS",
                stacklevel=2,
            )

    # One attempt.

    def _patience(self, credentials: Credentials | None) -> float | None:
        """How long connecting may take: a human who logs in needs time."""
        limit = self._options.connect_timeout
        human = credentials is not None and credentials.of_human
        return limit + HUMAN_SECONDS if limit and human else limit

    def _limited(self, attempt: _Attempt) -> Deferred[MongoProtocol]:
        connecting = Deferred.fromCoroutine(self._connect(attempt))
        limit = self._patience(attempt.credentials)

        def too_late(result: Any, timeout: float) -> Any:
            raise attempt.labelled(
                NetworkTimeout(
                    f"{attempt.where}: no connection within {timeout:g} s "
                    f"(connectTimeoutMS): check host, port{self._detour} and firewall"
                )
            )

        if limit:
            connecting.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)
        return connecting

    async def _connect(self, attempt: _Attempt) -> MongoProtocol:
        self._check_secrecy(attempt.credentials)
        factory = Factory.forProtocol(MongoProtocol)
        factory.noisy = False
        endpoint = self._endpoint(attempt.address)
        try:
            connected: Any = await endpoint.connect(factory)
        except ConnectingCancelledError as error:
            raise CancelledError(str(error)) from error
        except CancelledError:
            raise
        except Exception as error:
            # Whatever a user's endpoint fails with means: no connection.
            reason = str(error).rstrip(".") or type(error).__name__
            failed = AutoReconnect(f"{attempt.where}: {reason}")
            if isinstance(error, ConnectError) and not isinstance(error, _NEVER_OVERLOAD):
                attempt.labelled(failed)
            raise failed from error
        protocol: MongoProtocol = connected
        protocol.address = attempt.address
        self._open.add(protocol)
        protocol.on_lost = lambda reason: self._lost(protocol)
        try:
            await self._check_certificate(protocol, attempt)
            result = await self._shake_hands(protocol, attempt)
        except BaseException as error:
            # Cancellation too: nothing half-made may stay open.
            protocol.abort(ConnectionFailure(f"{attempt.where}: handshake failed"))
            raise self._explained(error, protocol, attempt) from error.__cause__
        if attempt.credentials is not None:
            self._logins[protocol] = (attempt.credentials, result.token)
        protocol.info = result.info
        protocol.hello = result.hello
        protocol.exchange.max_message_size = result.info.max_message_size
        protocol.exchange.compressor = self._compressor(result)
        return protocol

    async def _check_certificate(self, protocol: MongoProtocol, attempt: _Attempt) -> None:
        """Whether it was revoked; before anything is sent."""
        creator = self._creators.get(attempt.address[0])
        if self._revocation is None or creator is None or not creator.by_ocsp:
            return
        await protocol.secured()
        peer = creator.peer(protocol.transport)
        if peer is not None:
            try:
                await self._revocation.check(peer)
            except CertificateRefused as error:
                raise AutoReconnect(f"{attempt.where}: TLS: {error}") from None

    def _explained(
        self, error: BaseException, protocol: MongoProtocol, attempt: _Attempt
    ) -> BaseException:
        """What a handshake's failure was really about."""
        if not isinstance(error, AutoReconnect) or error.__cause__ is None:
            return error  # Not the network's doing, or ours.
        creator = self._creators.get(attempt.address[0])
        if creator is not None:
            refusal = creator.refusal(error.__cause__, protocol.transport)
            if refusal is not None:
                return AutoReconnect(f"{attempt.where}: {refusal}")
        if attempt.greeted:
            return error
        hint = (
            "the server may require TLS (tls=true)"
            if creator is None
            else "the server may speak no TLS, or demand a certificate (tlsCertificateKeyFile)"
        )
        return attempt.labelled(type(error)(f"{error} before hello was answered: {hint}"))

    def _compressor(self, result: HandshakeResult) -> Compressor | None:
        for name in result.compressors:
            return make_compressor(name, self._options.zlib_compression_level)
        return None

    async def _shake_hands(self, protocol: MongoProtocol, attempt: _Attempt) -> HandshakeResult:
        options = self._options
        conversation = handshake(
            attempt.address,
            metadata=self._metadata,
            credentials=attempt.credentials,
            compressors=() if attempt.monitoring else options.compressors,
            server_api=options.server_api,
            nonce=_nonce,
            memory=self._authenticator.memory,
            load_balanced=options.load_balanced and not attempt.monitoring,
            monitoring=attempt.monitoring,
        )

        greeting: QueryExchange | None = None
        # Others have OP_MSG (handshake and load balancers specifications).
        if options.server_api is None and not options.load_balanced:
            protocol.exchange = greeting = QueryExchange(limit=self.wire_version_limit)

        async def ask(step: Step) -> Any:
            attempt.greeted = next(iter(step.body)) not in _HELLO_NAMES
            reply = await self._asked(protocol, step)
            if greeting is not None and not attempt.greeted:
                protocol.exchange = greeting.settled()
            if attempt.on_service is not None and not attempt.greeted and reply.get("ok"):
                attempt.on_service(reply.get("serviceId"))
            attempt.greeted = True
            return reply

        return await self._authenticator.converse(conversation, ask)

    async def _asked(self, protocol: MongoProtocol, step: Step) -> Any:
        body = bson.encode({**step.body, "$db": step.database})
        began = self._reactor.seconds()
        reply = bson.decode(await protocol.request(body, compress=False))
        if next(iter(step.body)) in _HELLO_NAMES:
            protocol.greeting_time = self._reactor.seconds() - began
        return reply


def _kind(host: str) -> Any:
    """
    The endpoint for a host.  One by name tells of a refusal only when it
    would have tried the next address, so a literal address gets its own.
    """
    if isIPAddress(host):
        return TCP4ClientEndpoint
    return TCP6ClientEndpoint if isIPv6Address(host) else HostnameEndpoint


def _nonce() -> bytes:
    return token_bytes(32)
