"""
What TxMongo 26.0.0 was seen to do wrong, and that txmongokit does not.

The number in each test's name is the defect's:

  1. C{tls=true} is ignored: L{EncryptionTests.test_01_clear_text},
     L{EncryptionTests.test_01_srv}.
  2. GridFS takes operators for ids: L{GridFSTests.test_02_operators}.
  3. Logging in fails unnoticed: L{LogInTests}.
  4. Certificates are not verified: L{EncryptionTests.test_04_authority},
     L{EncryptionTests.test_04_name}, L{EncryptionTests.test_04_own_context}.
  5. C{readPreference} is misunderstood: L{ReadPreferenceTests}.
  6. Options are dropped: L{OptionTests.test_06_bulk_write},
     L{OptionTests.test_06_distinct}.
  7. C{GridOut.seek} is wrong: L{GridFSTests.test_07_seek}.
  8. An upload that fails is published: L{GridFSTests.test_08_broken_upload}.
  9. A cursor forgets its session: L{OptionTests.test_09_session}.
 10. C{find_one_and_*} ignore write concern errors:
     L{OptionTests.test_10_write_concern}.
 11. Mistyped methods do nothing: L{InterfaceTests.test_11_mistyped}.
 12. C{command} changes the caller's document: L{OptionTests.test_12_command}.
 13. - 22. are in L{tests.integration.test_txmongo_availability}.
 23. PyMongo is pinned: L{InterfaceTests.test_23_pin}.
 24. Cursors are Deferreds: L{InterfaceTests.test_24_cursor}.
 25. Unknown arguments are swallowed, late deadlines raise:
     L{InterfaceTests.test_25_arguments}, L{OptionTests.test_25_late}.
 26. Errors tell documents: L{OptionTests.test_26_documents},
     L{LogInTests.test_26_password}.
 27. GridFS makes indexes unasked: L{GridFSTests.test_27_indexes}.
"""

from __future__ import annotations

import configparser
import io
import time
from pathlib import Path
from typing import Any

from pymongo import DeleteMany, InsertOne, ReplaceOne, UpdateOne, WriteConcern
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.names import dns
from twisted.trial.unittest import TestCase

from tests.deployments import Commands, SharedTestCase, shared_secure, shared_set
from tests.fakes import FakeRunner, cursor_reply
from txmongokit.connection import ConnectionPool
from txmongokit.cursor import CommandCursor, Cursor
from txmongokit.database import Database
from txmongokit.errors import (
    AutoReconnect,
    BulkWriteError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)
from txmongokit.gridfs import GridFSBucket, NoFile
from txmongokit.testing import CertificateAuthority

reactor: Any = installed_reactor

ROOT = Path(__file__).resolve().parents[2]
HANDSHAKE = 0x16
"""The first byte of a TLS connection."""


class Recorder(Protocol):
    """
    A server that says nothing.

    @ivar received: what it was told.
    """

    def __init__(self) -> None:
        self.received = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """Record it."""
        self.received += data


class Recorders(Factory):
    """
    Makes L{Recorder}s.

    @ivar connections: all that there were.
    """

    noisy = False

    def __init__(self) -> None:
        self.connections: list[Recorder] = []

    def buildProtocol(self, addr: Any) -> Recorder:
        """Begin another."""
        recorder = Recorder()
        self.connections.append(recorder)
        return recorder


class Names:
    """A name server that knows one host."""

    def __init__(self, port: int) -> None:
        self.port = port

    def lookupService(self, name: str) -> Deferred[Any]:
        """The host."""
        record = dns.Record_SRV(0, 0, self.port, "host.example.test")
        return succeed(([dns.RRHeader(name, dns.SRV, ttl=60, payload=record)], [], []))

    def lookupText(self, name: str) -> Deferred[Any]:
        """Nothing."""
        return succeed(([], [], []))


def local(reactor: Any, host: str, port: int | None) -> Any:
    """An C{endpoint_factory} to which every name is this machine."""
    return TCP4ClientEndpoint(reactor, "127.0.0.1", port or 0)


