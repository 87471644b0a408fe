"""
What must be known of the destination's collections before writing to them.
"""

from __future__ import annotations

from collections.abc import Iterable

from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure

__all__ = ["Catalog"]

_NAMESPACE_NOT_FOUND = 26


class Catalog:
    """
    Remembers, for each collection written to, whether its operations must
    keep their order (a secondary unique index, a collation) and whether it
    is capped.

    Forgotten after each DDL, since that may change both.

    @ivar version: how often it was forgotten.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.version = 0
        self._pool = pool
        self._strict: dict[str, bool] = {}
        self._capped: set[str] = set()

    def forget(self) -> None:
        """
        Everything is to be looked up again.
        """
        self.version += 1
        self._strict.clear()
        self._capped.clear()

    def is_strict(self, namespace: str) -> bool:
        """
        Whether the namespace's operations must be applied in their order.
        Namespaces that were not looked up are.
        """
        return self._strict.get(namespace, True)

    def is_capped(self, namespace: str) -> bool:
        """
        Whether the namespace is a capped collection.
        """
        return namespace in self._capped

    async def learn(self, namespaces: Iterable[str]) -> None:
        """
        Look up those that are not known yet.
        """
        for namespace in namespaces:
            if namespace not in self._strict:
                self._strict[namespace] = await self._look_up(namespace)

    async def _look_up(self, namespace: str) -> bool:
        database, _, name = namespace.partition(".")
        db = self._pool[database]
        found = await db.list_collections(filter={"name": name})
        options = found[0].get("options", {}) if found else {}
        if options.get("capped"):
            self._capped.add(namespace)
        if "collation" in options:
            return True
        try:
            indexes = await db[name].index_information()
        except OperationFailure as error:
            if error.code != _NAMESPACE_NOT_FOUND:
                raise
            return False
        return any(
            index.get("unique") or index.get("prepareUnique")
            for index in indexes.values()
            if not index.get("clustered")
        )
