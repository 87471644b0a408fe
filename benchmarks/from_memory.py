"""
The least that applying an oplog can take: the replicator's own batches,
regrouped before the clock starts, applied by PyMongo with the checkpoint in
each transaction.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from bson import Int64, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from benchmarks.load import Client
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.entries import OplogEntry, parse_entry
from txmongokit.replicator.statements import Dialect, Operation
from txmongokit.replicator.transactions import SpilledTransaction, source_transaction

__all__ = ["apply", "read_batches"]

Prepared: TypeAlias = list[tuple[str, dict[str, Any]]]
_T = TypeVar("_T")

_FIELDS = {"insert": "documents", "update": "updates", "delete": "deletes"}
_DIALECT = Dialect(apply_oplog_update=True)
_USER = {"ns": {"$not": {"$regex": r"^(config\.|local\.|admin\.system\.)"}}, "op": {"$ne": "n"}}


def read_batches(source: Client) -> list[Prepared]:
    """
    Everything that a source's oplog has for user databases, as the commands
    of one destination transaction after the other.
    """
    prepared, batch = [], Batch()
    replies: Any = source["local"]["oplog.rs"].find_raw_batches(_USER)
    for raw in replies:
        for entry in _split(raw):
            for operation in _operations(parse_entry(entry)):
                batch.add(operation)
            if batch.full:
                prepared.append(_commands(batch))
                batch = Batch()
    if batch.count:
        prepared.append(_commands(batch))
    return prepared


def _split(raw: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(raw):
        end = at + int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at:end])
        at = end
    return found


def _operations(entry: OplogEntry) -> list[Operation]:
    entries: list[OplogEntry] | None = [entry]
    if entry.op == "c":
        found = _result(source_transaction(entry, _no_entry))
        entries = None if isinstance(found, SpilledTransaction) else found
    return [
        Operation.from_entry(each, each.ns, _DIALECT) for each in entries or () if each.op in "iud"
    ]


async def _no_entry(position: int) -> bytes | None:
    # The load's transactions are of one entry each.
    return None


def _result(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise RuntimeError("a transaction of several entries")


def _commands(batch: Batch) -> Prepared:
    commands = []
    for group in batch.groups(lambda namespace: False, plain_inserts=True):
        database, _, name = group.namespace.partition(".")
        command: dict[str, Any] = {group.kind: name, "ordered": True}
        if group.kind != "delete":
            command["bypassDocumentValidation"] = True
        command[_FIELDS[group.kind]] = [RawBSONDocument(each) for each in group.statements]
        commands.append((database, command))
    return commands


def apply(batches: Sequence[Prepared], destination: Client) -> None:
    """
    Apply them, each with a checkpoint as the replicator's.
    """
    checkpoints = destination["txmongokit"]["mongosync"]
    checkpoints.insert_one({"_id": "from memory", "seq": Int64(0)})
    with destination.start_session(causal_consistency=False) as session:
        for seq, commands in enumerate(batches):
            with session.start_transaction(
                read_concern=ReadConcern("local"), write_concern=WriteConcern("majority")
            ):
                for database, command in commands:
                    destination[database].command(command, session=session)
                fields = {"seq": Int64(seq + 1), "ts": Timestamp(1, seq), "count": Int64(seq)}
                checkpoints.update_one(
                    {"_id": "from memory", "seq": Int64(seq)}, {"$set": fields}, session=session
                )
