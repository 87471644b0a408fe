"""
Logging in, as conversations: each step yields a command and is sent its
reply, or yields work that is too long for a reactor and is sent its result.

Follows the drivers' authentication specification, RFC 5802 and RFC 7677.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from hashlib import md5, pbkdf2_hmac
from typing import Any, NamedTuple

from txmongokit._pymongo import raise_command_error, saslprep
from txmongokit.errors import ConfigurationError, OperationFailure
from txmongokit.options import Credentials

__all__ = [
    "AUTHENTICATION_FAILED",
    "Conversation",
    "Derivation",
    "KeyCache",
    "Step",
    "authenticate",
    "speculate",
]

# The server's code for a refused log-in, and ours where we refuse the server.
AUTHENTICATION_FAILED = 18


class Step(NamedTuple):
    """
    A command to send, uncompressed, on the connection that logs in.
    """

    database: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Derivation:
    """
    A salted password that is long in the making (RFC 5802, C{Hi}).

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


Conversation = Generator[Step | Derivation, Any, None]

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
            self._secret = (
                md5(f"{username}:mongo:{password}".encode(), usedforsecurity=False)
                .hexdigest()
                .encode()
            )
        else:
            self._secret = saslprep(password).encode()
        name = username.encode().replace(b"=", b"=3D").replace(b",", b"=2C")
        self._nonce = b64encode(nonce)
        self._first_bare = b"n=" + name + b",r=" + self._nonce
        self._server_signature = b""

    def start(self) -> dict[str, Any]:
        """The C{saslStart} command."""
        return {
            "saslStart": 1,
            "mechanism": self.mechanism,
            "payload": _HEADER + self._first_bare,
            "autoAuthorize": 1,
            "options": {"skipEmptyExchange": True},
        }

    def prove(self, server_first: bytes) -> Generator[Derivation, bytes, bytes]:
        """The message that proves that we know the password."""
        fields = _fields(server_first)
        try:
            nonce, iterations = fields[b"r"], int(fields[b"i"])
            salt = b64decode(fields[b"s"], validate=True)
            if b"m" in fields:
                raise ValueError("an extension that must be understood")
        except (KeyError, ValueError) as error:
            raise _distrust("the server's SCRAM challenge cannot be read") from error
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise _distrust("the server's SCRAM nonce does not continue ours")
        if not _MIN_ITERATIONS <= iterations <= _MAX_ITERATIONS:
            raise _distrust(
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
            raise _distrust(f"the server refused: {fields[b'e'].decode('utf-8', 'replace')}")
        try:
            signature = b64decode(fields.get(b"v", b""), validate=True)
        except ValueError:
            signature = b""
        if not hmac.compare_digest(signature, self._server_signature):
            raise _distrust(
                "the server could not prove that it knows the password: is it the right server?"
            )


def _distrust(reason: str) -> OperationFailure:
    return OperationFailure(reason, AUTHENTICATION_FAILED)


def _hash(data: bytes, digest: str) -> bytes:
    return hashlib.new(digest, data).digest()


def _fields(message: bytes) -> dict[bytes, bytes]:
    pairs = (part.partition(b"=") for part in message.split(b","))
    return {name: value for name, _, value in pairs}


def speculate(
    credentials: Credentials, nonce: Callable[[], bytes], keys: KeyCache
) -> tuple[dict[str, Any], _Scram | None] | None:
    """
    The first step of logging in, to be sent along with C{hello}.

    @return: what C{speculativeAuthenticate} is, and the state to give to
        L{authenticate}; C{None} where the mechanism has no such thing.
    """
    mechanism = credentials.mechanism
    if mechanism == "MONGODB-X509":
        return {**_x509(credentials), "db": "$external"}, None
    if mechanism == "DEFAULT":
        mechanism = "SCRAM-SHA-256"
    if mechanism not in _DIGESTS:
        return None
    try:
        scram = _Scram(credentials, mechanism, nonce(), keys)
    except ConfigurationError:
        # SHA-256 does not allow this password; SHA-1, if it comes to that, may.
        return None
    return {**scram.start(), "db": credentials.source}, scram


def authenticate(
    credentials: Credentials,
    *,
    mechanisms: list[str] | None,
    nonce: Callable[[], bytes],
    keys: KeyCache,
    begun: _Scram | None = None,
    reply: Mapping[str, Any] | None = None,
) -> Conversation:
    """
    Log in.  Yields each L{Step}, to be sent its reply, and each
    L{Derivation}, to be sent its key.

    @param mechanisms: what the server has for the user
        (C{saslSupportedMechs}).
    @param begun: what L{speculate} gave.
    @param reply: the server's C{speculativeAuthenticate}.

    @raise OperationFailure: the server refuses, or is not what it says.
    @raise NotPrimaryError: the server is shutting down.
    @raise ConfigurationError: the mechanism is not supported.
    """
    mechanism = credentials.mechanism
    if mechanism == "DEFAULT":
        known = mechanisms is not None and "SCRAM-SHA-256" in mechanisms
        mechanism = "SCRAM-SHA-256" if known else "SCRAM-SHA-1"
    if mechanism == "MONGODB-X509":
        if reply is None:
            _check((yield Step("$external", _x509(credentials))), credentials)
    elif mechanism == "PLAIN":
        yield from _plain(credentials)
    elif mechanism in _DIGESTS:
        if begun is None or reply is None or begun.mechanism != mechanism:
            begun = _Scram(credentials, mechanism, nonce(), keys)
            reply = yield Step(credentials.source, begun.start())
            _check(reply, credentials)
        # A speculative reply is there only if it succeeded, and has no "ok".
        yield from _scram(credentials, begun, reply)
    else:
        raise ConfigurationError(f"authMechanism={mechanism} is not supported by this version")


def _scram(credentials: Credentials, scram: _Scram, reply: Mapping[str, Any]) -> Conversation:
    identifier = reply.get("conversationId")
    proof = yield from scram.prove(_payload(reply))
    reply = yield Step(scram.source, _continue(identifier, proof))
    _check(reply, credentials)
    scram.verify(_payload(reply))
    if not reply.get("done"):
        reply = yield Step(scram.source, _continue(identifier, b""))
        _check(reply, credentials)
        if not reply.get("done"):
            raise _distrust("the server does not end the SCRAM conversation")


def _payload(reply: Mapping[str, Any]) -> bytes:
    payload = reply.get("payload")
    return payload if isinstance(payload, bytes) else b""


def _continue(identifier: Any, payload: bytes) -> dict[str, Any]:
    return {"saslContinue": 1, "conversationId": identifier, "payload": payload}


def _plain(credentials: Credentials) -> Conversation:
    payload = f"\0{credentials.username}\0{credentials.password}".encode()
    start = {
        "saslStart": 1,
        "mechanism": "PLAIN",
        "payload": payload,
        "autoAuthorize": 1,
    }
    _check((yield Step(credentials.source, start)), credentials)


def _x509(credentials: Credentials) -> dict[str, Any]:
    body: dict[str, Any] = {"authenticate": 1, "mechanism": "MONGODB-X509"}
    if credentials.username is not None:
        body["user"] = credentials.username
    return body


def _check(reply: Mapping[str, Any], credentials: Credentials) -> None:
    if reply.get("ok"):
        return
    text = (
        f"user {credentials.username!r} could not log in to {credentials.source!r}: "
        f"{reply.get('errmsg', 'no reason given')}"
    )
    raise_command_error({"code": AUTHENTICATION_FAILED, **reply, "errmsg": text}, None)
