"""
Tests for what L{benchmarks.lanes} measures with.
"""

from __future__ import annotations

import socket
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.lanes import SlowProxy, report


class ProxyTests(SynchronousTestCase):
    """
    A connection that takes its time.
    """

    def setUp(self) -> None:
        """A server that sends back what it gets, once."""
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.server.close)
        self.thread = threading.Thread(target=self._answer, daemon=True)
        self.thread.start()

    def _answer(self) -> None:
        connection, _ = self.server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def test_late_and_whole(self) -> None:
        """Everything arrives in its order, a round trip late, and the end, too."""
        sent = b"".join(b"%08d" % number for number in range(50_000))
        began = time.monotonic()
        with (
            SlowProxy(self.server.getsockname()[1], 0.1) as proxy,
            socket.create_connection(("127.0.0.1", proxy.port), 30) as connection,
        ):
            threading.Thread(target=connection.sendall, args=(sent,), daemon=True).start()
            received = b""
            while len(received) < len(sent):
                data = connection.recv(1 << 16)
                self.assertTrue(data)
                received += data
            self.assertGreaterEqual(time.monotonic() - began, 0.1)
            self.assertTrue(received == sent)
            connection.shutdown(socket.SHUT_WR)
            self.thread.join(30)
        self.assertFalse(self.thread.is_alive())

    def test_no_server(self) -> None:
        """A connection ends where nothing is behind it, and nothing goes on for its sake."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with (
            SlowProxy(port, 0.01) as proxy,
            socket.create_connection(("127.0.0.1", proxy.port), 30) as connection,
        ):
            connection.sendall(b"x")
            self.assertEqual(connection.recv(1), b"")

    def test_report(self) -> None:
        """A line for each round trip, a column for each number of lanes."""
        rates = {(0.0, 1): 30_000.0, (0.0, 4): 25_000.0, (50.0, 1): 3_000.0, (50.0, 4): 9_000.0}
        self.assertEqual(
            report([0.0, 50.0], rates).splitlines(),
            [
                "round trip      1 lane     4 lanes",
                "      0 ms      30,000      25,000",
                "     50 ms       3,000       9,000",
            ],
        )
