"""
MONGODB-OIDC: logging in by an access token of an identity provider.

Follows the drivers' authentication specification.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import bson
from bson.errors import BSONError

from txmongokit._sansio.conversation import (
    AUTHENTICATION_FAILED,
    Conversation,
    HTTPRequest,
    HTTPResponse,
    Pause,
    ReadFile,
    Step,
    Surroundings,
    SurroundingsWanted,
    TokenWanted,
    Wanted,
    check_reply,
    distrust,
    payload_of,
    sasl_continue,
    sasl_start,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import ConfigurationError, OperationFailure

__all__ = ["DEFAULT_ALLOWED_HOSTS", "TokenCache", "converse", "environment_token", "speculation"]

MECHANISM = "MONGODB-OIDC"

DEFAULT_ALLOWED_HOSTS = (
    "*.mongodb.net",
    "*.mongodb-dev.net",
    "*.mongodb-qa.net",
    "*.mongodbgov.net",
    "*.mongo.com",
    "localhost",
    "127.0.0.1",
    "::1",
)
"""
Where a human's token may be sent to, unless C{ALLOWED_HOSTS} says otherwise.
"""

# A token is wrong, or has expired (ReauthenticationRequired).
_REFUSALS = (AUTHENTICATION_FAILED, 391)
# Authentication specification: after a token was refused.
_PAUSE = 0.1
_KUBERNETES_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_TOKEN_FILES = {
    "test": ("OIDC_TOKEN_FILE",),
    "k8s": ("AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
}
_AZURE = "http://169.254.169.254/metadata/identity/oauth2/token"
_GCP = "http://metadata/computeMetadata/v1/instance/service-accounts/default/identity"


@dataclass(slots=True)
class TokenCache:
    """
    What one client remembers.

    @ivar owner: whose all this is.
    @ivar idp_info: what the server said of the identity provider.
    """

    owner: Credentials | None = None
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    idp_info: Mapping[str, Any] | None = None

    def belong(self, credentials: Credentials) -> None:
        """
        Forget what is somebody else's.
        """
        if self.owner != credentials:
            self.owner = credentials
            self.access_token = self.refresh_token = self.idp_info = None

    def invalidate(self, token: str | None) -> None:
        """
        Remember this access token no longer; another one stays.
        """
        if token is not None and self.access_token == token:
            self.access_token = None


def _start(token: str) -> dict[str, Any]:
    return sasl_start(MECHANISM, bson.encode({"jwt": token}))


def speculation(
    credentials: Credentials, tokens: TokenCache, host: str
) -> tuple[dict[str, Any], str] | None:
    """
    The first step, to be sent along with C{hello}, and the token in it;
    C{None} where no token is remembered, or the host may not see it.
    """
    tokens.belong(credentials)
    token = tokens.access_token
    if token is None or not _is_allowed(credentials, host):
        return None
    return {**_start(token), "db": "$external"}, token


def converse(
    credentials: Credentials,
    tokens: TokenCache,
    host: str,
    spoken: str | None,
    reply: Mapping[str, Any] | None,
) -> Conversation:
    """
    Log in.

    @param host: the server's name or literal address.
    @param spoken: the token that L{speculation} sent.
    @param reply: what the server said to that.

    @return: the access token that did it.
    @raise ConfigurationError: a human's token must not be sent there.
    @raise OperationFailure: the server refuses, or there is no token.
    """
    if not _is_allowed(credentials, host):
        raise ConfigurationError(
            f"MONGODB-OIDC: no token of a human is sent to {host}, which is not in ALLOWED_HOSTS: "
            "add it there if you trust it"
        )
    if spoken is not None and reply is not None and reply.get("done"):
        return spoken
    # Only now: this may be a new log-in on an old connection.
    tokens.belong(credentials)
    known = tokens.access_token
    if known is not None:
        reply = yield Step("$external", _start(known))
        if not _refused(reply, credentials, tokens, known):
            return known
        yield Pause(_PAUSE)
    if credentials.of_human:
        return (yield from _human(credentials, tokens))
    token: str = yield TokenWanted(credentials, tokens)
    reply = yield Step("$external", _start(token))
    _finish(reply, credentials, tokens, token)
    return token


def _human(credentials: Credentials, tokens: TokenCache) -> Conversation:
    if tokens.refresh_token is not None and tokens.idp_info is not None:
        try:
            token: str = yield TokenWanted(credentials, tokens, tokens.idp_info, refresh=True)
        except OperationFailure:
            # The callback could do nothing with it; it is asked without.
            tokens.refresh_token = None
        else:
            reply = yield Step("$external", _start(token))
            if not _refused(reply, credentials, tokens, token):
                return token
            tokens.refresh_token = None
    who = {} if credentials.username is None else {"n": credentials.username}
    reply = yield Step("$external", sasl_start(MECHANISM, bson.encode(who)))
    check_reply(reply, credentials)
    tokens.idp_info = _idp_info(payload_of(reply))
    tokens.refresh_token = None
    token = yield TokenWanted(credentials, tokens, tokens.idp_info)
    proof = bson.encode({"jwt": token})
    reply = yield Step("$external", sasl_continue(reply.get("conversationId"), proof))
    _finish(reply, credentials, tokens, token)
    return token


def _refused(
    reply: Mapping[str, Any], credentials: Credentials, tokens: TokenCache, token: str
) -> bool:
    """
    Whether a token was refused, so that another one may do.

    @raise OperationFailure: something else went wrong.
    """
    if reply.get("ok"):
        _finish(reply, credentials, tokens, token)
        return False
    tokens.invalidate(token)
    if reply.get("code", AUTHENTICATION_FAILED) not in _REFUSALS:
        check_reply(reply, credentials)
    return True


def _finish(
    reply: Mapping[str, Any], credentials: Credentials, tokens: TokenCache, token: str
) -> None:
    if not reply.get("ok"):
        tokens.invalidate(token)
    check_reply(reply, credentials)
    if not reply.get("done"):
        raise distrust("the server does not end the MONGODB-OIDC conversation")


def _idp_info(payload: bytes) -> Mapping[str, Any]:
    try:
        info = bson.decode(payload)
    except BSONError as error:
        raise distrust("what the server says of its identity provider cannot be read") from error
    if not isinstance(info.get("issuer"), str):
        raise distrust("the server does not say who issues tokens: is OIDC set up there?")
    return info


def _is_allowed(credentials: Credentials, host: str) -> bool:
    if not credentials.of_human:
        return True
    host = host.lower()
    allowed = credentials.properties.get("ALLOWED_HOSTS", DEFAULT_ALLOWED_HOSTS)
    for pattern in (each.lower() for each in allowed):
        if host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:])):
            return True
    return False


# Where a machine's tokens come from.


def environment_token(credentials: Credentials) -> Generator[Wanted, Any, str]:
    """
    A new token of what C{ENVIRONMENT} names.

    @raise ConfigurationError: the process's environment lacks something.
    @raise OperationFailure: the cloud gives none.
    """
    properties = credentials.properties
    kind = properties["ENVIRONMENT"]
    if kind in ("test", "k8s"):
        surroundings: Surroundings = yield SurroundingsWanted()
        path, reason = _token_file(kind, surroundings.environ)
        raw: bytes = yield ReadFile(path, reason)
        token = raw.decode("utf-8", "replace").strip()
    elif kind == "azure":
        token = yield from _azure_token(properties["TOKEN_RESOURCE"], credentials.username)
    else:
        audience = quote(properties["TOKEN_RESOURCE"], safe="")
        request = HTTPRequest("GET", f"{_GCP}?audience={audience}", {"Metadata-Flavor": "Google"})
        response = yield request
        token = _body(request, response).decode("utf-8", "replace").strip()
    if not token:
        raise distrust(f"MONGODB-OIDC: ENVIRONMENT:{kind} gives an empty token")
    return token


def _token_file(kind: str, environ: Mapping[str, str]) -> tuple[str, str]:
    for name in _TOKEN_FILES[kind]:
        if environ.get(name):
            return environ[name], name
    if kind == "test":
        raise ConfigurationError(
            "MONGODB-OIDC with ENVIRONMENT:test reads the file that the environment variable "
            "OIDC_TOKEN_FILE names: set it"
        )
    return _KUBERNETES_TOKEN, "ENVIRONMENT:k8s"


def _azure_token(resource: str, username: str | None) -> Generator[Wanted, Any, str]:
    url = f"{_AZURE}?api-version=2018-02-01&resource={quote(resource, safe='')}"
    if username:
        url += f"&client_id={quote(username, safe='')}"
    request = HTTPRequest("GET", url, {"Metadata": "true", "Accept": "application/json"})
    response = yield request
    try:
        token = json.loads(_body(request, response))["access_token"]
    except (ValueError, KeyError, TypeError):
        token = None
    if not isinstance(token, str):
        raise distrust("MONGODB-OIDC: Azure's answer has no access_token in it")
    return token


def _body(request: HTTPRequest, response: HTTPResponse) -> bytes:
    if response.status != 200:
        place = request.url.partition("?")[0]
        raise distrust(f"MONGODB-OIDC: the answer of {place} has HTTP status {response.status}")
    return response.body
