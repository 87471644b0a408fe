"""
Commands that read: find, aggregate, distinct, counts, and what cursors need.

Follows the CRUD and find/getMore/killCursors specifications.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions
from bson.int64 import Int64
from pymongo.read_preferences import ReadPreference
from pymongo.server_type import SERVER_TYPE

from txmongokit import rawbson
from txmongokit._pymongo import decode_selective
from txmongokit._sansio.commands.arguments import (
    add_options,
    is_plain_projection,
    names_one_document,
)
from txmongokit._sansio.commands.base import (
    Command,
    CommandOptions,
    CursorBatch,
    DocumentCommand,
    Request,
    sendable,
)
from txmongokit._sansio.commands.write import raise_write_concern_error
from txmongokit.errors import InvalidOperation, ProtocolError
from txmongokit.types import Address, ConnectionInfo

__all__ = [
    "Aggregate",
    "AggregateWrite",
    "Count",
    "CountDocuments",
    "CursorCommand",
    "Distinct",
    "EstimatedCount",
    "Find",
    "FindOne",
    "GetMore",
    "KillCursors",
    "MapReduce",
    "aggregate_command",
]

_BATCH_FIELDS = {"cursor": {"firstBatch": 1, "nextBatch": 1}}
_NO_TYPES = DEFAULT_CODEC_OPTIONS.type_registry

# How nearly every cursor reply begins: the element "cursor", in it the batch.
_CURSOR = b"\x03cursor\x00"
_BATCHES = (b"\x04firstBatch\x00", b"\x04nextBatch\x00")
_EMPTY_ARRAY = b"\x05\x00\x00\x00\x00"


def _decode(raw: bytes, codec: CodecOptions[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A reply in which only the user's documents go through the user's codec."""
    if codec is DEFAULT_CODEC_OPTIONS or (
        codec.document_class is dict and codec.type_registry == _NO_TYPES
    ):
        reply: dict[str, Any] = bson.decode(raw, codec)
        return reply
    return decode_selective(raw, codec, fields)


def _decode_raw(raw: bytes) -> dict[str, Any]:
    """A reply whose batch stays a list of each document's bytes."""
    for batch in _BATCHES:
        start = 16 + len(batch)
        if raw[4:12] == _CURSOR and raw[16:start] == batch:
            break
    else:
        return _decode_raw_slowly(raw)
    documents = rawbson.cursor_batch(raw)[2]
    # The same reply with an empty batch is small and decodes at once.
    cut = int.from_bytes(raw[start : start + 4], "little") - len(_EMPTY_ARRAY)
    outer = int.from_bytes(raw[:4], "little") - cut
    inner = int.from_bytes(raw[12:16], "little") - cut
    reply = bson.decode(
        outer.to_bytes(4, "little")
        + _CURSOR
        + inner.to_bytes(4, "little")
        + batch
        + _EMPTY_ARRAY
        + raw[start + cut + len(_EMPTY_ARRAY) :]
    )
    reply["cursor"][batch[1:-1].decode()] = documents
    return reply


def _decode_raw_slowly(raw: bytes) -> dict[str, Any]:
    reply: dict[str, Any] = bson.decode(raw)
    cursor = reply.get("cursor")
    if cursor is not None:
        documents = rawbson.cursor_batch(raw)[2]
        cursor["firstBatch" if "firstBatch" in cursor else "nextBatch"] = documents
    return reply


class CursorCommand(DocumentCommand[CursorBatch]):
    """
    A command whose reply is a batch of a cursor.

    @ivar collection: the collection's name, C{None} where it is about a
        whole database.
    @ivar raw: whether documents stay bytes.
    """

    def __init__(
        self,
        database: str,
        collection: str | None,
        options: CommandOptions,
        body: dict[str, Any],
        *,
        raw: bool = False,
    ) -> None:
        super().__init__(database, collection, options, body)
        self.raw = raw

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply; its batch with the command's codec options, or raw."""
        if self.raw:
            return _decode_raw(raw)
        return _decode(raw, self.options.codec_options, _BATCH_FIELDS)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> CursorBatch:
        """
        The batch.

        @raise ProtocolError: there is none.
        """
        try:
            cursor = reply["cursor"]
            documents = cursor.get("firstBatch")
            if documents is None:
                documents = cursor["nextBatch"]
        except (KeyError, AttributeError):
            raise ProtocolError(
                f"the server's reply to {next(iter(self._body))} has no batch"
            ) from None
        return CursorBatch(cursor["id"], cursor["ns"], documents, info.address, reply)


