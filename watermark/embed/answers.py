"""Serving from a file of prompts: marked (or plain) answers, a ledger, and a run that can stop and go on.

The answers file is the truth of a run: a line is appended whole, and the ledger's record is made from it. A run
that was killed goes on with the prompts that have no answer yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import EmbeddingRefused, ExtraMissing, OutputsInvalid
from watermark.files import append_whole, canonical_json
from watermark.tokenizer import Tokenizer, first_line, model_path

if TYPE_CHECKING:
    from watermark.ledger import Ledger
    from watermark.mark import Watermark
    from watermark.prompts import Prompt


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. seed: of the sampler alone; the mark's randomness comes from its key."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Model:
    """A causal language model with its own tokenizer, ready to answer."""

    model: Any
    tokenizer: Any
    source: str

    @classmethod
    def load(cls, source: str | Path) -> Model:
        """From a model folder, a .gguf file, "demo", or a hub name. Raises OutputsInvalid."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        path = model_path(source)
        folder, options = str(path), {}
        if path.suffix == ".gguf":
            _require_gguf(path)
            folder, options = str(path.parent), {"gguf_file": path.name}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
        except Exception as error:  # hub, file and format errors share no base
            raise OutputsInvalid(
                f"no model could be loaded from {str(source)!r}: {first_line(error)}",
                hint="pass a model folder (config.json, *.safetensors, tokenizer.json)",
            ) from None
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(model, tokenizer, str(source))

    def answer(
        self, prompts: list[Prompt], sampling: Sampling, *, config: Any = None, seed: int = 0
    ) -> list[list[int]]:
        """Token ids of one answer for each prompt, the end token cut off. config: a watermarking config."""
        import torch

        texts = [self.templated(prompt) for prompt in prompts]
        self.tokenizer.padding_side = "left"
        given = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not self._has_template)
        given.pop("token_type_ids", None)
        options = {"watermarking_config": config} if config is not None else {}
        if sampling.temperature > 0:
            options |= {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        else:
            options |= {"do_sample": False}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            rows = self.model.generate(
                **given, max_new_tokens=sampling.max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, **options
            )
        return [self._cut(row) for row in rows[:, given["input_ids"].shape[1] :].tolist()]

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def templated(self, prompt: Prompt) -> str:
        """The prompt as the model sees it: through its chat template, where it has one."""
        if not self._has_template:
            return prompt.text
        shown: str = self.tokenizer.apply_chat_template(
            list(prompt.messages), tokenize=False, add_generation_prompt=True
        )
        return shown

    def _cut(self, row: list[int]) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        return row[:stop]


def _require_gguf(path: Path) -> None:
    for library in ("gguf", "accelerate"):
        if importlib.util.find_spec(library) is None:
            raise ExtraMissing(library, "gguf", f"reading {path.name}")


def write_answers(
    model: Model,
    prompts: list[Prompt],
    output: str | Path,
    *,
    mark: Watermark | None,
    ledger: Ledger | None = None,
    sampling: Sampling | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> int:
    """Answers every prompt that has no answer in `output` yet; returns how many were made in this call.

    mark: None serves without a mark. ledger: gets one record for each answer, those of an interrupted run too.
    Raises EmbeddingRefused if `output` holds answers under another mark, ProfileMismatch if the mark was made for
    another model.
    """
    from watermark.embed.transformers import Embedder

    sampling = sampling or Sampling()
    say = progress or (lambda word, count: None)
    embedder = None if mark is None else Embedder(mark)
    if mark is not None and embedder is not None:
        embedder.check_sampling(sampled=sampling.temperature > 0)
        mark.check_tokenizer(Tokenizer.wrap(model.tokenizer))
        mark.check_width(model.model.config.get_text_config().vocab_size)
    with _answer_file(Path(output), mark) as answers:
        for answer in answers.done.values():
            _record(ledger, answer)
        _same_prompts(Path(output), prompts, answers.done)
        waiting = [(n, prompt) for n, prompt in enumerate(prompts) if prompt.id not in answers.done]
        for start in range(0, len(waiting), sampling.batch):
            batch = waiting[start : start + sampling.batch]
            say("answers", len(prompts) - len(waiting) + start)
            config = embedder.config if embedder else None
            seed = batch_seed(sampling.seed, batch[0][0])
            ids = model.answer([p for _, p in batch], sampling, config=config, seed=seed)
            for (_, prompt), response in zip(batch, ids, strict=True):
                receipt = asdict(embedder.receipt(response)) if embedder else None
                answer = _answer(prompt, response, receipt, model)
                answers.append(answer)
                _record(ledger, answer)
        say("answers", len(prompts))
    return len(waiting)


def batch_seed(seed: int, first: int) -> int:
    """The generator's seed of the batch that begins with prompt `first`, different in its low 32 bits for each pair.

    A CPU's generator listens to 32 bits alone: seeds that differ further up would draw the same answers.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{first}".encode()).digest()[:4], "big")


def _same_prompts(path: Path, prompts: list[Prompt], done: dict[str, dict[str, Any]]) -> None:
    for prompt in prompts:
        if prompt.id in done and done[prompt.id]["prompt"] != prompt.text:
            raise OutputsInvalid(
                f"{path} holds an answer to another prompt under the id {prompt.id!r}; nothing was written",
                hint="choose another --output, or give the prompts ids of their own",
            )


def _answer(prompt: Prompt, response: list[int], receipt: dict[str, Any] | None, model: Model) -> dict[str, Any]:
    text = model.tokenizer.decode(response, skip_special_tokens=True)
    meta = {"token_ids": response, "receipt": receipt}
    return {"id": prompt.id, "prompt": prompt.text, "text": text, "meta": meta}


def _record(ledger: Ledger | None, answer: dict[str, Any]) -> None:
    receipt, ids = answer["meta"]["receipt"], answer["meta"]["token_ids"]
    if ledger is None or ledger.holds(answer["id"], prompt=answer["prompt"], token_ids=ids):
        return
    ledger.append(
        answer["id"],
        kid=receipt["kid"] if receipt else "",
        receipt=receipt or {"applied": False, "reason": "served without a mark"},
        prompt=answer["prompt"],
        token_ids=ids,
    )


@dataclass
class _AnswerFile:
    stream: io.FileIO
    done: dict[str, dict[str, Any]]

    def append(self, answer: dict[str, Any]) -> None:
        """One line, whole and flushed; if the disk is full the line is taken back."""
        append_whole(self.stream, canonical_json(answer) + b"\n")
        self.done[answer["id"]] = answer


@contextlib.contextmanager
def _answer_file(path: Path, mark: Watermark | None) -> Iterator[_AnswerFile]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputsInvalid(f"{path} cannot be written: {error.strerror}") from None
    with io.FileIO(descriptor, "r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputsInvalid(f"{path} is being written by another process") from None
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        done = {answer["id"]: answer for answer in _parsed(path, content[:whole].split(b"\n")[:-1], mark)}
        stream.truncate(whole)
        stream.seek(0, os.SEEK_END)
        yield _AnswerFile(stream, done)


def _parsed(path: Path, lines: list[bytes], mark: Watermark | None) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            answer = json.loads(line)
            receipt, _ = answer["meta"]["receipt"], answer["meta"]["token_ids"]
            answer["id"], answer["prompt"]
        except (ValueError, KeyError, TypeError):
            raise OutputsInvalid(
                f"{path}, line {number}: not an answer of `wmark generate`; nothing was written",
                hint="choose another --output",
            ) from None
        found, wanted = receipt["kid"] if receipt else None, mark.key.kid if mark else None
        if found != wanted:
            raise EmbeddingRefused(
                f"{path} holds answers under mark {found or 'none'}, this run has mark {wanted or 'none'}",
                hint="choose another --output",
            )
        yield answer
