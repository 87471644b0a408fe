"""
The messages of MongoDB's wire protocol: bytes to tuples and back.

Both directions of every opcode are here, so that one module serves clients
and scripted servers alike.  Documents stay the bytes that they are on the
wire: only what framing depends on is checked (announced lengths and the
final zero byte), and whoever needs a document's contents decodes them.

Follows the specifications I{OP_MSG} and I{Wire Compression in Drivers} and
the server manual's page on the legacy opcodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, error
from typing import NamedTuple, TypeAlias

from txmongokit._sansio.framing import HEAD, Frame, LongFrame
from txmongokit.errors import DocumentTooLarge, InvalidName, ProtocolError

__all__ = [
    "CHECKSUM_PRESENT",
    "EXHAUST_ALLOWED",
    "HEADER_SIZE",
    "MORE_TO_COME",
    "OP_COMPRESSED",
    "OP_DELETE",
    "OP_GET_MORE",
    "OP_INSERT",
    "OP_KILL_CURSORS",
    "OP_MSG",
    "OP_QUERY",
    "OP_REPLY",
    "OP_UPDATE",
    "REPLY_CURSOR_NOT_FOUND",
    "REPLY_QUERY_FAILURE",
    "Header",
    "Message",
    "OpCompressed",
    "OpDelete",
    "OpGetMore",
    "OpInsert",
    "OpKillCursors",
    "OpMsg",
    "OpQuery",
    "OpReply",
    "OpUpdate",
    "Sequences",
    "crc32c",
    "decode",
    "decode_header",
    "decode_payload",
    "encode",
    "encode_compressed",
    "encode_msg",
    "inline_sequences",
    "plain_msg",
]

OP_REPLY = 1
OP_UPDATE = 2001
OP_INSERT = 2002
OP_QUERY = 2004
OP_GET_MORE = 2005
OP_DELETE = 2006
OP_KILL_CURSORS = 2007
OP_COMPRESSED = 2012
OP_MSG = 2013

CHECKSUM_PRESENT = 1
MORE_TO_COME = 1 << 1
EXHAUST_ALLOWED = 1 << 16

REPLY_CURSOR_NOT_FOUND = 1
"""Flag of an L{OpReply}: the cursor that was asked for does not exist."""
REPLY_QUERY_FAILURE = 1 << 1
"""Flag of an L{OpReply}: its one document tells why the query failed."""

HEADER_SIZE = 16
_REQUIRED_FLAGS = 0xFFFF
_KNOWN_FLAGS = CHECKSUM_PRESENT | MORE_TO_COME
_LARGEST_INT32 = 0x7FFFFFFF

_HEADER = Struct("<iiii")
_MSG_HEAD = Struct("<iiiiIB")
_MSG_WITH_BODY = Struct("<iiiiIBi")
_COMPRESSED_HEAD = Struct("<iiiiiiB")
_SEQUENCE_HEAD = Struct("<Bi")
_INT32 = Struct("<i")
_UINT32 = Struct("<I")
_INT64 = Struct("<q")

Sequences: TypeAlias = Sequence[tuple[str, Sequence[bytes]]]
"""Document sequences: each a field's name and its encoded documents."""


class Header(NamedTuple):
    """
    What every message begins with.

    @ivar length: bytes of the whole message, the 16 of the header included.
    @ivar request_id: the sender's number for this message.
    @ivar response_to: the number of the message that this one answers, or 0.
    """

    length: int
    request_id: int
    response_to: int
    opcode: int


class OpMsg(NamedTuple):
    """
    A command or its reply, since MongoDB 3.6.

    @ivar body: the one document of payload type 0.
    @ivar sequences: the document sequences of payload type 1.
    @ivar flags: L{CHECKSUM_PRESENT}, L{MORE_TO_COME}, L{EXHAUST_ALLOWED};
        with the first, encoding adds a CRC-32C and decoding verifies it.
    """

    body: bytes
    sequences: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    flags: int = 0

    @property
    def more_to_come(self) -> bool:
        """Whether the sender will send again without waiting for a reply."""
        return bool(self.flags & MORE_TO_COME)

    @property
    def exhaust_allowed(self) -> bool:
        """Whether the client is prepared for several replies."""
        return bool(self.flags & EXHAUST_ALLOWED)


