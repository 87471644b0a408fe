"""Tests for L{txmongokit.replicator.resumefile}."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.resumefile import (
    ResumeFileError,
    check_writable,
    read_position,
    write_position,
)


class ResumeFileTests(SynchronousTestCase):
    """Reading and writing the last position."""

    def setUp(self) -> None:
        """Each test has a folder of its own."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "mongooplog.ts"

    def test_missing(self) -> None:
        """A file that does not exist is no position, and no error."""
        self.assertIsNone(read_position(self.path))

    def test_round_trip(self) -> None:
        """What is written replaces the old file, is read back, and leaves nothing beside it."""
        write_position(self.path, 1)
        write_position(self.path, 1111111111 << 32 | 30)
        self.assertEqual(self.path.read_text(), '{"ts": {"time": 1111111111, "inc": 30}}')
        self.assertEqual(read_position(self.path), 1111111111 << 32 | 30)
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    def test_garbage(self) -> None:
        """Anything that is not two 32-bit integers is refused by the file's name."""
        for text in (
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"ts": {"time": true, "inc": 1}}',
            b'{"ts": {"time": 4294967296, "inc": 1}}',
            b'{"ts": {"time": -1, "inc": 1}}',
        ):
            self.path.write_bytes(text)
            error = self.assertRaises(ResumeFileError, read_position, self.path)
            self.assertIn("mongooplog.ts", str(error))

    def test_folder(self) -> None:
        """A folder in the file's place can be neither read, checked nor written."""
        self.assertRaises(ResumeFileError, read_position, self.folder)
        self.assertRaises(ResumeFileError, check_writable, self.folder)
        self.assertRaises(ResumeFileError, write_position, self.folder, 1)

    def test_missing_folder(self) -> None:
        """A file in a folder that does not exist is refused before the start."""
        self.assertRaises(ResumeFileError, check_writable, self.folder / "none" / "file")
        check_writable(self.path)
