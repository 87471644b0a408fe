"""
Tests for L{txmongokit.replicator.catalog}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import cursor_reply
from tests.replicator.fakes import fake_pool, refused
from txmongokit.errors import OperationFailure
from txmongokit.replicator.catalog import Catalog


def collection(**options: Any) -> dict[str, Any]:
    """A reply that describes a collection."""
    return cursor_reply([{"name": "c", "type": "collection", "options": options}])


def indexes(*found: dict[str, Any]) -> dict[str, Any]:
    """A reply with indexes besides that on C{_id}."""
    return cursor_reply([{"v": 2, "key": {"_id": 1}, "name": "_id_"}, *found])


class CatalogTests(SynchronousTestCase):
    """
    What is known of a collection.
    """

    def learned(self, *replies: Any) -> Catalog:
        """A catalog that has looked up C{db.c}."""
        self.pool = fake_pool(*replies)
        catalog = Catalog(self.pool)
        self.successResultOf(Deferred.fromCoroutine(catalog.learn(["db.c"])))
        return catalog

    def test_plain(self) -> None:
        """Without unique indexes the order of a collection is free."""
        index = {"v": 2, "key": {"x": 1}, "name": "x_1"}
        catalog = self.learned(collection(), indexes(index))
        self.assertFalse(catalog.is_strict("db.c"))
        self.assertFalse(catalog.is_capped("db.c"))
        self.assertEqual(self.pool.runner.bodies[0]["filter"], {"name": "c"})

    def test_unique(self) -> None:
        """A unique index besides that on C{_id} makes it matter."""
        index = {"v": 2, "key": {"x": 1}, "name": "x_1", "unique": True}
        self.assertTrue(self.learned(collection(), indexes(index)).is_strict("db.c"))

    def test_collation(self) -> None:
        """So does a collation, by which more values of C{_id} are equal."""
        self.assertTrue(self.learned(collection(collation={"locale": "en"})).is_strict("db.c"))

    def test_capped(self) -> None:
        """A capped collection is known as such."""
        catalog = self.learned(collection(capped=True, size=4096), indexes())
        self.assertTrue(catalog.is_capped("db.c"))

    def test_absent(self) -> None:
        """A collection that is not there has no unique index."""
        self.assertFalse(self.learned(cursor_reply([]), refused(26)).is_strict("db.c"))

    def test_refused(self) -> None:
        """Not being allowed to know is an error."""
        pool = fake_pool(collection(), refused(13))
        learning = Deferred.fromCoroutine(Catalog(pool).learn(["db.c"]))
        self.failureResultOf(learning, OperationFailure)

    def test_once(self) -> None:
        """It is looked up once, until it is forgotten; then it counts as strict."""
        catalog = self.learned(collection(capped=True), indexes())
        self.successResultOf(Deferred.fromCoroutine(catalog.learn(["db.c"])))
        self.assertEqual(len(self.pool.runner.commands), 2)
        catalog.forget()
        self.assertTrue(catalog.is_strict("db.c"))
        self.assertFalse(catalog.is_capped("db.c"))
