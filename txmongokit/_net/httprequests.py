"""
Requests for credentials over HTTP, by an agent as Twisted's.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from txmongokit._sansio.conversation import HTTPRequest, HTTPResponse, distrust

__all__ = ["Requester"]

# No answer with a token or keys in it is longer.
_LARGEST = 1 << 16


class Requester:
    """
    Sends requests.

    @param agent: an L{twisted.web.iweb.IAgent}; C{None} for Twisted's own.
    """

    def __init__(self, reactor: Any, agent: Any = None) -> None:
        self._reactor = reactor
        self._agent = agent

    def ask(self, request: HTTPRequest) -> Deferred[HTTPResponse]:
        """
        Send a request.  What is redirected is not followed.

        @return: fires with what came of it; fails with L{OperationFailure},
            which shows nothing of what was sent but the place, where there is
            no answer in time.  Cancelling closes the connection.
        """
        asking = Deferred.fromCoroutine(self._ask(request))
        return asking.addTimeout(request.seconds, self._reactor).addErrback(_explained, request)

    async def _ask(self, request: HTTPRequest) -> HTTPResponse:
        from twisted.web.http_headers import Headers

        headers = Headers({name: [value] for name, value in request.headers.items()})
        response = await self._chosen().request(
            request.method.encode("ascii"),
            request.url.encode("ascii"),
            headers,
            _Bytes(request.body) if request.body else None,
        )
        body = _Body()
        response.deliverBody(body)
        return HTTPResponse(response.code, await body.whole)

    def _chosen(self) -> Any:
        if self._agent is None:
            # Few clients ask anything, and importing this takes a while.
            from twisted.web.client import Agent

            self._agent = Agent(self._reactor)
        return self._agent


def _explained(failure: Failure, request: HTTPRequest) -> Any:
    error = failure.value
    if isinstance(error, CancelledError):
        failure.raiseException()
    reason = str(error) or type(error).__name__
    if failure.check(TimeoutError) is not None or "Timeout" in type(error).__name__:
        reason = f"no answer within {request.seconds:g} s"
    place = request.url.partition("?")[0]
    raise distrust(f"{place} was asked for credentials in vain: {reason}") from error


def _ends() -> tuple[type[Exception], ...]:
    """How an answer ends that is whole; without a length, with its connection."""
    from twisted.web.client import ResponseDone
    from twisted.web.http import PotentialDataLoss

    return ResponseDone, PotentialDataLoss


@implementer(IBodyProducer)
class _Bytes:
    """What is sent, in one piece."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """There is nothing more to come."""

    def resumeProducing(self) -> None:
        """There is nothing more to come."""

    def stopProducing(self) -> None:
        """There is nothing more to come."""


class _Body(Protocol):
    """
    Collects an answer, up to a limit.

    @ivar whole: fires with it.
    """

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._received = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > _LARGEST:
            self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(*_ends()) is None or len(self._received) > _LARGEST:
            self.whole.errback(distrust(f"its answer broke off or is over {_LARGEST} bytes"))
        else:
            self.whole.callback(bytes(self._received))

    def _stop(self) -> None:
        transport: Any = self.transport
        abort = getattr(transport, "abortConnection", None) or getattr(
            transport, "loseConnection", None
        )
        if abort is not None:
            abort()
