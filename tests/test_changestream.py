"""
Tests for L{txmongokit.changestream}.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.son import SON
from bson.timestamp import Timestamp
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import ADDRESS, INFO, FakeRunner, Script, cursor_reply
from txmongokit._pymongo import add_error_label
from txmongokit.changestream import ChangeStream
from txmongokit.collection import Collection
from txmongokit.database import Database
from txmongokit.errors import (
    AutoReconnect,
    CursorNotFound,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
)
from txmongokit.sessions import ClientSession
from txmongokit.types import ConnectionInfo


def change(token: Any) -> dict[str, Any]:
    """An event."""
    return {"_id": {"_data": token}, "operationType": "insert"}


def opened(*changes: Any, cursor_id: int = 7, **more: Any) -> dict[str, Any]:
    """The reply to an aggregate; C{more} of its cursor, C{at} its operation time."""
    at = more.pop("at", None)
    reply = cursor_reply([change(each) for each in changes], cursor_id, namespace="db.things")
    reply["cursor"].update(more)
    return reply if at is None else {**reply, "operationTime": at}


def got(*changes: Any, cursor_id: int = 7, **more: Any) -> dict[str, Any]:
    """The reply to a getMore."""
    reply = cursor_reply([change(each) for each in changes], cursor_id, more=True)
    reply["cursor"].update(more)
    return reply


def pbrt(token: Any) -> dict[str, Any]:
    """A post-batch resume token."""
    return {"postBatchResumeToken": {"_data": token}}


def labelled(code: int = 280) -> OperationFailure:
    """An error that a server says to resume after."""
    error = OperationFailure("gone", code)
    add_error_label(error, "ResumableChangeStreamError")
    return error


class ChangeStreamCase(SynchronousTestCase):
    """What the tests share."""

    def stream(
        self, *replies: Script, info: ConnectionInfo = INFO, **options: Any
    ) -> ChangeStream[Any]:
        """A stream of a collection whose runner has a script."""
        self.runner = FakeRunner(*replies, info=info)
        self.things: Collection[Any] = Database(self.runner, "db")["things"]
        return self.things.watch(**options)

    def stages(self) -> list[dict[str, Any]]:
        """What each aggregate said of the stream."""
        return [
            body["pipeline"][0]["$changeStream"]
            for body in self.runner.bodies
            if "aggregate" in body
        ]

    def names(self) -> list[str]:
        """The commands, without killCursors."""
        return [name for name in self.runner.names if name != "killCursors"]


class ChangeStreamTests(ChangeStreamCase):
    """
    Opening, reading and closing.
    """

    def test_lazy(self) -> None:
        """Nothing is sent before the first use."""
        self.assertIn("not open", repr(self.stream()))
        self.assertEqual(self.runner.commands, [])

    def test_options(self) -> None:
        """Every option goes where servers want it; others are errors."""
        token = {"_data": "t"}
        stream = self.stream(
            opened(),
            got(),
            pipeline=[{"$match": {"a": 1}}],
            full_document="updateLookup",
            full_document_before_change="required",
            show_expanded_events=True,
            start_after=token,
            batch_size=3,
            max_await_time_ms=50,
            collation={"locale": "en"},
            comment="why",
        )
        self.successResultOf(stream.try_next())
        stage = {
            "fullDocument": "updateLookup",
            "fullDocumentBeforeChange": "required",
            "showExpandedEvents": True,
            "startAfter": token,
        }
        self.assertEqual(
            self.runner.bodies[0],
            {
                "aggregate": "things",
                "pipeline": [{"$changeStream": stage}, {"$match": {"a": 1}}],
                "collation": {"locale": "en"},
                "comment": "why",
                "cursor": {"batchSize": 3},
            },
        )
        self.assertEqual(
            self.runner.bodies[1],
            {
                "getMore": 7,
                "collection": "things",
                "batchSize": 3,
                "maxTimeMS": 50,
                "comment": "why",
            },
        )
        self.assertEqual(self.runner.commands[1].address, ADDRESS)
        self.assertRaises(TypeError, self.things.watch, full_documents="x")
        self.assertRaises(TypeError, self.things.watch, {"$match": {}})
        self.assertRaises(ValueError, self.things.watch, max_await_time_ms=1000, timeout=1)

    def test_contradictions(self) -> None:
        """That two beginnings exclude each other is for the server to say."""
        at, token = Timestamp(1, 1), {"_data": "t"}
        stream = self.stream(
            opened(), start_after=token, resume_after=token, start_at_operation_time=at
        )
        self.successResultOf(stream.open())
        expected = {"startAfter": token, "resumeAfter": token, "startAtOperationTime": at}
        self.assertEqual(self.stages(), [expected])

    def test_database(self) -> None:
        """A database's stream is about no collection."""
        runner = FakeRunner(opened(), got())
        stream = Database(runner, "db").watch()
        self.successResultOf(stream.try_next())
        self.assertEqual(runner.bodies[0]["aggregate"], 1)

    def test_opens(self) -> None:
        """Awaiting, yielding and entering a stream open it."""

        async def awaited() -> tuple[Any, Any]:
            stream = self.stream(opened("a"))
            return await stream, stream

        @inlineCallbacks
        def yielded() -> Generator[Any, Any, Any]:
            stream = self.stream(opened("a"))
            same = yield stream
            return (same, stream)

        async def entered() -> tuple[Any, Any]:
            stream = self.stream(opened("a"))
            async with stream as same:
                self.assertEqual(await same.next(), change("a"))
            self.assertFalse(same.alive)
            return same, stream

        for opening in (Deferred.fromCoroutine(awaited()), yielded()):
            one, other = self.successResultOf(opening)
            self.assertIs(one, other)
            self.assertEqual(self.names(), ["aggregate"])
        one, other = self.successResultOf(Deferred.fromCoroutine(entered()))
        self.assertIs(one, other)
        self.assertEqual(self.runner.names[-1], "killCursors")

    def test_next(self) -> None:
        """C{next} waits over empty batches, C{try_next} does not, and batches are buffered."""
        stream = self.stream(opened(), got(), got(), got("a", "b"), got("c"))
        self.assertIsNone(self.successResultOf(stream.try_next()))
        self.assertEqual(self.names(), ["aggregate", "getMore"])
        self.assertEqual(self.successResultOf(stream.next()), change("a"))
        self.assertEqual(self.successResultOf(stream.try_next()), change("b"))
        self.assertEqual(len(self.names()), 4)

        async def iterate() -> None:
            async for item in stream:
                found.append(item)
                break

        found: list[Any] = []
        self.successResultOf(Deferred.fromCoroutine(iterate()))
        self.assertEqual(found, [change("c")])

    def test_codec(self) -> None:
        """Changes have the collection's document class; tokens are as the server made them."""
        runner = FakeRunner(opened("a"))
        codec: CodecOptions[Any] = CodecOptions(document_class=SON)
        things = Database(runner, "db", codec_options=codec)["things"]
        stream = things.watch()
        found = self.successResultOf(stream.next())
        self.assertIsInstance(found, SON)
        self.assertIs(type(stream.resume_token), dict)
        found["_id"]["_data"] = "spoilt"
        self.assertEqual(stream.resume_token, {"_data": "a"})

    def test_one_at_a_time(self) -> None:
        """A second call while one is under way is refused, and does no harm."""
        later: Deferred[dict[str, Any]] = Deferred()
        stream = self.stream(opened(), later)
        waiting = stream.next()
        for call in (stream.next, stream.try_next, stream.open):
            self.assertRaises(InvalidOperation, call)
        later.callback(got("a"))
        self.assertEqual(self.successResultOf(waiting), change("a"))

    def test_close(self) -> None:
        """Closing ends what is under way, kills the cursor and gives its session back."""
        stream = self.stream(opened(), Deferred())
        waiting = stream.next()
        self.successResultOf(stream.close())
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.runner.names[-1], "killCursors")
        self.assertEqual(len(self.runner.ended), 1)
        self.failureResultOf(stream.next(), StopAsyncIteration)
        self.assertIsNone(self.successResultOf(stream.try_next()))
        self.assertRaises(InvalidOperation, stream.open)
        self.successResultOf(stream.close())
        self.assertIn("closed", repr(stream))

    def test_close_unopened(self) -> None:
        """A stream that was never open has nothing to close."""
        stream = self.stream()
        self.successResultOf(stream.close())
        self.assertEqual(self.runner.commands, [])

    def test_ends(self) -> None:
        """The server's end comes after its last changes."""
        stream = self.stream(opened(), got("a", "b", cursor_id=0))
        self.assertEqual(self.successResultOf(stream.next()), change("a"))
        self.assertTrue(stream.alive)
        self.assertEqual(self.successResultOf(stream.next()), change("b"))
        self.assertFalse(stream.alive)
        self.failureResultOf(stream.next(), StopAsyncIteration)
        self.assertEqual(len(self.runner.ended), 1)
        self.assertEqual(stream.resume_token, {"_data": "b"})

    def test_without_token(self) -> None:
        """A change without _id is an error, and closes the stream."""
        reply = opened()
        reply["cursor"]["firstBatch"] = [{"a": 1}]
        stream = self.stream(reply)
        self.failureResultOf(stream.next(), InvalidOperation)
        self.assertFalse(stream.alive)
        self.assertEqual(self.runner.names, ["aggregate", "killCursors"])
        self.assertEqual(len(self.runner.ended), 1)

    def test_failed_opening(self) -> None:
        """An aggregate's error is no reason to resume; the next call may try again."""
        stream = self.stream(labelled(), opened("a"))
        self.failureResultOf(stream.open(), OperationFailure)
        self.assertEqual(self.names(), ["aggregate"])
        self.assertEqual(len(self.runner.ended), 1)
        self.assertEqual(self.successResultOf(stream.next()), change("a"))

    def test_dropped(self) -> None:
        """A stream that is dropped open leaves no cursor behind."""
        stream = self.stream(opened())
        self.successResultOf(stream.open())
        del stream
        gc.collect()
        self.runner.clock.advance(0)
        self.assertEqual(self.runner.names, ["aggregate", "killCursors"])
        self.assertEqual(len(self.runner.ended), 1)


