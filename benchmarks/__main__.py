"""
C{python -m benchmarks}: the client beside its peers. See C{README.rst} here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client import (
    ALL_TASKS,
    FILE_TASKS,
    PEERS,
    Comparison,
    Environments,
    PeerFailed,
    PeerProcess,
    beside_report,
    chosen,
    measure,
    measure_beside,
    prepare,
    prepare_file,
    task_report,
)
from txmongokit.testing import ServerFailed, ServerNotFound, replica_set, standalone

__all__ = ["main"]

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare txmongokit with other drivers on one server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer at each task")
    parser.add_argument("--seconds", type=float, default=0.5, help="a turn")
    parser.add_argument("--operations", type=int, help="a turn, instead of its seconds")
    parser.add_argument("--only", metavar="TASK,...", help=f"of {', '.join(ALL_TASKS)}")
    parser.add_argument("--peers", metavar="PEER,...", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--replica-set", action="store_true", help="a set of one member")
    parser.add_argument(
        "--environments",
        type=Path,
        default=_CACHE / "txmongokit-benchmarks",
        help="where the peers' environments are kept",
    )
    parser.add_argument("--txmongo-python", help="an interpreter that has TxMongo")
    parser.add_argument("--pymongo-python", help="an interpreter that has PyMongo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    try:
        options.tasks = chosen(options.only, ALL_TASKS, "task")
        options.names = chosen(options.peers, PEERS, "peer")
    except ValueError as error:
        parser.error(str(error))
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _say(where: str) -> None:
    """The progress: one line that changes, on a terminal only."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{where}", end="", flush=True)


def _start(options: argparse.Namespace, stack: ExitStack) -> list[PeerProcess]:
    given = {"txmongo": options.txmongo_python, "pymongo": options.pymongo_python}
    environments = Environments(options.environments, given)
    peers = []
    for name in options.names:
        try:
            peers.append(stack.enter_context(PeerProcess(name, environments.python(name))))
        except (PeerFailed, OSError) as error:
            print(f"Without {name}: {error}", flush=True)
    return peers


def _compare(options: argparse.Namespace) -> Comparison:
    with ExitStack() as stack:
        peers = _start(options, stack)
        deploy = replica_set if options.replica_set else standalone
        deployment = stack.enter_context(deploy(cache_gb=1))
        prepare(deployment)
        if set(options.tasks) & set(FILE_TASKS):
            prepare_file(deployment)
        host, port = deployment.addresses[0]
        for peer in peers:
            peer.ask("connect", host=host, port=port)
        budget = {"seconds": options.seconds, "operations": options.operations}
        tasks = [task for task in options.tasks if task != "beside"]
        comparison = measure(deployment, peers, tasks, options.rounds, budget, _say)
        if "beside" in options.tasks:
            _say("ping beside a slow query")
            comparison.pings = measure_beside(
                [peer for peer in peers if peer.name != "floor"], options.seconds
            )
        _say("")
    return comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the comparison and print it.

    @return: the exit code.
    """
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        comparison = _compare(options)
    except (PeerFailed, ServerFailed, ServerNotFound) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is cleaned up.", file=sys.stderr)
        return 130
    reports = [task_report(comparison, task) for task in comparison.turns]
    if comparison.pings:
        reports.append(beside_report(comparison.pings))
    print("\n\n".join(reports))
    if options.json:
        options.json.write_text(json.dumps(comparison.as_json(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
