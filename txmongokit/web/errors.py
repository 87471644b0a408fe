"""
What can go wrong with a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from txmongokit.web.records import SessionRecord

__all__ = [
    "InvalidSessionData",
    "SessionConflict",
    "SessionError",
    "SessionGone",
    "SessionLockTimeout",
    "SessionTooLarge",
    "SessionUnreadable",
]


class SessionError(Exception):
    """
    Any of the errors about sessions.
    """


class SessionGone(SessionError):
    """
    A session that was loaded has been deleted, or has expired, since then.
    """


class SessionConflict(SessionError):
    """
    Somebody else has saved the session since it was loaded.

    @ivar record: the record that was not saved; its C{data} is as the caller
        left it.
    @ivar base: the data as it was loaded, before anybody changed it.
    @ivar current: the record as it is stored now: merge into its C{data} and
        save it.
    @ivar encode: makes BSON of data as the store does, to see what has
        changed: C{1} and C{True} are equal, and not the same.
    """

    def __init__(
        self,
        record: SessionRecord,
        base: dict[str, Any],
        current: SessionRecord,
        encode: Callable[[dict[str, Any]], bytes],
    ) -> None:
        super().__init__(
            f"the session was saved by somebody else (version {current.version}, where "
            f"{record.version} was loaded): merge the changes into .current and save that, "
            "or make them with update()"
        )
        self.record = record
        self.base = base
        self.current = current
        self.encode = encode


class InvalidSessionData(SessionError, ValueError):
    """
    The data has something that the codec or BSON cannot encode.
    """


class SessionTooLarge(SessionError, ValueError):
    """
    The data is larger than the store allows.

    @ivar size: of the data, in bytes of BSON.
    @ivar limit: the store's C{max_bytes}.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the session's data has {size} bytes and may have {limit}: keep large things in a "
            "collection of their own and their ids in the session, or raise max_bytes"
        )
        self.size = size
        self.limit = limit


class SessionUnreadable(SessionError):
    """
    What is stored is not what this store's codec, or one of its keys, made;
    or its codec fails.
    """


class SessionLockTimeout(SessionError):
    """
    Others have held the session's lock for too long.
    """
