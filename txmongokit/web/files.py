"""
Files served.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from bson.errors import InvalidId
from bson.objectid import ObjectId
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from txmongokit.gridfs import Delivery, GridFSBucket, GridOut, NoFile
from txmongokit.web.ranges import (
    RangeNotSatisfiable,
    byte_ranges,
    http_date,
    is_another,
    is_current,
    same_file,
)

__all__ = ["Files", "file_name", "is_passive"]

_log = Logger()
_OCTETS = "application/octet-stream"
_PASSIVE = frozenset(
    {
        "image/avif",
        "image/bmp",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/plain",
    }
)
_LONGEST_NAME = 255
_OF_FILES = (
    b"accept-ranges",
    b"content-disposition",
    b"content-length",
    b"content-range",
    b"etag",
    b"last-modified",
)


def file_name(request: IRequest) -> str | None:
    """
    The file's name in a request's path: all of it that no resource has taken.

    @return: C{None} if it is empty, or no UTF-8.
    """
    try:
        return b"/".join(request.postpath).decode("utf-8") or None
    except UnicodeDecodeError:
        return None


def is_passive(content_type: str) -> bool:
    """
    Whether a browser can show it as a page of this site without harm: plain
    text, pixels, sound and video.  Not HTML, SVG, XML and PDF, which may have
    scripts.

    @param content_type: as in the header of that name.
    """
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _PASSIVE or kind.startswith(("audio/", "video/"))


class Files(Resource):
    """
    The files of a bucket, by what follows in the path: the newest of that
    name, or the one with that id.  C{GET} and C{HEAD}, with ranges and
    conditions.

    A file whose client goes away is read no more.  One that turns out to be
    corrupt ends the connection before its last byte.

    Who uploads a file says of what type it is.  So that no script in one runs
    with the rights of this site, browsers are told not to guess types, and to
    save files to disk whose type C{inline} does not allow.

    @param bucket: the bucket.
    @param by_id: whether the path names C{ObjectId}s, instead of file names.
    @param inline: for which content types a file may be shown in the browser;
        by default for those that have no scripts.  Allow more only where you
        trust whoever uploads, or serve files from a domain of their own.
    """

    isLeaf = True

    def __init__(
        self,
        bucket: GridFSBucket,
        *,
        by_id: bool = False,
        inline: Callable[[str], bool] = is_passive,
    ) -> None:
        super().__init__()
        self._bucket = bucket
        self._by_id = by_id
        self._inline = inline

    def render_GET(self, request: Any) -> int:
        """
        Serve a file; also for C{HEAD}.
        """
        work = Deferred.fromCoroutine(self._serve(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(self._failed, request)
        return NOT_DONE_YET

    render_HEAD = render_GET

    def _open(self, request: Any) -> Deferred[GridOut]:
        name = file_name(request)
        if name is None:
            raise NoFile("the path names no file")
        if not self._by_id:
            return self._bucket.open_download_stream_by_name(name)
        try:
            return self._bucket.open_download_stream(ObjectId(name))
        except InvalidId:
            raise NoFile("the path has no id of a file") from None

    async def _serve(self, request: Any) -> None:
        try:
            stream = await self._open(request)
        except NoFile:
            _answer(request, http.NOT_FOUND, b"There is no such file.\n")
            return
        async with stream:
            await _send(request, stream, self._inline)
        request.finish()

    def _failed(self, failure: Failure, request: Any) -> None:
        gone = failure.check(CancelledError) is not None
        if not gone:
            _log.failure("A file could not be served", failure)
        if gone or request.startedWriting:
            # What has been promised cannot be kept; an end of the
            # connection says so.
            if request.channel is not None:
                request.channel.loseConnection()
        else:
            for header in _OF_FILES:
                request.responseHeaders.removeHeader(header)
            _answer(request, http.INTERNAL_SERVER_ERROR, b"The file could not be read.\n")


def _answer(request: Any, code: int, text: bytes) -> None:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    request.setHeader(b"content-length", b"%d" % len(text))
    if request.method != b"HEAD":
        request.write(text)
    request.finish()


def _tag(stream: GridOut) -> bytes:
    what = repr((stream._id, stream.length, stream.upload_date, stream.md5))
    return b'"%s"' % hashlib.sha256(what.encode()).hexdigest()[:32].encode()


def _content_type(stream: GridOut) -> bytes:
    metadata = stream.metadata
    declared = stream.content_type
    if declared is None and isinstance(metadata, Mapping):
        declared = metadata.get("contentType")
    if not isinstance(declared, str):
        guessed, packed = mimetypes.guess_type(str(stream.filename or ""))
        declared = guessed if guessed and not packed else _OCTETS
    try:
        encoded = declared.encode("ascii")
    except UnicodeEncodeError:
        return _OCTETS.encode()
    # It comes from whoever uploaded: no lines of their own in our headers.
    return encoded if encoded.isascii() and encoded.decode().isprintable() else _OCTETS.encode()


def _disposition(stream: GridOut, inline: bool) -> bytes:
    """RFC 6266's header, whatever is in the name."""
    kind = b"inline" if inline else b"attachment"
    name = re.split(r"[/\\]", str(stream.filename or ""))[-1]
    if not name or len(name) > _LONGEST_NAME:
        return kind
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", name).encode()
    # A lone surrogate cannot be encoded; nothing else is lost.
    exact = quote(name, safe="", errors="replace").encode()
    return b"%s; filename=\"%s\"; filename*=UTF-8''%s" % (kind, plain, exact)


