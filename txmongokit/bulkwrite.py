"""
Running bulk writes: several commands that are one operation.
"""

from __future__ import annotations

from pymongo.results import BulkWriteResult
from twisted.internet.defer import Deferred

from txmongokit._sansio.commands.bulk import BulkWrite
from txmongokit._sansio.transactions import SessionState
from txmongokit.errors import PyMongoError
from txmongokit.interfaces import IOperationRunner

__all__ = ["run_bulk"]


def run_bulk(
    runner: IOperationRunner, bulk: BulkWrite, state: SessionState | None
) -> Deferred[BulkWriteResult]:
    """
    Run the bulk write of a collection.

    @param state: of an explicit session.

    @return: fires with the result; fails with
        L{txmongokit.errors.BulkWriteError} where parts of it failed.
        Cancelling sends no more; what was sent may happen.
    """
    return Deferred.fromCoroutine(_run_bulk(runner, bulk, state))


async def _run_bulk(
    runner: IOperationRunner, bulk: BulkWrite, state: SessionState | None
) -> BulkWriteResult:
    deadline = runner.deadline(bulk.options)
    for command in bulk.commands():
        command.deadline = deadline
        try:
            reply = await runner.run(command, state)
        except PyMongoError:
            if command.unsettled is None:
                raise
            # It was not tried again, so the first reply is what there is.
            reply = command.unsettled
        bulk.settle(command, reply)
    return bulk.finish()
