"""
Patterns of the server's regular expressions (PCRE), made of text in which
nothing has a meaning of its own.
"""

from __future__ import annotations

import re
from typing import Any

from bson.regex import Regex

__all__ = [
    "LONGEST_PATTERN",
    "LONGEST_TEXT",
    "MOST_TEXTS",
    "escaped",
    "pattern_and_options",
    "phrase",
    "some_words",
]

LONGEST_PATTERN = 1000
"""
Characters that a regular expression for C{__matches} may have.
"""

LONGEST_TEXT = 4096
"""
Characters that the text of any other lookup that searches within text may have.
"""

MOST_TEXTS = 100
"""
Texts that one condition may search for: each is looked for in each document.
"""

_BEFORE, _AFTER = r"(?<![\p{L}\p{N}_])", r"(?![\p{L}\p{N}_])"
# What Python splits text at: to the server \s is ASCII's alone.
_GAP = r"[\s\p{Z}\x{85}\x{1c}-\x{1f}]+"
_TERM = re.compile(r'"(?P<phrase>[^"]*)"|(?P<bar>\|\|)|(?P<word>(?:(?!\|\|)\S)+)')
_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}


def escaped(text: str) -> str:
    """
    A pattern that matches a text only.
    """
    # A server refuses the null character itself.
    return re.escape(text).replace("\x00", r"\x{0}")


def phrase(text: str) -> str:
    """
    A pattern of whole words in their order, with any white space of Unicode's
    between them.

    @raise ValueError: there is no word in it.
    """
    words = text.split()
    if not words:
        raise ValueError("a phrase needs a word")
    return _BEFORE + _GAP.join(map(escaped, words)) + _AFTER


def some_words(text: str) -> list[list[str]]:
    """
    The alternatives of a search, which C{||} is between: for each of them a
    pattern for each word, and for each phrase in double quotes.  C{&&} by
    itself is left out, for all words count anyhow; in quotes, both are words.

    @raise ValueError: one of them has no word.
    """
    alternatives: list[list[str]] = [[]]
    for term in _TERM.finditer(text):
        if term["bar"]:
            alternatives.append([])
        elif term["word"] != "&&":
            alternatives[-1].append(phrase(term["word"] or term["phrase"]))
    return [patterns or [phrase("")] for patterns in alternatives]


def pattern_and_options(name: str, value: Any) -> tuple[str, str]:
    """
    A regular expression as the server takes it.

    @param value: a string, a compiled pattern, or bson's C{Regex}.
    @return: the pattern and the letters of its options.
    @raise TypeError: it is something else.
    @raise ValueError: it is too long, has a null character, or a flag that the
        server does not know.
    """
    flags = 0
    if isinstance(value, re.Pattern | Regex):
        flags, value = value.flags & ~re.UNICODE, value.pattern
    if not isinstance(value, str):
        raise TypeError(f"{name} takes a regular expression as text, not {type(value).__name__}")
    if len(value) > LONGEST_PATTERN:
        raise ValueError(f"{name} takes at most {LONGEST_PATTERN} characters, not {len(value)}")
    if "\x00" in value:
        raise ValueError(f"{name} takes no null character: write \\x{{0}}")
    unknown = flags & ~sum(_FLAGS)
    if unknown:
        raise ValueError(f"{name}: the server knows no flag {re.RegexFlag(unknown)!r}")
    return value, "".join(letter for flag, letter in _FLAGS.items() if flags & flag)
