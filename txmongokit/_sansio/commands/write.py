"""
Commands that write documents: insert, update, delete and findAndModify.

Statements are encoded before the command exists and travel as document
sequences, so that sizes are known before anything is sent and replicated
statements need no decoding.  Follows the CRUD, bulk and retryable-writes
specifications.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import bson
from bson.codec_options import CodecOptions
from pymongo.results import DeleteResult, InsertOneResult, UpdateResult

from txmongokit._pymongo import (
    NODE_RECOVERING_CODES,
    NOT_PRIMARY_CODES,
    decode_selective,
    discreet,
)
from txmongokit._sansio.commands.arguments import add_options, names_one_document
from txmongokit._sansio.commands.base import (
    Command,
    CommandOptions,
    DocumentCommand,
    Request,
    sendable,
)
from txmongokit.errors import (
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    WriteConcernError,
    WriteError,
    WTimeoutError,
)
from txmongokit.types import ConnectionInfo

__all__ = [
    "Batches",
    "BulkOutcome",
    "Delete",
    "DeleteStatement",
    "FindAndModify",
    "Insert",
    "InsertStatement",
    "RawWrite",
    "Statements",
    "Update",
    "UpdateStatement",
    "check_unacknowledged",
    "delete_statement",
    "is_prompt",
    "is_small_change",
    "raise_write_concern_error",
    "raise_write_errors",
    "raw_write_command",
    "update_statement",
]

ResultT = TypeVar("ResultT")

# What a server allows a command beyond the largest user document, and what
# we leave free in a message for the command's own document.
_COMMAND_OVERHEAD = 16 * 1024
_DUPLICATE_KEY = frozenset({11000, 11001, 12582})
_WRITE_CONCERN_FAILED = 64
_RETRYABLE = "RetryableWriteError"
_STATE_CHANGE_CODES = NOT_PRIMARY_CODES | NODE_RECOVERING_CODES


def raise_write_concern_error(
    reply: Mapping[str, Any], details: Mapping[str, Any] | None = None
) -> None:
    """
    Raise if the reply says that its write concern was not met.

    The error's C{details} carry the reply's C{errorLabels}, by which it is
    tried again, and C{topologyVersion}, by which a server's shutdown is told
    from one that is over.

    @param details: what they are to be, if not the C{writeConcernError}
        document with these.

    @raise WTimeoutError: not in time.
    @raise WriteConcernError: for another reason; with the code of a server
        that stepped down or shuts down, too.
    """
    error = reply.get("writeConcernError")
    if not error:
        return
    if details is None:
        details = {**error, **_envelope(reply)}
    message = error.get("errmsg", "the write concern was not met")
    code = error.get("code")
    if error.get("errInfo", {}).get("wtimeout") or code == _WRITE_CONCERN_FAILED:
        raise discreet(WTimeoutError(message, code, details), message)
    raise discreet(WriteConcernError(message, code, details), message)


def _envelope(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What of a reply belongs to every error in it."""
    return {name: reply[name] for name in ("errorLabels", "topologyVersion") if reply.get(name)}


def raise_write_errors(reply: Mapping[str, Any]) -> None:
    """
    Raise the first failed statement of a reply, or else its unmet write
    concern.

    The error's C{details} are the statement's error document (C{index},
    C{code}, C{errmsg}) with the reply's C{n} and C{errorLabels}.

    @raise DuplicateKeyError: a unique index has the key already.
    @raise WriteError: the server refused a statement.
    @raise WriteConcernError: see L{raise_write_concern_error}.
    """
    errors = reply.get("writeErrors")
    if not errors:
        raise_write_concern_error(reply)
        return
    first = errors[0]
    details = {**first, "n": reply.get("n", 0), **_envelope(reply)}
    code = first.get("code")
    kind = DuplicateKeyError if code in _DUPLICATE_KEY else WriteError
    message = first.get("errmsg", "the server refused the write")
    raise discreet(kind(message, code, details), message)


# What servers know of in unacknowledged writes: an older one would ignore the
# option, and nobody would learn of it (CRUD specification).
_UNACKNOWLEDGED_SINCE = {
    ("update", "hint"): 8,
    ("delete", "hint"): 9,
    ("findAndModify", "hint"): 9,
    ("update", "sort"): 25,
}
_NEVER_UNACKNOWLEDGED = frozenset({"collation", "array_filters", "arrayFilters"})


