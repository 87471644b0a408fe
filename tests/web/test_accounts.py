"""
Tests for L{txmongokit.web.accounts}.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeRunner, Script, cursor_reply
from txmongokit.database import Database
from txmongokit.web.accounts import AccountExists, AccountsBusy, MongoAccountStore

COST = 16


class Threads:
    """
    A reactor and its pool, whose threads do their work when they are told to.

    @ivar waiting: what they have been given.
    """

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.done: list[tuple[Any, ...]] = []

    def getThreadPool(self) -> Threads:
        """Itself."""
        return self

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        """At once."""
        function(*args)

    def callInThreadWithCallback(
        self, on_result: Callable[..., object], function: Callable[..., object], *args: Any
    ) -> None:
        """Later."""

        def work() -> None:
            try:
                result: object = function(*args)
            except Exception:
                on_result(False, Failure())
            else:
                on_result(True, result)

        # deferToThreadPool has the function and its arguments in a context's call.
        self.waiting.append(work)

    def work(self) -> int:
        """Do all that is to be done; how much it was."""
        count = 0
        while self.waiting:
            self.waiting.pop(0)()
            count += 1
        return count


def stored(password: bytes = b"word", n: int = COST, **fields: Any) -> dict[str, Any]:
    """A reply with Ada's account."""
    hashed = hashlib.scrypt(password, salt=b"s" * 16, n=n, r=8, p=1, dklen=32)
    secret = {"n": n, "r": 8, "p": 1, "salt": b"s" * 16, "hash": hashed}
    document = {"_id": "1", "username": "ada", "email": "a@b", "password": secret, **fields}
    return cursor_reply([document])


