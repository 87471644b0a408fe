"""
The public names of TxMongo 15.2.1, from the text of its documentation.
"""

from __future__ import annotations

import ast
import re
from typing import Any

__all__ = ["describe"]

_TITLE = re.compile(r"\A(class|exception) (txmongo[\w.]*)(?:\((.*)\))?(?:\[source\])?\Z")
_FUNCTION = re.compile(r"\A(txmongo\.[\w.]+)\((.*)\)\[source\]\Z")
_METHOD = re.compile(r"\A(static )?(\w+)\((.*)\)(?:\[source\])?\Z")
_ATTRIBUTE = re.compile(r"\A([a-z]\w*)( = None)?\Z")
_MODULE = re.compile(r"\A(txmongo[\w.]*) (?:module|package)\Z")


def _parameters(text: str) -> list[list[str | None]]:
    """What stands between the parentheses of a signature."""
    # What has no name there has none here.
    text = re.sub(r"=<.*>", "=...", text)
    found = ast.parse(f"def call({text}): pass").body[0]
    assert isinstance(found, ast.FunctionDef)
    arguments = found.args
    defaults = [ast.unparse(node) for node in arguments.defaults]
    missing: list[str | None] = [None] * (len(arguments.args) - len(defaults))
    parameters: list[list[str | None]] = [
        [each.arg, "positional_or_keyword", default]
        for each, default in zip(arguments.args, [*missing, *defaults], strict=True)
    ]
    if arguments.kwarg is not None:
        parameters.append([arguments.kwarg.arg, "var_keyword", None])
    return parameters


def describe(text: str) -> dict[str, Any]:
    """
    The names in the documentation, as L{tests.exports.introspection} gives
    those of the other drivers.

    The text has lost its indentation: after a class, what looks like a method
    or attribute is one of its, until the next class, function or module.
    """
    names: dict[str, Any] = {}
    owner = alias = ""
    for line in text.splitlines():
        line = line.strip()
        if line == "Meta":
            break
        if line.startswith("alias of "):
            names[alias] = {"kind": "alias", "of": "txmongo.connection." + line[9:]}
        elif match := _TITLE.match(line):
            kind, owner, arguments = match.groups()
            names[owner] = {"kind": kind}
            if arguments is not None:
                names[owner]["parameters"] = _parameters(arguments)
        elif match := _FUNCTION.match(line):
            owner = ""
            names[match[1]] = {"kind": "function", "parameters": _parameters(match[2])}
        elif _MODULE.match(line):
            owner = ""
        elif re.match(r"\Atxmongo\.connection\.\w+\Z", line):
            owner, alias = "", line
        elif owner and (match := _METHOD.match(line)):
            kind = "static method" if match[1] else "method"
            names[f"{owner}.{match[2]}"] = {"kind": kind, "parameters": _parameters(match[3])}
        elif owner and (match := _ATTRIBUTE.match(line)):
            names[f"{owner}.{match[1]}"] = {"kind": "attribute"}
    # The flags that only the list of changes names.
    for flag in re.findall(r"\btxmongo\.protocol\.[A-Z_]+\b(?! \()", text):
        names.setdefault(flag, {"kind": "constant"})
    return {"driver": "txmongo", "version": "15.2.1", "names": names}
