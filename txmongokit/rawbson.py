"""
BSON by its bytes: finding, splitting and joining without decoding.

The replicator moves documents whole and looks at a few of their elements;
decoding them would cost ten times as much.  Offsets are into the bytes given.
Bytes that end too early or cannot be BSON raise L{bson.errors.InvalidBSON}.
The BSON specification is at U{https://bsonspec.org/spec.html}.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from decimal import DecimalException
from struct import Struct
from typing import TypeAlias

from bson.decimal128 import Decimal128
from bson.errors import InvalidBSON

__all__ = [
    "Element",
    "array_documents",
    "cursor_batch",
    "document_end",
    "elements",
    "find_element",
    "rename_element",
    "split_documents",
    "value_end",
    "values_equal_key",
    "wrap",
]

Element: TypeAlias = tuple[int, bytes, int, int, int]
"""Type, name, and where the element, its value and whatever follows begin."""

_INT32 = Struct("<i")
_INT64 = Struct("<q")
_DOUBLE = Struct("<d")
_int32_at = _INT32.unpack_from

_FIXED = {
    0x01: 8,
    0x06: 0,
    0x07: 12,
    0x08: 1,
    0x09: 8,
    0x0A: 0,
    0x10: 4,
    0x11: 8,
    0x12: 8,
    0x13: 16,
    0x7F: 0,
    0xFF: 0,
}
# Length-prefixed values: what to add to the length, and its least value.
_PREFIXED = {
    0x02: (4, 1),
    0x03: (0, 5),
    0x04: (0, 5),
    0x05: (5, 0),
    0x0C: (16, 1),
    0x0D: (4, 1),
    0x0E: (4, 1),
    0x0F: (0, 14),
}


def document_end(data: bytes, start: int = 0) -> int:
    """
    Where the document that begins at C{start} ends.

    @raise InvalidBSON: its length or its last byte is wrong.
    """
    if start < 0 or len(data) - start < 5:
        raise InvalidBSON("a BSON document ends before its length")
    size: int = _int32_at(data, start)[0]
    end = start + size
    if size < 5 or end > len(data):
        raise InvalidBSON(f"a BSON document of {len(data) - start} bytes claims to have {size}")
    if data[end - 1]:
        raise InvalidBSON("a BSON document does not end with a zero byte")
    return end


def value_end(data: bytes, kind: int, start: int, limit: int) -> int:
    """
    Where the value that begins at C{start} ends.

    @param kind: its BSON type.
    @param limit: where the document's last byte is.

    @raise InvalidBSON: the type is unknown or the value passes the limit.
    """
    fixed = _FIXED.get(kind)
    if fixed is not None:
        end = start + fixed
    elif (prefixed := _PREFIXED.get(kind)) is not None:
        if start + 4 > limit:
            raise InvalidBSON("a BSON value ends before its length")
        size: int = _int32_at(data, start)[0]
        if size < prefixed[1]:
            raise InvalidBSON(f"a BSON value of type {kind} has an impossible length {size}")
        end = start + size + prefixed[0]
    elif kind == 0x0B:
        end = data.find(b"\0", data.find(b"\0", start, limit) + 1, limit) + 1
        if data.count(b"\0", start, limit) < 2:
            raise InvalidBSON("a BSON regular expression does not end")
    else:
        raise InvalidBSON(f"a BSON element has the unknown type {kind}")
    if end > limit:
        raise InvalidBSON(f"a BSON value of type {kind} passes the end of its document")
    return end


def elements(data: bytes, start: int = 0) -> Iterator[Element]:
    """
    The elements of the document that begins at C{start}, in their order.

    @raise InvalidBSON: when the walk comes to what is malformed.
    """
    limit = document_end(data, start) - 1
    at = start + 4
    while at < limit:
        name_end = data.find(b"\0", at + 1, limit)
        if name_end < 0:
            raise InvalidBSON("a BSON element's name does not end")
        kind = data[at]
        end = value_end(data, kind, name_end + 1, limit)
        yield kind, data[at + 1 : name_end], at, name_end + 1, end
        at = end


def find_element(data: bytes, name: bytes, start: int = 0) -> Element | None:
    """
    The first element of that name in the document that begins at C{start}.

    @return: C{None} where there is none.
    @raise InvalidBSON: what comes before it is malformed.
    """
    for element in elements(data, start):
        if element[1] == name:
            return element
    return None


def split_documents(data: bytes) -> list[bytes]:
    """
    The documents of a concatenation.

    @raise InvalidBSON: the last one ends too early.
    """
    documents = []
    at, length = 0, len(data)
    while at < length:
        end = document_end(data, at)
        documents.append(data[at:end])
        at = end
    return documents


def array_documents(data: bytes, start: int = 0) -> list[bytes]:
    """
    The documents of the array that begins at C{start}.

    @raise InvalidBSON: it is malformed or has another kind of element.
    """
    documents: list[bytes] = []
    append, int32_at = documents.append, _int32_at
    limit = document_end(data, start) - 1
    at = start + 4
    while at < limit:
        if data[at] != 0x03:
            raise InvalidBSON(f"an array of documents has an element of type {data[at]}")
        value = data.find(b"\0", at + 1, limit) + 1
        if not value:
            raise InvalidBSON("a BSON element's name does not end")
        # As document_end has it, without a call for each of a thousand documents.
        size: int = int32_at(data, value)[0] if value + 4 <= limit else 0
        at = value + size
        if size < 5 or at > limit or data[at - 1]:
            document_end(data, value)
            raise InvalidBSON("a document passes the end of its array")
        append(data[value:at])
    return documents


def cursor_batch(reply: bytes) -> tuple[int, str, list[bytes]]:
    """
    What a reply to C{find}, C{aggregate} or C{getMore} carries.

    @return: the cursor's id (0 for a finished one), its namespace, and the
        documents of C{firstBatch} or C{nextBatch}.
    @raise InvalidBSON: it is malformed or no such reply.
    """
    cursor = find_element(reply, b"cursor")
    if cursor is None or cursor[0] != 0x03:
        raise InvalidBSON("a reply to a cursor command has no cursor")
    identifier, namespace, documents = 0, "", None
    for kind, name, _, value, end in elements(reply, cursor[3]):
        if name == b"id" and kind == 0x12:
            identifier = _INT64.unpack_from(reply, value)[0]
        elif name == b"ns" and kind == 0x02:
            namespace = reply[value + 4 : end - 1].decode("utf-8", "replace")
        elif name in (b"firstBatch", b"nextBatch") and kind == 0x04:
            documents = array_documents(reply, value)
    if documents is None:
        raise InvalidBSON("a reply to a cursor command has no batch")
    return identifier, namespace, documents


def wrap(*element_bytes: bytes) -> bytes:
    """
    A document of whole elements, each with its type and name.
    """
    body = b"".join(element_bytes)
    return _INT32.pack(len(body) + 5) + body + b"\0"


def rename_element(element_bytes: bytes, new_name: bytes) -> bytes:
    """
    An element with another name.

    @raise InvalidBSON: the element's name does not end.
    @raise ValueError: the new name has a zero byte.
    """
    if b"\0" in new_name:
        raise ValueError("a BSON name cannot have a zero byte")
    name_end = element_bytes.find(b"\0", 1)
    if name_end < 0:
        raise InvalidBSON("a BSON element's name does not end")
    return element_bytes[:1] + new_name + element_bytes[name_end:]


def values_equal_key(kind: int, value: bytes) -> Hashable:
    """
    A key that two values share where MongoDB's simple collation regards them
    as equal: numbers by value whatever their type, a symbol as a string, and
    documents and arrays element by element.

    @param kind: the value's BSON type.
    @param value: the value's bytes.

    @raise InvalidBSON: the value is malformed.
    """
    # Numbers are themselves, as Python compares int, float and Decimal
    # exactly; everything else is bytes or a tuple, which never equal them.
    if kind == 0x07 or kind == 0x02:
        return (kind, value)
    if kind in _NUMBERS:
        return _number_key(kind, value)
    if kind == 0x0E:
        return (0x02, value)
    if kind == 0x03:
        return (
            kind,
            tuple(
                (name, values_equal_key(each, value[at:end]))
                for each, name, _, at, end in elements(value)
            ),
        )
    if kind == 0x04:
        return (
            kind,
            tuple(values_equal_key(each, value[at:end]) for each, _, _, at, end in elements(value)),
        )
    return (kind, value)


_NUMBERS = frozenset((0x01, 0x10, 0x12, 0x13))


def _number_key(kind: int, value: bytes) -> Hashable:
    if len(value) != _FIXED[kind]:
        raise InvalidBSON(f"a BSON number of type {kind} has {len(value)} bytes")
    if kind == 0x10:
        return int(_INT32.unpack(value)[0])
    if kind == 0x12:
        return int(_INT64.unpack(value)[0])
    if kind == 0x01:
        double: float = _DOUBLE.unpack(value)[0]
        return "nan" if double != double else double
    try:
        decimal = Decimal128.from_bid(value).to_decimal()
    except DecimalException:
        # A coefficient of more than 34 digits stands for zero.
        return 0
    return "nan" if decimal.is_nan() else decimal