class OpQuery(NamedTuple):
    """
    A legacy query, or a legacy command where C{namespace} ends in C{.$cmd}.

    @ivar fields: the projection, if any.
    """

    namespace: str
    query: bytes
    fields: bytes | None = None
    flags: int = 0
    number_to_skip: int = 0
    number_to_return: int = 0


class OpReply(NamedTuple):
    """
    The answer to an L{OpQuery} or L{OpGetMore}.

    @ivar flags: L{REPLY_CURSOR_NOT_FOUND}, L{REPLY_QUERY_FAILURE} and
        others that need no attention.
    """

    documents: tuple[bytes, ...]
    cursor_id: int = 0
    starting_from: int = 0
    flags: int = 0


class OpGetMore(NamedTuple):
    """The next documents of a legacy cursor."""

    namespace: str
    cursor_id: int
    number_to_return: int = 0


class OpKillCursors(NamedTuple):
    """Legacy cursors that are needed no more."""

    cursor_ids: tuple[int, ...]


class OpInsert(NamedTuple):
    """A legacy insert; bit 0 of C{flags} goes on after an error."""

    namespace: str
    documents: tuple[bytes, ...]
    flags: int = 0


class OpUpdate(NamedTuple):
    """A legacy update; bit 0 of C{flags} is upsert, bit 1 multi."""

    namespace: str
    selector: bytes
    update: bytes
    flags: int = 0


class OpDelete(NamedTuple):
    """A legacy delete; bit 0 of C{flags} stops after the first match."""

    namespace: str
    selector: bytes
    flags: int = 0


class OpCompressed(NamedTuple):
    """
    Any other message, compressed.

    @ivar uncompressed_size: bytes of the wrapped message without its header.
    @ivar compressed: the wrapped message without its header.
    """

    original_opcode: int
    uncompressed_size: int
    compressor_id: int
    compressed: bytes


Message: TypeAlias = (
    OpMsg
    | OpQuery
    | OpReply
    | OpGetMore
    | OpKillCursors
    | OpInsert
    | OpUpdate
    | OpDelete
    | OpCompressed
)


# Encoding.


def encode_msg(request_id: int, body: bytes, sequences: Sequences = (), flags: int = 0) -> bytes:
    """
    The bytes of one OP_MSG request, the short way.

    @param body: an encoded command.
    @param flags: anything but L{CHECKSUM_PRESENT}, for which there is
        L{encode}.

    @raise DocumentTooLarge: where the length does not fit the header.
    """
    if not sequences:
        length = 21 + len(body)
        if length > _LARGEST_INT32:
            raise _too_large(length)
        return _MSG_HEAD.pack(length, request_id, 0, OP_MSG, flags, 0) + body
    return _encode_msg(request_id, 0, body, sequences, flags)


def _encode_msg(
    request_id: int, response_to: int, body: bytes, sequences: Sequences, flags: int
) -> bytes:
    length = 21 + len(body)
    parts = [b"", body]
    for name, documents in sequences:
        identifier = _cstring(name)
        size = 4 + len(identifier) + sum(map(len, documents))
        length += 1 + size
        if length > _LARGEST_INT32:
            raise _too_large(length)
        parts.append(_SEQUENCE_HEAD.pack(1, size))
        parts.append(identifier)
        parts.extend(documents)
    if flags & CHECKSUM_PRESENT:
        length += 4
    if length > _LARGEST_INT32:
        raise _too_large(length)
    parts[0] = _MSG_HEAD.pack(length, request_id, response_to, OP_MSG, flags, 0)
    if flags & CHECKSUM_PRESENT:
        parts.append(_UINT32.pack(crc32c(b"".join(parts))))
    return b"".join(parts)


