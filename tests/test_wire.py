"""
Tests for L{txmongokit.wire}.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import bson
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txmongokit._sansio import messages as m
from txmongokit._sansio.exchange import Exchange, Reply
from txmongokit._sansio.framing import FrameReader
from txmongokit.errors import (
    AutoReconnect,
    DocumentTooLarge,
    InvalidOperation,
    OperationFailure,
    ProtocolError,
)
from txmongokit.wire import MongoProtocol

PING = bson.encode({"ping": 1, "$db": "admin"})


def document(number: int) -> bytes:
    """A reply that can be told from others."""
    return bson.encode({"ok": 1.0, "n": number})


@implementer(ITCPTransport)
class TCPTransport(StringTransport):
    """A transport with TCP's options, which fail where there is no TCP."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.options: list[tuple[str, bool]] = []
        self.error = error

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Note the option."""
        if self.error is not None:
            raise self.error
        self.options.append(("no delay", enabled))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Note the option."""
        self.options.append(("keep alive", enabled))

    def getTcpNoDelay(self) -> bool:
        """Whether small messages are sent at once."""
        return ("no delay", True) in self.options

    def getTcpKeepAlive(self) -> bool:
        """Whether dead peers are found out."""
        return ("keep alive", True) in self.options

    def loseWriteConnection(self) -> None:
        """Close one direction: the same as both, here."""
        self.loseConnection()


class ScriptedServer:
    """
    The other end: reads what was written, answers when told to.
    """

    def __init__(self, protocol: MongoProtocol, transport: StringTransport) -> None:
        self.protocol = protocol
        self.transport = transport
        self._reader = FrameReader()

    def received(self) -> list[tuple[m.Header, m.Message]]:
        """The messages that have come since the last call."""
        self._reader.feed(self.transport.value())
        self.transport.clear()
        messages = []
        while (frame := self._reader.next_frame()) is not None:
            messages.append(m.decode(frame))
        return messages

    def answer(self, *request_ids: int) -> None:
        """Answer some requests, all in one piece."""
        self.write(*(m.encode(m.OpMsg(document(i)), 900 + i, i) for i in request_ids))

    def write(self, *data: bytes) -> None:
        """Send bytes."""
        self.protocol.dataReceived(b"".join(data))

    def lose(self, error: Exception | None = None) -> None:
        """End the connection."""
        self.protocol.connectionLost(Failure(error or ConnectionDone()))


class ConnectedTestCase(SynchronousTestCase):
    """A connected protocol, and its server."""

    def setUp(self) -> None:
        """Connect."""
        self.protocol = MongoProtocol(("db.example", 27017))
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        self.server = ScriptedServer(self.protocol, self.transport)

    def failed_with(self, deferred: Deferred[Any], kind: type[Exception]) -> Exception:
        """The error of a Deferred that failed."""
        error = self.failureResultOf(deferred, kind).value
        assert isinstance(error, Exception)
        return error


class SecuredTests(ConnectedTestCase):
    """Waiting for TLS's handshake."""

    def test_before(self) -> None:
        """Who asks before it is over waits for it."""
        waiting = self.protocol.secured()
        self.assertNoResult(waiting)
        self.protocol.handshakeCompleted()
        self.successResultOf(waiting)

    def test_after(self) -> None:
        """Who asks afterwards does not wait."""
        self.protocol.handshakeCompleted()
        self.successResultOf(self.protocol.secured())

    def test_lost(self) -> None:
        """A connection that breaks meanwhile, or before, gets no further."""
        waiting = self.protocol.secured()
        cause = ConnectionLost()
        self.server.lose(cause)
        self.assertIs(self.failed_with(waiting, AutoReconnect).__cause__, cause)
        self.failed_with(self.protocol.secured(), AutoReconnect)

    def test_cancel(self) -> None:
        """Cancelling stops the wait."""
        waiting = self.protocol.secured()
        waiting.cancel()
        self.failed_with(waiting, CancelledError)
        self.protocol.handshakeCompleted()
        self.assertFalse(self.protocol.closed)


