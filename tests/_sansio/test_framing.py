"""
Tests for L{txmongokit._sansio.framing}.
"""

from __future__ import annotations

import random
from struct import pack
from typing import Any, ClassVar, Self

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit._sansio.framing import DEFAULT_MAX_LENGTH, FrameReader
from txmongokit.errors import ProtocolError


def frame(size: int, fill: bytes = b"x") -> bytes:
    """A message of C{size} bytes."""
    return pack("<i", size) + fill * (size - 4)


def drain(reader: FrameReader) -> list[bytes]:
    """All messages that are complete."""
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(bytes(frame))
    return found


class SplitTests(SynchronousTestCase):
    """How the network cuts the stream makes no difference."""

    @reproducible(80)
    @given(st.lists(st.integers(16, 90), max_size=6), st.data())
    def test_any_split(self, sizes: list[int], data: st.DataObject) -> None:
        """Any cut of any messages gives the messages, at once when complete."""
        frames = [frame(size, b"%d" % (index % 10)) for index, size in enumerate(sizes)]
        stream = b"".join(frames)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        reader = FrameReader()
        found: list[bytes] = []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            reader.feed(stream[start:end])
            found += drain(reader)
            complete = [f for i, f in enumerate(frames) if len(b"".join(frames[: i + 1])) <= end]
            self.assertEqual(found, complete)

    def test_byte_by_byte(self) -> None:
        """Single bytes make whole messages."""
        frames = [frame(16), frame(300), frame(17)]
        reader = FrameReader()
        found = []
        for byte in b"".join(frames):
            reader.feed(bytes([byte]))
            found += drain(reader)
        self.assertEqual(found, frames)

    @reproducible(80)
    @given(st.lists(st.integers(16, 60), max_size=5), st.integers(1, 50))
    def test_fed_before_it_is_read(self, sizes: list[int], step: int) -> None:
        """Feeding several times before reading loses and reorders nothing."""
        frames = [frame(size) for size in sizes]
        stream = b"".join(frames)
        reader = FrameReader()
        for start in range(0, len(stream), step):
            reader.feed(stream[start : start + step])
        self.assertEqual(drain(reader), frames)

    def test_nothing(self) -> None:
        """No bytes make no message."""
        reader = FrameReader()
        self.assertIsNone(reader.next_frame())
        reader.feed(b"")
        self.assertIsNone(reader.next_frame())

    def test_whole_frame_is_not_copied(self) -> None:
        """A message that comes whole and alone is the object that was fed."""
        whole = frame(100)
        reader = FrameReader()
        reader.feed(whole)
        self.assertIs(reader.next_frame(), whole)

    def test_frames_stay_as_they_were(self) -> None:
        """A message that was gathered is not written to by the next one."""
        reader = FrameReader()
        stream = frame(40, b"a") + frame(40, b"b")
        reader.feed(stream[:30])
        self.assertIsNone(reader.next_frame())
        reader.feed(stream[30:70])
        first = reader.next_frame()
        reader.feed(stream[70:])
        self.assertEqual((first, reader.next_frame()), (frame(40, b"a"), frame(40, b"b")))


class LengthTests(SynchronousTestCase):
    """The announced length is checked as soon as it is there."""

    def test_bad_lengths(self) -> None:
        """Too short, negative or too long is an error, whole or in pieces."""
        for length in (-(2**31), -1, 0, 15, DEFAULT_MAX_LENGTH + 1, 2**31 - 1):
            for step in (1, 3, 4):
                reader = FrameReader()
                data = pack("<i", length)
                for start in range(0, 4, step):
                    self.assertIsNone(reader.next_frame())
                    reader.feed(data[start : start + step])
                error = self.assertRaises(ProtocolError, reader.next_frame)
                self.assertIn(f" {length} bytes", str(error))
                self.assertIn(f"to {DEFAULT_MAX_LENGTH} are", str(error))
                self.assertRaises(ProtocolError, reader.next_frame)

    def test_limit_can_change(self) -> None:
        """The limit in force is the one set last."""
        reader = FrameReader(max_length=20)
        reader.feed(frame(20))
        self.assertEqual(drain(reader), [frame(20)])
        reader.max_length = 30
        reader.feed(frame(30))
        self.assertEqual(drain(reader), [frame(30)])
        reader.feed(frame(31))
        self.assertRaises(ProtocolError, reader.next_frame)

    def test_announcing_allocates_nothing(self) -> None:
        """Memory follows what was received, not what was announced."""
        reader = CountingReader()
        reader.feed(pack("<i", DEFAULT_MAX_LENGTH))
        self.assertIsNone(reader.next_frame())
        assert reader._buffer is not None
        self.assertLess(reader._buffer.__alloc__(), 100)


