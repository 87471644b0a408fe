"""
Locks that a server which is a script grants.
"""

from __future__ import annotations

from typing import Any

from tests.fakes import FakeRunner

__all__ = ["asked_owner", "granted"]


def asked_owner(runner: FakeRunner) -> bytes:
    """
    The token by which the lock was asked for, with the first command.
    """
    owner: bytes = runner.bodies[0]["update"][0]["$set"]["owner"]["$cond"][1]
    return owner


def granted(runner: FakeRunner) -> dict[str, Any]:
    """
    The reply that grants it.
    """
    return {"value": {"_id": b"", "owner": asked_owner(runner)}, "ok": 1.0}
