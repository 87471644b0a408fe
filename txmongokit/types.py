"""
Value types that every layer shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "Address",
    "ConnectionInfo",
    "Document",
    "INSERT_CONTINUE_ON_ERROR",
    "UPDATE_UPSERT",
    "UPDATE_MULTI",
    "DELETE_SINGLE_REMOVE",
    "QUERY_TAILABLE_CURSOR",
    "QUERY_SLAVE_OK",
    "QUERY_OPLOG_REPLAY",
    "QUERY_NO_CURSOR_TIMEOUT",
    "QUERY_AWAIT_DATA",
    "QUERY_EXHAUST",
    "QUERY_PARTIAL",
    "format_address",
]

Document: TypeAlias = Mapping[str, Any]
"""A BSON document as users pass it in."""

Address: TypeAlias = tuple[str, int | None]
"""A server's host name and port; C{(path, None)} for a Unix socket."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """
    What the handshake of one connection told about the server behind it.

    @ivar address: the address that was dialled.
    @ivar server_type: one of C{pymongo.server_type.SERVER_TYPE}'s values.
    @ivar max_bson_size: the largest document, in bytes.
    @ivar max_message_size: the largest message, in bytes.
    @ivar max_write_batch_size: the most statements in one write command.
    @ivar logical_session_timeout_minutes: C{None} where the server has no
        sessions.
    @ivar connection_id: the server's own number for the connection.
    @ivar service_id: of the service that a load balancer chose for it, an
        C{ObjectId}; C{None} without one.
    """

    address: Address
    server_type: int
    min_wire_version: int = 0
    max_wire_version: int = 0
    max_bson_size: int = 16 * 1024 * 1024
    max_message_size: int = 48_000_000
    max_write_batch_size: int = 100_000
    logical_session_timeout_minutes: int | None = None
    connection_id: int | None = None
    service_id: Any = None


def format_address(address: Address) -> str:
    """
    An address as people write it: C{host:port}, C{[ipv6]:port} or a path.
    """
    host, port = address
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# The flags of older messages, as TxMongo's calls take them.
INSERT_CONTINUE_ON_ERROR = 1
UPDATE_UPSERT = 1
UPDATE_MULTI = 2
DELETE_SINGLE_REMOVE = 1
QUERY_TAILABLE_CURSOR = 2
QUERY_SLAVE_OK = 4
QUERY_OPLOG_REPLAY = 8
QUERY_NO_CURSOR_TIMEOUT = 16
QUERY_AWAIT_DATA = 32
QUERY_EXHAUST = 64
QUERY_PARTIAL = 128
