"""
Tests for L{txmongokit.protocol}, TxMongo's messages and protocols.
"""

from __future__ import annotations

from typing import Any

import bson
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txmongokit import protocol
from txmongokit.errors import (
    AutoReconnect,
    ConnectionFailure,
    CursorNotFound,
    DuplicateKeyError,
    OperationFailure,
)
from txmongokit.protocol import (
    Delete,
    Getmore,
    Insert,
    KillCursors,
    MongoClientProtocol,
    MongoDecoder,
    MongoProtocol,
    MongoReceiverProtocol,
    MongoServerProtocol,
    Msg,
    Note,
    Query,
    Reply,
    Update,
)

MESSAGES = (
    Query(collection="db.things", query={"a": 1}, fields={"b": 1}, n_to_skip=2, flags=4),
    Reply(response_to=3, cursor_id=9, documents=[{"a": 1}, {"a": 2}]),
    Getmore(collection="db.things", cursor_id=9, n_to_return=5),
    KillCursors(cursors=[1, 2]),
    Insert(collection="db.things", documents=[{"a": 1}], flags=protocol.INSERT_CONTINUE_ON_ERROR),
    Update(collection="db.things", selector={}, update={"$set": {"a": 1}}, flags=3),
    Delete(collection="db.things", selector={"a": 1}, flags=1),
    Msg.create({"insert": "things"}, {"documents": [{"a": 1}]}, request_id=5),
    Msg(0, 1, 2, 1000, "hello"),
)


