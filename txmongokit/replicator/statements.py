"""
Statements: what an oplog entry is as an element of an C{update} or C{delete}
command, put together from raw BSON.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from struct import Struct
from typing import TypeAlias

from txmongokit.rawbson import elements, find_element, value_end, values_equal_key, wrap
from txmongokit.replicator.entries import OplogEntry, UnsupportedEntry

__all__ = ["Dialect", "Operation", "would_be_stamped"]

_INT32 = Struct("<i")
_pack = _INT32.pack

_Value: TypeAlias = tuple[int, bytes]
"""A BSON type and a value's bytes."""

_UPSERT = b"\x08upsert\0\x01\0"
_LIMIT_ONE = b"\x10limit\0\x01\0\0\0\0"
_DOLLAR = 0x24
# What a replacement's statement has besides _id and document.
_AROUND = 25
_DIFF_HEAD = b"\x10$v\0\x02\0\0\0\x03diff\0"
_NO_TIME = bytes(8)
# What nearly all documents have for an _id.
_ID_SIZES = {0x07: 12, 0x10: 4, 0x12: 8}
_UNSTAMPED = re.compile(rb"\x11[^\0]*\0{9}")


@dataclass(frozen=True, slots=True)
class Dialect:
    """
    What the destination understands.

    @ivar apply_oplog_update: C{$_internalApplyOplogUpdate} as a pipeline
        stage: 6.0 and later, where a probe has shown that it is accepted.
    @ivar dollar_names: names that begin with C{$} at the top of a document:
        5.0 and later.
    """

    apply_oplog_update: bool = False
    dollar_names: bool = True

    @classmethod
    def for_server(cls, version: tuple[int, ...], *, probed: bool) -> Dialect:
        """
        The dialect of a server.

        @param version: as C{buildInfo} has it in C{versionArray}.
        @param probed: whether it accepted C{$_internalApplyOplogUpdate}.
        """
        return cls(probed and version >= (6, 0), version >= (5, 0))


class Operation:
    """
    One write to one document.

    @ivar kind: C{i}, C{u} or C{d}.
    @ivar form: the kind of statement that it takes, likewise: some documents
        cannot be inserted as they are.
    @ivar namespace: in the destination.
    @ivar document: what the entry carries as C{o}, raw.
    @ivar id_element: the whole C{_id} element, raw.
    @ivar key: equal for what MongoDB regards as the same C{_id}.
    @ivar size: bytes of the statement.
    """

    __slots__ = (
        "_statement",
        "document",
        "form",
        "id_element",
        "key",
        "kind",
        "namespace",
        "size",
    )

    document: bytes
    form: str
    kind: str
    namespace: str
    id_element: bytes
    key: Hashable
    size: int
    _statement: bytes | None

    @property
    def statement(self) -> bytes:
        """
        The element of an update or delete command, raw.
        """
        made = self._statement
        if made is None:
            body = _query(self.id_element) + b"\x03u\0" + self.document + _UPSERT
            made = self._statement = _pack(len(body) + 4) + body
        return made

    @classmethod
    def from_entry(cls, entry: OplogEntry, namespace: str, dialect: Dialect) -> Operation:
        """
        The write that an entry stands for.

        @param namespace: where the destination has the entry's collection.

        @raise UnsupportedEntry: the entry's form is unknown, or the
            destination cannot express it.
        @raise bson.errors.InvalidBSON: its document is malformed.
        """
        kind, o = entry.op, entry.o
        source = o
        if kind == "u":
            if entry.o2 is None:
                raise _unsupported(entry, "does not say which document to update")
            source = entry.o2
        if source[5:9] == b"_id\0":
            # Where nearly every document has it.
            id_kind, start, value = source[4], 4, 9
            size = _ID_SIZES.get(id_kind)
            end = value_end(source, id_kind, 9, len(source) - 1) if size is None else 9 + size
        else:
            found = find_element(source, b"_id")
            if found is None:
                raise _unsupported(entry, "has no _id")
            id_kind, _, start, value, end = found
        operation = cls()
        operation.kind = operation.form = kind
        operation.namespace = namespace
        operation.document = o
        operation.id_element = id_element = source[start:end]
        operation.key = values_equal_key(id_kind, source[value:end])
        if id_kind == 0x0B or (id_kind == 0x03 and source[value + 5] == _DOLLAR):
            # Such an _id would be read as a condition of its own.
            equal = bytes((id_kind,)) + b"$eq\0" + source[value:end]
            id_element = b"\x03_id\0" + wrap(equal)
        elif kind == "i" and b"$" not in o and (_NO_TIME not in o or not would_be_stamped(o)):
            # Nearly all: the statement is for those that may be there already.
            operation._statement = None
            operation.size = len(id_element) + len(o) + _AROUND
            return operation
        q = _query(id_element)
        if kind == "i":
            body = q + _replacement(entry, dialect) + _UPSERT
            if would_be_stamped(o):
                operation.form = "u"
        elif kind == "u":
            body = q + _update(entry, dialect) + b"\0"
        elif kind == "d":
            body = q + _LIMIT_ONE
        else:
            raise _unsupported(entry, "is no write to a document")
        operation.size = size = len(body) + 4
        operation._statement = _pack(size) + body
        return operation


