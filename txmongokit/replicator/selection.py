"""
Which namespaces are replicated, and under which names.

Matching is exact: C{foo} is the database of that name, C{foo.bar} one
collection of it, and neither is ever a prefix.  C{app_*.logs} is a pattern,
C{*} any part of a name (of a database's: none with a dot); C{/regex/} must
match the whole of C{database.collection}.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["CHECKPOINT_DATABASE", "Selection", "SelectionError"]

CHECKPOINT_DATABASE = "txmongokit"
"""The database of the checkpoint, which is never replicated."""

# What is in admin is left to the operator of the destination, but for users
# and roles where that is asked for.
_NEVER = frozenset({"admin", "config", "local", CHECKPOINT_DATABASE})
_USERS = frozenset({"admin.system.users", "admin.system.roles"})
_BUCKETS = "system.buckets."
_VIEWS = "system.views"
# Where servers put what they rename when it is whole.
_TEMPORARY = re.compile(
    r"tmp\.(?:agg_out|mr)\.|tmp\w{5}\.(?:renameCollection|convertToCapped|create|rename)"
)
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
        They are not chained; of several that match, the collection's wins,
        and a name wins over a pattern.  Each C{*} in C{new} stands for what
        that of C{old} has matched, C{\\1} for a group of a regular
        expression.
    @param users: whether users and roles are replicated.

    @raise SelectionError: one of them makes no sense, or two contradict.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        renames: Sequence[str] = (),
        users: bool = False,
    ) -> None:
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self.renames = tuple(renames)
        self.users = users
        self._included = _Names(include, "--ns")
        self._excluded = _Names(exclude, "--exclude")
        self._renamed = _Renames(renames)
        self._cache: dict[str, str | None] = {}
        self._sources: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Selection ns={self.include} exclude={self.exclude} rename={self.renames}>"

    def selects(self, namespace: str) -> bool:
        """
        Whether a collection is replicated.
        """
        database, _, name = _followed(namespace).partition(".")
        if database in _NEVER:
            return self.users and namespace in _USERS
        if name == "system.profile" or self._excluded.has(database, name):
            return False
        return not self.include or self._included.has(database, name)

    def selects_database(self, database: str) -> bool:
        """
        Whether every collection of a database is replicated; C{False} also
        where a regular expression leaves that open.
        """
        if database in _NEVER or self._excluded.touches(database):
            return False
        return not self.include or self._included.has_all(database)

    def selects_part(self, database: str) -> bool:
        """
        Whether any collection of a database may be replicated.
        """
        if database == "admin":
            return self.users
        if database in _NEVER or self._excluded.has_all(database):
            return False
        return not self.include or self._included.touches(database)

    def renamed(self, namespace: str) -> str:
        """
        A collection's name in the destination, whether selected or not.
        """
        database, _, name = namespace.partition(".")
        prefix = ""
        if name.startswith(_BUCKETS):
            prefix, name = _BUCKETS, name[len(_BUCKETS) :]
        new = self._renamed.collection(f"{database}.{name}")
        if new is None:
            return f"{self.renamed_database(database)}.{prefix}{name}"
        new_database, _, new_name = new.partition(".")
        return f"{new_database}.{prefix}{new_name}"

    def renamed_database(self, database: str) -> str:
        """
        A database's name in the destination.
        """
        return self._renamed.database(database)

    def may_share(self, database: str) -> bool:
        """
        Whether collections of other databases may be renamed into that one
        of the destination.
        """
        return self._renamed.may_share(database)

    def is_temporary(self, namespace: str) -> bool:
        """
        Whether a collection is one that the server makes to rename it when
        it is whole.  Such a one is followed wherever a part of its database
        is, since its last name is not known before.
        """
        return _TEMPORARY.match(namespace.partition(".")[2]) is not None

    def destination(self, namespace: str) -> str | None:
        """
        Where a collection's operations go; C{None} where it is not selected.

        @raise SelectionError: another collection is renamed to the same
            name.
        """
        try:
            return self._cache[namespace]
        except KeyError:
            pass
        if len(self._cache) >= _CACHED:
            self._cache.clear()
            self._sources.clear()
        database, _, name = namespace.partition(".")
        if name == _VIEWS:
            found = namespace if self.selects_part(database) else None
        elif self.selects(namespace) or (
            self.is_temporary(namespace) and self.selects_part(database)
        ):
            found = self._only(namespace)
        else:
            found = None
        self._cache[namespace] = found
        return found

    def _only(self, namespace: str) -> str:
        target = self.renamed(namespace)
        if self.renames:
            source = self._sources.setdefault(target, namespace)
            if source != namespace:
                raise SelectionError(
                    f"{source} and {namespace} are both {target} in the destination: exclude "
                    "one of them, or rename them to different names"
                )
        return target

    def covers_renames(self) -> bool:
        """
        Whether everything that is selected gets another name, so that
        source and destination may be the same deployment.
        """
        return bool(self.include) and all(map(self._is_renamed, self.include))

    def _is_renamed(self, name: str) -> bool:
        if _is_pattern(name):
            return any(_sides(text)[0] == name != _sides(text)[1] for text in self.renames)
        return (self.renamed(name) if "." in name else self.renamed_database(name)) != name

    def describe(self) -> dict[str, Any]:
        """
        For people to read, in an order that does not depend on the command.
        """
        described: dict[str, Any] = {
            "ns": sorted(set(self.include)),
            "exclude": sorted(set(self.exclude)),
            "rename": sorted(set(self.renames)),
        }
        if self.users:
            described["users"] = True
        return described

    def fingerprint(self) -> str:
        """
        The same for selections that select and rename alike.
        """
        described = self.describe()
        if not any(described.values()):
            return "all"
        return hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()[:16]


class _Names:
    """
    Databases and collections, by name or by pattern.
    """

    def __init__(self, names: Sequence[str], option: str) -> None:
        self._exact = frozenset(name for name in names if not _is_pattern(name))
        for name in self._exact:
            _check_name(name, option, name)
        # Of each pattern: for the database alone, for the whole name.
        self._databases: list[re.Pattern[str]] = []
        self._collections: list[tuple[re.Pattern[str], re.Pattern[str]]] = []
        for name in filter(_is_pattern, names):
            whole = _compiled(name, option, name)
            database, dot, rest = name.partition(".")
            if name.startswith("/"):
                self._collections.append((re.compile(""), whole))
            elif not dot or rest == "*":
                self._databases.append(_compiled(database, option, name))
            else:
                self._collections.append((_compiled(database, option, name), whole))
        self._parts = frozenset(name.partition(".")[0] for name in self._exact)

    def has(self, database: str, name: str) -> bool:
        """Whether a collection is among them."""
        full = f"{database}.{name}"
        return (
            full in self._exact
            or self.has_all(database)
            or any(pattern.fullmatch(full) for _, pattern in self._collections)
        )

    def has_all(self, database: str) -> bool:
        """Whether each collection of a database surely is."""
        return database in self._exact or any(
            pattern.fullmatch(database) for pattern in self._databases
        )

    def touches(self, database: str) -> bool:
        """Whether any collection of a database may be."""
        return (
            database in self._parts
            or self.has_all(database)
            or any(
                not pattern.pattern or pattern.fullmatch(database)
                for pattern, _ in self._collections
            )
        )


class _Renames:
    """
    Old names and new ones, exact or by pattern.
    """

    def __init__(self, specifications: Sequence[str]) -> None:
        patterns = [text for text in specifications if _is_pattern(_sides(text)[0])]
        self._exact = _parse_renames([text for text in specifications if text not in patterns])
        self._collections: list[tuple[re.Pattern[str], str]] = []
        self._databases: list[tuple[re.Pattern[str], str]] = []
        for text in patterns:
            old, new = _sides(text)
            pattern = _compiled(old, "--rename", text)
            is_regex = old.startswith("/")
            if not is_regex and ("." in old) != ("." in new):
                raise SelectionError(
                    f"--rename {text!r} must have two databases or two database.collection names"
                )
            self._check_target(text, new)
            template = new if is_regex else _template(text, pattern, new)
            if is_regex or "." in old:
                self._collections.append((pattern, template))
            else:
                self._databases.append((pattern, template))
            try:
                pattern.sub(template, "")
            except (re.error, IndexError):
                raise SelectionError(
                    f"--rename {text!r} refers to a group that its expression does not have"
                ) from None

    @staticmethod
    def _check_target(text: str, new: str) -> None:
        _check_name(re.sub(r"\\\d|\*", "x", new), "--rename", text)
        if new.partition(".")[0] in _NEVER:
            raise SelectionError(
                f"--rename {text!r} names a database that belongs to the server: choose another"
            )

    def collection(self, namespace: str) -> str | None:
        """A collection's new name, unless it only follows its database."""
        return self._exact.get(namespace) or _replaced(namespace, self._collections)

    def database(self, database: str) -> str:
        """A database's new name."""
        new = self._exact.get(database) or _replaced(database, self._databases)
        return new or database

    def may_share(self, database: str) -> bool:
        """Whether a collection of another database may come into that one."""
        return bool(self._collections) or any(
            new.startswith(f"{database}.") for new in self._exact.values()
        )