class ConnectionMadeTests(SynchronousTestCase):
    """What happens first."""

    def test_socket_options(self) -> None:
        """Small messages are sent at once, dead peers found out."""
        transport = TCPTransport()
        MongoProtocol().makeConnection(transport)
        self.assertEqual(transport.options, [("no delay", True), ("keep alive", True)])

    def test_no_tcp(self) -> None:
        """A transport that refuses the options serves as well."""
        protocol = MongoProtocol()
        protocol.makeConnection(TCPTransport(OSError(95, "not supported")))
        self.assertNoResult(protocol.request(PING))

    def test_address(self) -> None:
        """The transport tells the address, unless someone has set it."""
        protocol = MongoProtocol()
        protocol.makeConnection(StringTransport())
        self.assertEqual(protocol.address, ("192.168.1.1", 54321))
        protocol = MongoProtocol()
        protocol.makeConnection(StringTransport(peerAddress=UNIXAddress(b"/tmp/s")))
        self.assertIn("/tmp/s", protocol.address[0])
        protocol = MongoProtocol(("a", 1))
        protocol.makeConnection(StringTransport())
        self.assertEqual(protocol.address, ("a", 1))

    def test_repr(self) -> None:
        """The representation tells server and state."""
        protocol = MongoProtocol(("a", 1))
        protocol.makeConnection(StringTransport())
        self.assertEqual(repr(protocol), "<MongoProtocol a:1 0 in flight>")
        waiting = protocol.request(PING)
        self.assertEqual(repr(protocol), "<MongoProtocol a:1 1 in flight>")
        protocol.close()
        self.failureResultOf(waiting, AutoReconnect)
        self.assertEqual(repr(protocol), "<MongoProtocol a:1 closed>")

    def test_long_messages(self) -> None:
        """A socket of Twisted's takes a long message at once, where the system does."""

        class Descriptor(TCPTransport):
            SEND_LIMIT = FileDescriptor.SEND_LIMIT

        transport = Descriptor()
        MongoProtocol().makeConnection(transport)
        self.assertGreater(transport.SEND_LIMIT, FileDescriptor.SEND_LIMIT)


class RequestTests(ConnectedTestCase):
    """One reply to each request."""

    def test_requests(self) -> None:
        """Several requests at once get each its own reply."""
        self.assertTrue(self.protocol.idle)
        waiting = [self.protocol.request(PING), self.protocol.request(PING, [("d", [PING])])]
        self.assertEqual((self.protocol.in_flight, self.protocol.idle), (2, False))
        self.assertEqual(
            [message for _, message in self.server.received()],
            [m.OpMsg(PING), m.OpMsg(PING, (("d", (PING,)),))],
        )
        self.server.answer(1, 2)
        self.assertEqual([self.successResultOf(d) for d in waiting], [document(1), document(2)])
        self.assertTrue(self.protocol.idle)

    def test_legacy(self) -> None:
        """A legacy query gets the documents of its OP_REPLY."""
        waiting = self.protocol.query("admin.$cmd", PING)
        ((header, message),) = self.server.received()
        self.assertEqual(message, m.OpQuery("admin.$cmd", PING, None, 0, 0, -1))
        self.server.write(m.encode(m.OpReply((document(1),)), 9, header.request_id))
        self.assertEqual(self.successResultOf(waiting), document(1))

    def test_send(self) -> None:
        """An unacknowledged command leaves the connection idle."""
        self.protocol.send(PING, [("d", [PING])])
        ((_, message),) = self.server.received()
        self.assertEqual(message, m.OpMsg(PING, (("d", (PING,)),), m.MORE_TO_COME))
        self.assertTrue(self.protocol.idle)

    def test_too_large(self) -> None:
        """A message that is too long fails alone; nothing is written."""
        self.protocol.exchange.max_message_size = 40
        self.failed_with(self.protocol.request(PING), DocumentTooLarge)
        self.failed_with(self.protocol.query("a.b", PING), DocumentTooLarge)
        self.failed_with(self.protocol.stream(PING, print), DocumentTooLarge)
        self.assertRaises(DocumentTooLarge, self.protocol.send, PING)
        self.assertEqual(self.server.received(), [])
        self.assertTrue(self.protocol.idle)

    def test_few_frames(self) -> None:
        """Between the caller and C{transport.write} there is one frame."""
        depths: list[int] = []

        def write(data: bytes) -> None:
            frame: FrameType | None = sys._getframe(1)
            depth = 0
            while frame is not None and frame.f_code is not here:
                depth, frame = depth + 1, frame.f_back
            depths.append(depth)

        here = sys._getframe().f_code
        self.transport.write = write  # type: ignore[method-assign]
        self.protocol.request(PING, [("d", [PING])])
        self.assertEqual(depths, [1])


