"""
GridFS over HTTP, with L{twisted.web}: files served and files taken.
"""

from __future__ import annotations

from txmongokit.web.body import FileBody
from txmongokit.web.files import Files
from txmongokit.web.uploads import StreamingRequest, Uploads

__all__ = ["FileBody", "Files", "StreamingRequest", "Uploads"]
