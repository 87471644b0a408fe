"""
Tests for L{txmongokit.web}: files served, taken and sent, over connections in
memory.
"""

from __future__ import annotations

import datetime
from typing import Any

from bson import ObjectId
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IBodyProducer
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from zope.interface.verify import verifyObject

import txmongokit.gridfs.upload
from tests.fakes import FakeRunner, cursor_reply
from tests.test_gridfs import CHUNKS, DONE, FILE, KNOWN, bucket, chunk
from tests.test_gridfs_streams import Drinker
from txmongokit.database import Database
from txmongokit.errors import ExecutionTimeout
from txmongokit.gridfs import CorruptGridFile, GridOut
from txmongokit.web import FileBody, Files, StreamingRequest, Uploads

WHEN = datetime.datetime(2026, 11, 21, 10, 0, 0, tzinfo=datetime.UTC)
SERVED = {**FILE, "filename": "f.txt", "uploadDate": WHEN}
CONTENT = b"01234\n6789"


class Connection(StringTransport):
    """
    A client's connection.

    @ivar states: what its producing has been told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.states: list[str] = []

    def pauseProducing(self) -> None:
        """Remembered."""
        self.states.append("pause")

    def resumeProducing(self) -> None:
        """Remembered."""
        self.states.append("resume")


class Served:
    """
    One connection to a site.

    @param resource: below C{/x}.
    """

    def __init__(self, resource: Resource, factory: type[Request] = Request) -> None:
        root = Resource()
        root.putChild(b"x", resource)
        site = Site(root, requestFactory=factory, reactor=Clock())
        self.transport = Connection()
        self.channel: Any = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, method: bytes, path: bytes, body: bytes | None = None, **headers: bytes) -> None:
        """A request, whole but for what is missing from the body."""
        lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: h"]
        lines += [name.replace("_", "-").encode() + b": " + headers[name] for name in headers]
        self.channel.dataReceived(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))

    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body."""
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        return int(first.split()[1]), headers, body

    def lose(self) -> None:
        """The client goes away."""
        self.channel.connectionLost(Failure(ConnectionLost()))


