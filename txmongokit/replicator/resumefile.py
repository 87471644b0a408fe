"""
The resume file: the last applied position, in the format of C{mongooplog}.

The format is C{{"ts": {"time": seconds, "inc": increment}}}. Positions are
integers: seconds since the epoch shifted left by 32 bits, plus the increment.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

__all__ = ["ResumeFileError", "check_writable", "read_position", "write_position"]

_LIMIT = 1 << 32


class ResumeFileError(Exception):
    """The resume file cannot be read or written; the text names cause and mend."""


def read_position(path: Path) -> int | None:
    """
    Read the position.

    @return: the position, or L{None} where the file does not exist.
    @raise ResumeFileError: the file is there but is not a resume file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResumeFileError(
            f"Resume file {str(path)!r} cannot be read ({error.strerror}); "
            "mend its permissions or pass another --resume-file."
        ) from error
    except UnicodeDecodeError as error:
        raise _not_a_resume_file(path) from error
    try:
        stamp = json.loads(text)["ts"]
        seconds, increment = stamp["time"], stamp["inc"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_resume_file(path) from error
    for number in (seconds, increment):
        if type(number) is not int or not 0 <= number < _LIMIT:
            raise _not_a_resume_file(path)
    return int(seconds) << 32 | int(increment)


def check_writable(path: Path) -> None:
    """
    Make sure before the start that L{write_position} will be able to write.

    @raise ResumeFileError: the folder is missing or not writable, or C{path} is a folder.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ResumeFileError(
            f"Resume file {str(path)!r} cannot be written; name a file in an existing, "
            "writable folder, or pass --resume-file none."
        )


def write_position(path: Path, position: int) -> None:
    """
    Replace the file atomically and durably: a crash leaves the old or the new one.

    @raise ResumeFileError: the file could not be written; the old one is untouched.
    """
    text = json.dumps({"ts": {"time": position >> 32, "inc": position & (_LIMIT - 1)}})
    folder = path.absolute().parent
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
        # The rename itself is durable only once the folder is.
        folder_descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(folder_descriptor)
        finally:
            os.close(folder_descriptor)
    except OSError as error:
        raise ResumeFileError(
            f"Resume file {str(path)!r} cannot be written ({error.strerror}); "
            "make its folder writable or pass --resume-file none."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _not_a_resume_file(path: Path) -> ResumeFileError:
    return ResumeFileError(
        f"Resume file {str(path)!r} does not hold a position such as "
        '{"ts": {"time": 1, "inc": 1}}; restore it, remove it, or pass another --resume-file.'
    )
