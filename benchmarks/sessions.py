"""
The same Klein application with Klein's own sessions in memory and with ours in
MongoDB: requests a second, and what one takes of the web server's CPU.

Each store has a process of its own; they take turns, and are asked by the same
clients through connections that stay open.  C{read} shows a counter of the
session, C{write} counts.  Memory is the floor: its sessions end with the
process, and no other process has them.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Protocol
from zope.interface import Attribute, Interface, implementer

from txmongokit.connection import ConnectionPool
from txmongokit.testing import standalone

__all__ = ["MEMORY", "OURS", "TASKS", "Figure", "SessionServer", "measure", "report"]

MEMORY, OURS = "klein's memory", "txmongokit"
TASKS = ("read", "write")
_ROOT = Path(__file__).resolve().parents[1]
_COOKIE = "Klein-INSECURE-Session"


class ICounter(Interface):
    """
    What the application wants of a session.
    """

    count = Attribute("How often it was asked to add.")

    def add() -> Any:
        """
        Count; the number, or a L{Deferred} of it.
        """


@implementer(ICounter)
class _Remembered:
    """A counter in memory."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        """See L{ICounter}."""
        self.count += 1
        return self.count


@implementer(ICounter)
class _Stored:
    """A counter in the session's data."""

    def __init__(self, session: Any) -> None:
        self._session = session

    @property
    def count(self) -> int:
        """See L{ICounter}."""
        number: int = self._session.data.get("count", 0)
        return number

    def add(self) -> Any:
        """See L{ICounter}."""

        def one_more(data: dict[str, Any]) -> None:
            data["count"] = data.get("count", 0) + 1

        return self._session.update(one_more).addCallback(lambda data: data["count"])


def _memory_store() -> Any:
    from klein.storage.memory import MemorySessionStore, declareMemoryAuthorizer

    @declareMemoryAuthorizer(ICounter)
    def authorize(interface: Any, session: Any, data: Any) -> Any:
        counter = data.getComponent(ICounter)
        if counter is None:
            counter = _Remembered()
            data.setComponent(ICounter, counter)
        return counter

    return MemorySessionStore.fromAuthorizers([authorize])


def _stored(pool: ConnectionPool) -> Any:
    from txmongokit.web.klein import KleinSessionStore
    from txmongokit.web.store import MongoSessionStore

    store = MongoSessionStore(pool["benchmark"])
    return KleinSessionStore(store, authorizers={ICounter: _Stored})


def _application(store: Any) -> Any:
    """The site: the same for both stores."""
    from klein import Authorization, Klein, Requirer, SessionProcurer
    from klein.interfaces import ISession
    from twisted.web.server import Site

    app, requirer = Klein(), Requirer()
    procurer = SessionProcurer(store)

    @requirer.prerequisite([ISession])
    def sessionize(request: Any) -> Any:
        return procurer.procureSession(request)

    @requirer.require(app.route("/read"), counter=Authorization(ICounter))
    def read(counter: Any) -> str:
        return str(counter.count)

    @requirer.require(app.route("/write"), counter=Authorization(ICounter))
    async def write(counter: Any) -> str:
        added = counter.add()
        return str(added if isinstance(added, int) else await added)

    return Site(app.resource())


class _Parent(Protocol):
    """
    Who has started this process: asks for its CPU time by a byte, and ends it
    by the end of the stream.
    """

    def __init__(self, reactor: Any, pool: ConnectionPool | None) -> None:
        self._reactor = reactor
        self._pool = pool

    def dataReceived(self, data: bytes) -> None:
        """Asked."""
        print(time.process_time(), flush=True)

    def connectionLost(self, reason: Any = None) -> None:
        """Over."""
        if self._reactor.running:
            if self._pool is not None:
                self._pool.disconnect()
            self._reactor.callLater(0.1, self._reactor.stop)