class FilesTests(SynchronousTestCase):
    """
    L{Files}.
    """

    def get(
        self,
        method: bytes = b"GET",
        path: bytes = b"/x/f.txt",
        file: Any = SERVED,
        **headers: bytes,
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Ask for the file."""
        self.runner = FakeRunner(cursor_reply([file]), *[cursor_reply(CHUNKS)] * 2)
        served = Served(Files(bucket(self.runner)))
        served.send(method, path, **headers)
        return served.answer()

    def test_whole(self) -> None:
        """The content and what describes it."""
        status, headers, body = self.get()
        self.assertEqual((status, body), (200, CONTENT))
        self.assertEqual(headers[b"content-length"], b"10")
        self.assertEqual(headers[b"content-type"], b"text/plain")
        self.assertEqual(headers[b"last-modified"], b"sat, 21 nov 2026 10:00:00 gmt")
        self.assertEqual(headers[b"accept-ranges"], b"bytes")
        self.assertEqual(headers[b"x-content-type-options"], b"nosniff")
        self.assertEqual(self.runner.bodies[0]["filter"], {"filename": "f.txt"})

    def test_types(self) -> None:
        """The type is the file's own, the metadata's, by the name, or none."""
        for file, expected in (
            ({**SERVED, "contentType": "a/b"}, b"a/b"),
            ({**SERVED, "metadata": {"contentType": "c/d"}}, b"c/d"),
            ({**SERVED, "filename": "f"}, b"application/octet-stream"),
            ({**SERVED, "contentType": "a/b\r\nX: y"}, b"application/octet-stream"),
            ({**SERVED, "contentType": "\xe4"}, b"application/octet-stream"),
        ):
            self.assertEqual(self.get(file=file)[1][b"content-type"], expected)

    def test_head(self) -> None:
        """Headers alone, and no chunk is read."""
        status, headers, body = self.get(b"HEAD", Range=b"bytes=0-1")
        self.assertEqual((status, headers[b"content-length"], body), (200, b"10", b""))
        self.assertEqual(self.runner.names, ["find"])

    def test_range(self) -> None:
        """One range, across chunks."""
        status, headers, body = self.get(Range=b"bytes=2-6")
        self.assertEqual((status, body), (206, CONTENT[2:7]))
        self.assertEqual(headers[b"content-range"], b"bytes 2-6/10")
        self.assertEqual(headers[b"content-length"], b"5")

    def test_ranges(self) -> None:
        """Several, in parts that say what they are."""
        found = [cursor_reply([SERVED]), cursor_reply(CHUNKS), cursor_reply(CHUNKS[2:])]
        served = Served(Files(bucket(FakeRunner(*found))))
        served.send(b"GET", b"/x/f.txt", Range=b"bytes=1-2,9-")
        status, headers, body = served.answer()
        self.assertEqual(status, 206)
        self.assertEqual(int(headers[b"content-length"]), len(body))
        kind, _, boundary = headers[b"content-type"].partition(b"; boundary=")
        self.assertEqual(kind, b"multipart/byteranges")
        parts = body.split(b"\r\n--" + boundary)
        self.assertEqual((parts[0], parts[-1]), (b"", b"--\r\n"))
        heads = [part.partition(b"\r\n\r\n") for part in parts[1:-1]]
        self.assertEqual([content for _, _, content in heads], [CONTENT[1:3], CONTENT[9:]])
        self.assertIn(b"Content-Range: bytes 9-9/10", heads[1][0])
        self.assertIn(b"Content-Type: text/plain", heads[0][0])

    def test_unsatisfiable(self) -> None:
        """A range behind the end."""
        status, headers, _ = self.get(Range=b"bytes=10-")
        self.assertEqual((status, headers[b"content-range"]), (416, b"bytes */10"))

    def test_conditions(self) -> None:
        """What the client has is not sent again; ranges of another file are not sent."""
        tag = self.get()[1][b"etag"]
        for headers in (
            {"If_None_Match": tag},
            {"If_Modified_Since": b"Sat, 21 Nov 2026 10:00:00 GMT"},
        ):
            status, answered, body = self.get(**headers)
            self.assertEqual((status, body, answered[b"etag"]), (304, b"", tag))
        self.assertEqual(self.get(If_None_Match=b'"other"')[0], 200)
        self.assertEqual(self.get(If_Range=tag, Range=b"bytes=0-1")[0], 206)
        self.assertEqual(self.get(If_Range=b'"other"', Range=b"bytes=0-1")[0], 200)
        newer = {**SERVED, "uploadDate": WHEN + datetime.timedelta(seconds=1)}
        self.assertNotEqual(self.get(file=newer)[1][b"etag"], tag)

    def test_absent(self) -> None:
        """404 for what is not there, or no name or id at all."""
        for path, by_id in ((b"/x/g", False), (b"/x/", False), (b"/x/%FF", False), (b"/x/1", True)):
            served = Served(Files(bucket(FakeRunner(cursor_reply([]))), by_id=by_id))
            served.send(b"GET", path)
            self.assertEqual(served.answer()[0], 404, path)

    def test_by_id(self) -> None:
        """The path may name ids, or names with slashes."""
        runner, identifier = FakeRunner(cursor_reply([SERVED]), cursor_reply(CHUNKS)), ObjectId()
        served = Served(Files(bucket(runner), by_id=True))
        served.send(b"GET", b"/x/" + str(identifier).encode())
        self.assertEqual(served.answer()[2], CONTENT)
        self.assertEqual(runner.bodies[0]["filter"], {"_id": identifier})
        self.get(path=b"/x/a/b%20c")
        self.assertEqual(self.runner.bodies[0]["filter"], {"filename": "a/b c"})

    def test_corrupt(self) -> None:
        """A corrupt file ends the connection, or is a 500 where nothing was sent."""
        for chunks, status in (([CHUNKS[0], chunk(2, b"89")], 200), ([chunk(1, b"")], 500)):
            served = Served(Files(bucket(FakeRunner(cursor_reply([SERVED]), cursor_reply(chunks)))))
            served.send(b"GET", b"/x/f.txt")
            code, headers, body = served.answer()
            self.assertEqual(code, status)
            self.assertEqual(len(self.flushLoggedErrors(CorruptGridFile)), 1)
            if status == 200:
                self.assertTrue(served.transport.disconnecting)
                self.assertEqual(body, b"0123")
            else:
                self.assertEqual(int(headers[b"content-length"]), len(body))
                self.assertNotIn(b"etag", headers)

    def test_gone(self) -> None:
        """A client that goes away ends the reading of chunks."""
        cancelled: list[Any] = []
        waiting: Deferred[Any] = Deferred(cancelled.append)
        served = Served(Files(bucket(FakeRunner(cursor_reply([SERVED]), waiting))))
        served.send(b"GET", b"/x/f.txt")
        self.assertEqual(cancelled, [])
        served.lose()
        self.assertEqual(cancelled, [waiting])


class UploadsTests(SynchronousTestCase):
    """
    L{Uploads} and L{StreamingRequest}.
    """

    def serve(self, *replies: Any, factory: type[Request] = StreamingRequest) -> Served:
        """A connection where files are taken, in chunks of four bytes."""
        self.patch(txmongokit.gridfs.upload, "_UPLOAD_BYTES", 1)
        self.runner = FakeRunner(KNOWN, *replies)
        self.resource = Uploads(bucket(self.runner, chunk_size_bytes=4))
        return Served(self.resource, factory)

    def test_interface(self) -> None:
        """It is a resource."""
        verifyObject(IResource, Uploads(bucket(FakeRunner())))

    def test_stored(self) -> None:
        """Streamed or from a temporary file, by PUT or POST, the file is there."""
        for factory in (StreamingRequest, Request):
            for method in (b"PUT", b"POST"):
                served = self.serve(factory=factory)
                served.send(method, b"/x/a/b", CONTENT, Content_Length=b"10", Content_Type=b"t/u")
                status, _, body = served.answer()
                self.assertEqual(status, 201)
                file = self.runner.statements(-1)[0]
                self.assertEqual((file["filename"], file["length"]), ("a/b", 10))
                self.assertEqual(file["contentType"], "t/u")
                self.assertIn(str(file["_id"]).encode(), body)
                data = [self.runner.statements(index)[0]["data"] for index in (1, 2, 3)]
                self.assertEqual(b"".join(data), CONTENT)

    def test_chunked(self) -> None:
        """A body of unknown length, in its transfer's chunks."""
        served = self.serve()
        served.send(b"PUT", b"/x/f", b"6\r\n012345\r\n0\r\n\r\n", Transfer_Encoding=b"chunked")
        self.assertEqual(served.answer()[0], 201)
        self.assertEqual(self.runner.statements(-1)[0]["length"], 6)

    def test_pressure(self) -> None:
        """What comes is stored as it comes; the client waits for the server."""
        waiting: Deferred[Any] = Deferred()
        served = self.serve(waiting)
        served.send(b"PUT", b"/x/f", b"0123", Content_Length=b"12")
        self.assertEqual((self.runner.names, served.transport.states), (["find", "insert"], []))
        served.channel.dataReceived(b"4567")
        self.assertEqual(served.transport.states, ["pause"])
        waiting.callback(DONE)
        self.assertEqual(served.transport.states, ["pause", "resume"])
        served.channel.dataReceived(b"89ab")
        self.assertEqual(served.answer()[0], 201)

    def test_broken_off(self) -> None:
        """A client that goes away leaves no chunks and no file."""
        served = self.serve()
        served.send(b"PUT", b"/x/f", b"01234567", Content_Length=b"12")
        served.lose()
        self.assertEqual(self.runner.names[-1], "delete")
        self.assertNotIn("fs.files", [body.get("insert") for body in self.runner.bodies])

    def test_gone_at_the_end(self) -> None:
        """One that goes while the last insert is under way, too."""
        waiting: Deferred[Any] = Deferred()
        served = self.serve(waiting)
        served.send(b"PUT", b"/x/f", b"01234567", Content_Length=b"8")
        served.lose()
        waiting.callback(DONE)
        self.assertEqual(self.runner.names[-1], "delete")
        self.assertNotIn("fs.files", [body.get("insert") for body in self.runner.bodies])

    def test_failure(self) -> None:
        """The server's error is a 500, after which nothing is left."""
        for factory in (StreamingRequest, Request):
            served = self.serve(DONE, ExecutionTimeout("slow"), factory=factory)
            served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"10")
            self.assertEqual(served.answer()[0], 500)
            self.assertEqual(len(self.flushLoggedErrors(ExecutionTimeout)), 1)
            self.assertEqual(self.runner.names[-1], "delete")

    def test_nameless(self) -> None:
        """There must be a name."""
        served = self.serve()
        served.send(b"PUT", b"/x/", b"a", Content_Length=b"1")
        self.assertEqual((served.answer()[0], self.runner.names), (400, []))

    def test_elsewhere(self) -> None:
        """Other resources get their bodies as ever."""
        bodies = []

        class Other(Resource):
            isLeaf = True

            def render_PUT(self, request: Any) -> bytes:
                bodies.append(request.content.read())
                return b""

        served = Served(Other(), StreamingRequest)
        served.send(b"PUT", b"/x/f", b"abc", Content_Length=b"3")
        self.assertEqual(bodies, [b"abc"])


