"""
Tests for L{txmongokit.web.sessionmetrics}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.web.sessionmetrics import SessionMetrics


class SessionMetricsTests(SynchronousTestCase):
    """
    L{SessionMetrics}.
    """

    def test_fresh(self) -> None:
        """Before anything has happened, what is counted is zero."""
        lines = SessionMetrics().text(7).splitlines()
        for line in (
            "# TYPE mongosessions_sessions gauge",
            "mongosessions_sessions 7",
            "mongosessions_requests_under_way 0",
            "mongosessions_conflicts_total 0",
            "mongosessions_reaped_total 0",
            "# TYPE mongosessions_request_seconds histogram",
        ):
            self.assertIn(line, lines)

    def test_unknown(self) -> None:
        """A number that the database does not tell is left out."""
        self.assertNotIn("mongosessions_sessions ", SessionMetrics().text(None))

    def test_requests(self) -> None:
        """Answers are counted by kind, and their latencies in buckets that add up."""
        metrics = SessionMetrics()
        for seconds in (0.001, 0.0011, 0.3, 60.0):
            metrics.answered("session", "GET", 200, seconds)
        metrics.answered("session", "GET", 404, 0.0)
        metrics.answered("health", "GET", 200, 0.0)
        lines = metrics.text(None).splitlines()
        for line in (
            'mongosessions_requests_total{route="session",method="GET",status="200"} 4',
            'mongosessions_requests_total{route="session",method="GET",status="404"} 1',
            'mongosessions_request_seconds_bucket{route="session",le="0.001"} 2',
            'mongosessions_request_seconds_bucket{route="session",le="0.0025"} 3',
            'mongosessions_request_seconds_bucket{route="session",le="0.5"} 4',
            'mongosessions_request_seconds_bucket{route="session",le="10"} 4',
            'mongosessions_request_seconds_bucket{route="session",le="+Inf"} 5',
            'mongosessions_request_seconds_count{route="session"} 5',
            'mongosessions_request_seconds_sum{route="session"} 60.302100',
            'mongosessions_request_seconds_count{route="health"} 1',
        ):
            self.assertIn(line, lines)
        names = [line.rpartition(" ")[0] for line in lines]
        self.assertEqual(len(names), len(set(names)))
