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

    from watermark.prf.reference import Counting

_SIGN = -(2**31)
_LANES = 1 << 22  # keys times cells at once, some 16 MB for each word
_KEYS = 64


def window_states(windows: torch.Tensor, words: NDArray[np.uint32]) -> torch.Tensor:
    """As `reference.window_states`, on the windows' device. windows: (n, h). Returns (n, 4) int32."""
    ids = windows.to(torch.int32)
    of_key = [torch.full((1,), _signed(word), dtype=torch.int32, device=ids.device) for word in words]
    return torch.stack(_states(list(ids.T), of_key), dim=1)


def uniform_rows(states: torch.Tensor, width: int) -> torch.Tensor:
    """As `reference.uniform_rows`. states: (b, 4) int32. Returns (b, width) int32 bit patterns."""
    return uniforms(states, torch.arange(width, dtype=torch.int32, device=states.device))


def uniforms(states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Step 3 of tokens (b, k) or (k,) after states (b, 4) int32. Returns (b, k) int32 bit patterns."""
    s0, s1, s2, s3 = (states[:, i : i + 1] for i in range(4))
    return _token(tokens.to(torch.int32), s0, s1, s2, s3)


def totals(
    windows: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor, words: torch.Tensor, counting: Counting
) -> torch.Tensor:
    """As `reference.totals`, of int32 bit patterns on one device: (n, h), (n,), (S, n), (m, 8). Returns (m, S) int64.

    Some keys and cells at a time; `fused` does the same in one kernel.
    """
    tables = [torch.from_numpy(table).to(tokens.device) for table in (counting.high, counting.low)]
    sums = torch.zeros((len(words), len(weights)), dtype=torch.int64, device=tokens.device)
    for some in torch.arange(len(words)).split(_KEYS):
        state_words = [words[some, j, None] for j in range(8)]
        for part in torch.arange(len(tokens)).split(_LANES // _KEYS):
            states = _states([column[None] for column in windows[part].T], state_words)
            drawn = _token(tokens[part], *states)
            scores = _scores(drawn, counting, tables)
            for s, row in enumerate(weights):
                sums[some, s] += (scores * row[part].to(torch.int64)).sum(-1)
    return sums


def _scores(drawn: torch.Tensor, counting: Counting, tables: list[torch.Tensor]) -> torch.Tensor:
    if not len(counting.high):
        return below(drawn, counting.below).to(torch.int64)
    high, low = tables
    return high[unsigned(drawn) >> 16] + low[unsigned(drawn) & 0xFFFF]


def below(drawn: torch.Tensor, limit: int) -> torch.Tensor:
    """Whether each 32-bit pattern, read as unsigned, is under `limit` (0 < limit < 2^32)."""
    return (drawn ^ _SIGN) < (limit - 2**31)


def unsigned(drawn: torch.Tensor) -> torch.Tensor:
    """The 32-bit patterns as the whole numbers 0 ... 2^32 - 1, in int64."""
    return drawn.to(torch.int64) & 0xFFFFFFFF


def as_unsigned(drawn: torch.Tensor) -> NDArray[np.uint32]:
    """The bit patterns as numpy unsigned integers, for comparison with `reference`."""
    return drawn.cpu().numpy().view(np.uint32)


def _token(
    tokens: torch.Tensor, s0: torch.Tensor, s1: torch.Tensor, s2: torch.Tensor, s3: torch.Tensor
) -> torch.Tensor:
    x = tokens + s0
    x ^= _right(x, 16)
    x *= _signed(0x7FEB352D)
    x ^= _right(x, 15)
    x += s1
    x *= s2 | 1
    x ^= _right(x, 16)
    x *= _signed(0x846CA68B)
    x += s3
    return x


def _states(columns: list[torch.Tensor], words: list[torch.Tensor]) -> list[torch.Tensor]:
    """Steps 1 and 2: h columns of ids and 8 words of keys, of shapes that fit, int32. Returns the four words."""
    state = words[:4]
    for start in range(0, len(columns), 4):
        if start:
            state = _rounds(state)
        block = columns[start : start + 4]
        state = [value ^ column for value, column in zip(state, block)] + state[len(block) :]
    state = _rounds(list(torch.broadcast_tensors(*state)))
    state = [value ^ word for value, word in zip(state, words[4:], strict=True)]
    state[3] = state[3] ^ len(columns)
    state = _rounds(state)
    return [value ^ word for value, word in zip(state, words[:4], strict=True)]


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
