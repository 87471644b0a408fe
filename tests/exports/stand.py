"""
A client that records instead of sending, and values for every argument.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, TypeRegistry
from bson.dbref import DBRef
from bson.objectid import ObjectId
from bson.son import SON
from bson.timestamp import Timestamp
from pymongo import CursorType, InsertOne, UpdateOne
from pymongo.client_session import TransactionOptions  # type: ignore[attr-defined]  # documented
from pymongo.collation import Collation
from pymongo.driver_info import DriverInfo
from pymongo.operations import IndexModel, SearchIndexModel
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.deployments import Commands
from tests.fakes import FakeRunner, cursor_reply
from txmongokit import filter as qf
from txmongokit.changestream import ChangeStream
from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool, MongoClient
from txmongokit.cursor import CommandCursor
from txmongokit.database import Database
from txmongokit.gridfs import GridFS, GridFSBucket, GridIn, GridOut
from txmongokit.protocol import Msg, Note
from txmongokit.sessions import ClientSession, SessionOptions
from txmongokit.types import ConnectionInfo

__all__ = ["Stand", "examples"]

IDENTIFIER = ObjectId("5f5e1000c0ffee0000000001")
INFO = ConnectionInfo(("holder", 27017), 2, max_wire_version=29)
TOKEN = {"_data": "82"}
SEED, TXMONGO, PYMONGO = "txmongo-15.2.1", "txmongo-26.0.0", "pymongo-4.20.0"
SORT = qf.sort(qf.DESCENDING("c"))

# What an argument is tried with: by its name, by that and the driver, or by the
# call, too.
FILE: dict[str, Any] = {
    "_id": 1,
    "length": 0,
    "chunkSize": 4,
    "uploadDate": None,
    "md5": "",
    "filename": "a",
    "contentType": "",
    "aliases": [],
    "metadata": {},
}
SAMPLES: dict[str, Any] = {
    "_id": IDENTIFIER,
    "aliases": ["b"],
    "allowable_errors": ["ns not found"],
    "allowDiskUse": True,
    "allow_disk_use": True,
    "allow_partial_results": True,
    "array_filters": [{"e": 1}],
    "authorizedCollections": True,
    "authorizedDatabases": True,
    "background": True,
    "batchSize": 7,
    "batch_size": 7,
    "bits": 20,
    "bucketSize": 5,
    "bucket_size": 5,
    "bypassDocumentValidation": True,
    "bypass_document_validation": True,
    "capped": True,
    "changeStreamPreAndPostImages": {"enabled": True},
    "check": False,
    "check_exists": False,
    "clusteredIndex": {"key": {"_id": 1}, "unique": True},
    "code": "true",
    "collection_name": "sub",
    "database_name": "other",
    "codec_options": CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD),
    "collation": Collation("de"),
    "collection": "other",
    "command": "ping",
    "comment": "note",
    "condition": {"a": 1},
    "cursor": True,
    "cursor_type": CursorType.TAILABLE,
    "database": "other",
    "dbname": "other",
    "dbref": DBRef("things", IDENTIFIER),
    "deadline": 50.0,
    "definition": {"mappings": {}},
    "document": {"_id": IDENTIFIER, "x": 1},
    "documents": [{"_id": IDENTIFIER, "x": 1}],
    "doc": {"_id": IDENTIFIER, "x": 1},
    "docs": [{"_id": IDENTIFIER, "x": 1}, {"_id": 2}],
    "document_or_id": IDENTIFIER,
    "driver_info": DriverInfo("wrapper"),
    "dropDups": True,
    "expireAfterSeconds": 60,
    "fields": ["b"],
    "file_id": IDENTIFIER,
    "filename": "name",
    "filter": {"a": 1},
    "finalize": "function(r) {}",
    "flags": 1,
    "full": True,
    "full_document": "updateLookup",
    "full_document_before_change": "required",
    "full_response": True,
    "hidden": True,
    "hint": "a_1",
    "indexOptionDefaults": {"storageEngine": {}},
    "index_identifier": "a_1",
    "index_or_name": "a_1",
    "indexes": [IndexModel("a")],
    "initial": {"n": 0},
    "initial_batch_size": 3,
    "j": True,
    "fsync": True,
    "w": 2,
    "wtimeout": 100,
    "key": "a",
    "key_or_list": "a",
    "keys": "a",
    "length": 1,
    "let": {"v": 1},
    "limit": 4,
    "map": "function() {}",
    "max": [("a", 9)],
    "maxTimeMS": 7,
    "max_await_time_ms": 5,
    "max_commit_time_ms": 9,
    "max_scan": 9,
    "max_time_ms": 7,
    "mechanism": "SCRAM-SHA-1",
    "metadata": {"m": 1},
    "min": [("a", 1)],
    "model": SearchIndexModel({"mappings": {}}, name="s"),
    "models": [SearchIndexModel({"mappings": {}}, name="s")],
    "multi": True,
    "name": "n",
    "nameOnly": True,
    "name_or_collection": "other",
    "name_or_database": "other",
    "new": True,
    "new_filename": "other",
    "new_name": "other",
    "no_cursor_timeout": True,
    "oplog_replay": True,
    "options": {"capped": True, "size": 4096},
    "ordered": False,
    "out": "results",
    "partialFilterExpression": {"a": {"$gt": 1}},
    "password": "pencil",
    "pipeline": [{"$match": {"a": 1}}],
    "projection": ["b"],
    "query": {"a": 1},
    "read_concern": ReadConcern("majority"),
    "read_preference": ReadPreference.SECONDARY,
    "reduce": "function(k, v) {}",
    "remove": True,
    "replacement": {"x": 2},
    "requests": [InsertOne({"_id": IDENTIFIER}), UpdateOne({"a": 1}, {"$set": {"x": 1}})],
    "resume_after": TOKEN,
    "return_document": True,
    "return_key": True,
    "revision": 0,
    "root": "fs",
    "safe": False,
    "scandata": True,
    "show_expanded_events": True,
    "show_record_id": True,
    "single": True,
    "size": 4096,
    "skip": 3,
    "snapshot": True,
    "sort": [("c", -1)],
    "sort_fields": SORT,
    "sparse": True,
    "spec": {"a": 1},
    "start_after": TOKEN,
    "start_at_operation_time": Timestamp(9, 1),
    "timeout": 5,
    "timeseries": {"timeField": "t"},
    "textIndexVersion": 3,
    "unique": True,
    "update": {"$set": {"x": 2}},
    "upsert": True,
    "username": "user",
    "validationAction": "warn",
    "validationLevel": "off",
    "validator": {"a": 1},
    "value": 5,
    "verbose_results": True,
    "version": 0,
    "viewOn": "things",
    "w_timeout": 5,
    "wildcardProjection": {"a": 1},
    "write_concern": WriteConcern(w=3),
}
SAMPLES |= {
    "appname": "shop",
    "authMechanism": "SCRAM-SHA-1",
    "authMechanismProperties": {"SERVICE_NAME": "other"},
    "authSource": "users",
    "compressors": "zlib",
    "connect": True,
    "connectTimeoutMS": 9000,
    "datetime_conversion": "DATETIME_MS",
    "directConnection": True,
    "document_class": SON,
    "driver": DriverInfo("wrapper"),
    "enable_overload_retargeting": True,
    "event_listeners": [Commands()],
    "heartbeatFrequencyMS": 900,
    "host": "elsewhere",
    "journal": True,
    "maxConnecting": 5,
    "maxIdleTimeMS": 900,
    "maxPoolSize": 5,
    "maxStalenessSeconds": 100,
    "max_adaptive_retries": 5,
    "minPoolSize": 5,
    "port": 5,
    "readConcernLevel": "majority",
    "readPreference": "nearest",
    "readPreferenceTags": "a:b",
    "replicaSet": "rs",
    "retryReads": False,
    "retryWrites": False,
    "serverMonitoringMode": "poll",
    "serverSelectionTimeoutMS": 900,
    "server_api": ServerApi("1"),
    "server_selector": list,
    "socketTimeoutMS": 900,
    "srvAllowedHostsSuffix": "example.com",
    "srvMaxHosts": 2,
    "srvServiceName": "other",
    "srv_host_validator": bool,
    "ssl": True,
    "timeoutMS": 900,
    "tls": True,
    "tlsAllowInvalidCertificates": True,
    "tlsAllowInvalidHostnames": True,
    "tlsCAFile": __file__,
    "tlsCRLFile": __file__,
    "tlsCertificateKeyFile": __file__,
    "tlsCertificateKeyFilePassword": "pencil",
    "tlsDisableOCSPEndpointCheck": True,
    "tlsInsecure": True,
    "type_registry": TypeRegistry(fallback_encoder=str),
    "tz_aware": True,
    "unicode_decode_error_handler": "ignore",
    "uuidRepresentation": "pythonLegacy",
    "wTimeout": 900,
    "wTimeoutMS": 900,
    "waitQueueTimeoutMS": 900,
    "zlibCompressionLevel": 5,
}
BY_DRIVER: dict[tuple[str, str], Any] = {
    (SEED, "sort"): SORT,
    (TXMONGO, "sort"): SORT,
    (SEED, "hint"): qf.hint(qf.ASCENDING("a")),
    (TXMONGO, "hint"): qf.hint(qf.ASCENDING("a")),
    (SEED, "keys"): ["a"],
}
_THEIRS = "txmongo.collection.Collection"
_COLLECTION = "pymongo.asynchronous.collection.AsyncCollection"
_CLIENT = "pymongo.asynchronous.mongo_client.AsyncMongoClient"
_DATABASE = "pymongo.asynchronous.database.AsyncDatabase"
_CURSOR = "pymongo.asynchronous.cursor.AsyncCursor"
BY_CALL: dict[str, Any] = {
    "GridOut(doc)": FILE,
    "GridOut(file_document)": FILE,
    "SessionOptions(default_transaction_options)": TransactionOptions(max_commit_time_ms=5),
    "Msg(len)": 40,
    "Msg(request_id)": 5,
    "Msg(response_to)": 6,
    "Msg(opcode)": 1000,
    "Msg(message)": "text",
    "addCallbacks(callback)": len,
    "addCallbacks(errback)": len,
    "update(document)": {"$set": {"x": 2}},
    "find(filter)@txmongo-15.2.1": qf.hint(qf.ASCENDING("a")),
    "find_with_cursor(filter)@txmongo-15.2.1": qf.hint(qf.ASCENDING("a")),
    "find(flags)": 128,
    "find_one(flags)": 128,
    "find_with_cursor(flags)": 128,
    "filemd5(spec)": IDENTIFIER,
    "sort(direction)": -1,
    "distinct(key)": "field",
    f"{_CLIENT}.bulk_write(models)": [InsertOne({"_id": IDENTIFIER}, namespace="db.things")],
    "start_session(default_transaction_options)": TransactionOptions(max_commit_time_ms=5),
    "create_search_index(name)": "other",
}
CLUSTER = "mongodb+srv://cluster.shop.example.com"
# What an argument cannot be without.
COMPANIONS: dict[str, dict[str, Any]] = {
    "find(min)": {"hint": "a_1"},
    "find(max)": {"hint": "a_1"},
    "find_one(min)": {"hint": "a_1"},
    "find_one(max)": {"hint": "a_1"},
    "find_raw_batches(min)": {"hint": "a_1"},
    "find_raw_batches(max)": {"hint": "a_1"},
    "AsyncMongoClient(srvMaxHosts)": {"host": CLUSTER},
    "AsyncMongoClient(srvServiceName)": {"host": CLUSTER},
    "AsyncMongoClient(srvAllowedHostsSuffix)": {"host": CLUSTER},
    "AsyncMongoClient(srv_host_validator)": {"host": CLUSTER},
    "AsyncMongoClient(username)": {"password": "pencil"},
    "AsyncMongoClient(password)": {"username": "user"},
    "AsyncMongoClient(authSource)": {"username": "user", "password": "pencil"},
    "AsyncMongoClient(authMechanism)": {"username": "user", "password": "pencil"},
    "AsyncMongoClient(authMechanismProperties)": {
        "username": "user",
        "authMechanism": "GSSAPI",
    },
    "AsyncMongoClient(maxStalenessSeconds)": {"readPreference": "nearest"},
    "AsyncMongoClient(readPreferenceTags)": {"readPreference": "nearest"},
    "AsyncMongoClient(tlsCertificateKeyFilePassword)": {"tlsCertificateKeyFile": __file__},
    "AsyncMongoClient(tlsCRLFile)": {"tls": True},
    "AsyncMongoClient(zlibCompressionLevel)": {"compressors": "zlib"},
    "find_and_modify(query)": {"update": {"$set": {"x": 2}}},
    "find_and_modify(upsert)": {"update": {"$set": {"x": 2}}},
    "find_and_modify(remove)": {},
    "bulk_write(verbose_results)": {},
}


def examples() -> dict[type, Any]:
    """Objects of classes whose attributes are those of a file's document."""
    root = RecordingPool()["db"]["fs"]
    writer = GridIn(root, filename="a", contentType="", md5=True)
    writer.close()
    return {GridOut: GridOut(root, file_document=FILE), GridIn: writer}


