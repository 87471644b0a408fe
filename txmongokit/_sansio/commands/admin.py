"""
Commands about databases, collections, sessions and transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from txmongokit._sansio.commands.arguments import add_options, collation_document
from txmongokit._sansio.commands.base import (
    Command,
    CommandOptions,
    CursorBatch,
    DocumentCommand,
    Request,
    without_classes,
)
from txmongokit._sansio.commands.read import CursorCommand
from txmongokit._sansio.commands.write import raise_write_concern_error
from txmongokit.errors import CollectionInvalid, ConfigurationError
from txmongokit.types import ConnectionInfo

__all__ = [
    "AbortTransaction",
    "CommitTransaction",
    "CreateCollection",
    "Definition",
    "Drop",
    "DropDatabase",
    "EndSessions",
    "KillSessions",
    "ListCollections",
    "ListDatabases",
    "ModifyCollection",
    "RenameCollection",
    "ServerInformation",
    "ValidateCollection",
    "on_primary",
]

NAMESPACE_NOT_FOUND = 26
"""What servers answer where there is no such collection."""

# How long a repeated commit waits for its majority (transactions specification).
_COMMIT_WTIMEOUT = 10_000


def on_primary(options: CommandOptions) -> CommandOptions:
    """
    Options for reading definitions: from the primary, whatever documents are
    read from.
    """
    return replace(options, read_preference=ReadPreference.PRIMARY)


class Definition(DocumentCommand[dict[str, Any]]):
    """
    A command that changes what there is: it takes a write concern and is
    not tried again.  Its result is the reply.

    @param tolerates_missing: whether it does not matter that there is no
        such collection.
    """

    is_write = True

    def __init__(
        self,
        database: str,
        collection: str | None,
        options: CommandOptions,
        body: dict[str, Any],
        *,
        tolerates_missing: bool = False,
    ) -> None:
        super().__init__(database, collection, options, body)
        self._tolerates_missing = tolerates_missing

    def tolerates(self, reply: Mapping[str, Any]) -> bool:
        """That there is no such collection, where it does not matter."""
        return self._tolerates_missing and _is_missing(reply)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply."""
        raise_write_concern_error(reply)
        return reply

    def unacknowledged(self) -> dict[str, Any]:
        """A reply that says nothing."""
        return {}


def _is_missing(reply: Mapping[str, Any]) -> bool:
    return reply.get("code") == NAMESPACE_NOT_FOUND or reply.get("errmsg") == "ns not found"


class Drop(Definition):
    """
    Drop a collection, if it is there.

    @raise ConfigurationError: C{encrypted_fields} is given.
    """

    name = "drop"
    operation = "dropCollection"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        *,
        comment: Any = None,
        encrypted_fields: Any = None,
    ) -> None:
        if encrypted_fields is not None:
            raise _not_encrypted("encrypted_fields")
        body = add_options({"drop": collection}, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, collection, options, body, tolerates_missing=True)


class CreateCollection(Definition):
    """
    Create a collection, view or time series.

    @param arguments: the server's own options (C{capped}, C{size},
        C{validator}, ...), sent as they are; a PyMongo C{Collation} will do.
    """

    name = "create"
    operation = "createCollection"

    def __init__(
        self, database: str, collection: str, options: CommandOptions, **arguments: Any
    ) -> None:
        body = _with_arguments({"create": collection}, arguments)
        super().__init__(database, collection, options, body)


class ModifyCollection(Definition):
    """
    Change a collection's or a view's options (C{collMod}).

    @param arguments: the server's own options, sent as they are.
    """

    name = "collMod"

    def __init__(
        self, database: str, collection: str, options: CommandOptions, **arguments: Any
    ) -> None:
        body = _with_arguments({"collMod": collection}, arguments)
        super().__init__(database, collection, options, body)


def _not_encrypted(option: str) -> ConfigurationError:
    return ConfigurationError(
        f"{option} needs client-side encryption, which this client does not have"
    )


def _with_arguments(body: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments.get("encryptedFields") is not None:
        raise _not_encrypted("encryptedFields")
    body.update((name, value) for name, value in arguments.items() if value is not None)
    if "collation" in body:
        body["collation"] = collation_document(body["collation"])
    return body


class ValidateCollection(DocumentCommand[dict[str, Any]]):
    """
    Look for damage in a collection (C{validate}).  Its result is the reply.

    @param arguments: C{scandata}, C{full}, C{background}, C{comment}.
    """

    name = "validate"

    def __init__(
        self, database: str, collection: str, options: CommandOptions, **arguments: Any
    ) -> None:
        names = {
            "scandata": "scandata",
            "full": "full",
            "background": "background",
            "comment": "comment",
        }
        body = add_options({"validate": collection}, names, arguments)
        super().__init__(database, collection, options, body)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """
        The reply.

        @raise CollectionInvalid: the collection, or a shard's part of it, is
            damaged.
        """
        for part in (reply, *reply.get("raw", {}).values()):
            text = part.get("result", "")
            if part.get("valid") is False or "exception" in text or "corrupt" in text:
                raise CollectionInvalid(
                    f"{self.namespace} is invalid: {part.get('errors') or text}"
                )
        return reply


class DropDatabase(Definition):
    """
    Drop a whole database.
    """

    name = "dropDatabase"

    def __init__(self, database: str, options: CommandOptions, *, comment: Any = None) -> None:
        body = add_options({"dropDatabase": 1}, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, None, options, body)


class RenameCollection(Definition):
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
        super().__init__("admin", None, options, add_options(body, names, arguments))
        self._source = source

    @property
    def namespace(self) -> str:
        """What is renamed; the command itself is the C{admin} database's."""
        return self._source


class ListCollections(CursorCommand):
    """
    The collections of a database.

    @param arguments: C{filter}, C{name_only}, C{authorized_collections},
        C{comment}, C{raw_data}.
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
            "raw_data": "rawData",
        }
        body = add_options(body, names, arguments)
        super().__init__(database, None, without_classes(on_primary(options)), body)


class ListDatabases(CursorCommand):
    """
    The databases of a deployment: all in one batch.

    @param arguments: C{filter}, C{name_only}, C{authorized_databases},
        C{comment}.
    """

    name = "listDatabases"
    retryable = True
    follows_read_preference = True

    def __init__(self, options: CommandOptions, **arguments: Any) -> None:
        names = {
            "filter": "filter",
            "name_only": "nameOnly",
            "authorized_databases": "authorizedDatabases",
            "comment": "comment",
        }
        body = add_options({"listDatabases": 1}, names, arguments)
        super().__init__("admin", None, without_classes(on_primary(options)), body)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> CursorBatch:
        """One document for each database."""
        return CursorBatch(0, "admin.$cmd", reply["databases"], info.address, reply)


class ServerInformation(DocumentCommand[dict[str, Any]]):
    """
    What server it is (C{buildInfo}).  Its result is the reply.
    """

    name = "buildInfo"
    retryable = True
    follows_read_preference = True

    def __init__(self, options: CommandOptions) -> None:
        super().__init__("admin", None, on_primary(options), {"buildInfo": 1})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply."""
        return reply


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
