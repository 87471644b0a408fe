"""
The replay over a clone: from the position before its first read up to the one
behind its last.

Each collection was read at some time within this window and under the name
that it had then.  What the oplog says of the time before is to be applied to
it all the same, though the source may have called it otherwise, or may have
had another collection of its present name.  So operations find their
collection by the source's UUID for it, as members of a replica set do:

 - One that was listed is where the clone has put it.  A rename that leads to
   that name only, and its creation, have happened already.
 - One that was created within the window exists from then on.
 - Any other was dropped before the source was listed: nothing is left of it.

A name in the destination that a listed collection has taken is therefore
never given to one that had it before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import bson
from twisted.logger import Logger

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.rawbson import find_element
from txmongokit.replicator.batch import Batch
from txmongokit.replicator.blueprints import BUCKETS, CODEC, Blueprint, is_deferred, requested
from txmongokit.replicator.checkpoint import Checkpoint, CheckpointStore
from txmongokit.replicator.cloning import run_command
from txmongokit.replicator.ddl import DDL
from txmongokit.replicator.entries import OplogEntry
from txmongokit.replicator.ledger import Ledger
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.schema import SchemaWriter
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Operation
from txmongokit.replicator.writers import ApplyError, BatchWriter

__all__ = ["Window", "WindowWriter"]

_NAMESPACE_NOT_FOUND = 26
# What the change is made to is gone, or is already as a later change left it:
# an index of that name, for example, with other options.
_TOLERATED = frozenset({_NAMESPACE_NOT_FOUND, 27, 85, 86})
_PATH_NOT_VIABLE = 28
_VIEWS = "system.views"
_INDEX_COMMANDS = ("createIndexes", "commitIndexBuild")
_DROPS_OF_INDEXES = ("dropIndexes", "deleteIndexes", "dropIndex", "deleteIndex", "abortIndexBuild")
_CHANGEABLE = ("hidden", "expireAfterSeconds", "unique", "prepareUnique")
# Nothing is executed for it: the blueprints alone change.
_REMEMBER = DDL((), "", {})


class Window:
    """
    What takes the place of the selection and of the L{SchemaWriter} within
    the window.

    @param made: the collections that were listed, and those created since.
    """

    _log = Logger()

    def __init__(
        self,
        pool: ConnectionPool,
        inner: SchemaWriter,
        selection: Selection,
        store: CheckpointStore,
        ledger: Ledger,
        patience: Patience,
        made: Iterable[Blueprint],
    ) -> None:
        self._pool = pool
        self._inner = inner
        self._selection = selection
        self._store = store
        self._ledger = ledger
        self._patience = patience
        listed = list(made)
        self._by_uuid = {each.uuid: each for each in listed if each.uuid}
        self._views = {each.namespace for each in listed if each.kind == "view"}
        # What the change that was planned last has made of the blueprints.
        self._changed: dict[bytes, Blueprint] = {}

    # Operations on documents.

    def route(self, entry: OplogEntry) -> str | None:
        """
        The namespace in the destination that an operation belongs to;
        C{None} where there is none any more.
        """
        uuid = _uuid(entry)
        if uuid is None or entry.ns.endswith(f".{_VIEWS}"):
            return self._selection.destination(entry.ns)
        found = self._by_uuid.get(uuid)
        if found is None or not found.alive:
            return None
        if entry.op == "i" and entry.ts <= found.known_end:
            return None
        return self._selection.destination(found.namespace)

    # Changes of the schema.

    def handles(self, namespace: str) -> bool:
        """
        See L{SchemaWriter.handles}.
        """
        return self._inner.handles(namespace)

    def plan(self, entry: OplogEntry) -> DDL | None:
        """
        See L{SchemaWriter.plan}: what is left to do of a change, C{None} for
        nothing; and what to remember of it.
        """
        self._changed = {}
        change = self._plan(entry)
        if change is None:
            return _REMEMBER if self._changed else None
        return replace(change, done_codes=change.done_codes | _TOLERATED)

    def _plan(self, entry: OplogEntry) -> DDL | None:
        uuid = _uuid(entry)
        found = None if uuid is None else self._by_uuid.get(uuid)
        alive = found is not None and found.alive
        if entry.op != "c":
            return self._plan_view(entry) if alive else None
        o = bson.decode(entry.o, CODEC)
        verb = next(iter(o), "")
        if verb == "dropDatabase":
            return self._plan_drop_database(entry)
        if uuid is None:
            return self._inner.plan(entry)
        if verb == "create":
            return self._plan_create(entry, o, uuid)
        if found is None or not found.alive:
            return None
        if verb == "renameCollection":
            return self._plan_rename(entry, o, found)
        if verb == "drop":
            self._kill(found)
            return None if found.kind == "views" else self._drop(entry, found)
        if verb in _INDEX_COMMANDS:
            return self._plan_indexes(entry, o, found)
        if verb in _DROPS_OF_INDEXES:
            return self._plan_index_drop(entry, o, found)
        if verb == "collMod":
            return self._plan_change(entry, o, found)
        return self._inner.plan(_with(entry, {**o, verb: found.name}))

    def _remember(self, blueprint: Blueprint) -> None:
        self._changed[blueprint.uuid] = blueprint

    def _kill(self, blueprint: Blueprint) -> None:
        blueprint.alive = False
        self._remember(blueprint)

    def _occupant(self, namespace: str) -> Blueprint | None:
        for each in self._by_uuid.values():
            if each.alive and each.namespace == namespace:
                return each
        return None

    def _drop(self, entry: OplogEntry, found: Blueprint) -> DDL | None:
        return self._inner.plan(_with(entry, {"drop": found.name}))

    def _plan_drop_database(self, entry: OplogEntry) -> DDL | None:
        # Its collections were dropped one by one before; what is left of it is
        # an empty collection of views, or what was made since and listed.
        dropped = self._selection.renamed_database(entry.ns.partition(".")[0])
        if any(each.alive and self._home(each) == dropped for each in self._by_uuid.values()):
            return None
        return self._inner.plan(entry)

    def _home(self, blueprint: Blueprint) -> str | None:
        """The database of the destination that has it."""
        if blueprint.kind == "views":
            return self._selection.renamed_database(blueprint.database)
        namespace = self._selection.destination(blueprint.namespace)
        return None if namespace is None else namespace.partition(".")[0]

    def _plan_create(self, entry: OplogEntry, o: dict[str, Any], uuid: bytes) -> DDL | None:
        name = str(o["create"])
        namespace = f"{entry.ns.partition('.')[0]}.{name}"
        if uuid in self._by_uuid or self._occupant(namespace) or namespace in self._views:
            return None
        kind = "collection"
        if name == _VIEWS:
            kind = "views"
        elif name.startswith(BUCKETS):
            kind = "buckets"
        options = {key: value for key, value in o.items() if key != "expireAfterSeconds"}
        made = Blueprint(uuid, namespace, kind, {}, listed=False)
        made.expire = o.get("expireAfterSeconds")
        self._by_uuid[uuid] = made
        self._remember(made)
        return self._inner.plan(_with(entry, options))

    def _plan_rename(self, entry: OplogEntry, o: dict[str, Any], found: Blueprint) -> DDL | None:
        old, new = str(o["renameCollection"]), str(o["to"])
        replaced = o.get("dropTarget")
        target = self._by_uuid.get(bytes(replaced)) if isinstance(replaced, bytes) else None
        if target is not None and not target.alive:
            target = None
        if found.namespace != old:
            # It is ahead: it was read under a name that it got later.
            if target is None or target is found:
                return None
            self._kill(target)
            return self._drop(entry, target)
        occupant = self._occupant(new)
        if occupant is not None and occupant is not target:
            # What has that name got it later.  So this one has another then,
            # which it was listed under, or is gone.
            if found.listed:
                return None
            self._kill(found)
            return self._drop(entry, found)
        change = self._inner.plan(_with(entry, {**o, "dropTarget": target is not None}))
        if target is not None:
            self._kill(target)
        found.namespace = new
        self._remember(found)
        return change

    def _plan_indexes(self, entry: OplogEntry, o: dict[str, Any], found: Blueprint) -> DDL | None:
        verb = next(iter(o))
        if found.kind == "buckets":
            return self._inner.plan(_with(entry, {**o, verb: found.name}))
        wanted = [{key: value for key, value in o.items() if key != verb}]
        if verb == "commitIndexBuild":
            wanted = list(o["indexes"])
        for each in wanted:
            _forget_index(found, each["name"])
        found.add_indexes(wanted)
        self._remember(found)
        now = [each for each in wanted if not is_deferred(each)]
        if not now:
            return None
        return self._inner.plan(_with(entry, {"commitIndexBuild": found.name, "indexes": now}))

    def _plan_index_drop(
        self, entry: OplogEntry, o: dict[str, Any], found: Blueprint
    ) -> DDL | None:
        verb = next(iter(o))
        dropped = o.get("index")
        if verb == "abortIndexBuild":
            # Its indexes may have been listed while they were built.
            given_up = {str(each["name"]) for each in o.get("indexes", ())}
            dropped = [each["name"] for each in found.indexes if each["name"] in given_up]
            for each in given_up:
                _forget_index(found, each)
        names = dropped if isinstance(dropped, list) else [dropped]
        for name in names:
            _forget_index(found, name)
        self._remember(found)
        if not names:
            return None
        index = names[0] if len(names) == 1 else names
        return self._inner.plan(_with(entry, {"dropIndexes": found.name, "index": index}))

    def _plan_change(self, entry: OplogEntry, o: dict[str, Any], found: Blueprint) -> DDL | None:
        options = {key: value for key, value in o.items() if key != "collMod"}
        if "expireAfterSeconds" in options:
            value = options.pop("expireAfterSeconds")
            found.expire = None if value == "off" else value
            self._remember(found)
        change = options.get("index")
        if isinstance(change, Mapping):
            known = _index(found, change)
            if known is not None:
                was_deferred = is_deferred(known)
                _forget_index(found, known["name"])
                known.update((key, value) for key, value in change.items() if key in _CHANGEABLE)
                found.add_indexes([known])
                self._remember(found)
                if was_deferred or is_deferred(known):
                    del options["index"]
                if is_deferred(known) and not was_deferred:
                    # It is built anew when its time has come.
                    return self._inner.plan(
                        _with(entry, {"dropIndexes": found.name, "index": known["name"]})
                    )
        if not options:
            return None
        return self._inner.plan(_with(entry, {"collMod": found.name, **options}))

    def _plan_view(self, entry: OplogEntry) -> DDL | None:
        body = entry.o2 if entry.op == "u" and entry.o2 is not None else entry.o
        name = str(bson.decode(body, CODEC).get("_id", ""))
        if self._occupant(name) is not None:
            # A view that the name belonged to before.
            return None
        (self._views.discard if entry.op == "d" else self._views.add)(name)
        return self._inner.plan(entry)

    async def execute(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> Checkpoint:
        """
        See L{SchemaWriter.execute}.
        """
        await self._save_changes(entry)
        if change is not _REMEMBER:
            return await self._inner.execute(change, entry, current)
        following = current.advanced(entry.ts, entry.term, count=1)
        await self._store.advance(current, following, self._patience)
        return following

    async def prepare(self, change: DDL, entry: OplogEntry, current: Checkpoint) -> None:
        """
        See L{SchemaWriter.prepare}.
        """
        await self._save_changes(entry)
        if change is not _REMEMBER:
            await self._inner.prepare(change, entry, current)

    async def _save_changes(self, entry: OplogEntry) -> None:
        """
        Store what the blueprints become with an entry.

        It counts once the checkpoint has come to the entry: until then, after
        a crash, the change is planned again from what was before.
        """
        changed, self._changed = self._changed, {}
        for blueprint in changed.values():
            await self._ledger.save_change(blueprint, entry.ts)
            if blueprint.kind == "views" and not blueprint.alive:
                await self._drop_views(blueprint)

    async def _drop_views(self, blueprint: Blueprint) -> None:
        """The collection of a database's views was dropped, and they with it."""
        name = self._selection.renamed_database(blueprint.database)
        views = await self._patience.ask(
            "destination",
            lambda: self._pool[name].list_collections(filter={"type": "view"}).to_list(),
        )
        for found in views:
            await run_command(
                self._pool, self._patience, name, {"drop": found["name"]}, _NAMESPACE_NOT_FOUND
            )
        gone = f"{blueprint.database}."
        self._views = {view for view in self._views if not view.startswith(gone)}

    # The end.

    async def finish(self) -> None:
        """
        Build the indexes that had to wait, and let documents expire.

        May be repeated: what is there already is left as it is.
        """
        for found in self._by_uuid.values():
            namespace = self._selection.destination(found.namespace)
            if not found.alive or not found.has_data or namespace is None:
                continue
            database, _, name = namespace.partition(".")
            name = name.removeprefix(BUCKETS)
            # Also those that did not wait: one of them may have been in the
            # way of another that had its name before.
            wanted = requested([*found.indexes, *found.deferred])
            if found.deferred:
                self._log.info(
                    "building {count} deferred indexes of {namespace}",
                    count=len(found.deferred),
                    namespace=namespace,
                )
            for command in (
                {"createIndexes": name, "indexes": wanted},
                {"collMod": name, "expireAfterSeconds": found.expire},
            ):
                if next(reversed(command.values())) not in ([], None):
                    await run_command(self._pool, self._patience, database, command)


