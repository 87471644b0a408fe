"""
Tests for L{txmongokit._net.monitor}, in memory.
"""

from __future__ import annotations

from pymongo.server_description import ServerDescription
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork, refusal
from txmongokit._net.connector import Connector
from txmongokit._net.monitor import Monitor
from txmongokit.errors import AutoReconnect, NetworkTimeout
from txmongokit.options import parse_options


class MonitorTests(SynchronousTestCase):
    """When a server is asked, and what is reported."""

    def setUp(self) -> None:
        """A server and its monitor, which has looked twice."""
        self.network = FakeNetwork()
        self.server = self.network.add()
        self.reports: list[ServerDescription] = []
        self.monitor = self.new_monitor()
        self.monitor.start()
        self.network.advance(1.0)

    def new_monitor(self) -> Monitor:
        """A monitor that was not started."""
        connector = Connector(
            self.network.clock,
            parse_options("mongodb://a", connectTimeoutMS=2000),
            endpoint_factory=self.network.endpoint,
        )
        monitor = Monitor(
            self.network.clock,
            ("a", 27017),
            connector,
            self.report,
            heartbeat=10.0,
            min_heartbeat=0.5,
            timeout=2.0,
        )
        self.addCleanup(monitor.stop)
        return monitor

    def report(self, description: ServerDescription) -> None:
        """Note a report."""
        self.reports.append(description)

    def test_heartbeat(self) -> None:
        """
        A first look, a second for the round trip time, then one each
        heartbeat, all on one connection.
        """
        self.monitor.start()
        self.network.advance(21.0)
        self.assertEqual([round(when, 1) for when in self.server.hellos], [0, 0.5, 10.5, 20.5])
        self.assertTrue(all(report.is_server_type_known for report in self.reports))
        self.assertEqual((len(self.reports), self.server.attempts), (4, 1))

    def test_request_check(self) -> None:
        """A check that somebody asks for comes at once, but not more often than allowed."""
        self.network.advance(2.0)
        del self.server.hellos[:]
        self.monitor.request_check()
        self.network.flush()
        self.monitor.request_check()
        self.network.advance(0.375)
        self.assertEqual(len(self.server.hellos), 1)
        self.network.advance(0.25)
        self.assertEqual(len(self.server.hellos), 2)

    def test_retry(self) -> None:
        """A known server whose connection is gone is asked once more before it is unknown."""
        self.server.lose_all()
        self.network.advance(10.0)
        self.assertTrue(self.reports[-1].is_server_type_known)
        self.assertEqual(self.server.attempts, 2)

    def test_unknown(self) -> None:
        """A server that refuses is unknown, with the reason, and is asked on."""
        self.server.refuses = refusal()
        self.server.lose_all()
        self.network.advance(10.0)
        self.assertFalse(self.reports[-1].is_server_type_known)
        self.assertIn("refused", str(self.reports[-1].error))
        attempts = self.server.attempts
        self.network.advance(10.0)
        self.assertEqual(self.server.attempts, attempts + 1)

    def test_silence(self) -> None:
        """A server that does not answer is unknown by a timeout, without a second try."""
        self.server.on_hello = lambda body: None
        self.network.advance(12.5)
        self.assertIsInstance(self.reports[-1].error, NetworkTimeout)
        self.assertEqual(self.server.attempts, 1)
        self.assertEqual(self.server.connections, [])

    def test_nonsense(self) -> None:
        """A reply that makes no sense does not end the watch."""
        self.server.on_hello = lambda body: {"ok": 1.0, "setName": "rs", "hosts": [7]}
        self.network.advance(10.0)
        self.assertFalse(self.reports[-1].is_server_type_known)
        self.server.on_hello = None
        self.network.advance(10.0)
        self.assertTrue(self.reports[-1].is_server_type_known)

    def test_report_fails(self) -> None:
        """An error in whoever listens is logged and does not end the watch."""

        def fail(description: ServerDescription) -> None:
            raise ZeroDivisionError

        self.monitor._report = fail
        self.network.advance(30.0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)

    def test_stop(self) -> None:
        """Stopping leaves no connection and no delayed call, whatever was going on."""
        self.monitor.stop()
        self.network.flush()
        self.assertEqual(self.server.connections, [])
        self.server.on_hello = lambda body: None
        checking = self.new_monitor()
        checking.start()
        self.network.flush()
        checking.stop()
        self.network.flush()
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_stop_from_report(self) -> None:
        """A monitor may be stopped by what it reports."""
        self.monitor._report = lambda description: self.monitor.stop()
        self.monitor.request_check()
        self.network.advance(1.0)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.monitor.start()
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_errors_of_its_own(self) -> None:
        """Whoever waits on a stopped monitor's connection is told so."""
        protocol = self.monitor._protocol
        assert protocol is not None
        waiting = protocol.request(b"\x05\x00\x00\x00\x00")
        self.monitor.stop()
        self.assertIn("monitored", str(self.failureResultOf(waiting, AutoReconnect).value))
