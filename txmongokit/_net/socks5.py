"""
Connections through a SOCKS5 proxy.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError, NoProtocol
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txmongokit._sansio.socks5 import Socks5Conversation, Socks5Error

__all__ = ["Socks5Endpoint"]


class _Negotiation(Protocol):
    """
    Talks to the proxy, and then hands everything on to the real protocol,
    which writes to the transport itself.

    @ivar finished: fires with the real protocol.
    """

    noisy = False

    def __init__(self, conversation: Socks5Conversation, factory: IProtocolFactory) -> None:
        self._conversation = conversation
        self._factory = factory
        self._protocol: Any = None
        self.finished: Deferred[IProtocol] = Deferred(lambda _: self._abort())

    def connectionMade(self) -> None:
        """
        Greet the proxy.
        """
        self._write(self._conversation.begin())

    def dataReceived(self, data: bytes) -> None:
        """
        Answer the proxy; or hand on what the server sent.
        """
        if self._protocol is not None:
            self._protocol.dataReceived(data)
            return
        if self.finished.called:
            return
        try:
            self._write(self._conversation.feed(data))
        except Socks5Error as error:
            self._fail(error)
            return
        if self._conversation.finished:
            self._hand_over()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Tell the real protocol, or whoever waits for it.
        """
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        elif not self.finished.called:
            error = Socks5Error("closed the connection without a reason")
            error.__cause__ = reason.value
            self.finished.errback(error)

    def _hand_over(self) -> None:
        transport: Any = self.transport
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            self._fail(NoProtocol())
            return
        self._protocol = protocol
        protocol.makeConnection(transport)
        self.finished.callback(protocol)
        if self._conversation.rest:
            protocol.dataReceived(self._conversation.rest)

    def _fail(self, error: Exception) -> None:
        self.finished.errback(error)
        self._abort()

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def _write(self, data: bytes) -> None:
        if data:
            transport: Any = self.transport
            transport.write(data)


class _NegotiationFactory(Factory):
    """
    Makes the one negotiation of an attempt.
    """

    noisy = False

    def __init__(self, conversation: Socks5Conversation, wrapped: Any) -> None:
        self._conversation = conversation
        self._wrapped = wrapped

    def doStart(self) -> None:
        """
        Start the real protocol's factory.
        """
        self._wrapped.doStart()

    def doStop(self) -> None:
        """
        Stop the real protocol's factory.
        """
        self._wrapped.doStop()

    def buildProtocol(self, addr: IAddress | None) -> _Negotiation:
        """
        Begin the conversation.
        """
        return _Negotiation(self._conversation, self._wrapped)


@implementer(IStreamClientEndpoint)
class Socks5Endpoint:
    """
    An address that is reached through a SOCKS5 proxy, which also resolves
    its name.

    @param proxy: the endpoint of the proxy.
    @param where: the proxy, for messages.
    @param host: where to, a name or a literal address.
    @param username: who asks, for a proxy that wants to know.
    """

    def __init__(
        self,
        proxy: IStreamClientEndpoint,
        where: str,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self._proxy = proxy
        self._where = where
        self._host = host
        self._port = port
        self._login = (username, password)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect.

        @return: fires with the protocol when the proxy has connected us;
            fails with L{Socks5Error}, which names the proxy, where it cannot
            be reached, refuses, or is none.  Cancelling closes the connection.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            conversation = Socks5Conversation(self._host, self._port, *self._login)
            negotiation: Any = await self._reached(_NegotiationFactory(conversation, factory))
            protocol: IProtocol = await negotiation.finished
        except Socks5Error as error:
            raise Socks5Error(f"the proxy {self._where} {error}") from error.__cause__
        return protocol

    async def _reached(self, factory: _NegotiationFactory) -> Any:
        try:
            return await self._proxy.connect(factory)
        except (CancelledError, ConnectingCancelledError):
            raise
        except Exception as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise Socks5Error(f"cannot be reached: {reason}") from error
