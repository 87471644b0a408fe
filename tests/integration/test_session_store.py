"""
The session store on a real server.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from bson import DBRef, ObjectId
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from tests.integration.sessionwriter import FIELDS
from tests.websessions import SessionTestCase
from txmongokit.web.codecs import BSONCodec, ISessionCodec, ModbCodec
from txmongokit.web.encryption import SessionCipher
from txmongokit.web.store import (
    MongoSessionStore,
    SessionConflict,
    SessionGone,
    SessionLockTimeout,
    SessionRecord,
    SessionUnreadable,
)

KILLS = 3
OLD, NEW = b"o" * 32, b"n" * 32
_ROOT = Path(__file__).resolve().parents[2]


class Basket:
    """Something that BSON does not know."""

    def __init__(self, *things: str) -> None:
        self.things = set(things)


def add_one(record: SessionRecord) -> None:
    """Count."""
    record.data["n"] = record.data.get("n", 0) + 1


class StoreTests(SessionTestCase):
    """
    L{MongoSessionStore}.
    """

    async def loaded(self, identifier: str, store: Any = None) -> SessionRecord:
        """A session that must be there."""
        record = await (store or self.store).load(identifier)
        assert isinstance(record, SessionRecord)
        return record

    def test_everything_comes_back(self) -> Deferred[None]:
        """Any data that BSON can encode, under any keys."""
        return Deferred.fromCoroutine(self.everything_comes_back())

    async def everything_comes_back(self) -> None:
        """See L{test_everything_comes_back}."""
        more: dict[str, Any] = {"p.q": {"$set": 1}}
        data = {
            "$set": {"a.b": 1, "$where": "1", "%24": 2},
            "": [None, True, 1.5, 1 << 40, b"\0\xff", ObjectId(), uuid4()],
            "reference": DBRef("users", {"$gt": ""}, **more),
            "\0": {"$ref": "users", "$id": 1},
            "when": datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        }
        record = await self.store.create(dict(data), user="ada", confidential=True)
        found = await self.loaded(record.id)
        self.assertEqual(found, record)
        self.assertEqual(found.data, data)
        self.assertFalse(await self.store.save(found))

    def test_two_at_once(self) -> Deferred[None]:
        """Of two who save, the later is told, and can merge."""
        return Deferred.fromCoroutine(self.two_at_once())

    async def two_at_once(self) -> None:
        """See L{test_two_at_once}."""
        identifier = (await self.store.create({"a": 1})).id
        first, second = await self.loaded(identifier), await self.loaded(identifier)
        first.data["b"] = 2
        await self.store.save(first)
        second.data["c"] = 3
        conflict = await self.error_of(self.store.save(second), SessionConflict)
        self.assertEqual(conflict.base, {"a": 1})
        conflict.current.data.update(c=3)
        await self.store.save(conflict.current)
        self.assertEqual((await self.loaded(identifier)).data, {"a": 1, "b": 2, "c": 3})

    def test_no_update_is_lost(self) -> Deferred[None]:
        """200 updates at once by three processes' stores are all counted."""
        return Deferred.fromCoroutine(self.no_update_is_lost())

    async def no_update_is_lost(self) -> None:
        """See L{test_no_update_is_lost}."""
        identifier = (await self.store.create()).id
        stores = [self.store, self.another_store(), self.another_store()]
        updates = [stores[n % 3].update(identifier, add_one, attempts=200) for n in range(200)]
        await gatherResults(updates, consumeErrors=True)
        self.assertEqual((await self.loaded(identifier)).data, {"n": 200})

    def test_ends(self) -> Deferred[None]:
        """A session that has ended cannot be had, whether it was removed or not."""
        return Deferred.fromCoroutine(self.ends())

    async def ends(self) -> None:
        """See L{test_ends}."""
        now = datetime.now(UTC)
        later = self.another_store(clock=lambda: now + timedelta(seconds=101))
        record = await self.store.create({"a": 1}, user="ada")
        self.assertIsNone(await later.load(record.id))
        self.assertFalse(await later.exists(record.id))
        self.assertFalse(await later.touch(await self.loaded(record.id)))
        self.assertEqual(await later.for_user("ada"), [])
        record.data["b"] = 2
        await self.error_of(later.save(record), SessionGone)
        await self.error_of(later.regenerate(record), SessionGone)
        self.assertEqual(await self.store.expire(), 0)
        self.assertEqual(await later.expire(), 1)
        self.assertFalse(await self.store.delete(record.id))

    def test_touch(self) -> Deferred[None]:
        """A touch moves the end, and is no conflict for who has the session loaded."""
        return Deferred.fromCoroutine(self.touches())

    async def touches(self) -> None:
        """See L{test_touch}."""
        now = datetime.now(UTC)
        later = self.another_store(clock=lambda: now + timedelta(seconds=60))
        record = await self.store.create({"a": 1})
        other = await self.loaded(record.id)
        self.assertTrue(await later.touch(other))
        self.assertEqual((await self.loaded(record.id)).expires, other.expires)
        record.data["b"] = 2
        self.assertTrue(await self.store.save(record))
        record.lifetime = timedelta(seconds=80)
        await self.store.save(record)
        later = self.another_store(clock=lambda: now + timedelta(seconds=75))
        self.assertTrue(await later.touch(other))  # It knows nothing of that.
        self.assertEqual(other.expires - other.used, timedelta(seconds=80))
        self.assertEqual((await self.loaded(record.id)).expires, other.expires)

    def test_new_ids(self) -> Deferred[None]:
        """The old id is worth nothing at once; of two who change it, one does."""
        return Deferred.fromCoroutine(self.new_ids())

    async def new_ids(self) -> None:
        """See L{test_new_ids}."""
        record = await self.store.create({"a": 1})
        other, old = await self.loaded(record.id), record.id
        await self.store.bind_user(record, "ada")
        self.assertIsNone(await self.store.load(old))
        self.assertEqual(await self.loaded(record.id), record)
        await self.error_of(self.store.regenerate(other), SessionGone)
        self.assertEqual(other.id, old)
        self.assertEqual(await self.store.collection.count_documents({}), 1)
        await self.store.bind_user(record, None)
        self.assertEqual(await self.store.for_user("ada"), [])

    def test_users(self) -> Deferred[None]:
        """A user's sessions are listed without their ids, and can be ended."""
        return Deferred.fromCoroutine(self.users())

    async def users(self) -> None:
        """See L{test_users}."""
        ids = [(await self.store.create({}, user="ada")).id for _ in range(3)]
        await self.store.create({}, user="grace")
        summaries = await self.store.for_user("ada")
        self.assertEqual(len(summaries), 3)
        self.assertFalse(any(each in repr(summaries) for each in ids))
        self.assertEqual(len(await self.store.for_user("ada", limit=2)), 2)
        self.assertTrue(await self.store.delete_key(summaries[0].key))
        self.assertFalse(await self.store.delete_key(summaries[0].key))
        self.assertEqual(await self.store.revoke_user("ada"), 2)
        self.assertEqual(await self.store.collection.count_documents({}), 1)

    def test_exposed(self) -> Deferred[None]:
        """Of the ids that came in clear, the confidential ones end."""
        return Deferred.fromCoroutine(self.exposed())

    async def exposed(self) -> None:
        """See L{test_exposed}."""
        plain = await self.store.create()
        secret = await self.store.create(confidential=True)
        sent = [plain.id, secret.id, {"$ne": 1}, "A" * 43]
        self.assertEqual(await self.store.revoke_exposed(sent), 1)
        self.assertTrue(await self.store.exists(plain.id))
        self.assertIsNone(await self.store.load(plain.id, confidential=True))