def _replaced(name: str, patterns: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in patterns:
        match = pattern.fullmatch(name)
        if match is not None:
            return match.expand(template)
    return None


def _sides(text: str) -> tuple[str, str]:
    """Both sides of a rename; the right one is empty where there is none."""
    if text.startswith("/"):
        old, _, new = text.rpartition("/=")
        return f"{old}/", new
    old, _, new = text.partition("=")
    return old, new


def _is_pattern(name: str) -> bool:
    return "*" in name or (len(name) > 2 and name.startswith("/") and name.endswith("/"))


def _compiled(name: str, option: str, shown: str) -> re.Pattern[str]:
    if name.startswith("/"):
        try:
            return re.compile(name[1:-1], re.DOTALL)
        except re.error as error:
            raise SelectionError(f"{option} {shown!r} is no regular expression: {error}") from None
    _check_name(name.replace("*", "x"), option, shown)
    database, dot, rest = name.partition(".")
    pattern = "([^.]*)".join(map(re.escape, database.split("*")))
    if dot:
        pattern += r"\." + "(.*)".join(map(re.escape, rest.split("*")))
    return re.compile(pattern, re.DOTALL)


def _template(text: str, pattern: re.Pattern[str], new: str) -> str:
    parts = new.split("*")
    if len(parts) - 1 > pattern.groups:
        raise SelectionError(f"--rename {text!r} has more '*' on the right than on the left")
    numbered = [part.replace("\\", r"\\") for part in parts]
    return numbered[0] + "".join(
        f"\\g<{number}>{part}" for number, part in enumerate(numbered[1:], 1)
    )


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
