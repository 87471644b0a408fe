"""
L{txmongokit.gridfs} under the name that TxMongo gives it.
"""

from __future__ import annotations

from txmongokit.gridfs import GridFS, GridIn, GridOut, GridOutIterator, NoFile

__all__ = ["GridFS", "GridIn", "GridOut", "GridOutIterator", "NoFile"]
