"""
Tests for L{txmongokit.replicator.tap}.
"""

from __future__ import annotations

import gc

from twisted.application.service import IService
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txmongokit.replicator.service import MongosyncService
from txmongokit.replicator.tap import Options, makeService


class TapTests(SynchronousTestCase):
    """
    What twistd gets.
    """

    def setUp(self) -> None:
        """Whatever is set for the whole process is set back."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)

    def test_service(self) -> None:
        """A service that has not begun, with the name that twistd knows."""
        options = Options()
        options.parseOptions(["--from", "source.example"])
        service = makeService(options)
        assert isinstance(service, MongosyncService)
        verifyObject(IService, service)
        self.assertEqual(service.name, "mongosync")
        self.assertFalse(service.running)
        self.assertNoResult(service.done)
        self.assertEqual(gc.get_threshold()[0], 20_000)

    def test_end_after_stop(self) -> None:
        """An end of a service that was stopped leaves the reactor alone."""
        options = Options()
        options.parseOptions(["--from", "source.example"])
        service = makeService(options)
        assert isinstance(service, MongosyncService)
        service.done.callback(None)
        self.assertIsNone(self.successResultOf(service.done))
