"""
Whether a file has the shape that the unified test format asks for.
"""

from __future__ import annotations

from typing import Any

from tests.spec.matching import Malformed
from tests.spec.requirements import parse_version

__all__ = ["check_file"]

_SUPPORTED = (1, 28, 0)


def check_file(file: Any) -> None:
    """
    @raise Malformed: the file does not have the format's shape, or is of a
        version that is not supported.
    """
    if not isinstance(file, dict) or not isinstance(file.get("schemaVersion"), str):
        raise Malformed("the file has no schemaVersion")
    try:
        version = parse_version(file["schemaVersion"])
    except ValueError as error:
        raise Malformed(str(error)) from None
    if version[0] != _SUPPORTED[0] or version > _SUPPORTED:
        raise Malformed(f"schema version {file['schemaVersion']} is not supported")
