"""
The first words on a connection: who we are, what the server is, logging in.

Follows the drivers' handshake specification.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import bson
from bson.objectid import ObjectId
from pymongo.driver_info import DriverInfo
from pymongo.server_type import SERVER_TYPE

from txmongokit._pymongo import Hello, raise_command_error
from txmongokit._sansio.auth import LoginMemory, authenticate, speculate
from txmongokit._sansio.conversation import Conversation, Step, Wanted
from txmongokit._sansio.wireversions import OLDEST, OP_MSG, too_old
from txmongokit.credentials import Credentials
from txmongokit.errors import ConfigurationError, ProtocolError
from txmongokit.types import Address, ConnectionInfo, format_address

__all__ = [
    "HandshakeResult",
    "api_declaration",
    "client_metadata",
    "declaring",
    "function_as_a_service",
    "handshake",
]

_COMMAND_NOT_FOUND = 59
# What an older server lets a command's document have besides the user's.
_COMMAND_OVERHEAD = 16 * 1024
# The server refuses more (handshake specification).
_METADATA_LIMIT = 512
# How long a server keeps a session by default.
_SESSION_MINUTES = 30


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """
    What a finished handshake has found out.

    @ivar compressors: those that both sides know, ours first.
    @ivar hello: the server's whole reply.
    @ivar token: the OIDC access token that logged in, if it was one.
    """

    info: ConnectionInfo
    compressors: tuple[str, ...]
    hello: Mapping[str, Any]
    token: str | None = field(default=None, repr=False)


def client_metadata(
    app_name: str | None = None,
    *,
    drivers: Sequence[DriverInfo] = (),
    environ: Mapping[str, str] | None = None,
    in_docker: bool = False,
) -> dict[str, Any]:
    """
    How we introduce ourselves, at most 512 bytes of BSON.

    @param drivers: what has wrapped us, first the innermost.
    @param environ: the process's environment, which may tell of a cloud
        function or a container.
    @param in_docker: whether there is a file C{/.dockerenv}.

    @raise ConfigurationError: C{app_name} is longer than 128 bytes.
    """
    if app_name is not None and len(app_name.encode()) > 128:
        raise ConfigurationError("appName may have at most 128 bytes: shorten it")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    # PyMongo's code encodes, decodes and parses for us.
    chain = [
        DriverInfo("txmongokit", _version("txmongokit"), python),
        DriverInfo("PyMongo", _version("pymongo"), "Twisted"),
        *drivers,
    ]
    metadata: dict[str, Any] = {}
    if app_name:
        metadata["application"] = {"name": app_name}
    metadata["driver"] = _driver(chain)
    metadata["os"] = {
        "type": platform.system() or "unknown",
        "name": platform.system(),
        "architecture": platform.machine(),
        "version": platform.release(),
    }
    metadata["platform"] = "|".join(each.platform for each in chain if each.platform)
    environment = _environment({} if environ is None else environ, in_docker)
    if environment:
        metadata["env"] = environment
    return _shortened(metadata, chain)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "0"  # used from a checkout


def _driver(chain: Sequence[DriverInfo]) -> dict[str, str]:
    # A name and its version stand at the same place in each.
    return {
        "name": "|".join(each.name or "" for each in chain),
        "version": "|".join(each.version or "" for each in chain),
    }


def _shortened(metadata: dict[str, Any], chain: list[DriverInfo]) -> dict[str, Any]:
    """Leave out what is over the limit, in the specification's order."""

    def excess() -> int:
        return len(bson.encode(metadata)) - _METADATA_LIMIT

    if excess() > 0:
        environment = metadata.pop("env", {})
        if "name" in environment:
            metadata["env"] = {"name": environment["name"]}
    if excess() > 0:
        metadata["os"] = {"type": metadata["os"]["type"]}
    if excess() > 0:
        metadata.pop("env", None)
    if (over := excess()) > 0:
        metadata["platform"] = metadata["platform"].encode()[:-over].decode("utf-8", "ignore")
    # The specification stops here; a name without an end would shut us out.
    while excess() > 0 and len(chain) > 1:
        chain = chain[:-1]
        metadata["driver"] = _driver(chain)
    return metadata


