"""
Replication beside C{jaraco.mongodb}'s oplog command, in the same run on the
same servers: one source, a fresh destination for each. The load has no DDL,
which the other tool refuses on servers of today.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.load import Load, differences, finish  # noqa: E402 (the path comes first)
from txmongokit.testing import Deployment, ServerFailed, ServerNotFound, replica_set  # noqa: E402

__all__ = ["main"]

_LOG_TAIL = 2000


@dataclass(frozen=True)
class _Measured:
    """
    What one tool took.
    """

    name: str
    status: int
    seconds: float
    cpu_seconds: float
    wrong: tuple[str, ...]
    log: str

    def report(self, operations: int) -> str:
        """
        One line, and below it what went wrong.
        """
        equal = "equal" if not self.wrong else f"{len(self.wrong)} DIFFERENCES"
        line = (
            f"{self.name:<16} {operations / self.seconds:>9,.0f} ops/s  {self.seconds:7.1f} s  "
            f"{self.cpu_seconds / operations * 1e6:7.1f} us CPU per operation  dbHash {equal}"
        )
        if self.status:
            line += f"\n  ended with status {self.status}:\n{self.log[-_LOG_TAIL:]}"
        return "\n  ".join([line, *self.wrong[:5]])


def _measure(
    name: str, command: Sequence[str], source: Deployment, destination: Deployment, seconds: float
) -> _Measured:
    """
    Run one tool's single pass over the oplog as a child process.
    """
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=destination.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            usage = _await(process, began + seconds)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        took = time.monotonic() - began
        log.seek(0)
        text = log.read().decode(errors="replace")
    with source.client() as here, destination.client() as there:
        wrong = tuple(differences(here, there))
    return _Measured(name, process.returncode, took, usage, wrong, text)


def _await(process: subprocess.Popen[bytes], deadline: float) -> float:
    """
    Wait for a child and return its CPU seconds.

    @raise TimeoutError: when it still runs at the deadline.
    """
    while time.monotonic() < deadline:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        time.sleep(0.01)
    raise TimeoutError(f"{process.args!r} was not done in time")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=2, help="of the load; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=600.0, help="a tool; default: %(default)s")
    return parser.parse_args(arguments)


def _compare(options: argparse.Namespace) -> list[_Measured]:
    """
    Write the load and run each tool on it.
    """
    with replica_set(name="source", cache_gb=1) as source:
        print(f"Writing {options.operations:,} operations ...", flush=True)
        with source.client() as client:
            Load(options.operations, options.seed, ddl=False).write(client)
            finish(client)
        measured = []
        with replica_set(name="destination", cache_gb=1) as destination:
            command = [sys.executable, "-m", "txmongokit.oplog"]
            command += ["--from", source.uri, "--to", destination.uri, "--resume-file", "none"]
            measured.append(_measure("txmongokit", command, source, destination, options.seconds))
        if importlib.util.find_spec("jaraco") and importlib.util.find_spec("jaraco.mongodb"):
            with replica_set(name="destination", cache_gb=1) as destination:
                ends = [f"127.0.0.1:{end.members[0].port}" for end in (source, destination)]
                command = [sys.executable, "-m", "jaraco.mongodb.oplog", "-w", "1day"]
                command += ["--source", ends[0], "--dest", ends[1]]
                measured.append(
                    _measure("jaraco.mongodb", command, source, destination, options.seconds)
                )
        else:
            print("jaraco.mongodb is not installed: pip install jaraco.mongodb")
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the comparison and print it.

    @return: the exit code: 0 if our own replication succeeded.
    """
    options = _arguments(arguments)
    try:
        measured = _compare(options)
    except (ServerFailed, ServerNotFound, TimeoutError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    for tool in measured:
        print(tool.report(options.operations))
    ours = measured[0]
    if len(measured) > 1 and not any(tool.status or tool.wrong for tool in measured):
        print(f"Ratio: {measured[1].seconds / ours.seconds:.1f} times as fast")
    return 1 if ours.status or ours.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
