"""
Spans of operations and commands, as the drivers' OpenTelemetry specification
has them.

Without C{opentelemetry-api}, or where tracing is not enabled, there is no
L{Tracing}, and nobody asks for one: L{tracing_options} decides that when a
client is made.  Whether and where spans go is the application's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit import errors
from txmongokit._net.logs import COMPONENTS, StructuredLog
from txmongokit._net.observation import CommandEvent
from txmongokit._sansio.commands.base import Command
from txmongokit._sansio.commands.read import CursorCommand, KillCursors
from txmongokit._sansio.commands.whole import WholeOperation
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import ConfigurationError

__all__ = ["SessionTrace", "Tracing", "TracingOptions", "make_tracing", "tracing_options"]

_T = TypeVar("_T")

_ENABLED = "OTEL_PYTHON_INSTRUMENTATION_MONGODB_ENABLED"
_LENGTH = "OTEL_PYTHON_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH"
_TRUE = ("1", "true", "yes", "on")
_KEYS = ("enabled", "query_text_max_length")
_LENGTH_VARIABLE = "MONGODB_LOG_MAX_DOCUMENT_LENGTH"
_SYSTEM = {"db.system.name": "mongodb"}
_CURSOR = "db.mongodb.cursor_id"
# Whose first field names a collection: other commands' may name a user.
_ABOUT_COLLECTIONS = frozenset(
    {
        "aggregate",
        "collMod",
        "collStats",
        "compact",
        "count",
        "create",
        "createIndexes",
        "createSearchIndexes",
        "delete",
        "distinct",
        "drop",
        "dropIndexes",
        "dropSearchIndex",
        "find",
        "findAndModify",
        "insert",
        "killCursors",
        "listIndexes",
        "mapReduce",
        "update",
        "updateSearchIndex",
        "validate",
    }
)
_ENDINGS = frozenset({"commitTransaction", "abortTransaction"})
_ADMIN = "admin"
_NOT_IN_TEXT = ("lsid", "$db", "$clusterTime", "signature")


class TracingOptions(NamedTuple):
    """
    What a client traces.

    @ivar demanded: whether the client was told so, not the environment.
    @ivar text_length: how much of each command's text, 0 for nothing of it.
    """

    demanded: bool
    text_length: int


def tracing_options(given: Any, environment: Mapping[str, str]) -> TracingOptions | None:
    """
    Whether a client traces.

    @param given: C{True} or C{False}, or a mapping with C{enabled} and
        C{query_text_max_length}; what is not said in it, or C{None}, is left
        to the environment.
    @param environment: where
        C{OTEL_PYTHON_INSTRUMENTATION_MONGODB_ENABLED} and
        C{OTEL_PYTHON_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH} are
        looked up.

    @return: C{None} where it does not.
    @raise ConfigurationError: C{given} is none of these.
    """
    if given is None or isinstance(given, bool):
        given = {} if given is None else {"enabled": given}
    if not isinstance(given, Mapping) or not set(given) <= set(_KEYS):
        raise ConfigurationError(
            f"tracing must be True, False or a dict with {' and '.join(_KEYS)}"
        )
    enabled = given.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise ConfigurationError(f"tracing: enabled={enabled!r} must be True or False")
    length = given.get("query_text_max_length")
    if length is None:
        text = environment.get(_LENGTH, "")
        length = int(text) if text.isdecimal() else 0
    elif type(length) is not int or length < 0:
        raise ConfigurationError(
            f"tracing: query_text_max_length={length!r} must be a whole number of at least 0"
        )
    if enabled is None and environment.get(_ENABLED, "").lower() in _TRUE:
        return TracingOptions(False, length)
    return TracingOptions(True, length) if enabled else None


def make_tracing(options: TracingOptions | None) -> Tracing | None:
    """
    What traces for a client.

    @return: C{None} where nothing does.
    @raise ConfigurationError: the client is to trace, and C{opentelemetry}
        is not installed.
    """
    if options is None:
        return None
    try:
        from opentelemetry import trace
    except ImportError:
        if options.demanded:
            raise ConfigurationError(
                "tracing needs opentelemetry-api: install txmongokit[otel], or leave tracing out"
            ) from None
        Logger().warn(
            "{variable} is set, but opentelemetry-api is not installed: nothing is traced",
            variable=_ENABLED,
        )
        return None
    return Tracing(trace, trace.get_tracer("txmongokit", _version()), options.text_length)


def _version() -> str | None:
    try:
        return version("txmongokit")
    except PackageNotFoundError:
        return None  # used from a checkout


class Tracing:
    """
    The spans of one client.

    @param api: the module C{opentelemetry.trace}.
    @param tracer: what starts them.
    @param text_length: see L{TracingOptions}.
    """

    def __init__(self, api: Any, tracer: Any, text_length: int) -> None:
        self._api = api
        self._tracer = tracer
        self._operations: WeakKeyDictionary[Command[Any], Any] = WeakKeyDictionary()
        self._text = None
        if text_length:
            self._text = StructuredLog(
                dict.fromkeys(COMPONENTS, -1), {_LENGTH_VARIABLE: str(text_length)}
            )

    def start(self, name: str, parent: Any, attributes: Mapping[str, Any] = _SYSTEM) -> Any:
        """
        Start a span.

        @param parent: the span that it is part of; C{None} for the one that
            is the application's current.
        """
        context = None if parent is None else self._api.set_span_in_context(parent)
        kind = self._api.SpanKind.CLIENT
        return self._tracer.start_span(name, context, kind, attributes)

    # Operations.

    def run(
        self,
        run: Callable[[Command[Any], SessionState | None], Deferred[_T]],
        command: Command[Any],
        session: SessionState | None,
    ) -> Deferred[_T]:
        """
        Run a command as an operation with a span.
        """
        trace = None if session is None else session.trace
        whole = command.whole
        if whole is not None:
            self._operations[command] = self._begun(whole, command, trace)
            return run(command, session)
        if isinstance(command, KillCursors):
            # Cleaning up is nobody's call: it is part of what goes on anyway.
            around = None if trace is None else trace.parent
            self._operations[command] = around or self._api.get_current_span()
            return run(command, session)
        span = self._begin(_operation(command), *_subject(command), trace)
        self._operations[command] = span

        def ended(result: Any) -> Any:
            self._operations.pop(command, None)
            self._end(span, result.value if isinstance(result, Failure) else None)
            if trace is not None and command.name in _ENDINGS:
                trace.ended()
            return result

        return run(command, session).addBoth(ended)

    def _begun(
        self, whole: WholeOperation, command: Command[Any], trace: SessionTrace | None
    ) -> Any:
        """The span of an operation of several commands, which the first of them begins."""
        if whole.span is None:
            if whole.name:
                name, subject = whole.name, (whole.database, whole.collection)
            else:
                name, subject = _operation(command), _subject(command)
            span = self._begin(name, *subject, trace)
            whole.span, whole.on_end = span, partial(self._end, span)
        return whole.span

    def _begin(
        self, operation: str, database: str, collection: str | None, trace: SessionTrace | None
    ) -> Any:
        target = database if collection is None else f"{database}.{collection}"
        summary = f"{operation} {target}"
        attributes = {
            **_SYSTEM,
            "db.namespace": database,
            "db.operation.name": operation,
            "db.operation.summary": summary,
        }
        if collection is not None:
            attributes["db.collection.name"] = collection
        return self.start(summary, None if trace is None else trace.parent, attributes)

    def _end(self, span: Any, error: BaseException | None) -> None:
        if error is not None:
            self.failed(span, error)
        span.end()

    def failed(self, span: Any, error: BaseException) -> None:
        """
        What a span is about has failed.
        """
        kind = _class_name(type(error))
        span.record_exception(error, {"exception.type": kind})
        span.set_attribute("error.type", kind)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, type(error).__name__))

    # Commands, as the observer tells of them.

    def command_started(self, event: CommandEvent) -> None:
        """
        A command was sent.
        """
        operation = self._operations.get(event.command) if event.command is not None else None
        # What no operation sends is no user's doing.
        if operation is None or event.sensitive:
            return
        if not (operation.is_recording() or isinstance(event.command, KillCursors)):
            return
        attributes = self._attributes(event)
        if isinstance(event.command, CursorCommand):
            self._add_to_operation(operation, event.command, attributes)
        event.span = self.start(event.name, operation, attributes)

    def _add_to_operation(
        self, operation: Any, command: CursorCommand, attributes: Mapping[str, Any]
    ) -> None:
        """What an operation's command tells about it."""
        if _CURSOR in attributes and command.whole is None:
            operation.set_attribute(_CURSOR, attributes[_CURSOR])
        collection = attributes.get("db.collection.name")
        if collection is not None and command.operation == "runCommand":
            # What users write is known only when it is sent.
            summary = f"{command.operation} {command.database}.{collection}"
            operation.update_name(summary)
            operation.set_attribute("db.operation.summary", summary)
            operation.set_attribute("db.collection.name", collection)

    def _attributes(self, event: CommandEvent) -> dict[str, Any]:
        host, port = event.address
        collection = _named_collection(event)
        target = event.database if collection is None else f"{event.database}.{collection}"
        attributes: dict[str, Any] = {
            **_SYSTEM,
            "db.namespace": event.database,
            "db.command.name": event.name,
            "db.query.summary": f"{event.name} {target}",
            "server.address": host,
            "network.transport": "unix" if port is None else "tcp",
            "db.mongodb.driver_connection_id": event.driver_connection_id,
        }
        if port is not None:
            attributes["server.port"] = port
        if collection is not None:
            attributes["db.collection.name"] = collection
        if event.server_connection_id is not None:
            attributes["db.mongodb.server_connection_id"] = event.server_connection_id
        if event.name == "getMore":
            attributes[_CURSOR] = int(event.body["getMore"])
        identifier = event.body.get("lsid", {}).get("id")
        if identifier is not None:
            attributes["db.mongodb.lsid"] = str(identifier.as_uuid())
        if "txnNumber" in event.body:
            attributes["db.mongodb.txn_number"] = int(event.body["txnNumber"])
        if self._text is not None:
            shown = {key: each for key, each in event.body.items() if key not in _NOT_IN_TEXT}
            attributes["db.query.text"] = self._text.document(shown)
        return attributes

    def command_succeeded(self, event: CommandEvent, reply: Mapping[str, Any]) -> None:
        """
        A command was answered with C{ok: 1}.
        """
        span, event.span = event.span, None
        if span is None:
            return
        cursor = reply.get("cursor")
        if event.name != "getMore" and isinstance(cursor, Mapping) and cursor.get("id"):
            span.set_attribute(_CURSOR, int(cursor["id"]))
            operation = self._operations.get(event.command)
            if operation is not None:
                operation.set_attribute(_CURSOR, int(cursor["id"]))
        span.end()

    def command_failed(self, event: CommandEvent, failure: Mapping[str, Any]) -> None:
        """
        A command was answered with C{ok: 0}, or not at all.
        """
        span, event.span = event.span, None
        if span is None:
            return
        name = str(failure.get("errtype", "OperationFailure"))
        error = getattr(errors, name, None)
        kind = name if error is None else _class_name(error)
        span.set_attribute("error.type", str(failure.get("code", kind)))
        if "code" in failure:
            span.set_attribute("db.response.status_code", str(failure["code"]))
        text = str(failure.get("errmsg", ""))
        span.add_event("exception", {"exception.type": kind, "exception.message": text})
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, name))
        span.end()


