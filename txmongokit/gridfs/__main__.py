"""
C{python -m txmongokit.gridfs}: files in and out of a bucket, and its upkeep.

The exit status is 0 where all is well; 1 where there is no such file, or one
is damaged; 2 for a mistake in the arguments or another failure; 130 where it
was interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from bson.errors import InvalidId
from bson.objectid import ObjectId
from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import PyMongoError
from txmongokit.gridfs import (
    CorruptGridFile,
    FileExists,
    GridFSBucket,
    GridFSError,
    GridIn,
    GridOut,
    NoFile,
)
from txmongokit.gridfs.upkeep import copy, damaged, orphans, remove_orphan, save

__all__ = ["Progress", "main", "run"]

_DEFAULT = "mongodb://localhost/test"
_WIDTH = 30
_STEP = 1 << 20
_FINE, _AMISS, _FAILED, _INTERRUPTED = 0, 1, 2, 130
# Rather too much than too little.
_SECRETS = re.compile(
    r"(?i)(mongodb(?:\+srv)?://)\S*@|((?:password|session_token)(?:=|:|%3a))[^&\s]*"
)


class Progress:
    """
    A bar that grows, on a terminal only.

    @param total: of bytes, or C{None} where that is unknown.
    @param stream: the terminal.
    """

    def __init__(self, label: str, total: int | None, stream: TextIO) -> None:
        self._label = label
        self._total = total
        self._stream = stream
        self._done = 0
        self._shown = -_STEP
        self._visible = stream.isatty()

    def add(self, count: int) -> None:
        """
        So many bytes more.
        """
        self._done += count
        if self._done - self._shown >= _STEP or self._done == self._total:
            self._show()

    def _show(self) -> None:
        if not self._visible:
            return
        self._shown = self._done
        text = f"{self._done / 1e6:.1f} MB"
        if self._total:
            share = min(self._done / self._total, 1.0)
            full = int(share * _WIDTH)
            text = f"[{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%} {text}"
        self._stream.write(f"\r\x1b[K{self._label} {text}")
        self._stream.flush()

    def end(self) -> None:
        """
        Leave the line.
        """
        if self._visible and self._shown >= 0:
            self._stream.write("\n")


class _Counted:
    """A file that is read, and how far."""

    def __init__(self, source: BinaryIO, progress: Progress) -> None:
        self._source = source
        self._progress = progress

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._progress.add(len(data))
        return data


def _shown(value: object) -> str:
    """Text on one line that cannot move the cursor, whoever has named the file."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in str(value)
    )


def _redacted(text: str) -> str:
    """Without passwords."""
    return _SECRETS.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _identifier(text: str) -> Any:
    """An C{ObjectId} where it is one, or else the text."""
    try:
        return ObjectId(text)
    except InvalidId:
        return text


