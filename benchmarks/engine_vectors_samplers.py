"""Vectors of the code of engines that sample, for tests/conformance/test_samplers.py.

    pip download --no-deps vllm==0.33.0 sglang==0.5.23 textseal==0.0.5     # and unzip each wheel into PEERS
    git clone https://github.com/google-deepmind/synthid-text PEERS/synthid-text      # at addb4a1
    python benchmarks/engine_vectors_samplers.py PEERS tests/vectors/engines/samplers.npz

Only the peers' hashing modules are loaded, none of their engines. vLLM's HMAC file is in its repository alone: put it
at PEERS/vllm/v1/watermarking/prfs/hmac_sha256.py. Cells are drawn by `cells`, which the tests repeat; what is stored
are SHA-256 digests of the peers' values under fixed keys: uniforms, words, levels or packed bits.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

CELLS = 100_000
KEYS = (42, 2**32 + 5, 2**64 - 59)
DRAWN, DRAWS = 1200, ((4, 2048), (2, 2048), (1, 700))  # tokens of an answer; windows' widths and vocabularies


def cells(width: int, *, count: int = CELLS, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Windows (count, width) and tokens (count,) below 150,000."""
    rng = np.random.default_rng([seed, width])
    return rng.integers(0, 150_000, (count, width)), rng.integers(0, 150_000, count)


def layer_keys(depth: int, *, seed: int = 9) -> list[int]:
    """Keys of a tournament's layers, below 2^62."""
    return [int(key) for key in np.random.default_rng(seed).integers(0, 2**62, depth)]


def vllm_values(peers: Path) -> dict[str, np.ndarray]:
    """Uniforms, 32-bit floats: Philox for widths 1, 4, 5 under a key each, HMAC for width 4 under three keys."""
    import torch

    _stub("vllm.config.watermarking", WatermarkPRFName=str)
    philox = _loaded("vllm.v1.watermarking.prfs.philox", peers, "vllm.v1.watermarking.prfs")
    found = {}
    for width, key in zip((1, 4, 5), KEYS, strict=True):
        windows, tokens = (torch.from_numpy(ids) for ids in cells(width))
        found[f"vllm_philox_{width}"] = philox.PhiloxPRF(key).uniform(windows, tokens[:, None])[:, 0].numpy()
    hmac = _loaded("vllm.v1.watermarking.prfs.hmac_sha256", peers, "vllm.v1.watermarking.prfs")
    windows, tokens = (torch.from_numpy(ids) for ids in cells(4))
    for key in KEYS:
        prf = hmac.HMACSHA256PRF(key**4 % 2**256)
        found[f"vllm_hmac_{key}"] = prf.uniform(windows, tokens[:, None])[:, 0].numpy()
    return found


def sglang_values(peers: Path) -> dict[str, np.ndarray]:
    """Words of the detector's hash for widths 1, 4, 5 under three keys, and the coins of two keys."""
    _stub("msgspec", Struct=_Anything)
    detector = _loaded("sglang.srt.sampling.watermarking.detector", peers, "sglang.srt.sampling.watermarking")
    found = {}
    for width, key in zip((1, 4, 5), KEYS, strict=True):
        windows, tokens = (ids.tolist() for ids in cells(width))
        hashes = [detector.hash_context(window) for window in windows]
        words = [detector.watermark_hash(key, c, token) for c, token in zip(hashes, tokens, strict=True)]
        found[f"sglang_words_{width}"] = np.array(words, dtype=np.uint32)
        coins = [detector.position_coin(key, KEYS[0], c) for c in hashes]
        found[f"sglang_coins_{width}"] = np.array(coins, dtype=np.uint32)
    return found


def step_logits(step: int, size: int) -> np.ndarray:
    """Logits of one step in eighths, (1, size): exact as 32-bit floats, so that no library rounds them otherwise."""
    return (np.random.default_rng([11, size, step]).integers(-40, 40, (1, size)) / 8).astype(np.float32)


def vllm_draws(peers: Path, width: int, size: int) -> np.ndarray:
    """An answer by GumbelWatermarker.sample; its random sampler, for repeated windows, takes the largest logit."""
    import torch

    _stub("vllm.config.watermarking", WatermarkPRFName=str, WatermarkContextScope=str, derive_watermark_key=None)
    passed = _Passed()
    _stub("vllm.triton_utils", HAS_TRITON=False, tl=passed, triton=passed)
    _stub("vllm.v1.worker.gpu.sample.gumbel", gumbel_sample=None, gumbel_noised_argmax=None, spec_step_seed=None)
    package = "vllm.v1.watermarking.prfs"
    philox = _loaded(f"{package}.philox", peers, package)
    sys.modules[package].__dict__.update(
        PhiloxPRF=philox.PhiloxPRF, WatermarkPRF=philox.WatermarkPRF, create_prf=lambda name, key: philox.PhiloxPRF(key)
    )
    gumbel, mask = (
        _loaded(name, peers) for name in ("vllm.v1.watermarking.gumbel", "vllm.v1.worker.gpu.sample.watermark")
    )
    marker, ids, one = (
        gumbel.GumbelWatermarker(KEYS[1], width),
        torch.full((1, DRAWN), -1),
        torch.zeros(1, dtype=torch.int),
    )
    for step in range(DRAWN):
        context = torch.cat([torch.full((width,), -1), ids[0, :step]])[None, -width:]
        seen = mask.repeated_context_mask(ids, one, one, one + step, context, 8192)
        logits = torch.from_numpy(step_logits(step, size))
        ids[0, step] = marker.sample(logits, context, lambda rows: rows.argmax(dim=-1), seen).token_ids[0]
    return ids[0].numpy().astype(np.uint16)


