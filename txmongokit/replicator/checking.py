"""
C{python -m txmongokit.oplog verify} and C{reverse}: what is done with a source
and a destination besides replicating.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.replicator.arguments import Arguments
from txmongokit.replicator.checkpoint import CheckpointStore, FencedError, ForeignCheckpointError
from txmongokit.replicator.inspection import (
    Deployment,
    DeploymentError,
    check_destination,
    check_source,
    inspect,
)
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.reversal import ReversalError, prepare_reversal
from txmongokit.replicator.selection import SelectionError
from txmongokit.replicator.service import ReplicationFailed, checkpoint_key, connect
from txmongokit.replicator.verification import Follower, Verification
from txmongokit.replicator.writers import without_documents

__all__ = ["check", "turn"]

_EXPLAINED = (
    DeploymentError,
    FencedError,
    ForeignCheckpointError,
    ReversalError,
    SelectionError,
)

Say = Callable[[str], Any]
_Task = Callable[[Any, Arguments, ConnectionPool, ConnectionPool, Deployment, Say], Awaitable[bool]]


def check(reactor: Any, arguments: Arguments, say: Say) -> Deferred[bool]:
    """
    Compare two deployments.

    Where the destination has the checkpoint of the replication that has this
    selection, its progress is waited for; otherwise a difference only has to
    last.

    @param say: called with each line of the report.
    @return: fires with whether the two are equal; fails with
        L{ReplicationFailed}.
    """
    return Deferred.fromCoroutine(_connected(reactor, arguments, say, _compare))


def turn(reactor: Any, arguments: Arguments, say: Say) -> Deferred[bool]:
    """
    Prepare the other direction after a cut-over.

    @param say: called with what to do next.
    @return: fires with C{True}; fails with L{ReplicationFailed}.
    """
    return Deferred.fromCoroutine(_connected(reactor, arguments, say, _turn))


async def _connected(reactor: Any, arguments: Arguments, say: Say, task: _Task) -> bool:
    pools: list[ConnectionPool] = []
    try:
        for uri, what in ((arguments.source, "source"), (arguments.destination, "destination")):
            pools.append(connect(reactor, uri, what))
        source = await _inspected(arguments, *pools)
        return await task(reactor, arguments, pools[0], pools[1], source, say)
    except _EXPLAINED as error:
        raise ReplicationFailed(str(error)) from error
    except OperationFailure as error:
        raise ReplicationFailed(
            f"a server refused (code {error.code}): {without_documents(error)}"
        ) from error
    except PyMongoError as error:
        raise ReplicationFailed(str(error)) from error
    finally:
        for pool in pools:
            await pool.disconnect()


async def _inspected(
    arguments: Arguments, source_pool: ConnectionPool, destination_pool: ConnectionPool
) -> Deployment:
    """What the source is, if the two may be a source and its copy."""
    source, destination = await inspect(source_pool), await inspect(destination_pool)
    check_source(source, "the source")
    check_destination(
        source, destination, "the destination", renamed=arguments.selection.covers_renames()
    )
    return source


async def _compare(
    reactor: Any,
    arguments: Arguments,
    source_pool: ConnectionPool,
    destination_pool: ConnectionPool,
    source: Deployment,
    say: Say,
) -> bool:
    store = CheckpointStore(
        destination_pool, checkpoint_key(source, arguments), {"source": source.identity}
    )

    patience = Patience(reactor, arguments.patience)

    async def position() -> int | None:
        checkpoint = await patience.keep_trying(lambda again: store.load(), "destination")
        return None if checkpoint is None else checkpoint.position

    verification = Verification(
        reactor,
        source_pool,
        destination_pool,
        arguments.selection,
        Follower(reactor, position, arguments.settle),
        generations=arguments.generations,
        patience=patience,
    )
    report = await verification.run()
    for line in report.lines():
        say(line)
    return report.equal


async def _turn(
    reactor: Any,
    arguments: Arguments,
    source_pool: ConnectionPool,
    destination_pool: ConnectionPool,
    source: Deployment,
    say: Say,
) -> bool:
    key = checkpoint_key(source, arguments)
    say(await prepare_reversal(source_pool, destination_pool, key, arguments))
    return True
