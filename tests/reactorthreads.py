"""
Threads that wait for the reactor, in tests.
"""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from txmongokit.reactorthread import reactor_thread

__all__ = ["renew_reactor_thread"]


def renew_reactor_thread(case: TestCase) -> None:
    """
    Have a test begin with a new view of the reactor: trial's own processes
    (C{-j}) tell everybody after each test that the reactor has ended.
    """
    reactor_thread.cache_clear()
    case.addCleanup(reactor_thread.cache_clear)
