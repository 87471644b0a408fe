"""
Cases that fail, each with the reason: each is a defect.
"""

from __future__ import annotations

__all__ = ["KNOWN_FAILURES"]

# The case's full name ("directory/file: description") and the reason.
KNOWN_FAILURES: dict[str, str] = {
    "connection-monitoring-and-pooling/tests/logging/connection-pool-options.json: "
    "waitQueueMultiple should be included in connection pool created message when specified": (
        "the test contradicts itself: it sets waitQueueSize and expects waitQueueMultiple"
    ),
    "auth/tests/legacy/connection-string.json: should throw an exception if username and password "
    "provided (MONGODB-AWS)": (
        "the file contradicts itself: another of its cases wants such a connection string taken"
    ),
} | {
    f"uri-options/tests/tls-options.json: Invalid {option} causes a warning": "a wrong value of "
    "a tls* option is an error, not a warning: what security depends on is never ignored"
    for option in ("tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsInsecure")
}