class Server(MongoServerProtocol, MongoClientProtocol):
    """A server of one answer for each kind of question."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Any] = []

    def handle_QUERY(self, request: Query) -> None:
        """Two documents, and a cursor."""
        documents = [{"asked": bson.decode(request.query)}, {"of": request.collection}]
        self.send_REPLY(Reply(response_to=request.request_id, cursor_id=7, documents=documents))

    def handle_GETMORE(self, request: Getmore) -> None:
        """No such cursor."""
        lost = protocol.REPLY_CURSOR_NOT_FOUND
        self.send(Reply(response_to=request.request_id, response_flags=lost))

    def handle_MSG(self, request: Any) -> None:
        """What came, and the time."""
        if isinstance(request, Note) or not request.acknowledged:
            self.changes.append(request)
            return
        reply = {"ok": 1, "got": request.to_dict()}
        self.send_MSG(Msg.create(reply, response_to=request.request_id))

    def handle_INSERT(self, request: Insert) -> None:
        """Kept."""
        self.changes.append(request)

    handle_UPDATE = handle_DELETE = handle_KILL_CURSORS = handle_INSERT  # type: ignore[assignment]


def connected() -> tuple[MongoProtocol, Server, Any]:
    """A client and a server, and what carries bytes both ways."""
    client, server = MongoProtocol(), Server()
    transports = StringTransport(), StringTransport()
    client.makeConnection(transports[0])
    server.makeConnection(transports[1])

    def carry() -> None:
        while transports[0].value() or transports[1].value():
            for transport, receiver in ((transports[0], server), (transports[1], client)):
                data = transport.value()
                transport.clear()
                receiver.dataReceived(data)

    return client, server, carry


class MessageTests(SynchronousTestCase):
    """Messages and their bytes."""

    def test_round_trip(self) -> None:
        """Each message comes back from its bytes, however these are cut."""
        decoder = MongoDecoder()
        for message in MESSAGES:
            data = message.encode(12)
            decoder.feed(data[:9])
            self.assertIsNone(next(decoder))
            self.assertEqual(decoder.dataBuffer, data[:9])
            decoder.feed(data[9:] + data)
            for _ in range(2):
                found = decoder.next()
                self.assertIs(type(found), type(message))
                self.assertEqual(found[3:], message[3:])
                self.assertEqual((found.len, found.request_id), (len(data), 12))
            self.assertIsNone(decoder.next())
            self.assertEqual(type(message).decode(12, 0, message.opcode(), data)[3:], message[3:])

    def test_opcode(self) -> None:
        """The opcode is looked at or asked for, of messages and their classes."""
        self.assertEqual(Query.opcode(), protocol.OP_QUERY)
        self.assertEqual(MESSAGES[0].opcode, protocol.OP_QUERY)
        self.assertEqual(MESSAGES[-1].opcode, 1000)
        self.assertEqual(MESSAGES[-1].message, "hello")

    def test_documents_stay_private(self) -> None:
        """What is shown of a message is not what it says."""
        self.assertEqual(repr(Query(2, query={"password": 1})), "<Query 2 to 0>")

    def test_no_message(self) -> None:
        """What is no message is an error, and so is one of another kind."""
        short = b"\x05\0\0\0" + bytes(12)
        decoder = MongoDecoder()
        decoder.feed(short)
        self.assertRaises(ConnectionFailure, decoder.next)
        for data in (short, MESSAGES[0].encode(1)[:-1], b"\x10\0\0\0" + bytes(12)):
            self.assertRaises(ConnectionFailure, MongoDecoder.decode, data)
        compressed = b"\x19\0\0\0" + bytes(8) + b"\xdc\x07\0\0" + b"\xdd\x07\0\0" + bytes(5)
        self.assertRaises(ConnectionFailure, MongoDecoder.decode, compressed)
        data = MESSAGES[0].encode(1)
        self.assertRaises(ConnectionFailure, Reply.decode, 1, 0, 2004, data)
        self.assertRaises(TypeError, Query, query=5)
        self.assertRaises(TypeError, protocol.BaseMessage().encode, 1)


class ProtocolTests(SynchronousTestCase):
    """A client and a server, both of these messages."""

    def test_query(self) -> None:
        """Questions are answered, each by its own answer."""
        client, _, carry = connected()
        self.assertEqual(client.get_request_id(), 1)
        first = client.send(Query(collection="db.a", query={"n": 1}))
        second = client.send_query(Query(collection="db.b", query={"n": 2}))
        self.assertEqual((client.inflight(), client.get_request_id()), (2, 3))
        carry()
        for asked, number, name in ((first, 1, "db.a"), (second, 2, "db.b")):
            reply = self.successResultOf(asked)
            self.assertEqual(reply.cursor_id, 7)
            documents = [document.decode() for document in reply.documents]
            self.assertEqual(documents, [{"asked": {"n": number}}, {"of": name}])
        self.assertEqual(client.inflight(), 0)

    def test_lost_cursor(self) -> None:
        """A cursor that is gone is an error."""
        client, _, carry = connected()
        asked = client.send(Getmore(collection="db.a", cursor_id=5))
        carry()
        self.failureResultOf(asked, CursorNotFound)

    def test_changes(self) -> None:
        """What has no answer arrives."""
        client, server, carry = connected()
        for message in (*MESSAGES[3:7], MESSAGES[8]):
            self.assertIsInstance(client.send(message), int)
        unanswered = client.send(Msg.create({"ping": 1}, acknowledged=False))
        self.assertIsNone(self.successResultOf(unanswered))
        carry()
        kinds = [type(each) for each in server.changes]
        self.assertEqual(kinds, [KillCursors, Insert, Update, Delete, Note, Msg])

    def test_msg(self) -> None:
        """A command is answered, with its lists of documents in their places."""
        client, _, carry = connected()
        msg = Msg.create({"insert": "a"}, {"documents": [{"x": 1}]})
        asked = client.send_msg(msg, bson.codec_options.DEFAULT_CODEC_OPTIONS, None)
        carry()
        got = self.successResultOf(asked)["got"]
        self.assertEqual(got, {"insert": "a", "documents": [{"x": 1}]})

    def _answered(self, flags: int, document: dict[str, Any], call: str, *args: Any) -> Any:
        client, server, carry = connected()

        def answer(request: Query) -> None:
            reply = Reply(response_to=request.request_id, response_flags=flags)
            server.send_REPLY(Reply(0, reply.response_to, flags, 0, 0, [document]))

        server.handle_QUERY = answer  # type: ignore[method-assign]
        result = getattr(client, call)(*args)
        carry()
        return result

    def test_failed_query(self) -> None:
        """What the server says about a query is what it fails with."""
        failed = self._answered(
            protocol.REPLY_QUERY_FAILURE, {"$err": "no", "code": 17}, "send_QUERY", Query()
        )
        self.assertEqual(self.failureResultOf(failed, OperationFailure).value.code, 17)

    def test_last_error(self) -> None:
        """It is asked for, with a write concern, and is an error if there was one."""
        asked = self._answered(0, {"ok": 1, "n": 1, "err": None}, "get_last_error", "db")
        self.assertEqual(self.successResultOf(asked)["n"], 1)
        double = {"ok": 1, "err": "E11000", "code": 11000}
        asked = self._answered(0, double, "get_last_error", "db")
        self.failureResultOf(asked, DuplicateKeyError)
        asked = self._answered(0, {"ok": 1, "err": "no", "code": 1}, "get_last_error", "db")
        self.failureResultOf(asked, OperationFailure)
        asked = self._answered(0, {"ok": 0, "errmsg": "no such"}, "get_last_error", "db")
        self.failureResultOf(asked, OperationFailure)

    def test_ready(self) -> None:
        """Who waits for the connection learns of it, and of its end."""
        client = MongoProtocol()
        ready, given_up = client.connectionReady(), client.connectionReady()
        given_up.addErrback(lambda failure: None)
        given_up.cancel()
        self.assertNoResult(ready)
        client.makeConnection(StringTransport())
        self.successResultOf(ready)
        self.successResultOf(client.connectionReady())
        asked: Deferred[Any] = client.send_QUERY(Query())
        told: list[bool] = []
        client.when_lost(lambda: told.append(True))
        client.connectionLost(Failure(ConnectionDone()))
        self.failureResultOf(asked, AutoReconnect)
        self.failureResultOf(client.connectionReady(), AutoReconnect)
        self.failureResultOf(client.send_QUERY(Query()), AutoReconnect)
        self.assertEqual(told, [True])

    def test_garbage(self) -> None:
        """What is no message ends the connection."""
        client, transport = MongoProtocol(), StringTransport()
        client.makeConnection(transport)
        client.dataReceived(bytes(16))
        self.assertTrue(transport.disconnecting)
        receiver = MongoReceiverProtocol()
        self.assertRaises(TypeError, receiver.handle, MESSAGES[0])

    def test_hello(self) -> None:
        """Limits and dialects are those that the server told, or the usual ones."""
        client = MongoProtocol()
        self.assertIsNone(client.max_wire_version)
        client.init_from_hello_response({"maxWireVersion": 9, "maxBsonObjectSize": 5})
        self.assertEqual((client.min_wire_version, client.max_wire_version), (0, 9))
        self.assertEqual(client.max_bson_size, 5)
        self.assertEqual(client.max_message_size, protocol.DEFAULT_MAX_MESSAGE_SIZE)
