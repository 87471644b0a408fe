"""
Copying the documents of one piece of a collection, as raw bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from bson.binary import Binary
from bson.max_key import MaxKey
from bson.raw_bson import RawBSONDocument
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool
from txmongokit.cursor import Cursor
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.rawbson import find_element, wrap
from txmongokit.replicator.blueprints import Blueprint
from txmongokit.replicator.entries import OplogEntry, from_timestamp, timestamp
from txmongokit.replicator.ledger import Ledger, Piece
from txmongokit.replicator.pacing import Pace
from txmongokit.replicator.patience import Patience, is_passing
from txmongokit.replicator.segments import ends_at_greatest
from txmongokit.replicator.selection import Selection
from txmongokit.replicator.statements import Dialect, Operation, would_be_stamped
from txmongokit.replicator.writers import ApplyError, pieces, refusal
from txmongokit.sessions import ClientSession

__all__ = ["Copier"]

# What a batch may have: it is held a few times over, by each task.
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_DOCUMENTS = 50_000
# Seconds between two notes of how far a piece is.
_SAVE_EVERY = 2.0
_DUPLICATE_KEY = 11000
# The cursor is gone: it was killed, timed out, or its collection was renamed
# or dropped, or (capped) has overwritten the cursor's place.
_CURSOR_LOST = frozenset({43, 136, 175, 237, 11601})
_LOST_AT_MOST = 20


class Copier:
    """
    Copies pieces; several at once, if it is asked for several at once.

    @param position: of the source's oplog, which everything read must
        contain.
    @param pace: how fast it may go.
    @param copied: called with the numbers of documents and bytes of each
        batch that the destination has.
    @ivar latest: a position of the oplog that is not before anything read.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        source: ConnectionPool,
        destination: ConnectionPool,
        selection: Selection,
        ledger: Ledger,
        patience: Patience,
        position: int,
        *,
        copied: Callable[[int, int], None],
        pace: Pace,
    ) -> None:
        self.latest = position
        self.reactor = reactor
        self._source = source
        self.destination = destination
        self._selection = selection
        self.ledger = ledger
        self._patience = patience
        self._position = position
        self._copied = copied
        self._pace = pace

    async def copy(self, blueprint: Blueprint, piece: Piece) -> bool:
        """
        Copy what is still to be copied of a piece.

        @return: C{False} where the collection is no longer in the source.
        @raise ApplyError: the destination does not take it.
        @raise txmongokit.replicator.checkpoint.FencedError: another
            replicator has taken over.
        """
        session = self._source.start_session(causal_consistency=True)
        session.advance_operation_time(timestamp(self._position))
        work = _Work(self, blueprint, piece, session)
        lost = 0
        try:
            while True:
                before = piece.documents
                try:
                    ended = await self._patience.keep_trying(work.read, "source")
                except OperationFailure as error:
                    # The progress made says whether it is worth going on.
                    lost = 0 if piece.documents > before else lost + 1
                    if error.code not in _CURSOR_LOST or lost > _LOST_AT_MOST:
                        raise
                    continue
                if ended is not None:
                    break
        finally:
            if session.operation_time is not None:
                self.latest = max(self.latest, from_timestamp(session.operation_time))
            await session.end_session()
        piece.done = True
        await self.ledger.save_piece(piece)
        return ended

    async def name_of(self, blueprint: Blueprint) -> str | None:
        """
        The name that a collection has now in the source; C{None} where it
        was dropped.
        """
        found = await self._patience.keep_trying(
            lambda again: (
                self._source[blueprint.database]
                .list_collections(filter={"info.uuid": Binary(blueprint.uuid, 4)})
                .to_list()
            ),
            "source",
        )
        return str(found[0]["name"]) if found else None

    def source_collection(self, database: str, name: str) -> Collection[dict[str, Any]]:
        """
        A collection of the source, of which only what a majority has is read.
        """
        return self._source.get_database(database, read_concern=ReadConcern("majority"))[name]

    def target(self, blueprint: Blueprint) -> Collection[dict[str, Any]]:
        """
        Where a collection is copied to.
        """
        database, _, name = self._selection.renamed(blueprint.namespace).partition(".")
        return self.destination.get_database(database, write_concern=WriteConcern("majority"))[name]

    async def write(
        self, blueprint: Blueprint, piece: Piece, documents: list[bytes], *, replace: bool
    ) -> None:
        """
        Put documents into the destination.

        @param replace: whether some may be there already.
        """
        size = sum(map(len, documents))
        await self._pace.take(len(documents), size)
        await self.ledger.check()
        target = self.target(blueprint)
        capped = blueprint.is_capped

        async def attempt(part: list[bytes], again: bool) -> None:
            if again and capped:
                raise ApplyError(
                    f"a write to the capped collection {target.full_name} had no answer, so its "
                    "order is not known: start again, and it is copied anew"
                )
            if would_be_stamped(part[0]):
                await self._replace(target, part)
                return
            try:
                await target.raw_write(
                    "insert", part, ordered=capped, bypass_document_validation=True
                )
            except OperationFailure as error:
                if error.code == _DUPLICATE_KEY and (again or replace):
                    await self._replace(target, part)
                else:
                    raise

        for part in _pieces(documents):
            await self._at_destination(target, part, attempt)
        piece.documents += len(documents)
        piece.size += size
        self._copied(len(documents), size)

    async def _at_destination(
        self, target: Collection[dict[str, Any]], part: list[bytes], attempt: Any
    ) -> None:
        try:
            await self._patience.keep_trying(lambda again: attempt(part, again), "destination")
        except OperationFailure as error:
            if error.code == _DUPLICATE_KEY:
                raise ApplyError(
                    f"somebody else writes to {target.full_name} in the destination: keep "
                    "everybody away from it until the clone is complete"
                ) from error
            raise ApplyError(f"{target.full_name}: {refusal(error)}") from error
        except PyMongoError as error:
            raise ApplyError(f"the destination stays away: {str(error)[:200]}") from error

    async def _replace(self, target: Collection[dict[str, Any]], part: Sequence[bytes]) -> None:
        """Documents of which some are there already, perhaps as they were before."""
        statements = [_replacement(document, target.full_name) for document in part]
        for each in pieces(statements):
            await target.raw_write("update", each, ordered=False, bypass_document_validation=True)


