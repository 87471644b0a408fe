"""
Files taken.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request

from txmongokit.gridfs import GridFSBucket, GridIn
from txmongokit.web.files import file_name

__all__ = ["StreamingRequest", "Uploads"]

_log = Logger()


class Uploads(Resource):
    """
    Takes files into a bucket: C{PUT} or C{POST}, with the content as the
    body, to a path that goes on with the file's name.  The answer is 201 and
    a JSON document with the file's C{_id} as a string.

    With L{StreamingRequest} as the site's request factory, a body goes to the
    database as it comes, and the client is slowed down to what that takes.
    Without, and below resources that are known only later (a guard that asks
    for credentials), L{twisted.web} first puts it into a temporary file.
    Either way none of it stays in memory, and an upload that breaks off
    leaves nothing.

    @param bucket: the bucket.
    """

    isLeaf = True

    def __init__(self, bucket: GridFSBucket) -> None:
        super().__init__()
        self._bucket = bucket

    def open_upload(self, request: IRequest) -> GridIn | None:
        """
        Begin the file that a request has the content of.

        @return: C{None} where the request is not for one.
        """
        name = file_name(request)
        if name is None or request.method not in (b"PUT", b"POST"):
            return None
        stream = self._bucket.open_upload_stream(name)
        declared = request.getHeader(b"content-type")
        if declared is not None:
            stream.content_type = declared.decode("latin-1")
        return stream

    def render_PUT(self, request: Any) -> int:
        """
        Store a file; also for C{POST}.
        """
        work = Deferred.fromCoroutine(self._store(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(self._failed, request)
        return NOT_DONE_YET

    render_POST = render_PUT

    async def _store(self, request: Any) -> None:
        content = request.content
        if isinstance(content, _Content):
            stream = content.stream
            await content.finished()
        else:
            opened = self.open_upload(request)
            if opened is None:
                _answer(request, http.BAD_REQUEST, {"error": "the path names no file"})
                return
            stream = opened
            async with stream:
                await stream.write(content)
        _answer(request, http.CREATED, {"_id": str(stream._id), "length": stream.length})

    def _failed(self, failure: Failure, request: Any) -> None:
        if failure.check(CancelledError):
            return  # The client is gone.
        _log.failure("A file could not be stored", failure)
        _answer(request, http.INTERNAL_SERVER_ERROR, {"error": "the file could not be stored"})


def _answer(request: Any, code: int, document: dict[str, Any]) -> None:
    text = json.dumps(document).encode()
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(text))
    request.write(text)
    request.finish()


class _Content:
    """
    The body of a request, on its way to the database: what L{twisted.web}
    takes for the file that it writes it to.

    @param stream: what takes it.
    @param transport: what it comes from.
    """

    def __init__(self, stream: GridIn, transport: Any) -> None:
        self.stream = stream
        self._transport = transport
        self._finishing = False
        stream.registerProducer(self, True)  # type: ignore[arg-type]  # all that it calls is here

    def write(self, data: bytes) -> None:
        self.stream.write(data)

    def tell(self) -> int:
        # There is nothing that could be parsed as a form.
        return 0

    def seek(self, position: int, whence: int = 0) -> None:
        """Where it is does not matter."""

    def read(self, size: int = -1) -> bytes:
        return b""

    def close(self) -> None:
        """The request is over, one way or the other."""
        if not self.stream.closed and not self._finishing:
            self._release()
            self.stream.abort().addErrback(
                lambda failure: _log.failure("What an upload has left stays behind", failure)
            )

    def finished(self) -> Deferred[None]:
        """All of it has come."""
        self._finishing = True
        self._release()
        return self.stream.close()

    def _release(self) -> None:
        self.stream.unregisterProducer()
        self.resumeProducing()
        self._transport = None

    def pauseProducing(self) -> None:
        if self._transport is not None:
            self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        if self._transport is not None:
            self._transport.resumeProducing()

    def stopProducing(self) -> None:
        # The upload has failed. Read the rest, so that the client reads why.
        self.resumeProducing()


class StreamingRequest(Request):
    """
    A request whose body goes to L{Uploads} as it comes::

        site = Site(root, requestFactory=StreamingRequest)

    The resource is looked up when the headers are there, and once more, as
    ever, when the body is.
    """

    def gotLength(self, length: int | None) -> None:
        """
        The headers are there.
        """
        stream = self._open()
        if stream is None:
            super().gotLength(length)
        else:
            self.content = _Content(stream, self.channel.transport)

    def _open(self) -> GridIn | None:
        # HTTP/2's streams have no such attributes, and go the usual way.
        method = getattr(self.channel, "_command", None)
        uri = getattr(self.channel, "_path", None)
        if method not in (b"PUT", b"POST") or uri is None:
            return None
        self.method, self.uri = method, uri
        self.path = uri.partition(b"?")[0]
        self.args = {}
        self.site = getattr(self.channel, "site")  # noqa: B009  # twisted.web does not declare it
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            found = getChildForRequest(self.site.resource, self)
            return found.open_upload(self) if isinstance(found, Uploads) else None
        except Exception:
            # The second look meets it again, where it is answered.
            _log.failure("No resource for an upload")
            return None
