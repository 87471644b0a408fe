"""
The small selection of C{--smoke}: some of each directory, in under 90 seconds.
"""

from __future__ import annotations

__all__ = ["SMOKE", "in_smoke"]

# Folders that end with a slash are taken as a whole; those without servers
# take no time.
SMOKE: tuple[str, ...] = (
    "auth/tests/",
    "causal-consistency/tests/",
    "change-streams/tests/unified/change-streams-clusterTime.json",
    "change-streams/tests/unified/change-streams-errors.json",
    "change-streams/tests/unified/change-streams-resume-allowlist.json",
    "client-backpressure/tests/backpressure-connection-checkin.json",
    "client-side-operations-timeout/tests/error-transformations.json",
    "client-side-operations-timeout/tests/gridfs-delete.json",
    "client-side-operations-timeout/tests/non-tailable-cursors.json",
    "collection-management/tests/",
    "command-logging-and-monitoring/tests/",
    "connection-monitoring-and-pooling/tests/",
    "connection-string/tests/",
    "crud/tests/unified/aggregate",
    "crud/tests/unified/bulkWrite.json",
    "crud/tests/unified/find.json",
    "crud/tests/unified/findOneAndUpdate.json",
    "crud/tests/unified/insertOne-dots_and_dollars.json",
    "gridfs/tests/",
    "index-management/tests/",
    "initial-dns-seedlist-discovery/tests/",
    "load-balancers/tests/",
    "max-staleness/tests/",
    "mongodb-handshake/tests/",
    "read-write-concern/tests/",
    "retryable-reads/tests/unified/find-serverErrors.json",
    "retryable-reads/tests/unified/find.json",
    "retryable-writes/tests/unified/deleteOne-errorLabels.json",
    "retryable-writes/tests/unified/insertOne.json",
    "run-command/tests/",
    "server-discovery-and-monitoring/tests/errors/",
    "server-discovery-and-monitoring/tests/monitoring/",
    "server-discovery-and-monitoring/tests/rs/",
    "server-discovery-and-monitoring/tests/sharded/",
    "server-discovery-and-monitoring/tests/single/",
    "server-discovery-and-monitoring/tests/unified/auth-error.json",
    "server-discovery-and-monitoring/tests/unified/hello-command-error.json",
    "server-discovery-and-monitoring/tests/unified/logging-replicaset.json",
    "server-selection/tests/",
    "sessions/tests/driver-sessions-server-support.json",
    "sessions/tests/snapshot-sessions.json",
    "transactions-convenient-api/tests/unified/commit.json",
    "transactions-convenient-api/tests/unified/transaction-options.json",
    "transactions/tests/unified/abort.json",
    "transactions/tests/unified/commit.json",
    "transactions/tests/unified/isolation.json",
    "transactions/tests/unified/mongos-recovery-token.json",
    "transactions/tests/unified/mongos-unpin.json",
    "transactions/tests/unified/pin-mongos.json",
    "transactions/tests/unified/read-concern.json",
    "unified-test-format/tests/invalid/",
    "unified-test-format/tests/valid-fail/",
    "unified-test-format/tests/valid-pass/poc-",
    "uri-options/tests/",
    "versioned-api/tests/",
)


def in_smoke(path: str) -> bool:
    """
    Whether a file belongs to the small selection.

    @param path: below the specifications' folder.
    """
    return path.startswith(SMOKE)
