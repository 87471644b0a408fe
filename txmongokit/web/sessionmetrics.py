"""
What the sessions' service counts, as Prometheus reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

__all__ = ["SessionMetrics"]

# Upper bounds of the buckets for latencies, in seconds.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class SessionMetrics:
    """
    Counts since the process began.

    @ivar conflicts: requests that would have overwritten a newer session.
    @ivar reaped: expired sessions removed.
    @ivar reap_failures: times that removing them has failed.
    @ivar under_way: requests under way.
    """

    def __init__(self) -> None:
        self.conflicts = 0
        self.reaped = 0
        self.reap_failures = 0
        self.under_way = 0
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._latencies: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """
        A request has been answered.

        @param route: its kind; nothing that a client can choose freely.
        @param method: likewise.
        @param seconds: how long that took.
        """
        self._requests[route, method, status] += 1
        counts = self._latencies.setdefault(route, [0] * (len(_BUCKETS) + 1))
        counts[bisect_left(_BUCKETS, seconds)] += 1
        # A Counter adds floats as well; so much precision as is told is enough.
        self._seconds[route] += round(seconds * 1_000_000)

    def text(self, sessions: int | None) -> str:
        """
        For C{/metrics}.

        @param sessions: how many sessions there are; C{None} if the database
            does not say.
        """
        lines: list[str] = []

        def head(name: str, kind: str, about: str) -> str:
            full = f"mongosessions_{name}"
            lines.extend((f"# HELP {full} {about}", f"# TYPE {full} {kind}"))
            return full

        for name, kind, about, value in (
            ("sessions", "gauge", "Sessions stored, by the database's estimate.", sessions),
            ("requests_under_way", "gauge", "Requests under way.", self.under_way),
            ("conflicts_total", "counter", "Writes refused for a newer version.", self.conflicts),
            ("reaped_total", "counter", "Expired sessions removed.", self.reaped),
            ("reap_failures_total", "counter", "Failed removals.", self.reap_failures),
        ):
            if value is not None:
                lines.append(f"{head(name, kind, about)} {value}")
        full = head("requests_total", "counter", "Requests answered.")
        lines += [
            f'{full}{{route="{route}",method="{method}",status="{status}"}} {count}'
            for (route, method, status), count in sorted(self._requests.items())
        ]
        full = head("request_seconds", "histogram", "How long answers take.")
        for route, counts in sorted(self._latencies.items()):
            bounds = (*(f"{bound:g}" for bound in _BUCKETS), "+Inf")
            lines += [
                f'{full}_bucket{{route="{route}",le="{bound}"}} {count}'
                for bound, count in zip(bounds, accumulate(counts), strict=True)
            ]
            lines.append(f'{full}_sum{{route="{route}"}} {self._seconds[route] / 1_000_000:.6f}')
            lines.append(f'{full}_count{{route="{route}"}} {sum(counts)}')
        return "\n".join(lines) + "\n"