class BodyTests(SynchronousTestCase):
    """
    L{FileBody}.
    """

    def body(self, *replies: Any) -> tuple[FileBody, GridOut]:
        """One of ten bytes."""
        runner = FakeRunner(*(replies or (cursor_reply(CHUNKS),)))
        stream = GridOut(Database(runner, "db")["fs"], FILE)
        return FileBody(stream), stream

    def test_interface(self) -> None:
        """It is what it says."""
        verifyObject(IBodyProducer, self.body()[0])

    def test_sends(self) -> None:
        """All of it, with pauses; it neither registers nor unregisters."""
        body, _ = self.body()
        self.assertEqual(body.length, 10)
        consumer = Drinker()
        consumer.producer = body
        done = body.startProducing(consumer)
        for _ in range(2):
            self.assertNoResult(done)
            body.resumeProducing()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual((b"".join(consumer.got), consumer.unregistered), (CONTENT, 0))

    def test_stopped(self) -> None:
        """After a stop nothing fires."""
        body, _ = self.body(Deferred())
        done = body.startProducing(Drinker())
        body.stopProducing()
        self.assertNoResult(done)

    def test_cancelled(self) -> None:
        """To cancel stops the reading."""
        body, _ = self.body(Deferred())
        done = body.startProducing(Drinker())
        done.cancel()
        self.failureResultOf(done, CancelledError)

    def test_corrupt(self) -> None:
        """What reading fails with."""
        done = self.body(cursor_reply([]))[0].startProducing(Drinker())
        self.failureResultOf(done, CorruptGridFile)