def _serve(uri: str | None) -> None:
    """Be a web server, with sessions at a URI or in memory."""
    from twisted.internet import reactor as installed
    from twisted.internet.stdio import StandardIO

    reactor: Any = installed
    pool = None if uri is None else ConnectionPool(uri, reactor=reactor)
    store = _memory_store() if pool is None else _stored(pool)
    port = reactor.listenTCP(0, _application(store), interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    StandardIO(_Parent(reactor, pool))
    reactor.run()


@dataclass(frozen=True)
class Figure:
    """
    One turn.

    @ivar rate: requests a second.
    @ivar cpu: the web server's CPU time for one, in seconds.
    """

    rate: float
    cpu: float


class SessionServer:
    """
    A process that serves the application.

    @param uri: of MongoDB; in memory without.

    @raise RuntimeError: it has ended before it served.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sessions", "--serve", uri or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=_ROOT,
        )
        line = self._line()
        if not line:
            self.close()
            raise RuntimeError(
                f"the web server has ended with status {self._process.returncode} at its start: "
                "what it has written says why"
            )
        self._port = int(line)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def cpu(self) -> float:
        """
        The CPU time that it has used, in seconds.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(b"?")
        return float(self._line())

    def client(self, task: str) -> SessionClient:
        """
        A client with a session of its own.
        """
        return SessionClient(self._port, task)

    def close(self) -> None:
        """
        End it.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class SessionClient:
    """
    Asks again and again.
    """

    def __init__(self, port: int, task: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._path = f"/{task}"
        self._headers: dict[str, str] = {}
        cookie, _ = self._ask()
        self._headers["Cookie"] = f"{_COOKIE}={cookie.partition('=')[2].partition(';')[0]}"

    def _ask(self) -> tuple[str, int]:
        self._connection.request("GET", self._path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{self._path} was answered {response.status}")
        return response.headers.get("Set-Cookie", ""), int(body)

    def ask(self, times: int) -> None:
        """
        So many requests, one after the other.

        @raise RuntimeError: one of them was answered with something else, or
            the session was not what it should have been.
        """
        _, before = self._ask()
        for _ in range(times - 1):
            cookie, after = self._ask()
            if cookie:
                raise RuntimeError("the session was lost")
        if self._path == "/write" and after - before != times - 1:
            raise RuntimeError(f"{times - 1} writes have counted {after - before}")

    def close(self) -> None:
        """
        End the connection.
        """
        self._connection.close()


@contextmanager
def _clients(server: SessionServer, task: str, count: int) -> Iterator[list[SessionClient]]:
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(server.client(task))
            stack.callback(clients[-1].close)
        yield clients


def measure(server: SessionServer, task: str, requests: int, clients: int) -> Figure:
    """
    One turn.

    @param requests: of all clients together.
    """
    each = max(2, requests // clients)
    with _clients(server, task, clients) as asking, ThreadPoolExecutor(clients) as threads:
        cpu, began = server.cpu(), time.perf_counter()
        for done in [threads.submit(client.ask, each) for client in asking]:
            done.result()
        seconds = time.perf_counter() - began
        used = server.cpu() - cpu
    return Figure(each * clients / seconds, used / (each * clients))


def report(figures: dict[tuple[str, str], list[Figure]]) -> str:
    """
    The table: medians of the turns, and of the ratios within each round.
    """
    lines = [f"{'':8}{'store':18}{'requests/s':>12}{'CPU us':>10}{'rate x':>10}{'CPU x':>8}"]
    for task in TASKS:
        floor = figures[task, MEMORY]
        for store in (MEMORY, OURS):
            turns = figures[task, store]
            rate = statistics.median(turn.rate for turn in turns)
            cpu = statistics.median(turn.cpu for turn in turns)
            pairs = list(zip(turns, floor, strict=True))
            slower = statistics.median(least.rate / turn.rate for turn, least in pairs)
            dearer = statistics.median(turn.cpu / least.cpu for turn, least in pairs)
            lines.append(
                f"{task:8}{store:18}{rate:12.0f}{cpu * 1e6:10.0f}{slower:10.2f}{dearer:8.2f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run it and print the table.

    @return: the exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="in each turn (2000)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each store (5)")
    parser.add_argument("--clients", type=int, default=8, help="that ask at once (8)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is not None:
        _serve(options.serve or None)
        return 0
    figures: dict[tuple[str, str], list[Figure]] = {}
    with standalone(cache_gb=0.5) as deployment, ExitStack() as stack:
        servers = {MEMORY: SessionServer(), OURS: SessionServer(deployment.uri)}
        for server in servers.values():
            stack.callback(server.close)
            for task in TASKS:
                measure(server, task, 200, options.clients)  # What is loaded late is loaded.
        for _ in range(options.rounds):
            for task in TASKS:
                for name, server in servers.items():
                    turn = measure(server, task, options.requests, options.clients)
                    figures.setdefault((task, name), []).append(turn)
    print(f"{options.rounds} rounds of {options.requests} requests, {options.clients} at once")
    print(report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
