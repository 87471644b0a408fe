"""
An in-memory MongoDB server and the network to it: no sockets, no real time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId
from twisted.internet import error
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from txmongokit._sansio import messages as m
from txmongokit._sansio.compression import decompress
from txmongokit._sansio.framing import FrameReader
from txmongokit.connection import ConnectionPool
from txmongokit.types import Address

Answer = Callable[[dict[str, Any]], "dict[str, Any] | Exception | None"]
"""
Gives the reply to a command: C{None} for silence, an exception to lose the
connection.
"""


def refusal() -> Exception:
    """What dialling a closed port fails with."""
    return error.ConnectionRefusedError()


_HELLO_NAMES = ("hello", "isMaster")


class MemoryTransport(StringTransport):
    """One connection, between a client's protocol and a L{FakeServer}."""

    def __init__(self, server: FakeServer, protocol: Any) -> None:
        super().__init__()
        self.server = server
        self.protocol = protocol
        self.lost = False
        self.aborted = False
        self._reader = FrameReader()
        # Of a hello that is answered when something changes: its number,
        # whether it may be answered again, and what limits the wait.
        self._watching: tuple[int, bool, Any] | None = None
        self._last_id = 1
        self._limit = 0
        # Requests that must be answered in the old way.
        self._queries: set[int] = set()

    def write(self, data: bytes) -> None:
        """Queue what the client sends."""
        network = self.server.network
        if network.on_write is not None:
            network.on_write()
        if not self.lost:
            network.later(lambda: self._arrived(data))

    def loseConnection(self) -> None:
        """Close, soon."""
        self.server.network.later(self.lose)

    def abortConnection(self) -> None:
        """Close, soon, as the reactor does."""
        self.aborted = True
        self.server.network.later(self.lose)

    def lose(self, reason: Exception | None = None) -> None:
        """End the connection."""
        if not self.lost:
            self.lost = True
            self._stop_watching()
            self.server.connections.remove(self)
            self.protocol.connectionLost(Failure(reason or error.ConnectionDone()))

    def _arrived(self, data: bytes) -> None:
        if self.lost:
            return
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            header, message = m.decode(frame)
            if isinstance(message, m.OpCompressed):
                unpacked = decompress(
                    message.compressor_id, message.compressed, message.uncompressed_size, 1 << 26
                )
                header = header._replace(opcode=message.original_opcode)
                message = m.decode_payload(header, unpacked)
            self.server.messages.append(message)
            if not isinstance(message, m.OpMsg):
                self._legacy(header.request_id, message)
                continue
            if not self.server.knows_op_msg:
                self.server.network.later(self.lose)
                return
            body = bson.decode(message.body)
            for field, documents in message.sequences:
                body[field] = [bson.decode(raw) for raw in documents]
            if self.server.keeps_back(body):
                self._watch(header.request_id, message.exhaust_allowed, body["maxAwaitTimeMS"])
                continue
            reply = self.server.answer(self, body)
            if isinstance(reply, Exception):
                self.server.network.later(partial(self.lose, reply))
            elif reply is not None and not message.more_to_come:
                self.reply(header.request_id, reply)

    def _legacy(self, request_id: int, message: m.Message) -> None:
        """A message of the time before OP_MSG."""
        if not isinstance(message, m.OpQuery) or not message.namespace.endswith(".$cmd"):
            found = self.server.on_message(message)
            if found is not None:
                self._send(found, request_id)
            return
        body = bson.decode(message.query)
        if next(iter(body)) == "$query":
            body = body["$query"]
        body["$db"] = message.namespace.removesuffix(".$cmd")
        self._queries.add(request_id)
        reply = self.server.answer(self, body)
        if isinstance(reply, Exception):
            self.server.network.later(partial(self.lose, reply))
        elif reply is not None:
            self.reply(request_id, reply)

    def _send(self, message: m.Message, request_id: int) -> None:
        data = m.encode(message, self._last_id, request_id)
        network, delay = self.server.network, self.server.delay

        def arrive() -> None:
            if not self.lost:
                self.protocol.dataReceived(data)

        if delay:
            network.clock.callLater(delay, arrive)
        else:
            network.later(arrive)

    def reply(
        self, request_id: int, document: dict[str, Any], *, more_to_come: bool = False
    ) -> None:
        """Send a reply."""
        message: m.Message = m.OpReply((bson.encode(document),))
        if request_id not in self._queries:
            flags = m.MORE_TO_COME if more_to_come else 0
            message = m.OpMsg(bson.encode(document), flags=flags)
        self._send(message, request_id)

    def tell(self, *, last: bool = False) -> None:
        """
        Answer the hello that was kept back, if one was.

        @param last: it is not answered again, though it might be.
        """
        if self._watching is None:
            return
        request_id, again, _ = self._watching
        self._stop_watching()
        reply = self.server.answer(self, {"hello": 1})
        if not isinstance(reply, dict):
            return
        more = again and not last
        self._last_id += 1
        self.reply(request_id, reply, more_to_come=more)
        if more:
            self._watch(self._last_id, again, self._limit)

    def _watch(self, request_id: int, again: bool, limit: int) -> None:
        self._limit = limit
        wait = self.server.network.clock.callLater(limit / 1000, self.tell)
        self._watching = (request_id, again, wait)

    def _stop_watching(self) -> None:
        if self._watching is not None:
            wait = self._watching[2]
            self._watching = None
            if wait.active():
                wait.cancel()


