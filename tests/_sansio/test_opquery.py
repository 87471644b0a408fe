"""
Tests for L{txmongokit._sansio.opquery}.
"""

from __future__ import annotations

import zlib
from typing import Any

import bson
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit import rawbson
from txmongokit._sansio import messages as m
from txmongokit._sansio.compression import make_compressor
from txmongokit._sansio.exchange import Exchange, Reply
from txmongokit._sansio.framing import FrameReader
from txmongokit._sansio.opquery import QueryExchange
from txmongokit.errors import ConfigurationError, ProtocolError

OLD, MIDDLE = 3, 5
SECONDARY = {"$readPreference": {"mode": "secondary"}}


def command(**fields: Any) -> bytes:
    """An encoded command as it is given to any exchange."""
    return bson.encode({**fields, "$db": "db"})


def sent(data: bytes) -> list[m.Message]:
    """The messages in what is to be written."""
    reader = FrameReader()
    reader.feed(data)
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(m.decode(frame)[1])
    return found


def query(exchange: QueryExchange, **fields: Any) -> m.OpQuery:
    """The OP_QUERY that a command becomes."""
    (message,) = sent(exchange.send(command(**fields))[1])
    assert isinstance(message, m.OpQuery)
    return message


def answered(exchange: QueryExchange, message: m.OpReply, **fields: Any) -> dict[str, Any]:
    """What the reply to a command is understood as."""
    request_id, _ = exchange.send(command(**fields))
    (reply,) = exchange.receive(m.encode(message, 900, request_id))
    assert reply.request_id == request_id
    return bson.decode(reply.body)


def reply_of(*documents: dict[str, Any], **fields: Any) -> m.OpReply:
    """An OP_REPLY."""
    return m.OpReply(tuple(bson.encode(each) for each in documents), **fields)


