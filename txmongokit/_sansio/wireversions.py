"""
Which servers are spoken to, and how, by the wire version that they tell.

The oldest is ours to choose, for we speak what came before OP_MSG, and not
PyMongo's.
"""

from __future__ import annotations

from pymongo.server_description import ServerDescription
from pymongo.topology_description import TopologyDescription

from txmongokit.errors import ConfigurationError
from txmongokit.types import format_address

__all__ = ["COMMAND_CURSORS", "OLDEST", "OP_MSG", "check_compatible", "is_compatible", "too_old"]

OLDEST = 3
"""
MongoDB 3.0: it has write commands (so OP_INSERT, OP_UPDATE and OP_DELETE are
never needed), SCRAM, listCollections, listIndexes and explain.
"""

COMMAND_CURSORS = 4
"""MongoDB 3.2: find, getMore and killCursors are commands."""

OP_MSG = 6
"""MongoDB 3.6: commands travel in OP_MSG."""

# The newest version that can be sure to understand us; the same as PyMongo's,
# whose operations these are.
_NEWEST = 29


def too_old(where: str, wire_version: int) -> ConfigurationError:
    """What is said of a server older than L{OLDEST}."""
    return ConfigurationError(
        f"{where} has wire version {wire_version}, and at least {OLDEST} (MongoDB 3.0) is "
        "needed: upgrade the server"
    )


def is_compatible(server: ServerDescription) -> bool:
    """Whether a server is neither too old nor too new to be spoken to."""
    return server.max_wire_version >= OLDEST and server.min_wire_version <= _NEWEST


def check_compatible(description: TopologyDescription) -> None:
    """
    Whether all known servers can be spoken to (server-discovery-and-monitoring
    specification, "Checking wire protocol compatibility").

    @raise ConfigurationError: one is too old or too new.
    """
    try:
        description.check_compatible()
    except ConfigurationError:
        for server in description.server_descriptions().values():
            if is_compatible(server) or not server.is_server_type_known:
                continue
            where = format_address(server.address)
            if server.max_wire_version < OLDEST:
                raise too_old(where, server.max_wire_version) from None
            raise ConfigurationError(
                f"{where} needs wire version {server.min_wire_version}, and at most {_NEWEST} "
                "is spoken here: upgrade txmongokit"
            ) from None
