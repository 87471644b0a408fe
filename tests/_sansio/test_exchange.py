"""
Tests for L{txmongokit._sansio.exchange}.
"""

from __future__ import annotations

import zlib
from struct import pack
from typing import Any

import bson
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit._sansio import messages as m
from txmongokit._sansio.compression import available_compressors, make_compressor
from txmongokit._sansio.exchange import Exchange, Reply
from txmongokit.errors import DocumentTooLarge, InvalidOperation, ProtocolError

PING = bson.encode({"ping": 1, "$db": "admin"})
OK = bson.encode({"ok": 1.0})


def answer(response_to: int, body: bytes = OK, flags: int = 0, own_id: int = 900) -> bytes:
    """A server's reply."""
    return m.encode(m.OpMsg(body, (), flags), own_id, response_to)


class SendTests(SynchronousTestCase):
    """Requests."""

    def test_bytes(self) -> None:
        """A request is an OP_MSG with the number that is given back."""
        request_id, data = Exchange().send(PING, [("d", [OK, OK])], exhaust_allowed=True)
        header, message = m.decode(data)
        self.assertEqual((header.request_id, header.response_to), (request_id, 0))
        self.assertEqual(message, m.OpMsg(PING, (("d", (OK, OK)),), m.EXHAUST_ALLOWED))

    def test_numbers_grow_and_wrap(self) -> None:
        """Numbers grow, wrap to 1, and pass over those in use."""
        exchange = Exchange()
        self.assertEqual([exchange.send(PING)[0] for _ in range(3)], [1, 2, 3])
        self.assertEqual(next(exchange.receive(answer(1))).request_id, 1)
        exchange._last_id = 2**31 - 2
        self.assertEqual([exchange.send(PING)[0] for _ in range(3)], [2**31 - 1, 1, 4])

    def test_more_to_come_expects_nothing(self) -> None:
        """After an unacknowledged request no reply is awaited."""
        exchange = Exchange()
        request_id, data = exchange.send(PING, more_to_come=True)
        self.assertEqual(m.decode(data)[1], m.OpMsg(PING, (), m.MORE_TO_COME))
        self.assertEqual(exchange.in_flight, 0)
        self.assertRaises(ProtocolError, list, exchange.receive(answer(request_id)))

    def test_too_large(self) -> None:
        """The limit is exact, and nothing is expected after a refusal."""
        exchange = Exchange(max_message_size=21 + len(PING))
        exchange.send(PING)
        error = self.assertRaises(DocumentTooLarge, exchange.send, PING + b"\0")
        self.assertIn(f"{22 + len(PING)} bytes is longer than the {21 + len(PING)}", str(error))
        self.assertRaises(DocumentTooLarge, exchange.send_query, "admin.$cmd", PING)
        self.assertEqual(exchange.in_flight, 1)
        exchange.max_message_size += 1
        exchange.send(PING + b"\0")

    def test_limit_is_for_receiving_too(self) -> None:
        """What the handshake told limits what is accepted."""
        exchange = Exchange()
        exchange.max_message_size = len(answer(1)) - 1
        exchange.max_message_size = len(answer(1))
        exchange.send(b"\x05\0\0\0\0")
        self.assertEqual(list(exchange.receive(answer(1))), [Reply(1, OK, False)])
        exchange.send(b"\x05\0\0\0\0")
        exchange.max_message_size -= 1
        self.assertRaises(ProtocolError, list, exchange.receive(answer(2)))


class CompressionTests(SynchronousTestCase):
    """OP_COMPRESSED in both directions."""

    def test_both_ways(self) -> None:
        """Each compressor is used for requests, unless told otherwise."""
        for name in available_compressors():
            compressor = make_compressor(name)
            exchange = Exchange()
            exchange.compressor = compressor
            plain = m.decode(exchange.send(PING, compress=False)[1])[1]
            self.assertEqual(plain, m.OpMsg(PING))
            message = m.decode(exchange.send(PING)[1])[1]
            assert isinstance(message, m.OpCompressed)
            self.assertEqual(message.compressor_id, compressor.number)
            wrapped = m.encode_compressed(answer(2), compressor.number, compressor.compress)
            self.assertEqual(list(exchange.receive(wrapped)), [Reply(2, OK, False)])

    def test_not_negotiated(self) -> None:
        """A reply may be compressed with whatever the server likes."""
        exchange = Exchange()
        exchange.send(PING)
        wrapped = m.encode_compressed(answer(1), 2, zlib.compress)
        self.assertEqual(list(exchange.receive(wrapped)), [Reply(1, OK, False)])

    def test_checksum_inside(self) -> None:
        """A checksum is that of the message before it was compressed."""
        exchange = Exchange()
        exchange.send(PING)
        exchange.send(PING)
        good = m.encode_compressed(answer(1, OK, m.CHECKSUM_PRESENT), 2, zlib.compress)
        self.assertEqual(list(exchange.receive(good)), [Reply(1, OK, False)])
        bad = answer(2, OK, m.CHECKSUM_PRESENT)[:-1] + b"\0"
        self.assertRaises(
            ProtocolError, list, exchange.receive(m.encode_compressed(bad, 2, zlib.compress))
        )

    def test_limit_holds_uncompressed(self) -> None:
        """A reply may not grow beyond the limit when it is decompressed."""
        exchange = Exchange(max_message_size=1000)
        exchange.send(PING)
        bomb = m.encode_compressed(answer(1, bson.encode({"a": bytes(2000)})), 2, zlib.compress)
        self.assertLess(len(bomb), 1000)
        error = self.assertRaises(ProtocolError, list, exchange.receive(bomb))
        self.assertIn("where 984 are allowed", str(error))


