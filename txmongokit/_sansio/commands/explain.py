"""
How a server runs a command.
"""

from __future__ import annotations

from txmongokit._sansio.commands.base import CommandOptions, Request, WholeReply
from txmongokit._sansio.commands.read import Find
from txmongokit.types import ConnectionInfo

__all__ = ["Explain"]


class Explain(WholeReply):
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
