"""
Tests for L{txmongokit.settings.handle}: C{db} and C{db_conn}.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.database import Database
from txmongokit.errors import ConfigurationError
from txmongokit.settings import (
    MongoHandle,
    from_environment,
    from_ini,
    from_settings,
    from_toml,
)


class HandleTests(SynchronousTestCase):
    """
    What applications have.
    """

    def setUp(self) -> None:
        """
        A reactor, which is an argument.
        """
        self.clock = Clock()

    def file(self, text: str) -> Path:
        """
        A file.
        """
        path = Path(self.mktemp())
        path.write_text(text)
        return path

    def check(self, handle: MongoHandle) -> None:
        """
        It is the one that every source below says.
        """
        self.assertEqual(handle.db, Database(handle.db_conn, "foo"))
        options = handle.db_conn.client_options
        self.assertEqual((options.seeds, options.app_name), ((("a", 5),), "shop"))
        self.assertEqual(repr(handle), "<MongoHandle foo of <ConnectionPool a:5>>")

    def test_sources(self) -> None:
        """
        Each source gives the same.
        """
        values: dict[str, Any] = {"master_host": "a", "master_port": "5", "db": "foo"}
        mapping = {f"mongo.{name}": value for name, value in values.items()}
        given: dict[str, Any] = {"reactor": self.clock, "appName": "shop"}
        self.check(from_settings(mapping, **given))
        self.check(
            from_settings({f"m_{name}": each for name, each in values.items()}, "m_", **given)
        )
        lines = "\n".join(f"{key} = {value}" for key, value in mapping.items())
        self.check(from_ini(self.file(f"[app:main]\n{lines}"), **given))
        self.check(from_ini(self.file(f"[x]\ny=1\n[z]\n{lines}"), "z", **given))
        lines = "\n".join(f'{key} = "{value}"' for key, value in mapping.items())
        self.check(from_toml(self.file(lines), **given))
        environ = {f"MONGO_{name.upper()}": value for name, value in values.items()}
        self.check(from_environment(environ, **given))

    def test_wrong_database(self) -> None:
        """
        A name that no server takes is refused with its key.
        """
        for name in ("a b", "a/b", "a.b"):
            error = self.assertRaises(
                ConfigurationError, from_settings, {"mongo.db": name}, reactor=self.clock
            )
            self.assertIn(f"mongo.db={name!r} is no name of a database: it may not", str(error))

    def test_app_globals(self) -> None:
        """
        Pylons' object has both.
        """
        app_globals = SimpleNamespace()
        handle = from_settings({"mongo.db": "foo"}, reactor=self.clock)
        handle.attach(app_globals)
        self.assertIs(app_globals.db, handle.db)
        self.assertIs(app_globals.db_conn, handle.db_conn)

    def test_disconnect(self) -> None:
        """
        It can be closed, used or not.
        """
        handle = from_settings({"mongo.db": "foo"}, reactor=self.clock)
        self.assertIsNone(self.successResultOf(handle.disconnect()))