_FIND_OPTIONS = {
    "projection": "projection",
    "sort": "sort",
    "skip": "skip",
    "hint": "hint",
    "min": "min",
    "max": "max",
    "collation": "collation",
    "comment": "comment",
    "let": "let",
    "max_scan": "maxScan",
    "max_time_ms": "maxTimeMS",
    "allow_disk_use": "allowDiskUse",
    "allow_partial_results": "allowPartialResults",
    "no_cursor_timeout": "noCursorTimeout",
    "return_key": "returnKey",
    "show_record_id": "showRecordId",
    "tailable": "tailable",
    "await_data": "awaitData",
    "oplog_replay": "oplogReplay",
    "raw_data": "rawData",
}


def _is_point_query(
    filter: Mapping[str, Any] | None, arguments: Mapping[str, Any], options: CommandOptions
) -> bool:
    """Whether a find of one document needs no more than one look into an index."""
    if not names_one_document(filter) or options.read_concern.level == "linearizable":
        return False
    for name, value in arguments.items():
        if name == "projection":
            if not is_plain_projection(value):
                return False
        elif name != "comment" and value is not None:
            return False
    return True


def _add_find_options(body: dict[str, Any], arguments: Mapping[str, Any]) -> None:
    """Write a find's options; C{snapshot}, which servers do not know any more, as a hint."""
    if "snapshot" in arguments:
        arguments = dict(arguments)
        if arguments.pop("snapshot"):
            if arguments.get("sort") is not None or arguments.get("hint") is not None:
                raise ValueError("snapshot goes with neither sort nor hint")
            arguments["hint"] = {"_id": 1}
    add_options(body, _FIND_OPTIONS, arguments)


class Find(CursorCommand):
    """
    C{find}, answered by a cursor.

    @param limit: the most documents in all; a negative one asks for a
        single batch, 0 for all.
    @param batch_size: documents in the first batch.
    @param arguments: the other options, by their Python names.
    @ivar exhaust: whether the server will be asked to stream.
    @ivar wire_version: of the server that it was sent to.
    """

    name = "find"
    is_read = True
    retryable = True
    exhaust = False
    wire_version = 0

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any] | None = None,
        *,
        limit: int = 0,
        batch_size: int | None = None,
        raw: bool = False,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {"find": collection, "filter": {} if filter is None else filter}
        if arguments:
            _add_find_options(body, arguments)
        if limit:
            body["limit"] = abs(limit)
            if limit < 0:
                body["singleBatch"] = True
        if batch_size is not None:
            # With a first batch as large as the limit, the server would keep
            # a cursor open that has nothing more to give.
            body["batchSize"] = batch_size + 1 if 0 < batch_size == limit else batch_size
        super().__init__(database, collection, options, body, raw=raw)
        self.shareable = limit in (1, -1) and _is_point_query(filter, arguments, options)

    def build(self, info: ConnectionInfo) -> Request:
        """
        The same document each time, without what this server ignores.

        @raise InvalidOperation: the server cannot stream.
        """
        if self.exhaust and info.server_type == SERVER_TYPE.Mongos:
            raise InvalidOperation("a mongos has no exhaust cursors: use another cursor_type")
        self.wire_version = info.max_wire_version
        body = sendable(self._body, info)
        if "oplogReplay" in body and info.max_wire_version >= 9:
            # From 4.4 on the server optimises by itself and warns about the flag.
            del body["oplogReplay"]
        return Request(body)


