"""
Tests for L{txmongokit._sansio.messages}.
"""

from __future__ import annotations

from struct import pack, pack_into

import bson
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit._sansio import messages as m
from txmongokit._sansio.framing import LongFrame
from txmongokit.errors import DocumentTooLarge, InvalidName, ProtocolError

int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
documents = st.dictionaries(names, st.one_of(st.binary(max_size=40), int32), max_size=4).map(
    bson.encode
)
document_tuples = st.lists(documents, max_size=4).map(tuple)
sequences = st.lists(st.tuples(names, document_tuples), max_size=3, unique_by=lambda s: s[0]).map(
    tuple
)
msg_flags = st.sampled_from([0, m.CHECKSUM_PRESENT, m.MORE_TO_COME, m.EXHAUST_ALLOWED | 3])
any_message = st.one_of(
    st.builds(m.OpMsg, documents, sequences, msg_flags),
    st.builds(m.OpQuery, names, documents, st.none() | documents, int32, int32, int32),
    st.builds(m.OpReply, document_tuples, int64, int32, int32),
    st.builds(m.OpGetMore, names, int64, int32),
    st.builds(m.OpKillCursors, st.lists(int64, max_size=5).map(tuple)),
    st.builds(m.OpInsert, names, document_tuples, int32),
    st.builds(m.OpUpdate, names, documents, documents, int32),
    st.builds(m.OpDelete, names, documents, int32),
    st.builds(
        m.OpCompressed,
        int32.filter(lambda opcode: opcode != m.OP_COMPRESSED),
        st.integers(0, 2**31 - 1),
        st.integers(0, 255),
        st.binary(max_size=60),
    ),
)

PING = bson.encode({"ping": 1, "$db": "admin"})


def framed(opcode: int, payload: bytes) -> bytes:
    """A message with a right header."""
    return pack("<iiii", 16 + len(payload), 1, 0, opcode) + payload


class RoundTripTests(SynchronousTestCase):
    """What is encoded is what is decoded."""

    @reproducible(60)
    @given(any_message, int32, int32)
    def test_every_message(self, message: m.Message, request_id: int, response_to: int) -> None:
        """Each kind of message survives encoding, with its numbers."""
        data = m.encode(message, request_id, response_to)
        header, decoded = m.decode(data)
        self.assertEqual(decoded, message)
        self.assertIs(type(decoded), type(message))
        self.assertEqual((header.length, header.request_id), (len(data), request_id))
        self.assertEqual(header.response_to, response_to)

    @reproducible(60)
    @given(documents, sequences)
    def test_short_way(self, body: bytes, extra: m.Sequences) -> None:
        """The hot path writes what the general encoder writes."""
        flags = m.MORE_TO_COME
        self.assertEqual(
            m.encode_msg(5, body, extra, flags),
            m.encode(m.OpMsg(body, tuple((n, tuple(d)) for n, d in extra), flags), 5),
        )

    @reproducible(60)
    @given(documents, st.sampled_from([0, m.MORE_TO_COME]), st.sampled_from([bytes, bytearray]))
    def test_short_way_back(self, body: bytes, flags: int, kind: type[bytes]) -> None:
        """The hot path reads what the general decoder reads, as C{bytes}."""
        frame = kind(m.encode(m.OpMsg(body, (), flags), 5, 6))
        plain = m.plain_msg(frame)
        assert plain is not None
        self.assertEqual(plain, (5, 6, flags, body))
        self.assertIs(type(plain[3]), bytes)

    def test_long(self) -> None:
        """A long message in two parts is read as one in one piece."""
        body = bson.encode({"a": "x" * 100})
        for message, plain in (
            (m.OpMsg(body), True),
            (m.OpMsg(body, (), m.MORE_TO_COME), True),
            (m.OpMsg(body, (), m.EXHAUST_ALLOWED), False),
            (m.OpMsg(body, (("documents", (body,)),)), False),
            (m.OpQuery("a.b", body), False),
        ):
            frame = m.encode(message, 5, 3)
            parts = LongFrame(frame[:21], frame[21:])
            self.assertEqual(m.plain_msg(parts), m.plain_msg(frame))
            self.assertEqual(m.plain_msg(parts) is not None, plain)
            self.assertEqual(m.decode(parts), m.decode(frame))
        cut = m.encode(m.OpMsg(body), 5, 3)
        for broken in (cut[:-1], cut + b"\0", cut[:-1] + b"\1", cut[:21] + b"\0" + cut[22:]):
            self.assertIsNone(m.plain_msg(LongFrame(broken[:21], broken[21:])), broken)

    def test_plain_msg_leaves_the_rest(self) -> None:
        """The hot path refuses whatever is not plain."""
        for message in (
            m.OpMsg(PING, (("a", ()),)),
            m.OpMsg(PING, (), m.CHECKSUM_PRESENT),
            m.OpReply((PING,)),
            m.OpKillCursors(()),
        ):
            self.assertIsNone(m.plain_msg(m.encode(message, 1)), message)

    def test_known_bytes(self) -> None:
        """An OP_MSG has the layout of the specification, byte by byte."""
        body = b"\x05\0\0\0\0"
        self.assertEqual(
            m.encode_msg(7, body, [("d", [body])], m.EXHAUST_ALLOWED),
            b"\x26\0\0\0"
            b"\x07\0\0\0"
            b"\0\0\0\0"
            b"\xdd\x07\0\0"
            b"\0\0\x01\0"
            b"\0" + body + b"\x01"
            b"\x0b\0\0\0"
            b"d\0" + body,
        )

    def test_sections_in_any_order(self) -> None:
        """The body may follow the document sequences."""
        sequence = b"\x01" + pack("<i", 6 + len(PING)) + b"d\0" + PING
        _, message = m.decode(framed(m.OP_MSG, bytes(4) + sequence + b"\0" + PING))
        self.assertEqual(message, m.OpMsg(PING, (("d", (PING,)),)))

    def test_optional_flags_are_ignored(self) -> None:
        """Unknown flag bits from 16 on mean nothing."""
        _, message = m.decode(framed(m.OP_MSG, pack("<I", 1 << 31) + b"\0" + PING))
        assert isinstance(message, m.OpMsg)
        self.assertFalse(message.more_to_come or message.exhaust_allowed)

    def test_compressed_keeps_numbers(self) -> None:
        """Wrapping a message keeps its numbers and remembers its opcode."""
        data = m.encode(m.OpReply((PING,)), 3, 4)
        header, message = m.decode(m.encode_compressed(data, 9, lambda raw: raw[::-1]))
        self.assertEqual((header.request_id, header.response_to), (3, 4))
        self.assertEqual(message, m.OpCompressed(m.OP_REPLY, len(data) - 16, 9, data[:15:-1]))

    def test_inline_sequences(self) -> None:
        """A sequence is an array field of the command that it belongs to."""
        rows = [{"a": index} for index in range(12)]
        body = m.inline_sequences(
            bson.encode({"insert": "c"}),
            [("documents", [bson.encode(row) for row in rows]), ("none", [])],
        )
        self.assertEqual(bson.decode(body), {"insert": "c", "documents": rows, "none": []})


