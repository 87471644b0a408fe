"""
A client of scripted routers (L{tests.routers}): the conversation with a
C{mongos} and with a load balancer, before a real replica set.
"""

from __future__ import annotations

from typing import Any

from bson.objectid import ObjectId
from twisted.internet.defer import Deferred

from tests.deployments import Commands, SharedTestCase, shared_set
from tests.routers import ScriptedRouter
from txmongokit.connection import ConnectionPool
from txmongokit.errors import OperationFailure
from txmongokit.types import Address


class RouterTests(SharedTestCase):
    """Transactions and cursors through routers."""

    def setUp(self) -> None:
        """The primary, which routers stand before."""
        super().setUp()
        self.primary: Address = shared_set().primary().address

    async def router(self, services: int = 0) -> ScriptedRouter:
        """A router, stopped afterwards."""
        router = ScriptedRouter(lambda: self.primary, [ObjectId() for _ in range(services)])
        await router.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(router.stop()))
        return router

    def of(self, *routers: ScriptedRouter, **options: Any) -> ConnectionPool:
        """A client of routers."""
        hosts = ",".join(f"127.0.0.1:{router.address[1]}" for router in routers)
        return self.client(f"mongodb://{hosts}/", **options)

    def test_mongos(self) -> Deferred[None]:
        """All of a transaction goes to one mongos, with what another would recover it by."""
        return Deferred.fromCoroutine(self.mongos())

    async def mongos(self) -> None:
        """See L{test_mongos}."""
        routers = [await self.router() for _ in range(2)]
        commands = Commands()
        client = self.of(*routers, event_listeners=[commands])
        things = client[self.database]["things"]
        await things.insert_one({"_id": 0})
        self.assertEqual(client.topology_description.topology_type_name, "Sharded")
        async with client.start_session() as session:
            for number in range(1, 6):
                async with session.start_transaction():
                    await things.insert_one({"_id": number}, session=session)
                    await things.update_one({"_id": 0}, {"$inc": {"n": 1}}, session=session)
                self.assertIsNotNone(session.state.pinned_address)
                sent = [e for e in commands.sent if e.command.get("startTransaction")][-1]
                ended = commands.named("commitTransaction")[-1]
                self.assertEqual(sent.connection_id, ended.connection_id)
                self.assertIn("recoveryToken", ended.command)
            self.assertEqual(await things.count_documents({}), 6)
        self.assertEqual(sum(len(router.tokens) for router in routers), 5)

    def test_load_balancer(self) -> Deferred[None]:
        """Two services take turns; a cursor and a transaction stay with theirs."""
        return Deferred.fromCoroutine(self.load_balancer())

    async def load_balancer(self) -> None:
        """See L{test_load_balancer}."""
        router = await self.router(services=2)
        commands = Commands()
        client = self.of(router, loadBalanced=True, event_listeners=[commands])
        things = client[self.database]["things"]
        await things.insert_many([{"_id": n} for n in range(10)])
        one, two = things.find(batch_size=2), things.find(batch_size=2)
        self.assertEqual((await one.next(), await two.next()), ({"_id": 0}, {"_id": 0}))
        async with client.start_session() as session:
            session.start_transaction()
            await things.insert_one({"_id": 10}, session=session)
            self.assertEqual(len(await one.to_list()), 9)
            await two.close()
            self.assertEqual(await things.count_documents({}, session=session), 11)
            await session.abort_transaction()
        self.assertEqual(await things.count_documents({}), 10)
        found = commands.named("find")
        self.assertEqual(len({event.service_id for event in found}), 2)
        kept = {event.server_connection_id for event in commands.named("getMore")}
        self.assertEqual(kept, {found[0].server_connection_id})
        (killed,) = commands.named("killCursors")
        self.assertEqual(killed.server_connection_id, found[1].server_connection_id)
        self.assertEqual({name for _, name in router.asked} & {"ismaster", "isMaster"}, set())
        await client.close()

    def test_mismatch(self) -> Deferred[None]:
        """Who does not say loadBalanced is turned away."""
        return Deferred.fromCoroutine(self.mismatch())

    async def mismatch(self) -> None:
        """See L{test_mismatch}."""
        client = self.of(await self.router(services=1), serverSelectionTimeoutMS=1000)
        error = await self.error_of(client[self.database].command("ping"))
        self.assertNotIsInstance(error, OperationFailure)
        self.assertIn("does not have load balancing enabled", str(error))
