"""
TxMongo's message tuples, of both its generations, and their bytes.

What they are on the wire is L{txmongokit._sansio.messages}' matter.  All of
them are tuples that begin as the older generation's did: C{len},
C{request_id}, C{response_to}, C{opcode}.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, ClassVar, Self

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions

from txmongokit._sansio import messages
from txmongokit._sansio.messages import (
    CHECKSUM_PRESENT,
    MORE_TO_COME,
    OP_DELETE,
    OP_GET_MORE,
    OP_INSERT,
    OP_KILL_CURSORS,
    OP_MSG,
    OP_QUERY,
    OP_REPLY,
    OP_UPDATE,
    Header,
    OpDelete,
    OpGetMore,
    OpInsert,
    OpKillCursors,
    OpMsg,
    OpQuery,
    OpReply,
    OpUpdate,
)
from txmongokit.errors import ConnectionFailure, ProtocolError

__all__ = [
    "OP_NOTE",
    "BaseMessage",
    "Delete",
    "Getmore",
    "Insert",
    "KillCursors",
    "MongoDecoder",
    "Msg",
    "Note",
    "Query",
    "Reply",
    "Update",
]

OP_NOTE = 1000
"""A text for the log of whoever gets it; no server has known it for long."""

_HEADER = struct.Struct("<iiii")
_EMPTY = bson.encode({})


class Opcode(int):
    """
    An opcode: one generation asked for it by a call, the other by looking.
    """

    def __call__(self) -> int:
        """The number."""
        return int(self)


def _document(value: Any) -> bytes:
    """A document as BSON; one that is BSON stays."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"a document is a mapping or BSON, not {type(value).__name__}")
    return bson.encode(value)


def _documents(values: Iterable[Any] | None) -> list[bytes]:
    return [bson.BSON(_document(value)) for value in values or ()]


class BaseMessage(tuple[Any, ...]):
    """
    A message.

    @cvar opcode: its number on the wire, which may be called, too.
    @ivar len: how many bytes it had when it came; 0 for one to be sent.
    @ivar request_id: the sender's number for it.
    @ivar response_to: the number of the message that it answers.
    """

    __slots__ = ()

    opcode: ClassVar[Opcode] = Opcode(0)
    _fields: ClassVar[tuple[str, ...]] = ()

    len = property(itemgetter(0))
    request_id = property(itemgetter(1))
    response_to = property(itemgetter(2))

    def __new__(cls, request_id: int = 0, response_to: int = 0) -> Self:
        """A message without any content, which cannot be sent."""
        return cls._of(0, request_id, response_to)

    @classmethod
    def _of(cls, len: int, request_id: int, response_to: int, *fields: Any) -> Self:
        return tuple.__new__(cls, (len, request_id, response_to, cls.opcode, *fields))

    def __repr__(self) -> str:
        # Documents are nobody's business but the user's.
        return f"<{type(self).__name__} {self.request_id} to {self.response_to}>"

    def _wire(self) -> messages.Message:
        raise TypeError(f"{type(self).__name__} is no message that can be sent")

    @classmethod
    def _read(cls, header: Header, message: Any) -> Self:
        raise TypeError(f"{cls.__name__} is no message that can be read")

    def encode(self, request_id: int | None = None) -> bytes:
        """
        Its bytes.

        @param request_id: by default its own.
        """
        number = self.request_id if request_id is None else request_id
        return messages.encode(self._wire(), number, self.response_to)

    @classmethod
    def decode(
        cls, request_id: int, response_to: int, opcode: int, message_data: bytes
    ) -> BaseMessage:
        """
        The message of some bytes.

        @param message_data: all of them, header included.

        @raise ConnectionFailure: they are no such message.
        """
        found = MongoDecoder.decode(message_data)
        if not isinstance(found, cls):
            raise ConnectionFailure(f"a message with opcode {opcode} is no {cls.__name__}")
        return found


