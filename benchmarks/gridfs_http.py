"""
A file goes up to GridFS and comes down again, over HTTP: whether it is the
same, how long it takes, and how much memory the process between takes.

The server is a process of its own, with L{txmongokit.web}'s resources; this
one sends and reads, through plain sockets.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from txmongokit.connection import ConnectionPool
from txmongokit.gridfs import GridFSBucket
from txmongokit.testing import standalone
from txmongokit.web import Files, StreamingRequest, Uploads

__all__ = ["Passage", "passage"]

_PIECE = 1 << 20
_ROOT = Path(__file__).resolve().parents[1]
_NAME = "/files/large"


@dataclass(frozen=True)
class Passage:
    """
    What has been seen.

    @ivar size: in bytes.
    @ivar same: whether what came is what went.
    @ivar up: seconds.
    @ivar down: seconds.
    @ivar idle: bytes of memory that the server had before.
    @ivar peak: the most bytes of memory that it had.
    """

    size: int
    same: bool
    up: float
    down: float
    idle: int
    peak: int


def _content(size: int) -> Iterator[bytes]:
    """Bytes that do not repeat within a chunk, nor from one piece to the next."""
    piece = random.Random(5).randbytes(_PIECE)
    number = 0
    while size > 0:
        whole = number.to_bytes(8, "big") + piece[8:]
        yield whole[: min(size, _PIECE)]
        size -= _PIECE
        number += 1


def _memory(pid: int, field: str) -> int:
    """A figure of a process's memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"there is no {field}")


def passage(size: int, uri: str) -> Passage:
    """
    Send a file through.

    @param size: in bytes.
    @param uri: of the server, with a database.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gridfs_http", "--serve", uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        _up(port, 1, "/files/small")  # What is loaded late is loaded.
        _down(port, "/files/small")
        idle = _memory(server.pid, "VmRSS")
        sent, up = _up(port, size, _NAME)
        came, down = _down(port, _NAME)
        return Passage(size, sent == came, up, down, idle, _memory(server.pid, "VmHWM"))
    finally:
        assert server.stdin is not None
        server.stdin.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _up(port: int, size: int, path: str) -> tuple[str, float]:
    """The sum of what was sent, and how long it took."""
    summed = hashlib.sha256()
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    for piece in _content(size):
        summed.update(piece)
        connection.send(piece)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != http.HTTPStatus.CREATED or answer["length"] != size:
        raise RuntimeError(f"the upload was answered {response.status}: {answer}")
    connection.close()
    return summed.hexdigest(), time.perf_counter() - began


def _down(port: int, path: str) -> tuple[str, float]:
    """The sum of what came, and how long it took."""
    summed = hashlib.sha256()
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    while piece := response.read(_PIECE):
        summed.update(piece)
    connection.close()
    return summed.hexdigest(), time.perf_counter() - began


def _serve(uri: str) -> None:
    """Be the server, until standard input ends."""
    from twisted.internet import reactor as installed
    from twisted.internet.protocol import Protocol
    from twisted.internet.stdio import StandardIO
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    reactor: Any = installed
    pool = ConnectionPool(uri, reactor=reactor)
    bucket = GridFSBucket(pool.get_default_database())

    class Both(Uploads):
        """Files are taken and served at one place."""

        def render_GET(self, request: Any) -> int:
            """Serve."""
            return Files(bucket).render_GET(request)

    class Parent(Protocol):
        """Who has started this."""

        def connectionLost(self, reason: Any = None) -> None:
            """It is over."""
            if reactor.running:
                pool.disconnect().addBoth(lambda _: reactor.stop())

    root = Resource()
    root.putChild(b"files", Both(bucket, max_length=None))
    site = Site(root, requestFactory=StreamingRequest)
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    StandardIO(Parent())
    reactor.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run it and print what was seen.

    @return: the exit code: 1 where the file is not the same.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048, help="the file's size (2048)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        _serve(options.serve)
        return 0
    with standalone(cache_gb=0.5) as deployment:
        host, port = deployment.addresses[0]
        seen = passage(options.megabytes << 20, f"mongodb://{host}:{port}/files")
    print(
        f"{seen.size >> 20} MB, {'identical' if seen.same else 'DIFFERENT'}\n"
        f"up   {seen.up:7.1f} s {seen.size / seen.up / 1e6:7.0f} MB/s\n"
        f"down {seen.down:7.1f} s {seen.size / seen.down / 1e6:7.0f} MB/s\n"
        f"memory {seen.idle / 1e6:.0f} MB before, {seen.peak / 1e6:.0f} MB at the most"
    )
    return 0 if seen.same else 1


if __name__ == "__main__":
    sys.exit(main())
