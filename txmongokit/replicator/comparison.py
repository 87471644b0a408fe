"""
Source and destination compared: documents by their bytes, collections and
indexes by all of their options.

Nothing here asks a server.  What is found is a suspicion at first: while both
sides move, a document may be different only because its change is still on
its way.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.json_util import CANONICAL_JSON_OPTIONS, dumps

from txmongokit.rawbson import find_element, values_equal_key, wrap

__all__ = [
    "Difference",
    "NAMED",
    "DocumentKey",
    "Observation",
    "OrderComparison",
    "RangeComparison",
    "Report",
    "digest",
    "document_key",
    "id_element",
    "index_differences",
    "judge",
    "option_differences",
    "show_id",
]

DocumentKey = Hashable
"""Equal for two C{_id}s that a server regards as equal."""

NAMED = 100
"""Differences that are named one by one; all are counted."""

_SHOWN = 300
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_NO_ID = b"\x0a_id\0"


def digest(document: bytes | None) -> bytes | None:
    """
    16 bytes that stand for a document; C{None} for one that is not there.

    The order of the fields counts, as it does for the server's C{dbHash}.
    """
    return None if document is None else blake2b(document, digest_size=16).digest()


def id_element(document: bytes) -> bytes:
    """
    A document's C{_id} as a BSON element of that name.
    """
    found = find_element(document, b"_id")
    # A capped collection may have documents without one.
    return _NO_ID if found is None else document[found[2] : found[4]]


def document_key(element: bytes) -> DocumentKey:
    """
    What an C{_id} is known by: C{1} and C{1.0} are the same.
    """
    return values_equal_key(element[0], element[5:])


def show_id(element: bytes) -> str:
    """
    An C{_id} in canonical extended JSON, cut off where it is very long.
    """
    value = bson.decode(wrap(element), _CODEC)["_id"]
    text = dumps(value, json_options=CANONICAL_JSON_OPTIONS)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


class RangeComparison:
    """
    The documents of one range of C{_id}s.

    @param source: the source's, in the order of the index.
    @param most: suspects that are remembered.
    @ivar unnamed: how many are not.
    """

    def __init__(self, source: Sequence[bytes], most: int = 100_000) -> None:
        self.unnamed = 0
        self._most = most
        self._suspects: list[bytes] = []
        self._source = source
        self._at = 0
        self._unmatched: dict[DocumentKey, bytes] | None = None

    def take(self, batch: Sequence[bytes]) -> None:
        """
        The destination's next documents, in the same order.
        """
        if self._unmatched is None:
            end = self._at + len(batch)
            # Nearly always: one comparison of bytes for thousands of documents.
            if self._source[self._at : end] == batch:
                self._at = end
                return
            self._unmatched = {
                document_key(id_element(document)): document
                for document in self._source[self._at :]
            }
        for document in batch:
            element = id_element(document)
            if self._unmatched.pop(document_key(element), None) == document:
                continue
            if len(self._suspects) < self._most:
                self._suspects.append(element)
            else:
                self.unnamed += 1

    def finish(self) -> list[bytes]:
        """
        After the last batch: the C{_id} elements of what is not the same on
        both sides.
        """
        if self._unmatched is None:
            left: Iterator[bytes] = iter(self._source[self._at :])
        else:
            left = iter(self._unmatched.values())
        self._suspects.extend(id_element(document) for document in left)
        self._unmatched = {}
        return self._suspects


class OrderComparison:
    """
    The documents of a capped collection, in natural order: what both sides
    have must be in the same order on both.

    Batches of both sides are given as they come; they need not end at the
    same document.

    @param most: documents that may wait for their counterpart.
    @ivar documents: how many were taken of each side.
    @ivar size: the bytes of the source's.
    @ivar out_of_order: how many stand elsewhere than in the source.
    """

    def __init__(self, most: int = 100_000) -> None:
        self.documents = [0, 0]
        self.size = 0
        self.out_of_order = 0
        self._suspects: list[bytes] = []
        self._most = most
        self._waiting: tuple[dict[DocumentKey, tuple[int, bytes, bytes | None]], ...] = ({}, {})
        self._last = (-1, -1)

    @property
    def full(self) -> bool:
        """
        Whether the two are too different to go on.
        """
        return sum(map(len, self._waiting)) + len(self._suspects) > self._most

    def take(self, side: int, batch: Sequence[bytes]) -> None:
        """
        The next documents of one side: 0 is the source, 1 the destination.
        """
        ours, theirs = self._waiting[side], self._waiting[1 - side]
        if not side:
            self.size += sum(map(len, batch))
        for document in batch:
            place = self.documents[side]
            self.documents[side] += 1
            element, seal = id_element(document), digest(document)
            key = (None, seal) if element == _NO_ID else document_key(element)
            found = theirs.pop(key, None)
            if found is None:
                ours[key] = (place, element, seal)
                continue
            if seal != found[2]:
                self._suspects.append(element)
            # Where the order is the same, pairs are found in that order, too.
            pair = (found[0], place) if side else (place, found[0])
            if pair[0] < self._last[0] or pair[1] < self._last[1]:
                self.out_of_order += 1
            self._last = (max(pair[0], self._last[0]), max(pair[1], self._last[1]))

    def finish(self) -> list[bytes]:
        """
        After the last batches: the C{_id} elements of all the suspects.
        """
        for waiting in self._waiting:
            self._suspects.extend(element for _, element, _ in waiting.values())
            waiting.clear()
        return self._suspects


@dataclass(slots=True)
class Observation:
    """
    One document as it was read in one generation: in the source before the
    replication had passed, then in the destination, then in the source again.
    Each is a L{digest}.
    """

    before: bytes | None = None
    copy: bytes | None = None
    after: bytes | None = None


def judge(previous: Observation | None, current: Observation) -> str:
    """
    What to make of a suspect after another look.

    A document that changes all the time can be between two of its states in
    the destination, so a difference must be seen twice, unchanged.

    @return: C{equal}, C{moving} (look again), C{missing}, C{extra} or
        C{different}.
    """
    if current.copy in (current.before, current.after):
        return "equal"
    if previous is None or current.before != current.after or previous != current:
        return "moving"
    if current.copy is None:
        return "missing"
    return "extra" if current.after is None else "different"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One thing in which the destination is not the source's copy.

    @ivar kind: C{missing}, C{extra}, C{different}, C{unsettled}, C{order},
        C{collection}, C{option} or C{index}.
    @ivar namespace: in the destination.
    @ivar what: the C{_id} in extended JSON, or what of the schema.
    """

    kind: str
    namespace: str
    what: str

    def __str__(self) -> str:
        if self.kind in _SENTENCES:
            return f"{self.namespace}: {_SENTENCES[self.kind].format(self.what)}"
        return f"{self.namespace}: {self.what}"