def would_be_stamped(document: bytes) -> bool:
    """
    Whether a document has C{Timestamp(0, 0)} at its top: servers put the
    present time in its place where a document is inserted, or replaces
    another one, but not where a pipeline makes it.
    """
    if _NO_TIME not in document or _UNSTAMPED.search(document) is None:
        return False
    return any(
        kind == 0x11 and document[start:end] == _NO_TIME
        for kind, _, _, start, end in elements(document)
    )


def _query(id_element: bytes) -> bytes:
    return b"\x03q\0" + _pack(len(id_element) + 5) + id_element + b"\0"


def _unsupported(entry: OplogEntry, problem: str) -> UnsupportedEntry:
    return UnsupportedEntry(
        f"the entry of type {entry.op!r} for {entry.ns} at "
        f"{entry.ts >> 32}.{entry.ts & 0xFFFFFFFF} {problem}"
    )


def _replacement(entry: OplogEntry, dialect: Dialect) -> bytes:
    """The C{u} of a statement that replaces the whole document."""
    o = entry.o
    if b"$" in o and any(name.startswith(b"$") for _, name, _, _, _ in elements(o)):
        if not dialect.dollar_names:
            raise _unsupported(
                entry, "has a name that begins with '$', which the destination (before 5.0) refuses"
            )
        # It would be read as an operator, or refused.
        return _pipeline(_document(("$replaceWith", _literal((0x03, o)))))
    if would_be_stamped(o):
        return _pipeline(_document(("$replaceWith", _literal((0x03, o)))))
    return b"\x03u\0" + o


def _update(entry: OplogEntry, dialect: Dialect) -> bytes:
    """The C{u} of an update's statement."""
    o = entry.o
    if o[5] != _DOLLAR:
        return _replacement(entry, dialect)
    if dialect.apply_oplog_update and o.startswith(_DIFF_HEAD, 4):
        return _internal_update(o)
    version = find_element(o, b"$v")
    if version is None or _integer(o, version[0], version[3]) == 1:
        rest = []
        for _, name, start, _, end in elements(o):
            if name in (b"$set", b"$unset"):
                rest.append(o[start:end])
            elif name != b"$v":
                raise _unsupported(entry, "has an update operator that is not known")
        return b"\x03u\0" + wrap(*rest)
    if _integer(o, version[0], version[3]) != 2:
        raise _unsupported(entry, "has an update format that is not known")
    diff = find_element(o, b"diff")
    if diff is None or diff[0] != 0x03:
        raise _unsupported(entry, "has no diff")
    if dialect.apply_oplog_update:
        return _internal_update(o)
    new = _patched_object(entry, _string("$$ROOT"), o[diff[3] : diff[4]], 0)
    return _pipeline(_document(("$replaceWith", new)))


def _internal_update(o: bytes) -> bytes:
    # [{$_internalApplyOplogUpdate: {oplogUpdate: o}}]: the lengths count inwards.
    size = len(o)
    return b"".join(
        (
            b"\x04u\0",
            _pack(size + 59),
            b"\x030\0",
            _pack(size + 51),
            b"\x03$_internalApplyOplogUpdate\0",
            _pack(size + 18),
            b"\x03oplogUpdate\0",
            o,
            b"\0\0\0",
        )
    )


def _integer(data: bytes, kind: int, at: int) -> int:
    if kind == 0x01:
        return int(Struct("<d").unpack_from(data, at)[0])
    return int(_INT32.unpack_from(data, at)[0]) if kind in (0x10, 0x12) else -1


# The pipeline below rebuilds a document from its names and values as arrays:
# that keeps their order and is indifferent to names that have '.' or '$'.


def _element(name: str | bytes, value: _Value) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return bytes((value[0],)) + raw + b"\0" + value[1]


def _document(*fields: tuple[str, _Value]) -> _Value:
    return 0x03, wrap(*(_element(name, value) for name, value in fields))


def _array(*values: _Value) -> _Value:
    return 0x04, wrap(*(_element(str(i), value) for i, value in enumerate(values)))


def _string(text: str | bytes) -> _Value:
    raw = text.encode() if isinstance(text, str) else text
    return 0x02, _pack(len(raw) + 1) + raw + b"\0"


def _int(number: int) -> _Value:
    return 0x10, _pack(number)


def _literal(value: _Value) -> _Value:
    return _document(("$literal", value))


def _call(operator: str, *arguments: _Value) -> _Value:
    return _document((operator, _array(*arguments)))


def _pipeline(stage: _Value) -> bytes:
    return _element("u", _array(stage))


