"""
Which types the API gives, for mypy alone: nothing here is run.

Where a line is marked as an error, mypy must find that one
(C{warn_unused_ignores}).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, assert_type

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, InsertOne
from pymongo.results import InsertOneResult, UpdateResult
from twisted.internet.defer import Deferred

from txmongokit.changestream import ChangeStream
from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool, MongoClient
from txmongokit.cursor import CommandCursor, Cursor
from txmongokit.database import Database
from txmongokit.sessions import ClientSession

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


ANY: CodecOptions[Mapping[str, Any]] = CodecOptions()


async def plain(pool: ConnectionPool) -> None:
    """Without any codec options documents are dicts."""
    assert_type(pool, ConnectionPool[dict[str, Any]])
    assert_type(pool.shop, Database[dict[str, Any]])
    assert_type(pool["shop"]["things"], Collection[dict[str, Any]])
    assert_type(pool.shop.things.more, Collection[dict[str, Any]])
    assert_type(pool.get_database("shop"), Database[dict[str, Any]])
    assert_type(pool.get_default_database(), Database[dict[str, Any]])
    things = pool.shop.things
    assert_type(things.find(), Cursor[dict[str, Any]])
    assert_type(things.find().sort("a").limit(3), Cursor[dict[str, Any]])
    assert_type(await things.find(), list[dict[str, Any]])
    assert_type(await things.find_one({}), dict[str, Any] | None)
    assert_type(things.watch(), ChangeStream[dict[str, Any]])
    assert_type(things.insert_one({"a": 1}), Deferred[InsertOneResult])
    assert_type(await things.count_documents({}), int)
    async for document in things.find():
        assert_type(document, dict[str, Any])
    count: str = await things.count_documents({})  # type: ignore[assignment]
    things.find(batch_size="many")  # type: ignore[arg-type]
    things.with_options(codec_options="raw")  # type: ignore[call-overload]
    del count


async def raw(pool: ConnectionPool) -> None:
    """Codec options say what documents are, from where they are given on."""
    things = pool.shop.things.with_options(RAW)
    assert_type(things, Collection[RawBSONDocument])
    assert_type(await things.find_one(), RawBSONDocument | None)
    assert_type(await things.find().to_list(), list[RawBSONDocument])
    assert_type(things.with_options(timeout=3.0), Collection[RawBSONDocument])
    assert_type(pool.shop.with_options(codec_options=RAW), Database[RawBSONDocument])
    assert_type(pool.shop.with_options(codec_options=RAW).things, Collection[RawBSONDocument])
    assert_type(pool.shop.get_collection("things", RAW), Collection[RawBSONDocument])
    assert_type(pool.shop.get_collection("things"), Collection[dict[str, Any]])
    assert_type(pool.get_database("shop", codec_options=RAW), Database[RawBSONDocument])
    wrong: Collection[dict[str, Any]] = things  # type: ignore[assignment]
    del wrong


async def client() -> None:
    """A client's document class is that of everything in it."""
    client = MongoClient("localhost", document_class=RawBSONDocument)
    assert_type(client, MongoClient[RawBSONDocument])
    assert_type(client.shop.things, Collection[RawBSONDocument])
    assert_type(await client.shop.things.find_one(), RawBSONDocument | None)
    other: MongoClient[dict[str, Any]] = MongoClient()
    assert_type(other.shop, Database[dict[str, Any]])


async def any_mapping(pool: ConnectionPool) -> None:
    """A document class may be as wide as users like."""
    assert_type(pool.shop.get_collection("films", ANY), Collection[Mapping[str, Any]])


class Film(TypedDict):
    """What a collection holds, for mypy."""

    title: str
    year: int


FILMS: CodecOptions[Film] = CodecOptions(document_class=Film)


