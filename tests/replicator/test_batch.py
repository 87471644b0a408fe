"""
Tests for L{txmongokit.replicator.batch}.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import bson
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.replicator.test_entries import entry
from txmongokit.replicator.batch import Batch, LargeBatch, WriteGroup
from txmongokit.replicator.entries import parse_entry
from txmongokit.replicator.statements import Dialect, Operation

IDS: list[Any] = [1, 1.0, Int64(1), Decimal128("1"), True, "a", {"x": 1}, {"x": 1.0}]


def operation(kind: str, identifier: Any, mark: int = 0, namespace: str = "db.c") -> Operation:
    """
    An operation on one document, which an insert or update marks.
    """
    o = {"_id": identifier} if kind == "d" else {"_id": identifier, "mark": mark}
    o2 = {"_id": identifier} if kind == "u" else None
    return Operation.from_entry(parse_entry(entry(kind, o, o2=o2)), namespace, Dialect())


def apply(state: dict[Any, int], kind: str, statement: bytes) -> None:
    """
    What a server does with a statement, to a model of one collection.
    """
    document = bson.decode(statement)
    identifier = document["q"]["_id"]
    if isinstance(identifier, dict):
        identifier = ("document", identifier["x"])
    elif isinstance(identifier, Decimal128):
        identifier = int(identifier.to_decimal())
    elif isinstance(identifier, bool):
        identifier = ("bool", identifier)
    if kind == "delete":
        state.pop(identifier, None)
    elif document.get("upsert") or identifier in state:
        state[identifier] = document["u"]["mark"]


def outcome(groups: list[WriteGroup]) -> dict[str, dict[Any, int]]:
    """
    All collections after some groups.
    """
    states: dict[str, dict[Any, int]] = {}
    for group in groups:
        for statement in group.statements:
            apply(states.setdefault(group.namespace, {}), group.kind, statement)
    return states


def one_by_one(operations: list[Operation]) -> list[WriteGroup]:
    """
    A group for each operation.
    """
    return [
        WriteGroup(each.namespace, "delete" if each.kind == "d" else "update", [each.statement])
        for each in operations
    ]


OPERATIONS = st.lists(
    st.tuples(st.sampled_from("iud"), st.sampled_from(IDS), st.sampled_from(["db.c", "db.d"])),
    max_size=25,
)


class GroupTests(SynchronousTestCase):
    """
    Regrouping.
    """

    @settings(max_examples=300, deadline=None)
    @given(OPERATIONS)
    def test_same_outcome(self, drawn: list[tuple[str, Any, str]]) -> None:
        """
        Groups leave the same documents as the operations one by one, and
        lose or merge none.
        """
        operations = [operation(k, i, mark, ns) for mark, (k, i, ns) in enumerate(drawn)]
        batch = Batch()
        batch.add_all(operations)
        groups = batch.groups(lambda namespace: False)
        self.assertEqual(outcome(groups), outcome(one_by_one(operations)))
        self.assertEqual(
            sorted(s for group in groups for s in group.statements),
            sorted(each.statement for each in operations),
        )
        sizes = [len(s) for group in groups for s in group.statements]
        self.assertEqual(sum(sizes), batch.bytes)
        self.assertEqual(batch.groups(lambda namespace: False), groups)

    @settings(max_examples=100, deadline=None)
    @given(OPERATIONS)
    def test_strict(self, drawn: list[tuple[str, Any, str]]) -> None:
        """
        A strict namespace keeps the whole order, in alternating groups.
        """
        operations = [operation(k, i, mark, ns) for mark, (k, i, ns) in enumerate(drawn)]
        batch = Batch()
        batch.add_all(operations)
        groups = batch.groups(lambda namespace: True)
        for namespace in ("db.c", "db.d"):
            mine = [group for group in groups if group.namespace == namespace]
            self.assertEqual(
                [s for group in mine for s in group.statements],
                [each.statement for each in operations if each.namespace == namespace],
            )
            for one, other in itertools.pairwise(mine):
                self.assertNotEqual(one.kind, other.kind)

    def test_few_groups(self) -> None:
        """
        Operations on different documents make two groups, however they alternate.
        """
        batch = Batch()
        for number in range(50):
            batch.add(operation("d" if number % 2 else "i", number))
        groups = batch.groups(lambda namespace: False)
        self.assertEqual([group.kind for group in groups], ["update", "delete"])

    def test_strict_by_namespace(self) -> None:
        """
        Only the namespace that must be is strict.
        """
        batch = Batch()
        for namespace in ("db.c", "db.d"):
            for number in range(4):
                batch.add(operation("d" if number % 2 else "i", number, 0, namespace))
        groups = batch.groups(lambda namespace: namespace == "db.d")
        self.assertEqual([group.namespace for group in groups], ["db.c"] * 2 + ["db.d"] * 4)


class LimitTests(SynchronousTestCase):
    """
    When a batch is full, and where it ends.
    """

    def test_count(self) -> None:
        """
        A batch is full at its number, and a transaction passes it whole.
        """
        batch = Batch(max_operations=2)
        batch.add(operation("i", 1))
        self.assertFalse(batch.full)
        batch.add_all([operation("i", number) for number in range(2, 6)])
        self.assertTrue(batch.full)
        self.assertEqual(batch.count, 5)

    def test_bytes(self) -> None:
        """
        A batch is full at its size.
        """
        one = operation("i", 1)
        batch = Batch(max_bytes=2 * one.size)
        batch.add(one)
        self.assertFalse(batch.full)
        batch.add(one)
        self.assertTrue(batch.full)
        self.assertEqual(batch.bytes, 2 * len(one.statement))

    def test_position(self) -> None:
        """
        The position is the last that was told, also without operations.
        """
        batch = Batch()
        self.assertEqual((batch.position, batch.namespaces), (0, []))
        batch.reach(7, 2)
        batch.add(operation("i", 1, 0, "db.d"))
        self.assertEqual((batch.position, batch.term, batch.namespaces), (7, 2, ["db.d"]))


class LargeBatchTests(SynchronousTestCase):
    """
    A batch that is made while it is written.
    """

    def test_parts(self) -> None:
        """Its groups are those of its parts, each made when it is asked for."""
        made: list[int] = []

        def parts() -> Iterator[Batch]:
            for number in range(3):
                made.append(number)
                part = Batch()
                part.add(operation("i", number))
                part.add(operation("d", number))
                yield part

        batch = LargeBatch(parts, ["db.c"], 6, 600)
        self.assertEqual((batch.count, batch.bytes, batch.namespaces), (6, 600, ["db.c"]))
        groups = batch.each_group(lambda namespace: False)
        self.assertEqual(made, [])
        self.assertEqual(next(groups).kind, "update")
        self.assertEqual(made, [0])
        self.assertEqual([each.kind for each in groups], ["delete", "update"] * 2 + ["delete"])
        self.assertEqual([each.kind for each in batch.operations()], ["i", "d"] * 3)