class IndexTests(SessionTestCase):
    """
    L{MongoSessionStore.prepare}.
    """

    async def ttl(self, name: str = "expires_1") -> Any:
        """The index that ends sessions."""
        return (await self.store.collection.index_information()).get(name)

    def test_made_and_kept(self) -> Deferred[None]:
        """Missing ones are made, and doing it again changes nothing."""
        return Deferred.fromCoroutine(self.made_and_kept())

    async def made_and_kept(self) -> None:
        """See L{test_made_and_kept}."""
        await gatherResults([self.store.prepare(), self.another_store().prepare()])
        before = await self.store.collection.index_information()
        await self.store.prepare()
        self.assertEqual(await self.store.collection.index_information(), before)
        self.assertEqual((await self.ttl())["expireAfterSeconds"], 0)
        plan = await self.store.collection.find({"user": "ada"}).explain()
        self.assertIn("user_1_used_-1", str(plan))

    def test_made_right(self) -> Deferred[None]:
        """An index with another time is changed by collMod; one without is replaced."""
        return Deferred.fromCoroutine(self.made_right())

    async def made_right(self) -> None:
        """See L{test_made_right}."""
        wrong: list[dict[str, Any]] = [{"expireAfterSeconds": 3600}, {}]
        for options in wrong:
            await self.store.collection.create_index("expires", name="mine", **options)
            await self.store.prepare()
            name = "mine" if options else "expires_1"
            self.assertEqual((await self.ttl(name))["expireAfterSeconds"], 0)
            await self.store.collection.drop_index(name)

    def test_users_made_right(self) -> Deferred[None]:
        """An index in the place of that for users is replaced, by its name and by its keys."""
        return Deferred.fromCoroutine(self.users_made_right())

    async def users_made_right(self) -> None:
        """See L{test_users_made_right}."""
        sessions = self.store.collection
        await self.store.prepare()
        right = (await sessions.index_information())["user_1_used_-1"]
        wrong: list[tuple[list[tuple[str, int]], dict[str, Any]]] = [
            ([("user", 1)], {}),
            ([("user", 1), ("used", -1)], {}),
            ([("user", 1), ("used", -1)], {"unique": True}),
        ]
        for keys, options in wrong:
            await sessions.drop_index("user_1_used_-1")
            await sessions.create_index(keys, name="user_1_used_-1", **options)
            await self.store.prepare()
            self.assertEqual((await sessions.index_information())["user_1_used_-1"], right)
        await sessions.drop_index("user_1_used_-1")
        await sessions.create_index(
            right["key"], name="mine", partialFilterExpression=right["partialFilterExpression"]
        )
        await self.store.prepare()
        found = await sessions.index_information()
        self.assertEqual((found.get("mine"), found["user_1_used_-1"]), (None, right))

    def test_timeout_changes(self) -> Deferred[None]:
        """A shorter timeout holds for sessions that there are; a longer one from their next use."""
        return Deferred.fromCoroutine(self.timeout_changes())

    async def timeout_changes(self) -> None:
        """See L{test_timeout_changes}."""
        usual, own = await self.store.create(), await self.store.create(lifetime=5000)
        shorter = self.another_store(timeout=10)
        await shorter.prepare()
        found = await shorter.load(usual.id)
        assert found is not None
        self.assertLess(found.expires - shorter.now(), timedelta(seconds=11))
        self.assertEqual(found.lifetime, timedelta(seconds=10))
        kept = await shorter.load(own.id)
        assert kept is not None
        self.assertGreater(kept.expires - shorter.now(), timedelta(seconds=4000))
        longer = self.another_store(timeout=1000, touch_after=0)
        await longer.prepare()
        found = await longer.load(usual.id)
        assert found is not None
        await longer.touch(found)
        self.assertGreater(found.expires - longer.now(), timedelta(seconds=900))


