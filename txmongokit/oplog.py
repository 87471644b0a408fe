"""
C{python -m txmongokit.oplog}: the replicator as a command.

Takes the options of jaraco.mongodb's module of that name, and does what
C{twistd mongosync} does, in the foreground.  With C{verify} as the first
argument it compares source and destination instead; with C{reverse} it
prepares the other direction after a cut-over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from txmongokit.replicator.arguments import (
    Arguments,
    ArgumentsError,
    parse,
    parse_reverse,
    parse_verify,
)
from txmongokit.replicator.checking import check, turn
from txmongokit.replicator.service import MongosyncService, look_for_cycles_seldom

__all__ = ["main"]


_Task = Callable[[Any, Arguments, Callable[[str], Any]], Deferred[bool]]
_SUBCOMMANDS: dict[str, tuple[Callable[[Sequence[str]], Arguments], _Task]] = {
    "verify": (parse_verify, check),
    "reverse": (parse_reverse, turn),
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Replicate until done, interrupted or failed.

    @param argv: the arguments without the program's name.

    @return: the exit status: 0, 1 where the replication failed or the
        verification found a difference, 2 for wrong arguments.
    """
    argv = sys.argv[1:] if argv is None else argv
    subcommand = argv[0] if argv else ""
    try:
        if subcommand in _SUBCOMMANDS:
            read, task = _SUBCOMMANDS[subcommand]
            arguments = read(argv[1:])
        else:
            arguments, task = parse(argv), None
    except ArgumentsError as error:
        print(f"txmongokit.oplog: {error}", file=sys.stderr)
        return 2
    reactor = _start_logging(arguments)
    look_for_cycles_seldom()
    return _replicate(arguments, reactor) if task is None else _run(task, arguments, reactor)


def _start_logging(arguments: Arguments) -> Any:
    """Log to standard error; the reactor, which is installed only now."""
    level = LogLevel.levelWithName(arguments.log_level)
    observer = FilteringLogObserver(
        textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(defaultLogLevel=level)]
    )
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    from twisted.internet import reactor as installed

    return installed


def _run(task: _Task, arguments: Arguments, reactor: Any) -> int:
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
        running = task(reactor, arguments, print)
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        running.addBoth(finished)

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