class Query(BaseMessage):
    """
    A query, or a command where C{collection} ends in C{.$cmd}.

    @param query: a document, or its BSON.
    @param fields: the projection, likewise.
    """

    __slots__ = ()

    opcode = Opcode(OP_QUERY)
    flags = property(itemgetter(4))
    collection = property(itemgetter(5))
    n_to_skip = property(itemgetter(6))
    n_to_return = property(itemgetter(7))
    query = property(itemgetter(8))
    fields = property(itemgetter(9))

    def __new__(
        cls,
        request_id: int = 0,
        response_to: int = 0,
        flags: int = 0,
        collection: Any = "",
        n_to_skip: int = 0,
        n_to_return: int = -1,
        query: Any = _EMPTY,
        fields: Any = None,
        *,
        len: int = 0,
        opcode: int = OP_QUERY,
    ) -> Self:
        """A query."""
        return cls._of(
            len,
            request_id,
            response_to,
            flags,
            str(collection),
            n_to_skip,
            n_to_return,
            _document({} if query is None else query),
            None if fields is None else _document(fields),
        )

    def _wire(self) -> OpQuery:
        return OpQuery(
            self.collection, self.query, self.fields, self.flags, self.n_to_skip, self.n_to_return
        )

    @classmethod
    def _read(cls, header: Header, message: OpQuery) -> Self:
        return cls(
            header.request_id,
            header.response_to,
            message.flags,
            message.namespace,
            message.number_to_skip,
            message.number_to_return,
            message.query,
            message.fields,
            len=header.length,
        )


class Reply(BaseMessage):
    """
    What a L{Query} or L{Getmore} is answered with.

    @param documents: each a document, or its BSON; they come as C{bson.BSON},
        which has C{decode()}.
    """

    __slots__ = ()

    opcode = Opcode(OP_REPLY)
    response_flags = property(itemgetter(4))
    cursor_id = property(itemgetter(5))
    starting_from = property(itemgetter(6))
    n_returned = property(itemgetter(7))
    documents = property(itemgetter(8))

    def __new__(
        cls,
        request_id: int = 0,
        response_to: int = 0,
        response_flags: int = 0,
        cursor_id: int = 0,
        starting_from: int = 0,
        documents: Iterable[Any] | None = None,
        *,
        len: int = 0,
        opcode: int = OP_REPLY,
        n_returned: int | None = None,
    ) -> Self:
        """An answer."""
        found = _documents(documents)
        count = found.__len__()
        return cls._of(
            len, request_id, response_to, response_flags, cursor_id, starting_from, count, found
        )

    def _wire(self) -> OpReply:
        documents = tuple(self.documents)
        return OpReply(documents, self.cursor_id, self.starting_from, self.response_flags)

    @classmethod
    def _read(cls, header: Header, message: OpReply) -> Self:
        return cls(
            header.request_id,
            header.response_to,
            message.flags,
            message.cursor_id,
            message.starting_from,
            message.documents,
            len=header.length,
        )


class Getmore(BaseMessage):
    """
    The wish for more documents of a cursor.
    """

    __slots__ = ()

    opcode = Opcode(OP_GET_MORE)
    collection = property(itemgetter(4))
    n_to_return = property(itemgetter(5))
    cursor_id = property(itemgetter(6))

    def __new__(
        cls,
        len: int = 0,
        request_id: int = 0,
        response_to: int = 0,
        opcode: int = OP_GET_MORE,
        zero: int = 0,
        collection: Any = "",
        n_to_return: int = 0,
        cursor_id: int = 0,
    ) -> Self:
        """For a cursor by its number."""
        return cls._of(len, request_id, response_to, str(collection), n_to_return, cursor_id)

    def _wire(self) -> OpGetMore:
        return OpGetMore(self.collection, self.cursor_id, self.n_to_return)

    @classmethod
    def _read(cls, header: Header, message: OpGetMore) -> Self:
        return cls._of(
            header.length,
            header.request_id,
            header.response_to,
            message.namespace,
            message.number_to_return,
            message.cursor_id,
        )


class KillCursors(BaseMessage):
    """
    Cursors that nobody needs any more.

    @param n_cursors: is counted anew.
    """

    __slots__ = ()

    opcode = Opcode(OP_KILL_CURSORS)
    n_cursors = property(itemgetter(4))
    cursors = property(itemgetter(5))

    def __new__(
        cls,
        len: int = 0,
        request_id: int = 0,
        response_to: int = 0,
        opcode: int = OP_KILL_CURSORS,
        zero: int = 0,
        n_cursors: int = 0,
        cursors: Iterable[int] = (),
    ) -> Self:
        """For cursors by their numbers."""
        numbers = [int(cursor) for cursor in cursors]
        return cls._of(len, request_id, response_to, numbers.__len__(), numbers)

    def _wire(self) -> OpKillCursors:
        return OpKillCursors(tuple(self.cursors))

    @classmethod
    def _read(cls, header: Header, message: OpKillCursors) -> Self:
        return cls(header.length, header.request_id, header.response_to, cursors=message.cursor_ids)


