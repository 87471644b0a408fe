"""
The command line, the same for C{twistd mongosync} and
C{python -m txmongokit.oplog}.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from twisted.python import usage

from txmongokit.replicator.selection import Selection, SelectionError

__all__ = ["Arguments", "ArgumentsError", "Options", "parse", "redacted"]

_DEFAULT_PORT = 27017
_RESUME_FILE = "mongooplog.ts"
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
    @ivar resume_file: C{None} where there is none.
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


class _Parser(argparse.ArgumentParser):
    """Raises what it would print and exit with."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(f"{message}; --help lists the options")


def _own_version() -> str:
    try:
        return version("txmongokit")
    except PackageNotFoundError:
        return "unknown"  # used from a checkout


def _parser(program: str) -> argparse.ArgumentParser:
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
        "-l",
        "--log-level",
        default="info",
        type=str.lower,
        choices=_LEVELS,
        metavar="LEVEL",
        help=f"{', '.join(_LEVELS)} (default: info; twistd has logging options of its own)",
    )
    other.add_argument("--version", action="version", version=f"txmongokit {_own_version()}")
    other.add_argument("--help", action="help", help="show this text")


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what")
    what.add_argument(
        "--ns",
        nargs="*",
        action="extend",
        default=[],
        metavar="NS",
        help="only these databases and collections (db or db.collection); repeatable",
    )
    what.add_argument(
        "-x",
        "--exclude",
        nargs="*",
        action="extend",
        default=[],
        metavar="NS",
        help="not these databases and collections; repeatable",
    )
    what.add_argument(
        "--rename",
        nargs="*",
        action="extend",
        default=[],
        metavar="OLD=NEW",
        help="write to other databases or collections; repeatable",
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
        "-w", "--window", metavar="TIME", help='start that far back: "3 days", "24:00", "1h30m"'
    )
    when.add_argument(
        "--force-start",
        action="store_true",
        help="let --seconds or --window override the destination's checkpoint",
    )
    when.add_argument(
        "--resume-file",
        default=_RESUME_FILE,
        metavar="FILE",
        help=f"keep the position there, too (default: {_RESUME_FILE}; 'none' for no file)",
    )


def parse(argv: Sequence[str], program: str = "python -m txmongokit.oplog") -> Arguments:
    """
    Read a command line.

    @param argv: without the program's name.

    @raise ArgumentsError: it cannot be used.
    @raise SystemExit: C{--help} or C{--version} was given and is printed.
    """
    found = _parser(program).parse_args(list(argv))
    seconds, option = _start(found)
    try:
        selection = Selection(found.ns, found.exclude, found.rename)
    except SelectionError as error:
        raise ArgumentsError(str(error)) from None
    database, _, collection = found.oplogns.partition(".")
    if not database or not collection:
        raise ArgumentsError(f"--oplogns {found.oplogns!r} must have the form database.collection")
    file = found.resume_file
    return Arguments(
        source=_uri(found.source, "--from", None),
        destination=_uri(found.destination, "--to", _port(found.port)),
        seconds_back=seconds,
        seconds_option=option,
        follow=found.follow,
        selection=selection,
        resume_file=None if not file or file.lower() == "none" else Path(file),
        dry_run=found.dry_run,
        oplog_namespace=found.oplogns,
        force_start=found.force_start,
        at_least_once=found.at_least_once,
        log_level=found.log_level,
    )


def _start(found: Any) -> tuple[float | None, str | None]:
    if found.seconds is not None and found.window is not None:
        raise ArgumentsError("--seconds and --window exclude one another: give one of them")
    if found.seconds is not None:
        try:
            seconds = float(found.seconds)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 1e10:
            raise ArgumentsError(f"--seconds {found.seconds!r} must be a number above 0")
        return seconds, "--seconds"
    if found.window is not None:
        return _window(found.window), "--window"
    return None, None


_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s*"
    r"(w|weeks?|wks?|d|days?|h|hours?|hrs?|hr|m|mins?|minutes?|s|secs?|seconds?)\s*,?\s*",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\s*(\d+):(\d\d)(?::(\d\d(?:\.\d+)?))?\s*")


def _window(text: str) -> float:
    """Seconds in C{3 days}, C{1h30m}, C{1 day, 2:30} or C{24:00} (hours and minutes)."""
    rest, seconds, matched = text, 0.0, False
    while (part := _PART.match(rest)) is not None:
        seconds += float(part[1]) * _UNITS[part[2][0].lower()]
        rest, matched = rest[part.end() :], True
    clock = _CLOCK.fullmatch(rest)
    if clock is not None:
        seconds += int(clock[1]) * 3_600 + int(clock[2]) * 60 + float(clock[3] or 0)
        rest, matched = "", True
    if rest.strip() and re.fullmatch(r"\s*\d+(\.\d+)?\s*", rest) and not matched:
        seconds, rest, matched = float(rest), "", True
    if rest.strip() or not matched or not 0 < seconds < 1e10:
        raise ArgumentsError(
            f"--window {text!r} must be a time such as '3 days', '24:00' (hours and minutes), "
            "'1h30m' or '90s'"
        )
    return seconds


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65_536:
        raise ArgumentsError(f"--port {text!r} must be a number from 1 to 65535")
    return int(text)


def _uri(text: str, option: str, port: int | None) -> str:
    """A connection string for C{mongodb://...}, C{host:port} or C{set/h1,h2}."""
    if text.startswith("mongodb+srv://"):
        raise ArgumentsError(
            f"{option}: mongodb+srv:// is not supported by this version: list the hosts"
        )
    if text.startswith("mongodb://"):
        return text
    if "://" in text or not text:
        raise ArgumentsError(
            f"{option} {redacted(text)!r} must be a mongodb:// URI, host:port or set/host1,host2"
        )
    set_name, slash, hosts = text.rpartition("/")
    if slash and not (set_name and hosts):
        raise ArgumentsError(f"{option} {redacted(text)!r} must have the form set/host1,host2")
    named = [_with_port(host, port) for host in hosts.split(",")]
    query = f"?replicaSet={set_name}" if set_name else ""
    return f"mongodb://{','.join(named)}/{query}"


def _with_port(host: str, port: int | None) -> str:
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    if port is not None and re.search(r":\d+$", host.rpartition("]")[2]) is None:
        return f"{host}:{port}"
    return host


_USERINFO = re.compile(r"^((?:[a-z+]+://)?)([^/@:]*):(.*)@")
_SECRETS = re.compile(r"((?:password|session_token|AWS_SESSION_TOKEN)[=:])[^&,]*", re.IGNORECASE)


def redacted(uri: str) -> str:
    """
    A connection string without its secrets, for messages.
    """
    hidden = _USERINFO.sub(r"\1\2:***@", uri)
    return _SECRETS.sub(r"\1***", hidden)


class Options(usage.Options):
    """
    The command line as C{twistd} asks for it.

    @ivar arguments: what it asks for, once it was parsed.
    """

    synopsis = "Usage: twistd [twistd's options] mongosync --from URI --to URI [options]"
    arguments: Arguments

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read the part of the command line behind C{mongosync}.

        @raise usage.UsageError: it cannot be used.
        @raise SystemExit: C{--help} or C{--version} was given.
        """
        argv = sys.argv[1:] if options is None else options
        try:
            self.arguments = parse(argv, "twistd mongosync")
        except ArgumentsError as error:
            raise usage.UsageError(str(error)) from None

    def getUsage(self, width: int | None = None) -> str:
        """
        What C{--help} prints.
        """
        return _parser("twistd mongosync").format_help()

    def __str__(self) -> str:
        return self.getUsage()