class FindOne(Command[Any]):
    """
    C{find} for the first match, without a cursor.

    Its result is the document, or C{None}.
    """

    name = "find"
    is_read = True
    retryable = True

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.database = database
        self.collection = collection
        self.options = options
        body: dict[str, Any] = {"find": collection, "filter": {} if filter is None else filter}
        if arguments:
            _add_find_options(body, arguments)
        body["limit"] = 1
        body["singleBatch"] = True
        self._body = body
        self.shareable = _is_point_query(filter, arguments or {}, options)

    @property
    def namespace(self) -> str:
        """C{database.collection}."""
        return f"{self.database}.{self.collection}"

    def build(self, info: ConnectionInfo) -> Request:
        """The same document each time, copied."""
        return Request(sendable(self._body, info))

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply, with the document in the command's codec options."""
        return _decode(raw, self.options.codec_options, _BATCH_FIELDS)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> Any:
        """The document or C{None}."""
        try:
            batch = reply["cursor"]["firstBatch"]
        except (KeyError, TypeError):
            raise ProtocolError("the server's reply to find has no first batch") from None
        return batch[0] if batch else None


class GetMore(CursorCommand):
    """
    C{getMore}: the next batch, from the server that holds the cursor.

    @param max_time_ms: how long a tailable-await cursor may wait.
    """

    name = "getMore"
    sends_max_time = False

    def __init__(
        self,
        namespace: str,
        cursor_id: int,
        address: Address,
        options: CommandOptions,
        *,
        batch_size: int | None = None,
        max_time_ms: int | None = None,
        comment: Any = None,
        raw: bool = False,
    ) -> None:
        database, _, collection = namespace.partition(".")
        body: dict[str, Any] = {"getMore": Int64(cursor_id), "collection": collection}
        if batch_size:
            body["batchSize"] = batch_size
        if max_time_ms is not None:
            body["maxTimeMS"] = max_time_ms
        self._comment = comment
        super().__init__(database, collection, options, body, raw=raw)
        self.address = address
        self.cursor_ids = (cursor_id,)

    def build(self, info: ConnectionInfo) -> Request:
        """The same document each time; the comment only where it is known."""
        body = self._body.copy()
        if self._comment is not None and info.max_wire_version >= 9:
            body["comment"] = self._comment
        return Request(body)


class KillCursors(Command[Mapping[str, Any]]):
    """
    C{killCursors} on the server that holds them.
    """

    name = "killCursors"

    def __init__(
        self, namespace: str, cursor_ids: Sequence[int], address: Address, options: CommandOptions
    ) -> None:
        database, _, self.collection = namespace.partition(".")
        super().__init__(database, options)
        self.address = address
        self.cursor_ids = cursor_ids
        self._ids = [Int64(cursor_id) for cursor_id in cursor_ids]

    @property
    def namespace(self) -> str:
        """C{database.collection}."""
        return f"{self.database}.{self.collection}"

    def build(self, info: ConnectionInfo) -> Request:
        """The same document each time."""
        return Request({"killCursors": self.collection, "cursors": self._ids})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> Mapping[str, Any]:
        """The reply: which cursors were killed, and which not."""
        return reply


_AGGREGATE_OPTIONS = {
    "allow_disk_use": "allowDiskUse",
    "bypass_document_validation": "bypassDocumentValidation",
    "collation": "collation",
    "comment": "comment",
    "hint": "hint",
    "let": "let",
    "max_time_ms": "maxTimeMS",
    "raw_data": "rawData",
}


