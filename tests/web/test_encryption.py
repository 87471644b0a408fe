"""
Tests for L{txmongokit.web.encryption}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txmongokit.web.codecs import ISessionCipher
from txmongokit.web.encryption import SessionCipher
from txmongokit.web.errors import SessionUnreadable

OLD, NEW = bytes(range(32)), bytes(range(100, 116))


class SessionCipherTests(SynchronousTestCase):
    """
    What can be opened, and what cannot.
    """

    def setUp(self) -> None:
        """A cipher with two keys."""
        self.cipher = SessionCipher({"old": OLD, "new": NEW}, "new")

    def test_interface(self) -> None:
        """It is what stores ask for."""
        self.assertTrue(verifyObject(ISessionCipher, self.cipher))

    def test_round_trip(self) -> None:
        """What was sealed can be opened, is never the same, and shows nothing."""
        first, second = (self.cipher.seal(b"secret", b"place") for _ in range(2))
        self.assertEqual(self.cipher.open(first, b"place"), b"secret")
        self.assertNotEqual(first, second)
        self.assertNotIn(b"secret", first)

    def test_rotation(self) -> None:
        """What an older key has sealed is opened while that key is there, no longer."""
        sealed = SessionCipher({"old": OLD}).seal(b"secret", b"place")
        self.assertEqual(self.cipher.open(sealed, b"place"), b"secret")
        error = self.assertRaises(
            SessionUnreadable, SessionCipher({"new": NEW}).open, sealed, b"place"
        )
        self.assertIn("older keys", str(error))

    def test_bound_to_place(self) -> None:
        """Another session's data cannot be opened."""
        sealed = self.cipher.seal(b"secret", b"place")
        self.assertRaises(SessionUnreadable, self.cipher.open, sealed, b"other")

    def test_every_change_is_seen(self) -> None:
        """No bit can be changed, nothing cut off, nothing relabelled."""
        sealed = self.cipher.seal(b"secret", b"place")
        for index in range(len(sealed)):
            changed = bytearray(sealed)
            changed[index] ^= 1
            self.assertRaises(SessionUnreadable, self.cipher.open, bytes(changed), b"place")
            self.assertRaises(SessionUnreadable, self.cipher.open, sealed[:index], b"place")

    def test_one_key_is_the_newest(self) -> None:
        """With one key there is no choice."""
        self.assertEqual(SessionCipher({"only": SessionCipher.new_key()}).newest, "only")

    def test_refusals(self) -> None:
        """Unsuitable keys are told by their number, and never shown, be it as a name."""
        cases: list[tuple[Any, Any, str]] = [
            ({}, None, "needs a key"),
            ({"a b": OLD}, None, "name of key 1 must be"),
            ({"a": OLD[:5]}, None, "key 1 must be"),
            ({"a": OLD, "b": "x" * 32}, None, "key 2 must be"),
            ({"swapped-key": b"prod"}, None, "key 1 must be"),
            ({"swapped+key": b"prod"}, None, "name of key 1 must be"),
            ({"a": OLD, "b": NEW}, None, "one of the keys: a, b"),
            ({"a": OLD}, "c", "one of the keys: a"),
        ]
        for keys, newest, told in cases:
            error = self.assertRaises(ValueError, SessionCipher, keys, newest)
            self.assertIn(told, str(error))
            self.assertNotIn("\\x01", str(error))
            self.assertNotRegex(str(error), "swapped.key")

    def test_repr(self) -> None:
        """It shows names, no keys."""
        self.assertEqual(repr(self.cipher), "<SessionCipher new of new, old>")
