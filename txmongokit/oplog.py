"""
C{python -m txmongokit.oplog}: the replicator as a command.

Takes the options of jaraco.mongodb's module of that name, and does what
C{twistd mongosync} does, in the foreground.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from txmongokit.replicator.arguments import ArgumentsError, parse
from txmongokit.replicator.service import MongosyncService

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Replicate until done, interrupted or failed.

    @param argv: the arguments without the program's name.

    @return: the exit status: 0, 1 where the replication failed, 2 for wrong
        arguments.
    """
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
    except ArgumentsError as error:
        print(f"txmongokit.oplog: {error}", file=sys.stderr)
        return 2
    level = LogLevel.levelWithName(arguments.log_level)
    observer = FilteringLogObserver(
        textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(defaultLogLevel=level)]
    )
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    from twisted.internet import reactor as installed

    reactor: Any = installed
    service = MongosyncService(reactor, arguments)
    status = 0

    def finished(result: Any) -> None:
        nonlocal status
        if isinstance(result, Failure):
            status = 1
            print(f"txmongokit.oplog: {result.getErrorMessage()}", file=sys.stderr)
        if service.running:
            reactor.stop()

    service.done.addBoth(finished)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(service.startService)
    reactor.run()
    return status


if __name__ == "__main__":
    sys.exit(main())
