"""
Session data that only the web servers can read and make (extra
C{txmongokit[encryption]}).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from zope.interface import implementer

from txmongokit.web.codecs import ISessionCipher
from txmongokit.web.errors import SessionUnreadable

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as error:
    raise ImportError(
        "encrypted sessions need cryptography: pip install 'txmongokit[encryption]'"
    ) from error

__all__ = ["SessionCipher"]

_FORMAT = 1
_NONCE = 12
_KEY_SIZES = (16, 24, 32)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@implementer(ISessionCipher)
class SessionCipher:
    """
    AES-GCM with keys that have names.

    What is encrypted is bound to its session, to that session's user and to
    whether it is confidential: the server, or whoever writes to the database,
    can neither read nor change it, nor hand it to another session or user.
    They can delete it, and put an older state of the same session back; and,
    as long as the cipher accepts plain sessions, plant some of their own with
    whatever data and user they like.

    To change keys, give the new one to every web server as an additional key,
    then make it the newest, then run
    L{txmongokit.web.store.MongoSessionStore.rotate}, then drop the old.  One
    key is good for 2^32 saves.

    @param keys: 16, 24 or 32 random bytes for each name; see L{new_key}.
    @param newest: the name of the key that encrypts; may be left out where
        there is one key.
    @param accepts_plain: whether sessions are read that are not encrypted:
        until C{rotate} has run, and no longer.

    @raise ValueError: there is no key, or one that is unsuitable, or none
        of the newest's name.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes],
        newest: str | None = None,
        *,
        accepts_plain: bool = False,
    ) -> None:
        if not keys:
            raise ValueError(
                "a cipher needs a key: SessionCipher({'name': SessionCipher.new_key()})"
            )
        given: Mapping[Any, Any] = keys
        for number, (name, key) in enumerate(given.items(), 1):
            # By its number: who has swapped the two has the key for a name.
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(
                    f"the name of key {number} must be 1 to 64 letters, digits, dots, hyphens "
                    "and underscores"
                )
            if not isinstance(key, bytes) or len(key) not in _KEY_SIZES:
                raise ValueError(f"key {number} must be 16, 24 or 32 bytes")
        if newest is None and len(keys) == 1:
            (newest,) = keys
        if newest is None or newest not in keys:
            raise ValueError(f"newest must be one of the keys: {', '.join(sorted(keys))}")
        self.newest: str = newest
        self.accepts_plain = bool(accepts_plain)
        self._keys = {name: AESGCM(key) for name, key in keys.items()}

    def __repr__(self) -> str:
        return f"<SessionCipher {self.newest} of {', '.join(sorted(self._keys))}>"

    @staticmethod
    def new_key() -> bytes:
        """
        A new random key of 256 bits.
        """
        return AESGCM.generate_key(256)

    def seal(self, packed: bytes, place: bytes) -> bytes:
        """
        Encrypt by the newest key.
        """
        name = self.newest.encode("ascii")
        head = bytes((_FORMAT, len(name))) + name
        nonce = secrets.token_bytes(_NONCE)
        return head + nonce + self._keys[self.newest].encrypt(nonce, packed, head + place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """
        Decrypt by the key that is named.

        @raise SessionUnreadable: the bytes were changed, are another
            session's, or their key is unknown.
        """
        if len(sealed) < 2 or sealed[0] != _FORMAT:
            raise SessionUnreadable("the session's data is nothing that this cipher has made")
        end = 2 + sealed[1]
        name = sealed[2:end].decode("ascii", "replace")
        key = self._keys.get(name)
        if key is None:
            known = ", ".join(sorted(self._keys))
            raise SessionUnreadable(
                f"the session is encrypted by a key that the cipher has not (it has {known}): "
                "give it the older keys, too, until rotate() has run"
            )
        nonce, rest = sealed[end : end + _NONCE], sealed[end + _NONCE :]
        try:
            return key.decrypt(nonce, rest, sealed[:end] + place)
        except (InvalidTag, ValueError):
            raise SessionUnreadable(
                "the session's data was changed, or is another session's"
            ) from None
