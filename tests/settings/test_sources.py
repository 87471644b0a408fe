"""
Tests for L{txmongokit.settings.sources}: files and the environment.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.errors import ConfigurationError
from txmongokit.settings.sources import read_environment, read_ini, read_toml

SEED = """
    [DEFAULT]
    debug = true

    [server:main]
    host = 0.0.0.0

    [app:main]
    # in production, we will write to the master and read from the slaves
    mongo.master_host = localhost
    mongo.master_port = 27017
    # to supply multiple slaves, use comma as the separator.
    mongo.slave_hosts = localhost
    mongo.slave_ports = 27017

    mongo.db = foo
    logging.format = %(asctime)s
"""


class FileCase(SynchronousTestCase):
    """
    A folder with files.
    """

    def setUp(self) -> None:
        """
        An empty folder.
        """
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()

    def write(self, text: str, name: str = "shop.ini") -> Path:
        """
        A file of the folder.
        """
        path = self.folder / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path


class IniTests(FileCase):
    """
    Paste's files.
    """

    def refused(self, text: str, section: str | None = None) -> str:
        """
        The sentence that a file is refused with.
        """
        path = self.write(text, "wrong.ini")
        return str(self.assertRaises(ConfigurationError, read_ini, path, section))

    def test_seed(self) -> None:
        """
        The keys of C{app:main} are read as they stand, and no others.
        """
        self.assertEqual(
            read_ini(self.write(SEED)),
            {
                "mongo.master_host": "localhost",
                "mongo.master_port": "27017",
                "mongo.slave_hosts": "localhost",
                "mongo.slave_ports": "27017",
                "mongo.db": "foo",
            },
        )

    def test_interpolation(self) -> None:
        """
        C{here}, C{__file__}, keys and defaults can be named; C{%%} is one
        percent sign, also in a folder's name.
        """
        self.folder = self.folder / "50%(off)s"
        self.folder.mkdir()
        path = self.write(
            """
            [DEFAULT]
            name = foo
            [app:main]
            mongo.password_file = %(here)s/password
            mongo.appName = %(__file__)s
            mongo.db = %(name)s
            mongo.password = 100%%
            """
        )
        found = read_ini(str(path))
        self.assertEqual(found["mongo.password_file"], f"{self.folder}/password")
        self.assertEqual(found["mongo.appName"], str(path))
        self.assertEqual((found["mongo.db"], found["mongo.password"]), ("foo", "100%"))

    def test_sections(self) -> None:
        """
        Without C{app:main} the only section with the prefix is read, and
        which one can be said.
        """
        path = self.write("[a]\nmongo.db = one\n[b]\nx = 1\n")
        self.assertEqual(read_ini(path), {"mongo.db": "one"})
        self.assertEqual(read_ini(path, "b"), {})
        path = self.write("[a]\nmongo.db = one\n[b]\nset mongo.db = two\n")
        self.assertEqual(read_ini(path, section="b"), {"mongo.db": "two"})
        text = self.refused("[a]\nmongo.db = one\n[b]\nset mongo.db = two\n")
        self.assertIn("has mongo.* in a and b: say by section= which is meant", text)
        self.assertIn("has no section 'c': it has a", self.refused("[a]\nx = 1\n", "c"))
        self.assertEqual(read_ini(self.write("[DEFAULT]\nmongo.db = all\n")), {"mongo.db": "all"})
        self.assertEqual(read_ini(self.write("[m]\ndb = all\n"), "m", ""), {"db": "all"})

    def test_defaults_and_set(self) -> None:
        """
        C{[DEFAULT]} counts for every section; what a section says or sets
        counts more.  Of a key that it says and sets, PasteDeploy takes what it
        says, unless C{[DEFAULT]} has it, too.
        """
        text = "[DEFAULT]\nmongo.db = all\nmongo.tls = true\n[app:main]\n{} = own\n"
        for key in ("mongo.db", "set mongo.db"):
            found = read_ini(self.write(text.format(key)))
            self.assertEqual(found, {"mongo.db": "own", "mongo.tls": "true"})
        for common, expected in (("", "own"), ("mongo.db = all\n", "set")):
            text = f"[DEFAULT]\n{common}[app:main]\nset mongo.db = set\nmongo.db = own\n"
            self.assertEqual(read_ini(self.write(text)), {"mongo.db": expected})
        told = self.refused("[app:main]\nget mongo.db = name\n")
        self.assertIn("'get mongo.db' is not understood: write mongo.db = %(name)s", told)

    def test_use(self) -> None:
        """
        C{use} brings another file's or section's settings; eggs are code.
        """
        self.write("[app:main]\nmongo.db = base\nmongo.tls = true\n", "base.ini")
        self.write("[app:other]\nmongo.db = other\n", "other.ini")
        for use, expected in [
            ("config:base.ini", {"mongo.db": "base", "mongo.tls": "true", "mongo.w": "2"}),
            ("config:%(here)s/other.ini#other", {"mongo.db": "other", "mongo.w": "2"}),
            ("config:other.ini#app:other", {"mongo.db": "other", "mongo.w": "2"}),
            ("second", {"mongo.db": "second", "mongo.w": "2"}),
            ("app:second", {"mongo.db": "second", "mongo.w": "2"}),
            ("egg:shop", {"mongo.w": "2"}),
            ("call:shop:main", {"mongo.w": "2"}),
        ]:
            text = f"[app:main]\nuse = {use}\nmongo.w = 2\n[app:second]\nmongo.db = second\n"
            self.assertEqual(read_ini(self.write(text)), expected, use)
        path = self.write("[app:main]\nuse = config:base.ini\nmongo.db = mine\n")
        self.assertEqual(read_ini(path)["mongo.db"], "mine")

    def test_use_goes_wrong(self) -> None:
        """
        What is used must be there, and must not use itself.
        """
        self.assertIn("use one another", self.refused("[app:main]\nuse = main\n"))
        text = self.refused("[app:main]\nuse = config:missing.ini\n")
        self.assertIn("missing.ini cannot be read: No such file", text)
        self.assertIn("no section 'app:x'", self.refused("[app:main]\nuse = x\n"))

    def test_not_to_be_read(self) -> None:
        """
        The line that is wrong is named, and no text of it.
        """
        for text, told in [
            ("[app:main]\nmongo.password = 5%hidden\n", "[app:main]: mongo.password has a percent"),
            ("[app:main]\nmongo.password = %(hidden)s\n", "a percent sign that names nothing"),
            ("mongo.password = hidden\n", "is no .ini file: correct line 1"),
            ("[a]\nhidden\n", "is no .ini file: correct line 2"),
            ("[a]\nx = 1\n[a]\n", "is no .ini file: correct line 3"),
            ("[a]\nx = 1\nx = hidden\n", "line 3: x is given twice"),
        ]:
            found = self.refused(text)
            self.assertIn(told, found)
            self.assertNotIn("hidden", found)
        path = self.folder / "binary.ini"
        path.write_bytes(b"[a]\nx = \xff\n")
        error = self.assertRaises(ConfigurationError, read_ini, path)
        self.assertIn("is no text in UTF-8", str(error))


class TomlTests(FileCase):
    """
    TOML.
    """

    def test_tables(self) -> None:
        """
        Tables and dotted keys are the same.
        """
        table = read_toml(self.write('[mongo]\ndb = "foo"\nslave_ports = [1, 2]\n'))
        dotted = read_toml(self.write('mongo.db = "foo"\nmongo.slave_ports = [1, 2]\n'))
        self.assertEqual(table, {"mongo": {"db": "foo", "slave_ports": [1, 2]}})
        self.assertEqual(dotted, table)

    def test_not_to_be_read(self) -> None:
        """
        The place that is wrong is named, and no text of it.
        """
        path = self.write('[mongo]\npassword = "hidden\n')
        error = self.assertRaises(ConfigurationError, read_toml, path)
        self.assertRegex(str(error), r"is no TOML \(at line 2, column \d+\): correct it\Z")
        error = self.assertRaises(ConfigurationError, read_toml, self.folder / "none")
        self.assertIn("cannot be read: No such file", str(error))


class EnvironmentTests(SynchronousTestCase):
    """
    The environment.
    """

    def test_prefix(self) -> None:
        """
        What has the prefix is read, except what Docker and Kubernetes set.
        """
        others = {
            "MONGOD": "/usr/bin/mongod",
            "MONGO_PORT": "tcp://10.0.0.7:27017",
            "MONGO_PORT_27017_TCP_ADDR": "10.0.0.7",
            "MONGO_SERVICE_HOST": "10.0.0.7",
            "MONGO_SERVICE_PORT_DB": "27017",
            "MONGO_INITDB_ROOT_PASSWORD": "x",
        }
        found = read_environment({"MONGO_DB": "foo", "MONGO_PROXY_PORT": "1080", **others})
        self.assertEqual(found, {"MONGO_DB": "foo", "MONGO_PROXY_PORT": "1080"})
        self.assertEqual(read_environment({"DB_W": "1", "MONGO_W": "2"}, "DB_"), {"DB_W": "1"})

    def test_the_process_s_own(self) -> None:
        """
        By default it is the process's.
        """
        self.patch(os, "environ", {"MONGO_DB": "foo"})
        self.assertEqual(read_environment(), {"MONGO_DB": "foo"})
