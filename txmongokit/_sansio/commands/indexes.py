"""
Commands about the indexes of a collection, search indexes included.

Follows the index-management specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bson.int64 import Int64
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from txmongokit._sansio.commands.admin import NAMESPACE_NOT_FOUND, Definition, on_primary
from txmongokit._sansio.commands.arguments import add_options
from txmongokit._sansio.commands.base import (
    CommandOptions,
    CursorBatch,
    DocumentCommand,
    Request,
    without_classes,
)
from txmongokit._sansio.commands.read import CursorCommand
from txmongokit.errors import ConfigurationError
from txmongokit.types import ConnectionInfo

__all__ = [
    "CreateIndexes",
    "CreateSearchIndexes",
    "DropIndexes",
    "DropSearchIndex",
    "ListIndexes",
    "UpdateSearchIndex",
    "without_concerns",
]

_COMMIT_QUORUM_WIRE_VERSION = 9


class CreateIndexes(Definition):
    """
    Create indexes.

    @param indexes: their specifications, C{key} and C{name} included.
    @param arguments: C{commit_quorum}, C{comment}, C{max_time_ms},
        C{raw_data}.
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
            "raw_data": "rawData",
        }
        super().__init__(database, collection, options, add_options(body, names, arguments))

    def build(self, info: ConnectionInfo) -> Request:
        """
        The same document each time, copied.

        @raise ConfigurationError: the server knows no commit quorum.
        """
        if "commitQuorum" in self._body and info.max_wire_version < _COMMIT_QUORUM_WIRE_VERSION:
            raise ConfigurationError("commit_quorum needs MongoDB 4.4 or later: leave it out")
        return super().build(info)


class DropIndexes(Definition):
    """
    Drop indexes, if the collection is there.

    @param index: a name, the keys, or C{"*"} for all but the one on C{_id}.
    @param arguments: C{comment}, C{max_time_ms}, C{raw_data}.
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
        names = {"comment": "comment", "max_time_ms": "maxTimeMS", "raw_data": "rawData"}
        add_options(body, names, arguments)
        super().__init__(database, collection, options, body, tolerates_missing=True)


class ListIndexes(CursorCommand):
    """
    The indexes of a collection; none where there is no collection.

    @param arguments: C{comment}, C{raw_data}.
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
        add_options(body, {"comment": "comment", "raw_data": "rawData"}, arguments)
        super().__init__(database, collection, without_classes(on_primary(options)), body)

    def tolerates(self, reply: Mapping[str, Any]) -> bool:
        """That there is no collection."""
        return reply.get("code") == NAMESPACE_NOT_FOUND

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> CursorBatch:
        """The batch; an empty one where there is no collection."""
        if reply.get("code") == NAMESPACE_NOT_FOUND:
            return CursorBatch(Int64(0), self.namespace, [], info.address, reply)
        return super().parse(reply, info)


def without_concerns(options: CommandOptions) -> CommandOptions:
    """
    Options for commands about search indexes, which take no concerns.
    """
    return replace(options, read_concern=ReadConcern(), write_concern=WriteConcern())


class _SearchCommand(DocumentCommand[dict[str, Any]]):
    def __init__(
        self, database: str, collection: str, options: CommandOptions, body: dict[str, Any]
    ) -> None:
        super().__init__(database, collection, without_concerns(options), body)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply."""
        return reply


class CreateSearchIndexes(_SearchCommand):
    """
    Begin to create search indexes.  Its result is the reply.

    @param indexes: for each its C{definition}, and perhaps its C{name} and
        C{type}.
    @param comment: for the server's logs and profiler.
    """

    name = "createSearchIndexes"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        indexes: Sequence[Mapping[str, Any]],
        *,
        comment: Any = None,
    ) -> None:
        body = {"createSearchIndexes": collection, "indexes": list(indexes)}
        add_options(body, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, collection, options, body)


class UpdateSearchIndex(_SearchCommand):
    """
    Begin to change a search index.  Its result is the reply.

    @param comment: for the server's logs and profiler.
    """

    name = "updateSearchIndex"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        index: str,
        definition: Mapping[str, Any],
        *,
        comment: Any = None,
    ) -> None:
        body = {"updateSearchIndex": collection, "name": index, "definition": definition}
        add_options(body, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, collection, options, body)


class DropSearchIndex(_SearchCommand):
    """
    Drop a search index, if the collection is there.  Its result is the
    reply.

    @param comment: for the server's logs and profiler.
    """

    name = "dropSearchIndex"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        index: str,
        *,
        comment: Any = None,
    ) -> None:
        body = {"dropSearchIndex": collection, "name": index}
        add_options(body, {"comment": "comment"}, {"comment": comment})
        super().__init__(database, collection, options, body)

    def tolerates(self, reply: Mapping[str, Any]) -> bool:
        """That there is no collection."""
        return reply.get("code") == NAMESPACE_NOT_FOUND