class WindowWriter:
    """
    Writes what is replayed over a clone.

    An update may be of the time before its document was read, and not fit
    into what has come of that since: a path that leads through what is no
    document any more.  Then the copy has all that the update did, and it is
    left out.

    @param inner: writes everything.
    """

    def __init__(self, inner: BatchWriter) -> None:
        self._inner = inner

    async def write(self, batch: Batch, current: Checkpoint) -> Checkpoint:
        """
        See L{BatchWriter.write}.
        """
        try:
            return await self._inner.write(batch, current)
        except ApplyError as error:
            if not _does_not_fit(error):
                raise
        # In parts, at the place where the checkpoint is: all of it may be repeated.
        current = await self._write_parts(list(batch.operations()), current)
        rest = Batch()
        rest.reach(batch.position, batch.term)
        return await self._inner.write(rest, current)

    async def _write_parts(self, operations: list[Operation], current: Checkpoint) -> Checkpoint:
        part = Batch()
        part.add_all(operations)
        part.reach(current.position, current.term)
        try:
            return await self._inner.write(part, current)
        except ApplyError as error:
            if not _does_not_fit(error):
                raise
        half = len(operations) // 2
        if half:
            current = await self._write_parts(operations[:half], current)
            current = await self._write_parts(operations[half:], current)
        return current


def _does_not_fit(error: ApplyError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OperationFailure) and cause.code == _PATH_NOT_VIABLE


def _uuid(entry: OplogEntry) -> bytes | None:
    found = find_element(entry.raw, b"ui")
    # A binary value begins with its length and its subtype.
    return None if found is None or found[0] != 0x05 else entry.raw[found[3] + 5 : found[4]]


def _with(entry: OplogEntry, o: Mapping[str, Any]) -> OplogEntry:
    """The same entry with another command."""
    changed = copy.copy(entry)
    changed.o = bson.encode(o, codec_options=CODEC)
    return changed


def _index(found: Blueprint, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The index that a collMod names by its name or its key."""
    for each in (*found.indexes, *found.deferred):
        if each["name"] == wanted.get("name") or (
            "keyPattern" in wanted and dict(each["key"]) == dict(wanted["keyPattern"])
        ):
            return each
    return None


def _forget_index(found: Blueprint, name: Any) -> None:
    found.indexes = [each for each in found.indexes if name not in (each["name"], "*")]
    found.deferred = [each for each in found.deferred if name not in (each["name"], "*")]
