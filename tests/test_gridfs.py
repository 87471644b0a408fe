"""
Tests for L{txmongokit.gridfs}.
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable
from typing import Any

import bson
from bson import ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

import txmongokit.gridfs.upload
from tests.fakes import FakeRunner, cursor_reply
from txmongokit.database import Database
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    CursorNotFound,
    ExecutionTimeout,
    InvalidOperation,
)
from txmongokit.gridfs import CorruptGridFile, FileExists, GridFSBucket, GridIn, GridOut, NoFile
from txmongokit.sessions import ClientSession

FILE = {"_id": 1, "length": 10, "chunkSize": 4, "filename": "f", "metadata": {"a": 1}}
DONE = {"n": 1, "ok": 1.0}
DUPLICATE = {"n": 0, "ok": 1.0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000"}]}
KNOWN = cursor_reply([{"_id": 0}])
"""That there are files, so that nobody looks for indexes."""


def bucket(runner: FakeRunner, **options: Any) -> GridFSBucket:
    """The bucket that all tests use."""
    return GridFSBucket(Database(runner, "db"), **options)


def chunk(number: int, data: bytes) -> dict[str, Any]:
    """One chunk's document."""
    return {"_id": ObjectId(), "files_id": 1, "n": number, "data": data}


CHUNKS = [chunk(0, b"0123"), chunk(1, b"4\n67"), chunk(2, b"89")]


class IdentifierTests(SynchronousTestCase):
    """
    Ids from outside are values.
    """

    def filters(self, identifier: Any) -> list[Any]:
        """The conditions on ids that delete, rename and open send."""
        runner = FakeRunner(DONE, DONE, {"n": 1, "nModified": 1, "ok": 1}, cursor_reply([]))
        files = bucket(runner)
        self.successResultOf(files.delete(identifier))
        self.successResultOf(files.rename(identifier, "g"))
        self.failureResultOf(files.open_download_stream(identifier), NoFile)
        return [
            runner.statements(0)[0]["q"]["_id"],
            runner.statements(1)[0]["q"]["files_id"],
            runner.statements(2)[0]["q"]["_id"],
            runner.bodies[3]["filter"]["_id"],
        ]

    def test_plain(self) -> None:
        """Ids of plain types are sent as they are."""
        for identifier in (ObjectId(), "a", 5, 1.5):
            self.assertEqual(self.filters(identifier), [identifier] * 4)

    def test_operators(self) -> None:
        """A document is no operator, and neither is a pattern."""
        self.assertEqual(self.filters({"$ne": 0}), [{"$eq": {"$ne": 0}}] * 4)
        self.assertIn("$eq", self.filters(re.compile("."))[0])

    def test_names(self) -> None:
        """Names that are no strings are refused at once."""
        files = bucket(FakeRunner())
        for call in (
            lambda: files.delete_by_name({"$ne": 0}),  # type: ignore[arg-type]  # the mistake
            lambda: files.rename_by_name("a", None),  # type: ignore[arg-type]  # the mistake
            lambda: files.rename(1, 5),  # type: ignore[arg-type]  # the mistake
            lambda: files.open_download_stream_by_name({}),  # type: ignore[arg-type]  # likewise
            lambda: files.open_upload_stream(b"a"),  # type: ignore[arg-type]  # likewise
        ):
            self.assertRaises(TypeError, call)