def sglang_draws(peers: Path, width: int, size: int) -> np.ndarray:
    """An answer by WatermarkState.force after the prompt 1, 2, 3, 4, 5; unmarked places take the largest logit."""
    import torch

    _stub("msgspec", Struct=_Anything)
    _stub("sglang.kernels.ops.sampling.textseal_selector", watermark_selector_num_splits=lambda size: 1)
    core = _loaded("sglang.srt.sampling.watermarking.core", peers, "sglang.srt.sampling.watermarking")
    state = core.WatermarkState(
        max_num_reqs=1,
        context_window=width,
        max_contexts_per_req=4096,
        key=f"{KEYS[1]:x}",
        device="cpu",
        default_enabled=True,
    )
    row, prompt, ids = torch.zeros(1, dtype=torch.int), [1, 2, 3, 4, 5], []
    state.init_from_prompt(row, [prompt[-width:]])
    asked = types.SimpleNamespace(
        has_watermark_candidates=True, max_top_k=size, watermark_keys=None, watermark_context_windows=None,
        watermark_enabled=None, temperatures=torch.ones(1, 1), top_ks=torch.tensor([size]), top_ps=torch.ones(1),
        min_ps=torch.zeros(1),
    )  # fmt: skip
    for step in range(DRAWN):
        logits = torch.from_numpy(step_logits(step, size))
        state.force(logits, row, asked)
        ids.append(logits.argmax(dim=-1))
        state.append(row, ids[-1])
    return torch.cat(ids).numpy().astype(np.uint16)


def drawn_values(peers: Path) -> dict[str, np.ndarray]:
    """The tokens that both engines' own samplers pick; few tokens and a short window repeat windows."""
    return {
        f"{name}_draws_{width}_{size}": draw(peers, width, size)
        for name, draw in (("vllm", vllm_draws), ("sglang", sglang_draws))
        for width, size in DRAWS
    }


def textseal_values(peers: Path) -> dict[str, np.ndarray]:
    """Levels for widths 1, 2, 5 under three keys; green bits at gamma 0.25."""
    import torch

    prf = _loaded("textseal.common.watermark.pseudorandom", peers)
    found = {}
    for width, key in zip((1, 2, 5), (42, 2**31 + 9, 2**62 - 57), strict=True):
        windows, tokens = (torch.from_numpy(ids) for ids in cells(width))
        levels = prf._hash(prf._weighted_sum(windows), tokens, key, "cpu")
        found[f"textseal_levels_{width}"] = levels.numpy().astype(np.uint16)
        found[f"textseal_green_{width}"] = np.packbits(prf.prf_binary(windows, tokens, key, 0.25).numpy())
    return found


def synthid_values(peers: Path) -> dict[str, np.ndarray]:
    """g-values of 100,000 ngrams in 30 layers, synthid-text as its repository has it."""
    import torch

    sys.path.insert(0, str(peers / "synthid-text" / "src"))
    from synthid_text.logits_processing import SynthIDLogitsProcessor

    processor = SynthIDLogitsProcessor(
        ngram_len=5,
        keys=layer_keys(30),
        context_history_size=1024,
        temperature=1.0,
        top_k=40,
        device=torch.device("cpu"),
    )
    windows, tokens = cells(4)
    ngrams = torch.from_numpy(np.column_stack([windows, tokens]))[None]
    drawn = processor.get_gvals(processor.compute_ngram_keys(ngrams))[0]
    return {"synthid_text": np.packbits(drawn.numpy().astype(np.uint8))}


def samplers(peers: Path, target: Path) -> None:
    """Writes the vectors of engines that sample."""
    found: dict[str, np.ndarray] = {}
    for part in (vllm_values, sglang_values, drawn_values, textseal_values, synthid_values):
        found |= part(peers)
    np.savez_compressed(target, **{name: digested(values) for name, values in found.items()})


def digested(values: np.ndarray) -> np.ndarray:
    """Values of at most 256 bytes as they are; of more, their SHA-256, so that the file stays small."""
    import hashlib

    if values.nbytes <= 256:
        return values
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
    return np.frombuffer(digest, dtype=np.uint8)


class _Anything:
    def __init_subclass__(cls, **_: Any) -> None: ...


class _Passed:
    """Stands for Triton: a decorator that leaves functions as they are, and constants."""

    constexpr, math = int, None

    def jit(self, function: Any = None, **_: Any) -> Any:
        return function or (lambda decorated: decorated)


def _stub(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def _loaded(name: str, peers: Path, *packages: str) -> Any:
    """One module of a peer, without running the code of the packages around it."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        inner = ".".join(parts[:depth])
        if inner not in sys.modules:
            module = types.ModuleType(inner)
            module.__path__ = [str(peers.joinpath(*parts[:depth]))]
            sys.modules[inner] = module
    return importlib.import_module(name)


if __name__ == "__main__":
    samplers(Path(sys.argv[1]), Path(sys.argv[2]))
