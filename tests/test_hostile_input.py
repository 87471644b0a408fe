"""
What a server that is broken, or means harm, can do to a connection: end it.

Whatever arrives, C{dataReceived} raises nothing, everybody who waits learns
the cause, and the connection is aborted.
"""

from __future__ import annotations

import zlib
from struct import pack, pack_into
from typing import cast

import bson
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit._sansio import messages as m
from txmongokit._sansio.compression import available_compressors, make_compressor
from txmongokit.errors import ProtocolError
from txmongokit.wire import MongoProtocol

PING = bson.encode({"ping": 1, "$db": "admin"})
SECRET = bson.encode({"ok": 1.0, "password": "correct horse"})
GOOD = m.encode(m.OpMsg(SECRET), 9, 1)


def connected() -> tuple[MongoProtocol, StringTransport]:
    """A protocol on its transport."""
    protocol = MongoProtocol(("db.example", 27017))
    transport = StringTransport()
    protocol.makeConnection(transport)
    return protocol, transport


def framed(opcode: int, payload: bytes, length: int | None = None) -> bytes:
    """An answer to request 1 with any contents."""
    length = 16 + len(payload) if length is None else length
    return pack("<iiii", length, 9, 1, opcode) + payload


def compressed(data: bytes, size: int | None = None, number: int = 2) -> bytes:
    """A compressed answer that may lie about its size and compressor."""
    whole = bytearray(m.encode_compressed(data, number, zlib.compress))
    if size is not None:
        pack_into("<i", whole, 20, size)
    return bytes(whole)


def damaged(offset: int, value: bytes) -> bytes:
    """A good answer with other bytes somewhere."""
    whole = bytearray(GOOD)
    whole[offset : offset + len(value)] = value
    return bytes(whole)


class HostileInputTests(SynchronousTestCase):
    """One way to break the protocol each."""

    def setUp(self) -> None:
        """Collect what is logged."""
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def check(self, data: bytes, cause: str) -> None:
        """
        Assert that an answer ends the connection, whole and byte by byte.
        """
        for step in (len(data), 1):
            del self.events[:]
            protocol, transport = connected()
            lost: list[Exception] = []
            protocol.on_lost = lost.append
            waiting = [protocol.request(PING), protocol.request(PING)]
            for start in range(0, len(data), step):
                protocol.dataReceived(data[start : start + step])
            for deferred in waiting:
                error = self.failureResultOf(deferred, ProtocolError).value
                self.assertIn("db.example:27017: ", str(error))
                self.assertIn(cause, str(error))
                self.assertNotIn("horse", str(error))
            self.assertTrue(transport.disconnected)
            self.assertTrue(protocol.closed)
            lines = [
                event for event in self.events if event.get("log_namespace", "").startswith("tx")
            ]
            self.assertEqual(len(lines), 1)
            self.assertIn(cause, lines[0]["cause"])
            self.assertNotIn("horse", repr(lines[0]))
            protocol.dataReceived(GOOD)
            self.assertEqual(lost, [])

    def test_lengths(self) -> None:
        """Negative, tiny and giant lengths."""
        for length in (-1, -(2**31), 0, 15, 48_000_001, 2**31 - 1):
            self.check(framed(m.OP_MSG, b"", length), f"announces a length of {length} bytes")

    def test_opcodes(self) -> None:
        """Opcodes that do not exist, and those of requests."""
        for opcode in (0, 2, 1000, 2010, 2011, 2014, -1):
            self.check(framed(opcode, b"\0" * 30), f"unknown opcode {opcode}")
        self.check(m.encode(m.OpInsert("a.b", (SECRET,)), 9, 1), "sent a request: OpInsert")
        self.check(m.encode(m.OpQuery("a.b", SECRET), 9, 1), "sent a request: OpQuery")

    def test_documents(self) -> None:
        """Documents that are cut short, overrun or do not end."""
        self.check(framed(m.OP_MSG, b"\0\0\0\0\0" + SECRET[:-1]), "document that announces")
        self.check(damaged(21, pack("<i", 2**31 - 1)), "announces 2147483647 bytes")
        self.check(damaged(21, pack("<i", -1)), "announces -1 bytes")
        self.check(damaged(len(GOOD) - 1, b"x"), "does not end with a zero byte")
        self.check(framed(m.OP_MSG, b""), "ends within its flags")

    def test_flags(self) -> None:
        """Required flags that we do not know, and streams nobody allowed."""
        self.check(damaged(16, b"\x04"), "unknown required flag bits 0x0004")
        self.check(damaged(16, bytes([m.MORE_TO_COME])), "announced more replies")

    def test_checksum(self) -> None:
        """A checksum that does not match."""
        good = m.encode(m.OpMsg(SECRET, (), m.CHECKSUM_PRESENT), 9, 1)
        self.check(good[:-1] + bytes([good[-1] ^ 1]), "checksum")

    def test_sections(self) -> None:
        """Sections that overrun the message, repeat or are of no known kind."""
        sequence = b"\x01" + pack("<i", 1000) + b"d\0"
        self.check(framed(m.OP_MSG, GOOD[16:] + sequence), "announces 1000 bytes")
        self.check(framed(m.OP_MSG, GOOD[16:] + b"\x02"), "unknown kind 2")
        self.check(framed(m.OP_MSG, GOOD[16:] + GOOD[20:]), "more than one section")
        self.check(framed(m.OP_MSG, bytes(4)), "no section of kind 0")

    def test_compression(self) -> None:
        """Nesting, lies about the size, noise, unknown compressors."""
        self.check(compressed(compressed(GOOD)), "another OP_COMPRESSED")
        self.check(compressed(GOOD, 10), "announces 10 bytes uncompressed")
        self.check(compressed(GOOD, 2**31 - 1), "where 47999984 are allowed")
        self.check(compressed(GOOD, -1), "uncompressed size of -1")
        self.check(compressed(GOOD, number=9), "unknown compressor 9")
        self.check(framed(m.OP_COMPRESSED, pack("<iiB", 2013, 5, 2) + b"noise"), "data is broken")
        self.check(compressed(framed(5, b"")), "unknown opcode 5")

    def test_bombs(self) -> None:
        """A megabyte of nothing in a small message is not unpacked."""
        bomb = framed(m.OP_MSG, bytes(5) + bytes(2**20))
        for name in available_compressors():
            compressor = make_compressor(name)
            data = bytearray(m.encode_compressed(bomb, compressor.number, compressor.compress))
            pack_into("<i", data, 20, 100)
            self.check(bytes(data[:]), "broken" if name == "snappy" else "has more")

    def test_unexpected_answers(self) -> None:
        """Answers to nothing, twice, or of the wrong kind."""
        self.check(damaged(8, pack("<i", 77)), "request 77, which awaits no reply")
        self.check(m.encode(m.OpReply((SECRET,)), 9, 1), "wrong kind of message")
        protocol, transport = connected()
        waiting = protocol.request(PING)
        protocol.dataReceived(GOOD + GOOD)
        self.assertEqual(self.successResultOf(waiting), SECRET)
        self.assertTrue(transport.disconnected)

    def test_only_that_connection(self) -> None:
        """Other connections do not notice."""
        broken, _ = connected()
        other, transport = connected()
        waiting = other.request(PING)
        broken.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertTrue(broken.closed)
        other.dataReceived(GOOD)
        self.assertEqual(self.successResultOf(waiting), SECRET)
        self.assertFalse(transport.disconnected)


