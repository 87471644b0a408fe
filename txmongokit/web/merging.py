"""
Changes of two who have changed the same session.
"""

from __future__ import annotations

from typing import Any

from txmongokit.web.errors import SessionConflict
from txmongokit.web.records import SessionRecord

__all__ = ["merge"]

_ABSENT = object()


def merge(conflict: SessionConflict) -> SessionRecord:
    """
    Bring a record's changes into what somebody else has saved meanwhile, key
    by key of the data.

    @return: C{conflict.current}, changed, to be saved.
    @raise SessionConflict: both have changed the same key, be it to the same
        (two who counted from 1 to 2 should have reached 3); the same error.
    """
    base, current = conflict.base, conflict.current
    ours: dict[str, Any] = conflict.record.data
    theirs: dict[str, Any] = current.data
    for key in {**base, **ours}:
        was, mine, now = (each.get(key, _ABSENT) for each in (base, ours, theirs))
        if mine == was:
            continue
        if now != was:
            raise conflict
        if mine is _ABSENT:
            del theirs[key]
        else:
            theirs[key] = mine
    snapshot = conflict.record.snapshot
    if snapshot is not None:
        if conflict.record.user != snapshot.user:
            if current.user not in (snapshot.user, conflict.record.user):
                raise conflict
            current.user = conflict.record.user
        if conflict.record.lifetime != snapshot.lifetime:
            current.lifetime = conflict.record.lifetime
    return current
