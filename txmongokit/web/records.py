"""
One session as the store knows it: its id and its record.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

__all__ = [
    "MAX_USER_LENGTH",
    "SessionRecord",
    "SessionSummary",
    "Snapshot",
    "check_user",
    "digest_of",
    "is_well_formed",
    "new_id",
]

MAX_USER_LENGTH = 512
"""How many characters the name or id of a user may have."""

_ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Snapshot:
    """
    What the database has of a session, to see what has changed.

    @ivar packed: the data as BSON, before encryption.
    """

    packed: bytes = field(repr=False)
    user: str | None
    lifetime: timedelta


@dataclass
class SessionRecord:
    """
    A session.  Change C{data}, and save it with the store.

    @ivar id: what the client has to present; nothing that shows this record
        shows it.
    @ivar data: the application's own.
    @ivar user: whose session it is; C{None} before log-in.
    @ivar confidential: whether the id has gone over encrypted connections
        only.
    @ivar created: when; aware, in UTC, as are the others.
    @ivar used: when it was last saved or touched.
    @ivar expires: when it ends unless it is touched.
    @ivar lifetime: how long it lasts after each use.
    @ivar version: counts saves; 0 is a session that has never been saved.
    @ivar snapshot: the store's own: what was loaded.
    """

    id: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    user: str | None
    confidential: bool
    created: datetime
    used: datetime
    expires: datetime
    lifetime: timedelta
    version: int = 0
    snapshot: Snapshot | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SessionSummary:
    """
    A session without its id, which nobody but its client knows, and without
    its data.

    @ivar key: what names it; good for nothing but
        L{txmongokit.web.store.MongoSessionStore.delete_key}.
    """

    key: str
    user: str | None
    confidential: bool
    created: datetime
    used: datetime
    expires: datetime


def new_id(token_bytes: int) -> str:
    """
    An id that nobody can guess.

    @param token_bytes: how many random bytes are in it.
    """
    return secrets.token_urlsafe(token_bytes)


def is_well_formed(identifier: object, token_bytes: int) -> bool:
    """
    Whether something could be an id that L{new_id} has made.
    """
    return (
        isinstance(identifier, str)
        and len(identifier) == -(-token_bytes * 4 // 3)
        and _ID.fullmatch(identifier) is not None
    )


def digest_of(identifier: str) -> bytes:
    """
    What is stored in place of an id: whoever reads the database cannot
    present it.  The id is random, so that no salt is needed.
    """
    return hashlib.sha256(identifier.encode("ascii")).digest()


def check_user(user: object) -> str:
    """
    The name or id of a user, checked.

    @raise TypeError: it is no C{str}.
    @raise ValueError: it is empty, or longer than L{MAX_USER_LENGTH}.
    """
    if not isinstance(user, str):
        raise TypeError(f"a user must be a str, not {type(user).__name__}")
    if not 0 < len(user) <= MAX_USER_LENGTH:
        raise ValueError(f"a user must have 1 to {MAX_USER_LENGTH} characters, not {len(user)}")
    return user
