"""
The command line, the same for C{twistd mongosync} and
C{python -m txmongokit.oplog}.

One L{argparse} parser serves both: L{usage.Options} has no options of several
values, and lets the last of a repeated option win.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote_plus

from twisted.python import usage

from txmongokit import __version__
from txmongokit.listening import EndpointError, listening_place
from txmongokit.replicator.partition import MOST_LANES
from txmongokit.replicator.patience import LIMIT
from txmongokit.replicator.segments import DEFAULT_TASKS
from txmongokit.replicator.selection import Selection, SelectionError

__all__ = [
    "Arguments",
    "ArgumentsError",
    "Options",
    "parse",
    "parse_reverse",
    "parse_verify",
    "redacted",
]

_TWISTD = "twistd mongosync"
_OPLOG = "python -m txmongokit.oplog"
_DEFAULT_PORT = 27017
_RESUME_FILE = "mongooplog.ts"
DEFAULT_LANES = 1
"""How many batches are written side by side, where nothing else is said."""
_LEVELS = ("debug", "info", "warn", "error", "critical")


class ArgumentsError(Exception):
    """
    The command line cannot be used: one sentence that names the option, its
    value and what is allowed.
    """


@dataclass(frozen=True, slots=True)
class Arguments:
    """
    What the command line asks for.

    @ivar source: a connection string.
    @ivar destination: a connection string.
    @ivar seconds_back: an explicit start, in seconds before now.
    @ivar seconds_option: the option that gave it.
    @ivar follow: whether to wait for new entries.
    @ivar selection: what to replicate, under which names.
    @ivar resume_file: C{None} where there is none.
    @ivar dry_run: whether nothing is written.
    @ivar oplog_namespace: C{database.collection} of the source's oplog.
    @ivar force_start: whether C{seconds_back} wins over the checkpoint.
    @ivar at_least_once: whether a destination that cannot apply a batch
        together with the checkpoint will do.
    @ivar log_level: the name of a L{twisted.logger.LogLevel}.
    @ivar split_bytes: above how many bytes a source transaction is split;
        C{None} where it must not be.
    @ivar clone: whether to copy what the source has before following it.
    @ivar clone_tasks: how many parts of it are copied at once.
    @ivar drop: whether what is in the clone's way is dropped.
    @ivar verify: whether source and destination are compared at the end.
    @ivar status: where the status page is, as a server endpoint.
    @ivar status_token_file: holds what its requests have to show.
    @ivar headroom_warning: seconds of oplog left below which to warn.
    @ivar generations: how often a verification looks at what differs.
    @ivar settle: how many seconds a verification waits for a replication
        that stands still.
    @ivar patience: how many seconds to keep trying while a server is away;
        infinity for ever.
    @ivar limit: at most so many operations a second; infinity for any number.
    @ivar limit_bytes: at most so many bytes a second, likewise.
    @ivar lanes: how many batches are written side by side.
    """

    source: str
    destination: str
    seconds_back: float | None
    seconds_option: str | None
    follow: bool
    selection: Selection
    resume_file: Path | None
    dry_run: bool
    oplog_namespace: str
    force_start: bool
    at_least_once: bool
    log_level: str
    split_bytes: int | None = None
    clone: bool = False
    clone_tasks: int = DEFAULT_TASKS
    drop: bool = False
    verify: bool = False
    status: str | None = None
    status_token_file: Path | None = None
    headroom_warning: float = 900.0
    generations: int = 5
    settle: float = 30.0
    patience: float = LIMIT
    limit: float = math.inf
    limit_bytes: float = math.inf
    lanes: int = DEFAULT_LANES


class _Parser(argparse.ArgumentParser):
    """Raises what it would print and exit with."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(f"{message}; --help lists the options")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """
        What a command line says.
        """
        for each in argv:
            name, _, value = each.partition("=")
            if name.startswith("--") and value == "--":
                # argparse takes it for the end of the options, and gives a list.
                self.error(f"{name} cannot be {value!r}")
        return self.parse_args(list(argv))


def _parser(program: str) -> _Parser:
    parser = _Parser(
        prog=program,
        add_help=False,
        allow_abbrev=False,
        description="Copy what happens in one MongoDB replica set to another deployment, "
        "exactly once, by following its oplog.",
        epilog="Addresses are mongodb:// URIs, host:port, or set/host1,host2. The position "
        "reached is kept in the destination (txmongokit.mongosync), where the next start goes on.",
    )
    _add_where(parser)
    _add_what(parser)
    _add_when(parser)
    _add_clone(parser)
    _add_watching(parser)
    _add_other(parser)
    return parser


def _add_where(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument(
        "--from",
        "--source",
        dest="source",
        required=True,
        metavar="URI",
        help="the replica set to read from",
    )
    where.add_argument(
        "--to",
        "--dest",
        "--host",
        "-h",
        dest="destination",
        default="localhost",
        metavar="URI",
        help="the deployment to write to (default: localhost)",
    )
    where.add_argument(
        "--port",
        metavar="NUMBER",
        help=f"the destination's port, if --host has none (default: {_DEFAULT_PORT})",
    )
    where.add_argument(
        "--oplogns",
        default="local.oplog.rs",
        metavar="NS",
        help="the source's oplog (default: local.oplog.rs)",
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    watching = parser.add_argument_group("watching")
    watching.add_argument(
        "--verify",
        action="store_true",
        help="compare both sides at the end, while both may move; status 1 if anything differs",
    )
    watching.add_argument(
        "--status",
        metavar="ENDPOINT",
        help="show the state over HTTP and take orders there, as in tcp:8080 (this machine alone)",
    )
    watching.add_argument(
        "--status-token-file",
        metavar="FILE",
        help="who asks there has to show what is in FILE as 'Authorization: Bearer'",
    )
    watching.add_argument(
        "--headroom-warning",
        default="900",
        metavar="SECONDS",
        help="warn when the source overwrites so soon what is to be read next (default: 900)",
    )


def _add_other(parser: argparse.ArgumentParser) -> None:
    other = parser.add_argument_group("other")
    other.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and write nothing"
    )
    other.add_argument(
        "--at-least-once",
        action="store_true",
        help="allow a standalone destination whose version cannot apply a batch atomically",
    )
    other.add_argument(
        "--split-large-transactions",
        nargs="?",
        const="256",
        metavar="MB",
        help="apply source transactions of more than MB (default: 256) in parts (without it, such "
        "a one stops the replication)",
    )
    _add_limits(other)
    _add_patience(other)
    other.add_argument(
        "--lanes",
        metavar="N",
        help="write N batches side by side, for a destination that is far away (default: "
        f"{DEFAULT_LANES})",
    )
    _add_log(other)


def _add_limits(group: Any) -> None:
    for option, what in (
        ("--limit", "entries of the oplog, or documents of a clone,"),
        ("--limit-bytes", "bytes of them"),
    ):
        group.add_argument(
            option,
            default="0",
            metavar="N",
            help=f"read at most N {what} a second (default: 0, for no limit)",
        )


def _add_patience(group: Any) -> None:
    group.add_argument(
        "--patience",
        default=f"{LIMIT:g}",
        metavar="SECONDS",
        help="keep trying so long while a server is away, changes its role or has no room "
        f"(default: {LIMIT:g}; 0 for ever)",
    )


def _add_log(other: Any) -> None:
    other.add_argument(
        "-l",
        "--log-level",
        default="info",
        type=str.lower,
        choices=_LEVELS,
        metavar="LEVEL",
        help=f"{', '.join(_LEVELS)} (default: info; twistd has logging options of its own)",
    )
    other.add_argument("--version", action="version", version=f"txmongokit {__version__}")
    other.add_argument("--help", action="help", help="show this text")


def _add_clone(parser: argparse.ArgumentParser) -> None:
    clone = parser.add_argument_group("clone")
    clone.add_argument(
        "--clone",
        action="store_true",
        help="first copy what the source has; if interrupted, the same again goes on with it",
    )
    clone.add_argument(
        "--clone-tasks",
        metavar="N",
        help=f"copy N parts at once (default: {DEFAULT_TASKS})",
    )
    clone.add_argument(
        "--drop",
        action="store_true",
        help="drop what is in the way of a new clone (without it, that is an error)",
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what")
    what.add_argument(
        "--ns",
        nargs="*",
        action="extend",
        default=[],
        metavar="NS",
        help="only these: db, db.collection, a pattern as 'app_*.logs', or a regular expression "
        "of the whole name as '/app_[0-9]+\\.logs/'; repeatable",
    )
    what.add_argument(
        "-x",
        "--exclude",
        nargs="*",
        action="extend",
        default=[],
        metavar="NS",
        help="not these (the same forms); repeatable",
    )
    what.add_argument(
        "--rename",
        nargs="*",
        action="extend",
        default=[],
        metavar="OLD=NEW",
        help="write to other databases or collections, also 'app_*=copy_*'; repeatable",
    )
    what.add_argument(
        "--users", action="store_true", help="replicate users and roles, too (default: no)"
    )


def _add_when(parser: argparse.ArgumentParser) -> None:
    when = parser.add_argument_group("when")
    when.add_argument(
        "-f", "--follow", action="store_true", help="wait for new entries until stopped"
    )
    when.add_argument(
        "-s",
        "--seconds",
        metavar="N",
        help="start N seconds back (default: where the last run ended, else 86400)",
    )
    when.add_argument(
        "-w",
        "--window",
        metavar="TIME",
        help='start that far back: "3 days", "1h30m", "24:00" (hours and minutes)',
    )
    when.add_argument(
        "--force-start",
        action="store_true",
        help="let --seconds or --window override the destination's checkpoint; go on after a "
        "cut-over",
    )
    when.add_argument(
        "--resume-file",
        default=_RESUME_FILE,
        metavar="FILE",
        help=f"keep the position there, too (default: {_RESUME_FILE}; 'none' for no file)",
    )


def parse(argv: Sequence[str], program: str = _OPLOG) -> Arguments:
    """
    Read a command line.

    @param argv: without the program's name.
    @param program: what C{--help} calls it.

    @raise ArgumentsError: it cannot be used.
    @raise SystemExit: C{--help} or C{--version} was given and is printed.
    """
    try:
        return _arguments(_parser(program).read(argv))
    except (ArgumentsError, SelectionError) as error:
        # A URI in the wrong place is shown, too, by argparse among others.
        raise ArgumentsError(_redacted_sentence(str(error))) from None


def parse_verify(argv: Sequence[str]) -> Arguments:
    """
    Read the command line of C{python -m txmongokit.oplog verify}.

    @param argv: what stands behind C{verify}.

    @raise ArgumentsError: it cannot be used.
    @raise SystemExit: C{--help} or C{--version} was given and is printed.
    """
    parser = _part_of_parser(
        "verify",
        "Compare a source and its copy while both move, range by range: documents, collections, "
        "indexes and views. Exit status 1 if anything differs.",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--generations",
        default="5",
        metavar="N",
        help="look N times at what differs, each time after the replication has passed (default: "
        "5; at least 2)",
    )
    how.add_argument(
        "--settle",
        default="30",
        metavar="SECONDS",
        help="wait so long for a replication that stands still (default: 30)",
    )
    _add_patience(how)
    given, arguments = _parse_part(parser, argv)
    return replace(
        arguments,
        generations=int(_number(given.generations, "--generations", 2)),
        settle=_number(given.settle, "--settle", 0),
    )


def parse_reverse(argv: Sequence[str]) -> Arguments:
    """
    Read the command line of C{python -m txmongokit.oplog reverse}.

    @param argv: what stands behind C{reverse}: where and what as in the
        forward direction.

    @raise ArgumentsError: it cannot be used.
    @raise SystemExit: C{--help} or C{--version} was given and is printed.
    """
    parser = _part_of_parser(
        "reverse",
        "After a cut-over: store in the former source where a replication of the other direction "
        "begins. Takes the --from, --to and selection of the forward direction.",
    )
    return _parse_part(parser, argv)[1]


def _part_of_parser(name: str, description: str) -> _Parser:
    parser = _Parser(
        prog=f"{_OPLOG} {name}", add_help=False, allow_abbrev=False, description=description
    )
    _add_where(parser)
    _add_what(parser)
    _add_log(parser.add_argument_group("other"))
    return parser


def _parse_part(parser: _Parser, argv: Sequence[str]) -> tuple[Any, Arguments]:
    """What was given; and the rest as it is without being given."""
    try:
        given = parser.read(argv)
        found = _parser(parser.prog).read(["--from", given.source, "--resume-file", "none"])
        found.__dict__.update(vars(given))
        return given, _arguments(found)
    except (ArgumentsError, SelectionError) as error:
        raise ArgumentsError(_redacted_sentence(str(error))) from None


def _number(text: str, option: str, least: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number < _LONGEST:
        raise ArgumentsError(f"{option} {text!r} must be a number of at least {least:g}")
    return number


def _arguments(found: Any) -> Arguments:
    seconds, option = _start(found)
    database, _, collection = found.oplogns.partition(".")
    if not database or not collection:
        raise ArgumentsError(f"--oplogns {found.oplogns!r} must have the form database.collection")
    file = found.resume_file.strip()
    token = found.status_token_file
    return Arguments(
        source=_uri(found.source, "--from", None),
        destination=_uri(found.destination, "--to", _port(found.port)),
        seconds_back=seconds,
        seconds_option=option,
        follow=found.follow,
        selection=Selection(found.ns, found.exclude, found.rename, found.users),
        resume_file=None if not file or file.lower() == "none" else Path(file),
        dry_run=found.dry_run,
        oplog_namespace=found.oplogns,
        force_start=found.force_start,
        at_least_once=found.at_least_once,
        log_level=found.log_level,
        split_bytes=_split_bytes(found.split_large_transactions),
        verify=_verify(found),
        status=_status(found),
        status_token_file=None if token is None else Path(token),
        headroom_warning=_number(found.headroom_warning, "--headroom-warning", 0),
        clone=found.clone,
        clone_tasks=_clone_tasks(found, option),
        drop=found.drop,
        patience=_number(found.patience, "--patience", 0) or math.inf,
        limit=_number(found.limit, "--limit", 0) or math.inf,
        limit_bytes=_number(found.limit_bytes, "--limit-bytes", 0) or math.inf,
        lanes=_lanes(found),
    )


def _verify(found: Any) -> bool:
    if found.verify and found.dry_run:
        raise ArgumentsError("--verify and --dry-run exclude one another: give one of them")
    return bool(found.verify)


def _status(found: Any) -> str | None:
    if found.status is None:
        if found.status_token_file is not None:
            raise ArgumentsError("--status-token-file belongs to --status: give that, too")
        return None
    try:
        return listening_place(
            found.status,
            has_token=found.status_token_file is not None,
            option="--status",
            token_option="--status-token-file",
        )
    except EndpointError as error:
        raise ArgumentsError(str(error)) from None


def _clone_tasks(found: Any, start: str | None) -> int:
    """How many tasks; and whether the options fit together."""
    for option, given in (("--clone-tasks", found.clone_tasks), ("--drop", found.drop)):
        if given and not found.clone:
            raise ArgumentsError(f"{option} belongs to --clone: give that, too, or leave it out")
    if found.clone and start is not None:
        raise ArgumentsError(f"{start} contradicts --clone, which begins now: give one of them")
    if found.clone_tasks is None:
        return DEFAULT_TASKS
    text = found.clone_tasks
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 64:
        raise ArgumentsError(f"--clone-tasks {text!r} must be a number from 1 to 64")
    return int(text)


def _lanes(found: Any) -> int:
    text = found.lanes
    if text is None:
        return DEFAULT_LANES
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MOST_LANES:
        raise ArgumentsError(f"--lanes {text!r} must be a number from 1 to {MOST_LANES}")
    count = int(text)
    for option, given in (
        ("--dry-run", found.dry_run),
        ("--at-least-once", found.at_least_once),
    ):
        if given and count > 1:
            raise ArgumentsError(
                f"--lanes {text} and {option} exclude one another: lanes need transactions to "
                "write in, so give one of them"
            )
    return count


def _split_bytes(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 16 <= int(text) <= 65_536:
        raise ArgumentsError(
            f"--split-large-transactions {text!r} must be a number of megabytes, 16 or more"
        )
    return int(text) * 1024 * 1024


def _start(found: Any) -> tuple[float | None, str | None]:
    if found.seconds is not None and found.window is not None:
        raise ArgumentsError(
            f"--seconds {found.seconds!r} and --window {found.window!r} exclude one another: "
            "give one of them"
        )
    if found.seconds is not None:
        try:
            seconds = float(found.seconds)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < _LONGEST:
            raise ArgumentsError(f"--seconds {found.seconds!r} must be a number above 0")
        return seconds, "--seconds"
    if found.window is not None:
        return _window(found.window), "--window"
    return None, None


# Longer than any oplog: over 300 years.
_LONGEST = 1e10
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_UNITS = (
    (604_800, "w|wks?|weeks?"),
    (86_400, "d|dys?|days?"),
    (3_600, "h|hrs?|hours?"),
    (60, "m|mins?|minutes?"),
    (1, "s|secs?|seconds?"),
)
# Every unit at most once, the longest first.
_PARTS = [(factor, rf"(?:{_NUMBER}\s*(?:{names})\s*(?:[,/]\s*)?)?") for factor, names in _UNITS]
_SECONDS = r"(\d{2}(?:\.\d+)?)"
_FORMS = [
    (tuple(factor for factor, _ in parts) + factors, "".join(text for _, text in parts) + clock)
    for parts, factors, clock in (
        (_PARTS, (), ""),
        # "24:00" is 24 hours, as jaraco.mongodb's help says (its code takes 24 minutes).
        (_PARTS[:2], (3_600, 60), r"(\d+):(\d{2})"),
        (_PARTS[:2], (3_600, 60, 1), rf"(\d+):(\d{{2}}):{_SECONDS}"),
        ([], (86_400, 3_600, 60, 1), rf"(\d+)[:-](\d{{2}}):(\d{{2}}):{_SECONDS}"),
        ([], (60, 1), r"(\d{1,2}):(\d{2}\.\d+)"),
        ([], (1,), rf":{_SECONDS}"),
    )
]


def _window(text: str) -> float:
    """Seconds in C{3 days}, C{1h30m}, C{1 day, 2:30} or C{24:00} (hours and minutes)."""
    spoken = text.strip().removeprefix("+").strip()
    for factors, form in _FORMS:
        match = re.fullmatch(form, spoken, re.IGNORECASE | re.ASCII)
        if match is not None:
            parts = zip(factors, match.groups(), strict=True)
            seconds = sum(factor * float(part or 0) for factor, part in parts)
            if 0 < seconds < _LONGEST:
                return seconds
    raise ArgumentsError(
        f"--window {text!r} must be a time above 0 such as '3 days', '1 day, 2 hours', '1h30m', "
        "'90s' or '24:00' (hours and minutes)"
    )


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65_536:
        raise ArgumentsError(f"--port {text!r} must be a number from 1 to 65535")
    return int(text)


_ADDRESS = "a mongodb:// URI, host, host:port or set/host1,host2"


def _uri(text: str, option: str, port: int | None) -> str:
    """A connection string for C{mongodb://...}, C{host:port} or C{set/h1,h2}."""
    shown = f"{option} {redacted(text)!r}"
    if text.startswith("mongodb+srv://"):
        raise ArgumentsError(
            f"{shown} is not supported by this version: list the hosts, as in "
            "mongodb://host1,host2/?tls=true"
        )
    if text.startswith("mongodb://"):
        _check_port(text, shown, port)
        return text
    if "@" in text:
        raise ArgumentsError(f"{shown} has a user: give it as a mongodb:// URI")
    set_name, slash, hosts = text.rpartition("/")
    if "://" in text or (slash and not re.fullmatch(r"[^\s/?#&=:,]+", set_name)):
        raise ArgumentsError(f"{shown} must be {_ADDRESS}")
    named = [_host(host.strip(), shown, port) for host in hosts.split(",")]
    query = f"?replicaSet={quote_plus(set_name)}" if set_name else ""
    return f"mongodb://{','.join(named)}/{query}"


_HOST = re.compile(r"(?:\[(?P<six>[^][]+)\]|[^][\s:/?#%&=]+)(?::(?P<port>\d{1,9}))?", re.ASCII)


def _host(text: str, shown: str, port: int | None) -> str:
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # an IPv6 address without a port
    match = _HOST.fullmatch(text)
    if match is None or (match["six"] is not None and not _is_ipv6(match["six"])):
        raise ArgumentsError(f"{shown} must be {_ADDRESS}")
    own = match["port"]
    if own is not None and not 0 < int(own) < 65_536:
        raise ArgumentsError(f"{shown} has the port {own}, which must be from 1 to 65535")
    return f"{text}:{port}" if own is None and port is not None else text


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_port(uri: str, shown: str, port: int | None) -> None:
    """A URI is kept as it is: C{--port} beside it must not be ignored where it would count."""
    hosts = re.split(r"[/?]", uri.removeprefix("mongodb://").rpartition("@")[2], maxsplit=1)[0]
    bare = any(re.search(r":\d+$", host) is None for host in hosts.split(","))
    if port is not None and bare:
        raise ArgumentsError(f"--port {port} does not go into {shown}: write host:{port} there")


# A colon that is not the scheme's, up to the last "@": in a password ":", "/" and "@" are often
# not escaped.
_PASSWORD = r"(?:(?<!mongodb)(?<!srv):|:(?!//))"
_OPTION = r"((?:password|session_token)(?:=|:|%3A))"
_IN_URI = re.compile(rf"{_PASSWORD}.*@", re.DOTALL)
_IN_SENTENCE = re.compile(rf"{_PASSWORD}\S*@")
_OPTION_IN_URI = re.compile(rf"{_OPTION}[^&]*", re.IGNORECASE)
_OPTION_IN_SENTENCE = re.compile(rf"{_OPTION}[^&\s]*", re.IGNORECASE)


def redacted(uri: str) -> str:
    """
    A connection string without its secrets, for messages.

    Rather too much is taken out than too little.
    """
    return _OPTION_IN_URI.sub(r"\1***", _IN_URI.sub(":***@", uri))


def _redacted_sentence(text: str) -> str:
    """The same for a sentence with connection strings in it."""
    return _OPTION_IN_SENTENCE.sub(r"\1***", _IN_SENTENCE.sub(":***@", text))


class Options(usage.Options):
    """
    The command line as C{twistd} asks for it.

    @ivar arguments: what it asks for, once it was parsed.
    """

    synopsis = "--from URI --to URI [options]"
    arguments: Arguments

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read the part of the command line behind C{mongosync}.

        @raise SystemExit: it cannot be used, with the status 1 and the reason
            on standard error; or C{--help} or C{--version} was given.
        """
        argv = sys.argv[1:] if options is None else options
        try:
            self.arguments = parse(argv, _TWISTD)
        except ArgumentsError as error:
            # Not as a UsageError: some releases of twistd end well after one.
            print(f"{self.getUsage()}\n{_TWISTD}: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    def getUsage(self, width: int | None = None) -> str:
        """
        What is printed above the sentence about a wrong argument: the
        options in short, so that the sentence is not lost below.
        """
        return _parser(_TWISTD).format_usage()

    def __str__(self) -> str:
        return _parser(_TWISTD).format_help()
