"""
Whether a deployment is one that a test can run on: C{runOnRequirements}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Facts", "parse_version", "unmet"]

_TOPOLOGIES = {
    "single": "a standalone server",
    "replicaset": "a replica set",
    "sharded": "mongos",
    "sharded-replicaset": "mongos",
    "load-balanced": "a load balancer",
}


@dataclass(frozen=True)
class Facts:
    """
    What a deployment is.

    @ivar version: the server's, three numbers.
    @ivar topology: C{"single"}, C{"replicaset"}, C{"sharded"} or
        C{"load-balanced"}.
    @ivar auth: whether it has access control.
    @ivar parameters: the server's parameters.
    """

    version: tuple[int, ...]
    topology: str
    auth: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


def parse_version(text: str) -> tuple[int, ...]:
    """
    The three numbers of a version: C{"4.9.0-alpha4"} gives C{(4, 9, 0)}.

    @raise ValueError: there is no number.
    """
    found = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    if found is None:
        raise ValueError(f"{text!r} is no version")
    return tuple(int(part or 0) for part in found.groups())


def unmet(requirements: Sequence[Mapping[str, Any]] | None, facts: Facts) -> str | None:
    """
    Why a deployment does not do.

    @param requirements: any one of which suffices; none asks for nothing.
    @return: C{None} where it does, else what the easiest of them lacks.
    """
    if not requirements:
        return None
    reasons = [_reasons(requirement, facts) for requirement in requirements]
    best = min(reasons, key=len)
    return None if not best else "needs " + " and ".join(best)


def _reasons(requirement: Mapping[str, Any], facts: Facts) -> list[str]:
    reasons = []
    topologies = requirement.get("topologies")
    if topologies is not None and not {facts.topology, f"{facts.topology}-replicaset"} & {
        *topologies
    }:
        reasons.append(
            " or ".join(dict.fromkeys(_TOPOLOGIES.get(each, each) for each in topologies))
        )
    if requirement.get("csfle"):
        reasons.append("CSFLE")
    if requirement.get("serverless") == "require":
        reasons.append("Atlas Serverless")
    least = requirement.get("minServerVersion")
    if least is not None and facts.version < parse_version(least):
        reasons.append(f"server >= {least}")
    most = requirement.get("maxServerVersion")
    if most is not None and facts.version > parse_version(most):
        reasons.append(f"server <= {most}")
    auth = requirement.get("auth")
    if auth is not None and auth != facts.auth:
        reasons.append(
            "a server with authentication" if auth else "a server without authentication"
        )
    mechanism = requirement.get("authMechanism")
    known = facts.parameters.get("authenticationMechanisms", ())
    if mechanism is not None and mechanism.upper() not in [each.upper() for each in known]:
        reasons.append(f"the mechanism {mechanism}")
    for name, value in requirement.get("serverParameters", {}).items():
        if name not in facts.parameters or facts.parameters[name] != value:
            reasons.append(f"the server parameter {name}={value}")
    return reasons
