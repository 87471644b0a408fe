"""
What tests of web sessions share: a store on a real server, sites, and clients
with a jar of cookies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server
from twisted.web.client import Agent, readBody
from twisted.web.http_headers import Headers
from twisted.web.server import Site

from tests.deployments import SharedTestCase, shared_set
from txmongokit.web.store import MongoSessionStore

__all__ = ["HOSTILE_COOKIES", "Answer", "Browser", "SessionTestCase"]

HOSTILE_COOKIES: list[bytes] = [
    b"A" * 43,
    b"",
    b"x",
    b"A" * 12_000,
    b"A" * 42 + b"\x01",
    b"A" * 20 + b"%00" + b"A" * 20,
    b'{"$ne": null}',
    b"[$gt]=",
    b"$where: sleep(1000)",
    b"../../../../../etc/passwd",
    b"\xff\xfe" * 20,
    b"A" * 42 + b"\xc3\xa9",
    b"' OR 1=1 --",
    b'"' + b"A" * 43 + b'"',
]
"""
What may stand in a cookie instead of an id; each is nobody's.  (Twisted itself
refuses requests with NULs, before any resource sees them.)
"""


@dataclass
class Answer:
    """
    A response.
    """

    code: int
    headers: Headers
    body: bytes

    @property
    def cookies(self) -> dict[bytes, bytes]:
        """
        What it sets: the whole lines by the cookies' names.
        """
        lines = self.headers.getRawHeaders(b"set-cookie", [])
        return {line.partition(b"=")[0]: line for line in lines}


@dataclass
class Browser:
    """
    Sends every cookie that it has, whatever its flags.

    @ivar jar: the cookies.
    """

    agent: Any
    url: str
    jar: dict[bytes, bytes] = field(default_factory=dict)

    async def send(
        self, path: str = "/", method: bytes = b"GET", headers: dict[bytes, bytes] | None = None
    ) -> Answer:
        """
        A request.
        """
        sent = Headers({name: [value] for name, value in (headers or {}).items()})
        if self.jar:
            pairs = [b"%b=%b" % pair for pair in self.jar.items()]
            sent.setRawHeaders(b"cookie", [b"; ".join(pairs)])
        response = await self.agent.request(method, (self.url + path).encode("ascii"), sent)
        answer = Answer(response.code, response.headers, await readBody(response))
        for name, line in answer.cookies.items():
            value = line.partition(b"=")[2].partition(b";")[0]
            self.jar[name] = value
            if not value:
                del self.jar[name]
        return answer


class SessionTestCase(SharedTestCase):
    """
    A store on a shared replica set, in a database of the test's own.
    """

    def setUp(self) -> None:
        """Make a client and a store."""
        super().setUp()
        # Cases have tests of the same names.
        self.database = "_".join(self.id().rsplit(".", 2)[1:])
        self.deployment = shared_set()
        self.pool = self.client(self.deployment.uri)
        self.store = self.another_store()
        self.addCleanup(self.quiet)

    def another_store(self, pool: Any = None, **options: Any) -> MongoSessionStore:
        """A store of the same sessions, as another process has one."""
        options.setdefault("timeout", 100)
        return MongoSessionStore((pool or self.pool)[self.database], **options)

    def serve(self, site: Site) -> Browser:
        """Let a site listen; a client of it."""
        running: Any = reactor
        port = running.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return Browser(Agent(reactor), f"http://127.0.0.1:{port.getHost().port}")

    def same_site(self, browser: Browser) -> Browser:
        """Another client of the same site, without cookies."""
        return Browser(browser.agent, browser.url)

    def quiet(self) -> Deferred[None]:
        """Wait for the ends of connections."""

        async def ended() -> None:
            running: Any = reactor
            while any(isinstance(reader, Server) for reader in running.getReaders()):
                await deferLater(reactor, 0.01)

        return Deferred.fromCoroutine(ended())