def check_unacknowledged(name: str, demands: Iterable[str], info: ConnectionInfo) -> None:
    """
    Refuse what an unacknowledged write cannot ask for.

    @param name: the command's name.
    @param demands: which options it has.
    @raise ConfigurationError: the server may ignore one of them in silence.
    """
    for demand in demands:
        if demand in _NEVER_UNACKNOWLEDGED:
            raise ConfigurationError(
                f"{demand} needs an acknowledged write: pass a write concern other than w=0"
            )
        if info.max_wire_version < _UNACKNOWLEDGED_SINCE.get((name, demand), 0):
            raise ConfigurationError(
                f"this server may ignore {demand} in an unacknowledged {name}: "
                "pass a write concern other than w=0"
            )


# An insert up to this size takes no longer than other point commands.
_SMALL = 64 * 1024


def is_prompt(options: CommandOptions) -> bool:
    """
    Whether a write concern lets a write be answered without a wait for other
    members or the journal, beyond what the server does by default.
    """
    concern = options.write_concern
    return concern.is_server_default or concern.document in ({"w": 1}, {"w": 0})


def is_small_change(filter: Any, update: Any, options: CommandOptions, **arguments: Any) -> bool:
    """
    Whether changing one document takes no more than one look into an index:
    its filter is an C{_id} and no stage or option makes the server think.

    @param update: C{None} for a deletion.
    """
    return (
        names_one_document(filter)
        and (update is None or isinstance(update, Mapping))
        and is_prompt(options)
        and all(value is None or name == "upsert" for name, value in arguments.items())
    )


_STATEMENTS_OPTIONS = {
    "bypass_document_validation": "bypassDocumentValidation",
    "comment": "comment",
    "let": "let",
    "raw_data": "rawData",
}


class Statements(Command[ResultT], Generic[ResultT]):
    """
    Statements of one kind, sent in as few commands as limits allow.

    Each run sends as many as one message takes, from L{offset} on; run it
    until it is L{done}.

    @cvar field: the document sequence's name.
    @ivar offset: how many statements replies have been seen for.
    @ivar unsettled: a reply whose unmet write concern was raised, C{None}
        otherwise: it counts, unless the write is tried again.
    @param demands: see L{check_unacknowledged}.
    @param arguments: C{bypass_document_validation}, C{comment}, C{let},
        C{raw_data}.
    """

    is_write = True
    field: ClassVar[str]

    def __init__(
        self,
        database: str,
        collection: str,
        statements: Sequence[bytes],
        options: CommandOptions,
        *,
        ordered: bool = True,
        retryable: bool = True,
        demands: Iterable[str] = (),
        **arguments: Any,
    ) -> None:
        self.database = database
        self.collection = collection
        self.options = options
        self.retryable = retryable
        self._demands = demands
        self.offset = 0
        self.unsettled: dict[str, Any] | None = None
        self._statements = statements
        self._taken = 0
        self._body: dict[str, Any] = {self.name: collection, "ordered": ordered}
        self._reserve = _COMMAND_OVERHEAD
        if arguments:
            add_options(self._body, _STATEMENTS_OPTIONS, arguments)
            if len(self._body) > 2:
                self._reserve += len(bson.encode(self._body, False, options.codec_options))

    @property
    def namespace(self) -> str:
        """C{database.collection}."""
        return f"{self.database}.{self.collection}"

    @property
    def done(self) -> bool:
        """
        Whether all statements have been sent.
        """
        return self.offset >= len(self._statements)

    def build(self, info: ConnectionInfo) -> Request:
        """
        The next statements; those of the last try where there was no reply.

        @raise DocumentTooLarge: a statement exceeds the server's limit.
            Raised before the first statement is sent.
        @raise ConfigurationError: see L{check_unacknowledged}.
        """
        if self._demands and not self.options.write_concern.acknowledged:
            check_unacknowledged(self.name, self._demands, info)
        if not self._taken:
            if not self.offset:
                self._check_sizes(info)
            self._taken = self._fitting(info)
        statements = self._statements
        if self._taken != len(statements):
            statements = statements[self.offset : self.offset + self._taken]
        return Request(sendable(self._body, info), ((self.field, statements),))

    def _check_sizes(self, info: ConnectionInfo) -> None:
        limit = info.max_bson_size
        if self.name != "insert":
            limit += _COMMAND_OVERHEAD
        largest = max(map(len, self._statements), default=0)
        if largest > limit:
            raise DocumentTooLarge(
                f"a document of {largest} bytes cannot be sent in {self.name}: "
                f"the server takes {limit} bytes at most"
            )

    def _fitting(self, info: ConnectionInfo) -> int:
        most = min(len(self._statements) - self.offset, info.max_write_batch_size)
        room = info.max_message_size - self._reserve
        statements = self._statements
        if most == len(statements) and sum(map(len, statements)) <= room:
            return most  # Nearly always; a loop would take as long as all the rest.
        taken = 0
        for statement in islice(statements, self.offset, self.offset + most):
            room -= len(statement)
            if room < 0 and taken:
                break
            taken += 1
        return taken

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply, with what was upserted in the command's codec options."""
        return decode_selective(raw, self.options.codec_options, {"upserted": {"_id": 1}})

    def retrying(self) -> None:
        """The next try's reply counts, whatever it says."""
        self.unsettled = None

    def settle(self) -> int:
        """
        Move past the statements that were sent last.

        @return: how many they were.
        """
        taken, self._taken = self._taken, 0
        self.offset += taken
        self.unsettled = None
        return taken

    def _check_concern(self, reply: dict[str, Any]) -> None:
        # Raised where the layer that runs commands has to know: to try again,
        # or because the server is no primary any more.
        error = reply.get("writeConcernError")
        if error and (
            (self.retryable and _RETRYABLE in reply.get("errorLabels", ()))
            or error.get("code") in _STATE_CHANGE_CODES
        ):
            self.unsettled = reply
            raise_write_concern_error(reply)


