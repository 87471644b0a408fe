"""
GSSAPI: logging in by Kerberos.

Follows the drivers' authentication specification and RFC 4752.  What is
Kerberos's own is done by a library, in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from txmongokit._sansio.conversation import (
    Conversation,
    SecurityContext,
    SecurityContextWanted,
    Step,
    Work,
    check_reply,
    distrust,
    sasl_continue,
    sasl_start,
)
from txmongokit.credentials import Credentials

__all__ = ["converse"]

# No library needs as many; a server could go on for ever.
_MOST_ROUNDS = 10


def converse(credentials: Credentials, host: str) -> Conversation:
    """
    Log in.

    @param host: the server's name, as it was given.

    @raise ConfigurationError: there is no library for it.
    @raise OperationFailure: the server or Kerberos refuses.
    """
    name = credentials.properties.get("SERVICE_HOST") or host
    context: SecurityContext = yield SecurityContextWanted(credentials, name)
    try:
        answer, complete = yield Work(partial(context.step, ""))
        if complete:
            raise distrust("Kerberos ends before the server was asked: check its configuration")
        body = sasl_start("GSSAPI", answer, autoAuthorize=1)
        reply = yield Step("$external", body)
        check_reply(reply, credentials)
        for _ in range(_MOST_ROUNDS):
            answer, complete = yield Work(partial(context.step, _text(reply)))
            reply = yield Step("$external", sasl_continue(reply.get("conversationId"), answer))
            check_reply(reply, credentials)
            if complete:
                break
        else:
            raise distrust("the server does not end the GSSAPI conversation")
        answer = yield Work(partial(context.wrap, _text(reply), credentials.username or ""))
        reply = yield Step("$external", sasl_continue(reply.get("conversationId"), answer))
        check_reply(reply, credentials)
    finally:
        context.close()
    return None


def _text(reply: Mapping[str, Any]) -> str:
    """The libraries' base64, in which the server answers what it was sent in."""
    payload = reply.get("payload")
    if not isinstance(payload, str):
        raise distrust("the server's GSSAPI challenge cannot be read")
    return payload
