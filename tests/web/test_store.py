"""
Tests for L{txmongokit.web.store}: what is sent, and what is refused before
anything is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion, TypeDecoder, TypeRegistry
from bson.decimal128 import Decimal128
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, Script, cursor_reply
from txmongokit.database import Database
from txmongokit.errors import AutoReconnect
from txmongokit.web.encryption import SessionCipher
from txmongokit.web.merging import merge
from txmongokit.web.records import digest_of
from txmongokit.web.store import (
    InvalidSessionData,
    MongoSessionStore,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionRecord,
    SessionTooLarge,
    SessionUnreadable,
)

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ID = "A" * 43
BAD_IDS: list[Any] = [
    "",
    "A" * 42,
    "A" * 44,
    "A" * 1_000_000,
    "A" * 42 + "\0",
    "A" * 42 + "\n",
    "A" * 42 + ".",
    "$" + "A" * 42,
    "A" * 42 + "é",
    "A" * 42 + "\uff21",
    b"A" * 43,
    {"$ne": None},
    {"$gt": ""},
    None,
    0,
    ["A" * 43],
]
MATCHED = {"n": 1, "nModified": 1, "ok": 1.0}
MISSED = {"n": 0, "nModified": 0, "ok": 1.0}


def stored(data: Any, **fields: Any) -> dict[str, Any]:
    """A reply with a session's document."""
    document = {
        "_id": digest_of(ID),
        "data": data,
        "confidential": False,
        "created": NOW,
        "used": NOW,
        "expires": NOW + timedelta(seconds=100),
        "lifetime": None,
        "version": 3,
        **fields,
    }
    return cursor_reply([document], namespace="db.sessions")


class StoreTestCase(SynchronousTestCase):
    """
    A store whose server is a script.
    """

    def store(self, *replies: Script, **options: Any) -> MongoSessionStore:
        """A store with a timeout of 100 s, at noon."""
        self.runner = FakeRunner(*replies)
        self.now = NOW
        options.setdefault("timeout", 100)
        return MongoSessionStore(Database(self.runner, "db"), clock=lambda: self.now, **options)

    def loaded(self, *replies: Script, data: Any = None, **options: Any) -> SessionRecord:
        """The record of a session that is there; the replies follow."""
        self.sessions = self.store(stored(data or {"a": 1}), *replies, **options)
        record = self.successResultOf(self.sessions.load(ID))
        assert record is not None
        self.runner.requests.clear()
        return record


class IdTests(StoreTestCase):
    """
    Ids, as clients present them.
    """

    def test_bad_ids_go_nowhere(self) -> None:
        """What cannot be an id is nobody's session, and the server never sees it."""
        store = self.store()
        for bad in BAD_IDS:
            self.assertFalse(store.is_well_formed(bad))
            self.assertIsNone(self.successResultOf(store.load(bad)))
            self.assertIsNone(self.successResultOf(store.update(bad, self.fail)))
            self.assertFalse(self.successResultOf(store.exists(bad)))
            self.assertFalse(self.successResultOf(store.delete(bad)))
            self.assertRaises(ValueError, store.lock, bad)
        self.assertEqual(self.successResultOf(store.revoke_exposed(BAD_IDS)), 0)
        for key in ("", "zz", "00" * 31, "00" * 33, None, {"$ne": 1}):
            self.assertFalse(self.successResultOf(store.delete_key(key)))  # type: ignore[arg-type]  # hostile
        self.assertEqual(self.runner.requests, [])

    def test_ids_are_not_stored(self) -> None:
        """The server gets a digest, and a record's text has neither id nor data."""
        store = self.store(MATCHED, cursor_reply([]))
        record = self.successResultOf(store.create({"secret": "word"}))
        self.successResultOf(store.load(record.id))
        sent = b"".join(bson.encode(body) for body in self.runner.bodies)
        sent += bson.encode({"statements": self.runner.statements()})
        self.assertNotIn(record.id.encode(), sent)
        self.assertEqual(self.runner.bodies[1]["filter"]["_id"], digest_of(record.id))
        self.assertNotIn(record.id, repr(record))
        self.assertNotIn("word", repr(record))

    def test_new_ids(self) -> None:
        """Each is another, of the length that was asked for."""
        for size in (16, 17, 18, 32, 48):
            store = self.store(token_bytes=size)
            ids = {store.new_record().id for _ in range(20)}
            self.assertEqual(len(ids), 20)
            self.assertTrue(all(map(store.is_well_formed, ids)))


