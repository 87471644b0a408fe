"""
Files with secrets, one a line.
"""

from __future__ import annotations

import base64
import os
import stat

from twisted.logger import Logger

from txmongokit.web.codecs import ISessionCipher

__all__ = ["SecretFileError", "read_cipher", "read_secrets"]

_log = Logger()
_MOST_BYTES = 65_536
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class SecretFileError(ValueError):
    """
    A file has not what it should have: one sentence with the mend, and none of
    the secrets.
    """


def read_secrets(path: str, kind: str) -> tuple[list[bytes], os.stat_result]:
    """
    The lines of a file that are neither empty nor begin with C{#}, and what
    the file was when they were read.

    @param kind: what the file is called in messages.

    @raise SecretFileError: it cannot be read, or is too long.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"the {kind} {path} cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise SecretFileError(
            f"the {kind} {path} is longer than {_MOST_BYTES} bytes: it must have one secret a "
            "line, and nothing else"
        )
    if stat.S_IMODE(found.st_mode) & 0o007:
        _log.warn("everybody on this machine may read {path}: chmod it 640", path=path)
    lines = [line.strip() for line in content.splitlines()]
    return [line for line in lines if line and not line.startswith(b"#")], found


def read_cipher(path: str) -> ISessionCipher:
    """
    A cipher with the keys of a file: in each line a name and the key in
    base64, the newest key first.  Sessions that are not encrypted are not read.

    @raise SecretFileError: the file, or a line of it, cannot be used.
    @raise ImportError: the extra C{encryption} is not installed.
    """
    from txmongokit.web.encryption import SessionCipher

    lines, _ = read_secrets(path, "key file")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        name, _, text = line.partition(b" ")
        try:
            # Of both alphabets that there are.
            key = base64.b64decode(text.strip().translate(_URL_SAFE), validate=True)
            if name.decode("latin-1") in keys:
                raise ValueError("a name twice")
            keys[name.decode("latin-1")] = key
            SessionCipher(keys, name.decode("latin-1"))
        except ValueError:
            # By its place alone: what is in the place of a name may be the key.
            raise SecretFileError(
                f"key {number} in {path} is not a name of its own (letters, digits, dots, "
                "hyphens, underscores), a space, and 16, 24 or 32 bytes in base64"
            ) from None
    if not keys:
        raise SecretFileError(f"the key file {path} has no key: write a name and a key into it")
    return SessionCipher(keys, next(iter(keys)))
