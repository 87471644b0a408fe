"""
Changes of two who have changed the same session.
"""

from __future__ import annotations

from typing import Any

from txmongokit.web.errors import SessionConflict
from txmongokit.web.records import SessionRecord

__all__ = ["merge"]


def merge(conflict: SessionConflict) -> SessionRecord:
    """
    Bring a record's changes into what somebody else has saved meanwhile, key
    by key of the data.  Values are compared by what is stored for them.

    @return: C{conflict.current}, changed, to be saved.
    @raise SessionConflict: both have changed the same key, be it to the same
        (two who counted from 1 to 2 should have reached 3); the same error,
        with nothing changed in its records.
    """

    def stored(data: dict[str, Any], key: str) -> bytes | None:
        return conflict.encode({key: data[key]}) if key in data else None

    base, record, current = conflict.base, conflict.record, conflict.current
    changed: list[str] = []
    for key in {**base, **record.data}:
        was = stored(base, key)
        if stored(record.data, key) == was:
            continue
        if stored(current.data, key) != was:
            raise conflict
        changed.append(key)
    snapshot = record.snapshot
    binds = snapshot is not None and record.user != snapshot.user
    if snapshot is not None and binds and current.user not in (snapshot.user, record.user):
        raise conflict
    for key in changed:
        if key in record.data:
            current.data[key] = record.data[key]
        else:
            del current.data[key]
    if binds:
        current.user = record.user
    if snapshot is not None and record.lifetime != snapshot.lifetime:
        current.lifetime = record.lifetime
    return current