class LoadTests(StoreTestCase):
    """
    Reading.
    """

    def test_which(self) -> None:
        """It is asked for by its id alone, and not had if it has ended or is of the other kind."""
        found = stored({})
        ended, secret = stored({}, expires=NOW), stored({}, confidential=True)
        cases: list[tuple[Any, bool | None, bool]] = [
            (found, None, True),
            (found, False, True),
            (found, True, False),
            (secret, None, True),
            (secret, True, True),
            (secret, False, False),
            (ended, None, False),
            (cursor_reply([]), None, False),
        ]
        for reply, confidential, is_had in cases:
            store = self.store(reply)
            record = self.successResultOf(store.load(ID, confidential=confidential))
            self.assertEqual(record is not None, is_had)
            self.assertEqual(self.runner.bodies[0]["filter"], {"_id": digest_of(ID)})
            self.assertTrue(self.runner.commands[0].shareable)

    def test_record(self) -> None:
        """All that is stored comes back."""
        record = self.loaded(data={"a%2Eb": 1})
        self.assertEqual(record.data, {"a.b": 1})
        self.assertEqual(
            (record.id, record.user, record.version, record.used, record.lifetime),
            (ID, None, 3, NOW, timedelta(seconds=100)),
        )

    def test_codec(self) -> None:
        """A codec makes what is stored, and reads it."""

        class Reversed:
            """Turns strings round."""

            def encode(self, data: dict[str, str]) -> dict[str, str]:
                """Keys stay."""
                return {key: value[::-1] for key, value in data.items()}

            decode = encode

        record = self.loaded(MATCHED, data={"k": "cba"}, codec=Reversed())
        self.assertEqual(record.data, {"k": "abc"})
        self.assertFalse(self.sessions.is_changed(record))
        record.data["k"] = "xyz"
        self.successResultOf(self.sessions.save(record))
        update = bson.decode(self.runner.requests[0].sequences[0][1][0])["u"]
        self.assertEqual(update["$set"]["data"], {"k": "zyx"})

    def test_codec_fails(self) -> None:
        """Whatever a codec raises is one of the store's own errors, without what it says."""

        class Picky:
            """Wants what is not there."""

            def encode(self, data: dict[str, Any]) -> Any:
                """Only with a basket."""
                return {"basket": data["secret"]}

            def decode(self, document: dict[str, Any]) -> Any:
                """Only with another one."""
                return {"secret": document["secret"]}

        store = self.store(stored({"basket": 1}), codec=Picky())
        failure = self.failureResultOf(store.load(ID), SessionUnreadable)
        self.assertIn("(KeyError)", str(failure.value))
        self.assertNotIn("secret", str(failure.value))
        failure = self.failureResultOf(store.create({"a": 1}), InvalidSessionData)
        self.assertIn("(KeyError)", str(failure.value))
        self.assertEqual(len(self.runner.requests), 1)

    def test_own_options(self) -> None:
        """The application's codec options are for the data, not for the store's own fields."""

        class Prices(TypeDecoder):
            """Decimals, one way."""

            bson_type = Decimal128

            def transform_bson(self, value: Decimal128) -> str:
                """As text."""
                return str(value)

        options: CodecOptions[Any] = CodecOptions(
            datetime_conversion=DatetimeConversion.DATETIME_MS,
            type_registry=TypeRegistry([Prices()]),
        )
        data = {"price": Decimal128("1.50"), "when": NOW}
        self.store(stored(data))
        store = MongoSessionStore(
            Database(self.runner, "db", codec_options=options), clock=lambda: NOW
        )
        record = self.successResultOf(store.load(ID))
        assert record is not None
        self.assertEqual(record.data["price"], "1.50")
        self.assertEqual(int(record.data["when"]), NOW.timestamp() * 1000)
        self.assertEqual(record.used, NOW)

    def test_unreadable(self) -> None:
        """What a cipher should have made and did not, or the other way round, is told."""
        cipher = SessionCipher({"k": bytes(32)})
        plain, sealed = stored({"a": 1}), stored(b"\x01\x01kxxx")
        for reply, options, told in (
            (sealed, {}, "has no cipher"),
            (plain, {"cipher": cipher}, "is not encrypted"),
            (sealed, {"cipher": cipher}, "was changed"),
        ):
            failure = self.failureResultOf(self.store(reply, **options).load(ID))
            self.assertIn(told, str(failure.check(SessionUnreadable) and failure.value))
        accepts = SessionCipher({"k": bytes(32)}, accepts_plain=True)
        self.assertEqual(self.loaded(cipher=accepts).data, {"a": 1})


