"""
One connection's conversation: requests out, replies in, no I/O.

Matches each reply with its request by number, as the specification
I{OP_MSG} says, streams of replies included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import bson
from bson.errors import BSONError

from txmongokit._sansio.compression import Compressor, decompress
from txmongokit._sansio.framing import DEFAULT_MAX_LENGTH, Frame, FrameReader
from txmongokit._sansio.messages import (
    EXHAUST_ALLOWED,
    HEADER_SIZE,
    MORE_TO_COME,
    REPLY_CURSOR_NOT_FOUND,
    REPLY_QUERY_FAILURE,
    Header,
    Message,
    OpCompressed,
    OpMsg,
    OpQuery,
    OpReply,
    Sequences,
    decode,
    decode_payload,
    encode,
    encode_compressed,
    encode_msg,
    inline_sequences,
    plain_msg,
)
from txmongokit.errors import DocumentTooLarge, InvalidOperation, ProtocolError

__all__ = ["Exchange", "Reply"]

_LARGEST_ID = 0x7FFFFFFF

# What is known of a request whose reply is expected; nothing, usually.
_PLAIN = 0
_EXHAUST = 1
_LEGACY = 2
_ABANDONED = 4


class Reply(NamedTuple):
    """
    A reply that somebody waits for.

    @ivar request_id: what L{Exchange.send} gave for the request; the same
        for all replies of a stream.
    @ivar body: the encoded reply; for a legacy query all of its documents,
        one after the other.
    @ivar more_to_come: whether the server will send another reply to the
        same request without being asked.
    @ivar legacy: the message itself, where it is an OP_REPLY.
    """

    request_id: int
    body: bytes
    more_to_come: bool
    legacy: OpReply | None = None


class Exchange:
    """
    The client's side of one connection.

    After a L{ProtocolError} the exchange is done for: every call raises that
    error again, and the connection should be closed.

    @param max_message_size: the longest message to send or accept, in bytes;
        also for what a compressed message expands to.
    @param compressor: for sending; replies are read whatever they were
        compressed with.
    """

    __slots__ = (
        "_abandoned",
        "_expected",
        "_failed",
        "_last_id",
        "_max_message_size",
        "_reader",
        "_stream",
        "compressor",
    )

    def __init__(
        self,
        *,
        max_message_size: int = DEFAULT_MAX_LENGTH,
        compressor: Compressor | None = None,
    ) -> None:
        self.compressor = compressor
        self._max_message_size = max_message_size
        self._reader = FrameReader(max_message_size)
        self._expected: dict[int, int] = {}
        self._abandoned = 0
        self._last_id = 0
        # While a server may stream: the number that the caller knows, and
        # the one that the next reply will answer.
        self._stream: tuple[int, int] | None = None
        self._failed: ProtocolError | None = None

    @property
    def max_message_size(self) -> int:
        """The longest message to send or accept, in bytes."""
        return self._max_message_size

    @max_message_size.setter
    def max_message_size(self, size: int) -> None:
        self._max_message_size = self._reader.max_length = size

    @property
    def on_long(self) -> Callable[[bool], None] | None:
        """See L{FrameReader}."""
        return self._reader.on_long

    @on_long.setter
    def on_long(self, listener: Callable[[bool], None] | None) -> None:
        self._reader.on_long = listener

    @property
    def in_flight(self) -> int:
        """
        How many requests the server has yet to answer, the abandoned ones
        included.
        """
        return len(self._expected)

    @property
    def last_id(self) -> int:
        """The number of the latest request."""
        return self._last_id

    @property
    def abandoned(self) -> int:
        """How many of the answers to come nobody waits for."""
        return self._abandoned

    @property
    def failed(self) -> ProtocolError | None:
        """What ended the conversation, if anything did."""
        return self._failed

    def send(
        self,
        body: bytes,
        sequences: Sequences = (),
        *,
        more_to_come: bool = False,
        exhaust_allowed: bool = False,
        compress: bool = True,
    ) -> tuple[int, bytes]:
        """
        Begin a request.

        @param body: an encoded command with its C{$db}.
        @param sequences: the command's document sequences.
        @param more_to_come: the server is not to answer.
        @param exhaust_allowed: the server may answer more than once.  Until
            the last answer nothing else can be sent.
        @param compress: C{False} for what must never be compressed: hello
            and everything that carries credentials.

        @return: the request's number and the bytes to write.

        @raise DocumentTooLarge: the message is longer than the server takes.
        @raise InvalidOperation: the server may be streaming, or a stream is
            asked for while other answers are to come.
        """
        if self._failed is not None or exhaust_allowed or self._stream is not None:
            self._check_turn(exhaust_allowed)
        request_id = self._next_id()
        flags = 0
        if more_to_come:
            flags = MORE_TO_COME
        if exhaust_allowed:
            flags |= EXHAUST_ALLOWED
        data = encode_msg(request_id, body, sequences, flags)
        if len(data) > self._max_message_size:
            raise self._too_large(len(data))
        if compress and self.compressor is not None:
            data = encode_compressed(data, self.compressor.number, self.compressor.compress)
        if not more_to_come:
            self._expected[request_id] = _PLAIN
            if exhaust_allowed:
                self._expected[request_id] = _EXHAUST
                self._stream = (request_id, request_id)
        return request_id, data

    def send_query(
        self,
        namespace: str,
        body: bytes,
        *,
        flags: int = 0,
        number_to_skip: int = 0,
        number_to_return: int = -1,
    ) -> tuple[int, bytes]:
        """
        Begin a legacy query or command, for servers without OP_MSG.

        It is never compressed: where it is needed, compression is not known
        yet.

        @param namespace: C{database.collection}, or C{database.$cmd} for a
            command.
        @param number_to_return: -1 for one document and no cursor.

        @return: the request's number and the bytes to write.

        @raise DocumentTooLarge: the message is longer than the server takes.
        @raise InvalidOperation: the server may be streaming.
        """
        self._check_turn(False)
        request_id = self._next_id()
        query = OpQuery(namespace, body, None, flags, number_to_skip, number_to_return)
        data = encode(query, request_id)
        if len(data) > self._max_message_size:
            raise self._too_large(len(data))
        self._expect_legacy(request_id)
        return request_id, data

    def receive(self, data: bytes) -> Iterator[Reply]:
        """
        Take what was received.

        Whatever a consumer does between two replies (sending, abandoning,
        receiving more) is safe: a reply is off the books before it is given.
        The data counts as received even if the iterator is not exhausted.

        @return: the replies that are complete now, in the server's order.

        @raise ProtocolError: the server broke the protocol; from here or
            from the iterator.
        """
        if self._failed is not None:
            raise self._failed.with_traceback(None)
        self._reader.feed(data)
        return self._replies()

    def abandon(self, request_id: int) -> None:
        """
        Stop waiting: the answers to this request are swallowed.

        Does nothing where the request has been answered.
        """
        if self._failed is not None:
            raise self._failed.with_traceback(None)
        if self._stream is not None and self._stream[0] == request_id:
            request_id = self._stream[1]
        state = self._expected.get(request_id)
        if state is not None and not state & _ABANDONED:
            self._expected[request_id] = state | _ABANDONED
            self._abandoned += 1

    def _expect_legacy(self, request_id: int) -> None:
        self._expected[request_id] = _LEGACY

    def _next_id(self) -> int:
        request_id = self._last_id
        while True:
            request_id = request_id % _LARGEST_ID + 1
            if request_id not in self._expected:
                self._last_id = request_id
                return request_id

    def _check_turn(self, exhaust_allowed: bool) -> None:
        if self._failed is not None:
            raise self._failed.with_traceback(None)
        if self._stream is not None:
            raise InvalidOperation(
                "the server may be streaming replies: send when the last one has come, "
                "or on another connection"
            )
        if exhaust_allowed and self._expected:
            raise InvalidOperation(
                f"a stream of replies needs the connection for itself, and {len(self._expected)} "
                "replies are still to come"
            )

    def _too_large(self, length: int) -> DocumentTooLarge:
        return DocumentTooLarge(
            f"a message of {length} bytes is longer than the {self._max_message_size} that the "
            "server takes: send fewer or smaller documents"
        )

    def _replies(self) -> Iterator[Reply]:
        next_frame = self._reader.next_frame
        while self._failed is None:
            try:
                frame = next_frame()
                if frame is None:
                    return
                reply = self._match(frame)
            except ProtocolError as error:
                self._failed = error
                raise
            if reply is not None:
                yield reply
        raise self._failed.with_traceback(None)

    def _match(self, frame: Frame) -> Reply | None:
        """The reply that a message is; C{None} if nobody waits for it."""
        plain = plain_msg(frame)
        if plain is not None:
            own_id, request_id, flags, body = plain
            if not flags and self._expected.get(request_id, _EXHAUST) == _PLAIN:
                del self._expected[request_id]
                return Reply(request_id, body, False)
            return self._settle(own_id, request_id, flags, body, None)
        header, message = self._open(frame)
        if isinstance(message, OpMsg):
            body = message.body
            if message.sequences:
                body = inline_sequences(body, message.sequences)
            return self._settle(header.request_id, header.response_to, message.flags, body, None)
        if isinstance(message, OpReply):
            body = _legacy_body(message)
            return self._settle(header.request_id, header.response_to, 0, body, message)
        raise ProtocolError(f"the server sent a request: {type(message).__name__}")

    def _open(self, frame: Frame) -> tuple[Header, Message]:
        header, message = decode(frame)
        if not isinstance(message, OpCompressed):
            return header, message
        size = message.uncompressed_size
        payload = decompress(
            message.compressor_id,
            message.compressed,
            size,
            self._max_message_size - HEADER_SIZE,
        )
        header = Header(
            HEADER_SIZE + size, header.request_id, header.response_to, message.original_opcode
        )
        return header, decode_payload(header, payload)

    def _settle(
        self, own_id: int, response_to: int, flags: int, body: bytes, legacy: OpReply | None
    ) -> Reply | None:
        """Take a reply off the books, or move on to the one that follows."""
        state = self._expected.get(response_to)
        if state is None:
            raise ProtocolError(f"the server answered request {response_to}, which awaits no reply")
        if (legacy is not None) != bool(state & _LEGACY):
            raise ProtocolError(
                f"the server answered request {response_to} with the wrong kind of message"
            )
        more_to_come = bool(flags & MORE_TO_COME)
        if more_to_come and not state & _EXHAUST:
            raise ProtocolError(
                f"the server announced more replies to request {response_to}, which allowed one"
            )
        del self._expected[response_to]
        request_id = response_to
        if self._stream is not None:
            request_id = self._stream[0]
            self._stream = (request_id, own_id) if more_to_come else None
        if more_to_come:
            self._expected[own_id] = state
        if state & _ABANDONED:
            if not more_to_come:
                self._abandoned -= 1
            return None
        return Reply(request_id, body, more_to_come, legacy)


def _legacy_body(reply: OpReply) -> bytes:
    """
    An OP_REPLY's documents; where its flags tell of an error, a document as
    a failing command gives.
    """
    if reply.flags & REPLY_CURSOR_NOT_FOUND:
        return bson.encode({"ok": 0.0, "errmsg": "cursor not found", "code": 43})
    if reply.flags & REPLY_QUERY_FAILURE:
        if len(reply.documents) != 1:
            raise ProtocolError(
                f"OP_REPLY tells of a failure with {len(reply.documents)} documents, not one"
            )
        try:
            failure = bson.decode(reply.documents[0])
            message = str(failure.pop("$err", "query failed"))
            return bson.encode({**failure, "ok": 0.0, "errmsg": message})
        except (BSONError, ValueError, OverflowError):
            raise ProtocolError("OP_REPLY tells of a failure with broken BSON") from None
    return b"".join(reply.documents)
