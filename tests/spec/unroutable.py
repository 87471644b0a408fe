"""
Cases that a scripted router cannot stand in for a real C{mongos} in: each is
skipped, with what is missing.
"""

from __future__ import annotations

__all__ = ["UNROUTABLE"]

_TWO_MONGOS = (
    "needs two real mongos: with one server behind the scripted ones, a fail point is set on "
    "both, and one knows the other's transaction"
)

# The case's full name ("directory/file: description") and the reason.
_TRANSACTIONS = "transactions/tests/unified"
UNROUTABLE: dict[str, str] = {
    f"{_TRANSACTIONS}/mongos-recovery-token.json: commitTransaction retry fails on new mongos": (
        _TWO_MONGOS
    ),
    f"{_TRANSACTIONS}/pin-mongos.json: unpin after transient error within a transaction and "
    "commit": _TWO_MONGOS,
}
