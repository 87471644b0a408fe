"""
The first words on a connection: who we are, what the server is, logging in.

Follows the drivers' handshake specification.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import bson
from pymongo.server_type import SERVER_TYPE

from txmongokit._pymongo import Hello
from txmongokit._sansio.auth import Conversation, KeyCache, Step, authenticate, speculate
from txmongokit.errors import ConfigurationError, OperationFailure, ProtocolError
from txmongokit.options import Credentials
from txmongokit.types import Address, ConnectionInfo, format_address

__all__ = ["HandshakeResult", "client_metadata", "handshake"]

_COMMAND_NOT_FOUND = 59
# 4.4, the oldest server that is supported.
_MIN_WIRE_VERSION = 9
# The server refuses more (handshake specification).
_METADATA_LIMIT = 512


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """
    What a finished handshake has found out.

    @ivar compressors: those that both sides know, ours first.
    @ivar hello: the server's whole reply.
    """

    info: ConnectionInfo
    compressors: tuple[str, ...]
    hello: Mapping[str, Any]


def client_metadata(app_name: str | None = None) -> dict[str, Any]:
    """
    How we introduce ourselves, at most 512 bytes of BSON.

    @raise ConfigurationError: C{app_name} is longer than 128 bytes.
    """
    if app_name is not None and len(app_name.encode()) > 128:
        raise ConfigurationError("appName may have at most 128 bytes: shorten it")
    try:
        own_version = version("txmongokit")
    except PackageNotFoundError:
        own_version = "0"  # used from a checkout
    metadata: dict[str, Any] = {}
    if app_name:
        metadata["application"] = {"name": app_name}
    metadata["driver"] = {"name": "txmongokit", "version": own_version}
    metadata["os"] = {
        "type": platform.system() or "unknown",
        "name": platform.system(),
        "architecture": platform.machine(),
        "version": platform.release(),
    }
    metadata["platform"] = f"{platform.python_implementation()} {platform.python_version()}|Twisted"
    if len(bson.encode(metadata)) > _METADATA_LIMIT:
        metadata["os"] = {"type": metadata["os"]["type"]}
    excess = len(bson.encode(metadata)) - _METADATA_LIMIT
    if excess > 0:
        metadata["platform"] = metadata["platform"].encode()[:-excess].decode("utf-8", "ignore")
    return metadata


def handshake(
    address: Address,
    *,
    metadata: Mapping[str, Any],
    credentials: Credentials | None,
    compressors: Sequence[str],
    server_api: Any,
    nonce: Callable[[], bytes],
    key_cache: KeyCache,
) -> Generator[Step, Mapping[str, Any], HandshakeResult]:
    """
    Introduce ourselves and log in.

    Yields commands, to be sent uncompressed; is sent their replies, whether
    C{ok} or not.

    @param credentials: C{None} to leave logging in out.
    @param nonce: gives random bytes.

    @raise OperationFailure: logging in failed, or C{hello} did.
    @raise ConfigurationError: the server is too old.
    @raise ProtocolError: what it answers is no reply to C{hello}.
    """
    body: dict[str, Any] = {"hello": 1, "helloOk": True, "client": metadata}
    if compressors:
        body["compression"] = list(compressors)
    begun = None
    if credentials is not None:
        if credentials.mechanism == "DEFAULT":
            body["saslSupportedMechs"] = f"{credentials.source}.{credentials.username}"
        speculation = speculate(credentials, nonce, key_cache)
        if speculation is not None:
            body["speculativeAuthenticate"], begun = speculation
    declared = _declaration(server_api)
    body.update(declared)
    reply = yield Step("admin", body)
    if reply.get("code") == _COMMAND_NOT_FOUND:
        del body["hello"]
        reply = yield Step("admin", {"isMaster": 1, **body})
    if not reply.get("ok"):
        raise OperationFailure(
            f"{format_address(address)}: hello was refused: {reply.get('errmsg')}",
            reply.get("code"),
            dict(reply),
        )
    _check_types(address, reply)
    hello = Hello(dict(reply))
    info = _info(address, hello)
    if credentials is not None and info.server_type != SERVER_TYPE.RSArbiter:
        conversation = authenticate(
            credentials,
            mechanisms=reply.get("saslSupportedMechs"),
            nonce=nonce,
            keys=key_cache,
            begun=begun,
            reply=reply.get("speculativeAuthenticate"),
        )
        yield from _declaring(conversation, declared)
    offered = reply.get("compression") or ()
    agreed = tuple(name for name in compressors if name in offered)
    return HandshakeResult(info, agreed, reply)


def _declaration(server_api: Any) -> dict[str, Any]:
    """What the stable API wants in every command (versioned API specification)."""
    if server_api is None:
        return {}
    parameters = {
        "apiVersion": server_api.version,
        "apiStrict": server_api.strict,
        "apiDeprecationErrors": server_api.deprecation_errors,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _declaring(conversation: Conversation, declared: Mapping[str, Any]) -> Conversation:
    step = next(conversation, None)
    while step is not None:
        reply = yield Step(step.database, {**step.body, **declared})
        try:
            step = conversation.send(reply)
        except StopIteration:
            return


# What is used here, and must therefore be what it should be.
_REPLY_TYPES: Mapping[str, type] = {
    "minWireVersion": int,
    "maxWireVersion": int,
    "saslSupportedMechs": list,
    "speculativeAuthenticate": Mapping,
    "compression": list,
}


def _check_types(address: Address, reply: Mapping[str, Any]) -> None:
    for name, wanted in _REPLY_TYPES.items():
        if not isinstance(reply.get(name), (wanted, type(None))):
            raise ProtocolError(
                f"{format_address(address)}: {name} in the reply to hello cannot be read: "
                "is it a MongoDB server?"
            )


def _info(address: Address, hello: Hello[dict[str, Any]]) -> ConnectionInfo:
    if hello.max_wire_version < _MIN_WIRE_VERSION:
        raise ConfigurationError(
            f"{format_address(address)} has wire version {hello.max_wire_version}, and at least "
            f"{_MIN_WIRE_VERSION} (MongoDB 4.4) is needed: upgrade the server"
        )
    return ConnectionInfo(
        address=address,
        server_type=hello.server_type,
        min_wire_version=hello.min_wire_version,
        max_wire_version=hello.max_wire_version,
        max_bson_size=hello.max_bson_size,
        max_message_size=hello.max_message_size,
        max_write_batch_size=hello.max_write_batch_size,
        logical_session_timeout_minutes=hello.logical_session_timeout_minutes,
        connection_id=hello.connection_id,
    )
