"""
Which types a storage gives, for mypy alone: nothing here is run.

Where a line is marked as an error, mypy must find that one
(C{warn_unused_ignores}).
"""

from __future__ import annotations

from typing import Any, assert_type

from twisted.internet.defer import Deferred

from tests.storage.classes import Book, Box, Entry, Film, Note, Person
from txmongokit.storage import QueryAdapter, StorageAdapter


async def by_key(storage: StorageAdapter) -> None:
    """A class of documents is what its documents are."""
    assert_type(storage.get(Person, 1), Deferred[Person])
    assert_type(await storage.get(dict[str, Any], 1), dict[str, Any])
    assert_type(await storage.get(Entry, 1), Entry)
    assert_type((await storage.get(Box[int], 1)).content, int)
    assert_type(await storage.get_many(Book, [1, 2]), list[Book])
    assert_type(await storage.get_or_create(Film, title="M"), tuple[Film, bool])
    assert_type(await storage.delete(1), bool)
    assert_type(await storage.clear(), int)
    key: Any = await storage.save(Person("Ada"))
    await storage.get("Person", key)  # type: ignore[arg-type]  # a name is no class
    wrong: Film = await storage.get(Person, 1)  # type: ignore[arg-type]  # it is a Person
    del wrong


async def by_query(storage: StorageAdapter) -> None:
    """A query gives what it was made for, whatever else is said of it."""
    people = storage.find(Person, age__gt=5)
    assert_type(people, QueryAdapter[Person])
    assert_type(people.where(name="x").where_not(age=3).order_by("-age"), QueryAdapter[Person])
    assert_type(people[5:10], QueryAdapter[Person])
    assert_type(people[0], Deferred[Person])
    assert_type(await people, list[Person])
    assert_type(await people.to_list(), list[Person])
    assert_type(await people.first(), Person | None)
    assert_type(await people.count(), int)
    assert_type(await people.delete(), int)
    assert_type(await people.values("name"), list[Any])
    async for person in people:
        assert_type(person, Person)
    assert_type(storage.find(Note), QueryAdapter[Note])
    assert_type(storage.find(doc_class=Note, text="x"), QueryAdapter[Note])
    assert_type(await storage.find(name="x"), list[dict[str, Any]])
    people["name"]  # type: ignore[call-overload]  # slices and numbers alone
    for person in people:  # type: ignore[misc]  # it is asynchronous
        del person
    people.order_by(5)  # type: ignore[arg-type]  # names alone


async def with_storage() -> None:
    """A storage is its own context."""
    async with StorageAdapter(database="a", collection="b") as storage:
        assert_type(storage, StorageAdapter)
    StorageAdapter("localhost")  # type: ignore[call-arg]  # by keyword alone
