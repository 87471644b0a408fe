"""
Compressors for OP_COMPRESSED.

Follows the specification I{Wire Compression in Drivers}.  zlib is always
there; snappy and zstd where one of the packages that provide them is.
Decompressing never makes more bytes than the message announced, whatever
the compressed data says.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from txmongokit.errors import ConfigurationError, ProtocolError

__all__ = [
    "Compressor",
    "available_compressors",
    "decompress",
    "make_compressor",
    "negotiate",
]

_NOOP, _SNAPPY, _ZLIB, _ZSTD = range(4)
_IDS = {"snappy": _SNAPPY, "zlib": _ZLIB, "zstd": _ZSTD}
_NAMES = {number: name for name, number in _IDS.items()}

# Which packages provide a compressor, the preferred one first.
_MODULES = {
    "snappy": ("snappy",),
    "zlib": ("zlib",),
    "zstd": ("compression.zstd", "backports.zstd", "zstandard"),
}
_INSTALL = {"snappy": "python-snappy", "zstd": "zstandard (or backports.zstd)"}


@dataclass(frozen=True, slots=True)
class Compressor:
    """
    One way to make messages smaller.

    @ivar name: as in C{compressors=} and in the handshake.
    @ivar number: what OP_COMPRESSED calls it.
    @ivar compress: from bytes to fewer bytes.
    """

    name: str
    number: int
    compress: Callable[[bytes], bytes]


def _provider(name: str) -> ModuleType | None:
    for module in _MODULES.get(name, ()):
        try:
            return import_module(module)
        except ImportError:
            continue
    return None


def available_compressors() -> tuple[str, ...]:
    """
    The names of the compressors that can be used here.
    """
    return tuple(name for name in _IDS if _provider(name) is not None)


def make_compressor(name: str, zlib_level: int = -1) -> Compressor:
    """
    @param name: C{snappy}, C{zlib} or C{zstd}.
    @param zlib_level: -1 (zlib's own default) to 9; for zlib alone.

    @raise ConfigurationError: where there is no such compressor, or the
        package that provides it is not installed.
    """
    if name not in _IDS:
        raise ConfigurationError(f"unknown compressor {name!r}: use {', '.join(_IDS)}")
    if not -1 <= zlib_level <= 9:
        raise ConfigurationError(f"zlibCompressionLevel must be -1 to 9, not {zlib_level}")
    module: Any = _provider(name)
    if module is None:
        raise ConfigurationError(
            f"the compressor {name} needs a package that is not installed: {_INSTALL[name]}"
        )

    def deflate(data: bytes) -> bytes:
        return zlib.compress(data, zlib_level)

    compress: Callable[[bytes], bytes] = deflate if name == "zlib" else module.compress
    return Compressor(name, _IDS[name], compress)


def negotiate(
    wanted: Sequence[str], offered: Sequence[str], zlib_level: int = -1
) -> Compressor | None:
    """
    The compressor to send with: the first one wanted that the server has.

    @param wanted: the client's C{compressors}, in its order.
    @param offered: C{compression} from the server's handshake reply.

    @return: C{None} where they have none in common; that is no error.
    """
    for name in wanted:
        if name in offered and _provider(name) is not None:
            return make_compressor(name, zlib_level)
    return None


def decompress(number: int, data: bytes, size: int, limit: int) -> bytes:
    """
    What a server compressed.

    @param number: which compressor it says it used.
    @param size: how many bytes it says the result has.
    @param limit: how many bytes the result may have.

    @raise ProtocolError: where C{size} is above C{limit} (nothing is
        decompressed then), the data is broken or makes any other number of
        bytes than C{size} (never more than one more byte is made), or the
        compressor is not there.
    """
    if not 0 <= size <= limit:
        raise ProtocolError(
            f"a compressed message announces {size} bytes uncompressed, where {limit} are allowed"
        )
    if number == _NOOP:
        result = data
    else:
        name = _NAMES.get(number)
        module = _provider(name) if name is not None else None
        if name is None or module is None:
            raise ProtocolError(f"a message was compressed with the unknown compressor {number}")
        try:
            result = _INFLATE[name](module, data, size)
        except Exception as error:
            # Each package has error classes of its own, and not all of them
            # share a base.
            raise ProtocolError(f"a message's {name} data is broken") from error
    if len(result) != size:
        raise ProtocolError(
            f"a compressed message announces {size} bytes uncompressed but has "
            f"{len(result) if len(result) < size else 'more'}"
        )
    return result


def _inflate_snappy(module: Any, data: bytes, size: int) -> bytes:
    # The data begins with its own uncompressed size, which decoders trust
    # when they allocate.
    own_size = 0
    for index, byte in enumerate(data[:5]):
        own_size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            break
    if own_size != size:
        raise ValueError(f"snappy data of {own_size} bytes in a message of {size}")
    return bytes(module.decompress(data))


def _inflate_zlib(module: Any, data: bytes, size: int) -> bytes:
    decompressor = module.decompressobj()
    return _complete(decompressor, decompressor.decompress(data, size + 1), size)


def _inflate_zstd(module: Any, data: bytes, size: int) -> bytes:
    decompressor = module.ZstdDecompressor()
    if not hasattr(decompressor, "stream_reader"):
        return _complete(decompressor, decompressor.decompress(data, size + 1), size)
    # The package zstandard: of its interfaces only the stream never
    # allocates what the frame's header announces.
    with decompressor.stream_reader(data) as stream:
        result: bytes = stream.read(size + 1)
    return result


def _complete(decompressor: Any, result: bytes, size: int) -> bytes:
    if len(result) <= size and (not decompressor.eof or decompressor.unused_data):
        raise ValueError("the compressed data does not end where the message does")
    return result


_INFLATE: dict[str, Callable[[Any, bytes, int], bytes]] = {
    "snappy": _inflate_snappy,
    "zlib": _inflate_zlib,
    "zstd": _inflate_zstd,
}
