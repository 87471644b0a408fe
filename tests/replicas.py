"""
Two real deployments and the replicator between them, as child processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from txmongokit.testing import Deployment, replica_set

__all__ = ["Pair", "batches", "wait_for"]

ROOT = Path(__file__).resolve().parents[1]
_TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
_SECONDS = 60.0

Client = MongoClient[dict[str, Any]]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = _SECONDS) -> Any:
    """
    Ask until the answer is true.

    @raise AssertionError: it does not become so in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


class Pair:
    """
    A source, a destination, and a folder for the replicator to run in.

    @param source: a replica set of one, unless another is given.
    @param destination: likewise.
    """

    def __init__(
        self, source: Deployment | None = None, destination: Deployment | None = None
    ) -> None:
        self._stack = ExitStack()
        self.folder = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="mongosync", ignore_cleanup_errors=True)
            )
        )
        self.source = self._stack.enter_context(source or replica_set(name="from"))
        self.destination = self._stack.enter_context(destination or replica_set(name="to"))
        self.here: Client = self._stack.enter_context(self.source.client())
        self.there: Client = self._stack.enter_context(self.destination.client())

    def close(self) -> None:
        """
        End everything that was started.
        """
        self._stack.close()

    def _popen(self, command: tuple[str, ...], arguments: tuple[str, ...]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._stack.callback(_end, process)
        return process

    def start(
        self, *arguments: str, twistd: bool = False, subcommand: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """
        Start the replicator from source to destination.

        @param arguments: besides C{--from} and C{--to}.
        @param subcommand: such as C{verify}.
        @param twistd: C{twistd -n mongosync} instead of
            C{python -m txmongokit.oplog}.
        """
        if "--from" not in arguments:
            arguments = ("--from", self.source.uri, *arguments)
        if "--to" not in arguments:
            arguments = ("--to", self.destination.uri, *arguments)
        command: tuple[str, ...] = (sys.executable, "-m", "txmongokit.oplog")
        if twistd:
            command = (*_TWISTD, "-n", "--pidfile=", "mongosync")
        return self._popen((*command, *subcommand), arguments)

    def run(
        self, *arguments: str, twistd: bool = False, seconds: float = _SECONDS
    ) -> tuple[int, str]:
        """
        Run the replicator to its end.

        @return: its exit status and what it printed.
        """
        process = self.start(*arguments, twistd=twistd)
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output

    def checkpoint(self) -> dict[str, Any] | None:
        """
        The checkpoint document in the destination.
        """
        return self.there["txmongokit"]["mongosync"].find_one({"lane": None})


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def batches(client: Client) -> Iterator[tuple[int, list[str]]]:
    """
    What the destination's oplog shows of each transaction that moved a
    checkpoint: the C{seq} that it wrote, and the namespaces of everything
    else in it.
    """
    entries = client["local"]["oplog.rs"].find({"o.applyOps.ns": "txmongokit.mongosync"})
    for entry in entries.sort("$natural", 1):
        operations = entry["o"]["applyOps"]
        seqs = [
            (operation["o"].get("$set") or operation["o"]["diff"]["u"])["seq"]
            for operation in operations
            if operation["ns"] == "txmongokit.mongosync"
        ]
        if len(seqs) != 1:
            raise AssertionError(f"a transaction moves the checkpoint {len(seqs)} times")
        yield (
            int(seqs[0]),
            [each["ns"] for each in operations if each["ns"] != "txmongokit.mongosync"],
        )
