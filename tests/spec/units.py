"""
The drivers' tests that are not in the unified format: what a connection
string means, what is seen of servers, which one is chosen, what a pool does.
They need no server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.spec.outcomes import Outcome, Status
from tests.spec.units_case import Case, Format, Skipped
from tests.spec.units_options import (
    concern_documents,
    concern_strings,
    connection_strings,
    credentials,
    uri_options,
)
from tests.spec.units_pool import pool
from tests.spec.units_sdam import monitoring, scenario
from tests.spec.units_selection import in_window, round_trip_time, selection
from tests.spec.units_srv import seed_lists

__all__ = ["FORMATS", "files", "run", "run_file"]

FORMATS: Sequence[tuple[str, Format]] = (
    ("uri-options/tests", uri_options),
    ("connection-string/tests", connection_strings),
    ("auth/tests/legacy", credentials),
    ("read-write-concern/tests/connection-string", concern_strings),
    ("read-write-concern/tests/document", concern_documents),
    ("initial-dns-seedlist-discovery/tests", seed_lists),
    ("server-discovery-and-monitoring/tests/rs", scenario),
    ("server-discovery-and-monitoring/tests/single", scenario),
    ("server-discovery-and-monitoring/tests/sharded", scenario),
    ("server-discovery-and-monitoring/tests/load-balanced", scenario),
    ("server-discovery-and-monitoring/tests/errors", scenario),
    ("server-discovery-and-monitoring/tests/monitoring", monitoring),
    ("server-selection/tests/server_selection", selection),
    ("server-selection/tests/rtt", round_trip_time),
    ("server-selection/tests/in_window", in_window),
    ("max-staleness/tests", selection),
    ("connection-monitoring-and-pooling/tests/cmap-format", pool),
)
"""The directories, and what makes cases of a file in one."""


def files(specifications: Path) -> Iterator[tuple[Path, Format]]:
    """
    The files that this module can run.

    @param specifications: the folder that has the specifications' folders.
    """
    for directory, make in FORMATS:
        for path in sorted((specifications / directory).rglob("*.json")):
            yield path, make


def run(specifications: Path, patterns: list[str]) -> Iterator[Outcome]:
    """
    Run what matches.

    @param patterns: parts of cases' names as L{Outcome.name} gives them; none
        for all.
    """
    for path, make in files(specifications):
        yield from run_file(specifications, path, make, patterns)


def run_file(
    specifications: Path, path: Path, make: Format, patterns: Sequence[str] = ()
) -> Iterator[Outcome]:
    """
    Run the cases of one file, those that match L{run}'s patterns.
    """
    directory = path.parent.relative_to(specifications).as_posix()
    for case in make(path):
        name = Outcome(directory, path.name, case.name, "skipped").name
        if not patterns or any(pattern in name for pattern in patterns):
            yield _run_case(directory, path.name, case)


def _run_case(directory: str, file: str, case: Case) -> Outcome:
    began = time.perf_counter()
    status: Status = "passed"
    reason = ""
    try:
        case.check()
    except Skipped as skipped:
        status, reason = "skipped", str(skipped)
    except Exception as error:
        status, reason = "failed", " ".join(f"{type(error).__name__}: {error}".split())
    return Outcome(directory, file, case.name, status, reason, time.perf_counter() - began)
