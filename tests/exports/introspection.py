"""
What a driver offers: every public name with its signature, as JSON.

This file is run by path in the environment of the driver that it looks at,
and so uses nothing but the standard library::

    /opt/venv-tx/bin/python tests/exports/introspection.py txmongo
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import json
import re
import sys
import typing
from typing import Any

TXMONGO = (
    "txmongo",
    "txmongo.collection",
    "txmongo.connection",
    "txmongo.database",
    "txmongo.errors",
    "txmongo.filter",
    "txmongo.gridfs",
    "txmongo.protocol",
    "txmongo.sessions",
    "txmongo.types",
    "txmongo.utils",
    "txmongo._gridfs",
    "txmongo._gridfs.errors",
    "txmongo._gridfs.grid_file",
)
PYMONGO = (
    "pymongo",
    "pymongo.asynchronous.mongo_client",
    "pymongo.asynchronous.database",
    "pymongo.asynchronous.collection",
    "pymongo.asynchronous.cursor",
    "pymongo.asynchronous.command_cursor",
    "pymongo.asynchronous.change_stream",
    "pymongo.asynchronous.client_session",
    "pymongo.operations",
    "pymongo.results",
    "gridfs.asynchronous",
    "gridfs.asynchronous.grid_file",
)
# What is a way to write for people, and so is pinned though it has no name.
PROTOCOLS = frozenset(
    f"__{name}__"
    for name in (
        *("aenter", "aexit", "aiter", "anext", "await", "call", "copy", "deepcopy", "enter"),
        *("exit", "getattr", "getitem", "iter", "next"),
    )
)
# PyMongo passes these calls' arguments on: whose signature counts, but for the
# collection, which the call itself gives.
# Packages that pass names on, and from where.
_PASSED_ON_BY = {
    "txmongo": "txmongo",
    "txmongo.gridfs": "txmongo._gridfs",
    "txmongo._gridfs": "txmongo._gridfs",
}
_CURSOR = "pymongo.asynchronous.cursor.AsyncCursor"
_GRID_CURSOR = "gridfs.asynchronous.grid_file.AsyncGridOutCursor"
PASSED_ON = {
    "pymongo.asynchronous.collection.AsyncCollection.find": _CURSOR,
    "pymongo.asynchronous.collection.AsyncCollection.find_one": _CURSOR,
    "pymongo.asynchronous.collection.AsyncCollection.find_raw_batches": _CURSOR,
    "gridfs.asynchronous.grid_file.AsyncGridFS.find": _GRID_CURSOR,
    "gridfs.asynchronous.grid_file.AsyncGridFSBucket.find": _GRID_CURSOR,
}
# A name that is in the text of PyMongo's documentation only, where the command's
# options are said to be keyword arguments.
BULLET = re.compile(r"^\s*(?:-|\*) [`']+(\w+)[`']+", re.M)
PARAMETER = re.compile(r"^\s*:param (\w+)(?: \(optional\))?:", re.M)


def literal(value: Any) -> str:
    """A default as text that is the same in every run."""
    text = value.__qualname__ if inspect.isclass(value) else repr(value)
    return re.sub(r"<([\w.]+)( object)?( at 0x[0-9a-f]+|: .*)?>", r"<\1>", text)


def parameters(function: Any, skip: int) -> list[list[str | None]]:
    """
    Name, kind and default of each parameter but the first ones.
    """
    found: list[list[str | None]] = []
    # TxMongo's decorator: it takes two more options and passes on a private one.
    timed = getattr(getattr(function, "__code__", None), "co_name", "") == "_timeout"
    kinds = list(inspect.signature(function).parameters.values())[skip:]
    for each in kinds:
        if each.name.startswith("_") and each.kind is not each.VAR_KEYWORD:
            continue
        default = None if each.default is each.empty else literal(each.default)
        found.append([each.name, each.kind.name.lower(), default])
    if timed:
        more: list[list[str | None]] = [
            [name, "keyword_only", "None"] for name in ("timeout", "deadline")
        ]
        found = (
            [each for each in found if each[1] != "var_keyword"]
            + more
            + [each for each in found if each[1] == "var_keyword"]
        )
    if found and found[-1][1] == "var_keyword":
        # What it had in older versions is told, too.
        text = (inspect.getdoc(function) or "").partition(".. versionchanged")[0]
        known = {each[0] for each in found}
        for name in [*PARAMETER.findall(text), *BULLET.findall(text)]:
            if name not in known and not name[0].isupper():
                known.add(name)
                found.append([name, "documented_keyword", None])
    return found


def from_drivers(value: Any) -> bool:
    """Whether one of the drivers defines a thing."""
    return value.__module__.partition(".")[0] in ("txmongo", "pymongo", "gridfs")


def ours(cls: type) -> list[type]:
    """The classes that a class has its members from, the drivers' own."""
    return [base for base in cls.__mro__ if from_drivers(base) or base.__name__ == "Deferred"]


