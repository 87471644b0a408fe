"""
Tests for L{txmongokit.web.tokens}.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.web.logs import logged
from tests.web.secretfiles import write_secret
from txmongokit.web.secretfile import SecretFileError
from txmongokit.web.tokens import TokenFile

OLD = "old-token-0123456789"
NEW = "new-token-0123456789"


class TokenFileTests(SynchronousTestCase):
    """
    L{TokenFile}.
    """

    def setUp(self) -> None:
        """A place for the file, and a clock."""
        self.path = Path(self.mktemp())
        self.clock = Clock()

    def tokens(self, content: str | None = None, mode: int = 0o640) -> TokenFile:
        """The tokens of a file."""
        if content is not None:
            write_secret(self.path, content, mode)
        return TokenFile(str(self.path), self.clock.seconds)

    def test_several(self) -> None:
        """Each of the tokens lets in; comments, parts of one and nothing do not."""
        tokens = self.tokens(f"# both\n{OLD}\n\n  {NEW}  \n")
        for token in (OLD, NEW):
            self.assertTrue(tokens.accepts(token.encode()))
        for other in (b"", b"# both", OLD[:-1].encode(), OLD.encode() + b"0", b"\xff" * 20):
            self.assertFalse(tokens.accepts(other))

    def test_rotation(self) -> None:
        """A file that has changed is read again, soon."""
        tokens = self.tokens(OLD)
        self.path.write_text(f"{NEW}\n{NEW}0\n")
        self.assertTrue(tokens.accepts(OLD.encode()))
        self.clock.advance(1.0)
        self.assertTrue(tokens.accepts(NEW.encode()))
        self.assertFalse(tokens.accepts(OLD.encode()))

    def test_reload(self) -> None:
        """It is read again at once when that is asked for."""
        tokens = self.tokens(OLD)
        self.path.write_text(NEW)
        tokens.reload()
        self.assertTrue(tokens.accepts(NEW.encode()))

    def test_slip(self) -> None:
        """A file that has become unusable changes nothing, and that is told once."""
        tokens = self.tokens(OLD)
        with logged() as events:
            for _ in range(3):
                self.path.unlink(missing_ok=True)
                self.clock.advance(1.0)
                self.assertTrue(tokens.accepts(OLD.encode()))
        (event,) = events
        self.assertIn("No such file", event)
        self.assertIn("still in force", event)
        self.tokens(NEW)
        self.clock.advance(1.0)
        self.assertFalse(tokens.accepts(OLD.encode()))

    def test_readable(self) -> None:
        """A file that everybody may read is warned of."""
        with logged() as events:
            self.tokens(OLD, mode=0o644)
        (event,) = events
        self.assertIn("chmod", event)

    def test_refused(self) -> None:
        """What is no usable file is refused with a sentence, in which is no token."""
        for content, part in (
            (None, "cannot be read: No such file"),
            ("", "has 0 tokens"),
            ("# only\n", "has 0 tokens"),
            ("short", "at least 20"),
            ("with space 0123456789", "at least 20"),
            ("x" * 70_000, "longer than 65536 bytes"),
            ("\n".join(f"{OLD}{number}" for number in range(101)), "has 101 tokens"),
        ):
            error = self.assertRaises(SecretFileError, self.tokens, content)
            self.assertIn(part, str(error))
            self.assertNotIn("0123456789", str(error))
