"""
Replication beside C{jaraco.mongodb}'s oplog command, and beside a loop that
applies the same transactions from memory by PyMongo: in one run, on one
source in memory that keeps running, with a fresh destination for each; on one
namespace and on ten. The load has no DDL, which the other tool refuses on
servers of today. At the end the lag of a following replicator is measured
under a steady load.

Rates are taken from the destination's own oplog, from the first write to the
last, so that nobody's start counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.from_memory import apply, read_batches
from benchmarks.load import Client, Load, differences, finish
from txmongokit.testing import Deployment, ServerFailed, ServerNotFound, replica_set

__all__ = ["Measured", "lags", "main", "measure", "percentile", "written"]

ROOT = Path(__file__).resolve().parents[1]
OURS, LOOP, PEER = "txmongokit", "from memory", "jaraco.mongodb"
_LOG_TAIL = 2000
_OF_SERVERS = ("admin", "config", "local", "txmongokit")
_GOALS = {"peer": 25.0, "loop": 0.85, "memory": 200.0, "lag": 0.25}
_STEP_SECONDS = 0.05
# How often a child's memory, and how often the destination is looked at.
_LOOK_SECONDS = 0.02
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """
    What one tool took.

    @ivar rate: operations a second between its first write and its last.
    @ivar seconds: from the start of the process to its end.
    @ivar memory: its largest resident set, in MB; 0 where not measured.
    """

    name: str
    status: int
    rate: float
    seconds: float
    cpu_seconds: float
    memory: float
    wrong: tuple[str, ...]
    log: str = ""

    @property
    def good(self) -> bool:
        """Whether it ended well and left both sides equal."""
        return not self.status and not self.wrong

    def report(self, operations: int) -> str:
        """
        One line, and below it what went wrong.
        """
        equal = "equal" if not self.wrong else f"{len(self.wrong)} DIFFERENCES"
        line = (
            f"  {self.name:<14} {self.rate:>9,.0f} ops/s  {self.seconds:6.1f} s in all  "
            f"{self.cpu_seconds / operations * 1e6:6.1f} us CPU an operation  "
            f"{self.memory:4.0f} MB  dbHash {equal}"
        )
        if self.status:
            line += f"\n  ended with status {self.status}:\n{self.log[-_LOG_TAIL:]}"
        return "\n    ".join([line, *self.wrong[:5]])


def written(entries: Iterator[dict[str, Any]]) -> list[tuple[datetime, int]]:
    """
    When a destination's oplog has writes to user databases, and how many.
    """
    found = []
    for entry in entries:
        operations = entry["o"].get("applyOps", [entry])
        count = sum(
            each["op"] in "iud" and each["ns"].partition(".")[0] not in _OF_SERVERS
            for each in operations
        )
        if count:
            found.append((entry["wall"], count))
    return found


def rate_of(destination: Client) -> float:
    """
    Operations a second from the first entry to the last; the first one's own
    are not counted, since they began before it.
    """
    moments = written(destination["local"]["oplog.rs"].find().sort("$natural", 1))
    if len(moments) < 2:
        return 0.0
    span = (moments[-1][0] - moments[0][0]).total_seconds()
    return sum(count for _, count in moments[1:]) / max(span, 0.001)


def percentile(values: Sequence[float], part: float) -> float:
    """
    The value below which that part of the values is.
    """
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * part))]


def lags(
    written_at: Sequence[tuple[Any, datetime]], reached_at: Sequence[tuple[Any, datetime]]
) -> list[float]:
    """
    For each entry how many seconds later the destination had it.

    @param written_at: position and time of the source's entries.
    @param reached_at: position and time of the checkpoint's moves, in order.
    """
    places = [place for place, _ in reached_at]
    return [
        (reached_at[bisect_left(places, place)][1] - moment).total_seconds()
        for place, moment in written_at
        if place <= places[-1]
    ]


def measure(
    name: str, command: Sequence[str], source: Deployment, destination: Deployment, seconds: float
) -> Measured:
    """
    Run one tool's single pass over the oplog as a child process.
    """
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = _popen(command, destination, log)
        try:
            cpu, memory = _await(process, began + seconds)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        took = time.monotonic() - began
        log.seek(0)
        text = log.read().decode(errors="replace")
    with source.client() as here, destination.client() as there:
        wrong = tuple(differences(here, there))
        rate = rate_of(there)
    return Measured(name, process.returncode, rate, took, cpu, memory, wrong, text)


def _popen(command: Sequence[str], destination: Deployment, log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=destination.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _await(process: subprocess.Popen[bytes], deadline: float) -> tuple[float, float]:
    """
    Wait for a child and return its CPU seconds and its peak memory in MB.

    @raise TimeoutError: when it still runs at the deadline.
    """
    memory = 0.0
    while time.monotonic() < deadline:
        memory = max(memory, _peak_memory(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime, memory
        time.sleep(_LOOK_SECONDS)  # Between two samples of its memory; up to the deadline.
    raise TimeoutError(f"{process.args!r} was not done in time")


def _peak_memory(pid: int) -> float:
    """The largest resident set so far in MB; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    return sizes[0] if sizes else 0.0


