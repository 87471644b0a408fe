"""
What conversations that log in are made of: all that they may want, each as
data, and SASL's three words to a server.

A conversation is a generator.  It yields what it wants, is sent what came of
that, and has nothing to do with how.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import pbkdf2_hmac
from typing import Any, NamedTuple, Protocol

from txmongokit._pymongo import raise_command_error
from txmongokit.credentials import Credentials
from txmongokit.errors import MongoAuthenticationError, OperationFailure

__all__ = [
    "AUTHENTICATION_FAILED",
    "Conversation",
    "Derivation",
    "HTTPRequest",
    "HTTPResponse",
    "Pause",
    "ReadFile",
    "SecurityContext",
    "SecurityContextWanted",
    "Step",
    "Surroundings",
    "SurroundingsWanted",
    "TokenWanted",
    "Wanted",
    "Work",
    "check_reply",
    "distrust",
    "payload_of",
    "sasl_continue",
    "sasl_start",
]

# The server's code for a refused log-in, and ours where we refuse the server.
AUTHENTICATION_FAILED = 18


class Step(NamedTuple):
    """
    A command to send, uncompressed, on the connection that logs in.  What is
    sent back is the reply, whether C{ok} or not.
    """

    database: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Derivation:
    """
    A salted password that is long in the making (RFC 5802, C{Hi}).  What is
    sent back is the key.

    @ivar digest: C{sha1} or C{sha256}.
    @ivar secret: the password, or what stands for it.
    """

    digest: str
    secret: bytes = field(repr=False)
    salt: bytes
    iterations: int

    def key(self) -> bytes:
        """
        Make it.  Other threads can work meanwhile.
        """
        return pbkdf2_hmac(self.digest, self.secret, self.salt, self.iterations)


@dataclass(frozen=True, slots=True)
class Work:
    """
    What would keep a reactor waiting, to be called in a thread.  What is
    sent back is what it returns.
    """

    call: Callable[[], Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pause:
    """
    Some seconds to wait.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class ReadFile:
    """
    A small file.  What is sent back is its bytes.

    @ivar reason: what named it, for messages.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """
    What to ask over HTTP.  What is sent back is an L{HTTPResponse}.

    @ivar seconds: how long to wait at the most.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    seconds: float = 10.0


class HTTPResponse(NamedTuple):
    """
    What came of an L{HTTPRequest}.
    """

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SurroundingsWanted:
    """
    The process's environment and the time.  What is sent back is
    L{Surroundings}.
    """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What a conversation may have to know of where it takes place.

    @ivar environ: the environment variables.
    @ivar now: the time of day, with its zone.
    @ivar sdk: gives AWS keys by C{botocore}, in a thread; C{None} where that
        is not installed.
    """

    environ: Mapping[str, str] = field(repr=False)
    now: datetime
    sdk: Callable[[], Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """
    An OIDC access token: one that is remembered, or else a new one of the
    user's callback or of the environment.  What is sent back is its text.

    @ivar tokens: the client's C{TokenCache}.
    @ivar idp_info: what the server says of the identity provider.
    @ivar refresh: whether the callback is given the remembered refresh token.
    """

    credentials: Credentials
    tokens: Any = field(repr=False)
    idp_info: Mapping[str, Any] | None = None
    refresh: bool = False


class SecurityContext(Protocol):
    """
    One log-in by Kerberos.  Texts are base64, as the libraries have it.
    """

    def step(self, challenge: str) -> tuple[str, bool]:
        """
        Answer a challenge; whether that was the last one.  Blocks.
        """

    def wrap(self, challenge: str, username: str) -> str:
        """
        Answer the last challenge, with who it is that logs in.  Blocks.
        """

    def close(self) -> None:
        """
        Forget everything.
        """


@dataclass(frozen=True, slots=True)
class SecurityContextWanted:
    """
    A L{SecurityContext} for one server.

    @ivar host: the server's name, before it is made canonical.
    """

    credentials: Credentials
    host: str


Wanted = (
    Step
    | Derivation
    | Work
    | Pause
    | ReadFile
    | HTTPRequest
    | SurroundingsWanted
    | TokenWanted
    | SecurityContextWanted
)

Conversation = Generator[Wanted, Any, "str | None"]
"""
What logs in.  Returns the access token that did it, if it was one.
"""


def distrust(reason: str) -> OperationFailure:
    """
    What to fail with where it is us who refuse to log in.
    """
    return MongoAuthenticationError(reason, AUTHENTICATION_FAILED)


def check_reply(reply: Mapping[str, Any], credentials: Credentials) -> None:
    """
    Judge a reply.

    @raise OperationFailure: the server refuses.
    @raise NotPrimaryError: it is shutting down.
    """
    if reply.get("ok"):
        return
    who = f"user {credentials.username!r} could not log in to {credentials.source!r}"
    if credentials.mechanism == "MONGODB-AWS" or credentials.username is None:
        who = f"{credentials.mechanism} could not log in"
    text = f"{who}: {reply.get('errmsg', 'no reason given')}"
    try:
        raise_command_error({"code": AUTHENTICATION_FAILED, **reply, "errmsg": text}, None)
    except OperationFailure as error:
        if type(error) is OperationFailure:
            raise MongoAuthenticationError(text, error.code, error.details) from None
        raise


def sasl_start(mechanism: str, payload: bytes | str, **more: Any) -> dict[str, Any]:
    """
    The command that begins.
    """
    return {"saslStart": 1, "mechanism": mechanism, "payload": payload, **more}


def sasl_continue(identifier: Any, payload: bytes | str) -> dict[str, Any]:
    """
    The command that goes on.

    @param identifier: the reply's C{conversationId}.
    """
    return {"saslContinue": 1, "conversationId": identifier, "payload": payload}


def payload_of(reply: Mapping[str, Any]) -> bytes:
    """
    What a reply holds for the mechanism; nothing where it is no binary.
    """
    payload = reply.get("payload")
    return payload if isinstance(payload, bytes) else b""
