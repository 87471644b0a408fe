"""
From an address to a connection that is ready for commands.

A connection counts as made only when TCP, TLS, C{hello} and authentication
have all succeeded; failing any of them is a failed attempt, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from secrets import token_bytes
from typing import Any

import bson
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from txmongokit._net.tls import connection_creator, failed_verification
from txmongokit._sansio.auth import KeyCache
from txmongokit._sansio.compression import Compressor, make_compressor
from txmongokit._sansio.handshake import HandshakeResult, client_metadata, handshake
from txmongokit.errors import AutoReconnect, ConnectionFailure, NetworkTimeout
from txmongokit.options import ClientOptions
from txmongokit.protocol import MongoProtocol
from txmongokit.types import Address, format_address

__all__ = ["Connector", "EndpointFactory"]

_NO_LIMIT = 86_400.0

EndpointFactory = Callable[[Any, str, "int | None"], IStreamClientEndpoint]
"""
Called with the reactor, host and port; gives the endpoint to connect with.
"""


class Connector:
    """
    Makes connections for one client.

    @param reactor: for endpoints and time.
    @param ssl_context_factory: used for every server instead of the URI's
        C{tls*} options.
    @param endpoint_factory: how to reach a server, for proxies and tests.
    """

    def __init__(
        self,
        reactor: Any,
        options: ClientOptions,
        ssl_context_factory: Any = None,
        endpoint_factory: EndpointFactory | None = None,
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._ssl_context_factory = ssl_context_factory
        self._endpoint_factory = endpoint_factory
        self._keys = KeyCache()
        self._open: set[MongoProtocol] = set()
        self._closing: list[Deferred[None]] = []
        self._creators: dict[str, Any] = {}
        self._metadata = client_metadata(options.app_name)

    def connect(self, address: Address, *, monitoring: bool = False) -> Deferred[MongoProtocol]:
        """
        Connect, shake hands and authenticate.

        @param monitoring: leave authentication out, as monitors must.

        @return: fires with a protocol whose C{info} and C{hello} are set;
            fails with L{NetworkTimeout} after C{connectTimeoutMS},
            L{AutoReconnect} where there is no connection, and
            L{txmongokit.errors.OperationFailure} where authentication is
            refused.  Cancelling gives the attempt up and closes what was
            open.
        """
        attempt = Deferred.fromCoroutine(self._connect(address, monitoring))
        limit = self._options.connect_timeout

        def too_late(result: Any, timeout: float) -> Any:
            raise NetworkTimeout(
                f"{format_address(address)}: no connection within {timeout:g} s "
                "(connectTimeoutMS): check host, port and firewall"
            )

        if limit:
            attempt.addTimeout(limit, self._reactor, onTimeoutCancel=too_late)
        return attempt

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

    def _endpoint(self, address: Address) -> IStreamClientEndpoint:
        host, port = address
        endpoint: IStreamClientEndpoint
        if self._endpoint_factory is not None:
            endpoint = self._endpoint_factory(self._reactor, host, port)
        elif port is None:
            endpoint = UNIXClientEndpoint(self._reactor, host)
        else:
            # The limit is ours, and ends the whole attempt with its own sentence.
            endpoint = _kind(host)(self._reactor, host, port, timeout=_NO_LIMIT)
        creator = self._tls_creator(host)
        return endpoint if creator is None else wrapClientTLS(creator, endpoint)

    def _tls_creator(self, host: str) -> Any:
        """What makes TLS with one host; certificate files are read once."""
        if self._ssl_context_factory is not None or self._options.tls is None:
            return self._ssl_context_factory
        creator = self._creators.get(host)
        if creator is None:
            creator = self._creators[host] = connection_creator(self._options.tls, host)
        return creator

    async def _connect(self, address: Address, monitoring: bool) -> MongoProtocol:
        factory = Factory.forProtocol(MongoProtocol)
        factory.noisy = False
        endpoint = self._endpoint(address)
        try:
            connected: Any = await endpoint.connect(factory)
        except ConnectingCancelledError as error:
            raise CancelledError(str(error)) from error
        except CancelledError:
            raise
        except Exception as error:
            # Whatever a user's endpoint fails with means: no connection.
            reason = str(error).rstrip(".") or type(error).__name__
            raise AutoReconnect(f"{format_address(address)}: {reason}") from error
        protocol: MongoProtocol = connected
        protocol.address = address
        self._open.add(protocol)
        protocol.on_lost = lambda reason: self._lost(protocol)
        try:
            result = await self._shake_hands(protocol, address, monitoring)
        except BaseException as error:
            # Cancellation too: nothing half-made may stay open.
            where = format_address(address)
            protocol.abort(ConnectionFailure(f"{where}: handshake failed"))
            refusal = failed_verification(error.__cause__, address[0])
            if refusal is None:
                raise
            raise AutoReconnect(f"{where}: {refusal}") from error.__cause__
        protocol.info = result.info
        protocol.hello = result.hello
        protocol.exchange.max_message_size = result.info.max_message_size
        protocol.exchange.compressor = self._compressor(result)
        return protocol

    def _compressor(self, result: HandshakeResult) -> Compressor | None:
        for name in result.compressors:
            return make_compressor(name, self._options.zlib_compression_level)
        return None

    async def _shake_hands(
        self, protocol: MongoProtocol, address: Address, monitoring: bool
    ) -> HandshakeResult:
        options = self._options
        conversation = handshake(
            address,
            metadata=self._metadata,
            credentials=None if monitoring else options.credentials,
            compressors=() if monitoring else options.compressors,
            server_api=options.server_api,
            nonce=_nonce,
            key_cache=self._keys,
        )
        reply: Mapping[str, Any] | None = None
        while True:
            try:
                database, body = next(conversation) if reply is None else conversation.send(reply)
            except StopIteration as stop:
                result: HandshakeResult = stop.value
                return result
            raw = await protocol.request(bson.encode({**body, "$db": database}), compress=False)
            reply = bson.decode(raw)


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
