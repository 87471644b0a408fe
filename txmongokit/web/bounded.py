"""
Requests whose bodies stay in memory, and are no longer than they may be.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Site

from txmongokit.web.uploads import StreamingRequest

__all__ = ["BoundedRequest", "BoundedSite"]

# So many times the longest body is read behind a refusal, so that clients which send first and
# read then learn why.
_PATIENCE = 16


class BoundedSite(Site):
    """
    A site of L{BoundedRequest}s, which keeps no access log of paths.

    @param longest: bytes that a request's body may have.
    """

    noisy = False

    def __init__(self, resource: IResource, longest: int, **options: Any) -> None:
        super().__init__(resource, requestFactory=BoundedRequest, **options)
        self.longest = longest

    def log(self, request: Any) -> None:
        """
        Nothing: paths have ids in them.
        """


class BoundedRequest(StreamingRequest):
    """
    A request to a L{BoundedSite}.  A body that is too long is answered with
    413, before it has come where its length is declared.

    @ivar too_long: whether it was; for resources, where the connection is
        HTTP/2.
    """

    too_long = False

    def gotLength(self, length: int | None) -> None:
        """
        The headers are there.
        """
        channel: Any = self.channel
        content = _Body(self, channel.site.longest)
        self.content = content
        if length is not None:
            content.expect(length)

    def refuse_body(self, longest: int) -> None:
        """
        Take no more of it.
        """
        self.too_long = True
        # HTTP/2's streams have no such attribute; there the resource answers.
        if hasattr(self.channel, "_version"):
            message = f"the body may have {longest} bytes"
            self.refuse(http.REQUEST_ENTITY_TOO_LARGE, {"error": message})


class _Body(BytesIO):
    """
    What has come of a body.
    """

    def __init__(self, request: BoundedRequest, longest: int) -> None:
        super().__init__()
        self._request = request
        self._longest = longest
        self._length = 0

    def expect(self, length: int) -> None:
        """So much will come."""
        if length > self._longest:
            self._request.refuse_body(self._longest)

    def write(self, data: Any) -> int:
        """More of it."""
        self._length += len(data)
        if self._length > self._longest and not self._request.too_long:
            self.truncate(0)
            self._request.refuse_body(self._longest)
        if not self._request.too_long:
            return super().write(data)
        if self._length > self._longest * _PATIENCE:
            self._request.loseConnection()
        return len(data)