class SaveTests(StoreTestCase):
    """
    Writing.
    """

    def test_unchanged(self) -> None:
        """Nothing is sent where nothing has changed, changes undone included."""
        record = self.loaded()
        record.data["a"] = 2
        self.assertTrue(self.sessions.is_changed(record))
        record.data["a"] = 1
        self.assertFalse(self.successResultOf(self.sessions.save(record)))
        self.assertEqual(self.runner.requests, [])

    def test_one_write(self) -> None:
        """A change is one update of one document, if it is as it was loaded."""
        record = self.loaded(MATCHED)
        self.now += timedelta(seconds=2)
        record.data["$set"] = {"x": 1}
        self.assertTrue(self.successResultOf(self.sessions.save(record)))
        (request,) = self.runner.requests
        (statement,) = self.runner.statements()
        self.assertEqual(request.body["update"], "sessions")
        self.assertEqual(statement["q"]["version"], 3)
        self.assertEqual(statement["u"]["$set"]["data"], {"a": 1, "%24set": {"x": 1}})
        self.assertEqual(statement["u"]["$set"]["version"], 4)
        self.assertEqual(statement["u"]["$unset"], {"user": "", "key": ""})
        self.assertEqual((record.version, record.used), (4, self.now))
        self.assertFalse(self.sessions.is_changed(record))

    def test_conflict(self) -> None:
        """Somebody else's save is told with all that a merge needs; the record stays."""
        theirs = stored({"a": 1, "b": 2}, version=4)
        record = self.loaded(MISSED, theirs)
        record.data["c"] = 3
        failure = self.failureResultOf(self.sessions.save(record), SessionConflict)
        conflict = failure.value
        self.assertIs(conflict.record, record)
        self.assertEqual(conflict.base, {"a": 1})
        self.assertEqual(conflict.current.data, {"a": 1, "b": 2})
        self.assertIn("version 4, where 3 was loaded", str(conflict))
        self.assertEqual(record.version, 3)
        self.assertEqual(merge(conflict).data, {"a": 1, "b": 2, "c": 3})

    def test_conflict_of_codecs(self) -> None:
        """Changes are seen in what a codec makes: its objects need not be equal."""

        class Thing:
            """Equal to nothing else."""

            def __init__(self, name: str) -> None:
                self.name = name

        class Things:
            """Things by their names."""

            def encode(self, data: dict[str, Thing]) -> dict[str, str]:
                """The names."""
                return {key: thing.name for key, thing in data.items()}

            def decode(self, document: dict[str, str]) -> dict[str, Thing]:
                """The things."""
                return {key: Thing(name) for key, name in document.items()}

        theirs = stored({"a": "egg", "b": "tea"}, version=4)
        record = self.loaded(MISSED, theirs, data={"a": "egg", "b": "milk"}, codec=Things())
        record.data["c"] = Thing("salt")
        conflict = self.failureResultOf(self.sessions.save(record), SessionConflict).value
        names = {key: thing.name for key, thing in merge(conflict).data.items()}
        self.assertEqual(names, {"a": "egg", "b": "tea", "c": "salt"})

    def test_lifetime_in_seconds(self) -> None:
        """A number will do, the next time, too."""
        record = self.loaded(MATCHED)
        record.lifetime = 3600  # type: ignore[assignment]  # as new_record takes it
        self.assertTrue(self.successResultOf(self.sessions.save(record)))
        self.assertEqual(record.lifetime, timedelta(hours=1))
        self.assertFalse(self.successResultOf(self.sessions.save(record)))

    def test_gone(self) -> None:
        """A session that has ended is not brought back."""
        record = self.loaded(MISSED, cursor_reply([]), MISSED)
        record.data["c"] = 3
        self.failureResultOf(self.sessions.save(record), SessionGone)
        record.data.pop("c")
        self.now += timedelta(seconds=50)
        self.failureResultOf(self.sessions.save(record), SessionGone)

    def test_limit(self) -> None:
        """Too much data is refused before it is sent, with both figures."""
        record = self.loaded(max_bytes=100)
        record.data["x"] = "y" * 100
        failure = self.failureResultOf(self.sessions.save(record), SessionTooLarge)
        self.assertEqual((failure.value.size, failure.value.limit), (120, 100))
        self.assertIn("has 120 bytes and may have 100", str(failure.value))
        self.assertEqual(self.runner.requests, [])

    def test_encrypted(self) -> None:
        """What a cipher is for does not reach the server; its key's name does."""
        store = self.store(cipher=SessionCipher({"k": bytes(32)}))
        self.successResultOf(store.create({"a": "secret"}, user="ada"))
        (document,) = self.runner.statements()
        self.assertEqual((document["key"], document["user"]), ("k", "ada"))
        self.assertNotIn(b"secret", document["data"])

    def test_users(self) -> None:
        """A user is a string that is neither empty nor huge."""
        store = self.store()
        for user, kind in (({"$ne": 1}, TypeError), (7, TypeError), ("", ValueError)):
            call: Any
            for call in (store.for_user, store.revoke_user):
                self.assertRaises(kind, call, user)
            self.assertRaises(kind, store.new_record, user=user)
            self.assertRaises(kind, store.bind_user, store.new_record(), user)
        self.assertRaises(ValueError, store.revoke_user, "x" * 513)
        record = self.loaded()
        record.user = {"$ne": 1}  # type: ignore[assignment]  # hostile
        self.failureResultOf(self.sessions.save(record), TypeError)
        self.assertEqual(self.runner.requests, [])


