"""
Several commands that are one operation to the user.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

__all__ = ["WholeOperation"]


class WholeOperation:
    """
    What commands with the same C{whole} are parts of, for who traces them.
    A context manager, in which they are run.

    @param name: as users know it; empty where its first command says all.
    @param database: and C{collection}: what it is about; C{None} where it is
        about no one collection.

    @ivar span: how it is traced.
    @ivar on_end: called at the end, with what it failed with, or C{None};
        whoever traces the first of the commands sets this.
    """

    __slots__ = ("collection", "database", "name", "on_end", "span")

    def __init__(self, name: str = "", database: str = "", collection: str | None = None) -> None:
        self.name = name
        self.database = database
        self.collection = collection
        self.span: Any = None
        self.on_end: Callable[[BaseException | None], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.on_end is not None:
            self.on_end(error)
