"""
Tests for the arithmetic and the options of L{benchmarks}.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Coroutine
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import bson
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.__main__ import _arguments
from benchmarks.client import (
    ALL_TASKS,
    OURS,
    PEERS,
    Comparison,
    Environments,
    Measurement,
    PeerFailed,
    PeerProcess,
    beside_report,
    chosen,
    task_report,
)
from benchmarks.peers import work
from benchmarks.peers.work import CORPUS, FILES, IN_FLIGHT, TASKS, Budget, FilePeer, corpus_document


class ArithmeticTests(SynchronousTestCase):
    """
    Figures and ratios.
    """

    def comparison(self) -> Comparison:
        """Two peers, three rounds, the second of them disturbed."""
        found = Comparison()
        for ours, theirs in ((1.0, 2.0), (10.0, 30.0), (1.0, 2.5)):
            found.add("find_one", OURS, Measurement(ours / 1e6, ours / 2e6))
            found.add("find_one", "txmongo", Measurement(theirs / 1e6, theirs / 2e6))
        return found

    def test_operation(self) -> None:
        """Totals are divided by the number of operations."""
        measured = Measurement.of({"operations": 4, "wall": 2.0, "cpu": 1.0})
        self.assertEqual(measured, Measurement(0.5, 0.25))

    def test_ratio(self) -> None:
        """A ratio is taken within each round, and their median shown."""
        found = self.comparison()
        self.assertAlmostEqual(found.ratio("find_one", "txmongo", "wall") or 0, 2.5)
        self.assertAlmostEqual(found.ratio("find_one", OURS, "cpu") or 0, 1.0)
        self.assertIsNone(found.ratio("find_one", "floor", "wall"))
        self.assertIsNone(found.ratio("find_many", OURS, "wall"))

    def test_ratio_without_time(self) -> None:
        """CPU time too short to be measured gives no ratio."""
        found = Comparison()
        found.add("find_one", OURS, Measurement(1.0, 0.0))
        self.assertIsNone(found.ratio("find_one", OURS, "cpu"))

    def test_reports(self) -> None:
        """The tables show ours first, times in a fitting unit and the ratios."""
        lines = task_report(self.comparison(), "find_one").splitlines()
        self.assertIn("(us an operation)", lines[0])
        self.assertEqual(lines[2].split(), [OURS, "1.0", "1.0", "0.5", "0.5", "1.00", "1.00"])
        self.assertEqual(lines[3].split()[1:3], ["2.0", "2.5"])
        slow = Comparison()
        slow.add("find_many", "floor", Measurement(0.5, 0.25))
        self.assertEqual(
            task_report(slow, "find_many").splitlines()[2].split(),
            ["floor", "500.0", "500.0", "250.0", "250.0", "-", "-"],
        )
        pings = {OURS: {"idle": [0.001, 0.002, 0.009], "beside": [1.0], "query": 1.0}}
        shown = beside_report(pings).splitlines()[2].split()
        self.assertEqual(shown, [OURS, "2.00", "9.00", "1000.00", "1000.00", "1"])

    def test_json(self) -> None:
        """The file has each round's figures and the ratios."""
        written = self.comparison().as_json()["tasks"]["find_one"]["txmongo"]
        self.assertEqual(len(written["wall"]), 3)
        self.assertAlmostEqual(written["cpu_ratio"], 2.5)

    def test_corpus(self) -> None:
        """Documents are of 1.6 kB, within a tenth."""
        sizes = [len(bson.encode(corpus_document(number))) for number in range(0, CORPUS, 500)]
        self.assertLess(abs(sum(sizes) / len(sizes) - 1600), 160)


