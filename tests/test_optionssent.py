"""
Every option of every method of PyMongo's collections, databases, clients,
sessions and buckets reaches the server.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.dbref import DBRef
from bson.timestamp import Timestamp
from gridfs.asynchronous.grid_file import AsyncGridFSBucket
from pymongo import CursorType, IndexModel, InsertOne, ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.asynchronous.mongo_client import AsyncMongoClient
from pymongo.client_session import (  # type: ignore[attr-defined]  # documented, not exported
    TransactionOptions,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import INFO, FakeRunner, cursor_reply
from tests.fakeserver import FakeNetwork, FakeServer
from txmongokit.connection import ConnectionPool
from txmongokit.cursor import CommandCursor
from txmongokit.database import Database
from txmongokit.deployment import Deployment
from txmongokit.errors import ConfigurationError
from txmongokit.gridfs import GridFSBucket, GridIn
from txmongokit.sessions import ClientSession
from txmongokit.types import ConnectionInfo

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
    "max_scan": (8, "maxScan"),
    "snapshot": (True, "hint", {"_id": 1}),
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
    "projection skip limit no_cursor_timeout cursor_type sort max_scan snapshot "
    "allow_partial_results batch_size collation return_key show_record_id hint max_time_ms "
    "max min comment allow_disk_use let"
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
    "create_index": "name unique background sparse expireAfterSeconds partialFilterExpression "
    "hidden collation wildcardProjection bucketSize min max",
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
# These are no options of the server's in one command: of each there is a test below.
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
    return put_on_the_wire(runner, getattr(things, method), arguments, options)


def begun(call: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Begin an operation, whatever becomes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = call(*arguments, **options)
    if isinstance(made, GridIn):
        made = made.close()
    if not isinstance(made, (Deferred, CommandCursor)):
        made = made.next()
    if isinstance(made, CommandCursor):
        made = made.next_batch()
    if isinstance(made, Deferred):
        made.addErrback(lambda failure: None)


def put_on_the_wire(
    runner: FakeRunner,
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> list[tuple[str, Any]]:
    """All that the first command of a call tells the server."""
    begun(call, arguments, options)
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

    def test_gone(self) -> None:
        """What newer servers refuse is sent; what they do without is done otherwise."""
        runner = FakeRunner(*[cursor_reply([])] * 3)
        things = Database(runner, "db")["things"]
        self.assertEqual(self.successResultOf(things.find().max_scan(3).to_list()), [])
        self.assertEqual(runner.bodies[0]["maxScan"], 3)
        self.successResultOf(things.find(snapshot=False).to_list())
        self.assertEqual(set(runner.bodies[1]), {"find", "filter"})
        for other in ({"sort": "a"}, {"hint": "a_1"}):
            self.assertRaises(ValueError, things.find_one, {}, snapshot=True, **other)
        given: dict[str, Any] = {"limit": 5, "batch_size": 2, "cursor_type": CursorType.TAILABLE}
        self.assertIsNone(self.successResultOf(things.find_one({}, **given)))
        self.assertEqual(runner.bodies[2]["limit"], 1)
        self.assertNotIn("batchSize", runner.bodies[2])

    def test_kept_apart(self) -> None:
        """A wait on a change stream goes with each getMore, and not with the first command."""
        runner = FakeRunner(cursor_reply([], 5), cursor_reply([], more=True))
        stream = Database(runner, "db")["things"].watch(max_await_time_ms=9)
        self.successResultOf(stream.try_next())
        self.successResultOf(stream.try_next())
        self.assertNotIn("maxTimeMS", runner.bodies[0])
        self.assertEqual(runner.bodies[1]["maxTimeMS"], 9)

    def test_models(self) -> None:
        """Those that take models send all that is in them, and their own options."""
        index = IndexModel([("a", 1)], name="mine", unique=True, collation={"locale": "de"})
        search = {"definition": {"x": 1}, "name": "mine", "type": "vectorSearch"}
        for method, arguments, options, wanted in (
            (
                "create_indexes",
                ([index],),
                {"comment": "why", "commitQuorum": "majority", "maxTimeMS": 7},
                [
                    ("name", "mine"),
                    ("key", KEYS),
                    ("unique", True),
                    ("collation", {"locale": "de"}),
                    ("comment", "why"),
                    ("commitQuorum", "majority"),
                    ("maxTimeMS", 7),
                ],
            ),
            (
                "create_search_indexes",
                ([search],),
                {"comment": "why"},
                [*search.items(), ("comment", "why")],
            ),
        ):
            fields = sent(method, arguments, options)
            for each in wanted:
                self.assertIn(each, fields, method)

    def test_encryption(self) -> None:
        """What only client-side encryption needs is refused by name, wherever PyMongo has it."""
        fields: dict[str, Any] = {"fields": []}
        db = Database(FakeRunner(), "db")
        for call in (
            lambda: db["things"].drop(encrypted_fields=fields),
            lambda: db.drop_collection("things", encrypted_fields=fields),
            lambda: db.drop_collection("things", None, None, fields),
            lambda: db.create_collection("things", encryptedFields=fields),
            lambda: ConnectionPool(auto_encryption_opts=object()),
        ):
            error = self.assertRaises(ConfigurationError, call)
            self.assertIn("encrypt", str(error))
        for method in (db["things"].drop, lambda **options: db.drop_collection("x", **options)):
            self.successResultOf(method(encrypted_fields=None))


Options = dict[str, tuple[Any, ...]]
COMMENT: Options = {"comment": ("why",)}
WATCHED: Options = {
    name: VALUES[name]
    for name in (
        "full_document",
        "full_document_before_change",
        "resume_after",
        "start_after",
        "start_at_operation_time",
        "show_expanded_events",
        "collation",
        "comment",
    )
}
WATCHED["batch_size"] = (5, "batchSize")
LISTED: Options = {**COMMENT, "filter": ({"name": "x"},)}

# Of each method: what a call must have, and its options with a value for each,
# the name on the wire, and what is there where that is another.
DATABASE: dict[str, tuple[tuple[Any, ...], Options]] = {
    "aggregate": (
        ([],),
        {
            "allowDiskUse": (True,),
            "maxTimeMS": (7,),
            "batchSize": (5,),
            "bypassDocumentValidation": (True,),
            "collation": ({"locale": "de"},),
            "hint": ([("a", 1)], "hint", KEYS),
            "let": ({"x": 1},),
            **COMMENT,
        },
    ),
    "command": (("go",), {**COMMENT, "value": ("it", "go"), "any": (1,), "maxTimeMS": (7,)}),
    "cursor_command": (("go",), {"value": ("it", "go"), "any": (1,), "maxTimeMS": (7,)}),
    "create_collection": (
        ("new",),
        {
            "capped": (True,),
            "size": (4096,),
            "max": (5,),
            "storageEngine": ({"x": {}},),
            "validator": ({"a": 1},),
            "validationLevel": ("moderate",),
            "validationAction": ("warn",),
            "indexOptionDefaults": ({"x": {}},),
            "viewOn": ("things",),
            "pipeline": ([{"$match": {}}],),
            "collation": ({"locale": "de"},),
            "clusteredIndex": ({"key": {"_id": 1}},),
            "timeseries": ({"timeField": "t"},),
            "expireAfterSeconds": (9,),
            "changeStreamPreAndPostImages": ({"enabled": True},),
            **COMMENT,
        },
    ),
    "dereference": (
        (DBRef("things", 4),),
        {**COMMENT, "projection": ({"b": 1},), "max_time_ms": (7, "maxTimeMS")},
    ),
    "drop_collection": (("things",), COMMENT),
    "list_collections": (
        (),
        {
            **LISTED,
            "nameOnly": (True,),
            "authorizedCollections": (True,),
            "batchSize": (5,),
        },
    ),
    "list_collection_names": ((), {**LISTED, "authorizedCollections": (True,)}),
    "validate_collection": (
        ("things",),
        {**COMMENT, "scandata": (True,), "full": (True,), "background": (True,)},
    ),
    "watch": (([],), WATCHED),
}
CLIENT: dict[str, tuple[tuple[Any, ...], Options]] = {
    "bulk_write": (
        ([InsertOne({"a": 1}, namespace="db.things")],),
        {
            **COMMENT,
            "ordered": (False,),
            "verbose_results": (True, "errorsOnly", False),
            "bypass_document_validation": (True, "bypassDocumentValidation"),
            "let": ({"x": 1},),
        },
    ),
    "drop_database": (("db",), COMMENT),
    "list_databases": (
        (),
        {**LISTED, "nameOnly": (True,), "authorizedDatabases": (True,)},
    ),
    "list_database_names": ((), COMMENT),
    "server_info": ((), {}),
    "watch": (([],), WATCHED),
}
# These choose how commands run or what replies become; there are tests below.
CHOICES = frozenset(
    {
        "session",
        "codec_options",
        "read_preference",
        "write_concern",
        "read_concern",
        "max_await_time_ms",
        "check",
        "allowable_errors",
        "check_exists",
        "encrypted_fields",
    }
)
NO_COMMANDS = {
    AsyncDatabase: {"get_collection", "with_options", "next"},
    AsyncMongoClient: {
        *("aclose", "aconnect", "append_metadata", "close", "eq_props", "get_database"),
        *("get_default_database", "next", "start_session"),
    },
}
NEW = ConnectionInfo(INFO.address, 2, max_wire_version=25)


class FakeClient(Deployment[dict[str, Any]], FakeRunner):
    """A client without a network."""

    def __init__(self, *replies: Any) -> None:
        FakeRunner.__init__(self, *replies, info=NEW)


class DatabaseAndClientTests(SynchronousTestCase):
    """
    All methods of databases and clients.
    """

    tables: tuple[tuple[Any, dict[str, tuple[tuple[Any, ...], Options]]], ...] = (
        (AsyncDatabase, DATABASE),
        (AsyncMongoClient, CLIENT),
    )

    def subject(self, kind: Any, runner: FakeRunner) -> Any:
        """What the methods are of."""
        return Database(runner, "db") if kind is AsyncDatabase else runner

    def test_sent(self) -> None:
        """Each option is in the command, with its value, and only where it is asked for."""
        count = 0
        for kind, table in self.tables:
            for method, (arguments, options) in table.items():
                for option, (value, *rest) in options.items():
                    count += 1
                    name = rest[0] if rest else option
                    wanted = (name, rest[1] if len(rest) > 1 else value)
                    name = f"{kind.__name__}.{method}({option})"
                    for given, check in (({option: value}, self.assertIn), ({}, self.assertNotIn)):
                        runner = FakeClient(cursor_reply([]))
                        call = getattr(self.subject(kind, runner), method)
                        fields = put_on_the_wire(runner, call, arguments, given)
                        check(wanted, fields, name)
        self.assertGreater(count, 60)

    def test_all_options(self) -> None:
        """No method and no option of PyMongo's is forgotten."""
        for kind, table in self.tables:
            public = dict(inspect.getmembers(kind, inspect.isfunction))
            names = {name for name in public if not name.startswith("_")}
            self.assertEqual(names - NO_COMMANDS[kind], set(table))
            for method, (arguments, options) in table.items():
                parameters = list(inspect.signature(public[method]).parameters.values())
                known = {*options, *CHOICES}
                if method == "cursor_command":
                    known.add("comment")
                theirs = {
                    each.name
                    for each in parameters[1 + len(arguments) :]
                    if each.kind is not each.VAR_KEYWORD
                }
                self.assertEqual(theirs - known, set(), method)

    def test_choices(self) -> None:
        """Codec, preference and concerns are those of the command, or of what is made."""
        codec: CodecOptions[Any] = CodecOptions(tz_aware=True)
        nearest, majority = ReadPreference.NEAREST, WriteConcern("majority")
        for method in ("command", "cursor_command"):
            runner = FakeClient(cursor_reply([]))
            call = getattr(Database(runner, "db"), method)
            begun(call, ("go",), {"codec_options": codec, "read_preference": nearest})
            self.assertEqual(runner.commands[0].options.codec_options, codec)
            self.assertEqual(runner.commands[0].options.read_preference, nearest)
        runner = FakeClient()
        local = ReadConcern("local")
        made = self.successResultOf(
            Database(runner, "db").create_collection("new", codec, nearest, majority, local)
        )
        self.assertEqual(runner.commands[0].options.write_concern, majority)
        self.assertEqual(
            (made.codec_options, made.read_preference, made.write_concern, made.read_concern),
            (codec, nearest, majority, local),
        )
        runner = FakeClient()
        begun(runner.bulk_write, CLIENT["bulk_write"][0], {"write_concern": majority})
        self.assertEqual(runner.commands[0].options.write_concern, majority)

    def test_batches(self) -> None:
        """What is for the batches after the first goes with them."""
        runner = FakeClient(cursor_reply([], 5), cursor_reply([], more=True))
        cursor = Database(runner, "db").cursor_command(
            "go", comment="why", max_await_time_ms=9, batch_size=4, cursor_type=CursorType.TAILABLE
        )
        self.successResultOf(cursor.next_batch())
        self.successResultOf(cursor.next_batch())
        more = {"comment": "why", "maxTimeMS": 9, "batchSize": 4}
        self.assertEqual({name: runner.bodies[1].get(name) for name in more}, more)


