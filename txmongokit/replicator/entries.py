"""
Oplog entries: what each says, found in its raw BSON without decoding the
document that it carries.
"""

from __future__ import annotations

import re
from struct import Struct

from bson.errors import InvalidBSON
from bson.timestamp import Timestamp

from txmongokit.rawbson import (
    array_documents,
    document_end,
    elements,
    find_element,
    value_end,
)

__all__ = [
    "IGNORED",
    "OplogEntry",
    "UnsupportedEntry",
    "from_timestamp",
    "inner_operations",
    "parse_entry",
    "timestamp",
]

_VERSION = 2
_INT32 = Struct("<i")
_INT64 = Struct("<q")
_UINT64 = Struct("<Q")

IGNORED = frozenset(("n", "km", "cd", "ci", "cu"))
"""Types of operation that change nothing which a replica must have."""

_KNOWN = IGNORED | {"i", "u", "d", "c"}
# multiOpType of a batch that is applied operation by operation.
_APPLY_SEPARATELY = 1
# Types whose size does not depend on the value, and those that begin with
# their whole size: nearly all that an entry's own elements have.
_SIZES = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8}


# What servers 4.4 to 6.0 write for a single document, before and after its
# documents.  All else goes through the general walk, at twice the cost.
_HEAD = re.compile(
    rb"(?s)(?:\x03lsid\0.{4}\x05id\0\x10\0\0\0\x04.{16}\x05uid\0\x20\0\0\0\0.{32}\0)?"
    rb"(?:\x12txnNumber\0.{8})?"
    rb"\x02op\0\x02\0\0\0([iud])\0\x02ns\0.{4}([^\0]+)\0"
    rb"(?:\x05ui\0\x10\0\0\0\x04.{16})?\x03o\0"
)
_TAIL = re.compile(
    rb"(?s)(?:\x10stmtId\0.{4})?\x11ts\0(.{8}\x12t\0.{8})"
    rb"(?:\x09wall\0.{8})?\x12v\0\x02\0{7}(?:\x09wall\0.{8})?(?:\x10stmtId\0.{4})?"
    rb"(?:\x03prevOpTime\0.{4}\x11ts\0.{8}\x12t\0.{8}\0)?\0\Z"
)
_OPTIME = Struct("<Q3xq")


class UnsupportedEntry(Exception):
    """
    An oplog entry cannot be replicated: its form is not one that is known.

    The message says where the entry is and what is wrong, and never shows
    the document.
    """


class OplogEntry:
    """
    One entry, or one operation within a transaction's entry.

    @ivar op: the type: C{i}, C{u}, C{d}, C{c} or one of L{IGNORED}.
    @ivar ns: the namespace in the source.
    @ivar ts: the position: seconds shifted left by 32, and the increment.
    @ivar term: the election term; -1 where the source has none.
    @ivar o: the document or command, raw.
    @ivar o2: what identifies the document of an update, raw.
    @ivar version: the oplog format.
    @ivar prev_optime: of a command, position and term of the entry before
        this one in the same transaction.
    @ivar multi_op_type: 1 for a batch that is no transaction.
    @ivar raw: the whole entry.
    """

    __slots__ = (
        "multi_op_type",
        "ns",
        "o",
        "o2",
        "op",
        "prev_optime",
        "raw",
        "term",
        "ts",
        "version",
    )

    op: str
    ns: str
    ts: int
    term: int
    o: bytes
    o2: bytes | None
    version: int
    prev_optime: tuple[int, int] | None
    multi_op_type: int
    raw: bytes

    def __repr__(self) -> str:
        return f"<OplogEntry {self.op} {self.ns} at {self.ts >> 32}.{self.ts & 0xFFFFFFFF}>"

    @property
    def command(self) -> str:
        """
        The command's name; empty for what is no command.
        """
        if self.op != "c":
            return ""
        first = next(elements(self.o), None)
        return "" if first is None else first[1].decode("utf-8", "replace")

    @property
    def is_apply_ops(self) -> bool:
        """
        Whether this holds other operations.
        """
        return self.command == "applyOps"

    @property
    def is_partial_transaction(self) -> bool:
        """
        Whether the transaction goes on in a later entry.
        """
        return self.is_apply_ops and _is_set(self.o, b"partialTxn")

    @property
    def is_prepare(self) -> bool:
        """
        Whether the transaction waits for its commit or its abort.
        """
        return self.is_apply_ops and _is_set(self.o, b"prepare")

    @property
    def is_commit_transaction(self) -> bool:
        """
        Whether this commits a prepared transaction.
        """
        return self.command == "commitTransaction"

    @property
    def is_abort_transaction(self) -> bool:
        """
        Whether this gives up a prepared transaction.
        """
        return self.command == "abortTransaction"

    @property
    def ends_chain(self) -> bool:
        """
        Whether this is the last of a transaction's several entries.
        """
        return (
            self.prev_optime is not None
            and self.multi_op_type != _APPLY_SEPARATELY
            and self.is_apply_ops
            and not _is_set(self.o, b"partialTxn")
            and not _is_set(self.o, b"prepare")
        )


