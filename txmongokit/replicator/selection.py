"""
Which namespaces are replicated, and under which names.

Matching is exact: C{foo} is the database of that name, C{foo.bar} one
collection of it, and neither is ever a prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

__all__ = ["CHECKPOINT_DATABASE", "Selection", "SelectionError"]

CHECKPOINT_DATABASE = "txmongokit"
"""The database of the checkpoint, which is never replicated."""

# Users and roles (admin) are left to the operator of the destination.
_NEVER = frozenset({"admin", "config", "local", CHECKPOINT_DATABASE})
_BUCKETS = "system.buckets."
_VIEWS = "system.views"
# More namespaces than anybody has; what is cached must be bounded all the same.
_CACHED = 100_000


class SelectionError(ValueError):
    """
    A namespace or a rename makes no sense: one sentence with the mend.
    """


class Selection:
    """
    What to take, what to leave, and what to call it.

    @param include: databases and collections; empty for all.
    @param exclude: databases and collections to leave out of those.
    @param renames: C{old=new}: both databases, or both collections.
        They are not chained; of several that match, the collection's wins.

    @raise SelectionError: one of them makes no sense, or two contradict.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        renames: Sequence[str] = (),
    ) -> None:
        for option, names in (("--ns", include), ("--exclude", exclude)):
            for name in names:
                _check_name(name, option, name)
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self.renames = tuple(renames)
        self._included = frozenset(include)
        self._excluded = frozenset(exclude)
        self._renamed = _parse_renames(renames)
        self._cache: dict[str, str | None] = {}

    def __repr__(self) -> str:
        return f"<Selection ns={self.include} exclude={self.exclude} rename={self.renames}>"

    def selects(self, namespace: str) -> bool:
        """
        Whether a collection is replicated.
        """
        database, _, name = _followed(namespace).partition(".")
        if database in _NEVER or name == "system.profile":
            return False
        full = f"{database}.{name}"
        if database in self._excluded or full in self._excluded:
            return False
        return not self._included or database in self._included or full in self._included

    def selects_database(self, database: str) -> bool:
        """
        Whether every collection of a database is replicated.
        """
        if database in _NEVER or database in self._excluded:
            return False
        if any(name.startswith(f"{database}.") for name in self._excluded):
            return False
        return not self._included or database in self._included

    def selects_part(self, database: str) -> bool:
        """
        Whether any collection of a database may be replicated.
        """
        if database in _NEVER or database in self._excluded:
            return False
        return (
            not self._included
            or database in self._included
            or any(name.startswith(f"{database}.") for name in self._included)
        )

    def renamed(self, namespace: str) -> str:
        """
        A collection's name in the destination, whether selected or not.
        """
        database, _, name = namespace.partition(".")
        prefix = ""
        if name.startswith(_BUCKETS):
            prefix, name = _BUCKETS, name[len(_BUCKETS) :]
        new = self._renamed.get(f"{database}.{name}")
        if new is None:
            return f"{self.renamed_database(database)}.{prefix}{name}"
        new_database, _, new_name = new.partition(".")
        return f"{new_database}.{prefix}{new_name}"

    def renamed_database(self, database: str) -> str:
        """
        A database's name in the destination.
        """
        return self._renamed.get(database, database)

    def destination(self, namespace: str) -> str | None:
        """
        Where a collection's operations go; C{None} where it is not selected.
        """
        try:
            return self._cache[namespace]
        except KeyError:
            pass
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        name = namespace.partition(".")[2]
        if name == _VIEWS:
            database = namespace.partition(".")[0]
            found = namespace if self.selects_part(database) else None
        else:
            found = self.renamed(namespace) if self.selects(namespace) else None
        self._cache[namespace] = found
        return found

    def covers_renames(self) -> bool:
        """
        Whether everything that is selected gets another name, so that
        source and destination may be the same deployment.
        """
        return bool(self.include) and all(
            (self.renamed(name) if "." in name else self.renamed_database(name)) != name
            for name in self.include
        )

    def describe(self) -> dict[str, Any]:
        """
        For people to read, in an order that does not depend on the command.
        """
        return {
            "ns": sorted(set(self.include)),
            "exclude": sorted(set(self.exclude)),
            "rename": sorted(set(self.renames)),
        }

    def fingerprint(self) -> str:
        """
        The same for selections that select and rename alike.
        """
        described = self.describe()
        if not any(described.values()):
            return "all"
        return hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()[:16]


def _followed(namespace: str) -> str:
    """Buckets of a time series are selected as the series is."""
    database, _, name = namespace.partition(".")
    return f"{database}.{name[len(_BUCKETS) :]}" if name.startswith(_BUCKETS) else namespace


def _check_name(name: str, option: str, shown: str) -> None:
    database, dot, collection = name.partition(".")
    if not database or (dot and not collection) or any(c in name for c in " \0$/\\"):
        raise SelectionError(
            f"{option} {shown!r} must name a database or database.collection, without spaces"
        )


def _parse_renames(specifications: Sequence[str]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    targets: dict[str, str] = {}
    for text in specifications:
        old, equals, new = text.partition("=")
        if not equals or "=" in new:
            raise SelectionError(f"--rename {text!r} must have the form old=new")
        _check_name(old, "--rename", text)
        _check_name(new, "--rename", text)
        if ("." in old) != ("." in new):
            raise SelectionError(
                f"--rename {text!r} must have two databases or two database.collection names"
            )
        if new.partition(".")[0] in _NEVER:
            raise SelectionError(
                f"--rename {text!r} names a database that belongs to the server: choose another"
            )
        if renamed.get(old, new) != new:
            raise SelectionError(f"--rename {text!r} renames {old} a second time: keep one")
        if targets.get(new, old) != old:
            raise SelectionError(
                f"--rename {text!r} would put {old} into {new}, as {targets[new]} is: "
                "choose another name"
            )
        renamed[old], targets[new] = new, old
    return renamed
