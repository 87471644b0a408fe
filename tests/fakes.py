"""
A fake of what runs commands.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import bson
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer

from txmongokit._pymongo import raise_command_error
from txmongokit._sansio.commands.base import Command, CommandOptions, Request
from txmongokit._sansio.transactions import ServerSessionPool, SessionState
from txmongokit.interfaces import IOperationRunner
from txmongokit.types import ConnectionInfo

ADDRESS = ("holder", 27017)
INFO = ConnectionInfo(ADDRESS, 2, max_wire_version=17)

Script = dict[str, Any] | Exception | Deferred[dict[str, Any]]


def cursor_reply(
    documents: list[Any], cursor_id: int = 0, *, more: bool = False, namespace: str = "db.things"
) -> dict[str, Any]:
    """A cursor command's reply; C{more} for that of a getMore."""
    batch = "nextBatch" if more else "firstBatch"
    return {"cursor": {batch: documents, "id": bson.Int64(cursor_id), "ns": namespace}, "ok": 1.0}


@implementer(IOperationRunner)
class FakeRunner:
    """
    Records commands as they are built, and answers from a script.

    @ivar commands: each command that was run.
    @ivar requests: what each put on the wire.
    @ivar sessions: the session that each was run in.
    @ivar ended: the sessions that were given back.
    """

    def __init__(self, *replies: Script, info: ConnectionInfo = INFO) -> None:
        self.options = CommandOptions()
        self.clock = Clock()
        self.info = info
        self.replies = deque(replies)
        self.commands: list[Command[Any]] = []
        self.requests: list[Request] = []
        self.sessions: list[SessionState | None] = []
        self.ended: list[SessionState] = []
        self._identifiers = ServerSessionPool(lambda: bytes(16))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The command documents."""
        return [request.body for request in self.requests]

    @property
    def names(self) -> list[str]:
        """The commands' names."""
        return [command.name for command in self.commands]

    def statements(self, index: int = 0) -> list[dict[str, Any]]:
        """One request's document sequence, decoded."""
        return [bson.decode(raw) for raw in self.requests[index].sequences[0][1]]

    def run(self, command: Command[Any], session: SessionState | None = None) -> Deferred[Any]:
        """The next reply of the script, through the command's own parser."""
        self.commands.append(command)
        try:
            self.requests.append(command.build(self.info))
        except Exception:
            return fail()
        self.sessions.append(session)
        reply = self.replies.popleft() if self.replies else {"ok": 1.0}
        if isinstance(reply, Exception):
            return fail(reply)
        answered = reply if isinstance(reply, Deferred) else succeed(reply)

        def parsed(document: dict[str, Any]) -> Any:
            reply = command.decode(bson.encode(document))
            if not reply.get("ok", 1) and not command.tolerates(reply):
                raise_command_error(reply, self.info.max_wire_version)
            return command.parse(reply, self.info)

        return answered.addCallback(parsed)

    def run_in_order(
        self, commands: Iterable[Command[Any]], session: SessionState
    ) -> Deferred[list[Any]]:
        """Each by itself."""

        async def all_of_them() -> list[Any]:
            return [await self.run(command, session) for command in commands]

        return Deferred.fromCoroutine(all_of_them())

    def stream(
        self,
        command: Command[Any],
        session: SessionState | None,
        on_result: Callable[[Any], Deferred[None] | None],
    ) -> Deferred[None]:
        """The script's next reply, and those after it while C{id} is not 0."""

        def more(result: Any) -> Deferred[None]:
            waiting = on_result(result)
            if not result.cursor_id:
                return waiting or succeed(None)
            answered = self.run(command, session)
            return (waiting or succeed(None)).addCallback(lambda _: answered.addCallback(more))

        return self.run(command, session).addCallback(more)

    def seconds(self) -> float:
        """The clock's."""
        return self.clock.seconds()

    def sleep(self, seconds: float) -> Deferred[None]:
        """On the clock."""
        return deferLater(self.clock, seconds)

    def soon(self, function: Callable[[], object]) -> None:
        """When the clock is advanced."""
        self.clock.callLater(0, function)

    def deadline(self, options: CommandOptions) -> float | None:
        """By the option alone."""
        if options.timeout is None:
            return None
        return self.clock.seconds() + options.timeout if options.timeout else math.inf

    def take_session(self, **options: Any) -> SessionState:
        """A session of its own."""
        return SessionState(self._identifiers.take(0.0, None), **options)

    def release_session(self, session: SessionState) -> None:
        """Remembered."""
        if session.server_session is not None:
            self.ended.append(session)
            session.server_session = None
