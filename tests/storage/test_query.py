"""
Tests for L{txmongokit.storage.query}.
"""

from __future__ import annotations

import operator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.storage.classes import Note
from tests.storage.stand import scripted
from txmongokit.errors import OperationFailure
from txmongokit.storage import Misfit, QueryAdapter
from txmongokit.storage.documents import DocumentClasses

ONE, TWO = {"_id": 1, "text": "a"}, {"_id": 2, "text": "b"}
TOO_BIG = OperationFailure("distinct too big, 16mb cap", 17217)


class SayingTests(SynchronousTestCase):
    """
    What a query says, before it is sent.
    """

    def test_unchanged(self) -> None:
        """Each method makes another query, and sends nothing."""
        storage, runner = scripted()
        query = storage.find(Note)
        others = [query.where(a=1), query.where_not(a=1), query.order_by("a"), query[1:2]]
        self.assertEqual(query.filter, {})
        self.assertNotIn(query, others)
        self.assertEqual(others[0].filter, {"a": 1})
        self.assertEqual(others[1].filter, {"$nor": [{"a": 1}]})
        self.assertEqual(runner.commands, [])

    def test_conditions(self) -> None:
        """Conditions add up; C{where_not} means none of its own."""
        storage, _ = scripted()
        query = storage.find(a=1).where(b__gt=2).where_not(c=3, d=4).where_not().where()
        self.assertEqual(
            query.filter, {"$and": [{"a": 1}, {"b": {"$gt": 2}}, {"$nor": [{"c": 3}, {"d": 4}]}]}
        )

    def test_filter(self) -> None:
        """The filter is a copy."""
        storage, _ = scripted()
        query = storage.find(a=1)
        query.filter["b"] = 2
        self.assertEqual(query.filter, {"a": 1})

    def test_repr(self) -> None:
        """A query shows its class and its collection, and no values."""
        storage, _ = scripted()
        query = storage.find(Note, name="secret")
        self.assertEqual(repr(query), "<QueryAdapter of Note in db.things>")

    def test_no_sequence(self) -> None:
        """A query is no sequence, and has no truth value."""
        storage, _ = scripted()
        query: Any = storage.find()
        self.assertRaises(TypeError, iter, query)
        self.assertRaises(TypeError, len, query)
        self.assertRaises(TypeError, bool, query)
        self.assertRaises(TypeError, operator.contains, query, 5)

    def test_refused(self) -> None:
        """Places are whole numbers from the beginning; a slice is the last thing said."""
        storage, _ = scripted()
        query: Any = storage.find()
        for negative in (-1, slice(-1, None), slice(0, -2)):
            self.assertRaises(ValueError, query.__getitem__, negative)
        self.assertRaises(ValueError, query.__getitem__, slice(0, 9, 2))
        for wrong in ("a", 1.0, True, slice("a", "b")):
            self.assertRaises(TypeError, query.__getitem__, wrong)
        part = query[:5]
        for more in (part.where, part.where_not):
            error = self.assertRaises(TypeError, more, a=1)
            self.assertIn("the conditions come before it", str(error))
        self.assertRaises(TypeError, part.order_by, "a")
        self.assertRaises(TypeError, part.delete)
        self.assertRaises(ValueError, query.order_by, "a", "-a")
        self.assertRaises(ValueError, query.order_by, "$a")
        self.assertRaises(ValueError, query.values, "a__year")
        self.assertRaises(ValueError, part.values, "a.0")