class TouchTests(StoreTestCase):
    """
    Longer lives.
    """

    def test_seldom(self) -> None:
        """A tenth of the lifetime has to go by between two writes."""
        short = {"used": NOW + timedelta(seconds=11), "expires": NOW + timedelta(seconds=16)}
        record = self.loaded({"value": short, "ok": 1.0})
        self.now += timedelta(seconds=9)
        self.assertTrue(self.successResultOf(self.sessions.touch(record)))
        self.assertEqual(self.runner.requests, [])
        self.now += timedelta(seconds=2)
        self.assertTrue(self.successResultOf(self.sessions.touch(record)))
        (body,) = self.runner.bodies
        self.assertEqual(body["query"], {"_id": digest_of(ID), "expires": {"$gt": self.now}})
        ((stage, times),) = body["update"][0].items()
        self.assertEqual((stage, [*times], len(body["update"])), ("$set", ["used", "expires"], 1))
        later = {"$add": [self.now, {"$ifNull": ["$lifetime", 100_000.0]}]}
        self.assertEqual(times["expires"], {"$max": ["$expires", later]})
        # As it is stored, which need not be what the record knows.
        self.assertEqual({"used": record.used, "expires": record.expires}, short)

    def test_ended(self) -> None:
        """A session that has ended stays so, and one that was never saved has no life."""
        record = self.loaded(MISSED)
        self.now += timedelta(seconds=200)
        self.assertFalse(self.successResultOf(self.sessions.touch(record)))
        self.assertFalse(self.successResultOf(self.sessions.touch(self.sessions.new_record())))