class Aggregate(CursorCommand):
    """
    C{aggregate} that only reads.

    @param collection: C{None} for a pipeline about the whole database.
    @param batch_size: documents in the first batch.
    @param arguments: the other options, by their Python names.
    """

    name = "aggregate"
    is_read = True
    retryable = True

    def __init__(
        self,
        database: str,
        collection: str | None,
        options: CommandOptions,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        batch_size: int | None = None,
        raw: bool = False,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {
            "aggregate": 1 if collection is None else collection,
            "pipeline": list(pipeline),
        }
        add_options(body, _AGGREGATE_OPTIONS, arguments)
        body["cursor"] = self._cursor(batch_size)
        super().__init__(database, collection, options, body, raw=raw)

    @staticmethod
    def _cursor(batch_size: int | None) -> dict[str, Any]:
        return {} if batch_size is None else {"batchSize": batch_size}


# MongoDB 5.0, whose secondaries run pipelines that write.
_WRITING_SECONDARIES = 13


class _PipelineWritePreference:
    """
    Where a pipeline that writes goes: where its read preference says, if all
    servers let secondaries run it, and otherwise to the primary (CRUD
    specification, "read preferences and server selection").

    It is given where a read preference is asked for.
    """

    def __init__(self, preference: Any) -> None:
        self._wanted = preference
        self._chosen = preference

    def settle(self, wire_version: int | None) -> None:
        """Decide by what all the servers in question know."""
        old = wire_version is not None and wire_version < _WRITING_SECONDARIES
        self._chosen = ReadPreference.PRIMARY if old else self._wanted

    def __call__(self, selection: Any) -> Any:
        self.settle(selection.common_wire_version)
        return self._chosen(selection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chosen, name)

    def __str__(self) -> str:
        return str(self._chosen)


class AggregateWrite(Aggregate):
    """
    C{aggregate} that ends in C{$out} or C{$merge}: it takes a write concern
    and is never tried twice.
    """

    is_read = False
    is_write = True
    retryable = False

    def __init__(
        self,
        database: str,
        collection: str | None,
        options: CommandOptions,
        *args: Any,
        **arguments: Any,
    ) -> None:
        if options.read_preference.mode:
            self.follows_read_preference = True
            preference = _PipelineWritePreference(options.read_preference)
            options = replace(options, read_preference=preference)
        super().__init__(database, collection, options, *args, **arguments)

    @staticmethod
    def _cursor(batch_size: int | None) -> dict[str, Any]:
        # An empty first batch would hold back the stage that writes.
        return {} if not batch_size else {"batchSize": batch_size}

    def build(self, info: ConnectionInfo) -> Request:
        """The document with its read concern, which writes have not otherwise."""
        if self.follows_read_preference:
            self.options.read_preference.settle(info.max_wire_version)
        body = sendable(self._body, info)
        if self.options.read_concern.level is not None:
            body["readConcern"] = self.options.read_concern.document
        return Request(body)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> CursorBatch:
        """The (empty) batch."""
        raise_write_concern_error(reply)
        return super().parse(reply, info)

    def unacknowledged(self) -> CursorBatch:
        """A batch with nothing in it."""
        return CursorBatch(0, self.namespace, [], ("", None), {})


def aggregate_command(
    database: str,
    collection: str | None,
    options: CommandOptions,
    pipeline: Sequence[Mapping[str, Any]],
    **arguments: Any,
) -> Aggregate:
    """
    The kind of aggregate that suits the pipeline's last stage.

    @raise TypeError: the pipeline is no sequence of stages.
    """
    if isinstance(pipeline, (str, bytes, Mapping)) or not isinstance(pipeline, Sequence):
        raise TypeError(f"pipeline must be a list of stages, not {type(pipeline).__name__}")
    kind = Aggregate
    if pipeline and ("$out" in pipeline[-1] or "$merge" in pipeline[-1]):
        kind = AggregateWrite
    return kind(database, collection, options, pipeline, **arguments)


_COUNT_DOCUMENTS_OPTIONS = {
    "collation": "collation",
    "comment": "comment",
    "hint": "hint",
    "let": "let",
    "max_time_ms": "maxTimeMS",
    "raw_data": "rawData",
}


class CountDocuments(DocumentCommand[int]):
    """
    The number of documents that match, by an aggregation.
    """

    name = "aggregate"
    operation = "countDocuments"
    is_read = True
    retryable = True

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any],
        *,
        skip: int | None = None,
        limit: int | None = None,
        **arguments: Any,
    ) -> None:
        pipeline: list[dict[str, Any]] = [{"$match": filter}]
        if skip:
            pipeline.append({"$skip": skip})
        if limit:
            pipeline.append({"$limit": limit})
        pipeline.append({"$group": {"_id": 1, "n": {"$sum": 1}}})
        body: dict[str, Any] = {"aggregate": collection, "pipeline": pipeline}
        add_options(body, _COUNT_DOCUMENTS_OPTIONS, arguments)
        body["cursor"] = {}
        super().__init__(database, collection, options, body)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> int:
        """The number; 0 where the pipeline gave nothing."""
        batch = reply["cursor"]["firstBatch"]
        return int(batch[0]["n"]) if batch else 0


