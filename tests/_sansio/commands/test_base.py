"""
Tests for L{txmongokit._sansio.commands.base}.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import bson
from bson.codec_options import CodecOptions
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.commands.base import CommandOptions, DocumentCommand, RunCommand
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
        """The result is decoded with the caller's codec; what is looked at before is not."""
        options = CommandOptions(codec_options=CodecOptions(document_class=OrderedDict))
        command = RunCommand("db", {"ping": 1}, options)
        reply = command.decode(bson.encode({"ok": 1}))
        self.assertIs(type(reply), dict)
        self.assertIsInstance(command.parse(reply, INFO), OrderedDict)

    def test_ping(self) -> None:
        """A bare ping may share a connection; what else a user sends may be slow."""
        for document, shareable in (
            ({"ping": 1}, True),
            ({"ping": 1, "comment": "x"}, False),
            ({"fsync": 1}, False),
        ):
            command = RunCommand("db", document, CommandOptions())
            self.assertIs(command.shareable, shareable)


class DocumentCommandTests(SynchronousTestCase):
    """
    A command whose document is known beforehand.
    """

    def test_raw_data(self) -> None:
        """C{rawData} goes to servers that know it, and stays for another try."""
        command: DocumentCommand[None] = DocumentCommand(
            "db", "c", CommandOptions(), {"find": "c", "rawData": True}
        )
        for version, expected in ((26, False), (27, True), (26, False)):
            body = command.build(replace(INFO, max_wire_version=version)).body
            self.assertEqual("rawData" in body, expected)

    def test_namespace(self) -> None:
        """With a collection, or of the database alone."""
        for collection, expected in (("c", "db.c"), (None, "db")):
            command: DocumentCommand[None] = DocumentCommand("db", collection, CommandOptions(), {})
            self.assertEqual(command.namespace, expected)
            self.assertFalse(command.tolerates({"ok": 0, "code": 26}))
