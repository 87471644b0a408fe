"""
C{python -m txmongokit.gridfs}, on a real server.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import gridfs
from bson import ObjectId
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txmongokit.gridfs.__main__ import Progress, run
from txmongokit.testing import standalone

DATA = random.Random(6).randbytes(3_000_000)
ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1 << 20


class Terminal(io.StringIO):
    """Text on a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


class ProgressTests(SynchronousTestCase):
    """
    L{Progress}.
    """

    def test_bar(self) -> None:
        """It grows to the whole, and says how much."""
        terminal = Terminal()
        progress = Progress("f", 4_000_000, terminal)
        progress.add(2_000_000)
        progress.add(2_000_000)
        progress.end()
        half, whole = terminal.getvalue().split("\r\x1b[K")[1:]
        self.assertIn("[" + "#" * 15 + "." * 15 + "]  50% 2.0 MB", half)
        self.assertIn("[" + "#" * 30 + "] 100% 4.0 MB\n", whole)

    def test_quiet(self) -> None:
        """Elsewhere there is none."""
        text = io.StringIO()
        progress = Progress("f", None, text)
        progress.add(5_000_000)
        progress.end()
        self.assertEqual(text.getvalue(), "")


class CommandTests(TestCase):
    """
    The command, as a process.
    """

    timeout = 120

    def setUp(self) -> None:
        """Start a server."""
        deployment = standalone()
        deployment.__enter__()
        self.addCleanup(deployment.__exit__, None, None, None)
        host, port = deployment.addresses[0]
        self.server = f"mongodb://{host}:{port}"
        self.client = deployment.client()
        self.addCleanup(self.client.close)
        self.theirs = gridfs.GridFSBucket(self.client["one"])
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    async def run_it(self, *arguments: str, **environment: str) -> tuple[str, str, int]:
        """Output, errors and exit status of the command, which runs in this process."""
        database = [] if environment else ["--db", f"{self.server}/one"]
        with (
            redirect_stdout(io.StringIO()) as out,
            redirect_stderr(io.StringIO()) as errors,
            chdir(self.folder),
        ):
            self.patch(os, "environ", environment)
            try:
                status = await run(reactor, [*database, *arguments])
            except SystemExit as refused:
                assert isinstance(refused.code, int)
                status = refused.code
        return out.getvalue(), errors.getvalue(), status

    async def run_process(self, *arguments: str) -> tuple[str, str, int]:
        """The same of a process."""
        out, errors, status = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "txmongokit.gridfs", "--db", f"{self.server}/one", *arguments],
            env={"PYTHONPATH": str(ROOT)},
            path=str(self.folder),
        )
        return out.decode(), errors.decode(), status

    def count(self, name: str, **condition: Any) -> int:
        """How many documents there are."""
        return self.client["one"][name].count_documents(condition)

    def test_files(self) -> Deferred[None]:
        """In, listed, out again and deleted."""
        return Deferred.fromCoroutine(self.files())

    async def files(self) -> None:
        """See L{test_files}."""
        source = self.folder / "source.bin"
        source.write_bytes(DATA)
        out, errors, status = await self.run_process("put", str(source), "--name", "f", "--md5")
        self.assertEqual((errors, status), ("", 0))
        identifier = out.strip()
        listed, _, _ = await self.run_process("list")
        self.assertEqual(listed.split("\t")[:2], [identifier, str(len(DATA))])
        stored = self.client["one"]["fs.files"].find_one()
        assert stored is not None
        self.assertEqual(stored["md5"], hashlib.md5(DATA).hexdigest())
        for arguments in (("f", "copy"), (identifier, "copy", "--id")):
            self.assertEqual((await self.run_process("get", *arguments))[2], 0)
            self.assertEqual((self.folder / "copy").read_bytes(), DATA)
        _, errors, status = await self.run_process("get", "g", "copy")
        self.assertEqual(status, 1)
        self.assertIn("'g'", errors)
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), ["copy", "source.bin"]
        )
        self.assertEqual((await self.run_process("delete", "f"))[2], 0)
        self.assertEqual(self.client["one"]["fs.chunks"].count_documents({}), 0)

    def test_names(self) -> Deferred[None]:
        """A name cannot write to a terminal, nor be a path here."""
        return Deferred.fromCoroutine(self.names())

    async def names(self) -> None:
        """See L{test_names}."""
        self.theirs.upload_from_stream("a\x1b[2J\n\tb", b"0")
        out, _, status = await self.run_it("list")
        self.assertEqual((out.split("\t")[3], status), ("a\\x1b[2J\\n\\tb\n", 0))
        for name in ("..", "a/..", "/"):
            self.theirs.upload_from_stream(name, b"0")
            _, errors, status = await self.run_it("get", name)
            self.assertEqual(status, 2, errors)
            self.assertIn("give one", errors)
        self.theirs.upload_from_stream("../../etc/x", b"1")
        self.assertEqual((await self.run_it("get", "../../etc/x"))[2], 0)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["x"])

    def test_delete(self) -> Deferred[None]:
        """A dry run deletes nothing; what is not there has status 1."""
        return Deferred.fromCoroutine(self.delete())

    async def delete(self) -> None:
        """See L{test_delete}."""
        identifier = self.theirs.upload_from_stream("a", b"0")
        for arguments in (("a",), (str(identifier), "--id")):
            out, _, status = await self.run_it("delete", *arguments, "--dry-run")
            self.assertEqual((out.split("\t")[0], status), (str(identifier), 0))
        self.assertEqual(self.count("fs.files"), 1)
        self.assertEqual((await self.run_it("delete", str(identifier), "--id"))[2], 0)
        self.assertEqual(self.count("fs.files"), 0)
        for more in ((), ("--dry-run",)):
            self.assertEqual((await self.run_it("delete", "a", *more))[2], 1)

    def test_secrets(self) -> Deferred[None]:
        """Passwords are in no message, and need not be in the command line."""
        return Deferred.fromCoroutine(self.secrets())

    async def secrets(self) -> None:
        """See L{test_secrets}."""
        uri = "mongodb://me:tops/cr@t@127.0.0.1:1/db"
        for arguments in (
            ("check", uri),
            (uri,),
            ("--db", uri, "list"),
            ("--db", "mongodb://me:tops%zz@h/db", "list"),
            ("move", uri),
            (
                "--db",
                "mongodb://h/db?serverSelectionTimeoutMS=100&tlsCertificateKeyFilePassword=tops",
                "list",
            ),
            ("--db", "mongodb://me:topscr@127.0.0.1:1/db?serverSelectionTimeoutMS=10", "list"),
        ):
            out, errors, status = await self.run_it(*arguments)
            self.assertEqual(status, 2, errors)
            self.assertTrue(errors)
            self.assertNotIn("tops", out + errors)
            self.assertNotIn("cr@t", out + errors)
        _, errors, status = await self.run_process("check", uri)
        self.assertNotIn("tops", errors)
        self.assertEqual(status, 2)
        self.theirs.upload_from_stream("a", b"0")
        out, _, status = await self.run_it("list", MONGODB_URI=f"{self.server}/one")
        self.assertEqual((out.count("\n"), status), (1, 0))
        destination = {"MONGODB_DESTINATION_URI": f"{self.server}/two"}
        _, errors, status = await self.run_it(
            "move", MONGODB_URI=f"{self.server}/one", **destination
        )
        self.assertEqual((errors[:8], status), ("1 copied", 0))
        _, errors, status = await self.run_it("move")
        self.assertIn("MONGODB_DESTINATION_URI", errors)
        self.assertEqual(status, 2)
        _, errors, status = await self.run_it("move", "--before", "x", "mongodb://h/db")
        self.assertIn("'x' is no date", errors)
        self.assertEqual(status, 2)

    def test_interrupt(self) -> Deferred[None]:
        """An interrupted upload leaves nothing."""
        return Deferred.fromCoroutine(self.interrupt())

    async def interrupt(self) -> None:
        """See L{test_interrupt}."""
        with (self.folder / "large").open("wb") as file:
            file.truncate(2 << 30)
        command = [sys.executable, "-m", "txmongokit.gridfs", "--db", f"{self.server}/one"]
        process = subprocess.Popen(
            [*command, "put", "large"],
            cwd=self.folder,
            env={"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
        )
        try:
            while not self.count("fs.chunks") and process.poll() is None:
                await deferLater(reactor, 0.02)
            process.send_signal(signal.SIGINT)
            _, errors = await deferToThread(process.communicate)
        finally:
            process.kill()
            process.wait()
        self.assertEqual((process.returncode, errors), (130, b""))
        self.assertEqual((self.count("fs.chunks"), self.count("fs.files")), (0, 0))

    def test_upkeep(self) -> Deferred[None]:
        """Damaged files are named, then deleted; the others move with all that they are."""
        return Deferred.fromCoroutine(self.upkeep())

    async def upkeep(self) -> None:
        """See L{test_upkeep}."""
        good = self.theirs.upload_from_stream("good", DATA, metadata={"a": 1})
        bad = self.theirs.upload_from_stream("bad", DATA)
        chunks = self.client["one"]["fs.chunks"]
        chunks.delete_one({"files_id": bad, "n": 4})
        for command in (("check",), ("repair", "--dry-run")):
            out, _, status = await self.run_it(*command)
            self.assertEqual(status, 1)
            self.assertEqual(out.split("\t")[:2], [str(bad), "bad"])
            self.assertIn("#4", out)
        self.assertEqual((await self.run_it("check", "--depth", "1000"))[2], 0)
        _, errors, status = await self.run_it("move", f"{self.server}/three", "--delete")
        self.assertEqual((errors.count("#4"), status), (1, 1))
        self.assertEqual(self.client["three"]["fs.files"].count_documents({}), 1)
        self.client["one"]["fs.files"].insert_many(self.client["three"]["fs.files"].find())
        chunks.insert_many(self.client["three"]["fs.chunks"].find())
        _, errors, status = await self.run_it("repair")
        self.assertEqual(status, 0)
        self.assertIn("1 damaged, removed", errors)
        self.assertIn("in the bucket fs-saved", errors)
        self.assertEqual(chunks.count_documents({"files_id": bad}), 0)
        self.assertEqual((await self.run_it("check"))[2], 0)
        count = -(-len(DATA) // (255 * 1024))
        self.assertEqual(
            (self.count("fs-saved.files"), self.count("fs-saved.chunks")), (1, count - 1)
        )
        before = self.client["one"]["fs.files"].find_one()
        target = f"{self.server}/two"
        _, errors, status = await self.run_it("move", target)
        self.assertEqual((errors, status), ("1 copied, 0 skipped (they are there already)\n", 0))
        self.assertEqual(self.client["two"]["fs.files"].find_one(), before)
        moved = gridfs.GridFSBucket(self.client["two"]).open_download_stream(good).read()
        self.assertEqual(moved, DATA)
        _, errors, _ = await self.run_it("move", target, "--delete")
        self.assertIn("1 skipped", errors)
        self.assertEqual(self.client["one"]["fs.files"].count_documents({}), 1)
        arguments = ("move", target, "--delete", "--destination-bucket", "other")
        self.assertEqual((await self.run_it(*arguments))[2], 0)
        self.assertEqual(chunks.count_documents({}), 0)

    def test_other_sum(self) -> Deferred[None]:
        """Content that is not what was summed is damaged."""
        return Deferred.fromCoroutine(self.other_sum())

    async def other_sum(self) -> None:
        """See L{test_other_sum}."""
        good = hashlib.md5(b"good").hexdigest()
        for name in ("a", "b"):
            self.theirs.upload_from_stream(name, b"good")
        self.client["one"]["fs.files"].update_many({}, {"$set": {"md5": good}})
        self.assertEqual((await self.run_it("check"))[2], 0)
        chunk = self.client["one"]["fs.chunks"].find_one()
        assert chunk is not None
        self.client["one"]["fs.chunks"].update_one(
            {"_id": chunk["_id"]}, {"$set": {"data": b"evil"}}
        )
        out, _, status = await self.run_it("check")
        self.assertEqual((out.count("md5"), status), (1, 1))
        self.assertIn(str(chunk["files_id"]), out)

    def test_orphans(self) -> Deferred[None]:
        """Chunks without a file are removed when they are old enough, and no others."""
        return Deferred.fromCoroutine(self.orphans())

    async def orphans(self) -> None:
        """See L{test_orphans}."""
        self.theirs.upload_from_stream("good", b"0" * 10, chunk_size_bytes=4)
        self.theirs.upload_from_stream_with_id({"a": 1}, "odd", b"0" * 4)
        now = datetime.datetime.now(tz=datetime.UTC)
        chunks = self.client["one"]["fs.chunks"]
        for file_id, hours in (
            ("old", (30, 29)),
            ("young", (30, 1)),
            ({"$gt": 0}, (48,)),
            (5, (48,)),
        ):
            for number, age in enumerate(hours):
                made = ObjectId.from_datetime(now - datetime.timedelta(hours=age))
                made = ObjectId(made.binary[:4] + ObjectId().binary[4:])
                chunks.insert_one({"_id": made, "files_id": file_id, "n": number, "data": b""})
        chunks.insert_one({"_id": 1, "files_id": "untold", "n": 0, "data": b""})
        out, errors, status = await self.run_it("check")
        self.assertEqual(status, 1)
        found = sorted(line.split("\t")[0] for line in out.splitlines())
        self.assertEqual(found, ["5", "old", "{'$gt': 0}"])
        self.assertIn("3 without a file; 2 too young", errors)
        self.assertEqual(self.count("fs.chunks"), 11)
        _, errors, status = await self.run_it("repair", "--backup", "kept")
        self.assertEqual(status, 0)
        self.assertIn("3 without a file, removed; 2 too young", errors)
        self.assertEqual((self.count("fs.chunks"), self.count("kept.chunks")), (7, 4))
        self.assertEqual((await self.run_it("check"))[2], 0)
        out, _, status = await self.run_it("check", "--grace", "31")
        self.assertEqual((out, status), ("", 0))
        _, errors, status = await self.run_it("repair", "--grace", "0", "--no-backup")
        self.assertIn("2 without a file, removed; 0 too young", errors)
        self.assertEqual((self.count("fs.chunks"), self.count("fs-saved.chunks")), (4, 0))
        self.assertEqual(self.count("fs.files"), 2)

    def test_selection(self) -> Deferred[None]:
        """Files move by name, date and number; a dry run moves none."""
        return Deferred.fromCoroutine(self.selection())

    async def selection(self) -> None:
        """See L{test_selection}."""
        for name in ("a1", "a2", "b1"):
            self.theirs.upload_from_stream(name, b"0")
        old = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        self.client["one"]["fs.files"].update_one({"filename": "a2"}, {"$set": {"uploadDate": old}})
        target = f"{self.server}/two"
        moved = self.client["two"]["fs.files"]
        out, errors, status = await self.run_it("move", target, "--include", "^a", "--dry-run")
        self.assertEqual((out.count("\n"), errors, status), (2, "2 to be copied\n", 0))
        self.assertEqual(moved.count_documents({}), 0)
        await self.run_it("move", target, "--include", "^a", "--before", "2021-01-01")
        self.assertEqual([file["filename"] for file in moved.find()], ["a2"])
        await self.run_it("move", target, "--include", "1$", "--limit", "1", "--delete")
        self.assertEqual((moved.count_documents({}), self.count("fs.files")), (2, 2))