_SENTENCES = {
    "missing": "the document with _id {} is missing in the destination",
    "extra": "the destination has a document with _id {} that the source has not",
    "different": "the document with _id {} is different",
    "unsettled": "the document with _id {} kept changing and could not be compared",
}


@dataclass
class Report:
    """
    What a verification has found.

    @ivar collections: how many were compared.
    @ivar documents: documents of the source that were compared.
    @ivar size: their bytes.
    @ivar seconds: how long it took.
    @ivar rechecked: documents that were looked at again.
    @ivar counts: differences by kind.
    @ivar named: the first hundred of them.
    @ivar behind: whether the replication did not get as far as the source was
        when a difference was seen.
    """

    collections: int = 0
    documents: int = 0
    size: int = 0
    seconds: float = 0.0
    rechecked: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    named: list[Difference] = field(default_factory=list)
    behind: bool = False

    def add(self, difference: Difference) -> None:
        """
        Count a difference, and name it if it is one of the first.
        """
        self.count(difference.kind, 1)
        if len(self.named) < NAMED:
            self.named.append(difference)

    def count(self, kind: str, number: int) -> None:
        """
        Count differences that are not named.
        """
        self.counts[kind] = self.counts.get(kind, 0) + number

    @property
    def equal(self) -> bool:
        """
        Whether nothing differs.
        """
        return not self.counts

    @property
    def rate(self) -> float:
        """
        Documents of the source per second.
        """
        return self.documents / max(self.seconds, 0.001)

    def lines(self) -> Iterator[str]:
        """
        The report, a sentence a line.  No document is ever shown.
        """
        for difference in self.named:
            yield str(difference)
        total = sum(self.counts.values())
        if total > len(self.named):
            yield f"and {total - len(self.named)} more"
        if self.behind:
            yield (
                "the replication has not come as far as the source: what differs may still be on "
                "its way, so let mongosync run and verify again"
            )
        found = "equal" if self.equal else _counted(self.counts)
        yield (
            f"compared {self.collections} collections, {self.documents} documents, "
            f"{self.size} bytes in {self.seconds:.1f} s ({self.rate:.0f} documents/s), "
            f"looked again at {self.rechecked}: {found}"
        )

    def fields(self) -> dict[str, Any]:
        """
        The same for a program.
        """
        return {
            "equal": self.equal,
            "collections": self.collections,
            "documents": self.documents,
            "bytes": self.size,
            "seconds": round(self.seconds, 3),
            "rechecked": self.rechecked,
            "differences": dict(self.counts),
            "named": [str(difference) for difference in self.named],
            "behind": self.behind,
        }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {_PLURALS[kind]}" for kind, count in sorted(counts.items()))


