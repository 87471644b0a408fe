"""
Tests for L{txmongokit.web.uploads}, over connections in memory.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request
from zope.interface.verify import verifyObject

import txmongokit.gridfs.upload
import txmongokit.web.uploads
from tests.fakes import FakeRunner
from tests.test_gridfs import DONE, KNOWN, bucket
from tests.web.test_files import CONTENT, Served
from txmongokit.errors import ExecutionTimeout
from txmongokit.gridfs import GridIn
from txmongokit.web import StreamingRequest, Uploads


class UploadsTests(SynchronousTestCase):
    """
    L{Uploads} and L{StreamingRequest}.
    """

    def serve(
        self, *replies: Any, factory: type[Request] = StreamingRequest, **options: Any
    ) -> Served:
        """A connection where files are taken, in chunks of four bytes."""
        self.patch(txmongokit.gridfs.upload, "_UPLOAD_BYTES", 1)
        self.runner = FakeRunner(KNOWN, *replies)
        self.resource = Uploads(bucket(self.runner, chunk_size_bytes=4), **options)
        return Served(self.resource, factory)

    def nothing_visible(self) -> None:
        """No file's document was written."""
        self.assertNotIn("fs.files", [body.get("insert") for body in self.runner.bodies])

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
        self.nothing_visible()

    def test_gone_at_the_end(self) -> None:
        """One that goes while the last insert is under way, too."""
        waiting: Deferred[Any] = Deferred()
        served = self.serve(waiting)
        served.send(b"PUT", b"/x/f", b"01234567", Content_Length=b"8")
        served.lose()
        waiting.callback(DONE)
        self.assertEqual(self.runner.names[-1], "delete")
        self.nothing_visible()

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

    def test_failure_at_once(self) -> None:
        """An error is told while the body still comes; what comes then is discarded."""
        served = self.serve(ExecutionTimeout("slow"))
        served.send(b"PUT", b"/x/f", b"01234567", Content_Length=b"1000")
        status, headers, _ = served.answer()
        self.assertEqual((status, headers[b"connection"]), (500, b"close"))
        self.assertEqual(len(self.flushLoggedErrors(ExecutionTimeout)), 1)
        said, names = served.transport.value(), list(self.runner.names)
        self.assertFalse(served.transport.disconnecting)
        served.channel.dataReceived(b"x" * 992)
        self.assertEqual((served.transport.value(), self.runner.names), (said, names))
        self.assertTrue(served.transport.disconnecting)
        self.nothing_visible()

    def test_declared_too_long(self) -> None:
        """A length that is too long is answered before any of the body, and asks for none."""
        served = self.serve(max_length=9)
        served.send(b"PUT", b"/x/f", None, Content_Length=b"10", Expect=b"100-continue")
        status, headers, _ = served.answer()
        self.assertEqual((status, headers[b"connection"]), (413, b"close"))
        self.assertEqual(self.runner.names, [])
        self.assertNotIn(b"100 Continue", served.transport.value())
        served.channel.dataReceived(b"0123456789")
        self.assertTrue(served.transport.disconnecting)
        self.assertEqual((self.runner.names, served.transport.value().count(b"HTTP/1.1")), ([], 1))

    def test_just_long_enough(self) -> None:
        """The longest body that may be, is taken; there may be no limit."""
        for limit in (10, None):
            served = self.serve(max_length=limit)
            served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"10")
            self.assertEqual(served.answer()[0], 201)

    def test_chunked_too_long(self) -> None:
        """A body of unknown length ends at the limit, and its chunks are removed."""
        served = self.serve(max_length=9)
        served.send(b"PUT", b"/x/f", b"8\r\n01234567\r\n", Transfer_Encoding=b"chunked")
        self.assertEqual(served.transport.value(), b"")
        served.channel.dataReceived(b"2\r\n89\r\n")
        self.assertEqual(served.answer()[0], 413)
        self.assertEqual(self.runner.names[-1], "delete")
        self.nothing_visible()
        served.channel.dataReceived(b"1\r\nx\r\n0\r\n\r\n")
        self.assertEqual(self.runner.names.count("delete"), 1)
        self.assertTrue(served.transport.disconnecting)

    def test_discards_so_much(self) -> None:
        """A client that goes on regardless is cut off."""
        self.patch(txmongokit.web.uploads, "_DISCARDED", 20)
        served = self.serve(max_length=9)
        served.send(b"PUT", b"/x/f", b"x" * 20, Content_Length=b"1000")
        self.assertFalse(served.transport.disconnecting)
        served.channel.dataReceived(b"x")
        self.assertTrue(served.transport.disconnecting)

    def test_spooled_too_long(self) -> None:
        """The limits are those of bodies from temporary files, too."""
        served = self.serve(factory=Request, max_length=9)
        served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"10")
        self.assertEqual((served.answer()[0], self.runner.names), (413, []))

    def test_long_name(self) -> None:
        """A name of more than 1024 bytes is refused, in whatever characters."""
        for factory in (StreamingRequest, Request):
            for path, status in ((b"a" * 1024, 201), (b"a" * 1025, 414), (b"%C3%A4" * 513, 414)):
                served = self.serve(factory=factory)
                served.send(b"PUT", b"/x/" + path, b"a", Content_Length=b"1")
                self.assertEqual(served.answer()[0], status)

    def test_odd_names(self) -> None:
        """A name is what the path says, no path on any disk."""
        for path, name in ((b"..%2F..%2Fetc/a%00b", "../../etc/a\0b"), (b"%22%0D%0A", '"\r\n')):
            served = self.serve()
            served.send(b"PUT", b"/x/" + path, b"a", Content_Length=b"1")
            self.assertEqual(served.answer()[0], 201)
            self.assertEqual(self.runner.statements(-1)[0]["filename"], name)

    def test_forbidden(self) -> None:
        """Who may not upload is told before the body comes."""
        asked: list[Any] = []

        def authorize(request: IRequest) -> bool:
            asked.append(request.getHeader(b"authorization"))
            return False

        for factory in (StreamingRequest, Request):
            served = self.serve(factory=factory, authorize=authorize)
            body = b"0" if factory is Request else None
            served.send(b"PUT", b"/x/f", body, Content_Length=b"1", Authorization=b"me")
            self.assertEqual((served.answer()[0], self.runner.names), (403, []))
        self.assertEqual(asked, [b"me", b"me"])

    def test_authorized_later(self) -> None:
        """While it is unknown whether a client may upload it waits; nothing is lost then."""
        for factory in (StreamingRequest, Request):
            answer: Deferred[bool] = Deferred()
            served = self.serve(factory=factory, authorize=lambda _, answer=answer: answer)
            served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"10")
            self.assertEqual((self.runner.names, served.transport.value()), ([], b""))
            answer.callback(True)
            self.assertEqual(served.answer()[0], 201)
            self.assertEqual(self.runner.statements(-1)[0]["length"], 10)

    def test_forbidden_later(self) -> None:
        """A no that comes late is a no, whether the body is there or not."""
        for length in (b"10", b"11"):
            answer: Deferred[bool] = Deferred()
            served = self.serve(authorize=lambda _, answer=answer: answer)
            served.send(b"PUT", b"/x/f", CONTENT, Content_Length=length)
            self.assertEqual(served.transport.states, ["pause"])
            answer.callback(False)
            self.assertEqual((served.answer()[0], self.runner.names), (403, []))
            self.assertEqual(served.transport.states[:2], ["pause", "resume"])

    def test_coroutine(self) -> None:
        """A coroutine's answer counts, not that there is one."""

        async def authorize(request: IRequest) -> bool:
            return bool(await succeed(False))

        served = self.serve(authorize=authorize)
        served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"10")
        self.assertEqual(served.answer()[0], 403)

    def test_authorize_fails(self) -> None:
        """An error there is a 500, and no file."""

        def authorize(request: IRequest) -> bool:
            raise KeyError("no")

        served = self.serve(authorize=authorize)
        served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"10")
        self.assertEqual((served.answer()[0], self.runner.names), (500, []))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_gone_before(self) -> None:
        """A client that goes before it is known cancels the question."""
        asked: list[Any] = []
        answer: Deferred[bool] = Deferred(asked.append)
        served = self.serve(authorize=lambda _: answer)
        served.send(b"PUT", b"/x/f", CONTENT, Content_Length=b"11")
        served.lose()
        self.assertEqual((asked, self.runner.names), ([answer], []))

    def test_stalls(self) -> None:
        """A client that stalls is cut off by the site's timeout, and nothing is left."""
        served = self.serve()
        served.send(b"PUT", b"/x/f", b"01234567", Content_Length=b"12")
        served.clock.advance(59)
        self.assertFalse(served.transport.disconnecting)
        served.clock.advance(2)
        self.assertTrue(served.transport.disconnecting)
        served.lose()
        self.assertEqual(self.runner.names[-1], "delete")
        self.nothing_visible()

    def test_slow_database(self) -> None:
        """A client that waits for the database is not the one that stalls; later it may be."""
        waiting: Deferred[Any] = Deferred()
        served = self.serve(waiting)
        served.send(b"PUT", b"/x/f", b"0123", Content_Length=b"12")
        served.channel.dataReceived(b"4567")
        served.clock.advance(1000)
        self.assertFalse(served.transport.disconnecting)
        waiting.callback(DONE)
        served.clock.advance(61)
        self.assertTrue(served.transport.disconnecting)

    def test_timeout_afterwards(self) -> None:
        """The next request on the connection has the site's timeout again."""
        waiting: Deferred[Any] = Deferred()
        served = self.serve(waiting)
        served.send(b"PUT", b"/x/f", b"0123", Content_Length=b"8")
        served.channel.dataReceived(b"4567")
        self.assertEqual(served.transport.states, ["pause", "resume"])
        waiting.callback(DONE)
        self.assertEqual(served.answer()[0], 201)
        served.clock.advance(59)
        self.assertFalse(served.transport.disconnecting)
        served.clock.advance(2)
        self.assertTrue(served.transport.disconnecting)

    def test_own_fields(self) -> None:
        """A subclass says more of the file."""

        class Owned(Uploads):
            """Files have owners."""

            def open_upload(self, request: IRequest) -> GridIn:
                """With one."""
                stream = super().open_upload(request)
                stream.metadata = {"owner": "me"}
                return stream

        runner = FakeRunner(KNOWN)
        served = Served(Owned(bucket(runner)), StreamingRequest)
        served.send(b"PUT", b"/x/f", b"a", Content_Length=b"1")
        self.assertEqual(served.answer()[0], 201)
        self.assertEqual(runner.statements(-1)[0]["metadata"], {"owner": "me"})