class UploadTests(SynchronousTestCase):
    """
    Uploads.
    """

    def test_whole(self) -> None:
        """Chunks of equal size first, then the file's document."""
        runner = FakeRunner(KNOWN, DONE, DONE)
        stored = bucket(runner, chunk_size_bytes=4).upload_from_stream(
            "f", b"0123456789", metadata={"a": 1}
        )
        identifier = self.successResultOf(stored)
        chunks, files = runner.statements(1), runner.statements(2)
        self.assertEqual([piece["data"] for piece in chunks], [b"0123", b"4567", b"89"])
        self.assertEqual([piece["n"] for piece in chunks], [0, 1, 2])
        self.assertEqual({piece["files_id"] for piece in chunks}, {identifier})
        self.assertEqual(runner.bodies[2]["insert"], "fs.files")
        del files[0]["uploadDate"]
        self.assertEqual(
            files,
            [
                {
                    "_id": identifier,
                    "filename": "f",
                    "chunkSize": 4,
                    "metadata": {"a": 1},
                    "length": 10,
                }
            ],
        )
        raw = runner.requests[2].sequences[0][1][0]
        self.assertIn(b"\x12length\x00", raw)

    def test_empty(self) -> None:
        """An empty file has a document and no chunks."""
        runner = FakeRunner(KNOWN, DONE)
        self.successResultOf(bucket(runner).upload_from_stream("f", b""))
        self.assertEqual(runner.names, ["find", "insert"])
        self.assertEqual(runner.statements(1)[0]["length"], 0)

    def test_pieces(self) -> None:
        """However it is written, chunks come out the same."""
        for pieces in ([b"01", b"2345678", b"9"], [b"0123456", b"", b"789"], [b"0123", b"456789"]):
            runner = FakeRunner(KNOWN, DONE, DONE)
            stream = bucket(runner, chunk_size_bytes=4).open_upload_stream("f")
            self.successResultOf(stream.writelines(pieces))
            self.assertEqual(stream.tell(), 10)
            self.successResultOf(stream.close())
            data = [piece["data"] for piece in runner.statements(1)]
            self.assertEqual(data, [b"0123", b"4567", b"89"])
            self.assertEqual((stream.length, stream.closed), (10, True))

    def test_sources(self) -> None:
        """Files, and what reads at some later time, are read to their end."""

        class Later:
            """Reads by Deferreds."""

            def __init__(self) -> None:
                self.source = io.BytesIO(b"0123456789")
                self.waiting: Deferred[bytes] | None = None

            def read(self, size: int) -> Deferred[bytes]:
                self.waiting = Deferred()
                self.size = size
                return self.waiting

            def answer(self) -> None:
                assert self.waiting is not None
                self.waiting.callback(self.source.read(min(self.size, 3)))

        runner = FakeRunner(KNOWN, DONE, DONE)
        files = bucket(runner, chunk_size_bytes=4)
        self.successResultOf(files.upload_from_stream("f", io.BytesIO(b"0123456789")))
        self.assertEqual(len(runner.statements(1)), 3)
        runner.replies.extend([DONE, DONE])
        source = Later()
        stored = files.upload_from_stream_with_id(5, "f", source)
        while not stored.called:
            source.answer()
        self.assertIsNone(self.successResultOf(stored))
        self.assertEqual(b"".join(c["data"] for c in runner.statements(3)), b"0123456789")

    def test_indexes(self) -> None:
        """The first write of a bucket makes the indexes that an empty one lacks."""
        known = {"v": 2, "key": {"filename": 1.0, "uploadDate": 1}, "name": "by_name"}
        runner = FakeRunner(
            cursor_reply([]), cursor_reply([known]), cursor_reply([]), {"ok": 1}, DONE, DONE
        )
        files = bucket(runner)
        self.successResultOf(files.upload_from_stream("f", b"x"))
        self.assertEqual(
            runner.names,
            ["find", "listIndexes", "listIndexes", "createIndexes", "insert", "insert"],
        )
        created = runner.bodies[3]
        self.assertEqual(created["createIndexes"], "fs.chunks")
        self.assertEqual(created["indexes"][0]["key"], {"files_id": 1, "n": 1})
        self.assertTrue(created["indexes"][0]["unique"])
        runner.replies.extend([DONE, DONE])
        self.successResultOf(files.upload_from_stream("f", b"x"))
        self.assertEqual(runner.names[6:], ["insert", "insert"])

    def test_source_fails(self) -> None:
        """A source's error is passed on; nothing is published and its chunks go."""

        class Broken:
            """Fails after two chunks."""

            left = 2

            def read(self, size: int) -> bytes:
                self.left -= 1
                if self.left < 0:
                    raise OSError("gone")
                return b"x" * size

        runner = FakeRunner(KNOWN, DONE, DONE)
        self.patch_batch(1)
        stored = bucket(runner, chunk_size_bytes=4).upload_from_stream("f", Broken())
        self.failureResultOf(stored, OSError)
        self.assertEqual(runner.names, ["find", "insert", "insert", "delete"])
        removed = runner.statements(3)[0]
        self.assertEqual(removed["q"]["n"], {"$lt": 2})
        self.assertEqual(removed["q"]["files_id"], runner.statements(1)[0]["files_id"])

    def patch_batch(self, chunks: int) -> None:
        """Send after as many chunks."""
        self.patch(txmongokit.gridfs.upload, "_UPLOAD_CHUNKS", chunks)

    def test_exists(self) -> None:
        """An id that is taken is FileExists, and the other file's chunks stay."""
        runner = FakeRunner(KNOWN, DUPLICATE, {"n": 0, "ok": 1})
        stored = bucket(runner).upload_from_stream_with_id("i", "f", b"x")
        self.failureResultOf(stored, FileExists)
        self.assertEqual(runner.names, ["find", "insert", "delete"])
        ours = runner.statements(1)[0]["_id"]
        self.assertEqual(runner.statements(2)[0]["q"], {"_id": {"$in": [ours]}})

    def test_exists_empty(self) -> None:
        """So it is where the other file has no chunks: only ours are removed."""
        runner = FakeRunner(KNOWN, DONE, DUPLICATE, DONE)
        stored = bucket(runner).upload_from_stream_with_id("i", "f", b"x")
        self.failureResultOf(stored, FileExists)
        self.assertEqual(runner.bodies[3]["delete"], "fs.chunks")
        self.assertEqual(len(runner.commands), 4)

    def test_unreachable(self) -> None:
        """Nothing more is sent to a server that cannot be reached."""
        runner = FakeRunner(KNOWN, AutoReconnect("gone"))
        stream = bucket(runner).open_upload_stream("f")
        self.successResultOf(stream.write(b"x"))
        self.failureResultOf(stream.close(), AutoReconnect)
        self.assertEqual(len(runner.commands), 2)
        self.assertTrue(stream.closed)
        self.assertIsNone(self.successResultOf(stream.close()))
        self.assertRaises(ValueError, stream.write, b"x")

    def test_outcome_unknown(self) -> None:
        """A document that may have got there is removed, but no other of that id."""
        runner = FakeRunner(KNOWN, DONE, ExecutionTimeout("late", 50), DONE, DONE)
        stored = bucket(runner).upload_from_stream_with_id("i", "f", b"x")
        self.failureResultOf(stored, ExecutionTimeout)
        self.assertEqual(runner.bodies[3]["delete"], "fs.files")
        self.assertEqual(set(runner.statements(3)[0]["q"]), {"_id", "uploadDate", "length"})
        self.assertEqual(runner.bodies[4]["delete"], "fs.chunks")

    def test_cancel(self) -> None:
        """A cancelled upload waits for the insert under way and removes it."""
        inserted: Deferred[dict[str, Any]] = Deferred()
        runner = FakeRunner(KNOWN, inserted, DONE)
        stored = bucket(runner).upload_from_stream("f", b"x")
        stored.cancel()
        self.assertNoResult(stored)
        inserted.callback(DONE)
        self.failureResultOf(stored, CancelledError)
        self.assertEqual(runner.names, ["find", "insert", "delete"])

    def test_back_pressure(self) -> None:
        """One insert is under way while another is gathered, and no more."""
        self.patch_batch(2)
        first: Deferred[dict[str, Any]] = Deferred()
        runner = FakeRunner(KNOWN, first, DONE, DONE)
        stream = bucket(runner, chunk_size_bytes=1).open_upload_stream("f")
        self.successResultOf(stream.write(b"abc"))
        waiting = stream.write(b"d")
        self.assertNoResult(waiting)
        self.assertRaises(InvalidOperation, stream.write, b"e")
        first.callback(DONE)
        self.successResultOf(waiting)
        self.assertEqual(len(runner.statements(2)), 2)
        self.successResultOf(stream.close())

    def test_late_failure(self) -> None:
        """What the insert under way came to is told by the next call."""
        self.patch_batch(1)
        first: Deferred[dict[str, Any]] = Deferred()
        runner = FakeRunner(KNOWN, first, DONE)
        stream = bucket(runner, chunk_size_bytes=1).open_upload_stream("f")
        self.successResultOf(stream.write(b"a"))
        first.callback(DUPLICATE)
        self.failureResultOf(stream.write(b"b"), FileExists)

    def test_abort(self) -> None:
        """Aborting removes what was sent; before anything was, it sends nothing."""
        self.patch_batch(1)
        runner = FakeRunner(KNOWN, DONE, DONE)
        files = bucket(runner, chunk_size_bytes=1)
        stream = files.open_upload_stream("f")
        self.successResultOf(stream.write(b"a"))
        self.successResultOf(stream.abort())
        self.assertEqual(runner.names, ["find", "insert", "delete"])
        self.successResultOf(stream.abort())
        self.successResultOf(files.open_upload_stream("f").abort())
        self.assertEqual(len(runner.commands), 3)

    def test_attributes(self) -> None:
        """Attributes are fields of the document; some are not for setting."""
        runner = FakeRunner(KNOWN, DONE, {"n": 1, "nModified": 1, "ok": 1})
        stream = bucket(runner).open_upload_stream("f")
        stream.metadata = {"b": 2}
        stream.content_type = "text/plain"
        self.successResultOf(stream.set("name", "g"))
        self.assertRaises(AttributeError, setattr, stream, "length", 5)
        self.assertRaises(AttributeError, setattr, stream, "_id", 5)
        self.assertRaises(AttributeError, getattr, stream, "length")
        self.successResultOf(stream.close())
        written = runner.statements(1)[0]
        self.assertEqual(
            (written["filename"], written["metadata"], written["contentType"]),
            ("g", {"b": 2}, "text/plain"),
        )
        self.assertRaises(InvalidOperation, setattr, stream, "metadata", {})
        self.successResultOf(stream.set("metadata", {}))
        self.assertEqual(runner.statements(2)[0]["u"], {"$set": {"metadata": {}}})
        runner = FakeRunner(KNOWN, DONE, {"n": 1, "nModified": 1, "ok": 1})
        odd = bucket(runner).open_upload_stream_with_id({"$gt": 0}, "f")
        self.successResultOf(odd.close())
        self.successResultOf(odd.set("a", 1))
        self.assertEqual(runner.statements(2)[0]["q"], {"_id": {"$eq": {"$gt": 0}}})

    def test_text(self) -> None:
        """Strings need an encoding; anything else is refused."""
        runner = FakeRunner(KNOWN, DONE, DONE)
        files = Database(runner, "db")["fs"]
        self.assertRaises(TypeError, GridIn(files).write, "ä")
        self.assertRaises(TypeError, GridIn(files).write, 5)
        stream = GridIn(files, encoding="utf-8", chunk_size=4)
        self.successResultOf(stream.write("ä"))
        self.successResultOf(stream.close())
        self.assertEqual(stream.length, 2)

    def test_deadline(self) -> None:
        """All commands of an upload have one deadline; removal has its own time."""
        self.patch_batch(1)
        runner = FakeRunner(KNOWN, DONE, DUPLICATE, DONE, DONE)
        runner.clock.advance(100)
        stream = bucket(runner, chunk_size_bytes=1).open_upload_stream("f", timeout=5)
        runner.clock.advance(3)
        self.successResultOf(stream.write(b"a"))
        self.failureResultOf(stream.write(b"bc"), FileExists)
        deadlines = [command.deadline for command in runner.commands]
        self.assertEqual(deadlines, [105, 105, 105, None, None])
        self.assertEqual({c.options.timeout for c in runner.commands[3:]}, {10.0})