class SessionTrace:
    """
    The spans of one session that its operations are part of.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._transaction: Any = None

    @property
    def parent(self) -> Any:
        """What an operation is part of, C{None} for nothing of the session's."""
        return self._transaction

    def started(self) -> None:
        """
        A transaction was started.
        """
        self.ended()
        self._transaction = self._tracing.start("transaction", None)

    def ended(self) -> None:
        """
        It was committed or aborted, whether that was possible or not.
        """
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.end()


def _class_name(kind: type[BaseException]) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _operation(command: Command[Any]) -> str:
    """What the specification calls it."""
    return command.operation or command.name


def _subject(command: Command[Any]) -> tuple[str, str | None]:
    """What database an operation is about, and what collection of it."""
    if command.name in _ENDINGS:
        return _ADMIN, None
    database, _, collection = command.namespace.partition(".")
    return database, _nameable(database, collection)


def _nameable(database: str, collection: Any) -> str | None:
    """A collection's name, C{None} for what is none."""
    if database == _ADMIN or not isinstance(collection, str) or collection.startswith("$cmd"):
        return None
    return collection or None


def _named_collection(event: CommandEvent) -> str | None:
    """What collection a command is about."""
    name = None
    if event.name == "getMore":
        name = event.body.get("collection")
    elif event.name in _ABOUT_COLLECTIONS:
        name = event.body.get(event.name)
    return _nameable(event.database, name)
