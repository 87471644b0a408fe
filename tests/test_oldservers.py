"""
A whole client against scripted servers of every wire version that makes a
difference.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import bson
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork, FakeServer
from txmongokit._sansio import messages as m
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    CursorNotFound,
    NotPrimaryError,
    OperationFailure,
)

DOCUMENTS = [{"_id": number} for number in range(5)]


def _always(reply: m.OpReply, message: m.Message) -> m.OpReply:
    """A server with one answer."""
    return reply


class OldServerCase(SynchronousTestCase):
    """A client, and a server whose age the test says."""

    def start(self, wire_version: int, **hello: Any) -> FakeServer:
        """Run a server and a client of it."""
        self.network = FakeNetwork()
        server = self.server = self.network.add()
        server.hello = {
            "maxWireVersion": wire_version,
            "maxWriteBatchSize": 1000,
            "logicalSessionTimeoutMinutes": 30 if wire_version >= 6 else None,
            **hello,
        }
        server.on_command = self.reply
        server.on_message = self.legacy
        self.killed: list[int] = []
        self.pool = ConnectionPool(
            "a:27017",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
            serverSelectionTimeoutMS=2000,
        )
        self.addCleanup(self.network.end, self.pool)
        self.things = self.pool["db"]["things"]
        return server

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """What a server says to commands."""
        name = next(iter(body))
        if name in ("find", "getMore"):
            if self.server.hello["maxWireVersion"] < 4:
                return {"ok": 0.0, "errmsg": f"no such command: {name}", "code": 59}
            first = name == "find"
            batch = {"firstBatch": DOCUMENTS[:3]} if first else {"nextBatch": DOCUMENTS[3:]}
            cursor = {"id": bson.Int64(9 if first else 0), "ns": "db.things", **batch}
            return {"cursor": cursor, "ok": 1.0}
        if name == "killCursors":
            self.killed += body["cursors"]
        return {"ok": 1.0, "n": 1}

    def legacy(self, message: m.Message) -> m.OpReply | None:
        """What a server before 3.2 says to the older messages."""
        encoded = tuple(bson.encode(each) for each in DOCUMENTS)
        if isinstance(message, m.OpQuery):
            return m.OpReply(encoded[:3], 9)
        if isinstance(message, m.OpGetMore):
            return m.OpReply(encoded[3:], 0)
        assert isinstance(message, m.OpKillCursors)
        self.killed += message.cursor_ids
        return None

    def done(self, waiting: Any, seconds: float = 1.0) -> Any:
        """The result of an operation."""
        waiting = waiting if isinstance(waiting, Deferred) else waiting.deferred()
        self.network.advance(seconds)
        return self.successResultOf(waiting)

    def error(self, waiting: Any, kind: type[Exception], seconds: float = 1.0) -> str:
        """What an operation fails with."""
        waiting = waiting if isinstance(waiting, Deferred) else waiting.deferred()
        self.network.advance(seconds)
        return str(self.failureResultOf(waiting, kind).value)

    def kinds(self) -> set[type[Any]]:
        """The kinds of messages that the server has got besides C{hello}."""
        found = set()
        for message in self.server.messages:
            if isinstance(message, m.OpQuery) and b"hello" in message.query:
                continue
            found.add(type(message))
        return found


class VersionTests(OldServerCase):
    """The way that is chosen, by wire version."""

    def test_too_old(self) -> None:
        """Servers before 3.0 fail operations as soon as they are known, and say what is needed."""
        for version in (0, 2):
            self.start(version)
            for operation in (
                lambda: self.things.find_one({}),
                lambda: self.things.insert_one({}),
                lambda: self.things.find({}),
                lambda: self.pool["db"].command("ping"),
                lambda: self.things.with_options(read_preference=ReadPreference.NEAREST).find(),
            ):
                sentence = self.error(operation(), ConfigurationError, 0.0)
                self.assertIn(f"a:27017 has wire version {version}", sentence)
                self.assertIn("at least 3 (MongoDB 3.0)", sentence)
            self.assertEqual(self.server.commands, [])
            self.assertEqual(self.server.attempts, 1)

    def test_too_new(self) -> None:
        """So do servers that no longer understand us."""
        self.start(99, minWireVersion=90)
        sentence = self.error(self.things.find_one({}), ConfigurationError, 0.0)
        self.assertIn("a:27017 needs wire version 90, and at most", sentence)
        self.assertIn("upgrade txmongokit", sentence)

    def test_upgraded(self) -> None:
        """A server that is upgraded in its place serves at the next look."""
        self.start(2)
        self.error(self.things.find_one({}), ConfigurationError, 0.0)
        self.server.hello["maxWireVersion"] = 17
        self.server.lose_all()
        self.network.advance(11.0)
        self.assertEqual(self.done(self.things.find({})), DOCUMENTS)

    def test_too_old_member(self) -> None:
        """One member that is too old fails operations, though there is another primary."""
        self.start(17)
        network = FakeNetwork()
        network.replica_set("a", "b")
        network.servers[("b", 27017)].hello["maxWireVersion"] = 2
        pool = ConnectionPool(
            "a:27017,b:27017/?replicaSet=rs",
            reactor=network.clock,
            endpoint_factory=network.endpoint,
            serverSelectionTimeoutMS=20_000,
            minPoolSize=2,
        )
        self.addCleanup(network.end, pool)
        self.successResultOf(pool.aconnect())
        network.advance(1.0)
        waiting = pool["db"]["things"].insert_one({})
        network.advance(0.0)
        sentence = str(self.failureResultOf(waiting, ConfigurationError).value)
        self.assertIn("b:27017 has wire version 2", sentence)
        # Nobody connects to it for operations.
        self.assertEqual(network.servers[("b", 27017)].attempts, 1)

    def test_cursors(self) -> None:
        """A find with two batches, and one that is given up, on servers of any age."""
        for version, wanted in (
            (3, {m.OpQuery, m.OpGetMore, m.OpKillCursors}),
            (4, {m.OpQuery}),
            (5, {m.OpQuery}),
            (6, {m.OpMsg}),
            (8, {m.OpMsg}),
            (17, {m.OpMsg}),
        ):
            self.start(version)
            self.assertEqual(self.done(self.things.find({}, batch_size=3)), DOCUMENTS)
            cursor = self.things.find({})
            self.done(cursor.next_batch())
            self.done(cursor.close())
            self.assertEqual(self.killed, [9])
            self.assertEqual(self.kinds(), wanted)
            # One connection for all, whether or not replies must be swallowed.
            self.assertEqual(self.server.attempts, 2)

    def test_hello_unknown(self) -> None:
        """A server that knows no hello, with or without a code, is asked by the old name."""
        for refusal in (
            {"ok": 0.0, "errmsg": "no such command: 'hello'", "code": 59},
            {"ok": 0.0, "errmsg": "no such cmd: hello"},
        ):
            server = self.start(4)

            def hello(body: dict[str, Any], refusal: Any = refusal) -> dict[str, Any]:
                if "hello" in body:
                    return dict(refusal)
                return {"ismaster": True, "maxWireVersion": 4, "ok": 1.0}

            server.on_hello = hello
            self.assertEqual(self.done(self.things.find({})), DOCUMENTS)

    def test_no_sessions(self) -> None:
        """No session, transaction number or cluster time goes to a server without them."""
        self.start(5, setName="rs", hosts=["a:27017"], me="a:27017")
        self.done(self.things.insert_one({"_id": 1}))
        (insert,) = self.server.commands
        self.assertEqual(set(insert), {"insert", "ordered", "documents", "$db"})
        with_session = self.things.find_one({}, session=self.pool.start_session())
        self.assertIn("no sessions", self.error(with_session, ConfigurationError))

    def test_writes_not_retried(self) -> None:
        """Without transaction numbers a lost write is not sent again."""
        server = self.start(5, setName="rs", hosts=["a:27017"], me="a:27017")
        server.on_command = lambda body: ConnectionError("lost")
        self.error(self.things.insert_one({"_id": 1}), AutoReconnect)
        self.assertEqual(server.names(), ["insert"])

    def test_unacknowledged(self) -> None:
        """Unacknowledged writes share a connection with what follows."""
        for version in (3, 5):
            self.start(version)
            quiet = self.things.with_options(write_concern=WriteConcern(w=0))
            for number in range(3):
                self.assertFalse(self.done(quiet.insert_one({"_id": number})).acknowledged)
            self.assertEqual(self.done(self.things.find({})), DOCUMENTS)
            self.assertEqual(
                [body["writeConcern"] for body in self.server.commands if "insert" in body],
                [{"w": 0}] * 3,
            )
            self.assertEqual(self.server.attempts, 2)

    def test_batches_of_writes(self) -> None:
        """A write command holds no more than one document may, sixteen kilobytes aside."""
        for version, sizes in ((5, [3, 1]), (6, [4])):
            self.start(version)
            self.server.on_command = lambda body: {"ok": 1.0, "n": len(body.get("documents", ()))}
            big = [{"_id": number, "x": "y" * 5_000_000} for number in range(4)]
            self.done(self.things.insert_many(big))
            self.assertEqual(
                [len(body["documents"]) for body in self.server.commands], sizes, version
            )

    def test_secondaries(self) -> None:
        """A member is told by a flag that reading from secondaries is meant; a mongos sees more."""
        nearest = {"mode": "nearest"}
        for version in (3, 5):
            for hello, seen in (
                ({"setName": "rs", "hosts": ["a:27017"], "me": "a:27017"}, False),
                ({"msg": "isdbgrid"}, True),
            ):
                self.start(version, **hello)
                things = self.things.with_options(read_preference=ReadPreference.NEAREST)
                self.done(things.find({"a": 1}))
                sent = [
                    each
                    for each in self.server.messages
                    if isinstance(each, m.OpQuery) and b"hello" not in each.query
                ]
                self.assertEqual(sent[0].flags, 4)
                query = bson.decode(sent[0].query)
                self.assertEqual(query.get("$readPreference"), nearest if seen else None)

    def test_transactions(self) -> None:
        """A server with sessions but no transactions gets no command of one."""
        self.start(6, setName="rs", hosts=["a:27017"], me="a:27017")
        session = self.pool.start_session()
        session.start_transaction()
        waiting = self.things.insert_one({"_id": 1}, session=session)
        self.assertIn("MongoDB 4.0", self.error(waiting, ConfigurationError))
        self.assertEqual(self.server.commands, [])

    def test_unknown_options(self) -> None:
        """What an old server would ignore is refused, and its connection stays in use."""
        self.start(3)
        things = self.things
        for refused, needed in (
            (lambda: things.find_one({}, collation={"locale": "de"}), "3.4"),
            (lambda: things.update_one({}, {"$set": {"a": 1}}, hint="a_1"), "4.2"),
            (lambda: things.update_one({}, {"$set": {"a": 1}}, array_filters=[{"x": 1}]), "3.6"),
            (lambda: things.watch().next(), "3.6"),
        ):
            self.assertIn(f"MongoDB {needed}", self.error(refused(), ConfigurationError))
        self.assertEqual(self.server.commands, [])
        self.assertEqual(self.done(self.things.find({})), DOCUMENTS)
        self.assertEqual(self.server.attempts, 2)

    def test_errors(self) -> None:
        """OP_REPLY's flags are the errors that commands would give."""
        failures: list[tuple[m.OpReply, type[Exception]]] = [
            (
                m.OpReply((bson.encode({"$err": "bad query", "code": 17}),), 0, 0, 2),
                OperationFailure,
            ),
            (
                m.OpReply((bson.encode({"$err": "not master", "code": 13435}),), 0, 0, 2),
                NotPrimaryError,
            ),
        ]
        for reply, kind in failures:
            self.start(3)
            pool = ConnectionPool(
                "a:27017",
                reactor=self.network.clock,
                endpoint_factory=self.network.endpoint,
                retryReads=False,
            )
            self.addCleanup(self.network.end, pool)
            self.server.on_message = partial(_always, reply)
            self.error(pool["db"]["things"].find({}), kind)
        self.start(3)
        cursor = self.things.find({})
        self.done(cursor.next_batch())
        self.server.on_message = lambda message: m.OpReply((), 0, 0, 1)
        self.error(cursor.next_batch(), CursorNotFound)

    def test_forced(self) -> None:
        """A newer server is taken for an older one where tests ask for it."""
        self.start(13)
        self.pool._connector.wire_version_limit = 3
        self.assertEqual(self.done(self.things.find({})), DOCUMENTS)
        self.assertEqual(self.kinds(), {m.OpQuery, m.OpGetMore})
