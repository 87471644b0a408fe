"""
Operations on clients, databases, collections, sessions, buckets and cursors,
translated into calls of the client under test.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pymongo.cursor_shared import CursorType
from pymongo.driver_info import DriverInfo
from pymongo.errors import PyMongoError
from pymongo.operations import SearchIndexModel
from twisted.internet.defer import Deferred

from tests.spec.cursors import open_change_stream, open_cursor
from tests.spec.matching import Malformed, hex_bytes, operator
from tests.spec.options import database_options, snake, write_models
from tests.spec.results import result_document

__all__ = ["ROW_OPERATIONS", "run_operation"]

Arguments = dict[str, Any]
Handler = Callable[[Any, Arguments], Awaitable[Any]]

_CURSOR_TYPES = {
    "nonTailable": CursorType.NON_TAILABLE,
    "tailable": CursorType.TAILABLE,
    "tailableAwait": CursorType.TAILABLE_AWAIT,
}

ROW_OPERATIONS = frozenset(
    {
        "aggregate",
        "find",
        "listCollectionObjects",
        "listCollections",
        "listDatabaseObjects",
        "listDatabases",
        "listIndexes",
        "listSearchIndexes",
        "runCursorCommand",
    }
)


def _renamed(arguments: Arguments, **names: str) -> Arguments:
    """
    The arguments, in snake case unless renamed, with objects where PyMongo
    takes objects.
    """
    plain = {name: value for name, value in arguments.items() if name not in names}
    options = database_options(plain)
    for name, other in names.items():
        if name in arguments:
            options[other] = arguments[name]
    if isinstance(options.get("sort"), Mapping):
        options["sort"] = list(options["sort"].items())
    if "cursor_type" in options:
        options["cursor_type"] = _CURSOR_TYPES[options["cursor_type"]]
    return options


def _call(method: str, **names: str) -> Handler:
    """
    A method that gives a Deferred.
    """

    async def call(target: Any, arguments: Arguments) -> Any:
        return await getattr(target, method)(**_renamed(arguments, **names))

    return call


def _listed(method: str, **names: str) -> Handler:
    """
    A method that gives a cursor, or a Deferred of one: all its documents.
    """

    async def call(target: Any, arguments: Arguments) -> Any:
        found = getattr(target, method)(**_renamed(arguments, **names))
        if isinstance(found, Deferred):
            found = await found
        return found if isinstance(found, list) else await _all(found)

    return call


async def _all(cursor: Any) -> list[Any]:
    """
    A cursor's documents; it is closed after an error, too.
    """
    try:
        documents: list[Any] = await cursor.to_list()
    except PyMongoError:
        await cursor.close()
        raise
    return documents


def _named(method: str) -> Handler:
    """
    A method that gives a cursor of indexes: their names.
    """
    listed = _listed(method)

    async def call(target: Any, arguments: Arguments) -> Any:
        return [each["name"] for each in await listed(target, arguments)]

    return call


def _modified(method: str) -> Handler:
    call = _call(method)

    async def modify(target: Any, arguments: Arguments) -> Any:
        when = arguments.pop("returnDocument", None)
        if when is not None:
            if when.lower() not in {"before", "after"}:
                raise Malformed(f"unknown returnDocument {when!r}")
            arguments["returnDocument"] = when.lower() == "after"
        return await call(target, arguments)

    return modify


def _bulk(method: str, parameter: str, given: str) -> Handler:
    async def bulk(target: Any, arguments: Arguments) -> Any:
        models = write_models(arguments.pop(given))
        return await getattr(target, method)(**{parameter: models}, **_renamed(arguments))

    return bulk


async def _change_stream(target: Any, arguments: Arguments) -> Any:
    return await open_change_stream(target.watch(**_renamed(arguments)))


async def _find_cursor(target: Any, arguments: Arguments) -> Any:
    if "filter" not in arguments:
        raise Malformed("createFindCursor has no filter")
    return await open_cursor(target.find(**_renamed(arguments)))


async def _create_index(target: Any, arguments: Arguments) -> Any:
    keys = list(arguments.pop("keys").items())
    return await target.create_index(keys, **_renamed(arguments))


async def _drop_index(target: Any, arguments: Arguments) -> Any:
    return await target.drop_index(arguments.pop("name"), **_renamed(arguments))


async def _map_reduce(target: Any, arguments: Arguments) -> Any:
    found = await target.map_reduce(**_renamed(arguments))
    return found["results"] if isinstance(found, Mapping) and "results" in found else found


def _search_model(document: Mapping[str, Any]) -> SearchIndexModel:
    return SearchIndexModel(
        document["definition"], name=document.get("name"), type=document.get("type")
    )


async def _create_search_index(target: Any, arguments: Arguments) -> Any:
    return await target.create_search_index(_search_model(arguments["model"]))


async def _create_search_indexes(target: Any, arguments: Arguments) -> Any:
    models = [_search_model(each) for each in arguments["models"]]
    return await target.create_search_indexes(models)


async def _list_search_indexes(target: Any, arguments: Arguments) -> Any:
    options = _renamed(arguments.pop("aggregationOptions", {}))
    found = target.list_search_indexes(arguments.get("name"), **options)
    if isinstance(found, Deferred):
        found = await found
    return await _all(found)


async def _run_command(target: Any, arguments: Arguments) -> Any:
    return await target.command(_command(arguments), **_renamed(arguments))


async def _cursor_command(target: Any, arguments: Arguments) -> Any:
    found = _command_cursor(target, arguments)
    return await _all(found)


async def _create_command_cursor(target: Any, arguments: Arguments) -> Any:
    return await open_cursor(_command_cursor(target, arguments))


def _command_cursor(target: Any, arguments: Arguments) -> Any:
    command = _command(arguments)
    return target.cursor_command(command, **_renamed(arguments, maxTimeMS="max_await_time_ms"))


def _command(arguments: Arguments) -> dict[str, Any]:
    """
    The command document, its name first.
    """
    command: dict[str, Any] = arguments.pop("command")
    name = arguments.pop("commandName", next(iter(command)))
    return {name: command[name], **command}


async def _create_collection(target: Any, arguments: Arguments) -> Any:
    # What is no option of the client goes to the server under its own name.
    ours = ("session", "timeoutMS", "rawData")
    options = {name: value for name, value in arguments.items() if name not in ours}
    name = options.pop("collection")
    return await target.create_collection(
        name, **options, **_renamed({key: arguments[key] for key in ours if key in arguments})
    )


async def _drop_collection(target: Any, arguments: Arguments) -> Any:
    await target.drop_collection(arguments.pop("collection"), **_renamed(arguments))


async def _modify_collection(target: Any, arguments: Arguments) -> Any:
    session = arguments.pop("session", None)
    name = arguments.pop("collection")
    return await target.command({"collMod": name, **arguments}, session=session)


async def _drop_database(target: Any, arguments: Arguments) -> Any:
    await target.drop_database(arguments.pop("database"), **_renamed(arguments))


async def _append_metadata(target: Any, arguments: Arguments) -> Any:
    options = {snake(name): value for name, value in arguments["driverInfoOptions"].items()}
    found = target.append_metadata(DriverInfo(**options))
    if inspect.isawaitable(found):
        await found


async def _start_transaction(target: Any, arguments: Arguments) -> Any:
    target.start_transaction(**_renamed(arguments))


async def _snapshot_time(target: Any, arguments: Arguments) -> Any:
    return target.snapshot_time


async def _upload(target: Any, arguments: Arguments) -> Any:
    arguments.pop("disableMD5", None)
    source = arguments.pop("source")
    if operator(source) != "$$hexBytes":
        raise Malformed(f"an upload's source must be $$hexBytes, not {source!r}")
    content = hex_bytes(source["$$hexBytes"])
    name = arguments.pop("filename")
    identifier = arguments.pop("id", None)
    if identifier is not None:
        return await target.upload_from_stream_with_id(
            identifier, name, content, **_renamed(arguments)
        )
    return await target.upload_from_stream(name, content, **_renamed(arguments))


def _download(method: str, **names: str) -> Handler:
    async def download(target: Any, arguments: Arguments) -> Any:
        stream = getattr(target, method)(**_renamed(arguments, **names))
        if inspect.isawaitable(stream):
            stream = await stream
        return await stream.read()

    return download


async def _drop_bucket(target: Any, arguments: Arguments) -> Any:
    await target.drop(**_renamed(arguments))


_CLIENT: dict[str, Handler] = {
    "appendMetadata": _append_metadata,
    "clientBulkWrite": _bulk("bulk_write", "models", "models"),
    "close": _call("close"),
    "createChangeStream": _change_stream,
    "dropDatabase": _drop_database,
    "listDatabaseNames": _call("list_database_names"),
    "listDatabaseObjects": _listed("list_databases"),
    "listDatabases": _listed("list_databases"),
}
_DATABASE: dict[str, Handler] = {
    "aggregate": _listed("aggregate"),
    "createChangeStream": _change_stream,
    "createCollection": _create_collection,
    "createCommandCursor": _create_command_cursor,
    "dropCollection": _drop_collection,
    "listCollectionNames": _call("list_collection_names"),
    "listCollectionObjects": _listed("list_collections"),
    "listCollections": _listed("list_collections"),
    "modifyCollection": _modify_collection,
    "runCommand": _run_command,
    "runCursorCommand": _cursor_command,
}
_COLLECTION: dict[str, Handler] = {
    "aggregate": _listed("aggregate"),
    "bulkWrite": _bulk("bulk_write", "requests", "requests"),
    "count": _call("count"),
    "countDocuments": _call("count_documents"),
    "createChangeStream": _change_stream,
    "createFindCursor": _find_cursor,
    "createIndex": _create_index,
    "createSearchIndex": _create_search_index,
    "createSearchIndexes": _create_search_indexes,
    "deleteMany": _call("delete_many"),
    "deleteOne": _call("delete_one"),
    "distinct": _call("distinct", fieldName="key"),
    "dropIndex": _drop_index,
    "dropIndexes": _call("drop_indexes"),
    "dropSearchIndex": _call("drop_search_index"),
    "estimatedDocumentCount": _call("estimated_document_count"),
    "find": _listed("find"),
    "findOne": _call("find_one"),
    "findOneAndDelete": _modified("find_one_and_delete"),
    "findOneAndReplace": _modified("find_one_and_replace"),
    "findOneAndUpdate": _modified("find_one_and_update"),
    "insertMany": _call("insert_many"),
    "insertOne": _call("insert_one"),
    "listIndexNames": _named("list_indexes"),
    "listIndexes": _listed("list_indexes"),
    "listSearchIndexes": _list_search_indexes,
    "mapReduce": _map_reduce,
    "rename": _call("rename", to="new_name"),
    "replaceOne": _call("replace_one"),
    "updateMany": _call("update_many"),
    "updateOne": _call("update_one"),
    "updateSearchIndex": _call("update_search_index"),
}
_SESSION: dict[str, Handler] = {
    "abortTransaction": _call("abort_transaction"),
    "commitTransaction": _call("commit_transaction"),
    "endSession": _call("end_session"),
    "getSnapshotTime": _snapshot_time,
    "startTransaction": _start_transaction,
    "withTransaction": _call("with_transaction"),
}
_BUCKET: dict[str, Handler] = {
    "delete": _call("delete", id="file_id"),
    "deleteByName": _call("delete_by_name"),
    "download": _download("open_download_stream", id="file_id"),
    "downloadByName": _download("open_download_stream_by_name"),
    "drop": _drop_bucket,
    "rename": _call("rename", id="file_id"),
    "renameByName": _call("rename_by_name"),
    "upload": _upload,
    "uploadWithId": _upload,
}
_CURSOR: dict[str, Handler] = {
    "close": _call("close"),
    "iterateOnce": _call("once"),
    "iterateUntilDocumentOrError": _call("next"),
}
_HANDLERS = {
    "bucket": _BUCKET,
    "client": _CLIENT,
    "collection": _COLLECTION,
    "cursor": _CURSOR,
    "database": _DATABASE,
    "session": _SESSION,
}


async def run_operation(kind: str, target: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    """
    Perform an operation.

    @param kind: what C{target} is.
    @param arguments: the test's, with entities instead of their names.
    @return: the result, a document where PyMongo gives a result object.

    @raise Malformed: things of the kind have no such operation.
    """
    handler = _HANDLERS.get(kind, {}).get(name)
    if handler is None:
        raise Malformed(f"a {kind} has no operation {name!r}")
    return result_document(await handler(target, dict(arguments)))
