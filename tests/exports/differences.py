"""
Where txmongokit deliberately differs from another driver, and why.

One entry for each name, or for a parameter C{name(parameter)}; what is no longer
needed here fails the test.
"""

from __future__ import annotations

__all__ = ["DIFFERENCES"]

DIFFERENCES: dict[str, dict[str, str]] = {
    "txmongo-15.2.1": {},
    "txmongo-26.0.0": {},
    "pymongo-4.20.0": {},
}
