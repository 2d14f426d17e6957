"""On a GPU: totals under many keys, the tilt of each scheme, and its share of a decode step. Needs CUDA and Triton.

    python benchmarks/gpu.py                  # all of it, some four minutes
    python benchmarks/gpu.py --only tilts     # totals, tilts, peers, steps, generate
    python benchmarks/gpu.py --json out.json  # every figure, with the device and versions

totals: seconds of `Watermark.totals` by the wall clock with all transfers, beside numba on all processors; both give
the same integers, or it stops. tilts: `mark.tilt` of float32 logits on the device: the device's own time (a CUDA graph
of one call, replayed) and the time of a call in a row of calls, beside softmax + multinomial, a copy of the logits, and
the same tilt in torch's operations (WMARK_CUDA=0). peers: transformers' processors on the device, beside ours of
their kind. steps: a decoder of Llama 3.2 1B's shape with random weights in
bfloat16, its forward pass one CUDA graph as in serving engines, then sampling: how much longer a step takes with the
mark, told by ids on the device or by lists on the host, for which the engine has to wait. generate: the same shape in
transformers' `generate`, through the embedder, as a user's would. Each figure is a median, with its range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from watermark.embed.rows import tilt_each
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.schemes import AntiDistill, GreenList, Gumbel, Scheme, Tournament, marks_once

VOCABULARY = 128_256
KEYS = list(decoy_keys(b"gpu", 256))
SCHEMES: tuple[Scheme, ...] = (GreenList(), Gumbel(), Tournament(), AntiDistill())
SPECIAL = tuple(range(VOCABULARY - 256, VOCABULARY))  # as many as Llama 3 has


def mark_of(scheme: Scheme, vocabulary: int = VOCABULARY) -> Watermark:
    special = tuple(each for each in SPECIAL if each < vocabulary)
    return Watermark(scheme, KEYS[0], Binding("benchmark", vocabulary, special))


@contextmanager
def without_kernels() -> Iterator[None]:
    os.environ["WMARK_CUDA"] = "0"
    try:
        yield
    finally:
        del os.environ["WMARK_CUDA"]


def timed(work: Callable[[], Any], repeats: int = 5) -> dict[str, float]:
    """Milliseconds by the wall clock, the device's work waited for."""
    work()
    torch.cuda.synchronize()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        spent.append(1_000 * (time.perf_counter() - started))
    return spread(spent)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def in_a_row(work: Callable[[], Any], count: int = 30) -> dict[str, float]:
    """Milliseconds of one of `count` calls that follow each other."""

    def many() -> None:
        for _ in range(count):
            work()

    return {name: value / count for name, value in timed(many).items()}


