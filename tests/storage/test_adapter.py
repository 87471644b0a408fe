"""
Tests for L{txmongokit.storage.adapter}.
"""

from __future__ import annotations

import re
from typing import Any

from bson.objectid import ObjectId
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.fakeserver import FakeNetwork
from tests.storage.classes import Film, Note, Person
from tests.storage.stand import scripted
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
)
from txmongokit.storage import MissingKey, StorageAdapter

DUPLICATE = DuplicateKeyError("E11000 duplicate key error", 11000)


class MakingTests(SynchronousTestCase):
    """
    How a storage is made.
    """

    def test_places(self) -> None:
        """Host and port, a connection string, or a client tell where the documents are."""
        network = FakeNetwork()
        client = ConnectionPool("mongodb://a/shop", reactor=network.clock)
        for options in (
            {"database": "shop"},
            {"host": "db.example", "port": 27018, "database": "shop", "maxPoolSize": 3},
            {"uri": "mongodb://a/shop"},
            {"uri": "mongodb://a/other", "database": "shop"},
            {"client": client},
            {"client": client, "database": "shop"},
        ):
            own: dict[str, Any] = {"reactor": network.clock, "maxPoolSize": 9, **options}
            options = options if "client" in options else own
            storage = StorageAdapter(collection="things", **options)
            self.assertEqual(storage.collection.full_name, "shop.things")
            self.assertEqual(repr(storage), "<StorageAdapter shop.things>")

    def test_options(self) -> None:
        """Host, port and the client's options reach the client."""
        storage = StorageAdapter(
            host="db.example", port=27018, database="d", collection="c", appname="shop"
        )
        options = storage.collection.database.client.client_options
        self.assertEqual(options.seeds, (("db.example", 27018),))
        self.assertEqual(options.app_name, "shop")

    def test_refused(self) -> None:
        """What is missing, or too much, is told."""
        names = {"database": "d", "collection": "c"}
        for options, why in (
            ({"collection": "c"}, "needs the names"),
            ({"database": "d"}, "needs the names"),
            ({**names, "host": "a", "uri": "mongodb://a"}, "only one of these"),
            ({**names, "port": 1, "client": {}}, "only one of these"),
            ({**names, "client": {"d": {}}}, "dict is no client"),
            ({**names, "client": {}, "appname": "x"}, "already has its options: appname"),
        ):
            arguments: dict[str, Any] = options
            error = self.assertRaises(TypeError, StorageAdapter, **arguments)
            self.assertIn(why, str(error))
        self.assertRaises(ConfigurationError, StorageAdapter, **names, maxPoolSize=-3)
        self.assertRaises(ConfigurationError, StorageAdapter, uri="mongodb://a", collection="c")

    def test_given_client(self) -> None:
        """A client that was given is neither closed nor reconnected."""
        storage, runner = scripted()
        self.successResultOf(storage.close())
        error = self.failureResultOf(storage.reconnect(), InvalidOperation).value
        self.assertIn("whoever made it", str(error))
        self.assertEqual(runner.commands, [])


