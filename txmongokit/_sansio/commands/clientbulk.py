"""
Bulk writes over any collections of a deployment: the C{bulkWrite} command of
MongoDB 8.0.

Follows the CRUD specification's C{bulk-write}.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.results import ClientBulkWriteResult, DeleteResult, InsertOneResult, UpdateResult

from txmongokit._pymongo import (
    NODE_RECOVERING_CODES,
    NOT_PRIMARY_CODES,
    add_to_client_bulk,
    discreet,
)
from txmongokit._sansio.commands.arguments import add_options, check_mapping
from txmongokit._sansio.commands.base import (
    Command,
    CommandOptions,
    CursorBatch,
    Request,
    sendable,
)
from txmongokit._sansio.commands.bulk import (
    check_replacement,
    check_update,
    demands_of,
    ensure_id,
)
from txmongokit._sansio.commands.write import (
    bulk_failure,
    check_unacknowledged,
    raise_write_concern_error,
)
from txmongokit.errors import (
    ClientBulkWriteException,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidName,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from txmongokit.types import ConnectionInfo

__all__ = ["BulkWriteCommand", "ClientBulkWrite", "results_codec"]

_WIRE_VERSION = 25
# What the specification keeps free in a message for everything but the
# command's own fields.
_MESSAGE_OVERHEAD = 1000
_DOCUMENT_OVERHEAD = 16 * 1024
_RETRYABLE = "RetryableWriteError"
_STATE_CHANGE_CODES = NOT_PRIMARY_CODES | NODE_RECOVERING_CODES
_LABELS = (
    "NoWritesPerformed",
    "RetryableError",
    "RetryableWriteError",
    "SystemOverloadedError",
    "TransientTransactionError",
    "UnknownTransactionCommitResult",
)
_COUNTS = ("nInserted", "nUpserted", "nMatched", "nModified", "nDeleted")

_COMMAND_OPTIONS = {
    "bypass_document_validation": "bypassDocumentValidation",
    "comment": "comment",
    "let": "let",
    "raw_data": "rawData",
}
_UPDATE_OPTIONS = {
    "upsert": "upsert",
    "array_filters": "arrayFilters",
    "hint": "hint",
    "collation": "collation",
    "sort": "sort",
}
_DELETE_OPTIONS = {"hint": "hint", "collation": "collation"}

# Where the first element of {"insert": 0, ...} has its value; "update" and
# "delete" are as long.
_NAMESPACE_START = 4 + 1 + len(b"insert\x00")
_NAMESPACE_END = _NAMESPACE_START + 4


class _Operation:
    """
    One write.

    @ivar kind: C{"insert"}, C{"update"} or C{"delete"}.
    @ivar encoded: its document in the command, for the first namespace.
    @ivar stored: the size of what is to be stored, 0 where that depends.
    @ivar document: what error details show of it.
    """

    __slots__ = ("document", "encoded", "kind", "multi", "namespace", "stored")

    def __init__(
        self,
        kind: str,
        namespace: str,
        document: dict[str, Any],
        encoded: bytes,
        *,
        multi: bool = False,
        stored: int = 0,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.document = document
        self.encoded = encoded
        self.multi = multi
        self.stored = stored


class BulkWriteCommand(Command[CursorBatch]):
    """
    As many operations as one message takes, from L{offset} on.  Its result
    is the first batch of the cursor of results.

    @ivar unsettled: a result whose unmet write concern was raised, C{None}
        otherwise: it counts, unless the command is tried again.
    @param body: the command without operations.
    @param demands: see L{check_unacknowledged}.
    """

    name = "bulkWrite"
    is_write = True

    def __init__(
        self,
        options: CommandOptions,
        body: dict[str, Any],
        operations: Sequence[_Operation],
        offset: int,
        demands: Iterable[str],
    ) -> None:
        super().__init__("admin", options)
        self.offset = offset
        self.taken = 0
        self.unsettled: CursorBatch | None = None
        self._body = body
        self._operations = operations
        self._demands = demands
        self._sequences: tuple[tuple[str, Sequence[bytes]], ...] = ()

    def build(self, info: ConnectionInfo) -> Request:
        """
        The next operations; those of the last try where there was no reply.

        @raise InvalidOperation: the server is older than MongoDB 8.0, or an
            operation is larger than a message.
        @raise DocumentTooLarge: nobody would learn that an unacknowledged
            write is.
        @raise ConfigurationError: see L{check_unacknowledged}.
        """
        if info.max_wire_version < _WIRE_VERSION:
            raise InvalidOperation(
                "a client's bulk_write needs MongoDB 8.0 or later: use that of each collection"
            )
        acknowledged = self.options.write_concern.acknowledged
        if self._demands and not acknowledged:
            check_unacknowledged(self.name, self._demands, info)
        if not self.taken:
            self._take(info, acknowledged)
        return Request(sendable(self._body, info), self._sequences)

    def _take(self, info: ConnectionInfo, acknowledged: bool) -> None:
        command_size = len(bson.encode(self._body, False, self.options.codec_options))
        room = info.max_message_size - _MESSAGE_OVERHEAD - command_size
        namespaces: dict[str, int] = {}
        encoded: list[bytes] = []
        end = min(len(self._operations), self.offset + info.max_write_batch_size)
        retryable = True
        for position in range(self.offset, end):
            operation = self._operations[position]
            if not acknowledged:
                _check_size(operation, info)
            size = len(operation.encoded)
            index = namespaces.get(operation.namespace)
            if index is None:
                size += len(_namespace_document(operation.namespace))
            room -= size
            if room < 0:
                break
            if index is None:
                index = namespaces[operation.namespace] = len(namespaces)
            encoded.append(_in_namespace(operation.encoded, index))
            retryable = retryable and not operation.multi
        if not encoded:
            raise InvalidOperation(
                f"operation {self.offset} of the bulk write does not fit into a message of "
                f"{info.max_message_size} bytes"
            )
        self.taken = len(encoded)
        self.retryable = retryable
        names = [_namespace_document(name) for name in namespaces]
        self._sequences = (("ops", encoded), ("nsInfo", names))

    def retrying(self) -> None:
        """The next try's reply counts, whatever it says."""
        self.unsettled = None

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply as plain dictionaries; see L{results_codec}."""
        return bson.decode(raw, results_codec(self.options))

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> CursorBatch:
        """
        The first results.

        @raise WriteConcernError: it was not met, and whoever runs commands
            has to know.
        """
        cursor = reply["cursor"]
        batch = CursorBatch(cursor["id"], cursor["ns"], cursor["firstBatch"], info.address, reply)
        error = reply.get("writeConcernError")
        if error and (
            (self.retryable and _RETRYABLE in reply.get("errorLabels", ()))
            or error.get("code") in _STATE_CHANGE_CODES
        ):
            self.unsettled = batch
            raise_write_concern_error(reply)
        return batch

    def unacknowledged(self) -> CursorBatch:
        """Nothing is known."""
        return CursorBatch(0, "", [], ("", None), {})


def results_codec(options: CommandOptions) -> CodecOptions[dict[str, Any]]:
    """
    How results of single operations are decoded: what was upserted looks as
    in the user's documents, but for the user's own types, as the numbers in
    between are ours.
    """
    return options.codec_options.with_options(
        document_class=dict, type_registry=DEFAULT_CODEC_OPTIONS.type_registry
    )


def _namespace_document(namespace: str) -> bytes:
    return bson.encode({"ns": namespace})


def _in_namespace(encoded: bytes, index: int) -> bytes:
    if not index:
        return encoded
    number = index.to_bytes(4, "little")
    return encoded[:_NAMESPACE_START] + number + encoded[_NAMESPACE_END:]


def _check_size(operation: _Operation, info: ConnectionInfo) -> None:
    for size, limit in (
        (operation.stored, info.max_bson_size),
        (len(operation.encoded), info.max_bson_size + _DOCUMENT_OVERHEAD),
    ):
        if size > limit:
            raise DocumentTooLarge(
                f"a document of {size} bytes cannot be sent in bulkWrite: "
                f"the server takes {limit} bytes at most"
            )


class ClientBulkWrite:
    """
    The operations of a bulk write, and what became of them.

    @param command_options: how the commands are run.
    @param verbose: whether each operation's result is wanted.
    @param arguments: C{bypass_document_validation}, C{comment}, C{let},
        C{raw_data}.
    @ivar options: the C{command_options}.
    @ivar comment: for the commands that fetch results.
    """

    def __init__(
        self,
        command_options: CommandOptions,
        *,
        ordered: bool = True,
        verbose: bool = False,
        **arguments: Any,
    ) -> None:
        self.options = command_options
        self.comment = arguments.get("comment")
        self._ordered = ordered
        self._verbose = verbose
        self._codec = command_options.codec_options
        body = {"bulkWrite": 1, "errorsOnly": not verbose, "ordered": ordered}
        self._body = add_options(body, _COMMAND_OPTIONS, arguments)
        self._operations: list[_Operation] = []
        self._demands: set[str] = set()
        self._command: BulkWriteCommand | None = None
        self._observed = False
        self._result: dict[str, Any] = {
            "anySuccessful": False,
            "error": None,
            "writeErrors": [],
            "writeConcernErrors": [],
            **dict.fromkeys(_COUNTS, 0),
            "insertResults": {},
            "updateResults": {},
            "deleteResults": {},
        }

    # What PyMongo's operations call.

    def add(self, operation: Any) -> None:
        """
        Add one of PyMongo's write operations.

        @raise TypeError: it is none.
        @raise InvalidOperation: it has no namespace.
        """
        add_to_client_bulk(operation, self)

    def add_insert(self, namespace: str, document: Any) -> None:
        """
        Insert a document, which is given an C{_id} if it has none.
        """
        ensure_id(document)
        stored = bson.encode(document, False, self._codec)
        encoded = bson.encode({"insert": 0, "document": RawBSONDocument(stored)})
        shown = {"insert": -1, "document": document}
        self._add("insert", namespace, shown, encoded, stored=len(stored))

    def add_update(
        self,
        namespace: str,
        selector: Mapping[str, Any],
        update: Any,
        multi: bool,
        upsert: bool | None = None,
        **options: Any,
    ) -> None:
        """
        Change one document or many.
        """
        check_update(update)
        self._add_change(namespace, selector, update, multi, {"upsert": upsert, **options})

    def add_replace(
        self,
        namespace: str,
        selector: Mapping[str, Any],
        replacement: Mapping[str, Any],
        upsert: bool | None = None,
        **options: Any,
    ) -> None:
        """
        Replace one document.
        """
        check_replacement(replacement)
        stored = len(bson.encode(replacement, False, self._codec))
        self._add_change(
            namespace, selector, replacement, False, {"upsert": upsert, **options}, stored
        )

    def _add_change(
        self,
        namespace: str,
        selector: Mapping[str, Any],
        update: Any,
        multi: bool,
        options: dict[str, Any],
        stored: int = 0,
    ) -> None:
        check_mapping("filter", selector)
        document = {"update": 0, "filter": selector, "updateMods": update, "multi": multi}
        add_options(document, _UPDATE_OPTIONS, options)
        self._demands.update(demands_of(options))
        encoded = bson.encode(document, False, self._codec)
        self._add("update", namespace, document, encoded, multi=multi, stored=stored)

    def add_delete(
        self, namespace: str, selector: Mapping[str, Any], multi: bool, **options: Any
    ) -> None:
        """
        Delete one document or many.
        """
        check_mapping("filter", selector)
        document = {"delete": 0, "filter": selector, "multi": multi}
        add_options(document, _DELETE_OPTIONS, options)
        self._demands.update(demands_of(options))
        encoded = bson.encode(document, False, self._codec)
        self._add("delete", namespace, document, encoded, multi=multi)

    def _add(
        self,
        kind: str,
        namespace: str,
        document: dict[str, Any],
        encoded: bytes,
        *,
        multi: bool = False,
        stored: int = 0,
    ) -> None:
        if not isinstance(namespace, str):
            raise TypeError(f"namespace must be a string, not {type(namespace).__name__}")
        database, _, collection = namespace.partition(".")
        if not database or not collection:
            raise InvalidName(f"the namespace {namespace!r} must be database.collection")
        self._operations.append(
            _Operation(kind, namespace, document, encoded, multi=multi, stored=stored)
        )

    def check(self) -> None:
        """
        @raise InvalidOperation: there is nothing to write.
        """
        if not self._operations:
            raise InvalidOperation("there is nothing to write: the list is empty")

    # Running it.

    def commands(self) -> Iterator[BulkWriteCommand]:
        """
        What to send, in order.  After each, L{settle} takes its result, and
        L{record} that of each fetch from its cursor; L{finish} comes last.
        """
        offset = 0
        while offset < len(self._operations):
            self._command = command = BulkWriteCommand(
                self.options, self._body, self._operations, offset, self._demands
            )
            yield command
            if self.stopped:
                return
            offset += command.taken

    @property
    def stopped(self) -> bool:
        """
        Whether an operation failed and those after it are not to be tried.
        """
        return self._ordered and bool(self._result["writeErrors"])

    def settle(self, batch: CursorBatch) -> None:
        """
        Take the result of what was sent last.
        """
        command, reply, result = self._command, batch.reply, self._result
        assert command is not None
        if not reply:
            return
        self._observed = True
        for name in _COUNTS:
            result[name] += reply.get(name, 0)
        if reply.get("writeConcernError"):
            result["writeConcernErrors"].append(reply["writeConcernError"])
        errors = reply.get("nErrors", 0)
        if self._ordered:
            first = next((each["idx"] for each in batch.documents if not each["ok"]), 0)
            succeeded = not errors or first > 0
        else:
            succeeded = errors < command.taken
        result["anySuccessful"] = result["anySuccessful"] or succeeded
        self.record(batch.documents)

    def record(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """
        Take results of single operations.
        """
        command, result = self._command, self._result
        assert command is not None
        for document in documents:
            index = command.offset + document["idx"]
            operation = self._operations[index]
            if not document["ok"]:
                result["writeErrors"].append({**document, "idx": index})
                if self._ordered:
                    return
            elif self._verbose:
                result[f"{operation.kind}Results"][index] = _single_result(operation, document)

    def failure(self, error: PyMongoError) -> PyMongoError:
        """
        What to raise for an error that ended everything: with it, what was
        done before.
        """
        untouched = not isinstance(error, (OperationFailure, ConnectionFailure)) or isinstance(
            error, (ServerSelectionTimeoutError, WaitQueueTimeoutError)
        )
        if untouched and not self._observed:
            return error
        result = self._result
        result["error"] = error
        labels = [label for label in _LABELS if error.has_error_label(label)]
        if labels:
            result["errorLabels"] = labels
        return self._exception()

    def _exception(self) -> ClientBulkWriteException:
        errors = self._result["writeErrors"]
        errors.sort(key=lambda error: error["idx"])
        raised = discreet(
            ClientBulkWriteException(self._result, self._verbose), bulk_failure(errors)
        )
        # Afterwards, so that no document gets into the error's text.
        for error in errors:
            error["op"] = self._operations[error["idx"]].document
        return raised

    def finish(self) -> ClientBulkWriteResult:
        """
        The result of it all.

        @raise ClientBulkWriteException: some of it failed.
        """
        result = self._result
        if not self.options.write_concern.acknowledged:
            return ClientBulkWriteResult({}, False, False)
        if result["writeErrors"] or result["writeConcernErrors"]:
            raise self._exception()
        return ClientBulkWriteResult(result, True, self._verbose)


def _single_result(operation: _Operation, document: Mapping[str, Any]) -> Any:
    if operation.kind == "insert":
        inserted = operation.document["document"]
        return InsertOneResult(inserted.get("_id"), True)
    if operation.kind == "update":
        return UpdateResult(document, True, in_client_bulk=True)
    return DeleteResult(document, True)
