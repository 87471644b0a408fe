"""
C{--clone} beside a bare loop that reads raw batches and inserts them, by
PyMongo's synchronous client, in the same run on the same servers: one source,
a fresh destination for each.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from benchmarks.load import differences
from txmongokit.testing import Deployment, ServerFailed, ServerNotFound, replica_set

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
# How often the child's memory is looked at.
_LOOK_SECONDS = 0.02
_RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
_NAME = ("app", "things")
_LOG_TAIL = 2000
_FEWEST = 0.9
_MOST_MEMORY = 200_000_000


def _fill(source: Deployment, documents: int, size: int) -> None:
    """Write documents of about C{size} bytes."""
    draw = random.Random(1)
    with source.client() as client:
        collection = client[_NAME[0]][_NAME[1]]
        for start in range(0, documents, 5_000):
            collection.insert_many(
                {
                    "_id": number,
                    "name": f"thing {number}",
                    "score": draw.random(),
                    "tags": ["red", "green"],
                    "inner": {"a": number % 7, "b": draw.randrange(10**9)},
                    "text": draw.randbytes(size // 2 - 60).hex(),
                }
                for number in range(start, min(start + 5_000, documents))
            )


def _loop(source: Deployment, destination: Deployment) -> float:
    """The bare loop; the seconds that it takes."""
    with MongoClient[Any](source.uri) as here, MongoClient[Any](destination.uri) as there:
        target = there[_NAME[0]].get_collection(_NAME[1], codec_options=_RAW)
        began = time.monotonic()
        for batch in here[_NAME[0]][_NAME[1]].find_raw_batches({}, batch_size=10_000):
            target.insert_many(bson.decode_all(batch, _RAW), ordered=False)
        return time.monotonic() - began


def _clone(source: Deployment, destination: Deployment, tasks: int | None) -> tuple[float, int]:
    """
    The clone, as a child process.

    @return: the seconds that it takes as a whole, and its memory in bytes.
    @raise RuntimeError: it fails, or the copy is not equal.
    """
    command = [sys.executable, "-m", "txmongokit.oplog", "--clone", "--resume-file", "none"]
    command += ["--from", source.uri, "--to", destination.uri]
    command += [] if tasks is None else ["--clone-tasks", str(tasks)]
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
        memory = 0
        while process.poll() is None:
            memory = max(memory, _memory(process.pid))
            time.sleep(_LOOK_SECONDS)  # Memory can only be sampled while it runs.
        took = time.monotonic() - began
        log.seek(0)
        text = log.read().decode(errors="replace")
    with source.client() as here, destination.client() as there:
        wrong = list(differences(here, there))
    if process.returncode or wrong:
        raise RuntimeError(f"status {process.returncode}, {wrong[:3]}\n{text[-_LOG_TAIL:]}")
    return took, memory


def _memory(pid: int) -> int:
    """The most bytes that a process has had; 0 where nothing says so."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    # Unlike the resource usage of a child, this does not begin with its parent's.
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=400_000, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=1_000, help="bytes; default: %(default)s")
    parser.add_argument("--tasks", type=int, nargs="*", help="more numbers of --clone-tasks to try")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the comparison and print it.

    @return: the exit code: 0 if the clone is equal, at least 90 % as fast as
        the loop, and in less than 200 MB.
    """
    options = _arguments(arguments)
    total = options.documents * options.size / 1e6
    best, memory = 0.0, 0
    try:
        with replica_set(name="source", cache_gb=1) as source:
            _fill(source, options.documents, options.size)
            with replica_set(name="destination", cache_gb=1) as destination:
                loop = _loop(source, destination)
            print(f"{'bare loop':<24} {loop:7.2f} s  {total / loop:7.1f} MB/s", flush=True)
            for tasks in (None, *(options.tasks or ())):
                with replica_set(name="destination", cache_gb=1) as destination:
                    took, used = _clone(source, destination, tasks)
                name = "clone" if tasks is None else f"clone, {tasks} tasks"
                print(
                    f"{name:<24} {took:7.2f} s  {total / took:7.1f} MB/s  "
                    f"{100 * loop / took:5.0f} % of the loop  {used / 1e6:5.0f} MB of memory",
                    flush=True,
                )
                if tasks is None:
                    best, memory = loop / took, used
    except (RuntimeError, ServerFailed, ServerNotFound) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0 if best >= _FEWEST and memory < _MOST_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