class ReconnectTests(SynchronousTestCase):
    """
    Closing and reconnecting.
    """

    def setUp(self) -> None:
        """A storage on a scripted server, which answers nothing but pings."""
        self.network = FakeNetwork()
        self.server = self.network.add()
        self.server.on_command = lambda body: {"ok": 1} if "ping" in body else None
        self.storage = StorageAdapter(
            uri="mongodb://a",
            database="d",
            collection="c",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
        )

    def test_waits(self) -> None:
        """What is under way has its time, what is new goes the new way, and then it fails."""
        first = self.storage.find().count()
        self.network.advance(0.1)
        before = self.storage.collection
        done = self.storage.reconnect(grace=3.0)
        self.assertIsNot(self.storage.collection.database.client, before.database.client)
        self.network.advance(2.0)
        self.assertNoResult(first)
        self.assertNoResult(done)
        self.network.advance(2.0)
        self.failureResultOf(first, AutoReconnect)
        self.successResultOf(done)
        self.network.end(self.storage.collection.database.client)

    def test_idle(self) -> None:
        """With nothing under way there is no wait; a closed storage opens again."""
        self.successResultOf(self.closed())
        self.failureResultOf(self.storage.find().count(), InvalidOperation)
        done = self.storage.reconnect()
        self.network.advance(0.1)
        self.successResultOf(done)
        self.network.end(self.storage.collection.database.client)

    def closed(self) -> Deferred[None]:
        """Close it."""
        closed = self.storage.close()
        self.network.advance(0.1)
        return closed

    def test_cancelled(self) -> None:
        """Cancelling the wait closes what was to be closed all the same."""
        first = self.storage.find().count()
        self.network.advance(0.1)
        done = self.storage.reconnect(grace=60.0)
        done.cancel()
        self.network.advance(0.1)
        self.failureResultOf(done)
        self.failureResultOf(first, AutoReconnect)
        self.network.end(self.storage.collection.database.client)

    def test_several(self) -> None:
        """Who reconnects while that is under way waits for the same."""
        first = self.storage.find().count()
        self.network.advance(0.1)
        waiting = [self.storage.reconnect(grace=3.0)]
        client = self.storage.collection.database.client
        waiting += [self.storage.reconnect(), self.storage.reconnect()]
        self.assertIs(self.storage.collection.database.client, client)
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.network.advance(2.0)
        self.assertNoResult(first)
        self.network.advance(2.0)
        self.failureResultOf(first, AutoReconnect)
        for each in waiting[1:]:
            self.successResultOf(each)
        self.network.end(client)

    def test_after_the_last_has_gone(self) -> None:
        """When nobody waits any more, the next who reconnects begins anew."""
        first = self.storage.find().count()
        self.network.advance(0.1)
        for waiting in [self.storage.reconnect(grace=60.0) for _ in range(2)]:
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        done = self.storage.reconnect()
        self.network.advance(0.1)
        self.failureResultOf(first, AutoReconnect)
        self.successResultOf(done)
        self.network.end(self.storage.collection.database.client)

    def test_closed_meanwhile(self) -> None:
        """Closing does not wait for what a reconnection waits for, and leaves nothing open."""
        first = self.storage.find().count()
        self.network.advance(0.1)
        done = self.storage.reconnect(grace=60.0)
        self.successResultOf(self.closed())
        self.failureResultOf(first, AutoReconnect)
        self.failureResultOf(done, InvalidOperation, AutoReconnect)
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_finished(self) -> None:
        """When what is under way has ended, the wait is over."""
        first = self.storage.find().count()
        self.network.advance(0.1)
        done = self.storage.reconnect(grace=60.0)
        first.cancel()
        self.failureResultOf(first)
        self.network.advance(0.1)
        self.successResultOf(done)
        self.network.end(self.storage.collection.database.client)


