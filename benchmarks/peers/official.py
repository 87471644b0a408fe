"""
The peer C{pymongo}: PyMongo's asyncio client.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

from gridfs.asynchronous import AsyncGridFSBucket
from pymongo import AsyncMongoClient

from benchmarks.peers.work import SLOW, FilePeer, serve


class _PyMongo(FilePeer):
    async def connect(self, host: str, port: int) -> None:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(host, port)
        self._database = self._client["benchmark"]
        self._corpus = self._database["corpus"]
        self._inserted = self._database["inserted"]
        self._bucket = AsyncGridFSBucket(self._database)

    async def close(self) -> None:
        await self._client.close()

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

    def start(self, work: Coroutine[Any, Any, None]) -> Awaitable[Any]:
        return asyncio.ensure_future(work)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    await serve(_PyMongo(), lambda: loop.run_in_executor(None, sys.stdin.readline))


if __name__ == "__main__":
    asyncio.run(_main())