def encode_compressed(
    message: bytes, compressor_id: int, compress: Callable[[bytes], bytes]
) -> bytes:
    """
    Wrap an encoded message in an OP_COMPRESSED one with the same numbers.

    @param compress: what the C{compressor_id} stands for.
    """
    _, request_id, response_to, opcode = _HEADER.unpack_from(message)
    payload = message[HEADER_SIZE:]
    compressed = compress(payload)
    return (
        _COMPRESSED_HEAD.pack(
            _COMPRESSED_HEAD.size + len(compressed),
            request_id,
            response_to,
            OP_COMPRESSED,
            opcode,
            len(payload),
            compressor_id,
        )
        + compressed
    )


def encode(message: Message, request_id: int, response_to: int = 0) -> bytes:
    """
    The bytes of any message.

    @raise InvalidName: where a namespace or a sequence's name has a zero
        byte.
    @raise DocumentTooLarge: where the length does not fit the header.
    """
    if isinstance(message, OpMsg):
        return _encode_msg(request_id, response_to, message.body, message.sequences, message.flags)
    opcode, parts = _parts(message)
    length = HEADER_SIZE + sum(map(len, parts))
    if length > _LARGEST_INT32:
        raise _too_large(length)
    return b"".join((_HEADER.pack(length, request_id, response_to, opcode), *parts))


def _parts(message: Message) -> tuple[int, Sequence[bytes]]:
    """The opcode of a message other than OP_MSG, and its payload in pieces."""
    int32, int64 = _INT32.pack, _INT64.pack
    match message:
        case OpQuery(namespace, query, fields, flags, skip, limit):
            parts = [int32(flags), _cstring(namespace), int32(skip), int32(limit), query]
            return OP_QUERY, parts if fields is None else [*parts, fields]
        case OpReply(documents, cursor_id, start, flags):
            numbers = [int32(flags), int64(cursor_id), int32(start), int32(len(documents))]
            return OP_REPLY, [*numbers, *documents]
        case OpGetMore(namespace, cursor_id, limit):
            return OP_GET_MORE, [int32(0), _cstring(namespace), int32(limit), int64(cursor_id)]
        case OpKillCursors(cursor_ids):
            return OP_KILL_CURSORS, [int32(0), int32(len(cursor_ids)), *map(int64, cursor_ids)]
        case OpInsert(namespace, documents, flags):
            return OP_INSERT, [int32(flags), _cstring(namespace), *documents]
        case OpUpdate(namespace, selector, update, flags):
            return OP_UPDATE, [int32(0), _cstring(namespace), int32(flags), selector, update]
        case OpDelete(namespace, selector, flags):
            return OP_DELETE, [int32(0), _cstring(namespace), int32(flags), selector]
        case OpCompressed(opcode, size, compressor_id, compressed):
            return OP_COMPRESSED, [int32(opcode), int32(size), bytes([compressor_id]), compressed]
    raise TypeError(f"{type(message).__name__} is no message of the wire protocol")


def _cstring(text: str) -> bytes:
    encoded = text.encode()
    if b"\0" in encoded:
        raise InvalidName("a namespace or field name must not contain a zero byte")
    return encoded + b"\0"


def _too_large(length: int) -> DocumentTooLarge:
    return DocumentTooLarge(
        f"a message of {length} bytes cannot be sent: {_LARGEST_INT32} is the most that the wire "
        "protocol can announce; send fewer or smaller documents"
    )


# Decoding.


def decode_header(frame: bytes | bytearray) -> Header:
    """
    A message's header.

    @raise ProtocolError: where there are fewer than 16 bytes.
    """
    try:
        return Header._make(_HEADER.unpack_from(frame))
    except error:
        raise ProtocolError(f"a message of {len(frame)} bytes has no room for its header") from None


