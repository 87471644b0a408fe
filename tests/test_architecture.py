"""
The source tree keeps the design's rules, and each rule catches what it
forbids.
"""

from __future__ import annotations

import textwrap

from twisted.trial.unittest import SynchronousTestCase

from tests import architecture
from tests.architecture import Module, Rule, package_modules


class PackageTests(SynchronousTestCase):
    """
    The package as it is.
    """

    def setUp(self) -> None:
        """
        Parse the package once per test.
        """
        self.modules = package_modules()

    def keeps(self, rule: Rule) -> None:
        """
        Apply one rule to every module.
        """
        broken = [violation for module in self.modules for violation in rule(module)]
        self.assertEqual(broken, [], "\n".join(broken))

    def test_finds_the_package(self) -> None:
        """
        There is something to check, packages included.
        """
        names = {module.name for module in self.modules}
        self.assertLessEqual({"txmongokit", "txmongokit.types", "txmongokit._sansio"}, names)

    def test_every_rule_is_applied(self) -> None:
        """
        No rule is without a test of this class.
        """
        for rule in architecture.RULES:
            self.assertTrue(hasattr(self, f"test_{rule.__name__}"), rule.__name__)
            self.assertTrue(hasattr(PlantedTests, f"test_{rule.__name__}"), rule.__name__)

    def test_import_direction(self) -> None:
        """
        Imports go down only.
        """
        self.keeps(architecture.import_direction)

    def test_third_parties(self) -> None:
        """
        Other projects are imported where the table of bands allows.
        """
        self.keeps(architecture.third_parties)

    def test_determinism(self) -> None:
        """
        C{_sansio} is deterministic.
        """
        self.keeps(architecture.determinism)

    def test_global_reactor(self) -> None:
        """
        The reactor is an argument.
        """
        self.keeps(architecture.global_reactor)

    def test_relative_imports(self) -> None:
        """
        Imports are absolute.
        """
        self.keeps(architecture.relative_imports)

    def test_private_pymongo(self) -> None:
        """
        PyMongo's private names are in one module.
        """
        self.keeps(architecture.private_pymongo)

    def test_private_names(self) -> None:
        """
        Our own private names stay where they are defined.
        """
        self.keeps(architecture.private_names)

    def test_sizes(self) -> None:
        """
        Modules and functions can be read.
        """
        self.keeps(architecture.sizes)

    def test_banned_words(self) -> None:
        """
        Names say what a thing is.
        """
        self.keeps(architecture.banned_words)

    def test_mangled_names(self) -> None:
        """
        One underscore is enough.
        """
        self.keeps(architecture.mangled_names)

    def test_docstrings(self) -> None:
        """
        Modules say what they are for.
        """
        self.keeps(architecture.docstrings)

    def test_plugin_folders_are_no_packages(self) -> None:
        """
        C{twisted/} joins Twisted's own package: it has no C{__init__.py}.
        """
        found = sorted((architecture.ROOT / "twisted").rglob("*.py"))
        self.assertEqual([path.name for path in found], ["txmongokit_plugin.py"])


