"""The keyed function in whole numbers of Python, and the golden vectors made with it.

Written from the recipe in the docstring of watermark/prf/__init__.py and from nothing else, so that it can serve
as the oracle of the three twins. Makes the vectors again with

    python tests/vectors/make_vectors.py > tests/vectors/arx32-v1.json
"""

from __future__ import annotations

import json
import sys

WORD = 2**32
KEYS = (
    "00" * 32,
    "ff" * 32,
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
)
WINDOWS = (
    (0,),
    (WORD - 1,),
    (0, 0),
    (1, 2),
    (65536, 50256),
    (3, 1, 4, 1),
    (0, 0, 0, 0),
    (2, 7, 1, 8, 2),
    (0, 0, 0, 0, 0),
    (9, 8, 7, 6, 5, 4, 3, 2, 1),
    (128255, 65536, 0, 131072, WORD - 1, 1, 0, 65535, 200018),
)
TOKENS = (0, 1, 255, 65535, 65536, 128255, WORD - 1)


def rotated(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) % WORD


def chaskey_round(v: list[int]) -> list[int]:
    """Mouha et al. 2014, figure 1."""
    v0, v1, v2, v3 = v
    v0 = (v0 + v1) % WORD
    v2 = (v2 + v3) % WORD
    v1 = rotated(v1, 5) ^ v0
    v3 = rotated(v3, 8) ^ v2
    v0 = rotated(v0, 16)
    v2 = (v2 + v1) % WORD
    v0 = (v0 + v3) % WORD
    v1 = rotated(v1, 7) ^ v2
    v3 = rotated(v3, 13) ^ v0
    v2 = rotated(v2, 16)
    return [v0, v1, v2, v3]


def four_rounds(v: list[int]) -> list[int]:
    for _ in range(4):
        v = chaskey_round(v)
    return v


def xored(a: list[int], b: list[int]) -> list[int]:
    return [x ^ y for x, y in zip(a, b)]


def state(subkey: bytes, window: tuple[int, ...]) -> list[int]:
    """Steps 1 and 2."""
    k = [int.from_bytes(subkey[4 * i : 4 * i + 4], "little") for i in range(8)]
    padded = list(window) + [0] * (-len(window) % 4)
    blocks = [padded[i : i + 4] for i in range(0, len(padded), 4)]
    v = xored(blocks[0], k[:4])
    for block in blocks[1:]:
        v = xored(four_rounds(v), block)
    v = xored(four_rounds(v), k[4:])
    v[3] ^= len(window)
    return xored(four_rounds(v), k[:4])


def uniform(subkey: bytes, window: tuple[int, ...], token: int) -> int:
    """Step 3."""
    s0, s1, s2, s3 = state(subkey, window)
    x = (token + s0) % WORD
    x ^= x >> 16
    x = x * 0x7FEB352D % WORD
    x ^= x >> 15
    x = (x + s1) % WORD
    x = x * (s2 | 1) % WORD
    x ^= x >> 16
    x = x * 0x846CA68B % WORD
    return (x + s3) % WORD


def vectors() -> dict[str, object]:
    made = []
    for key in KEYS:
        subkey = bytes.fromhex(key)
        for window in WINDOWS:
            drawn = [f"{uniform(subkey, window, token):08x}" for token in TOKENS]
            words = [f"{word:08x}" for word in state(subkey, window)]
            made.append({"subkey": key, "window": list(window), "state": words, "uniforms": drawn})
    return {"recipe": "arx32-v1", "tokens": list(TOKENS), "vectors": made}


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1)
    sys.stdout.write("\n")
