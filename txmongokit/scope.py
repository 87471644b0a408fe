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

from txmongokit._sansio.commands.base import Command, CommandOptions
from txmongokit.interfaces import IOperationRunner
from txmongokit.sessions import ClientSession, session_state

__all__ = ["Scope", "changed", "options_of"]

ResultT = TypeVar("ResultT")


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

    def _limited(self, timeout: float | None) -> CommandOptions:
        if timeout is None:
            return self._options
        return replace(self._options, timeout=timeout, timeout_given=True)

    def _run(self, command: Command[ResultT], session: ClientSession | None) -> Deferred[ResultT]:
        result: Deferred[ResultT] = self._runner.run(command, session_state(session))
        return result


def changed(options: CommandOptions, given: dict[str, Any]) -> CommandOptions:
    """
    Options with others in the place of some; C{None} keeps what there is.
    """
    new = {name: value for name, value in given.items() if value is not None}
    return replace(options, **new) if new else options


def options_of(scope: Scope) -> CommandOptions:
    """
    What a database or collection passes down.
    """
    return scope._options
