"""
What every peer does: the tasks, how they are measured, and the conversation
with the process that compares them.

A request is a line of JSON on standard input, the answer one on standard
output. Nothing but the standard library is needed here, so that each peer can
live in an environment of its own.
"""

from __future__ import annotations

import abc
import gc
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

__all__ = [
    "CORPUS",
    "FILES",
    "FilePeer",
    "IN_FLIGHT",
    "SLOW",
    "TASKS",
    "Budget",
    "Peer",
    "corpus_document",
    "file_content",
    "serve",
]

CORPUS = 10_000
"""
Documents to read, of 1.6 kB each; and to insert in one go.
"""

IN_FLIGHT = 100

FILES = 20
"""
How many files side by side.
"""

_FILE_BYTES = 52 << 20

_WORDS = ["alder", "birch", "cedar", "elm", "hazel", "larch", "maple", "oak", "pine", "rowan"]


def corpus_document(number: int) -> dict[str, Any]:
    """
    A document of 1.6 kB, shaped like what a web service stores.
    """
    word = _WORDS[number % len(_WORDS)]
    person = {
        "id": number * 7,
        "name": f"{word} {number}",
        "description": f"{word} " * 20,
        "followers": number % 977,
        "verified": number % 3 == 0,
        "colours": {"background": "C0DEED", "text": "333333", "link": "0084B4"},
    }
    return {
        "_id": number,
        "text": f"{word} {number} " * 100,
        "truncated": False,
        "score": number / 3,
        "tags": [{"text": other, "indices": [number % 40, number % 60]} for other in _WORDS[:3]],
        "user": person,
        "source": f"https://example.org/{word}/{number}",
        "reply_to": None,
    }


def _small_document(number: int) -> dict[str, Any]:
    """A document of 0.3 kB, without an C{_id}."""
    return {f"field{place}": f"{_WORDS[place]} {number:08d}" for place in range(10)}


def file_content() -> bytes:
    """
    52 MB that cannot be compressed, the same each time.
    """
    return random.Random(52).randbytes(_FILE_BYTES)


class Budget:
    """
    How long a task goes on.

    @param seconds: no operation begins later.
    @param operations: the most operations; C{None} for as many as it takes.
    """

    def __init__(self, seconds: float, operations: int | None = None) -> None:
        self._end = time.perf_counter() + seconds
        self._left = operations
        self.count = 0

    def more(self) -> bool:
        """
        Whether to begin another operation, which is then counted.
        """
        if self.count:
            if self._left is not None:
                if self.count >= self._left:
                    return False
            elif time.perf_counter() >= self._end:
                return False
        self.count += 1
        return True


class Peer(abc.ABC):
    """
    One driver. What returns an awaitable has begun, or begins when awaited.
    """

    @abc.abstractmethod
    async def connect(self, host: str, port: int) -> None:
        """Make a client without an explicit pool size."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the client."""

    @abc.abstractmethod
    def find_one(self, number: int) -> Awaitable[Any]:
        """One document of the corpus by its C{_id}."""

    @abc.abstractmethod
    def find_all(self) -> Awaitable[list[Any]]:
        """The whole corpus as a list."""

    @abc.abstractmethod
    def insert_one(self, document: dict[str, Any]) -> Awaitable[Any]:
        """Into the collection C{inserted}."""

    @abc.abstractmethod
    def insert_many(self, documents: list[dict[str, Any]]) -> Awaitable[Any]:
        """Into the collection C{inserted}."""

    @abc.abstractmethod
    def ping(self) -> Awaitable[Any]:
        """The shortest command."""

    @abc.abstractmethod
    def slow(self) -> Awaitable[Any]:
        """A query that takes the server one second: it has the filter L{SLOW}."""

    @abc.abstractmethod
    def start(self, work: Coroutine[Any, Any, None]) -> Awaitable[Any]:
        """Run something in the background."""


class FilePeer(Peer):
    """
    One that has GridFS, too.
    """

    @abc.abstractmethod
    def upload(self, name: str, content: bytes) -> Awaitable[Any]:
        """A file into GridFS."""

    @abc.abstractmethod
    async def download(self, name: str) -> bytes:
        """A whole file from GridFS."""


