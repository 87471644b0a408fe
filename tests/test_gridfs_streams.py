"""
Tests for L{txmongokit.gridfs}: TxMongo's classes, and Twisted's consumers and
producers.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPullProducer, IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyClass, verifyObject

import txmongokit.gridfs.upload
from tests.fakes import FakeRunner, cursor_reply
from tests.test_gridfs import CHUNKS, DONE, DUPLICATE, FILE, KNOWN, bucket, chunk
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect
from txmongokit.gridfs import (
    CorruptGridFile,
    Delivery,
    FileExists,
    GridFS,
    GridFSBucket,
    GridFSError,
    GridIn,
    GridOut,
    GridOutIterator,
    NoFile,
    UnsupportedAPI,
)

CONTENT = b"01234\n6789"


def filesystem(runner: FakeRunner, **options: Any) -> GridFS:
    """The files that all tests use."""
    return GridFS(Database(runner, "db"), **options)


class GridFSTests(SynchronousTestCase):
    """
    L{GridFS}.
    """

    def test_no_io(self) -> None:
        """To make one sends nothing."""
        runner = FakeRunner()
        filesystem(runner).new_file(filename="f")
        self.assertEqual(runner.names, [])
        self.assertRaises(TypeError, GridFS, "db")

    def test_put(self) -> None:
        """A file has the fields it is put with, and the sum of its content if asked."""
        runner = FakeRunner(KNOWN, DONE, DONE)
        identifier = self.successResultOf(
            filesystem(runner, md5=True).put(
                CONTENT, filename="f", content_type="text/plain", chunk_size=4, _id=5, colour="red"
            )
        )
        self.assertEqual(identifier, 5)
        file = runner.statements(2)[0]
        del file["uploadDate"]
        self.assertEqual(
            file,
            {
                "_id": 5,
                "filename": "f",
                "contentType": "text/plain",
                "chunkSize": 4,
                "colour": "red",
                "length": 10,
                "md5": hashlib.md5(CONTENT).hexdigest(),
            },
        )

    def test_md5(self) -> None:
        """The sum is known when the file is closed; without asking there is none."""
        stream = filesystem(FakeRunner(KNOWN, DONE, DONE)).new_file(md5=True)
        self.successResultOf(stream.write(b"ab"))
        self.assertRaises(AttributeError, lambda: stream.md5)
        self.successResultOf(stream.close())
        self.assertEqual(stream.md5, hashlib.md5(b"ab").hexdigest())
        other = filesystem(FakeRunner(KNOWN, DONE)).new_file()
        self.successResultOf(other.close())
        self.assertIsNone(other.md5)
        self.assertRaises(TypeError, filesystem(FakeRunner()).new_file, md5="sum")

    def test_get(self) -> None:
        """A file by its id."""
        runner = FakeRunner(cursor_reply([FILE]), cursor_reply(CHUNKS))
        stream = self.successResultOf(filesystem(runner).get(1))
        self.assertEqual((stream.name, stream.length, stream.md5), ("f", 10, None))
        self.assertEqual(self.successResultOf(stream.read()), b"01234\n6789")
        self.failureResultOf(filesystem(FakeRunner(cursor_reply([]))).get(1), NoFile)

    def test_versions(self) -> None:
        """Versions count from the oldest or the newest; other fields are values."""
        for version, skip, way in ((-1, None, -1), (-2, 1, -1), (0, None, 1), (3, 3, 1)):
            runner = FakeRunner(cursor_reply([FILE]))
            self.successResultOf(filesystem(runner).get_version("f", version, colour={"$ne": 1}))
            body = runner.bodies[0]
            self.assertEqual(body["filter"], {"filename": "f", "colour": {"$eq": {"$ne": 1}}})
            self.assertEqual(body["sort"], {"uploadDate": way})
            self.assertEqual(body.get("skip"), skip)
        runner = FakeRunner(cursor_reply([]))
        self.failureResultOf(filesystem(runner).get_last_version("f"), NoFile)
        self.assertRaises(TypeError, filesystem(runner).get_version, {"$ne": 0})
        self.assertRaises(TypeError, filesystem(runner).get_version, "f", "1")

    def test_questions(self) -> None:
        """Lists, counts and whether something exists."""
        runner = FakeRunner(
            {"values": ["a", None, "b"], "ok": 1}, cursor_reply([{"n": 2}]), cursor_reply([FILE])
        )
        files = filesystem(runner)
        self.assertEqual(self.successResultOf(files.list()), ["a", "b"])
        self.assertEqual(self.successResultOf(files.count("f")), 2)
        self.assertIs(self.successResultOf(files.exists(1)), True)
        self.assertEqual(runner.bodies[2]["filter"], {"_id": 1})

    def test_exists(self) -> None:
        """An id is never a query, and what may be either is refused."""
        runner = FakeRunner(cursor_reply([]))
        files = filesystem(runner)
        self.assertRaises(TypeError, files.exists, {"$ne": 0})
        self.assertIs(self.successResultOf(files.exists(_id={"$ne": 0})), False)
        self.assertEqual(runner.bodies[0]["filter"], {"_id": {"$eq": {"$ne": 0}}})

    def test_find_one(self) -> None:
        """By id or query; nothing is no error."""
        runner = FakeRunner(cursor_reply([FILE]), cursor_reply([]), cursor_reply([]))
        files = filesystem(runner)
        found = self.successResultOf(files.find_one(1))
        assert found is not None
        self.assertEqual(found._id, 1)
        self.assertIsNone(self.successResultOf(files.find_one({"filename": "g"})))
        self.assertEqual(runner.bodies[1]["filter"], {"filename": "g"})
        self.successResultOf(files.find_one(re.compile(".")))
        self.assertEqual(list(runner.bodies[2]["filter"]["_id"]), ["$eq"])

    def test_find_one_like_pymongo(self) -> None:
        """What follows the session goes to find, by place or by name; a limit means nothing."""
        runner = FakeRunner(*[cursor_reply([FILE])] * 2)
        files = GridFS(Database(runner, "db"))
        self.successResultOf(files.find_one({}, None, 2, 7, False, [("length", 1)]))
        self.successResultOf(files.find_one({}, skip=2, limit=7, sort=[("length", 1)]))
        for body in runner.bodies:
            self.assertEqual((body["skip"], body["sort"]), (2, {"length": 1}))
            self.assertEqual((body["limit"], body["singleBatch"]), (1, True))

    def test_delete(self) -> None:
        """To delete what is not there is no error; its chunks go."""
        runner = FakeRunner({"n": 0, "ok": 1}, DONE)
        self.assertIsNone(self.successResultOf(filesystem(runner).delete(1)))
        self.assertEqual(runner.names, ["delete", "delete"])

    def test_indexes(self) -> None:
        """Indexes are made when asked for."""
        nothing = [cursor_reply([]), cursor_reply([]), DONE, cursor_reply([]), DONE]
        runner = FakeRunner(*nothing)
        self.successResultOf(filesystem(runner).indexes_created())
        self.assertEqual(runner.names.count("createIndexes"), 2)

    def test_old(self) -> None:
        """What is older than all of this says so."""
        self.assertRaises(UnsupportedAPI, filesystem(FakeRunner()).open, "f")
        self.assertTrue(issubclass(UnsupportedAPI, GridFSError))

    def test_document(self) -> None:
        """L{GridOut} takes a file's document as TxMongo's does."""
        root = Database(FakeRunner(cursor_reply(CHUNKS)), "db")["fs"]
        stream = GridOut(root, FILE)
        self.assertEqual((stream.name, stream.tell()), ("f", 0))
        self.assertEqual(self.successResultOf(stream.read(3)), b"012")

    def test_iterator(self) -> None:
        """Chunks, each as a Deferred, wherever the file has been read to."""
        runner = FakeRunner(cursor_reply(CHUNKS))
        stream = GridOut(Database(runner, "db")["fs"], FILE)
        chunks = [self.successResultOf(later) for later in stream]
        self.assertEqual(chunks, [b"0123", b"4\n67", b"89"])
        self.assertEqual(stream.tell(), 0)
        self.assertRaises(StopIteration, GridOutIterator(GridOut(stream_root(), EMPTY)).next)


EMPTY = {**FILE, "length": 0}


def stream_root() -> Any:
    """The collection of a bucket that is not asked."""
    return Database(FakeRunner(), "db")["fs"]


class FileLikeTests(SynchronousTestCase):
    """
    What files have that these cannot do, as in PyMongo.
    """

    def test_refused(self) -> None:
        """Each is told to be unsupported."""
        root = Database(FakeRunner(), "db")["fs"]
        download, upload = GridOut(root, FILE), GridIn(root)
        for call in (
            download.fileno,
            upload.fileno,
            upload.read,
            download.truncate,
            lambda: download.write(b""),
            lambda: download.writelines([b""]),
        ):
            self.assertRaises(io.UnsupportedOperation, call)
        self.assertFalse(download.isatty() or upload.isatty())
        download.flush()

    def test_to_list(self) -> None:
        """The lines that are left."""
        runner = FakeRunner(cursor_reply(CHUNKS))
        stream = GridOut(Database(runner, "db")["fs"], FILE)
        self.assertEqual(self.successResultOf(stream.to_list()), [b"01234\n", b"6789"])

    def test_chunks(self) -> None:
        """An iterator's chunks by async for."""
        runner = FakeRunner(cursor_reply(CHUNKS))
        stream = GridOut(Database(runner, "db")["fs"], FILE)

        async def chunks() -> list[bytes]:
            return [data async for data in GridOutIterator(stream, session=None)]

        done = Deferred.fromCoroutine(chunks())
        self.assertEqual(self.successResultOf(done), [b"0123", b"4\n67", b"89"])

    def test_clone(self) -> None:
        """A cursor's copy gives files, too."""
        runner = FakeRunner(*[cursor_reply([FILE])] * 2)
        cursor = GridFS(Database(runner, "db")).find({"a": 1}, sort=[("length", 1)])
        self.successResultOf(cursor.to_list())
        (file,) = self.successResultOf(cursor.clone().to_list())
        self.assertIsInstance(file, GridOut)
        self.assertEqual(runner.bodies[0], runner.bodies[1])


