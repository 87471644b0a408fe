"""
Logging in: which mechanism, and those that need nothing but a user name and
a password or a certificate (SCRAM, PLAIN, MONGODB-X509, MONGODB-CR).

Follows the drivers' authentication specification, RFC 5802 and RFC 7677.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any, NoReturn

from txmongokit._pymongo import saslprep
from txmongokit._sansio import auth_aws, auth_gssapi, auth_oidc
from txmongokit._sansio.auth_aws import AWSKeyCache
from txmongokit._sansio.auth_oidc import TokenCache
from txmongokit._sansio.conversation import (
    Conversation,
    Derivation,
    Step,
    check_reply,
    distrust,
    payload_of,
    sasl_continue,
    sasl_start,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import ConfigurationError

__all__ = ["KeyCache", "LoginMemory", "authenticate", "speculate"]

_DIGESTS = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}
_MIN_ITERATIONS = 4096
# A hostile server could otherwise keep us hashing for ever; this many take
# about half a second.
_MAX_ITERATIONS = 2_000_000
# Servers ask for 15,000 unless told otherwise: a few milliseconds.
_SHORT = 20_000
_HEADER = b"n,,"


class KeyCache:
    """
    Salted passwords by what they were made of, since making one is slow on
    purpose.  It holds no password.

    @param limit: how many are kept.
    """

    def __init__(self, limit: int = 16) -> None:
        self._limit = limit
        self._keys: dict[tuple[Any, ...], bytes] = {}

    def salted(self, wanted: Derivation) -> Generator[Derivation, bytes, bytes]:
        """
        The salted password: remembered, made at once if that is short, or
        asked for by yielding C{wanted}.
        """
        secret = hmac.digest(b"txmongokit", wanted.secret, "sha256")
        name = (wanted.digest, secret, wanted.salt, wanted.iterations)
        known = self._keys.get(name)
        if known is None:
            known = wanted.key() if wanted.iterations <= _SHORT else (yield wanted)
            if len(self._keys) >= self._limit:
                self._keys.clear()
            self._keys[name] = known
        return known


@dataclass(slots=True)
class LoginMemory:
    """
    What one client remembers between log-ins.
    """

    keys: KeyCache = field(default_factory=KeyCache)
    tokens: TokenCache = field(default_factory=TokenCache)
    aws: AWSKeyCache = field(default_factory=AWSKeyCache)


class _Scram:
    """One SCRAM conversation's arithmetic."""

    def __init__(
        self, credentials: Credentials, mechanism: str, nonce: bytes, keys: KeyCache
    ) -> None:
        self.mechanism = mechanism
        self.source = credentials.source
        self._digest = _DIGESTS[mechanism]
        self._keys = keys
        username, password = credentials.username or "", credentials.password or ""
        if mechanism == "SCRAM-SHA-1":
            # The server stores this digest in place of the password.
            self._secret = _password_digest(username, password).encode()
        else:
            self._secret = saslprep(password).encode()
        name = username.encode().replace(b"=", b"=3D").replace(b",", b"=2C")
        self._nonce = b64encode(nonce)
        self._first_bare = b"n=" + name + b",r=" + self._nonce
        self._server_signature = b""

    def start(self) -> dict[str, Any]:
        """The C{saslStart} command."""
        return sasl_start(
            self.mechanism,
            _HEADER + self._first_bare,
            autoAuthorize=1,
            options={"skipEmptyExchange": True},
        )

    def prove(self, server_first: bytes) -> Generator[Derivation, bytes, bytes]:
        """The message that proves that we know the password."""
        fields = _fields(server_first)
        try:
            nonce, iterations = fields[b"r"], int(fields[b"i"])
            salt = b64decode(fields[b"s"], validate=True)
            if b"m" in fields:
                raise ValueError("an extension that must be understood")
        except (KeyError, ValueError) as error:
            raise distrust("the server's SCRAM challenge cannot be read") from error
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise distrust("the server's SCRAM nonce does not continue ours")
        if not _MIN_ITERATIONS <= iterations <= _MAX_ITERATIONS:
            raise distrust(
                f"the server asks for {iterations} SCRAM iterations, which is outside "
                f"{_MIN_ITERATIONS} to {_MAX_ITERATIONS}"
            )
        without_proof = b"c=" + b64encode(_HEADER) + b",r=" + nonce
        message = b",".join((self._first_bare, server_first, without_proof))
        salted = yield from self._keys.salted(
            Derivation(self._digest, self._secret, salt, iterations)
        )
        client_key = hmac.digest(salted, b"Client Key", self._digest)
        stored_key = _hash(client_key, self._digest)
        signature = hmac.digest(stored_key, message, self._digest)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", self._digest)
        self._server_signature = hmac.digest(server_key, message, self._digest)
        return without_proof + b",p=" + b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """Check that the server knows the password, too."""
        fields = _fields(server_final)
        if b"e" in fields:
            raise distrust(f"the server refused: {fields[b'e'].decode('utf-8', 'replace')}")
        try:
            signature = b64decode(fields.get(b"v", b""), validate=True)
        except ValueError:
            signature = b""
        if not hmac.compare_digest(signature, self._server_signature):
            raise distrust(
                "the server could not prove that it knows the password: is it the right server?"
            )


def _password_digest(username: str, password: str) -> str:
    """What servers store in place of a password, but for SHA-256."""
    return md5(f"{username}:mongo:{password}".encode(), usedforsecurity=False).hexdigest()


def _hash(data: bytes, digest: str) -> bytes:
    return hashlib.new(digest, data).digest()


def _fields(message: bytes) -> dict[bytes, bytes]:
    pairs = (part.partition(b"=") for part in message.split(b","))
    return {name: value for name, _, value in pairs}