class FakeServer:
    """
    A scripted server.

    @ivar hello: what it adds to its reply to C{hello}.  With a
        C{topologyVersion} it streams: see L{can_stream}.
    @ivar on_command: answers everything else.
    @ivar on_hello: answers C{hello}, where set.
    @ivar refuses: what connecting fails with; a Deferred never connects.
    @ivar delay: how many seconds its replies take.
    @ivar on_message: answers what is neither OP_MSG nor a command.
    @ivar commands: the commands that came, without C{hello}.
    @ivar messages: all messages that came.
    @ivar hellos: when a C{hello} came, in the network's seconds.
    """

    def __init__(self, network: FakeNetwork, address: Address) -> None:
        self.network = network
        self.address = address
        self.process = ObjectId()
        self.hello: dict[str, Any] = {}
        self.on_command: Answer = lambda body: {"ok": 1.0}
        self.on_hello: Answer | None = None
        self.on_message: Callable[[m.Message], m.OpReply | None] = lambda message: None
        self.messages: list[m.Message] = []
        self.refuses: Exception | Deferred[Any] | None = None
        self.delay = 0.0
        self.commands: list[dict[str, Any]] = []
        self.hellos: list[float] = []
        self.connections: list[MemoryTransport] = []
        self.attempts = 0

    def answer(self, transport: MemoryTransport, body: dict[str, Any]) -> Any:
        """What to say to one command."""
        if next(iter(body)) not in _HELLO_NAMES:
            self.commands.append(body)
            return self.on_command(body)
        self.hellos.append(self.network.clock.seconds())
        if self.on_hello is not None:
            return self.on_hello(body)
        return {
            "isWritablePrimary": True,
            "maxBsonObjectSize": 16777216,
            "maxMessageSizeBytes": 48000000,
            "maxWriteBatchSize": 100000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 17,
            "ok": 1.0,
            **self.hello,
        }

    @property
    def knows_op_msg(self) -> bool:
        """Whether it is as new as its C{hello} tells."""
        version: int = self.hello.get("maxWireVersion", 17)
        return version >= 6

    def can_stream(self) -> None:
        """
        Tell of changes by itself: of those made by L{change} and L{member}.
        """
        self.hello["topologyVersion"] = {"processId": self.process, "counter": Int64(0)}

    def change(self, **hello: Any) -> None:
        """Answer C{hello} otherwise, and whoever waits for that at once."""
        self.hello.update(hello)
        version = self.hello.get("topologyVersion")
        if version is not None:
            counter = Int64(version["counter"] + 1)
            self.hello["topologyVersion"] = {**version, "counter": counter}
        for transport in list(self.connections):
            transport.tell()

    def keeps_back(self, body: dict[str, Any]) -> bool:
        """Whether a command is answered when something changes, and not now."""
        version = self.hello.get("topologyVersion")
        return (
            version is not None
            and next(iter(body)) in _HELLO_NAMES
            and body.get("topologyVersion") == version
        )

    def names(self) -> list[str]:
        """The names of the commands that came."""
        return [next(iter(body)) for body in self.commands]

    def member(self, name: str, hosts: list[str], primary: str | None) -> None:
        """Be a member of a replica set from the next C{hello} on."""
        own = f"{self.address[0]}:{self.address[1]}"
        is_primary = own == primary
        version = self.hello.get("topologyVersion")
        self.hello = {} if version is None else {"topologyVersion": version}
        hello = {
            "setName": name,
            "hosts": hosts,
            "me": own,
            "isWritablePrimary": is_primary,
            "secondary": not is_primary,
            "setVersion": 1,
        }
        if primary is not None:
            hello["primary"] = primary
        if is_primary:
            hello["electionId"] = ObjectId()
        self.change(**hello)

    def lose_all(self, reason: Exception | None = None) -> None:
        """End every connection."""
        for transport in list(self.connections):
            transport.lose(reason or error.ConnectionLost())


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to one fake server."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect at once, or fail as the server says."""
        server = self.server
        server.attempts += 1
        if isinstance(server.refuses, Deferred):
            return Deferred()
        if server.refuses is not None:
            return fail(server.refuses)
        protocol = protocolFactory.buildProtocol(None)
        transport = MemoryTransport(server, protocol)
        server.connections.append(transport)
        protocol.makeConnection(transport)
        return succeed(protocol)


