"""
Results and errors of operations, as the documents that tests expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.errors import (
    BulkWriteError,
    ClientBulkWriteException,
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)
from pymongo.results import (
    BulkWriteResult,
    ClientBulkWriteResult,
    DeleteResult,
    InsertManyResult,
    InsertOneResult,
    UpdateResult,
)

from tests.spec.matching import MISSING, Matcher, Mismatch

__all__ = ["check_error", "result_document"]


def result_document(result: Any) -> Any:
    """
    A result object as a document; anything else as it is.
    """
    kinds = (InsertOneResult, InsertManyResult, UpdateResult, DeleteResult, BulkWriteResult)
    if isinstance(result, ClientBulkWriteResult):
        return _client_bulk_document(result)
    if not isinstance(result, kinds):
        return result
    if isinstance(result, InsertOneResult):
        return {"insertedId": result.inserted_id}
    if not result.acknowledged:
        return {"acknowledged": False}
    if isinstance(result, InsertManyResult):
        ids = {str(number): value for number, value in enumerate(result.inserted_ids)}
        return {"insertedIds": ids, "insertedCount": len(ids)}
    if isinstance(result, UpdateResult):
        document = {
            "matchedCount": result.matched_count,
            "modifiedCount": result.modified_count,
            "upsertedCount": 1 if result.did_upsert else 0,
        }
        if result.did_upsert:
            document["upsertedId"] = result.upserted_id
        return document
    if isinstance(result, DeleteResult):
        return {"deletedCount": result.deleted_count}
    return _bulk_document(result)


def _bulk_document(result: BulkWriteResult) -> dict[str, Any]:
    return {
        "deletedCount": result.deleted_count,
        "insertedCount": result.inserted_count,
        "matchedCount": result.matched_count,
        "modifiedCount": result.modified_count,
        "upsertedCount": result.upserted_count,
        "upsertedIds": {
            str(number): value for number, value in (result.upserted_ids or {}).items()
        },
    }


def _client_bulk_document(result: ClientBulkWriteResult) -> dict[str, Any]:
    if not result.acknowledged:
        return {"acknowledged": False}
    verbose = result.has_verbose_results
    document: dict[str, Any] = {
        "deletedCount": result.deleted_count,
        "insertedCount": result.inserted_count,
        "matchedCount": result.matched_count,
        "modifiedCount": result.modified_count,
        "upsertedCount": result.upserted_count,
    }
    for name, results in (
        ("insertResults", result.insert_results if verbose else {}),
        ("updateResults", result.update_results if verbose else {}),
        ("deleteResults", result.delete_results if verbose else {}),
    ):
        document[name] = {str(number): _single(each) for number, each in results.items()}
    return document


def _single(result: Any) -> Any:
    document = result_document(result)
    if isinstance(result, UpdateResult):
        del document["upsertedCount"]
    return document


def _labels(error: Exception) -> Any:
    """
    The error whose labels, code and reply count.
    """
    if isinstance(error, ClientBulkWriteException) and error.error is not None:
        return error.error
    return error


def _replies(error: Any) -> list[Mapping[str, Any]]:
    """
    What the server said, all write errors of a bulk included.
    """
    details = getattr(error, "details", None)
    if not isinstance(details, Mapping):
        return []
    if not isinstance(error, BulkWriteError):
        return [details]
    return [
        details,
        *details.get("writeErrors", ()),
        *details.get("writeConcernErrors", ()),
    ]


def _is_client_error(error: Any) -> bool:
    """
    Whether an error did not come out of a server's reply.
    """
    if isinstance(error, NotPrimaryError):
        return False
    if isinstance(error, (OperationFailure, BulkWriteError)):
        return False
    return isinstance(
        error,
        (ConnectionFailure, ConfigurationError, InvalidOperation, WaitQueueTimeoutError),
    ) or not isinstance(error, ClientBulkWriteException)


def check_error(matcher: Matcher, expected: Mapping[str, Any], error: Exception) -> None:
    """
    @raise Mismatch: an error is not the expected one.
    """
    cause = _labels(error)
    shown = f"{type(error).__name__}: {error}"[:200]
    client = expected.get("isClientError")
    if client is not None and client != _is_client_error(cause):
        raise Mismatch(f"expected {'a client' if client else 'a server'} error, not {shown}")
    timed_out = expected.get("isTimeoutError")
    if timed_out is not None and timed_out != (
        isinstance(cause, PyMongoError) and bool(cause.timeout)
    ):
        raise Mismatch(f"expected {'a' if timed_out else 'no'} timeout, not {shown}")
    text = expected.get("errorContains")
    if text is not None:
        details = getattr(cause, "details", "")
        if text.lower() not in f"{error} {cause} {details}".lower():
            raise Mismatch(f"expected {text!r} in {shown}")
    _check_reply(matcher, expected, cause, shown)
    has = getattr(cause, "has_error_label", lambda label: False)
    missing = [label for label in expected.get("errorLabelsContain", ()) if not has(label)]
    if missing:
        raise Mismatch(f"labels {missing} are missing from {shown}")
    unwanted = [label for label in expected.get("errorLabelsOmit", ()) if has(label)]
    if unwanted:
        raise Mismatch(f"unwanted labels {unwanted} on {shown}")
    _check_bulk(matcher, expected, error, shown)


def _check_reply(matcher: Matcher, expected: Mapping[str, Any], cause: Any, shown: str) -> None:
    replies = _replies(cause)
    code = expected.get("errorCode")
    if code is not None and code not in [each.get("code") for each in replies]:
        raise Mismatch(f"expected code {code}, not {shown}")
    name = expected.get("errorCodeName")
    if name is not None and name.lower() not in [
        str(each.get("codeName")).lower() for each in replies
    ]:
        raise Mismatch(f"expected code name {name}, not {shown}")
    response = expected.get("errorResponse")
    if response is not None:
        if not replies:
            raise Mismatch(f"expected a server's reply, not {shown}")
        matcher.match(response, replies[0], "errorResponse", root=True)


def _check_bulk(
    matcher: Matcher, expected: Mapping[str, Any], error: Exception, shown: str
) -> None:
    write_errors = expected.get("writeErrors")
    concern_errors = expected.get("writeConcernErrors")
    if write_errors is not None or concern_errors is not None:
        if not isinstance(error, ClientBulkWriteException):
            raise Mismatch(f"expected a ClientBulkWriteException, not {shown}")
        actual = {str(each["idx"]): each for each in error.details.get("writeErrors", ())}
        if write_errors is not None:
            documents = {
                index: {"code": each.get("code"), "message": each.get("errmsg", "")}
                for index, each in actual.items()
            }
            if set(documents) != set(write_errors):
                raise Mismatch(f"expected write errors {list(write_errors)}, not {list(actual)}")
            for index, wanted in write_errors.items():
                matcher.match(wanted, documents[index], f"writeErrors[{index}]", root=True)
        if concern_errors is not None:
            found = [
                {"code": each.get("code"), "message": each.get("errmsg", "")}
                for each in error.details.get("writeConcernErrors", ())
            ]
            matcher.match_rows(list(concern_errors), found, "writeConcernErrors")
    if "expectResult" in expected:
        matcher.match(expected["expectResult"], _partial(error), "", root=True)


def _partial(error: Exception) -> Any:
    if isinstance(error, BulkWriteError):
        return _bulk_document(BulkWriteResult(dict(error.details), True))
    if isinstance(error, ClientBulkWriteException):
        partial = error.partial_result
        return MISSING if partial is None else _client_bulk_document(partial)
    # An error of the network has what was done before it, as our own addition.
    partial = getattr(error, "partial_result", None)
    return _bulk_document(partial) if isinstance(partial, BulkWriteResult) else MISSING
