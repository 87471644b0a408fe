"""placeholder until the helper's file is written"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class CommandEvent:
    name: str
    database: str
    body: Any
    request_id: int
    operation_id: int
    address: Any
    server_connection_id: Any
    driver_connection_id: int


class Observer:
    commands = pools = servers = heartbeats = topologies = selections = False

    def __init__(self, listeners: Any, topology_id: Any, **k: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *a, **k: None
