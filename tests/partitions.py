"""
A network that can be cut: an C{endpoint_factory} whose connections go silent,
as behind a firewall that drops packets, and go on when it is mended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer


class _Held(ProtocolWrapper):
    """One connection; while the network is cut, what goes either way waits."""

    factory: _HoldingFactory

    def dataReceived(self, data: bytes) -> None:
        """From the server."""
        self._soon(lambda: self.disconnecting or super(_Held, self).dataReceived(data))

    def write(self, data: bytes) -> None:
        """To the server."""
        self._soon(lambda: self.disconnecting or super(_Held, self).write(data))

    def writeSequence(self, data: Sequence[bytes]) -> None:
        """To the server."""
        self.write(b"".join(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """By either end; a server's farewell is dropped, too."""
        if self.disconnecting:
            super().connectionLost(reason)
        else:
            self._soon(lambda: super(_Held, self).connectionLost(reason))

    def abortConnection(self) -> None:
        """From this end, at once."""
        self.disconnecting = 1
        transport: Any = self.transport
        transport.abortConnection()

    def _soon(self, action: Callable[[], Any]) -> None:
        network = self.factory.network
        if network.cut:
            network.held.append(action)
        else:
            action()


class _HoldingFactory(WrappingFactory):
    protocol = _Held
    noisy = False

    def __init__(self, wrapped: Any, network: Partition) -> None:
        super().__init__(wrapped)
        self.network = network


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects when the network is whole."""

    def __init__(self, network: Partition, endpoint: IStreamClientEndpoint) -> None:
        self._network = network
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See L{IStreamClientEndpoint}."""
        whole: Deferred[None] = Deferred()

        def mended() -> None:
            if not whole.called:
                whole.callback(None)

        if self._network.cut:
            self._network.held.append(mended)
        else:
            mended()
        factory = _HoldingFactory(protocolFactory, self._network)
        connecting: Deferred[Any] = whole.addCallback(lambda _: self._endpoint.connect(factory))
        return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)


class Partition:
    """
    The network between one client and its servers.

    @ivar cut: whether nothing gets through.
    """

    def __init__(self) -> None:
        self.cut = False
        self.held: deque[Callable[[], Any]] = deque()

    def endpoint(self, reactor: Any, host: str, port: int | None) -> IStreamClientEndpoint:
        """An C{endpoint_factory}."""
        assert port is not None
        return _Endpoint(self, HostnameEndpoint(reactor, host, port))

    def mend(self) -> None:
        """Let everything through, what waits first."""
        self.cut = False
        while self.held and not self.cut:
            self.held.popleft()()