class Batches(Statements[dict[str, Any]]):
    """
    Many statements: replies are handed out for L{BulkOutcome} to judge.
    """

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply, failed statements included."""
        self._check_concern(reply)
        return reply

    def unacknowledged(self) -> dict[str, Any]:
        """A reply that says nothing."""
        return {}


class Insert(Batches):
    """
    C{insert} of encoded documents.
    """

    name = "insert"
    field = "documents"


class Update(Batches):
    """
    C{update} with encoded statements (see L{update_statement}).
    """

    name = "update"
    field = "updates"


class Delete(Batches):
    """
    C{delete} with encoded statements (see L{delete_statement}).
    """

    name = "delete"
    field = "deletes"


class InsertStatement(Statements[InsertOneResult]):
    """
    C{insert} of one document.

    @param document: it, encoded.
    @param inserted_id: what the result reports.
    """

    name = "insert"
    field = "documents"

    def __init__(
        self,
        database: str,
        collection: str,
        document: bytes,
        options: CommandOptions,
        *,
        inserted_id: Any = None,
        **arguments: Any,
    ) -> None:
        super().__init__(database, collection, (document,), options, **arguments)
        self.inserted_id = inserted_id
        self.shareable = len(document) <= _SMALL and is_prompt(options)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> InsertOneResult:
        """The result, or the reason why nothing was inserted."""
        raise_write_errors(reply)
        return InsertOneResult(self.inserted_id, True)

    def unacknowledged(self) -> InsertOneResult:
        """The result that is known without a reply."""
        return InsertOneResult(self.inserted_id, False)


class UpdateStatement(Statements[UpdateResult]):
    """
    C{update} with one statement.
    """

    name = "update"
    field = "updates"

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> UpdateResult:
        """The result, or the reason why nothing was updated."""
        raise_write_errors(reply)
        upserted = reply.get("upserted")
        if upserted:
            reply = {**reply, "upserted": upserted[0]["_id"]}
        return UpdateResult(reply, True)

    def unacknowledged(self) -> UpdateResult:
        """A result that knows nothing."""
        return UpdateResult({}, False)


class DeleteStatement(Statements[DeleteResult]):
    """
    C{delete} with one statement.
    """

    name = "delete"
    field = "deletes"

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> DeleteResult:
        """The result, or the reason why nothing was deleted."""
        raise_write_errors(reply)
        return DeleteResult(reply, True)

    def unacknowledged(self) -> DeleteResult:
        """A result that knows nothing."""
        return DeleteResult({}, False)


class RawWrite(Statements[dict[str, Any]]):
    """
    Encoded statements that go out in exactly one message.

    Its result is the server's reply; a statement that failed is an error
    (see L{raise_write_errors}).
    """

    @property
    def size(self) -> int:  # type: ignore[override]  # worked out where it is asked for
        """
        Bytes of all statements.
        """
        return sum(map(len, self._statements))

    def build(self, info: ConnectionInfo) -> Request:
        """
        All the statements.

        @raise DocumentTooLarge: they do not fit into one message.
        """
        request = super().build(info)
        sent = len(request.sequences[0][1])
        if sent != len(self._statements):
            self._taken = 0
            raise DocumentTooLarge(
                f"{len(self._statements)} statements are more than one message takes "
                f"({info.max_message_size} bytes, {info.max_write_batch_size} statements): "
                "split them"
            )
        return request

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply."""
        raise_write_errors(reply)
        return reply

    def unacknowledged(self) -> dict[str, Any]:
        """A reply that says nothing."""
        return {}