class TokenTests(ChangeStreamCase):
    """
    Where a stream would go on.
    """

    def test_of_changes(self) -> None:
        """A change's own token, or the batch's after its last change."""
        stream = self.stream(opened("a", "b", **pbrt("p")))
        self.assertIsNone(stream.resume_token)
        self.successResultOf(stream.next())
        self.assertEqual(stream.resume_token, {"_data": "a"})
        self.successResultOf(stream.next())
        self.assertEqual(stream.resume_token, {"_data": "p"})

    def test_of_empty_batches(self) -> None:
        """The token of an empty batch counts at once."""
        stream = self.stream(opened(**pbrt("p")), got(**pbrt("q")), got())
        self.successResultOf(stream.open())
        self.assertEqual(stream.resume_token, {"_data": "p"})
        self.successResultOf(stream.try_next())
        self.assertEqual(stream.resume_token, {"_data": "q"})
        self.successResultOf(stream.try_next())
        self.assertEqual(stream.resume_token, {"_data": "q"})

    def test_given(self) -> None:
        """What was given counts until there is another."""
        for option in ("resume_after", "start_after"):
            given: dict[str, Any] = {option: {"_data": "x"}}
            stream = self.stream(**given)
            self.assertEqual(stream.resume_token, {"_data": "x"})


