"""
The client beside its peers: each in a process and an environment of its own,
taking turns at the same tasks on the same server.

On a machine that does other things as well, single figures say little: what
counts are the ratios within a round, of which the median is shown.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from gridfs import GridFS
from pymongo.database import Database

from benchmarks.peers.work import CORPUS, FILES, TASKS, corpus_document, file_content
from txmongokit.testing import Deployment

__all__ = [
    "OURS",
    "PEERS",
    "Comparison",
    "Environments",
    "Measurement",
    "PeerFailed",
    "PeerProcess",
    "beside_report",
    "task_report",
]

ROOT = Path(__file__).resolve().parents[1]
OURS = "txmongokit"
_ERROR_TAIL = 2000


@dataclass(frozen=True)
class PeerKind:
    """
    How to run a peer.

    @ivar module: its module in C{benchmarks.peers}.
    @ivar requirements: what its environment must hold; empty for the one that
        this process runs in.
    @ivar leaves_out: the tasks that it is not for.
    """

    module: str
    requirements: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()


FILE_TASKS = ("upload", "download", "upload_20", "download_20")
"""
Those which are run only when C{--only} names them.
"""

PEERS = {
    OURS: PeerKind("ours"),
    # A download takes it so long that twenty would take minutes.
    "txmongo": PeerKind("theirs", ("txmongo==26.0.0",), ("download_20",)),
    "pymongo": PeerKind("official", ("pymongo~=4.20.0",)),
    "floor": PeerKind("floor", leaves_out=FILE_TASKS),
}

_TITLES = {
    "find_one": "find_one by _id, one at a time",
    "find_one_100": "find_one by _id, 100 in flight",
    "find_many": f"find of {CORPUS:,} documents of 1.6 kB",
    "insert_one": "insert_one, one at a time",
    "insert_many": f"insert_many of {CORPUS:,} documents of 0.3 kB",
    "upload": "GridFS, a file of 52 MB up",
    "download": "GridFS, a file of 52 MB down",
    "upload_20": f"GridFS, {FILES} files of 52 MB up side by side",
    "download_20": f"GridFS, {FILES} files of 52 MB down side by side",
}


class PeerFailed(Exception):
    """
    A peer cannot be measured; the text says why.
    """


class Environments:
    """
    Interpreters for the peers, made where there is none yet.

    @param folder: where they are kept for the next time.
    @param given: interpreters that are there, by the peer's name.
    """

    def __init__(self, folder: Path, given: Mapping[str, str]) -> None:
        self._folder = folder
        self._given = given

    def python(self, peer: str) -> str:
        """
        The interpreter of a peer.

        @raise PeerFailed: it could not be made.
        """
        requirements = PEERS[peer].requirements
        if self._given.get(peer):
            return self._given[peer]
        if not requirements:
            return sys.executable
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        name = re.sub(r"[^\w.]+", "-", "-".join(requirements))
        folder = self._folder / f"{name}-python{version}"
        python, made = folder / "bin" / "python", folder / "complete"
        if not made.exists():
            print(f"Making an environment with {' '.join(requirements)} ...", flush=True)
            venv.create(folder, clear=True, with_pip=True)
            command = [str(python), "-m", "pip", "install", "-q", *requirements]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PeerFailed(f"pip failed: {done.stderr[-_ERROR_TAIL:]}")
            made.touch()
        return str(python)


class PeerProcess:
    """
    A peer that runs.

    @param name: one of L{PEERS}.
    @param python: its interpreter.
    """

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{PEERS[name].module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def ask(self, task: str, **request: Any) -> dict[str, Any]:
        """
        Send a request and wait for the answer.

        @raise PeerFailed: it answers with an error, or not at all.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"task": task, **request}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise PeerFailed(f"{self.name} ended during {task}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(f"{self.name} failed in {task}: {answer['error']}")
        return answer


@dataclass(frozen=True)
class Measurement:
    """
    One turn of one peer at one task.

    @ivar wall: seconds for an operation.
    @ivar cpu: seconds of the client's CPU for an operation.
    """

    wall: float
    cpu: float

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Measurement:
        """
        From a peer's answer, which has totals.
        """
        return cls(answer["wall"] / answer["operations"], answer["cpu"] / answer["operations"])


@dataclass
class Comparison:
    """
    All that was measured, by task and peer: a list with an entry for each
    round.
    """

    turns: dict[str, dict[str, list[Measurement]]] = field(default_factory=dict)
    pings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, task: str, peer: str, measured: Measurement) -> None:
        """
        One more turn.
        """
        self.turns.setdefault(task, {}).setdefault(peer, []).append(measured)

    def ratio(self, task: str, peer: str, what: str) -> float | None:
        """
        A peer's time by ours: the median of the rounds.

        @param what: C{"wall"} or C{"cpu"}.
        @return: C{None} where one of them has no figures.
        """
        peers = self.turns.get(task, {})
        pairs = zip(peers.get(peer, ()), peers.get(OURS, ()), strict=False)
        ratios = [
            getattr(theirs, what) / getattr(ours, what)
            for theirs, ours in pairs
            if getattr(ours, what)
        ]
        return median(ratios) if ratios else None

    def as_json(self) -> dict[str, Any]:
        """
        Everything, in seconds.
        """
        return {
            "tasks": {
                task: {
                    peer: {
                        "wall": [turn.wall for turn in turns],
                        "cpu": [turn.cpu for turn in turns],
                        "wall_ratio": self.ratio(task, peer, "wall"),
                        "cpu_ratio": self.ratio(task, peer, "cpu"),
                    }
                    for peer, turns in peers.items()
                }
                for task, peers in self.turns.items()
            },
            "pings": self.pings,
        }


