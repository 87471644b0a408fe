"""
L{txmongokit.storage} on a real server.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, date, datetime
from random import Random
from typing import Any

from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from tests.deployments import SharedTestCase, server_version, shared_set
from tests.storage.classes import (
    Address,
    Book,
    Colour,
    Film,
    Keyed,
    Note,
    Person,
    Point,
    Ticket,
    everything,
    keyed,
)
from tests.storage.oracle import meets, random_documents, random_value
from txmongokit.errors import (
    AutoReconnect,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    ServerSelectionTimeoutError,
)
from txmongokit.sessions import ClientSession
from txmongokit.storage import LONGEST_TEXT, LOOKUPS, Misfit, MissingKey, StorageAdapter


class StorageTestCase(SharedTestCase):
    """
    A storage for each test.
    """

    def storage(self, **options: Any) -> StorageAdapter:
        """A storage with a client of its own."""
        given: dict[str, Any] = {"database": self.database, "collection": "things", **options}
        storage = StorageAdapter(uri=shared_set().uri, **given)
        self.addCleanup(storage.close)
        return storage

    def run_with(
        self, test: Callable[[StorageAdapter], Coroutine[Any, Any, None]], **options: Any
    ) -> Deferred[None]:
        """Run a test on an empty storage."""

        async def run() -> None:
            storage = self.storage(**options)
            await storage.clear()
            await test(storage)

        return Deferred.fromCoroutine(run())


class LookupTests(StorageTestCase):
    """
    Each lookup beside what Python makes of it.
    """

    def test_oracle(self) -> Deferred[None]:
        """Random documents and conditions: the server finds what the oracle does."""
        return self.run_with(self.oracle)

    async def oracle(self, storage: StorageAdapter) -> None:
        """See L{test_oracle}."""
        random = Random(20261121)
        documents = random_documents(random, 200)
        everything = {document["_id"] for document in documents}
        await storage.collection.insert_many(documents)
        for lookup in LOOKUPS:
            hits = 0
            for path in ("f", "sub.f", "date") * 6:
                value = random_value(random, lookup)
                told = f"{path} {lookup} {value!r}"
                wanted = {each["_id"] for each in documents if meets(each, path, lookup, value)}
                condition = {f"{path.replace('.', '__')}__{lookup}": value}
                found = storage.find(**condition).values("_id")
                others = storage.find().where_not(**condition).values("_id")
                self.assertEqual(set(await found), wanted, told)
                self.assertEqual(set(await others), everything - wanted, told)
                hits += len(wanted)
            self.assertGreater(hits, 0, lookup)

    def test_hostile(self) -> Deferred[None]:
        """Text and documents that look like operators are only what they are."""
        return self.run_with(self.hostile)

    async def hostile(self, storage: StorageAdapter) -> None:
        """See L{test_hostile}."""
        texts = [
            ".*",
            "^",
            "$",
            "a\0b",
            "\\",
            "\\E.*",
            "[",
            "(?i)A",
            "a" * LONGEST_TEXT,
            "{$gt: 1}",
        ]
        odd: list[Any] = [{"$gt": ""}, {"$where": "true"}, {"$in": []}, [{"$ne": 1}], {}]
        keys = {await storage.save({"f": value}): value for value in [*texts, *odd]}
        for key, value in keys.items():
            found = await storage.find(f=value)
            self.assertIn(key, [each["_id"] for each in found], value)
            self.assertEqual([each["f"] for each in found], [value] * len(found))
            found = await storage.find(f__in=[value])
            self.assertIn(key, [each["_id"] for each in found], value)
            if isinstance(value, str):
                for lookup in ("startswith", "endswith", "contains", "iexact", "icontains"):
                    found = await storage.find(**{f"f__{lookup}": value})
                    self.assertIn(key, [each["_id"] for each in found], (lookup, value[:9]))
                    self.assertLess(len(found), 3)
        await storage.clear()
        await storage.save({"f": "\u01c6" * LONGEST_TEXT})
        for lookup in ("icontains", "iexact", "like"):
            found = await storage.find(**{f"f__{lookup}": "\u01c5" * LONGEST_TEXT})
            self.assertEqual(len(found), 1, lookup)
        await self.error_of(storage.find(f__matches="(").to_list(), OperationFailure)
        await storage.clear()
        await storage.collection.insert_many(
            [{"f": f"1, ada{gap}grace!"} for gap in (" ", "  ", "\n\t", "-", "")]
        )
        for lookup in ("like", "like_any", "search"):
            phrase = {"like_any": ["Ada Grace"], "search": '"Ada Grace"'}.get(lookup, "Ada Grace")
            self.assertEqual(await storage.find(**{f"f__{lookup}": phrase}).count(), 3, lookup)
        self.assertEqual(await storage.find(f__search="Ada Grace").count(), 4)
        # Python's white space is all of Unicode's.
        gaps = [gap for gap in map(chr, range(sys.maxunicode)) if gap.isspace()]
        await storage.clear()
        await storage.collection.insert_many([{"f": f"Ada{gap}Grace"} for gap in gaps])
        for gap in gaps:
            alike = storage.find(f__like=f"ada{gap}grace")
            self.assertEqual(await alike.count(), len(gaps), repr(gap))
        self.assertEqual(await storage.find(f__search='"ada || grace"').count(), 0)
        self.assertEqual(await storage.find(f__search="alan || ada && grace").count(), len(gaps))

    def test_index(self) -> Deferred[None]:
        """Ranges, years, beginnings, equality and lists are looked up in an index."""
        return self.run_with(self.index)

    async def index(self, storage: StorageAdapter) -> None:
        """See L{test_index}."""
        await storage.collection.create_index("f")
        for condition in (
            {"f": 5},
            {"f__in": [1, {"a": 1}]},
            {"f__between": [1, 2]},
            {"f__year": 2020},
            {"f__startswith": "a.b c"},
            {"f__exists": True},
        ):
            conditions: dict[str, Any] = condition
            plan = await storage.collection.find(storage.find(**conditions).filter).explain()
            self.assertIn("IXSCAN", str(plan["queryPlanner"]["winningPlan"]), condition)
            self.assertNotIn("COLLSCAN", str(plan["queryPlanner"]["winningPlan"]), condition)


class QueryTests(StorageTestCase):
    """
    Queries.
    """

    def test_life(self) -> Deferred[None]:
        """Conditions, order, slices, iteration, counts, values and deletion."""
        return self.run_with(self.life)

    async def life(self, storage: StorageAdapter) -> None:
        """See L{test_life}."""
        for number in range(30):
            await storage.save({"n": number, "even": number % 2 == 0, "tags": [number % 3, "x"]})
        some = storage.find(n__gte=10).where(n__lt=20).where_not(even=True).order_by("-n")
        self.assertEqual([each["n"] for each in await some], [19, 17, 15, 13, 11])
        self.assertEqual([each["n"] async for each in some[1:3]], [17, 15])
        self.assertEqual((await some[4])["n"], 11)
        await self.error_of(some[5], IndexError)
        first = await some.first()
        self.assertEqual(first and first["n"], 19)
        self.assertEqual(await some.count(), 5)
        self.assertEqual(await some[2:9].count(), 3)
        self.assertEqual(await storage.find()[:0].count(), 0)
        self.assertEqual(sorted(await some.values("n")), [11, 13, 15, 17, 19])
        self.assertEqual(sorted(await some[:2].values("n")), [17, 19])
        self.assertEqual(sorted(await some.values("tags"), key=str), [0, 1, 2, "x"])
        self.assertEqual(sorted(await some[:1].values("tags"), key=str), [1, "x"])
        async for each in storage.find().order_by("n"):
            if each["n"] == 3:
                break
        self.assertEqual(await some.delete(), 5)
        self.assertEqual(await storage.find().count(), 25)
        self.assertEqual(await some, [])

    def test_many_values(self) -> Deferred[None]:
        """More than C{distinct} can take are found, and the same as it finds."""
        return self.run_with(self.many_values)

    async def many_values(self, storage: StorageAdapter) -> None:
        """See L{test_many_values}."""
        odd = [{"v": None}, {}, {"v": []}, {"v": [1, None, [2]]}, {"v": {"a": 1}}, {"v": 1.0}]
        for document in odd:
            await storage.save(document)
        nested = [{"a": 1}, {"a": [2, [3], {"a": 1}]}, {}, 5, {"a": None}, [{"a": 6}]]
        await storage.save({"v": [7], "w": nested})
        await storage.save({"v": 7, "w": {"a": 8}})
        for name in ("v", "w", "w.a"):
            few = await storage.find().values(name)
            sliced = await storage.find()[:100].values(name)
            self.assertEqual(sorted(map(repr, few)), sorted(map(repr, sliced)))
        few = await storage.find().values("v")
        await storage.collection.insert_many([{"v": chr(97 + n) * 1_000_000} for n in range(17)])
        many = await storage.find().values("v")
        self.assertEqual(len(many), len(few) + 17)
        self.assertEqual(len(await storage.find(v__startswith="a").values("v")), 1)

    def test_transaction(self) -> Deferred[None]:
        """A storage is part of a session that is bound."""
        return self.run_with(self.transaction)

    async def transaction(self, other: StorageAdapter) -> None:
        """See L{test_transaction}."""
        await other.save({"_id": 0})
        client = self.client(shared_set().uri)
        storage = StorageAdapter(client=client, database=self.database, collection="things")
        async with client.start_session() as session, session.start_transaction():
            async with session.bind(end_session=False):
                await storage.save({"_id": 1})
                await storage.get_or_create(dict, _id=2)
                await storage.delete(0)
                self.assertEqual(await storage.find().count(), 2)
            self.assertEqual(await other.find(), [{"_id": 0}])
            await session.abort_transaction()
        self.assertEqual(await other.find(), [{"_id": 0}])


class KeyTests(StorageTestCase):
    """
    Documents by their keys.
    """

    def test_life(self) -> Deferred[None]:
        """Documents are saved, got, saved in place, deleted, and the storage is cleared."""
        return self.run_with(self.life)

    async def life(self, storage: StorageAdapter) -> None:
        """See L{test_life}."""
        key = await storage.save({"name": "Ada", "age": 36})
        self.assertEqual(await storage.get(dict, key), {"_id": key, "name": "Ada", "age": 36})
        self.assertEqual(await storage.save({"name": "Ada"}, key), key)
        self.assertEqual(await storage.get(dict, key), {"_id": key, "name": "Ada"})
        self.assertNotEqual(await storage.save({"name": "Ada"}), key)
        self.assertEqual(await storage.save({}, key), key)
        self.assertEqual(await storage.get(dict, key), {"_id": key})
        self.assertEqual(await storage.save(Note(text="x"), "mine"), "mine")
        self.assertIsInstance(await storage.get(Note, "mine"), Note)
        error = await self.error_of(storage.get(dict, "no"), KeyError)
        self.assertEqual(error.key, "no")
        self.assertIs(await storage.delete("mine"), True)
        self.assertIs(await storage.delete("mine"), False)
        await self.error_of(storage.get(Note, "mine"), MissingKey)
        self.assertEqual(await storage.clear(), 2)
        self.assertEqual(await storage.find(), [])

    def test_many(self) -> Deferred[None]:
        """Keys of all types: in their order, as often as asked, all that are missing named."""
        return self.run_with(self.many)

    async def many(self, storage: StorageAdapter) -> None:
        """See L{test_many}."""
        moment = datetime(2020, 1, 2, 3, 4, 5, 678901, UTC)
        keys = [3, "3", ObjectId(), uuid.uuid4(), b"3", {"a": {"b": 1}}, 2.5, True, moment]
        keys.append(Decimal128("7"))
        for number, key in enumerate(keys):
            await storage.save({"n": number}, key)
        asked = [*reversed(keys), 3.0, Decimal128("2.5"), 7]
        for number, key in ((0, 3.0), (6, Decimal128("2.5")), (9, 7)):
            await storage.save({"n": number}, key)
        self.assertEqual(await storage.find().count(), len(keys))
        got = await storage.get_many(dict, asked)
        self.assertEqual([each["n"] for each in got], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 6, 9])
        error = await self.error_of(storage.get_many(dict, [1, 3, {"a": 1}]), MissingKey)
        self.assertEqual(error.keys, (1, {"a": 1}))
        few = await storage.get_many(dict, iter(["3"]))
        self.assertEqual([each["_id"] for each in few], ["3"])

    def test_key_field(self) -> Deferred[None]:
        """A key by another name is C{_id} in the collection."""
        return self.run_with(self.named, key_field="number")

    async def named(self, storage: StorageAdapter) -> None:
        """See L{test_key_field}."""
        self.assertEqual(await storage.save({"number": 5, "a": 1}), 5)
        self.assertEqual(await storage.find(number__lt=6), [{"number": 5, "a": 1}])
        self.assertEqual(await storage.collection.find_one(5), {"_id": 5, "a": 1})
        self.assertEqual(await storage.find().values("number"), [5])


class GetOrCreateTests(StorageTestCase):
    """
    Getting or creating, and its races.
    """

    def test_race(self) -> Deferred[None]:
        """With a unique index, or by key, one of many creates the document that all get."""
        return self.run_with(self.race)

    async def race(self, storage: StorageAdapter) -> None:
        """See L{test_race}."""
        await storage.collection.create_index("email", unique=True)
        others = [self.storage() for _ in range(3)]
        for number in range(4):
            for fields in ({"email": f"{number}@example.com"}, {"_id": number, "email": number}):
                together = [
                    each.get_or_create(Note, **fields, defaults={"by": place})
                    for place, each in enumerate([storage, *others] * 5)
                ]
                results = await gatherResults(together)
                self.assertEqual(sum(created for _, created in results), 1)
                self.assertEqual(len({(note["_id"], note["by"]) for note, _ in results}), 1)
        self.assertEqual(await storage.find().count(), 8)
        await self.error_of(
            storage.get_or_create(dict, name="x", defaults={"email": 1}), DuplicateKeyError
        )

    def test_collision_in_a_transaction(self) -> Deferred[None]:
        """A collision within a transaction is told at once, and not as something to repeat."""
        return self.run_with(self.collision)

    async def collision(self, other: StorageAdapter) -> None:
        """See L{test_collision_in_a_transaction}."""
        await other.collection.create_index("email", unique=True)
        await other.save({"_id": 1, "email": "a"})
        client = self.client(shared_set().uri)
        storage = StorageAdapter(client=client, database=self.database, collection="things")
        attempts = []

        async def create(session: ClientSession) -> None:
            attempts.append(session)
            async with session.bind(end_session=False):
                await storage.get_or_create(dict, name="x", defaults={"email": "a"})

        async with client.start_session() as session:
            await self.error_of(session.with_transaction(create), DuplicateKeyError)
        self.assertEqual(len(attempts), 1)
        self.assertEqual(await other.find(), [{"_id": 1, "email": "a"}])

    def test_values(self) -> Deferred[None]:
        """What was created is found again, whatever its values, and returned as it is there."""
        return self.run_with(self.found_again)

    async def found_again(self, storage: StorageAdapter) -> None:
        """See L{test_values}."""
        moment = datetime(2020, 1, 2, 3, 4, 5, 678901, UTC)
        values: list[Any] = [None, 1, "x", [1, "a"], {"a": {"b": 1}}, moment, (1, 2), b"x"]
        if server_version(shared_set()) >= (5,):  # Older ones do not store such names.
            values.append({"$gt": 1})
        for value in values:
            await storage.clear()
            made, created = await storage.get_or_create(dict, a=value, b=1, defaults={"c": value})
            self.assertIs(created, True)
            got, created = await storage.get_or_create(dict, a=value, b=1)
            self.assertEqual((got, created), (made, False))
            self.assertEqual(await storage.find(), [made])


class ConnectionTests(StorageTestCase):
    """
    Connecting, and connecting again.
    """

    def test_host(self) -> Deferred[None]:
        """A storage is found by host and port, and closes after its block."""
        return Deferred.fromCoroutine(self.host())

    async def host(self) -> None:
        """See L{test_host}."""
        host, port = shared_set().primary().address
        async with StorageAdapter(
            host=host, port=port, database=self.database, collection="things", timeoutMS=9000
        ) as storage:
            await storage.clear()
            await storage.save({"_id": 1})
            self.assertEqual(await storage.find(), [{"_id": 1}])
        await self.error_of(storage.get(dict, 1), InvalidOperation)

    def test_reconnect(self) -> Deferred[None]:
        """What is under way ends first, what comes after uses new connections."""
        return self.run_with(self.again)

    async def again(self, storage: StorageAdapter) -> None:
        """See L{test_reconnect}."""
        await storage.collection.insert_many([{"_id": number} for number in range(500)])
        query = storage.find().order_by("_id")
        loop = query.__aiter__()
        self.assertEqual(await loop.__anext__(), {"_id": 0})
        under_way = [query.to_list() for _ in range(5)]
        client = storage.collection.database.client
        await storage.reconnect()
        self.assertIsNot(storage.collection.database.client, client)
        for success, found in await DeferredList(under_way, consumeErrors=True):
            self.assertTrue(success, found)
        self.assertEqual(await query.count(), 500)

        async def rest() -> list[Any]:
            return [each async for each in loop]

        await self.error_of(Deferred.fromCoroutine(rest()), AutoReconnect, InvalidOperation)
        await storage.close()
        await storage.reconnect()
        self.assertEqual(await query.count(), 500)

    def test_closed_meanwhile(self) -> Deferred[None]:
        """Closing leaves none of the connections open that a reconnection waits for."""
        return self.run_with(self.closed_meanwhile)

    async def closed_meanwhile(self, storage: StorageAdapter) -> None:
        """See L{test_closed_meanwhile}."""
        await storage.save({"_id": 1})
        client = storage.collection.database.client
        slow = {"$where": "sleep(2000) || true"}
        under_way = storage.during(lambda collection: collection.find(slow).to_list())
        done = storage.reconnect(grace=60)
        self.assertIsNot(storage.collection.database.client, client)
        again = storage.reconnect()
        await storage.close()
        for each in (under_way, done, again):
            await self.error_of(each, AutoReconnect, InvalidOperation)

    def test_nobody_there(self) -> Deferred[None]:
        """Reconnecting where there is no server fails in time."""
        storage = StorageAdapter(port=1, database="d", collection="c", serverSelectionTimeoutMS=200)
        self.addCleanup(storage.close)
        return Deferred.fromCoroutine(
            self.error_of(storage.reconnect(), ServerSelectionTimeoutError)
        )


class ClassTests(StorageTestCase):
    """
    Dataclasses, attrs classes and pydantic's models.
    """

    def test_round_trips(self) -> Deferred[None]:
        """Instances come back as they were, by each way there is."""
        return self.run_with(self.round_trips)

    async def round_trips(self, storage: StorageAdapter) -> None:
        """See L{test_round_trips}."""
        instances: list[Any] = [
            Note(_id=1, text="One\nTwo"),
            Person("Ada", 36, Address("London", ["x"]), date(1815, 12, 10), Colour.BLUE, "ada"),
            Book("M", 3, 7),
            Film(_id=ObjectId(), title="M", shown=date(1931, 5, 11), tickets=[Ticket(row=3)]),
            everything(),
            replace(keyed(), pk=7),
        ]
        for instance in instances:
            doc_class = type(instance)
            await storage.clear()
            key = await storage.save(instance)
            self.assertEqual(await storage.get(doc_class, key), instance)
            self.assertEqual(await storage.get_many(doc_class, [key]), [instance])
            self.assertEqual(await storage.find(doc_class), [instance])
            self.assertEqual(await storage.find(doc_class, _id=key)[0], instance)
            self.assertEqual(await storage.save(instance), key)
            self.assertEqual(await storage.find(doc_class).count(), 1)

    def test_conditions(self) -> Deferred[None]:
        """Conditions take the values that the classes have."""
        return self.run_with(self.conditions)

    async def conditions(self, storage: StorageAdapter) -> None:
        """See L{test_conditions}."""
        ada = Person("Ada", 36, Address("London"), date(1815, 12, 10), Colour.BLUE)
        grace = Person("Grace", 85, Address("New York"), date(1906, 12, 9))
        ada.pk, grace.pk = await storage.save(ada), await storage.save(grace)
        people = storage.find(Person)
        for condition in (
            {"colour": Colour.BLUE},
            {"colour__in": {Colour.BLUE}},
            {"born": date(1815, 12, 10)},
            {"born__lt": date(1900, 1, 1)},
            {"born__year": 1815},
            {"born__day": 10},
            {"address": Address("London")},
            {"address__city__startswith": "Lon"},
            {"pk": ada.pk},
            {"pk__in": [ada.pk]},
        ):
            conditions: dict[str, Any] = condition
            self.assertEqual(await people.where(**conditions), [ada], condition)
            self.assertEqual(await people.where_not(**conditions), [grace], condition)
        self.assertEqual(await people.order_by("-pk").first(), grace)
        self.assertEqual(await storage.find(Point).count(), 2)
        error = await self.error_of(storage.find(Point).to_list(), Misfit)
        self.assertIn("is no Point: a field that it needs is missing @ $.x", str(error))

    def test_get_or_create(self) -> Deferred[None]:
        """What is created has the class's defaults, and is got as what it was."""
        return self.run_with(self.created)

    async def created(self, storage: StorageAdapter) -> None:
        """See L{test_get_or_create}."""
        for doc_class, fields in (
            (Person, {"name": "Ada", "address": Address("London")}),
            (Person, {"pk": "ada", "name": "Ada", "born": date(1815, 12, 10)}),
            (Film, {"title": "M", "year": 1931, "shown": date(1931, 5, 11)}),
            (Book, {"title": "M", "_id": 5}),
            (Keyed, {**vars(keyed()), "pk": 5}),
        ):
            await storage.clear()
            arguments: dict[str, Any] = fields
            made: Any = await storage.get_or_create(doc_class, **arguments)
            again: Any = await storage.get_or_create(doc_class, **arguments)
            self.assertEqual(made[1:], (True,))
            self.assertEqual(again, (made[0], False))
            self.assertEqual(await storage.find(doc_class), [made[0]])
