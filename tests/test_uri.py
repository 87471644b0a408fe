"""
Tests for L{txmongokit.uri}: options by themselves.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.errors import ConfigurationError, InvalidURI
from txmongokit.uri import (
    ConnectionString,
    option_name,
    read_keywords,
    read_options,
    read_uri,
    without_secrets,
)


class ReadURITests(SynchronousTestCase):
    """
    L{read_uri}.
    """

    def test_parts(self) -> None:
        """Everything has its place, and no password is shown."""
        parsed = read_uri("mongodb://u%40:hunter2@A,[::1]:1/d?w=1&nonsense=2")
        self.assertEqual(
            parsed,
            ConnectionString(
                (("a", 27017), ("::1", 1)), False, "u@", "hunter2", "d", {"w": 1}, parsed.warnings
            ),
        )
        self.assertEqual(len(parsed.warnings), 1)
        self.assertNotIn("hunter2", repr(parsed))

    def test_srv(self) -> None:
        """Of a name for DNS there is one, without a port."""
        parsed = read_uri("mongodb+srv://H.example/?tls=false")
        self.assertEqual((parsed.hosts, parsed.is_srv), ((("h.example", None),), True))

    def test_no_slash(self) -> None:
        """Options need no slash before them."""
        self.assertEqual(read_uri("h?w=3").options, {"w": 3})

    def test_unreadable(self) -> None:
        """What cannot be read is an error of its own."""
        for uri in ("", "mongo://h", "mongodb://", "h:x", "h::1", "/tmp/a.sock", "a,,b", "h/?w"):
            self.assertRaises((InvalidURI, ConfigurationError), read_uri, uri)


class ReadOptionsTests(SynchronousTestCase):
    """
    L{read_options}.
    """

    def test_lists(self) -> None:
        """Repeated tag sets make a list, escaped or not."""
        notes: list[str] = []
        options = read_options(
            "readPreferenceTags=a:b,c%3A:d&readPreferenceTags=&readPreferenceTags=e:%2C", notes
        )
        self.assertEqual(options, {"readpreferencetags": [{"a": "b", "c:": "d"}, {}, {"e": ","}]})
        self.assertEqual(notes, [])

    def test_properties(self) -> None:
        """A value may hold colons."""
        options = read_options("authMechanismProperties=A:mongodb%3A%2F%2Fh,B:c:d", [])
        self.assertEqual(options, {"authmechanismproperties": {"A": "mongodb://h", "B": "c:d"}})

    def test_equals(self) -> None:
        """A value may hold what separates names and values."""
        self.assertEqual(read_options("replicaSet=a=b", []), {"replicaset": "a=b"})


class ReadKeywordsTests(SynchronousTestCase):
    """
    L{read_keywords}.
    """

    def test_values(self) -> None:
        """Values are taken as they are, or as text."""
        for value in (1500, 1500.0, "1500"):
            self.assertEqual(read_keywords({"timeoutMS": value}), ({"timeoutms": 1.5}, []))
        self.assertEqual(read_keywords({"w": None}), ({}, []))
        self.assertEqual(
            read_keywords({"authMechanismProperties": {"CANONICALIZE_HOST_NAME": True}})[0],
            {"authmechanismproperties": {"CANONICALIZE_HOST_NAME": "true"}},
        )

    def test_names(self) -> None:
        """A key has the name that the specification gives it."""
        (keys, _) = read_keywords({"max_pool_size": 3, "ssl": True})
        self.assertEqual([option_name(key) for key in keys], ["maxPoolSize", "tls"])


class WithoutSecretsTests(SynchronousTestCase):
    """
    L{without_secrets}.
    """

    def test_secrets(self) -> None:
        """A text that quotes a piece of a password is replaced, another one is not."""
        uri = "mongodb://u:one%2Dtwo@h/?proxyPassword=three"
        for text in ("one", "bad port 'two'", "x three y"):
            self.assertIn("escape user name", without_secrets(text, uri))
        self.assertEqual(without_secrets("oned threes", uri), "oned threes")
