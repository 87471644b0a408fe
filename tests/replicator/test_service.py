"""
Tests for L{txmongokit.replicator.service}.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.arguments import Arguments, parse
from txmongokit.replicator.service import MongosyncService, ReplicationFailed


class ServiceTests(SynchronousTestCase):
    """
    Its beginning and its end.
    """

    def service(self, **changes: Any) -> MongosyncService:
        """A service with other arguments than the usual ones."""
        arguments: Arguments = parse(["--from", "source.example", "--resume-file", "none"])
        return MongosyncService(MemoryReactorClock(), replace(arguments, **changes))

    def failure(self, **changes: Any) -> str:
        """How it fails."""
        service = self.service(**changes)
        service.startService()
        text = str(self.failureResultOf(service.done, ReplicationFailed).value)
        self.successResultOf(service.stopService())
        return text

    def test_bad_source(self) -> None:
        """A wrong connection string is told, without its password."""
        text = self.failure(source="mongodb://me:secret@h/?w=-7")
        self.assertIn("source", text)
        self.assertNotIn("secret", text)

    def test_bad_destination(self) -> None:
        """So is that of the destination."""
        self.assertIn("destination", self.failure(destination="mongodb://"))

    def test_bad_resume_file(self) -> None:
        """A resume file that is none is told before anybody is asked."""
        path = Path(self.mktemp())
        path.write_text("this is prose")
        self.assertIn(str(path), self.failure(resume_file=path))

    def test_resume_folder_missing(self) -> None:
        """So is one that could not be written."""
        path = Path(self.mktemp()) / "missing" / "file"
        self.assertIn(path.name, self.failure(resume_file=path))

    def test_stop_before_start(self) -> None:
        """A service that never ran stops at once."""
        service = self.service()
        self.successResultOf(service.stopService())
        self.assertNoResult(service.done)

    def test_stop_while_starting(self) -> None:
        """A stop while nobody has answered ends it, without an error."""
        service = self.service()
        service.startService()
        self.assertNoResult(service.done)
        stopped = service.stopService()
        self.successResultOf(stopped)
        self.assertIsNone(self.successResultOf(service.done))
        self.assertFalse(service.running)
