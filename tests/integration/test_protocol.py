"""
TxMongo's protocols on a real server: all of them where it still takes the older
messages (up to MongoDB 5.0), what is left of them elsewhere.
"""

from __future__ import annotations

from typing import Any

import bson
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.trial.unittest import SkipTest, TestCase

from tests.deployments import server_version, shared_secure
from txmongokit.connection import ConnectionPool
from txmongokit.errors import CursorNotFound, DuplicateKeyError, OperationFailure
from txmongokit.protocol import (
    UPDATE_UPSERT,
    Delete,
    Getmore,
    Insert,
    KillCursors,
    MongoAuthenticationError,
    MongoProtocol,
    Msg,
    Query,
    Update,
)
from txmongokit.testing import Deployment, standalone

THINGS = "db.things"


class ProtocolTests(TestCase):
    """One server, one connection."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        """Start a server and connect."""
        self.deployment: Deployment = standalone()
        self.addCleanup(self.deployment.close)
        return Deferred.fromCoroutine(self._connect())

    async def _connect(self) -> None:
        host, _, port = self.deployment.uri.partition("://")[2].partition("/")[0].partition(":")
        endpoint = HostnameEndpoint(reactor, host, int(port))
        protocol = MongoProtocol()
        self.protocol: MongoProtocol = await connectProtocol(endpoint, protocol)
        await self.protocol.connectionReady()
        assert protocol.transport is not None
        self.addCleanup(protocol.transport.loseConnection)
        hello = await self.protocol.send_op_query_command("admin", {"isMaster": 1})
        self.protocol.init_from_hello_response(hello)

    @inlineCallbacks
    def test_older_messages(self) -> Any:
        """Documents are written, found, changed and deleted, without one command."""
        if server_version(self.deployment) >= (5, 1):
            raise SkipTest("this server takes OP_QUERY for a greeting only")
        protocol = self.protocol
        documents = [{"_id": number} for number in range(250)]
        protocol.send(Insert(collection=THINGS, documents=documents))
        self.assertIsNone((yield protocol.get_last_error("db"))["err"])
        protocol.send(Insert(collection=THINGS, documents=[{"_id": 1}]))
        with self.assertRaises(DuplicateKeyError):
            yield protocol.get_last_error("db", w=1)
        spec = {"_id": {"$gte": 5}}
        query = Query(collection=THINGS, query=spec, n_to_return=100, fields={"_id": 1})
        reply = yield protocol.send_QUERY(query)
        self.assertEqual([each.decode()["_id"] for each in reply.documents], list(range(5, 105)))
        more = Getmore(collection=THINGS, cursor_id=reply.cursor_id, n_to_return=50)
        reply = yield protocol.send_GETMORE(more)
        self.assertEqual(reply.documents[0].decode(), {"_id": 105})
        protocol.send(KillCursors(cursors=[reply.cursor_id]))
        with self.assertRaises(CursorNotFound):
            yield protocol.send_GETMORE(more)
        change = {"$set": {"a": 1}}
        protocol.send(
            Update(collection=THINGS, selector={"_id": "s"}, update=change, flags=UPDATE_UPSERT)
        )
        self.assertEqual((yield protocol.get_last_error("db"))["upserted"], "s")
        protocol.send(Delete(collection=THINGS, selector={"_id": {"$lt": 200}}))
        self.assertEqual((yield protocol.get_last_error("db"))["n"], 200)
        with self.assertRaises(OperationFailure):
            yield protocol.send_QUERY(Query(collection=THINGS, query={"$nothing": 1}))
        self.assertEqual(protocol.inflight(), 0)

    @inlineCallbacks
    def test_commands(self) -> Any:
        """Commands go by OP_MSG to any server."""
        options = bson.codec_options.DEFAULT_CODEC_OPTIONS
        command = {"insert": "things", "$db": "db"}
        msg = Msg.create(command, {"documents": [{"_id": 1}, {"_id": 2}]})
        reply = yield self.protocol.send_msg(msg, options, None)
        self.assertEqual(reply["n"], 2)
        unknown = Msg.create({"nonsense": 1, "$db": "db"})
        with self.assertRaises(OperationFailure):
            yield self.protocol.send_msg(unknown, options, None)
        reply = yield self.protocol.send_msg(unknown, options, None, check=False)
        self.assertEqual(reply["code"], 59)

    @inlineCallbacks
    def test_of_client(self) -> Any:
        """A client gives such a connection, the same until it is gone."""
        pool = ConnectionPool(self.deployment.uri)
        self.addCleanup(pool.disconnect)
        self.assertEqual(pool.getprotocols(), [])
        first = yield pool.getprotocol()
        second = yield pool.getprotocol()
        self.assertIs(first, second)
        self.assertEqual(pool.getprotocols(), [second])
        self.assertGreater(second.max_wire_version, 6)
        hello = yield second.send_op_query_command("admin", {"isMaster": 1})
        self.assertTrue(hello["ismaster"])
        lost: Deferred[None] = Deferred()
        asked = second.send_MSG(Msg.create({"hello": 1, "$db": "admin"}))
        yield asked
        second.when_lost(lambda: lost.callback(None))
        yield pool.disconnect()
        yield lost


class LogInTests(TestCase):
    """A server that demands a password."""

    timeout = 60

    @inlineCallbacks
    def test_log_in(self) -> Any:
        """A lent connection logs in as other users; who is refused gets TxMongo's error."""
        deployment = shared_secure()
        pool = ConnectionPool(deployment.uri)
        self.addCleanup(pool.disconnect)
        protocol = yield pool.getprotocol()
        with self.assertRaises(MongoAuthenticationError):
            yield protocol.authenticate("admin", "old", "wrong", "DEFAULT")
        with self.assertRaises(MongoAuthenticationError):
            yield protocol.authenticate_mongo_cr("admin", "old", "pw")
        with self.assertRaises(MongoAuthenticationError) as caught:
            yield pool.authenticate("admin", "old", "wrong")
        self.assertIsInstance(caught.exception, OperationFailure)
        ((source, (name, _, _)),) = pool.auth_creds.items()
        self.assertEqual(source, "admin")
        self.assertTrue(name)