async def typed(pool: ConnectionPool) -> None:
    """Documents may be as exact as a TypedDict."""
    films: Collection[Film] = pool.shop.get_collection("films", FILMS)
    assert_type(await films.insert_one(Film(title="M", year=1931)), InsertOneResult)
    await films.insert_one({"title": "M", "year": 1931})
    await films.insert_one({"title": "M"})  # type: ignore[arg-type]
    await films.insert_many([{"title": "M", "year": 1931}])
    await films.insert_many([{"year": 1931}])  # type: ignore[list-item]
    found = await films.find_one({"year": 1931})
    assert_type(found, Film | None)
    if found is not None:
        assert_type(found["year"], int)
        found["actor"]  # type: ignore[typeddict-item]
    async for film in films.find().sort("year"):
        assert_type(film["title"], str)
    after = await films.find_one_and_update({}, {"$inc": {"year": 1}})
    assert_type(after, Film | None)
    assert_type(
        await films.find_one_and_replace({}, Film(title="M", year=1931)),
        Film | None,
    )
    assert_type(await films.find_one_and_delete({}), Film | None)
    await films.bulk_write([InsertOne(Film(title="M", year=1931)), DeleteOne({})])
    await films.bulk_write([{"title": "M"}])  # type: ignore[list-item]
    assert_type(await films.replace_one({}, Film(title="M", year=1931)), UpdateResult)


async def pipelines(pool: ConnectionPool) -> None:
    """Pipelines and changes give what the collection holds."""
    things = pool.shop.things
    assert_type(things.aggregate([]), CommandCursor[dict[str, Any]])
    assert_type(await things.aggregate([], allow_disk_use=True), list[dict[str, Any]])
    assert_type(things.aggregate([], None, {"x": 1}, "why"), CommandCursor[dict[str, Any]])
    assert_type(things.aggregate([], False, 5), CommandCursor[dict[str, Any]])
    assert_type(things.aggregate([], full_response=True), Deferred[dict[str, Any]])
    assert_type(things.aggregate([], True, 5), Deferred[dict[str, Any]])
    raws = things.with_options(RAW)
    assert_type(raws.aggregate([]), CommandCursor[RawBSONDocument])
    assert_type(raws.watch(), ChangeStream[RawBSONDocument])
    assert_type(things.aggregate_raw_batches([]), CommandCursor[bytes])
    assert_type(things.find_raw_batches(), Cursor[bytes])
    database = pool.shop.with_options(RAW)
    assert_type(database.aggregate([]), CommandCursor[RawBSONDocument])
    assert_type(database.watch(), ChangeStream[RawBSONDocument])
    client = MongoClient(document_class=RawBSONDocument)
    assert_type(client.watch(), ChangeStream[RawBSONDocument])
    things.aggregate("$match")  # type: ignore[arg-type]
    things.aggregate([], session="s")  # type: ignore[call-overload]


async def commands(pool: ConnectionPool) -> None:
    """Commands' replies are dicts unless they are asked for otherwise."""
    shop = pool.shop
    assert_type(await shop.command("ping"), dict[str, Any])
    assert_type(await shop.command("ping", codec_options=RAW), RawBSONDocument)
    assert_type(await shop.command("find", "t", True, [], None, RAW), RawBSONDocument)
    assert_type(shop.cursor_command("find", "things"), CommandCursor[dict[str, Any]])
    raw = shop.cursor_command("find", "things", codec_options=RAW)
    assert_type(raw, CommandCursor[RawBSONDocument])
    assert_type(shop.list_collections(), CommandCursor[dict[str, Any]])
    assert_type(shop.things.list_indexes(), CommandCursor[dict[str, Any]])
    assert_type(await shop.create_collection("new"), Collection[dict[str, Any]])
    assert_type(await shop.create_collection("new", RAW), Collection[RawBSONDocument])
    assert_type(pool.get_default_database(codec_options=RAW), Database[RawBSONDocument])


async def in_transactions(pool: ConnectionPool) -> None:
    """A transaction gives what its callback does."""

    async def counted(session: ClientSession) -> int:
        return await pool.shop.things.count_documents({}, session=session)

    async with pool.start_session() as session:
        assert_type(await session.with_transaction(counted), int)
