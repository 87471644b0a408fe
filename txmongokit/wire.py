"""
The one place where MongoDB's bytes meet Deferreds.

L{MongoProtocol} is a thin coat over L{txmongokit._sansio.exchange.Exchange}:
a Deferred for each request, and an end to all of them when the connection
goes, for whatever reason.  It knows no pool, no session and no BSON.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txmongokit._sansio.exchange import Exchange, Reply
from txmongokit._sansio.messages import Sequences
from txmongokit.errors import AutoReconnect, DocumentTooLarge, ProtocolError, PyMongoError
from txmongokit.types import Address, ConnectionInfo, Document, format_address

__all__ = ["MongoProtocol"]

_UNKNOWN: Address = ("unknown server", None)
# Bytes at once; Twisted's 64 KiB (128, of what is sent) cost a turn of the
# reactor each, and what keeps the reactor busy comes in between.
_LONG_READ = 1 << 18
_LONG_WRITE = 1 << 20

# The system's default is to ask a silent peer after two hours.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 120), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 9))


def _probe_soon(transport: object) -> None:
    """Have a peer that vanished found out within minutes."""
    # TLS is a layer around the transport that has the socket.
    while (inner := getattr(transport, "transport", None)) is not None:
        transport = inner
    get_handle = getattr(transport, "getHandle", None)
    handle = None if get_handle is None else get_handle()
    if isinstance(handle, socket.socket):
        for name, value in _KEEP_ALIVE:
            option = getattr(socket, name, None)
            if option is not None:
                handle.setsockopt(socket.IPPROTO_TCP, option, value)


# DocumentTooLarge is one of bson's errors, not one of PyMongo's.
_UNSENDABLE = (PyMongoError, DocumentTooLarge)


@implementer(IHandshakeListener)
class MongoProtocol(Protocol):
    """
    A client's connection to one MongoDB server.

    Several requests may be on their way at once; the server answers them one
    after the other.

    @ivar address: the server, for messages; whoever dialled it sets this.
        Until then it is what the transport knows.
    @ivar info: what the handshake told, once there has been one.
    @ivar hello: the handshake's whole reply; empty before.
    @ivar greeting_time: how long C{hello} took then, in seconds.
    @ivar exchange: the conversation, for its limit and its compressor.
    @ivar on_lost: called once, when the connection is gone, with the reason.
    @ivar on_drained: called when the last of the replies has come that
        nobody waited for any more.
    """

    transport: ITCPTransport

    _log = Logger()

    def __init__(self, address: Address | None = None) -> None:
        self.address: Address = _UNKNOWN if address is None else address
        self.info: ConnectionInfo | None = None
        self.hello: Document = {}
        self.greeting_time = 0.0
        self.exchange = Exchange()
        self.on_lost: Callable[[Exception], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self._abandoned = False
        self._waiting: dict[int, Deferred[bytes]] = {}
        self._stream: tuple[Deferred[None], Callable[[bytes], None]] | None = None
        # Why nothing can be sent any more, and whether there is a transport.
        self._reason: Exception | None = None
        self._connected = False
        # TLS's handshake: whether it is over, and who waits for that.
        self._secure = False
        self._securing: Deferred[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.in_flight} in flight"
        return f"<MongoProtocol {format_address(self.address)} {state}>"

    @property
    def in_flight(self) -> int:
        """
        How many replies are still to come, those that nobody waits for
        included.
        """
        return self.exchange.in_flight

    @property
    def idle(self) -> bool:
        """Whether the connection is open and no reply is to come."""
        return self._reason is None and not self.exchange.in_flight

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._reason is not None

    def secured(self) -> Deferred[None]:
        """
        Wait for the end of TLS's handshake, where there is TLS.

        @return: fires then; fails with L{AutoReconnect} where the connection
            is or gets closed.  Cancelling stops the wait, not the handshake.
        """
        if self._reason is not None:
            return fail(self._closed_error())
        waiting: Deferred[None] = Deferred()
        if self._secure:
            waiting.callback(None)
        else:
            self._securing = waiting
        return waiting

    def request(
        self, body: bytes, sequences: Sequences = (), *, compress: bool = True
    ) -> Deferred[bytes]:
        """
        Send a command and wait for its reply.

        @param body: the encoded command with its C{$db}.
        @param sequences: the command's document sequences (OP_MSG).
        @param compress: C{False} for commands that must never be compressed.

        @return: fires with the encoded reply.  Fails with L{AutoReconnect}
            where the connection is or gets closed, with the reason given to
            L{close} or L{abort}, with L{ProtocolError} where the server
            broke the protocol, and with
            L{txmongokit.errors.DocumentTooLarge} before anything is sent.
            Cancelling stops the wait at once, not the server: its late
            reply is discarded, and the connection is not L{idle} until then.
        """
        if self._reason is not None:
            return fail(self._closed_error())
        try:
            request_id, data = self.exchange.send(body, sequences, compress=compress)
        except _UNSENDABLE:
            return fail()
        waiting = self._expect(request_id)
        self.transport.write(data)
        return waiting

    def query(
        self,
        namespace: str,
        body: bytes,
        *,
        flags: int = 0,
        number_to_skip: int = 0,
        number_to_return: int = -1,
    ) -> Deferred[bytes]:
        """
        Send a legacy query or command, for servers without OP_MSG.

        @param namespace: C{database.collection}, or C{database.$cmd}.
        @param number_to_return: -1 for one document and no cursor.

        @return: fires with all documents of the reply, encoded one after the
            other.  A failed query gives a document with C{ok: 0}, as a
            failed command does.  Fails and is cancelled as L{request}.
        """
        if self._reason is not None:
            return fail(self._closed_error())
        try:
            request_id, data = self.exchange.send_query(
                namespace,
                body,
                flags=flags,
                number_to_skip=number_to_skip,
                number_to_return=number_to_return,
            )
        except _UNSENDABLE:
            return fail()
        waiting = self._expect(request_id)
        self.transport.write(data)
        return waiting

    def send(self, body: bytes, sequences: Sequences = (), *, compress: bool = True) -> None:
        """
        Send a command that the server is not to answer.

        @param body: the encoded command; its write concern must be C{w: 0}.

        @raise AutoReconnect: the connection is closed.
        @raise DocumentTooLarge: the message is longer than the server takes.
        """
        if self._reason is not None:
            raise self._closed_error()
        _, data = self.exchange.send(body, sequences, more_to_come=True, compress=compress)
        self.transport.write(data)

    def stream(
        self, body: bytes, on_reply: Callable[[bytes], None], *, compress: bool = True
    ) -> Deferred[None]:
        """
        Send a command that the server may answer many times (exhaust).

        The connection must be idle, and nothing else can be sent until the
        last reply.

        @param on_reply: called with each encoded reply.  If it raises, the
            connection is aborted, for the server would go on.

        @return: fires after the last reply; fails as L{request} does, and
            with what C{on_reply} raised.  Cancelling aborts the connection.
        """
        if self._reason is not None:
            return fail(self._closed_error())
        try:
            _, data = self.exchange.send(body, exhaust_allowed=True, compress=compress)
        except _UNSENDABLE:
            return fail()

        def stop(_: Deferred[None]) -> None:
            self._stream = None
            self.abort(self._error("connection closed, because its stream was cancelled"))

        waiting: Deferred[None] = Deferred(stop)
        self._stream = (waiting, on_reply)
        self.transport.write(data)
        return waiting

    def pause(self) -> None:
        """
        Read nothing for now.  What has been read may still be delivered.
        """
        if self._connected and self._reason is None:
            transport: Any = self.transport
            transport.pauseProducing()

    def resume(self) -> None:
        """
        Read on.
        """
        if self._connected and self._reason is None:
            transport: Any = self.transport
            transport.resumeProducing()

    def hand_over(self, receiver: Protocol) -> None:
        """
        Leave the connection to another protocol, once nothing is under way:
        what comes from now on, the connection's end included, is its.
        L{close} and L{abort} still close it.
        """

        def lost(reason: Failure = connectionDone) -> None:
            type(self).connectionLost(self, reason)
            receiver.connectionLost(reason)

        self.dataReceived = receiver.dataReceived  # type: ignore[method-assign]
        self.connectionLost = lost  # type: ignore[method-assign]
        receiver.makeConnection(self.transport)

    def close(self, reason: Exception | None = None) -> None:
        """
        Close the connection when what was written is sent.

        Whoever waits fails at once.  Closing twice does nothing.

        @param reason: what the waiting Deferreds fail with.
        """
        if self._reason is None:
            self._shut(reason or self._error("connection closed"))
            if self._connected:
                self.transport.loseConnection()

    def abort(self, reason: Exception | None = None) -> None:
        """
        Close the connection at once, whatever is still to be written; also
        after L{close}, where that takes too long.

        @param reason: what the waiting Deferreds fail with.
        """
        if self._reason is None:
            self._shut(reason or self._error("connection aborted"))
        if self._connected:
            self.transport.abortConnection()

    # IProtocol.

    def connectionMade(self) -> None:
        """
        Have small messages sent at once, and dead peers found out.
        """
        self._connected = True
        transport = self.transport
        if self.address is _UNKNOWN:
            peer = transport.getPeer()
            host = getattr(peer, "host", None)
            self.address = (
                (str(peer), None) if host is None else (host, getattr(peer, "port", None))
            )
        if hasattr(transport, "bufferSize"):
            self.exchange.on_long = self._read_more_at_once
        if hasattr(transport, "SEND_LIMIT"):
            transport.SEND_LIMIT = _LONG_WRITE
        if ITCPTransport.providedBy(transport):
            try:
                transport.setTcpNoDelay(True)
                transport.setTcpKeepAlive(True)
                _probe_soon(transport)
            except OSError:
                # A Unix socket, or one that is gone already.
                pass

    def handshakeCompleted(self) -> None:
        """
        TLS's handshake is over (L{IHandshakeListener}).
        """
        self._secure = True
        securing, self._securing = self._securing, None
        if securing is not None and not securing.called:
            securing.callback(None)

    def dataReceived(self, data: bytes) -> None:
        """
        Give each reply to whoever waits for it.
        """
        if self._reason is not None:
            return
        try:
            for reply in self.exchange.receive(data):
                if self._stream is not None:
                    self._deliver(reply)
                    continue
                waiting = self._waiting.pop(reply.request_id, None)
                # Someone else may have fired it, and that must not stop us.
                if waiting is not None and not waiting.called:
                    waiting.callback(reply.body)
        except ProtocolError as error:
            self._violated(error)
        except Exception as error:
            self._log.failure("{address}: replies cannot be read", address=self._where())
            self._violated(error)
        if self._abandoned and not self.exchange.abandoned:
            self._abandoned = False
            if self.on_drained is not None and self._reason is None:
                self.on_drained()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Fail whatever waits, and tell L{on_lost}.
        """
        self._connected = False
        if self._reason is None:
            cause = reason.value
            text = "connection closed"
            if not isinstance(cause, ConnectionDone):
                text += f": {str(cause).rstrip('.') or type(cause).__name__}"
            error = self._error(text)
            error.__cause__ = cause
            self._shut(error)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            assert self._reason is not None
            try:
                on_lost(self._reason)
            except Exception:
                self._log.failure("{address}: on_lost failed", address=self._where())

    # Inner workings.

    def _read_more_at_once(self, long: bool) -> None:
        """Have Twisted's sockets read a long reply in larger pieces than usual."""
        transport: Any = self.transport
        if long:
            transport.bufferSize = _LONG_READ
        else:
            del transport.bufferSize

    def _expect(self, request_id: int) -> Deferred[bytes]:
        def forget(_: Deferred[bytes]) -> None:
            if self._waiting.pop(request_id, None) is not None:
                self._abandoned = True
                self.exchange.abandon(request_id)

        waiting = self._waiting[request_id] = Deferred(forget)
        return waiting

    def _deliver(self, reply: Reply) -> None:
        """Hand on one reply of a stream."""
        assert self._stream is not None
        waiting, on_reply = self._stream
        if not reply.more_to_come:
            self._stream = None
        try:
            on_reply(reply.body)
        except Exception as error:
            if reply.more_to_come:
                self.abort(error)
            elif not waiting.called:
                waiting.errback(Failure())
            return
        if not reply.more_to_come and not waiting.called:
            waiting.callback(None)

    def _violated(self, cause: Exception) -> None:
        if self._reason is not None:
            return
        error = ProtocolError(f"{self._where()}: {cause}")
        error.__cause__ = cause
        self._log.error(
            "{address}: connection aborted, the server broke the wire protocol: {cause}",
            address=self._where(),
            cause=str(cause),
        )
        self.abort(error)

    def _shut(self, reason: Exception) -> None:
        """Refuse new requests and fail the waiting ones, which may try some."""
        self._reason = reason
        waiting, self._waiting = self._waiting, {}
        stream, self._stream = self._stream, None
        securing, self._securing = self._securing, None
        if securing is not None and not securing.called:
            securing.errback(reason)
        for deferred in waiting.values():
            if not deferred.called:
                deferred.errback(reason)
        if stream is not None and not stream[0].called:
            stream[0].errback(reason)

    def _where(self) -> str:
        return format_address(self.address)

    def _error(self, text: str) -> AutoReconnect:
        return AutoReconnect(f"{self._where()}: {text}")

    def _closed_error(self) -> AutoReconnect:
        error = self._error("connection closed")
        error.__cause__ = self._reason
        return error