def by_itself(work: Callable[[], Any], count: int = 20) -> dict[str, float]:
    """Milliseconds of the device alone: the call is recorded once and replayed."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()
    found = in_a_row(graph.replay, count)
    del kept
    return found


def totals() -> list[dict[str, Any]]:
    found = []
    for name, keys, cells, scheme, statistics_ in (
        ("10,000 decoy keys, a million votes", 10_000, 1_000_000, GreenList(), 1),
        ("24,000 account keys, 100,000 votes", 24_000, 100_000, GreenList(), 1),
        ("100,000 account keys, a million votes", 100_000, 1_000_000, GreenList(), 1),
        ("the first with 5 weighted statistics", 10_000, 1_000_000, GreenList(), 5),
        ("the first with window 8", 10_000, 1_000_000, GreenList(window=8), 1),
        ("the first with Gumbel's scores", 10_000, 1_000_000, Gumbel(), 1),
        ("the first with a tournament's", 10_000, 1_000_000, Tournament(), 1),
    ):
        rng = np.random.default_rng(3)
        mark, listed = mark_of(scheme), list(islice(decoy_keys(b"many keys", keys), keys))
        windows = rng.integers(0, VOCABULARY, (cells, scheme.window)).astype(np.uint32)
        choices = rng.integers(0, VOCABULARY, cells).astype(np.uint32)
        weights = rng.integers(-50, 51, (statistics_, cells)).astype(np.int32)
        if statistics_ == 1:
            weights[:] = 1
        given = (windows, choices, weights, listed)
        row: dict[str, Any] = {"case": name, "keys": keys, "cells": cells}
        there = mark.totals(*given)
        row["gpu_ms"] = timed(partial(mark.totals, *given), repeats=3)
        if keys * cells <= 10**10:
            with without_kernels():
                mark.totals(windows[:1000], choices[:1000], weights[:, :1000], listed[:64])
                started = time.perf_counter()
                here = mark.totals(*given)
                row["processors_ms"] = 1_000 * (time.perf_counter() - started)
            if not np.array_equal(here, there):
                raise SystemExit(f"{name}: the GPU and the processors disagree")
        found.append(row)
        print(f"| {name} | {shown(row['gpu_ms'])} | {row.get('processors_ms', float('nan')):,.0f} |", flush=True)
    return found


def sampled(logits: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(torch.softmax(logits, dim=-1), 1)


def tilts() -> list[dict[str, Any]]:
    found = []
    rng = np.random.default_rng(1)
    for batch, vocabulary, kept in (
        *((each, VOCABULARY, 0) for each in (1, 16, 64, 256)),
        (64, 32_000, 0),
        (64, VOCABULARY, 50),
    ):
        logits = 3 * torch.randn((batch, vocabulary), generator=torch.Generator("cuda").manual_seed(1), device="cuda")
        if kept:
            best = logits.topk(kept)
            logits = torch.full_like(logits, -torch.inf).scatter(1, best.indices, best.values)
        others = {"sampling": in_a_row(partial(sampled, logits)), "copy": by_itself(logits.clone)}
        for scheme in SCHEMES:
            mark = mark_of(scheme, vocabulary)
            contexts = torch.from_numpy(rng.integers(0, 1_000, (batch, scheme.window))).to("cuda")

            tilt = partial(mark.tilt, logits, contexts)
            row: dict[str, Any] = {"scheme": scheme.name, "batch": batch, "vocabulary": vocabulary, "kept": kept}
            row |= {f"{name}_ms": value for name, value in others.items()}
            row["device_ms"], row["call_ms"] = by_itself(tilt), in_a_row(tilt)
            with without_kernels():
                row["torch_ms"] = in_a_row(tilt, 5)
            row["share"] = row["device_ms"]["median"] / row["sampling_ms"]["median"]
            row["torch_ratio"] = row["torch_ms"]["median"] / row["call_ms"]["median"]
            found.append(row)
            cells = (shown(row[name]) for name in ("copy_ms", "sampling_ms", "device_ms", "call_ms", "torch_ms"))
            shape = f"{batch} x {vocabulary:,}" + (f", {kept} left" if kept else "")
            print(f"| {shape} | {scheme.name} | {' | '.join(cells)} | {row['share']:.2f} |", flush=True)
    return found


def peers() -> list[dict[str, Any]]:
    """Processors of transformers, each beside ours of its kind, on the same ids and logits on the device."""
    from transformers.generation import logits_process

    from watermark.embed.transformers import Embedder

    found = []
    for batch in (1, 16, 64):
        logits = 3 * torch.randn((batch, VOCABULARY), device="cuda")
        ids = torch.randint(0, 1_000, (batch, 200), device="cuda")
        for scheme, theirs in (
            (
                GreenList(window=1),
                logits_process.WatermarkLogitsProcessor(VOCABULARY, "cuda", 0.25, 2.0, 15_485_863, "lefthash", 1),
            ),
            (
                Tournament(window=4),
                logits_process.SynthIDTextWatermarkLogitsProcessor(
                    5, list(range(1, 31)), 2**16, 0, 1024, torch.device("cuda")
                ),
            ),
        ):
            ours = Embedder(mark_of(scheme)).config.construct_processor(VOCABULARY, "cuda")
            row: dict[str, Any] = {"batch": batch, "scheme": scheme.name, "peer": type(theirs).__name__}
            row["ours_ms"] = in_a_row(partial(ours, ids, logits), 10)
            row["peer_ms"] = in_a_row(partial(theirs, ids, logits), 3)
            row["ratio"] = row["peer_ms"]["median"] / row["ours_ms"]["median"]
            found.append(row)
            cells = f"{shown(row['ours_ms'])} | {row['peer']} | {shown(row['peer_ms'])} | {row['ratio']:.0f}"
            print(f"| {batch} x {VOCABULARY:,} | {scheme.name} | {cells} |", flush=True)
    return found


def shown(figure: dict[str, float]) -> str:
    return f"{figure['median']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})"


class Decoder:
    """One decode step of Llama 3.2 1B's shape over `context` earlier tokens; random weights, rotation left out."""

    layers, width, heads, shared, size, inner = 16, 2048, 32, 8, 64, 8192

    def __init__(self, batch: int, context: int) -> None:
        make = torch.Generator("cuda").manual_seed(1)

        def drawn(*shape: int) -> torch.Tensor:
            scale = shape[-1] ** -0.5
            return (torch.randn(shape, generator=make, device="cuda") * scale).to(torch.bfloat16)

        queries, keys = self.heads * self.size, self.shared * self.size
        self.embedded = drawn(VOCABULARY, self.width)
        self.blocks = [
            (
                drawn(queries + 2 * keys, self.width),
                drawn(self.width, queries),
                drawn(2 * self.inner, self.width),
                drawn(self.width, self.inner),
            )
            for _ in range(self.layers)
        ]
        kept = (self.layers, 2, batch, self.shared, context, self.size)
        self.cache = torch.zeros(kept, dtype=torch.bfloat16, device="cuda").normal_(generator=make)
        self.parameters = sum(each.numel() for block in self.blocks for each in block) + self.embedded.numel()

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (b, V) in float32 after tokens (b,)."""
        functional, count = torch.nn.functional, len(tokens)
        hidden = self.embedded[tokens]
        for (projected, out, gated, down), (keys, values) in zip(self.blocks, self.cache, strict=True):
            given = functional.rms_norm(hidden, (self.width,)) @ projected.T
            queries, key, value = given.split(
                (self.heads * self.size, self.shared * self.size, self.shared * self.size), -1
            )
            keys[:, :, -1], values[:, :, -1] = (each.view(count, self.shared, self.size) for each in (key, value))
            read = functional.scaled_dot_product_attention(
                queries.view(count, self.heads, 1, self.size), keys, values, enable_gqa=True
            )
            hidden = hidden + read.reshape(count, -1) @ out.T
            gate, up = (functional.rms_norm(hidden, (self.width,)) @ gated.T).chunk(2, -1)
            hidden = hidden + (functional.silu(gate) * up) @ down.T
        return (functional.rms_norm(hidden, (self.width,)) @ self.embedded.T).float()


class Engine:
    """Decode steps of one batch: the forward pass is one CUDA graph, sampling and the mark come after it."""

    def __init__(self, batch: int, context: int, count: int) -> None:
        self.batch, self.context, self.count = batch, context, count
        self.decoder = Decoder(batch, context)
        self.tokens = torch.randint(0, 1000, (batch,), device="cuda")
        self.ids = torch.randint(0, 1000, (batch, context + count), device="cuda")
        with torch.inference_mode():
            self.decoder(self.tokens)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.logits = self.decoder(self.tokens)

    def run(self, told: str, marks: list[Watermark]) -> list[float]:
        """Milliseconds of a step, in three runs after one. told: "device", or "host" by an engine that reads each
        token. marks: none, one, or one for each row."""
        return [self._run(told, marks) for _ in range(4)][1:]

    @torch.inference_mode()
    def _run(self, told: str, marks: list[Watermark]) -> float:
        histories = self.ids[:, : self.context].tolist()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for step in range(self.context, self.context + self.count):
            self.graph.replay()
            now = self.logits
            if marks and told == "device":
                (mark,) = marks
                met = mark.met(self.ids[:, :step]) if marks_once(mark.scheme) else None
                now = mark.tilt(now, self.ids[:, step - mark.scheme.window : step], met=met)
            elif marks:
                now = tilt_each(marks * (self.batch // len(marks)), histories, now, [1.0] * self.batch)
            drawn = sampled(now)
            self.ids[:, step : step + 1] = drawn
            self.tokens.copy_(drawn[:, 0])
            if told == "host":
                for history, token in zip(histories, drawn[:, 0].tolist(), strict=True):
                    history.append(token)
        torch.cuda.synchronize()
        return 1_000 * (time.perf_counter() - started) / self.count


def steps(context: int = 1024, count: int = 100) -> list[dict[str, Any]]:
    found = []
    for batch in (1, 16, 64):
        engine = Engine(batch, context, count)
        for told in ("device", "host"):
            bare = engine.run(told, [])
            for scheme in SCHEMES:
                accounts = [mark_of(scheme).rekeyed(key) for key in KEYS[:batch]]
                for marks in (accounts[:1], accounts):
                    if len(marks) == 1 or told == "host":
                        row: dict[str, Any] = {"batch": batch, "told": told, "scheme": scheme.name, "marks": len(marks)}
                        row |= {"context": context, "parameters": engine.decoder.parameters}
                        found.append(
                            row
                            | beside(f"{batch} | {told} | {scheme.name}, {len(marks)}", bare, engine.run(told, marks))
                        )
                    if batch == 1:
                        break
        del engine
        torch.cuda.empty_cache()
    return found


def beside(said: str, bare: list[float], marked: list[float]) -> dict[str, dict[str, float]]:
    """A step with the mark and without: prints a line of the table, and returns its figures."""
    share = spread([after / statistics.median(bare) - 1 for after in marked])
    print(f"| {said} | {shown(spread(bare))} | {shown(spread(marked))} | {shown(share)} |", flush=True)
    return {"bare_ms": spread(bare), "marked_ms": spread(marked), "share": share}


def generate(count: int = 32) -> list[dict[str, Any]]:
    """Through the embedder, as a user's would be."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from watermark.embed.transformers import Embedder

    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True, max_position_embeddings=4096,
        bos_token_id=VOCABULARY - 256, eos_token_id=VOCABULARY - 255, pad_token_id=VOCABULARY - 254,
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(shape).to(torch.bfloat16).eval()
    found = []
    for batch in (1, 64):
        prompts = torch.randint(0, 1000, (batch, 128), device="cuda")
        given: dict[str, Any] = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": True, "top_k": 0}
        call = partial(_generated, prompts, given | {"attention_mask": torch.ones_like(prompts)})
        for scheme in SCHEMES:
            row: dict[str, Any] = {"batch": batch, "scheme": scheme.name}
            bare, marked = call(model.generate, Embedder(mark_of(scheme)).wrap(model.generate))
            found.append(row | beside(f"{batch} | generate | {scheme.name}", bare, marked))
    return found


