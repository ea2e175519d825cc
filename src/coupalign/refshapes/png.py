"""PNG files whose bytes depend on nothing but the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_STORED_LIMIT = 65535


def encode_palette_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """An 8-bit palette PNG, uncompressed: what zlib compresses to differs between its versions.

    Args:
        indices: (H, W) uint8, rows of the palette.
        palette: (up to 256, 3) uint8, RGB.
    """
    height, width = indices.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # each row starts with its filter: none
    rows[:, 1:] = indices
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            _chunk(b"IDAT", _stored(rows.tobytes())),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, RFC 1951 3.2.4)."""
    blocks = [data[i : i + _STORED_LIMIT] for i in range(0, len(data), _STORED_LIMIT)]
    stream = [b"\x78\x01"]
    for i, block in enumerate(blocks):
        stream.append(struct.pack("<BHH", i == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block)
    return b"".join(stream) + struct.pack(">I", zlib.adler32(data))