_LAMBDA, _AZURE, _GCP, _VERCEL = "aws.lambda", "azure.func", "gcp.func", "vercel"
_FIELDS: Mapping[str, Mapping[str, tuple[str, type]]] = {
    _LAMBDA: {
        "region": ("AWS_REGION", str),
        "memory_mb": ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", int),
    },
    _AZURE: {},
    _GCP: {
        "memory_mb": ("FUNCTION_MEMORY_MB", int),
        "timeout_sec": ("FUNCTION_TIMEOUT_SEC", int),
        "region": ("FUNCTION_REGION", str),
    },
    _VERCEL: {"region": ("VERCEL_REGION", str)},
}


def _environment(environ: Mapping[str, str], in_docker: bool) -> dict[str, Any]:
    """Where we run: the handshake specification's C{client.env}."""
    found: dict[str, Any] = {}
    name = function_as_a_service(environ)
    if name is not None:
        found["name"] = name
        for key, (variable, kind) in _FIELDS[name].items():
            text = environ.get(variable, "")
            if kind is str and text:
                found[key] = text
            # An int32, and what is none is left out.
            elif kind is int and text.isascii() and text.isdigit() and int(text) < 2**31:
                found[key] = int(text)
    container = {}
    if in_docker:
        container["runtime"] = "docker"
    if environ.get("KUBERNETES_SERVICE_HOST"):
        container["orchestrator"] = "kubernetes"
    if container:
        found["container"] = container
    return found


def function_as_a_service(environ: Mapping[str, str]) -> str | None:
    """
    The cloud's service that runs us for one call, by the environment.
    """
    names = []
    if environ.get("VERCEL"):
        names.append(_VERCEL)
    elif environ.get("AWS_LAMBDA_RUNTIME_API") or environ.get("AWS_EXECUTION_ENV", "").startswith(
        "AWS_Lambda_"
    ):
        names.append(_LAMBDA)
    if environ.get("FUNCTIONS_WORKER_RUNTIME"):
        names.append(_AZURE)
    if environ.get("K_SERVICE") or environ.get("FUNCTION_NAME"):
        names.append(_GCP)
    return names[0] if len(names) == 1 else None


def handshake(
    address: Address,
    *,
    metadata: Mapping[str, Any],
    credentials: Credentials | None,
    compressors: Sequence[str],
    server_api: Any,
    nonce: Callable[[], bytes],
    memory: LoginMemory,
    load_balanced: bool = False,
    monitoring: bool = False,
) -> Generator[Wanted, Any, HandshakeResult]:
    """
    Introduce ourselves and log in.

    @param credentials: C{None} to leave logging in out.
    @param nonce: gives 32 random bytes.
    @param memory: what earlier log-ins have left.
    @param load_balanced: whether a load balancer chooses the server, which
        must then name its service (load balancers specification).
    @param monitoring: whether the server is only asked what it is: one that
        is too old is then no error, so that it becomes known what it is.

    @raise OperationFailure: logging in failed, or C{hello} did.
    @raise NotPrimaryError: the server is shutting down.
    @raise ConfigurationError: the server is too old, or is behind no load
        balancer though it should be.
    @raise ProtocolError: what it answers is no reply to C{hello}.
    """
    body: dict[str, Any] = {
        "hello": 1,
        "helloOk": True,
        # We slow down when the server says so (client backpressure).
        "backpressure": True,
        "client": metadata,
    }
    if load_balanced:
        body["loadBalanced"] = True
    if compressors:
        body["compression"] = list(compressors)
    begun = None
    if credentials is not None:
        if credentials.mechanism == "DEFAULT":
            body["saslSupportedMechs"] = f"{credentials.source}.{credentials.username}"
        speculation = speculate(credentials, nonce, memory, address[0])
        if speculation is not None:
            body["speculativeAuthenticate"], begun = speculation
    declared = api_declaration(server_api)
    body.update(declared)
    reply = yield Step("admin", body)
    # Servers up to 2.4 give no code.
    if reply.get("code") == _COMMAND_NOT_FOUND or "no such cmd" in str(reply.get("errmsg")):
        del body["hello"]
        reply = yield Step("admin", {"isMaster": 1, **body})
    if not reply.get("ok"):
        text = f"{format_address(address)}: hello was refused: {reply.get('errmsg')}"
        raise_command_error({**reply, "errmsg": text}, None)
    _check_types(address, reply)
    hello = Hello(dict(reply))
    if hello.max_wire_version < OLDEST and not monitoring:
        raise too_old(format_address(address), hello.max_wire_version)
    info = _info(address, hello)
    if load_balanced:
        info = _behind_balancer(info, reply)
    token = None
    if credentials is not None and info.server_type != SERVER_TYPE.RSArbiter:
        conversation = authenticate(
            credentials,
            mechanisms=reply.get("saslSupportedMechs"),
            nonce=nonce,
            memory=memory,
            host=address[0],
            begun=begun,
            reply=reply.get("speculativeAuthenticate"),
        )
        token = yield from declaring(conversation, declared)
    offered = reply.get("compression") or ()
    agreed = tuple(name for name in compressors if name in offered)
    return HandshakeResult(info, agreed, reply, token)


