"""
Tests for L{txmongokit._sansio.compression}.
"""

from __future__ import annotations

import sys
import zlib
from types import ModuleType
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.properties import reproducible
from txmongokit._sansio import compression
from txmongokit._sansio.compression import (
    Compressor,
    available_compressors,
    decompress,
    make_compressor,
    negotiate,
)
from txmongokit.errors import ConfigurationError, ProtocolError

LIMIT = 1_000_000
ZSTD_MODULES = ("compression.zstd", "backports.zstd", "zstandard")


class RoundTripTests(SynchronousTestCase):
    """Every compressor that is installed."""

    @reproducible(40)
    @given(st.binary(max_size=300), st.integers(1, 50))
    def test_round_trip(self, data: bytes, times: int) -> None:
        """What was compressed comes back."""
        for name in available_compressors():
            compressor = make_compressor(name)
            packed = compressor.compress(data * times)
            self.assertEqual(
                decompress(compressor.number, packed, len(data) * times, LIMIT), data * times
            )

    def test_noop(self) -> None:
        """Number 0 means that nothing was compressed."""
        self.assertEqual(decompress(0, b"abc", 3, 3), b"abc")
        self.assertRaises(ProtocolError, decompress, 0, b"abc", 2, 3)

    def test_numbers(self) -> None:
        """The numbers are those of the specification."""
        numbers = {name: make_compressor(name).number for name in available_compressors()}
        self.assertEqual(
            numbers.items() & {("snappy", 1), ("zlib", 2), ("zstd", 3)}, numbers.items()
        )
        self.assertIn("zlib", numbers)

    def test_zlib_level(self) -> None:
        """The level reaches zlib, and a wrong one is refused."""
        data = b"abc" * 1000
        self.assertEqual(make_compressor("zlib", 0).compress(data), zlib.compress(data, 0))
        self.assertEqual(make_compressor("zlib", 9).compress(data), zlib.compress(data, 9))
        self.assertRaises(ConfigurationError, make_compressor, "zlib", 10)


class HostileTests(SynchronousTestCase):
    """Compressed data is as little to be trusted as anything received."""

    def refused(self, why: str, number: int, data: bytes, size: int, limit: int = LIMIT) -> None:
        """Assert that data is refused for a reason."""
        self.assertIn(
            why, str(self.assertRaises(ProtocolError, decompress, number, data, size, limit))
        )

    def test_announced_size(self) -> None:
        """Too large a size is refused before anything is decompressed."""
        self.refused("1000001 bytes uncompressed, where 1000000", 2, b"not zlib", LIMIT + 1)
        self.refused("-1 bytes", 2, b"not zlib", -1)

    def test_unknown_compressor(self) -> None:
        """A number that stands for nothing is named."""
        for number in (4, 255):
            self.refused(f"unknown compressor {number}", number, b"", 0)

    def test_wrong_size(self) -> None:
        """More or fewer bytes than announced are refused."""
        for name in available_compressors():
            compressor = make_compressor(name)
            packed = compressor.compress(b"a" * 100)
            for size in (0, 99, 101):
                self.refused("", compressor.number, packed, size)

    def test_broken(self) -> None:
        """Noise, truncation and trailing bytes are refused."""
        for name in available_compressors():
            compressor = make_compressor(name)
            packed = compressor.compress(bytes(range(200)))
            for data in (b"", b"\xff" * 50, packed[:-3], packed[:5]):
                self.refused("", compressor.number, data, 200)
        self.refused("zlib data is broken", 2, zlib.compress(b"abc") + b"x", 3)

    def test_bombs(self) -> None:
        """No more than one byte beyond the announced size is ever made."""
        bomb = bytes(200 * LIMIT)
        for name in available_compressors():
            compressor = make_compressor(name)
            packed = compressor.compress(bomb)
            produced: list[int] = []
            inflate = compression._INFLATE[name]

            def counting(
                module: Any,
                data: bytes,
                size: int,
                inflate: Any = inflate,
                produced: list[int] = produced,
            ) -> bytes:
                result: bytes = inflate(module, data, size)
                produced.append(len(result))
                return result

            self.patch(compression, "_INFLATE", {**compression._INFLATE, name: counting})
            self.refused("", compressor.number, packed, 1000)
            self.assertLessEqual(sum(produced), 1001)

    @reproducible(40)
    @given(st.integers(0, 3), st.binary(max_size=60), st.integers(0, 100))
    def test_noise(self, number: int, data: bytes, size: int) -> None:
        """Any bytes give the announced size or a L{ProtocolError}."""
        try:
            result = decompress(number, data, size, 90)
        except ProtocolError:
            return
        self.assertEqual(len(result), size)


