"""
Scripted routers: loopback proxies that make one real C{mongod}, the primary of
a replica set, look like C{mongos}, or like several behind a load balancer.

No real C{mongos} and no load balancer can be had for these tests.  A scripted
router changes the few fields by which a client knows them: C{hello},
C{serviceId}, C{recoveryToken}.  It routes nothing, has no shards, and its
errors are the server's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import bson
from bson.objectid import ObjectId
from twisted.internet import reactor as default_reactor
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from txmongokit._sansio import messages as m
from txmongokit._sansio.framing import FrameReader
from txmongokit.types import Address

__all__ = ["ScriptedRouter"]

_HELLO = frozenset({"hello", "isMaster", "ismaster"})
# What a member of a set says of itself and its set.  Without compression, what
# goes through can be read.
_OF_SETS = (
    "setName",
    "setVersion",
    "hosts",
    "passives",
    "arbiters",
    "primary",
    "me",
    "tags",
    "secondary",
    "electionId",
    "lastWrite",
    "compression",
)
_SUPPORT_MISMATCH = {
    "ok": 0.0,
    "errmsg": "The server is being accessed through a load balancer, but this driver does not "
    "have load balancing enabled",
    "code": 354,
    "codeName": "LoadBalancerSupportMismatch",
}
_TOKEN = {"recoveryToken": {"recoveryShardId": "scripted"}}


class _Outward(Protocol):
    """A router's connection to the server."""

    def __init__(self, inward: _Inward) -> None:
        self._inward = inward
        self._reader = FrameReader()

    def dataReceived(self, data: bytes) -> None:
        """Hand on what the server says."""
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            self._inward.answered(bytes(frame))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client's ends, too."""
        self._inward.hang_up()


class _Inward(Protocol):
    """A client's connection to a router."""

    def __init__(self, router: ScriptedRouter, service_id: ObjectId | None) -> None:
        self._router = router
        self._service_id = service_id
        self._reader = FrameReader()
        self._outward: Any = None
        self._early: list[bytes] = []
        self._greeted = False
        # What was asked, by the number of the message that is to be answered.
        self._asked: dict[int, tuple[str, bool]] = {}

    def connectionMade(self) -> None:
        """Connect to the server."""
        self._router.open.add(self)
        host, port = self._router.backend()
        endpoint = HostnameEndpoint(self._router.reactor, host, port or 0)
        connecting = endpoint.connect(Factory.forProtocol(lambda: _Outward(self)))
        connecting.addCallbacks(self._connected, lambda failure: self.hang_up())

    def _connected(self, outward: _Outward) -> None:
        self._outward = outward.transport
        early, self._early = self._early, []
        for frame in early:
            self._outward.write(frame)
        if self not in self._router.open:
            self._outward.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Hand on what the client says."""
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            asked = self._asked_for(bytes(frame))
            if asked is None:
                continue
            if self._outward is None:
                self._early.append(asked)
            else:
                self._outward.write(asked)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server's ends, too."""
        self._router.open.discard(self)
        if self._outward is not None:
            self._outward.loseConnection()

    def hang_up(self) -> None:
        """End it."""
        assert self.transport is not None
        self.transport.loseConnection()

    # From the client.

    def _asked_for(self, frame: bytes) -> bytes | None:
        """The message for the server; C{None} where the router has answered."""
        header, message = m.decode(frame)
        if isinstance(message, m.OpQuery):
            raw = message.query
        elif isinstance(message, m.OpMsg):
            raw = message.body
        else:
            return frame
        body = bson.decode(raw)
        name = next(iter(body))
        self._router.asked.append((self._service_id, name))
        balanced = body.pop("loadBalanced", False)
        first, self._greeted = name in _HELLO and not self._greeted, True
        if first and self._service_id is not None and not balanced:
            refusal = bson.encode(_SUPPORT_MISMATCH)
            old = isinstance(message, m.OpQuery)
            answer = m.OpReply((refusal,)) if old else m.OpMsg(refusal)
            self._say(answer, header.request_id, header.request_id)
            return None
        if not getattr(message, "more_to_come", False):
            in_transaction = body.get("autocommit") is False
            self._asked[header.request_id] = (name, in_transaction)
        recovers = body.pop("recoveryToken", None)
        if recovers is not None:
            self._router.tokens.append(recovers)
        if recovers is None and not balanced:
            return frame
        changed: m.OpQuery | m.OpMsg
        if isinstance(message, m.OpQuery):
            changed = message._replace(query=bson.encode(body))
        else:
            changed = message._replace(body=bson.encode(body))
        return m.encode(changed, header.request_id, header.response_to)

    # From the server.

    def answered(self, frame: bytes) -> None:
        """Hand on what the server says."""
        header, message = m.decode(frame)
        name, in_transaction = self._asked.pop(header.response_to, ("", False))
        if isinstance(message, m.OpMsg):
            if message.more_to_come:
                self._asked[header.request_id] = (name, in_transaction)
            body = self._rewritten(message.body, name, in_transaction)
            self._say(message._replace(body=body), header.request_id, header.response_to)
        elif isinstance(message, m.OpReply) and name in _HELLO:
            documents = (self._rewritten(message.documents[0], name, False),)
            self._say(message._replace(documents=documents), header.request_id, header.response_to)
        else:
            self._write(frame)

    def _rewritten(self, raw: bytes, name: str, in_transaction: bool) -> bytes:
        if name in _HELLO:
            reply = bson.decode(raw)
            if not reply.get("ok"):
                return raw
            for field in _OF_SETS:
                reply.pop(field, None)
            reply["msg"] = "isdbgrid"
            if self._service_id is not None:
                reply["serviceId"] = self._service_id
            return bson.encode(reply)
        if in_transaction and bson.decode(raw).get("ok"):
            added = bson.encode(_TOKEN)[4:-1]
            return struct.pack("<i", len(raw) + len(added)) + raw[4:-1] + added + b"\0"
        return raw

    def _say(self, message: Any, request_id: int, response_to: int) -> None:
        self._write(m.encode(message, request_id, response_to))

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class ScriptedRouter:
    """
    A C{mongos}; with services, a load balancer that gives each new connection
    to the next of them.

    @param backend: where the server is, asked for each connection.
    @param services: the C{serviceId}s.

    @ivar address: where it listens.
    @ivar asked: the commands that came, each with the service that it went to.
    @ivar tokens: the recovery tokens that clients gave back.
    @ivar open: the clients' connections.
    """

    def __init__(
        self,
        backend: Callable[[], Address],
        services: Sequence[ObjectId] = (),
        reactor: Any = default_reactor,
    ) -> None:
        self.backend = backend
        self.reactor = reactor
        self.address: Address = ("127.0.0.1", 0)
        self.asked: list[tuple[ObjectId | None, str]] = []
        self.tokens: list[Any] = []
        self.open: set[Any] = set()
        self._services = list(services)
        self._connections = 0
        self._listening: Any = None

    async def start(self) -> None:
        """Listen."""
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(Factory.forProtocol(self._accepted))
        self.address = ("127.0.0.1", self._listening.getHost().port)

    async def stop(self) -> None:
        """Listen no more, and hang up."""
        await self._listening.stopListening()
        for each in list(self.open):
            each.transport.abortConnection()

    def _accepted(self) -> _Inward:
        service_id = None
        if self._services:
            service_id = self._services[self._connections % len(self._services)]
        self._connections += 1
        return _Inward(self, service_id)
