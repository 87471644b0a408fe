"""
The rules of the source tree, as functions from one parsed module to the ways
in which it breaks them. C{test_architecture} applies them to the package, and
each of them to a planted violation.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = [
    "RULES",
    "Import",
    "Module",
    "band",
    "banned_words",
    "determinism",
    "docstrings",
    "global_reactor",
    "import_direction",
    "mangled_names",
    "package_modules",
    "private_names",
    "private_pymongo",
    "relative_imports",
    "sizes",
    "third_parties",
]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "txmongokit"

VALUES = (
    "types",
    "errors",
    "credentials",
    "options",
    "filter",
    "interfaces",
    "listening",
    "_pymongo",
    "rawbson",
    "uri",
)
PROTOCOLS = ("wire", "protocol")
API = (
    "transactions",
    "sessions",
    "orders",
    "scope",
    "exhaust",
    "cursorcalls",
    "cursor",
    "changestream",
    "indexes",
    "bulkwrite",
    "aggregation",
    "legacy",
    "collection",
    "database",
    "deployment",
    "gridfs",
    "_gridfs",
    "connection",
    "_masterslave",
    "masterslave",
    "reactorthread",
    "testing",
)
APPLICATIONS = ("settings", "service", "oplog", "replicator", "storage", "web")
COMPOSITION_ROOTS = ("connection", "replicator.tap", "oplog", "reactorthread", "web.sessiontap")

MODULE_CODE_LINES = 700
FUNCTION_CODE_LINES = 60

_BSON = ("bson", "pymongo")
_THIRD_PARTIES = {
    "root": _BSON,
    "values": _BSON,
    "_sansio": (*_BSON, "snappy", "zstandard", "cryptography"),
    "protocol": (
        *_BSON,
        "twisted.internet.defer",
        "twisted.internet.error",
        "twisted.internet.interfaces",
        "twisted.internet.protocol",
        "twisted.logger",
        "twisted.python.failure",
        "zope.interface",
    ),
    "_net": (
        *_BSON,
        "twisted",
        "automat",
        "zope.interface",
        "OpenSSL",
        "service_identity",
        "cryptography",
        "opentelemetry",
    ),
    "api": (
        *_BSON,
        "twisted.internet.defer",
        "twisted.internet.interfaces",
        "twisted.logger",
        "twisted.python.failure",
    ),
    "applications": (*_BSON, "twisted", "zope.interface", "automat"),
}
_MORE_THIRD_PARTIES = {
    "interfaces": ("zope.interface", "twisted.internet"),
    # Its TypeVar has defaults, for mypy alone.
    "database": ("typing_extensions",),
    "connection": ("twisted", "zope.interface", "typing_extensions"),
    "masterslave": ("zope.interface", "typing_extensions"),
    "reactorthread": (
        "twisted.internet.error",
        "twisted.internet.reactor",
        "twisted.python.threadable",
    ),
    "testing": ("cryptography",),
    "gridfs": ("gridfs.errors", "zope.interface"),
    "storage": ("cattrs",),
    "web": ("cherrypy", "cryptography", "jaraco.modb", "klein"),
}

_PUBLIC_PYMONGO = frozenset(
    {
        "auth_oidc",
        "client_options",
        "client_session",
        "collation",
        "driver_info",
        "encryption_options",
        "errors",
        "monitoring",
        "operations",
        "read_concern",
        "read_preferences",
        "results",
        "server_api",
        "server_description",
        "server_selectors",
        "server_type",
        "timeout",
        "topology_description",
        "uri_parser",
        "write_concern",
    }
)
_PYMONGO_CLIENTS = frozenset({"MongoClient", "AsyncMongoClient"})
_UNDETERMINED_MODULES = frozenset(
    {"twisted", "time", "random", "secrets", "socket", "ssl", "asyncio", "threading", "select"}
)
_UNDETERMINED_NAMES = frozenset(
    {"os.urandom", "uuid.uuid1", "uuid.uuid4", "datetime.now", "datetime.utcnow", "datetime.today"}
)
_BANNED_WORDS = frozenset(
    {"util", "utils", "helper", "helpers", "common", "manager", "managers", "handler", "handlers"}
)


@dataclass(frozen=True)
class Import:
    """
    One imported name.

    @ivar module: the module it comes from.
    @ivar name: the name itself; empty for C{import module}.
    @ivar level: how many dots a relative import has.
    """

    module: str
    name: str
    line: int
    level: int = 0

    @property
    def full(self) -> str:
        """The dotted path of what is imported."""
        return f"{self.module}.{self.name}" if self.name else self.module


@dataclass(frozen=True)
class Module:
    """
    One module of the package.

    @ivar name: its dotted name.
    @ivar source: its text.
    """

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.source)

    @property
    def path(self) -> str:
        """The dotted name inside the package; empty for the package itself."""
        return self.name.removeprefix(PACKAGE).removeprefix(".")

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import, wherever it stands: type-only and late ones count."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, "", node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [
                    Import(node.module or "", alias.name, node.lineno, node.level)
                    for alias in node.names
                ]
        return tuple(found)

    @cached_property
    def code_lines(self) -> frozenset[int]:
        """The numbers of the lines that hold code: no comment, no docstring."""
        quiet = {
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        }
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in quiet:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            # Docstrings, and the strings that stand below an attribute.
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return frozenset(lines)


Rule = Callable[[Module], Iterator[str]]


def package_modules() -> list[Module]:
    """
    Every module of the package in this tree.
    """
    modules = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return modules


def band(path: str) -> str | None:
    """
    The band of a module, from its dotted name inside the package.

    @return: C{None} for a module that has no place in the table.
    """
    first = path.partition(".")[0]
    if not path:
        return "root"
    if first in VALUES:
        return "values"
    if first in PROTOCOLS:
        return "protocol"
    if first in ("_sansio", "_net"):
        return first
    if path == "gridfs.__main__":
        return "applications"  # The command has nothing but the package's name in common.
    if first in API:
        return "api"
    if first in APPLICATIONS:
        return "applications"
    return None


def _may_import(importer: str, imported: str) -> bool:
    """
    Whether one module of the package may import another (dotted names inside
    the package).
    """
    source, target = band(importer), band(imported)
    first, other = importer.partition(".")[0], imported.partition(".")[0]
    if source == "root" or target == "values":
        return True
    if source == "applications":
        if target == "applications":
            return (
                first == other or other == "settings" or (first, other) == ("oplog", "replicator")
            )
        return target in ("api", "root")
    if source == "api":
        if target == "api":
            return API.index(other) <= API.index(first)
        if first == "connection":
            return target in ("_sansio", "protocol", "_net", "root")
        return imported.startswith(("_sansio.commands", "_sansio.transactions"))
    below = {
        "values": (),
        "_sansio": ("_sansio",),
        "protocol": ("_sansio", "protocol"),
        "_net": ("_sansio", "protocol", "_net"),
    }
    return target in below.get(source or "", ())


def _inside(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _is_ours(item: Import) -> bool:
    return not item.level and _inside(item.module, (PACKAGE,))


def import_direction(module: Module) -> Iterator[str]:
    """
    Imports go down the table of bands, and every module stands in it.
    """
    if band(module.path) is None:
        yield f"{module.name} is in no band of the design"
    for item in module.imports:
        if not _is_ours(item):
            continue
        imported = item.module.removeprefix(PACKAGE).removeprefix(".")
        if not imported and item.name == "__version__":
            continue
        if not imported and band(item.name) is not None:
            imported = item.name
        if not _may_import(module.path, imported):
            yield f"{module.name}:{item.line} may not import {item.full}"


def third_parties(module: Module) -> Iterator[str]:
    """
    Each band imports the other projects' names that it is allowed, no more.
    """
    first = module.path.partition(".")[0]
    allowed = _THIRD_PARTIES[band(module.path) or "root"] + _MORE_THIRD_PARTIES.get(first, ())
    for item in module.imports:
        top = item.module.partition(".")[0]
        if item.level or top in sys.stdlib_module_names or top == PACKAGE:
            continue
        if not _inside(item.module, allowed) and not _inside(item.full, allowed):
            yield f"{module.name}:{item.line} may not import {item.full}"


def determinism(module: Module) -> Iterator[str]:
    """
    C{_sansio} knows no Twisted, no clock, no randomness and no sockets. The
    class C{random.Random} may be named, as the type of what is passed in.
    """
    if band(module.path) != "_sansio":
        return
    for item in module.imports:
        if item.full == "random.Random":
            continue
        if item.module.partition(".")[0] in _UNDETERMINED_MODULES:
            yield f"{module.name}:{item.line} imports {item.module}"
        elif item.full in _UNDETERMINED_NAMES:
            yield f"{module.name}:{item.line} imports {item.full}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            used = f"{owner}.{node.attr}"
            if used in _UNDETERMINED_NAMES:
                yield f"{module.name}:{node.lineno} uses {used}"
        elif isinstance(node, ast.Call) and ast.unparse(node) == "Random()":
            yield f"{module.name}:{node.lineno} makes a Random without a seed"


def global_reactor(module: Module) -> Iterator[str]:
    """
    Only the composition roots know the global reactor.
    """
    if module.path in COMPOSITION_ROOTS:
        return
    for item in module.imports:
        if _inside(item.full, ("twisted.internet.reactor",)):
            yield f"{module.name}:{item.line} imports the global reactor"


def relative_imports(module: Module) -> Iterator[str]:
    """
    Imports are absolute.
    """
    for item in module.imports:
        if item.level:
            yield f"{module.name}:{item.line} has a relative import"


def private_pymongo(module: Module) -> Iterator[str]:
    """
    PyMongo's private names and half-private modules are imported by
    C{_pymongo} alone, and its clients by C{testing} alone.
    """
    if module.path == "_pymongo":
        return
    for item in module.imports:
        parts = item.full.split(".")
        if parts[0] not in _BSON or item.level:
            continue
        if any(part.startswith("_") and not part.endswith("__") for part in parts):
            yield f"{module.name}:{item.line} imports the private {item.full}"
        elif item.name in _PYMONGO_CLIENTS and module.path != "testing":
            yield f"{module.name}:{item.line} imports PyMongo's client"
        elif parts[0] == "pymongo" and len(parts) > 1:
            submodule = parts[1]
            is_module = bool(item.module.count(".")) or not item.name or submodule.islower()
            constant = submodule.isupper()
            if is_module and not constant and submodule not in _PUBLIC_PYMONGO:
                yield f"{module.name}:{item.line} imports {item.full}, which is half private"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            chain = ast.unparse(node)
            if chain.partition(".")[0] in _BSON:
                yield f"{module.name}:{node.lineno} uses the private {chain}"


def private_names(module: Module) -> Iterator[str]:
    """
    C{_name} is private to the module that defines it.
    """
    for item in module.imports:
        if _is_ours(item) and re.match(r"_[^_]", item.name):
            target = ROOT.joinpath(*item.full.split("."))
            if not target.is_dir() and not target.with_suffix(".py").is_file():
                yield f"{module.name}:{item.line} imports the private {item.full}"


def sizes(module: Module) -> Iterator[str]:
    """
    A module is read in one sitting, a function without scrolling; docstrings,
    comments and blank lines are not counted.
    """
    if len(module.code_lines) > MODULE_CODE_LINES:
        yield f"{module.name} has {len(module.code_lines)} code lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            count = len(module.code_lines.intersection(span))
            if count > FUNCTION_CODE_LINES:
                yield f"{module.name}:{node.lineno} {node.name} has {count} code lines"


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)}


def banned_words(module: Module) -> Iterator[str]:
    """
    A module or class is named after the noun in it; words that fit anything
    are no names.
    """
    for part in module.path.split("."):
        for word in sorted(_words(part) & _BANNED_WORDS):
            yield f"{module.name} has {word!r} in its name"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            for word in sorted(_words(node.name) & _BANNED_WORDS):
                yield f"{module.name}:{node.lineno} class {node.name} has {word!r} in its name"


def mangled_names(module: Module) -> Iterator[str]:
    """
    No name begins with two underscores, but for Python's own C{__names__}.
    """
    for node in ast.walk(module.tree):
        name = ""
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        if name.startswith("__") and not name.endswith("__"):
            yield f"{module.name}:{getattr(node, 'lineno', 0)} has the mangled name {name}"


def docstrings(module: Module) -> Iterator[str]:
    """
    Every module says what it is for, and a public one lists its names.
    """
    if not ast.get_docstring(module.tree):
        yield f"{module.name} has no docstring"
    if any(part.startswith("_") for part in module.name.split(".")):
        return
    is_bare = all(isinstance(node, ast.Expr) for node in module.tree.body)
    names = {
        target.id
        for node in module.tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if not is_bare and "__all__" not in names:
        yield f"{module.name} has no __all__"


RULES: tuple[Rule, ...] = (
    import_direction,
    third_parties,
    determinism,
    global_reactor,
    relative_imports,
    private_pymongo,
    private_names,
    sizes,
    banned_words,
    mangled_names,
    docstrings,
)
