"""
GridFS over HTTP, on a real server.
"""

from __future__ import annotations

import random
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, RequestGenerationFailed, readBody
from twisted.web.iweb import UNKNOWN_LENGTH
from twisted.web.resource import Resource
from twisted.web.server import Site

from benchmarks.gridfs_http import passage
from txmongokit.connection import ConnectionPool
from txmongokit.gridfs import CorruptGridFile, GridFS, GridFSBucket, GridOut
from txmongokit.testing import standalone
from txmongokit.web import FileBody, Files, StreamingRequest, Uploads

DATA = random.Random(6).randbytes(3_000_000)
MEGABYTE = 1 << 20


class Cutting(Protocol):
    """A client that sends half of its body, then goes."""

    def connectionMade(self) -> None:
        """Half of it."""
        # More than one batch, or nothing would be inserted yet.
        head = b"PUT /in/half HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (8 * len(DATA))
        assert self.transport is not None
        self.transport.write(head + DATA * 4)


class WebTests(TestCase):
    """
    L{txmongokit.web} over real connections, with L{Agent} and treq.
    """

    timeout = 60

    def setUp(self) -> None:
        """Start a server, a client and a site."""
        deployment = standalone()
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        self.database = deployment.client()["db"]
        self.addCleanup(self.database.client.close)
        self.pool = ConnectionPool(deployment.uri)
        self.addCleanup(self.pool.disconnect)
        bucket = GridFSBucket(self.pool["db"])
        root = Resource()
        root.putChild(b"in", Uploads(bucket))
        root.putChild(b"few", Uploads(bucket, max_length=MEGABYTE))
        root.putChild(b"out", Files(bucket))
        listening: Any = reactor
        self.addCleanup(self.quiet)
        port = listening.listenTCP(
            0, Site(root, requestFactory=StreamingRequest), interface="127.0.0.1"
        )
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port
        self.agent: Any = Agent(reactor)
        self.treq: Any = HTTPClient(self.agent)

    async def _quiet(self) -> None:
        running: Any = reactor
        while any(isinstance(reader, Server) for reader in running.getReaders()):
            await deferLater(reactor, 0.02)

    def quiet(self) -> Deferred[None]:
        """Until the site has no connections."""
        return Deferred.fromCoroutine(self._quiet())

    def url(self, path: str) -> bytes:
        """Of a path."""
        return f"http://127.0.0.1:{self.port}/{path}".encode()

    def left(self) -> int:
        """How many documents the bucket has."""
        counted = [self.database[name].count_documents({}) for name in ("fs.files", "fs.chunks")]
        return sum(counted)

    async def stored(self, **fields: Any) -> GridOut:
        """A file with the content, in another bucket."""
        files = GridFS(self.pool["db"], "source")
        return await files.get(await files.put(DATA, **fields))

    def test_through(self) -> Deferred[None]:
        """A file from the bucket goes through an agent into another, and comes back."""
        return Deferred.fromCoroutine(self.through())

    async def through(self) -> None:
        """See L{test_through}."""
        async with await self.stored() as source:
            response = await self.agent.request(b"PUT", self.url("in/f"), None, FileBody(source))
            await readBody(response)
        self.assertEqual(response.code, 201)
        response = await self.agent.request(b"GET", self.url("out/f"))
        self.assertEqual(await readBody(response), DATA)

    def test_half(self) -> Deferred[None]:
        """Half an upload leaves nothing."""
        return Deferred.fromCoroutine(self.half())

    async def half(self) -> None:
        """See L{test_half}."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client: Any = await connectProtocol(endpoint, Cutting())
        chunks = self.database["fs.chunks"]
        while not chunks.count_documents({}):
            await deferLater(reactor, 0.05)
        client.transport.abortConnection()
        while chunks.count_documents({}):
            await deferLater(reactor, 0.05)
        self.assertEqual(self.database["fs.files"].count_documents({}), 0)

    def test_treq(self) -> Deferred[None]:
        """With treq a file is sent from where it stands, and fetched whole and in parts."""
        return Deferred.fromCoroutine(self.with_treq())

    async def with_treq(self) -> None:
        """See L{test_treq}."""
        async with await self.stored() as source:
            await source.seek(1_000_000)
            response = await self.treq.put(self.url("in/f"), data=FileBody(source))
        answer = await response.json()
        self.assertEqual((response.code, answer["length"]), (201, len(DATA) - 1_000_000))
        sent = DATA[1_000_000:]
        response = await self.treq.get(self.url("out/f"))
        self.assertEqual(await response.content(), sent)
        known = response.headers.getRawHeaders("etag")[0]
        for headers, code, expected in (
            ({"If-None-Match": known}, 304, b""),
            ({"Range": "bytes=0-9"}, 206, sent[:10]),
            ({"Range": "bytes=-9"}, 206, sent[-9:]),
            ({"Range": "bytes=700000-1000000", "If-Range": known}, 206, sent[700000:1000001]),
            ({"Range": "bytes=0-9", "If-Range": f"W/{known}"}, 200, sent),
            ({"Range": f"bytes={len(sent)}-"}, 416, b""),
        ):
            response = await self.treq.get(self.url("out/f"), headers=headers)
            self.assertEqual((response.code, await response.content()), (code, expected), headers)
        response = await self.treq.head(self.url("out/f"))
        self.assertEqual(response.headers.getRawHeaders("content-length"), [str(len(sent))])
        self.assertEqual(await response.content(), b"")

    def test_ranges(self) -> Deferred[None]:
        """Several ranges come as parts that Python's own parser understands."""
        return Deferred.fromCoroutine(self.ranges())

    async def ranges(self) -> None:
        """See L{test_ranges}."""
        await self.treq.put(self.url("in/f"), data=DATA)
        headers = {"Range": "bytes=5-9,2000000-2600000,-1"}
        response = await self.treq.get(self.url("out/f"), headers=headers)
        kind = response.headers.getRawHeaders(b"content-type")[0]
        message = BytesParser(policy=HTTP).parsebytes(
            b"Content-Type: " + kind + b"\r\n\r\n" + await response.content()
        )
        parts = [part.get_payload(decode=True) for part in message.iter_parts()]
        self.assertEqual(parts, [DATA[5:10], DATA[2_000_000:2_600_001], DATA[-1:]])

    def test_corrupt_body(self) -> Deferred[None]:
        """A file that turns out to be corrupt fails the request, and leaves nothing there."""
        return Deferred.fromCoroutine(self.corrupt_body())

    async def corrupt_body(self) -> None:
        """See L{test_corrupt_body}."""
        source = await self.stored()
        self.database["source.chunks"].delete_one({"n": 9})
        with self.assertRaises(RequestGenerationFailed) as caught:
            await self.treq.put(self.url("in/f"), data=FileBody(source))
        (reason,) = caught.exception.reasons
        self.assertIsInstance(reason.value, CorruptGridFile)
        while self.left():
            await deferLater(reactor, 0.05)

    def test_too_long(self) -> Deferred[None]:
        """Agents learn that a file is too long, whether it says so or not."""
        return Deferred.fromCoroutine(self.too_long())

    async def too_long(self) -> None:
        """See L{test_too_long}."""
        async with await self.stored() as source:
            response = await self.treq.put(self.url("few/f"), data=FileBody(source))
            self.assertEqual((response.code, "error" in await response.json()), (413, True))
            await self._quiet()  # The answer came before the body had gone.
        async with await self.stored() as source:
            body: Any = FileBody(source)
            body.length = UNKNOWN_LENGTH
            response = await self.treq.put(self.url("few/f"), data=body)
            self.assertEqual((response.code, "error" in await response.json()), (413, True))
            await self._quiet()  # The answer came before the body had gone.
        while self.left():
            await deferLater(reactor, 0.05)


class PassageTests(SynchronousTestCase):
    """
    A file that is larger than what may be held.
    """

    def test_memory(self) -> None:
        """64 MB go up and come down the same, for far less memory than that."""
        with standalone() as deployment:
            host, port = deployment.addresses[0]
            seen = passage(64 * MEGABYTE, f"mongodb://{host}:{port}/files")
        self.assertTrue(seen.same)
        self.assertLess(seen.peak - seen.idle, 40 * MEGABYTE)