class _Work:
    """
    The reading of one piece.
    """

    def __init__(
        self, copier: Copier, blueprint: Blueprint, piece: Piece, session: ClientSession
    ) -> None:
        self._copier = copier
        self._blueprint = blueprint
        self._piece = piece
        self._session = session
        self._saved_at = copier.reactor.seconds()

    async def read(self, again: bool) -> bool | None:
        """
        Read and write until the end of the piece or an error.

        @return: whether the collection is in the source; C{None} where that
            has to be looked up again.
        """
        piece, blueprint = self._piece, self._blueprint
        name = await self._copier.name_of(blueprint)
        if name is None:
            return False
        # The document to go on after is read again.
        piece.resumed = piece.resumed or again or piece.after is not None
        if not blueprint.by_id and piece.documents:
            # Nothing says where to go on: a capped collection is even made anew.
            piece.restart()
        if blueprint.is_capped:
            await self._make_capped_anew()
        if piece.after is not None and ends_at_greatest(piece.after):
            return True
        source = self._copier.source_collection(blueprint.database, name)
        before = piece.documents
        bounds = self._bounds() if blueprint.by_id else {}
        try:
            if not await self._through(self._cursor(source, bounds), name):
                return None
            if bounds and piece.segment.upper is None:
                # With a lower bound the upper one is MaxKey, without it.
                await self._through(self._greatest(source), name)
        except PyMongoError as error:
            piece.resumed = True
            if is_passing(error) and piece.documents > before:
                return None
            raise
        return True

    def _bounds(self) -> dict[str, Any]:
        piece = self._piece
        bounds: dict[str, Any] = {}
        lower = piece.after or piece.segment.lower
        if lower is not None:
            bounds["min"] = RawBSONDocument(lower)
        if piece.segment.upper is not None:
            bounds["max"] = RawBSONDocument(piece.segment.upper)
        return bounds

    def _cursor(self, source: Collection[dict[str, Any]], bounds: dict[str, Any]) -> Cursor[bytes]:
        blueprint = self._blueprint
        options: dict[str, Any] = {}
        if blueprint.by_id:
            options = {"hint": {"_id": 1}, **bounds}
        elif blueprint.is_capped:
            options = {"sort": [("$natural", 1)]}
        average = max(1, blueprint.size // max(1, blueprint.documents))
        return source.find_raw_batches(
            {},
            session=self._session,
            batch_size=max(1, min(_BATCH_BYTES // average, _BATCH_DOCUMENTS)),
            **options,
        )

    def _greatest(self, source: Collection[dict[str, Any]]) -> Cursor[bytes]:
        return source.find_raw_batches({"_id": {"$eq": MaxKey()}}, session=self._session)

    async def _through(self, cursor: Cursor[bytes], name: str) -> bool:
        """Copy what a cursor gives; C{False} where it may be of another collection."""
        resumed = self._piece.resumed
        ahead: Deferred[list[bytes]] | None = None
        try:
            documents = await cursor.next_batch()
            # The name may have gone to another collection before the cursor was open.
            if await self._copier.name_of(self._blueprint) != name:
                return False
            while documents:
                if cursor.alive and sum(map(len, documents)) <= _BATCH_BYTES:
                    ahead = cursor.next_batch()
                await self._copied(documents, resumed)
                if ahead is None and not cursor.alive:
                    break
                waiting, ahead = ahead or cursor.next_batch(), None
                documents = await waiting
        finally:
            if ahead is not None:
                ahead.addErrback(lambda failure: None)
            cursor.close().addErrback(lambda failure: None)
        return True

    async def _copied(self, documents: list[bytes], resumed: bool) -> None:
        piece = self._piece
        await self._copier.write(self._blueprint, piece, documents, replace=resumed)
        if self._blueprint.by_id:
            piece.after = _id_document(documents[-1])
        now = self._copier.reactor.seconds()
        if now - self._saved_at >= _SAVE_EVERY:
            self._saved_at = now
            await self._copier.ledger.save_piece(piece)

    async def _make_capped_anew(self) -> None:
        """What a capped collection holds cannot be put in order later."""
        target = self._copier.target(self._blueprint)
        database = self._copier.destination.get_database(
            target.database.name, write_concern=WriteConcern("majority")
        )
        self._piece.restart()
        await database.drop_collection(target.name)
        await database.command({"create": target.name, **self._blueprint.options})


def _pieces(documents: list[bytes]) -> Iterator[list[bytes]]:
    """Documents in their order, apart those that cannot be inserted as they are."""
    if not any(map(would_be_stamped, documents)):
        yield from pieces(documents)
        return
    for _, alike in groupby(documents, would_be_stamped):
        yield from pieces(list(alike))


def _id_document(document: bytes) -> bytes:
    found = find_element(document, b"_id")
    if found is None:
        raise ApplyError("a document of the source has no _id")
    return wrap(document[found[2] : found[4]])


def _replacement(document: bytes, namespace: str) -> bytes:
    """The statement that puts a document in place of what has its C{_id}."""
    entry = OplogEntry()
    entry.op, entry.ns, entry.ts, entry.o, entry.o2 = "i", namespace, 0, document, None
    return Operation.from_entry(entry, namespace, Dialect()).statement