class _Session:
    """One command on one bucket."""

    def __init__(self, database: Database, options: argparse.Namespace, reactor: Any) -> None:
        self.database = database
        # What is deleted must not depend on a secondary that is late.
        primary = None if options.command in ("get", "list") else ReadPreference.PRIMARY
        self.bucket = GridFSBucket(database, options.bucket, read_preference=primary)
        self.options = options
        self.reactor = reactor

    async def _open(self) -> GridOut:
        if self.options.id:
            return await self.bucket.open_download_stream(_identifier(self.options.name))
        revision = self.options.revision
        return await self.bucket.open_download_stream_by_name(self.options.name, revision)

    async def get(self) -> int:
        """Write a file here."""
        stream = await self._open()
        progress = Progress(_shown(self.options.name), int(stream.length), sys.stderr)
        if self.options.file == "-":
            await _save(stream, sys.stdout.buffer, progress)
            return 0
        name = self.options.file or Path(stream.filename or self.options.name).name
        if "\0" in name or name in ("", ".", ".."):
            raise OSError(f"{_shown(name)!r} is no name for a file here: give one")
        path = Path(name)
        partial = path.with_name(f".{path.name}.{ObjectId()}.part")
        try:
            # What is there under the name stays until all has come.
            with partial.open("wb") as target:
                await _save(stream, target, progress)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return 0

    async def put(self) -> int:
        """Store a file from here."""
        standard = self.options.file == "-"
        if standard and not self.options.name:
            raise OSError("standard input has no name: give one with --name")
        path = Path(self.options.file)
        name = self.options.name or path.name
        total = None if standard else path.stat().st_size
        progress = Progress(_shown(name), total, sys.stderr)
        fields = {"filename": name, "md5": self.options.md5}
        source = sys.stdin.buffer if standard else path.open("rb")
        with source:
            async with GridIn(self.database[self.options.bucket], **fields) as stream:
                await stream.write(_Counted(source, progress))
        progress.end()
        print(stream._id)
        return 0

    async def list(self) -> int:
        """Print what there is."""
        query: Mapping[str, Any] = {"filename": self.options.name} if self.options.name else {}
        await self._print(query)
        return _FINE

    async def _print(self, query: Mapping[str, Any]) -> int:
        count = 0
        async for file in self.bucket.find(query, sort=[("filename", 1), ("uploadDate", 1)]):
            date = f"{file.upload_date:%Y-%m-%d %H:%M:%S}" if file.upload_date else "-"
            print(f"{_shown(file._id)}\t{file.length}\t{date}\t{_shown(file.filename)}")
            count += 1
        return count

    async def delete(self) -> int:
        """Delete a file, or all of a name."""
        name = self.options.name
        if self.options.dry_run:
            field = {"_id": _identifier(name)} if self.options.id else {"filename": name}
            return _FINE if await self._print(field) else _AMISS
        if self.options.id:
            await self.bucket.delete(_identifier(name))
        else:
            await self.bucket.delete_by_name(name)
        return _FINE

    async def check(self) -> int:
        """Print what is damaged, and what belongs to no file."""
        found = await self._damaged(None) + await self._orphans(None)
        return _AMISS if found else _FINE

    async def repair(self) -> int:
        """Remove it, too."""
        if self.options.dry_run:
            return await self.check()
        options = self.options
        saved = "" if options.no_backup else options.backup or f"{options.bucket}-saved"
        if saved == options.bucket:
            raise OSError("what is removed cannot be saved in the same bucket")
        count = await self._damaged(saved) + await self._orphans(saved)
        if count and saved:
            _say(f"what was removed is in the bucket {saved}")
        return _FINE

    async def _damaged(self, saved: str | None) -> int:
        """
        @param saved: remove damaged files after they were saved in the bucket
            of that name, or without that where it is empty.
        """
        progress = Progress("check", None, sys.stderr)
        database, bucket = self.database, self.options.bucket
        count = 0
        files = self.bucket.find(no_cursor_timeout=True)
        async for file, error in damaged(database, bucket, files, progress.add, self.options.depth):
            count += 1
            print(f"{_shown(file._id)}\t{_shown(file.filename)}\t{_shown(error)}")
            if saved:
                await save(database, bucket, file._id, saved)
            if saved is not None:
                await self.bucket.delete(file._id)
        progress.end()
        _say(f"{count} damaged{', removed' if saved is not None and count else ''}")
        return count

    async def _orphans(self, saved: str | None) -> int:
        """The same for chunks without files, as far as they are old enough."""
        database, bucket = self.database, self.options.bucket
        age = datetime.timedelta(hours=self.options.grace)
        count = young = 0
        async for orphan in orphans(database, bucket):
            if not orphan.older_than(age):
                young += 1
                continue
            count += 1
            print(f"{_shown(orphan.file_id)}\t\t{orphan.chunks} chunks without a file")
            if saved:
                await save(database, bucket, orphan.file_id, saved)
            if saved is not None:
                await remove_orphan(database, bucket, orphan)
        done = ", removed" if saved is not None and count else ""
        _say(f"{count} without a file{done}; {young} too young, which may be uploads under way")
        return count

    async def move(self) -> int:
        """Copy files to another database, and delete them here where asked."""
        options = self.options
        query: dict[str, Any] = {}
        if options.include:
            query["filename"] = {"$regex": options.include}
        if options.before:
            query["uploadDate"] = {"$lt": options.before}
        if options.dry_run:
            _say(f"{await self._print(query)} to be copied")
            return _FINE
        if not options.destination:
            raise OSError("there is no destination: give a URI, or set MONGODB_DESTINATION_URI")
        pool = ConnectionPool(options.destination, reactor=self.reactor)
        moved = skipped = amiss = 0
        progress = Progress("move", None, sys.stderr)
        try:
            target = pool.get_default_database()
            bucket = options.destination_bucket or options.bucket
            async for file in self.bucket.find(query, no_cursor_timeout=True, limit=options.limit):
                try:
                    await copy(file, target, bucket, progress.add)
                except FileExists:
                    # Copied before: nothing says that it is the same one, so it stays here, too.
                    skipped += 1
                    continue
                except CorruptGridFile as error:
                    amiss += 1
                    _say(f"{_shown(file._id)}\t{_shown(file.filename)}\t{_shown(error)}")
                    continue
                if options.delete:
                    await self.bucket.delete(file._id)
                moved += 1
        finally:
            progress.end()
            await pool.disconnect()
        _say(f"{moved} copied, {skipped} skipped (they are there already)")
        return _AMISS if amiss else _FINE


async def _save(stream: GridOut, target: BinaryIO, progress: Progress) -> None:
    async with stream:
        while data := await stream.readchunk():
            target.write(data)
            progress.add(len(data))
    progress.end()