class PlantedTests(SynchronousTestCase):
    """
    Every rule finds the violation planted for it, and no more than that.
    """

    def finds(self, rule: Rule, name: str, source: str, count: int = 1) -> None:
        """
        Apply a rule to the source text of an invented module.
        """
        found = list(rule(Module(f"txmongokit.{name}", textwrap.dedent(source))))
        self.assertEqual(len(found), count, found)

    def test_import_direction(self) -> None:
        """
        Upward imports are found, hidden ones too; downward ones are none.
        """
        rule = architecture.import_direction
        for name, line in [
            ("types", "import txmongokit._sansio.framing"),
            ("_sansio.sdam", "from txmongokit import protocol"),
            ("_sansio.sdam", "from txmongokit.collection import Collection"),
            ("protocol", "from txmongokit._net.pool import Pool"),
            ("_net.pool", "from txmongokit.sessions import ClientSession"),
            ("cursor", "from txmongokit.collection import Collection"),
            ("collection", "from txmongokit._net.executor import Executor"),
            ("collection", "from txmongokit._sansio.framing import Framer"),
            ("collection", "import txmongokit.protocol"),
            ("connection", "import txmongokit.replicator"),
            ("replicator.tailer", "from txmongokit._sansio.commands.base import Command"),
            ("replicator.tailer", "import txmongokit.oplog"),
            ("storage.files", "import txmongokit.web"),
            ("misplaced", ""),
        ]:
            self.finds(rule, name, line)
        type_only = """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from txmongokit.connection import ConnectionPool
            def late():
                import txmongokit.web
            """
        self.finds(rule, "collection", type_only, 2)
        for name, line in [
            ("_sansio.sdam", "from txmongokit import _pymongo"),
            ("collection", "from txmongokit._sansio.commands.read import Find"),
            ("collection", "from txmongokit.cursor import Cursor"),
            ("connection", "from txmongokit._net.executor import Executor"),
            ("oplog", "from txmongokit.replicator.tap import Options"),
            ("replicator.tailer", "from txmongokit import settings, ConnectionPool"),
            ("replicator.tailer", "from txmongokit.replicator.plan import Plan"),
            ("_net.connector", "from txmongokit import __version__"),
        ]:
            self.finds(rule, name, line, 0)
        self.finds(rule, "_net.pool", "from txmongokit import ConnectionPool")

    def test_third_parties(self) -> None:
        """
        What a band is not allowed is found, its own is not.
        """
        rule = architecture.third_parties
        self.finds(rule, "types", "from twisted.internet import defer")
        self.finds(rule, "interfaces", "from zope.interface import Interface", 0)
        self.finds(rule, "protocol", "from twisted.internet import protocol, task")
        self.finds(rule, "collection", "from twisted.internet.defer import Deferred", 0)
        self.finds(rule, "collection", "from twisted.internet.task import LoopingCall")
        self.finds(rule, "_net.pool", "import requests")
        self.finds(rule, "_sansio.framing", "import struct, zlib, bson", 0)

    def test_determinism(self) -> None:
        """
        Twisted, clocks and randomness are found in C{_sansio}, not elsewhere.
        """
        rule = architecture.determinism
        for line in [
            "from twisted.logger import Logger",
            "import time",
            "def late():\n    from random import choice",
            "def late():\n    import random",
            "from random import Random\nRandom()",
            "import os\nos.urandom(4)",
            "from os import urandom",
            "import datetime\ndatetime.datetime.now()",
            "import uuid\nuuid.uuid4()",
        ]:
            self.finds(rule, "_sansio.sdam", line)
            self.finds(rule, "_net.pool", line, 0)
        injected = "from random import Random\ndef pick(random: Random): return random.choice([1])"
        self.finds(rule, "_sansio.sdam", injected, 0)

    def test_global_reactor(self) -> None:
        """
        The reactor is found in every disguise, but not at home.
        """
        rule = architecture.global_reactor
        for line in [
            "from twisted.internet import reactor",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
        ]:
            self.finds(rule, "_net.pool", line)
            self.finds(rule, "connection", line, 0)
            self.finds(rule, "replicator.tap", line, 0)
            self.finds(rule, "replicator.tailer", line)

    def test_relative_imports(self) -> None:
        """
        Dots are found.
        """
        self.finds(architecture.relative_imports, "_sansio.sdam", "from . import framing")
        self.finds(architecture.relative_imports, "_sansio.sdam", "from ..types import Address")

    def test_private_pymongo(self) -> None:
        """
        Private names and modules are found outside of C{_pymongo}.
        """
        rule = architecture.private_pymongo
        for line in [
            "from pymongo.hello import Hello",
            "from pymongo import common",
            "import pymongo.pool_options",
            "from pymongo.auth_shared import MongoCredential",
            "from pymongo.server_api import _add_to_command",
            "from pymongo import _csot",
            "from bson import _bson_to_dict",
            "import bson\nbson._bson_to_dict",
            "from pymongo import MongoClient",
        ]:
            self.finds(rule, "_net.pool", line)
            self.finds(rule, "_pymongo", line, 0)
        for line in [
            "from pymongo import ASCENDING, InsertOne, ReadPreference",
            "from pymongo.errors import PyMongoError",
            "from pymongo import monitoring",
            "import bson.raw_bson",
        ]:
            self.finds(rule, "_net.pool", line, 0)
        self.finds(rule, "testing", "from pymongo import MongoClient", 0)

    def test_private_names(self) -> None:
        """
        Another module's private name is found; a private module is none.
        """
        rule = architecture.private_names
        self.finds(rule, "collection", "from txmongokit.cursor import _Batch")
        self.finds(rule, "_net.pool", "from txmongokit import _sansio", 0)

    def test_sizes(self) -> None:
        """
        Code is counted, docstrings and comments are not.
        """
        rule = architecture.sizes
        long_function = "def f():\n" + "    x = 1\n" * 60
        self.finds(rule, "cursor", long_function)
        self.finds(rule, "cursor", "x = 1\n" * 701)
        quiet = 'def f():\n    """\n' + "    words\n" * 800 + '    """\n' + "    # why\n\n" * 800
        self.finds(rule, "cursor", quiet + "    return 1\n", 0)
        self.finds(rule, "cursor", "x = 1\n" * 700, 0)

    def test_banned_words(self) -> None:
        """
        Empty words are found as parts of names, not inside of other words.
        """
        rule = architecture.banned_words
        self.finds(rule, "_net.utils", "")
        self.finds(rule, "_net.pool_helpers", "")
        self.finds(rule, "_net.pool", "class PoolManager: pass")
        self.finds(rule, "_net.pool", "class HTTPHandler: pass")
        self.finds(rule, "_net.pool", "class Commonwealth: pass", 0)

    def test_mangled_names(self) -> None:
        """
        Mangled names are found, Python's own are none.
        """
        rule = architecture.mangled_names
        self.finds(rule, "cursor", "class A:\n    def f(self): self.__x = self.__class__")
        self.finds(rule, "cursor", "class A:\n    __x = 1")
        self.finds(rule, "cursor", "class A:\n    def __f(self): pass")
        self.finds(rule, "cursor", "class A:\n    def __init__(self): pass", 0)

    def test_docstrings(self) -> None:
        """
        A missing docstring and a missing C{__all__} are found.
        """
        rule = architecture.docstrings
        self.finds(rule, "cursor", "x = 1", 2)
        self.finds(rule, "cursor", '"""Cursors."""\nx = 1')
        self.finds(rule, "cursor", '"""Cursors."""\n__all__ = ["x"]\nx = 1', 0)
        self.finds(rule, "web", '"""The web."""', 0)
        self.finds(rule, "_net.pool", '"""Pools."""\nx = 1', 0)
