"""
The shape of files in the unified test format.
"""

from __future__ import annotations

import copy
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.spec.matching import Malformed
from tests.spec.schema import check_file

_FILE: dict[str, Any] = {
    "description": "one case",
    "schemaVersion": "1.28",
    "createEntities": [{"client": {"id": "client0", "observeEvents": ["commandStartedEvent"]}}],
    "tests": [
        {
            "description": "ping",
            "operations": [
                {"name": "close", "object": "client0", "expectError": {"isError": True}}
            ],
            "expectEvents": [{"client": "client0", "events": []}],
        }
    ],
}


class SchemaTests(SynchronousTestCase):
    """
    L{check_file}.
    """

    def setUp(self) -> None:
        """A file that is in order."""
        self.file = copy.deepcopy(_FILE)
        self.test = self.file["tests"][0]

    def rejected(self, what: str) -> None:
        """The file is refused, with an error that names the place."""
        error = self.assertRaises(Malformed, check_file, self.file)
        self.assertIn(what, str(error))

    def test_valid(self) -> None:
        """A file in order passes."""
        check_file(self.file)

    def test_version(self) -> None:
        """Versions that this runner does not know are refused."""
        for version in ("1.29", "2.0", "0.1"):
            self.file["schemaVersion"] = version
            self.rejected("not supported")

    def test_required(self) -> None:
        """A field that must be there is missed."""
        del self.test["operations"]
        self.rejected("file.tests[0] must have operations")

    def test_unknown(self) -> None:
        """A field that there is not is refused."""
        self.test["foo"] = 0
        self.rejected("file.tests[0] must not have foo")

    def test_type(self) -> None:
        """A boolean is no integer, and zero is no boolean."""
        self.test["operations"][0]["expectError"] = {"errorCode": True}
        self.rejected("errorCode must be an integer")
        self.test["operations"][0]["expectError"] = {"isClientError": 0}
        self.rejected("isClientError must be a boolean")

    def test_exclusive(self) -> None:
        """Nothing expects an error and a result."""
        self.test["operations"][0]["expectResult"] = 1
        self.rejected("expectError and expectResult")

    def test_event_families(self) -> None:
        """Events of one family are not expected among those of another."""
        self.test["expectEvents"][0]["events"] = [{"poolReadyEvent": {}}]
        self.rejected("must not have poolReadyEvent")
        self.test["expectEvents"][0]["eventType"] = "cmap"
        check_file(self.file)

    def test_entities(self) -> None:
        """An entity is of one kind."""
        self.file["createEntities"][0]["thread"] = {"id": "thread0"}
        self.rejected("wrong number of fields")
