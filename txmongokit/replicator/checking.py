"""
C{python -m txmongokit.oplog verify}: a verification by itself, beside a
replication in another process or after one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.replicator.arguments import Arguments
from txmongokit.replicator.checkpoint import CheckpointStore, ForeignCheckpointError
from txmongokit.replicator.inspection import DeploymentError, inspect, same_deployment
from txmongokit.replicator.selection import SelectionError
from txmongokit.replicator.service import ReplicationFailed, checkpoint_key, connect
from txmongokit.replicator.verification import Follower, Verification
from txmongokit.replicator.writers import without_documents

__all__ = ["check"]


def check(reactor: Any, arguments: Arguments, say: Callable[[str], Any]) -> Deferred[bool]:
    """
    Compare two deployments.

    Where the destination has the checkpoint of the replication that has this
    selection, its progress is waited for; otherwise a difference only has to
    last.

    @param say: called with each line of the report.
    @return: fires with whether the two are equal; fails with
        L{ReplicationFailed}.
    """
    return Deferred.fromCoroutine(_check(reactor, arguments, say))


async def _check(reactor: Any, arguments: Arguments, say: Callable[[str], Any]) -> bool:
    pools: list[ConnectionPool] = []
    try:
        for uri, what in ((arguments.source, "source"), (arguments.destination, "destination")):
            pools.append(connect(reactor, uri, what))
        return await _compare(reactor, arguments, pools[0], pools[1], say)
    except (DeploymentError, ForeignCheckpointError, SelectionError) as error:
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


async def _compare(
    reactor: Any,
    arguments: Arguments,
    source_pool: ConnectionPool,
    destination_pool: ConnectionPool,
    say: Callable[[str], Any],
) -> bool:
    source, destination = await inspect(source_pool), await inspect(destination_pool)
    if source.is_mongos or destination.is_mongos:
        raise DeploymentError("a mongos cannot be verified by this version: name a replica set")
    if source.set_name is None:
        raise DeploymentError("the source is a standalone server: name a replica set")
    if same_deployment(source, destination) and not arguments.selection.covers_renames():
        raise DeploymentError(
            "source and destination are the same deployment: name another destination, or give "
            "--ns and a --rename for each of its namespaces"
        )
    store = CheckpointStore(
        destination_pool, checkpoint_key(source, arguments), {"source": source.identity}
    )

    async def position() -> int | None:
        checkpoint = await store.load()
        return None if checkpoint is None else checkpoint.position

    verification = Verification(
        reactor,
        source_pool,
        destination_pool,
        arguments.selection,
        Follower(reactor, position, arguments.settle),
        generations=arguments.generations,
    )
    report = await verification.run()
    for line in report.lines():
        say(line)
    return report.equal