class SessionTests(SynchronousTestCase):
    """
    Sessions, and what they are told.
    """

    def test_every_method(self) -> None:
        """Each command of each method that takes a session runs in it."""
        tables: list[tuple[Any, dict[str, tuple[Any, ...]], Callable[[FakeClient], Any]]] = [
            (
                AsyncCollection,
                {**METHODS, "create_indexes": ([IndexModel("a")],)}
                | {"create_search_indexes": ([{"definition": {}}],)},
                lambda client: Database(client, "db")["things"],
            ),
            (
                AsyncDatabase,
                {name: arguments for name, (arguments, _) in DATABASE.items()},
                lambda client: Database(client, "db"),
            ),
            (
                AsyncMongoClient,
                {name: arguments for name, (arguments, _) in CLIENT.items()},
                lambda client: client,
            ),
            (AsyncGridFSBucket, BUCKET, lambda client: GridFSBucket(Database(client, "db"))),
        ]
        count = 0
        for kind, table, subject in tables:
            public = {
                name
                for name, function in inspect.getmembers(kind, inspect.isfunction)
                if not name.startswith("_")
                and {"session", "kwargs", "args"} & set(inspect.signature(function).parameters)
            }
            self.assertEqual(public - {"with_options"}, public & set(table), kind)
            for method, arguments in table.items():
                client = FakeClient(cursor_reply([{"_id": 1}]))
                state = client.take_session(client=client, explicit=True)
                begun(
                    getattr(subject(client), method),
                    arguments,
                    {"session": ClientSession(client, state)},
                )
                self.assertTrue(client.sessions, method)
                for each in client.sessions:
                    self.assertIs(each, state, method)
                count += 1
        self.assertGreater(count, 60)

    def begin(self) -> tuple[ConnectionPool, FakeServer]:
        """A client of a scripted set."""
        self.network = FakeNetwork()
        (server,) = self.network.replica_set("a")
        stamp = Timestamp(9, 1)
        server.on_command = lambda body: {**cursor_reply([]), "n": 1, "operationTime": stamp}
        pool = ConnectionPool(
            "a:27017/?replicaSet=rs",
            reactor=self.network.clock,
            endpoint_factory=self.network.endpoint,
        )
        self.addCleanup(self.network.end, pool)
        return pool, server

    def done(self, waiting: Any) -> Any:
        """The result of an operation."""
        self.network.advance(1.0)
        return self.successResultOf(waiting)

    def test_transactions(self) -> None:
        """A transaction's options are in its first command and its last."""
        given: dict[str, Any] = {
            "read_concern": ReadConcern("snapshot"),
            "write_concern": WriteConcern(w=2, wtimeout=50),
            "read_preference": ReadPreference.PRIMARY,
            "max_commit_time_ms": 77,
        }
        for method in ("start_transaction", "with_transaction"):
            signature = inspect.signature(getattr(AsyncClientSession, method))
            theirs = set(signature.parameters) - {"self", "callback"}
            self.assertEqual(theirs, set(given), method)
        for how in ("start_transaction", "with_transaction", "default_transaction_options"):
            pool, server = self.begin()
            things = pool["db"]["things"]
            default = TransactionOptions(*given.values()) if how.startswith("default") else None
            session = pool.start_session(default_transaction_options=default)

            def inside(session: ClientSession, things: Any = things) -> Any:
                return things.find_one({}, session=session)

            if how == "with_transaction":
                self.done(session.with_transaction(inside, **given))
            else:
                session.start_transaction(**({} if default else given))
                self.done(inside(session))
                self.done(session.commit_transaction())
            first, last = server.commands
            self.assertEqual(first["readConcern"], {"level": "snapshot"}, how)
            self.assertIs(first["startTransaction"], True)
            self.assertEqual(next(iter(last)), "commitTransaction")
            self.assertEqual(last["writeConcern"], {"w": 2, "wtimeout": 50}, how)
            self.assertEqual(last["maxTimeMS"], 77, how)

    def test_sessions(self) -> None:
        """What start_session is asked for is in the reads of the session."""
        pool, server = self.begin()
        things = pool["db"]["things"]
        options = inspect.signature(AsyncMongoClient.start_session).parameters
        self.assertEqual(
            set(options) - {"self", "default_transaction_options"},
            {"causal_consistency", "snapshot"},
        )
        cases: list[tuple[dict[str, Any], Any]] = [
            ({}, {"afterClusterTime": Timestamp(9, 1)}),
            ({"causal_consistency": False}, None),
            ({"snapshot": True}, {"level": "snapshot"}),
        ]
        for given, wanted in cases:
            session = pool.start_session(**given)
            self.done(things.find_one({}, session=session))
            self.done(things.find_one({}, session=session))
            found: Any = server.commands[-1].get("readConcern")
            if "snapshot" in given:
                found = {"level": found["level"]}
            self.assertEqual(found, wanted, given)
        pool, server = self.begin()
        session = pool.start_session()
        session.advance_operation_time(Timestamp(20, 2))
        stamp = {"clusterTime": Timestamp(30, 3)}
        session.advance_cluster_time(stamp)
        self.done(pool["db"]["things"].find_one({}, session=session))
        (find,) = server.commands
        self.assertEqual(find["readConcern"], {"afterClusterTime": Timestamp(20, 2)})
        self.assertEqual(find["$clusterTime"], stamp)


