"""The key's part of a score mark: secret directions on the basis, and a secret number for each input.

Directions are standard normal matrices, so that a direction is uniform on the sphere; numbers for an input come from a
keyed hash of its coordinates. Both use hashes alone (SHAKE-256, BLAKE2b), no device's random generator.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.keys import Key

_DECIMALS = 4  # of a coordinate: inputs closer than that are one input


def direction(key: Key, label: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A matrix of independent standard normals (B, C), drawn from the key under a label.

    53-bit uniforms from SHAKE-256 of the label's subkey, through the normal quantile function.
    """
    stream = hashlib.shake_256(key.derive(label)).digest(8 * shape[0] * shape[1])
    return _normals(stream).reshape(shape)


def input_numbers(key: Key, label: str, coordinates: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Independent standard normals (n, channels), one row for each input, the same for the same input.

    coordinates: (n, m), the inputs' places in a basis; BLAKE2b of them under the label's subkey.
    """
    subkey, stream = key.derive(label), bytearray()
    for row in input_bytes(coordinates):
        found = hashlib.blake2b(row, key=subkey, digest_size=32)
        stream += found.digest()[: 8 * channels] if channels <= 4 else _long(subkey, row, channels)
    return _normals(bytes(stream)).reshape(len(coordinates), channels)


def input_bytes(coordinates: NDArray[np.float64]) -> list[bytes]:
    """What stands for each input: its coordinates to four decimals."""
    kept = np.round(coordinates, _DECIMALS) + 0.0
    scaled = np.rint(kept * 10**_DECIMALS).astype("<i4")
    return [row.tobytes() for row in scaled]


def distinct(coordinates: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the first row of each distinct input, in order."""
    first: dict[bytes, int] = {}
    for index, row in enumerate(input_bytes(coordinates)):
        first.setdefault(row, index)
    return np.array(sorted(first.values()), dtype=np.intp)


def _long(subkey: bytes, row: bytes, channels: int) -> bytes:
    return hashlib.shake_256(hashlib.blake2b(row, key=subkey, digest_size=64).digest()).digest(8 * channels)


def _normals(stream: bytes) -> NDArray[np.float64]:
    from scipy.special import ndtri

    whole = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    return np.asarray(ndtri((whole.astype(np.float64) + 0.5) / 2**53))
