"""
GridFS: files of any size, as documents of a bucket.

A bucket is two collections: C{files} has a document for each file, C{chunks}
its content in pieces of equal size.  This follows the GridFS specification
and the section on GridFS of the client-side-operations-timeout one; names and
parameters are those of PyMongo's C{AsyncGridFSBucket}, and L{GridFS} is what
TxMongo and PyMongo had before that.
"""

from __future__ import annotations

from txmongokit.gridfs.bucket import GridFSBucket
from txmongokit.gridfs.delivery import Delivery
from txmongokit.gridfs.download import GridOut, GridOutCursor, GridOutIterator
from txmongokit.gridfs.errors import (
    CorruptGridFile,
    FileExists,
    GridFSError,
    NoFile,
    UnsupportedAPI,
)
from txmongokit.gridfs.filesystem import GridFS
from txmongokit.gridfs.place import DEFAULT_CHUNK_SIZE
from txmongokit.gridfs.upload import GridIn

AsyncGridFS, AsyncGridFSBucket = GridFS, GridFSBucket
AsyncGridIn, AsyncGridOut, AsyncGridOutCursor = GridIn, GridOut, GridOutCursor

__all__ = [
    "AsyncGridFS",
    "AsyncGridFSBucket",
    "AsyncGridIn",
    "AsyncGridOut",
    "AsyncGridOutCursor",
    "DEFAULT_CHUNK_SIZE",
    "CorruptGridFile",
    "Delivery",
    "FileExists",
    "GridFS",
    "GridFSBucket",
    "GridFSError",
    "GridIn",
    "GridOut",
    "GridOutCursor",
    "GridOutIterator",
    "NoFile",
    "UnsupportedAPI",
]
