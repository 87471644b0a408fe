"""
Where txmongokit deliberately differs from another driver, and why.

One entry for each name, or for a parameter C{name(parameter)}; what is no longer
needed here fails the test.
"""

from __future__ import annotations

__all__ = ["DIFFERENCES"]

_POOL_SIZE = (
    "Without pool_size a pool grows to maxPoolSize, 100: one connection, on which all operations "
    "queue up, is TxMongo's worst default."
)
_NAMED = "Its options are named in its signature: another one is an error, not lost."
_PINGS = (
    "Without it servers are watched as heartbeatFrequencyMS and connectTimeoutMS say, by default "
    "every 10 s and within 20 s."
)
_MADE_BY_FIND = "Cursors are made by find(), which takes all of this."
_NO_DEFERRED = (
    "A cursor is no Deferred, so that nothing is sent until somebody wants it: deferred() makes "
    "one, and the calls that add callbacks are there."
)
_COROUTINE = "In a generator, yield a cursor; await it elsewhere."
_CALLED = "Calling what is no method is an error that names the nearest one: write things['sub']."
_MADE_BY_CLIENT = "Sessions are made by start_session()."
_SERVER_SESSION = (
    "Server sessions are the client's own business; none of these did a user any good."
)
_PROPERTY = "It is a property, as in PyMongo: leave the parentheses out."
_NO_WITH = "Closing is a Deferred, which a with statement cannot wait for: use async with."
_UTILS = "Not for users; timeout= and deadline= are arguments of every operation."

_CURSOR = "txmongo.collection.Cursor"
_SESSIONS = "txmongo.sessions"


def _all(reason: str, prefix: str, *names: str) -> dict[str, str]:
    return dict.fromkeys((f"{prefix}{name}" for name in names), reason)


_SEED = {
    "txmongo._gridfs.grid_file.GridOut(doc)": (
        "GridFS.get() makes them; by hand, in order, or by PyMongo's file_document."
    ),
    "txmongo.collection.Collection.with_options(kwargs)": _NAMED,
    "txmongo.connection.ConnectionPool(pool_size)": _POOL_SIZE,
    "txmongo.connection.MongoConnection(pool_size)": _POOL_SIZE,
}
_NEW = {
    **_SEED,
    "txmongo.collection.Collection.__call__(collection_name)": _CALLED,
    "txmongo.database.Database.__call__(database_name)": _CALLED,
    "txmongo.connection.ConnectionPool(ping_interval)": _PINGS,
    "txmongo.connection.ConnectionPool(ping_timeout)": _PINGS,
    **_all(_MADE_BY_FIND, _CURSOR, "(runner)", "(database)", "(options)", "(arguments)"),
    **_all(_MADE_BY_FIND, _CURSOR, "(projection)", "(skip)", "(modifiers)", "(flags)"),
    **_all(_MADE_BY_FIND, _CURSOR, "(allow_partial_results)", "(timeout)"),
    **_all(_NO_DEFERRED, f"{_CURSOR}.", "callback", "callbacks", "called", "debug", "errback"),
    **_all(_NO_DEFERRED, f"{_CURSOR}.", "fromCoroutine", "fromFuture"),
    **_all(_NO_DEFERRED, f"{_CURSOR}.", "pause", "paused", "unpause"),
    f"{_CURSOR}.__iter__": _COROUTINE,
    "txmongo._gridfs.grid_file.GridIn.__enter__": _NO_WITH,
    "txmongo._gridfs.grid_file.GridIn.__exit__": _NO_WITH,
    **_all(_MADE_BY_CLIENT, f"{_SESSIONS}.ClientSession", "(connection)", "(options)"),
    f"{_SESSIONS}.ClientSession(implicit)": _MADE_BY_CLIENT,
    f"{_SESSIONS}.ClientSession.in_transaction": _PROPERTY,
    f"{_SESSIONS}.ServerSession": _SERVER_SESSION,
    **_all(_SERVER_SESSION, f"{_SESSIONS}.ServerSession.", "create_with_local_id", "is_dirty"),
    **_all(_SERVER_SESSION, f"{_SESSIONS}.ServerSession.", "inc_transaction_id", "last_use"),
    **_all(_SERVER_SESSION, f"{_SESSIONS}.ServerSession.", "is_about_to_expire", "mark_dirty"),
    **_all(_SERVER_SESSION, f"{_SESSIONS}.ServerSession.", "transaction_id", "update_last_use"),
    f"{_SESSIONS}.TxnState": _SERVER_SESSION,
    **_all(_SERVER_SESSION, f"{_SESSIONS}.TxnState.", "ABORTED", "COMMITTED", "IN_PROGRESS"),
    **_all(_SERVER_SESSION, f"{_SESSIONS}.TxnState.", "COMMITTED_EMPTY", "NONE", "STARTING"),
    **_all(_UTILS, "txmongo.utils.", "check_deadline", "get_err", "timeout"),
}