class EncryptionTests(SharedTestCase):
    """Encrypted is what shall be, and verified."""

    async def overheard(self, uri: str, **options: Any) -> list[bytes]:
        """What a client with a password says to a server that cannot be verified."""
        recorders = Recorders()
        port = reactor.listenTCP(0, recorders, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        pool = self.client(
            uri.format(port=port.getHost().port),
            endpoint_factory=local,
            resolver=Names(port.getHost().port),
            serverselectiontimeoutms=300,
            **options,
        )
        with self.assertRaises(ServerSelectionTimeoutError):
            await pool["db"]["things"].insert_one({"secret": "document"})
        await pool.disconnect()
        heard = [bytes(each.received) for each in recorders.connections]
        self.assertNotEqual(heard, [])
        return heard

    async def test_01_clear_text(self) -> None:
        """1: TxMongo ignores C{tls=true} and sends everything in clear text, passwords too."""
        heard = await self.overheard("mongodb://user:pw@127.0.0.1:{port}/db?tls=true")
        self.assertEqual({data[0] for data in heard}, {HANDSHAKE})
        for word in (b"user", b"hello", b"isMaster", b"sasl", b"secret"):
            self.assertNotIn(word, b"".join(heard))

    async def test_01_srv(self) -> None:
        """1: TxMongo does not encrypt with C{mongodb+srv} either, which implies it."""
        heard = await self.overheard("mongodb+srv://user:pw@service.example.test/db")
        self.assertEqual({data[0] for data in heard}, {HANDSHAKE})
        self.assertNotIn(b"isMaster", b"".join(heard))
        # By which one sees that the recorder would have heard it.
        heard = await self.overheard("mongodb+srv://service.example.test/db?tls=false")
        self.assertIn(b"ello", b"".join(heard))

    def uri(self, host: str = "127.0.0.1", **options: str) -> str:
        """The secure server's."""
        query = {"tls": "true", "serverSelectionTimeoutMS": "700", **options}
        texts = "&".join(f"{name}={value}" for name, value in query.items())
        return f"mongodb://new:pw@{host}:{shared_secure().members[0].port}/?{texts}"

    async def refused(self, uri: str, **options: Any) -> str:
        """Why a client could not connect."""
        with self.assertRaises(ServerSelectionTimeoutError) as caught:
            await self.client(uri, **options)["db"].command("ping")
        return str(caught.exception)

    async def test_04_authority(self) -> None:
        """4: TxMongo accepts certificates that unknown authorities signed."""
        stranger = Path(self.mktemp())
        stranger.write_bytes(CertificateAuthority().pem)
        self.assertIn("certificate verify failed", await self.refused(self.uri()))
        refusal = await self.refused(self.uri(tlsCAFile=str(stranger)))
        self.assertIn("certificate verify failed", refusal)
        await self.client(shared_secure().uri)["db"]["things"].find_one()

    async def test_04_name(self) -> None:
        """4: TxMongo accepts certificates of other hosts, and verifies one name for all members."""
        ca = shared_secure().ca_file
        assert ca is not None
        refusal = await self.refused(
            self.uri("elsewhere.example.test", tlsCAFile=ca), endpoint_factory=local
        )
        self.assertIn("elsewhere.example.test", refusal)
        for host in ("localhost", "127.0.0.1"):
            await self.client(self.uri(host, tlsCAFile=ca))["db"]["things"].find_one()

    async def test_04_own_context(self) -> None:
        """4: TxMongo hangs, and does not say why, where the user's own context refuses."""
        ca = shared_secure().ca_file
        assert ca is not None
        root = trustRootFromCertificates([Certificate.loadPEM(Path(ca).read_bytes())])
        stranger = trustRootFromCertificates([Certificate.loadPEM(CertificateAuthority().pem)])
        plain = self.uri(tls="true")
        for good in (
            optionsForClientTLS("localhost", trustRoot=root),
            lambda host: optionsForClientTLS(host, trustRoot=root),
        ):
            await self.client(plain, ssl_context_factory=good)["db"]["things"].find_one()
        for bad in (
            optionsForClientTLS("localhost", trustRoot=stranger),
            optionsForClientTLS("elsewhere.example.test", trustRoot=root),
        ):
            refusal = await self.refused(plain, ssl_context_factory=bad)
            self.assertRegex(refusal, "certificate verify failed|not for host name")


class LogInTests(SharedTestCase):
    """Logging in works, or says that it does not."""

    def uri(self, user: str, **options: str) -> str:
        """The secure server's."""
        deployment = shared_secure()
        query = {"tls": "true", "tlsCAFile": deployment.ca_file, **options}
        texts = "&".join(f"{name}={value}" for name, value in query.items())
        return f"mongodb://{user}@127.0.0.1:{deployment.members[0].port}/?{texts}"

    async def test_03_wrong_password(self) -> None:
        """3: TxMongo swallows the refusal, and uses the connection."""
        for name in ("old", "new", "nobody"):
            with self.assertRaises(OperationFailure) as caught:
                await self.client(self.uri(f"{name}:wrong"))["db"]["things"].find_one()
            self.assertEqual(caught.exception.code, 18, name)

    async def test_03_database(self) -> None:
        """3: TxMongo does not log in at all where the connection string names no database."""
        for uri in (self.uri("old:pw"), self.uri("old:pw", authSource="admin")):
            pool = self.client(uri)
            await pool["db"]["things"].find_one()
            status = await pool["db"].command("connectionStatus")
            (user,) = status["authInfo"]["authenticatedUsers"]
            self.assertEqual(user, {"user": "old", "db": "admin"})

    async def test_03_sha_256(self) -> None:
        """3: TxMongo cannot log in users that have SCRAM-SHA-256 alone."""
        for options in ({}, {"authMechanism": "SCRAM-SHA-256"}):
            await self.client(self.uri("new:pw", **options))["db"]["things"].find_one()

    async def test_26_password(self) -> None:
        """26: TxMongo's errors tell what was sent: ours tell no password."""
        pool = self.client(self.uri("new:hunter2"))
        with self.assertRaises(OperationFailure) as caught:
            await pool["db"]["things"].find_one()
        error = caught.exception
        self.assertNotIn("hunter2", f"{error} {error!r} {error.args} {error.details} {pool!r}")


class ReadPreferenceTests(SharedTestCase):
    """Reads go where they shall."""

    async def read_from(self, **options: Any) -> set[Any]:
        """Where a client reads, which writes, too."""
        commands = Commands()
        pool = self.client(shared_set().uri, event_listeners=[commands], **options)
        await pool[self.database]["things"].insert_many([{"n": n} for n in range(10)])
        for _ in range(5):
            await pool[self.database]["things"].find_one({"n": 1})
            await pool[self.database]["things"].find({"n": 1}, limit=1)
        primary = shared_set().primary().address
        self.assertEqual({event.connection_id for event in commands.named("insert")}, {primary})
        return {event.connection_id for event in commands.named("find")}

    async def test_05_secondary(self) -> None:
        """5: TxMongo reads from the primary where C{readPreference=secondary}."""
        primary = shared_set().primary().address
        (other,) = set(shared_set().addresses) - {primary}
        self.assertEqual(await self.read_from(readpreference="secondary"), {other})
        self.assertEqual(await self.read_from(readpreference="secondaryPreferred"), {other})

    async def test_05_primary(self) -> None:
        """5: TxMongo's C{insert_many} raises L{TypeError} where C{readPreference=primary}."""
        primary = shared_set().primary().address
        self.assertEqual(await self.read_from(readpreference="primary"), {primary})

    async def test_05_single(self) -> None:
        """5: TxMongo fails on a secondary, which it does not tell that it may answer."""
        primary = shared_set().primary().address
        (other,) = set(shared_set().addresses) - {primary}
        pool = self.client(
            f"mongodb://127.0.0.1:{other[1]}/?directConnection=true&readPreference=secondary"
        )
        self.assertIsNone(await pool[self.database]["nothing"].find_one())
        self.assertEqual(await pool[self.database]["nothing"].count_documents({}), 0)


class OptionTests(SharedTestCase):
    """What is asked for is sent, and what fails is an error."""

    def setUp(self) -> None:
        """Make a client of the set."""
        super().setUp()
        self.commands = Commands()
        self.pool = self.client(shared_set().uri, event_listeners=[self.commands])
        self.things = self.pool[self.database]["things"]

    async def test_06_bulk_write(self) -> None:
        """6: TxMongo drops all options of a bulk write's operations but C{upsert}."""
        await self.things.insert_many([{"_id": "a"}, {"_id": "A"}, {"_id": "b", "l": [1, 5]}])
        result = await self.things.bulk_write(
            [
                DeleteMany({"_id": "a"}, collation={"locale": "en", "strength": 2}),
                UpdateOne({"_id": "b"}, {"$set": {"l.$[x]": 0}}, array_filters=[{"x": {"$gt": 3}}]),
            ]
        )
        self.assertEqual((result.deleted_count, result.modified_count), (2, 1))
        self.assertEqual(await self.things.find_one("b"), {"_id": "b", "l": [1, 0]})
        # An index that does not exist, and an option that this server does not know.
        for operation in (
            UpdateOne({"_id": "b"}, {"$set": {"l": 1}}, hint="no_such_index"),
            UpdateOne({}, {"$set": {"l": 2}}, sort={"_id": -1}),
            ReplaceOne({}, {"l": 3}, sort={"_id": -1}),
        ):
            with self.assertRaises(PyMongoError):
                await self.things.bulk_write([operation])
        self.assertEqual(await self.things.find_one("b"), {"_id": "b", "l": [1, 0]})

    async def test_06_distinct(self) -> None:
        """6: TxMongo's C{distinct} drops its options."""
        await self.things.insert_many([{"t": "a"}, {"t": "A"}, {"t": "b"}])
        self.assertEqual(len(await self.things.distinct("t")), 3)
        found = await self.things.distinct("t", collation={"locale": "en", "strength": 2})
        self.assertEqual(len(found), 2)

    async def test_09_session(self) -> None:
        """9: TxMongo's cursors ask for their second batch outside of their session."""
        await self.things.insert_many([{"_id": n} for n in range(7)])
        for number in range(3):
            await self.pool[self.database].create_collection(f"more{number}")
        async with self.pool.start_session() as session:
            found = await self.things.aggregate([{"$match": {}}], batchSize=3, session=session)
            self.assertEqual(len(found), 7)
            names = await self.pool[self.database].list_collection_names(session=session)
            self.assertEqual(len(names), 4)
            mores = self.commands.named("getMore")
            self.assertEqual(len(mores), 2)
            for event in (*mores, *self.commands.named("listCollections")):
                self.assertEqual(event.command["lsid"], session.session_id)

    async def test_10_write_concern(self) -> None:
        """10: TxMongo's C{find_one_and_*} succeed though the write concern cannot be met."""
        await self.things.insert_many([{"_id": n} for n in range(2)])
        things = self.things.with_options(write_concern=WriteConcern(w=5))
        for operation in (
            lambda: things.find_one_and_update({"_id": 0}, {"$set": {"a": 1}}),
            lambda: things.find_one_and_replace({"_id": 0}, {"a": 2}),
            lambda: things.find_one_and_delete({"_id": 0}),
        ):
            with self.assertRaises(WriteConcernError) as caught:
                await operation()
            self.assertEqual(caught.exception.code, 100)

    async def test_12_command(self) -> None:
        """12: TxMongo writes C{$db}, C{lsid} and C{$clusterTime} into the caller's document."""
        await self.things.insert_one({"_id": 1})
        document = {"find": "things", "filter": {"_id": 1}}
        for _ in range(2):
            reply = await self.pool[self.database].command(document)
            self.assertEqual(reply["cursor"]["firstBatch"], [{"_id": 1}])
        self.assertEqual(document, {"find": "things", "filter": {"_id": 1}})
        inserted = {"_id": 2}
        query = {"_id": 2}
        await self.things.insert_one(inserted)
        await self.things.update_one(query, {"$set": {"a": 1}})
        self.assertEqual((inserted, query), ({"_id": 2}, {"_id": 2}))

    async def test_25_late(self) -> None:
        """25: TxMongo raises at once, instead of failing the Deferred, past the deadline."""
        calls: tuple[Any, ...] = (
            lambda: self.things.find_one({}, deadline=time.time() - 5),
            lambda: self.things.insert_one({}, deadline=time.time() - 5),
            lambda: self.things.find({}, deadline=time.time() - 5).to_list(),
            lambda: self.pool[self.database].command("ping", deadline=time.time() - 5),
        )
        for call in calls:
            late = call()
            self.assertIsInstance(late, Deferred)
            error = await self.error_of(late)
            self.assertTrue(error.timeout, error)
        self.assertEqual(self.commands.sent, [])

    async def test_26_documents(self) -> None:
        """26: TxMongo's errors carry the whole command, with its documents."""
        pool = self.client(shared_set().uri, retrywrites=False, retryreads=False)
        things = pool[self.database]["things"]
        await things.insert_one({"_id": 1})
        secret = {"_id": 1, "secret": "hunter2"}
        errors = []
        self.fail_point(shared_set(), "insert", closeConnection=True)
        errors.append(await self.error_of(things.insert_one(secret), AutoReconnect))
        self.fail_point(shared_set(), "find", closeConnection=True)
        errors.append(await self.error_of(things.find_one(secret), AutoReconnect))
        slow = {"$or": [{"_id": 1}, {"secret": "hunter2"}], "$where": "sleep(300) || true"}
        errors.append(await self.error_of(things.find_one(slow, timeout=0.1)))
        errors.append(await self.error_of(things.insert_one(secret), OperationFailure))
        gone = self.client("mongodb://127.0.0.1:1", serverselectiontimeoutms=50)
        late = gone[self.database]["things"].insert_one(secret)
        errors.append(await self.error_of(late, ServerSelectionTimeoutError))
        for error in errors:
            self.assertNotIn("hunter2", f"{error} {error!r} {error.args}")
        # PyMongo's own error of a bulk write names the operation, in its details alone.
        failed = await self.error_of(things.insert_many([secret]), BulkWriteError)
        self.assertEqual(failed.details["writeErrors"][0]["op"], secret)
        # What a server tells of a key that is there is in the details, too.
        await things.create_index("secret", unique=True)
        await things.insert_one({**secret, "_id": 2})
        for failing in (
            things.insert_one({**secret, "_id": 3}),
            things.insert_many([{**secret, "_id": 3}]),
            things.find_one_and_update({"_id": 1}, {"$set": {"secret": "hunter2"}}),
            pool[self.database].command({"insert": "things", "documents": [{"_id": 3}], "x": 1}),
        ):
            refused = await self.error_of(failing, OperationFailure)
            self.assertNotIn("hunter2", f"{refused} {refused!r} {refused.args}")
            self.assertTrue(refused.details)


class Broken(io.BytesIO):
    """A file that cannot be read beyond 600,000 bytes."""

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        if self.tell() > 600_000:
            raise OSError("gone")
        return super().read(size)


class GridFSTests(SharedTestCase):
    """Files."""

    def setUp(self) -> None:
        """Make a client of the set, and a bucket."""
        super().setUp()
        self.commands = Commands()
        self.pool = self.client(shared_set().uri, event_listeners=[self.commands])
        self.bucket = GridFSBucket(self.pool[self.database])

    async def counts(self) -> tuple[int, int]:
        """How many files and chunks there are."""
        database = self.pool[self.database]
        return (
            await database["fs.files"].count_documents({}),
            await database["fs.chunks"].count_documents({}),
        )

    async def test_02_operators(self) -> None:
        """2: TxMongo's C{delete({"$ne": 0})} removes a file, and the chunks of all files."""
        for name in ("a", "b"):
            await self.bucket.upload_from_stream(name, b"x" * 10, chunk_size_bytes=4)
        for identifier in ({"$ne": 0}, {"$exists": True}):
            for call in (self.bucket.delete, self.bucket.open_download_stream):
                with self.assertRaises(NoFile):
                    await call(identifier)
        self.assertEqual(await self.counts(), (2, 6))

    async def test_07_seek(self) -> None:
        """7: TxMongo's C{seek} asks for chunk 0.4, and keeps what was read before."""
        data = bytes(range(256)) * 4
        kept = await self.bucket.upload_from_stream("a", data, chunk_size_bytes=260)
        stream = await self.bucket.open_download_stream(kept)
        self.assertEqual(await stream.read(10), data[:10])
        for place in (0, 100, 255, 260, 700, 3):
            await stream.seek(place)
            self.assertEqual(await stream.read(10), data[place : place + 10])
        await stream.close()

    async def test_08_broken_upload(self) -> None:
        """8: TxMongo publishes what was uploaded before the source failed."""
        with self.assertRaises(OSError):
            await self.bucket.upload_from_stream("a", Broken(bytes(900_000)))
        self.assertEqual(await self.counts(), (0, 0))

    async def test_27_indexes(self) -> None:
        """27: TxMongo makes indexes for each instance, loses their errors, and asks for MD5."""
        self.assertEqual(self.commands.sent, [])
        await self.error_of(self.bucket.open_download_stream("none"), NoFile)
        self.assertEqual(self.commands.named("createIndexes"), [])
        self.fail_point(shared_set(), "createIndexes", errorCode=13)
        # It is the upload's error, and nothing is left to be logged.
        await self.error_of(self.bucket.upload_from_stream("a", b"x"), OperationFailure)
        self.assertEqual(self.flushLoggedErrors(), [])
        kept = await self.bucket.upload_from_stream("a", b"x")
        self.assertEqual(self.commands.named("filemd5"), [])
        stored = await self.pool[self.database]["fs.files"].find_one(kept)
        assert stored is not None
        self.assertNotIn("md5", stored)


class InterfaceTests(TestCase):
    """What needs no server."""

    def setUp(self) -> None:
        """A database of no server's."""
        replies = [cursor_reply([{"_id": 1}]) for _ in range(2)]
        self.database = Database(FakeRunner(*replies), "db")
        self.things = self.database["things"]

    def test_11_mistyped(self) -> None:
        """11: TxMongo does nothing, quietly, where a method's name is mistyped or was removed."""
        pool = ConnectionPool("mongodb://127.0.0.1:1", reactor=object())
        with self.assertRaisesRegex(TypeError, "insert_one"):
            self.things.insert_on({"x": 1})
        for mistyped in (
            lambda: self.things.sav({"x": 1}),
            lambda: self.things.updateOne({}, {}),
            self.database.colection_names,
            pool.disconect,
        ):
            with self.assertRaises(TypeError):
                mistyped()

    def test_23_pin(self) -> None:
        """23: TxMongo excludes PyMongo's next release, and breaks with it."""
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        for wanted in setup["options"]["install_requires"].split("\n"):
            self.assertNotRegex(wanted, "<|==|~=")
        self.assertIn("pymongo", setup["options"]["install_requires"])

    def test_24_cursor(self) -> None:
        """24: TxMongo's cursor is a Deferred that pretends to be another, and hung with Twisted."""
        for kind in (CommandCursor, Cursor):
            self.assertFalse(issubclass(kind, Deferred))
            self.assertIs(kind.__getattribute__, object.__getattribute__)

    async def test_24_everywhere(self) -> None:
        """24: A cursor of ours can be awaited and yielded all the same."""

        @inlineCallbacks
        def generator() -> Any:
            found = yield self.things.find()
            return found

        self.assertEqual(await generator(), [{"_id": 1}])
        self.assertEqual(await self.things.find(), [{"_id": 1}])

    def test_25_arguments(self) -> None:
        """25: TxMongo swallows arguments that it does not know."""
        calls: tuple[Any, ...] = (
            lambda **unknown: self.things.find_one({}, **unknown),
            lambda **unknown: self.things.find({}, **unknown),
            lambda **unknown: self.things.aggregate([], **unknown),
            lambda **unknown: self.things.distinct("a", **unknown),
            lambda **unknown: self.things.count_documents({}, **unknown),
            lambda **unknown: self.things.insert_one({}, **unknown),
            lambda **unknown: self.things.insert_many([{}], **unknown),
            lambda **unknown: self.things.update_one({}, {"$set": {"a": 1}}, **unknown),
            lambda **unknown: self.things.delete_many({}, **unknown),
            lambda **unknown: self.things.find_one_and_delete({}, **unknown),
            lambda **unknown: self.things.bulk_write([InsertOne({})], **unknown),
            self.things.with_options,
            self.things.drop,
            lambda **unknown: self.database.get_collection("things", **unknown),
            self.database.list_collection_names,
        )
        for call in calls:
            with self.assertRaises(TypeError):
                call(tiemout=1)
