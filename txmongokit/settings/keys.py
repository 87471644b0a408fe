"""
The keys of settings and their values, each by itself.

Which options there are, and what each may be, is known to L{txmongokit.uri},
L{txmongokit.options} and L{ConnectionPool}: this module asks them.
"""

from __future__ import annotations

import difflib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from txmongokit.connection import ConnectionPool
from txmongokit.errors import ConfigurationError
from txmongokit.masterslave import MasterSlaveConnection
from txmongokit.options import KEYWORDS
from txmongokit.uri import OPTION_NAMES, option_name, read_keywords

__all__ = ["LONGEST_SECRET", "PLACES", "SPLITTING", "Setting", "plain", "read_keys"]

PLACES = ("uri", "master_host", "master_port", "slave_hosts", "slave_ports", "db")
"""The keys that are no options: where the servers are, and which database."""

LONGEST_SECRET = 65536
"""Bytes that a file with a password or a connection string may have."""

_MAY_BE_EMPTY = ("slave_hosts", "slave_ports")
_ARGUMENTS = tuple(
    name
    for name in inspect.signature(ConnectionPool).parameters
    if name not in ("uri", "reactor", "kwargs")
)
SPLITTING = tuple(
    name
    for name, each in inspect.signature(MasterSlaveConnection).parameters.items()
    if each.kind is each.KEYWORD_ONLY
)
"""The keys that say how reads are split between slaves."""

_TEXTS = ("username", "password", "when_stale")
_SECRETS = ("uri", "password", *(name for name in OPTION_NAMES if "password" in name.lower()))
_FILES = {f"{name}_file": name for name in _SECRETS}


def plain(name: str) -> str:
    """
    The same for C{maxPoolSize}, C{max_pool_size} and C{MAX_POOL_SIZE}.
    """
    return name.replace("_", "").lower()


