"""
Commands about databases, collections, indexes, sessions and transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from txmongokit._sansio.commands.arguments import add_options, collation_document
from txmongokit._sansio.commands.base import Command, CommandOptions, Request
from txmongokit._sansio.commands.read import CursorCommand
from txmongokit._sansio.commands.write import raise_write_concern_error
from txmongokit.types import ConnectionInfo

__all__ = [
    "AbortTransaction",
    "CommitTransaction",
    "CreateCollection",
    "CreateIndexes",
    "Drop",
    "DropDatabase",
    "DropIndexes",
    "EndSessions",
    "KillSessions",
    "ListCollections",
    "ListDatabases",
    "ListIndexes",
    "RenameCollection",
]

# How long a repeated commit waits for its majority (transactions specification).
_COMMIT_WTIMEOUT = 10_000


def _on_primary(options: CommandOptions) -> CommandOptions:
    """Definitions are read from the primary, whatever documents are read from."""
    return replace(options, read_preference=ReadPreference.PRIMARY)


class _Definition(Command[dict[str, Any]]):
    """A command that changes what there is: it takes a write concern, once."""

    is_write = True
    collection: str | None = None

    def __init__(self, database: str, options: CommandOptions, body: dict[str, Any]) -> None:
        super().__init__(database, options)
        self._body = body

    @property
    def namespace(self) -> str:
        """C{database.collection}, or the database alone."""
        return self.database if self.collection is None else f"{self.database}.{self.collection}"

    def build(self, info: ConnectionInfo) -> Request:
        """The same document each time, copied."""
        return Request(dict(self._body))

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply."""
        raise_write_concern_error(reply)
        return reply

    def unacknowledged(self) -> dict[str, Any]:
        """A reply that says nothing."""
        return {}


class Drop(_Definition):
    """
    Drop a collection.
    """

    name = "drop"

    def __init__(
        self, database: str, collection: str, options: CommandOptions, *, comment: Any = None
    ) -> None:
        body = add_options({"drop": collection}, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, options, body)
        self.collection = collection


class CreateCollection(_Definition):
    """
    Create a collection, view or time series.

    @param arguments: the server's own options (C{capped}, C{size},
        C{validator}, ...), sent as they are.
    """

    name = "create"

    def __init__(
        self, database: str, collection: str, options: CommandOptions, **arguments: Any
    ) -> None:
        body = {"create": collection}
        body.update((name, value) for name, value in arguments.items() if value is not None)
        if "collation" in body:
            body["collation"] = collation_document(arguments["collation"])  # type: ignore[assignment]
        super().__init__(database, options, body)
        self.collection = collection


class DropDatabase(_Definition):
    """
    Drop a whole database.
    """

    name = "dropDatabase"

    def __init__(self, database: str, options: CommandOptions, *, comment: Any = None) -> None:
        body = add_options({"dropDatabase": 1}, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, options, body)


class RenameCollection(_Definition):
    """
    Rename a collection, perhaps into another database.

    @param source: the full name, database included.
    @param target: the full new name.
    @param arguments: C{drop_target}, C{comment}.
    """

    name = "renameCollection"

    def __init__(self, source: str, target: str, options: CommandOptions, **arguments: Any) -> None:
        body = {"renameCollection": source, "to": target}
        names = {"drop_target": "dropTarget", "comment": "comment"}
        super().__init__("admin", options, add_options(body, names, arguments))


class CreateIndexes(_Definition):
    """
    Create indexes.

    @param indexes: their specifications, C{key} and C{name} included.
    @param arguments: C{commit_quorum}, C{comment}, C{max_time_ms}.
    """

    name = "createIndexes"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        indexes: Sequence[Mapping[str, Any]],
        **arguments: Any,
    ) -> None:
        body = {"createIndexes": collection, "indexes": list(indexes)}
        names = {
            "commit_quorum": "commitQuorum",
            "comment": "comment",
            "max_time_ms": "maxTimeMS",
        }
        super().__init__(database, options, add_options(body, names, arguments))
        self.collection = collection


class DropIndexes(_Definition):
    """
    Drop indexes.

    @param index: a name, the keys, or C{"*"} for all but the one on C{_id}.
    @param arguments: C{comment}, C{max_time_ms}.
    """

    name = "dropIndexes"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        index: str | Mapping[str, Any],
        **arguments: Any,
    ) -> None:
        body = {"dropIndexes": collection, "index": index}
        names = {"comment": "comment", "max_time_ms": "maxTimeMS"}
        super().__init__(database, options, add_options(body, names, arguments))
        self.collection = collection