async def _send(request: Any, stream: GridOut, inline: Callable[[str], bool]) -> None:
    """Headers, and the bytes that are asked for."""
    length = int(stream.length)
    tag = _tag(stream)
    changed = None if stream.upload_date is None else http_date(stream.upload_date)
    content_type = _content_type(stream)
    request.setHeader(b"accept-ranges", b"bytes")
    request.setHeader(b"etag", tag)
    if changed is not None:
        request.setHeader(b"last-modified", changed)
    meant = (request.getHeader(b"if-match"), request.getHeader(b"if-unmodified-since"))
    if is_another(tag, changed, *meant):
        request.setResponseCode(http.PRECONDITION_FAILED)
        request.setHeader(b"content-length", b"0")
        return
    known = (request.getHeader(b"if-none-match"), request.getHeader(b"if-modified-since"))
    if is_current(tag, changed, *known):
        request.setResponseCode(http.NOT_MODIFIED)
        return
    request.setHeader(b"content-type", content_type)
    # What users have uploaded is what it says it is, and not a script.
    request.setHeader(b"x-content-type-options", b"nosniff")
    shown = inline(content_type.decode())
    request.setHeader(b"content-disposition", _disposition(stream, shown))
    ranges = None
    wanted = request.getHeader(b"range")
    if request.method != b"GET" or not same_file(tag, changed, request.getHeader(b"if-range")):
        wanted = None
    if wanted is not None:
        try:
            ranges = byte_ranges(wanted, length)
        except RangeNotSatisfiable:
            request.setResponseCode(http.REQUESTED_RANGE_NOT_SATISFIABLE)
            request.setHeader(b"content-range", b"bytes */%d" % length)
            request.setHeader(b"content-length", b"0")
            return
    if ranges is None:
        request.setHeader(b"content-length", b"%d" % length)
        if request.method != b"HEAD":
            await _deliver(request, stream, [(b"", 0, length)])
    elif len(ranges) == 1:
        (start, stop) = ranges[0]
        request.setResponseCode(http.PARTIAL_CONTENT)
        request.setHeader(b"content-range", _content_range(start, stop, length))
        request.setHeader(b"content-length", b"%d" % (stop - start))
        await _deliver(request, stream, [(b"", start, stop)])
    else:
        await _send_parts(request, stream, ranges, content_type)


def _content_range(start: int, stop: int, length: int) -> bytes:
    return b"bytes %d-%d/%d" % (start, stop - 1, length)


async def _send_parts(
    request: Any, stream: GridOut, ranges: list[tuple[int, int]], content_type: bytes
) -> None:
    """Several ranges, as multipart/byteranges."""
    length = int(stream.length)
    boundary = ObjectId().binary.hex().encode()
    parts = [
        (
            b"\r\n--%s\r\nContent-Type: %s\r\nContent-Range: %s\r\n\r\n"
            % (boundary, content_type, _content_range(start, stop, length)),
            start,
            stop,
        )
        for start, stop in ranges
    ]
    end = b"\r\n--%s--\r\n" % boundary
    size = sum(len(head) + stop - start for head, start, stop in parts) + len(end)
    request.setResponseCode(http.PARTIAL_CONTENT)
    request.setHeader(b"content-type", b"multipart/byteranges; boundary=" + boundary)
    request.setHeader(b"content-length", b"%d" % size)
    await _deliver(request, stream, parts)
    request.write(end)


async def _deliver(request: Any, stream: GridOut, parts: list[tuple[bytes, int, int]]) -> None:
    for head, start, stop in parts:
        if head:
            request.write(head)
        await stream.seek(start)
        delivery = Delivery(stream, request, stop - start)
        request.registerProducer(delivery, True)
        try:
            await delivery.start()
        finally:
            # A request whose client is gone has nobody to tell.
            if request.channel is not None:
                request.unregisterProducer()
