"""
What goes wrong with files: PyMongo's classes, so that one C{except} does for
both, and the one of TxMongo that PyMongo has no more.
"""

from __future__ import annotations

from gridfs.errors import CorruptGridFile, FileExists, GridFSError, NoFile

__all__ = ["CorruptGridFile", "FileExists", "GridFSError", "NoFile", "UnsupportedAPI"]


class UnsupportedAPI(GridFSError):
    """
    Something of GridFS as it was before PyMongo 1.6 has been called.
    """