class _Write(OplogEntry):
    """A write to one document, as servers usually note it."""

    __slots__ = ()

    multi_op_type = 0
    prev_optime = None
    version = _VERSION


def timestamp(position: int) -> Timestamp:
    """
    A position as BSON has it.
    """
    return Timestamp(position >> 32, position & 0xFFFFFFFF)


def from_timestamp(value: Timestamp) -> int:
    """
    A BSON timestamp as a position.
    """
    return value.time << 32 | value.inc


def parse_entry(raw: bytes) -> OplogEntry:
    """
    Read an entry of the oplog.

    @raise UnsupportedEntry: its format, or its type of operation, is unknown.
    @raise bson.errors.InvalidBSON: it is malformed.
    """
    # The usual form; any other, and what is malformed, is walked through.
    length = len(raw)
    head = _HEAD.match(raw, 4)
    if head is None or _INT32.unpack_from(raw)[0] != length:
        return _parse_any(raw)
    start = head.end()
    if start + 9 > length:
        return _parse_any(raw)
    end = start + _INT32.unpack_from(raw, start)[0]
    if end < start + 5 or end + 9 > length:
        return _parse_any(raw)
    entry = _Write()
    entry.o = raw[start:end]
    entry.o2 = None
    if raw.startswith(b"\x03o2\0", end):
        start = end + 4
        end = start + _INT32.unpack_from(raw, start)[0]
        if end < start + 5:
            return _parse_any(raw)
        entry.o2 = raw[start:end]
    tail = _TAIL.match(raw, end)
    if tail is None:
        return _parse_any(raw)
    op, ns = head.groups()
    entry.raw = raw
    entry.op = op.decode()
    entry.ns = ns.decode("utf-8", "surrogateescape")
    entry.ts, entry.term = _OPTIME.unpack_from(raw, tail.start(1))
    return entry


def _parse_any(raw: bytes) -> OplogEntry:
    entry = _parse(raw)
    if entry.version != _VERSION:
        version = "none" if entry.version < 0 else str(entry.version)
        raise UnsupportedEntry(
            f"{_where(entry)} has oplog version {version}, and only version {_VERSION} is known: "
            "use a release that knows the source's version"
        )
    if entry.ts < 0:
        raise UnsupportedEntry(f"{_where(entry)} has no timestamp: it is not an oplog entry")
    return entry


def inner_operations(entry: OplogEntry) -> list[OplogEntry]:
    """
    The operations that an C{applyOps} entry holds, with the position and
    term of that entry; nested ones in their place.

    @raise UnsupportedEntry: it holds none, or one of an unknown type.
    @raise bson.errors.InvalidBSON: it is malformed.
    """
    found = find_element(entry.o, b"applyOps")
    if found is None or found[0] != 0x04:
        raise UnsupportedEntry(f"{_where(entry)} has no array of operations")
    operations: list[OplogEntry] = []
    for raw in array_documents(entry.o, found[3]):
        operation = _parse(raw, entry)
        if operation.is_apply_ops:
            operations.extend(inner_operations(operation))
        else:
            operations.append(operation)
    return operations


