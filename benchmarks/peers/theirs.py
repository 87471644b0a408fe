"""
The peer C{txmongo}.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable
from typing import Any

from benchmarks.peers.reactor import TwistedPeer, run
from benchmarks.peers.work import SLOW, FilePeer


class _TxMongo(TwistedPeer, FilePeer):
    async def connect(self, host: str, port: int) -> None:
        # By its name: it is not in the environment that checks the types.
        connection = importlib.import_module("txmongo.connection")
        self._pool = connection.ConnectionPool(f"mongodb://{host}:{port}")
        self._database = self._pool["benchmark"]
        self._corpus = self._database["corpus"]
        self._inserted = self._database["inserted"]
        self._files = importlib.import_module("txmongo.gridfs").GridFS(self._database)

    async def close(self) -> None:
        await self._pool.disconnect()

    def find_one(self, number: int) -> Awaitable[Any]:
        found: Awaitable[Any] = self._corpus.find_one({"_id": number})
        return found

    def find_all(self) -> Awaitable[list[Any]]:
        found: Awaitable[list[Any]] = self._corpus.find()
        return found

    def insert_one(self, document: dict[str, Any]) -> Awaitable[Any]:
        inserted: Awaitable[Any] = self._inserted.insert_one(document)
        return inserted

    def insert_many(self, documents: list[dict[str, Any]]) -> Awaitable[Any]:
        inserted: Awaitable[Any] = self._inserted.insert_many(documents)
        return inserted

    def ping(self) -> Awaitable[Any]:
        answered: Awaitable[Any] = self._database.command("ping")
        return answered

    def upload(self, name: str, content: bytes) -> Awaitable[Any]:
        put: Awaitable[Any] = self._files.put(content, filename=name)
        return put

    async def download(self, name: str) -> bytes:
        stream = await self._files.get_last_version(name)
        content: bytes = await stream.read()
        return content

    def slow(self) -> Awaitable[Any]:
        found: Awaitable[Any] = self._corpus.find_one(SLOW)
        return found


if __name__ == "__main__":
    run(_TxMongo)