class Insert(BaseMessage):
    """
    Documents to insert, without any answer.
    """

    __slots__ = ()

    opcode = Opcode(OP_INSERT)
    flags = property(itemgetter(4))
    collection = property(itemgetter(5))
    documents = property(itemgetter(6))

    def __new__(
        cls,
        len: int = 0,
        request_id: int = 0,
        response_to: int = 0,
        opcode: int = OP_INSERT,
        flags: int = 0,
        collection: Any = "",
        documents: Iterable[Any] | None = None,
    ) -> Self:
        """Into C{database.collection}."""
        return cls._of(len, request_id, response_to, flags, str(collection), _documents(documents))

    def _wire(self) -> OpInsert:
        return OpInsert(self.collection, tuple(self.documents), self.flags)

    @classmethod
    def _read(cls, header: Header, message: OpInsert) -> Self:
        return cls._of(
            header.length,
            header.request_id,
            header.response_to,
            message.flags,
            message.namespace,
            _documents(message.documents),
        )


class Update(BaseMessage):
    """
    A change, without any answer.
    """

    __slots__ = ()

    opcode = Opcode(OP_UPDATE)
    collection = property(itemgetter(4))
    flags = property(itemgetter(5))
    selector = property(itemgetter(6))
    update = property(itemgetter(7))

    def __new__(
        cls,
        len: int = 0,
        request_id: int = 0,
        response_to: int = 0,
        opcode: int = OP_UPDATE,
        zero: int = 0,
        collection: Any = "",
        flags: int = 0,
        selector: Any = _EMPTY,
        update: Any = _EMPTY,
    ) -> Self:
        """Of what C{selector} finds."""
        return cls._of(
            len,
            request_id,
            response_to,
            str(collection),
            flags,
            _document(selector),
            _document(update),
        )

    def _wire(self) -> OpUpdate:
        return OpUpdate(self.collection, self.selector, self.update, self.flags)

    @classmethod
    def _read(cls, header: Header, message: OpUpdate) -> Self:
        return cls._of(
            header.length,
            header.request_id,
            header.response_to,
            message.namespace,
            message.flags,
            message.selector,
            message.update,
        )


class Delete(BaseMessage):
    """
    What is to be deleted, without any answer.
    """

    __slots__ = ()

    opcode = Opcode(OP_DELETE)
    collection = property(itemgetter(4))
    flags = property(itemgetter(5))
    selector = property(itemgetter(6))

    def __new__(
        cls,
        len: int = 0,
        request_id: int = 0,
        response_to: int = 0,
        opcode: int = OP_DELETE,
        zero: int = 0,
        collection: Any = "",
        flags: int = 0,
        selector: Any = _EMPTY,
    ) -> Self:
        """What C{selector} finds."""
        return cls._of(len, request_id, response_to, str(collection), flags, _document(selector))

    def _wire(self) -> OpDelete:
        return OpDelete(self.collection, self.selector, self.flags)

    @classmethod
    def _read(cls, header: Header, message: OpDelete) -> Self:
        return cls._of(
            header.length,
            header.request_id,
            header.response_to,
            message.namespace,
            message.flags,
            message.selector,
        )


class Msg(BaseMessage):
    """
    A command or its reply, of servers since 3.6; and by the older
    generation's arguments C{(len, request_id, response_to, opcode, message)}
    a L{Note}.

    @param body: the document's BSON.
    @param payload: lists of documents' BSON by the names that they have in
        the command.
    """

    __slots__ = ()

    opcode = Opcode(OP_MSG)
    message = property(itemgetter(4))
    body = property(itemgetter(4))
    flag_bits = property(itemgetter(5))
    payload = property(itemgetter(6))

    def __new__(
        cls,
        request_id: int = 0,
        response_to: int = 0,
        body: Any = _EMPTY,
        flag_bits: int = 0,
        payload: Any = None,
        *,
        len: int = 0,
        opcode: int | None = None,
        message: str | bytes | None = None,
    ) -> Self:
        """Of either generation's arguments."""
        if type(body) is int:
            # Each of the older arguments has come one place too early.
            numbers = request_id, response_to, body
            return Note(*numbers, payload if message is None else message)  # type: ignore[return-value]
        if message is not None or opcode == OP_NOTE:
            return Note(len, request_id, response_to, message or "")  # type: ignore[return-value]
        lists = {name: list(documents) for name, documents in (payload or {}).items()}
        return cls._of(len, request_id, response_to, body, flag_bits, lists)

    @classmethod
    def create(
        cls,
        body: Mapping[str, Any],
        payload: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
        *,
        codec_options: CodecOptions[Any] = DEFAULT_CODEC_OPTIONS,
        acknowledged: bool = True,
        request_id: int = 0,
        response_to: int = 0,
    ) -> Self:
        """
        A message of documents that are to be encoded.

        @param acknowledged: whether it is to be answered.
        """
        return cls(
            request_id,
            response_to,
            bson.encode(body, codec_options=codec_options),
            cls.create_flag_bits(acknowledged),
            {
                name: [bson.encode(each, codec_options=codec_options) for each in documents]
                for name, documents in (payload or {}).items()
            },
        )

    @classmethod
    def create_flag_bits(cls, not_more_to_come: bool) -> int:
        """
        The flags of a message that is, or is not, to be answered.
        """
        return 0 if not_more_to_come else MORE_TO_COME

    @property
    def acknowledged(self) -> bool:
        """Whether it is to be answered."""
        return not self.flag_bits & MORE_TO_COME

    def size_in_bytes(self) -> int:
        """
        How many bytes it is.
        """
        return self.encode(0).__len__()

    def to_dict(self, codec_options: CodecOptions[Any] = DEFAULT_CODEC_OPTIONS) -> Any:
        """
        The command or reply, with the lists of documents in their places.
        """
        found: Any = bson.decode(self.body, codec_options=codec_options)
        for name, documents in self.payload.items():
            found[name] = [bson.decode(each, codec_options=codec_options) for each in documents]
        return found

    def _wire(self) -> OpMsg:
        sequences = tuple((name, tuple(raws)) for name, raws in self.payload.items())
        return OpMsg(self.body, sequences, self.flag_bits)

    @classmethod
    def _read(cls, header: Header, message: OpMsg) -> Self:
        return cls(
            header.request_id,
            header.response_to,
            message.body,
            message.flags & ~CHECKSUM_PRESENT,
            dict(message.sequences),
            len=header.length,
        )


