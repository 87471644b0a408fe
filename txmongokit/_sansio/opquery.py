"""
The conversation with servers that have no OP_MSG, which came with MongoDB 3.6.

Commands travel in OP_QUERY there, and before MongoDB 3.2 find, getMore and
killCursors are no commands at all but messages of their own.  Whoever sends
commands need not know: L{QueryExchange} takes and gives what
L{Exchange} does.

Follows the specifications I{find, getMore and killCursors commands},
I{Server Selection} ("Passing read preference to mongos") and I{Read and Write
Concern}, and the server manual's page on the legacy opcodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from txmongokit._sansio.compression import Compressor
from txmongokit._sansio.exchange import Exchange, Reply
from txmongokit._sansio.messages import (
    OpGetMore,
    OpKillCursors,
    OpQuery,
    OpReply,
    Sequences,
    encode,
    encode_compressed,
    inline_sequences,
)
from txmongokit._sansio.wireversions import COMMAND_CURSORS, OP_MSG
from txmongokit.errors import ConfigurationError, ProtocolError
from txmongokit.types import (
    QUERY_AWAIT_DATA,
    QUERY_NO_CURSOR_TIMEOUT,
    QUERY_OPLOG_REPLAY,
    QUERY_PARTIAL,
    QUERY_SLAVE_OK,
    QUERY_TAILABLE_CURSOR,
)

__all__ = ["QueryExchange"]

_GREETINGS = ("hello", "isMaster", "ismaster")
# A command's own fields, with what is in them left alone.
_SHALLOW: CodecOptions[Any] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS
)
# The most statements in one command, on every server before OP_MSG.
_OLD_BATCH_SIZE = 1000
# What newer servers tell that such a server cannot.
_NEW_IN_HELLO = (
    "logicalSessionTimeoutMinutes",
    "topologyVersion",
    "$clusterTime",
    "operationTime",
)

_FIND_FLAGS = {
    "tailable": QUERY_TAILABLE_CURSOR,
    "oplogReplay": QUERY_OPLOG_REPLAY,
    "noCursorTimeout": QUERY_NO_CURSOR_TIMEOUT,
    "awaitData": QUERY_AWAIT_DATA,
    "allowPartialResults": QUERY_PARTIAL,
}
_FIND_MODIFIERS = {
    "sort": "$orderby",
    "hint": "$hint",
    "comment": "$comment",
    "maxTimeMS": "$maxTimeMS",
    "min": "$min",
    "max": "$max",
    "maxScan": "$maxScan",
    "returnKey": "$returnKey",
    "showRecordId": "$showDiskLoc",
    "snapshot": "$snapshot",
}
_FIND_NUMBERS = frozenset({"limit", "skip", "batchSize", "singleBatch"})

# What no server without OP_MSG, or only its later ones, know: an older one
# would ignore it and do something else than asked for.
_SINCE: Mapping[str, tuple[int, str]] = {
    "readConcern": (4, "3.2"),
    "collation": (5, "3.4"),
    "arrayFilters": (6, "3.6"),
    "let": (13, "5.0"),
}
_SINCE_IN: Mapping[tuple[str, str], tuple[int, str]] = {
    ("find", "allowDiskUse"): (9, "4.4"),
    ("aggregate", "hint"): (6, "3.6"),
    ("update", "hint"): (8, "4.2"),
    ("delete", "hint"): (9, "4.4"),
    ("findAndModify", "hint"): (9, "4.4"),
    ("update", "sort"): (25, "8.0"),
}
_STATEMENTS = {"updates": "update", "deletes": "delete", "indexes": "createIndexes"}
# Since when commands take a write concern; all others, since 3.4.
_WRITE_CONCERN_SINCE = {"insert": 2, "update": 2, "delete": 2, "findAndModify": 4}
_WRITE_CONCERN_ELSE = 5
_VALIDATION_SINCE = 4

_Answer = Callable[[OpReply, bytes], bytes]


class QueryExchange(Exchange):
    """
    The client's side of a connection to a server that has no OP_MSG, or is
    not known yet: its greeting is understood by all (handshake specification).

    @param limit: take the server for one of this wire version at most, for
        tests with servers that know both ways.
    @ivar wire_version: what the server has told in answer to C{hello}.
    """

    __slots__ = ("_answers", "_limit", "_mongos", "wire_version")

    def __init__(
        self,
        *,
        limit: int | None = None,
        wire_version: int = 0,
        compressor: Compressor | None = None,
    ) -> None:
        super().__init__(compressor=compressor)
        self.wire_version = wire_version
        self._limit = limit
        self._mongos = False
        # How the reply to a request is understood; None for one that nobody
        # is to learn of.
        self._answers: dict[int, _Answer | None] = {}

    @property
    def in_flight(self) -> int:
        """
        How many requests the server has yet to answer, those aside that
        somebody would not have answered.
        """
        return len(self._expected) - sum(answer is None for answer in self._answers.values())

    @property
    def max_message_size(self) -> int:
        """
        The longest message to send or accept, in bytes.  What a server of
        that age tells is about OP_MSG's documents and does not count.
        """
        return self._max_message_size

    @max_message_size.setter
    def max_message_size(self, size: int) -> None:
        pass

    def settled(self) -> Exchange:
        """
        What to go on with when C{hello} is answered: this very exchange, or
        one for OP_MSG where the server has that.
        """
        if self._limit is None and self.wire_version >= OP_MSG:
            exchange = Exchange()
            exchange._last_id = self._last_id
            return exchange
        return self

    def send(
        self,
        body: bytes,
        sequences: Sequences = (),
        *,
        more_to_come: bool = False,
        exhaust_allowed: bool = False,
        compress: bool = True,
    ) -> tuple[int, bytes]:
        """
        Begin a request.

        @param body: an encoded command with its C{$db}, as for OP_MSG.
        @param more_to_come: nobody waits for the answer.  The server gives
            one, which is swallowed.
        @param exhaust_allowed: makes no difference: there is one answer,
            and the next must be asked for.

        @return: the request's number and the bytes to write.

        @raise ConfigurationError: the server does not know an option, and
            would do something else than asked for.
        """
        self._check_turn(False)
        command = dict(bson.decode(body, _SHALLOW))
        database = command.pop("$db")
        name = next(iter(command))
        if name not in _GREETINGS:
            command.pop("$clusterTime", None)
            self._check(name, command, sequences)
        request_id = self._next_id()
        message, answer = self._translated(database, name, command, sequences)
        data = encode(message, request_id)
        if len(data) > self._max_message_size:
            raise self._too_large(len(data))
        if compress and self.compressor is not None:
            data = encode_compressed(data, self.compressor.number, self.compressor.compress)
        if isinstance(message, OpKillCursors):
            # It has no answer; the one to what follows tells that it was read.
            request_id = self._next_id()
            data += encode(_command("admin", {"ping": 1}, 0), request_id)
        self._expect_legacy(request_id)
        self._answers[request_id] = None if more_to_come else answer
        return request_id, data

    def _settle(
        self, own_id: int, response_to: int, flags: int, body: bytes, legacy: OpReply | None
    ) -> Reply | None:
        reply = super()._settle(own_id, response_to, flags, body, legacy)
        if response_to not in self._answers:
            return reply
        answer = self._answers.pop(response_to)
        if reply is None or answer is None or reply.legacy is None:
            return None
        return reply._replace(body=answer(reply.legacy, reply.body))

    # What to send.

    def _translated(
        self, database: str, name: str, command: dict[str, Any], sequences: Sequences
    ) -> tuple[OpQuery | OpGetMore | OpKillCursors, _Answer]:
        old = self.wire_version < COMMAND_CURSORS
        if name in _GREETINGS:
            return _command(database, command, 0), self._greeted
        if old and name == "find":
            namespace = f"{database}.{command['find']}"
            return self._find(namespace, command, explain=False), _first_batch(namespace)
        if old and name == "explain" and "find" in command["explain"]:
            find = dict(command["explain"])
            for shared in ("maxTimeMS", "$readPreference"):
                if shared in command:
                    find[shared] = command[shared]
            return self._find(f"{database}.{find['find']}", find, explain=True), _explained
        if old and name == "getMore":
            namespace = f"{database}.{command['collection']}"
            size = command.get("batchSize", 0)
            return OpGetMore(namespace, command["getMore"], size), _next_batch(namespace)
        if old and name == "killCursors":
            cursor_ids = tuple(command["cursors"])
            return OpKillCursors(cursor_ids), _killed(cursor_ids)
        preference = command.pop("$readPreference", None)
        flags, wrapped = self._preference(preference)
        return _command(database, command, flags, wrapped, sequences), _only_document

    def _preference(
        self, preference: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, Any] | None]:
        """The query flags for a read preference, and it, if a mongos must see it."""
        if preference is None or preference["mode"] == "primary":
            return 0, None
        plain = preference["mode"] == "secondaryPreferred" and len(list(preference)) == 1
        return QUERY_SLAVE_OK, preference if self._mongos and not plain else None

    def _find(self, namespace: str, command: dict[str, Any], *, explain: bool) -> OpQuery:
        """A find as a query (find, getMore and killCursors specification)."""
        flags, preference = self._preference(command.pop("$readPreference", None))
        query = command.pop("filter", {})
        modifiers: dict[str, Any] = {}
        for name, value in command.items():
            if name in _FIND_FLAGS:
                flags |= _FIND_FLAGS[name] if value else 0
            elif name in _FIND_MODIFIERS:
                modifiers[_FIND_MODIFIERS[name]] = value
            elif name not in _FIND_NUMBERS and name not in ("find", "projection"):
                raise ConfigurationError(
                    f"this server (wire version {self.wire_version}) knows no {name} in find: "
                    "leave it out or upgrade the server"
                )
        if explain:
            modifiers["$explain"] = True
        if preference is not None:
            modifiers["$readPreference"] = preference
        if modifiers or "query" in query:
            # Some still write the whole message's document themselves.
            query = {**(query if "$query" in query else {"$query": query}), **modifiers}
        projection = command.get("projection")
        return OpQuery(
            namespace,
            _encoded(query),
            None if projection is None else _encoded(projection),
            flags,
            command.get("skip", 0),
            _number_to_return(command),
        )

    # What the server does not know.

    def _check(self, name: str, command: dict[str, Any], sequences: Sequences) -> None:
        version = self.wire_version
        if "writeConcern" in command and version < _WRITE_CONCERN_SINCE.get(
            name, _WRITE_CONCERN_ELSE
        ):
            # The specification leaves no choice.
            del command["writeConcern"]
        if version < _VALIDATION_SINCE:
            command.pop("bypassDocumentValidation", None)
        self._refuse_unknown(name, command)
        if name == "aggregate":
            stages = command.get("pipeline")
            if stages and "$changeStream" in stages[0]:
                raise self._unknown("change streams", "3.6")
        for field, statement_name in _STATEMENTS.items():
            for statement in command.get(field, ()):
                self._refuse_unknown(statement_name, statement)
        for field, documents in sequences:
            if field in _STATEMENTS:
                for raw in documents:
                    self._refuse_unknown(_STATEMENTS[field], RawBSONDocument(raw))

    def _refuse_unknown(self, name: str, options: Mapping[str, Any]) -> None:
        for option in options:
            since = _SINCE.get(option) or _SINCE_IN.get((name, option))
            if since is not None and self.wire_version < since[0]:
                raise self._unknown(option, since[1])

    def _unknown(self, what: str, since: str) -> ConfigurationError:
        return ConfigurationError(
            f"{what}: MongoDB {since} is needed, and this server has wire version "
            f"{self.wire_version}: leave it out or upgrade the server"
        )

    # What comes back.

    def _greeted(self, message: OpReply, body: bytes) -> bytes:
        body = _only_document(message, body)
        reply = bson.decode(body)
        version = reply.get("maxWireVersion", 0)
        if not reply.get("ok") or not isinstance(version, int):
            return body
        self._mongos = reply.get("msg") == "isdbgrid"
        self.wire_version = version
        if self._limit is None or version <= self._limit:
            return body
        self.wire_version = self._limit
        pretended = {name: value for name, value in reply.items() if name not in _NEW_IN_HELLO}
        pretended["maxWireVersion"] = self._limit
        pretended["minWireVersion"] = 0
        pretended["maxWriteBatchSize"] = _OLD_BATCH_SIZE
        return bson.encode(pretended)


def _encoded(document: Mapping[str, Any]) -> bytes:
    if isinstance(document, RawBSONDocument):
        return bytes(document.raw)
    return bson.encode(document, codec_options=_SHALLOW)


def _command(
    database: str,
    command: Mapping[str, Any],
    flags: int,
    preference: Mapping[str, Any] | None = None,
    sequences: Sequences = (),
) -> OpQuery:
    encoded = inline_sequences(_encoded(command), sequences) if sequences else _encoded(command)
    if preference is not None:
        wrapped = {"$query": RawBSONDocument(encoded), "$readPreference": preference}
        encoded = _encoded(wrapped)
    return OpQuery(f"{database}.$cmd", encoded, None, flags, 0, -1)


def _number_to_return(command: Mapping[str, Any]) -> int:
    """
    What a query's one number says: the documents of the first batch, negative
    where there is to be no second.
    """
    limit: int = command.get("limit", 0)
    batch_size: int = command.get("batchSize", 0)
    if command.get("singleBatch") or limit == 1:
        return -limit or -batch_size
    number = min(limit or batch_size, batch_size or limit)
    # 1 would end the cursor.
    return 2 if number == 1 else number


def _failed(message: OpReply) -> bool:
    return bool(message.flags & 3)


def _only_document(message: OpReply, body: bytes) -> bytes:
    """A command's reply."""
    if not _failed(message) and len(message.documents) != 1:
        raise ProtocolError(
            f"the server answered a command with {len(message.documents)} documents, not one"
        )
    return body


def _explained(message: OpReply, body: bytes) -> bytes:
    """A plan, as the explain command has it."""
    if _failed(message):
        return body
    return bson.encode({**bson.decode(_only_document(message, body), _SHALLOW), "ok": 1.0})


def _first_batch(namespace: str) -> _Answer:
    return lambda message, body: _batch(message, body, namespace, "firstBatch")


def _next_batch(namespace: str) -> _Answer:
    return lambda message, body: _batch(message, body, namespace, "nextBatch")


def _batch(message: OpReply, body: bytes, namespace: str, field: str) -> bytes:
    """A batch, as find and getMore have it."""
    if _failed(message):
        return body
    head = bson.encode({"id": Int64(message.cursor_id), "ns": namespace})
    cursor = inline_sequences(head, ((field, message.documents),))
    return bson.encode({"cursor": RawBSONDocument(cursor), "ok": 1.0})


def _killed(cursor_ids: Sequence[int]) -> _Answer:
    def answer(message: OpReply, body: bytes) -> bytes:
        _only_document(message, body)
        return bson.encode({"cursorsKilled": [Int64(each) for each in cursor_ids], "ok": 1.0})

    return answer
