"""
Running the files in the unified test format.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from bson import json_util
from pymongo.errors import PyMongoError
from twisted.internet import defer
from twisted.internet.threads import deferToThread

from tests.spec.cases import Case
from tests.spec.deployments import Fleet, Ground, RoutedGround
from tests.spec.entities import Unavailable
from tests.spec.matching import Malformed, Mismatch
from tests.spec.outcomes import Outcome, Status
from tests.spec.schema import check_file
from tests.spec.unroutable import UNROUTABLE

__all__ = ["is_unified", "run_file"]

_JSON = json_util.JSONOptions(tz_aware=False)
_PATIENCE = 120.0

Wanted = Callable[[str], bool]


def is_unified(content: Any, path: Path) -> bool:
    """
    Whether a file's content is in the unified test format.
    """
    if "unified-test-format" in path.parts:
        return True
    return isinstance(content, dict) and "schemaVersion" in content


class _File:
    """
    One file: where it is and what is in it.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.directory = path.parent.relative_to(root).as_posix()
        self.name = path.name
        self.content = json.loads(path.read_text(encoding="utf-8"), object_hook=_object_hook)

    def outcome(self, case: str, status: Status, reason: str = "", seconds: float = 0.0) -> Outcome:
        return Outcome(self.directory, self.name, case, status, reason, seconds)


def _object_hook(document: dict[str, Any]) -> Any:
    return json_util.object_hook(document, _JSON)


async def run_file(root: Path, path: Path, fleet: Fleet, wanted: Wanted) -> AsyncIterator[Outcome]:
    """
    Run the cases of a file, one after the other.

    @param wanted: whether a case is to run, by its full name.
    """
    file = _File(root, path)
    if file.directory.endswith("tests/invalid"):
        outcome = file.outcome("is rejected", "passed")
        if wanted(outcome.name):
            yield _rejected(file, outcome)
        return
    fails = file.directory.endswith("tests/valid-fail")
    for test in file.content["tests"]:
        description = str(test["description"])
        if not wanted(file.outcome(description, "passed").name):
            continue
        outcome = await _run_case(file, test, fleet)
        yield _inverted(outcome) if fails else outcome


def _rejected(file: _File, outcome: Outcome) -> Outcome:
    try:
        check_file(file.content)
    except Malformed:
        return outcome
    return file.outcome(outcome.case, "failed", "the schema takes it for valid")


def _inverted(outcome: Outcome) -> Outcome:
    """
    The outcome of a case that has to fail, for the runner's own reasons.
    """
    if outcome.status == "skipped":
        return outcome
    status: Status = "failed"
    reason = "it passed, but must fail"
    if outcome.status == "failed":
        reason = outcome.reason
        if reason.startswith((_MISMATCH, _MALFORMED, _UNEXPECTED)):
            status, reason = "passed", ""
    return Outcome(outcome.directory, outcome.file, outcome.case, status, reason, outcome.seconds)


_MISMATCH = "mismatch: "
_MALFORMED = "malformed: "
_UNEXPECTED = "unexpected error: "


async def _run_case(file: _File, test: Mapping[str, Any], fleet: Fleet) -> Outcome:
    description = test["description"]
    if "skipReason" in test:
        return file.outcome(description, "skipped", f"the test says: {test['skipReason']}")
    try:
        check_file(file.content)
    except Malformed as error:
        return file.outcome(description, "failed", f"{_MALFORMED}{error}")
    ground = await deferToThread(
        fleet.place, file.content.get("runOnRequirements"), test.get("runOnRequirements")
    )
    if isinstance(ground, str):
        return file.outcome(description, "skipped", ground)
    missing = UNROUTABLE.get(file.outcome(description, "skipped").name)
    if missing is not None and isinstance(ground, RoutedGround):
        return file.outcome(description, "skipped", missing)
    term = await deferToThread(ground.term)
    outcome = await _run_on(ground, file, test)
    if outcome.status != "failed" or _steps_down(test):
        return outcome
    if await deferToThread(ground.term) == term:
        return outcome
    # On a busy machine a set may elect by itself, which no test expects.
    return await _run_on(ground, file, test)


def _steps_down(test: Mapping[str, Any]) -> bool:
    return "replSetStepDown" in str(test["operations"])


async def _run_on(ground: Ground, file: _File, test: Mapping[str, Any]) -> Outcome:
    started = time.monotonic()
    status: Status = "failed"
    reason = ""
    try:
        await _limited(ground, file, test)
        status = "passed"
    except Unavailable as error:
        status, reason = "skipped", str(error)
    except Mismatch as error:
        reason = f"{_MISMATCH}{error}"
    except Malformed as error:
        reason = f"{_MALFORMED}{error}"
    except PyMongoError as error:
        reason = f"{_UNEXPECTED}{_shown(error)}"
    except defer.TimeoutError:
        reason = f"did not end in {_PATIENCE:g} s"
    except Exception as error:
        reason = _shown(error)
    return file.outcome(test["description"], status, reason, time.monotonic() - started)


async def _limited(ground: Ground, file: _File, test: Mapping[str, Any]) -> None:
    from twisted.internet import reactor

    running = defer.Deferred.fromCoroutine(Case(ground, file.content, test).run())
    running.addTimeout(_PATIENCE, reactor)
    await running


def _shown(error: Exception) -> str:
    """
    An error in one line, with the innermost place in the package.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "/txmongokit/" in each.filename] or frames
    place = ""
    if ours:
        path = ours[-1].filename.rpartition("/txmongokit/")[2]
        place = f" [{path}:{ours[-1].lineno}]"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{place}"
