"""
A small SOCKS5 proxy for tests, on loopback (RFC 1928, RFC 1929).  It resolves
names as it is told to, by a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

__all__ = ["SocksProxy"]


class _Outward(Protocol):
    """The proxy's connection to a server."""

    def __init__(self, inward: _Inward) -> None:
        self.inward = inward

    def dataReceived(self, data: bytes) -> None:
        """Hand on to the client."""
        assert self.inward.transport is not None
        self.inward.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client's ends, too."""
        assert self.inward.transport is not None
        self.inward.transport.loseConnection()


class _Inward(Protocol):
    """A client's connection to the proxy."""

    def __init__(self, proxy: SocksProxy) -> None:
        self.proxy = proxy
        self.outward: Any = None
        self.received = b""
        self.wanted: tuple[int, Deferred[bytes]] | None = None
        self.conversation = Deferred.fromCoroutine(self.talk())

    def read(self, size: int) -> Deferred[bytes]:
        """The next bytes."""
        waiting: Deferred[bytes] = Deferred()
        self.wanted = (size, waiting)
        return waiting

    def connectionMade(self) -> None:
        """Count."""
        self.proxy.open.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Go on with the conversation, or hand on to the server."""
        if self.outward is not None:
            self.outward.transport.write(data)
            return
        self.received += data
        while self.wanted is not None and len(self.received) >= self.wanted[0]:
            (size, waiting), self.wanted = self.wanted, None
            taken, self.received = self.received[:size], self.received[size:]
            waiting.callback(taken)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server's ends, too."""
        self.proxy.open.discard(self)
        if self.outward is not None:
            self.outward.transport.loseConnection()

    async def talk(self) -> None:
        """The whole conversation."""
        proxy = self.proxy
        _, count = await self.read(2)
        methods = await self.read(count)
        proxy.methods.append(methods)
        wanted = 2 if proxy.users else 0
        if wanted not in methods:
            self.say(b"\x05\xff", last=True)
            return
        self.say(bytes((5, wanted)))
        if proxy.users:
            _, size = await self.read(2)
            name = (await self.read(size)).decode()
            (size,) = await self.read(1)
            password = (await self.read(size)).decode()
            if proxy.users.get(name) != password:
                self.say(b"\x01\x01", last=True)
                return
            self.say(b"\x01\x00")
        _, _, _, kind = await self.read(4)
        if kind == 3:
            (size,) = await self.read(1)
            host = (await self.read(size)).decode()
        else:
            host = ".".join(map(str, await self.read(4)))
        port = int.from_bytes(await self.read(2), "big")
        proxy.asked.append((host, port))
        if host not in proxy.names:
            self.say(b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", last=True)
            return
        endpoint = TCP4ClientEndpoint(reactor, proxy.names[host], port)
        self.outward = await endpoint.connect(Factory.forProtocol(lambda: _Outward(self)))
        self.say(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")

    def say(self, data: bytes, *, last: bool = False) -> None:
        """Answer."""
        assert self.transport is not None
        self.transport.write(data)
        if last:
            self.transport.loseConnection()


class SocksProxy:
    """
    The proxy.

    @param names: the hosts that it reaches, with their addresses.
    @param users: who may use it, with passwords; everybody where empty.
    @ivar asked: where clients wanted to.
    @ivar methods: how they would have logged in.
    @ivar open: their connections.
    """

    def __init__(self, names: Mapping[str, str], users: Mapping[str, str] | None = None) -> None:
        self.names = dict(names)
        self.users = dict(users or {})
        self.asked: list[tuple[str, int]] = []
        self.methods: list[bytes] = []
        self.open: set[Any] = set()
        self.port = 0
        self._listening: Any = None

    async def start(self) -> None:
        """Listen."""
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(Factory.forProtocol(lambda: _Inward(self)))
        self.port = self._listening.getHost().port

    async def stop(self) -> None:
        """Listen no more, and hang up."""
        await self._listening.stopListening()
        for each in list(self.open):
            each.transport.abortConnection()
