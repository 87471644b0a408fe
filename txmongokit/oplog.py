"""
C{python -m txmongokit.oplog}: the replicator as a command.

Takes the options of jaraco.mongodb's module of that name, and does what
C{twistd mongosync} does, in the foreground.  C{verify} as the first argument
compares source and destination instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from txmongokit.replicator.arguments import Arguments, ArgumentsError, parse, parse_verify
from txmongokit.replicator.checking import check
from txmongokit.replicator.service import MongosyncService

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Replicate until done, interrupted or failed.

    @param argv: the arguments without the program's name.

    @return: the exit status: 0, 1 where the replication failed or the
        verification found a difference, 2 for wrong arguments.
    """
    argv = sys.argv[1:] if argv is None else argv
    verifying = bool(argv) and argv[0] == "verify"
    try:
        arguments = parse_verify(argv[1:]) if verifying else parse(argv)
    except ArgumentsError as error:
        print(f"txmongokit.oplog: {error}", file=sys.stderr)
        return 2
    return (_verify if verifying else _replicate)(arguments, _start_logging(arguments))


def _start_logging(arguments: Arguments) -> Any:
    """Log to standard error; the reactor, which is installed only now."""
    level = LogLevel.levelWithName(arguments.log_level)
    observer = FilteringLogObserver(
        textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(defaultLogLevel=level)]
    )
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    from twisted.internet import reactor as installed

    return installed


def _verify(arguments: Arguments, reactor: Any) -> int:
    status = 1

    def finished(result: Any) -> None:
        nonlocal status
        if isinstance(result, Failure):
            if result.check(CancelledError) is not None:
                return  # The reactor is stopping already.
            print(f"txmongokit.oplog: {result.getErrorMessage()}", file=sys.stderr)
        elif result:
            status = 0
        reactor.stop()

    def begin() -> None:
        checking = check(reactor, arguments, print)
        reactor.addSystemEventTrigger("before", "shutdown", checking.cancel)
        checking.addBoth(finished)

    reactor.callWhenRunning(begin)
    reactor.run()
    return status


def _replicate(arguments: Arguments, reactor: Any) -> int:
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