class ResumeTests(ChangeStreamCase):
    """
    Going on after an error.
    """

    def test_resumable(self) -> None:
        """Lost connections, cursors and what servers label are resumed after, once each."""
        for error, killed in (
            (AutoReconnect("closed"), False),
            (CursorNotFound("gone", 43), False),
            (NetworkTimeout("late"), True),
            (labelled(), True),
        ):
            answer = [{"ok": 1.0}] if killed else []
            stream = self.stream(opened("a"), error, *answer, opened("b"))
            self.successResultOf(stream.next())
            self.assertEqual(self.successResultOf(stream.next()), change("b"), error)
            self.assertEqual(self.names(), ["aggregate", "getMore", "aggregate"])
            self.assertEqual(self.stages()[1], {"resumeAfter": {"_data": "a"}})

    def test_fatal(self) -> None:
        """Everything else closes the stream, also what old servers resumed after."""
        primary = NotPrimaryError("no", {"code": 10107})
        for error in (OperationFailure("no", 6), ExecutionTimeout("late", 50), primary):
            stream = self.stream(opened(), error)
            self.failureResultOf(stream.next(), type(error))
            self.assertFalse(stream.alive)
            self.assertEqual(self.names(), ["aggregate", "getMore"])
            self.assertEqual(len(self.runner.ended), 1)

    def test_codes_of_old_servers(self) -> None:
        """Before wire version 9 codes count, and labels do not."""
        info = replace(INFO, max_wire_version=8)
        details = {"code": 10107}
        for error, code in ((NotPrimaryError("no", details), 10107), (None, 63), (None, 5)):
            raised = error or OperationFailure("no", code, {"code": code})
            stream = self.stream(opened("a"), raised, {"ok": 1.0}, opened("b"), info=info)
            self.successResultOf(stream.next())
            result = stream.next()
            if code == 5:
                self.failureResultOf(result, OperationFailure)
            else:
                self.assertEqual(self.successResultOf(result), change("b"))
        unlisted = labelled()
        stream = self.stream(opened("a"), unlisted, info=info)
        self.successResultOf(stream.next())
        self.failureResultOf(stream.next(), OperationFailure)

    def test_start_after(self) -> None:
        """A stream begun by startAfter goes on so until it has given a change."""
        stream = self.stream(
            opened(),
            AutoReconnect("x"),
            opened("b"),
            {"ok": 1.0},
            AutoReconnect("x"),
            opened("c"),
            start_after={"_data": "s"},
        )
        self.assertEqual(self.successResultOf(stream.next()), change("b"))
        self.assertEqual(self.successResultOf(stream.next()), change("c"))
        expected = [
            {"startAfter": {"_data": "s"}},
            {"startAfter": {"_data": "s"}},
            {"resumeAfter": {"_data": "b"}},
        ]
        self.assertEqual(self.stages(), expected)

    def test_operation_time(self) -> None:
        """Without a token, it goes on at the time of the first reply, or the one given."""
        at, given = Timestamp(5, 1), Timestamp(3, 1)
        cases: list[tuple[dict[str, Any], Timestamp]] = [
            ({}, at),
            ({"start_at_operation_time": given}, given),
        ]
        for options, expected in cases:
            stream = self.stream(
                opened(at=at), AutoReconnect("x"), opened("a", at=Timestamp(9, 1)), **options
            )
            self.successResultOf(stream.next())
            self.assertEqual(self.stages()[1], {"startAtOperationTime": expected})

    def test_operation_time_is_not_kept(self) -> None:
        """Not before wire version 7, nor where there is a token or were changes."""
        at = Timestamp(5, 1)
        old = replace(INFO, max_wire_version=6)
        for first, info, expected in (
            (opened(at=at), old, {}),
            (opened(at=at, **pbrt("p")), INFO, {"resumeAfter": {"_data": "p"}}),
        ):
            stream = self.stream(first, AutoReconnect("x"), opened("a"), info=info)
            self.successResultOf(stream.next())
            self.assertEqual(self.stages()[1], expected)

    def test_same_session(self) -> None:
        """A resumption is in the session of what went before, implicit or explicit."""
        stream = self.stream(opened(), AutoReconnect("x"), opened("a"))
        self.successResultOf(stream.next())
        self.assertEqual(len(set(map(id, self.runner.sessions))), 1)
        self.assertEqual(self.runner.ended, [])
        stream = self.stream(opened(), AutoReconnect("x"), opened("a"))
        session = ClientSession(self.runner, self.runner.take_session(explicit=True))
        stream = self.things.watch(session=session)
        self.successResultOf(stream.next())
        self.assertEqual({id(state) for state in self.runner.sessions}, {id(session.state)})
        self.successResultOf(stream.close())
        self.assertEqual(self.runner.ended, [])

    def test_old_cursor(self) -> None:
        """A cursor whose connection broke is killed once there is another."""
        stream = self.stream(opened(), AutoReconnect("x"), opened("a", cursor_id=8))
        self.successResultOf(stream.next())
        self.assertEqual(self.runner.names, ["aggregate", "getMore", "aggregate", "killCursors"])
        self.assertEqual(self.runner.bodies[3]["cursors"], [7])

    def test_failed_resumption(self) -> None:
        """An error while resuming is raised: the network's leave the stream, others close it."""
        stream = self.stream(opened("a"), AutoReconnect("x"), AutoReconnect("y"), opened("b"))
        self.successResultOf(stream.next())
        self.failureResultOf(stream.next(), AutoReconnect)
        self.assertTrue(stream.alive)
        result = stream.next()
        self.runner.clock.advance(1)
        self.assertEqual(self.successResultOf(result), change("b"))
        stream = self.stream(opened("a"), AutoReconnect("x"), OperationFailure("no", 286))
        self.successResultOf(stream.next())
        self.failureResultOf(stream.next(), OperationFailure)
        self.assertFalse(stream.alive)

    def test_pauses(self) -> None:
        """The first resumption is at once, those that follow without success wait."""
        broken = AutoReconnect("x")
        stream = self.stream(opened(), got())
        self.successResultOf(stream.try_next())
        fails: list[Script] = [broken, opened(), {"ok": 1.0}]
        self.runner.replies.extend([*fails, *fails, *fails, got("a")])
        result = stream.next()
        counts = []
        for _ in range(4):
            counts.append(self.names().count("aggregate"))
            self.runner.clock.advance(0.2)
        self.assertEqual(counts[0], 3)
        self.assertEqual(self.successResultOf(result), change("a"))
        self.assertEqual(self.names().count("aggregate"), 4)

    def test_cancel(self) -> None:
        """A cancelled call loses nothing: the next one resumes."""
        stream = self.stream(opened("a"), Deferred(), {"ok": 1.0}, opened("b"))
        self.successResultOf(stream.next())
        waiting = stream.next()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(stream.alive)
        self.assertEqual(stream.resume_token, {"_data": "a"})
        self.assertEqual(self.successResultOf(stream.next()), change("b"))
        self.assertEqual(self.stages()[1], {"resumeAfter": {"_data": "a"}})

    def test_cancelled_opening(self) -> None:
        """A cancelled opening can be repeated."""
        stream = self.stream(Deferred(), opened("a"))
        waiting = stream.open()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.successResultOf(stream.next()), change("a"))

    def test_fragments(self) -> None:
        """Fragments of a split event come one by one, each with its token."""
        pieces = [
            {"_id": {"_data": "x", "_fragmentNum": n}, "splitEvent": {"fragment": n, "of": 2}}
            for n in (1, 2)
        ]
        reply = opened()
        reply["cursor"]["firstBatch"] = pieces
        stream = self.stream(reply)
        for piece in pieces:
            self.assertEqual(self.successResultOf(stream.next()), piece)
            self.assertEqual(stream.resume_token, piece["_id"])