class ListCollections(CursorCommand):
    """
    The collections of a database.

    @param arguments: C{filter}, C{name_only}, C{authorized_collections},
        C{comment}.
    """

    name = "listCollections"
    retryable = True
    follows_read_preference = True

    def __init__(
        self,
        database: str,
        options: CommandOptions,
        *,
        batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {
            "listCollections": 1,
            "cursor": {} if batch_size is None else {"batchSize": batch_size},
        }
        names = {
            "filter": "filter",
            "name_only": "nameOnly",
            "authorized_collections": "authorizedCollections",
            "comment": "comment",
        }
        super().__init__(database, None, _on_primary(options), add_options(body, names, arguments))


class ListIndexes(CursorCommand):
    """
    The indexes of a collection.

    @param arguments: C{comment}.
    """

    name = "listIndexes"
    retryable = True
    follows_read_preference = True

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        *,
        batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {
            "listIndexes": collection,
            "cursor": {} if batch_size is None else {"batchSize": batch_size},
        }
        add_options(body, {"comment": "comment"}, arguments)
        super().__init__(database, collection, _on_primary(options), body)


class ListDatabases(Command[list[dict[str, Any]]]):
    """
    The databases of a deployment.

    @param arguments: C{filter}, C{name_only}, C{authorized_databases},
        C{comment}.
    """

    name = "listDatabases"
    retryable = True
    follows_read_preference = True

    def __init__(self, options: CommandOptions, **arguments: Any) -> None:
        super().__init__("admin", _on_primary(options))
        names = {
            "filter": "filter",
            "name_only": "nameOnly",
            "authorized_databases": "authorizedDatabases",
            "comment": "comment",
        }
        self._body = add_options({"listDatabases": 1}, names, arguments)

    def build(self, info: ConnectionInfo) -> Request:
        """The same document each time, copied."""
        return Request(dict(self._body))

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> list[dict[str, Any]]:
        """One document for each database."""
        databases: list[dict[str, Any]] = reply["databases"]
        return databases


class _TransactionEnd(Command[None]):
    is_write = True
    retryable = True

    def __init__(self, options: CommandOptions) -> None:
        super().__init__("admin", options)

    def build(self, info: ConnectionInfo) -> Request:
        """The command alone: its session adds the rest."""
        return Request({self.name: 1})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> None:
        """Nothing, if the write concern was met."""
        raise_write_concern_error(reply, reply)


class CommitTransaction(_TransactionEnd):
    """
    Commit the session's transaction.

    @param max_time_ms: how long the server may take.
    """

    name = "commitTransaction"

    def __init__(self, options: CommandOptions, *, max_time_ms: int | None = None) -> None:
        super().__init__(options)
        self._max_time_ms = max_time_ms

    def build(self, info: ConnectionInfo) -> Request:
        """The command with its time limit."""
        body: dict[str, Any] = {"commitTransaction": 1}
        if self._max_time_ms is not None:
            body["maxTimeMS"] = self._max_time_ms
        return Request(body)

    def retrying(self) -> None:
        """
        Ask for a majority from now on: a commit that is repeated must not
        be answered by a server that has it not durably.
        """
        concern = {"wtimeout": _COMMIT_WTIMEOUT, **self.options.write_concern.document}
        concern["w"] = "majority"
        self.options = replace(self.options, write_concern=WriteConcern(**concern))


class AbortTransaction(_TransactionEnd):
    """
    Abort the session's transaction.
    """

    name = "abortTransaction"


class _SessionList(Command[None]):
    follows_read_preference = True

    def __init__(self, ids: Sequence[Mapping[str, Any]], options: CommandOptions) -> None:
        super().__init__("admin", options)
        self._ids = list(ids)

    def build(self, info: ConnectionInfo) -> Request:
        """The C{lsid} documents."""
        return Request({self.name: self._ids})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> None:
        """Nothing."""


class EndSessions(_SessionList):
    """
    Tell a server that sessions will not be used any more.

    @param ids: their C{lsid} documents.
    """

    name = "endSessions"


class KillSessions(_SessionList):
    """
    End sessions together with their cursors and open transactions.

    @param ids: their C{lsid} documents.
    """

    name = "killSessions"
