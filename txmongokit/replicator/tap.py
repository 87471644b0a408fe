"""
C{twistd mongosync}: the replicator as a plugin of twistd.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit.replicator.arguments import Options
from txmongokit.replicator.service import MongosyncService, look_for_cycles_seldom

__all__ = ["Options", "makeService"]

_log = Logger()


def makeService(options: Options) -> IService:
    """
    What twistd runs.

    The process ends when the replication does: with status 1 if it failed.
    """
    from twisted.internet import reactor

    look_for_cycles_seldom()
    service = MongosyncService(reactor, options.arguments)

    def finished(result: Any) -> None:
        if isinstance(result, Failure):
            _log.critical("{reason}", reason=result.getErrorMessage())
            _exit_with(1)
        if service.running:
            reactor.callWhenRunning(reactor.stop)

    service.done.addBoth(finished)
    return service


def _exit_with(status: int) -> None:
    """
    End the process with C{status} once everything else is done.

    Twisted has no public way to give twistd's process an exit status:
    C{reactor.stop()} always leads to 0.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