class ReplyTests(SynchronousTestCase):
    """Replies find their requests."""

    @reproducible(60)
    @given(st.permutations(range(1, 6)), st.integers(1, 200), st.sets(st.integers(1, 5)))
    def test_any_order_and_split(self, order: list[int], step: int, dropped: set[int]) -> None:
        """Whatever the order and the chunks, abandoned replies excepted."""
        exchange = Exchange()
        bodies = {exchange.send(PING)[0]: bson.encode({"n": n}) for n in range(5)}
        for request_id in dropped:
            exchange.abandon(request_id)
            exchange.abandon(request_id)
        self.assertEqual((exchange.in_flight, exchange.abandoned), (5, len(dropped)))
        stream = b"".join(answer(request_id, bodies[request_id]) for request_id in order)
        found: list[Reply] = []
        for start in range(0, len(stream), step):
            found += exchange.receive(stream[start : start + step])
        self.assertEqual(found, [Reply(i, bodies[i], False) for i in order if i not in dropped])
        self.assertEqual((exchange.in_flight, exchange.abandoned), (0, 0))

    def test_off_the_books_before_it_is_given(self) -> None:
        """Sending, abandoning and receiving between two replies is safe."""
        exchange = Exchange()
        for _ in range(3):
            exchange.send(PING)
        replies = exchange.receive(answer(1) + answer(2) + answer(3))
        self.assertEqual(next(replies).request_id, 1)
        self.assertEqual(exchange.in_flight, 2)
        exchange.abandon(2)
        exchange.abandon(1)
        self.assertEqual(exchange.send(PING)[0], 4)
        self.assertEqual([r.request_id for r in exchange.receive(answer(4))], [3, 4])
        self.assertEqual(list(replies), [])
        self.assertEqual((exchange.in_flight, exchange.abandoned), (0, 0))

    def test_received_though_not_read(self) -> None:
        """Data counts as received when the iterator is dropped."""
        exchange = Exchange()
        exchange.send(PING)
        exchange.receive(answer(1)[:20])
        self.assertEqual(list(exchange.receive(answer(1)[20:])), [Reply(1, OK, False)])

    def test_sequences_are_inlined(self) -> None:
        """A reply's document sequences are fields like any other."""
        exchange = Exchange()
        exchange.send(PING)
        data = m.encode(m.OpMsg(OK, (("rows", (OK,)),)), 9, 1)
        (reply,) = exchange.receive(data)
        self.assertEqual(bson.decode(reply.body), {"ok": 1.0, "rows": [{"ok": 1.0}]})


class StreamTests(SynchronousTestCase):
    """Several replies to one request."""

    def test_chain(self) -> None:
        """Each reply answers the one before, under the request's number."""
        exchange = Exchange()
        request_id, _ = exchange.send(PING, exhaust_allowed=True)
        more = m.MORE_TO_COME
        replies = [
            *exchange.receive(answer(request_id, OK, more, own_id=77)),
            *exchange.receive(answer(77, OK, more, own_id=78) + answer(78, OK, 0, own_id=79)),
        ]
        self.assertEqual([r.request_id for r in replies], [request_id] * 3)
        self.assertEqual([r.more_to_come for r in replies], [True, True, False])
        self.assertEqual(exchange.in_flight, 0)
        exchange.send(PING)

    def test_wrong_link(self) -> None:
        """A stream's reply that answers an earlier one is refused."""
        exchange = Exchange()
        exchange.send(PING, exhaust_allowed=True)
        list(exchange.receive(answer(1, OK, m.MORE_TO_COME, own_id=77)))
        self.assertRaises(ProtocolError, list, exchange.receive(answer(1)))

    def test_abandoned(self) -> None:
        """An abandoned stream is swallowed to its end."""
        exchange = Exchange()
        request_id, _ = exchange.send(PING, exhaust_allowed=True)
        list(exchange.receive(answer(request_id, OK, m.MORE_TO_COME, own_id=77)))
        exchange.abandon(request_id)
        self.assertEqual(list(exchange.receive(answer(77, OK, m.MORE_TO_COME, own_id=78))), [])
        self.assertEqual((exchange.in_flight, exchange.abandoned), (1, 1))
        self.assertEqual(list(exchange.receive(answer(78))), [])
        self.assertEqual((exchange.in_flight, exchange.abandoned), (0, 0))

    def test_alone(self) -> None:
        """Nothing goes beside a stream."""
        exchange = Exchange()
        exchange.send(PING)
        self.assertRaises(InvalidOperation, exchange.send, PING, exhaust_allowed=True)
        list(exchange.receive(answer(1)))
        exchange.send(PING, exhaust_allowed=True)
        self.assertRaises(InvalidOperation, exchange.send, PING)
        self.assertRaises(InvalidOperation, exchange.send_query, "admin.$cmd", PING)

    def test_not_asked_for(self) -> None:
        """A stream that was not allowed is refused."""
        exchange = Exchange()
        exchange.send(PING)
        error = self.assertRaises(
            ProtocolError, list, exchange.receive(answer(1, OK, m.MORE_TO_COME))
        )
        self.assertIn("announced more replies to request 1", str(error))


