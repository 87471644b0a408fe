"""
Real servers behind a real SOCKS5 proxy.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.socksproxy import SocksProxy
from txmongokit.connection import ConnectionPool
from txmongokit.errors import PyMongoError, ServerSelectionTimeoutError
from txmongokit.testing import Deployment, replica_set, standalone


class ProxyTestCase(TestCase):
    """Proxies and clients that are tidied up."""

    timeout = 60

    async def proxy(self, **arguments: Any) -> SocksProxy:
        """A proxy."""
        proxy = SocksProxy(**arguments)
        await proxy.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        return proxy

    async def deployed(self, make: Any, **arguments: Any) -> Deployment:
        """A deployment."""
        deployment: Deployment = await deferToThread(make, **arguments)
        self.addCleanup(deployment.close)
        return deployment

    async def said(self, uri: str, **options: Any) -> Any:
        """What a server answers, or why it does not."""
        pool = ConnectionPool(uri, serverSelectionTimeoutMS=3000, **options)
        try:
            await pool["db"]["things"].insert_one({"text": "x" * 200_000})
            return await pool["db"]["things"].find_one()
        except PyMongoError as error:
            return error
        finally:
            await pool.disconnect()


class SocksTests(ProxyTestCase):
    """Names that only the proxy knows."""

    def test_proxy(self) -> Deferred[None]:
        """Everything goes through the proxy, with and without a password."""
        return Deferred.fromCoroutine(self.through())

    async def through(self) -> None:
        """See L{test_proxy}."""
        deployment = await self.deployed(standalone)
        port = deployment.members[0].port
        names = {"db.invalid": "127.0.0.1"}
        anybody = await self.proxy(names=names)
        known = await self.proxy(names=names, users={"ann": "hunter2"})
        uri = f"mongodb://db.invalid:{port}/"
        document = await self.said(uri, proxyHost="127.0.0.1", proxyPort=anybody.port)
        self.assertEqual(len(document["text"]), 200_000)
        # A monitor and operations.
        self.assertGreaterEqual(len(anybody.asked), 2)
        self.assertEqual(set(anybody.asked), {("db.invalid", port)})
        self.assertEqual(set(anybody.methods), {b"\x00"})

        login = f"proxyHost=localhost&proxyPort={known.port}&proxyUsername=ann&proxyPassword="
        document = await self.said(f"{uri}?{login}hunter2")
        self.assertEqual(len(document["text"]), 200_000)
        self.assertEqual(set(known.methods), {b"\x00\x02"})

        for options, reason in (
            (f"{login}hunter3", "refuses our user name and password"),
            (f"proxyHost=localhost&proxyPort={known.port}", "give proxyUsername"),
            (f"proxyHost=127.0.0.1&proxyPort={port}", "host, port, proxy and firewall"),
        ):
            error = await self.said(f"{uri}?{options}&connectTimeoutMS=1000")
            self.assertIsInstance(error, ServerSelectionTimeoutError)
            self.assertIn(reason, str(error))
            self.assertNotIn("hunter", str(error))
        error = await self.said(
            f"mongodb://other.invalid:{port}/?proxyHost=localhost&proxyPort={anybody.port}"
        )
        self.assertIn("other.invalid", str(error))
        self.assertIn("the host cannot be reached from there", str(error))

    def test_tls(self) -> Deferred[None]:
        """TLS goes through, too, and it is the server's name that is verified."""
        return Deferred.fromCoroutine(self.tls())

    async def tls(self) -> None:
        """See L{test_tls}."""
        deployment = await self.deployed(standalone, tls=True)
        port = deployment.members[0].port
        proxy = await self.proxy(names={"localhost": "127.0.0.1", "other.invalid": "127.0.0.1"})
        options: dict[str, Any] = {
            "tlsCAFile": deployment.ca_file,
            "proxyHost": "127.0.0.1",
            "proxyPort": proxy.port,
        }
        document = await self.said(f"mongodb://localhost:{port}/", **options)
        self.assertEqual(len(document["text"]), 200_000)
        error = await self.said(f"mongodb://other.invalid:{port}/", **options)
        self.assertIn("not for host name 'other.invalid'", str(error))

    def test_replica_set(self) -> Deferred[None]:
        """Discovered members are reached by the proxy as well, and one that dies is noticed."""
        return Deferred.fromCoroutine(self.discovered())

    async def discovered(self) -> None:
        """See L{test_replica_set}."""
        deployment = await self.deployed(replica_set)
        port = deployment.members[0].port
        proxy = await self.proxy(names={"seed.invalid": "127.0.0.1", "127.0.0.1": "127.0.0.1"})
        uri = f"mongodb://seed.invalid:{port}/?replicaSet=rs0&proxyHost=127.0.0.1"
        (name,) = [part for part in deployment.uri.split("?")[1].split("&") if "replicaSet" in part]
        uri = uri.replace("replicaSet=rs0", name)
        document = await self.said(f"{uri}&proxyPort={proxy.port}")
        self.assertEqual(len(document["text"]), 200_000)
        self.assertEqual(set(proxy.asked), {("seed.invalid", port), ("127.0.0.1", port)})
