"""
The only module with private names of PyMongo, each with a way to do without.

PyMongo moves its private names between releases; whatever breaks, breaks
here, and C{tests/test_pymongo.py} takes each name away in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions

from txmongokit import rawbson
from txmongokit.errors import (
    ConfigurationError,
    CursorNotFound,
    DuplicateKeyError,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

ErrorT = TypeVar("ErrorT", bound=PyMongoError)

__all__ = [
    "NOT_PRIMARY_CODES",
    "NODE_RECOVERING_CODES",
    "RETRYABLE_CODES",
    "SHUTTING_DOWN_CODES",
    "Hello",
    "add_error_label",
    "add_to_bulk",
    "add_to_client_bulk",
    "decode_selective",
    "discreet",
    "is_public_suffix",
    "raise_command_error",
    "registered_listeners",
    "remove_error_label",
    "saslprep",
    "timeout_context",
]

_csot: Any = None
with suppress(ImportError):
    from pymongo import _csot

try:
    from pymongo.monitoring import _LISTENERS
except ImportError:
    _LISTENERS = ()  # type: ignore[assignment]

try:
    from pymongo.hello import Hello
except ImportError:  # where its class is used it is importable, too
    from pymongo.server_description import Hello  # type: ignore[attr-defined]

try:
    from pymongo.saslprep import saslprep as _saslprep
except ImportError:
    _saslprep = None  # type: ignore[assignment]

_is_public_suffix: Callable[[str], bool] | None = None
try:
    from pymongo._psl import is_public_suffix as _listed_suffix

    _is_public_suffix = _listed_suffix
except ImportError:
    pass

# SDAM specification, "not writable primary" and "node is recovering".
NODE_RECOVERING_CODES = frozenset({11600, 11602, 13436, 189, 91})
NOT_PRIMARY_CODES = frozenset({10107, 13435, 10058})
SHUTTING_DOWN_CODES = frozenset({11600, 91})
# Retryable reads specification: what a read is tried again after.
RETRYABLE_CODES = frozenset({6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
_STATE_CHANGE_MESSAGES = ("not master", "node is recovering")
_DUPLICATE_KEY_CODES = frozenset({11000, 11001, 12582})
_ARRAY = 0x04


def decode_selective(
    raw: bytes, codec_options: CodecOptions[Any], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Decode a reply: the given fields by C{codec_options}, and the envelope
    around them as plain dictionaries.

    PyMongo's private C{_decode_all_selective} is not used, as its envelope
    has the user's document class unless there is a type decoder.

    @param fields: as C{{"cursor": {"firstBatch": 1}}}; a list of documents
        may stand for one.
    """
    registry = DEFAULT_CODEC_OPTIONS.type_registry
    if codec_options.document_class is dict and codec_options.type_registry == registry:
        return bson.decode(raw, codec_options)
    plain: CodecOptions[dict[str, Any]] = codec_options.with_options(
        document_class=dict, type_registry=registry
    )
    return _open(raw, codec_options, plain, fields)