class CountingBuffer(bytearray):
    """Counts what is appended; anything else that copies is refused."""

    appends: ClassVar[int] = 0
    copied: ClassVar[int] = 0

    def __iadd__(self, data: Any) -> Self:  # type: ignore[misc]
        CountingBuffer.appends += 1
        CountingBuffer.copied += len(data)
        super().__iadd__(data)
        return self

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("the buffer is sliced")

    def __delitem__(self, key: Any) -> None:
        raise AssertionError("the buffer is shifted")


class CountingBytes(bytes):
    """Counts the bytes that slicing copies."""

    copied: ClassVar[int] = 0

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(part, bytes):
            CountingBytes.copied += len(part)
        return part


class CountingReader(FrameReader):
    """A reader whose buffers count."""

    _new_buffer = CountingBuffer


class LinearTests(SynchronousTestCase):
    """The work is proportional to the bytes and the chunks."""

    def setUp(self) -> None:
        """Start counting."""
        CountingBuffer.appends = CountingBuffer.copied = CountingBytes.copied = 0

    def read(self, stream: bytes, step: int) -> tuple[int, int]:
        """Feed a stream in chunks; the number of chunks and of messages."""
        reader = CountingReader()
        chunks = found = 0
        view = memoryview(stream)
        for start in range(0, len(stream), step):
            reader.feed(CountingBytes(view[start : start + step]))
            chunks += 1
            while reader.next_frame() is not None:
                found += 1
        return chunks, found

    def test_largest_message(self) -> None:
        """48 MB in chunks of 64 KiB: the chunks are put together once, at the end."""
        _, found = self.read(frame(DEFAULT_MAX_LENGTH), 65536)
        self.assertEqual(found, 1)
        self.assertEqual(CountingBuffer.copied, 65536)
        self.assertEqual(CountingBytes.copied, 0)

    def test_long_message(self) -> None:
        """What is long is put together rightly, whatever the pieces."""
        stream = frame(20) + random.Random(3).randbytes(300_000) + frame(16)
        stream = stream[:20] + pack("<i", 300_000) + stream[24:]
        for step in (1, 21, 4095, 4096, 65536, 299_999, 400_000):
            reader = FrameReader()
            told: list[bool] = []
            reader.on_long = told.append
            found = []
            for start in range(0, len(stream), step):
                reader.feed(stream[start : start + step])
                found += drain(reader)
            self.assertEqual(found, [stream[:20], stream[20:300_020], stream[300_020:]])
            self.assertEqual(told, [] if step == 400_000 else [True, False])

    def test_long_message_in_small_pieces(self) -> None:
        """Small pieces are not kept apart."""
        reader = FrameReader()
        stream = frame(500_000)
        for start in range(0, 400_000, 10):
            reader.feed(stream[start : start + 10])
            self.assertIsNone(reader.next_frame())
        self.assertLess(len(reader._pieces), 10)

    def test_byte_by_byte(self) -> None:
        """Single bytes: one append for each, whatever the message's length."""
        for size in (1000, 50_000):
            self.setUp()
            self.assertEqual(self.read(frame(size), 1), (size, 1))
            self.assertEqual((CountingBuffer.appends, CountingBuffer.copied), (size, size))
            self.assertEqual(CountingBytes.copied, 0)

    def test_many_small_messages(self) -> None:
        """Many messages in large chunks: at most two copies of each byte."""
        stream = frame(50) * 20_000
        chunks, found = self.read(stream, 65536)
        self.assertEqual(found, 20_000)
        self.assertLessEqual(CountingBuffer.appends, 2 * chunks)
        self.assertLessEqual(CountingBuffer.copied, 50 * chunks)
        self.assertLessEqual(CountingBytes.copied, 2 * len(stream))