class CommandTests(SynchronousTestCase):
    """Commands in OP_QUERY."""

    def test_command(self) -> None:
        """A command is a query of C{$cmd} for one document, without C{$db}."""
        message = query(QueryExchange(wire_version=MIDDLE), count="c", query={"a": 1})
        self.assertEqual(
            message,
            m.OpQuery("db.$cmd", bson.encode({"count": "c", "query": {"a": 1}}), None, 0, 0, -1),
        )

    def test_statements(self) -> None:
        """Document sequences become arrays, and what is no more known is left out."""
        exchange = QueryExchange(wire_version=MIDDLE)
        body = command(**{"insert": "c", "ordered": True, "$clusterTime": {"clusterTime": 1}})
        documents = [bson.encode({"_id": number}) for number in range(3)]
        (message,) = sent(exchange.send(body, [("documents", documents)])[1])
        assert isinstance(message, m.OpQuery)
        self.assertEqual(
            bson.decode(message.query),
            {"insert": "c", "ordered": True, "documents": [{"_id": 0}, {"_id": 1}, {"_id": 2}]},
        )

    @reproducible(60)
    @given(
        st.dictionaries(
            st.text(st.characters(codec="ascii", categories=["L"]), min_size=1),
            st.integers(-(2**63), 2**63 - 1) | st.binary() | st.text(),
            max_size=5,
        )
    )
    def test_lossless(self, document: dict[str, Any]) -> None:
        """What the user wrote comes out as the same bytes."""
        fields = {"ping": 1, "comment": document}
        message = query(QueryExchange(wire_version=MIDDLE), **fields)
        self.assertEqual(message.query, bson.encode(fields))

    def test_reply(self) -> None:
        """The one document of a command's reply is its reply; none or two break the protocol."""
        for version in (OLD, MIDDLE):
            exchange = QueryExchange(wire_version=version)
            self.assertEqual(answered(exchange, reply_of({"ok": 1.0}), ping=1), {"ok": 1.0})
            for documents in ([], [{"ok": 1.0}] * 2):
                exchange = QueryExchange(wire_version=version)
                self.assertRaises(ProtocolError, answered, exchange, reply_of(*documents), ping=1)

    def test_read_preference(self) -> None:
        """It becomes a flag, and is wrapped for a mongos that must see more of it."""
        exchange = QueryExchange(wire_version=MIDDLE)
        cases: list[tuple[dict[str, Any], bool]] = [
            ({"mode": "secondary"}, True),
            ({"mode": "secondaryPreferred"}, False),
            ({"mode": "secondaryPreferred", "tags": [{"a": "b"}]}, True),
            ({"mode": "nearest"}, True),
        ]
        for preference, seen in cases:
            for mongos in (False, True):
                exchange._mongos = mongos
                message = query(exchange, **{"count": "c", "$readPreference": preference})
                self.assertEqual(message.flags, 4)
                wanted: dict[str, Any] = {"count": "c"}
                if mongos and seen:
                    wanted = {"$query": wanted, "$readPreference": preference}
                self.assertEqual(bson.decode(message.query), wanted)
        message = query(exchange, **{"count": "c", "$readPreference": {"mode": "primary"}})
        self.assertEqual((message.flags, bson.decode(message.query)), (0, {"count": "c"}))

    def test_unacknowledged(self) -> None:
        """The server answers what nobody waits for; that is swallowed and keeps nobody waiting."""
        exchange = QueryExchange(wire_version=MIDDLE)
        request_id, _ = exchange.send(command(insert="c"), more_to_come=True)
        self.assertEqual((exchange.in_flight, exchange.abandoned), (0, 0))
        other, _ = exchange.send(command(ping=1))
        self.assertEqual(exchange.in_flight, 1)
        data = m.encode(reply_of({"ok": 1.0}), 900, request_id)
        self.assertEqual(list(exchange.receive(data)), [])
        data = m.encode(reply_of({"ok": 1.0}), 901, other)
        self.assertEqual([reply.request_id for reply in exchange.receive(data)], [other])

    def test_abandoned(self) -> None:
        """What nobody waits for any more is swallowed, too."""
        exchange = QueryExchange(wire_version=OLD)
        request_id, _ = exchange.send(command(find="c"))
        exchange.abandon(request_id)
        self.assertEqual((exchange.in_flight, exchange.abandoned), (1, 1))
        data = m.encode(reply_of({"a": 1}), 900, request_id)
        self.assertEqual(list(exchange.receive(data)), [])
        self.assertEqual((exchange.in_flight, exchange.abandoned), (0, 0))
        self.assertEqual(exchange._answers, {})

    def test_compressed(self) -> None:
        """A server of 3.4 may be sent compressed messages, and may send such."""
        exchange = QueryExchange(wire_version=MIDDLE, compressor=make_compressor("zlib", -1))
        request_id, data = exchange.send(command(ping=1))
        (message,) = sent(data)
        assert isinstance(message, m.OpCompressed)
        self.assertEqual(message.original_opcode, m.OP_QUERY)
        self.assertIsInstance(
            sent(exchange.send(command(saslStart=1), compress=False)[1])[0], m.OpQuery
        )
        plain = m.encode(reply_of({"ok": 1.0}), 900, request_id)
        (reply,) = exchange.receive(m.encode_compressed(plain, 2, zlib.compress))
        self.assertEqual(bson.decode(reply.body), {"ok": 1.0})

    def test_wrong_message(self) -> None:
        """An OP_MSG in answer to an OP_QUERY breaks the protocol."""
        exchange = QueryExchange(wire_version=MIDDLE)
        request_id, _ = exchange.send(command(ping=1))
        data = m.encode(m.OpMsg(bson.encode({"ok": 1.0})), 900, request_id)
        self.assertRaises(ProtocolError, list, exchange.receive(data))

    def test_message_size(self) -> None:
        """What such a server says of messages does not limit its replies."""
        exchange = QueryExchange(wire_version=MIDDLE)
        before = exchange.max_message_size
        exchange.max_message_size = 1000
        self.assertEqual(exchange.max_message_size, before)
        found = answered(exchange, reply_of({"ok": 1.0, "a": "x" * 5000}), ping=1)
        self.assertEqual(len(found["a"]), 5000)