class _Parser(argparse.ArgumentParser):
    """A parser that does not repeat passwords."""

    def error(self, message: str) -> NoReturn:
        """See the base class."""
        super().error(_redacted(message))


def _date(text: str) -> datetime.datetime:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-12-31") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=datetime.UTC)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="txmongokit.gridfs", description="Files in GridFS.")
    parser.add_argument(
        "--db",
        default=os.environ.get("MONGODB_URI", _DEFAULT),
        help=f"URI with a database ({_DEFAULT}); $MONGODB_URI keeps its password to itself",
    )
    parser.add_argument("--bucket", default="fs", help="the bucket's name (fs)")
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("get", help="write a file here")
    get.add_argument("name")
    get.add_argument("file", nargs="?", help="where to; - for standard output (its own name)")
    get.add_argument("--id", action="store_true", help="NAME is an id")
    get.add_argument("--revision", type=int, default=-1, help="0 the oldest, -1 the newest (-1)")
    put = commands.add_parser("put", help="store a file; prints its id")
    put.add_argument("file", help="- for standard input")
    put.add_argument("--name", help="instead of the file's own")
    put.add_argument("--md5", action="store_true", help="with the sum of its content")
    listed = commands.add_parser("list", help="id, length, date and name of files")
    listed.add_argument("name", nargs="?", help="only of this name")
    delete = commands.add_parser("delete", help="delete all files of a name, or one")
    delete.add_argument("name")
    delete.add_argument("--id", action="store_true", help="NAME is an id")
    _add_dry_run(delete)
    _add_upkeep(commands)
    _add_move(commands)
    return parser


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _add_upkeep(commands: Any) -> None:
    check = commands.add_parser(
        "check", help="print damaged files and chunks without a file; status 1 if there are any"
    )
    repair = commands.add_parser("repair", help="remove what check finds, after saving it")
    for parser in (check, repair):
        parser.add_argument(
            "--depth", type=_count, default=-1, help="read so many bytes of each file (all)"
        )
        parser.add_argument(
            "--grace",
            type=_count,
            default=24,
            metavar="HOURS",
            help="leave younger chunks without a file, which may be uploads under way (24); "
            "0 if there are none",
        )
    repair.add_argument("--backup", metavar="BUCKET", help="where to save it (BUCKET-saved)")
    repair.add_argument("--no-backup", action="store_true", help="do not save it")
    _add_dry_run(repair)


def _add_move(commands: Any) -> None:
    move = commands.add_parser("move", help="copy files to another database")
    move.add_argument(
        "destination",
        nargs="?",
        default=os.environ.get("MONGODB_DESTINATION_URI"),
        help="URI with a database ($MONGODB_DESTINATION_URI)",
    )
    move.add_argument("--destination-bucket", help="the bucket's name there (the same)")
    move.add_argument("--delete", action="store_true", help="delete here what was copied")
    move.add_argument("--include", metavar="REGEX", help="only files whose names match")
    move.add_argument("--before", type=_date, help="only files uploaded before (2026-12-31)")
    move.add_argument("--limit", type=_count, default=0, help="no more than so many files")
    _add_dry_run(move)


async def run(reactor: Any, arguments: Sequence[str]) -> int:
    """
    Do what a command line says.

    @return: the exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        pool = ConnectionPool(options.db, reactor=reactor)
        try:
            session = _Session(pool.get_default_database(), options, reactor)
            command: Callable[[], Awaitable[int]] = getattr(session, options.command)
            return await command()
        finally:
            await pool.disconnect()
    except (GridFSError, PyMongoError, OSError) as error:
        told = f"{type(error).__name__}: {error}"
        amiss = isinstance(error, (NoFile, CorruptGridFile))
        _say(f"txmongokit.gridfs: {_redacted(str(error) if amiss else told)}")
    return _AMISS if amiss else _FAILED


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command, then exit.  An interrupt ends it in order: an upload that
    was under way leaves nothing.

    @param arguments: without the program's name.
    """
    given = sys.argv[1:] if arguments is None else arguments
    _parser().parse_args(given)  # What is wrong with them is said before anything starts.

    def begin(reactor: Any) -> Deferred[Any]:
        work = Deferred.fromCoroutine(run(reactor, given))
        ended: Deferred[None] = Deferred()

        def end(result: Any) -> Any:
            ended.callback(None)
            return result

        def stop() -> Deferred[None]:
            work.cancel()
            return ended

        work.addBoth(end)
        reactor.addSystemEventTrigger("before", "shutdown", stop)
        return work.addCallbacks(_leave, _interrupted)

    react(begin)


def _leave(status: int) -> None:
    if status:
        raise SystemExit(status)


def _interrupted(failure: Any) -> None:
    failure.trap(CancelledError)
    raise SystemExit(_INTERRUPTED)


if __name__ == "__main__":
    main()