class _RawInsert(RawWrite):
    name = "insert"
    field = "documents"


class _RawUpdate(RawWrite):
    name = "update"
    field = "updates"


class _RawDelete(RawWrite):
    name = "delete"
    field = "deletes"


_RAW_WRITES = {"insert": _RawInsert, "update": _RawUpdate, "delete": _RawDelete}


def raw_write_command(
    database: str,
    collection: str,
    kind: str,
    statements: Sequence[bytes],
    options: CommandOptions,
    *,
    ordered: bool = True,
    retryable: bool = False,
    **arguments: Any,
) -> RawWrite:
    """
    A L{RawWrite} of a kind.

    @param kind: C{"insert"}, C{"update"} or C{"delete"}.
    @param retryable: whether the statements may be sent twice under one
        transaction number: none of them may touch several documents.
    @param arguments: see L{Statements}.

    @raise ValueError: there is no such kind.
    """
    if kind not in _RAW_WRITES:
        raise ValueError(f"kind must be 'insert', 'update' or 'delete', not {kind!r}")
    return _RAW_WRITES[kind](
        database,
        collection,
        statements,
        options,
        ordered=ordered,
        retryable=retryable,
        **arguments,
    )


_STATEMENT_OPTIONS = {
    "upsert": "upsert",
    "collation": "collation",
    "array_filters": "arrayFilters",
    "hint": "hint",
    "sort": "sort",
}


def update_statement(
    codec: CodecOptions[Any],
    filter: Mapping[str, Any],
    update: Any,
    *,
    multi: bool = False,
    **arguments: Any,
) -> bytes:
    """
    One statement of an update command, encoded.

    @param update: operators, a pipeline or a whole document.
    @param arguments: C{upsert}, C{collation}, C{array_filters}, C{hint},
        C{sort}.
    """
    statement: dict[str, Any] = {"q": filter, "u": update}
    if multi:
        statement["multi"] = True
    add_options(statement, _STATEMENT_OPTIONS, arguments)
    return bson.encode(statement, False, codec)


def delete_statement(
    codec: CodecOptions[Any], filter: Mapping[str, Any], *, multi: bool = False, **arguments: Any
) -> bytes:
    """
    One statement of a delete command, encoded.

    @param arguments: C{collation}, C{hint}.
    """
    statement: dict[str, Any] = {"q": filter, "limit": 0 if multi else 1}
    names = {"collation": "collation", "hint": "hint"}
    return bson.encode(add_options(statement, names, arguments), False, codec)