class DownloadTests(SynchronousTestCase):
    """
    Downloads.
    """

    def opened(self, *replies: Any, file: dict[str, Any] = FILE) -> tuple[FakeRunner, GridOut]:
        """A runner with a script for the chunks, and an open file."""
        runner = FakeRunner(cursor_reply([file]), *replies)
        return runner, self.successResultOf(bucket(runner).open_download_stream(1))

    def test_read(self) -> None:
        """All of it, by one cursor that asks for one chunk more than there are."""
        runner, stream = self.opened(cursor_reply(CHUNKS))
        self.assertEqual(self.successResultOf(stream.read()), b"01234\n6789")
        self.assertEqual(self.successResultOf(stream.read()), b"")
        self.assertEqual(runner.names, ["find", "find"])
        body = runner.bodies[1]
        self.assertEqual(
            (body["find"], body["filter"], body["sort"], body["batchSize"]),
            ("fs.chunks", {"files_id": 1}, {"n": 1}, 4),
        )

    def test_attributes(self) -> None:
        """The fields of its document, and None for those that it may lack."""
        _, stream = self.opened(file={**FILE, "own": 5})
        self.assertEqual(
            (stream._id, stream.length, stream.chunk_size, stream.name, stream.metadata),
            (1, 10, 4, "f", {"a": 1}),
        )
        self.assertEqual((stream.own, stream.content_type, stream.md5), (5, None, None))
        self.assertRaises(AttributeError, getattr, stream, "other")
        unopened = GridOut(Database(FakeRunner(), "db")["fs"], 1)
        self.assertRaises(InvalidOperation, getattr, unopened, "length")

    def test_parts(self) -> None:
        """Small reads, lines and chunks follow one another."""
        _, stream = self.opened(cursor_reply(CHUNKS))
        self.assertEqual(self.successResultOf(stream.read(3)), b"012")
        self.assertEqual(self.successResultOf(stream.readline()), b"34\n")
        self.assertEqual(stream.tell(), 6)
        self.assertEqual(self.successResultOf(stream.readchunk()), b"67")
        self.assertEqual(self.successResultOf(stream.readline(1)), b"8")
        self.assertEqual(self.successResultOf(stream.read(100)), b"9")
        self.assertEqual(self.successResultOf(stream.readchunk()), b"")

    def test_lines(self) -> None:
        """Iteration gives lines."""

        async def lines(stream: GridOut) -> list[bytes]:
            return [line async for line in stream]

        _, stream = self.opened(cursor_reply(CHUNKS))
        found = self.successResultOf(Deferred.fromCoroutine(lines(stream)))
        self.assertEqual(found, [b"01234\n", b"6789"])
        _, stream = self.opened(cursor_reply(CHUNKS))
        self.assertEqual(self.successResultOf(stream.readlines(3)), [b"01234\n"])

    def test_seek(self) -> None:
        """Within a chunk nothing is asked for; elsewhere, from that chunk on."""
        runner, stream = self.opened(cursor_reply(CHUNKS), cursor_reply(CHUNKS[1:]))
        self.successResultOf(stream.read(9))
        self.assertEqual(self.successResultOf(stream.seek(-1, 2)), 9)
        self.assertEqual(self.successResultOf(stream.read(5)), b"9")
        self.assertEqual(len(runner.commands), 2)
        self.assertEqual(self.successResultOf(stream.seek(5)), 5)
        self.assertEqual(self.successResultOf(stream.read(2)), b"\n6")
        self.assertEqual(runner.bodies[2]["filter"], {"files_id": 1, "n": {"$gte": 1}})
        self.assertEqual(self.successResultOf(stream.seek(-3, 1)), 4)
        self.assertEqual(self.successResultOf(stream.seek(50)), 50)
        self.assertEqual(self.successResultOf(stream.read()), b"")
        self.assertRaises(OSError, stream.seek, -1)
        self.assertRaises(OSError, stream.seek, 0, 9)

    def test_seek_closes(self) -> None:
        """What was read ahead of the old position is given up on the server, too."""
        first = cursor_reply(CHUNKS[:1], 7, namespace="db.fs.chunks")
        runner, stream = self.opened(first, Deferred(), DONE, cursor_reply(CHUNKS[2:]))
        self.successResultOf(stream.readchunk())
        self.successResultOf(stream.seek(8))
        self.assertEqual(self.successResultOf(stream.read()), b"89")
        self.assertEqual(runner.names[2:], ["getMore", "killCursors", "find"])

    def test_batches(self) -> None:
        """
        A few bytes ask for a few chunks, all of them for as many as make up
        15 MB; one chunk after the other for as many as make up 2 MB.
        """
        file = {"_id": 1, "length": 1 << 30, "chunkSize": 1 << 10}
        data = [chunk(number, bytes(1 << 10)) for number in range(5)]
        reads: list[tuple[Callable[[GridOut], Deferred[bytes]], int]] = [
            (lambda stream: stream.read(10), 4),
            (lambda stream: stream.read(4500), 5),
            (lambda stream: stream.read(), 15 << 10),
            (lambda stream: stream.read(1 << 29), 15 << 10),
            (lambda stream: stream.readline(), 2 << 10),
            (lambda stream: stream.readchunk(), 2 << 10),
        ]
        for read, expected in reads:
            first = cursor_reply(data, 7, namespace="db.fs.chunks")
            waiting: Deferred[dict[str, Any]] = Deferred()
            runner = FakeRunner(cursor_reply([file]), first, waiting)
            stream = self.successResultOf(bucket(runner).open_download_stream(1))
            reading = read(stream)
            self.assertEqual(runner.bodies[1]["batchSize"], expected)
            self.successResultOf(stream.close())
            reading.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def test_odd_id(self) -> None:
        """A file whose own id has operators gets its own chunks."""
        file = {**FILE, "_id": {"$gt": 0}}
        runner = FakeRunner(cursor_reply([file]), cursor_reply(CHUNKS))
        stream = self.successResultOf(bucket(runner).open_download_stream_by_name("f"))
        self.successResultOf(stream.read())
        self.assertEqual(runner.bodies[1]["filter"], {"files_id": {"$eq": {"$gt": 0}}})

    def test_read_ahead(self) -> None:
        """The next batch is asked for before the first is read."""
        first = cursor_reply(CHUNKS[:1], 7, namespace="db.fs.chunks")
        rest: Deferred[dict[str, Any]] = Deferred()
        runner, stream = self.opened(first, rest)
        self.assertEqual(self.successResultOf(stream.readchunk()), b"0123")
        self.assertEqual(runner.names[2:], ["getMore"])
        reading = stream.read()
        self.assertNoResult(reading)
        self.assertRaises(InvalidOperation, stream.read)
        rest.callback(cursor_reply(CHUNKS[1:], more=True, namespace="db.fs.chunks"))
        self.assertEqual(self.successResultOf(reading), b"4\n6789")

    def test_close(self) -> None:
        """Closing kills the cursor, and what was asked for ahead is dropped."""
        first = cursor_reply(CHUNKS[:1], 7, namespace="db.fs.chunks")
        runner, stream = self.opened(first, Deferred())
        self.successResultOf(stream.readchunk())
        self.successResultOf(stream.close())
        self.assertEqual(runner.names[-1], "killCursors")
        self.failureResultOf(stream.read(), ValueError)

    def test_cursor_lost(self) -> None:
        """A cursor that the server has forgotten is opened again, once."""
        first = cursor_reply(CHUNKS[:1], 7, namespace="db.fs.chunks")
        runner, stream = self.opened(first, CursorNotFound("x"), cursor_reply(CHUNKS[1:]))
        self.assertEqual(self.successResultOf(stream.read()), b"01234\n6789")
        self.assertEqual(runner.bodies[3]["filter"]["n"], {"$gte": 1})

    def test_corrupt(self) -> None:
        """Every way in which chunks can be wrong is an error that names the chunk."""
        for chunks, message in (
            (CHUNKS[:2], "no chunk #2"),
            ([CHUNKS[0], CHUNKS[2]], "expected chunk #1 but found chunk with n=2"),
            ([CHUNKS[0], chunk(1, b"4"), CHUNKS[2]], "truncated chunk #1"),
            ([*CHUNKS[:2], chunk(2, b"8")], "truncated chunk #2"),
            ([*CHUNKS[:2], chunk(2, b"89x")], "expected chunk length to be 2"),
            ([chunk(0, b"01234"), *CHUNKS[1:]], "expected chunk length to be 4"),
            ([*CHUNKS, chunk(3, b"x")], "expected 3 chunks but found chunk with n=3"),
            ([{"n": 0, "data": "text"}], "no binary data"),
        ):
            _, stream = self.opened(cursor_reply(chunks))
            failure = self.failureResultOf(stream.read(), CorruptGridFile)
            self.assertIn(message, str(failure.value))
        _, stream = self.opened(cursor_reply([*CHUNKS, chunk(3, b"")]))
        self.assertEqual(len(self.successResultOf(stream.read())), 10)

    def test_corrupt_document(self) -> None:
        """So is a document whose numbers make no sense; doubles do."""
        for wrong in ({"length": -1}, {"chunkSize": 0}, {"length": "x"}, {"chunkSize": None}):
            _, stream = self.opened(file={**FILE, **wrong})
            self.failureResultOf(stream.read(), CorruptGridFile)
        file = {**FILE, "length": 10.0, "chunkSize": 4.0}
        _, stream = self.opened(cursor_reply(CHUNKS), file=file)
        self.assertEqual(len(self.successResultOf(stream.read())), 10)

    def test_empty(self) -> None:
        """An empty file's chunks are not asked for."""
        runner, stream = self.opened(file={**FILE, "length": 0})
        self.assertEqual(self.successResultOf(stream.read()), b"")
        self.assertEqual(runner.names, ["find"])

    def test_cancel(self) -> None:
        """A cancelled read loses nothing: the next one begins where it began."""
        _, stream = self.opened(Deferred(), cursor_reply(CHUNKS))
        reading = stream.read()
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.assertEqual(self.successResultOf(stream.read()), b"01234\n6789")

    def test_to_stream(self) -> None:
        """Each chunk is written, and a destination that is slow is waited for."""
        written: list[bytes] = []
        waiting: Deferred[None] = Deferred()

        class Slow:
            """Takes its time."""

            def write(self, data: bytes) -> Deferred[None]:
                written.append(data)
                return waiting

        runner = FakeRunner(cursor_reply([FILE]), cursor_reply(CHUNKS))
        copied = bucket(runner).download_to_stream(1, Slow())
        self.assertEqual(written, [b"0123"])
        waiting.callback(None)
        self.assertIsNone(self.successResultOf(copied))
        self.assertEqual(b"".join(written), b"01234\n6789")

    def test_by_name(self) -> None:
        """Revisions are counted from either end."""
        for revision, way, skip in ((0, 1, None), (2, 1, 2), (-1, -1, None), (-3, -1, 2)):
            runner = FakeRunner(cursor_reply([FILE]), cursor_reply(CHUNKS))
            target = io.BytesIO()
            copied = bucket(runner).download_to_stream_by_name("f", target, revision)
            self.successResultOf(copied)
            body = runner.bodies[0]
            self.assertEqual(
                (body["filter"], body["sort"], body.get("skip")),
                ({"filename": "f"}, {"uploadDate": way}, skip),
            )
            self.assertEqual(target.getvalue(), b"01234\n6789")

    def test_by_name_missing(self) -> None:
        """No such file and no such revision are told apart."""
        for replies, message in (
            ([cursor_reply([]), cursor_reply([])], "with filename 'f'"),
            ([cursor_reply([]), cursor_reply([{"_id": 1}])], "no version 3 for filename 'f'"),
        ):
            opened = bucket(FakeRunner(*replies)).open_download_stream_by_name("f", 3)
            self.assertIn(message, str(self.failureResultOf(opened, NoFile).value))

    def test_deadline(self) -> None:
        """One deadline for the document, the chunks and their batches, not for the end."""
        first = cursor_reply(CHUNKS[:1], 7, namespace="db.fs.chunks")
        runner = FakeRunner(cursor_reply([FILE]), first, Deferred())
        opened = bucket(runner, timeout=5).open_download_stream(1)
        stream = self.successResultOf(opened)
        runner.clock.advance(3)
        self.successResultOf(stream.readchunk())
        self.successResultOf(stream.close())
        self.assertEqual([command.deadline for command in runner.commands[:3]], [5, 5, 5])
        self.assertEqual(runner.names[3], "killCursors")
        self.assertNotEqual(runner.commands[3].deadline, 5)