class Note(BaseMessage):
    """
    TxMongo's older C{Msg}: a text for the other side's log.
    """

    __slots__ = ()

    opcode = Opcode(OP_NOTE)
    message = property(itemgetter(4))

    def __new__(cls, len: int, request_id: int, response_to: int, message: str | bytes) -> Self:
        """A text."""
        text = message.decode() if isinstance(message, bytes) else str(message)
        return cls._of(len, request_id, response_to, text)

    def encode(self, request_id: int | None = None) -> bytes:
        """
        Its bytes.
        """
        number = self.request_id if request_id is None else request_id
        text: bytes = self.message.encode() + b"\0"
        data: bytes = _HEADER.pack(16 + text.__len__(), number, self.response_to, OP_NOTE) + text
        return data


_READERS: dict[type[Any], type[BaseMessage]] = {
    OpQuery: Query,
    OpReply: Reply,
    OpMsg: Msg,
    OpGetMore: Getmore,
    OpKillCursors: KillCursors,
    OpInsert: Insert,
    OpUpdate: Update,
    OpDelete: Delete,
}


class MongoDecoder(Iterator[Any]):
    """
    Finds the messages in what has come.  Compressed ones it cannot read:
    nobody sends them who was not told that he may.

    @cvar OPCODE_TO_CLASS: the messages that it can read.
    """

    OPCODE_TO_CLASS: ClassVar[dict[int, type[BaseMessage]]] = {
        **{int(kind.opcode): kind for kind in _READERS.values()},
        OP_NOTE: Note,
    }

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def dataBuffer(self) -> bytes:
        """What has come and was not read yet."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> None:
        """
        Take what has come.
        """
        self._buffer += data

    def next(self) -> Any:
        """
        The next whole message, or C{None} until more is fed.

        @raise ConnectionFailure: these are no messages.
        """
        buffer = self._buffer
        if buffer.__len__() < _HEADER.size:
            return None
        length = _HEADER.unpack_from(buffer)[0]
        if length < _HEADER.size:
            raise ConnectionFailure(f"a message announces a length of {length} bytes")
        if buffer.__len__() < length:
            return None
        frame = bytes(memoryview(buffer)[:length])
        del buffer[:length]
        return self.decode(frame)

    def __next__(self) -> Any:
        return self.next()

    @staticmethod
    def decode(message_data: bytes) -> Any:
        """
        The message of some bytes.

        @param message_data: all of them, header included.

        @raise ConnectionFailure: they are no message.
        """
        try:
            header = messages.decode_header(message_data)
            if header.opcode == OP_NOTE:
                text = message_data[_HEADER.size :].partition(b"\0")[0]
                return Note(header.length, header.request_id, header.response_to, text)
            header, message = messages.decode(message_data)
            return _READERS[type(message)]._read(header, message)
        except KeyError:
            raise _unreadable("it is compressed") from None
        except (ProtocolError, UnicodeDecodeError) as error:
            raise _unreadable(str(error)) from error


def _unreadable(why: str) -> ConnectionFailure:
    return ConnectionFailure(f"a message cannot be read: {why}")
