"""
Tests for L{txmongokit.web}: files served, taken and sent, over connections in
memory.
"""

from __future__ import annotations

import datetime
from typing import Any

from bson import ObjectId
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.fakes import FakeRunner, cursor_reply
from tests.test_gridfs import CHUNKS, FILE, bucket, chunk
from txmongokit.gridfs import CorruptGridFile
from txmongokit.web import Files

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
    @ivar clock: by which it times out.
    @ivar host: whom the requests are for.
    """

    host = b"h"

    def __init__(self, resource: Resource, factory: type[Request] = Request) -> None:
        root = Resource()
        root.putChild(b"x", resource)
        self.clock = Clock()
        site = Site(root, requestFactory=factory, reactor=self.clock)
        self.transport = Connection()
        self.channel: Any = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, method: bytes, path: bytes, body: bytes | None = None, **headers: bytes) -> None:
        """A request, whole but for what is missing from the body."""
        lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: " + self.host]
        lines += [name.replace("_", "-").encode() + b": " + headers[name] for name in headers]
        self.channel.dataReceived(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))

    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers (their names in lower case) and body."""
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        fields = (line.partition(b": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in fields}, body

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
        self.assertEqual(headers[b"last-modified"], b"Sat, 21 Nov 2026 10:00:00 GMT")
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

    def test_packed(self) -> None:
        """What is packed is not of the type that is packed in it."""
        headers = self.get(file={**SERVED, "filename": "a.svgz"})[1]
        self.assertEqual(headers[b"content-type"], b"application/octet-stream")

    def test_active(self) -> None:
        """What may have scripts is not shown as a page of this site."""
        for kind, shown in (
            ("text/plain; charset=utf-8", b"inline"),
            ("image/PNG", b"inline"),
            ("video/mp4", b"inline"),
            ("text/html", b"attachment"),
            ("TEXT/HTML ;a=b", b"attachment"),
            ("image/svg+xml", b"attachment"),
            ("application/xhtml+xml", b"attachment"),
            ("application/pdf", b"attachment"),
            ("text/plain, text/html", b"attachment"),
            ("", b"attachment"),
        ):
            for method in (b"GET", b"HEAD"):
                headers = self.get(method, file={**SERVED, "contentType": kind})[1]
                self.assertEqual(headers[b"content-disposition"].partition(b";")[0], shown, kind)
                self.assertEqual(headers[b"x-content-type-options"], b"nosniff")
        runner = FakeRunner(cursor_reply([{**SERVED, "contentType": "text/html"}]))
        served = Served(Files(bucket(runner), inline=lambda kind: kind == "text/html"))
        served.send(b"HEAD", b"/x/f")
        self.assertTrue(served.answer()[1][b"content-disposition"].startswith(b"inline"))

    def test_name(self) -> None:
        """Whatever is in the name, there is one header, and no path in it."""
        for name, told in (
            ("f.txt", b"; filename=\"f.txt\"; filename*=UTF-8''f.txt"),
            ('a"b\\c;d', b"; filename=\"c_d\"; filename*=UTF-8''c%3Bd"),
            ("../../etc/\u00e4.png", b"; filename=\"_.png\"; filename*=UTF-8''%C3%A4.png"),
            ("a\r\nX: y", b"; filename=\"a__X_ y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
            ("a" * 256, b""),
            ("", b""),
            (None, b""),
            (5, b"; filename=\"5\"; filename*=UTF-8''5"),
        ):
            status, headers, _ = self.get(file={**SERVED, "contentType": "a/b", "filename": name})
            self.assertEqual(status, 200)
            self.assertEqual(headers[b"content-disposition"], b"attachment" + told)
            self.assertNotIn(b"x", headers)

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
        self.assertEqual(self.get(If_None_Match=b"W/" + tag)[0], 304)
        self.assertEqual(self.get(b"HEAD", If_None_Match=tag)[0], 304)
        self.assertEqual(self.get(If_Match=b'"other"')[0], 412)
        self.assertEqual(self.get(If_Match=tag)[0], 200)
        self.assertEqual(self.get(If_Unmodified_Since=b"Sat, 21 Nov 2026 09:00:00 GMT")[0], 412)
        # Parts of files go together only where they are the same to the byte.
        self.assertEqual(self.get(If_Range=b"W/" + tag, Range=b"bytes=0-1")[0], 200)
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
