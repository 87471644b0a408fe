"""
Files as the bodies of requests.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from txmongokit.gridfs import Delivery, GridOut

__all__ = ["FileBody"]


@implementer(IBodyProducer)
class FileBody:
    """
    A file to send with L{twisted.web.client.Agent}, or with treq as
    C{data}.

    @param stream: the file, which has been opened; it is sent from where it
        stands, and is for the caller to close.
    @ivar length: how many bytes that is.
    """

    def __init__(self, stream: GridOut) -> None:
        self._stream = stream
        self._delivery: Delivery | None = None
        self._size = max(int(stream.length) - stream.tell(), 0)
        self.length = self._size

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """
        Send.

        @return: fires with C{None} at the end, fails with what reading fails
            with, and never fires after L{stopProducing}.
        """
        self._delivery = Delivery(self._stream, consumer, self._size)
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())

        def finished(result: Any) -> None:
            stopped = isinstance(result, Failure) and result.check(CancelledError)
            if not stopped:
                done.callback(result if isinstance(result, Failure) else None)

        self._delivery.start().addBoth(finished)
        return done

    def pauseProducing(self) -> None:
        """
        Send no more for now.
        """
        if self._delivery is not None:
            self._delivery.pauseProducing()

    def resumeProducing(self) -> None:
        """
        Send again.
        """
        if self._delivery is not None:
            self._delivery.resumeProducing()

    def stopProducing(self) -> None:
        """
        Send no more, for good.
        """
        if self._delivery is not None:
            self._delivery.stopProducing()
