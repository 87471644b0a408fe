"""
Gives conversations that log in what they want: threads, files, time, HTTP,
tokens and Kerberos.  Commands are the connection's own matter.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from txmongokit._net.kerberos import load_kerberos, open_context
from txmongokit._net.oidc import TokenSource
from txmongokit._sansio.auth import LoginMemory
from txmongokit._sansio.conversation import (
    Derivation,
    HTTPRequest,
    Pause,
    ReadFile,
    SecurityContextWanted,
    Step,
    Surroundings,
    SurroundingsWanted,
    TokenWanted,
    Wanted,
    Work,
)
from txmongokit.errors import ConfigurationError, PyMongoError

__all__ = ["Authenticator", "botocore_keys"]

ResultT = TypeVar("ResultT")

# No token is longer.
_LARGEST_FILE = 1 << 16


def botocore_keys() -> Callable[[], Any] | None:
    """
    What gives AWS keys by C{botocore}, which renews them by itself; C{None}
    where it is not installed.
    """
    if find_spec("botocore") is None:
        return None
    found: list[Any] = []

    def keys() -> Any:
        if not found:
            credentials = import_module("botocore.session").get_session().get_credentials()
            if credentials is None:
                return None
            found.append(credentials)
        try:
            return found[0].get_frozen_credentials()
        except Exception as error:
            found.clear()
            raise ConfigurationError(f"botocore: {error}") from error

    return keys


class Authenticator:
    """
    Has conversations for one client.

    @param agent: for requests over HTTP; C{None} for Twisted's own.
    @param limit: seconds for making a connection; C{None} for any number.
    @param environ: the environment variables.
    @param now: the time of day, with its zone.
    @param sdk: gives AWS keys, in a thread; C{None} for nothing but our own.
    @param kerberos: gives the Kerberos library, in a thread.
    @ivar memory: what log-ins leave for one another.
    """

    def __init__(
        self,
        reactor: Any,
        agent: Any = None,
        limit: float | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sdk: Callable[[], Callable[[], Any] | None] = botocore_keys,
        kerberos: Callable[[], Any] = load_kerberos,
    ) -> None:
        self.memory = LoginMemory()
        self._reactor = reactor
        self._agent = agent
        self._environ = environ
        self._now = now
        self._find_sdk = sdk
        self._sdk: Callable[[], Any] | None = None
        self._kerberos = kerberos
        self._tokens = TokenSource(self._in_thread, self.converse, limit)

    async def converse(
        self,
        conversation: Generator[Wanted, Any, ResultT],
        ask: Callable[[Step], Awaitable[Any]] | None = None,
    ) -> ResultT:
        """
        Have a conversation.

        @param ask: sends a command and gives the reply.
        @return: what the conversation returns.
        """
        try:
            wanted = next(conversation)
            while True:
                try:
                    if isinstance(wanted, Step):
                        assert ask is not None
                        answer = await ask(wanted)
                    else:
                        answer = await self._answer(wanted)
                except PyMongoError as error:
                    if isinstance(wanted, Step):
                        raise
                    wanted = conversation.throw(error)
                else:
                    wanted = conversation.send(answer)
        except StopIteration as stop:
            result: ResultT = stop.value
            return result
        finally:
            conversation.close()

    def _answer(self, wanted: Wanted) -> Deferred[Any]:
        if isinstance(wanted, Derivation):
            return self._in_thread(wanted.key)
        if isinstance(wanted, Work):
            return self._in_thread(wanted.call)
        if isinstance(wanted, Pause):
            return deferLater(self._reactor, wanted.seconds)
        if isinstance(wanted, ReadFile):
            return self._in_thread(partial(_read, wanted))
        if isinstance(wanted, TokenWanted):
            return self._tokens.token(wanted)
        if isinstance(wanted, SurroundingsWanted):
            return succeed(self._surroundings())
        if isinstance(wanted, SecurityContextWanted):
            return self._in_thread(partial(open_context, wanted, self._kerberos))
        assert isinstance(wanted, HTTPRequest)
        # Few log-ins need it, and importing an HTTP client takes a while.
        from txmongokit._net.httprequests import Requester

        return Requester(self._reactor, self._agent).ask(wanted)

    def _in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        """The reactor has other things to do meanwhile."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _surroundings(self) -> Surroundings:
        if self._sdk is None:
            self._sdk = self._find_sdk()
        return Surroundings(self._environ, self._now(), self._sdk)


def _read(wanted: ReadFile) -> bytes:
    try:
        with open(wanted.path, "rb") as file:
            return file.read(_LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{wanted.reason}: {wanted.path!r} cannot be read: {reason}"
        ) from error
