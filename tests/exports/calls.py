"""
Whether a call that another driver understands is understood here, and whether
each of its arguments makes a difference.

Where a signature says so by itself, it is believed.  Where it does not, because
there is C{**options} or the order is another, the call is made, and what goes to
the server is looked at.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred

from tests.exports.stand import Stand
from txmongokit.errors import ConfigurationError

__all__ = ["Parameter", "problems"]

POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Parameter:
    """
    One parameter of another driver's call.
    """

    def __init__(self, name: str, kind: str, default: str | None) -> None:
        self.name = name
        self.kind = kind
        self.default = default

    @property
    def required(self) -> bool:
        """Whether a call must have it."""
        return self.default is None and self.kind.startswith("positional")

    @property
    def literal(self) -> Any:
        """Its default, where that can be read; C{...} where not."""
        try:
            return ast.literal_eval(self.default or "")
        except (SyntaxError, ValueError):
            return ...


def _same_default(theirs: Parameter, ours: inspect.Parameter) -> bool:
    """Whether leaving it out means the same: nothing, or an equal value."""
    if theirs.literal is ... or ours.default is inspect.Parameter.empty:
        return True
    return bool(theirs.literal) == bool(ours.default) and (
        not theirs.literal or theirs.literal == ours.default
    )


class Question:
    """
    One call of theirs, and ours that is to understand it.

    @ivar path: our call's dotted path.
    """

    def __init__(
        self, surface: str, name: str, path: str, theirs: list[Any], ours: Callable[..., Any]
    ) -> None:
        self.surface = surface
        self.name = name
        self.path = path
        self.theirs = [Parameter(*each) for each in theirs]
        signature = list(inspect.signature(ours).parameters.values())
        if signature and signature[0].name in ("self", "cls"):
            del signature[0]
        self.ours = signature

        self._order_only = name.endswith("__") and not name.endswith("__call__")

    def _takes_any(self) -> bool:
        return any(each.kind is each.VAR_POSITIONAL for each in self.ours)

    def _our(self, name: str) -> inspect.Parameter | None:
        return next((each for each in self.ours if each.name == name), None)

    def problems(self) -> Iterator[tuple[str, str]]:
        """
        What is wrong, by the name of the call and, in parentheses, of the
        parameter.
        """
        places = [each for each in self.ours if each.kind in POSITIONAL]
        known = {each.name for each in self.theirs}
        for each in self.ours:
            needed = each.default is each.empty and each.kind in (*POSITIONAL, *NAMED)
            late = each not in places or places.index(each) >= len(self._order())
            if needed and each.name not in known and late:
                yield f"{self.name}({each.name})", "is needed here"
        for index, theirs in enumerate(self.theirs):
            if self._order_only and theirs.kind.startswith("positional"):
                # Python makes these calls, without any names.
                if index >= len(places) and not self._takes_any():
                    yield f"{self.name}({theirs.name})", "takes no more in order"
                continue
            why = self._trouble(index, theirs, places)
            if why:
                yield f"{self.name}({theirs.name})", why

    def _order(self) -> list[Parameter]:
        return [each for each in self.theirs if each.kind.startswith("positional")]

    def _trouble(self, index: int, theirs: Parameter, places: list[inspect.Parameter]) -> str:
        ours = self._our(theirs.name)
        if theirs.kind.startswith("var_"):
            kind = theirs.kind.upper()
            return "" if any(each.kind.name == kind for each in self.ours) else "takes no more"
        if theirs.kind == "positional_or_keyword":
            at = places[index] if index < len(places) else None
            if at is None or at.name != theirs.name:
                why = self._ask(theirs, in_order=True)
                if why:
                    return f"in order: {why}"
        if theirs.kind != "positional_only" and (ours is None or ours.kind not in NAMED):
            why = self._ask(theirs, in_order=False)
            if why:
                return why
        if ours is not None and not _same_default(theirs, ours):
            return f"defaults to {ours.default!r} instead of {theirs.default}"
        return ""

    def _ask(self, theirs: Parameter, *, in_order: bool) -> str:
        """Make the call with and without it."""
        any_more = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        if not in_order and not any(each.kind is any_more[1] for each in self.ours):
            return "there is none"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                try:
                    without = self._make(None, in_order=False, beside=theirs)
                except ConfigurationError:
                    # The one is nothing without the other.
                    without = self._make(None, in_order=False)
            except Exception as error:
                return f"cannot be tried: {type(error).__name__}: {error}"
            try:
                effect = self._make(theirs, in_order=in_order)
            except Exception as error:
                return f"{type(error).__name__}: {error}"
        if theirs.required or effect != without:
            return ""
        return "makes no difference"

    def _make(
        self, asked: Parameter | None, *, in_order: bool, beside: Parameter | None = None
    ) -> list[str]:
        """What a call sends that has what it must have and, it may be, one argument more."""
        stand = Stand(self.surface)
        call = stand.subject(self.path)
        places, names = [], {}
        passed = False
        for each in self._order():
            if passed and not each.required:
                break
            if in_order and asked is not None:
                if each is not asked and not each.required:
                    if each.literal is ...:
                        raise TypeError(f"nobody knows {each.name}'s default")
                    places.append(each.literal)
                else:
                    places.append(stand.sample(self.name, each.name))
                passed = passed or each is asked
            elif each.required:
                # What must be there may have another name here: that is asked apart.
                if asked is each:
                    names[each.name] = stand.sample(self.name, each.name)
                elif not names:
                    places.append(stand.sample(self.name, each.name))
                else:
                    names[each.name] = stand.sample(self.name, each.name)
        if beside is not None and not in_order and asked is None:
            names.update(stand.companions(self.name, beside.name))
        if asked is not None and not in_order:
            names[asked.name] = stand.sample(self.name, asked.name)
            names.update(stand.companions(self.name, asked.name))
        return stand.effect(lambda: call(*places, **names))


def problems(
    surface: str, name: str, path: str, theirs: list[Any], ours: Callable[..., Any]
) -> list[tuple[str, str]]:
    """
    What in one driver's call is not understood here.

    @param theirs: its parameters, as the lists have them.
    """
    return list(Question(surface, name, path, theirs, ours).problems())


def fired(result: Any) -> Any:
    """A Deferred's result; C{None} where there is none yet."""
    if not isinstance(result, Deferred):
        return result
    outcome: list[Any] = []
    result.addBoth(outcome.append)
    return outcome[0] if outcome else None
