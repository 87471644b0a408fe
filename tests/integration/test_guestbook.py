"""
C{examples/guestbook.py}, as a user runs it, and its pages.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from examples.guestbook import LONGEST_BODY, ON_A_PAGE, GuestBook, ShortRequest
from tests.deployments import shared_secure, shared_set
from tests.httpclients import http_client
from tests.integration.visitors import free_port
from txmongokit.errors import ServerSelectionTimeoutError
from txmongokit.settings import from_settings

ROOT = Path(__file__).resolve().parents[2]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Running(ProcessProtocol):
    """
    The example, while it runs.
    """

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.listening: Deferred[str] = Deferred()
        self.code: int | None = None
        self.ended: Deferred[int | None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        """Look for where it listens."""
        self.out += data
        found = re.search(rb"http://\S+/", self.out)
        if found and not self.listening.called:
            self.listening.callback(found[0].decode())

    def errReceived(self, data: bytes) -> None:
        """Keep what it complains of."""
        self.err += data

    def processEnded(self, reason: Failure) -> None:
        """Tell how it has ended."""
        if not self.listening.called:
            self.listening.errback(AssertionError(self.err.decode()))
        ended: Any = reason.value
        self.code = ended.exitCode
        self.ended.callback(self.code)


class HTTPCase(TestCase):
    """
    With a client of HTTP.
    """

    timeout = 60

    def setUp(self) -> None:
        """The client."""
        self.client: Any = http_client(self)

    async def signed(self, url: str, **fields: str) -> int:
        """Sign, and say with what status."""
        response = await self.client.post(url, data=fields, allow_redirects=False)
        await response.content()
        return int(response.code)


class CommandTests(HTTPCase):
    """
    The command.
    """

    def run_example(self, *arguments: str) -> Running:
        """Run it."""
        running = Running()
        command = [sys.executable, str(ROOT / "examples" / "guestbook.py"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        spawning: Any = reactor
        transport = spawning.spawnProcess(running, command[0], command, environment)

        def end() -> Deferred[int | None] | None:
            if running.code is not None:
                return None
            transport.signalProcess("KILL")
            return running.ended

        self.addCleanup(end)
        return running

    def ini(self) -> str:
        """Its settings, but for a port where nobody answers."""
        text = (ROOT / "examples" / "guestbook.ini").read_text()
        path = Path(self.mktemp())
        path.write_text(text.replace("27017", str(free_port())).replace("2000", "500"))
        return str(path)

    def test_one_command(self) -> Deferred[None]:
        """Without any server it starts one, serves, and ends with nothing left."""
        return Deferred.fromCoroutine(self.one_command())

    async def one_command(self) -> None:
        """See L{test_one_command}."""
        running = self.run_example("--ini", self.ini(), "--port", "0")
        url = await running.listening
        told = running.out.decode()
        started = re.match(r"No MongoDB server answers: a server was started at .*:(\d+),", told)
        assert started is not None, told
        self.assertEqual(await self.signed(url, name="Ada", text="I was here"), 303)
        page = await (await self.client.get(url)).text()
        self.assertIn("<b>Ada</b>", page)
        self.assertIn("I was here", page)
        transport: Any = running.transport
        transport.signalProcess("TERM")
        self.assertEqual((await running.ended, running.err), (0, b""))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(started[1])))

    def test_wrong_settings(self) -> Deferred[None]:
        """What is wrong with the settings is one sentence."""
        return Deferred.fromCoroutine(self.wrong_settings())

    async def wrong_settings(self) -> None:
        """See L{test_wrong_settings}."""
        path = Path(self.mktemp())
        path.write_text("[server:main]\nport = 0\n[app:main]\nmongo.dbs = x\n")
        running = self.run_example("--ini", str(path))
        error = await self.assertFailure(running.listening, AssertionError)
        self.assertEqual(str(error), "mongo.dbs is not known: did you mean mongo.db?\n")
        self.assertEqual(await running.ended, 1)

    def test_wrong_password(self) -> Deferred[None]:
        """What the server refuses is one sentence, too."""
        return Deferred.fromCoroutine(self.wrong_password())

    async def wrong_password(self) -> None:
        """See L{test_wrong_password}."""
        deployment = shared_secure()
        path = Path(self.mktemp())
        path.write_text(
            "[server:main]\nport = 0\n[app:main]\nmongo.db = guestbook\nmongo.tls = true\n"
            f"mongo.master_host = localhost\nmongo.master_port = {deployment.addresses[0][1]}\n"
            f"mongo.tlsCAFile = {deployment.ca_file}\nmongo.username = new\n"
            "mongo.password = s3cret\n"
        )
        running = self.run_example("--ini", str(path))
        error = await self.assertFailure(running.listening, AssertionError)
        self.assertRegex(str(error), r"\A.*Authentication failed.*\n\Z")
        self.assertNotIn("s3cret", str(error))
        self.assertEqual(await running.ended, 1)


class PageTests(HTTPCase):
    """
    The page, with the shared set.
    """

    def setUp(self) -> None:
        """Serve an empty guest book."""
        super().setUp()
        self.database = shared_set().client()["guestbook"]
        self.addCleanup(self.database.client.close)
        self.database.drop_collection("entries")
        self.url = self.serve({"mongo.uri": shared_set().uri})

    def serve(self, settings: dict[str, Any]) -> str:
        """Serve a guest book, and say where."""
        handle = from_settings({"mongo.db": "guestbook", **settings})
        self.addCleanup(handle.disconnect)
        listening: Any = reactor
        site = Site(GuestBook(handle.db), requestFactory=ShortRequest)
        port = listening.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}/"

    def test_pages(self) -> Deferred[None]:
        """The newest come first, so many to a page; what guests write is text."""
        return Deferred.fromCoroutine(self.pages())

    async def pages(self) -> None:
        """See L{test_pages}."""
        for number in range(ON_A_PAGE + 2):
            self.assertEqual(await self.signed(self.url, name=f"<i>{number}", text="{x} & y"), 303)
        first = await (await self.client.get(self.url)).text()
        numbers = [int(each) for each in re.findall(r"<b>&lt;i&gt;(\d+)</b>", first)]
        self.assertEqual(numbers, list(range(ON_A_PAGE + 1, 1, -1)))
        self.assertIn("<p>{x} &amp; y</p>", first)
        older = re.findall(r'href="/(\?before=\w+)"', first)
        second = await (await self.client.get(self.url + older[0])).text()
        self.assertEqual(re.findall(r"<b>&lt;i&gt;(\d+)</b>", second), ["1", "0"])
        self.assertNotIn("Older", second)

    def test_refusals(self) -> Deferred[None]:
        """What is not as it should be is refused, with the reason, and nothing is kept."""
        return Deferred.fromCoroutine(self.refusals())

    async def refusals(self) -> None:
        """See L{test_refusals}."""
        for body, headers, code, told in [
            (b"text=x", {}, 400, "the name must have 1 to 80 characters"),
            (b"name=%20&text=x", {}, 400, "the name must have 1 to 80 characters"),
            (b"name=a&text=" + b"x" * 2001, {}, 400, "the text must have 1 to 2000"),
            (b"name=%ff&text=x", {}, 400, "the name is no text in UTF-8"),
            (b"name=a&text=" + b"x" * LONGEST_BODY, {}, 413, "that is too long: write less"),
            (b"name=a&text=x", {"Origin": "http://evil.example"}, 403, "own page"),
            (b"name=a&text=x", {"Origin": "null"}, 403, "own page"),
        ]:
            response = await self.client.post(self.url, data=body, headers={**FORM, **headers})
            self.assertEqual(response.code, code, body[:20])
            self.assertIn(told, await response.text())
        for before in ("x", "%7B%22$gt%22:0%7D", "%ff"):
            response = await self.client.get(f"{self.url}?before={before}")
            self.assertEqual(response.code, 400)
            self.assertIn("there is no such entry", await response.text())
        response = await self.client.get(f"{self.url}?before[$gt]=x")
        self.assertEqual(response.code, 200)
        self.assertIn(
            "default-src 'none'", response.headers.getRawHeaders("content-security-policy")[0]
        )
        self.assertEqual(self.database["entries"].count_documents({}), 0)

    def test_same_origin(self) -> Deferred[None]:
        """A browser on the page itself may sign."""
        return Deferred.fromCoroutine(self.same_origin())

    async def same_origin(self) -> None:
        """See L{test_same_origin}."""
        headers = {**FORM, "Origin": self.url.rstrip("/")}
        response = await self.client.post(
            self.url, data=b"name=a&text=x", headers=headers, allow_redirects=False
        )
        await response.content()
        self.assertEqual(response.code, 303)
        self.assertEqual(self.database["entries"].count_documents({}), 1)

    def test_no_database(self) -> Deferred[None]:
        """Without a database the page says that it is closed, and the log why."""
        return Deferred.fromCoroutine(self.no_database())

    async def no_database(self) -> None:
        """See L{test_no_database}."""
        nowhere = {"mongo.master_port": free_port(), "mongo.serverSelectionTimeoutMS": 100}
        url = self.serve(nowhere)
        response = await self.client.get(url)
        self.assertEqual(response.code, 503)
        self.assertIn("closed for the moment", await response.text())
        self.assertEqual(len(self.flushLoggedErrors(ServerSelectionTimeoutError)), 1)