_COUNT_OPTIONS = {
    "fields": "fields",
    "skip": "skip",
    "limit": "limit",
    "hint": "hint",
    "collation": "collation",
    "comment": "comment",
    "max_time_ms": "maxTimeMS",
    "raw_data": "rawData",
}


class Count(DocumentCommand[int]):
    """
    C{count}: fast without a filter, as it then trusts the collection's
    metadata, and inexact after an unclean shutdown and on shards.

    @param arguments: C{skip}, C{limit}, C{hint}, C{collation}, C{comment},
        C{max_time_ms}, C{raw_data}.
    """

    name = "count"
    is_read = True
    retryable = True

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {"count": collection}
        if filter is not None:
            body["query"] = filter
        super().__init__(
            database, collection, options, add_options(body, _COUNT_OPTIONS, arguments)
        )

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> int:
        """The number."""
        return int(reply["n"])


_ESTIMATED_COUNT_OPTIONS = ("max_time_ms", "maxTimeMS", "comment", "raw_data")


class EstimatedCount(Count):
    """
    C{count} of all documents.

    @param arguments: C{comment}, C{max_time_ms}, C{raw_data}.
    """

    def __init__(
        self, database: str, collection: str, options: CommandOptions, **arguments: Any
    ) -> None:
        for name in arguments:
            if name not in _ESTIMATED_COUNT_OPTIONS:
                raise TypeError(f"estimated_document_count has no option {name!r}")
        super().__init__(database, collection, options, **arguments)


_DISTINCT_OPTIONS = {
    "collation": "collation",
    "comment": "comment",
    "hint": "hint",
    "max_time_ms": "maxTimeMS",
    "raw_data": "rawData",
}


class Distinct(DocumentCommand[list[Any]]):
    """
    The different values of one field.
    """

    name = "distinct"
    is_read = True
    retryable = True

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        key: str,
        filter: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {"distinct": collection, "key": key}
        if filter is not None:
            body["query"] = filter
        super().__init__(
            database, collection, options, add_options(body, _DISTINCT_OPTIONS, arguments)
        )

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply, with the values in the command's codec options."""
        return _decode(raw, self.options.codec_options, {"values": 1})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> list[Any]:
        """The values."""
        values: list[Any] = reply["values"]
        return values


_MAP_REDUCE_OPTIONS = {
    "query": "query",
    "sort": "sort",
    "limit": "limit",
    "finalize": "finalize",
    "scope": "scope",
    "js_mode": "jsMode",
    "verbose": "verbose",
    "bypass_document_validation": "bypassDocumentValidation",
    "collation": "collation",
    "comment": "comment",
    "max_time_ms": "maxTimeMS",
}


class MapReduce(DocumentCommand[dict[str, Any]]):
    """
    C{mapReduce}, which is never tried twice.  Its result is the reply.

    @param out: C{{"inline": 1}}, or where the results go: then it is a write.
    @param arguments: C{query}, C{sort}, C{limit}, C{finalize}, C{scope},
        C{js_mode}, C{verbose}, C{bypass_document_validation}, C{collation},
        C{comment}, C{max_time_ms}.
    """

    name = "mapReduce"

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        map: Any,
        reduce: Any,
        out: str | Mapping[str, Any],
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {"mapReduce": collection, "map": map, "reduce": reduce, "out": out}
        self.is_read = isinstance(out, Mapping) and "inline" in out
        self.is_write = not self.is_read
        super().__init__(
            database, collection, options, add_options(body, _MAP_REDUCE_OPTIONS, arguments)
        )

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply, with the results in the command's codec options."""
        return _decode(raw, self.options.codec_options, {"results": 1})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply."""
        raise_write_concern_error(reply)
        return reply

    def unacknowledged(self) -> dict[str, Any]:
        """A reply that says nothing."""
        return {}