def api_declaration(server_api: Any) -> dict[str, Any]:
    """What the stable API wants in every command (versioned API specification)."""
    if server_api is None:
        return {}
    parameters = {
        "apiVersion": server_api.version,
        "apiStrict": server_api.strict,
        "apiDeprecationErrors": server_api.deprecation_errors,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def declaring(conversation: Conversation, declared: Mapping[str, Any]) -> Conversation:
    """
    The same conversation, with the stable API in each of its commands.

    @param declared: see L{api_declaration}.
    """
    try:
        wanted = next(conversation)
        while True:
            if isinstance(wanted, Step):
                wanted = Step(wanted.database, {**wanted.body, **declared})
            try:
                answer = yield wanted
            except Exception as error:
                wanted = conversation.throw(error)
            else:
                wanted = conversation.send(answer)
    except StopIteration as stop:
        token: str | None = stop.value
        return token
    finally:
        conversation.close()


def _behind_balancer(info: ConnectionInfo, reply: Mapping[str, Any]) -> ConnectionInfo:
    service_id = reply.get("serviceId")
    if service_id is None:
        # The specification's own words.
        raise ConfigurationError(
            "Driver attempted to initialize in load balancing mode, but the server does not "
            "support this mode."
        )
    # There are always sessions, whatever hello says of them.
    minutes = info.logical_session_timeout_minutes or _SESSION_MINUTES
    return replace(info, service_id=service_id, logical_session_timeout_minutes=minutes)


# What is used here, and must therefore be what it should be.
_REPLY_TYPES: Mapping[str, type] = {
    "minWireVersion": int,
    "maxWireVersion": int,
    "saslSupportedMechs": list,
    "speculativeAuthenticate": Mapping,
    "compression": list,
    "serviceId": ObjectId,
}


def _check_types(address: Address, reply: Mapping[str, Any]) -> None:
    for name, wanted in _REPLY_TYPES.items():
        if not isinstance(reply.get(name), (wanted, type(None))):
            raise ProtocolError(
                f"{format_address(address)}: {name} in the reply to hello cannot be read: "
                "is it a MongoDB server?"
            )


def _info(address: Address, hello: Hello[dict[str, Any]]) -> ConnectionInfo:
    max_message_size = hello.max_message_size
    if hello.max_wire_version < OP_MSG:
        # Every statement is in the one document of a command.
        max_message_size = hello.max_bson_size + _COMMAND_OVERHEAD
    return ConnectionInfo(
        address=address,
        server_type=hello.server_type,
        min_wire_version=hello.min_wire_version,
        max_wire_version=hello.max_wire_version,
        max_bson_size=hello.max_bson_size,
        max_message_size=max_message_size,
        max_write_batch_size=hello.max_write_batch_size,
        logical_session_timeout_minutes=hello.logical_session_timeout_minutes,
        connection_id=hello.connection_id,
    )
