"""
Tests for L{txmongokit._sansio.socks5}: every byte of the conversation.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.socks5 import Socks5Conversation, Socks5Error

CONNECTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x30\x39"


class ConversationTests(SynchronousTestCase):
    """What is sent, and what is made of the answers."""

    def test_without_login(self) -> None:
        """Without a password only "no authentication" is offered; the name goes as it is."""
        conversation = Socks5Conversation("db.example", 27017)
        self.assertEqual(conversation.begin(), b"\x05\x01\x00")
        self.assertEqual(conversation.feed(b"\x05\x00"), b"\x05\x01\x00\x03\x0adb.example\x69\x89")
        self.assertFalse(conversation.finished)
        self.assertEqual(conversation.feed(CONNECTED), b"")
        self.assertTrue(conversation.finished)
        self.assertEqual(conversation.rest, b"")

    def test_login(self) -> None:
        """With one both are offered, and the proxy's choice is followed."""
        conversation = Socks5Conversation("h", 1, "ann", "p\u00e4ss")
        self.assertEqual(conversation.begin(), b"\x05\x02\x00\x02")
        self.assertEqual(conversation.feed(b"\x05\x02"), b"\x01\x03ann\x05p\xc3\xa4ss")
        self.assertEqual(conversation.feed(b"\x01\x00"), b"\x05\x01\x00\x03\x01h\x00\x01")
        conversation.feed(CONNECTED)
        self.assertTrue(conversation.finished)

        conversation = Socks5Conversation("h", 1, "ann", "secret")
        conversation.begin()
        self.assertEqual(conversation.feed(b"\x05\x00"), b"\x05\x01\x00\x03\x01h\x00\x01")

    def test_addresses(self) -> None:
        """Literal addresses go as such; a name of other letters in its ASCII form."""
        for host, encoded in (
            ("10.0.0.7", b"\x01\x0a\x00\x00\x07"),
            ("::1", b"\x04" + bytes(15) + b"\x01"),
            ("b\u00fccher.example", b"\x03\x15xn--bcher-kva.example"),
        ):
            conversation = Socks5Conversation(host, 65535)
            conversation.begin()
            self.assertEqual(
                conversation.feed(b"\x05\x00"), b"\x05\x01\x00" + encoded + b"\xff\xff"
            )

    def test_byte_by_byte(self) -> None:
        """
        Answers may come in pieces, with any kind of address; what follows
        them is the server's.
        """
        for kind in (
            b"\x01\x7f\x00\x00\x01\x30\x39",
            b"\x03\x04host\x30\x39",
            b"\x04" + bytes(16) + b"\x30\x39",
        ):
            conversation = Socks5Conversation("h", 1, "u", "p")
            conversation.begin()
            said = b""
            for byte in b"\x05\x02\x01\x00\x05\x00\x00" + kind:
                self.assertFalse(conversation.finished)
                said += conversation.feed(bytes((byte,)))
            self.assertTrue(conversation.finished)
            self.assertEqual(said, b"\x01\x01u\x01p\x05\x01\x00\x03\x01h\x00\x01")
            conversation.feed(b"first words")
            self.assertEqual(conversation.rest, b"first words")

    def test_all_at_once(self) -> None:
        """What comes with the last answer is kept."""
        conversation = Socks5Conversation("h", 1)
        conversation.begin()
        conversation.feed(b"\x05\x00" + CONNECTED + b"more")
        self.assertTrue(conversation.finished)
        self.assertEqual(conversation.rest, b"more")

    def refused(self, *answers: bytes, login: bool = False) -> str:
        """Why the conversation ends."""
        who = ("u", "hunter2") if login else ()
        conversation = Socks5Conversation("db", 27017, *who)
        conversation.begin()
        for answer in answers[:-1]:
            conversation.feed(answer)
        error = self.assertRaises(Socks5Error, conversation.feed, answers[-1])
        self.assertNotIn("hunter2", str(error))
        return str(error)

    def test_refusals(self) -> None:
        """Each refusal is named, and the password never."""
        self.assertIn("speaks no SOCKS5", self.refused(b"HT"))
        self.assertIn("give proxyUsername", self.refused(b"\x05\xff"))
        self.assertIn("not offered", self.refused(b"\x05\x02"))
        self.assertIn("not offered", self.refused(b"\x05\x01", login=True))
        self.assertIn("takes no login", self.refused(b"\x05\xff", login=True))
        # Any status but 0 (RFC 1929).
        for status in (b"\x01\x01", b"\x01\xff"):
            text = self.refused(b"\x05\x02", status, login=True)
            self.assertIn("user name and password", text)
        self.assertIn("speaks no SOCKS5", self.refused(b"\x05\x00", b"\x04\x00\x00\x01"))
        self.assertIn("unknown kind", self.refused(b"\x05\x00", b"\x05\x00\x00\x02"))
        for number, reason in (
            (2, "its rules"),
            (4, "the host cannot be reached"),
            (5, "refuses the connection"),
            (99, "number 99"),
        ):
            text = self.refused(b"\x05\x00", bytes((5, number, 0, 1)))
            self.assertIn("db:27017", text)
            self.assertIn(reason, text)

    def test_too_long(self) -> None:
        """What has no place in the protocol is refused before anything is sent."""
        long = "x" * 256
        for arguments in ((long, 1), ("h", 1, long, "p"), ("h", 1, "u", long), ("\u00fc" * 80, 1)):
            error = self.assertRaises(Socks5Error, Socks5Conversation, *arguments)
            if arguments[-1] == long:
                self.assertNotIn(long, str(error))
