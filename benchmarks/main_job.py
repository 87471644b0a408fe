"""
The main job on real servers: two replica sets, a mixed load on one of them,
and C{twistd mongosync}, killed and resumed on the way, bringing it to the
other. Ends with 0 only if every collection of both is equal and no batch was
applied twice or left out.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bson import Timestamp  # noqa: E402 (the script finds its neighbours first)
from pymongo.errors import PyMongoError  # noqa: E402

from benchmarks.load import Client, Load, checkpoint_gaps, differences, finish  # noqa: E402
from txmongokit.testing import Deployment, ServerFailed, ServerNotFound, replica_set  # noqa: E402

__all__ = ["JobFailed", "main"]

_RUN = "from twisted.scripts.twistd import run; run()"
_TWISTD = (sys.executable, "-c", _RUN, "-n", "--pidfile=")
_POLL_SECONDS = 0.2
_LINE_SECONDS = 5.0
_LOG_TAIL = 3000


class JobFailed(Exception):
    """
    The job cannot go on; the text says why.
    """


class Replicator:
    """
    The replicator as a child process.

    @param options: more than the usual ones.
    """

    def __init__(
        self, source: Deployment, destination: Deployment, log: Path, *options: str
    ) -> None:
        self._options = ["--from", source.uri, "--to", destination.uri, *options]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start C{twistd -n mongosync}.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_TWISTD, "mongosync", *self._options, "-f", "--resume-file", "none"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def check(self) -> None:
        """
        Make sure that it still runs.

        @raise JobFailed: with the end of its log, if it does not.
        """
        if self._process is not None and self._process.poll() is not None:
            raise JobFailed(
                f"The replicator ended with status {self._process.returncode}:\n{self.log_tail()}"
            )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """
        End it and return its exit status.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def log_tail(self) -> str:
        """The end of what it logged."""
        return self._log.read_text(errors="replace")[-_LOG_TAIL:] if self._log.exists() else ""


class Job:
    """
    One run.
    """

    def __init__(self, load: Load, source: Deployment, destination: Deployment) -> None:
        self.load = load
        self.source = source.client()
        self.destination = destination.client()
        self.replicator = Replicator(source, destination, destination.folder / "mongosync.log")
        self._stopping = threading.Event()
        self._written = threading.Event()
        self._failure: BaseException | None = None
        self._last: Timestamp | None = None
        self._began = time.monotonic()
        self._shown = 0.0
        self._writer = threading.Thread(target=self._write, daemon=True)

    def run(self, kills: int, seconds: float) -> float:
        """
        Write and replicate until the destination has the last write.

        @param kills: how often to kill the replicator on the way. It comes
            back at once, but for the last time: then it has to catch up with
            all that was written meanwhile.
        @param seconds: give up after so long.
        @return: how many entries a second it applied after the last kill.
        @raise JobFailed: when time is up, or a part of the job failed.
        """
        deadline = time.monotonic() + seconds
        self._began = time.monotonic()
        self._writer.start()
        self.replicator.start()
        for number in range(1, kills + 1):
            threshold = self.load.operations * number // (kills + 1)
            self._wait(partial(self._has_applied, threshold), deadline)
            self.replicator.kill()
            self._say(f"killed at {self.count():,} entries", keep=True)
            if number == kills:
                self._wait(self._written.is_set, deadline)
            self.replicator.start()
        count, began = self.count(), time.monotonic()
        self._wait(self._is_done, deadline)
        rate = (self.count() - count) / (time.monotonic() - began)
        self._say("everything applied", keep=True)
        self.replicator.kill(signal.SIGTERM)
        return rate

    def close(self) -> None:
        """
        End the replicator and the writer.
        """
        self._stopping.set()
        self.replicator.kill()
        if self._writer.is_alive():
            self._writer.join(30)
        self.source.close()
        self.destination.close()

    def checkpoint(self) -> dict[str, Any]:
        """
        The replicator's checkpoint in the destination; empty before the first.
        """
        found = self.destination["txmongokit"]["mongosync"].find_one()
        return found or {}

    def count(self) -> int:
        """How many entries have been applied."""
        return int(self.checkpoint().get("count", 0))

    def _has_applied(self, entries: int) -> bool:
        return self.count() >= entries

    def _is_done(self) -> bool:
        place = self.checkpoint().get("ts")
        return self._last is not None and place is not None and place >= self._last

    def _write(self) -> None:
        try:
            self.load.write(self.source, self._pace)
            self._last = finish(self.source)
        except BaseException as error:
            self._failure = error
        self._written.set()

    def _pace(self) -> None:
        if self._stopping.is_set():
            raise JobFailed("stopped")

    def _wait(self, done: Callable[[], bool], deadline: float) -> None:
        while not done():
            if self._failure is not None:
                raise JobFailed(f"The load could not be written: {self._failure}")
            if time.monotonic() > deadline:
                raise JobFailed(f"Time is up. The replicator's log:\n{self.replicator.log_tail()}")
            self.replicator.check()
            self._say("")
            time.sleep(_POLL_SECONDS)

    def _say(self, what: str, keep: bool = False) -> None:
        """
        The progress display: one line that changes on a terminal, else a line
        now and then.
        """
        now = time.monotonic()
        on_terminal = sys.stdout.isatty()
        if not keep and not on_terminal and now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        checkpoint = self.checkpoint()
        count, place = int(checkpoint.get("count", 0)), checkpoint.get("ts")
        newest = self.source["local"]["oplog.rs"].find().sort("$natural", -1).limit(1).next()["ts"]
        lag = f"{newest.time - place.time} s" if place is not None else "unknown"
        elapsed = max(now - self._began, 0.001)
        line = (
            f"{elapsed:6.1f} s  written {self.load.done:>9,}  applied {count:>9,} entries "
            f"({count / elapsed:,.0f}/s)  lag {lag}  {what}"
        )
        ends = "\n" if keep or not on_terminal else ""
        print(f"\r\x1b[K{line}" if on_terminal else line, end=ends, flush=True)


def _verdict(source: Client, destination: Client) -> list[str]:
    """
    Compare, print the result and return what is wrong.
    """
    hashed = sum(
        len(source[name].command("dbHash")["collections"])
        for name in source.list_database_names()
        if name not in ("admin", "config", "local")
    )
    wrong = [*differences(source, destination), *checkpoint_gaps(destination)]
    if wrong:
        print("NOT EQUAL:", *wrong, sep="\n  ")
    else:
        print(f"EQUAL: dbHash, options and indexes of {hashed} collections, and every batch once.")
    return wrong


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=2, help="of the load; default: %(default)s")
    parser.add_argument("--kills", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--members", type=int, default=1, help="of each set; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=900.0, help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the job.

    @return: the exit code.
    """
    options = _arguments(arguments)
    # Ended politely, by a timeout say, it tidies up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print("Starting two replica sets ...", flush=True)
        with (
            replica_set(options.members, name="source", cache_gb=1) as source,
            replica_set(options.members, name="destination", cache_gb=1) as destination,
        ):
            job = Job(Load(options.operations, options.seed), source, destination)
            try:
                rate = job.run(options.kills, options.seconds)
                wrong = _verdict(job.source, job.destination)
            finally:
                job.close()
    except (JobFailed, ServerFailed, ServerNotFound, PyMongoError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is cleaned up.", file=sys.stderr)
        return 130
    print(f"Rate: {rate:,.0f} entries a second while catching up after the last kill.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