def plain_msg(frame: Frame) -> tuple[int, int, int, bytes] | None:
    """
    The short way to read what nearly every reply is: an OP_MSG with one
    document and no other flag than L{MORE_TO_COME}.

    @return: request id, response-to, flags and document; C{None} where
        L{decode} must look more closely.
    """
    if isinstance(frame, LongFrame):
        return _plain_long_msg(frame)
    size = len(frame)
    if size < 26:
        return None
    length, request_id, response_to, opcode, flags, kind, body_size = _MSG_WITH_BODY.unpack_from(
        frame
    )
    if (
        opcode != OP_MSG
        or flags & ~MORE_TO_COME
        or kind
        or length != size
        or body_size != size - 21
        or frame[-1]
    ):
        return None
    # What came in pieces is in a bytearray: a view saves the second copy.
    body = frame[21:] if isinstance(frame, bytes) else bytes(memoryview(frame)[21:])
    return request_id, response_to, flags, body


def _plain_long_msg(frame: LongFrame) -> tuple[int, int, int, bytes] | None:
    head, body = frame
    length, request_id, response_to, opcode, flags, kind = _MSG_HEAD.unpack(head)
    size = len(body)
    if (
        opcode != OP_MSG
        or flags & ~MORE_TO_COME
        or kind
        or length != size + HEAD
        or _INT32.unpack_from(body)[0] != size
        or body[-1]
    ):
        return None
    return request_id, response_to, flags, body


def decode(frame: Frame) -> tuple[Header, Message]:
    """
    One whole message.

    @raise ProtocolError: where the bytes are not one message that the
        specification allows; the connection they came from must be closed.
    """
    if isinstance(frame, LongFrame):
        frame = bytes(frame)
    header = decode_header(frame)
    if header.length != len(frame):
        raise ProtocolError(
            f"a message of {len(frame)} bytes announces a length of {header.length}"
        )
    return header, decode_payload(header, memoryview(frame)[HEADER_SIZE:])


def decode_payload(header: Header, payload: bytes | memoryview) -> Message:
    """
    What follows a message's header.

    @param header: tells the opcode; the rest serves for the checksum.

    @raise ProtocolError: as for L{decode}.
    """
    decoder = _DECODERS.get(header.opcode)
    if decoder is None:
        raise ProtocolError(f"a message has the unknown opcode {header.opcode}")
    reader = _PayloadReader(_NAMES[header.opcode], memoryview(payload))
    if header.opcode == OP_MSG:
        _verify_checksum(header, reader)
    message = decoder(reader)
    reader.finish()
    return message


class _PayloadReader:
    """
    Takes a message's fields one after the other, never past its end.
    """

    __slots__ = ("data", "end", "name", "position")

    def __init__(self, name: str, data: memoryview) -> None:
        self.name = name
        self.data = data
        self.position = 0
        self.end = len(data)

    def number(self, struct: Struct, what: str) -> int:
        start = self.position
        self.position = start + struct.size
        if self.position > self.end:
            raise ProtocolError(f"{self.name} ends within its {what}")
        value: int = struct.unpack_from(self.data, start)[0]
        return value

    def byte(self, what: str) -> int:
        if self.position >= self.end:
            raise ProtocolError(f"{self.name} ends within its {what}")
        self.position += 1
        return self.data[self.position - 1]

    def cstring(self, what: str) -> str:
        # Names are short: looking at more than this would let a peer make
        # us copy a whole message in search of a zero byte.
        limit = min(self.end, self.position + 1024)
        start = bytes(self.data[self.position : limit])
        length = start.find(b"\0")
        if length < 0:
            raise ProtocolError(f"{self.name} has a {what} without an end")
        self.position += length + 1
        try:
            return start[:length].decode()
        except UnicodeDecodeError:
            raise ProtocolError(f"{self.name} has a {what} that is not UTF-8") from None

    def document(self) -> bytes:
        start, left = self.position, self.end - self.position
        if left < 5:
            raise ProtocolError(f"{self.name} has {left} bytes where a document should begin")
        size: int = _INT32.unpack_from(self.data, start)[0]
        if not 5 <= size <= left:
            raise ProtocolError(
                f"{self.name} has a document that announces {size} bytes where {left} are left"
            )
        self.position = start + size
        if self.data[self.position - 1]:
            raise ProtocolError(f"{self.name} has a document that does not end with a zero byte")
        return bytes(self.data[start : self.position])

    def documents(self) -> tuple[bytes, ...]:
        found = []
        while self.position < self.end:
            found.append(self.document())
        return tuple(found)

    def rest(self) -> bytes:
        start, self.position = self.position, self.end
        return bytes(self.data[start : self.end])

    def finish(self) -> None:
        if self.position != self.end:
            raise ProtocolError(f"{self.name} has {self.end - self.position} bytes too many")


