"""
Accounts with passwords, in MongoDB.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pymongo.read_preferences import ReadPreference
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred, succeed
from twisted.internet.threads import deferToThreadPool

from txmongokit.collection import Collection
from txmongokit.connection import shared
from txmongokit.database import Database
from txmongokit.errors import DuplicateKeyError

__all__ = ["Account", "AccountError", "AccountExists", "AccountsBusy", "MongoAccountStore"]

_LONGEST_PASSWORD = 1024
_LONGEST_NAME = 320
_SALT = 16
_HIGHEST_COST = 1 << 19
_AT_ONCE = 2
_WAITING = 64
_NO_HASH = bytes(32)


class AccountError(Exception):
    """
    Any of the errors about accounts.
    """


class AccountExists(AccountError):
    """
    There is another account of that name.
    """


class AccountsBusy(AccountError):
    """
    Too many passwords are being checked already.
    """


@dataclass(frozen=True)
class Account:
    """
    An account, without its password.

    @ivar id: what sessions know it by: it never changes.
    """

    id: str
    username: str
    email: str = field(repr=False)


@dataclass(frozen=True)
class _Cost:
    """
    How hard passwords are to guess: scrypt's parameters.
    """

    n: int
    r: int
    p: int

    def hashed(self, password: str, salt: bytes) -> bytes:
        """
        What is stored of a password.
        """
        return hashlib.scrypt(
            unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass"),
            salt=salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=256 * self.n * self.r * self.p,
            dklen=len(_NO_HASH),
        )


def _check_text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the {name} must be a str, not {type(value).__name__}")
    if not 0 < len(value) <= longest:
        raise ValueError(f"the {name} must have 1 to {longest} characters, not {len(value)}")
    return value


class MongoAccountStore:
    """
    Accounts in a collection, with passwords by scrypt.

    Passwords are hashed in the reactor's threads, two at a time.  It takes as
    long for a name that there is not as for one that there is.

    @param place: a database, or the collection itself.
    @param reactor: whose thread pool hashes.
    @param name: of the collection, in a database.
    @param cost: scrypt's C{n}, a power of 2 up to 524288: a check takes
        C{1024 * cost} bytes of memory, and time accordingly.  Accounts with
        another one get this one when they next log in.

    @raise TypeError: an argument is of the wrong type.
    @raise ValueError: the cost is none.
    """

    def __init__(
        self,
        place: Database[Any] | Collection[Any],
        reactor: Any,
        *,
        name: str = "accounts",
        cost: int = 1 << 15,
    ) -> None:
        if isinstance(place, Database):
            place = place[name]
        if not isinstance(place, Collection):
            raise TypeError(f"a Database or a Collection is needed, not {type(place).__name__}")
        if not 2 <= cost <= _HIGHEST_COST or cost & (cost - 1):
            raise ValueError(f"cost must be a power of 2 up to {_HIGHEST_COST}, not {cost}")
        self._collection: Collection[Any] = place.with_options(
            read_preference=ReadPreference.PRIMARY
        )
        self._reactor = reactor
        self._cost = _Cost(cost, 8, 1)
        self._turns = DeferredSemaphore(_AT_ONCE)

    def __repr__(self) -> str:
        return f"<MongoAccountStore {self._collection.full_name}>"

    def prepare(self) -> Deferred[None]:
        """
        See to it that no two accounts have the same name.  Do this at each
        start; without it, L{create} is not safe.
        """
        made = self._collection.create_index("username", unique=True)
        return made.addCallback(lambda _: None)

    def create(self, username: str, email: str, password: str) -> Deferred[Account]:
        """
        Add an account.

        @return: fires with it; fails with L{AccountExists}, or with
            L{AccountsBusy}.
        @raise TypeError: one of these is no C{str}.
        @raise ValueError: one of these is empty, or huge.
        """
        _check_text("username", username, _LONGEST_NAME)
        _check_text("email", email, _LONGEST_NAME)
        _check_text("password", password, _LONGEST_PASSWORD)
        return Deferred.fromCoroutine(self._create(username, email, password))

    async def _create(self, username: str, email: str, password: str) -> Account:
        account = Account(secrets.token_hex(16), username, email)
        try:
            await self._collection.insert_one(
                {
                    "_id": account.id,
                    "username": username,
                    "email": email,
                    "password": await self._new_password(password),
                    "created": datetime.now(UTC),
                }
            )
        except DuplicateKeyError:
            raise AccountExists(
                "there is another account of that name: choose another name, or log in"
            ) from None
        return account

    def authenticate(self, username: object, password: object) -> Deferred[Account | None]:
        """
        The account that a name and a password belong to.

        @param username: as it was typed; what is no C{str}, no Unicode (a
            surrogate alone), or huge, is nobody's.
        @return: fires with the account, or C{None}; fails with
            L{AccountsBusy}.  Cancelling it while the password is checked ends
            the wait: the thread goes on, and has its turn until it is done.
        """
        if not isinstance(username, str) or not isinstance(password, str):
            return succeed(None)
        if len(username) > _LONGEST_NAME or len(password) > _LONGEST_PASSWORD:
            return succeed(None)
        try:
            username.encode()
        except UnicodeEncodeError:
            return succeed(None)
        return Deferred.fromCoroutine(self._authenticate(username, password))

    async def _authenticate(self, username: str, password: str) -> Account | None:
        found = await self._collection.find_one({"username": username})
        stored = (found or {}).get("password") or {}
        cost = _Cost(*(stored.get(name, getattr(self._cost, name)) for name in ("n", "r", "p")))
        # For a name that there is not, the same work is done.
        actual = await self._hash(cost, password, stored.get("salt", bytes(_SALT)))
        right = hmac.compare_digest(actual, stored.get("hash", _NO_HASH))
        if found is None or not right:
            return None
        if cost != self._cost:
            fresh = await self._new_password(password)
            await self._collection.update_one(
                {"_id": found["_id"], "password.hash": actual}, {"$set": {"password": fresh}}
            )
        return _account(found)

    def find(self, account_id: str) -> Deferred[Account | None]:
        """
        The account of an id.
        """
        _check_text("account's id", account_id, _LONGEST_NAME)
        found: Deferred[Any] = self._collection.find_one({"_id": account_id}, {"password": False})
        return found.addCallback(lambda document: document and _account(document))

    def change_password(self, account_id: str, password: str) -> Deferred[bool]:
        """
        Set a password.

        @return: fires with whether there is such an account; fails with
            L{AccountsBusy}.
        """
        _check_text("account's id", account_id, _LONGEST_NAME)
        _check_text("password", password, _LONGEST_PASSWORD)

        async def change() -> bool:
            result = await self._collection.update_one(
                {"_id": account_id}, {"$set": {"password": await self._new_password(password)}}
            )
            return bool(result.matched_count)

        return Deferred.fromCoroutine(change())

    async def _new_password(self, password: str) -> dict[str, Any]:
        salt = secrets.token_bytes(_SALT)
        hashed = await self._hash(self._cost, password, salt)
        return {**vars(self._cost), "salt": salt, "hash": hashed}

    async def _hash(self, cost: _Cost, password: str, salt: bytes) -> bytes:
        """
        Hash in a thread, so that nobody else waits for it, and few at a time,
        for each takes a lot of memory.
        """
        if len(self._turns.waiting) >= _WAITING:
            raise AccountsBusy("too many passwords are being checked: try again in a few seconds")
        pool = self._reactor.getThreadPool()
        await self._turns.acquire()
        hashing: Deferred[bytes] = maybeDeferred(
            deferToThreadPool, self._reactor, pool, cost.hashed, password, salt
        )
        # A thread cannot be cancelled: the turn is over when it has ended.
        hashed: bytes = await shared(hashing.addBoth(self._left))
        return hashed

    def _left(self, result: Any) -> Any:
        self._turns.release()
        return result


def _account(document: dict[str, Any]) -> Account:
    return Account(document["_id"], document["username"], document["email"])