class ChecksumTests(SynchronousTestCase):
    """CRC-32C."""

    def test_known_values(self) -> None:
        """The vectors of RFC 3720 come out."""
        self.assertEqual(m.crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(m.crc32c(bytes(32)), 0x8A9136AA)
        self.assertEqual(m.crc32c(b"6789", m.crc32c(b"12345")), 0xE3069283)

    def test_any_changed_byte_is_found(self) -> None:
        """A message that was changed on its way is refused."""
        good = m.encode(m.OpMsg(PING, (), m.CHECKSUM_PRESENT), 1)
        for index in (4, 25, len(good) - 1):
            bad = bytearray(good)
            bad[index] ^= 0x10
            error = self.assertRaises(ProtocolError, m.decode, bytes(bad))
            self.assertIn("checksum", str(error))


class RefusalTests(SynchronousTestCase):
    """What the specification forbids is a L{ProtocolError} that says why."""

    def refused(self, data: bytes, why: str) -> None:
        """Assert that a message is refused for a reason."""
        self.assertIn(why, str(self.assertRaises(ProtocolError, m.decode, data)))

    def test_headers(self) -> None:
        """Short headers, wrong lengths and unknown opcodes are refused."""
        self.refused(bytes(15), "15 bytes has no room for its header")
        self.refused(pack("<iiii", 17, 0, 0, 2013), "announces a length of 17")
        self.refused(framed(1000, b""), "unknown opcode 1000")
        self.refused(framed(-1, b""), "unknown opcode -1")

    def test_op_msg(self) -> None:
        """So is every way to write a wrong OP_MSG."""
        body = b"\0" + PING
        flags = bytes(4)
        sequence = b"\x01" + pack("<i", 6) + b"d\0"
        for payload, why in [
            (b"\0\0", "ends within its flags"),
            (flags, "no section of kind 0"),
            (flags + sequence, "no section of kind 0"),
            (pack("<I", 4) + body, "unknown required flag bits 0x0004"),
            (pack("<I", 1 << 15) + body, "unknown required flag bits 0x8000"),
            (pack("<I", 1) + b"\0\0", "ends within its checksum"),
            (flags + body + body, "more than one section of kind 0"),
            (flags + body + sequence + sequence, "two document sequences of one name"),
            (flags + b"\x02" + PING, "unknown kind 2"),
            (flags + b"\0" + PING[:-1], "announces"),
            (flags + b"\0" + PING[:-1] + b"x", "zero byte"),
            (flags + b"\0\x01", "1 bytes where a document should begin"),
            (flags + b"\0" + pack("<i", -5) + bytes(9), "announces -5 bytes"),
            (flags + body + b"\x01" + pack("<i", 7) + b"d\0", "announces 7 bytes where 6"),
            (flags + body + b"\x01" + pack("<i", -1) + b"d\0", "announces -1 bytes"),
            (flags + body + b"\x01\x01", "section size"),
            (flags + body + b"\x01" + pack("<i", 5) + b"dd\0", "name without an end"),
            (flags + body + b"\x01" + pack("<i", 6) + b"\xff\0", "not UTF-8"),
        ]:
            self.refused(framed(m.OP_MSG, payload), why)

    def test_sequence_stays_inside(self) -> None:
        """A document cannot reach beyond the sequence that it is in."""
        payload = bytes(4) + b"\0" + PING + b"\x01" + pack("<i", 11) + b"d\0" + PING
        self.refused(framed(m.OP_MSG, payload), f"{len(PING)} bytes where 5 are left")

    def test_legacy(self) -> None:
        """Counts that do not fit and bytes too many are refused."""
        reply = bytearray(m.encode(m.OpReply((PING,)), 1))
        pack_into("<i", reply, 32, 2)
        self.refused(bytes(reply), "announces 2 documents but has 1")
        self.refused(framed(m.OP_KILL_CURSORS, pack("<ii", 0, -1)), "announces -1 cursors")
        self.refused(framed(m.OP_KILL_CURSORS, pack("<ii", 0, 2**30)), "in 0 bytes")
        delete = m.encode(m.OpDelete("a.b", PING), 1)
        self.refused(framed(m.OP_DELETE, delete[16:] + b"\0"), "OP_DELETE has 1 bytes too many")
        self.refused(framed(m.OP_QUERY, bytes(4) + b"a" * 5000), "namespace without an end")

    def test_compressed(self) -> None:
        """Nesting and negative sizes are refused."""
        self.refused(framed(m.OP_COMPRESSED, pack("<iiB", 2012, 9, 1)), "another OP_COMPRESSED")
        self.refused(framed(m.OP_COMPRESSED, pack("<iiB", 2013, -1, 1)), "size of -1")
        self.refused(framed(m.OP_COMPRESSED, pack("<ii", 2013, 1)), "compressor id")

    @reproducible(60)
    @given(any_message, st.data())
    def test_truncated(self, message: m.Message, data: st.DataObject) -> None:
        """A message cut short is refused, or decodes to a lesser message."""
        whole = m.encode(message, 1)[16:]
        part = whole[: data.draw(st.integers(0, max(0, len(whole) - 1)))]
        try:
            _, decoded = m.decode(framed(m.decode_header(m.encode(message, 1)).opcode, part))
        except ProtocolError:
            return
        if whole:
            self.assertNotEqual(decoded, message)

    @reproducible(60)
    @given(st.sampled_from(sorted(m._DECODERS)), st.binary(max_size=80))
    def test_noise(self, opcode: int, payload: bytes) -> None:
        """Whatever follows the header, nothing but L{ProtocolError} is raised."""
        try:
            m.decode(framed(opcode, payload))
        except ProtocolError as error:
            self.assertTrue(str(error))


class MisuseTests(SynchronousTestCase):
    """What cannot be written is refused before it is sent."""

    def test_zero_byte(self) -> None:
        """A zero byte in a name would end it early."""
        self.assertRaises(InvalidName, m.encode, m.OpGetMore("a\0b", 1), 1)
        self.assertRaises(InvalidName, m.encode_msg, 1, PING, [("a\0", [])])

    def test_too_long_for_the_header(self) -> None:
        """Lengths that an int32 cannot hold are refused."""

        class Huge(bytes):
            def __len__(self) -> int:
                return 2**31

        for call in (
            lambda: m.encode_msg(1, Huge()),
            lambda: m.encode_msg(1, PING, [("d", [Huge()])]),
            lambda: m.encode(m.OpMsg(Huge()), 1),
            lambda: m.encode(m.OpInsert("a.b", (Huge(),)), 1),
        ):
            self.assertRaises(DocumentTooLarge, call)

    def test_no_message(self) -> None:
        """Something that is no message is a C{TypeError}."""
        self.assertRaises(TypeError, m.encode, (b"", ()), 1)
