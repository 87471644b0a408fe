"""
Every option of every method of PyMongo's collections reaches the server.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import bson
from bson.timestamp import Timestamp
from pymongo import CursorType, ReplaceOne
from pymongo.asynchronous.collection import AsyncCollection
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, cursor_reply
from txmongokit.cursor import CommandCursor
from txmongokit.database import Database

KEYS = {"a": 1}
TOKEN = {"_data": "82"}

# A value for each option, its name on the wire where that is another, and what
# is there where that is another.
VALUES: dict[str, tuple[Any, ...]] = {
    "projection": ({"b": 1},),
    "skip": (3,),
    "limit": (4,),
    "batch_size": (5, "batchSize"),
    "sort": ([("a", 1)], "sort", KEYS),
    "hint": ([("a", 1)], "hint", KEYS),
    "collation": ({"locale": "de"},),
    "comment": ("why",),
    "let": ({"x": 1},),
    "min": ([("a", 1)], "min", KEYS),
    "max": ([("a", 1)], "max", KEYS),
    "max_time_ms": (7, "maxTimeMS"),
    "maxTimeMS": (7,),
    "allow_disk_use": (True, "allowDiskUse"),
    "allowDiskUse": (True,),
    "allow_partial_results": (True, "allowPartialResults"),
    "no_cursor_timeout": (True, "noCursorTimeout"),
    "return_key": (True, "returnKey"),
    "show_record_id": (True, "showRecordId"),
    "cursor_type": (CursorType.TAILABLE, "tailable", True),
    "bypass_document_validation": (True, "bypassDocumentValidation"),
    "array_filters": ([{"x": 1}], "arrayFilters"),
    "upsert": (True,),
    "ordered": (False,),
    "return_document": (True, "new"),
    "full_document": ("updateLookup", "fullDocument"),
    "full_document_before_change": ("required", "fullDocumentBeforeChange"),
    "resume_after": (TOKEN, "resumeAfter"),
    "start_after": (TOKEN, "startAfter"),
    "start_at_operation_time": (Timestamp(5, 1), "startAtOperationTime"),
    "show_expanded_events": (True, "showExpandedEvents"),
    "filter": ({"c": 1}, "query"),
    "name": ("s", "name"),
}
SET = {"$set": {"z": 1}}
# The arguments that each call must have.
METHODS: dict[str, tuple[Any, ...]] = {
    "find": ({},),
    "find_raw_batches": ({},),
    "find_one": ({},),
    "aggregate": ([],),
    "aggregate_raw_batches": ([],),
    "watch": ([],),
    "count_documents": ({},),
    "estimated_document_count": (),
    "distinct": ("a",),
    "insert_one": ({},),
    "insert_many": ([{}],),
    "bulk_write": ([ReplaceOne({}, {})],),
    "replace_one": ({}, {"z": 1}),
    "update_one": ({}, SET),
    "update_many": ({}, SET),
    "delete_one": ({},),
    "delete_many": ({},),
    "find_one_and_update": ({}, SET),
    "find_one_and_replace": ({}, {"z": 1}),
    "find_one_and_delete": ({},),
    "create_index": ("a",),
    "drop_index": ("a_1",),
    "drop_indexes": (),
    "list_indexes": (),
    "index_information": (),
    "list_search_indexes": (),
    "create_search_index": ({"definition": {}},),
    "update_search_index": ("s", {}),
    "drop_search_index": ("s",),
    "rename": ("new",),
    "drop": (),
    "options": (),
}
# What PyMongo's signatures hide in **kwargs, by its documentation.
FIND = (
    "projection skip limit no_cursor_timeout cursor_type sort allow_partial_results batch_size "
    "collation return_key show_record_id hint max_time_ms max min comment allow_disk_use let"
)
HIDDEN = {
    "find": FIND,
    "find_raw_batches": FIND,
    "find_one": FIND.replace(" limit", "").replace(" batch_size", "").replace(" cursor_type", ""),
    "count_documents": "skip limit maxTimeMS collation hint",
    "estimated_document_count": "maxTimeMS",
    "distinct": "maxTimeMS collation",
    "aggregate": "allowDiskUse maxTimeMS batchSize bypassDocumentValidation collation hint",
    "find_one_and_delete": "collation maxTimeMS",
    "find_one_and_update": "collation maxTimeMS bypass_document_validation",
    "find_one_and_replace": "collation maxTimeMS bypass_document_validation",
    "create_index": "unique background sparse expireAfterSeconds partialFilterExpression hidden "
    "collation wildcardProjection bucketSize min max",
}
MORE_VALUES: dict[str, tuple[Any, ...]] = {
    "batchSize": (5,),
    "bypassDocumentValidation": (True,),
    "unique": (True,),
    "background": (True,),
    "sparse": (True,),
    "expireAfterSeconds": (9,),
    "partialFilterExpression": ({"p": 1},),
    "hidden": (True,),
    "wildcardProjection": ({"p": 1},),
    "bucketSize": (2,),
}
# These are no options of the server's in one command: sessions are tested with
# executors, encryption is refused, and of the wait there is a test below.
ELSEWHERE = frozenset({"session", "encrypted_fields", "max_await_time_ms"})


def flattened(value: Any) -> list[tuple[str, Any]]:
    """All names and values in a document, at any depth."""
    found: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for name, inner in value.items():
            found.append((name, inner))
            found += flattened(inner)
    elif isinstance(value, list):
        for inner in value:
            found += flattened(inner)
    return found


def sent(method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a call puts on the wire."""
    runner = FakeRunner(cursor_reply([]))
    things = Database(runner, "db")["things"]
    call: Callable[..., Any] = getattr(things, method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = call(*arguments, **options)
    if not isinstance(made, (Deferred, CommandCursor)):
        made = made.next()
    if isinstance(made, CommandCursor):
        made = made.next_batch()
    made.addErrback(lambda failure: None)
    request = runner.requests[0]
    fields = flattened(bson.decode(bson.encode(request.body)))
    for _, statements in request.sequences:
        for raw in statements:
            fields += flattened(bson.decode(raw))
    return fields


def options_of(method: str) -> set[str]:
    """PyMongo's options of a method, besides what a call must have."""
    parameters = list(inspect.signature(getattr(AsyncCollection, method)).parameters.values())[1:]
    named = {
        each.name
        for each in parameters[len(METHODS[method]) :]
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    return (named | set(HIDDEN.get(method, "").split())) - ELSEWHERE


class OptionsTests(SynchronousTestCase):
    """
    All methods, all options.
    """

    def test_sent(self) -> None:
        """Each option is in the command, with its value, and only where it is asked for."""
        count, dropped = 0, []
        for method, arguments in METHODS.items():
            for option in sorted(options_of(method)):
                count += 1
                value, *rest = {**MORE_VALUES, **VALUES}[option]
                field = rest[0] if rest else option
                wanted = rest[1] if len(rest) > 1 else value
                if option in ("skip", "limit") and method == "count_documents":
                    field = f"${option}"
                if option == "projection" and method.startswith("find_one_and"):
                    field = "fields"
                if option == "upsert" and method.startswith("find_one_and"):
                    field = "upsert"
                if option in ("min", "max") and method == "create_index":
                    value = wanted = 5
                more = {option: value}
                if option in ("min", "max") and method.startswith("find"):
                    more["hint"] = "a_1"
                if option == "name":
                    continue
                without = {name: each for name, each in more.items() if name != option}
                try:
                    if (field, wanted) not in sent(method, arguments, more):
                        dropped.append(f"{method}({option}) is not sent")
                    if (field, wanted) in sent(method, arguments, without):
                        dropped.append(f"{method}({option}) is sent unasked")
                except Exception as error:
                    dropped.append(f"{method}({option}): {type(error).__name__}: {error}")
        self.assertEqual(dropped, [])
        self.assertGreater(count, 150)

    def test_all_methods(self) -> None:
        """No method of PyMongo's is forgotten, but those that send nothing or take models."""
        public = {
            name
            for name, kind in inspect.getmembers(AsyncCollection, inspect.isfunction)
            if not name.startswith("_")
        }
        others = {"create_indexes", "create_search_indexes", "with_options", "next"}
        self.assertEqual(public - others, set(METHODS))

    def test_kept_apart(self) -> None:
        """A wait on a change stream goes with each getMore, and not with the first command."""
        runner = FakeRunner(cursor_reply([], 5), cursor_reply([], more=True))
        stream = Database(runner, "db")["things"].watch(max_await_time_ms=9)
        self.successResultOf(stream.try_next())
        self.successResultOf(stream.try_next())
        self.assertNotIn("maxTimeMS", runner.bodies[0])
        self.assertEqual(runner.bodies[1]["maxTimeMS"], 9)
