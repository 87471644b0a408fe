"""
A stream of bytes, cut into messages.

Every byte is copied a fixed number of times, however the network splits the
stream, and a message that comes whole and alone is not copied at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import ClassVar, NamedTuple, TypeAlias

from txmongokit.errors import ProtocolError

__all__ = ["DEFAULT_MAX_LENGTH", "HEAD", "Frame", "FrameReader", "LongFrame"]

DEFAULT_MAX_LENGTH = 48_000_000
"""What servers accept and send at most, in bytes."""

HEAD = 21
"""What an OP_MSG with one document has before that document, in bytes."""

_SHORTEST = 16
# A buffer that grew much longer would be moved again and again.
_LONG = 1 << 17
# Shorter pieces cost more than copying them does.
_PIECE = 1 << 12
_GATHERED = 1 << 16
_LENGTH = Struct("<i")


class LongFrame(NamedTuple):
    """
    A long message that came in pieces, cut where an OP_MSG's document begins:
    nothing has to be copied to take that out.

    @ivar head: its first L{HEAD} bytes.
    @ivar rest: what follows them.
    """

    head: bytes
    rest: bytes

    def __bytes__(self) -> bytes:
        return self.head + self.rest


Frame: TypeAlias = bytes | bytearray | LongFrame
"""
A whole message.
"""


class FrameReader:
    """
    Finds the messages in what was received.

    A message that is not complete yet waits in a buffer, a long one in
    pieces as they came: what is held grows with what has come, not with what
    was announced.

    @ivar max_length: the longest message to accept, in bytes; may be changed
        at any time.
    @ivar on_long: called with C{True} when the rest of a long message is to
        come, and with C{False} when it has.
    """

    __slots__ = (
        "_buffer",
        "_chunk",
        "_later",
        "_missing",
        "_offset",
        "_pieces",
        "max_length",
        "on_long",
    )

    _new_buffer: ClassVar[type[bytearray]] = bytearray

    def __init__(self, max_length: int = DEFAULT_MAX_LENGTH) -> None:
        self.max_length = max_length
        # What is being read, from _offset on, and what came after it.
        self._chunk = b""
        self._offset = 0
        self._later: deque[bytes] = deque()
        # The beginning of a message whose end has not come.
        self._buffer: bytearray | None = None
        # That of a long one, and how many bytes are to come.
        self._pieces: list[bytes | bytearray] = []
        self._missing = 0
        self.on_long: Callable[[bool], None] | None = None

    def feed(self, data: bytes) -> None:
        """
        Take what was received.
        """
        if self._offset == len(self._chunk):
            self._chunk = data
            self._offset = 0
        else:
            self._later.append(data)

    def next_frame(self) -> Frame | None:
        """
        The next whole message.

        @return: the message with its header (a C{bytearray}, never touched
            again, or a L{LongFrame} where it came in pieces), or C{None} until
            more is fed.

        @raise ProtocolError: as soon as a message announces a length that
            is less than a header's or more than L{max_length}; and again
            at every later call.
        """
        while True:
            if self._missing:
                whole = self._gather()
                if whole is not None:
                    return whole
            elif self._buffer is not None:
                frame = self._continue()
                if frame is not None:
                    return frame
            else:
                chunk, offset = self._chunk, self._offset
                available = len(chunk) - offset
                if available >= 4:
                    length: int = _LENGTH.unpack_from(chunk, offset)[0]
                    if not _SHORTEST <= length <= self.max_length:
                        raise self._bad_length(length)
                    if available >= length:
                        return self._cut(chunk, offset, length)
                if available:
                    self._begin(chunk, offset)
            if not self._later:
                return None
            self._chunk = self._later.popleft()
            self._offset = 0

    def _cut(self, chunk: bytes, offset: int, length: int) -> bytes:
        end = offset + length
        if end == len(chunk):
            self._chunk = b""
            self._offset = 0
            return chunk[offset:] if offset else chunk
        self._offset = end
        return chunk[offset:end]

    def _begin(self, chunk: bytes, offset: int) -> None:
        """Move the rest of the chunk, which is no whole message, aside."""
        self._buffer = buffer = self._new_buffer()
        buffer += chunk[offset:] if offset else chunk
        self._chunk = b""
        self._offset = 0

    def _continue(self) -> Frame | None:
        """Add to the buffer no more than what belongs to its message."""
        buffer = self._buffer
        assert buffer is not None
        while True:
            have = len(buffer)
            needed = 4
            if have >= 4:
                needed = _LENGTH.unpack_from(buffer)[0]
                if not _SHORTEST <= needed <= self.max_length:
                    raise self._bad_length(needed)
                if have == needed:
                    self._buffer = None
                    return buffer
                if needed > _LONG:
                    self._buffer = None
                    self._pieces.append(buffer)
                    self._missing = needed - have
                    if self.on_long is not None:
                        self.on_long(True)
                    return self._gather()
            chunk, offset = self._chunk, self._offset
            available = len(chunk) - offset
            if not available:
                return None
            missing = needed - have
            if available <= missing:
                buffer += chunk[offset:] if offset else chunk
                self._chunk = b""
                self._offset = 0
            else:
                buffer += chunk[offset : offset + missing]
                self._offset = offset + missing

    def _gather(self) -> LongFrame | None:
        """Put the next piece of a long message aside."""
        chunk, offset = self._chunk, self._offset
        available = len(chunk) - offset
        if not available:
            return None
        missing = self._missing
        if available <= missing:
            piece = chunk[offset:] if offset else chunk
            self._chunk = b""
            self._offset = 0
        else:
            piece = chunk[offset : offset + missing]
            self._offset = offset + missing
        pieces = self._pieces
        last = pieces[-1]
        if len(piece) >= _PIECE:
            pieces.append(piece)
        elif isinstance(last, bytearray) and len(last) < _GATHERED:
            last += piece
        else:
            pieces.append(bytearray(piece))
        self._missing = missing = missing - len(piece)
        if missing:
            return None
        self._pieces = []
        if self.on_long is not None:
            self.on_long(False)
        if len(pieces[0]) >= HEAD:
            first = memoryview(pieces[0])
            return LongFrame(bytes(first[:HEAD]), b"".join((first[HEAD:], *pieces[1:])))
        whole = b"".join(pieces)
        return LongFrame(whole[:HEAD], whole[HEAD:])

    def _bad_length(self, length: int) -> ProtocolError:
        return ProtocolError(
            f"a message announces a length of {length} bytes, where {_SHORTEST} to "
            f"{self.max_length} are allowed"
        )
