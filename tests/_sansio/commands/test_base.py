"""
Tests for L{txmongokit._sansio.commands.base}.
"""

from __future__ import annotations

from collections import OrderedDict

import bson
from bson.codec_options import CodecOptions
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.base import CommandOptions, RunCommand
from txmongokit.types import ConnectionInfo

INFO = ConnectionInfo(("a", 1), 2, max_wire_version=17)


class RunCommandTests(SynchronousTestCase):
    """
    A command as the user wrote it.
    """

    def test_copies(self) -> None:
        """The caller's document stays as it is."""
        document = {"ping": 1}
        RunCommand("db", document, CommandOptions()).build(INFO).body["$db"] = "db"
        self.assertEqual(document, {"ping": 1})

    def test_tolerates(self) -> None:
        """Unchecked commands, and errors that are expected, are no failure."""
        reply = {"ok": 0, "errmsg": "gone", "code": 26}
        for options, expected in (
            ({}, False),
            ({"check": False}, True),
            ({"allowable_errors": ["gone"]}, True),
            ({"allowable_errors": [26]}, True),
            ({"allowable_errors": [27]}, False),
        ):
            command = RunCommand("db", {"drop": "x"}, CommandOptions(), **options)
            self.assertIs(command.tolerates(reply), expected)

    def test_codec(self) -> None:
        """The whole reply is decoded with the caller's codec."""
        options = CommandOptions(codec_options=CodecOptions(document_class=OrderedDict))
        command = RunCommand("db", {"ping": 1}, options)
        self.assertIsInstance(command.decode(bson.encode({"ok": 1})), OrderedDict)
