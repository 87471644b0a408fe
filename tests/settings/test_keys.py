"""
Tests for L{txmongokit.settings.keys}: every option by its key.
"""

from __future__ import annotations

import os
from typing import Any

from bson.son import SON
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.errors import ConfigurationError
from txmongokit.options import KEYWORDS
from txmongokit.settings.keys import LONGEST_SECRET, PLACES, SPLITTING, Setting, read_keys
from txmongokit.uri import OPTION_NAMES


def values(mapping: dict[str, Any], prefix: str = "mongo.") -> dict[str, Any]:
    """
    The values that are read, by their names.
    """
    return {name: setting.value for name, setting in read_keys(mapping, prefix).items()}


class NameTests(SynchronousTestCase):
    """
    Which keys there are.
    """

    def test_every_option(self) -> None:
        """
        Each option that a client takes can be given, in its own spelling and
        in lower case, and by its name alone.
        """
        for name in (*OPTION_NAMES, *KEYWORDS, *PLACES, *SPLITTING):
            for spelling in (name, name.lower(), name.replace("_", "").upper()):
                error = self.assertRaises(
                    ConfigurationError, read_keys, {f"mongo.{spelling}": b"bytes"}, "mongo."
                )
                self.assertEqual(str(error), f"mongo.{spelling} must be text: decode it")

    def test_spellings(self) -> None:
        """
        An option's spelling does not matter, and older names are known.
        """
        for key in ("maxPoolSize", "max_pool_size", "MAXPOOLSIZE"):
            self.assertEqual(values({f"mongo.{key}": "3"}), {"maxPoolSize": "3"})
        found = values({"mongo.ssl": "true", "mongo.j": "false", "mongo.wtimeout": "3"})
        self.assertEqual(found, {"tls": "true", "journal": "false", "wTimeoutMS": "3"})

    def test_others_are_left_alone(self) -> None:
        """
        Keys without the prefix are no matter of ours, and C{None} is nothing.
        """
        mapping = {"pyramid.includes": "x", "mongodb.uri": "y", "mongo": "z", "mongo.tls": None}
        self.assertEqual(values(mapping), {})

    def test_tables(self) -> None:
        """
        A table, or one in another, has keys without the prefix.
        """
        self.assertEqual(values({"mongo": {"db": "a", "tls": True}}), {"db": "a", "tls": True})
        self.assertEqual(values({"tool": {"shop": {"db": "a"}}}, "tool.shop."), {"db": "a"})
        self.assertEqual(values({"tool": 5}, "tool.shop."), {})

    def test_unknown(self) -> None:
        """
        A key that is not known names the nearest, in the source's spelling,
        and not its value.
        """
        for mapping, prefix, told in [
            ({"mongo.max_pool_sise": "3"}, "mongo.", "did you mean mongo.maxPoolSize?"),
            ({"mongo.pasword": "hidden"}, "mongo.", "did you mean mongo.password?"),
            ({"mongo.tlsCAFiles": "x"}, "mongo.", "did you mean mongo.tlsCAFile?"),
            ({"mongo.master_hots": "x"}, "mongo.", "did you mean mongo.master_host?"),
            ({"M_CONECT_TIMEOUT_MS": "3"}, "M_", "did you mean M_CONNECT_TIMEOUT_MS?"),
            ({"mongo.zzzz": "hidden"}, "mongo.", "mongo.zzzz is not known: correct or remove it"),
            ({"mongo.reactor": "hidden"}, "mongo.", "mongo.reactor is not known"),
        ]:
            error = self.assertRaises(ConfigurationError, read_keys, mapping, prefix)
            self.assertIn(told, str(error))
            self.assertNotIn("hidden", str(error))

    def test_twice(self) -> None:
        """
        Two spellings of one setting are refused, a file and a password, too.
        """
        for one, other in [("maxPoolSize", "max_pool_size"), ("ssl", "tls")]:
            mapping = {f"mongo.{one}": "true" if one == "ssl" else "1", f"mongo.{other}": "1"}
            mapping[f"mongo.{other}"] = mapping[f"mongo.{one}"]
            error = self.assertRaises(ConfigurationError, read_keys, mapping, "mongo.")
            self.assertIn(f"mongo.{one} and mongo.{other} are the same setting", str(error))


