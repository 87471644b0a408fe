"""
Where settings are written: C{.ini} files as Paste has them, TOML, and the
environment.
"""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from txmongokit.errors import ConfigurationError

__all__ = ["read_environment", "read_ini", "read_toml"]

# Paste's own limit on "use" is the recursion limit.
_FILES = 16
# What Docker and Kubernetes set for a server that is called "mongo", and its image for itself.
_OF_OTHERS = re.compile(r"SERVICE_(HOST|PORT.*)|PORT|PORT_\d+_.*|NAME|INITDB_.*|ENV_.*")

# Not of the application, whatever the prefix.
_OWN_KEYS = ("here", "__file__", "use")

_Ini = configparser.ConfigParser


def read_ini(
    path: str | os.PathLike[str], section: str | None = None, prefix: str = "mongo."
) -> dict[str, str]:
    """
    The settings in an C{.ini} file as PasteDeploy reads it.  C{[DEFAULT]}
    counts for every section; C{%(here)s} is the file's folder, C{%(__file__)s}
    its path, and C{%%} one percent sign; C{set mongo.db = ...} is C{mongo.db =
    ...}; C{use = config:other.ini#name}, or a section's name, brings what is
    written there and not here.  Other sections may hold what they like.

    @param path: of the file, as text in UTF-8.
    @param section: C{app:main} if it is there, else the only one that has the
        prefix.
    @param prefix: what the keys begin with.

    @raise ConfigurationError: the file cannot be read, or it is not clear
        which section is meant.
    """
    return _read_section(Path(path), section, prefix, 0)


def _read_section(path: Path, section: str | None, prefix: str, depth: int) -> dict[str, str]:
    parser = _parsed(path)
    name = _chosen(parser, path, section, prefix)
    found: dict[str, str] = {}
    base = _base(parser, path, name)
    if base is not None:
        if depth == _FILES:
            raise ConfigurationError(
                f"{path}: more than {_FILES} sections use one another: use fewer"
            )
        found = _read_section(*base, prefix, depth + 1)
    for key in sorted(_keys(parser, name), key=lambda key: _weight(parser, key)):
        word, _, rest = key.partition(" ")
        if word == "get" and rest.strip().startswith(prefix):
            raise ConfigurationError(
                f"{path}: {key!r} is not understood: write {rest.strip()} = %(name)s"
            )
        plain = rest.strip() if word == "set" else key
        if plain.startswith(prefix) and plain not in _OWN_KEYS:
            found[plain] = _value(parser, path, name, key)
    return found


def _parsed(path: Path) -> _Ini:
    here = path.resolve()
    places = {"here": str(here.parent), "__file__": str(here)}
    parser = _Ini({name: value.replace("%", "%%") for name, value in places.items()}, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    try:
        with path.open(encoding="utf-8-sig") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigurationError(f"{path} cannot be read: {reason}") from None
    except configparser.DuplicateOptionError as error:
        raise ConfigurationError(
            f"{path}, line {error.lineno}: {error.option} is given twice: leave one out"
        ) from None
    except configparser.Error as error:
        # The error's own text may quote the line, and a password in it.
        line = getattr(error, "lineno", None) or next(
            each for each, _ in getattr(error, "errors", ((0, 0),))
        )
        raise ConfigurationError(f"{path} is no .ini file: correct line {line}") from None
    return parser


def _keys(parser: _Ini, name: str) -> list[str]:
    return list(parser.defaults()) if name == parser.default_section else parser.options(name)


def _weight(parser: _Ini, key: str) -> int:
    """What all sections have counts less than what is set, and that less than a section's own."""
    if key.startswith("set "):
        return 1
    return 0 if key in parser.defaults() else 2


def _chosen(parser: _Ini, path: Path, section: str | None, prefix: str) -> str:
    """The section that is meant."""
    if section is not None:
        if section == parser.default_section or parser.has_section(section):
            return section
        known = ", ".join(parser.sections()) or "none"
        raise ConfigurationError(f"{path} has no section {section!r}: it has {known}")
    if parser.has_section("app:main"):
        return "app:main"
    having = [
        name
        for name in parser.sections()
        if any(
            key.removeprefix("set ").startswith(prefix) and key not in parser.defaults()
            for key in parser.options(name)
        )
    ]
    if len(having) > 1:
        raise ConfigurationError(
            f"{path} has {prefix}* in {' and '.join(having)}: say by section= which is meant"
        )
    return having[0] if having else parser.default_section


def _base(parser: _Ini, path: Path, name: str) -> tuple[Path, str | None] | None:
    """What a section builds on: a file and a section."""
    if not parser.has_option(name, "use"):
        return None
    use = _value(parser, path, name, "use").strip()
    scheme, colon, rest = use.partition(":")
    if scheme in ("egg", "call"):
        return None
    kind = name.partition(":")[0]
    if scheme == "config" and colon:
        file, _, other = rest.partition("#")
        return path.parent / file, f"{kind}:{other or 'main'}" if ":" not in other else other
    return path, use if parser.has_section(use) else f"{kind}:{use}"


def _value(parser: _Ini, path: Path, section: str, key: str) -> str:
    try:
        return parser.get(section, key)
    except configparser.Error:
        raise ConfigurationError(
            f"{path}, [{section}]: {key} has a percent sign that names nothing: write %% for one"
        ) from None


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    A TOML file, with its settings in a table such as C{[mongo]} or in dotted
    keys such as C{mongo.db}.

    @raise ConfigurationError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        place = re.search(r"\(at [^()]*\)", str(error))
        raise ConfigurationError(
            f"{path} is no TOML {place[0] if place else ''}: correct it"
        ) from None


def read_environment(
    environ: Mapping[str, str] | None = None, prefix: str = "MONGO_"
) -> dict[str, str]:
    """
    The settings in the environment: C{MONGO_MASTER_HOST} is C{master_host}.
    What Docker and Kubernetes set for a server that is called C{mongo}, such
    as C{MONGO_SERVICE_HOST} and C{MONGO_PORT}, is left out.

    @param environ: C{os.environ}.
    """
    return {
        key: value
        for key, value in (os.environ if environ is None else environ).items()
        if key.startswith(prefix) and not _OF_OTHERS.fullmatch(key[len(prefix) :])
    }
