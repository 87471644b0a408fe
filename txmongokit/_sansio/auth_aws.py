"""
MONGODB-AWS: proving to a server who we are by a request that is signed for
AWS and never sent there; and where the keys for that come from.

Follows the drivers' authentication specification and AWS's Signature
Version 4.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import bson
from bson.errors import BSONError

from txmongokit._sansio.conversation import (
    Conversation,
    HTTPRequest,
    HTTPResponse,
    ReadFile,
    Step,
    Surroundings,
    SurroundingsWanted,
    Wanted,
    Work,
    check_reply,
    distrust,
    payload_of,
    sasl_continue,
    sasl_start,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import ConfigurationError

__all__ = ["AWSKeyCache", "AWSKeys", "authorization", "converse", "find_keys", "region_of"]

MECHANISM = "MONGODB-AWS"

_ALGORITHM = "AWS4-HMAC-SHA256"
_IDENTITY_REQUEST = b"Action=GetCallerIdentity&Version=2011-06-15"
_NO_CHANNEL_BINDING = ord("n")
_NONCE_LENGTH = 32
_LONGEST_HOST = 255
# Authentication specification, "Caching Credentials".
_SPARE = timedelta(minutes=5)

_STS = "https://sts.amazonaws.com/"
_CONTAINER = "http://169.254.170.2"
_INSTANCE = "http://169.254.169.254/latest"
_INSTANCE_ROLES = f"{_INSTANCE}/meta-data/iam/security-credentials/"
# Whom an unencrypted request with a token in it may be sent to: the agents of
# ECS and EKS, and this machine.
_AGENTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")
_TOKEN_SECONDS = "30"


@dataclass(frozen=True, slots=True)
class AWSKeys:
    """
    Who signs.

    @ivar token: the session's, of keys that expire.
    @ivar expires: when, with its zone; C{None} where nobody said so.
    """

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: datetime | None = None


class AWSKeyCache:
    """
    The keys that were fetched last.
    """

    def __init__(self) -> None:
        self._keys: AWSKeys | None = None

    def valid(self, now: datetime) -> AWSKeys | None:
        """
        The keys, where they are good for more than five minutes.
        """
        keys = self._keys
        if keys is None or keys.expires is None or keys.expires - now <= _SPARE:
            return None
        return keys

    def remember(self, keys: AWSKeys) -> None:
        """
        Keep keys that were fetched.
        """
        self._keys = keys

    def forget(self) -> None:
        """
        Keep them no longer.
        """
        self._keys = None


# The conversation.


def converse(
    credentials: Credentials, nonce: Callable[[], bytes], cache: AWSKeyCache
) -> Conversation:
    """
    Log in.

    @param nonce: gives 32 random bytes.

    @raise ConfigurationError: there are no keys.
    @raise OperationFailure: the server refuses, or is not to be trusted; or
        whoever has keys gives none.
    """
    succeeded = False
    try:
        keys = yield from find_keys(credentials, cache, nonce)
        ours = nonce()
        payload = bson.encode({"r": ours, "p": _NO_CHANNEL_BINDING})
        reply = yield Step("$external", sasl_start(MECHANISM, payload))
        check_reply(reply, credentials)
        theirs, host = _challenge(payload_of(reply), ours)
        surroundings: Surroundings = yield SurroundingsWanted()
        answer = bson.encode(_proof(keys, theirs, host, surroundings.now))
        reply = yield Step("$external", sasl_continue(reply.get("conversationId"), answer))
        check_reply(reply, credentials)
        if not reply.get("done"):
            raise distrust("the server does not end the MONGODB-AWS conversation")
        succeeded = True
    finally:
        if not succeeded:
            # For whatever reason (authentication specification).
            cache.forget()
    return None


def _challenge(payload: bytes, ours: bytes) -> tuple[bytes, str]:
    """The server's nonce, and the host that the request is signed for."""
    try:
        challenge = bson.decode(payload)
    except BSONError as error:
        raise distrust("the server's MONGODB-AWS challenge cannot be read") from error
    nonce, host = challenge.get("s"), challenge.get("h")
    if not isinstance(nonce, bytes) or not isinstance(host, str):
        raise distrust("the server's MONGODB-AWS challenge lacks its nonce or its host")
    if len(nonce) != 2 * _NONCE_LENGTH or nonce[:_NONCE_LENGTH] != ours:
        raise distrust("the server's MONGODB-AWS nonce does not continue ours")
    return nonce, host


