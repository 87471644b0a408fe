"""
Which servers a connection reads from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo.server_description import ServerDescription

from txmongokit.connection import ConnectionPool
from txmongokit.types import Address

__all__ = ["preferred_servers"]


def preferred_servers(pool: ConnectionPool[Any]) -> list[Address]:
    """
    The servers that a connection may read from by its own read preference,
    of those that are known to be there.  How far they are does not matter, as
    that changes from one moment to the next.
    """
    chosen: Callable[[Any], Any] | None = pool.client_options.server_selector
    suitable: list[ServerDescription] = []

    def note(servers: list[ServerDescription]) -> list[ServerDescription]:
        # After this only those within the latency window are left.
        kept = servers if chosen is None else chosen(servers)
        suitable.extend(kept)
        return kept

    found = pool.topology_description.apply_selector(
        pool.options.read_preference, custom_selector=note
    )
    # A single server is not shown to any selector.
    return [each.address for each in suitable or found]