_PLURALS = {
    "missing": "documents missing",
    "extra": "documents too many",
    "different": "documents different",
    "unsettled": "documents still changing",
    "unexamined": "documents that may differ and were not looked at again",
    "order": "documents in another order",
    "collection": "collections wrong",
    "option": "collection options wrong",
    "index": "indexes wrong",
}

_IGNORED_OPTIONS = frozenset({"uuid", "autoIndexId"})
# Which servers put into another order themselves.
_UNORDERED = frozenset({"weights", "wildcardProjection"})
_IGNORED_OF_INDEX = frozenset({"v", "ns", "background", "name"})


def option_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """
    Names of the options in which two collections or views differ.
    """
    for name in sorted({*here, *there} - _IGNORED_OPTIONS):
        if not _same_option(name, here.get(name), there.get(name)):
            yield name


def index_differences(
    here: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """
    In what the indexes of two collections differ: a sentence each.
    """
    ours = {str(index["name"]): index for index in here}
    theirs = {str(index["name"]): index for index in there}
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            yield f"the index {name!r} is missing in the destination"
        elif name not in ours:
            yield f"the destination has an index {name!r} that the source has not"
        else:
            one, other = ours[name], theirs[name]
            for option in sorted({*one, *other} - _IGNORED_OF_INDEX):
                if not _same_option(option, one.get(option), other.get(option)):
                    yield f"the index {name!r} has another {option!r} in the destination"


def _same_option(name: str, one: Any, other: Any) -> bool:
    if one in (None, False) and other in (None, False):
        return True
    if name == "size" and isinstance(one, int | float) and isinstance(other, int | float):
        # Servers before 7.0 round the size of a capped collection up.
        return -(-one // 256) == -(-other // 256)
    if name == "changeStreamPreAndPostImages":
        return bool((one or {}).get("enabled")) == bool((other or {}).get("enabled"))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        ignored = {"collation": "version", "clusteredIndex": "v"}.get(name)
        one = {key: value for key, value in one.items() if key != ignored}
        other = {key: value for key, value in other.items() if key != ignored}
        if name in _UNORDERED:
            return bool(one == other)
    return _same_value(one, other)


def _same_value(one: Any, other: Any) -> bool:
    """Equal, with the fields in the same order; C{1} is C{1.0}, and C{True} is not C{1}."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(map(_same_value, one.values(), other.values()))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_value, one, other))
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return bool(one == other) or (one != one and other != other)