class AccountTests(SynchronousTestCase):
    """
    L{MongoAccountStore}.
    """

    def accounts(self, *replies: Script, **options: Any) -> MongoAccountStore:
        """A store whose server is a script."""
        self.runner, self.threads = FakeRunner(*replies), Threads()
        options.setdefault("cost", COST)
        return MongoAccountStore(Database(self.runner, "db"), self.threads, **options)

    def result(self, waiting: Deferred[Any]) -> Any:
        """What something gives that has to be hashed for."""
        self.assertNoResult(waiting)
        self.threads.work()
        return self.successResultOf(waiting)

    def test_right(self) -> None:
        """A name and its password belong to an account, however they are composed."""
        account = self.result(self.accounts(stored()).authenticate("ada", "word"))
        self.assertEqual((account.id, account.username, account.email), ("1", "ada", "a@b"))
        composed = stored("p\u00e4ss".encode())
        decomposed = self.accounts(composed).authenticate("ada", "pa\u0308ss")
        self.assertEqual(self.result(decomposed).id, "1")

    def test_wrong(self) -> None:
        """A wrong password and an unknown name cost one hash of the same size each."""
        replies = (stored(b"other"), cursor_reply([]))
        sizes: list[tuple[int, int, int]] = []
        scrypt = hashlib.scrypt

        def measured(password: bytes, **options: Any) -> bytes:
            sizes.append((options["n"], options["r"], options["p"]))
            return scrypt(password, **options)

        self.patch(hashlib, "scrypt", measured)
        for reply in replies:
            self.assertIsNone(self.result(self.accounts(reply).authenticate("ada", "word")))
            self.assertEqual(self.runner.names, ["find"])
        self.assertEqual(sizes, [(COST, 8, 1)] * 2)

    def test_hostile(self) -> None:
        """What is no name or no password is asked nobody."""
        accounts = self.accounts()
        pairs: list[tuple[Any, Any]] = [
            ({"$ne": None}, "word"),
            ("ada", {"$ne": None}),
            (None, "word"),
            ("a\ud800", "word"),
            ("a" * 321, "word"),
            ("ada", "w" * 1025),
        ]
        for name, password in pairs:
            self.assertIsNone(self.successResultOf(accounts.authenticate(name, password)))
        self.assertEqual((self.runner.requests, self.threads.waiting), ([], []))

    def test_higher_cost(self) -> None:
        """An account that was hashed for less is hashed anew when it logs in."""
        accounts = self.accounts(stored(n=COST // 2), {"n": 1, "nModified": 1, "ok": 1.0})
        self.assertEqual(self.result(accounts.authenticate("ada", "word")).id, "1")
        (statement,) = self.runner.statements(1)
        self.assertEqual(statement["u"]["$set"]["password"]["n"], COST)

    def test_create(self) -> None:
        """An account's password is stored as its hash alone; its name is its own."""
        account = self.result(self.accounts().create("ada", "a@b", "word"))
        (document,) = self.runner.statements()
        self.assertEqual((document["_id"], document["username"]), (account.id, "ada"))
        secret = document["password"]
        self.assertEqual(set(secret), {"n", "r", "p", "salt", "hash"})
        expected = hashlib.scrypt(b"word", salt=secret["salt"], n=COST, r=8, p=1, dklen=32)
        self.assertEqual(secret["hash"], expected)
        taken = {"ok": 1.0, "n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "dup"}]}
        waiting = self.accounts(taken).create("ada", "a@b", "word")
        self.threads.work()
        self.failureResultOf(waiting, AccountExists)

    def test_refusals(self) -> None:
        """Empty, huge and other things are named."""
        accounts = self.accounts()
        rest: Any
        for rest in (("", "e", "p"), ("u", "", "p"), ("u", "e", ""), ("u", "e", "p" * 1025)):
            self.assertRaises(ValueError, accounts.create, *rest)
        for rest in ((1, "e", "p"), ("u", None, "p"), ("u", "e", b"p")):
            self.assertRaises(TypeError, accounts.create, *rest)
        self.assertRaises(ValueError, accounts.change_password, "1", "")
        hostile: Any = {"$ne": 1}
        self.assertRaises(TypeError, accounts.find, hostile)
        self.assertRaises(ValueError, self.accounts, cost=1000)
        # OpenSSL would take no such memory limit as that needs.
        self.assertRaises(ValueError, self.accounts, cost=1 << 20)
        self.accounts(cost=1 << 19)
        self.assertRaises(TypeError, MongoAccountStore, "db", self.threads)

    def test_change(self) -> None:
        """A password is replaced, if there is the account."""
        for count in (0, 1):
            reply = {"n": count, "nModified": count, "ok": 1.0}
            changing = self.accounts(reply).change_password("1", "new")
            self.assertEqual(self.result(changing), bool(count))

    def test_find(self) -> None:
        """An account is found by its id, without its password."""
        accounts = self.accounts(stored(), cursor_reply([]))
        found = self.successResultOf(accounts.find("1"))
        assert found is not None
        self.assertEqual(found.username, "ada")
        self.assertNotIn("a@b", repr(found))
        self.assertIsNone(self.successResultOf(accounts.find("2")))

    def test_crowd(self) -> None:
        """Two passwords are hashed at a time, 64 wait, the next is told to come again."""
        accounts = self.accounts(*[stored() for _ in range(67)])
        waiting = [accounts.authenticate("ada", "word") for _ in range(67)]
        self.assertEqual(len(self.threads.waiting), 2)
        self.failureResultOf(waiting.pop(), AccountsBusy)
        self.assertEqual(self.threads.work(), 66)
        self.assertTrue(all(self.successResultOf(each) for each in waiting))

    def test_given_up(self) -> None:
        """A check that nobody waits for has its turn until its thread is done, or none at all."""
        accounts = self.accounts(*[stored() for _ in range(51)])
        for _ in range(50):
            waiting = accounts.authenticate("ada", "word")
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        last = accounts.authenticate("ada", "word")
        self.assertEqual(len(self.threads.waiting), 2)
        self.assertEqual(self.threads.work(), 3)
        self.assertIsNotNone(self.successResultOf(last))

    def test_no_threads(self) -> None:
        """What cannot be hashed keeps no turn."""
        accounts = self.accounts(*[stored() for _ in range(4)])
        self.patch(self.threads, "callInThreadWithCallback", None)
        for _ in range(3):
            self.failureResultOf(accounts.authenticate("ada", "word"), TypeError)

    def test_repr(self) -> None:
        """It shows the collection."""
        self.assertEqual(repr(self.accounts()), "<MongoAccountStore db.accounts>")
