"""
Tests for L{txmongokit.web.cookies}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyChannel

from txmongokit.web.cookies import SessionCookies, cookie_value


def request() -> Any:
    """A request that can be given cookies."""
    made: Any = DummyChannel().site.requestFactory(DummyChannel())
    return made


class SessionCookiesTests(SynchronousTestCase):
    """
    Names, flags, values.
    """

    def test_names(self) -> None:
        """The secure cookie's name has the strictest prefix that its scope allows."""
        self.assertEqual(SessionCookies().secure_name, "__Host-session")
        self.assertEqual(SessionCookies("id", domain="a.b").secure_name, "__Secure-id")
        self.assertEqual(SessionCookies(path="/shop").secure_name, "__Secure-session")
        self.assertEqual(SessionCookies("id").named(False), "id")

    def test_flags(self) -> None:
        """Each flag is there where it belongs, and SameSite=None on secure cookies alone."""
        cookies = SessionCookies(domain="a.b", same_site="none", persistent=True)
        asked = request()
        cookies.set(asked, "ID", True, 99.6)
        cookies.set(asked, "ID", False, 0)
        secure, plain = asked.cookies
        for flag in (b"Domain=a.b", b"Max-Age=100", b"Secure", b"HttpOnly", b"SameSite=none"):
            self.assertIn(flag, secure)
        self.assertIn(b"SameSite=lax", plain)
        self.assertIn(b"Max-Age=1;", plain)
        self.assertNotIn(b"Secure", plain)

    def test_values(self) -> None:
        """What is no ASCII is no value."""
        asked = request()
        asked.received_cookies = {b"a": b"x", b"b": b"\xff", b"c": b""}
        found = [cookie_value(asked, name) for name in ("a", "b", "c", "d")]
        self.assertEqual(found, ["x", None, None, None])

    def test_refusals(self) -> None:
        """What would end the cookie, or the header, is refused."""
        cases: list[dict[str, Any]] = [
            {"name": ""},
            {"name": "a b"},
            {"name": "a;b"},
            {"name": "a=b"},
            {"name": "__Host-session"},
            {"name": "__secure-session"},
            {"path": "shop"},
            {"path": "/a;b"},
            {"path": "/a\r\nb"},
            {"domain": "a b"},
            {"domain": "a;b"},
            {"same_site": "some"},
        ]
        for options in cases:
            self.assertRaises(ValueError, SessionCookies, **options)