class KeyTests(SynchronousTestCase):
    """
    Documents by their keys.
    """

    def test_get(self) -> None:
        """The document with the key, as an instance."""
        storage, runner = scripted(cursor_reply([{"_id": 5, "text": "x"}]))
        note = self.successResultOf(storage.get(Note, 5))
        self.assertIsInstance(note, Note)
        self.assertEqual(runner.bodies[0]["filter"], {"_id": 5})

    def test_get_missing(self) -> None:
        """A key that is missing is a C{KeyError} that names it and the collection."""
        storage, _ = scripted(cursor_reply([]))
        error = self.failureResultOf(storage.get(Note, "x"), KeyError).value
        self.assertIsInstance(error, MissingKey)
        self.assertEqual(str(error), "db.things has no document with the key 'x'")
        self.assertEqual((error.key, error.keys), ("x", ("x",)))

    def test_keys_from_outside(self) -> None:
        """A key is compared, and what can be none is refused at once."""
        storage, runner = scripted(*(cursor_reply([]) for _ in range(2)))
        self.failureResultOf(storage.get(dict, {"a": {"$gt": 1}}), KeyError)
        self.assertEqual(runner.bodies[0]["filter"], {"_id": {"$eq": {"a": {"$gt": 1}}}})
        for wrong in ({"$gt": ""}, [1], None):
            for method in (
                lambda key: storage.get(dict, key),
                lambda key: storage.get_many(dict, [key]),
                storage.delete,
                lambda key: storage.save({}, key or [None]),
            ):
                with self.assertRaises((TypeError, ValueError)):
                    method(wrong)
        for keys in ("abc", b"abc", {"a": 1}):
            self.assertRaises(TypeError, storage.get_many, dict, keys)
        self.assertEqual(len(runner.commands), 1)

    def test_get_many(self) -> None:
        """Documents come in the order of the keys, and as often; each is asked for once."""
        found = [{"_id": 1}, {"_id": 2.0}]
        storage, runner = scripted(cursor_reply(found))
        got = self.successResultOf(storage.get_many(dict, [2, 1, 2]))
        self.assertEqual(got, [{"_id": 2.0}, {"_id": 1}, {"_id": 2.0}])
        self.assertEqual(runner.bodies[0]["filter"], {"_id": {"$in": [2, 1]}})
        storage, runner = scripted()
        self.assertEqual(self.successResultOf(storage.get_many(dict, [])), [])
        self.assertEqual(runner.commands, [])

    def test_get_many_messages(self) -> None:
        """Keys go in messages of as many as have room, by their number and their length."""
        for keys, sent in (
            (range(10_001), [10_000, 1]),
            (["a" * 3_000_000, "b" * 3_000_000, "c" * 3_000_000, "d"], [2, 2]),
            (["a" * 9_000_000, "b"], [1, 1]),
        ):
            some: Any = keys
            storage, runner = scripted(*(cursor_reply([]) for _ in sent))
            error = self.failureResultOf(storage.get_many(dict, some), MissingKey).value
            self.assertEqual(error.keys, tuple(some))
            self.assertLess(len(str(error)), 2000)
            asked = [len(body["filter"]["_id"]["$in"]) for body in runner.bodies]
            self.assertEqual(asked, sent)

    def test_get_many_missing(self) -> None:
        """All keys that are missing are named, but not without end."""
        storage, _ = scripted(cursor_reply([{"_id": 1}]))
        error = self.failureResultOf(storage.get_many(dict, range(9)), MissingKey).value
        self.assertEqual(error.keys, (0, 2, 3, 4, 5, 6, 7, 8))
        self.assertIn("the key 0, 2, 3, 4, 5 and 3 more", str(error))

    def test_save_new(self) -> None:
        """Without a key it is a new document, whose key is returned and nowhere else."""
        storage, runner = scripted()
        data = {"a": 1}
        key = self.successResultOf(storage.save(data))
        self.assertIsInstance(key, ObjectId)
        self.assertEqual(data, {"a": 1})
        self.assertEqual(runner.statements(), [{"_id": key, "a": 1}])

    def test_save_in_place(self) -> None:
        """With a key, the document's or the given one, it takes the place of what is there."""
        for arguments in (({"a": 1}, 5), ({"_id": 5, "a": 1},), ({"_id": 5, "a": 1}, 5.0)):
            storage, runner = scripted({"ok": 1, "n": 1, "nModified": 1})
            self.assertEqual(self.successResultOf(storage.save(*arguments)), 5)
            (statement,) = runner.statements()
            self.assertEqual((statement["q"], statement["upsert"]), ({"_id": 5}, True))
            self.assertEqual(statement["u"], {"a": 1})

    def test_save_refused(self) -> None:
        """Two keys, or operators for fields, are refused at once."""
        storage, runner = scripted()
        error = self.assertRaises(ValueError, storage.save, {"_id": 5}, 6)
        self.assertIn("has the key 5, not 6", str(error))
        self.assertRaises(ValueError, storage.save, {"$set": {"a": 1}}, 6)
        self.assertRaises(TypeError, storage.save, 5)
        self.assertRaises(TypeError, storage.save, {}, [1])
        self.assertEqual(runner.commands, [])

    def test_delete(self) -> None:
        """Deleting tells whether there was one; clearing how many."""
        storage, runner = scripted({"ok": 1, "n": 1}, {"ok": 1, "n": 0}, {"ok": 1, "n": 7})
        self.assertIs(self.successResultOf(storage.delete("x")), True)
        self.assertIs(self.successResultOf(storage.delete("x")), False)
        self.assertEqual(self.successResultOf(storage.clear()), 7)
        self.assertEqual(runner.statements(0), [{"q": {"_id": "x"}, "limit": 1}])
        self.assertEqual(runner.statements(2), [{"q": {}, "limit": 0}])

    def test_raw_client(self) -> None:
        """A client whose documents are of another class makes no difference."""
        client = ConnectionPool("mongodb://a", document_class=Note)
        storage = StorageAdapter(client=client, database="d", collection="c")
        self.assertIs(storage.collection.codec_options.document_class, dict)