@implementer(IPushProducer)
class Pusher:
    """
    Writes all that it has, whenever it may.
    """

    def __init__(self, stream: GridIn, pieces: list[bytes]) -> None:
        self.stream = stream
        self.pieces = pieces
        self.paused = False
        self.calls: list[str] = []

    def go(self) -> None:
        """Write until paused."""
        while self.pieces and not self.paused:
            self.stream.write(self.pieces.pop(0))
        if not self.pieces:
            self.stream.unregisterProducer()

    def pauseProducing(self) -> None:
        """Remembered."""
        self.paused = True
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        """At once."""
        self.paused = False
        self.calls.append("resume")
        self.go()

    def stopProducing(self) -> None:
        """Remembered."""
        self.pieces = []
        self.paused = True
        self.calls.append("stop")


@implementer(IPullProducer)
class Puller(Pusher):
    """
    Writes one piece each time.
    """

    def resumeProducing(self) -> None:
        """One piece."""
        self.stream.write(self.pieces.pop(0))
        if not self.pieces:
            self.stream.unregisterProducer()


class ConsumerTests(SynchronousTestCase):
    """
    L{GridIn} as a consumer.
    """

    def setUp(self) -> None:
        """Batches of one chunk."""
        self.patch(txmongokit.gridfs.upload, "_UPLOAD_BYTES", 1)

    def stream(self, *replies: Any) -> tuple[FakeRunner, GridIn]:
        """A file with chunks of four bytes, and what runs its commands."""
        runner = FakeRunner(KNOWN, *replies)
        return runner, bucket(runner, chunk_size_bytes=4).open_upload_stream("f")

    def stored(self, runner: FakeRunner) -> bytes:
        """What has been inserted as chunks."""
        requests = [index for index, name in enumerate(runner.names) if name == "insert"]
        return b"".join(runner.statements(index)[0].get("data", b"") for index in requests)

    def test_interface(self) -> None:
        """It is what it says."""
        verifyClass(IConsumer, GridIn)
        verifyObject(IConsumer, self.stream()[1])

    def test_pauses(self) -> None:
        """While an insert is under way and another is full, the producer pauses."""
        waiting: list[Deferred[Any]] = [Deferred(), Deferred()]
        runner, stream = self.stream(*waiting)
        producer = Pusher(stream, [b"0123", b"4567", b"89", b"ab"])
        stream.registerProducer(producer, True)
        producer.go()
        self.assertEqual(producer.calls, ["pause"])
        self.assertEqual((len(producer.pieces), runner.names), (2, ["find", "insert"]))
        waiting[0].callback(DONE)
        self.assertEqual(producer.calls[:2], ["pause", "resume"])
        closed = stream.close()
        self.assertNoResult(closed)
        waiting[1].callback(DONE)
        self.successResultOf(closed)
        self.assertEqual(self.stored(runner), b"0123456789ab")
        self.assertEqual(stream.length, 12)

    def test_pull(self) -> None:
        """A pull producer is asked again and again, without recursion."""
        runner, stream = self.stream()
        stream.registerProducer(Puller(stream, [b"abcd"] * 3000), False)
        self.successResultOf(stream.close())
        self.assertEqual(self.stored(runner), b"abcd" * 3000)

    def test_two(self) -> None:
        """There is one producer at a time."""
        _, stream = self.stream()
        stream.registerProducer(Pusher(stream, []), True)
        self.assertRaises(RuntimeError, stream.registerProducer, Pusher(stream, []), True)

    def test_closed(self) -> None:
        """A closed file stops its producer."""
        _, stream = self.stream()
        self.successResultOf(stream.close())
        producer = Pusher(stream, [])
        stream.registerProducer(producer, True)
        self.assertEqual(producer.calls, ["stop"])

    def test_failure(self) -> None:
        """An error stops the producer, removes what there is, and is what close says."""
        runner, stream = self.stream(DONE, DUPLICATE)
        producer = Pusher(stream, [b"0123"] * 9)
        stream.registerProducer(producer, True)
        producer.go()
        self.assertEqual(producer.calls[-1], "stop")
        self.successResultOf(stream.write(b"late"))
        self.failureResultOf(stream.close(), FileExists)
        self.assertIn("delete", runner.names)
        self.assertNotIn("fs.files", [body.get("insert") for body in runner.bodies])
        self.successResultOf(stream.close())

    def test_lost(self) -> None:
        """Where the server is gone, close says that."""
        _, stream = self.stream(AutoReconnect("gone"))
        producer = Pusher(stream, [b"0123"] * 9)
        stream.registerProducer(producer, True)
        producer.go()
        self.failureResultOf(stream.close(), AutoReconnect)

    def test_abort(self) -> None:
        """To abort while inserts are under way leaves nothing and stops the producer."""
        waiting: Deferred[Any] = Deferred()
        runner, stream = self.stream(waiting)
        producer = Pusher(stream, [b"0123"] * 9)
        stream.registerProducer(producer, True)
        producer.go()
        aborted = stream.abort()
        self.assertEqual(producer.calls[-1], "stop")
        waiting.callback(DONE)
        self.successResultOf(aborted)
        self.assertEqual(runner.names[-1], "delete")
        self.assertTrue(stream.closed)

    def test_cancelled(self) -> None:
        """To cancel close aborts."""
        waiting: Deferred[Any] = Deferred()
        runner, stream = self.stream(waiting)
        producer = Pusher(stream, [b"0123", b"4567", b"89"])
        stream.registerProducer(producer, True)
        producer.go()
        closed = stream.close()
        closed.cancel()
        waiting.callback(DONE)
        self.failureResultOf(closed, CancelledError)
        self.assertEqual(runner.names[-1], "delete")


