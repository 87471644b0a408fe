"""
The peer C{txmongokit}.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from benchmarks.peers.reactor import TwistedPeer, run
from benchmarks.peers.work import SLOW, FilePeer
from txmongokit.connection import ConnectionPool
from txmongokit.gridfs import GridFSBucket


class _Ours(TwistedPeer, FilePeer):
    async def connect(self, host: str, port: int) -> None:
        self._pool = ConnectionPool(f"mongodb://{host}:{port}", reactor=self.reactor)
        self._database = self._pool["benchmark"]
        self._corpus = self._database["corpus"]
        self._inserted = self._database["inserted"]
        self._bucket = GridFSBucket(self._database)

    async def close(self) -> None:
        await self._pool.disconnect()

    def find_one(self, number: int) -> Awaitable[Any]:
        return self._corpus.find_one({"_id": number})

    def find_all(self) -> Awaitable[list[Any]]:
        return self._corpus.find().to_list()

    def insert_one(self, document: dict[str, Any]) -> Awaitable[Any]:
        return self._inserted.insert_one(document)

    def insert_many(self, documents: list[dict[str, Any]]) -> Awaitable[Any]:
        return self._inserted.insert_many(documents)

    def ping(self) -> Awaitable[Any]:
        return self._database.command("ping")

    def upload(self, name: str, content: bytes) -> Awaitable[Any]:
        return self._bucket.upload_from_stream(name, content)

    async def download(self, name: str) -> bytes:
        stream = await self._bucket.open_download_stream_by_name(name)
        return await stream.read()

    def slow(self) -> Awaitable[Any]:
        return self._corpus.find_one(SLOW)


if __name__ == "__main__":
    run(_Ours)