class BucketTests(SynchronousTestCase):
    """
    Files as a whole.
    """

    def test_find(self) -> None:
        """Files that match, open, one by one or as a list."""
        runner = FakeRunner(cursor_reply([FILE, {**FILE, "_id": 2}]), cursor_reply(CHUNKS))
        found = self.successResultOf(
            bucket(runner).find({"metadata.a": 1}, sort=[("filename", 1)]).to_list(1)
        )
        self.assertEqual(runner.bodies[0]["filter"], {"metadata.a": 1})
        self.assertEqual(self.successResultOf(found[0].read()), b"01234\n6789")

        async def names(files: GridFSBucket) -> list[Any]:
            return [file._id async for file in files.find()]

        runner = FakeRunner(cursor_reply([FILE, {**FILE, "_id": 2}]))
        listed = Deferred.fromCoroutine(names(bucket(runner)))
        self.assertEqual(self.successResultOf(listed), [1, 2])

    def test_missing(self) -> None:
        """Deleting and renaming what is not there are errors."""
        nothing = {"n": 0, "nModified": 0, "ok": 1}
        for call in (
            lambda files: files.delete(1),
            lambda files: files.rename(1, "g"),
            lambda files: files.rename_by_name("f", "g"),
        ):
            runner = FakeRunner(nothing, nothing)
            self.failureResultOf(call(bucket(runner)), NoFile)
        self.failureResultOf(bucket(FakeRunner(cursor_reply([]))).delete_by_name("f"), NoFile)

    def test_delete_by_name(self) -> None:
        """All files of that name and their chunks."""
        runner = FakeRunner(cursor_reply([{"_id": 1}, {"_id": 2}]), {"n": 2, "ok": 1}, DONE)
        self.assertIsNone(self.successResultOf(bucket(runner).delete_by_name("f")))
        self.assertEqual(runner.statements(1)[0]["q"], {"_id": {"$in": [1, 2]}})
        self.assertEqual(runner.statements(2)[0]["q"], {"files_id": {"$in": [1, 2]}})

    def test_drop(self) -> None:
        """Files first, then chunks, with one deadline."""
        runner = FakeRunner()
        self.successResultOf(bucket(runner, bucket_name="b").drop(timeout=2))
        self.assertEqual([body["drop"] for body in runner.bodies], ["b.files", "b.chunks"])
        self.assertEqual([command.deadline for command in runner.commands], [2, 2])

    def test_arguments(self) -> None:
        """Wrong arguments are errors at once."""
        database = Database(FakeRunner(), "db")
        self.assertRaises(TypeError, GridFSBucket, FakeRunner())
        self.assertRaises(ValueError, GridFSBucket, database, "fs", 0)
        self.assertRaises(
            ConfigurationError, GridFSBucket, database, write_concern=WriteConcern(w=0)
        )
        self.assertRaises(TypeError, GridFSBucket(database).find, {}, colation={})

    def test_transactions(self) -> None:
        """A session in a transaction is refused."""
        runner = FakeRunner()
        session = ClientSession(runner, runner.take_session(explicit=True))
        session.start_transaction()
        files = bucket(runner)
        self.assertRaises(InvalidOperation, files.open_upload_stream, "f", session=session)
        self.failureResultOf(files.delete(1, session=session), InvalidOperation)
        self.failureResultOf(files.open_download_stream(1, session=session), InvalidOperation)

    def test_session(self) -> None:
        """With a session, its commands follow one another: nothing is asked for ahead."""
        first = cursor_reply(CHUNKS[:1], 7, namespace="db.fs.chunks")
        runner = FakeRunner(cursor_reply([FILE]), first)
        session = ClientSession(runner, runner.take_session(explicit=True))
        stream = self.successResultOf(bucket(runner).open_download_stream(1, session=session))
        self.successResultOf(stream.readchunk())
        self.assertEqual(runner.names, ["find", "find"])
        self.assertEqual(runner.sessions, [session.state] * 2)

    def test_codec(self) -> None:
        """Ids are encoded as the database says."""
        runner = FakeRunner(KNOWN, DONE, DONE, cursor_reply([FILE]))
        codec: Any = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
        files = GridFSBucket(Database(runner, "db", codec_options=codec))
        identifier = uuid.uuid4()
        self.successResultOf(files.upload_from_stream_with_id(identifier, "f", b"x"))
        raw = runner.requests[1].sequences[0][1][0]
        self.assertEqual(bson.decode(raw, codec)["files_id"], identifier)
