"""
A storage whose server is a script.
"""

from __future__ import annotations

from typing import Any

from tests.fakes import FakeRunner, Script
from txmongokit.database import Database
from txmongokit.storage import StorageAdapter

__all__ = ["scripted"]


def scripted(*replies: Script, **options: Any) -> tuple[StorageAdapter, FakeRunner]:
    """A storage of C{db.things}, and what answers it."""
    runner = FakeRunner(*replies)
    client = {"db": Database(runner, "db")}
    return StorageAdapter(client=client, database="db", collection="things", **options), runner
