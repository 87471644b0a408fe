"""
Cases that fail, each with the reason: each is a defect.
"""

from __future__ import annotations

__all__ = ["KNOWN_FAILURES"]

# The case's full name ("directory/file: description") and the reason.
KNOWN_FAILURES: dict[str, str] = {
    f"uri-options/tests/tls-options.json: Invalid {option} causes a warning": "a wrong value of "
    "a tls* option is an error, not a warning: what security depends on is never ignored"
    for option in ("tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsInsecure")
}
