"""
Stand-ins for what log-ins need besides a server: threads without waiting, an
HTTP agent that nothing leaves, and a Kerberos library.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

__all__ = ["FakeAgent", "FakeKerberos", "FakeResponse", "ThreadClock"]


class ThreadClock(Clock):
    """
    A clock whose threads do their work at once, or when told to.

    @ivar held: the work that waits, where it is to wait; C{None} otherwise.
    """

    held: list[Callable[[], None]] | None = None

    def getThreadPool(self) -> ThreadClock:
        """Itself."""
        return self

    def callInThreadWithCallback(
        self, on_result: Callable[..., Any], call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Do it, or keep it."""

        def work() -> None:
            try:
                result, success = call(*args, **kwargs), True
            except Exception:
                result, success = Failure(), False
            on_result(success, result)

        if self.held is None:
            work()
        else:
            self.held.append(work)

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None:
        """There are no threads."""
        call(*args)

    def release(self) -> None:
        """Do what waits."""
        held, self.held = self.held or [], None
        for work in held:
            work()


class FakeResponse:
    """
    An answer over HTTP.

    @param ends: how it ends.
    """

    def __init__(self, body: bytes, code: int = 200, ends: Exception | None = None) -> None:
        self.code = code
        self.body = body
        self.ends = ResponseDone() if ends is None else ends

    def deliverBody(self, protocol: Any) -> None:
        """All of it at once."""
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(self.body)
        protocol.connectionLost(Failure(self.ends))


class FakeAgent:
    """
    An C{IAgent} with answers ready.

    @ivar requests: what was asked: method, address, headers and body.
    """

    def __init__(self, *answers: FakeResponse | Deferred[Any] | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[bytes, bytes, dict[bytes, list[bytes]], bytes]] = []

    def request(self, method: bytes, uri: bytes, headers: Any, bodyProducer: Any) -> Any:
        """Answer."""
        body = BytesIO()
        if bodyProducer is not None:
            bodyProducer.startProducing(body)
            assert bodyProducer.length == len(body.getvalue())
        self.requests.append((method, uri, dict(headers.getAllRawHeaders()), body.getvalue()))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Deferred) else succeed(answer)


class FakeKerberos:
    """
    The C{kerberos} library, as far as it is used.

    @ivar calls: what was called, with its arguments.
    @ivar results: what functions return, by their names, if not success.
    """

    AUTH_GSS_COMPLETE = 1
    AUTH_GSS_CONTINUE = 0
    GSS_C_MUTUAL_FLAG = 2

    class KrbError(Exception):
        """What it raises."""

    def __init__(self, **results: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.results = results
        self.steps = 0
        self.__name__ = "kerberos"

    def _called(self, name: str, otherwise: Any, *args: Any) -> Any:
        self.calls.append((name, *args))
        result = self.results.get(name, otherwise)
        if isinstance(result, Exception):
            raise result
        return result

    def authGSSClientInit(self, service: str, **options: Any) -> tuple[int, Any]:
        """Begin."""
        return self._called("init", 1, service, options), SimpleNamespace()

    def authGSSClientStep(self, context: Any, challenge: str) -> int:
        """The first step goes on, the second is the last."""
        self.steps += 1
        return int(self._called("step", min(self.steps - 1, 1), challenge))

    def authGSSClientResponse(self, context: Any) -> str:
        """An answer."""
        return str(self._called("response", f"answer{self.steps}"))

    def authGSSClientUnwrap(self, context: Any, challenge: str) -> int:
        """Read the last challenge."""
        return int(self._called("unwrap", 1, challenge))

    def authGSSClientWrap(self, context: Any, offer: str, username: str) -> int:
        """Write the last answer."""
        return int(self._called("wrap", 1, offer, username))

    def authGSSClientClean(self, context: Any) -> None:
        """The end."""
        self._called("clean", None)
