"""
What databases and collections have in common: something that runs their
commands, and the options that they pass down.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from bson.codec_options import CodecOptions
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from txmongokit._sansio.commands.arguments import nearest
from txmongokit._sansio.commands.base import Command, CommandOptions
from txmongokit._sansio.transactions import SessionState
from txmongokit.interfaces import IOperationRunner
from txmongokit.sessions import ClientSession, session_state

__all__ = [
    "INHERITED",
    "Scope",
    "by_kind",
    "changed",
    "in_order",
    "options_of",
    "put_in_order",
    "written_in",
]

ResultT = TypeVar("ResultT")

INHERITED = ("codec_options", "read_preference", "write_concern", "read_concern", "timeout")
"""What clients, databases and collections pass down."""


class Scope:
    """
    The place of a command: its runner and its options.

    @param runner: what runs commands.
    @param options: what they inherit.
    """

    def __init__(self, runner: IOperationRunner, options: CommandOptions) -> None:
        self._runner = runner
        self._options = options

    @property
    def codec_options(self) -> CodecOptions[Any]:
        """
        How documents are encoded and decoded.
        """
        return self._options.codec_options

    @property
    def read_preference(self) -> Any:
        """
        Which servers are read from.
        """
        return self._options.read_preference

    @property
    def read_concern(self) -> ReadConcern:
        """
        How settled what is read must be.
        """
        return self._options.read_concern

    @property
    def write_concern(self) -> WriteConcern:
        """
        When a write counts as done.
        """
        return self._options.write_concern

    def _limits(self, options: dict[str, Any]) -> CommandOptions:
        """
        The options of one operation: takes C{timeout} and C{deadline} out of
        its arguments.
        """
        timeout = options.pop("timeout", None)
        deadline = options.pop("deadline", None)
        if deadline is not None:
            # The one place that knows what a deadline is told in: on Twisted's
            # reactors C{seconds()} counts as C{time.time()} does.
            left = max(deadline - self._runner.seconds(), _NO_TIME)
            timeout = min(timeout or left, left)
        if timeout is None:
            return self._options
        return replace(self._options, timeout=_checked_timeout(timeout), timeout_given=True)

    def _run(self, command: Command[ResultT], session: ClientSession | None) -> Deferred[ResultT]:
        state = session_state(session)
        if state is not None and command.is_write:
            command.options = written_in(state, command.options)
        result: Deferred[ResultT] = self._runner.run(command, state)
        return result


# What is left of the time when a deadline is over; 0 would lift the limit.
_NO_TIME = 1e-9


def _checked_timeout(timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if timeout < 0:
        raise ValueError(f"timeout={timeout!r} must not be negative: 0 lifts the limit")
    return timeout


def written_in(state: SessionState, options: CommandOptions) -> CommandOptions:
    """
    The options of a write in an explicit session: in a transaction, whose own
    write concern counts, every write is acknowledged.
    """
    if options.write_concern.acknowledged or not state.in_transaction:
        return options
    return replace(options, write_concern=WriteConcern())


_KINDS: dict[str, tuple[type, ...]] = {
    "codec_options": (CodecOptions,),
    "read_concern": (ReadConcern,),
    "write_concern": (WriteConcern,),
}


def changed(options: CommandOptions, given: dict[str, Any]) -> CommandOptions:
    """
    Options with others in the place of some; C{None} keeps what there is.

    @raise TypeError: there is no such option, or it is of a wrong type.
    @raise ValueError: C{timeout} is negative.
    """
    new: dict[str, Any] = {}
    for name, value in given.items():
        if name not in INHERITED and name != "timeout_given":
            raise TypeError(f"there is no option {name!r}{nearest(name, INHERITED)}")
        if value is None:
            continue
        kinds = _KINDS.get(name)
        if kinds is not None and not isinstance(value, kinds):
            raise TypeError(f"{name} must be a {kinds[0].__name__}, not {type(value).__name__}")
        if name == "read_preference" and not hasattr(value, "mode"):
            raise TypeError(
                "read_preference must be one of pymongo.ReadPreference's, "
                f"not {type(value).__name__}"
            )
        new[name] = _checked_timeout(value) if name == "timeout" else value
    return replace(options, **new) if new else options


def by_kind(*values: Any) -> dict[str, Any]:
    """
    Options that came in one order or another, by what they are.  TxMongo and
    PyMongo disagree about the order, never about the kinds.

    @raise TypeError: one is none of them, or there are two of a kind.
    """
    found: dict[str, Any] = {}
    for value in values:
        if value is None:
            continue
        names = [name for name, kinds in _KINDS.items() if isinstance(value, kinds)]
        if not names and hasattr(value, "mode"):
            names = ["read_preference"]
        if not names or names[0] in found:
            raise TypeError(
                "codec_options, read_preference, write_concern and read_concern are expected, each "
                f"once, and not {type(value).__name__}"
            )
        found[names[0]] = value
    return found


def in_order(
    names: tuple[str, ...], places: tuple[Any, ...], options: dict[str, Any], session: Any = None
) -> Any:
    """
    Arguments that came in PyMongo's order, as it takes them after those that
    have a name of their own here, among the options by their names.

    @param options: is added to.
    @param session: what came by that name.
    @return: the session.

    @raise TypeError: there are too many, or one is given twice.
    """
    if len(places) > len(names):
        raise TypeError(f"no more than {', '.join(names)} can follow in order")
    for name, value in zip(names, places, strict=False):
        if value is None:
            continue
        if options.get(name) is not None or (name == "session" and session is not None):
            raise TypeError(f"{name} is given twice")
        if name == "session":
            session = value
        else:
            options[name] = value
    return session


def put_in_order(names: tuple[str, ...], places: tuple[Any, ...], options: dict[str, Any]) -> None:
    """
    L{in_order} where the session is one of the options.
    """
    options["session"] = in_order(names, places, options, options.get("session"))


def options_of(scope: Scope) -> CommandOptions:
    """
    What a database or collection passes down.
    """
    return scope._options