_NULL: _Value = (0x0A, b"")


def _is_named(field: str, name: bytes) -> _Value:
    # Comparing bytes, as strings compare by the collection's collation.
    key = _string(f"$${field}.k")
    return _call(
        "$and",
        _call("$eq", _call("$strLenBytes", key), _int(len(name))),
        _call("$eq", _call("$indexOfBytes", key, _literal(_string(name))), _int(0)),
    )


def _switch(branches: list[tuple[_Value, _Value]], default: _Value) -> _Value:
    if not branches:
        return default
    cases = [_document(("case", case), ("then", then)) for case, then in branches]
    return _document(("$switch", _document(("branches", _array(*cases)), ("default", default))))


def _patched(entry: OplogEntry, current: _Value, diff: bytes, depth: int) -> _Value:
    """An expression for a nested value after its diff; null where it is of another shape."""
    marker = find_element(diff, b"a")
    if marker is not None and marker[0] == 0x08:
        is_shape = _call("$isArray", current)
        new = _patched_array(entry, current, diff, depth)
    else:
        is_shape = _call("$eq", _call("$type", current), _string("object"))
        new = _patched_object(entry, current, diff, depth)
    return _call("$cond", is_shape, new, _literal(_NULL))


def _patched_object(entry: OplogEntry, current: _Value, diff: bytes, depth: int) -> _Value:
    field = f"f{depth}"
    gone: list[_Value] = []
    absent: list[_Value] = []
    added: list[_Value] = []
    original = _call("$objectToArray", current)
    changed: list[tuple[_Value, _Value]] = []
    for kind, name, _, at, end in elements(diff):
        if name in (b"d", b"i", b"u") and kind == 0x03:
            for each, inner, _, start, stop in elements(diff, at):
                new = _literal((each, diff[start:stop]))
                pair = _document(("k", _literal(_string(inner))), ("v", new))
                if name == b"u":
                    changed.append((_is_named(field, inner), new))
                    absent.append(_unless_there(original, field, inner, pair))
                    continue
                # What is inserted moves to the end if it is there already.
                gone.append(_is_named(field, inner))
                if name == b"i":
                    added.append(pair)
        elif name[:1] == b"s" and kind == 0x03:
            new = _patched(entry, _string(f"$${field}.v"), diff[at:end], depth + 1)
            changed.append((_is_named(field, name[1:]), new))
        else:
            raise _unsupported(entry, "has a diff of a form that is not known")
    fields = original
    if gone:
        kept = _call("$not", _call("$or", *gone))
        fields = _document(
            ("$filter", _document(("input", fields), ("as", _string(field)), ("cond", kept)))
        )
    if changed:
        value = _switch(changed, _string(f"$${field}.v"))
        pair = _document(("k", _string(f"$${field}.k")), ("v", value))
        fields = _document(
            ("$map", _document(("input", fields), ("as", _string(field)), ("in", pair)))
        )
    if absent or added:
        fields = _call("$concatArrays", fields, *absent, _array(*added))
    # In a list of its own: the operator would take a bare array for its arguments.
    return _call("$arrayToObject", fields)


def _unless_there(fields: _Value, field: str, name: bytes, pair: _Value) -> _Value:
    """A list with a field's name and value; an empty one where the name is there."""
    found = _document(
        (
            "$map",
            _document(("input", fields), ("as", _string(field)), ("in", _is_named(field, name))),
        )
    )
    return _call("$cond", _call("$anyElementTrue", found), _array(), _array(pair))


def _patched_array(entry: OplogEntry, current: _Value, diff: bytes, depth: int) -> _Value:
    index, item = f"i{depth}", f"e{depth}"
    length: int | None = None
    longest = 0
    branches: list[tuple[_Value, _Value]] = []
    at_index = _call("$arrayElemAt", current, _string(f"$${index}"))
    for kind, name, _, at, end in elements(diff):
        if name == b"a":
            continue
        if name == b"l":
            length = _integer(diff, kind, at)
            continue
        if name[:1] not in (b"u", b"s") or not name[1:].isdigit():
            raise _unsupported(entry, "has an array diff of a form that is not known")
        position = int(name[1:])
        if name[:1] == b"u":
            new = _literal((kind, diff[at:end]))
        else:
            inner = _patched(entry, _string(f"$${item}"), diff[at:end], depth + 1)
            new = _document(
                ("$let", _document(("vars", _document((item, at_index))), ("in", inner)))
            )
        longest = max(longest, position + 1)
        branches.append((_call("$eq", _string(f"$${index}"), _int(position)), new))
    size = _call("$max", _call("$size", current), _int(longest))
    size = size if length is None else _int(length)
    return _document(
        (
            "$map",
            _document(
                ("input", _call("$range", _int(0), size)),
                ("as", _string(index)),
                ("in", _switch(branches, at_index)),
            ),
        )
    )
