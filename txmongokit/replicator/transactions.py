"""
Source transactions: what of the oplog belongs to one, as one list.

A transaction is an C{applyOps} entry, or a chain of them that the last one
ends, or a chain that was prepared and is ended by C{commitTransaction}.  The
parts are fetched by walking back along C{prevOpTime} when the entry that ends
it comes by: nothing has to be remembered between batches or across a restart.
A large one is kept in a file meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile

from txmongokit.replicator.entries import (
    OplogEntry,
    UnsupportedEntry,
    inner_operations,
    parse_entry,
)

__all__ = ["SpilledTransaction", "source_transaction"]

_EntryAt = Callable[[int], Awaitable[bytes | None]]

# The most bytes of oplog of one transaction that are kept in memory.
_IN_MEMORY = 32 * 1024 * 1024


class SpilledTransaction:
    """
    A transaction whose entries are in a temporary file, of which one at a
    time is in memory.

    @ivar size: bytes of all entries.
    """

    def __init__(self) -> None:
        self.size = 0
        # Deleted when it is closed, or with the process.
        with ExitStack() as stack:
            self._file = stack.enter_context(TemporaryFile(prefix="mongosync"))
            self._closing = stack.pop_all()
        self._lengths: list[int] = []

    def put_before(self, raw: bytes) -> None:
        """
        Add the entry before those that are here.
        """
        self._file.write(raw)
        self._lengths.append(len(raw))
        self.size += len(raw)

    def parts(self) -> Iterator[list[OplogEntry]]:
        """
        The operations of each entry, in the source's order; from the start
        each time.
        """
        at = self.size
        for length in reversed(self._lengths):
            at -= length
            self._file.seek(at)
            yield inner_operations(parse_entry(self._file.read(length)))

    def close(self) -> None:
        """
        Delete the file.
        """
        self._closing.close()


async def source_transaction(
    entry: OplogEntry, entry_at: _EntryAt, in_memory: int = _IN_MEMORY
) -> list[OplogEntry] | SpilledTransaction | None:
    """
    The operations that become visible with a command entry.

    @param entry_at: fetches the oplog entry at a position.
    @param in_memory: the bytes of a chain above which it is kept in a file,
        which the caller closes.

    @return: an empty list for a part that waits for its end or is given up;
        C{None} where the entry is no transaction.
    @raise UnsupportedEntry: a part is gone from the oplog.
    """
    if entry.is_partial_transaction or entry.is_prepare or entry.is_abort_transaction:
        return []
    if entry.is_commit_transaction:
        if entry.prev_optime is None:
            raise UnsupportedEntry(
                f"the commitTransaction at {entry.ts >> 32} does not say what it commits: use a "
                "release that knows the source's version"
            )
        return await _chain([], entry, entry_at, in_memory)
    if not entry.is_apply_ops:
        return None
    if entry.prev_optime is None or not entry.ends_chain:
        return inner_operations(entry)
    return await _chain([entry.raw], entry, entry_at, in_memory)


async def _chain(
    raws: list[bytes], last: OplogEntry, entry_at: _EntryAt, in_memory: int
) -> list[OplogEntry] | SpilledTransaction:
    """
    @param raws: the last part, where that is the entry C{last} itself.
    """
    spilled: SpilledTransaction | None = None
    position = last.prev_optime[0] if last.prev_optime is not None else 0
    try:
        while position:
            raw = await entry_at(position)
            if raw is None:
                raise UnsupportedEntry(
                    f"a part of the transaction that ends at {last.ts >> 32} is no longer in the "
                    "source's oplog: copy the data anew and start with a larger oplog"
                )
            if spilled is None and sum(map(len, raws)) + len(raw) > in_memory:
                spilled = SpilledTransaction()
                for each in raws:
                    spilled.put_before(each)
            if spilled is None:
                raws.append(raw)
            else:
                spilled.put_before(raw)
            part = parse_entry(raw)
            position = part.prev_optime[0] if part.prev_optime is not None else 0
    except BaseException:
        if spilled is not None:
            spilled.close()
        raise
    if spilled is not None:
        return spilled
    return [each for raw in reversed(raws) for each in inner_operations(parse_entry(raw))]