def _decode_msg(reader: _PayloadReader) -> OpMsg:
    flags = reader.number(_UINT32, "flags")
    body: bytes | None = None
    sequences: dict[str, tuple[bytes, ...]] = {}
    while reader.position < reader.end:
        kind = reader.byte("section kind")
        if kind == 0:
            if body is not None:
                raise ProtocolError("OP_MSG has more than one section of kind 0")
            body = reader.document()
        elif kind == 1:
            name, documents = _decode_sequence(reader)
            if name in sequences:
                raise ProtocolError("OP_MSG has two document sequences of one name")
            sequences[name] = documents
        else:
            raise ProtocolError(f"OP_MSG has a section of the unknown kind {kind}")
    if body is None:
        raise ProtocolError("OP_MSG has no section of kind 0")
    return OpMsg(body, tuple(sequences.items()), flags)


def _decode_sequence(reader: _PayloadReader) -> tuple[str, tuple[bytes, ...]]:
    start = reader.position
    size = reader.number(_INT32, "section size")
    left = reader.end - start
    if not 5 <= size <= left:
        raise ProtocolError(
            f"OP_MSG has a document sequence that announces {size} bytes where {left} are left"
        )
    message_end, reader.end = reader.end, start + size
    name = reader.cstring("section name")
    documents = reader.documents()
    reader.end = message_end
    return name, documents


def _verify_checksum(header: Header, reader: _PayloadReader) -> None:
    """
    Check OP_MSG's flags; check the checksum and leave it out, if any.
    """
    flags = reader.number(_UINT32, "flags")
    reader.position = 0
    unknown = flags & _REQUIRED_FLAGS & ~_KNOWN_FLAGS
    if unknown:
        raise ProtocolError(f"OP_MSG has the unknown required flag bits {unknown:#06x}")
    if not flags & CHECKSUM_PRESENT:
        return
    if reader.end < 8:
        raise ProtocolError("OP_MSG ends within its checksum")
    reader.end -= 4
    announced: int = _UINT32.unpack_from(reader.data, reader.end)[0]
    actual = crc32c(_HEADER.pack(*header))
    actual = crc32c(reader.data[: reader.end], actual)
    if actual != announced:
        raise ProtocolError(
            f"OP_MSG announces the checksum {announced:#010x} but has {actual:#010x}"
        )


def _decode_query(reader: _PayloadReader) -> OpQuery:
    flags = reader.number(_INT32, "flags")
    namespace = reader.cstring("namespace")
    skip = reader.number(_INT32, "number to skip")
    limit = reader.number(_INT32, "number to return")
    query = reader.document()
    fields = reader.document() if reader.position < reader.end else None
    return OpQuery(namespace, query, fields, flags, skip, limit)


def _decode_reply(reader: _PayloadReader) -> OpReply:
    flags = reader.number(_INT32, "flags")
    cursor_id = reader.number(_INT64, "cursor id")
    start = reader.number(_INT32, "starting number")
    count = reader.number(_INT32, "number of documents")
    documents = reader.documents()
    if len(documents) != count:
        raise ProtocolError(f"OP_REPLY announces {count} documents but has {len(documents)}")
    return OpReply(documents, cursor_id, start, flags)


