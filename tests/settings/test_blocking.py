"""
Tests for L{txmongokit.settings.blocking}, as far as they need no server.
"""

from __future__ import annotations

import copy

from twisted.internet.defer import succeed
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.errors import AutoReconnect, InvalidOperation
from txmongokit.reactorthread import ReactorThread
from txmongokit.settings import from_settings
from txmongokit.settings.blocking import Blocking, BlockingHandle


class ReactorTests(SynchronousTestCase):
    """
    Where a call runs.
    """

    def setUp(self) -> None:
        """
        A reactor that nobody runs yet.
        """
        # Who runs a reactor says that its thread is the one for I/O.
        self.patch(threadable, "ioThread", threadable.ioThread)
        self.thread = ReactorThread(SelectReactor())
        self.addCleanup(self.thread.stop)
        handle = from_settings({"mongo.db": "foo"}, reactor=Clock())
        self.waiting = BlockingHandle(handle, self.thread)

    def test_run(self) -> None:
        """
        Values, Deferreds and coroutines are waited for; failures are raised.
        """

        async def later(text: str, *, times: int) -> str:
            return await succeed(text * times)

        def wrong() -> None:
            raise ValueError("wrong")

        self.assertEqual(self.waiting.run(later, "a", times=2), "aa")
        self.assertEqual(self.waiting.run(succeed, 5), 5)
        self.assertEqual(self.waiting.run(len, "abc"), 3)
        self.assertTrue(self.waiting.run(self.thread.is_own_thread))
        self.assertRaises(ValueError, self.waiting.run, wrong)

    def test_arguments(self) -> None:
        """
        Functions on the reactor's side are given the asynchronous objects.
        """
        db = self.waiting.run(
            lambda db, *, other: db if db == other else None,
            *[self.waiting.db],
            other=self.waiting.handle.db,
        )
        self.assertEqual(db, self.waiting.db)

    def test_lists(self) -> None:
        """
        Of lists of clients each is for threads, and is unwrapped as an argument.
        """
        several = {"mongo.db": "foo", "mongo.master_host": "a", "mongo.slave_hosts": "b,c"}
        waiting = BlockingHandle(from_settings(several, reactor=Clock()), self.thread)
        slaves = waiting.db_conn.slaves
        self.assertEqual([type(each) for each in slaves], [Blocking, Blocking])
        self.assertEqual(waiting.run(list, slaves), waiting.handle.db_conn.slaves)
        self.assertEqual(waiting.db_conn.lags, [None, None])

    def test_copies(self) -> None:
        """
        A copy is another of the same.
        """
        copied = copy.copy(self.waiting.db)
        self.assertIsInstance(copied, Blocking)
        self.assertEqual(copied, self.waiting.db)
        self.assertEqual(copied.name, "foo")

    def test_waits_in_the_reactor_s_thread(self) -> None:
        """
        What would wait there is refused.
        """
        error = self.assertRaises(
            InvalidOperation, self.waiting.run, lambda: self.waiting.db.command("ping")
        )
        self.assertIn("this would block the reactor", str(error))

    def test_reactor_has_stopped(self) -> None:
        """
        After the reactor's end a call fails, and does not wait for ever.
        """
        self.waiting.run(len, "")
        self.thread.stop()
        error = self.assertRaises(AutoReconnect, self.waiting.db.command, "ping")
        self.assertIn("the reactor has stopped", str(error))
