"""
An application's MongoDB settings: from Paste's or Pyramid's C{.ini} files,
TOML or the environment to C{db} and C{db_conn}.
"""

from __future__ import annotations

from typing import Any

from txmongokit.settings.handle import (
    MongoHandle,
    from_environment,
    from_ini,
    from_settings,
    from_toml,
)
from txmongokit.settings.service import MongoParent
from txmongokit.settings.sources import read_environment, read_ini, read_toml
from txmongokit.settings.values import MongoSettings, read_settings

__all__ = [
    "MongoHandle",
    "MongoParent",
    "MongoSettings",
    "from_environment",
    "from_ini",
    "from_settings",
    "from_toml",
    "includeme",
    "read_environment",
    "read_ini",
    "read_settings",
    "read_toml",
]


def includeme(config: Any) -> None:
    """
    Pyramid's entry: see L{txmongokit.settings.pyramid.includeme}.
    """
    from txmongokit.settings import pyramid

    pyramid.includeme(config)
