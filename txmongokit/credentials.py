"""
Who logs in, and how: what each mechanism of authentication takes.

Follows the drivers' authentication specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo.auth_oidc import OIDCCallback

from txmongokit.errors import ConfigurationError

__all__ = [
    "HUMAN_SECONDS",
    "WITH_PASSWORD",
    "Credentials",
    "check_source",
    "check_user",
    "mechanism_properties",
]

WITH_PASSWORD = ("DEFAULT", "SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN", "MONGODB-CR")
"""
The mechanisms that need a password, for users whom a database of the server's
may know.
"""

HUMAN_SECONDS = 300.0
"""
How long a human may take to log in (authentication specification).
"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    Who logs in, and how.

    @ivar source: the database that knows the user.
    @ivar mechanism: C{DEFAULT} negotiates.
    @ivar properties: the mechanism's own (C{authMechanismProperties}).
    """

    username: str | None
    password: str | None = field(repr=False)
    source: str
    mechanism: str
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def of_human(self) -> bool:
        """
        Whether somebody sits there and logs in by hand.
        """
        return "OIDC_HUMAN_CALLBACK" in self.properties

    @property
    def lacks_password(self) -> bool:
        """
        Whether there is none, and must be.
        """
        return self.mechanism in WITH_PASSWORD and not self.password


_PROPERTIES = {
    "GSSAPI": ("SERVICE_NAME", "CANONICALIZE_HOST_NAME", "SERVICE_REALM", "SERVICE_HOST"),
    "MONGODB-AWS": ("AWS_SESSION_TOKEN",),
    "MONGODB-OIDC": (
        "ENVIRONMENT",
        "TOKEN_RESOURCE",
        "OIDC_CALLBACK",
        "OIDC_HUMAN_CALLBACK",
        "ALLOWED_HOSTS",
    ),
}
_CANONICAL = ("none", "forward", "forwardAndReverse", "true", "false")
_ENVIRONMENTS = ("test", "azure", "gcp", "k8s")


def mechanism_properties(
    mechanism: str, given: Mapping[str, Any], allowed_hosts: list[str] | None = None
) -> dict[str, Any]:
    """
    Check C{authMechanismProperties}, without showing any: some are passwords.

    @param allowed_hosts: C{ALLOWED_HOSTS}, where PyMongo's keyword gave it.
    @return: them, with the mechanism's defaults.

    @raise ConfigurationError: the mechanism has no such properties.
    """
    if allowed_hosts is not None:
        if "ALLOWED_HOSTS" in given:
            raise ConfigurationError(
                "authoidcallowedhosts and ALLOWED_HOSTS are the same: give one"
            )
        given = {**given, "ALLOWED_HOSTS": allowed_hosts}
    allowed = _PROPERTIES.get(mechanism, ())
    if not set(given) <= set(allowed):
        hint = f"use {', '.join(allowed)}" if allowed else "leave them out"
        raise ConfigurationError(
            f"authMechanismProperties has what {mechanism} does not know: {hint}"
        )
    properties = dict(given)
    if mechanism == "GSSAPI":
        properties.setdefault("SERVICE_NAME", "mongodb")
        if properties.get("CANONICALIZE_HOST_NAME", "none") not in _CANONICAL:
            raise ConfigurationError(
                "authMechanismProperties: CANONICALIZE_HOST_NAME must be none, forward or "
                "forwardAndReverse"
            )
    if mechanism == "MONGODB-OIDC":
        _check_oidc(properties)
    return properties


def _check_oidc(properties: Mapping[str, Any]) -> None:
    environment = properties.get("ENVIRONMENT")
    callbacks = properties.keys() & {"OIDC_CALLBACK", "OIDC_HUMAN_CALLBACK"}
    if len(callbacks) + (environment is not None) != 1:
        raise ConfigurationError(
            "MONGODB-OIDC needs one of ENVIRONMENT, OIDC_CALLBACK and OIDC_HUMAN_CALLBACK in "
            "authMechanismProperties"
        )
    for name in callbacks:
        if not isinstance(properties[name], OIDCCallback):
            raise ConfigurationError(
                f"authMechanismProperties: {name} must be an instance of "
                f"pymongo.auth_oidc.OIDCCallback, not a {type(properties[name]).__name__}"
            )
    if environment is not None and environment not in _ENVIRONMENTS:
        raise ConfigurationError(
            f"authMechanismProperties: ENVIRONMENT must be one of {', '.join(_ENVIRONMENTS)}"
        )
    if (environment in ("azure", "gcp")) != ("TOKEN_RESOURCE" in properties):
        raise ConfigurationError(
            "authMechanismProperties: ENVIRONMENT azure and gcp, and no other, need TOKEN_RESOURCE"
        )
    hosts = properties.get("ALLOWED_HOSTS")
    if hosts is None:
        return
    if "OIDC_HUMAN_CALLBACK" not in callbacks:
        raise ConfigurationError(
            "authMechanismProperties: ALLOWED_HOSTS goes with OIDC_HUMAN_CALLBACK only"
        )
    if not isinstance(hosts, (list, tuple)) or not all(isinstance(each, str) for each in hosts):
        # A text of the connection string is none: whoever writes that could
        # have a human's token sent anywhere.
        raise ConfigurationError(
            "authMechanismProperties: ALLOWED_HOSTS must be a list of names, given as a keyword "
            "argument"
        )


def check_user(
    mechanism: str, username: str | None, password: str | None, properties: Mapping[str, Any]
) -> None:
    """
    Check that user and password are what the mechanism takes.

    @raise ConfigurationError: they are not.
    """
    if mechanism == "MONGODB-X509" and password is not None:
        raise ConfigurationError("MONGODB-X509 takes no password: leave it out")
    if mechanism == "MONGODB-AWS":
        if (username is None) != (password is None):
            raise ConfigurationError("MONGODB-AWS takes a key's id and its secret, or neither")
        if username is None and "AWS_SESSION_TOKEN" in properties:
            raise ConfigurationError("MONGODB-AWS: a session token needs user name and password")
    if mechanism == "MONGODB-OIDC":
        if password is not None:
            raise ConfigurationError("MONGODB-OIDC takes no password: leave it out")
        if username is not None and properties.get("ENVIRONMENT", "azure") != "azure":
            raise ConfigurationError("MONGODB-OIDC takes no user name here: leave it out")
    if username is None and mechanism not in ("MONGODB-X509", "MONGODB-AWS", "MONGODB-OIDC"):
        raise ConfigurationError(f"authMechanism={mechanism} needs a user name in the URI")


def check_source(mechanism: str, source: str | None) -> None:
    """
    Check C{authSource}.

    @raise ConfigurationError: the mechanism's users are known elsewhere.
    """
    outside = mechanism in ("MONGODB-X509", "GSSAPI", "MONGODB-AWS", "MONGODB-OIDC")
    if outside and source not in (None, "$external"):
        raise ConfigurationError(f"{mechanism} needs authSource=$external")
