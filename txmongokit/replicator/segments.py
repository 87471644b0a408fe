"""
Segments: into which parts a collection is cut to be copied, several at a time.

A cut is a value of C{_id}, and a segment goes from one (with it) to the next
(without it) in the order of the C{_id} index.  That order is total over all
BSON types: C{MinKey}, null, numbers of every type together with C{NaN} the
least of them, strings, and so on.  So a collection with C{_id}s of several
types needs no cut between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from txmongokit.rawbson import find_element, values_equal_key

__all__ = ["DEFAULT_TASKS", "SEGMENT_BYTES", "Segment", "ends_at_greatest", "how_many", "segments"]

SEGMENT_BYTES = 64 * 1024 * 1024
"""About how much a segment should hold: what is done anew after a crash is less."""

DEFAULT_TASKS = 2
"""How many segments are copied at once: measured, with both servers near."""

_MOST = 1024
_MINKEY, _MAXKEY = 0xFF, 0x7F


@dataclass(frozen=True, slots=True)
class Segment:
    """
    A part of a collection.

    @ivar number: its place among the collection's segments, from 0.
    @ivar lower: C{{_id: value}}, raw, the first document that belongs to it;
        C{None} for the beginning.
    @ivar upper: likewise the first that does not; C{None} for the end.
    """

    number: int
    lower: bytes | None
    upper: bytes | None


def how_many(size: int, documents: int, *, each: int = SEGMENT_BYTES) -> int:
    """
    Into how many segments to cut.

    @param size: bytes of all documents.
    @param documents: how many there are.
    @param each: about how many bytes a segment should have.
    """
    return max(1, min(size // each, documents // 2, _MOST))


def segments(sample: Sequence[bytes], count: int) -> list[Segment]:
    """
    Cut a collection where a sample of it says.

    @param sample: C{{_id: value}} documents, raw, as they were drawn: in the
        order of the C{_id} index; there may be repetitions.
    @param count: how many segments there should be; there are fewer where
        the sample does not tell them apart.
    """
    known = set()
    distinct = []
    for document in sample:
        kind, key = _key(document)
        # Before the least and behind the greatest there is nothing to cut off.
        if kind not in (_MINKEY, _MAXKEY) and key not in known:
            known.add(key)
            distinct.append(document)
    places = [len(distinct) * number // count for number in range(1, count)]
    cuts = [distinct[place] for place in sorted(set(places)) if place < len(distinct)]
    bounds: list[bytes | None] = [None, *cuts, None]
    return [Segment(number, lower, upper) for number, (lower, upper) in enumerate(pairwise(bounds))]


def ends_at_greatest(document: bytes) -> bool:
    """
    Whether a C{{_id: value}} document has the greatest value of all, so that
    nothing can come after it.
    """
    return _key(document)[0] == _MAXKEY


def _key(document: bytes) -> tuple[int, object]:
    found = find_element(document, b"_id")
    if found is None:
        raise ValueError("a document of the sample has no _id")
    kind, _, _, start, end = found
    return kind, values_equal_key(kind, document[start:end])
