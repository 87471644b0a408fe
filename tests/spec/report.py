"""
The runner's output.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TextIO

from tests.spec.known_failures import KNOWN_FAILURES
from tests.spec.outcomes import Outcome

__all__ = ["Report"]


class Report:
    """
    Counts outcomes and prints them.

    @param output: where to.
    @param verbosity: 0 for unexpected failures alone, 1 for known failures,
        too, 2 for every case.
    """

    def __init__(self, output: TextIO, verbosity: int = 1) -> None:
        self._output = output
        self._verbosity = verbosity
        self._directories: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._skips: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._failures: list[Outcome] = []

    @property
    def succeeded(self) -> bool:
        """
        Whether nothing failed that is not known to.
        """
        return all(each.name in KNOWN_FAILURES for each in self._failures)

    def add(self, outcome: Outcome) -> None:
        """
        Take one outcome; print it if it is worth it.
        """
        self._directories[outcome.directory][outcome.status] += 1
        if outcome.status == "skipped":
            self._skips[outcome.directory][outcome.reason] += 1
        if outcome.status == "failed":
            self._failures.append(outcome)
            known = KNOWN_FAILURES.get(outcome.name)
            if known is None:
                self._print(f"FAILED {outcome.name}: {outcome.reason}")
            elif self._verbosity:
                self._print(f"KNOWN FAILURE {outcome.name}: {known}")
        elif self._verbosity > 1:
            reason = f" ({outcome.reason})" if outcome.reason else ""
            self._print(f"{outcome.status} {outcome.name}{reason} {outcome.seconds:.2f} s")
        elif outcome.status == "passed" and outcome.name in KNOWN_FAILURES:
            self._print(f"UNEXPECTEDLY PASSED {outcome.name}")

    def finish(self) -> None:
        """
        Print what there was in each directory, and the totals.
        """
        totals: Counter[str] = Counter()
        for directory, counts in sorted(self._directories.items()):
            totals.update(counts)
            self._print(f"{directory}: {_counts(counts)}")
            for reason, count in self._skips[directory].most_common():
                self._print(f"    skipped {count}: {reason}")
        self._print(_counts(totals))

    def _print(self, line: str) -> None:
        self._output.write(line + "\n")
        self._output.flush()


def _counts(counts: Counter[str]) -> str:
    return f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