class FuzzTests(SynchronousTestCase):
    """Anything at all."""

    def feed(self, chunks: list[bytes]) -> None:
        """
        Assert that bytes end in replies, in an abort or in waiting for more.
        """
        protocol, transport = connected()
        waiting = [protocol.request(PING), protocol.query("a.$cmd", PING)]
        results: list[object] = []
        for deferred in waiting:
            deferred.addBoth(results.append)
        for chunk in chunks:
            protocol.dataReceived(chunk)
        self.assertEqual(transport.disconnected, protocol.closed)
        if protocol.closed:
            self.assertEqual(len(results), 2)
        else:
            self.assertEqual(len(results) + protocol.in_flight, 2)
        protocol.abort()
        self.assertEqual(len(results), 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    @reproducible(150)
    @given(st.lists(st.binary(max_size=60), max_size=6))
    def test_noise(self, chunks: list[bytes]) -> None:
        """Random bytes."""
        self.feed(chunks)

    @reproducible(150)
    @given(
        st.sampled_from([m.OP_REPLY, *range(2001, 2008), m.OP_COMPRESSED, m.OP_MSG]),
        st.sampled_from([1, 2, 3]),
        st.binary(max_size=80),
        st.integers(1, 100),
    )
    def test_payloads(self, opcode: int, response_to: int, payload: bytes, step: int) -> None:
        """Random bytes behind a right header."""
        data = pack("<iiii", 16 + len(payload), 9, response_to, opcode) + payload
        self.feed([data[start : start + step] for start in range(0, len(data), step)])

    @reproducible(150)
    @given(
        st.sampled_from(
            [
                GOOD,
                m.encode(m.OpMsg(SECRET, (("d", (SECRET,)),), m.CHECKSUM_PRESENT), 9, 1),
                m.encode(m.OpReply((SECRET,), flags=m.REPLY_QUERY_FAILURE), 9, 2),
                compressed(GOOD),
            ]
        ),
        st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4),
    )
    def test_damaged(self, data: bytes, changes: list[tuple[int, int]]) -> None:
        """Good answers with some bytes changed."""
        changed = bytearray(data)
        for index, value in changes:
            changed[index % len(changed)] = value
        self.feed([bytes(changed)])
