"""
Clients of HTTP, for tests of what serves it.
"""

from __future__ import annotations

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

__all__ = ["http_client"]


def http_client(case: TestCase) -> HTTPClient:
    """A client, whose connections are closed when the test has ended."""
    connections = HTTPConnectionPool(reactor)
    case.addCleanup(connections.closeCachedConnections)
    return HTTPClient(Agent(reactor, pool=connections))
