"""
Loads one session, changes everything in it, saves it, again and again: to be
killed.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txmongokit.connection import ConnectionPool
from txmongokit.web.store import MongoSessionStore

__all__ = ["FIELDS", "write"]

FIELDS = 50


async def write(uri: str, database: str, identifier: str) -> None:
    """
    Every field gets the next number; a dot on stdout is a save.
    """
    store = MongoSessionStore(ConnectionPool(uri)[database], timeout=100)
    while True:
        record = await store.load(identifier)
        if record is None:
            raise LookupError("the session is not there")
        number = record.data["0"] + 1
        record.data = {str(field): number for field in range(FIELDS)}
        record.data["filling"] = "x" * (number * 1009 % 50_000)
        await store.save(record)
        sys.stdout.write(".")
        sys.stdout.flush()


def _main(reactor: Any) -> Deferred[None]:
    return Deferred.fromCoroutine(write(*sys.argv[1:]))


if __name__ == "__main__":
    react(_main)
