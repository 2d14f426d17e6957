"""The keyed function in torch, on any device: the same integers as `reference`.

torch has no 32-bit unsigned arithmetic on every device, so the words live in int32, whose additions and products
wrap modulo 2^32; shifts to the right are masked, and "below" compares with the sign bit flipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGN = -(2**31)


def window_states(windows: torch.Tensor, words: NDArray[np.uint32]) -> torch.Tensor:
    """As `reference.window_states`, on the windows' device. windows: (n, h). Returns (n, 4) int32."""
    count, width = windows.shape
    ids = windows.to(torch.int32)
    state = [torch.full((count,), _signed(word), dtype=torch.int32, device=ids.device) for word in words[:4]]
    for start in range(0, width, 4):
        if start:
            state = _rounds(state)
        for offset in range(min(4, width - start)):
            state[offset] = state[offset] ^ ids[:, start + offset]
    state = _rounds(state)
    state = [value ^ _signed(word) for value, word in zip(state, words[4:], strict=True)]
    state[3] = state[3] ^ width
    state = _rounds(state)
    return torch.stack([value ^ _signed(word) for value, word in zip(state, words[:4], strict=True)], dim=1)


def uniform_rows(states: torch.Tensor, width: int) -> torch.Tensor:
    """As `reference.uniform_rows`. states: (b, 4) int32. Returns (b, width) int32 bit patterns."""
    vocabulary = torch.arange(width, dtype=torch.int32, device=states.device)
    s0, s1, s2, s3 = (states[:, i : i + 1] for i in range(4))
    x = vocabulary + s0
    x ^= _right(x, 16)
    x *= _signed(0x7FEB352D)
    x ^= _right(x, 15)
    x += s1
    x *= s2 | 1
    x ^= _right(x, 16)
    x *= _signed(0x846CA68B)
    x += s3
    return x


def below(drawn: torch.Tensor, limit: int) -> torch.Tensor:
    """Whether each 32-bit pattern, read as unsigned, is under `limit` (0 < limit < 2^32)."""
    return (drawn ^ _SIGN) < (limit - 2**31)


def unsigned(drawn: torch.Tensor) -> torch.Tensor:
    """The 32-bit patterns as the whole numbers 0 ... 2^32 - 1, in int64."""
    return drawn.to(torch.int64) & 0xFFFFFFFF


def as_unsigned(drawn: torch.Tensor) -> NDArray[np.uint32]:
    """The bit patterns as numpy unsigned integers, for comparison with `reference`."""
    return drawn.cpu().numpy().view(np.uint32)


def _rounds(state: list[torch.Tensor]) -> list[torch.Tensor]:
    v0, v1, v2, v3 = state
    for _ in range(4):
        v0 = v0 + v1
        v1 = _rotate(v1, 5) ^ v0
        v0 = _rotate(v0, 16)
        v2 = v2 + v3
        v3 = _rotate(v3, 8) ^ v2
        v0 = v0 + v3
        v3 = _rotate(v3, 13) ^ v0
        v2 = v2 + v1
        v1 = _rotate(v1, 7) ^ v2
        v2 = _rotate(v2, 16)
    return [v0, v1, v2, v3]


def _rotate(value: torch.Tensor, by: int) -> torch.Tensor:
    return (value << by) | _right(value, 32 - by)


def _right(value: torch.Tensor, by: int) -> torch.Tensor:
    return (value >> by) & ((1 << (32 - by)) - 1)


def _signed(word: int | np.uint32) -> int:
    value = int(word)
    return value - 2**32 if value >= 2**31 else value
