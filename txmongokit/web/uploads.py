"""
Files taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
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

__all__ = ["LONGEST_NAME", "MAX_LENGTH", "StreamingRequest", "Uploads"]

MAX_LENGTH = 1 << 30
"""
Bytes that an upload may have, where nothing else was said.
"""

LONGEST_NAME = 1024
"""
Bytes of UTF-8 that the name of a file that is uploaded may have.
"""

_log = Logger()
# What is read behind a refusal, so that clients which send first and read then learn why.
_DISCARDED = 16 << 20


class _Refused(Exception):
    """
    An upload is not wanted.

    @ivar code: the status to answer with.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _anyone(request: IRequest) -> bool:
    return True


class Uploads(Resource):
    """
    Takes files into a bucket: C{PUT} or C{POST}, with the content as the
    body, to a path that goes on with the file's name.  The answer is 201 and
    a JSON document with the file's C{_id} as a string.

    With L{StreamingRequest} as the site's request factory, a body goes to the
    database as it comes, none of it stays in memory, and the client is slowed
    down to what that takes.  What is not wanted is answered before the body
    is read: 403 where C{authorize} says so, 413 for one that is too long, 414
    for a name of more than L{LONGEST_NAME} bytes.  A client that stalls is cut
    off by the site's timeout.

    Without, and below resources that are known only later (a guard that asks
    for credentials), L{twisted.web} first puts the body into a temporary file,
    whatever its length; where it is a C{POST} of a form, into memory.

    Either way an upload that breaks off or is refused leaves nothing.

    @param bucket: the bucket.
    @param max_length: bytes that a file may have; C{None} for any number.
    @param authorize: called with a request whose headers are there; returns
        whether it may upload, or an awaitable of that.  By default anyone
        may who gets as far as this resource.
    """

    isLeaf = True

    def __init__(
        self,
        bucket: GridFSBucket,
        *,
        max_length: int | None = MAX_LENGTH,
        authorize: Callable[[IRequest], bool | Awaitable[bool]] = _anyone,
    ) -> None:
        super().__init__()
        self._bucket = bucket
        self._max_length = max_length
        self._authorize = authorize

    def open_upload(self, request: IRequest) -> GridIn:
        """
        Begin the file that a request has the content of.  Override it to give
        files another name or C{metadata}.
        """
        name = file_name(request)
        if name is None:
            raise _Refused(http.BAD_REQUEST, "the path names no file")
        stream = self._bucket.open_upload_stream(name)
        declared = request.getHeader(b"content-type")
        if declared is not None:
            stream.content_type = declared.decode("latin-1")
        return stream

    def too_long(self, length: int) -> bool:
        """
        Whether a body is longer than it may be.
        """
        return self._max_length is not None and length > self._max_length

    def allowed(self, request: IRequest, length: int | None) -> Deferred[None]:
        """
        Whether a request may upload.

        @param length: of its body, if that is known.
        @return: fires with C{None} if it may; fails with the answer if not.
        """
        return Deferred.fromCoroutine(self._check(request, length))

    async def _check(self, request: IRequest, length: int | None) -> None:
        name = file_name(request)
        if name is None:
            raise _Refused(http.BAD_REQUEST, "the path names no file")
        if len(name.encode()) > LONGEST_NAME:
            raise _Refused(http.REQUEST_URI_TOO_LONG, "the name of the file is too long")
        if length is not None and self.too_long(length):
            raise _too_long()
        answer = self._authorize(request)
        if isinstance(answer, Awaitable):
            answer = await answer
        if not answer:
            raise _Refused(http.FORBIDDEN, "this upload is not allowed")

    def render_PUT(self, request: Any) -> int:
        """
        Store a file; also for C{POST}.
        """
        work = Deferred.fromCoroutine(self._store(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(_failed, request)
        return NOT_DONE_YET

    render_POST = render_PUT

    async def _store(self, request: Any) -> None:
        content = request.content
        if isinstance(content, _Content):
            stream = await content.finished()
        else:
            length = content.seek(0, os.SEEK_END)
            content.seek(0)
            await self.allowed(request, length)
            stream = self.open_upload(request)
            async with stream:
                await stream.write(content)
        _answer(request, http.CREATED, {"_id": str(stream._id), "length": stream.length})
        request.finish()


def _too_long() -> _Refused:
    return _Refused(http.REQUEST_ENTITY_TOO_LARGE, "the file is too long")


def _failed(failure: Failure, request: Any) -> None:
    if failure.check(CancelledError):
        return  # The client is gone.
    _answer(request, *_explained(failure))
    request.finish()


def _explained(failure: Failure) -> tuple[int, dict[str, Any]]:
    """The answer for what went wrong."""
    if isinstance(failure.value, _Refused):
        return failure.value.code, {"error": str(failure.value)}
    _log.failure("A file could not be stored", failure)
    return http.INTERNAL_SERVER_ERROR, {"error": "the file could not be stored"}


def _answer(request: Any, code: int, document: dict[str, Any]) -> None:
    text = json.dumps(document).encode()
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(text))
    request.write(text)


class _Content:
    """
    The body of a request, on its way to the database: what L{twisted.web}
    takes for the file that it writes it to.

    @param request: whose headers are there.
    @param uploads: where it is to go.
    """

    def __init__(self, request: StreamingRequest, uploads: Uploads) -> None:
        self._request = request
        self._uploads = uploads
        self._channel: Any = request.channel
        self._timeout = self._channel.timeOut
        self._length = 0  # Of what has come, or been discarded.
        self._early: list[bytes] = []  # What has come before it was decided about.
        self._stream: GridIn | None = None
        self._deciding: Deferred[None] | None = None
        self._waiting: Deferred[None] | None = None
        self._refused: Failure | None = None
        self._paused = False
        self._whole = False
        self._closed = False

    def begin(self, length: int | None) -> None:
        """
        Decide whether it is wanted.

        @param length: if that is known.
        """
        self._deciding = self._uploads.allowed(self._request, length)
        self._deciding.addCallback(self._open).addErrback(self._refuse)
        if self._stream is None and self._refused is None:
            self.pauseProducing()

    def _open(self, _: None) -> None:
        if self._closed:
            return
        self._stream = self._uploads.open_upload(self._request)
        self._stream.registerProducer(self, True)  # type: ignore[arg-type]  # all it calls is here
        early, self._early = self._early, []
        self.resumeProducing()
        for data in early:
            self._write(data)
        self._decided()

    def _refuse(self, failure: Failure) -> None:
        """Answer at once, and take no more of it."""
        if self._closed or self._refused is not None:
            return
        self._refused = failure
        self._early.clear()
        self._length = 0
        self._leave()
        self.resumeProducing()
        if not self._whole:
            self._request.refuse(*_explained(failure))
        self._decided()

    def _decided(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _leave(self) -> None:
        """Leave nothing of it behind."""
        if self._stream is not None:
            self._stream.unregisterProducer()
            self._stream.abort().addErrback(
                lambda failure: _log.failure("What an upload has left stays behind", failure)
            )

    def write(self, data: bytes) -> None:
        """More of it."""
        self._length += len(data)
        if self._refused is not None:
            if self._length > _DISCARDED:
                self._channel.loseConnection()
        elif self._uploads.too_long(self._length):
            self._refuse(Failure(_too_long()))
        elif self._stream is None:
            self._early.append(data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._stream is not None and self._refused is None:
            self._stream.write(data)

    def tell(self) -> int:
        # There is nothing that could be parsed as a form.
        return 0

    def seek(self, position: int, whence: int = 0) -> None:
        """Where it is does not matter."""

    def read(self, size: int = -1) -> bytes:
        return b""

    def close(self) -> None:
        """The request is over, one way or the other."""
        self._closed = True
        if self._deciding is not None:
            self._deciding.cancel()
        if not self._whole and self._refused is None:
            self._leave()

    async def finished(self) -> GridIn:
        """
        All of it has come.

        @return: the file.
        @raise _Refused: it is not wanted.
        """
        self._whole = True
        if self._paused:
            # The site's timeout is for the next request on this connection.
            self._channel._savedTimeOut = self._timeout
        if self._stream is None and self._refused is None:
            self._waiting = Deferred()
            await self._waiting
        if self._refused is not None:
            self._refused.raiseException()
        stream = self._stream
        assert stream is not None
        stream.unregisterProducer()
        self.resumeProducing()
        await stream.close()
        return stream

    def pauseProducing(self) -> None:
        """The database is slower than the client, who is not to pay for it."""
        if not self._paused:
            self._paused = True
            self._channel.setTimeout(None)
            self._channel.transport.pauseProducing()

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            if not self._whole:
                self._channel.setTimeout(self._timeout)
            self._channel.transport.resumeProducing()

    def stopProducing(self) -> None:
        # The upload has failed; the stream says why when it is closed.
        if self._stream is not None:
            self._stream.close().addErrback(self._refuse)


class StreamingRequest(Request):
    """
    A request whose body goes to L{Uploads} as it comes::

        site = Site(root, requestFactory=StreamingRequest)

    The resource is looked up when the headers are there, and once more, as
    ever, when the body is.
    """

    _answered = False

    def gotLength(self, length: int | None) -> None:
        """
        The headers are there.
        """
        uploads = self._uploads()
        if uploads is None:
            super().gotLength(length)
        else:
            content = _Content(self, uploads)
            self.content = content
            content.begin(length)

    def _uploads(self) -> Uploads | None:
        # HTTP/2's streams have no such attributes, and go the usual way.
        method = getattr(self.channel, "_command", None)
        uri = getattr(self.channel, "_path", None)
        if method not in (b"PUT", b"POST") or uri is None:
            return None
        self.method, self.uri = method, uri
        self.path = uri.partition(b"?")[0]
        self.args = {}
        channel: Any = self.channel  # twisted.web does not declare what it has.
        self.site = channel.site
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            found = getChildForRequest(self.site.resource, self)
        except Exception:
            # The second look meets it again, where it is answered.
            _log.failure("No resource for an upload")
            return None
        return found if isinstance(found, Uploads) else None

    def refuse(self, code: int, document: dict[str, Any]) -> None:
        """
        Answer before the body has come; the connection is closed behind it.

        @param document: the answer's body, as JSON.
        """
        channel: Any = self.channel
        channel.persistent = False
        self.clientproto = channel._version
        self._answered = True
        # Nobody is to go on with it.
        self.requestHeaders.removeHeader(b"expect")
        self.setHeader(b"connection", b"close")
        _answer(self, code, document)

    def process(self) -> None:
        """
        The body is there.
        """
        if self._answered:
            self.finish()
        else:
            super().process()
