"""
Whether the destination is the source's copy, found out while both move.

Every collection is read on both sides in the order of C{_id}, range by range,
and compared by its bytes.  What is not the same is looked at again once the
replication has passed the place in the oplog at which it was seen: a
difference counts when it is found twice, unchanged.  What that needs in memory
is two ranges and the suspects, however large the data is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bson.max_key import MaxKey
from bson.raw_bson import RawBSONDocument
from pymongo.read_concern import ReadConcern
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.cursor import Cursor
from txmongokit.errors import AutoReconnect, OperationFailure
from txmongokit.rawbson import rename_element, wrap
from txmongokit.replicator.comparison import (
    Difference,
    DocumentKey,
    Observation,
    OrderComparison,
    RangeComparison,
    Report,
    digest,
    document_key,
    id_element,
    index_differences,
    judge,
    option_differences,
    show_id,
)
from txmongokit.replicator.patience import Patience
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.tailer import last_written

__all__ = ["Follower", "Listed", "Verification", "in_scope"]

ResultT = TypeVar("ResultT")

_SERVERS_OWN = frozenset({"admin", "config", "local", "txmongokit"})
_INTERNAL = frozenset({"system.views", "system.profile", "system.indexes"})
_BUCKETS = "system.buckets."
# Documents of a range: the most, those of the first one, and the bytes that are aimed at.
_RANGE, _FIRST_RANGE, _RANGE_BYTES = 5_000, 500, 4_000_000
# Bytes from which on a range is not kept beside another one.
_LARGE = 8_000_000
# C{_id}s in one look-up, and the bytes that they may have.
_TOGETHER, _TOGETHER_BYTES = 1_000, 4_000_000
# Suspects that are remembered, and the bytes that their C{_id}s may have.
_MOST, _MOST_BYTES = 30_000, 16_000_000
# A cursor that was lost with its server, its collection or its place.
_LOST = frozenset({43, 136, 175, 237})
_UNDEFINED, _MAX_KEY = 0x06, 0x7F
_LOG_EVERY = 10.0
_POLL = 0.2


class Follower:
    """
    Waits until the replication has passed a position.

    @param position: asks how far it is; C{None} where nothing replicates.
    @param seconds: how long it may stand still.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        position: Callable[[], Awaitable[int | None]],
        seconds: float = 30.0,
    ) -> None:
        self._reactor = reactor
        self._position = position
        self._seconds = seconds

    async def passed(self, wanted: int) -> bool:
        """
        Wait.

        @return: whether it has; C{False} if it stood still for too long.
        """
        reached, since = await self._position(), self._reactor.seconds()
        if reached is None:
            await deferLater(self._reactor, _POLL, lambda: None)
            return True
        while reached < wanted:
            if self._reactor.seconds() - since > self._seconds:
                return False
            await deferLater(self._reactor, _POLL, lambda: None)
            now = await self._position()
            if now is not None and now > reached:
                reached, since = now, self._reactor.seconds()
        return True


@dataclass(frozen=True, slots=True)
class Listed:
    """
    A collection or view as a deployment lists it.

    @ivar source: its name in the source.
    @ivar name: in the destination.
    @ivar kind: C{collection}, C{view} or C{timeseries}.
    @ivar uuid: of a collection.
    """

    source: str
    name: str
    kind: str
    options: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...] = ()
    uuid: Any = None

    @property
    def walked(self) -> tuple[str, Any]:
        """What stays while it is the same collection under the same name."""
        return self.name, self.uuid


@dataclass(slots=True)
class _Suspect:
    """
    A document that was not the same on both sides, and what was seen of it
    last.
    """

    collection: Listed
    element: bytes
    seen: Observation | None = None


def in_scope(selection: Selection, namespace: str) -> bool:
    """
    Whether something in the source would be replicated to a namespace of the
    destination; what is renamed by a pattern is not found out.
    """
    database, _, name = namespace.partition(".")
    if database in _SERVERS_OWN or name in _INTERNAL:
        return False
    origins = {namespace}
    for text in selection.renames:
        old, _, new = text.partition("=")
        if new == namespace:
            origins.add(old)
        elif new == database:
            origins.add(f"{old}.{name}")
    return any(
        selection.selects(origin) and selection.renamed(origin) == namespace for origin in origins
    )


