"""
Tests for L{txmongokit.web.sessiontap}.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.trial.unittest import SynchronousTestCase

from tests.web.secretfiles import write_secret
from txmongokit.web.sessionservice import SessionServer, SessionStoreService
from txmongokit.web.sessiontap import Options, makeService

DB = "mongodb://user:secret@db.example/web"
TOKEN = "a-token-0123456789abc"


def refusal(case: SynchronousTestCase, function: Callable[[Any], object], given: object) -> str:
    """
    What is said of what cannot be used, before the end.
    """
    said = StringIO()
    case.patch(sys, "stderr", said)
    error = case.assertRaises(SystemExit, function, given)
    case.assertEqual(error.code, 1)
    return said.getvalue()


class OptionsTests(SynchronousTestCase):
    """
    L{Options}.
    """

    def test_defaults(self) -> None:
        """Only the database must be named."""
        options = Options()
        options.parseOptions(["--db", DB])
        self.assertEqual((options["collection"], options["timeout"]), ("sessions", 3600.0))
        self.assertIsNone(options["http"])

    def test_read(self) -> None:
        """Numbers are numbers, and without a token the place is this machine."""
        options = Options()
        options.parseOptions(
            ["--db", DB, "--http", "tcp:8080", "--max-listed", "7", "--reap-every", "0.5"]
        )
        self.assertEqual(options["http"], "tcp:8080:interface=127.0.0.1")
        self.assertEqual((options["max-listed"], options["reap-every"]), (7, 0.5))

    def test_file(self) -> None:
        """The connection string may be in a file."""
        path = Path(self.mktemp())
        path.write_text(f"{DB}\n")
        options = Options()
        options.parseOptions(["--db-file", str(path)])
        self.assertEqual(options["db"], DB)

    def test_refused(self) -> None:
        """What cannot be used is told with the option, and without secrets."""
        for given, part in (
            ((), "by --db or by --db-file"),
            (("--db", DB, "--db-file", "f"), "by --db or by --db-file"),
            (("--db-file", "/no/such/file"), "cannot be read: No such file"),
            (("--db-file", sys.executable), "no text"),
            ((DB,), "give --db URI"),
            (("--db", DB, TOKEN), "belong to no option"),
            (("--db", DB, "--timeout", "0"), "--timeout '0' must be a number from 1"),
            (("--db", DB, "--timeout", "nan"), "--timeout 'nan' must be"),
            (("--db", DB, "--max-requests", "x"), "--max-requests 'x' must be"),
            (("--db", DB, "--max-body", "1e3"), "--max-body '1e3' must be"),
            (("--db", DB, "--http", "tcp"), "--http 'tcp' must be an endpoint"),
            (("--db", DB, "--http", "tcp:80:interface=0.0.0.0"), "protect it with --token-file"),
            (("--db", DB, "--http", "ssl:443"), "protect it with --token-file"),
            (("--db", DB, "--token-file", "f"), "for --http, which is missing"),
            (("--db", DB, "--token", TOKEN), "--token"),
        ):
            said = refusal(self, Options().parseOptions, given)
            self.assertIn(part, said)
            self.assertNotIn("secret", said)
            self.assertNotIn(TOKEN, said)


class ServiceTests(SynchronousTestCase):
    """
    L{makeService}.
    """

    def options(self, *given: str) -> Options:
        """What a command line says."""
        options = Options()
        options.parseOptions(["--db", DB, *given])
        return options

    def token_file(self) -> str:
        """A file with a token."""
        return write_secret(Path(self.mktemp()), TOKEN)

    def test_store_alone(self) -> None:
        """Without a place to listen the store is kept, nothing more."""
        keys = Path(self.mktemp())
        keys.write_text(f"first {'A' * 43}=")
        service = makeService(
            self.options("--collection", "visits", "--timeout", "5", "--key-file", str(keys))
        )
        assert isinstance(service, MultiService)
        (sessions,) = service.services
        assert isinstance(sessions, SessionStoreService)
        self.assertEqual(sessions.store.collection.full_name, "web.visits")
        self.assertEqual(sessions.store.timeout.total_seconds(), 5)

    def test_server(self) -> None:
        """With one it is served; SIGHUP has the tokens read again."""
        service = makeService(self.options("--http", "tcp:0", "--token-file", self.token_file()))
        assert isinstance(service, SessionServer)
        self.assertEqual(service.name, "mongosessions")
        self.assertEqual(len(service.services), 3)
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        reloading = service.services[-1]
        reloading.startService()
        self.assertNotEqual(signal.getsignal(signal.SIGHUP), before)
        reloading.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    def test_held(self) -> None:
        """
        Where it cannot listen twistd, which looks for an C{Exception}, tidies
        up, and Python, which looks for C{SystemExit}, prints one sentence.
        """
        with socket.create_server(("127.0.0.1", 0)) as held:
            place = f"tcp:{held.getsockname()[1]}"
            for given, part in ((place, "already in use"), ("tcp:70000", "0-65535")):
                service: Any = makeService(self.options("--http", given))
                error = self.assertRaises(SystemExit, service.privilegedStartService)
                self.assertIsInstance(error, Exception)
                said = str(error.code)
                self.assertTrue(said.startswith(f"twistd mongosessions: --http '{given}:"))
                self.assertIn(part, said)

    def test_socket(self) -> None:
        """A UNIX socket without a token is this user's alone, or whose it is said to be."""
        for given, mode in ((":mode=660", 0o660), ("", 0o600)):
            path = self.mktemp()
            service = makeService(self.options("--http", f"unix:{path}{given}"))
            assert isinstance(service, SessionServer)
            listening: Any = service.services[1]
            self.assertEqual(listening.endpoint._mode, mode)
        service = makeService(self.options("--http", "unix:s", "--token-file", self.token_file()))
        assert isinstance(service, SessionServer)
        listening = service.services[1]
        self.assertEqual(listening.endpoint._mode, 0o666)

    def test_refused(self) -> None:
        """What turns out to be unusable only then is told as well."""
        text = self.token_file()
        for given, part in (
            (("--collection", ""), "name must not be empty"),
            (("--collection", "a$b"), "must not contain"),
            (("--db", f"{DB}?w=0"), "writes that are acknowledged"),
            (
                ("--http", f"ssl:8443:interface=127.0.0.1:privateKey={text}:certKey={text}"),
                f"--http 'ssl:8443:interface=127.0.0.1:privateKey={text}",
            ),
            (("--http", "8080", "--token-file", "/no/such/file"), "cannot be read"),
            (("--key-file", "/no/such/file"), "cannot be read"),
            (("--http", "nonsense:1:interface=127.0.0.1"), "--http 'nonsense:1"),
            (("--db", "mongodb://db.example"), "no default database"),
            (("--db", "http://db.example/web"), "mongodb://"),
            (("--db", "mongodb://a:secret@b:c@d/web"), "twistd mongosessions: "),
        ):
            said = refusal(self, makeService, self.options(*given))
            self.assertIn(part, said)
            self.assertNotIn("secret", said)
            self.assertEqual(said.count("\n"), 1)
