"""
The tokens by which programs show that they may come in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest

from twisted.logger import Logger

from txmongokit.web.secretfile import SecretFileError, read_secrets

__all__ = ["TokenFile"]

_log = Logger()
# RFC 6750, 2.1.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_SHORTEST = 20
_MOST_TOKENS = 100
# How often a change of the file is looked for, in seconds.
_LOOK_EVERY = 1.0


class TokenFile:
    """
    A file with a token in each line, each of which lets a request in: two
    while one takes the other's place.  Empty lines, and such as begin with
    C{#}, do not count.

    A file that has changed is read again.  One that became unusable changes
    nothing but the log, so that a slip does not lock everybody out.

    @param path: where it is.
    @param seconds: a clock that never goes back.

    @raise SecretFileError: the file cannot be read, has no token, or one that
        is too short or has characters that no header can carry.
    """

    def __init__(self, path: str, seconds: Callable[[], float]) -> None:
        self._path = path
        self._seconds = seconds
        self._looked = seconds()
        self._digests: tuple[bytes, ...] = ()
        self._seen: tuple[int, ...] = ()
        self._read()

    def accepts(self, shown: bytes) -> bool:
        """
        Whether it is one of the tokens.  How long that takes tells nothing of
        how much of it is right.
        """
        now = self._seconds()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            if self._state() != self._seen:
                self.reload()
        digest = sha256(shown).digest()
        return sum(compare_digest(digest, known) for known in self._digests) > 0

    def reload(self) -> None:
        """
        Read the file again.
        """
        try:
            self._read()
        except SecretFileError as error:
            self._seen = self._state()
            _log.error("{error}; the tokens from before are still in force", error=str(error))
        else:
            _log.info("{count} tokens are in force", count=len(self._digests))

    def _state(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> None:
        lines, found = read_secrets(self._path, "token file")
        tokens = set(lines)
        if not 0 < len(tokens) <= _MOST_TOKENS:
            raise SecretFileError(
                f"the token file {self._path} has {len(tokens)} tokens: write from 1 to "
                f"{_MOST_TOKENS} into it, one a line"
            )
        for token in tokens:
            if len(token) < _SHORTEST or _TOKEN.fullmatch(token) is None:
                raise SecretFileError(
                    f"a token in {self._path} is not at least {_SHORTEST} letters, digits or "
                    "any of -._~+/: make one with python -c 'import secrets; "
                    "print(secrets.token_urlsafe())'"
                )
        self._seen = found.st_ino, found.st_mtime_ns, found.st_size
        self._digests = tuple(sha256(token).digest() for token in tokens)
