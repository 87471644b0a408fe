"""
Web sessions in MongoDB: the store that everything else here is built on.

The interface, in short (all but the first three return Deferreds)::

    store = MongoSessionStore(database_or_collection, timeout=3600, name="sessions",
                              codec=None, cipher=None, token_bytes=32, max_bytes=1 << 20,
                              touch_after=0.1, lease=30.0, wait=30.0, clock=None)
    store.is_well_formed(text)                    bool: could be an id
    store.new_record(data=None, *, user=None, confidential=False, lifetime=None)
                                                  SessionRecord, not stored yet (version 0)
    store.prepare()                               indexes made, kept, made right
    store.create(data=None, *, user=..., confidential=..., lifetime=...)   SessionRecord
    store.load(id, *, confidential=None)          SessionRecord or None
    store.save(record)                            bool: something had changed
    store.update(id or record, function, *, attempts=20)
                                                  SessionRecord or None
    store.touch(record)                           bool: it lives
    store.exists(id)                              bool
    store.delete(id)                              bool
    store.regenerate(record)                      the record, with a new id
    store.bind_user(record, user)                 the record, with a new id and its user
    store.lock(id, *, wait=None)                  SessionLock: async with, or .release()
    store.for_user(user, *, limit=1000)           list of SessionSummary, last used first
    store.revoke_user(user, *, but=None)          int
    store.delete_key(summary.key)                 bool
    store.revoke_exposed(ids)                     int: confidential ones among these
    store.expire()                                int: what had ended is removed
    store.rotate()                                int: encrypted anew by the newest key

A SessionRecord has C{id}, C{data} (a dict, to be changed in place or
replaced), C{user}, C{confidential}, C{created}, C{used}, C{expires},
C{lifetime} (a timedelta, to be changed for this session) and C{version}.

Errors are L{SessionConflict} (C{record}, C{base}, C{current}),
L{SessionGone}, L{SessionTooLarge}, L{InvalidSessionData},
L{SessionUnreadable}, L{SessionLockTimeout}, all of them L{SessionError}; and
those of L{txmongokit.errors}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import OperationFailure, PyMongoError
from txmongokit.web.codecs import BSONCodec, ISessionCipher, ISessionCodec
from txmongokit.web.errors import (
    InvalidSessionData,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionLockTimeout,
    SessionTooLarge,
    SessionUnreadable,
)
from txmongokit.web.locks import Leases, Lines, SessionLock, backoff
from txmongokit.web.packing import pack, unpack
from txmongokit.web.records import (
    SessionRecord,
    SessionSummary,
    Snapshot,
    check_user,
    digest_of,
    is_well_formed,
    new_id,
)

__all__ = [
    "InvalidSessionData",
    "MongoSessionStore",
    "SessionConflict",
    "SessionError",
    "SessionGone",
    "SessionLock",
    "SessionLockTimeout",
    "SessionRecord",
    "SessionSummary",
    "SessionTooLarge",
    "SessionUnreadable",
]

_log = Logger()
_LEAST_TOKEN = 16
_LARGEST_DATA = 15 << 20
_LONGEST = timedelta(days=3660)
_SUMMARY = {"data": False}
_MILLISECOND = timedelta(milliseconds=1)
# How the store's own fields are read, and data that is not encrypted, whose
# bytes these options do not change.
_OWN_OPTIONS: CodecOptions[Any] = CodecOptions(
    tz_aware=True, tzinfo=UTC, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_USER_INDEX: dict[str, Any] = {
    "name": "user_1_used_-1",
    "partialFilterExpression": {"user": {"$exists": True}},
}
_USER_INDEX_KEYS = [("user", 1), ("used", -1)]
_INDEX_NOT_FOUND = 27
_INDEX_CONFLICTS = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _as_span(name: str, value: timedelta | float) -> timedelta:
    """
    A time that sessions last, in whole milliseconds as BSON has them.
    """
    if isinstance(value, bool) or not isinstance(value, (timedelta, int, float)):
        raise TypeError(f"{name} must be a timedelta or seconds, not {type(value).__name__}")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0.001 <= seconds <= _LONGEST.total_seconds():
        raise ValueError(f"{name} must be between a millisecond and ten years, not {seconds} s")
    return timedelta(milliseconds=round(seconds * 1000))


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most}, not {value}")


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    _check_range(name, value, least, most)


class MongoSessionStore:
    """
    Sessions in a collection, and their locks in C{<collection>.locks}.

    The id of a session is not stored, only its SHA-256: who reads the
    database, or its log, has nobody's session.  An id of another form is
    never sent to the database; an id that is not there makes no session.

    A save is one update of one document, which happens or does not.  Whether a
    session has ended is seen to in each query, or with what it finds, so it
    does not matter when the server removes it.  The clock for that is this host's: hosts that share
    sessions should keep the same time.  Locks go by the server's clock.

    Needs MongoDB 4.2.  Everything is read from the primary.

    Whatever goes wrong with the database fails Deferreds with one of
    L{txmongokit.errors}; arguments that are wrong are told at the call.
    Cancelling a Deferred stops the wait; what was sent by then may happen.

    @param place: a database, or the collection itself.
    @param timeout: how long a session lasts after its last use: a
        C{timedelta}, or seconds.
    @param name: of the collection, in a database.
    @param codec: an L{ISessionCodec}; anything with C{encode} and C{decode}
        will do.  By default what BSON can encode.
    @param cipher: an L{ISessionCipher}, as
        L{txmongokit.web.encryption.SessionCipher}.
    @param token_bytes: how many random bytes are in an id, from 16.
    @param max_bytes: of a session's data, as BSON.
    @param touch_after: which part of its lifetime must have gone by before
        a touch writes a session's new end: up to 0.9, for one that is written
        too late comes to nothing.
    @param lease: after how many seconds the lock of a holder that has died is
        free.
    @param wait: for how many seconds L{lock} and L{update} wait for others.
    @param clock: gives the time, aware; by default this host's, in UTC.

    @raise TypeError: an argument is of the wrong type.
    @raise ValueError: an argument is out of range.
    """

    def __init__(
        self,
        place: Database[Any] | Collection[Any],
        *,
        timeout: timedelta | float = timedelta(hours=1),
        name: str = "sessions",
        codec: Any = None,
        cipher: Any = None,
        token_bytes: int = 32,
        max_bytes: int = 1 << 20,
        touch_after: float = 0.1,
        lease: float = 30.0,
        wait: float = 30.0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        if isinstance(place, Database):
            place = place[name]
        if not isinstance(place, Collection):
            raise TypeError(f"a Database or a Collection is needed, not {type(place).__name__}")
        if not place.write_concern.acknowledged:
            raise ValueError(
                "sessions need writes that are acknowledged: give a collection with w=1 or more"
            )
        _check_count("token_bytes", token_bytes, _LEAST_TOKEN, 96)
        _check_count("max_bytes", max_bytes, 64, _LARGEST_DATA)
        _check_range("touch_after", touch_after, 0, 0.9)
        _check_range("lease", lease, 0.05, 3600)
        _check_range("wait", wait, 0, 3600)
        for method in ("encode", "decode"):
            if codec is not None and not callable(getattr(codec, method, None)):
                raise TypeError(f"a codec needs encode and decode; {codec!r} has no {method}")
        if cipher is not None and not ISessionCipher.providedBy(cipher):
            raise TypeError(
                f"a cipher must provide ISessionCipher; {type(cipher).__name__} does not"
            )
        self._timeout = _as_span("timeout", timeout)
        self._codec: ISessionCodec = BSONCodec() if codec is None else codec
        self._cipher: ISessionCipher | None = cipher
        self._token_bytes = token_bytes
        self._max_bytes = max_bytes
        self._touch_after = touch_after
        self._wait = wait
        self._clock = _utc_now if clock is None else clock
        self._data_options: CodecOptions[Any] = _for_data(place.codec_options)
        self._collection: Collection[Any] = place.with_options(
            codec_options=_OWN_OPTIONS,
            read_preference=ReadPreference.PRIMARY,
        )
        self._locks: Collection[Any] = self._collection["locks"]
        self._leases = Leases(self._locks, lease)
        self._lines = Lines(self._leases.sleep)

    def __repr__(self) -> str:
        return f"<MongoSessionStore {self._collection.full_name}>"

    @property
    def timeout(self) -> timedelta:
        """
        How long a session lasts after its last use.
        """
        return self._timeout

    @property
    def collection(self) -> Collection[Any]:
        """
        Where the sessions are, with codec options of the store's own.
        """
        return self._collection

    # Without the database.

    def is_well_formed(self, identifier: object) -> bool:
        """
        Whether something could be one of this store's ids.
        """
        return is_well_formed(identifier, self._token_bytes)

    def now(self) -> datetime:
        """
        The time by which sessions end: in UTC, in whole milliseconds.
        """
        now = self._clock()
        if now.tzinfo is None:
            raise TypeError("the store's clock must give aware times: datetime.now(UTC)")
        # A zone's own times would be added up by what its clocks show.
        return now.astimezone(UTC).replace(microsecond=now.microsecond // 1000 * 1000)

    def new_record(
        self,
        data: dict[str, Any] | None = None,
        *,
        user: str | None = None,
        confidential: bool = False,
        lifetime: timedelta | float | None = None,
    ) -> SessionRecord:
        """
        A session with a new id, which nobody else knows yet: L{save} stores
        it.

        @param user: whose it is.
        @param confidential: whether its id will go over encrypted connections
            only.
        @param lifetime: as the store's C{timeout}, for this session.
        @raise TypeError: one of these is of the wrong type.
        @raise ValueError: one of these is out of range.
        """
        now = self.now()
        span = self._timeout if lifetime is None else _as_span("lifetime", lifetime)
        return SessionRecord(
            id=new_id(self._token_bytes),
            data={} if data is None else data,
            user=None if user is None else check_user(user),
            confidential=bool(confidential),
            created=now,
            used=now,
            expires=now + span,
            lifetime=span,
        )

    # One session.

    def create(self, data: dict[str, Any] | None = None, **options: Any) -> Deferred[SessionRecord]:
        """
        Store a new session.

        @param options: those of L{new_record}.
        @return: fires with its record; fails as L{save} does.  After
            cancelling it there may be a session, whose id nobody knows.
        @raise TypeError: an option is of the wrong type.
        @raise ValueError: an option is out of range.
        """
        record = self.new_record(data, **options)
        return self.save(record).addCallback(lambda _: record)

    def load(
        self, identifier: object, *, confidential: bool | None = None
    ) -> Deferred[SessionRecord | None]:
        """
        A session that is stored and has not ended.

        @param identifier: as the client presents it; may be anything.
        @param confidential: if given, only sessions that are, or are not.
        @return: fires with its record, or C{None}.  Fails with
            L{SessionUnreadable} if it is not one of this store's codec and
            keys.  Cancelling stops the wait.
        """
        if not self.is_well_formed(identifier):
            return succeed(None)

        def living(document: Any) -> SessionRecord | None:
            if document is None or not document["expires"] > self.now():
                return None
            if confidential is not None and document["confidential"] != confidential:
                return None
            return self._read(document, str(identifier))

        # By nothing but its _id: such a query may share a busy connection.
        found: Deferred[Any] = self._collection.find_one({"_id": digest_of(str(identifier))})
        return found.addCallback(living)

    def save(self, record: SessionRecord) -> Deferred[bool]:
        """
        Store a session's data, user and lifetime if they have changed;
        otherwise L{touch} it, which asks the database only once
        C{touch_after} has gone by: until then nobody is told that a session
        that has not changed was deleted.

        @return: fires with whether something had changed.  Fails with
            L{SessionConflict} if somebody else has saved the session since it
            was loaded, with L{SessionGone} if it has ended or was deleted,
            with L{InvalidSessionData} or L{SessionTooLarge} if it cannot be
            stored; then nothing has been written.  Cancelling stops the wait;
            the session may be saved, and the record does not know of it.
        """
        return Deferred.fromCoroutine(self._save(record))

    async def _save(self, record: SessionRecord) -> bool:
        wanted = self._snapshot(record)
        record.lifetime = wanted.lifetime  # It may have been given in seconds.
        if wanted == record.snapshot:
            if not await self.touch(record):
                raise _gone()
            return False
        now = self.now()
        fields = self._fields(record, wanted, now)
        absent = [name for name in ("user", "key") if name not in fields]
        if record.version == 0:
            await self._collection.insert_one(
                {"_id": digest_of(record.id), "created": record.created, **fields}
            )
        else:
            change: dict[str, Any] = {"$set": fields}
            if absent:
                change["$unset"] = dict.fromkeys(absent, "")
            result = await self._collection.update_one(
                {**self._living(record.id), "version": record.version}, change
            )
            if result.matched_count == 0:
                await self._refuse(record)
        record.version = fields["version"]
        record.used, record.expires, record.snapshot = now, fields["expires"], wanted
        return True

    def is_changed(self, record: SessionRecord) -> bool:
        """
        Whether L{save} would write more than a session's end.

        @raise InvalidSessionData: the data cannot be encoded.
        @raise SessionTooLarge: there is too much of it.
        """
        return self._snapshot(record) != record.snapshot

    def update(
        self,
        session: object,
        function: Callable[[SessionRecord], Awaitable[object] | object],
        *,
        attempts: int = 20,
    ) -> Deferred[SessionRecord | None]:
        """
        Load a session, change it, save it; and again from the start while
        somebody else comes in between.  Updates of one session by one process
        wait for each other.

        @param session: an id; or a record that was just loaded, and has not
            been changed, to save a load where nobody else was faster.
        @param function: called with the record; changes it, and may return
            something to be awaited.  It can be called up to C{attempts} times.
        @return: fires with the record as it was saved, or C{None} if there is
            no such session.  Fails as L{load} and L{save} do, with
            L{SessionConflict} after the last attempt, with
            L{SessionLockTimeout} if others of this process take too long, and
            with what C{function} raises.  Cancelling it stops where it is, be
            that what C{function} waits for; the last save may happen.
        @raise InvalidSessionData: the record's data cannot be encoded.
        @raise SessionTooLarge: there is too much of it.
        @raise TypeError: C{attempts} is no C{int}.
        @raise ValueError: C{attempts} is out of range.
        """
        _check_count("attempts", attempts, 1, 10_000)
        identifier: object = session
        given = None
        if isinstance(session, SessionRecord):
            identifier = session.id
            if not self.is_changed(session):
                given = session
        if not self.is_well_formed(identifier):
            return succeed(None)
        key = digest_of(str(identifier))
        if self._lines.is_busy(key):
            given = None  # It will be old when its turn comes.

        async def several() -> SessionRecord | None:
            record = given or await self.load(identifier)
            for attempt in range(attempts):
                if record is None:
                    return None
                done = function(record)
                if isinstance(done, Awaitable):
                    await done
                try:
                    await self.save(record)
                    break
                except SessionConflict as conflict:
                    if attempt == attempts - 1:
                        raise
                    record = conflict.current
                if attempt:
                    await self._leases.sleep(backoff(attempt))
                    record = await self.load(identifier)
            return record

        return Deferred.fromCoroutine(self._lines.run(key, self._wait, several))

    def touch(self, record: SessionRecord) -> Deferred[bool]:
        """
        Let a session last for another lifetime from now on, the one that is
        stored, without writing its data.  Nobody's version changes.  If that
        was done lately (see C{touch_after}) the database is not asked: then a
        session that somebody has just deleted counts as living.

        @return: fires with whether the session lives.  Cancelling stops the
            wait.
        """
        now = self.now()
        if record.version == 0 or now - record.used < record.lifetime * self._touch_after:
            return succeed(record.version > 0 and now < record.expires)
        # Somebody may have changed the lifetime since the record was loaded.
        lifetime = {"$ifNull": ["$lifetime", self._timeout / _MILLISECOND]}
        times = {
            "used": {"$max": ["$used", now]},
            "expires": {"$max": ["$expires", {"$add": [now, lifetime]}]},
        }
        touched = self._collection.find_one_and_update(
            self._living(record.id),
            [{"$set": times}],
            dict.fromkeys(times, True),
            return_document=True,
        )

        def told(found: Any) -> bool:
            if found is not None:
                record.used, record.expires = found["used"], found["expires"]
            return found is not None

        return touched.addCallback(told)

    def exists(self, identifier: object) -> Deferred[bool]:
        """
        Whether there is such a session, and it has not ended.  Cancelling
        stops the wait.
        """
        if not self.is_well_formed(identifier):
            return succeed(False)
        found = self._collection.find_one(self._living(identifier), {"_id": True})
        return found.addCallback(lambda document: document is not None)

    def delete(self, identifier: object) -> Deferred[bool]:
        """
        End a session at once.

        @return: fires with whether there was one.  Cancelling stops the wait;
            the session may end.
        """
        if not self.is_well_formed(identifier):
            return succeed(False)
        return self._delete({"_id": digest_of(str(identifier))})

    def regenerate(self, record: SessionRecord) -> Deferred[SessionRecord]:
        """
        Give a session a new id, and save what has changed.  The old id is
        worth nothing from then on.

        The session is first stored by its new id, then removed by its old one.
        If this process dies in between, the old id stays good, and nobody has
        learnt the new one.  If the database does not answer, what may be
        stored by the new id is removed, as soon as it can be told.

        @return: fires with the record, whose C{id} is new.  Fails as L{save}
            does; the record is then as it was.  After cancelling it, too; the
            old id may be worth nothing then.
        """
        return Deferred.fromCoroutine(self._regenerate(record, record.user))

    def bind_user(self, record: SessionRecord, user: str | None) -> Deferred[SessionRecord]:
        """
        Log a user in, or out with C{None}: with a new id, as L{regenerate}
        gives one, so that whoever knew the id before has no part in it.

        @return: as that of L{regenerate}.
        @raise TypeError: the user is no C{str}.
        @raise ValueError: it is empty or too long.
        """
        if user is not None:
            check_user(user)
        return Deferred.fromCoroutine(self._regenerate(record, user))

    async def _regenerate(self, record: SessionRecord, user: str | None) -> SessionRecord:
        fresh = replace(record, id=new_id(self._token_bytes), user=user, version=0, snapshot=None)
        if not await self._replace(record, fresh):
            await self._refuse(record)
        # Not its data, which may have been replaced meanwhile.
        for name in ("id", "user", "used", "expires", "version", "snapshot"):
            setattr(record, name, getattr(fresh, name))
        return record

    async def _replace(self, record: SessionRecord, fresh: SessionRecord) -> bool:
        """
        Store one record in another's place, if that is still as it was loaded.
        """
        try:
            await self._save(fresh)
            if not record.version:
                return True
            if await self._delete({**self._living(record.id), "version": record.version}):
                return True
            await self.delete(fresh.id)
        except (PyMongoError, CancelledError):
            # Nobody learns its id, so that nobody could end it: it would stay as a log-in.
            self.delete(fresh.id).addErrback(_stays)
            raise
        return False

    def lock(self, identifier: str, *, wait: float | None = None) -> Deferred[SessionLock]:
        """
        Have a session to oneself, among all who ask.  The lock belongs to the
        id, whether there is such a session or not.

        It is renewed while it is held, and frees itself when its holder dies.
        Those who wait in this process are served in order; the first of them
        asks again and again, less and less often.

        @param wait: for how many seconds; by default the store's.
        @return: fires with the lock; fails with L{SessionLockTimeout}.
            Cancelling it stops the wait.
        @raise ValueError: this can be no id, or C{wait} is out of range.
        @raise TypeError: C{wait} is no number.
        """
        if not self.is_well_formed(identifier):
            raise ValueError("this is no id of a session, so it cannot be locked")
        if wait is not None:
            _check_range("wait", wait, 0, 3600)
        taken = self._leases.take(digest_of(identifier), self._wait if wait is None else wait)
        return Deferred.fromCoroutine(taken)

    # Many sessions.

    def prepare(self) -> Deferred[None]:
        """
        Create the indexes that are missing, and make right what is wrong with
        them.  Do this at each start; it can be repeated.

        Each session has an end of its own, at which the server removes it.
        Where the timeout has become shorter, those that would last longer
        than a session that begins now are shortened, but for those with a
        longer lifetime of their own; a longer timeout counts from their next
        use on.

        @return: fires when that is done.  Cancelling stops it where it is.
        """
        return Deferred.fromCoroutine(self._prepare())

    async def _prepare(self) -> None:
        for collection, field in ((self._collection, "expires"), (self._locks, "until")):
            await _keep_ttl_index(collection, field)
        await _keep_user_index(self._collection)
        latest = self.now() + self._timeout
        await self._collection.update_many(
            {"expires": {"$gt": latest}, "lifetime": None},
            {"$min": {"expires": latest}},
        )

    def for_user(self, user: str, *, limit: int = 1000) -> Deferred[list[SessionSummary]]:
        """
        The sessions of a user that have not ended, those last used first.

        @param limit: how many at most.
        @return: fires with them.  Cancelling stops the wait.
        @raise TypeError: the user is no C{str}, or the limit no C{int}.
        @raise ValueError: one of them is out of range.
        """
        check_user(user)
        _check_count("limit", limit, 1, 100_000)
        found = self._collection.find(
            {"user": user, "expires": {"$gt": self.now()}},
            _SUMMARY,
            sort=[("used", -1)],
            limit=limit,
        )
        return found.to_list(None).addCallback(lambda documents: [*map(_summary, documents)])

    def revoke_user(self, user: str, *, but: object = None) -> Deferred[int]:
        """
        End every session of a user at once.

        @param but: the id of one that stays.
        @return: fires with how many.  Cancelling stops the wait; some or all
            of them may end.
        @raise TypeError: the user is no C{str}.
        @raise ValueError: it is empty or too long.
        """
        query: dict[str, Any] = {"user": check_user(user)}
        if self.is_well_formed(but):
            query["_id"] = {"$ne": digest_of(str(but))}
        return self._delete_many(query)

    def delete_key(self, key: str) -> Deferred[bool]:
        """
        End the session that a L{SessionSummary} is about.

        @return: fires with whether there was one.  Cancelling stops the wait;
            the session may end.
        """
        try:
            digest = bytes.fromhex(key)
        except (TypeError, ValueError):
            return succeed(False)
        return self._delete({"_id": digest}) if len(digest) == 32 else succeed(False)

    def revoke_exposed(self, ids: Iterable[object]) -> Deferred[int]:
        """
        End the confidential sessions among those whose ids have gone over
        connections that are not encrypted.

        @return: fires with how many.  Cancelling stops the wait; some or all
            of them may end.
        """
        digests = [
            digest_of(str(identifier)) for identifier in ids if self.is_well_formed(identifier)
        ]
        if not digests:
            return succeed(0)
        return self._delete_many({"_id": {"$in": digests}, "confidential": True})

    def expire(self) -> Deferred[int]:
        """
        Remove what has ended, as the server does once a minute.

        @return: fires with how many.  Cancelling stops the wait.
        """
        return self._delete_many({"expires": {"$lte": self.now()}})

    def rotate(self) -> Deferred[int]:
        """
        Encrypt anew, by the cipher's newest key, whatever is not encrypted by
        it; and sessions that are not encrypted, if the cipher accepts them.
        After that the older keys can go.  Nobody's version changes; what is
        saved meanwhile has the newest key already.

        @return: fires with how many.  Fails with L{SessionUnreadable} if there
            are sessions that no key opens, once all others are done.
            Cancelling it leaves the rest as it is.
        @raise SessionError: the store has no cipher.
        """
        if self._cipher is None:
            raise SessionError("the store has no cipher, so there are no keys to rotate")
        return Deferred.fromCoroutine(self._rotate(self._cipher))

    async def _rotate(self, cipher: ISessionCipher) -> int:
        count = unreadable = 0
        query = {"key": {"$ne": cipher.newest}, "expires": {"$gt": self.now()}}
        async for document in self._collection.find(query):
            try:
                packed = self._opened(document)
            except SessionUnreadable:
                unreadable += 1
                continue
            sealed = cipher.seal(packed, _place(document))
            result = await self._collection.update_one(
                {"_id": document["_id"], "version": document["version"]},
                {"$set": {"data": sealed, "key": cipher.newest}},
            )
            count += result.modified_count
        if unreadable:
            raise SessionUnreadable(
                f"{unreadable} sessions are opened by none of the cipher's keys, while {count} "
                "were encrypted anew: give it the missing key, or let those end"
            )
        return count

    # Documents.

    def _living(self, identifier: object) -> dict[str, Any]:
        return {"_id": digest_of(str(identifier)), "expires": {"$gt": self.now()}}

    def _delete(self, query: dict[str, Any]) -> Deferred[bool]:
        deleted = self._collection.delete_one(query)
        return deleted.addCallback(lambda result: result.deleted_count == 1)

    def _delete_many(self, query: dict[str, Any]) -> Deferred[int]:
        return self._collection.delete_many(query).addCallback(lambda result: result.deleted_count)

    def _snapshot(self, record: SessionRecord) -> Snapshot:
        """
        What of a record is to be stored.
        """
        if record.user is not None:
            check_user(record.user)
        packed = self._packed(record.data)
        if len(packed) > self._max_bytes:
            raise SessionTooLarge(len(packed), self._max_bytes)
        return Snapshot(packed, record.user, _as_span("lifetime", record.lifetime))

    def _packed(self, data: dict[str, Any]) -> bytes:
        """
        Data as BSON.
        """
        try:
            document = self._codec.encode(data)
        except SessionError:
            raise
        except Exception as error:
            # Whatever that was: not chained, for its message may have the data.
            raise InvalidSessionData(
                f"the codec cannot encode the session's data ({type(error).__name__}): store "
                "what it can, or give the store another"
            ) from None
        return pack(document, self._data_options)

    def _fields(self, record: SessionRecord, wanted: Snapshot, now: datetime) -> dict[str, Any]:
        """
        What a save sets.
        """
        own = wanted.lifetime != self._timeout
        fields: dict[str, Any] = {
            "_id": digest_of(record.id),
            "confidential": record.confidential,
            "used": now,
            "expires": now + wanted.lifetime,
            "lifetime": wanted.lifetime / _MILLISECOND if own else None,
            "version": record.version + 1,
        }
        if wanted.user is not None:
            fields["user"] = wanted.user
        if self._cipher is None:
            fields["data"] = RawBSONDocument(wanted.packed)
        else:
            fields["data"] = self._cipher.seal(wanted.packed, _place(fields))
            fields["key"] = self._cipher.newest
        del fields["_id"]
        return fields

    def _opened(self, document: dict[str, Any]) -> bytes:
        """
        The data of a stored session, as BSON.
        """
        data = document.get("data")
        if isinstance(data, dict) and (self._cipher is None or self._cipher.accepts_plain):
            return bson.encode(data, False, _OWN_OPTIONS)
        if self._cipher is None:
            raise SessionUnreadable(
                "the session is encrypted, and the store has no cipher: give it the one with "
                "that key"
            )
        if not isinstance(data, bytes):
            raise SessionUnreadable(
                "the session is not encrypted, and the store's cipher does not accept that: "
                "set its accepts_plain until rotate() has run"
            )
        packed: bytes = self._cipher.open(data, _place(document))
        return packed

    def _read(self, document: dict[str, Any], identifier: str) -> SessionRecord:
        """
        The record of a stored session.
        """
        packed = self._opened(document)
        lifetime = document.get("lifetime")
        span = self._timeout if lifetime is None else timedelta(milliseconds=lifetime)
        return SessionRecord(
            id=identifier,
            data=self._decoded(packed),
            user=document.get("user"),
            confidential=document["confidential"],
            created=document["created"],
            used=document["used"],
            expires=document["expires"],
            lifetime=span,
            version=document["version"],
            snapshot=Snapshot(packed, document.get("user"), span),
        )

    def _decoded(self, packed: bytes) -> dict[str, Any]:
        document = unpack(packed, self._data_options)
        try:
            data: dict[str, Any] = self._codec.decode(document)
        except SessionError:
            raise
        except Exception as error:
            # Whatever that was: not chained, for its message may have the data.
            raise SessionUnreadable(
                f"the codec cannot decode a session's data ({type(error).__name__}): give the "
                "store the codec that has encoded it"
            ) from None
        return data

    async def _refuse(self, record: SessionRecord) -> NoReturn:
        """
        Say why a record was not saved.
        """
        current = await self.load(record.id)
        if current is None or record.snapshot is None:
            raise _gone()
        base = self._decoded(record.snapshot.packed)
        raise SessionConflict(record, base, current, self._packed)


def _gone() -> SessionGone:
    return SessionGone("the session has ended or was deleted since it was loaded: begin a new one")


def _for_data(options: CodecOptions[Any]) -> CodecOptions[Any]:
    """
    How data is encoded: as in the rest of the application, but always to
    C{dict}, and with UUIDs that can be read.
    """
    if options.uuid_representation == UuidRepresentation.UNSPECIFIED:
        options = options.with_options(uuid_representation=UuidRepresentation.STANDARD)
    return options.with_options(document_class=dict)


def _place(document: dict[str, Any]) -> bytes:
    """
    What the encrypted data of a session is bound to: the session, its user,
    and how its id travels.
    """
    user = document.get("user")
    return b"%b%d%d%b" % (
        document["_id"],
        bool(document["confidential"]),
        user is not None,
        (user or "").encode("utf-8", "surrogatepass"),
    )


def _summary(document: dict[str, Any]) -> SessionSummary:
    return SessionSummary(
        key=bytes(document["_id"]).hex(),
        user=document.get("user"),
        confidential=document["confidential"],
        created=document["created"],
        used=document["used"],
        expires=document["expires"],
    )


def _stays(failure: Failure) -> None:
    failure.trap(PyMongoError, CancelledError)
    _log.warn(
        "a session whose id nobody has learnt may stay until it ends: {kind}",
        kind=type(failure.value).__name__,
    )


async def _keep_ttl_index(collection: Collection[Any], field: str) -> None:
    """
    Let the server remove documents at the time that a field has.
    """
    indexes = await collection.index_information()
    for name, index in indexes.items():
        if index["key"] != [(field, 1)]:
            continue
        if index.get("expireAfterSeconds") == 0:
            return
        if "expireAfterSeconds" in index:
            await collection.database.modify_collection(
                collection.name, index={"name": name, "expireAfterSeconds": 0}
            )
            return
        # Before MongoDB 5.1 an index cannot become one that removes.
        await _drop_index(collection, name)
    await collection.create_index([(field, 1)], expireAfterSeconds=0)


async def _keep_user_index(collection: Collection[Any]) -> None:
    """
    Let a user's sessions be found, those last used first.
    """
    try:
        await collection.create_index(_USER_INDEX_KEYS, **_USER_INDEX)
        return
    except OperationFailure as error:
        if error.code not in _INDEX_CONFLICTS:
            raise
    for name, index in (await collection.index_information()).items():
        if name == _USER_INDEX["name"] or index["key"] == _USER_INDEX_KEYS:
            await _drop_index(collection, name)
    await collection.create_index(_USER_INDEX_KEYS, **_USER_INDEX)


async def _drop_index(collection: Collection[Any], name: str) -> None:
    try:
        await collection.drop_index(name)
    except OperationFailure as error:
        if error.code != _INDEX_NOT_FOUND:  # Somebody else was faster.
            raise