class ReplacementTests(StoreTestCase):
    """
    New ids.
    """

    def test_order(self) -> None:
        """The new one is stored, then the old one deleted, as it was loaded."""
        record = self.loaded(MATCHED, MATCHED)
        self.successResultOf(self.sessions.bind_user(record, "ada"))
        self.assertEqual([*map(next, map(iter, self.runner.bodies))], ["insert", "delete"])
        (inserted,), (deleted,) = self.runner.statements(0), self.runner.statements(1)
        self.assertEqual(inserted["_id"], digest_of(record.id))
        self.assertEqual((inserted["user"], record.user, record.version), ("ada", "ada", 1))
        self.assertEqual(inserted["created"].replace(tzinfo=UTC), NOW)
        self.assertEqual((deleted["q"]["_id"], deleted["q"]["version"]), (digest_of(ID), 3))

    def test_conflict(self) -> None:
        """Somebody else's save is not lost: the new session goes, the record stays."""
        record = self.loaded(MATCHED, MISSED, MATCHED, stored({"a": 5}, version=4))
        self.failureResultOf(self.sessions.bind_user(record, "ada"), SessionConflict)
        self.assertEqual((record.id, record.user, record.version), (ID, None, 3))
        (inserted,), (deleted,) = self.runner.statements(0), self.runner.statements(2)
        self.assertEqual(deleted["q"]["_id"], inserted["_id"])

    def test_changed_meanwhile(self) -> None:
        """Data that is replaced while the id changes is not lost: it is to be saved."""
        inserted: Deferred[Any] = Deferred()
        record = self.loaded(inserted, MATCHED)
        done = self.sessions.regenerate(record)
        record.data = {"b": 2}
        inserted.callback(MATCHED)
        self.assertIs(self.successResultOf(done), record)
        self.assertEqual(record.data, {"b": 2})
        self.assertTrue(self.sessions.is_changed(record))

    def test_interrupted(self) -> None:
        """If the database goes away, the record keeps its id, and no log-in of nobody stays."""
        away = AutoReconnect("gone")
        cases: list[tuple[list[Script], list[str]]] = [
            ([MATCHED, away, MATCHED], ["insert", "delete", "delete"]),
            ([MATCHED, away, away], ["insert", "delete", "delete"]),
            ([away, MATCHED], ["insert", "delete"]),
        ]
        for replies, names in cases:
            record = self.loaded(*replies)
            self.failureResultOf(self.sessions.bind_user(record, "ada"), AutoReconnect)
            self.assertEqual((record.id, record.user, record.version), (ID, None, 3))
            self.assertEqual(self.runner.names[1:], names)
            (inserted,), (deleted,) = self.runner.statements(0), self.runner.statements(-1)
            self.assertEqual(deleted["q"], {"_id": inserted["_id"]})

    def test_cancelled(self) -> None:
        """Who does not wait for the new id leaves nothing behind."""
        record = self.loaded(Deferred(), MATCHED)
        done = self.sessions.bind_user(record, "ada")
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.runner.names[1:], ["insert", "delete"])
        self.assertEqual(record.id, ID)

    def test_refused(self) -> None:
        """What cannot be stored is not sent, and there is nothing to be removed."""
        record = self.loaded()
        record.data["x"] = object()
        self.failureResultOf(self.sessions.regenerate(record), InvalidSessionData)
        self.assertEqual(self.runner.requests, [])