def _decode_get_more(reader: _PayloadReader) -> OpGetMore:
    reader.number(_INT32, "reserved field")
    namespace = reader.cstring("namespace")
    limit = reader.number(_INT32, "number to return")
    return OpGetMore(namespace, reader.number(_INT64, "cursor id"), limit)


def _decode_kill_cursors(reader: _PayloadReader) -> OpKillCursors:
    reader.number(_INT32, "reserved field")
    count = reader.number(_INT32, "number of cursors")
    left = reader.end - reader.position
    if count * 8 != left:
        raise ProtocolError(f"OP_KILL_CURSORS announces {count} cursors in {left} bytes")
    return OpKillCursors(tuple(reader.number(_INT64, "cursor id") for _ in range(count)))


def _decode_insert(reader: _PayloadReader) -> OpInsert:
    flags = reader.number(_INT32, "flags")
    namespace = reader.cstring("namespace")
    return OpInsert(namespace, reader.documents(), flags)


def _decode_update(reader: _PayloadReader) -> OpUpdate:
    reader.number(_INT32, "reserved field")
    namespace = reader.cstring("namespace")
    flags = reader.number(_INT32, "flags")
    selector = reader.document()
    return OpUpdate(namespace, selector, reader.document(), flags)


def _decode_delete(reader: _PayloadReader) -> OpDelete:
    reader.number(_INT32, "reserved field")
    namespace = reader.cstring("namespace")
    flags = reader.number(_INT32, "flags")
    return OpDelete(namespace, reader.document(), flags)


def _decode_compressed(reader: _PayloadReader) -> OpCompressed:
    opcode = reader.number(_INT32, "original opcode")
    size = reader.number(_INT32, "uncompressed size")
    compressor_id = reader.byte("compressor id")
    if opcode == OP_COMPRESSED:
        raise ProtocolError("OP_COMPRESSED holds another OP_COMPRESSED")
    if size < 0:
        raise ProtocolError(f"OP_COMPRESSED announces an uncompressed size of {size}")
    return OpCompressed(opcode, size, compressor_id, reader.rest())


_DECODERS: dict[int, Callable[[_PayloadReader], Message]] = {
    OP_REPLY: _decode_reply,
    OP_UPDATE: _decode_update,
    OP_INSERT: _decode_insert,
    OP_QUERY: _decode_query,
    OP_GET_MORE: _decode_get_more,
    OP_DELETE: _decode_delete,
    OP_KILL_CURSORS: _decode_kill_cursors,
    OP_COMPRESSED: _decode_compressed,
    OP_MSG: _decode_msg,
}

_NAMES = {
    OP_REPLY: "OP_REPLY",
    OP_UPDATE: "OP_UPDATE",
    OP_INSERT: "OP_INSERT",
    OP_QUERY: "OP_QUERY",
    OP_GET_MORE: "OP_GET_MORE",
    OP_DELETE: "OP_DELETE",
    OP_KILL_CURSORS: "OP_KILL_CURSORS",
    OP_COMPRESSED: "OP_COMPRESSED",
    OP_MSG: "OP_MSG",
}


def inline_sequences(body: bytes, sequences: Sequences) -> bytes:
    """
    The one document that a message with document sequences stands for:
    each sequence becomes an array, as the last of the body's fields.

    @param body: an encoded document.
    """
    parts = [body[4:-1]]
    for name, documents in sequences:
        elements: list[bytes] = []
        for index, document in enumerate(documents):
            elements += (b"\x03%d\0" % index, document)
        array_size = 5 + sum(map(len, elements))
        parts += (b"\x04", _cstring(name), _INT32.pack(array_size), *elements, b"\0")
    parts.append(b"\0")
    size = 4 + sum(map(len, parts))
    return b"".join((_INT32.pack(size), *parts))


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes | memoryview, start: int = 0) -> int:
    """
    The CRC-32C (Castagnoli) of some bytes.

    @param start: the checksum of what came before.
    """
    table = _CRC_TABLE
    value = start ^ 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