def _open(
    level: bytes,
    codec_options: CodecOptions[Any],
    plain: CodecOptions[dict[str, Any]],
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    names, ours = [], []
    theirs: dict[str, Any] = {}
    for kind, encoded_name, start, value, end in rawbson.elements(level):
        name = encoded_name.decode()
        names.append(name)
        inner = fields.get(name)
        if inner is None:
            ours.append(level[start:end])
        elif isinstance(inner, Mapping):
            if kind == _ARRAY:
                documents = rawbson.array_documents(level, value)
                theirs[name] = [_open(each, codec_options, plain, inner) for each in documents]
            else:
                theirs[name] = _open(level[value:end], codec_options, plain, inner)
        else:
            # By itself: a type decoder may refuse what is around it.
            alone = bson.decode(rawbson.wrap(level[start:end]), codec_options)
            theirs[name] = alone[name]
    found = bson.decode(rawbson.wrap(*ours), plain)
    return {name: theirs[name] if name in theirs else found[name] for name in names}


def add_to_bulk(operation: Any, bulk: Any) -> None:
    """
    Have one of PyMongo's write operations call C{bulk}'s C{add_*} method
    with everything that it holds.

    @raise TypeError: it is no write operation.
    """
    _visit(operation, "_add_to_bulk", bulk)


def add_to_client_bulk(operation: Any, bulk: Any) -> None:
    """
    As L{add_to_bulk}, with the operation's namespace as first argument.

    @raise TypeError: it is no write operation.
    @raise InvalidOperation: it has no namespace.
    """
    _visit(operation, "_add_to_client_bulk", bulk)


def _visit(operation: Any, name: str, bulk: Any) -> None:
    visit = getattr(operation, name, None)
    if visit is None:
        raise TypeError(
            f"{type(operation).__name__} is no write operation: use InsertOne, UpdateOne, "
            "UpdateMany, ReplaceOne, DeleteOne or DeleteMany of pymongo.operations"
        )
    visit(bulk)


def saslprep(text: str) -> str:
    """
    A user name or password as SCRAM wants it (RFC 4013).

    @raise ConfigurationError: it has characters that are not allowed.
    """
    if text.isascii() and text.isprintable():
        return text
    if _saslprep is None:
        raise ConfigurationError(
            "user names and passwords outside ASCII need PyMongo's saslprep, which this "
            "version of PyMongo does not have: install another one"
        )
    try:
        prepared = _saslprep(text)
    except ValueError as error:
        raise ConfigurationError(f"the user name or password is not allowed: {error}") from error
    return prepared if isinstance(prepared, str) else prepared.decode()


def is_public_suffix(domain: str) -> bool:
    """
    Whether anybody may register names directly below a domain, as below
    C{co.uk}.  Where PyMongo has no list of such domains, only those of one
    label are.
    """
    if _is_public_suffix is None:
        return "." not in domain
    return _is_public_suffix(domain)


def timeout_context() -> tuple[float, float] | None:
    """
    What C{pymongo.timeout()} says here: the seconds that were given (0 for no
    limit) and the seconds that are left; C{None} outside of it, and where
    PyMongo hides it.
    """
    if _csot is None:
        return None
    timeout = _csot.get_timeout()
    return None if timeout is None else (timeout, _csot.clamp_remaining(math.inf))


def registered_listeners() -> list[Any]:
    """
    What C{pymongo.monitoring.register} was given; nothing where PyMongo hides
    it.  A listener of several kinds is in it more than once.
    """
    return [listener for kind in _LISTENERS for listener in kind]


def add_error_label(error: PyMongoError, label: str) -> None:
    """
    Label an error, so that C{has_error_label} says so.
    """
    add = getattr(error, "_add_error_label", None)
    if add is not None:
        add(label)
    else:
        error._error_labels = {*getattr(error, "_error_labels", ()), label}


def remove_error_label(error: PyMongoError, label: str) -> None:
    """
    Take a label off an error.
    """
    remove = getattr(error, "_remove_error_label", None)
    if remove is not None:
        remove(label)
    else:
        error._error_labels = set(getattr(error, "_error_labels", ())) - {label}


def raise_command_error(reply: Mapping[str, Any], max_wire_version: int | None) -> NoReturn:
    """
    Raise what a reply with C{ok: 0} stands for, with its labels and itself
    as C{details}.

    @raise NotPrimaryError: the server is no primary, recovers or shuts down
        (by its code, or by its message if it gives no code).
    @raise DuplicateKeyError: a unique index has the key already.
    @raise ExecutionTimeout: C{maxTimeMS} is over.
    @raise CursorNotFound: the cursor is gone.
    @raise OperationFailure: anything else.
    """
    code = reply.get("code")
    message = str(reply.get("errmsg") or reply.get("$err") or "the server gave no reason")
    if code is None:
        state_change = any(text in message for text in _STATE_CHANGE_MESSAGES)
    else:
        state_change = code in NOT_PRIMARY_CODES or code in NODE_RECOVERING_CODES
    if state_change:
        raise discreet(NotPrimaryError(message, reply), message)
    kind: type[OperationFailure] = OperationFailure
    if code in _DUPLICATE_KEY_CODES:
        kind = DuplicateKeyError
    elif code == 50:
        kind = ExecutionTimeout
    elif code == 43:
        kind = CursorNotFound
    raise discreet(kind(message, code, reply, max_wire_version), message)


def discreet(error: ErrorT, message: str) -> ErrorT:
    """
    The same error with a text that holds no documents: PyMongo adds the whole
    reply to it, and servers the key that is there already.  Its C{details}
    have all of that.
    """
    text = message.partition(" dup key: ")[0]
    error.args = (text,)
    return error
