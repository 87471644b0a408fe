"""
Commands that L{txmongokit._net.executor} sends one behind the other, through
a client in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import bson
from twisted.internet.defer import CancelledError, Deferred

from tests._net.test_executor import ExecutorTestCase, found
from tests.fakeserver import MemoryTransport
from txmongokit.errors import (
    AutoReconnect,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidOperation,
    NetworkTimeout,
)
from txmongokit.sessions import ClientSession

NO_TRANSACTION = {"ok": 0, "code": 251, "errmsg": "the transaction has ended"}
DUPLICATE = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}


class RowTests(ExecutorTestCase):
    """A transaction's commands, sent ahead."""

    def setUp(self) -> None:
        """Begin a transaction."""
        super().setUp()
        self.session: ClientSession = self.client.start_session()
        self.session.start_transaction()
        self.places: list[MemoryTransport] = []

    def insert(self, *numbers: int) -> Any:
        """A command that inserts these."""
        documents = [bson.encode({"_id": number}) for number in numbers]
        return self.things.raw_write_command("insert", documents)

    def note_places(self) -> None:
        """Take down which connection each command comes on."""
        answer = self.server.answer

        def noted(transport: MemoryTransport, body: dict[str, Any]) -> Any:
            if "insert" in body:
                self.places.append(transport)
            return answer(transport, body)

        self.server.answer = noted  # type: ignore[method-assign]  # one server's, to note who asks

    def test_sent_ahead(self) -> None:
        """None waits for the reply to the one before it; they share one connection."""
        self.note_places()
        self.answers(None, None, None)
        running = self.session.run_in_order([self.insert(n) for n in range(3)])
        self.network.flush()
        self.assertNoResult(running)
        first, *others = self.server.commands
        self.assertEqual(len(others), 2)
        self.assertTrue(first["startTransaction"])
        for body in others:
            self.assertNotIn("startTransaction", body)
            self.assertEqual(body["txnNumber"], first["txnNumber"])
        self.assertEqual(len(set(self.places)), 1)
        running.cancel()
        self.fails(running, CancelledError)

    def test_results(self) -> None:
        """The results come in the commands' order, and the connection is free again."""
        self.note_places()
        self.answers(*({"ok": 1.0, "n": n} for n in (3, 1, 2)))
        commands = [self.insert(*range(n)) for n in (3, 1, 2)]
        results = self.do(self.session.run_in_order(commands))
        self.assertEqual([result["n"] for result in results], [3, 1, 2])
        connections = len(self.server.connections)
        self.do(self.session.commit_transaction())
        self.assertEqual(len(self.server.connections), connections)
        self.assertEqual(
            self.server.commands[-1]["txnNumber"], self.server.commands[0]["txnNumber"]
        )

    def test_first_error(self) -> None:
        """It fails with what went wrong first, when all have been answered."""
        self.answers(
            {"ok": 1.0, "n": 1},
            {"ok": 1.0, "n": 0, "writeErrors": [DUPLICATE]},
            NO_TRANSACTION,
            NO_TRANSACTION,
        )
        commands = [self.insert(n) for n in range(4)]
        connections = len(self.server.connections)
        self.fails(self.session.run_in_order(commands), DuplicateKeyError)
        self.assertEqual(len(self.server.commands), 4)
        self.do(self.session.abort_transaction())
        self.assertEqual(self.server.names()[-1], "abortTransaction")
        self.assertEqual(len(self.server.connections), connections)

    def test_connection_lost(self) -> None:
        """A lost connection is an error with which a transaction may be run again."""
        self.answers({"ok": 1.0, "n": 1}, AutoReconnect("cut"))
        commands = [self.insert(n) for n in range(3)]
        error = self.fails(self.session.run_in_order(commands), AutoReconnect)
        self.assertTrue(error.has_error_label("TransientTransactionError"))
        # The session is not used by others, whatever became of it.
        assert self.session.state.server_session is not None
        self.assertTrue(self.session.state.server_session.dirty)

    def test_cannot_be_made(self) -> None:
        """Where a later command cannot be made, what was sent is not waited for."""
        self.note_places()
        self.answers(None)

        def commands() -> Iterator[Any]:
            yield self.insert(1)
            raise KeyError("nothing more")

        self.fails(self.session.run_in_order(commands()), KeyError)
        self.assertTrue(self.places[0].aborted)
        self.answers(found({"_id": 1}))
        self.assertEqual(self.do(self.things.find_one(1)), {"_id": 1})

    def test_too_large(self) -> None:
        """A command that is too large for the server ends the row, too."""
        self.note_places()
        self.answers(None)
        large = self.things.raw_write_command("insert", [bytes(49_000_000)])
        self.fails(self.session.run_in_order([self.insert(1), large]), DocumentTooLarge)
        self.assertTrue(self.places[0].aborted)
        # Its connection is given back once: the pool has not lost count.
        self.answers(*(found({"_id": n}) for n in range(9)))
        for number in range(9):
            self.assertEqual(self.do(self.things.find_one(number)), {"_id": number})

    def test_none(self) -> None:
        """No command at all is no result at all."""
        self.assertEqual(self.do(self.session.run_in_order([])), [])
        self.assertEqual(self.server.commands, [])

    def test_no_transaction(self) -> None:
        """Outside a transaction it is refused: what follows an error would be carried out."""
        self.do(self.session.abort_transaction())
        error = self.fails(self.session.run_in_order([self.insert(1)]), InvalidOperation)
        self.assertIn("start one", str(error))
        self.assertEqual(self.server.commands, [])

    def test_nothing_made(self) -> None:
        """What goes wrong before the first command can be made is the result."""

        def refused(number: int) -> Any:
            raise InvalidOperation("nothing to insert")

        running = self.session.run_in_order(map(refused, [1]))
        error = self.fails(running, InvalidOperation)
        self.assertIn("nothing to insert", str(error))
        self.assertEqual(self.server.commands, [])

    def test_not_admitted(self) -> None:
        """Each command has to be one that the session permits."""
        command = self.insert(2)
        command.options = replace(command.options, timeout=1.0, timeout_given=True)
        self.session.state.deadline = self.network.clock.seconds() + 60
        self.answers(None)
        running = self.session.run_in_order([self.insert(1), command])
        error = self.fails(running, InvalidOperation)
        self.assertIn("pass none to them", str(error))
        self.assertEqual(len(self.server.commands), 1)

    def test_closed_client(self) -> None:
        """A client that was closed is the Deferred's error."""
        self.network.end(self.client)
        self.fails(self.session.run_in_order([self.insert(1)]), InvalidOperation)

    def slow_row(self, **options: Any) -> tuple[Deferred[Any], Callable[[int], None]]:
        """Three commands on their way by a client of its own; and what answers them."""
        client = self.new_client(**options)
        self.things = client["db"]["things"]
        session = client.start_session()
        session.start_transaction()
        self.note_places()
        self.answers(None, None, None)
        running = session.run_in_order([self.insert(n) for n in range(3)])
        self.network.flush()
        place = self.places[-1]
        first = place.protocol.exchange.last_id - 2

        def answer(number: int) -> None:
            place.reply(first + number, {"ok": 1.0, "n": number})
            self.network.flush()

        return running, answer

    def test_time_limits(self) -> None:
        """Each has its time from when it is the first that is waited for."""
        for limit in ({"socketTimeoutMS": 3000}, {"timeoutMS": 3000}):
            running, answer = self.slow_row(**limit)
            for number in range(3):
                self.network.advance(2.0)
                self.assertNoResult(running)
                answer(number)
            self.assertEqual([each["n"] for each in self.successResultOf(running)], [0, 1, 2])
            running, answer = self.slow_row(**limit)
            answer(0)
            self.network.advance(2.5)
            self.assertNoResult(running)
            self.network.advance(1.0)
            self.failureResultOf(running, NetworkTimeout)

    def test_bounded(self) -> None:
        """Many or large commands are only made when others are answered."""
        made = 0

        def commands(size: int) -> Iterator[Any]:
            nonlocal made
            for number in range(100):
                made += 1
                document = bson.encode({"_id": number, "x": bytes(size)})
                yield self.things.raw_write_command("insert", [document])

        for size, most in ((1, 33), (6_000_000, 4)):
            made = 0
            self.answers(*[None] * 100)
            running = self.session.run_in_order(commands(size))
            self.network.flush()
            self.assertLessEqual(made, most)
            self.assertGreater(made, 2)
            running.cancel()
            self.fails(running, CancelledError)
            self.answers()
            self.do(self.session.abort_transaction())
            self.session.start_transaction()