def speculate(
    credentials: Credentials, nonce: Callable[[], bytes], memory: LoginMemory, host: str = ""
) -> tuple[dict[str, Any], _Scram | str | None] | None:
    """
    The first step of logging in, to be sent along with C{hello}.

    @param host: the server's name or literal address.

    @return: what C{speculativeAuthenticate} is, and the state to give to
        L{authenticate}; C{None} where the mechanism has no such thing.
    """
    mechanism = credentials.mechanism
    if mechanism == "MONGODB-X509":
        return {**_x509(credentials), "db": "$external"}, None
    if mechanism == "MONGODB-OIDC":
        return auth_oidc.speculation(credentials, memory.tokens, host)
    if mechanism == "DEFAULT":
        mechanism = "SCRAM-SHA-256"
    if mechanism not in _DIGESTS:
        return None
    try:
        scram = _Scram(credentials, mechanism, nonce(), memory.keys)
    except ConfigurationError:
        # SHA-256 does not allow this password; SHA-1, if it comes to that, may.
        return None
    return {**scram.start(), "db": credentials.source}, scram


def authenticate(
    credentials: Credentials,
    *,
    mechanisms: list[str] | None,
    nonce: Callable[[], bytes],
    memory: LoginMemory,
    host: str = "",
    begun: _Scram | str | None = None,
    reply: Mapping[str, Any] | None = None,
) -> Conversation:
    """
    Log in.

    @param mechanisms: what the server has for the user
        (C{saslSupportedMechs}).
    @param host: the server's name or literal address.
    @param begun: what L{speculate} gave.
    @param reply: the server's C{speculativeAuthenticate}.

    @return: the OIDC access token that did it, C{None} otherwise.
    @raise OperationFailure: the server refuses, or is not what it says.
    @raise NotPrimaryError: the server is shutting down.
    @raise ConfigurationError: the mechanism is not supported, or lacks
        something.
    """
    mechanism = credentials.mechanism
    if mechanism == "DEFAULT":
        known = mechanisms is not None and "SCRAM-SHA-256" in mechanisms
        mechanism = "SCRAM-SHA-256" if known else "SCRAM-SHA-1"
    if mechanism in _DIGESTS:
        if not isinstance(begun, _Scram) or reply is None or begun.mechanism != mechanism:
            begun = _Scram(credentials, mechanism, nonce(), memory.keys)
            reply = yield Step(credentials.source, begun.start())
            check_reply(reply, credentials)
        # A speculative reply is there only if it succeeded, and has no "ok".
        yield from _scram(credentials, begun, reply)
    elif mechanism == "MONGODB-X509":
        if reply is None:
            check_reply((yield Step("$external", _x509(credentials))), credentials)
    elif mechanism == "PLAIN":
        yield from _plain(credentials)
    elif mechanism == "MONGODB-AWS":
        yield from auth_aws.converse(credentials, nonce, memory.aws)
    elif mechanism == "MONGODB-OIDC":
        spoken = begun if isinstance(begun, str) else None
        return (yield from auth_oidc.converse(credentials, memory.tokens, host, spoken, reply))
    elif mechanism == "GSSAPI":
        yield from auth_gssapi.converse(credentials, host)
    elif mechanism == "MONGODB-CR":
        yield from _challenge_response(credentials)
    else:
        raise ConfigurationError(f"authMechanism={mechanism} is not supported by this version")
    return None


def _scram(
    credentials: Credentials, scram: _Scram, reply: Mapping[str, Any]
) -> Generator[Step | Derivation, Any, None]:
    identifier = reply.get("conversationId")
    proof = yield from scram.prove(payload_of(reply))
    reply = yield Step(scram.source, sasl_continue(identifier, proof))
    check_reply(reply, credentials)
    scram.verify(payload_of(reply))
    if not reply.get("done"):
        reply = yield Step(scram.source, sasl_continue(identifier, b""))
        check_reply(reply, credentials)
        if not reply.get("done"):
            raise distrust("the server does not end the SCRAM conversation")


def _plain(credentials: Credentials) -> Generator[Step, Any, None]:
    payload = f"\0{credentials.username}\0{credentials.password}".encode()
    start = sasl_start("PLAIN", payload, autoAuthorize=1)
    check_reply((yield Step(credentials.source, start)), credentials)


def _x509(credentials: Credentials) -> dict[str, Any]:
    body: dict[str, Any] = {"authenticate": 1, "mechanism": "MONGODB-X509"}
    if credentials.username is not None:
        body["user"] = credentials.username
    return body


def _challenge_response(credentials: Credentials) -> Generator[Step, Any, None]:
    """MONGODB-CR, which servers have had until 3.6."""
    reply = yield Step(credentials.source, {"getnonce": 1})
    nonce = reply.get("nonce")
    if not reply.get("ok") or not isinstance(nonce, str):
        _refuse_challenge_response(credentials, reply)
    username = credentials.username or ""
    digest = _password_digest(username, credentials.password or "")
    key = md5(f"{nonce}{username}{digest}".encode(), usedforsecurity=False).hexdigest()
    body = {"authenticate": 1, "user": username, "nonce": nonce, "key": key}
    reply = yield Step(credentials.source, body)
    if not reply.get("ok"):
        _refuse_challenge_response(credentials, reply)


def _refuse_challenge_response(credentials: Credentials, reply: Mapping[str, Any]) -> NoReturn:
    # A server that has dropped it says so in many ways, "authentication
    # failed" among them.
    text = (
        f"{reply.get('errmsg', 'no nonce')} (MongoDB 4.0 has dropped MONGODB-CR: leave "
        "authMechanism out, or use SCRAM-SHA-1)"
    )
    check_reply({**reply, "ok": 0, "errmsg": text}, credentials)
    raise AssertionError("a refusal was taken")