class CancellationTests(ConnectedTestCase):
    """Cancelling stops the wait, not the server."""

    def test_late_reply(self) -> None:
        """The late reply is discarded; until then the connection is busy."""
        given_up, kept = self.protocol.request(PING), self.protocol.request(PING)
        given_up.cancel()
        self.failed_with(given_up, CancelledError)
        self.assertEqual(self.protocol.in_flight, 2)
        self.server.answer(1)
        self.assertFalse(self.protocol.idle)
        self.server.answer(2)
        self.assertEqual(self.successResultOf(kept), document(2))
        self.assertTrue(self.protocol.idle)
        self.assertFalse(self.transport.disconnecting)

    def test_after_the_reply(self) -> None:
        """Cancelling too late changes nothing."""
        waiting = self.protocol.request(PING)
        self.server.answer(1)
        waiting.cancel()
        self.assertEqual(self.successResultOf(waiting), document(1))
        self.assertTrue(self.protocol.idle)

    def test_from_another_reply(self) -> None:
        """A reply's callback may cancel a request whose reply came with it."""
        first, second = self.protocol.request(PING), self.protocol.request(PING)
        first.addCallback(lambda _: second.cancel())
        self.server.answer(1, 2)
        self.failed_with(second, CancelledError)
        self.assertTrue(self.protocol.idle)

    def test_while_all_fail(self) -> None:
        """An errback may cancel a request that is about to fail."""
        first, second = self.protocol.request(PING), self.protocol.request(PING)
        first.addErrback(lambda _: second.cancel())
        self.server.lose()
        self.failed_with(second, CancelledError)

    def test_stream(self) -> None:
        """Cancelling a stream aborts the connection, for the server goes on."""
        stream = self.protocol.stream(PING, lambda body: None)
        self.server.write(m.encode(m.OpMsg(PING, (), m.MORE_TO_COME), 77, 1))
        stream.cancel()
        self.failed_with(stream, CancelledError)
        self.assertTrue(self.transport.disconnected)
        self.assertTrue(self.protocol.closed)


