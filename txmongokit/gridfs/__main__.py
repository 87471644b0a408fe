"""
C{python -m txmongokit.gridfs}: files in and out of a bucket, and its upkeep.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from bson.errors import InvalidId
from bson.objectid import ObjectId
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txmongokit.connection import ConnectionPool
from txmongokit.database import Database
from txmongokit.errors import PyMongoError
from txmongokit.gridfs import FileExists, GridFSBucket, GridFSError, GridIn, GridOut, NoFile
from txmongokit.gridfs.upkeep import copy, damaged

__all__ = ["Progress", "main", "run"]

_WIDTH = 30
_STEP = 1 << 20


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
        self.bucket = GridFSBucket(database, options.bucket)
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
        progress = Progress(self.options.name, int(stream.length), sys.stderr)
        if self.options.file == "-":
            await _save(stream, sys.stdout.buffer, progress)
            return 0
        path = Path(self.options.file or Path(stream.filename or self.options.name).name)
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
        progress = Progress(name, total, sys.stderr)
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
        async for file in self.bucket.find(query, sort=[("filename", 1), ("uploadDate", 1)]):
            date = f"{file.upload_date:%Y-%m-%d %H:%M:%S}" if file.upload_date else "-"
            print(f"{file._id}\t{file.length}\t{date}\t{file.filename}")
        return 0

    async def delete(self) -> int:
        """Delete a file, or all of a name."""
        if self.options.id:
            await self.bucket.delete(_identifier(self.options.name))
        else:
            await self.bucket.delete_by_name(self.options.name)
        return 0

    async def check(self) -> int:
        """Print which files are damaged."""
        return 1 if await self._damaged(repair=False) else 0

    async def repair(self) -> int:
        """Delete those files."""
        await self._damaged(repair=True)
        return 0

    async def _damaged(self, *, repair: bool) -> int:
        progress = Progress("check", None, sys.stderr)
        count = 0
        files = self.bucket.find(no_cursor_timeout=True)
        async for file, error in damaged(files, progress.add):
            count += 1
            print(f"{file._id}\t{file.filename}\t{error}")
            if repair:
                await self.bucket.delete(file._id)
        progress.end()
        print(f"{count} damaged{', deleted' if repair and count else ''}", file=sys.stderr)
        return count

    async def move(self) -> int:
        """Copy files to another database, and delete them here where asked."""
        pool = ConnectionPool(self.options.destination, reactor=self.reactor)
        moved = skipped = 0
        progress = Progress("move", None, sys.stderr)
        try:
            target = pool.get_default_database()
            bucket = self.options.destination_bucket or self.options.bucket
            async for file in self.bucket.find(no_cursor_timeout=True, limit=self.options.limit):
                try:
                    await copy(file, target, bucket, progress.add)
                except FileExists:
                    # Copied before: nothing says that it is the same one, so it stays here, too.
                    skipped += 1
                    continue
                if self.options.delete:
                    await self.bucket.delete(file._id)
                moved += 1
        finally:
            progress.end()
            await pool.disconnect()
        print(f"{moved} copied, {skipped} skipped (they are there already)", file=sys.stderr)
        return 0


async def _save(stream: GridOut, target: BinaryIO, progress: Progress) -> None:
    async with stream:
        while data := await stream.readchunk():
            target.write(data)
            progress.add(len(data))
    progress.end()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="txmongokit.gridfs", description="Files in GridFS.")
    default = "mongodb://localhost/test"
    parser.add_argument("--db", default=default, help=f"URI with a database ({default})")
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
    commands.add_parser("check", help="read all files and print the damaged ones; 1 if any")
    commands.add_parser("repair", help="delete the damaged files, after printing them")
    move = commands.add_parser("move", help="copy all files to another database")
    move.add_argument("destination", help="URI with a database")
    move.add_argument("--destination-bucket", help="the bucket's name there (the same)")
    move.add_argument("--delete", action="store_true", help="delete here what was copied")
    move.add_argument("--limit", type=int, default=0, help="no more than so many files")
    return parser


async def run(reactor: Any, arguments: Sequence[str]) -> int:
    """
    Do what a command line says.

    @return: the exit status: 0, or 1 where something failed or is damaged.
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
    except NoFile as error:
        print(f"txmongokit.gridfs: {error}", file=sys.stderr)
    except (GridFSError, PyMongoError, OSError) as error:
        print(f"txmongokit.gridfs: {type(error).__name__}: {error}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command, then exit.

    @param arguments: without the program's name.
    """
    given = sys.argv[1:] if arguments is None else arguments
    _parser().parse_args(given)  # What is wrong with them is said before anything starts.

    def begin(reactor: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(run(reactor, given)).addCallback(_leave)

    react(begin)


def _leave(status: int) -> None:
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