class FakeNetwork:
    """
    Fake servers by address, and a clock.

    @ivar on_write: called at each write of a client.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.servers: dict[Address, FakeServer] = {}
        self.on_write: Callable[[], None] | None = None
        self._queue: deque[Callable[[], Any]] = deque()

    def add(self, host: str = "a", port: int = 27017) -> FakeServer:
        """A standalone server."""
        server = self.servers[(host, port)] = FakeServer(self, (host, port))
        return server

    def replica_set(self, *hosts: str, primary: str | None = None) -> list[FakeServer]:
        """Members of the set C{rs}; the first is primary unless said otherwise."""
        servers = [self.add(host) for host in hosts]
        self.elect(primary or hosts[0])
        return servers

    def elect(self, primary: str | None) -> None:
        """Make a host primary, the others secondaries."""
        names = [f"{host}:{port}" for host, port in self.servers]
        for server in self.servers.values():
            server.member("rs", names, None if primary is None else f"{primary}:27017")

    def endpoint(self, reactor: Any, host: str, port: int | None) -> IStreamClientEndpoint:
        """An C{endpoint_factory}; unknown addresses refuse."""
        server = self.servers.get((host, port))
        if server is None:
            server = self.add(host, port or 0)
            server.refuses = refusal()
        return MemoryEndpoint(server)

    def later(self, action: Callable[[], Any]) -> None:
        """Do something at the next L{flush}."""
        self._queue.append(action)

    def end(self, client: ConnectionPool) -> None:
        """
        Disconnect a client: what is only dropped is torn down by the garbage
        collector, at any time and in any order.
        """
        client.disconnect()
        self.advance(2.0)

    def flush(self) -> None:
        """Deliver everything that is on its way, and what comes of it."""
        while self._queue:
            self._queue.popleft()()

    def advance(self, seconds: float, step: float = 0.125) -> None:
        """Let time go by, in small steps."""
        self.flush()
        left = seconds
        while left > 1e-9:
            self.clock.advance(min(step, left))
            left -= step
            self.flush()
