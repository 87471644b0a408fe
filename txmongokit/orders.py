"""
The orders in which PyMongo's methods take their arguments, from where those that
have a name of their own here end.
"""

from __future__ import annotations

__all__ = [
    "BULK_WRITE",
    "FIND",
    "FIND_ONE",
    "FIND_ONE_AND",
    "FIND_ONE_AND_UPDATE",
    "INSERT",
    "REPLACE_ONE",
    "UPDATE_MANY",
    "UPDATE_ONE",
]

FIND = (
    "allow_partial_results",
    "oplog_replay",
    "batch_size",
    "collation",
    "hint",
    "max_scan",
    "max_time_ms",
    "max",
    "min",
    "return_key",
    "show_record_id",
    "snapshot",
    "comment",
    "session",
    "allow_disk_use",
    "let",
)
"""After the sort."""

FIND_ONE = ("skip", "limit", "no_cursor_timeout", "cursor_type", "sort", *FIND)
"""After the projection."""

FIND_ONE_AND = ("hint", "session", "let", "comment")
FIND_ONE_AND_UPDATE = ("array_filters", *FIND_ONE_AND)

INSERT = ("bypass_document_validation", "session", "comment")
BULK_WRITE = (*INSERT, "let")

_SORTED = ("hint", "session", "let", "sort", "comment")
REPLACE_ONE = ("bypass_document_validation", "collation", *_SORTED)
UPDATE_ONE = ("bypass_document_validation", "collation", "array_filters", *_SORTED)
UPDATE_MANY = (
    "array_filters",
    "bypass_document_validation",
    "collation",
    "hint",
    "session",
    "let",
    "comment",
)