class Verification:
    """
    Compares two deployments.

    @param follower: tells when the replication has passed.
    @param generations: how often to look at the same thing.
    @param patience: how long to wait for servers that are away.
    @ivar report: what was found so far.
    @ivar namespace: what is being compared, for people to read.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        source: ConnectionPool,
        destination: ConnectionPool,
        selection: Selection,
        follower: Follower,
        *,
        generations: int = 5,
        patience: Patience | None = None,
    ) -> None:
        self.report = Report()
        self.namespace = ""
        self._reactor = reactor
        self._pools = (source, destination)
        self._selection = selection
        self._follower = follower
        self._generations = generations
        self._patience = patience or Patience(reactor)
        self._suspects: list[_Suspect] = []
        self._suspect_bytes = 0
        self._started = self._logged = 0.0

    async def run(self) -> Report:
        """
        Compare everything.

        @return: C{report}.
        @raise PyMongoError: a server refused, or stayed away.
        """
        self._started = self._logged = self._reactor.seconds()
        await self._compare_all()
        await self._recheck()
        self.namespace = ""
        self._tick()
        return self.report

    def _tick(self) -> None:
        now = self._reactor.seconds()
        self.report.seconds = now - self._started
        if now - self._logged >= _LOG_EVERY:
            self._logged = now
            self._log.info(
                "compared {documents} documents ({rate:.0f}/s), at {namespace}",
                documents=self.report.documents,
                rate=self.report.rate,
                namespace=self.namespace,
            )

    async def _passed(self) -> None:
        """The replication has passed where the source is now, or this is noted."""
        written = await self._keep_trying(lambda: last_written(self._pools[0]), "source")
        if not await self._follower.passed(written):
            self.report.behind = True

    # Collections, views and indexes.

    async def _compare_all(self) -> None:
        walked: set[tuple[str, Any]] = set()
        previous: set[Difference] | None = None
        found: set[Difference] = set()
        for _ in range(self._generations):
            here = await self._keep_trying(lambda: self._listed(0), "source")
            there = await self._listed_there(here)
            fresh = [
                each
                for name, each in sorted(here.items())
                if each.kind == "collection"
                and each.walked not in walked
                and name in there
                and there[name].kind == "collection"
            ]
            for each in fresh:
                await self._compare_collection(each)
                walked.add(each.walked)
            found = set(_schema_differences(here, there))
            if not fresh and (not found or found == previous):
                break
            previous = found
            if found:
                await self._passed()
        self.report.collections = len(walked)
        for difference in sorted(found, key=str):
            self.report.add(difference)

    async def _listed_there(self, here: Container[str]) -> dict[str, Listed]:
        return await self._keep_trying(lambda: self._listed(1, here), "destination")

    async def _listed(self, side: int, expected: Container[str] = ()) -> dict[str, Listed]:
        """What a side has of what is replicated, by its name in the destination."""
        pool = self._pools[side]
        found: dict[str, Listed] = {}
        for database in sorted(set(await pool.list_database_names()) - _SERVERS_OWN):
            for item in await pool[database].list_collections().to_list():
                namespace = f"{database}.{item['name']}"
                if item["name"] in _INTERNAL:
                    continue
                if side:
                    ours = namespace in expected or in_scope(self._selection, namespace)
                    name = namespace if ours else None
                else:
                    name = self._selection.destination(namespace)
                if name is not None:
                    found[name] = await self._described(side, namespace, name, item)
        return found

    async def _described(
        self, side: int, namespace: str, name: str, item: Mapping[str, Any]
    ) -> Listed:
        database, _, own = namespace.partition(".")
        kind, options = item.get("type", "collection"), dict(item.get("options", {}))
        indexes: list[dict[str, Any]] = []
        if kind == "collection":
            indexes = await self._pools[side][database][own].list_indexes().to_list()
        if kind == "view" and not side:
            renamed = self._selection.renamed(f"{database}.{options['viewOn']}")
            options["viewOn"] = renamed.partition(".")[2]
        uuid = item.get("info", {}).get("uuid")
        return Listed(namespace, name, kind, options, tuple(indexes), uuid)

    # Documents.

    async def _compare_collection(self, each: Listed) -> None:
        self.namespace = each.name
        if each.options.get("capped"):
            await self._compare_capped(each)
            return
        low: bytes | None = None
        count = _FIRST_RANGE
        ahead = Deferred.fromCoroutine(self._range(each, None, count))
        while True:
            documents, high = await ahead
            size = sum(map(len, documents))
            following = None
            count = max(2, min(_RANGE, _RANGE_BYTES * len(documents) // max(1, size)))
            if high is not None and size < _LARGE:
                # The next range is fetched while this one is compared.
                following = Deferred.fromCoroutine(self._range(each, high, count))
            try:
                compared = await self._compare_range(each, documents, low, high)
            except BaseException:
                if following is not None:
                    following.addErrback(lambda failure: None)
                    following.cancel()
                raise
            self._suspect(each, compared.finish(), compared.unnamed)
            self.report.documents += len(documents)
            self.report.size += size
            self._tick()
            if high is None:
                return
            low = high
            del documents, compared
            ahead = following or Deferred.fromCoroutine(self._range(each, high, count))

    async def _range(
        self, each: Listed, low: bytes | None, count: int
    ) -> tuple[list[bytes], bytes | None]:
        """
        The source's next range, and where the one after it begins.
        """

        async def attempt() -> tuple[list[bytes], bytes | None]:
            cursor = self._cursor(0, each, low, None, limit=count, batch_size=count)
            try:
                documents = await cursor.next_batch()
                more = len(documents) == count or cursor.alive
            finally:
                await cursor.close()
            if more and len(documents) > 1:
                return documents[:-1], id_element(documents[-1])
            if more and documents:
                # A very large one, alone in its batch.
                following = await self._following(each, id_element(documents[0]))
                if following is not None:
                    return documents, following
            documents += await self._greatest(0, each, low, documents)
            return documents, None

        return await self._keep_trying(attempt, "source")

    async def _following(self, each: Listed, element: bytes) -> bytes | None:
        """The C{_id} behind another one in the source."""
        cursor = self._cursor(0, each, element, None, limit=2, projection={"_id": 1})
        found = await cursor.next_batch()
        if len(found) > 1:
            return id_element(found[1])
        greatest = await self._greatest(0, each, element, found)
        return id_element(greatest[0]) if greatest else None

    async def _compare_range(
        self, each: Listed, documents: Sequence[bytes], low: bytes | None, high: bytes | None
    ) -> RangeComparison:
        async def attempt() -> RangeComparison:
            comparison = RangeComparison(documents, most=_MOST)
            cursor = self._cursor(1, each, low, high, batch_size=len(documents) + 1)
            last: list[bytes] = []
            try:
                while batch := await cursor.next_batch():
                    comparison.take(batch)
                    last = batch
            finally:
                await cursor.close()
            if high is None:
                comparison.take(await self._greatest(1, each, low, last))
            return comparison

        return await self._keep_trying(attempt, "destination")

    def _collection(self, side: int, each: Listed) -> Collection[dict[str, Any]]:
        database, _, name = (each.name if side else each.source).partition(".")
        pool = self._pools[side]
        return pool.get_database(database, read_concern=ReadConcern("majority"))[name]

    def _cursor(
        self, side: int, each: Listed, low: bytes | None, high: bytes | None, **options: Any
    ) -> Cursor[bytes]:
        """The documents from C{low} on, and before C{high}, by C{_id}."""
        collection = self._collection(side, each)
        if _BUCKETS in each.name:
            # There is no index to hint; every _id is an ObjectId, and they come in order.
            bounds = [(b"$gte", low), (b"$lt", high)]
            given = [rename_element(bound, name) for name, bound in bounds if bound is not None]
            wanted = RawBSONDocument(wrap(b"\x03_id\0" + wrap(*given))) if given else {}
            return collection.find_raw_batches(wanted, **options)
        if low is not None:
            options["min"] = RawBSONDocument(wrap(low))
        if high is not None:
            options["max"] = RawBSONDocument(wrap(high))
        return collection.find_raw_batches({}, hint={"_id": 1}, sort={"_id": 1}, **options)

    async def _greatest(
        self, side: int, each: Listed, low: bytes | None, last: Sequence[bytes]
    ) -> list[bytes]:
        """The document with C{MaxKey} as its C{_id}, which C{min} without C{max} leaves out."""
        if low is None or _BUCKETS in each.name:
            return []
        if last and id_element(last[-1])[0] == _MAX_KEY:
            return []
        found = self._collection(side, each).find_raw_batches({"_id": MaxKey()}, limit=1)
        return await found.next_batch()

    async def _keep_trying(self, attempt: Callable[[], Awaitable[ResultT]], where: str) -> ResultT:
        async def again_if_lost(again: bool) -> ResultT:
            try:
                return await attempt()
            except OperationFailure as error:
                if error.code in _LOST:
                    raise AutoReconnect(f"the cursor was lost: {error.code}") from error
                raise

        return await self._patience.keep_trying(again_if_lost, where)

    async def _compare_capped(self, each: Listed) -> None:
        async def attempt() -> OrderComparison:
            comparison = OrderComparison(_MOST)
            cursors = [
                self._collection(side, each).find_raw_batches({}, hint={"$natural": 1})
                for side in (0, 1)
            ]
            open_sides = [0, 1]
            try:
                while open_sides and not comparison.full:
                    for side in list(open_sides):
                        batch = await cursors[side].next_batch()
                        comparison.take(side, batch)
                        if not batch:
                            open_sides.remove(side)
            finally:
                for cursor in cursors:
                    await cursor.close()
            return comparison

        for last in (False, True):
            comparison = await self._keep_trying(attempt, "source or destination")
            if not comparison.out_of_order or last:
                break
            await self._passed()
        self.report.documents += comparison.documents[0]
        self.report.size += comparison.size
        if comparison.full:
            what = "the two capped collections are too different to go on comparing them"
            self.report.add(Difference("order", each.name, what))
        elif comparison.out_of_order:
            what = f"{comparison.out_of_order} documents stand in another order than in the source"
            self.report.add(Difference("order", each.name, what))
        self._suspect(each, comparison.finish(), 0)
        self._tick()

    # Looking again.

    def _suspect(self, each: Listed, elements: Sequence[bytes], unnamed: int) -> None:
        for element in elements:
            if len(self._suspects) >= _MOST or self._suspect_bytes >= _MOST_BYTES:
                unnamed += 1
                continue
            self._suspects.append(_Suspect(each, element))
            self._suspect_bytes += len(element)
        if unnamed:
            self.report.count("unexamined", unnamed)

    async def _recheck(self) -> None:
        suspects, self._suspects = self._suspects, []
        self.report.rechecked = len(suspects)
        for _ in range(self._generations):
            if not suspects:
                return
            groups = list(_groups(suspects))
            before = [await self._look_up(0, group) for group in groups]
            await self._passed()
            moving: list[_Suspect] = []
            for group, earlier in zip(groups, before, strict=True):
                copies = await self._look_up(1, group)
                later = await self._look_up(0, group)
                for suspect in group:
                    key = document_key(suspect.element)
                    seen = Observation(earlier.get(key), copies.get(key), later.get(key))
                    verdict = judge(suspect.seen, seen)
                    suspect.seen = seen
                    if verdict == "moving":
                        moving.append(suspect)
                    elif verdict != "equal":
                        self._found(verdict, suspect)
                self._tick()
            suspects = moving
        for suspect in suspects:
            self._found("unsettled", suspect)

    def _found(self, verdict: str, suspect: _Suspect) -> None:
        namespace = suspect.collection.name
        self.report.add(Difference(verdict, namespace, show_id(suspect.element)))

    async def _look_up(
        self, side: int, group: Sequence[_Suspect]
    ) -> dict[DocumentKey, bytes | None]:
        """The digests of the group's documents that a side has."""
        collection = self._collection(side, group[0].collection)
        wanted = _filter([suspect.element for suspect in group])

        async def attempt() -> dict[DocumentKey, bytes | None]:
            found: dict[DocumentKey, bytes | None] = {}
            cursor = collection.find_raw_batches(wanted)
            while batch := await cursor.next_batch():
                for document in batch:
                    found[document_key(id_element(document))] = digest(document)
            return found

        return await self._keep_trying(attempt, ("source", "destination")[side])


