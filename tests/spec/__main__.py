"""
C{python -m tests.spec [--specs DIR] [PATTERN ...]}: run the MongoDB drivers'
official JSON tests against servers that are started for the occasion.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.spec.deployments import Fleet
from tests.spec.outcomes import Outcome
from tests.spec.report import Report
from tests.spec.smoke import in_smoke
from tests.spec.unified import is_unified, run_file

__all__ = ["main", "specifications_folder"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_HOW = (
    "no specifications: clone https://github.com/mongodb/specifications and give its folder "
    "source with --specs or TXMONGOKIT_SPECS"
)


def specifications_folder(given: str | None = None) -> Path | None:
    """
    Where the specifications are: as given, else C{$TXMONGOKIT_SPECS}, else
    C{../shared/specifications} beside the checkout.

    @return: C{None} where there are none.
    """
    named = given or os.environ.get("TXMONGOKIT_SPECS")
    folder = Path(named) if named else _CHECKOUT.parent / "shared" / "specifications"
    return folder.resolve() if folder.is_dir() else None


class _Selection:
    """
    Which cases run.

    @param patterns: parts of full names; any one suffices, none selects all.
    @param smoke: whether only the small selection runs.
    """

    def __init__(self, patterns: Sequence[str], smoke: bool) -> None:
        self.patterns = list(patterns)
        self._smoke = smoke

    def file(self, path: str) -> bool:
        """Whether a file may hold a case that runs."""
        return not self._smoke or in_smoke(path)

    def case(self, name: str) -> bool:
        """Whether a case runs."""
        return not self.patterns or any(pattern in name for pattern in self.patterns)


async def _run(root: Path, selection: _Selection, report: Report, fleet: Fleet) -> None:
    units = _units()
    if units is not None:
        for outcome in units(root, selection.patterns):
            if selection.file(f"{outcome.directory}/{outcome.file}"):
                report.add(outcome)
    for path in sorted(root.glob("*/tests/**/*.json")):
        if not selection.file(path.relative_to(root).as_posix()):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if is_unified(content, path):
            async for outcome in run_file(root, path, fleet, selection.case):
                report.add(outcome)


def _units() -> Any:
    """
    The runner of the formats that are not the unified one.
    """
    try:
        from tests.spec import units
    except ImportError:
        return None
    return units.run


def main(arguments: Sequence[str]) -> int:
    """
    Run the command.

    @return: its exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.spec", description=__doc__)
    parser.add_argument("--specs", metavar="DIR", help="the folder source of the specifications")
    parser.add_argument("--smoke", action="store_true", help="a small selection, under 90 s")
    parser.add_argument("--failures-only", action="store_true", help="no known failures")
    parser.add_argument(
        "--mongod",
        metavar="PATH",
        action="append",
        help="a server to run, first the newest; also TXMONGOKIT_SPECS_MONGODS, "
        f"separated by {os.pathsep!r}",
    )
    parser.add_argument(
        "--topology",
        choices=("single", "replicaset", "sharded", "load-balanced"),
        help="the only one to run on; the last two are scripted routers before a replica set",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="every case")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="parts of names")
    given = parser.parse_args(arguments)
    report = Report(sys.stdout, 2 if given.verbose else 0 if given.failures_only else 1)
    root = specifications_folder(given.specs)
    if root is None:
        report.add(Outcome("specifications", "", "", "skipped", _HOW))
        report.finish()
        return 0
    named = os.environ.get("TXMONGOKIT_SPECS_MONGODS")
    fleet = Fleet(given.mongod or (named.split(os.pathsep) if named else ()), given.topology)
    selection = _Selection(given.patterns, given.smoke)

    async def session(reactor: Any) -> None:
        try:
            await _run(root, selection, report, fleet)
        finally:
            report.finish()
            await deferToThread(fleet.close)

    try:
        task.react(lambda reactor: Deferred.fromCoroutine(session(reactor)))
    except SystemExit as ended:
        if ended.code:
            return 2
    return 0 if report.succeeded else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
