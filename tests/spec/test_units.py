"""
The drivers' tests that need no server, each file as one test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.spec.known_failures import KNOWN_FAILURES
from tests.spec.outcomes import Outcome
from tests.spec.units import FORMATS, files, run, run_file
from tests.spec.units_case import Case, Format, expect

_CHECKOUT = Path(__file__).resolve().parents[2]
SPECIFICATIONS = Path(
    os.environ.get("TXMONGOKIT_SPECS") or _CHECKOUT.parent / "shared/specifications"
)


class SpecificationTests(SynchronousTestCase):
    """
    The files that are there; below are their tests.
    """

    def test_directories(self) -> None:
        """Each directory that can be run is there."""
        found = list(files(SPECIFICATIONS))
        if not found:
            raise SkipTest(
                f"no specification tests in {SPECIFICATIONS}: set TXMONGOKIT_SPECS to the source "
                "folder of a checkout of mongodb/specifications"
            )
        for directory, _ in FORMATS:
            if directory.endswith("load-balanced"):
                continue  # Nothing of it can be run, and not every copy has it.
            below = SPECIFICATIONS / directory
            self.assertTrue([path for path, _ in found if below in path.parents], directory)


def _test_of(path: Path, make: Format) -> Callable[[Any], None]:
    def test(self: SynchronousTestCase) -> None:
        outcomes = list(run_file(SPECIFICATIONS, path, make))
        self.assertTrue(outcomes, "there is no case in it")
        for outcome in outcomes:
            known = outcome.name in KNOWN_FAILURES
            what = f"{outcome.name}: {outcome.reason}"
            self.assertEqual(outcome.status == "failed", known, what)
        if all(outcome.status == "skipped" for outcome in outcomes):
            raise SkipTest(outcomes[0].reason)

    test.__doc__ = f"The cases of C{{{path.name}}}."
    return test


for _path, _make in files(SPECIFICATIONS):
    _name = re.sub(r"\W", "_", _path.relative_to(SPECIFICATIONS).with_suffix("").as_posix())
    setattr(SpecificationTests, f"test_{_name}", _test_of(_path, _make))


class RunTests(SynchronousTestCase):
    """
    L{run}.
    """

    def run_cases(self, *cases: Case) -> list[Outcome]:
        """The outcomes of what is in one file."""
        folder = Path(self.mktemp())
        file = folder / "max-staleness/tests/f.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}", encoding="utf-8")
        return [
            outcome
            for path, _ in files(folder)
            for outcome in run_file(folder, path, lambda _: iter(cases))
        ]

    def test_failure(self) -> None:
        """What goes wrong is told in one line; the rest is still run."""

        def bad() -> None:
            expect(1, 2, "one\nline")

        failed, passed = self.run_cases(Case("bad", bad), Case("good", lambda: None))
        self.assertEqual(failed.name, "max-staleness/tests/f.json: bad")
        self.assertEqual(failed.status, "failed")
        self.assertEqual(failed.reason, "AssertionError: one line is 1, not 2")
        self.assertEqual((passed.case, passed.status), ("good", "passed"))

    def test_patterns(self) -> None:
        """Patterns choose files and single cases."""
        folder = Path(self.mktemp())
        for name in ("a", "b"):
            file = folder / f"server-selection/tests/rtt/{name}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                '{"avg_rtt_ms": "NULL", "new_rtt_ms": 2, "new_avg_rtt": 2}', encoding="utf-8"
            )
        for patterns, chosen in (
            ([], ["a", "b"]),
            (["rtt/a.json"], ["a"]),
            (["server-selection/tests/rtt/b.json: b"], ["b"]),
            (["crud"], []),
        ):
            outcomes = list(run(folder, patterns))
            self.assertEqual([each.case for each in outcomes], chosen, patterns)
            self.assertEqual({each.status for each in outcomes} - {"passed"}, set())
