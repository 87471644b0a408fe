"""
Tests for L{txmongokit.legacy}.
"""

from __future__ import annotations

from typing import Any

from bson.code import Code
from bson.objectid import ObjectId
from bson.son import SON
from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from txmongokit import filter as qf
from txmongokit import types
from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import DuplicateKeyError

DUPLICATE = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}


def collection(runner: FakeRunner) -> Collection[dict[str, Any]]:
    """The collection that all tests use."""
    return Database(runner, "db")["things"]


class LegacyTestCase(SynchronousTestCase):
    """
    Tests that count warnings.
    """

    def warned(self, text: str) -> None:
        """There was one deprecation warning since the last time, about this file."""
        (warning,) = self.flushWarnings()
        self.assertEqual(warning["category"], DeprecationWarning)
        self.assertIn(text, warning["message"])
        self.assertIn("test_legacy", warning["filename"])


class OrderTests(LegacyTestCase):
    """
    The orders of find's arguments.
    """

    def sent(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a find with these arguments puts on the wire, without its name."""
        runner = FakeRunner(cursor_reply([]))
        self.successResultOf(collection(runner).find(*args, **kwargs).to_list())
        body = dict(runner.bodies[0])
        self.assertEqual(body.pop("find"), "things")
        return {name: value for name, value in body.items() if value != {}}

    def test_newest(self) -> None:
        """PyMongo's order, by place and by name, without a warning."""
        self.assertEqual(
            self.sent({"a": 1}, ["b"], 3, 4, True, 0, [("c", -1)]),
            {
                "filter": {"a": 1},
                "projection": {"b": 1},
                "skip": 3,
                "limit": 4,
                "noCursorTimeout": True,
                "sort": {"c": -1},
            },
        )
        self.assertEqual(self.sent(filter={"a": 1}), {"filter": {"a": 1}})
        self.assertEqual(self.flushWarnings(), [])

    def test_txmongo(self) -> None:
        """TxMongo's newer order has the sort in the fifth place, as a filter, too."""
        for order in ([("c", -1)], qf.DESCENDING("c"), {"c": -1}):
            self.assertEqual(self.sent({"a": 1}, None, 3, 4, order)["sort"], {"c": -1})
        both = qf.sort(qf.DESCENDING("c")) + qf.hint("c_1")
        self.assertEqual(self.sent(sort=both), {"sort": {"c": -1}, "hint": "c_1"})
        self.assertEqual(self.flushWarnings(), [])

    def test_oldest_by_place(self) -> None:
        """TxMongo's older order has skip and limit before the fields."""
        self.assertEqual(
            self.sent({"a": 1}, 3, 4, ["b"], qf.sort(qf.ASCENDING("c"))),
            {
                "filter": {"a": 1},
                "skip": 3,
                "limit": 4,
                "projection": {"b": 1},
                "sort": {"c": 1},
            },
        )
        self.warned("find(filter, projection")
        self.assertEqual(self.sent({}, 0, 4), {"limit": 4})
        self.warned("projection")
        self.assertEqual(self.sent({}, 3, limit=4), {"skip": 3, "limit": 4})
        self.warned("projection")
        self.assertRaises(TypeError, self.sent, {}, 3, 4, limit=5)
        self.assertRaises(TypeError, self.sent, {}, 3, 4, ["a"], fields=["b"])

    def test_oldest_by_name(self) -> None:
        """TxMongo's older names mean the same."""
        self.assertEqual(
            self.sent(spec={"a": 1}, fields=["b"], filter=qf.hint({"a": 1}) + qf.comment("why")),
            {
                "filter": {"a": 1},
                "projection": {"b": 1},
                "hint": {"a": 1},
                "comment": "why",
            },
        )
        self.warned("find(filter, projection")
        self.assertEqual(self.sent({"a": 1}, filter=qf.sort("a"))["sort"], {"a": 1})
        self.warned("find(filter, projection")
        self.assertEqual(self.sent(fields={}), {})
        self.warned("find(filter, projection")

    def test_twice(self) -> None:
        """What is given twice is an error, not dropped."""
        for args, kwargs in (
            (({"a": 1},), {"filter": {"b": 1}}),
            (({"a": 1},), {"spec": {"b": 1}}),
            ((), {"sort": "a", "filter": qf.sort("b")}),
            (({}, ["a"]), {"fields": ["b"]}),
        ):
            self.assertRaises(TypeError, collection(FakeRunner()).find, *args, **kwargs)
        self.assertRaises(TypeError, collection(FakeRunner()).find, filed=["a"])

    def test_flags(self) -> None:
        """A message's flags are options now; unknown ones are refused."""
        flags = types.QUERY_NO_CURSOR_TIMEOUT | types.QUERY_PARTIAL | types.QUERY_TAILABLE_CURSOR
        self.assertEqual(
            self.sent(flags=flags),
            {"noCursorTimeout": True, "allowPartialResults": True, "tailable": True},
        )
        runner = FakeRunner(cursor_reply([]))
        self.successResultOf(collection(runner).find(flags=types.QUERY_SLAVE_OK).to_list())
        preference = runner.commands[0].options.read_preference
        self.assertEqual(preference, ReadPreference.PRIMARY_PREFERRED)
        for wrong in (1, 512, types.QUERY_AWAIT_DATA, types.QUERY_EXHAUST | 2):
            self.assertRaises(ValueError, collection(runner).find, flags=wrong)
        self.assertRaises(TypeError, collection(runner).find, flags="1")

    def test_as_class(self) -> None:
        """The documents' class may be given to one call."""
        runner = FakeRunner(cursor_reply([{"a": 1}]), cursor_reply([{"a": 1}]))
        (found,) = self.successResultOf(collection(runner).find(as_class=SON).to_list())
        self.assertIsInstance(found, SON)
        one = self.successResultOf(collection(runner).find_one(7, as_class=SON))
        self.assertIsInstance(one, SON)
        self.assertEqual(runner.bodies[1]["filter"], {"_id": 7})

    def test_explain(self) -> None:
        """With explain, the plan comes in the results' stead."""
        plan = {"queryPlanner": {}, "ok": 1}
        runner = FakeRunner(plan, plan)
        things = collection(runner)
        self.assertEqual(
            self.successResultOf(things.find({"a": 1}, filter=qf.explain())),  # type: ignore[arg-type]  # a Deferred then
            [plan],
        )
        self.assertEqual(self.successResultOf(things.find_one(filter=qf.explain())), plan)
        self.assertEqual(runner.names, ["explain", "explain"])
        self.assertEqual(runner.bodies[0]["explain"]["filter"], {"a": 1})

    def test_find_one(self) -> None:
        """One document is found by each order, too."""
        runner = FakeRunner(*[cursor_reply([])] * 3)
        things = collection(runner)
        self.successResultOf(things.find_one({"a": 1}, ["b"], 3, [("c", -1)]))
        self.assertEqual(self.flushWarnings(), [])
        self.successResultOf(
            things.find_one(spec={"a": 1}, fields=["b"], skip=3, filter=qf.sort({"c": -1}))
        )
        self.warned("find(filter, projection")
        self.assertEqual(runner.bodies[0], runner.bodies[1])
        self.assertEqual(runner.bodies[0]["skip"], 3)
        self.successResultOf(things.find_one(filter={"_id": 4}))
        self.assertEqual(runner.bodies[2]["filter"], {"_id": 4})
        self.assertRaises(TypeError, things.find_one, {}, None, 1, "a", 5)

    def test_index(self) -> None:
        """A filter that sorts tells an index its keys; one of more is refused."""
        runner = FakeRunner()
        things = collection(runner)
        keys = qf.sort(qf.ASCENDING("a") + qf.GEO2DSPHERE("b"))
        self.assertEqual(self.successResultOf(things.create_index(keys)), "a_1_b_2dsphere")
        self.successResultOf(things.ensure_index(keys, unique=True))
        self.warned("create_index")
        self.assertTrue(runner.bodies[1]["indexes"][0]["unique"])
        self.successResultOf(things.drop_index(keys))
        self.assertEqual(runner.bodies[2]["index"], "a_1_b_2dsphere")
        self.assertRaises(TypeError, things.create_index, keys + qf.comment("x"))


class PageTests(LegacyTestCase):
    """
    Pages, each with the next.
    """

    def pages(self, page: Any) -> list[Any]:
        """All that come, by the rules of a TxMongo application."""
        found = []
        documents, following = self.successResultOf(page)
        while documents:
            found.append(documents)
            documents, following = self.successResultOf(following)
        self.assertIsNone(following)
        return found

    def script(self) -> FakeRunner:
        """Two batches."""
        return FakeRunner(cursor_reply([{"a": 1}], 9), cursor_reply([{"a": 2}], more=True))

    def test_both_orders(self) -> None:
        """It takes the older order and the newer one, and so does find with cursor=True."""
        for call, sort in (
            (lambda things: things.find_with_cursor({}, 1, 2, ["a"], qf.sort("b")), {"b": 1}),
            (lambda things: things.find_with_cursor({}, ["a"], 1, 2, [("b", 1)]), {"b": 1}),
            (lambda things: things.find({}, 1, 2, ["a"], cursor=True), None),
        ):
            runner = self.script()
            paged = call(collection(runner))
            self.assertEqual(self.pages(paged), [[{"a": 1}], [{"a": 2}]])
            self.assertEqual(len(self.flushWarnings()), 1)
            body = runner.bodies[0]
            self.assertEqual((body["skip"], body["limit"]), (1, 2))
            self.assertEqual(body.get("sort"), sort)
            self.assertEqual(body["projection"], {"a": 1})

    def test_batch_size(self) -> None:
        """The sixth place is the size of a page."""
        runner = self.script()
        self.pages(collection(runner).find_with_cursor({}, None, 0, 0, None, 1))
        self.assertEqual([body.get("batchSize") for body in runner.bodies], [1, 1])

    def test_on_demand(self) -> None:
        """The next page is fetched when somebody waits for it, by whatever means."""
        for wait in (
            lambda page: page.addCallback(lambda result: result),
            lambda page: page.addErrback(lambda failure: failure),
            lambda page: page.addBoth(lambda result: result),
            lambda page: page.addCallbacks(lambda result: result),
            lambda page: succeed(None).addCallback(lambda _: page),
            lambda page: Deferred.fromCoroutine(self.awaited(page)),
        ):
            runner = self.script()
            _, following = self.successResultOf(collection(runner).find_with_cursor())
            self.assertEqual(runner.names, ["find"])
            documents, _ = self.successResultOf(wait(following))
            self.assertEqual(documents, [{"a": 2}])

    async def awaited(self, page: Any) -> Any:
        """Wait for a page in a coroutine."""
        return await page

    def test_chained_at_the_end(self) -> None:
        """A callback that returns the page after the last gets the end at once."""
        runner = FakeRunner(cursor_reply([{"a": 1}]))
        paged = collection(runner).find_with_cursor().addCallback(lambda page: page[1])
        self.assertEqual(self.successResultOf(paged), ([], None))

    def test_cancel(self) -> None:
        """Cancelling a page that was not fetched yet has the server let go."""
        runner = FakeRunner(cursor_reply([{"a": 1}], 9), {"ok": 1})
        _, following = self.successResultOf(collection(runner).find_with_cursor())
        assert following is not None
        following.cancel()
        self.assertEqual(runner.names, ["find", "killCursors"])
        self.failureResultOf(following)


class WriteTests(LegacyTestCase):
    """
    insert, update, save, remove, find_and_modify.
    """

    def test_insert(self) -> None:
        """One document's _id comes back, or a list of them."""
        runner = FakeRunner({"n": 1, "ok": 1}, {"n": 2, "ok": 1})
        things = collection(runner)
        self.assertEqual(self.successResultOf(things.insert({"_id": 1})), 1)
        self.warned("insert_one or insert_many")
        self.assertEqual(self.successResultOf(things.insert([{"_id": 2}, {"_id": 3}])), [2, 3])

    def test_insert_continues(self) -> None:
        """The flag makes it unordered; the error is the one of the document, not of the bulk."""
        runner = FakeRunner(*[{"n": 1, "ok": 1, "writeErrors": [DUPLICATE]}] * 2)
        things = collection(runner)
        documents = [{"_id": 2}, {"_id": 3}]
        continued = things.insert(documents, flags=types.INSERT_CONTINUE_ON_ERROR)
        self.failureResultOf(continued, DuplicateKeyError)
        self.failureResultOf(things.insert(documents), DuplicateKeyError)
        self.assertEqual([body["ordered"] for body in runner.bodies], [False, True])
        self.assertRaises(ValueError, things.insert, {}, flags=2)

    def test_concern(self) -> None:
        """C{safe} and C{w} and its kin are the write concern; others are refused."""
        runner = FakeRunner({"n": 1, "ok": 1}, {"n": 1, "ok": 1}, {"n": 1, "ok": 1})
        things = collection(runner)
        self.assertEqual(self.successResultOf(things.insert({"_id": 1}, safe=False)), 1)
        self.successResultOf(things.insert({"_id": 2}, w="majority", j=True, wtimeout=5))
        self.successResultOf(things.insert({"_id": 3}, True))
        concerns = [command.options.write_concern.document for command in runner.commands]
        self.assertEqual(concerns, [{"w": 0}, {"w": "majority", "j": True, "wtimeout": 5}, {}])
        for call in (things.insert, things.save, things.remove):
            error = self.assertRaises(TypeError, call, {}, wtimout=4)
            self.assertIn("'wtimeout'", str(error))

    def test_update(self) -> None:
        """Operators change, a document replaces; flags are the keywords."""
        reply = {"n": 2, "nModified": 1, "ok": 1}
        upserted = {"n": 1, "nModified": 0, "upserted": [{"index": 0, "_id": 5}], "ok": 1}
        runner = FakeRunner(reply, upserted, reply)
        things = collection(runner)
        self.assertEqual(
            self.successResultOf(things.update({"a": 1}, {"$set": {"b": 2}}, multi=True)),
            {"n": 2, "nModified": 1, "updatedExisting": True, "ok": 1.0, "err": None},
        )
        self.warned("update_one, update_many or replace_one")
        outcome = self.successResultOf(things.update({"a": 1}, {}, flags=types.UPDATE_UPSERT))
        assert outcome is not None
        self.assertEqual((outcome["n"], outcome["upserted"]), (1, 5))
        self.assertFalse(outcome["updatedExisting"])
        self.successResultOf(things.update({}, {"$set": {}}, flags=types.UPDATE_MULTI))
        sent = [runner.statements(index)[0] for index in range(3)]
        self.assertEqual(
            sent[0], {"q": {"a": 1}, "u": {"$set": {"b": 2}}, "multi": True, "upsert": False}
        )
        self.assertEqual(sent[1], {"q": {"a": 1}, "u": {}, "upsert": True})
        self.assertTrue(sent[2]["multi"])
        self.assertRaises(ValueError, things.update, {}, {"a": 1}, multi=True)
        self.assertRaises(ValueError, things.update, {}, {"a": 1}, flags=4)

    def test_save(self) -> None:
        """With an _id it replaces or inserts, without one it inserts."""
        runner = FakeRunner({"n": 1, "nModified": 1, "ok": 1}, {"n": 1, "ok": 1})
        things = collection(runner)
        document = {"_id": 1, "a": 2}
        self.successResultOf(things.save(document))
        self.warned("replace_one with upsert=True")
        self.assertEqual(
            runner.statements(),
            [{"q": {"_id": {"$eq": 1}}, "u": {"_id": 1, "a": 2}, "upsert": True}],
        )
        fresh: dict[str, Any] = {"a": 1}
        self.assertEqual(self.successResultOf(things.save(fresh)), fresh["_id"])
        self.assertRaises(TypeError, things.save, [{}])

    def test_remove(self) -> None:
        """All that match go, or one; unacknowledged, nothing is known."""
        runner = FakeRunner({"n": 3, "ok": 1}, {"n": 1, "ok": 1}, {"n": 1, "ok": 1})
        things = collection(runner)
        outcome = self.successResultOf(things.remove({}))
        self.assertEqual(outcome, {"n": 3, "ok": 1.0, "err": None})
        self.warned("delete_many or delete_one")
        identifier = ObjectId()
        self.successResultOf(things.remove(identifier, single=True))
        self.successResultOf(things.remove({}, flags=types.DELETE_SINGLE_REMOVE))
        limits = [runner.statements(index)[0]["limit"] for index in range(3)]
        self.assertEqual(limits, [0, 1, 1])
        self.assertEqual(runner.statements(1)[0]["q"], {"_id": identifier})

    def test_find_and_modify(self) -> None:
        """It changes, replaces or deletes, and gives the document before or after."""
        runner = FakeRunner(*[{"value": {"a": 1}, "ok": 1}] * 3)
        things = collection(runner)
        found = things.find_and_modify(
            {"a": 1}, {"$inc": {"b": 1}}, True, new=True, fields=["b"], sort={"c": 1}
        )
        self.assertEqual(self.successResultOf(found), {"a": 1})
        self.warned("find_one_and_update")
        self.assertEqual(
            runner.bodies[0],
            {
                "findAndModify": "things",
                "query": {"a": 1},
                "update": {"$inc": {"b": 1}},
                "fields": {"b": 1},
                "sort": {"c": 1},
                "upsert": True,
                "new": True,
            },
        )
        self.successResultOf(things.find_and_modify({}, {"a": 2}))
        self.successResultOf(things.find_and_modify(remove=True))
        self.assertTrue(runner.bodies[2]["remove"])
        for kwargs in ({}, {"update": {"a": 1}, "remove": True}, {"remove": True, "new": True}):
            self.assertRaises(ValueError, things.find_and_modify, **kwargs)
        self.assertRaises(TypeError, things.find_and_modify, {}, {"a": 1}, nwe=True)


class ReadTests(LegacyTestCase):
    """
    count, distinct, map_reduce, filemd5, group.
    """

    def test_spec(self) -> None:
        """A query's older name means the same."""
        runner = FakeRunner({"n": 1, "ok": 1}, {"values": [], "ok": 1})
        things = collection(runner)
        self.successResultOf(things.count(spec={"a": 1}, fields=["b"], hint=qf.hint("a_1")))
        self.warned("count_documents")
        self.successResultOf(things.distinct("b", spec={"a": 1}))
        self.assertEqual(
            runner.bodies,
            [
                {"count": "things", "query": {"a": 1}, "fields": {"b": 1}, "hint": "a_1"},
                {"distinct": "things", "key": "b", "query": {"a": 1}},
            ],
        )
        self.assertRaises(TypeError, things.count, {}, spec={})

    def test_map_reduce(self) -> None:
        """TxMongo's third place is full_response."""
        reply = {"results": [{"_id": 1, "value": 2}], "ok": 1}
        runner = FakeRunner(reply, reply)
        things = collection(runner)
        self.assertEqual(self.successResultOf(things.map_reduce("m", "r", True)), reply)
        self.assertEqual(
            self.successResultOf(things.map_reduce("m", "r", False, out={"inline": 1})),
            reply["results"],
        )
        self.assertRaises(TypeError, things.map_reduce, "m", "r", "out", "out")

    def test_filemd5(self) -> None:
        """The server works the sum out."""
        runner = FakeRunner({"md5": "abc", "ok": 1})
        self.assertEqual(self.successResultOf(collection(runner).filemd5(4)), "abc")
        self.assertEqual(runner.bodies, [{"filemd5": 4, "root": "things"}])

    def test_group(self) -> None:
        """Groups are made by an aggregation."""
        groups = [{"_id": {"a": 1}, "result": {"a": 1, "s": 3.0}, "count": 2}]
        runner = FakeRunner(cursor_reply(groups))
        grouped = collection(runner).group(
            ["a"], {"s": 0}, Code("function(d, r) { r.s++; }"), {"b": 1}, "function(r) {}"
        )
        self.assertEqual(
            self.successResultOf(grouped),
            {"retval": [{"a": 1, "s": 3.0}], "count": 2, "keys": 1, "ok": 1.0},
        )
        self.warned("use aggregate")
        stages = [next(iter(stage)) for stage in runner.bodies[0]["pipeline"]]
        self.assertEqual(stages, ["$match", "$group", "$set"])
        things = collection(runner)
        scoped = Code("function() {}", {"x": 1})
        for keys, reduce in ((["a.b"], "f"), (["a"], scoped)):
            self.assertRaises(ValueError, things.group, keys, {}, reduce)
        self.assertRaises(TypeError, things.group, ["a"], {}, 3)