@implementer(IConsumer)
class Drinker:
    """
    A consumer that has its producer pause after every write.

    @ivar pauses: whether it does.
    """

    def __init__(self, pauses: bool = True) -> None:
        self.pauses = pauses
        self.got: list[bytes] = []
        self.producer: Any = None
        self.unregistered = 0
        self.stop_after = -1

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Remembered."""
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Counted."""
        self.unregistered += 1

    def write(self, data: bytes) -> None:
        """Kept."""
        self.got.append(data)
        if len(self.got) == self.stop_after:
            self.producer.stopProducing()
        elif self.pauses:
            self.producer.pauseProducing()


class DeliveryTests(SynchronousTestCase):
    """
    L{GridOut.deliver_to}.
    """

    def stream(self, *replies: Any) -> GridOut:
        """A file with three chunks."""
        return GridOut(
            Database(FakeRunner(*(replies or (cursor_reply(CHUNKS),))), "db")["fs"], FILE
        )

    def test_interface(self) -> None:
        """It is what it says."""
        verifyObject(IPushProducer, Delivery(self.stream(), Drinker()))

    def test_whole(self) -> None:
        """Chunk after chunk, then the producer is unregistered."""
        consumer = Drinker(pauses=False)
        self.assertEqual(self.successResultOf(self.stream().deliver_to(consumer)), 10)
        self.assertEqual(consumer.got, [b"0123", b"4\n67", b"89"])
        self.assertEqual(consumer.unregistered, 1)

    def test_pauses(self) -> None:
        """Nothing is written while it pauses, though it is read."""
        consumer = Drinker()
        done = self.stream().deliver_to(consumer)
        for count in (1, 2, 3):
            self.assertNoResult(done) if count < 3 else None
            self.assertEqual(len(consumer.got), count)
            consumer.producer.resumeProducing()
        self.assertEqual(self.successResultOf(done), 10)

    def test_part(self) -> None:
        """A part that begins and ends within chunks; the position is behind it."""
        stream, consumer = self.stream(), Drinker(pauses=False)
        self.successResultOf(stream.seek(2))
        self.assertEqual(self.successResultOf(stream.deliver_to(consumer, 4)), 4)
        self.assertEqual((b"".join(consumer.got), stream.tell()), (CONTENT[2:6], 6))

    def test_stop(self) -> None:
        """A consumer that wants no more gets no more, and is left alone."""
        for after in (1, 3):
            consumer = Drinker(pauses=False)
            consumer.stop_after = after
            self.failureResultOf(self.stream().deliver_to(consumer), CancelledError)
            self.assertEqual((len(consumer.got), consumer.unregistered), (after, 0))

    def test_stop_while_paused(self) -> None:
        """Also while it pauses, and while chunks are on their way."""
        consumer = Drinker()
        done = self.stream().deliver_to(consumer)
        consumer.producer.stopProducing()
        self.failureResultOf(done, CancelledError)
        consumer = Drinker()
        done = self.stream(Deferred()).deliver_to(consumer)
        consumer.producer.stopProducing()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(consumer.got, [])

    def test_cancel(self) -> None:
        """To cancel ends it, and the consumer is told."""
        consumer = Drinker()
        done = self.stream().deliver_to(consumer)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(consumer.unregistered, 1)

    def test_corrupt(self) -> None:
        """A missing chunk is named; what is before it has been delivered."""
        consumer = Drinker(pauses=False)
        done = self.stream(cursor_reply([CHUNKS[0], chunk(2, b"89")])).deliver_to(consumer)
        error = self.failureResultOf(done, CorruptGridFile).value
        self.assertIn("#1", str(error))
        self.assertEqual((consumer.got, consumer.unregistered), ([b"0123"], 1))


class BucketNameTests(SynchronousTestCase):
    """
    Old and new share their files.
    """

    def test_same_collections(self) -> None:
        """L{GridFS} and L{GridFSBucket} look in the same places."""
        runner = FakeRunner(cursor_reply([]), cursor_reply([]))
        self.failureResultOf(filesystem(runner, collection="x").get(1), NoFile)
        database = Database(runner, "db")
        self.failureResultOf(GridFSBucket(database, "x").open_download_stream(1), NoFile)
        self.assertEqual(*[body["find"] for body in runner.bodies])