class Recorder(FakeRunner):
    """
    Answers every command as if there were a little of everything, in several
    batches, and keeps what makes one call different from another.
    """

    def __init__(self) -> None:
        super().__init__(info=INFO)
        self.seen: list[str] = []

    def run(self, command: Any, session: Any = None) -> Deferred[Any]:
        """What it says and how it is run; then its answer."""
        self.replies.append(self._answer(command))
        first = len(self.requests)
        result = super().run(command, session)
        options = command.options
        explicit = session is not None and session.explicit
        for request in self.requests[first:]:
            sequences = [
                (name, [bson.decode(raw) for raw in raws]) for name, raws in request.sequences
            ]
            self.seen.append(
                f"{command.database} {command.name} {request.body} {sequences} explicit={explicit} "
                f"{options} {vars(command) if hasattr(command, '__dict__') else ''}"
            )
        return result

    def _answer(self, command: Any) -> dict[str, Any]:
        name = command.name
        if name == "getMore":
            return cursor_reply([{"_id": 2, "key": {"a": 1}, "name": "m"}], more=True)
        if name in ("find", "aggregate", "listCollections", "listIndexes", "listDatabases"):
            document = {"_id": 1, "key": {"a": 1}, "name": "n", "n": 1}
            return {**cursor_reply([document], 9), "databases": []}
        if name in ("insert", "update", "delete"):
            return {"ok": 1, "n": 1, "nModified": 1}
        reply = {"ok": 1, "n": 1, "values": [], "value": None, "results": [], "md5": "0"}
        if name == "createSearchIndexes":
            reply["indexesCreated"] = [{"name": "s"}]
        return reply


