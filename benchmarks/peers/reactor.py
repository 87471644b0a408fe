"""
How peers on Twisted run.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from benchmarks.peers.work import Peer, serve

__all__ = ["TwistedPeer", "run"]


class TwistedPeer(Peer):
    """
    A peer on Twisted.

    @param reactor: the reactor.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def start(self, work: Coroutine[Any, Any, None]) -> Awaitable[Any]:
        """As a Deferred."""
        return Deferred.fromCoroutine(work)


def run(make: Callable[[Any], Peer]) -> None:
    """
    Run a peer until its standard input ends.

    @param make: called with the reactor.
    """

    def main(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(
            serve(make(reactor), lambda: deferToThread(sys.stdin.readline))
        )

    react(main)