class NegotiationTests(SynchronousTestCase):
    """Which compressor is used."""

    def replace_modules(self, modules: dict[str, ModuleType | None]) -> None:
        """Until the test is over, have these imported (C{None}: missing)."""
        patcher = patch.dict(sys.modules, modules)
        patcher.start()
        self.addCleanup(patcher.stop)

    def name(self, wanted: list[str], offered: list[str]) -> str | None:
        """The name of what was negotiated."""
        found = negotiate(wanted, offered)
        return None if found is None else found.name

    def test_clients_order(self) -> None:
        """The client's order decides, and the server must have it."""
        self.assertEqual(self.name(["zlib"], ["snappy", "zlib"]), "zlib")
        self.assertIsNone(self.name(["zlib"], ["snappy"]))
        self.assertIsNone(self.name([], ["zlib"]))
        self.assertIsNone(self.name(["zlib"], []))
        if "zstd" in available_compressors():
            self.assertEqual(self.name(["zstd", "zlib"], ["zlib", "zstd"]), "zstd")

    def test_what_is_not_installed(self) -> None:
        """A missing package is passed over, or named where it was asked for."""
        self.replace_modules({"snappy": None})
        self.assertNotIn("snappy", available_compressors())
        self.assertEqual(self.name(["snappy", "zlib"], ["snappy", "zlib"]), "zlib")
        error = self.assertRaises(ConfigurationError, make_compressor, "snappy")
        self.assertIn("python-snappy", str(error))
        self.assertRaises(ProtocolError, decompress, 1, b"\0", 0, 1)

    def test_unknown_name(self) -> None:
        """A name that nobody knows is refused with those that are known."""
        error = self.assertRaises(ConfigurationError, make_compressor, "lzma")
        self.assertIn("snappy, zlib, zstd", str(error))
        self.assertIsNone(self.name(["lzma"], ["lzma"]))

    def test_any_zstd_package(self) -> None:
        """The standard library's interface and zstandard's both serve."""
        self.assertIn("zstd", available_compressors())
        for kept in ZSTD_MODULES:
            others = patch.dict(sys.modules, {name: None for name in ZSTD_MODULES if name != kept})
            with others:
                if "zstd" in available_compressors():
                    self.check_zstd(make_compressor("zstd"))

    def test_standard_library_interface(self) -> None:
        """A zstd module as Python 3.14's is limited while it decompresses."""
        stand_in = ModuleType("compression.zstd")
        stand_in.compress = zlib.compress  # type: ignore[attr-defined]
        stand_in.ZstdDecompressor = zlib.decompressobj  # type: ignore[attr-defined]
        self.replace_modules(
            {"compression": ModuleType("compression"), "compression.zstd": stand_in}
        )
        self.check_zstd(make_compressor("zstd"))

    def check_zstd(self, compressor: Compressor) -> None:
        """Assert that zstd works and is limited."""
        packed = compressor.compress(b"ab" * 5000)
        self.assertEqual(decompress(3, packed, 10_000, 10_000), b"ab" * 5000)
        self.assertRaises(ProtocolError, decompress, 3, packed, 9999, 10_000)
        self.assertRaises(ProtocolError, decompress, 3, packed[:-1], 10_000, 10_000)