def prepare(deployment: Deployment) -> None:
    """
    Write the corpus.
    """
    with deployment.client() as client:
        client["benchmark"]["corpus"].insert_many(
            [corpus_document(number) for number in range(CORPUS)]
        )


def prepare_file(deployment: Deployment) -> None:
    """
    Write the file that is downloaded.
    """
    with deployment.client() as client:
        GridFS(client["benchmark"]).put(file_content(), filename="file")


def measure(
    deployment: Deployment,
    peers: Sequence[PeerProcess],
    tasks: Iterable[str],
    rounds: int,
    budget: Mapping[str, Any],
    say: Callable[[str], None],
) -> Comparison:
    """
    Let the peers take turns.

    @param budget: C{seconds}, and C{operations} where their number is fixed.
    @param say: told where it stands.
    """
    comparison = Comparison()
    with deployment.client() as client:
        for task in tasks:
            able = [peer for peer in peers if task not in PEERS[peer.name].leaves_out]
            for turn in range(rounds + 1):
                # The first round warms up. Later ones begin with another peer each.
                start = turn % len(able)
                for peer in [*able[start:], *able[:start]]:
                    say(f"{task}, round {turn} of {rounds}, {peer.name}")
                    if task.startswith("insert"):
                        client["benchmark"]["inserted"].drop()
                    elif task.startswith("upload"):
                        _remove_uploads(client["benchmark"])
                    if turn:
                        comparison.add(task, peer.name, Measurement.of(peer.ask(task, **budget)))
                    else:
                        peer.ask(task, seconds=0.1)
    return comparison


def _remove_uploads(database: Database[Any]) -> None:
    """Leave the file that is downloaded alone, and the indexes."""
    uploaded = [each["_id"] for each in database["fs.files"].find({"filename": {"$ne": "file"}})]
    database["fs.chunks"].delete_many({"files_id": {"$in": uploaded}})
    database["fs.files"].delete_many({"_id": {"$in": uploaded}})


def measure_beside(peers: Sequence[PeerProcess], seconds: float) -> dict[str, dict[str, Any]]:
    """
    Pings on an idle pool, and beside a query of one second.
    """
    return {peer.name: peer.ask("beside", seconds=seconds) for peer in peers}


def task_report(comparison: Comparison, task: str) -> str:
    """
    A task's table: least and median times for an operation, and the ratios.
    """
    peers = comparison.turns[task]
    largest = max(turn.wall for turns in peers.values() for turn in turns)
    unit, scale = ("ms", 1e3) if largest >= 0.01 else ("us", 1e6)
    times = f"{'wall min':>10}{'median':>10}{'CPU min':>10}{'median':>10}"
    lines = [
        f"{_TITLES[task]} ({unit} an operation)",
        f"  {'':<12}{times}{'wall x':>9}{'CPU x':>8}",
    ]
    for peer in sorted(peers, key=list(PEERS).index):
        turns = peers[peer]
        walls = [turn.wall * scale for turn in turns]
        cpus = [turn.cpu * scale for turn in turns]
        times = f"{min(walls):>10.1f}{median(walls):>10.1f}{min(cpus):>10.1f}{median(cpus):>10.1f}"
        ratios = [comparison.ratio(task, peer, what) for what in ("wall", "cpu")]
        shown = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"  {peer:<12}{times}{shown[0]:>9}{shown[1]:>8}")
    return "\n".join(lines)


def beside_report(pings: Mapping[str, Mapping[str, Any]]) -> str:
    """
    The table of pings beside a slow query.
    """
    lines = [
        "ping on an idle pool, and beside a query of one second (ms each)",
        f"  {'':<12}{'idle median':>12}{'worst':>9}{'beside median':>15}{'worst':>9}{'pings':>8}",
    ]
    for peer, took in pings.items():
        idle, beside = ([one * 1e3 for one in took[when]] for when in ("idle", "beside"))
        lines.append(
            f"  {peer:<12}{median(idle):>12.2f}{max(idle):>9.2f}"
            f"{median(beside):>15.2f}{max(beside):>9.2f}{len(beside):>8}"
        )
    return "\n".join(lines)


def chosen(names: str | None, known: Iterable[str], what: str) -> list[str]:
    """
    The names that a comma-separated option picks, in their own order.

    @raise ValueError: one of them is unknown.
    """
    known = list(known)
    if not names:
        return [name for name in known if name not in FILE_TASKS]
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}: choose from {', '.join(known)}")
    return [name for name in known if name in wanted]


ALL_TASKS = (*TASKS, "beside")
"""
What C{--only} chooses from.
"""
