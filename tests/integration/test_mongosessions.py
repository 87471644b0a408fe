"""
C{twistd mongosessions} in a process of its own, on a real server.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.integration.visitors import ROOT, Served, Visitor
from tests.web.secretfiles import write_secret
from txmongokit.connection import ConnectionPool
from txmongokit.testing import standalone
from txmongokit.web.store import MongoSessionStore, SessionGone

TWISTD = ("-c", "from twisted.scripts.twistd import run; run()", "--nodaemon")
NONE_REAPED = "\nmongosessions_reaped_total 0\n"
OLD, NEW = "old-token-0123456789", "new-token-0123456789"


class HeldTests(SynchronousTestCase):
    """
    A port that somebody else has.
    """

    def test_held(self) -> None:
        """The service ends with one sentence, the status 1 and no file left behind."""
        pid_file = Path(self.mktemp()).resolve()
        with socket.create_server(("127.0.0.1", 0)) as held:
            place = f"tcp:{held.getsockname()[1]}"
            ended = subprocess.run(
                [
                    *(sys.executable, *TWISTD, f"--pidfile={pid_file}", "mongosessions"),
                    *("--db", "mongodb://127.0.0.1:1/web", "--http", place),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
        self.assertEqual(ended.returncode, 1)
        said = ended.stdout.splitlines()[-1]
        self.assertIn(f"twistd mongosessions: --http '{place}:interface=127.0.0.1': ", said)
        self.assertIn("already in use", said)
        self.assertNotIn("Traceback", ended.stdout)
        self.assertFalse(pid_file.exists())


class MongosessionsTests(TestCase):
    """
    The service from its start to its end.
    """

    timeout = 120

    def setUp(self) -> None:
        """A server, a store of its sessions, and the service with a token."""
        self.deployment = self.enterContext(standalone())
        uri = self.deployment.uri.rstrip("/") + "/web"
        self.pool = ConnectionPool(uri)
        self.addCleanup(self.pool.disconnect)
        self.store = MongoSessionStore(self.pool["web"])
        self.documents = self.enterContext(self.deployment.client())["web"]["sessions"]
        self.tokens = Path(self.mktemp()).resolve()
        write_secret(self.tokens, OLD)
        self.served = self.enterContext(
            Served(
                *(*TWISTD, "--pidfile=", "mongosessions"),
                *("--db", f"{uri}?serverSelectionTimeoutMS=2000"),
                *("--http", "tcp:0:interface=127.0.0.1", "--token-file", str(self.tokens)),
                *("--reap-every", "0.2"),
            )
        )
        self.token = OLD

    async def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """A request, and its answer."""
        self.visitor = Visitor(self.served.port)
        if body is not None:
            headers["Content_Type"] = "application/json"
        headers["Authorization"] = f"Bearer {self.token}"
        raw = None if body is None else json.dumps(body).encode()
        status, text = await deferToThread(self.visitor.ask, method, path, raw, **headers)
        return status, json.loads(text) if text.startswith("{") else text

    async def until(self, status: int, path: str) -> Any:
        """The answer, once it has that status."""
        for _ in range(200):
            found, answer = await self.ask("GET", path)
            if found == status:
                return answer
            await self.pool.sleep(0.05)
        raise AssertionError(f"{path} never was {status}, but {found}")

    def test_service(self) -> Deferred[None]:
        """
        Sessions made here are read, changed and ended there, and the other way
        round; indexes are made, ended sessions removed, tokens changed; a
        server that goes away and comes back is served again; nobody's id is in
        the log.
        """
        return Deferred.fromCoroutine(self.service())

    async def service(self) -> None:
        """See L{test_service}."""
        await self.until(200, "/health")
        ids = [*await self.shared(), *await self.life()]
        # When everything is done, twistd lets the signal have its way.
        self.assertEqual(await deferToThread(self.served.end), -signal.SIGTERM)
        self.assertIn("Server Shut Down.", self.served.output)
        for secret in (*ids, OLD, NEW):
            self.assertNotIn(secret, self.served.output)
        self.assertNotIn("Traceback", self.served.output)
        self.assertNotIn("Unhandled", self.served.output)
        self.assertRegex(self.served.output, r"127\.0\.0\.1 GET \w+ 200 [\d.]+ ms")

    async def shared(self) -> list[str]:
        """Sessions of both sides. Their ids."""
        record = await self.store.create({"cart": ["apple"], "$where": "1"}, user="ann")
        path = f"/v1/sessions/{record.id}"
        status, found = await self.ask("GET", path)
        self.assertEqual((status, found["data"], found["user"]), (200, record.data, "ann"))
        changed = {"cart": ["apple", "pear"], "seen": {"$date": "2026-11-21T15:00:00Z"}}
        etag = str(self.visitor.headers["etag"])
        status, found = await self.ask("PUT", path, {"data": changed}, If_Match=etag)
        self.assertEqual((status, found["version"]), (200, 2))
        status, _ = await self.ask("PUT", path, {"data": {}}, If_Match=etag)
        self.assertEqual((status, self.visitor.headers["etag"]), (412, '"2"'))
        seen = await self.store.load(record.id)
        assert seen is not None
        self.assertEqual(seen.data["cart"], ["apple", "pear"])
        self.assertEqual(seen.data["seen"].isoformat()[:19], "2026-11-21T15:00:00")

        status, made = await self.ask("POST", "/v1/sessions", {"data": {"a": 1}, "user": "ann"})
        self.assertEqual(status, 201)
        status, bound = await self.ask("POST", f"/v1/sessions/{made['id']}/user", {"user": "bob"})
        self.assertEqual((status, await self.store.exists(made["id"])), (200, False))
        status, fresh = await self.ask("POST", f"/v1/sessions/{bound['id']}/regenerate")
        mine = await self.store.load(fresh["id"])
        assert mine is not None
        self.assertEqual((mine.user, mine.data), ("bob", {"a": 1}))

        status, listed = await self.ask("GET", "/v1/users/ann/sessions")
        self.assertEqual((status, len(listed["sessions"]), listed["more"]), (200, 1, False))
        self.assertNotIn(record.id, json.dumps(listed))
        self.assertEqual(await self.ask("DELETE", "/v1/users/ann/sessions"), (200, {"revoked": 1}))
        seen.data["cart"] = []
        await self.assertFailure(self.store.save(seen), SessionGone)
        (key,) = [each.key for each in await self.store.for_user("bob")]
        self.assertEqual((await self.ask("DELETE", f"/v1/keys/{key}"))[0], 204)
        self.assertEqual(self.documents.count_documents({}), 0)
        return [record.id, made["id"], bound["id"], fresh["id"]]

    async def life(self) -> list[str]:
        """What happens in the life of a service. The ids of sessions."""
        while "expires_1" not in self.documents.index_information():
            await self.pool.sleep(0.05)
        kept = await self.store.create({"a": 1})
        while NONE_REAPED in (await self.ask("GET", "/metrics"))[1]:
            # More than one may be needed: the server itself removes them, too.
            await self.store.create({"a": 2}, lifetime=0.001)
            await self.pool.sleep(0.05)

        self.tokens.write_text(NEW)
        assert self.served.process is not None
        os.kill(self.served.process.pid, signal.SIGHUP)
        await self.until(401, "/metrics")
        self.token = NEW
        await self.until(200, "/metrics")

        (member,) = self.deployment.members
        await deferToThread(member.kill)
        await self.until(503, f"/v1/sessions/{kept.id}")
        self.assertEqual((await self.ask("GET", "/metrics"))[0], 200)
        await deferToThread(member.restart)
        self.assertEqual((await self.until(200, f"/v1/sessions/{kept.id}"))["data"], {"a": 1})
        return [kept.id]