def _where(entry: OplogEntry) -> str:
    at = "an unknown time" if entry.ts < 0 else f"{entry.ts >> 32}.{entry.ts & 0xFFFFFFFF}"
    return f"the oplog entry of type {entry.op!r} at {at}"


def _is_set(document: bytes, name: bytes) -> bool:
    found = find_element(document, name)
    return found is not None and found[0] == 0x08 and document[found[3]] == 1


def _spans(raw: bytes) -> dict[bytes, tuple[int, int, int]]:
    """Type, start and end of each value by its name."""
    limit = document_end(raw) - 1
    find, sizes, int32_at = raw.find, _SIZES, _INT32.unpack_from
    spans = {}
    at = 4
    while at < limit:
        value = find(b"\0", at + 1, limit) + 1
        if not value:
            raise InvalidBSON("a BSON element's name does not end")
        kind = raw[at]
        if kind in sizes:
            end = value + sizes[kind]
        elif kind == 0x03 and value + 4 <= limit:
            end = value + int32_at(raw, value)[0]
            if end < value + 5:
                raise InvalidBSON("an embedded document has an impossible length")
        else:
            end = value_end(raw, kind, value, limit)
        if end > limit:
            raise InvalidBSON("a BSON value passes the end of its document")
        spans[raw[at + 1 : value - 1]] = (kind, value, end)
        at = end
    return spans


def _parse(raw: bytes, outer: OplogEntry | None = None) -> OplogEntry:
    """Read an entry, or an operation within C{outer}."""
    get = _spans(raw).get
    entry = OplogEntry()
    entry.raw = raw
    if outer is not None:
        entry.ts, entry.term, entry.version = outer.ts, outer.term, outer.version
    else:
        span = get(b"ts")
        entry.ts = _UINT64.unpack_from(raw, span[1])[0] if span and span[0] == 0x11 else -1
        entry.term = _integer(raw, get(b"t"), -1)
        entry.version = _integer(raw, get(b"v"), -1)
    entry.op = _text(raw, get(b"op"))
    entry.ns = _text(raw, get(b"ns"))
    span = get(b"o2")
    entry.o2 = raw[span[1] : span[2]] if span and span[0] == 0x03 else None
    span = get(b"prevOpTime") if entry.op == "c" else None
    entry.prev_optime = _optime(raw[span[1] : span[2]]) if span and span[0] == 0x03 else None
    span = get(b"multiOpType")
    entry.multi_op_type = _integer(raw, span, 0) if span else 0
    if entry.op not in _KNOWN:
        raise UnsupportedEntry(
            f"{_where(entry)} is of a type that is not known: use a release that knows it"
        )
    span = get(b"o")
    if span and span[0] == 0x03:
        entry.o = raw[span[1] : span[2]]
    elif entry.op in IGNORED:
        entry.o = b"\5\0\0\0\0"
    else:
        raise UnsupportedEntry(f"{_where(entry)} has no document")
    return entry


def _text(raw: bytes, span: tuple[int, int, int] | None) -> str:
    if not span or span[0] != 0x02:
        return ""
    return raw[span[1] + 4 : span[2] - 1].decode("utf-8", "surrogateescape")


def _integer(raw: bytes, span: tuple[int, int, int] | None, default: int) -> int:
    if not span:
        return default
    kind = span[0]
    if kind == 0x12:
        return int(_INT64.unpack_from(raw, span[1])[0])
    return int(_INT32.unpack_from(raw, span[1])[0]) if kind == 0x10 else default


def _optime(raw: bytes) -> tuple[int, int] | None:
    """Position and term; C{None} for the optime that stands for no entry."""
    get = _spans(raw).get
    span = get(b"ts")
    if not span or span[0] != 0x11:
        return None
    position = _UINT64.unpack_from(raw, span[1])[0]
    return (position, _integer(raw, get(b"t"), -1)) if position else None