def modified(value: Any = None) -> dict[str, Any]:
    """A reply to findAndModify."""
    return {"ok": 1, "value": value}


class GetOrCreateTests(SynchronousTestCase):
    """
    Getting or creating.
    """

    def test_created(self) -> None:
        """One operation finds by equality, and creates with all fields."""
        storage, runner = scripted(modified())
        made = storage.get_or_create(dict, name="x", odd={"$gt": 1}, defaults={"age": 5})
        document, created = self.successResultOf(made)
        self.assertIs(created, True)
        (body,) = runner.bodies
        self.assertEqual(body["query"], {"name": "x", "odd": {"$eq": {"$gt": 1}}})
        self.assertEqual(body["update"], {"$setOnInsert": document})
        self.assertEqual((body["upsert"], body.get("new")), (True, None))
        self.assertEqual(list(document), ["_id", "name", "odd", "age"])

    def test_got(self) -> None:
        """What is there is returned as it is."""
        storage, _ = scripted(modified({"_id": 1, "name": "x", "age": 7}))
        got = storage.get_or_create(Note, name="x", defaults={"age": 5})
        self.assertEqual(
            self.successResultOf(got), (Note({"_id": 1, "name": "x", "age": 7}), False)
        )

    def test_lost_race(self) -> None:
        """Who loses a race to a unique index gets what the winner created."""
        storage, runner = scripted(DUPLICATE, DUPLICATE, modified({"_id": 1, "name": "x"}))
        got = self.successResultOf(storage.get_or_create(dict, name="x"))
        self.assertEqual(got, ({"_id": 1, "name": "x"}, False))
        self.assertEqual(len(runner.commands), 3)

    def test_collision(self) -> None:
        """A collision that is no race is an error, after a few attempts."""
        storage, runner = scripted(*([DUPLICATE] * 9))
        self.failureResultOf(storage.get_or_create(dict, name="x"), DuplicateKeyError)
        self.assertEqual(len(runner.commands), 5)

    def test_collision_in_a_transaction(self) -> None:
        """A collision ends a transaction, and is what is told, for repeating that is no use."""
        ended = OperationFailure(
            "no such transaction",
            251,
            {"code": 251, "errorLabels": ["TransientTransactionError"]},
        )
        storage, runner = scripted(DUPLICATE, ended)
        made = storage.get_or_create(dict, name="x")
        error = self.failureResultOf(made, DuplicateKeyError).value
        self.assertFalse(error.has_error_label("TransientTransactionError"))
        self.assertEqual(len(runner.commands), 2)
        storage, runner = scripted(ended)
        self.failureResultOf(storage.get_or_create(dict, name="x"), OperationFailure)

    def test_key(self) -> None:
        """The key may be what is looked for, by either name."""
        for name in ("_id", "number"):
            storage, runner = scripted(modified(), key_field="number")
            arguments: dict[str, Any] = {name: 5}
            document, _ = self.successResultOf(storage.get_or_create(dict, **arguments))
            self.assertEqual(document, {"number": 5})
            self.assertEqual(runner.bodies[0]["query"], {"_id": 5})

    def test_refused(self) -> None:
        """Fields of the document are taken: no lookups, none within others, none twice."""
        storage, runner = scripted()
        for fields, why in (
            ({}, "needs a field"),
            ({"name__gt": 1}, "ends with a lookup"),
            ({"a__b": 1}, "no fields within fields"),
            ({"a.b": 1}, "no fields within fields"),
            ({"$where": "x"}, "names no field"),
            ({"a": 1, "defaults": {"a": 2}}, "'a' is given twice"),
            ({"a": 1, "defaults": {"b.c": 2}}, "no fields within fields"),
            ({"_id": [1]}, "primary key"),
            ({"a": [re.compile("x")]}, "the lookup 'matches' does"),
        ):
            arguments: dict[str, Any] = fields
            with self.assertRaises((TypeError, ValueError)) as raised:
                storage.get_or_create(dict, **arguments)
            self.assertIn(why, str(raised.exception))
        self.assertEqual(runner.commands, [])


