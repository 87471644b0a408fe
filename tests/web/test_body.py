"""
Tests for L{txmongokit.web.body}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from tests.fakes import FakeRunner, cursor_reply
from tests.test_gridfs import CHUNKS, FILE
from tests.test_gridfs_streams import Drinker
from tests.web.test_files import CONTENT
from txmongokit.database import Database
from txmongokit.gridfs import CorruptGridFile, GridOut
from txmongokit.web import FileBody


class BodyTests(SynchronousTestCase):
    """
    L{FileBody}.
    """

    def body(self, *replies: Any) -> tuple[FileBody, GridOut]:
        """One of ten bytes."""
        runner = FakeRunner(*(replies or (cursor_reply(CHUNKS),)))
        stream = GridOut(Database(runner, "db")["fs"], FILE)
        return FileBody(stream), stream

    def test_interface(self) -> None:
        """It is what it says."""
        verifyObject(IBodyProducer, self.body()[0])

    def test_sends(self) -> None:
        """All of it, with pauses; it neither registers nor unregisters."""
        body, _ = self.body()
        self.assertEqual(body.length, 10)
        consumer = Drinker()
        consumer.producer = body
        done = body.startProducing(consumer)
        for _ in range(2):
            self.assertNoResult(done)
            body.resumeProducing()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual((b"".join(consumer.got), consumer.unregistered), (CONTENT, 0))

    def test_stopped(self) -> None:
        """After a stop nothing fires."""
        body, _ = self.body(Deferred())
        done = body.startProducing(Drinker())
        body.stopProducing()
        self.assertNoResult(done)

    def test_cancelled(self) -> None:
        """To cancel stops the reading."""
        body, _ = self.body(Deferred())
        done = body.startProducing(Drinker())
        done.cancel()
        self.failureResultOf(done, CancelledError)

    def test_corrupt(self) -> None:
        """What reading fails with."""
        done = self.body(cursor_reply([]))[0].startProducing(Drinker())
        self.failureResultOf(done, CorruptGridFile)
