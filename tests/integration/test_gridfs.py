"""
GridFS on a real server, beside PyMongo's.
"""

from __future__ import annotations

import io
import random
from typing import Any

import gridfs
from bson import ObjectId
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from txmongokit.connection import ConnectionPool
from txmongokit.gridfs import CorruptGridFile, FileExists, GridFSBucket, NoFile
from txmongokit.testing import replica_set

DATA = random.Random(3).randbytes(9_000_000)


class GridFSTests(TestCase):
    """
    One replica set, one bucket.
    """

    timeout = 60

    def setUp(self) -> None:
        """Start a set, a client and PyMongo's."""
        deployment = replica_set(1)
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        self.pool = ConnectionPool(deployment.uri)
        self.addCleanup(self.pool.disconnect)
        self.bucket = GridFSBucket(self.pool["db"])
        self.client = deployment.client()
        self.addCleanup(self.client.close)
        self.theirs = gridfs.GridFSBucket(self.client["db"])

    def run_it(self, coroutine: Any) -> Deferred[None]:
        """The test's own coroutine."""
        return Deferred.fromCoroutine(coroutine)

    def chunks(self) -> int:
        """How many chunks there are."""
        return self.client["db"]["fs.chunks"].count_documents({})

    def test_both_ways(self) -> Deferred[None]:
        """What we write PyMongo reads, and the other way round, indexes included."""
        return self.run_it(self.both_ways())

    async def both_ways(self) -> None:
        """See L{test_both_ways}."""
        identifier = await self.bucket.upload_from_stream("a", io.BytesIO(DATA))
        self.assertEqual(self.theirs.open_download_stream(identifier).read(), DATA)
        for name in ("fs.files", "fs.chunks"):
            self.assertEqual(len(self.client["db"][name].index_information()), 2)
        theirs = self.theirs.upload_from_stream("b", DATA[:1_000_000], chunk_size_bytes=1000)
        target = io.BytesIO()
        await self.bucket.download_to_stream(theirs, target)
        self.assertEqual(target.getvalue(), DATA[:1_000_000])
        async with await self.bucket.open_download_stream_by_name("a") as stream:
            await stream.seek(5_000_000)
            self.assertEqual(await stream.read(600_000), DATA[5_000_000:5_600_000])
            await stream.seek(255 * 1024 - 5)
            self.assertEqual(await stream.read(10), DATA[255 * 1024 - 5 : 255 * 1024 + 5])
        names = [file.filename async for file in self.bucket.find(sort=[("filename", 1)])]
        self.assertEqual(names, ["a", "b"])

    def test_operators(self) -> Deferred[None]:
        """An id with operators deletes nothing and finds nothing."""
        return self.run_it(self.operators())

    async def operators(self) -> None:
        """See L{test_operators}."""
        for name in ("a", "b"):
            await self.bucket.upload_from_stream(name, b"x" * 10, chunk_size_bytes=4)
        for identifier in ({"$ne": 0}, {"$exists": True}):
            for call in (self.bucket.delete, self.bucket.open_download_stream):
                with self.assertRaises(NoFile):
                    await call(identifier)
        self.assertEqual(self.chunks(), 6)

    def test_nothing_left(self) -> Deferred[None]:
        """An upload that fails, is aborted or cancelled leaves nothing; others stay."""
        return self.run_it(self.nothing_left())

    async def nothing_left(self) -> None:
        """See L{test_nothing_left}."""

        class Broken(io.BytesIO):
            """Fails behind 8 MB."""

            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 8_000_000:
                    raise OSError("gone")
                return super().read(size)

        with self.assertRaises(OSError):
            await self.bucket.upload_from_stream("a", Broken(DATA))
        stream = self.bucket.open_upload_stream("b")
        await stream.write(DATA)
        await stream.abort()
        uploading = self.bucket.upload_from_stream("c", DATA)
        uploading.cancel()
        with self.assertRaises(CancelledError):
            await uploading
        self.assertEqual(self.chunks(), 0)
        await self.bucket.upload_from_stream_with_id("i", "d", b"first")
        with self.assertRaises(FileExists):
            await self.bucket.upload_from_stream_with_id("i", "e", DATA)
        self.assertEqual(self.theirs.open_download_stream("i").read(), b"first")
        self.assertEqual(self.client["db"]["fs.files"].count_documents({}), 1)
        self.assertEqual(self.chunks(), 1)

    def test_corrupt(self) -> Deferred[None]:
        """A chunk that is missing is named."""
        return self.run_it(self.corrupt())

    async def corrupt(self) -> None:
        """See L{test_corrupt}."""
        identifier = await self.bucket.upload_from_stream("a", b"0123456789", chunk_size_bytes=4)
        self.client["db"]["fs.chunks"].delete_one({"n": 1})
        with self.assertRaisesRegex(CorruptGridFile, "expected chunk #1"):
            await self.bucket.download_to_stream(identifier, io.BytesIO())

    def test_names(self) -> Deferred[None]:
        """Revisions, renaming, deleting and dropping."""
        return self.run_it(self.names())

    async def names(self) -> None:
        """See L{test_names}."""
        for content in (b"0", b"1", b"2"):
            await self.bucket.upload_from_stream("a", content)
            await self.pool.sleep(0.002)  # upload dates are told in milliseconds
        for revision, content in ((0, b"0"), (1, b"1"), (-1, b"2"), (-2, b"1")):
            stream = await self.bucket.open_download_stream_by_name("a", revision)
            self.assertEqual(await stream.read(), content)
        with self.assertRaises(NoFile):
            await self.bucket.open_download_stream_by_name("a", 3)
        await self.bucket.rename_by_name("a", "b")
        await self.bucket.delete_by_name("b")
        self.assertEqual(self.chunks(), 0)
        with self.assertRaises(NoFile):
            await self.bucket.delete(ObjectId())
        await self.bucket.drop()
        self.assertEqual(self.client["db"].list_collection_names(), [])
        async with self.pool.start_session() as session:
            kept = await self.bucket.upload_from_stream("a", DATA, session=session)
            stream = await self.bucket.open_download_stream(kept, session=session)
            self.assertEqual(await stream.read(), DATA)
        self.assertEqual(len(self.client["db"]["fs.chunks"].index_information()), 2)