class LegacyTests(SynchronousTestCase):
    """OP_QUERY and OP_REPLY."""

    def ask(self, reply: m.OpReply) -> list[Reply]:
        """What a reply to a query gives."""
        exchange = Exchange()
        request_id, data = exchange.send_query("admin.$cmd", PING)
        message = m.decode(data)[1]
        self.assertEqual(message, m.OpQuery("admin.$cmd", PING, None, 0, 0, -1))
        found = list(exchange.receive(m.encode(reply, 9, request_id)))
        self.assertEqual(exchange.in_flight, 0)
        return found

    def test_documents(self) -> None:
        """The documents come one after the other, with the message."""
        for documents in ((OK,), (), (OK, PING)):
            message = m.OpReply(documents, 5)
            self.assertEqual(self.ask(message), [Reply(1, b"".join(documents), False, message)])

    def test_failures(self) -> None:
        """Failure flags give documents as failing commands give them."""
        failure = bson.encode({"$err": "no", "code": 13, "ok": 1})
        (reply,) = self.ask(m.OpReply((failure,), flags=m.REPLY_QUERY_FAILURE))
        self.assertEqual(bson.decode(reply.body), {"code": 13, "ok": 0.0, "errmsg": "no"})
        (reply,) = self.ask(m.OpReply((), flags=m.REPLY_CURSOR_NOT_FOUND))
        self.assertEqual(bson.decode(reply.body)["code"], 43)

    def test_broken_failures(self) -> None:
        """A failure without a readable document is refused."""
        flags = m.REPLY_QUERY_FAILURE
        self.assertRaises(ProtocolError, self.ask, m.OpReply((), flags=flags))
        broken = b"\x07\0\0\0\x7fx\0"
        self.assertRaises(ProtocolError, self.ask, m.OpReply((broken,), flags=flags))

    def test_wrong_kind(self) -> None:
        """OP_REPLY answers no OP_MSG, nor the other way round."""
        exchange = Exchange()
        exchange.send(PING)
        self.assertRaises(ProtocolError, list, exchange.receive(m.encode(m.OpReply((OK,)), 9, 1)))
        exchange = Exchange()
        exchange.send_query("a.b", PING)
        self.assertRaises(ProtocolError, list, exchange.receive(answer(1)))


class FailureTests(SynchronousTestCase):
    """A broken protocol ends the conversation."""

    def test_unexpected(self) -> None:
        """Replies to nothing and requests from a server are refused."""
        for data, why in [
            (answer(5), "request 5, which awaits no reply"),
            (m.encode(m.OpGetMore("a.b", 1), 9), "the server sent a request: OpGetMore"),
            (pack("<i", 5), "length of 5 bytes"),
        ]:
            error = self.assertRaises(ProtocolError, list, Exchange().receive(data))
            self.assertIn(why, str(error))

    def test_for_good(self) -> None:
        """Every later call raises the same error."""
        exchange = Exchange()
        exchange.send(PING)
        self.assertIsNone(exchange.failed)
        replies = exchange.receive(answer(1) + answer(5) + answer(6))
        self.assertEqual(next(replies).request_id, 1)
        error = self.assertRaises(ProtocolError, next, replies)
        self.assertIs(exchange.failed, error)
        calls: list[tuple[Any, ...]] = [
            (exchange.send, PING),
            (exchange.send_query, "a.b", PING),
            (exchange.receive, b""),
            (exchange.abandon, 1),
        ]
        for call, *args in calls:
            self.assertIs(self.assertRaises(ProtocolError, call, *args), error)

    def test_an_outer_iterator_learns_of_it(self) -> None:
        """An iterator begun before the failure raises it too."""
        exchange = Exchange()
        exchange.send(PING)
        outer = exchange.receive(answer(1) + answer(7))
        next(outer)
        error = self.assertRaises(ProtocolError, list, exchange.receive(b""))
        self.assertIs(self.assertRaises(ProtocolError, next, outer), error)

    @reproducible(60)
    @given(st.lists(st.binary(max_size=40), max_size=5))
    def test_noise(self, chunks: list[bytes]) -> None:
        """Noise raises nothing but L{ProtocolError}."""
        exchange = Exchange()
        exchange.send(PING)
        try:
            for chunk in chunks:
                list(exchange.receive(chunk))
        except ProtocolError as error:
            self.assertIs(exchange.failed, error)