# A URI option comes last: read_preference is readPreference, unless it is an object.
_NAMES = {
    plain(name): name
    for name in (*PLACES, *SPLITTING, *_FILES, *_ARGUMENTS, *KEYWORDS, *OPTION_NAMES)
}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One key and its value.

    @ivar key: as it was given, with its prefix.
    @ivar value: never shown, for it may be a password.
    """

    key: str
    value: Any = field(repr=False)

    def refused(self, text: str, *, shown: bool = True) -> ConfigurationError:
        """
        The error for a value that will not do.

        @param text: what it must be instead.
        @param shown: whether the value may be; one with an C{@} never is, as
            it may be a connection string in the wrong place.
        """
        shown = shown and self._may_be_shown
        return ConfigurationError(f"{self.key}{f'={self.value!r}' if shown else ''} {text}")

    def quoted(self, part: str) -> str:
        """
        A part of the value, as an error may show it.
        """
        return repr(part) if self._may_be_shown else "what it names"

    @property
    def _may_be_shown(self) -> bool:
        return "@" not in str(self.value)

    def parts(self) -> list[str]:
        """
        What a list says: text with commas or line ends, or a list.

        @raise ConfigurationError: an item is empty, or neither text nor number.
        """
        value = self.value
        items = value if isinstance(value, (list, tuple)) else [value]
        if not all(type(item) in (str, int) for item in items):
            raise self.refused("must be text, with commas between several")
        texts = [part.strip() for item in items for part in re.split(r"[,\n]", str(item).strip())]
        if texts == [""]:
            return []
        if "" in texts:
            raise self.refused("has an empty item: take out the comma that is too many")
        return texts


def read_keys(mapping: Mapping[str, Any], prefix: str) -> dict[str, Setting]:
    """
    The settings with a prefix, by the names that L{ConnectionPool} or
    L{PLACES} have for them.  Options have been read once, so that what is
    wrong is told with its key, and secrets have been read from their files.

    @param mapping: with keys such as C{mongo.db}, or with a table C{mongo}.
    @param prefix: C{"mongo."}.

    @raise ConfigurationError: a key is not known or is given twice, or its
        value is not allowed.
    """
    found: dict[str, Setting] = {}
    for rest, value in _under(mapping, prefix):
        if value is None:
            continue
        setting = Setting(f"{prefix}{rest}", value)
        name = _known(rest, value)
        if name is None:
            raise ConfigurationError(f"{setting.key} is not known{_nearest(rest, prefix)}")
        if isinstance(value, (bytes, bytearray)):
            raise setting.refused("must be text: decode it", shown=False)
        if value == "" and name not in _MAY_BE_EMPTY:
            raise setting.refused("is empty: give a value or leave the key out", shown=False)
        if name in _FILES:
            name, setting = _FILES[name], Setting(setting.key, _contents(setting))
        if name in found:
            raise ConfigurationError(
                f"{found[name].key} and {setting.key} are the same setting: give one"
            )
        found[name] = _read(name, setting)
    return found


def _under(mapping: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """What stands below a prefix, in the keys themselves or in tables."""
    for key, value in mapping.items():
        if str(key).startswith(prefix):
            yield key[len(prefix) :], value
    table: Any = mapping
    if prefix.endswith("."):
        for part in prefix[:-1].split("."):
            table = table.get(part) if isinstance(table, Mapping) else None
        if isinstance(table, Mapping):
            yield from table.items()


def _known(name: str, value: Any) -> str | None:
    """The name that the client has for an option, whatever its spelling."""
    if name in KEYWORDS and not isinstance(value, str):
        return name
    known = _NAMES.get(plain(name))
    if known is not None:
        return known
    # Older names, such as ssl and wtimeout, are known to the reader alone.
    for probe in ("true", "1"):
        try:
            values, _ = read_keywords({name: probe})
        except ConfigurationError:
            continue
        for key in values:
            return option_name(key)
    return None


def _nearest(name: str, prefix: str) -> str:
    near = difflib.get_close_matches(plain(name), _NAMES, 1, 0.5)
    if not near:
        return ": correct or remove it"
    best = _NAMES[near[0]]
    if prefix.isupper():
        best = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", best).upper()
    return f": did you mean {prefix}{best}?"


def _contents(setting: Setting) -> str:
    """What a file with a secret says, without the end of its line."""
    if not isinstance(setting.value, str):
        raise setting.refused("must be the path of a file")
    try:
        with Path(setting.value).open("rb") as file:
            data = file.read(LONGEST_SECRET + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise setting.refused(f"cannot be read: {reason}") from None
    if len(data) > LONGEST_SECRET:
        raise setting.refused(f"has more than {LONGEST_SECRET} bytes: name the right file")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise setting.refused("is an empty file: write the secret into it")
    return text


def _read(name: str, setting: Setting) -> Setting:
    """One setting as the client takes it."""
    value = setting.value
    if name in OPTION_NAMES:
        if isinstance(value, str) and "\n" in value.strip():
            # The lines of an .ini file: several readPreferenceTags.
            value = [line.strip() for line in value.strip().splitlines()]
        _check_option(name, setting, value)
    elif name in PLACES:
        return setting
    elif isinstance(value, str) and name not in _TEXTS:
        value = _object(setting)
    return Setting(setting.key, value)


def _check_option(name: str, setting: Setting, value: Any) -> None:
    try:
        read_keywords({name: value})
    except ConfigurationError as error:
        text = str(error).replace(name, setting.key, 1)
        raise ConfigurationError(text) from None


def _object(setting: Setting) -> Any:
    """What is no option of a connection string, from text."""
    text = setting.value.strip()
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        try:
            return pkgutil.resolve_name(text)
        except (ImportError, AttributeError) as error:
            raise setting.refused(f"cannot be imported: {error}") from None
    try:
        return json.loads(text)
    except ValueError:
        raise setting.refused(
            'must be JSON, such as 4, true or ["a"], or module:name of a Python object'
        ) from None