def _ours(source: Deployment, destination: Deployment, *more: str) -> list[str]:
    command = [sys.executable, "-m", "txmongokit.oplog", "--from", source.uri]
    return [*command, "--to", destination.uri, "--resume-file", "none", *more]


def _from_memory(source: Deployment, destination: Deployment) -> Measured:
    """
    Read and regroup everything first, then apply it.
    """
    with source.client() as here, destination.client() as there:
        batches = read_batches(here)
        began, cpu_began = time.monotonic(), time.process_time()
        apply(batches, there)
        took, cpu = time.monotonic() - began, time.process_time() - cpu_began
        wrong = tuple(differences(here, there))
        return Measured(LOOP, 0, rate_of(there), took, cpu, 0.0, wrong)


def _peer(source: Deployment, seconds: float) -> Measured | None:
    if not importlib.util.find_spec("jaraco") or not importlib.util.find_spec("jaraco.mongodb"):
        print("jaraco.mongodb is not installed: pip install jaraco.mongodb")
        return None
    with replica_set(name="destination", cache_gb=1) as destination:
        ends = [f"127.0.0.1:{end.members[0].port}" for end in (source, destination)]
        command = [sys.executable, "-m", "jaraco.mongodb.oplog", "-w", "1day"]
        command += ["--source", ends[0], "--dest", ends[1]]
        return measure(PEER, command, source, destination, seconds)


def _compare(options: argparse.Namespace, namespaces: int) -> bool:
    """
    Write a load, run each tool on it and print the figures.

    @return: whether everything of ours was right and the goals were reached.
    """
    ratios, memory, ours = [], 0.0, []
    good = True
    with replica_set(name="source", cache_gb=1) as source:
        with source.client() as client:
            Load(options.operations, options.seed, ddl=False, namespaces=namespaces).write(client)
            finish(client)
        print(f"{options.operations:,} operations, namespaces: {namespaces}", flush=True)
        for _ in range(options.rounds):
            with replica_set(name="destination", cache_gb=1) as destination:
                command = _ours(source, destination)
                mine = measure(OURS, command, source, destination, options.seconds)
            with replica_set(name="destination", cache_gb=1) as destination:
                loop = _from_memory(source, destination)
            for tool in (mine, loop):
                print(tool.report(options.operations), flush=True)
            good = good and mine.good and loop.good
            ratios.append(mine.rate / max(loop.rate, 1.0))
            ours.append(mine.rate)
            memory = max(memory, mine.memory)
        peer = None if options.without_peer else _peer(source, options.seconds)
    if peer is not None:
        print(peer.report(options.operations))
        wanted = _GOALS["peer"] if namespaces == 1 else 0.0
        times = statistics.median(ours) / max(peer.rate, 1.0)
        good = _goal(f"times {PEER}", times, times >= wanted, f">= {wanted:g}") and good
    part = statistics.median(ratios)
    good = _goal("of the loop from memory", part, part >= _GOALS["loop"], ">= 0.85") and good
    return _goal("MB of memory", memory, memory < _GOALS["memory"], "< 200") and good


