"""
New access tokens for MONGODB-OIDC: of the user's callback, or of the cloud
that this runs in.  One is asked for at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from pymongo.auth_oidc import OIDCCallbackContext, OIDCCallbackResult, OIDCIdPInfo
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txmongokit._sansio.auth_oidc import environment_token
from txmongokit._sansio.conversation import TokenWanted, Wanted, distrust
from txmongokit.credentials import HUMAN_SECONDS

__all__ = ["TokenSource"]

_MACHINE_SECONDS = 60.0
_VERSION = 1


class TokenSource:
    """
    Asks for the tokens of one client.

    @param in_thread: calls something in a thread.
    @param converse: answers what a conversation without a server wants.
    @param seconds: how long a machine's callback may take.
    """

    def __init__(
        self,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        converse: Callable[[Generator[Wanted, Any, str]], Awaitable[str]],
        seconds: float | None,
    ) -> None:
        self._in_thread = in_thread
        self._converse = converse
        self._seconds = seconds or _MACHINE_SECONDS
        self._waiting: list[Deferred[str]] | None = None

    def token(self, wanted: TokenWanted) -> Deferred[str]:
        """
        The token that is remembered, or a new one, which is then remembered.

        @return: fires with it; fails with L{OperationFailure} where there is
            none.  Cancelling ends the wait; what was asked for is remembered
            nevertheless when it comes.
        """
        waiting: Deferred[str] = Deferred()
        known = wanted.tokens.access_token
        if known is not None:
            waiting.callback(known)
        elif self._waiting is not None:
            self._waiting.append(waiting)
        else:
            self._waiting = [waiting]
            Deferred.fromCoroutine(self._fetched(wanted)).addBoth(self._tell)
        return waiting

    def _tell(self, result: str | Failure) -> None:
        waiting, self._waiting = self._waiting or [], None
        for each in waiting:
            if not each.called:
                each.callback(result)

    async def _fetched(self, wanted: TokenWanted) -> str:
        owner = wanted.tokens.owner
        if "ENVIRONMENT" in wanted.credentials.properties:
            token, refresh_token = await self._converse(environment_token(wanted.credentials)), None
        else:
            token, refresh_token = await self._called_back(wanted)
        if wanted.tokens.owner == owner:
            wanted.tokens.access_token = token
            wanted.tokens.refresh_token = refresh_token
        return token

    async def _called_back(self, wanted: TokenWanted) -> tuple[str, str | None]:
        properties, info = wanted.credentials.properties, wanted.idp_info
        human = wanted.credentials.of_human
        callback = properties["OIDC_HUMAN_CALLBACK" if human else "OIDC_CALLBACK"]
        context = OIDCCallbackContext(
            timeout_seconds=HUMAN_SECONDS if human else self._seconds,
            username=wanted.credentials.username or "",
            version=_VERSION,
            refresh_token=wanted.tokens.refresh_token if wanted.refresh else None,
            idp_info=None
            if info is None
            else OIDCIdPInfo(info["issuer"], info.get("clientId"), info.get("requestScopes")),
        )
        try:
            result = await self._in_thread(lambda: callback.fetch(context))
            if inspect.isawaitable(result):
                # Of an "async def fetch", which runs here.
                result = await result
        except Exception as error:
            raise distrust(
                f"MONGODB-OIDC: the callback failed with {type(error).__name__}: {error}"
            ) from error
        if not isinstance(result, OIDCCallbackResult) or not isinstance(result.access_token, str):
            raise distrust(
                "MONGODB-OIDC: the callback must return an OIDCCallbackResult with a token, "
                f"not a {type(result).__name__}"
            )
        if result.expires_in_seconds is not None and result.expires_in_seconds < 0:
            raise distrust("MONGODB-OIDC: the callback returns a token that has expired")
        return result.access_token, result.refresh_token