class ValueTests(SynchronousTestCase):
    """
    What values may be.
    """

    def refused(self, mapping: dict[str, Any]) -> str:
        """
        The sentence that a mapping is refused with.
        """
        return str(self.assertRaises(ConfigurationError, read_keys, mapping, "mongo."))

    def test_wrong_value(self) -> None:
        """
        The key as it was given, the value and what is allowed are told.
        """
        self.assertEqual(
            self.refused({"mongo.max_pool_size": "many"}),
            "mongo.max_pool_size='many' must be a whole number of at least 0",
        )
        self.assertEqual(self.refused({"mongo.tls": "on"}), "mongo.tls='on' must be true or false")
        text = self.refused({"mongo.readPreference": "near"})
        self.assertIn("mongo.readPreference='near' must be one of primary,", text)

    def test_secrets_are_not_shown(self) -> None:
        """
        The value of a password is never told, nor what looks like a
        connection string in the wrong place.
        """
        for name in ("authMechanismProperties", "tlsCertificateKeyFilePassword", "proxyPassword"):
            text = self.refused({f"mongo.{name}": ["hidden"]})
            self.assertIn(f"mongo.{name} must be", text)
            self.assertNotIn("hidden", text)
        self.assertNotIn("hidden", repr(Setting("mongo.password", "hidden")))
        wrong = Setting("mongo.master_host", "mongodb://ada:hidden@a")
        self.assertNotIn("hidden", str(wrong.refused("is wrong")))

    def test_empty(self) -> None:
        """
        An empty value is refused, except that there may be no slaves.
        """
        for name in ("tls", "password", "db", "master_host", "uri", "document_class"):
            text = self.refused({f"mongo.{name}": ""})
            self.assertEqual(text, f"mongo.{name} is empty: give a value or leave the key out")
        found = values({"mongo.slave_hosts": "", "mongo.slave_ports": ""})
        self.assertEqual(found, {"slave_hosts": "", "slave_ports": ""})

    def test_lines(self) -> None:
        """
        Lines of an C{.ini} file are several sets of tags.
        """
        text = "\ndc:east,use:reports\ndc:west\n"
        found = values({"mongo.read_preference_tags": text})
        self.assertEqual(found, {"readPreferenceTags": ["dc:east,use:reports", "dc:west"]})

    def test_what_is_no_option_of_a_connection_string(self) -> None:
        """
        It is JSON or the name of a Python object, or the object itself; user
        and password are what they are.
        """
        found = values(
            {
                "mongo.document_class": "bson.son:SON",
                "mongo.connection_sharing": "4",
                "mongo.log_levels": '{"command": "debug"}',
                "mongo.username": "123",
                "mongo.password": "true",
                "mongo.event_listeners": [self],
                "mongo.read_preference": SON,
            }
        )
        self.assertEqual(
            found,
            {
                "document_class": SON,
                "connection_sharing": 4,
                "log_levels": {"command": "debug"},
                "username": "123",
                "password": "true",
                "event_listeners": [self],
                "read_preference": SON,
            },
        )
        text = self.refused({"mongo.document_class": "SON"})
        self.assertIn("mongo.document_class='SON' must be JSON, such as", text)
        for name in ("bson.son:NoSuchThing", "no.such.module:SON"):
            text = self.refused({"mongo.document_class": name})
            self.assertIn(f"mongo.document_class='{name}' cannot be imported: ", text)

    def test_parts(self) -> None:
        """
        Lists are text with commas, or lists.
        """
        lists: tuple[Any, ...] = ("a, b", "a\nb", ["a", "b"], ["a,b"])
        for value in lists:
            self.assertEqual(Setting("k", value).parts(), ["a", "b"])
        self.assertEqual(Setting("k", 27017).parts(), ["27017"])
        self.assertEqual(Setting("k", "").parts(), [])
        for wrong, told in [("a,", "an empty item"), (["a", 1.5], "text"), (True, "text")]:
            error = self.assertRaises(ConfigurationError, Setting("k", wrong).parts)
            self.assertIn(told, str(error))


class FileTests(SynchronousTestCase):
    """
    Secrets in files.
    """

    def file(self, data: bytes) -> str:
        """
        A file.
        """
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        return str(os.path.abspath(path))

    def test_secrets(self) -> None:
        """
        Each password, and the connection string, may be in a file, whose last
        line end is none of it.
        """
        secrets = ["uri", "password", "proxyPassword", "tlsCertificateKeyFilePassword"]
        for name in secrets:
            path = self.file(" häßlich\n".encode())
            self.assertEqual(values({f"mongo.{name}_file": path}), {name: " häßlich"})
        self.assertEqual(values({"mongo.PasswordFile": self.file(b"a\r\n")}), {"password": "a"})

    def test_refused(self) -> None:
        """
        What cannot be a password is refused, and so are two of them.
        """
        for data, told in [
            (b"\n", "is an empty file"),
            (b"\xff", "cannot be read: it is no text in UTF-8"),
            (b"x" * (LONGEST_SECRET + 1), f"has more than {LONGEST_SECRET} bytes"),
        ]:
            mapping = {"mongo.password_file": self.file(data)}
            error = self.assertRaises(ConfigurationError, read_keys, mapping, "mongo.")
            self.assertIn(told, str(error))
        for value, told in [
            ("/no/such/file", "mongo.password_file='/no/such/file' cannot be read: No such file"),
            (5, "mongo.password_file=5 must be the path of a file"),
        ]:
            error = self.assertRaises(
                ConfigurationError, read_keys, {"mongo.password_file": value}, "mongo."
            )
            self.assertIn(told, str(error))
        mapping = {"mongo.password": "hidden", "mongo.password_file": self.file(b"hidden")}
        error = self.assertRaises(ConfigurationError, read_keys, mapping, "mongo.")
        self.assertEqual(
            str(error),
            "mongo.password and mongo.password_file are the same setting: give one",
        )