class OptionTests(SynchronousTestCase):
    """What servers do not know."""

    def refused(self, version: int, **fields: Any) -> str:
        """The sentence with which a command is refused."""
        exchange = QueryExchange(wire_version=version)
        error = self.assertRaises(ConfigurationError, exchange.send, command(**fields))
        self.assertEqual(exchange.in_flight, 0)
        return str(error)

    def test_refused(self) -> None:
        """An option that an old server would ignore is refused, with the version that has it."""
        collation = {"locale": "de"}
        cases: list[tuple[int, str, dict[str, Any]]] = [
            (4, "3.4", {"find": "c", "collation": collation}),
            (OLD, "3.2", {"count": "c", "readConcern": {"level": "majority"}}),
            (MIDDLE, "3.6", {"findAndModify": "c", "arrayFilters": []}),
            (MIDDLE, "3.6", {"aggregate": "c", "pipeline": [{"$changeStream": {}}]}),
            (MIDDLE, "3.6", {"aggregate": "c", "pipeline": [], "hint": "a_1"}),
            (MIDDLE, "5.0", {"aggregate": "c", "pipeline": [], "let": {}}),
            (MIDDLE, "4.4", {"find": "c", "allowDiskUse": True}),
            (4, "3.4", {"createIndexes": "c", "indexes": [{"key": {}, "collation": collation}]}),
            (MIDDLE, "4.4", {"findAndModify": "c", "hint": "a_1"}),
        ]
        for version, since, fields in cases:
            sentence = self.refused(version, **fields)
            self.assertIn(f"MongoDB {since}", sentence)
            self.assertIn(f"wire version {version}", sentence)
        self.assertIn("maxKey", self.refused(OLD, find="c", maxKey=1))

    def test_statements_refused(self) -> None:
        """Statements are looked into, whichever way they come."""
        statement = {"q": {}, "u": {}, "collation": {"locale": "de"}}
        self.assertIn("collation", self.refused(4, update="c", updates=[statement]))
        for field, name, option in (
            ("updates", "update", "arrayFilters"),
            ("updates", "update", "hint"),
            ("deletes", "delete", "hint"),
            ("deletes", "delete", "collation"),
        ):
            exchange = QueryExchange(wire_version=4)
            sequence = (field, [bson.encode({"q": {}}), bson.encode({"q": {}, option: 1})])
            error = self.assertRaises(
                ConfigurationError, exchange.send, command(**{name: "c"}), [sequence]
            )
            self.assertIn(option, str(error))

    def test_known(self) -> None:
        """What a server knows is sent."""
        exchange = QueryExchange(wire_version=MIDDLE)
        fields: dict[str, Any] = {
            "find": "c",
            "collation": {"locale": "de"},
            "readConcern": {"level": "local"},
        }
        self.assertEqual(bson.decode(query(exchange, **fields).query), fields)
        exchange = QueryExchange(wire_version=4)
        fields = {"find": "c", "hint": "a_1"}
        self.assertEqual(bson.decode(query(exchange, **fields).query), fields)
        # In user documents there may be any field.
        fields = {"insert": "c", "documents": [{"collation": 1, "hint": 2}]}
        self.assertEqual(bson.decode(query(exchange, **fields).query), fields)

    def test_left_out(self) -> None:
        """Write concerns and validation are left out where the specification says so."""
        concern = {"writeConcern": {"w": 1}}
        cases = [
            ("insert", 3, True),
            ("findAndModify", 3, False),
            ("findAndModify", 4, True),
            ("create", 4, False),
            ("create", 5, True),
        ]
        for name, version, there in cases:
            message = query(QueryExchange(wire_version=version), **{name: "c", **concern})
            self.assertEqual("writeConcern" in bson.decode(message.query), there)
        for version, there in ((3, False), (4, True)):
            message = query(
                QueryExchange(wire_version=version), insert="c", bypassDocumentValidation=True
            )
            self.assertEqual("bypassDocumentValidation" in bson.decode(message.query), there)


