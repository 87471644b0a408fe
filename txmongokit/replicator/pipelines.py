"""
Aggregation pipelines of views: the names of the collections that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["renamed_pipeline"]

# Stages that read another collection, and where they name it.
_NAMING = {"$lookup": "from", "$graphLookup": "from", "$unionWith": "coll"}


def renamed_pipeline(
    pipeline: Any, local: Callable[[str], str], foreign: Callable[[str], str]
) -> Any:
    """
    A pipeline with other names for the collections that it reads.

    @param local: gives a collection of the view's database its name.
    @param foreign: gives a whole namespace its name.

    @return: a new pipeline; what names no collection stays as it is.
    """
    if not isinstance(pipeline, list):
        return pipeline
    return [_renamed_stage(stage, local, foreign) for stage in pipeline]


def _renamed_stage(stage: Any, local: Callable[[str], str], foreign: Callable[[str], str]) -> Any:
    if not isinstance(stage, Mapping):
        return stage
    renamed = {}
    for name, value in stage.items():
        if name == "$facet" and isinstance(value, Mapping):
            value = {key: renamed_pipeline(each, local, foreign) for key, each in value.items()}
        elif name in _NAMING:
            value = _renamed_reading(value, _NAMING[name], local, foreign)
        renamed[name] = value
    return renamed


def _renamed_reading(
    value: Any, key: str, local: Callable[[str], str], foreign: Callable[[str], str]
) -> Any:
    if isinstance(value, str):
        return local(value)
    if not isinstance(value, Mapping):
        return value
    renamed = dict(value)
    named = renamed.get(key)
    if isinstance(named, str):
        renamed[key] = local(named)
    elif isinstance(named, Mapping) and {"db", "coll"} <= named.keys():
        database, _, name = foreign(f"{named['db']}.{named['coll']}").partition(".")
        renamed[key] = {**named, "db": database, "coll": name}
    if "pipeline" in renamed:
        renamed["pipeline"] = renamed_pipeline(renamed["pipeline"], local, foreign)
    return renamed