class ReentrancyTests(ConnectedTestCase):
    """Callbacks may use the protocol."""

    def test_request_from_a_reply(self) -> None:
        """A reply's callback may send the next request."""
        chained = self.protocol.request(PING).addCallback(lambda _: self.protocol.request(PING))
        other = self.protocol.request(PING)
        self.server.answer(1, 2)
        self.assertEqual(self.successResultOf(other), document(2))
        self.assertNoResult(chained)
        self.server.answer(3)
        self.assertEqual(self.successResultOf(chained), document(3))

    def test_data_from_a_reply(self) -> None:
        """Data may arrive while a reply is being handled; order is kept."""
        order: list[int] = []

        def note(body: bytes) -> None:
            order.append(bson.decode(body)["n"])
            if len(order) == 1:
                self.server.answer(3)

        for _ in range(3):
            self.protocol.request(PING).addCallback(note)
        self.server.answer(1, 2)
        self.assertEqual(order, [1, 2, 3])

    def test_request_when_lost(self) -> None:
        """A request made from an errback on loss fails, and ends there."""
        retried: list[Deferred[bytes]] = []
        for _ in range(2):
            waiting = self.protocol.request(PING)
            waiting.addErrback(lambda _: retried.append(self.protocol.request(PING)))
        self.server.lose()
        self.assertEqual(len(retried), 2)
        for waiting in retried:
            self.failed_with(waiting, AutoReconnect)

    def test_close_from_a_reply(self) -> None:
        """A callback may close the connection; replies behind it are dropped."""
        first, second = self.protocol.request(PING), self.protocol.request(PING)
        first.addCallback(lambda _: self.protocol.close())
        self.server.answer(1, 2)
        self.failed_with(second, AutoReconnect)
        self.server.answer(7)
        self.assertTrue(self.transport.disconnecting)

    def test_raising_callback(self) -> None:
        """A callback that raises harms only its own Deferred."""
        first, second = self.protocol.request(PING), self.protocol.request(PING)
        first.addCallback(lambda _: 1 / 0)
        self.server.answer(1, 2)
        self.failed_with(first, ZeroDivisionError)
        self.assertEqual(self.successResultOf(second), document(2))

    def test_fired_by_someone_else(self) -> None:
        """A Deferred that someone else fired does not stop the others."""
        first, second = self.protocol.request(PING), self.protocol.request(PING)
        third = self.protocol.request(PING)
        first.callback(b"")
        third.callback(b"")
        self.server.answer(1, 2)
        self.assertEqual(self.successResultOf(second), document(2))
        self.server.lose()


class StreamTests(ConnectedTestCase):
    """Several replies to one request."""

    def test_stream(self) -> None:
        """Each reply is handed on; the last one ends the stream."""
        bodies: list[bytes] = []
        stream = self.protocol.stream(PING, bodies.append)
        ((_, message),) = self.server.received()
        self.assertEqual(message, m.OpMsg(PING, (), m.EXHAUST_ALLOWED))
        more = m.MORE_TO_COME
        self.server.write(m.encode(m.OpMsg(document(1), (), more), 77, 1))
        self.assertEqual(bodies, [document(1)])
        self.server.write(
            m.encode(m.OpMsg(document(2), (), more), 78, 77), m.encode(m.OpMsg(document(3)), 79, 78)
        )
        self.assertEqual(bodies, [document(1), document(2), document(3)])
        self.assertIsNone(self.successResultOf(stream))
        self.assertTrue(self.protocol.idle)

    def test_next_stream_from_the_last_reply(self) -> None:
        """When a stream has ended, the next one may begin at once."""
        stream = self.protocol.stream(PING, lambda _: None)
        stream.addCallback(lambda _: self.protocol.stream(PING, lambda _: None))
        self.server.answer(1)
        self.server.answer(2)
        self.assertIsNone(self.successResultOf(stream))

    def test_alone(self) -> None:
        """What cannot go beside a stream fails at once."""
        waiting = self.protocol.request(PING)
        self.failed_with(self.protocol.stream(PING, print), InvalidOperation)
        self.server.answer(1)
        self.successResultOf(waiting)
        stream = self.protocol.stream(PING, lambda _: None)
        self.failed_with(self.protocol.request(PING), InvalidOperation)
        self.server.lose()
        self.failed_with(stream, AutoReconnect)

    def test_raising_consumer(self) -> None:
        """A consumer that raises fails the stream and aborts the connection."""
        stream = self.protocol.stream(PING, lambda _: 1 / 0)  # type: ignore[arg-type]
        self.server.write(m.encode(m.OpMsg(PING, (), m.MORE_TO_COME), 77, 1))
        self.failed_with(stream, ZeroDivisionError)
        self.assertTrue(self.transport.disconnected)

    def test_raising_at_the_last_reply(self) -> None:
        """At the last reply, raising fails the stream alone."""
        stream = self.protocol.stream(PING, lambda _: 1 / 0)  # type: ignore[arg-type]
        self.server.answer(1)
        self.failed_with(stream, ZeroDivisionError)
        self.assertTrue(self.protocol.idle)