def _schema_differences(
    here: Mapping[str, Listed], there: Mapping[str, Listed]
) -> Iterator[Difference]:
    for name in sorted({*here, *there}):
        if name not in there:
            kind = here[name].kind
            yield Difference("collection", name, f"the {kind} is missing in the destination")
        elif name not in here:
            kind = there[name].kind
            what = f"the destination has a {kind} of this name, the source has not"
            yield Difference("collection", name, what)
        elif here[name].kind != there[name].kind:
            what = (
                f"it is a {here[name].kind} in the source, a {there[name].kind} in the destination"
            )
            yield Difference("collection", name, what)
        else:
            for option in option_differences(here[name].options, there[name].options):
                yield Difference("option", name, f"the option {option!r} is another one")
            for what in index_differences(here[name].indexes, there[name].indexes):
                yield Difference("index", name, what)


def _groups(suspects: Sequence[_Suspect]) -> Iterator[list[_Suspect]]:
    """Suspects that can be looked up together."""
    group: list[_Suspect] = []
    size = 0
    for suspect in suspects:
        alone = suspect.element[0] == _UNDEFINED
        if group and (
            suspect.collection is not group[0].collection
            or len(group) >= _TOGETHER
            or size >= _TOGETHER_BYTES
            or alone
            or group[-1].element[0] == _UNDEFINED
        ):
            yield group
            group, size = [], 0
        group.append(suspect)
        size += len(suspect.element)
    if group:
        yield group


def _filter(elements: Sequence[bytes]) -> Mapping[str, Any]:
    if elements[0][0] == _UNDEFINED:
        return {"_id": {"$type": _UNDEFINED}}
    values = [
        rename_element(element, str(place).encode()) for place, element in enumerate(elements)
    ]
    return RawBSONDocument(wrap(b"\x03_id\0" + wrap(b"\x04$in\0" + wrap(*values))))
