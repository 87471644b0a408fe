"""
GridFS over HTTP, with L{twisted.web}: files served and files taken.

Web sessions have modules of their own: L{txmongokit.web.store},
L{txmongokit.web.site} for L{twisted.web}, C{txmongokit.web.klein} for Klein.
"""

from __future__ import annotations

from txmongokit.web.body import FileBody
from txmongokit.web.files import Files, is_passive
from txmongokit.web.uploads import MAX_LENGTH, StreamingRequest, Uploads

__all__ = ["MAX_LENGTH", "FileBody", "Files", "StreamingRequest", "Uploads", "is_passive"]
