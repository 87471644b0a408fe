"""
Which types the API gives, for mypy alone: nothing here is run.

Where a line is marked as an error, mypy must find that one
(C{warn_unused_ignores}).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.results import InsertOneResult
from twisted.internet.defer import Deferred

from txmongokit.changestream import ChangeStream
from txmongokit.collection import Collection
from txmongokit.connection import ConnectionPool, MongoClient
from txmongokit.cursor import Cursor
from txmongokit.database import Database

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
