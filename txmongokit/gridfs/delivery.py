"""
Deliveries: files pushed to Twisted's consumers.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

__all__ = ["Delivery"]

ResultT = TypeVar("ResultT")


class _Source(Protocol):
    """What a delivery reads."""

    def readchunk(self) -> Deferred[bytes]: ...

    def seek(self, pos: int, whence: int = 0) -> Deferred[int]: ...


@implementer(IPushProducer)
class Delivery:
    """
    A file, or a part of it, on its way to a consumer.  While the consumer has
    it pause, one chunk is held and a batch of them asked for, no more.

    @param source: an opened L{GridOut}; it is read from where it stands.
    @param consumer: something with C{write}.
    @param size: how many bytes at the most; all of them if it is negative.
    @ivar delivered: how many bytes the consumer has got.
    """

    def __init__(self, source: _Source, consumer: IConsumer, size: int = -1) -> None:
        self._source = source
        self._consumer: Any = consumer
        self._left = size
        self._paused = False
        self._stopped = False
        self._waiting: Deferred[Any] | None = None
        self._resumed: Deferred[None] | None = None
        self.delivered = 0

    def registered(self) -> Deferred[int]:
        """
        Register with the consumer, and deliver; the consumer is not told to
        finish.

        @return: see L{start}.
        """
        self._consumer.registerProducer(self, True)
        return self.start().addBoth(self._unregister)

    def _unregister(self, result: Any) -> Any:
        if not self._stopped:
            self._consumer.unregisterProducer()
        return result

    def start(self) -> Deferred[int]:
        """
        Deliver, to a consumer that knows of its producer.

        @return: fires with the number of bytes at the end; fails with
            L{CancelledError} where the consumer wants no more.  Cancelling
            it stops the delivery.
        """
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> int:
        while self._left:
            data = await self._wait(self._source.readchunk())
            if not data:
                break
            if 0 <= self._left < len(data):
                await self._source.seek(self._left - len(data), 1)
                data = data[: self._left]
            while self._paused:
                self._resumed = Deferred()
                await self._wait(self._resumed)
            if self._left > 0:
                self._left -= len(data)
            self.delivered += len(data)
            self._consumer.write(data)
            self._check()
        return self.delivered

    async def _wait(self, result: Deferred[ResultT]) -> ResultT:
        self._waiting = result
        try:
            value = await result
        finally:
            self._waiting = None
        self._check()
        return value

    def _check(self) -> None:
        if self._stopped:
            raise CancelledError("the consumer wants no more")

    def pauseProducing(self) -> None:
        """
        Write no more for now.
        """
        self._paused = True

    def resumeProducing(self) -> None:
        """
        Write again.
        """
        self._paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """
        Write no more, for good.
        """
        self._stopped = True
        self._resumed = None
        if self._waiting is not None:
            self._waiting.cancel()