def attributes(cls: type) -> set[str]:
    """The public attributes that its methods set on C{self}."""
    try:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and not node.attr.startswith("_")
        ):
            found.add(node.attr)
    return found


def describe_class(path: str, cls: type) -> dict[str, Any]:
    """A class and its members."""
    names: dict[str, Any] = {}
    made: dict[str, Any] = {"kind": "exception" if issubclass(cls, BaseException) else "class"}
    if "__init__" in vars(cls) or any("__init__" in vars(base) for base in ours(cls)):
        made["parameters"] = parameters(inspect.getattr_static(cls, "__init__"), 1)
    elif hasattr(cls, "_fields"):
        made["parameters"] = parameters(cls.__new__, 1)
    names[path] = made
    bases = ours(cls)
    members = {name for base in bases for name in vars(base)}
    for base in bases:
        if base.__name__ != "Deferred":
            members |= attributes(base)
    for name in sorted(members):
        if name.startswith("_") and name not in PROTOCOLS:
            continue
        if re.search(r"\A_[A-Z]", name):
            continue
        names[f"{path}.{name}"] = describe_member(f"{path}.{name}", cls, name)
    return names


def describe_member(path: str, cls: type, name: str) -> dict[str, Any]:
    """A method, property or attribute."""
    try:
        found = inspect.getattr_static(cls, name)
    except AttributeError:
        return {"kind": "attribute"}
    if isinstance(found, property | functools.cached_property):
        settable = isinstance(found, property) and found.fset is not None
        return {"kind": "property", **({"settable": True} if settable else {})}
    if isinstance(found, staticmethod):
        return {"kind": "static method", "parameters": parameters(found.__func__, 0)}
    if isinstance(found, classmethod):
        return {"kind": "class method", "parameters": parameters(found.__func__, 1)}
    if inspect.isfunction(found):
        return {"kind": "method", "parameters": parameters(found, 1)}
    if inspect.isdatadescriptor(found):
        return {"kind": "property"}
    if name in PROTOCOLS and callable(found):
        return {"kind": "method", "parameters": []}
    if isinstance(found, int | str | bytes | type(None)):
        return {"kind": "attribute", "value": literal(found)}
    return {"kind": "attribute"}


def public_names(module: Any, package: str) -> list[str]:
    """
    What a module defines, or its C{__all__}; packages also what they pass on.
    """
    listed = getattr(module, "__all__", None)
    if listed is not None and package != "txmongo":
        return list(listed)
    passes_on = module.__name__ in _PASSED_ON_BY
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        elif (
            passes_on
            and isinstance(node, ast.ImportFrom)
            and f"{node.module}.".startswith(f"{_PASSED_ON_BY[module.__name__]}.")
        ):
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_")]


def describe_module(path: str) -> dict[str, Any]:
    """
    Every public name of a module.
    """
    module = importlib.import_module(path)
    package = path.partition(".")[0]
    names: dict[str, Any] = {}
    for name in public_names(module, package):
        value = getattr(module, name)
        full = f"{path}.{name}"
        if isinstance(value, typing.TypeVar) or name == "GRIDOUT_BASE_CLASS":
            continue
        if full == "pymongo.MongoClient":
            value = module.AsyncMongoClient
        if inspect.ismodule(value):
            names[full] = {"kind": "module"}
        elif isinstance(value, type):
            home = f"{value.__module__}.{value.__qualname__}"
            # A class is described where it is defined.
            if home != full and value.__module__ in (*TXMONGO, *PYMONGO):
                names[full] = {"kind": "alias", "of": home}
            elif from_drivers(value):
                names.update(describe_class(full, value))
            else:
                names[full] = {"kind": "class"}
        elif inspect.isfunction(value):
            if value.__module__ != path and value.__module__ in (*TXMONGO, *PYMONGO):
                names[full] = {"kind": "alias", "of": f"{value.__module__}.{value.__name__}"}
            else:
                names[full] = {"kind": "function", "parameters": parameters(value, 0)}
        elif isinstance(value, int | str | bytes | tuple):
            names[full] = {"kind": "constant", "value": literal(value)}
        else:
            names[full] = {"kind": "constant"}
    return names


def pass_on(names: dict[str, Any]) -> None:
    """
    Give calls that only pass their arguments on the signature of what does
    the work.
    """
    for path, target in PASSED_ON.items():
        if path in names:
            names[path]["parameters"] = names[target]["parameters"][1:]


def describe(package: str) -> dict[str, Any]:
    """
    A driver: its name and version, and its public names.
    """
    names: dict[str, Any] = {}
    for module in TXMONGO if package == "txmongo" else PYMONGO:
        names.update(describe_module(module))
    pass_on(names)
    version = importlib.metadata.version(package)
    return {"driver": package, "version": version, "names": names}


if __name__ == "__main__":
    json.dump(describe(sys.argv[1]), sys.stdout)