class TimeoutTests(ChangeStreamCase):
    """
    Client-side operation timeouts.
    """

    def test_deadlines(self) -> None:
        """The opening and each call have the whole time, and getMore does not tell it."""
        stream = self.stream(opened(), got(), got("a"), timeout=9)
        self.successResultOf(stream.open())
        self.runner.clock.advance(3)
        self.successResultOf(stream.next())
        deadlines = [command.deadline for command in self.runner.commands]
        self.assertEqual(deadlines, [9, 12, 12])
        told = [command.sends_max_time for command in self.runner.commands]
        self.assertEqual(told, [True, False, False])

    def test_whole_resumption(self) -> None:
        """A resumption is within the time of its call."""
        later: Deferred[dict[str, Any]] = Deferred()
        stream = self.stream(opened(), later, opened("a"), timeout=9)
        waiting = stream.next()
        self.runner.clock.advance(4)
        later.errback(AutoReconnect("x"))
        self.successResultOf(waiting)
        self.assertEqual({command.deadline for command in self.runner.commands[:3]}, {9})

    def test_resumes_after_timeout(self) -> None:
        """A timeout leaves the stream alive, and the next call resumes."""
        for error in (NetworkTimeout("late"), ExecutionTimeout("late", 50)):
            stream = self.stream(opened("a"), error, {"ok": 1.0}, opened("b"), timeout=9)
            self.successResultOf(stream.next())
            self.failureResultOf(stream.next(), type(error))
            self.assertTrue(stream.alive)
            self.assertEqual(self.names(), ["aggregate", "getMore"])
            self.assertEqual(self.successResultOf(stream.next()), change("b"))
            self.assertEqual(self.stages()[1], {"resumeAfter": {"_data": "a"}})

    def test_timed_out_resumption(self) -> None:
        """So does one while resuming."""
        late = ExecutionTimeout("late", 50)
        stream = self.stream(opened("a"), AutoReconnect("x"), late, opened("b"), timeout=9)
        self.successResultOf(stream.next())
        self.failureResultOf(stream.next(), ExecutionTimeout)
        self.assertTrue(stream.alive)
        result = stream.next()
        self.runner.clock.advance(1)
        self.assertEqual(self.successResultOf(result), change("b"))

    def test_no_limit(self) -> None:
        """With the limit lifted a network timeout is resumed after at once."""
        stream = self.stream(opened("a"), NetworkTimeout("x"), {"ok": 1.0}, opened("b"), timeout=0)
        self.successResultOf(stream.next())
        self.assertEqual(self.successResultOf(stream.next()), change("b"))

    def test_raw(self) -> None:
        """Tokens survive the way over BSON, whatever is in them."""
        token = {"_data": "x", "_typeBits": bson.Binary(b"\x01", 5)}
        stream = self.stream(opened(postBatchResumeToken=token))
        self.successResultOf(stream.open())
        self.assertEqual(stream.resume_token, token)
