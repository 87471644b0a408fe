"""
How a server runs a command.
"""

from __future__ import annotations

from typing import Any

import bson

from txmongokit._sansio.commands.base import Command, CommandOptions, Request
from txmongokit._sansio.commands.read import Find
from txmongokit.types import ConnectionInfo

__all__ = ["Explain"]


class Explain(Command[dict[str, Any]]):
    """
    C{explain} of a find.
    """

    name = "explain"
    follows_read_preference = True

    def __init__(self, database: str, options: CommandOptions, find: Find) -> None:
        super().__init__(database, options)
        self._find = find

    @property
    def namespace(self) -> str:
        """The find's."""
        return self._find.namespace

    def build(self, info: ConnectionInfo) -> Request:
        """The find within; its time limit is that of the whole."""
        find = self._find.build(info).body
        body = {"explain": find}
        if "maxTimeMS" in find:
            body["maxTimeMS"] = find.pop("maxTimeMS")
        return Request({**body, "verbosity": "allPlansExecution"})

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply, by the command's codec options."""
        return bson.decode(raw, self.options.codec_options)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply itself."""
        return reply