class AskingTests(SynchronousTestCase):
    """
    What a query sends, and what it makes of the answer.
    """

    def sent(self, query: QueryAdapter[Any], runner: Any) -> dict[str, Any]:
        """The one find that a query sends for a list."""
        runner.replies.append(cursor_reply([]))
        self.assertEqual(self.successResultOf(query.to_list()), [])
        (body,) = runner.bodies
        runner.requests.clear()
        return {name: body[name] for name in ("filter", "sort", "skip", "limit") if name in body}

    def test_order(self) -> None:
        """Names may be several, descending, nested, in lists, and all the other way round."""
        storage, runner = scripted()
        query = storage.find()
        for ordered, sort in (
            (query.order_by("a"), {"a": 1}),
            (query.order_by("-a", "b__c"), {"a": -1, "b.c": 1}),
            (query.order_by(["a", "-b"], reverse=True), {"a": -1, "b": 1}),
            (query.order_by("a").order_by("_id"), {"_id": 1}),
        ):
            self.assertEqual(self.sent(ordered, runner), {"filter": {}, "sort": sort})
        self.assertEqual(list(self.sent(query.order_by("b", "a"), runner)["sort"]), ["b", "a"])
        self.assertEqual(self.sent(query.order_by("a").order_by(), runner), {"filter": {}})

    def test_slices(self) -> None:
        """Slices of slices count from where the outer one begins, and end where it ends."""
        storage, runner = scripted()
        query = storage.find()
        for part, has in (
            (query[:], {}),
            (query[5:10], {"skip": 5, "limit": 5}),
            (query[5:], {"skip": 5}),
            (query[:3], {"limit": 3}),
            (query[5:10][1:3], {"skip": 6, "limit": 2}),
            (query[5:10][3:9], {"skip": 8, "limit": 2}),
            (query[5:][2:], {"skip": 7}),
        ):
            self.assertEqual(self.sent(part, runner), {"filter": {}, **has})

    def test_nothing(self) -> None:
        """A slice of no length is nothing, without asking: to a server no limit is all."""
        storage, runner = scripted()
        for part in (storage.find()[5:5], storage.find()[5:3], storage.find()[:5][7:]):
            self.assertEqual(self.successResultOf(part.to_list()), [])
            self.assertEqual(self.successResultOf(part.count()), 0)
            self.assertEqual(self.successResultOf(part.values("a")), [])
            self.assertIsNone(self.successResultOf(part.first()))
            self.failureResultOf(part[0], IndexError)
            self.assertEqual(self.successResultOf(self.looped(part)), [])
            self.successResultOf(part.__aiter__().close())
        self.assertEqual(runner.commands, [])

    def looped(self, query: QueryAdapter[Any]) -> Deferred[list[Any]]:
        """The documents of a loop."""

        async def loop() -> list[Any]:
            return [document async for document in query]

        return Deferred.fromCoroutine(loop())

    def test_documents(self) -> None:
        """A list, a loop and an await give instances."""
        storage, _ = scripted(*(cursor_reply([ONE, TWO]) for _ in range(3)))
        query = storage.find(Note)

        async def awaited() -> list[Note]:
            return await query

        for found in (query.to_list(), self.looped(query), Deferred.fromCoroutine(awaited())):
            notes = self.successResultOf(found)
            self.assertEqual(notes, [ONE, TWO])
            self.assertIsInstance(notes[0], Note)

    def test_leaving_a_loop(self) -> None:
        """A loop that is left has its cursor closed when it is told."""
        storage, runner = scripted(cursor_reply([ONE], 7), {"ok": 1, "cursorsKilled": [7]})
        documents = storage.find().__aiter__()

        async def some() -> None:
            async for _ in documents:
                break
            await documents.close()

        self.successResultOf(Deferred.fromCoroutine(some()))
        self.assertEqual(runner.names, ["find", "killCursors"])

    def test_one(self) -> None:
        """A place gives one document, or an error; the first one may be missing."""
        storage, runner = scripted(
            cursor_reply([TWO]), cursor_reply([]), cursor_reply([ONE]), cursor_reply([])
        )
        query = storage.find()
        self.assertEqual(self.successResultOf(query[3]), TWO)
        error = self.failureResultOf(query[4], IndexError).value
        self.assertIn("no document number 4", str(error))
        self.assertEqual(self.successResultOf(query[2:].first()), ONE)
        self.assertIsNone(self.successResultOf(query.first()))
        parts = [(body.get("skip"), body["limit"]) for body in runner.bodies]
        self.assertEqual(parts, [(3, 1), (4, 1), (2, 1), (None, 1)])

    def test_misfit(self) -> None:
        """A document that does not fit fails the query."""
        storage, _ = scripted(cursor_reply([{"_id": 1, "pk": 2}]), key_field="pk")
        self.failureResultOf(storage.find().to_list(), Misfit)

    def test_count(self) -> None:
        """The server counts, within a slice, too."""
        storage, runner = scripted(cursor_reply([{"_id": 1, "n": 4}]))
        self.assertEqual(self.successResultOf(storage.find(a=1)[2:6].count()), 4)
        stages = runner.bodies[0]["pipeline"]
        self.assertEqual(stages[:3], [{"$match": {"a": 1}}, {"$skip": 2}, {"$limit": 4}])

    def test_values(self) -> None:
        """Different values are the server's C{distinct}, with the conditions."""
        storage, runner = scripted({"ok": 1, "values": [1, 2]})
        self.assertEqual(self.successResultOf(storage.find(a=1).values("b__c")), [1, 2])
        body = runner.bodies[0]
        self.assertEqual((body["key"], body["query"]), ("b.c", {"a": 1}))

    def test_many_values(self) -> None:
        """Where they are too many for C{distinct}, a pipeline finds them."""
        storage, runner = scripted(TOO_BIG, cursor_reply([{"_id": 1}, {"_id": None}]))
        self.assertEqual(self.successResultOf(storage.find(a=1).values("b")), [1, None])
        self.assertEqual(runner.names, ["distinct", "aggregate"])
        self.assertEqual(runner.bodies[1]["pipeline"][0], {"$match": {"a": 1}})
        for error, name in ((OperationFailure("no", 13), "b"), (TOO_BIG, "b.0")):
            storage, runner = scripted(error)
            self.failureResultOf(storage.find().values(name), OperationFailure)

    def test_values_of_a_slice(self) -> None:
        """Of a slice, a pipeline finds them, in the query's order."""
        storage, runner = scripted(cursor_reply([{"_id": 1}]))
        query = storage.find(a=1).order_by("-c")[1:4]
        self.assertEqual(self.successResultOf(query.values("b")), [1])
        stages = runner.bodies[0]["pipeline"]
        wanted = [{"$match": {"a": 1}}, {"$sort": {"c": -1}}, {"$skip": 1}, {"$limit": 3}]
        self.assertEqual(stages[:4], wanted)

    def test_delete(self) -> None:
        """Deleting takes the conditions, and tells how many."""
        storage, runner = scripted({"ok": 1, "n": 3})
        self.assertEqual(self.successResultOf(storage.find(a__gt=1).delete()), 3)
        self.assertEqual(runner.statements(), [{"q": {"a": {"$gt": 1}}, "limit": 0}])

    def test_cancelled(self) -> None:
        """Cancelling ends the wait."""
        storage, _ = scripted(Deferred())
        found = storage.find().to_list()
        self.assertNoResult(found)
        found.cancel()
        self.failureResultOf(found)

    def test_key(self) -> None:
        """The key's field is C{_id} in conditions and orders."""
        storage, runner = scripted(key_field="number")
        query = storage.find(number__gt=1).order_by("-number")
        has = {"filter": {"_id": {"$gt": 1}}, "sort": {"_id": -1}}
        self.assertEqual(self.sent(query, runner), has)

    def test_classes(self) -> None:
        """What the classes are is known once."""
        classes = DocumentClasses()
        self.assertIs(classes.of(Note), classes.of(Note))