class LockTests(SessionTestCase):
    """
    L{MongoSessionStore.lock}.
    """

    def test_one_at_a_time(self) -> Deferred[None]:
        """Of many who want it, in several processes, one has it."""
        return Deferred.fromCoroutine(self.one_at_a_time())

    async def one_at_a_time(self) -> None:
        """See L{test_one_at_a_time}."""
        identifier = self.store.new_record().id
        holders, most = 0, 0

        async def hold(store: MongoSessionStore) -> None:
            nonlocal holders, most
            async with await store.lock(identifier):
                holders += 1
                most = max(most, holders)
                await self.pool.sleep(0.001)
                holders -= 1

        stores = [self.store, self.another_store(), self.another_store()]
        waiting = [Deferred.fromCoroutine(hold(stores[n % 3])) for n in range(30)]
        await gatherResults(waiting, consumeErrors=True)
        self.assertEqual(most, 1)
        self.assertEqual(await self.store.collection["locks"].count_documents({}), 0)

    def test_wait_is_bounded(self) -> Deferred[None]:
        """Who waits too long is told, in this process and in another; cancelling ends the wait."""
        return Deferred.fromCoroutine(self.wait_is_bounded())

    async def wait_is_bounded(self) -> None:
        """See L{test_wait_is_bounded}."""
        identifier = self.store.new_record().id
        async with await self.store.lock(identifier):
            for store, told in ((self.store, "of this process"), (self.another_store(), "another")):
                error = await self.error_of(store.lock(identifier, wait=0.1), SessionLockTimeout)
                self.assertIn(told, str(error))
                waiting = store.lock(identifier)
                waiting.cancel()
                self.failureResultOf(waiting)
        async with await self.store.lock(identifier, wait=0):
            pass

    def test_dead_holder(self) -> Deferred[None]:
        """A lease that nobody renews ends; its holder's release then takes nothing from others."""
        return Deferred.fromCoroutine(self.dead_holder())

    async def dead_holder(self) -> None:
        """See L{test_dead_holder}."""
        identifier = self.store.new_record().id
        dead = self.client(self.deployment.uri)
        left = await self.another_store(dead, lease=0.2).lock(identifier)
        await dead.disconnect()  # So that it can renew nothing.
        async with await self.another_store(lease=1).lock(identifier) as lock:
            await self.pool.sleep(1.5)  # So that it must have been renewed.
            self.assertFalse(lock.lost)
            await self.error_of(left.release())
            self.assertTrue(left.lost)
        self.assertFalse(await lock.release())

    def test_lost(self) -> Deferred[None]:
        """A holder whose lease somebody else has now knows it."""
        return Deferred.fromCoroutine(self.lost())

    async def lost(self) -> None:
        """See L{test_lost}."""
        lock = await self.another_store(lease=0.15).lock(self.store.new_record().id)
        await self.store.collection["locks"].update_many({}, {"$set": {"owner": b"x" * 16}})
        limit = self.pool.seconds() + 10
        while not lock.lost and self.pool.seconds() < limit:
            await self.pool.sleep(0.01)
        self.assertTrue(lock.lost)
        self.assertFalse(await lock.release())


