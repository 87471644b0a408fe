"""
L{txmongokit.gridfs.errors} under the name that TxMongo gives it.
"""

from __future__ import annotations

from txmongokit.gridfs.errors import CorruptGridFile, GridFSError, NoFile, UnsupportedAPI

__all__ = ["CorruptGridFile", "GridFSError", "NoFile", "UnsupportedAPI"]