# What each call of a bucket must have.
BUCKET: dict[str, tuple[Any, ...]] = {
    "delete": (1,),
    "delete_by_name": ("f",),
    "download_to_stream": (1, io.BytesIO()),
    "download_to_stream_by_name": ("f", io.BytesIO()),
    "find": ({},),
    "open_download_stream": (1,),
    "open_download_stream_by_name": ("f",),
    "open_upload_stream": ("f",),
    "open_upload_stream_with_id": (1, "f"),
    "rename": (1, "g"),
    "rename_by_name": ("f", "g"),
    "upload_from_stream": ("f", b"data"),
    "upload_from_stream_with_id": (1, "f", b"data"),
}


class BucketTests(SynchronousTestCase):
    """
    GridFS buckets.
    """

    def test_uploads(self) -> None:
        """A file's chunk size and metadata are in its document."""
        for method, arguments in BUCKET.items():
            if "upload" not in method:
                continue
            runner = FakeClient(cursor_reply([{"_id": 1}]), *[{"n": 1, "ok": 1.0}] * 3)
            bucket = GridFSBucket(Database(runner, "db"), chunk_size_bytes=9)
            options = {"chunk_size_bytes": 3, "metadata": {"m": 1}}
            begun(getattr(bucket, method), arguments, options)
            document = runner.statements(len(runner.requests) - 1)[0]
            self.assertEqual((document["chunkSize"], document["metadata"]), (3, {"m": 1}), method)

    def test_found(self) -> None:
        """Files are found with all options of PyMongo's cursor of files."""
        given: Options = {
            "skip": (2,),
            "limit": (3,),
            "sort": ([("a", 1)], "sort", KEYS),
            "batch_size": (5, "batchSize"),
            "no_cursor_timeout": (True, "noCursorTimeout"),
        }
        for option, (value, *rest) in given.items():
            runner = FakeClient(cursor_reply([]))
            bucket = GridFSBucket(Database(runner, "db"))
            fields = put_on_the_wire(runner, bucket.find, ({},), {option: value})
            name = rest[0] if rest else option
            self.assertIn((name, rest[1] if len(rest) > 1 else value), fields)

    def test_revisions(self) -> None:
        """A revision is a place in the order of uploads."""
        for method in ("open_download_stream_by_name", "download_to_stream_by_name"):
            for revision, skipped, way in ((2, 2, 1), (-2, 1, -1)):
                runner = FakeClient(cursor_reply([]))
                bucket = GridFSBucket(Database(runner, "db"))
                begun(getattr(bucket, method), BUCKET[method], {"revision": revision})
                self.assertEqual(runner.bodies[0]["skip"], skipped)
                self.assertEqual(runner.bodies[0]["sort"], {"uploadDate": way})

    def test_concerns(self) -> None:
        """A bucket's own concern and preference are those of its commands."""
        nearest, majority = ReadPreference.NEAREST, WriteConcern("majority")
        names = set(inspect.signature(AsyncGridFSBucket.__init__).parameters)
        self.assertEqual(
            names,
            {"self", "db", "bucket_name", "chunk_size_bytes", "write_concern", "read_preference"},
        )
        runner = FakeClient(cursor_reply([]))
        bucket = GridFSBucket(
            Database(runner, "db"), "mine", write_concern=majority, read_preference=nearest
        )
        begun(bucket.find, ({},), {})
        begun(bucket.delete, (1,), {})
        self.assertEqual(runner.bodies[0]["find"], "mine.files")
        self.assertEqual(runner.commands[0].options.read_preference, nearest)
        self.assertEqual(runner.commands[1].options.write_concern, majority)
