"""
Bulk writes: many statements in few commands.

Follows the CRUD specification's bulk write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import bson
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.results import BulkWriteResult

from txmongokit import rawbson
from txmongokit._pymongo import add_to_bulk
from txmongokit._sansio.commands.arguments import (
    check_mapping,
    is_operator_update,
)
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.whole import WholeOperation
from txmongokit._sansio.commands.write import (
    Batches,
    BulkOutcome,
    Delete,
    Insert,
    Update,
    delete_statement,
    update_statement,
)
from txmongokit.errors import InvalidOperation

__all__ = ["BulkWrite", "check_replacement", "check_update", "demands_of", "ensure_id"]

_DEMANDS = frozenset({"hint", "sort", "collation", "array_filters", "arrayFilters"})
_KINDS: dict[str, type[Batches]] = {"insert": Insert, "update": Update, "delete": Delete}


class _Run:
    """Statements that go into the same commands."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.indexes: list[int] = []
        self.statements: list[bytes] = []
        self.retryable = True
        self.demands: set[str] = set()


class BulkWrite:
    """
    The statements of one bulk write, and what became of them.

    PyMongo's operations call the C{add_*} methods with everything they
    hold, so that no option is lost.

    @param options: C{bypass_document_validation}, C{comment}, C{let},
        C{raw_data}.
    @ivar options: the C{command_options}.
    """

    def __init__(
        self,
        database: str,
        collection: str,
        command_options: CommandOptions,
        *,
        ordered: bool,
        **options: Any,
    ) -> None:
        unknown = set(options) - {"bypass_document_validation", "comment", "let", "raw_data"}
        if unknown:
            raise TypeError(f"a bulk write has no option {sorted(unknown)[0]!r}")
        self._database = database
        self._collection = collection
        self.options = command_options
        self._codec = command_options.codec_options
        self._ordered = ordered
        self._arguments = options
        self._runs: list[_Run] = []
        self._operations: list[Any] = []
        self._indexes: list[int] = []
        self._outcome = BulkOutcome()

    def whole(self) -> WholeOperation:
        """
        The operation that its commands are parts of, which is called as they
        are where all of them are of one kind.
        """
        kinds = {run.kind for run in self._runs}
        name = kinds.pop() if len(kinds) == 1 else "bulkWrite"
        return WholeOperation(name, self._database, self._collection)

    def add(self, operation: Any) -> None:
        """
        Add one of PyMongo's write operations.

        @raise TypeError: it is none.
        """
        add_to_bulk(operation, self)

    def _add(
        self,
        kind: str,
        operation: Any,
        statement: bytes,
        *,
        retryable: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        run = None
        if self._ordered:
            if self._runs and self._runs[-1].kind == kind:
                run = self._runs[-1]
        else:
            run = next((run for run in self._runs if run.kind == kind), None)
        if run is None:
            run = _Run(kind)
            self._runs.append(run)
        run.indexes.append(len(self._operations))
        run.statements.append(statement)
        run.retryable = run.retryable and retryable
        if options:
            run.demands.update(demands_of(options))
        self._operations.append(operation)

    def add_insert(self, document: Mapping[str, Any]) -> Any:
        """
        Insert a document.

        @return: its C{_id}.
        """
        identifier = ensure_id(document)
        self._add("insert", document, bson.encode(document, False, self._codec))
        return identifier

    def add_update(
        self,
        selector: Mapping[str, Any],
        update: Any,
        multi: bool,
        upsert: bool | None = None,
        **options: Any,
    ) -> None:
        """
        Change one document or many.
        """
        check_update(update)
        self._add_change(selector, update, multi, upsert, options)

    def add_replace(
        self,
        selector: Mapping[str, Any],
        replacement: Mapping[str, Any],
        upsert: bool | None = None,
        **options: Any,
    ) -> None:
        """
        Replace one document.
        """
        check_replacement(replacement)
        self._add_change(selector, replacement, False, upsert, options)

    def _add_change(
        self,
        selector: Mapping[str, Any],
        update: Any,
        multi: bool,
        upsert: bool | None,
        options: dict[str, Any],
    ) -> None:
        check_mapping("filter", selector)
        statement = update_statement(
            self._codec, selector, update, multi=multi, upsert=upsert, **options
        )
        operation = {"q": selector, "u": update, "multi": multi, "upsert": bool(upsert)}
        self._add("update", operation, statement, retryable=not multi, options=options)

    def add_delete(self, selector: Mapping[str, Any], limit: int, **options: Any) -> None:
        """
        Delete one document (C{limit} 1) or many (0).
        """
        check_mapping("filter", selector)
        statement = delete_statement(self._codec, selector, multi=not limit, **options)
        operation = {"q": selector, "limit": limit}
        self._add("delete", operation, statement, retryable=bool(limit), options=options)

    def check(self) -> None:
        """
        @raise InvalidOperation: there is nothing to write.
        """
        if not self._operations:
            raise InvalidOperation("there is nothing to write: the list is empty")

    def commands(self) -> Iterator[Batches]:
        """
        What to send, in order.  After each, L{settle} takes its reply, and
        L{finish} comes last.
        """
        for run in self._runs:
            self._indexes = run.indexes
            command = self._command(run)
            while not command.done:
                yield command
                if self._ordered and self._outcome.failed:
                    return

    def _command(self, run: _Run) -> Batches:
        options = dict(self._arguments)
        if run.kind == "insert":
            options.pop("let", None)
        elif run.kind == "delete":
            options.pop("bypass_document_validation", None)
        return _KINDS[run.kind](
            self._database,
            self._collection,
            run.statements,
            self.options,
            ordered=self._ordered,
            retryable=run.retryable,
            demands=run.demands,
            **options,
        )

    def settle(self, command: Batches, reply: Mapping[str, Any]) -> None:
        """
        Take the reply to what was sent last.
        """
        first = command.offset
        taken = command.settle()
        self._outcome.merge(command.name, reply, self._indexes[first : first + taken])

    def partial_result(self) -> BulkWriteResult:
        """
        What has been acknowledged so far.
        """
        return BulkWriteResult(self._outcome.result, True)

    def finish(self) -> BulkWriteResult:
        """
        The result of it all.

        @raise txmongokit.errors.BulkWriteError: some of it failed.
        """
        self._outcome.check(self._operations)
        acknowledged = self.options.write_concern.acknowledged
        return BulkWriteResult(self._outcome.result if acknowledged else {}, acknowledged)


def ensure_id(document: Any) -> Any:
    """
    A document's C{_id}, which it is given if it has none and is no raw one.

    @raise TypeError: it is no mapping that can be changed.
    """
    if isinstance(document, RawBSONDocument):
        # Nothing else of it is looked at: it may be large, or no good text.
        raw = bytes(document.raw)
        found = rawbson.find_element(raw, b"_id")
        return None if found is None else bson.decode(rawbson.wrap(raw[found[2] : found[4]]))["_id"]
    if not isinstance(document, MutableMapping):
        raise TypeError(f"document must be a mutable mapping, not {type(document).__name__}")
    if "_id" not in document:
        document["_id"] = ObjectId()
    return document["_id"]


def check_update(update: Any) -> None:
    """
    Refuse a whole document where operators or a pipeline are meant.

    @raise ValueError: it is one.
    """
    if not is_operator_update(update):
        raise ValueError(
            "update must consist of operators such as $set: use replace_one for a whole document"
        )


def check_replacement(replacement: Any) -> None:
    """
    Refuse operators where a whole document is meant.

    @raise ValueError: they are.
    """
    check_mapping("replacement", replacement)
    if replacement and str(next(iter(replacement))).startswith("$"):
        raise ValueError("replacement must be a whole document: use update_one for operators")


def demands_of(options: Mapping[str, Any]) -> list[str]:
    """
    Which of a statement's options an unacknowledged write may not have; see
    L{txmongokit._sansio.commands.write.check_unacknowledged}.
    """
    return [name for name, value in options.items() if value is not None and name in _DEMANDS]