class FaultyExchange(Exchange):
    """An exchange with a fault of its own."""

    def receive(self, data: bytes) -> Iterator[Reply]:
        """Fail in no way that the protocol expects."""
        raise TypeError("a fault of ours")


class EndTests(ConnectedTestCase):
    """How a connection ends."""

    def setUp(self) -> None:
        """Connect, and note when the end is told."""
        super().setUp()
        self.told: list[Exception] = []
        self.protocol.on_lost = self.told.append

    def test_lost(self) -> None:
        """Who waits fails with a reason that names the server."""
        waiting = [self.protocol.request(PING), self.protocol.request(PING)]
        cause = ConnectionDone()
        self.server.lose(cause)
        for deferred in waiting:
            error = self.failed_with(deferred, AutoReconnect)
            self.assertEqual(str(error), "db.example:27017: connection closed")
            self.assertIs(error.__cause__, cause)
        self.assertEqual(self.told, [error])
        self.assertEqual((self.protocol.closed, self.protocol.idle), (True, False))

    def test_reason_of_the_transport(self) -> None:
        """What the transport knows, TLS errors above all, is told."""
        for cause, text in [
            (OSError("certificate verify failed"), "certificate verify failed"),
            (ConnectionLost(), "non-clean fashion"),
            (OSError(), "OSError"),
        ]:
            self.setUp()
            waiting = self.protocol.request(PING)
            self.server.lose(cause)
            self.assertIn(text, str(self.failed_with(waiting, AutoReconnect)))

    def test_afterwards(self) -> None:
        """After the end every request fails and tells why."""
        self.server.lose()
        for deferred in (
            self.protocol.request(PING),
            self.protocol.query("a.b", PING),
            self.protocol.stream(PING, print),
        ):
            error = self.failed_with(deferred, AutoReconnect)
            self.assertEqual(str(error), "db.example:27017: connection closed")
            self.assertIs(error.__cause__, self.told[0])
        self.assertRaises(AutoReconnect, self.protocol.send, PING)
        self.protocol.close()
        self.protocol.abort()
        self.assertFalse(self.transport.disconnecting)
        self.assertEqual(len(self.told), 1)

    def test_close(self) -> None:
        """Closing fails who waits with the reason given, and writes out."""
        waiting = self.protocol.request(PING)
        stated = OperationFailure("not needed any more")
        self.protocol.close(stated)
        self.assertIs(self.failed_with(waiting, OperationFailure), stated)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.told, [])
        self.protocol.close(ValueError())
        self.server.lose()
        self.assertEqual(self.told, [stated])

    def test_abort(self) -> None:
        """Aborting does so at once, also where closing takes too long."""
        waiting = self.protocol.request(PING)
        self.protocol.close()
        self.assertIn("connection closed", str(self.failed_with(waiting, AutoReconnect)))
        self.protocol.abort(ValueError("ignored, for there is a reason already"))
        self.assertTrue(self.transport.disconnected)
        self.server.lose()
        self.assertIsInstance(self.told[0], AutoReconnect)

    def test_stream_fails_too(self) -> None:
        """A stream fails as requests do."""
        stream = self.protocol.stream(PING, lambda _: None)
        self.protocol.abort()
        self.assertIn("connection aborted", str(self.failed_with(stream, AutoReconnect)))

    def test_told_once_and_safely(self) -> None:
        """C{on_lost} is called once, and may raise."""

        def raising(reason: Exception) -> None:
            self.told.append(reason)
            raise ZeroDivisionError

        self.protocol.on_lost = raising
        self.server.lose()
        self.server.lose()
        self.assertEqual(len(self.told), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_unexpected_error(self) -> None:
        """Even a fault of ours ends in failed requests, not in the reactor."""
        waiting = self.protocol.request(PING)
        self.protocol.exchange = FaultyExchange()
        self.server.answer(1)
        self.failed_with(waiting, ProtocolError)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