class BulkOutcome:
    """
    The replies to the commands of one bulk write, put together.

    @ivar result: in the form of PyMongo's C{bulk_api_result}.
    """

    def __init__(self) -> None:
        self.result: dict[str, Any] = {
            "writeErrors": [],
            "writeConcernErrors": [],
            "nInserted": 0,
            "nUpserted": 0,
            "nMatched": 0,
            "nModified": 0,
            "nRemoved": 0,
            "upserted": [],
        }
        self._labels: list[str] = []

    @property
    def failed(self) -> bool:
        """
        Whether a statement failed: an ordered bulk write ends there.
        """
        return bool(self.result["writeErrors"])

    def merge(self, kind: str, reply: Mapping[str, Any], indexes: Sequence[int]) -> None:
        """
        Add one reply.

        @param kind: the command's name.
        @param indexes: of the statements that it is about, within the whole.
        """
        result = self.result
        count = reply.get("n", 0)
        if kind == "insert":
            result["nInserted"] += count
        elif kind == "delete":
            result["nRemoved"] += count
        else:
            upserted = reply.get("upserted", ())
            result["upserted"].extend(
                {**item, "index": indexes[item["index"]]} for item in upserted
            )
            result["nUpserted"] += len(upserted)
            result["nMatched"] += count - len(upserted)
            result["nModified"] += reply.get("nModified", 0)
        for error in reply.get("writeErrors", ()):
            result["writeErrors"].append({**error, "index": indexes[error["index"]]})
        if reply.get("writeConcernError"):
            result["writeConcernErrors"].append(reply["writeConcernError"])
        for label in reply.get("errorLabels", ()):
            if label not in self._labels:
                self._labels.append(label)

    def check(self, operations: Sequence[Any]) -> None:
        """
        Raise if anything failed.

        @param operations: what was asked for, by index; each error's
            C{op} in C{details}, never part of its text.
        @raise BulkWriteError: C{details} is L{result}.
        """
        result = self.result
        errors = result["writeErrors"]
        if not errors and not result["writeConcernErrors"]:
            return
        errors.sort(key=lambda error: error["index"])
        if self._labels:
            result["errorLabels"] = self._labels
        raised = discreet(BulkWriteError(result), bulk_failure(errors))
        for error in errors:
            error["op"] = operations[error["index"]]
        raise raised


def bulk_failure(errors: Sequence[Mapping[str, Any]]) -> str:
    """
    What is said of a bulk write of which these statements failed.
    """
    text = "batch op errors occurred"
    if errors:
        text += f": {len(errors)} failed, the first of them with {errors[0].get('errmsg')}"
    return text


_MODIFY_OPTIONS = {
    "sort": "sort",
    "projection": "fields",
    "upsert": "upsert",
    "new": "new",
    "array_filters": "arrayFilters",
    "bypass_document_validation": "bypassDocumentValidation",
    "collation": "collation",
    "comment": "comment",
    "hint": "hint",
    "let": "let",
    "max_time_ms": "maxTimeMS",
    "raw_data": "rawData",
}


class FindAndModify(DocumentCommand[Any]):
    """
    C{findAndModify}: change or remove one document and give it back.

    @param update: operators, a pipeline or a whole document; C{None}
        removes the document.
    @param arguments: the other options, by their Python names.
    """

    name = "findAndModify"
    is_write = True
    retryable = True

    def __init__(
        self,
        database: str,
        collection: str,
        options: CommandOptions,
        filter: Mapping[str, Any],
        update: Any = None,
        **arguments: Any,
    ) -> None:
        body: dict[str, Any] = {"findAndModify": collection, "query": filter}
        if update is None:
            body["remove"] = True
        else:
            body["update"] = update
        super().__init__(
            database, collection, options, add_options(body, _MODIFY_OPTIONS, arguments)
        )
        self._demands = [
            name for name in ("collation", "array_filters", "hint") if arguments.get(name)
        ]

    def build(self, info: ConnectionInfo) -> Request:
        """
        The same document each time, copied.

        @raise ConfigurationError: see L{check_unacknowledged}.
        """
        if self._demands and not self.options.write_concern.acknowledged:
            check_unacknowledged(self.name, self._demands, info)
        return super().build(info)

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply, with the document in the command's codec options."""
        return decode_selective(raw, self.options.codec_options, {"value": 1})

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> Any:
        """
        The document, or C{None} if there was none.

        @raise WriteConcernError: it was changed, but the write concern is
            not met.
        """
        raise_write_concern_error(reply)
        return reply.get("value")

    def unacknowledged(self) -> None:
        """Nothing is known."""
