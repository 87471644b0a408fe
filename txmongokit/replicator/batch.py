"""
Batches: what goes into one destination transaction, regrouped into few
commands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from txmongokit.replicator.statements import Operation

__all__ = ["Batch", "LargeBatch", "WriteGroup"]


@dataclass(slots=True)
class WriteGroup:
    """
    Statements for one write command, or several in a row where a message
    cannot hold them all.

    @ivar kind: C{insert}, C{update} or C{delete}.
    """

    namespace: str
    kind: str
    statements: list[bytes] = field(default_factory=list)

    def append(self, operation: Operation) -> None:
        """
        Put an operation after those that are here.
        """
        self.statements.append(operation.document if self.kind == "insert" else operation.statement)


class Batch:
    """
    Operations in the source's order, and the position that they end at.

    @param max_operations: the number at which the batch is full.
    @param max_bytes: the bytes of statements at which it is full.
    @ivar bytes: bytes of all statements.
    @ivar position: of the last entry that L{reach} was told; 0 for none.
    @ivar term: that entry's election term.
    @ivar full: whether it should be written before more is added.
    @ivar part: where it is one of the parts that a source transaction is
        split into: how many are applied with this one; 0 with the last.
    """

    def __init__(self, max_operations: int = 1000, max_bytes: int = 8 * 1024 * 1024) -> None:
        self.bytes = 0
        self.full = False
        self.position = 0
        self.term = -1
        self.part = 0
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        # In phases already, as they are nearly always wanted: the destination is
        # not kept waiting for that.
        self._collected: dict[str, _Phases] = {}
        self._count = 0

    @property
    def count(self) -> int:
        """
        How many operations are here.
        """
        return self._count

    @property
    def namespaces(self) -> list[str]:
        """
        The destination's namespaces that are written to, each once, in order of
        appearance.
        """
        return list(self._collected)

    def operations(self) -> Iterator[Operation]:
        """
        All of them, each namespace's in the source's order.
        """
        for collected in self._collected.values():
            yield from collected.operations

    def reach(self, position: int, term: int) -> None:
        """
        Everything up to and with this entry is here.
        """
        self.position = position
        self.term = term

    def add(self, operation: Operation) -> None:
        """
        Put an operation after those that are here.
        """
        namespace = operation.namespace
        collected = self._collected.get(namespace)
        if collected is None:
            collected = self._collected[namespace] = _Phases(namespace, _KINDS_INSERTING)
        collected.add(operation)
        self._count += 1
        self.bytes += operation.size
        if self._count >= self._max_operations or self.bytes >= self._max_bytes:
            self.full = True

    def add_all(self, operations: Sequence[Operation]) -> None:
        """
        Add a source transaction's operations: whole, however many.
        """
        for operation in operations:
            self.add(operation)

    def groups(
        self, strict: Callable[[str], bool], *, plain_inserts: bool = False
    ) -> list[WriteGroup]:
        """
        The commands to write, in their order.

        @param strict: whether a namespace's operations must keep the source's
            order among all its documents, rather than for each document.
        @param plain_inserts: insert documents instead of replacing them or
            inserting: far less work for the server, and a duplicate key
            where a document is there already.
        """
        return list(self.each_group(strict, plain_inserts=plain_inserts))

    def each_group(
        self, strict: Callable[[str], bool], *, plain_inserts: bool = False
    ) -> Iterator[WriteGroup]:
        """
        The same commands, one by one.
        """
        for namespace, collected in self._collected.items():
            if strict(namespace):
                kinds = _KINDS_INSERTING if plain_inserts else _KINDS
                yield from _in_order(namespace, collected.operations, kinds)
                continue
            phases = collected
            if not plain_inserts:
                phases = _Phases(namespace, _KINDS)
                for operation in collected.operations:
                    phases.add(operation)
            yield from phases.groups()


class LargeBatch(Batch):
    """
    A source transaction that is not in memory as a whole.

    @param parts: makes its parts, in their order, from the start each time.
    @param namespaces: the destination's namespaces that it writes to.
    @param count: how many operations it has.
    @param size: bytes of their statements.
    """

    def __init__(
        self,
        parts: Callable[[], Iterator[Batch]],
        namespaces: Sequence[str],
        count: int,
        size: int,
    ) -> None:
        super().__init__()
        self.bytes = size
        self._count = count
        self._parts = parts
        self._namespaces = list(namespaces)

    @property
    def namespaces(self) -> list[str]:
        """
        The destination's namespaces that are written to.
        """
        return self._namespaces

    def operations(self) -> Iterator[Operation]:
        """
        All of them, read again each time.
        """
        for part in self._parts():
            yield from part.operations()

    def each_group(
        self, strict: Callable[[str], bool], *, plain_inserts: bool = False
    ) -> Iterator[WriteGroup]:
        """
        See L{Batch.each_group}; they are made as they are asked for.
        """
        for part in self._parts():
            yield from part.each_group(strict, plain_inserts=plain_inserts)


# Groups come in phases of inserts, updates and deletes: what kind of operation
# goes to which of the three.
_GROUPS = ("insert", "update", "delete")
_KINDS = {"i": 1, "u": 1, "d": 2}
_KINDS_INSERTING = {"i": 0, "u": 1, "d": 2}


def _in_order(
    namespace: str, operations: list[Operation], kinds: Mapping[str, int]
) -> list[WriteGroup]:
    groups: list[WriteGroup] = []
    for operation in operations:
        kind = _GROUPS[kinds[operation.form]]
        if not groups or groups[-1].kind != kind:
            groups.append(WriteGroup(namespace, kind))
        groups[-1].append(operation)
    return groups


class _Phases:
    """
    Groups of one namespace: an operation goes to the first of its kind that
    is not before its document's last one.

    @ivar operations: all of them, in the source's order.
    """

    __slots__ = ("_groups", "_kinds", "_last", "_namespace", "operations")

    def __init__(self, namespace: str, kinds: Mapping[str, int]) -> None:
        self.operations: list[Operation] = []
        self._namespace = namespace
        self._kinds = kinds
        self._groups: list[WriteGroup] = []
        self._last: dict[Hashable, int] = {}

    def add(self, operation: Operation) -> None:
        """
        Put an operation after those that are here.
        """
        key, groups, last = operation.key, self._groups, self._last
        at = last.get(key, 0)
        at += (self._kinds[operation.form] - at) % 3
        last[key] = at
        self.operations.append(operation)
        while at >= len(groups):
            groups.append(WriteGroup(self._namespace, _GROUPS[len(groups) % 3]))
        groups[at].append(operation)

    def groups(self) -> Iterator[WriteGroup]:
        """
        Those that have statements.
        """
        return (group for group in self._groups if group.statements)
