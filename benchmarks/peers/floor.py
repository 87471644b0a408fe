"""
The peer C{floor}: one Twisted socket that only encodes and decodes. No session,
no pool, no retries, no limits: what any driver on Twisted must at least spend.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable
from typing import Any

import bson
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from benchmarks.peers.reactor import TwistedPeer, run
from benchmarks.peers.work import SLOW

_HEADER = struct.Struct("<iiiiiB")
_OP_MSG = 2013


class _Socket(Protocol):
    def __init__(self) -> None:
        self._received = bytearray()
        self._waiting: deque[Deferred[dict[str, Any]]] = deque()

    def send(
        self, command: dict[str, Any], documents: list[bytes] | None = None
    ) -> Deferred[dict[str, Any]]:
        body = bson.encode(command)
        section = b""
        if documents is not None:
            content = b"documents\x00" + b"".join(documents)
            section = b"\x01" + struct.pack("<i", len(content) + 4) + content
        size = _HEADER.size + len(body) + len(section)
        message = _HEADER.pack(size, 1, 0, _OP_MSG, 0, 0) + body + section
        answered: Deferred[dict[str, Any]] = Deferred()
        self._waiting.append(answered)
        assert self.transport is not None
        self.transport.write(message)
        return answered

    def dataReceived(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 4:
            size = int.from_bytes(received[:4], "little")
            if len(received) < size:
                return
            reply = bson.decode(bytes(received[_HEADER.size : size]))
            del received[:size]
            self._waiting.popleft().callback(reply)


def _first(reply: dict[str, Any]) -> Any:
    batch = reply["cursor"]["firstBatch"]
    return batch[0] if batch else None


class _Floor(TwistedPeer):
    async def connect(self, host: str, port: int) -> None:
        endpoint = TCP4ClientEndpoint(self.reactor, host, port)
        self._socket = await connectProtocol(endpoint, _Socket())

    async def close(self) -> None:
        assert self._socket.transport is not None
        self._socket.transport.loseConnection()

    def find_one(self, number: int) -> Awaitable[Any]:
        return self._find_one({"_id": number})

    def _find_one(self, condition: dict[str, Any]) -> Deferred[Any]:
        command = {
            "find": "corpus",
            "filter": condition,
            "limit": 1,
            "singleBatch": True,
            "$db": "benchmark",
        }
        found: Deferred[Any] = self._socket.send(command).addCallback(_first)
        return found

    async def find_all(self) -> list[Any]:
        reply = await self._socket.send({"find": "corpus", "$db": "benchmark"})
        found: list[Any] = reply["cursor"]["firstBatch"]
        while identifier := reply["cursor"]["id"]:
            command = {
                "getMore": bson.Int64(identifier),
                "collection": "corpus",
                "$db": "benchmark",
            }
            reply = await self._socket.send(command)
            found += reply["cursor"]["nextBatch"]
        return found

    def insert_one(self, document: dict[str, Any]) -> Awaitable[Any]:
        return self.insert_many([document])

    def insert_many(self, documents: list[dict[str, Any]]) -> Awaitable[Any]:
        encoded = [bson.encode({"_id": bson.ObjectId(), **document}) for document in documents]
        inserted: Awaitable[Any] = self._socket.send(
            {"insert": "inserted", "$db": "benchmark"}, encoded
        )
        return inserted

    def ping(self) -> Awaitable[Any]:
        answered: Awaitable[Any] = self._socket.send({"ping": 1, "$db": "benchmark"})
        return answered

    def slow(self) -> Awaitable[Any]:
        return self._find_one(SLOW)


if __name__ == "__main__":
    run(_Floor)