def region_of(host: str) -> str:
    """
    The region that a request to a host of STS is signed for.

    @raise OperationFailure: it is no host name.
    """
    labels = host.split(".")
    if not 0 < len(host.encode()) <= _LONGEST_HOST or not all(labels):
        raise distrust("the host that the server names for MONGODB-AWS is no host name")
    if host == "sts.amazonaws.com" or len(labels) == 1:
        return "us-east-1"
    return labels[1]


def _proof(keys: AWSKeys, nonce: bytes, host: str, now: datetime) -> dict[str, str]:
    region = region_of(host)
    date = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(_IDENTITY_REQUEST)),
        "Host": host,
        "X-Amz-Date": date,
        "X-MongoDB-Server-Nonce": b64encode(nonce).decode(),
        "X-MongoDB-GS2-CB-Flag": "n",
    }
    if keys.token:
        headers["X-Amz-Security-Token"] = keys.token
    signed = authorization(keys, "POST", headers, _IDENTITY_REQUEST, region, "sts")
    proof = {"a": signed, "d": date}
    if keys.token:
        proof["t"] = keys.token
    return proof


def authorization(
    keys: AWSKeys,
    method: str,
    headers: Mapping[str, str],
    body: bytes,
    region: str,
    service: str,
    query: str = "",
) -> str:
    """
    The C{Authorization} header of a request to C{/} (AWS Signature Version 4).

    @param headers: all are signed; C{X-Amz-Date} must be among them.
    @param query: in its canonical form.
    """
    lines = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = ";".join(sorted(lines))
    canonical = "\n".join(
        (
            method,
            "/",
            query,
            *(f"{name}:{lines[name]}" for name in sorted(lines)),
            "",
            names,
            sha256(body).hexdigest(),
        )
    )
    date = lines["x-amz-date"]
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((_ALGORITHM, date, scope, sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return (
        f"{_ALGORITHM} Credential={keys.key_id}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )


# Where keys come from, in the specification's order.


def find_keys(
    credentials: Credentials, cache: AWSKeyCache, nonce: Callable[[], bytes]
) -> Generator[Wanted, Any, AWSKeys]:
    """
    The keys of the connection string; or those that were fetched before; or
    those of the environment; or new ones: by C{botocore} where it is
    installed, else for a web identity, of the container's agent, or of the
    instance.

    @raise ConfigurationError: they are incomplete.
    @raise OperationFailure: whoever has them gives none.
    """
    if credentials.username is not None:
        token = credentials.properties.get("AWS_SESSION_TOKEN")
        return AWSKeys(credentials.username, credentials.password or "", token)
    surroundings: Surroundings = yield SurroundingsWanted()
    known = cache.valid(surroundings.now)
    if known is not None:
        return known
    environ = surroundings.environ
    given = _environment_keys(environ)
    if given is not None:
        # Never remembered: somebody may renew them there.
        return given
    if surroundings.sdk is not None:
        return (yield from _sdk_keys(surroundings.sdk))
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environ.get("AWS_ROLE_ARN"):
        keys = yield from _web_identity_keys(environ, nonce)
    elif environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environ.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        keys = yield from _container_keys(environ)
    else:
        keys = yield from _instance_keys()
    cache.remember(keys)
    return keys


def _environment_keys(environ: Mapping[str, str]) -> AWSKeys | None:
    key_id = environ.get("AWS_ACCESS_KEY_ID")
    secret = environ.get("AWS_SECRET_ACCESS_KEY")
    token = environ.get("AWS_SESSION_TOKEN")
    if key_id and secret:
        return AWSKeys(key_id, secret, token or None)
    if key_id or secret or token:
        raise ConfigurationError(
            "MONGODB-AWS needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            "environment, or neither of them nor AWS_SESSION_TOKEN"
        )
    return None


def _sdk_keys(sdk: Callable[[], Any]) -> Generator[Wanted, Any, AWSKeys]:
    found = yield Work(sdk)
    if found is None:
        raise ConfigurationError(
            "botocore finds no AWS credentials: write them into the connection string, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return AWSKeys(found.access_key, found.secret_key, found.token or None)


def _web_identity_keys(
    environ: Mapping[str, str], nonce: Callable[[], bytes]
) -> Generator[Wanted, Any, AWSKeys]:
    path = environ["AWS_WEB_IDENTITY_TOKEN_FILE"]
    token = yield ReadFile(path, "AWS_WEB_IDENTITY_TOKEN_FILE")
    session = environ.get("AWS_ROLE_SESSION_NAME") or f"txmongokit-{nonce()[:8].hex()}"
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "RoleSessionName": session,
        "RoleArn": environ["AWS_ROLE_ARN"],
        "WebIdentityToken": token.decode("utf-8", "replace").strip(),
        "Version": "2011-06-15",
    }
    # In the body, so that no log of addresses shows the token.
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    request = HTTPRequest("POST", _STS, headers, urlencode(form).encode())
    response = yield request
    answer = _document(request, response)
    for name in ("AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult"):
        inner = answer.get(name)
        answer = inner if isinstance(inner, dict) else answer
    found = answer.get("Credentials")
    if not isinstance(found, dict):
        _refuse(request, "has no credentials in it")
    return _keys(request, found, "SessionToken")


def _container_keys(environ: Mapping[str, str]) -> Generator[Wanted, Any, AWSKeys]:
    headers = {"Accept": "application/json"}
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if relative:
        url = f"{_CONTAINER}/{relative.removeprefix('/')}"
    else:
        # As EKS's Pod Identity has it.
        url = environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        _check_agent(url)
        path = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if path:
            raw = yield ReadFile(path, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
            token = raw.decode("utf-8", "replace").strip()
        if token:
            headers["Authorization"] = token
    request = HTTPRequest("GET", url, headers)
    response = yield request
    return _keys(request, _document(request, response), "Token")


def _check_agent(url: str) -> None:
    """Send no token in the clear to a place that is none of AWS's agents."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    allowed = parts.scheme == "https" or host == "localhost" or host in _AGENTS
    if not allowed:
        try:
            allowed = ip_address(host).is_loopback
        except ValueError:
            allowed = False
    if not allowed or parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or http at this machine or at an "
            "agent of ECS or EKS"
        )


def _instance_keys() -> Generator[Wanted, Any, AWSKeys]:
    request = HTTPRequest(
        "PUT",
        f"{_INSTANCE}/api/token",
        {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_SECONDS},
    )
    token = _text(request, (yield request))
    headers = {"X-aws-ec2-metadata-token": token}
    request = HTTPRequest("GET", _INSTANCE_ROLES, headers)
    roles = _text(request, (yield request)).split()
    if not roles:
        _refuse(request, "names no role: give the instance one")
    request = replace(request, url=_INSTANCE_ROLES + quote(roles[0], safe=""))
    response = yield request
    return _keys(request, _document(request, response), "Token")


def _refuse(request: HTTPRequest, what: str) -> NoReturn:
    # Nothing of the answer: it may hold keys.
    raise distrust(f"MONGODB-AWS: the answer of {request.url} {what}")


def _text(request: HTTPRequest, response: HTTPResponse) -> str:
    if response.status != 200:
        _refuse(request, f"has HTTP status {response.status}")
    try:
        return response.body.decode("ascii").strip()
    except UnicodeDecodeError:
        _refuse(request, "is no text")


def _document(request: HTTPRequest, response: HTTPResponse) -> dict[str, Any]:
    if response.status != 200:
        _refuse(request, f"has HTTP status {response.status}")
    try:
        document = json.loads(response.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        _refuse(request, "is no JSON")
    return document


def _keys(request: HTTPRequest, found: Mapping[str, Any], token_name: str) -> AWSKeys:
    key_id, secret = found.get("AccessKeyId"), found.get("SecretAccessKey")
    token = found.get(token_name)
    if not all(isinstance(each, str) and each for each in (key_id, secret, token)):
        _refuse(request, "lacks a key, its secret or its session token")
    return AWSKeys(str(key_id), str(secret), str(token), _time(found.get("Expiration")))


def _time(given: Any) -> datetime | None:
    """As text, or as seconds since 1970; C{None} where it cannot be read."""
    try:
        if isinstance(given, str):
            time = datetime.fromisoformat(given)
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return datetime.fromtimestamp(given, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
