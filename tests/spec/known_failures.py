"""
Cases that fail, each with the reason: each is a defect.
"""

from __future__ import annotations

__all__ = ["KNOWN_FAILURES"]

# The case's full name ("directory/file: description") and the reason.
KNOWN_FAILURES: dict[str, str] = {}