class _Counting(FilePeer):
    """Answers at once, and counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def connect(self, host: str, port: int) -> None:
        self.calls.append("connect")

    async def close(self) -> None:
        self.calls.append("close")

    def _answer(self, call: str, result: Any = None) -> Awaitable[Any]:
        self.calls.append(call)
        return succeed(result)

    def find_one(self, number: int) -> Awaitable[Any]:
        return self._answer("find_one")

    def find_all(self) -> Awaitable[list[Any]]:
        return self._answer("find_all", [None] * CORPUS)

    def insert_one(self, document: dict[str, Any]) -> Awaitable[Any]:
        return self._answer("insert_one")

    def insert_many(self, documents: list[dict[str, Any]]) -> Awaitable[Any]:
        return self._answer("insert_many")

    def ping(self) -> Awaitable[Any]:
        return self._answer("ping")

    def slow(self) -> Awaitable[Any]:
        return self._answer("slow")

    def upload(self, name: str, content: bytes) -> Awaitable[Any]:
        return self._answer("upload")

    async def download(self, name: str) -> bytes:
        content: bytes = await self._answer("download", b"content")
        return content

    def start(self, work: Coroutine[Any, Any, None]) -> Awaitable[Any]:
        return Deferred.fromCoroutine(work)


class TaskTests(SynchronousTestCase):
    """
    The tasks.
    """

    def test_operations(self) -> None:
        """Each task does as many operations as the budget says, and counts them."""
        self.patch(work, "file_content", lambda: b"content")
        self.patch(work, "_content", [])
        for name, task in TASKS.items():
            peer, budget = _Counting(), Budget(0.0, 3)
            self.successResultOf(Deferred.fromCoroutine(task(peer, budget)))
            # Files side by side are as many as they are.
            expected = FILES if name.endswith("load_20") else 3
            self.assertEqual((budget.count, len(peer.calls)), (expected, expected), name)

    def test_another_file(self) -> None:
        """A file that is not what was sent is an error."""
        self.patch(work, "_content", [b"other"])
        task = Deferred.fromCoroutine(TASKS["download"](_Counting(), Budget(0.0, 1)))
        self.failureResultOf(task, AssertionError)

    def test_seconds(self) -> None:
        """Without a number, one operation is done at least, and none after the time."""
        peer, budget = _Counting(), Budget(0.0)
        self.successResultOf(Deferred.fromCoroutine(TASKS["find_one"](peer, budget)))
        self.assertEqual(peer.calls, ["find_one"])

    def test_in_flight(self) -> None:
        """A hundred operations are under way at once."""
        waiting: list[Deferred[None]] = []

        class Slow(_Counting):
            """Never answers by itself."""

            def find_one(self, number: int) -> Awaitable[Any]:
                waiting.append(Deferred())
                return waiting[-1]

        running = Deferred.fromCoroutine(TASKS["find_one_100"](Slow(), Budget(0.0, 150)))
        self.assertEqual(len(waiting), IN_FLIGHT)
        for answer in waiting:
            answer.callback(None)
        self.successResultOf(running)
        self.assertEqual(len(waiting), 150)


class OptionTests(SynchronousTestCase):
    """
    The command line and the peers' processes.
    """

    def test_chosen(self) -> None:
        """Names are picked in their own order; an unknown one is an error."""
        self.assertEqual(chosen("pymongo, txmongokit", PEERS, "peer"), [OURS, "pymongo"])
        others = [name for name in ALL_TASKS if "load" not in name]
        self.assertEqual(chosen(None, ALL_TASKS, "task"), others)
        self.assertEqual(chosen("download_20,upload", ALL_TASKS, "task"), ["upload", "download_20"])
        error = self.assertRaises(ValueError, chosen, "motor", PEERS, "peer")
        self.assertIn("'motor'", str(error))

    def test_command_line(self) -> None:
        """A wrong name or number ends with the usage."""
        for wrong in (["--only", "find"], ["--rounds", "0"], ["--peers", "x"]):
            with redirect_stderr(io.StringIO()) as said:
                self.assertRaises(SystemExit, _arguments, wrong)
            self.assertIn("usage", said.getvalue())

    def test_environments(self) -> None:
        """Given interpreters are used, and ours for what needs nothing else."""
        environments = Environments(Path("/nowhere"), {"txmongo": "/tx/python"})
        self.assertEqual(environments.python("txmongo"), "/tx/python")
        self.assertEqual(environments.python("floor"), sys.executable)

    def test_peer_ends(self) -> None:
        """A peer that cannot be run is an error that names it."""
        with PeerProcess("floor", "/bin/false") as peer:
            error = self.assertRaises(PeerFailed, peer.ask, "ping")
        self.assertIn("floor ended", str(error))
