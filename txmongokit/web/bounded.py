"""
Requests whose bodies stay in memory: no longer, and no more of them, than
they may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Site

from txmongokit.web.uploads import StreamingRequest

__all__ = ["BoundedRequest", "BoundedSite", "Refusal"]

# So many times the longest body is read behind a refusal, so that clients which send first and
# read then learn why.
_PATIENCE = 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    Why a request is not answered with what it asks for.

    @ivar reason: for people.
    """

    status: int
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


class BoundedSite(Site):
    """
    A site of L{BoundedRequest}s, which keeps no access log of paths.

    @param longest: bytes that a request's body may have.
    @param most: how many requests with bodies may be there at once.
    @param admit: called with a request that has a body, of which only the
        headers have come; says why it is refused, or C{None}.
    @param refused: called with each request that is answered with a refusal
        before its body has come, and the refusal.
    """

    noisy = False

    def __init__(
        self,
        resource: IResource,
        longest: int,
        *,
        most: int = 100,
        admit: Callable[[IRequest], Refusal | None] | None = None,
        refused: Callable[[IRequest, Refusal], object] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(resource, requestFactory=BoundedRequest, **options)
        self.longest = longest
        self._most = most
        self._admit = admit
        self._refused = refused
        self._bodies = 0

    def log(self, request: Any) -> None:
        """
        Nothing: paths have ids in them.
        """

    def refusal(self, request: BoundedRequest) -> Refusal | None:
        """
        Whether a body may come; if so, it counts until the request has ended.
        """
        refusal = None if self._admit is None else self._admit(request)
        if refusal is not None:
            return refusal
        if self._bodies >= self._most:
            return Refusal(503, "too many requests are under way", {"retry-after": "1"})
        self._bodies += 1
        request.notifyFinish().addBoth(self._ended)
        return None

    def _ended(self, _: object) -> None:
        self._bodies -= 1

    def refused(self, request: BoundedRequest, refusal: Refusal) -> None:
        """
        A request has been answered with a refusal.
        """
        if self._refused is not None:
            self._refused(request, refusal)


class BoundedRequest(StreamingRequest):
    """
    A request to a L{BoundedSite}.  A body that is not wanted is refused before
    it has come, one that is too long with 413, as soon as that is known.

    @ivar refused: why it was; for resources, where the connection is HTTP/2.
    """

    refused: Refusal | None = None

    def gotLength(self, length: int | None) -> None:
        """
        The headers are there.
        """
        channel: Any = self.channel
        site: BoundedSite = channel.site
        self.content = _Body(self, site.longest)
        if length == 0:
            return
        refusal = site.refusal(self)
        if refusal is None and length is not None and length > site.longest:
            refusal = _too_long(site.longest)
        if refusal is not None:
            self.refuse_body(refusal)

    def refuse_body(self, refusal: Refusal) -> None:
        """
        Take no more of it.
        """
        self.refused = refusal
        channel: Any = self.channel
        # HTTP/2's streams have no such attribute; there the resource answers.
        if hasattr(channel, "_version"):
            for name, value in refusal.headers.items():
                self.setHeader(name.encode(), value.encode())
            self.refuse(refusal.status, {"error": refusal.reason})
            channel.site.refused(self, refusal)


def _too_long(longest: int) -> Refusal:
    return Refusal(http.REQUEST_ENTITY_TOO_LARGE, f"the body may have {longest} bytes")


class _Body(BytesIO):
    """
    What has come of a body.
    """

    def __init__(self, request: BoundedRequest, longest: int) -> None:
        super().__init__()
        self._request = request
        self._longest = longest
        self._length = 0

    def tell(self) -> int:
        # There is nothing that twisted.web should parse as a form.
        return 0

    def write(self, data: Any) -> int:
        """More of it."""
        self._length += len(data)
        if self._length > self._longest and self._request.refused is None:
            self.seek(0)
            self.truncate()
            self._request.refuse_body(_too_long(self._longest))
        if self._request.refused is None:
            return super().write(data)
        if self._length > self._longest * _PATIENCE:
            self._request.loseConnection()
        return len(data)
