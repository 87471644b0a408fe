"""
Tests for L{txmongokit.web.secretfile}; L{tests.web.test_tokens} has what is
not about keys.
"""

from __future__ import annotations

import base64
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.web.secretfiles import write_secret
from txmongokit.web.codecs import ISessionCipher
from txmongokit.web.encryption import SessionCipher
from txmongokit.web.secretfile import SecretFileError, read_cipher

OLD, NEW = b"\xfb" * 32, bytes(range(32))


class CipherTests(SynchronousTestCase):
    """
    L{read_cipher}.
    """

    def read(self, content: str) -> ISessionCipher:
        """The cipher of a file."""
        return read_cipher(write_secret(Path(self.mktemp()), content))

    def test_keys(self) -> None:
        """The first key is the newest; the others still open; either alphabet will do."""
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            old, new = encode(OLD).decode(), encode(NEW).decode()
            cipher = self.read(f"# keys\n new  {new}\n\nold {old}\n")
            self.assertEqual((cipher.newest, cipher.accepts_plain), ("new", False))
            sealed = SessionCipher({"old": OLD}).seal(b"secret", b"place")
            self.assertEqual(cipher.open(sealed, b"place"), b"secret")
            opened = SessionCipher({"new": NEW}).open(cipher.seal(b"x", b"place"), b"place")
            self.assertEqual(opened, b"x")

    def test_refused(self) -> None:
        """What is no key is refused, by its place and never by its content."""
        key = base64.b64encode(NEW).decode()
        name = base64.urlsafe_b64encode(OLD).decode().rstrip("=")  # It could be one.
        for content, part in (
            ("", "has no key"),
            ("secret", "key 1 in"),
            (f"a {key}\nb secret!", "key 2 in"),
            (f"a {key}\na {key}", "key 2 in"),
            ("a c2VjcmV0", "key 1 in"),
            (f"\u00e4 {key}", "key 1 in"),
            (f"{key} prod", "key 1 in"),
            (f"a {key}\n{name} prod", "key 2 in"),
        ):
            error = self.assertRaises(SecretFileError, self.read, content)
            self.assertIn(part, str(error))
            self.assertNotIn("secret", str(error).replace("secretfile", ""))
            self.assertNotIn(key, str(error))
            self.assertNotIn(name, str(error))