class CodecTests(SessionTestCase):
    """
    Codecs and ciphers.
    """

    def test_modb(self) -> Deferred[None]:
        """With jaraco.modb objects of any class come back, encrypted or not."""
        return Deferred.fromCoroutine(self.modb())

    async def modb(self) -> None:
        """See L{test_modb}."""
        codec = ModbCodec()
        self.assertTrue(verifyObject(ISessionCodec, codec))
        for cipher in (None, SessionCipher({"k": OLD})):
            store = self.another_store(codec=codec, cipher=cipher)
            record = await store.create({"basket": Basket("egg"), "a.b": b"\0"})
            found = await store.load(record.id)
            assert found is not None
            self.assertEqual(found.data["basket"].things, {"egg"})
            self.assertEqual(found.data["a.b"], b"\0")
            self.assertFalse(await store.save(found))
            found.data["basket"].things.add("milk")
            self.assertTrue(await store.save(found))

    def test_bson(self) -> None:
        """The default codec is one."""
        self.assertTrue(verifyObject(ISessionCodec, BSONCodec()))

    def test_rotation(self) -> Deferred[None]:
        """All sessions get the newest key, while they are in use; then the old one can go."""
        return Deferred.fromCoroutine(self.rotation())

    async def rotation(self) -> None:
        """See L{test_rotation}."""
        plain = await self.store.create({"a": 1})
        old = self.another_store(cipher=SessionCipher({"old": OLD}))
        records = [await old.create({"a": number}, user="ada") for number in range(5)]
        both = {"old": OLD, "new": NEW}
        store = self.another_store(cipher=SessionCipher(both, "new", accepts_plain=True))
        used = await store.load(records[0].id)
        assert used is not None
        self.assertEqual(await store.rotate(), 6)
        self.assertEqual(await store.rotate(), 0)
        used.data["b"] = 2
        await store.save(used)
        new = self.another_store(cipher=SessionCipher({"new": NEW}))
        for record in (plain, *records):
            found = await new.load(record.id)
            assert found is not None
            self.assertIn("a", found.data)
        await self.error_of(old.load(plain.id), SessionUnreadable)

    def test_swapped(self) -> Deferred[None]:
        """Who can write to the database cannot give one session's data, or rights, to another."""
        return Deferred.fromCoroutine(self.swapped())

    async def swapped(self) -> None:
        """See L{test_swapped}."""
        store = self.another_store(cipher=SessionCipher({"k": OLD}))
        mine = await store.create({"admin": False}, user="eve")
        await store.create({"admin": True}, user="ada")
        everything = store.collection
        stored = await everything.find({}, {"data": 1}).sort("user").to_list(None)
        ada, eve = stored
        changes: list[dict[str, Any]] = [
            {"data": ada["data"]},
            {"data": eve["data"], "user": "ada"},
            {"user": "eve", "confidential": True},
            {"confidential": False, "data": {"admin": True}},
        ]
        for change in changes:
            await everything.update_one({"_id": eve["_id"]}, {"$set": change})
            await self.error_of(store.load(mine.id), SessionUnreadable)
        await everything.update_one({"_id": eve["_id"]}, {"$set": {"data": eve["data"]}})
        self.assertEqual((await store.load(mine.id) or mine).data, {"admin": False})


class KillTests(SessionTestCase):
    """
    A process that ends between load and save, or within.
    """

    def test_kill(self) -> Deferred[None]:
        """The session is as it was, or as it would be: all fields have the same number."""
        return Deferred.fromCoroutine(self.kill())

    async def kill(self) -> None:
        """See L{test_kill}."""
        drawn = random.Random(8)
        start = {str(field): 0 for field in range(FIELDS)}
        identifier = (await self.store.create({**start, "filling": ""})).id
        last = 0
        for _ in range(KILLS):
            await deferToThread(self.write_and_die, identifier, drawn.uniform(0, 0.05))
            record = await self.store.load(identifier)
            assert record is not None
            numbers = {record.data[str(field)] for field in range(FIELDS)}
            (number,) = numbers
            self.assertEqual(len(record.data["filling"]), number * 1009 % 50_000)
            self.assertGreater(number, last)
            self.assertEqual(record.version, number + 1)
            last = number

    def write_and_die(self, identifier: str, seconds: float) -> None:
        """Kill a writer some time after its first save."""
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.integration.sessionwriter",
                self.deployment.uri,
                self.database,
                identifier,
            ],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            self.assertEqual(writer.stdout.read(1), b".")
            try:
                writer.wait(seconds)
            except subprocess.TimeoutExpired:
                writer.kill()
            self.assertEqual(writer.wait(), -9)