class RecordingPool(MongoClient):
    """A client with everything but the network."""

    def __init__(self, **options: Any) -> None:
        super().__init__("mongodb://holder/app", reactor=MemoryReactorClock(), **options)
        self._recorder = Recorder()

    def record(self, recorder: Recorder) -> None:
        """Have another keep it all from now on."""
        self._recorder = recorder

    def soon(self, function: Callable[[], object]) -> None:
        """Never: nothing is left anywhere."""

    def run(self, command: Any, session: Any = None) -> Deferred[Any]:
        """Recorded."""
        return self._recorder.run(command, session)

    def stream(self, command: Any, session: Any, on_result: Any) -> Deferred[None]:
        """Recorded."""
        return self._recorder.stream(command, session, on_result)


def _client(*places: Any, **names: Any) -> MongoClient[Any]:
    """A client, of options that are only looked at."""
    return MongoClient(*places, reactor=MemoryReactorClock(), **names)


@cache
def _pool() -> RecordingPool:
    return RecordingPool()


class Stand:
    """
    One client with what hangs on it, for one call.

    @param surface: whose calls it is for.
    """

    def __init__(self, surface: str) -> None:
        self._surface = surface
        self._pool = _pool()
        self.recorder = Recorder()
        self._pool.record(self.recorder)

    def subject(self, path: str) -> Callable[..., Any]:
        """
        The call at a dotted path of ours, of an object that records.

        @raise LookupError: there is no such object.
        """
        owner, _, method = path.rpartition(".")
        makers: dict[str, Callable[[], Any]] = {
            "txmongokit.connection.ConnectionPool": lambda: self._pool,
            "txmongokit.connection.MongoConnection": lambda: self._pool,
            "txmongokit.connection.MongoClient": lambda: self._pool,
            "txmongokit.database.Database": lambda: self._pool["db"],
            "txmongokit.collection.Collection": lambda: self._pool["db"]["things"],
            "txmongokit.cursor.Cursor": lambda: self._pool["db"]["things"].find({}),
            "txmongokit.collection.Cursor": lambda: self._pool["db"]["things"].find({}),
            "txmongokit.cursor.CommandCursor": lambda: self._pool["db"]["things"].aggregate([]),
            "txmongokit.sessions.ClientSession": self._pool.start_session,
            "txmongokit.gridfs.GridFS": lambda: GridFS(self._pool["db"]),
            "txmongokit.gridfs.GridFSBucket": lambda: GridFSBucket(self._pool["db"]),
        }
        classes: dict[str, Callable[..., Any]] = {
            "txmongokit.database.Database": Database,
            "txmongokit.collection.Collection": Collection,
            "txmongokit.connection.MongoClient": _client,
            "txmongokit.connection.ConnectionPool": ConnectionPool,
            "txmongokit.protocol.Msg": Msg,
            "txmongokit.sessions.SessionOptions": SessionOptions,
            "txmongokit._gridfs.grid_file.GridOut": GridOut,
            "txmongokit.gridfs.GridOut": GridOut,
        }
        if path in classes:
            made: Callable[..., Any] = classes[path]
            return made
        if owner not in makers:
            raise LookupError(f"nothing stands for {owner}")
        found: Callable[..., Any] = getattr(makers[owner](), method)
        return found

    def sample(self, call: str, name: str) -> Any:
        """
        A value for an argument of a call of theirs.
        """
        if name in ("session",):
            return self._pool.start_session()
        if name in ("client", "factory", "runner", "connection"):
            return self._pool
        if name == "root_collection":
            return self._pool["db"]["fs"]
        if name == "database" and call.rpartition(".")[2] in (
            "Collection",
            "AsyncCollection",
            "GridFS",
            "AsyncGridFS",
        ):
            return self._pool["db"]
        method = call.rpartition(".")[2]
        for key in (
            f"{call}({name})",
            f"{method}({name})@{self._surface}",
            f"{method}({name})",
        ):
            if key in BY_CALL:
                return BY_CALL[key]
        if (self._surface, name) in BY_DRIVER:
            return BY_DRIVER[self._surface, name]
        if name not in SAMPLES:
            raise LookupError(f"no value to try {name} with")
        return SAMPLES[name]

    def companions(self, call: str, name: str) -> dict[str, Any]:
        """
        Other arguments that one cannot be without.
        """
        return COMPANIONS.get(f"{call.rpartition('.')[2]}({name})", {})

    def effect(self, call: Callable[[], Any]) -> list[str]:
        """
        What a call does: every command with its options, and what is returned.
        """
        result = call()
        shown = self._shown(result)
        return [*self.recorder.seen, shown]

    def _shown(self, result: Any) -> str:
        if isinstance(result, CommandCursor | ChangeStream):
            if isinstance(result, ChangeStream):
                self._shown(result.next())
                return self._shown(result.next())
            return self._shown(result.to_list())
        if isinstance(result, Deferred):
            outcome: list[Any] = []
            result.addBoth(outcome.append)
            self.recorder.clock.advance(0)
            found = outcome[0] if outcome else None
            error = found.value if isinstance(found, Failure) else None
            if isinstance(error, TypeError | ValueError | LookupError):
                raise error
            return "" if error is not None else self._shown(found)
        if isinstance(result, Msg | Note):
            return f"{result!r} {list(result)}"
        if isinstance(result, Collection | Database):
            options = [
                repr(getattr(result, name))
                for name in ("codec_options", "read_preference", "write_concern", "read_concern")
            ]
            return f"{result!r} {options}"
        if isinstance(result, ConnectionPool):
            return f"{result.uri} {result.client_options} {result.topology_description}"
        if isinstance(result, GridOut):
            return repr(result)
        if isinstance(result, SessionOptions):
            return repr(result)
        if isinstance(result, ClientSession):
            return repr(result.options)
        return repr(result) if isinstance(result, str | int | list | dict | tuple) else ""
