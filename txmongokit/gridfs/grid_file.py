"""
The files, by the module that TxMongo has them in.
"""

from __future__ import annotations

from txmongokit.gridfs.download import GridOut, GridOutIterator
from txmongokit.gridfs.place import DEFAULT_CHUNK_SIZE
from txmongokit.gridfs.upload import GridIn

__all__ = ["DEFAULT_CHUNK_SIZE", "GridIn", "GridOut", "GridOutIterator"]