class FindTests(SynchronousTestCase):
    """Finds before they were commands."""

    def test_plain(self) -> None:
        """A filter alone is the query."""
        message = query(QueryExchange(wire_version=OLD), find="c.d", filter={"a": 1})
        self.assertEqual(message, m.OpQuery("db.c.d", bson.encode({"a": 1}), None, 0, 0, 0))

    def test_modifiers(self) -> None:
        """What is besides the filter becomes modifiers, flags and numbers."""
        message = query(
            QueryExchange(wire_version=OLD),
            **{
                "find": "c",
                "filter": {"a": 1},
                "projection": {"b": 1},
                "sort": {"a": -1, "b": 1},
                "hint": "a_1",
                "comment": "why",
                "maxTimeMS": 5,
                "min": {"a": 0},
                "max": {"a": 9},
                "returnKey": True,
                "showRecordId": True,
                "skip": 7,
                "batchSize": 50,
                "tailable": True,
                "awaitData": True,
                "noCursorTimeout": True,
                "allowPartialResults": True,
                "oplogReplay": True,
                **SECONDARY,
            },
        )
        assert message.fields is not None
        self.assertEqual(bson.decode(message.fields), {"b": 1})
        self.assertEqual(message.flags, 2 | 4 | 8 | 16 | 32 | 128)
        self.assertEqual((message.number_to_skip, message.number_to_return), (7, 50))
        decoded = bson.decode(message.query)
        self.assertEqual(next(iter(decoded)), "$query")
        self.assertEqual(
            decoded,
            {
                "$query": {"a": 1},
                "$orderby": {"a": -1, "b": 1},
                "$hint": "a_1",
                "$comment": "why",
                "$maxTimeMS": 5,
                "$min": {"a": 0},
                "$max": {"a": 9},
                "$returnKey": True,
                "$showDiskLoc": True,
            },
        )

    def test_flags_off(self) -> None:
        """An option that is false sets no flag."""
        message = query(QueryExchange(wire_version=OLD), find="c", tailable=False)
        self.assertEqual(message.flags, 0)

    def test_numbers(self) -> None:
        """Limit and batch size share one number (find specification's table)."""
        cases: list[tuple[dict[str, Any], int]] = [
            ({}, 0),
            ({"batchSize": 10}, 10),
            ({"batchSize": 1}, 2),
            ({"limit": 5}, 5),
            ({"limit": 5, "batchSize": 3}, 3),
            ({"limit": 3, "batchSize": 5}, 3),
            ({"limit": 1}, -1),
            ({"limit": 1, "singleBatch": True}, -1),
            ({"limit": 5, "singleBatch": True}, -5),
            ({"batchSize": 4, "singleBatch": True}, -4),
        ]
        for numbers, wanted in cases:
            message = query(QueryExchange(wire_version=OLD), find="c", **numbers)
            self.assertEqual(message.number_to_return, wanted, numbers)

    def test_query_in_filter(self) -> None:
        """A field called C{query} is no query; one called C{$query} is what it says."""
        exchange = QueryExchange(wire_version=OLD)
        message = query(exchange, find="c", filter={"query": 1})
        self.assertEqual(bson.decode(message.query), {"$query": {"query": 1}})
        written = {"$query": {"a": 1}, "$orderby": {"a": 1}}
        self.assertEqual(bson.decode(query(exchange, find="c", filter=written).query), written)
        message = query(exchange, find="c", filter=written, maxTimeMS=3)
        self.assertEqual(bson.decode(message.query), {**written, "$maxTimeMS": 3})

    def test_mongos(self) -> None:
        """A mongos sees the read preference."""
        exchange = QueryExchange(wire_version=OLD)
        exchange._mongos = True
        message = query(exchange, find="c", filter={"a": 1}, **SECONDARY)
        self.assertEqual(bson.decode(message.query), {"$query": {"a": 1}, **SECONDARY})

    def test_explain(self) -> None:
        """An explained find is a query that is explained; its answer has an C{ok}."""
        exchange = QueryExchange(wire_version=OLD)
        explain = {"explain": {"find": "c", "filter": {"a": 1}, "limit": 3}, "maxTimeMS": 9}
        message = query(exchange, **explain)
        self.assertEqual((message.namespace, message.number_to_return), ("db.c", 3))
        self.assertEqual(
            bson.decode(message.query), {"$query": {"a": 1}, "$maxTimeMS": 9, "$explain": True}
        )
        found = answered(exchange, reply_of({"queryPlanner": {"a": 1}}), **explain)
        self.assertEqual(found, {"queryPlanner": {"a": 1}, "ok": 1.0})
        failed = answered(exchange, reply_of({"$err": "no", "code": 2}, flags=2), **explain)
        self.assertEqual((failed["ok"], failed["errmsg"]), (0.0, "no"))

    def test_batches(self) -> None:
        """Batches look as those of commands do, also to those who take them raw."""
        exchange = QueryExchange(wire_version=OLD)
        documents = [{"_id": 1}, {"_id": 2}]
        first = answered(exchange, reply_of(*documents, cursor_id=77), find="c")
        self.assertEqual(
            first, {"cursor": {"id": 77, "ns": "db.c", "firstBatch": documents}, "ok": 1.0}
        )
        self.assertIsInstance(first["cursor"]["id"], Int64)
        fields = {"getMore": Int64(77), "collection": "c", "batchSize": 9, "maxTimeMS": 5}
        (message,) = sent(exchange.send(command(**fields))[1])
        self.assertEqual(message, m.OpGetMore("db.c", 77, 9))
        more = answered(exchange, reply_of(*documents), **fields)
        self.assertEqual(
            more, {"cursor": {"id": 0, "ns": "db.c", "nextBatch": documents}, "ok": 1.0}
        )
        raw = rawbson.cursor_batch(bson.encode(more))
        self.assertEqual([bson.decode(each) for each in raw[2]], documents)

    def test_failures(self) -> None:
        """A cursor that is gone and a query that fails are failed commands."""
        exchange = QueryExchange(wire_version=OLD)
        fields = {"getMore": Int64(77), "collection": "c"}
        gone = answered(exchange, reply_of(flags=1), **fields)
        self.assertEqual((gone["ok"], gone["code"]), (0.0, 43))
        failed = answered(exchange, reply_of({"$err": "bad", "code": 17287}, flags=2), find="c")
        self.assertEqual(failed, {"ok": 0.0, "errmsg": "bad", "code": 17287})

    def test_kill(self) -> None:
        """Killing cursors has no answer; the one to a ping behind it stands for it."""
        exchange = QueryExchange(wire_version=OLD)
        fields = {"killCursors": "c", "cursors": [Int64(5), Int64(6)]}
        kill, ping = sent(exchange.send(command(**fields))[1])
        self.assertEqual(kill, m.OpKillCursors((5, 6)))
        self.assertEqual(ping, m.OpQuery("admin.$cmd", bson.encode({"ping": 1}), None, 0, 0, -1))
        exchange = QueryExchange(wire_version=OLD)
        found = answered(exchange, reply_of({"ok": 1.0}), **fields)
        self.assertEqual(found, {"cursorsKilled": [5, 6], "ok": 1.0})

    def test_commands_later(self) -> None:
        """From 3.2 on all of these are commands."""
        for fields in (
            {"find": "c", "filter": {}},
            {"getMore": Int64(1), "collection": "c"},
            {"killCursors": "c", "cursors": [Int64(1)]},
            {"explain": {"find": "c"}},
        ):
            message = query(QueryExchange(wire_version=4), **fields)
            self.assertEqual(message.namespace, "db.$cmd")
            self.assertEqual(bson.decode(message.query), fields)