def _goal(what: str, value: float, reached: bool, wanted: str) -> bool:
    print(f"  {value:8.2f} {what} ({wanted}: {'yes' if reached else 'NO'})", flush=True)
    return reached


def _steady(client: Client, rate: int, seconds: float) -> None:
    """Write at a steady rate, a few operations at a time."""
    batch = max(1, round(rate * _STEP_SECONDS))
    load = Load(int(rate * seconds), ddl=False, batch=batch, grouped=True)
    began = time.monotonic()

    def pace() -> None:
        # The load is to be steady, whatever a write takes.
        time.sleep(max(0.0, began + load.done / rate - time.monotonic()))

    load.write(client, pace)


def _await_marks(
    client: Client, count: int, process: subprocess.Popen[bytes], seconds: float
) -> None:
    """
    Wait until the destination has as many of L{finish}'s marks.

    @raise TimeoutError: it has not after these seconds, or the follower has ended.
    """
    deadline = time.monotonic() + seconds
    while client["app"]["finished"].count_documents({}) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"the follower did not get to mark {count}")
        time.sleep(_POLL_SECONDS)  # Nobody tells when a document arrives; up to the deadline.


def _lag(options: argparse.Namespace) -> bool:
    """
    Measure how far a following replicator is behind.
    """
    with (
        replica_set(name="source", cache_gb=1) as source,
        replica_set(name="destination", cache_gb=1) as destination,
        source.client() as here,
        destination.client() as there,
        tempfile.TemporaryFile() as log,
    ):
        finish(here)
        process = _popen(_ours(source, destination, "-f"), destination, log)
        try:
            _await_marks(there, 1, process, options.seconds)
            start = finish(here)
            _steady(here, options.rate, options.lag_seconds)
            end = finish(here)
            _await_marks(there, 3, process, options.seconds)
            memory = _peak_memory(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        span = {"$gt": start, "$lte": end}
        entries = (
            here["local"]["oplog.rs"].find({"ts": span, "op": {"$ne": "n"}}).sort("$natural", 1)
        )
        source_side = [(entry["ts"], entry["wall"]) for entry in entries]
        found = lags(source_side, list(_moves(there)))
    took = (source_side[-1][1] - source_side[0][1]).total_seconds()
    rate = options.rate * options.lag_seconds / took
    print(f"Following {rate:,.0f} operations a second for {took:.0f} s, {memory:.0f} MB:")
    for part in (0.5, 0.9, 0.99, 1.0):
        print(f"  lag {percentile(found, part) * 1000:7.0f} ms at {part:.0%}")
    worst = percentile(found, 0.99)
    return _goal("s of lag at 99%", worst, worst < _GOALS["lag"], "< 0.25")


def _moves(destination: Client) -> Iterator[tuple[Any, datetime]]:
    """Where the checkpoint went, and when."""
    entries = destination["local"]["oplog.rs"].find({"o.applyOps.ns": "txmongokit.mongosync"})
    for entry in entries.sort("$natural", 1):
        move = entry["o"]["applyOps"][-1]["o"]
        fields = move.get("$set") or move["diff"]["u"]
        if "ts" in fields:
            yield fields["ts"], entry["wall"]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of ours; default: %(default)s")
    parser.add_argument("--seed", type=int, default=2, help="of the load; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=600.0, help="a tool; default: %(default)s")
    parser.add_argument("--rate", type=int, default=2000, help="for the lag; default: %(default)s")
    parser.add_argument("--lag-seconds", type=float, default=20.0, help="default: %(default)s")
    parser.add_argument("--without-peer", action="store_true", help=f"do not run {PEER}")
    parser.add_argument("--only", choices=("1", "10", "lag"), help="one part alone")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the comparison and print it.

    @return: the exit code: 0 if everything was equal and the goals were reached.
    """
    options = _arguments(arguments)
    good = True
    try:
        for namespaces in (1, 10):
            if options.only in (None, str(namespaces)):
                good = _compare(options, namespaces) and good
        if options.only in (None, "lag"):
            good = _lag(options) and good
    except (ServerFailed, ServerNotFound, TimeoutError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