def _with_files(peer: Peer) -> FilePeer:
    if not isinstance(peer, FilePeer):
        raise TypeError(f"{type(peer).__name__} has no GridFS")
    return peer


SLOW = {"_id": 0, "$where": "sleep(1000) || true"}

Task = Callable[[Peer, Budget], Coroutine[Any, Any, None]]


async def _one_at_a_time(peer: Peer, budget: Budget) -> None:
    find_one = peer.find_one
    while budget.more():
        await find_one(budget.count % CORPUS)


async def _in_flight(peer: Peer, budget: Budget) -> None:
    working = [peer.start(_one_at_a_time(peer, budget)) for _ in range(IN_FLIGHT)]
    for worker in working:
        await worker


async def _find_many(peer: Peer, budget: Budget) -> None:
    while budget.more():
        found = await peer.find_all()
        if len(found) != CORPUS:
            raise AssertionError(f"{len(found)} documents instead of {CORPUS}")


async def _insert_one(peer: Peer, budget: Budget) -> None:
    while budget.more():
        await peer.insert_one(_small_document(budget.count))


async def _insert_many(peer: Peer, budget: Budget) -> None:
    while budget.more():
        await peer.insert_many([_small_document(number) for number in range(CORPUS)])


_content: list[bytes] = []


def _file() -> bytes:
    if not _content:
        _content.append(file_content())
    return _content[0]


async def _upload(peer: Peer, budget: Budget) -> None:
    content = _file()
    while budget.more():
        await _with_files(peer).upload(f"upload {budget.count}", content)


async def _download(peer: Peer, budget: Budget) -> None:
    content = _file()
    while budget.more():
        if await _with_files(peer).download("file") != content:
            raise AssertionError("another file has come")


async def _side_by_side(task: Task, peer: Peer, budget: Budget) -> None:
    working = [peer.start(task(peer, Budget(0, 1))) for _ in range(FILES)]
    for worker in working:
        await worker
    budget.count = FILES


TASKS: dict[str, Task] = {
    "find_one": _one_at_a_time,
    "find_one_100": _in_flight,
    "find_many": _find_many,
    "insert_one": _insert_one,
    "insert_many": _insert_many,
    "upload": _upload,
    "download": _download,
    "upload_20": partial(_side_by_side, _upload),
    "download_20": partial(_side_by_side, _download),
}


async def _measure(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """One task: operations, and seconds of wall and CPU time."""
    task = TASKS[request["task"]]
    if "load" in request["task"]:
        _file()
    gc.collect()  # Nobody pays for another turn's garbage.
    budget = Budget(request["seconds"], request.get("operations"))
    began, cpu = time.perf_counter(), time.process_time()
    await task(peer, budget)
    cpu = time.process_time() - cpu
    return {"operations": budget.count, "wall": time.perf_counter() - began, "cpu": cpu}


async def _pings(peer: Peer, more: Callable[[], bool]) -> list[float]:
    took = []
    while more():
        began = time.perf_counter()
        await peer.ping()
        took.append(time.perf_counter() - began)
    return took


async def _beside(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Pings on an idle pool, then beside a query of one second: seconds each."""
    await peer.ping()
    end = time.perf_counter() + request["seconds"]
    idle = await _pings(peer, lambda: time.perf_counter() < end)
    over = False

    async def query() -> None:
        nonlocal over
        await peer.slow()
        over = True

    began = time.perf_counter()
    running = peer.start(query())
    beside = await _pings(peer, lambda: not over)
    await running
    return {"idle": idle, "beside": beside, "query": time.perf_counter() - began}


async def serve(peer: Peer, readline: Callable[[], Awaitable[str]]) -> None:
    """
    Answer requests until there are no more.

    @param readline: reads a line without holding up the event loop.
    """
    while line := await readline():
        request = json.loads(line)
        try:
            if request["task"] == "connect":
                await peer.connect(request["host"], request["port"])
                answer: dict[str, Any] = {}
            elif request["task"] == "beside":
                answer = await _beside(peer, request)
            else:
                answer = await _measure(peer, request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await peer.close()