_NOT_ITERABLE = (
    "PyMongo has it to say that it cannot be iterated over, which Python says here; calling it is "
    "an error that names the nearest method."
)
_CREATED = "Collections are created by create_collection(); PyMongo's asyncio client says so, too."
_ENCRYPTED = "Client-side field level encryption is not supported."
_ONE = "It is taken, and for one document it means nothing."
_MADE = (
    "Cursors, streams and sessions are made by the calls that give them, which take all of this."
)
_FLAGS = "PyMongo has it here to refuse it; a cursor of files takes it as any other."
_GRIDFS = "gridfs.asynchronous.grid_file"
_ASYNC = "pymongo.asynchronous"
# What the constructors of several classes take alike.
_STREAM = (
    "(target)",
    "(pipeline)",
    "(full_document)",
    "(resume_after)",
    "(max_await_time_ms)",
    "(batch_size)",
    "(collation)",
    "(start_at_operation_time)",
    "(session)",
    "(start_after)",
    "(comment)",
    "(full_document_before_change)",
    "(show_expanded_events)",
)
_COMMAND_CURSOR = (
    "(collection)",
    "(cursor_info)",
    "(address)",
    "(batch_size)",
    "(max_await_time_ms)",
    "(session)",
    "(comment)",
)
_VERSION = "What PyMongo is like is PyMongo's to tell."
_CLIENT = "pymongo.asynchronous.mongo_client.AsyncMongoClient"
_DATABASE = "pymongo.asynchronous.database.AsyncDatabase"
_COLLECTION = "pymongo.asynchronous.collection.AsyncCollection"


def _made(parameters: tuple[str, ...], *classes: str) -> dict[str, str]:
    return {f"{name}{each}": _MADE for name in classes for each in parameters}


_PYMONGO = {
    **_all(_NOT_ITERABLE, f"{_CLIENT}.", "__iter__", "__next__", "next"),
    **_all(_NOT_ITERABLE, f"{_DATABASE}.", "__iter__", "__next__", "next"),
    **_all(_NOT_ITERABLE, f"{_COLLECTION}.", "__iter__", "__next__", "next"),
    f"{_CLIENT}.eq_props": "It serves PyMongo's own comparisons of clients: each client is itself.",
    f"{_CLIENT}(auto_encryption_opts)": (
        "Client-side field level encryption is not supported: the option is refused."
    ),
    **_all(
        _MADE,
        "gridfs.asynchronous.grid_file.AsyncGridOutCursor",
        *(
            "(collection)",
            "(skip)",
            "(limit)",
            "(no_cursor_timeout)",
            "(sort)",
            "(batch_size)",
            "(session)",
        ),
    ),
    **_made(
        _STREAM,
        f"{_ASYNC}.change_stream.AsyncChangeStream",
        f"{_ASYNC}.change_stream.AsyncClusterChangeStream",
        f"{_ASYNC}.change_stream.AsyncCollectionChangeStream",
        f"{_ASYNC}.change_stream.AsyncDatabaseChangeStream",
    ),
    **_all(
        _MADE,
        "pymongo.asynchronous.client_session.AsyncClientSession",
        *(
            "(client)",
            "(server_session)",
            "(options)",
            "(implicit)",
        ),
    ),
    **_made(
        _COMMAND_CURSOR,
        f"{_ASYNC}.command_cursor.AsyncCommandCursor",
        f"{_ASYNC}.command_cursor.AsyncRawBatchCommandCursor",
    ),
    **_all(
        _MADE,
        "pymongo.asynchronous.cursor.AsyncCursor",
        *(
            "(collection)",
            "(filter)",
            "(projection)",
            "(skip)",
            "(limit)",
            "(no_cursor_timeout)",
            "(cursor_type)",
            "(sort)",
            "(allow_partial_results)",
            "(oplog_replay)",
            "(batch_size)",
            "(collation)",
            "(hint)",
            "(max_scan)",
            "(max_time_ms)",
            "(max)",
            "(min)",
            "(return_key)",
            "(show_record_id)",
            "(snapshot)",
            "(comment)",
            "(session)",
            "(allow_disk_use)",
            "(let)",
        ),
    ),
    **_all(
        _MADE,
        "pymongo.asynchronous.cursor.AsyncRawBatchCursor",
        *(
            "(database)",
            "(options)",
            "(filter)",
            "(arguments)",
            "(collection)",
            "(args)",
            "(kwargs)",
        ),
    ),
    **_all(_FLAGS, f"{_GRIDFS}.AsyncGridOutCursor.add_option", "(mask)", "(args)", "(kwargs)"),
    **_all(_FLAGS, f"{_GRIDFS}.AsyncGridOutCursor.remove_option", "(mask)", "(args)", "(kwargs)"),
    f"{_GRIDFS}.AsyncGridOut.write(value)": "Both refuse to write to a file that is read.",
    "pymongo.asynchronous.client_session.AsyncClientSession.__copy__": (
        "PyMongo has it to refuse; a session is one place in a conversation."
    ),
    "pymongo.asynchronous.command_cursor.AsyncRawBatchCommandCursor.__getitem__": (
        "PyMongo has it to refuse; so does Python here."
    ),
    f"{_DATABASE}.create_collection(check_exists)": (
        "The server says itself that there is one, without a second command; ask for the check."
    ),
    f"{_DATABASE}.create_collection(encryptedFields)": _ENCRYPTED,
    f"{_DATABASE}.drop_collection(encrypted_fields)": _ENCRYPTED,
    **_all(_CREATED, _COLLECTION, "(create)", "(session)", "(collation)"),
    f"{_COLLECTION}.drop(encrypted_fields)": _ENCRYPTED,
    **_all(_ONE, f"{_COLLECTION}.find_one", "(limit)", "(cursor_type)", "(batch_size)"),
    **_all(_VERSION, "pymongo.", "__version__", "version", "version_tuple", "has_c"),
    **_all(_VERSION, "pymongo.", "get_version_string"),
    **_all(_VERSION, "pymongo.", "MAX_SUPPORTED_WIRE_VERSION", "MIN_SUPPORTED_WIRE_VERSION"),
}

DIFFERENCES: dict[str, dict[str, str]] = {
    "txmongo-15.2.1": _SEED,
    "txmongo-26.0.0": _NEW,
    "pymongo-4.20.0": _PYMONGO,
}
