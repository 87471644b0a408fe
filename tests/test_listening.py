"""
Tests for L{txmongokit.listening}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.listening import EndpointError, bearer_token, listening_place, page_refusal


class PlaceTests(SynchronousTestCase):
    """
    L{listening_place}.
    """

    def place(self, given: str, *, has_token: bool = False) -> str:
        """What an option says."""
        return listening_place(given, has_token=has_token, option="--web", token_option="--keys")

    def test_this_machine(self) -> None:
        """Without a token, this machine alone."""
        for given, place in (
            ("8080", "tcp:8080:interface=127.0.0.1"),
            ("tcp:8080", "tcp:8080:interface=127.0.0.1"),
            ("tcp:8080:interface=127.0.0.9", "tcp:8080:interface=127.0.0.9"),
            ("tcp:8080:interface=localhost", "tcp:8080:interface=localhost"),
            (r"tcp6:8080:interface=\:\:1", r"tcp6:8080:interface=\:\:1"),
            ("unix:/run/mongosync", "unix:/run/mongosync"),
        ):
            self.assertEqual(self.place(given), place)

    def test_other_machines(self) -> None:
        """Others can come only where a token is asked for."""
        for given in (
            "tcp:8080:interface=0.0.0.0",
            "tcp:8080:interface=10.0.0.1",
            "tcp:8080:interface=",
            "tcp:interface=10.0.0.1:8080",
            "tcp:8080:interface=127.0.0.1:interface=0.0.0.0",
            "tcp:8080:interface=0.0.0.0:interface=127.0.0.1",
            r"tcp6:8080:interface=\:\:1:inter\face=\:\:",
            "tcp6:8080",
            "ssl:8443",
            "systemd:domain=INET:index=0",
        ):
            error = self.assertRaises(EndpointError, self.place, given)
            self.assertIn("--keys", str(error))
            listens = "listen at interface=" in str(error)
            self.assertEqual(listens, not given.startswith("systemd"))
            self.assertEqual(self.place(given, has_token=True), given)
        self.assertEqual(self.place("tcp:8080", has_token=True), "tcp:8080")

    def test_nonsense(self) -> None:
        """What is no endpoint."""
        for given in ("", "tcp", "tcp:", ":8080", "tcp:80\\", "tcp:8080:0.0.0.0", "ssl:8443:a:b=c"):
            error = self.assertRaises(EndpointError, self.place, given, has_token=True)
            self.assertIn(f"--web {given!r} must be", str(error))


class VisitorTests(SynchronousTestCase):
    """
    L{bearer_token} and L{page_refusal}.
    """

    def test_token(self) -> None:
        """The scheme is known in any case, the token is taken as it is."""
        for header, token in (
            (b"Bearer AbC", b"AbC"),
            (b"bEARER  a b ", b"a b"),
            (b"Bearer", b""),
            (b"Basic AbC", None),
            (b"AbC", None),
            (None, None),
        ):
            self.assertEqual(bearer_token(header), token)

    def test_pages(self) -> None:
        """Programs of this machine come in; pages, and names of others, do not."""
        for host in (None, b"localhost", b"LOCALHOST:80", b"127.0.0.1:8080", b"[::1]:1", b"[::1]"):
            self.assertIsNone(page_refusal(host, None, "--keys"))
        for host in (b"evil.example", b"10.0.0.1:80", b"localhost.evil.example", b"", b"\xff"):
            self.assertIn("--keys", page_refusal(host, None, "--keys") or "")
        self.assertIn("web pages", page_refusal(b"localhost", b"null", "--keys") or "")
