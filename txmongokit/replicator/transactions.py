"""
Source transactions: what of the oplog belongs to one, as one list.

A transaction is an C{applyOps} entry, or a chain of them that the last one
ends, or a chain that was prepared and is ended by C{commitTransaction}.  The
parts are fetched by walking back along C{prevOpTime} when the entry that ends
it comes by: nothing has to be remembered between batches or across a restart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from txmongokit.replicator.entries import (
    OplogEntry,
    UnsupportedEntry,
    inner_operations,
    parse_entry,
)

__all__ = ["source_transaction"]

# The most bytes of oplog that one transaction may have here.
_LARGEST = 256 * 1024 * 1024


async def source_transaction(
    entry: OplogEntry, entry_at: Callable[[int], Awaitable[bytes | None]]
) -> list[OplogEntry] | None:
    """
    The operations that become visible with a command entry.

    @param entry_at: fetches the oplog entry at a position.

    @return: an empty list for a part that waits for its end or is given up;
        C{None} where the entry is no transaction.
    @raise UnsupportedEntry: a part is gone from the oplog, or the
        transaction is too large.
    """
    if entry.is_partial_transaction or entry.is_prepare or entry.is_abort_transaction:
        return []
    if entry.is_commit_transaction:
        if entry.prev_optime is None:
            return []
        return await _chain(entry.prev_optime[0], entry, entry_at)
    if not entry.is_apply_ops:
        return None
    operations = inner_operations(entry)
    if entry.prev_optime is None or not entry.ends_chain:
        return operations
    return await _chain(entry.prev_optime[0], entry, entry_at) + operations


async def _chain(
    position: int, last: OplogEntry, entry_at: Callable[[int], Awaitable[bytes | None]]
) -> list[OplogEntry]:
    parts: list[list[OplogEntry]] = []
    size = 0
    while position:
        raw = await entry_at(position)
        if raw is None:
            raise UnsupportedEntry(
                f"a part of the transaction that ends at {last.ts >> 32} is no longer in the "
                "source's oplog: copy the data anew and start with a larger oplog"
            )
        size += len(raw)
        if size > _LARGEST:
            raise UnsupportedEntry(
                f"the transaction that ends at {last.ts >> 32} has more than "
                f"{_LARGEST >> 20} MiB, which is more than this version applies"
            )
        part = parse_entry(raw)
        parts.append(inner_operations(part))
        position = part.prev_optime[0] if part.prev_optime is not None else 0
    return [operation for part_ in reversed(parts) for operation in part_]