class ConvertedTests(SynchronousTestCase):
    """
    The same with classes that declare their fields.
    """

    def test_get_or_create(self) -> None:
        """The class's defaults are part of what is created, and its values of what is found."""
        storage, runner = scripted(modified(), modified())
        key = ObjectId()
        person, created = self.successResultOf(
            storage.get_or_create(Person, name="Ada", pk=key, defaults={"age": 36})
        )
        self.assertEqual((person, created), (Person("Ada", 36, pk=key), True))
        self.assertEqual(runner.bodies[0]["query"], {"name": "Ada", "_id": key})
        film, _ = self.successResultOf(storage.get_or_create(Film, title="M", year="1931"))
        self.assertEqual(film.year, 1931)
        self.assertEqual(runner.bodies[1]["query"], {"title": "M", "year": 1931})
        self.assertEqual(runner.bodies[1]["update"]["$setOnInsert"]["colour"], "b")

    def test_no_instance(self) -> None:
        """Values that make no instance, and fields that there are not, are refused at once."""
        storage, runner = scripted()
        for doc_class, fields, why in (
            (Person, {"age": 5}, "these fields make no Person: a field that it needs is missing"),
            (Film, {"title": "M", "year": 1}, "these fields make no Film: Input should be"),
            (Person, {"nmae": "x"}, "did you mean 'name'?"),
        ):
            arguments: dict[str, Any] = fields
            with self.assertRaises((TypeError, ValueError)) as raised:
                storage.get_or_create(doc_class, **arguments)
            self.assertIn(why, str(raised.exception))
        self.assertEqual(runner.commands, [])

    def test_conditions(self) -> None:
        """Conditions know the class's fields, and its values."""
        storage, _ = scripted()
        self.assertEqual(storage.find(Person, pk__in=["x"]).filter, {"_id": {"$in": ["x"]}})
        error = self.assertRaises(TypeError, storage.find(Person).where, nmae="x")
        self.assertIn("did you mean 'name'?", str(error))
        self.assertRaises(TypeError, storage.find(Person).order_by, "-nmae")
        self.assertRaises(TypeError, storage.find(Person).values, "nmae")

    def test_save(self) -> None:
        """An instance's key says where it goes; the instance itself does not change."""
        storage, runner = scripted({"ok": 1}, {"ok": 1, "n": 1})
        person = Person("Ada")
        key = self.successResultOf(storage.save(person))
        self.assertIsNone(person.pk)
        self.assertEqual(self.successResultOf(storage.save(Person("Ada", pk=key))), key)
        self.assertEqual(runner.names, ["insert", "update"])
