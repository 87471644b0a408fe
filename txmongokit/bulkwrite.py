"""
Running bulk writes: several commands that are one operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias, TypeVar

from pymongo.operations import (
    DeleteMany,
    DeleteOne,
    InsertOne,
    ReplaceOne,
    UpdateMany,
    UpdateOne,
)
from pymongo.results import BulkWriteResult, ClientBulkWriteResult
from twisted.internet.defer import CancelledError, Deferred

from txmongokit._sansio.commands.base import Command, CommandOptions, CursorBatch
from txmongokit._sansio.commands.bulk import BulkWrite
from txmongokit._sansio.commands.clientbulk import ClientBulkWrite, results_codec
from txmongokit._sansio.commands.read import GetMore, KillCursors
from txmongokit._sansio.commands.whole import WholeOperation
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import PyMongoError
from txmongokit.interfaces import IOperationRunner

__all__ = ["WriteModel", "run_bulk", "run_client_bulk"]

DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])

WriteModel: TypeAlias = (
    InsertOne[DocumentT] | ReplaceOne[DocumentT] | UpdateOne | UpdateMany | DeleteOne | DeleteMany
)
"""One write of a bulk, in PyMongo's own classes."""


def run_bulk(
    runner: IOperationRunner, bulk: BulkWrite, state: SessionState | None
) -> Deferred[BulkWriteResult]:
    """
    Run the bulk write of a collection.

    @param state: of an explicit session.

    @return: fires with the result; fails with
        L{txmongokit.errors.BulkWriteError} where parts of it failed.  An
        error that ended it, as of the network, has a C{partial_result}: a
        C{BulkWriteResult} of what had been acknowledged before.  Cancelling
        sends no more; what was sent may happen.
    """
    return Deferred.fromCoroutine(_traced_bulk(runner, bulk, state))


async def _traced_bulk(
    runner: IOperationRunner, bulk: BulkWrite, state: SessionState | None
) -> BulkWriteResult:
    with bulk.whole() as whole:
        return await _run_bulk(runner, bulk, state, whole)


async def _run_bulk(
    runner: IOperationRunner, bulk: BulkWrite, state: SessionState | None, whole: WholeOperation
) -> BulkWriteResult:
    deadline = runner.deadline(bulk.options)
    for command in bulk.commands():
        command.deadline, command.whole = deadline, whole
        try:
            reply = await runner.run(command, state)
        except PyMongoError as error:
            if command.unsettled is None:
                error.partial_result = bulk.partial_result()  # type: ignore[attr-defined]  # ours
                raise
            # It was not tried again, so the first reply is what there is.
            reply = command.unsettled
        bulk.settle(command, reply)
    return bulk.finish()


def run_client_bulk(
    runner: IOperationRunner, bulk: ClientBulkWrite, state: SessionState | None
) -> Deferred[ClientBulkWriteResult]:
    """
    Run the bulk write of a client.

    @param state: of an explicit or bound session.

    @return: fires with the result; fails with
        L{txmongokit.errors.ClientBulkWriteException} where parts of it
        failed.  Cancelling sends no more; what was sent may happen.
    """
    return Deferred.fromCoroutine(_in_session(runner, bulk, state))


async def _in_session(
    runner: IOperationRunner, bulk: ClientBulkWrite, state: SessionState | None
) -> ClientBulkWriteResult:
    if state is not None or not bulk.options.write_concern.acknowledged:
        return await _run_client_bulk(runner, bulk, state)
    # The cursors of results belong to the session of what made them.
    implicit = runner.take_session()
    try:
        return await _run_client_bulk(runner, bulk, implicit)
    finally:
        runner.release_session(implicit)


async def _run_client_bulk(
    runner: IOperationRunner, bulk: ClientBulkWrite, state: SessionState | None
) -> ClientBulkWriteResult:
    with WholeOperation("bulkWrite", "admin") as whole:
        return await _run_parts(runner, bulk, state, whole)


async def _run_parts(
    runner: IOperationRunner,
    bulk: ClientBulkWrite,
    state: SessionState | None,
    whole: WholeOperation,
) -> ClientBulkWriteResult:
    deadline = runner.deadline(bulk.options)
    for command in bulk.commands():
        command.deadline, command.whole = deadline, whole
        try:
            batch = await runner.run(command, state)
        except PyMongoError as error:
            if command.unsettled is None:
                _fail(bulk, error)
            batch = command.unsettled
        bulk.settle(batch)
        await _read_results(runner, bulk, batch, state, command)
    return bulk.finish()


async def _read_results(
    runner: IOperationRunner,
    bulk: ClientBulkWrite,
    batch: CursorBatch,
    state: SessionState | None,
    first: Command[CursorBatch],
) -> None:
    options = replace(bulk.options, codec_options=results_codec(bulk.options))
    while batch.cursor_id:
        if bulk.stopped:
            await _kill(runner, batch, options, state)
            return
        more = GetMore(
            batch.namespace, batch.cursor_id, batch.address, options, comment=bulk.comment
        )
        more.deadline, more.whole = first.deadline, first.whole
        try:
            fetched = await runner.run(more, state)
        except CancelledError:
            _kill(runner, batch, options, state)
            raise
        except PyMongoError as error:
            await _kill(runner, batch, options, state)
            _fail(bulk, error)
        bulk.record(fetched.documents)
        batch = fetched


def _fail(bulk: ClientBulkWrite, error: PyMongoError) -> NoReturn:
    failure = bulk.failure(error)
    if failure is error:
        raise error
    raise failure from error


def _kill(
    runner: IOperationRunner,
    batch: CursorBatch,
    options: CommandOptions,
    state: SessionState | None,
) -> Deferred[None]:
    """Tell the server that a cursor is not needed; never fails."""
    command = KillCursors(batch.namespace, [batch.cursor_id], batch.address, options)
    killed: Deferred[object] = runner.run(command, state)
    return killed.addBoth(lambda _: None)