def _generated(prompts: torch.Tensor, given: dict[str, Any], *serving: Callable[..., Any]) -> list[list[float]]:
    """Milliseconds of a token of the batch, each way by turns, in five rounds after one."""
    spent: list[list[float]] = [[] for _ in serving]
    for _ in range(6):
        for serve, times in zip(serving, spent, strict=True):
            torch.cuda.synchronize()
            started = time.perf_counter()
            serve(prompts, **given)
            torch.cuda.synchronize()
            times.append(1_000 * (time.perf_counter() - started) / given["max_new_tokens"])
    return [times[1:] for times in spent]


HEADS = {
    "totals": "| totals | GPU, ms | processors, ms |\n|---|---|---|",
    "tilts": "| rows x logits | scheme | copy, ms | softmax + multinomial | tilt, device | tilt, call "
    "| in torch's operations | share of sampling |\n|---|---|---|---|---|---|---|---|",
    "peers": "| rows x logits | ours | call, ms | transformers' | call, ms | ratio |\n|---|---|---|---|---|---|",
    "steps": "| rows | told | scheme, marks | step, ms | marked | more |\n|---|---|---|---|---|---|",
    "generate": "| rows | | scheme | step, ms | marked | more |\n|---|---|---|---|---|---|",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--json", type=Path, help="a file for every figure")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here")
    import triton

    card = torch.cuda.get_device_properties(0)
    said: dict[str, Any] = {
        "device": card.name, "multiprocessors": card.multi_processor_count, "torch": torch.__version__,
        "triton": triton.__version__, "python": platform.python_version(), "processors": os.cpu_count(),
    }  # fmt: skip
    print(json.dumps(said))
    for name in asked.only:
        print(f"\n{HEADS[name]}", flush=True)
        said[name] = {"totals": totals, "tilts": tilts, "peers": peers, "steps": steps, "generate": generate}[name]()
        if asked.json:
            asked.json.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