class GreetingTests(SynchronousTestCase):
    """What C{hello} decides."""

    def greeted(self, exchange: QueryExchange, **reply: Any) -> dict[str, Any]:
        """What is made of the reply to C{hello}."""
        return answered(exchange, reply_of({"ok": 1.0, **reply}), hello=1)

    def test_settled(self) -> None:
        """A server with OP_MSG is spoken to by that; the numbers go on."""
        for version, same in ((3, True), (5, True), (6, False), (21, False)):
            exchange = QueryExchange()
            reply = self.greeted(exchange, maxWireVersion=version, minWireVersion=0)
            self.assertEqual(reply["maxWireVersion"], version)
            settled = exchange.settled()
            self.assertEqual(settled is exchange, same)
            self.assertIs(type(settled), QueryExchange if same else Exchange)
            self.assertEqual(settled.send(command(ping=1))[0], 2)

    def test_refused_or_odd(self) -> None:
        """A refused C{hello}, and one that makes no sense, leave it with what all understand."""
        exchange = QueryExchange()
        request_id, _ = exchange.send(command(hello=1))
        refusal = reply_of({"ok": 0.0, "errmsg": "no such cmd: hello"})
        list(exchange.receive(m.encode(refusal, 900, request_id)))
        self.assertIs(exchange.settled(), exchange)
        self.greeted(exchange, maxWireVersion="many")
        self.assertIs(exchange.settled(), exchange)
        self.greeted(exchange)
        self.assertIs(exchange.settled(), exchange)

    def test_limit(self) -> None:
        """A newer server can be taken for an older one in every respect."""
        exchange = QueryExchange(limit=OLD)
        reply = self.greeted(
            exchange,
            maxWireVersion=17,
            minWireVersion=0,
            maxWriteBatchSize=100000,
            logicalSessionTimeoutMinutes=30,
            topologyVersion={"counter": 1},
        )
        self.assertEqual(
            reply,
            {"ok": 1.0, "maxWireVersion": OLD, "minWireVersion": 0, "maxWriteBatchSize": 1000},
        )
        self.assertIs(exchange.settled(), exchange)
        self.assertEqual(exchange.wire_version, OLD)

    def test_mongos(self) -> None:
        """A mongos is known by its C{msg}."""
        exchange = QueryExchange()
        self.greeted(exchange, maxWireVersion=5, msg="isdbgrid")
        message = query(exchange, count="c", **SECONDARY)
        self.assertIn("$query", bson.decode(message.query))

    def test_stream(self) -> None:
        """Where the server may stream it is asked each time: there is one answer."""
        exchange = QueryExchange(wire_version=MIDDLE)
        request_id, _ = exchange.send(
            command(getMore=Int64(1), collection="c"), exhaust_allowed=True
        )
        body = bson.encode({"ok": 1.0})
        (reply,) = exchange.receive(m.encode(m.OpReply((body,)), 900, request_id))
        self.assertEqual(reply, Reply(request_id, body, False, m.OpReply((body,))))
