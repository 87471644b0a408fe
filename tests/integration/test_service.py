"""
L{MongoService} in real applications, under several reactors.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from txmongokit.testing import Credentials, standalone

ROOT = Path(__file__).resolve().parents[2]

TAC = """
from twisted.application.service import Application, Service
from twisted.internet import reactor
from txmongokit.service import MongoService

application = Application("shop")
mongo = MongoService({uri!r})
mongo.setServiceParent(application)


class Shop(Service):
    def startService(self):
        super().startService()
        found = mongo.client["shop"]["things"].find_one({{}})
        found.addCallback(lambda document: print("found", document["_id"]))
        found.addErrback(lambda failure: print(failure))
        found.addBoth(lambda _: reactor.stop())


Shop().setServiceParent(application)
"""


class ServiceTests(TestCase):
    """One server, with TLS and access control, for each test."""

    timeout = 60

    def setUp(self) -> None:
        """Start the server."""
        self.deployment = standalone(tls=True, auth=Credentials())
        self.addCleanup(self.deployment.close)
        # By name, so that the reactor resolves it and tries each address.
        self.uri = self.deployment.uri.replace("127.0.0.1", "localhost")

    async def output(self, *arguments: str) -> str:
        """What Python says when it ends well."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            arguments,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            path=str(ROOT),
        )
        self.assertEqual(code, 0, err.decode())
        self.assertNotIn("Unhandled", (out + err).decode())
        return str(out, "utf-8")

    async def lives(self, reactor: str, kind: str) -> None:
        """Start, work, stop and leave nothing under a reactor."""
        out = await self.output("-m", "tests.integration.serviceapp", reactor, self.uri)
        self.assertIn(f"clean {kind}", out)

    def test_select(self) -> Deferred[None]:
        """The reactor that is everywhere."""
        return Deferred.fromCoroutine(self.lives("select", "SelectReactor"))

    def test_epoll(self) -> Deferred[None]:
        """Linux's own."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("epoll is Linux's alone")
        return Deferred.fromCoroutine(self.lives("epoll", "EPollReactor"))

    def test_asyncio(self) -> Deferred[None]:
        """Together with asyncio."""
        return Deferred.fromCoroutine(self.lives("asyncio", "AsyncioSelectorReactor"))

    def test_uvloop(self) -> Deferred[None]:
        """Together with asyncio on libuv."""
        if importlib.util.find_spec("uvloop") is None:
            raise SkipTest("uvloop is not installed")
        return Deferred.fromCoroutine(self.lives("uvloop", "AsyncioSelectorReactor"))

    def test_twistd(self) -> Deferred[None]:
        """A C{.tac} file, run by C{twistd}, which ends without a word of complaint."""
        return Deferred.fromCoroutine(self.twistd())

    async def twistd(self) -> None:
        """See L{test_twistd}."""
        with self.deployment.client() as client:
            client["shop"]["things"].insert_one({"_id": "apple"})
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        tac = folder / "shop.tac"
        tac.write_text(TAC.format(uri=self.uri))
        run = "from twisted.scripts.twistd import run; run()"
        out = await self.output(
            "-c", run, "--nodaemon", "--pidfile=", "--rundir", str(folder), "--python", str(tac)
        )
        self.assertIn("found apple", out)
        self.assertNotIn("Traceback", out)
