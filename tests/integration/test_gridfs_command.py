"""
C{python -m txmongokit.gridfs}, on a real server.
"""

from __future__ import annotations

import hashlib
import io
import random
import sys
from pathlib import Path

import gridfs
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txmongokit.gridfs.__main__ import Progress
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

    async def run_it(self, *arguments: str) -> tuple[str, str, int]:
        """Output, errors and exit status."""
        out, errors, status = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "txmongokit.gridfs", "--db", f"{self.server}/one", *arguments],
            env={"PYTHONPATH": str(ROOT)},
            path=str(self.folder),
        )
        return out.decode(), errors.decode(), status

    def test_files(self) -> Deferred[None]:
        """In, listed, out again and deleted."""
        return Deferred.fromCoroutine(self.files())

    async def files(self) -> None:
        """See L{test_files}."""
        source = self.folder / "source.bin"
        source.write_bytes(DATA)
        out, errors, status = await self.run_it("put", str(source), "--name", "f", "--md5")
        self.assertEqual((errors, status), ("", 0))
        identifier = out.strip()
        listed, _, _ = await self.run_it("list")
        self.assertEqual(listed.split("\t")[:2], [identifier, str(len(DATA))])
        stored = self.client["one"]["fs.files"].find_one()
        assert stored is not None
        self.assertEqual(stored["md5"], hashlib.md5(DATA).hexdigest())
        for arguments in (("f", "copy"), (identifier, "copy", "--id")):
            self.assertEqual((await self.run_it("get", *arguments))[2], 0)
            self.assertEqual((self.folder / "copy").read_bytes(), DATA)
        _, errors, status = await self.run_it("get", "g", "copy")
        self.assertEqual(status, 1)
        self.assertIn("'g'", errors)
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), ["copy", "source.bin"]
        )
        self.assertEqual((await self.run_it("delete", "f"))[2], 0)
        self.assertEqual(self.client["one"]["fs.chunks"].count_documents({}), 0)

    def test_upkeep(self) -> Deferred[None]:
        """Damaged files are named, then deleted; the others move with all that they are."""
        return Deferred.fromCoroutine(self.upkeep())

    async def upkeep(self) -> None:
        """See L{test_upkeep}."""
        good = self.theirs.upload_from_stream("good", DATA, metadata={"a": 1})
        bad = self.theirs.upload_from_stream("bad", DATA)
        chunks = self.client["one"]["fs.chunks"]
        chunks.delete_one({"files_id": bad, "n": 4})
        out, _, status = await self.run_it("check")
        self.assertEqual(status, 1)
        self.assertEqual(out.split("\t")[:2], [str(bad), "bad"])
        self.assertIn("#4", out)
        self.assertEqual((await self.run_it("repair"))[2], 0)
        self.assertEqual(chunks.count_documents({"files_id": bad}), 0)
        self.assertEqual((await self.run_it("check"))[2], 0)
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