class UpdateTests(StoreTestCase):
    """
    Loading, changing and saving in one.
    """

    def test_again(self) -> None:
        """It begins anew after a conflict, and gives up after the last attempt."""
        now, later, last = (stored({"n": n}, version=n) for n in (1, 5, 7))

        def add(record: SessionRecord) -> None:
            record.data["n"] += 1

        store = self.store(now, MISSED, later, MISSED, last, last, MATCHED)
        done = store.update(ID, add)
        self.assertEqual(len(self.runner.requests), 5)
        self.assertNoResult(done)
        self.runner.clock.advance(1)
        updated = self.successResultOf(done)
        assert updated is not None
        self.assertEqual(updated.data, {"n": 8})
        store = self.store(now, MISSED, later)
        self.failureResultOf(store.update(ID, add, attempts=1), SessionConflict)

    def test_record(self) -> None:
        """A record that was just loaded need not be loaded again, unless it has been changed."""
        record = self.loaded(MATCHED, stored({"a": 3}, version=4), MATCHED)
        self.successResultOf(self.sessions.update(record, lambda each: each.data.update(a=2)))
        self.assertEqual(self.runner.names[1:], ["update"])
        record.data["b"] = 1
        self.successResultOf(self.sessions.update(record, lambda each: each.data.update(c=2)))
        self.assertEqual(self.runner.names[2:], ["find", "update"])
        (statement,) = self.runner.statements(2)
        self.assertEqual(statement["u"]["$set"]["data"], {"a": 3, "c": 2})

    def test_function(self) -> None:
        """It may wait, and what it raises comes out, with nothing written."""
        store = self.store(stored({}), stored({}))
        waiting: Deferred[None] = Deferred()
        done = store.update(ID, lambda record: waiting)
        self.assertNoResult(done)
        waiting.callback(None)
        self.successResultOf(done)
        self.failureResultOf(store.update(ID, lambda record: record.data["x"]), KeyError)
        self.assertEqual(self.runner.names, ["find", "find"])

    def test_missing(self) -> None:
        """There is nothing to update."""
        store = self.store(cursor_reply([]))
        self.assertIsNone(self.successResultOf(store.update(ID, self.fail)))
        self.assertRaises(ValueError, store.update, ID, self.fail, attempts=0)
        self.assertRaises(TypeError, store.update, ID, self.fail, attempts=2.5)


class RotationTests(StoreTestCase):
    """
    New keys.
    """

    def test_unreadable(self) -> None:
        """A session that no key opens keeps none of the others from the newest one."""
        documents = [
            stored(data)["cursor"]["firstBatch"][0] for data in (b"junk", {"a": 1}, {"a": 2})
        ]
        found = cursor_reply(documents, namespace="db.sessions")
        cipher = SessionCipher({"k": bytes(32)}, accepts_plain=True)
        store = self.store(found, MATCHED, MATCHED, cipher=cipher)
        failure = self.failureResultOf(store.rotate(), SessionUnreadable)
        self.assertIn("1 sessions are opened by none", str(failure.value))
        self.assertIn("while 2 were", str(failure.value))
        self.assertEqual(self.runner.names, ["find", "update", "update"])


class ArgumentTests(StoreTestCase):
    """
    What a store is made with.
    """

    def test_refusals(self) -> None:
        """Each wrong argument is named."""
        cases: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"timeout": 0}, ValueError, "timeout"),
            ({"timeout": "1"}, TypeError, "timeout"),
            ({"timeout": timedelta(days=9999)}, ValueError, "timeout"),
            ({"token_bytes": 8}, ValueError, "token_bytes"),
            ({"max_bytes": 1 << 30}, ValueError, "max_bytes"),
            ({"token_bytes": 16.5}, TypeError, "token_bytes"),
            ({"max_bytes": 100.5}, TypeError, "max_bytes"),
            ({"touch_after": 1}, ValueError, "touch_after"),
            ({"lease": True}, TypeError, "lease"),
            ({"wait": -1}, ValueError, "wait"),
            ({"codec": object()}, TypeError, "encode"),
            ({"cipher": object()}, TypeError, "ISessionCipher"),
        ]
        for options, kind, told in cases:
            self.assertIn(told, str(self.assertRaises(kind, self.store, **options)))
        self.assertRaises(TypeError, MongoSessionStore, "db")
        self.store()
        unsure = Database(self.runner, "db", write_concern=WriteConcern(w=0))
        self.assertRaises(ValueError, MongoSessionStore, unsure)
        naive = MongoSessionStore(
            Database(self.runner, "db"), clock=lambda: NOW.replace(tzinfo=None)
        )
        self.assertRaises(TypeError, naive.new_record)
        self.assertRaises(SessionError, self.store().rotate)
        self.assertRaises(TypeError, self.store().for_user, "ada", limit=1.5)

    def test_zones(self) -> None:
        """Times are in UTC, whatever the clock's zone is, for sums in a zone may be an hour off."""
        store = self.store()
        self.now = NOW.astimezone(timezone(timedelta(hours=2)))
        self.assertEqual(store.now(), NOW)
        self.assertIs(store.now().tzinfo, UTC)

    def test_repr(self) -> None:
        """It shows the collection."""
        self.assertEqual(repr(self.store(name="s")), "<MongoSessionStore db.s>")
