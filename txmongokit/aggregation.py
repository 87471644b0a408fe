"""
The cursors of pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.read import aggregate_command
from txmongokit.cursor import CommandCursor
from txmongokit.interfaces import IOperationRunner
from txmongokit.scope import written_in
from txmongokit.sessions import ClientSession, session_state

__all__ = ["aggregation"]

# What of an aggregation's options is the cursor's, under PyMongo's other name.
_CURSOR_OPTIONS = {
    "batchSize": "batch_size",
    "maxAwaitTimeMS": "max_await_time_ms",
    "batch_size": "batch_size",
    "max_await_time_ms": "max_await_time_ms",
    "timeout_mode": "timeout_mode",
}


def aggregation(
    runner: IOperationRunner,
    database: str,
    collection: str | None,
    limits: CommandOptions,
    pipeline: Sequence[Mapping[str, Any]],
    session: ClientSession | None,
    options: dict[str, Any],
) -> CommandCursor[Any]:
    """
    The cursor of a pipeline.

    @param collection: C{None} for one that belongs to no collection.
    @param options: see L{txmongokit.collection.Collection.aggregate}; and C{raw}, for documents
        that stay bytes.
    """
    of_cursor = {
        _CURSOR_OPTIONS[name]: options.pop(name)
        for name in list(options)
        if name in _CURSOR_OPTIONS
    }
    state = session_state(session)
    if state is not None:
        limits = written_in(state, limits)
    command = aggregate_command(
        database,
        collection,
        limits,
        pipeline,
        batch_size=of_cursor.get("batch_size"),
        **options,
    )
    return CommandCursor(runner, command, session, comment=options.get("comment"), **of_cursor)
