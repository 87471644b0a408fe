"""
The names and calls of the drivers whose users come to us.

The lists in C{tests/exports} are made by C{python -m tests.exports}.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.exports import calls, places
from tests.exports.differences import DIFFERENCES

ROOT = Path(__file__).resolve().parents[1]


def troubles(surface: str) -> dict[str, str]:
    """
    What is missing or other here than in one driver: its names, those of
    parameters as C{name(parameter)}, and what is wrong with each.
    """
    found: dict[str, str] = {}
    for name, entry in places.load(surface).items():
        path = places.place(name)
        ours = places.find(path)
        if ours is places.MISSING:
            found[name] = f"there is no {path}"
            continue
        if entry["kind"] == "alias":
            if ours is not places.find(places.place(entry["of"])):
                found[name] = f"is not {places.place(entry['of'])}"
            continue
        found.update(_compared(surface, name, path, entry, ours))
    return found


def _compared(
    surface: str, name: str, path: str, entry: dict[str, Any], ours: Any
) -> dict[str, str]:
    kind = entry["kind"]
    if kind in ("static method", "class method", "method", "function"):
        if isinstance(ours, staticmethod | classmethod):
            ours = ours.__func__
        if not callable(ours):
            return {name: "is no method here"}
    elif kind in ("property", "attribute") and inspect.isfunction(ours):
        return {name: "is a method here"}
    elif kind in ("constant", "attribute") and "value" in entry:
        if isinstance(ours, int | str | bytes) and repr(ours) != entry["value"]:
            return {name: f"is {ours!r} instead of {entry['value']}"}
    elif kind in ("class", "exception") and not inspect.isclass(ours):
        return {name: "is no class here"}
    if "parameters" not in entry or name.rpartition(".")[2] == "__getattr__":
        return {}
    if (getattr(ours, "__module__", None) or "").partition(".")[0] in ("pymongo", "gridfs"):
        return {}  # It is the very same.
    return dict(calls.problems(surface, name, path, entry["parameters"], ours))


class ExportsTests(SynchronousTestCase):
    """
    Each name of three surfaces is here and understands its calls, but for
    what the table of differences has.
    """

    maxDiff = None

    def _check(self, surface: str) -> None:
        found = troubles(surface)
        listed = DIFFERENCES[surface]
        unexpected = {name: why for name, why in found.items() if name not in listed}
        self.assertEqual({}, unexpected)
        self.assertEqual([], sorted(set(listed) - set(found)), "no difference any more")
        for name, reason in listed.items():
            self.assertTrue(reason.endswith("."), name)

    def test_txmongo_15(self) -> None:
        """TxMongo 15.2.1, as its documentation lists it."""
        self._check("txmongo-15.2.1")

    def test_txmongo_26(self) -> None:
        """TxMongo 26.0.0, as it is installed."""
        self._check("txmongo-26.0.0")

    def test_pymongo(self) -> None:
        """PyMongo 4.20.0's asyncio clients, and what goes with them."""
        self._check("pymongo-4.20.0")

    def test_told(self) -> None:
        """The guide for those who come from TxMongo has every difference and its reason."""
        page = " ".join((ROOT / "docs" / "from-txmongo.rst").read_text("utf-8").split())
        for surface in ("txmongo-15.2.1", "txmongo-26.0.0"):
            for name, reason in DIFFERENCES[surface].items():
                self.assertIn(f"``{name.removeprefix('txmongo.')}``", page)
                self.assertIn(reason, page)
